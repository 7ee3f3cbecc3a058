// # The cache of shadow pages
//
// Building a shadow is expensive, and most of it stays right when the guest switches to another address space and back. So shadow pages are kept,
// filed under the guest frame that they shadow and their role, until their number reaches a limit and the oldest make room.
//
// Three indices hold it together. The *hash* finds the shadows of a guest frame: a new translation asks it for a page to link, a write by the guest
// asks it what has become wrong. *Parents* of a shadow page are the entries that lead to it; when the page goes, they are cleared. The *reverse map*
// finds every leaf that maps a guest frame, in whatever table: to take write permission away from the frame when it turns out to be a page table, or
// when the dirty log wants to see writes. Without the reverse map each of these would be a search through all tables.
//
// A guest frame that is shadowed is *tracked*: no leaf may let the guest write to it unnoticed. A last-level table may be let go of for a while
// (`unsync`): then the shadow is what a TLB would be, stale until the guest flushes.

import { assert, type Hpa, PAGE_BYTES, type PhysicalMemory } from '../../01-hardware-background/physical-memory.ts';
import type { RamOwners } from '../../02-kvm-objects/soft/memory.ts';
import { addressIn, isDevice, isDirect, isLarge, isPresent, isWritable, levelOf } from './spte.ts';

const ENTRIES = 512;
const NO_GFN = -1;
const RW = 2;
/** How many pages are kept at hand. */
const SPARE_PAGES = 16;
/** A large page at shadow level n covers so many frames. */
export const framesAt = (level: number): number => 512 ** (level - 1);

/** One shadow table. */
export class ShadowPage {
  readonly hpa: Hpa;
  readonly gfn: number;
  readonly role: number;
  /** Host physical addresses of the entries that lead here. */
  readonly parents = new Set<Hpa>();
  /** Guest frame that each leaf maps. */
  readonly gfns = new Int32Array(ENTRIES).fill(NO_GFN);
  /** The guest may be writing to the table that this shadows. */
  unsync = false;
  /** Writes to the guest's table since a walk used this shadow. */
  writes = 0;
  /** How many vCPUs have it as a root. */
  roots = 0;

  constructor(hpa: Hpa, gfn: number, role: number) {
    this.hpa = hpa;
    this.gfn = gfn;
    this.role = role;
  }
  get level(): number {
    return levelOf(this.role);
  }
  get direct(): boolean {
    return isDirect(this.role);
  }
}

interface ShadowCounts {
  /** Shadow pages made, and given up: because of a write to the guest's table, or for room. */
  made: number;
  zapped: number;
  recycled: number;
  /** Leaves written. */
  leaves: number;
  /** Last-level tables let go of, and compared again. */
  unsynced: number;
  synced: number;
}

/** All shadow pages of one VM. */
export class ShadowPages {
  readonly #memory: PhysicalMemory;
  readonly #ram: RamOwners;
  readonly #pages = new Set<ShadowPage>(); // in the order of their making
  readonly #byHpa = new Map<Hpa, ShadowPage>();
  readonly #byGfn = new Map<number, ShadowPage[]>();
  readonly #rmap = new Map<number, Set<Hpa>>(); // leaves, by frame and level
  readonly #tracked = new Map<number, number>(); // how many tracked frames lie in a large page's range, by range and level
  readonly #spare: Hpa[] = [];
  readonly unsync = new Set<ShadowPage>();
  readonly counts: ShadowCounts = { made: 0, zapped: 0, recycled: 0, leaves: 0, unsynced: 0, synced: 0 };
  /** A page of this cache is about to go: whoever uses it as a root must let go of it. */
  onZap: (page: ShadowPage) => void = () => {};
  /** A frame has become tracked: other views of guest memory must stop letting it be written. */
  onTracked: (gfn: number) => void = () => {};
  /** Something that the processor may have cached was taken back. */
  stale = false;

  constructor(memory: PhysicalMemory, ram: RamOwners) {
    this.#memory = memory;
    this.#ram = ram;
  }

  get size(): number {
    return this.#pages.size;
  }
  get all(): Iterable<ShadowPage> {
    return this.#pages;
  }
  page(hpa: Hpa): ShadowPage {
    const page = this.#byHpa.get(hpa);
    assert(page, 'a table entry leads to a shadow page');
    return page;
  }

  // ## Room
  //
  // A fault needs up to one page for each level. They are set aside before it begins, so that nothing on the path under construction has to be given
  // up half way. Linux: `mmu_topup_memory_caches()` and `make_mmu_pages_available()`.

  // @clause kvm.shadow.bounded
  /** Makes sure that `count` pages can be made. False when RAM is full even of other things. */
  reserve(count: number, limit: number): boolean {
    while (this.#pages.size + count > limit && this.#recycle());
    while (this.#spare.length < count) {
      const hpa = this.#ram.kernelPages();
      if (hpa >= 0) this.#spare.push(hpa);
      else if (!this.#recycle()) return false;
    }
    return true;
  }

  /** Gives up the oldest page that is no root. */
  #recycle(): boolean {
    for (const page of this.#pages) {
      if (page.roots > 0) continue;
      this.zap(page);
      this.counts.recycled++;
      return true;
    }
    return false;
  }

  /** Gives up pages until at most `limit` are left. */
  shrink(limit: number): void {
    while (this.#pages.size > limit && this.#recycle());
  }

  // ## The hash

  find(gfn: number, role: number): ShadowPage | null {
    return this.#byGfn.get(gfn)?.find((page) => page.role === role) ?? null;
  }

  /** The shadows of a guest frame that were made from a guest table. */
  shadowsOf(gfn: number): ShadowPage[] {
    return this.#byGfn.get(gfn)?.filter((page) => !page.direct) ?? [];
  }

  /** True when a write to the frame must be noticed. */
  isProtected(gfn: number): boolean {
    const pages = this.#byGfn.get(gfn);
    return pages?.some((page) => !page.direct && !page.unsync) ?? false;
  }

  /** True when the frames of a large page hold a guest table. Linux: `disallow_lpage`. */
  holdsTables(gfn: number, level: number): boolean {
    return (this.#tracked.get(rangeKey(gfn, level)) ?? 0) > 0;
  }

  /** A new page, empty. The caller has reserved room. */
  make(gfn: number, role: number): ShadowPage {
    const hpa = this.#spare.pop();
    assert(hpa !== undefined, 'room was reserved before the fault');
    this.#memory.slice(hpa, PAGE_BYTES).fill(0);
    const page = new ShadowPage(hpa, gfn, role);
    this.#pages.add(page);
    this.#byHpa.set(hpa, page);
    const siblings = this.#byGfn.get(gfn);
    if (siblings) siblings.push(page);
    else this.#byGfn.set(gfn, [page]);
    this.counts.made++;
    if (!page.direct) {
      this.#track(gfn, 1);
      this.writeProtect(gfn);
      this.onTracked(gfn);
    }
    return page;
  }

  #track(gfn: number, by: 1 | -1): void {
    for (const level of [2, 3]) {
      const key = rangeKey(gfn, level);
      const count = (this.#tracked.get(key) ?? 0) + by;
      if (count === 0) this.#tracked.delete(key);
      else this.#tracked.set(key, count);
    }
  }

  /** Forgets a page: its entries, the entries that lead to it, and its place in the hash. Linux: `kvm_mmu_prepare_zap_page()`. */
  zap(page: ShadowPage): void {
    if (!this.#pages.delete(page)) return;
    this.onZap(page);
    for (let index = 0; index < ENTRIES; index++) this.clear(page, index);
    for (const entry of page.parents) this.#store(entry, 0, 0);
    page.parents.clear();
    this.#byHpa.delete(page.hpa);
    const siblings = (this.#byGfn.get(page.gfn) as ShadowPage[]).filter((other) => other !== page);
    if (siblings.length > 0) this.#byGfn.set(page.gfn, siblings);
    else this.#byGfn.delete(page.gfn);
    this.unsync.delete(page);
    if (!page.direct) this.#track(page.gfn, -1);
    if (this.#spare.length < SPARE_PAGES) this.#spare.push(page.hpa);
    else this.#ram.freeKernelPages(page.hpa);
    this.counts.zapped++;
    this.stale = true;
  }

  zapAll(): void {
    for (const page of [...this.#pages]) this.zap(page);
    this.#release();
  }

  /** Spare pages back to their owner. */
  #release(): void {
    for (const hpa of this.#spare) this.#ram.freeKernelPages(hpa);
    this.#spare.length = 0;
  }

  /** The frame's tables are to be ordinary memory again. Linux: `kvm_mmu_unprotect_gfn()`. True when there was any. */
  unshadow(gfn: number): boolean {
    const pages = this.shadowsOf(gfn);
    for (const page of pages) this.zap(page);
    return pages.length > 0;
  }

  // ## Entries

  low(page: ShadowPage, index: number): number {
    return this.#memory.view.getUint32(this.#memory.ramOffset + page.hpa + 8 * index, true);
  }
  high(page: ShadowPage, index: number): number {
    return this.#memory.view.getUint32(this.#memory.ramOffset + page.hpa + 8 * index + 4, true);
  }
  #store(entry: Hpa, low: number, high: number): void {
    const at = this.#memory.offset(entry, 8);
    this.#memory.view.setUint32(at, low, true);
    this.#memory.view.setUint32(at + 4, high, true);
  }

  /** The shadow page that a table entry leads to; null for any other entry. */
  child(page: ShadowPage, index: number): ShadowPage | null {
    const low = this.low(page, index);
    if (!isPresent(low) || page.level === 1 || isLarge(low)) return null;
    const high = this.high(page, index);
    return isDevice(high) ? null : this.page(addressIn(low, high));
  }

  /** Makes an entry empty. Linux: `mmu_page_zap_pte()`, `drop_spte()`. */
  clear(page: ShadowPage, index: number): void {
    const low = this.low(page, index);
    if (!isPresent(low)) return;
    const entry = page.hpa + 8 * index;
    const child = this.child(page, index);
    if (child) child.parents.delete(entry);
    else this.#unmap(page, index);
    this.#store(entry, 0, 0);
    this.stale = true;
  }

  setTable(page: ShadowPage, index: number, child: ShadowPage, low: number): void {
    this.clear(page, index);
    const entry = page.hpa + 8 * index;
    this.#store(entry, ((child.hpa % 2 ** 32) | low) >>> 0, Math.floor(child.hpa / 2 ** 32));
    child.parents.add(entry);
  }

  /** Writes a leaf (or a device entry) for guest frame `gfn`, the first of those it covers. False: it was so already. */
  setLeaf(page: ShadowPage, index: number, gfn: number, low: number, high: number): boolean {
    if (this.low(page, index) === low >>> 0 && this.high(page, index) === high >>> 0 && page.gfns[index] === gfn) return false;
    this.clear(page, index);
    const entry = page.hpa + 8 * index;
    this.#store(entry, low, high);
    page.gfns[index] = gfn;
    if (!isDevice(high)) {
      const key = rmapKey(gfn, page.level);
      const leaves = this.#rmap.get(key);
      if (leaves) leaves.add(entry);
      else this.#rmap.set(key, new Set([entry]));
    }
    this.counts.leaves++;
    return true;
  }

  #unmap(page: ShadowPage, index: number): void {
    const gfn = page.gfns[index] as number;
    page.gfns[index] = NO_GFN;
    const key = rmapKey(gfn, page.level);
    const leaves = this.#rmap.get(key);
    if (!leaves) return;
    leaves.delete(page.hpa + 8 * index);
    if (leaves.size === 0) this.#rmap.delete(key);
  }

  // ## The reverse map

  // A large leaf cannot lose write permission for one of its frames; it goes as a whole, and comes back in small pieces.
  // @clause kvm.shadow.write-protect
  /** No leaf may let the guest write to this frame. Returns how many entries changed. Linux: `kvm_mmu_slot_gfn_write_protect()`. */
  writeProtect(gfn: number): number {
    let changed = 0;
    for (const level of [1, 2, 3]) {
      const first = gfn - (gfn % framesAt(level));
      for (const entry of [...(this.#rmap.get(rmapKey(first, level)) ?? [])]) {
        const at = this.#memory.offset(entry, 8);
        const low = this.#memory.view.getUint32(at, true);
        if (!isWritable(low)) continue;
        changed++;
        if (level === 1) this.#memory.view.setUint32(at, low & ~RW, true);
        else this.clear(this.page(entry - (entry % PAGE_BYTES)), (entry % PAGE_BYTES) / 8);
      }
    }
    if (changed > 0) this.stale = true;
    return changed;
  }

  free(): void {
    for (const page of this.#pages) this.#ram.freeKernelPages(page.hpa);
    this.#release();
    this.#pages.clear();
    this.#byHpa.clear();
    this.#byGfn.clear();
    this.#rmap.clear();
    this.#tracked.clear();
    this.unsync.clear();
  }
}

const LEVELS = 4;
const rmapKey = (gfn: number, level: number): number => gfn * LEVELS + level;
const rangeKey = (gfn: number, level: number): number => Math.floor(gfn / framesAt(level)) * LEVELS + level;
