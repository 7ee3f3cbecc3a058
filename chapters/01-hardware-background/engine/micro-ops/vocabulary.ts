// # Vocabulary of the micro-operations
//
// Widths, flags and conditions: the words that most of them are made of.

import { OFFSET, SLOT } from '../../state.ts';
import { AF_BIT, PF_DELTA, SF_DELTA } from '../flags.ts';
import { type Code, get, i32, i64, type Local, select, set } from '../wasm-assembler.ts';
import { define, type Emitter, type FlagRule } from './emitter.ts';

export type Size = 1 | 2 | 4 | 8;
export const SIZES: readonly Size[] = [1, 2, 4, 8];
export const WIDE: readonly (2 | 4 | 8)[] = [2, 4, 8];

export const MIN = i64.const(-(1n << 63n));
export const c64 = (value: number): Code => i64.const(BigInt(value));
export const not = (x: Code): Code => i64.xor(x, i64.const(-1n));

/** Cuts a 64-bit value to `bytes` and sign-extends it again. */
export function signExtend(bytes: number, x: Code): Code {
  if (bytes === 1) return i64.extend8_s(x);
  if (bytes === 2) return i64.extend16_s(x);
  return bytes === 4 ? i64.extend32_s(x) : x;
}
/** Cuts a 64-bit value to `bytes`, zero-extended. */
export function cut(bytes: number, x: Code): Code {
  if (bytes === 8) return x;
  return bytes === 4 ? i64.extend_i32_u(i32.wrap_i64(x)) : i64.and(x, c64(2 ** (8 * bytes) - 1));
}

/** Stores the three words of lazy flags (see flags.ts). Of `carry` only bit 63 and the AF bit are looked at. */
export const setFlags = (e: Emitter, result: Code, carry: Code, overflow: Code): Code =>
  setFlagWords(e, result, i64.and(carry, i64.const(-(1n << 63n) | (1n << BigInt(AF_BIT)))), overflow);
/** The same, for a carry word that has no other bits set than it should. */
export const setFlagWords = (e: Emitter, result: Code, carry: Code, overflow: Code): Code =>
  e.foresight?.flagWords(result, carry, overflow) ?? [
    e.setSlot(SLOT.CC_RESULT, 8, result),
    e.setSlot(SLOT.CC_A, 8, carry),
    e.setSlot(SLOT.CC_B, 8, overflow),
  ];
/** The same sign and parity, but ZF clear. */
export const nonZero = (x: Code): Code => i64.or(x, c64(0x100));
export const carryWord = (e: Emitter): Code => e.slotUnsigned(SLOT.CC_A, 8);
export const carryIn = (e: Emitter): Code => {
  const known = e.foresight?.condition('b');
  return known ? i64.extend_i32_u(known) : i64.shr_u(carryWord(e), c64(63));
};
/** Replaces CF alone by bit 63 of `top`. */
export const setCarry = (e: Emitter, top: Code): Code =>
  e.setSlot(SLOT.CC_A, 8, i64.or(i64.and(carryWord(e), i64.const((1n << 63n) - 1n)), i64.and(top, MIN)));
export const setOverflow = (e: Emitter, top: Code): Code => e.setSlot(SLOT.CC_B, 8, top);

/** The vector of carries out of each bit of an addition. */
export const carries = (a: Code, b: Code, r: Code): Code => i64.or(i64.and(a, b), i64.and(i64.or(a, b), not(r)));
/** The vector of borrows out of each bit of a subtraction. */
const borrows = (a: Code, b: Code, r: Code): Code => i64.or(i64.and(not(a), b), i64.and(i64.or(not(a), b), r));
export const addOverflow = (a: Code, b: Code, r: Code): Code => i64.and(i64.xor(a, r), i64.xor(b, r));
const subOverflow = (a: Code, b: Code, r: Code): Code => i64.and(i64.xor(a, b), i64.xor(a, r));

/** How the words of carry and overflow follow from operands and result. INC and DEC leave CF alone: it is carried over into the new word. */
interface Rule {
  readonly carry: (a: Code, b: Code, r: Code, bytes: number, before: Code) => Code;
  readonly overflow: (a: Code, b: Code, r: Code, bytes: number) => Code;
}
const kept = (before: Code, word: Code): Code => i64.or(i64.and(before, MIN), i64.and(word, c64(1 << AF_BIT)));
const CF_AF = i64.const(-(1n << 63n) | (1n << BigInt(AF_BIT)));
const sums: Rule = { carry: (a, b, r) => i64.and(carries(a, b, r), CF_AF), overflow: addOverflow };
const differences: Rule = { carry: (a, b, r) => i64.and(borrows(a, b, r), CF_AF), overflow: subOverflow };
const noOverflow = (): Code => c64(0);
/** For shifts b is the count: not zero, and less than the width. Of the last bit shifted out the carry is made. */
const lastOut = (shifted: Code): Code => i64.and(shifted, MIN);
// biome-ignore format: table
export const FLAG_RULES: Readonly<Record<FlagRule, Rule>> = {
  add: sums, adc: sums, sub: differences, sbb: differences,
  logic: { carry: noOverflow, overflow: noOverflow }, // AF is undefined; processors clear it
  inc: { carry: (a, b, r, _bytes, before) => kept(before, carries(a, b, r)), overflow: addOverflow },
  dec: { carry: (a, b, r, _bytes, before) => kept(before, borrows(a, b, r)), overflow: subOverflow },
  shl: { carry: (a, n, _r, bytes) => lastOut(i64.shl(a, i64.add(n, c64(63 - 8 * bytes)))),
    overflow: (a, n, r, bytes) => i64.xor(i64.shl(a, i64.add(n, c64(63 - 8 * bytes))), r) },
  shr: { carry: (a, n) => lastOut(i64.shl(a, i64.sub(c64(64), n))), overflow: (a, n) => select(a, c64(0), i64.eq(n, c64(1))) },
  sar: { carry: (a, n) => lastOut(i64.shl(a, i64.sub(c64(64), n))), overflow: noOverflow },
};
/** Sets the flags that the operation demands. The operands may be read again: they are constants or local variables. */
export function arithmeticFlags(e: Emitter, rule: FlagRule, bytes: number, a: Code, b: Code, r: Code): Code {
  if (e.foresight) return e.foresight.arithmetic(rule, bytes, a, b, r);
  const { carry, overflow } = FLAG_RULES[rule];
  const before = rule === 'inc' || rule === 'dec' ? carryWord(e) : c64(0);
  return setFlagWords(e, r, carry(a, b, r, bytes, before), overflow(a, b, r, bytes));
}

/** Conditions by their number in opcodes 70–7F: an i32, 0 or 1. */
const negative = (x: Code): Code => i64.lt_s(x, i64.const(0n));
const result = (e: Emitter): Code => e.slotUnsigned(SLOT.CC_RESULT, 8);
const overflowWord = (e: Emitter): Code => e.slotUnsigned(SLOT.CC_B, 8);
export const signWord = (e: Emitter): Code => i64.xor(result(e), i64.shl(carryWord(e), c64(63 - SF_DELTA)));
export const evenParity = (e: Emitter): Code => {
  const low = i32.xor(i32.wrap_i64(result(e)), i32.and(i32.shr_u(i32.wrap_i64(carryWord(e)), i32.const(PF_DELTA)), i32.const(1)));
  return i32.eqz(i32.and(i32.popcnt(i32.and(low, i32.const(0xff))), i32.const(1)));
};
export const zero = (e: Emitter): Code => i64.eqz(result(e));
const less = (e: Emitter): Code => negative(i64.xor(signWord(e), overflowWord(e)));
const POSITIVE_CONDITIONS: readonly [string, string, (e: Emitter) => Code][] = [
  ['o', 'no', (e) => negative(overflowWord(e))],
  ['b', 'nb', (e) => negative(carryWord(e))],
  ['z', 'nz', zero],
  ['be', 'nbe', (e) => i32.or(negative(carryWord(e)), zero(e))],
  ['s', 'ns', (e) => negative(signWord(e))],
  ['p', 'np', evenParity],
  ['l', 'nl', less],
  ['le', 'nle', (e) => i32.or(less(e), zero(e))],
];
const CONDITION: ReadonlyMap<string, (e: Emitter) => Code> = new Map(
  POSITIVE_CONDITIONS.flatMap(([yes, no, code]) => [[yes, code] as const, [no, (e: Emitter): Code => i32.eqz(code(e))] as const]),
);
/** Condition names in the order of the opcodes. */
export const CONDITIONS: readonly string[] = [...CONDITION.keys()];
export const condition = (name: string, e: Emitter): Code => e.foresight?.condition(name) ?? (CONDITION.get(name) as (e: Emitter) => Code)(e);

/** Defines `name.size` with a second source in operand b, and `name.size.i` with an immediate. */
export function twoForms(name: string, sizes: readonly Size[], meaning: (e: Emitter, bytes: Size, b: Code) => Code): void {
  for (const bytes of sizes) {
    define(`${name}.${bytes}`, (e) => meaning(e, bytes, e.get('b', bytes)));
    define(`${name}.${bytes}.i`, (e) => meaning(e, bytes, e.imm));
  }
}
/** Keeps values in locals so that they can be used several times. */
export function keep(e: Emitter, ...values: Code[]): [Code, ...Code[]] {
  const locals = values.map(() => e.local('i64'));
  return [values.map((value, i) => set(locals[i] as Local, value)), ...locals.map(get)];
}

export const limitOfCode = (e: Emitter): Code => i64.extend_i32_u(e.field32(OFFSET.SEGMENTS + 1 * 32 + 8));
