// # The build
//
// `ringbook site` renders the whole tree. Everything is made in memory first and written at the end, into a folder whose contents then replace the
// old ones: a build that finds an unknown figure or an expression that no longer evaluates ends with the list of them and changes nothing.

import { spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { bundleClient } from './bundle.ts';
import { buildIndex } from './client/search.ts';
import { renderTree } from './render.ts';
import { ROOT } from './tree.ts';

/** The parts of a build that can be left out while working on another. Pages are always made. */
export const PARTS = ['pages', 'client', 'api'] as const;
export type Part = (typeof PARTS)[number];

export interface BuildOptions {
  readonly out: string;
  readonly results?: readonly string[];
  readonly parts?: readonly Part[];
  /** Keep going when prose has problems; they are returned and shown in the page. */
  readonly tolerant?: boolean;
  /** Code without colours: two thirds of the time. */
  readonly plain?: boolean;
}

export interface Built {
  readonly out: string;
  readonly pages: number;
  readonly searchEntries: number;
  readonly problems: readonly string[];
  readonly milliseconds: number;
}

const SITE = dirname(fileURLToPath(import.meta.url));

/** Runs TypeDoc beside the rest. */
function startApi(out: string): Promise<void> {
  return new Promise((done, failed) => {
    const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', join(SITE, 'api.ts'), out], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-4000);
    });
    child.on('error', failed);
    child.on('exit', (code) => (code === 0 ? done() : failed(new Error(`the API pages failed (exit ${code}):\n${said.trim()}`))));
  });
}

/** The folder to write into must be ours to replace: absent, empty, or a site we made. */
function checkOut(out: string): void {
  if (existsSync(out) && !existsSync(join(out, '.ringbook-site'))) {
    if (readdirSync(out).some((name) => !name.startsWith('.building-')))
      throw new Error(`${out} is not a site that this command made; it will not be replaced`);
  }
}

/** Builds the site. Throws with the list of problems when prose has any, unless `tolerant`. */
export async function buildSite({ out, results = [], parts = PARTS, tolerant = false, plain = false }: BuildOptions): Promise<Built> {
  const began = performance.now();
  checkOut(out);
  const building = join(resolve(out), `.building-${process.pid}`); // inside, so that both are on one file system and equally ignored
  mkdirSync(building, { recursive: true });
  try {
    const api = parts.includes('api') ? startApi(join(building, 'api')) : null;
    api?.catch(() => {}); // awaited below; a failure before that must not go unhandled
    const client = parts.includes('client') ? bundleClient(SITE) : null;
    client?.catch(() => {});

    const site = await renderTree(ROOT, { colour: !plain, apiPages: api !== null, results });
    const problems = site.allProblems().map(({ file, line, message }) => `${file}:${line}: ${message}`);
    if (problems.length > 0 && !tolerant)
      throw new Error(`the text has ${problems.length} ${problems.length === 1 ? 'problem' : 'problems'}:\n  ${problems.join('\n  ')}`);

    const entries = site.search.map(({ title, where, href, text, kind }, id) => ({
      id,
      title,
      where,
      href,
      text,
      kind,
      excerpt: text.slice(0, 180),
    }));
    site.write('assets/search-index.js', `window.ringbookIndex=${JSON.stringify(buildIndex(entries))};\n`);
    if (client) for (const [path, content] of await client) site.write(path, content);
    for (const [path, content] of site.files) {
      const target = join(building, path);
      mkdirSync(dirname(target), { recursive: true });
      writeFileSync(target, content);
    }
    writeFileSync(join(building, '.ringbook-site'), '');
    await api;
    for (const old of readdirSync(out)) {
      if (old.startsWith('.building-') || (old === 'assets' && !client)) continue; // a build without scripts keeps the ones that are there
      rmSync(join(out, old), { recursive: true, force: true });
    }
    for (const made of readdirSync(building)) {
      if (made === 'assets' && existsSync(join(out, made))) cpSync(join(building, made), join(out, made), { recursive: true });
      else renameSync(join(building, made), join(out, made));
    }
    return {
      out,
      pages: [...site.files.keys()].filter((path) => path.endsWith('.html')).length,
      searchEntries: entries.length,
      problems,
      milliseconds: performance.now() - began,
    };
  } finally {
    rmSync(building, { recursive: true, force: true });
  }
}

async function main(): Promise<void> {
  const collect = (value: string, all: string[]): string[] => [...all, value];
  const options = new Command('ringbook site')
    .description('Render the whole tree as a static site.')
    .option('--out <folder>', 'where to write it', join(ROOT, 'site', 'out'))
    .option('--results <file>', 'a results file of the suite, besides those in spec-tests/out (repeatable)', collect, [])
    .option('--only <parts>', `only these parts, comma-separated: ${PARTS.join(', ')}`)
    .option('--tolerant', 'write the site even if figures or expressions fail; the failures show in the page')
    .option('--plain', 'code without colours, which is quicker')
    .parse()
    .opts<{ out: string; results: string[]; only?: string; tolerant?: boolean; plain?: boolean }>();
  const parts = options.only?.split(',') ?? PARTS;
  const unknown = parts.find((part) => !PARTS.includes(part as Part));
  if (unknown !== undefined) throw new Error(`no part '${unknown}'; there are ${PARTS.join(', ')}`);
  const { out, results, tolerant = false, plain = false } = options;
  const built = await buildSite({ out, results, parts: parts as Part[], tolerant, plain });
  for (const problem of built.problems) console.log(problem);
  console.log(`site: ${built.pages} pages, ${built.searchEntries} search entries, ${(built.milliseconds / 1000).toFixed(1)} s, in ${built.out}`);
  if (built.problems.length > 0) process.exitCode = 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  main().catch((error: unknown) => {
    console.error(`ringbook site: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 1;
  });
}
