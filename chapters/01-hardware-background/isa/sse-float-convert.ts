// # Conversions of SSE
//
// The names are all alike: CVT, what it is, 2, what it becomes; another T before the name of what it is for those that truncate, as C's casts do.
// SI: an integer in a general register; PI: two in an MMX register; DQ: four, or two, in an XMM register.

import { DOUBLE, type Format, SINGLE } from '../engine/float/ieee.ts';
import '../engine/float/ieee-convert.ts';
import {
  denormal,
  denormals,
  isQuiet,
  lowest,
  notOrdinary,
  number,
  ordinary,
  patternType,
  settle,
  toNumber,
  toPattern,
  widen,
  withLowest,
} from '../engine/float/ieee-fast.ts';
import { define, type Emitter } from '../engine/micro-ops.ts';
import { type Code, get, i32, type Local, set, when } from '../engine/wasm-assembler.ts';
import { convert, f32, f32x4, f64, f64x2, i8x16, i32x4, i64x2, v128 } from '../engine/wasm-vectors.ts';
import type { Definition } from './encoding.ts';
import { source } from './simd-common.ts';
import { PLACES, setMmx, simd } from './simd-lanes.ts';

const any = (...conditions: Code[]): Code => conditions.reduce((x, y) => i32.or(x, y));
const isLoud = (e: Emitter): Code => i32.eqz(isQuiet(e));

// ## One integer
//
// Where an integer fits the number exactly, as 32 bits do into a double, there is nothing to round and nothing to raise.

for (const f of [SINGLE, DOUBLE]) {
  for (const bytes of [4, 8] as const) {
    const isExact = f === DOUBLE && bytes === 4;
    define(
      `integerTo.${f.bytes}.${bytes}`,
      (e) => {
        const [integer, bits] = [e.local('i64'), e.local('i64')];
        const converted = widen(f, toPattern(f, number(f).convert_i64_s(get(integer))));
        return [
          set(integer, e.get('a', bytes)),
          set(bits, converted),
          isExact ? [] : when(isLoud(e), settle(e, e.call(`ieee.fromInteger.${f.bytes}`, get(integer)), bits)),
          e.setVector('d', withLowest(f, e.getVector('d'), f === DOUBLE ? get(bits) : i32.wrap_i64(get(bits)))),
        ];
      },
      { outlined: true },
    );
    for (const [name, round] of [
      ['toInteger', (x: Code) => number(f).nearest(x)],
      ['truncate', (x: Code) => x],
    ] as const) {
      define(
        `${name}.${f.bytes}.${bytes}`,
        (e) => {
          const x = e.local(patternType(f));
          const rounded = e.local(f === DOUBLE ? 'f64' : 'f32');
          const integer = e.local('i64');
          const limit = number(f).const(2 ** (8 * bytes - 1));
          const saturating = f === DOUBLE ? convert.i64_trunc_sat_f64_s : convert.i64_trunc_sat_f32_s;
          const slow = e.call(`ieee.toInteger.${f.bytes}.${bytes}`, widen(f, get(x)), i32.const(Number(name === 'truncate')));
          return [
            set(x, lowest(e, f, 'a')),
            set(rounded, round(toNumber(f, get(x)))),
            set(integer, saturating(get(rounded))),
            when(any(isLoud(e), i32.eqz(number(f).lt(number(f).abs(get(rounded)), limit))), settle(e, slow, integer)),
            e.set('d', bytes, get(integer)),
          ];
        },
        { outlined: true },
      );
    }
  }
}
const fromInteger = (name: string, encoding: string, f: Format): Definition =>
  simd(name, encoding, (b) => b.emit(`integerTo.${f.bytes}.${b.bytes(1)}`, { d: b.registerOf(0), a: source(b, 1) }));
const toInteger = (name: string, encoding: string, microOp: string, f: Format): Definition =>
  simd(name, encoding, (b) => b.emit(`${microOp}.${f.bytes}.${b.bytes(0)}`, { d: b.registerOf(0), a: source(b, 1) }));

const INTEGERS = [
  fromInteger('CVTSI2SS', 'F3.0F2A Vx,Ey SSE', SINGLE), // converts an integer to a single
  fromInteger('CVTSI2SD', 'F2.0F2A Vx,Ey SSE2', DOUBLE), // converts an integer to a double
  toInteger('CVTSS2SI', 'F3.0F2D Gy,Wd SSE', 'toInteger', SINGLE), // rounds a single to an integer
  toInteger('CVTSD2SI', 'F2.0F2D Gy,Wq SSE2', 'toInteger', DOUBLE), // rounds a double to an integer
  toInteger('CVTTSS2SI', 'F3.0F2C Gy,Wd SSE', 'truncate', SINGLE), // truncates a single to an integer
  toInteger('CVTTSD2SI', 'F2.0F2C Gy,Wq SSE2', 'truncate', DOUBLE), // truncates a double to an integer
];

// ## One number, the other format

define(
  'toDouble',
  (e) => {
    const [x, bits] = [e.local('i32'), e.local('i64')];
    const value = toNumber(SINGLE, get(x));
    return [
      set(x, lowest(e, SINGLE, 'a')),
      set(bits, toPattern(DOUBLE, f64.promote_f32(value))),
      when(any(f32.ne(value, value), denormal(SINGLE, get(x))), settle(e, e.call('ieee.toDouble', widen(SINGLE, get(x))), bits)),
      e.setVector('d', withLowest(DOUBLE, e.getVector('d'), get(bits))),
    ];
  },
  { outlined: true },
);
define(
  'toSingle',
  (e) => {
    const [x, bits, wide] = [e.local('i64'), e.local('i32'), e.local('i64')];
    return [
      set(x, lowest(e, DOUBLE, 'a')),
      set(bits, toPattern(SINGLE, f32.demote_f64(toNumber(DOUBLE, get(x))))),
      when(any(isLoud(e), i32.eqz(ordinary(SINGLE, get(bits)))), [
        settle(e, e.call('ieee.toSingle', get(x)), wide),
        set(bits, i32.wrap_i64(get(wide))),
      ]),
      e.setVector('d', withLowest(SINGLE, e.getVector('d'), get(bits))),
    ];
  },
  { outlined: true },
);

const FORMATS = [
  simd('CVTSS2SD', 'F3.0F5A Vx,Wd SSE2', (b) => b.emit('toDouble', { d: b.registerOf(0), a: source(b, 1) })), // converts a single to a double
  simd('CVTSD2SS', 'F2.0F5A Vx,Wq SSE2', (b) => b.emit('toSingle', { d: b.registerOf(0), a: source(b, 1) })), // rounds a double to a single
];

// ## Vectors
//
// Where the source is shorter than the result it is eight bytes, in memory too. Where the result is shorter, the upper half of an XMM register is
// cleared.

interface Conversion {
  /** The exact one, in the float library. */
  readonly slow: string;
  fast(x: Code): Code;
  /** When the fast one may be wrong. */
  doubt(e: Emitter, x: Code, result: Code): Code;
}
const LOWER_TWICE = [...PLACES.slice(0, 8), ...PLACES.slice(0, 8)];
const lowerTwice = (x: Code): Code => i8x16.shuffle(x, x, LOWER_TWICE);
const tooLarge = (f: Format, x: Code): Code =>
  f === SINGLE
    ? i32.eqz(i32x4.all_true(f32x4.lt(f32x4.abs(x), f32x4.splat(f32.const(2 ** 31)))))
    : i32.eqz(i64x2.all_true(f64x2.lt(f64x2.abs(x), f64x2.splat(f64.const(2 ** 31)))));
const toIntegers = (slow: string, f: Format, round: (x: Code) => Code): Conversion => ({
  slow,
  fast: (x) => (f === SINGLE ? i32x4.trunc_sat_f32x4_s(round(x)) : i32x4.trunc_sat_f64x2_s_zero(round(x))),
  doubt: (e, x) => any(isLoud(e), tooLarge(f, round(x))),
});
const toSingles = (slow: string): Conversion => ({ slow, fast: f32x4.convert_i32x4_s, doubt: isLoud });
const same = (x: Code): Code => x;
/** Two lanes out of a register, or of eight bytes. */
const inLowerHalf = (c: Conversion): Conversion => ({ ...c, fast: (x) => c.fast(lowerTwice(x)), doubt: (e, x, r) => c.doubt(e, lowerTwice(x), r) });

// biome-ignore format: table
const CONVERSIONS: Readonly<Record<string, Conversion>> = {
  CVTDQ2PS: toSingles('integersToSingles.4'),
  CVTPS2DQ: toIntegers('singlesToIntegers.4', SINGLE, f32x4.nearest),
  CVTTPS2DQ: toIntegers('truncateSingles.4', SINGLE, same),
  CVTPD2DQ: toIntegers('doublesToIntegers', DOUBLE, f64x2.nearest),
  CVTTPD2DQ: toIntegers('truncateDoubles', DOUBLE, same),
  CVTPS2PD: {
    slow: 'singlesToDoubles',
    fast: f64x2.promote_low_f32x4,
    doubt: (_e, x) => v128.any_true(lowerTwice(v128.or(f32x4.ne(x, x), denormals(SINGLE, x)))),
  },
  CVTPD2PS: {
    slow: 'doublesToSingles',
    fast: f32x4.demote_f64x2_zero,
    doubt: (e, _x, result) => any(isLoud(e), v128.any_true(notOrdinary(SINGLE, lowerTwice(result)))),
  },
  CVTPI2PS: inLowerHalf(toSingles('integersToSingles.2')),
  CVTPS2PI: inLowerHalf(toIntegers('singlesToIntegers.2', SINGLE, f32x4.nearest)),
  CVTTPS2PI: inLowerHalf(toIntegers('truncateSingles.2', SINGLE, same)),
};
/** d := conversion of a, by `write`. */
function defineVector(
  microOp: string,
  { slow, fast, doubt }: Conversion,
  read: (e: Emitter) => Code,
  write: (e: Emitter, result: Code) => Code,
): void {
  define(
    microOp,
    (e) => {
      const [x, result]: Local[] = [e.local('v128'), e.local('v128')];
      const [from, to] = [x as Local, result as Local];
      return [
        set(from, read(e)),
        set(to, fast(get(from))),
        when(doubt(e, get(from), get(to)), settle(e, e.call(`ieee.${slow}`, get(from)), to)),
        write(e, get(to)),
      ];
    },
    { outlined: true },
  );
}
const whole = (e: Emitter): Code => e.getVector('a');
const half = (e: Emitter): Code => i64x2.splat(e.get('a'));
const toXmm = (e: Emitter, result: Code): Code => e.setVector('d', result);
const toLowerHalf = (e: Emitter, result: Code): Code => e.setVector('d', i64x2.replace(e.getVector('d'), 0, i64x2.extract(result, 0)));

/** @param like the conversion, where another instruction has the same. */
function vectorConversion(name: string, encodings: string, read: typeof whole, write: typeof toXmm, like = name): Definition {
  defineVector(name, CONVERSIONS[like] as Conversion, read, write);
  return simd(name, encodings, (b) => {
    const a = source(b, 1);
    if (b.operands.some(({ kind }) => kind === 'P' || (kind === 'Q' && b.insn.mod === 3))) b.emit('mmx.used'); // the conversion may fault, and still it has been noted
    b.emit(name, { d: b.registerOf(0), a });
  });
}

const VECTORS = [
  vectorConversion('CVTDQ2PS', '0F5B Vx,Wx SSE2', whole, toXmm), // converts four integers to singles
  vectorConversion('CVTPS2DQ', '66.0F5B Vx,Wx SSE2', whole, toXmm), // rounds four singles to integers
  vectorConversion('CVTTPS2DQ', 'F3.0F5B Vx,Wx SSE2', whole, toXmm), // truncates four singles to integers
  vectorConversion('CVTPD2DQ', 'F2.0FE6 Vx,Wx SSE2', whole, toXmm), // rounds two doubles to integers
  vectorConversion('CVTTPD2DQ', '66.0FE6 Vx,Wx SSE2', whole, toXmm), // truncates two doubles to integers
  vectorConversion('CVTPS2PD', '0F5A Vx,Wq SSE2', half, toXmm), // converts two singles to doubles
  vectorConversion('CVTPD2PS', '66.0F5A Vx,Wx SSE2', whole, toXmm), // rounds two doubles to singles
  vectorConversion('CVTPI2PS', '0F2A Vx,Qq SSE', half, toLowerHalf), // converts two integers to singles
  vectorConversion('CVTPS2PI', '0F2D Pq,Wq SSE', half, setMmx), // rounds two singles to integers
  vectorConversion('CVTTPS2PI', '0F2C Pq,Wq SSE', half, setMmx), // truncates two singles to integers
  vectorConversion('CVTPD2PI', '66.0F2D Pq,Wx SSE2', whole, setMmx, 'CVTPD2DQ'), // rounds two doubles to integers
  vectorConversion('CVTTPD2PI', '66.0F2C Pq,Wx SSE2', whole, setMmx, 'CVTTPD2DQ'), // truncates two doubles to integers
];

// Every integer of 32 bits is a double.
define('integersToDoubles', (e) => e.setVector('d', f64x2.convert_low_i32x4_s(half(e))), { outlined: true });
const EXACT = [
  // converts two integers to doubles
  simd('CVTDQ2PD', 'F3.0FE6 Vx,Wq SSE2', (b) => b.emit('integersToDoubles', { d: b.registerOf(0), a: source(b, 1) })),
  simd('CVTPI2PD', '66.0F2A Vx,Qq SSE2', (b) => b.emit('integersToDoubles', { d: b.registerOf(0), a: source(b, 1) })), // converts two integers to doubles
];

// ## Numbers that are integers
//
// The immediate says in which direction to round, or to ask MXCSR, and whether a number that changes is worth a flag.

for (const f of [SINGLE, DOUBLE]) {
  define(
    `integral.${f.bytes}`,
    (e) => {
      const bits = e.local('i64');
      return [
        settle(e, e.call(`ieee.integral.${f.bytes}`, e.getUnsigned('a', f.bytes), i32.wrap_i64(e.imm)), bits),
        e.setVector('d', withLowest(f, e.getVector('d'), f === DOUBLE ? get(bits) : i32.wrap_i64(get(bits)))),
      ];
    },
    { outlined: true },
  );
  define(
    `integral.${f.bytes}.packed`,
    (e) => {
      const result = e.local('v128');
      return [settle(e, e.call(`ieee.integral.${f.bytes}.packed`, e.getVector('a'), i32.wrap_i64(e.imm)), result), e.setVector('d', get(result))];
    },
    { outlined: true },
  );
}
const roundTo = (name: string, encoding: string, form: string): Definition =>
  simd(name, encoding, (b) => b.emit(`integral.${form}`, { d: b.registerOf(0), a: source(b, 1), imm: b.insn.imm }));

const ROUNDING = [
  roundTo('ROUNDPS', '66.0F3A08 Vx,Wx,Ib SSE4.1', '4.packed'), // rounds four singles to integers, as singles
  roundTo('ROUNDPD', '66.0F3A09 Vx,Wx,Ib SSE4.1', '8.packed'), // rounds two doubles to integers, as doubles
  roundTo('ROUNDSS', '66.0F3A0A Vx,Wd,Ib SSE4.1', '4'), // rounds a single to an integer, as a single
  roundTo('ROUNDSD', '66.0F3A0B Vx,Wq,Ib SSE4.1', '8'), // rounds a double to an integer, as a double
];

export const SSE_CONVERSIONS = [...INTEGERS, ...FORMATS, ...VECTORS, ...EXACT, ...ROUNDING];
