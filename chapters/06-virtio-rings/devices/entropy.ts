// # The entropy device
//
// A virtual machine is short of surprises. It has no disk whose arm wavers and no keys that somebody presses; two guests started from one image would
// draw the same "random" numbers, and the first thing many of them do is make a key. The host has randomness. The entropy device is a pipe from
// there: the driver puts empty buffers into its only queue, and they come back with random bytes in them. No configuration, no features, nothing to
// read from the driver. It is the smallest device there is, and so the first one in which the whole of virtio can be seen at work.
//
// The naive version is one line: for each buffer, fill it. Two things are wrong with it. The host's source may have *less* than was asked for. Then a
// shorter answer is right, one byte suffices, but an answer of no bytes never is: Linux' `virtio-rng.c` takes every completion for news and would ask
// again at once. So the device keeps the buffer until it has something. And the host may not want to give away as much as a guest can ask for. QEMU's
// `hw/virtio/virtio-rng.c` has the properties `max-bytes` and `period` for that, which is what the quota below is.

import type { Clock, Timer } from '../../02-kvm-objects/clock.ts';
import { ERRNO, Errno } from '../../02-kvm-objects/errno.ts';
import { array, describe, field, kind, type SavedPart, savedPart, timer } from '../../03-vcpu-loop/devices/state.ts';
import type { DeviceModel, VirtioDevice } from '../device.ts';
import { DEVICE_ID } from '../features.ts';
import type { Chain } from '../queue.ts';
import { queueField, type VirtQueue } from '../virt-queue.ts';
import { NO_CONFIG } from './config-fields.ts';
import { hostSource, type RandomSource, seededSource } from './random.ts';

interface EntropyOptions {
  /** How it is called in traces. */
  readonly name?: string;
  /** Where the bytes come from; `host` is the host's generator. When absent, one that starts from `seed`. */
  readonly source?: RandomSource | 'host';
  readonly seed?: number;
  /** At most this many bytes in a period; no bound when absent. */
  readonly maxBytes?: number;
  /** The period, in milliseconds. */
  readonly periodMs?: number;
  /** Needed for a bound. */
  readonly clock?: Clock;
  readonly queueSize?: number;
}

/** QEMU's defaults. */
const ENTROPY_DEFAULTS = { queueSize: 8, periodMs: 1 << 16, seed: 1 } as const;

/** One buffer gets this much at most, though it may be larger: the source belongs to others too. */
const FILL_BYTES = 1 << 16;

export class EntropyModel implements DeviceModel {
  readonly name: string;
  readonly deviceId = DEVICE_ID.ENTROPY;
  readonly features = 0n;
  readonly queueSizes: readonly number[];
  readonly config = NO_CONFIG;
  readonly #source: RandomSource;
  readonly #maxBytes: number;
  readonly #periodNs: number;
  readonly #clock: Clock | null;
  readonly #period: Timer | null;
  readonly #later: Timer | null;
  #quota: number;
  #device: VirtioDevice | null = null;
  #queue: VirtQueue | null = null;
  /** A buffer that was taken when there was nothing to put into it. */
  #waiting: Chain | null = null;

  /** @throws Errno EINVAL for a bound without a clock, or one that is no number of bytes in a time */
  constructor(options: EntropyOptions = {}) {
    const { source, seed = ENTROPY_DEFAULTS.seed, maxBytes = Number.POSITIVE_INFINITY, periodMs = ENTROPY_DEFAULTS.periodMs, clock = null } = options;
    if (!(maxBytes >= 0) || !(periodMs > 0)) throw new Errno('entropy', ERRNO.EINVAL, `${maxBytes} bytes in ${periodMs} ms`);
    if (Number.isFinite(maxBytes) && !clock) throw new Errno('entropy', ERRNO.EINVAL, 'a bound in time needs a clock');
    this.name = options.name ?? 'virtio-rng';
    this.queueSizes = [options.queueSize ?? ENTROPY_DEFAULTS.queueSize];
    this.#source = source === 'host' ? hostSource : (source ?? seededSource(seed));
    this.#source.onReady?.(() => this.#serve());
    this.#quota = this.#maxBytes = maxBytes;
    this.#periodNs = periodMs * 1e6;
    this.#clock = clock;
    this.#period = clock?.timer(() => this.#newPeriod()) ?? null;
    this.#later = clock?.timer(() => this.#serve()) ?? null;
  }

  attach(device: VirtioDevice): void {
    this.#device = device;
  }

  available(queue: VirtQueue): void {
    this.#queue = queue;
    this.#serve();
  }

  // A reset takes the driver's buffers away. It does not touch the quota: that is a limit which the host has set, and a guest that could lift it by
  // resetting the device would not be limited. Nor does it restart the generator.

  reset(): void {
    this.#queue = null;
    this.#waiting = null;
  }

  queueReset(): void {
    this.reset();
  }

  // ## Serving
  //
  // A buffer is taken only once there may be something to put into it, so that what the driver sees of an exhausted device is a queue that nobody has
  // touched. Should the source turn out to be dry, the one buffer already taken stays here. It is answered first when there is more: a device may
  // return buffers in any order, but one that has negotiated IN_ORDER has promised otherwise.
  //
  // Each visit ends after one round of the ring. A driver on another processor could otherwise return each buffer as fast as it is filled and keep
  // the device for ever. Whoever turns away like this asks to be kicked again, and comes back by itself if there is something already.

  #serve(): void {
    const queue = this.#queue;
    if (!queue?.ring) return;
    let pushed = false;
    let left = queue.size;
    for (; left > 0 && this.#quota > 0; left--) {
      const chain = this.#waiting ?? queue.pop();
      if (!chain) break;
      const written = this.#fill(chain);
      // @clause virtio.entropy.dev.buffer-gets-least-one-random
      if (written === 0 && chain.writableBytes > 0) {
        this.#waiting = chain;
        break;
      }
      this.#waiting = null;
      queue.push(chain, written);
      pushed = true;
    }
    if (pushed) queue.notify();
    if (left === 0 && queue.ring?.enableKicks()) this.#later?.arm(0);
  }

  // What the driver wants the device to *read* has no business in this queue. It is not looked at, and the writable part is served as ever; a chain
  // without one comes back with a length of zero, which is how much was written into it.

  /** Random bytes into the buffer, from its start. Returns how many. */
  #fill(chain: Chain): number {
    let written = 0;
    // @clause virtio.entropy.dev.partial-buffer-fill-legal
    for (const piece of chain.writable) {
      const wanted = Math.min(piece.length, this.#quota, FILL_BYTES - written);
      const got = wanted === 0 ? 0 : Math.min(this.#source.read(wanted === piece.length ? piece : piece.subarray(0, wanted)), wanted);
      written += got;
      this.#spend(got);
      if (got < piece.length) break;
    }
    return written;
  }

  // ## The quota
  //
  // A period begins with the first bytes that are given in it, not when the device was made: a guest that asks rarely is never in the middle of
  // somebody else's period.

  #spend(bytes: number): void {
    if (bytes === 0 || !Number.isFinite(this.#maxBytes)) return;
    this.#quota -= bytes;
    if (this.#period?.at === null) this.#period.arm((this.#clock as Clock).now() + this.#periodNs);
  }

  #newPeriod(): void {
    this.#quota = this.#maxBytes;
    this.#serve();
  }

  get busyNow(): string | null {
    return this.#waiting ? `${this.name} waits for random bytes` : null;
  }

  // A generator that starts from a seed goes on where it was. The host's has no state that anybody could know.

  static readonly STATE = describe<EntropyModel>('entropy', 1, {
    words: array((model) => model.#source.words ?? []),
    quota: field(
      kind.maybe(kind.safe),
      (model) => (Number.isFinite(model.#quota) ? model.#quota : null),
      (model, quota) => {
        model.#quota = quota ?? Number.POSITIVE_INFINITY;
      },
    ),
    queue: queueField(
      (model) => model.#device,
      (model) => model.#queue,
      (model, queue) => {
        model.#queue = queue;
      },
    ),
    period: timer((model) => model.#period),
    later: timer((model) => model.#later),
  });

  savedParts(name: string): SavedPart[] {
    return [savedPart<EntropyModel>(name, this, EntropyModel.STATE)];
  }
}
