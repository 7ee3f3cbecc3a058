// # API pages
//
// TypeDoc reads the API comments and makes the reference. It is the slowest part of a build by far, and shares nothing with the rest, so it
// runs as a process of its own beside it: `node api.ts <out folder>`.

import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Application, JSX, PageEvent, type TypeDocOptions } from 'typedoc';
import { ROOT, readRooms } from './tree.ts';

/** Writes the API pages into `out`. Resolves to the number of modules. */
async function buildApi(out: string): Promise<number> {
  const entryPoints = readRooms(ROOT)
    .filter(({ number }) => number !== null)
    .flatMap(({ modules }) => modules.map(({ file }) => join(ROOT, file)));
  const options: TypeDocOptions = {
    entryPoints,
    tsconfig: join(ROOT, 'tsconfig.json'),
    basePath: join(ROOT, 'chapters'),
    name: 'Ringbook API',
    out,
    readme: 'none',
    skipErrorChecking: true, // types are the checks' business, not the book's
    disableSources: true, // every module page is the source
    hideGenerator: true,
    githubPages: false,
    includeVersion: false,
    customCss: join(ROOT, 'site', 'client', 'api.css'),
    highlightLanguages: ['typescript', 'c', 'asm', 'json'],
    logLevel: 'Error',
    navigation: { includeFolders: true, compactFolders: true },
    excludePrivate: true,
    excludeExternals: true,
    validation: false,
  };
  const app = await Application.bootstrap(options);
  const project = await app.convert();
  if (!project) throw new Error('TypeDoc could not read the chapters');
  let depth = '';
  app.renderer.on(PageEvent.BEGIN, (page) => {
    depth = '../'.repeat(page.url.split('/').length);
  });
  app.renderer.hooks.on('body.begin', () =>
    JSX.createElement('p', { class: 'to-book' }, JSX.createElement('a', { href: `${depth}index.html` }, 'Ringbook')),
  );
  app.renderer.hooks.on('head.end', () => JSX.createElement('link', { rel: 'icon', href: 'data:,' }));
  await app.generateDocs(project, out);
  if (app.logger.hasErrors()) throw new Error('TypeDoc reported errors');
  return entryPoints.length;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const out = process.argv[2];
  if (out === undefined) throw new Error('usage: api.ts <out folder>');
  console.log(`${await buildApi(out)} modules`);
}
