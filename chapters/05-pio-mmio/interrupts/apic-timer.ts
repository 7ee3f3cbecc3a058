// # The local APIC's timer
//
// Each processor has a timer of its own, and operating systems would rather use nothing else. It counts down from an initial count at the bus clock
// divided by a power of two; in *one-shot* mode it stops at zero, in *periodic* mode it begins again, and in *TSC-deadline* mode it does not count at
// all but fires when the time-stamp counter passes a value.
//
// A model does not count either. It knows when the count will reach zero, and works out the current count when somebody asks.

import type { Clock, Timer } from '../../02-kvm-objects/clock.ts';
import { describe, field, kind, moment, timer } from '../../03-vcpu-loop/devices/state.ts';

/** LVT timer, bits 18–17. */
const TIMER_MODE = { ONE_SHOT: 0, PERIODIC: 1, TSC_DEADLINE: 2 } as const;

/** The bus clock: KVM's local APICs count nanoseconds. */
const APIC_BUS_NS = 1;

/**
 * KVM's lower limit of a period. The guest chooses the period, but the host has to serve it: without a limit a guest could keep its host busy with
 * nothing but timer interrupts. Real hardware has none.
 */
export const MIN_PERIOD_NS = 200_000;

/** Beyond this the moment is past every run: nanoseconds are exact as numbers only so far. */
const FOREVER_NS = 2 ** 52;

/** A guest's time-stamp counter. */
export interface TimeStamp {
  now(): bigint;
  /** Ticks a millisecond. */
  readonly khz: number;
}

interface ApicTimerOptions {
  readonly clock: Clock;
  readonly tsc: TimeStamp | null;
  readonly minPeriodNs: number;
  readonly onExpire: () => void;
}

export class ApicTimer {
  readonly #clock: Clock;
  readonly #tsc: TimeStamp | null;
  readonly #minPeriodNs: number;
  readonly #onExpire: () => void;
  readonly #timer: Timer;
  #mode: number = TIMER_MODE.ONE_SHOT;
  #divide = 2;
  #initial = 0;
  #period = 0; // nanoseconds; 0: not counting
  #target = 0; // when it reaches zero
  #deadline = 0n;

  constructor({ clock, tsc, minPeriodNs, onExpire }: ApicTimerOptions) {
    this.#clock = clock;
    this.#tsc = tsc;
    this.#minPeriodNs = minPeriodNs;
    this.#onExpire = onExpire;
    this.#timer = clock.timer(() => this.#expired());
  }

  get mode(): number {
    return this.#mode;
  }

  // Going to or from deadline mode disarms the timer; between the two counting modes it goes on.
  set mode(mode: number) {
    if (mode === this.#mode) return;
    if (mode === TIMER_MODE.TSC_DEADLINE || this.#mode === TIMER_MODE.TSC_DEADLINE) this.stop();
    this.#mode = mode;
    this.#period = this.#limited(this.#period);
  }

  /** Disarms, and forgets the initial count and the deadline. */
  stop(): void {
    this.#timer.cancel();
    this.#initial = 0;
    this.#period = 0;
    this.#deadline = 0n;
  }

  // ## Counting

  get initialCount(): number {
    return this.#initial;
  }

  // @clause lapic.timer
  /** Starts the count; 0 stops it. `first` is what remains of the first round, for a state that is being restored. */
  start(initial: number, first: number = initial): void {
    if (this.#mode === TIMER_MODE.TSC_DEADLINE) return; // the register cannot be written then
    this.#timer.cancel();
    this.#initial = initial;
    this.#period = this.#limited(this.#ns(initial));
    if (this.#period === 0) return;
    const left = first === initial ? this.#period : Math.min(this.#ns(first), this.#period);
    // A restored one-shot timer that had run out stays so.
    if (left === 0 && this.#mode === TIMER_MODE.ONE_SHOT) {
      this.#target = this.#clock.now();
      return;
    }
    this.#target = this.#clock.now() + (left === 0 ? this.#period : left);
    this.#timer.arm(this.#target);
  }

  /** Sets the divider, 1–128. A count that is running keeps its value and changes its speed. */
  set divide(divide: number) {
    if (divide === this.#divide) return;
    const old = this.#divide;
    const armed = this.#timer.at !== null && this.#mode !== TIMER_MODE.TSC_DEADLINE;
    const left = Math.max(0, this.#target - this.#clock.now());
    this.#divide = divide;
    this.#period = this.#limited(this.#ns(this.#initial));
    if (!armed) return;
    this.#target = this.#clock.now() + Math.floor((left * divide) / old);
    this.#timer.arm(this.#target);
  }

  // @clause lapic.timer
  get currentCount(): number {
    if (this.#period === 0 || this.#mode === TIMER_MODE.TSC_DEADLINE) return 0;
    const left = Math.max(0, this.#target - this.#clock.now());
    return Math.floor(left / (this.#divide * APIC_BUS_NS));
  }

  #ns(count: number): number {
    return count * this.#divide * APIC_BUS_NS;
  }

  #limited(period: number): number {
    return this.#mode === TIMER_MODE.PERIODIC && period > 0 ? Math.max(period, this.#minPeriodNs) : period;
  }

  // ## The deadline
  //
  // Reading it back gives zero once it has fired. Written in another mode it is ignored; written with a moment that has passed it fires at once.

  // @clause lapic.deadline
  get deadline(): bigint {
    return this.#mode === TIMER_MODE.TSC_DEADLINE ? this.#deadline : 0n;
  }

  set deadline(tsc: bigint) {
    if (this.#mode !== TIMER_MODE.TSC_DEADLINE || !this.#tsc) return;
    this.#timer.cancel();
    this.#deadline = tsc;
    if (tsc !== 0n) this.#armDeadline();
  }

  /** The counter has been written: the moment of the deadline moves with it. */
  tscChanged(): void {
    if (this.#mode !== TIMER_MODE.TSC_DEADLINE || this.#deadline === 0n) return;
    this.#timer.cancel();
    this.#armDeadline();
  }

  #armDeadline(): void {
    const { khz } = this.#tsc as TimeStamp;
    const ticks = this.#deadline - (this.#tsc as TimeStamp).now();
    if (ticks <= 0n) {
      this.#fireDeadline();
      return;
    }
    const ns = (Number(ticks) * 1e6) / khz;
    if (ns < FOREVER_NS) this.#timer.arm(this.#clock.now() + Math.ceil(ns));
  }

  #fireDeadline(): void {
    this.#deadline = 0n;
    this.#onExpire();
  }

  // ## Zero
  //
  // Nobody looks at the clock at exactly the right moment. A periodic timer whose time has come more than once since anybody looked gives *one*
  // interrupt: the local APIC has one bit for a vector, so the others could not be told anyway, and a model that made up for them one by one would not
  // return while the guest's period is shorter than the way through here.

  // @clause lapic.timer
  #expired(): void {
    if (this.#mode === TIMER_MODE.TSC_DEADLINE) {
      if (this.#deadline !== 0n) this.#armDeadline(); // fires, or was rounded and is a tick early
      return;
    }
    if (this.#mode === TIMER_MODE.PERIODIC && this.#period > 0) {
      const late = Math.max(0, this.#clock.now() - this.#target);
      this.#target += this.#period * (Math.floor(late / this.#period) + 1);
      this.#timer.arm(this.#target);
    }
    this.#onExpire();
  }

  // ## State

  static readonly STATE = describe<ApicTimer>('apic timer', 1, {
    count: field(
      kind.record({ mode: kind.upTo(3), divide: kind.between(1, 128), initial: kind.u32, period: kind.safe, deadline: kind.u64 }),
      (t) => ({ mode: t.#mode, divide: t.#divide, initial: t.#initial, period: t.#period, deadline: t.#deadline }),
      (t, v) => {
        ({ mode: t.#mode, divide: t.#divide, initial: t.#initial, period: t.#period, deadline: t.#deadline } = v);
      },
    ),
    target: moment(
      (t) => t.#target,
      (t, at) => {
        t.#target = at;
      },
    ),
    zero: timer((t) => t.#timer),
  });
}
