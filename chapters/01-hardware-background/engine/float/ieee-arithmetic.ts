// # Arithmetic in the formats of SSE
//
// The soft float adds and multiplies what is left when the special cases are gone. Those are the subject here, in the order in which the processor
// looks for them: a denormal operand may be taken for zero; a NaN decides the result, whatever the other operand is; an operation may be invalid;
// then come infinities and zeros.

import { defineFunction, type StateAccess } from '../micro-ops/library.ts';
import { type Code, get, i32, i64, type Local, ret, select, set, tee, when } from '../wasm-assembler.ts';
import {
  control,
  doubleOf,
  FORMATS,
  type Format,
  flagIf,
  howToRound,
  indefinite,
  infinity,
  isDenormal,
  isNan,
  isSignaling,
  MXCSR,
  magnitude,
  quietBit,
  signBit,
  signOf,
} from './ieee.ts';
import { EXCEPTION } from './soft-float.ts';
import { n32, n64 } from './words.ts';

/** Bits of the result, and the flags raised. */
export const RESULT = ['i64', 'i32'] as const;
const isZero = (f: Format, x: Code): Code => i64.eqz(magnitude(f, x));
const isInfinite = (f: Format, x: Code): Code => i64.eq(magnitude(f, x), n64(infinity(f)));
const invalid = (f: Format): Code => ret([n64(indefinite(f)), n32(EXCEPTION.IE)]);

// @clause sse.denormals.control
/** With DAZ, a denormal operand is a zero of the same sign. */
export const flushOperands = (s: StateAccess, f: Format, ...operands: Local[]): Code =>
  when(
    control(s, MXCSR.DAZ),
    operands.map((x) => set(x, select(signOf(f, get(x)), get(x), isDenormal(f, get(x))))),
  );

// @clause sse.arithmetic.results
/** Of two NaNs the first is the result; a signaling one is made quiet. */
const propagate = (f: Format, x: Local, y: Local): Code =>
  when(
    i32.or(isNan(f, get(x)), isNan(f, get(y))),
    ret([
      i64.or(select(get(x), get(y), isNan(f, get(x))), n64(quietBit(f))),
      flagIf(i32.or(isSignaling(f, get(x)), isSignaling(f, get(y))), EXCEPTION.IE),
    ]),
  );

/** Unpacked numbers on the stack, for the soft float. */
const unpacked = (s: StateAccess, f: Format, x: Local): Code => s.call('ieee.unpack', doubleOf(f, get(x)));
/** Rounds by the soft float's `operation`, and adds `flags` to those it raises. */
const rounded = (s: StateAccess, f: Format, operation: string, operands: Code, flags: Local): Code => {
  const packed = s.call(`ieee.pack.${f.bytes}`, operands, s.call(operation, howToRound(s, f)));
  return [packed, get(flags), i32.or([], [])];
};

type Meaning = (s: StateAccess, f: Format, x: Local, y: Local, flags: Local) => Code;

/** Defines `ieee.name.4` and `ieee.name.8`. The meaning sees no NaNs; `flags` is DE or 0. */
function operation(name: string, meaning: Meaning): void {
  for (const f of FORMATS) {
    defineFunction(`ieee.${name}.${f.bytes}`, ['i64', 'i64'], RESULT, (s, x: Local, y: Local) => {
      const flags = s.local('i32');
      return [
        flushOperands(s, f, x, y),
        propagate(f, x, y),
        set(flags, flagIf(i32.or(isDenormal(f, get(x)), isDenormal(f, get(y))), EXCEPTION.DE)),
        meaning(s, f, x, y, flags),
      ];
    });
  }
}

// ## The four operations

const sum: Meaning = (s, f, x, y, flags) => {
  const differ = i64.ne(signOf(f, get(x)), signOf(f, get(y)));
  const zero = select(n64(signBit(f)), n64(0n), i32.eq(control(s, MXCSR.RC), n32(1 << MXCSR.RC_SHIFT)));
  // The one that is not zero is rounded all the same: it may be tiny.
  const alone = (other: Local): Code =>
    ret([
      s.call('ieee.unpack', doubleOf(f, get(other))),
      n64(0n),
      howToRound(s, f),
      s.call('float.round'),
      s.call(`ieee.pack.${f.bytes}`),
      get(flags),
      i32.or([], []),
    ]);
  return [
    when(isInfinite(f, get(x)), [when(i32.and(isInfinite(f, get(y)), differ), invalid(f)), ret([get(x), get(flags)])]),
    when(isInfinite(f, get(y)), ret([get(y), get(flags)])),
    when(isZero(f, get(x)), [when(isZero(f, get(y)), ret([select(zero, get(x), differ), get(flags)])), alone(y)]),
    when(isZero(f, get(y)), alone(x)),
    rounded(s, f, 'float.add', [unpacked(s, f, x), unpacked(s, f, y)], flags),
  ];
};
operation('add', sum);
operation('sub', (s, f, x, y, flags) => [set(y, i64.xor(get(y), n64(signBit(f)))), sum(s, f, x, y, flags)]);

const productSign = (f: Format, x: Local, y: Local): Code => signOf(f, i64.xor(get(x), get(y)));

operation('mul', (s, f, x, y, flags) => {
  const sign = s.local('i64');
  const [zeros, infinities] = [isZero, isInfinite].map((test) => i32.or(test(f, get(x)), test(f, get(y)))) as [Code, Code];
  return [
    set(sign, productSign(f, x, y)),
    when(infinities, [when(zeros, invalid(f)), ret([i64.or(get(sign), n64(infinity(f))), get(flags)])]),
    when(zeros, ret([get(sign), get(flags)])),
    rounded(s, f, 'float.multiply', [unpacked(s, f, x), unpacked(s, f, y)], flags),
  ];
});

operation('div', (s, f, x, y, flags) => {
  const sign = s.local('i64');
  const infinite = i64.or(get(sign), n64(infinity(f)));
  return [
    set(sign, productSign(f, x, y)),
    when(isInfinite(f, get(x)), [when(isInfinite(f, get(y)), invalid(f)), ret([infinite, get(flags)])]),
    when(isInfinite(f, get(y)), ret([get(sign), get(flags)])),
    when(isZero(f, get(y)), [when(isZero(f, get(x)), invalid(f)), ret([infinite, n32(EXCEPTION.ZE)])]),
    when(isZero(f, get(x)), ret([get(sign), get(flags)])),
    rounded(s, f, 'float.divide', [unpacked(s, f, x), unpacked(s, f, y)], flags),
  ];
});

/** The first operand is not looked at. */
for (const f of FORMATS) {
  defineFunction(`ieee.sqrt.${f.bytes}`, ['i64', 'i64'], RESULT, (s, _x: Local, y: Local) => {
    const flags = s.local('i32');
    const [exponent, significand] = [s.local('i32'), s.local('i64')];
    const isPositive = i64.eqz(signOf(f, get(y)));
    return [
      flushOperands(s, f, y),
      propagate(f, y, y),
      when(isZero(f, get(y)), ret([get(y), n32(0)])),
      when(i32.eqz(isPositive), invalid(f)),
      when(isInfinite(f, get(y)), ret([get(y), n32(0)])),
      set(flags, flagIf(isDenormal(f, get(y)), EXCEPTION.DE)),
      unpacked(s, f, y),
      set(significand, []),
      set(exponent, []),
      set(flags, i32.or([], get(flags))), // the sign is 0
      rounded(s, f, 'float.sqrt', [get(exponent), get(significand)], flags),
    ];
  });
}

// ## Smaller and larger
//
// MIN and MAX are what `x < y ? x : y` compiles to, and so they are not symmetrical: unless the comparison holds, the second operand is the result,
// bit for bit. Two zeros are equal, and nothing compares with a NaN.

// @clause sse.minmax.operands
/** x < y, or x > y, for bit patterns that are no NaNs. */
const isBelow = (f: Format, x: Code, y: Code): Code => {
  // Of negative numbers, the larger pattern is the smaller number.
  const ordered = (v: Code): Code => {
    const wide = f.bytes === 4 ? i64.extend32_s(v) : v;
    return i64.xor(wide, i64.shr_u(i64.shr_s(wide, n64(63n)), n64(1n)));
  };
  const bothZero = i64.eqz(magnitude(f, i64.or(x, y)));
  return i32.and(i64.lt_s(ordered(x), ordered(y)), i32.eqz(bothZero));
};

for (const [name, chooses] of [
  ['min', (f: Format, x: Local, y: Local) => isBelow(f, get(x), get(y))],
  ['max', (f: Format, x: Local, y: Local) => isBelow(f, get(y), get(x))],
] as const) {
  for (const f of FORMATS) {
    defineFunction(`ieee.${name}.${f.bytes}`, ['i64', 'i64'], RESULT, (s, x: Local, y: Local) => [
      flushOperands(s, f, x, y),
      when(i32.or(isNan(f, get(x)), isNan(f, get(y))), ret([get(y), n32(EXCEPTION.IE)])),
      select(get(x), get(y), chooses(f, x, y)),
      flagIf(i32.or(isDenormal(f, get(x)), isDenormal(f, get(y))), EXCEPTION.DE),
    ]);
  }
}

// ## Comparing
//
// A comparison has four outcomes. What an instruction makes of them is a mask of four bits, its *relation*: one bit for each outcome that makes it
// true.

/** Outcomes of a comparison, as bits of a relation. */
export const OUTCOME = { GREATER: 1, LESS: 2, EQUAL: 4, UNORDERED: 8 } as const;
/** With the outcomes in a relation: any NaN is invalid, not only a signaling one. */
export const STRICT = 16;

for (const f of FORMATS) {
  // A comparison for equality can live with a NaN, and complains of signaling ones only. `strict`: of any.
  defineFunction(`ieee.compare.${f.bytes}`, ['i64', 'i64', 'i32'], ['i32', 'i32'], (s, x: Local, y: Local, strict: Local) => {
    const either = (test: (f: Format, x: Code) => Code): Code => i32.or(test(f, get(x)), test(f, get(y)));
    return [
      flushOperands(s, f, x, y),
      when(either(isNan), ret([n32(OUTCOME.UNORDERED), flagIf(i32.or(i32.ne(get(strict), n32(0)), either(isSignaling)), EXCEPTION.IE)])),
      select(n32(OUTCOME.LESS), select(n32(OUTCOME.GREATER), n32(OUTCOME.EQUAL), isBelow(f, get(y), get(x))), isBelow(f, get(x), get(y))),
      flagIf(either(isDenormal), EXCEPTION.DE),
    ];
  });
}

// ## The end of an instruction
//
// Flags stay set until a program clears them. If one was raised whose exception is not masked, the instruction ends with #XM and no result.
// Exceptions that are noticed before computing keep those of the result from being seen.

const BEFORE = EXCEPTION.IE | EXCEPTION.DE | EXCEPTION.ZE;

// @clause sse.arithmetic.results
// @clause sse.exception.unmasked
/** (flags raised) -> non-zero when an exception is to be delivered. */
defineFunction('ieee.settle', ['i32'], ['i32'], (s, raised: Local) => {
  const unmasked = s.local('i32');
  const enabled = i32.xor(i32.and(i32.shr_u(s.field32(MXCSR.AT), n32(MXCSR.MASK_SHIFT)), n32(MXCSR.FLAGS)), n32(MXCSR.FLAGS));
  return [
    when(i32.and(tee(unmasked, i32.and(get(raised), enabled)), n32(BEFORE)), set(raised, i32.and(get(raised), n32(BEFORE)))),
    s.setField32(MXCSR.AT, i32.or(s.field32(MXCSR.AT), get(raised))),
    get(unmasked),
  ];
});
