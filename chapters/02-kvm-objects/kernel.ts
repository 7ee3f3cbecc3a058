// # The line between user and kernel
//
// Everything that a VMM asks of KVM passes through a handful of system calls. This interface is that handful and nothing else: a program written
// against it cannot tell whether the other side is Linux or the kernel that this book builds. Numbers go down, numbers come back, and a refusal is a
// negative number, not an exception.
//
// One difference from C has to be bridged. A request may contain a *pointer* (where guest memory lives in the VMM's address space), and
// JavaScript has none. So memory whose address the kernel will need is asked for by `Kernel.allocate`, which gives both the bytes and their
// address. Arguments themselves are byte arrays, copied in and out as the request says.

import type { Hva } from '../01-hardware-background/physical-memory.ts';

/** Memory of the VMM that the kernel can be pointed at. */
export interface Allocation {
  readonly hva: Hva;
  /** Live: what the guest writes shows here. */
  readonly bytes: Uint8Array;
}

/** The kernel's time, and the two ways to wait for it. */
export interface KernelClock {
  /** Nanoseconds since some moment before the kernel's first use; never goes back. */
  now(): number;
  /**
   * The program's one timer: at that time a signal arrives, and KVM_RUN returns -EINTR. A moment that has passed is as good as now. Setting it
   * replaces what was set; null takes it back. The signal comes once. It may come early, so whoever waits looks at the clock.
   */
  alarm(at: number | null): void;
  /** Waits until then, or until something may have happened before. */
  sleep(until: number): void;
  /** How much of the time that has passed nobody lived through, because there was nothing to do and the clock was put forward. */
  readonly skippedNs?: number;
  /** Goes on from a later moment as if that were now: for a machine that is restored. A clock that is not the machine's own cannot. */
  forward?(until: number): void;
}

/** One kernel's system-call layer. No method throws for an error that Linux reports with errno; a failure is `-errno`. */
export interface Kernel {
  /** For messages and reports: `soft`, or the host's release. */
  readonly name: string;
  /** `open("/dev/kvm", flags)`. Descriptor, or -ENOENT, -EACCES. */
  open(path: string, flags: number): number;
  close(fd: number): number;
  /**
   * `arg` is a number for requests whose argument is one, else the structure's bytes, read and written in place. A result of 0 or more, or
   * -errno. KVM_RUN returns when the guest exits.
   */
  ioctl(fd: number, request: number, arg?: number | Uint8Array): number;
  /**
   * Maps a vCPU's `struct kvm_run` and the pages behind it, or at `offset` (in bytes) something else that the descriptor has: live, shared with the
   * kernel. Closing the descriptor ends its use.
   */
  mmap(fd: number, length: number, offset?: number): Uint8Array | number;
  /** `mmap(MAP_ANONYMOUS)`: zeroed, page-aligned memory with an address. -ENOMEM, -EINVAL. */
  allocate(bytes: number): Allocation | number;
  /** `munmap` of a whole allocation. No slot may still name it. */
  free(hva: Hva): number;
  /**
   * The program has stored something in memory of its own, which may be a guest's. A processor sees that by itself, so a kernel on a real one has
   * no such call; the modelled one keeps decoded instructions.
   */
  stored?(hva: Hva, bytes: number): void;
  /** Set by a program that calls {@link stored} for every store of its own: then what is decoded need not be compared with memory at each KVM_RUN. */
  tellsStores?: boolean;
  readonly clock: KernelClock;
  /**
   * Throws away whatever the kernel and its processor could make again: second-stage tables, what is in the TLB. A kernel whose runs are all alike offers it,
   * for a machine that goes on after it has been saved and one that is restored elsewhere have to go on alike.
   */
  forget?(): void;
  /** `eventfd(initial, flags)`: a descriptor of a counter. -EINVAL for unknown EFD flags. */
  eventfd(initial: number, flags: number): number;
  /** `read(fd, bytes, bytes.length)`: the number of bytes read. Of an eventfd 8, or -EAGAIN when its counter is 0. */
  read(fd: number, bytes: Uint8Array): number;
  /**
   * Calls `ready` whenever the counter of an eventfd has become more than 0, from another thread's point of view: while a guest runs, never inside
   * another call of this interface. Returns what ends it, or -errno. A kernel on a real machine calls from the program's event loop, so a program
   * that blocks in KVM_RUN hears nothing.
   */
  watch?(fd: number, ready: () => void): (() => void) | number;
  /** `write(fd, bytes, bytes.length)`: the number of bytes written. */
  write(fd: number, bytes: Uint8Array): number;
}

/** Flags of `open`. */
export const O_RDWR = 2;
export const O_CLOEXEC = 0o2000000;

/** Flags of `eventfd`. */
export const EFD = { EFD_SEMAPHORE: 1, EFD_NONBLOCK: 0o4000, EFD_CLOEXEC: 0o2000000 } as const;
