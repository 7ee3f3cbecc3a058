// # A virtio device as a PCI function
//
// One device, up to four ways in: the legacy ports, the modern structures in memory, a doorbell among the ports, and configuration space. They are
// views of the same registers. Which of them there are is the difference between the three kinds of device that are on sale: *legacy* (ports alone),
// *modern* (memory alone) and *transitional* (both), and the identity says so, because a driver from before the standard must not find a device that
// it cannot drive.

import { assert } from '../../01-hardware-background/physical-memory.ts';
import { type Bus, loadValue, type Registers, storeValue } from '../../03-vcpu-loop/devices/bus.ts';
import { describe, kind, own, part, type SavedPart, savedPart } from '../../03-vcpu-loop/devices/state.ts';
import type { BarSpec } from '../../05-pio-mmio/pci/bars.ts';
import { PciFunction } from '../../05-pio-mmio/pci/function.ts';
import type { Notifier, SharedRegion, VirtioDevice } from '../device.ts';
import { DEVICE_ID } from '../features.ts';
import type { DeviceMemory, DmaAccess } from '../memory.ts';
import { CAP_VENDOR, CFG_TYPE, capabilityBytes, type Structure } from './capabilities.ts';
import { COMMON_BYTES, CommonConfig, NO_VECTOR } from './common-config.ts';
import { ISR, IsrStatus } from './isr.ts';
import { DOORBELL_BYTES, DOORBELL_PAGE_BYTES, doorbells, sharedDoorbell } from './notify.ts';
import { addConfigAccess } from './pci-cfg.ts';
import { LEGACY_BYTES, LEGACY_VECTOR_BYTES, LegacyPci } from './pci-legacy.ts';

/** Red Hat's vendor id, under which all virtio devices are. */
// @clause virtio.pci.dev.pci-vendor-id-0x1af4
const VIRTIO_VENDOR = 0x1af4;
/** Device id of a modern device: this plus its type. */
const MODERN_DEVICE_ID = 0x1040;
/** Device ids from before the standard, by type. */
// biome-ignore format: table
export const TRANSITIONAL_ID: Readonly<Record<number, number>> = {
  [DEVICE_ID.NET]: 0x1000, [DEVICE_ID.BLOCK]: 0x1001, [DEVICE_ID.BALLOON]: 0x1002,
  [DEVICE_ID.CONSOLE]: 0x1003, [DEVICE_ID.SCSI]: 0x1004, [DEVICE_ID.ENTROPY]: 0x1005,
};
/** Of a modern device; a small number here would name the type of a transitional one. */
const MODERN_SUBSYSTEM = 0x1100;

// The shape is QEMU's, as far as a shape is nobody's business: firmware and tests have met it everywhere.

/** Which BAR has what. */
export const BAR = { LEGACY: 0, MSIX: 1, SHARED: 2, PIO_NOTIFY: 2, MODERN: 4 } as const;
/** Where the structures are in the modern BAR. */
export const PLACE = { COMMON: 0x0000, ISR: 0x1000, DEVICE: 0x2000, NOTIFY: 0x3000 } as const;
const STRUCTURE_BYTES = 0x1000;
const ISR_BYTES = 1;
const MAX_QUEUES = 1024;
/** Vectors that MSI-X has at most, and where its pending bits are while the table is small. */
const MAX_VECTORS = 2048;
const MSIX_BAR_BYTES = 4096;
const ENTRY_BYTES = 16;
const REVISION = { TRANSITIONAL: 0, MODERN: 1 } as const;

interface VirtioPciOptions {
  readonly device: VirtioDevice;
  /** The structures of the standard. */
  readonly modern?: boolean;
  /** The ports from before. */
  readonly legacy?: boolean;
  /** MSI-X vectors; 0: no MSI-X. */
  readonly vectors?: number;
  /** Class, subclass and interface. */
  readonly classCode?: number;
  /** A page for each doorbell. */
  readonly pagePerVq?: boolean;
  /** A doorbell among the ports as well. */
  readonly pioNotify?: boolean;
}

const CLASS_OTHER = 0x00_ff_00;
const powerOfTwo = (bytes: number): number => 2 ** Math.ceil(Math.log2(bytes));

/** Registers that exist once the function does. */
const later = (name: string, registers: () => Registers): Registers => ({
  name,
  read: (offset, width) => registers().read(offset, width),
  write: (offset, width, value) => registers().write(offset, width, value),
});

/** Where every region of shared memory begins in its BAR. */
function sharedPlaces(regions: readonly SharedRegion[]): { readonly region: SharedRegion; readonly offset: number }[] {
  let end = 0;
  return regions.map((region) => {
    const offset = end;
    end += Math.ceil(region.memory.length / STRUCTURE_BYTES) * STRUCTURE_BYTES;
    return { region, offset };
  });
}

// @clause virtio.pci.dev.guest-visible-interface-conforms-applicable
export class VirtioPci extends PciFunction implements Notifier {
  readonly virtio: VirtioDevice;
  readonly isr: IsrStatus;
  readonly vectors: number;
  /** Distance of the doorbells. */
  readonly multiplier: number;
  readonly isModern: boolean;
  readonly isLegacy: boolean;
  readonly pioNotify: boolean;
  configVector: number = NO_VECTOR;
  readonly #common: CommonConfig;
  readonly #legacyPorts: LegacyPci;
  /** Told when a queue can be used from now on, or no longer, or has another vector: for wires that go past this function. */
  onQueueChange: (queue: number) => void = () => {};
  /** Told when a region may have moved, or the function may or may not reach memory any more. */
  onMove: () => void = () => {};
  /** Asked to send a vector's message; false when it cannot, and the function has to. */
  onMessage: (vector: number) => boolean = () => false;

  constructor({ device, modern = true, legacy = false, vectors = device.queues.length + 1, classCode = CLASS_OTHER, ...shape }: VirtioPciOptions) {
    const { pagePerVq = false, pioNotify = false } = shape;
    const { deviceId } = device.model;
    const transitionalId = TRANSITIONAL_ID[deviceId];
    assert(modern || legacy, `${device.name}: neither modern nor legacy`);
    assert(!legacy || transitionalId !== undefined, `${device.name}: there is no legacy device of type ${deviceId}`);
    assert(vectors <= MAX_VECTORS && device.queues.length <= MAX_QUEUES, `${device.name}: ${vectors} vectors, ${device.queues.length} queues`);
    const multiplier = pagePerVq ? DOORBELL_PAGE_BYTES : DOORBELL_BYTES;
    const notifyBytes = multiplier * (pagePerVq ? powerOfTwo(device.queues.length) : MAX_QUEUES);
    const configBytes = device.model.config.bytes;
    assert(configBytes <= STRUCTURE_BYTES, `${device.name}: a configuration of ${configBytes} bytes`);
    const shared = sharedPlaces(device.model.sharedMemory ?? []);
    assert(shared.length === 0 || !pioNotify, `${device.name}: shared memory and a doorbell among the ports want the same BAR`);
    // @clause virtio.pci.dev.shmem-cap-id-unique-per
    assert(new Set(shared.map(({ region }) => region.id)).size === shared.length, `${device.name}: two shared regions of one id`);
    const sharedBytes = shared.reduce((end, { region, offset }) => Math.max(end, offset + region.memory.length), 0);
    const { name } = device;

    const bars: BarSpec[] = [];
    if (legacy)
      bars.push({
        index: BAR.LEGACY,
        kind: 'io',
        bytes: powerOfTwo(LEGACY_BYTES + (vectors > 0 ? LEGACY_VECTOR_BYTES : 0) + configBytes),
        registers: later(`${name} ports`, () => this.#legacyPorts),
      });
    if (vectors > 0)
      bars.push({ index: BAR.MSIX, kind: 'mem32', bytes: msixBytes(vectors), registers: { name: `${name} msi-x`, read: () => 0n, write() {} } });
    if (modern && pioNotify) bars.push({ index: BAR.PIO_NOTIFY, kind: 'io', bytes: 4, registers: sharedDoorbell(device) });
    if (shared.length > 0)
      bars.push({
        index: BAR.SHARED,
        kind: 'mem64',
        bytes: powerOfTwo(Math.max(sharedBytes, STRUCTURE_BYTES)),
        prefetchable: true,
        registers: { name: `${name} shared memory`, read: () => 0n, write() {} },
      });
    if (modern)
      bars.push({
        index: BAR.MODERN,
        kind: 'mem64',
        bytes: powerOfTwo(PLACE.NOTIFY + notifyBytes),
        prefetchable: true,
        registers: { name, read: () => 0n, write() {} },
      });
    // @clause virtio.pci.dev.pci-device-id-0x1040-virtio
    // @clause virtio.pci.dev.non-transitional-device-id-within
    // @clause virtio.pci.dev.non-transitional-revision-id-least
    // @clause virtio.pci.dev.transitional-identity
    // @clause virtio.pci.dev.non-transitional-subsystem-device-id
    // @clause virtio.pci.dev.subsystem-vendor-device-ids-can
    super({
      name,
      identity: {
        vendorId: VIRTIO_VENDOR,
        deviceId: legacy ? (transitionalId as number) : MODERN_DEVICE_ID + deviceId,
        revisionId: legacy ? REVISION.TRANSITIONAL : REVISION.MODERN,
        classCode,
        subsystemVendorId: VIRTIO_VENDOR,
        subsystemId: legacy ? deviceId : MODERN_SUBSYSTEM,
        interruptPin: 1,
      },
      bars,
      onReset: () => this.virtio.reset(),
    });
    this.virtio = device;
    this.vectors = vectors;
    this.multiplier = multiplier;
    this.isModern = modern;
    this.isLegacy = legacy;
    this.pioNotify = modern && pioNotify;
    this.isr = new IsrStatus(() => this.#drive());
    this.#common = new CommonConfig(device, this);
    this.#legacyPorts = new LegacyPci(device, this, { isr: this.isr, msixEnabled: () => this.msix?.enabled ?? false });
    device.notifier = this;
    device.legacy = !modern;
    device.setReach(this.isMaster);

    // @clause virtio.pci.dev.vector-count-advertised-through-msi
    // @clause virtio.pci.dev.msi-x-device-supports-between
    if (vectors > 0) {
      const msix = this.addMsix({ bar: BAR.MSIX, vectors, tableOffset: 0, pbaOffset: msixBytes(vectors) / 2 });
      this.config.on(msix + 2, 2, () => this.#drive());
    }
    if (modern) this.#addStructures(shared, notifyBytes, pioNotify);
  }

  // ## The structures
  //
  // Each kind is there at least once. Where there are two doorbells the one among the ports comes first: a driver takes the first that it can use,
  // and it is the cheaper one.

  // @clause virtio.pci.dev.least-one-common-cfg-capability
  // @clause virtio.pci.dev.least-one-notification-capability-exists
  // @clause virtio.pci.dev.least-one-isr-capability-exists
  // @clause virtio.pci.dev.duplicate-structures-listed-best-first
  #addStructures(shared: ReturnType<typeof sharedPlaces>, notifyBytes: number, pioNotify: boolean): void {
    const device = this.virtio;
    const inside = this.bars[BAR.MODERN]?.inside as Bus;
    const configBytes = device.model.config.bytes;
    // @clause virtio.pci.dev.common-cfg-offset-aligned-4
    const common: Structure = { type: CFG_TYPE.COMMON, bar: BAR.MODERN, offset: PLACE.COMMON, length: COMMON_BYTES };
    const isr: Structure = { type: CFG_TYPE.ISR, bar: BAR.MODERN, offset: PLACE.ISR, length: ISR_BYTES };
    // @clause virtio.pci.dev.device-specific-cfg-offset-aligned
    const config: Structure = { type: CFG_TYPE.DEVICE, bar: BAR.MODERN, offset: PLACE.DEVICE, length: configBytes };
    // @clause virtio.pci.dev.no-notification-data-notify-cap
    // @clause virtio.pci.dev.no-notification-data-notify-cap-length
    // @clause virtio.pci.dev.no-notification-data-cap-length
    // @clause virtio.pci.dev.no-notification-data-cap-length-notify
    // @clause virtio.pci.dev.notification-data-notify-cap-offset
    // @clause virtio.pci.dev.notification-data-notify-cap-length
    // @clause virtio.pci.dev.notification-data-cap-length-covers
    // @clause virtio.pci.dev.notification-data-cap-length-notify
    const notify: Structure = { type: CFG_TYPE.NOTIFY, bar: BAR.MODERN, offset: PLACE.NOTIFY, length: notifyBytes, extra: [this.multiplier] };
    const port: Structure = { type: CFG_TYPE.NOTIFY, bar: BAR.PIO_NOTIFY, offset: 0, length: 4, extra: [0] };
    const structures = [common, isr, ...(configBytes > 0 ? [config] : []), ...(pioNotify ? [port] : []), notify];
    for (const structure of structures) this.addCapability(CAP_VENDOR, capabilityBytes(structure));

    inside.attach(PLACE.COMMON, COMMON_BYTES, this.#common);
    inside.attach(PLACE.ISR, DOORBELL_BYTES, this.isr.registers);
    inside.attach(PLACE.NOTIFY, notifyBytes, doorbells(device, this.multiplier));
    if (configBytes > 0)
      inside.attach(PLACE.DEVICE, configBytes, {
        name: `${device.name} configuration`,
        impl: { min: 1, max: 4 },
        read: (offset, width) => BigInt(device.readConfig(offset, width as 1 | 2 | 4)),
        write: (offset, width, value) => device.writeConfig(offset, width as 1 | 2 | 4, Number(value)),
      });

    // Memory that both sides use besides the queues has a capability with 64-bit places, and a number by which the type names it.
    // @clause virtio.pci.dev.64-bit-shared-memory-range
    for (const { region, offset } of shared) {
      const { id, memory } = region;
      this.addCapability(
        CAP_VENDOR,
        capabilityBytes({ type: CFG_TYPE.SHARED_MEMORY, bar: BAR.SHARED, id, offset, length: memory.length, extra: [0, 0] }),
      );
      this.bars[BAR.SHARED]?.inside.attach(offset, memory.length, {
        name: `${device.name} shared memory ${id}`,
        read: (at, width) => loadValue(memory, at, width),
        write: (at, width, value) => storeValue(memory, at, width, value),
      });
    }
    addConfigAccess(this, structures);
  }

  // ## Telling the driver
  //
  // With MSI-X each event is the message of its vector, or nothing at all if the driver gave it none. Without, everything is the pin, and the status
  // register says what it was.

  // @clause virtio.pci.dev.no-msi-x-isr-queue
  // @clause virtio.pci.dev.msi-x-queue-vector-no
  usedBuffer(queue: number): void {
    if (!this.msix?.enabled) this.isr.raise(ISR.QUEUE);
    else this.#message(this.virtio.queues[queue]?.vector ?? NO_VECTOR);
  }

  // @clause virtio.pci.dev.isr-config-bit-raised-before
  // @clause virtio.pci.dev.spurious-config-interrupt
  // @clause virtio.pci.dev.msi-x-config-vector-no
  configChange(): void {
    this.isr.raise(ISR.CONFIG);
    if (this.msix?.enabled) this.#message(this.configVector);
  }

  protected override decode(): void {
    super.decode();
    this.virtio.setReach(this.isMaster);
    this.onMove();
  }

  #message(vector: number): void {
    if (vector !== NO_VECTOR && !this.onMessage(vector)) this.signal(vector);
  }

  // @clause virtio.pci.dev.no-msi-x-pci-interrupt
  #drive(): void {
    this.intx.set(!this.msix?.enabled && this.isr.bits !== 0);
  }

  queueChanged(queue: number): void {
    this.onQueueChange(queue);
  }

  // A reset of the device is one of the transport's registers too, as far as they are virtio's: an interrupt that waited is gone, and no event has a
  // vector, nor does a message that a mask holds back go out later. The MSI-X table is PCI's, and stays.
  // @clause virtio.pci.dev.reset-unmaps-every-queue-config
  resetNotifier(): void {
    this.isr.clear();
    this.configVector = NO_VECTOR;
    this.#common.reset();
    this.#legacyPorts.reset();
    this.msix?.forget();
  }

  override get busyNow(): string | null {
    return this.virtio.busyNow;
  }

  static readonly STATE_OF_TRANSPORT = describe<VirtioPci>('virtio-pci', 1, {
    isr: part((fn) => fn.isr, IsrStatus.STATE),
    configVector: own(kind.u16, 'configVector'),
    common: part((fn) => fn.#common, CommonConfig.STATE),
    legacy: part((fn) => fn.#legacyPorts, LegacyPci.STATE),
  });

  override savedParts(name: string): SavedPart[] {
    return [
      ...super.savedParts(name),
      savedPart<VirtioPci>(`${name} transport`, this, VirtioPci.STATE_OF_TRANSPORT),
      ...this.virtio.savedParts(`${name} virtio`),
    ];
  }
}

/** Size of the BAR for MSI-X: the table in its lower half, the pending bits in the upper. */
const msixBytes = (vectors: number): number => Math.max(MSIX_BAR_BYTES, powerOfTwo(2 * ENTRY_BYTES * vectors));

// A function may touch memory while the driver lets it be a bus master, and no longer. Drivers from before the standard did not know that they had to
// say so, and those devices never asked.

/** The machine's memory, as far as the function may reach it. */
export class BusMasterMemory implements DeviceMemory {
  readonly #memory: DeviceMemory;
  #fn: VirtioPci | null = null;

  constructor(memory: DeviceMemory) {
    this.#memory = memory;
  }

  belongTo(fn: VirtioPci): void {
    this.#fn = fn;
  }

  map(address: number, bytes: number, access: DmaAccess): readonly Uint8Array[] | null {
    return !this.#fn || this.#fn.virtio.reachesMemory ? this.#memory.map(address, bytes, access) : null;
  }

  written(address: number, bytes: number): void {
    this.#memory.written(address, bytes);
  }
}
