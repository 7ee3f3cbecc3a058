// # Three ways to run, one result
//
// Whether guest code is interpreted or translated, and by whom, may change nothing: not an observation, not an event of the trace, not the number of instructions. So
// every guest of the suite runs with the translator off, with one that is impatient, and with one in another thread, and the hashes of the traces are compared. The quick
// tests do the first two, with the short guests about the processor and its memory; what differs between guests about devices is not what is translated.

import { expect, it } from 'vitest';
import { conform } from './conform.ts';
import { ALL, isShort } from './quick.ts';
import { loadSuite } from './suite.ts';
import type { Results } from './types.ts';

const suite = loadSuite();
const guests = suite.cases
  .filter(({ surface }) => surface === 'guest')
  .filter((one) => ALL || (/^0[14]-/.test(one.id) && isShort(one)))
  .map((one) => ({ ...one, limits: { ...one.limits, timeoutMs: one.limits.timeoutMs * 10 } }));

const run = (target: string): Promise<Results> =>
  conform({ ...suite, cases: guests }, { target, filters: [], shard: null, repeat: 1, jobs: 1, share: true, seed: 0, expect: null, quiet: true });

it('gives each guest the same trace, interpreted and translated', async () => {
  const interpreted = await run('ringbook-interpreted');
  for (const target of ALL ? ['ringbook-translated', 'ringbook-threaded'] : ['ringbook-translated']) {
    const translated = await run(target);
    const differing = interpreted.cases.flatMap((one) => {
      const other = translated.cases.find(({ id }) => id === one.id);
      const same = other?.verdict === one.verdict && other.traceHash === one.traceHash;
      return same ? [] : [`${one.id}: ${one.verdict} ${one.traceHash}, ${target} ${other?.verdict} ${other?.traceHash} ${other?.reason ?? ''}`];
    });
    expect(differing).toEqual([]);
  }
  expect(interpreted.cases.filter(({ traceHash }) => traceHash !== undefined).length).toBeGreaterThanOrEqual(ALL ? 150 : 80);
}, 900_000);
