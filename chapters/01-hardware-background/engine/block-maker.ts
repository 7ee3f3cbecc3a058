// # Making blocks
//
// From the bytes at a place to a block in the cache. Nearly all code lies in RAM, and instructions within a page. An instruction that goes on in the
// next page makes a block by itself, which looks up that page each time it runs. One that is not in RAM makes none.

import { generalProtection } from '../faults.ts';
import { Builder, type Micro } from '../isa/builder.ts';
import { decode, LONGEST } from '../isa/decoder.ts';
import { PAGE_BYTES, type PhysicalMemory } from '../physical-memory.ts';
import { type CpuState, MODE, OFFSET, SEG, SLOT } from '../state.ts';
import { type Block, type CodeCache, SHORT_BLOCK_INSTRUCTIONS } from './code-cache.ts';
import { RECORD_BYTES } from './interpreter.ts';
import { KnownInstructions } from './known-instructions.ts';
import { microOp, ONCE } from './micro-ops.ts';
import { ACCESS, type EngineHost } from './surroundings.ts';
import type { Decoded } from './translator/region.ts';

/** Records of the longest single instruction: ENTER with 31 levels. */
const SCRATCH_RECORDS = 512;
/** The parts of MODE that change what bytes mean. The others change only what may be accessed. */
const DECODING_MODE = MODE.CODE | MODE.STACK32 | MODE.FLAT;
const NEXT_PAGE = BigInt(PAGE_BYTES);

/** Code that has no block yet. `single`: only one instruction is wanted. */
interface Wanted {
  /** Buffer offset of the first byte. */
  readonly place: number;
  readonly linear: bigint;
  readonly mode: number;
  readonly single: boolean;
}

/** What a block is filed under. */
export const blockKey = (place: number, mode: number, single: boolean): number => place * 64 + (mode & DECODING_MODE) * 2 + Number(single);
export const isCode64 = (state: CpuState): boolean => (state.get32(OFFSET.MODE) & MODE.CODE) === MODE.CODE64;
export const isCanonical = (state: CpuState, address: bigint): boolean =>
  BigInt.asUintN(64, BigInt.asIntN(64 - state.get32(OFFSET.CANONICAL_SHIFT), address)) === address;

export class BlockMaker {
  readonly #memory: PhysicalMemory;
  readonly #state: CpuState;
  readonly #host: EngineHost;
  readonly #cache: CodeCache;
  readonly #ordinary: boolean;
  readonly #scratch: number;
  #scratchSystem = -1;
  readonly #crossing = { 8: microOp('crossing.8'), 4: microOp('crossing.4') };
  readonly #insn = { 8: microOp('insn.8'), 4: microOp('insn.4'), limit: microOp('insn.limit') };
  readonly #sequel = microOp('sequel');
  readonly #once = new Set([...ONCE].map(microOp));
  readonly #systemOp = microOp('system');
  readonly #tooLong = microOp('raise.gp');
  readonly #known = new KnownInstructions();

  /** `ordinary`: whether system instructions get the micro-operations of their ordinary case. */
  constructor(memory: PhysicalMemory, state: CpuState, host: EngineHost, cache: CodeCache, ordinary: boolean) {
    this.#memory = memory;
    this.#state = state;
    this.#host = host;
    this.#cache = cache;
    this.#ordinary = ordinary;
    this.#scratch = memory.reserve(SCRATCH_RECORDS * RECORD_BYTES);
  }

  /** Decodes a block, and files it as checked in this memory epoch. Null: its first instruction continues on a page that is not RAM. */
  make(wanted: Wanted, epoch: number): Block | null {
    const { place, mode, single } = wanted;
    const key = blockKey(place, mode, single);
    const { u8 } = this.#memory;
    const pageEnd = (Math.floor(place / PAGE_BYTES) + 1) * PAGE_BYTES;
    const micros: Micro[] = [];
    let at = place;
    let system = -1;
    let ended = false;
    const most = single ? 1 : this.#cache.roomAt(place);
    const restless = most === SHORT_BLOCK_INSTRUCTIONS;
    for (let n = 0; n < most && !ended && at < pageEnd; n++) {
      const known = restless ? this.#known.find(u8, at, pageEnd, mode & DECODING_MODE) : null;
      if (known) {
        this.#append(micros, known.micros);
        ended = known.ended;
        at += known.length;
        continue;
      }
      const decoded = decode(u8, at, pageEnd, mode);
      if (decoded === 'more' || decoded === 'too-many') {
        if (n > 0) break; // it gets a block of its own, and may fault only when it is reached
        if (decoded === 'more') return this.#across(wanted, epoch);
        micros.push(...this.#overlong(mode));
        return this.#file({ key, place, code: u8.subarray(place, place + LONGEST), firstBytes: LONGEST, second: -1, micros, system }, epoch);
      }
      const own: Micro[] = [];
      ({ ended, system } = this.#translate(decoded, mode, own));
      if (restless && system < 0) this.#known.add(u8, at, mode & DECODING_MODE, decoded, own, ended);
      this.#append(micros, own);
      at += decoded.insn.length;
    }
    if (!ended) micros.push(plain(this.#sequel));
    return this.#file({ key, place, code: u8.subarray(place, at), firstBytes: at - place, second: -1, micros, system }, epoch);
  }

  /** A block that is one instruction, partly on the next page. */
  #across({ place, linear, mode, single }: Wanted, epoch: number): Block | null {
    const key = blockKey(place, mode, single);
    const { u8 } = this.#memory;
    const firstBytes = PAGE_BYTES - (place % PAGE_BYTES);
    const second = this.fetchNextPage(linear);
    if (second < 0) return null;
    const bytes = new Uint8Array(firstBytes + LONGEST);
    bytes.set(u8.subarray(place, place + firstBytes));
    bytes.set(u8.subarray(second, second + LONGEST), firstBytes);
    const check = this.#crossing[isCode64(this.#state) ? 8 : 4];
    const micros: Micro[] = [{ ...plain(check), imm: BigInt(second) }];
    const decoded = decode(bytes, 0, bytes.length, mode);
    let system = -1;
    let length = LONGEST;
    if (decoded === 'too-many' || decoded === 'more') micros.push(...this.#overlong(mode));
    else {
      const { ended, system: index } = this.#translate(decoded, mode, micros);
      system = index;
      length = decoded.insn.length;
      if (!ended) micros.push(plain(this.#sequel));
    }
    return this.#file({ key, place, code: bytes.subarray(0, length), firstBytes, second, micros, system }, epoch);
  }

  #file(decoding: Parameters<CodeCache['add']>[0], epoch: number): Block {
    const { block, newPages } = this.#cache.add(decoding, epoch);
    for (const page of newPages) this.#host.protectCode(page - this.#memory.ramOffset);
    return block;
  }

  /** Code that is not in RAM is fetched byte by byte, decoded one instruction at a time, and not kept. Returns where its records are. */
  uncached(linear: bigint, mode: number, place: number | null): number {
    const state = this.#state;
    const bytes = new Uint8Array(LONGEST + 1);
    const micros: Micro[] = [];
    this.#cache.freeSystem(this.#scratchSystem);
    this.#scratchSystem = -1;
    for (let n = 0; ; n++) {
      const offset = linear + BigInt(n);
      const decoded = decode(bytes, 0, n, mode);
      if (decoded === 'more') {
        if (!isCode64(state) && state.slot(SLOT.RIP) + BigInt(n) > BigInt(state.segLimit(SEG.CS))) throw generalProtection();
        const inFirst = place !== null && (place % PAGE_BYTES) + n < PAGE_BYTES;
        const here = BigInt.asUintN(isCode64(state) ? 64 : 32, offset);
        if (isCode64(state) && !isCanonical(state, here)) throw generalProtection();
        bytes[n] = inFirst ? (this.#memory.u8[place + n] as number) : this.#fetchByte(here);
        continue;
      }
      if (decoded === 'too-many') micros.push(...this.#overlong(mode));
      else {
        const { ended, system } = this.#translate(decoded, mode, micros);
        this.#scratchSystem = system;
        if (!ended) micros.push(plain(this.#sequel));
      }
      this.#cache.writeRecords(this.#scratch, micros);
      return this.#scratch;
    }
  }
  #fetchByte(linear: bigint): number {
    const place = this.#host.fetch(linear);
    return place < 0 ? Number(this.#host.readSlow(linear, 1, ACCESS.READ)) : (this.#memory.u8[place] as number);
  }

  /** Appends the records of one instruction. */
  #translate(decoded: Exclude<ReturnType<typeof decode>, string>, mode: number, micros: Micro[]): { ended: boolean; system: number } {
    const { insn, encoding } = decoded;
    micros.push(this.#begin(mode, insn.length));
    const { build, system: op } = encoding.definition;
    if (op) {
      if (this.#ordinary && build) {
        const ordinary = new Builder(insn, encoding, mode);
        build(ordinary);
        micros.push(...ordinary.micros);
      }
      const system = this.#cache.addSystem({ op, insn });
      micros.push({ ...plain(this.#systemOp), imm: BigInt(system) });
      return { ended: true, system };
    }
    const builder = new Builder(insn, encoding, mode);
    build?.(builder);
    this.#append(micros, builder.micros);
    return { ended: builder.ended, system: -1 };
  }
  /** Appends records, but for those that a block needs once and has. */
  #append(micros: Micro[], more: readonly Micro[]): void {
    for (const micro of more) {
      if (!this.#once.has(micro.op) || !micros.some(({ op }) => op === micro.op)) micros.push(micro);
    }
  }
  // @clause x86.exception.instruction-length
  #overlong(mode: number): Micro[] {
    return [this.#begin(mode, LONGEST), plain(this.#tooLong)];
  }
  #begin(mode: number, length: number): Micro {
    const code64 = (mode & MODE.CODE) === MODE.CODE64;
    const op = code64 ? this.#insn[8] : mode & MODE.FLAT ? this.#insn[4] : this.#insn.limit;
    return { ...plain(op), imm: BigInt(length) };
  }

  /** One instruction as the translator wants it. Null: there is none in these bytes, or TypeScript executes it. */
  instruction(place: number, end: number, mode: number): Decoded | null {
    const decoded = decode(this.#memory.u8, place, end, mode);
    if (typeof decoded === 'string' || decoded.encoding.definition.system) return null;
    const { insn, encoding } = decoded;
    const builder = new Builder(insn, encoding, mode);
    encoding.definition.build?.(builder);
    return { length: insn.length, micros: builder.micros, ended: builder.ended };
  }

  /** Translates the page after the one of `linear`, for the instruction that continues there. */
  fetchNextPage(linear: bigint): number {
    const state = this.#state;
    const next = (linear & -NEXT_PAGE) + NEXT_PAGE;
    if (isCode64(state)) {
      const wrapped = BigInt.asUintN(64, next);
      if (!isCanonical(state, wrapped)) throw generalProtection();
      return this.#host.fetch(wrapped);
    }
    if (state.slot(SLOT.RIP) + (next - linear) > BigInt(state.segLimit(SEG.CS))) throw generalProtection();
    return this.#host.fetch(BigInt.asUintN(32, next));
  }
}

const plain = (op: number): Micro => ({ op, d: 0, a: 0, b: 0, imm: 0n });
