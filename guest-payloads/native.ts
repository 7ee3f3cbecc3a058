// # The real processor's opinion
//
// A payload about the instruction set needs no machine of its own: most of what it asks may be asked by any program. So the same source is built as a
// program for Linux, with a runtime that writes to standard output and takes exceptions as signals (`rt/native.S`). What it prints is what the
// processor of this host does, and a case whose values come from there holds for real hardware.

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { findPayload, type Payload } from './index.ts';

const HERE = dirname(fileURLToPath(import.meta.url));
const FLAGS = ['-c', '-x', 'assembler-with-cpp', '-nostdinc', '-g0', '-Wa,--noexecstack', '-DNATIVE=1'];
const RUNTIME = ['rt/native.S', 'rt/records.S', 'rt/traps.S', 'rt/state.S'];
/** The widths in which a program can run under a 64-bit kernel. */
const FORMATS: Readonly<Record<number, { readonly gcc: string; readonly ld: string }>> = {
  32: { gcc: '-m32', ld: 'elf_i386' },
  64: { gcc: '-m64', ld: 'elf_x86_64' },
};
const RUN_MS = 10_000;

/** Builds a payload as a program, runs it, and gives what it said; or the reason why there is nothing. */
export function runNative({ room, source, defines }: Payload): { readonly console: Uint8Array } | { readonly reason: string } {
  const format = FORMATS[room];
  if (process.platform !== 'linux' || process.arch !== 'x64') return { reason: 'the host is no 64-bit x86 under Linux' };
  if (!format || !source.endsWith('.S')) return { reason: 'only 32- and 64-bit assembly can run as a program' };
  const scratch = mkdtempSync(join(tmpdir(), 'native-'));
  try {
    const settings = Object.entries({ MODE: room, ROOM: room, ...defines }).map(([name, value]) => `-D${name}=${value}`);
    const sources = [...RUNTIME, source];
    const compile = [
      ...FLAGS,
      `-I${join(HERE, 'rt')}`,
      format.gcc,
      ...settings,
      `-DFILE=${basename(source)}`,
      ...sources.map((file) => join(HERE, file)),
    ];
    execFileSync('gcc', compile, { cwd: scratch, stdio: 'pipe' });
    const objects = sources.map((file) => `${basename(file, '.S')}.o`);
    const program = join(scratch, 'program');
    execFileSync('ld', ['-m', format.ld, '-z', 'muldefs', '-z', 'noexecstack', '-N', '-o', program, ...objects], { cwd: scratch, stdio: 'pipe' });
    const { stdout, status, signal, error } = spawnSync(program, { timeout: RUN_MS, maxBuffer: 1 << 21 });
    if (error && (error as NodeJS.ErrnoException).code !== 'ETIMEDOUT') return { reason: `the program cannot be run here: ${error.message}` };
    if (status === null) throw new Error(`${source} as a program ended by ${signal}`);
    return { console: new Uint8Array(stdout) };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { reason: 'gcc and binutils are not installed' };
    throw error;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const payload = findPayload(process.argv[2] ?? '');
  const run = payload ? runNative(payload) : { reason: 'usage: native.ts <payload>' };
  if ('console' in run) process.stdout.write(run.console);
  else console.error(run.reason);
  process.exitCode = 'console' in run ? 0 : 1;
}
