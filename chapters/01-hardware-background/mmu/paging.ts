// # Page-table formats
//
// x86 has changed its page tables four times in thirty years and never removed a format. They differ less than the manuals suggest: a root, some
// levels, an index of 9 or 10 bits for each, an entry of 4 or 8 bytes. So the formats are rows of a table here, and the walk is one loop.
//
// - **32-bit**: two levels of 1,024 entries; with CR4.PSE, 4 MiB pages. A later patch (PSE-36) hid four and then eight more
//   address bits in the 4 MiB entry, so that a 32-bit system could use memory above 4 GiB without new tables. Few did.
// - **PAE**: 8-byte entries, hence 512 to a table, hence a third level of just four. Those four are loaded into registers by MOV to CR3 and never
//   looked at again until the next such move, the one place where the architecture keeps a page-table entry as *state*.
// - **4-level**: the same 8-byte entry four times. 2 MiB and 1 GiB pages.
// - **5-level**: and once more, for machines with more memory than {{LINEAR_ADDRESS_BITS}} bits of linear address could map twice over.
//
// The low bits have kept their meaning throughout.
//
// ::layout ENTRY -- The low word of an entry, common to all formats. Above bit 11 is the address of the next table, or of the page.

import { bit, bitfield } from '../layout.ts';

/** MAXPHYADDR: the number of physical-address bits, as CPUID leaf 0x80000008 reports it. */
export const PHYSICAL_ADDRESS_BITS = 40;
/** Linear-address bits of 4-level paging. */
export const LINEAR_ADDRESS_BITS = 48;

/** The low word of a paging-structure entry (Intel SDM vol. 3, "Paging"). */
export const ENTRY = bitfield('paging-structure entry, low word', {
  P: bit(0, 'present'),
  RW: bit(1, 'writable'),
  US: bit(2, 'user'),
  PWT: bit(3),
  PCD: bit(4),
  A: bit(5, 'accessed'),
  D: bit(6, 'dirty; only in an entry that maps a page'),
  PS: bit(7, 'maps a page at this level (PAT in a last-level entry)'),
  G: bit(8, 'global; only in an entry that maps a page'),
});

/** The error code of a page fault. */
export const PF = bitfield('page-fault error code', {
  P: bit(0, 'the page was present: a question of rights'),
  W: bit(1, 'a write'),
  U: bit(2, 'a user-mode access'),
  RSVD: bit(3, 'a reserved bit was set'),
  ID: bit(4, 'an instruction fetch'),
});

/** The high half of an 8-byte entry: the bit that forbids execution. */
export const NX_HIGH = 0x80000000;

/** One level of a format. */
interface Level {
  /** Level number as the manual counts: 5 PML5, 4 PML4, 3 directory pointers, 2 directory, 1 table. */
  readonly level: number;
  /** Lowest linear-address bit of the index, which is also log2 of the size of a page mapped here. */
  readonly shift: number;
  readonly indexBits: number;
  /** True when PS makes this entry map a page. */
  readonly largePages: boolean;
  /** Bits of the low word that must be clear in an entry that refers to a table, and in one that maps a page. */
  readonly reservedTable: number;
  readonly reservedPage: number;
}

/** A row of the table: one paging mode. */
export interface Format {
  readonly name: string;
  readonly entryBytes: 4 | 8;
  readonly levels: readonly Level[];
  /** Bits 32 and up of an entry that must be clear whatever EFER.NXE says. */
  readonly reservedHigh: number;
}

const missing = ~(2 ** (PHYSICAL_ADDRESS_BITS - 32) - 1); // address bits that this processor does not have
const page = (level: number, shift: number, indexBits: number): Level => ({
  level,
  shift,
  indexBits,
  largePages: false,
  reservedTable: 0,
  reservedPage: 0,
});
const directory = (level: number, shift: number, reservedPage: number): Level => ({
  level,
  shift,
  indexBits: 9,
  largePages: true,
  reservedTable: 0,
  reservedPage,
});
const BITS_20_13 = 0x001fe000;
const BITS_29_13 = 0x3fffe000;
/** Of the bits 21:13 of a 4 MiB entry, the low eight are address bits 39:32 (PSE-36). */
const BIT_21 = 0x00200000;
export const PSE36_SHIFT = 13;
export const PSE36_MASK = 0xff;

const twoLevels = (name: string, largePages: boolean): Format => ({
  name,
  entryBytes: 4,
  reservedHigh: 0,
  levels: [{ level: 2, shift: 22, indexBits: 10, largePages, reservedTable: 0, reservedPage: BIT_21 }, page(1, 12, 10)],
});

/** A level that cannot map a page. */
const upper = (level: number, shift: number): Level => ({ ...page(level, shift, 9), reservedTable: ENTRY.mask.PS });
const LONG_LEVELS: readonly Level[] = [upper(4, 39), directory(3, 30, BITS_29_13), directory(2, 21, BITS_20_13), page(1, 12, 9)];

// @clause x86.paging.reserved-bits
/** The formats by mode. PAE's first level is not here: its four entries are registers. */
export const FORMAT = {
  bits32: twoLevels('32-bit', false),
  bits32pse: twoLevels('32-bit with 4 MiB pages', true),
  // In PAE entries bits 62:52 are reserved as well; with 4 levels they are free for software.
  pae: { name: 'PAE', entryBytes: 8, reservedHigh: missing & 0x7fffffff, levels: [directory(2, 21, BITS_20_13), page(1, 12, 9)] },
  level4: { name: '4-level', entryBytes: 8, reservedHigh: missing & 0xfffff, levels: LONG_LEVELS },
  // @clause x86.la57.walk
  level5: { name: '5-level', entryBytes: 8, reservedHigh: missing & 0xfffff, levels: [upper(5, 48), ...LONG_LEVELS] },
} as const satisfies Record<string, Format>;

/** Low-word and high-word bits that must be clear in a present PAE directory-pointer entry. */
export const PDPTE_RESERVED = { LO: 0x1e6, HI: missing } as const;

/** Linear-address bits of 5-level paging, which a processor may have. */
export const WIDE_LINEAR_ADDRESS_BITS = 57;

// Translation ignores the upper bits of a linear address, and software would have been quick to keep things in them. So they are not free: they must be
// copies of the topmost bit that is translated. That this is an error and not a shorter address is what made it possible to widen addresses later, from
// {{LINEAR_ADDRESS_BITS}} to {{WIDE_LINEAR_ADDRESS_BITS}} bits.

/** True when the upper half `high` is that of a canonical address; `shift` is 64 minus the number of linear-address bits. */
export const canonicalHigh = (high: number, shift: number): boolean => {
  const sign = high >> (31 - shift);
  return sign === 0 || sign === -1;
};
