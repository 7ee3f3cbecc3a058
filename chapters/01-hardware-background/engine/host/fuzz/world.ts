// # A small world, twice
//
// To compare two processors one has to put them into the same place. The place is as small as can be: two pages of code that cannot be written, two of
// data that can, one of data that can only be read, and nothing on either side, so that an operand that reaches over an edge faults. It lies at the same
// linear addresses in a process of the machine at hand and in the modelled machine, with the segment descriptors that Linux gives its processes and a few
// local ones, chosen for their limits and types.

/** The pages of the world. */
export const PLACE = {
  CODE: 0x100000,
  CODE_BYTES: 0x2000,
  DATA: 0x103000,
  WRITABLE_BYTES: 0x2000,
  DATA_BYTES: 0x3000,
  END: 0x106000,
} as const;

/** Code after which a case is over: jumps to where the native runner waits. The modelled processor never gets to execute them, but may read them. */
export const POINTER = 0x7e570000;
export const LANDING = 0x7e571000;
const word = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
export const LEAVE = {
  64: [0xff, 0x24, 0x25, ...word(POINTER)],
  32: [0xea, ...word(LANDING), 0x33, 0],
  16: [0x66, 0xea, ...word(LANDING), 0x33, 0],
} as const;

export type Bits = 16 | 32 | 64;

/** A descriptor of the local table, as modify_ldt takes it. `contents`: 0 data, 1 expand-down data, 2 code. (Linux refuses conforming code.) */
interface LocalDescriptor {
  readonly base: number;
  readonly limit: number;
  readonly big: boolean;
  readonly contents: 0 | 1 | 2;
  /** Read-only data or execute-only code. */
  readonly restricted?: boolean;
  readonly absent?: boolean;
}
export const LOCAL: readonly LocalDescriptor[] = [
  { base: PLACE.CODE, limit: 0xffff, big: false, contents: 2 },
  { base: PLACE.CODE, limit: 0xffff, big: false, contents: 0 },
  { base: PLACE.DATA, limit: 0x17ff, big: true, contents: 0 },
  { base: PLACE.CODE, limit: 0x37ff, big: true, contents: 1 },
  { base: PLACE.CODE, limit: 0x5fff, big: true, contents: 0, restricted: true },
  { base: PLACE.CODE, limit: 0x5fff, big: true, contents: 2 },
  { base: PLACE.CODE, limit: 0x5fff, big: true, contents: 2, restricted: true },
  { base: PLACE.DATA, limit: 0xffff, big: true, contents: 0, absent: true },
  { base: PLACE.CODE, limit: 0x3fff, big: false, contents: 1 },
  // The end of its first 64 KiB, where 16-bit addresses wrap, is in the middle of the data.
  { base: PLACE.DATA + 0x1000 - 0x10000, limit: 0x11fff, big: true, contents: 0 },
  { base: PLACE.DATA + 0x1000 - 0x10000, limit: 0xffff, big: false, contents: 0 },
];
/** The selector of a local descriptor. */
const local = (index: number): number => index * 8 + 7;

export const SELECTOR = { CODE32: 0x23, DATA: 0x2b, CODE64: 0x33, PER_CPU: 0x7b } as const;
/** The selectors that a program may name here. */
export const SELECTORS: readonly number[] = [
  0,
  3,
  SELECTOR.CODE32,
  SELECTOR.DATA,
  SELECTOR.CODE64,
  0x28,
  0x10,
  0x18,
  ...LOCAL.map((_, index) => local(index)),
];

/** The selectors that DS, ES, FS and GS may hold from the start. */
export const LOADABLE: readonly number[] = [
  0,
  SELECTOR.CODE32,
  SELECTOR.DATA,
  ...LOCAL.flatMap(({ absent, contents, restricted }, index) => (absent || (contents === 2 && restricted) ? [] : [local(index)])),
];

/** Those that SS may hold when 16-bit code begins: both with a stack pointer of 16 bits and of 32. */
export const STACKS_16: readonly number[] = LOCAL.flatMap(({ absent, contents, restricted }, index) =>
  absent || contents === 2 || restricted ? [] : [local(index)],
);

/** What the segment registers hold when a case begins: CS, SS, DS, ES, FS, GS. */
export const USUAL_SEGMENTS = {
  64: [SELECTOR.CODE64, SELECTOR.DATA, 0, 0, 0, 0],
  32: [SELECTOR.CODE32, SELECTOR.DATA, SELECTOR.DATA, SELECTOR.DATA, 0, 0],
  16: [local(0), local(1), local(1), local(1), 0, 0],
} as const;
/** What the code segment adds to an offset. */
export const codeBase = (cs: number): number => (cs & 4 ? PLACE.CODE : 0);
