// # Keeping translations
//
// Regions are compiled when they become hot and stay until one of their bytes is written to, or until there are too many: a WebAssembly module costs some
// memory whatever its size. Each has a slot in the table of functions that run code; whoever knows the slot can enter. To withdraw a region is therefore to
// empty its slot and to forget the slot wherever it is remembered. The module itself is then garbage, and the collector's business.
//
// Code that is rewritten all the time would be compiled all the time. So each page has an account of how often its translations had to be withdrawn, and
// waits longer each time; after {{PATIENCE}} times it is left to the interpreter.

import { PAGE_BYTES, type PhysicalMemory } from '../../physical-memory.ts';
import type { CodeBytes } from '../code-bytes.ts';
import type { Machine } from './compile.ts';
import { type Around, type Circumstances, fillOrder, type Made, type Order } from './order.ts';
import type { Region } from './region.ts';
import type { Workshop } from './workshop.ts';

/** Withdrawals after which a page is not translated any more. */
export const PATIENCE = 10;
/** Bounds on what is kept. */
const MOST_REGIONS = 1024;
const MOST_BYTES = 24 << 20;
/** Pages whose withdrawals are remembered. */
const MOST_ACCOUNTS = 4096;

/** Runs code until there is a reason to come back, which it returns (`LEFT`). */
export type CodeFunction = (argument: number) => number;

/** What a translated region needs from the engine. */
interface TranslatorHost {
  readonly memory: PhysicalMemory;
  readonly machine: Machine;
  readonly codeBytes: CodeBytes;
  /** Puts a function that runs code into a slot of the table (1 and up). */
  install(slot: number, run: CodeFunction): void;
  /** Takes it out: nothing may remember the slot any more. */
  remove(translation: Translation): void;
  /** What modules import: memory, library, and the ways back. */
  readonly imports: WebAssembly.ModuleImports;
  /** Who fills orders while the guest goes on, if there is anybody. */
  readonly workshop: Workshop | null;
}

/** A translated region. */
export interface Translation {
  readonly slot: number;
  readonly key: string;
  /** RIP of the first byte of its page; the buffer offset of that; and the bytes that were translated. */
  readonly rip: bigint;
  readonly page: number;
  readonly ranges: readonly (readonly [number, number])[];
  readonly code: Uint8Array;
  /** Numbers of entries by offset in the page. */
  readonly entries: ReadonlyMap<number, number>;
  readonly bytes: number;
  checked: number;
}

/** RIP of the first byte of the page of a place. */
const ripOfPage = (place: number, rip: bigint): bigint => BigInt.asUintN(64, rip - BigInt(place % PAGE_BYTES));
/** An epoch that is none: whether memory still holds the code will be looked at when the translation is first wanted. */
const NEVER = -1;

export class Translator {
  readonly #host: TranslatorHost;
  /** Micro-operations that turned out to be none for a region. */
  readonly #denied = new Set<number>();
  /** By page, mode, TLB bank and RIP of the page: later ones last. */
  readonly #byKey = new Map<string, Translation[]>();
  readonly #byPage = new Map<number, Set<Translation>>();
  readonly #all = new Set<Translation>();
  /** Keys of what is on order. */
  readonly #onOrder = new Set<string>();
  readonly #withdrawals = new Map<number, number>();
  readonly #freeSlots: number[] = [];
  #bytes = 0;
  #slots = 0;
  /** Regions compiled so far. */
  compiled = 0;
  /** Shown each region that is compiled here and now, and the module made of it: for readers. */
  onCompiled: ((region: Region, module: Uint8Array) => void) | null = null;

  constructor(host: TranslatorHost) {
    this.#host = host;
  }

  get regions(): number {
    return this.#all.size;
  }
  get bytes(): number {
    return this.#bytes;
  }

  #key(page: number, rip: bigint, { mode, bank }: Circumstances): string {
    return `${page}.${mode}.${bank}.${rip}`;
  }

  /** The translation that can be entered at a place, and the number of the entry. */
  find(place: number, rip: bigint, circumstances: Circumstances): { translation: Translation; entry: number } | null {
    const offset = place % PAGE_BYTES;
    if (!this.#byPage.has(place - offset)) return null;
    const known = this.#byKey.get(this.#key(place - offset, ripOfPage(place, rip), circumstances));
    if (!known) return null;
    for (let n = known.length - 1; n >= 0; n--) {
      const translation = known[n] as Translation;
      const entry = translation.entries.get(offset);
      if (entry !== undefined) return { translation, entry };
    }
    return null;
  }

  holdsCode(place: number): boolean {
    return this.#byPage.has(place - (place % PAGE_BYTES));
  }

  /** How many times as hot as others code on this page must be. Infinity: it is not to be translated. */
  reluctance(place: number): number {
    const times = this.#withdrawals.get(place - (place % PAGE_BYTES)) ?? 0;
    return times >= PATIENCE ? Number.POSITIVE_INFINITY : 2 ** times;
  }

  /**
   * Translates what begins at a place: now, or by order. Null when that is not possible. 'busy': something of this page is on order already. After 'ordered', `done` is
   * called in {@link deliver}, if it was possible.
   */
  translate(
    place: number,
    rip: bigint,
    around: Around,
    epoch: number,
    done: (translation: Translation) => void,
  ): Translation | 'ordered' | 'busy' | null {
    const { memory, machine, workshop } = this.#host;
    const page = place - (place % PAGE_BYTES);
    const key = this.#key(page, ripOfPage(place, rip), around);
    if (this.#onOrder.has(key)) return 'busy';
    const order: Order = { ...around, place, rip, machine, code: memory.u8.slice(page, page + PAGE_BYTES) };
    const ordered = workshop?.order(order, (made) => {
      this.#onOrder.delete(key);
      if (made) done(this.#use(order, made, NEVER));
    });
    if (ordered) {
      this.#onOrder.add(key);
      return 'ordered';
    }
    const made = fillOrder(order, this.#denied, this.onCompiled);
    return made && this.#use(order, made, epoch);
  }
  /** Puts to use what has been finished. */
  deliver(): void {
    this.#host.workshop?.deliver();
  }

  #use(order: Order, { module, bytes, ranges, entries }: Made, epoch: number): Translation {
    const { exports } = new WebAssembly.Instance(module, { env: this.#host.imports });
    const slot = this.#freeSlots.pop() ?? ++this.#slots;
    this.#host.install(slot, exports.region as CodeFunction);
    this.compiled++;
    const { place, code } = order;
    const page = place - (place % PAGE_BYTES);
    const rip = ripOfPage(place, order.rip);
    const translation: Translation = {
      slot,
      key: this.#key(page, rip, order),
      rip,
      page,
      ranges,
      code,
      entries,
      bytes,
      checked: epoch,
    };
    this.#add(translation);
    return translation;
  }
  #add(translation: Translation): void {
    for (const oldest of this.#all) {
      if (this.#all.size < MOST_REGIONS && this.#bytes + translation.bytes <= MOST_BYTES) break;
      this.withdraw(oldest);
    }
    this.#all.add(translation);
    this.#bytes += translation.bytes;
    const list = this.#byKey.get(translation.key);
    if (list) list.push(translation);
    else this.#byKey.set(translation.key, [translation]);
    const onPage = this.#byPage.get(translation.page);
    if (onPage) onPage.add(translation);
    else this.#byPage.set(translation.page, new Set([translation]));
    this.#accountFor(translation, 'add');
  }
  #accountFor({ page, ranges }: Translation, change: 'add' | 'remove'): void {
    for (const [from, to] of ranges) this.#host.codeBytes[change](page + from, page + to);
  }
  /** Gives the account of a page's bytes what is translated there. The page is named by its number, as accounts are. */
  account(page: number): void {
    for (const translation of this.#byPage.get(page * PAGE_BYTES) ?? []) this.#accountFor(translation, 'add');
  }

  withdraw(translation: Translation): void {
    if (!this.#all.delete(translation)) return;
    const { key, page, slot } = translation;
    this.#bytes -= translation.bytes;
    this.#accountFor(translation, 'remove');
    const left = (this.#byKey.get(key) ?? []).filter((other) => other !== translation);
    if (left.length > 0) this.#byKey.set(key, left);
    else this.#byKey.delete(key);
    const onPage = this.#byPage.get(page);
    onPage?.delete(translation);
    if (onPage?.size === 0) this.#byPage.delete(page);
    this.#host.remove(translation);
    this.#freeSlots.push(slot);
  }

  /** Bytes are being overwritten. Returns whether a translation had to go. */
  written(place: number, bytes: number): boolean {
    let any = false;
    const last = place + bytes - 1;
    for (let page = place - (place % PAGE_BYTES); page <= last; page += PAGE_BYTES) {
      const onPage = this.#byPage.get(page);
      if (!onPage) continue;
      for (const translation of [...onPage]) {
        if (!translation.ranges.some(([from, to]) => page + from <= last && place < page + to)) continue;
        this.withdraw(translation);
        any = true;
      }
      if (any) this.#blame(page);
    }
    return any;
  }
  #blame(page: number): void {
    if (this.#withdrawals.size >= MOST_ACCOUNTS) this.#withdrawals.clear();
    this.#withdrawals.set(page, (this.#withdrawals.get(page) ?? 0) + 1);
  }

  /** True when memory still holds what was translated. */
  intact({ page, ranges, code }: Translation): boolean {
    const { u8 } = this.#host.memory;
    return ranges.every(([from, to]) => {
      for (let at = from; at < to; at++) if (u8[page + at] !== code[at]) return false;
      return true;
    });
  }
}
