// # Stopping without being noticed
//
// A page wants to stop a guest after any instruction and after any exit. The machine must not notice: a link that says "instruction 120" has to
// lead to the same machine whether the reader stepped there or ran, and the trace at the end has to be the same. KVM has the means to
// stop (a bound on instructions, a signal), but each leaves its mark: an exit for the host's timer, a return with EINTR, a VMM that gets its turn.
//
// So this kernel stands between the monitor and the soft kernel, and does two things. It keeps the soft kernel's own bound at its usual places, and
// stops earlier only when the page asks; and when it has stopped early, it takes the marks out of the trace and leaves KVM_RUN by throwing {@link PAUSED}, so
// that the monitor never sees a return. Calling KVM_RUN again goes on as if nothing had been.

import type { Timed, Trace, TraceEvent } from '../../chapters/01-hardware-background/trace.ts';
import { OFFSET } from '../../chapters/01-hardware-background/state.ts';
import { KvmRun } from '../../chapters/02-kvm-objects/abi/exits.ts';
import { IOCTL } from '../../chapters/02-kvm-objects/abi/ioctls.ts';
import { ERRNO } from '../../chapters/02-kvm-objects/errno.ts';
import type { Allocation, Kernel } from '../../chapters/02-kvm-objects/kernel.ts';
import { type RunnableKernel, softKernel } from '../../chapters/03-vcpu-loop/kernel/index.ts';

/** Thrown out of KVM_RUN when the page's budget is used up. Not an error. */
export const PAUSED = Symbol('paused');

const MOST_EVENTS = 1_000_000;

/** Keeps the events of the run as it would have been without the page's stops. */
class Tape implements Trace {
  now = 0;
  readonly events: Timed[] = [];
  dropped = 0;
  /** Looking at the machine is not part of the run. */
  muted = false;
  /** The entry that follows a stop was already recorded. */
  skipEntry = false;
  onExit: (() => void) | null = null;

  emit(event: TraceEvent): void {
    if (this.muted) return;
    if (event.kind === 'kvm_entry' && this.skipEntry) {
      this.skipEntry = false;
      return;
    }
    if (this.events.length >= MOST_EVENTS) this.dropped++;
    else this.events.push({ t: this.now, ...event });
    if (event.kind === 'kvm_exit') this.onExit?.();
  }

  /** Takes the last event back if it is the one described. */
  takeBack(matches: (event: Timed) => boolean): boolean {
    const last = this.events.at(-1);
    if (this.dropped > 0) {
      this.dropped--; // what was not kept need not be looked at, only counted
      return true;
    }
    if (!last || !matches(last)) return false;
    this.events.pop();
    return true;
  }
}

export class PacedKernel implements Kernel {
  readonly name = 'soft';
  readonly tape = new Tape();
  readonly soft: RunnableKernel;
  /** Stop when this many instructions have been retired in all. */
  deadline = 0;
  /** Stop after the next VM exit has been handled. */
  stopAtExit = false;
  readonly #pages = new Map<number, DataView>();
  readonly #naturalBound: number;
  /** A KVM_RUN that was cut short: instructions and exits it has already had. */
  #open: { readonly fd: number; readonly start: number; exits: number } | null = null;

  constructor({ ramBytes }: { readonly ramBytes: number }) {
    this.soft = softKernel({ ramBytes, trace: this.tape });
    this.#naturalBound = this.soft.instructionBound;
    this.tape.onExit = () => {
      if (this.#open) this.#open.exits++;
      if (this.stopAtExit && this.#open) this.soft.loop.signal(this.#open.fd);
    };
  }

  /** Instructions retired by all processors. */
  get instructions(): number {
    return this.soft.hardware.cpu.state.getNumber(OFFSET.ICOUNT);
  }

  ioctl(fd: number, request: number, arg?: number | Uint8Array): number {
    return request === IOCTL.KVM_RUN ? this.#run(fd, arg) : this.soft.ioctl(fd, request, arg);
  }

  #run(fd: number, arg: number | Uint8Array | undefined): number {
    const run = this.#open?.fd === fd ? this.#open : { fd, start: this.instructions, exits: 0 };
    this.#open = run;
    const natural = this.#naturalBound - (this.instructions - run.start) - run.exits;
    const wanted = this.deadline - this.instructions;
    if (wanted <= 0 && natural > 0) throw PAUSED;
    this.soft.instructionBound = Math.min(natural, wanted);
    const before = run.exits;
    const result = this.soft.ioctl(fd, IOCTL.KVM_RUN, arg);
    this.#dropSignal(fd);
    const left = this.#naturalBound - (this.instructions - run.start) - run.exits;
    const cut = result === -ERRNO.EINTR && left > 0;
    if (!cut) {
      this.#open = null;
      return result;
    }
    this.tape.takeBack((event) => event.kind === 'kvm_userspace_exit');
    // Cut by the host's timer: one exit and the entry after it are of our making. Cut after an exit of the guest's own: nothing more is.
    if (this.instructions >= this.deadline && this.tape.takeBack((event) => event.kind === 'kvm_exit' && event.reason === 'EXTERNAL_INTERRUPT')) {
      this.tape.skipEntry = true;
      run.exits = Math.max(before, run.exits - 1);
    }
    // The monitor looks here before each KVM_RUN to see whether it may inject; there is no "before" here.
    const page = this.#pages.get(fd);
    if (page) KvmRun.fields.ready_for_interrupt_injection.set(page, 0, 0);
    throw PAUSED;
  }

  /** A stop asked for at an exit that went to user space anyway must not end the next run. */
  #dropSignal(fd: number): void {
    const vcpu = this.soft.vcpuBehind(fd);
    if (vcpu) this.soft.loop.takeSignal(vcpu);
  }

  open(path: string, flags: number): number {
    return this.soft.open(path, flags);
  }
  close(fd: number): number {
    this.#pages.delete(fd);
    return this.soft.close(fd);
  }
  mmap(fd: number, length: number): Uint8Array | number {
    const mapped = this.soft.mmap(fd, length);
    if (typeof mapped !== 'number') this.#pages.set(fd, new DataView(mapped.buffer, mapped.byteOffset, mapped.length));
    return mapped;
  }
  allocate(bytes: number): Allocation | number {
    return this.soft.allocate(bytes);
  }
  free(hva: number): number {
    return this.soft.free(hva);
  }
}
