// # The embedded machine
//
// Chapter 5's PC on the kernel of this book. Nothing is probed: what the chapters implement is known, and a case that fails here is a defect of
// ours, so the list of what is missing is short and true by construction.

import { readFileSync } from 'node:fs';
import { threadWorkshop } from '../../chapters/01-hardware-background/engine/host/workshop-thread.ts';
import { Kvm } from '../../chapters/02-kvm-objects/kvm.ts';
import type { RunnableKernel } from '../../chapters/03-vcpu-loop/kernel/index.ts';
import { Machine } from '../../chapters/03-vcpu-loop/vmm.ts';
import type { MemoryMethod } from '../../chapters/04-memory-virtualization/kernel/index.ts';
import { machineKernel } from '../../chapters/05-pio-mmio/machine/soft-machine.ts';
import type { BoardName } from './case-machine.ts';
import { cpuFeatures } from './cpu-features.ts';
import { MachineAdapter, MONITOR } from './machine.ts';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };

// The capabilities of the processor and the kernel of this book.

const KERNEL = [
  ...[
    'protected-mode',
    'protected-paging',
    'protected-interrupts',
    'protected-v86',
    'protected-tasks',
    'long-mode',
    'long-interrupts',
    'user-mode',
    'single-step',
  ],
  ...['pae', 'nx', 'huge-pages', 'syscall', 'sysenter'],
  ...['kvm-real-mode', 'kvm-long-mode', 'kvm-guest-debug', 'kvm-interrupt-shadow', 'kvm-readonly-memory', 'kvm-nmi', 'kvm-dirty-log'],
  ...['kvm-user-memory2', 'kvm-manual-protect', 'kvm-dirty-ring', 'kvm-irqchip', 'kvm-split-irqchip', 'kvm-irq-routing', 'kvm-signal-msi'],
  ...['kvm-irqfd', 'kvm-irqfd-resample', 'kvm-ioeventfd', 'kvm-pit', 'kvm-clock', 'x2apic', 'tsc-deadline'],
];

// Which parts of the instruction set the processor has, its CPUID says, as to any guest. One part is there only for who asks: a guest that finds five levels of
// tables might use them, and each walk would be longer.

function instructions(memory: MemoryMethod): ReturnType<typeof cpuFeatures> {
  const kvm = Kvm.open(machineKernel({ memoryMiB: 1, cpus: 1, memory }, { linearAddressBits: memory === 'ept' ? 57 : 48 }));
  const leaves = kvm.getSupportedCpuid();
  kvm.close();
  return cpuFeatures((leaf, register) => leaves.find((entry) => entry.function === leaf)?.[register]);
}

/** Time passes while every processor sleeps, too; that part is not instructions. */
const executed = ({ hardware }: RunnableKernel): number => hardware.cpu.instructions - hardware.idleTicks;

// The kernel can virtualize memory in two ways, and a guest must not be able to tell which. So the whole suite runs on both, as one implementation: what is
// known to fail on one is known of the other.

export interface Way {
  /** Hot code is translated. */
  readonly translate?: boolean;
  /** How soon it is hot. */
  readonly heat?: number;
  /** By another thread, while the guest goes on. */
  readonly threaded?: boolean;
  /** Every event is recorded. */
  readonly traced?: boolean;
  /** The board of the guests; the usual one when absent. */
  readonly boardName?: BoardName;
}

// ## Other boards
//
// A target of its own has the same processor and kernel, and another board; there is nothing new to learn of a kernel or of a device that is addressed directly,
// so only guests run on it.

const NO_PCI = 'microvm has no PCI';
const LACKS: Readonly<Record<BoardName, Readonly<Record<string, string>>>> = {
  q35: {},
  pc: { q35: 'its chipset is the i440FX with a PIIX3' },
  microvm: {
    ...{ q35: NO_PCI, pci: NO_PCI, ide: NO_PCI, 'ide-dma': NO_PCI, e1000: NO_PCI, 'virtio-pci': NO_PCI, 'virtio-transitional': NO_PCI },
    'door-disk': 'microvm has no firmware',
    acpi: 'microvm has none of the registers that the case looks for',
    i8042: 'microvm has no keyboard controller',
    'fw-cfg': 'microvm has no firmware that would ask',
    'soft-off': 'microvm switches off by another register than a PC',
  },
};

export class RingbookAdapter extends MachineAdapter {
  constructor(memory: MemoryMethod, { translate = true, heat, threaded = false, traced = true, boardName = 'q35' }: Way = {}) {
    super({
      traced,
      boardName,
      executed: (kernel) => executed(kernel as RunnableKernel),
      makeKernel: (trace, { needs, ...size }) =>
        machineKernel(
          { ...size, memory, translate },
          { trace, heat, workshop: threaded ? threadWorkshop() : null, ...(needs?.includes('la57') && { linearAddressBits: 57 }) },
        ),
      makeMachine: (options) => new Machine(options),
      probe: () => {
        const { capabilities, missing } = instructions(memory);
        return {
          name: 'ringbook',
          version,
          surfaces: boardName === 'q35' ? ['guest', 'kvm', 'device'] : ['guest'],
          capabilities: [...MONITOR.capabilities, ...KERNEL, ...capabilities].filter((name) => !Object.hasOwn(LACKS[boardName], name)),
          missing: { ...MONITOR.missing, ...missing, ...LACKS[boardName] },
        };
      },
    });
  }
}
