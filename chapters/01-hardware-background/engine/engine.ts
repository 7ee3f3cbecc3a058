// # The engine
//
// What runs guest code: it finds decoded code or has it decoded, lets the interpreter run, and looks at the machine whenever the interpreter comes
// back. What it does not know -- page tables, descriptors, interrupts -- it asks of its host, the rest of the processor.

import { Fault, generalProtection, stackFault, VmExit } from '../faults.ts';
import { Builder, type Micro } from '../isa/builder.ts';
import { decode, LONGEST } from '../isa/decoder.ts';
import type { Instruction } from '../isa/instruction.ts';
import type { SystemOp } from '../isa/system-ops.ts';
import { lowHalf, PAGE_BYTES, type PhysicalMemory } from '../physical-memory.ts';
import { AR, type CpuState, MODE, OFFSET, SEG, SLOT } from '../state.ts';
import { type Block, CodeCache, SHORT_BLOCK_INSTRUCTIONS } from './code-cache.ts';
import {
  CONTEXT_EPOCH_AT,
  CONTEXT_MODE_BITS,
  compileInterpreter,
  type InterpreterImports,
  JUMP_ENTRY,
  jumpIndex,
  LEFT,
  MARGIN,
  RECORD_BYTES,
  TRANSLATED,
} from './interpreter.ts';
import { KnownInstructions } from './known-instructions.ts';
import { microOp, ONCE, WORD, WORD_BYTES } from './micro-ops.ts';
import type { Decoded } from './translator/region.ts';
import { type CodeFunction, type Translation, Translator } from './translator/translator.ts';

/** Kinds of access, as the MMU is asked for them. A read-modify-write faults as a write. */
export const ACCESS = { READ: 0, WRITE: 1, MODIFY: 2 } as const;

/**
 * What the engine needs from the rest of the processor. Methods may throw Fault or VmExit: the instruction is abandoned, and `Engine.run` returns the
 * thrown value. While they run, RIP is the current instruction and NEXT_RIP the one that follows; a control transfer assigns NEXT_RIP.
 */
export interface EngineHost {
  /**
   * Translates for instruction fetch: buffer offset of the byte at `linear`, valid up to the end of its 4 KiB page; -1 when the page is not RAM, and
   * the engine then fetches byte by byte with `readSlow`. The engine has already checked CS's limit, or that the address is canonical.
   */
  fetch(linear: bigint): number;
  /**
   * Data TLB miss. RAM: fills the TLB bank in use and returns the buffer offset. Not RAM, or crossing a page: returns -1, and the engine then calls
   * readSlow or writeSlow. In 64-bit code the engine has already checked that the address is canonical (#GP, or #SS for the stack segment).
   * A Fault or VmExit may be returned as well as thrown.
   */
  translate(linear: bigint, bytes: number, access: number): number | Fault | VmExit;
  /** A read of 1, 2, 4 or 8 bytes that crosses a page or meets a device. Returns the value, unsigned. */
  readSlow(linear: bigint, bytes: number, access: number): bigint;
  /** Likewise a write. Both pages of a crossing write are checked before either is written. Calls `codeWritten` for what it writes to RAM. */
  writeSlow(linear: bigint, bytes: number, value: bigint): void;
  /** Executes a system instruction. A VmExit may be returned as well as thrown, and costs less so. */
  system(op: SystemOp, insn: Instruction): VmExit | null;
  /** A port that the program may use, and that nobody wants to be asked about. Values are unsigned. */
  portRead(port: number, bytes: number): number;
  portWrite(port: number, bytes: number, value: number): void;
  /** The RAM page at `hpa` has just come to hold decoded code: invalidate the write tag of every TLB entry (both banks) that maps it. */
  protectCode(hpa: number): void;
}

/** Why `Engine.run` came back. Except after a fault or VM exit, RIP has been committed: it is the next instruction to execute. */
export type Stop =
  | { readonly kind: 'deadline' }
  | { readonly kind: 'events' }
  | { readonly kind: 'stop' }
  | { readonly kind: 'fault'; readonly fault: Fault }
  | { readonly kind: 'vmexit'; readonly exit: VmExit };

/** Options of {@link Engine}. `arenaBytes` bounds the memory for decoded code, taken from the private area. */
export interface EngineOptions {
  readonly arenaBytes?: number;
  /** Translate hot code to WebAssembly. What the guest does, and when, does not depend on it. */
  readonly translate?: boolean;
  /** How often a block is interpreted before it is hot. 0: it is translated when it is first met, as often as it changes. */
  readonly heat?: number;
  /** False: all system instructions are the host's, the ordinary case too. For a host without the tables and TLB banks that their micro-operations look at. */
  readonly ordinary?: boolean;
}

/** What TypeScript calls of the library. See micro-ops/system.ts. */
interface Library {
  deliver(vector: number, kind: number, errorCode: number, returnTo: bigint): number;
}

/**
 * Instructions after which the interpreter comes back to TypeScript even if nothing happened. A WebAssembly engine can exchange a running function for
 * better compiled code only when it is entered again.
 */
const SLICE = 1 << 18;
/** Records of the longest single instruction: ENTER with 31 levels. */
const SCRATCH_RECORDS = 512;
/** The parts of MODE that change what bytes mean. The others change only what may be accessed. */
const DECODING_MODE = MODE.CODE | MODE.STACK32 | MODE.FLAT;
const NEXT_PAGE = BigInt(PAGE_BYTES);
/** Place of the interpreter in the table of functions that run code. */
const INTERPRETER = 0;
/** A block is translated after it has been interpreted so often: by then that has cost about as much as the translation will. */
const HEAT = 3000;
/** An access by an instruction that translated code could not complete: what the host answered is not asked again when the interpreter starts it anew. */
interface Attempt {
  readonly linear: bigint;
  readonly bytes: number;
  readonly access: number;
  readonly outcome: number | Fault | VmExit;
}
const BANK_MASK = (1 << (CONTEXT_EPOCH_AT - CONTEXT_MODE_BITS)) - 1;
/** Epochs that fit above the rest of the context. */
const EPOCHS = 1 << (31 - CONTEXT_EPOCH_AT);

export class Engine {
  readonly #memory: PhysicalMemory;
  readonly #state: CpuState;
  readonly #host: EngineHost;
  readonly #cache: CodeCache;
  readonly #words: number;
  readonly #jumpCache: number;
  readonly #scratch: number;
  readonly #code = new WebAssembly.Table({ element: 'anyfunc', initial: 1 });
  readonly #functions: (CodeFunction | null)[] = [];
  /** Translations of hot code, when there are to be any. */
  readonly translator: Translator | null = null;
  readonly #heat: number;
  #attempts: Attempt[] = [];
  #attemptsAt = -1;
  /** Counts occasions on which decoded or translated code had to go. */
  #withdrawn = 0;
  readonly #crossing = { 8: microOp('crossing.8'), 4: microOp('crossing.4') };
  readonly #insn = { 8: microOp('insn.8'), 4: microOp('insn.4'), limit: microOp('insn.limit') };
  readonly #sequel = microOp('sequel');
  readonly #once = new Set([...ONCE].map(microOp));
  readonly #systemOp = microOp('system');
  readonly #tooLong = microOp('raise.gp');
  readonly #known = new KnownInstructions();
  #parked: Fault | VmExit | null = null;
  #epoch = 1;
  #memoryEpoch = 1;
  #scratchSystem = -1;
  readonly #ordinary: boolean;
  /** Library functions that TypeScript calls as well. */
  readonly library: Library;

  constructor(memory: PhysicalMemory, state: CpuState, host: EngineHost, options: EngineOptions = {}) {
    const { arenaBytes = 2 << 20, translate = true, heat = HEAT, ordinary = true } = options;
    this.#memory = memory;
    this.#state = state;
    this.#host = host;
    this.#words = memory.reserve(WORD_BYTES);
    this.#jumpCache = memory.reserve(JUMP_ENTRY.BYTES * JUMP_ENTRY.COUNT);
    this.#scratch = memory.reserve(SCRATCH_RECORDS * RECORD_BYTES);
    this.#cache = new CodeCache(memory, arenaBytes, () => this.#nextEpoch());
    this.#clearJumpCache();
    const pages = memory.buffer.byteLength / 65536;
    const shared = !(memory.buffer instanceof ArrayBuffer);
    const module = compileInterpreter(pages, shared, { state: state.base, words: this.#words, jumpCache: this.#jumpCache });
    const imports = this.#imports();
    const { exports } = new WebAssembly.Instance(module, { env: imports });
    this.#install(INTERPRETER, exports.run as CodeFunction);
    this.#heat = heat;
    this.#ordinary = ordinary;
    this.library = exports as unknown as Library;
    if (!translate) return;
    this.translator = new Translator({
      memory,
      machine: { pages, shared, state: state.base, words: this.#words },
      install: (slot, run) => this.#install(slot, run),
      imports: {
        ...exports,
        memory: memory.wasm,
        miss: (linear: bigint, info: number, count: number) => this.#missInRegion(linear, info, count),
        allowsSegment: (segment: number, offset: bigint, bytes: number, access: number) =>
          Number(!this.#segmentAllows(segment, offset, bytes, access)),
      },
      decode: (place, end, mode) => this.#decodeForRegion(place, end, mode),
    });
  }

  // ## Running

  /**
   * Runs from RIP until STOP is set, EVENTS is non-zero at a boundary (also before the first instruction), ICOUNT reaches DEADLINE, or a Fault or
   * VmExit arises. With DEADLINE = ICOUNT + 1 exactly one instruction runs. An instruction that faults is counted by ICOUNT as well (else a guest
   * that does nothing but fault would stop time); one that cannot even be fetched likewise.
   */
  run(): Stop {
    const state = this.#state;
    state.setSlot(SLOT.NEXT_RIP, state.slot(SLOT.RIP));
    this.#refresh();
    let left: number = LEFT.BOUNDARY;
    for (;;) {
      const reason = this.#reasonToStop();
      let start: { func: number; argument: number };
      try {
        this.#checkTarget();
        state.setSlot(SLOT.RIP, state.slot(SLOT.NEXT_RIP));
        if (reason) return reason;
        start = this.#find(left === LEFT.INTERPRET);
      } catch (thrown) {
        state.setNumber(OFFSET.ICOUNT, state.getNumber(OFFSET.ICOUNT) + 1);
        return this.#stopFor(thrown);
      }
      this.#setLimit();
      left = this.#enter(start.func, start.argument);
      if (left === LEFT.ABORT) {
        const thrown = this.#parked;
        this.#parked = null;
        this.#setWord32(WORD.STATUS, 0);
        return this.#stopFor(thrown);
      }
      if (left === LEFT.FAULT) {
        const errorCode = this.#word32(WORD.ERROR_CODE);
        return { kind: 'fault', fault: new Fault(this.#word32(WORD.VECTOR), errorCode < 0 ? null : errorCode) };
      }
    }
  }

  #enter(func: number, argument: number): number {
    let left = (this.#functions[func] as CodeFunction)(argument);
    while (left === LEFT.GO) left = (this.#functions[this.#word32(WORD.FUNC)] as CodeFunction)(this.#word32(WORD.ARGUMENT));
    return left;
  }
  #install(slot: number, run: CodeFunction | null): void {
    if (slot >= this.#code.length) this.#code.grow(slot + 1 - this.#code.length);
    this.#code.set(slot, run);
    this.#functions[slot] = run;
    if (!run) this.#forgetSlot(slot);
  }

  #stopFor(thrown: unknown): Stop {
    if (thrown instanceof Fault) return { kind: 'fault', fault: thrown };
    if (thrown instanceof VmExit) return { kind: 'vmexit', exit: thrown };
    throw thrown;
  }

  #reasonToStop(): Stop | null {
    const state = this.#state;
    if (state.get32(OFFSET.STOP) !== 0) return { kind: 'stop' };
    if (state.get32(OFFSET.EVENTS) !== 0) return { kind: 'events' };
    if (state.getNumber(OFFSET.ICOUNT) >= state.getNumber(OFFSET.DEADLINE)) return { kind: 'deadline' };
    return null;
  }

  /** A jump has left NEXT_RIP unchecked and RIP at itself; here is where a target outside the code segment or the address space becomes its fault. */
  #checkTarget(): void {
    const state = this.#state;
    const next = state.slot(SLOT.NEXT_RIP);
    const fine = this.#code64 ? this.#isCanonical(next) : next <= BigInt(state.segLimit(SEG.CS));
    if (!fine) throw generalProtection();
  }

  #isCanonical(address: bigint): boolean {
    return BigInt.asUintN(64, BigInt.asIntN(64 - this.#state.get32(OFFSET.CANONICAL_SHIFT), address)) === address;
  }
  get #code64(): boolean {
    return (this.#state.get32(OFFSET.MODE) & MODE.CODE) === MODE.CODE64;
  }

  // ## What the interpreter relies on

  #word32(at: number): number {
    return this.#memory.i32[(this.#words + at) >> 2] as number;
  }
  #setWord32(at: number, value: number): void {
    this.#memory.i32[(this.#words + at) >> 2] = value;
  }
  /** Sets LIMIT: to this very moment when something cannot wait for the end of the block. */
  #setLimit(): void {
    const state = this.#state;
    const count = state.getNumber(OFFSET.ICOUNT);
    const urgent = state.get32(OFFSET.STOP) !== 0 || state.get32(OFFSET.EVENTS) !== 0;
    const limit = urgent ? count : Math.min(Math.max(state.getNumber(OFFSET.DEADLINE), count), count + SLICE);
    this.#setWord32(WORD.LIMIT, limit | 0);
    this.#setWord32(WORD.LIMIT + 4, Math.floor(limit / 2 ** 32));
  }
  /** Brings the copies of mode and code base up to date: after anything that may have changed the mode. */
  #refresh(): void {
    const state = this.#state;
    const base = this.#code64 ? 0n : state.segBase(SEG.CS);
    this.#memory.view.setBigUint64(this.#words + WORD.CODE_BASE, base, true);
    const bank = (state.get32(OFFSET.TLB) / PAGE_BYTES) & BANK_MASK;
    const context = state.get32(OFFSET.MODE) | (bank << CONTEXT_MODE_BITS) | (this.#epoch << CONTEXT_EPOCH_AT);
    const before = this.#word32(WORD.CONTEXT);
    this.#setWord32(WORD.CONTEXT, context);
    // Another privilege level may not be allowed there. (A new epoch is no event of the guest's.)
    if ((context ^ before) & ((1 << CONTEXT_EPOCH_AT) - 1)) this.#forgetFetchPage();
  }
  #forgetFetchPage(): void {
    this.#memory.view.setBigInt64(this.#words + WORD.FETCH_PAGE, -1n, true);
  }

  /** REP string instructions normally do many iterations per step. True: one iteration, then the boundary (also implied by RFLAGS.TF). */
  get oneIteration(): boolean {
    return this.#word32(WORD.ONE_ITERATION) !== 0;
  }
  set oneIteration(value: boolean) {
    this.#setWord32(WORD.ONE_ITERATION, Number(value));
  }

  // ## Calls from the interpreter
  //
  // A Fault or VmExit must not travel through WebAssembly as an exception: that is slow, and the interpreter would not get to leave in order. It is
  // parked, and the interpreter is told to abort.

  #park(thrown: unknown): void {
    if (!(thrown instanceof Fault || thrown instanceof VmExit)) throw thrown;
    if (this.#word32(WORD.STATUS) !== 0) return; // of an access in two parts the first has failed already
    this.#parked = thrown;
    this.#setWord32(WORD.STATUS, 1);
  }

  #imports(): InterpreterImports {
    return {
      memory: this.#memory.wasm,
      code: this.#code,
      translate: (signed, bytes, access, stack) => {
        try {
          const at = this.#attempted(signed, bytes, access) ?? this.#ask(signed, bytes, access, stack);
          if (typeof at !== 'number') {
            this.#park(at);
            return TRANSLATED.ABORT;
          }
          if (at < 0) return TRANSLATED.SLOW;
          if (access !== ACCESS.READ && this.#holdsCodeAt(at)) this.#written(at, bytes);
          return at;
        } catch (thrown) {
          this.#park(thrown);
          return TRANSLATED.ABORT;
        }
      },
      readSlow: (linear, bytes, access) => {
        try {
          return this.#host.readSlow(BigInt.asUintN(64, linear), bytes, access);
        } catch (thrown) {
          this.#park(thrown);
          return 0n;
        } finally {
          this.#setLimit();
        }
      },
      writeSlow: (linear, bytes, value) => {
        try {
          this.#host.writeSlow(BigInt.asUintN(64, linear), bytes, BigInt.asUintN(8 * bytes, value));
          return 0;
        } catch (thrown) {
          this.#park(thrown);
          return 1;
        } finally {
          this.#setLimit();
        }
      },
      checkSegment: (segment, offset, bytes, access) => {
        if (this.#segmentAllows(segment, offset, bytes, access)) return 0;
        this.#park(segment === SEG.SS ? stackFault() : generalProtection());
        return 1;
      },
      portRead: (port, bytes) => this.#host.portRead(port, bytes),
      portWrite: (port, bytes, value) => this.#host.portWrite(port, bytes, value >>> 0),
      system: (index) => {
        const { op, insn } = this.#cache.system(index);
        try {
          const exit = this.#host.system(op, insn);
          if (exit === null) return 0;
          this.#park(exit);
          return 1;
        } catch (thrown) {
          this.#park(thrown);
          return 1;
        } finally {
          this.#setLimit();
          this.#refresh();
        }
      },
    };
  }

  /** The full rule of which the interpreter decides the ordinary case: may `bytes` at `offset` of a segment be accessed? */
  // @clause x86.segment.limit
  // @clause x86.segment.access-rights
  #segmentAllows(segment: number, offset: bigint, bytes: number, access: number): boolean {
    const state = this.#state;
    const rights = state.segRights(segment);
    const limit = BigInt(state.segLimit(segment));
    const last = offset + BigInt(bytes - 1);
    // Real mode looks at the limit alone: loading a segment register there leaves the rights as they were.
    if (!(state.get32(OFFSET.MODE) & MODE.PROTECTED)) return last <= limit;
    if (rights & AR.UNUSABLE) return false;
    const isCode = (rights & AR.CODE) !== 0;
    if (access === ACCESS.READ ? isCode && !(rights & AR.READABLE) : isCode || !(rights & AR.WRITABLE)) return false;
    // @clause x86.segment.expand-down
    if (!isCode && rights & AR.EXPAND_DOWN) return offset > limit && last <= (rights & AR.DB ? 0xffffffffn : 0xffffn);
    return last <= limit || limit === 0xffffffffn; // an access may go round the end of 4 GiB
  }

  // ## Finding code

  /** What to call next, for the code at RIP. Throws Fault or VmExit when it cannot be fetched. `interpret`: a translation would not do. */
  #find(interpret: boolean): { func: number; argument: number } {
    const state = this.#state;
    const mode = state.get32(OFFSET.MODE);
    const rip = state.slot(SLOT.RIP);
    const linear = this.#code64 ? rip : BigInt.asUintN(32, rip + state.segBase(SEG.CS));
    const place = this.#fetch(rip, linear);
    if (place < 0) return interpreting(this.#uncached(linear, mode, null));
    // Single steps get blocks of their own, so that they do not leave short blocks behind for those who run on.
    const single = state.getNumber(OFFSET.DEADLINE) - state.getNumber(OFFSET.ICOUNT) === 1;
    const key = place * 64 + (mode & DECODING_MODE) * 2 + Number(single);
    const known = this.#cache.find(key);
    const block = known && this.#stillGood(known, linear) ? known : this.#decode(key, place, linear, mode, single);
    if (!block) return interpreting(this.#uncached(linear, mode, place));
    if (!single) {
      const translation = this.#translation(rip, block);
      this.#remember(rip, block, translation);
      const time = this.#state.getNumber(OFFSET.DEADLINE) - this.#state.getNumber(OFFSET.ICOUNT);
      if (translation && !interpret && time >= MARGIN) return { func: translation.translation.slot, argument: translation.entry };
    }
    // The second page of a crossing instruction has just been consulted.
    return interpreting(block.second >= 0 ? block.record + RECORD_BYTES : block.record);
  }

  /** The translation of a block; made now if the block has become hot. */
  #translation(rip: bigint, block: Block): { translation: Translation; entry: number } | null {
    const { translator } = this;
    if (!translator || block.second >= 0) return null;
    const mode = this.#state.get32(OFFSET.MODE);
    if (!(this.#code64 || mode & MODE.FLAT)) return null;
    const circumstances = { mode, bank: this.#state.get32(OFFSET.TLB) };
    const found = translator.find(block.place, rip, circumstances);
    if (found) {
      if (found.translation.checked === this.#memoryEpoch) return found;
      if (translator.intact(found.translation)) {
        found.translation.checked = this.#memoryEpoch;
        return found;
      }
      translator.withdraw(found.translation);
    }
    if (!this.#isHot(rip, block)) return null;
    const made = translator.translate(block.place, rip, circumstances, this.#cache.startsOnPage(block.place), this.#memoryEpoch);
    if (!made) {
      block.heat = 0; // never again
      return null;
    }
    return { translation: made, entry: made.entries.get(block.place % PAGE_BYTES) as number };
  }
  /** True when the interpreter came back because the block's heat was used up. */
  #isHot(rip: bigint, block: Block): boolean {
    if (this.#heat === 0) return block.heat !== 0;
    if (block.heat < 0) {
      this.#setHeat(block);
      return false;
    }
    if (block.heat === 0) return false;
    const entry = this.#entryOf(rip);
    const { view } = this.#memory;
    const isOurs =
      view.getUint32(entry + JUMP_ENTRY.RECORD, true) === block.record &&
      view.getInt32(entry + JUMP_ENTRY.CONTEXT, true) === this.#word32(WORD.CONTEXT);
    if (!isOurs || view.getUint32(entry + JUMP_ENTRY.HEAT, true) !== 0) return false;
    // The page may have become a restless one meanwhile: then the block has to be hotter than it was told.
    const told = block.heat;
    this.#setHeat(block);
    return block.heat === told;
  }
  #setHeat(block: Block): void {
    const times = this.#heat * (this.translator?.reluctance(block.place) ?? 1);
    block.heat = Number.isFinite(times) ? times : 0;
  }
  #decodeForRegion(place: number, end: number, mode: number): Decoded | null {
    const decoded = decode(this.#memory.u8, place, end, mode);
    if (typeof decoded === 'string' || decoded.encoding.definition.system) return null;
    const { insn, encoding } = decoded;
    const builder = new Builder(insn, encoding, mode);
    encoding.definition.build?.(builder);
    return { length: insn.length, micros: builder.micros, ended: builder.ended };
  }
  #entryOf(rip: bigint): number {
    const linear = BigInt.asUintN(64, rip + this.#memory.view.getBigUint64(this.#words + WORD.CODE_BASE, true));
    return this.#jumpCache + jumpIndex(linear) * JUMP_ENTRY.BYTES;
  }
  #forgetSlot(slot: number): void {
    const { i32 } = this.#memory;
    const step = JUMP_ENTRY.BYTES >> 2;
    const end = (this.#jumpCache >> 2) + step * JUMP_ENTRY.COUNT;
    for (let at = this.#jumpCache >> 2; at < end; at += step) {
      if (i32[at + (JUMP_ENTRY.FUNC >> 2)] !== slot) continue;
      i32[at] = -1;
      i32[at + 1] = -1;
    }
  }

  // ## Calls from translated code
  //
  // An access that misses the TLB either yields a buffer offset, and translated code goes on; or the instruction is left to the interpreter, from its beginning.
  // Then the same questions will be asked again, and the host must not notice: a walk of the page tables shows in the trace. So the answers that one instruction has got
  // are kept until it is over.

  #missInRegion(signed: bigint, info: number, count: number): number {
    this.#state.setNumber(OFFSET.ICOUNT, count);
    if (count !== this.#attemptsAt) {
      this.#attempts = [];
      this.#attemptsAt = count;
    }
    const bytes = info & 0xff;
    const access = (info >> 8) & 0xff;
    const before = this.#withdrawn;
    let outcome: number | Fault | VmExit;
    try {
      outcome = this.#ask(signed, bytes, access, info >> 16);
    } catch (thrown) {
      if (!(thrown instanceof Fault || thrown instanceof VmExit)) throw thrown;
      outcome = thrown;
    }
    this.#attempts.push({ linear: signed, bytes, access, outcome });
    if (typeof outcome !== 'number' || outcome < 0) return 0;
    if (access !== ACCESS.READ && this.#holdsCodeAt(outcome)) this.#written(outcome, bytes);
    return this.#withdrawn === before ? outcome : 0;
  }
  #attempted(linear: bigint, bytes: number, access: number): number | Fault | VmExit | null {
    if (this.#attempts.length === 0 || this.#attemptsAt !== this.#state.getNumber(OFFSET.ICOUNT)) return null;
    const at = this.#attempts.findIndex((one) => one.linear === linear && one.bytes === bytes && one.access === access);
    return at < 0 ? null : ((this.#attempts.splice(at, 1)[0] as Attempt).outcome ?? null);
  }
  #ask(signed: bigint, bytes: number, access: number, stack: number): number | Fault | VmExit {
    const linear = BigInt.asUintN(64, signed);
    const last = BigInt.asUintN(64, linear + BigInt(bytes - 1));
    // @clause x86.segment.canonical
    if (this.#code64 && !(this.#isCanonical(linear) && this.#isCanonical(last))) throw stack ? stackFault() : generalProtection();
    return this.#host.translate(linear, bytes, access);
  }
  #holdsCodeAt(place: number): boolean {
    return this.#cache.holdsCode(place) || (this.translator?.holdsCode(place) ?? false);
  }
  #written(place: number, bytes: number): void {
    const blocks = this.#cache.written(place, bytes);
    const regions = this.translator?.written(place, bytes) ?? false;
    if (blocks || regions) this.#withdrawn++;
  }

  /** Buffer offset of the code at RIP. The TLB is consulted only if this is not the page that the last instruction came from. */
  #fetch(rip: bigint, linear: bigint): number {
    const { view } = this.#memory;
    const page = BigInt.asUintN(64, rip + view.getBigUint64(this.#words + WORD.CODE_BASE, true)) & -NEXT_PAGE;
    const low = lowHalf(linear);
    if (view.getBigUint64(this.#words + WORD.FETCH_PAGE, true) === BigInt.asUintN(64, page)) return (low + this.#word32(WORD.FETCH_ADDEND)) >>> 0;
    this.#forgetFetchPage();
    const place = this.#host.fetch(linear);
    if (place >= 0) {
      view.setBigInt64(this.#words + WORD.FETCH_PAGE, BigInt.asIntN(64, page), true);
      this.#setWord32(WORD.FETCH_ADDEND, (place - low) | 0);
    }
    return place;
  }

  #stillGood(block: Block, linear: bigint): boolean {
    if (block.checked !== this.#memoryEpoch) {
      if (!this.#cache.intact(block)) {
        this.#cache.withdraw(block);
        return false;
      }
      block.checked = this.#memoryEpoch;
    }
    if (block.second >= 0 && this.#fetchNextPage(linear) !== block.second) {
      this.#cache.withdraw(block);
      return false;
    }
    return true;
  }

  /** Translates the page after the one of `linear`, for the instruction that continues there. */
  #fetchNextPage(linear: bigint): number {
    const state = this.#state;
    const next = (linear & -NEXT_PAGE) + NEXT_PAGE;
    if (this.#code64) {
      const wrapped = BigInt.asUintN(64, next);
      if (!this.#isCanonical(wrapped)) throw generalProtection();
      return this.#host.fetch(wrapped);
    }
    if (state.slot(SLOT.RIP) + (next - linear) > BigInt(state.segLimit(SEG.CS))) throw generalProtection();
    return this.#host.fetch(BigInt.asUintN(32, next));
  }

  /** Decodes a block. Null: its first instruction continues on a page that is not RAM. */
  #decode(key: number, place: number, linear: bigint, mode: number, single: boolean): Block | null {
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
        if (decoded === 'more') return this.#decodeAcross(key, place, linear, mode);
        micros.push(...this.#overlong(mode));
        return this.#file({ key, place, code: u8.subarray(place, place + LONGEST), firstBytes: LONGEST, second: -1, micros, system });
      }
      const own: Micro[] = [];
      ({ ended, system } = this.#translate(decoded, mode, own));
      if (restless && system < 0) this.#known.add(u8, at, mode & DECODING_MODE, decoded, own, ended);
      this.#append(micros, own);
      at += decoded.insn.length;
    }
    if (!ended) micros.push(plain(this.#sequel));
    return this.#file({ key, place, code: u8.subarray(place, at), firstBytes: at - place, second: -1, micros, system });
  }

  /** A block that is one instruction, partly on the next page. */
  #decodeAcross(key: number, place: number, linear: bigint, mode: number): Block | null {
    const { u8 } = this.#memory;
    const firstBytes = PAGE_BYTES - (place % PAGE_BYTES);
    const second = this.#fetchNextPage(linear);
    if (second < 0) return null;
    const bytes = new Uint8Array(firstBytes + LONGEST);
    bytes.set(u8.subarray(place, place + firstBytes));
    bytes.set(u8.subarray(second, second + LONGEST), firstBytes);
    const check = this.#crossing[this.#code64 ? 8 : 4];
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
    return this.#file({ key, place, code: bytes.subarray(0, length), firstBytes, second, micros, system });
  }

  #file(decoding: Parameters<CodeCache['add']>[0]): Block {
    const { block, newPages } = this.#cache.add(decoding, this.#memoryEpoch);
    for (const page of newPages) this.#host.protectCode(page - this.#memory.ramOffset);
    return block;
  }

  /** Code that is not in RAM is fetched byte by byte, decoded one instruction at a time, and not kept. */
  #uncached(linear: bigint, mode: number, place: number | null): number {
    const state = this.#state;
    const bytes = new Uint8Array(LONGEST + 1);
    const micros: Micro[] = [];
    this.#cache.freeSystem(this.#scratchSystem);
    this.#scratchSystem = -1;
    for (let n = 0; ; n++) {
      const offset = linear + BigInt(n);
      const decoded = decode(bytes, 0, n, mode);
      if (decoded === 'more') {
        if (!this.#code64 && state.slot(SLOT.RIP) + BigInt(n) > BigInt(state.segLimit(SEG.CS))) throw generalProtection();
        const inFirst = place !== null && (place % PAGE_BYTES) + n < PAGE_BYTES;
        const here = BigInt.asUintN(this.#code64 ? 64 : 32, offset);
        if (this.#code64 && !this.#isCanonical(here)) throw generalProtection();
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

  /** Puts a block into the jump cache. */
  #remember(rip: bigint, block: Block, found: { translation: Translation; entry: number } | null): void {
    const { view } = this.#memory;
    const linear = BigInt.asUintN(64, rip + view.getBigUint64(this.#words + WORD.CODE_BASE, true));
    const entry = this.#entryOf(rip);
    view.setBigUint64(entry + JUMP_ENTRY.LINEAR, linear, true);
    view.setInt32(entry + JUMP_ENTRY.CONTEXT, this.#word32(WORD.CONTEXT), true);
    view.setUint32(entry + JUMP_ENTRY.PLACE, block.place, true);
    view.setUint32(entry + JUMP_ENTRY.RECORD, block.record, true);
    view.setUint32(entry + JUMP_ENTRY.FUNC, found ? found.translation.slot : INTERPRETER, true);
    view.setUint32(entry + JUMP_ENTRY.ARGUMENT, found ? found.entry : 0, true);
    view.setUint32(entry + JUMP_ENTRY.HEAT, found ? 0 : Math.max(block.heat, 0), true);
  }
  #clearJumpCache(): void {
    this.#memory.u8.fill(0xff, this.#jumpCache, this.#jumpCache + JUMP_ENTRY.BYTES * JUMP_ENTRY.COUNT);
  }
  /** No entry of the jump cache is valid any more. */
  #nextEpoch(): void {
    this.#epoch = (this.#epoch + 1) % EPOCHS;
    if (this.#epoch === 0) this.#clearJumpCache();
    this.#refresh();
  }

  // ## What others must tell

  /** Bytes of RAM are being written by someone other than the running code's fast path: forget decoded code that covers them. */
  codeWritten(hpa: number, bytes: number): void {
    this.#written(this.#memory.ramOffset + hpa, bytes);
  }

  /** True when the RAM page of `hpa` holds decoded code: the MMU must then leave the write tag of its TLB entries invalid. */
  holdsCode(hpa: number): boolean {
    return this.#holdsCodeAt(this.#memory.ramOffset + hpa);
  }

  /** Address mappings or permissions changed: the page that instructions come from must be looked up anew. */
  flush(): void {
    this.#forgetFetchPage();
  }

  /** RAM may have been changed behind the processor's back (by a device, by the VMM): compare decoded code with RAM before using it again. */
  memoryChanged(): void {
    this.#memoryEpoch++;
    this.#nextEpoch();
  }
}

const interpreting = (record: number): { func: number; argument: number } => ({ func: INTERPRETER, argument: record });
const plain = (op: number): Micro => ({ op, d: 0, a: 0, b: 0, imm: 0n });
