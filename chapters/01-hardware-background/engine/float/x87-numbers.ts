// # Numbers of the x87
//
// A register of the x87 holds 80 bits: a significand of 64, its integer bit written out, and sign and exponent in a word of 16. Writing the integer bit out
// means that there are encodings which say contradictory things, and every operation has to have an opinion about each:
//
// | exponent | integer bit | is |
// |---|---|---|
// | 0 | 0 | a zero, or a *denormal* |
// | 0 | 1 | a *pseudo-denormal*: a number, counted as a denormal |
// | other | 1 | an ordinary number |
// | other | 0 | *unsupported*: an "unnormal" of the 8087, which any operation refuses |
// | all ones | 1 | an infinity, or a NaN: *quiet* when the next bit is set, *signalling* when not |
// | all ones | 0 | unsupported |
//
// The functions below are about values alone; the stack is another file. An operand is a significand and a word: sign and exponent, and {{FROM_DENORMAL}} when the
// number came from memory and was a denormal there, though it is none with 15 bits of exponent. A result is as in `soft-float.ts`, its flags
// those of the status word. Operands are ordinary numbers nearly always, so each operation asks that first, for both operands in a few
// comparisons, and has its second part for all that is not.

import { OFFSET } from '../../state.ts';
import { defineFunction, type StateAccess } from '../micro-ops/library.ts';
import { type Code, either, get, i32, i64, type Local, ret, set, tee, when } from '../wasm-assembler.ts';
import {
  addMagnitudes,
  BIAS,
  divideMagnitudes,
  EXCEPTION,
  FLAG_C1,
  HOW,
  MAX_EXPONENT,
  multiplyMagnitudes,
  roundQuickly,
  SIGN,
} from './soft-float.ts';
import { again, choose, n32, n64, shiftRightSticky, TOP, top } from './words.ts';

/** Where the unit's registers are in the state page: those of the FXSAVE image, but R0 to R7 are the physical registers, not relative to TOP. */
export const UNIT = {
  FCW: OFFSET.FPU,
  FSW: OFFSET.FPU + 2,
  FTW: OFFSET.FPU + 4,
  FOP: OFFSET.FPU + 6,
  FIP: OFFSET.FPU + 8,
  FDP: OFFSET.FPU + 16,
  R: OFFSET.FPU + 32,
} as const;
// biome-ignore format: table
export const STATUS = { SF: 1 << 6, ES: 1 << 7, C0: 1 << 8, C1: FLAG_C1, C2: 1 << 10, TOP: 7 << 11, C3: 1 << 14, B: 1 << 15 } as const;
/** What of the control word matters to rounding; its bit 12 is a relic that would be taken for ours. */
export const CONTROL_MASK = 0xf3f;

export const FROM_DENORMAL = 1 << 16;
/** In the word that says how to round: subtract. Its distance from the sign is one bit. */
export const SUBTRACT = SIGN << 1;
const QUIET = n64(1n << 62n);

/** The quiet NaN that stands for "no such result". */
export const INDEFINITE = { SIGNIFICAND: n64(0xc000000000000000n), WORD: 0xffff } as const;
const indefinite = (flags: number): Code => [INDEFINITE.SIGNIFICAND, n32((INDEFINITE.WORD << 16) | flags)];

const { IE, DE, ZE, PE } = EXCEPTION;
const exponentOf = (word: Local): Code => i32.and(get(word), n32(MAX_EXPONENT));
const signOf = (word: Local): Code => i32.and(get(word), n32(SIGN));
const any = (...conditions: Code[]): Code => conditions.reduce((x, y) => i32.or(x, y));
const all = (...conditions: Code[]): Code => conditions.reduce((x, y) => i32.and(x, y));
const isMax = (word: Local): Code => i32.eq(exponentOf(word), n32(MAX_EXPONENT));
const isUnsupported = (x: Local, word: Local): Code => all(i32.ne(exponentOf(word), n32(0)), i32.eqz(top(get(x))));
const isNaN80 = (x: Local, word: Local): Code => all(isMax(word), i64.gt_u(get(x), TOP));
const isInfinite = (x: Local, word: Local): Code => all(isMax(word), i64.eq(get(x), TOP));
const isZero = (x: Local, word: Local): Code => all(i32.eqz(exponentOf(word)), i64.eqz(get(x)));
const isDenormal = (x: Local, word: Local): Code =>
  any(all(i32.eqz(exponentOf(word)), i64.ne(get(x), n64(0n))), i32.shr_u(i32.and(get(word), n32(FROM_DENORMAL)), n32(16)));
/** An ordinary number, not from a denormal: the exponent is neither 0 nor all ones. The integer bit is tested for both operands together. */
const isOrdinary = (word: Local): Code => i32.lt_u(i32.sub(i32.and(get(word), n32(MAX_EXPONENT | FROM_DENORMAL)), n32(1)), n32(MAX_EXPONENT - 1));
const inUpper = (word: Code): Code => i32.shl(word, n32(16));
/** Takes the two results of a call from the stack. */
export const setResult = (value: Local, word: Local, made: Code): Code => [made, set(word, []), set(value, [])];

const OPERANDS = ['i64', 'i32', 'i64', 'i32', 'i32'] as const;
const ONE_OPERAND = ['i64', 'i32', 'i32'] as const;
const RESULT = ['i64', 'i32'] as const;

// ## NaNs
//
// An operation on a NaN gives that NaN, made quiet. Of two the x87 takes the one with the larger significand, whatever their order; a quiet one goes before a
// signalling one. (SSE, designed later, takes the first.) Unsupported encodings give the indefinite NaN.

// @clause x87.arithmetic.results
/** The result when an operand is a NaN or unsupported; a word of 0 when neither is. */
defineFunction('x87.refuse', ['i64', 'i32', 'i64', 'i32'], RESULT, (s, a: Local, aWord: Local, b: Local, bWord: Local) => {
  const [aNaN, bNaN, aSignals, bSignals] = [s.local('i32'), s.local('i32'), s.local('i32'), s.local('i32')];
  const flags = s.local('i32');
  const signals = (nan: Local, x: Local): Code => all(get(nan), i64.eqz(i64.and(get(x), QUIET)));
  const takeB = ret([get(b), i32.or(inUpper(get(bWord)), get(flags))]);
  const takeA = ret([get(a), i32.or(inUpper(get(aWord)), get(flags))]);
  return [
    when(any(isUnsupported(a, aWord), isUnsupported(b, bWord)), ret(indefinite(IE))),
    set(aNaN, isNaN80(a, aWord)),
    set(bNaN, isNaN80(b, bWord)),
    when(i32.eqz(i32.or(get(aNaN), get(bNaN))), ret([n64(0n), n32(0)])),
    set(aSignals, signals(aNaN, a)),
    set(bSignals, signals(bNaN, b)),
    set(flags, i32.or(get(aSignals), get(bSignals))), // IE is bit 0
    set(a, i64.or(get(a), QUIET)),
    set(b, i64.or(get(b), QUIET)),
    when(i32.eqz(get(aNaN)), takeB),
    when(i32.eqz(get(bNaN)), takeA),
    when(all(get(aSignals), i32.eqz(get(bSignals))), takeB),
    when(all(get(bSignals), i32.eqz(get(aSignals))), takeA),
    when(i64.lt_u(get(a), get(b)), takeB),
    when(i64.lt_u(get(b), get(a)), takeA),
    when(i32.lt_u(get(bWord), get(aWord)), takeB), // the positive one
    takeA,
    n64(0n),
    n32(0),
  ];
});

interface Special {
  readonly operands: [Local, Local, Local, Local];
  readonly how: Local;
  readonly flags: Local;
}
/** What comes first in every second part: NaNs, then the denormal exception, which precedes the computation and, unmasked, prevents it. */
function refuse(s: StateAccess, { operands: [a, aWord, b, bWord], flags }: Special): Code {
  const value = s.local('i64');
  const word = s.local('i32');
  return [
    setResult(value, word, s.call('x87.refuse', get(a), get(aWord), get(b), get(bWord))),
    when(get(word), ret([get(value), get(word)])),
    when(any(isDenormal(a, aWord), isDenormal(b, bWord)), set(flags, n32(DE))),
  ];
}
// @clause x87.exception.denormal
const stopAtDenormal = ({ how, flags }: Special): Code => when(i32.and(get(flags), i32.xor(get(how), n32(-1))), ret([n64(0n), get(flags)]));

/** The parts of a finite operand that is not zero, its significand normalised in place. */
function unpack(s: StateAccess, x: Local, word: Local): { sign: Code; exponent: Local; code: Code } {
  const exponent = s.local('i32');
  const count = s.local('i64');
  return {
    sign: signOf(word),
    exponent,
    code: [
      set(exponent, exponentOf(word)),
      set(exponent, choose(get(exponent), get(exponent), n32(1))),
      set(count, i64.clz(get(x))),
      set(x, i64.shl(get(x), get(count))),
      set(exponent, i32.sub(get(exponent), i32.wrap_i64(get(count)))),
    ],
  };
}
/** Calls one of soft-float's functions and adds `flags` to what it says. */
function compute(s: StateAccess, name: string, { operands: [a, aWord, b, bWord], how, flags }: Special, flipB: Code = n32(0)): Code {
  const first = unpack(s, a, aWord);
  const second = unpack(s, b, bWord);
  const value = s.local('i64');
  const word = s.local('i32');
  return [
    first.code,
    second.code,
    setResult(
      value,
      word,
      s.call(name, first.sign, get(first.exponent), get(a), i32.xor(second.sign, flipB), get(second.exponent), get(b), get(how)),
    ),
    get(value),
    i32.or(get(word), get(flags)),
  ];
}
const special = (s: StateAccess, locals: Local[]): Special => {
  const [a, aWord, b, bWord, how] = locals as [Local, Local, Local, Local, Local];
  return { operands: [a, aWord, b, bWord], how, flags: s.local('i32') };
};
const bothOrdinary = (a: Local, aWord: Local, b: Local, bWord: Local): Code =>
  all(all(isOrdinary(aWord), isOrdinary(bWord)), top(i64.and(get(a), get(b))));

// ## Addition and subtraction

const infinity = (sign: Code, flags: Code): Code => [TOP, i32.or(inUpper(i32.or(sign, n32(MAX_EXPONENT))), flags)];
const zero = (sign: Code, flags: Code): Code => [n64(0n), i32.or(inUpper(sign), flags)];

defineFunction('x87.add.special', OPERANDS, RESULT, (s, ...locals: Local[]) => {
  const these = special(s, locals);
  const { operands, how, flags } = these;
  const [a, aWord, b, bWord] = operands;
  const flip = i32.and(i32.shr_u(get(how), n32(1)), n32(SIGN));
  const differ = i32.and(i32.xor(i32.xor(get(aWord), get(bWord)), flip), n32(SIGN));
  const downward = i32.eq(i32.and(get(how), n32(HOW.RC)), n32(HOW.DOWN));
  const alone = (x: Local, word: Local, sign: Code): Code => {
    const parts = unpack(s, x, word);
    const [value, made] = [s.local('i64'), s.local('i32')];
    return [
      parts.code,
      setResult(value, made, s.call('float.round', sign, get(parts.exponent), get(x), n64(0n), get(how))),
      ret([get(value), i32.or(get(made), get(flags))]),
    ];
  };
  return [
    refuse(s, these),
    when(all(isInfinite(a, aWord), isInfinite(b, bWord), i32.ne(differ, n32(0))), ret(indefinite(IE))),
    stopAtDenormal(these),
    when(isInfinite(a, aWord), ret(infinity(signOf(aWord), get(flags)))),
    when(isInfinite(b, bWord), ret(infinity(i32.xor(signOf(bWord), flip), get(flags)))),
    when(isZero(a, aWord), [
      when(isZero(b, bWord), ret(zero(choose(differ, choose(downward, n32(SIGN), n32(0)), signOf(aWord)), n32(0)))),
      alone(b, bWord, i32.xor(signOf(bWord), flip)),
    ]),
    when(isZero(b, bWord), alone(a, aWord, signOf(aWord))),
    compute(s, 'float.add', these, flip),
  ];
});

/** a + b, or a - b when `how` has {{SUBTRACT}}. */
defineFunction('x87.add', OPERANDS, RESULT, (s, ...locals: Local[]) => {
  const [a, aWord, b, bWord, how] = locals as [Local, Local, Local, Local, Local];
  const [aSign, aExponent, bSign, bExponent] = [s.local('i32'), s.local('i32'), s.local('i32'), s.local('i32')];
  const low = s.local('i64');
  return [
    when(bothOrdinary(a, aWord, b, bWord), [
      set(aSign, signOf(aWord)),
      set(aExponent, exponentOf(aWord)),
      set(bSign, i32.and(i32.xor(get(bWord), i32.shr_u(get(how), n32(1))), n32(SIGN))),
      set(bExponent, exponentOf(bWord)),
      addMagnitudes(s, [aSign, aExponent, a, bSign, bExponent, b], low, how),
      roundQuickly(s, get(aSign), aExponent, a, low, how),
      ret(s.call('float.round', get(aSign), get(aExponent), get(a), get(low), get(how))),
    ]),
    s.call('x87.add.special', get(a), get(aWord), get(b), get(bWord), get(how)),
  ];
});

// ## Multiplication and division

const product = (s: StateAccess, magnitudes: typeof multiplyMagnitudes, otherwise: string, locals: Local[]): Code => {
  const [a, aWord, b, bWord, how] = locals as [Local, Local, Local, Local, Local];
  const [sign, aExponent, bExponent] = [s.local('i32'), s.local('i32'), s.local('i32')];
  const [high, low] = [s.local('i64'), s.local('i64')];
  return [
    when(bothOrdinary(a, aWord, b, bWord), [
      set(sign, i32.and(i32.xor(get(aWord), get(bWord)), n32(SIGN))),
      set(aExponent, exponentOf(aWord)),
      set(bExponent, exponentOf(bWord)),
      magnitudes(s, aExponent, a, bExponent, b, high, low),
      roundQuickly(s, get(sign), aExponent, high, low, how),
      ret(s.call('float.round', get(sign), get(aExponent), get(high), get(low), get(how))),
    ]),
    s.call(otherwise, get(a), get(aWord), get(b), get(bWord), get(how)),
  ];
};

defineFunction('x87.multiply.special', OPERANDS, RESULT, (s, ...locals: Local[]) => {
  const these = special(s, locals);
  const { operands, flags } = these;
  const [a, aWord, b, bWord] = operands;
  const sign = i32.and(i32.xor(get(aWord), get(bWord)), n32(SIGN));
  const infinite = any(isInfinite(a, aWord), isInfinite(b, bWord));
  const nothing = any(isZero(a, aWord), isZero(b, bWord));
  return [
    refuse(s, these),
    when(all(infinite, nothing), ret(indefinite(IE))),
    stopAtDenormal(these),
    when(infinite, ret(infinity(sign, get(flags)))),
    when(nothing, ret(zero(sign, get(flags)))),
    compute(s, 'float.multiply', these),
  ];
});
defineFunction('x87.multiply', OPERANDS, RESULT, (s, ...locals: Local[]) => product(s, multiplyMagnitudes, 'x87.multiply.special', locals));

defineFunction('x87.divide.special', OPERANDS, RESULT, (s, ...locals: Local[]) => {
  const these = special(s, locals);
  const { operands, flags } = these;
  const [a, aWord, b, bWord] = operands;
  const sign = i32.and(i32.xor(get(aWord), get(bWord)), n32(SIGN));
  const [aInfinite, bInfinite, aZero, bZero] = [isInfinite(a, aWord), isInfinite(b, bWord), isZero(a, aWord), isZero(b, bWord)];
  return [
    refuse(s, these),
    when(any(all(aInfinite, bInfinite), all(aZero, bZero)), ret(indefinite(IE))),
    when(all(bZero, i32.eqz(aInfinite)), ret(infinity(sign, n32(ZE)))), // which hides a denormal
    stopAtDenormal(these),
    when(aInfinite, ret(infinity(sign, get(flags)))),
    when(any(aZero, bInfinite), ret(zero(sign, get(flags)))),
    compute(s, 'float.divide', these),
  ];
});
defineFunction('x87.divide', OPERANDS, RESULT, (s, ...locals: Local[]) => product(s, divideMagnitudes, 'x87.divide.special', locals));

// ## Square root

const sign32 = (word: Local): Code => i32.ne(signOf(word), n32(0));
defineFunction('x87.sqrt', ONE_OPERAND, RESULT, (s, x: Local, word: Local, how: Local) => {
  const flags = s.local('i32');
  const these: Special = { operands: [x, word, x, word], how, flags };
  const parts = unpack(s, x, word);
  const [value, made] = [s.local('i64'), s.local('i32')];
  return [
    refuse(s, these),
    when(isZero(x, word), ret(zero(signOf(word), n32(0)))),
    when(sign32(word), ret(indefinite(IE))),
    stopAtDenormal(these),
    when(isInfinite(x, word), ret(infinity(n32(0), n32(0)))),
    parts.code,
    setResult(value, made, s.call('float.sqrt', get(parts.exponent), get(x), get(how))),
    get(value),
    i32.or(get(made), get(flags)),
  ];
});

// ## Comparison
//
// The answer is given as the status word has it: C3 for equal, C0 for less, all three bits when the operands have no order. An *unordered* comparison finds
// nothing wrong with a quiet NaN.

const CONDITION = { LESS: STATUS.C0, EQUAL: STATUS.C3, UNORDERED: STATUS.C0 | STATUS.C2 | STATUS.C3 } as const;

// @clause x87.compare.conditions
/** (a, b, how, quiet) -> condition bits and flags. */
defineFunction('x87.compare', [...OPERANDS, 'i32'], ['i32'], (s, ...locals: Local[]) => {
  const these = special(s, locals);
  const quiet = locals[5] as Local;
  const { operands, flags } = these;
  const [a, aWord, b, bWord] = operands;
  const [value, word, exponents] = [s.local('i64'), s.local('i32'), s.local('i32')];
  const ordered = (less: Code): Code => choose(less, n32(CONDITION.LESS), n32(0));
  const fixed = (w: Local): Code => choose(exponentOf(w), exponentOf(w), n32(1));
  return [
    when(i32.eqz(bothOrdinary(a, aWord, b, bWord)), [
      setResult(value, word, s.call('x87.refuse', get(a), get(aWord), get(b), get(bWord))),
      when(get(word), ret(i32.or(n32(CONDITION.UNORDERED), choose(get(quiet), i32.and(get(word), n32(IE)), n32(IE))))),
      when(any(isDenormal(a, aWord), isDenormal(b, bWord)), set(flags, n32(DE))),
      when(all(isZero(a, aWord), isZero(b, bWord)), ret(n32(CONDITION.EQUAL))),
    ]),
    when(i32.and(i32.xor(get(aWord), get(bWord)), n32(SIGN)), ret(i32.or(ordered(sign32(aWord)), get(flags)))),
    // Same sign: the magnitudes decide, the other way round when negative.
    set(exponents, i32.sub(fixed(aWord), fixed(bWord))),
    i32.or(
      get(flags),
      either(
        all(i32.eqz(get(exponents)), i64.eq(get(a), get(b))),
        n32(CONDITION.EQUAL),
        ordered(i32.ne(either(get(exponents), i32.lt_s(get(exponents), n32(0)), i64.lt_u(get(a), get(b)), 'i32'), sign32(aWord))),
        'i32',
      ),
    ),
  ];
});

// ## From the formats of memory
//
// Every number of 32 or 64 bits, integer or not, is also one of 80. A signalling NaN remains what it is; FLD finds fault with it later.

function widen(fraction: number, exponentBits: number, bits: Local, s: StateAccess): Code {
  const exponent = s.local('i32');
  const count = s.local('i64');
  const value = s.local('i64');
  const width = 1 + exponentBits + fraction;
  const highest = 2 ** exponentBits - 1;
  const bias = 2 ** (exponentBits - 1) - 1;
  const sign = i32.and(i32.wrap_i64(i64.shr_u(get(bits), n64(BigInt(width - 16)))), n32(SIGN));
  return [
    set(exponent, i32.and(i32.wrap_i64(i64.shr_u(get(bits), n64(BigInt(fraction)))), n32(highest))),
    set(value, i64.shl(get(bits), n64(BigInt(63 - fraction)))),
    when(
      i32.lt_u(i32.sub(get(exponent), n32(1)), n32(highest - 1)),
      ret([i64.or(get(value), TOP), i32.or(sign, i32.add(get(exponent), n32(BIAS - bias)))]),
    ),
    when(get(exponent), ret([i64.or(get(value), TOP), i32.or(sign, n32(MAX_EXPONENT))])),
    set(value, i64.shl(get(value), n64(1n))), // the fraction alone: the exponent's lowest bit is clear, the rest of it has gone
    when(i64.eqz(get(value)), ret([n64(0n), sign])),
    set(count, i64.clz(get(value))),
    i64.shl(get(value), get(count)),
    i32.or(i32.or(sign, n32(FROM_DENORMAL)), i32.sub(n32(BIAS - bias), i32.wrap_i64(get(count)))),
  ];
}
defineFunction('x87.fromDouble', ['i64'], RESULT, (s, bits: Local) => widen(52, 11, bits, s));
defineFunction('x87.fromSingle', ['i64'], RESULT, (s, bits: Local) => widen(23, 8, bits, s));
defineFunction('x87.fromInteger', ['i64'], RESULT, (s, x: Local) => {
  const sign = s.local('i32');
  const count = s.local('i64');
  return [
    when(i64.eqz(get(x)), ret([n64(0n), n32(0)])),
    when(i64.lt_s(get(x), n64(0n)), [set(sign, n32(SIGN)), set(x, i64.sub(n64(0n), get(x)))]),
    set(count, i64.clz(get(x))),
    i64.shl(get(x), get(count)),
    i32.or(get(sign), i32.sub(n32(BIAS + 63), i32.wrap_i64(get(count)))),
  ];
});

/** What FLD makes of a number from memory: a signalling NaN is invalid, a denormal is noted. The word of the result has its flags in the lower half. */
defineFunction('x87.admit', ['i64', 'i32'], RESULT, (_s, x: Local, word: Local) => [
  when(all(isNaN80(x, word), i64.eqz(i64.and(get(x), QUIET))), ret([i64.or(get(x), QUIET), i32.or(inUpper(get(word)), n32(IE))])),
  get(x),
  i32.or(inUpper(get(word)), choose(i32.and(get(word), n32(FROM_DENORMAL)), n32(DE), n32(0))),
]);

// ## To the formats of memory

/** (x, how) -> the bits, and flags. */
function narrow(s: StateAccess, fraction: number, exponentBits: number, format: number, [x, word, how]: [Local, Local, Local]): Code {
  const bias = 2 ** (exponentBits - 1) - 1;
  const highest = 2 ** exponentBits - 1;
  const drop = 63 - fraction;
  const [value, made] = [s.local('i64'), s.local('i32')];
  const up = s.local('i32');
  const cut = s.local('i64');
  const sign = i64.shl(i64.extend_i32_u(signOf(word)), n64(BigInt(fraction + exponentBits - 15)));
  const least = BIAS - bias + 1;
  const ordinary = all(all(top(get(x)), i32.lt_u(i32.sub(exponentOf(word), n32(least)), n32(highest - 2))), i32.eqz(i32.and(get(how), n32(HOW.RC))));
  const half = n64(1n << BigInt(drop - 1));
  /** Exponent and fraction as the format has them; the integer bit adds one to the exponent. */
  const encode = (from: Local, exponent: Code): Code =>
    i64.add(i64.shl(i64.extend_i32_u(exponent), n64(BigInt(fraction))), i64.shr_u(get(from), n64(BigInt(drop))));
  const max = i64.or(sign, n64(BigInt(highest) << BigInt(fraction)));
  return [
    when(ordinary, [
      set(cut, i64.and(get(x), n64((1n << BigInt(drop)) - 1n))),
      set(value, i64.or(sign, encode(x, i32.sub(exponentOf(word), n32(least))))),
      when(i64.eqz(get(cut)), ret([get(value), n32(0)])),
      set(up, any(i64.gt_u(get(cut), half), all(i64.eq(get(cut), half), i32.wrap_i64(i64.and(get(value), n64(1n)))))),
      ret([i64.add(get(value), i64.extend_i32_u(get(up))), i32.or(n32(PE), i32.shl(get(up), n32(9)))]),
    ]),
    when(isUnsupported(x, word), ret([n64((-1n << BigInt(fraction - 1)) & ((1n << BigInt(1 + exponentBits + fraction)) - 1n)), n32(IE)])),
    when(isMax(word), [
      set(cut, i64.shr_u(i64.shl(get(x), n64(1n)), n64(BigInt(drop + 1)))),
      when(i64.eq(get(x), TOP), ret([max, n32(0)])),
      ret([i64.or(max, i64.or(get(cut), n64(1n << BigInt(fraction - 1)))), choose(i64.eqz(i64.and(get(x), QUIET)), n32(IE), n32(0))]),
    ]),
    when(isZero(x, word), ret([sign, n32(0)])),
    (() => {
      const parts = unpack(s, x, word);
      const exponent = i32.and(i32.shr_u(get(made), n32(16)), n32(MAX_EXPONENT));
      const mode = i32.or(i32.and(get(how), n32(CONTROL_MASK & ~HOW.PC)), n32(format | HOW.RANGE));
      return [
        parts.code,
        setResult(value, made, s.call('float.round', parts.sign, get(parts.exponent), get(x), n64(0n), mode)),
        either(i32.eq(exponent, n32(MAX_EXPONENT)), max, i64.or(sign, encode(value, i32.sub(exponent, n32(least)))), 'i64'),
        i32.and(get(made), n32(0xffff)),
      ];
    })(),
  ];
}
// @clause x87.store.conversion
defineFunction('x87.toDouble', ONE_OPERAND, RESULT, (s, ...locals: Local[]) => narrow(s, 52, 11, HOW.DOUBLE, locals as [Local, Local, Local]));
defineFunction('x87.toSingle', ONE_OPERAND, RESULT, (s, ...locals: Local[]) => narrow(s, 23, 8, HOW.SINGLE, locals as [Local, Local, Local]));

// ## To integers

/** Leaves in high the magnitude rounded to an integer, and the flags; the exponent is below 2^64. */
function toMagnitude(s: StateAccess, x: Local, word: Local, how: Local, flags: Local): Code {
  const [low, count, away] = [s.local('i64'), s.local('i32'), s.local('i32')];
  const direction = i32.and(get(how), n32(HOW.RC));
  return [
    set(low, n64(0n)),
    when(tee(count, i32.sub(n32(BIAS + 63), exponentOf(word))), shiftRightSticky(x, low, count)),
    when(i64.ne(get(low), n64(0n)), [
      set(
        away,
        either(
          direction,
          i32.eq(direction, choose(signOf(word), n32(HOW.DOWN), n32(HOW.UP))),
          any(i64.gt_u(get(low), TOP), all(i64.eq(get(low), TOP), i32.wrap_i64(i64.and(get(x), n64(1n))))),
          'i32',
        ),
      ),
      set(x, i64.add(get(x), i64.extend_i32_u(get(away)))),
      set(flags, i32.or(get(flags), i32.or(n32(PE), i32.shl(get(away), n32(9))))),
    ]),
  ];
}

/** (x, how, bits) -> a signed integer, and flags. What does not fit is the most negative number, and invalid. */
defineFunction('x87.toInteger', [...ONE_OPERAND, 'i32'], RESULT, (s, x: Local, word: Local, how: Local, bits: Local) => {
  const flags = s.local('i32');
  const limit = s.local('i64');
  const invalid = ret([i64.sub(n64(0n), get(limit)), n32(IE)]);
  return [
    set(limit, i64.shl(n64(1n), i64.extend_i32_u(i32.sub(get(bits), n32(1))))),
    when(any(isUnsupported(x, word), i32.gt_u(exponentOf(word), n32(BIAS + 63))), invalid),
    toMagnitude(s, x, word, how, flags),
    when(i64.gt_u(get(x), i64.sub(get(limit), i64.extend_i32_u(i32.eqz(sign32(word))))), invalid),
    either(sign32(word), i64.sub(n64(0n), get(x)), get(x), 'i64'),
    get(flags),
  ];
});

/** (x, how) -> x rounded to an integer. */
defineFunction('x87.roundToInteger', ONE_OPERAND, RESULT, (s, x: Local, word: Local, how: Local) => {
  const flags = s.local('i32');
  const these: Special = { operands: [x, word, x, word], how, flags };
  const count = s.local('i64');
  return [
    refuse(s, these),
    stopAtDenormal(these),
    when(any(i32.gt_u(exponentOf(word), n32(BIAS + 62)), isZero(x, word)), ret([get(x), i32.or(inUpper(get(word)), get(flags))])),
    toMagnitude(s, x, word, how, flags),
    when(i64.eqz(get(x)), ret(zero(signOf(word), get(flags)))),
    set(count, i64.clz(get(x))),
    i64.shl(get(x), get(count)),
    i32.or(inUpper(i32.or(signOf(word), i32.sub(n32(BIAS + 63), i32.wrap_i64(get(count))))), get(flags)),
  ];
});

// ## Decimal
//
// Eighteen digits, two to a byte, and a sign: what COBOL wanted. Ten bytes, here as eight and two.

const DECIMAL_LIMIT = n64(10n ** 18n);

/** (low, high) -> the number. Digits above 9 are not checked by any processor; they count for what they are worth. */
defineFunction('x87.fromDecimal', ['i64', 'i64'], RESULT, (s, low: Local, high: Local) => {
  const [total, rest, count] = [s.local('i64'), s.local('i64'), s.local('i32')];
  const word = s.local('i32');
  const nibble = i64.shr_u(get(rest), n64(60n));
  const digits = (from: Code, many: number): Code => [
    set(rest, from),
    set(count, n32(many)),
    again((loopOn) => [
      set(total, i64.add(i64.mul(get(total), n64(10n)), nibble)),
      set(rest, i64.shl(get(rest), n64(4n))),
      loopOn(tee(count, i32.sub(get(count), n32(1)))),
    ]),
  ];
  return [
    digits(i64.shl(get(high), n64(56n)), 2),
    digits(get(low), 16),
    setResult(rest, word, s.call('x87.fromInteger', get(total))),
    get(rest),
    i32.or(get(word), i32.and(i32.wrap_i64(get(high)), n32(SIGN))),
  ];
});

// @clause x87.decimal.store
/** (x, how) -> low eight bytes, high two bytes, flags. */
defineFunction('x87.toDecimal', ONE_OPERAND, ['i64', 'i64', 'i32'], (s, x: Local, word: Local, how: Local) => {
  const [low, high, shift] = [s.local('i64'), s.local('i64'), s.local('i64')];
  const flags = s.local('i32');
  const invalid = ret([n64(0xc000000000000000n), n64(0xffffn), n32(IE)]);
  const pair = i64.or(i64.rem_u(get(x), n64(10n)), i64.shl(i64.rem_u(i64.div_u(get(x), n64(10n)), n64(10n)), n64(4n)));
  return [
    when(any(isUnsupported(x, word), i32.gt_u(exponentOf(word), n32(BIAS + 62))), invalid),
    toMagnitude(s, x, word, how, flags),
    when(i64.ge_u(get(x), DECIMAL_LIMIT), invalid),
    again((loopOn) => [
      set(low, i64.or(get(low), i64.shl(pair, get(shift)))),
      set(x, i64.div_u(get(x), n64(100n))),
      set(shift, i64.add(get(shift), n64(8n))),
      loopOn(i64.lt_u(get(shift), n64(64n))),
    ]),
    set(high, i64.or(pair, i64.extend_i32_u(signOf(word)))),
    get(low),
    get(high),
    get(flags),
  ];
});

// ## FXAM

/** (x) -> C3, C2, C0 by class and C1 by sign, for a register that is not empty. */
defineFunction('x87.examine', ['i64', 'i32'], ['i32'], (_s, x: Local, word: Local) => {
  const { C0, C1, C2, C3 } = STATUS;
  const sign = choose(signOf(word), n32(C1), n32(0));
  const kind = (condition: Code, bits: number, otherwise: Code): Code => either(condition, n32(bits), otherwise, 'i32');
  const finite = kind(isZero(x, word), C3, kind(i32.eqz(exponentOf(word)), C3 | C2, n32(C2)));
  return i32.or(sign, kind(isUnsupported(x, word), 0, kind(isNaN80(x, word), C0, kind(isInfinite(x, word), C0 | C2, finite))));
});
