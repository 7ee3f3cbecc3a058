// # A kick that stays in the kernel
//
// A kick by register leaves the guest, leaves the kernel, finds the device in the VMM, and keeps the processor waiting until the device is done.
// Nothing in it is urgent to the processor: it has told, and could go on. With an *ioeventfd* the kernel knows the doorbell's address. The store
// leaves the guest, adds one to a counter, and enters again, while the device looks from a thread of its own. What the driver sees is the same, but
// for one thing: when its store is done, the device may not have looked yet. No driver may rely on that it has, and some did.
//
// A doorbell has an address only while its BAR has, so the wire follows the BAR. It is there only while the queue is in use, because before DRIVER_OK
// a kick must do nothing. And it is not used with NOTIFICATION_DATA: a counter has no room for what the kick says.
//
// On the real kernel the device then works in the VMM's thread *while* its driver's processor runs, and the ring is shared by two threads at last. A
// device that turns away from a ring has to ask for kicks first and to look once more after that; see the second half of `VirtQueue.serve`.

import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import { IOEVENTFD_FLAG, KvmIoeventfd } from '../../02-kvm-objects/abi/eventfd.ts';
import { EFD } from '../../02-kvm-objects/kernel.ts';
import type { Vm } from '../../02-kvm-objects/kvm.ts';
import type { VirtioDevice } from '../device.ts';
import { F } from '../features.ts';

/** One doorbell, as the kernel is told of it. */
export interface DoorbellPlace {
  readonly bus: 'mmio' | 'pio';
  readonly address: number;
  /** Bytes of the store; 0: any. */
  readonly bytes: 0 | 2 | 4;
  /** Which value; null: any. */
  readonly value: number | null;
}

interface Wire extends DoorbellPlace {
  readonly queue: number;
  readonly fd: number;
}

const COUNTER_BYTES = 8;

/** The wires of one device. */
export class DoorbellWires {
  /** Kicks that came this way. */
  kicks = 0;
  readonly #device: VirtioDevice;
  /** Where the doorbells of a queue are at this moment. */
  readonly #places: (queue: number) => readonly DoorbellPlace[];
  readonly #events = new Map<number, number>();
  readonly #ends: (() => void)[] = [];
  #wires: readonly Wire[] = [];
  #vm: Vm | null = null;

  constructor(device: VirtioDevice, places: (queue: number) => readonly DoorbellPlace[]) {
    this.#device = device;
    this.#places = places;
  }

  /** There is a VM. Without what is needed in its kernel, everything stays as it is. */
  connect(vm: Vm): void {
    if (vm.kernel.watch && vm.checkExtension(CAP.KVM_CAP_IOEVENTFD) > 0) this.#vm = vm;
    this.refresh();
  }

  /** How many doorbells are wired at this moment. */
  get wired(): number {
    return this.#wires.length;
  }

  /** A queue, a region or the device has changed: wires what is to be wired now. */
  refresh(): void {
    const vm = this.#vm;
    if (!vm) return;
    const wanted = this.#wanted();
    const same = (a: Wire, b: Wire): boolean =>
      a.queue === b.queue && a.bus === b.bus && a.address === b.address && a.bytes === b.bytes && a.value === b.value;
    const kept = this.#wires.filter((wire) => wanted.some((other) => same(wire, other)));
    for (const wire of this.#wires) if (!kept.includes(wire)) this.#request(vm, wire, IOEVENTFD_FLAG.KVM_IOEVENTFD_FLAG_DEASSIGN);
    const added = wanted.filter((wire) => !kept.some((other) => same(wire, other)));
    // What the kernel refuses (another device has its doorbell there) is answered by the register, as without wires.
    this.#wires = [...kept, ...added.filter((wire) => this.#request(vm, wire, 0) === 0)];
  }

  #wanted(): Wire[] {
    const device = this.#device;
    if (!device.live || device.has(F.NOTIFICATION_DATA)) return [];
    return device.queues.flatMap(({ index, enabled }) => {
      const places = enabled ? this.#places(index) : [];
      const fd = places.length > 0 ? this.#event(index) : -1;
      return fd < 0 ? [] : places.map((place) => ({ ...place, queue: index, fd }));
    });
  }

  /** The counter of a queue, made at its first use; negative when there are no more descriptors. */
  #event(queue: number): number {
    const known = this.#events.get(queue);
    if (known !== undefined) return known;
    const { kernel } = this.#vm as Vm;
    const fd = kernel.eventfd(0, EFD.EFD_NONBLOCK | EFD.EFD_CLOEXEC);
    this.#events.set(queue, fd);
    if (fd < 0) return fd;
    const counter = new Uint8Array(COUNTER_BYTES);
    const end = kernel.watch?.(fd, () => {
      if (kernel.read(fd, counter) !== COUNTER_BYTES) return;
      this.kicks++;
      this.#device.kick(queue);
    });
    this.#ends.push(() => {
      if (typeof end === 'function') end();
      kernel.close(fd);
    });
    return fd;
  }

  #request(vm: Vm, { bus, address, bytes, value, fd }: Wire, flags: number): number {
    const match = value === null ? 0 : IOEVENTFD_FLAG.KVM_IOEVENTFD_FLAG_DATAMATCH;
    const port = bus === 'pio' ? IOEVENTFD_FLAG.KVM_IOEVENTFD_FLAG_PIO : 0;
    return vm.tryIoctl(
      'KVM_IOEVENTFD',
      KvmIoeventfd.encode({ datamatch: BigInt(value ?? 0), addr: BigInt(address), len: bytes, fd, flags: flags | match | port }),
    );
  }

  /** Gives the counters back. */
  dispose(): void {
    const vm = this.#vm;
    if (vm) for (const wire of this.#wires) this.#request(vm, wire, IOEVENTFD_FLAG.KVM_IOEVENTFD_FLAG_DEASSIGN);
    this.#vm = null;
    this.#wires = [];
    for (const end of this.#ends.splice(0)) end();
    this.#events.clear();
  }
}
