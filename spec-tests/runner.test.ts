import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { ExecAdapter } from './adapters/exec.ts';
import { applyKnown } from './expect.ts';
import { runCases } from './runner.ts';
import type { LoadedCase, Suite } from './suite.ts';
import type { CaseResult, KnownFailures } from './types.ts';

// The runner against an outsider that behaves in every way it should not (fixtures/adapter.mjs). No payload is involved: what an adapter claims is
// all that the runner ever sees.

const FIXTURE = fileURLToPath(new URL('fixtures/adapter.mjs', import.meta.url));

function makeCase(name: string, changes: Partial<LoadedCase> = {}): LoadedCase {
  return {
    id: `01-test/${name}`,
    title: `The ${name} case`,
    chapter: '01-test',
    clauses: ['x86.test.answer'],
    strictness: 'must',
    legalDriver: true,
    surface: 'guest',
    needs: [],
    requires: [],
    guest: { payload: 'none' },
    images: [
      { door: 'multiboot', path: '/nowhere', sha256: '0'.repeat(64) },
      { door: 'disk', path: '/nowhere.img', sha256: '1'.repeat(64) },
    ],
    limits: { timeoutMs: 60_000 }, // generous: only the cases that are meant to hang wait for it
    allowed: { end: ['debug-exit'], observations: { answer: '0x2a' } },
    ...changes,
  };
}

const suiteOf = (cases: readonly LoadedCase[]): Suite => ({
  cases,
  clauses: new Map([
    [
      'x86.test.answer',
      {
        id: 'x86.test.answer',
        strength: 'must',
        binds: 'cpu',
        source: 'The Guide, last section',
        summary: 'The answer is forty-two.',
        observable: ['guest'],
      },
    ],
  ]),
  capabilities: new Map(),
  revision: '0'.repeat(64),
});

interface Ran {
  results: readonly CaseResult[];
  logs: string[];
  unavailable: string | null;
  broken: string | null;
}

const HANGING = new Set(['hangs', 'busy', 'leaves-a-child']);

async function runWith(manner: string, cases: readonly LoadedCase[] = [makeCase('first')], repeat = 1, share = false): Promise<Ran> {
  const logs: string[] = [];
  const outcome = await runCases({
    suite: suiteOf(cases),
    cases: HANGING.has(manner) ? cases.map((c) => ({ ...c, limits: { timeoutMs: 300 } })) : cases,
    target: 'exec:fixture',
    makeAdapter: () =>
      new ExecAdapter({
        command: [process.execPath, FIXTURE, manner],
        onLog: (text) => logs.push(text),
        ...(manner === 'silent-start' && { startTimeoutMs: 500 }),
      }),
    graceMs: 500,
    repeat,
    share,
  });
  return { ...outcome, logs };
}

const only = async (manner: string, changes: Partial<LoadedCase> = {}, repeat = 1): Promise<CaseResult> =>
  (await runWith(manner, [makeCase('first', changes)], repeat)).results[0] as CaseResult;

const isRunning = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    // Dead, but nobody has collected it yet: where there is no init process, orphans stay in that state.
    return !(existsSync(`/proc/${pid}/stat`) && / Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8')));
  } catch {
    return false;
  }
};

describe('the runner', () => {
  it('passes what is right, and hands on what the adapter logs', async () => {
    const { results, logs } = await runWith('good');
    expect(results[0]).toMatchObject({ verdict: 'pass', failures: [], observed: [['answer', '0x2a']], end: 'debug-exit', stage: 'one' });
    expect(logs).toEqual(['running 01-test/first']);
  });

  it('judges all cases that mean the same run by one, if it is told to', async () => {
    const other = { allowed: { observations: { answer: '0x2b' } } };
    const longer = { limits: { timeoutMs: 50_000 } };
    const cases = [makeCase('first'), makeCase('longer', longer), makeCase('second', other)];
    const ran = await runWith('good', cases, 1, true);
    expect(ran.results.map(({ id, verdict }) => `${id} ${verdict}`)).toEqual(['01-test/first pass', '01-test/longer pass', '01-test/second fail']);
    expect(ran.logs).toEqual(['running 01-test/first', 'running 01-test/longer']);
    expect((await runWith('good', cases)).logs).toHaveLength(3);
    await expect(runWith('good', cases, 2, true)).rejects.toThrow(/is not repeated for each/);
  });

  it('runs again for a case whose run came to nothing', async () => {
    const { results } = await runWith('dies', [makeCase('first'), makeCase('second')], 1, true);
    expect(results.map(({ verdict, reason }) => `${verdict}: ${reason?.split(/[:;\n]/)[0]}`)).toEqual(
      Array(2).fill('crash: the adapter exited with status 7'),
    );
  });

  it('starts a payload through whichever door the target has, unless the case is about a door', async () => {
    expect((await runWith('boots-disks')).logs).toEqual(['disk /nowhere.img']);
    const images = makeCase('first').images?.slice(0, 1) ?? [];
    expect(await only('boots-disks', { images })).toMatchObject({
      verdict: 'unsupported',
      reason: 'outsider has none of the doors that the payload has',
    });
  });

  it('says the clause, the observed and the allowed value of a wrong one', async () => {
    const result = await only('wrong-value');
    expect(result.verdict).toBe('fail');
    expect(result.reason).toBe('wrong answer: observed 0x2b; allowed: 0x2a, by x86.test.answer (The answer is forty-two; The Guide, last section)');
    expect(result.replay).toBe("npm run conform -- --target exec:fixture --filter '=01-test/first'");
  });

  it.each([
    ['dies', 'crash', /exited with status 7; its last words: "about to fall over"/],
    ['hangs', 'timeout', /did not answer within 800 ms/],
    ['busy', 'timeout', /did not answer within 800 ms/],
    ['garbage', 'error', /"Segmentation fault \(core dumped\)", which is not a message of the protocol/],
    ['wrong-schema', 'error', /unknown property 'verdict'/],
    ['wrong-id', 'error', /answered request 10 when 1 was asked/],
    ['wrong-surface', 'error', /surface 'kvm' when 'guest' was asked/],
    ['endless-line', 'error', /a line of more than 4194304 bytes/],
    ['corrupt-console', 'corrupt', /line 1 is a malformed record/],
    ['cut-console', 'corrupt', /the last line is cut off/],
    ['slow-guest', 'timeout', /did not end within its limits after stage 'one'; 0 observations/],
    ['internal', 'error', /the adapter reports: my own fault/],
    ['triple-fault', 'fail', /the run ended by triple-fault after stage 'one'; allowed: debug-exit/],
  ])('an adapter that %s gets the verdict %s', async (manner, verdict, reason) => {
    const result = await only(manner);
    expect(result.verdict).toBe(verdict);
    expect(result.reason).toMatch(reason);
  });

  it('loses only the case in which the adapter died', async () => {
    const { results } = await runWith('dies-once-in-a-while', [makeCase('first'), makeCase('second'), makeCase('third')]);
    expect(results.map(({ verdict }) => verdict)).toEqual(['pass', 'crash', 'pass']);
  });

  it('notices an answer that nobody asked for', async () => {
    const { results } = await runWith('talks-back', [makeCase('first'), makeCase('second')]);
    expect(results[0]?.verdict).toBe('pass');
    expect(results[1]?.verdict).toBe('error');
    expect(results[1]?.reason).toMatch(/when nothing was asked|answered request/);
  });

  it('leaves nothing running, not even what the adapter started', async () => {
    const { results, logs } = await runWith('leaves-a-child');
    expect(results[0]?.verdict).toBe('timeout');
    const pid = Number(/child ([0-9]+)/.exec(logs[0] ?? '')?.[1]);
    expect(pid).toBeGreaterThan(1);
    for (let i = 0; i < 100 && isRunning(pid); i++) await new Promise((resolve) => setTimeout(resolve, 20));
    expect(isRunning(pid)).toBe(false);
  });

  it('ends an adapter that will not stop', async () => {
    const adapter = new ExecAdapter({ command: [process.execPath, FIXTURE, 'will-not-stop'] });
    await adapter.start();
    adapter.kill();
    await adapter.stop();
    await expect(adapter.run({ type: 'run', id: '1', case: 'x', surface: 'kvm', kvm: { ops: [] }, limits: { timeoutMs: 1 } })).rejects.toThrow(
      /ended by the runner/,
    );
  });

  it('reports what the target lacks, with the reason, and does not run it', async () => {
    const lacking = await only('dies', { requires: ['scratch-pio'] });
    expect(lacking).toMatchObject({ verdict: 'unsupported', reason: 'scratch-pio: it has no scratch device' });
    const silent = await only('dies', { requires: ['lapic'] });
    expect(silent.reason).toBe('lapic: outsider does not offer it');
    const elsewhere = await only('dies', { surface: 'kvm' });
    expect(elsewhere).toMatchObject({ verdict: 'not-observable', reason: "outsider has no 'kvm' surface" });
  });

  it.each([
    ['dies-at-start', /exited with status 3/],
    ['silent-start', /did not answer 'start' in 500 ms/],
    ['old-protocol', /not a message of the protocol/],
  ])('gives up a target that %s', async (manner, reason) => {
    const outcome = await runWith(manner);
    expect(outcome.results).toEqual([]);
    expect(outcome.broken).toMatch(reason);
  });

  it('tells a target that is not here from one that is broken', async () => {
    const outcome = await runWith('unavailable');
    expect(outcome).toMatchObject({ unavailable: 'the machine is at the menders', broken: null, results: [] });
  });

  it('reports a program that does not exist', async () => {
    const cases = [makeCase('first')];
    const outcome = await runCases({
      suite: suiteOf(cases),
      cases,
      target: 't',
      makeAdapter: () => new ExecAdapter({ command: ['/no/such/program'] }),
    });
    expect(outcome.broken).toMatch(/could not be started: .*ENOENT/);
  });

  it('finds repetitions that disagree, in values and in traces', async () => {
    const flaky = await only('flaky', {}, 5);
    expect(flaky.verdict).toBe('flaky');
    expect(flaky.reason).toMatch(/run 1 of 5 gave pass, run 3 fail; wrong answer/);
    const trace = await only('other-trace', {}, 2);
    expect(trace.reason).toMatch(/the observations or traces differ/);
    expect((await only('good', {}, 3)).verdict).toBe('pass');
    const allowed = { end: ['debug-exit'], observations: { answer: { any: true, varies: true } } } as const;
    expect((await only('flaky', { allowed }, 5)).verdict).toBe('pass');
  });

  it('believes a payload that a feature is missing, and nothing else', async () => {
    const devices = [{ type: 'entropy', transport: 'pci', ring: 'split' }] as const;
    expect(await only('lacks-in-order', { devices })).toMatchObject({ verdict: 'unsupported', reason: 'the device does not offer IN_ORDER' });
    expect((await only('lacks-version-1', { devices })).verdict).toBe('fail');
    expect((await only('lacks-and-lies', { devices })).verdict).toBe('fail');
    expect((await only('lacks-in-order')).verdict).toBe('fail'); // no devices, no features
  });

  it('keeps the order of the cases with several adapters at work', async () => {
    const cases = ['a', 'b', 'c', 'd', 'e'].map((name) => makeCase(name));
    const outcome = await runCases({
      suite: suiteOf(cases),
      cases,
      target: 't',
      jobs: 2,
      makeAdapter: () => new ExecAdapter({ command: [process.execPath, FIXTURE, 'good'] }),
    });
    expect(outcome.results.map(({ id }) => id)).toEqual(cases.map(({ id }) => id));
  });

  it('begins no further case when it has heard enough', async () => {
    const cases = ['first', 'second', 'third'].map((name) => makeCase(name));
    const outcome = await runCases({
      suite: suiteOf(cases),
      cases,
      target: 't',
      makeAdapter: () => new ExecAdapter({ command: [process.execPath, FIXTURE, 'dies-once-in-a-while'] }),
      enough: ({ verdict }) => verdict !== 'pass',
    });
    expect(outcome.results.map(({ id, verdict }) => `${id} ${verdict}`)).toEqual(['01-test/first pass', '01-test/second crash']);
  });
});

describe('known failures', () => {
  const rows = (row: Partial<KnownFailures['rows'][number]> = {}): KnownFailures => ({
    implementation: 'outsider',
    rows: [
      {
        version: '1.*',
        case: '01-test/first',
        verdict: 'fail',
        observed: { answer: '0x2b' },
        right: 'specification',
        source: 'The Guide, last section',
        reason: 'it counts from zero',
        ...row,
      },
    ],
  });
  const outsider = { name: 'outsider', version: '1.2.3' };
  const all = new Set(['01-test/first']);

  it('excuses exactly the recorded value', async () => {
    const result = await only('wrong-value');
    expect(applyKnown(rows(), outsider, [result], all)).toMatchObject({
      results: [{ verdict: 'fail', expectation: 'known', known: 'it counts from zero' }],
      stale: [],
    });
  });

  it('does not excuse another value, another verdict, or a deviation less', async () => {
    const wrong = await only('wrong-value');
    const changed = applyKnown(rows({ observed: { answer: '0x2c' } }), outsider, [wrong], all).results[0];
    expect(changed).toMatchObject({ expectation: 'changed' });
    expect(changed?.reason).toMatch(/observed answer = 0x2c, now it is 0x2b/);
    const more = applyKnown(rows({ observed: { answer: '0x2b', end: 'halt' } }), outsider, [wrong], all).results[0];
    expect(more?.reason).toMatch(/end no longer deviates/);
    const less = applyKnown(rows({ observed: { other: '0x1' } }), outsider, [wrong], all).results[0];
    expect(less?.expectation).toBe('changed');
    const varies = applyKnown(rows({ observed: { answer: '*' } }), outsider, [wrong], all).results[0];
    expect(varies).toMatchObject({ expectation: 'known' });
    const byChance = applyKnown(rows({ observed: { answer: '0x2b', other: '*' } }), outsider, [wrong], all).results[0];
    expect(byChance).toMatchObject({ expectation: 'known' });
    const crashed = applyKnown(rows(), outsider, [await only('dies')], all).results[0];
    expect(crashed?.reason).toMatch(/is 'fail', now it is 'crash'/);
  });

  it('fails an unexpected pass', async () => {
    const result = applyKnown(rows(), outsider, [await only('good')], all).results[0];
    expect(result).toMatchObject({ verdict: 'pass', expectation: 'unexpected-pass' });
  });

  it('finds rows that are stale', async () => {
    const passing = await only('good', { id: '01-test/other' });
    expect(applyKnown(rows({ case: '01-test/gone' }), outsider, [passing], all).stale).toEqual([
      'known failure of 01-test/gone: there is no such case',
    ]);
    const unsupported = await only('good', { requires: ['lapic'] });
    expect(applyKnown(rows(), outsider, [unsupported], all).stale[0]).toMatch(/is unsupported here/);
  });

  it('applies only to its implementation and version', async () => {
    const wrong = await only('wrong-value');
    expect(applyKnown(rows({ version: '2.*' }), outsider, [wrong], all).results[0]?.expectation).toBe('none');
    expect(applyKnown(rows(), { name: 'insider', version: '1.2.3' }, [wrong], all).results[0]?.expectation).toBe('none');
  });
});
