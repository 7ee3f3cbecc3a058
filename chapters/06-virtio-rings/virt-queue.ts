// # A queue, between driver and model
//
// The driver says where a queue is and how long, through registers; from then on the two sides speak by memory. What stands between them is this: the
// registers' values, and the device's end of the ring while there is one that may be used. A model holds a `VirtQueue` for its whole life, whatever
// becomes of the ring.

import { array, describe, field, kind, StateError } from '../03-vcpu-loop/devices/state.ts';
import type { VirtioDevice } from './device.ts';
import { F } from './features.ts';
import { type Chain, type DeviceRing, RING_STATE, type RingPosition, type RingState } from './queue.ts';

/** The driver's registers that say where a queue is, and the device's end of it once it is enabled. */
export class VirtQueue {
  readonly index: number;
  readonly maxSize: number;
  readonly #device: VirtioDevice;
  /** The driver's choice, at most {@link maxSize}. */
  size: number;
  enabled = false;
  /** Addresses of the three areas, as the driver wrote them: low and high halves of desc, driver and device. */
  readonly areas = new Uint32Array(6);
  /** The transport's: which interrupt vector. */
  vector = 0xffff;
  /** What came with the last kick, with NOTIFICATION_DATA: the place in the ring up to which buffers are available. */
  kickData = 0;
  #ring: DeviceRing | null = null;

  constructor(device: VirtioDevice, index: number, maxSize: number) {
    this.#device = device;
    this.index = index;
    this.maxSize = maxSize;
    this.size = maxSize;
  }

  /** The ring, while there is one that may be used at this moment. */
  get ring(): DeviceRing | null {
    return this.#device.awake && this.#device.reachesMemory ? this.#ring : null;
  }

  /** Where each side is, of a ring that exists, used or not. */
  get position(): RingPosition | null {
    return this.#ring?.position ?? null;
  }

  // @clause virtio.pci.dev.split-ring-queue-size-0
  /** The driver's choice of a size. One that no ring can have changes nothing. */
  setSize(size: number): void {
    if (this.enabled || size === 0 || size > this.maxSize) return;
    if (!this.#device.has(F.RING_PACKED) && (size & (size - 1)) !== 0) return;
    this.size = size;
  }

  /** One half of an address, by its place in {@link areas}. */
  setArea(half: number, value: number): void {
    if (!this.enabled) this.areas[half] = value;
  }

  /** The driver has said where everything is. A place that is no memory is the driver's error, and ends the device. */
  enable(): void {
    if (this.enabled || this.maxSize === 0 || !this.#device.featuresAgreed) return;
    this.enabled = true;
    this.prepare();
    this.#device.notifier.queueChanged?.(this.index);
  }

  // A ring is made when the features are known that decide how it is read. That is when the queue is enabled, since FEATURES_OK was before it. A
  // legacy driver gives no such sign, so there the ring waits until the device is used.

  /** @internal Makes the ring of an enabled queue, if it has none and can have one. */
  prepare(): void {
    if (!this.enabled || this.#ring || (this.#device.legacy && !this.#device.live)) return;
    const ring = this.#make();
    if (typeof ring === 'string') this.#device.fail(`queue ${this.index}: ${ring}`);
    else this.#ring = ring;
  }
  #make(): DeviceRing | string {
    const address = (half: number): number => (this.areas[half] as number) + (this.areas[half + 1] as number) * 2 ** 32;
    return this.#device.makeRing({ size: this.size, desc: address(0), driver: address(2), device: address(4) });
  }

  #goOn(state: RingState | null): void {
    this.#ring = null;
    if (state === null) return;
    const ring = this.size > this.maxSize ? `a size of ${this.size}` : this.#device.whateverItReaches(() => this.#make());
    if (typeof ring === 'string') throw new StateError(`queue ${this.index}: ${ring}`);
    ring.goOn(state);
    this.#ring = ring;
  }

  /** A chain that was held when the ring was saved. @throws StateError when it is not there */
  retake(id: number): Chain {
    const chain = this.#device.whateverItReaches(() => this.#ring?.retake(id) ?? null);
    if (!chain) throw new StateError(`queue ${this.index}: chain ${id} is not there`);
    return chain;
  }

  /** The driver takes the queue back, and leaves its registers as they are. */
  disable(): void {
    if (!this.enabled) return;
    this.#ring = null;
    this.enabled = false;
    this.#device.notifier.queueChanged?.(this.index);
  }

  // @clause virtio.queue-reset.dev.queue-reset-returns-available-used
  /** Everything as it was before the driver touched it. */
  reset(): void {
    this.disable();
    this.size = this.maxSize;
    this.areas.fill(0);
    this.vector = 0xffff;
    this.kickData = 0;
  }

  // @clause virtio.status.dev.before-driver-ok-no-buffer
  /** The next chain; null when there is none, or the device may not look. */
  pop(): Chain | null {
    const { ring } = this;
    if (!ring || !this.#device.running) return null;
    const chain = ring.pop();
    if (ring.broken !== null) {
      this.#device.fail(`queue ${this.index}: ${ring.broken}`);
      return null;
    }
    if (chain)
      this.#device.trace?.emit({
        kind: 'virtqueue_pop',
        device: this.#device.name,
        queue: this.index,
        id: chain.id,
        out: chain.readableBytes,
        in: chain.writableBytes,
      });
    return chain;
  }

  /** Gives a chain back. The driver learns of it by {@link notify}. */
  push(chain: Chain, written: number): void {
    const { ring } = this;
    if (!ring) return;
    ring.push(chain, written);
    this.#device.trace?.emit({ kind: 'virtqueue_fill', device: this.#device.name, queue: this.index, id: chain.id, written });
  }

  /** A used buffer notification, if the driver wants one. */
  notify(): void {
    if (this.ring?.shouldNotify()) this.#device.notifyUsed(this.index);
  }

  // The driver may be on another processor and fill the ring as fast as it is emptied, so a device leaves after one round, not having seen the ring empty.
  // It then says where it wants to be woken, and looks; the driver stores what is new, and looks whether it has to wake somebody. One of them sees the other.

  /**
   * Does with each waiting chain what `use` says, which is how many bytes it has written; then notifies once. Without end it never runs: at most one
   * round of the ring. True: there is more, for which nobody will kick; the caller comes back when others have had their turn.
   */
  serve(use: (chain: Chain) => number): boolean {
    let left = this.size;
    for (; left > 0; left--) {
      const chain = this.pop();
      if (!chain) break;
      this.push(chain, use(chain));
    }
    this.notify();
    return left === 0 && (this.ring?.enableKicks() ?? false);
  }

  static readonly STATE = describe<VirtQueue>('virtqueue', 1, {
    registers: field(
      kind.record({ size: kind.upTo(0x8000), enabled: kind.flag, vector: kind.u16, kickData: kind.u32 }),
      ({ size, enabled, vector, kickData }) => ({ size, enabled, vector, kickData }),
      (queue, v) => void Object.assign(queue, v),
    ),
    areas: array((queue) => queue.areas, kind.u32),
    ring: field(
      kind.maybe(RING_STATE),
      (queue) => queue.#ring?.state ?? null,
      (queue, state) => queue.#goOn(state),
    ),
  });
}

/** A field of a model: which of the device's queues it serves, or none. */
export const queueField = <O>(
  device: (model: O) => VirtioDevice | null,
  get: (model: O) => VirtQueue | null,
  set: (model: O, queue: VirtQueue | null) => void,
): ReturnType<typeof field<O, number | null>> =>
  field<O, number | null>(
    kind.maybe(kind.u16),
    (model) => get(model)?.index ?? null,
    (model, index) => set(model, index === null ? null : (device(model)?.queues[index] ?? null)),
  );
