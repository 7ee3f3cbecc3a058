// # Fields and where they are
//
// The specification has one set of ideas (select a queue, say its size, enable it) and three register layouts for them. A script uses the names of the PCI
// common configuration structure; the tables say where each is on the transport at hand. Where a layout has a field of its own, its name is in its table.

import { ScriptError } from './steps.ts';
import type { Transport } from './wire.ts';

export interface FieldPlace {
  readonly offset: number;
  readonly bytes: 1 | 2 | 4 | 8;
}
type Table = Readonly<Record<string, readonly [offset: number, bytes: 1 | 2 | 4 | 8]>>;

// biome-ignore format: table
const PCI_COMMON: Table = {
  device_feature_select: [0, 4], device_feature: [4, 4], driver_feature_select: [8, 4], driver_feature: [12, 4],
  config_msix_vector: [16, 2], num_queues: [18, 2], device_status: [20, 1], config_generation: [21, 1],
  queue_select: [22, 2], queue_size: [24, 2], queue_msix_vector: [26, 2], queue_enable: [28, 2], queue_notify_off: [30, 2],
  queue_desc: [32, 8], queue_driver: [40, 8], queue_device: [48, 8], queue_notif_config_data: [56, 2], queue_reset: [58, 2],
  admin_queue_index: [60, 2], admin_queue_num: [62, 2],
};

// biome-ignore format: table
const PCI_LEGACY: Table = {
  device_feature: [0, 4], driver_feature: [4, 4], queue_pfn: [8, 4], queue_size: [12, 2], queue_select: [14, 2], queue_notify: [16, 2],
  device_status: [18, 1], isr_status: [19, 1], config_msix_vector: [20, 2], queue_msix_vector: [22, 2],
};

// biome-ignore format: table
const MMIO_BOTH: Table = {
  magic_value: [0x00, 4], version: [0x04, 4], device_id: [0x08, 4], vendor_id: [0x0c, 4], device_feature: [0x10, 4], device_feature_select: [0x14, 4],
  driver_feature: [0x20, 4], driver_feature_select: [0x24, 4], queue_select: [0x30, 4], queue_num_max: [0x34, 4], queue_num: [0x38, 4],
  queue_notify: [0x50, 4], interrupt_status: [0x60, 4], interrupt_ack: [0x64, 4], device_status: [0x70, 4],
};

// biome-ignore format: table
const MMIO_V2: Table = {
  ...MMIO_BOTH, queue_enable: [0x44, 4], queue_desc: [0x80, 8], queue_driver: [0x90, 8], queue_device: [0xa0, 8],
  shm_sel: [0xac, 4], shm_len: [0xb0, 8], shm_base: [0xb8, 8], queue_reset: [0xc0, 4], config_generation: [0xfc, 4],
};

// biome-ignore format: table
const MMIO_V1: Table = { ...MMIO_BOTH, guest_page_size: [0x28, 4], queue_align: [0x3c, 4], queue_pfn: [0x40, 4] };

const TABLES: Readonly<Record<Transport, Table>> = { pci: PCI_COMMON, transitional: PCI_LEGACY, mmio: MMIO_V2, 'mmio-legacy': MMIO_V1 };

/** In memory-mapped registers the largest size and the chosen one are two registers. */
const MMIO_READ: Readonly<Record<string, string>> = { queue_size: 'queue_num_max', queue_ready: 'queue_enable' };
const MMIO_WRITE: Readonly<Record<string, string>> = { queue_size: 'queue_num', queue_ready: 'queue_enable' };

/** Where the configuration space begins behind the registers of the MMIO transport; and of legacy PCI, without and with MSI-X. */
export const CONFIG_AT = { mmio: 0x100, legacy: 20, legacyMsix: 24 } as const;

/** @throws ScriptError for a field that this transport does not have */
export function fieldPlace(transport: Transport, field: string, write: boolean): FieldPlace {
  const mmio = transport === 'mmio' || transport === 'mmio-legacy';
  const name = mmio ? ((write ? MMIO_WRITE : MMIO_READ)[field] ?? field) : field;
  const place = TABLES[transport][name];
  if (!place) throw new ScriptError(`the transport '${transport}' has no field '${field}'`);
  return { offset: place[0], bytes: place[1] };
}
