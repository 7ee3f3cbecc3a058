// # A disk that is written in order
//
// On a shingled disk a track lies half over its neighbour, so it cannot be written again without the neighbour. Such a disk is divided into *zones*,
// each of which is written from its start to its end and reset as a whole. The disk keeps a write pointer for each; who writes elsewhere gets an
// error, or, if the host is only *asked* to keep the order, is slow. To append is to write without saying where: the disk says where it went.
//
// Everything a driver has to obey is checked here before the disk is asked, because a request that breaks a rule is the caller's mistake and not the
// medium's.

import { ERRNO, Errno } from '../../../02-kvm-objects/errno.ts';
import { SECTOR_BYTES } from '../../../05-pio-mmio/block/block.ts';
import { BLK_S, BLK_T, BLK_Z, BlkAppendSector, BlkConfig, BlkZone, BlkZoned, BlkZoneReport } from '../../devices/block-layout.ts';
import type { DmaBuffer } from '../bus.ts';
import type { DeviceHandle } from '../virtio-device.ts';
import type { BlockDisk, BlockResult } from './block.ts';

/** A zone, as the disk reports it; in sectors. */
export interface Zone {
  readonly start: number;
  readonly capacity: number;
  readonly writePointer: number;
  readonly type: number;
  readonly state: number;
}

export type ZoneAction = 'open' | 'close' | 'finish' | 'reset';
const ACTIONS = { open: BLK_T.ZONE_OPEN, close: BLK_T.ZONE_CLOSE, finish: BLK_T.ZONE_FINISH, reset: BLK_T.ZONE_RESET } as const;

const AT = BlkConfig.fields.zoned.offset;
const { zone_sectors, max_append_sectors, write_granularity, model } = BlkZoned.fields;
/** Zones in one report. */
const REPORT_ZONES = 32;

export class ZonedDisk {
  readonly #disk: BlockDisk;
  readonly #device: DeviceHandle;
  readonly model: number;
  readonly zoneSectors: number;
  readonly maxAppendSectors: number;
  readonly writeGranularity: number;
  readonly #report: DmaBuffer;
  readonly #answer: DmaBuffer;
  readonly #data: DmaBuffer;

  /** @throws Errno ENODEV for a disk without zones, ENOMEM */
  constructor(device: DeviceHandle, disk: BlockDisk) {
    this.#disk = disk;
    this.#device = device;
    const read = ({ offset, bytes }: { readonly offset: number; readonly bytes: number }): number =>
      device.transport.readConfig(AT + offset, bytes as 1 | 4);
    this.model = read(model);
    this.zoneSectors = read(zone_sectors);
    this.maxAppendSectors = read(max_append_sectors);
    this.writeGranularity = Math.max(read(write_granularity), SECTOR_BYTES);
    if (this.model === BLK_Z.NONE || this.zoneSectors === 0) throw new Errno('zoned', ERRNO.ENODEV, 'a disk without zones');
    this.#report = device.dma.allocate(BlkZoneReport.bytes + REPORT_ZONES * BlkZone.bytes, 64);
    this.#answer = device.dma.allocate(BlkAppendSector.bytes, 8);
    this.#data = device.dma.allocate(1 << 16, SECTOR_BYTES);
  }

  #start(sector: number): number {
    return sector - (sector % this.zoneSectors);
  }

  #refuse(why: string): never {
    throw new Errno('zoned', ERRNO.EINVAL, why);
  }

  /** Zones from the one that holds `sector` on, as many as fit into one report. */
  report(sector: number): readonly Zone[] | BlockResult {
    // @clause virtio.blk.dri.zone-sector-address-512-byte
    // @clause virtio.blk.dri.zone-report-sector-lies-first
    // @clause virtio.blk.dri.zone-report-sector-need-not
    if (!(Number.isInteger(sector) && sector >= 0 && sector < this.#disk.capacity)) this.#refuse(`sector ${sector}`);
    this.#report.bytes.fill(0);
    const result = this.#disk.request(BLK_T.ZONE_REPORT, sector, [this.#report], 'from device');
    if (result !== BLK_S.OK) return result;
    const view = new DataView(this.#report.bytes.buffer, this.#report.bytes.byteOffset);
    const count = Math.min(Number(BlkZoneReport.load(view).nr_zones), REPORT_ZONES);
    return Array.from({ length: count }, (_, index) => {
      const { z_start, z_cap, z_wp, z_type, z_state } = BlkZone.load(view, BlkZoneReport.bytes + index * BlkZone.bytes);
      return { start: Number(z_start), capacity: Number(z_cap), writePointer: Number(z_wp), type: z_type, state: z_state };
    });
  }

  /** Does something to a whole zone, named by its first sector. */
  zone(action: ZoneAction, sector: number): BlockResult {
    // @clause virtio.blk.dri.zone-open-close-finish-reset
    if (sector !== this.#start(sector) || sector >= this.#disk.capacity) this.#refuse(`no zone begins at sector ${sector}`);
    return this.#disk.request(ACTIONS[action], sector, [], 'to device');
  }

  /** Empties all. */
  resetAll(): BlockResult {
    // @clause virtio.blk.dri.zone-reset-all-sector-0
    return this.#disk.request(BLK_T.ZONE_RESET_ALL, 0, [], 'to device');
  }

  /** Adds to the end of what is written in a zone; the answer says where it went. */
  append(sector: number, from: Uint8Array): { readonly sector: number } | BlockResult {
    // @clause virtio.blk.dri.zone-append-sector-target-zone
    if (sector !== this.#start(sector) || sector >= this.#disk.capacity) this.#refuse(`no zone begins at sector ${sector}`);
    // @clause virtio.blk.dri.append-size-multiple-write-granularity
    // @clause virtio.blk.dri.append-size-within-max-append
    // @clause virtio.blk.dri.sequential-writes-appends-obey-granularity
    if (from.length === 0 || from.length % this.writeGranularity !== 0) this.#refuse(`${from.length} bytes in units of ${this.writeGranularity}`);
    if (from.length / SECTOR_BYTES > this.maxAppendSectors || from.length > this.#data.bytes.length) this.#refuse(`${from.length} bytes at once`);
    const data = { address: this.#data.address, bytes: this.#data.bytes.subarray(0, from.length) };
    data.bytes.set(from);
    const result = this.#disk.appendTo(sector, data, this.#answer);
    if (result !== BLK_S.OK) return result;
    // @clause virtio.blk.dri.append-sector-successful-append-tells
    const { append_sector } = BlkAppendSector.load(new DataView(this.#answer.bytes.buffer, this.#answer.bytes.byteOffset));
    return { sector: Number(append_sector) };
  }

  /** Writes where the zone's pointer is, and nowhere else. */
  write(zone: Zone, from: Uint8Array): BlockResult {
    if (from.length === 0 || from.length % this.writeGranularity !== 0) this.#refuse(`${from.length} bytes in units of ${this.writeGranularity}`);
    if (zone.writePointer + from.length / SECTOR_BYTES > zone.start + zone.capacity) this.#refuse('the zone is too full');
    return this.#disk.write(zone.writePointer, from);
  }

  /** Memory back. */
  free(): void {
    for (const buffer of [this.#report, this.#answer, this.#data]) this.#device.dma.free(buffer);
  }
}
