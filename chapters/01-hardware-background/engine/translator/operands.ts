// # Operands that are known
//
// The meanings of micro-operations are written in terms of operands. The interpreter's are memory cells whose addresses it reads from a record. Here is
// the other reading of the same words: the record is known, so an immediate is a constant, RIP is a constant, and a general register is a variable of the
// WebAssembly function, which the browser's or Node's own compiler keeps in a register of the real machine. What remains in memory is what is rarely used.

import type { Micro } from '../../isa/builder.ts';
import { MODE, OFFSET, SEG, SEGMENT_BYTES, SLOT } from '../../state.ts';
import { loadSigned, loadUnsigned, storeBytes, TLB_ENTRY, type Width } from '../interpreter-functions.ts';
import type { FlagRule, Foresight } from '../micro-ops/emitter.ts';
import type { LibraryFunction } from '../micro-ops/library.ts';
import { FLAG_RULES } from '../micro-ops/vocabulary.ts';
import { type Emitter, type Helpers, LIBRARY, type Operand } from '../micro-ops.ts';
import {
  block,
  br,
  type Code,
  call,
  constantOf,
  type Func,
  type FunctionBody,
  get,
  i32,
  i64,
  Label,
  type Local,
  set,
  type ValueType,
  when,
} from '../wasm-assembler.ts';
import { v128 } from '../wasm-vectors.ts';
import { DeviceWords } from './device-words.ts';
import {
  CC_CARRY,
  CC_OVERFLOW,
  CC_RESULT,
  conditionBy,
  isNarrow,
  kindOf,
  needsWidth,
  ROTATION,
  rotatedCarry,
  rotatedOverflow,
  rotationOf,
  ruleOf,
  unrotated,
  WORDS,
  widthOf,
  withCarry,
} from './flags.ts';
import { isDetached } from './library-use.ts';
import type { Step } from './region.ts';
import { unfinished, whereUnfinished } from './unfinished.ts';

/** A micro-operation cannot be translated: it does something that makes sense in the interpreter only. */
export class Untranslatable extends Error {
  override name = 'Untranslatable';
}

/** Where the region is and what it may import. */
interface RegionContext {
  readonly state: number;
  readonly words: number;
  readonly mode: number;
  /** RIP of the first byte of the page. */
  readonly rip: bigint;
  /** Buffer offset of the TLB bank in use. */
  readonly bank: number;
  readonly body: FunctionBody;
  /** Declares an imported function, once. */
  import(name: string, params: readonly ValueType[], results: readonly ValueType[]): Func;
}

/** The value of a store, and where to go when a device has taken it. */
type Given = { readonly value: Local; readonly done: Label };

const GPR_END = 8 * SLOT.RIP;
const TEMPORARIES = 8 * SLOT.T0;
const SLOTS_END = 512;
const CONTROL_END = 0x280;
const LIMIT_OF_CS = OFFSET.SEGMENTS + SEG.CS * SEGMENT_BYTES + 8;
const loadNarrow = { 1: i32.load8_u, 2: i32.load16_u, 4: i32.load } as const;
const storeNarrow = { 1: i32.store8, 2: i32.store16, 4: i32.store } as const;
const VALUE_TYPES: readonly ValueType[] = ['i32', 'i64', 'f32', 'f64', 'v128'];
const low = (bytes: number): bigint => (1n << BigInt(8 * bytes)) - 1n;
const cut = (bytes: number, x: Code): Code => (bytes === 8 ? x : bytes === 4 ? i64.extend_i32_u(i32.wrap_i64(x)) : i64.and(x, i64.const(low(bytes))));
const extend = (bytes: number, x: Code): Code =>
  bytes === 8 ? x : bytes === 4 ? i64.extend32_s(x) : bytes === 2 ? i64.extend16_s(x) : i64.extend8_s(x);

export class TranslatedOperands implements Emitter, Foresight {
  readonly foresight: Foresight = this;
  /** General registers are 32 bits wide: outside long mode, where their upper halves are zero. */
  readonly #narrow: boolean;
  readonly #context: RegionContext;
  readonly #body: FunctionBody;
  readonly #registers = new Map<number, Local>();
  readonly #written = new Set<number>();
  readonly #temporaries = new Map<number, Local>();
  readonly #fresh = new Set<number>();
  readonly #pool: Record<ValueType, Local[]> = { i32: [], i64: [], f32: [], f64: [], v128: [] };
  readonly #used: Record<ValueType, number> = { i32: 0, i64: 0, f32: 0, f64: 0, v128: 0 };
  readonly count: Local;
  readonly #rip: Local;
  readonly next: Local;
  readonly #how: Local;
  readonly exit = new Label();
  // Flags: operands and result; words; the same in 32 bits; kind.
  readonly #wide: readonly [Local, Local, Local];
  readonly #narrowed: readonly [Local, Local, Local];
  readonly #carry: Local;
  readonly #overflow: Local;
  readonly #kind: Local;
  readonly #turned: Local;
  /** The kind of flags here, or null when only the variable knows. */
  flags: number | null = null;
  #prefix: Code[] = [];
  #step: Step | null = null;
  #done = 0;
  readonly #devices = new DeviceWords();
  #micro: Micro | null = null;
  #inMemory = false;
  /** A condition computed by an instruction that transfers control at its end. */
  readonly taken: Local;

  constructor(context: RegionContext) {
    this.#context = context;
    this.#body = context.body;
    this.#narrow = (context.mode & MODE.LONG) === 0;
    const { body } = context;
    this.count = body.local('i64');
    this.#rip = body.local('i64');
    this.next = body.local('i64');
    this.#how = body.local('i32');
    this.taken = body.local('i32');
    this.#wide = [body.local('i64'), body.local('i64'), body.local('i64')];
    this.#narrowed = [body.local('i32'), body.local('i32'), body.local('i32')];
    this.#carry = body.local('i64');
    this.#overflow = body.local('i64');
    this.#kind = body.local('i32');
    this.#turned = body.local('i64');
  }

  // ## From instruction to instruction

  /** Begins an instruction; `done` of its block have been completed before it. `inMemory`: temporaries are where the interpreter has them. */
  begin(step: Step, done: number, inMemory: boolean): void {
    this.#step = step;
    this.#done = done;
    this.#inMemory = inMemory;
    this.#fresh.clear();
    this.#devices.begin();
  }
  /** The code of one micro-operation. */
  micro(micro: Micro, meaning: (e: Emitter) => Code): Code {
    for (const type of VALUE_TYPES) this.#used[type] = 0;
    this.#micro = micro;
    this.#prefix = [];
    const code = this.#devices.micro(() => meaning(this));
    return this.#prefix.length > 0 ? [...this.#prefix, code] : code;
  }
  /** Adds the instructions of a block to the time. */
  advance(instructions: number): Code {
    return set(this.count, i64.add(get(this.count), i64.const(BigInt(instructions))));
  }

  // ## Leaving
  //
  // There is one place where registers are stored. Whoever leaves says, in variables, where the guest is, and goes there.

  /** Leaves between instructions, for code elsewhere. RIP stays at the jump, because what is wrong with its target is the jump's fault. */
  leaveTo(rip: bigint, target: bigint | null): Code {
    return [
      this.settleKind(),
      set(this.#rip, i64.const(rip)),
      target === null ? [] : set(this.next, i64.const(target)),
      set(this.#how, i32.const(0)),
      br(this.exit),
    ];
  }
  /** Leaves before the present instruction, of which nothing has been done: the interpreter is to execute it. */
  get giveUp(): Code {
    const { offset } = this.#step as Step;
    this.#devices.wayOut();
    return [this.settleKind(), set(this.#how, i32.const(unfinished(offset, this.#done))), br(this.exit)];
  }
  /** Makes the variable say what is known about the flags. */
  settleKind(): Code {
    return this.flags === null ? [] : set(this.#kind, i32.const(this.flags));
  }

  /** Loads what the region uses, at its beginning. */
  prologue(): Code {
    const { state } = this.#context;
    const at = i32.const(0);
    return [
      [...this.#registers].map(([n, local]) => set(local, (this.#narrow ? i32.load : i64.load)(at, state + 8 * n))),
      set(this.count, i64.load(at, state + OFFSET.ICOUNT)),
      set(this.#wide[2], i64.load(at, state + CC_RESULT)),
      set(this.#carry, i64.load(at, state + CC_CARRY)),
      set(this.#overflow, i64.load(at, state + CC_OVERFLOW)),
    ];
  }
  /** Stores it, at its end. Leaves the way that was chosen on the stack. */
  epilogue(): Code {
    const { state } = this.#context;
    const at = i32.const(0);
    const how = get(this.#how);
    const { offset, done } = whereUnfinished(how);
    return [
      when(how, [
        set(this.#rip, i64.add(i64.const(BigInt.asIntN(64, this.#context.rip)), offset)),
        set(this.next, get(this.#rip)),
        set(this.count, i64.add(get(this.count), done)),
      ]),
      [...this.#written].map((n) => {
        const value = get(this.#registers.get(n) as Local);
        return i64.store(at, this.#narrow ? i64.extend_i32_u(value) : value, state + 8 * n);
      }),
      i64.store(at, get(this.count), state + OFFSET.ICOUNT),
      i64.store(at, get(this.#rip), state + 8 * SLOT.RIP),
      i64.store(at, get(this.next), state + 8 * SLOT.NEXT_RIP),
      this.#storeFlags(),
      how,
    ];
  }

  // ## Flags

  #storeFlags(): Code {
    return this.#call(
      'storeFlags',
      get(this.#kind),
      ...this.#wide.map(get),
      get(this.#carry),
      get(this.#overflow),
      ...this.#narrowed.map(get),
      get(this.#turned),
    );
  }
  #operands(kind: number): [Code, Code, Code] {
    return (isNarrow(kind) ? this.#narrowed.map((local) => i64.extend_i32_s(get(local))) : this.#wide.map(get)) as [Code, Code, Code];
  }
  /** The kind of flags here. Where only the variable knows, the words are computed first. */
  #kindNow(): number {
    if (this.flags === null) {
      this.#prefix.push(
        when(get(this.#kind), [
          this.#storeFlags(),
          set(this.#wide[2], this.#fromState(CC_RESULT)),
          set(this.#carry, this.#fromState(CC_CARRY)),
          set(this.#overflow, this.#fromState(CC_OVERFLOW)),
          set(this.#kind, i32.const(WORDS)),
        ]),
      );
      this.flags = WORDS;
    }
    return this.flags;
  }
  #flagWord(offset: number): Code {
    const kind = this.#kindNow();
    const rotation = rotationOf(kind);
    if (rotation === 0 || offset === CC_RESULT) return this.#wordBy(unrotated(kind), offset);
    const turned = get(this.#turned);
    return offset === CC_CARRY
      ? withCarry(this.#wordBy(unrotated(kind), CC_CARRY), rotatedCarry(rotation, turned))
      : rotatedOverflow(rotation, turned);
  }
  #wordBy(kind: number, offset: number): Code {
    if (kind === WORDS) return get(offset === CC_RESULT ? this.#wide[2] : offset === CC_CARRY ? this.#carry : this.#overflow);
    const [a, b, r] = this.#operands(kind);
    const { carry, overflow } = FLAG_RULES[ruleOf(kind)];
    if (offset === CC_RESULT) return r;
    return offset === CC_CARRY ? carry(a, b, r, widthOf(kind), get(this.#carry)) : overflow(a, b, r, widthOf(kind));
  }
  #setFlagWord(offset: number, value: Code): Code {
    const kind = this.#kindNow();
    if (kind !== WORDS) {
      const carry = this.#flagWord(CC_CARRY);
      const overflow = this.#flagWord(CC_OVERFLOW);
      const result = this.#flagWord(CC_RESULT);
      this.#prefix.push(set(this.#carry, carry), set(this.#overflow, overflow), set(this.#wide[2], result));
      this.flags = WORDS;
    }
    return set(offset === CC_RESULT ? this.#wide[2] : offset === CC_CARRY ? this.#carry : this.#overflow, value);
  }
  arithmetic(rule: FlagRule, bytes: number, a: Code, b: Code, result: Code): Code {
    if (needsWidth(rule) && bytes < 4) {
      const { carry, overflow } = FLAG_RULES[rule];
      return this.flagWords(result, carry(a, b, result, bytes, i64.const(0n)), overflow(a, b, result, bytes));
    }
    let before: Code = [];
    if (rule === 'inc' || rule === 'dec') {
      // The carry that stays is in its word already, if it is anywhere.
      const old = this.#kindNow();
      const kept = old === WORDS || (rotationOf(old) === 0 && (ruleOf(old) === 'inc' || ruleOf(old) === 'dec'));
      if (!kept) before = set(this.#carry, this.#flagWord(CC_CARRY));
    }
    this.flags = kindOf(rule, bytes);
    const [x, y, z] = isNarrow(this.flags) ? this.#narrowed : this.#wide;
    const sized = (code: Code): Code => (isNarrow(this.flags as number) ? i32.wrap_i64(code) : code);
    return rule === 'logic' ? set(z, sized(result)) : [before, set(x, sized(a)), set(y, sized(b)), set(z, sized(result))];
  }
  flagWords(result: Code, carry: Code, overflow: Code): Code {
    this.flags = WORDS;
    // All three are computed before any of the old ones is gone.
    return [result, carry, set(this.#overflow, overflow), set(this.#carry, []), set(this.#wide[2], [])];
  }
  rotation(left: boolean, bytes: number, result: Code): Code {
    this.flags = unrotated(this.#kindNow()) + (left ? ROTATION.LEFT : bytes === 8 ? ROTATION.RIGHT8 : ROTATION.RIGHT4);
    return set(this.#turned, result);
  }
  condition(name: string): Code | null {
    const kind = this.flags;
    if (kind === null || kind === WORDS || rotationOf(kind) !== 0) return null;
    return conditionBy(ruleOf(kind), name, ...this.#operands(kind));
  }

  // ## Registers and temporaries

  #register(n: number): Local {
    let local = this.#registers.get(n);
    if (!local) {
      local = this.#body.local(this.#narrow ? 'i32' : 'i64');
      this.#registers.set(n, local);
    }
    return local;
  }
  /** All of a register, as 64 bits. */
  #whole(n: number): Code {
    const value = get(this.#register(n));
    return this.#narrow ? i64.extend_i32_u(value) : value;
  }
  #setWhole(n: number, value: Code): Code {
    this.#written.add(n);
    return set(this.#register(n), this.#narrow ? i32.wrap_i64(value) : value);
  }
  #temporary(at: number): Local {
    let local = this.#temporaries.get(at);
    if (!local) {
      local = this.#body.local('i64');
      this.#temporaries.set(at, local);
    }
    return local;
  }
  #isTemporary(offset: number): boolean {
    return offset >= TEMPORARIES && offset < SLOTS_END && !this.#inMemory;
  }

  #read(offset: number, bytes: number, signed: boolean): Code {
    const shape = (x: Code): Code => (signed ? extend(bytes, x) : cut(bytes, x));
    const part = (x: Code): Code => (offset % 8 === 0 ? x : i64.shr_u(x, i64.const(BigInt(8 * (offset % 8)))));
    if (offset < GPR_END) return shape(part(this.#whole(offset >> 3)));
    if (offset >> 3 === SLOT.RIP) return shape(i64.const(BigInt.asIntN(64, (this.#step as Step).rip)));
    if (offset >> 3 === SLOT.NEXT_RIP) return shape(i64.const(BigInt.asIntN(64, (this.#step as Step).next)));
    if (offset === CC_RESULT || offset === CC_CARRY || offset === CC_OVERFLOW) return shape(this.#flagWord(offset));
    if (this.#isTemporary(offset)) return shape(part(get(this.#temporary(offset >> 3))));
    if (offset === OFFSET.ICOUNT) return i64.add(get(this.count), i64.const(BigInt(this.#done + 1)));
    return (signed ? loadSigned : loadUnsigned)[bytes as Width](i32.const(0), this.#context.state + offset);
  }
  #write(offset: number, bytes: number, value: Code): Code {
    const shift = BigInt(8 * (offset % 8));
    const merged = (old: Code): Code =>
      i64.or(
        i64.and(old, i64.const(BigInt.asIntN(64, ~(low(bytes) << shift)))),
        shift === 0n ? cut(bytes, value) : i64.shl(cut(bytes, value), i64.const(shift)),
      );
    if (offset < GPR_END) {
      const n = offset >> 3;
      return this.#setWhole(n, bytes === 8 ? value : bytes === 4 ? cut(4, value) : merged(this.#whole(n)));
    }
    if (offset === CC_RESULT || offset === CC_CARRY || offset === CC_OVERFLOW) return this.#setFlagWord(offset, value);
    if (offset < TEMPORARIES || (offset >= SLOTS_END && offset < CONTROL_END)) throw new Untranslatable(`a store at ${offset}`);
    if (this.#isTemporary(offset)) {
      const local = this.#temporary(offset >> 3);
      const isFresh = !this.#fresh.has(offset >> 3);
      this.#fresh.add(offset >> 3);
      // Nobody reads more of a temporary than has been written to it in the same instruction.
      return set(local, bytes === 8 ? value : bytes === 4 || (isFresh && shift === 0n) ? cut(bytes, value) : merged(get(local)));
    }
    if (bytes === 4) return i64.store(i32.const(0), cut(4, value), this.#context.state + offset);
    return storeBytes[bytes as Width](i32.const(0), value, this.#context.state + offset);
  }
  #offset(operand: Operand): number {
    return (this.#micro as Micro)[operand];
  }
  get(operand: Operand, bytes = 8): Code {
    return this.#read(this.#offset(operand), bytes, true);
  }
  getUnsigned(operand: Operand, bytes = 8): Code {
    return this.#read(this.#offset(operand), bytes, false);
  }
  set(operand: Operand, bytes: number, value: Code): Code {
    return this.#write(this.#offset(operand), bytes, value);
  }
  slotUnsigned(slot: number, bytes: number): Code {
    return this.#read(8 * slot, bytes, false);
  }
  slotSigned(slot: number, bytes: number): Code {
    return this.#read(8 * slot, bytes, true);
  }
  setSlot(slot: number, bytes: number, value: Code): Code {
    return this.#write(8 * slot, bytes, value);
  }

  // ## What stays in memory

  #addressable(offset: number): number {
    if (offset < SLOTS_END && !(offset >= TEMPORARIES && this.#inMemory)) throw new Untranslatable(`the address of register ${offset}`);
    return this.#context.state + offset;
  }
  #fromState(offset: number): Code {
    return i64.load(i32.const(0), this.#context.state + offset);
  }
  state(offset: number): Code {
    return i32.const(this.#addressable(offset));
  }
  address(operand: Operand): Code {
    return i32.const(this.#addressable(this.#offset(operand)));
  }
  getVector(operand: Operand): Code {
    return v128.load(i32.const(0), this.#addressable(this.#offset(operand)));
  }
  setVector(operand: Operand, value: Code): Code {
    return v128.store(i32.const(0), value, this.#addressable(this.#offset(operand)));
  }
  fieldVector(offset: number): Code {
    return v128.load(i32.const(0), this.#addressable(offset));
  }
  setFieldVector(offset: number, value: Code): Code {
    return v128.store(i32.const(0), value, this.#addressable(offset));
  }
  part32(operand: Operand, at: number): Code {
    return i32.load(i32.const(0), this.#addressable(this.#offset(operand)) + at);
  }
  field(offset: number): Code {
    return this.#read(offset, 8, false);
  }
  setField(offset: number, value: Code): Code {
    return this.#write(offset, 8, value);
  }
  field32(offset: number): Code {
    // A flat code segment ends where the address space does.
    if (offset === LIMIT_OF_CS && this.#context.mode & MODE.FLAT) return i32.const(-1);
    return i32.load(i32.const(0), this.#addressable(offset));
  }
  setField32(offset: number, value: Code): Code {
    // What the other control words say must be noticed at once.
    if (offset < CONTROL_END && offset !== OFFSET.RFLAGS) throw new Untranslatable(`a store into control word ${offset}`);
    return i32.store(i32.const(0), value, this.#addressable(offset));
  }
  word(at: number): Code {
    return i64.load(i32.const(0), this.#context.words + at);
  }
  word32(at: number): Code {
    return i32.load(i32.const(0), this.#context.words + at);
  }
  setWord(at: number, value: Code): Code {
    return i64.store(i32.const(0), value, this.#context.words + at);
  }
  setWord32(at: number, value: Code): Code {
    return i32.store(i32.const(0), value, this.#context.words + at);
  }

  // ## Constants and functions

  get imm(): Code {
    return i64.const(BigInt.asIntN(64, (this.#micro as Micro).imm));
  }
  get immLow(): Code {
    return i64.const(BigInt.asIntN(32, (this.#micro as Micro).imm));
  }
  get immHigh32(): Code {
    return i32.const(Number(BigInt.asIntN(32, (this.#micro as Micro).imm >> 32n)));
  }
  local(type: ValueType): Local {
    const at = this.#used[type]++;
    const pool = this.#pool[type];
    if (at === pool.length) pool.push(this.#body.local(type));
    return pool[at] as Local;
  }
  call(name: string, ...args: Code[]): Code {
    const known = LIBRARY.get(name);
    if (!known) throw new RangeError(`there is no library function ${name}`);
    if (!isDetached(name)) throw new Untranslatable(`a call of ${name}`);
    return this.#call(name, ...args);
  }
  #call(name: string, ...args: Code[]): Code {
    const known = LIBRARY.get(name) as LibraryFunction;
    return call(this.#context.import(name, known.params, known.results), ...args);
  }
  get helpers(): Helpers {
    const context = this.#context;
    return {
      get multiplyHigh() {
        return context.import('multiplyHigh', ['i64', 'i64'], ['i64']);
      },
      get divide() {
        return context.import('divide', ['i64', 'i64', 'i64'], ['i64']);
      },
      get checkSegment() {
        return context.import('allowsSegment', ['i32', 'i64', 'i32', 'i32'], ['i32']);
      },
      get system(): Func {
        throw new Untranslatable('a system instruction');
      },
      get portRead(): Func {
        throw new Untranslatable('a system instruction');
      },
      get portWrite(): Func {
        throw new Untranslatable('a system instruction');
      },
    };
  }

  // ## Guest memory
  //
  // The TLB bank is a constant, because code translated for one privilege level is not used by another. On a miss TypeScript is asked. It gives a buffer
  // offset, or nothing; then the instruction is left to the interpreter, from its beginning. That covers every difficult case at once: faults, most devices,
  // accesses across pages, and stores to pages that hold code, after which this very region may no longer be what memory says.

  /** Code that leaves the buffer offset of an access in a variable, and that variable. */
  #find(bytes: number, linearCode: Code, tag: number, access: number, stack: Code, given: Given | null = null): { code: Code; at: Local } {
    const { bank } = this.#context;
    const at = this.local('i32');
    const entry = this.local('i32');
    const linear = this.local(this.#narrow ? 'i32' : 'i64');
    const mask = i32.const((TLB_ENTRY.COUNT - 1) * TLB_ENTRY.BYTES);
    const shift = 12 - Math.log2(TLB_ENTRY.BYTES);
    const here = get(linear);
    const whole = this.#narrow ? i64.extend_i32_u(here) : here;
    const page = this.#narrow
      ? i64.extend_i32_u(i32.and(i32.add(here, i32.const(bytes - 1)), i32.const(-4096)))
      : i64.and(i64.add(here, i64.const(BigInt(bytes - 1))), i64.const(-4096n));
    const index = this.#narrow ? i32.shr_u(here, i32.const(shift)) : i32.wrap_i64(i64.shr_u(here, i64.const(BigInt(shift))));
    const info = bytes | (access << 8) | (Number((constantOf(stack) ?? 0n) !== 0n) << 16);
    const word = this.#devices.word(info, bytes, access);
    const now: Code = [i64.add(get(this.count), i64.const(BigInt(this.#done + 1))), 0xb9]; // as a JavaScript number
    return {
      at,
      code: [
        set(linear, this.#narrow ? i32.wrap_i64(linearCode) : linearCode),
        set(entry, i32.and(index, mask)),
        set(at, i32.add(this.#narrow ? here : i32.wrap_i64(here), i32.load(get(entry), bank + TLB_ENTRY.ADDEND))),
        when(i64.ne(page, i64.load(get(entry), bank + tag)), this.#miss(at, [whole, word, now], given)),
      ],
    };
  }
  #miss(at: Local, args: readonly Code[], given: Given | null): Code {
    if (!given) {
      const miss = this.#context.import('miss', ['i64', 'i32', 'f64'], ['i32']);
      return [set(at, call(miss, ...args)), when(i32.eqz(get(at)), this.giveUp)];
    }
    const miss = this.#context.import('storeMiss', ['i64', 'i32', 'f64', 'i32'], ['i32']);
    const notInRam = [when(i32.eqz(get(at)), this.giveUp), br(given.done)];
    return [set(at, call(miss, ...args, get(given.value))), when(i32.le_u(get(at), i32.const(1)), notInRam)];
  }

  load(bytes: number, linearCode: Code, stack: Code, access = 0): Code {
    const { code, at } = this.#find(bytes, linearCode, access === 0 ? TLB_ENTRY.READ : TLB_ENTRY.WRITE, access, stack);
    return bytes === 8 ? [code, i64.load(get(at))] : i64.extend_i32_u([code, loadNarrow[bytes as 1 | 2 | 4](get(at))]);
  }
  store(bytes: number, linearCode: Code, value: Code, stack: Code): Code {
    const given = bytes < 8 ? { value: this.local('i32'), done: new Label() } : null;
    const { code, at } = this.#find(bytes, linearCode, TLB_ENTRY.WRITE, 1, stack, given);
    if (!given) return [code, i64.store(get(at), value)];
    return [set(given.value, i32.wrap_i64(value)), block(given.done, [code, storeNarrow[bytes as 1 | 2 | 4](get(at), get(given.value))])];
  }
  loadVector(linearCode: Code, stack: Code): Code {
    const { code, at } = this.#find(16, linearCode, TLB_ENTRY.READ, 0, stack);
    return [code, v128.load(get(at))];
  }
  storeVector(linearCode: Code, value: Code, stack: Code): Code {
    const { code, at } = this.#find(16, linearCode, TLB_ENTRY.WRITE, 1, stack);
    return [code, v128.store(get(at), value)];
  }
  probe(): Code {
    throw new Untranslatable('a probe');
  }
  executable(): Code {
    throw new Untranslatable('a crossing');
  }

  fault(): Code {
    return this.giveUp;
  }
  get abort(): Code {
    return this.giveUp;
  }
  skip(): Code {
    throw new Untranslatable('a skip');
  }
  get dispatch(): Code {
    throw new Untranslatable('a dispatch');
  }
  get leave(): Code {
    throw new Untranslatable('a way out');
  }
}
