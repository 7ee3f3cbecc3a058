// # Who is measured
//
// Every measurement is a process of its own: it starts, runs one workload once, and is gone. Three times are taken from outside: when the process was started, when the
// first mark was seen and when the second. Between the marks lies what the guest did, from its first instruction on, so the time that a translator takes to translate
// is in it; before the first mark lies what it took to get there.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readImage } from '../../guest-payloads/host/images.ts';
import { BIOS, CYLINDER_BYTES, MODEL, VGA_BIOS } from '../adapters/bochs.ts';
import { killGroup, spawnGroup } from '../adapters/children.ts';
import { clockMs, type Ran } from './cpu-marks.ts';
import { imageName, MEMORY_MIB, reported, resultOf, type Task, taskName, type Width, withParameters } from './cpu-workloads.ts';

// On a machine where others work, the wall clock measures them, too. Then the processor time of the peer's process is the better measure; it counts its compiler's
// threads, which a wall clock does not see where there are processors enough.

export const CLOCKS = ['wall', 'processor'] as const;
export type ClockName = (typeof CLOCKS)[number];

/** One run of one workload. */
export interface Measured {
  /** From the start of the process to the first mark. */
  readonly startMs: number;
  readonly runMs: number;
  /** Retired between the marks; null where nobody counts. */
  readonly instructions: number | null;
}

export interface Peer {
  readonly name: string;
  readonly about: string;
  readonly widths: readonly Width[];
  /** It looks at every instruction each time. */
  readonly interprets: boolean;
  /** Why it cannot be measured here; empty if it can. */
  missing(): string;
  /** @throws Error when the guest does not come to its end in time, or to another result than it should. */
  measure(task: Task, rounds: number, limitMs: number, clock: ClockName): Promise<Measured>;
}

function check(task: Task, output: string): void {
  const found = reported(output, task);
  const wanted = resultOf(task);
  if (found !== wanted)
    throw new Error(`${taskName(task)} came to ${found === null ? 'nothing' : found.toString(16)}, and ${wanted.toString(16)} is right`);
}

// ## In Node

const CHILD = fileURLToPath(new URL('cpu-peer.ts', import.meta.url));

function inNode(name: string, about: string, widths: readonly Width[], interprets: boolean): Peer {
  return {
    ...{ name, about, widths, interprets },
    missing: () => '',
    async measure(task, rounds, limitMs, clock) {
      const began = clockMs();
      const child = spawnGroup(process.execPath, ['--disable-warning=ExperimentalWarning', CHILD, name, taskName(task), String(rounds)], {
        stdio: ['ignore', 'pipe', 'ignore'],
      });
      let text = '';
      child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk;
      });
      const timer = setTimeout(() => killGroup(child), limitMs);
      await new Promise((resolve) => child.once('close', resolve));
      clearTimeout(timer);
      if (text === '') throw new Error('nothing within the time');
      const ran = JSON.parse(text) as Ran | { readonly error: string };
      if ('error' in ran) throw new Error(ran.error);
      check(task, ran.output);
      const { begin, end } = ran;
      const counted = begin.instructions >= 0;
      const instructions = counted ? end.instructions - begin.instructions : null;
      return clock === 'wall'
        ? { startMs: begin.at - began, runMs: end.at - begin.at, instructions }
        : { startMs: begin.used, runMs: end.used - begin.used, instructions };
    },
  };
}

// ## Other programs
//
// The marks are bytes on their standard output, each in a write of its own.

async function inFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'ringbook-bench-'));
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  process.on('exit', remove);
  try {
    return await work(folder);
  } finally {
    process.off('exit', remove);
    remove();
  }
}

const POLL_MS = 10;
const REPORT_MS = 5000;

/** Milliseconds of processor time that a process has used; Linux counts it in hundredths of a second. */
function usedBy(pid: number | undefined): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1')
    .replace(/^.*\) /, '')
    .split(' ');
  return 10 * (Number(fields[11]) + Number(fields[12]));
}

/** Starts a program and waits for the two marks and the end of the report in `output`. */
async function watch(
  task: Task,
  command: readonly string[],
  folder: string,
  { output, limitMs, clock }: { output: string; limitMs: number; clock: ClockName },
): Promise<Measured> {
  const marks: Partial<Record<'B' | 'E', number>> = {};
  const began = clock === 'wall' ? clockMs() : 0;
  const child = spawnGroup(command[0] as string, command.slice(1), { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  let over = false;
  child.stderr?.on('data', (chunk: Buffer) => {
    said = (said + chunk.toString('latin1')).slice(-500);
  });
  child.once('error', (error) => {
    said = error.message;
  });
  child.once('close', () => {
    over = true;
  });
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, limitMs);
    child.once('close', () => resolve());
    child.stdout?.on('data', (chunk: Buffer) => {
      const text = chunk.toString('latin1');
      const at = clock === 'wall' ? clockMs() : usedBy(child.pid);
      if (text === 'B' || text === 'BE') marks.B = at;
      if ((text === 'E' || text === 'BE') && marks.B !== undefined) {
        marks.E = at;
        clearTimeout(timer);
        resolve();
      }
    });
  });
  const report = (): string => (existsSync(output) ? readFileSync(output, 'latin1') : '');
  for (let waited = 0; marks.E !== undefined && !over && waited < REPORT_MS && !report().includes('RB1 done'); waited += POLL_MS)
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  killGroup(child);
  const { B: begin, E: end } = marks;
  if (begin === undefined || end === undefined)
    throw new Error(`no marks within the time: ${report().trim().split('\n').at(-1) || said.trim().split('\n').at(-1)}`);
  check(task, report());
  return { startMs: begin - began, runMs: end - begin, instructions: null };
}

const absent = (program: string): string => {
  const { error } = spawnSync(program, ['--version'], { stdio: 'ignore', timeout: 20_000 });
  return error ? `no ${program} on PATH` : '';
};

const QEMU: Readonly<Record<Width, string>> = { 32: 'qemu-system-i386', 64: 'qemu-system-x86_64' };

const qemu: Peer = {
  name: 'qemu',
  about: 'QEMU, by its translator TCG',
  widths: [32, 64],
  interprets: false,
  missing: () => absent(QEMU[32]) || absent(QEMU[64]),
  measure: (task, rounds, limitMs, clock) =>
    inFolder(async (folder) => {
      const image = join(folder, 'image');
      const output = join(folder, 'output');
      writeFileSync(image, withParameters(readImage(imageName(task)), task.workload.index, rounds));
      const machine = ['-M', 'pc', '-accel', 'tcg', '-cpu', 'max', '-m', `${MEMORY_MIB}M`, '-nodefaults', '-display', 'none', '-no-reboot'];
      const marks = ['-chardev', 'stdio,id=marks,signal=off', '-device', 'isa-debugcon,iobase=0xe9,chardev=marks'];
      const ends = ['-serial', 'file:output', '-device', 'isa-debug-exit,iobase=0xf4,iosize=4', '-kernel', image];
      return watch(task, [QEMU[task.width], ...machine, ...marks, ...ends], folder, { output, limitMs, clock });
    }),
};

// Bochs starts from a disk, and it may have been built with a debugger, which has to be told to go on.

const bochs: Peer = {
  name: 'bochs',
  about: 'Bochs, an interpreter in C++',
  widths: [32, 64],
  interprets: true,
  missing: () => absent('bochs') || (existsSync(BIOS) ? '' : `no firmware at ${BIOS}`),
  measure: (task, rounds, limitMs, clock) =>
    inFolder(async (folder) => {
      const disk = join(folder, 'disk');
      writeFileSync(disk, withParameters(readImage(imageName(task), 'disk'), task.workload.index, rounds));
      truncateSync(disk, 2 * CYLINDER_BYTES);
      writeFileSync(join(folder, 'go'), 'continue\n');
      const lines = [
        `memory: guest=${MEMORY_MIB}, host=${MEMORY_MIB}`,
        `cpu: count=1, ips=50000000, model=${MODEL}, reset_on_triple_fault=0, ignore_bad_msrs=0`,
        `romimage: file=${BIOS}, options=fastboot`,
        `vgaromimage: file=${VGA_BIOS.find((path) => existsSync(path))}`,
        'pci: enabled=1, chipset=i440fx',
        'boot: disk',
        'ata0-master: type=disk, path="disk", mode=flat, cylinders=2, heads=16, spt=63',
        'com1: enabled=1, mode=file, dev=output',
        'port_e9_hack: enabled=1',
        'clock: sync=none, time0=local',
        'display_library: rfb, options="timeout=0"',
        'log: log',
        ...['panic: action=fatal', 'error: action=ignore', 'info: action=ignore', 'debug: action=ignore'],
        'sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy',
        'plugin_ctrl: speaker=0, gameport=0, unmapped=1',
      ];
      writeFileSync(join(folder, 'bochsrc'), `${lines.join('\n')}\n`);
      const asks = spawnSync('bochs', ['--help'], { encoding: 'utf8', timeout: 20_000 });
      const go = `${asks.stdout}${asks.stderr}`.includes('-rc filename') ? ['-rc', 'go'] : [];
      return watch(task, ['bochs', '-q', '-f', 'bochsrc', ...go], folder, { output: join(folder, 'output'), limitMs, clock });
    }),
};

/** In the order of the table's columns. */
export const PEERS: readonly Peer[] = [
  inNode('ringbook', "chapter 1's processor, translating", [32, 64], false),
  inNode('ringbook-interpreted', "chapter 1's processor, its translator off", [32, 64], true),
  inNode('ringbook-pc', 'the same under KVM_RUN, in the PC of the book', [32, 64], false),
  inNode('v86', 'v86, translating', [32], false),
  inNode('v86-interpreted', 'v86 with disable_jit', [32], true),
  qemu,
  bochs,
];
