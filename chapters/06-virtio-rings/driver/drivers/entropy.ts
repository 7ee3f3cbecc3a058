// # A driver of thirty lines: entropy
//
// One queue, no features, no configuration. An empty buffer goes in and comes back with random bytes, or with some: how many, only the length in the
// ring says, for what lies behind it is whatever was there before.

import { DEVICE_ID } from '../../features.ts';
import type { DmaBuffer } from '../bus.ts';
import type { DeviceHandle } from '../virtio-device.ts';
import type { VirtioDriver } from '../virtio-driver.ts';
import type { Virtqueue } from '../virtqueue.ts';

/** Bytes that are asked for at a time. */
const ASK_BYTES = 64;

/** What Linux calls a `hwrng`. */
export class EntropySource {
  readonly #device: DeviceHandle;
  readonly #queue: Virtqueue<DmaBuffer>;
  readonly #buffer: DmaBuffer;

  /** @throws Errno */
  constructor(device: DeviceHandle) {
    this.#device = device;
    // @clause virtio.entropy.dri.request-queue-holds-only-device
    const [queue] = device.findVqs<DmaBuffer>([{ name: 'input', size: 8 }]);
    this.#queue = queue as Virtqueue<DmaBuffer>;
    this.#buffer = device.dma.allocate(ASK_BYTES);
  }

  /** Fills `into` and returns how much of it: less when the device gives none, or is lost. */
  read(into: Uint8Array): number {
    let done = 0;
    while (done < into.length) {
      const buffer = { address: this.#buffer.address, bytes: this.#buffer.bytes.subarray(0, Math.min(ASK_BYTES, into.length - done)) };
      // A buffer that was not answered in time is still with the device: then there is nothing to be had now.
      if (this.#queue.outstanding === 0 && this.#queue.addInbuf([buffer], buffer) !== 0) break;
      this.#queue.kick();
      if (!this.#device.waitUsed(this.#queue)) break;
      const got = this.#queue.getBuf();
      // @clause virtio.entropy.dri.used-length-tells-how-many
      const len = Math.min(got?.len ?? 0, into.length - done);
      if (!got || len === 0) break;
      into.set(got.token.bytes.subarray(0, len), done);
      done += len;
    }
    return done;
  }
}

/** The driver; `found` gets each source that works. */
export const entropyDriver = (found: (source: EntropySource) => void): VirtioDriver => ({
  name: 'virtio_rng',
  idTable: [{ device: DEVICE_ID.ENTROPY }],
  featureTable: [],
  probe(device) {
    device.private = new EntropySource(device);
  },
  scan: (device) => found(device.private as EntropySource),
});
