// # Moving, addressing, exchanging

import { CONDITIONS } from '../engine/micro-ops.ts';
import { SLOT } from '../state.ts';
import { type Builder, selectorOf, slot } from './builder.ts';
import { instruction } from './encoding.ts';
import { NONE } from './instruction.ts';

// ## MOV

const MOV = instruction(
  'MOV',
  '88 Eb,Gb; 89 Ev,Gv; 8A Gb,Eb; 8B Gv,Ev; A0 AL,Ob; A1 rAX,Ov; A2 Ob,AL; A3 Ov,rAX; B0+ Zb,Ib; B8+ Zv,Iv; C6/0 Eb,Ib; C7/0 Ev,Iz',
  (b) => {
    const bytes = b.bytes(0);
    const to = b.registerOf(0);
    // A load of 4 or 8 bytes replaces the whole register, so it can go there at once. Likewise a store straight from a register.
    if (to !== NONE && isMemory(b, 1) && bytes >= 4) return void b.load(b.address(bytes, 0), bytes, to);
    if (to === NONE) {
      const from = b.value(1);
      return b.store(b.address(bytes, 1), bytes, from);
    }
    const source = b.read(1);
    if ('imm' in source) b.emit(`mov.${bytes}.i`, { d: to, imm: source.imm });
    else b.emit(`mov.${bytes}`, { d: to, a: source.at });
  },
); // copies
const isMemory = (b: Builder, n: number): boolean => b.registerOf(n) === NONE && 'EMO'.includes(b.operands[n]?.kind ?? '-');

const extend = (name: string) => (b: Builder) => {
  const [to, from] = [b.bytes(0), b.bytes(1)];
  b.emit(from < to ? `${name}.${from}.${to}` : `mov.${to}`, { d: b.value(0), a: b.value(1) });
};
const MOVZX = instruction('MOVZX', '0FB6 Gv,Eb; 0FB7 Gv,Ew', extend('movzx')); // copies, extending by zeros
const MOVSX = instruction('MOVSX', '0FBE Gv,Eb; 0FBF Gv,Ew', extend('movsx')); // copies, extending by the sign
/** Without REX.W it copies; with a 66 prefix it copies 16 bits. */
const MOVSXD = instruction('MOVSXD', '63 Gv,Ed only64', (b) => {
  const to = b.bytes(0);
  const value = b.value(1, Math.min(4, to));
  b.emit(to === 8 ? 'movsx.4.8' : `mov.${to}`, { d: b.value(0), a: value });
});
const MOVNTI = instruction('MOVNTI', '0FC3 My,Gy bare SSE2', (b) => b.write(0, (d) => b.emit(`mov.${b.bytes(0)}`, { d, a: b.value(1) })));

/** Computes an address and accesses nothing. It is cut to the address size, then to the operand size. */
const LEA = instruction('LEA', '8D Gv,M', (b) => {
  const { operandSize, addressSize } = b.insn;
  if (operandSize > 2) b.offset(Math.min(operandSize, addressSize), b.value(0));
  else b.emit('mov.2', { d: b.value(0), a: b.offset() });
});

/** AL := byte at DS:[rBX + AL]. */
const XLAT = instruction('XLAT', 'D7', (b) => {
  const { addressSize, segment } = b.insn;
  const index = b.temporary();
  const at = b.temporary();
  b.emit('movzx.1.4', { d: index, a: slot(SLOT.RAX) });
  b.emit(`lea.${addressSize}.both`, { d: at, a: slot(SLOT.RBX), b: index });
  const value = b.load({ at: b.linear(at, segment, 1, 0), disp: 0n, stack: segment === 2 }, 1);
  b.emit('mov.1', { d: slot(SLOT.RAX), a: value });
});

// ## Exchanges

/** 90 is XCHG with itself and does nothing at all: the one case in which a 32-bit operation does not clear the upper half. */
const XCHG = instruction('XCHG', '86 Eb,Gb lock; 87 Ev,Gv lock; 90+ Zv,rAX', (b) => {
  if (b.insn.opcode === 0x90 && (b.insn.rex & 1) === 0) return;
  const bytes = b.bytes(0);
  const other = b.value(1);
  const register = b.registerOf(0);
  if (register !== NONE) return b.emit(`swap.${bytes}`, { d: register, a: other });
  const address = b.address(bytes, 2);
  const old = b.load(address, bytes, b.temporary(), 'modify');
  b.store(address, bytes, other);
  b.emit(`mov.${bytes}`, { d: other, a: old });
});

const XADD = instruction('XADD', '0FC0 Eb,Gb lock; 0FC1 Ev,Gv lock', (b) => {
  const bytes = b.bytes(0);
  const other = b.value(1);
  const old = b.temporary();
  const sum = b.temporary();
  const total = (from: number): void => {
    b.emit(`mov.${bytes}`, { d: old, a: from });
    b.emit(`add.${bytes}`, { d: sum, a: from, b: other });
  };
  const register = b.registerOf(0);
  if (register !== NONE) {
    // With the same register twice, the sum wins.
    total(register);
    b.emit(`mov.${bytes}`, { d: other, a: old });
    return b.emit(`mov.${bytes}`, { d: register, a: sum });
  }
  const address = b.address(bytes, 2);
  total(b.load(address, bytes, b.temporary(), 'modify'));
  b.store(address, bytes, sum);
  b.emit(`mov.${bytes}`, { d: other, a: old });
}); // exchanges, then adds

// @clause x86.exchange.results
/** If the destination equals the accumulator it is replaced, else the accumulator is. Memory is written either way. */
const CMPXCHG = instruction('CMPXCHG', '0FB0 Eb,Gb lock; 0FB1 Ev,Gv lock', (b) => {
  const bytes = b.bytes(0);
  const accumulator = slot(SLOT.RAX);
  const replacement = b.value(1);
  const equal = b.temporary();
  const differs = b.temporary();
  const old = b.temporary();
  const compare = (): void => {
    b.emit(`cmp.${bytes}`, { a: accumulator, b: old });
    b.emit('set.z', { d: equal });
    b.emit('set.nz', { d: differs });
  };
  const register = b.registerOf(0);
  if (register !== NONE) {
    b.emit(`mov.${bytes}`, { d: old, a: register });
    compare();
    replaceIf(b, register, bytes, replacement, equal);
  } else {
    const address = b.address(bytes, 2);
    b.load(address, bytes, old, 'modify');
    compare();
    const result = b.temporary();
    b.emit('mov.8', { d: result, a: old });
    b.emit(`pick.${bytes}`, { d: result, a: replacement, b: equal });
    b.store(address, bytes, result);
  }
  replaceIf(b, accumulator, bytes, old, differs);
});
/** Unlike CMOV, this does not write at all when it does not replace: the upper half of a register survives. */
const replaceIf = (b: Builder, d: number, bytes: number, value: number, truth: number): void => {
  // Shorter writes leave the rest of a register alone anyway; and d may be the second byte of one.
  if (bytes < 4) return void b.emit(`pick.${bytes}`, { d, a: value, b: truth });
  const wide = b.temporary();
  b.emit('mov.8', { d: wide, a: d });
  b.emit(`mov.${bytes}`, { d: wide, a: value });
  b.emit('pick.8', { d, a: wide, b: truth });
};

// @clause x86.cmpxchg16b.results
// @clause x86.cmpxchg16b.alignment
/** CMPXCHG8B, and CMPXCHG16B with REX.W: two units at once, and ZF is the only flag that changes. */
const CMPXCHG8B = instruction('CMPXCHG8B', '0FC7/1 M lock CX8', (b) => {
  const bytes = b.insn.operandSize === 8 ? 8 : 4;
  const { RAX, RBX, RCX, RDX } = SLOT;
  const address = b.address(2 * bytes, 2);
  if (bytes === 8) b.aligned(address, 16);
  const upper = b.beyond(address, bytes);
  // One access of eight bytes as far as alignment and page faults are concerned.
  if (bytes === 4) b.load(address, 8, b.temporary(), 'modify');
  const low = b.load(address, bytes, b.temporary(), 'modify');
  const high = b.load(upper, bytes, b.temporary(), 'modify');
  const equal = b.temporary();
  const equalHigh = b.temporary();
  const differs = b.temporary();
  b.emit(`isEqual.${bytes}`, { d: equal, a: low, b: slot(RAX) });
  b.emit(`isEqual.${bytes}`, { d: equalHigh, a: high, b: slot(RDX) });
  b.emit('both', { d: equal, a: equal, b: equalHigh });
  b.emit('mov.1', { d: differs, a: equal });
  b.emit('flip', { d: differs, a: differs });
  for (const [to, old, replacement] of [
    [address, low, RBX],
    [upper, high, RCX],
  ] as const) {
    const result = b.temporary();
    b.emit('mov.8', { d: result, a: old });
    b.emit(`pick.${bytes}`, { d: result, a: slot(replacement), b: equal });
    b.store(to, bytes, result);
  }
  b.emit('setZero', { a: equal });
  replaceIf(b, slot(RAX), bytes, low, differs);
  replaceIf(b, slot(RDX), bytes, high, differs);
});

// ## Conditional moves

const hex = (opcode: number): string => opcode.toString(16).toUpperCase().padStart(4, '0');

/** The operand is read in any case. */
const CMOVCC = CONDITIONS.map(
  (condition, n) =>
    instruction(`CMOV${condition.toUpperCase()}`, `${hex(0x0f40 + n)} Gv,Ev CMOV`, (b) => {
      const truth = b.temporary();
      const from = b.value(1);
      b.emit(`set.${condition}`, { d: truth });
      b.emit(`pick.${b.bytes(0)}`, { d: b.value(0), a: from, b: truth });
    }), // copies if the condition holds
);
const SETCC = CONDITIONS.map((condition, n) =>
  instruction(`SET${condition.toUpperCase()}`, `${hex(0x0f90 + n)} Eb`, (b) => b.write(0, (d) => b.emit(`set.${condition}`, { d }))),
);

// ## Nothing
//
// Prefetches and the encodings reserved for hints do nothing, and do not even touch their operand. On one processor whose every access is complete before the
// next begins, fences have nothing to wait for. CLFLUSH reads its operand, so it can fault.

const NOP = instruction('NOP', '0F0D Mv; 0F18 Ev; 0F19 Ev; 0F1A Ev; 0F1B Ev; 0F1C Ev; 0F1D Ev; 0F1E Ev; 0F1F Ev', () => {}); // nothing
const LFENCE = instruction('LFENCE', '0FAE/5 register SSE2 bare', () => {}); // orders loads
const MFENCE = instruction('MFENCE', '0FAE/6 register SSE2 bare', () => {}); // orders loads and stores
const SFENCE = instruction('SFENCE', '0FAE/7 register SSE bare', () => {}); // orders stores
const CLFLUSH = instruction('CLFLUSH', '0FAE/7 Mb CLFSH bare', (b) => void b.value(0)); // writes a cache line back and drops it

// ## Segment selectors as data

/** A segment register is pushed zero-extended, except that with 32-bit operands Intel's processors write two bytes and leave two as they were. */
const PUSH_SREG = (['ES', 'CS', 'SS', 'DS', 'FS', 'GS'] as const).map(
  (name, n) =>
    instruction(`PUSH ${name}`, ['06 no64', '0E no64', '16 no64', '1E no64', '0FA0 d64', '0FA8 d64'][n] as string, (b) => {
      const bytes = b.insn.operandSize;
      if (bytes === 4) {
        b.poke(selectorOf(n), 2, -4);
        return b.release(-4);
      }
      const selector = b.temporary();
      b.emit('movzx.2.4', { d: selector, a: selectorOf(n) });
      b.push(selector, bytes);
    }), // pushes a segment register
);

// biome-ignore format: table
export const MOVES = [
  MOV, MOVZX, MOVSX, MOVSXD, MOVNTI, LEA, XLAT, XCHG, XADD, CMPXCHG, CMPXCHG8B, ...CMOVCC, ...SETCC, NOP, LFENCE, MFENCE, SFENCE, CLFLUSH, ...PUSH_SREG,
];
