// # The engine
//
// What runs guest code: it finds decoded code or has it decoded, lets the interpreter run, and looks at the machine whenever the interpreter comes
// back. What it does not know -- page tables, descriptors, interrupts -- it asks of its host, the rest of the processor.

import { Fault, generalProtection, stackFault, VmExit } from '../faults.ts';
import { PAGE_BYTES, type PhysicalMemory } from '../physical-memory.ts';
import { AR, type CpuState, MODE, OFFSET, SEG, SLOT } from '../state.ts';
import { BlockMaker, blockKey, isCanonical, isCode64 } from './block-maker.ts';
import { CodeBytes } from './code-bytes.ts';
import { type Block, CodeCache } from './code-cache.ts';
import { DeviceAccess } from './device-access.ts';
import { CONTEXT_EPOCH_AT, CONTEXT_MODE_BITS, compileInterpreter, type InterpreterImports, RECORD_BYTES, TRANSLATED } from './interpreter.ts';
import { JumpCache, LEFT, MARGIN } from './jump-cache.ts';
import { STATUS, WORD, WORD_BYTES } from './micro-ops.ts';
import { ACCESS, type EngineHost, type EngineOptions, type EngineSizes, type Stop } from './surroundings.ts';
import { type CodeFunction, type Translation, Translator } from './translator/translator.ts';

export { ACCESS, type EngineHost, type EngineOptions, type Stop } from './surroundings.ts';

/** What TypeScript calls of the library. See micro-ops/system.ts and walk.ts. */
interface Library {
  walk(linear: bigint, bytes: number, access: number): number;
  deliver(vector: number, kind: number, errorCode: number, returnTo: bigint): number;
}

/**
 * Instructions after which the interpreter comes back to TypeScript even if nothing happened. A WebAssembly engine can exchange a running function for
 * better compiled code only when it is entered again.
 */
const SLICE = 1 << 18;
/** Place of the interpreter in the table of functions that run code. */
const INTERPRETER = 0;
/** A block is translated after it has been interpreted so often: by then that has cost about as much as the translation will. */
const HEAT = 12_000;
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
  readonly #codeBytes: CodeBytes;
  readonly #cache: CodeCache;
  readonly #maker: BlockMaker;
  readonly #words: number;
  readonly #devices: DeviceAccess;
  readonly #jumpCache: JumpCache;
  readonly #code = new WebAssembly.Table({ element: 'anyfunc', initial: 1 });
  readonly #functions: (CodeFunction | null)[] = [];
  /** Translations of hot code, when there are to be any. */
  readonly translator: Translator | null = null;
  readonly #heat: number;
  #attempts: Attempt[] = [];
  #attemptsAt = -1;
  /** RIP as a linear address, in halves. See `#locate`. */
  #low = 0;
  #high = 0;
  /** Counts occasions on which decoded or translated code had to go. */
  #withdrawn = 0;
  #parked: Fault | VmExit | null = null;
  #epoch = 1;
  #memoryEpoch = 1;
  /** Library functions that TypeScript calls as well. */
  readonly library: Library;

  constructor(memory: PhysicalMemory, state: CpuState, host: EngineHost, options: EngineOptions = {}) {
    const { arenaBytes = 8 << 20, translate = true, heat = HEAT, ordinary = true, workshop = null } = options;
    this.#memory = memory;
    this.#state = state;
    this.#host = host;
    this.#words = memory.reserve(WORD_BYTES);
    this.#jumpCache = new JumpCache(memory);
    this.#codeBytes = new CodeBytes(memory);
    this.#cache = new CodeCache(memory, arenaBytes, this.#codeBytes, {
      onReuse: () => this.#nextEpoch(),
      onNewPage: (page) => host.protectCode(page - memory.ramOffset),
    });
    this.#maker = new BlockMaker(memory, state, host, this.#cache, ordinary);
    this.#devices = new DeviceAccess({
      memory,
      state,
      words: this.#words,
      mmu: host.mmu,
      isUrgent: () => this.#isUrgent(),
      setLimit: () => this.#setLimit(),
      generation: () => this.#withdrawn + this.#memoryEpoch,
      park: (thrown) => this.#park(thrown),
    });
    const pages = memory.buffer.byteLength / 65536;
    const shared = !(memory.buffer instanceof ArrayBuffer);
    const module = compileInterpreter(pages, shared, { state: state.base, words: this.#words, jumpCache: this.#jumpCache.at });
    const imports = this.#imports();
    const { exports } = new WebAssembly.Instance(module, { env: imports });
    this.#install(INTERPRETER, exports.run as CodeFunction);
    this.#heat = heat;
    this.library = exports as unknown as Library;
    if (!translate) return;
    this.translator = new Translator({
      memory,
      machine: { pages, shared, state: state.base, words: this.#words },
      codeBytes: this.#codeBytes,
      install: (slot, run) => this.#install(slot, run),
      remove: (translation) => this.#remove(translation),
      imports: {
        ...exports,
        memory: memory.wasm,
        allowsSegment: (segment: number, offset: bigint, bytes: number, access: number) =>
          Number(!this.#segmentAllows(segment, offset, bytes, access)),
      },
      workshop: heat === 0 ? null : workshop, // heat 0 says: at once
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
    state.setSlotHalves(SLOT.NEXT_RIP, state.slot32(SLOT.RIP), state.slotHigh(SLOT.RIP));
    state.set32(OFFSET.CODE_BYTES, this.#codeBytes.base); // a reset clears the register file
    this.translator?.deliver();
    this.#refresh();
    this.#devices.forget();
    let left: number = LEFT.BOUNDARY;
    for (;;) {
      const unfinished = left === LEFT.INTERPRET && this.#devices.unfinished;
      const reason = unfinished ? null : this.#reasonToStop();
      let start: { func: number; argument: number };
      try {
        this.#checkTarget();
        state.setSlotHalves(SLOT.RIP, state.slot32(SLOT.NEXT_RIP), state.slotHigh(SLOT.NEXT_RIP));
        if (reason) return reason;
        start = this.#find(left === LEFT.INTERPRET);
      } catch (thrown) {
        state.setNumber(OFFSET.ICOUNT, state.getNumber(OFFSET.ICOUNT) + 1);
        return this.#stopFor(thrown);
      }
      if (!unfinished) this.#setLimit();
      left = this.#enter(start.func, start.argument);
      if (left === LEFT.ABORT) {
        const thrown = this.#word32(WORD.STATUS) === STATUS.PAGE_FAULT ? (this.#host.mmu?.ordinaryFault() ?? null) : this.#parked;
        this.#parked = null;
        this.#setWord32(WORD.STATUS, STATUS.NONE);
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
  #install(slot: number, run: CodeFunction): void {
    if (slot >= this.#code.length) this.#code.grow(slot + 1 - this.#code.length);
    this.#code.set(slot, run);
    this.#functions[slot] = run;
  }
  /** Empties the slot of a translation. It is remembered only where its entries have their places in the jump cache. */
  #remove({ slot, rip, entries }: Translation): void {
    this.#code.set(slot, null);
    this.#functions[slot] = null;
    const page = Number(BigInt.asUintN(32, rip)); // the code base of what is translated is 0
    for (const offset of entries.keys()) this.#jumpCache.forget(page + offset, slot);
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
    const high = state.slotHigh(SLOT.NEXT_RIP);
    const shift = state.get32(OFFSET.CANONICAL_SHIFT);
    const fine = isCode64(state) ? (high << shift) >> shift === (high | 0) : high === 0 && state.slot32(SLOT.NEXT_RIP) <= state.segLimit(SEG.CS);
    if (!fine) throw generalProtection();
  }

  // ## What the interpreter relies on

  #word32(at: number): number {
    return this.#memory.i32[(this.#words + at) >> 2] as number;
  }
  #setWord32(at: number, value: number): void {
    this.#memory.i32[(this.#words + at) >> 2] = value;
  }
  #isUrgent(): boolean {
    return this.#state.get32(OFFSET.STOP) !== 0 || this.#state.get32(OFFSET.EVENTS) !== 0;
  }
  /** Sets LIMIT: to this very moment when something cannot wait for the end of the block. */
  #setLimit(): void {
    const state = this.#state;
    const count = state.getNumber(OFFSET.ICOUNT);
    const limit = this.#isUrgent() ? count : Math.min(Math.max(state.getNumber(OFFSET.DEADLINE), count), count + SLICE);
    this.#setWord32(WORD.LIMIT, limit | 0);
    this.#setWord32(WORD.LIMIT + 4, Math.floor(limit / 2 ** 32));
  }
  /** Brings the copies of mode and code base up to date: after anything that may have changed the mode. */
  #refresh(): void {
    const state = this.#state;
    const base = isCode64(state) ? 0n : state.segBase(SEG.CS);
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
    if (this.#word32(WORD.STATUS) !== STATUS.NONE) return; // of an access in two parts the first has failed already
    this.#parked = thrown;
    this.#setWord32(WORD.STATUS, STATUS.PARKED);
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
      deviceRead: (bytes) => this.#devices.read(bytes),
      deviceWrite: (bytes, value) => this.#devices.write(bytes, value),
      readInRegion: (bytes, count) => this.#devices.readInRegion(bytes, count),
      writeInRegion: (bytes, value, count) => this.#devices.writeInRegion(bytes, value, count),
      missInRegion: (linear, info, count) => this.#missInRegion(linear, info, count),
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
    this.#locate();
    const place = this.#fetch();
    if (place < 0) return interpreting(this.#maker.uncached(this.#linear(), mode, null));
    // Single steps get blocks of their own, so that they do not leave short blocks behind for those who run on.
    const single = state.getNumber(OFFSET.DEADLINE) - state.getNumber(OFFSET.ICOUNT) === 1;
    const known = this.#cache.find(place, blockKey(place, mode, single));
    const block = known && this.#stillGood(known) ? known : this.#maker.make(place, mode, single, this.#memoryEpoch);
    if (!block) return interpreting(this.#maker.uncached(this.#linear(), mode, place));
    if (!single) {
      const translation = this.#translation(block);
      this.#remember(block, translation);
      const time = this.#state.getNumber(OFFSET.DEADLINE) - this.#state.getNumber(OFFSET.ICOUNT);
      if (translation && !interpret && time >= MARGIN) return { func: translation.translation.slot, argument: translation.entry };
    }
    // The second page of a crossing instruction has just been consulted.
    return interpreting(block.second >= 0 ? block.record + RECORD_BYTES : block.record);
  }

  /** The translation of a block; made now if the block has become hot. */
  #translation(block: Block): { translation: Translation; entry: number } | null {
    const { translator } = this;
    if (!translator || block.second >= 0) return null;
    const mode = this.#state.get32(OFFSET.MODE);
    if (!(isCode64(this.#state) || mode & MODE.FLAT)) return null;
    const circumstances = { mode, bank: this.#state.get32(OFFSET.TLB) };
    const found = translator.holdsCode(block.place) ? translator.find(block.place, this.#state.slot(SLOT.RIP), circumstances) : null;
    if (found) {
      if (found.translation.checked === this.#memoryEpoch) return found;
      if (translator.intact(found.translation)) {
        found.translation.checked = this.#memoryEpoch;
        return found;
      }
      translator.withdraw(found.translation);
    }
    return this.#isHot(block) ? this.#translate(translator, block, circumstances) : null;
  }
  #translate(
    translator: Translator,
    block: Block,
    circumstances: { mode: number; bank: number },
  ): { translation: Translation; entry: number } | null {
    const { place } = block;
    const [low, offset] = [this.#low, place % PAGE_BYTES];
    const around = { ...circumstances, known: this.#cache.startsOnPage(place), patches: this.#cache.patchesAround(place) };
    const made = translator.translate(place, this.#state.slot(SLOT.RIP), around, this.#memoryEpoch, ({ entries }) => {
      block.heat = -1; // as if it had never been hot: its code may have changed meanwhile
      // Whoever goes by one of the entries is to look what there is.
      for (const at of entries.keys()) this.#jumpCache.forget(low - offset + at, INTERPRETER);
    });
    if (made === 'busy') this.#setHeat(block);
    else if (made === null || made === 'ordered')
      block.heat = 0; // it need not ask again
    else return { translation: made, entry: made.entries.get(offset) as number };
    return null;
  }
  /** True when the interpreter came back because the block's heat was used up. */
  #isHot(block: Block): boolean {
    if (this.#heat === 0) return block.heat !== 0;
    if (block.heat < 0) {
      this.#setHeat(block);
      return false;
    }
    if (block.heat === 0) return false;
    if (!this.#jumpCache.isHot(this.#low, this.#high, block.record, this.#word32(WORD.CONTEXT))) return false;
    // The page may have become a restless one meanwhile: then the block has to be hotter than it was told.
    const told = block.heat;
    this.#setHeat(block);
    return block.heat === told;
  }
  #setHeat(block: Block): void {
    const times = this.#heat * (this.translator?.reluctance(block.place) ?? 1);
    block.heat = Number.isFinite(times) ? times : 0;
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
      outcome = this.#ask(signed, bytes, access, (info >> 16) & 1);
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
    if (!isCode64(this.#state)) return this.#host.translate(linear, bytes, access);
    const refusal = (): Fault => (stack ? stackFault() : generalProtection());
    // @clause x86.segment.canonical
    if (!isCanonical(this.#state, linear)) throw refusal();
    const outcome = this.#host.translate(linear, bytes, access);
    if (!isCanonical(this.#state, last)) throw refusal(); // after what the host says of alignment
    return outcome;
  }
  #holdsCodeAt(place: number): boolean {
    return this.#cache.holdsCode(place) || (this.translator?.holdsCode(place) ?? false);
  }
  #written(place: number, bytes: number): void {
    const blocks = this.#cache.written(place, bytes);
    const regions = this.translator?.written(place, bytes) ?? false;
    if (blocks || regions) this.#withdrawn++;
    const page = Math.floor(place / PAGE_BYTES);
    if (!this.#codeBytes.stored(page)) return;
    this.#cache.account(page);
    this.translator?.account(page);
  }

  /** Works out where RIP is before it is cut to 32 bits, which is what the jump cache and the fetch page go by: RIP plus the base of the code. */
  #locate(): void {
    const low = this.#state.slot32(SLOT.RIP) + (this.#word32(WORD.CODE_BASE) >>> 0);
    this.#low = low | 0;
    this.#high = (this.#state.slotHigh(SLOT.RIP) + this.#word32(WORD.CODE_BASE + 4) + Number(low >= 2 ** 32)) | 0;
  }
  #linear(): bigint {
    return (isCode64(this.#state) ? BigInt(this.#high >>> 0) << 32n : 0n) | BigInt(this.#low >>> 0);
  }
  /** Buffer offset of the code at RIP. The TLB is consulted only if this is not the page that the last instruction came from. */
  #fetch(): number {
    const page = this.#low & -PAGE_BYTES;
    if (this.#word32(WORD.FETCH_PAGE) === page && this.#word32(WORD.FETCH_PAGE + 4) === this.#high) {
      return (this.#low + this.#word32(WORD.FETCH_ADDEND)) >>> 0;
    }
    this.#forgetFetchPage();
    const place = this.#host.fetch(this.#linear());
    if (place >= 0) {
      this.#setWord32(WORD.FETCH_PAGE, page);
      this.#setWord32(WORD.FETCH_PAGE + 4, this.#high);
      this.#setWord32(WORD.FETCH_ADDEND, (place - this.#low) | 0);
    }
    return place;
  }

  #stillGood(block: Block): boolean {
    if (block.checked !== this.#memoryEpoch) {
      if (!this.#cache.intact(block)) {
        this.#cache.withdraw(block);
        return false;
      }
      block.checked = this.#memoryEpoch;
    }
    if (block.second >= 0 && this.#maker.fetchNextPage(this.#linear()) !== block.second) {
      this.#cache.withdraw(block);
      return false;
    }
    return true;
  }

  /** Puts a block into the jump cache. */
  #remember(block: Block, found: { translation: Translation; entry: number } | null): void {
    this.#jumpCache.put(this.#low, this.#high, {
      context: this.#word32(WORD.CONTEXT),
      place: block.place,
      record: block.record,
      func: found ? found.translation.slot : INTERPRETER,
      argument: found ? found.entry : 0,
      heat: found ? 0 : Math.max(block.heat, 0),
    });
  }
  /** No entry of the jump cache is valid any more. */
  #nextEpoch(): void {
    this.#epoch = (this.#epoch + 1) % EPOCHS;
    if (this.#epoch === 0) this.#jumpCache.clear();
    this.#refresh();
  }

  /** How much is kept of decoded and translated code: counts, but for `records` and `modules`, which are bytes. */
  get sizes(): EngineSizes {
    const { blocks, codePages, records } = this.#cache;
    const { regions = 0, bytes = 0, compiled = 0 } = this.translator ?? {};
    return { blocks, codePages, records, shapes: this.#maker.shapes, regions, modules: bytes, compiled, slots: this.#functions.length };
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
