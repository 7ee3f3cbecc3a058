// # When the host's arithmetic will do
//
// Sixty operations in software, where one instruction would do, is no way to run a program that computes. WebAssembly's arithmetic gives the same
// bits as SSE's when
//
// - MXCSR rounds to nearest, and has PE masked and set already: then the one flag that ordinary numbers raise changes nothing;
// - no operand is denormal, which would raise DE (or, with DAZ, count as zero);
// - the result is ordinary: neither zero nor denormal, infinite or a NaN, nor in the lowest binade, where it may have been rounded up from below the range.
//
// An operand that is infinite or a NaN need not be looked for, because the result shows it. So the test is three comparisons and a look at MXCSR;
// whatever fails it takes the slow way and comes to no harm.

import { VECTOR } from '../../faults.ts';
import { CR4, OFFSET } from '../../state.ts';
import type { Emitter, StateAccess } from '../micro-ops.ts';
import { type Code, get, i32, i64, type Local, set, when } from '../wasm-assembler.ts';
import { convert, f32, f32x4, f64, f64x2, i16x8, i32x4, i64x2, v128 } from '../wasm-vectors.ts';
import { control, DOUBLE, type Format, MXCSR } from './ieee.ts';
import { EXCEPTION } from './soft-float.ts';
import { n32, n64 } from './words.ts';

/** Rounding to nearest, and an inexact result changes nothing. */
export const isQuiet = (s: StateAccess): Code => i32.eq(control(s, MXCSR.RC | MXCSR.PM | EXCEPTION.PE), n32(MXCSR.PM | EXCEPTION.PE));

// ## One number
//
// Bit patterns of singles are 32-bit integers here. The sign is shifted out; then denormal numbers are a range of integers, and so are ordinary ones.

const LOWEST = 2n; // biased exponents of ordinary results, from this one to the last but one
const exponentAt = (f: Format, exponent: bigint): bigint => exponent << (f.fraction + 1n);

const word = (f: Format) => (f === DOUBLE ? i64 : i32);
const constant = (f: Format, value: bigint): Code => (f === DOUBLE ? n64(BigInt.asIntN(64, value)) : n32(Number(BigInt.asIntN(32, value))));
const between = (f: Format, x: Code, low: bigint, high: bigint): Code => {
  const { shl, sub, lt_u } = word(f);
  return lt_u(sub(shl(x, constant(f, 1n)), constant(f, low)), constant(f, high - low));
};
export const denormal = (f: Format, x: Code): Code => between(f, x, 1n, exponentAt(f, 1n));
export const ordinary = (f: Format, x: Code): Code => between(f, x, exponentAt(f, LOWEST), exponentAt(f, f.greatest));

/** Types of bit patterns and numbers, and the way from one to the other. */
export const patternType = (f: Format) => (f === DOUBLE ? 'i64' : 'i32');
export const toNumber = (f: Format, x: Code): Code => (f === DOUBLE ? f64.reinterpret_i64(x) : f32.reinterpret_i32(x));
export const toPattern = (f: Format, x: Code): Code => (f === DOUBLE ? convert.i64_reinterpret_f64(x) : convert.i32_reinterpret_f32(x));
/** Between these patterns and those of the slow functions, which are always 64-bit. */
export const widen = (f: Format, x: Code): Code => (f === DOUBLE ? x : i64.extend_i32_u(x));
export const narrow = (f: Format, x: Code): Code => (f === DOUBLE ? x : i32.wrap_i64(x));
export const number = (f: Format) => (f === DOUBLE ? f64 : f32);

/** The lowest lane of an operand. */
export const lowest = (e: Emitter, f: Format, operand: 'd' | 'a'): Code => narrow(f, e.getUnsigned(operand, f.bytes));
/** `vector` with its lowest lane replaced by a pattern. */
export const withLowest = (f: Format, vector: Code, pattern: Code): Code =>
  f === DOUBLE ? i64x2.replace(vector, 0, pattern) : i32x4.replace(vector, 0, pattern);

// ## A vector of them
//
// The same, with the comparisons that vectors of integers have: signed ones. Adding half the range makes an unsigned comparison signed.

export const lanes = (f: Format) => (f === DOUBLE ? f64x2 : f32x4);
export const laneCount = (f: Format): number => 16 / f.bytes;
export const lane = (f: Format, vector: Code, n: number): Code =>
  f === DOUBLE ? i64x2.extract(vector, n) : i64.extend_i32_u(i32x4.extract(vector, n));
export const withLane = (f: Format, vector: Code, n: number, pattern: Code): Code =>
  f === DOUBLE ? i64x2.replace(vector, n, pattern) : i32x4.replace(vector, n, i32.wrap_i64(pattern));

/** A vector constant with the same pattern in each lane. */
function splat(f: Format, pattern: bigint): Code {
  const wide = f === DOUBLE ? pattern : (pattern << 32n) | BigInt.asUintN(32, pattern);
  return v128.const(BigInt.asUintN(64, wide), BigInt.asUintN(64, wide));
}
/** Lanes not in the range, after the sign has been shifted out. */
const outside = (f: Format, x: Code, low: bigint, high: bigint): Code => {
  const { shl, add, gt_s } = f === DOUBLE ? i64x2 : i32x4;
  const half = 1n << BigInt(f.bits - 1);
  return gt_s(add(shl(x, n32(1)), splat(f, BigInt.asUintN(f.bits, half - low))), splat(f, BigInt.asUintN(f.bits, high - low - 1n - half)));
};
/** All ones in each lane that is denormal, or that is not ordinary. */
export const notOrdinary = (f: Format, x: Code): Code => outside(f, x, exponentAt(f, LOWEST), exponentAt(f, f.greatest));
export const denormals = (f: Format, x: Code): Code => {
  const { shl, add, lt_s } = f === DOUBLE ? i64x2 : i32x4;
  const half = 1n << BigInt(f.bits - 1);
  return lt_s(add(shl(x, n32(1)), splat(f, BigInt.asUintN(f.bits, half - 1n))), splat(f, BigInt.asUintN(f.bits, exponentAt(f, 1n) - 1n - half)));
};

// These take some thirty operations for three vectors, because an exact zero passes. A rougher test takes half of that: no exponent, and no
// complement of a result's exponent, is below the lowest but one. It looks at the upper sixteen bits of numbers only, where the exponent is, with
// comparisons that are unsigned there.

/** True when a number in one of these vectors is zero or denormal, or nearly; or when one in `bounded` is infinite or a NaN, or nearly. */
export function isSuspect(f: Format, others: readonly Code[], bounded: readonly Code[]): Code {
  const magnitude = (x: Code): Code => (f === DOUBLE ? i64x2 : i32x4).shl(x, n32(1));
  const small = [...others, ...bounded].map(magnitude);
  const least = [...small, ...bounded.map((x) => v128.not(magnitude(x)))].reduce((x, y) => i16x8.min_u(x, y));
  return v128.any_true(i16x8.sub_sat_u(splat(f, exponentAt(f, LOWEST)), least));
}

// ## The slow way, and its end

/** Takes two results of a slow function: the value into `result`, and the flags to MXCSR. An exception ends the instruction. */
export function settle(e: Emitter, slow: Code, result: Local): Code {
  const raised = e.local('i32');
  return [slow, set(raised, []), set(result, []), deliver(e, raised)];
}
// @clause sse.exception.osxmmexcpt
/** Flags to MXCSR. An exception that is not masked is #XM, or, for a system that does not know of it, #UD. */
export const deliver = (e: Emitter, raised: Local): Code =>
  when(get(raised), [
    when(e.call('ieee.settle', get(raised)), [when(i32.and(e.field32(OFFSET.CR4), n32(CR4.OSXMMEXCPT)), e.fault(VECTOR.XM)), e.fault(VECTOR.UD)]),
  ]);
