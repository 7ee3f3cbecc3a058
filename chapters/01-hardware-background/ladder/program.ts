// # Five ways to interpret, on one loop
//
// How fast can a processor be that is a program? The question has a history of fifty years of answers, and they can be climbed like a ladder. Each
// rung below runs the same guest code, {{INNER}} instructions of checksum over a buffer, and must leave the same registers behind. They differ in *when* the
// work is done: for every execution, once for each instruction, or once for each loop.

import { decode } from '../isa/decoder.ts';
import type { Instruction } from '../isa/instruction.ts';
import { assert } from '../physical-memory.ts';

/** Where the program and its data lie, in 32-bit flat code. */
export const CODE_ADDRESS = 0x1000;
export const DATA_ADDRESS = 0x4000;
const DATA_WORDS = 256;

const MNEMONICS = ['MOV', 'ADD', 'XOR', 'SHL', 'DEC', 'JNZ', 'HLT'] as const;
/** The instructions that the program uses: all that the first three rungs know. */
type Mnemonic = (typeof MNEMONICS)[number];

const word = (value: number): number[] => [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, (value >>> 24) & 0xff];

// biome-ignore format: table
const INNER_LOOP = [
  0x8b, 0x1e, //       mov ebx, [esi]
  0x01, 0xd8, //       add eax, ebx
  0xc1, 0xe3, 0x03, // shl ebx, 3
  0x31, 0xd8, //       xor eax, ebx
  0x83, 0xc6, 0x04, // add esi, 4
  0x4a, //             dec edx
  0x75, 0xf1, //       jnz, back to the first
];
/** Instructions of the inner loop. */
export const INNER = 7;
const OUTER_SETUP = [0xbe, ...word(DATA_ADDRESS), 0xba, ...word(DATA_WORDS)]; // mov esi, data; mov edx, words
const OUTER_END = [0x49, 0x75, 256 - (OUTER_SETUP.length + INNER_LOOP.length + 3)]; // dec ecx; jnz, back to the set-up

/** Machine code that makes `rounds` passes over the data and halts. */
export function programFor(rounds: number): Uint8Array {
  return Uint8Array.from([0xb9, ...word(rounds), ...OUTER_SETUP, ...INNER_LOOP, ...OUTER_END, 0xf4]);
}
/** How many instructions that is, HLT included. */
export const instructionsFor = (rounds: number): number => 1 + rounds * (2 + DATA_WORDS * INNER + 2) + 1;

/** The data: words that a small generator makes. */
export function dataWords(): Int32Array {
  const words = new Int32Array(DATA_WORDS);
  for (let i = 0, x = 1; i < DATA_WORDS; i++) {
    x = (Math.imul(x, 1103515245) + 12345) | 0;
    words[i] = x;
  }
  return words;
}

/** One instruction of the program, with its fields as plain numbers. */
export interface Decoded {
  readonly name: Mnemonic;
  readonly length: number;
  /** Register that is written. */
  readonly to: number;
  /** Register that is read, or -1: then it is the immediate, or for a load the address in `base`. */
  readonly from: number;
  readonly base: number;
  readonly imm: number;
}

/** Decodes the instruction at `at` of the code, with the chapter's decoder. */
export function decodeAt(code: Uint8Array, at: number, mode: number): Decoded {
  const decoded = decode(code, at, code.length, mode);
  assert(typeof decoded === 'object', `no instruction at ${at}`);
  const { insn } = decoded;
  const name = MNEMONICS.find((known) => known === insn.name);
  assert(name, `the ladder does not know ${insn.name}`);
  return { name, length: insn.length, ...operandsOf(insn), imm: Number(BigInt.asIntN(32, insn.imm)) };
}
function operandsOf(insn: Instruction): { to: number; from: number; base: number } {
  if (insn.opcode === 0x8b) return { to: insn.reg, from: -1, base: insn.base };
  if (insn.opcode === 0x01 || insn.opcode === 0x31) return { to: insn.rm, from: insn.reg, base: -1 };
  return { to: insn.rm, from: -1, base: -1 };
}
