// # Stopping without being noticed
//
// A page wants to stop a guest after any instruction and after any exit. The machine must not notice: a link that says "instruction 120" has to
// lead to the same machine whether the reader stepped there or ran, and the trace at the end has to be the same. KVM has the means to
// stop (a bound on instructions, a signal), but each leaves its mark: an exit for the host's timer, a return with EINTR, a VMM that gets its turn.
//
// The kernel of this book can be paced instead: it asks before each entry how far the guest may go, and leaves KVM_RUN as it stands when that is
// used up. What remains to be done is done here. The monitor must not see a return, so this kernel, which stands between the two, throws `PAUSED`
// through it; and calling KVM_RUN again goes on as if nothing had been. What happens while the guest is brought out and put back is kept off the tape.
//
// Time that passes without instructions, because the machine sleeps or user space answers an access, has nothing to stop after: it passes at once, and
// a stop that falls into it comes at its end.

import type { Timed, Trace, TraceEvent } from '../../chapters/01-hardware-background/trace.ts';
import { IOCTL } from '../../chapters/02-kvm-objects/abi/ioctls.ts';
import type { Allocation, Kernel, KernelClock } from '../../chapters/02-kvm-objects/kernel.ts';
import type { Pacer } from '../../chapters/02-kvm-objects/soft/hardware.ts';
import type { RunnableKernel } from '../../chapters/03-vcpu-loop/kernel/index.ts';

/** Thrown out of KVM_RUN when the page's budget is used up. Not an error. */
export const PAUSED = Symbol('paused');

const MOST_EVENTS = 1_000_000;

/** Keeps the events of the run as it would have been without the page's stops. */
class Tape implements Trace {
  now = 0;
  readonly events: Timed[] = [];
  dropped = 0;
  /** VM exits recorded. */
  exits = 0;
  /** Nothing is recorded: the page is looking at the machine. */
  muted = false;
  /** Nor while the guest is brought out to be looked at, and put back. */
  hidden = false;

  emit(event: TraceEvent): void {
    if (this.muted || this.hidden) return;
    if (event.kind === 'kvm_exit') this.exits++;
    if (this.events.length >= MOST_EVENTS) this.dropped++;
    else this.events.push({ t: this.now, ...event });
  }
}

export class PacedKernel implements Kernel, Pacer {
  readonly name = 'soft';
  readonly tape = new Tape();
  readonly soft: RunnableKernel;
  /** Stop when the time is this. */
  deadline = 0;
  /** Stop when so many VM exits have been handled. */
  mostExits = Number.POSITIVE_INFINITY;

  constructor(make: (trace: Trace) => RunnableKernel) {
    this.soft = make(this.tape);
    this.soft.loop.pacer = this;
  }

  /** The time: instructions retired by all processors, and the time without any. */
  get ticks(): number {
    return this.soft.hardware.ticks;
  }

  // ## As the pacer

  room(): number {
    return this.tape.exits >= this.mostExits ? 0 : this.deadline - this.ticks;
  }
  hide(): void {
    this.tape.hidden = true;
  }
  show(): void {
    this.tape.hidden = false;
  }

  // ## As the kernel

  ioctl(fd: number, request: number, arg?: number | Uint8Array): number {
    const result = this.soft.ioctl(fd, request, arg);
    if (request === IOCTL.KVM_RUN && this.soft.loop.paused) throw PAUSED;
    return result;
  }

  open(path: string, flags: number): number {
    return this.soft.open(path, flags);
  }
  close(fd: number): number {
    return this.soft.close(fd);
  }
  mmap(fd: number, length: number, offset = 0): Uint8Array | number {
    return this.soft.mmap(fd, length, offset);
  }
  allocate(bytes: number): Allocation | number {
    return this.soft.allocate(bytes);
  }
  free(hva: number): number {
    return this.soft.free(hva);
  }
  stored(hva: number, bytes: number): void {
    this.soft.stored(hva, bytes);
  }
  watch(fd: number, ready: () => void): (() => void) | number {
    return this.soft.watch(fd, ready);
  }
  get clock(): KernelClock {
    return this.soft.clock;
  }
  eventfd(initial: number, flags: number): number {
    return this.soft.eventfd(initial, flags);
  }
  read(fd: number, bytes: Uint8Array): number {
    return this.soft.read(fd, bytes);
  }
  write(fd: number, bytes: Uint8Array): number {
    return this.soft.write(fd, bytes);
  }
}
