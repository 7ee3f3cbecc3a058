// # The register file
//
// Everything a processor remembers between two instructions, in one page of the machine's private memory. It lives there, rather than in
// fields of an object, because two languages work on it: the interpreter is WebAssembly and addresses it by offset; the rarely used, wordy
// parts of the architecture (task switches, segment loads, VM entries) are TypeScript and use the accessors below.
//
// The first 64 words are *slots*: the operands that micro-operations name. General registers and temporaries are the same kind of thing to a
// micro-operation, as they are inside a real out-of-order core.

import type { PhysicalMemory } from './physical-memory.ts';

/** Slot numbers of the architectural registers that micro-operations may name. General registers use the hardware's own encoding. */
// biome-ignore format: table
export const SLOT = {
  RAX: 0, RCX: 1, RDX: 2, RBX: 3, RSP: 4, RBP: 5, RSI: 6, RDI: 7,
  R8: 8, R9: 9, R10: 10, R11: 11, R12: 12, R13: 13, R14: 14, R15: 15,
  /** Offset of the instruction being executed: what a fault pushes. */
  RIP: 16,
  /** Where execution continues when the instruction completes: what a trap pushes. */
  NEXT_RIP: 17,
  /** Lazy arithmetic flags: result and operands of the last flag-setting operation; which one is in `OFFSET.CC_OP`. */
  CC_RESULT: 18, CC_A: 19, CC_B: 20,
  /** First of the temporaries; they live for one instruction. */
  T0: 24,
} as const;

/** Byte offsets, from the start of the state page, of everything that is not a slot. 64-bit unless noted. */
// biome-ignore format: table
export const OFFSET = {
  // 32-bit control words
  CC_OP: 0x200, // which operation the lazy flags belong to
  RFLAGS: 0x204, // all flags but the six arithmetic ones (those are lazy; see engine)
  MODE: 0x208, // decoding mode: see MODE
  CPL: 0x20c,
  STOP: 0x210, // why the interpreter is to leave its loop; 0 = keep going
  EVENTS: 0x214, // non-zero: look for an interrupt, an NMI or a window at the next boundary
  SHADOW: 0x218, // interruptibility, VMX bit layout: bit 0 STI, bit 1 MOV SS, bit 3 NMI blocked
  ACTIVITY: 0x21c, // VMX encoding: 0 active, 1 HLT, 2 shutdown, 3 wait-for-SIPI
  TLB: 0x220, // offset of the TLB bank in use
  CANONICAL_SHIFT: 0x224, // 64 minus the number of linear-address bits in force: 16, or 7 with CR4.LA57
  WATCH: 0x240, // who wants to know of system instructions: see WATCH
  BANK_SUPERVISOR: 0x244, BANK_USER: 0x248, // TLB banks for CPL 0 to 2 and for CPL 3, as things are
  WALKER: 0x24c, // buffer offset of what an ordinary page walk needs (mmu/ordinary-walk.ts); 0: the MMU makes them all
  CODE_BYTES: 0x258, // buffer offset of the accounts of pages that hold code (engine/code-bytes.ts)
  RESUME_AT: 0x250, // 64-bit: likewise for RFLAGS.RF
  // 64-bit
  ICOUNT: 0x228, // instructions retired: virtual time
  DEADLINE: 0x230, // leave the loop before retiring instruction number DEADLINE
  SHADOW_AT: 0x238, // ICOUNT when STI or MOV SS set SHADOW: their bits mean something at that boundary only
  CR0: 0x280, CR2: 0x288, CR3: 0x290, CR4: 0x298, CR8: 0x2a0, EFER: 0x2a8, XCR0: 0x2b0,
  DR0: 0x2c0, DR1: 0x2c8, DR2: 0x2d0, DR3: 0x2d8, DR6: 0x2e0, DR7: 0x2e8,
  SEGMENTS: 0x300, // 8 records of SEGMENT_BYTES: ES CS SS DS FS GS LDTR TR
  GDTR_BASE: 0x400, GDTR_LIMIT: 0x408, IDTR_BASE: 0x410, IDTR_LIMIT: 0x418, // limits are 32-bit
  STAR: 0x440, LSTAR: 0x448, CSTAR: 0x450, SFMASK: 0x458, KERNEL_GS_BASE: 0x460, TSC_AUX: 0x468,
  SYSENTER_CS: 0x470, SYSENTER_ESP: 0x478, SYSENTER_EIP: 0x480, PAT: 0x488, APIC_BASE: 0x490, MISC_ENABLE: 0x498,
  TSC_OFFSET: 0x4a0, // the time stamp counter reads ICOUNT + TSC_OFFSET
  TSC_ADJUST: 0x4a8, DEBUGCTL: 0x4b0, MTRR_DEF_TYPE: 0x4b8, SPEC_CTRL: 0x4c0, MCG_STATUS: 0x4c8,
  MTRR_FIXED: 0x600, MTRR_VARIABLE: 0x680, // 11 registers, and 16 of them in pairs
  FPU: 0x800, // the 512-byte FXSAVE image, then the XSAVE header (64 bytes)
} as const;
const STATE_BYTES = 0x1000;
export const SEGMENT_BYTES = 32;

/** Segment register numbers (the hardware's encoding), LDTR and TR after them. */
// biome-ignore format: table
export const SEG = { ES: 0, CS: 1, SS: 2, DS: 3, FS: 4, GS: 5, LDTR: 6, TR: 7 } as const;

// Access rights are kept in the format of a VMCS access-rights field: bits 8..15 and 20..23 of the descriptor's second word, moved down by 8,
// and bit 16 for "unusable". The hidden part of a segment register has no architectural format of its own, so this is as good as any,
// and VM entry becomes a copy.

/** Access-rights bits (Intel SDM vol. 3, "Guest Segment Registers"). */
// biome-ignore format: table
export const AR = {
  TYPE: 0xf, ACCESSED: 1, WRITABLE: 2, READABLE: 2, EXPAND_DOWN: 4, CONFORMING: 4, CODE: 8,
  S: 1 << 4, DPL_SHIFT: 5, DPL: 3 << 5, P: 1 << 7, AVL: 1 << 12, L: 1 << 13, DB: 1 << 14, G: 1 << 15, UNUSABLE: 1 << 16,
} as const;

/** RFLAGS bits. */
// biome-ignore format: table
export const FLAG = {
  CF: 1 << 0, FIXED: 1 << 1, PF: 1 << 2, AF: 1 << 4, ZF: 1 << 6, SF: 1 << 7, TF: 1 << 8, IF: 1 << 9, DF: 1 << 10, OF: 1 << 11,
  IOPL: 3 << 12, IOPL_SHIFT: 12, NT: 1 << 14, RF: 1 << 16, VM: 1 << 17, AC: 1 << 18, VIF: 1 << 19, VIP: 1 << 20, ID: 1 << 21,
} as const;
export const ARITHMETIC_FLAGS = FLAG.CF | FLAG.PF | FLAG.AF | FLAG.ZF | FLAG.SF | FLAG.OF;

// biome-ignore format: table
export const CR0 = {
  PE: 1 << 0, MP: 1 << 1, EM: 1 << 2, TS: 1 << 3, ET: 1 << 4, NE: 1 << 5, WP: 1 << 16, AM: 1 << 18, NW: 1 << 29, CD: 1 << 30, PG: 0x80000000,
} as const;
// biome-ignore format: table
export const CR4 = {
  VME: 1 << 0, PVI: 1 << 1, TSD: 1 << 2, DE: 1 << 3, PSE: 1 << 4, PAE: 1 << 5, MCE: 1 << 6, PGE: 1 << 7, PCE: 1 << 8, OSFXSR: 1 << 9, OSXMMEXCPT: 1 << 10,
  UMIP: 1 << 11, LA57: 1 << 12, VMXE: 1 << 13, FSGSBASE: 1 << 16, PCIDE: 1 << 17, OSXSAVE: 1 << 18, SMEP: 1 << 20, SMAP: 1 << 21,
} as const;
// biome-ignore format: table
export const EFER = { SCE: 1 << 0, LME: 1 << 8, LMA: 1 << 10, NXE: 1 << 11 } as const;

/**
 * Everything about the machine's mode that changes how bytes are decoded or operands addressed. Decoded code is filed under it, so code decoded
 * for one mode never runs in another. Whoever writes CS, SS, DS, ES, CR0.PE, EFER.LMA or RFLAGS.VM calls `Cpu.modeChanged()`.
 */
export const MODE = {
  CODE16: 0,
  CODE32: 1,
  CODE64: 2,
  CODE: 3, // bits 0..1: default operand and address size
  STACK32: 1 << 2, // SS.B (never in 64-bit code, where the stack pointer has 64 bits)
  FLAT: 1 << 3, // CS, DS, ES and SS all have base 0, limit 4 GiB, usual rights: no limit check and no base to add
  PROTECTED: 1 << 4, // CR0.PE
  V86: 1 << 5, // RFLAGS.VM
  LONG: 1 << 6, // EFER.LMA: 64-bit or compatibility mode
  USER: 1 << 7, // CPL = 3
} as const;

/** Bits of OFFSET.WATCH. A trace listens; a hypervisor is to be asked; an interrupt or a window may be taken as soon as IF allows it; ports have breakpoints;
 * the hypervisor wants page faults; or loads and stores of CR3, or INVLPG; or RDTSC, RDTSCP or PAUSE. */
export const WATCH = { TRACE: 1, HYPERVISOR: 2, PENDING: 4, PORTS: 8, PAGE_FAULTS: 16, TRANSLATIONS: 32, CLOCK: 64 } as const;

type Word64 = number; // a byte offset from OFFSET, of a 64-bit field
type Word32 = number; // likewise of a 32-bit field

/** The accessors for one processor's state page. */
export class CpuState {
  readonly base: number;
  readonly #view: DataView;
  /** Slots and every 64-bit field, by `offset / 8`. */
  readonly i64: BigInt64Array;
  readonly u64: BigUint64Array;
  /** Every 32-bit field, by `offset / 4`; slots by `2 * slot` (low half). */
  readonly i32: Int32Array;
  readonly u32: Uint32Array;
  readonly u8: Uint8Array;

  constructor(memory: PhysicalMemory) {
    this.base = memory.reserve(STATE_BYTES, STATE_BYTES);
    this.#view = new DataView(memory.buffer, this.base, STATE_BYTES);
    this.i64 = new BigInt64Array(memory.buffer, this.base, STATE_BYTES / 8);
    this.u64 = new BigUint64Array(memory.buffer, this.base, STATE_BYTES / 8);
    this.i32 = new Int32Array(memory.buffer, this.base, STATE_BYTES / 4);
    this.u32 = new Uint32Array(memory.buffer, this.base, STATE_BYTES / 4);
    this.u8 = new Uint8Array(memory.buffer, this.base, STATE_BYTES);
    this.set32(OFFSET.CANONICAL_SHIFT, 16);
  }

  /** A slot as an unsigned 64-bit value. */
  slot(n: number): bigint {
    return this.u64[n] as bigint;
  }
  setSlot(n: number, value: bigint): void {
    this.u64[n] = value; // wraps modulo 2^64
  }
  /** The low half of a slot, unsigned. */
  slot32(n: number): number {
    return this.u32[2 * n] as number;
  }
  /** The upper half of a slot, unsigned. */
  slotHigh(n: number): number {
    return this.u32[2 * n + 1] as number;
  }
  /** Writes a slot from two halves. */
  setSlotHalves(n: number, low: number, high: number): void {
    this.u32[2 * n] = low;
    this.u32[2 * n + 1] = high;
  }
  /** Writes a slot from an unsigned number below 2^53, zero-extended. */
  setSlotNumber(n: number, value: number): void {
    this.u32[2 * n] = value;
    this.u32[2 * n + 1] = Math.floor(value / 2 ** 32);
  }

  /** A 32-bit control word (see OFFSET), unsigned. */
  get32(offset: Word32): number {
    return this.u32[offset >> 2] as number;
  }
  set32(offset: Word32, value: number): void {
    this.u32[offset >> 2] = value;
  }
  /** A 64-bit field (see OFFSET), unsigned. */
  get64(offset: Word64): bigint {
    return this.u64[offset >> 3] as bigint;
  }
  set64(offset: Word64, value: bigint): void {
    this.u64[offset >> 3] = value;
  }
  /** The low 32 bits of a 64-bit field: enough for CR0, CR4, EFER and flags. Unsigned. */
  low32(offset: Word64): number {
    return this.u32[offset >> 2] as number;
  }
  /** A 64-bit field known to be below 2^53 (CR3, counts, physical addresses). */
  getNumber(offset: Word64): number {
    return (this.u32[offset >> 2] as number) + (this.u32[(offset >> 2) + 1] as number) * 2 ** 32;
  }
  setNumber(offset: Word64, value: number): void {
    this.u32[offset >> 2] = value;
    this.u32[(offset >> 2) + 1] = Math.floor(value / 2 ** 32);
  }

  segBase(seg: number): bigint {
    return this.u64[(OFFSET.SEGMENTS + seg * SEGMENT_BYTES) >> 3] as bigint;
  }
  setSegBase(seg: number, base: bigint): void {
    this.u64[(OFFSET.SEGMENTS + seg * SEGMENT_BYTES) >> 3] = base;
  }
  /** The low half of the base, unsigned: all of it, except for FS, GS, LDTR and TR in long mode. */
  segBaseLow(seg: number): number {
    return this.u32[(OFFSET.SEGMENTS + seg * SEGMENT_BYTES) >> 2] as number;
  }
  segBaseHigh(seg: number): number {
    return this.u32[((OFFSET.SEGMENTS + seg * SEGMENT_BYTES) >> 2) + 1] as number;
  }
  /** Writes a whole segment register; the base as two halves. */
  setSegment(seg: number, selector: number, baseLow: number, baseHigh: number, limit: number, rights: number): void {
    const at = (OFFSET.SEGMENTS + seg * SEGMENT_BYTES) >> 2;
    const { u32 } = this;
    u32[at] = baseLow;
    u32[at + 1] = baseHigh;
    u32[at + 2] = limit;
    u32[at + 3] = rights;
    u32[at + 4] = selector;
  }
  /** The limit in bytes (already scaled by G), unsigned. */
  segLimit(seg: number): number {
    return this.u32[(OFFSET.SEGMENTS + seg * SEGMENT_BYTES + 8) >> 2] as number;
  }
  setSegLimit(seg: number, limit: number): void {
    this.u32[(OFFSET.SEGMENTS + seg * SEGMENT_BYTES + 8) >> 2] = limit;
  }
  /** Access rights; see AR. */
  segRights(seg: number): number {
    return this.u32[(OFFSET.SEGMENTS + seg * SEGMENT_BYTES + 12) >> 2] as number;
  }
  setSegRights(seg: number, rights: number): void {
    this.u32[(OFFSET.SEGMENTS + seg * SEGMENT_BYTES + 12) >> 2] = rights;
  }
  segSelector(seg: number): number {
    return this.u32[(OFFSET.SEGMENTS + seg * SEGMENT_BYTES + 16) >> 2] as number;
  }
  setSegSelector(seg: number, selector: number): void {
    this.u32[(OFFSET.SEGMENTS + seg * SEGMENT_BYTES + 16) >> 2] = selector;
  }

  /** The 512-byte FXSAVE image, live. */
  get fpu(): Uint8Array {
    return this.u8.subarray(OFFSET.FPU, OFFSET.FPU + 512);
  }
  get view(): DataView {
    return this.#view;
  }
}
