// # Scripts for the browser
//
// Vite bundles the client code: one classic script for every page (it must also run from a page opened from disk, where module scripts may
// not load), another for the ring, and the live pages' modules with their worker. Names carry no hashes; the whole site is replaced at once.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { build, type InlineConfig } from 'vite';

const common = (root: string): InlineConfig => ({
  root,
  configFile: false,
  envFile: false,
  publicDir: false,
  logLevel: 'error',
  base: './',
});

interface Emitted {
  readonly fileName: string;
  readonly code?: string;
  readonly source?: string | Uint8Array;
}

async function bundle(config: InlineConfig): Promise<Emitted[]> {
  const result = await build(config);
  const outputs = Array.isArray(result) ? result : [result];
  return outputs.flatMap((one) => ('output' in one ? (one.output as readonly Emitted[]) : []));
}

/** The pages whose script is a module of its own. */
const LIVE_PAGES = { live: 'main', walk: 'walk', ladder: 'ladder', translator: 'translator', linux: 'linux' } as const;

/** Bundles the scripts of live pages, or of some of them, with their workers and the one style sheet. Returns the files, by path in the site. */
export async function bundleLive(
  site: string,
  names: readonly (keyof typeof LIVE_PAGES)[] = Object.keys(LIVE_PAGES) as (keyof typeof LIVE_PAGES)[],
): Promise<Map<string, string | Uint8Array>> {
  const emitted = await bundle({
    ...common(site),
    build: {
      write: false,
      target: 'es2022',
      modulePreload: false,
      cssCodeSplit: false,
      chunkSizeWarningLimit: 4096,
      rolldownOptions: {
        input: Object.fromEntries(names.map((name) => [name, join(site, `live/${LIVE_PAGES[name]}.ts`)])),
        output: { entryFileNames: '[name].js', chunkFileNames: '[name].js', assetFileNames: '[name][extname]' },
      },
    },
    worker: {
      format: 'es',
      rolldownOptions: { output: { entryFileNames: '[name].js', chunkFileNames: '[name].js', assetFileNames: '[name][extname]' } },
    },
  });
  return new Map(
    emitted.map(({ fileName, code, source }) => {
      const name = fileName.endsWith('.css') ? 'live.css' : fileName.replace(/^assets\//, '');
      return [`assets/${name}`, code ?? source ?? ''];
    }),
  );
}

/** Bundles everything and returns the files, by path in the site. */
export async function bundleClient(site: string): Promise<Map<string, string | Uint8Array>> {
  const files = new Map<string, string | Uint8Array>();
  const take = (emitted: readonly Emitted[], rename: (name: string) => string): void => {
    for (const { fileName, code, source } of emitted) files.set(`assets/${rename(fileName)}`, code ?? source ?? '');
  };
  /** A script that is no module, with its style sheet beside it. */
  const classic = (name: string, entry: string): Promise<Emitted[]> =>
    bundle({
      ...common(site),
      build: {
        write: false,
        target: 'es2022',
        modulePreload: false,
        lib: { entry: join(site, entry), formats: ['iife'], name: 'ringbook', fileName: () => `${name}.js`, cssFileName: name },
      },
    });
  const book = classic('book', 'client/book.ts');
  const ring = classic('ring', 'live/ring.ts');
  const live = bundleLive(site);
  take(await book, (name) => name);
  take(await ring, (name) => name);
  for (const [name, content] of await live) files.set(name, content);
  files.set('assets/book.css', readFileSync(join(site, 'client/book.css'), 'utf8'));
  files.set('assets/theme.js', readFileSync(join(site, 'client/theme.js'), 'utf8'));
  return files;
}
