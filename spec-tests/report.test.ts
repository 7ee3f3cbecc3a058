import { describe, expect, it } from 'vitest';
import { asJunit, asSummary, asTap, mergeResults, summarize } from './report.ts';
import { matches, parseShard, selectCases, shuffle } from './select.ts';
import type { LoadedCase } from './suite.ts';
import type { CaseResult, Results } from './types.ts';
import { validate } from './validate.ts';

const result = (id: string, changes: Partial<CaseResult> = {}): CaseResult => ({
  id: `01-test/${id}`,
  title: `The case ${id}`,
  chapter: '01-test',
  clauses: ['x86.test.a'],
  strictness: 'must',
  surface: 'guest',
  verdict: 'pass',
  expectation: 'none',
  failures: [],
  observed: [],
  durationMs: 5,
  replay: 'npm run conform',
  ...changes,
});

const CASES = [
  result('good'),
  result('wrong', { verdict: 'fail', reason: 'wrong <a> & "b": observed \x00#1', console: 'RB1 stage x' }),
  result('known', { verdict: 'fail', expectation: 'known', known: 'it is so', reason: 'wrong' }),
  result('repaired', { expectation: 'unexpected-pass', reason: 'passes, but is listed' }),
  result('lacking', { verdict: 'unsupported', reason: 'lapic: none' }),
  result('blind', { verdict: 'not-observable', reason: 'no surface' }),
  result('dead', { verdict: 'crash', reason: 'exited with status 7' }),
];

function results(cases: readonly CaseResult[], changes: Partial<Results> = {}): Results {
  const stale = changes.stale ?? [];
  return validate<Results>(
    'results',
    {
      schema: 'urn:ringbook:results:1',
      suite: { revision: 'a'.repeat(64), cases: 7 },
      target: 'qemu',
      implementation: { name: 'qemu', version: '7.2', surfaces: ['guest'], capabilities: [] },
      host: 'here',
      seed: 0,
      shard: null,
      repeat: 1,
      startedAt: '2026-01-01T00:00:00Z',
      durationMs: 1234,
      cases,
      stale,
      summary: summarize(cases, stale),
      ...changes,
    },
    'test',
  );
}

describe('the summary', () => {
  it('counts every verdict once and is not ok when anything is unexplained', () => {
    expect(summarize(CASES, ['a row'])).toEqual({
      pass: 1,
      fail: 1,
      known: 1,
      unsupported: 1,
      'not-observable': 1,
      timeout: 0,
      crash: 1,
      corrupt: 0,
      error: 0,
      flaky: 0,
      'unexpected-pass': 1,
      changed: 0,
      stale: 1,
      ok: false,
    });
    expect(summarize([result('a'), result('b', { verdict: 'unsupported' })], []).ok).toBe(true);
    expect(summarize([result('a')], ['stale']).ok).toBe(false);
  });

  it('does not call it a pass when nothing was judged', () => {
    expect(summarize([result('a', { verdict: 'unsupported' }), result('b', { verdict: 'not-observable' })], []).ok).toBe(false);
    expect(summarize([], []).ok).toBe(false);
    expect(asSummary(results([result('a', { verdict: 'unsupported', reason: 'x' })]))).toMatch(/nothing was judged, which is not a pass\nNOT OK/);
  });

  it('shows failures in full, skips with their reasons, and how to repeat', () => {
    const text = asSummary(results(CASES));
    expect(text).toMatch(/fail: 01-test\/wrong: The case wrong\n {4}wrong <a>/);
    expect(text).toMatch(/again: npm run conform/);
    expect(text).toMatch(/1 × lapic: none/);
    expect(text).toMatch(/pass, unexpected-pass: 01-test\/repaired/);
    expect(text).not.toMatch(/01-test\/good/);
  });
});

describe('a target that was not there', () => {
  const absent = results([], { unavailable: 'no such <program>', summary: summarize([], [], 'no such <program>') });
  const broken: Results = { ...absent, broken: true };

  it('is skipped when it is absent, and never green when it broke', () => {
    expect(asTap(absent)).toBe('TAP version 14\n1..0 # SKIP no such <program>\n');
    expect(asTap(broken)).toBe('TAP version 14\nBail out! no such <program>\n');
    expect(asJunit(absent)).toContain('<skipped message="no such &lt;program&gt;"/>');
    expect(asJunit(broken)).toContain('<error type="broken" message="no such &lt;program&gt;"/>');
    expect(validate<Results>('results', JSON.parse(JSON.stringify(broken)), 'test').broken).toBe(true);
  });

  it('stays broken through a merge', () => {
    expect(mergeResults([absent, broken])).toMatchObject({ unavailable: 'no such <program>', broken: true, summary: { ok: false } });
  });
});

describe('TAP', () => {
  it('numbers every case, skips and excuses, and escapes', () => {
    const lines = asTap(results(CASES, { stale: ['a row'] })).split('\n');
    expect(lines[0]).toBe('TAP version 14');
    expect(lines[1]).toBe('1..8');
    expect(lines.filter((line) => /^(not )?ok /.test(line)).map((line) => line.replace(/ - .*?( # .*)?$/, '$1'))).toEqual([
      'ok 1',
      'not ok 2',
      'not ok 3 # TODO known failure: it is so',
      'not ok 4',
      'ok 5 # SKIP unsupported: lapic: none',
      'ok 6 # SKIP not-observable: no surface',
      'not ok 7',
      'not ok 8',
    ]);
    expect(lines.some((line) => line.includes('message: "wrong <a> & \\"b\\": observed \\u0000#1"'))).toBe(true);
  });
});

describe('JUnit', () => {
  it('is well-formed whatever a console held', () => {
    const xml = asJunit(results(CASES, { stale: ['a row'] }));
    expect(xml).toContain('tests="7" failures="2" errors="1" skipped="3"');
    expect(xml).toContain('wrong &lt;a&gt; &amp; &quot;b&quot;: observed \ufffd#1');
    expect(xml).toContain('type="stale"');
    // biome-ignore lint/suspicious/noControlCharactersInRegex: none may be left
    expect(xml).not.toMatch(/[\x00-\x08]/);
  });
});

describe('merging shards', () => {
  const first = results(CASES.slice(0, 3), { shard: '1/2' });
  const second = results(CASES.slice(3), { shard: '2/2' });

  it('gives what one run would have given', () => {
    const merged = mergeResults([second, first]);
    expect(merged.cases.map(({ id }) => id)).toEqual([...CASES].map(({ id }) => id).sort());
    expect(merged).toMatchObject({ shard: null, stale: [], summary: { pass: 1, fail: 1, crash: 1 } });
    expect(validate('results', merged, 'merged')).toBe(merged);
  });

  it('notices a shard that is missing', () => {
    expect(mergeResults([first])).toMatchObject({ stale: ['4 of 7 cases are in none of the merged results'], summary: { ok: false } });
  });

  it.each<[string, Results, RegExp]>([
    ['another revision', { ...second, suite: { revision: 'b'.repeat(64), cases: 7 } }, /different revisions/],
    ['another version', { ...second, implementation: { ...second.implementation, version: '8.0' } }, /qemu 7.2, qemu 8.0/],
    ['another target', { ...second, target: 'ringbook' }, /different targets/],
    ['a case twice', first, /in two of the results/],
  ])('refuses %s', (_what, other, reason) => {
    expect(() => mergeResults([first, other])).toThrow(reason);
  });
});

describe('selecting cases', () => {
  const cases = ['a', 'b', 'c', 'd', 'e'].map(
    (name) =>
      ({
        ...result(name),
        needs: [],
        requires: ['lapic'],
        legalDriver: true,
        limits: { timeoutMs: 1 },
        allowed: { observations: {} },
        guest: { payload: `p-${name}` },
      }) as unknown as LoadedCase,
  );
  const ids = (list: readonly LoadedCase[]): string => list.map(({ id }) => id.slice(-1)).join('');

  it('filters by piece, exactly, by expression, and by what a case is about', () => {
    expect(ids(selectCases(cases, ['test/b'], null))).toBe('b');
    expect(ids(selectCases(cases, ['=01-test/c', '/[de]$/'], null))).toBe('cde');
    expect(matches(cases[0] as LoadedCase, '=01-test')).toBe(false);
    expect(ids(selectCases(cases, ['payload:p-a'], null))).toBe('a');
    expect(ids(selectCases(cases, ['surface:kvm'], null))).toBe('');
    expect(ids(selectCases(cases, ['clause:x86.test', 'needs:lapic'], null))).toBe('abcde');
  });

  it('deals every case to exactly one shard', () => {
    const shards = [1, 2, 3].map((index) => ids(selectCases(cases, [], { index, of: 3 })));
    expect(shards).toEqual(['ad', 'be', 'c']);
    expect(parseShard('2/3')).toEqual({ index: 2, of: 3 });
    for (const bad of ['0/3', '4/3', '1', 'a/b', '1/0']) expect(() => parseShard(bad)).toThrow(RangeError);
  });

  it('shuffles by seed, and only the order', () => {
    expect(ids(shuffle(cases, 0))).toBe('abcde');
    expect(ids(shuffle(cases, 7))).toBe(ids(shuffle(cases, 7)));
    expect(new Set([1, 2, 3, 4, 5].map((seed) => ids(shuffle(cases, seed)))).size).toBeGreaterThan(1);
    expect([...ids(shuffle(cases, 9))].sort().join('')).toBe('abcde');
  });
});
