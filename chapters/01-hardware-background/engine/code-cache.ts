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
// ## Room
//
// Records live in an arena of fixed size, cut into {{GENERATIONS}} parts that are filled in turn. When all are full the oldest part is emptied. That is not the
// best possible choice of what to forget, but it costs nothing until then.

import type { Micro } from '../isa/builder.ts';
import type { Instruction } from '../isa/instruction.ts';
import type { SystemOp } from '../isa/system-ops.ts';
import { assert, PAGE_BYTES, type PhysicalMemory } from '../physical-memory.ts';
import { RECORD, RECORD_BYTES } from './interpreter.ts';
import { INSN_OPS, microOp } from './micro-ops.ts';

/** The most instructions in a block. */
export const BLOCK_INSTRUCTIONS = 64;
export const SHORT_BLOCK_INSTRUCTIONS = 4;
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
}

/** A page that holds, or lately held, decoded code. */
interface CodePage {
  readonly blocks: Set<Block>;
  /** The same by the pieces of the page in which they have bytes, so that a write need not look at all of them. */
  readonly pieces: Set<Block>[];
  /** Blocks that had to go because they were overwritten. */
  rewritten: number;
  /** Writes since there was a block. */
  idle: number;
}

/** What decoding produced, before it has a place in the arena. */
interface Decoding {
  readonly key: number;
  readonly place: number;
  readonly code: Uint8Array;
  readonly firstBytes: number;
  readonly second: number;
  readonly micros: readonly Micro[];
  readonly system: number;
}

const PIECE_BYTES = 64;
const pageOf = (place: number): number => Math.floor(place / PAGE_BYTES);

/** The pieces of one page in which a block has bytes. */
function piecesOf({ pieces }: CodePage, page: number, { place, second, bytes, firstBytes }: Block): Set<Block>[] {
  const isFirst = pageOf(place) === page;
  const start = isFirst ? place % PAGE_BYTES : second % PAGE_BYTES;
  const length = isFirst ? firstBytes : bytes - firstBytes;
  return pieces.slice(Math.floor(start / PIECE_BYTES), Math.floor((start + Math.max(length, 1) - 1) / PIECE_BYTES) + 1);
}

export class CodeCache {
  readonly #memory: PhysicalMemory;
  readonly #view: DataView;
  readonly #arena: number;
  readonly #partBytes: number;
  readonly #blocks = new Map<number, Block>();
  readonly #byPage = new Map<number, CodePage>();
  readonly #parts: Block[][] = Array.from({ length: GENERATIONS }, () => []);
  #part = 0;
  #at: number;
  readonly #system: (SystemCall | null)[] = [];
  readonly #freeSystem: number[] = [];
  readonly #insnOps = new Set(INSN_OPS.map(microOp));
  readonly #stale = microOp('stale');
  /** Called when records are about to be reused: whoever remembers records must forget them. */
  readonly #onReuse: () => void;

  constructor(memory: PhysicalMemory, arenaBytes: number, onReuse: () => void) {
    this.#memory = memory;
    this.#view = memory.view;
    this.#partBytes = Math.floor(arenaBytes / GENERATIONS / RECORD_BYTES) * RECORD_BYTES;
    this.#arena = memory.reserve(this.#partBytes * GENERATIONS, RECORD_BYTES);
    this.#at = this.#arena;
    this.#onReuse = onReuse;
  }

  find(key: number): Block | undefined {
    return this.#blocks.get(key);
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
  writeRecords(at: number, micros: readonly Micro[]): void {
    const view = this.#view;
    micros.forEach(({ op, d, a, b, imm }, index) => {
      const record = at + index * RECORD_BYTES;
      view.setUint16(record + RECORD.OP, op, true);
      view.setUint16(record + RECORD.D, d, true);
      view.setUint16(record + RECORD.A, a, true);
      view.setUint16(record + RECORD.B, b, true);
      view.setBigInt64(record + RECORD.IMM, imm, true); // wraps
    });
  }

  /** Files a decoding. Returns the block, and the pages that had no code before (as buffer offsets). */
  add(decoding: Decoding, epoch: number): { block: Block; newPages: number[] } {
    const { micros, code, key, place, firstBytes, second, system } = decoding;
    const records = micros.length;
    const bytes = code.length;
    const record = this.#allocate(records * RECORD_BYTES + Math.ceil(bytes / RECORD_BYTES) * RECORD_BYTES);
    this.writeRecords(record, micros);
    const copy = record + records * RECORD_BYTES;
    this.#memory.u8.set(code, copy);
    const block: Block = { key, place, bytes, copy, firstBytes, second, record, records, system, checked: epoch, valid: true, heat: -1 };
    const newPages: number[] = [];
    for (const page of this.#pagesOf(block)) {
      let known = this.#byPage.get(page);
      if (!known) {
        known = { blocks: new Set(), pieces: Array.from({ length: PAGE_BYTES / PIECE_BYTES }, () => new Set()), rewritten: 0, idle: 0 };
        this.#byPage.set(page, known);
        newPages.push(page * PAGE_BYTES);
      }
      known.blocks.add(block);
      for (const piece of piecesOf(known, page, block)) piece.add(block);
      known.idle = 0;
    }
    this.#blocks.set(block.key, block);
    (this.#parts[this.#part] as Block[]).push(block);
    return { block, newPages };
  }
  #pagesOf(block: Block): number[] {
    return block.second < 0 ? [pageOf(block.place)] : [pageOf(block.place), pageOf(block.second)];
  }

  #allocate(bytes: number): number {
    assert(bytes <= this.#partBytes, `a block of ${bytes} bytes does not fit the arena`);
    if (this.#at + bytes > this.#arena + (this.#part + 1) * this.#partBytes) {
      this.#part = (this.#part + 1) % GENERATIONS;
      this.#at = this.#arena + this.#part * this.#partBytes;
      const evicted = this.#parts[this.#part] as Block[];
      this.#parts[this.#part] = [];
      for (const block of evicted) this.withdraw(block);
      this.#onReuse();
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
    this.#blocks.delete(block.key);
    for (const page of this.#pagesOf(block)) {
      const known = this.#byPage.get(page);
      if (!known) continue;
      known.blocks.delete(block);
      for (const piece of piecesOf(known, page, block)) piece.delete(block);
      if (known.blocks.size === 0 && known.rewritten === 0) this.#byPage.delete(page);
    }
    for (let n = 0; n < block.records; n++) {
      const record = block.record + n * RECORD_BYTES;
      if (this.#insnOps.has(this.#view.getUint16(record + RECORD.OP, true))) this.#view.setUint16(record + RECORD.OP, this.#stale, true);
    }
    this.freeSystem(block.system);
  }

  /** The most instructions of a block that begins at `place`. */
  roomAt(place: number): number {
    return (this.#byPage.get(pageOf(place))?.rewritten ?? 0) > REWRITTEN ? SHORT_BLOCK_INSTRUCTIONS : BLOCK_INSTRUCTIONS;
  }

  /** Offsets, in the page of `place`, where blocks begin. */
  startsOnPage(place: number): number[] {
    const page = pageOf(place);
    return [...(this.#byPage.get(page)?.blocks ?? [])].filter((block) => pageOf(block.place) === page).map((block) => block.place % PAGE_BYTES);
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
      for (let n = Math.floor(start / PIECE_BYTES); n * PIECE_BYTES < end; n++) {
        for (const block of known.pieces[n] as Set<Block>) {
          if (!this.#covers(block, place, bytes)) continue;
          known.rewritten++;
          this.withdraw(block);
          any = true;
        }
      }
      if (known.blocks.size === 0 && ++known.idle > IDLE_WRITES) this.#byPage.delete(page);
    }
    return any;
  }
  #covers({ place, firstBytes, second, bytes: length }: Block, at: number, bytes: number): boolean {
    const overlaps = (start: number, length: number): boolean => at < start + length && start < at + bytes;
    return overlaps(place, firstBytes) || (second >= 0 && overlaps(second, length - firstBytes));
  }

  /** True when memory still holds the bytes that the block was decoded from. */
  intact({ place, bytes, copy, firstBytes, second }: Block): boolean {
    const { u8 } = this.#memory;
    for (let i = 0; i < bytes; i++) {
      const at = i < firstBytes ? place + i : second + i - firstBytes;
      if (u8[at] !== u8[copy + i]) return false;
    }
    return true;
  }
}
