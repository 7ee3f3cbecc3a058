// # Imports go backward
//
// A chapter may use what earlier chapters built, never what later ones will. And the modules of a chapter run in a browser: what needs Node
// sits in a `host/` folder.

import { posix } from 'node:path';
import { type Check, isHost, lineAt, type Problem } from './tree.ts';

const IMPORT = /(?:^|\n)\s*(?:import|export)\s(?:[^'";]*?\sfrom\s)?['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]\s*\)/g;

/** Every module specifier in a file, with its line. */
export function importsOf(text: string): { specifier: string; line: number }[] {
  return [...text.matchAll(IMPORT)].map((match) => ({ specifier: match[1] ?? match[2] ?? '', line: lineAt(text, match.index + match[0].length) }));
}

const chapterNumber = (path: string): number | null => {
  const match = /^chapters\/(\d\d)-/.exec(path);
  return match ? Number(match[1]) : null;
};

export const imports: Check = {
  name: 'imports',
  what: 'no chapter imports a later one, another room, or (outside host/) Node',
  run(tree) {
    const problems: Problem[] = [];
    for (const file of tree.files.filter((name) => /^chapters\/\d\d-.*\.ts$/.test(name))) {
      const own = chapterNumber(file) as number;
      for (const { specifier, line } of importsOf(tree.text(file))) {
        const say = (message: string): number => problems.push({ file, line, message });
        if (specifier.startsWith('.')) {
          const target = posix.normalize(posix.join(posix.dirname(file), specifier));
          const other = chapterNumber(target);
          if (other !== null && other > own) say(`imports forward: ${target}`);
          if (other === null && !isHost(file)) say(`imports from outside the chapters: ${target}`);
          if (!isHost(file) && target.includes('/host/')) say(`imports a host/ module: ${target}`);
        } else if (!isHost(file)) {
          say(`imports the package '${specifier}'; only host/ folders and tests may`);
        }
      }
    }
    return problems;
  },
};
