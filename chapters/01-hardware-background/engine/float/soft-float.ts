// # Arithmetic on floating-point numbers, in integers
//
// The x87 computes with significands of 64 bits, which no other arithmetic at hand has; SSE raises flags that WebAssembly's floating point does not show,
// and rounds in four directions where WebAssembly knows one. So here is IEEE 754 from the ground up: addition, multiplication, division, square root, and the
// rounding that they have in common. It is exact by construction: an operation produces more bits than any result has, plus one *sticky* bit that says
// whether there would have been more; then `float.round`, and nothing else, decides.
//
// A number is unpacked into three words: a sign (0, or {{SIGN}}, where the x87 has it), an exponent with the x87's bias of {{BIAS}}, whatever format the
// number came from, and a significand of 64 bits whose highest bit is set. There are no zeros, infinities or NaNs here: what those mean depends on the
// instruction set, and is settled before.
//
// How to round is said by a word laid out like the x87's control word:
//
// ```
//  15   13 12 11 10 9 8 7 6  5  4  3  2  1  0
// +-------+--+-----+---+---+--+--+--+--+--+--+
// |       |R | RC  |PC |   |PM|UM|OM|ZM|DM|IM|
// +-------+--+-----+---+---+--+--+--+--+--+--+
// ```
//
// PC: 0 rounds to {{PRECISION[0]}} bits, 2 to {{PRECISION[2]}}, 3 to {{PRECISION[3]}}. The x87 has always been peculiar in that this leaves the range of
// exponents alone; R, which is ours, limits the exponent to the format of that precision as well, as stores and SSE do.
//
// Results are a significand and a word: sign and exponent in the upper half, as in an x87 register; in the lower half the flags that
// were raised, where the x87's status word has them, and in C1 ({{FLAG_C1}}) whether rounding went away from zero. A subnormal result has the lowest exponent of
// its format and a clear highest bit; in the x87's own format that exponent is written 0. An infinity has exponent {{MAX_EXPONENT}}.

import { defineFunction, type StateAccess } from '../micro-ops/library.ts';
import { block, br, brIf, type Code, either, get, i32, i64, Label, type Local, loop, ret, set, tee, when } from '../wasm-assembler.ts';
import { convert, f64 } from '../wasm-vectors.ts';
import { choose, multiplyWide, n32, n64, normalise, shiftRightSticky, sticky, TOP, top } from './words.ts';

/** The sign in the upper word of an x87 register, and in ours. */
export const SIGN = 0x8000;
export const BIAS = 0x3fff;
/** The exponent of infinities and NaNs. */
export const MAX_EXPONENT = 0x7fff;
/** Bits of the significand, by PC. The manual reserves 1; the processor at hand takes it for 3. */
export const PRECISION = [24, 64, 53, 64] as const;
/** What an unmasked overflow or underflow subtracts from or adds to the exponent, so that a handler can make something of the result. */
const WRAP = 0x6000;

// biome-ignore format: table
/** Exceptions, in the order of their flags in the x87's status word and in MXCSR. */
export const EXCEPTION = { IE: 1, DE: 2, ZE: 4, OE: 8, UE: 16, PE: 32 } as const;
export const FLAG_C1 = 1 << 9;
/** Fields of the word that says how to round. */
export const HOW = {
  PC: 3 << 8,
  PC_SHIFT: 8,
  RC: 3 << 10,
  DOWN: 1 << 10,
  UP: 2 << 10,
  TRUNCATE: 3 << 10,
  SINGLE: 0,
  DOUBLE: 2 << 8,
  EXTENDED: 3 << 8,
  RANGE: 1 << 12,
} as const;

const isSet = (word: Code, mask: number): Code => i32.ne(i32.and(word, n32(mask)), n32(0));
/** The two results of an operation on the stack. */
const result = (significand: Code, word: Code): Code => [significand, word];
const pack = (sign: Code, exponent: Code): Code => i32.shl(i32.or(sign, exponent), n32(16));

// ## Rounding
//
// The number to be rounded is (high:low / 2^127) · 2^(exponent - bias), its lowest bit sticky. Nearly always the precision is the full one, the direction is to
// the nearest, and the exponent is far from its limits. That case comes first and takes a dozen operations.

const roundedUpToNearest = (high: Local, low: Local): Code =>
  i32.or(i64.gt_u(get(low), TOP), i32.and(i64.eq(get(low), TOP), i32.wrap_i64(i64.and(get(high), n64(1n)))));

/** Returns the rounded number when it is an ordinary case; otherwise goes on with whatever comes next. */
export function roundQuickly(s: StateAccess, sign: Code, exponent: Local, high: Local, low: Local, how: Local): Code {
  const up = s.local('i32');
  const ordinary = i32.and(
    i32.eq(i32.and(get(how), n32(HOW.PC | HOW.RC)), n32(HOW.EXTENDED)),
    i32.lt_u(i32.sub(get(exponent), n32(1)), n32(MAX_EXPONENT - 2)),
  );
  return when(ordinary, [
    when(i64.eqz(get(low)), ret(result(get(high), pack(sign, get(exponent))))),
    set(up, roundedUpToNearest(high, low)),
    set(high, i64.add(get(high), i64.extend_i32_u(get(up)))),
    when(i64.eqz(get(high)), [set(high, TOP), set(exponent, i32.add(get(exponent), n32(1)))]),
    ret(result(get(high), i32.or(pack(sign, get(exponent)), i32.or(n32(EXCEPTION.PE), i32.shl(get(up), n32(9)))))),
  ]);
}

// The general case. A number below the range is *tiny*, and whether it is, is judged by what it would be if exponents had no limit: rounding
// may carry it just over the edge. (IEEE 754 leaves this to the implementer; x86 has always looked after rounding.) A tiny number loses bits from its end
// until its exponent fits, and is rounded there; not so when underflow is unmasked, because then it is not the result, and only what rounding would have lost counts.

// @clause x87.rounding.control
// @clause x87.c1.rounded-up
defineFunction(
  'float.round',
  ['i32', 'i32', 'i64', 'i64', 'i32'],
  ['i64', 'i32'],
  (s, sign: Local, exponent: Local, high: Local, low: Local, how: Local) => {
    const [precision, least, greatest, flags, tiny, away, count] = Array.from({ length: 7 }, () => s.local('i32')) as [
      Local,
      Local,
      Local,
      Local,
      Local,
      Local,
      Local,
    ];
    const unit = s.local('i64');
    const rest = s.local('i64');
    const wide = s.local('i64');
    const format = i32.and(get(how), n32(HOW.PC));
    const limits = (lowest: number, highest: number): Code => [set(least, n32(BIAS + lowest)), set(greatest, n32(BIAS + highest))];
    const masked = (flag: number): Code => isSet(get(how), flag);
    const limited = isSet(get(how), HOW.RANGE);
    /** What lies below the last bit that is kept, as a fraction of it: 64 bits, the lowest sticky. */
    const takeRest = either(
      i32.eq(get(precision), n32(64)),
      set(rest, get(low)),
      set(rest, i64.or(i64.shl(get(high), i64.extend_i32_u(get(precision))), sticky(get(low)))),
    );
    const direction = i32.and(get(how), n32(HOW.RC));
    /** Whether the magnitude goes up. */
    const decide = set(
      away,
      either(
        i32.eqz(direction),
        i32.or(i64.gt_u(get(rest), TOP), i32.and(i64.eq(get(rest), TOP), i64.ne(i64.and(get(high), get(unit)), n64(0n)))),
        i32.and(i64.ne(get(rest), n64(0n)), i32.eq(direction, choose(get(sign), n32(HOW.DOWN), n32(HOW.UP)))),
        'i32',
      ),
    );
    const kept = i64.and(get(high), i64.sub(n64(0n), get(unit)));
    return [
      roundQuickly(s, get(sign), exponent, high, low, how),
      set(precision, n32(64)),
      limits(-16382, 16383),
      when(i32.eq(format, n32(HOW.DOUBLE)), [set(precision, n32(53)), when(limited, limits(-1022, 1023))]),
      when(i32.eqz(format), [set(precision, n32(24)), when(limited, limits(-126, 127))]),
      set(unit, i64.shl(n64(1n), i64.extend_i32_u(i32.sub(n32(64), get(precision))))),
      when(i32.lt_s(get(exponent), get(least)), [
        takeRest,
        decide,
        set(wide, kept),
        // Not tiny: one below the range, and rounding carries out of the highest bit.
        set(tiny, i32.eqz(i32.and(i32.and(get(away), i32.eq(get(exponent), i32.sub(get(least), n32(1)))), i64.eqz(i64.add(get(wide), get(unit)))))),
        when(i32.or(masked(EXCEPTION.UE), i32.eqz(get(tiny))), [
          set(count, i32.sub(get(least), get(exponent))),
          set(rest, get(low)),
          shiftRightSticky(high, low, count),
          set(low, i64.or(get(low), sticky(get(rest)))),
          set(exponent, get(least)),
        ]),
      ]),
      takeRest,
      decide,
      set(high, kept),
      when(i64.ne(get(rest), n64(0n)), [
        set(flags, n32(EXCEPTION.PE)),
        when(get(away), [
          set(high, i64.add(get(high), get(unit))),
          set(flags, n32(EXCEPTION.PE | FLAG_C1)),
          when(i64.eqz(get(high)), [set(high, TOP), set(exponent, i32.add(get(exponent), n32(1)))]),
        ]),
      ]),
      when(i32.and(get(tiny), i32.or(i32.ne(get(flags), n32(0)), i32.eqz(masked(EXCEPTION.UE)))), [
        set(flags, i32.or(get(flags), n32(EXCEPTION.UE))),
        when(i32.eqz(i32.or(masked(EXCEPTION.UE), limited)), set(exponent, i32.add(get(exponent), n32(WRAP)))),
      ]),
      when(i32.gt_s(get(exponent), get(greatest)), [
        set(flags, i32.or(get(flags), n32(EXCEPTION.OE))),
        either(
          masked(EXCEPTION.OE),
          [
            // Infinity where rounding goes away from zero; otherwise the largest number there is.
            set(away, i32.or(i32.eqz(direction), i32.eq(direction, choose(get(sign), n32(HOW.DOWN), n32(HOW.UP))))),
            set(high, either(get(away), TOP, i64.sub(n64(0n), get(unit)), 'i64')),
            set(exponent, choose(get(away), n32(MAX_EXPONENT), get(greatest))),
            set(flags, i32.or(n32(EXCEPTION.OE | EXCEPTION.PE), i32.shl(get(away), n32(9)))),
          ],
          when(i32.eqz(limited), set(exponent, i32.sub(get(exponent), n32(WRAP)))),
        ),
      ]),
      when(i32.and(i32.eqz(top(get(high))), i32.eq(get(least), n32(1))), set(exponent, n32(0))),
      result(get(high), i32.or(pack(get(sign), get(exponent)), get(flags))),
    ];
  },
);
const round = (s: StateAccess, sign: Code, exponent: Code, high: Code, low: Code, how: Code): Code =>
  s.call('float.round', sign, exponent, high, low, how);

// ## Addition
//
// The smaller number is shifted right until the exponents agree. Of two numbers of opposite sign the larger is kept and the smaller subtracted; only when they
// were nearly equal are there leading zeros to remove, and then nothing was lost by the shift. A difference of nothing at all is +0, or -0 when rounding down.

type SixLocals = [Local, Local, Local, Local, Local, Local];

/** a + b, in place: leaves sign, exponent and high:low of the sum in `aSign`, `aExponent`, `a` and `low`. An exact zero returns. */
export function addMagnitudes(s: StateAccess, [aSign, aExponent, a, bSign, bExponent, b]: SixLocals, low: Local, how: Local): Code {
  const count = s.local('i32');
  const wide = s.local('i64');
  const exchange = (x: Local, y: Local): Code => [get(x), get(y), set(x, []), set(y, [])];
  return [
    when(i32.or(i32.lt_s(get(aExponent), get(bExponent)), i32.and(i32.eq(get(aExponent), get(bExponent)), i64.lt_u(get(a), get(b)))), [
      exchange(a, b),
      exchange(aExponent, bExponent),
      exchange(aSign, bSign),
    ]),
    set(low, n64(0n)),
    when(tee(count, i32.sub(get(aExponent), get(bExponent))), shiftRightSticky(b, low, count)),
    either(
      i32.eq(get(aSign), get(bSign)),
      [
        set(a, i64.add(get(a), get(b))),
        when(i64.lt_u(get(a), get(b)), [
          set(low, i64.or(i64.or(i64.shl(get(a), n64(63n)), i64.shr_u(get(low), n64(1n))), i64.and(get(low), n64(1n)))),
          set(a, i64.or(i64.shr_u(get(a), n64(1n)), TOP)),
          set(aExponent, i32.add(get(aExponent), n32(1))),
        ]),
      ],
      [
        set(a, i64.sub(i64.sub(get(a), get(b)), sticky(get(low)))),
        set(low, i64.sub(n64(0n), get(low))),
        when(i32.eqz(top(get(a))), [
          when(
            i64.eqz(i64.or(get(a), get(low))),
            ret(result(n64(0n), pack(choose(i32.eq(i32.and(get(how), n32(HOW.RC)), n32(HOW.DOWN)), n32(SIGN), n32(0)), n32(0)))),
          ),
          normalise(a, low, aExponent, wide),
        ]),
      ],
    ),
  ];
}

// ::: Each of the following takes two unpacked numbers, a and b, and the word that says how to round.

const TWO_NUMBERS = ['i32', 'i32', 'i64', 'i32', 'i32', 'i64', 'i32'] as const;
const RESULT = ['i64', 'i32'] as const;

defineFunction('float.add', TWO_NUMBERS, RESULT, (s, ...locals: Local[]) => {
  const [aSign, aExponent, a, bSign, bExponent, b, how] = locals as [...SixLocals, Local];
  const low = s.local('i64');
  return [addMagnitudes(s, [aSign, aExponent, a, bSign, bExponent, b], low, how), round(s, get(aSign), get(aExponent), get(a), get(low), get(how))];
});

// ## Multiplication

/** a · b: leaves the exponent in `aExponent`, the product in high:low. */
export function multiplyMagnitudes(s: StateAccess, aExponent: Local, a: Local, bExponent: Local, b: Local, high: Local, low: Local): Code {
  return [
    multiplyWide(s, a, b, high, low),
    set(aExponent, i32.sub(i32.add(get(aExponent), get(bExponent)), n32(BIAS - 1))),
    when(i32.eqz(top(get(high))), [
      set(high, i64.or(i64.shl(get(high), n64(1n)), i64.shr_u(get(low), n64(63n)))),
      set(low, i64.shl(get(low), n64(1n))),
      set(aExponent, i32.sub(get(aExponent), n32(1))),
    ]),
  ];
}
defineFunction('float.multiply', TWO_NUMBERS, RESULT, (s, ...locals: Local[]) => {
  const [aSign, aExponent, a, bSign, bExponent, b, how] = locals as [...SixLocals, Local];
  const high = s.local('i64');
  const low = s.local('i64');
  return [
    multiplyMagnitudes(s, aExponent, a, bExponent, b, high, low),
    round(s, i32.xor(get(aSign), get(bSign)), get(aExponent), get(high), get(low), get(how)),
  ];
});

// ## Division
//
// 128 by 64 bits, in two steps of 32 (Knuth's algorithm D with digits of 32 bits): the upper half of the divisor gives an estimate of the digit that is at most
// two too large, and the rest of the divisor corrects it. The divisor's highest bit is set, which is what makes the estimate that good.

/** (high, low, divisor) -> quotient of 64 bits; high < divisor, and the divisor's highest bit is set. */
defineFunction('wide.divide', ['i64', 'i64', 'i64'], ['i64'], (s, high: Local, low: Local, divisor: Local) => {
  const upper = s.local('i64');
  const lower = s.local('i64');
  const digit = s.local('i64');
  const remainder = s.local('i64');
  const first = s.local('i64');
  const LOW32 = n64(0xffffffffn);
  const estimate = (next: Code): Code => {
    const again = new Label();
    const done = new Label();
    return [
      set(digit, i64.div_u(get(high), get(upper))),
      set(remainder, i64.sub(get(high), i64.mul(get(digit), get(upper)))),
      block(done, [
        loop(again, [
          brIf(
            done,
            i32.eqz(i32.or(i64.gt_u(get(digit), LOW32), i64.gt_u(i64.mul(get(digit), get(lower)), i64.or(i64.shl(get(remainder), n64(32n)), next)))),
          ),
          set(digit, i64.sub(get(digit), n64(1n))),
          set(remainder, i64.add(get(remainder), get(upper))),
          brIf(again, i64.le_u(get(remainder), LOW32)),
        ]),
      ]),
    ];
  };
  const subtract = (next: Code): Code => set(high, i64.sub(i64.or(i64.shl(get(high), n64(32n)), next), i64.mul(get(digit), get(divisor))));
  const [next, last] = [i64.shr_u(get(low), n64(32n)), i64.and(get(low), LOW32)];
  return [
    set(upper, i64.shr_u(get(divisor), n64(32n))),
    set(lower, i64.and(get(divisor), LOW32)),
    estimate(next),
    subtract(next),
    set(first, i64.shl(get(digit), n64(32n))),
    estimate(last),
    i64.or(get(first), get(digit)),
  ];
});

/** a / b: leaves the exponent in `aExponent`, the quotient with its sticky bit in high:low. */
export function divideMagnitudes(s: StateAccess, aExponent: Local, a: Local, bExponent: Local, b: Local, high: Local, low: Local): Code {
  return [
    set(aExponent, i32.add(i32.sub(get(aExponent), get(bExponent)), n32(BIAS))),
    // The dividend is a:0, or half of it when the quotient would otherwise have 65 bits.
    set(low, n64(0n)),
    either(
      i64.ge_u(get(a), get(b)),
      [set(low, i64.shl(get(a), n64(63n))), set(a, i64.shr_u(get(a), n64(1n)))],
      set(aExponent, i32.sub(get(aExponent), n32(1))),
    ),
    set(high, s.call('wide.divide', get(a), get(low), get(b))),
    // What is left over, against half of the divisor, says all that rounding asks: the next bit, and whether anything follows.
    set(low, i64.sub(get(low), i64.mul(get(high), get(b)))),
    when(
      i64.ne(get(low), n64(0n)),
      set(
        low,
        either(i64.ge_u(get(low), i64.sub(get(b), get(low))), i64.or(TOP, sticky(i64.sub(get(low), i64.sub(get(b), get(low))))), n64(1n), 'i64'),
      ),
    ),
  ];
}
defineFunction('float.divide', TWO_NUMBERS, RESULT, (s, ...locals: Local[]) => {
  const [aSign, aExponent, a, bSign, bExponent, b, how] = locals as [...SixLocals, Local];
  const high = s.local('i64');
  const low = s.local('i64');
  return [
    divideMagnitudes(s, aExponent, a, bExponent, b, high, low),
    round(s, i32.xor(get(aSign), get(bSign)), get(aExponent), get(high), get(low), get(how)),
  ];
});

// ## Square root
//
// The hardware's own square root of 53 bits is the beginning; one Newton step with an exact remainder gives the rest, up to a unit or two, which the remainder
// then corrects. The radicand is made a number of 127 or 128 bits, so that its root has 64.

/** (exponent, significand, how) of a positive number. */
defineFunction('float.sqrt', ['i32', 'i64', 'i32'], RESULT, (s, exponent: Local, a: Local, how: Local) => {
  const [root, square, squareLow, low, correction] = Array.from({ length: 5 }, () => s.local('i64')) as [Local, Local, Local, Local, Local];
  const again = new Label();
  const done = new Label();
  const remainder = [
    multiplyWide(s, root, root, square, squareLow),
    // square:squareLow := radicand - root²
    set(square, i64.sub(i64.sub(get(a), get(square)), i64.extend_i32_u(i64.lt_u(get(low), get(squareLow))))),
    set(squareLow, i64.sub(get(low), get(squareLow))),
  ];
  const approximate = f64.add(f64.mul(f64.convert_i64_s(get(square)), f64.const(2 ** 64)), f64.convert_i64_u(get(squareLow)));
  return [
    set(low, n64(0n)),
    // The bias is odd: where the exponent with its bias is odd, the power of two is even, and the radicand half as large as when a factor of two is left.
    when(i32.and(get(exponent), n32(1)), [set(low, i64.shl(get(a), n64(63n))), set(a, i64.shr_u(get(a), n64(1n)))]),
    set(exponent, i32.add(i32.shr_s(i32.sub(get(exponent), n32(BIAS)), n32(1)), n32(BIAS))),
    set(root, convert.i64_trunc_sat_f64_u(f64.mul(f64.sqrt(f64.convert_i64_u(get(a))), f64.const(2 ** 32)))),
    remainder,
    set(correction, convert.i64_trunc_sat_f64_s(f64.div(approximate, f64.mul(f64.convert_i64_u(get(root)), f64.const(2))))),
    set(root, i64.add(get(root), get(correction))),
    // Near 2^64 the estimate may run over.
    when(i32.eqz(top(get(root))), set(root, n64(-1n))),
    remainder,
    block(done, [
      loop(again, [
        when(i64.lt_s(get(square), n64(0n)), [set(root, i64.sub(get(root), n64(1n))), remainder, br(again)]),
        // The right root leaves a remainder of at most twice itself.
        brIf(
          done,
          i32.eqz(
            i32.or(i64.gt_s(get(square), n64(1n)), i32.and(i64.eq(get(square), n64(1n)), i64.gt_u(get(squareLow), i64.shl(get(root), n64(1n))))),
          ),
        ),
        set(root, i64.add(get(root), n64(1n))),
        remainder,
        br(again),
      ]),
    ]),
    // The root is never halfway between two numbers: whatever is left over is above or below.
    set(low, either(i32.or(i64.ne(get(square), n64(0n)), i64.gt_u(get(squareLow), get(root))), i64.or(TOP, n64(1n)), sticky(get(squareLow)), 'i64')),
    round(s, n32(0), get(exponent), get(root), get(low), get(how)),
  ];
});
