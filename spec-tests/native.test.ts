// # Cases against the real processor
//
// What the instruction set does is decided by the specification and by processors, not by this book. The payloads that only compute are built as programs of
// this host, and what they print is held against the cases: a case that a real processor would fail is wrong.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { findPayload } from '../guest-payloads/index.ts';
import { runNative } from '../guest-payloads/native.ts';
import { readConsole } from './console.ts';
import { judgeObservations } from './judge.ts';
import type { Case } from './types.ts';

const CASES = join(import.meta.dirname, 'cases', '01-hardware-background');
const COMPUTING = /^(x87|sse|simd)-|^(integer-edges|bmi|prefixes|code-changes)-|^(cmpxchg16b|fault-order)$/;
/** Ring 0 and page tables: not for a program. */
const PRIVILEGED = /^(fwait|fnop|ud\.osxmmexcpt|alias\.(store|loop)|remap|nm|level)\b/;
/** Flags of /proc/cpuinfo that a need stands for. */
const FLAGS: Readonly<Record<string, readonly string[]>> = {
  sse4: ['pni', 'ssse3', 'sse4_1', 'sse4_2', 'popcnt'],
  bmi: ['movbe', 'bmi1', 'bmi2', 'abm'],
  cx16: ['cx16'],
};

const cpuinfo = ((): string => {
  try {
    return readFileSync('/proc/cpuinfo', 'utf8');
  } catch {
    return '';
  }
})();
const flags = new Set(/^flags\s*: (.*)$/m.exec(cpuinfo)?.[1]?.split(' '));

const byPayload = Map.groupBy(
  readdirSync(CASES)
    .map((file) => JSON.parse(readFileSync(join(CASES, file), 'utf8')) as Case)
    .filter(({ guest }) => guest && COMPUTING.test(guest.payload)),
  ({ guest }) => guest?.payload as string,
);

describe('the real processor passes', () => {
  it.for([...byPayload])('%s', ([name, cases], { skip }) => {
    const lacking = cases.flatMap(({ needs }) => needs.flatMap((need) => FLAGS[need] ?? [])).find((flag) => !flags.has(flag));
    if (lacking) return skip(`the processor of this host has no ${lacking}`);
    const run = runNative(findPayload(name) as NonNullable<ReturnType<typeof findPayload>>);
    if ('reason' in run) return skip(run.reason);
    const report = readConsole(run.console);
    expect(report.corrupt ?? report.aborted).toBeNull();
    expect(report.done).toBe(true);
    for (const one of cases) {
      const observations = Object.fromEntries(Object.entries(one.allowed.observations).filter(([key]) => !PRIVILEGED.test(key)));
      const failures = judgeObservations({ ...one, allowed: { ...one.allowed, observations, others: 'ignore' } }, report.observations);
      expect(
        failures.map(({ text }) => text),
        one.id,
      ).toEqual([]);
      expect(Object.keys(observations).length).toBeGreaterThan(0);
    }
  });
});
