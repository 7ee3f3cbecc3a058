import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeBuiltIn, makeTarget } from './adapters/targets.ts';
import { conform } from './conform.ts';
import { ALL, isShort } from './quick.ts';
import { deviceRequestFor, requestFor } from './runner.ts';
import { type LoadedCase, loadSuite, type Suite } from './suite.ts';
import type { Case, KnownFailures, RanGuest, Results } from './types.ts';
import { InvalidDocument, readJson, validate } from './validate.ts';

const HERE = fileURLToPath(new URL('.', import.meta.url));

const suite = loadSuite();

describe('the suite', () => {
  it('loads: every case follows the schema, and everything it names exists', () => {
    expect(suite.cases.length).toBeGreaterThanOrEqual(45);
    expect(new Set(suite.cases.map(({ id }) => id)).size).toBe(suite.cases.length);
  });

  it('has a revision that depends on every case', () => {
    expect(suite.revision).toMatch(/^[0-9a-f]{64}$/);
    expect(loadSuite().revision).toBe(suite.revision);
  });

  it('makes requests that follow the protocol', () => {
    for (const testCase of suite.cases) {
      const request = testCase.surface === 'device' ? deviceRequestFor(testCase, '1') : requestFor(testCase, '1');
      validate('protocol-request', request, testCase.id);
    }
  });

  it('has known-failure files that follow the schema and name cases that exist', () => {
    const ids = new Set(suite.cases.map(({ id }) => id));
    for (const name of readdirSync(join(HERE, 'known-failures'))) {
      const known = readJson<KnownFailures>('known-failures', join(HERE, 'known-failures', name));
      expect(`${known.implementation}.json`).toBe(name);
      for (const row of known.rows) expect(ids, `${name}: ${row.case}`).toContain(row.case);
    }
  });

  // The clause catalogue and the cases meet here in one direction; `npm run check` does the other.
  it('cites only clauses whose surface it uses', () => {
    for (const testCase of suite.cases) {
      for (const id of testCase.clauses) expect(suite.clauses.get(id)?.observable, `${testCase.id}: ${id}`).toContain(testCase.surface);
    }
  });
});

describe('a suite with a mistake in it', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ringbook-suite-'));
  afterAll(() => rmSync(folder, { recursive: true }));

  const good: Case = JSON.parse(readFileSync(join(HERE, 'cases/02-kvm-objects/api-version.json'), 'utf8')) as Case;
  const load = (change: (c: Record<string, unknown>) => unknown, file = '02-kvm-objects/api-version.json'): (() => Suite) => {
    const cases = mkdtempSync(join(folder, 'cases-'));
    const path = join(cases, file);
    mkdirSync(dirname(path), { recursive: true });
    const changed = change(structuredClone(good) as unknown as Record<string, unknown>);
    writeFileSync(path, typeof changed === 'string' ? changed : JSON.stringify(changed));
    return () => loadSuite({ cases });
  };

  it('loads when there is none', () => {
    expect(load((c) => c)().cases).toHaveLength(1);
  });

  it.each<[string, (c: Record<string, unknown>) => unknown, RegExp, string?]>([
    ['that is not JSON', () => '{"id": ', /api-version\.json: is not JSON/],
    ['with an unknown property', (c) => ({ ...c, colour: 'red' }), /unknown property 'colour'/],
    ['without clauses', (c) => ({ ...c, clauses: [] }), /clauses: .*fewer than 1/],
    [
      'with a clause that is not in the catalogue',
      (c) => ({ ...c, clauses: [...good.clauses, 'kvm.tea.temperature'] }),
      /'kvm.tea.temperature' is not in the catalogue/,
    ],
    ['with an unknown strictness', (c) => ({ ...c, strictness: 'maybe' }), /strictness: is "maybe", must be one of must, should/],
    ['de-facto without a driver', (c) => ({ ...c, strictness: 'de-facto' }), /'driver' is missing/],
    [
      'in the wrong place',
      (c) => c,
      /is '02-kvm-objects\/api-version', but the file's place says '02-kvm-objects\/other'/,
      '02-kvm-objects/other.json',
    ],
    ['of a need without meaning', (c) => ({ ...c, needs: ['telepathy'] }), /'telepathy' is not in capabilities.json/],
    ['with two surfaces', (c) => ({ ...c, guest: { payload: 'hello' } }), /guest: does not belong here/],
    ['of an operation that does not exist', (c) => ({ ...c, kvm: { script: [{ do: 'dance' }] } }), /kvm\.script\.0: value of tag "do"/],
    ['whose script does not compile', (c) => ({ ...c, kvm: { script: [{ do: 'close', fd: 'vm' }] } }), /no descriptor called 'vm'/],
    [
      'of a payload that does not exist',
      ({ kvm: _, ...c }) => ({ ...c, surface: 'guest', guest: { payload: 'unicorn' }, allowed: { end: ['halt'], observations: {} } }),
      /there is no payload 'unicorn'/,
    ],
    [
      'with an allowed set that contradicts itself',
      (c) => ({ ...c, allowed: { observations: { 'version.ret': { value: '12', any: true } } } }),
      /allowed\.observations\.version\.ret/,
    ],
  ])('refuses a case %s, naming file and place', (_what, change, reason, file) => {
    const loading = load(change, file);
    expect(loading).toThrow(InvalidDocument);
    expect(loading).toThrow(reason);
  });
});

// The suite on the embedded machine is part of the tests: a change in a chapter that breaks a clause is found here, by the clause's name.

describe.each(['ringbook', 'ringbook-shadow'])('the embedded machine, %s', (target) => {
  let results: Results;
  beforeAll(async () => {
    // On the device surface no guest runs, and so nothing depends on how memory is virtualized: once is enough.
    // Nor do guests about devices depend on it much: the quick tests leave them out, and the long ones.
    const worthAgain = (one: LoadedCase): boolean => ALL || one.surface === 'kvm' || (/^0[1-4]-/.test(one.id) && isShort(one));
    const chosen = target === 'ringbook' ? suite.cases : suite.cases.filter((one) => one.surface !== 'device' && worthAgain(one));
    // A case's limit is for a machine that has nothing else to do. Here it only ends what hangs.
    const cases = chosen.map((one) => ({ ...one, limits: { ...one.limits, timeoutMs: one.limits.timeoutMs * 10 } }));
    const options = { filters: [], shard: null, repeat: 1, jobs: 1, share: true, seed: 0, expect: null, quiet: true };
    results = await conform({ ...suite, cases }, { target, ...options });
  }, 900_000);

  it('passes every case that it can run', () => {
    expect(results.unavailable).toBeUndefined();
    const bad = results.cases.filter(({ verdict }) => !['pass', 'unsupported', 'not-observable'].includes(verdict));
    expect(bad.map(({ id, verdict, reason }) => `${verdict} ${id}: ${reason}`)).toEqual([]);
    expect(results.summary.ok).toBe(true);
  });

  it('runs everything but what it says it lacks', () => {
    const skipped = results.cases.filter(({ verdict }) => verdict === 'unsupported');
    for (const { id, reason } of skipped) console.log(`not run: ${id}: ${reason}`);
    expect(results.summary['not-observable']).toBe(0);
    expect(results.summary.pass).toBeGreaterThanOrEqual(45);
  });

  // The check of the catalogue reads case files only. Here a case counts if it ran: one that is unsupported shows nothing.
  it('shows what each clause of a virtio device demands, in a case that ran and passed', () => {
    if (target !== 'ringbook') return;
    const shown = new Set(results.cases.filter(({ verdict }) => verdict === 'pass').flatMap(({ clauses }) => clauses));
    const demanded = [...suite.clauses.values()].filter(
      ({ id, strength, binds, waiver }) => id.startsWith('virtio.') && strength === 'must' && binds !== 'driver' && waiver === undefined,
    );
    expect(demanded.length).toBeGreaterThan(150);
    expect(demanded.map(({ id }) => id).filter((id) => !shown.has(id))).toEqual([]);
  });

  it('gives each guest run a trace that repeats', async () => {
    const traced = results.cases.filter(({ traceHash }) => traceHash !== undefined);
    expect(traced.length).toBeGreaterThan(10);
    const sample = traced.slice(0, 3).map(({ id }) => `=${id}`);
    const again = await conform(suite, {
      target,
      filters: sample,
      shard: null,
      repeat: 1,
      jobs: 1,
      seed: 1,
      expect: null,
      quiet: true,
    });
    for (const { id, traceHash } of again.cases) expect(traceHash, id).toBe(traced.find((c) => c.id === id)?.traceHash);
  });
});

describe('QEMU', () => {
  it('tells debug exit, halt, triple fault and timeout apart', async ({ skip }) => {
    const adapter = await makeTarget('qemu');
    const started = await adapter.start();
    if (started.type === 'unavailable') {
      console.log(`skipped: ${started.reason}`);
      skip(started.reason);
      return;
    }
    const { cases } = suite;
    const run = async (name: string, timeoutMs = 60_000): Promise<RanGuest> => {
      const testCase = cases.find(({ id }) => id.endsWith(`/${name}`));
      if (!testCase) throw new Error(`no case ${name}`);
      const request = requestFor(testCase, '1');
      const reply = await adapter.run({ ...request, limits: { timeoutMs } });
      if (reply.type !== 'ran' || reply.surface !== 'guest') throw new Error(JSON.stringify(reply));
      return reply;
    };
    expect(await run('hello')).toMatchObject({ end: 'debug-exit', exitValue: '0x0', console: Buffer.from('hello\n').toString('base64') });
    expect(await run('halt')).toMatchObject({ end: 'halt' });
    expect(await run('triple-fault')).toMatchObject({ end: 'triple-fault' });
    expect(await run('hello', 1)).toMatchObject({ end: 'timeout' });
    adapter.kill();
  });

  it('says so when it is not there, or not QEMU', async () => {
    const { QemuAdapter } = await import('./adapters/qemu.ts');
    if (process.platform === 'win32') return;
    expect(await new QemuAdapter('/no/such/qemu').start()).toMatchObject({
      type: 'unavailable',
      reason: expect.stringMatching(/no \/no\/such\/qemu on PATH/),
    });
    const adapter = new QemuAdapter('/bin/echo');
    await adapter.start();
    const testCase = suite.cases.find(({ id }) => id.endsWith('/hello'));
    if (!testCase) throw new Error('no case hello');
    expect(await adapter.run(requestFor(testCase, '1'))).toMatchObject({ type: 'error' });
  });
});

it('has no built-in machine of an unknown name', async () => {
  expect(await makeBuiltIn('vax')).toBeNull();
  await expect(makeTarget('vax')).rejects.toThrow(/no target 'vax'; there are ringbook, ringbook-shadow, host-kvm, qemu, .*all, and exec:<command>/);
});
