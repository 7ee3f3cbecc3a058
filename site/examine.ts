// # Examining the text
//
// The drift checks ask for what a build would find, without the site: every figure drawn, every expression evaluated, every link and include
// followed. Pages are made and thrown away; only colour is left out, because it is slow and cannot be wrong.

import type { Problem } from './literate.ts';
import { renderTree } from './render.ts';
import { ROOT } from './tree.ts';

export interface Examined {
  /** Distinct clause ids that code claims to obey. */
  readonly clauses: readonly string[];
  /** Figures and layouts drawn, and expressions evaluated. */
  readonly figures: number;
  readonly expressions: number;
  readonly problems: readonly Problem[];
}

/** Reads, evaluates and renders the whole tree's prose. */
export async function examineTree(root = ROOT): Promise<Examined> {
  const site = await renderTree(root, { colour: false, apiPages: false });
  const clauses = new Set(site.rooms.flatMap(({ modules }) => modules.flatMap((module) => module.clauses.map(({ id }) => id))));
  return { clauses: [...clauses].sort(), figures: site.evaluator.figures, expressions: site.evaluator.expressions, problems: site.allProblems() };
}
