// # Making blocks
//
// From the bytes at a place to a block in the cache. Nearly all code lies in RAM, and instructions within a page. An instruction that goes on in the
// next page makes a block by itself, which looks up that page each time it runs. One that is not in RAM makes none.

import { generalProtection } from '../faults.ts';
import { Builder, type Micro } from '../isa/builder.ts';
import { decode, LONGEST } from '../isa/decoder.ts';
import { type Instruction, NONE } from '../isa/instruction.ts';
import type { SystemOp } from '../isa/system-ops.ts';
import { PAGE_BYTES, type PhysicalMemory } from '../physical-memory.ts';
import { type CpuState, MODE, OFFSET, SEG, SLOT } from '../state.ts';
import type { Block, CodeCache } from './code-cache.ts';
import { Draft } from './draft.ts';
import { InstructionShapes } from './instruction-shapes.ts';
import { RECORD_BYTES } from './interpreter.ts';
import { isPatched, looseIn } from './loose-numbers.ts';
import { microOp, ONCE } from './micro-ops.ts';
import { refilled, refillOf } from './refill.ts';
import { ACCESS, type EngineHost } from './surroundings.ts';

/** Records of the longest single instruction: ENTER with 31 levels. */
const SCRATCH_RECORDS = 512;
/** The parts of MODE that change what bytes mean. The others change only what may be accessed. */
const DECODING_MODE = MODE.CODE | MODE.STACK32 | MODE.FLAT;
const NEXT_PAGE = BigInt(PAGE_BYTES);
type Decoded = Exclude<ReturnType<typeof decode>, string>;

/** What a block is filed under in its page. */
export const blockKey = (place: number, mode: number, single: boolean): number =>
  (place % PAGE_BYTES) * 64 + (mode & DECODING_MODE) * 2 + Number(single);
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
  readonly #shapes = new InstructionShapes(this.#once);
  readonly #draft = new Draft(this.#once);

  /** `ordinary`: whether system instructions get the micro-operations of their ordinary case. */
  constructor(memory: PhysicalMemory, state: CpuState, host: EngineHost, cache: CodeCache, ordinary: boolean) {
    this.#memory = memory;
    this.#state = state;
    this.#host = host;
    this.#cache = cache;
    this.#ordinary = ordinary;
    this.#scratch = memory.reserve(SCRATCH_RECORDS * RECORD_BYTES);
  }

  /** Kinds of instruction that are known. */
  get shapes(): number {
    return this.#shapes.size;
  }

  /** Decodes a block, and files it as checked in this memory epoch. Null: its first instruction continues on a page that is not RAM. */
  make(place: number, mode: number, single: boolean, epoch: number): Block | null {
    const key = blockKey(place, mode, single);
    const { u8 } = this.#memory;
    const pageEnd = (Math.floor(place / PAGE_BYTES) + 1) * PAGE_BYTES;
    const draft = this.#draft.clear();
    let loose = NOTHING;
    const patches = this.#cache.patchesAround(place);
    const shapeMode = mode & DECODING_MODE;
    const before = patches ? undefined : this.#cache.overwritten(place, key);
    if (before?.refill && refilled(this.#memory, before, before.refill)) {
      this.#cache.revive(before, epoch);
      return before;
    }
    let at = place;
    let system = -1;
    let ended = false;
    const most = single ? 1 : this.#cache.roomAt(place);
    for (let n = 0; n < most && !ended && at < pageEnd; n++) {
      const shape = this.#shapes.find(u8, at, pageEnd, shapeMode);
      if (shape?.template && !(patches && isPatched(patches, at + shape.length, shape.immediateBytes))) {
        this.#shapes.write(shape, u8, at, draft);
        ended = shape.ended;
        at += shape.length;
        continue;
      }
      const decoded = decode(u8, at, pageEnd, mode);
      if (decoded === 'more' || decoded === 'too-many') {
        if (n > 0) break; // it gets a block of its own, and may fault only when it is reached
        if (decoded === 'more') return this.#across(place, mode, single, epoch);
        draft.append(this.#overlong(mode));
        return this.#cache.add(
          { key, place, code: u8, start: place, end: place + LONGEST, firstBytes: LONGEST, second: -1, loose, draft, system },
          epoch,
        );
      }
      const { length } = decoded.insn;
      const immediate = looseIn(decoded, at, patches);
      if (immediate >= 0) loose = [...loose, immediate, at + length];
      const made = this.#translate(decoded, mode, immediate);
      draft.append(made.micros);
      ({ ended, system } = made);
      if (immediate < 0) {
        this.#shapes.learn(u8, at, shapeMode, decoded, ended, shape, (insn, encoding) => this.#translate({ insn, encoding }, mode, NONE).micros);
      }
      at += length;
    }
    if (!ended) draft.add(plain(this.#sequel));
    const block = this.#cache.add({ key, place, code: u8, start: place, end: at, firstBytes: at - place, second: -1, loose, draft, system }, epoch);
    if (before?.bytes === block.bytes && before.records === block.records) {
      block.refill = refillOf(this.#shapes, u8, place, at, shapeMode, draft);
    }
    return block;
  }

  /** A block that is one instruction, partly on the next page. */
  #across(place: number, mode: number, single: boolean, epoch: number): Block | null {
    const key = blockKey(place, mode, single);
    const { u8 } = this.#memory;
    const firstBytes = PAGE_BYTES - (place % PAGE_BYTES);
    const second = this.fetchNextPage(this.#linear());
    if (second < 0) return null;
    const bytes = new Uint8Array(firstBytes + LONGEST);
    bytes.set(u8.subarray(place, place + firstBytes));
    bytes.set(u8.subarray(second, second + LONGEST), firstBytes);
    const check = this.#crossing[isCode64(this.#state) ? 8 : 4];
    const draft = this.#draft.clear();
    draft.add({ ...plain(check), imm: BigInt(second) });
    const decoded = decode(bytes, 0, bytes.length, mode);
    let system = -1;
    let length = LONGEST;
    if (decoded === 'too-many' || decoded === 'more') draft.append(this.#overlong(mode));
    else {
      const made = this.#translate(decoded, mode, NONE);
      draft.append(made.micros);
      system = made.system;
      length = decoded.insn.length;
      if (!made.ended) draft.add(plain(this.#sequel));
    }
    return this.#cache.add({ key, place, code: bytes, start: 0, end: length, firstBytes, second, loose: NOTHING, draft, system }, epoch);
  }

  #linear(): bigint {
    const rip = this.#state.slot(SLOT.RIP);
    return isCode64(this.#state) ? rip : BigInt.asUintN(32, rip + this.#state.segBase(SEG.CS));
  }

  /** Code that is not in RAM is fetched byte by byte, decoded one instruction at a time, and not kept. Returns where its records are. */
  uncached(linear: bigint, mode: number, place: number | null): number {
    const state = this.#state;
    const bytes = new Uint8Array(LONGEST + 1);
    const draft = this.#draft.clear();
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
      if (decoded === 'too-many') draft.append(this.#overlong(mode));
      else {
        const { micros, ended, system } = this.#translate(decoded, mode, NONE);
        draft.append(micros);
        this.#scratchSystem = system;
        if (!ended) draft.add(plain(this.#sequel));
      }
      this.#cache.writeRecords(this.#scratch, draft);
      return this.#scratch;
    }
  }
  #fetchByte(linear: bigint): number {
    const place = this.#host.fetch(linear);
    return place < 0 ? Number(this.#host.readSlow(linear, 1, ACCESS.READ)) : (this.#memory.u8[place] as number);
  }

  /** The records of one instruction. `immediateAt`: see Builder. */
  #translate(decoded: Pick<Decoded, 'insn' | 'encoding'>, mode: number, immediateAt: number): { micros: Micro[]; ended: boolean; system: number } {
    const { insn, encoding } = decoded;
    const { build, system: op } = encoding.definition;
    const micros = [this.#begin(mode, insn.length)];
    if (op && !(this.#ordinary && build)) return this.#asSystem(op, insn, micros);
    const builder = new Builder(insn, encoding, mode, immediateAt);
    build?.(builder);
    for (const micro of builder.micros) micros.push(micro);
    return op ? this.#asSystem(op, insn, micros) : { micros, ended: builder.ended, system: -1 };
  }
  #asSystem(op: SystemOp, insn: Instruction, micros: Micro[]): { micros: Micro[]; ended: boolean; system: number } {
    const system = this.#cache.addSystem({ op, insn });
    micros.push({ ...plain(this.#systemOp), imm: BigInt(system) });
    return { micros, ended: true, system };
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
const NOTHING: readonly number[] = [];
