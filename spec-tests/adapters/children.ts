// # Nothing left running
//
// An adapter starts programs, and programs start programs. Whatever happens to the run (a time-out, Ctrl-C, a crash of ours) they must
// all be gone afterwards. So each child leads a process group of its own, the group is what gets killed, and every live group is on one list
// that is emptied when this process ends.

import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';

const live = new Set<ChildProcess>();
let watching = false;

/** Kills a child and everything it started. Safe to repeat. */
export function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  live.delete(child);
  try {
    if (process.platform === 'win32') child.kill('SIGKILL');
    else process.kill(-child.pid, 'SIGKILL');
  } catch {
    // The group is already gone.
  }
}

/** Kills every child started here. */
export function killAllGroups(): void {
  for (const child of [...live]) killGroup(child);
}

/** `spawn` with all streams piped, in a process group that {@link killAllGroups} knows of. A child that ends takes its stragglers with it. */
export function spawnGroup(command: string, args: readonly string[], options: SpawnOptions = {}): ChildProcess {
  if (!watching) {
    watching = true;
    process.on('exit', killAllGroups);
  }
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], ...options, detached: process.platform !== 'win32' });
  if (child.pid !== undefined) live.add(child);
  child.once('exit', () => killGroup(child));
  return child;
}

/** How a child ended, in words. */
export const howItEnded = (code: number | null, signal: NodeJS.Signals | null): string =>
  signal !== null ? `was killed by ${signal}` : `exited with status ${code ?? 'unknown'}`;
