// # Ciphers
//
// AES was chosen for being fast in hardware, and in software it leaks its key through the cache unless great care is taken. So processors got its rounds as
// instructions, and the multiplication that goes with it. Here they have no tables in memory either.

import { define, defineFunction } from '../engine/micro-ops.ts';
import { brIf, type Code, get, i32, i64, Label, type Local, loop, set, tee } from '../engine/wasm-assembler.ts';
import { i8x16, i64x2, v128 } from '../engine/wasm-vectors.ts';
import { source } from './simd-common.ts';
import { keepVector, lanes, PLACES, simd, vector, ZERO } from './simd-lanes.ts';

// ## AES
//
// The state is a square of sixteen bytes, column by column. A byte is a polynomial over two elements, modulo x^8 + x^4 + x^3 + x + 1. The substitution of a
// byte is its inverse, with the bits mixed and some of them turned over.

const REDUCTION = 0x1b;
const timesX = (a: number): number => ((a << 1) ^ (a & 0x80 ? REDUCTION : 0)) & 0xff;
const BYTES = Array.from({ length: 256 }, (_, i) => i);
/** x + 1 has every byte but 0 among its powers, so an inverse is a power as well. */
const POWERS = BYTES.slice(1)
  .reduce<number[]>((powers) => [...powers, (powers.at(-1) as number) ^ timesX(powers.at(-1) as number)], [1])
  .slice(0, 255);
const INVERSE = BYTES.map((a) => (a === 0 ? 0 : (POWERS[(255 - POWERS.indexOf(a)) % 255] as number)));
const rotated = (a: number, by: number): number => ((a << by) | (a >> (8 - by))) & 0xff;
const SUBSTITUTE = INVERSE.map((a) => a ^ rotated(a, 1) ^ rotated(a, 2) ^ rotated(a, 3) ^ rotated(a, 4) ^ 0x63);
const UNSUBSTITUTE = BYTES.map((a) => SUBSTITUTE.indexOf(a));

// A swizzle looks sixteen bytes up at once, in a table of sixteen; and gives zero where the index is none. So 256 entries are sixteen such tables, each
// with the indices turned so that its own are small. Every byte costs the same, whatever it is: no time tells what was looked up.

for (const [name, entries] of [
  ['aes.substitute', SUBSTITUTE],
  ['aes.unsubstitute', UNSUBSTITUTE],
] as const) {
  defineFunction(name, ['v128'], ['v128'], (_, ...params) => {
    const row = (n: number): Code => i8x16.swizzle(vector(entries.slice(16 * n, 16 * n + 16)), v128.xor(get(params[0] as Local), vector([16 * n])));
    return PLACES.map(row).reduce((x, y) => v128.or(x, y));
  });
}

const twice = (v: Code): Code => v128.xor(i8x16.shl(v, i32.const(1)), v128.and(i8x16.shr_s(v, i32.const(7)), vector([REDUCTION])));
/** Each byte's neighbour `by` rows below, in the same column. */
const below = (v: Code, by: number): Code =>
  i8x16.shuffle(
    v,
    v,
    PLACES.map((place) => (place & ~3) | ((place + by) & 3)),
  );
/** Row r turned left by r columns, or with -1 right. */
const shiftRows = (v: Code, direction: 1 | -1): Code =>
  i8x16.shuffle(
    v,
    v,
    PLACES.map((place) => (place + 4 * direction * (place & 3)) & 15),
  );

// A column is multiplied by a matrix. Its inverse is the same matrix after another that is simple: each byte plus four times itself and its opposite.

defineFunction('aes.mix', ['v128'], ['v128'], (_, ...params) => {
  const v = get(params[0] as Local);
  return v128.xor(v128.xor(twice(v128.xor(v, below(v, 1))), below(v, 1)), v128.xor(below(v, 2), below(v, 3)));
});
defineFunction('aes.unmix', ['v128'], ['v128'], (s, ...params) => {
  const v = get(params[0] as Local);
  return s.call('aes.mix', v128.xor(v, twice(twice(v128.xor(v, below(v, 2))))));
});

const AES = [
  lanes('AESENC', '66.0F38DC Vx,Wx AESNI', (x, y, e) => v128.xor(e.call('aes.mix', e.call('aes.substitute', shiftRows(x, 1))), y)), // a round of encryption
  lanes('AESENCLAST', '66.0F38DD Vx,Wx AESNI', (x, y, e) => v128.xor(e.call('aes.substitute', shiftRows(x, 1)), y)), // the last round of encryption
  lanes('AESDEC', '66.0F38DE Vx,Wx AESNI', (x, y, e) => v128.xor(e.call('aes.unmix', e.call('aes.unsubstitute', shiftRows(x, -1))), y)), // a round of decryption
  lanes('AESDECLAST', '66.0F38DF Vx,Wx AESNI', (x, y, e) => v128.xor(e.call('aes.unsubstitute', shiftRows(x, -1)), y)), // the last round of decryption
  lanes('AESIMC', '66.0F38DB Vx,Wx AESNI', (_, y, e) => e.call('aes.unmix', y)), // makes a key of encryption one of decryption
  lanes('AESKEYGENASSIST', '66.0F3ADF Vx,Wx,Ib AESNI', (_, y, e) => {
    const [kept, words] = keepVector(e, e.call('aes.substitute', y));
    // Words 1 and 3 of the source, each as it is and turned by a byte.
    const order = [4, 5, 6, 7, 5, 6, 7, 4, 12, 13, 14, 15, 13, 14, 15, 12];
    const round = v128.and(i8x16.splat(i32.wrap_i64(e.imm)), vector([0, 0, 0, 0, 255, 0, 0, 0]));
    return [kept, v128.xor(i8x16.shuffle(words, words, order), round)];
  }), // a step of the key schedule
];

// ## Multiplication without carries
//
// Two polynomials of 64 terms: for each one of the first factor's bits, the second is added, which without carries is an exclusive or.

defineFunction('product', ['i64', 'i64'], ['v128'], (s, ...params) => {
  const [x, y] = params as [Local, Local];
  const [low, high, chosen, n, again] = [s.local('i64'), s.local('i64'), s.local('i64'), s.local('i64'), new Label()];
  const one = i64.const(1n);
  return [
    set(n, i64.const(63n)),
    set(low, i64.const(0n)),
    set(high, i64.const(0n)),
    // From the highest bit down, the product so far moves up by one.
    loop(again, [
      set(high, i64.or(i64.shl(get(high), one), i64.shr_u(get(low), i64.const(63n)))),
      set(chosen, i64.and(i64.shr_s(get(x), i64.const(63n)), get(y))),
      set(low, i64.xor(i64.shl(get(low), one), get(chosen))),
      set(x, i64.shl(get(x), one)),
      brIf(again, i64.ge_s(tee(n, i64.sub(get(n), one)), i64.const(0n))),
    ]),
    i64x2.replace(i64x2.replace(ZERO, 0, get(low)), 1, get(high)),
  ];
});
define('PCLMULQDQ', (e) => e.setVector('d', e.call('product', e.get('a'), e.get('b'))), { outlined: true });
/** The immediate chooses a half of each operand: bit 0 of the destination, bit 4 of the source. */
const PCLMULQDQ = simd('PCLMULQDQ', '66.0F3A44 Vx,Wx,Ib PCLMULQDQ', (b) => {
  const [d, from] = [b.registerOf(0), source(b, 1)];
  const half = (n: bigint): number => 8 * Number((b.insn.imm >> n) & 1n);
  b.emit('PCLMULQDQ', { d, a: d + half(0n), b: from + half(4n) });
}); // multiplies polynomials over two elements

export const SIMD_CIPHERS = [...AES, PCLMULQDQ];
