// Test equipment: not a part of the book.

import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import { type DeviceModel, VirtioDevice } from '../device.ts';
import { F, features as featureSet, STATUS } from '../features.ts';
import { FlatMemory } from '../memory.ts';
import type { Chain, DeviceRing } from '../queue.ts';

export const RAM_BYTES = 1 << 20;

/** A chain that the test, as the driver, has made available. */
export interface Request {
  readonly chain: Chain;
  /** Bytes said to be written, once the device has given it back. */
  used: number | null;
  /** What is in the writable part, in one piece; only what was written, once it is used. */
  answer(): Uint8Array;
}

/** A ring without a format: the driver's end is {@link Rig.add}. What no format can show (a chain that nobody took coming back) throws. */
class PlainRing implements DeviceRing {
  readonly size: number;
  readonly broken = null;
  readonly position = { avail: 0, used: 0 };
  readonly state = { ...this.position, seen: 0, moved: 0, kicks: true, mark: -1, wish: -1, broken: null };
  readonly waiting: Request[] = [];
  readonly taken = new Map<Chain, Request>();
  readonly usedOrder: number[] = [];
  #fresh = false;

  constructor(size: number) {
    this.size = size;
  }
  pop(): Chain | null {
    const request = this.waiting.shift();
    if (!request) return null;
    this.taken.set(request.chain, request);
    return request.chain;
  }
  push(chain: Chain, written: number): void {
    const request = this.taken.get(chain);
    if (!request) throw new Error(`chain ${chain.id} was given back, but is not the device's`);
    if (written > chain.writableBytes) throw new Error(`chain ${chain.id}: ${written} bytes written of ${chain.writableBytes}`);
    this.taken.delete(chain);
    request.used = written;
    this.usedOrder.push(chain.id);
    this.#fresh = true;
  }
  shouldNotify(): boolean {
    const fresh = this.#fresh;
    this.#fresh = false;
    return fresh;
  }
  goOn(): void {}
  retake(): null {
    return null;
  }
  disableKicks(): void {}
  enableKicks(): boolean {
    return this.waiting.length > 0;
  }
}

export const join = (pieces: readonly Uint8Array[]): Uint8Array => {
  const out = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    out.set(piece, at);
    at += piece.length;
  }
  return out;
};

/** Cuts `bytes` into pieces at the given places (taken modulo the length), some of which may be empty. */
export const cut = (bytes: Uint8Array, places: readonly number[]): Uint8Array[] => {
  const at = [0, ...places.map((place) => place % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
  return at.slice(1).map((end, index) => bytes.slice(at[index], end));
};

/** The sizes that such a cut has. */
export const cutSizes = (bytes: number, places: readonly number[]): number[] => cut(new Uint8Array(bytes), places).map((piece) => piece.length);

/** A model with the common part around it, queues without a ring format, and time that passes when it is told to. */
export class Rig<M extends DeviceModel> {
  readonly model: M;
  readonly device: VirtioDevice;
  readonly memory = new FlatMemory(new Uint8Array(RAM_BYTES));
  readonly rings = new Map<number, PlainRing>();
  /** Queues whose driver was notified, in order. */
  readonly notified: number[] = [];
  configChanges = 0;
  now = 0;
  readonly clock: TimerQueue;
  #nextId = 0;
  #nextByte = 0;

  constructor(make: (clock: TimerQueue, rig: Rig<M>) => M, offer = featureSet(F.EVENT_IDX, F.INDIRECT_DESC)) {
    this.clock = new TimerQueue(() => this.now);
    this.model = make(this.clock, this);
    const makeRing = (_memory: unknown, place: { readonly desc: number; readonly size: number }): DeviceRing => {
      const ring = new PlainRing(place.size);
      this.rings.set(place.desc, ring);
      return ring;
    };
    this.device = new VirtioDevice(this.model, { memory: this.memory, makeRing, offer });
    this.device.notifier = { usedBuffer: (queue) => void this.notified.push(queue), configChange: () => void this.configChanges++ };
  }

  /** What a driver does: takes these features (all that are offered, when absent), enables these queues (all), sets DRIVER_OK. */
  start({ features = this.device.offered, queues = this.model.queueSizes.map((_, index) => index), legacy = false, driverOk = true } = {}): this {
    this.device.setStatus(0);
    this.rings.clear();
    this.device.legacy = legacy;
    this.device.setStatus(STATUS.ACKNOWLEDGE);
    this.device.setStatus(STATUS.ACKNOWLEDGE | STATUS.DRIVER);
    this.device.setDriverFeatures(0, Number(features & 0xffff_ffffn));
    if (!legacy) {
      this.device.setDriverFeatures(1, Number((features >> 32n) & 0xffff_ffffn));
      this.device.setStatus(STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK);
      if (!(this.device.status & STATUS.FEATURES_OK)) throw new Error('the device refuses these features');
    }
    for (const index of queues) this.enable(index);
    if (driverOk) this.device.setStatus(this.device.status | STATUS.DRIVER_OK);
    return this;
  }

  /** The queue's number is its place in memory: the plain ring has no other. */
  enable(index: number): void {
    const queue = this.device.queues[index];
    if (!queue) throw new Error(`no queue ${index}`);
    queue.areas[0] = index;
    queue.enable();
  }

  /** Places a chain; `out` are bytes for the device, `inSizes` the sizes of what it may write. The device does not know yet. */
  add(queue: number, out: readonly Uint8Array[], inSizes: readonly number[] = []): Request {
    const place = (size: number): [Uint8Array, number] => {
      if (this.#nextByte + size > RAM_BYTES) this.#nextByte = 0;
      const at = this.#nextByte;
      this.#nextByte += size;
      return [this.memory.bytes.subarray(at, at + size), at];
    };
    const readable = out.map((bytes) => {
      const [piece] = place(bytes.length);
      piece.set(bytes);
      return piece;
    });
    const placed = inSizes.map((size) => place(size));
    for (const [piece] of placed) piece.fill(0xee);
    return this.addPlaced(
      queue,
      readable,
      placed.map(([piece, at]) => [at, piece.length] as const),
    );
  }

  /** The same with writable pieces at addresses of the test's choice. */
  addPlaced(queue: number, readable: readonly Uint8Array[], writableAt: readonly (readonly [number, number])[]): Request {
    const ring = this.rings.get(queue);
    if (!ring) throw new Error(`queue ${queue} is not enabled`);
    const writable = writableAt.map(([at, size]) => this.memory.bytes.subarray(at, at + size));
    const sum = (pieces: readonly Uint8Array[]): number => pieces.reduce((total, piece) => total + piece.length, 0);
    const chain: Chain = {
      id: this.#nextId++,
      readable,
      writable,
      readableBytes: sum(readable),
      writableBytes: sum(writable),
      descriptors: readable.length + writable.length,
      writableAt,
    };
    const request: Request = { chain, used: null, answer: () => join(writable).slice(0, request.used ?? undefined) };
    ring.waiting.push(request);
    return request;
  }

  kick(queue: number): void {
    this.device.kick(queue);
  }

  /** Adds and kicks. */
  ask(queue: number, out: readonly Uint8Array[], inSizes: readonly number[] = []): Request {
    const request = this.add(queue, out, inSizes);
    this.kick(queue);
    return request;
  }

  /** Lets time pass. */
  pass(ns: number): void {
    const end = this.now + ns;
    while (this.clock.next !== null && this.clock.next <= end) {
      this.now = this.clock.next;
      this.clock.runDue();
    }
    this.now = end;
  }
}
