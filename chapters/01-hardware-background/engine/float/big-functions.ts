// # Functions of a real number, exactly enough
//
// A sine has no finite expansion, so it cannot be computed exactly; but it can be computed to so many more bits than are kept that rounding is
// right in all but one case in 2^{{P - 70}}. Integers of any length make that short. They are slow, a few microseconds a function, which is what the instruction
// took in 1987.
//
// Arguments may be tiny, and then so is the result, with all its bits. So a function is computed as its argument times a factor that is near 1, and the
// factor is a fixed-point number of {{P}} fractional bits.

/** A positive number, n · 2^e. `exact`: nothing has been cut off. */
export interface Big {
  readonly n: bigint;
  readonly e: number;
  readonly exact: boolean;
}
export const P = 256;
const Q = BigInt(P);
const ONE = 1n << Q;

const bitLength = (x: bigint): number => x.toString(16).length * 4;
/** x as a fixed-point number; what is too small for it becomes 0. */
function fixed(n: bigint, e: number): bigint {
  const shift = P + e;
  return shift >= 0 ? n << BigInt(shift) : shift < -bitLength(n) ? 0n : n >> BigInt(-shift);
}
const mul = (a: bigint, b: bigint): bigint => (a * b) >> Q;
const scaled = (n: bigint, e: number, factor: bigint): Big => ({ n: n * factor, e: e - P, exact: false });

// ## Series

/** The sum of (-1)^k · x^(2k) / (first · (first+1) · …), two factors more for each term: sin x / x, and cos x. */
function alternating(square: bigint, first: bigint): bigint {
  let term = ONE;
  let sum = ONE;
  for (let k = first; term > 0n; k += 2n) {
    term = mul(term, square) / (k * (k + 1n));
    sum += (k - first) % 4n === 0n ? -term : term;
  }
  return sum;
}
/** atan t / t or, without signs, atanh t / t, from t². */
function arcTangent(square: bigint, signs: boolean): bigint {
  let power = ONE;
  let sum = ONE;
  for (let k = 1n; power > 0n; k++) {
    power = mul(power, square);
    sum += ((signs && k & 1n ? -1n : 1n) * power) / (2n * k + 1n);
  }
  return sum;
}
const reciprocalArc = (n: bigint, signs: boolean): bigint => arcTangent(ONE / (n * n), signs) / n;

/** π by Machin's formula, ln 2 as 2·atanh 1/3. */
const PI = 4n * (4n * reciprocalArc(5n, true) - reciprocalArc(239n, true));
const LN2 = 2n * reciprocalArc(3n, false);

// ## Sine and cosine

/** A factor a little below 1, for when the square of the argument is below the last bit. */
const JUST_BELOW = ONE - 1n;
const factorOf = (n: bigint, e: number, series: (square: bigint) => bigint): bigint => {
  const square = fixed(n * n, 2 * e);
  return square === 0n ? JUST_BELOW : series(square);
};
/** sin x and cos x for 0 < x <= π/4. */
export const sine = (n: bigint, e: number): Big =>
  scaled(
    n,
    e,
    factorOf(n, e, (square) => alternating(square, 2n)),
  );
export const cosine = (n: bigint, e: number): Big => ({ n: factorOf(n, e, (square) => alternating(square, 1n)), e: -P, exact: false });
/** a / b */
export const quotient = (a: Big, b: Big): Big => {
  const extra = Math.max(0, P + bitLength(b.n) - bitLength(a.n));
  const n = (a.n << BigInt(extra)) / b.n;
  return { n, e: a.e - b.e - extra, exact: false };
};

// ## Powers of two

/** 2^x - 1, for 0 < |x| <= 1: its magnitude. */
export function powerMinusOne(n: bigint, e: number, negative: boolean): Big {
  // y = x·ln 2; e^y - 1 = y · (1 + y/2 + y²/6 + …).
  const y = fixed(n * LN2, e - P) * (negative ? -1n : 1n);
  let term = ONE;
  let sum = ONE;
  for (let k = 2n; term !== 0n && term !== -1n; k++) {
    term = mul(term, y) / k;
    sum += term;
  }
  if (y === 0n) sum += negative ? -1n : 1n;
  return { n: n * LN2 * sum, e: e - 2 * P, exact: false };
}

// ## Logarithms

/** log2 of n · 2^e. */
export function binaryLogarithm(n: bigint, e: number): { value: Big; negative: boolean } {
  // Away from 1 the integer part counts; near it, it is zero, so n is compared with that power of two which is nearest in ratio.
  const bits = n.toString(2).length;
  const down = n * n < 1n << BigInt(2 * bits - 1);
  const power = down ? bits - 1 : bits;
  const unit = 1n << BigInt(power);
  const k = power + e;
  if (n === unit) return { value: { n: BigInt(Math.abs(k)), e: 0, exact: true }, negative: k < 0 };
  const t = ((n - unit) << (2n * Q)) / (n + unit); // P more bits: the difference may be 2^-64 of the number
  const square = (t * t) >> (3n * Q);
  const logarithm = (2n * t * arcTangent(square, false)) / LN2; // in units of 2^-2P
  const sum = (BigInt(k) << (2n * Q)) + logarithm;
  return { value: { n: sum < 0n ? -sum : sum, e: -2 * P, exact: false }, negative: sum < 0n };
}

/** log2(1 + x): its magnitude; the sign is that of x. For x > -1. */
export function binaryLogarithmPlusOne(n: bigint, e: number, negative: boolean): Big {
  const size = e + bitLength(n);
  if (size > P) return binaryLogarithm(n, e).value;
  const ln2: Big = { n: LN2, e: -P, exact: false };
  if (size < -P) return quotient({ n: n * (negative ? ONE + 1n : JUST_BELOW), e: e - P, exact: false }, ln2);
  const unit = 1n << BigInt(Math.max(0, -e));
  const x = (e > 0 ? n << BigInt(e) : n) * (negative ? -1n : 1n);
  if (size >= 0) return binaryLogarithm(unit + x, Math.min(0, e)).value;
  // atanh of x / (2 + x), whose numerator and denominator are exact.
  const extra = 2 * P;
  const t = (n << BigInt(extra)) / (2n * unit + x);
  const square = (t * t) >> BigInt(2 * extra - P);
  return quotient({ n: 2n * t * arcTangent(square, false), e: -extra - P, exact: false }, ln2);
}

/** a · b */
export const product = (a: Big, b: Big): Big => ({ n: a.n * b.n, e: a.e + b.e, exact: a.exact && b.exact });

// ## The arc tangent

const STEPS = 8n;
const STEP_ANGLES: bigint[] = [0n];
/** atan of k/8. */
function stepAngle(k: number): bigint {
  for (let j = STEP_ANGLES.length; j <= k; j++) {
    // The next one is the last one and the angle between them, whose tangent is (1/8) / (1 + j(j-1)/64).
    const t = (ONE * STEPS) / (STEPS * STEPS + BigInt(j) * BigInt(j - 1));
    STEP_ANGLES.push((STEP_ANGLES[j - 1] as bigint) + mul(t, arcTangent(mul(t, t), true)));
  }
  return STEP_ANGLES[k] as bigint;
}

/** The angle of a point (x, y) in the first quadrant, plus `quarters` · π/2 or, when `mirrored`, subtracted from π. Neither coordinate is 0. */
export function angle(y: Big, x: Big, mirrored: boolean): Big {
  const ratio = quotient(y, x);
  const size = ratio.e + bitLength(ratio.n);
  if (size <= -P && !mirrored) return { n: ratio.n * JUST_BELOW, e: ratio.e - P, exact: false };
  let sum: bigint;
  if (size > P) sum = PI / 2n - 1n;
  else if (size <= -P) sum = 1n;
  else {
    const steep = y.n << BigInt(Math.max(0, y.e - x.e)) > x.n << BigInt(Math.max(0, x.e - y.e));
    const z = steep ? quotient(x, y) : ratio;
    const t = fixed(z.n, z.e);
    const k = Number((t * STEPS + ONE / 2n) >> Q);
    if (k === 0) {
      // Small: all bits of a small angle count.
      const factor = arcTangent(mul(t, t), true);
      if (!steep && !mirrored) return scaled(z.n, z.e, factor === ONE ? JUST_BELOW : factor);
      sum = mul(t, factor);
    } else {
      const c = (BigInt(k) << Q) / STEPS;
      const rest = ((t - c) << Q) / (ONE + mul(t, c));
      sum = stepAngle(k) + mul(rest, arcTangent(mul(rest, rest), true));
    }
    if (steep) sum = PI / 2n - sum;
  }
  return { n: mirrored ? PI - sum : sum, e: -P, exact: false };
}
/** quarters · π/4 */
export const quarterTurns = (quarters: number): Big => ({ n: (PI * BigInt(quarters)) >> 2n, e: -P, exact: false });
