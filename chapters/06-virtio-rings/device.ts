// # A virtio device, whatever it does and however it is reached
//
// Three layers meet here. Above is a *transport*, a set of registers that a driver reads and writes. Below is a *model*: entropy, a console, a disk.
// Between them is what the specification calls the basic facilities, the same for every type and every transport: a status byte, features, queues, a
// configuration space with a generation, two kinds of notification.

import { assert } from '../01-hardware-background/physical-memory.ts';
import type { Trace } from '../01-hardware-background/trace.ts';
import { describe, field, kind, parts, type SavedPart, savedPart, unsavedPart } from '../03-vcpu-loop/devices/state.ts';
import { bit, closed, DEFAULT_OFFER, F, has, LEGACY_ONLY, NEVER, STATUS } from './features.ts';
import type { DeviceMemory } from './memory.ts';
import type { DeviceRing, RingFeatures, RingPlace } from './queue.ts';
import { VirtQueue } from './virt-queue.ts';

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
  /** Features of its type that mean nothing without another: `[feature, what it needs]`. */
  readonly dependencies?: readonly (readonly [number, number])[];
  /** Features of its type that cannot be agreed without FEATURES_OK. */
  readonly modernOnly?: bigint;
  /** Regions that driver and device share besides the queues. */
  readonly sharedMemory?: readonly SharedRegion[];
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
  /**
   * The driver wants silence. Nothing new is to be begun; `done` is called, now or later, when everything begun has been pushed. Absent: nothing is
   * ever under way.
   */
  suspend?(done: () => void): void;
  /** Silence is over. Each enabled queue becomes {@link available} after this. */
  resume?(): void;
  /** What it is in the middle of that cannot be written down, and that comes to an end by itself; null: nothing. */
  readonly busyNow?: string | null;
  /** What is saved of it; restored after the queues. Absent: it cannot be saved. */
  savedParts?(name: string): SavedPart[];
}

/** Memory of the device's own that the driver reads and writes. */
export interface SharedRegion {
  /** What the driver asks for; no two alike in one device. */
  readonly id: number;
  readonly memory: Uint8Array;
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
  /** The device has been reset: nothing that was said is still to be heard. */
  resetNotifier?(): void;
  /** A queue, by its number, can be used from now on, or no longer: for doorbells that are wired past the registers. */
  queueChanged?(queue: number): void;
}

export interface VirtioOptions {
  readonly memory: DeviceMemory;
  /** Makes the device's end of a ring; the chapter's two formats. */
  readonly makeRing: (memory: DeviceMemory, place: RingPlace, features: RingFeatures & { readonly packed: boolean }) => DeviceRing | string;
  /** Common features to offer besides VERSION_1, as bits; those that the type of the device has are added. */
  readonly offer?: bigint;
  readonly trace?: Trace | null;
}

const LOW_WORD = 0xffff_ffffn;

const NOBODY: Notifier = { usedBuffer() {}, configChange() {} };

export class VirtioDevice {
  readonly model: DeviceModel;
  readonly memory: DeviceMemory;
  readonly trace: Trace | null;
  readonly queues: readonly VirtQueue[];
  /** Everything that this device can do, with the features that only a legacy driver is shown. */
  readonly offered: bigint;
  /** How often each side has called the other: what a request costs. */
  readonly counts = { kicks: 0, used: 0, config: 0 };
  /** Where notifications go; the transport puts itself here. */
  notifier: Notifier = NOBODY;
  #legacy = false;
  #driverFeatures = 0n;
  #status = 0;
  #live = false;
  #mayReach = true;
  #generation = 0;
  #failure: string | null = null;
  /**
   * A suspension has been asked for, and the model has not yet come to rest. Reset makes another number, so that an answer that comes too late is for
   * nobody.
   */
  #suspending = 0;
  #suspensions = 0;
  #deferred: (() => void)[] = [];
  readonly #makeRing: VirtioOptions['makeRing'];

  constructor(model: DeviceModel, { memory, makeRing, offer = DEFAULT_OFFER, trace = null }: VirtioOptions) {
    this.model = model;
    this.memory = memory;
    this.trace = trace;
    this.#makeRing = makeRing;
    this.offered = closed(((model.features | offer) & ~NEVER) | bit(F.VERSION_1), model.dependencies ?? []);
    const packed = has(this.offered, F.RING_PACKED);
    for (const size of model.queueSizes) assert(size <= 0x8000 && (packed || (size & (size - 1)) === 0), `${model.name}: a queue of ${size}`);
    this.queues = model.queueSizes.map((size, index) => new VirtQueue(this, index, size));
    model.attach(this);
    model.reset();
  }

  get name(): string {
    return this.model.name;
  }

  // ## Two generations of drivers
  //
  // Before the standard there was an interface without FEATURES_OK, with rings at fixed places, and with 32 features. A *transitional* device has
  // both sets of registers, and learns from the first write which kind of driver it has.

  /** The driver speaks the interface from before the standard. Set by the transport, before anything is agreed. */
  get legacy(): boolean {
    return this.#legacy;
  }
  set legacy(legacy: boolean) {
    if (this.#status === 0 && !this.queues.some(({ enabled }) => enabled)) this.#legacy = legacy;
  }

  // ## Features

  // @clause virtio.features.dev.no-offering-bits-whose-functionality
  // @clause virtio.reserved.dev.virtio-f-version-1-always
  /** What a driver is shown, through registers of this kind. */
  offerTo(legacy: boolean): bigint {
    return legacy ? this.offered & LOW_WORD & ~(this.model.modernOnly ?? 0n) : this.offered & ~LEGACY_ONLY;
  }

  get driverFeatures(): bigint {
    return this.#driverFeatures;
  }

  /** Whether what was chosen can be relied on. */
  get featuresAgreed(): boolean {
    return this.#legacy || (this.#status & STATUS.FEATURES_OK) !== 0;
  }

  // A legacy driver may use a feature from the moment in which it has written it, since there is no sign that it is finished: some used the device
  // while they were still choosing.

  /** What both agreed on; nothing before FEATURES_OK. */
  get negotiated(): bigint {
    return this.featuresAgreed ? this.#driverFeatures & this.offerTo(this.#legacy) : 0n;
  }

  has(feature: number): boolean {
    return has(this.negotiated, feature);
  }

  /** The driver's choice, 32 bits at a time. Fixed once it is agreed. */
  setDriverFeatures(window: number, value: number): void {
    if (this.#status & (STATUS.FEATURES_OK | STATUS.DRIVER_OK | STATUS.SUSPEND) || window > (this.#legacy ? 0 : 1)) return;
    const shift = BigInt(32 * window);
    this.#driverFeatures = (this.#driverFeatures & ~(LOW_WORD << shift)) | (BigInt(value >>> 0) << shift);
  }

  // Whatever is refused here is refused each time and to everybody: what was once agreed on this device stays agreeable.
  // @clause virtio.features.dev.valid-driver-chosen-subset-expected
  // @clause virtio.features.dev.previously-agreed-feature-set-stays
  // @clause virtio.reserved.dev.can-refuse-operation-if-virtio
  // @clause virtio.reserved.dev.can-refuse-operation-if-access

  // The bit means nothing to a legacy device. SeaBIOS sets it all the same, also through the legacy registers in memory, and goes away if it does not
  // stick; so it does.

  #complaint(chosen: bigint): string | null {
    if (this.#legacy) return this.model.accepts?.(chosen & this.offerTo(true)) === false ? 'a choice that this device cannot work with' : null;
    if (chosen & ~this.offerTo(false)) return 'features that were not offered';
    if (!has(chosen, F.VERSION_1)) return 'VERSION_1 was not taken';
    if (has(this.offered, F.ACCESS_PLATFORM) && !has(chosen, F.ACCESS_PLATFORM))
      return 'addresses are the platform’s, and ACCESS_PLATFORM was not taken';
    const lonely = this.model.dependencies?.find(([feature, needed]) => has(chosen, feature) && !has(chosen, needed));
    if (lonely) return `feature ${lonely[0]} without feature ${lonely[1]}`;
    return this.model.accepts?.(chosen) === false ? 'a choice that this device cannot work with' : null;
  }

  // ## Status
  //
  // The driver reports its progress by setting bits, one after the other; the device never clears one because a write lacks it. Only a write of zero
  // is more than a report: it is a reset. Of the device's own bits a write sets nothing.

  get status(): number {
    return this.#status;
  }

  /** The driver has begun to use the device: queues may be looked at, as far as nothing else forbids it. */
  get live(): boolean {
    return this.#live;
  }

  /** Chains may be given back, and the driver may be notified. */
  get awake(): boolean {
    return this.#live && (this.#status & (STATUS.DEVICE_NEEDS_RESET | STATUS.SUSPEND)) === 0;
  }

  /** Chains may be taken too. */
  get running(): boolean {
    return this.awake && this.#suspending === 0;
  }

  get suspended(): boolean {
    return (this.#status & STATUS.SUSPEND) !== 0;
  }

  // A bus can forbid a device to touch memory and allow it again. What was begun waits meanwhile, and so do the rings: a kernel that hands the machine
  // to its successor may do no more than that, and does not expect that a key pressed later is stored into what was a buffer once. Drivers from before
  // the standard did not know of it.

  /** Whether the device may read and write memory at this moment. */
  get reachesMemory(): boolean {
    return this.#mayReach || this.#legacy || this.#rebuilding;
  }

  /** The transport forbids it, or allows it again. */
  setReach(mayReach: boolean): void {
    const waited = !this.reachesMemory;
    this.#mayReach = mayReach;
    if (waited && mayReach) this.#look();
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
    const gained = value & ~this.#status & 0xff;
    // @clause virtio.suspend.dev.resume-request-ends-normal-operation
    if (this.suspended) {
      if (gained & STATUS.DRIVER_OK) this.#resume();
      return;
    }
    let set = gained & ~(STATUS.DEVICE_NEEDS_RESET | STATUS.SUSPEND);
    // @clause virtio.features.dev.unacceptable-subset-features-ok-reads
    if (set & STATUS.FEATURES_OK && this.#complaint(this.#driverFeatures) !== null) set &= ~STATUS.FEATURES_OK;
    this.#status |= set;
    // @clause virtio.status.dev.driver-ok-set-device-needs
    if (set & STATUS.DRIVER_OK && this.#failure !== null) this.notifier.configChange();
    else if (this.#status & STATUS.DRIVER_OK && this.featuresAgreed) this.#start();
    // @clause virtio.suspend.dev.suspend-operations-no-effect-before
    if (gained & STATUS.SUSPEND && this.running && this.#status & STATUS.DRIVER_OK && this.has(F.SUSPEND)) this.#suspend();
  }

  #start(): void {
    if (this.#live) return;
    this.#live = true;
    for (const queue of this.queues) {
      queue.prepare();
      if (queue.enabled) this.notifier.queueChanged?.(queue.index);
    }
    if (!this.running) return;
    this.model.start?.();
    this.#look();
  }

  #look(): void {
    for (const queue of this.queues) if (queue.enabled && this.running) this.model.available(queue);
  }

  // @clause virtio.reset.dev.status-field-returns-zero-once
  // @clause virtio.reset.dev.post-reset-silence-no-notifications
  reset(): void {
    this.#status = 0;
    this.#live = false;
    this.#driverFeatures = 0n;
    this.#failure = null;
    this.#suspending = 0;
    for (const queue of this.queues) queue.reset();
    this.model.reset();
    this.notifier.resetNotifier?.();
    for (const change of this.#deferred.splice(0)) change();
  }

  // @clause virtio.status.dev.flags-device-needs-reset-upon
  /** The driver has done what cannot be answered. From now on there is silence, until a reset. */
  fail(why: string): void {
    if (this.#status & STATUS.DEVICE_NEEDS_RESET) return;
    this.#failure = why;
    this.#suspending = 0; // whoever needs a reset does not fall asleep any more
    this.trace?.emit({ kind: 'virtio_error', device: this.name, why });
    this.#status |= STATUS.DEVICE_NEEDS_RESET;
    if (this.#status & STATUS.DRIVER_OK) this.#notifyConfig();
  }

  // ## Sleep
  //
  // A driver that wants to put a machine to sleep used to reset its devices and set them up again. With VIRTIO_F_SUSPEND the device keeps everything
  // and only falls silent: what was begun is finished and given back, then SUSPEND takes the place of DRIVER_OK in the status, and nothing moves
  // until the driver sets DRIVER_OK again. Changes of the configuration that happen meanwhile wait.

  // @clause virtio.suspend.dev.before-reporting-suspended-stop-consuming
  // @clause virtio.suspend.dev.suspend-write-ends-suspension-device
  #suspend(): void {
    this.#suspending = ++this.#suspensions;
    const mine = this.#suspending;
    const done = (): void => {
      if (this.#suspending !== mine) return;
      this.#suspending = 0;
      this.#status = (this.#status & ~STATUS.DRIVER_OK) | STATUS.SUSPEND;
    };
    if (this.model.suspend) this.model.suspend(done);
    else done();
  }

  #resume(): void {
    this.#status = (this.#status & ~STATUS.SUSPEND) | STATUS.DRIVER_OK;
    if (!this.running) return;
    // @clause virtio.suspend.dev.pending-config-change-notification-delivered
    for (const change of this.#deferred.splice(0)) this.changeConfig(change);
    this.model.resume?.();
    this.#look();
  }

  // ## Queues

  makeRing(place: RingPlace): DeviceRing | string {
    return this.#makeRing(this.memory, place, {
      packed: this.has(F.RING_PACKED),
      indirect: this.has(F.INDIRECT_DESC),
      eventIdx: this.has(F.EVENT_IDX),
      inOrder: this.has(F.IN_ORDER),
      notifyOnEmpty: this.#legacy && this.has(F.NOTIFY_ON_EMPTY),
    });
  }

  // Drivers from before the standard used a queue as soon as they had placed it, some of them to read the partition table before they set DRIVER_OK.
  // Their first kick says that they have begun.

  // @clause virtio.split-notify.dev.unneeded-driver-kicks-tolerated
  // @clause virtio.suspend.dev.suspended-no-queue-notifications-queue
  /** Available buffer notification. A kick that was not needed does no harm. `data` is what comes with it under NOTIFICATION_DATA. */
  kick(index: number, data = 0): void {
    const queue = this.queues[index];
    if (!queue) return;
    this.counts.kicks++;
    this.trace?.emit({ kind: 'virtio_queue_notify', device: this.name, queue: index });
    if (this.#legacy && !this.#live && this.#status !== 0 && queue.enabled) this.#start();
    if (!queue.ring || !this.running) return;
    queue.kickData = data;
    this.model.available(queue);
  }

  // @clause virtio.queue-reset.dev.reset-queue-stop-executing-requests
  // @clause virtio.queue-reset.dev.re-enable-honours-changed-queue
  /** The driver takes one queue back, whole. Without RING_RESET there is no such thing. */
  resetQueue(index: number): void {
    const queue = this.queues[index];
    if (!queue || queue.maxSize === 0 || !this.has(F.RING_RESET)) return;
    queue.reset();
    this.model.queueReset?.(queue);
  }

  /** The driver stops one queue by taking its enable bit back, which one transport allows. */
  stopQueue(index: number): void {
    const queue = this.queues[index];
    if (!queue?.enabled) return;
    queue.disable();
    this.model.queueReset?.(queue);
  }

  notifyUsed(queue: number): void {
    this.counts.used++;
    this.trace?.emit({ kind: 'virtio_notify', device: this.name, queue });
    this.notifier.usedBuffer(queue);
  }

  // ## Configuration
  //
  // The configuration space is a structure of the type's own. A driver that reads a field of it in two pieces may find halves of two different
  // values, so a counter tells it whether anything has changed in between.

  /** Counts changes; a transport shows as much of it as its register holds. */
  get generation(): number {
    return this.#generation;
  }

  // @clause virtio.config.dev.config-fields-including-offered-feature
  /** A field, or whatever was asked for. Beyond the structure there are ones. */
  readConfig(offset: number, width: 1 | 2 | 4): number {
    const { config } = this.model;
    if (offset + width <= config.bytes) return config.read(offset, width);
    let value = 0;
    for (let at = width - 1; at >= 0; at--) value = value * 256 + (offset + at < config.bytes ? config.read(offset + at, 1) : 0xff);
    return value;
  }

  // @clause virtio.suspend.dev.suspended-config-writes-other-status
  writeConfig(offset: number, width: 1 | 2 | 4, value: number): void {
    const { config } = this.model;
    if (offset + width <= config.bytes && !this.suspended) config.write(offset, width, value);
  }

  /** The device has changed its own configuration. */
  configChanged(): void {
    if (this.suspended) {
      if (this.#deferred.length === 0) this.#deferred.push(() => {});
      return;
    }
    this.#generation = (this.#generation + 1) >>> 0;
    if (this.awake && this.#status & STATUS.DRIVER_OK) this.#notifyConfig();
  }

  // @clause virtio.suspend.dev.suspended-config-change-notifications-withheld
  /** Changes the configuration and says so, at once, or when the driver has woken the device. */
  changeConfig(change: () => void): void {
    if (this.suspended) {
      this.#deferred.push(change);
      return;
    }
    change();
    this.configChanged();
  }

  #notifyConfig(): void {
    this.counts.config++;
    this.notifier.configChange();
  }

  // ## Written down
  //
  // Most devices hold no buffer between two moments at which a machine can be saved; one that does is saved when it has given it back. The exception is a buffer
  // that belongs to the device for hours, such as that of the balloon's statistics. It is saved as what names it to the driver, and taken again from guest memory.

  get busyNow(): string | null {
    if (this.#suspending !== 0) return `${this.name} is falling asleep`;
    if (this.#deferred.length > 0) return `${this.name} sleeps, and has something to tell when it wakes`;
    return this.model.busyNow ?? null;
  }

  #rebuilding = false;

  /** @internal While a ring that existed is made again, it does not matter whether the device may use it at this moment. */
  whateverItReaches<T>(make: () => T): T {
    this.#rebuilding = true;
    try {
      return make();
    } finally {
      this.#rebuilding = false;
    }
  }

  static readonly STATE = describe<VirtioDevice>(
    'virtio device',
    1,
    {
      driver: field(
        kind.record({ legacy: kind.flag, driverFeatures: kind.u64, status: kind.u8, live: kind.flag }),
        (d) => ({ legacy: d.#legacy, driverFeatures: d.#driverFeatures, status: d.#status, live: d.#live }),
        (d, v) => {
          ({ legacy: d.#legacy, driverFeatures: d.#driverFeatures, status: d.#status, live: d.#live } = v);
        },
      ),
      generation: field(
        kind.u32,
        (device) => device.#generation,
        (device, generation) => {
          device.#generation = generation;
        },
      ),
      failure: field(
        kind.maybe(kind.text(1024)),
        (device) => device.#failure,
        (device, failure) => {
          device.#failure = failure;
        },
      ),
      queues: parts((device) => device.queues, VirtQueue.STATE),
    },
    ({ queues, notifier }) => {
      for (const { index } of queues) notifier.queueChanged?.(index);
    },
  );

  savedParts(name: string): SavedPart[] {
    return [
      savedPart<VirtioDevice>(name, this, VirtioDevice.STATE),
      ...(this.model.savedParts?.(`${name} model`) ?? [unsavedPart(`${this.name} at ${name}`)]),
    ];
  }
}
