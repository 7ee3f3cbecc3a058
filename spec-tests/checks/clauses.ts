// # Clauses, both ways
//
// A clause is one normative statement of a specification, with an id. Code that obeys it names it (`@clause id`); a case that shows it lists
// it. An id that the catalogue does not know is a typing error; a MUST that nothing shows is a promise nobody keeps.

import { type Check, isTest, lineAt, type Problem } from './tree.ts';

interface Clause {
  readonly id: string;
  readonly strength: string;
  /** Whose duty it is. */
  readonly binds: string;
  /** Why no code or case can show it; with one, none is asked for. */
  readonly waiver?: string;
}

export const clauses: Check = {
  name: 'clauses',
  what: 'every clause id is in the catalogue; every MUST of a device has code and a case, one of a driver has code; or a waiver',
  run(tree) {
    const problems: Problem[] = [];
    const catalogue = new Map<string, { clause: Clause; file: string; line: number }>();
    for (const file of tree.files.filter((name) => /^spec-tests\/clauses\/.*\.json$/.test(name))) {
      const text = tree.text(file);
      for (const clause of JSON.parse(text) as Clause[]) {
        const line = lineAt(text, text.indexOf(`"${clause.id}"`));
        if (catalogue.has(clause.id)) problems.push({ file, line, message: `clause '${clause.id}' is defined twice` });
        catalogue.set(clause.id, { clause, file, line });
      }
    }

    const inCode = new Set<string>();
    for (const file of tree.files.filter((name) => /^(chapters|guest-payloads)\/.*\.(ts|S|c|h)$/.test(name) && !isTest(name))) {
      const text = tree.text(file);
      for (const match of text.matchAll(/@clause[ \t]+([^\s*`]+)/g)) {
        const id = match[1] as string;
        inCode.add(id);
        if (!catalogue.has(id)) problems.push({ file, line: lineAt(text, match.index), message: `no clause '${id}' in the catalogue` });
      }
    }

    const inCases = new Set<string>();
    for (const file of tree.files.filter((name) => /^spec-tests\/cases\/.*\.json$/.test(name))) {
      const text = tree.text(file);
      for (const id of (JSON.parse(text) as { clauses?: string[] }).clauses ?? []) {
        inCases.add(id);
        if (!catalogue.has(id)) problems.push({ file, line: lineAt(text, text.indexOf(`"${id}"`)), message: `no clause '${id}' in the catalogue` });
      }
    }

    for (const [id, { clause, file, line }] of catalogue) {
      // A permission needs nobody. What binds the driver is our own driver's duty: a suite that is the driver cannot watch one.
      if (clause.waiver || clause.strength === 'may') continue;
      if (clause.binds === 'driver') {
        if (!inCode.has(id)) problems.push({ file, line, message: `'${id}' has no code, and no waiver` });
        continue;
      }
      const missing = [inCode.has(id) ? null : 'code', inCases.has(id) ? null : 'case'].filter((what) => what !== null);
      const orphan = missing.length === 2;
      if (orphan || (clause.strength === 'must' && missing.length > 0))
        problems.push({ file, line, message: `'${id}' has no ${missing.join(' and no ')}, and no waiver` });
    }
    return problems;
  },
};
