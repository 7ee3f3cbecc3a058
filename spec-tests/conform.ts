// # `ringbook conform`
//
// The command line of the suite. Exit status: 0 when nothing is unexplained; 1 when something is; 2 when the suite itself or the command line is
// wrong; 3 when the target is not on this machine.

import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { killAllGroups } from './adapters/children.ts';
import { BUILT_IN, checkTarget, makeTarget } from './adapters/targets.ts';
import { applyKnown } from './expect.ts';
import { isInstalled } from './place.ts';
import { startProgress } from './progress.ts';
import { FORMATS, type Format, listCases, mergeResults, render, toResults } from './report.ts';
import { writeReport } from './report-folder.ts';
import { runCases } from './runner.ts';
import { parseShard, type Shard, selectCases, shuffle } from './select.ts';
import { type LoadedCase, loadSuite, type Suite } from './suite.ts';
import type { KnownFailures, Results } from './types.ts';
import { InvalidDocument, readJson } from './validate.ts';

const HERE = fileURLToPath(new URL('.', import.meta.url));
/** Where results go: beside the suite in its own repository, and to whoever called where it is installed as a package. */
export const OUT = isInstalled ? join(process.cwd(), 'ringbook-results') : join(HERE, 'out');

export interface ConformOptions {
  readonly target: string;
  readonly filters: readonly string[];
  readonly shard: Shard | null;
  readonly repeat: number;
  readonly jobs: number;
  readonly seed: number;
  /** See {@link runCases}. */
  readonly share?: boolean;
  /** A known-failures file; null for the implementation's own where there is one; 'none' for none. */
  readonly expect: string | null;
  readonly quiet?: boolean;
}

/** The known failures to apply. @throws InvalidDocument */
function knownFor(implementation: string, expect: string | null): KnownFailures | null {
  if (expect === 'none') return null;
  if (expect !== null) return readJson<KnownFailures>('known-failures', expect);
  const own = join(HERE, 'known-failures', `${implementation}.json`);
  return existsSync(own) ? readJson<KnownFailures>('known-failures', own) : null;
}

/** Runs the suite on one target and gives the results in their published form. */
export async function conform(suite: Suite, options: ConformOptions): Promise<Results> {
  const cases: LoadedCase[] = shuffle(selectCases(suite.cases, options.filters, options.shard), options.seed);
  if (cases.length === 0) throw new RangeError('no case matches');
  // What is wrong with the command line is said now, not after the run.
  checkTarget(options.target);
  if (options.expect !== null) knownFor('', options.expect);
  const startedAt = new Date();
  const begin = performance.now();
  const progress = startProgress(options.target, cases.length, options.quiet === true);
  const outcome = await runCases({
    suite,
    cases,
    target: options.target,
    repeat: options.repeat,
    jobs: options.jobs,
    ...(options.share !== undefined && { share: options.share }),
    makeAdapter: () => makeTarget(options.target, { onLog: (text) => progress.log(text) }),
    onStart: (started) => progress.started(started),
    onCase: (result, done) => progress.result(result, done),
  });
  progress.end();
  const implementation = outcome.started ?? { name: options.target, version: '' };
  const known = outcome.started ? knownFor(implementation.name, options.expect) : null;
  const { results, stale } = applyKnown(known, implementation, outcome.results, new Set(suite.cases.map(({ id }) => id)));
  if (known && known.implementation !== implementation.name)
    stale.push(`the known failures in ${options.expect} are of '${known.implementation}', not of '${implementation.name}'`);
  results.sort((a, b) => (a.id < b.id ? -1 : 1));
  const shard = options.shard && `${options.shard.index}/${options.shard.of}`;
  const facts = { target: options.target, seed: options.seed, shard, repeat: options.repeat, startedAt, durationMs: performance.now() - begin };
  return toResults(suite, outcome, results, stale, facts);
}

/**
 * Where results go when nothing else is said. The site reads `results-<target>.json`, so only a run of the whole suite, on a target that was there,
 * may write that; a shard has a name of its own, and anything less is `partial`.
 */
export function resultsPath(results: Results): string {
  const named = results.target.startsWith('exec:') ? results.implementation.name : results.target;
  const name = named.replaceAll(/[^a-z0-9._-]/gi, '-');
  if (results.shard !== null) return join(OUT, `shard-${name}-${results.shard.replace('/', '-of-')}.json`);
  const whole = results.unavailable === undefined && results.cases.length === results.suite.cases;
  return join(OUT, `${whole ? 'results' : 'partial'}-${name}.json`);
}

function save(path: string, results: Results): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${JSON.stringify(results, null, 1)}\n`);
}

const positive = (text: string): number => {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new InvalidArgumentError('must be a whole number of at least 1');
  return value;
};
const whole = (text: string): number => {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new InvalidArgumentError('must be a whole number');
  return value;
};
const collect = (value: string, previous: string[]): string[] => [...previous, value];

interface Flags {
  readonly target: string;
  readonly filter: string[];
  readonly shard?: string;
  readonly format: Format;
  readonly expect?: string;
  readonly out?: string;
  readonly report?: string;
  readonly repeat: number;
  readonly jobs: number;
  readonly seed: number;
  readonly list?: boolean;
  readonly merge?: string[];
}

function emit(results: Results, flags: Flags): number {
  process.stdout.write(render(results, flags.format));
  if (results.summary.ok) return 0;
  return results.unavailable !== undefined && results.broken !== true ? 3 : 1;
}

async function run(flags: Flags): Promise<number> {
  if (flags.merge) {
    const merged = mergeResults(flags.merge.map((path) => readJson<Results>('results', path)));
    save(flags.out ?? resultsPath(merged), merged);
    return emit(merged, flags);
  }
  const suite = loadSuite();
  const shard = flags.shard === undefined ? null : parseShard(flags.shard);
  if (flags.list) {
    const selected = selectCases(suite.cases, flags.filter, shard);
    if (selected.length === 0) throw new RangeError('no case matches');
    process.stdout.write(listCases(selected, flags.format));
    return 0;
  }
  const targets = flags.target === 'all' ? BUILT_IN : [flags.target];
  if (targets.length > 1 && flags.out !== undefined) throw new RangeError('--out names one file, and all targets would write it');
  let status = 0;
  const all: Results[] = [];
  for (const target of targets) {
    const expect = flags.expect ?? null;
    const results = await conform(suite, { target, filters: flags.filter, shard, repeat: flags.repeat, jobs: flags.jobs, seed: flags.seed, expect });
    const path = flags.out ?? resultsPath(results);
    save(path, results);
    if (flags.report !== undefined) all.push(results);
    const code = emit(results, flags);
    if (flags.format === 'summary') process.stdout.write(`results: ${relative(process.cwd(), path)}\n\n`);
    // With `all`, a target that this machine lacks has said so and is no failure; the embedded one is always here.
    if (!(targets.length > 1 && code === 3)) status = Math.max(status, code);
  }
  if (flags.report !== undefined) {
    const written = writeReport(flags.report, suite, all);
    process.stderr.write(`report: ${written.map((path) => relative(process.cwd(), path)).join(', ')}\n`);
  }
  return status;
}

async function main(): Promise<void> {
  const program = new Command('ringbook conform')
    .description('Run the conformance suite against an implementation.')
    .option('-t, --target <name>', `${BUILT_IN.join(', ')}, all, or exec:<command>`, 'ringbook')
    .option(
      '-f, --filter <what>',
      'part of an id, =id, /regex/, or clause: surface: strictness: needs: payload: and a value; repeatable',
      collect,
      [],
    )
    .option('--shard <i/n>', 'run the i-th of n equal parts')
    .addOption(new Option('--format <name>', 'how to print the results').choices([...FORMATS]).default('summary'))
    .option('--expect <file>', "known failures; default: the implementation's own file; 'none' for none")
    .option('--out <file>', 'where to write the JSON results')
    .option('--report <where>', 'write the matrix, and a page for each case and clause: a folder, or a file .html, .md or .json')
    .option('--repeat <n>', 'run each case n times; disagreement is an error', positive, 1)
    .option('-j, --jobs <n>', 'adapters at work at once', positive, 1)
    .option('--seed <n>', 'shuffle the cases; 0 keeps their order', whole, 0)
    .option('-l, --list', 'list the selected cases and end')
    .option('--merge <files...>', 'merge the JSON results of shards and report on the whole')
    .allowExcessArguments(false)
    .exitOverride();
  try {
    program.parse();
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    process.exitCode = error.exitCode === 0 ? 0 : 2; // commander has said what is wrong, or printed the help that was asked for
    return;
  }
  for (const [signal, number] of [
    ['SIGHUP', 1],
    ['SIGINT', 2],
    ['SIGTERM', 15],
  ] as const) {
    process.on(signal, () => {
      killAllGroups();
      process.exit(128 + number);
    });
  }
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error; // whoever read this has seen enough
    killAllGroups();
    process.exit(128 + 13);
  });
  try {
    process.exitCode = await run(program.opts<Flags>());
  } catch (error) {
    if (!(error instanceof InvalidDocument || error instanceof RangeError || error instanceof SyntaxError)) throw error;
    process.stderr.write(`conform: ${error instanceof InvalidDocument ? [`${error.where}:`, ...error.problems].join('\n  ') : error.message}\n`);
    process.exitCode = 2;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
