// # A disk in a file
//
// Raw format: sector *n* is at byte *n* × 512, and nothing else is in the file. Two drives on one file would each believe that nobody else writes
// to it, and the guest's file system would not survive that. So a file that is open for writing is not opened again, under whatever name: the
// check is by device and inode. It covers this process only; Node has no file locks.

import { closeSync, fstatSync, fsyncSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { type BlockBackend, SECTOR_BYTES, withinDisk } from '../block/block.ts';
import { openForReading } from './read-file.ts';

/** Files that are open here: how many readers, and whether there is a writer. */
const open = new Map<string, { readers: number; writer: boolean }>();

export class FileBlock implements BlockBackend {
  sectors: number;
  readonly readOnly: boolean;
  readonly #identity: string;
  #fd: number;

  /** @throws Error when the file is missing, not a regular file, not whole sectors, or already in use */
  constructor(path: string, { readOnly = false }: { readonly readOnly?: boolean } = {}) {
    this.readOnly = readOnly;
    this.#fd = readOnly ? openForReading(path) : openSync(path, 'r+'); // for writing too, nothing is waited for
    try {
      const stat = fstatSync(this.#fd, { bigint: true });
      if (!stat.isFile()) throw new Error(`${path}: a raw disk image is a regular file`);
      if (stat.size === 0n || stat.size % BigInt(SECTOR_BYTES) !== 0n)
        throw new Error(`${path}: ${stat.size} bytes; a raw disk image is one or more whole sectors of ${SECTOR_BYTES} bytes`);
      this.sectors = Number(stat.size) / SECTOR_BYTES;
      this.#identity = `${stat.dev}:${stat.ino}`;
      const users = open.get(this.#identity) ?? { readers: 0, writer: false };
      if (users.writer || (!readOnly && users.readers > 0)) throw new Error(`${path}: in use by another drive`);
      open.set(this.#identity, readOnly ? { ...users, readers: users.readers + 1 } : { ...users, writer: true });
    } catch (error) {
      closeSync(this.#fd);
      throw error;
    }
  }

  read(sector: number, into: Uint8Array): boolean {
    return withinDisk(this, sector, into.length) && this.#whole(into, sector, readSync);
  }

  write(sector: number, from: Uint8Array): boolean {
    return !this.readOnly && withinDisk(this, sector, from.length) && this.#whole(from, sector, writeSync);
  }

  /** Moves all of `bytes`, however many calls that takes; a file that became shorter is a medium error. */
  #whole(bytes: Uint8Array, sector: number, move: typeof readSync | typeof writeSync): boolean {
    try {
      for (let done = 0; done < bytes.length; ) {
        const moved = (move as typeof readSync)(this.#fd, bytes, done, bytes.length - done, sector * SECTOR_BYTES + done);
        if (moved === 0) return false;
        done += moved;
      }
      return true;
    } catch {
      return false;
    }
  }

  flush(): boolean {
    if (this.readOnly) return true;
    try {
      fsyncSync(this.#fd);
      return true;
    } catch {
      return false;
    }
  }

  resize(sectors: number): boolean {
    if (this.readOnly || !Number.isSafeInteger(sectors) || sectors < 1) return false;
    try {
      ftruncateSync(this.#fd, sectors * SECTOR_BYTES);
    } catch {
      return false;
    }
    this.sectors = sectors;
    return true;
  }

  /** Lets the file go. The disk answers every later request with an error. */
  close(): void {
    if (this.#fd < 0) return;
    closeSync(this.#fd);
    this.#fd = -1;
    const users = open.get(this.#identity);
    if (!users) return;
    const left = this.readOnly ? { ...users, readers: users.readers - 1 } : { ...users, writer: false };
    if (left.readers > 0 || left.writer) open.set(this.#identity, left);
    else open.delete(this.#identity);
  }
}
