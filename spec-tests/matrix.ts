// # The matrix
//
// Results of several implementations, side by side: every case, and every clause. What a case found is in its result. What it means for a *clause*
// takes a rule, because a case shows several and fails on some of them:
//
// - a deviation is charged to the clause that its allowed set names, and it alone;
// - a run that came to no judgement (a time-out, a crash, a console that cannot be believed, the wrong end) speaks against all that the case shows;
// - a clause holds where a case that shows it passed, or failed on others while what it governs was as it should be, and none speaks against it;
// - where every case was refused for want of a capability, or of a surface, nothing is known, and that is what is said.

import type { Case, CaseResult, Clause, Results } from './types.ts';
import { clauseOf } from './values.ts';

/** What is known of a clause on one implementation. */
export type Standing = 'holds' | 'broken' | 'known' | 'open' | 'unsupported' | 'not-observable' | 'not-run' | 'no-case';

/** One implementation of a matrix. */
export interface Column {
  readonly target: string;
  readonly name: string;
  readonly version: string;
  /** Why it could not run here. */
  readonly unavailable: string | null;
  readonly results: Results | null;
  readonly byCase: ReadonlyMap<string, CaseResult>;
}

/** The implementations that every reader looks for, run or not, with their names for people. */
export const EXPECTED: readonly (readonly [target: string, name: string])[] = [
  ['ringbook', 'Ringbook, embedded'],
  ['ringbook-shadow', 'Ringbook, shadow paging'],
  ['host-kvm', 'Ringbook on /dev/kvm'],
  ['qemu', 'QEMU (TCG)'],
  ['v86', 'v86'],
  ['bochs', 'Bochs'],
];

/** The column that a set of results makes. */
export const columnOf = (results: Results): Column => ({
  target: results.target,
  name: EXPECTED.find(([target]) => target === results.target)?.[1] ?? results.implementation.name,
  version: results.implementation.version,
  unavailable: results.unavailable ?? null,
  results,
  byCase: new Map(results.cases.map((result) => [result.id, result])),
});

/** Whether an observation of the case is charged to the clause. */
const governs = ({ clauses: [first], allowed }: Case, clause: string): boolean =>
  Object.values(allowed.observations).some((set) => (clauseOf(set) ?? first) === clause);

/** Whether a result speaks for a clause that its case shows, or against it; `null` when it says nothing. */
function speaks(one: Case, result: CaseResult, clause: string): 'for' | 'against' | null {
  if (result.verdict === 'pass') return 'for';
  if (result.verdict !== 'fail') return 'against';
  const whole = result.failures.some(({ kind }) => kind === 'end' || kind === 'aborted' || kind === 'unfinished');
  if (whole || result.failures.some((failure) => failure.clause === clause)) return 'against';
  return governs(one, clause) ? 'for' : null;
}

/** What an implementation's results say about a clause, and the cases that say it. */
export function standingOf(clause: string, cases: readonly Case[], column: Column): { standing: Standing; cases: readonly string[] } {
  const ids = cases.map(({ id }) => id);
  if (cases.length === 0) return { standing: 'no-case', cases: ids };
  const ran = cases.flatMap((one) => {
    const result = column.byCase.get(one.id);
    return result ? [{ id: one.id, result, says: speaks(one, result, clause) }] : [];
  });
  if (ran.length === 0) return { standing: 'not-run', cases: ids };
  const of = (list: readonly { id: string }[]): string[] => list.map(({ id }) => id);
  const judged = ran.filter(({ result: { verdict } }) => verdict !== 'unsupported' && verdict !== 'not-observable');
  if (judged.length === 0) {
    return { standing: ran.every(({ result }) => result.verdict === 'not-observable') ? 'not-observable' : 'unsupported', cases: of(ran) };
  }
  const against = judged.filter(({ says }) => says === 'against');
  if (against.length > 0) return { standing: against.every(({ result }) => result.expectation === 'known') ? 'known' : 'broken', cases: of(against) };
  const holding = judged.filter(({ says }) => says === 'for');
  return holding.length > 0 ? { standing: 'holds', cases: of(holding) } : { standing: 'open', cases: of(judged) };
}

/** In words, as tables show it. */
export const STANDING_WORDS: Readonly<Record<Standing, string>> = {
  holds: 'holds',
  broken: 'deviates',
  known: 'deviates, known',
  open: 'open',
  unsupported: 'unsupported',
  'not-observable': 'not observable',
  'not-run': 'not run',
  'no-case': 'no case',
};

/** The verdict on a case with its expectation, in one or two words. */
export function verdictWord({ verdict, expectation }: CaseResult): string {
  if (expectation === 'known') return 'known';
  return expectation === 'none' ? verdict.replace('-', ' ') : expectation.replace('-', ' ');
}

/** How a verdict or a standing is coloured. */
export const toneOf = (word: string): 'pass' | 'fail' | 'known' | 'none' => {
  if (word === 'pass' || word === 'holds') return 'pass';
  if (word === 'known' || word === 'deviates, known') return 'known';
  const nothing = ['unsupported', 'not observable', 'not run', 'no case', 'open', '–'];
  return nothing.includes(word) ? 'none' : 'fail';
};

export interface MatrixDocument {
  readonly schema: 'urn:ringbook:matrix:1';
  readonly suite: string;
  readonly implementations: readonly { target: string; name: string; version: string; unavailable?: string; summary?: Results['summary'] }[];
  readonly cases: readonly {
    id: string;
    title: string;
    chapter: string;
    strictness: string;
    clauses: readonly string[];
    verdicts: Record<string, string>;
  }[];
  readonly clauses: readonly (Pick<Clause, 'id' | 'strength' | 'binds' | 'source' | 'summary'> & {
    cases: readonly string[];
    standings: Record<string, Standing>;
  })[];
}

/** Everything as one document, for programs. */
export function matrixOf(revision: string, cases: ReadonlyMap<string, Case>, clauses: Iterable<Clause>, columns: readonly Column[]): MatrixDocument {
  const showing = casesOfClauses(cases.values());
  return {
    schema: 'urn:ringbook:matrix:1',
    suite: revision,
    implementations: columns.map(({ target, name, version, unavailable, results }) => ({
      target,
      name,
      version,
      ...(unavailable !== null && { unavailable }),
      ...(results && { summary: results.summary }),
    })),
    cases: [...cases.values()].map(({ id, title, chapter, strictness, clauses: shown }) => ({
      id,
      title,
      chapter,
      strictness,
      clauses: shown,
      verdicts: Object.fromEntries(
        columns.map(({ target, byCase }) => {
          const result = byCase.get(id);
          return [target, result ? verdictWord(result) : 'not run'];
        }),
      ),
    })),
    clauses: [...clauses].map(({ id, strength, binds, source, summary }) => ({
      id,
      strength,
      binds,
      source,
      summary,
      cases: (showing.get(id) ?? []).map((one) => one.id),
      standings: Object.fromEntries(columns.map((column) => [column.target, standingOf(id, showing.get(id) ?? [], column).standing])),
    })),
  };
}

/** Which cases show a clause. */
export function casesOfClauses(cases: Iterable<Case>): Map<string, Case[]> {
  const showing = new Map<string, Case[]>();
  for (const one of cases) for (const clause of one.clauses) showing.set(clause, [...(showing.get(clause) ?? []), one]);
  return showing;
}
