// # The words of a block device
//
// Everything here is bytes that the driver and the device have agreed upon: the configuration space, the header of a request, the range of a discard, the answer
// to a zone report. `sector` is always 512 bytes, whatever block size the disk likes best.

import { bytes, layout, nested, u8, u16le, u32le, u64le } from '../../01-hardware-background/layout.ts';

/** Features of a block device, by the specification's names without VIRTIO_BLK_F_; values are bit numbers. */
// biome-ignore format: table
export const BLK_F = {
  BARRIER: 0,        // legacy
  SIZE_MAX: 1,
  SEG_MAX: 2,
  GEOMETRY: 4,
  RO: 5,
  BLK_SIZE: 6,
  SCSI: 7,           // legacy
  FLUSH: 9,
  TOPOLOGY: 10,
  CONFIG_WCE: 11,
  MQ: 12,
  DISCARD: 13,
  WRITE_ZEROES: 14,
  LIFETIME: 15,
  SECURE_ERASE: 16,
  ZONED: 17,
} as const;

/** Types of request, without VIRTIO_BLK_T_. */
// biome-ignore format: table
export const BLK_T = {
  IN: 0, OUT: 1, SCSI_CMD: 2, SCSI_CMD_OUT: 3, FLUSH: 4, FLUSH_OUT: 5, GET_ID: 8, GET_LIFETIME: 10,
  DISCARD: 11, WRITE_ZEROES: 13, SECURE_ERASE: 14,
  ZONE_APPEND: 15, ZONE_REPORT: 16, ZONE_OPEN: 18, ZONE_CLOSE: 20, ZONE_FINISH: 22, ZONE_RESET: 24, ZONE_RESET_ALL: 26,
} as const;

/** How a request ended, without VIRTIO_BLK_S_. */
// biome-ignore format: table
export const BLK_S = {
  OK: 0, IOERR: 1, UNSUPP: 2, ZONE_INVALID_CMD: 3, ZONE_UNALIGNED_WP: 4, ZONE_OPEN_RESOURCE: 5, ZONE_ACTIVE_RESOURCE: 6,
} as const;

/** How a disk is zoned: VIRTIO_BLK_Z_. */
export const BLK_Z = { NONE: 0, HM: 1, HA: 2 } as const;
/** What a zone is: VIRTIO_BLK_ZT_. */
export const BLK_ZT = { CONV: 1, SWR: 2, SWP: 3 } as const;
/** What state a zone is in: VIRTIO_BLK_ZS_. */
// biome-ignore format: table
export const BLK_ZS = { NOT_WP: 0, EMPTY: 1, IOPEN: 2, EOPEN: 3, CLOSED: 4, RDONLY: 13, FULL: 14, OFFLINE: 15 } as const;

// ## Configuration space
//
// It grew for fifteen years, always at the end. Each group of fields belongs to a feature, and a driver that does not know the feature does not know that there
// is anything behind the fields it reads.
//
// ::layout BlkConfig -- the configuration space; `geometry`, `topology` and `zoned` are records of their own.

/** struct virtio_blk_geometry: cylinders, heads and sectors, for software that was written when disks had them. */
export const BlkGeometry = layout('virtio_blk_geometry', {
  cylinders: u16le(0),
  heads: u8(2),
  sectors: u8(3),
});

/** struct virtio_blk_topology: which sizes and places are fast. All in units of `blk_size`, the first as a power of two. */
export const BlkTopology = layout('virtio_blk_topology', {
  physical_block_exp: u8(0), // log2 of blocks in a physical block
  alignment_offset: u8(1), // first block that begins a physical block
  min_io_size: u16le(2),
  opt_io_size: u32le(4),
});

/** struct virtio_blk_zoned_characteristics. Sizes are in sectors, but for `write_granularity`, which is in bytes. */
export const BlkZoned = layout('virtio_blk_zoned_characteristics', {
  zone_sectors: u32le(0),
  max_open_zones: u32le(4), // 0: no limit
  max_active_zones: u32le(8), // 0: no limit
  max_append_sectors: u32le(12), // 0: no ZONE_APPEND
  write_granularity: u32le(16), // bytes
  model: u8(20), // VIRTIO_BLK_Z_
  unused2: bytes(21, 3),
});

/** struct virtio_blk_config. */
export const BlkConfig = layout('virtio_blk_config', {
  capacity: u64le(0), // sectors
  size_max: u32le(8), // SIZE_MAX: bytes of a segment
  seg_max: u32le(12), // SEG_MAX: segments of data in a request
  geometry: nested(16, BlkGeometry), // GEOMETRY
  blk_size: u32le(20), // BLK_SIZE: bytes
  topology: nested(24, BlkTopology), // TOPOLOGY
  writeback: u8(32), // CONFIG_WCE: the only field that a driver writes
  unused0: u8(33),
  num_queues: u16le(34), // MQ
  max_discard_sectors: u32le(36), // DISCARD, three fields
  max_discard_seg: u32le(40),
  discard_sector_alignment: u32le(44),
  max_write_zeroes_sectors: u32le(48), // WRITE_ZEROES, three fields
  max_write_zeroes_seg: u32le(52),
  write_zeroes_may_unmap: u8(56),
  unused1: bytes(57, 3),
  max_secure_erase_sectors: u32le(60), // SECURE_ERASE, three fields
  max_secure_erase_seg: u32le(64),
  secure_erase_sector_alignment: u32le(68),
  zoned: nested(72, BlkZoned), // ZONED
});

// ## Requests
//
// A request is one chain: this header, data, one byte of status. The driver cuts it into buffers as it likes. The only thing that it cannot choose is that what the
// device reads comes before what the device writes.
//
// ::layout BlkOutHdr -- what every request begins with.

/** The readable head of struct virtio_blk_req. */
export const BlkOutHdr = layout('virtio_blk_outhdr', {
  type: u32le(0), // VIRTIO_BLK_T_
  reserved: u32le(4), // once ioprio
  sector: u64le(8),
});

/** struct virtio_blk_discard_write_zeroes: one range of a DISCARD, WRITE_ZEROES or SECURE_ERASE. */
export const BlkRange = layout('virtio_blk_discard_write_zeroes', {
  sector: u64le(0),
  num_sectors: u32le(8),
  flags: u32le(12), // bit 0: unmap
});
/** The one flag of {@link BlkRange}. */
export const UNMAP = 1;

/** struct virtio_blk_lifetime: what GET_LIFETIME gives. */
export const BlkLifetime = layout('virtio_blk_lifetime', {
  pre_eol_info: u16le(0),
  device_lifetime_est_typ_a: u16le(2),
  device_lifetime_est_typ_b: u16le(4),
});

/** struct virtio_blk_zone_descriptor. */
export const BlkZone = layout(
  'virtio_blk_zone_descriptor',
  {
    z_cap: u64le(0), // sectors that can be written
    z_start: u64le(8),
    z_wp: u64le(16),
    z_type: u8(24), // VIRTIO_BLK_ZT_
    z_state: u8(25), // VIRTIO_BLK_ZS_
  },
  64,
);

/** The head of struct virtio_blk_zone_report; descriptors follow. */
export const BlkZoneReport = layout('virtio_blk_zone_report', { nr_zones: u64le(0) }, 64);

/** Bytes that GET_ID gives. */
export const ID_BYTES = 20;
/** What struct virtio_blk_req_za has between the data and the status: where the data went. */
export const BlkAppendSector = layout('virtio_blk_req_za.append_sector', { append_sector: u64le(0) });
