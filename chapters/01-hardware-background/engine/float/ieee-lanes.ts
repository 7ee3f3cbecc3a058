// # All lanes of a vector
//
// A packed instruction is the scalar one, once for each lane. What is common to the lanes is the end: the flags of all of them are raised together, and an
// unmasked exception in one keeps the results of all from being written.

import { defineFunction, type StateAccess } from '../micro-ops/library.ts';
import { type Code, get, i32, i64, type Local, set } from '../wasm-assembler.ts';
import { v128 } from '../wasm-vectors.ts';
import { FORMATS, type Format } from './ieee.ts';
import { STRICT } from './ieee-arithmetic.ts';
import { lane, laneCount, withLane } from './ieee-fast.ts';

// @clause sse.packed.lanes
/** Two vectors -> a vector, and the flags raised in any lane. `operationOf` says what is done in which lane. */
function defineLanes(name: string, f: Format, operationOf: (n: number) => string): void {
  defineFunction(`ieee.${name}.${f.bytes}.packed`, ['v128', 'v128'], ['v128', 'i32'], (s: StateAccess, x: Local, y: Local): Code => {
    const result = s.local('v128');
    const flags = s.local('i32');
    const bits = s.local('i64');
    return [
      set(result, v128.const(0n, 0n)),
      Array.from({ length: laneCount(f) }, (_, n) => [
        s.call(`ieee.${operationOf(n)}.${f.bytes}`, lane(f, get(x), n), lane(f, get(y), n)),
        set(flags, i32.or([], get(flags))),
        set(bits, []),
        set(result, withLane(f, get(result), n, get(bits))),
      ]),
      get(result),
      get(flags),
    ];
  });
}

for (const f of FORMATS) {
  for (const name of ['add', 'sub', 'mul', 'div', 'sqrt', 'min', 'max']) defineLanes(name, f, () => name);
  defineLanes('subadd', f, (n) => (n % 2 === 0 ? 'sub' : 'add'));
}

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
