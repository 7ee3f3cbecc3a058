// # The suite's data
//
// Clauses, cases and results are files of the suite's own making, validated there; the site reads them and fails on what it cannot use. A
// results file that is absent is no error: its column says "not run".

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Instance, instancesOf } from '../spec-tests/instances.ts';
import { type Column, columnOf, EXPECTED } from '../spec-tests/matrix.ts';
import type { ListedClause } from '../spec-tests/pages.ts';
import type { Case, Clause, KnownFailures, Results } from '../spec-tests/types.ts';
import type { Room } from './tree.ts';

export interface ClauseSeen extends ListedClause {
  readonly cases: readonly string[];
}

export interface Suite {
  readonly clauses: ReadonlyMap<string, ClauseSeen>;
  readonly cases: ReadonlyMap<string, Instance>;
  readonly columns: readonly Column[];
  readonly known: readonly KnownFailures[];
}

const jsonUnder = (root: string, folder: string): { path: string; value: unknown }[] => {
  const start = join(root, folder);
  if (!existsSync(start)) return [];
  return readdirSync(start, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.json'))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort()
    .map((path) => {
      try {
        return { path, value: JSON.parse(readFileSync(path, 'utf8')) as unknown };
      } catch (error) {
        throw new Error(`${path}: ${error instanceof Error ? error.message : error}`);
      }
    });
};

/** Reads the catalogue, the cases and whatever results there are. `resultFiles` are read besides those in spec-tests/out. */
export function readSuite(root: string, rooms: readonly Room[], resultFiles: readonly string[]): Suite {
  const cases = new Map<string, Instance>();
  for (const { value } of jsonUnder(root, 'spec-tests/cases')) for (const one of instancesOf(value as Case)) cases.set(one.id, one);

  const marks = new Map<string, { file: string; line: number }[]>();
  for (const { modules } of rooms)
    for (const { file, clauses } of modules) for (const { id, line } of clauses) marks.set(id, [...(marks.get(id) ?? []), { file, line }]);
  const clauses = new Map<string, ClauseSeen>();
  for (const { path, value } of jsonUnder(root, 'spec-tests/clauses')) {
    const list = (path.split(/[\\/]/).at(-1) as string).replace(/\.json$/, '');
    for (const clause of value as Clause[]) {
      const shown = [...cases.values()].filter((one) => one.clauses.includes(clause.id)).map(({ id }) => id);
      clauses.set(clause.id, { ...clause, list, code: marks.get(clause.id) ?? [], cases: shown });
    }
  }

  const out = join(root, 'spec-tests/out');
  const found = existsSync(out) ? readdirSync(out).filter((name) => /^results-.*\.json$/.test(name)) : [];
  const files = [...found.map((name) => join(out, name)), ...resultFiles];
  const byTarget = new Map<string, Results>();
  for (const file of files) {
    const results = JSON.parse(readFileSync(file, 'utf8')) as Results;
    if (!Array.isArray(results.cases) || typeof results.target !== 'string') throw new Error(`${file}: not a results file`);
    byTarget.set(results.target, results); // a file named on the command line replaces the one lying about
  }
  const absent = EXPECTED.filter(([target]) => !byTarget.has(target)).map(
    ([target, name]): Column => ({ target, name, version: '', unavailable: null, results: null, byCase: new Map() }),
  );
  const order = (target: string): number => (EXPECTED.findIndex(([name]) => name === target) + EXPECTED.length + 1) % (EXPECTED.length + 1);
  const columns = [...[...byTarget.values()].map(columnOf), ...absent].sort((a, b) => order(a.target) - order(b.target));
  const known = jsonUnder(root, 'spec-tests/known-failures').map(({ value }) => value as KnownFailures);
  return { clauses, cases, columns, known };
}
