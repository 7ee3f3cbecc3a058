// # What a disk keeps
//
// An IDE disk, a virtio disk and a SCSI disk differ in how they are asked. What is asked of them is the same: these sectors, please. A
// `BlockBackend` is that, and no more: whole sectors in, whole sectors out, and a promise that what was flushed will be there tomorrow.
//
// The calls are synchronous on purpose. When a disk *answers* is a matter of the machine's clock, which the device model decides; if it also
// depended on how fast the host's own disk is today, no run would repeat.

export const SECTOR_BYTES = 512;

/** Storage of whole sectors. A false result is an error of the medium, which the device reports to its driver; nothing here throws. */
export interface BlockBackend {
  /** Capacity, in sectors of {@link SECTOR_BYTES}. */
  readonly sectors: number;
  readonly readOnly: boolean;
  /** Fills `into`, whose length is a multiple of the sector size. */
  read(sector: number, into: Uint8Array): boolean;
  /** Stores `from`, whose length is a multiple of the sector size. */
  write(sector: number, from: Uint8Array): boolean;
  /** Makes everything written so far durable. */
  flush(): boolean;
}

/** True when `[sector, sector + bytes)` is whole sectors that exist. */
export const withinDisk = (disk: { readonly sectors: number }, sector: number, bytes: number): boolean =>
  Number.isSafeInteger(sector) && sector >= 0 && bytes % SECTOR_BYTES === 0 && sector + bytes / SECTOR_BYTES <= disk.sectors;

/** A disk in an array of bytes: what the browser has, and what a test compares with. */
export class MemoryBlock implements BlockBackend {
  readonly sectors: number;
  readonly readOnly: boolean;
  readonly bytes: Uint8Array;
  /** Calls of {@link flush}. */
  flushes = 0;

  /** @throws RangeError when the contents are not whole sectors */
  constructor(bytes: Uint8Array, { readOnly = false }: { readonly readOnly?: boolean } = {}) {
    if (bytes.length % SECTOR_BYTES !== 0) throw new RangeError(`${bytes.length} bytes are not whole sectors of ${SECTOR_BYTES}`);
    this.bytes = bytes;
    this.sectors = bytes.length / SECTOR_BYTES;
    this.readOnly = readOnly;
  }

  read(sector: number, into: Uint8Array): boolean {
    if (!withinDisk(this, sector, into.length)) return false;
    into.set(this.bytes.subarray(sector * SECTOR_BYTES, sector * SECTOR_BYTES + into.length));
    return true;
  }

  write(sector: number, from: Uint8Array): boolean {
    if (this.readOnly || !withinDisk(this, sector, from.length)) return false;
    this.bytes.set(from, sector * SECTOR_BYTES);
    return true;
  }

  flush(): boolean {
    this.flushes++;
    return true;
  }
}
