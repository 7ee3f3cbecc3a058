// # Counting what a boot does
//
// A trace would say everything, and make the boot many times longer: a machine that is listened to does nothing the short way. So counters are
// put around three things only: the processor's run between an entry and an exit, and the buses of the kernel and of the machine.

import { EXIT_REASON_FIELD, exitReasonName } from '../../chapters/01-hardware-background/vmx/exit-reasons.ts';
import { FIELD } from '../../chapters/01-hardware-background/vmx/vmcs.ts';
import { NS_PER_TICK } from '../../chapters/02-kvm-objects/soft/virtual-clock.ts';
import type { SoftVm } from '../../chapters/02-kvm-objects/soft/vm.ts';
import type { Bus } from '../../chapters/03-vcpu-loop/devices/bus.ts';
import type { RunnableKernel } from '../../chapters/03-vcpu-loop/kernel/index.ts';
import { DELIVERY } from '../../chapters/05-pio-mmio/interrupts/apic-message.ts';
import { VcpuApic } from '../../chapters/05-pio-mmio/kernel/vcpu-apic.ts';
import type { Mainboard } from '../../chapters/05-pio-mmio/machine/mainboard.ts';
import { ATTENTION_NS } from '../../chapters/15-whole-machine/boots/record.ts';

/** Calls of one device, by who answered, and how long the guest was occupied with it. */
interface Calls {
  kernel: number;
  user: number;
  nanoseconds: number;
}

const MESSAGES = new Map<number, string>(Object.entries(DELIVERY).map(([name, mode]) => [mode, name]));

/** Devices of the kernel, by where they are. */
const KERNEL_DEVICES: readonly (readonly [bus: 'pio' | 'mmio', from: number, to: number, name: string])[] = [
  ['pio', 0x20, 0x21, 'PIC'],
  ['pio', 0xa0, 0xa1, 'PIC'],
  ['pio', 0x4d0, 0x4d1, 'PIC'],
  ['pio', 0x40, 0x43, 'PIT'],
  ['pio', 0x61, 0x61, 'PIT'],
  ['mmio', 0xfec0_0000, 0xfec0_0fff, 'I/O APIC'],
];

const kernelDevice = (bus: 'pio' | 'mmio', address: number): string =>
  KERNEL_DEVICES.find(([on, from, to]) => on === bus && address >= from && address <= to)?.[3] ?? 'eventfd';

export class BootCounts {
  readonly exits: Record<string, number> = {};
  readonly devices: Record<string, Calls> = {};
  /** For each processor: what its local APIC was sent, by vector, or by the kind of message where that is no vector's. */
  readonly messages: Record<string, number>[] = [];
  exitCount = 0;
  readonly #now: () => number;
  readonly #tripNs: number;
  #last: { readonly calls: Calls; readonly at: number } | null = null;

  /** Puts the counters around the kernel's processor, and around the machine's buses. The VM is not made yet. */
  constructor(kernel: RunnableKernel) {
    const { hardware, clock } = kernel;
    this.#now = () => clock.now();
    this.#tripNs = kernel.loop.accessTicks * NS_PER_TICK;
    const runGuest = hardware.runGuest.bind(hardware);
    hardware.runGuest = (instructions, pace) => {
      const stop = runGuest(instructions, pace);
      this.exitCount++;
      const reason = exitReasonName(EXIT_REASON_FIELD.get(hardware.read32(FIELD.VM_EXIT_REASON), 'BASIC'));
      this.exits[reason] = (this.exits[reason] ?? 0) + 1;
      return stop;
    };
    kernel.vmCreated.push((vm) => this.#watchKernel(vm));
  }

  watchMachine(board: Mainboard): void {
    for (const bus of [board.ports, board.mmio]) this.#watchBus(bus);
  }

  #count(name: string, by: keyof Calls): void {
    const calls = this.devices[name] ?? { kernel: 0, user: 0, nanoseconds: 0 };
    calls[by]++;
    this.devices[name] = calls;
    // What follows is this device's time, until somebody else is asked or the guest has lost interest.
    // The way to user space is behind an access that is answered there.
    const at = this.#now() - (by === 'user' ? this.#tripNs : 0);
    if (this.#last) this.#last.calls.nanoseconds += Math.min(Math.max(at - this.#last.at, 0), ATTENTION_NS);
    this.#last = { calls, at };
  }

  #watchBus(bus: Bus): void {
    const [read, write] = [bus.read.bind(bus), bus.write.bind(bus)];
    const who = (address: number): string => bus.whoAnswers(address)?.device.name ?? 'nobody';
    bus.read = (address, width) => {
      this.#count(who(address), 'user');
      return read(address, width);
    };
    bus.write = (address, width, value) => {
      this.#count(who(address), 'user');
      write(address, width, value);
    };
  }

  #watchKernel(vm: SoftVm): void {
    for (const name of ['pio', 'mmio'] as const) {
      const bus = vm.buses[name];
      const [read, write] = [bus.read.bind(bus), bus.write.bind(bus)];
      bus.read = (address, bytes) => {
        const value = read(address, bytes);
        if (value !== null) this.#count(kernelDevice(name, address), 'kernel');
        return value;
      };
      bus.write = (address, bytes, value) => {
        const taken = write(address, bytes, value);
        if (taken) this.#count(kernelDevice(name, address), 'kernel');
        return taken;
      };
    }
  }

  /** The local APICs, which are on no bus: when there are processors. */
  watchApics(vms: Iterable<SoftVm>): void {
    for (const vm of vms)
      for (const { interruptController } of vm.vcpus.values()) {
        if (!interruptController) continue;
        if (interruptController instanceof VcpuApic) this.#watchMessages(interruptController);
        const { page } = interruptController;
        const [read, write] = [page.read.bind(page), page.write.bind(page)];
        page.read = (address, bytes) => {
          const value = read(address, bytes);
          if (value !== null) this.#count('local APIC', 'kernel');
          return value;
        };
        page.write = (address, bytes, value) => {
          const taken = write(address, bytes, value);
          if (taken) this.#count('local APIC', 'kernel');
          return taken;
        };
      }
  }

  #watchMessages({ apic }: VcpuApic): void {
    const received: Record<string, number> = {};
    this.messages[apic.id] = received;
    const deliver = apic.deliver.bind(apic);
    apic.deliver = (mode, vector, level, levelTriggered) => {
      const taken = deliver(mode, vector, level, levelTriggered);
      const hasVector = mode === DELIVERY.FIXED || mode === DELIVERY.LOWEST_PRIORITY;
      const name = hasVector ? `0x${vector.toString(16)}` : (MESSAGES.get(mode) ?? 'reserved');
      if (taken > 0) received[name] = (received[name] ?? 0) + 1;
      return taken;
    };
  }
}

/** The same, the most frequent first. */
export const byFrequency = <T>(counts: Readonly<Record<string, T>>, size: (count: T) => number): Record<string, T> =>
  Object.fromEntries(Object.entries(counts).toSorted(([a, x], [b, y]) => size(y) - size(x) || (a < b ? -1 : 1)));
