// # The x87's functions
//
// Sines, logarithms, remainders: the instructions that made the 8087 worth its price. Each is the same few steps: are the operands there; what are they; one of
// the special cases of the manual's tables, or a number, computed to many more bits than are kept and rounded once.

import type { Cpu } from '../cpu.ts';
import {
  angle,
  type Big,
  binaryLogarithm,
  binaryLogarithmPlusOne,
  cosine,
  powerMinusOne,
  product,
  quarterTurns,
  quotient,
  sine,
} from '../engine/float/big-functions.ts';
import { BIAS, EXCEPTION, MAX_EXPONENT, SIGN } from '../engine/float/soft-float.ts';
import { STATUS, UNIT } from '../engine/float/x87-numbers.ts';
import type { Instruction } from '../isa/instruction.ts';
import { type CpuState, SLOT } from '../state.ts';
import { waitForUnit } from './x87-environment.ts';

const { IE, DE, ZE, OE, UE, PE } = EXCEPTION;
const TOP_BIT = 1n << 63n;
const QUIET = 1n << 62n;
const WRAP = 0x6000;
const LEAST = 1; // the lowest exponent, with its bias
const GREATEST = MAX_EXPONENT - 1;

/** The contents of a register. */
interface Extended {
  readonly significand: bigint;
  /** Sign and exponent. */
  readonly word: number;
}
const INDEFINITE: Extended = { significand: TOP_BIT | QUIET, word: 0xffff };
const ONE_REGISTER: Extended = { significand: TOP_BIT, word: BIAS };

/** A result with the flags that it comes with. */
interface Result {
  readonly value: Extended;
  readonly flags: number;
}

// ## What a register holds

type Kind = 'unsupported' | 'nan' | 'infinity' | 'zero' | 'denormal' | 'normal';
function kindOf({ significand, word }: Extended): Kind {
  const exponent = word & MAX_EXPONENT;
  const integerBit = (significand & TOP_BIT) !== 0n;
  if (exponent === 0) return significand === 0n ? 'zero' : 'denormal';
  if (!integerBit) return 'unsupported';
  if (exponent < MAX_EXPONENT) return 'normal';
  return significand === TOP_BIT ? 'infinity' : 'nan';
}
/** A finite operand that is not zero, taken apart: its magnitude is significand · 2^(exponent - 63), the significand normalised. */
interface Number80 {
  readonly negative: boolean;
  readonly significand: bigint;
  readonly exponent: number;
}
function unpack({ significand, word }: Extended): Number80 {
  const shift = 64 - significand.toString(2).length;
  return { negative: (word & SIGN) !== 0, significand: significand << BigInt(shift), exponent: Math.max(word & MAX_EXPONENT, 1) - BIAS - shift };
}
const big = ({ significand, exponent }: Number80): Big => ({ n: significand, e: exponent - 63, exact: true });
const zero = (negative: boolean): Extended => ({ significand: 0n, word: negative ? SIGN : 0 });
const infinity = (negative: boolean): Extended => ({ significand: TOP_BIT, word: MAX_EXPONENT | (negative ? SIGN : 0) });
const isNegative = ({ word }: Extended): boolean => (word & SIGN) !== 0;
const exactly = (value: Extended, flags = 0): Result => ({ value, flags });
const INVALID: Result = { value: INDEFINITE, flags: IE };

/** The result when an operand is a NaN or unsupported: see `x87-numbers.ts`. */
function refuse(...operands: Extended[]): Result | null {
  const kinds = operands.map(kindOf);
  if (kinds.includes('unsupported')) return INVALID;
  const nans = operands.filter((_, n) => kinds[n] === 'nan');
  if (nans.length === 0) return null;
  const signalling = nans.filter(({ significand }) => (significand & QUIET) === 0n);
  const candidates = nans.length > signalling.length ? nans.filter((nan) => !signalling.includes(nan)) : nans;
  const chosen = candidates.reduce((a, b) => {
    const [x, y] = [a.significand | QUIET, b.significand | QUIET];
    return x === y ? (a.word < b.word ? a : b) : x > y ? a : b;
  });
  return { value: { ...chosen, significand: chosen.significand | QUIET }, flags: signalling.length > 0 ? IE : 0 };
}

// ## Rounding

/** Rounds to 64 bits in the direction that the control word says; PC does not matter to these instructions. */
function round({ n, e, exact }: Big, negative: boolean, fcw: number): Result {
  const direction = (fcw >> 10) & 3;
  const bits = n.toString(2).length;
  const exponent = bits - 1 + e + BIAS;
  const at = (drop: number): { kept: bigint; inexact: boolean; up: boolean } => {
    if (drop <= 0) return { kept: n << BigInt(-drop), inexact: !exact, up: !exact && direction === (negative ? 1 : 2) };
    const kept = n >> BigInt(drop);
    const rest = n - (kept << BigInt(drop));
    const half = 1n << BigInt(drop - 1);
    const inexact = rest !== 0n || !exact;
    const nearest = rest > half || (rest === half && (!exact || (kept & 1n) === 1n));
    return { kept, inexact, up: direction === 0 ? nearest : inexact && direction === (negative ? 1 : 2) };
  };
  const free = at(bits - 64);
  const carries = free.up && free.kept + 1n === 1n << 64n;
  const tiny = exponent < LEAST && !(exponent === LEAST - 1 && carries);
  const wraps = tiny && !(fcw & UE);
  const used = exponent < LEAST && !wraps ? at(bits - 64 + LEAST - exponent) : free;
  let significand = used.kept + (used.up ? 1n : 0n);
  let biased = exponent < LEAST && !wraps ? LEAST : exponent;
  if (significand === 1n << 64n) {
    significand = TOP_BIT;
    biased++;
  }
  let flags = used.inexact ? PE | (used.up ? STATUS.C1 : 0) : 0;
  if (tiny && (used.inexact || wraps)) flags |= UE;
  if (wraps) biased += WRAP;
  if (biased > GREATEST) {
    flags |= OE;
    if (!(fcw & OE)) biased -= WRAP;
    else {
      const away = direction === 0 || direction === (negative ? 1 : 2);
      return {
        value: away ? infinity(negative) : { significand: 2n * TOP_BIT - 1n, word: GREATEST | (negative ? SIGN : 0) },
        flags: OE | PE | (away ? STATUS.C1 : 0),
      };
    }
  }
  if (significand < TOP_BIT) biased = 0;
  // An exponent that no wrap brings back into the range: FSCALE can do that.
  if (biased < (wraps ? LEAST : 0)) return exactly(zero(negative), flags | PE);
  if (biased > GREATEST) return exactly(infinity(negative), flags | PE | STATUS.C1);
  return { value: { significand, word: biased | (negative ? SIGN : 0) }, flags };
}

// The real processor computes a function to a few more bits than it keeps, and rounds what it has got: an argument so small that its sine does not differ from it in
// those bits is the sine, in every direction of rounding. The result is called inexact without
// further question. What is kept on the way, `INTERNAL_BITS`, agrees best with the processors at hand.

/** Bits of an intermediate result. */
const INTERNAL_BITS = 72;
function roundFunction({ n, e }: Big, negative: boolean, fcw: number): Result {
  const drop = n.toString(2).length - INTERNAL_BITS;
  const kept: Big = drop <= 0 ? { n, e, exact: true } : { n: ((n >> BigInt(drop - 1)) + 1n) >> 1n, e: e + drop, exact: true };
  const rounded = round(kept, negative, fcw);
  const subnormal = (rounded.value.word & MAX_EXPONENT) === 0;
  return { ...rounded, flags: rounded.flags | PE | (subnormal ? UE : 0) };
}

// ## The functions
//
// One operand: x is ST(0). Two: y is ST(1).

/** FSIN and its relatives reduce their argument by this π: the real one, cut after {{66}} bits. */
const PI_66 = 0xc90fdaa22168c234cn;
const PI_66_FRACTION = 66;

/** x as quarters · π/2 + rest, for |x| below 2^63; the rest is at most π/4 in magnitude. */
function reduce(x: Number80): { rest: Big; negative: boolean; quarters: number } {
  const halfPi = PI_66 << 1n; // in units of 2^-68
  const shift = x.exponent - 63 + PI_66_FRACTION + 2;
  // Units of 2^-68, finer where the number is small.
  const finer = BigInt(Math.max(0, -shift));
  const unit = halfPi << finer;
  const magnitude = x.significand << BigInt(Math.max(0, shift));
  let quotientHere = magnitude / unit;
  let rest = magnitude % unit;
  let negative = false;
  if (2n * rest > unit) {
    quotientHere++;
    rest = unit - rest;
    negative = true;
  }
  return { rest: { n: rest, e: -(PI_66_FRACTION + 2) - Number(finer), exact: true }, negative, quarters: Number(quotientHere & 3n) };
}

/** Sine and cosine of a number, as signed magnitudes. */
function sineAndCosine(x: Number80): { sin: { big: Big; negative: boolean }; cos: { big: Big; negative: boolean } } {
  if (x.exponent < -100)
    return {
      sin: { big: sine(x.significand, x.exponent - 63), negative: x.negative },
      cos: { big: cosine(x.significand, x.exponent - 63), negative: false },
    };
  const { rest, negative, quarters } = reduce(x);
  const s = { big: sine(rest.n, rest.e), negative };
  const c = { big: cosine(rest.n, rest.e), negative: false };
  const opposite = ({ big: value, negative: sign }: typeof s): typeof s => ({ big: value, negative: !sign });
  const [sin, cos] = [
    [s, c],
    [c, opposite(s)],
    [opposite(s), opposite(c)],
    [opposite(c), s],
  ][quarters] as [typeof s, typeof s];
  return { sin: x.negative ? opposite(sin) : sin, cos };
}

/** What the trigonometric instructions have in common: null when the operand is beyond 2^63. */
function trigonometric(x: Extended, fcw: number, make: (parts: ReturnType<typeof sineAndCosine>) => [Big, boolean][]): Result[] | null {
  const refused = refuse(x);
  if (refused) return [refused];
  const kind = kindOf(x);
  if (kind === 'infinity') return [INVALID];
  if ((x.word & MAX_EXPONENT) >= BIAS + 63) return null;
  const flags = kind === 'denormal' ? DE : 0;
  if (flags & ~fcw) return [exactly(INDEFINITE, DE)];
  return make(sineAndCosine(unpack(x))).map(([value, negative]) => {
    const rounded = roundFunction(value, negative, fcw);
    return { ...rounded, flags: rounded.flags | flags };
  });
}

function f2xm1(x: Extended, fcw: number): Result {
  const refused = refuse(x);
  if (refused) return refused;
  const kind = kindOf(x);
  if (kind === 'zero') return exactly(x);
  if (kind === 'infinity') return exactly(isNegative(x) ? { ...ONE_REGISTER, word: BIAS | SIGN } : x);
  const flags = kind === 'denormal' ? DE : 0;
  if (flags & ~fcw) return exactly(INDEFINITE, DE);
  const number = unpack(x);
  if (number.exponent > 0 || (number.exponent === 0 && number.significand > TOP_BIT)) return exactly(x, flags | PE); // the result is undefined
  if (number.exponent === 0) return exactly(number.negative ? { significand: TOP_BIT, word: (BIAS - 1) | SIGN } : ONE_REGISTER, PE);
  const made = roundFunction(powerMinusOne(number.significand, number.exponent - 63, number.negative), number.negative, fcw);
  return { ...made, flags: made.flags | flags };
}

type Binary = (x: Extended, y: Extended, fcw: number) => Result;
const denormal = (...operands: Extended[]): number => (operands.some((operand) => kindOf(operand) === 'denormal') ? DE : 0);
const withFlags = (result: Result, flags: number): Result => ({ ...result, flags: result.flags | flags });

const fyl2x: Binary = (x, y, fcw) => {
  const refused = refuse(x, y);
  if (refused) return refused;
  const [xKind, yKind] = [kindOf(x), kindOf(y)];
  const ySign = isNegative(y);
  if (xKind === 'zero') {
    if (yKind === 'zero') return INVALID;
    return exactly(infinity(!ySign), yKind === 'infinity' ? 0 : ZE);
  }
  if (isNegative(x)) return INVALID;
  const flags = denormal(x, y);
  const isOne = x.significand === TOP_BIT && x.word === BIAS;
  const below = (x.word & MAX_EXPONENT) < BIAS;
  if (xKind === 'infinity' && yKind === 'zero') return INVALID;
  if (yKind === 'infinity' && isOne) return INVALID;
  if (flags & ~fcw) return exactly(INDEFINITE, DE);
  if (xKind === 'infinity') return exactly(infinity(ySign), flags);
  if (yKind === 'infinity') return exactly(infinity(ySign !== below), flags);
  if (isOne) return exactly(zero(ySign), flags);
  if (yKind === 'zero') return exactly(zero(ySign !== below), flags);
  const { significand, exponent } = unpack(x);
  const { value, negative } = binaryLogarithm(significand, exponent - 63);
  return withFlags(roundFunction(product(value, big(unpack(y))), negative !== ySign, fcw), flags);
};

const fyl2xp1: Binary = (x, y, fcw) => {
  const refused = refuse(x, y);
  if (refused) return refused;
  const [xKind, yKind] = [kindOf(x), kindOf(y)];
  const negative = isNegative(x) !== isNegative(y);
  if ((xKind === 'zero' && yKind === 'infinity') || (xKind === 'infinity' && (isNegative(x) || yKind === 'zero'))) return INVALID;
  const flags = denormal(x, y);
  if (flags & ~fcw) return exactly(INDEFINITE, DE);
  if (xKind === 'zero' || yKind === 'zero') return exactly(zero(negative), flags);
  if (xKind === 'infinity' || yKind === 'infinity') return exactly(infinity(negative), flags);
  const number = unpack(x);
  if (number.negative && number.exponent >= 0) return exactly(x, flags | PE); // at or below -1: undefined
  return withFlags(
    roundFunction(product(binaryLogarithmPlusOne(number.significand, number.exponent - 63, number.negative), big(unpack(y))), negative, fcw),
    flags,
  );
};

const fpatan: Binary = (x, y, fcw) => {
  const refused = refuse(x, y);
  if (refused) return refused;
  const [xKind, yKind] = [kindOf(x), kindOf(y)];
  const flags = denormal(x, y);
  if (flags & ~fcw) return exactly(INDEFINITE, DE);
  const [left, negative] = [isNegative(x), isNegative(y)];
  const turns = (quarters: number): Result => withFlags(roundFunction(quarterTurns(quarters), negative, fcw), flags);
  if (yKind === 'infinity') return turns(xKind !== 'infinity' ? 2 : left ? 3 : 1);
  if (yKind === 'zero' || xKind === 'infinity') return left ? turns(4) : exactly(zero(negative), flags);
  if (xKind === 'zero') return turns(2);
  const [a, b] = [unpack(y), unpack(x)];
  return withFlags(roundFunction(angle(big(a), big(b), left), negative, fcw), flags);
};

// ## Remainders
//
// The quotient of two numbers whose exponents are far apart has thousands of bits. FPREM does at most 63 of them at a time and says in C2 that there is
// more to do, so that an
// interrupt need not wait. When it is done, the lowest three bits of the quotient are in C0, C3 and C1: enough to know the octant of an angle.

interface Remainder extends Result {
  /** null: those that there were, except C2. */
  readonly conditions: number | null;
}
function remainder(x: Extended, y: Extended, fcw: number, nearest: boolean): Remainder {
  const refused = refuse(x, y);
  if (refused) return { ...refused, conditions: null };
  const [xKind, yKind] = [kindOf(x), kindOf(y)];
  if (xKind === 'infinity' || yKind === 'zero') return { ...INVALID, conditions: null };
  const flags = denormal(x, y);
  if (flags & ~fcw) return { ...exactly(INDEFINITE, DE), conditions: null };
  if (xKind === 'zero' || yKind === 'infinity')
    return { ...exactly(xKind === 'denormal' && x.significand & TOP_BIT ? { ...x, word: x.word | LEAST } : x, flags), conditions: 0 };
  const [a, b] = [unpack(x), unpack(y)];
  const distance = a.exponent - b.exponent;
  const value = (n: bigint, e: number, negative: boolean): Result =>
    n === 0n ? exactly(zero(isNegative(x)), flags) : withFlags(round({ n, e, exact: true }, negative, fcw), flags);
  if (distance >= 64) {
    const bits = 32 + (distance % 32);
    // Subtracts a multiple of y·2^(distance - bits); what is left has `bits` fewer bits to go.
    const rest = (a.significand << BigInt(bits)) % b.significand;
    return { ...value(rest, a.exponent - 63 - bits, a.negative), conditions: STATUS.C2 };
  }
  if (distance < -1 || (distance < 0 && !nearest)) return { ...value(a.significand, a.exponent - 63, a.negative), conditions: 0 };
  const [top, bottom] = distance >= 0 ? [a.significand << BigInt(distance), b.significand] : [a.significand, b.significand << 1n];
  let whole = top / bottom;
  let rest = top % bottom;
  let negative = a.negative;
  if (nearest && (2n * rest > bottom || (2n * rest === bottom && whole & 1n))) {
    whole++;
    rest = bottom - rest;
    negative = !negative;
  }
  const unit = (distance >= 0 ? b.exponent : b.exponent - 1) - 63;
  const conditions = (whole & 4n ? STATUS.C0 : 0) | (whole & 2n ? STATUS.C3 : 0) | (whole & 1n ? STATUS.C1 : 0);
  return { ...value(rest, unit, negative), conditions };
}

// ## Scaling

const fscale: Binary = (x, y, fcw) => {
  const refused = refuse(x, y);
  if (refused) return refused;
  const [xKind, yKind] = [kindOf(x), kindOf(y)];
  if (yKind === 'infinity') {
    if (isNegative(y) ? xKind === 'infinity' : xKind === 'zero') return INVALID;
  }
  const flags = denormal(x, y);
  if (flags & ~fcw) return exactly(INDEFINITE, DE);
  if (yKind === 'infinity') return exactly(isNegative(y) ? zero(isNegative(x)) : infinity(isNegative(x)), flags);
  if (xKind === 'zero' || xKind === 'infinity') return exactly(x, flags);
  const number = unpack(x);
  let by = 0;
  if (yKind !== 'zero') {
    const { significand, exponent, negative } = unpack(y);
    const LARGEST = 16; // 2^16 is beyond every exponent
    const size = exponent < 0 ? 0 : exponent > LARGEST ? 2 ** (LARGEST + 1) : Number(significand >> BigInt(63 - exponent));
    by = negative ? -size : size;
  }
  // What is scaled by zero is not looked at for being tiny. A pseudo-denormal becomes the number that it stands for.
  if (yKind === 'zero') return exactly(xKind === 'denormal' && x.significand >= TOP_BIT ? { ...x, word: x.word | 1 } : x, flags);
  return withFlags(round({ ...big(number), e: number.exponent - 63 + by }, number.negative, fcw), flags);
};

// ## Into the unit and out of it

const WHERE = { st: UNIT.R, bytes: 16 } as const;
const CONDITIONS = STATUS.C0 | STATUS.C2 | STATUS.C3;

/** The unit while one of these instructions executes. */
class Unit {
  readonly #state: CpuState;
  fsw: number;
  readonly fcw: number;
  tags: number;

  constructor(state: CpuState) {
    this.#state = state;
    this.fcw = state.view.getUint16(UNIT.FCW, true);
    this.fsw = state.view.getUint16(UNIT.FSW, true) & ~STATUS.C1;
    this.tags = state.u8[UNIT.FTW] as number;
  }
  physical(i: number): number {
    return ((this.fsw >> 11) + i) & 7;
  }
  isEmpty(i: number): boolean {
    return ((this.tags >> this.physical(i)) & 1) === 0;
  }
  get(i: number): Extended {
    const at = WHERE.st + WHERE.bytes * this.physical(i);
    return { significand: this.#state.view.getBigUint64(at, true), word: this.#state.view.getUint16(at + 8, true) };
  }
  set(i: number, { significand, word }: Extended): void {
    const at = WHERE.st + WHERE.bytes * this.physical(i);
    this.#state.view.setBigUint64(at, significand, true);
    this.#state.view.setUint16(at + 8, word, true);
    this.tags |= 1 << this.physical(i);
  }
  turn(by: number): void {
    this.fsw = (this.fsw & ~STATUS.TOP) | ((this.fsw + (by << 11)) & STATUS.TOP);
  }
  push(value: Extended): void {
    this.turn(-1);
    this.set(0, value);
  }
  pop(): void {
    this.tags &= ~(1 << this.physical(0));
    this.turn(1);
  }
  /** Reports flags. True when they leave the operands as they are. */
  report(flags: number): boolean {
    this.fsw |= flags & (0x3f | STATUS.SF | STATUS.C1);
    const unmasked = flags & ~this.fcw & 0x3f;
    if (unmasked) this.fsw |= STATUS.ES | STATUS.B;
    return (unmasked & (IE | DE | ZE)) !== 0;
  }
  /** Writes everything back, with the whereabouts of an instruction; its opcode only when it has made an exception pending. */
  commit(insn: Instruction, pending: boolean): void {
    const { view, u8 } = this.#state;
    view.setUint16(UNIT.FSW, this.fsw, true);
    u8[UNIT.FTW] = this.tags;
    view.setBigUint64(UNIT.FIP, this.#state.slot(SLOT.RIP), true);
    if (pending) view.setUint16(UNIT.FOP, ((insn.opcode & 7) << 8) | 0xc0 | (insn.reg << 3) | (insn.rm & 7), true);
  }
  conditions(codes: number): void {
    this.fsw = (this.fsw & ~CONDITIONS) | codes;
  }
}
const UNDERFLOW = IE | STATUS.SF;

function execute(cpu: Cpu, insn: Instruction, body: (unit: Unit) => number): void {
  waitForUnit(cpu);
  const unit = new Unit(cpu.state);
  const flags = body(unit);
  unit.commit(insn, (flags & ~unit.fcw & 0x3f) !== 0);
}

const unary =
  (f: (x: Extended, fcw: number) => Result) =>
  (unit: Unit): number => {
    const { value, flags } = unit.isEmpty(0) ? { value: INDEFINITE, flags: UNDERFLOW } : f(unit.get(0), unit.fcw);
    if (!unit.report(flags)) unit.set(0, value);
    return flags;
  };
/** A result that replaces ST(1); ST(0) is popped. */
const binary =
  (f: Binary) =>
  (unit: Unit): number => {
    const { value, flags } = unit.isEmpty(0) || unit.isEmpty(1) ? { value: INDEFINITE, flags: UNDERFLOW } : f(unit.get(0), unit.get(1), unit.fcw);
    if (!unit.report(flags)) {
      unit.set(1, value);
      unit.pop();
    }
    return flags;
  };
/** FSIN and FCOS: C2 says that the operand was out of range. */
const circular =
  (part: 'sin' | 'cos') =>
  (unit: Unit): number => {
    unit.fsw &= ~STATUS.C2;
    if (unit.isEmpty(0)) return unary(() => INVALID)(unit);
    const x = unit.get(0);
    const made =
      kindOf(x) === 'zero'
        ? [exactly(part === 'sin' ? x : ONE_REGISTER)]
        : trigonometric(x, unit.fcw, (parts) => [[parts[part].big, parts[part].negative]]);
    if (!made) {
      unit.fsw |= STATUS.C2;
      return 0;
    }
    const { value, flags } = made[0] as Result;
    if (!unit.report(flags)) unit.set(0, value);
    return flags;
  };
/** FSINCOS and FPTAN: two results, the second one pushed. */
const twoResults =
  (f: (x: Extended, fcw: number) => readonly Result[] | null) =>
  (unit: Unit): number => {
    unit.fsw &= ~STATUS.C2;
    const full = !unit.isEmpty(7);
    let made: readonly Result[] | null;
    if (unit.isEmpty(0)) made = [{ value: INDEFINITE, flags: UNDERFLOW }];
    else if (full) made = [{ value: INDEFINITE, flags: UNDERFLOW | STATUS.C1 }];
    else made = f(unit.get(0), unit.fcw);
    if (!made) {
      unit.fsw |= STATUS.C2;
      return 0;
    }
    const [first, second = first] = made as [Result, Result?];
    const flags = first.flags | second.flags;
    if (!unit.report(flags)) {
      unit.set(0, first.value);
      unit.push(second.value);
    }
    return flags;
  };
const fsincos = twoResults((x, fcw) =>
  kindOf(x) === 'zero'
    ? [exactly(x), exactly(ONE_REGISTER)]
    : trigonometric(x, fcw, ({ sin, cos }) => [
        [sin.big, sin.negative],
        [cos.big, cos.negative],
      ]),
);
const fptan = twoResults((x, fcw) => {
  if (kindOf(x) === 'zero') return [exactly(x), exactly(ONE_REGISTER)];
  const made = trigonometric(x, fcw, ({ sin, cos }) => [[quotient(sin.big, cos.big), sin.negative !== cos.negative]]);
  const only = made?.[0];
  // A number comes with a 1; what is none comes twice.
  return only && kindOf(only.value) !== 'nan' ? [only, exactly(ONE_REGISTER, only.flags)] : made;
});

const fxtract = (unit: Unit): number => {
  const made = ((): [Extended, Extended, number] => {
    if (unit.isEmpty(0)) return [INDEFINITE, INDEFINITE, UNDERFLOW];
    if (!unit.isEmpty(7)) return [INDEFINITE, INDEFINITE, UNDERFLOW | STATUS.C1];
    const x = unit.get(0);
    const refused = refuse(x);
    if (refused) return [refused.value, refused.value, refused.flags];
    const kind = kindOf(x);
    if (kind === 'zero') return [infinity(true), x, ZE];
    if (kind === 'infinity') return [infinity(false), x, 0];
    const { exponent, significand, negative } = unpack(x);
    const size = BigInt(Math.abs(exponent));
    const asNumber = exponent === 0 ? zero(false) : round({ n: size, e: 0, exact: true }, exponent < 0, unit.fcw).value;
    return [asNumber, { significand, word: BIAS | (negative ? SIGN : 0) }, kind === 'denormal' ? DE : 0];
  })();
  const [exponent, significand, flags] = made;
  if (!unit.report(flags)) {
    unit.set(0, exponent);
    unit.push(significand);
  }
  return flags;
};

const premainder =
  (nearest: boolean) =>
  (unit: Unit): number => {
    unit.fsw &= ~STATUS.C2;
    if (unit.isEmpty(0) || unit.isEmpty(1)) {
      if (!unit.report(UNDERFLOW)) unit.set(0, INDEFINITE);
      return UNDERFLOW;
    }
    const { value, flags, conditions } = remainder(unit.get(0), unit.get(1), unit.fcw, nearest);
    if (!unit.report(flags)) {
      if (conditions !== null) unit.conditions(conditions & CONDITIONS);
      unit.fsw |= (conditions ?? 0) & STATUS.C1;
      unit.set(0, value);
    }
    return flags;
  };
const scale = (unit: Unit): number => {
  const { value, flags } = unit.isEmpty(0) || unit.isEmpty(1) ? { value: INDEFINITE, flags: UNDERFLOW } : fscale(unit.get(0), unit.get(1), unit.fcw);
  if (!unit.report(flags)) unit.set(0, value);
  return flags;
};

// @clause x87.functions.special
// @clause x87.remainder.steps
/** By mnemonic. */
const BODIES = {
  f2xm1: unary(f2xm1),
  fyl2x: binary(fyl2x),
  fptan,
  fpatan: binary(fpatan),
  fxtract,
  fprem1: premainder(true),
  fprem: premainder(false),
  fyl2xp1: binary(fyl2xp1),
  fsincos,
  fscale: scale,
  fsin: circular('sin'),
  fcos: circular('cos'),
} as const;
type X87Function = keyof typeof BODIES;
/** Executes one of them. */
export const x87Function =
  (name: X87Function) =>
  (cpu: Cpu, insn: Instruction): void =>
    execute(cpu, insn, BODIES[name]);
