// # A virtio device, whatever it does and however it is reached
//
// Three layers meet here. Above is a *transport*, a set of registers that a driver reads and writes. Below is a *model*: entropy, a console, a disk. Between them is what
// the specification calls the basic facilities, the same for every type and every transport: a status byte, features, queues, a configuration space with
// a generation, two kinds of notification.

import type { Trace } from '../01-hardware-background/trace.ts';
import { bit, F, features as featureSet, has, STATUS } from './features.ts';
import type { DeviceMemory } from './memory.ts';
import type { Chain, DeviceRing, RingFeatures, RingPlace } from './queue.ts';

/** A type of device: what it offers, and what it does with buffers. Everything else it inherits from {@link VirtioDevice}. */
export interface DeviceModel {
  readonly name: string;
  readonly deviceId: number;
  /** Features of its type. */
  readonly features: bigint;
  /** The largest size of each queue; a queue of size 0 is a gap. */
  readonly queueSizes: readonly number[];
  /** Configuration space, for what the driver took; without FEATURES_OK, for what is offered. */
  readonly config: ConfigFields;
  /** Called once, with the device around it, before anything else. */
  attach(device: VirtioDevice): void;
  /** Whether it can work with this choice of the driver's. */
  accepts?(features: bigint): boolean;
  /** DRIVER_OK was set. */
  start?(): void;
  /** The driver has kicked a queue, or it is time to look. */
  available(queue: VirtQueue): void;
  /** All queues and all state of the driver are gone. Also called at power-on. */
  reset(): void;
  /** One queue is gone. What was taken from it may no longer be pushed. */
  queueReset?(queue: VirtQueue): void;
}

/** A configuration space: little-endian bytes. */
export interface ConfigFields {
  readonly bytes: number;
  read(offset: number, width: 1 | 2 | 4): number;
  /** What may not be written is ignored. */
  write(offset: number, width: 1 | 2 | 4, value: number): void;
}

/** What a device says to its driver, through the transport. */
export interface Notifier {
  /** Used buffer notification. */
  usedBuffer(queue: number): void;
  /** Configuration change notification. */
  configChange(): void;
}

export interface VirtioOptions {
  readonly memory: DeviceMemory;
  /** Makes the device's end of a ring; the chapter's two formats. */
  readonly makeRing: (memory: DeviceMemory, place: RingPlace, features: RingFeatures & { readonly packed: boolean }) => DeviceRing | string;
  /** Common features to offer besides VERSION_1, as bits; those that the type of the device has are added. */
  readonly offer?: bigint;
  readonly trace?: Trace | null;
}

/** What is offered when nobody says otherwise: QEMU's choice, which drivers have met everywhere. */
export const DEFAULT_OFFER = featureSet(F.INDIRECT_DESC, F.EVENT_IDX, F.RING_RESET, F.NOTIFY_ON_EMPTY, F.ANY_LAYOUT);

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
  #ring: DeviceRing | null = null;

  constructor(device: VirtioDevice, index: number, maxSize: number) {
    this.#device = device;
    this.index = index;
    this.maxSize = maxSize;
    this.size = maxSize;
  }

  /** The ring, while there is one that may be used at this moment. */
  get ring(): DeviceRing | null {
    return this.#device.running ? this.#ring : null;
  }

  /** The driver has said where everything is. A place that is no memory is the driver's error, and ends the device. */
  enable(): void {
    if (this.enabled || this.maxSize === 0) return;
    const [desc, driver, device] = [0, 2, 4].map((at) => (this.areas[at] as number) + (this.areas[at + 1] as number) * 2 ** 32) as [
      number,
      number,
      number,
    ];
    const ring = this.#device.makeRing({ size: this.size, desc, driver, device });
    this.enabled = true;
    if (typeof ring === 'string') this.#device.fail(`queue ${this.index}: ${ring}`);
    else this.#ring = ring;
  }

  /** Everything as it was before the driver touched it. */
  reset(): void {
    this.#ring = null;
    this.enabled = false;
    this.size = this.maxSize;
    this.areas.fill(0);
    this.vector = 0xffff;
  }

  /** The next chain; null when there is none, or the device may not look. */
  pop(): Chain | null {
    const { ring } = this;
    if (!ring) return null;
    const chain = ring.pop();
    if (ring.broken !== null) this.#device.fail(`queue ${this.index}: ${ring.broken}`);
    else if (chain)
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

  /** Does with each waiting chain what `use` says, which is how many bytes it has written; then notifies once. Without end it never runs: at most one round of the ring. */
  serve(use: (chain: Chain) => number): void {
    for (let left = this.size; left > 0; left--) {
      const chain = this.pop();
      if (!chain) break;
      this.push(chain, use(chain));
    }
    this.notify();
  }
}

const NOBODY: Notifier = { usedBuffer() {}, configChange() {} };

export class VirtioDevice {
  readonly model: DeviceModel;
  readonly memory: DeviceMemory;
  readonly trace: Trace | null;
  readonly queues: readonly VirtQueue[];
  /** Everything that this device can do. */
  readonly offered: bigint;
  /** Where notifications go; the transport puts itself here. */
  notifier: Notifier = NOBODY;
  /** The driver speaks the interface from before the standard: no FEATURES_OK, rings at fixed places. Set by the transport. */
  legacy = false;
  #driverFeatures = 0n;
  #status = 0;
  #generation = 0;
  #failure: string | null = null;
  readonly #makeRing: VirtioOptions['makeRing'];

  constructor(model: DeviceModel, { memory, makeRing, offer = DEFAULT_OFFER, trace = null }: VirtioOptions) {
    this.model = model;
    this.memory = memory;
    this.trace = trace;
    this.#makeRing = makeRing;
    this.offered = model.features | offer | bit(F.VERSION_1);
    this.queues = model.queueSizes.map((size, index) => new VirtQueue(this, index, size));
    model.attach(this);
    model.reset();
  }

  get name(): string {
    return this.model.name;
  }

  // ## Features

  get driverFeatures(): bigint {
    return this.#driverFeatures;
  }

  /** What both agreed on; nothing before FEATURES_OK (DRIVER_OK for a legacy driver). */
  get negotiated(): bigint {
    return this.#status & (this.legacy ? STATUS.DRIVER_OK : STATUS.FEATURES_OK) ? this.#driverFeatures & this.offered : 0n;
  }

  has(feature: number): boolean {
    return has(this.negotiated, feature);
  }

  /** The driver's choice, 32 bits at a time. Fixed once it is agreed. */
  setDriverFeatures(window: number, value: number): void {
    if (this.#status & (STATUS.FEATURES_OK | STATUS.DRIVER_OK) || window > 1) return;
    const shift = BigInt(32 * window);
    this.#driverFeatures = (this.#driverFeatures & ~(0xffff_ffffn << shift)) | (BigInt(value >>> 0) << shift);
  }

  /** Features that mean nothing without another. */
  #complaint(chosen: bigint): string | null {
    if (chosen & ~this.offered) return 'features that were not offered';
    if (!this.legacy && !has(chosen, F.VERSION_1)) return 'VERSION_1 was not taken';
    return this.model.accepts?.(chosen) === false ? 'a choice that this device cannot work with' : null;
  }

  // ## Status

  get status(): number {
    return this.#status;
  }

  /** Chains may be taken and given back. */
  get running(): boolean {
    return (this.#status & (STATUS.DRIVER_OK | STATUS.DEVICE_NEEDS_RESET)) === STATUS.DRIVER_OK;
  }

  /** Why only a reset helps; null while all is well. For people: the driver sees DEVICE_NEEDS_RESET. */
  get failure(): string | null {
    return this.#failure;
  }

  setStatus(value: number): void {
    this.trace?.emit({ kind: 'virtio_set_status', device: this.name, status: value });
    if (value === 0) {
      this.reset();
      return;
    }
    const gained = value & ~this.#status;
    if (gained & STATUS.FEATURES_OK && this.#complaint(this.#driverFeatures) !== null) value &= ~STATUS.FEATURES_OK;
    this.#status |= value & 0xff & ~STATUS.DEVICE_NEEDS_RESET;
    if (gained & STATUS.DRIVER_OK) this.#start();
  }

  #start(): void {
    this.model.start?.();
    for (const queue of this.queues) if (queue.enabled) this.model.available(queue);
  }

  reset(): void {
    this.#status = 0;
    this.#driverFeatures = 0n;
    this.#failure = null;
    for (const queue of this.queues) queue.reset();
    this.model.reset();
  }

  /** The driver has done what cannot be answered. From now on there is silence, until a reset. */
  fail(why: string): void {
    if (this.#status & STATUS.DEVICE_NEEDS_RESET) return;
    this.#failure = why;
    this.trace?.emit({ kind: 'virtio_error', device: this.name, why });
    const wasRunning = (this.#status & STATUS.DRIVER_OK) !== 0;
    this.#status |= STATUS.DEVICE_NEEDS_RESET;
    if (wasRunning) this.notifier.configChange();
  }

  // ## Queues

  makeRing(place: RingPlace): DeviceRing | string {
    return this.#makeRing(this.memory, place, {
      packed: this.has(F.RING_PACKED),
      indirect: this.has(F.INDIRECT_DESC),
      eventIdx: this.has(F.EVENT_IDX),
      inOrder: this.has(F.IN_ORDER),
    });
  }

  /** Available buffer notification. A kick that was not needed does no harm. */
  kick(index: number): void {
    const queue = this.queues[index];
    this.trace?.emit({ kind: 'virtio_queue_notify', device: this.name, queue: index });
    if (queue?.ring) this.model.available(queue);
  }

  notifyUsed(queue: number): void {
    this.trace?.emit({ kind: 'virtio_notify', device: this.name, queue });
    this.notifier.usedBuffer(queue);
  }

  // ## Configuration

  get generation(): number {
    return this.#generation;
  }

  /** The device has changed its own configuration. */
  configChanged(): void {
    this.#generation = (this.#generation + 1) & 0xff;
    if (this.running) this.notifier.configChange();
  }
}
