import { afterEach, describe, expect, it } from 'vitest';
import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import { IOCTL } from '../../02-kvm-objects/abi/ioctls.ts';
import type { Kernel } from '../../02-kvm-objects/kernel.ts';
import { Machine } from '../../03-vcpu-loop/vmm.ts';
import {
  APIC_ON,
  add,
  COUNTER,
  type Code,
  END_OF_INTERRUPT,
  handler,
  letIn,
  load,
  place,
  sleepUntil,
  startState,
  store,
} from '../../05-pio-mmio/guest-program.ts';
import { completeConfig } from '../../05-pio-mmio/machine/config.ts';
import type { Pc } from '../../05-pio-mmio/machine/pc.ts';
import { machineKernel } from '../../05-pio-mmio/machine/soft-machine.ts';
import { COMMON_CONFIG } from '../transport/common-config.ts';
import { BAR, MSIX_BAR, SLOT, wiredPc } from './laboratory.ts';

const [FIRST, SECOND] = [0x41, 0x42];
const OTHER = COUNTER + 4;
const KEPT = 0x7100;
const PENDING = MSIX_BAR + 0x800;
const MESSAGE = 0xfee0_0000;

const handlers = {
  [FIRST]: handler(add(COUNTER, 1), END_OF_INTERRUPT),
  [SECOND]: handler(add(OTHER, 1), END_OF_INTERRUPT),
};
/** mov [at], eax */
const keep = (at: number): Code => [0xa3, ...[0, 8, 16, 24].map((shift) => (at >>> shift) & 0xff)];
const entry = (vector: number, word: number, value: number): Code => store(MSIX_BAR + 16 * vector + 4 * word, value);
/** mov word [queue_msix_vector], vector */
const useVector = (vector: number): Code => {
  const at = BAR + COMMON_CONFIG.rows.queue_msix_vector.offset;
  return [0x66, 0xc7, 0x05, ...[0, 8, 16, 24].map((shift) => (at >>> shift) & 0xff), vector & 0xff, vector >>> 8];
};

let running: Machine<Pc> | null = null;
afterEach(() => {
  running?.dispose();
  running = null;
});

const softKernel = (): ReturnType<typeof machineKernel> => machineKernel(completeConfig({ kernel: 'test', memoryMiB: 4 }));

/** The kernel of the book, as if it did not know what is asked for. */
function without(capability: number): Kernel {
  const kernel = softKernel();
  const ioctl = kernel.ioctl.bind(kernel);
  kernel.ioctl = (fd, request, arg) => (request === IOCTL.KVM_CHECK_EXTENSION && arg === capability ? 0 : ioctl(fd, request, arg));
  return kernel;
}

/** A device with messages: vector 0 for its queue, with the first value; vector 1 with the second. */
function machine({ irqchip = 'on', kernel = softKernel() }: { irqchip?: 'on' | 'split'; kernel?: Kernel } = {}) {
  const made = wiredPc('modern', { irqchip, kernel });
  const board = new Machine(made.pc.board);
  running = board;
  made.bringUp();
  made.useVector(0);
  for (const [vector, data] of [FIRST, SECOND].entries()) {
    made.entry(vector, 0, MESSAGE);
    made.entry(vector, 2, data);
    made.entry(vector, 3, 0);
  }
  made.msix(true);
  const { ram } = board;
  const view = new DataView(ram.buffer, ram.byteOffset, ram.length);
  return {
    ...made,
    view,
    offer: () => made.offer(ram),
    /** Runs the guest; how often each handler was called. */
    run: (...code: Code[]) => {
      place(ram, { code: [APIC_ON, ...code], handlers });
      const [vcpu] = board.vcpus;
      vcpu?.setSregs({ ...vcpu.getSregs(), ...startState.sregs });
      vcpu?.setRegs({ ...vcpu.getRegs(), ...startState.regs });
      board.run({ exits: 2000 });
      return [view.getUint32(COUNTER, true), view.getUint32(OTHER, true)];
    },
    board,
  };
}

describe.each(['on', 'split'] as const)('messages through counters, irqchip=%s', (irqchip) => {
  it('reach the guest', () => {
    const { messages, offer, run, kick, virtio } = machine({ irqchip });
    expect(messages.tied).toBe(1);
    offer();
    expect(run(kick, sleepUntil(COUNTER, 1))).toEqual([1, 0]);
    expect([messages.sent, virtio.counts.used]).toEqual([1, 1]);
  });
  it('wait while their vector is masked, where the driver can see it', () => {
    const { messages, offer, run, kick, view } = machine({ irqchip });
    offer();
    expect(
      run(entry(0, 3, 1), kick, letIn, load(COUNTER), keep(KEPT), load(PENDING), keep(KEPT + 4), entry(0, 3, 0), sleepUntil(COUNTER, 1)),
    ).toEqual([1, 0]);
    expect([view.getUint32(KEPT, true), view.getUint32(KEPT + 4, true)]).toEqual([0, 1]);
    expect([messages.sent, messages.tied]).toEqual([0, 1]); // what had waited was sent by the unmasking, and the next is the counter's again
  });
  it('follow the queue to another vector', () => {
    const { messages, offer, run, kick } = machine({ irqchip });
    offer();
    expect(run(useVector(1), kick, sleepUntil(OTHER, 1))).toEqual([0, 1]);
    expect([messages.sent, messages.tied]).toEqual([1, 1]);
  });
  it('follow the table', () => {
    const { messages, offer, run, kick } = machine({ irqchip });
    offer();
    expect(run(entry(0, 2, SECOND), kick, sleepUntil(OTHER, 1))).toEqual([0, 1]);
    expect(messages.sent).toBe(1);
  });
  it('are stores when their address is memory', () => {
    const { messages, offer, run, kick, view } = machine({ irqchip });
    offer();
    expect(run(entry(0, 0, KEPT), kick, letIn)).toEqual([0, 0]);
    expect([messages.sent, messages.tied, view.getUint32(KEPT, true)]).toEqual([0, 0, FIRST]);
  });
  it('are nothing without a vector', () => {
    const { messages, offer, run, kick } = machine({ irqchip });
    offer();
    expect(run(useVector(0xffff), kick, letIn)).toEqual([0, 0]);
    expect([messages.sent, messages.tied]).toEqual([0, 0]);
  });
  it('need a bus master, MSI-X and a device in use', () => {
    const { pc, messages, virtio, msix } = machine({ irqchip });
    pc.chipset.config.write(0, SLOT << 3, 4, 2, 3);
    expect(messages.tied).toBe(0);
    pc.chipset.config.write(0, SLOT << 3, 4, 2, 7);
    expect(messages.tied).toBe(1);
    msix(false);
    expect(messages.tied).toBe(0);
    msix(true);
    expect(messages.tied).toBe(1);
    virtio.setStatus(0);
    expect(messages.tied).toBe(0);
  });
});

describe('a kernel that lacks something', () => {
  it.each(['KVM_CAP_IRQFD', 'KVM_CAP_IRQ_ROUTING'] as const)('(%s) interrupts all the same', (name) => {
    const { messages, offer, run, kick } = machine({ kernel: without(CAP[name]) });
    offer();
    expect(run(kick, sleepUntil(COUNTER, 1))).toEqual([1, 0]);
    expect([messages.sent, messages.tied]).toEqual([0, 0]);
  });
  it('has as many numbers as it likes', () => {
    const kernel = softKernel();
    const ioctl = kernel.ioctl.bind(kernel);
    let refuse = false;
    kernel.ioctl = (fd, request, arg) => (refuse && request === IOCTL.KVM_SET_GSI_ROUTING ? -22 : ioctl(fd, request, arg));
    const { messages, offer, run, kick, virtio } = machine({ kernel });
    refuse = true;
    virtio.notifier.queueChanged?.(0);
    offer();
    expect(run(entry(0, 2, SECOND), kick, sleepUntil(OTHER, 1))).toEqual([0, 1]);
    expect(messages.sent).toBe(0);
  });
});

describe('a machine that goes away', () => {
  it('gives every counter back', () => {
    const kernel = softKernel();
    const made: number[] = [];
    const eventfd = kernel.eventfd.bind(kernel);
    kernel.eventfd = (initial, flags) => {
      const fd = eventfd(initial, flags);
      made.push(fd);
      return fd;
    };
    const { board, wires, messages } = machine({ kernel });
    expect([made.length, wires?.wired, messages.tied]).toEqual([2, 1, 1]);
    board.dispose();
    expect(made.map((fd) => kernel.describe(fd))).toEqual([null, null]);
    expect([wires?.wired, messages.tied]).toEqual([0, 0]);
  });
});
