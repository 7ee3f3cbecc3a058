// # Decoded code
//
// Code is decoded once, in *blocks*: straight runs of instructions that end where control may go elsewhere, where the page ends, or after {{BLOCK_INSTRUCTIONS}}
// instructions. A block is filed under the place of its first byte in memory -- not under its linear address, which may be one of many -- and
// under those parts of the mode that change what the bytes mean.
//
// ## Code that changes
//
// An x86 processor notices stores into code at once, even into the very next instruction. Here every page that holds decoded code is known, and the
// TLB does not let stores to such a page take the fast path. The slow path comes to `written`. A block whose bytes are touched is withdrawn:
// the record at the beginning of *each* of its instructions is replaced by `stale`. Whoever still jumps to the block, or is in the middle of it,
// finishes the instruction under way and at the next one returns to TypeScript to have the new bytes decoded. Nothing has to be searched for.
//
// A program that patches its own code in a loop does so thousands of times. So a page whose code has been overwritten stays known as one that holds code, even
// when at that moment it holds none that is decoded; and after {{REWRITTEN}} times its blocks are cut short, to {{SHORT_BLOCK_INSTRUCTIONS}} instructions, so that
// little has to be decoded again. When {{IDLE_WRITES}} writes have come and nobody wanted the code, the page is forgotten.
//
// What such a program writes is mostly an immediate: a number in an instruction. After the same {{REWRITTEN}} times it is noted which bytes were written, and an
// instruction of which these are the immediate becomes a *loose* one. Its records load the number from the code, where the processor would find it, so its bytes
// are data like others, and a store to them withdraws nothing.
//
// A compiler that runs beside its program writes whole functions over older ones. A block that has been overwritten is remembered by its page until its records are
// used for others: the next block at its place may be its like (`refill.ts`).
//
// ## Room
//
// Records live in an arena of fixed size, cut into {{GENERATIONS}} parts that are filled in turn. When all are full the oldest part is emptied. That is not the
// best possible choice of what to forget, but it costs nothing until then.

import type { Instruction } from '../isa/instruction.ts';
import type { SystemOp } from '../isa/system-ops.ts';
import { assert, PAGE_BYTES, type PhysicalMemory } from '../physical-memory.ts';
import type { CodeBytes } from './code-bytes.ts';
import { type Draft, RECORD_WORDS } from './draft.ts';
import { RECORD_BYTES } from './interpreter.ts';
import { INSN_OPS, microOp } from './micro-ops.ts';
import type { Refill } from './refill.ts';

/** The most instructions in a block. */
export const BLOCK_INSTRUCTIONS = 64;
export const SHORT_BLOCK_INSTRUCTIONS = 16;
/** What is overwritten oftener than this has short blocks. */
export const REWRITTEN = 8;
/** Writes to a page without decoded code before it counts as data. */
export const IDLE_WRITES = 64;
/** Parts of the arena. */
export const GENERATIONS = 8;

/** A system instruction in decoded code. */
interface SystemCall {
  readonly op: SystemOp;
  readonly insn: Instruction;
}

export interface Block {
  readonly key: number;
  /** Buffer offset of the first byte. */
  readonly place: number;
  /** Bytes of machine code, and the buffer offset of a copy: what memory must still hold. */
  readonly bytes: number;
  readonly copy: number;
  /** Bytes that lie in the first page; the rest starts at `second`, the buffer offset of another page. */
  readonly firstBytes: number;
  readonly second: number;
  /** The bytes that must not change, as buffer offsets: first one, the one after the last, and so on. Immediates that are loaded each time are not among them. */
  readonly ranges: readonly number[];
  /** Buffer offset of the first record, and how many there are. */
  readonly record: number;
  readonly records: number;
  /** Index of its system instruction, or -1. */
  readonly system: number;
  /** The memory epoch in which `code` was last known to be what memory holds. */
  checked: number;
  valid: boolean;
  /** How often it is to be interpreted before it is translated. -1: nobody has decided yet; 0: it is not to be translated. */
  heat: number;
  /** How it can be used again when it has been overwritten by its like, if that is known. */
  refill: Refill | null;
}

/** A page that holds, or lately held, decoded code. */
interface CodePage {
  /** Blocks that begin here, by their keys. */
  readonly starts: Map<number, Block>;
  /** How many blocks there are, */
  blocks: number;
  /** and which, by the pieces of the page in which they have bytes, so that a write need not look at all of them. */
  readonly pieces: (Block[] | undefined)[];
  /** Blocks that had to go because they were overwritten. */
  rewritten: number;
  /** Writes since there was a block. */
  idle: number;
  /** Where in the page overwritten code was written to, and how many bytes, since it happens often. */
  readonly patched: Map<number, number>;
  /** Blocks that began here and have been overwritten, by their keys. Their records are still in the arena. */
  readonly overwritten: Map<number, Block>;
}

/** What decoding produced, before it has a place in the arena. */
interface Decoding {
  readonly key: number;
  readonly place: number;
  /** The bytes are those from `start` to `end` of `code`. */
  readonly code: Uint8Array;
  readonly start: number;
  readonly end: number;
  readonly firstBytes: number;
  readonly second: number;
  /** Immediates that may change, as buffer offsets: first byte, the one after the last, and so on. */
  readonly loose: readonly number[];
  readonly draft: Draft;
  readonly system: number;
}

const PAGE_SHIFT = 12;
/** Pieces of a page: 64 bytes. */
const PIECE_SHIFT = 6;
/** Places of writes that are remembered for a page. */
const MOST_PATCHED = 64;
// Buffer offsets are below 4 GiB, so these operators are exact, and V8 needs no floating-point numbers for them.
const pageOf = (place: number): number => place >>> PAGE_SHIFT;
const inPage = (place: number): number => place & (PAGE_BYTES - 1);
/** Of an offset in a page. */
const pieceOf = (offset: number): number => offset >> PIECE_SHIFT;

/** What is left of some bytes when the loose ones are taken out. */
function rangesOf(place: number, firstBytes: number, second: number, bytes: number, loose: readonly number[]): number[] {
  const ranges = [place];
  for (const at of loose) ranges.push(at); // loose bytes begin where a range ends, and end where one begins
  ranges.push(place + firstBytes);
  if (second >= 0) ranges.push(second, second + bytes - firstBytes);
  return ranges;
}

/** What the cache asks of its owner. */
interface CacheHost {
  /** Records are about to be reused: whoever remembers records must forget them. */
  onReuse(): void;
  /** A page (a buffer offset) holds code now. */
  onNewPage(page: number): void;
}

export class CodeCache {
  readonly #memory: PhysicalMemory;
  readonly #arena: number;
  readonly #partBytes: number;
  readonly #byPage = new Map<number, CodePage>();
  readonly #parts: Block[][] = Array.from({ length: GENERATIONS }, () => []);
  #part = 0;
  #at: number;
  readonly #system: (SystemCall | null)[] = [];
  readonly #freeSystem: number[] = [];
  /** By micro-operation: 1 if an instruction begins with it. */
  readonly #begins = new Uint8Array(1 << 16);
  readonly #stale = microOp('stale');
  readonly #host: CacheHost;
  readonly #bytes: CodeBytes;

  constructor(memory: PhysicalMemory, arenaBytes: number, bytes: CodeBytes, host: CacheHost) {
    this.#memory = memory;
    this.#bytes = bytes;
    this.#partBytes = Math.floor(arenaBytes / GENERATIONS / RECORD_BYTES) * RECORD_BYTES;
    this.#arena = memory.reserve(this.#partBytes * GENERATIONS, RECORD_BYTES);
    this.#at = this.#arena;
    this.#host = host;
    for (const name of INSN_OPS) this.#begins[microOp(name)] = 1;
  }

  find(place: number, key: number): Block | undefined {
    return this.#byPage.get(pageOf(place))?.starts.get(key);
  }
  /** Blocks that are kept, valid or not; pages that hold code; bytes for records. */
  get blocks(): number {
    return this.#parts.reduce((sum, part) => sum + part.length, 0);
  }
  get codePages(): number {
    return this.#byPage.size;
  }
  get records(): number {
    return this.#partBytes * GENERATIONS;
  }
  holdsCode(place: number): boolean {
    return this.#byPage.has(pageOf(place));
  }

  /** Remembers a system instruction for its micro-operation. Returns its index. */
  addSystem(call: SystemCall): number {
    const index = this.#freeSystem.pop() ?? this.#system.length;
    this.#system[index] = call;
    return index;
  }
  system(index: number): SystemCall {
    const call = this.#system[index];
    assert(call, `system instruction ${index} is gone`);
    return call;
  }
  freeSystem(index: number): void {
    if (index < 0) return;
    this.#system[index] = null;
    this.#freeSystem.push(index);
  }

  /** Writes records to memory. */
  writeRecords(at: number, { words, count }: Draft): void {
    const { i32 } = this.#memory;
    for (let n = 0; n < count * RECORD_WORDS; n++) i32[(at >> 2) + n] = words[n] as number;
  }

  /** Files a decoding. */
  add(decoding: Decoding, epoch: number): Block {
    const { draft, code, start, end, key, place, firstBytes, second, system, loose } = decoding;
    const records = draft.count;
    const bytes = end - start;
    const record = this.#allocate(records * RECORD_BYTES + ((bytes + RECORD_BYTES - 1) & -RECORD_BYTES));
    this.writeRecords(record, draft);
    const copy = record + records * RECORD_BYTES;
    const { u8 } = this.#memory;
    for (let n = 0; n < bytes; n++) u8[copy + n] = code[start + n] as number;
    const ranges = rangesOf(place, firstBytes, second, bytes, loose);
    const fresh = { checked: epoch, valid: true, heat: -1, refill: null };
    const block: Block = { key, place, bytes, copy, firstBytes, second, ranges, record, records, system, ...fresh };
    this.#file(block);
    (this.#parts[this.#part] as Block[]).push(block);
    return block;
  }
  #file(block: Block): void {
    const { key, place, bytes, firstBytes, second, ranges } = block;
    this.#enter(block, place, firstBytes).starts.set(key, block);
    if (second >= 0) this.#enter(block, second, bytes - firstBytes);
    for (let n = 0; n < ranges.length; n += 2) this.#bytes.add(ranges[n] as number, ranges[n + 1] as number);
  }

  /** The last block of this key that has been overwritten. */
  overwritten(place: number, key: number): Block | undefined {
    return this.#byPage.get(pageOf(place))?.overwritten.get(key);
  }
  /** Files an overwritten block again: it has been made one of what memory holds now. */
  revive(block: Block, epoch: number): void {
    assert(!block.valid, 'a block in use is not revived');
    block.valid = true;
    block.checked = epoch;
    block.heat = -1;
    this.#file(block);
  }
  /** Enters a block in a page, in the pieces where it has bytes. */
  #enter(block: Block, start: number, bytes: number): CodePage {
    const page = pageOf(start);
    let known = this.#byPage.get(page);
    if (!known) {
      known = { starts: new Map(), blocks: 0, pieces: [], rewritten: 0, idle: 0, patched: new Map(), overwritten: new Map() };
      this.#byPage.set(page, known);
      this.#host.onNewPage(page * PAGE_BYTES);
    }
    if (known.blocks++ === 0) this.#bytes.setPatience(page);
    known.idle = 0;
    const { pieces } = known;
    const first = inPage(start);
    const last = pieceOf(first + bytes - 1);
    for (let piece = pieceOf(first); piece <= last; piece++) {
      const there = pieces[piece];
      if (there) there.push(block);
      else pieces[piece] = [block];
    }
    return known;
  }
  #leave(block: Block, start: number, bytes: number): void {
    const page = pageOf(start);
    const known = this.#byPage.get(page);
    if (!known) return;
    const first = inPage(start);
    const last = pieceOf(first + bytes - 1);
    for (let piece = pieceOf(first); piece <= last; piece++) {
      const there = known.pieces[piece] as Block[];
      const at = there.indexOf(block);
      if (at < 0) continue;
      const other = there.pop() as Block;
      if (at < there.length) there[at] = other;
    }
    if (--known.blocks > 0) return;
    if (known.rewritten === 0) this.#forget(page);
    else this.#bytes.setPatience(page, IDLE_WRITES);
  }

  #allocate(bytes: number): number {
    assert(bytes <= this.#partBytes, `a block of ${bytes} bytes does not fit the arena`);
    if (this.#at + bytes > this.#arena + (this.#part + 1) * this.#partBytes) {
      this.#part = (this.#part + 1) % GENERATIONS;
      this.#at = this.#arena + this.#part * this.#partBytes;
      const evicted = this.#parts[this.#part] as Block[];
      this.#parts[this.#part] = [];
      for (const block of evicted) {
        this.withdraw(block);
        const overwritten = this.#byPage.get(pageOf(block.place))?.overwritten;
        if (overwritten?.get(block.key) === block) overwritten.delete(block.key);
      }
      if (evicted.length > 0) this.#host.onReuse();
    }
    const at = this.#at;
    this.#at += bytes;
    return at;
  }

  // @clause x86.smc.coherent
  /** Takes a block out of use. Its records stay in place, harmless, until the arena comes round again. */
  withdraw(block: Block): void {
    if (!block.valid) return;
    block.valid = false;
    const { ranges, second, place, key, firstBytes, bytes } = block;
    for (let n = 0; n < ranges.length; n += 2) this.#bytes.remove(ranges[n] as number, ranges[n + 1] as number);
    this.#byPage.get(pageOf(place))?.starts.delete(key);
    this.#leave(block, place, firstBytes);
    if (second >= 0) this.#leave(block, second, bytes - firstBytes);
    const { i32 } = this.#memory;
    const end = (block.record >> 2) + block.records * RECORD_WORDS;
    for (let record = block.record >> 2; record < end; record += RECORD_WORDS) {
      const word = i32[record] as number;
      if (this.#begins[word & 0xffff]) i32[record] = (word & ~0xffff) | this.#stale;
    }
    this.freeSystem(block.system);
  }
  #forget(page: number): void {
    this.#byPage.delete(page);
    this.#bytes.forget(page);
  }

  /** The most instructions of a block that begins at `place`. */
  roomAt(place: number): number {
    return (this.#byPage.get(pageOf(place))?.rewritten ?? 0) > REWRITTEN ? SHORT_BLOCK_INSTRUCTIONS : BLOCK_INSTRUCTIONS;
  }

  /** Where in the page of `place` code is overwritten all the time: how many bytes, by their offsets. Null: nowhere. */
  patchesAround(place: number): ReadonlyMap<number, number> | null {
    const patched = this.#byPage.get(pageOf(place))?.patched;
    return patched && patched.size > 0 ? patched : null;
  }

  /** Offsets, in the page of `place`, where blocks begin. */
  startsOnPage(place: number): number[] {
    const offsets = new Set<number>();
    for (const block of this.#byPage.get(pageOf(place))?.starts.values() ?? []) offsets.add(inPage(block.place));
    return [...offsets];
  }

  /** Gives the account of a page's bytes what is decoded there. */
  account(page: number): void {
    const known = this.#byPage.get(page);
    if (!known) return;
    const seen = new Set<Block>();
    for (const piece of known.pieces) {
      for (const block of piece ?? []) {
        if (seen.has(block)) continue;
        seen.add(block);
        const { ranges } = block;
        for (let n = 0; n < ranges.length; n += 2) {
          if (pageOf(ranges[n] as number) === page) this.#bytes.add(ranges[n] as number, ranges[n + 1] as number);
        }
      }
    }
    if (known.blocks === 0) this.#bytes.setPatience(page, IDLE_WRITES);
  }

  /** The bytes at buffer offset `place` are being overwritten. Returns whether a block had to go. */
  written(place: number, bytes: number): boolean {
    let any = false;
    const last = pageOf(place + bytes - 1);
    for (let page = pageOf(place); page <= last; page++) {
      const known = this.#byPage.get(page);
      if (!known) continue;
      const start = Math.max(place - page * PAGE_BYTES, 0);
      const end = Math.min(place + bytes - page * PAGE_BYTES, PAGE_BYTES);
      for (let piece = pieceOf(start); piece <= pieceOf(end - 1); piece++) {
        const there = known.pieces[piece];
        if (!there) continue;
        for (let at = there.length - 1; at >= 0; at--) {
          const block = there[at] as Block;
          if (!covers(block, place, bytes)) continue;
          if (++known.rewritten > REWRITTEN) notePatch(known, block, place, bytes);
          this.withdraw(block);
          if (block.ranges.length === 2) known.overwritten.set(block.key, block); // it has no second page, and no loose numbers
          any = true;
        }
      }
      if (known.blocks === 0 && (++known.idle > IDLE_WRITES || this.#bytes.lostPatience(page))) this.#forget(page);
    }
    return any;
  }

  /** True when memory still holds the bytes that the block was decoded from. */
  intact({ place, copy, firstBytes, second, ranges }: Block): boolean {
    const { u8 } = this.#memory;
    for (let n = 0; n < ranges.length; n += 2) {
      const from = ranges[n] as number;
      const shift = second >= 0 && n === ranges.length - 2 ? copy + firstBytes - second : copy - place;
      for (let at = from; at < (ranges[n + 1] as number); at++) if (u8[at] !== u8[at + shift]) return false;
    }
    return true;
  }
}

function covers({ ranges }: Block, at: number, bytes: number): boolean {
  for (let n = 0; n < ranges.length; n += 2) if (at < (ranges[n + 1] as number) && (ranges[n] as number) < at + bytes) return true;
  return false;
}

// A write that covers the beginning of a block is not one of a number in it.

function notePatch({ patched }: CodePage, block: Block, place: number, bytes: number): void {
  if (bytes > 8 || (place <= block.place && block.place < place + bytes)) return;
  if (patched.size >= MOST_PATCHED) patched.clear();
  patched.set(inPage(place), bytes);
}
