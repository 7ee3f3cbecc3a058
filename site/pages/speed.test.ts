import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, it } from 'vitest';
import { REPORT_FILE, REPORT_FORMAT, type Report } from '../../spec-tests/bench/cpu-report.ts';
import { chart, readReport, speedBody } from './speed.ts';

const figureOf = (mips: number | null, ...roundsPerSecond: number[]) => ({
  ...{ rounds: 1, startMs: 100, runMs: 1000, mips },
  ...{ roundsPerSecond, wholeRoundsPerSecond: roundsPerSecond },
});
const report: Report = {
  format: REPORT_FORMAT,
  when: '2026-01-02T03:04:05.000Z',
  ...{ node: 'v24', processor: '2 × <some> processor', rounds: 3, seconds: 1, clock: 'wall' },
  peers: [
    { name: 'ringbook', about: 'ours' },
    { name: 'v86', about: 'theirs' },
  ],
  absent: { bochs: 'no bochs on PATH' },
  tasks: [
    {
      ...{ name: 'sieve', width: 32, kind: 'integer', about: 'primes', instructionsPerRound: 1000 },
      peers: { ringbook: figureOf(1234.4, 9, 3, 3), v86: figureOf(100, 3, 3, 1) },
    },
    {
      ...{ name: 'copy', width: 32, kind: 'memory', about: 'a loop', instructionsPerRound: 1000 },
      peers: { ringbook: { failed: 'it stopped' }, v86: figureOf(1, 1, 1, 1) },
    },
  ],
};

it('shows speeds, paired ratios and means', () => {
  const html = speedBody(report);
  expect(html).toMatch(/>1,234<\/td><td [^>]*>100<\/td><td class="number" data-title="ringbook : v86">3.00 ×<\/td>/);
  expect(html).toContain('<b>3.00 ×</b>'); // over what both have a figure for
  expect(html).toContain('<span title="it stopped">–</span>');
  expect(html).toContain('2 × &lt;some&gt; processor');
  expect(html).toContain('no bochs on PATH');
  expect(html).not.toContain('64-bit code</h2>');
});

it('draws a mark for each figure, further right where it is faster', () => {
  const svg = chart(report.tasks, ['ringbook', 'v86'], 'a chart');
  const at = (says: string): number => Number(new RegExp(`cx="([\\d.]+)"[^>]*><title>${says}`).exec(svg)?.[1]);
  expect(at('sieve, ringbook')).toBeGreaterThan(at('sieve, v86'));
  expect(at('sieve, v86')).toBeGreaterThan(at('copy, v86'));
  expect(svg).not.toContain('copy, ringbook');
  expect(chart([], ['v86'], 'nothing')).toBe('');
});

it('says so where nothing has been measured, or by another version', () => {
  const root = mkdtempSync(join(tmpdir(), 'ringbook-speed-'));
  try {
    expect(speedBody(readReport(root))).toContain('Nothing has been measured');
    mkdirSync(dirname(join(root, REPORT_FILE)), { recursive: true });
    writeFileSync(join(root, REPORT_FILE), '{"tasks": [');
    expect(readReport(root)).toContain('cannot be read');
    writeFileSync(join(root, REPORT_FILE), '{"format": 0}');
    expect(readReport(root)).toContain('another version');
    writeFileSync(join(root, REPORT_FILE), JSON.stringify(report));
    expect(readReport(root)).toEqual(report);
  } finally {
    rmSync(root, { recursive: true });
  }
});
