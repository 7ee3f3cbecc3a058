// Random programs, here and on the processor that runs this test. RINGBOOK_FUZZ_CASES=1000000 makes it thorough, RINGBOOK_FUZZ_SEED varies it; `npm run fuzz`
// is the same with more to say.
import { describe, expect, it } from 'vitest';
import { describeProgram, describeState } from './fuzz/compare.ts';
import { oracleMissing } from './fuzz/native.ts';
import type { Program } from './fuzz/records.ts';
import { fuzz } from './fuzz/run.ts';
import type { Found } from './fuzz/shrink.ts';
import { fuzzSystem, systemOracleMissing } from './fuzz/system.ts';

const missing = oracleMissing();
if (missing) console.log(`fuzz skipped: ${missing}`);

describe.skipIf(missing !== null)('the processor does what the real one does', () => {
  const cases = Number(process.env.RINGBOOK_FUZZ_CASES ?? 4096);
  const seed = Number(process.env.RINGBOOK_FUZZ_SEED ?? 1);
  const text = ({ batch, found }: Found): string =>
    `${describeProgram(batch.programs[0] as Program)}: ${found.join('; ')}; from ${describeState(batch, 0)}`;

  it(`${cases} cases of programs in 16-, 32- and 64-bit code`, { timeout: 3_600_000 }, async () => {
    const found: string[] = [];
    const report = await fuzz({
      seed,
      bits: [64, 64, 32, 16],
      cases,
      timeMs: Number.POSITIVE_INFINITY,
      mismatches: 5,
      onMismatch: (mismatch) => found.push(text(mismatch)),
    });
    expect(found).toEqual([]);
    expect(report.cases).toBeGreaterThanOrEqual(cases);
  });

  it('and would be seen not to', async () => {
    // Undefined flags are where the two are known to differ.
    const report = await fuzz({ seed, bits: [64], cases: 4096, timeMs: 60_000, only: 'SHL', strict: true, mismatches: 1 });
    expect([...report.kinds.keys()]).toEqual(['SHL: flags']);
  });
});

const noSystem = systemOracleMissing();
if (noSystem) console.log(`fuzz of system instructions skipped: ${noSystem}`);

describe.skipIf(noSystem !== null)('the processor does what the one of QEMU does', () => {
  it('in cases of system instructions', { timeout: 300_000 }, async () => {
    const said: string[] = [];
    const { cases, ends } = await fuzzSystem({ seed: 13, cases: 192, translated: false, say: (text) => said.push(text) });
    expect(said).toEqual([]);
    expect(cases).toBe(192);
    expect((ends.get('real-mode handler') ?? 0) + (ends.get('handler') ?? 0)).toBeGreaterThan(150);
  });
});
