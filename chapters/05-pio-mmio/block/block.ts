// # What a disk keeps
//
// An IDE disk, a virtio disk and a SCSI disk differ in how they are asked. What is asked of them is the same: these sectors, please. A
// `BlockBackend` is that, and no more: whole sectors in, whole sectors out, and a promise that what was flushed will be there tomorrow.
//
// The calls are synchronous on purpose. When a disk *answers* is a matter of the machine's clock, which the device model decides; if it also
// depended on how fast the host's own disk is today, no run would repeat.

import { array, describe, type SavedPart, savedPart } from '../../03-vcpu-loop/devices/state.ts';

export const SECTOR_BYTES = 512;

/** Storage of whole sectors. A false result is an error of the medium, which the device reports to its driver; nothing here throws. */
export interface BlockBackend {
  /** Capacity, in sectors of {@link SECTOR_BYTES}. */
  readonly sectors: number;
  /** What of it is nowhere but in memory, for whoever saves the machine. */
  savedPart?(name: string): SavedPart;
  readonly readOnly: boolean;
  /** Fills `into`, whose length is a multiple of the sector size. */
  read(sector: number, into: Uint8Array): boolean;
  /** Stores `from`, whose length is a multiple of the sector size. */
  write(sector: number, from: Uint8Array): boolean;
  /** Makes everything written so far durable. */
  flush(): boolean;
  /** Nobody needs what `count` sectors hold: their space may be given back, and they may read as anything. Absent where nothing could be given back. */
  discard?(sector: number, count: number): boolean;
  /** The same as writing zeroes. With `unmap` the space may be given back, as long as zeroes are read. */
  writeZeroes?(sector: number, count: number, unmap: boolean): boolean;
  /** What was there is gone for good, from the cells themselves. Absent where nobody could promise that. */
  secureErase?(sector: number, count: number): boolean;
  /** Whether {@link writeZeroes} can give space back. */
  readonly unmaps?: boolean;
  /** How worn the medium is; absent where nobody knows. */
  lifetime?(): Lifetime;
  /** Makes the disk longer (zeroes) or shorter. False when it cannot. */
  resize?(sectors: number): boolean;
}

/** Wear, in the units of JEDEC's eMMC: {@link preEol} 0 (unknown) to 3, the two estimates 0 (unknown) to 11, in tenths of what the cells last. */
interface Lifetime {
  readonly preEol: number;
  readonly estimateA: number;
  readonly estimateB: number;
}

const ZEROES = new Uint8Array(128 * SECTOR_BYTES);

/** Writes zeroes, however the disk does that. */
export function writeZeroes(disk: BlockBackend, sector: number, count: number, unmap = false): boolean {
  if (disk.writeZeroes) return disk.writeZeroes(sector, count, unmap);
  for (let done = 0; done < count; ) {
    const now = Math.min(count - done, ZEROES.length / SECTOR_BYTES);
    if (!disk.write(sector + done, ZEROES.subarray(0, now * SECTOR_BYTES))) return false;
    done += now;
  }
  return true;
}

/** True when `[sector, sector + bytes)` is whole sectors that exist. */
export const withinDisk = (disk: { readonly sectors: number }, sector: number, bytes: number): boolean =>
  Number.isSafeInteger(sector) && sector >= 0 && bytes % SECTOR_BYTES === 0 && sector + bytes / SECTOR_BYTES <= disk.sectors;

/** A disk in an array of bytes: what the browser has, and what a test compares with. */
export class MemoryBlock implements BlockBackend {
  readonly readOnly: boolean;
  /** The disk itself; another array after {@link resize}. */
  bytes: Uint8Array;
  /** Calls of {@link flush}. */
  flushes = 0;

  /** @throws RangeError when the contents are not whole sectors */
  constructor(bytes: Uint8Array, { readOnly = false }: { readonly readOnly?: boolean } = {}) {
    if (bytes.length % SECTOR_BYTES !== 0) throw new RangeError(`${bytes.length} bytes are not whole sectors of ${SECTOR_BYTES}`);
    this.bytes = bytes;
    this.readOnly = readOnly;
  }

  get sectors(): number {
    return this.bytes.length / SECTOR_BYTES;
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

  discard(sector: number, count: number): boolean {
    return this.writeZeroes(sector, count);
  }

  writeZeroes(sector: number, count: number): boolean {
    if (this.readOnly || !withinDisk(this, sector, count * SECTOR_BYTES)) return false;
    this.bytes.fill(0, sector * SECTOR_BYTES, (sector + count) * SECTOR_BYTES);
    return true;
  }

  secureErase(sector: number, count: number): boolean {
    return this.writeZeroes(sector, count);
  }

  resize(sectors: number): boolean {
    if (!Number.isSafeInteger(sectors) || sectors < 0) return false;
    const bytes = new Uint8Array(sectors * SECTOR_BYTES);
    bytes.set(this.bytes.subarray(0, bytes.length));
    this.bytes = bytes;
    return true;
  }

  static readonly STATE = describe<MemoryBlock>('disk in memory', 1, { bytes: array((block) => block.bytes) });

  savedPart(name: string): SavedPart {
    return savedPart<MemoryBlock>(name, this, MemoryBlock.STATE);
  }
}
