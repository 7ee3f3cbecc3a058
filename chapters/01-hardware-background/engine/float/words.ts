// # Words for arithmetic on wide integers
//
// Floating-point arithmetic in software is integer arithmetic on twice the width, with some care for the bits that fall off the end. The few phrases
// that it is made of stand here. Each is a piece of code that is written out where it is used.

import type { StateAccess } from '../micro-ops/library.ts';
import { brIf, type Code, either, get, i32, i64, Label, type Local, loop, select, set } from '../wasm-assembler.ts';

export const n32 = (value: number): Code => i32.const(value);
export const n64 = (value: bigint): Code => i64.const(value);
/** The integer bit of a normalised significand. */
export const TOP = n64(-(1n << 63n));
export const top = (x: Code): Code => i64.lt_s(x, n64(0n));

const MASK32 = n64(0xffffffffn);

/** high:low := a · b, all unsigned: four products of 32 bits each, as on paper. */
export function multiplyWide(s: StateAccess, a: Local, b: Local, high: Local, low: Local): Code {
  const lower = (x: Local): Code => i64.and(get(x), MASK32);
  const upper = (x: Local): Code => i64.shr_u(get(x), n64(32n));
  const middle = s.local('i64');
  const cross = s.local('i64');
  const least = s.local('i64');
  return [
    set(least, i64.mul(lower(a), lower(b))),
    set(middle, i64.add(i64.mul(upper(a), lower(b)), upper(least))),
    set(cross, i64.add(i64.mul(lower(a), upper(b)), lower(middle))),
    set(high, i64.add(i64.add(i64.mul(upper(a), upper(b)), upper(middle)), upper(cross))),
    set(low, i64.or(i64.shl(get(cross), n64(32n)), lower(least))),
  ];
}

/** 1 when any bit of `x` is set, as 64 bits: what a sticky bit is. */
export const sticky = (x: Code): Code => i64.extend_i32_u(i64.ne(x, n64(0n)));

/**
 * high:low := high:0 shifted right by `count`, an i32 of at least 1. What falls off the end is remembered in the lowest bit, which is all that rounding asks
 * about it.
 */
export function shiftRightSticky(high: Local, low: Local, count: Local): Code {
  const wide = i64.extend_i32_u(get(count)); // wasm takes shift counts modulo 64
  return either(
    i32.lt_u(get(count), n32(64)),
    [set(low, i64.shl(get(high), i64.sub(n64(0n), wide))), set(high, i64.shr_u(get(high), wide))],
    [
      either(
        i32.lt_u(get(count), n32(128)),
        [set(low, i64.shr_u(get(high), wide)), set(low, i64.or(get(low), i64.extend_i32_u(i64.ne(i64.shl(get(low), wide), get(high)))))],
        set(low, sticky(get(high))),
      ),
      set(high, n64(0n)),
    ],
  );
}

/** Shifts high:low left until the highest bit is set, and lowers `exponent` accordingly. The number is not zero. */
export function normalise(high: Local, low: Local, exponent: Local, count: Local): Code {
  return [
    either(
      i64.eqz(get(high)),
      [
        set(high, get(low)),
        set(low, n64(0n)),
        set(count, i64.clz(get(high))),
        set(exponent, i32.sub(get(exponent), i32.wrap_i64(i64.add(get(count), n64(64n))))),
        set(high, i64.shl(get(high), get(count))),
      ],
      [
        set(count, i64.clz(get(high))),
        set(exponent, i32.sub(get(exponent), i32.wrap_i64(get(count)))),
        // Two shifts, because a single one by 64 would be one by nothing.
        set(high, i64.or(i64.shl(get(high), get(count)), i64.shr_u(i64.shr_u(get(low), n64(1n)), i64.sub(n64(63n), get(count))))),
        set(low, i64.shl(get(low), get(count))),
      ],
    ),
  ];
}

/** One of two values of 32 bits. */
export const choose = (condition: Code, yes: Code, no: Code): Code => select(yes, no, condition);

/** A loop: the body receives what goes back to its beginning when a condition holds. */
export function again(body: (backWhen: (condition: Code) => Code) => Code): Code {
  const label = new Label();
  return loop(
    label,
    body((condition) => brIf(label, condition)),
  );
}
