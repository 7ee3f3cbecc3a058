// # Dot products and approximations
//
// What is left of SSE's arithmetic: instructions that are more than one operation, or less.

import { DOUBLE, type Format, SINGLE } from '../engine/float/ieee.ts';
import { deliver, denormals, isQuiet, lanes as lanesOf, notOrdinary } from '../engine/float/ieee-fast.ts';
import '../engine/float/ieee-approximate.ts';
import '../engine/float/ieee-lanes.ts';
import { define, type Emitter } from '../engine/micro-ops.ts';
import { type Code, get, i32, i64, type Local, set, when } from '../engine/wasm-assembler.ts';
import { i8x16, i32x4, i64x2, v128 } from '../engine/wasm-vectors.ts';
import type { Definition } from './encoding.ts';
import { source } from './simd-common.ts';
import { keepVector, PLACES, simd, ZERO } from './simd-lanes.ts';

// ## Dot products
//
// Multiply the lanes that the immediate's upper half chooses, add them up, and put the sum into the lanes that its lower half chooses; everything
// else is zero. The order of the additions is fixed: first neighbours, then their sums. Each step raises its own exceptions, and the next is not
// begun when one of them is not masked.

/** All ones in the lanes whose bit, counted from `shift`, is set in the immediate. */
const chosen = (e: Emitter, f: Format, shift: number): Code => {
  const bits = i32.shr_u(i32.wrap_i64(e.imm), i32.const(shift));
  if (f === SINGLE) return i32x4.ne(v128.and(i32x4.splat(bits), v128.const(0x2_0000_0001n, 0x8_0000_0004n)), ZERO);
  return i64x2.ne(v128.and(i64x2.splat(i64.extend_i32_u(bits)), v128.const(1n, 2n)), ZERO);
};
const rotated = (x: Code, bytes: number): Code =>
  i8x16.shuffle(
    x,
    x,
    PLACES.map((place) => (place + bytes) & 15),
  );
const swapped = (x: Code): Code =>
  i8x16.shuffle(
    x,
    x,
    PLACES.map((place) => place ^ 4),
  );

for (const f of [SINGLE, DOUBLE]) {
  define(
    `dotProduct.${f.bytes}`,
    (e) => {
      const [x, y, products, sums, total] = Array.from({ length: 5 }, () => e.local('v128')) as [Local, Local, Local, Local, Local];
      const raised = e.local('i32');
      const { mul, add } = lanesOf(f);
      const last = f === SINGLE ? total : sums;
      // Each lane has a sum of its own. They are equal, unless there are NaNs to choose from: then it matters which operand is the first.
      const [first, second] = f === SINGLE ? [swapped(get(products)), get(products)] : [get(products), rotated(get(products), 8)];
      const doubtful = [denormals(f, get(x)), denormals(f, get(y)), notOrdinary(f, get(products))].reduce((a, b) => v128.or(a, b));
      const doubtfulSums = [sums, last].map((z) => notOrdinary(f, get(z))).reduce((a, b) => v128.or(a, b));
      /** One step done exactly. Lanes that are not chosen hold zeros already, which raise nothing. */
      const step = (name: string, p: Code, q: Code, result: Local): Code => [
        e.call(`ieee.${name}.${f.bytes}.packed`, p, q),
        set(raised, []),
        set(result, []),
        deliver(e, raised),
      ];
      const [keepMask, mask] = keepVector(e, chosen(e, f, 4));
      return [
        keepMask,
        set(x, v128.and(e.getVector('d'), mask)),
        set(y, v128.and(e.getVector('a'), mask)),
        set(products, mul(get(x), get(y))),
        set(sums, add(first, second)),
        f === SINGLE ? set(total, add(get(sums), rotated(get(sums), 8))) : [],
        when(i32.or(i32.eqz(isQuiet(e)), i32.or(v128.any_true(v128.and(doubtful, mask)), v128.any_true(doubtfulSums))), [
          step('mul', get(x), get(y), products),
          step('add', first, second, sums),
          f === SINGLE ? step('add', get(sums), rotated(get(sums), 8), total) : [],
        ]),
        e.setVector('d', v128.and(get(last), chosen(e, f, 0))),
      ];
    },
    { outlined: true },
  );
}
const dotProduct = (name: string, encoding: string, f: Format): Definition =>
  simd(name, encoding, (b) => b.emit(`dotProduct.${f.bytes}`, { d: b.registerOf(0), a: source(b, 1), imm: b.insn.imm }));

// ## Approximations

for (const name of ['reciprocal', 'reciprocalRoot']) {
  const approximate = (e: Emitter, x: Code): Code => e.call(`ieee.${name}`, x);
  define(`${name}.4`, (e) => e.setVector('d', i32x4.replace(e.getVector('d'), 0, approximate(e, i32.wrap_i64(e.get('a', 4))))), { outlined: true });
  define(
    `${name}.4.packed`,
    (e) => {
      const [kept, x] = keepVector(e, e.getVector('a'));
      const lanes = [0, 1, 2, 3].reduce<Code>((all, n) => i32x4.replace(all, n, approximate(e, i32x4.extract(x, n))), ZERO);
      return [kept, e.setVector('d', lanes)];
    },
    { outlined: true },
  );
}
const approximation = (name: string, encoding: string, microOp: string): Definition =>
  simd(name, encoding, (b) => b.emit(microOp, { d: b.registerOf(0), a: source(b, 1) }));

export const SSE_PRODUCTS = [
  dotProduct('DPPS', '66.0F3A40 Vx,Wx,Ib SSE4.1', SINGLE), // the dot product of chosen singles
  dotProduct('DPPD', '66.0F3A41 Vx,Wx,Ib SSE4.1', DOUBLE), // the dot product of chosen doubles
  approximation('RCPPS', '0F53 Vx,Wx SSE', 'reciprocal.4.packed'), // approximate reciprocals of four singles
  approximation('RCPSS', 'F3.0F53 Vx,Wd SSE', 'reciprocal.4'), // the approximate reciprocal of a single
  approximation('RSQRTPS', '0F52 Vx,Wx SSE', 'reciprocalRoot.4.packed'), // approximate reciprocals of four square roots
  approximation('RSQRTSS', 'F3.0F52 Vx,Wd SSE', 'reciprocalRoot.4'), // the approximate reciprocal of a square root
];
