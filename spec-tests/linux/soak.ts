// # A guest that is busy for a long time
//
// What goes wrong after ten minutes is seldom what goes wrong after ten seconds: caches that fill, counters that wrap, memory of the host's that is not given back.
// `ringbook boots soak` keeps a guest busy with what shells do (pipes, processes, files, timers), in rounds, and compares the sums of each round. With
// `--save-every` the machine is written down now and then and goes on in a new one.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { threadWorkshop } from '../../chapters/01-hardware-background/engine/host/workshop-thread.ts';
import { Machine } from '../../chapters/03-vcpu-loop/vmm.ts';
import { completeConfig } from '../../chapters/05-pio-mmio/machine/config.ts';
import '../../chapters/05-pio-mmio/machine/devices.ts';
import { buildMachine } from '../../chapters/05-pio-mmio/machine/machine-types.ts';
import type { Mainboard } from '../../chapters/05-pio-mmio/machine/mainboard.ts';
import { machineKernel } from '../../chapters/05-pio-mmio/machine/soft-machine.ts';
import '../../chapters/15-whole-machine/linux/doors.ts';
import '../../chapters/15-whole-machine/microvm/microvm.ts';
import { restoreMachine, saveMachine } from '../../chapters/15-whole-machine/saved-state/machine-state.ts';
import { COMMAND_LINE, complaints } from './boot.ts';
import { debianLinux, imageFor, initramfsFile } from './debian.ts';
import { GROWTH_LIMIT_MIB, growth } from './growth.ts';

const USAGE = `usage: ringbook boots soak [--minutes N] [--save-every SECONDS] [--machine TYPE] [--memory MIB]

  --minutes     how long, by the clock on the wall (5)
  --save-every  save the machine so often, and go on in a restored one
  --machine     q35, pc or microvm (q35)
  --memory      of the guest, in MiB (128)

It fails when a round's sums are wrong, the kernel complains, or the host's memory is too much or still grows when the first third is over.`;

/** A round that says the same each time, but for its number. */
const SCRIPT = `
export LC_ALL=C
round=0
while true; do
  round=$((round + 1))
  sum=$(gzip -c /bin/busybox | gunzip | sha256sum | cut -d' ' -f1)
  md5=$(cat /bin/busybox /bin/busybox | md5sum | cut -d' ' -f1)
  forks=0
  for n in $(seq 1 40); do [ "$(/bin/busybox echo $n)" = $n ] && forks=$((forks + 1)); done
  dd if=/dev/zero bs=64k count=64 2>/dev/null | tr '\\0' 'r' >/tmp/pages
  pages=$(sha256sum /tmp/pages | cut -d' ' -f1)
  rm /tmp/pages
  words=$(seq 1 3000 | sort -r | sort -n | tail -n 1)
  before=$(cut -d. -f1 /proc/uptime)
  for n in 1 2 3 4; do usleep 250000; done
  slept=$(( $(cut -d. -f1 /proc/uptime) - before ))
  [ $slept -ge 1 ] && slept=slept
  echo "round $round $sum $md5 $forks $pages $words $slept"
done
`;
const PAGES_BYTES = 64 * 65_536;
/** What a machine may need of its host, besides the memory of its guest. */
const LIMIT_MIB = 500;
/** How long it runs before anybody looks. */
const SLICE_MS = 200;
/** How often garbage is collected, the memory that is left is noted, and something is said. */
const REPORT_MS = 30_000;

const residentMiB = (): number => process.memoryUsage().rss / 2 ** 20;
/** A collection of garbage, now; Node offers none to a program that was started without its option. */
function collector(): () => void {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as () => void;
}

const hash = (algorithm: string, ...parts: readonly Uint8Array[]): string => {
  const sum = createHash(algorithm);
  for (const part of parts) sum.update(part);
  return sum.digest('hex');
};

/** The command. Returns its exit status. */
export async function runSoak(args: readonly string[]): Promise<number> {
  const { values: options } = parseArgs({
    args: [...args],
    options: {
      minutes: { type: 'string', default: '5' },
      'save-every': { type: 'string' },
      machine: { type: 'string', default: 'q35' },
      memory: { type: 'string', default: '128' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (options.help) {
    console.log(USAGE);
    return 0;
  }
  const [minutes, memoryMiB] = [Number(options.minutes), Number(options.memory)];
  const saveEveryMs = options['save-every'] === undefined ? Number.POSITIVE_INFINITY : 1000 * Number(options['save-every']);
  if (!(minutes > 0 && memoryMiB > 0 && saveEveryMs > 0)) throw new Error('--minutes, --memory and --save-every are numbers above 0');
  const linux = await debianLinux('cloud-amd64');
  if ('reason' in linux) {
    console.log(`not run: ${linux.reason}`);
    return 0;
  }
  const { busybox } = linux;
  const pages = new Uint8Array(PAGES_BYTES).fill('r'.charCodeAt(0));
  const expected = [hash('sha256', busybox), hash('md5', busybox, busybox), '40', hash('sha256', pages), '3000', 'slept'].join(' ');

  const initramfs = initramfsFile(linux, { script: SCRIPT });
  const kernelFile = imageFor(linux, 'linux64');
  const [image, initrd] = [kernelFile, initramfs.path].map((path) => new Uint8Array(readFileSync(path))) as [Uint8Array, Uint8Array];
  initramfs.remove();
  const config = completeConfig({ machine: { type: options.machine }, memoryMiB, kernel: kernelFile, serial: ['null'], reboot: false });
  let [output, line, rounds, saves, stateMiB, peakMiB] = ['', '', 0, 0, 0, 0];
  const wrong: string[] = [];
  const samplesMiB: number[] = [];
  const collect = collector();
  const build = (): Machine<Mainboard> => {
    const board = buildMachine({
      kernel: machineKernel(config, { workshop: threadWorkshop() }),
      config,
      onSerial: (_, byte) => {
        const letter = String.fromCharCode(byte);
        if (letter !== '\n') {
          line += letter;
          return;
        }
        const said = line.trim();
        line = '';
        const found = /^round ([0-9]+) (.*)$/.exec(said);
        if (!found) output += `${said}\n`;
        else if (++rounds !== Number(found[1]) || found[2] !== expected) wrong.push(`round ${rounds}: ${said}, expected ${expected}`);
      },
    });
    return new Machine(board.board);
  };

  let machine = build();
  machine.load(image, { ...machine.platform.handover, initrd, commandLine: COMMAND_LINE });
  const began = performance.now();
  const end = began + 60_000 * minutes;
  let saveAt = began + saveEveryMs;
  let looked = began;
  try {
    while (performance.now() < end && wrong.length === 0) {
      const until = performance.now() + SLICE_MS;
      const unlimited = Number.POSITIVE_INFINITY;
      const result = machine.run({ exits: unlimited, bounds: unlimited, expired: () => performance.now() > until });
      if (result.end !== 'timeout') wrong.push(`the machine ended by ${result.end}: ${result.detail}`);
      await new Promise((resolve) => setImmediate(resolve));
      peakMiB = Math.max(peakMiB, residentMiB());
      if (performance.now() - looked > REPORT_MS) {
        looked = performance.now();
        collect();
        await new Promise((resolve) => setImmediate(resolve));
        samplesMiB.push(residentMiB());
        console.error(`${((looked - began) / 60_000).toFixed(1)} min: ${rounds} rounds, ${saves} saved, ${residentMiB().toFixed(0)} MiB`);
      }
      if (performance.now() < saveAt || rounds === 0 || wrong.length > 0) continue;
      const state = await saveMachine(machine);
      machine.dispose();
      machine = build();
      await restoreMachine(machine, state);
      saves++;
      stateMiB = Math.max(stateMiB, state.length / 2 ** 20);
      saveAt = performance.now() + saveEveryMs;
    }
  } finally {
    machine.dispose();
  }
  wrong.push(...complaints(output));
  if (rounds === 0) wrong.push(`not one round was finished; the console ends with: ${output.trimEnd().split('\n').at(-1) ?? 'nothing'}`);
  const machines = saves > 0 ? 2 : 1; // the old one's memory goes when the collector comes
  const overMiB = peakMiB - machines * memoryMiB - stateMiB;
  if (overMiB > machines * LIMIT_MIB) wrong.push(`${overMiB.toFixed(0)} MiB of the host's memory besides the guest's`);
  const grown = growth(samplesMiB);
  if (grown && grown.grownMiB > GROWTH_LIMIT_MIB) wrong.push(`from the second third to the last it has grown by ${grown.grownMiB.toFixed(0)} MiB`);
  console.log(
    `${wrong.length === 0 ? 'ok' : 'NOT OK'}: ${rounds} rounds in ${((performance.now() - began) / 60_000).toFixed(1)} min, ${saves} times saved and restored` +
      `${saves > 0 ? ` (${stateMiB.toFixed(1)} MiB)` : ''}, at most ${peakMiB.toFixed(0)} MiB of the host's memory` +
      `${grown ? `, usually ${grown.thirds.map((each) => each.toFixed(0)).join(', ')} in each third of the time` : ''}`,
  );
  for (const each of wrong) console.log(`  ${each}`);
  return wrong.length === 0 ? 0 : 1;
}
