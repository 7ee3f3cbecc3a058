import { describe, expect, it } from 'vitest';
import { CONSOLE_LIMIT_BYTES, consoleTail, readConsole } from './console.ts';
import { judgeGuest, judgeObservations } from './judge.ts';
import type { AllowedSet, Case } from './types.ts';
import { admits, admitsAll, describeSet, hex, numberOf } from './values.ts';

const bytes = (text: string): Uint8Array => Uint8Array.from(text, (c) => c.charCodeAt(0));

const testCase = (observations: Record<string, AllowedSet>, allowed: Partial<Case['allowed']> = {}): Case => ({
  id: '01-test/case',
  title: 'A case for the judge',
  chapter: '01-test',
  clauses: ['x86.pf.error-code', 'x86.pf.cr2'],
  strictness: 'must',
  legalDriver: true,
  surface: 'guest',
  needs: [],
  guest: { payload: 'none' },
  limits: { timeoutMs: 1000 },
  allowed: { end: ['debug-exit'], observations, ...allowed },
});

const texts = (observations: Record<string, AllowedSet>, observed: [string, string][], allowed: Partial<Case['allowed']> = {}): string[] =>
  judgeObservations(testCase(observations, allowed), observed).map(({ kind, clause, text }) => `${kind} ${clause}: ${text}`);

describe('sets of values', () => {
  it.each<[AllowedSet, string, boolean]>([
    ['0x10', '0x10', true],
    ['16', '0x10', true],
    ['0x10', '0x11', false],
    ['-1', '0xffffffffffffffff', true],
    ['EINVAL', 'EINVAL', true],
    ['EINVAL', 'ENOENT', false],
    ['EINVAL', '0x16', false],
    [{ oneOf: ['0x1', '0x3'] }, '0x3', true],
    [{ oneOf: ['0x1', '0x3'] }, '0x2', false],
    [{ value: '0x5', mask: '0xf' }, '0xfffffffffffffff5', true],
    [{ value: '0x5', mask: '0xf' }, '0x4', false],
    [{ value: '0x5', mask: '0xf' }, 'EINVAL', false],
    [{ min: '0x2' }, '0x1', false],
    [{ min: '0x2' }, '0xffffffffffffffff', true],
    [{ min: '0x2', max: '0x4' }, '0x5', false],
    [{ max: '0x4' }, '0x4', true],
    [{ max: '0x4' }, 'EIO', false],
    [{ any: true }, 'EIO', true],
  ])('%j and %s: %s', (set, observed, expected) => {
    expect(admits(set, observed)).toBe(expected);
  });

  it('compares named constants by their number, and shows both', () => {
    const resolve = (name: string): bigint | null => (name === 'KVM_EXIT_IO' ? 2n : null);
    expect(admits('KVM_EXIT_IO', '0x2', resolve)).toBe(true);
    expect(admits('KVM_EXIT_IO', '0x3', resolve)).toBe(false);
    expect(admits({ oneOf: ['KVM_EXIT_IO', 'EINTR'] }, 'EINTR', resolve)).toBe(true);
    expect(describeSet('KVM_EXIT_IO', resolve)).toBe('KVM_EXIT_IO (0x2)');
  });

  it('keeps all 64 bits', () => {
    expect(numberOf('0xfffffffffffffffe')).toBe(2n ** 64n - 2n);
    expect(admits('0xfffffffffffffffe', '0xffffffffffffffff')).toBe(false);
    expect(hex(-1n)).toBe('0xffffffffffffffff');
  });

  it('asks a sequence for its length as well as its members', () => {
    const set: AllowedSet = { sequence: ['0x1', { oneOf: ['0x2', '0x3'] }] };
    expect(admitsAll(set, ['0x1', '0x3'])).toEqual({ ok: true, index: null });
    expect(admitsAll(set, ['0x1', '0x4'])).toEqual({ ok: false, index: 1 });
    expect(admitsAll(set, ['0x1'])).toEqual({ ok: false, index: null });
    expect(admitsAll(set, ['0x1', '0x2', '0x2'])).toEqual({ ok: false, index: 2 });
  });

  it('asks a plain set for exactly one observation', () => {
    expect(admitsAll('0x1', ['0x1', '0x1']).ok).toBe(false);
    expect(admitsAll({ any: true }, ['0x1', '0x2']).ok).toBe(false);
  });
});

describe('the judge', () => {
  it('accepts what is allowed', () => {
    expect(
      texts({ error: '0x2', cr2: { any: true } }, [
        ['cr2', '0x9'],
        ['error', '0x2'],
      ]),
    ).toEqual([]);
  });

  it('has a sentence for each of the three ways to miss the set', () => {
    const set: AllowedSet = { oneOf: ['0x2', '0x6'], clause: 'x86.pf.cr2' };
    expect(texts({ error: set }, [['error', '0x3']])).toEqual([
      'wrong x86.pf.cr2: wrong error: observed 0x3; allowed: one of 0x2, 0x6, by x86.pf.cr2',
    ]);
    expect(texts({ error: set }, [])).toEqual([
      'missing x86.pf.cr2: missing error: nothing was observed, where one of 0x2, 0x6 is required by x86.pf.cr2',
    ]);
    expect(texts({}, [['stray', '0x1']])).toEqual([
      'unexpected x86.pf.error-code: unexpected stray: observed 0x1, which the case does not provide for (it shows x86.pf.error-code)',
    ]);
  });

  it('says when a value came too often', () => {
    expect(
      texts({ a: '0x1' }, [
        ['a', '0x1'],
        ['a', '0x1'],
      ])[0],
    ).toMatch(/wrong a: observed 2 times \(0x1, 0x1\)/);
  });

  it('lets optional observations be absent, but not wrong', () => {
    const set: AllowedSet = { value: '0x1', optional: true };
    expect(texts({ a: set }, [])).toEqual([]);
    expect(texts({ a: set }, [['a', '0x2']])).toHaveLength(1);
  });

  it('ignores further observations only when the case says so', () => {
    expect(texts({}, [['x', '0x1']], { others: 'ignore' })).toEqual([]);
  });

  it('tells why a key is missing when that is known', () => {
    const [failure] = judgeObservations(testCase({ 'regs.rip': '0x0' }), [], { whyMissing: () => "'vcpu' does not exist" });
    expect(failure?.text).toMatch(/nothing was observed \('vcpu' does not exist\)/);
  });

  const ended = (end: string, console: string, allowed: Partial<Case['allowed']> = {}, exitValue = '0x0'): string[] =>
    judgeGuest(testCase({}, allowed), { end, exitValue, console: btoa(console) }, readConsole(bytes(console))).map(
      ({ kind, text }) => `${kind}: ${text}`,
    );

  it('judges the end', () => {
    expect(ended('debug-exit', 'RB1 done\n')).toEqual([]);
    expect(ended('halt', 'RB1 stage s\nRB1 done\n')[0]).toMatch(/^end: wrong end: the run ended by halt after stage 's'; allowed: debug-exit/);
    expect(ended('debug-exit', 'RB1 done\n', {}, '0x1')[0]).toMatch(/^end: wrong exit value: the guest wrote 0x1/);
    expect(ended('debug-exit', 'RB1 done\n', { exitValue: '0x1' }, '0x1')).toEqual([]);
    expect(ended('triple-fault', '', { end: ['triple-fault'] })).toEqual([]);
  });

  it('judges the last words of a payload that has no records', () => {
    const allowed = { done: false, console: 'hello\n' };
    expect(ended('debug-exit', 'firmware\nhello\n', allowed)).toEqual([]);
    expect(ended('debug-exit', 'hell', allowed)).toEqual(['wrong: wrong console: it ends with "hell"; the payload\'s last words are "hello\\n"']);
    expect(ended('debug-exit', '', allowed)).toHaveLength(1);
  });

  it('wants to hear that the payload was done, or why it was not', () => {
    expect(ended('debug-exit', 'RB1 stage s\n')).toEqual([
      "unfinished: unfinished: the payload ended after stage 's' without saying that it was done",
    ]);
    expect(ended('debug-exit', 'RB1 abort x.S:12 no long mode\n', {}, '0x1')).toEqual([
      'aborted: aborted: the payload gave up at x.S:12 no long mode',
    ]);
    expect(ended('halt', '', { end: ['halt', 'debug-exit'] })).toEqual([]);
    expect(ended('halt', '', { end: ['halt'], done: true })).toHaveLength(1);
  });
});

describe('the console', () => {
  it('reads records, after whatever the firmware had to say', () => {
    const report = readConsole(bytes('SeaBIOS\x1bc\r\n\nRB1 stage a.b\nRB1 obs k 00ff\r\nRB1 obs k ffffffffffffffff\nRB1 done\n'));
    expect(report).toEqual({
      observations: [
        ['k', '0xff'],
        ['k', '0xffffffffffffffff'],
      ],
      stage: 'a.b',
      done: true,
      aborted: null,
      corrupt: null,
    });
  });

  it.each([
    ['RB1 obs k 0xff\n', /malformed/],
    ['RB1 obs k FF\n', /malformed/],
    ['RB1 obs k 11111111111111111\n', /malformed/],
    ['RB1 obs k\n', /malformed/],
    ['RB1 obs k 1 2\n', /malformed/],
    ['RB1 obs \u00e4 1\n', /malformed/],
    ['RB1 done.\n', /malformed/],
    ['RB1 stage a\nhello\n', /line 2 is not a record/],
    ['noise RB1 done\n', /line 1 is not a record/],
    ['RB1 done\nRB1 obs k 1\n', /after the payload said it had ended/],
    ['RB1 done\nRB1 done\n', /after the payload said it had ended/],
    ['RB1 stage a\nRB1 do', /cut off/],
    ['RB1', /cut off/],
  ])('does not believe %j', (text, reason) => {
    expect(readConsole(bytes(text)).corrupt).toMatch(reason);
  });

  it('refuses to wade through a flood', () => {
    expect(readConsole(new Uint8Array(CONSOLE_LIMIT_BYTES + 1)).corrupt).toMatch(/more than/);
  });

  it('believes an empty console', () => {
    expect(readConsole(new Uint8Array(0))).toMatchObject({ observations: [], done: false, corrupt: null });
  });

  it('shows control characters rather than sending them to a terminal', () => {
    expect(consoleTail(bytes('a\x1b[2Jb\x00\n'))).toBe('a\\x1b[2Jb\\x00\n');
  });
});
