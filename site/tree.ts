// # The tree, as the site sees it
//
// The site shows four rooms. What belongs to which, in what order it is read, and what a page is called, is decided here and nowhere else.
//
// The reading order of a chapter: `index.ts` first; then the modules that its `::include` marks name, in that order, a module's own marks right
// after it; a mark that names a folder (`::include mmu/`) places all of that folder; then whatever is left, folder by folder, each module after
// those it imports. So a chapter whose spine is not written yet still reads sensibly.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Literate, parseLiterate } from './literate.ts';

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');

/** One literate file with its place in the book. */
export interface Module extends Literate {
  readonly text: string;
  /** Where its page goes, relative to the site's root: `chapters/01-…/mmu/walk.html`. */
  readonly page: string;
}

/** A chapter, or one of the other rooms: modules in reading order, and its tests. */
export interface Room {
  /** Folder relative to the root. */
  readonly folder: string;
  readonly title: string;
  /** Chapter number; null for the other rooms. */
  readonly number: number | null;
  readonly modules: readonly Module[];
  readonly tests: readonly Module[];
  /** Figures by name. */
  readonly figures: ReadonlyMap<string, string>;
}

const SKIP = new Set(['node_modules', 'out', 'images', '.git']);

/** Files under a folder of the tree, as paths relative to `root`, forward slashes, sorted. */
export function filesUnder(root: string, folder: string): string[] {
  const start = join(root, folder);
  if (!existsSync(start)) return [];
  return readdirSync(start, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join('/'))
    .filter((path) => !path.split('/').some((part) => SKIP.has(part)))
    .sort();
}

/** The page of a source file. `index.ts` is its folder's index page. */
export const pageOf = (file: string): string => (/\.(ts|mjs|js)$/.test(file) ? file.replace(/\.(ts|mjs|js)$/, '.html') : `${file}.html`);

const isTest = (file: string): boolean => /\.test\.ts$/.test(file);
const isFigure = (file: string): boolean => /^chapters\/[^/]+\/figures\//.test(file);

const load = (root: string, file: string): Module => {
  const text = readFileSync(join(root, file), 'utf8');
  return { ...parseLiterate(file, text), text, page: pageOf(file) };
};

/** The file that a relative path written in `from` means. */
export const resolveFrom = (from: string, path: string): string => posix.normalize(posix.join(posix.dirname(from), path));

/** Puts modules in reading order. */
export function readingOrder(modules: readonly Module[], folder: string): Module[] {
  const byFile = new Map(modules.map((module) => [module.file, module]));
  const ordered = new Set<Module>();
  const place = (module: Module): void => {
    if (ordered.has(module)) return;
    ordered.add(module);
    for (const block of module.blocks) {
      if (block.kind !== 'include' || block.name.includes('#')) continue;
      const target = resolveFrom(module.file, block.name);
      const included = byFile.get(target);
      if (included) place(included);
      else if (target.endsWith('/')) for (const inside of modules) if (inside.file.startsWith(target)) placeAfterImports(inside);
    }
  };
  const entering = new Set<Module>();
  const placeAfterImports = (module: Module): void => {
    if (ordered.has(module) || entering.has(module)) return;
    entering.add(module);
    for (const specifier of module.imports) {
      const imported = specifier.startsWith('.') ? byFile.get(resolveFrom(module.file, specifier)) : undefined;
      if (imported) placeAfterImports(imported);
    }
    place(module);
  };
  const index = byFile.get(`${folder}/index.ts`);
  if (index) place(index);
  // Shallow files first: a chapter's own modules before those of its folders.
  const rest = [...modules].sort((a, b) => a.file.split('/').length - b.file.split('/').length || (a.file < b.file ? -1 : 1));
  const placed = ordered.size;
  for (const module of rest) placeAfterImports(module);
  const all = [...ordered];
  const left = Map.groupBy(all.slice(placed), ({ file }) => posix.dirname(file));
  const own = left.get(folder) ?? [];
  left.delete(folder);
  return [...all.slice(0, placed), ...own, ...[...left.values()].flat()];
}

const plainTitle = (folder: string): string => {
  const name = folder.replace(/^.*\/\d\d-/, '').replace(/-/g, ' ');
  const spelled = name.replace(/\b(kvm|vcpu|pio|mmio|vtd)\b/g, (word) => ({ vcpu: 'vCPU', vtd: 'VT-d' })[word] ?? word.toUpperCase());
  return /^v/.test(spelled) ? `The ${spelled}` : `${spelled.charAt(0).toUpperCase()}${spelled.slice(1)}`;
};

function readRoom(root: string, folder: string, number: number | null, title: string, keep: (file: string) => boolean): Room {
  const files = filesUnder(root, folder).filter(keep);
  const sources = files.filter((file) => /\.(ts|mjs)$/.test(file));
  const modules = readingOrder(
    sources.filter((file) => !isTest(file) && !isFigure(file)).map((file) => load(root, file)),
    folder,
  );
  const figures = new Map(sources.filter((file) => isFigure(file) && !isTest(file)).map((file) => [posix.basename(file, '.ts'), file]));
  const spine = modules.find(({ file }) => file === `${folder}/index.ts`);
  const own = spine && /^#\s/m.test(spine.text.replace(/^\/\/ /gm, '')) ? spine.title.replace(/^(?:Chapter\s+)?\d+[.:]?\s+/i, '') : title;
  return { folder, title: number === null ? title : own, number, modules, tests: sources.filter(isTest).map((file) => load(root, file)), figures };
}

/** The whole tree. Chapters come first, in order; then the rooms that serve them. */
export function readRooms(root = ROOT): Room[] {
  const folders = readdirSync(join(root, 'chapters'), { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && /^\d\d-/.test(entry.name))
    .map((entry) => entry.name)
    .sort();
  const chapters = folders.map((name) => readRoom(root, `chapters/${name}`, Number(name.slice(0, 2)), plainTitle(`chapters/${name}`), () => true));
  return [
    ...chapters.filter(({ modules }) => modules.length > 0),
    readRoom(root, 'spec-tests', null, 'The suite', (file) => file.endsWith('.ts')),
    readRoom(root, 'guest-payloads', null, 'The payload build', (file) => file.endsWith('.ts')),
    readRoom(root, 'site', null, 'The site', (file) => file.endsWith('.ts')),
  ];
}
