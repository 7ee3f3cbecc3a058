// # The tree, as the checks see it
//
// Every check reads the same list of files: what git tracks, plus what it would track. Generated output is never looked at.

import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..');

/** One thing that is wrong, and where. `line` counts from 1; 0 means the whole file. */
export interface Problem {
  readonly file: string;
  readonly line: number;
  readonly message: string;
}

/** A check looks at the tree and says what is wrong with it, or why it could not look. */
export interface Check {
  readonly name: string;
  readonly what: string;
  run(tree: Tree): Promise<Problem[] | { skipped: string }> | Problem[] | { skipped: string };
}

export interface Tree {
  /** Paths relative to the root, with forward slashes. */
  readonly files: readonly string[];
  text(file: string): string;
  /** The chapter folders in reading order: `01-hardware-background`, … */
  readonly chapters: readonly string[];
}

const SKIP = new Set(['node_modules', 'out', '.git']);

function walk(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    if (SKIP.has(entry.name)) return [];
    const path = join(directory, entry.name);
    return entry.isDirectory() ? walk(path) : [relative(ROOT, path).split(sep).join('/')];
  });
}

function listFiles(): string[] {
  try {
    const listed = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
      cwd: ROOT,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    return listed.split('\0').filter((file) => file !== '' && existsSync(join(ROOT, file)));
  } catch {
    return walk(ROOT); // not a git checkout: an unpacked archive
  }
}

/** Reads the tree once; texts are cached. */
export function readTree(): Tree {
  const files = listFiles().sort();
  const cache = new Map<string, string>();
  return {
    files,
    text(file) {
      let text = cache.get(file);
      if (text === undefined) {
        text = readFileSync(join(ROOT, file), 'utf8');
        cache.set(file, text);
      }
      return text;
    },
    chapters: [...new Set(files.map((file) => /^chapters\/(\d\d-[^/]+)\//.exec(file)?.[1]).filter((name) => name !== undefined))].sort(),
  };
}

/** Line number (from 1) of a character position. */
export const lineAt = (text: string, index: number): number => text.slice(0, index).split('\n').length;

/** Tests, and the laboratories that they share. */
export const isTest = (file: string): boolean => /\.test\.ts$|\/laboratory\.ts$/.test(file);
/** Code that may use Node: tests, and anything in a `host/` folder. */
export const isHost = (file: string): boolean => isTest(file) || file.includes('/host/');
