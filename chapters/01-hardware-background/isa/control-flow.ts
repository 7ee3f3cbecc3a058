// # Going elsewhere, and the stack

import { CONDITIONS } from '../engine/micro-ops.ts';
import { MODE, SEG, SLOT } from '../state.ts';
import { type Builder, slot } from './builder.ts';
import { instruction } from './encoding.ts';

const { RSP, RBP, RCX } = SLOT;

// ## Jumps
//
// The width of the operand cuts the target: in 16-bit code, or with a prefix, only the low 16 bits of EIP survive.

const JMP = instruction('JMP', 'E9 Jz f64; EB Jb f64; FF/4 Ev f64', (b) => {
  const { operandSize, imm } = b.insn;
  if (b.operands[0]?.kind === 'J') b.end(`jump.${operandSize}`, { imm });
  else b.end(`jumpTo.${operandSize}`, { a: b.value(0) });
}); // jumps
const hex = (opcode: number): string => opcode.toString(16).toUpperCase().padStart(2, '0');
const JCC = CONDITIONS.map(
  (condition, n) =>
    instruction(`J${condition.toUpperCase()}`, `${hex(0x70 + n)} Jb f64; 0F${hex(0x80 + n)} Jz f64`, (b) => {
      b.end(`j${condition}.${b.insn.operandSize}`, { imm: b.insn.imm });
    }), // jumps if the condition holds
);

/** LOOP, LOOPE, LOOPNE: counts rCX (of address size) down, leaves the flags alone. */
const loop = (condition: string | null) => (b: Builder) => {
  const { addressSize, operandSize, imm } = b.insn;
  const left = b.temporary();
  const goOn = b.temporary();
  b.emit(`lea.${addressSize}.base`, { d: left, a: slot(RCX), imm: 0xffffffffn });
  b.emit(`isZero.${addressSize}`, { d: goOn, a: left });
  b.emit('flip', { d: goOn, a: goOn });
  if (condition) {
    const truth = b.temporary();
    b.emit(`set.${condition}`, { d: truth });
    b.emit('both', { d: goOn, a: goOn, b: truth });
  }
  b.emit(`takeIf.${operandSize}`, { a: goOn, imm });
  b.emit(`mov.${addressSize}`, { d: slot(RCX), a: left });
  b.end('dispatch');
};
const LOOPNE = instruction('LOOPNE', 'E0 Jb f64', loop('nz')); // counts rCX down, jumps while it is not zero and ZF is clear
const LOOPE = instruction('LOOPE', 'E1 Jb f64', loop('z')); // counts rCX down, jumps while it is not zero and ZF is set
const LOOP = instruction('LOOP', 'E2 Jb f64', loop(null)); // counts rCX down, jumps while it is not zero
const JRCXZ = instruction('JRCXZ', 'E3 Jb f64', (b) => {
  const truth = b.temporary();
  b.emit(`isZero.${b.insn.addressSize}`, { d: truth, a: slot(RCX) });
  b.emit(`takeIf.${b.insn.operandSize}`, { a: truth, imm: b.insn.imm });
  b.end('dispatch');
}); // jumps if rCX is zero

// ## Calls
//
// The target is computed and checked first, then the return address is pushed, then control goes: a call that faults has not touched the stack pointer.
// It may have touched the stack: the processors that this one was compared with have written the return address when an indirect call's target is refused.

const CALL = instruction('CALL', 'E8 Jz f64; FF/2 Ev f64', (b) => {
  const { operandSize, imm } = b.insn;
  const target = b.temporary();
  if (b.operands[0]?.kind === 'J') b.emit(`aim.${operandSize}`, { d: target, imm });
  else if (operandSize < 8 && !(b.mode & MODE.FLAT)) {
    const value = b.value(0);
    b.poke(b.nextRip, operandSize, -operandSize);
    b.emit(`checkTarget.${operandSize}`, { d: target, a: value });
  } else b.emit(operandSize === 8 ? 'checkCall.8' : `checkTarget.${operandSize}`, { d: target, a: b.value(0) });
  b.push(b.nextRip, operandSize);
  b.end('goTo', { a: target });
}); // pushes the address of the next instruction, jumps
const RET = instruction('RET', 'C3 f64; C2 Iw f64', (b) => {
  const { operandSize, imm } = b.insn;
  const target = b.temporary();
  b.emit(`checkTarget.${operandSize}`, { d: target, a: b.peek(operandSize) });
  b.release(operandSize + Number(imm & 0xffffn));
  b.end('goTo', { a: target });
}); // pops an address, jumps there

// ## PUSH and POP

const PUSH = instruction('PUSH', '50+ Zv d64; FF/6 Ev d64; 68 Iz d64; 6A Ib d64', (b) => b.push(b.value(0), b.insn.operandSize)); // pushes

// @clause x86.stack.operands
/** POP to memory: the address is computed with the stack pointer as it is after the pop, but nothing is committed until the store has succeeded. */
const POP = instruction('POP', '58+ Zv d64; 8F/0 Ev d64', (b) => {
  const { operandSize, base } = b.insn;
  const register = b.registerOf(0);
  if (register >= 0) return b.pop(register, operandSize);
  const value = b.peek(operandSize);
  if (base !== RSP) {
    b.store(b.address(operandSize, 1), operandSize, value);
    return b.release(operandSize);
  }
  const { segment, addressSize } = b.insn;
  const offset = b.offset(addressSize, b.temporary(), operandSize);
  b.store({ at: b.linear(offset, segment, operandSize, 1), disp: 0n, stack: segment === 2 }, operandSize, value);
  b.release(operandSize);
});

/** All eight registers, SP as it was before. The stack pointer moves once everything has been written. */
const PUSHA = instruction('PUSHA', '60 no64', (b) => {
  const bytes = b.insn.operandSize;
  const old = b.temporary();
  b.emit('mov.8', { d: old, a: slot(RSP) });
  for (let n = 0; n < 8; n++) b.poke(slot(n), bytes, -bytes * (n + 1));
  b.release(-8 * bytes);
});
/** The stored SP is read, and goes nowhere. */
const POPA = instruction('POPA', '61 no64', (b) => {
  const bytes = b.insn.operandSize;
  // Registers loaded before a fault stay loaded; the stack pointer has not moved, so the instruction can start again.
  for (const n of [7, 6, 5, 4, 3, 2, 1, 0]) {
    b.scratch(() => {
      const value = b.peek(bytes, bytes * (7 - n));
      if (n !== SLOT.RSP) b.emit(`mov.${bytes}`, { d: slot(n), a: value });
    });
  }
  b.release(8 * bytes);
});

// ## Stack frames

/**
 * ENTER size, level: saves rBP, copies `level` - 1 outer frame pointers, makes rBP the new frame pointer and opens `size` bytes. It faults when the opened
 * area could not be written at its far end, although nothing is written there.
 */
const ENTER = instruction('ENTER', 'C8 Iw,Ib d64', (b) => {
  const bytes = b.insn.operandSize;
  const level = b.insn.selector & 31;
  const size = Number(b.insn.imm & 0xffffn);
  const frame = b.temporary();
  let depth = -bytes;
  b.moveStackPointer(frame, depth);
  b.poke(slot(RBP), bytes, depth);
  for (let n = 1; n < level; n++) {
    depth -= bytes;
    b.scratch(() => b.poke(b.peek(bytes, -bytes * n, slot(RBP)), bytes, depth));
  }
  if (level > 0) {
    depth -= bytes;
    b.poke(frame, bytes, depth);
  }
  b.peek(bytes, depth - size, slot(RSP), 'modify');
  b.emit(`mov.${bytes}`, { d: slot(RBP), a: frame });
  b.release(depth - size);
});
/** rSP := rBP; POP rBP. */
const LEAVE = instruction('LEAVE', 'C9 d64', (b) => {
  const bytes = b.insn.operandSize;
  const value = b.peek(bytes, 0, slot(RBP));
  const moved = b.temporary();
  b.moveStackPointer(moved, bytes, slot(RBP));
  b.emit(`mov.${b.stackSize}`, { d: slot(RSP), a: moved });
  b.emit(`mov.${bytes}`, { d: slot(RBP), a: value });
});

/** Array index against two bounds in memory: #BR. Whoever is below the lower bound never sees the upper one, not even a limit before it. */
const BOUND = instruction('BOUND', '62 Gv,M no64', (b) => {
  const bytes = b.insn.operandSize;
  const { segment, addressSize } = b.insn;
  const offset = b.offset();
  const bound = (at: number): number => b.load({ at: b.linear(at, segment, bytes, 0), disp: 0n, stack: segment === SEG.SS }, bytes);
  const index = b.value(0);
  const lower = bound(offset);
  const most = b.temporary();
  b.emit('mov.8.i', { d: most, imm: bytes === 2 ? 0x7fffn : 0x7fffffffn });
  b.emit(`bound.${bytes}`, { d: index, a: lower, b: most });
  const beyond = b.temporary();
  b.emit(`lea.${addressSize}.base`, { d: beyond, a: offset, imm: BigInt(bytes) });
  b.emit(`bound.${bytes}`, { d: index, a: lower, b: bound(beyond) });
});

// biome-ignore format: table
export const CONTROL_FLOW = [JMP, ...JCC, LOOPNE, LOOPE, LOOP, JRCXZ, CALL, RET, PUSH, POP, PUSHA, POPA, ENTER, LEAVE, BOUND];
