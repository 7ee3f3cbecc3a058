// # Which bytes are code
//
// The TLB sees pages, and a page that holds code may hold data too: a stack below its code, a table beside it, the number inside an instruction. If each
// store to such a page went to TypeScript, a program would pay dearly for where its linker put things. So for pages that are written to while they hold code
// there is a finer account, in the memory that WebAssembly sees: for each byte, in how many blocks and regions it was decoded. A store that meets zeros only is made at
// once; any other goes the long way and has the decodings withdrawn.
//
// There are {{WATCHED_PAGES}} such accounts. A page whose number ends in the same bits as another's takes its account over, which costs time and nothing else.

import { PAGE_BYTES, type PhysicalMemory } from '../physical-memory.ts';

/** Pages that can have an account at the same time. */
export const WATCHED_PAGES = 64;
/** A page gets an account at this many stores the long way. */
const STORES = 4;
/** A count that has got here stays here. */
const FULL = 255;
/** Where things are: the counts of all pages, then a record for each. */
export const WATCH_RECORD = {
  START: WATCHED_PAGES * PAGE_BYTES,
  PAGE: 0, // 32 bits: buffer offset of the page, in pages
  PATIENCE: 4, // 32 bits: stores that may still be made without telling anybody
  BYTES: 8,
} as const;
/** As good as no limit. */
const PATIENT = 0x7fffffff;

export class CodeBytes {
  readonly #u8: Uint8Array;
  readonly #i32: Int32Array;
  /** Buffer offset of the counts. */
  readonly base: number;
  readonly #candidates = new Int32Array(WATCHED_PAGES).fill(-1);
  readonly #stores = new Int32Array(WATCHED_PAGES);

  constructor(memory: PhysicalMemory) {
    this.#u8 = memory.u8;
    this.#i32 = memory.i32;
    this.base = memory.reserve(WATCH_RECORD.START + WATCHED_PAGES * WATCH_RECORD.BYTES, PAGE_BYTES);
    for (let slot = 0; slot < WATCHED_PAGES; slot++) this.#i32[this.#record(slot)] = -1;
  }

  #record(page: number): number {
    return (this.base + WATCH_RECORD.START + (page % WATCHED_PAGES) * WATCH_RECORD.BYTES) >> 2;
  }
  watches(page: number): boolean {
    return this.#i32[this.#record(page)] === page;
  }

  /** A store to a page without account had to go the long way. True: it has an account now, all zeros. */
  stored(page: number): boolean {
    if (this.watches(page)) return false;
    const slot = page % WATCHED_PAGES;
    if (this.#candidates[slot] !== page) {
      this.#candidates[slot] = page;
      this.#stores[slot] = 0;
    }
    this.#stores[slot] = (this.#stores[slot] as number) + 1;
    if ((this.#stores[slot] as number) < STORES) return false;
    this.#candidates[slot] = -1;
    this.#i32[this.#record(page)] = page;
    this.setPatience(page, PATIENT);
    const at = this.base + slot * PAGE_BYTES;
    this.#u8.fill(0, at, at + PAGE_BYTES);
    return true;
  }
  /** The page does not hold code any more, or nobody knows. */
  forget(page: number): void {
    if (this.watches(page)) this.#i32[this.#record(page)] = -1;
  }

  /** After so many stores the next goes the long way. */
  setPatience(page: number, stores: number = PATIENT): void {
    if (this.watches(page)) this.#i32[this.#record(page) + (WATCH_RECORD.PATIENCE >> 2)] = stores;
  }
  lostPatience(page: number): boolean {
    return this.watches(page) && this.#i32[this.#record(page) + (WATCH_RECORD.PATIENCE >> 2)] === 0;
  }

  /** Bytes (buffer offsets, within one page) have been decoded once more. */
  add(from: number, to: number): void {
    const page = from >>> 12;
    if (!this.watches(page)) return;
    const shift = this.base + (page % WATCHED_PAGES) * PAGE_BYTES - page * PAGE_BYTES;
    for (let at = from + shift; at < to + shift; at++) {
      const count = this.#u8[at] as number;
      if (count < FULL) this.#u8[at] = count + 1;
    }
  }
  /** Once less. */
  remove(from: number, to: number): void {
    const page = from >>> 12;
    if (!this.watches(page)) return;
    const shift = this.base + (page % WATCHED_PAGES) * PAGE_BYTES - page * PAGE_BYTES;
    for (let at = from + shift; at < to + shift; at++) {
      const count = this.#u8[at] as number;
      if (count > 0 && count < FULL) this.#u8[at] = count - 1;
    }
  }
}
