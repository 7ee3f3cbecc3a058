// # Flags that nobody has asked for
//
// An interpreter's instruction leaves three words from which flags can be had (see `../flags.ts`). A translator can do better: it knows, at most places, *which*
// instruction set the flags last, and its operands and result are still in variables. So it stores nothing but those, and a conditional jump after a
// comparison becomes a comparison of the two operands. The words are computed where somebody else will look: when the region is left.
//
// Where ways join that set flags by different instructions, it is not known which it was. Then a variable says so, the *kind*: the number of a rule, and
// whether the operands were of 32 bits (they are kept in variables of their own, so that nothing has to be extended).

import { SLOT } from '../../state.ts';
import type { FlagRule } from '../micro-ops/emitter.ts';
import { defineFunction } from '../micro-ops/library.ts';
import { c64, FLAG_RULES, MIN } from '../micro-ops/vocabulary.ts';
import { type Code, get, i32, i64, type Local, set, when } from '../wasm-assembler.ts';

/** Kind of flags whose three words are in variables. */
export const WORDS = 0;
const RULES = Object.keys(FLAG_RULES) as FlagRule[];
const NARROW = 32;
/** A rotation after it adds one of these: CF and OF are those of the rotation, the other flags of the kind without it. */
const ROTATED = 64;
export const ROTATION = { LEFT: ROTATED, RIGHT8: 2 * ROTATED, RIGHT4: 3 * ROTATED } as const;
export const rotationOf = (kind: number): number => kind & (3 * ROTATED);
export const unrotated = (kind: number): number => kind % ROTATED;
/** CF and OF after a rotation, each in bit 63, from its sign-extended result. */
export const rotatedCarry = (rotation: number, r: Code): Code => (rotation === ROTATION.LEFT ? i64.shl(r, c64(63)) : r);
export const rotatedOverflow = (rotation: number, r: Code): Code =>
  i64.xor(r, i64.shl(r, c64(rotation === ROTATION.LEFT ? 63 : rotation === ROTATION.RIGHT8 ? 1 : 33)));
export const withCarry = (word: Code, carry: Code): Code => i64.or(i64.and(word, i64.const((1n << 63n) - 1n)), i64.and(carry, MIN));
/** The kind of flags that follow from a rule. `bytes` 1 and 2 count as 8: their operands are sign-extended. */
export const kindOf = (rule: FlagRule, bytes: number): number => 1 + RULES.indexOf(rule) + (bytes === 4 ? NARROW : 0);
export const ruleOf = (kind: number): FlagRule => RULES[(kind % NARROW) - 1] as FlagRule;
export const isNarrow = (kind: number): boolean => (kind & NARROW) !== 0;
/** Shifts depend on the width; others do not. */
export const widthOf = (kind: number): number => (isNarrow(kind) ? 4 : 8);

/** Rules by whose flags a shift of 1 or 2 bytes cannot be described: the width matters. */
export const needsWidth = (rule: FlagRule): boolean => rule === 'shl' || rule === 'shr' || rule === 'sar';

const CC_RESULT = 8 * SLOT.CC_RESULT;
const CC_CARRY = 8 * SLOT.CC_A;
const CC_OVERFLOW = 8 * SLOT.CC_B;

// Stores the three words, whatever the kind: (kind; operands and result of 64 bits; carry and overflow word; operands and result of 32 bits; result of a
// rotation).
defineFunction('storeFlags', ['i32', 'i64', 'i64', 'i64', 'i64', 'i64', 'i32', 'i32', 'i32', 'i64'], [], (s, ...params) => {
  const [whole, a, b, r, carry, overflow, narrowA, narrowB, narrowR, turned] = params as [
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
  ];
  const kind = s.local('i32');
  const words = (rule: FlagRule, bytes: number): Code => [
    s.setField(CC_CARRY, FLAG_RULES[rule].carry(get(a), get(b), get(r), bytes, get(carry))),
    s.setField(CC_OVERFLOW, FLAG_RULES[rule].overflow(get(a), get(b), get(r), bytes)),
  ];
  return [
    set(kind, i32.and(get(whole), i32.const(ROTATED - 1))),
    when(i32.and(get(kind), i32.const(NARROW)), [
      set(a, i64.extend_i32_s(get(narrowA))),
      set(b, i64.extend_i32_s(get(narrowB))),
      set(r, i64.extend_i32_s(get(narrowR))),
    ]),
    s.setField(CC_RESULT, get(r)),
    when(i32.eqz(get(kind)), [s.setField(CC_CARRY, get(carry)), s.setField(CC_OVERFLOW, get(overflow))]),
    RULES.map((rule) =>
      needsWidth(rule)
        ? ([4, 8] as const).map((bytes) => when(i32.eq(get(kind), i32.const(kindOf(rule, bytes))), words(rule, bytes)))
        : when(i32.eq(i32.and(get(kind), i32.const(NARROW - 1)), i32.const(kindOf(rule, 8))), words(rule, 8)),
    ),
    Object.values(ROTATION).map((rotation) =>
      when(i32.eq(i32.and(get(whole), i32.const(3 * ROTATED)), i32.const(rotation)), [
        s.setField(CC_CARRY, withCarry(s.field(CC_CARRY), rotatedCarry(rotation, get(turned)))),
        s.setField(CC_OVERFLOW, rotatedOverflow(rotation, get(turned))),
      ]),
    ),
  ];
});

/** Conditions in terms of operands and result; those that are missing need the words. */
export function conditionBy(rule: FlagRule, name: string, a: Code, b: Code, r: Code): Code | null {
  const zero = c64(0);
  const byResult: Record<string, () => Code> = {
    z: () => i64.eqz(r),
    nz: () => i32.eqz(i64.eqz(r)),
    s: () => i64.lt_s(r, zero),
    ns: () => i64.ge_s(r, zero),
  };
  const own: Record<string, () => Code> =
    rule === 'sub'
      ? {
          b: () => i64.lt_u(a, b),
          nb: () => i64.ge_u(a, b),
          z: () => i64.eq(a, b),
          nz: () => i64.ne(a, b),
          be: () => i64.le_u(a, b),
          nbe: () => i64.gt_u(a, b),
          l: () => i64.lt_s(a, b),
          nl: () => i64.ge_s(a, b),
          le: () => i64.le_s(a, b),
          nle: () => i64.gt_s(a, b),
        }
      : rule === 'logic'
        ? {
            b: () => i32.const(0),
            nb: () => i32.const(1),
            o: () => i32.const(0),
            no: () => i32.const(1),
            be: () => i64.eqz(r),
            nbe: () => i32.eqz(i64.eqz(r)),
            l: () => i64.lt_s(r, zero),
            nl: () => i64.ge_s(r, zero),
            le: () => i64.le_s(r, zero),
            nle: () => i64.gt_s(r, zero),
          }
        : rule === 'add'
          ? { b: () => i64.lt_u(r, a), nb: () => i64.ge_u(r, a) }
          : {};
  return (own[name] ?? byResult[name])?.() ?? null;
}

export { CC_CARRY, CC_OVERFLOW, CC_RESULT };
