import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { columnOf, standingOf } from './matrix.ts';
import { summarize } from './report.ts';
import { writeReport } from './report-folder.ts';
import type { LoadedCase } from './suite.ts';
import type { Case, CaseResult, Failure, Results } from './types.ts';

const oneCase = (id: string): Case => ({
  id: `01-test/${id}`,
  title: `The ${id} case`,
  chapter: '01-test',
  clauses: ['x86.test.first', 'x86.test.second', 'x86.test.silent'],
  strictness: 'must',
  legalDriver: true,
  surface: 'guest',
  needs: [],
  guest: { payload: 'hello' },
  limits: { timeoutMs: 1000 },
  allowed: { end: ['debug-exit'], observations: { a: '0x1', b: { value: '0x2', clause: 'x86.test.second' } } },
});

const failure = (kind: Failure['kind'], clause: string): Failure => ({ kind, key: 'a', clause, observed: '<0x2>', allowed: '0x1', text: 'wrong a' });

const result = (id: string, changes: Partial<CaseResult>): CaseResult => ({
  ...{ id: `01-test/${id}`, title: id, chapter: '01-test', clauses: [], strictness: 'must', surface: 'guest', verdict: 'pass', expectation: 'none' },
  ...{ failures: [], observed: [], durationMs: 1, replay: 'again' },
  ...changes,
});

const results = (cases: readonly CaseResult[]): Results => ({
  schema: 'urn:ringbook:results:1',
  suite: { revision: '0'.repeat(64), cases: cases.length },
  target: 'exec:mine',
  implementation: { name: 'mine', version: '1', surfaces: ['guest'], capabilities: [] },
  ...{
    host: 'here',
    seed: 0,
    shard: null,
    repeat: 1,
    startedAt: '2026-01-01T00:00:00.000Z',
    durationMs: 1,
    cases,
    stale: [],
    summary: summarize(cases, []),
  },
});

const standing = (clause: string, ...cases: CaseResult[]): string =>
  standingOf(
    `x86.test.${clause}`,
    cases.map(({ id }) => oneCase(id.slice(8))),
    columnOf(results(cases)),
  ).standing;

describe('what results say of a clause', () => {
  const wrong = result('one', { verdict: 'fail', failures: [failure('wrong', 'x86.test.second')] });

  it('charges a deviation to the clause that governs it, and to it alone', () => {
    expect(standing('second', wrong)).toBe('broken');
    expect(standing('first', wrong)).toBe('holds');
    expect(standing('silent', wrong)).toBe('open');
  });

  it('takes a run without a judgement as speaking against all that it was to show', () => {
    for (const verdict of ['timeout', 'crash', 'corrupt', 'error'] as const) expect(standing('first', result('one', { verdict }))).toBe('broken');
    expect(standing('first', result('one', { verdict: 'fail', failures: [failure('end', 'x86.test.second')] }))).toBe('broken');
  });

  it('is not outvoted by cases that pass, and a known failure is a failure', () => {
    expect(standing('second', result('two', {}), wrong)).toBe('broken');
    expect(standing('second', result('two', {}), { ...wrong, expectation: 'known' })).toBe('known');
    expect(standing('second', { ...wrong, expectation: 'known' }, result('two', { verdict: 'timeout' }))).toBe('broken');
  });

  it('never takes silence for a pass', () => {
    expect(standing('first', result('one', { verdict: 'unsupported' }), result('two', { verdict: 'not-observable' }))).toBe('unsupported');
    expect(standing('first', result('one', { verdict: 'not-observable' }))).toBe('not-observable');
    expect(standing('first')).toBe('no-case');
    expect(standingOf('x86.test.first', [oneCase('one')], columnOf(results([]))).standing).toBe('not-run');
  });
});

describe('a report', () => {
  it('has a page for each case and clause of the run, and escapes what implementations say', () => {
    const folder = mkdtempSync(join(tmpdir(), 'ringbook-report-'));
    try {
      const clause = { strength: 'must', binds: 'cpu', source: 'The Guide', summary: 'Is so.', observable: ['guest'] } as const;
      const clauses = new Map(['first', 'second', 'silent'].map((name) => [`x86.test.${name}`, { id: `x86.test.${name}`, ...clause }]));
      const { devices: _, ...plain } = oneCase('one');
      const cases: LoadedCase[] = [{ ...plain, requires: [] }];
      const bad = result('one', { verdict: 'fail', failures: [failure('wrong', 'x86.test.second')], console: '<script>' });
      const written = writeReport(folder, { cases, clauses, capabilities: new Map(), revision: '0'.repeat(64) }, [results([bad])]);
      expect(written.every((path) => existsSync(path))).toBe(true);
      const page = readFileSync(join(folder, 'cases/01-test/one.html'), 'utf8');
      expect(page).toContain('&lt;0x2&gt;');
      expect(page).not.toContain('<script>');
      for (const name of clauses.keys()) expect(existsSync(join(folder, `clauses/${name}.html`))).toBe(true);
      const document = JSON.parse(readFileSync(join(folder, 'matrix.json'), 'utf8')) as { clauses: { id: string; standings: object }[] };
      expect(document.clauses.find(({ id }) => id === 'x86.test.second')?.standings).toEqual({ 'exec:mine': 'broken' });
      expect(readFileSync(join(folder, 'matrix.md'), 'utf8')).toContain('| `x86.test.second` | deviates |');
      // Every link inside the report leads to a file of it.
      const index = readFileSync(join(folder, 'index.html'), 'utf8');
      for (const [, href] of index.matchAll(/href="([^"#]+)/g)) expect(existsSync(join(folder, href as string)), href).toBe(true);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
