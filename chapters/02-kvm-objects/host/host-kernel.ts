// # The real kernel
//
// The same interface as the kernel of this book, answered by Linux. There is little to say about each call, since the interface is Linux's
// own; two things need thought.
//
// The first is memory. Guest RAM is a memfd mapped over a shared WebAssembly.Memory, and `struct kvm_run` is mapped over another: so both can be
// handed to worker threads, and both outlive the descriptors that they came from without danger.
//
// The second is time. A guest that computes never leaves KVM_RUN, and JavaScript that called it would never run again. The kernel of this book
// counts instructions and comes back; Linux comes back for a *signal*. So while a thread makes KVM_RUN calls through this class, a timer sends it one
// every {{TICK_MS}} ms, with a handler that does nothing. A signal that arrives outside KVM_RUN is wasted, and the next one is not. The program's alarm is
// the same timer, set to go off earlier.

import type { Hva } from '../../01-hardware-background/physical-memory.ts';
import { PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { IOCTL } from '../abi/ioctls.ts';
import { ERRNO, Errno, errnoName } from '../errno.ts';
import { type Allocation, type Kernel, type KernelClock, O_CLOEXEC, O_RDWR } from '../kernel.ts';
import { type Libc, libc } from './libc.ts';

const WASM_PAGE_BYTES = 65536;
/** How long a KVM_RUN may last before it comes back with EINTR. */
export const TICK_MS = 10;
/** While an alarm is set: how soon the signal comes again if it came outside KVM_RUN. */
const RETRY_MS = 1;
/** How often an interrupted KVM_CREATE_VM is tried again. */
const RETRIES = 100;
/** A real-time signal that neither glibc, Node nor a debugger uses. */
const TICK_SIGNAL = 41;
/** The largest that one WebAssembly.Memory can be. */
const MAX_ALLOCATION_BYTES = 2 ** 32;

/** Whether something of the host can be used here, and if not, the sentence to print. */
type Availability = { readonly available: true } | { readonly available: false; readonly reason: string };

/** Looks for koffi, for /dev/kvm and for permission to open it. Opens nothing that it does not close. */
export function hostKernelAvailable(path = '/dev/kvm'): Availability {
  const c = libc();
  if (typeof c === 'string') return { available: false, reason: c };
  const fd = c.open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return { available: false, reason: `${path} cannot be opened: ${errnoName(-fd)}` };
  c.close(fd);
  return { available: true };
}

const BOOT = process.hrtime.bigint();
const nobody = new Int32Array(new SharedArrayBuffer(4));
/** Blocks this thread. */
const sleep = (ms: number): void => {
  if (ms > 0) Atomics.wait(nobody, 0, 0, ms);
};

const CREATES_DESCRIPTOR: ReadonlySet<number> = new Set([IOCTL.KVM_CREATE_VM, IOCTL.KVM_CREATE_VCPU]);

interface Mapping {
  /** Holds the storage: as long as a mapping is on record, JavaScript will not give it back. */
  readonly memory: WebAssembly.Memory;
  readonly length: number;
  readonly fd: number | null;
}

interface Watch {
  readonly readers: Set<() => void>;
  readonly end: () => void;
}

export class HostKernel implements Kernel {
  readonly name = 'host';
  readonly libc: Libc;
  readonly #open = new Set<number>();
  readonly #allocations = new Map<Hva, Mapping>();
  #ticking: number | null = null;
  #alarm: number | null = null;
  readonly clock: KernelClock = {
    now: () => Number(process.hrtime.bigint() - BOOT), // CLOCK_MONOTONIC
    alarm: (at) => this.#setAlarm(at),
    sleep: (until) => sleep((until - this.clock.now()) / 1e6),
  };
  readonly #mappings = new Map<number, { address: number; mapping: Mapping }[]>();
  readonly #watches = new Map<number, Watch>();

  /** @throws Error with the reason of {@link hostKernelAvailable} when the host cannot do it. */
  constructor() {
    const c = libc();
    if (typeof c === 'string') throw new Error(c);
    this.libc = c;
  }

  open(path: string, flags: number): number {
    return this.#remember(this.libc.open(path, flags));
  }

  close(fd: number): number {
    if (!this.#open.delete(fd)) return -ERRNO.EBADF;
    this.#watches.get(fd)?.end();
    this.#watches.delete(fd);
    for (const { address, mapping } of this.#mappings.get(fd) ?? []) this.libc.unmap(address, mapping.length);
    this.#mappings.delete(fd);
    if (this.#open.size === 0) this.#stopTicking();
    return this.libc.close(fd);
  }

  #stopTicking(): void {
    if (this.#ticking !== null) this.libc.stopTicking(this.#ticking);
    this.#ticking = null;
    this.#alarm = null;
  }

  ioctl(fd: number, request: number, arg: number | Uint8Array = 0): number {
    if (request === IOCTL.KVM_RUN) {
      this.#ticking ??= this.#tick();
      // The signal may have come a moment ago, and KVM_RUN would not know.
      if (this.#alarm !== null && this.#alarm <= this.clock.now()) {
        this.#alarm = null;
        return -ERRNO.EINTR;
      }
    }
    let result = this.libc.ioctl(fd, request, arg);
    // Our own clock's signal can interrupt the making of a VM, too. Whoever asked for the VM knows nothing of that signal.
    for (let n = 0; n < RETRIES && request === IOCTL.KVM_CREATE_VM && result === -ERRNO.EINTR; n++) result = this.libc.ioctl(fd, request, arg);
    return CREATES_DESCRIPTOR.has(request) ? this.#remember(result) : result;
  }

  mmap(fd: number, length: number, offset = 0): Uint8Array | number {
    const mapped = this.#map(length, fd, offset);
    if (typeof mapped === 'number') return mapped;
    this.#mappings.set(fd, [...(this.#mappings.get(fd) ?? []), mapped]);
    return new Uint8Array(mapped.mapping.memory.buffer, 0, length);
  }

  allocate(bytes: number): Allocation | number {
    if (!Number.isSafeInteger(bytes) || bytes <= 0) return -ERRNO.EINVAL;
    const length = Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;
    if (length > MAX_ALLOCATION_BYTES) return -ERRNO.ENOMEM;
    const fd = this.libc.memfd('ringbook-ram', length);
    if (fd < 0) return fd;
    const mapped = this.#map(length, fd);
    if (typeof mapped === 'number') {
      this.libc.close(fd);
      return mapped;
    }
    const { address, mapping } = mapped;
    this.#allocations.set(address, { ...mapping, fd });
    return { hva: address, bytes: new Uint8Array(mapping.memory.buffer, 0, bytes) };
  }

  free(hva: Hva): number {
    const mapping = this.#allocations.get(hva);
    if (!mapping) return -ERRNO.EINVAL;
    this.#allocations.delete(hva);
    if (mapping.fd !== null) this.libc.close(mapping.fd);
    return this.libc.unmap(hva, mapping.length);
  }

  /** Closes and frees whatever is still open. */
  dispose(): void {
    for (const fd of [...this.#open].reverse()) this.close(fd);
    for (const hva of [...this.#allocations.keys()]) this.free(hva);
    this.#stopTicking();
  }

  eventfd(initial: number, flags: number): number {
    return this.#remember(this.libc.eventfd(initial, flags));
  }

  read(fd: number, bytes: Uint8Array): number {
    return this.#open.has(fd) ? this.libc.read(fd, bytes) : -ERRNO.EBADF;
  }

  write(fd: number, bytes: Uint8Array): number {
    return this.#open.has(fd) ? this.libc.write(fd, bytes) : -ERRNO.EBADF;
  }

  // ## Waiting for a counter
  //
  // A thread that reads a counter sleeps until somebody has added to it. A JavaScript thread has one place where it sleeps, its event loop, and that
  // already waits for many descriptors at once, by epoll; an eventfd can be one of them. So a watched counter costs no thread, and its reader runs like
  // any other callback: between two others, never in the middle of one. That is the whole locking of the device models. The exits of processors that
  // have threads of their own, the timers, what comes from sockets and terminals, and the doorbells: all of them are callbacks of this one loop, each
  // runs to its end, and nothing but guest memory is ever touched by two threads at once.
  //
  // The loop turns only while nobody holds it. A program that calls KVM_RUN in this thread holds it for as long as the guest likes.

  watch(fd: number, ready: () => void): (() => void) | number {
    if (!this.#open.has(fd)) return -ERRNO.EBADF;
    const reader = (): void => ready(); // the same function may wait twice
    let watch = this.#watches.get(fd);
    if (!watch) {
      const readers = new Set<() => void>();
      const end = this.libc.poll(fd, () => {
        for (const each of [...readers]) if (readers.has(each)) each();
      });
      if (typeof end === 'number') return end;
      watch = { readers, end };
      this.#watches.set(fd, watch);
    }
    const mine = watch;
    mine.readers.add(reader);
    return () => {
      if (!mine.readers.delete(reader) || mine.readers.size > 0 || this.#watches.get(fd) !== mine) return;
      this.#watches.delete(fd);
      mine.end();
    };
  }

  #tick(): number {
    const handled = this.libc.handleNothing(TICK_SIGNAL);
    const timer = handled < 0 ? handled : this.libc.startTicking(TICK_SIGNAL, TICK_MS);
    if (timer < 0) throw new Errno('timer_create', -timer);
    return timer;
  }

  // A far alarm does not lengthen a run: KVM_RUN comes back after a tick, and whoever set the alarm sets it again.

  #setAlarm(at: number | null): void {
    const before = this.#alarm;
    this.#alarm = at;
    if (at === null && (before === null || this.#ticking === null)) return;
    this.#ticking ??= this.#tick();
    const leftMs = at === null ? TICK_MS : Math.max(0, at - this.clock.now()) / 1e6;
    const near = leftMs < TICK_MS;
    const set = this.libc.setTicking(this.#ticking, near ? leftMs * 1e6 : TICK_MS * 1e6, near ? RETRY_MS : TICK_MS);
    if (set < 0) throw new Errno('timer_settime', -set);
  }

  #remember(fd: number): number {
    if (fd >= 0) this.#open.add(fd);
    return fd;
  }

  #map(length: number, fd: number, offset = 0): { address: number; mapping: Mapping } | number {
    const pages = Math.ceil(length / WASM_PAGE_BYTES);
    let memory: WebAssembly.Memory;
    try {
      memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    } catch {
      return -ERRNO.ENOMEM;
    }
    const address = this.libc.address(memory.buffer);
    const result = this.libc.mapOver(address, length, fd, offset);
    return result < 0 ? result : { address, mapping: { memory, length, fd: null } };
  }
}
