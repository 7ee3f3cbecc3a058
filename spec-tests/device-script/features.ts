// # Feature bits, once more
//
// Chapter 6 has these tables, too. A suite that read them from there would agree with the chapter about a wrong bit, so it has its own, from the specification.

import { type Feature, ScriptError } from './steps.ts';
import { type DeviceKind, isLegacy, type Transport } from './wire.ts';

// biome-ignore format: table
const COMMON: Readonly<Record<string, number>> = {
  notify_on_empty: 24, any_layout: 27, indirect_desc: 28, event_idx: 29, version_1: 32, access_platform: 33, ring_packed: 34, in_order: 35,
  order_platform: 36, sr_iov: 37, notification_data: 38, notif_config_data: 39, ring_reset: 40, admin_vq: 41, suspend: 43,
};

// biome-ignore format: table
const OF_KIND: Readonly<Record<DeviceKind, Readonly<Record<string, number>>>> = {
  entropy: {},
  console: { size: 0, multiport: 1, emerg_write: 2 },
  balloon: { must_tell_host: 0, stats_vq: 1, deflate_on_oom: 2, free_page_hint: 3, page_poison: 4, page_reporting: 5 },
  block: {
    barrier: 0, size_max: 1, seg_max: 2, geometry: 4, ro: 5, blk_size: 6, scsi: 7, flush: 9, topology: 10, config_wce: 11, mq: 12,
    discard: 13, write_zeroes: 14, lifetime: 15, secure_erase: 16, zoned: 17,
  },
};

/** The specification's number of a device type. */
export const DEVICE_ID: Readonly<Record<DeviceKind, number>> = { block: 2, console: 3, entropy: 4, balloon: 5 };

export const VERSION_1 = 32;
export const RING_PACKED = 34;
export const EVENT_IDX = 29;
export const IN_ORDER = 35;
export const NOTIFICATION_DATA = 38;
export const NOTIF_CONFIG_DATA = 39;

/** @throws ScriptError for a name that no such device has */
export function featureBit(kind: DeviceKind, feature: Feature): number {
  if (typeof feature === 'number') return feature;
  const bit = OF_KIND[kind][feature] ?? COMMON[feature];
  if (bit === undefined) throw new ScriptError(`no feature of a ${kind} device is called '${feature}'`);
  return bit;
}

export const featureSet = (kind: DeviceKind, features: readonly Feature[]): bigint =>
  features.reduce((set: bigint, feature) => set | (1n << BigInt(featureBit(kind, feature))), 0n);

/** A bit's name, for people. */
export function featureName(kind: DeviceKind, bit: number): string {
  const found = [...Object.entries(OF_KIND[kind]), ...Object.entries(COMMON)].find(([, each]) => each === bit);
  return found ? found[0].toUpperCase() : `feature bit ${bit}`;
}

/** Bits that a driver on this transport can see: the legacy interface has 32. */
export const visible = (transport: Transport): bigint => (isLegacy(transport) ? 0xffff_ffffn : (1n << 128n) - 1n);

// ## Bits of the device status field

export const STATUS: Readonly<Record<string, number>> = {
  acknowledge: 1,
  driver: 2,
  driver_ok: 4,
  features_ok: 8,
  suspend: 16,
  device_needs_reset: 64,
  failed: 128,
};

export const statusBits = (names: readonly string[]): number => names.reduce((bits, name) => bits | (STATUS[name] as number), 0);

// ## Configuration fields

type FieldTable = Readonly<Record<string, readonly [offset: number, bytes: 1 | 2 | 4 | 8]>>;

// biome-ignore format: table
const CONFIG_FIELDS: Readonly<Record<DeviceKind, FieldTable>> = {
  entropy: {},
  console: { cols: [0, 2], rows: [2, 2], max_nr_ports: [4, 4], emerg_wr: [8, 4] },
  balloon: { num_pages: [0, 4], actual: [4, 4], free_page_hint_cmd_id: [8, 4], poison_val: [12, 4] },
  block: {
    capacity: [0, 8], size_max: [8, 4], seg_max: [12, 4], cylinders: [16, 2], heads: [18, 1], sectors: [19, 1], blk_size: [20, 4],
    physical_block_exp: [24, 1], alignment_offset: [25, 1], min_io_size: [26, 2], opt_io_size: [28, 4], writeback: [32, 1],
    num_queues: [34, 2], max_discard_sectors: [36, 4], max_discard_seg: [40, 4], discard_sector_alignment: [44, 4],
    max_write_zeroes_sectors: [48, 4], max_write_zeroes_seg: [52, 4], write_zeroes_may_unmap: [56, 1],
    max_secure_erase_sectors: [60, 4], max_secure_erase_seg: [64, 4], secure_erase_sector_alignment: [68, 4],
    zone_sectors: [72, 4], max_open_zones: [76, 4], max_active_zones: [80, 4], max_append_sectors: [84, 4], write_granularity: [88, 4], zoned_model: [92, 1],
  },
};

/** Where a field is in the configuration space. @throws ScriptError */
export function configField(kind: DeviceKind, name: string): readonly [offset: number, bytes: 1 | 2 | 4 | 8] {
  const place = CONFIG_FIELDS[kind][name];
  if (!place) throw new ScriptError(`the configuration of a ${kind} device has no field '${name}'`);
  return place;
}
