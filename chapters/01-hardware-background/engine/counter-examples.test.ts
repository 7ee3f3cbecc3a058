// Each file in counter-examples/ holds cases on which this processor once differed from a real one, as small as they could be made, with what the real one
// did (an Intel Xeon of the Cascade Lake generation, under Linux). `npm run fuzz -- --save` adds to them. No compiler and no such processor is needed here.
import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { describeProgram, differences } from './host/fuzz/compare.ts';
import { OUTCOME, type Program, Records } from './host/fuzz/records.ts';
import { restore, type Saved } from './host/fuzz/saved.ts';
import { Subject } from './host/fuzz/subject.ts';

const folder = new URL('counter-examples/', import.meta.url);
const subject = new Subject();
const mine = new Records(OUTCOME.BYTES, new Uint8Array(OUTCOME.BYTES));

describe('what a real processor did', () => {
  for (const file of readdirSync(folder).filter((name) => name.endsWith('.json'))) {
    it(file, () => {
      for (const saved of JSON.parse(readFileSync(new URL(file, folder), 'utf8')) as Saved[]) {
        const { batch, real } = restore(saved);
        subject.enter(batch);
        subject.run(batch, 0, mine);
        const found = differences(batch, 0, real, { records: mine, index: 0, changed: (at) => subject.changed(at) });
        expect({ program: describeProgram(batch.programs[0] as Program), found }).toEqual({ program: expect.any(String), found: [] });
      }
    });
  }
});
