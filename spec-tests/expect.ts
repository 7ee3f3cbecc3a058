// # Known failures
//
// No implementation passes everything, and a suite that is always red is not read. So a deviation that has been understood is written down: in
// which version, which case, the exact value observed, and who is right according to which section. From then on the row is a claim that is
// checked at every run. If the case passes, somebody repaired it and the row must go. If the value changed, it is another bug. If the row
// matches nothing, it is left over. Each of the three fails the run. Where the deviation itself is that a value comes from a running clock or
// counter, the row says `*`: whatever it is now.

import type { CaseResult, Failure, KnownFailures, KnownRow } from './types.ts';

/** In place of an observed value: it is another one each time, now and then by chance an allowed one. */
const VARIES = '*';

/** Whether a row speaks of this version: exact, or a prefix that ends in `*`. */
export const versionMatches = (pattern: string, version: string): boolean =>
  pattern.endsWith('*') ? version.startsWith(pattern.slice(0, -1)) : pattern === version;

/** A failure's deviations as the known-failures file writes them. */
export const observedOf = (failures: readonly Failure[]): Record<string, string> =>
  Object.fromEntries(failures.map(({ key, observed }) => [key, observed]));

function compare(row: KnownRow, result: CaseResult): CaseResult {
  if (result.verdict === 'pass')
    return { ...result, expectation: 'unexpected-pass', reason: `passes, but is listed as a known failure: ${row.reason}`, known: row.reason };
  const changed = (how: string): CaseResult => ({ ...result, expectation: 'changed', known: row.reason, reason: `${how}; ${result.reason ?? ''}` });
  if (result.verdict !== row.verdict) return changed(`the known failure is '${row.verdict}', now it is '${result.verdict}'`);
  if (row.verdict === 'fail') {
    const now = observedOf(result.failures);
    const before = row.observed ?? {};
    for (const key of new Set([...Object.keys(before), ...Object.keys(now)])) {
      if (before[key] === now[key] || before[key] === VARIES) continue;
      if (now[key] === undefined) return changed(`the known failure's ${key} no longer deviates`);
      if (before[key] === undefined) return changed(`${key} = ${now[key]} is a deviation that the known failure does not list`);
      return changed(`the known failure observed ${key} = ${before[key]}, now it is ${now[key]}`);
    }
  }
  return { ...result, expectation: 'known', known: row.reason };
}

/**
 * Applies known failures to results. A case that could not be run here (unsupported, not observable) neither confirms nor refutes its row.
 * @param selected  ids of the cases that were selected to run; rows of other cases are not judged.
 * @param all       ids of every case in the suite.
 */
export function applyKnown(
  known: KnownFailures | null,
  implementation: { readonly name: string; readonly version: string },
  results: readonly CaseResult[],
  all: ReadonlySet<string>,
): { results: CaseResult[]; stale: string[] } {
  const rows = (known?.rows ?? []).filter(
    (row) => known?.implementation === implementation.name && versionMatches(row.version, implementation.version),
  );
  const stale: string[] = [];
  const byCase = new Map<string, KnownRow>();
  for (const row of rows) {
    if (!all.has(row.case)) stale.push(`known failure of ${row.case}: there is no such case`);
    else if (byCase.has(row.case)) stale.push(`known failure of ${row.case}: listed twice for ${implementation.name}@${implementation.version}`);
    else byCase.set(row.case, row);
  }
  const out = results.map((result) => {
    const row = byCase.get(result.id);
    if (!row) return result;
    if (result.verdict === 'unsupported' || result.verdict === 'not-observable') {
      stale.push(`known failure of ${result.id}: the case is ${result.verdict} here, so it cannot fail`);
      return result;
    }
    return compare(row, result);
  });
  return { results: out, stale };
}
