// # One boot, counted
//
// A process of its own, so that its memory is the boot's alone. It starts a machine from the description on its command line, runs it to the mark of
// the first program, and says as JSON what that took.

import { readFileSync } from 'node:fs';
import { threadWorkshop } from '../../chapters/01-hardware-background/engine/host/workshop-thread.ts';
import type { Vcpu } from '../../chapters/02-kvm-objects/kvm.ts';
import { NS_PER_TICK } from '../../chapters/02-kvm-objects/soft/virtual-clock.ts';
import type { SoftVm } from '../../chapters/02-kvm-objects/soft/vm.ts';
import type { RunnableKernel } from '../../chapters/03-vcpu-loop/kernel/index.ts';
import { Machine } from '../../chapters/03-vcpu-loop/vmm.ts';
import { completeConfig } from '../../chapters/05-pio-mmio/machine/config.ts';
import '../../chapters/05-pio-mmio/machine/devices.ts';
import { buildMachine } from '../../chapters/05-pio-mmio/machine/machine-types.ts';
import type { Mainboard } from '../../chapters/05-pio-mmio/machine/mainboard.ts';
import { ACCESS_TICKS, machineKernel } from '../../chapters/05-pio-mmio/machine/soft-machine.ts';
import type { BootRecord, BootRecords, Phase, ProcessorRecord, Took } from '../../chapters/15-whole-machine/boots/record.ts';
import '../../chapters/15-whole-machine/linux/doors.ts';
import { readLinux } from '../../chapters/15-whole-machine/linux/header.ts';
import { placeLinux } from '../../chapters/15-whole-machine/linux/placement.ts';
import '../../chapters/15-whole-machine/microvm/microvm.ts';
import { BootCounts, byFrequency } from './boot-counts.ts';

/** On the command line, as JSON. */
export interface BootWish {
  readonly machine: string;
  readonly cpus?: number;
  readonly kernel: string;
  readonly initrd: string;
  readonly commandLine: string;
  readonly memoryMiB: number;
  readonly mark: string;
  readonly timeoutS: number;
}

/** What one boot came to. */
export interface BootResult {
  readonly header: BootRecords['header'];
  readonly release: string;
  readonly record: BootRecord;
  readonly processors: readonly ProcessorRecord[];
  readonly instructions: number;
  /** From the start of the process, with everything that it loads. */
  readonly seconds: number;
  /** Of processor time, as the system counted it. */
  readonly processorSeconds: number;
  readonly peakMiB: number;
}

/** What ends a phase: a line on the console. */
const ENDS: readonly (readonly [Phase, string])[] = [
  ['unpacking', '] Linux version '],
  ['early kernel', '] devtmpfs: initialized'],
  ['drivers', '] Run /init as init process'],
];

const TAIL = 200;

/** Counts who had the turn. */
class CountedMachine extends Machine<Mainboard> {
  readonly turns: { turns: number; instructions: number }[] = [];

  protected override enter(vcpu: Vcpu): number {
    const before = this.#instructions;
    const reason = super.enter(vcpu);
    const counted = this.turns[vcpu.id] ?? { turns: 0, instructions: 0 };
    counted.turns++;
    counted.instructions += this.#instructions - before;
    this.turns[vcpu.id] = counted;
    return reason;
  }

  get #instructions(): number {
    return (this.kernel as RunnableKernel).hardware.instructions;
  }
}

export function bootOnce(wish: BootWish): BootResult {
  const file = new Uint8Array(readFileSync(wish.kernel));
  const initrd = new Uint8Array(readFileSync(wish.initrd));
  const image = readLinux(file);
  if (!image) throw new Error(`${wish.kernel} is no Linux kernel`);
  const { machine: type, cpus = 1, memoryMiB, commandLine } = wish;
  const config = completeConfig({ machine: { type }, cpus, memoryMiB, kernel: wish.kernel, initrd: wish.initrd, serial: ['null'], reboot: false });
  const kernel = machineKernel(config, { workshop: threadWorkshop() });
  const counts = new BootCounts(kernel);
  const vms: SoftVm[] = [];
  kernel.vmCreated.push((vm) => void vms.push(vm));

  const { hardware, clock } = kernel;
  const phases: Partial<Record<Phase, Took>> = {};
  let last: Took = { instructions: 0, nanoseconds: 0, exits: 0 };
  const close = (phase: Phase): void => {
    const now = { instructions: hardware.instructions, nanoseconds: clock.now(), exits: counts.exitCount };
    phases[phase] = {
      instructions: now.instructions - last.instructions,
      nanoseconds: now.nanoseconds - last.nanoseconds,
      exits: now.exits - last.exits,
    };
    last = now;
  };
  let [tail, consoleBytes, phase] = ['', 0, 0];
  const board = buildMachine({
    kernel,
    config,
    onSerial: (_, byte) => {
      consoleBytes++;
      tail = (tail + String.fromCharCode(byte)).slice(-TAIL);
      const end = ENDS[phase];
      if (end ? !tail.endsWith(end[1]) : !tail.endsWith(wish.mark)) return;
      close(end?.[0] ?? 'user space');
      phase++;
    },
  });
  counts.watchMachine(board);
  const { handover } = board;
  const placed = placeLinux(image, handover.memoryMap ?? [], initrd);
  const machine = new CountedMachine(board.board);
  try {
    machine.load(file, { ...handover, initrd, commandLine });
    counts.watchApics(vms);
    const began = [hardware.instructions, clock.now()];
    last = { instructions: began[0] as number, nanoseconds: began[1] as number, exits: counts.exitCount };
    const deadline = performance.now() + 1000 * wish.timeoutS;
    const done = (): boolean => phase > ENDS.length;
    const unlimited = Number.POSITIVE_INFINITY;
    const { end, detail } = machine.run({ exits: unlimited, bounds: unlimited, expired: () => done() || performance.now() > deadline });
    if (!done()) throw new Error(`${type}: no first program: ${end}, ${detail}; the console ends with: ${tail.trim()}`);
    const usage = process.resourceUsage();
    return {
      header: {
        loadedHigh: image.loadedHigh,
        relocatable: image.relocatable,
        alignment: image.alignment,
        preferred: image.preferred,
        initBytes: image.initBytes,
        initrdLast: image.initrdLast,
      },
      release: /vmlinuz-(.+)$/.exec(wish.kernel)?.[1] ?? 'unknown',
      record: {
        loader: {
          kernelGpa: placed.kernel.gpa,
          kernelBytes: placed.kernel.bytes.length,
          initrdGpa: placed.initrd?.gpa ?? 0,
          initrdBytes: initrd.length,
        },
        phases: phases as Record<Phase, Took>,
        exits: byFrequency(counts.exits, (count) => count),
        devices: byFrequency(counts.devices, ({ kernel: inKernel, user }) => inKernel + user),
        nanosecondsPerTrip: ACCESS_TICKS * NS_PER_TICK,
        consoleBytes,
      },
      processors: machine.vcpus.map(({ id }) => ({
        ...(machine.turns[id] ?? { turns: 0, instructions: 0 }),
        received: byFrequency(counts.messages[id] ?? {}, (count) => count),
      })),
      instructions: hardware.instructions,
      seconds: performance.now() / 1000,
      processorSeconds: (usage.userCPUTime + usage.systemCPUTime) / 1e6,
      peakMiB: usage.maxRSS / 1024,
    };
  } finally {
    machine.dispose();
  }
}

if (import.meta.main) process.stdout.write(`${JSON.stringify(bootOnce(JSON.parse(process.argv[2] ?? '{}') as BootWish))}\n`);
