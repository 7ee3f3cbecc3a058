// Random instructions, here and on the processor that runs this test. RINGBOOK_ORACLE_CASES=100000 makes it thorough, RINGBOOK_ORACLE_SEED varies it.
import { describe, expect, it } from 'vitest';
import { type Bits, describeCase, differences, invent, oracleMissing, Random, Subject, withOracle } from './oracle.ts';

const missing = oracleMissing();
if (missing) console.log(`oracle skipped: ${missing}`);

/** Differences of `count` cases, at most ten, each in words. */
function compare(bits: Bits, count: number, seed: number): string[] {
  return withOracle((run) => {
    const random = new Random(seed);
    const cases = Array.from({ length: count }, () => invent(random, bits));
    const real = run(cases);
    const subject = new Subject(bits);
    const found: string[] = [];
    for (const [index, test] of cases.entries()) {
      const difference = differences(test, real[index] as (typeof real)[0], subject.try(test));
      if (difference.length > 0) found.push(`${describeCase(test)}: ${difference.join('; ')}`);
      if (found.length === 10 || difference.includes('memory')) break; // once memory differs, everything after it does
    }
    return found;
  });
}

describe.skipIf(missing !== null)('the engine does what the real processor does', () => {
  const count = Number(process.env.RINGBOOK_ORACLE_CASES ?? 4000);
  const seed = Number(process.env.RINGBOOK_ORACLE_SEED ?? 1);
  for (const bits of [64, 32] as const) {
    it(`${count} invented ${bits}-bit instructions`, { timeout: 600_000 }, () => {
      expect(compare(bits, count, seed)).toEqual([]);
    });
  }
});
