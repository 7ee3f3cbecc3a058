// # eventfd
//
// The smallest thing that two parties can share: a counter of 64 bits behind a descriptor. Writing adds to it, reading takes it all (or one at a time,
// for a *semaphore*), and the kernel itself can be either side. KVM uses both directions: an ioeventfd is written by the kernel when the guest touches
// a register, an irqfd is read by the kernel, which then raises an interrupt. What makes that worth a mechanism of its own is that the other side
// can be a different process, or a driver, and neither KVM nor the VMM is in the way.

import { ERRNO } from '../errno.ts';
import { EFD } from '../kernel.ts';
import type { OpenFile } from './files.ts';

const COUNTER_BYTES = 8;
const MAX = 0xffff_ffff_ffff_ffffn;

export class EventFd implements OpenFile {
  readonly name = 'anon_inode:[eventfd]';
  readonly object = this;
  #count: bigint;
  readonly #semaphore: boolean;
  /** Called after each change that makes the counter readable. Linux: the wait queue, and POLLIN. */
  readonly readers = new Set<() => void>();
  /** Called when the last descriptor is closed. Linux: POLLHUP. */
  readonly hangups = new Set<() => void>();

  constructor(initial: number, flags: number) {
    this.#count = BigInt(initial >>> 0);
    this.#semaphore = (flags & EFD.EFD_SEMAPHORE) !== 0;
  }

  get count(): bigint {
    return this.#count;
  }

  ioctl(): number {
    return -ERRNO.ENOTTY;
  }
  mmap(): number {
    return -ERRNO.ENODEV;
  }

  // @clause kvm.eventfd.read
  // There is one thread: a read or a write that would wait, would wait for ever. It gets EAGAIN whether or not EFD_NONBLOCK was asked for.
  read(bytes: Uint8Array): number {
    if (bytes.length < COUNTER_BYTES) return -ERRNO.EINVAL;
    if (this.#count === 0n) return -ERRNO.EAGAIN;
    new DataView(bytes.buffer, bytes.byteOffset).setBigUint64(0, this.take(), true);
    return COUNTER_BYTES;
  }

  // @clause kvm.eventfd.write
  write(bytes: Uint8Array): number {
    if (bytes.length < COUNTER_BYTES) return -ERRNO.EINVAL;
    const value = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
    if (value === MAX) return -ERRNO.EINVAL;
    if (MAX - this.#count <= value) return -ERRNO.EAGAIN; // the largest value is for the kernel's own overflow
    this.#count += value;
    if (this.#count > 0n) this.#wake();
    return COUNTER_BYTES;
  }

  /** Takes what a read would. Linux: `eventfd_ctx_do_read()`. */
  take(): bigint {
    const taken = this.#semaphore && this.#count > 0n ? 1n : this.#count;
    this.#count -= taken;
    return taken;
  }

  /** The kernel's own write: adds 1, and stays at the top instead of waiting. Linux: `eventfd_signal()`. */
  signal(): void {
    if (this.#count < MAX) this.#count++;
    this.#wake();
  }

  #wake(): void {
    for (const reader of [...this.readers]) reader();
  }

  release(): void {
    for (const hangup of [...this.hangups]) hangup();
  }
}
