// # What a disk tells of itself
//
// A driver adapts itself to the disk: how large, in which blocks, how much in one request, what besides reading and writing. All of that is in features and in
// the configuration space, and much of it is advice. A request that ignores `size_max` or `opt_io_size` is served like any other.

import type { Clock } from '../../02-kvm-objects/clock.ts';
import { ERRNO, Errno } from '../../02-kvm-objects/errno.ts';
import { type BlockBackend, SECTOR_BYTES } from '../../05-pio-mmio/block/block.ts';
import type { ConfigFields } from '../device.ts';
import { features as featureSet, has } from '../features.ts';
import { BLK_F, BLK_Z, BlkConfig, BlkGeometry, BlkTopology, BlkZoned, ID_BYTES } from './block-layout.ts';
import type { RangeLimits } from './block-ranges.ts';
import { ConfigSpace } from './config-fields.ts';
import { ZONED_DEFAULTS, type ZonedOptions, type Zones } from './zoned.ts';

export interface BlockOptions {
  readonly drive: BlockBackend;
  /** How it is called in traces. */
  readonly name?: string;
  /** What GET_ID answers; ASCII, and only the first 20 bytes of it. */
  readonly serial?: string;
  /** Even when the drive could be written. */
  readonly readOnly?: boolean;
  /** The size of block that the disk likes best, and a power of two; and the size of the one below, which is no smaller. */
  readonly logicalBlockSize?: number;
  readonly physicalBlockSize?: number;
  /** Sizes of requests that are fast, in bytes; 0 when nobody knows. */
  readonly minIoSize?: number;
  readonly optIoSize?: number;
  readonly numQueues?: number;
  readonly queueSize?: number;
  /** Segments of a request; so many that a request fills a queue, when absent. */
  readonly segMax?: number;
  /** Bytes of a segment; no limit is told when absent. */
  readonly sizeMax?: number;
  readonly discard?: boolean;
  readonly writeZeroes?: boolean;
  readonly secureErase?: boolean;
  readonly maxDiscardSectors?: number;
  readonly maxWriteZeroesSectors?: number;
  /** Ranges in one discard, write zeroes or secure erase. */
  readonly maxRanges?: number;
  /** Whether the cache is write-back when the driver does not say. */
  readonly writeCache?: boolean;
  readonly configWce?: boolean;
  readonly zoned?: ZonedOptions;
  /** When requests are answered later than they are asked: how many nanoseconds, from a {@link BLK_T} and the bytes of data. Needs a clock. */
  readonly latency?: (type: number, bytes: number) => number;
  readonly clock?: Clock;
}

/** QEMU's defaults, but for the number of ranges (there 1, which is no test for a driver). */
export const BLOCK_DEFAULTS = {
  queueSize: 256,
  numQueues: 1,
  logicalBlockSize: SECTOR_BYTES,
  maxDiscardSectors: 0x3f_ffff,
  maxWriteZeroesSectors: 0x3f_ffff,
  maxRanges: 16,
} as const;

/** A disk as it was described, with every default filled in and everything checked. */
export interface BlockShape {
  readonly features: bigint;
  readonly serial: Uint8Array;
  readonly readOnly: boolean;
  readonly numQueues: number;
  readonly queueSize: number;
  readonly segMax: number;
  readonly sizeMax: number;
  readonly logicalBlockSize: number;
  readonly physicalBlockSize: number;
  readonly minIoSize: number;
  readonly optIoSize: number;
  readonly limits: RangeLimits;
  /** Null for a disk that is written in any order. */
  readonly zoned: (ZonedOptions & { readonly zoneSectors: number }) | null;
}

/** @throws Errno EINVAL for a disk that no driver could use */
export function shapeOf(options: BlockOptions): BlockShape {
  const { drive, zoned, serial = '', sizeMax = 0, minIoSize = 0, optIoSize = 0, secureErase = false } = options;
  const { queueSize, numQueues, logicalBlockSize, maxDiscardSectors, maxWriteZeroesSectors, maxRanges } = { ...BLOCK_DEFAULTS, ...said(options) };
  const { physicalBlockSize = logicalBlockSize, segMax = Math.max(1, queueSize - 2) } = options;
  const refuse = (why: string): never => {
    throw new Errno('block', ERRNO.EINVAL, why);
  };
  const isBlock = (size: number): boolean => Number.isSafeInteger(size) && size >= SECTOR_BYTES && Number.isInteger(Math.log2(size));
  if (!isBlock(logicalBlockSize) || !isBlock(physicalBlockSize) || physicalBlockSize < logicalBlockSize)
    refuse(`blocks of ${logicalBlockSize} bytes in blocks of ${physicalBlockSize}`);
  if (!(numQueues >= 1 && numQueues <= 0xffff && segMax >= 1 && (options.sizeMax === undefined || sizeMax >= 1)))
    refuse(`${numQueues} queues, ${segMax} segments of at most ${options.sizeMax} bytes`);
  // A limit of zero would take back what the feature offers. Windows stops with a blue screen when it finds one.
  if (!(maxDiscardSectors >= 1 && maxWriteZeroesSectors >= 1 && maxRanges >= 1)) refuse('a limit of no sectors, or of no ranges');
  if (options.latency && !options.clock) refuse('an answer that comes later needs a clock');
  if (/[^\x20-\x7e]/.test(serial)) refuse('a serial number is printable ASCII');
  if (secureErase && !drive.secureErase) refuse('this drive cannot promise that anything is erased');
  // @clause virtio.blk.dev.max-append-sectors-within-seg
  const most = sizeMax === 0 ? Number.POSITIVE_INFINITY : Math.floor((segMax * sizeMax) / SECTOR_BYTES);
  const zones = zoned && zoned.model !== 'none' ? { ...ZONED_DEFAULTS, ...zoned } : null;
  const readOnly = options.readOnly === true || drive.readOnly;
  return {
    features: offerOf(options, { readOnly, numQueues }),
    serial: new TextEncoder().encode(serial).subarray(0, ID_BYTES),
    ...{ readOnly, numQueues, queueSize, segMax, sizeMax, logicalBlockSize, physicalBlockSize, minIoSize, optIoSize },
    limits: {
      segments: maxRanges,
      discard: maxDiscardSectors,
      'write zeroes': maxWriteZeroesSectors,
      'secure erase': zones ? Math.max(1, Math.floor(maxDiscardSectors / zones.zoneSectors)) * zones.zoneSectors : maxDiscardSectors,
    },
    zoned: zones && { ...zones, maxAppendSectors: Math.min(zones.maxAppendSectors, most) },
  };
}

/** Without the properties that are there but undefined, which would hide a default. */
const said = (options: BlockOptions): Partial<BlockOptions> =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Partial<BlockOptions>;

// ## What is offered
//
// Two features from before the standard are not offered even to a legacy driver. BARRIER promised an order among requests, which a driver gets by waiting and
// FLUSH; the last driver that used it is older than FLUSH. SCSI passed commands through to the host's own disk, which a guest has no business with.

function offerOf(options: BlockOptions, { readOnly, numQueues }: { readonly readOnly: boolean; readonly numQueues: number }): bigint {
  const { drive, discard = true, writeZeroes = true, secureErase = false, configWce = true, sizeMax, zoned } = options;
  const when = (condition: boolean, feature: number): readonly number[] => (condition ? [feature] : []);
  return featureSet(
    BLK_F.SEG_MAX,
    BLK_F.GEOMETRY,
    BLK_F.BLK_SIZE,
    BLK_F.TOPOLOGY,
    // @clause virtio.blk.dev.flush-offered-always
    // @clause virtio.blk.dev.config-wce-offer-implies-flush
    BLK_F.FLUSH,
    ...when(configWce, BLK_F.CONFIG_WCE),
    ...when(sizeMax !== undefined, BLK_F.SIZE_MAX),
    ...when(readOnly, BLK_F.RO),
    ...when(numQueues > 1, BLK_F.MQ),
    ...when(discard && zoned?.model !== 'host-managed', BLK_F.DISCARD), // such a driver must not take it, so it is not tempted
    ...when(writeZeroes, BLK_F.WRITE_ZEROES),
    ...when(secureErase, BLK_F.SECURE_ERASE),
    // @clause virtio.blk.dev.lifetime-offered-backing-storage-lifetime
    // @clause virtio.blk.dev.lifetime-not-offered-without-meaningful
    ...when(drive.lifetime !== undefined, BLK_F.LIFETIME),
    // @clause virtio.blk.dev.non-zoned-disk-not-offer
    ...when(zoned !== undefined, BLK_F.ZONED),
  );
}

// ## The configuration space
//
// Most of it never changes. The capacity may, when somebody makes the disk larger; `writeback` is the driver's; and the zones are shown to whoever may yet take ZONED,
// and afterwards to who did.

/** What the configuration shows of a disk at this moment. */
interface BlockState {
  readonly zones: () => Zones | null;
  readonly writeback: () => boolean;
  /** Whether the driver may choose the kind of cache. */
  readonly mayChoose: () => boolean;
  readonly choose: (writeback: boolean) => void;
}

export class BlockConfig implements ConfigFields {
  readonly bytes: number;
  readonly #space: ConfigSpace<typeof BlkConfig.fields>;
  readonly #drive: BlockBackend;
  readonly #state: BlockState;

  constructor(drive: BlockBackend, shape: BlockShape, state: BlockState) {
    this.#drive = drive;
    this.#state = state;
    this.bytes = configBytes(shape.features);
    const view = (): DataView => this.#space.view;
    const { offset } = BlkConfig.fields.writeback;
    const written = (): void => state.choose(view().getUint8(offset) !== 0);
    this.#space = new ConfigSpace(BlkConfig, { writeback: { completedBy: 'lowest byte', allowed: state.mayChoose, written } }, this.bytes);
    this.#describe(shape, drive.unmaps === true);
  }

  #describe({ features, limits, logicalBlockSize, physicalBlockSize, minIoSize, optIoSize, ...shape }: BlockShape, unmaps: boolean): void {
    const { view } = this.#space;
    const offered = (feature: number, value: number): number => (has(features, feature) ? value : 0);
    const alignment = physicalBlockSize / SECTOR_BYTES;
    // @clause virtio.blk.dev.unused0-unused1-padding-zero
    BlkConfig.store(view, 0, {
      size_max: shape.sizeMax,
      seg_max: shape.segMax,
      blk_size: logicalBlockSize,
      num_queues: offered(BLK_F.MQ, shape.numQueues),
      max_discard_sectors: offered(BLK_F.DISCARD, limits.discard),
      max_discard_seg: offered(BLK_F.DISCARD, limits.segments),
      discard_sector_alignment: offered(BLK_F.DISCARD, alignment),
      max_write_zeroes_sectors: offered(BLK_F.WRITE_ZEROES, limits['write zeroes']),
      max_write_zeroes_seg: offered(BLK_F.WRITE_ZEROES, limits.segments),
      // @clause virtio.blk.dev.write-zeroes-may-unmap-clear
      write_zeroes_may_unmap: offered(BLK_F.WRITE_ZEROES, Number(unmaps)),
      max_secure_erase_sectors: offered(BLK_F.SECURE_ERASE, limits['secure erase']),
      max_secure_erase_seg: offered(BLK_F.SECURE_ERASE, limits.segments),
      // @clause virtio.blk.dev.zoned-secure-erase-erase-alignment
      secure_erase_sector_alignment: offered(BLK_F.SECURE_ERASE, shape.zoned?.zoneSectors ?? alignment),
    });
    BlkTopology.store(view, BlkConfig.fields.topology.offset, {
      physical_block_exp: Math.log2(physicalBlockSize / logicalBlockSize),
      min_io_size: Math.min(0xffff, Math.floor(minIoSize / logicalBlockSize)),
      opt_io_size: Math.floor(optIoSize / logicalBlockSize),
    });
  }

  #refresh(): void {
    const { view } = this.#space;
    BlkConfig.store(view, 0, { capacity: BigInt(this.#drive.sectors), writeback: Number(this.#state.writeback()) });
    BlkGeometry.store(view, BlkConfig.fields.geometry.offset, geometryOf(this.#drive.sectors));
    // @clause virtio.blk.dev.zoned-declined-ha-none-init
    // @clause virtio.blk.dev.zoned-negotiated-zoned-model-reports
    // @clause virtio.blk.dev.unused2-padding-zero
    const zones = this.#state.zones();
    BlkZoned.store(view, BlkConfig.fields.zoned.offset, {
      // @clause virtio.blk.dev.zone-sectors-gives-single-zone
      zone_sectors: zones?.zoneSectors ?? 0,
      max_open_zones: zones?.maxOpen ?? 0,
      max_active_zones: zones?.maxActive ?? 0,
      // @clause virtio.blk.dev.max-append-sectors-gives-largest
      max_append_sectors: zones?.maxAppendSectors ?? 0,
      write_granularity: zones?.writeGranularity ?? 0,
      model: zones?.model ?? BLK_Z.NONE,
    });
  }

  read(offset: number, width: 1 | 2 | 4): number {
    this.#refresh();
    return this.#space.read(offset, width);
  }

  // @clause virtio.blk.dri.config-wce-cache-mode-switched
  write(offset: number, width: 1 | 2 | 4, value: number): void {
    this.#space.write(offset, width, value);
  }
}

/** How much of the configuration space there is: up to the last field that a feature gives a meaning. */
function configBytes(features: bigint): number {
  const { fields } = BlkConfig;
  if (has(features, BLK_F.ZONED)) return BlkConfig.bytes;
  if (has(features, BLK_F.SECURE_ERASE)) return fields.zoned.offset;
  if (has(features, BLK_F.WRITE_ZEROES)) return fields.max_secure_erase_sectors.offset;
  if (has(features, BLK_F.DISCARD)) return fields.max_write_zeroes_sectors.offset;
  return fields.max_discard_sectors.offset;
}

// Nothing has cylinders any more. Software that asks is given what a BIOS would make up.

const GEOMETRY = { sectors: 63, heads: 16, mostCylinders: 16383 } as const;

const geometryOf = (capacity: number): { cylinders: number; heads: number; sectors: number } => {
  const { sectors, heads, mostCylinders } = GEOMETRY;
  return { cylinders: Math.min(mostCylinders, Math.max(2, Math.floor(capacity / (sectors * heads)))), heads, sectors };
};
