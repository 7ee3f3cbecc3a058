// # Reports
//
// One set of results, four ways to say it: a summary for people, TAP 14 for a harness, JUnit for a build server, JSON for everything else. All of
// them are views of the same document, which follows `schemas/results.schema.json`, so they cannot disagree.

import { arch, release, type } from 'node:os';
import type { RunOutcome } from './runner.ts';
import type { LoadedCase, Suite } from './suite.ts';
import type { CaseResult, Results, Summary } from './types.ts';
import { validate } from './validate.ts';

export const FORMATS = ['summary', 'tap', 'junit', 'json'] as const;
export type Format = (typeof FORMATS)[number];

/** Counts verdicts. `ok` is the answer to "may this be merged": nothing unexplained, and something was really judged. */
export function summarize(cases: readonly CaseResult[], stale: readonly string[], problem: string | null = null): Summary {
  const count = (test: (result: CaseResult) => boolean): number => cases.filter(test).length;
  const fresh = (verdict: string): number => count((c) => c.verdict === verdict && c.expectation === 'none');
  const summary = {
    pass: fresh('pass'),
    fail: fresh('fail'),
    known: count((c) => c.expectation === 'known'),
    unsupported: fresh('unsupported'),
    'not-observable': fresh('not-observable'),
    timeout: fresh('timeout'),
    crash: fresh('crash'),
    corrupt: fresh('corrupt'),
    error: fresh('error'),
    flaky: fresh('flaky'),
    'unexpected-pass': count((c) => c.expectation === 'unexpected-pass'),
    changed: count((c) => c.expectation === 'changed'),
    stale: stale.length,
  };
  const { fail, timeout, crash, corrupt, error, flaky, changed } = summary;
  const bad = fail + timeout + crash + corrupt + error + flaky + summary['unexpected-pass'] + changed + summary.stale;
  return { ...summary, ok: problem === null && bad === 0 && summary.pass + summary.known > 0 };
}

export interface RunFacts {
  readonly target: string;
  readonly seed: number;
  readonly shard: string | null;
  readonly repeat: number;
  readonly startedAt: Date;
  readonly durationMs: number;
}

/** Puts a run's outcome into the published form, and checks it against its own schema. */
export function toResults(suite: Suite, outcome: RunOutcome, cases: readonly CaseResult[], stale: readonly string[], facts: RunFacts): Results {
  const { started, unavailable, broken } = outcome;
  const problem = unavailable ?? broken;
  const results: Results = {
    schema: 'urn:ringbook:results:1',
    suite: { revision: suite.revision, cases: suite.cases.length },
    target: facts.target,
    implementation: {
      name: started?.name ?? facts.target,
      version: started?.version ?? '(not started)',
      surfaces: started?.surfaces ?? [],
      capabilities: started?.capabilities ?? [],
    },
    ...(problem !== null && { unavailable: problem }),
    ...(broken !== null && { broken: true }),
    host: `${type()} ${release()} ${arch()}, Node ${process.version}`,
    seed: facts.seed,
    shard: facts.shard,
    repeat: facts.repeat,
    startedAt: facts.startedAt.toISOString(),
    durationMs: Math.round(facts.durationMs),
    cases,
    stale,
    summary: summarize(cases, stale, problem),
  };
  return validate<Results>('results', results, `results of ${facts.target}`);
}

// ## For people

const MARK: Readonly<Record<string, string>> = { pass: 'pass', unsupported: 'n/a ', 'not-observable': 'n/o ' };

/** One case on one line, as the progress log shows it. */
export const caseLine = (result: CaseResult): string => {
  const mark = result.expectation === 'none' ? (MARK[result.verdict] ?? result.verdict.toUpperCase()) : result.expectation;
  return `${mark.padEnd(5)} ${result.id} (${result.durationMs} ms)`;
};

const indent = (text: string, by: string): string =>
  text
    .split('\n')
    .map((line) => by + line)
    .join('\n');

const isQuiet = (result: CaseResult): boolean => result.verdict === 'pass' && result.expectation === 'none';
const isSkipped = (result: CaseResult): boolean => result.verdict === 'unsupported' || result.verdict === 'not-observable';

function chapterTable(cases: readonly CaseResult[]): string[] {
  const chapters = [...new Set(cases.map(({ chapter }) => chapter))].sort();
  const columns = ['pass', 'known', 'n/a', 'n/o', 'other'] as const;
  const row = (name: string, cells: readonly (string | number)[]): string =>
    `  ${name.padEnd(26)}${cells.map((cell) => String(cell).padStart(7)).join('')}`;
  const cell = (rows: readonly CaseResult[], column: (typeof columns)[number]): number =>
    rows.filter((c) => {
      if (c.expectation === 'known') return column === 'known';
      if (isQuiet(c)) return column === 'pass';
      if (c.verdict === 'unsupported') return column === 'n/a';
      return c.verdict === 'not-observable' ? column === 'n/o' : column === 'other';
    }).length;
  return [
    row('', columns),
    ...chapters.map((chapter) =>
      row(
        chapter,
        columns.map((column) =>
          cell(
            cases.filter((c) => c.chapter === chapter),
            column,
          ),
        ),
      ),
    ),
  ];
}

/** The results for a reader at a terminal: what went wrong first in full, then what was left out and why, then the counts. */
export function asSummary(results: Results): string {
  const { cases, summary, implementation, stale } = results;
  const out: string[] = [];
  if (results.unavailable !== undefined) return `${results.target}: not run: ${results.unavailable}\n`;
  out.push(
    `${implementation.name} ${implementation.version}: ${cases.length} of ${results.suite.cases} cases, suite ${results.suite.revision.slice(0, 12)}`,
    '',
  );
  for (const result of cases.filter((c) => !isQuiet(c) && !isSkipped(c))) {
    const heading = result.expectation === 'none' ? result.verdict : `${result.verdict}, ${result.expectation}`;
    out.push(`${heading}: ${result.id}: ${result.title}`);
    out.push(indent(result.expectation === 'known' ? (result.known ?? '') : (result.reason ?? ''), '    '));
    if (result.expectation !== 'known') {
      if (result.console) out.push('    console:', indent(result.console.trimEnd(), '      | '));
      out.push(`    again: ${result.replay}`);
    }
    out.push('');
  }
  const skipped = new Map<string, number>();
  for (const result of cases.filter(isSkipped)) skipped.set(result.reason ?? '', (skipped.get(result.reason ?? '') ?? 0) + 1);
  if (skipped.size > 0) out.push('not run here:', ...[...skipped].map(([reason, n]) => `  ${String(n).padStart(3)} × ${reason}`), '');
  if (stale.length > 0) out.push('stale known failures:', ...stale.map((text) => `  ${text}`), '');
  out.push(...chapterTable(cases), '');
  const counts = Object.entries(summary).filter(([name, n]) => name !== 'ok' && (n !== 0 || name === 'pass'));
  out.push(`${counts.map(([name, n]) => `${String(n)} ${name}`).join(', ')}  (${(results.durationMs / 1000).toFixed(1)} s)`);
  if (summary.pass + summary.known === 0) out.push('nothing was judged, which is not a pass');
  out.push(summary.ok ? 'ok' : 'NOT OK');
  return `${out.join('\n')}\n`;
}

// ## For machines

const yaml = (text: string): string => JSON.stringify(text); // a JSON string is a YAML scalar

/** TAP 14. A known failure has TAP's directive for one; what could not be run is skipped; stale rows are tests of their own, so that they fail. */
export function asTap(results: Results): string {
  const escapeTap = (text: string): string =>
    text
      .replaceAll('\\', '\\\\')
      .replaceAll('#', '\\#')
      .replaceAll(/[\r\n]+/g, ' ');
  if (results.unavailable !== undefined) {
    const why = escapeTap(results.unavailable);
    return results.broken ? `TAP version 14\nBail out! ${why}\n` : `TAP version 14\n1..0 # SKIP ${why}\n`;
  }
  const out = ['TAP version 14', `1..${results.cases.length + results.stale.length}`];
  let n = 0;
  for (const result of results.cases) {
    const title = `${++n} - ${escapeTap(`${result.id}: ${result.title}`)}`;
    if (isSkipped(result)) out.push(`ok ${title} # SKIP ${result.verdict}: ${escapeTap(result.reason ?? '')}`);
    else if (result.expectation === 'known') out.push(`not ok ${title} # TODO known failure: ${escapeTap(result.known ?? '')}`);
    else if (isQuiet(result)) out.push(`ok ${title}`);
    else {
      out.push(
        `not ok ${title}`,
        '  ---',
        `  verdict: ${result.verdict}`,
        `  expectation: ${result.expectation}`,
        `  message: ${yaml(result.reason ?? '')}`,
      );
      out.push(`  clauses: [${result.clauses.join(', ')}]`, `  replay: ${yaml(result.replay)}`, '  ...');
    }
  }
  for (const text of results.stale) out.push(`not ok ${++n} - ${escapeTap(text)}`);
  return `${out.join('\n')}\n`;
}

const xml = (text: string): string =>
  text
    // biome-ignore lint/suspicious/noControlCharactersInRegex: XML 1.0 forbids them
    .replaceAll(/[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/g, '\ufffd')
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');

/** JUnit's XML, one test suite for each chapter. */
export function asJunit(results: Results): string {
  const chapters = [...new Set(results.cases.map(({ chapter }) => chapter))].sort();
  const body = (result: CaseResult): string => {
    if (isSkipped(result)) return `<skipped message="${xml(`${result.verdict}: ${result.reason ?? ''}`)}"/>`;
    if (result.expectation === 'known') return `<skipped message="${xml(`known failure: ${result.known ?? ''}`)}"/>`;
    if (isQuiet(result)) return '';
    const tag = result.verdict === 'fail' || result.verdict === 'pass' ? 'failure' : 'error';
    const kind = result.expectation === 'none' ? result.verdict : result.expectation;
    const text = xml(`${result.reason ?? ''}\nagain: ${result.replay}`);
    return `<${tag} type="${kind}" message="${xml((result.reason ?? '').split('\n')[0] as string)}">${text}</${tag}>`;
  };
  const suites = chapters.map((chapter) => {
    const cases = results.cases.filter((result) => result.chapter === chapter);
    const bodies = cases.map(body);
    const number = (tag: string): number => bodies.filter((text) => text.startsWith(`<${tag}`)).length;
    const rows = cases.map(
      (c, i) =>
        `    <testcase classname="${chapter}" name="${xml(`${c.id}: ${c.title}`)}" time="${(c.durationMs / 1000).toFixed(3)}">${bodies[i]}</testcase>`,
    );
    const counts = `tests="${cases.length}" failures="${number('failure')}" errors="${number('error')}" skipped="${number('skipped')}"`;
    return `  <testsuite name="${chapter}" ${counts}>\n${rows.join('\n')}\n  </testsuite>`;
  });
  const stale = results.stale.map(
    (text) => `    <testcase classname="known-failures" name="${xml(text)}"><failure type="stale" message="${xml(text)}"/></testcase>`,
  );
  if (stale.length > 0)
    suites.push(`  <testsuite name="known-failures" tests="${stale.length}" failures="${stale.length}">\n${stale.join('\n')}\n  </testsuite>`);
  if (results.unavailable !== undefined) {
    // A document without a test case counts as green with most readers.
    const said = results.broken ? `<error type="broken" message="${xml(results.unavailable)}"/>` : `<skipped message="${xml(results.unavailable)}"/>`;
    const counts = `tests="1" failures="0" errors="${results.broken ? 1 : 0}" skipped="${results.broken ? 0 : 1}"`;
    suites.push(
      `  <testsuite name="target" ${counts}>\n    <testcase classname="target" name="${xml(results.target)}">${said}</testcase>\n  </testsuite>`,
    );
  }
  const name = xml(`${results.implementation.name} ${results.implementation.version}`);
  return `<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="${name}">\n${suites.join('\n')}\n</testsuites>\n`;
}

/** The results in one of the formats. */
export function render(results: Results, format: Format): string {
  if (format === 'json') return `${JSON.stringify(results, null, 2)}\n`;
  if (format === 'tap') return asTap(results);
  return format === 'junit' ? asJunit(results) : asSummary(results);
}

// ## Putting shards together

/**
 * Merges the results of shards of one run.
 * @throws RangeError when they are not parts of the same thing: another suite revision, implementation or target, or a case in two of them.
 */
export function mergeResults(parts: readonly Results[]): Results {
  const [first] = parts;
  if (!first) throw new RangeError('nothing to merge');
  const seen = new Set<string>();
  for (const part of parts) {
    if (part.suite.revision !== first.suite.revision)
      throw new RangeError('the results are of different revisions of the suite, so they do not compare');
    if (part.target !== first.target) throw new RangeError(`the results are of different targets: ${first.target}, ${part.target}`);
    const { name, version } = part.implementation;
    if (name !== first.implementation.name || version !== first.implementation.version) {
      throw new RangeError(
        `the results are of different implementations: ${first.implementation.name} ${first.implementation.version}, ${name} ${version}`,
      );
    }
    for (const { id } of part.cases) {
      if (seen.has(id)) throw new RangeError(`${id} is in two of the results`);
      seen.add(id);
    }
  }
  const cases = parts.flatMap((part) => part.cases).sort((a, b) => (a.id < b.id ? -1 : 1));
  const missing = first.suite.cases - cases.length;
  const stale = [
    ...new Set(parts.flatMap((part) => part.stale)),
    ...(missing > 0 ? [`${missing} of ${first.suite.cases} cases are in none of the merged results`] : []),
  ];
  const problem = parts.find((part) => part.unavailable !== undefined)?.unavailable ?? null;
  return {
    ...first,
    ...(problem !== null && { unavailable: problem }),
    ...(parts.some((part) => part.broken) && { broken: true }),
    shard: null,
    durationMs: parts.reduce((sum, part) => sum + part.durationMs, 0),
    cases,
    stale,
    summary: summarize(cases, stale, problem),
  };
}

/** The cases of a suite as a table, for `--list`. */
export function listCases(cases: readonly LoadedCase[], format: Format): string {
  if (format === 'json') {
    const rows = cases.map(({ id, title, surface, strictness, clauses, requires }) => ({ id, title, surface, strictness, clauses, requires }));
    return `${JSON.stringify(rows, null, 2)}\n`;
  }
  const width = Math.max(0, ...cases.map(({ id }) => id.length));
  return cases.map((c) => `${c.id.padEnd(width)}  ${c.surface.padEnd(5)}  ${c.strictness.padEnd(10)}  ${c.title}\n`).join('');
}
