// # Tables that point at each other
//
// An operating system finds one structure of {{RSDP_BYTES}} bytes by its signature, or is told where it is, and follows pointers from there. Every
// table carries its length and a byte that makes its sum zero.
//
// Pointers are absolute addresses, so a set of tables can only be finished by whoever decides where it goes. That is the monitor when there is no
// firmware, and the firmware when there is. So the tables are built *unplaced*: pointers hold offsets within the set, and beside the bytes there is a list
// of where those pointers are and which ranges have a checksum. Placing them is one loop; a script for the firmware to do the same is another.

import { type Aml, littleEndian } from './aml.ts';

/** A pointer in one file to a place in a file. */
interface Pointer {
  readonly file: string;
  readonly offset: number;
  readonly bytes: 4 | 8;
  readonly target: string;
}

/** The byte at `offset` makes the sum of `start` to `start + length` zero. */
interface Checksum {
  readonly file: string;
  readonly offset: number;
  readonly start: number;
  readonly length: number;
}

const TABLES_FILE = 'etc/acpi/tables';
const RSDP_FILE = 'etc/acpi/rsdp';
export const RSDP_BYTES = 36;
const HEADER_BYTES = 36;
/** FACS must be so; the others follow. */
export const TABLES_ALIGNMENT = 64;
const OEM_ID = 'RNGBOK';
const OEM_TABLE_ID = 'RINGBOOK';
const CREATOR_ID = 'RNGB';
const CHECKSUM_AT = 9;

const ascii = (value: string): number[] => [...value].map((char) => char.charCodeAt(0));

/** Tables without a place. */
export class TableSet {
  readonly #bytes: number[] = [];
  readonly pointers: Pointer[] = [];
  readonly checksums: Checksum[] = [];

  get tables(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }

  /** Appends bytes that have no header (FACS). Returns their offset. */
  raw(bytes: Aml, alignment = 8): number {
    while (this.#bytes.length % alignment !== 0) this.#bytes.push(0);
    const at = this.#bytes.length;
    for (const byte of bytes) this.#bytes.push(byte);
    return at;
  }

  /**
   * Appends a table. `pointers` are those within `body`: where, how wide, to which offset of the set.
   * Returns the table's offset.
   */
  // @clause acpi.tables
  table(signature: string, revision: number, body: Aml, pointers: readonly { at: number; bytes: 4 | 8; target: number }[] = []): number {
    const header = [
      ...ascii(signature),
      ...littleEndian(HEADER_BYTES + body.length, 4),
      revision,
      0, // the checksum
      ...ascii(OEM_ID),
      ...ascii(OEM_TABLE_ID),
      ...littleEndian(1, 4),
      ...ascii(CREATOR_ID),
      ...littleEndian(1, 4),
    ];
    const at = this.raw([...header, ...body]);
    for (const pointer of pointers) {
      const offset = at + HEADER_BYTES + pointer.at;
      littleEndian(pointer.target, pointer.bytes).forEach((byte, index) => {
        this.#bytes[offset + index] = byte;
      });
      this.pointers.push({ file: TABLES_FILE, offset, bytes: pointer.bytes, target: TABLES_FILE });
    }
    this.checksums.push({ file: TABLES_FILE, offset: at + CHECKSUM_AT, start: at, length: HEADER_BYTES + body.length });
    return at;
  }

  /** The structure where the search ends. Its first 20 bytes have a sum of their own, from the time when there were no more. */
  // @clause acpi.root
  rsdp(rsdt: number, xsdt: number): Uint8Array {
    this.pointers.push(
      { file: RSDP_FILE, offset: 16, bytes: 4, target: TABLES_FILE },
      { file: RSDP_FILE, offset: 24, bytes: 8, target: TABLES_FILE },
    );
    this.checksums.push({ file: RSDP_FILE, offset: 8, start: 0, length: 20 }, { file: RSDP_FILE, offset: 32, start: 0, length: RSDP_BYTES });
    return Uint8Array.from([
      ...ascii('RSD PTR '),
      0,
      ...ascii(OEM_ID),
      2, // the revision that has the fields from here on
      ...littleEndian(rsdt, 4),
      ...littleEndian(RSDP_BYTES, 4),
      ...littleEndian(xsdt, 8),
      0,
      0,
      0,
      0,
    ]);
  }
}

/** A finished set: bytes, and what depends on the place. */
export interface UnplacedTables {
  readonly rsdp: Uint8Array;
  readonly tables: Uint8Array;
  readonly pointers: readonly Pointer[];
  readonly checksums: readonly Checksum[];
}

// ## Placing them
//
// Without firmware the monitor does it. Everything stays below 4 GiB, since the older list of tables has pointers of four bytes.

interface Placement {
  readonly rsdpGpa: number;
  readonly tablesGpa: number;
}

/** The bytes as they stand in memory, for given addresses. */
export function placeTables(unplaced: UnplacedTables, { rsdpGpa, tablesGpa }: Placement): { gpa: number; bytes: Uint8Array }[] {
  if (tablesGpa % TABLES_ALIGNMENT !== 0 || rsdpGpa % 16 !== 0)
    throw new RangeError('ACPI tables need a multiple of 64, their root a multiple of 16');
  const bytes = new Map([
    [RSDP_FILE, unplaced.rsdp.slice()],
    [TABLES_FILE, unplaced.tables.slice()],
  ]);
  const base = new Map([
    [RSDP_FILE, rsdpGpa],
    [TABLES_FILE, tablesGpa],
  ]);
  for (const { file, offset, bytes: width, target } of unplaced.pointers) {
    const into = bytes.get(file) as Uint8Array;
    let value = base.get(target) as number;
    for (let index = width - 1, scale = 2 ** (8 * (width - 1)); index >= 0; index--, scale /= 256) value += (into[offset + index] as number) * scale;
    into.set(littleEndian(value, width), offset);
  }
  for (const { file, offset, start, length } of unplaced.checksums) {
    const into = bytes.get(file) as Uint8Array;
    into[offset] = (into[offset] as number) - into.subarray(start, start + length).reduce((sum, byte) => sum + byte, 0);
  }
  return [
    { gpa: rsdpGpa, bytes: bytes.get(RSDP_FILE) as Uint8Array },
    { gpa: tablesGpa, bytes: bytes.get(TABLES_FILE) as Uint8Array },
  ];
}

// ## Having them placed
//
// Firmware finds room by itself, so it gets the bytes as files and a list of commands: allocate this file, add the address of that file at such an offset,
// make such a sum zero. An entry has {{LOADER_ENTRY_BYTES}} bytes, most of them empty.

const LOADER_FILE = 'etc/table-loader';
export const LOADER_ENTRY_BYTES = 128;
const LOADER_NAME_BYTES = 56;
const LOADER = { ALLOCATE: 1, ADD_POINTER: 2, ADD_CHECKSUM: 3 } as const;
const ZONE = { HIGH: 1, FSEG: 2 } as const;

/** The files of fw_cfg that let firmware install the tables. */
export function loaderFiles(unplaced: UnplacedTables): { name: string; bytes: Uint8Array }[] {
  const fileName = (value: string) => [...ascii(value), ...Array<number>(LOADER_NAME_BYTES - value.length).fill(0)];
  const u32 = (value: number) => littleEndian(value, 4);
  const entries: Aml[] = [
    [...u32(LOADER.ALLOCATE), ...fileName(RSDP_FILE), ...u32(16), ZONE.FSEG], // where an operating system looks for it
    [...u32(LOADER.ALLOCATE), ...fileName(TABLES_FILE), ...u32(TABLES_ALIGNMENT), ZONE.HIGH],
    ...unplaced.pointers.map(({ file, offset, bytes, target }) => [
      ...u32(LOADER.ADD_POINTER),
      ...fileName(file),
      ...fileName(target),
      ...u32(offset),
      bytes,
    ]),
    // Sums come last: a pointer changes them.
    ...unplaced.checksums.map(({ file, offset, start, length }) => [
      ...u32(LOADER.ADD_CHECKSUM),
      ...fileName(file),
      ...u32(offset),
      ...u32(start),
      ...u32(length),
    ]),
  ];
  const script = new Uint8Array(entries.length * LOADER_ENTRY_BYTES);
  entries.forEach((entry, index) => {
    script.set(entry, index * LOADER_ENTRY_BYTES);
  });
  return [
    { name: RSDP_FILE, bytes: unplaced.rsdp },
    { name: TABLES_FILE, bytes: unplaced.tables },
    { name: LOADER_FILE, bytes: script },
  ];
}
