// # A window of registers
//
// Nothing here can be discovered by listing a bus: somebody has to say where windows are, in a table or a boot parameter, and the driver looks
// whether a device answers. Version 2 has the standard's registers. Version 1 is the interface from before, with page numbers; a driver that does not
// know it steps over it like over any other version it does not know.

import { bit, F } from '../../features.ts';
import { MAGIC, MMIO_BYTES, MMIO_CONFIG, VERSION, VIRTIO_MMIO } from '../../transport/mmio.ts';
import { type DriverBus, type RegisterSpace, type RegisterWidth, waitUntil } from '../bus.ts';
import { INTERRUPT, type InterruptHandlers, type VirtioTransport } from '../transport.ts';
import type { AnyVirtqueue } from '../virtqueue.ts';

const { rows: R } = VIRTIO_MMIO;
type Register = keyof typeof R;

const PAGE_BYTES = 4096;

/** What answers in a window: a transport; null, nothing, which is no error; or why a driver cannot use it. */
export function probeMmio(bus: DriverBus, base: number): MmioTransport | null | string {
  const space = bus.memory;
  if (!space) return 'there are no registers in memory';
  const read = (name: Register): number => space.read(base + R[name].offset, 4);
  // In this order, and nothing after the first that says no.
  // @clause virtio.mmio.dri.init-starts-magicvalue-version-checks
  // @clause virtio.mmio.dri.wrong-magicvalue-device-skipped
  // @clause virtio.mmio.dri.wrong-magicvalue-can-reported-error
  if (read('MagicValue') !== MAGIC) return 'no magic value';
  const version = read('Version');
  // @clause virtio.mmio.dri.version-other-2-device-skipped
  // @clause virtio.mmio.dri.version-other-2-can-reported
  if (version !== VERSION.MODERN && version !== VERSION.LEGACY) return `version ${version}`;
  // @clause virtio.mmio.dri.deviceid-read-next-those-valid
  // @clause virtio.mmio.dri.deviceid-0-aborts-initialization
  // @clause virtio.mmio.dri.deviceid-0-device-skipped
  // @clause virtio.mmio.dri.deviceid-0-no-error-reported
  // @clause virtio.mmio.dri.deviceid-0-no-further-register
  const deviceId = read('DeviceID');
  return deviceId === 0 ? null : new MmioTransport(bus, space, base, version === VERSION.LEGACY, deviceId, read('VendorID'));
}

export class MmioTransport implements VirtioTransport {
  readonly name: string;
  readonly bus: DriverBus;
  readonly deviceId: number;
  readonly vendorId: number;
  readonly legacy: boolean;
  readonly legacyAlign: number;
  readonly features: bigint;
  readonly base: number;
  readonly #space: RegisterSpace;
  #handlers: InterruptHandlers | null = null;
  #queues: readonly AnyVirtqueue[] = [];

  constructor(bus: DriverBus, space: RegisterSpace, base: number, legacy: boolean, deviceId: number, vendorId: number) {
    this.name = `mmio ${base.toString(16)}`;
    this.bus = bus;
    this.#space = space;
    this.base = base;
    this.legacy = legacy;
    this.legacyAlign = legacy ? PAGE_BYTES : 0;
    this.deviceId = deviceId;
    this.vendorId = vendorId;
    this.features = legacy ? 0n : bit(F.RING_RESET) | bit(F.NOTIFICATION_DATA);
  }

  // Every register is 32 bits wide and is accessed so. Which of them are only read and which only written is a matter of who calls what below. Shared
  // memory has registers too; no
  // driver here has a use for it, so nobody asks.
  // @clause virtio.mmio.dri.control-registers-use-aligned-32
  // @clause virtio.mmio.dri.accesses-confined-defined-registers-config
  // @clause virtio.mmio.dri.read-only-registers-never-written
  // @clause virtio.mmio.dri.write-only-registers-never-read
  // @clause virtio.mmio.dri.shared-memory-registers-avoided-shared

  #read(name: Register): number {
    return this.#space.read(this.base + R[name].offset, 4);
  }
  #write(name: Register, value: number): void {
    this.#space.write(this.base + R[name].offset, 4, value);
  }

  getStatus(): number {
    return this.#read('Status') & 0xff;
  }
  setStatus(status: number): void {
    this.#write('Status', status);
    // The device forgets the size of a page with everything else.
    if (status === 0 && this.legacy) this.#write('GuestPageSize', PAGE_BYTES);
  }

  // @clause virtio.mmio.dri.devicefeaturessel-written-before-devicefeatures-read
  getFeatures(): bigint {
    let features = 0n;
    for (const window of this.legacy ? [0] : [0, 1]) {
      this.#write('DeviceFeaturesSel', window);
      features |= BigInt(this.#read('DeviceFeatures')) << BigInt(32 * window);
    }
    return features;
  }
  // @clause virtio.mmio.dri.driverfeaturessel-written-before-driverfeatures-written
  setFeatures(features: bigint): void {
    for (const window of this.legacy ? [0] : [0, 1]) {
      this.#write('DriverFeaturesSel', window);
      this.#write('DriverFeatures', Number((features >> BigInt(32 * window)) & 0xffff_ffffn));
    }
  }

  // ## Configuration
  //
  // Behind the registers. The old interface said nothing of the width of an access, so drivers go there byte by byte.

  generation(): number {
    return this.legacy ? 0 : this.#read('ConfigGeneration');
  }
  get configBytes(): number {
    return MMIO_BYTES - MMIO_CONFIG;
  }
  readConfig(offset: number, width: RegisterWidth): number {
    if (offset + width > this.configBytes) return 0;
    const at = this.base + MMIO_CONFIG + offset;
    if (!this.legacy) return this.#space.read(at, width);
    let value = 0;
    for (let byte = width - 1; byte >= 0; byte--) value = value * 256 + this.#space.read(at + byte, 1);
    return value;
  }
  writeConfig(offset: number, width: RegisterWidth, value: number): void {
    if (offset + width > this.configBytes) return;
    const at = this.base + MMIO_CONFIG + offset;
    if (!this.legacy) this.#space.write(at, width, value);
    else for (let byte = 0; byte < width; byte++) this.#space.write(at + byte, 1, (value >>> (8 * byte)) & 0xff);
  }

  // ## Queues

  queueSize(index: number): number {
    this.#write('QueueSel', index);
    if (this.#read(this.legacy ? 'QueuePFN' : 'QueueReady') !== 0) return 0;
    return this.#read('QueueSizeMax');
  }

  connect(queues: readonly AnyVirtqueue[], handlers: InterruptHandlers): string | null {
    this.#queues = queues;
    this.#handlers = handlers;
    for (const queue of queues) if (!this.reconnect(queue)) return `queue ${queue.index} was not taken`;
    return null;
  }

  // @clause virtio.mmio.dri.queue-can-re-enabled-via
  // @clause virtio.mmio.dri.queue-parameters-can-differ-after
  reconnect({ index, areas }: AnyVirtqueue): boolean {
    this.#write('QueueSel', index);
    if (this.legacy) {
      const page = areas.desc / PAGE_BYTES;
      if (!Number.isInteger(page) || page > 0xffff_ffff) return false;
      this.#write('QueueSize', areas.size);
      this.#write('QueueAlign', PAGE_BYTES);
      this.#write('QueuePFN', page);
      return this.#read('QueuePFN') === page;
    }
    // @clause virtio.mmio.dri.ready-queue-size-address-registers
    if (this.#read('QueueReady') !== 0) return false;
    this.#write('QueueSize', areas.size);
    for (const [area, address] of [
      ['Desc', areas.desc],
      ['Driver', areas.driver],
      ['Device', areas.device],
    ] as const) {
      this.#write(`Queue${area}Low`, address % 2 ** 32);
      this.#write(`Queue${area}High`, Math.floor(address / 2 ** 32));
    }
    this.#write('QueueReady', 1);
    return this.#read('QueueReady') === 1;
  }

  resetQueue({ index }: AnyVirtqueue): boolean {
    if (this.legacy) return false;
    this.#write('QueueSel', index);
    this.#write('QueueReset', 1);
    // @clause virtio.mmio.dri.queue-reset-pending-until-queuereset
    return waitUntil(this.bus, () => this.#read('QueueReset') === 0) && this.#read('QueueReady') === 0;
  }

  // The device has been reset, and its queues with it; still a driver stops each before it takes the memory away, and reads back that it has stopped.

  disconnect(): void {
    for (const { index } of this.#queues) {
      this.#write('QueueSel', index);
      if (this.legacy) {
        this.#write('QueuePFN', 0);
        continue;
      }
      // @clause virtio.mmio.dri.queue-stopped-writing-0-queueready
      // @clause virtio.mmio.dri.queueready-read-back-after-stop
      this.#write('QueueReady', 0);
      waitUntil(this.bus, () => this.#read('QueueReady') === 0);
    }
    this.#queues = [];
    this.#handlers = null;
  }

  notify({ index }: AnyVirtqueue, data: number | null): void {
    this.#write('QueueNotify', data === null ? index : ((data << 16) | index) >>> 0);
  }

  // @clause virtio.mmio.dri.interrupt-cause-determined-from-interruptstatus
  isr(): number {
    // What a later version may mean by other bits is not known, and must not be confirmed.
    // @clause virtio.mmio.dri.unknown-interruptstatus-bits-disregarded
    // @clause virtio.mmio.dri.handled-events-acknowledged-writing-mask
    // @clause virtio.mmio.dri.handled-events-acknowledged-through-interruptack
    // @clause virtio.mmio.dri.undefined-interruptack-bits-stay-clear
    const cause = this.#handlers ? this.#read('InterruptStatus') & (INTERRUPT.USED | INTERRUPT.CONFIG) : 0;
    if (cause) this.#write('InterruptACK', cause);
    return cause;
  }
}
