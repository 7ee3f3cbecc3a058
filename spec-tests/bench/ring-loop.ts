// # Both ends of a ring, as fast as they can
//
// What rings.c does, done with this book's driver and this book's device: buffers of one descriptor, a serial number in each, and a sum that tells whether
// every one came home once and with what the device wrote. The two ends share an array of bytes and nothing else, so they can be one thread or two.

import { type DmaBuffer, MemoryArena } from '../../chapters/06-virtio-rings/driver/bus.ts';
import { makeVirtqueue } from '../../chapters/06-virtio-rings/driver/make-virtqueue.ts';
import type { QueueAreas, QueueFeatures, Virtqueue } from '../../chapters/06-virtio-rings/driver/virtqueue.ts';
import { FlatMemory } from '../../chapters/06-virtio-rings/memory.ts';
import type { DeviceRing } from '../../chapters/06-virtio-rings/queue.ts';
import { makeRing } from '../../chapters/06-virtio-rings/rings/make-ring.ts';
import { processorSeconds } from './figures.ts';

export const QUEUE_SIZE = 256;
/** For each descriptor: itself, its places in the two rings, a piece, a table of its own. */
const BYTES_PER_DESCRIPTOR = 1 << 12;
const BASE = 0x1_0000_0000;
const PIECE_BYTES = 64;

/** What a run is about. */
export interface RingShape {
  readonly packed: boolean;
  readonly size?: number;
  /** Pieces of each buffer. */
  readonly pieces?: number;
  readonly indirect?: boolean;
  readonly eventIdx?: boolean;
  readonly inOrder?: boolean;
}

const featuresOf = ({ packed, indirect = false, eventIdx = false, inOrder = false }: RingShape): QueueFeatures => ({
  packed,
  indirect,
  eventIdx,
  inOrder,
});

/** Memory for one ring and the buffers in it; shared, if the ends are to be two threads. */
export const ringMemory = <T extends ArrayBufferLike>(Buffer: new (bytes: number) => T, { size = QUEUE_SIZE }: RingShape): T =>
  new Buffer(size * BYTES_PER_DESCRIPTOR);

/** The driver, and the pieces of its buffers. */
export class DriverEnd {
  readonly queue: Virtqueue<readonly DmaBuffer[]>;
  readonly #words: Uint32Array;
  readonly #free: (readonly DmaBuffer[])[] = [];
  /** Of the serial numbers that came home, modulo 2^32. */
  sum = 0;

  constructor(buffer: ArrayBufferLike, shape: RingShape) {
    const { size = QUEUE_SIZE, pieces = 1, indirect = false } = shape;
    const arena = new MemoryArena(new Uint8Array(buffer), BASE);
    this.#words = new Uint32Array(buffer);
    this.queue = makeVirtqueue({ index: 0, size, memory: arena, features: featuresOf(shape), hooks: { notify: () => true } });
    const room = indirect ? size : Math.floor(size / pieces);
    for (let n = 0; n < room; n++) this.#free.push(Array.from({ length: pieces }, () => arena.allocate(PIECE_BYTES)));
  }

  get areas(): QueueAreas {
    return this.queue.areas;
  }

  /** Gives the device buffers while there is room, at most `most`. */
  give(most: number): number {
    let count = 0;
    while (count < most) {
      const sgs = this.#free.pop();
      if (!sgs) break;
      this.queue.addInbuf(sgs, sgs);
      count++;
    }
    return count;
  }

  /** Takes home what has come back. */
  take(): number {
    let count = 0;
    for (let got = this.queue.getBuf(); got; got = this.queue.getBuf()) {
      const [{ address }] = got.token as readonly [DmaBuffer];
      this.sum = (this.sum + (this.#words[(address - BASE) / 4] as number)) >>> 0;
      this.#free.push(got.token);
      count++;
    }
    return count;
  }
}

/** The device: a serial number into each buffer. */
export class DeviceEnd {
  readonly ring: DeviceRing;
  #serial = 0;

  constructor(buffer: ArrayBufferLike, areas: QueueAreas, shape: RingShape) {
    const ring = makeRing(new FlatMemory(new Uint8Array(buffer), BASE), areas, featuresOf(shape));
    if (typeof ring === 'string') throw new Error(ring);
    this.ring = ring;
  }

  /** Serves what is there. */
  serve(): number {
    const { ring } = this;
    let count = 0;
    for (let chain = ring.pop(); chain; chain = ring.pop()) {
      const into = chain.writable[0] as Uint8Array;
      const serial = this.#serial++;
      into[0] = serial;
      into[1] = serial >>> 8;
      into[2] = serial >>> 16;
      into[3] = serial >>> 24;
      ring.push(chain, chain.writableBytes);
      count++;
    }
    if (ring.broken !== null) throw new Error(ring.broken);
    return count;
  }
}

/** Sum of the serial numbers below `count`, modulo 2^32. @throws Error when it is not `sum` */
export function checkSum(count: number, sum: number): void {
  const whole = (BigInt(count) * BigInt(count - 1)) / 2n;
  if (sum !== Number(BigInt.asUintN(32, whole))) throw new Error(`the numbers of ${count} buffers do not add up`);
}

/** So many buffers there and back, the two ends taking turns; in seconds of the processor. */
export class OneThread {
  readonly #driver: DriverEnd;
  readonly #device: DeviceEnd;
  #done = 0;

  constructor(shape: RingShape) {
    const buffer = ringMemory(ArrayBuffer, shape);
    this.#driver = new DriverEnd(buffer, shape);
    this.#device = new DeviceEnd(buffer, this.#driver.areas, shape);
  }

  run(buffers: number): number {
    const [driver, device] = [this.#driver, this.#device];
    const took = processorSeconds(() => {
      for (let given = 0, home = 0; home < buffers; ) {
        given += driver.give(buffers - given);
        device.serve();
        home += driver.take();
      }
    });
    this.#done += buffers;
    checkSum(this.#done, driver.sum);
    return took;
  }
}
