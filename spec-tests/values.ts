// # Sets of allowed values
//
// A specification seldom demands one value. It fixes some bits and leaves others, allows two orders, or bounds a count. If a case could
// only say "equals", its author would have to write down what one machine happened to do, and the suite would enforce accidents. So a case
// states a *set*, and a machine passes when its observation is a member.

import type { AllowedSet } from './types.ts';

/** Turns a constant's name (`KVM_EXIT_IO`) into its number, or null when it is no number's name (`EINVAL`, `fd`). */
export type Resolve = (name: string) => bigint | null;

const noNames: Resolve = () => null;

const NUMBER = /^(0x[0-9a-f]+|-?[0-9]+)$/;

/** The number that a value denotes, as an unsigned 64-bit one, or null for a symbol. */
export function numberOf(value: string, resolve: Resolve = noNames): bigint | null {
  return NUMBER.test(value) ? BigInt.asUintN(64, BigInt(value)) : resolve(value);
}

/** The one spelling of a 64-bit number that observations and reports use. */
export const hex = (value: bigint | number): string => `0x${BigInt.asUintN(64, BigInt(value)).toString(16)}`;

const same = (allowed: string, observed: string, resolve: Resolve): boolean => {
  const a = numberOf(allowed, resolve);
  const b = numberOf(observed);
  return a !== null && b !== null ? a === b : allowed === observed;
};

/** Whether one observation is a member of the set. A `sequence` is not a set of single values: see {@link admitsAll}. */
export function admits(set: AllowedSet, observed: string, resolve: Resolve = noNames): boolean {
  if (typeof set === 'string') return same(set, observed, resolve);
  if (set.any) return true;
  if (set.oneOf) return set.oneOf.some((value) => same(value, observed, resolve));
  const number = numberOf(observed);
  if (set.value !== undefined) {
    if (set.mask === undefined) return same(set.value, observed, resolve);
    const value = numberOf(set.value, resolve);
    const mask = numberOf(set.mask, resolve);
    return number !== null && value !== null && mask !== null && (number & mask) === (value & mask);
  }
  if (set.min !== undefined || set.max !== undefined) {
    if (number === null) return false;
    const min = set.min === undefined ? 0n : numberOf(set.min, resolve);
    const max = set.max === undefined ? 2n ** 64n - 1n : numberOf(set.max, resolve);
    return min !== null && max !== null && number >= min && number <= max;
  }
  return false;
}

/** What a key was seen to be, compared with its set. `index` is the first observation that is not allowed; null when all are. */
export function admitsAll(set: AllowedSet, observed: readonly string[], resolve: Resolve = noNames): { ok: boolean; index: number | null } {
  if (typeof set === 'object' && set.sequence) {
    const { sequence } = set;
    const index = observed.findIndex((value, i) => i >= sequence.length || !admits(sequence[i] as AllowedSet, value, resolve));
    return { ok: index < 0 && observed.length === sequence.length, index: index < 0 ? null : index };
  }
  const index = observed.findIndex((value) => !admits(set, value, resolve));
  return { ok: index < 0 && observed.length === 1, index: index < 0 ? null : index };
}

const spell = (value: string, resolve: Resolve): string => {
  const number = resolve(value);
  return number !== null && !NUMBER.test(value) ? `${value} (${hex(number)})` : value;
};

/** The set in words, for a report. */
export function describeSet(set: AllowedSet, resolve: Resolve = noNames): string {
  if (typeof set === 'string') return spell(set, resolve);
  if (set.any) return 'any value';
  if (set.sequence) return `in this order: ${set.sequence.map((member) => describeSet(member, resolve)).join(', ')}`;
  if (set.oneOf) return `one of ${set.oneOf.map((value) => spell(value, resolve)).join(', ')}`;
  if (set.value !== undefined) return set.mask === undefined ? spell(set.value, resolve) : `${spell(set.value, resolve)} in the bits ${set.mask}`;
  if (set.min !== undefined) return set.max === undefined ? `at least ${set.min}` : `from ${set.min} to ${set.max}`;
  return `at most ${set.max ?? '?'}`;
}

export const isOptional = (set: AllowedSet): boolean => typeof set === 'object' && set.optional === true;
export const clauseOf = (set: AllowedSet): string | null => (typeof set === 'object' && set.clause) || null;
