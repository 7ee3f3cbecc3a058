// # Arithmetic and logic

import { SLOT } from '../state.ts';
import { type Builder, slot } from './builder.ts';
import { instruction } from './encoding.ts';

// ## Two operands
//
// Eight instructions share one layout: opcodes 8·n to 8·n+5, and the immediate forms 80/n to 83/n. (82 is an alias of 80 that 64-bit code no longer has.)
const pattern = (n: number): string => {
  const opcode = (low: number): string => (8 * n + low).toString(16).toUpperCase().padStart(2, '0');
  return [
    `${opcode(0)} Eb,Gb lock; ${opcode(1)} Ev,Gv lock; ${opcode(2)} Gb,Eb; ${opcode(3)} Gv,Ev; ${opcode(4)} AL,Ib; ${opcode(5)} rAX,Iz`,
    `80/${n} Eb,Ib lock; 81/${n} Ev,Iz lock; 82/${n} Eb,Ib lock no64; 83/${n} Ev,Ib lock`,
  ].join(';');
};
/** The destination is also the first source. */
const accumulate = (name: string) => (b: Builder) => {
  const source = b.read(1);
  b.modify(0, (d) => b.combine(name, b.bytes(0), d, d, source));
};
/** Only the flags are kept. */
const compare = (name: string) => (b: Builder) => {
  const first = b.value(0);
  b.combine(name, b.bytes(0), 0, first, b.read(1));
};

// @clause x86.integer.results-and-flags
const ADD = instruction('ADD', pattern(0), accumulate('add')); // adds
const OR = instruction('OR', pattern(1), accumulate('or')); // or
const ADC = instruction('ADC', pattern(2), accumulate('adc')); // adds, with the carry
const SBB = instruction('SBB', pattern(3), accumulate('sbb')); // subtracts, with the borrow
const AND = instruction('AND', pattern(4), accumulate('and')); // and
const SUB = instruction('SUB', pattern(5), accumulate('sub')); // subtracts
const XOR = instruction('XOR', pattern(6), accumulate('xor')); // exclusive or
const CMP = instruction('CMP', pattern(7).replaceAll(' lock', ''), compare('cmp')); // subtracts for the flags alone
const TEST = instruction('TEST', '84 Eb,Gb; 85 Ev,Gv; A8 AL,Ib; A9 rAX,Iz; F6/0 Eb,Ib; F6/1 Eb,Ib; F7/0 Ev,Iz; F7/1 Ev,Iz', compare('test'));

// ## One operand

const unary = (name: string) => (b: Builder) => b.modify(0, (d) => b.emit(`${name}.${b.bytes(0)}`, { d }));

const INC = instruction('INC', 'FE/0 Eb lock; FF/0 Ev lock; 40+ Zv no64', unary('inc')); // adds one, CF stays
const DEC = instruction('DEC', 'FE/1 Eb lock; FF/1 Ev lock; 48+ Zv no64', unary('dec')); // subtracts one, CF stays
const NOT = instruction('NOT', 'F6/2 Eb lock; F7/2 Ev lock', unary('not')); // complements, no flags
const NEG = instruction('NEG', 'F6/3 Eb lock; F7/3 Ev lock', unary('neg')); // subtracts from zero

// ## Multiplication and division

const wide = (name: string) => (b: Builder) => b.emit(`${name}.${b.bytes(0)}`, { a: b.value(0) });

const MUL = instruction('MUL', 'F6/4 Eb; F7/4 Ev', wide('mulWide')); // multiplies rAX, unsigned
const DIV = instruction('DIV', 'F6/6 Eb; F7/6 Ev', wide('div')); // divides rDX:rAX, unsigned
const IDIV = instruction('IDIV', 'F6/7 Eb; F7/7 Ev', wide('idiv')); // divides rDX:rAX, signed
/** With one operand like MUL; with two or three an ordinary register destination. */
const IMUL = instruction('IMUL', 'F6/5 Eb; F7/5 Ev; 0FAF Gv,Ev; 69 Gv,Ev,Iz; 6B Gv,Ev,Ib', (b) => {
  if (b.operands.length === 1) return wide('imulWide')(b);
  const d = b.value(0);
  const first = b.value(1);
  b.combine('imul', b.bytes(0), d, b.operands.length === 3 ? first : d, b.operands.length === 3 ? b.read(2) : { at: first });
});

// ## Widening the accumulator

const { RAX, RDX } = SLOT;
/** CBW, CWDE or CDQE, by operand size. */
const CBW = instruction('CBW', '98 rAX', (b) => {
  const to = b.bytes(0);
  b.emit(`movsx.${to / 2}.${to}`, { d: slot(RAX), a: slot(RAX) });
});
/** CWD, CDQ or CQO. */
const CWD = instruction('CWD', '99 rAX', (b) => b.emit(`signFill.${b.bytes(0)}`, { d: slot(RDX), a: slot(RAX) }));

// ## Decimal adjustment

const adjust = (name: string) => (b: Builder) => b.emit(name, { imm: b.insn.imm & 0xffn });

const DAA = instruction('DAA', '27 no64', adjust('daa')); // makes a sum of two packed decimal bytes decimal
const DAS = instruction('DAS', '2F no64', adjust('das')); // makes a difference of two packed decimal bytes decimal
const AAA = instruction('AAA', '37 no64', adjust('aaa')); // makes a sum of two decimal digits decimal
const AAS = instruction('AAS', '3F no64', adjust('aas')); // makes a difference of two decimal digits decimal
const AAM = instruction('AAM', 'D4 Ib no64', adjust('aam')); // splits a product into decimal digits
const AAD = instruction('AAD', 'D5 Ib no64', adjust('aad')); // joins two decimal digits, to be divided

// biome-ignore format: table
export const ARITHMETIC = [
  ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, INC, DEC, NOT, NEG, MUL, IMUL, DIV, IDIV, CBW, CWD, DAA, DAS, AAA, AAS, AAM, AAD,
];
