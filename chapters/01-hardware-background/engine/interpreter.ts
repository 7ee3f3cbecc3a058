// # The interpreter
//
// A loop around a jump table, as in any interpreter; only that it is put together at run time, out of the table of micro-operations, as one
// WebAssembly function. It lives in the same linear memory as the guest's RAM, the register file and the TLB, so a guest load is a few instructions:
// look up the TLB entry, compare the tag, add, load.
//
// Decoded code is a row of records of {{RECORD_BYTES}} bytes: the number of the micro-operation, up to three operands, an immediate.

import { VECTOR } from '../faults.ts';
import { ORDINARY } from '../mmu/ordinary-walk.ts';
import { assert } from '../physical-memory.ts';
import { MODE, OFFSET, SLOT, WATCH } from '../state.ts';
import {
  divide,
  loadSigned,
  loadUnsigned,
  type Memory,
  memoryFunctions,
  missFunction,
  multiplyHigh,
  storeBytes,
  storeMissFunction,
  TLB_ENTRY,
  tlbEntry,
  type Width,
} from './interpreter-functions.ts';
import { enterTranslation, findCode, JUMP_ENTRY, LEFT, type Places, TAIL_CALLS } from './jump-cache.ts';
import { arrive, DELIVERY } from './micro-ops/system.ts';
import { begin } from './micro-ops/transfers.ts';
import { type Emitter, type Helpers, LIBRARY, MICRO_OPS, microOp, type Operand, OUTLINED, STATUS, type StateAccess, WORD } from './micro-ops.ts';
import {
  block,
  br,
  brIf,
  brTable,
  type Code,
  call,
  either,
  type Func,
  type FunctionBody,
  get,
  i32,
  i64,
  Label,
  type Local,
  loop,
  ret,
  returnCall,
  set,
  tee,
  unreachable,
  type ValueType,
  WasmModule,
  when,
} from './wasm-assembler.ts';
import { v128 } from './wasm-vectors.ts';

export { TRANSLATED } from './interpreter-functions.ts';

/** A micro-operation record: u16 number, then the operands d, a, b (u16 each), then the immediate (64 bits). */
export const RECORD_BYTES = 16;
const RECORD = { OP: 0, D: 2, A: 4, B: 6, IMM: 8, IMM_HIGH: 12 } as const;

/** Functions that the engine provides to the interpreter. */
export interface InterpreterImports extends WebAssembly.ModuleImports {
  readonly memory: WebAssembly.Memory;
  /** The functions that run code, the interpreter first. */
  readonly code: WebAssembly.Table;
  translate(linear: bigint, bytes: number, access: number, stack: number): number;
  readSlow(linear: bigint, bytes: number, access: number): bigint;
  writeSlow(linear: bigint, bytes: number, value: bigint): number;
  checkSegment(segment: number, offset: bigint, bytes: number, access: number): number;
  system(index: number): number;
  portRead(port: number, bytes: number): number;
  portWrite(port: number, bytes: number, value: number): void;
  /** At the device that a walk has found. Both return 0, and `deviceWrite` 1, when something has been parked. */
  deviceRead(bytes: number): number;
  deviceWrite(bytes: number, value: number): number;
  /** The same for translated code: 1, or 0 when the interpreter is to complete the instruction. */
  readInRegion(bytes: number, count: number): number;
  writeInRegion(bytes: number, value: number, count: number): number;
  /** For translated code, after a walk that has declined: a buffer offset, or 0. */
  missInRegion(linear: bigint, info: number, count: number): number;
}

// ## Operands in memory
//
// Two words change with every instruction: NEXT_RIP and ICOUNT. To load what was stored a moment ago costs a processor several cycles, and the next
// instruction would wait for it. So both are kept in local variables as well; memory is written each time, because others look there, but read only
// where others may have written: at the start, and from block to block.

/** The register file, seen from a function of the interpreter's module. */
class ModuleState implements StateAccess {
  readonly places: Places;
  readonly body: FunctionBody;
  readonly #library: ReadonlyMap<string, Func>;

  constructor(places: Places, body: FunctionBody, library: ReadonlyMap<string, Func>) {
    this.places = places;
    this.body = body;
    this.#library = library;
  }
  state(offset: number): Code {
    return i32.const(this.places.state + offset);
  }
  field(offset: number): Code {
    return i64.load(i32.const(0), this.places.state + offset);
  }
  field32(offset: number): Code {
    return i32.load(i32.const(0), this.places.state + offset);
  }
  fieldVector(offset: number): Code {
    return v128.load(i32.const(0), this.places.state + offset);
  }
  setField(offset: number, value: Code): Code {
    return i64.store(i32.const(0), value, this.places.state + offset);
  }
  setField32(offset: number, value: Code): Code {
    return i32.store(i32.const(0), value, this.places.state + offset);
  }
  setFieldVector(offset: number, value: Code): Code {
    return v128.store(i32.const(0), value, this.places.state + offset);
  }
  local(type: ValueType): Local {
    return this.body.local(type);
  }
  call(name: string, ...args: Code[]): Code {
    const func = this.#library.get(name);
    if (!func) throw new RangeError(`there is no library function ${name} yet`);
    return call(func, ...args);
  }
}

/** What is common to all functions that execute records. */
interface Surroundings {
  readonly places: Places;
  readonly memory: Memory;
  readonly helpers: Helpers;
  readonly library: ReadonlyMap<string, Func>;
}

class InterpretedOperands extends ModuleState implements Emitter {
  readonly helpers: Helpers;
  readonly foresight = null;
  readonly next: Label = new Label();
  readonly found: Label = new Label();
  readonly aborted: Label = new Label();
  readonly #memory: Memory;
  readonly #pc: Local;
  readonly #outlined: boolean;
  readonly #nextRip: Local | null;
  readonly #count: Local | null;
  readonly #pool: Record<ValueType, Local[]> = { i32: [], i64: [], f32: [], f64: [], v128: [] };
  readonly #used: Record<ValueType, number> = { i32: 0, i64: 0, f32: 0, f64: 0, v128: 0 };

  /** @param outlined for a function of one micro-operation, which returns 0 to go on and otherwise {@link LEFT} plus one. */
  constructor({ places, memory, helpers, library }: Surroundings, body: FunctionBody, pc: Local, outlined: boolean) {
    super(places, body, library);
    this.#pc = pc;
    this.#memory = memory;
    this.helpers = helpers;
    this.#outlined = outlined;
    this.#nextRip = outlined ? null : body.local('i64');
    this.#count = outlined ? null : body.local('i64');
  }

  /** Reads the two words anew. */
  reload(): Code {
    if (!this.#nextRip || !this.#count) return [];
    return [set(this.#nextRip, super.field(8 * SLOT.NEXT_RIP)), set(this.#count, super.field(OFFSET.ICOUNT))];
  }
  /** The local copy of a 64-bit word, if there is one. */
  #copyOf(offset: number): Local | null {
    if (offset === OFFSET.ICOUNT) return this.#count;
    return offset === 8 * SLOT.NEXT_RIP ? this.#nextRip : null;
  }

  /** Micro-operations share their locals: none lives longer than one of them. */
  begin(): void {
    for (const type of Object.keys(this.#used) as ValueType[]) this.#used[type] = 0;
  }
  override local(type: ValueType): Local {
    const at = this.#used[type]++;
    const pool = this.#pool[type];
    if (at === pool.length) pool.push(this.body.local(type));
    return pool[at] as Local;
  }

  #place(operand: Operand): Code {
    return i32.load16_u(get(this.#pc), { d: RECORD.D, a: RECORD.A, b: RECORD.B }[operand]);
  }
  get(operand: Operand, bytes = 8): Code {
    return loadSigned[bytes as Width](this.#place(operand), this.places.state);
  }
  getUnsigned(operand: Operand, bytes = 8): Code {
    return loadUnsigned[bytes as Width](this.#place(operand), this.places.state);
  }
  set(operand: Operand, bytes: number, value: Code): Code {
    return this.#write(this.#place(operand), this.places.state, bytes, value);
  }
  #write(base: Code, offset: number, bytes: number, value: Code): Code {
    if (bytes === 4) return i64.store(base, i64.extend_i32_u(i32.wrap_i64(value)), offset);
    return storeBytes[bytes as Width](base, value, offset);
  }
  part32(operand: Operand, at: number): Code {
    return i32.load(this.#place(operand), this.places.state + at);
  }

  address(operand: Operand): Code {
    return i32.add(this.#place(operand), i32.const(this.places.state));
  }
  getVector(operand: Operand): Code {
    return v128.load(this.#place(operand), this.places.state);
  }
  setVector(operand: Operand, value: Code): Code {
    return v128.store(this.#place(operand), value, this.places.state);
  }

  override field(offset: number): Code {
    const copy = this.#copyOf(offset);
    return copy ? get(copy) : super.field(offset);
  }
  override setField(offset: number, value: Code): Code {
    const copy = this.#copyOf(offset);
    return super.setField(offset, copy ? tee(copy, value) : value);
  }
  slotUnsigned(slot: number, bytes: number): Code {
    if (bytes === 8) return this.field(8 * slot);
    return loadUnsigned[bytes as Width](i32.const(0), this.places.state + 8 * slot);
  }
  slotSigned(slot: number, bytes: number): Code {
    return loadSigned[bytes as Width](i32.const(0), this.places.state + 8 * slot);
  }
  setSlot(slot: number, bytes: number, value: Code): Code {
    if (bytes === 8) return this.setField(8 * slot, value);
    return this.#write(i32.const(0), this.places.state + 8 * slot, bytes, value);
  }
  word(at: number): Code {
    return i64.load(i32.const(0), this.places.words + at);
  }
  word32(at: number): Code {
    return i32.load(i32.const(0), this.places.words + at);
  }
  setWord(at: number, value: Code): Code {
    return i64.store(i32.const(0), value, this.places.words + at);
  }
  setWord32(at: number, value: Code): Code {
    return i32.store(i32.const(0), value, this.places.words + at);
  }

  get imm(): Code {
    return i64.load(get(this.#pc), RECORD.IMM);
  }
  get immLow(): Code {
    return i64.load32_s(get(this.#pc), RECORD.IMM);
  }
  get immHigh32(): Code {
    return i32.load(get(this.#pc), RECORD.IMM_HIGH);
  }

  #tlbEntry(linear: Local): Code {
    return tlbEntry(this.field32(OFFSET.TLB), get(linear));
  }
  /** True when the entry maps all bytes of the access: the page of its last byte is the entry's, and so is (by the index) that of its first. */
  #hit(linear: Local, entry: Local, bytes: number, tag: number): Code {
    const last = bytes === 1 ? get(linear) : i64.add(get(linear), i64.const(BigInt(bytes - 1)));
    return i64.eq(i64.and(last, i64.const(-4096n)), i64.load(get(entry), tag));
  }
  #mapped(linear: Local, entry: Local): Code {
    return i32.add(i32.wrap_i64(get(linear)), i32.load(get(entry), TLB_ENTRY.ADDEND));
  }

  load(bytes: number, linearCode: Code, stack: Code, access = 0): Code {
    const linear = this.local('i64');
    const entry = this.local('i32');
    const value = this.local('i64');
    return [
      set(linear, linearCode),
      set(entry, this.#tlbEntry(linear)),
      either(
        this.#hit(linear, entry, bytes, access === 0 ? TLB_ENTRY.READ : TLB_ENTRY.WRITE),
        loadUnsigned[bytes as Width](this.#mapped(linear, entry)),
        [
          set(value, call(this.#memory.loadMiss, get(linear), i32.const(bytes), i32.const(access), stack)),
          when(this.word32(WORD.STATUS), this.abort),
          get(value),
        ],
        'i64',
      ),
    ];
  }
  store(bytes: number, linearCode: Code, value: Code, stack: Code): Code {
    const linear = this.local('i64');
    const entry = this.local('i32');
    return [
      set(linear, linearCode),
      set(entry, this.#tlbEntry(linear)),
      either(
        this.#hit(linear, entry, bytes, TLB_ENTRY.WRITE),
        storeBytes[bytes as Width](this.#mapped(linear, entry), value),
        when(call(this.#memory.storeMiss, get(linear), i32.const(bytes), value, stack), this.abort),
      ),
    ];
  }
  loadVector(linearCode: Code, stack: Code): Code {
    const linear = this.local('i64');
    const entry = this.local('i32');
    const value = this.local('v128');
    return [
      set(linear, linearCode),
      set(entry, this.#tlbEntry(linear)),
      either(
        this.#hit(linear, entry, 16, TLB_ENTRY.READ),
        v128.load(this.#mapped(linear, entry)),
        [set(value, call(this.#memory.loadVectorMiss, get(linear), stack)), when(this.word32(WORD.STATUS), this.abort), get(value)],
        'v128',
      ),
    ];
  }
  storeVector(linearCode: Code, value: Code, stack: Code): Code {
    const linear = this.local('i64');
    const entry = this.local('i32');
    return [
      set(linear, linearCode),
      set(entry, this.#tlbEntry(linear)),
      either(
        this.#hit(linear, entry, 16, TLB_ENTRY.WRITE),
        v128.store(this.#mapped(linear, entry), value),
        when(call(this.#memory.storeVectorMiss, get(linear), value, stack), this.abort),
      ),
    ];
  }
  probe(linearCode: Code, access: number): Code {
    const linear = this.local('i64');
    const entry = this.local('i32');
    return [
      set(linear, linearCode),
      set(entry, this.#tlbEntry(linear)),
      either(this.#hit(linear, entry, 1, access === 0 ? TLB_ENTRY.READ : TLB_ENTRY.WRITE), this.#mapped(linear, entry), i32.const(0), 'i32'),
    ];
  }

  executable(linearCode: Code): Code {
    const linear = this.local('i64');
    const entry = this.local('i32');
    return [
      set(linear, linearCode),
      set(entry, this.#tlbEntry(linear)),
      either(this.#hit(linear, entry, 1, TLB_ENTRY.EXEC), this.#mapped(linear, entry), i32.const(0), 'i32'),
    ];
  }

  fault(vector: number, errorCode = -1): Code {
    return [this.setWord32(WORD.VECTOR, i32.const(vector)), this.setWord32(WORD.ERROR_CODE, i32.const(errorCode)), this.#return(LEFT.FAULT)];
  }
  skip(records: Code): Code {
    return [this.advance(i32.mul(i32.add(records, i32.const(1)), i32.const(RECORD_BYTES))), br(this.next)];
  }
  advance(bytes: Code): Code {
    return set(this.#pc, i32.add(get(this.#pc), bytes));
  }
  get dispatch(): Code {
    return br(this.found);
  }
  get leave(): Code {
    return this.#return(LEFT.BOUNDARY);
  }
  get abort(): Code {
    return this.#outlined ? this.#return(LEFT.ABORT) : br(this.aborted);
  }
  get giveUp(): Code {
    return ret(i32.const(LEFT.ABORT));
  }
  #return(left: number): Code {
    return ret(i32.const(this.#outlined ? left + 1 : left));
  }
}

// ## Going on
//
// Whoever is interpreted grows hotter, and at some point leaves: the engine is to look whether the code is worth a translation.

function dispatch(e: InterpretedOperands, pc: Local, places: Places, type: number): Code {
  const heat = e.local('i32');
  return [
    // STOP and EVENTS are neighbours; one comparison sees both.
    when(i32.eqz(i64.eqz(e.field(OFFSET.STOP))), e.leave),
    e.reload(),
    findCode(e, places, e.leave, (entry) => [
      enterTranslation(e, places, type, entry),
      i32.store(
        get(entry),
        tee(heat, i32.sub(i32.load(get(entry), places.jumpCache + JUMP_ENTRY.HEAT), i32.const(1))),
        places.jumpCache + JUMP_ENTRY.HEAT,
      ),
      when(i32.eqz(get(heat)), e.leave),
      set(pc, i32.load(get(entry), places.jumpCache + JUMP_ENTRY.RECORD)),
    ]),
    br(e.next),
  ];
}

// ## On to the next instruction
//
// Every instruction begins with the same micro-operation, so to go round the loop for it is half of all the rounds. What is often the last of an instruction
// begins the next one itself, if that begins in the ordinary way: if its record has become `stale`, or a page has to be consulted first, the loop sees to it.

const COMMON = new RegExp(
  String.raw`^(((mov|add|adc|sub|and|or|xor|cmp|test|imul)\.[148](\.i)?)|((inc|dec|neg|not)\.[148])|((load|store|modify)\.[1248]\.[48])|` +
    String.raw`(mov[sz]x\..+)|((push|pop)\.[48])|(lea\.[48]\..+)|((shl|shr|sar|rol|ror)\.[48](\.i)?))$`,
);

function beginNext(e: InterpretedOperands, pc: Local): Code {
  const wide = microOp('insn.8');
  assert(microOp('insn.4') === wide + 1, 'the two ordinary ways to begin an instruction are neighbours');
  const which = e.local('i32');
  // NEXT_RIP has 64 bits after the first of them, and 32 after the other.
  const mask = (rip: Code): Code => i64.and(rip, i64.shr_u(i64.const(-1n), i64.extend_i32_u(i32.shl(get(which), i32.const(5)))));
  return when(i32.lt_u(tee(which, i32.sub(i32.load16_u(get(pc), RECORD.OP), i32.const(wide))), i32.const(2)), [
    begin(e, mask),
    e.advance(i32.const(RECORD_BYTES)),
  ]);
}

// ## Page faults
//
// Programs fault by the million. If the handler can be reached in the ordinary way, there is no need to leave.

/** Delivers the page fault that a walk has found, if that is why an instruction was abandoned, and falls through. Leaves if there is more to it. */
function deliverPageFault(e: InterpretedOperands): Code {
  const walker = e.local('i32');
  const watched = i32.and(e.field32(OFFSET.WATCH), i32.const(WATCH.TRACE | WATCH.PAGE_FAULTS));
  const code = i32.load(get(walker), ORDINARY.FAULT_CODE);
  return [
    when(i32.ne(e.word32(WORD.STATUS), i32.const(STATUS.PAGE_FAULT)), e.giveUp),
    when(watched, e.giveUp),
    set(walker, e.field32(OFFSET.WALKER)),
    when(i32.eqz(e.call('deliver', i32.const(VECTOR.PF), i32.const(DELIVERY.RESUME), code, e.slotUnsigned(SLOT.RIP, 8))), e.giveUp),
    e.setWord32(WORD.STATUS, i32.const(STATUS.NONE)),
    e.setField(OFFSET.CR2, i64.load(get(walker), ORDINARY.FAULT_LINEAR)),
    arrive(e),
  ];
}

/** Puts the interpreter together. Its export `run(record offset)` executes decoded code from there and returns one of {@link LEFT}. */
function interpreterModule(pages: number, shared: boolean, places: Places): Uint8Array<ArrayBuffer> {
  const module = new WasmModule(pages, shared);
  const imports = {
    translate: module.import('translate', ['i64', 'i32', 'i32', 'i32'], ['i32']),
    readSlow: module.import('readSlow', ['i64', 'i32', 'i32'], ['i64']),
    writeSlow: module.import('writeSlow', ['i64', 'i32', 'i64'], ['i32']),
    deviceRead: module.import('deviceRead', ['i32'], ['i32']),
    deviceWrite: module.import('deviceWrite', ['i32', 'i32'], ['i32']),
  };
  const missInRegion = module.import('missInRegion', ['i64', 'i32', 'f64'], ['i32']);
  const readInRegion = module.import('readInRegion', ['i32', 'f64'], ['i32']);
  const writeInRegion = module.import('writeInRegion', ['i32', 'i32', 'f64'], ['i32']);
  const checkSegment = module.import('checkSegment', ['i32', 'i64', 'i32', 'i32'], ['i32']);
  const system = module.import('system', ['i32'], ['i32']);
  const portRead = module.import('portRead', ['i32', 'i32'], ['i32']);
  const portWrite = module.import('portWrite', ['i32', 'i32', 'i32'], []);
  module.importTable();
  const type = module.type(['i32'], ['i32']);
  const helpers: Helpers = { checkSegment, system, portRead, portWrite, multiplyHigh: multiplyHigh(module), divide: divide(module) };
  module.export('multiplyHigh', helpers.multiplyHigh);
  module.export('divide', helpers.divide);
  const library = new Map<string, Func>();
  for (const [name, { params, results, build }] of LIBRARY) {
    const func = module.function(params, results, (body, ...locals) => build(new ModuleState(places, body, library), ...locals));
    library.set(name, func);
    module.export(name, func);
  }
  const walk = library.get('walk') as Func;
  const surroundings: Surroundings = { places, memory: memoryFunctions(module, imports, walk, places.words + WORD.STATUS), helpers, library };
  const region = { ask: missInRegion, read: readInRegion, write: writeInRegion, datum: places.words + WORD.DATUM };
  module.export('miss', missFunction(module, walk, region));
  module.export('storeMiss', storeMissFunction(module, walk, region));
  const outlined = new Map(
    [...OUTLINED].map((name) => {
      const meaning = MICRO_OPS.get(name) as (e: Emitter) => Code;
      const func = module.function(['i32'], ['i32'], (body, pc) => [
        meaning(new InterpretedOperands(surroundings, body, pc as Local, true)),
        i32.const(0),
      ]);
      return [name, func] as const;
    }),
  );
  const run = module.function(['i32'], ['i32'], (body, pcParam) => {
    const pc = pcParam as Local;
    const e = new InterpretedOperands(surroundings, body, pc, false);
    const status = body.local('i32');
    const labels = [...MICRO_OPS.keys()].map(() => new Label());
    const { aborted } = e;
    let code: Code = [brTable(i32.load16_u(get(pc), RECORD.OP), labels, labels[0] as Label)];
    [...MICRO_OPS].forEach(([name, meaning], index) => {
      e.begin();
      const func = outlined.get(name);
      const left = i32.sub(get(status), i32.const(1));
      const outside = (): Code => when(tee(status, call(func as Func, get(pc))), [brIf(aborted, i32.eq(left, i32.const(LEFT.ABORT))), ret(left)]);
      const does = func ? outside() : meaning(e);
      const next = e.advance(i32.const(RECORD_BYTES));
      code = [block(labels[index] as Label, code), does, next, COMMON.test(name) ? beginNext(e, pc) : [], br(e.next)];
    });
    e.begin();
    return [e.reload(), loop(e.next, [block(e.found, [block(aborted, code), deliverPageFault(e)]), dispatch(e, pc, places, type)]), unreachable];
  });
  module.export('run', run);
  // Where translated code comes when it does not know how to go on. `interpret`: not to a translation, and in particular not back to its own.
  const interpretAt = (record: Code): Code =>
    TAIL_CALLS
      ? returnCall(run, record)
      : [
          i32.store(i32.const(0), i32.const(0), places.words + WORD.FUNC),
          i32.store(i32.const(0), record, places.words + WORD.ARGUMENT),
          ret(i32.const(LEFT.GO)),
        ];
  for (const [name, left] of [
    ['go', LEFT.BOUNDARY],
    ['interpret', LEFT.INTERPRET],
  ] as const) {
    const func = module.function([], ['i32'], (body) =>
      findCode(new ModuleState(places, body, library), places, ret(i32.const(left)), (entry) => [
        name === 'go' ? enterTranslation(new ModuleState(places, body, library), places, type, entry) : [],
        interpretAt(i32.load(get(entry), places.jumpCache + JUMP_ENTRY.RECORD)),
      ]),
    );
    module.export(name, func);
  }
  return module.encode();
}

// Machines of the same shape have their words at the same places, so they can share one compiled module -- and with it the better code that the
// WebAssembly engine makes after a while. A few are kept.

const MODULES_KEPT = 8;
const modules = new Map<string, WebAssembly.Module>();

/** The compiled interpreter for a memory of `pages` pages with things at `places`. */
export function compileInterpreter(pages: number, shared: boolean, places: Places): WebAssembly.Module {
  const key = JSON.stringify([pages, shared, places]);
  let module = modules.get(key);
  if (!module) {
    module = new WebAssembly.Module(interpreterModule(pages, shared, places));
    if (modules.size === MODULES_KEPT) modules.delete(modules.keys().next().value as string);
    modules.set(key, module);
  }
  return module;
}

/** Below the epoch in WORD.CONTEXT lie MODE and the number of the page where the TLB bank begins. */
export const CONTEXT_MODE_BITS = 8;
export const CONTEXT_EPOCH_AT = 20;
const highestModeBit = Math.max(...Object.values(MODE));
if (highestModeBit >= 1 << CONTEXT_MODE_BITS) throw new RangeError('MODE has outgrown its place in the context');
