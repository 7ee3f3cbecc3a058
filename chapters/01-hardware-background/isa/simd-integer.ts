// # Integer vectors: arithmetic
//
// Sums, differences, products, comparisons. WebAssembly's vectors were made from what processors have in common, so most entries name one of its
// instructions, and the others say where they differ.

import { type Code, i32, i64 } from '../engine/wasm-assembler.ts';
import { i8x16, i16x8, i32x4, i64x2, v128 } from '../engine/wasm-vectors.ts';
import { across, keepVector, lanes, OWN_PLACE, PLACES, vector, ZERO } from './simd-lanes.ts';

// ## Sums and differences
//
// Carries go nowhere: a lane wraps, or (S: signed, US: unsigned) stops at the end of its range.

// @clause simd.integer.results
const SUMS = [
  lanes('PADDB', '0FFC Pq,Qq MMX; 66.0FFC Vx,Wx SSE2', i8x16.add), // adds bytes
  lanes('PADDW', '0FFD Pq,Qq MMX; 66.0FFD Vx,Wx SSE2', i16x8.add), // adds words
  lanes('PADDD', '0FFE Pq,Qq MMX; 66.0FFE Vx,Wx SSE2', i32x4.add), // adds doublewords
  lanes('PADDQ', '0FD4 Pq,Qq SSE2; 66.0FD4 Vx,Wx SSE2', i64x2.add), // adds quadwords
  lanes('PADDSB', '0FEC Pq,Qq MMX; 66.0FEC Vx,Wx SSE2', i8x16.add_sat_s), // adds signed bytes, saturating
  lanes('PADDSW', '0FED Pq,Qq MMX; 66.0FED Vx,Wx SSE2', i16x8.add_sat_s), // adds signed words, saturating
  lanes('PADDUSB', '0FDC Pq,Qq MMX; 66.0FDC Vx,Wx SSE2', i8x16.add_sat_u), // adds unsigned bytes, saturating
  lanes('PADDUSW', '0FDD Pq,Qq MMX; 66.0FDD Vx,Wx SSE2', i16x8.add_sat_u), // adds unsigned words, saturating
  lanes('PSUBB', '0FF8 Pq,Qq MMX; 66.0FF8 Vx,Wx SSE2', i8x16.sub), // subtracts bytes
  lanes('PSUBW', '0FF9 Pq,Qq MMX; 66.0FF9 Vx,Wx SSE2', i16x8.sub), // subtracts words
  lanes('PSUBD', '0FFA Pq,Qq MMX; 66.0FFA Vx,Wx SSE2', i32x4.sub), // subtracts doublewords
  lanes('PSUBQ', '0FFB Pq,Qq SSE2; 66.0FFB Vx,Wx SSE2', i64x2.sub), // subtracts quadwords
  lanes('PSUBSB', '0FE8 Pq,Qq MMX; 66.0FE8 Vx,Wx SSE2', i8x16.sub_sat_s), // subtracts signed bytes, saturating
  lanes('PSUBSW', '0FE9 Pq,Qq MMX; 66.0FE9 Vx,Wx SSE2', i16x8.sub_sat_s), // subtracts signed words, saturating
  lanes('PSUBUSB', '0FD8 Pq,Qq MMX; 66.0FD8 Vx,Wx SSE2', i8x16.sub_sat_u), // subtracts unsigned bytes, saturating
  lanes('PSUBUSW', '0FD9 Pq,Qq MMX; 66.0FD9 Vx,Wx SSE2', i16x8.sub_sat_u), // subtracts unsigned words, saturating
];

// The horizontal forms add neighbours. The lower half of the result is made of the destination's pairs, the upper half of the source's.

const EVEN_WORDS = [0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29];
const ODD_WORDS = EVEN_WORDS.map((place) => place + 2);
const EVEN_DOUBLEWORDS = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27];
const ODD_DOUBLEWORDS = EVEN_DOUBLEWORDS.map((place) => place + 4);
type Combine = (x: Code, y: Code) => Code;
const neighbours = (combine: Combine, even: number[], odd: number[]) => (x: Code, y: Code) =>
  combine(i8x16.shuffle(x, y, even), i8x16.shuffle(x, y, odd));
const words = (combine: Combine) => neighbours(combine, EVEN_WORDS, ODD_WORDS);
const doublewords = (combine: Combine) => neighbours(combine, EVEN_DOUBLEWORDS, ODD_DOUBLEWORDS);

// @clause simd.ssse3.results
const HORIZONTAL_SUMS = [
  across('PHADDW', '0F3801 Pq,Qq SSSE3; 66.0F3801 Vx,Wx SSSE3', words(i16x8.add)), // adds neighbouring words
  across('PHADDD', '0F3802 Pq,Qq SSSE3; 66.0F3802 Vx,Wx SSSE3', doublewords(i32x4.add)), // adds neighbouring doublewords
  across('PHADDSW', '0F3803 Pq,Qq SSSE3; 66.0F3803 Vx,Wx SSSE3', words(i16x8.add_sat_s)), // adds neighbouring words, saturating
  across('PHSUBW', '0F3805 Pq,Qq SSSE3; 66.0F3805 Vx,Wx SSSE3', words(i16x8.sub)), // subtracts a word's upper neighbour from it
  across('PHSUBD', '0F3806 Pq,Qq SSSE3; 66.0F3806 Vx,Wx SSSE3', doublewords(i32x4.sub)), // subtracts a doubleword's upper neighbour from it
  across('PHSUBSW', '0F3807 Pq,Qq SSSE3; 66.0F3807 Vx,Wx SSSE3', words(i16x8.sub_sat_s)), // subtracts a word's upper neighbour from it, saturating
];

// ## Products
//
// A product is twice as long as its factors. One either keeps a half, or multiplies every other lane, or adds the products up.

const UPPER_WORDS = ODD_WORDS;
const bytesOfLanes = (factors: number, ...lanes: number[]): number[] =>
  lanes.flatMap((lane) => PLACES.slice(0, factors).map((i) => lane * factors + i));
const EVENS = bytesOfLanes(4, 0, 2, 0, 2);
const even = (x: Code): Code => i8x16.shuffle(x, x, EVENS);

/** Bytes of `x` are unsigned, those of `y` signed: a product fits in a word, a sum of two need not. */
const bytesByBytes = (x: Code, y: Code): Code => {
  const eight = i32.const(8);
  const lower = i16x8.mul(v128.and(x, vector([0xff, 0])), i16x8.shr_s(i16x8.shl(y, eight), eight));
  const upper = i16x8.mul(i16x8.shr_u(x, eight), i16x8.shr_s(y, eight));
  return i16x8.add_sat_s(lower, upper);
};
/** WebAssembly's version of PMULHRSW saturates -1 * -1, the one product that does not fit. The processor lets it wrap to -1. */
const roundedProduct = (x: Code, y: Code): Code => {
  const MINUS_ONE = vector([0, 0x80]);
  return v128.xor(i16x8.q15mulr_sat_s(x, y), v128.and(i16x8.eq(x, MINUS_ONE), i16x8.eq(y, MINUS_ONE)));
};

const PRODUCTS = [
  lanes('PMULLW', '0FD5 Pq,Qq MMX; 66.0FD5 Vx,Wx SSE2', i16x8.mul), // multiplies words, keeps the lower halves
  lanes('PMULHW', '0FE5 Pq,Qq MMX; 66.0FE5 Vx,Wx SSE2', (x, y) =>
    i8x16.shuffle(i32x4.extmul_low_i16x8_s(x, y), i32x4.extmul_high_i16x8_s(x, y), UPPER_WORDS),
  ), // multiplies signed words, keeps the upper halves
  lanes('PMULHUW', '0FE4 Pq,Qq SSE; 66.0FE4 Vx,Wx SSE2', (x, y) =>
    i8x16.shuffle(i32x4.extmul_low_i16x8_u(x, y), i32x4.extmul_high_i16x8_u(x, y), UPPER_WORDS),
  ), // multiplies unsigned words, keeps the upper halves
  lanes('PMULHRSW', '0F380B Pq,Qq SSSE3; 66.0F380B Vx,Wx SSSE3', roundedProduct), // multiplies fractions of 15 bits, rounding
  lanes('PMULLD', '66.0F3840 Vx,Wx SSE4.1', i32x4.mul), // multiplies doublewords, keeps the lower halves
  lanes('PMULUDQ', '0FF4 Pq,Qq SSE2; 66.0FF4 Vx,Wx SSE2', (x, y) => i64x2.extmul_low_i32x4_u(even(x), even(y))), // multiplies every other unsigned doubleword
  lanes('PMULDQ', '66.0F3828 Vx,Wx SSE4.1', (x, y) => i64x2.extmul_low_i32x4_s(even(x), even(y))), // multiplies every other signed doubleword
  lanes('PMADDWD', '0FF5 Pq,Qq MMX; 66.0FF5 Vx,Wx SSE2', i32x4.dot_i16x8_s), // multiplies signed words, adds neighbouring products
  lanes('PMADDUBSW', '0F3804 Pq,Qq SSSE3; 66.0F3804 Vx,Wx SSSE3', bytesByBytes), // multiplies unsigned by signed bytes, adds neighbouring products, saturating
];

// ## Comparisons
//
// A lane of ones for yes, of zeros for no: the result is a mask.

const COMPARISONS = [
  lanes('PCMPEQB', '0F74 Pq,Qq MMX; 66.0F74 Vx,Wx SSE2', i8x16.eq), // bytes equal?
  lanes('PCMPEQW', '0F75 Pq,Qq MMX; 66.0F75 Vx,Wx SSE2', i16x8.eq), // words equal?
  lanes('PCMPEQD', '0F76 Pq,Qq MMX; 66.0F76 Vx,Wx SSE2', i32x4.eq), // doublewords equal?
  lanes('PCMPEQQ', '66.0F3829 Vx,Wx SSE4.1', i64x2.eq), // quadwords equal?
  lanes('PCMPGTB', '0F64 Pq,Qq MMX; 66.0F64 Vx,Wx SSE2', i8x16.gt_s), // signed bytes greater?
  lanes('PCMPGTW', '0F65 Pq,Qq MMX; 66.0F65 Vx,Wx SSE2', i16x8.gt_s), // signed words greater?
  lanes('PCMPGTD', '0F66 Pq,Qq MMX; 66.0F66 Vx,Wx SSE2', i32x4.gt_s), // signed doublewords greater?
  lanes('PCMPGTQ', '66.0F3837 Vx,Wx SSE4.2', i64x2.gt_s), // signed quadwords greater?
  lanes('PMINUB', '0FDA Pq,Qq SSE; 66.0FDA Vx,Wx SSE2', i8x16.min_u), // lesser of unsigned bytes
  lanes('PMAXUB', '0FDE Pq,Qq SSE; 66.0FDE Vx,Wx SSE2', i8x16.max_u), // greater of unsigned bytes
  lanes('PMINSW', '0FEA Pq,Qq SSE; 66.0FEA Vx,Wx SSE2', i16x8.min_s), // lesser of signed words
  lanes('PMAXSW', '0FEE Pq,Qq SSE; 66.0FEE Vx,Wx SSE2', i16x8.max_s), // greater of signed words
  lanes('PMINSB', '66.0F3838 Vx,Wx SSE4.1', i8x16.min_s), // lesser of signed bytes
  lanes('PMINSD', '66.0F3839 Vx,Wx SSE4.1', i32x4.min_s), // lesser of signed doublewords
  lanes('PMINUW', '66.0F383A Vx,Wx SSE4.1', i16x8.min_u), // lesser of unsigned words
  lanes('PMINUD', '66.0F383B Vx,Wx SSE4.1', i32x4.min_u), // lesser of unsigned doublewords
  lanes('PMAXSB', '66.0F383C Vx,Wx SSE4.1', i8x16.max_s), // greater of signed bytes
  lanes('PMAXSD', '66.0F383D Vx,Wx SSE4.1', i32x4.max_s), // greater of signed doublewords
  lanes('PMAXUW', '66.0F383E Vx,Wx SSE4.1', i16x8.max_u), // greater of unsigned words
  lanes('PMAXUD', '66.0F383F Vx,Wx SSE4.1', i32x4.max_u), // greater of unsigned doublewords
];

// ## Averages, signs, distances

/** Each lane of `x` with the sign of `y` applied: negated, zero, or as it is. A mask of ones is -1: to negate is to complement and to subtract it. */
const applySign =
  (type: { sub: Combine; lt_s: Combine; eq: Combine }): Combine =>
  (x, y) => {
    const negative = type.lt_s(y, ZERO);
    return v128.andnot(type.sub(v128.xor(x, negative), negative), type.eq(y, ZERO));
  };
/** One of the two saturating differences is zero. */
const distances = (x: Code, y: Code): Code => v128.or(i8x16.sub_sat_u(x, y), i8x16.sub_sat_u(y, x));
const LOWER_DOUBLEWORD = vector([255, 255, 255, 255, 0, 0, 0, 0]);

const DISTANCES = [
  lanes('PAVGB', '0FE0 Pq,Qq SSE; 66.0FE0 Vx,Wx SSE2', i8x16.avgr_u), // averages unsigned bytes, rounding up
  lanes('PAVGW', '0FE3 Pq,Qq SSE; 66.0FE3 Vx,Wx SSE2', i16x8.avgr_u), // averages unsigned words, rounding up
  lanes('PABSB', '0F381C Pq,Qq SSSE3; 66.0F381C Vx,Wx SSSE3', (_, y) => i8x16.abs(y)), // absolute values of bytes
  lanes('PABSW', '0F381D Pq,Qq SSSE3; 66.0F381D Vx,Wx SSSE3', (_, y) => i16x8.abs(y)), // absolute values of words
  lanes('PABSD', '0F381E Pq,Qq SSSE3; 66.0F381E Vx,Wx SSSE3', (_, y) => i32x4.abs(y)), // absolute values of doublewords
  lanes('PSIGNB', '0F3808 Pq,Qq SSSE3; 66.0F3808 Vx,Wx SSSE3', applySign(i8x16)), // gives bytes the signs of others
  lanes('PSIGNW', '0F3809 Pq,Qq SSSE3; 66.0F3809 Vx,Wx SSSE3', applySign(i16x8)), // gives words the signs of others
  lanes('PSIGND', '0F380A Pq,Qq SSSE3; 66.0F380A Vx,Wx SSSE3', applySign(i32x4)), // gives doublewords the signs of others
  lanes('PSADBW', '0FF6 Pq,Qq SSE; 66.0FF6 Vx,Wx SSE2', (x, y, e) => {
    const [kept, sums] = keepVector(e, i32x4.extadd_pairwise_i16x8_u(i16x8.extadd_pairwise_i8x16_u(distances(x, y))));
    return [kept, i64x2.add(v128.and(sums, LOWER_DOUBLEWORD), i64x2.shr_u(sums, i32.const(32)))];
  }), // sums the distances of eight bytes
  lanes('MPSADBW', '66.0F3A42 Vx,Wx,Ib SSE4.1', (x, y, e) => {
    // The immediate chooses four bytes of y, and where in x they begin to be laid on: bits 1..0 and 2, in units of four bytes.
    const from = (v: Code, unit: Code): Code => i8x16.swizzle(v, i8x16.add(OWN_PLACE, i8x16.splat(i32.shl(unit, i32.const(2)))));
    const imm = i32.wrap_i64(e.imm);
    const [keepX, text] = keepVector(e, from(x, i32.and(i32.shr_u(imm, i32.const(2)), i32.const(1))));
    const [keepY, block] = keepVector(e, from(y, i32.and(imm, i32.const(3))));
    const distance = (i: number): Code => {
      const shifted = i8x16.shuffle(
        text,
        text,
        PLACES.map((place) => Math.min(place + i, 15)),
      );
      const all = i8x16.shuffle(
        block,
        block,
        PLACES.map(() => i),
      );
      return i16x8.abs(i16x8.sub(i16x8.extend_low_i8x16_u(shifted), i16x8.extend_low_i8x16_u(all)));
    };
    return [keepX, keepY, i16x8.add(i16x8.add(distance(0), distance(1)), i16x8.add(distance(2), distance(3)))];
  }), // sums the distances of four bytes, at eight places
  lanes('PHMINPOSUW', '66.0F3841 Vx,Wx SSE4.1', (_, y, e) => {
    // A word and its number below it make a doubleword; the least of those is the least word, and the first one if there are several.
    const numbered = (words: Code, first: number): Code =>
      v128.or(i32x4.shl(words, i32.const(16)), vector([0, 1, 2, 3].flatMap((i) => [first + i, 0, 0, 0])));
    const least = (v: Code, swap: number[]): [Code, Code] => keepVector(e, i32x4.min_u(v, i8x16.shuffle(v, v, swap)));
    const [keepFour, four] = keepVector(e, i32x4.min_u(numbered(i32x4.extend_low_i16x8_u(y), 0), numbered(i32x4.extend_high_i16x8_u(y), 4)));
    const [keepTwo, two] = least(four, bytesOfLanes(8, 1, 0));
    const [keepOne, one] = least(two, bytesOfLanes(4, 1, 0, 3, 2));
    const word = i64x2.extract(one, 0);
    const turned = i64.or(i64.and(i64.shr_u(word, i64.const(16n)), i64.const(0xffffn)), i64.shl(i64.and(word, i64.const(7n)), i64.const(16n)));
    return [keepFour, keepTwo, keepOne, i64x2.replace(ZERO, 0, turned)];
  }), // the least unsigned word, and where it is
];

// ## Logic
//
// The same instructions as ANDPS and its relatives, in everything but the name: a processor may keep integers and floating-point numbers in different places.

const LOGIC = [
  lanes('PAND', '0FDB Pq,Qq MMX; 66.0FDB Vx,Wx SSE2', v128.and), // and
  lanes('PANDN', '0FDF Pq,Qq MMX; 66.0FDF Vx,Wx SSE2', (x, y) => v128.andnot(y, x)), // and, with the destination complemented
  lanes('POR', '0FEB Pq,Qq MMX; 66.0FEB Vx,Wx SSE2', v128.or), // or
  lanes('PXOR', '0FEF Pq,Qq MMX; 66.0FEF Vx,Wx SSE2', v128.xor), // exclusive or
];

export const SIMD_INTEGER = [...SUMS, ...HORIZONTAL_SUMS, ...PRODUCTS, ...COMPARISONS, ...DISTANCES, ...LOGIC];
