// # From an instruction to micro-operations
//
// An instruction's entry says what it does to its operands; where those are -- a register, the second byte of a register, memory behind a segment --
// is the same story for all of them, and is told here once.

import { microOp } from '../engine/micro-ops.ts';
import { MODE, OFFSET, SEG, SEGMENT_BYTES, SLOT } from '../state.ts';
import { type Encoding, type OperandSpec, operandBytes } from './encoding.ts';
import { type Instruction, NONE } from './instruction.ts';

/** Something to read: an operand of micro-operations (a byte offset in the register file), or a constant. */
type Source = { readonly at: number } | { readonly imm: bigint };

/** One micro-operation record, before it is written to memory. */
export interface Micro {
  readonly op: number;
  readonly d: number;
  readonly a: number;
  readonly b: number;
  imm: bigint;
}

/** A memory operand ready for use: `at` holds an address, `disp` is added on the way. */
interface Address {
  readonly at: number;
  readonly disp: bigint;
  readonly stack: boolean;
}

/** The operand of a general register or temporary. */
export const slot = (n: number): number => 8 * n;
/** The operand of an XMM register, and of an MMX register: the significand of a physical floating-point register. */
export const xmm = (n: number): number => OFFSET.FPU + 160 + 16 * n;
const mmx = (n: number): number => OFFSET.FPU + 32 + 16 * n;
const NEXT_RIP = slot(SLOT.NEXT_RIP);
const segmentRecord = (segment: number): number => OFFSET.SEGMENTS + segment * SEGMENT_BYTES;
/** The operand that is a segment register's selector. */
export const selectorOf = (segment: number): number => segmentRecord(segment) + 16;
const pack = (low: bigint | number, high: number): bigint => BigInt.asUintN(32, BigInt(low)) | (BigInt(high) << 32n);

const READ = 0;
const WRITE = 1;
const MODIFY = 2;
const TEMPORARIES = 64 - SLOT.T0;

/** Collects the micro-operations of one instruction. */
export class Builder {
  readonly insn: Instruction;
  readonly operands: readonly OperandSpec[];
  readonly mode: number;
  readonly micros: Micro[] = [];
  /** True once a micro-operation has been emitted after which control never reaches the next record. */
  ended = false;
  #temporaries = 0;
  readonly #immediateAt: number;

  /** @param immediateAt buffer offset of an immediate that is to be loaded from the code each time, because the program rewrites it */
  constructor(insn: Instruction, encoding: Encoding, mode: number, immediateAt = NONE) {
    this.insn = insn;
    this.operands = encoding.operands;
    this.mode = mode;
    this.#immediateAt = immediateAt;
  }

  get code64(): boolean {
    return (this.mode & MODE.CODE) === MODE.CODE64;
  }
  /** Offsets in CS, DS, ES and SS are linear addresses. */
  get #flat(): boolean {
    return this.code64 || (this.mode & MODE.FLAT) !== 0;
  }

  emit(name: string, operands: { d?: number; a?: number; b?: number; imm?: bigint } = {}): void {
    const { d = 0, a = 0, b = 0, imm = 0n } = operands;
    this.micros.push({ op: microOp(name), d, a, b, imm });
  }
  /** Emits the form of a two-source micro-operation that suits the second source. */
  combine(name: string, bytes: number, d: number, a: number, source: Source): void {
    if ('at' in source) this.emit(`${name}.${bytes}`, { d, a, b: source.at });
    else this.emit(`${name}.${bytes}.i`, { d, a, imm: source.imm });
  }
  /** Emits what ends the block. */
  end(name: string, operands: { a?: number; imm?: bigint } = {}): void {
    this.emit(name, operands);
    this.ended = true;
  }

  temporary(): number {
    if (this.#temporaries === TEMPORARIES) throw new RangeError(`${this.insn.name} uses too many temporaries`);
    return slot(SLOT.T0 + this.#temporaries++);
  }

  /** A temporary of 16 bytes. */
  vectorTemporary(): number {
    this.#temporaries += this.#temporaries & 1;
    const at = this.temporary();
    this.temporary();
    return at;
  }
  #temporaryFor(bytes: number): number {
    return bytes === 16 ? this.vectorTemporary() : this.temporary();
  }

  /** Temporaries taken inside are free again afterwards. */
  scratch(emit: () => void): void {
    const taken = this.#temporaries;
    emit();
    this.#temporaries = taken;
  }

  /** Effective size of operand `n` in bytes. */
  bytes(n: number): number {
    return operandBytes(this.operands[n] as OperandSpec, this.insn.operandSize);
  }

  // ## Registers

  /** A general register as an operand. Without REX, byte registers 4 to 7 are the second bytes of the first four registers. */
  register(n: number, bytes: number): number {
    return bytes === 1 && this.insn.rex === 0 && n >= 4 && n < 8 ? slot(n - 4) + 1 : slot(n);
  }
  /** The register that operand `n` names, or NONE when it is not a register. */
  registerOf(n: number): number {
    const spec = this.operands[n] as OperandSpec;
    const { insn } = this;
    const bytes = this.bytes(n);
    if (spec.kind === 'G') return this.register(insn.reg, bytes);
    if (spec.kind === 'B') return slot(insn.vvvv);
    if (spec.kind === 'Z' || spec.kind === 'R') return this.register(insn.rm, bytes);
    if (spec.kind === 'E' && insn.mod === 3) return this.register(insn.rm, bytes);
    if (spec.kind === 'r') return slot(spec.register);
    if (spec.kind === 'V') return xmm(insn.reg);
    if (spec.kind === 'U' || (spec.kind === 'W' && insn.mod === 3)) return xmm(insn.rm);
    if (spec.kind === 'P') return mmx(insn.reg & 7);
    if (spec.kind === 'N' || (spec.kind === 'Q' && insn.mod === 3)) return mmx(insn.rm & 7);
    return NONE;
  }

  // ## Addresses

  /** d := base + index + displacement + `extra`, cut to `cutTo` bytes. */
  offset(cutTo = this.insn.addressSize as number, d = this.temporary(), extra = 0): number {
    const { base, index, scale } = this.insn;
    const disp = this.insn.disp + BigInt(extra);
    const imm = pack(disp, scale);
    if (base !== NONE && index !== NONE) this.emit(`lea.${cutTo}.both`, { d, a: slot(base), b: slot(index), imm });
    else if (base !== NONE) this.emit(`lea.${cutTo}.base`, { d, a: slot(base), imm });
    else if (index !== NONE) this.emit(`lea.${cutTo}.index`, { d, b: slot(index), imm });
    else this.emit('mov.8.i', { d, imm: BigInt.asUintN(8 * cutTo, disp) });
    return d;
  }
  /** The linear address of an offset in a segment, checked for an access of `bytes`. */
  linear(at: number, segment: number, bytes: number, access: number): number {
    if (this.#isLinear(segment, access)) return at;
    const d = this.temporary();
    if (this.code64) this.emit('plus', { d, a: at, b: segmentRecord(segment) });
    else this.emit('segment', { d, a: at, b: segmentRecord(segment), imm: pack(segment, bytes | (access << 8)) });
    return d;
  }
  /** The instruction's memory operand. */
  address(bytes: number, access: number): Address {
    const { base, index, disp, segment, addressSize } = this.insn;
    const stack = segment === SEG.SS;
    if (this.isDirect(segment, addressSize, access) && base !== NONE && index === NONE) return { at: slot(base), disp, stack };
    return { at: this.linear(this.offset(), segment, bytes, access), disp: 0n, stack };
  }
  /** An offset of this size in this segment is a linear address as it stands. */
  isDirect(segment: number, addressSize: number, access: number): boolean {
    return this.#isLinear(segment, access) && addressSize === this.#linearSize;
  }
  /** Offsets in this segment are linear addresses: it is flat, and what is a code segment outside 64-bit mode is not written to. */
  #isLinear(segment: number, access: number): boolean {
    if (segment >= SEG.FS) return false;
    return this.code64 || (this.#flat && (segment !== SEG.CS || access === READ));
  }
  get #linearSize(): number {
    return this.code64 ? 8 : 4;
  }
  load(address: Address, bytes: number, d = this.#temporaryFor(bytes), kind = 'load'): number {
    this.emit(`${kind}.${bytes}.${this.#linearSize}`, { d, a: address.at, imm: pack(address.disp, Number(address.stack)) });
    return d;
  }
  store(address: Address, bytes: number, from: number): void {
    this.emit(`store.${bytes}.${this.#linearSize}`, { a: address.at, b: from, imm: pack(address.disp, Number(address.stack)) });
  }
  /** #GP unless the address is a multiple of `bytes`. */
  aligned(address: Address, bytes: number): void {
    const at = this.temporary();
    this.emit(`lea.${this.#linearSize}.base`, { d: at, a: address.at, imm: pack(address.disp, 0) });
    this.emit('aligned', { a: at, imm: BigInt(bytes) });
  }
  /** A further unit of the same memory operand. */
  beyond(address: Address, bytes: number): Address {
    return { ...address, disp: address.disp + BigInt(bytes) };
  }

  // ## Operands
  //
  // Operand `n` of the encoding, counted from 0. `read` gives its value; `write` stores one; `modify` does both, and checks for permission to write before
  // anything has been changed.

  read(n: number, bytes = this.bytes(n)): Source {
    const spec = this.operands[n] as OperandSpec;
    if (spec.kind === 'I' && this.#immediateAt !== NONE) {
      const d = this.temporary();
      this.emit(`code.${this.bytes(n)}`, { d, imm: BigInt(this.#immediateAt) });
      return { at: d };
    }
    if (spec.kind === 'I' || spec.kind === 'J') return { imm: this.insn.imm };
    if (spec.kind === 'k') return { imm: 1n };
    const register = this.registerOf(n);
    if (register !== NONE) return { at: register };
    return { at: this.load(this.address(bytes, READ), bytes) };
  }
  /** Like `read`, for places where a constant cannot stand. */
  value(n: number, bytes = this.bytes(n)): number {
    const source = this.read(n, bytes);
    if ('at' in source) return source.at;
    const d = this.temporary();
    this.emit('mov.8.i', { d, imm: source.imm });
    return d;
  }
  /** `make` receives the operand to put the value in: the register itself, or a temporary that is then stored. */
  write(n: number, make: (d: number) => void): void {
    const register = this.registerOf(n);
    if (register !== NONE) {
      make(register);
      return;
    }
    const bytes = this.bytes(n);
    const address = this.address(bytes, WRITE);
    const d = this.#temporaryFor(bytes);
    make(d);
    this.store(address, bytes, d);
  }
  modify(n: number, change: (d: number) => void): void {
    const register = this.registerOf(n);
    if (register !== NONE) {
      change(register);
      return;
    }
    const bytes = this.bytes(n);
    const address = this.address(bytes, MODIFY);
    const d = this.load(address, bytes, this.temporary(), 'modify');
    change(d);
    this.store(address, bytes, d);
  }

  // ## The stack

  /** Width of the stack pointer: rSP, ESP or SP. */
  get stackSize(): 2 | 4 | 8 {
    if (this.code64) return 8;
    return this.mode & MODE.STACK32 ? 4 : 2;
  }
  #stack(offset: number, bytes: number, access: number): Address {
    return { at: this.linear(offset, SEG.SS, bytes, access), disp: 0n, stack: true };
  }
  /** One micro-operation serves where the operand is as wide as the stack pointer and the stack segment is flat. */
  #simple(bytes: number): boolean {
    return this.#flat && bytes >= 4 && bytes === this.stackSize;
  }
  push(from: number, bytes: number): void {
    if (this.#simple(bytes)) {
      this.emit(`push.${bytes}`, { a: from });
      return;
    }
    const top = this.temporary();
    this.moveStackPointer(top, -bytes);
    this.store(this.#stack(top, bytes, WRITE), bytes, from);
    this.emit(`mov.${this.stackSize}`, { d: slot(SLOT.RSP), a: top });
  }
  /** Reads the stack into a temporary without moving the stack pointer: the value lies `skip` bytes above it (or above `from`). */
  peek(bytes: number, skip = 0, from = slot(SLOT.RSP), kind: 'load' | 'modify' = 'load'): number {
    const at = this.temporary();
    this.moveStackPointer(at, skip, from);
    return this.load(this.#stack(at, bytes, kind === 'load' ? READ : MODIFY), bytes, at, kind);
  }
  /** Writes the stack `depth` bytes above the stack pointer (so `depth` is negative), without moving it. */
  poke(value: number, bytes: number, depth: number): void {
    this.scratch(() => {
      const at = this.temporary();
      this.moveStackPointer(at, depth);
      this.store(this.#stack(at, bytes, WRITE), bytes, value);
    });
  }
  pop(d: number, bytes: number): void {
    if (this.#simple(bytes)) {
      this.emit(`pop.${bytes}`, { d });
      return;
    }
    const value = this.peek(bytes);
    this.release(bytes);
    this.emit(`mov.${bytes}`, { d, a: value });
  }
  /** d := stack pointer + `by`, cut to its width. */
  moveStackPointer(d: number, by: number, from = slot(SLOT.RSP)): void {
    this.emit(`lea.${this.stackSize}.base`, { d, a: from, imm: pack(by, 0) });
  }
  /** Adds to the stack pointer. */
  release(bytes: number): void {
    const moved = this.temporary();
    this.moveStackPointer(moved, bytes);
    this.emit(`mov.${this.stackSize}`, { d: slot(SLOT.RSP), a: moved });
  }

  /** RIP of the following instruction, as an operand. */
  get nextRip(): number {
    return NEXT_RIP;
  }
}
