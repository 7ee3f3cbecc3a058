// # Remembered translations
//
// A page walk reads up to four tables; with a second stage under it, up to twenty-four. No program could live with that on every access, so
// the result is remembered. A hit must cost a handful of operations, because the interpreter makes one for each load and each store, and so
// everything that can be decided when an entry is *filled* is decided then: whether this privilege level may read, may write, may execute, and
// whether the dirty bit has been set. What is left for the hit path is one comparison.
//
// Each entry therefore carries three tags, one for each kind of access. A tag is the address of the linear page, or all ones for "ask
// again". A page that may be read and not written has a read tag and no write tag. A page whose dirty bit is still clear has no write tag
// either: the first write misses, the walk sets the bit, and only then does the tag appear. The same trick serves a quite different
// purpose: a page that holds decoded code keeps its write tag invalid, so each write to it comes by here and the stale decoding is dropped.
//
// A page without RAM can be remembered, too. Bit 0 of its tags is set, so that none ever hits, and in place of the addend stands the number of the physical page. The
// interpreter's walk looks for such an entry before it reads a table, since a driver that polls a device would have it read the same tables each time.
//
// ::layout TlbEntry -- One entry. The addend turns a linear address into an offset in the machine's memory with a single addition.
//
// Privilege is not part of the tag. There is one *bank* of {{TLB.ENTRIES}} entries for CPL 3 and one for the other three levels, and a change of
// privilege changes banks. The processor's root and non-root operation have a pair each, so a short visit to the hypervisor costs the guest nothing.
// And there is one bank that stays empty for ever. Selecting it sends every access to the slow path, where rare conditions are
// tested that would be too dear to test always: alignment checks and data breakpoints.
//
// Behind its entries each bank keeps the accounts that make forgetting cheap. They lie in the same memory, because entries are filled by two: by the code in
// this file, and by the interpreter, which makes ordinary walks by itself (`engine/micro-ops/walk.ts`).

import { layout, u32le, u64le } from '../layout.ts';
import type { PhysicalMemory } from '../physical-memory.ts';

/** One entry of a bank. */
export const TlbEntry = layout('TLB entry', { readTag: u64le(0), writeTag: u64le(8), execTag: u64le(16), addend: u32le(24), info: u32le(28) });

/** Geometry of a bank and of an entry: byte offsets within an entry. */
export const TLB = {
  ENTRIES: 8192,
  ENTRY_BYTES: TlbEntry.bytes,
  READ_TAG: TlbEntry.fields.readTag.offset,
  WRITE_TAG: TlbEntry.fields.writeTag.offset,
  EXEC_TAG: TlbEntry.fields.execTag.offset,
  ADDEND: TlbEntry.fields.addend.offset,
  INFO: TlbEntry.fields.info.offset,
  /** In a tag: the page is a device's, and the addend is its number. */
  DEVICE: 1,
} as const;

/** Banks. Root and guest pairs: supervisor first. */
export const BANK = { SUPERVISOR: 0, USER: 1, GUEST: 2, EMPTY: 4 } as const;
const BANKS = 5;
const BANK_BYTES = TLB.ENTRIES * TLB.ENTRY_BYTES;

/** The information word: what invalidation needs to know of an entry. */
export const INFO = { GLOBAL: 1, MAY_WRITE: 2, SHIFT_AT: 8 } as const;
const SMALL_PAGE_SHIFT = 12;

// A flush has to find what was filled, hence a log of slots. INVLPG has to find all parts of a large page, hence a note of where large pages have been: one bit
// for each 4 MiB of a 32-bit address space, on which addresses above it are folded. A bit may be set for nothing; then a scan finds nothing.

const LARGE_UNIT_SHIFT = 22;
const LARGE_UNITS = 1024;
const LOG_AT = BANK_BYTES;
const HEAD_AT = LOG_AT + 2 * TLB.ENTRIES;
/** What follows the entries of a bank, as offsets from its beginning. */
export const ACCOUNT = {
  LOG: LOG_AT, // slots filled since the last flush, 16 bits each
  FILLED: HEAD_AT, // how many; past the end of the log means "too many: clear all"
  HAS_LARGE: HEAD_AT + 4, // 1: a bit below may be set; 2: there is a page larger than a unit
  SETTLED: HEAD_AT + 8, // how many at the beginning of the log were found to be global by the last flush
  LARGE: HEAD_AT + 64,
  UNIT_SHIFT: LARGE_UNIT_SHIFT,
  UNITS: LARGE_UNITS,
} as const;
const BANK_STRIDE = HEAD_AT + 4096;
const [FILLED, HAS_LARGE, SETTLED, LARGE] = [ACCOUNT.FILLED >> 2, ACCOUNT.HAS_LARGE >> 2, ACCOUNT.SETTLED >> 2, ACCOUNT.LARGE >> 2];
/** The bit of a linear address. */
const unitOf = (lo: number, hi: number): number => {
  const unit = (lo >>> LARGE_UNIT_SHIFT) | (hi << (32 - LARGE_UNIT_SHIFT));
  return (unit ^ (unit >>> 10)) & (LARGE_UNITS - 1);
};

/** What a fill stores. */
interface Translation {
  /** Host physical address of the 4 KiB page. */
  readonly page: number;
  /** There is no RAM at it. Then it is neither executable nor `mayWrite`. */
  readonly device: boolean;
  readonly readable: boolean;
  readonly writable: boolean;
  /** It may be written, but for the code on it: `writable` may be false for that reason alone. */
  readonly mayWrite: boolean;
  readonly executable: boolean;
  readonly global: boolean;
  /** log2 of the size of the page that the tables describe, of which this entry holds a 4 KiB part. */
  readonly shift: number;
}

/** The banks, in the private area of the machine's memory. */
export class Tlb {
  readonly #words: Int32Array;
  readonly #ramOffset: number;
  readonly #banks: number[] = [];
  readonly #logs: Uint16Array[] = [];

  constructor(memory: PhysicalMemory) {
    this.#words = memory.i32;
    this.#ramOffset = memory.ramOffset;
    const start = memory.reserve(BANKS * BANK_STRIDE, 4096);
    for (let bank = 0; bank < BANKS; bank++) {
      this.#banks.push(start + bank * BANK_STRIDE);
      this.#logs.push(new Uint16Array(memory.buffer, start + bank * BANK_STRIDE + ACCOUNT.LOG, TLB.ENTRIES));
      this.#clear(bank);
    }
  }

  /** Buffer offset of a bank: what OFFSET.TLB holds. */
  offset(bank: number): number {
    return this.#banks[bank] as number;
  }

  /** Buffer offset of the byte at linear address `hi:lo` if `bank` lets `tag` (READ_TAG, WRITE_TAG, EXEC_TAG) hit, otherwise -1. The access must not cross a page. */
  lookup(bank: number, lo: number, hi: number, tag: number): number {
    const at = this.#at(bank, lo);
    const words = this.#words;
    if (words[at + (tag >> 2)] !== (lo & -4096) || words[at + (tag >> 2) + 1] !== (hi | 0)) return -1;
    return (lo + (words[at + (TLB.ADDEND >> 2)] as number)) >>> 0;
  }

  // Whether a page holds decoded code is our affair and not the guest's. A store that misses for that reason alone walks no tables.
  /** Buffer offset of the byte at `hi:lo` when the entry says that the page may be written, whatever its write tag, otherwise -1. */
  mayWrite(bank: number, lo: number, hi: number): number {
    const at = this.lookup(bank, lo, hi, TLB.READ_TAG);
    return at >= 0 && (this.#words[this.#at(bank, lo) + (TLB.INFO >> 2)] as number) & INFO.MAY_WRITE ? at : -1;
  }
  /** Makes the write tag of such an entry valid: its page does not hold code any more. */
  unprotect(bank: number, lo: number, hi: number): void {
    this.#tag(this.#at(bank, lo) + (TLB.WRITE_TAG >> 2), lo & -4096, hi, true);
  }

  /** Fills the entry of the linear page `hi:lo`. */
  fill(bank: number, lo: number, hi: number, t: Translation): void {
    const words = this.#words;
    const at = this.#at(bank, lo);
    const account = this.#start(bank) + FILLED;
    const count = words[account] as number;
    if (count < TLB.ENTRIES) (this.#logs[bank] as Uint16Array)[count] = (lo >>> 12) & (TLB.ENTRIES - 1);
    words[account] = count + 1;
    const page = (lo & -4096) | (t.device ? TLB.DEVICE : 0);
    this.#tag(at + (TLB.READ_TAG >> 2), page, hi, t.readable);
    this.#tag(at + (TLB.WRITE_TAG >> 2), page, hi, t.writable);
    this.#tag(at + (TLB.EXEC_TAG >> 2), page, hi, t.executable);
    words[at + (TLB.ADDEND >> 2)] = t.device ? t.page / 4096 : (this.#ramOffset + t.page - page) | 0;
    words[at + (TLB.INFO >> 2)] = (t.global ? INFO.GLOBAL : 0) | (t.mayWrite ? INFO.MAY_WRITE : 0) | (t.shift << INFO.SHIFT_AT);
    if (t.shift > SMALL_PAGE_SHIFT) this.#noteLarge(bank, lo, hi, t.shift);
  }

  #noteLarge(bank: number, lo: number, hi: number, shift: number): void {
    const words = this.#words;
    const start = this.#start(bank);
    const unit = unitOf(lo, hi);
    words[start + HAS_LARGE] = (words[start + HAS_LARGE] as number) | (shift > LARGE_UNIT_SHIFT ? 2 : 1);
    words[start + LARGE + (unit >> 5)] = (words[start + LARGE + (unit >> 5)] as number) | (1 << (unit & 31));
  }
  #noteEntry(bank: number, at: number, shift: number): void {
    const tag = this.#anyTag(at);
    this.#noteLarge(bank, this.#words[tag] as number, this.#words[tag + 1] as number, shift);
  }
  /** The word where a tag of a non-empty entry begins: a page without read permission has an execute tag. */
  #anyTag(at: number): number {
    return this.#words[at] === -1 && this.#words[at + 1] === -1 ? at + 4 : at;
  }
  #inLarge(start: number, lo: number, hi: number): boolean {
    const words = this.#words;
    const unit = unitOf(lo, hi);
    return (words[start + HAS_LARGE] as number) > 1 || (((words[start + LARGE + (unit >> 5)] as number) >> (unit & 31)) & 1) === 1;
  }

  #tag(word: number, page: number, hi: number, valid: boolean): void {
    this.#words[word] = valid ? page : -1;
    this.#words[word + 1] = valid ? hi : -1;
  }

  #at(bank: number, lo: number): number {
    return this.#start(bank) + ((lo >>> 12) & (TLB.ENTRIES - 1)) * (TLB.ENTRY_BYTES >> 2);
  }
  /** Index of a bank's first word. */
  #start(bank: number): number {
    return (this.#banks[bank] as number) >> 2;
  }

  /** Forgets every entry of the pair that begins with `bank`. */
  flushPair(bank: number): void {
    this.flushBank(bank);
    this.flushBank(bank + 1);
  }

  /** Forgets every entry of one bank. */
  flushBank(bank: number): void {
    const words = this.#words;
    const start = this.#start(bank);
    const count = words[start + FILLED] as number;
    if (count >= TLB.ENTRIES) this.#clear(bank);
    else {
      const log = this.#logs[bank] as Uint16Array;
      for (let i = 0; i < count; i++) this.#drop(start + (log[i] as number) * (TLB.ENTRY_BYTES >> 2));
    }
    words[start + FILLED] = 0;
    words[start + SETTLED] = 0;
    this.#forgetLarge(start);
  }
  #forgetLarge(start: number): void {
    const words = this.#words;
    if (words[start + HAS_LARGE] === 0) return;
    words.fill(0, start + LARGE, start + LARGE + (LARGE_UNITS >> 5));
    words[start + HAS_LARGE] = 0;
  }

  #clear(bank: number): void {
    const start = this.#start(bank);
    this.#words.fill(-1, start, start + (BANK_BYTES >> 2));
  }

  #drop(at: number): void {
    const words = this.#words;
    for (let n = 0; n < 6; n++) words[at + n] = -1;
  }

  // A global page is one that every address space has: the kernel's. MOV to CR3 leaves its entries alone, which is the point of the bit. Those that the last
  // flush has left need not be looked at again: whoever puts something else into such a slot has made a new note in the log.
  // @clause x86.tlb.global-survives-cr3
  /** Forgets the entries of a pair that are not global. */
  flushNonGlobal(pair: number): void {
    for (const bank of [pair, pair + 1]) {
      const log = this.#logs[bank] as Uint16Array;
      const start = this.#start(bank);
      const count = this.#words[start + FILLED] as number;
      const all = count >= TLB.ENTRIES;
      if (all) this.#forgetLarge(start);
      let kept = all ? 0 : (this.#words[start + SETTLED] as number);
      for (let i = kept; i < (all ? TLB.ENTRIES : count); i++) {
        const slot = all ? i : (log[i] as number);
        const at = start + slot * (TLB.ENTRY_BYTES >> 2);
        const word = this.#words[at + (TLB.INFO >> 2)] as number;
        if (this.#empty(at)) continue;
        if (word & INFO.GLOBAL) {
          log[kept++] = slot;
          if (word >> INFO.SHIFT_AT > SMALL_PAGE_SHIFT) this.#noteEntry(bank, at, word >> INFO.SHIFT_AT);
        } else this.#drop(at);
      }
      this.#words[start + FILLED] = kept;
      this.#words[start + SETTLED] = kept;
    }
  }

  #empty(at: number): boolean {
    const words = this.#words;
    return words[at] === -1 && words[at + 2] === -1 && words[at + 4] === -1;
  }

  // INVLPG names an address, and everything that the processor remembers of the page around it must go, global or not. When that page
  // is a large one, entries for other parts of it must go as well: software sees one page, whatever the hardware made of it.
  // @clause x86.tlb.invlpg-large-page
  /** Forgets what a pair knows about the page that contains linear address `hi:lo`, whatever its size. */
  invalidate(pair: number, lo: number, hi: number): void {
    const words = this.#words;
    for (const bank of [pair, pair + 1]) {
      const at = this.#at(bank, lo);
      this.#drop(at);
      const start = this.#start(bank);
      if (!this.#inLarge(start, lo, hi)) continue;
      for (let entry = start; entry < start + (BANK_BYTES >> 2); entry += TLB.ENTRY_BYTES >> 2) {
        if (this.#empty(entry)) continue;
        const shift = (words[entry + (TLB.INFO >> 2)] as number) >> INFO.SHIFT_AT;
        if (shift <= SMALL_PAGE_SHIFT) continue;
        const tag = this.#anyTag(entry);
        if ((words[tag + 1] as number) === (hi | 0) && (words[tag] as number) >>> shift === lo >>> shift) this.#drop(entry);
      }
    }
  }

  /** Takes the write tag from every entry, in any bank, that maps the RAM page at host physical address `page`. */
  protect(page: number): void {
    const words = this.#words;
    const target = (this.#ramOffset + page) | 0;
    for (let bank = 0; bank < BANK.EMPTY; bank++) {
      const start = this.#start(bank);
      const count = words[start + FILLED] as number;
      const all = count >= TLB.ENTRIES;
      for (let i = 0; i < (all ? TLB.ENTRIES : count); i++) {
        const at = start + (all ? i : ((this.#logs[bank] as Uint16Array)[i] as number)) * (TLB.ENTRY_BYTES >> 2);
        const write = at + (TLB.WRITE_TAG >> 2);
        const tag = words[write] as number;
        if (tag === -1 && words[write + 1] === -1) continue;
        if (((tag + (words[at + (TLB.ADDEND >> 2)] as number)) | 0) === target) this.#tag(write, 0, 0, false);
      }
    }
  }
}
