// # The x87
//
// The floating-point unit has eight opcodes to itself, D8 to DF. With an operand in memory, ModRM's reg field and the opcode make the operation; without,
// the whole ModRM byte does. Its instructions *wait*: before anything else, an exception that an earlier one left pending is raised. The exceptions to the
// rule are the control instructions whose mnemonic begins with FN.

import '../engine/float/x87-stack.ts';
import { PF_DELTA } from '../engine/flags.ts';
import { EXCEPTION, HOW } from '../engine/float/soft-float.ts';
import { STATUS, SUBTRACT, setResult, UNIT } from '../engine/float/x87-numbers.ts';
import { instructionWord, POP, POP_TWICE, PREVENTS_STORE, QUIET_COMPARISON } from '../engine/float/x87-stack.ts';
import { define, type Emitter, microOp } from '../engine/micro-ops.ts';
import { type Code, get, i32, i64, select, set, when } from '../engine/wasm-assembler.ts';
import { VECTOR } from '../faults.ts';
import { CR0, OFFSET, SEG, SLOT } from '../state.ts';
import { type Builder, type Micro, slot } from './builder.ts';
import { type Definition, instruction as entry } from './encoding.ts';
import { NONE } from './instruction.ts';

/** All of these came with the unit. */
const instruction = (name: string, encodings: string, build: (b: Builder) => void): Definition =>
  entry(name, encodings.replaceAll(/(?=;|$)/g, ' X87'), build);

const n32 = i32.const;
const c64 = (value: number): Code => i64.const(BigInt(value));
const bits = (value: Code, mask: number): Code => i32.and(value, n32(mask));
const fcw = (e: Emitter): Code => i32.load16_u(e.state(UNIT.FCW));
const fsw = (e: Emitter): Code => i32.load16_u(e.state(UNIT.FSW));
const setFsw = (e: Emitter, value: Code): Code => i32.store16(e.state(UNIT.FSW), value);

// ## Beginnings
//
// Without CR0.NE a pending exception is not #MF: it goes out on a pin, FERR#, to an interrupt controller that this processor does not have, and the
// instruction is executed.

// @clause x86.exception.device-not-available
const available = (e: Emitter): Code => when(bits(e.field32(OFFSET.CR0), CR0.EM | CR0.TS), e.fault(VECTOR.NM));
// @clause x87.exception.waiting
const wait = (e: Emitter): Code => when(bits(fsw(e), STATUS.ES), when(bits(e.field32(OFFSET.CR0), CR0.NE), e.fault(VECTOR.MF)));
const ready = (e: Emitter): Code => [available(e), wait(e)];

const outlined = (name: string, meaning: (e: Emitter) => Code): void => define(name, meaning, { outlined: true });
outlined('x87.ready', ready);
outlined('x87.available', available);

// ## Ends
//
// The unit remembers the address of its last instruction; and when one has made an exception pending, its opcode and the offset of its operand in memory. The
// upper half of the immediate says what those are.
//
// ```
//  31      26 25    20  19  17  16  15  11 10       0
// +----------+--------+-------+----+------+----------+
// |          | place  |       | SS |      |  opcode  |
// +----------+--------+-------+----+------+----------+
// ```

const OPCODE = 0x7ff;
const STACK = 1 << 16;
const PLACE_SHIFT = 20;

// @clause x87.environment.formats
const settle = (e: Emitter, pending: Code, memory: boolean): Code => [
  when(pending, e.call('x87.located', memory ? i64.add(e.get('a'), e.immLow) : c64(0), bits(e.immHigh32, OPCODE), n32(Number(memory)))),
  e.setField(UNIT.FIP, e.slotUnsigned(SLOT.RIP, 8)),
];

/** An instruction on registers: one micro-operation, and what it is to do as the lower half of the immediate. */
const onRegisters = (name: string, meaning: (e: Emitter, what: Code) => Code): void =>
  outlined(name, (e) => [ready(e), settle(e, meaning(e, i32.wrap_i64(e.imm)), false)]);
/** One on memory, after `x87.ready`: operand a and the lower half of the immediate are the offset, operand b is the number. */
const onMemory = (name: string, meaning: (e: Emitter) => Code): void => outlined(name, (e) => settle(e, meaning(e), true));

const opcodeOf = ({ insn }: Builder): number => ((insn.opcode & 7) << 8) | (insn.mod << 6) | ((insn.reg & 7) << 3) | (insn.rm & 7);
const immediate = (low: bigint | number, high: number): bigint => BigInt.asUintN(32, BigInt(low)) | (BigInt(high) << 32n);
const sti = (b: Builder): number => b.insn.rm & 7;
const emit = (b: Builder, name: string, what: number): void => b.emit(name, { imm: immediate(what, opcodeOf(b)) });

const READ = 0;
const WRITE = 1;
interface Operand {
  readonly address: ReturnType<Builder['address']>;
  /** Where its offset within the segment is. */
  readonly offset: { readonly at: number; readonly disp: bigint };
}
/** The memory operand, after the conditions that come before it. */
function memory(b: Builder, bytes: number, access: number): Operand {
  b.emit('x87.ready');
  const { base, index, segment, addressSize } = b.insn;
  if (b.isDirect(segment, addressSize, access) && base !== NONE && index === NONE) {
    const address = b.address(bytes, access);
    return { address, offset: address };
  }
  const at = b.offset();
  return { address: { at: b.linear(at, segment, bytes, access), disp: 0n, stack: segment === SEG.SS }, offset: { at, disp: 0n } };
}

// ## Formats

interface Format {
  readonly bytes: number;
  /** Makes a number of the x87 from what `load` gives. */
  readonly widen: (e: Emitter, loaded: Code) => Code;
}
const integer =
  (extend: (x: Code) => Code) =>
  (e: Emitter, loaded: Code): Code =>
    e.call('x87.fromInteger', extend(loaded));
const FORMATS: Readonly<Record<string, Format>> = {
  single: { bytes: 4, widen: (e, loaded) => e.call('x87.fromSingle', loaded) },
  double: { bytes: 8, widen: (e, loaded) => e.call('x87.fromDouble', loaded) },
  int16: { bytes: 2, widen: integer(i64.extend16_s) },
  int32: { bytes: 4, widen: integer(i64.extend32_s) },
  int64: { bytes: 8, widen: integer((x) => x) },
};
type FormatName = 'single' | 'double' | 'int16' | 'int32' | 'int64';
const ARITHMETIC_FORMATS: readonly FormatName[] = ['single', 'double', 'int16', 'int32'];

const linear = (e: Emitter, mask: number, further = 0): Code => {
  const sum = i64.add(i64.add(e.get('a'), e.immLow), c64(further));
  return mask === 8 ? sum : i64.extend_i32_u(i32.wrap_i64(sum));
};
const stack = (e: Emitter): Code => bits(e.immHigh32, STACK);
const place = (e: Emitter): Code => i32.shr_u(e.immHigh32, n32(PLACE_SHIFT));

// A store that an exception prevents does not look at its operand's segment either. Where that has to be checked, a micro-operation before decides.

const prevented = (name: string, bytes: number, flags: (e: Emitter) => Code): void =>
  define(`x87.prevented.${name}`, (e) => {
    const found = e.local('i32');
    // What does not happen then: the check of the segment and the store; for ten bytes both of them twice, and an address in between.
    const toStore = bytes === TEN ? 5 : 2;
    return [
      set(found, flags(e)),
      when(i32.eqz(allowed(e, get(found))), [
        when(e.call('x87.leave', get(found), place(e)), e.call('x87.located', i64.add(e.get('b'), e.immLow), bits(e.immHigh32, OPCODE), n32(1))),
        e.setField(UNIT.FIP, e.slotUnsigned(SLOT.RIP, 8)),
        e.skip(n32(toStore)),
      ]),
    ];
  });

/** Emits a micro-operation that makes its own access. It finds address and offset in the same operand unless a segment's base lies between. */
function access(b: Builder, name: string, bytes: number, kind: number, where = 0): void {
  const { address, offset } = memory(b, bytes === TEN ? FIRST : bytes, kind);
  const high = opcodeOf(b) | (address.stack ? STACK : 0) | (where << PLACE_SHIFT);
  const operands = { a: address.at, b: offset.at, imm: immediate(address.disp, high) };
  const checks = b.micros.at(-1)?.op === microOp('segment');
  if (kind === WRITE && checks) {
    const check = b.micros.pop() as Micro;
    b.emit(name.replace('store', 'prevented'), operands);
    b.micros.push(check);
  }
  const width = b.code64 ? 8 : 4;
  // The second offset is cut to the address size, too.
  if (bytes === TEN && (checks || b.insn.addressSize !== width)) inTwo(b, name, operands, kind);
  else b.emit(`${name}.${width}`, operands);
}

// Ten bytes are eight and then two, each with checks of its own: an operand that reaches over a limit by less than two bytes finds a page fault in the first eight
// before the limit, and a store has stored them.

const TEN = 10;
const FIRST = 8;
/** The rest of `access` for ten bytes whose second part needs an address of its own. If the first eight need a check, it has just been emitted. */
function inTwo(b: Builder, name: string, first: { a: number; b: number; imm: bigint }, kind: number): void {
  const { segment, addressSize } = b.insn;
  const width = b.code64 ? 8 : 4;
  const d = b.temporary();
  const offset = b.temporary();
  if (kind === WRITE) b.emit(`${name}.first.${width}`, first);
  else b.load({ at: first.a, disp: 0n, stack: segment === SEG.SS }, FIRST, d);
  b.emit(`lea.${addressSize}.base`, { d: offset, a: first.b, imm: immediate(FIRST, 0) });
  b.emit(`${name}.second.${width}`, { ...first, d, a: b.linear(offset, segment, TEN - FIRST, kind) });
}
const MASKS = [8, 4] as const;
/** The same in the table: the offset is operand b and the displacement, which is zero when b is not a. */
const accesses = (name: string, meaning: (e: Emitter, mask: 4 | 8) => Code): void => {
  for (const mask of MASKS) {
    outlined(`${name}.${mask}`, (e) => [
      when(meaning(e, mask), e.call('x87.located', i64.add(e.get('b'), e.immLow), bits(e.immHigh32, OPCODE), n32(1))),
      e.setField(UNIT.FIP, e.slotUnsigned(SLOT.RIP, 8)),
    ]);
  }
};

// ## Loading

for (const [name, { bytes, widen }] of Object.entries(FORMATS)) {
  accesses(`x87.load.${name}`, (e, mask) => {
    const [value, word] = [e.local('i64'), e.local('i32')];
    const number = [setResult(value, word, widen(e, e.load(bytes, linear(e, mask), stack(e))))];
    if (name.startsWith('int')) return [number, e.call('x87.push', get(value), i32.shl(get(word), n32(16)))];
    return [number, e.call('x87.push', e.call('x87.admit', get(value), get(word)))];
  });
}
/** Ten bytes in one go, and the second part where the first is in operand d already. */
const loadsOfTen = (name: string, push: (e: Emitter, low: Code, high: Code) => Code): void => {
  const parts = (e: Emitter, first: Code, second: Code): Code => {
    const [low, high] = [e.local('i64'), e.local('i64')];
    return [set(low, first), set(high, second), push(e, get(low), get(high))];
  };
  accesses(name, (e, mask) => parts(e, e.load(FIRST, linear(e, mask), stack(e)), e.load(TEN - FIRST, linear(e, mask, FIRST), stack(e))));
  accesses(`${name}.second`, (e, mask) => parts(e, e.get('d'), e.load(TEN - FIRST, linear(e, mask), stack(e))));
};
loadsOfTen('x87.load.extended', (e, low, high) => e.call('x87.push', low, i32.shl(i32.wrap_i64(high), n32(16))));
loadsOfTen('x87.load.decimal', (e, low, high) => {
  const [value, word] = [e.local('i64'), e.local('i32')];
  return [setResult(value, word, e.call('x87.fromDecimal', low, high)), e.call('x87.push', get(value), i32.shl(get(word), n32(16)))];
});
onRegisters('x87.duplicate', (e, what) => e.call('x87.duplicate', what));

const loadFrom =
  (format: FormatName | 'extended' | 'decimal', bytes: number) =>
  (b: Builder): void =>
    access(b, `x87.load.${format}`, bytes, READ);
// biome-ignore format: table
const LOADS = [
  instruction('FLD', 'D9/C0+', (b) => emit(b, 'x87.duplicate', sti(b))),
  instruction('FLD', 'D9/0 Md', loadFrom('single', 4)),
  instruction('FLD', 'DD/0 Mq', loadFrom('double', 8)),
  instruction('FLD', 'DB/5 Mt', loadFrom('extended', 10)),
  instruction('FILD', 'DF/0 Mw', loadFrom('int16', 2)),
  instruction('FILD', 'DB/0 Md', loadFrom('int32', 4)),
  instruction('FILD', 'DF/5 Mq', loadFrom('int64', 8)),
  instruction('FBLD', 'DF/4 Mt', loadFrom('decimal', 10)),
];

// ## Storing

/** True when the flags let a result be stored. */
const allowed = (e: Emitter, flags: Code): Code => i32.eqz(bits(i32.and(flags, i32.xor(fcw(e), n32(-1))), PREVENTS_STORE));
const storing = (name: string, bytes: number, convert: (e: Emitter) => Code): void => {
  prevented(name, bytes, (e) => {
    const [value, flags] = [e.local('i64'), e.local('i32')];
    return [setResult(value, flags, convert(e)), get(flags)];
  });
  accesses(`x87.store.${name}`, (e, mask) => {
    const [value, flags] = [e.local('i64'), e.local('i32')];
    return [
      setResult(value, flags, convert(e)),
      when(allowed(e, get(flags)), e.store(bytes, linear(e, mask), get(value), stack(e))),
      e.call('x87.leave', get(flags), place(e)),
    ];
  });
};
storing('single', 4, (e) => e.call('x87.toSingle.top'));
storing('double', 8, (e) => e.call('x87.toDouble.top'));
for (const bytes of [2, 4, 8] as const) {
  storing(`int${8 * bytes}`, bytes, (e) => e.call('x87.toInteger.top', n32(8 * bytes), n32(0)));
  storing(`truncated${8 * bytes}`, bytes, (e) => e.call('x87.toInteger.top', n32(8 * bytes), n32(HOW.TRUNCATE)));
}
/** When the second of the two stores faults, the first has been made: so it is on a real processor. */
const storingTen = (name: string, convert: (e: Emitter) => Code): void => {
  const converted = (e: Emitter, then: (low: Code, high: Code, flags: Code) => Code): Code => {
    const [low, high, flags] = [e.local('i64'), e.local('i64'), e.local('i32')];
    return [convert(e), set(flags, []), set(high, []), set(low, []), then(get(low), get(high), get(flags))];
  };
  prevented(name, TEN, (e) => converted(e, (_low, _high, flags) => flags));
  const first = (e: Emitter, mask: number, low: Code): Code => e.store(FIRST, linear(e, mask), low, stack(e));
  accesses(`x87.store.${name}`, (e, mask) =>
    converted(e, (low, high, flags) => [
      when(allowed(e, flags), [first(e, mask, low), e.store(TEN - FIRST, linear(e, mask, FIRST), high, stack(e))]),
      e.call('x87.leave', flags, place(e)),
    ]),
  );
  for (const mask of MASKS)
    outlined(`x87.store.${name}.first.${mask}`, (e) => converted(e, (low, _high, flags) => when(allowed(e, flags), first(e, mask, low))));
  accesses(`x87.store.${name}.second`, (e, mask) =>
    converted(e, (_low, high, flags) => [
      when(allowed(e, flags), e.store(TEN - FIRST, linear(e, mask), high, stack(e))),
      e.call('x87.leave', flags, place(e)),
    ]),
  );
};
storingTen('extended', (e) => e.call('x87.whole.top'));
storingTen('decimal', (e) => e.call('x87.toDecimal.top'));
onRegisters('x87.copy', (e, what) => e.call('x87.copy', what));

const storeTo =
  (format: string, bytes: number, where = 0) =>
  (b: Builder): void =>
    access(b, `x87.store.${format}`, bytes, WRITE, where);
// biome-ignore format: table
const STORES = [
  instruction('FST', 'DD/D0+', (b) => emit(b, 'x87.copy', sti(b))),
  // The others are not in the manual; they have been there since the 8087. One of them does not mind when ST(0) is empty.
  instruction('FSTP', 'DD/D8+; DF/D0+; DF/D8+', (b) => emit(b, 'x87.copy', sti(b) | POP)),
  instruction('FSTPNCE', 'D9/D8+', (b) => emit(b, 'x87.copyIfAny', sti(b) | POP)),
  instruction('FST', 'D9/2 Md', storeTo('single', 4)), instruction('FSTP', 'D9/3 Md', storeTo('single', 4, POP)),
  instruction('FST', 'DD/2 Mq', storeTo('double', 8)), instruction('FSTP', 'DD/3 Mq', storeTo('double', 8, POP)),
  instruction('FSTP', 'DB/7 Mt', storeTo('extended', 10, POP)),
  instruction('FIST', 'DF/2 Mw', storeTo('int16', 2)), instruction('FISTP', 'DF/3 Mw', storeTo('int16', 2, POP)),
  instruction('FIST', 'DB/2 Md', storeTo('int32', 4)), instruction('FISTP', 'DB/3 Md', storeTo('int32', 4, POP)),
  instruction('FISTP', 'DF/7 Mq', storeTo('int64', 8, POP)),
  instruction('FISTTP', 'DF/1 Mw', storeTo('truncated16', 2, POP)),
  instruction('FISTTP', 'DB/1 Md', storeTo('truncated32', 4, POP)),
  instruction('FISTTP', 'DD/1 Mq', storeTo('truncated64', 8, POP)),
  instruction('FBSTP', 'DF/6 Mt', storeTo('decimal', 10, POP)),
];

// ## Arithmetic
//
// Six operations by the reg field: 0 ADD, 1 MUL, 4 SUB, 5 SUBR, 6 DIV, 7 DIVR (2 and 3 compare). D8 has ST(0) as destination; DC and DE have ST(i), and there, by an
// accident of the 8087 that could never be repaired, the codes of the reversed forms are exchanged.

interface Operation {
  readonly name: string;
  readonly digit: number;
  readonly does: 'add' | 'multiply' | 'divide';
  readonly reversed: boolean;
  readonly extra: number;
}
// biome-ignore format: table
const OPERATIONS: readonly Operation[] = [
  { name: 'ADD', digit: 0, does: 'add', reversed: false, extra: 0 },
  { name: 'MUL', digit: 1, does: 'multiply', reversed: false, extra: 0 },
  { name: 'SUB', digit: 4, does: 'add', reversed: false, extra: SUBTRACT },
  { name: 'SUBR', digit: 5, does: 'add', reversed: true, extra: SUBTRACT },
  { name: 'DIV', digit: 6, does: 'divide', reversed: false, extra: 0 },
  { name: 'DIVR', digit: 7, does: 'divide', reversed: true, extra: 0 },
];
for (const does of ['add', 'multiply', 'divide']) onRegisters(`x87.${does}`, (e, what) => e.call(`x87.${does}.registers`, what));

const LOADED: Readonly<Record<string, (e: Emitter) => Code>> = Object.fromEntries(
  ARITHMETIC_FORMATS.map((format) => [format, (e: Emitter) => (FORMATS[format] as Format).widen(e, e.getUnsigned('b'))]),
);
const loaded = (format: string, e: Emitter): Code => (LOADED[format] as (e: Emitter) => Code)(e);
for (const format of ARITHMETIC_FORMATS) {
  for (const { name, does, reversed, extra } of OPERATIONS) {
    onMemory(`x87.${name}.${format}`, (e) => e.call(`x87.${does}.memory`, loaded(format, e), n32(extra | Number(reversed))));
  }
}

/** Loads the operand, then does the named operation on ST(0) and it. */
const withMemory =
  (name: string, format: FormatName) =>
  (b: Builder): void => {
    const { bytes } = FORMATS[format] as Format;
    const { address, offset } = memory(b, bytes, READ);
    const value = b.load(address, bytes);
    b.emit(`x87.${name}.${format}`, { a: offset.at, b: value, imm: immediate(offset.disp, opcodeOf(b)) });
  };
const registersFor = (digit: number): string => (0xc0 + 8 * digit).toString(16).toUpperCase();

// @clause x87.arithmetic.results
// @clause x87.rounding.control
const ARITHMETIC: Definition[] = OPERATIONS.flatMap(({ name, digit, does, reversed, extra }) => {
  // Subtractions and divisions stand in pairs of codes, which differ in the lowest bit.
  const opposite = digit < 4 ? digit : digit ^ 1;
  const toStack = (pops: number) => (b: Builder) => {
    const i = sti(b);
    emit(b, `x87.${does}`, instructionWord(reversed ? 0 : i, reversed ? i : 0, i | pops, extra));
  };
  return [
    instruction(`F${name}`, `D8/${registersFor(digit)}+`, (b) =>
      emit(b, `x87.${does}`, instructionWord(reversed ? sti(b) : 0, reversed ? 0 : sti(b), 0, extra)),
    ),
    instruction(`F${name}`, `DC/${registersFor(opposite)}+`, toStack(0)),
    instruction(`F${name}P`, `DE/${registersFor(opposite)}+`, toStack(POP)),
    instruction(`F${name}`, `D8/${digit} Md`, withMemory(name, 'single')),
    instruction(`F${name}`, `DC/${digit} Mq`, withMemory(name, 'double')),
    instruction(`FI${name}`, `DA/${digit} Md`, withMemory(name, 'int32')),
    instruction(`FI${name}`, `DE/${digit} Mw`, withMemory(name, 'int16')),
  ];
});

// ## One operand

onRegisters('x87.sqrt', (e) => e.call('x87.sqrt.top'));
onRegisters('x87.roundToInteger', (e) => e.call('x87.roundToInteger.top'));
onRegisters('x87.changeSign', (e, what) => e.call('x87.changeSign', i32.shr_u(what, n32(16)), bits(what, 0xffff)));
onRegisters('x87.examine', (e) => [e.call('x87.examine.top'), n32(0)]);
onRegisters('x87.nop', () => n32(0));
const simple = (name: string, encodings: string, micro: string, what = 0): Definition => instruction(name, encodings, (b) => emit(b, micro, what));
// biome-ignore format: table
const UNARY = [
  simple('FCHS', 'D9/E0', 'x87.changeSign', 0x8000 << 16), simple('FABS', 'D9/E1', 'x87.changeSign', 0x8000),
  simple('FSQRT', 'D9/FA', 'x87.sqrt'), simple('FRNDINT', 'D9/FC', 'x87.roundToInteger'), simple('FXAM', 'D9/E5', 'x87.examine'),
  simple('FNOP', 'D9/D0', 'x87.nop'),
];

// ## Constants
//
// What the lower 64 bits of each are, its upper word, and whether it grows when rounding up (1) and to nearest (2).

// biome-ignore format: table
const CONSTANTS: readonly (readonly [name: string, modrm: string, significand: bigint, word: number, rounding: number])[] = [
  ['FLD1', 'E8', 0x8000000000000000n, 0x3fff, 0],
  ['FLDL2T', 'E9', 0xd49a784bcd1b8afen, 0x4000, 1],
  ['FLDL2E', 'EA', 0xb8aa3b295c17f0bbn, 0x3fff, 3],
  ['FLDPI', 'EB', 0xc90fdaa22168c234n, 0x4000, 3],
  ['FLDLG2', 'EC', 0x9a209a84fbcff798n, 0x3ffd, 3],
  ['FLDLN2', 'ED', 0xb17217f7d1cf79abn, 0x3ffe, 3],
  ['FLDZ', 'EE', 0n, 0, 0],
];
for (const [name, , significand, word, rounding] of CONSTANTS) {
  onRegisters(`x87.${name}`, (e) => e.call('x87.constant', i64.const(significand), n32(word), n32(rounding)));
}
const CONSTANT_LOADS = CONSTANTS.map(([name, modrm]) => simple(name, `D9/${modrm}`, `x87.${name}`));

// ## The stack

onRegisters('x87.exchange', (e, what) => e.call('x87.exchange', what));
for (const name of ['rotate', 'free', 'copyIfAny']) onRegisters(`x87.${name}`, (e, what) => e.call(`x87.${name}`, what));
// biome-ignore format: table
const STACK_INSTRUCTIONS = [
  instruction('FXCH', 'D9/C8+; DD/C8+; DF/C8+', (b) => emit(b, 'x87.exchange', sti(b))),
  simple('FDECSTP', 'D9/F6', 'x87.rotate', 7), simple('FINCSTP', 'D9/F7', 'x87.rotate', 1),
  instruction('FFREE', 'DD/C0+', (b) => emit(b, 'x87.free', sti(b))),
  // Not in the manual either.
  instruction('FFREEP', 'DF/C0+', (b) => emit(b, 'x87.free', sti(b) | POP)),
];

const CONDITIONAL_MOVES = (
  [
    ['B', 'DA/C0+', 'b'],
    ['E', 'DA/C8+', 'z'],
    ['BE', 'DA/D0+', 'be'],
    ['U', 'DA/D8+', 'p'],
    ['NB', 'DB/C0+', 'nb'],
    ['NE', 'DB/C8+', 'nz'],
    ['NBE', 'DB/D0+', 'nbe'],
    ['NU', 'DB/D8+', 'np'],
  ] as const
).map(([name, encoding, condition]) =>
  instruction(`FCMOV${name}`, encoding, (b) => {
    const d = b.temporary();
    b.emit(`set.${condition}`, { d });
    b.emit('x87.pick', { b: d, imm: immediate(sti(b), opcodeOf(b)) });
  }),
);
onRegisters('x87.pick', (e, what) => e.call('x87.pick', what, i32.wrap_i64(e.getUnsigned('b', 1))));

// ## Comparisons

onRegisters('x87.compare', (e, what) => e.call('x87.compared', e.call('x87.compare.registers', what), what));
onRegisters('x87.compareZero', (e, what) => e.call('x87.compared', e.call('x87.compare.memory', c64(0), n32(0), what), what));
// The processor's own flags: ZF, PF and CF are C3, C2 and C0.
onRegisters('x87.compareFlags', (e, what) => {
  const answer = e.local('i32');
  const equal = bits(get(answer), STATUS.C3);
  const unordered = bits(get(answer), STATUS.C2);
  return [
    set(answer, e.call('x87.compare.registers', what)),
    e.setSlot(SLOT.CC_RESULT, 8, select(c64(0), c64(0x101), equal)), // 101: neither zero nor of even parity
    e.setSlot(
      SLOT.CC_A,
      8,
      i64.or(
        i64.shl(i64.extend_i32_u(i32.shr_u(get(answer), n32(8))), c64(63)),
        select(select(c64(0), c64(1 << PF_DELTA), unordered), c64(0), equal),
      ),
    ),
    e.setSlot(SLOT.CC_B, 8, c64(0)),
    e.call('x87.comparedFlags', get(answer), what),
  ];
});
const COMPARE = { COM: 0, COMP: POP } as const;
for (const format of ARITHMETIC_FORMATS) {
  for (const [name, pops] of Object.entries(COMPARE)) {
    const what = n32(instructionWord(0, 0, pops));
    onMemory(`x87.${name}.${format}`, (e) => e.call('x87.compared', e.call('x87.compare.memory', loaded(format, e), what), what));
  }
}
const comparison = (name: string, encodings: string, pops: number, quiet = 0, micro = 'x87.compare'): Definition =>
  instruction(name, encodings, (b) => emit(b, micro, instructionWord(0, sti(b), pops, quiet)));
// biome-ignore format: table
const COMPARISONS = [
  // DC/D0, DC/D8 and DE/D0 are older than the manual.
  comparison('FCOM', 'D8/D0+; DC/D0+', 0), comparison('FCOMP', 'D8/D8+; DC/D8+; DE/D0+', POP), comparison('FCOMPP', 'DE/D9', POP_TWICE),
  comparison('FUCOM', 'DD/E0+', 0, QUIET_COMPARISON), comparison('FUCOMP', 'DD/E8+', POP, QUIET_COMPARISON),
  comparison('FUCOMPP', 'DA/E9', POP_TWICE, QUIET_COMPARISON),
  comparison('FCOMI', 'DB/F0+', 0, 0, 'x87.compareFlags'), comparison('FCOMIP', 'DF/F0+', POP, 0, 'x87.compareFlags'),
  comparison('FUCOMI', 'DB/E8+', 0, QUIET_COMPARISON, 'x87.compareFlags'), comparison('FUCOMIP', 'DF/E8+', POP, QUIET_COMPARISON, 'x87.compareFlags'),
  simple('FTST', 'D9/E4', 'x87.compareZero'),
  ...(['COM', 'COMP'] as const).flatMap((name, n) => [
    instruction(`F${name}`, `D8/${2 + n} Md`, withMemory(name, 'single')), instruction(`F${name}`, `DC/${2 + n} Mq`, withMemory(name, 'double')),
    instruction(`FI${name}`, `DA/${2 + n} Md`, withMemory(name, 'int32')), instruction(`FI${name}`, `DE/${2 + n} Mw`, withMemory(name, 'int16')),
  ]),
];

// ## Control
//
// The control word decides which exceptions are masked, so loading it can make an old flag pending, or end that.

const EXCEPTIONS = EXCEPTION.IE | EXCEPTION.DE | EXCEPTION.ZE | EXCEPTION.OE | EXCEPTION.UE | EXCEPTION.PE;
const FCW_WRITABLE = 0x1f3f;
const FCW_FIXED = 0x40;
const FCW_INITIAL = 0x37f;
const CLEARED = 0x80ff;

outlined('x87.setControl', (e) => {
  const status = e.local('i32');
  return [
    i32.store16(e.state(UNIT.FCW), i32.or(bits(i32.wrap_i64(e.get('b')), FCW_WRITABLE), n32(FCW_FIXED))),
    set(status, bits(fsw(e), ~(STATUS.ES | STATUS.B))),
    setFsw(e, i32.or(get(status), select(n32(STATUS.ES | STATUS.B), n32(0), bits(i32.and(get(status), i32.xor(fcw(e), n32(-1))), EXCEPTIONS)))),
  ];
});
outlined('x87.clear', (e) => [available(e), setFsw(e, bits(fsw(e), ~CLEARED))]);
outlined('x87.initialise', (e) => [
  available(e),
  i32.store16(e.state(UNIT.FCW), n32(FCW_INITIAL)),
  setFsw(e, n32(0)),
  i32.store8(e.state(UNIT.FTW), n32(0)),
  i32.store16(e.state(UNIT.FOP), n32(0)),
  e.setField(UNIT.FIP, c64(0)),
  e.setField(UNIT.FDP, c64(0)),
]);
outlined('x87.getStatus', (e) => e.set('d', 2, i64.extend_i32_u(fsw(e))));
outlined('x87.getControl', (e) => e.set('d', 2, i64.extend_i32_u(fcw(e))));
// @clause x86.exception.device-not-available
outlined('x87.wait', (e) => [when(i32.eq(bits(e.field32(OFFSET.CR0), CR0.MP | CR0.TS), n32(CR0.MP | CR0.TS)), e.fault(VECTOR.NM)), wait(e)]);

const storeWord = (micro: string) => (b: Builder) => {
  b.emit('x87.available');
  b.write(0, (d) => b.emit(micro, { d }));
};
const CONTROL = [
  instruction('FLDCW', 'D9/5 Mw', (b) => {
    b.emit('x87.ready');
    b.emit('x87.setControl', { b: b.value(0) });
  }),
  instruction('FNSTCW', 'D9/7 Mw', storeWord('x87.getControl')),
  instruction('FNSTSW', 'DD/7 Mw', storeWord('x87.getStatus')),
  instruction('FNSTSW', 'DF/E0', (b) => {
    b.emit('x87.available');
    b.emit('x87.getStatus', { d: slot(SLOT.RAX) });
  }),
  instruction('FNCLEX', 'DB/E2', (b) => b.emit('x87.clear')),
  instruction('FNINIT', 'DB/E3', (b) => b.emit('x87.initialise')),
  instruction('FWAIT', '9B', (b) => b.emit('x87.wait')),
  // What enabled interrupts of the 8087 and protected mode of the 80287 does nothing any more.
  instruction('FNENI FNDISI FNSETPM', 'DB/E0; DB/E1; DB/E4', (b) => b.emit('x87.available')),
];

/** Every instruction of the unit but the transcendental functions and those that save its state. */
export const X87: readonly Definition[] = [
  ...LOADS,
  ...STORES,
  ...ARITHMETIC,
  ...UNARY,
  ...CONSTANT_LOADS,
  ...STACK_INSTRUCTIONS,
  ...CONDITIONAL_MOVES,
  ...COMPARISONS,
  ...CONTROL,
];
