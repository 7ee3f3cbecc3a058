// # The machine of a case
//
// Every guest case runs on the same machine, a PC with a disk and a network card, and so does every payload in the site's live page; a trace from one can be
// held against a trace from the other. Two kinds of guests cannot have all of it. One wants a second processor that starts at once,
// which no PC has: it gets chapter 3's machine. The other asks for vectors that come past every interrupt controller, and has the controllers in user space.

import type { Trace } from '../../chapters/01-hardware-background/trace.ts';
import { CAP } from '../../chapters/02-kvm-objects/abi/capabilities.ts';
import type { Kernel } from '../../chapters/02-kvm-objects/kernel.ts';
import { Kvm } from '../../chapters/02-kvm-objects/kvm.ts';
import type { BoardOptions } from '../../chapters/03-vcpu-loop/board.ts';
import type { Chassis } from '../../chapters/03-vcpu-loop/chassis.ts';
import { MemoryBlock, SECTOR_BYTES } from '../../chapters/05-pio-mmio/block/block.ts';
import { completeConfig, type MachineConfig } from '../../chapters/05-pio-mmio/machine/config.ts';
import '../../chapters/05-pio-mmio/machine/devices.ts';
import { buildMachine } from '../../chapters/05-pio-mmio/machine/machine-types.ts';
import type { Mainboard } from '../../chapters/05-pio-mmio/machine/mainboard.ts';
import '../../chapters/15-whole-machine/microvm/microvm.ts';
import type { WireDevice } from '../device-script/wire.ts';
import { caseDevices } from './case-devices.ts';

/** What every case's machine has: a disk, and a network with somebody in it. */
const DESCRIPTION: MachineConfig & Required<Pick<MachineConfig, 'devices' | 'drives'>> = {
  reboot: false,
  serial: ['null'],
  drives: [{ id: 'disk', file: 'in memory' }],
  netdevs: [{ id: 'wire', type: 'echo' }],
  devices: [
    { type: 'ide-hd', drive: 'disk', bus: 'ide.0', unit: 0 },
    { type: 'e1000', netdev: 'wire' },
  ],
};
const DISK_SECTORS = 128;

// Other boards than the usual one: a PC with the older chipset, and one without PCI, which then has neither disk nor card. That one has what it can have of
// the rest, so that cases about timers have something to look at.

/** The board of a case, by what the target is called after. */
export const BOARDS = {
  q35: DESCRIPTION,
  pc: { ...DESCRIPTION, machine: { type: 'pc' } },
  microvm: { ...DESCRIPTION, machine: { type: 'microvm', pit: true, rtc: true }, drives: [], netdevs: [], devices: [] },
} as const satisfies Record<string, typeof DESCRIPTION>;
export type BoardName = keyof typeof BOARDS;

export interface CaseMachine {
  readonly vcpus: number;
  readonly memoryMiB: number;
  /** What the guest needs of its machine. */
  readonly needs: readonly string[];
  /** What waits at the serial port. */
  readonly input: Uint8Array;
  readonly devices?: readonly WireDevice[];
  /** Starts from a disk with this image, by firmware; null: the image is loaded directly. */
  readonly disk?: { readonly image: Uint8Array; readonly firmware: Uint8Array } | null;
  readonly boardName?: BoardName;
}

/** What to make a machine of, and the PC that it will be; null when it is chapter 3's. */
export interface CaseBoard {
  readonly pc: Mainboard | null;
  readonly board: BoardOptions<Chassis>;
}

/** The machine for a guest on a kernel. */
export function caseBoard(
  kernel: Kernel,
  { vcpus, memoryMiB, needs, input, devices = [], disk = null, boardName = 'q35' }: CaseMachine,
  trace: Trace | null,
): CaseBoard {
  // Only a machine without local APICs can start its second processor at once: chapter 3's.
  if (needs.includes('smp2-shared')) return { pc: null, board: { kernel, ramBytes: memoryMiB << 20, vcpus, trace, input } };
  const start: MachineConfig = disk ? { firmware: 'firmware' } : { kernel: 'the image' };
  const virtio = caseDevices(devices);
  const description: typeof DESCRIPTION = BOARDS[boardName];
  const pc = buildMachine({
    kernel,
    config: completeConfig({
      ...description,
      ...start,
      drives: [...description.drives, ...virtio.config.drives],
      devices: [...description.devices, ...virtio.config.devices],
      ...(virtio.config.chardevs && { chardevs: virtio.config.chardevs }),
      ...{ memoryMiB, cpus: vcpus, irqchip: irqchipFor(needs, kernel) },
    }),
    firmware: disk ? disk.firmware : null,
    blocks: new Map([['disk', new MemoryBlock(diskWith(disk ? disk.image : null))], ...virtio.blocks]),
    chardevs: virtio.chardevs,
    trace,
    ioThread: kernel.name === 'soft' || vcpus > 1, // processors of a real kernel have threads of their own if there are several
  });
  // At the other end of a virtio console somebody repeats what they hear.
  for (const chardev of virtio.chardevs.values()) chardev.onOutput = (bytes) => chardev.send(bytes);
  pc.serials[0]?.send(input);
  return { pc, board: pc.board };
}

// Devices that inject a vector past every controller need the controllers out of the kernel, which would not take it. Everything else is run as everybody
// runs it, with the controllers in the kernel.

/** Where the interrupt controllers go. */
function irqchipFor(needs: readonly string[], kernel: Kernel): 'on' | 'off' {
  if (needs.includes('inject') || needs.includes('inject-nmi')) return 'off';
  const kvm = Kvm.open(kernel);
  try {
    return kvm.checkExtension(CAP.KVM_CAP_IRQCHIP) > 0 && kvm.checkExtension(CAP.KVM_CAP_PIT2) > 0 ? 'on' : 'off';
  } finally {
    kvm.close();
  }
}

/** A disk that begins with the image. */
function diskWith(image: Uint8Array | null): Uint8Array {
  const disk = new Uint8Array(Math.max(DISK_SECTORS, Math.ceil((image?.length ?? 0) / SECTOR_BYTES)) * SECTOR_BYTES);
  if (image) disk.set(image);
  return disk;
}
