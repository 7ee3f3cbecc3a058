// # ioeventfd: a write that tells somebody else
//
// A driver rings a device's doorbell by one store, and the device needs to know nothing but that it rang. As an exit to user space that costs two doors
// and stops the processor until the device has been called. As an ioeventfd the kernel adds one to a counter and enters the guest again; whoever
// waits for the counter does the work, on another thread or in another process.
//
// Many doorbells share an address when they differ in the value written (*datamatch*). A length of 0 says that the value and even the width do not matter,
// and then, for memory, KVM need not decode the instruction.

import { IOEVENTFD_FLAG, KvmIoeventfd } from '../../02-kvm-objects/abi/eventfd.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import type { EventFd } from '../../02-kvm-objects/soft/eventfd.ts';
import type { IoBuses, KernelDevice } from '../../02-kvm-objects/soft/io-bus.ts';

const { KVM_IOEVENTFD_FLAG_DATAMATCH: DATAMATCH, KVM_IOEVENTFD_FLAG_PIO: PIO, KVM_IOEVENTFD_FLAG_DEASSIGN: DEASSIGN } = IOEVENTFD_FLAG;
/** Flags 3 and 4 are s390's bus and one that the kernel sets for itself; a program that sets them is not refused. */
const CCW = 8;
const KNOWN = 0x1f;
const LENGTHS = new Set([0, 1, 2, 4, 8]);
const U64_END = 1n << 64n;

interface Doorbell {
  /** `ccw` is not x86's: who is there is never found. */
  readonly bus: keyof IoBuses | 'ccw';
  readonly addr: bigint;
  readonly len: number;
  /** Null: any value. */
  readonly datamatch: bigint | null;
  readonly event: EventFd;
  readonly device: KernelDevice;
}

/** The doorbells of one VM. */
export class IoEventFds {
  readonly #buses: IoBuses;
  #doorbells: readonly Doorbell[] = [];

  constructor(buses: IoBuses) {
    this.#buses = buses;
  }

  /** KVM_IOEVENTFD. `eventBehind` finds the counter of a descriptor. Linux: `kvm_ioeventfd()`. */
  request(view: DataView, eventBehind: (fd: number) => EventFd | number): number {
    const { addr, len, fd, flags, datamatch } = KvmIoeventfd.load(view);
    const bus = flags & PIO ? 'pio' : flags & CCW ? 'ccw' : 'mmio';
    const wanted = { addr, len, datamatch: flags & DATAMATCH ? datamatch : null };
    const fast = len === 0 && bus === 'mmio';
    if (flags & DEASSIGN) {
      const event = eventBehind(fd | 0);
      if (typeof event === 'number') return event;
      const result = this.#deassign({ ...wanted, bus, event });
      if (fast) this.#deassign({ ...wanted, bus: 'fastMmio', event });
      return result;
    }
    // @clause kvm.ioeventfd.wildcard
    if (!LENGTHS.has(len) || addr + BigInt(len) >= U64_END || flags & ~KNOWN) return -ERRNO.EINVAL;
    if (len === 0 && flags & DATAMATCH) return -ERRNO.EINVAL;
    const event = eventBehind(fd | 0);
    if (typeof event === 'number') return event;
    const result = this.#assign({ ...wanted, bus, event });
    return result === 0 && fast ? this.#assign({ ...wanted, bus: 'fastMmio', event }) : result;
  }

  // @clause kvm.ioeventfd.collision
  #assign(wanted: Omit<Doorbell, 'device'>): number {
    const { bus, addr, len, datamatch, event } = wanted;
    const taken = this.#doorbells.some(
      (other) =>
        other.bus === bus &&
        other.addr === addr &&
        (other.len === 0 || len === 0 || (other.len === len && (other.datamatch === null || datamatch === null || other.datamatch === datamatch))),
    );
    if (taken) return -ERRNO.EEXIST;
    // @clause kvm.ioeventfd.signal
    // @clause kvm.ioeventfd.datamatch
    // @clause kvm.ioeventfd.wildcard
    const device: KernelDevice = {
      read: () => null,
      write(_address, bytes, value) {
        if (len !== 0 && bytes !== len) return false;
        // A match is made on as many bytes as are written.
        if (datamatch !== null && value !== datamatch) return false;
        event.signal();
        return true;
      },
    };
    this.#doorbells = [...this.#doorbells, { ...wanted, device }];
    if (bus !== 'ccw') this.#buses[bus].add(Number(addr), len, device, { limited: false });
    return 0;
  }

  // @clause kvm.ioeventfd.deassign
  #deassign({ bus, addr, len, datamatch, event }: Omit<Doorbell, 'device'>): number {
    const found = this.#doorbells.find(
      (other) => other.bus === bus && other.event === event && other.addr === addr && other.len === len && other.datamatch === datamatch,
    );
    if (!found) return -ERRNO.ENOENT;
    this.#doorbells = this.#doorbells.filter((other) => other !== found);
    if (bus !== 'ccw') this.#buses[bus].remove(found.device, { limited: false });
    return 0;
  }
}
