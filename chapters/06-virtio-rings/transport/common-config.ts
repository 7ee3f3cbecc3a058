// # The registers in the middle
//
// A modern PCI device has one structure of {{COMMON_BYTES}} bytes for everything that is the same for all types: features through a window of 32
// bits, the status, and one set of queue registers that shows whichever queue was selected. All values are little-endian. The 64-bit addresses are
// two halves each, since a 32-bit driver has nothing wider.
//
// ::layout COMMON_CONFIG -- The common configuration structure.

import { describe, field, kind } from '../../03-vcpu-loop/devices/state.ts';
import { type RegisterActions, RegisterFile, registerTable } from '../../05-pio-mmio/registers.ts';
import type { VirtioDevice } from '../device.ts';
import type { VirtQueue } from '../virt-queue.ts';

// @clause virtio.pci.dev.64-bit-config-field-halves
/** `struct virtio_pci_common_cfg`. */
// biome-ignore format: table
export const COMMON_CONFIG = registerTable('virtio-pci-common', 'virtio 1.4, Common configuration structure layout', {
  device_feature_select:   { offset: 0,  bytes: 4, access: 'rw', text: 'which 32 of the device’s features are shown' },
  device_feature:          { offset: 4,  bytes: 4, access: 'ro', text: 'what the device offers' },
  driver_feature_select:   { offset: 8,  bytes: 4, access: 'rw', text: 'which 32 of the driver’s features are shown' },
  driver_feature:          { offset: 12, bytes: 4, access: 'rw', text: 'what the driver takes' },
  config_msix_vector:      { offset: 16, bytes: 2, access: 'rw', text: 'vector of configuration changes' },
  num_queues:              { offset: 18, bytes: 2, access: 'ro', text: 'how many queues there can be' },
  device_status:           { offset: 20, bytes: 1, access: 'rw', text: 'how far the driver has come; 0 resets' },
  config_generation:       { offset: 21, bytes: 1, access: 'ro', text: 'moves whenever the configuration has' },
  queue_select:            { offset: 22, bytes: 2, access: 'rw', text: 'which queue the following are about' },
  queue_size:              { offset: 24, bytes: 2, access: 'rw', text: 'its length; 0 for a queue that is not there' },
  queue_msix_vector:       { offset: 26, bytes: 2, access: 'rw', text: 'its vector' },
  queue_enable:            { offset: 28, bytes: 2, access: 'rw', text: '1: it is in use' },
  queue_notify_off:        { offset: 30, bytes: 2, access: 'ro', text: 'where its doorbell is, in units of the multiplier' },
  queue_desc_lo:           { offset: 32, bytes: 4, access: 'rw', text: 'descriptor area' },
  queue_desc_hi:           { offset: 36, bytes: 4, access: 'rw', text: 'its upper half' },
  queue_driver_lo:         { offset: 40, bytes: 4, access: 'rw', text: 'driver area' },
  queue_driver_hi:         { offset: 44, bytes: 4, access: 'rw', text: 'its upper half' },
  queue_device_lo:         { offset: 48, bytes: 4, access: 'rw', text: 'device area' },
  queue_device_hi:         { offset: 52, bytes: 4, access: 'rw', text: 'its upper half' },
  queue_notif_config_data: { offset: 56, bytes: 2, access: 'ro', text: 'what a kick says, with NOTIF_CONFIG_DATA' },
  queue_reset:             { offset: 58, bytes: 2, access: 'rw', text: '1 takes the queue back' },
  admin_queue_index:       { offset: 60, bytes: 2, access: 'ro', text: 'first of the administration queues' },
  admin_queue_num:         { offset: 62, bytes: 2, access: 'ro', text: 'how many of them' },
});

/** Length of the structure. */
export const COMMON_BYTES = 64;
/** Of a vector register: no vector. */
export const NO_VECTOR = 0xffff;

type Register = keyof typeof COMMON_CONFIG.rows & string;

/** What the transport has besides the device: the vectors. */
export interface VectorTable {
  /** Vectors that exist. */
  readonly vectors: number;
  configVector: number;
}

// @clause virtio.pci.dev.failed-mapping-reads-back-no
// @clause virtio.pci.dev.vector-registers-read-back-mapping
// @clause virtio.pci.dev.mapping-requests-fail-only-they
// @clause virtio.pci.dev.event-can-map-vector-within
// @clause virtio.pci.dev.event-can-unmapped
/** What a vector register holds after a write. */
export const mapped = ({ vectors }: VectorTable, vector: number): number => (vector < vectors ? vector : NO_VECTOR);

interface Selectors {
  device: number;
  driver: number;
  queue: number;
}

/** The structure of one device. */
export class CommonConfig extends RegisterFile<Register> {
  constructor(device: VirtioDevice, table: VectorTable) {
    const select: Selectors = { device: 0, driver: 0, queue: 0 };
    const queue = (): VirtQueue | undefined => device.queues[select.queue];
    const area = (half: number): RegisterActions => ({
      read: () => queue()?.areas[half] ?? 0,
      write: (value) => queue()?.setArea(half, value),
    });
    const window = (features: bigint, select: number): number => (select > 1 ? 0 : Number((features >> BigInt(32 * select)) & 0xffff_ffffn));
    // A device that sleeps takes no orders but to wake up.
    // @clause virtio.suspend.dev.suspended-config-writes-other-status
    const whileAwake = (actions: Partial<Record<Register, RegisterActions>>): Partial<Record<Register, RegisterActions>> =>
      Object.fromEntries(
        Object.entries(actions).map(([name, { read, write }]) => [
          name,
          { ...(read && { read }), ...(write && { write: (value: number, index: number) => void (device.suspended || write(value, index)) }) },
        ]),
      );
    super(COMMON_CONFIG, {
      ...whileAwake({
        device_feature_select: {
          read: () => select.device,
          write: (value) => {
            select.device = value;
          },
        },
        // @clause virtio.pci.dev.device-feature-shows-32-bit
        device_feature: { read: () => window(device.offerTo(false), select.device) },
        driver_feature_select: {
          read: () => select.driver,
          write: (value) => {
            select.driver = value;
          },
        },
        // @clause virtio.pci.dev.driver-feature-window-reads-back
        // @clause virtio.pci.dev.invalid-driver-written-bits-can
        driver_feature: {
          read: () => window(device.driverFeatures, select.driver),
          write(value) {
            device.legacy = false;
            device.setDriverFeatures(select.driver, value);
          },
        },
        config_msix_vector: {
          read: () => table.configVector,
          write: (value) => {
            table.configVector = mapped(table, value);
          },
        },
        num_queues: { read: () => device.queues.length },
        // @clause virtio.pci.dev.config-generation-differs-after-driver
        config_generation: { read: () => device.generation & 0xff },
        queue_select: {
          read: () => select.queue,
          write: (value) => {
            select.queue = value;
          },
        },
        // @clause virtio.pci.dev.queue-size-0-signals-selected
        queue_size: { read: () => queue()?.size ?? 0, write: (value) => queue()?.setSize(value) },
        queue_msix_vector: {
          read: () => queue()?.vector ?? NO_VECTOR,
          write(value) {
            const chosen = queue();
            if (!chosen) return;
            chosen.vector = mapped(table, value);
            device.notifier.queueChanged?.(chosen.index);
          },
        },
        // @clause virtio.pci.dev.queue-enable-reads-0-after
        queue_enable: { read: () => (queue()?.enabled ? 1 : 0), write: (value) => void (value === 1 && queue()?.enable()) },
        queue_notify_off: { read: () => (queue() ? select.queue : 0) },
        queue_desc_lo: area(0),
        queue_desc_hi: area(1),
        queue_driver_lo: area(2),
        queue_driver_hi: area(3),
        queue_device_lo: area(4),
        queue_device_hi: area(5),
        // A reset of a queue takes no time here: what the model has begun for it is abandoned at once. So the register never shows a reset that is
        // under way.
        // @clause virtio.pci.dev.writing-1-queue-reset-resets
        // @clause virtio.pci.dev.ring-reset-queue-reset-reads
        // @clause virtio.pci.dev.ring-reset-queue-reset-reads-0
        // @clause virtio.pci.dev.queue-reset-keeps-reading-1
        // @clause virtio.pci.dev.finished-queue-reset-queue-reset
        queue_reset: { read: () => 0, write: (value) => void (value === 1 && device.resetQueue(select.queue)) },
      }),
      // @clause virtio.pci.dev.writing-status-0-resets-status
      device_status: {
        read: () => device.status,
        write(value) {
          device.legacy = false;
          device.setStatus(value);
        },
      },
    });
    this.selectors = select;
    this.reset = () => {
      select.device = select.driver = select.queue = 0;
    };
  }

  /** The selectors too are as at power-on. */
  readonly reset: () => void;
  /** Which features and which queue the driver is looking at. */
  readonly selectors: Selectors;

  static readonly STATE = describe<CommonConfig>('virtio-pci common configuration', 1, {
    selectors: field(
      kind.record<Selectors>({ device: kind.u32, driver: kind.u32, queue: kind.u16 }),
      ({ selectors }) => selectors,
      ({ selectors }, v) => void Object.assign(selectors, v),
    ),
  });
}
