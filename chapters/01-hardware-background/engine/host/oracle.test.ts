// Random instructions, here and on the processor that runs this test. RINGBOOK_ORACLE_CASES=100000 makes it thorough, RINGBOOK_ORACLE_SEED varies it.
import { describe, expect, it } from 'vitest';
import { compareWithProcessor, oracleMissing } from './oracle.ts';

const missing = oracleMissing();
if (missing) console.log(`oracle skipped: ${missing}`);

describe.skipIf(missing !== null)('the engine does what the real processor does', () => {
  const count = Number(process.env.RINGBOOK_ORACLE_CASES ?? 4000);
  const seed = Number(process.env.RINGBOOK_ORACLE_SEED ?? 1);
  for (const bits of [64, 32] as const) {
    it(`${count} invented ${bits}-bit instructions`, { timeout: 600_000 }, () => {
      expect(compareWithProcessor({ bits, count, seed })).toEqual([]);
    });
  }
});
