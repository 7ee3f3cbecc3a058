// # A tree that can be cut anywhere
//
// The second stage's tables are a cache of what the slots say. That settles how they may be treated: anything in them may be dropped at any moment,
// and comes back by itself, one fault at a time. What costs is dropping *too much*. A machine whose screen buffer moves loses one slot of sixteen
// megabytes; if that empties the whole tree, every page of its gigabytes faults again. So this tree can lose a range, and only that range.
//
// Its leaves have three sizes. An entry at level {{LEVEL.PAGE_2M}} can map 2 MiB by itself and one at level {{LEVEL.PAGE_1G}} 1 GiB. A large leaf
// answers {{PAGES_PER_TABLE}} faults at once, and each time the processor's TLB misses, the walk is shorter by a reference for every level that is not
// there. Two operations connect the sizes. *Splitting* replaces a large leaf by a table of leaves that say the same, when one page of it is to be
// treated differently. *Collapsing*, the reverse, is a dropped table: the next fault maps the large page.

import { EPT_ENTRY } from '../../01-hardware-background/mmu/ept.ts';
import { assert, type Gpa, type Hpa, PAGE_BYTES, type PhysicalMemory } from '../../01-hardware-background/physical-memory.ts';
import type { RamOwners } from '../../02-kvm-objects/soft/memory.ts';

const { mask: E } = EPT_ENTRY;
const WRITE_BACK = 6 << 3;
const ENTRY_BYTES = 8;
const HIGH_ADDRESS = 0xfffff; // bits 51:32 of an address

/** Levels of the tree that can have leaves, and the top. */
export const LEVEL = { PAGE_4K: 1, PAGE_2M: 2, PAGE_1G: 3, TOP: 4 } as const;
export type LeafLevel = 1 | 2 | 3;
export const PAGES_PER_TABLE = 512;

/** What a leaf may grant, in any combination but two: writable and not readable is a misconfiguration. */
export const RIGHTS = { READ: E.R, WRITE: E.W, EXECUTE: E.X, ALL: E.R | E.W | E.X } as const;
const MMIO_MARK = E.W | E.X;

/** What four levels translate. */
const REACH = 2 ** 48;

/** Bytes that an entry of this level covers. */
export const bytesAt = (level: number): number => PAGE_BYTES * PAGES_PER_TABLE ** (level - 1);

/** A leaf as it was found. */
interface Leaf {
  readonly level: LeafLevel;
  /** First address that it maps, and where to. */
  readonly gpa: Gpa;
  readonly hpa: Hpa;
  readonly rights: number;
  readonly accessed: boolean;
  readonly dirty: boolean;
}

/** The second-stage tables of one VM. Every change that takes something away is to be followed by INVEPT; that is the caller's. */
export class EptTables {
  readonly #memory: PhysicalMemory;
  readonly #ram: RamOwners;
  readonly #view: DataView;
  /** Host physical address of the top-level table; -1 when RAM had no room for it. */
  readonly root: Hpa;
  #tables = 0;

  constructor(memory: PhysicalMemory, ram: RamOwners) {
    this.#memory = memory;
    this.#ram = ram;
    this.#view = memory.view;
    this.root = ram.kernelPages();
  }

  /** How many tables hang below the root. */
  get tables(): number {
    return this.#tables;
  }

  // ## Looking

  /** The leaf for `gpa`, or null. A device mark is none. */
  find(gpa: Gpa): Leaf | null {
    let table = this.root;
    for (let level = LEVEL.TOP as number; ; level--) {
      const at = this.#entry(table, level, gpa);
      const low = this.#view.getUint32(at, true);
      if ((low & RIGHTS.ALL) === 0) return null;
      if (!isLeaf(low, level)) {
        table = this.#address(at);
        continue;
      }
      if (isMark(low)) return null;
      const size = bytesAt(level);
      return {
        level: level as LeafLevel,
        gpa: gpa - (gpa % size),
        hpa: this.#address(at),
        rights: low & RIGHTS.ALL,
        accessed: (low & E.A) !== 0,
        dirty: (low & E.D) !== 0,
      };
    }
  }

  /** How many leaves there are: `[device marks, 4 KiB, 2 MiB, 1 GiB]`. */
  census(): readonly [number, number, number, number] {
    const counts: [number, number, number, number] = [0, 0, 0, 0];
    this.#walk(0, REACH, (_at, level, _start, low) => {
      if (!isLeaf(low, level)) return true;
      counts[isMark(low) ? 0 : (level as LeafLevel)]++;
      return false;
    });
    return counts;
  }

  // ## Mapping

  /**
   * Writes one leaf. A larger leaf in its way is split, a table in its place is dropped. False when no page is left for a table: whatever was done
   * until then is harmless.
   */
  map(gpa: Gpa, level: LeafLevel, hpa: Hpa, rights: number): boolean {
    const size = bytesAt(level);
    assert(gpa % size === 0 && hpa % size === 0, 'a page lies at a multiple of its size');
    const at = this.#reach(gpa, level);
    if (at < 0) return false;
    this.#drop(at, level);
    this.#set(at, hpa, rights | WRITE_BACK | (level > 1 ? E.PS : 0));
    return true;
  }

  /** Marks one 4 KiB page as a device's: the next access exits as EPT misconfiguration. False as for {@link map}. */
  markMmio(gpa: Gpa): boolean {
    const at = this.#reach(gpa, 1);
    if (at < 0) return false;
    this.#set(at, 0, MMIO_MARK);
    return true;
  }

  /** Buffer offset of the entry for `gpa` at `level`, with tables made and large leaves split on the way; -1 when there is no room. */
  #reach(gpa: Gpa, level: number): number {
    let table = this.root;
    for (let above = LEVEL.TOP as number; above > level; above--) {
      const at = this.#entry(table, above, gpa);
      const low = this.#view.getUint32(at, true);
      if ((low & RIGHTS.ALL) === 0) {
        const next = this.#table();
        if (next < 0) return -1;
        this.#set(at, next, RIGHTS.ALL);
      } else if (isLeaf(low, above) && !this.#splitEntry(at, above)) return -1;
      table = this.#address(at);
    }
    return this.#entry(table, level, gpa);
  }

  // The new leaves inherit everything, accessed and dirty bits too. A lost dirty bit would be a lost page in whatever reads them.

  #splitEntry(at: number, level: number): boolean {
    const low = this.#view.getUint32(at, true);
    const table = this.#table();
    if (table < 0) return false;
    const base = this.#address(at);
    const size = bytesAt(level - 1);
    const bits = (low & 0xfff & ~E.PS) | (level - 1 > 1 ? E.PS : 0);
    const first = this.#memory.offset(table, PAGE_BYTES);
    for (let n = 0; n < PAGES_PER_TABLE; n++) this.#set(first + n * ENTRY_BYTES, base + n * size, bits);
    this.#set(at, table, RIGHTS.ALL | (low & E.A));
    return true;
  }

  #table(): Hpa {
    const hpa = this.#ram.kernelPages();
    if (hpa >= 0) this.#tables++;
    return hpa;
  }

  // ## Taking away

  /** Splits every large leaf that reaches into the range down to 4 KiB; one for which there is no room is dropped. True when there was one. */
  split(gpa: Gpa, bytes: number): boolean {
    let changed = false;
    this.#walk(gpa, bytes, (at, level, _start, low) => {
      if (!isLeaf(low, level)) return level > LEVEL.PAGE_2M;
      if (level === 1) return false;
      changed = true;
      if (this.#splitEntry(at, level)) return level > LEVEL.PAGE_2M;
      this.#set(at, 0, 0);
      return false;
    });
    return changed;
  }

  /** Takes write permission from every leaf in the range. How many lost it. */
  protect(gpa: Gpa, bytes: number): number {
    let changed = 0;
    this.#walk(gpa, bytes, (at, level, _start, low) => {
      if (!isLeaf(low, level)) return true;
      if (isMark(low) || !(low & E.W)) return false;
      this.#view.setUint32(at, low & ~E.W, true);
      changed++;
      return false;
    });
    return changed;
  }

  /** Gives the leaves in the range just these rights; 0 makes them absent. How many there were. */
  restrict(gpa: Gpa, bytes: number, rights: number): number {
    let changed = 0;
    this.#walk(gpa, bytes, (at, level, _start, low) => {
      if (!isLeaf(low, level)) return true;
      if (isMark(low)) return false;
      this.#view.setUint32(at, (low & ~RIGHTS.ALL) | rights, true);
      changed++;
      return false;
    });
    return changed;
  }

  /** Forgets every translation that reaches into the range, and nothing else. True when there was one. */
  zap(gpa: Gpa, bytes: number): boolean {
    let changed = false;
    this.#walk(gpa, bytes, (at, level, start, low) => {
      if (!isLeaf(low, level) && (start < gpa || start + bytesAt(level) > gpa + bytes)) return true;
      changed = true;
      this.#drop(at, level);
      return false;
    });
    return changed;
  }

  /** Drops the table that is where a leaf of this level could be. True when there was one. */
  collapse(gpa: Gpa, level: LeafLevel): boolean {
    let changed = false;
    this.#walk(gpa, bytesAt(level), (at, found, _start, low) => {
      if (isLeaf(low, found)) return false;
      if (found > level) return true;
      changed = true;
      this.#drop(at, found);
      return false;
    });
    return changed;
  }

  /** Forgets everything and gives the tables back, all but the root. */
  clear(): void {
    if (this.root >= 0) this.zap(0, REACH);
  }

  /** Gives everything back. */
  free(): void {
    this.clear();
    if (this.root >= 0) this.#ram.freeKernelPages(this.root);
  }

  /** Empties an entry, and frees what hangs below it. */
  #drop(at: number, level: number): void {
    const low = this.#view.getUint32(at, true);
    if (low & RIGHTS.ALL && !isLeaf(low, level)) {
      const table = this.#address(at);
      const first = this.#memory.offset(table, PAGE_BYTES);
      if (level > 2) for (let n = 0; n < PAGES_PER_TABLE; n++) this.#drop(first + n * ENTRY_BYTES, level - 1);
      this.#ram.freeKernelPages(table);
      this.#tables--;
    }
    this.#set(at, 0, 0);
  }

  // ## What the processor left behind
  //
  // With accessed and dirty bits switched on in the EPT pointer, the processor notes in each entry that it has used it, and in each leaf that it has
  // written through it. Both notes are cheap for the guest, because there is no exit, and dear for whoever wants to know, because somebody has to
  // read all entries. The bit is set again only when the processor walks again; after clearing it, what the TLB holds must go.

  /**
   * Gives up the tables that were not used since the last time, for when there are too many: the second-chance algorithm, with the accessed bits of
   * the entries that refer to tables. How many tables were freed.
   */
  reclaim(): number {
    const before = this.#tables;
    this.#walk(0, REACH, (at, level, _start, low) => {
      if (isLeaf(low, level)) return false;
      if (!(low & E.A)) {
        this.#drop(at, level);
        return false;
      }
      this.#view.setUint32(at, low & ~E.A, true);
      return true;
    });
    return before - this.#tables;
  }

  /** Calls `found` for each leaf in the range that was written through since its dirty bit was cleared, and clears it. */
  harvestDirty(gpa: Gpa, bytes: number, found: (gpa: Gpa, bytes: number) => void): boolean {
    let any = false;
    this.#walk(gpa, bytes, (at, level, start, low) => {
      if (!isLeaf(low, level)) return true;
      if (isMark(low) || !(low & E.D)) return false;
      this.#view.setUint32(at, low & ~E.D, true);
      found(start, bytesAt(level));
      any = true;
      return false;
    });
    return any;
  }

  /** Clears the accessed bits of the leaves in the range: how many were set. Linux: `kvm_age_gfn()`. */
  age(gpa: Gpa, bytes: number): number {
    let young = 0;
    this.#walk(gpa, bytes, (at, level, _start, low) => {
      if (!isLeaf(low, level)) return true;
      if (isMark(low) || !(low & E.A)) return false;
      this.#view.setUint32(at, low & ~E.A, true);
      young++;
      return false;
    });
    return young;
  }

  // ## Entries

  /** Visits the entries that are not empty and reach into the range, from the top; `visit` says whether to go on below an entry. */
  #walk(gpa: Gpa, bytes: number, visit: (at: number, level: number, start: Gpa, low: number) => boolean): void {
    const inTable = (table: Hpa, level: number, base: Gpa): void => {
      const size = bytesAt(level);
      const first = this.#memory.offset(table, PAGE_BYTES);
      const end = Math.min(PAGES_PER_TABLE, Math.ceil((gpa + bytes - base) / size));
      for (let n = Math.max(0, Math.floor((gpa - base) / size)); n < end; n++) {
        const at = first + n * ENTRY_BYTES;
        const low = this.#view.getUint32(at, true);
        if ((low & RIGHTS.ALL) === 0) continue;
        if (visit(at, level, base + n * size, low) && level > 1) inTable(this.#address(at), level - 1, base + n * size);
      }
    };
    inTable(this.root, LEVEL.TOP, 0);
  }

  /** Buffer offset of the entry for `gpa` in a table of this level. */
  #entry(table: Hpa, level: number, gpa: Gpa): number {
    return this.#memory.offset(table, PAGE_BYTES) + (Math.floor(gpa / bytesAt(level)) % PAGES_PER_TABLE) * ENTRY_BYTES;
  }

  #address(at: number): Hpa {
    return (this.#view.getUint32(at + 4, true) & HIGH_ADDRESS) * 2 ** 32 + ((this.#view.getUint32(at, true) & 0xfffff000) >>> 0);
  }

  #set(at: number, address: Hpa, bits: number): void {
    this.#view.setUint32(at, (address % 2 ** 32) + bits, true);
    this.#view.setUint32(at + 4, Math.floor(address / 2 ** 32), true);
  }
}

const isLeaf = (low: number, level: number): boolean => level === 1 || (low & E.PS) !== 0;
const isMark = (low: number): boolean => (low & RIGHTS.ALL) === MMIO_MARK;
