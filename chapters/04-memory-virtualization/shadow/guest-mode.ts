// # The guest's tables, as the guest means them
//
// A shadow is made by reading what the guest wrote and understanding it exactly as a processor would: the same reserved bits, the same order of
// checks, the same marks left behind. Chapter 1 has the formats as a table; this walker reads that table too, so the hardware and the one who
// imitates it cannot disagree about a format. It differs from the hardware's walk in what it remembers. The hardware wants a page; whoever shadows
// wants to know, for every level, which guest page held the table and what rights the path had left by then. In Linux this is
// `walk_addr_generic()` in `paging_tmpl.h`, one text that is compiled for each entry size.

import { ENTRY, FORMAT, type Format, NX_HIGH, PF, PHYSICAL_ADDRESS_BITS, PSE36_MASK, PSE36_SHIFT } from '../../01-hardware-background/mmu/paging.ts';
import { type Gpa, highHalf, lowHalf, PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { CR0, CR4, EFER } from '../../01-hardware-background/state.ts';
import { isReadOnly } from '../../02-kvm-objects/soft/slots.ts';
import type { SoftVm } from '../../02-kvm-objects/soft/vm.ts';

const { mask: P } = ENTRY;
const { mask: E } = PF;
const HIGH_ADDRESS = 2 ** (PHYSICAL_ADDRESS_BITS - 32) - 1;

/** Rights of a page or of a path, as Linux packs them (`ACC_EXEC_MASK` and so on). */
export const ACCESS = { EXECUTE: 1, WRITE: 2, USER: 4, ALL: 7 } as const;

/** What decides how the guest's tables are read. */
export interface GuestMode {
  /** Null: the guest does not page. */
  readonly format: Format | null;
  readonly wp: boolean;
  readonly nx: boolean;
  readonly smep: boolean;
  readonly smap: boolean;
}

const has = (value: bigint, mask: number): boolean => (lowHalf(value) & mask) !== 0;

export function guestMode(cr0: bigint, cr4: bigint, efer: bigint): GuestMode {
  const flags = { wp: has(cr0, CR0.WP), nx: has(efer, EFER.NXE), smep: has(cr4, CR4.SMEP), smap: has(cr4, CR4.SMAP) };
  if (!has(cr0, CR0.PG)) return { ...flags, format: null };
  if (has(efer, EFER.LMA)) return { ...flags, format: FORMAT.level4 };
  if (has(cr4, CR4.PAE)) return { ...flags, format: FORMAT.pae };
  return { ...flags, format: has(cr4, CR4.PSE) ? FORMAT.bits32pse : FORMAT.bits32 };
}

/** One access by the guest. `acSet`: RFLAGS.AC suspends SMAP for it. */
export interface GuestAccess {
  readonly write: boolean;
  readonly fetch: boolean;
  readonly user: boolean;
  readonly acSet: boolean;
}

/** A successful walk, or (`errorCode` not negative) the guest's own page fault. Arrays are indexed by level: 1 for the last table. */
export interface GuestWalk {
  errorCode: number;
  /** Level of the entry that maps the page. */
  level: number;
  /** Guest frame of the 4 KiB page that holds the address. */
  gfn: number;
  /** Rights of the page: ANDed along the path, and without WRITE while the dirty bit is clear. */
  access: number;
  dirty: boolean;
  /** Frame of the guest's table at each level, and rights of the path that leads to it. */
  readonly tableGfn: number[];
  readonly tableAccess: number[];
}

// ## One entry
//
// The same reading is needed twice: during a walk, and when a table that the guest was allowed to change is compared with its shadow.

/** Reads an entry of 4 or 8 bytes as two words; false where no RAM is. */
export class EntryReader {
  lo = 0;
  hi = 0;
  readonly #vm: SoftVm;
  constructor(vm: SoftVm) {
    this.#vm = vm;
  }
  read(gpa: Gpa, bytes: 4 | 8): boolean {
    const hpa = this.#vm.hpaOf(gpa, false);
    if (hpa < 0) return false;
    const { memory } = this.#vm.hardware;
    const at = memory.offset(hpa, bytes);
    this.lo = memory.view.getInt32(at, true);
    this.hi = bytes === 8 ? memory.view.getInt32(at + 4, true) : 0;
    return true;
  }
}

/** Rights that one entry grants. */
const rightsOf = (lo: number, hi: number, wide: boolean): number =>
  (lo & P.RW ? ACCESS.WRITE : 0) | (lo & P.US ? ACCESS.USER : 0) | (wide && hi & NX_HIGH ? 0 : ACCESS.EXECUTE);

const addressOf = (lo: number, hi: number, wide: boolean): number => (wide ? (hi & HIGH_ADDRESS) * 2 ** 32 : 0) + ((lo & 0xfffff000) >>> 0);

/** What a last-level entry says: the frame and rights it grants, or null when a walk could not use it (absent, malformed, or not yet accessed). */
export function lastLevelEntry(mode: GuestMode, lo: number, hi: number): { readonly gfn: number; readonly access: number } | null {
  const format = mode.format as Format;
  const wide = format.entryBytes === 8;
  if ((lo & (P.P | P.A)) !== (P.P | P.A)) return null;
  if (wide && (hi & (format.reservedHigh | (mode.nx ? 0 : NX_HIGH))) !== 0) return null;
  const rights = rightsOf(lo, hi, wide);
  return { gfn: addressOf(lo, hi, wide) / PAGE_BYTES, access: lo & P.D ? rights : rights & ~ACCESS.WRITE };
}

// ## The walk

/** Walks one VM's guest tables. The result object is the walker's own and is valid until its next walk. */
export class GuestWalker {
  readonly #vm: SoftVm;
  readonly #entry: EntryReader;
  readonly #path = [0, 0, 0, 0, 0]; // guest physical addresses of the entries, by level
  readonly #found = [0, 0, 0, 0, 0]; // their low words
  readonly #walk: GuestWalk = { errorCode: -1, level: 1, gfn: 0, access: 0, dirty: false, tableGfn: [0, 0, 0, 0, 0], tableAccess: [0, 0, 0, 0, 0] };

  constructor(vm: SoftVm) {
    this.#vm = vm;
    this.#entry = new EntryReader(vm);
  }

  // @clause kvm.shadow.walk
  /** `cr3` and `pdptrs` are the guest's. */
  walk(mode: GuestMode, cr3: bigint, pdptrs: () => readonly bigint[], linear: bigint, access: GuestAccess): GuestWalk {
    const walk = this.#walk;
    const { format } = mode;
    const lo = lowHalf(linear);
    const hi = highHalf(linear);
    walk.errorCode = -1;
    if (!format) {
      walk.level = 1;
      walk.gfn = lo >>> 12;
      walk.access = ACCESS.ALL;
      walk.dirty = false;
      return walk;
    }
    const wide = format.entryBytes === 8;
    const reservedHigh = format.reservedHigh | (mode.nx ? 0 : NX_HIGH);
    let table = wide ? Number(cr3 & 0xff_ffff_f000n) : lowHalf(cr3 & 0xffff_f000n);
    if (format === FORMAT.pae) {
      const pdpte = pdptrs()[lo >>> 30] as bigint;
      if (!(lowHalf(pdpte) & P.P)) return this.#fault(mode, access, 0);
      table = addressOf(lowHalf(pdpte), highHalf(pdpte), true);
    }
    let rights: number = ACCESS.ALL;
    for (const { level, shift, indexBits, largePages, reservedPage, reservedTable } of format.levels) {
      walk.tableGfn[level] = table / PAGE_BYTES;
      walk.tableAccess[level] = rights;
      const at = table + indexOf(lo, hi, shift, indexBits) * format.entryBytes;
      // A table where no RAM is: the guest is told that nothing is there.
      if (!this.#entry.read(at, format.entryBytes)) return this.#fault(mode, access, 0);
      const entry = this.#entry.lo;
      const high = this.#entry.hi;
      if (!(entry & P.P)) return this.#fault(mode, access, 0);
      const leaf = level === 1 || (largePages && (entry & P.PS) !== 0);
      if ((entry & (leaf ? reservedPage : reservedTable)) !== 0 || (wide && (high & reservedHigh) !== 0))
        return this.#fault(mode, access, E.P | E.RSVD);
      rights &= rightsOf(entry, high, wide);
      this.#path[level] = at;
      this.#found[level] = entry;
      if (!leaf) {
        table = addressOf(entry, high, wide);
        continue;
      }
      if (!permitted(mode, access, rights)) return this.#fault(mode, access, E.P);
      const dirty = this.#mark(format, level, access.write);
      let base = addressOf(entry, high, wide);
      if (!wide && level === 2) base = ((entry >>> PSE36_SHIFT) & PSE36_MASK) * 2 ** 32 + ((entry & 0xffc00000) >>> 0);
      const pages = 2 ** (shift - 12);
      const first = base / PAGE_BYTES;
      walk.level = level;
      walk.gfn = first - (first % pages) + (shift === 12 ? 0 : shift >= 32 ? lo >>> 12 : (lo >>> 12) & (pages - 1));
      walk.dirty = dirty;
      walk.access = dirty ? rights : rights & ~ACCESS.WRITE;
      return walk;
    }
    return walk; // the last level of every format is a leaf
  }

  // @clause x86.paging.error-code
  #fault(mode: GuestMode, { write, fetch, user }: GuestAccess, code: number): GuestWalk {
    const wide = mode.format?.entryBytes === 8;
    const reportsFetch = fetch && (mode.smep || (wide && mode.nx));
    this.#walk.errorCode = code | (write ? E.W : 0) | (user ? E.U : 0) | (reportsFetch ? E.ID : 0);
    return this.#walk;
  }

  // @clause kvm.shadow.accessed-dirty
  /**
   * Sets A along the path and D at its end, in the guest's own tables. A table in read-only memory stays as it is. Returns whether D is (as good as)
   * set.
   */
  #mark(format: Format, leaf: number, write: boolean): boolean {
    const top = format.levels[0]?.level as number;
    let dirty = false;
    for (let level = top; level >= leaf; level--) {
      const before = this.#found[level] as number;
      const wanted = before | P.A | (level === leaf && write ? P.D : 0);
      if (level === leaf) dirty = (wanted & P.D) !== 0;
      if (wanted !== before) this.#set(this.#path[level] as number, wanted);
    }
    return dirty;
  }

  #set(gpa: Gpa, value: number): void {
    const slot = this.#vm.slots.find(gpa);
    if (!slot || isReadOnly(slot)) return;
    const hpa = this.#vm.hpaOf(gpa, true);
    if (hpa < 0) return;
    const { hardware } = this.#vm;
    hardware.memory.view.setInt32(hardware.memory.offset(hpa, 4), value, true);
    hardware.wrote(hpa, 4);
  }
}

/** A table index of 9 or 10 bits that starts at bit `shift` of an address in two halves. */
function indexOf(lo: number, hi: number, shift: number, width: number): number {
  const low = shift >= 32 ? hi >>> (shift - 32) : lo >>> shift;
  const high = shift < 32 && shift + width > 32 ? hi << (32 - shift) : 0;
  return (low | high) & ((1 << width) - 1);
}

// @clause x86.paging.permissions
/** Whether the guest's own tables and registers allow the access. */
function permitted(mode: GuestMode, { write, fetch, user, acSet }: GuestAccess, rights: number): boolean {
  const userPage = (rights & ACCESS.USER) !== 0;
  if (fetch) {
    if (!(rights & ACCESS.EXECUTE)) return false;
    return user ? userPage : !(userPage && mode.smep);
  }
  const writable = (rights & ACCESS.WRITE) !== 0;
  if (user) return userPage && (!write || writable);
  if (userPage && mode.smap && !acSet) return false;
  return !write || writable || !mode.wp;
}
