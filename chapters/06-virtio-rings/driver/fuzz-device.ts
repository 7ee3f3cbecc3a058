// # A hostile device
//
// The mirror image of the hostile driver. Here the driver is good and everything that the device says is not: used entries that name what was never
// exposed, or the same twice; indices that jump; lengths beyond every buffer; flags and events at random, descriptors overwritten; registers and
// configuration that are different each time they are read. Enough of it is nearly right that the driver gets past its first checks.
//
// What must hold: nothing is thrown; every call ends; a buffer comes back at most once, with no more bytes than it has; a queue that was taken apart
// gives the rest back, and all its memory; the driver writes nowhere but into its own rings.

import { Errno } from '../../02-kvm-objects/errno.ts';
import { Random } from '../../04-memory-virtualization/random.ts';
import { type DmaBuffer, MemoryArena } from './bus.ts';
import { makeVirtqueue } from './make-virtqueue.ts';
import type { QueueFeatures, Virtqueue } from './virtqueue.ts';

const BASE = 0x1_0000_0000;
const ARENA_BYTES = 1 << 19;
const BUFFERS = 24;
const BUFFER_BYTES = 16;

/** What a run has seen. */
export interface HostileReport {
  readonly steps: number;
  readonly complaints: readonly string[];
  readonly did: Readonly<Record<string, number>>;
}

interface Exposed {
  readonly serial: number;
  readonly writable: number;
}

/** One good driver against one bad device, on one queue at a time. */
export class HostileQueue {
  readonly #random: Random;
  readonly #arena: MemoryArena;
  readonly #memory: Uint8Array;
  readonly #buffers: DmaBuffer[];
  readonly #freeBytes: number;
  readonly #complaints: string[] = [];
  readonly #did: Record<string, number> = {};
  readonly #out = new Map<number, Exposed>();
  #features: QueueFeatures;
  #queue: Virtqueue<Exposed>;
  #serial = 0;
  #steps = 0;
  #hint = 0; // where an honest device would go on
  #lies = 0; // how likely; some devices behave for long before they do not

  constructor(seed: number) {
    this.#random = new Random(seed);
    this.#memory = new Uint8Array(ARENA_BYTES);
    this.#arena = new MemoryArena(this.#memory, BASE);
    this.#buffers = Array.from({ length: BUFFERS }, (_, index) => {
      const buffer = this.#arena.allocate(BUFFER_BYTES);
      buffer.bytes.fill(0xc0 + index);
      return buffer;
    });
    this.#freeBytes = this.#arena.freeBytes;
    this.#features = this.#anyFeatures();
    this.#queue = this.#make();
  }

  #anyFeatures(): QueueFeatures {
    const coin = (): boolean => this.#random.chance(0.5);
    return { packed: coin(), indirect: coin(), eventIdx: coin(), inOrder: coin() };
  }

  #make(): Virtqueue<Exposed> {
    this.#features = this.#anyFeatures();
    this.#hint = 0;
    this.#lies = this.#random.pick([0.01, 0.1, 0.6]);
    const { packed } = this.#features;
    const size = packed ? 1 + this.#random.below(40) : 2 ** this.#random.below(7);
    const legacy = !packed && this.#random.chance(0.2);
    return makeVirtqueue<Exposed>({
      index: 0,
      size,
      maxSize: 64,
      memory: this.#arena,
      features: this.#features,
      hooks: { notify: () => this.#random.chance(0.999), stop: () => this.#random.chance(0.8), start: () => this.#random.chance(0.8) },
      ...(legacy && { legacyAlign: 4096 }),
    });
  }

  #count(what: string): void {
    this.#did[what] = (this.#did[what] ?? 0) + 1;
  }

  get report(): HostileReport {
    return { steps: this.#steps, complaints: this.#complaints, did: this.#did };
  }

  #complain(what: string): void {
    if (this.#complaints.length < 10) this.#complaints.push(`step ${this.#steps}: ${what}`);
  }

  run(steps: number): void {
    for (let n = 0; n < steps; n++, this.#steps++) {
      try {
        if (this.#random.chance(0.5)) this.#drive();
        else this.#misbehave();
      } catch (error) {
        this.#complain(`thrown: ${error instanceof Error ? (error.stack ?? error.message) : error}`);
        this.#rebuild();
      }
      const { numFree, size, outstanding } = this.#queue;
      if (numFree < 0 || numFree > size || outstanding < 0 || outstanding > size)
        this.#complain(`${numFree} free, ${outstanding} in flight of ${size}`);
      if (this.#queue.isBroken) {
        this.#count('broken');
        this.#rebuild();
      }
      if (this.#steps % 4096 === 0) this.#checkBuffers();
    }
  }

  // ## The driver

  #drive(): void {
    const queue = this.#queue;
    switch (this.#random.below(10)) {
      case 0:
      case 1:
      case 2:
        this.#add();
        return;
      case 3:
      case 4:
      case 5:
        this.#collect(1 + this.#random.below(4));
        return;
      case 6:
        queue.kick();
        return;
      case 7:
        this.#random.pick([() => queue.disableCb(), () => queue.enableCb(), () => queue.enableCbDelayed()])();
        return;
      case 8: {
        queue.callback = () => queue.reap((token, len) => this.#returned(token, len));
        queue.interrupt();
        return;
      }
      default:
        if (this.#random.chance(0.05)) this.#resize();
        else void queue.notificationData;
    }
  }

  #add(): void {
    const { size } = this.#queue;
    const total = 1 + this.#random.below(Math.min(size, 6));
    const out = this.#random.below(total + 1);
    const sgs = Array.from({ length: total }, () => this.#random.pick(this.#buffers));
    const token = { serial: this.#serial++, writable: (total - out) * BUFFER_BYTES };
    const result = this.#queue.addSgs(sgs, out, total - out, token);
    if (result === 0) this.#out.set(token.serial, token);
    this.#count(result === 0 ? 'added' : 'full');
  }

  #collect(most: number): void {
    for (let n = 0; n < most; n++) {
      const got = this.#queue.getBuf();
      if (!got) return;
      this.#returned(got.token, got.len);
    }
  }

  #returned(token: Exposed, len: number): void {
    this.#count('returned');
    if (!this.#out.delete(token.serial)) this.#complain(`buffer ${token.serial} came back twice, or was never exposed`);
    if (!(len >= 0 && len <= token.writable)) this.#complain(`buffer ${token.serial} came back with ${len} of ${token.writable} bytes`);
  }

  #resize(): void {
    const size = this.#features.packed ? 1 + this.#random.below(40) : 2 ** this.#random.below(6);
    this.#hint = 0;
    try {
      this.#queue.resize(size, (token) => this.#returned(token, 0));
      this.#count('resized');
    } catch (error) {
      if (!(error instanceof Errno) || error.code !== 'EIO') throw error;
    }
  }

  /** Takes the queue apart and makes another. */
  #rebuild(): void {
    this.#queue.quiesce();
    for (let token = this.#queue.detachUnusedBuf(); token; token = this.#queue.detachUnusedBuf()) this.#returned(token, 0);
    if (this.#out.size > 0) this.#complain(`${this.#out.size} buffers were lost`);
    this.#out.clear();
    this.#queue.destroy();
    if (this.#arena.freeBytes !== this.#freeBytes) this.#complain(`${this.#freeBytes - this.#arena.freeBytes} bytes of memory were lost`);
    this.#queue = this.#make();
  }

  /** What the device may write it is not asked to write here, so all buffers are as they were: anything else was the driver. */
  #checkBuffers(): void {
    for (const [index, { bytes }] of this.#buffers.entries())
      if (bytes.some((byte) => byte !== 0xc0 + index)) this.#complain(`buffer ${index} was written to`);
  }

  // ## The device

  #misbehave(): void {
    const { size, desc, driver, device } = this.#queue.areas;
    const view = new DataView(this.#memory.buffer);
    const random = this.#random;
    const at = { desc: desc - BASE, driver: driver - BASE, device: device - BASE };
    const value = (): number => {
      const kind = random.below(4);
      return kind === 0 ? random.below(size) : kind === 1 ? random.below(4) : kind === 2 ? 0xffff - random.below(3) : random.below(0x1_0000);
    };
    if (!random.chance(this.#lies)) {
      this.#serve(view, at);
      return;
    }
    this.#count('mischief');
    if (this.#features.packed) {
      const slot = at.desc + 16 * random.below(size);
      const kind = random.below(6);
      if (kind === 0) view.setUint16(slot + 14, random.pick([0, 0x80, 0x8000, 0x8080, value()]), true);
      else if (kind === 1) view.setUint16(slot + 12, value(), true);
      else if (kind === 2) view.setUint32(slot + 8, random.next(), true);
      else if (kind === 3) view.setUint32(slot + 4 * random.below(2), random.next(), true);
      else view.setUint16(at.device + 2 * random.below(2), random.chance(0.5) ? random.below(3) : value(), true);
      return;
    }
    const kind = random.below(7);
    if (kind === 0) view.setUint16(at.device + 2, random.chance(0.7) ? view.getUint16(at.device + 2, true) + random.below(3) : value(), true);
    else if (kind === 1) view.setUint32(at.device + 4 + 8 * random.below(size), random.chance(0.8) ? value() : random.next(), true);
    else if (kind === 2) view.setUint32(at.device + 8 + 8 * random.below(size), random.next(), true);
    else if (kind === 3) view.setUint16(at.device, random.below(4), true);
    else if (kind === 4) view.setUint16(at.device + 4 + 8 * size, value(), true);
    else if (kind === 5) view.setUint32(at.desc + 4 * random.below(4 * size), random.next(), true);
    else view.setUint16(at.driver + 2 * random.below(3 + size), value(), true);
  }

  /** Gives a buffer back as a good device would, or nearly. */
  #serve(view: DataView, at: { readonly desc: number; readonly driver: number; readonly device: number }): void {
    const random = this.#random;
    const { size } = this.#queue;
    this.#count('served');
    const len = !random.chance(this.#lies / 10) ? (random.chance(0.5) ? 0 : random.below(17)) : random.next();
    if (this.#features.packed) {
      const index = this.#hint % size;
      const wrap = Math.floor(this.#hint / size) % 2 === 0;
      const slot = at.desc + 16 * index;
      const flags = view.getUint16(slot + 14, true);
      const available = ((flags & 0x80) !== 0) === wrap && ((flags & 0x8000) !== 0) !== wrap;
      if (!available && !random.chance(this.#lies / 20)) return;
      // As many descriptors as the chain has.
      let length = 1;
      for (let next = slot; length < size && view.getUint16(next + 14, true) & 1 && !(flags & 4); length++)
        next = at.desc + 16 * ((this.#hint + length) % size);
      view.setUint32(slot + 8, len, true);
      view.setUint16(slot + 14, wrap ? 0x8080 : 0, true);
      this.#hint += random.chance(this.#lies / 20) ? 1 : length;
      return;
    }
    const used = view.getUint16(at.device + 2, true);
    const avail = view.getUint16(at.driver + 2, true);
    if (used === avail && !random.chance(this.#lies / 20)) return;
    const head = view.getUint16(at.driver + 4 + 2 * (used % size), true);
    view.setUint32(at.device + 4 + 8 * (used % size), random.chance(this.#lies / 20) ? random.below(2 * size) : head, true);
    view.setUint32(at.device + 8 + 8 * (used % size), len, true);
    view.setUint16(at.device + 2, used + 1, true);
  }
}
