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
import { PRIVILEGE } from '../mmu/mmu.ts';
import { canonical } from '../mmu/paging.ts';
import { lowHalf } from '../physical-memory.ts';
import { AR, CR0, EFER, FLAG, MODE, OFFSET, SEG, SLOT } from '../state.ts';

export const U16 = 0xffffn;
export const U32 = 0xffffffffn;
export const U64 = 0xffffffffffffffffn;

/** CR0.PE is set and RFLAGS.VM is not: selectors name descriptors. */
export const protectedMode = ({ state }: Cpu): boolean => (state.low32(OFFSET.CR0) & CR0.PE) !== 0 && (state.get32(OFFSET.RFLAGS) & FLAG.VM) === 0;
export const virtual8086 = ({ state }: Cpu): boolean => (state.get32(OFFSET.RFLAGS) & FLAG.VM) !== 0;
/** EFER.LMA: 64-bit or compatibility mode. */
export const longMode = ({ state }: Cpu): boolean => (state.low32(OFFSET.EFER) & EFER.LMA) !== 0;
export const code64 = ({ state }: Cpu): boolean => (state.get32(OFFSET.MODE) & MODE.CODE) === MODE.CODE64;
export const iopl = ({ state }: Cpu): number => (state.get32(OFFSET.RFLAGS) & FLAG.IOPL) >> FLAG.IOPL_SHIFT;

/** On whose behalf the current program accesses memory. */
export const privilegeOf = (cpl: number): number => (cpl === 3 ? PRIVILEGE.USER : PRIVILEGE.SUPERVISOR);

/** True when `[offset, offset + bytes)` lies inside a segment of this limit and these rights. */
function withinLimit(offset: number, bytes: number, limit: number, rights: number): boolean {
  const last = offset + bytes - 1;
  if ((rights & (AR.CODE | AR.EXPAND_DOWN)) !== AR.EXPAND_DOWN) return last <= limit;
  // A segment that grows down: the limit is its lower end, and the upper end depends on the B bit.
  // @clause x86.segment.expand-down
  return offset > limit && last <= (rights & AR.DB ? 0xffffffff : 0xffff);
}

/** Linear address of `bytes` at `offset` in a segment register, after its checks. @throws #GP(0), for the stack segment #SS(0). */
export function linearAddress(cpu: Cpu, seg: number, offset: bigint, bytes: number, write: boolean): bigint {
  const { state } = cpu;
  const fail = (): Fault => (seg === SEG.SS ? stackFault() : generalProtection());
  if (code64(cpu)) {
    const linear = seg === SEG.FS || seg === SEG.GS ? (state.segBase(seg) + offset) & U64 : offset & U64;
    // @clause x86.segment.canonical
    if (!canonical(linear) || !canonical((linear + BigInt(bytes - 1)) & U64)) throw fail();
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

/** A stack in hand. */
export class Stack {
  sp: bigint;
  readonly #cpu: Cpu;
  readonly #base: bigint;
  readonly #limit: number;
  readonly #rights: number;
  /** Width of the stack pointer in bytes. */
  readonly width: 2 | 4 | 8;
  readonly #privilege: number;
  readonly #errorCode: number;

  constructor(cpu: Cpu, from: { sp: bigint; base: bigint; limit: number; rights: number; width: 2 | 4 | 8; cpl: number; errorCode?: number }) {
    this.#cpu = cpu;
    this.sp = from.sp;
    this.#base = from.base;
    this.#limit = from.limit;
    this.#rights = from.rights;
    this.width = from.width;
    this.#privilege = privilegeOf(from.cpl);
    this.#errorCode = from.errorCode ?? 0;
  }

  #address(offset: bigint, bytes: number): bigint {
    if (this.width === 8) {
      // @clause x86.exception.stack-canonical
      if (!canonical(offset) || !canonical((offset + BigInt(bytes - 1)) & U64)) throw stackFault(this.#errorCode);
      return offset;
    }
    if (!withinLimit(lowHalf(offset), bytes, this.#limit, this.#rights)) throw stackFault(this.#errorCode);
    return BigInt.asUintN(32, this.#base + offset);
  }

  /** The stack pointer `distance` bytes on, cut to its width. */
  #moved(distance: number): bigint {
    if (this.width === 8) return BigInt.asUintN(64, this.sp + BigInt(distance));
    const moved = lowHalf(this.sp) + distance;
    return BigInt(this.width === 4 ? moved >>> 0 : moved & 0xffff);
  }

  push(value: bigint, bytes: number): void {
    const next = this.#moved(-bytes);
    this.#cpu.mmu.write(this.#address(next, bytes), bytes, value, this.#privilege);
    this.sp = next;
  }

  pop(bytes: number): bigint {
    const value = this.peek(0, bytes);
    this.skip(bytes);
    return value;
  }

  /** Reads without moving, `distance` bytes up from the top. */
  peek(distance: number, bytes: number): bigint {
    return this.#cpu.mmu.read(this.#address(this.#moved(distance), bytes), bytes, this.#privilege);
  }

  skip(bytes: number): void {
    this.sp = this.#moved(bytes);
  }

  /** Checks that `bytes` lie within the segment, or at canonical addresses, before the first of them is pushed. */
  reserve(bytes: number): void {
    this.#address(this.#moved(-1), 1);
    this.#address(this.#moved(-bytes), 1);
  }

  /** Makes the copy the stack pointer. */
  commit(): void {
    writeRegister(this.#cpu, SLOT.RSP, this.width, this.sp);
  }
}

/** The stack of the current program. */
export function currentStack(cpu: Cpu): Stack {
  const { state } = cpu;
  const width = code64(cpu) ? 8 : state.segRights(SEG.SS) & AR.DB ? 4 : 2;
  return new Stack(cpu, {
    sp: state.slot(SLOT.RSP) & (width === 8 ? U64 : width === 4 ? U32 : U16),
    base: state.segBase(SEG.SS),
    limit: state.segLimit(SEG.SS),
    rights: protectedMode(cpu) ? state.segRights(SEG.SS) : 0,
    width,
    cpl: cpu.cpl,
  });
}
