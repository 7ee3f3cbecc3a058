// # A burst, run
//
// A table of costs can be thought out, or a guest can be run. This one is: the kernel of the book, its trace, and a driver of a few dozen
// instructions, which is all that the fast path of a driver is. The ring lies ready. For each of {{BUFFERS}} buffers the guest moves the available
// index and asks the ring whether it has to kick; its interrupt handler says how far it has looked, and asks to be called when there is more.
//
// Behind an eventfd the device is a thread, and a thread has to be woken. That takes {{WAKE_NS / 1000}} µs here, about what a futex and a scheduler
// need. Without, the exit itself calls the device, and the processor stands still until it is done.
//
// Counted is what the trace of the run has: exits for the doorbell, how many of them went on to user space, interrupts that were injected, and the
// requests that the VMM made for them. With an irqfd there are none of those: a request has become an addition to a counter, and the guest could not
// tell.

import { assert } from '../01-hardware-background/physical-memory.ts';
import { Recorder } from '../01-hardware-background/trace.ts';
import { CAP } from '../02-kvm-objects/abi/capabilities.ts';
import { IOCTL } from '../02-kvm-objects/abi/ioctls.ts';
import type { Kernel } from '../02-kvm-objects/kernel.ts';
import { Machine } from '../03-vcpu-loop/vmm.ts';
import { APIC_ON, add, COUNTER, type Code, END_OF_INTERRUPT, handler, place, startState, store } from '../05-pio-mmio/guest-program.ts';
import { completeConfig } from '../05-pio-mmio/machine/config.ts';
import { Pc } from '../05-pio-mmio/machine/pc.ts';
import { machineKernel } from '../05-pio-mmio/machine/soft-machine.ts';
import { F } from './features.ts';
import './machine/device-types.ts';
import { messageWiresOf, virtioDevices, wiresOf } from './machine/virtio-types.ts';
import { COMMON_CONFIG } from './transport/common-config.ts';
import { PLACE } from './transport/pci.ts';

/** How the machine is made. */
interface BurstMachine {
  readonly eventIdx: boolean;
  readonly ioeventfd: boolean;
  readonly irqfd: boolean;
}

/** What is in the trace. */
interface BurstCosts {
  /** Exits for the doorbell. */
  readonly kicks: number;
  /** Of these, the ones that went on to user space. */
  readonly userExits: number;
  /** Interrupts that were injected. */
  readonly interrupts: number;
  /** Requests that the VMM made to interrupt. */
  readonly requests: number;
}

export const BUFFERS = 32;
/** From the kick until the device's thread runs. */
export const WAKE_NS = 10_000;

const RAM_MIB = 4;
const SLOT = 4;
const VECTOR = 0x41;
const [MODERN_BAR, MSIX_BAR] = [0xe000_0000, 0xe080_0000];
const RING = { size: 64, desc: 0x10_0000, driver: 0x10_1000, device: 0x10_2000, buffers: 0x11_0000 } as const;
const BUFFER_BYTES = 16;
const DOORBELL = MODERN_BAR + PLACE.NOTIFY;
const [AVAIL_IDX, USED_IDX] = [RING.driver + 2, RING.device + 2];
const USED_EVENT = RING.driver + 4 + 2 * RING.size;
const AVAIL_EVENT = RING.device + 4 + 8 * RING.size;

// ## The guest

const word = (value: number): number[] => [value & 0xff, value >>> 8];
const dword = (value: number): number[] => [...word(value & 0xffff), ...word(value >>> 16)];
const [STI, CLI, HLT] = [0xfb, 0xfa, 0xf4];

/** Makes one more buffer available, and kicks if the device wants it. */
function give(index: number, eventIdx: boolean): Code {
  const kick = store(DOORBELL, 0);
  return [
    ...[0x66, 0xc7, 0x05, ...dword(AVAIL_IDX), ...word(index + 1)], // mov word [avail.idx], index + 1
    ...[0xf0, 0x83, 0x04, 0x24, 0], // lock add dword [esp], 0: the store before the load
    ...(eventIdx
      ? [0x66, 0x81, 0x3d, ...dword(AVAIL_EVENT), ...word(index), 0x75, kick.length] // cmp word [avail_event], index; jne past the kick
      : [0xf6, 0x05, ...dword(RING.device), 1, 0x75, kick.length]), // test byte [used.flags], 1; jnz past the kick
    ...kick,
  ];
}

/** Says how far the driver has looked, until nothing has come meanwhile. */
const LOOK: Code = [
  ...[0x66, 0xa1, ...dword(USED_IDX), 0x66, 0xa3, ...dword(USED_EVENT)], // mov ax, [used.idx]; mov [used_event], ax
  ...[0xf0, 0x83, 0x04, 0x24, 0],
  ...[0x66, 0x3b, 0x05, ...dword(USED_IDX), 0x75, 0xe6], // cmp ax, [used.idx]; jne back
];

/** Sleeps until everything has come back. */
const AWAIT: Code = [
  ...[CLI, 0x66, 0x83, 0x3d, ...dword(USED_IDX), BUFFERS, 0x74, 4], // cmp word [used.idx], BUFFERS; je past the end
  ...[STI, HLT, 0xeb, 0xf1], // jmp back
];

// ## The host
//
// What firmware and a driver's `probe` would have done is done from outside. The kernel is the book's with two things put over it: one that can deny
// having irqfds, and the thread that wakes late.

function lateKernel(kernel: Kernel, { irqfd }: BurstMachine, clock: () => Pc['timers']): void {
  const ioctl = kernel.ioctl.bind(kernel);
  kernel.ioctl = (fd, request, arg) => (request === IOCTL.KVM_CHECK_EXTENSION && arg === CAP.KVM_CAP_IRQFD && !irqfd ? 0 : ioctl(fd, request, arg));
  const watch = kernel.watch?.bind(kernel);
  if (watch)
    kernel.watch = (fd, ready) => {
      const awake = clock().timer(ready);
      return watch(fd, () => {
        if (awake.at === null) awake.arm(clock().now() + WAKE_NS);
      });
    };
}

function bringUp(pc: Pc, view: DataView, { eventIdx }: BurstMachine): void {
  const { config } = pc.chipset;
  const fn = SLOT << 3;
  config.write(0, fn, 0x14, 4, MSIX_BAR);
  config.write(0, fn, 0x20, 4, MODERN_BAR);
  config.write(0, fn, 4, 2, 7);
  for (let index = 0; index < BUFFERS; index++) {
    const at = RING.desc + 16 * index;
    view.setBigUint64(at, BigInt(RING.buffers + BUFFER_BYTES * index), true);
    view.setUint32(at + 8, BUFFER_BYTES, true);
    view.setUint16(at + 12, 2, true);
    view.setUint16(RING.driver + 4 + 2 * index, index, true);
  }
  const set = (name: keyof typeof COMMON_CONFIG.rows & string, value: number): void => {
    const { offset, bytes } = COMMON_CONFIG.rows[name];
    pc.mmio.write(MODERN_BAR + offset, bytes as 1 | 2 | 4, BigInt(value));
  };
  set('device_status', 3);
  set('driver_feature_select', 0);
  set('driver_feature', eventIdx ? 1 << F.EVENT_IDX : 0);
  set('driver_feature_select', 1);
  set('driver_feature', 1 << (F.VERSION_1 - 32));
  set('device_status', 11);
  set('queue_size', RING.size);
  set('queue_desc_lo', RING.desc);
  set('queue_driver_lo', RING.driver);
  set('queue_device_lo', RING.device);
  set('queue_msix_vector', 0);
  for (const [at, value] of [0xfee0_0000, 0, VECTOR, 0].entries()) pc.mmio.write(MSIX_BAR + 4 * at, 4, BigInt(value));
  let capability = config.read(0, fn, 0x34, 1);
  while (config.read(0, fn, capability, 1) !== 0x11) capability = config.read(0, fn, capability + 1, 1);
  config.write(0, fn, capability + 2, 2, 0x8000);
  set('queue_enable', 1);
  set('device_status', 15);
}

/** Runs the burst, and counts. */
export function runBurst(machine: BurstMachine): BurstCosts {
  const { eventIdx, ioeventfd } = machine;
  const trace = new Recorder();
  const config = completeConfig({
    kernel: 'a burst',
    memoryMiB: RAM_MIB,
    serial: ['null'],
    devices: [{ type: 'virtio-rng-pci-non-transitional', addr: `${SLOT}`, 'queue-size': RING.size, event_idx: eventIdx, ioeventfd }],
  });
  const kernel = machineKernel(config, { trace });
  let pc: Pc | null = null;
  lateKernel(kernel, machine, () => (pc as Pc).timers);
  pc = new Pc({ kernel, config, trace });
  const board = new Machine({ ...pc.board, trace });
  try {
    const { ram } = board;
    const view = new DataView(ram.buffer, ram.byteOffset, ram.length);
    bringUp(pc, view, machine);
    const burst = Array.from({ length: BUFFERS }, (_, index) => give(index, eventIdx));
    const onInterrupt = handler(add(COUNTER, 1), END_OF_INTERRUPT, ...(eventIdx ? [LOOK] : []));
    place(ram, { code: [APIC_ON, [STI], ...burst, AWAIT], handlers: { [VECTOR]: onInterrupt } });
    const [device] = virtioDevices(pc).values();
    assert(device !== undefined && (wiresOf(device) !== null) === ioeventfd, 'the doorbell is not wired as the run says');
    assert((messageWiresOf(device)?.tied === 1) === machine.irqfd, 'the message is not wired as the run says');
    const [vcpu] = board.vcpus;
    vcpu?.setSregs({ ...vcpu.getSregs(), ...startState.sregs });
    vcpu?.setRegs({ ...vcpu.getRegs(), ...startState.regs });
    const from = trace.events.length;
    const { end } = board.run({ exits: 100 * BUFFERS });
    const events = trace.events.slice(from);
    assert(end === 'halt' && view.getUint16(USED_IDX, true) === BUFFERS, `the burst ended in ${end}`);
    const count = (is: (event: (typeof events)[number]) => boolean): number => events.filter(is).length;
    // The second stage learns at the first access that nobody's memory is there; from then on the exit has a short way.
    const isKick = (event: (typeof events)[number]): boolean =>
      (event.kind === 'kvm_fast_mmio' || (event.kind === 'kvm_mmio' && event.rw === 'write')) && event.gpa === DOORBELL;
    return {
      kicks: count(isKick),
      userExits: count((event) => event.kind === 'kvm_userspace_exit' && event.reason === 'KVM_EXIT_MMIO'),
      interrupts: count((event) => event.kind === 'kvm_inj_virq' && event.vector === VECTOR),
      requests: count((event) => event.kind === 'ioctl' && event.request === 'KVM_SIGNAL_MSI'),
    };
  } finally {
    board.dispose();
  }
}

/** What the figure compares. */
export const MACHINES: readonly BurstMachine[] = [
  ...[false, true].map((eventIdx) => ({ eventIdx, ioeventfd: false, irqfd: false })),
  ...[false, true].map((eventIdx) => ({ eventIdx, ioeventfd: true, irqfd: false })),
  { eventIdx: true, ioeventfd: true, irqfd: true },
];
