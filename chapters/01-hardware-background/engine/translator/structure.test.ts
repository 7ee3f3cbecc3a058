import { describe, expect, it } from 'vitest';
import { type Code, either, get, i32, Label, ret, set, WasmModule, when } from '../wasm-assembler.ts';
import { assemble, shapeOf } from './structure.ts';

/** A repeatable source of numbers. */
function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const STEPS = 200;

/** Follows a graph: each node mixes its number into a hash; the hash decides between two successors. Returns the hash after so many steps. */
function follow(successors: readonly (readonly number[])[], entry: number): number {
  let hash = 1;
  let n = entry;
  for (let step = 0; step < STEPS; step++) {
    hash = (Math.imul(hash, 31) + n) | 0;
    const next = successors[n]!;
    if (next.length === 0) return hash;
    n = next.length === 2 && (hash >>> 3) & 1 ? next[1]! : next[0]!;
  }
  return hash;
}

/** The same as WebAssembly. */
function compile(
  successors: readonly (readonly number[])[],
  entries: readonly number[],
): { run: (entry: number) => number; entries: readonly number[] } {
  const shape = shapeOf(successors, entries);
  const module = new WasmModule(1, false);
  const run = module.function(['i32'], ['i32'], (body, selector) => {
    const hash = body.local('i32');
    const steps = body.local('i32');
    const code = assemble(shape, selector!, new Label(), {
      node: (n, _inline, jump): Code => {
        const next = successors[n]!;
        return [
          when(i32.ge_u(get(steps), i32.const(STEPS)), ret(get(hash))),
          set(steps, i32.add(get(steps), i32.const(1))),
          set(hash, i32.add(i32.mul(get(hash), i32.const(31)), i32.const(n))),
          next.length === 0
            ? ret(get(hash))
            : next.length === 1
              ? jump(next[0]!)
              : either(i32.and(i32.shr_u(get(hash), i32.const(3)), i32.const(1)), jump(next[1]!), jump(next[0]!)),
        ];
      },
      before: () => [],
    });
    return [set(hash, i32.const(1)), code, i32.const(0)];
  });
  module.export('run', run);
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1 });
  const instance = new WebAssembly.Instance(new WebAssembly.Module(module.encode()), { env: { memory } });
  return { run: instance.exports.run as (entry: number) => number, entries: shape.entries };
}

describe('structured control flow', () => {
  it('follows random graphs, reducible or not, from every entry', () => {
    const pick = random(5);
    let detours = 0;
    for (let round = 0; round < 400; round++) {
      const count = 1 + pick(14);
      const successors = Array.from({ length: count }, () => {
        const targets = [pick(count), pick(count)].slice(0, pick(8) === 0 ? 0 : 1 + pick(2));
        return [...new Set(targets)];
      });
      const entries = [...new Set(Array.from({ length: 1 + pick(3) }, () => pick(count)))];
      const { run, entries: all } = compile(successors, entries);
      detours += all.length - entries.length;
      expect(all.slice(0, entries.length)).toEqual(entries);
      for (const [number, entry] of all.entries()) expect(run(number), JSON.stringify({ successors, entries })).toBe(follow(successors, entry));
    }
    expect(detours).toBeGreaterThan(20);
  });

  it('writes a plain loop as a loop', () => {
    const shape = shapeOf([[1], [1, 2], []], [0]);
    expect(shape.isLoop).toEqual([false, true, false]);
    expect(shape.detours.size).toBe(0);
    expect(shape.isMerge).toEqual([true, false, false]);
  });
});
