// # When to interrupt
//
// A gigabit card can receive a million frames a second, and a processor cannot take a million interrupts. So the card waits in two ways. A *delay*
// holds back the cause: "a frame has arrived" is not said until no other has come for a while, or too long has passed. *Throttling* holds back the
// line: however many causes there are, it does not rise again before its time.
//
// In a virtual machine each of these interrupts costs an exit or two more, so what was made for fast networks turns out to help slow emulators.

import type { Trace } from '../../01-hardware-background/trace.ts';
import type { Clock, Timer } from '../../02-kvm-objects/clock.ts';
import { describe, field, kind, moment, timer } from '../../03-vcpu-loop/devices/state.ts';
import type { Wire } from '../wires.ts';
import { CAUSE, E1000 } from './registers.ts';

/** Units of the interval register and of the delay registers. */
const INTERVAL_NS = 256;
const DELAY_NS = 1024;

/** ICR, IMS and ITR, and the line. */
export class Causes {
  icr = 0;
  ims = 0;
  itr = 0;
  readonly #clock: Clock;
  readonly #wire: Wire;
  readonly #trace: Trace | null;
  readonly #timer: Timer;
  #asserted = false;
  #earliest = 0;

  constructor(clock: Clock, wire: Wire, trace: Trace | null) {
    this.#clock = clock;
    this.#wire = wire;
    this.#trace = trace;
    this.#timer = clock.timer(() => this.update());
  }

  reset(): void {
    this.icr = this.ims = this.itr = 0;
    this.#earliest = 0;
    this.update();
  }

  // @clause e1000.interrupt.mask
  raise(causes: number): void {
    this.icr |= causes;
    this.update();
  }

  // @clause e1000.interrupt.read-clears
  /** Reading the causes acknowledges them, all of them, masked or not. */
  take(): number {
    const causes = this.icr;
    this.icr = 0;
    this.update();
    return causes;
  }

  // @clause e1000.interrupt.throttle
  update(): void {
    const wanted = (this.icr & this.ims) !== 0;
    if (wanted && !this.#asserted && this.#clock.now() < this.#earliest) {
      this.#timer.arm(this.#earliest);
      return;
    }
    this.#timer.cancel();
    if (wanted === this.#asserted) return;
    this.#asserted = wanted;
    if (wanted) {
      this.#earliest = this.#clock.now() + this.itr * INTERVAL_NS;
      this.#trace?.emit({ kind: 'device', device: E1000.device, what: 'interrupt', value: this.icr & this.ims & CAUSE.WRITABLE });
    }
    this.#wire.set(wanted);
  }

  static readonly STATE = describe<Causes>('causes', 1, {
    registers: field(
      kind.record({ icr: kind.word, ims: kind.word, itr: kind.word, asserted: kind.flag }),
      (c) => ({ icr: c.icr, ims: c.ims, itr: c.itr, asserted: c.#asserted }),
      (c, v) => {
        ({ icr: c.icr, ims: c.ims, itr: c.itr, asserted: c.#asserted } = v);
      },
    ),
    earliest: moment(
      (causes) => causes.#earliest,
      (causes, at) => {
        causes.#earliest = at;
      },
    ),
    next: timer((causes) => causes.#timer),
  });
}

/** A cause that may be held back: by `delay` after each event, by `limit` after the first. Both in the registers' units; zero is none. */
export class DelayedCause {
  readonly #clock: Clock;
  readonly #fire: () => void;
  readonly #delay: Timer;
  readonly #limit: Timer;

  constructor(clock: Clock, fire: () => void) {
    this.#clock = clock;
    this.#fire = fire;
    this.#delay = clock.timer(() => this.now());
    this.#limit = clock.timer(() => this.now());
  }

  // @clause e1000.interrupt.delay
  event(delay: number, limit: number): void {
    if (delay === 0) {
      this.now();
      return;
    }
    this.#delay.arm(this.#clock.now() + delay * DELAY_NS);
    if (limit > 0 && this.#limit.at === null) this.#limit.arm(this.#clock.now() + limit * DELAY_NS);
  }

  /** At once, and whatever was waiting with it. */
  now(): void {
    this.cancel();
    this.#fire();
  }

  cancel(): void {
    this.#delay.cancel();
    this.#limit.cancel();
  }

  static readonly STATE = describe<DelayedCause>('delayed cause', 1, {
    delay: timer((cause) => cause.#delay),
    limit: timer((cause) => cause.#limit),
  });
}
