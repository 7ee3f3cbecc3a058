// # Floating-point vectors: moves
//
// A move of floating-point numbers moves bits, whatever they mean: no NaN is made quiet, no flag raised. SSE has a set of moves for singles, SSE2 one
// for doubles, and to the registers it is all the same. (Some processors guessed from the mnemonic which unit would want the number next.)

import { define, type Emitter } from '../engine/micro-ops.ts';
import { type Code, constantOf, i32, i64 } from '../engine/wasm-assembler.ts';
import { i8x16, i32x4, i64x2, v128 } from '../engine/wasm-vectors.ts';
import { type Builder, xmm } from './builder.ts';
import type { Definition } from './encoding.ts';
import { NONE } from './instruction.ts';
import { source } from './simd-common.ts';
import { keepVector, lanes, simd, vector, ZERO } from './simd-lanes.ts';
import { moveAll } from './simd-moves.ts';

const WHOLE = [
  moveAll('MOVAPS', '0F28 Vx,Wx SSE; 0F29 Wx,Vx SSE', true), // moves four singles
  moveAll('MOVAPD', '66.0F28 Vx,Wx SSE2; 66.0F29 Wx,Vx SSE2', true), // moves two doubles
  moveAll('MOVUPS', '0F10 Vx,Wx SSE; 0F11 Wx,Vx SSE', false), // moves four singles, from or to any address
  moveAll('MOVUPD', '66.0F10 Vx,Wx SSE2; 66.0F11 Wx,Vx SSE2', false), // moves two doubles, from or to any address
  moveAll('MOVNTPS', '0F2B Mx,Vx SSE', true), // stores four singles past the cache
  moveAll('MOVNTPD', '66.0F2B Mx,Vx SSE2', true), // stores two doubles past the cache
];

// ## Any doublewords of two registers
//
// Most of what follows makes four doublewords out of eight, those of the destination and those of the source. Which ones is known when the
// instruction is decoded: four numbers, one to a byte. An eighth place is nowhere, and reads as zero.

const NOTHING = 8;
const placesOf = (places: readonly number[]): number[] => places.flatMap((place) => [0, 1, 2, 3].map((i) => 4 * place + i));
function chosen(e: Emitter, x: Code, y: Code): Code {
  const known = constantOf(e.imm);
  if (known !== null) {
    const places = [0, 8, 16, 24].map((at) => Number((known >> BigInt(at)) & 0xffn));
    const shuffled = i8x16.shuffle(x, y, placesOf(places.map((place) => place & 7)));
    return places.includes(NOTHING) ? v128.and(shuffled, vector(places.flatMap((place) => Array(4).fill(place === NOTHING ? 0 : 0xff)))) : shuffled;
  }
  const spread = i8x16.swizzle(i32x4.splat(i32.wrap_i64(e.imm)), vector([0, 1, 2, 3].flatMap((n) => [n, n, n, n])));
  const [kept, order] = keepVector(e, i8x16.add(i8x16.shl(spread, i32.const(2)), vector([0, 1, 2, 3])));
  // A swizzle gives zeros for places that do not exist.
  return [kept, v128.or(i8x16.swizzle(x, order), i8x16.swizzle(y, i8x16.sub(order, vector([16]))))];
}
define('choose', (e) => e.setVector('d', chosen(e, e.getVector('d'), e.getVector('a'))), { outlined: true });

/** `order` says for each doubleword of the result which one it is: 0 to 3 of the destination, 4 to 7 of the source, or NOTHING. */
const choose = (b: Builder, from: number, order: readonly number[]): void =>
  b.emit('choose', { d: b.registerOf(0), a: from, imm: order.reduce((imm, place, n) => imm | (BigInt(place) << BigInt(8 * n)), 0n) });
const pairs = (low: number, high: number): number[] => [2 * low, 2 * low + 1, 2 * high, 2 * high + 1];
const fixed = (name: string, encodings: string, order: readonly number[]): Definition =>
  lanes(name, encodings, (x, y) => i8x16.shuffle(x, y, placesOf(order)));
const byImmediate = (name: string, encodings: string, order: (imm: number) => number[]): Definition =>
  simd(name, encodings, (b) => choose(b, source(b, 1), order(Number(b.insn.imm) & 0xff)));
const bit = (imm: number, n: number): number => (imm >> n) & 1;

const SHUFFLES = [
  fixed('UNPCKLPS', '0F14 Vx,Wx SSE', [0, 4, 1, 5]), // interleaves the lower singles
  fixed('UNPCKHPS', '0F15 Vx,Wx SSE', [2, 6, 3, 7]), // interleaves the upper singles
  fixed('UNPCKLPD', '66.0F14 Vx,Wx SSE2', pairs(0, 2)), // the lower doubles side by side
  fixed('UNPCKHPD', '66.0F15 Vx,Wx SSE2', pairs(1, 3)), // the upper doubles side by side
  fixed('MOVSLDUP', 'F3.0F12 Vx,Wx SSE3', [4, 4, 6, 6]), // the even singles, twice each
  fixed('MOVSHDUP', 'F3.0F16 Vx,Wx SSE3', [5, 5, 7, 7]), // the odd singles, twice each
  // two singles of the destination, then two of the source
  byImmediate('SHUFPS', '0FC6 Vx,Wx,Ib SSE', (imm) => [imm & 3, (imm >> 2) & 3, 4 + ((imm >> 4) & 3), 4 + ((imm >> 6) & 3)]),
  byImmediate('SHUFPD', '66.0FC6 Vx,Wx,Ib SSE2', (imm) => pairs(bit(imm, 0), 2 + bit(imm, 1))), // a double of each
  byImmediate('BLENDPS', '66.0F3A0C Vx,Wx,Ib SSE4.1', (imm) => [0, 1, 2, 3].map((n) => n + 4 * bit(imm, n))), // singles of either, chosen by the immediate
  byImmediate('BLENDPD', '66.0F3A0D Vx,Wx,Ib SSE4.1', (imm) => pairs(2 * bit(imm, 0), 1 + 2 * bit(imm, 1))), // doubles of either, chosen by the immediate
];

// ## One number, or half a register
//
// Scalar moves are not symmetrical. From memory, the rest of the register is cleared; from a register, it stays. Halves always leave the other half
// alone.

for (const bytes of [4, 8] as const) {
  for (const size of [8, 4] as const) {
    const linear = (e: Emitter): Code => {
      const sum = i64.add(e.get('a'), e.immLow);
      return size === 8 ? sum : i64.extend_i32_u(i32.wrap_i64(sum));
    };
    define(`loadScalar.${bytes}.${size}`, (e) => e.setVector('d', i64x2.replace(ZERO, 0, e.load(bytes, linear(e), e.immHigh32))), { outlined: true });
  }
}
// @clause sse.packed.lanes
/** @param order what a move between registers does. */
const scalar = (name: string, encodings: string, order: readonly number[]): Definition =>
  simd(name, encodings, (b) => {
    const [d, a, bytes] = [b.registerOf(0), b.registerOf(1), Math.min(b.bytes(0), b.bytes(1))];
    if (d === NONE) b.store(b.address(bytes, 1), bytes, a);
    else if (a === NONE) b.load(b.address(bytes, 0), bytes, d, 'loadScalar');
    else choose(b, a, order);
  });

for (const half of [0, 1] as const) {
  define(`half.${half}`, (e) => e.setVector('d', i64x2.replace(e.getVector('d'), half, e.get('a'))), { outlined: true });
}
/** Moves memory to a half of the register, or that half to memory. */
const moveHalf = (half: 0 | 1) => (b: Builder) => {
  const d = b.registerOf(0);
  if (d === NONE) b.store(b.address(8, 1), 8, b.registerOf(1) + 8 * half);
  else b.emit(`half.${half}`, { d, a: source(b, 1, 8) });
};

const PARTS = [
  scalar('MOVSS', 'F3.0F10 Vx,Wd SSE; F3.0F11 Wd,Vx SSE', [4, 1, 2, 3]), // moves a single
  scalar('MOVSD', 'F2.0F10 Vx,Wq SSE2; F2.0F11 Wq,Vx SSE2', [4, 5, 2, 3]), // moves a double
  simd('MOVLPS', '0F12 Vx,Mq SSE; 0F13 Mq,Vx SSE', moveHalf(0)), // moves two singles, the lower half of the register
  simd('MOVLPD', '66.0F12 Vx,Mq SSE2; 66.0F13 Mq,Vx SSE2', moveHalf(0)), // moves a double, the lower half of the register
  simd('MOVHPS', '0F16 Vx,Mq SSE; 0F17 Mq,Vx SSE', moveHalf(1)), // moves two singles, the upper half of the register
  simd('MOVHPD', '66.0F16 Vx,Mq SSE2; 66.0F17 Mq,Vx SSE2', moveHalf(1)), // moves a double, the upper half of the register
  fixed('MOVHLPS', '0F12 Vx,Ux SSE', [6, 7, 2, 3]), // the source's upper half to the lower half
  fixed('MOVLHPS', '0F16 Vx,Ux SSE', [0, 1, 4, 5]), // the source's lower half to the upper half
  simd('MOVDDUP', 'F2.0F12 Vx,Wq SSE3', (b) => b.emit('duplicate', { d: b.registerOf(0), a: source(b, 1) })), // a double, twice
];
define('duplicate', (e) => e.setVector('d', i64x2.splat(e.get('a'))), { outlined: true });

// ## Logic
//
// The same as on integers.

const LOGIC = [
  lanes('ANDPS', '0F54 Vx,Wx SSE', v128.and), // x AND y
  lanes('ANDPD', '66.0F54 Vx,Wx SSE2', v128.and), // x AND y
  lanes('ANDNPS', '0F55 Vx,Wx SSE', (x, y) => v128.andnot(y, x)), // NOT x AND y
  lanes('ANDNPD', '66.0F55 Vx,Wx SSE2', (x, y) => v128.andnot(y, x)), // NOT x AND y
  lanes('ORPS', '0F56 Vx,Wx SSE', v128.or), // x OR y
  lanes('ORPD', '66.0F56 Vx,Wx SSE2', v128.or), // x OR y
  lanes('XORPS', '0F57 Vx,Wx SSE', v128.xor), // x XOR y
  lanes('XORPD', '66.0F57 Vx,Wx SSE2', v128.xor), // x XOR y
];

// ## Signs, and choosing by them

define('signs.4', (e) => e.set('d', 4, i64.extend_i32_u(i32x4.bitmask(e.getVector('a')))), { outlined: true });
define('signs.8', (e) => e.set('d', 4, i64.extend_i32_u(i64x2.bitmask(e.getVector('a')))), { outlined: true });
const signs = (bytes: number) => (b: Builder) => b.emit(`signs.${bytes}`, { d: b.registerOf(0), a: b.registerOf(1) });

/** The mask is XMM0, by its signs. */
const blendVariable = (name: string, encodings: string, bytes: 4 | 8): Definition => {
  const isNegative = (mask: Code): Code => (bytes === 4 ? i32x4.lt_s(mask, ZERO) : i64x2.lt_s(mask, ZERO));
  define(`${name}.x`, (e) => e.setVector('d', v128.bitselect(e.getVector('a'), e.getVector('d'), isNegative(e.getVector('b')))), { outlined: true });
  return simd(name, encodings, (b) => b.emit(`${name}.x`, { d: b.registerOf(0), a: source(b, 1), b: xmm(0) }));
};

// ## One single in and out

const BY_SIGN = [
  simd('MOVMSKPS', '0F50 Gd,Ux SSE', signs(4)), // the signs of all singles as a number
  simd('MOVMSKPD', '66.0F50 Gd,Ux SSE2', signs(8)), // the signs of both doubles as a number
  blendVariable('BLENDVPS', '66.0F3814 Vx,Wx SSE4.1', 4), // singles of either, chosen by the signs in XMM0
  blendVariable('BLENDVPD', '66.0F3815 Vx,Wx SSE4.1', 8), // doubles of either, chosen by the signs in XMM0
];

// ## One single in and out

const EXTRACTPS = simd('EXTRACTPS', '66.0F3A17 Ed,Vx,Ib SSE4.1', (b) => {
  const d = b.registerOf(0);
  const from = b.registerOf(1) + 4 * (Number(b.insn.imm) & 3);
  if (d === NONE) b.store(b.address(4, 1), 4, from);
  else b.emit('mov.4', { d, a: from });
}); // extracts a single

// The immediate is three numbers: which single of the source (memory has only one), which one to replace, and which ones to clear.

const INSERTPS = simd('INSERTPS', '66.0F3A21 Vx,Wd,Ib SSE4.1', (b) => {
  const imm = Number(b.insn.imm) & 0xff;
  const order = [0, 1, 2, 3];
  order[(imm >> 4) & 3] = 4 + (b.registerOf(1) === NONE ? 0 : imm >> 6);
  choose(
    b,
    source(b, 1),
    order.map((place, n) => (bit(imm, n) ? NOTHING : place)),
  );
}); // inserts a single, and clears others

export const SSE_FLOAT_MOVES = [...WHOLE, ...SHUFFLES, ...PARTS, ...LOGIC, ...BY_SIGN, EXTRACTPS, INSERTPS];
