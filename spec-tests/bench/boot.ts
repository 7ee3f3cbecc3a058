// # The benchmark of boots
//
// `ringbook bench boot` starts the same unmodified kernel, with the same first file system, here and in QEMU's translator, in turns. What is timed is what somebody waits
// for: from the start of the process to the first program's first line. Everything else is counted, and the same each time.

import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import type { BootRecords } from '../../chapters/15-whole-machine/boots/record.ts';
import { ROOT } from '../checks/tree.ts';
import { COMMAND_LINE, MARK } from '../linux/boot.ts';
import { debianLinux, imageFor, initramfsFile } from '../linux/debian.ts';
import type { BootResult, BootWish } from './boot-guest.ts';
import { bootInQemu, type PeerBoot, peerMissing } from './boot-peer.ts';
import { median } from './figures.ts';

const MACHINES = ['q35', 'pc', 'microvm'];
const USAGE = `usage: ringbook bench boot [--machines NAME,...] [--rounds N] [--memory MIB] [--append TEXT] [--timeout S] [--quick] [--no-peer] [--record]

  --machines  ${MACHINES.join(',')}
  --rounds    how often each is started, in turns with QEMU (3)
  --memory    of the guest, in MiB (256)
  --append    more of the kernel's command line
  --timeout   for one boot, in seconds (600)
  --quick     one round
  --no-peer   without QEMU
  --record    write what was counted, for the book, to chapters/15-whole-machine/boots/record.json`;

const GUEST = join(ROOT, 'spec-tests/bench/boot-guest.ts');
/** The boot with several processors, which only the book wants. */
const SEVERAL = { machine: 'q35', cpus: 4 };
const OUT_FILE = 'spec-tests/out/bench-boot.json';
const RECORD_FILE = 'chapters/15-whole-machine/boots/record.json';
/** What a machine may need of its host, besides the memory of its guest. */
const LIMIT_MIB = 500;
/** Counting phases takes messages from the first line on. */
const EARLY = 'earlyprintk=ttyS0,115200';

/** One boot, in a process of its own. @throws Error */
async function bootHere(wish: BootWish): Promise<BootResult> {
  const child = spawn(process.execPath, [...process.execArgv, GUEST, JSON.stringify(wish)], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [answer, complaint] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    answer += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaint = (complaint + text).slice(-2000);
  });
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (status !== 0) throw new Error(/Error: (.*)/.exec(complaint)?.[1] ?? `the machine's process ended with ${status}`);
  return JSON.parse(answer) as BootResult;
}

interface Samples {
  readonly machine: string;
  readonly results: BootResult[];
  readonly peer: PeerBoot[];
  failed: string | null;
  peerFailed: string | null;
}

/** Median of the rounds' ratios, by the wall's clock or by the processor's; null when one of the two is missing. */
function ratio({ results, peer }: Samples, clock: keyof PeerBoot): number | null {
  const each = peer.flatMap((there, round) => {
    const here = results[round]?.[clock];
    return here === undefined || !there[clock] ? [] : [here / there[clock]];
  });
  return each.length > 0 ? median(each) : null;
}
const mips = ({ instructions, seconds }: BootResult): number => instructions / seconds / 1e6;
const fixed = (value: number, digits = 1): string => value.toFixed(digits);

function print(samples: Samples, memoryMiB: number): boolean {
  const { machine, results, peer, failed, peerFailed } = samples;
  const [result] = results;
  if (failed !== null || !result) {
    console.log(`\n${machine}: not measured: ${failed}`);
    return false;
  }
  const { record, instructions } = result;
  const seconds = median(results.map((each) => each.seconds));
  const overMiB = Math.max(...results.map(({ peakMiB }) => peakMiB)) - memoryMiB;
  console.log(`\n${machine}`);
  console.log(`  to the first program      ${fixed(seconds)} s, ${fixed(median(results.map((each) => each.processorSeconds)))} s of processor time`);
  if (peerFailed !== null) console.log(`  QEMU, TCG                 not measured: ${peerFailed}`);
  else {
    const [wall, processor] = [ratio(samples, 'seconds'), ratio(samples, 'processorSeconds')];
    const by = `ours : QEMU ${wall === null ? '-' : fixed(wall, 2)}${processor === null ? '' : `, by processor time ${fixed(processor, 2)}`}`;
    console.log(`  QEMU, TCG                 ${fixed(median(peer.map((each) => each.seconds)))} s; ${by}`);
  }
  console.log(`  guest instructions        ${instructions.toLocaleString('en')}, ${fixed(median(results.map(mips)))} million a second`);
  console.log(`  peak memory without RAM   ${fixed(overMiB, 0)} MiB${overMiB > LIMIT_MIB ? `, which is more than ${LIMIT_MIB}` : ''}`);
  for (const [phase, took] of Object.entries(record.phases))
    console.log(
      `  ${phase.padEnd(24)}  ${fixed(took.instructions / 1e6)} million instructions, ${fixed(took.nanoseconds / 1e6)} ms of its time, ${took.exits} exits`,
    );
  console.log(
    `  exits                     ${Object.entries(record.exits)
      .map(([reason, count]) => `${reason} ${count}`)
      .join(', ')}`,
  );
  for (const [device, { kernel, user, nanoseconds }] of Object.entries(record.devices)) {
    console.log(
      `    ${device.padEnd(22)}  ${String(kernel).padStart(7)} in the kernel ${String(user).padStart(7)} in user space, ${fixed(nanoseconds / 1e6, 2)} ms of its time`,
    );
  }
  return overMiB <= LIMIT_MIB;
}

/** The command. Returns its exit status. */
export async function benchBoot(args: readonly string[]): Promise<number> {
  const { values: options } = parseArgs({
    args: [...args],
    options: {
      machines: { type: 'string', default: MACHINES.join(',') },
      rounds: { type: 'string', default: '3' },
      memory: { type: 'string', default: '256' },
      append: { type: 'string', default: '' },
      timeout: { type: 'string', default: '600' },
      quick: { type: 'boolean' },
      'no-peer': { type: 'boolean' },
      record: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (options.help) {
    console.log(USAGE);
    return 0;
  }
  const number = (name: 'rounds' | 'memory' | 'timeout'): number => {
    const value = Number(options[name]);
    if (!(Number.isInteger(value) && value >= 1)) throw new Error(`--${name} is a number from 1 on, not '${options[name]}'`);
    return value;
  };
  const [rounds, memoryMiB, timeoutS] = [options.quick ? 1 : number('rounds'), number('memory'), number('timeout')];
  const machines = options.machines.split(',').filter((name) => name !== '');
  const linux = await debianLinux('cloud-amd64');
  if ('reason' in linux) {
    console.log(`nothing is measured: there is no kernel to boot: ${linux.reason}`);
    return 0;
  }
  const missing = options['no-peer'] ? 'it was not asked for' : peerMissing() || null;
  const commandLine = [COMMAND_LINE, EARLY, options.append].filter((word) => word !== '').join(' ');
  const all: Samples[] = machines.map((machine) => ({ machine, results: [], peer: [], failed: null, peerFailed: missing }));
  const initramfs = initramfsFile(linux, { script: `echo "${MARK} $(uname -r)"\n` });
  const kernel = imageFor(linux, 'linux64');
  const wishFor = (machine: string): BootWish => ({ machine, kernel, initrd: initramfs.path, commandLine, memoryMiB, mark: MARK, timeoutS });
  let several: BootResult | null = null;
  try {
    for (let round = 0; round < rounds; round++)
      for (const samples of all) {
        const { machine } = samples;
        const wish = wishFor(machine);
        try {
          if (samples.failed === null) samples.results.push(await bootHere(wish));
        } catch (error) {
          samples.failed = (error as Error).message;
        }
        try {
          if (samples.peerFailed === null) samples.peer.push(await bootInQemu(wish));
        } catch (error) {
          samples.peerFailed = (error as Error).message;
        }
        const [here, there] = [samples.results.at(-1)?.seconds, samples.peer.at(-1)?.seconds];
        const text = (seconds: number | undefined): string => (seconds === undefined ? '-' : `${fixed(seconds)} s`);
        console.error(`[${round + 1}/${rounds}] ${machine}: ${text(here)}, QEMU ${text(there)}`);
      }
    if (options.record) several = await bootHere({ ...wishFor(SEVERAL.machine), cpus: SEVERAL.cpus });
  } finally {
    initramfs.remove();
  }
  const well = all.map((samples) => print(samples, memoryMiB)).every((good) => good);
  // The same instructions each time, or the counts mean nothing.
  const unlike = all.filter(({ results }) => new Set(results.map(({ record }) => JSON.stringify(record))).size > 1).map(({ machine }) => machine);
  for (const machine of unlike) console.log(`\n${machine}: two boots were not the same`);
  write(join(ROOT, OUT_FILE), {
    format: 1,
    when: new Date().toISOString(),
    node: process.version,
    processor: `${cpus().length} × ${cpus()[0]?.model.trim() ?? 'unknown'}`,
    kernel: all.flatMap(({ results }) => results)[0]?.release ?? null,
    commandLine,
    memoryMiB,
    machines: Object.fromEntries(
      all.map((samples) => [
        samples.machine,
        {
          failed: samples.failed,
          peerFailed: samples.peerFailed,
          seconds: samples.results.map(({ seconds }) => seconds),
          processorSeconds: samples.results.map((each) => each.processorSeconds),
          peer: samples.peer,
          ratio: ratio(samples, 'seconds'),
          processorRatio: ratio(samples, 'processorSeconds'),
          instructions: samples.results[0]?.instructions ?? null,
          mips: samples.results.map(mips),
          peakMiB: samples.results.map(({ peakMiB }) => peakMiB),
          record: samples.results[0]?.record ?? null,
        },
      ]),
    ),
  });
  if (options.record) {
    const complete = all.every(({ failed }) => failed === null) && unlike.length === 0 && MACHINES.every((name) => machines.includes(name));
    if (!complete || !several) console.log('\nno record: it takes a boot of every machine, and the same each time');
    else write(join(ROOT, RECORD_FILE), recordOf(all, several, commandLine, memoryMiB));
  }
  return well && unlike.length === 0 ? 0 : 1;
}

function recordOf(all: readonly Samples[], several: BootResult, commandLine: string, memoryMiB: number): BootRecords {
  const [first] = all.flatMap(({ results }) => results) as [BootResult];
  return {
    format: 2,
    kernel: first.release,
    header: first.header,
    commandLine,
    memoryMiB,
    machines: Object.fromEntries(all.map(({ machine, results }) => [machine, (results[0] as BootResult).record])),
    several: {
      machine: SEVERAL.machine,
      nanoseconds: Object.values(several.record.phases).reduce((sum, { nanoseconds }) => sum + nanoseconds, 0),
      processors: several.processors,
    },
  };
}

function write(file: string, content: unknown): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${JSON.stringify(content, null, 1)}\n`);
}
