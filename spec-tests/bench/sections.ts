// # Exits, translations, devices
//
// The same loops on every machine that this computer offers: the kernel of this book with each of its two ways to virtualize memory, the host's own
// KVM, and QEMU under its translator, which has no exits but does the same work. A machine that cannot run a loop says why when it is tried.

import { HostKernel } from '../../chapters/02-kvm-objects/host/host-kernel.ts';
import type { Kernel } from '../../chapters/02-kvm-objects/kernel.ts';
import { LEVEL, type LeafLevel } from '../../chapters/04-memory-virtualization/kernel/ept-tables.ts';
import type { MemoryMethod } from '../../chapters/04-memory-virtualization/kernel/index.ts';
import { platformKernel } from '../../chapters/05-pio-mmio/kernel/index.ts';
import type { Figure, Ratio, Section } from './figures.ts';
import { type Guest, LONG, REAL } from './guests.ts';
import { type Extras, perSecond } from './kvm-guest.ts';
import { bootFirmware, firmwareMissing, framesPerSecond } from './pc.ts';
import { perSecondInQemu, qemuMissing } from './qemu-guest.ts';

const RAM_BYTES = 48 << 20;
const ours =
  (memory: MemoryMethod, largest: LeafLevel = LEVEL.PAGE_1G) =>
  (): Kernel =>
    platformKernel({ ramBytes: RAM_BYTES, memory, largest });

interface Loop {
  readonly name: string;
  readonly guest: Guest;
  readonly extras?: Extras;
  /** Why QEMU has no such thing. */
  readonly notInQemu?: string;
}

const EVENTFD = 'an eventfd is something between a kernel and its user';

/** A loop on each of the machines, and how they compare. */
function lines({ name, guest, extras = {}, notInQemu }: Loop, noHost: string, noQemu: string): { figures: Figure[]; ratios: Ratio[] } {
  const on = (machine: string, measure: Figure['measure']): Figure => ({ name: `${name}, ${machine}`, unit: '/s', measure });
  const figures = [
    on('this book', () => perSecond(ours('ept')(), guest, extras)),
    on('host', noHost || (() => perSecond(new HostKernel(), guest, extras))),
    on('QEMU TCG', notInQemu || noQemu || (() => perSecondInQemu(guest))),
  ];
  return { figures, ratios: [[`${name}, this book`, `${name}, host`]] };
}

// biome-ignore format: table
const EXIT_LOOPS: readonly Loop[] = [
  { name: 'OUT to user space', guest: REAL.portWrite() },
  { name: 'IN from a PIC in the kernel', guest: REAL.picRead(), extras: { irqchip: true } },
  { name: 'MMIO store to user space', guest: REAL.mmioWrite() },
  { name: 'MMIO load from user space', guest: REAL.mmioRead() },
  { name: 'MMIO load from the local APIC in the kernel', guest: REAL.apicRead(), extras: { irqchip: true } },
  { name: 'OUT to an ioeventfd', guest: REAL.portWrite(), extras: { doorbell: 'port' }, notInQemu: EVENTFD },
  { name: 'MMIO store to an ioeventfd', guest: REAL.mmioWrite(), extras: { doorbell: 'memory' }, notInQemu: EVENTFD },
  { name: 'CPUID', guest: REAL.cpuid() },
  { name: 'HLT until a timer of the local APIC', guest: REAL.timerWake(), extras: { irqchip: true } },
  { name: "irqfd, from the signal to the handler's OUT", guest: REAL.irqfd(), extras: { irqchip: true, irqfd: true }, notInQemu: EVENTFD },
  { name: 'INT n and IRET, no exit', guest: REAL.softwareInterrupt() },
];

// ## Translations
//
// The price of a TLB miss is the difference between loads that are far apart and loads that are not, in nanoseconds a load. The two are measured right
// after each other, so that one sample has both.

type PerSecond = (guest: Guest) => number | Promise<number>;

const missNs = (large: boolean, user: boolean, measure: PerSecond) => async (): Promise<number> => {
  const far = await measure(LONG.far(large, user));
  const near = await measure(LONG.near(large, user));
  return 1e9 / far - 1e9 / near;
};

/** All sections about exits, memory and devices. `noHost` says why the host's KVM is not measured. */
export function deviceSections(noHost: string): Section[] {
  const noQemu = qemuMissing();
  const exits = EXIT_LOOPS.map((loop) => lines(loop, noHost, noQemu));
  // On the host in user mode: kernels that run guests without VMX emulate what is more privileged, and an emulator has no TLB to miss.
  const machines: readonly [string, boolean, PerSecond | string][] = [
    ['EPT', true, (guest) => perSecond(ours('ept')(), guest)],
    ['EPT in 4 KiB pages', true, (guest) => perSecond(ours('ept', LEVEL.PAGE_4K)(), guest)],
    ['shadow', true, (guest) => perSecond(ours('shadow')(), guest)],
    ['host', true, noHost || ((guest) => perSecond(new HostKernel(), guest))],
    ['QEMU TCG', false, noQemu || perSecondInQemu],
  ];
  const misses = machines.flatMap(([machine, user, measure]) =>
    [false, true].map(
      (large): Figure => ({
        name: `TLB miss, guest pages of ${large ? '2 MiB' : '4 KiB'}, ${machine}`,
        unit: 'ns',
        measure: typeof measure === 'string' ? measure : missNs(large, user, measure),
      }),
    ),
  );
  const changes = [
    ['MOV CR3 and 16 loads', LONG.switch()],
    ['map, write, unmap, INVLPG', LONG.remap()],
  ] as const;
  const tables = changes.flatMap(([name, guest]): Figure[] =>
    machines
      .filter(([machine]) => machine !== 'EPT in 4 KiB pages')
      .map(([machine, , measure]) => ({
        name: `${name}, ${machine}`,
        unit: '/s',
        measure: typeof measure === 'string' ? measure : () => measure(guest),
      })),
  );
  let instructions = 0;
  const boot = (): number => {
    const booted = bootFirmware();
    instructions = booted.instructions;
    return booted.took;
  };
  return [
    { title: 'exits', figures: exits.flatMap((each) => each.figures), ratios: exits.flatMap((each) => each.ratios) },
    {
      title: 'memory',
      figures: [...misses, ...tables],
      ratios: [
        ['TLB miss, guest pages of 4 KiB, EPT', 'TLB miss, guest pages of 4 KiB, shadow'],
        ['TLB miss, guest pages of 4 KiB, EPT in 4 KiB pages', 'TLB miss, guest pages of 4 KiB, EPT'],
        ...changes.map(([name]): Ratio => [`${name}, EPT`, `${name}, shadow`]),
      ],
    },
    {
      title: 'devices',
      figures: [
        { name: 'network card: there and back', unit: 'frames/s', measure: framesPerSecond },
        { name: 'SeaBIOS, from reset to a boot sector', unit: 's', measure: firmwareMissing || boot },
        { name: 'the same in guest instructions', unit: 'million', measure: firmwareMissing || (() => instructions / 1e6) },
      ],
    },
  ];
}
