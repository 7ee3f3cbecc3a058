// # From block to block
//
// Straight-line code ends in `dispatch`. Where execution goes next is usually known from last time: a small cache, indexed by the linear address
// of the target, holds the place of its decoded code, and that of its translation if it has one. A hit stays inside WebAssembly.
//
// The cache must not make a difference to the guest. What the guest can notice is when the processor walks the page tables: that sets accessed bits,
// and the trace shows it. So the rule is independent of caches: the instruction TLB is consulted when control passes to *another page* than that of the
// instruction before, and after a flush, and at no other time. The page where instructions come from, and where it is in memory, are two words; an entry
// of the cache is good only if it was made for that very place. Mappings may then change as they like without anything being searched for or removed.
//
// A linear address has two places where its entry may be, side by side: two pieces of hot code whose addresses fall together would otherwise drive each other out,
// time and again.

import { WALKED } from '../mmu/ordinary-walk.ts';
import type { PhysicalMemory } from '../physical-memory.ts';
import { MODE, OFFSET, SLOT } from '../state.ts';
import { TLB_ENTRY, tlbEntry } from './interpreter-functions.ts';
import { type StateAccess, WORD } from './micro-ops.ts';
import { type Code, get, i32, i64, type Local, ret, returnCallIndirect, set, WasmModule, when } from './wasm-assembler.ts';

/**
 * A jump-cache entry: linear address of the next instruction, context, buffer offset of its first byte; the first record of its decoded code; the slot of the
 * function that is its translation (0: there is none) and that function's argument; how many more times it may be interpreted before it is called hot.
 */
// biome-ignore format: table
export const JUMP_ENTRY = { LINEAR: 0, CONTEXT: 8, PLACE: 12, RECORD: 16, FUNC: 20, ARGUMENT: 24, HEAT: 28, BYTES: 32, COUNT: 131072 } as const;

// Functions begin at multiples of 16, so the lower bits of an address say little, and those above alike: a product with a number without a pattern (2^32 divided by
// the golden ratio) lets all of them count.
const SPREAD = 0x9e3779b1;
const INDEX_BITS = Math.log2(JUMP_ENTRY.COUNT);

/** Translated code is entered only when it may run this many instructions: the end of a slice is interpreted, and stops where it must. */
export const MARGIN = 1024;

/** Result of the functions that run code. */
export const LEFT = {
  /** Something at a boundary: a deadline, an event, code that is not decoded yet. NEXT_RIP says where to go on. */
  BOUNDARY: 0,
  /** TypeScript has parked a Fault or VmExit. */
  ABORT: 1,
  /** A micro-operation has raised the fault in WORD.VECTOR and WORD.ERROR_CODE. */
  FAULT: 2,
  /** The instruction at RIP is to be interpreted: translated code cannot go on with it. */
  INTERPRET: 3,
  /** WORD.FUNC and WORD.ARGUMENT say what to call next: only where WebAssembly has no tail calls. */
  GO: 4,
} as const;

/** Where things are in memory. */
export interface Places {
  readonly state: number;
  readonly words: number;
  readonly jumpCache: number;
}

/** Finds the code at NEXT_RIP. `found` is what to do with the place of its jump-cache entry; `leave`, when there is none. */
export function findCode(s: StateAccess, places: Places, leave: Code, found: (entry: Local) => Code): Code {
  const linear = s.local('i64');
  const page = s.local('i64');
  const entry = s.local('i32');
  const hash = i32.shr_u(i32.mul(i32.wrap_i64(get(linear)), i32.const(SPREAD | 0)), i32.const(32 - INDEX_BITS));
  const word = (at: number): Code => i64.load(i32.const(0), places.words + at);
  const word32 = (at: number): Code => i32.load(i32.const(0), places.words + at);
  const inEntry = (at: number): Code => i32.load(get(entry), places.jumpCache + at);
  const mode = s.field32(OFFSET.MODE);
  const isOther = i64.ne(i64.load(get(entry), places.jumpCache + JUMP_ENTRY.LINEAR), get(linear));
  return [
    set(linear, i64.add(s.field(8 * SLOT.NEXT_RIP), word(WORD.CODE_BASE))),
    set(page, i64.and(get(linear), i64.const(-4096n))),
    when(i64.ne(get(page), word(WORD.FETCH_PAGE)), [
      set(entry, tlbEntry(s.field32(OFFSET.TLB), get(linear))),
      when(i64.ne(i64.load(get(entry), TLB_ENTRY.EXEC), get(page)), [
        // A walk, if this instruction is to be executed in any case, and its address needs no more than a look.
        when(i64.ge_s(s.field(OFFSET.ICOUNT), word(WORD.LIMIT)), leave),
        when(i32.and(i32.eqz(i32.and(mode, i32.const(MODE.FLAT))), i32.ne(i32.and(mode, i32.const(MODE.CODE)), i32.const(MODE.CODE64))), leave),
        when(i32.le_u(s.call('walk', get(linear), i32.const(1), i32.const(FETCH)), i32.const(WALKED.DEVICE)), leave),
      ]),
      i64.store(i32.const(0), get(page), places.words + WORD.FETCH_PAGE),
      i32.store(i32.const(0), i32.load(get(entry), TLB_ENTRY.ADDEND), places.words + WORD.FETCH_ADDEND),
    ]),
    set(entry, i32.mul(hash, i32.const(JUMP_ENTRY.BYTES))),
    when(isOther, [set(entry, i32.xor(get(entry), i32.const(JUMP_ENTRY.BYTES))), when(isOther, leave)]),
    when(i32.ne(inEntry(JUMP_ENTRY.CONTEXT), word32(WORD.CONTEXT)), leave),
    when(i32.ne(inEntry(JUMP_ENTRY.PLACE), i32.add(i32.wrap_i64(get(linear)), word32(WORD.FETCH_ADDEND))), leave),
    found(entry),
  ];
}
const FETCH = 3;

// Control passes between functions by tail calls, which leave nothing on the stack. An engine that does not have them is told to return, and a loop
// in TypeScript makes the call.

/** Does this WebAssembly engine have tail calls? */
export const TAIL_CALLS: boolean = (() => {
  const probe = new WasmModule(1, false);
  const type = probe.type(['i32'], ['i32']);
  probe.importTable();
  probe.function(['i32'], ['i32'], (_body, n) => returnCallIndirect(type, get(n as Local), get(n as Local)));
  return WebAssembly.validate(probe.encode());
})();

/** Passes control to the translation that an entry of the jump cache names, if there is one and enough time left for it. */
export function enterTranslation(s: StateAccess, places: Places, type: number, entry: Local): Code {
  const inEntry = (at: number): Code => i32.load(get(entry), places.jumpCache + at);
  const setWord32 = (at: number, value: Code): Code => i32.store(i32.const(0), value, places.words + at);
  const time = i64.sub(i64.load(i32.const(0), places.words + WORD.LIMIT), s.field(OFFSET.ICOUNT));
  return when(
    inEntry(JUMP_ENTRY.FUNC),
    when(
      i64.ge_s(time, i64.const(BigInt(MARGIN))),
      TAIL_CALLS
        ? returnCallIndirect(type, inEntry(JUMP_ENTRY.FUNC), inEntry(JUMP_ENTRY.ARGUMENT))
        : [setWord32(WORD.FUNC, inEntry(JUMP_ENTRY.FUNC)), setWord32(WORD.ARGUMENT, inEntry(JUMP_ENTRY.ARGUMENT)), ret(i32.const(LEFT.GO))],
    ),
  );
}

/** Index of a linear address's first place in the jump cache, by its lower half; the same function as above, in TypeScript. */
function jumpIndex(low: number): number {
  return Math.imul(low, SPREAD) >>> (32 - INDEX_BITS);
}
/** What the two places of an entry differ in, as an index of words. */
const OTHER = JUMP_ENTRY.BYTES >> 2;

/** What an entry says of the code at a linear address. */
interface Known {
  readonly context: number;
  readonly place: number;
  readonly record: number;
  readonly func: number;
  readonly argument: number;
  readonly heat: number;
}

/** The jump cache, as TypeScript fills it. Linear addresses come in halves, as signed 32-bit numbers. */
export class JumpCache {
  /** Buffer offset. */
  readonly at: number;
  readonly #memory: PhysicalMemory;

  constructor(memory: PhysicalMemory) {
    this.#memory = memory;
    // Fresh memory is zero, and no context that an engine begins with is: what nobody touches, the host need not provide.
    this.at = memory.reserve(JUMP_ENTRY.BYTES * JUMP_ENTRY.COUNT);
  }
  clear(): void {
    this.#memory.u8.fill(0xff, this.at, this.at + JUMP_ENTRY.BYTES * JUMP_ENTRY.COUNT);
  }

  /** Index of the first word of an address's first place, by the lower half. */
  #first(low: number): number {
    return (this.at + jumpIndex(low) * JUMP_ENTRY.BYTES) >> 2;
  }
  /** Index of the first word of an address's entry. -1: it has none. */
  #find(low: number, high: number): number {
    const { i32 } = this.#memory;
    const first = this.#first(low);
    for (const entry of [first, first ^ OTHER]) if (i32[entry] === low && i32[entry + 1] === high) return entry;
    return -1;
  }
  /** The same, or where one can be made. What is in the way there goes to its other place, unless it is out of date. */
  #room(low: number, high: number, context: number): number {
    const known = this.#find(low, high);
    if (known >= 0) return known;
    const { i32 } = this.#memory;
    const first = this.#first(low);
    if (i32[first + (JUMP_ENTRY.CONTEXT >> 2)] === context) i32.copyWithin(first ^ OTHER, first, first + (JUMP_ENTRY.BYTES >> 2));
    return first;
  }

  /** Makes the entry of an address say this. */
  put(low: number, high: number, { context, place, record, func, argument, heat }: Known): void {
    const { i32 } = this.#memory;
    const entry = this.#room(low, high, context);
    i32[entry] = low;
    i32[entry + 1] = high;
    i32[entry + (JUMP_ENTRY.CONTEXT >> 2)] = context;
    i32[entry + (JUMP_ENTRY.PLACE >> 2)] = place;
    i32[entry + (JUMP_ENTRY.RECORD >> 2)] = record;
    i32[entry + (JUMP_ENTRY.FUNC >> 2)] = func;
    i32[entry + (JUMP_ENTRY.ARGUMENT >> 2)] = argument;
    i32[entry + (JUMP_ENTRY.HEAT >> 2)] = heat;
  }
  /** Has the code at an address used up its heat? False when the entry is about other records or another context. */
  isHot(low: number, high: number, record: number, context: number): boolean {
    const entry = this.#find(low, high);
    if (entry < 0) return false;
    const { i32 } = this.#memory;
    const isOurs = i32[entry + (JUMP_ENTRY.RECORD >> 2)] === (record | 0) && i32[entry + (JUMP_ENTRY.CONTEXT >> 2)] === context;
    return isOurs && i32[entry + (JUMP_ENTRY.HEAT >> 2)] === 0;
  }
  /** Forgets what leads from the lower half of an address to a slot. */
  forget(low: number, slot: number): void {
    const { i32 } = this.#memory;
    const first = this.#first(low);
    for (const entry of [first, first ^ OTHER]) if (i32[entry + (JUMP_ENTRY.FUNC >> 2)] === slot) i32.fill(-1, entry, entry + 2);
  }
}
