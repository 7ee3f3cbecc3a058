// # A device, in the hands of a driver
//
// Linux calls it `struct virtio_device`: a device that was found on some bus, with a status, features, a configuration space and queues. Here the
// order of things is kept, and here it is decided what to do when the device does not keep it. A device that cannot be used is given up, by setting
// FAILED; it is never a reason to throw at whoever only wanted a random number.

import type { Fields, Layout, Values } from '../../01-hardware-background/layout.ts';
import { ERRNO, Errno } from '../../02-kvm-objects/errno.ts';
import { F, features as featureSet, has, STATUS } from '../features.ts';
import { type DmaBuffer, type DriverMemory, type RegisterWidth, waitUntil } from './bus.ts';
import { makeVirtqueue } from './make-virtqueue.ts';
import { INTERRUPT, type VirtioTransport } from './transport.ts';
import type { VirtioDriver } from './virtio-driver.ts';
import type { AnyVirtqueue, Virtqueue } from './virtqueue.ts';

/** What a driver says of a queue it wants. */
export interface QueueWish<T> {
  readonly name: string;
  /** Called when buffers come back; none: the driver looks for itself. */
  readonly callback?: ((queue: Virtqueue<T>) => void) | null;
  /** Wanted size; what the device says is the most, when absent or too large. */
  readonly size?: number;
}

// Bits 24 to 41 and 43 belong to the rings and transports and not to the driver of the type. They are taken when both sides can use them. What is not
// in this list, and in no driver's table, is not taken, whatever it is: that is how a driver of today works with a device of tomorrow.
// @clause virtio.features.dri.undescribed-reserved-transport-unsupported-type
// @clause virtio.features.dri.undescribed-reserved-transport-unsupported-type-undefined
// @clause virtio.features.dri.unknown-offered-bits-alone-no

/** What the rings of this book can do, on every transport. */
const RING_FEATURES = featureSet(F.INDIRECT_DESC, F.EVENT_IDX, F.RING_PACKED, F.IN_ORDER);

// Addresses in a ring are whatever {@link DriverMemory} calls its pieces' addresses; a machine with an IOMMU gives its drivers such memory, one
// without gives physical addresses. All barriers are `Atomics`, which are as strong as hardware has them. Virtual functions and administration queues
// are for drivers of whole cards; here their features are not taken.
// @clause virtio.reserved.dri.sr-iov-negotiated-only-pci
// @clause virtio.reserved.dri.sr-iov-negotiation-incl-features
// @clause virtio.reserved.dri.virtio-f-version-1-accepted
// @clause virtio.reserved.dri.virtio-f-access-platform-accepted
// @clause virtio.reserved.dri.access-platform-iommu-off-programmed
// @clause virtio.reserved.dri.without-access-platform-offer-device
// @clause virtio.reserved.dri.virtio-f-ring-packed-accepted
// @clause virtio.reserved.dri.virtio-f-order-platform-accepted
// @clause virtio.reserved.dri.order-platform-hardware-strength-memory
// @clause virtio.reserved.dri.virtio-f-notif-config-data
const CORE_FEATURES = RING_FEATURES | featureSet(F.VERSION_1, F.ACCESS_PLATFORM, F.ORDER_PLATFORM, F.SUSPEND);

/** How often a configuration that keeps changing is read again. */
const GENERATIONS = 64;

export class DeviceHandle {
  readonly transport: VirtioTransport;
  driver: VirtioDriver | null = null;
  /** The driver's own state. */
  private: unknown = null;
  /** What was agreed on. */
  features = 0n;
  /** Why the device was given up; null while it was not. */
  failure: string | null = null;
  #queues: AnyVirtqueue[] = [];
  #ready = false;
  #suspended = false;
  readonly #kicksWaiting = new Set<AnyVirtqueue>();
  readonly #owned = new Map<number, DmaBuffer>();
  /** Memory for the device's driver. What it does not give back is taken back when the device is. */
  readonly dma: DriverMemory;

  constructor(transport: VirtioTransport) {
    this.transport = transport;
    const { dma } = transport.bus;
    this.dma = {
      allocate: (bytes, align) => {
        const buffer = dma.allocate(bytes, align);
        this.#owned.set(buffer.address, buffer);
        return buffer;
      },
      free: (buffer) => {
        if (this.#owned.delete(buffer.address)) dma.free(buffer);
      },
    };
  }

  get name(): string {
    return this.transport.name;
  }
  get queues(): readonly AnyVirtqueue[] {
    return this.#queues;
  }
  has(feature: number): boolean {
    return has(this.features, feature);
  }

  // ## Status
  //
  // A status is only added to, one bit for each step, until a reset takes all of it away. The device learns from it how far the driver has come, and
  // so does whoever debugs
  // one that came no further.

  // @clause virtio.status.dri.status-bits-raised-initialization-step
  // @clause virtio.status.dri.never-turn-off-already-set
  addStatus(bits: number): void {
    this.transport.setStatus(this.transport.getStatus() | bits);
  }

  /** Writes 0, and waits until 0 is what the status reads. False when it never does. */
  reset(): boolean {
    const { transport } = this;
    transport.setStatus(0);
    this.#ready = false;
    this.#suspended = false;
    this.#kicksWaiting.clear();
    // @clause virtio.reset.dri.reset-counts-finished-status-reads
    // @clause virtio.pci.dri.after-status-0-write-re
    return waitUntil(transport.bus, () => transport.getStatus() === 0);
  }

  /** Gives the device up. */
  fail(why: string): string {
    this.failure ??= why;
    // @clause virtio.init.dri.irrecoverable-init-failure-reported-through
    // @clause virtio.features.dri.alternative-compatibility-mode-write-failed
    this.addStatus(STATUS.FAILED);
    return why;
  }

  // ## The order of things
  //
  // @clause virtio.init.dri.init-order-reset-acknowledge-driver
  // @clause virtio.mmio.dri.remaining-steps-follow-generic-device

  /** Steps 1 and 2: reset, and "I have seen you". Why not, or null. */
  acknowledge(): string | null {
    // A device that somebody gave up before is fresh after this.
    // @clause virtio.status.dri.failed-state-needs-reset-before
    if (!this.reset()) return this.fail('the device does not finish its reset');
    this.failure = null;
    this.addStatus(STATUS.ACKNOWLEDGE);
    return null;
  }

  /** Steps 3 to 6: "I know what you are", features, and the question whether they will do. Why not, or null. */
  negotiate(driver: VirtioDriver, want: bigint): string | null {
    const { transport } = this;
    this.addStatus(STATUS.DRIVER);
    const offered = transport.getFeatures();
    // @clause virtio.features.dri.offered-feature-bits-get-checked
    // @clause virtio.reserved.dri.can-give-up-if-virtio
    if (!transport.legacy && !has(offered, F.VERSION_1)) return this.fail('the device does not offer VERSION_1');
    const table = transport.legacy ? (driver.featureTableLegacy ?? driver.featureTable) : driver.featureTable;
    const known = featureSet(...table) | ((CORE_FEATURES | transport.features) & (want | featureSet(F.VERSION_1)));
    // @clause virtio.features.dri.accept-only-features-present-offer
    // @clause virtio.features.dri.drops-compatibility-mode-wanted-feature
    this.features = this.#withRequired(driver, offered & known);
    if (transport.legacy) this.features &= 0xffff_ffffn;
    // The configuration may be read from here on, and not yet written.
    // @clause virtio.init.dri.device-config-can-read-choosing
    const complaint = this.#guard(() => driver.validate?.(this) ?? null);
    if (complaint !== null) return this.fail(complaint);
    if (this.features & ~offered) return this.fail('the driver wants what is not offered');
    // The last time that features are written: after FEATURES_OK there is no way back but a reset.
    // @clause virtio.init.dri.feature-set-frozen-after-features
    transport.setFeatures(this.features);
    if (transport.legacy) return null;
    this.addStatus(STATUS.FEATURES_OK);
    return (transport.getStatus() & STATUS.FEATURES_OK) === 0 ? this.fail('the device does not accept the features') : null;
  }

  /** Without those that need what was not taken. */
  #withRequired({ requires = [] }: VirtioDriver, chosen: bigint): bigint {
    // @clause virtio.features.dri.feature-dependencies-dependent-bit-needs
    let kept = chosen;
    for (let before = -1n; before !== kept; ) {
      before = kept;
      for (const [feature, needed] of requires) if (!has(kept, needed)) kept &= ~featureSet(feature);
    }
    return kept;
  }

  /** Step 8. From now on the device works; what was to be kicked before is kicked now. */
  ready(): void {
    if (this.#ready || this.failure !== null) return;
    this.addStatus(STATUS.DRIVER_OK);
    this.#ready = true;
    for (const queue of this.#kicksWaiting) queue.notify();
    this.#kicksWaiting.clear();
  }

  get isReady(): boolean {
    return this.#ready;
  }

  // ## Queues

  /**
   * Step 7: the queues of the driver, by index; null is a gap. The answer has the same order.
   * @throws Errno ENODEV when the device lacks one, EIO when it does not take them, ENOMEM
   */
  findVqs<T>(wishes: readonly (QueueWish<T> | null)[]): (Virtqueue<T> | null)[] {
    const { transport, dma } = this;
    const found: (Virtqueue<T> | null)[] = [];
    try {
      for (const [index, wish] of wishes.entries()) {
        if (!wish) {
          found.push(null);
          continue;
        }
        const maxSize = transport.queueSize(index);
        if (maxSize === 0) throw new Errno('findVqs', ERRNO.ENODEV, `the device has no queue ${index} (${wish.name})`);
        const packed = this.has(F.RING_PACKED);
        const queue = makeVirtqueue<T>({
          index,
          name: `${this.name} ${wish.name}`,
          size: this.#sizeFor(maxSize, wish.size, packed),
          maxSize,
          memory: dma,
          features: { packed, indirect: this.has(F.INDIRECT_DESC), eventIdx: this.has(F.EVENT_IDX), inOrder: this.has(F.IN_ORDER) },
          hooks: {
            notify: (queue) => this.#notify(queue),
            ...(this.has(F.RING_RESET) && {
              // @clause virtio.queue-reset.dri.confirm-requested-queue-reset-really
              stop: (queue) => transport.resetQueue(queue),
              start: (queue) => transport.reconnect(queue),
            }),
          },
          ...(transport.legacy && { legacyAlign: transport.legacyAlign }),
        });
        queue.callback = wish.callback ?? null;
        if (!wish.callback) queue.disableCb();
        found.push(queue);
      }
      const queues = found.filter((queue) => queue !== null);
      const why = transport.connect(queues, {
        config: () => this.configInterrupt(),
        used: (queue) => this.usedInterrupt(queue),
      });
      if (why !== null) throw new Errno('findVqs', ERRNO.EIO, why);
      this.#queues = queues;
      return found;
    } catch (error) {
      this.#queues = found.filter((queue) => queue !== null);
      this.delVqs();
      throw error;
    }
  }

  /** The interface from before the standard does not let the driver choose; the split format wants a power of two. */
  #sizeFor(maxSize: number, wanted: number | undefined, packed: boolean): number {
    if (this.transport.legacy) {
      if ((maxSize & (maxSize - 1)) !== 0 || maxSize > 0x8000) throw new Errno('findVqs', ERRNO.EIO, `a legacy queue of ${maxSize} descriptors`);
      return maxSize;
    }
    // @clause virtio.pci.dri.packed-queue-size-never-written
    // @clause virtio.pci.dri.split-queue-size-written-only
    // @clause virtio.mmio.dri.queuesize-written-most-queuesizemax
    const size = Math.min(wanted ?? DEFAULT_QUEUE_SIZE, maxSize, 0x8000);
    return packed ? size : 2 ** Math.floor(Math.log2(size));
  }

  /** Resets the device; what is in the queues is the driver's again. False when the device does not let go: then nothing of them may be touched. */
  quiesce(): boolean {
    const quiet = this.reset();
    for (const queue of this.#queues) {
      if (quiet) queue.quiesce();
      else queue.break('the device does not finish its reset');
    }
    return quiet;
  }

  /** Takes everything back. Memory that the device may still write is not given back. */
  delVqs(): void {
    const quiet = this.quiesce();
    this.transport.disconnect();
    if (quiet) {
      for (const queue of this.#queues) queue.destroy();
      for (const buffer of this.#owned.values()) this.dma.free(buffer);
    }
    this.#owned.clear();
    this.#queues = [];
  }

  /**
   * Waits until the device has used something in this queue; false when it does not, or the queue is broken. Where an interrupt may take it out of the queue while
   * this waits, `taken` tells.
   */
  waitUsed(queue: AnyVirtqueue, taken: () => boolean = () => false): boolean {
    return waitUntil(this.transport.bus, () => queue.isBroken || queue.moreUsed() || taken()) && !queue.isBroken;
  }

  // A driver fills its queues while it is set up. The device may not be told before DRIVER_OK, so what is kicked early is kicked then.

  #notify(queue: AnyVirtqueue): boolean {
    // @clause virtio.init.dri.no-kicks-before-driver-ok
    if (!this.#ready) this.#kicksWaiting.add(queue);
    else this.transport.notify(queue, this.has(F.NOTIFICATION_DATA) ? queue.notificationData : null);
    return true;
  }

  // ## Interrupts

  /** The device's line is up, or somebody wants to know whether it is. Whether it was this device. */
  interrupt(): boolean {
    const cause = this.transport.isr();
    if (cause & INTERRUPT.CONFIG) this.configInterrupt();
    if (cause & INTERRUPT.USED) this.usedInterrupt(null);
    return (cause & (INTERRUPT.CONFIG | INTERRUPT.USED)) !== 0;
  }

  /** Used buffer notification: of one queue, or of some queue. */
  usedInterrupt(queue: AnyVirtqueue | null): void {
    // @clause virtio.mmio.dri.used-buffer-bit-applies-all
    for (const each of queue ? [queue] : this.#queues) this.#guarded(() => void each.interrupt());
  }

  /** Configuration change notification; also how a device says that it is lost. */
  configInterrupt(): void {
    if (this.transport.getStatus() & STATUS.DEVICE_NEEDS_RESET) {
      // @clause virtio.status.dri.no-trust-flight-work-finishing
      this.breakDevice('the device needs a reset');
    }
    if (this.#ready) this.#guarded(() => this.driver?.configChanged?.(this));
  }

  /** No queue of it is of any use any more. */
  breakDevice(why: string): void {
    this.failure ??= why;
    for (const queue of this.#queues) queue.break(why);
  }

  /** What a driver does in answer to the device may fail for what the device has said. */
  #guarded(action: () => void): void {
    const why = this.#guard(() => {
      action();
      return null;
    });
    if (why !== null) this.breakDevice(why);
  }

  #guard(action: () => string | null): string | null {
    try {
      return action();
    } catch (error) {
      if (error instanceof Errno) return error.message;
      throw error;
    }
  }

  // ## Configuration
  //
  // A field of 64 bits takes two reads, and two fields that belong together take more. The device may change them in between. It counts its changes,
  // so the driver reads the
  // count, the fields, and the count again.

  /**
   * Some fields of the configuration, as they were at one moment, each read with accesses of its own width.
   * @throws Errno EIO when the configuration never stands still, EBUSY while the device is suspended, ENXIO when there is less configuration
   */
  readConfig<L extends Fields, K extends keyof Values<L> & string>(layout: Layout<L>, ...names: readonly K[]): Pick<Values<L>, K> {
    // @clause virtio.suspend.dri.suspended-config-space-left-alone
    if (this.#suspended) throw new Errno('config', ERRNO.EBUSY, 'the device is suspended');
    const read = (): unknown[] => names.map((name) => this.#readField(layout, name));
    // @clause virtio.config.dri.use-generation-counter-retry-loop
    // @clause virtio.config.dri.treat-32-bit-fields-multi
    for (let attempt = 0; attempt < GENERATIONS; attempt++) {
      const before = this.transport.generation();
      const values = read();
      // The old interface has no count. What reads the same twice is taken for one state.
      const same = this.transport.legacy ? String(values) === String(read()) : this.transport.generation() === before;
      if (same) return Object.fromEntries(names.map((name, index) => [name, values[index]])) as Pick<Values<L>, K>;
    }
    throw new Errno('config', ERRNO.EIO, `it changed ${GENERATIONS} times in a row`);
  }

  #readField<L extends Fields>(layout: Layout<L>, name: string): unknown {
    const { offset, bytes, kind } = layout.fields[name] as { offset: number; bytes: number; kind: string };
    // Only that much is needed; there may be more, and there will be in a later version.
    // @clause virtio.config.dri.no-upper-bound-imposed-config
    // @clause virtio.config.dri.size-check-only-minimum-enough
    if (offset + bytes > this.transport.configBytes) throw new Errno('config', ERRNO.ENXIO, `${layout.name}.${name} is beyond its end`);
    if (kind === 'bytes') return Uint8Array.from({ length: bytes }, (_, index) => this.transport.readConfig(offset + index, 1));
    // @clause virtio.mmio.dri.config-access-width-matches-field
    if (bytes === 8) return BigInt(this.transport.readConfig(offset, 4)) | (BigInt(this.transport.readConfig(offset + 4, 4)) << 32n);
    return this.transport.readConfig(offset, bytes as RegisterWidth);
  }

  /** Writes one field. @throws Errno EBUSY while the device is suspended, or before the features are agreed on */
  writeConfig<L extends Fields>(layout: Layout<L>, name: keyof L & string, value: number): void {
    if (this.#suspended) throw new Errno('config', ERRNO.EBUSY, 'the device is suspended');
    // @clause virtio.init.dri.device-config-not-written-choosing
    if (!this.transport.legacy && (this.transport.getStatus() & STATUS.FEATURES_OK) === 0)
      throw new Errno('config', ERRNO.EBUSY, 'nothing is agreed on yet');
    const { offset, bytes } = layout.fields[name] as { offset: number; bytes: number };
    this.transport.writeConfig(offset, bytes as RegisterWidth, value);
  }

  // ## Suspend and resume
  //
  // The driver sets SUSPEND, and the device clears DRIVER_OK when it has stopped; the driver sets DRIVER_OK again, and the device clears SUSPEND when
  // it runs. In between nothing
  // is forgotten: the rings stay where they are.

  /** False when the device cannot, or has not done so. @throws Errno EOPNOTSUPP when it was not negotiated, EBUSY when the device is not running */
  suspend(): boolean {
    // @clause virtio.suspend.dri.suspend-only-used-driver-ok
    if (!this.has(F.SUSPEND)) throw new Errno('suspend', ERRNO.EOPNOTSUPP, this.name);
    if (!this.#ready || this.#suspended) throw new Errno('suspend', ERRNO.EBUSY, this.name);
    this.#suspended = true;
    for (const queue of this.#queues) queue.suspend(true);
    this.addStatus(STATUS.SUSPEND);
    // @clause virtio.suspend.dri.suspend-confirmed-status-showing-suspend
    return this.#waitForStatus(STATUS.SUSPEND, STATUS.DRIVER_OK);
  }

  /** False when the device does not run again; it is broken then. */
  resume(): boolean {
    if (!this.#suspended) return this.#ready;
    this.addStatus(STATUS.DRIVER_OK);
    // @clause virtio.suspend.dri.resume-wait-until-suspend-reads
    if (!this.#waitForStatus(STATUS.DRIVER_OK, STATUS.SUSPEND)) {
      this.breakDevice('the device does not resume');
      return false;
    }
    this.#suspended = false;
    for (const queue of this.#queues) queue.suspend(false);
    return true;
  }

  /** Waits for one bit to be set and another to be clear; a device that needs a reset will not come to it. */
  #waitForStatus(set: number, clear: number): boolean {
    const { transport } = this;
    let status = 0;
    waitUntil(transport.bus, () => {
      status = transport.getStatus();
      return (status & STATUS.DEVICE_NEEDS_RESET) !== 0 || (status & (set | clear)) === set;
    });
    return (status & (set | clear | STATUS.DEVICE_NEEDS_RESET)) === set;
  }
}

/** What a driver asks for that has no wish. */
const DEFAULT_QUEUE_SIZE = 256;
