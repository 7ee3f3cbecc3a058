// # Requests about ranges
//
// A read or a write concerns one run of sectors and carries their data. Three requests carry no data and may concern many runs: *discard* (nobody needs these),
// *write zeroes* (read zeroes from now on) and *secure erase* (nobody may ever read these again). A file system that deletes a directory has hundreds of small runs to
// give up, and one request for them all is worth having.
//
// A request that fails may have done a part of its work; the specification leaves that open. Here every range is looked at before the first is touched, so only
// a failing medium leaves something half done.

import { type BlockBackend, SECTOR_BYTES, withinDisk, writeZeroes } from '../../05-pio-mmio/block/block.ts';
import type { Pieces } from './block-data.ts';
import { BLK_S, BlkRange, UNMAP } from './block-layout.ts';
import type { BlockStatus, Zones } from './zoned.ts';

export type RangeKind = 'discard' | 'write zeroes' | 'secure erase';

/** How many ranges a request has at most, and how many sectors a range of each kind. */
export type RangeLimits = Readonly<Record<RangeKind | 'segments', number>>;

export interface RangeTarget {
  readonly drive: BlockBackend;
  readonly zones: Zones | null;
  readonly limits: RangeLimits;
  readonly readOnly: boolean;
  readonly zoneAware: boolean;
}

interface Range {
  readonly sector: number;
  readonly count: number;
  readonly unmap: boolean;
}

/** Does to each range in `data` what `kind` says. */
export function performRanges(data: Pieces, kind: RangeKind, target: RangeTarget): BlockStatus {
  const { drive, zones, limits, readOnly } = target;
  const whole = data.left % BlkRange.bytes === 0;
  const ranges: Range[] = [];
  let tooMany = false;
  for (const one = new Uint8Array(BlkRange.bytes); data.left >= one.length; ) {
    data.read(one);
    const { sector, num_sectors, flags } = BlkRange.decode(one);
    // Flags first: a driver that tries a flag must learn that the flag is the trouble, whatever else is wrong.
    // @clause virtio.blk.dev.unknown-flags-discard-erase-zeroes
    // @clause virtio.blk.dev.discard-unmap-flag-unsupp
    if (flags & ~UNMAP || (flags & UNMAP && kind !== 'write zeroes')) return BLK_S.UNSUPP;
    if (ranges.length === limits.segments) tooMany = true;
    else ranges.push({ sector: Number(sector), count: num_sectors, unmap: (flags & UNMAP) !== 0 });
  }
  if (!whole || tooMany || readOnly) return BLK_S.IOERR;
  for (const { sector, count } of ranges) if (count > limits[kind] || !withinDisk(drive, sector, count * SECTOR_BYTES)) return BLK_S.IOERR;
  if (kind === 'secure erase' && zones) return eraseZones(zones, drive, ranges);
  for (const range of ranges) {
    if (range.count === 0) continue;
    const status = kind === 'write zeroes' ? zeroRange(range, target) : kind === 'discard' ? discardRange(range, drive) : eraseRange(range, drive);
    if (status !== BLK_S.OK) return status;
  }
  return BLK_S.OK;
}

// Zeroes in a sequential zone are a write like any other: at the write pointer, and it moves.

function zeroRange({ sector, count, unmap }: Range, { drive, zones, zoneAware }: RangeTarget): BlockStatus {
  const status = zones?.admitWrite(sector, count, zoneAware) ?? BLK_S.OK;
  if (status !== BLK_S.OK) return status;
  if (zones && !zones.fillGap(sector, count)) return BLK_S.IOERR;
  // @clause virtio.blk.dev.zeroed-range-reads-back-zeroes
  // @clause virtio.blk.dev.write-zeroes-unmap-can-deallocate
  if (!writeZeroes(drive, sector, count, unmap)) return BLK_S.IOERR;
  zones?.wrote(sector, count, zoneAware);
  return BLK_S.OK;
}

/** A drive that cannot give anything back keeps it, which is a discard too. */
// @clause virtio.blk.dev.discard-can-deallocate-backing-storage
const discardRange = ({ sector, count }: Range, drive: BlockBackend): BlockStatus =>
  !drive.discard || drive.discard(sector, count) ? BLK_S.OK : BLK_S.IOERR;

const eraseRange = ({ sector, count }: Range, drive: BlockBackend): BlockStatus => (drive.secureErase?.(sector, count) ? BLK_S.OK : BLK_S.IOERR);

/** On a zoned disk erasing is resetting: whole zones. */
// @clause virtio.blk.dev.zoned-secure-erase-erase-size
// @clause virtio.blk.dev.secure-erase-acts-zone-reset
function eraseZones(zones: Zones, drive: BlockBackend, ranges: readonly Range[]): BlockStatus {
  const { zoneSectors } = zones;
  for (const { sector, count } of ranges)
    if (sector % zoneSectors !== 0 || (count % zoneSectors !== 0 && sector + count !== drive.sectors)) return BLK_S.ZONE_INVALID_CMD;
  for (const { sector, count } of ranges) {
    for (let start = sector; start < sector + count; start += zoneSectors) {
      const status = zones.resetZone(start);
      if (status !== BLK_S.OK) return status;
    }
    if (!drive.secureErase?.(sector, count)) return BLK_S.IOERR;
  }
  return BLK_S.OK;
}
