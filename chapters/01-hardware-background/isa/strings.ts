// # String instructions
//
// One element at a time, between the accumulator, DS:rSI and ES:rDI; with a REP prefix, rCX times. Only the source segment can be overridden.

import { MODE, SEG, SLOT } from '../state.ts';
import { type Builder, slot } from './builder.ts';
import { instruction } from './encoding.ts';

const { RAX, RSI, RDI } = SLOT;

/** The element at DS:rSI or ES:rDI, ready for use. */
function element(b: Builder, pointer: number, access: number): { at: number; disp: bigint; stack: boolean } {
  const segment = pointer === RDI ? SEG.ES : b.insn.segment;
  const { addressSize } = b.insn;
  const stack = segment === SEG.SS;
  if (b.isDirect(segment, addressSize, access)) return { at: slot(pointer), disp: 0n, stack };
  const offset = b.temporary();
  b.emit(`lea.${addressSize}.base`, { d: offset, a: slot(pointer) });
  return { at: b.linear(offset, segment, b.insn.bytes, access), disp: 0n, stack };
}
const advance = (b: Builder, pointer: number): void => b.emit(`advance.${b.insn.bytes}.${b.insn.addressSize}`, { d: slot(pointer) });

/** The operands of a comparison: first and second. */
type Pair = readonly [number, number];

// @clause x86.string.semantics
/**
 * Wraps a body in the loop that a prefix asks for. `bulk`: the micro-operation that does a run of iterations at once, where offsets are linear addresses.
 * A body that compares returns what: REPE and REPNE go on while the outcome pleases, and set flags only when the loop is left, because a fault in its
 * middle must leave the flags as they were.
 */
function repeat(b: Builder, bulk: string | null, body: () => Pair | null): void {
  const { rep, repne, addressSize, bytes, segment } = b.insn;
  const compare = ([first, second]: Pair): void => b.emit(`cmp.${bytes}`, { a: first, b: second });
  if (!rep && !repne) {
    const pair = body();
    if (pair) compare(pair);
    return;
  }
  // With 32-bit addresses in 64-bit code the registers lose their upper halves at once: the count always, the pointers of MOVS and STOS, whether there is
  // anything to do or not. So the processors that this one was compared with have it.
  const cut = bulk === 'bulkMove' ? [SLOT.RCX, RSI, RDI] : bulk === 'bulkFill' ? [SLOT.RCX, RDI] : [SLOT.RCX];
  if (b.code64 && addressSize === 4) for (const n of cut) b.emit('mov.4', { d: slot(n), a: slot(n) });
  const start = b.micros.length;
  b.emit(`repBegin.${addressSize}`);
  const again = b.micros.length;
  const linear = b.code64 || (b.mode & MODE.FLAT) !== 0;
  if (bulk && linear && addressSize >= 4 && segment < SEG.FS) b.emit(`${bulk}.${bytes}.${addressSize}`);
  const bodyStart = b.micros.length;
  const pair = body();
  const equal = b.temporary();
  if (pair) b.emit(`isEqual.${bytes}`, { d: equal, a: pair[0], b: pair[1] });
  b.emit(`repEnd.${addressSize}.${pair ? (rep ? 'z' : 'nz') : 'always'}`, { a: equal, imm: BigInt(again - (b.micros.length + 1)) });
  if (pair) compare(pair);
  // repBegin and the bulk operation skip to here.
  for (let at = start; at < bodyStart; at++) (b.micros[at] as { imm: bigint }).imm = BigInt(b.micros.length - (at + 1));
  b.end('sequel'); // the next instruction may be this one again
}

const MOVS = instruction('MOVS', 'A4 Yb,Xb; A5 Yv,Xv', (b) =>
  repeat(b, 'bulkMove', () => {
    const value = b.load(element(b, RSI, 0), b.insn.bytes);
    b.store(element(b, RDI, 1), b.insn.bytes, value);
    advance(b, RSI);
    advance(b, RDI);
    return null;
  }),
); // copies from DS:rSI to ES:rDI
const STOS = instruction('STOS', 'AA Yb,AL; AB Yv,rAX', (b) =>
  repeat(b, 'bulkFill', () => {
    b.store(element(b, RDI, 1), b.insn.bytes, slot(RAX));
    advance(b, RDI);
    return null;
  }),
); // stores rAX at ES:rDI
const LODS = instruction('LODS', 'AC Xb; AD Xv', (b) =>
  repeat(b, null, () => {
    const value = b.load(element(b, RSI, 0), b.insn.bytes);
    b.emit(`mov.${b.insn.bytes}`, { d: slot(RAX), a: value });
    advance(b, RSI);
    return null;
  }),
); // loads rAX from DS:rSI
const SCAS = instruction('SCAS', 'AE Yb; AF Yv', (b) =>
  repeat(b, null, () => {
    const value = b.load(element(b, RDI, 0), b.insn.bytes);
    advance(b, RDI);
    return [slot(RAX), value];
  }),
); // compares rAX with what is at ES:rDI
const CMPS = instruction('CMPS', 'A6 Xb,Yb; A7 Xv,Yv', (b) =>
  repeat(b, null, () => {
    const second = b.load(element(b, RDI, 0), b.insn.bytes); // this one first, which shows when both fault
    const first = b.load(element(b, RSI, 0), b.insn.bytes);
    advance(b, RSI);
    advance(b, RDI);
    return [first, second];
  }),
); // compares what is at DS:rSI and ES:rDI

export const STRINGS = [MOVS, STOS, LODS, SCAS, CMPS];
