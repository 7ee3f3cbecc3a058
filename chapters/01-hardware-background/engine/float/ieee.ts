// # The formats of SSE, and what is special in them
//
// SSE computes in the two formats of IEEE 754 that everybody has: {{SINGLE.bits}} and {{DOUBLE.bits}} bits. WebAssembly has them too, and for
// ordinary numbers its instructions are used as they are (`ieee-fast.ts`). Here is the rest: NaNs and infinities, numbers at the edge of the range,
// other directions of rounding, and the six flags of MXCSR, which WebAssembly does not have at all. The functions take and return bit patterns,
// because a NaN's bits matter.
//
// ```
//   15   14 13  12 11 10  9  8  7   6   5  4  3  2  1  0
// +----+------+--+--+--+--+--+--+-----+--+--+--+--+--+--+
// | FZ |  RC  |PM|UM|OM|ZM|DM|IM| DAZ |PE|UE|OE|ZE|DE|IE|
// +----+------+--+--+--+--+--+--+-----+--+--+--+--+--+--+
// ```
//
// Each function returns its result and the flags it raises; nothing is written to MXCSR until an instruction has done all its lanes, and knows
// whether it will complete.

import { OFFSET } from '../../state.ts';
import { defineFunction, type StateAccess } from '../micro-ops/library.ts';
import { type Code, either, get, i32, i64, type Local, ret, select, set, when } from '../wasm-assembler.ts';
import { convert, f32, f64 } from '../wasm-vectors.ts';
import { BIAS, EXCEPTION, HOW, MAX_EXPONENT, SIGN } from './soft-float.ts';
import { n32, n64, TOP, top } from './words.ts';

/** Offset in the register file, and fields. Masks are the flags, {{MXCSR.MASK_SHIFT}} bits further up. */
// biome-ignore format: table
export const MXCSR = { AT: OFFSET.FPU + 24, DAZ: 1 << 6, MASK_SHIFT: 7, UM: 1 << 11, PM: 1 << 12, RC_SHIFT: 13, RC: 3 << 13, FZ: 1 << 15, FLAGS: 0x3f } as const;

/** A binary interchange format: a sign, an exponent, and `fraction` bits of significand after the one that is implied. */
export interface Format {
  readonly bytes: 4 | 8;
  readonly bits: number;
  readonly fraction: bigint;
  /** The largest biased exponent, that of infinities and NaNs. */
  readonly greatest: bigint;
}
export const SINGLE: Format = { bytes: 4, bits: 32, fraction: 23n, greatest: 0xffn };
export const DOUBLE: Format = { bytes: 8, bits: 64, fraction: 52n, greatest: 0x7ffn };
export const FORMATS = [SINGLE, DOUBLE] as const;

// Bit patterns of either format are handled as 64-bit integers; those of 32 bits have nothing in the upper half.

export const signBit = ({ bits }: Format): bigint => 1n << BigInt(bits - 1);
export const infinity = ({ greatest, fraction }: Format): bigint => greatest << fraction;
export const quietBit = ({ fraction }: Format): bigint => 1n << (fraction - 1n);
/** What an invalid operation gives: the negative quiet NaN without a payload. */
export const indefinite = (f: Format): bigint => signBit(f) | infinity(f) | quietBit(f);
export const magnitude = (f: Format, x: Code): Code => i64.and(x, n64(signBit(f) - 1n));
export const isNan = (f: Format, x: Code): Code => i64.gt_u(magnitude(f, x), n64(infinity(f)));
export const isSignaling = (f: Format, x: Code): Code => i32.and(isNan(f, x), i64.eqz(i64.and(x, n64(quietBit(f)))));
/** Not zero, and below the smallest normal number. */
export const isDenormal = (f: Format, x: Code): Code => i64.lt_u(i64.sub(magnitude(f, x), n64(1n)), n64((1n << f.fraction) - 1n));
export const signOf = (f: Format, x: Code): Code => i64.and(x, n64(signBit(f)));

const mxcsr = (s: StateAccess): Code => s.field32(MXCSR.AT);
export const control = (s: StateAccess, mask: number): Code => i32.and(mxcsr(s), n32(mask));

/** A condition as the flag it raises. */
export const flagIf = (condition: Code, flag: number): Code => i32.mul(condition, n32(flag));

// ## Numbers before and after
//
// Both formats are unpacked as doubles: every single is one, and a denormal single is not even a denormal double.

export const doubleOf = (f: Format, x: Code): Code =>
  f === DOUBLE ? x : convert.i64_reinterpret_f64(f64.promote_f32(f32.reinterpret_i32(i32.wrap_i64(x))));

/** (bits of a finite double other than zero) -> sign, exponent, significand, as the soft float has them. */
defineFunction('ieee.unpack', ['i64'], ['i32', 'i32', 'i64'], (s, x: Local) => {
  const exponent = s.local('i32');
  const significand = s.local('i64');
  const shift = s.local('i64');
  const { fraction, greatest } = DOUBLE;
  return [
    set(exponent, i32.and(i32.wrap_i64(i64.shr_u(get(x), n64(fraction))), n32(Number(greatest)))),
    set(significand, i64.shl(get(x), n64(63n - fraction))),
    either(get(exponent), set(significand, i64.or(get(significand), TOP)), [
      // The sign has been shifted to where the integer bit would be; a denormal number has none.
      set(significand, i64.and(get(significand), n64((1n << 63n) - 1n))),
      set(shift, i64.clz(get(significand))),
      set(significand, i64.shl(get(significand), get(shift))),
      set(exponent, i32.sub(n32(1), i32.wrap_i64(get(shift)))),
    ]),
    i32.and(i32.wrap_i64(i64.shr_u(get(x), n64(48n))), n32(SIGN)),
    i32.add(get(exponent), n32(BIAS - 1023)),
    get(significand),
  ];
});

// @clause sse.rounding.control
/** How the soft float is to round. With FZ it reports every tiny result, and the result is then thrown away. */
export const howToRound = (s: StateAccess, f: Format): Code => {
  const format = HOW.RANGE | (f === DOUBLE ? HOW.DOUBLE : HOW.SINGLE);
  const masks = i32.and(i32.shr_u(mxcsr(s), n32(MXCSR.MASK_SHIFT)), n32(MXCSR.FLAGS));
  const reported = select(i32.and(masks, n32(MXCSR.FLAGS & ~EXCEPTION.UE)), masks, control(s, MXCSR.FZ));
  const direction = i32.and(i32.shr_u(mxcsr(s), n32(MXCSR.RC_SHIFT - 10)), n32(HOW.RC));
  return i32.or(i32.or(reported, direction), n32(format));
};

for (const f of FORMATS) {
  // @clause sse.denormals.control
  /** (significand, word) of a result -> its bits and the flags raised. */
  defineFunction(`ieee.pack.${f.bytes}`, ['i64', 'i32'], ['i64', 'i32'], (s, significand: Local, word: Local) => {
    const exponent = s.local('i32');
    const sign = s.local('i64');
    const flushed = i32.and(
      i32.shr_u(i32.and(get(word), n32(EXCEPTION.UE)), n32(Math.log2(EXCEPTION.UE))),
      i32.eq(control(s, MXCSR.FZ | MXCSR.UM), n32(MXCSR.FZ | MXCSR.UM)),
    );
    const bias = BIAS - Number(f.greatest >> 1n);
    // A subnormal number has the exponent of the least normal one, and no integer bit.
    const biased = select(i32.sub(get(exponent), n32(bias)), n32(0), top(get(significand)));
    const isSpecial = i32.eq(get(exponent), n32(MAX_EXPONENT));
    return [
      set(exponent, i32.and(i32.shr_u(get(word), n32(16)), n32(MAX_EXPONENT))),
      set(sign, i64.shl(i64.extend_i32_u(i32.shr_u(get(word), n32(31))), n64(BigInt(f.bits - 1)))),
      when(flushed, ret([get(sign), n32(EXCEPTION.UE | EXCEPTION.PE)])),
      i64.or(
        i64.or(get(sign), i64.shl(i64.extend_i32_u(select(n32(Number(f.greatest)), biased, isSpecial)), n64(f.fraction))),
        i64.shr_u(i64.shl(get(significand), n64(1n)), n64(64n - f.fraction)),
      ),
      i32.and(get(word), n32(MXCSR.FLAGS)),
    ];
  });
}
