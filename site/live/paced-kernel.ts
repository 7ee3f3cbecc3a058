// # Stopping without being noticed
//
// A page wants to stop a guest after any instruction and after any exit. The machine must not notice: a link that says "instruction 120" has to
// lead to the same machine whether the reader stepped there or ran, and the trace at the end has to be the same. KVM has the means to
// stop (a bound on instructions, a signal), but each leaves its mark: an exit for the host's timer, a return with EINTR, a VMM that gets its turn.
//
// So this kernel stands between the monitor and the soft kernel, and does two things. It keeps the soft kernel's own bound at its usual places, and
// stops earlier only when the page asks; and when it has stopped early, it takes the marks out of the trace and leaves KVM_RUN by throwing `PAUSED`, so
// that the monitor never sees a return. Calling KVM_RUN again goes on as if nothing had been.
//
// Which events are marks? Everything from the moment the host's timer fires to the moment the guest is about to run again: the exit, and the entry that
// makes up for it. Both moments can be seen at the processor's timer: it is set before the guest runs, and it fires.
//
// On a machine with a local APIC in the kernel there is more that ends a run of the guest: a timer of the kernel's is due, the program's alarm, a
// processor that has gone to sleep. Those belong to the run and stay on the tape.
//
// One thing cannot be hidden, because on a real machine it cannot either: what the kernel keeps only *until the next exit*. Debug registers are such a
// thing, so a guest that uses them and is stopped between two of its exits causes one DR_ACCESS exit more than it would have.

import { OFFSET } from '../../chapters/01-hardware-background/state.ts';
import type { Timed, Trace, TraceEvent } from '../../chapters/01-hardware-background/trace.ts';
import { MP_STATE } from '../../chapters/02-kvm-objects/abi/events.ts';
import { KvmRun } from '../../chapters/02-kvm-objects/abi/exits.ts';
import { IOCTL } from '../../chapters/02-kvm-objects/abi/ioctls.ts';
import { ERRNO } from '../../chapters/02-kvm-objects/errno.ts';
import type { Allocation, Kernel, KernelClock } from '../../chapters/02-kvm-objects/kernel.ts';
import { type RunnableKernel, softKernel } from '../../chapters/03-vcpu-loop/kernel/index.ts';

/** Thrown out of KVM_RUN when the page's budget is used up. Not an error. */
export const PAUSED = Symbol('paused');

const MOST_EVENTS = 1_000_000;

/** Keeps the events of the run as it would have been without the page's stops. */
class Tape implements Trace {
  now = 0;
  readonly events: Timed[] = [];
  dropped = 0;
  /** Nothing is recorded: the page is looking at the machine. */
  muted = false;
  onExit: ((reason: string) => void) | null = null;

  emit(event: TraceEvent): void {
    if (this.muted) return;
    if (this.events.length >= MOST_EVENTS) this.dropped++;
    else this.events.push({ t: this.now, ...event });
    if (event.kind === 'kvm_exit') this.onExit?.(event.reason);
  }

  /** Where the tape stands. */
  get length(): number {
    return this.events.length + this.dropped;
  }

  /** Forgets what came after that point. */
  rewind(length: number): void {
    this.events.length = Math.min(this.events.length, length);
    this.dropped = length - this.events.length;
  }
}

/** A KVM_RUN that has not returned to the monitor yet. */
interface OpenRun {
  readonly fd: number;
  /** Instructions retired when it began. */
  readonly start: number;
  /** Exits so far; KVM_RUN's bound counts each as an instruction. */
  exits: number;
}

/** The host's timer has fired: where the tape stood, and whether it was time for KVM_RUN's own bound. */
interface Fired {
  readonly at: number;
  readonly natural: boolean;
  /** The guest has left because of it; that exit has been taken off the count. */
  exited: boolean;
  erased: boolean;
}

interface PacedOptions {
  readonly ramBytes: number;
  readonly instructionBound: number;
  /** The kernel to pace; chapter 3's when absent. */
  readonly make?: (options: { readonly ramBytes: number; readonly instructionBound: number; readonly trace: Trace }) => RunnableKernel;
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
  #open: OpenRun | null = null;
  #fired: Fired | null = null;
  #alarmed = false;
  /** VM exits on the tape. */
  exits = 0;

  constructor({ ramBytes, instructionBound, make = softKernel }: PacedOptions) {
    this.soft = make({ ramBytes, instructionBound, trace: this.tape });
    const { clock } = this.soft;
    const takeAlarm = clock.takeAlarm.bind(clock);
    clock.takeAlarm = () => {
      const taken = takeAlarm();
      if (taken) this.#alarmed = true;
      return taken;
    };
    this.#naturalBound = this.soft.instructionBound;
    this.tape.onExit = (reason) => {
      this.exits++;
      const timer = this.#fired !== null && reason === 'EXTERNAL_INTERRUPT';
      if (this.#fired && timer) this.#fired.exited = true;
      if (!this.#open) return;
      this.#open.exits++;
      if (this.stopAtExit && !timer) this.soft.loop.signal(this.#open.fd);
    };
    const { cpu } = this.soft.hardware;
    const setTimer = cpu.setTimer.bind(cpu);
    cpu.setTimer = (at, fires) => {
      if (this.#fired && !this.#fired.natural) {
        if (this.#fired.exited) this.#erase(this.#fired);
        // Another exit came first (a window, a debug exception); the timer's interrupt still waits, and must not be taken by the run to come.
        else cpu.acknowledgeInterrupt();
      }
      this.#fired = null;
      setTimer(at, () => {
        this.#fired = { at: this.tape.length, natural: this.#left() <= 0 || this.#due, exited: false, erased: false };
        fires();
      });
    };
  }

  /** The time: instructions retired by all processors, and what was slept. */
  get instructions(): number {
    return this.soft.hardware.cpu.state.getNumber(OFFSET.ICOUNT);
  }
  /** How much of it was slept. */
  get idle(): number {
    return this.soft.hardware.idleTicks;
  }
  /** Something of the machine's own happens now. */
  get #due(): boolean {
    const { clock } = this.soft;
    return clock.next !== null && clock.now() >= clock.next;
  }

  ioctl(fd: number, request: number, arg?: number | Uint8Array): number {
    return request === IOCTL.KVM_RUN ? this.#run(fd, arg) : this.soft.ioctl(fd, request, arg);
  }

  #run(fd: number, arg: number | Uint8Array | undefined): number {
    const run = this.#open?.fd === fd ? this.#open : { fd, start: this.soft.hardware.instructions, exits: 0 };
    this.#open = run;
    const natural = this.#left();
    const wanted = this.deadline - this.instructions;
    if (wanted <= 0 && natural > 0) throw PAUSED;
    this.soft.instructionBound = Math.min(natural, wanted);
    const before = this.tape.length;
    this.#alarmed = false;
    const result = this.soft.ioctl(fd, IOCTL.KVM_RUN, arg);
    this.#dropSignal(fd);
    if (result !== -ERRNO.EINTR || this.#left() <= 0 || this.#alarmed || this.#asleep(fd)) {
      this.#open = null;
      return result;
    }
    // Cut by the timer: all that followed is of our making, and so will be the entry that follows. Cut after an exit of the guest's own: only the return
    // to user space is.
    if (this.#fired?.exited && !this.#fired.natural) this.#erase(this.#fired);
    else if (this.tape.length > before) this.tape.rewind(this.tape.length - 1);
    // The monitor looks here before each KVM_RUN to see whether it may inject; there is no "before" here.
    const page = this.#pages.get(fd);
    if (page) KvmRun.fields.ready_for_interrupt_injection.set(page, 0, 0);
    throw PAUSED;
  }

  /** What is left of KVM_RUN's own bound. */
  #left(): number {
    return this.#open ? this.#naturalBound - (this.soft.hardware.instructions - this.#open.start) - this.#open.exits : 0;
  }

  /** KVM_RUN came back because the processor sleeps and nothing in the kernel will wake it, or another is to run. */
  #asleep(fd: number): boolean {
    const vcpu = this.soft.vcpuBehind(fd);
    return (
      vcpu !== null &&
      vcpu !== undefined &&
      vcpu.mpState !== MP_STATE.KVM_MP_STATE_RUNNABLE &&
      (this.soft.clock.next === null || vcpu.vm.vcpus.size > 1)
    );
  }

  #erase(fired: Fired): void {
    this.tape.rewind(fired.at);
    if (fired.erased) return;
    fired.erased = true;
    this.exits--;
    if (this.#open) this.#open.exits--;
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
  mmap(fd: number, length: number, offset = 0): Uint8Array | number {
    const mapped = this.soft.mmap(fd, length, offset);
    if (offset === 0 && typeof mapped !== 'number') this.#pages.set(fd, new DataView(mapped.buffer, mapped.byteOffset, mapped.length));
    return mapped;
  }
  allocate(bytes: number): Allocation | number {
    return this.soft.allocate(bytes);
  }
  free(hva: number): number {
    return this.soft.free(hva);
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
