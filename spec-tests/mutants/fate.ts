// # The fate of a mutant
//
// A verdict must not depend on the company in which a mutant was tried, nor on how busy the computer was. There are three, because "nobody noticed" and
// "nobody was asked" are different things:
//
// - *killed*: a case that shows the clause came to another end than the machine as it is comes to;
// - *survived*: at least one such case was judged, and all that were judged passed;
// - *undecided*: the machine did not start, the changed module was never loaded, or none of the cases could be asked of this machine.
//
// A guest counts its time in instructions, so most ends say something by themselves. A time-out or a crash may as well come from a computer that has too much to
// do: those count only if the same case, on the machine as it is and right now, passes. Where it does not, everything is asked again with more time.

import { type RunOptions, type RunOutcome, runCases } from '../runner.ts';
import type { LoadedCase, Suite } from '../suite.ts';
import type { Adapter, CaseResult } from '../types.ts';

export type Fate =
  | { readonly verdict: 'killed'; readonly by: CaseResult }
  | { readonly verdict: 'survived'; readonly passed: number }
  | { readonly verdict: 'undecided'; readonly why: string };

/** A machine for one run of cases. */
export type Make = () => Promise<Adapter> | Adapter;

export interface Trial {
  readonly suite: Suite;
  /** Those that show the clause. */
  readonly cases: readonly LoadedCase[];
  readonly target: string;
  /** The machine with the mutant in it. */
  readonly broken: Make;
  /** The machine as it is. */
  readonly whole: Make;
  readonly graceMs?: number;
}

const QUIET: ReadonlySet<string> = new Set(['pass', 'unsupported', 'not-observable']);
/** Verdicts that a busy computer can bring about by itself. */
const HASTY: ReadonlySet<string> = new Set(['timeout', 'crash']);
/** How much longer everything may take when it has taken too long. */
const PATIENCE = 8;
const noticed = ({ verdict }: CaseResult): boolean => !QUIET.has(verdict);

const undecided = (why: string): Fate => ({ verdict: 'undecided', why });

function ask(
  { suite, target, graceMs }: Trial,
  cases: readonly LoadedCase[],
  makeAdapter: Make,
  more: Partial<RunOptions> = {},
): Promise<RunOutcome> {
  return runCases({ suite, cases, target, makeAdapter, ...(graceMs !== undefined && { graceMs }), ...more });
}

const patiently = (cases: readonly LoadedCase[], times: number): LoadedCase[] =>
  cases.map((each) => ({ ...each, limits: { ...each.limits, timeoutMs: times * each.limits.timeoutMs } }));

/** Asks the machine with the mutant in it, case by case, until one notices. A text: the time was too short to tell. */
async function tryWithin(trial: Trial, times: number): Promise<Fate | string> {
  const cases = patiently(trial.cases, times);
  const outcome = await ask(trial, cases, trial.broken, { share: true, enough: noticed });
  if (!outcome.started) return undecided(`the machine does not start: ${outcome.broken ?? outcome.unavailable}`);
  const by = outcome.results.find(noticed);
  if (!by) {
    const passed = outcome.results.filter(({ verdict }) => verdict === 'pass').length;
    if (passed > 0) return { verdict: 'survived', passed };
    return undecided(`none of its cases can be asked of this machine: ${outcome.results.find(({ reason }) => reason)?.reason ?? 'no reason given'}`);
  }
  if (!HASTY.has(by.verdict)) return { verdict: 'killed', by };
  const whole = await ask(trial, patiently([trial.suite.cases.find(({ id }) => id === by.id) as LoadedCase], times), trial.whole);
  const now = whole.results[0]?.verdict ?? 'error';
  return now === 'pass'
    ? { verdict: 'killed', by }
    : `${by.id} ends with ${by.verdict}, and on the machine as it is with ${now}: is the computer too busy?`;
}

export async function tryMutant(trial: Trial): Promise<Fate> {
  if (trial.cases.length === 0) return undecided('no case shows its clause');
  let fate = await tryWithin(trial, 1);
  if (typeof fate === 'string') fate = await tryWithin(trial, PATIENCE);
  return typeof fate === 'string' ? undecided(fate) : fate;
}

/** Which of the cases that noticed something do not pass on the machine as it is, and so have noticed nothing. */
export async function falseWitnesses(trial: Omit<Trial, 'broken'>): Promise<ReadonlyMap<string, string>> {
  const { results } = await ask({ ...trial, broken: trial.whole }, patiently(trial.cases, PATIENCE), trial.whole, { share: true });
  const verdicts = new Map(results.map(({ id, verdict }) => [id, verdict]));
  return new Map(trial.cases.map(({ id }) => [id, verdicts.get(id) ?? 'error'] as const).filter(([, verdict]) => verdict !== 'pass'));
}
