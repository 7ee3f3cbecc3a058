// # Tidiness
//
// Small rules that keep the tree the size of a head: short files, lines that fit beside the prose, names that say something, nothing left
// for later.

import { extname } from 'node:path';
import { type Check, lineAt, type Problem, ROOT } from './tree.ts';

const MAX_COLUMNS = 170;
const MAX_LINES = 600;
/** A file that is one big table, and says so, may be longer. */
const TABLE_MARK = '// tidy: table';

const SOURCE = new Set(['.ts', '.mjs', '.S', '.c', '.h', '.css', '.html', '.md', '.json']);
// In comments only: TAP has a directive of that name. Written in pieces, so that this file does not accuse itself.
const UNFINISHED = new RegExp(`(?://|/\\*|^\\s*[*#;]).*\\b(${['TO' + 'DO', 'FIX' + 'ME', 'XX' + 'X', 'HA' + 'CK'].join('|')})\\b`, 'gm');
const BANNED_NAMES = /\b(?:class|interface|type|const|function)\s+(\w*(?:Manager|Helper|Util|Utils))\b/g;
const FOCUSED = /\b(?:it|test|describe)\.(?:only|todo)\(/g;

export const tidy: Check = {
  name: 'tidy',
  what: 'line width, file length, names, nothing unfinished, no machine paths, no download addresses in the lock file',
  run(tree) {
    const problems: Problem[] = [];
    for (const file of tree.files) {
      if (!SOURCE.has(extname(file)) || file === 'package-lock.json') continue;
      const text = tree.text(file);
      const say = (line: number, message: string): number => problems.push({ file, line, message });
      const code = /\.(ts|mjs)$/.test(file);
      const lines = text.split('\n');
      if (code && lines.length > MAX_LINES && !text.includes(TABLE_MARK)) say(0, `${lines.length} lines; the limit is ${MAX_LINES}`);
      if (code) {
        lines.forEach((line, index) => {
          if (line.length > MAX_COLUMNS && !text.includes(TABLE_MARK)) say(index + 1, `${line.length} columns; the limit is ${MAX_COLUMNS}`);
        });
      }
      for (const [pattern, what] of [
        [UNFINISHED, 'unfinished'],
        [BANNED_NAMES, 'says nothing'],
        [FOCUSED, 'hides other tests'],
      ] as const) {
        for (const match of text.matchAll(pattern)) say(lineAt(text, match.index), `'${match[1] ?? match[0]}' ${what}`);
      }
      const path = text.indexOf(`${ROOT}/`);
      if (ROOT !== '/' && path >= 0) say(lineAt(text, path), 'names a path of this machine');
    }
    const lock = tree.text('package-lock.json');
    const address = lock.indexOf('"resolved": "http');
    if (address >= 0) problems.push({ file: 'package-lock.json', line: lineAt(lock, address), message: 'records a download address' });
    return problems;
  },
};
