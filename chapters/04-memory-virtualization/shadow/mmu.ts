// # Filling the shadow
//
// The processor runs on the shadow tables and knows nothing of the guest's. It faults whenever the shadow does not say yes, and the fault handler
// has to find out *why*. There are five answers, and all of shadow paging is in telling them apart:
//
// 1. The guest's own tables forbid the access. The fault is the guest's; it is injected with the error code that the guest's registers call for.
// 2. They allow it and the shadow has not been built that far. Build it, enter again.
// 3. The address is a device, or a write to read-only memory. Mark it and emulate the instruction.
// 4. It is a write to one of the guest's page tables. For a last-level table the shadow lets go (it becomes *unsync*, like a TLB that has not been
//    flushed); for a table higher up the instruction is emulated, and what it has changed is thrown away.
// 5. The first write to a page whose dirty bit is clear, or whose writes are logged. The walk has set the guest's bit; the entry becomes writable.
//
// In Linux these are `FNAME(page_fault)` and `FNAME(fetch)` of `paging_tmpl.h`, `direct_page_fault()` for a guest that does not page, and
// `mmu_try_to_unsync_pages()`.

import { FORMAT } from '../../01-hardware-background/mmu/paging.ts';
import { type Gpa, type Hpa, lowHalf, PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { isLogged, isReadOnly, type MemorySlot } from '../../02-kvm-objects/soft/slots.ts';
import type { SoftVm } from '../../02-kvm-objects/soft/vm.ts';
import { ACCESS, EntryReader, type GuestAccess, type GuestMode, type GuestWalk, GuestWalker, lastLevelEntry } from './guest-mode.ts';
import { framesAt, type ShadowPage, ShadowPages } from './pages.ts';
import { accessIn, DEVICE_HIGH, isDevice, isPresent, isWritable, leafHigh, leafLow, modeOfRole, quadrantOf, roleOf, SPTE } from './spte.ts';

const ENTRIES = 512;
/** After so many emulated writes to one table it is no longer worth shadowing. Linux: `detect_write_flooding()`. */
const WRITE_FLOOD = 3;
/** A fault may need so many new pages: one for each level, and four roots. */
const PAGES_PER_FAULT = 8;

/** A guest's mode as a number, for roles: only what changes how its entries are read. */
export function modeKey({ format, wp, nx, smep, smap }: GuestMode): number {
  if (!format) return 0;
  const kind = format === FORMAT.bits32 ? 1 : format === FORMAT.bits32pse ? 2 : format === FORMAT.pae ? 3 : 4;
  return kind | (nx ? 8 : 0) | (wp ? 16 : 0) | (smep && !wp ? 32 : 0) | (smap && !wp ? 64 : 0);
}
const isFourByte = (mode: GuestMode): boolean => mode.format?.entryBytes === 4;

/** What one vCPU walks through: its guest's mode, the tables' roots. */
export class ShadowContext {
  mode: GuestMode;
  cr3 = 0n;
  pdptrs: readonly bigint[] = [0n, 0n, 0n, 0n];
  /** Page of PAE root entries, for every guest that is not in long mode. */
  readonly paeRoot: Hpa;
  /** Roots: one page at level 4, or four at level 2 (some may be absent). Null: to be made before the next entry. */
  roots: readonly (ShadowPage | null)[] | null = null;

  constructor(mode: GuestMode, paeRoot: Hpa) {
    this.mode = mode;
    this.paeRoot = paeRoot;
  }
  get long(): boolean {
    return this.mode.format === FORMAT.level4;
  }
}

/** A shadow page that a path needs. */
interface Wanted {
  readonly level: number;
  readonly gfn: number;
  readonly access: number;
  readonly direct: boolean;
  readonly dirty?: boolean;
}

/** What a fault came to. */
export type Faulted =
  | { readonly kind: 'mapped' }
  | { readonly kind: 'guest'; readonly errorCode: number }
  | { readonly kind: 'emulate'; readonly why: 'device' | 'table' | 'smap' }
  | { readonly kind: 'hole'; readonly gpa: Gpa }
  | { readonly kind: 'unchanged' } // the shadow grants it already
  | { readonly kind: 'full' };

const MAPPED: Faulted = { kind: 'mapped' };
const UNCHANGED: Faulted = { kind: 'unchanged' };
const FULL: Faulted = { kind: 'full' };
const DEVICE: Faulted = { kind: 'emulate', why: 'device' };
const TABLE: Faulted = { kind: 'emulate', why: 'table' };
const SMAP: Faulted = { kind: 'emulate', why: 'smap' };

/** The shadow tables of one VM. */
export class ShadowMmu {
  readonly pages: ShadowPages;
  readonly contexts = new Set<ShadowContext>();
  readonly walker: GuestWalker;
  readonly #vm: SoftVm;
  readonly #entry: EntryReader;
  readonly #modes = new Map<number, GuestMode>(); // by key: what a page of that role was read with
  #linked = false; // the fault under way has linked a table
  limit: () => number = () => 64;

  constructor(vm: SoftVm) {
    this.#vm = vm;
    this.pages = new ShadowPages(vm.hardware.memory, vm.hardware.ram);
    this.walker = new GuestWalker(vm);
    this.#entry = new EntryReader(vm);
    this.pages.onZap = (page) => {
      if (page.roots > 0) for (const context of this.contexts) if (context.roots?.includes(page)) this.unload(context);
    };
  }

  // ## Roots
  //
  // A long-mode guest has one root, the shadow of the table that its CR3 names. All others get the four entries of a PAE root: for a PAE guest each
  // is the shadow of one of its page directories, for a guest with 4-byte entries each is a quarter of its single directory, and for a guest that
  // does not page each is a gigabyte of guest memory, one to one.

  /** Forgets the roots: they are made again before the next entry. */
  unload(context: ShadowContext): void {
    if (!context.roots) return;
    for (const root of context.roots) if (root) root.roots--;
    context.roots = null;
  }

  // @clause kvm.shadow.sync-on-load
  /** Makes the roots and returns what CR3 must hold, or -1 when RAM is full. Linux: `kvm_mmu_load()`, `kvm_mmu_sync_roots()`. */
  load(context: ShadowContext): Hpa {
    if (!this.pages.reserve(PAGES_PER_FAULT, this.limit())) return -1;
    this.syncAll();
    const { mode } = context;
    const roots: (ShadowPage | null)[] = [];
    if (context.long) roots.push(this.#get(context, { level: 4, gfn: frameOf(context.cr3), access: ACCESS.ALL, direct: false }, 0));
    else
      for (let n = 0; n < 4; n++) {
        if (!mode.format) roots.push(this.#get(context, { level: 2, gfn: n * framesAt(3), access: ACCESS.ALL, direct: true }, 0));
        else if (isFourByte(mode)) roots.push(this.#get(context, { level: 2, gfn: frameOf(context.cr3), access: ACCESS.ALL, direct: false }, n));
        else {
          const pdpte = context.pdptrs[n] as bigint;
          roots.push(pdpte & 1n ? this.#get(context, { level: 2, gfn: frameOf(pdpte), access: ACCESS.ALL, direct: false }, 0) : null);
        }
      }
    // Making one may have cost another its place only if the limit is below what one fault needs, which `reserve` excludes.
    for (const root of roots) if (root) root.roots++;
    context.roots = roots;
    if (context.long) return (roots[0] as ShadowPage).hpa;
    const { memory } = this.#vm.hardware;
    roots.forEach((root, n) => {
      const at = memory.offset(context.paeRoot + 8 * n, 8);
      memory.view.setUint32(at, root ? ((root.hpa % 2 ** 32) | SPTE.ROOT) >>> 0 : 0, true);
      memory.view.setUint32(at + 4, root ? Math.floor(root.hpa / 2 ** 32) : 0, true);
    });
    return context.paeRoot;
  }

  #top(context: ShadowContext, linear: bigint): ShadowPage | null {
    if (!context.roots) return null;
    return (context.long ? context.roots[0] : context.roots[lowHalf(linear) >>> 30]) ?? null;
  }

  // ## Finding or making a shadow
  //
  // A page found in the cache may be unsync. Its old users may go on with stale entries until they flush, but a *new* link is a new translation, and
  // must not begin its life stale. And when a frame that was an unsync last-level table turns up as a directory, its unsync shadow goes: a frame
  // cannot be both written freely and tracked.

  // @clause kvm.shadow.role
  #get(context: ShadowContext, { level, gfn, access, direct, dirty = false }: Wanted, quadrant: number): ShadowPage {
    const mode = modeKey(context.mode);
    if (!this.#modes.has(mode)) this.#modes.set(mode, context.mode);
    const role = roleOf({ level, quadrant, access, direct, dirty, mode });
    if (!direct && level > 1) for (const other of this.pages.shadowsOf(gfn)) if (other.unsync) this.pages.zap(other);
    const found = this.pages.find(gfn, role);
    if (found) {
      if (found.unsync) this.sync(found);
      found.writes = 0;
      return found;
    }
    return this.pages.make(gfn, role);
  }

  // ## The fault

  // @clause kvm.shadow.fault
  /** `fault` is the processor's error code, decoded; `linear` the address. */
  fault(context: ShadowContext, linear: bigint, access: GuestAccess): Faulted {
    if (!this.pages.reserve(PAGES_PER_FAULT, this.limit())) return FULL;
    if (!context.roots) return MAPPED; // room was made at the root's expense: enter again, with a new one
    const walk = this.walker.walk(context.mode, context.cr3, () => context.pdptrs, linear, access);
    if (walk.errorCode >= 0) return { kind: 'guest', errorCode: walk.errorCode };
    const top = this.#top(context, linear);
    if (!top) return MAPPED;
    this.#linked = false;
    const slot = this.#vm.slots.find(walk.gfn * PAGE_BYTES);
    if (!slot) {
      const { page, index } = this.#descend(context, top, linear, walk, 1);
      this.pages.setLeaf(page, index, walk.gfn, SPTE.DEVICE, DEVICE_HIGH);
      return DEVICE;
    }
    const hpa = this.#hpaOf(slot, walk.gfn, 1);
    if (hpa < 0) return { kind: 'hole', gpa: walk.gfn * PAGE_BYTES };
    return this.#map(context, top, linear, access, walk, slot, hpa);
  }

  #map(context: ShadowContext, top: ShadowPage, linear: bigint, access: GuestAccess, walk: GuestWalk, slot: MemorySlot, hpa: Hpa): Faulted {
    if (access.write && isReadOnly(slot)) return DEVICE;
    let rights = walk.access;
    // With CR0.WP clear the guest's kernel may write where its tables say read-only. The processor always runs with WP set, so the page is given to
    // the kernel alone, writable, until a user access takes it back. Then it must not become executable for a kernel under SMEP; and SMAP could not
    // be enforced on it at all, so there the instruction is emulated.
    // @clause kvm.shadow.wp-clear
    if (access.write && !access.user && !(rights & ACCESS.WRITE)) {
      if (context.mode.smap && rights & ACCESS.USER) return SMAP;
      rights = (rights | ACCESS.WRITE) & ~ACCESS.USER;
      if (context.mode.smep && walk.access & ACCESS.USER) rights &= ~ACCESS.EXECUTE;
    }
    const level = this.#mappingLevel(context, walk, slot);
    const { page, index } = this.#descend(context, top, linear, walk, level);
    const first = walk.gfn - (walk.gfn % framesAt(level));
    let writable = (rights & ACCESS.WRITE) !== 0 && !isReadOnly(slot) && (!isLogged(slot) || access.write);
    // A frame that this very path has just begun to shadow is protected by now.
    if (writable && level === 1 && this.pages.isProtected(walk.gfn)) writable = access.write && this.#letGo(walk.gfn);
    const granted = writable ? rights : rights & ~ACCESS.WRITE;
    const base = hpa - (walk.gfn - first) * PAGE_BYTES;
    const changed = this.pages.setLeaf(page, index, first, leafLow(base, granted, level > 1), leafHigh(base, granted));
    if (access.write && !writable) return TABLE;
    if (access.write) this.#vm.slots.markDirty(slot, walk.gfn * PAGE_BYTES);
    return changed || this.#linked ? MAPPED : UNCHANGED;
  }

  /** Host physical address of a frame, when `frames` frames from it lie in one piece; else -1. */
  #hpaOf(slot: MemorySlot, gfn: number, frames: number): Hpa {
    return this.#vm.hardware.ram.hpaOf(slot.hva + (gfn * PAGE_BYTES - slot.gpa), frames * PAGE_BYTES);
  }

  // A large shadow entry needs everything to agree: the guest's page is large, the slot covers all of it, the host's memory is contiguous and as
  // aligned, and nothing inside has to be told apart, be it a page table of the guest or a page of a logged slot.

  // @clause kvm.shadow.large-pages
  /** The level of the entry that will map the page. Linux: `kvm_mmu_hugepage_adjust()`. */
  #mappingLevel(context: ShadowContext, walk: GuestWalk, slot: MemorySlot): number {
    const most = context.mode.format ? walk.level : 2;
    if (isLogged(slot)) return 1;
    for (let level = most; level > 1; level--) {
      const frames = framesAt(level);
      const first = walk.gfn - (walk.gfn % frames);
      if (first * PAGE_BYTES < slot.gpa || (first + frames) * PAGE_BYTES > slot.gpa + slot.bytes) continue;
      const hpa = this.#hpaOf(slot, first, frames);
      if (hpa < 0 || hpa % (frames * PAGE_BYTES) !== 0) continue;
      if (!this.pages.holdsTables(walk.gfn, level)) return level;
    }
    return 1;
  }

  // Above the guest's own leaf the shadow follows the guest's tables. Below it, where a large guest page is mapped in smaller pieces, there is no
  // guest table to follow: those pages are *direct*, and they are filed with the rights of the large page. So two directory entries that map the
  // same large page with different rights get different shadows, and do not take turns in destroying each other's. The rights are the guest's own,
  // before anything is done for a clear CR0.WP: else an instruction that reads one small piece and writes another would have its two pieces in two
  // shadows, never both at once. And of two entries that grant the same, one may be dirty and the other not, and a write through the other has to be
  // seen.

  // @clause kvm.shadow.direct-access
  /** Goes down from `top` to the page at `level`, making what is missing. */
  #descend(context: ShadowContext, top: ShadowPage, linear: bigint, walk: GuestWalk, level: number): { page: ShadowPage; index: number } {
    let page = top;
    for (;;) {
      const index = indexAt(linear, page.level);
      if (page.level === level) return { page, index };
      const below = page.level - 1;
      const follows = context.mode.format !== null && below >= walk.level;
      const wanted = follows
        ? { level: below, gfn: walk.tableGfn[below] as number, access: walk.tableAccess[below] as number, direct: false }
        : { level: below, gfn: walk.gfn - (walk.gfn % framesAt(page.level)), access: walk.access, direct: true, dirty: walk.dirty };
      const quadrant = follows && isFourByte(context.mode) ? indexAt(linear, 2) & 1 : 0;
      const child = this.#get(context, wanted, quadrant);
      if (this.pages.child(page, index) !== child) {
        this.pages.setTable(page, index, child, SPTE.TABLE);
        this.#linked = true;
      }
      page = child;
    }
  }

  // ## Letting go of a last-level table
  //
  // A kernel that maps a file writes a hundred entries of one table, one after the other. Emulating each would be ruin. But for a last-level table
  // the architecture itself gives a way out: a processor may go on using an old translation until software says INVLPG. So the guest is allowed to
  // write, the shadow is marked as possibly stale, and it is compared when the guest flushes. An entry that becomes *present* needs no flush, and
  // gets none: its shadow is empty, faults, and is made from what the table says then.

  // @clause kvm.shadow.unsync
  /** Makes all shadows of a frame unsync. False when one of them is a directory: its writes must be seen. Linux: `mmu_try_to_unsync_pages()`. */
  #letGo(gfn: number): boolean {
    const shadows = this.pages.shadowsOf(gfn);
    if (shadows.some((page) => page.level > 1)) return false;
    for (const page of shadows) {
      if (page.unsync) continue;
      page.unsync = true;
      this.pages.unsync.add(page);
      this.pages.counts.unsynced++;
    }
    return true;
  }

  // @clause kvm.shadow.sync
  /** Compares an unsync page with the guest's table and drops what is no longer so. Linux: `__kvm_sync_page()`, `FNAME(sync_spte)`. */
  sync(page: ShadowPage): void {
    page.unsync = false;
    this.pages.unsync.delete(page);
    this.pages.counts.synced++;
    for (let index = 0; index < ENTRIES; index++)
      if (isPresent(this.pages.low(page, index)) && !this.#isCurrent(page, index)) this.pages.clear(page, index);
    this.pages.writeProtect(page.gfn);
    this.pages.onTracked(page.gfn);
  }

  #isCurrent(page: ShadowPage, index: number): boolean {
    const mode = this.#modes.get(modeOfRole(page.role)) as GuestMode;
    const bytes = isFourByte(mode) ? 4 : 8;
    const at = page.gfn * PAGE_BYTES + (index + (bytes === 4 ? quadrantOf(page.role) * ENTRIES : 0)) * bytes;
    if (!this.#entry.read(at, bytes)) return false;
    const entry = lastLevelEntry(mode, this.#entry.lo, this.#entry.hi);
    if (!entry || entry.gfn !== page.gfns[index]) return false;
    const low = this.pages.low(page, index);
    const high = this.pages.high(page, index);
    if (isDevice(high)) return true;
    const granted = accessIn(low, high);
    const allowed = entry.access & pathAccess(page);
    return (granted & ~allowed) === 0 && (granted & ACCESS.USER) === (allowed & ACCESS.USER);
  }

  /** Linux: `mmu_sync_children()`; here all of the VM's, not only those below one root. */
  syncAll(): void {
    for (const page of [...this.pages.unsync]) this.sync(page);
  }

  // @clause kvm.shadow.invlpg
  /** INVLPG: an entry of an unsync table is dropped. A table that is not unsync has nothing stale in it. Linux: `kvm_mmu_invlpg()`. */
  invalidate(context: ShadowContext, linear: bigint): void {
    let page = this.#top(context, linear);
    while (page) {
      const index = indexAt(linear, page.level);
      if (page.level === 1 && page.unsync) this.pages.clear(page, index);
      page = this.pages.child(page, index);
    }
  }

  // ## Writes that the kernel makes for the guest
  //
  // An emulated instruction has written to a tracked frame. The entries made from the bytes that changed are dropped; the next access makes them
  // again. A frame that is written to over and over, or in odd places, is probably no table any more: its shadow goes.

  // @clause kvm.shadow.emulated-write
  /** Linux: `kvm_mmu_track_write()`. */
  wrote(gpa: Gpa, bytes: number): void {
    const gfn = Math.floor(gpa / PAGE_BYTES);
    for (const page of this.pages.shadowsOf(gfn)) {
      const mode = this.#modes.get(modeOfRole(page.role)) as GuestMode;
      const size = isFourByte(mode) ? 4 : 8;
      const offset = gpa % PAGE_BYTES;
      if (!page.unsync && (isOdd(offset, bytes, size) || (++page.writes >= WRITE_FLOOD && page.level > 1))) {
        this.pages.zap(page);
        continue;
      }
      const first = Math.floor(offset / size);
      const last = Math.floor((offset + bytes - 1) / size);
      for (let n = first; n <= last; n++) this.#drop(page, n, size);
    }
  }

  /** Drops what shadow `page` has made of entry `n` of its guest table. */
  #drop(page: ShadowPage, n: number, size: 4 | 8): void {
    if (size === 8) {
      this.pages.clear(page, n);
      return;
    }
    // A 4-byte directory entry covers 4 MiB: two shadow entries.
    const each = page.level === 2 ? 2 : 1;
    const index = n * each - quadrantOf(page.role) * ENTRIES;
    for (let i = index; i < index + each; i++) if (i >= 0 && i < ENTRIES) this.pages.clear(page, i);
  }

  /** Whether the leaf for a device, if the shadow has one at `linear`, is still right: no slot has come there. */
  isKnownDevice(context: ShadowContext, linear: bigint): boolean {
    let page = this.#top(context, linear);
    while (page) {
      const index = indexAt(linear, page.level);
      if (page.level === 1) return isDevice(this.pages.high(page, index)) && !this.#vm.slots.find((page.gfns[index] as number) * PAGE_BYTES);
      page = this.pages.child(page, index);
    }
    return false;
  }

  // ## What an explorer sees

  /** The leaf for an address, or null. */
  lookup(context: ShadowContext, linear: bigint): { level: number; writable: boolean; device: boolean; direct: boolean; unsync: boolean } | null {
    let page = this.#top(context, linear);
    while (page) {
      const index = indexAt(linear, page.level);
      const child = this.pages.child(page, index);
      if (child) {
        page = child;
        continue;
      }
      const low = this.pages.low(page, index);
      if (!isPresent(low)) return null;
      const { level, direct, unsync } = page;
      return { level, writable: isWritable(low), device: isDevice(this.pages.high(page, index)), direct, unsync };
    }
    return null;
  }
}

/**
 * A write that no one makes to a page table: it crosses entries, or is narrow, and not the one byte of status bits. Linux:
 * `detect_write_misaligned()`.
 */
function isOdd(offset: number, bytes: number, size: 4 | 8): boolean {
  if (bytes === 1 && offset % size === 0) return false;
  return bytes < 4 || Math.floor(offset / size) !== Math.floor((offset + bytes - 1) / size);
}

/** Rights of the path to a shadow page. */
const pathAccess = (page: ShadowPage): number => (page.role >> 5) & ACCESS.ALL;
const frameOf = (address: bigint): number => Number((address & 0xff_ffff_f000n) >> 12n);

/** Index of an address in a shadow table at a level. */
function indexAt(linear: bigint, level: number): number {
  if (level <= 2) return (lowHalf(linear) >>> (12 + 9 * (level - 1))) & (ENTRIES - 1);
  return Number((linear >> BigInt(12 + 9 * (level - 1))) & 511n);
}
