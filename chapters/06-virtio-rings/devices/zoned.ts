// # Disks that are written in order
//
// A shingled disk overlaps its tracks like the tiles of a roof: it cannot rewrite one without spoiling the next. Flash has the same trouble for another reason.
// Both can hide it behind a layer of their own that moves data around, at a price in memory and in surprise, or they can say it. A *zoned* disk says it: it is
// divided into zones of one size, each with a *write pointer*, and in a *sequential write required* zone the pointer is the only place where one may write. To
// write again, reset the zone and begin at its start.
//
// Three models follow from who does the work. A *host-managed* disk refuses what is out of order. A *host-aware* one takes it (its zones only *prefer* order) and
// is slower. A *drive-managed* one says nothing, and to its driver is a disk like any other.
//
// Open zones cost the disk something: a buffer, a place in a table. So there are two limits. A zone that is being written is *open*; one that is partly written is
// *active*, open or not. Writing opens a zone by itself (*implicitly*), and the disk may close such a zone when it needs the place for another. One that the driver
// opened *explicitly* stays open.

import { ERRNO, Errno } from '../../02-kvm-objects/errno.ts';
import { type BlockBackend, SECTOR_BYTES, writeZeroes } from '../../05-pio-mmio/block/block.ts';
import { BLK_S, BLK_Z, BLK_ZS, BLK_ZT } from './block-layout.ts';

export interface ZonedOptions {
  readonly model: 'host-managed' | 'host-aware' | 'none';
  /** Size of a zone, in sectors; the last one may be smaller. */
  readonly zoneSectors?: number;
  /** Sectors of a sequential zone that can be written; all, when absent. */
  readonly zoneCapacity?: number;
  /** How many zones, from the first on, are conventional: written in any order. */
  readonly conventional?: number;
  /** Limits; 0 is none. */
  readonly maxOpen?: number;
  readonly maxActive?: number;
  /** Largest ZONE_APPEND, in sectors; 0 when there is no such request. */
  readonly maxAppendSectors?: number;
  /** Bytes of which a write to a sequential zone is a multiple. */
  readonly writeGranularity?: number;
}

/** What is taken when nothing is said. */
export const ZONED_DEFAULTS = {
  zoneSectors: 2048,
  conventional: 0,
  maxOpen: 0,
  maxActive: 0,
  maxAppendSectors: 256,
  writeGranularity: SECTOR_BYTES,
} as const;

type ZoneState = (typeof BLK_ZS)[keyof typeof BLK_ZS];
type ZoneType = (typeof BLK_ZT)[keyof typeof BLK_ZT];
export type BlockStatus = (typeof BLK_S)[keyof typeof BLK_S];

interface Zone {
  readonly start: number;
  readonly sectors: number;
  readonly capacity: number;
  readonly type: ZoneType;
  readonly state: ZoneState;
  /** Where data ends: the write pointer while there is one, and afterwards still what separates data from sectors that nobody wrote. */
  readonly written: number;
}

/** More zones than any disk has. */
const MOST_ZONES = 1 << 20;

type MutableZone = { -readonly [K in keyof Zone]: Zone[K] };

const isOpen = (state: ZoneState): boolean => state === BLK_ZS.IOPEN || state === BLK_ZS.EOPEN;
const isActive = (state: ZoneState): boolean => isOpen(state) || state === BLK_ZS.CLOSED;

/** The zones of one disk and what may be done to them. Results are statuses of a request. */
export class Zones {
  readonly model: typeof BLK_Z.HM | typeof BLK_Z.HA;
  readonly zoneSectors: number;
  readonly maxOpen: number;
  readonly maxActive: number;
  readonly maxAppendSectors: number;
  readonly writeGranularity: number;
  readonly #zones: MutableZone[] = [];
  readonly #disk: BlockBackend;
  #open = 0;
  #active = 0;

  // A raw image keeps no write pointers. So at power-on each zone is in one of the two states that a zone with such contents could be in without costing anything:
  // empty when it holds nothing but zeroes, full otherwise.

  /** @throws Errno EINVAL for zones that cannot be */
  constructor(disk: BlockBackend, options: ZonedOptions) {
    const { zoneSectors, conventional, maxOpen, maxActive, maxAppendSectors, writeGranularity } = { ...ZONED_DEFAULTS, ...options };
    const capacity = options.zoneCapacity ?? zoneSectors;
    const wrong =
      disk.sectors / zoneSectors > MOST_ZONES ||
      !(Number.isSafeInteger(zoneSectors) && zoneSectors > 0 && zoneSectors <= 0xffff_ffff) ||
      !(Number.isSafeInteger(capacity) && capacity > 0 && capacity <= zoneSectors) ||
      !(writeGranularity >= SECTOR_BYTES && writeGranularity % SECTOR_BYTES === 0 && (capacity * SECTOR_BYTES) % writeGranularity === 0) ||
      [conventional, maxOpen, maxActive, maxAppendSectors].some((limit) => !(Number.isSafeInteger(limit) && limit >= 0 && limit <= 0xffff_ffff));
    if (wrong) throw new Errno('zoned', ERRNO.EINVAL, `zones of ${zoneSectors} sectors, ${capacity} of them for data`);
    this.#disk = disk;
    this.model = options.model === 'host-managed' ? BLK_Z.HM : BLK_Z.HA;
    [this.zoneSectors, this.maxOpen, this.maxActive] = [zoneSectors, maxOpen, maxActive];
    [this.maxAppendSectors, this.writeGranularity] = [maxAppendSectors, writeGranularity];
    const unit = writeGranularity / SECTOR_BYTES;
    const wholeUnits = (count: number): number => count - (count % unit);
    const sequential = this.model === BLK_Z.HM ? BLK_ZT.SWR : BLK_ZT.SWP;
    for (let start = 0; start < disk.sectors; start += zoneSectors) {
      // @clause virtio.blk.dev.final-zone-can-smaller-rest
      const sectors = Math.min(zoneSectors, disk.sectors - start);
      const conv = this.#zones.length < conventional;
      const blank = !conv && this.#isBlank(start, sectors);
      this.#zones.push({
        start,
        sectors,
        capacity: conv ? sectors : wholeUnits(Math.min(capacity, sectors)),
        type: conv ? BLK_ZT.CONV : sequential,
        state: conv ? BLK_ZS.NOT_WP : blank ? BLK_ZS.EMPTY : BLK_ZS.FULL,
        written: blank ? start : start + sectors,
      });
    }
  }

  #isBlank(start: number, sectors: number): boolean {
    const some = new Uint8Array(Math.min(sectors, 128) * SECTOR_BYTES);
    for (let at = start; at < start + sectors; ) {
      const part = some.subarray(0, Math.min(some.length, (start + sectors - at) * SECTOR_BYTES));
      if (!this.#disk.read(at, part) || part.some((byte) => byte !== 0)) return false;
      at += part.length / SECTOR_BYTES;
    }
    return true;
  }

  get all(): readonly Zone[] {
    return this.#zones;
  }
  /** Zones that are open, and zones that are active. */
  get open(): number {
    return this.#open;
  }
  get active(): number {
    return this.#active;
  }

  #at(sector: number): MutableZone | undefined {
    return this.#zones[Math.floor(sector / this.zoneSectors)];
  }

  /** The zone that begins here, if one does. */
  #beginning(sector: number): MutableZone | undefined {
    const zone = this.#at(sector);
    return zone?.start === sector ? zone : undefined;
  }

  #enter(zone: MutableZone, state: ZoneState): void {
    this.#open += Number(isOpen(state)) - Number(isOpen(zone.state));
    this.#active += Number(isActive(state)) - Number(isActive(zone.state));
    zone.state = state;
  }

  // ## The limits
  //
  // A zone that would become active where no more may be gets nothing. One that would only become open may have the place of a zone that was opened implicitly.
  // Both limits at once are reported as the active one.

  #resources(zone: Zone): BlockStatus {
    // @clause virtio.blk.dev.max-active-zones-gives-active
    if (!isActive(zone.state) && this.maxActive > 0 && this.#active >= this.maxActive) return BLK_S.ZONE_ACTIVE_RESOURCE;
    // @clause virtio.blk.dev.max-open-zones-gives-open
    if (isOpen(zone.state) || this.maxOpen === 0 || this.#open < this.maxOpen) return BLK_S.OK;
    // @clause virtio.blk.dev.implicitly-open-zones-can-auto
    const implicit = this.#zones.find(({ state }) => state === BLK_ZS.IOPEN);
    if (!implicit) return BLK_S.ZONE_OPEN_RESOURCE;
    this.#shut(implicit);
    return BLK_S.OK;
  }

  /** An open zone in which nothing was written is empty again. */
  #shut(zone: MutableZone): void {
    this.#enter(zone, zone.written === zone.start ? BLK_ZS.EMPTY : BLK_ZS.CLOSED);
  }

  // ## Requests about a zone
  //
  // The specification's list of transitions has no FINISH of an empty or a closed zone. The standards behind it have both, and Linux' zonefs finishes whatever file
  // is truncated to its full size, so both are allowed here.

  openZone(sector: number): BlockStatus {
    const zone = this.#beginning(sector);
    // @clause virtio.blk.dev.open-close-finish-reset-conventional
    // @clause virtio.blk.dev.zone-open-impossible-transition-zone
    if (!zone || (zone.state !== BLK_ZS.EMPTY && !isActive(zone.state))) return BLK_S.ZONE_INVALID_CMD;
    // @clause virtio.blk.dev.zone-open-lacking-resources-open
    const status = this.#resources(zone);
    if (status === BLK_S.OK) this.#enter(zone, BLK_ZS.EOPEN);
    return status;
  }

  closeZone(sector: number): BlockStatus {
    const zone = this.#beginning(sector);
    // @clause virtio.blk.dev.zone-close-impossible-transition-zone
    if (!zone || !isActive(zone.state)) return BLK_S.ZONE_INVALID_CMD;
    if (isOpen(zone.state)) this.#shut(zone);
    return BLK_S.OK;
  }

  /** Whether there is a zone here that a request can empty or fill. */
  isSound(sector: number): boolean {
    const state = this.#beginning(sector)?.state;
    return state !== undefined && (state === BLK_ZS.EMPTY || state === BLK_ZS.FULL || isActive(state));
  }

  finishZone(sector: number): BlockStatus {
    // @clause virtio.blk.dev.zone-finish-impossible-transition-zone
    if (!this.isSound(sector)) return BLK_S.ZONE_INVALID_CMD;
    const zone = this.#beginning(sector) as MutableZone;
    this.#enter(zone, BLK_ZS.FULL);
    return BLK_S.OK;
  }

  resetZone(sector: number): BlockStatus {
    // @clause virtio.blk.dev.zone-reset-impossible-transition-zone
    if (!this.isSound(sector)) return BLK_S.ZONE_INVALID_CMD;
    const zone = this.#beginning(sector) as MutableZone;
    this.#enter(zone, BLK_ZS.EMPTY);
    zone.written = zone.start;
    return BLK_S.OK;
  }

  resetAll(): BlockStatus {
    for (const { start, state } of this.#zones) if (isActive(state) || state === BLK_ZS.FULL) this.resetZone(start);
    return BLK_S.OK;
  }

  /** The medium has failed in one zone: it can no longer be written, or not even read. Only that way, never back. */
  fail(index: number, to: 'read-only' | 'offline'): void {
    const zone = this.#zones[index];
    if (!zone || zone.type === BLK_ZT.CONV) throw new Errno('zoned', ERRNO.EINVAL, `zone ${index} is no sequential zone`);
    if (zone.state !== BLK_ZS.OFFLINE) this.#enter(zone, to === 'offline' ? BLK_ZS.OFFLINE : BLK_ZS.RDONLY);
  }

  // ## Reading
  //
  // Behind the write pointer there is nothing. The medium has bytes there, what was written before the last reset perhaps; a reader gets zeroes.

  /** Whether a read may be done at all. */
  admitRead(sector: number, count: number): BlockStatus {
    const touched = this.#touched(sector, count);
    // @clause virtio.blk.dev.request-offline-zone-zone-invalid
    if (touched.some(({ state }) => state === BLK_ZS.OFFLINE)) return BLK_S.ZONE_INVALID_CMD;
    // @clause virtio.blk.dev.swr-zone-request-crossing-zones
    if (touched.length > 1 && touched.some(({ type }) => type === BLK_ZT.SWR)) return BLK_S.ZONE_INVALID_CMD;
    return BLK_S.OK;
  }

  /** The zones of a range. */
  #touched(sector: number, count: number): MutableZone[] {
    if (count === 0) return [];
    return this.#zones.slice(Math.floor(sector / this.zoneSectors), Math.floor((sector + count - 1) / this.zoneSectors) + 1);
  }

  /** How many of the `count` sectors from here on are alike: all written, or all not. */
  // @clause virtio.blk.dev.sectors-beyond-write-pointer-count
  extent(sector: number, count: number): { readonly count: number; readonly written: boolean } {
    const zone = this.#at(sector) as Zone;
    const written = sector < zone.written;
    return { written, count: Math.min(count, (written ? zone.written : zone.start + zone.sectors) - sector) };
  }

  /** Whether what a range holds may be given up. */
  admitDiscard(sector: number, count: number): BlockStatus {
    const dead = this.#touched(sector, count).some(({ state }) => state === BLK_ZS.OFFLINE || state === BLK_ZS.RDONLY);
    return dead ? BLK_S.ZONE_INVALID_CMD : BLK_S.OK;
  }

  // ## Writing
  //
  // Where order is required, a write has one place where it may begin, and needs an open zone. Where it is only preferred, nothing is refused but a zone that has
  // failed.

  /** Whether a write may be done. When it may, a zone that requires order is open. */
  admitWrite(sector: number, count: number): BlockStatus {
    const touched = this.#touched(sector, count);
    // @clause virtio.blk.dev.write-append-read-only-zone
    if (touched.some(({ state }) => state === BLK_ZS.OFFLINE || state === BLK_ZS.RDONLY)) return BLK_S.ZONE_INVALID_CMD;
    const zone = touched.find(({ type }) => type === BLK_ZT.SWR);
    if (!zone) return BLK_S.OK;
    if (touched.length > 1 || zone.state === BLK_ZS.FULL) return BLK_S.ZONE_INVALID_CMD;
    // @clause virtio.blk.dev.write-off-write-pointer-zone
    // @clause virtio.blk.dev.write-granularity-gives-sequential-zone
    if (sector !== zone.written || (count * SECTOR_BYTES) % this.writeGranularity !== 0) return BLK_S.ZONE_UNALIGNED_WP;
    // @clause virtio.blk.dev.write-append-past-zone-capacity
    if (sector + count > zone.start + zone.capacity) return BLK_S.ZONE_INVALID_CMD;
    return this.#openImplicitly(zone);
  }

  #openImplicitly(zone: MutableZone): BlockStatus {
    if (isOpen(zone.state)) return BLK_S.OK;
    // @clause virtio.blk.dev.implicit-open-lacking-resources-open
    const status = this.#resources(zone);
    if (status === BLK_S.OK) this.#enter(zone, BLK_ZS.IOPEN);
    return status;
  }

  // A write that leaves a gap behind the pointer, as a host-aware disk allows, makes the gap a part of what is written. It has to read as it did before.

  /** Before a write: what it leaves out becomes zeroes. False on an error of the medium. */
  fillGap(sector: number, count: number): boolean {
    return this.#touched(sector, count).every((zone) => zone.written >= sector || writeZeroes(this.#disk, zone.written, sector - zone.written));
  }

  // A driver that knows nothing of zones knows nothing of their limits either, and must not fail because of them; nor must a write to a zone that only prefers
  // order. Such a zone, when it cannot be open, is full: a state that costs nothing.

  /** A write was done. `aware` is a driver that knows of zones. */
  wrote(sector: number, count: number, aware: boolean): void {
    for (const zone of this.#touched(sector, count)) {
      if (zone.type === BLK_ZT.CONV) continue;
      zone.written = Math.max(zone.written, Math.min(sector + count, zone.start + zone.sectors));
      const lost = zone.type === BLK_ZT.SWP && zone.state !== BLK_ZS.FULL && (!aware || this.#openImplicitly(zone) !== BLK_S.OK);
      if (lost || zone.written >= zone.start + zone.capacity) this.#enter(zone, BLK_ZS.FULL);
    }
  }

  /** Where an append of `count` sectors to the zone that begins at `sector` goes, or why it cannot be done. When it can, the zone is open. */
  admitAppend(sector: number, count: number): { readonly at: number } | BlockStatus {
    // @clause virtio.blk.dev.max-append-sectors-0-means
    // @clause virtio.blk.dev.oversize-append-max-append-sectors
    if (this.maxAppendSectors === 0) return BLK_S.UNSUPP;
    const zone = this.#beginning(sector);
    // @clause virtio.blk.dev.append-sector-not-zone-start
    // @clause virtio.blk.dev.append-non-swr-zone-zone
    // @clause virtio.blk.dev.oversize-append-nonzero-max-append
    if (!zone || zone.type !== BLK_ZT.SWR || count > this.maxAppendSectors) return BLK_S.ZONE_INVALID_CMD;
    const at = zone.written;
    if (!(zone.state === BLK_ZS.EMPTY || isActive(zone.state)) || at + count > zone.start + zone.capacity) return BLK_S.ZONE_INVALID_CMD;
    const status = count === 0 ? BLK_S.OK : this.admitWrite(at, count);
    return status === BLK_S.OK ? { at } : status;
  }

  /** What a zone report says of the zone with this index. */
  describe(index: number): {
    readonly z_cap: bigint;
    readonly z_start: bigint;
    readonly z_wp: bigint;
    readonly z_type: number;
    readonly z_state: number;
  } {
    const { start, sectors, capacity, type, state, written } = this.#zones[index] as Zone;
    const pointer = state === BLK_ZS.EMPTY || isActive(state);
    const z_wp = type === BLK_ZT.CONV ? 2n ** 64n - 1n : BigInt(pointer ? written : start + sectors);
    return { z_cap: BigInt(capacity), z_start: BigInt(start), z_wp, z_type: type, z_state: state };
  }
}
