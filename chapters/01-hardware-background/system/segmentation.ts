// # Segments in use
//
// In every mode but one, an address is a segment and an offset. The segment register's visible half, the selector, is only a name; what counts is the
// hidden half that was filled when the selector was loaded: base, limit, rights. So the *use* of a segment is the same in real mode as in protected
// mode, the tests included. What differs is how the hidden half gets filled, and that is the next file's business.
//
// In 64-bit code, segmentation is nearly gone: bases are zero except for FS and GS, and in place of the limit there is one rule for all: an address
// must be *canonical*, its upper bits copies of bit 47.

import type { Cpu } from '../cpu.ts';
import { type Fault, generalProtection, stackFault } from '../faults.ts';
import { effectiveAddress, type Instruction } from '../isa/instruction.ts';
import { ACCESS, type Mmu, PRIVILEGE } from '../mmu/mmu.ts';
import { canonicalHigh } from '../mmu/paging.ts';
import { highHalf, lowHalf } from '../physical-memory.ts';
import { AR, type CpuState, CR0, EFER, FLAG, MODE, OFFSET, SEG, SLOT } from '../state.ts';

export const U16 = 0xffffn;
export const U32 = 0xffffffffn;
export const U64 = 0xffffffffffffffffn;

/** What descriptors and stacks need of a processor; a hypervisor that does a processor's work for it has these as well. */
export interface SegmentedProcessor {
  readonly state: CpuState;
  readonly cpl: number;
  readonly mmu: Pick<Mmu, 'load' | 'store' | 'write' | 'inspect'>;
}

/** A 64-bit value from its halves. */
export const join = (high: number, low: number): bigint => (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);

/** CR0.PE is set and RFLAGS.VM is not: selectors name descriptors. */
export const protectedMode = ({ state }: SegmentedProcessor): boolean =>
  (state.low32(OFFSET.CR0) & CR0.PE) !== 0 && (state.get32(OFFSET.RFLAGS) & FLAG.VM) === 0;
export const virtual8086 = ({ state }: SegmentedProcessor): boolean => (state.get32(OFFSET.RFLAGS) & FLAG.VM) !== 0;
/** EFER.LMA: 64-bit or compatibility mode. */
export const longMode = ({ state }: SegmentedProcessor): boolean => (state.low32(OFFSET.EFER) & EFER.LMA) !== 0;
export const code64 = ({ state }: SegmentedProcessor): boolean => (state.get32(OFFSET.MODE) & MODE.CODE) === MODE.CODE64;
export const iopl = ({ state }: Cpu): number => (state.get32(OFFSET.RFLAGS) & FLAG.IOPL) >> FLAG.IOPL_SHIFT;

// @clause x86.segment.canonical
/** True when a linear address is canonical for the paging mode in force. */
export const canonical = ({ state }: Cpu, linear: bigint): boolean => canonicalHigh(highHalf(linear), state.get32(OFFSET.CANONICAL_SHIFT));

// Registers that hold addresses for later are judged by what the processor *could* translate, whatever CR4.LA57 says at the moment. So are the operands of
// invalidations. A system that switches 5-level paging on may set up its registers before.
// @clause x86.la57.registers
/** True when a register for a linear address (a base, an entry point) takes this value. */
export const canonicalForRegister = (cpu: Cpu, value: bigint): boolean => canonicalHigh(highHalf(value), 64 - cpu.linearAddressBits);

/** On whose behalf the current program accesses memory. */
export const privilegeOf = (cpl: number): number => (cpl === 3 ? PRIVILEGE.USER : PRIVILEGE.SUPERVISOR);

/** True when `[offset, offset + bytes)` lies inside a segment of this limit and these rights. An access may go round the end of 4 GiB. */
function withinLimit(offset: number, bytes: number, limit: number, rights: number): boolean {
  const last = offset + bytes - 1;
  if ((rights & (AR.CODE | AR.EXPAND_DOWN)) !== AR.EXPAND_DOWN) return last <= limit || limit === 0xffffffff;
  // A segment that grows down: the limit is its lower end, and the upper end depends on the B bit.
  // @clause x86.segment.expand-down
  return offset > limit && last <= (rights & AR.DB ? 0xffffffff : 0xffff);
}

// @clause x86.exception.priority
/** Linear address of `bytes` at `offset` in a segment register, after its checks. @throws #GP(0), for the stack segment #SS(0). */
export function linearAddress(cpu: Cpu, seg: number, offset: bigint, bytes: number, write: boolean): bigint {
  const { state } = cpu;
  const fail = (): Fault => (seg === SEG.SS ? stackFault() : generalProtection());
  if (code64(cpu)) {
    const linear = seg === SEG.FS || seg === SEG.GS ? (state.segBase(seg) + offset) & U64 : offset & U64;
    if (!canonical(cpu, linear) || !canonical(cpu, (linear + BigInt(bytes - 1)) & U64)) throw fail();
    return linear;
  }
  const rights = state.segRights(seg);
  if (protectedMode(cpu)) {
    // @clause x86.segment.access-rights
    // @clause x86.segment.null
    if (rights & AR.UNUSABLE) throw fail();
    const isCode = (rights & AR.CODE) !== 0;
    if (write ? isCode || (rights & AR.WRITABLE) === 0 : isCode && (rights & AR.READABLE) === 0) throw fail();
  }
  // @clause x86.segment.limit
  if (!withinLimit(lowHalf(offset), bytes, state.segLimit(seg), isExpandDown(rights) && protectedMode(cpu) ? rights : 0)) throw fail();
  // @clause x86.segment.base
  return (state.segBase(seg) + offset) & U32;
}

const isExpandDown = (rights: number): boolean => (rights & (AR.CODE | AR.EXPAND_DOWN)) === AR.EXPAND_DOWN;

/** Linear address of an instruction's memory operand, `displacement` bytes into it. */
export function operandAddress(cpu: Cpu, insn: Instruction, bytes: number, write: boolean, displacement = 0): bigint {
  const mask = insn.addressSize === 8 ? U64 : insn.addressSize === 4 ? U32 : U16;
  return linearAddress(cpu, insn.segment, (effectiveAddress(cpu.state, insn) + BigInt(displacement)) & mask, bytes, write);
}

// ## Operands of system instructions

/** Reads a general register as an unsigned number of 1, 2 or 4 bytes. */
const readRegister = ({ state }: Cpu, n: number, bytes: number): number => {
  const low = state.slot32(n);
  return bytes === 4 ? low : bytes === 2 ? low & 0xffff : low & 0xff;
};

// @clause x86.long.registers
/** Writes a general register as x86 does: 2 bytes leave the rest alone, 4 clear the upper half. */
export function writeRegister({ state }: Cpu, n: number, bytes: number, value: bigint): void {
  if (bytes === 8) state.setSlot(n, value);
  else if (bytes === 4) state.setSlot(n, value & U32);
  else if (bytes === 2) state.setSlot(n, (state.slot(n) & ~U16) | (value & U16));
  else state.setSlot(n, (state.slot(n) & ~0xffn) | (value & 0xffn));
}

/** Reads the ModRM operand, a register or memory, of 2 or 4 bytes. */
export function readOperand(cpu: Cpu, insn: Instruction, bytes: 2 | 4): number {
  if (insn.mod === 3) return readRegister(cpu, insn.rm, bytes);
  return cpu.mmu.read32(operandAddress(cpu, insn, bytes, false), bytes, privilegeOf(cpu.cpl));
}

/** Writes a 16-bit system value to the ModRM operand: to a register with the operand size, to memory always as a word. */
export function writeWordOperand(cpu: Cpu, insn: Instruction, value: bigint): void {
  if (insn.mod === 3) writeRegister(cpu, insn.rm, insn.operandSize, value);
  else cpu.mmu.write(operandAddress(cpu, insn, 2, true), 2, value & U16, privilegeOf(cpu.cpl));
}

// ## Stacks
//
// Far calls, gates, interrupts and their returns push and pop several words, and any of the words may fault. None of the processor's state may have
// changed then. So these operations work on a *stack in hand*: a copy of the stack pointer with what is needed to check it. Only when everything
// has been pushed does the copy become the register. The same object serves for the stack of another privilege level, which is not in any register
// yet.
//
// A stack pointer can have 64 bits, and so can what is pushed. Both are kept as two halves here: interrupts come by the million.

/** What a stack in hand is made of. Outside 64-bit mode the pointer is `low`, already cut to `width` bytes. */
interface StackOrigin {
  readonly low: number;
  readonly high: number;
  readonly base: number;
  readonly limit: number;
  readonly rights: number;
  /** Width of the stack pointer in bytes. */
  readonly width: 2 | 4 | 8;
  readonly cpl: number;
  /** Of the stack fault, when the segment is not the current one. */
  readonly errorCode: number;
}

const TWO_32 = 2 ** 32;

/** A stack in hand. */
export class Stack {
  /** The stack pointer, in two unsigned halves. */
  low: number;
  high: number;
  /** The upper half of what `pop` or `peek` has returned last. */
  upper = 0;
  readonly width: 2 | 4 | 8;
  readonly #cpu: SegmentedProcessor;
  readonly #base: number;
  readonly #limit: number;
  readonly #rights: number;
  readonly #privilege: number;
  readonly #errorCode: number;
  #skipped = 0;
  // The place that `#seek` has found: the new stack pointer, and the linear address.
  #nextLow = 0;
  #nextHigh = 0;

  constructor(cpu: SegmentedProcessor, { low, high, base, limit, rights, width, cpl, errorCode }: StackOrigin) {
    this.#cpu = cpu;
    this.low = low;
    this.high = high;
    this.#base = base;
    this.#limit = limit;
    this.#rights = rights;
    this.width = width;
    this.#privilege = privilegeOf(cpl);
    this.#errorCode = errorCode;
  }

  /** Finds the place `distance` bytes from the top. */
  #seek(distance: number): void {
    const low = this.low + distance;
    if (this.width === 8) {
      this.#nextHigh = (this.high + (low < 0 ? -1 : low >= TWO_32 ? 1 : 0)) >>> 0;
      this.#nextLow = low >>> 0;
    } else {
      this.#nextHigh = 0;
      this.#nextLow = this.width === 4 ? low >>> 0 : low & 0xffff;
    }
  }

  /** Low half of the linear address of the place found (the upper half is `#nextHigh`), after the checks for an access of `bytes`. */
  #linear(bytes: number): number {
    const low = this.#nextLow;
    if (this.width !== 8) {
      if (!withinLimit(low, bytes, this.#limit, this.#rights)) throw stackFault(this.#errorCode);
      return (this.#base + low) >>> 0;
    }
    const shift = this.#cpu.state.get32(OFFSET.CANONICAL_SHIFT);
    const lastHigh = low + bytes - 1 >= TWO_32 ? this.#nextHigh + 1 : this.#nextHigh;
    // @clause x86.exception.stack-canonical
    if (!canonicalHigh(this.#nextHigh, shift) || !canonicalHigh(lastHigh, shift)) throw stackFault(this.#errorCode);
    return low;
  }

  push(low: number, bytes: number, high = 0): void {
    this.#seek(-bytes);
    this.#cpu.mmu.store(this.#linear(bytes), this.#nextHigh, bytes, low, high, this.#privilege);
    this.low = this.#nextLow;
    this.high = this.#nextHigh;
  }

  /** The low 32 bits of what is popped, unsigned; the rest is in `upper`. */
  pop(bytes: number): number {
    const value = this.peek(0, bytes);
    this.skip(bytes);
    return value;
  }

  /** Reads without moving, `distance` bytes up from the top. */
  peek(distance: number, bytes: number): number {
    this.#seek(distance);
    const at = this.#linear(bytes);
    const high = this.#nextHigh;
    const { mmu } = this.#cpu;
    if (bytes !== 8) {
      this.upper = 0;
      return mmu.load(at, high, bytes as 2 | 4, this.#privilege);
    }
    mmu.inspect?.(join(high, at), 8, ACCESS.READ); // two loads, but one access
    const low = mmu.load(at, high, 4, this.#privilege);
    this.upper = mmu.load((at + 4) >>> 0, at + 4 >= TWO_32 ? high + 1 : high, 4, this.#privilege);
    return low;
  }

  skip(bytes: number): void {
    this.#seek(bytes);
    this.#skipped += bytes;
    this.low = this.#nextLow;
    this.high = this.#nextHigh;
  }

  /** Checks that `bytes` lie within the segment, or at canonical addresses, before the first of them is pushed. */
  reserve(bytes: number): void {
    this.#seek(-1);
    this.#linear(1);
    this.#seek(-bytes);
    this.#linear(1);
  }

  /** Makes the copy the stack pointer. `wide`: on the way to 64-bit code. What has been popped is then added to all of it, as wide as it is there. */
  commit(wide = false): void {
    const { state } = this.#cpu;
    if (wide && this.width !== 8) state.setSlot(SLOT.RSP, (state.slot(SLOT.RSP) + BigInt(this.#skipped)) & U64);
    else if (this.width === 2) state.setSlotHalves(SLOT.RSP, ((state.slot32(SLOT.RSP) & ~0xffff) | this.low) >>> 0, state.slotHigh(SLOT.RSP));
    else state.setSlotHalves(SLOT.RSP, this.low, this.high);
  }
}

/** A stack without a segment: that of 64-bit mode. */
export const longStack = (cpu: SegmentedProcessor, low: number, high: number, cpl: number): Stack =>
  new Stack(cpu, { low, high, base: 0, limit: 0xffffffff, rights: 0, width: 8, cpl, errorCode: 0 });

/** The stack of the current program. */
export function currentStack(cpu: SegmentedProcessor): Stack {
  const { state, cpl } = cpu;
  const low = state.slot32(SLOT.RSP);
  if (code64(cpu)) return longStack(cpu, low, state.slotHigh(SLOT.RSP), cpl);
  const rights = state.segRights(SEG.SS);
  const wide = (rights & AR.DB) !== 0;
  return new Stack(cpu, {
    low: wide ? low : low & 0xffff,
    high: 0,
    base: state.segBaseLow(SEG.SS),
    limit: state.segLimit(SEG.SS),
    rights: protectedMode(cpu) ? rights : 0,
    width: wide ? 4 : 2,
    cpl,
    errorCode: 0,
  });
}
