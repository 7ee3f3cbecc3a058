// # Yardsticks in C
//
// What a loop in this language costs is said best by the same loop in the language that the real systems are written in. A yardstick prints how many of
// something it did and how many seconds they took.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ROOT } from '../checks/tree.ts';

/** Compiles a program of this folder. Running it gives how many a second; a string says why it cannot be compiled here. */
export function cProgram(source: string, options: readonly string[] = []): ((args: readonly string[]) => number) | string {
  const folder = mkdtempSync(join(tmpdir(), 'ringbook-bench-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  const program = join(folder, 'yardstick');
  const built = spawnSync('gcc', ['-O2', ...options, '-o', program, join(ROOT, 'spec-tests', 'bench', source)], { encoding: 'utf8' });
  if (built.error || built.status !== 0) return built.error ? 'no gcc' : built.stderr;
  return (args) => {
    const { stdout, status, stderr } = spawnSync(program, args, { encoding: 'utf8' });
    if (status !== 0) throw new Error(`${source} failed: ${stderr}`);
    const [count, took] = stdout.split(' ').map(Number) as [number, number];
    return count / took;
  };
}
