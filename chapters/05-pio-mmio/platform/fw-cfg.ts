// # What the host wants the firmware to know
//
// Firmware on a real board knows the board: it was compiled for it. Firmware of a virtual machine must ask. QEMU's answer is a device with no
// counterpart in hardware: a box of numbered byte strings. Write a number to the selector, read the bytes one by one; or, since reading a kernel that way
// costs an exit for each byte, leave a description of the transfer in memory and write its address. Some strings are *files*, with a name in a
// directory; how many processors there are, which ACPI tables to install, what to boot first, all come this way.
//
// SeaBIOS and OVMF speak it, so every monitor that wants to run them does as well.

import type { Trace } from '../../01-hardware-background/trace.ts';
import type { Registers, Width } from '../../03-vcpu-loop/devices/bus.ts';
import { describe, field, kind, StateError } from '../../03-vcpu-loop/devices/state.ts';
import { registerTable } from '../registers.ts';
import type { DmaTarget } from '../wires.ts';

export const FW_CFG_PORT = 0x510;
export const FW_CFG_PORTS = 12;

/** Numbers with a fixed meaning. Names are QEMU's. */
// biome-ignore format: table
export const FW_CFG = {
  SIGNATURE: 0x00, ID: 0x01, UUID: 0x02, RAM_SIZE: 0x03, NOGRAPHIC: 0x04, NB_CPUS: 0x05, MACHINE_ID: 0x06,
  KERNEL_ADDR: 0x07, KERNEL_SIZE: 0x08, KERNEL_CMDLINE: 0x09, INITRD_ADDR: 0x0a, INITRD_SIZE: 0x0b, BOOT_DEVICE: 0x0c,
  NUMA: 0x0d, BOOT_MENU: 0x0e, MAX_CPUS: 0x0f, KERNEL_ENTRY: 0x10, KERNEL_DATA: 0x11, INITRD_DATA: 0x12,
  CMDLINE_ADDR: 0x13, CMDLINE_SIZE: 0x14, CMDLINE_DATA: 0x15, SETUP_ADDR: 0x16, SETUP_SIZE: 0x17, SETUP_DATA: 0x18,
  FILE_DIR: 0x19, FILE_FIRST: 0x20, IRQ0_OVERRIDE: 0x8002, E820_TABLE: 0x8003,
} as const;

// ::layout fwCfgTable -- The whole device. Selector and data overlap.

export const fwCfgTable = registerTable('fw_cfg', 'QEMU, QEMU Firmware Configuration (fw_cfg) Device', {
  selector: { offset: 0, bytes: 2, access: 'wo', text: 'which item; starts it at its first byte' },
  data: { offset: 1, bytes: 1, access: 'ro', text: 'the next byte of the item; zero after the last' },
  dmaHigh: { offset: 4, bytes: 4, access: 'rw', text: 'DMA address, upper half, big-endian' },
  dmaLow: { offset: 8, bytes: 4, access: 'rw', text: 'DMA address, lower half, big-endian; writing it starts the transfer' },
});

/** What the DMA address register reads as: "QEMU CFG". */
const DMA_SIGNATURE = [0x51, 0x45, 0x4d, 0x55, 0x20, 0x43, 0x46, 0x47] as const;
const ID_TRADITIONAL = 1;
const ID_DMA = 2;
const WRITE_MODE = 0x4000; // in a selector: once meant that writes are wanted, now without effect
const CONTROL = { ERROR: 1, READ: 2, SKIP: 4, SELECT: 8, WRITE: 16 } as const;
const DMA_DESCRIPTOR_BYTES = 16;

const FW_CFG_NAME_BYTES = 56;
const FILE_LIMIT = 256;
const DIRECTORY_ENTRY_BYTES = 64;
/** A transfer that asks for more than the item has gets zeros, up to this many. Without a bound one write would fill all of memory. */
const PADDING_LIMIT_BYTES = 1 << 20;

interface Item {
  readonly bytes: Uint8Array;
  readonly writable: boolean;
  readonly written: (() => void) | null;
}

interface FileOptions {
  /** Whether the guest may overwrite it, by DMA. */
  readonly writable?: boolean;
  /** Called after each write by the guest. */
  readonly written?: (() => void) | null;
}

interface WrittenFile {
  readonly name: string;
  readonly bytes: Uint8Array;
}
/** The most that a file can have that a guest may write. */
const WRITABLE_LIMIT_BYTES = 1 << 24;

export class FwCfg implements Registers {
  readonly name = 'fw_cfg';
  readonly #memory: DmaTarget | null;
  readonly #trace: Trace | null;
  readonly #items = new Map<number, Item>();
  readonly #files = new Map<string, number>(); // name -> selector
  #selected: number = FW_CFG.SIGNATURE;
  #offset = 0;
  #dmaHigh = 0;

  /** Without memory to reach there is no DMA, and the identification says so. */
  constructor({ memory = null, trace = null }: { memory?: DmaTarget | null; trace?: Trace | null } = {}) {
    this.#memory = memory;
    this.#trace = trace;
    this.add(FW_CFG.SIGNATURE, ascii('QEMU'));
    this.addU32(FW_CFG.ID, ID_TRADITIONAL | (memory ? ID_DMA : 0));
    this.#writeDirectory();
  }

  // ## What the host puts in

  /**
   * Adds or replaces the item `selector`. The bytes stay the caller's: the guest sees later changes.
   * @throws RangeError for a number in the range of files, or outside the register
   */
  add(selector: number, bytes: Uint8Array): void {
    const generic = selector & ~0x8000;
    if (!(selector >= 0 && selector <= 0xbfff && (selector & WRITE_MODE) === 0 && (generic < FW_CFG.FILE_FIRST || selector >= 0x8000)))
      throw new RangeError(`fw_cfg has no plain item 0x${selector.toString(16)}`);
    this.#items.set(selector, { bytes, writable: false, written: null });
  }

  addU16(selector: number, value: number): void {
    this.add(selector, littleEndian(value, 2));
  }

  addU32(selector: number, value: number): void {
    this.add(selector, littleEndian(value, 4));
  }

  addU64(selector: number, value: number): void {
    this.add(selector, littleEndian(value, 8));
  }

  /**
   * Adds a file, or replaces the one of that name.
   * @throws RangeError for a name that is empty, not printable ASCII or too long, or when the directory is full
   */
  addFile(name: string, bytes: Uint8Array, { writable = false, written = null }: FileOptions = {}): void {
    if (!/^[\x20-\x7e]+$/.test(name) || name.length >= FW_CFG_NAME_BYTES) throw new RangeError(`no name for a fw_cfg file: ${JSON.stringify(name)}`);
    let selector = this.#files.get(name);
    if (selector === undefined) {
      if (this.#files.size >= FILE_LIMIT) throw new RangeError(`fw_cfg holds at most ${FILE_LIMIT} files`);
      selector = FW_CFG.FILE_FIRST + this.#files.size;
      this.#files.set(name, selector);
    }
    this.#items.set(selector, { bytes, writable, written });
    this.#writeDirectory();
  }

  /** The bytes of a file; null when there is none. */
  file(name: string): Uint8Array | null {
    const selector = this.#files.get(name);
    return selector === undefined ? null : (this.#items.get(selector)?.bytes ?? null);
  }

  get fileNames(): string[] {
    return [...this.#files.keys()];
  }

  // @clause fwcfg.directory
  #writeDirectory(): void {
    const directory = new Uint8Array(4 + this.#files.size * DIRECTORY_ENTRY_BYTES);
    const view = new DataView(directory.buffer);
    view.setUint32(0, this.#files.size);
    let at = 4;
    // Firmware looks names up by walking; sorted, the directory does not depend on the order in which devices were made.
    for (const [name, selector] of [...this.#files].sort(([a], [b]) => (a < b ? -1 : 1))) {
      view.setUint32(at, this.#items.get(selector)?.bytes.length ?? 0);
      view.setUint16(at + 4, selector);
      directory.set(ascii(name), at + 8);
      at += DIRECTORY_ENTRY_BYTES;
    }
    this.#items.set(FW_CFG.FILE_DIR, { bytes: directory, writable: false, written: null });
  }

  // ## What the guest takes out
  //
  // Selector and data overlap: the data port is the selector's upper byte. A write of two bytes selects; a read of one byte, at either, is data.

  read(offset: number, width: Width): bigint {
    if (offset < 2 && width > 1) return 0n; // data comes in single bytes
    let value = 0n;
    for (let index = 0; index < width; index++) value |= BigInt(this.#readByte(offset + index)) << BigInt(8 * index);
    return value;
  }

  #readByte(offset: number): number {
    if (offset < 2) return this.#next();
    if (offset >= 4 && this.#memory) return DMA_SIGNATURE[offset - 4] ?? 0xff;
    return 0xff;
  }

  // @clause fwcfg.data
  #next(): number {
    const item = this.#items.get(this.#selected);
    return item && this.#offset < item.bytes.length ? (item.bytes[this.#offset++] as number) : 0;
  }

  write(offset: number, width: Width, value: bigint): void {
    if (offset === 0 && width === 2) this.#select(Number(value & 0xffffn));
    if (!this.#memory) return;
    if (offset === 4 && width === 8) this.#transfer(swap32(value & 0xffff_ffffn) * 2 ** 32 + swap32(value >> 32n), this.#memory);
    else if (offset === 4 && width === 4) this.#dmaHigh = swap32(value);
    else if (offset === 8 && width === 4) this.#transfer(this.#dmaHigh * 2 ** 32 + swap32(value), this.#memory);
  }

  #select(selector: number): void {
    this.#selected = selector & ~WRITE_MODE;
    this.#offset = 0;
    this.#trace?.emit({ kind: 'device', device: this.name, what: 'select', value: this.#selected });
  }

  // ## The transfer
  //
  // Everything here is the guest's word: the address of the description, what it says, and where the data shall go. The
  // answer is one number, stored over the control word when all is done: zero, or the error bit. A driver may poll for that, so it must be
  // stored last.

  #transfer(descriptor: number, memory: DmaTarget): void {
    this.#dmaHigh = 0;
    const bytes = new Uint8Array(DMA_DESCRIPTOR_BYTES);
    // @clause fwcfg.dma.status-last
    const ok = descriptor <= Number.MAX_SAFE_INTEGER && memory.read(descriptor, bytes) && this.#obey(new DataView(bytes.buffer), memory);
    const status = new Uint8Array([0, 0, 0, ok ? 0 : CONTROL.ERROR]);
    if (descriptor <= Number.MAX_SAFE_INTEGER) memory.write(descriptor, status);
  }

  #obey(request: DataView, memory: DmaTarget): boolean {
    const control = request.getUint32(0);
    const length = request.getUint32(4);
    const gpa = request.getUint32(8) * 2 ** 32 + request.getUint32(12);
    if (control & CONTROL.SELECT) this.#select(control >>> 16);
    const item = this.#items.get(this.#selected);
    const left = Math.max(0, (item?.bytes.length ?? 0) - this.#offset);
    const present = Math.min(length, left);
    if (control & CONTROL.READ) {
      const padding = length - present;
      if (gpa + length > Number.MAX_SAFE_INTEGER || padding > PADDING_LIMIT_BYTES) return false;
      if (item && present > 0 && !memory.write(gpa, item.bytes.subarray(this.#offset, this.#offset + present))) return false;
      this.#offset += present;
      return padding === 0 || memory.write(gpa + present, new Uint8Array(padding));
    }
    if (control & CONTROL.WRITE) {
      // An item is never resized, so a write that would pass its end is dropped whole.
      if (length === 0) return true;
      if (!item?.writable || length > left || gpa + length > Number.MAX_SAFE_INTEGER) return false;
      const taken = new Uint8Array(length);
      if (!memory.read(gpa, taken)) return false;
      item.bytes.set(taken, this.#offset);
      this.#offset += length;
      item.written?.();
      return true;
    }
    if (control & CONTROL.SKIP) this.#offset += present;
    return true;
  }

  /** As after power-on; the items stay. */
  reset(): void {
    this.#selected = FW_CFG.SIGNATURE;
    this.#offset = 0;
    this.#dmaHigh = 0;
  }

  // ## State
  //
  // Items that only the host writes are made again by whoever restores the machine; what the guest may have written is kept.

  static readonly STATE = describe<FwCfg>('fw_cfg', 1, {
    position: field(
      kind.record({ selected: kind.u16, offset: kind.upTo(Number.MAX_SAFE_INTEGER), dmaHigh: kind.u32 }),
      (f) => ({ selected: f.#selected, offset: f.#offset, dmaHigh: f.#dmaHigh }),
      (f, v) => {
        ({ selected: f.#selected, offset: f.#offset, dmaHigh: f.#dmaHigh } = v);
      },
    ),
    written: field(
      kind.list(kind.record<WrittenFile>({ name: kind.text(FW_CFG_NAME_BYTES), bytes: kind.bytes(WRITABLE_LIMIT_BYTES) }), FILE_LIMIT),
      (f) =>
        f.fileNames.flatMap((name) => {
          const item = f.#items.get(f.#files.get(name) as number);
          return item?.writable ? [{ name, bytes: item.bytes }] : [];
        }),
      (f, files) => {
        for (const { name, bytes } of files) {
          const item = f.#items.get(f.#files.get(name) ?? -1);
          if (!item?.writable || item.bytes.length !== bytes.length)
            throw new StateError(`no file ${name} of ${bytes.length} bytes can be written here`);
          item.bytes.set(bytes);
        }
      },
    ),
  });
}

// ## The map of memory
//
// The first thing firmware needs is where memory is. CMOS bytes tell the old way; the file `etc/e820` gives the whole map in the form in which the
// firmware will hand it on.

export const E820 = { RAM: 1, RESERVED: 2, ACPI: 3, NVS: 4 } as const;

interface E820Entry {
  readonly gpa: number;
  readonly bytes: number;
  readonly type: number;
}

/** The contents of `etc/e820`: entries of 20 bytes. */
export function e820File(entries: readonly E820Entry[]): Uint8Array {
  const file = new Uint8Array(entries.length * 20);
  const view = new DataView(file.buffer);
  entries.forEach(({ gpa, bytes, type }, index) => {
    view.setBigUint64(index * 20, BigInt(gpa), true);
    view.setBigUint64(index * 20 + 8, BigInt(bytes), true);
    view.setUint32(index * 20 + 16, type, true);
  });
  return file;
}

function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (char) => char.charCodeAt(0) & 0xff);
}

function littleEndian(value: number, bytes: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, index) => Number((BigInt(value) >> BigInt(8 * index)) & 0xffn));
}

function swap32(value: bigint): number {
  const v = Number(value & 0xffff_ffffn);
  return (((v & 0xff) << 24) | ((v & 0xff00) << 8) | ((v >>> 8) & 0xff00) | (v >>> 24)) >>> 0;
}
