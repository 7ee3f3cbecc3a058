// # What micro-operations are written in terms of

import type { Code, Func } from '../wasm-assembler.ts';
import type { StateAccess } from './library.ts';

/** Which operand of the record: destination, first and second source. */
export type Operand = 'd' | 'a' | 'b';

/** The engine's own words, next to the register file. 64-bit words first. */
// biome-ignore format: table
export const WORD = {
  LIMIT: 0, // leave before executing an instruction when ICOUNT equals this
  CODE_BASE: 8, // added to NEXT_RIP to give a linear address: the base of CS, 0 in 64-bit code
  REP_BUDGET: 16, // iterations that the current REP instruction may still do before the next boundary
  CONTEXT: 24, // 32 bits: what must be equal for a jump-cache entry to be valid
  STATUS: 28, // 32 bits: one of STATUS
  VECTOR: 32, ERROR_CODE: 36, // 32 bits: a fault that a micro-operation raised; error code -1 when it has none
  ONE_ITERATION: 40, // 32 bits: REP instructions do a single iteration
  FETCH_ADDEND: 44, // 32 bits: what to add to a linear address in FETCH_PAGE to get a buffer offset
  FETCH_PAGE: 48, // the page from which instructions come (before it is cut to 32 bits), or all ones
  FUNC: 56, ARGUMENT: 60, // 32 bits: what to call next, where there are no tail calls
  DATUM: 64, // what translated code has read from a device
} as const;
export const WORD_BYTES = 128;

/** Nothing has happened; a call into TypeScript has parked a Fault or VmExit; a walk has found a page fault, which nobody knows yet. */
export const STATUS = { NONE: 0, PARKED: 1, PAGE_FAULT: 2 } as const;

/** Functions that micro-operations call because they are too long to write out at each place. */
export interface Helpers {
  /** (a, b) -> high half of the unsigned 128-bit product. */
  readonly multiplyHigh: Func;
  /** (high, low, divisor) -> quotient of an unsigned 128-bit dividend; high < divisor. */
  readonly divide: Func;
  /** (segment, offset, bytes, access) -> 0, or 1 when a fault has been parked. */
  readonly checkSegment: Func;
  /** (operation index) -> 0 to go on, 1 to leave. */
  readonly system: Func;
  /** (port, bytes) -> value, and (port, bytes, value): a port of which it is known that it may be accessed. */
  readonly portRead: Func;
  readonly portWrite: Func;
}

/** Operations whose flags follow from operands and result alone (INC and DEC: and from the carry that there was). */
export type FlagRule = 'add' | 'adc' | 'sub' | 'sbb' | 'logic' | 'inc' | 'dec' | 'shl' | 'shr' | 'sar';

/** What a translator can do that an interpreter cannot: it sees several instructions at once. */
export interface Foresight {
  /** Takes note of what the flags follow from. They are computed when somebody looks at them. Operands and result are sign-extended from `bytes`. */
  arithmetic(rule: FlagRule, bytes: number, a: Code, b: Code, result: Code): Code;
  /** Takes note of the three words of flags. All three change. */
  flagWords(result: Code, carry: Code, overflow: Code): Code;
  /** Takes note of a rotation within 4 or 8 bytes (to the left: of any width): CF and OF follow from the result, the other flags stay what they were. */
  rotation(left: boolean, bytes: number, result: Code): Code;
  /** A condition in terms of operands that are still at hand. */
  condition(name: string): Code | null;
}

/** What the meaning of a micro-operation is written in terms of. */
export interface Emitter extends StateAccess {
  readonly foresight: Foresight | null;
  /** The low `bytes` of an operand, sign-extended to 64 bits. */
  get(operand: Operand, bytes?: number): Code;
  getUnsigned(operand: Operand, bytes?: number): Code;
  /** Writes an operand as x86 does: 1 and 2 bytes leave the rest alone, 4 bytes clear the upper half. */
  set(operand: Operand, bytes: number, value: Code): Code;
  /** All 16 bytes of an operand, and the i32 buffer address of its first. */
  getVector(operand: Operand): Code;
  setVector(operand: Operand, value: Code): Code;
  address(operand: Operand): Code;
  /** The 32 bits at a byte offset from an operand (a segment record's limit). */
  part32(operand: Operand, at: number): Code;
  slotUnsigned(slot: number, bytes: number): Code;
  slotSigned(slot: number, bytes: number): Code;
  setSlot(slot: number, bytes: number, value: Code): Code;
  /** One of the engine's words. */
  word(at: number): Code;
  word32(at: number): Code;
  setWord(at: number, value: Code): Code;
  setWord32(at: number, value: Code): Code;
  /** The immediate: as 64 bits, or as two halves of 32 (the low one sign-extended to 64). */
  readonly imm: Code;
  readonly immLow: Code;
  readonly immHigh32: Code;
  /** Leaves the unsigned value on the stack. `stack`: an i32, non-zero when a non-canonical address is a stack fault. */
  load(bytes: number, linear: Code, stack: Code, access?: number): Code;
  store(bytes: number, linear: Code, value: Code, stack: Code): Code;
  /** The same for 16 bytes, as a v128. */
  loadVector(linear: Code, stack: Code): Code;
  storeVector(linear: Code, value: Code, stack: Code): Code;
  /** An i32: the buffer offset of the byte at `linear` when the TLB maps its page for this access, else 0. */
  probe(linear: Code, access: number): Code;
  /** An i32: the buffer offset of the byte at `linear` when the TLB lets it be executed, else 0. */
  executable(linear: Code): Code;
  /** Abandons the instruction with an exception. */
  fault(vector: number, errorCode?: number): Code;
  /** Goes `records` (an i32) further than the next record. */
  skip(records: Code): Code;
  /** Continues at NEXT_RIP. */
  readonly dispatch: Code;
  /** Back to TypeScript, which looks at the machine and decides. */
  readonly leave: Code;
  /** Back to TypeScript with the exception that it has parked. */
  readonly abort: Code;
  readonly helpers: Helpers;
}

/** The meaning of a micro-operation. When the code falls off its end, the next record follows. */
type Meaning = (e: Emitter) => Code;

/** All micro-operations by name. The place in this map is the number in the record. */
export const MICRO_OPS = new Map<string, Meaning>();
/** Those that the interpreter calls as functions: what is long, or rare, would only be in the way of the others. They do not leave, skip or dispatch. */
export const OUTLINED = new Set<string>();
/** Conditions that nothing within a block changes: when one has held, it is not looked at again until the next block. */
export const ONCE = new Set<string>();
export function define(name: string, meaning: Meaning, { outlined = false, once = false } = {}): void {
  if (MICRO_OPS.has(name)) throw new RangeError(`micro-operation ${name} is defined twice`);
  MICRO_OPS.set(name, meaning);
  if (outlined) OUTLINED.add(name);
  if (once) ONCE.add(name);
}
