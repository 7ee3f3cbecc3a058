// # A boot that is watched
//
// Some of what a driver does can only be seen from the machine's side: what is on the disk afterwards, what came out of a port, how much memory is in
// the balloon. So this machine runs in the test's own process, with disks and ports that are arrays.

import { readFileSync } from 'node:fs';
import { threadWorkshop } from '../../chapters/01-hardware-background/engine/host/workshop-thread.ts';
import { Machine } from '../../chapters/03-vcpu-loop/vmm.ts';
import type { MemoryBlock } from '../../chapters/05-pio-mmio/block/block.ts';
import type { Chardev } from '../../chapters/05-pio-mmio/machine/chardev.ts';
import { completeConfig } from '../../chapters/05-pio-mmio/machine/config.ts';
import type { DeviceConfig } from '../../chapters/05-pio-mmio/machine/device-types.ts';
import '../../chapters/05-pio-mmio/machine/devices.ts';
import { buildMachine } from '../../chapters/05-pio-mmio/machine/machine-types.ts';
import type { Mainboard } from '../../chapters/05-pio-mmio/machine/mainboard.ts';
import { machineKernel } from '../../chapters/05-pio-mmio/machine/soft-machine.ts';
import '../../chapters/06-virtio-rings/machine/device-types.ts';
import '../../chapters/15-whole-machine/linux/doors.ts';
import '../../chapters/15-whole-machine/microvm/microvm.ts';
import { COMMAND_LINE } from './boot.ts';
import { imageFor, initramfsFile, type LinuxAtHand } from './debian.ts';

export interface Watched {
  readonly machine: string;
  readonly devices: readonly DeviceConfig[];
  readonly disks?: Readonly<Record<string, MemoryBlock>>;
  readonly chardevs?: Readonly<Record<string, Chardev>>;
  readonly modules: readonly string[];
  readonly script: string;
  readonly append?: string;
  readonly files?: ReadonlyMap<string, Uint8Array>;
  /** Called for each line of the console. */
  readonly onLine?: (line: string, board: Mainboard) => void;
  readonly timeoutS?: number;
}

export interface Seen {
  readonly end: string;
  readonly console: string;
  readonly seconds: number;
  /** What the script has said by `check NAME VALUE`. */
  readonly checks: Readonly<Record<string, string>>;
}

const MEMORY_MIB = 256;

/** Boots, runs the script, and says what was seen. */
export function watchedBoot(linux: LinuxAtHand, watched: Watched): Seen {
  const { machine: type, devices, disks = {}, chardevs = {}, modules, script, append = '', files, onLine = () => {}, timeoutS = 1800 } = watched;
  const initramfs = initramfsFile(linux, { script, modules, ...(files && { files }) });
  try {
    const kernelFile = imageFor(linux, 'linux64');
    const [image, initrd] = [kernelFile, initramfs.path].map((path) => new Uint8Array(readFileSync(path))) as [Uint8Array, Uint8Array];
    const config = completeConfig({
      machine: { type },
      memoryMiB: MEMORY_MIB,
      kernel: kernelFile,
      initrd: initramfs.path,
      serial: ['null'],
      reboot: false,
      devices: [...devices],
      drives: Object.keys(disks).map((id) => ({ id, file: 'in memory' })),
      chardevs: Object.keys(chardevs).map((id) => ({ id, stream: 'null' as const })),
    });
    const kernel = machineKernel(config, { workshop: threadWorkshop() });
    let [console, line] = ['', ''];
    const board: Mainboard = buildMachine({
      kernel,
      config,
      blocks: new Map(Object.entries(disks)),
      chardevs: new Map(Object.entries(chardevs)),
      onSerial: (_, byte) => {
        const letter = String.fromCharCode(byte);
        console += letter;
        if (letter !== '\n') {
          line += letter;
          return;
        }
        onLine(line.trim(), board);
        line = '';
      },
    });
    const machine = new Machine(board.board);
    const began = performance.now();
    try {
      machine.load(image, { ...board.handover, initrd, commandLine: `${COMMAND_LINE} ${append}` });
      const unlimited = Number.POSITIVE_INFINITY;
      const { end, detail } = machine.run({ exits: unlimited, bounds: unlimited, expired: () => performance.now() - began > 1000 * timeoutS });
      const checks = Object.fromEntries([...console.matchAll(/^check ([a-z0-9-]+) (.*?)\s*$/gm)].map(([, name, value]) => [name, value as string]));
      return { end: end === 'shutdown' ? '' : `${end}: ${detail}`, console, seconds: (performance.now() - began) / 1000, checks };
    } finally {
      machine.dispose();
    }
  } finally {
    initramfs.remove();
  }
}
