// # One description for two register files
//
// Nearly every integer vector instruction exists twice: on the eight 64-bit MMX registers of 1997, and, with a 66 prefix, on the 128-bit XMM registers of
// 2001. What it does to a lane is the same. So it is described once, as a function of two vectors:
//
// ```
// lanes('PADDB', '0FFC Pq,Qq MMX; 66.0FFC Vx,Wx SSE2', i8x16.add)
// ```
//
// That is all of PADDB: its encodings, what decides whether a processor has them, and its meaning, which becomes one micro-operation for each
// register file. An MMX operand is given to the meaning as a vector with the same 64 bits in both halves, and the lower half of the result is kept.

import { define, type Emitter } from '../engine/micro-ops.ts';
import { type Code, get, i32, i64, type Local, set } from '../engine/wasm-assembler.ts';
import { i8x16, i64x2, v128 } from '../engine/wasm-vectors.ts';
import { OFFSET } from '../state.ts';
import type { Builder } from './builder.ts';
import { type Definition, instruction } from './encoding.ts';
import { source } from './simd-common.ts';

/** The new destination in terms of the old one and the source. Both may be used any number of times. */
type Meaning = (x: Code, y: Code, e: Emitter) => Code;

/** Keeps a vector in a local, so that it can be used more than once. */
export function keepVector(e: Emitter, value: Code): [Code, Code] {
  const local: Local = e.local('v128');
  return [set(local, value), get(local)];
}

// ## Beginning and end
//
// An MMX form without a prefix that belongs to its opcode is undefined with any of the three, so nobody has to say so.
//
// When the floating-point unit becomes the MMX unit was found out by asking a processor. A register must take part: converting two integers in memory to floating-point
// numbers is no MMX instruction, although its operand could be one of the registers. And when a store faults, TOP has changed, but not yet the tags.

const TOP = 0x3800; // in the status word, which follows the control word
define('mmx.top', (e) => e.setField32(OFFSET.FPU, i32.and(e.field32(OFFSET.FPU), i32.const(~(TOP << 16)))));

/** An instruction on MMX registers, XMM registers, or both, with what has to be checked before and noted after (`simd-common.ts`). */
export function simd(name: string, encodings: string, build: (b: Builder) => void): Definition {
  const forms = encodings.split(';').map((form) => (/^\s*(66|F2|F3)\./.test(form) ? form : `${form} bare`));
  return instruction(name, forms.join(';'), (b) => {
    const isMemory = b.insn.mod < 3;
    const onXmm = b.operands.some(({ kind }) => 'VWU'.includes(kind));
    const onMmx = b.operands.some(({ kind }) => 'PN'.includes(kind) || (kind === 'Q' && !isMemory));
    const stores = isMemory && 'EMQ'.includes(b.operands[0]?.kind as string);
    if (onXmm) b.emit('sse.ready');
    if (onMmx) b.emit('mmx.ready');
    if (onMmx && stores) b.emit('mmx.top');
    build(b);
    if (onMmx) b.emit('mmx.used');
  });
}

// A write to an MMX register is a write to the significand of a floating-point register. Whoever looks at that as a number shall find none, so sign and
// exponent become all ones.

// @clause mmx.registers.aliased
const NOT_A_NUMBER = i64.const(0xffffn);

/** What an MMX operand is to a meaning. */
const bothHalves = (value: Code): Code => i64x2.splat(value);
/** Writes the lower half of a vector to an MMX register. */
export const setMmx = (e: Emitter, value: Code): Code => e.setVector('d', i64x2.replace(value, 1, NOT_A_NUMBER));

/** Defines `name.x`, on XMM registers. d is the first operand and the result, a the second. */
function defineXmm(name: string, meaning: Meaning): void {
  define(
    `${name}.x`,
    (e) => {
      const [keepX, x] = keepVector(e, e.getVector('d'));
      const [keepY, y] = keepVector(e, e.getVector('a'));
      return [keepX, keepY, e.setVector('d', meaning(x, y, e))];
    },
    { outlined: true },
  );
}
/** Defines `name.q`, the same on MMX registers. */
function defineMmx(name: string, meaning: Meaning): void {
  define(
    `${name}.q`,
    (e) => {
      const [keepX, x] = keepVector(e, bothHalves(e.get('d')));
      const [keepY, y] = keepVector(e, bothHalves(e.get('a')));
      return [keepX, keepY, setMmx(e, meaning(x, y, e))];
    },
    { outlined: true },
  );
}

/**
 * An instruction `destination, source` or `destination, source, immediate`, the same in all lanes.
 * @param mmx the meaning of the MMX form, where it is another one.
 */
export function lanes(name: string, encodings: string, meaning: Meaning, mmx = meaning): Definition {
  if (/ Vx/.test(encodings)) defineXmm(name, meaning);
  if (/ Pq/.test(encodings)) defineMmx(name, mmx);
  return simd(name, encodings, (b) => {
    const from = source(b, 1);
    b.emit(b.bytes(0) === 16 ? `${name}.x` : `${name}.q`, { d: b.registerOf(0), a: from, imm: b.insn.imm });
  });
}

// Some instructions look across: they take pairs of neighbours, or pack two registers into one. With 64-bit registers the two operands side by side are
// as long as *one* of the 128-bit form, which therefore gives the right lower half when it is handed that vector twice.

/** Lower halves side by side. */
export const join = (x: Code, y: Code): Code => i8x16.shuffle(x, y, [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23]);

/** An instruction whose result has what came from the destination in its lower half, and what came from the source in its upper half. */
export function across(name: string, encodings: string, meaning: Meaning): Definition {
  return lanes(name, encodings, meaning, (x, y, e) => {
    const [kept, both] = keepVector(e, join(x, y));
    return [kept, meaning(both, both, e)];
  });
}

// ## Constants and flags

/** A vector constant from its bytes, lowest first; fewer than sixteen repeat. */
export function vector(bytes: readonly number[]): Code {
  const half = (at: number): bigint =>
    Array.from({ length: 8 }, (_, i) => BigInt(bytes[(at + i) % bytes.length] as number) << BigInt(8 * i)).reduce((a, b) => a | b);
  return v128.const(half(0), half(8));
}
export const ZERO = v128.const(0n, 0n);
/** The numbers 0 to 15: each byte's own place. */
export const PLACES = Array.from({ length: 16 }, (_, i) => i);
export const OWN_PLACE = vector(PLACES);
