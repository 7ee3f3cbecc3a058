import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { ExecAdapter } from '../adapters/exec.ts';
import type { LoadedCase, Suite } from '../suite.ts';
import { type Fate, falseWitnesses, type Make, tryMutant } from './fate.ts';

// The machines are the outsider of the runner's tests, which behaves as its argument says.

const FIXTURE = fileURLToPath(new URL('../fixtures/adapter.mjs', import.meta.url));
const CLAUSE = 'x86.test.answer';

const makeCase = (name: string, changes: Partial<LoadedCase> = {}): LoadedCase => ({
  ...{ id: `01-test/${name}`, title: `The ${name} case`, chapter: '01-test', clauses: [CLAUSE] },
  ...{ strictness: 'must', legalDriver: true, surface: 'guest', needs: [], requires: [], guest: { payload: name } },
  images: [{ door: 'multiboot', path: '/nowhere', sha256: '0'.repeat(64) }],
  limits: { timeoutMs: 60_000 }, // generous: only the cases that are meant to hang wait for it
  allowed: { end: ['debug-exit'], observations: { answer: '0x2a' } },
  ...changes,
});

const machine =
  (manner: string, startTimeoutMs?: number): Make =>
  () =>
    new ExecAdapter({ command: [process.execPath, FIXTURE, manner], ...(startTimeoutMs !== undefined && { startTimeoutMs }) });

function suiteOf(cases: readonly LoadedCase[]): Suite {
  const clause = { strength: 'must', binds: 'cpu', source: 'The Guide', summary: 'The answer is forty-two.', observable: ['guest'] } as const;
  return { cases, clauses: new Map([[CLAUSE, { id: CLAUSE, ...clause }]]), capabilities: new Map(), revision: '0'.repeat(64) };
}

function fate(broken: Make, { cases = [makeCase('first')], whole = machine('good') }: { cases?: LoadedCase[]; whole?: Make } = {}): Promise<Fate> {
  return tryMutant({ suite: suiteOf(cases), cases, target: 'exec:fixture', broken, whole, graceMs: 500 });
}

describe('the fate of a mutant', () => {
  it('is to be killed by a case that fails', async () => {
    expect(await fate(machine('wrong-value'))).toMatchObject({ verdict: 'killed', by: { id: '01-test/first', verdict: 'fail' } });
  });

  it('is to survive where every case passes', async () => {
    expect(await fate(machine('good'), { cases: [makeCase('first'), makeCase('second')] })).toEqual({ verdict: 'survived', passed: 2 });
  });

  it('is open when the machine does not start in time: no case was asked', async () => {
    expect(await fate(machine('silent-start', 500))).toEqual({
      verdict: 'undecided',
      why: "the machine does not start: the adapter did not answer 'start' in 500 ms",
    });
  });

  it('is open when no case can be asked of the machine, or there is none', async () => {
    const cases = [makeCase('first', { requires: ['scratch-pio'] }), makeCase('second', { surface: 'kvm' })];
    expect(await fate(machine('good'), { cases })).toEqual({
      verdict: 'undecided',
      why: 'none of its cases can be asked of this machine: scratch-pio: it has no scratch device',
    });
    expect(await fate(machine('good'), { cases: [] })).toMatchObject({ verdict: 'undecided', why: 'no case shows its clause' });
  });

  it('is decided by one case, and no other is begun', async () => {
    const cases = [makeCase('first'), makeCase('second'), makeCase('third')];
    const asked: string[] = [];
    const broken: Make = async () => {
      const adapter = (await machine('dies-once-in-a-while')()) as ExecAdapter;
      const run = adapter.run.bind(adapter);
      adapter.run = (request) => {
        asked.push(request.case);
        return run(request);
      };
      return adapter;
    };
    expect(await fate(broken, { cases })).toMatchObject({ verdict: 'killed', by: { id: '01-test/second', verdict: 'crash' } });
    expect(asked).toEqual(['01-test/first', '01-test/second']);
  });

  it('is to be killed by a time-out only if the machine as it is does not need as long', { timeout: 60_000 }, async () => {
    const cases = (timeoutMs: number): LoadedCase[] => [makeCase('first', { limits: { timeoutMs } })];
    expect(await fate(machine('hangs'), { cases: cases(2_000) })).toMatchObject({ verdict: 'killed', by: { verdict: 'timeout' } });
    expect(await fate(machine('hangs'), { cases: cases(100), whole: machine('hangs') })).toMatchObject({
      verdict: 'undecided',
      why: expect.stringContaining('01-test/first ends with timeout, and on the machine as it is with timeout'),
    });
  });

  it('waits longer before it says that nothing can be said', async () => {
    const limits: number[] = [];
    // Both machines take longer than they may, the first time.
    const slow =
      (manner: string): Make =>
      async () => {
        const adapter = (await machine(manner)()) as ExecAdapter;
        const run = adapter.run.bind(adapter);
        adapter.run = async (request) => {
          limits.push(request.limits.timeoutMs);
          if (limits.length <= 2) await new Promise((resolve) => setTimeout(resolve, 2_000));
          return run(request);
        };
        return adapter;
      };
    const cases = [makeCase('first', { limits: { timeoutMs: 1_000 } })];
    expect(await fate(slow('good'), { cases, whole: slow('good') })).toEqual({ verdict: 'survived', passed: 1 });
    expect(limits).toEqual([1_000, 1_000, 8_000]);
  });

  it('is open when its witness fails without it', async () => {
    const cases = [makeCase('first'), makeCase('second')];
    const asked = (whole: Make): Promise<ReadonlyMap<string, string>> =>
      falseWitnesses({ suite: suiteOf(cases), cases, target: 'exec:fixture', whole, graceMs: 500 });
    expect([...(await asked(machine('good')))]).toEqual([]);
    expect([...(await asked(machine('dies-once-in-a-while')))]).toEqual([['01-test/second', 'crash']]);
    expect([...(await asked(machine('silent-start', 500)))]).toEqual([
      ['01-test/first', 'error'],
      ['01-test/second', 'error'],
    ]);
  });
});
