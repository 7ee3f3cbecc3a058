// # How the guest is doing
//
// The statistics queue runs backwards. In every other queue the driver makes a request and the device answers. Here the device is the one that wants
// to know, and it cannot begin, since only drivers put buffers into queues. So the driver leaves a buffer with the device in advance. To ask, the
// device gives it back; the driver takes that for the question, fills a buffer, and leaves it with the device, where it is the answer to this
// question and the means to ask the next.
//
// The naive device returns the buffer as soon as it has read it, as devices do. The driver then takes it for a question and answers at once, and the
// two of them do nothing else any more.

import type { Clock, Timer } from '../../02-kvm-objects/clock.ts';
import { describe, field, kind, timer } from '../../03-vcpu-loop/devices/state.ts';
import type { VirtioDevice } from '../device.ts';
import type { Chain } from '../queue.ts';
import { queueField, type VirtQueue } from '../virt-queue.ts';
import { type StatName, statName, VirtioBalloonStat } from './balloon-layout.ts';
import { PieceReader } from './pieces.ts';

/** So many entries of a buffer are looked at: far more than there are tags. */
const STATISTICS_ENTRIES = 1024;

export class BalloonStatistics {
  /** What the driver said last. Tags that it does not report are absent. */
  latest: Readonly<Partial<Record<StatName, bigint>>> = {};
  /** When that was, by the machine's clock; null before the first time, or without a clock. */
  updated: number | null = null;
  /** There are new statistics. */
  onUpdate: () => void = () => {};
  /** Whose statistics. */
  device: VirtioDevice | null = null;
  readonly #clock: Clock | null;
  readonly #poll: Timer | null;
  readonly #later: Timer | null;
  #intervalNs = 0;
  #queue: VirtQueue | null = null;
  /** The driver's buffer, between an answer and the next question. */
  #buffer: Chain | null = null;
  #ignoreNext = false;

  constructor(clock: Clock | null) {
    this.#clock = clock;
    this.#poll = clock?.timer(() => this.#due()) ?? null;
    this.#later = clock?.timer(() => this.#queue && this.available(this.#queue)) ?? null;
  }

  /** A device without a driver has no statistics. The first buffer of a legacy driver has rubbish in it: they used to leave it as they had found it. */
  reset(legacy: boolean): void {
    this.forget();
    this.latest = {};
    this.updated = null;
    this.#ignoreNext = legacy;
  }

  /** The driver's buffer is gone. */
  forget(): void {
    this.#queue = null;
    this.#buffer = null;
    this.#later?.cancel();
  }

  // A driver has one buffer in this queue at any time. Should another come, then the older one has lost its meaning and goes back, as in QEMU. The
  // driver hears of it: perhaps it does not count.

  available(queue: VirtQueue): void {
    this.#queue = queue;
    let returned = false;
    let left = queue.size;
    for (; left > 0; left--) {
      const chain = queue.pop();
      if (!chain) break;
      if (this.#buffer) {
        queue.push(this.#buffer, 0);
        returned = true;
      }
      this.#buffer = chain;
      this.#read(chain);
    }
    if (returned) queue.notify();
    if (left === 0 && queue.ring?.enableKicks()) this.#later?.arm(0); // a round without seeing the end
  }

  #read(chain: Chain): void {
    const latest: Partial<Record<StatName, bigint>> = {};
    const reader = new PieceReader(chain.readable);
    for (let left = STATISTICS_ENTRIES; left > 0; left--) {
      const entry = reader.take(VirtioBalloonStat.bytes);
      if (entry.length < VirtioBalloonStat.bytes) break;
      const { tag, val } = VirtioBalloonStat.decode(entry);
      // @clause virtio.balloon.dev.unknown-stat-tags-skipped
      // @clause virtio.balloon.dev.stat-order-accepted
      const name = statName(tag);
      if (name !== undefined) latest[name] = val;
    }
    this.#again();
    if (this.#ignoreNext) {
      this.#ignoreNext = false;
      return;
    }
    this.latest = latest;
    this.updated = this.#clock?.now() ?? null;
    this.onUpdate();
  }

  // ## Asking

  /** Asks. False when the driver has left no buffer: it has not begun, or is still busy with the last question. */
  request(): boolean {
    const buffer = this.#buffer;
    if (!buffer || !this.#queue?.ring) return false;
    this.#buffer = null;
    this.#queue.push(buffer, 0);
    this.#queue.notify();
    return true;
  }

  /** Asks at intervals, each time that long after the last answer; with 0, no more. Nothing happens without a clock. */
  poll(intervalMs: number): void {
    this.#intervalNs = intervalMs * 1e6;
    this.#poll?.cancel();
    if (intervalMs > 0) this.#due();
  }

  // The driver's buffer is known by its id, and its contents are not looked at again: what they said is in `latest`.

  static readonly STATE = describe<BalloonStatistics>('balloon statistics', 1, {
    latest: field(
      kind.list(kind.record<{ name: string; value: bigint }>({ name: kind.text(64), value: kind.u64 }), 64),
      ({ latest }) => Object.entries(latest).map(([name, value]) => ({ name, value })),
      (statistics, entries) => {
        statistics.latest = Object.fromEntries(entries.map(({ name, value }) => [name, value]));
      },
    ),
    updated: {
      text: 'a moment, or never',
      save: ({ updated }, out) => kind.maybe(kind.safe).write(out, updated),
      load(statistics, from) {
        const updated = kind.maybe(kind.safe).read(from);
        return ({ shift }) => {
          statistics.updated = updated === null ? null : updated + shift;
        };
      },
    },
    asking: field(
      kind.record({ intervalNs: kind.safe, ignoreNext: kind.flag }),
      (s) => ({ intervalNs: s.#intervalNs, ignoreNext: s.#ignoreNext }),
      (s, v) => {
        ({ intervalNs: s.#intervalNs, ignoreNext: s.#ignoreNext } = v);
      },
    ),
    queue: queueField(
      (statistics) => statistics.device,
      (statistics) => statistics.#queue,
      (statistics, queue) => {
        statistics.#queue = queue;
      },
    ),
    buffer: field(
      kind.maybe(kind.u16),
      (statistics) => statistics.#buffer?.id ?? null,
      (statistics, id) => {
        statistics.#buffer = id === null ? null : (statistics.#queue?.retake(id) ?? null);
      },
    ),
    poll: timer((statistics) => statistics.#poll),
    later: timer((statistics) => statistics.#later),
  });

  #due(): void {
    if (!this.request()) this.#again();
  }

  #again(): void {
    if (this.#intervalNs > 0 && this.#clock) this.#poll?.arm(this.#clock.now() + this.#intervalNs);
  }
}
