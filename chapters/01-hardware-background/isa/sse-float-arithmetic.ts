// # Floating-point arithmetic of SSE
//
// Four forms of each operation: on a vector of singles or doubles, or on the lowest of them alone, in which case the other lanes of the destination
// stay as they are. They differ by a mandatory prefix: none, 66, F3, F2.

import { DOUBLE, type Format, SINGLE } from '../engine/float/ieee.ts';
import {
  denormal,
  isQuiet,
  isSuspect,
  lowest,
  narrow,
  number,
  ordinary,
  patternType,
  settle,
  toNumber,
  toPattern,
  widen,
  withLowest,
} from '../engine/float/ieee-fast.ts';
import { NATIVE, type PackedName } from '../engine/float/ieee-lanes.ts';
import { define, type Emitter } from '../engine/micro-ops.ts';
import { type Code, get, i32, type Local, select, set, when } from '../engine/wasm-assembler.ts';
import { i8x16 } from '../engine/wasm-vectors.ts';
import type { Definition } from './encoding.ts';
import { source } from './simd-common.ts';
import { simd } from './simd-lanes.ts';

const any = (...conditions: Code[]): Code => conditions.reduce((x, y) => i32.or(x, y));

/** An operation as WebAssembly has it, and when that is not good enough. */
interface Operation {
  /** The name of the exact one, in the float library. */
  readonly name: PackedName;
  scalar(f: Format, x: Code, y: Code): Code;
  /** Conditions for the slow way, in terms of patterns. */
  scalarDoubt(e: Emitter, f: Format, x: Code, y: Code, result: Code): Code;
  packedDoubt(e: Emitter, f: Format, x: Code, y: Code, result: Code): Code;
}

/** Those whose results are rounded. The root has one operand, the second. */
const rounded = (name: 'add' | 'sub' | 'mul' | 'div'): Operation => ({
  name,
  scalar: (f, x, y) => toPattern(f, number(f)[name](toNumber(f, x), toNumber(f, y))),
  scalarDoubt: (e, f, x, y, result) => any(i32.eqz(isQuiet(e)), i32.eqz(ordinary(f, result)), denormal(f, x), denormal(f, y)),
  packedDoubt: (e, f, x, y, result) => any(i32.eqz(isQuiet(e)), isSuspect(f, [x, y], [result])),
});
const root: Operation = {
  name: 'sqrt',
  scalar: (f, _x, y) => toPattern(f, number(f).sqrt(toNumber(f, y))),
  scalarDoubt: (e, f, _x, y, result) => any(i32.eqz(isQuiet(e)), i32.eqz(ordinary(f, result)), denormal(f, y)),
  packedDoubt: (e, f, _x, y, result) => any(i32.eqz(isQuiet(e)), isSuspect(f, [y], [result])),
};
/** MIN and MAX round nothing, so only what their operands are matters. */
const choice = (name: 'min' | 'max'): Operation => {
  const chosen = name === 'min' ? 'lt' : 'gt';
  const isUnordered = (f: Format, x: Code, y: Code): Code => i32.eqz(i32.or(number(f).lt(x, y), number(f).ge(x, y)));
  return {
    name,
    scalar: (f, x, y) => select(x, y, number(f)[chosen](toNumber(f, x), toNumber(f, y))),
    scalarDoubt: (_e, f, x, y) => any(isUnordered(f, toNumber(f, x), toNumber(f, y)), denormal(f, x), denormal(f, y)),
    packedDoubt: (_e, f, x, y) => isSuspect(f, [], [x, y]),
  };
};

/** Defines `name.4` or `name.8`: d := d op a, in the lowest lane. */
function defineScalar(op: Operation, f: Format): void {
  define(
    `sse.${op.name}.${f.bytes}`,
    (e) => {
      const [x, y, result] = [e.local(patternType(f)), e.local(patternType(f)), e.local(patternType(f))];
      const wide = e.local('i64');
      return [
        set(x, lowest(e, f, 'd')),
        set(y, lowest(e, f, 'a')),
        set(result, op.scalar(f, get(x), get(y))),
        when(op.scalarDoubt(e, f, get(x), get(y), get(result)), [
          settle(e, e.call(`ieee.${op.name}.${f.bytes}`, widen(f, get(x)), widen(f, get(y))), wide),
          set(result, narrow(f, get(wide))),
        ]),
        e.setVector('d', withLowest(f, e.getVector('d'), get(result))),
      ];
    },
    { outlined: true },
  );
}

/** Keeps the two operands; `make` has them, and a local for the result. */
function packedMeaning(e: Emitter, make: (x: Code, y: Code, result: Local) => Code): Code {
  const [x, y, result] = [e.local('v128'), e.local('v128'), e.local('v128')];
  return [set(x, e.getVector('d')), set(y, e.getVector('a')), make(get(x), get(y), result), e.setVector('d', get(result))];
}
/** Defines `name.4.packed` or `name.8.packed`. `arrange` makes the operands of the lanes out of those of the instruction. */
function definePacked(name: string, op: Operation, f: Format, arrange: (x: Code, y: Code) => readonly [Code, Code] = (x, y) => [x, y]): void {
  define(
    `sse.${name}.${f.bytes}.packed`,
    (e) => {
      const [p, q] = [e.local('v128'), e.local('v128')];
      return packedMeaning(e, (x, y, result) => {
        const [first, second] = arrange(x, y);
        return [
          set(p, first),
          set(q, second),
          set(result, NATIVE[op.name](f, get(p), get(q))),
          when(op.packedDoubt(e, f, get(p), get(q), get(result)), settle(e, e.call(`ieee.${op.name}.${f.bytes}.packed`, get(p), get(q)), result)),
        ];
      });
    },
    { outlined: true },
  );
}

/** The four forms of an operation, at an opcode of the map 0F. */
function fourForms(mnemonic: string, opcode: string, op: Operation): Definition[] {
  for (const f of [SINGLE, DOUBLE]) {
    defineScalar(op, f);
    definePacked(op.name, op, f);
  }
  const form = (suffix: string, encoding: string, microOp: string): Definition =>
    simd(`${mnemonic}${suffix}`, encoding, (b) => b.emit(`sse.${op.name}.${microOp}`, { d: b.registerOf(0), a: source(b, 1) }));
  return [
    form('PS', `0F${opcode} Vx,Wx SSE`, '4.packed'),
    form('PD', `66.0F${opcode} Vx,Wx SSE2`, '8.packed'),
    form('SS', `F3.0F${opcode} Vx,Wd SSE`, '4'),
    form('SD', `F2.0F${opcode} Vx,Wq SSE2`, '8'),
  ];
}

const FOUR_FORMS = [
  ...fourForms('SQRT', '51', root),
  ...fourForms('ADD', '58', rounded('add')),
  ...fourForms('MUL', '59', rounded('mul')),
  ...fourForms('SUB', '5C', rounded('sub')),
  ...fourForms('MIN', '5D', choice('min')),
  ...fourForms('DIV', '5E', rounded('div')),
  ...fourForms('MAX', '5F', choice('max')),
];

// ## Across lanes
//
// SSE3 added what complex numbers need: sums of neighbours, and subtraction in the even lanes with addition in the odd ones. The first are ordinary
// sums once the lanes have been arranged: the even ones of both operands, and the odd ones.

const EVEN = { 4: [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27], 8: [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23] } as const;
const neighbours = (f: Format) => (x: Code, y: Code) =>
  [
    i8x16.shuffle(x, y, EVEN[f.bytes]),
    i8x16.shuffle(
      x,
      y,
      EVEN[f.bytes].map((n) => n + f.bytes),
    ),
  ] as const;
const mixed: Operation = { ...rounded('add'), name: 'subadd' };
for (const f of [SINGLE, DOUBLE]) {
  definePacked('hadd', rounded('add'), f, neighbours(f));
  definePacked('hsub', rounded('sub'), f, neighbours(f));
  definePacked('subadd', mixed, f);
}
// @clause simd.sse3.results
const acrossLanes = (mnemonic: string, opcode: string, microOp: string): Definition[] => [
  simd(`${mnemonic}PS`, `F2.0F${opcode} Vx,Wx SSE3`, (b) => b.emit(`sse.${microOp}.4.packed`, { d: b.registerOf(0), a: source(b, 1) })),
  simd(`${mnemonic}PD`, `66.0F${opcode} Vx,Wx SSE3`, (b) => b.emit(`sse.${microOp}.8.packed`, { d: b.registerOf(0), a: source(b, 1) })),
];

export const SSE_ARITHMETIC = [
  ...FOUR_FORMS,
  ...acrossLanes('HADD', '7C', 'hadd'),
  ...acrossLanes('HSUB', '7D', 'hsub'),
  ...acrossLanes('ADDSUB', 'D0', 'subadd'),
];
