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
  if (b.isDirect(segment, addressSize)) return { at: slot(pointer), disp: 0n, stack };
  const offset = b.temporary();
  b.emit(`lea.${addressSize}.base`, { d: offset, a: slot(pointer) });
  return { at: b.linear(offset, segment, b.insn.bytes, access), disp: 0n, stack };
}
const advance = (b: Builder, pointer: number): void => b.emit(`advance.${b.insn.bytes}.${b.insn.addressSize}`, { d: slot(pointer) });

/**
 * Wraps a body in the loop that a prefix asks for. `compares`: the prefix is REPE or REPNE, and ZF can end the loop. `bulk`: the micro-operation that does a
 * run of iterations at once, where offsets are linear addresses.
 */
function repeat(b: Builder, { compares, bulk }: { compares: boolean; bulk?: string }, body: () => void): void {
  const { rep, repne, addressSize, bytes, segment } = b.insn;
  if (!rep && !repne) return body();
  const start = b.micros.length;
  b.emit(`repBegin.${addressSize}`);
  const again = b.micros.length;
  const linear = b.code64 || (b.mode & MODE.FLAT) !== 0;
  if (bulk && linear && addressSize >= 4 && segment < SEG.FS) b.emit(`${bulk}.${bytes}.${addressSize}`);
  const bodyStart = b.micros.length;
  body();
  const end = b.micros.length;
  b.emit(`repEnd.${addressSize}.${compares ? (rep ? 'z' : 'nz') : 'always'}`, { imm: BigInt(again - (end + 1)) });
  for (let at = start; at < bodyStart; at++) (b.micros[at] as { imm: bigint }).imm = BigInt(end - at);
}

const MOVS = instruction('MOVS', 'A4 Yb,Xb; A5 Yv,Xv', (b) =>
  repeat(b, { compares: false, bulk: 'bulkMove' }, () => {
    const value = b.load(element(b, RSI, 0), b.insn.bytes);
    b.store(element(b, RDI, 1), b.insn.bytes, value);
    advance(b, RSI);
    advance(b, RDI);
  }),
);
const STOS = instruction('STOS', 'AA Yb,AL; AB Yv,rAX', (b) =>
  repeat(b, { compares: false, bulk: 'bulkFill' }, () => {
    b.store(element(b, RDI, 1), b.insn.bytes, slot(RAX));
    advance(b, RDI);
  }),
);
const LODS = instruction('LODS', 'AC Xb; AD Xv', (b) =>
  repeat(b, { compares: false }, () => {
    const value = b.load(element(b, RSI, 0), b.insn.bytes);
    b.emit(`mov.${b.insn.bytes}`, { d: slot(RAX), a: value });
    advance(b, RSI);
  }),
);
const SCAS = instruction('SCAS', 'AE Yb; AF Yv', (b) =>
  repeat(b, { compares: true }, () => {
    const value = b.load(element(b, RDI, 0), b.insn.bytes);
    b.emit(`cmp.${b.insn.bytes}`, { a: slot(RAX), b: value });
    advance(b, RDI);
  }),
);
const CMPS = instruction('CMPS', 'A6 Xb,Yb; A7 Xv,Yv', (b) =>
  repeat(b, { compares: true }, () => {
    const first = b.load(element(b, RSI, 0), b.insn.bytes);
    const second = b.load(element(b, RDI, 0), b.insn.bytes);
    b.emit(`cmp.${b.insn.bytes}`, { a: first, b: second });
    advance(b, RSI);
    advance(b, RDI);
  }),
);

export const STRINGS = [MOVS, STOS, LODS, SCAS, CMPS];
