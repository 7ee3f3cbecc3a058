// # Conversions
//
// Between the two formats, between numbers and integers, and to numbers that are integers. An integer that cannot hold the result gets the *integer
// indefinite*, the most negative number, and the invalid exception is raised. All that rounds to integers is done on doubles, which hold every
// single.

import { defineFunction, type StateAccess } from '../micro-ops/library.ts';
import { type Code, either, get, i32, i64, type Local, ret, select, set, when } from '../wasm-assembler.ts';
import { convert, f32, f64, i32x4, v128 } from '../wasm-vectors.ts';
import {
  control,
  DOUBLE,
  doubleOf,
  FORMATS,
  type Format,
  flagIf,
  howToRound,
  infinity,
  isDenormal,
  isNan,
  isSignaling,
  MXCSR,
  magnitude,
  quietBit,
  SINGLE,
  signOf,
} from './ieee.ts';
import { flushOperands, RESULT } from './ieee-arithmetic.ts';
import { lane, withLane } from './ieee-fast.ts';
import { BIAS, EXCEPTION, SIGN } from './soft-float.ts';
import { n32, n64 } from './words.ts';

/** Fields of an immediate that says how to round (ROUNDSS and its relatives). */
const ROUND = { DIRECTION: 3, BY_MXCSR: 4, SILENT: 8, TRUNCATE: 3 } as const;

/** `x`, a double, rounded to an integer in the direction that RC's codes name. */
function integral(x: Code, direction: Code): Code {
  const [toNearest, down, up, truncated] = [f64.nearest(x), f64.floor(x), f64.ceil(x), f64.trunc(x)];
  const upper = either(i32.and(direction, n32(1)), truncated, up, 'f64');
  return either(i32.and(direction, n32(2)), upper, either(direction, down, toNearest, 'f64'), 'f64');
}
const directionOfMxcsr = (s: StateAccess): Code => i32.shr_u(control(s, MXCSR.RC), n32(MXCSR.RC_SHIFT));
const inexactIf = (condition: Code): Code => flagIf(condition, EXCEPTION.PE);

// ## Integers

// @clause sse.convert.results
for (const f of FORMATS) {
  for (const bytes of [4, 8] as const) {
    const limit = 2 ** (8 * bytes - 1);
    // Denormal operands raise nothing here.
    defineFunction(`ieee.toInteger.${f.bytes}.${bytes}`, ['i64', 'i32'], RESULT, (s, x: Local, truncate: Local) => {
      const [number, rounded] = [s.local('f64'), s.local('f64')];
      const direction = s.local('i32');
      return [
        flushOperands(s, f, x),
        set(direction, select(n32(ROUND.TRUNCATE), directionOfMxcsr(s), get(truncate))),
        set(number, f64.reinterpret_i64(doubleOf(f, get(x)))),
        set(rounded, integral(get(number), get(direction))),
        when(
          i32.eqz(i32.and(f64.ge(get(rounded), f64.const(-limit)), f64.lt(get(rounded), f64.const(limit)))),
          ret([n64(-(1n << BigInt(8 * bytes - 1))), n32(EXCEPTION.IE)]),
        ),
        convert.i64_trunc_sat_f64_s(get(rounded)),
        inexactIf(f64.ne(get(rounded), get(number))),
      ];
    });
  }

  defineFunction(`ieee.fromInteger.${f.bytes}`, ['i64'], RESULT, (s, value: Local) => {
    const [sign, count] = [s.local('i32'), s.local('i64')];
    return [
      when(i64.eqz(get(value)), ret([n64(0n), n32(0)])),
      when(i64.lt_s(get(value), n64(0n)), [set(sign, n32(SIGN)), set(value, i64.sub(n64(0n), get(value)))]),
      set(count, i64.clz(get(value))),
      get(sign),
      i32.sub(n32(BIAS + 63), i32.wrap_i64(get(count))),
      i64.shl(get(value), get(count)),
      n64(0n),
      howToRound(s, f),
      s.call('float.round'),
      s.call(`ieee.pack.${f.bytes}`),
    ];
  });

  /** (bits, immediate) -> the number rounded to an integer, as a number. */
  defineFunction(`ieee.integral.${f.bytes}`, ['i64', 'i32'], RESULT, (s, x: Local, how: Local) => {
    const [number, rounded] = [s.local('f64'), s.local('f64')];
    const direction = s.local('i32');
    const bits = convert.i64_reinterpret_f64(get(rounded));
    return [
      flushOperands(s, f, x),
      when(isNan(f, get(x)), ret([i64.or(get(x), n64(quietBit(f))), flagIf(isSignaling(f, get(x)), EXCEPTION.IE)])),
      set(direction, select(directionOfMxcsr(s), i32.and(get(how), n32(ROUND.DIRECTION)), i32.and(get(how), n32(ROUND.BY_MXCSR)))),
      set(number, f64.reinterpret_i64(doubleOf(f, get(x)))),
      set(rounded, integral(get(number), get(direction))),
      f === DOUBLE ? bits : i64.extend_i32_u(convert.i32_reinterpret_f32(f32.demote_f64(get(rounded)))),
      inexactIf(i32.and(f64.ne(get(rounded), get(number)), i32.eqz(i32.and(get(how), n32(ROUND.SILENT))))),
    ];
  });
}

// ## From one format to the other
//
// A NaN keeps as much of its payload as there is room for, at the upper end, and becomes quiet.

const WIDER = DOUBLE.fraction - SINGLE.fraction;
const quietNaN = (from: Format, to: Format, x: Local): Code => {
  const payload = i64.and(get(x), n64((1n << from.fraction) - 1n));
  const moved = from === SINGLE ? i64.shl(payload, n64(WIDER)) : i64.shr_u(payload, n64(WIDER));
  const sign = from === SINGLE ? i64.shl(signOf(from, get(x)), n64(32n)) : i64.shr_u(signOf(from, get(x)), n64(32n));
  return ret([i64.or(i64.or(sign, moved), n64(infinity(to) | quietBit(to))), flagIf(isSignaling(from, get(x)), EXCEPTION.IE)]);
};

defineFunction('ieee.toDouble', ['i64'], RESULT, (s, x: Local) => [
  flushOperands(s, SINGLE, x),
  when(isNan(SINGLE, get(x)), quietNaN(SINGLE, DOUBLE, x)),
  doubleOf(SINGLE, get(x)),
  flagIf(isDenormal(SINGLE, get(x)), EXCEPTION.DE),
]);

defineFunction('ieee.toSingle', ['i64'], RESULT, (s, x: Local) => {
  const flags = s.local('i32');
  const sign = i64.shr_u(signOf(DOUBLE, get(x)), n64(32n));
  return [
    flushOperands(s, DOUBLE, x),
    when(isNan(DOUBLE, get(x)), quietNaN(DOUBLE, SINGLE, x)),
    when(i64.eqz(magnitude(DOUBLE, get(x))), ret([sign, n32(0)])),
    when(i64.eq(magnitude(DOUBLE, get(x)), n64(infinity(DOUBLE))), ret([i64.or(sign, n64(infinity(SINGLE))), n32(0)])),
    set(flags, flagIf(isDenormal(DOUBLE, get(x)), EXCEPTION.DE)),
    s.call('ieee.unpack', get(x)),
    n64(0n),
    howToRound(s, SINGLE),
    s.call('float.round'),
    s.call('ieee.pack.4'),
    i32.or([], get(flags)),
  ];
});

// ## Vectors

/** What is in a lane: a number, or an integer of 32 bits. */
type Lane = Format | 'integer';
const laneOf = (type: Lane, vector: Code, n: number): Code =>
  type === 'integer' ? i64.extend_i32_s(i32x4.extract(vector, n)) : lane(type, vector, n);
const withLaneOf = (type: Lane, vector: Code, n: number, bits: Code): Code => withLane(type === 'integer' ? SINGLE : type, vector, n, bits);

/** A vector -> `count` lanes converted, zeros above them, and the flags. */
function defineVector(name: string, from: Lane, to: Lane, count: number, convertLane: (s: StateAccess, bits: Code) => Code): void {
  defineFunction(`ieee.${name}`, ['v128'], ['v128', 'i32'], (s, x: Local) => {
    const [result, flags, bits] = [s.local('v128'), s.local('i32'), s.local('i64')];
    return [
      set(result, v128.const(0n, 0n)),
      Array.from({ length: count }, (_, n) => [
        convertLane(s, laneOf(from, get(x), n)),
        set(flags, i32.or([], get(flags))),
        set(bits, []),
        set(result, withLaneOf(to, get(result), n, get(bits))),
      ]),
      get(result),
      get(flags),
    ];
  });
}
for (const count of [2, 4]) {
  defineVector(`integersToSingles.${count}`, 'integer', SINGLE, count, (s, bits) => s.call('ieee.fromInteger.4', bits));
  defineVector(`singlesToIntegers.${count}`, SINGLE, 'integer', count, (s, bits) => s.call('ieee.toInteger.4.4', bits, n32(0)));
  defineVector(`truncateSingles.${count}`, SINGLE, 'integer', count, (s, bits) => s.call('ieee.toInteger.4.4', bits, n32(1)));
}
defineVector('doublesToIntegers', DOUBLE, 'integer', 2, (s, bits) => s.call('ieee.toInteger.8.4', bits, n32(0)));
defineVector('truncateDoubles', DOUBLE, 'integer', 2, (s, bits) => s.call('ieee.toInteger.8.4', bits, n32(1)));
defineVector('singlesToDoubles', SINGLE, DOUBLE, 2, (s, bits) => s.call('ieee.toDouble', bits));
defineVector('doublesToSingles', DOUBLE, SINGLE, 2, (s, bits) => s.call('ieee.toSingle', bits));

for (const f of FORMATS) {
  defineFunction(`ieee.integral.${f.bytes}.packed`, ['v128', 'i32'], ['v128', 'i32'], (s, x: Local, how: Local) => {
    const [result, flags, bits] = [s.local('v128'), s.local('i32'), s.local('i64')];
    return [
      Array.from({ length: 16 / f.bytes }, (_, n) => [
        s.call(`ieee.integral.${f.bytes}`, lane(f, get(x), n), get(how)),
        set(flags, i32.or([], get(flags))),
        set(bits, []),
        set(result, withLane(f, get(result), n, get(bits))),
      ]),
      get(result),
      get(flags),
    ];
  });
}
