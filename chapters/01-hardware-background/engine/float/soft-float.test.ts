import { describe, expect, it } from 'vitest';
import { LIBRARY, type StateAccess } from '../micro-ops/library.ts';
import { type Code, call, type Func, type Local, WasmModule } from '../wasm-assembler.ts';
import { EXCEPTION, FLAG_C1, HOW, MAX_EXPONENT, SIGN } from './soft-float.ts';

// The oracle is arithmetic on fractions of big integers, and a rounding that is written down differently: the two neighbours are found first.

type Binary = (sa: number, ea: number, a: bigint, sb: number, eb: number, b: bigint, how: number) => [bigint, number];
const none = (): never => {
  throw new Error('this function has no state');
};
/** The library without a machine around it. */
function library(): { add: Binary; multiply: Binary; divide: Binary; sqrt: (e: number, a: bigint, how: number) => [bigint, number] } {
  const module = new WasmModule(1, false);
  const known = new Map<string, Func>();
  for (const name of ['float.round', 'float.add', 'float.multiply', 'wide.divide', 'float.divide', 'float.sqrt']) {
    const { params, results, build } = LIBRARY.get(name) as NonNullable<ReturnType<typeof LIBRARY.get>>;
    const func = module.function(params, results, (body, ...locals) => {
      const state: StateAccess = {
        state: none,
        field: none,
        field32: none,
        fieldVector: none,
        setField: none,
        setField32: none,
        setFieldVector: none,
        local: (type): Local => body.local(type),
        call: (callee, ...args): Code => call(known.get(callee) as Func, ...args),
      };
      return build(state, ...locals);
    });
    known.set(name, func);
    module.export(name, func);
  }
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1 });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(module.encode()), { env: { memory } });
  const [add, multiply, divide, sqrt] = ['add', 'multiply', 'divide', 'sqrt'].map((name) => exports[`float.${name}`]) as never[];
  return { add: add as never as Binary, multiply: multiply as never as Binary, divide: divide as never as Binary, sqrt: sqrt as never };
}

const bitLength = (x: bigint): number => x.toString(2).length;

/** Rounds numerator / denominator · 2^power, both positive. */
function reference(sign: number, numerator: bigint, denominator: bigint, power: number, how: number): { significand: bigint; word: number } {
  const format = (how & HOW.PC) >> HOW.PC_SHIFT;
  const precision = [24, 64, 53, 64][format] as number;
  const limited = (how & HOW.RANGE) !== 0;
  const [emin, emax] = limited && format === 2 ? [-1022, 1023] : limited && format === 0 ? [-126, 127] : [-16382, 16383];
  const direction = how & HOW.RC;
  /** Multiples of 2^unit around the value. */
  const roundTo = (unit: number): { n: bigint; exact: boolean; up: boolean } => {
    const shift = power - unit;
    const [top, bottom] = shift >= 0 ? [numerator << BigInt(shift), denominator] : [numerator, denominator << BigInt(-shift)];
    const n = top / bottom;
    const rest = top % bottom;
    if (rest === 0n) return { n, exact: true, up: false };
    const twice = 2n * rest;
    let up = twice > bottom || (twice === bottom && (n & 1n) === 1n);
    if (direction === HOW.DOWN) up = sign !== 0;
    if (direction === HOW.UP) up = sign === 0;
    if (direction === HOW.TRUNCATE) up = false;
    return { n: up ? n + 1n : n, exact: false, up };
  };
  let exponent = bitLength(numerator) - bitLength(denominator) + power;
  const [scaledTop, scaledBottom] =
    exponent - power >= 0 ? [numerator, denominator << BigInt(exponent - power)] : [numerator << BigInt(power - exponent), denominator];
  if (scaledTop < scaledBottom) exponent--;
  const free = roundTo(exponent - precision + 1);
  const tiny = exponent < emin && !(exponent === emin - 1 && bitLength(free.n) > precision);
  const masked = (flag: number): boolean => (how & flag) !== 0;
  const kept = tiny && !masked(EXCEPTION.UE); // an unmasked underflow: the number stays as it is
  const used = exponent < emin && !kept ? roundTo(emin - precision + 1) : free;
  let base = exponent < emin && !kept ? emin : exponent;
  let { n } = used;
  if (bitLength(n) > precision) {
    n >>= 1n;
    base++;
  }
  let flags = used.exact ? 0 : EXCEPTION.PE | (used.up ? FLAG_C1 : 0);
  if (tiny && (!used.exact || !masked(EXCEPTION.UE))) flags |= EXCEPTION.UE;
  let significand = n << BigInt(64 - precision);
  let biased = base + 16383;
  if (kept && !limited) biased += 24576;
  if (base > emax) {
    flags |= EXCEPTION.OE;
    if (masked(EXCEPTION.OE)) {
      const infinite = direction === 0 || direction === (sign ? HOW.DOWN : HOW.UP);
      flags = EXCEPTION.OE | EXCEPTION.PE | (infinite ? FLAG_C1 : 0);
      biased = infinite ? MAX_EXPONENT : emax + 16383;
      significand = infinite ? 1n << 63n : ((1n << BigInt(precision)) - 1n) << BigInt(64 - precision);
    } else if (!limited) biased -= 24576;
  }
  if (emin === -16382 && significand < 1n << 63n) biased = 0;
  return { significand, word: ((sign | biased) << 16) | flags };
}

/** A number generator with a fixed seed. */
let seed = 0x2545f4914f6cdd1dn;
function random64(): bigint {
  seed ^= BigInt.asUintN(64, seed << 13n);
  seed ^= seed >> 7n;
  seed ^= BigInt.asUintN(64, seed << 17n);
  return BigInt.asUintN(64, seed * 0x9e3779b97f4a7c15n);
}
const below = (n: number): number => Number(random64() % BigInt(n));
/** Significands that are round, nearly round, short, or just anything. */
function significand(): bigint {
  const r = random64();
  const kinds = [
    r,
    r << BigInt(below(64)),
    -1n << BigInt(below(64)),
    (1n << BigInt(below(64))) + BigInt(below(5) - 2),
    r & (-1n << 40n),
    r & (-1n << 11n),
  ];
  return BigInt.asUintN(64, (kinds[below(kinds.length)] as bigint) | (1n << 63n));
}
const exponents = [0x3fff, 0x3fff, 0x3c02, 0x43fe, 0x3f82, 0x407e, 1, 0x7ffe, 0x2000, 0x5fff];
function how(): number {
  const range = below(2) * HOW.RANGE;
  return range | (below(4) << 10) | (([0, 2, 3][below(3)] as number) << 8) | below(64);
}
const value = (e: number, m: bigint): { m: bigint; power: number } => ({ m, power: e - 16383 - 63 });
const hex = (significand: bigint, word: number): string =>
  `${(word >>> 16).toString(16)}:${BigInt.asUintN(64, significand).toString(16)} flags ${(word & 0xffff).toString(16)}`;

describe('soft float', () => {
  const { add, multiply, divide, sqrt } = library();
  const CASES = 20_000;
  const check = (name: string, made: [bigint, number], expected: { significand: bigint; word: number }, operands: string): void => {
    const [actual, wanted] = [hex(...made), hex(expected.significand, expected.word)];
    if (actual !== wanted) expect.fail(`${name} ${operands}: ${actual}, should be ${wanted}`);
  };

  it.each(['add', 'multiply', 'divide'] as const)('%s is exact, in all formats and directions', (name) => {
    for (let i = 0; i < CASES; i++) {
      const [sa, sb] = [below(2) * SIGN, below(2) * SIGN] as [number, number];
      const ea = (exponents[below(exponents.length)] as number) + below(5) - 2;
      const near = below(2) === 0;
      const eb = near ? ea + below(140) - 70 : (exponents[below(exponents.length)] as number) + below(5) - 2;
      const [a, b, w] = [significand(), significand(), how()];
      const operands = `${hex(a, (sa | (ea & 0x7fff)) << 16)} and ${hex(b, (sb | (eb & 0x7fff)) << 16)}, how ${w.toString(16)}`;
      const [x, y] = [value(ea, a), value(eb, b)];
      if (name === 'add') {
        const power = Math.min(x.power, y.power);
        if (Math.abs(x.power - y.power) > 300) continue;
        const total = (sa ? -1n : 1n) * (x.m << BigInt(x.power - power)) + (sb ? -1n : 1n) * (y.m << BigInt(y.power - power));
        const made = add(sa, ea, a, sb, eb, b, w);
        if (total === 0n) expect(hex(...made)).toBe(hex(0n, (w & HOW.RC) === HOW.DOWN ? SIGN << 16 : 0));
        else check(name, made, reference(total < 0n ? SIGN : 0, total < 0n ? -total : total, 1n, power, w), operands);
      } else if (name === 'multiply')
        check(name, multiply(sa, ea, a, sb, eb, b, w), reference(sa ^ sb, x.m * y.m, 1n, x.power + y.power, w), operands);
      else check(name, divide(sa, ea, a, sb, eb, b, w), reference(sa ^ sb, x.m, y.m, x.power - y.power, w), operands);
    }
  });

  it('the square root is exact', () => {
    for (let i = 0; i < CASES; i++) {
      const e = 1 + below(0x7ffe);
      const [a, w] = [significand(), how() & ~HOW.RANGE];
      // The root of m·2^power to far more bits than are kept, with a last bit that says whether there are more.
      const { m, power } = value(e, a);
      const odd = power & 1;
      const wide = m << BigInt(200 + odd);
      let root = BigInt(Math.floor(Math.sqrt(Number(wide >> 160n)))) << 80n;
      for (let step = 0; step < 6; step++) root = (root + wide / root) >> 1n;
      while (root * root > wide) root--;
      const sticky = root * root === wide ? 0n : 1n;
      check('sqrt', sqrt(e, a, w), reference(0, 2n * root + sticky, 1n, (power - 200 - odd) / 2 - 1, w), `${hex(a, e << 16)}, how ${w.toString(16)}`);
    }
  });
});
