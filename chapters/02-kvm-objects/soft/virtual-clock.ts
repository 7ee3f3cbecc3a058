// # Virtual time
//
// The modelled machine has one clock, and it is the processor's count of instructions: {{NS_PER_TICK}} ns for each. Nothing else moves it while a guest
// runs, so whatever depends on time (a timer of the kernel's, the guest's time stamp counter, the VMM's alarm) depends on nothing but the guest's own
// instructions, and a run can be repeated to the last interrupt.
//
// When there is nothing to execute, a real processor waits. Here waiting would be for nothing; the clock is put forward to the next thing that will
// happen. Skipped time is counted apart (`Hardware.idleTicks`), for those who want to know how many instructions there really were.
// A trip to the VMM executes nothing either; a kernel may be told what one takes, and that time is counted with the skipped.

import { TimerQueue } from '../clock.ts';
import type { KernelClock } from '../kernel.ts';
import type { Hardware } from './hardware.ts';

/** One step of the instruction count. The time stamp counter thus runs at 100 MHz. */
export const NS_PER_TICK = 10;
/** What KVM_GET_TSC_KHZ says. */
export const TSC_KHZ = 1e6 / NS_PER_TICK;

/** The kernel's clock, with the timers of the kernel's own devices and the program's one alarm. */
export class VirtualClock implements KernelClock {
  readonly #hardware: Hardware;
  /** Timers of what lives in the kernel: local APICs, the 8254. */
  readonly timers: TimerQueue;
  #alarm: number | null = null;

  constructor(hardware: Hardware) {
    this.#hardware = hardware;
    this.timers = new TimerQueue(() => this.now());
  }

  now(): number {
    return this.#hardware.ticks * NS_PER_TICK;
  }

  get skippedNs(): number {
    return this.#hardware.idleTicks * NS_PER_TICK;
  }

  alarm(at: number | null): void {
    this.#alarm = at;
  }

  /** Puts time forward to `until`, to the alarm, or to the next timer of the kernel's, whichever is first; a timer then fires. */
  sleep(until: number): void {
    const next = this.next;
    this.advance(next === null ? until : Math.min(until, next));
    this.timers.runDue();
  }

  /** The clock of a machine that is restored goes on where the saved one's stood. */
  forward(until: number): void {
    this.advance(until);
  }

  // ## For the loop around VM entry

  /** When something will happen by itself: the next timer or the alarm; null: never. */
  get next(): number | null {
    const timer = this.timers.next;
    if (this.#alarm === null) return timer;
    return timer === null ? this.#alarm : Math.min(timer, this.#alarm);
  }

  /** Steps of the processor until then, at least 1 and at most `bound`. */
  stepsUntilNext(bound: number): number {
    const { next } = this;
    if (next === null) return bound;
    return Math.max(1, Math.min(bound, Math.ceil((next - this.now()) / NS_PER_TICK)));
  }

  /** Puts time forward to the first tick at or after `at`; never back. */
  advance(at: number): void {
    const ticks = Math.ceil((at - this.now()) / NS_PER_TICK);
    if (ticks > 0) this.#hardware.idle(ticks);
  }

  // @clause kvm.run.eintr
  /** The alarm is a signal: it is sent once, and whoever takes it has it. */
  takeAlarm(): boolean {
    if (this.#alarm === null || this.now() < this.#alarm) return false;
    this.#alarm = null;
    return true;
  }
}
