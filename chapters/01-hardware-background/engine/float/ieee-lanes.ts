// # All lanes of a vector
//
// A packed instruction is the scalar one, once for each lane. What is common to the lanes is the end: the flags of all of them are raised together,
// and an unmasked exception in one keeps the results of all from being written.

import { defineFunction, type StateAccess } from '../micro-ops/library.ts';
import { type Code, get, i32, i64, type Local, ret, set, when } from '../wasm-assembler.ts';
import { v128 } from '../wasm-vectors.ts';
import { FORMATS, type Format } from './ieee.ts';
import { STRICT } from './ieee-arithmetic.ts';
import { denormals, isQuiet, lane, laneCount, lanes, notOrdinary, withLane } from './ieee-fast.ts';

/** Packed operations as WebAssembly has them: good for ordinary numbers. */
export const NATIVE = {
  add: (f: Format, x: Code, y: Code): Code => lanes(f).add(x, y),
  sub: (f: Format, x: Code, y: Code): Code => lanes(f).sub(x, y),
  mul: (f: Format, x: Code, y: Code): Code => lanes(f).mul(x, y),
  div: (f: Format, x: Code, y: Code): Code => lanes(f).div(x, y),
  sqrt: (f: Format, _x: Code, y: Code): Code => lanes(f).sqrt(y),
  subadd: (f: Format, x: Code, y: Code): Code => v128.bitselect(lanes(f).sub(x, y), lanes(f).add(x, y), EVEN_LANES[f.bytes]),
  // pmin(a, b) is b < a ? b : a
  min: (f: Format, x: Code, y: Code): Code => lanes(f).pmin(y, x),
  max: (f: Format, x: Code, y: Code): Code => lanes(f).pmax(y, x),
} as const;
export type PackedName = keyof typeof NATIVE;
const EVEN_LANES = { 4: v128.const(0xffffffffn, 0xffffffffn), 8: v128.const(-1n, 0n) } as const;

// Zeros are frequent in vectors, if only because nobody uses the lane. A sum that is zero is exact. So is a product or quotient, if an operand was
// zero, and otherwise it is an underflow. They are seen to first, all lanes at a time.

const either = (...masks: Code[]): Code => masks.reduce((x, y) => v128.or(x, y));
/** Lanes in which WebAssembly's result may not be ours. */
function doubtful(name: PackedName, f: Format, x: Code, y: Code, result: Code): Code {
  const operands = either(denormals(f, x), denormals(f, y));
  if (name === 'min' || name === 'max') return either(operands, lanes(f).ne(x, x), lanes(f).ne(y, y));
  const isZero = (z: Code): Code => lanes(f).eq(z, v128.const(0n, 0n));
  const causes = { mul: either(isZero(x), isZero(y)), div: isZero(x) } as Partial<Record<PackedName, Code>>;
  const exact = causes[name] ? v128.and(isZero(result), causes[name]) : isZero(result);
  return either(name === 'sqrt' ? denormals(f, y) : operands, v128.andnot(notOrdinary(f, result), exact));
}

// @clause sse.packed.lanes
/** Two vectors -> a vector, and the flags raised in any lane. */
function defineLanes(name: PackedName, f: Format): void {
  const nameIn = (n: number): string => (name !== 'subadd' ? name : n % 2 === 0 ? 'sub' : 'add');
  defineFunction(`ieee.${name}.${f.bytes}.packed`, ['v128', 'v128'], ['v128', 'i32'], (s: StateAccess, x: Local, y: Local): Code => {
    const result = s.local('v128');
    const flags = s.local('i32');
    const bits = s.local('i64');
    const rounds = name !== 'min' && name !== 'max';
    const done = when(i32.eqz(v128.any_true(doubtful(name, f, get(x), get(y), get(result)))), ret([get(result), i32.const(0)]));
    return [
      set(result, NATIVE[name](f, get(x), get(y))),
      rounds ? when(isQuiet(s), done) : done,
      Array.from({ length: laneCount(f) }, (_, n) => [
        s.call(`ieee.${nameIn(n)}.${f.bytes}`, lane(f, get(x), n), lane(f, get(y), n)),
        set(flags, i32.or([], get(flags))),
        set(bits, []),
        set(result, withLane(f, get(result), n, get(bits))),
      ]),
      get(result),
      get(flags),
    ];
  });
}
for (const f of FORMATS) for (const name of Object.keys(NATIVE) as PackedName[]) defineLanes(name, f);

// A comparison gives all ones or nothing, by the outcomes that its relation names.
for (const f of FORMATS) {
  defineFunction(`ieee.compare.${f.bytes}.packed`, ['v128', 'v128', 'i32'], ['v128', 'i32'], (s, x: Local, y: Local, relation: Local) => {
    const [result, flags, outcome] = [s.local('v128'), s.local('i32'), s.local('i32')];
    const mask = i32.sub(i32.const(0), i32.ne(i32.and(get(outcome), get(relation)), i32.const(0)));
    const strict = i32.and(get(relation), i32.const(STRICT));
    return [
      Array.from({ length: laneCount(f) }, (_, n) => [
        s.call(`ieee.compare.${f.bytes}`, lane(f, get(x), n), lane(f, get(y), n), strict),
        set(flags, i32.or([], get(flags))),
        set(outcome, []),
        set(result, withLane(f, get(result), n, i64.extend_i32_s(mask))),
      ]),
      get(result),
      get(flags),
    ];
  });
}
