// # The main job
//
// `npm start`: run the suite on the embedded machine, print what each chapter's cases said, build the site with those results, serve it. It is the
// first thing a newcomer runs, so it needs nothing but Node; and it says at every moment what it is doing.

import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { killAllGroups } from '../spec-tests/adapters/children.ts';
import { conform, resultsPath } from '../spec-tests/conform.ts';
import { loadSuite } from '../spec-tests/suite.ts';
import type { Results } from '../spec-tests/types.ts';
import { buildSite } from './build.ts';
import { serve } from './serve.ts';
import { ROOT, readRooms } from './tree.ts';

const DEFAULT_PORT = 8620;

/** One line per chapter: modules, lines, and what the suite said. */
function chapterTable(results: Results): string {
  const rows = readRooms(ROOT)
    .filter(({ number }) => number !== null)
    .map(({ number, title, folder, modules }) => {
      const cases = results.cases.filter(({ chapter }) => `chapters/${chapter}` === folder);
      const count = (verdicts: readonly string[]): number => cases.filter(({ verdict }) => verdicts.includes(verdict)).length;
      const passed = count(['pass']);
      const unseen = count(['unsupported', 'not-observable']);
      const lines = modules.reduce((sum, { text }) => sum + text.split('\n').length - 1, 0);
      const rest = cases.length - passed - unseen;
      const verdict =
        cases.length === 0
          ? 'no cases'
          : [`${passed} pass`, rest > 0 && `${rest} do not`, unseen > 0 && `${unseen} not observable here`].filter(Boolean).join(', ');
      return [String(number), title, `${modules.length} modules`, `${lines} lines`, verdict];
    });
  const widths = [0, 1, 2, 3].map((column) => Math.max(...rows.map((row) => (row[column] as string).length)));
  const padded = (cell: string, column: number): string => (column === 1 ? cell.padEnd(widths[1] ?? 0) : cell.padStart(widths[column] ?? 0));
  return rows.map((row) => `  ${row.map(padded).join('  ')}`.trimEnd()).join('\n');
}

const portNumber = (text: string): number => {
  const port = Number(text);
  if (!Number.isInteger(port) || port < 0 || port > 65535) throw new InvalidArgumentError('must be a port number; 0 for any free one');
  return port;
};

/** The port asked for; without one, the usual port, or any free one when that is taken. */
async function serveSomewhere(out: string, port: number | undefined): ReturnType<typeof serve> {
  if (port !== undefined) return serve(out, port);
  return serve(out, DEFAULT_PORT).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EADDRINUSE') throw error;
    return serve(out, 0);
  });
}

async function main(): Promise<number> {
  const options = new Command('ringbook start')
    .description('Run the suite on the embedded machine, build the site with the results, serve it on the loopback address.')
    .option('--no-serve', 'end after the build')
    .option('--port <number>', `port to serve on (default: ${DEFAULT_PORT}, or any free one)`, portNumber)
    .option('--out <folder>', 'where the site is written', join(ROOT, 'site', 'out'))
    .parse()
    .opts<{ serve: boolean; port?: number; out: string }>();

  console.log('Ringbook: running the suite on the embedded machine');
  // The suite's machine is a process of its own; whoever ends this one must end that one too.
  let stop: (() => void) | null = null;
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (stop) return stop();
      killAllGroups();
      process.exit(signal === 'SIGINT' ? 130 : 143);
    });
  }
  const results = await conform(loadSuite(), { target: 'ringbook', filters: [], shard: null, repeat: 1, jobs: 1, seed: 0, expect: null });
  const path = resultsPath(results);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${JSON.stringify(results, null, 1)}\n`);
  const { pass } = results.summary;
  console.log(`\n${chapterTable(results)}\n`);
  console.log(`suite: ${pass} of ${results.cases.length} cases pass, ${(results.durationMs / 1000).toFixed(1)} s`);
  for (const { id, verdict, reason, expectation } of results.cases) {
    const fine = verdict === 'pass' || verdict === 'unsupported' || verdict === 'not-observable' || expectation === 'known';
    if (!fine) console.log(`  ${verdict}: ${id}: ${(reason ?? '').split('\n')[0]}`);
  }

  console.log('building the site …');
  const built = await buildSite({ out: options.out, results: [path] });
  console.log(`site: ${built.pages} pages in ${(built.milliseconds / 1000).toFixed(1)} s, in ${built.out}`);
  const status = results.summary.ok ? 0 : 1;
  if (!options.serve) return status;

  const served = await serveSomewhere(options.out, options.port);
  console.log(`\n  ${served.url}\n\nCtrl-C ends.`);
  await new Promise<void>((ended) => {
    stop = ended;
  });
  await served.close();
  return status;
}

main().then(
  (status) => {
    process.exitCode = status;
  },
  (error: unknown) => {
    console.error(`ringbook start: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 2;
  },
);
