// # Requests about ranges
//
// A read or a write concerns one run of sectors and carries their data. Three requests carry no data and may concern many runs: *discard* (nobody needs these),
// *write zeroes* (read zeroes from now on) and *secure erase* (nobody may ever read these again). A file system that deletes a directory has hundreds of small runs to
// give up, and one request for them all is worth having.
//
// A request that fails may have done a part of its work; the specification leaves that open. Here every range is looked at before the first is touched, so only
// a failing medium leaves something half done.

import { type BlockBackend, SECTOR_BYTES, withinDisk, writeZeroes } from '../../05-pio-mmio/block/block.ts';
import { type Pieces, STEP_BYTES, type Steps } from './block-data.ts';
import { BLK_S, BlkRange, UNMAP } from './block-layout.ts';
import type { BlockStatus, Zones } from './zoned.ts';

export type RangeKind = 'discard' | 'write zeroes' | 'secure erase';

/** How many ranges a request has at most, and how many sectors a range of each kind. */
export type RangeLimits = Readonly<Record<RangeKind | 'segments', number>>;

interface RangeTarget {
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
export function* performRanges(data: Pieces, kind: RangeKind, target: RangeTarget): Steps<BlockStatus> {
  const { drive, zones, limits, readOnly } = target;
  const whole = data.left % BlkRange.bytes === 0;
  const ranges: Range[] = [];
  let tooMany = false;
  for (const one = new Uint8Array(BlkRange.bytes); data.left >= one.length; yield one.length) {
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
  if (kind === 'secure erase' && zones) return yield* eraseZones(zones, drive, ranges);
  for (const range of ranges) {
    if (range.count === 0) continue;
    const status = yield* kind === 'write zeroes'
      ? zeroRange(range, target)
      : kind === 'discard'
        ? discardRange(range, target)
        : eraseRange(range, drive);
    if (status !== BLK_S.OK) return status;
  }
  return BLK_S.OK;
}

/** A range in bites, so that nobody has to wait for the whole of it. */
function* bites({ sector, count }: Range, bite: (sector: number, count: number) => boolean): Steps<BlockStatus> {
  const most = STEP_BYTES / SECTOR_BYTES;
  for (let done = 0; done < count; done += most) {
    const now = Math.min(most, count - done);
    if (!bite(sector + done, now)) return BLK_S.IOERR;
    yield now * SECTOR_BYTES;
  }
  return BLK_S.OK;
}

// Zeroes in a sequential zone are a write like any other: at the write pointer, and it moves. So the second range of a request may be right only after the first.

function* zeroRange(range: Range, { drive, zones, zoneAware }: RangeTarget): Steps<BlockStatus> {
  const { sector, count, unmap } = range;
  const admitted = zones?.admitWrite(sector, count) ?? BLK_S.OK;
  if (admitted !== BLK_S.OK) return admitted;
  if (zones && !zones.fillGap(sector, count)) return BLK_S.IOERR;
  // @clause virtio.blk.dev.zeroed-range-reads-back-zeroes
  // @clause virtio.blk.dev.write-zeroes-unmap-can-deallocate
  const status = yield* bites(range, (at, now) => writeZeroes(drive, at, now, unmap));
  if (status === BLK_S.OK) zones?.wrote(sector, count, zoneAware);
  return status;
}

/** A drive that cannot give anything back keeps it, which is a discard too. */
// @clause virtio.blk.dev.discard-can-deallocate-backing-storage
function* discardRange(range: Range, { drive, zones }: RangeTarget): Steps<BlockStatus> {
  const admitted = zones?.admitDiscard(range.sector, range.count) ?? BLK_S.OK;
  if (admitted !== BLK_S.OK) return admitted;
  return yield* bites(range, (at, now) => drive.discard?.(at, now) ?? true);
}

const eraseRange = (range: Range, drive: BlockBackend): Steps<BlockStatus> => bites(range, (at, now) => drive.secureErase?.(at, now) === true);

/** On a zoned disk erasing is resetting: whole zones. */
// @clause virtio.blk.dev.zoned-secure-erase-erase-size
// @clause virtio.blk.dev.secure-erase-acts-zone-reset
function* eraseZones(zones: Zones, drive: BlockBackend, ranges: readonly Range[]): Steps<BlockStatus> {
  const { zoneSectors } = zones;
  const starts = ({ sector, count }: Range): number[] =>
    Array.from({ length: Math.ceil(count / zoneSectors) }, (_, index) => sector + index * zoneSectors);
  for (const range of ranges) {
    const { sector, count } = range;
    if (sector % zoneSectors !== 0 || (count % zoneSectors !== 0 && sector + count !== drive.sectors)) return BLK_S.ZONE_INVALID_CMD;
    if (!starts(range).every((start) => zones.isSound(start))) return BLK_S.ZONE_INVALID_CMD;
  }
  for (const range of ranges) {
    for (const start of starts(range)) zones.resetZone(start);
    const status = yield* eraseRange(range, drive);
    if (status !== BLK_S.OK) return status;
  }
  return BLK_S.OK;
}
