// # Comparisons of SSE
//
// CMP answers in the register, with a lane of ones for yes: the answer is then used as a mask. COMIS answers in RFLAGS, as the x87's FCOMI does:
// like a comparison of unsigned integers, and with PF for what integers do not have, two numbers of which neither is less and which are not equal.

import { DOUBLE, type Format, SINGLE } from '../engine/float/ieee.ts';
import { OUTCOME, STRICT } from '../engine/float/ieee-arithmetic.ts';
import {
  denormal,
  denormals,
  lanes as lanesOf,
  lowest,
  number,
  patternType,
  settle,
  toNumber,
  widen,
  withLowest,
} from '../engine/float/ieee-fast.ts';
import '../engine/float/ieee-lanes.ts';
import { PF_DELTA } from '../engine/flags.ts';
import { define, type Emitter } from '../engine/micro-ops.ts';
import { type Code, get, i32, i64, type Local, set, when } from '../engine/wasm-assembler.ts';
import { i32x4, v128 } from '../engine/wasm-vectors.ts';
import { SLOT } from '../state.ts';
import type { Definition } from './encoding.ts';
import { source } from './simd-common.ts';
import { simd } from './simd-lanes.ts';

const { GREATER, LESS, EQUAL, UNORDERED } = OUTCOME;

// @clause sse.compare.predicates
/** What the eight predicates of CMP are made true by, and whether they complain of every NaN. Of the immediate three bits count. */
// biome-ignore format: table
const PREDICATES = [
  EQUAL,                           // 0 EQ
  LESS | STRICT,                   // 1 LT
  LESS | EQUAL | STRICT,           // 2 LE
  UNORDERED,                       // 3 UNORD
  LESS | GREATER | UNORDERED,      // 4 NEQ
  GREATER | EQUAL | UNORDERED | STRICT, // 5 NLT
  GREATER | UNORDERED | STRICT,    // 6 NLE
  LESS | EQUAL | GREATER,          // 7 ORD
] as const;

/** The outcome for two numbers that are neither denormal nor NaNs is worked out in place. */
function outcome(e: Emitter, f: Format, x: Local, y: Local, strict: Code, result: Local): Code {
  const [p, q] = [toNumber(f, get(x)), toNumber(f, get(y))];
  const { lt, gt, eq } = number(f);
  return [
    set(result, i32.or(i32.or(gt(p, q), i32.shl(lt(p, q), i32.const(1))), i32.shl(eq(p, q), i32.const(2)))),
    when(
      i32.or(i32.eqz(get(result)), i32.or(denormal(f, get(x)), denormal(f, get(y)))),
      settle(e, e.call(`ieee.compare.${f.bytes}`, widen(f, get(x)), widen(f, get(y)), strict), result),
    ),
  ];
}
const operands = (e: Emitter, f: Format): [Code, Local, Local] => {
  const [x, y] = [e.local(patternType(f)), e.local(patternType(f))];
  return [[set(x, lowest(e, f, 'd')), set(y, lowest(e, f, 'a'))], x, y];
};

// ## Into the register

const relation = (e: Emitter): Code => i32.wrap_i64(e.imm);

for (const f of [SINGLE, DOUBLE]) {
  define(
    `compare.${f.bytes}`,
    (e) => {
      const [read, x, y] = operands(e, f);
      const result = e.local('i32');
      const mask = i32.sub(i32.const(0), i32.ne(i32.and(get(result), relation(e)), i32.const(0)));
      return [
        read,
        outcome(e, f, x, y, i32.and(relation(e), i32.const(STRICT)), result),
        e.setVector('d', withLowest(f, e.getVector('d'), f === DOUBLE ? i64.extend_i32_s(mask) : mask)),
      ];
    },
    { outlined: true },
  );
  define(
    `compare.${f.bytes}.packed`,
    (e) => {
      const [x, y, result] = [e.local('v128'), e.local('v128'), e.local('v128')];
      const { lt, gt, eq, ne } = lanesOf(f);
      /** All ones if the relation has the outcome. */
      const wanted = (bit: number): Code => i32x4.splat(i32.sub(i32.const(0), i32.ne(i32.and(relation(e), i32.const(bit)), i32.const(0))));
      const term = (bit: number, answer: Code): Code => v128.and(wanted(bit), answer);
      const [p, q] = [get(x), get(y)];
      return [
        set(x, e.getVector('d')),
        set(y, e.getVector('a')),
        set(result, v128.or(v128.or(term(LESS, lt(p, q)), term(EQUAL, eq(p, q))), term(GREATER, gt(p, q)))),
        when(
          v128.any_true([ne(p, p), ne(q, q), denormals(f, p), denormals(f, q)].reduce((a, b) => v128.or(a, b))),
          settle(e, e.call(`ieee.compare.${f.bytes}.packed`, p, q, relation(e)), result),
        ),
        e.setVector('d', get(result)),
      ];
    },
    { outlined: true },
  );
}
const compare = (name: string, encoding: string, form: string): Definition =>
  simd(name, encoding, (b) => {
    const imm = BigInt(PREDICATES[Number(b.insn.imm) & 7] as number);
    b.emit(`compare.${form}`, { d: b.registerOf(0), a: source(b, 1), imm });
  });

const CMP = [
  compare('CMPPS', '0FC2 Vx,Wx,Ib SSE', '4.packed'), // compares four singles, for masks
  compare('CMPPD', '66.0FC2 Vx,Wx,Ib SSE2', '8.packed'), // compares two doubles, for masks
  compare('CMPSS', 'F3.0FC2 Vx,Wd,Ib SSE', '4'), // compares two singles, for a mask
  compare('CMPSD', 'F2.0FC2 Vx,Wq,Ib SSE2', '8'), // compares two doubles, for a mask
];

// ## Into the flags

for (const f of [SINGLE, DOUBLE]) {
  for (const strict of [0, 1]) {
    define(
      `${strict ? 'ordered' : 'unordered'}.${f.bytes}`,
      (e) => {
        const [read, x, y] = operands(e, f);
        const result = e.local('i32');
        const is = (outcomes: number): Code => i64.extend_i32_u(i32.ne(i32.and(get(result), i32.const(outcomes)), i32.const(0)));
        const isNot = (outcomes: number): Code => i64.extend_i32_u(i32.eqz(i32.and(get(result), i32.const(outcomes))));
        return [
          read,
          outcome(e, f, x, y, i32.const(strict), result),
          // 1 has odd parity and 0 even: PF is right but for equality.
          e.setSlot(SLOT.CC_RESULT, 8, isNot(EQUAL | UNORDERED)),
          e.setSlot(SLOT.CC_A, 8, i64.or(i64.shl(is(LESS | UNORDERED), i64.const(63n)), i64.shl(is(EQUAL), i64.const(BigInt(PF_DELTA))))),
          e.setSlot(SLOT.CC_B, 8, i64.const(0n)),
        ];
      },
      { outlined: true },
    );
  }
}
const compareFlags = (name: string, encoding: string, microOp: string): Definition =>
  simd(name, encoding, (b) => b.emit(microOp, { d: b.registerOf(0), a: source(b, 1) }));

const COMIS = [
  compareFlags('COMISS', '0F2F Vx,Wd SSE', 'ordered.4'), // compares two singles; any NaN is invalid
  compareFlags('COMISD', '66.0F2F Vx,Wq SSE2', 'ordered.8'), // compares two doubles; any NaN is invalid
  compareFlags('UCOMISS', '0F2E Vx,Wd SSE', 'unordered.4'), // compares two singles
  compareFlags('UCOMISD', '66.0F2E Vx,Wq SSE2', 'unordered.8'), // compares two doubles
];

export const SSE_COMPARISONS = [...CMP, ...COMIS];
