// # The judge
//
// The adapter says what it saw; only this module says whether that is right. It knows nothing about how the observation was made, so the
// same allowed set is applied to a machine in this process, to a program at the other end of a pipe and to a real processor.
//
// A failure has to be useful to somebody who has never seen the suite: it names the clause, what was observed, and what would have been
// allowed. The three ways to miss the set (a *wrong* value, a *missing* one, one that *nobody allowed*) are three different sentences, because
// they have different causes.

import type { Report } from './console.ts';
import type { AllowedSet, Case, Clause, Failure } from './types.ts';
import { admitsAll, clauseOf, describeSet, isOptional, type Resolve } from './values.ts';

/** Finds a clause's text, for the sentence that a failure makes. */
export type ClauseText = (id: string) => Clause | undefined;

export interface JudgeContext {
  readonly clause?: ClauseText;
  readonly resolve?: Resolve;
  /** Why a key is missing, where that is known (the step before it was skipped). */
  readonly whyMissing?: (key: string) => string | null;
}

/** Names a clause; in full the first time, by its id alone after that. */
const cite = (id: string, clause?: ClauseText, cited?: Set<string>): string => {
  const found = cited?.has(id) ? undefined : clause?.(id);
  cited?.add(id);
  return found ? `${id} (${found.summary.replace(/\.$/, '')}; ${found.source})` : id;
};

/** Compares observations with a case's sets. The order of keys is free; the order of values under one key is not. */
export function judgeObservations(testCase: Case, observed: readonly (readonly [string, string])[], context: JudgeContext = {}): Failure[] {
  const { clause, resolve } = context;
  const byKey = new Map<string, string[]>();
  for (const [key, value] of observed) {
    const values = byKey.get(key);
    if (values) values.push(value);
    else byKey.set(key, [value]);
  }
  const failures: Failure[] = [];
  const first = testCase.clauses[0] as string;
  const cited = new Set<string>();

  for (const [key, set] of Object.entries(testCase.allowed.observations)) {
    const values = byKey.get(key);
    byKey.delete(key);
    const charged = clauseOf(set) ?? first;
    const allowed = describeSet(set, resolve);
    if (values === undefined) {
      if (isOptional(set)) continue;
      const why = context.whyMissing?.(key);
      failures.push({
        kind: 'missing',
        key,
        clause: charged,
        observed: '(absent)',
        allowed,
        text: `missing ${key}: nothing was observed${why ? ` (${why})` : ''}, where ${allowed} is required by ${cite(charged, clause, cited)}`,
      });
      continue;
    }
    const { ok, index } = admitsAll(set, values, resolve);
    if (ok) continue;
    const shown = values.join(', ');
    const problem = index !== null ? `wrong ${key}: observed ${shown}` : `wrong ${key}: observed ${values.length} times (${shown})`;
    failures.push({
      kind: 'wrong',
      key,
      clause: charged,
      observed: shown,
      allowed,
      text: `${problem}; allowed: ${allowed}, by ${cite(charged, clause, cited)}`,
    });
  }

  if (testCase.allowed.others !== 'ignore') {
    for (const [key, values] of byKey) {
      const shown = values.join(', ');
      failures.push({
        kind: 'unexpected',
        key,
        clause: first,
        observed: shown,
        allowed: 'no observation',
        text: `unexpected ${key}: observed ${shown}, which the case does not provide for (it shows ${cite(first, clause, cited)})`,
      });
    }
  }
  return failures;
}

/** Judges a guest's run: how it ended, whether it said so, and what it observed. */
export function judgeGuest(
  testCase: Case,
  run: { readonly end: string; readonly exitValue?: string; readonly console?: string },
  report: Report,
  context: JudgeContext = {},
): Failure[] {
  const failures: Failure[] = [];
  const clause = testCase.clauses[0] as string;
  const ends: readonly string[] = testCase.allowed.end ?? [];
  const where = report.stage === null ? '' : ` after stage '${report.stage}'`;

  if (report.aborted !== null) {
    failures.push({
      kind: 'aborted',
      key: 'abort',
      clause,
      observed: report.aborted,
      allowed: 'no abort',
      text: `aborted${where}: the payload gave up at ${report.aborted}`,
    });
  }
  if (!ends.includes(run.end)) {
    failures.push({
      kind: 'end',
      key: 'end',
      clause,
      observed: run.end,
      allowed: ends.join(' or '),
      text: `wrong end: the run ended by ${run.end}${where}; allowed: ${ends.join(' or ')}, by ${cite(clause, context.clause)}`,
    });
  } else if (run.end === 'debug-exit' && report.aborted === null) {
    const set: AllowedSet = testCase.allowed.exitValue ?? '0x0';
    const observed = run.exitValue ?? '(absent)';
    if (!admitsAll(set, [observed]).ok) {
      const allowed = describeSet(set);
      failures.push({
        kind: 'end',
        key: 'exit-value',
        clause,
        observed,
        allowed,
        text: `wrong exit value: the guest wrote ${observed} to the debug-exit port${where}; allowed: ${allowed}`,
      });
    }
  }
  const said = Buffer.from(run.console ?? '', 'base64').toString('latin1');
  const { console: mustSay } = testCase.allowed;
  if (mustSay !== undefined && !said.endsWith(mustSay)) {
    failures.push({
      kind: 'wrong',
      key: 'console',
      clause,
      observed: JSON.stringify(said.slice(-80)),
      allowed: JSON.stringify(mustSay),
      text: `wrong console: it ends with ${JSON.stringify(said.slice(-80))}; the payload's last words are ${JSON.stringify(mustSay)}`,
    });
  }
  const mustSayDone = testCase.allowed.done ?? (ends.length === 1 && ends[0] === 'debug-exit');
  if (mustSayDone && !report.done && report.aborted === null) {
    failures.push({
      kind: 'unfinished',
      key: 'done',
      clause,
      observed: '(absent)',
      allowed: 'done',
      text: `unfinished: the payload ended${where} without saying that it was done`,
    });
  }
  return [...failures, ...judgeObservations(testCase, report.observations, context)];
}
