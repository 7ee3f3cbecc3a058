// # Micro-operations
//
// An x86 instruction such as `ADD [RBX+8], CL` does four things: it computes an address, loads, adds, stores. Each of those is a *micro-operation*,
// and there are far fewer of them than there are instructions, because the addressing modes, prefixes and encodings are gone. This file says
// what each one means. It says it by writing WebAssembly, in terms of operands whose whereabouts it does not know: for the interpreter they are memory cells
// named by a record; for a translator they can be constants and local variables. One meaning, whichever way it is run.
//
// An operand is a byte offset in the register file (`state.ts`). That makes AH as good an operand as RAX (it is one byte further on), and
// a segment base as good as either.

import { VECTOR } from '../faults.ts';
import { FLAG, OFFSET, SLOT } from '../state.ts';
import { AF_BIT, PF_DELTA, SF_DELTA } from './flags.ts';
import {
  brIf,
  type Code,
  call,
  either,
  type Func,
  get,
  i32,
  i64,
  Label,
  type Local,
  loop,
  memoryCopy,
  memoryFill,
  select,
  set,
  tee,
  type ValueType,
  when,
} from './wasm-assembler.ts';

/** Which operand of the record: destination, first and second source. */
export type Operand = 'd' | 'a' | 'b';

/** The engine's own words, next to the register file. 64-bit words first. */
// biome-ignore format: table
export const WORD = {
  LIMIT: 0, // leave before executing an instruction when ICOUNT equals this
  CODE_BASE: 8, // added to NEXT_RIP to give a linear address: the base of CS, 0 in 64-bit code
  REP_BUDGET: 16, // iterations that the current REP instruction may still do before the next boundary
  CONTEXT: 24, // 32 bits: what must be equal for a jump-cache entry to be valid
  STATUS: 28, // 32 bits: non-zero when a call into TypeScript has parked a Fault or VmExit
  VECTOR: 32, ERROR_CODE: 36, // 32 bits: a fault that a micro-operation raised; error code -1 when it has none
  ONE_ITERATION: 40, // 32 bits: REP instructions do a single iteration
} as const;
export const WORD_BYTES = 64;

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
}

/** What the meaning of a micro-operation is written in terms of. */
export interface Emitter {
  /** The low `bytes` of an operand, sign-extended to 64 bits. */
  get(operand: Operand, bytes?: number): Code;
  getUnsigned(operand: Operand, bytes?: number): Code;
  /** Writes an operand as x86 does: 1 and 2 bytes leave the rest alone, 4 bytes clear the upper half. */
  set(operand: Operand, bytes: number, value: Code): Code;
  /** A field of fixed place in the register file; `part` is a byte offset from an operand instead (a segment record's limit). */
  field(offset: number): Code;
  field32(offset: number): Code;
  setField(offset: number, value: Code): Code;
  setField32(offset: number, value: Code): Code;
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
  local(type: ValueType): Local;
  /** Leaves the unsigned value on the stack. `stack`: an i32, non-zero when a non-canonical address is a stack fault. */
  load(bytes: number, linear: Code, stack: Code, access?: number): Code;
  store(bytes: number, linear: Code, value: Code, stack: Code): Code;
  /** An i32: the buffer offset of the byte at `linear` when the TLB maps its page for this access, else 0. */
  probe(linear: Code, access: number): Code;
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
export type Meaning = (e: Emitter) => Code;

/** All micro-operations by name. The place in this map is the number in the record. */
export const MICRO_OPS = new Map<string, Meaning>();
const define = (name: string, meaning: Meaning): void => {
  MICRO_OPS.set(name, meaning);
};

/** The number of a micro-operation. @throws RangeError for a name that does not exist. */
const numbers = new Map<string, number>();
export function microOp(name: string): number {
  if (numbers.size !== MICRO_OPS.size) [...MICRO_OPS.keys()].forEach((key, index) => numbers.set(key, index));
  const number = numbers.get(name);
  if (number === undefined) throw new RangeError(`there is no micro-operation ${name}`);
  return number;
}

type Size = 1 | 2 | 4 | 8;
const SIZES: readonly Size[] = [1, 2, 4, 8];
const WIDE: readonly (2 | 4 | 8)[] = [2, 4, 8];

// ## Vocabulary

const MIN = i64.const(-(1n << 63n));
const c64 = (value: number): Code => i64.const(BigInt(value));
const not = (x: Code): Code => i64.xor(x, i64.const(-1n));

/** Cuts a 64-bit value to `bytes` and sign-extends it again. */
function signExtend(bytes: number, x: Code): Code {
  if (bytes === 1) return i64.extend8_s(x);
  if (bytes === 2) return i64.extend16_s(x);
  return bytes === 4 ? i64.extend32_s(x) : x;
}
/** Cuts a 64-bit value to `bytes`, zero-extended. */
function cut(bytes: number, x: Code): Code {
  if (bytes === 8) return x;
  return bytes === 4 ? i64.extend_i32_u(i32.wrap_i64(x)) : i64.and(x, c64(2 ** (8 * bytes) - 1));
}

/** Stores the three words of lazy flags (see flags.ts). Of `carry` only bit 63 and the AF bit are looked at. */
const setFlags = (e: Emitter, result: Code, carry: Code, overflow: Code): Code => [
  e.setSlot(SLOT.CC_RESULT, 8, result),
  e.setSlot(SLOT.CC_A, 8, i64.and(carry, i64.const(-(1n << 63n) | (1n << BigInt(AF_BIT))))),
  e.setSlot(SLOT.CC_B, 8, overflow),
];
/** The same sign and parity, but ZF clear. */
const nonZero = (x: Code): Code => i64.or(x, c64(0x100));
const carryWord = (e: Emitter): Code => e.slotUnsigned(SLOT.CC_A, 8);
const carryIn = (e: Emitter): Code => i64.shr_u(carryWord(e), c64(63));
/** Replaces CF alone by bit 63 of `top`. */
const setCarry = (e: Emitter, top: Code): Code =>
  e.setSlot(SLOT.CC_A, 8, i64.or(i64.and(carryWord(e), i64.const((1n << 63n) - 1n)), i64.and(top, MIN)));
const setOverflow = (e: Emitter, top: Code): Code => e.setSlot(SLOT.CC_B, 8, top);

/** The vector of carries out of each bit of an addition. */
const carries = (a: Code, b: Code, r: Code): Code => i64.or(i64.and(a, b), i64.and(i64.or(a, b), not(r)));
/** The vector of borrows out of each bit of a subtraction. */
const borrows = (a: Code, b: Code, r: Code): Code => i64.or(i64.and(not(a), b), i64.and(i64.or(not(a), b), r));
const addOverflow = (a: Code, b: Code, r: Code): Code => i64.and(i64.xor(a, r), i64.xor(b, r));
const subOverflow = (a: Code, b: Code, r: Code): Code => i64.and(i64.xor(a, b), i64.xor(a, r));

/** Conditions by their number in opcodes 70–7F: an i32, 0 or 1. */
const negative = (x: Code): Code => i64.lt_s(x, i64.const(0n));
const result = (e: Emitter): Code => e.slotUnsigned(SLOT.CC_RESULT, 8);
const overflowWord = (e: Emitter): Code => e.slotUnsigned(SLOT.CC_B, 8);
const signWord = (e: Emitter): Code => i64.xor(result(e), i64.shl(carryWord(e), c64(63 - SF_DELTA)));
const evenParity = (e: Emitter): Code => {
  const low = i32.xor(i32.wrap_i64(result(e)), i32.and(i32.shr_u(i32.wrap_i64(carryWord(e)), i32.const(PF_DELTA)), i32.const(1)));
  return i32.eqz(i32.and(i32.popcnt(i32.and(low, i32.const(0xff))), i32.const(1)));
};
const zero = (e: Emitter): Code => i64.eqz(result(e));
const less = (e: Emitter): Code => negative(i64.xor(signWord(e), overflowWord(e)));
const POSITIVE_CONDITIONS: readonly [string, string, (e: Emitter) => Code][] = [
  ['o', 'no', (e) => negative(overflowWord(e))],
  ['b', 'nb', (e) => negative(carryWord(e))],
  ['z', 'nz', zero],
  ['be', 'nbe', (e) => i32.or(negative(carryWord(e)), zero(e))],
  ['s', 'ns', (e) => negative(signWord(e))],
  ['p', 'np', evenParity],
  ['l', 'nl', less],
  ['le', 'nle', (e) => i32.or(less(e), zero(e))],
];
const CONDITION: ReadonlyMap<string, (e: Emitter) => Code> = new Map(
  POSITIVE_CONDITIONS.flatMap(([yes, no, code]) => [[yes, code] as const, [no, (e: Emitter): Code => i32.eqz(code(e))] as const]),
);
/** Condition names in the order of the opcodes. */
export const CONDITIONS: readonly string[] = [...CONDITION.keys()];
const condition = (name: string, e: Emitter): Code => (CONDITION.get(name) as (e: Emitter) => Code)(e);

/** Defines `name.size` with a second source in operand b, and `name.size.i` with an immediate. */
function twoForms(name: string, sizes: readonly Size[], meaning: (e: Emitter, bytes: Size, b: Code) => Code): void {
  for (const bytes of sizes) {
    define(`${name}.${bytes}`, (e) => meaning(e, bytes, e.get('b', bytes)));
    define(`${name}.${bytes}.i`, (e) => meaning(e, bytes, e.imm));
  }
}
/** Keeps values in locals so that they can be used several times. */
function keep(e: Emitter, ...values: Code[]): [Code, ...Code[]] {
  const locals = values.map(() => e.local('i64'));
  return [values.map((value, i) => set(locals[i] as Local, value)), ...locals.map(get)];
}

// ## The beginning of an instruction
//
// Each instruction begins with a micro-operation that commits the one before it: RIP moves only here. Whatever faults later in the instruction
// therefore finds RIP at the instruction's start, and a system instruction that transfers control has only to assign NEXT_RIP.
//
// The same micro-operation counts time and, by a single comparison, stops the machine where it was told to stop. TypeScript lowers LIMIT when
// something has happened that cannot wait for the end of the block.

const begin = (e: Emitter, mask: (x: Code) => Code, check: (next: Code) => Code = () => []): Code => {
  const count = e.local('i64');
  const rip = e.local('i64');
  return [
    set(count, e.field(OFFSET.ICOUNT)),
    when(i64.eq(get(count), e.word(WORD.LIMIT)), e.leave),
    e.setField(OFFSET.ICOUNT, i64.add(get(count), c64(1))),
    e.setSlot(SLOT.RIP, 8, tee(rip, e.slotUnsigned(SLOT.NEXT_RIP, 8))),
    e.setSlot(SLOT.NEXT_RIP, 8, mask(i64.add(get(rip), e.immLow))),
    check(i64.add(get(rip), e.immLow)),
  ];
};
const limitOfCode = (e: Emitter): Code => i64.extend_i32_u(e.field32(OFFSET.SEGMENTS + 1 * 32 + 8));
define('insn.8', (e) => begin(e, (x) => x));
define('insn.4', (e) => begin(e, (x) => cut(4, x)));
define('insn.limit', (e) =>
  begin(
    e,
    (x) => cut(4, x),
    (next) => when(i64.gt_u(i64.sub(next, c64(1)), limitOfCode(e)), e.fault(VECTOR.GP, 0)),
  ),
);

/** Takes the place of an `insn` record in decoded code that is no longer valid: TypeScript finds or makes the right code. */
export const INSN_OPS: readonly string[] = ['insn.8', 'insn.4', 'insn.limit'];
define('stale', (e) => e.leave);

// ## Moving

for (const bytes of SIZES) {
  define(`mov.${bytes}`, (e) => e.set('d', bytes, e.getUnsigned('a', bytes)));
  define(`mov.${bytes}.i`, (e) => e.set('d', bytes, e.imm));
}
for (const from of [1, 2, 4] as const) {
  for (const to of WIDE.filter((bytes) => bytes > from)) {
    define(`movzx.${from}.${to}`, (e) => e.set('d', to, e.getUnsigned('a', from)));
    define(`movsx.${from}.${to}`, (e) => e.set('d', to, e.get('a', from)));
  }
}
for (const bytes of SIZES) {
  define(`swap.${bytes}`, (e) => {
    const [kept, a, d] = keep(e, e.getUnsigned('a', bytes), e.getUnsigned('d', bytes)) as [Code, Code, Code];
    return [kept, e.set('d', bytes, a), e.set('a', bytes, d)];
  });
  // CMOV: an unfulfilled condition still counts as a write of 4 bytes.
  define(`pick.${bytes}`, (e) =>
    e.set('d', bytes, select(e.getUnsigned('a', bytes), e.getUnsigned('d', bytes), i32.wrap_i64(e.getUnsigned('b', 1)))),
  );
}
/** Addresses: base + (index << high half of imm) + low half of imm, cut to `mask` bytes. */
for (const mask of WIDE) {
  const scaled = (e: Emitter): Code => i64.shl(e.get('b'), i64.extend_i32_u(e.immHigh32));
  define(`lea.${mask}.base`, (e) => e.set('d', 8, cut(mask, i64.add(e.get('a'), e.immLow))));
  define(`lea.${mask}.index`, (e) => e.set('d', 8, cut(mask, i64.add(scaled(e), e.immLow))));
  define(`lea.${mask}.both`, (e) => e.set('d', 8, cut(mask, i64.add(i64.add(e.get('a'), scaled(e)), e.immLow))));
}
define('plus', (e) => e.set('d', 8, i64.add(e.get('a'), e.get('b')))); // no flags: adds a segment base
define('glue.4', (e) => e.set('d', 8, i64.or(e.getUnsigned('a', 4), i64.shl(e.getUnsigned('b', 4), c64(32)))));
define('high.4', (e) => e.set('d', 8, i64.shr_u(e.get('a'), c64(32))));

// ## Memory
//
// In 64-bit code, and in 32-bit code with flat segments, an offset is a linear address and the base register can be added on the way. Otherwise a
// `segment` micro-operation checks the limit and adds the segment's base. The high half of the immediate is 1 when the access is made through SS.

for (const bytes of SIZES) {
  for (const mask of [8, 4] as const) {
    const linear = (e: Emitter): Code => cut(mask, i64.add(e.get('a'), e.immLow));
    define(`load.${bytes}.${mask}`, (e) => e.set('d', 8, e.load(bytes, linear(e), e.immHigh32)));
    define(`modify.${bytes}.${mask}`, (e) => e.set('d', 8, e.load(bytes, linear(e), e.immHigh32, 2)));
    define(`store.${bytes}.${mask}`, (e) => e.store(bytes, linear(e), e.getUnsigned('b', bytes), e.immHigh32));
  }
}

/** d := linear address of offset a in the segment whose record is operand b. imm: segment number, and (high half) bytes | access << 8. */
define('segment', (e) => {
  const offset = e.local('i64');
  const rights = e.local('i32');
  const RW = 2;
  const EXPAND_DOWN = 4;
  const CODE = 8;
  const UNUSABLE = 1 << 16;
  const bytes = i32.and(e.immHigh32, i32.const(0xff));
  const access = i32.shr_u(e.immHigh32, i32.const(8));
  // An ordinary data segment and an offset below the limit: by far the most frequent case, decided here. Everything else is TypeScript's.
  const within = i64.le_u(i64.add(get(offset), i64.extend_i32_u(i32.sub(bytes, i32.const(1)))), i64.extend_i32_u(e.part32('b', 8)));
  const plain = i32.eqz(i32.and(tee(rights, e.part32('b', 12)), i32.const(UNUSABLE | CODE | EXPAND_DOWN)));
  const writable = i32.or(i32.eqz(access), i32.and(get(rights), i32.const(RW)));
  const fine = i32.and(i32.and(plain, within), i32.ne(writable, i32.const(0)));
  return [
    set(offset, e.get('a')),
    when(i32.eqz(fine), when(call(e.helpers.checkSegment, i32.wrap_i64(e.imm), get(offset), bytes, access), e.abort)),
    e.set('d', 8, cut(4, i64.add(get(offset), e.get('b')))),
  ];
});
/** The same in 64-bit mode, for CMPXCHG16B and the like: the address must be a multiple of imm. */
define('aligned', (e) => when(i32.wrap_i64(i64.and(e.get('a'), i64.sub(e.imm, c64(1)))), e.fault(VECTOR.GP, 0)));

const STACK = i32.const(1);
for (const bytes of [8, 4] as const) {
  define(`push.${bytes}`, (e) => {
    const sp = e.local('i64');
    return [
      set(sp, cut(bytes, i64.sub(e.slotUnsigned(SLOT.RSP, bytes), c64(bytes)))),
      e.store(bytes, get(sp), e.getUnsigned('a', bytes), STACK),
      e.setSlot(SLOT.RSP, bytes, get(sp)),
    ];
  });
  define(`pop.${bytes}`, (e) => {
    const value = e.local('i64');
    return [
      set(value, e.load(bytes, e.slotUnsigned(SLOT.RSP, bytes), STACK)),
      e.setSlot(SLOT.RSP, bytes, cut(bytes, i64.add(e.slotUnsigned(SLOT.RSP, bytes), c64(bytes)))),
      e.set('d', bytes, get(value)),
    ];
  });
}

// ## Adding, subtracting, combining

const sum = (e: Emitter, bytes: Size, bCode: Code, carry: Code | null): Code => {
  const [kept, a, b] = keep(e, e.get('a', bytes), bCode) as [Code, Code, Code];
  const r = e.local('i64');
  const total = i64.add(a, b);
  return [
    kept,
    set(r, signExtend(bytes, carry ? i64.add(total, carry) : total)),
    setFlags(e, get(r), carries(a, b, get(r)), addOverflow(a, b, get(r))),
    e.set('d', bytes, get(r)),
  ];
};
const difference = (e: Emitter, bytes: Size, aCode: Code, bCode: Code, borrow: Code | null, write: boolean): Code => {
  const [kept, a, b] = keep(e, aCode, bCode) as [Code, Code, Code];
  const r = e.local('i64');
  const rest = i64.sub(a, b);
  return [
    kept,
    set(r, signExtend(bytes, borrow ? i64.sub(rest, borrow) : rest)),
    setFlags(e, get(r), borrows(a, b, get(r)), subOverflow(a, b, get(r))),
    write ? e.set('d', bytes, get(r)) : [],
  ];
};
const logic = (e: Emitter, bytes: Size, value: Code, write: boolean): Code => {
  const r = e.local('i64');
  return [set(r, value), setFlags(e, get(r), c64(0), c64(0)), write ? e.set('d', bytes, get(r)) : []]; // AF is undefined; processors clear it
};

twoForms('add', SIZES, (e, bytes, b) => sum(e, bytes, b, null));
twoForms('adc', SIZES, (e, bytes, b) => sum(e, bytes, b, carryIn(e)));
twoForms('sub', SIZES, (e, bytes, b) => difference(e, bytes, e.get('a', bytes), b, null, true));
twoForms('sbb', SIZES, (e, bytes, b) => difference(e, bytes, e.get('a', bytes), b, carryIn(e), true));
twoForms('cmp', SIZES, (e, bytes, b) => difference(e, bytes, e.get('a', bytes), b, null, false));
twoForms('and', SIZES, (e, bytes, b) => logic(e, bytes, i64.and(e.get('a', bytes), b), true));
twoForms('or', SIZES, (e, bytes, b) => logic(e, bytes, i64.or(e.get('a', bytes), b), true));
twoForms('xor', SIZES, (e, bytes, b) => logic(e, bytes, i64.xor(e.get('a', bytes), b), true));
twoForms('test', SIZES, (e, bytes, b) => logic(e, bytes, i64.and(e.get('a', bytes), b), false));

for (const bytes of SIZES) {
  // INC and DEC leave CF alone: it is carried over into the new word.
  for (const [name, step, vector, overflow] of [
    ['inc', 1, carries, addOverflow],
    ['dec', 1, borrows, subOverflow],
  ] as const) {
    define(`${name}.${bytes}`, (e) => {
      const [kept, a] = keep(e, e.get('d', bytes)) as [Code, Code];
      const r = e.local('i64');
      const one = c64(step);
      const carry = i64.or(i64.and(carryWord(e), MIN), i64.and(vector(a, one, get(r)), c64(1 << AF_BIT)));
      return [
        kept,
        set(r, signExtend(bytes, name === 'inc' ? i64.add(a, one) : i64.sub(a, one))),
        setFlags(e, get(r), carry, overflow(a, one, get(r))),
        e.set('d', bytes, get(r)),
      ];
    });
  }
  define(`neg.${bytes}`, (e) => difference(e, bytes, c64(0), e.get('d', bytes), null, true));
  define(`not.${bytes}`, (e) => e.set('d', bytes, not(e.get('d', bytes))));
}

// ## Conditions

for (const name of CONDITIONS) define(`set.${name}`, (e) => e.set('d', 1, i64.extend_i32_u(condition(name, e))));
/** d := (operand a is zero), as a byte; without flags. */
for (const bytes of SIZES) {
  define(`isZero.${bytes}`, (e) => e.set('d', 1, i64.extend_i32_u(i64.eqz(e.get('a', bytes)))));
  define(`isEqual.${bytes}`, (e) => e.set('d', 1, i64.extend_i32_u(i64.eq(e.get('a', bytes), e.get('b', bytes)))));
}
define('flip', (e) => e.set('d', 1, i64.xor(e.get('a', 1), c64(1)))); // negates a truth value
define('both', (e) => e.set('d', 1, i64.and(e.get('a', 1), e.get('b', 1))));

/** ZF := the byte a; the other flags keep their values, whatever they were. */
define('setZero', (e) => {
  const sign = e.local('i64');
  const odd = e.local('i64');
  const kept = i64.and(carryWord(e), i64.const(-(1n << 63n) | (1n << BigInt(AF_BIT))));
  return [
    set(sign, i64.shr_u(signWord(e), c64(63))),
    set(odd, i64.extend_i32_u(i32.eqz(evenParity(e)))),
    either(
      i32.wrap_i64(e.getUnsigned('a', 1)),
      [
        e.setSlot(SLOT.CC_A, 8, i64.or(kept, i64.or(i64.shl(get(sign), c64(SF_DELTA)), i64.shl(get(odd), c64(PF_DELTA))))),
        e.setSlot(SLOT.CC_RESULT, 8, c64(0)),
      ],
      [e.setSlot(SLOT.CC_A, 8, kept), e.setSlot(SLOT.CC_RESULT, 8, i64.or(i64.or(i64.shl(get(sign), c64(63)), c64(0x100)), get(odd)))],
    ),
  ];
});

// ## Flags by name

define('clc', (e) => setCarry(e, c64(0)));
define('stc', (e) => setCarry(e, MIN));
define('cmc', (e) => setCarry(e, not(carryWord(e))));
define('cld', (e) => e.setField32(OFFSET.RFLAGS, i32.and(e.field32(OFFSET.RFLAGS), i32.const(~FLAG.DF))));
define('std', (e) => e.setField32(OFFSET.RFLAGS, i32.or(e.field32(OFFSET.RFLAGS), i32.const(FLAG.DF))));

/** The five low flags as LAHF sees them: SF ZF 0 AF 0 PF 1 CF. */
const lowFlags = (e: Emitter): Code => {
  const bit = (value: Code, at: number): Code => i64.shl(value, c64(at));
  const parts = [
    bit(i64.shr_u(signWord(e), c64(63)), 7),
    bit(i64.extend_i32_u(zero(e)), 6),
    bit(i64.and(i64.shr_u(carryWord(e), c64(AF_BIT)), c64(1)), 4),
    bit(i64.extend_i32_u(evenParity(e)), 2),
    c64(FLAG.FIXED),
    carryIn(e),
  ];
  return parts.reduce((x, y) => i64.or(x, y));
};
define('lahf', (e) => e.set('d', 1, lowFlags(e)));
define('sahf', (e) => {
  const f = e.local('i64');
  const flag = (mask: number, shift: number): Code => i64.and(i64.shr_u(get(f), c64(shift)), c64(mask));
  const isZero = e.local('i64');
  const sign = flag(1, 7);
  const odd = i64.xor(flag(1, 2), c64(1));
  const carry = i64.or(i64.shl(get(f), c64(63)), i64.shl(flag(1, 4), c64(AF_BIT)));
  const deltas = i64.or(i64.shl(sign, c64(SF_DELTA)), i64.shl(odd, c64(PF_DELTA)));
  const shown = i64.or(i64.or(i64.shl(sign, c64(63)), c64(0x100)), odd);
  return [
    set(f, e.getUnsigned('a', 1)),
    set(isZero, flag(1, 6)),
    e.setSlot(SLOT.CC_RESULT, 8, select(c64(0), shown, i32.wrap_i64(get(isZero)))),
    e.setSlot(SLOT.CC_A, 8, i64.or(carry, select(deltas, c64(0), i32.wrap_i64(get(isZero))))),
  ];
});

// ## Shifting and rotating
//
// The count is masked to 5 bits (6 for 64-bit operands), and a masked count of zero leaves all flags alone. OF is defined for counts of 1 only; for the
// others processors apply the same formula, and so does this.

const shiftCount = (bytes: Size, b: Code): Code => i64.and(b, c64(bytes === 8 ? 63 : 31));

function shift(
  name: string,
  body: (e: Emitter, bytes: Size, a: (unsigned: boolean) => Code, count: Code) => { r: Code; carry: Code; overflow: (r: Code) => Code },
): void {
  twoForms(name, SIZES, (e, bytes, b) => {
    const count = e.local('i64');
    const r = e.local('i64');
    const a = (unsigned: boolean): Code => (unsigned ? e.getUnsigned('a', bytes) : e.get('a', bytes));
    const { r: value, carry, overflow } = body(e, bytes, a, get(count));
    const carryLocal = e.local('i64');
    return [
      either(i64.eqz(tee(count, shiftCount(bytes, b))), e.set('d', bytes, a(true)), [
        set(r, signExtend(bytes, value)),
        set(carryLocal, i64.and(carry, MIN)),
        e.setSlot(SLOT.CC_A, 8, get(carryLocal)),
        e.setSlot(SLOT.CC_RESULT, 8, get(r)),
        e.setSlot(SLOT.CC_B, 8, overflow(get(r))),
        e.set('d', bytes, get(r)),
      ]),
    ];
  });
}
shift('shl', (e, bytes, a, count) => ({
  r: i64.shl(a(true), count),
  carry: i64.shl(i64.shl(a(true), c64(64 - 8 * bytes)), i64.sub(count, c64(1))),
  overflow: (r) => i64.xor(carryWord(e), r),
}));
shift('shr', (_e, bytes, a, count) => ({
  r: i64.shr_u(a(true), count),
  carry: i64.shl(a(true), i64.sub(c64(64), count)),
  overflow: () => signExtend(bytes, i64.shr_u(a(true), i64.sub(count, c64(1)))),
}));
shift('sar', (_e, _bytes, a, count) => ({
  r: i64.shr_s(a(false), count),
  carry: i64.shl(i64.shr_s(a(false), i64.sub(count, c64(1))), c64(63)),
  overflow: () => c64(0),
}));

for (const bytes of SIZES) {
  const width = 8 * bytes;
  // Rotates within the operand: SF, ZF, PF and AF keep their values.
  for (const left of [true, false]) {
    const name = left ? 'rol' : 'ror';
    const meaning = (e: Emitter, b: Code): Code => {
      const count = e.local('i64');
      const a = e.local('i64');
      const r = e.local('i64');
      const n = i64.and(get(count), c64(width - 1));
      const back = i64.and(i64.sub(c64(width), get(count)), c64(width - 1));
      const rotated = i64.or(i64.shl(get(a), left ? n : back), i64.shr_u(get(a), left ? back : n));
      const carry = left ? i64.shl(get(r), c64(63)) : get(r);
      // After a rotation to the right OF compares the two highest bits; the sign extension of r has copies of the top one above it.
      const overflow = left ? i64.xor(get(r), i64.shl(get(r), c64(63))) : i64.xor(get(r), i64.shl(get(r), c64(64 - width + 1)));
      return [
        set(a, e.getUnsigned('a', bytes)),
        set(count, shiftCount(bytes, b)),
        set(r, signExtend(bytes, rotated)),
        when(i32.wrap_i64(get(count)), [setCarry(e, carry), setOverflow(e, overflow)]),
        e.set('d', bytes, get(r)),
      ];
    };
    define(`${name}.${bytes}`, (e) => meaning(e, e.get('b', 1)));
    define(`${name}.${bytes}.i`, (e) => meaning(e, e.imm));
  }
  // Rotates through CF: the operand is one bit longer. For 64 bits that is one bit too many, so the pieces are put together by hand.
  for (const left of [true, false]) {
    const name = left ? 'rcl' : 'rcr';
    const meaning = (e: Emitter, b: Code): Code => {
      const count = e.local('i64');
      const a = e.local('i64');
      const r = e.local('i64');
      const newCarry = e.local('i64');
      const turns = (x: Code): Code => (bytes >= 4 ? x : i64.rem_u(x, c64(width + 1)));
      const one = c64(1);
      const rest = i64.sub(c64(width), get(count));
      const most = (x: Code, by: Code): Code => i64.shr_u(i64.shr_u(x, by), one); // x >> (by + 1), also when by + 1 is 64
      const mostLeft = (x: Code, by: Code): Code => i64.shl(i64.shl(x, by), one);
      const leftward = i64.or(i64.or(i64.shl(get(a), get(count)), i64.shl(carryIn(e), i64.sub(get(count), one))), most(get(a), rest));
      const rightward = i64.or(i64.or(i64.shr_u(get(a), get(count)), i64.shl(carryIn(e), rest)), mostLeft(get(a), rest));
      const out = i64.and(i64.shr_u(get(a), left ? rest : i64.sub(get(count), one)), one);
      const top = i64.shl(get(r), c64(64 - width));
      const overflow = left ? i64.xor(top, i64.shl(get(newCarry), c64(63))) : i64.xor(top, i64.shl(top, one));
      return [
        set(a, e.getUnsigned('a', bytes)),
        set(r, get(a)),
        when(i32.wrap_i64(tee(count, turns(shiftCount(bytes, b)))), [
          set(r, left ? leftward : rightward),
          set(newCarry, out),
          setCarry(e, i64.shl(get(newCarry), c64(63))),
          setOverflow(e, overflow),
        ]),
        e.set('d', bytes, get(r)),
      ];
    };
    define(`${name}.${bytes}`, (e) => meaning(e, e.get('b', 1)));
    define(`${name}.${bytes}.i`, (e) => meaning(e, e.imm));
  }
}

// Double shifts: d is shifted, the vacated bits come from a. With 16-bit operands and counts above 16 the result is undefined; processors
// continue with bits of d itself, as if the three words d:a:d were shifted.
for (const bytes of WIDE) {
  const width = c64(8 * bytes);
  for (const left of [true, false]) {
    const meaning = (e: Emitter, b: Code): Code => {
      const count = e.local('i64');
      const d = e.local('i64');
      const s = e.local('i64');
      const r = e.local('i64');
      const carry = e.local('i64');
      const one = c64(1);
      const triple = i64.or(i64.shl(i64.or(i64.shl(get(d), c64(16)), get(s)), c64(16)), get(d)); // 48 bits
      const narrow = left
        ? { r: i64.shr_u(i64.shl(triple, get(count)), c64(32)), carry: i64.shr_u(triple, i64.sub(c64(48), get(count))) }
        : { r: i64.shr_u(triple, get(count)), carry: i64.shr_u(triple, i64.sub(get(count), one)) };
      const rest = i64.sub(width, get(count));
      const wide = left
        ? { r: i64.or(i64.shl(get(d), get(count)), i64.shr_u(get(s), rest)), carry: i64.shr_u(get(d), rest) }
        : { r: i64.or(i64.shr_u(get(d), get(count)), i64.shl(get(s), rest)), carry: i64.shr_u(get(d), i64.sub(get(count), one)) };
      const { r: value, carry: out } = bytes === 2 ? narrow : wide;
      return [
        set(d, e.getUnsigned('d', bytes)),
        set(s, e.getUnsigned('a', bytes)),
        either(i64.eqz(tee(count, shiftCount(bytes, b))), e.set('d', bytes, get(d)), [
          set(r, signExtend(bytes, value)),
          set(carry, i64.shl(out, c64(63))),
          e.setSlot(SLOT.CC_RESULT, 8, get(r)),
          e.setSlot(SLOT.CC_A, 8, get(carry)),
          e.setSlot(SLOT.CC_B, 8, i64.xor(get(r), signExtend(bytes, get(d)))),
          e.set('d', bytes, get(r)),
        ]),
      ];
    };
    const name = left ? 'shld' : 'shrd';
    define(`${name}.${bytes}`, (e) => meaning(e, e.get('b', 1)));
    define(`${name}.${bytes}.i`, (e) => meaning(e, e.imm));
  }
}

// ## Bits

twoForms('bt', WIDE, (e, bytes, b) => setCarry(e, i64.shl(i64.shr_u(e.get('a', bytes), i64.and(b, c64(8 * bytes - 1))), c64(63))));
for (const [name, change] of [
  ['bts', (a: Code, mask: Code): Code => i64.or(a, mask)],
  ['btr', (a: Code, mask: Code): Code => i64.and(a, not(mask))],
  ['btc', (a: Code, mask: Code): Code => i64.xor(a, mask)],
] as const) {
  twoForms(name, WIDE, (e, bytes, b) => {
    const [kept, a, at] = keep(e, e.get('d', bytes), i64.and(b, c64(8 * bytes - 1))) as [Code, Code, Code];
    return [kept, setCarry(e, i64.shl(i64.shr_u(a, at), c64(63))), e.set('d', bytes, change(a, i64.shl(c64(1), at)))];
  });
}
for (const bytes of WIDE) {
  /** Address of the unit that holds bit b, counted from address a: bit strings in memory reach both ways. */
  define(`bitUnit.${bytes}`, (e) =>
    e.set('d', 8, i64.add(e.get('a'), i64.shl(i64.shr_s(e.get('b', bytes), c64(Math.log2(8 * bytes))), c64(Math.log2(bytes))))),
  );
  // BSF and BSR of zero leave the destination alone. Only ZF is defined; processors of today clear the others, but PF is the parity of the result.
  for (const [name, position] of [
    ['bsf', (a: Code): Code => i64.ctz(a)],
    ['bsr', (a: Code): Code => i64.sub(c64(63), i64.clz(a))],
  ] as const) {
    define(`${name}.${bytes}`, (e) => {
      const [kept, a] = keep(e, e.getUnsigned('a', bytes)) as [Code, Code];
      return [
        kept,
        setFlags(e, select(c64(0), nonZero(position(a)), i64.eqz(a)), c64(0), c64(0)),
        when(i32.eqz(i64.eqz(a)), e.set('d', bytes, position(a))),
      ];
    });
  }
  define(`popcnt.${bytes}`, (e) => {
    const [kept, a] = keep(e, e.getUnsigned('a', bytes)) as [Code, Code];
    const isZero = i64.eqz(a);
    return [
      kept,
      e.setSlot(SLOT.CC_RESULT, 8, i64.extend_i32_u(i32.eqz(isZero))), // 1 has odd parity
      e.setSlot(SLOT.CC_A, 8, i64.shl(i64.extend_i32_u(isZero), c64(PF_DELTA))), // 0 has not
      e.setSlot(SLOT.CC_B, 8, c64(0)),
      e.set('d', bytes, i64.popcnt(a)),
    ];
  });
}
const swapPairs = (x: Code, shift: number, mask: bigint): Code =>
  i64.or(i64.and(i64.shr_u(x, c64(shift)), i64.const(mask)), i64.shl(i64.and(x, i64.const(mask)), c64(shift)));
const byteSwap = (e: Emitter, x: Code): Code => {
  const t = e.local('i64');
  return [
    set(t, x),
    set(t, swapPairs(get(t), 8, 0x00ff00ff00ff00ffn)),
    set(t, swapPairs(get(t), 16, 0x0000ffff0000ffffn)),
    i64.rotl(get(t), c64(32)),
  ];
};
define('bswap.8', (e) => e.set('d', 8, byteSwap(e, e.get('d'))));
define('bswap.4', (e) => e.set('d', 4, i64.shr_u(byteSwap(e, e.getUnsigned('d', 4)), c64(32))));
define('bswap.2', (e) => e.set('d', 2, c64(0))); // undefined by the manual; this is what processors do

// ## Multiplying and dividing
//
// CF and OF say whether the upper half of a product means anything. The rest is undefined; processors of today let SF and PF follow the lower half and clear
// ZF and AF, and so does this.

const productFlags = (e: Emitter, low: Code, significant: Code): Code => [
  e.setSlot(SLOT.CC_RESULT, 8, nonZero(low)),
  e.setSlot(SLOT.CC_A, 8, i64.shl(i64.extend_i32_u(significant), c64(63))),
  e.setSlot(SLOT.CC_B, 8, i64.shl(i64.extend_i32_u(significant), c64(63))),
];
/** High half of the signed 128-bit product, from the unsigned one. */
const signedHigh = (e: Emitter, a: Code, b: Code): Code =>
  i64.sub(i64.sub(call(e.helpers.multiplyHigh, a, b), i64.and(i64.shr_s(a, c64(63)), b)), i64.and(i64.shr_s(b, c64(63)), a));

twoForms('imul', WIDE, (e, bytes, bCode) => {
  const [kept, a, b] = keep(e, e.get('a', bytes), bCode) as [Code, Code, Code];
  const product = e.local('i64');
  const low = e.local('i64');
  const significant = bytes === 8 ? i64.ne(signedHigh(e, a, b), i64.shr_s(get(low), c64(63))) : i64.ne(get(low), get(product));
  return [kept, set(low, signExtend(bytes, tee(product, i64.mul(a, b)))), productFlags(e, get(low), significant), e.set('d', bytes, get(low))];
});
for (const bytes of SIZES) {
  // AX := AL * a; rDX:rAX := rAX * a.
  for (const isSigned of [false, true]) {
    define(`${isSigned ? 'imulWide' : 'mulWide'}.${bytes}`, (e) => {
      const factor = (slot: number): Code => (isSigned ? e.slotSigned(slot, bytes) : e.slotUnsigned(slot, bytes));
      const [kept, a, b] = keep(e, factor(SLOT.RAX), isSigned ? e.get('a', bytes) : e.getUnsigned('a', bytes)) as [Code, Code, Code];
      const product = e.local('i64');
      const high = e.local('i64');
      const low = signExtend(bytes, get(product));
      const upper = bytes === 8 ? (isSigned ? signedHigh(e, a, b) : call(e.helpers.multiplyHigh, a, b)) : i64.shr_s(get(product), c64(8 * bytes));
      const significant = isSigned
        ? i64.ne(bytes === 8 ? get(high) : get(product), bytes === 8 ? i64.shr_s(get(product), c64(63)) : low)
        : i64.ne(cut(bytes, get(high)), c64(0));
      return [
        kept,
        set(product, i64.mul(a, b)),
        set(high, upper),
        productFlags(e, low, significant),
        bytes === 1 ? e.setSlot(SLOT.RAX, 2, get(product)) : [e.setSlot(SLOT.RAX, bytes, get(product)), e.setSlot(SLOT.RDX, bytes, get(high))],
      ];
    });
  }
  // Quotient to AL or rAX, remainder to AH or rDX. #DE when the divisor is zero or the quotient does not fit. Flags are undefined: left alone.
  const store = (e: Emitter, quotient: Code, remainder: Code): Code =>
    bytes === 1
      ? e.setSlot(SLOT.RAX, 2, i64.or(i64.and(quotient, c64(0xff)), i64.shl(i64.and(remainder, c64(0xff)), c64(8))))
      : [e.setSlot(SLOT.RAX, bytes, quotient), e.setSlot(SLOT.RDX, bytes, remainder)];
  const dividend = (e: Emitter): Code =>
    bytes === 1 ? e.slotUnsigned(SLOT.RAX, 2) : i64.or(e.slotUnsigned(SLOT.RAX, bytes), i64.shl(e.slotUnsigned(SLOT.RDX, bytes), c64(8 * bytes)));
  define(`div.${bytes}`, (e) => {
    const divisor = e.local('i64');
    const whole = e.local('i64');
    const quotient = e.local('i64');
    const zeroDivisor = when(i64.eqz(tee(divisor, e.getUnsigned('a', bytes))), e.fault(VECTOR.DE));
    if (bytes < 8) {
      return [
        zeroDivisor,
        set(whole, dividend(e)),
        when(i64.gt_u(tee(quotient, i64.div_u(get(whole), get(divisor))), c64(2 ** (8 * bytes) - 1)), e.fault(VECTOR.DE)),
        store(e, get(quotient), i64.rem_u(get(whole), get(divisor))),
      ];
    }
    const high = e.slotUnsigned(SLOT.RDX, 8);
    return [
      zeroDivisor,
      set(whole, e.slotUnsigned(SLOT.RAX, 8)),
      when(i64.ge_u(high, get(divisor)), e.fault(VECTOR.DE)),
      set(quotient, either(i64.eqz(high), i64.div_u(get(whole), get(divisor)), call(e.helpers.divide, high, get(whole), get(divisor)), 'i64')),
      store(e, get(quotient), i64.sub(get(whole), i64.mul(get(quotient), get(divisor)))),
    ];
  });
  define(`idiv.${bytes}`, (e) => {
    const divisor = e.local('i64');
    const whole = e.local('i64');
    const quotient = e.local('i64');
    const zeroDivisor = when(i64.eqz(tee(divisor, e.get('a', bytes))), e.fault(VECTOR.DE));
    if (bytes < 8) {
      const value = bytes === 1 ? e.slotSigned(SLOT.RAX, 2) : signExtend(2 * bytes, dividend(e));
      // WebAssembly's own division traps on -2^63 / -1. Only a 64-bit dividend can be -2^63.
      const overflows = bytes === 4 ? when(i32.and(i64.eq(get(whole), MIN), i64.eq(get(divisor), c64(-1))), e.fault(VECTOR.DE)) : [];
      return [
        zeroDivisor,
        set(whole, value),
        overflows,
        set(quotient, i64.div_s(get(whole), get(divisor))),
        when(i64.ne(signExtend(bytes, get(quotient)), get(quotient)), e.fault(VECTOR.DE)),
        store(e, get(quotient), i64.rem_s(get(whole), get(divisor))),
      ];
    }
    // 128 bits: divide magnitudes, then see whether the quotient fits with its sign. The remainder has the dividend's sign.
    const high = e.local('i64');
    const magnitude = e.local('i64');
    const sign = e.local('i64'); // 0, or -1 when the quotient is negative
    const negate = (x: Code, mask: Code): Code => i64.sub(i64.xor(x, mask), mask);
    const lowLocal = e.local('i64');
    const top = i64.shr_s(e.slotUnsigned(SLOT.RDX, 8), c64(63));
    const low = get(lowLocal); // kept: the remainder is computed after the quotient has replaced it
    return [
      zeroDivisor,
      set(lowLocal, e.slotUnsigned(SLOT.RAX, 8)),
      set(sign, i64.xor(top, i64.shr_s(get(divisor), c64(63)))),
      set(magnitude, negate(get(divisor), i64.shr_s(get(divisor), c64(63)))),
      set(whole, negate(low, top)),
      // High half of the negated dividend: one more is borrowed unless the low half is zero.
      set(high, i64.add(i64.xor(e.slotUnsigned(SLOT.RDX, 8), top), i64.and(i64.extend_i32_u(i64.eqz(low)), i64.and(top, c64(1))))),
      when(i64.ge_u(get(high), get(magnitude)), e.fault(VECTOR.DE)),
      set(
        quotient,
        either(i64.eqz(get(high)), i64.div_u(get(whole), get(magnitude)), call(e.helpers.divide, get(high), get(whole), get(magnitude)), 'i64'),
      ),
      // The largest magnitude is 2^63 - 1, and one more when the quotient is negative.
      when(i64.gt_u(get(quotient), i64.sub(i64.const((1n << 63n) - 1n), get(sign))), e.fault(VECTOR.DE)),
      set(quotient, negate(get(quotient), get(sign))),
      store(e, get(quotient), i64.sub(low, i64.mul(get(quotient), get(divisor)))),
    ];
  });
}
/** Fills d with the sign of a: CWD and its relatives. */
for (const bytes of WIDE) define(`signFill.${bytes}`, (e) => e.set('d', bytes, i64.shr_s(e.get('a', bytes), c64(63))));

// ## Going elsewhere
//
// A transfer assigns NEXT_RIP; `dispatch` then finds the code. In 16- and 32-bit code the target is first compared with CS's limit. In 64-bit code
// a target must be canonical. A jump leaves that check to whoever looks the target up, because a non-canonical address is never found and RIP, not yet
// committed, is still the jump's; a call or return must check before it touches the stack.

const canonical = (x: Code): Code => i64.eq(i64.shr_s(i64.shl(x, c64(16)), c64(16)), x);
const checkTarget = (e: Emitter, bytes: number, target: Code): Code =>
  when(bytes === 8 ? i32.eqz(canonical(target)) : i64.gt_u(target, limitOfCode(e)), e.fault(VECTOR.GP, 0));
for (const bytes of WIDE) {
  const relative = (e: Emitter): Code => cut(bytes, i64.add(e.slotUnsigned(SLOT.NEXT_RIP, 8), e.imm));
  const take = (e: Emitter, target: Code, check: boolean): Code => {
    if (!check) return e.setSlot(SLOT.NEXT_RIP, 8, target);
    const to = e.local('i64');
    return [set(to, target), checkTarget(e, bytes, get(to)), e.setSlot(SLOT.NEXT_RIP, 8, get(to))];
  };
  define(`jump.${bytes}`, (e) => [take(e, relative(e), bytes < 8), e.dispatch]);
  for (const name of CONDITIONS) define(`j${name}.${bytes}`, (e) => [when(condition(name, e), take(e, relative(e), bytes < 8)), e.dispatch]);
  define(`jumpTo.${bytes}`, (e) => [take(e, e.getUnsigned('a', bytes), true), e.dispatch]);
  /** LOOP and JrCXZ: transfers when the byte a is non-zero; other micro-operations may follow before `dispatch`. */
  define(`takeIf.${bytes}`, (e) => when(i32.wrap_i64(e.getUnsigned('a', 1)), take(e, relative(e), true)));
  /** d := target of a relative call, checked. */
  define(`aim.${bytes}`, (e) => {
    const to = e.local('i64');
    return [set(to, relative(e)), checkTarget(e, bytes, get(to)), e.set('d', 8, get(to))];
  });
  define(`checkTarget.${bytes}`, (e) => {
    const to = e.local('i64');
    return [set(to, e.getUnsigned('a', bytes)), checkTarget(e, bytes, get(to)), e.set('d', 8, get(to))];
  });
}
define('goTo', (e) => [e.setSlot(SLOT.NEXT_RIP, 8, e.get('a')), e.dispatch]); // a target that `aim` or `checkTarget` has checked
define('dispatch', (e) => e.dispatch);
/** The block ends, the program does not. The instruction is complete, so RIP moves on: a fault in fetching the next belongs to the next. */
define('sequel', (e) => [e.setSlot(SLOT.RIP, 8, e.slotUnsigned(SLOT.NEXT_RIP, 8)), e.dispatch]);
define('raise.gp', (e) => e.fault(VECTOR.GP, 0)); // an instruction of more than 15 bytes
define('system', (e) => [when(call(e.helpers.system, i32.wrap_i64(e.imm)), e.abort), e.dispatch]);

// ## Strings
//
// A REP instruction is a loop of micro-operations around the body of the plain one. Every iteration is complete in itself: registers are
// advanced before the next one starts, so a fault in the middle leaves them saying how far it got, as on a real processor. The budget brings it back to
// a boundary now and then, where an interrupt may be taken; NEXT_RIP is then still the instruction itself.

/** Iterations between two boundaries. */
export const REP_ITERATIONS = 4096;

for (const address of WIDE) {
  const count = (e: Emitter): Code => e.slotUnsigned(SLOT.RCX, address);
  /** rCX = 0: nothing to do, skip imm records. Otherwise opens the budget. */
  define(`repBegin.${address}`, (e) => [
    when(i64.eqz(count(e)), e.skip(i32.wrap_i64(e.imm))),
    e.setWord(
      WORD.REP_BUDGET,
      select(c64(1), c64(REP_ITERATIONS), i32.or(e.word32(WORD.ONE_ITERATION), i32.and(e.field32(OFFSET.RFLAGS), i32.const(FLAG.TF)))),
    ),
  ]);
  // The end of an iteration: goes back imm records while rCX, the budget and, for REPE and REPNE, the outcome of the comparison (the byte a) allow.
  for (const kind of ['always', 'z', 'nz'] as const) {
    define(`repEnd.${address}.${kind}`, (e) => {
      const left = e.local('i64');
      const budget = e.local('i64');
      const more = i32.eqz(i64.eqz(get(left)));
      const equal = i32.wrap_i64(e.getUnsigned('a', 1));
      return [
        e.setSlot(SLOT.RCX, address, tee(left, cut(address, i64.sub(count(e), c64(1))))),
        e.setWord(WORD.REP_BUDGET, tee(budget, i64.sub(e.word(WORD.REP_BUDGET), c64(1)))),
        when(kind === 'always' ? more : i32.and(more, kind === 'z' ? equal : i32.eqz(equal)), [
          when(i64.gt_s(get(budget), c64(0)), e.skip(i32.wrap_i64(e.imm))),
          e.setSlot(SLOT.NEXT_RIP, 8, e.slotUnsigned(SLOT.RIP, 8)),
          kind === 'always' ? [] : e.skip(i32.const(1)), // the comparison that sets the flags waits for the real end
        ]),
      ];
    });
  }
  for (const bytes of SIZES) {
    /** rSI or rDI moves on by one element, in the direction of DF. */
    define(`advance.${bytes}.${address}`, (e) =>
      e.set('d', address, i64.add(e.get('d'), select(c64(-bytes), c64(bytes), i32.and(e.field32(OFFSET.RFLAGS), i32.const(FLAG.DF))))),
    );
  }
}

// Copying and filling whole runs is what these instructions are for. Where both operands lie in pages that the TLB knows, DF is clear and the areas do not
// overlap (an overlapping copy repeats a pattern, which `memory.copy` would not), a run is one operation. It counts against the budget like the
// iterations that it stands for, so time does not depend on which way was taken.

/** Elements from rSI or rDI to the end of its page. */
const room = (bytes: number, address: Code): Code => i64.shr_u(i64.sub(c64(4096), i64.and(address, c64(4095))), c64(Math.log2(bytes)));
const least = (x: Local, y: Code): Code => {
  const kept = y;
  return set(x, select(get(x), kept, i64.lt_u(get(x), kept)));
};
for (const address of [4, 8] as const) {
  for (const bytes of SIZES) {
    const prepare = (e: Emitter, n: Local): Code => [set(n, e.slotUnsigned(SLOT.RCX, address)), least(n, e.word(WORD.REP_BUDGET))];
    const finish = (e: Emitter, n: Local, pointers: readonly number[]): Code => {
      const moved = i64.shl(get(n), c64(Math.log2(bytes)));
      const left = e.local('i64');
      return [
        pointers.map((slot) => e.setSlot(slot, address, i64.add(e.slotUnsigned(slot, address), moved))),
        e.setSlot(SLOT.RCX, address, tee(left, i64.sub(e.slotUnsigned(SLOT.RCX, address), get(n)))),
        e.setWord(WORD.REP_BUDGET, i64.sub(e.word(WORD.REP_BUDGET), get(n))),
        when(i64.eqz(get(left)), e.skip(i32.wrap_i64(e.imm))),
        when(i64.eqz(e.word(WORD.REP_BUDGET)), [e.setSlot(SLOT.NEXT_RIP, 8, e.slotUnsigned(SLOT.RIP, 8)), e.skip(i32.wrap_i64(e.imm))]),
      ];
    };
    const forward = (e: Emitter): Code => i32.eqz(i32.and(e.field32(OFFSET.RFLAGS), i32.const(FLAG.DF)));
    define(`bulkMove.${bytes}.${address}`, (e) => {
      const n = e.local('i64');
      const from = e.local('i32');
      const to = e.local('i32');
      const source = e.slotUnsigned(SLOT.RSI, address);
      const destination = e.slotUnsigned(SLOT.RDI, address);
      const length = i32.shl(i32.wrap_i64(get(n)), i32.const(Math.log2(bytes)));
      return when(forward(e), [
        prepare(e, n),
        least(n, room(bytes, source)),
        least(n, room(bytes, destination)),
        set(from, e.probe(source, 0)),
        set(to, e.probe(destination, 1)),
        when(
          i32.and(
            i32.and(i64.gt_u(get(n), c64(1)), i32.and(i32.ne(get(from), i32.const(0)), i32.ne(get(to), i32.const(0)))),
            i32.ge_u(i32.sub(get(to), get(from)), length),
          ),
          [memoryCopy(get(to), get(from), length), finish(e, n, [SLOT.RSI, SLOT.RDI])],
        ),
      ]);
    });
    define(`bulkFill.${bytes}.${address}`, (e) => {
      const n = e.local('i64');
      const to = e.local('i32');
      const end = e.local('i32');
      const pattern = e.local('i64');
      const again = new Label();
      const destination = e.slotUnsigned(SLOT.RDI, address);
      const length = i32.shl(i32.wrap_i64(get(n)), i32.const(Math.log2(bytes)));
      const element = { 1: i64.store8, 2: i64.store16, 4: i64.store32, 8: i64.store }[bytes];
      const fill =
        bytes === 1
          ? memoryFill(get(to), i32.wrap_i64(get(pattern)), length)
          : [
              set(end, i32.add(get(to), length)),
              loop(again, [element(get(to), get(pattern)), brIf(again, i32.ne(tee(to, i32.add(get(to), i32.const(bytes))), get(end)))]),
            ];
      return when(forward(e), [
        prepare(e, n),
        least(n, room(bytes, destination)),
        set(to, e.probe(destination, 1)),
        when(i32.and(i64.gt_u(get(n), c64(1)), i32.ne(get(to), i32.const(0))), [
          set(pattern, e.slotUnsigned(SLOT.RAX, bytes)),
          fill,
          finish(e, n, [SLOT.RDI]),
        ]),
      ]);
    });
  }
}

// ## Checks with an outcome

for (const bytes of [2, 4] as const) {
  /** BOUND: index d within [a, b], signed. */
  define(`bound.${bytes}`, (e) =>
    when(i32.or(i64.lt_s(e.get('d', bytes), e.get('a', bytes)), i64.gt_s(e.get('d', bytes), e.get('b', bytes))), e.fault(VECTOR.BR)),
  );
}

// ## Decimal
//
// Adjustments of the result of an addition or subtraction of decimal digits, from the days of the 8080. All work on AL (and AH).

const AL = (e: Emitter): Code => e.slotUnsigned(SLOT.RAX, 1);
const auxiliary = (e: Emitter): Code => i64.and(i64.shr_u(carryWord(e), c64(AF_BIT)), c64(1));
/** Flags after an adjustment: SF, ZF, PF of AL; CF and AF as given (0 or 1); OF is undefined and cleared. */
const adjusted = (e: Emitter, carry: Code, aux: Code): Code => [
  e.setSlot(SLOT.CC_A, 8, i64.or(i64.shl(carry, c64(63)), i64.shl(aux, c64(AF_BIT)))),
  e.setSlot(SLOT.CC_RESULT, 8, e.slotSigned(SLOT.RAX, 1)),
  e.setSlot(SLOT.CC_B, 8, c64(0)),
];
for (const [name, combine] of [
  ['daa', i64.add],
  ['das', i64.sub],
] as const) {
  define(name, (e) => {
    const old = e.local('i64');
    const low = e.local('i64');
    const high = e.local('i64');
    const carry = e.local('i64');
    const digit = i64.extend_i32_u(i64.gt_u(i64.and(get(old), c64(15)), c64(9)));
    // DAS may borrow out of AL while it corrects the low digit; that counts as a carry too.
    const borrow = name === 'das' ? i64.and(get(low), i64.extend_i32_u(i64.lt_u(get(old), c64(6)))) : c64(0);
    return [
      set(old, AL(e)),
      set(low, i64.or(digit, auxiliary(e))),
      set(high, i64.or(i64.extend_i32_u(i64.gt_u(get(old), c64(0x99))), carryIn(e))),
      set(carry, i64.or(get(high), borrow)),
      e.setSlot(SLOT.RAX, 1, combine(combine(get(old), i64.mul(get(low), c64(6))), i64.mul(get(high), c64(0x60)))),
      adjusted(e, get(carry), get(low)),
    ];
  });
}
for (const [name, combine] of [
  ['aaa', i64.add],
  ['aas', i64.sub],
] as const) {
  define(name, (e) => {
    const adjust = e.local('i64');
    return [
      set(adjust, i64.or(i64.extend_i32_u(i64.gt_u(i64.and(AL(e), c64(15)), c64(9))), auxiliary(e))),
      e.setSlot(SLOT.RAX, 2, combine(e.slotUnsigned(SLOT.RAX, 2), i64.mul(get(adjust), c64(0x106)))),
      e.setSlot(SLOT.RAX, 1, i64.and(AL(e), c64(15))),
      adjusted(e, get(adjust), get(adjust)),
    ];
  });
}
define('aam', (e) => {
  const al = e.local('i64');
  const base = i64.and(e.imm, c64(0xff));
  return [
    when(i64.eqz(base), e.fault(VECTOR.DE)),
    set(al, AL(e)),
    e.setSlot(SLOT.RAX, 2, i64.or(i64.shl(i64.div_u(get(al), base), c64(8)), i64.rem_u(get(al), base))),
    adjusted(e, c64(0), c64(0)),
  ];
});
// An addition of bytes, with the flags of one, although the manual defines only three of them.
define('aad', (e) => {
  const [kept, a, b] = keep(e, e.slotSigned(SLOT.RAX, 1), i64.extend8_s(i64.mul(i64.shr_u(e.slotUnsigned(SLOT.RAX, 2), c64(8)), e.imm))) as [
    Code,
    Code,
    Code,
  ];
  const r = e.local('i64');
  return [
    kept,
    set(r, i64.extend8_s(i64.add(a, b))),
    setFlags(e, get(r), carries(a, b, get(r)), addOverflow(a, b, get(r))),
    e.setSlot(SLOT.RAX, 2, i64.and(get(r), c64(0xff))),
  ];
});
