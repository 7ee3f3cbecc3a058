// # No bus at all
//
// Not every machine has PCI. A small one, or one that must start in milliseconds, can give a device a window of memory and a line, and tell the guest
// where they are. Everything is in registers of 32 bits, the configuration space behind them. Nothing can be discovered, so a machine has a fixed
// number of such windows, and one that is empty says so by a device id of 0.
//
// There are two versions. The second has the standard's registers; the first, from before, has a page number for a queue as legacy PCI does, but asks
// the driver for the size of a page and for the alignment, so that a driver on a machine with other pages could use it.
//
// ::layout VIRTIO_MMIO -- The registers, of both versions.

import type { Registers, Width } from '../../03-vcpu-loop/devices/bus.ts';
import { describe, field, kind, part, type SavedPart, savedPart } from '../../03-vcpu-loop/devices/state.ts';
import { type RegisterActions, RegisterFile, registerTable } from '../../05-pio-mmio/registers.ts';
import type { Wire } from '../../05-pio-mmio/wires.ts';
import type { Notifier, VirtioDevice } from '../device.ts';
import type { VirtQueue } from '../virt-queue.ts';
import { ISR, IsrStatus } from './isr.ts';
import { legacyAddress, placeLegacy } from './pci-legacy.ts';

/** What the first register reads as: `virt`. */
export const MAGIC = 0x7472_6976;
/** Who made it. QEMU's, since a driver might look. */
const VENDOR = 0x554d_4551;
export const VERSION = { LEGACY: 1, MODERN: 2 } as const;

/** Registers of the window. */
// biome-ignore format: table
export const VIRTIO_MMIO = registerTable('virtio-mmio', 'virtio 1.4, MMIO Device Register Layout', {
  MagicValue:        { offset: 0x000, bytes: 4, access: 'ro', text: '“virt”' },
  Version:           { offset: 0x004, bytes: 4, access: 'ro', text: '2; 1 for the legacy interface' },
  DeviceID:          { offset: 0x008, bytes: 4, access: 'ro', text: 'the type; 0: nobody here' },
  VendorID:          { offset: 0x00c, bytes: 4, access: 'ro', text: 'who made it' },
  DeviceFeatures:    { offset: 0x010, bytes: 4, access: 'ro', text: 'what the device offers' },
  DeviceFeaturesSel: { offset: 0x014, bytes: 4, access: 'wo', text: 'which 32 of them' },
  DriverFeatures:    { offset: 0x020, bytes: 4, access: 'wo', text: 'what the driver takes' },
  DriverFeaturesSel: { offset: 0x024, bytes: 4, access: 'wo', text: 'which 32 of them' },
  GuestPageSize:     { offset: 0x028, bytes: 4, access: 'wo', text: 'legacy: unit of QueuePFN' },
  QueueSel:          { offset: 0x030, bytes: 4, access: 'wo', text: 'which queue the following are about' },
  QueueSizeMax:      { offset: 0x034, bytes: 4, access: 'ro', text: 'its greatest length; 0: not there' },
  QueueSize:         { offset: 0x038, bytes: 4, access: 'wo', text: 'its length' },
  QueueAlign:        { offset: 0x03c, bytes: 4, access: 'wo', text: 'legacy: where the used ring begins' },
  QueuePFN:          { offset: 0x040, bytes: 4, access: 'rw', text: 'legacy: where it is; 0: nowhere' },
  QueueReady:        { offset: 0x044, bytes: 4, access: 'rw', text: '1: it is in use' },
  QueueNotify:       { offset: 0x050, bytes: 4, access: 'wo', text: 'the doorbell' },
  InterruptStatus:   { offset: 0x060, bytes: 4, access: 'ro', text: 'why the line was pulled' },
  InterruptACK:      { offset: 0x064, bytes: 4, access: 'wo', text: 'ones clear it' },
  Status:            { offset: 0x070, bytes: 4, access: 'rw', text: 'how far the driver has come; 0 resets' },
  QueueDescLow:      { offset: 0x080, bytes: 4, access: 'wo', text: 'descriptor area' },
  QueueDescHigh:     { offset: 0x084, bytes: 4, access: 'wo', text: 'its upper half' },
  QueueDriverLow:    { offset: 0x090, bytes: 4, access: 'wo', text: 'driver area' },
  QueueDriverHigh:   { offset: 0x094, bytes: 4, access: 'wo', text: 'its upper half' },
  QueueDeviceLow:    { offset: 0x0a0, bytes: 4, access: 'wo', text: 'device area' },
  QueueDeviceHigh:   { offset: 0x0a4, bytes: 4, access: 'wo', text: 'its upper half' },
  SHMSel:            { offset: 0x0ac, bytes: 4, access: 'wo', text: 'which shared memory' },
  SHMLenLow:         { offset: 0x0b0, bytes: 4, access: 'ro', text: 'its length; ones: there is none' },
  SHMLenHigh:        { offset: 0x0b4, bytes: 4, access: 'ro', text: 'upper half' },
  SHMBaseLow:        { offset: 0x0b8, bytes: 4, access: 'ro', text: 'where it is' },
  SHMBaseHigh:       { offset: 0x0bc, bytes: 4, access: 'ro', text: 'upper half' },
  QueueReset:        { offset: 0x0c0, bytes: 4, access: 'rw', text: '1 takes the queue back' },
  ConfigGeneration:  { offset: 0x0fc, bytes: 4, access: 'ro', text: 'moves whenever the configuration has' },
});

/** Length of a window, and where the configuration begins in it. */
export const MMIO_BYTES = 0x200;
export const MMIO_CONFIG = 0x100;
/** Where the doorbell is. */
export const MMIO_NOTIFY = VIRTIO_MMIO.rows.QueueNotify.offset;

const DEFAULT_PAGE_BYTES = 4096;
const NONE = 0xffff_ffff;

type Register = keyof typeof VIRTIO_MMIO.rows & string;
type Actions = Partial<Record<Register, RegisterActions>>;

interface MmioOptions {
  /** Null: the window is empty. */
  readonly device: VirtioDevice | null;
  readonly line: Wire;
  /** Version 1. */
  readonly legacy?: boolean;
  /** Where each shared region of the device is in the machine's memory, by its id; a region without a place is not there. */
  readonly sharedAt?: ReadonlyMap<number, number>;
}

/** One window. */
export class VirtioMmio implements Registers, Notifier {
  readonly name = 'virtio-mmio';
  readonly device: VirtioDevice | null;
  readonly isLegacy: boolean;
  readonly interrupt: IsrStatus;
  /** Told when a queue can be used from now on, or no longer: for wires that go past these registers. */
  onQueueChange: (queue: number) => void = () => {};
  readonly #file: RegisterFile<Register>;
  #deviceSelect = 0;
  #driverSelect = 0;
  #queueSelect = 0;
  #sharedSelect = 0;
  #pageBytes = DEFAULT_PAGE_BYTES;
  #align = DEFAULT_PAGE_BYTES;

  constructor({ device, line, legacy = false, sharedAt = new Map() }: MmioOptions) {
    this.device = device;
    this.isLegacy = legacy;
    this.interrupt = new IsrStatus((level) => line.set(level && this.interrupt.bits !== 0));
    // @clause virtio.mmio.dev.magicvalue-register-reads-0x74726976
    // @clause virtio.mmio.dev.version-register-reads-2
    const identity: Actions = {
      MagicValue: { read: () => MAGIC },
      Version: { read: () => (legacy ? VERSION.LEGACY : VERSION.MODERN) },
      DeviceID: { read: () => device?.model.deviceId ?? 0 },
      VendorID: { read: () => VENDOR },
    };
    this.#file = new RegisterFile(
      VIRTIO_MMIO,
      device ? { ...identity, ...this.#common(device), ...(legacy ? this.#version1(device) : this.#version2(device, sharedAt)) } : identity,
    );
    if (!device) return;
    device.notifier = this;
    device.legacy = legacy;
  }

  get #queue(): VirtQueue | undefined {
    return this.device?.queues[this.#queueSelect];
  }

  /** What both versions have. */
  #common(device: VirtioDevice): Actions {
    const offer = device.offerTo(this.isLegacy);
    const windows = this.isLegacy ? 1 : 2;
    const orders: Actions = {
      DeviceFeaturesSel: {
        write: (value) => {
          this.#deviceSelect = value;
        },
      },
      DriverFeaturesSel: {
        write: (value) => {
          this.#driverSelect = value;
        },
      },
      DriverFeatures: { write: (value) => device.setDriverFeatures(this.#driverSelect, value) },
      QueueSel: {
        write: (value) => {
          this.#queueSelect = value;
        },
      },
      QueueSize: { write: (value) => this.#queue?.setSize(value) },
      QueueNotify: { write: (value) => device.kick(value & 0xffff, value >>> 16) },
    };
    return {
      ...Object.fromEntries(
        Object.entries(orders).map(([name, { write }]) => [name, { write: (value: number) => void (device.suspended || write?.(value, 0)) }]),
      ),
      DeviceFeatures: { read: () => (this.#deviceSelect < windows ? Number((offer >> BigInt(32 * this.#deviceSelect)) & 0xffff_ffffn) : 0) },
      QueueSizeMax: { read: () => this.#queue?.maxSize ?? 0 },
      // @clause virtio.mmio.dev.interruptstatus-bit-set-from-event
      // @clause virtio.mmio.dev.interruptstatus-bits-without-event-read
      InterruptStatus: { read: () => this.interrupt.bits },
      InterruptACK: { write: (value) => this.interrupt.acknowledge(value) },
      Status: { read: () => device.status, write: (value) => device.setStatus(value & 0xff) },
    };
  }

  #version2(device: VirtioDevice, sharedAt: ReadonlyMap<number, number>): Actions {
    const area = (half: number): RegisterActions => ({ write: (value) => void (device.suspended || this.#queue?.setArea(half, value)) });
    // @clause virtio.shared-memory.dev.shared-regions-not-used-device
    // @clause virtio.mmio.dev.shm-absent
    const shared = (): { readonly bytes: number; readonly at: number } | null => {
      const region = device.model.sharedMemory?.find(({ id }) => id === this.#sharedSelect);
      const at = region && sharedAt.get(region.id);
      return region && at !== undefined ? { bytes: region.memory.length, at } : null;
    };
    const halves = (value: () => number | undefined): [RegisterActions, RegisterActions] => [
      { read: () => (value() ?? NONE) >>> 0 },
      { read: () => Math.floor((value() ?? NONE * 2 ** 32) / 2 ** 32) >>> 0 },
    ];
    const [SHMLenLow, SHMLenHigh] = halves(() => shared()?.bytes);
    const [SHMBaseLow, SHMBaseHigh] = halves(() => shared()?.at);
    return {
      // @clause virtio.mmio.dev.queue-contents-untouched-queueready-0
      QueueReady: {
        read: () => (this.#queue?.enabled ? 1 : 0),
        write: (value) => {
          if (device.suspended) return;
          if (value === 1) this.#queue?.enable();
          else if (value === 0) device.stopQueue(this.#queueSelect);
        },
      },
      QueueDescLow: area(0),
      QueueDescHigh: area(1),
      QueueDriverLow: area(2),
      QueueDriverHigh: area(3),
      QueueDeviceLow: area(4),
      QueueDeviceHigh: area(5),
      SHMSel: {
        write: (value) => {
          this.#sharedSelect = value;
        },
      },
      SHMLenLow,
      SHMLenHigh,
      SHMBaseLow,
      SHMBaseHigh,
      // @clause virtio.mmio.dev.writing-1-queuereset-resets-queue
      // @clause virtio.mmio.dev.ring-reset-queuereset-reads-0
      // @clause virtio.mmio.dev.ring-reset-queuereset-reads-0-once
      // @clause virtio.mmio.dev.queuereset-keeps-reading-1-during
      // @clause virtio.mmio.dev.finished-queue-reset-queuereset-queueready
      QueueReset: { read: () => 0, write: (value) => void (value === 1 && !device.suspended && device.resetQueue(this.#queueSelect)) },
      // @clause virtio.mmio.dev.configgeneration-changes-config-could-read
      ConfigGeneration: { read: () => device.generation },
    };
  }

  // A page size or an alignment that is no power of two would put the parts of a queue anywhere. It is not taken.

  #version1(device: VirtioDevice): Actions {
    const sizeOf = (value: number, old: number): number => (value > 0 && (value & (value - 1)) === 0 ? value >>> 0 : old);
    return {
      GuestPageSize: {
        write: (value) => {
          this.#pageBytes = sizeOf(value, this.#pageBytes);
        },
      },
      QueueAlign: {
        write: (value) => {
          this.#align = sizeOf(value, this.#align);
        },
      },
      QueuePFN: {
        read: () => Math.floor(legacyAddress(this.#queue) / this.#pageBytes),
        write: (value) => {
          if (this.#queue) placeLegacy(device, this.#queue, value * this.#pageBytes, this.#align);
        },
      },
    };
  }

  // ## Widths
  //
  // A driver uses whole registers. What is narrower is served by the bytes that it names, what is wider by one register after the other; an offset
  // without a register is zero, as in the empty window.

  read(offset: number, width: Width): bigint {
    if (offset >= MMIO_CONFIG) return this.#readConfig(offset - MMIO_CONFIG, width);
    let value = 0n;
    for (let at = 0; at < width; ) {
      const found = offset + at < MMIO_CONFIG ? VIRTIO_MMIO.at(offset + at) : null;
      const bytes = found ? (Math.min(4 - found.byte, width - at) as 1 | 2 | 3 | 4) : 1;
      if (found) value |= readPart(this.#file, offset + at, bytes) << BigInt(8 * at);
      else if (offset + at >= MMIO_CONFIG) value |= this.#readConfig(offset + at - MMIO_CONFIG, 1) << BigInt(8 * at);
      at += bytes;
    }
    return value;
  }

  write(offset: number, width: Width, value: bigint): void {
    if (offset >= MMIO_CONFIG) this.#writeConfig(offset - MMIO_CONFIG, width, value);
    else if (offset + width <= MMIO_CONFIG) this.#file.write(offset, width, value);
    else for (let at = 0; at < width; at++) this.write(offset + at, 1, (value >> BigInt(8 * at)) & 0xffn);
  }

  #readConfig(offset: number, width: Width): bigint {
    if (!this.device) return 0n;
    if (width !== 8) return BigInt(this.device.readConfig(offset, width));
    return BigInt(this.device.readConfig(offset, 4)) | (BigInt(this.device.readConfig(offset + 4, 4)) << 32n);
  }

  #writeConfig(offset: number, width: Width, value: bigint): void {
    if (width !== 8) this.device?.writeConfig(offset, width, Number(value));
    else for (const at of [0, 4] as const) this.device?.writeConfig(offset + at, 4, Number((value >> BigInt(8 * at)) & 0xffff_ffffn));
  }

  // ## Telling the driver

  usedBuffer(): void {
    this.interrupt.raise(ISR.QUEUE);
  }

  configChange(): void {
    this.interrupt.raise(ISR.CONFIG);
  }

  queueChanged(queue: number): void {
    this.onQueueChange(queue);
  }

  // @clause virtio.mmio.dev.reset-clears-interruptstatus-every-queueready
  resetNotifier(): void {
    this.interrupt.clear();
    this.#deviceSelect = this.#driverSelect = this.#queueSelect = this.#sharedSelect = 0;
  }

  static readonly STATE = describe<VirtioMmio>('virtio-mmio', 1, {
    interrupt: part((window) => window.interrupt, IsrStatus.STATE),
    selectors: field(
      kind.record({ device: kind.u32, driver: kind.u32, queue: kind.u32, shared: kind.u32 }),
      (w) => ({ device: w.#deviceSelect, driver: w.#driverSelect, queue: w.#queueSelect, shared: w.#sharedSelect }),
      (w, v) => {
        ({ device: w.#deviceSelect, driver: w.#driverSelect, queue: w.#queueSelect, shared: w.#sharedSelect } = v);
      },
    ),
    legacy: field(
      kind.record({ pageBytes: kind.u32, align: kind.u32 }),
      (w) => ({ pageBytes: w.#pageBytes, align: w.#align }),
      (w, v) => {
        ({ pageBytes: w.#pageBytes, align: w.#align } = v);
      },
    ),
  });

  savedParts(name: string): SavedPart[] {
    return [savedPart<VirtioMmio>(name, this, VirtioMmio.STATE), ...(this.device?.savedParts(`${name} virtio`) ?? [])];
  }

  /** The reset line of the machine. */
  reset(): void {
    this.#pageBytes = this.#align = DEFAULT_PAGE_BYTES;
    this.device?.reset();
  }
}

function readPart(file: Registers, offset: number, bytes: number): bigint {
  let value = 0n;
  for (let at = 0; at < bytes; ) {
    const width = (bytes - at >= 4 ? 4 : bytes - at >= 2 ? 2 : 1) as Width;
    value |= file.read(offset + at, width) << BigInt(8 * at);
    at += width;
  }
  return value;
}
