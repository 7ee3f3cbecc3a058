// # Integer vectors: lanes that move
//
// Packing, unpacking, widening, shuffling. Where the order is the instruction's own, it is a list of bytes: 0 to 15 are the destination's, 16 to 31 the
// source's, lowest first.

import { define, type Emitter } from '../engine/micro-ops.ts';
import { type Code, constantOf, get, i32, i64, select, set } from '../engine/wasm-assembler.ts';
import { i8x16, i16x8, i32x4, i64x2, v128 } from '../engine/wasm-vectors.ts';
import { type Builder, xmm } from './builder.ts';
import type { Definition } from './encoding.ts';
import { source } from './simd-common.ts';
import { across, join, keepVector, lanes, OWN_PLACE, PLACES, setMmx, simd, vector, ZERO } from './simd-lanes.ts';

// ## Packing
//
// Lanes of half the length. A value that does not fit is replaced by the nearest that does; `US` tells what the results are: what is packed is signed in any case.

const PACKS = [
  across('PACKSSWB', '0F63 Pq,Qq MMX; 66.0F63 Vx,Wx SSE2', i8x16.narrow_i16x8_s), // packs words into signed bytes
  across('PACKUSWB', '0F67 Pq,Qq MMX; 66.0F67 Vx,Wx SSE2', i8x16.narrow_i16x8_u), // packs words into unsigned bytes
  across('PACKSSDW', '0F6B Pq,Qq MMX; 66.0F6B Vx,Wx SSE2', i16x8.narrow_i32x4_s), // packs doublewords into signed words
  lanes('PACKUSDW', '66.0F382B Vx,Wx SSE4.1', i16x8.narrow_i32x4_u), // packs doublewords into unsigned words
];

// ## Unpacking
//
// Lanes of both operands in turn, from the lower or the upper halves. A 64-bit register's upper half begins at byte 4; its source operand is read in full, although
// PUNPCKL needs, and in memory touches, only 32 bits of it.

const interleave = (bytes: number, from: number): number[] => {
  const lanesOf = Array.from({ length: 8 / bytes }, (_, lane) => PLACES.slice(0, bytes).map((i) => from + lane * bytes + i));
  return lanesOf.flatMap((lane) => [...lane, ...lane.map((place) => place + 16)]);
};
const unpackLower = (name: string, encodings: string, bytes: number): Definition =>
  lanes(name, encodings, (x, y) => i8x16.shuffle(x, y, interleave(bytes, 0)));
const unpackUpper = (name: string, encodings: string, bytes: number): Definition =>
  lanes(
    name,
    encodings,
    (x, y) => i8x16.shuffle(x, y, interleave(bytes, 8)),
    (x, y) => i8x16.shuffle(x, y, interleave(bytes, 4)),
  );

const UNPACKS = [
  unpackLower('PUNPCKLBW', '0F60 Pq,Qd MMX; 66.0F60 Vx,Wx SSE2', 1), // interleaves the lower bytes
  unpackLower('PUNPCKLWD', '0F61 Pq,Qd MMX; 66.0F61 Vx,Wx SSE2', 2), // interleaves the lower words
  unpackLower('PUNPCKLDQ', '0F62 Pq,Qd MMX; 66.0F62 Vx,Wx SSE2', 4), // interleaves the lower doublewords
  unpackLower('PUNPCKLQDQ', '66.0F6C Vx,Wx SSE2', 8), // the lower quadwords side by side
  unpackUpper('PUNPCKHBW', '0F68 Pq,Qq MMX; 66.0F68 Vx,Wx SSE2', 1), // interleaves the upper bytes
  unpackUpper('PUNPCKHWD', '0F69 Pq,Qq MMX; 66.0F69 Vx,Wx SSE2', 2), // interleaves the upper words
  unpackUpper('PUNPCKHDQ', '0F6A Pq,Qq MMX; 66.0F6A Vx,Wx SSE2', 4), // interleaves the upper doublewords
  unpackUpper('PUNPCKHQDQ', '66.0F6D Vx,Wx SSE2', 8), // the upper quadwords side by side
];

// ## Widening
//
// The source is as much shorter as the lanes become longer: 8, 4 or 2 bytes, and in memory no more than that are touched.

const widen = (name: string, encodings: string, ...steps: ((x: Code) => Code)[]): Definition => {
  const bytes = { q: 8, d: 4, w: 2 }[/,W([qdw])/.exec(encodings)?.[1] as 'q' | 'd' | 'w'];
  define(
    `${name}.x`,
    (e) =>
      e.setVector(
        'd',
        steps.reduce((v, step) => step(v), i64x2.splat(e.get('a', bytes))),
      ),
    { outlined: true },
  );
  return simd(name, encodings, (b) => b.emit(`${name}.x`, { d: b.registerOf(0), a: source(b, 1) }));
};
const { extend_low_i8x16_s: bytesToWords, extend_low_i8x16_u: unsignedBytesToWords } = i16x8;
const { extend_low_i16x8_s: wordsToDoublewords, extend_low_i16x8_u: unsignedWordsToDoublewords } = i32x4;
const { extend_low_i32x4_s: doublewordsToQuadwords, extend_low_i32x4_u: unsignedDoublewordsToQuadwords } = i64x2;

const WIDENINGS = [
  widen('PMOVSXBW', '66.0F3820 Vx,Wq SSE4.1', bytesToWords), // signed bytes to words
  widen('PMOVSXBD', '66.0F3821 Vx,Wd SSE4.1', bytesToWords, wordsToDoublewords), // signed bytes to doublewords
  widen('PMOVSXBQ', '66.0F3822 Vx,Ww SSE4.1', bytesToWords, wordsToDoublewords, doublewordsToQuadwords), // signed bytes to quadwords
  widen('PMOVSXWD', '66.0F3823 Vx,Wq SSE4.1', wordsToDoublewords), // signed words to doublewords
  widen('PMOVSXWQ', '66.0F3824 Vx,Wd SSE4.1', wordsToDoublewords, doublewordsToQuadwords), // signed words to quadwords
  widen('PMOVSXDQ', '66.0F3825 Vx,Wq SSE4.1', doublewordsToQuadwords), // signed doublewords to quadwords
  widen('PMOVZXBW', '66.0F3830 Vx,Wq SSE4.1', unsignedBytesToWords), // unsigned bytes to words
  widen('PMOVZXBD', '66.0F3831 Vx,Wd SSE4.1', unsignedBytesToWords, unsignedWordsToDoublewords), // unsigned bytes to doublewords
  widen('PMOVZXBQ', '66.0F3832 Vx,Ww SSE4.1', unsignedBytesToWords, unsignedWordsToDoublewords, unsignedDoublewordsToQuadwords), // unsigned bytes to quadwords
  widen('PMOVZXWD', '66.0F3833 Vx,Wq SSE4.1', unsignedWordsToDoublewords), // unsigned words to doublewords
  widen('PMOVZXWQ', '66.0F3834 Vx,Wd SSE4.1', unsignedWordsToDoublewords, unsignedDoublewordsToQuadwords), // unsigned words to quadwords
  widen('PMOVZXDQ', '66.0F3835 Vx,Wq SSE4.1', unsignedDoublewordsToQuadwords), // unsigned doublewords to quadwords
];

// ## Shuffling by an immediate
//
// The immediate has two bits for each of four lanes. Any order of sixteen bytes is sixteen numbers of four bits, and that is just what the immediate of a
// micro-operation can hold. So the order is worked out when the instruction is decoded, and one micro-operation does for all of them.

const permuted = (e: Emitter, x: Code): Code => {
  const known = constantOf(e.imm);
  if (known !== null)
    return i8x16.shuffle(
      x,
      x,
      PLACES.map((place) => Number((known >> BigInt(4 * place)) & 15n)),
    );
  const [kept, orders] = keepVector(e, i64x2.splat(e.imm));
  const [keepLower, lower] = keepVector(e, v128.and(orders, vector([15])));
  const upper = i8x16.shr_u(orders, i32.const(4));
  return [kept, keepLower, i8x16.swizzle(x, i8x16.shuffle(lower, upper, interleave(1, 0)))];
};
define('permute.x', (e) => e.setVector('d', permuted(e, e.getVector('a'))), { outlined: true });
define('permute.q', (e) => setMmx(e, permuted(e, i64x2.splat(e.get('a')))), { outlined: true });

/** @param first the lane at which the four lanes that are chosen among, and replaced, begin; the others stay. */
const shuffle = (name: string, encodings: string, bytes: number, first = 0): Definition =>
  simd(name, encodings, (b) => {
    const order = [...PLACES];
    for (let lane = 0; lane < 4; lane++) {
      const chosen = Number((b.insn.imm >> BigInt(2 * lane)) & 3n);
      for (let i = 0; i < bytes; i++) order[(first + lane) * bytes + i] = (first + chosen) * bytes + i;
    }
    const imm = order.reduce((all, place, at) => all | (BigInt(place) << BigInt(4 * at)), 0n);
    b.emit(b.bytes(0) === 16 ? 'permute.x' : 'permute.q', { d: b.registerOf(0), a: source(b, 1), imm });
  });

const SHUFFLES = [
  shuffle('PSHUFD', '66.0F70 Vx,Wx,Ib SSE2', 4), // shuffles doublewords
  shuffle('PSHUFLW', 'F2.0F70 Vx,Wx,Ib SSE2', 2), // shuffles the lower four words
  shuffle('PSHUFHW', 'F3.0F70 Vx,Wx,Ib SSE2', 2, 4), // shuffles the upper four words
  shuffle('PSHUFW', '0F70 Pq,Qq,Ib SSE', 2), // shuffles words
  // The source says for each byte which one to take, or with its top bit to take none. The bits between mean nothing.
  lanes(
    'PSHUFB',
    '0F3800 Pq,Qq SSSE3; 66.0F3800 Vx,Wx SSSE3',
    (x, y) => i8x16.swizzle(x, v128.and(y, vector([0x8f]))),
    (x, y) => i8x16.swizzle(x, v128.and(y, vector([0x87]))),
  ), // shuffles bytes
];

// ## Shifting by bytes
//
// A place outside the vector gives zero; so to shift is to ask for the places beyond.

/** The bytes of `x` from place `by` on, which may be negative, and is at most 32 either way. */
const from = (x: Code, by: Code): Code => {
  const known = constantOf(by);
  if (known === null) return i8x16.swizzle(x, i8x16.add(OWN_PLACE, i8x16.splat(by)));
  return i8x16.shuffle(
    x,
    ZERO,
    PLACES.map((place) => (place + Number(known) >= 0 && place + Number(known) < 16 ? place + Number(known) : 16)),
  );
};
const atMost = (value: bigint, limit: bigint): bigint => (value < limit ? value : limit);
const count = (e: Emitter): Code => i32.wrap_i64(e.imm);
define('bytesRight', (e) => e.setVector('d', from(e.getVector('d'), count(e))), { outlined: true });
define('bytesLeft', (e) => e.setVector('d', from(e.getVector('d'), i32.sub(i32.const(0), count(e)))), { outlined: true });
/** Of x above y, the sixteen bytes from the one that the immediate says. */
const aligned = (x: Code, y: Code, e: Emitter): Code => v128.or(from(y, count(e)), from(x, i32.sub(count(e), i32.const(16))));
define('PALIGNR.x', (e) => e.setVector('d', aligned(e.getVector('d'), e.getVector('a'), e)), { outlined: true });
define('PALIGNR.q', (e) => setMmx(e, from(join(i64x2.splat(e.get('a')), i64x2.splat(e.get('d'))), count(e))), { outlined: true });

const shiftBytes = (op: string) => (b: Builder) => b.emit(op, { d: b.registerOf(0), imm: atMost(BigInt.asUintN(8, b.insn.imm), 16n) });
const BYTE_SHIFTS = [
  simd('PSRLDQ', '66.0F73/3 Ux,Ib SSE2', shiftBytes('bytesRight')), // shifts right by bytes
  simd('PSLLDQ', '66.0F73/7 Ux,Ib SSE2', shiftBytes('bytesLeft')), // shifts left by bytes
  simd('PALIGNR', '0F3A0F Pq,Qq,Ib SSSE3; 66.0F3A0F Vx,Wx,Ib SSSE3', (b) => {
    const imm = atMost(BigInt.asUintN(8, b.insn.imm), 32n);
    b.emit(b.bytes(0) === 16 ? 'PALIGNR.x' : 'PALIGNR.q', { d: b.registerOf(0), a: source(b, 1), imm });
  }), // shifts destination and source as one right by bytes
];

// ## Choosing
//
// PBLENDVB's mask is in XMM0, which its encoding does not mention.

define('PBLENDVB', (e) => e.setVector('d', v128.bitselect(e.getVector('a'), e.getVector('d'), i8x16.shr_s(e.getVector('b'), i32.const(7)))), {
  outlined: true,
});
const WORD_BITS = vector(PLACES.map((place) => (place % 2 ? 0 : 1 << (place / 2))));

// @clause simd.sse4.results
const BLENDS = [
  simd('PBLENDVB', '66.0F3810 Vx,Wx SSE4.1', (b) => b.emit('PBLENDVB', { d: b.registerOf(0), a: source(b, 1), b: xmm(0) })), // replaces the bytes that a mask chooses
  lanes('PBLENDW', '66.0F3A0E Vx,Wx,Ib SSE4.1', (x, y, e) => {
    const [kept, chosen] = keepVector(e, v128.and(i16x8.splat(i32.wrap_i64(e.imm)), WORD_BITS));
    return [kept, v128.bitselect(y, x, i16x8.ne(chosen, ZERO))];
  }), // replaces the words that an immediate chooses
];

// ## Shifting by bits
//
// All lanes by the same count, from a register, memory or an immediate: 64 bits of it are looked at, and a count as long as a lane or longer shifts
// everything out. WebAssembly, like the shifts of general registers, takes the count modulo the length.

type Shift = (x: Code, count: Code) => Code;
interface LaneShifts {
  readonly bits: number;
  readonly shift: Shift;
  /** What is shifted in is the sign, so the longest shift that makes a difference gives what all longer ones do. */
  readonly signed: boolean;
}
// @clause simd.shift.counts
const shifted = (e: Emitter, x: Code, count: Code, { bits, shift, signed }: LaneShifts): Code => {
  const by = e.local('i64');
  const longest = BigInt(bits - 1);
  const known = constantOf(count);
  if (known !== null && known > longest) return signed ? shift(x, i32.const(bits - 1)) : ZERO;
  if (known !== null) return shift(x, i32.const(Number(known)));
  const within = i64.le_u(get(by), i64.const(longest));
  if (signed) return [set(by, count), shift(x, i32.wrap_i64(select(get(by), i64.const(longest), within)))];
  return [set(by, count), select(shift(x, i32.wrap_i64(get(by))), ZERO, within)];
};
const bitShift = (name: string, encodings: string, shifts: LaneShifts): Definition => {
  const of = (e: Emitter, x: Code, count: Code): Code => shifted(e, x, count, shifts);
  define(`${name}.x`, (e) => e.setVector('d', of(e, e.getVector('d'), e.get('a'))), { outlined: true });
  define(`${name}.x.i`, (e) => e.setVector('d', of(e, e.getVector('d'), e.imm)), { outlined: true });
  if (/ Pq/.test(encodings)) {
    define(`${name}.q`, (e) => setMmx(e, of(e, i64x2.splat(e.get('d')), e.get('a'))), { outlined: true });
    define(`${name}.q.i`, (e) => setMmx(e, of(e, i64x2.splat(e.get('d')), e.imm)), { outlined: true });
  }
  return simd(name, encodings, (b) => {
    const [op, d] = [b.bytes(0) === 16 ? `${name}.x` : `${name}.q`, b.registerOf(0)];
    if (b.operands[1]?.kind === 'I') b.emit(`${op}.i`, { d, imm: BigInt.asUintN(8, b.insn.imm) });
    else b.emit(op, { d, a: source(b, 1) });
  });
};
const forms = (byRegister: string, byImmediate: string, digit: number): string =>
  `${byRegister} Pq,Qq MMX; 66.${byRegister} Vx,Wx SSE2; ${byImmediate}/${digit} Nq,Ib MMX; 66.${byImmediate}/${digit} Ux,Ib SSE2`;

const BIT_SHIFTS = [
  bitShift('PSRLW', forms('0FD1', '0F71', 2), { bits: 16, shift: i16x8.shr_u, signed: false }), // shifts words right
  bitShift('PSRLD', forms('0FD2', '0F72', 2), { bits: 32, shift: i32x4.shr_u, signed: false }), // shifts doublewords right
  bitShift('PSRLQ', forms('0FD3', '0F73', 2), { bits: 64, shift: i64x2.shr_u, signed: false }), // shifts quadwords right
  bitShift('PSRAW', forms('0FE1', '0F71', 4), { bits: 16, shift: i16x8.shr_s, signed: true }), // shifts words right, copying the sign
  bitShift('PSRAD', forms('0FE2', '0F72', 4), { bits: 32, shift: i32x4.shr_s, signed: true }), // shifts doublewords right, copying the sign
  bitShift('PSLLW', forms('0FF1', '0F71', 6), { bits: 16, shift: i16x8.shl, signed: false }), // shifts words left
  bitShift('PSLLD', forms('0FF2', '0F72', 6), { bits: 32, shift: i32x4.shl, signed: false }), // shifts doublewords left
  bitShift('PSLLQ', forms('0FF3', '0F73', 6), { bits: 64, shift: i64x2.shl, signed: false }), // shifts quadwords left
];

export const SIMD_SHUFFLES = [...PACKS, ...UNPACKS, ...WIDENINGS, ...SHUFFLES, ...BYTE_SHIFTS, ...BLENDS, ...BIT_SHIFTS];
