// # Reciprocals, roughly
//
// RCP and RSQRT look their answer up in a table and are done in a few cycles; a program that wants more bits adds a Newton step. How wrong they may
// be, the manual says; which wrong answers it is, it does not. On Intel's processors they follow a rule. The significand's range is cut into
// {{SEGMENTS.reciprocal}} equal segments (for the root, {{SEGMENTS.root}} for each parity of the exponent), and the answer for all of a segment is
// the exact answer for its midpoint, rounded to {{FRACTION}} bits. So no table is needed here.
//
// Neither raises exceptions, nor looks at MXCSR: denormal operands count as zeros and denormal results become zeros, always.

import { defineFunction } from '../micro-ops/library.ts';
import { type Code, get, i32, type Local, ret, set, when } from '../wasm-assembler.ts';
import { convert, f64 } from '../wasm-vectors.ts';
import { n32 } from './words.ts';

export const SEGMENTS = { reciprocal: 1 << 11, root: 1 << 10 } as const;
export const FRACTION = 12;
const INFINITY = 0x7f800000;
const QUIET = 0x400000;
const INDEFINITE = 0xffc00000;
const EXPONENT_BIAS = 127;

/** The midpoint of the segment of `x`, between 1 and 2. */
const midpoint = (x: Local, segments: number): Code => {
  const shift = 23 - Math.log2(segments);
  const index = i32.and(i32.shr_u(get(x), n32(shift)), n32(segments - 1));
  return f64.add(f64.const(1 + 0.5 / segments), f64.mul(f64.convert_i32_u(index), f64.const(1 / segments)));
};
/** A number between one half and one, rounded, as a fraction field. */
const fractionOf = (y: Code): Code => {
  const scaled = f64.mul(f64.sub(y, f64.const(0.5)), f64.const(2 ** (FRACTION + 1)));
  return i32.shl(convert.i32_trunc_sat_f64_s(f64.add(scaled, f64.const(0.5))), n32(23 - FRACTION));
};
const signOf = (x: Local): Code => i32.and(get(x), n32(0x80000000));
const exponentOf = (x: Local): Code => i32.and(i32.shr_u(get(x), n32(23)), n32(0xff));
const magnitudeOf = (x: Local): Code => i32.and(get(x), n32(0x7fffffff));
const settleSpecial = (x: Local, exponent: Local): Code => [
  when(i32.gt_u(magnitudeOf(x), n32(INFINITY)), ret(i32.or(get(x), n32(QUIET)))),
  when(i32.eqz(tee32(exponent, x)), ret(i32.or(signOf(x), n32(INFINITY)))),
];
const tee32 = (exponent: Local, x: Local): Code => [set(exponent, exponentOf(x)), get(exponent)];

defineFunction('ieee.reciprocal', ['i32'], ['i32'], (s, x: Local) => {
  const exponent = s.local('i32');
  return [
    settleSpecial(x, exponent),
    // The answer for 1 is just below 1, so its exponent is one less.
    set(exponent, i32.sub(n32(2 * EXPONENT_BIAS - 1), get(exponent))),
    when(i32.lt_s(get(exponent), n32(1)), ret(signOf(x))),
    i32.or(i32.or(signOf(x), i32.shl(get(exponent), n32(23))), fractionOf(f64.div(f64.const(1), midpoint(x, SEGMENTS.reciprocal)))),
  ];
});

defineFunction('ieee.reciprocalRoot', ['i32'], ['i32'], (s, x: Local) => {
  const [exponent, middle] = [s.local('i32'), s.local('f64')];
  return [
    settleSpecial(x, exponent),
    when(signOf(x), ret(n32(INDEFINITE))),
    when(i32.eq(get(x), n32(INFINITY)), ret(n32(0))),
    set(exponent, i32.sub(get(exponent), n32(EXPONENT_BIAS))),
    set(middle, midpoint(x, SEGMENTS.root)),
    when(i32.and(get(exponent), n32(1)), set(middle, f64.mul(get(middle), f64.const(2)))),
    i32.or(
      i32.shl(i32.sub(n32(EXPONENT_BIAS - 1), i32.shr_s(get(exponent), n32(1))), n32(23)),
      fractionOf(f64.div(f64.const(1), f64.sqrt(get(middle)))),
    ),
  ];
});
