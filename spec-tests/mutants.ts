// # Who tests the tests
//
// A suite that passes says something only if it would fail when the thing it judges is wrong. So the reference is broken on purpose, one small
// change at a time: a mutant. Each names the clause that it violates, and a case that shows this clause must notice. A mutant that survives is
// a hole in the suite, and fails this command.
//
// A mutant is a piece of text and its replacement. It is applied while Node loads the module (`hook.mjs`), so no file is ever changed.

import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { ROOT } from './checks/tree.ts';
import type { Results } from './types.ts';
import { readJson } from './validate.ts';

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
  /** The machine that has the broken part in use, where it is not the first one. */
  readonly target?: 'ringbook-shadow' | 'ringbook-traced' | 'ringbook-translated';
}

const HERE = join(ROOT, 'spec-tests');
const TIMEOUT_MS = 120_000;

/** The committed mutants. @throws InvalidDocument */
export const mutants = (): Mutant[] => readJson<Mutant[]>('mutants', join(HERE, 'mutants', 'mutants.json'));

/** Why a mutant cannot be applied to the tree as it is now, or null. */
export function stale({ file, find, replace }: Mutant): string | null {
  const times = readFileSync(join(ROOT, file), 'utf8').split(find).length - 1;
  if (times !== 1) return `its text occurs ${times} times in ${file}, not once`;
  return find === replace ? 'it changes nothing' : null;
}

interface Fate {
  readonly killedBy: readonly string[];
  /** Why there is no verdict: the run itself failed. */
  readonly broken?: string;
}

/** Runs the cases that show the mutant's clause, on the embedded machine with the mutant in it. */
function tryMutant(mutant: Mutant, folder: string): Promise<Fate> {
  const out = join(folder, `${mutant.id}.json`);
  const loaded = join(folder, `${mutant.id}.loaded`);
  // The machine runs in a process of its own, so the hook travels in the environment, which children inherit; and it says that it did its work.
  const hook = `--import=${pathToFileURL(join(HERE, 'mutants', 'hook.mjs')).href}`;
  const env = { NODE_OPTIONS: `${process.env.NODE_OPTIONS ?? ''} ${hook}`, RINGBOOK_MUTANT: JSON.stringify({ ...mutant, loaded }) };
  const args = ['--disable-warning=ExperimentalWarning'];
  args.push(
    join(HERE, 'conform.ts'),
    '--target',
    mutant.target ?? 'ringbook',
    '--filter',
    mutant.cases ?? `clause:${mutant.clause}`,
    '--expect',
    'none',
    '--format',
    'json',
    '--out',
    out,
  );
  return new Promise((done) => {
    const child = spawn(process.execPath, args, {
      cwd: ROOT,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'ignore', 'pipe'],
      timeout: TIMEOUT_MS,
    });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-2000);
    });
    child.on('error', (error) => done({ killedBy: [], broken: error.message }));
    child.on('exit', (status, signal) => {
      if (!existsSync(loaded)) return done({ killedBy: [], broken: said.trim() || 'the changed module was never loaded' });
      if (signal) return done({ killedBy: [`(the run did not end: ${signal})`] });
      if (status !== 0 && status !== 1) return done({ killedBy: [], broken: said.trim() || `exit status ${status}` });
      const { cases } = readJson<Results>('results', out);
      done({
        killedBy: cases
          .filter(({ verdict, clauses }) => verdict !== 'pass' && verdict !== 'unsupported' && clauses.some((id) => id.startsWith(mutant.clause)))
          .map(({ id, verdict }) => `${id} (${verdict})`),
      });
    });
  });
}

const USAGE = `usage: ringbook mutants [--list] [--jobs N] [PART ...]

  Breaks the code in one place at a time, and runs the cases that should notice.

  PART    only mutants whose id contains it, or whose clause begins with it (all)
  --list  say which, and run none
  --jobs  how many at the same time (2)`;

async function main(): Promise<void> {
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
    return;
  }
  const chosen = mutants().filter(
    ({ id, clause }) => positionals.length === 0 || positionals.some((part) => id.includes(part) || clause.startsWith(part)),
  );
  if (values.list) {
    for (const { id, clause, file } of chosen) console.log(`${id.padEnd(36)} ${clause.padEnd(44)} ${file}`);
    return;
  }
  const folder = mkdtempSync(join(tmpdir(), 'ringbook-mutants-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  let killed = 0;
  let failed = 0;
  const queue = [...chosen];
  const worker = async (): Promise<void> => {
    for (let mutant = queue.shift(); mutant; mutant = queue.shift()) {
      const problem = stale(mutant);
      const { killedBy, broken } = problem === null ? await tryMutant(mutant, folder) : { killedBy: [], broken: problem };
      if (killedBy.length > 0) killed++;
      else failed++;
      const fate = killedBy.length > 0 ? `killed by ${killedBy.slice(0, 3).join(', ')}` : broken ? `ERROR: ${broken}` : 'SURVIVED';
      console.log(`${killedBy.length > 0 ? '✓' : '✗'} ${mutant.id} [${mutant.clause}] ${fate}`);
    }
  };
  await Promise.all(Array.from({ length: Math.max(1, Number(values.jobs) || 1) }, worker));
  console.log(`mutants: ${killed} passed, ${failed} failed (mutation score ${Math.round((100 * killed) / Math.max(1, killed + failed))} %)`);
  process.exitCode = failed > 0 || chosen.length === 0 ? 1 : 0;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) await main();
