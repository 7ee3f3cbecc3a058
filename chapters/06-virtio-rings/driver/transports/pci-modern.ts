// # PCI, since the standard
//
// A modern device has its registers wherever its capabilities say. The walk below is that of a careful driver: what it does not understand it steps
// over, what cannot be as it is said to be it does not use, and of several that would do it takes the first, which the device likes best.

import { bit, F } from '../../features.ts';
import { CFG_TYPE, VIRTIO_PCI_CAP } from '../../transport/capabilities.ts';
import { COMMON_CONFIG } from '../../transport/common-config.ts';
import { type DriverBus, type RegisterWidth, waitUntil } from '../bus.ts';
import type { InterruptHandlers, VirtioTransport } from '../transport.ts';
import type { AnyVirtqueue } from '../virtqueue.ts';
import type { PciFunctionAccess, Window } from './pci-function.ts';
import { PciVectors } from './pci-vectors.ts';

/** Vendor of all virtio devices, and the range of their device ids: the type is the difference. */
const VENDOR = 0x1af4;
const MODERN = { first: 0x1040, last: 0x107f } as const;
/** Ids of devices that both interfaces reach, and the types they stand for. */
// biome-ignore format: table
const TRANSITIONAL: Readonly<Record<number, number>> = { 4096: 1, 4097: 2, 4098: 5, 4099: 3, 4100: 8, 4101: 4, 4105: 9 };

// Revision and subsystem may be anything; so may the class.
// @clause virtio.pci.dri.matches-vendor-0x1af4-device-id
// @clause virtio.pci.dri.transitional-capable-types-also-matches
// @clause virtio.pci.dri.revision-id-value-irrelevant-matching
// @clause virtio.pci.dri.subsystem-vendor-device-ids-can
/** The type of virtio device that a function is, and whether by an id that legacy drivers know; null: none. */
export function virtioType({ vendorId, deviceId }: PciFunctionAccess): { readonly type: number; readonly transitional: boolean } | null {
  if (vendorId !== VENDOR) return null;
  if (deviceId >= MODERN.first && deviceId <= MODERN.last) return { type: deviceId - MODERN.first, transitional: false };
  const type = TRANSITIONAL[deviceId];
  return type === undefined ? null : { type, transitional: true };
}

const { rows: CAP } = VIRTIO_PCI_CAP;
const { rows: R } = COMMON_CONFIG;

// Each structure has a part without which a driver cannot do. More is welcome and is not looked at, except where a negotiated feature says that it is
// there.

/** What of the common structure the first version of the standard had. */
const COMMON_NEEDED = R.queue_notif_config_data.offset;
const WITH_NOTIF_CONFIG_DATA = R.queue_reset.offset;
const WITH_QUEUE_RESET = R.admin_queue_index.offset;

/** What offsets have to be multiples of, where that is not 4. */
const ALIGN: Readonly<Record<number, number>> = { [CFG_TYPE.ISR]: 1, [CFG_TYPE.NOTIFY]: 2 };

// Vendor data is for the vendor's own tools, who know what it means. This driver does not look at it.
// @clause virtio.pci.dri.vendor-id-verified-before-interpreting
// @clause virtio.pci.dri.vendor-data-used-solely-debugging

/** Where a structure is, as far as it lies in its region; null when it cannot be used. */
function structure(access: PciFunctionAccess, type: number, needed: number): { readonly window: Window; readonly at: number } | null {
  for (const { at } of access.vendorCapabilities) {
    // A capability that is longer than this driver knows is from a later version, and begins like this one.
    // @clause virtio.pci.dri.oversized-cap-len-accepted
    const wanted = type === CFG_TYPE.NOTIFY ? CAP.notify_off_multiplier.offset + 4 : CAP.length.offset + 4;
    // @clause virtio.pci.dri.capabilities-reserved-cfg-type-skipped
    if (access.read(at + CAP.cfg_type.offset, 1) !== type || access.read(at + CAP.cap_len.offset, 1) < wanted || at + wanted > 0x100) continue;
    // @clause virtio.pci.dri.capabilities-reserved-bar-value-skipped
    const bar = access.bar(access.read(at + CAP.bar.offset, 1));
    if (!bar) continue;
    const offset = access.read(at + CAP.offset.offset, 4);
    const length = access.read(at + CAP.length.offset, 4);
    // @clause virtio.pci.dri.mapping-limited-needed-part-structure
    // @clause virtio.pci.dri.surprisingly-large-length-tolerated
    // @clause virtio.pci.dri.minimum-length-check-length-allowed
    const bytes = Math.min(length, bar.bytes - offset);
    if (bytes < needed || offset % (ALIGN[type] ?? 4) !== 0) continue;
    // @clause virtio.pci.dri.first-supported-instance-structure-type
    return { window: { space: bar.space, base: bar.base + offset, bytes }, at };
  }
  return null;
}

/** A doorbell: where, and what it is told. */
interface Doorbell {
  readonly address: number;
  /** The queue's index, or what stands for it. */
  readonly name: number;
}

export class PciModernTransport implements VirtioTransport {
  readonly name: string;
  readonly bus: DriverBus;
  readonly deviceId: number;
  readonly vendorId = VENDOR;
  readonly legacy = false;
  readonly legacyAlign = 0;
  readonly features: bigint;
  readonly vectors: PciVectors;
  readonly #common: Window;
  readonly #notify: Window;
  readonly #multiplier: number;
  readonly #isr: Window;
  readonly #config: Window | null;
  readonly #doorbells: (Doorbell | undefined)[] = [];
  #taken = 0n;

  private constructor(
    access: PciFunctionAccess,
    type: number,
    common: Window,
    notify: Window,
    multiplier: number,
    isr: Window,
    config: Window | null,
  ) {
    this.name = access.name;
    this.bus = access.bus;
    this.deviceId = type;
    this.#common = common;
    this.#notify = notify;
    this.#multiplier = multiplier;
    this.#isr = isr;
    this.#config = config;
    this.vectors = new PciVectors(access);
    let features = bit(F.NOTIFICATION_DATA);
    if (common.bytes >= WITH_NOTIF_CONFIG_DATA) features |= bit(F.NOTIF_CONFIG_DATA);
    if (common.bytes >= WITH_QUEUE_RESET) features |= bit(F.RING_RESET);
    this.features = features;
  }

  /** The transport of a function that has everything that is needed; otherwise what it lacks. The function has addresses. Nothing in its capabilities is written. */
  static probe(access: PciFunctionAccess): PciModernTransport | string {
    // @clause virtio.pci.dri.capability-fields-read-only-except
    const found = virtioType(access);
    if (!found) return 'no virtio device';
    access.enable();
    const common = structure(access, CFG_TYPE.COMMON, COMMON_NEEDED);
    if (!common) return 'no usable common configuration';
    const notify = structure(access, CFG_TYPE.NOTIFY, 2);
    if (!notify) return 'no usable notification structure';
    const isr = structure(access, CFG_TYPE.ISR, 1);
    if (!isr) return 'no usable interrupt status';
    const config = structure(access, CFG_TYPE.DEVICE, 1);
    const multiplier = access.read(notify.at + CAP.notify_off_multiplier.offset, 4);
    return new PciModernTransport(access, found.type, common.window, notify.window, multiplier, isr.window, config?.window ?? null);
  }

  // Fields that are read-only have no writer here, and each is accessed with the width that the table says.
  // @clause virtio.pci.dri.read-only-common-cfg-fields

  #read(name: keyof typeof R): number {
    const { offset, bytes } = R[name];
    return this.#common.space.read(this.#common.base + offset, bytes as RegisterWidth);
  }
  #write(name: keyof typeof R, value: number): void {
    const { offset, bytes } = R[name];
    this.#common.space.write(this.#common.base + offset, bytes as RegisterWidth, value);
  }

  getStatus(): number {
    return this.#read('device_status');
  }
  setStatus(status: number): void {
    this.#write('device_status', status);
  }

  getFeatures(): bigint {
    let features = 0n;
    for (const window of [0, 1]) {
      this.#write('device_feature_select', window);
      features |= BigInt(this.#read('device_feature')) << BigInt(32 * window);
    }
    return features;
  }
  setFeatures(features: bigint): void {
    this.#taken = features;
    for (const window of [0, 1]) {
      this.#write('driver_feature_select', window);
      this.#write('driver_feature', Number((features >> BigInt(32 * window)) & 0xffff_ffffn));
    }
  }

  generation(): number {
    return this.#read('config_generation');
  }
  get configBytes(): number {
    return this.#config?.bytes ?? 0;
  }
  readConfig(offset: number, width: RegisterWidth): number {
    const config = this.#config;
    return config && offset + width <= config.bytes ? config.space.read(config.base + offset, width) : 0;
  }
  writeConfig(offset: number, width: RegisterWidth, value: number): void {
    const config = this.#config;
    if (config && offset + width <= config.bytes) config.space.write(config.base + offset, width, value);
  }

  // ## Queues

  queueSize(index: number): number {
    if (index >= this.#read('num_queues')) return 0;
    this.#write('queue_select', index);
    return this.#read('queue_enable') === 0 ? this.#read('queue_size') : 0;
  }

  connect(queues: readonly AnyVirtqueue[], handlers: InterruptHandlers): string | null {
    const registers = {
      setConfigVector: (vector: number): number => {
        this.#write('config_msix_vector', vector);
        return this.#read('config_msix_vector');
      },
      setQueueVector: (index: number, vector: number): number => this.#setQueueVector(index, vector),
    };
    this.vectors.connect(registers, queues, handlers);
    for (const queue of queues) {
      const why = this.#enable(queue);
      if (why !== null) return `queue ${queue.index}: ${why}`;
    }
    return null;
  }

  #setQueueVector(index: number, vector: number): number {
    this.#write('queue_select', index);
    this.#write('queue_msix_vector', vector);
    return this.#read('queue_msix_vector');
  }

  /** Everything that a queue has, its doorbell included; the switch last. */
  #enable({ index, areas }: AnyVirtqueue): string | null {
    this.#write('queue_select', index);
    this.#write('queue_size', areas.size);
    // @clause virtio.pci.dri.notif-config-data-no-notification
    // @clause virtio.pci.dri.notif-config-data-notification-data
    // @clause virtio.pci.dri.no-notif-config-data-no
    // @clause virtio.pci.dri.no-notif-config-data-notification
    const name = (this.#taken & bit(F.NOTIF_CONFIG_DATA)) !== 0n ? this.#read('queue_notif_config_data') : index;
    const at = this.#read('queue_notify_off') * this.#multiplier;
    const width = (this.#taken & bit(F.NOTIFICATION_DATA)) !== 0n ? 4 : 2;
    if (at + width > this.#notify.bytes) return 'its doorbell is outside of the structure';
    this.#doorbells[index] = { address: this.#notify.base + at, name };
    for (const [area, address] of [
      ['desc', areas.desc],
      ['driver', areas.driver],
      ['device', areas.device],
    ] as const) {
      this.#write(`queue_${area}_lo`, address % 2 ** 32);
      this.#write(`queue_${area}_hi`, Math.floor(address / 2 ** 32));
    }
    // @clause virtio.pci.dri.queue-enable-written-last-after
    // @clause virtio.pci.dri.queue-enable-never-written-0
    this.#write('queue_enable', 1);
    return this.#read('queue_enable') === 1 ? null : 'it stays disabled';
  }

  resetQueue({ index }: AnyVirtqueue): boolean {
    this.#write('queue_select', index);
    this.#write('queue_reset', 1);
    // @clause virtio.pci.dri.queue-reset-pending-until-queue
    const done = (): boolean => this.#read('queue_reset') === 0;
    return waitUntil(this.bus, done) && this.#read('queue_enable') === 0;
  }

  // @clause virtio.pci.dri.queue-can-re-enabled-via
  // @clause virtio.pci.dri.queue-parameters-can-differ-after
  reconnect(queue: AnyVirtqueue): boolean {
    const vector = this.vectors.of(queue.index);
    if (this.vectors.active && this.#setQueueVector(queue.index, vector) !== vector) return false;
    return this.#enable(queue) === null;
  }

  disconnect(): void {
    this.vectors.disconnect();
    this.#doorbells.length = 0;
  }

  // @clause virtio.pci.dri.without-notification-data-kick-16
  // @clause virtio.pci.dri.notification-data-kick-32-bits
  notify({ index }: AnyVirtqueue, data: number | null): void {
    const doorbell = this.#doorbells[index];
    if (!doorbell) return;
    const { address, name } = doorbell;
    if (data === null) this.#notify.space.write(address, 2, name);
    else this.#notify.space.write(address, 4, ((data << 16) | name) >>> 0);
  }

  // @clause virtio.pci.dri.msi-x-use-isr-not
  // @clause virtio.pci.dri.single-vector-devices-can-driven
  isr(): number {
    return this.vectors.active ? 0 : this.#isr.space.read(this.#isr.base, 1);
  }
}
