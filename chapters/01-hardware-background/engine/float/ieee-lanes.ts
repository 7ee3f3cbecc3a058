// # All lanes of a vector
//
// A packed instruction is the scalar one, once for each lane. What is common to the lanes is the end: the flags of all of them are raised together, and an
// unmasked exception in one keeps the results of all from being written.

import { defineFunction, type StateAccess } from '../micro-ops/library.ts';
import { type Code, get, i32, type Local, set } from '../wasm-assembler.ts';
import { v128 } from '../wasm-vectors.ts';
import { FORMATS, type Format } from './ieee.ts';
import './ieee-arithmetic.ts';
import { lane, laneCount, withLane } from './ieee-fast.ts';

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
