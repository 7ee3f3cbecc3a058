import { beforeAll, describe, expect, it } from 'vitest';
import { loadSuite, type Suite } from './suite.ts';
import type { AllowedSet, Case } from './types.ts';
import { clauseOf } from './values.ts';

const CHAPTER = '06-virtio-rings';

const setsOf = ({ allowed }: Case): [string, AllowedSet][] => Object.entries(allowed.observations ?? {});
/** The clauses that some observation is charged to, as the judge charges them. */
const charged = (one: Case): Set<string> => new Set(setsOf(one).map(([, set]) => clauseOf(set) ?? (one.clauses[0] as string)));

// What a verdict is worth depends on how its case was written. These are the rules for the cases about virtio that can be read off the file.

describe('the cases about virtio', () => {
  let suite: Suite;
  let cases: Case[];
  beforeAll(() => {
    suite = loadSuite();
    cases = suite.cases.filter(({ chapter }) => chapter === CHAPTER);
  });

  it('charge an observation to each clause that they name, and to no other', () => {
    const bad = cases.flatMap((one) => {
      const seen = charged(one);
      const idle = one.clauses.filter((id) => !seen.has(id)).map((id) => `${one.id}: nothing shows ${id}`);
      return [...idle, ...[...seen].filter((id) => !one.clauses.includes(id)).map((id) => `${one.id}: ${id} is charged and not named`)];
    });
    expect(bad).toEqual([]);
  });

  it('are as strict as the clauses that they name', () => {
    const bad = cases.flatMap(({ id, strictness, clauses }) =>
      clauses.filter((clause) => suite.clauses.get(clause)?.strength !== strictness).map((clause) => `${id} is '${strictness}', ${clause} is not`),
    );
    expect(bad).toEqual([]);
  });

  it('observe nothing that cannot be wrong', () => {
    const bad = cases.flatMap((one) =>
      setsOf(one)
        .filter(
          ([, set]) => typeof set === 'object' && (set.any === true || (set.max === undefined && set.min !== undefined && BigInt(set.min) === 0n)),
        )
        .map(([key]) => `${one.id}: ${key}`),
    );
    expect(bad).toEqual([]);
  });

  it('that are robustness have a driver that breaks a rule', () => {
    const bad = cases.filter(({ strictness, legalDriver }) => strictness === 'robustness' && legalDriver).map(({ id }) => id);
    expect(bad).toEqual([]);
  });
});
