// # Cases and outcomes
//
// Thousands of cases travel to the native runner at a time, and as many outcomes come back. Both are records of fixed size in a buffer, described once,
// here; `oracle.c` has the same structures in C. The modelled processor leaves its outcomes in the same form, so that comparing is comparing bytes.

/** Byte offsets in a case. */
// biome-ignore format: table
export const CASE = {
  LENGTH: 0, END: 4, OFFSET: 8, // of the code with the jump that ends it; of the code alone; where it lies in the code pages
  CS: 16, SS: 18, DS: 20, ES: 22, FS: 24, GS: 26,
  FLAGS: 32, FS_BASE: 40, GS_BASE: 48,
  CODE: 56, CODE_BYTES: 64, GPR: 120, FX: 248,
  BYTES: 760,
} as const;

/** Byte offsets in an outcome. */
// biome-ignore format: table
export const OUTCOME = {
  GPR: 0, RIP: 128, FLAGS: 136, FS_BASE: 144, GS_BASE: 152, CR2: 160,
  SIGNAL: 168, VECTOR: 172, ERROR: 176, // the signal is 0 when the case came to its end
  CS: 184, SS: 186, DS: 188, ES: 190, FS: 192, GS: 194,
  FIRST: 200, CHANGED_BYTES: 204, CHANGED: 208, // what is new in the data pages
  FX: 216,
  BYTES: 728,
} as const;

/** Byte offsets in an FXSAVE image. */
export const FX = { FCW: 0, FSW: 2, FTW: 4, FOP: 6, FIP: 8, FDP: 16, MXCSR: 24, MXCSR_MASK: 28, ST: 32, XMM: 160, BYTES: 512 } as const;

export const BATCH_CASES = 4096;
export const LOCAL_DESCRIPTORS = 16;
const LOCAL_DESCRIPTOR_BYTES = 16;
export const WORLD_DATA = LOCAL_DESCRIPTORS * LOCAL_DESCRIPTOR_BYTES;

/** Why a case ended, when it did not come to its end. The first is Linux's; the modelled processor leaves the others. */
export const SIGNAL = { NONE: 0, EXCEPTION: 1, TIMEOUT: 26, SYSTEM_CALL: 31, BROKEN: 99 } as const;

/** A buffer of records, with accessors by record and offset. */
export class Records {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly size: number;
  constructor(size: number, bytes: Uint8Array) {
    this.size = size;
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
  slice(index: number, at: number, bytes: number): Uint8Array {
    const start = index * this.size + at;
    return this.bytes.subarray(start, start + bytes);
  }
  u16(index: number, at: number): number {
    return this.view.getUint16(index * this.size + at, true);
  }
  u32(index: number, at: number): number {
    return this.view.getUint32(index * this.size + at, true);
  }
  u64(index: number, at: number): bigint {
    return this.view.getBigUint64(index * this.size + at, true);
  }
  setU16(index: number, at: number, value: number): void {
    this.view.setUint16(index * this.size + at, value, true);
  }
  setU32(index: number, at: number, value: number): void {
    this.view.setUint32(index * this.size + at, value, true);
  }
  setU64(index: number, at: number, value: bigint): void {
    this.view.setBigUint64(index * this.size + at, value, true);
  }
}

/** Cases that run in one world: what the data pages hold, and what each case starts with. */
export class Batch {
  readonly data: Uint8Array;
  readonly cases: Records;
  /** By case: the number of its program. */
  readonly program: Int32Array;
  readonly programs: Program[] = [];
  count = 0;
  constructor(dataBytes: number, room = BATCH_CASES) {
    this.data = new Uint8Array(dataBytes);
    this.cases = new Records(CASE.BYTES, new Uint8Array(CASE.BYTES * room));
    this.program = new Int32Array(room);
  }
}

/** A piece of code, and what is known about it. */
export interface Program {
  readonly bits: 16 | 32 | 64;
  /** Mnemonics, in order. */
  readonly names: readonly string[];
  /** Where in `code` each instruction begins. */
  readonly starts: readonly number[];
  readonly code: Uint8Array;
  readonly offset: number;
}
