// # Who tests the tests
//
// A suite that passes says something only if it would fail when the thing it judges is wrong. So the reference is broken on purpose, one small
// change at a time: a mutant. Each names the clause that it violates, and a case that shows this clause must notice. A mutant that survives is
// a hole in the suite, and fails this command.
//
// A mutant is a piece of text and its replacement. It is applied while Node loads the module (`hook.mjs`), so no file is ever changed. Only the machine that is
// judged is broken: it runs in a process of its own, a new one for each mutant, and whoever judges it has loaded the modules as they are.
//
// To add one, write it into `mutants/mutants.json` and run this command with its id. Where much is done in two ways, break both, each with a mutant of its own. The
// processor does the ordinary case of a system instruction, and the ordinary walk of the page tables, in WebAssembly when nobody watches: `ringbook`, the first
// target, judges that. Its rules in TypeScript have all the work when there is a trace, which is `ringbook-traced`; shadow paging is `ringbook-shadow`, and code
// that is translated at once, `ringbook-translated`.
//
// A mutant that survives has found one of three things: a rule that no case shows (add the observation), a case that shows it elsewhere (name the target), or a
// change that changes nothing (find another).

import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { makeTarget } from './adapters/targets.ts';
import { ROOT } from './checks/tree.ts';
import { type Fate, falseWitnesses, tryMutant } from './mutants/fate.ts';
import { selectCases } from './select.ts';
import { type LoadedCase, loadSuite, type Suite } from './suite.ts';
import { InvalidDocument, readJson } from './validate.ts';

/** One deliberate break. `find` occurs exactly once in `file`. */
export interface Mutant {
  readonly id: string;
  readonly file: string;
  readonly find: string;
  readonly replace: string;
  /** The clause that the break violates; a case that lists it must fail. */
  readonly clause: string;
  /** Which of these cases are run, as `--filter` says it; all of them, when absent. */
  readonly cases?: string;
  /** The machine that has the broken part in use, where `ringbook` has not. */
  readonly target?: 'ringbook-shadow' | 'ringbook-traced' | 'ringbook-translated';
}

const HERE = join(ROOT, 'spec-tests');
/** A machine that does not start says nothing about the suite, so it is given all the time that a busy computer may need. */
const START_MS = 300_000;

/** The committed mutants. @throws InvalidDocument */
export const mutants = (): Mutant[] => readJson<Mutant[]>('mutants', join(HERE, 'mutants', 'mutants.json'));

/** Why a mutant cannot be applied to the tree as it is now, or null. */
export function stale({ file, find, replace }: Mutant): string | null {
  if (!existsSync(join(ROOT, file))) return `there is no ${file}`;
  const times = readFileSync(join(ROOT, file), 'utf8').split(find).length - 1;
  if (times !== 1) return `its text occurs ${times} times in ${file}, not once`;
  return find === replace ? 'it changes nothing' : null;
}

/** Begins with a firmware's whole start. */
const isSlow = ({ images }: LoadedCase): number => Number(images?.[0]?.door === 'disk');

/** The cases that must notice a mutant: they show its clause, and are among those that it names. The slow ones come last, for one that notices is enough. */
export const casesOf = ({ clause, cases }: Mutant, suite: Suite): LoadedCase[] =>
  selectCases(suite.cases, cases === undefined ? [] : [cases], null)
    .filter(({ clauses }) => clauses.some((id) => id.startsWith(clause)))
    .sort((a, b) => isSlow(a) - isSlow(b));

const targetOf = ({ target }: Mutant): string => target ?? 'ringbook';

/** Tries one mutant. `folder` is for what the changed process leaves. */
export async function fateOf(mutant: Mutant, suite: Suite, folder: string): Promise<Fate> {
  const problem = stale(mutant);
  if (problem !== null) return { verdict: 'undecided', why: problem };
  const { id, file, find, replace } = mutant;
  const loaded = join(folder, `${id}.loaded`);
  const hook = pathToFileURL(join(HERE, 'mutants', 'hook.mjs'));
  hook.search = new URLSearchParams({ file, find, replace, loaded }).toString();
  const target = targetOf(mutant);
  const fate = await tryMutant({
    suite,
    cases: casesOf(mutant, suite),
    target,
    broken: () => makeTarget(target, { preload: hook.href, startTimeoutMs: START_MS }),
    whole: () => makeTarget(target, { startTimeoutMs: START_MS }),
  });
  return fate.verdict !== 'undecided' && !existsSync(loaded) ? { verdict: 'undecided', why: `the machine '${target}' never loads ${file}` } : fate;
}

const USAGE = `usage: ringbook mutants [--list] [--jobs N] [PART ...]

  Breaks the code in one place at a time, and runs the cases that should notice.

  PART    only mutants whose id contains it, or whose clause begins with it (all)
  --list  say which, with the cases that should notice, and run none
  --jobs  how many at the same time (2)

  Exit status: 0 when each was killed; 1 when one survived or could not be judged; 2 when the command line is wrong.`;

const MARKS: Readonly<Record<Fate['verdict'], string>> = { killed: '✓', survived: '✗', undecided: '?' };

function say({ id, clause }: Mutant, fate: Fate, count: string): void {
  const texts = {
    killed: () => fate.verdict === 'killed' && `killed by ${fate.by.id} (${fate.by.verdict})`,
    survived: () => fate.verdict === 'survived' && `SURVIVED: ${fate.passed} of its cases pass`,
    undecided: () => fate.verdict === 'undecided' && `UNDECIDED: ${fate.why}`,
  };
  console.log(`${MARKS[fate.verdict]} ${count} ${id} [${clause}] ${texts[fate.verdict]()}`);
}

function list(chosen: readonly Mutant[], suite: Suite): void {
  for (const mutant of chosen) {
    const cases = casesOf(mutant, suite).map(({ id }) => id);
    const more = cases.length > 3 ? `, and ${cases.length - 3} more` : '';
    console.log(`${mutant.id}\n  breaks      ${mutant.clause}, in ${mutant.file}\n  noticed by  ${cases.slice(0, 3).join(', ')}${more}`);
  }
}

async function run(chosen: readonly Mutant[], suite: Suite, jobs: number): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), 'ringbook-mutants-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  const fates = new Map<Mutant, Fate>();
  const queue = [...chosen];
  const worker = async (): Promise<void> => {
    for (let mutant = queue.shift(); mutant; mutant = queue.shift()) {
      const fate = await fateOf(mutant, suite, folder);
      fates.set(mutant, fate);
      say(mutant, fate, `[${String(fates.size).padStart(String(chosen.length).length)}/${chosen.length}]`);
    }
  };
  await Promise.all(Array.from({ length: jobs }, worker));

  // A case that fails anyway has noticed nothing. Each witness is asked once more, on the machine as it is.
  for (const target of new Set(chosen.map(targetOf))) {
    const killed = [...fates].flatMap(([mutant, fate]) =>
      fate.verdict === 'killed' && targetOf(mutant) === target ? [{ mutant, by: fate.by.id }] : [],
    );
    const cases = suite.cases.filter(({ id }) => killed.some(({ by }) => by === id));
    if (cases.length === 0) continue;
    const wrong = await falseWitnesses({ suite, cases, target, whole: () => makeTarget(target, { startTimeoutMs: START_MS }) });
    for (const { mutant, by } of killed) {
      const verdict = wrong.get(by);
      if (verdict === undefined) continue;
      const fate: Fate = { verdict: 'undecided', why: `${by} (${verdict}) does not pass without it either` };
      fates.set(mutant, fate);
      say(mutant, fate, '[again]');
    }
  }

  const count = (verdict: Fate['verdict']): number => [...fates.values()].filter((fate) => fate.verdict === verdict).length;
  const killed = count('killed');
  const score = Math.floor((100 * killed) / fates.size);
  console.log(
    `mutants: ${killed} passed, ${fates.size - killed} failed (${count('survived')} survived, ${count('undecided')} undecided; mutation score ${score} %)`,
  );
  return killed === fates.size ? 0 : 1;
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      list: { type: 'boolean', short: 'l' },
      jobs: { type: 'string', short: 'j', default: '2' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help) {
    console.log(USAGE);
    return 0;
  }
  const jobs = Number(values.jobs);
  if (!Number.isSafeInteger(jobs) || jobs < 1) throw new RangeError(`--jobs is a whole number of at least 1, not '${values.jobs}'`);
  const all = mutants();
  const idle = positionals.find((part) => !all.some(({ id, clause }) => id.includes(part) || clause.startsWith(part)));
  if (idle !== undefined) throw new RangeError(`no mutant's id contains '${idle}', and no mutant's clause begins with it`);
  const chosen = all.filter(({ id, clause }) => positionals.length === 0 || positionals.some((part) => id.includes(part) || clause.startsWith(part)));
  const suite = loadSuite();
  if (!values.list) return run(chosen, suite, jobs);
  list(chosen, suite);
  return 0;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  for (const [signal, number] of [
    ['SIGHUP', 1],
    ['SIGINT', 2],
    ['SIGTERM', 15],
  ] as const)
    process.on(signal, () => process.exit(128 + number)); // machines that still run end with this process
  try {
    process.exitCode = await main();
  } catch (error) {
    const known =
      error instanceof InvalidDocument || error instanceof RangeError || (error as NodeJS.ErrnoException).code?.startsWith('ERR_PARSE_ARGS');
    if (!known) throw error;
    console.error(`mutants: ${(error as Error).message}\n\n${USAGE}`);
    process.exitCode = 2;
  }
}
