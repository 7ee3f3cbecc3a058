// # Taking turns
//
// A ring has a few hundred places, but what a driver puts there can be any amount of work: a descriptor names up to four gigabytes, and a hundred
// descriptors may name the same ones. A device that always finishes what it has begun would let one guest stop the machine. So work on a buffer comes
// in *steps*, and after so many of them it is somebody else's turn; the rest is done when the machine's clock is looked at next, which is at once if
// nobody else has anything to do.

import type { Clock, Timer } from '../../02-kvm-objects/clock.ts';
import { describe, timer } from '../../03-vcpu-loop/devices/state.ts';
import type { VirtioDevice } from '../device.ts';
import type { Chain } from '../queue.ts';
import { queueField, type VirtQueue } from '../virt-queue.ts';

/** What is done with a chain: each step yields how much work it was, in whatever unit, and the end is how many bytes were written. */
export type Steps = Iterator<number, number>;

/** Serves one queue, in turns if there is a clock. */
export class Turns {
  readonly #begin: (chain: Chain) => Steps;
  readonly #turn: number;
  readonly #later: Timer | null;
  /** Whose queue it is. */
  device: VirtioDevice | null = null;
  #queue: VirtQueue | null = null;
  #halfway: { readonly chain: Chain; readonly steps: Steps } | null = null;
  #rested: (() => void) | null = null;

  constructor(begin: (chain: Chain) => Steps, turn: number, clock: Clock | null) {
    this.#begin = begin;
    this.#turn = turn;
    this.#later = clock?.timer(() => this.#serve()) ?? null;
  }

  available(queue: VirtQueue): void {
    this.#queue = queue;
    this.#serve();
  }

  /** The driver's buffers are gone. */
  forget(): void {
    this.#queue = null;
    this.#halfway = null;
    this.#rested = null;
    this.#later?.cancel();
  }

  /** Calls `done` when no buffer is half finished. A suspended device takes no new ones, so it comes to that. */
  rest(done: () => void): void {
    if (this.#halfway) this.#rested = done;
    else done();
  }

  /** A buffer is half finished. */
  get busyNow(): boolean {
    return this.#halfway !== null;
  }

  static readonly STATE = describe<Turns>('turns', 1, {
    queue: queueField(
      (turns) => turns.device,
      (turns) => turns.#queue,
      (turns, queue) => {
        turns.#queue = queue;
      },
    ),
    later: timer((turns) => turns.#later),
  });

  // A round of the ring is the other bound: a driver on another processor could put each buffer back as soon as it comes. A device that turns away
  // while there may be more asks to be kicked again, and looks once more if it is too late for that.

  #serve(): void {
    const queue = this.#queue;
    if (!queue?.ring) return;
    let work = this.#later ? this.#turn : Number.POSITIVE_INFINITY;
    let pushed = false;
    let more = true;
    for (let left = queue.size; left > 0 && work > 0; left--) {
      if (!this.#halfway) {
        const chain = queue.pop();
        if (!chain) {
          more = false;
          break;
        }
        this.#halfway = { chain, steps: this.#begin(chain) };
      }
      const { chain, steps } = this.#halfway;
      let step = steps.next();
      while (!step.done) {
        work -= step.value;
        if (work <= 0) break;
        step = steps.next();
      }
      if (!step.done) break;
      this.#halfway = null;
      queue.push(chain, step.value);
      pushed = true;
    }
    if (pushed) queue.notify();
    if (more && (this.#halfway || queue.ring?.enableKicks())) this.#later?.arm(0);
    if (this.#halfway || !this.#rested) return;
    const done = this.#rested;
    this.#rested = null;
    done();
  }
}
