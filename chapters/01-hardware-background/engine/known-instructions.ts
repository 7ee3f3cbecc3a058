// # Instructions met before
//
// Code that is written at run time is decoded as often as it is written, and most of it has been seen: the same bytes at another place, or the same
// instruction with another number in it. So where code is rewritten all the time, what decoding gave is remembered by the *bytes*, and the four bytes of an
// immediate may be others than those remembered.

import type { Micro } from '../isa/builder.ts';
import type { Encoding } from '../isa/encoding.ts';
import type { Instruction } from '../isa/instruction.ts';

/** An instruction's records, and whether it ends its block. */
interface Known {
  readonly length: number;
  readonly micros: readonly Micro[];
  readonly ended: boolean;
}
interface Remembered extends Known {
  readonly bytes: readonly number[];
  /** The record whose immediate is the instruction's last four bytes, or -1. */
  readonly patched: number;
}

const IMMEDIATE_BYTES = 4;
/** What is remembered for one beginning, and for all. */
const SAME_BEGINNING = 8;
const MOST = 4096;
/** Instructions that do nothing with an immediate but compute with it. */
const PATCHABLE = new Set(['MOV', 'ADD', 'OR', 'ADC', 'SBB', 'AND', 'SUB', 'XOR', 'CMP', 'TEST']);
/** A smaller number could be in a record for another reason. */
const TELLING = 0xffffn;

export class KnownInstructions {
  readonly #byBeginning = new Map<number, Remembered[]>();
  #count = 0;

  /** What the bytes at `at` were decoded to, in this mode, when they were met last. Null: they were not, or continue beyond `end`. */
  find(code: Uint8Array, at: number, end: number, mode: number): Known | null {
    const list = this.#byBeginning.get(beginning(code, at, mode));
    if (!list) return null;
    for (const known of list) {
      const { bytes, length, micros, patched, ended } = known;
      const fixed = patched < 0 ? length : length - IMMEDIATE_BYTES;
      if (at + length > end || !bytes.every((byte, n) => n >= fixed || code[at + n] === byte)) continue;
      if (patched < 0) return known;
      const last = at + fixed;
      const imm =
        (code[last] as number) | ((code[last + 1] as number) << 8) | ((code[last + 2] as number) << 16) | ((code[last + 3] as number) << 24);
      return { length, ended, micros: micros.map((micro, n) => (n === patched ? { ...micro, imm: BigInt(imm) } : micro)) };
    }
    return null;
  }

  /** Remembers what an instruction became. */
  add(
    code: Uint8Array,
    at: number,
    mode: number,
    { insn, encoding }: { insn: Instruction; encoding: Encoding },
    micros: readonly Micro[],
    ended: boolean,
  ): void {
    if (this.#count >= MOST) {
      this.#byBeginning.clear();
      this.#count = 0;
    }
    const key = beginning(code, at, mode);
    const list = this.#byBeginning.get(key) ?? [];
    if (list.length === 0) this.#byBeginning.set(key, list);
    if (list.length === SAME_BEGINNING) list.shift();
    else this.#count++;
    const bytes = [...code.subarray(at, at + insn.length)];
    list.push({ bytes, length: insn.length, micros, ended, patched: patchedOf(insn, encoding, micros) });
  }
}

const beginning = (code: Uint8Array, at: number, mode: number): number => (code[at] as number) | ((code[at + 1] ?? 0) << 8) | (mode << 16);

/** Which record holds the immediate, when exactly one does. */
function patchedOf(insn: Instruction, { operands, definition }: Encoding, micros: readonly Micro[]): number {
  const last = operands[operands.length - 1];
  if (last?.kind !== 'I' || !'vz'.includes(last.size) || insn.operandSize !== IMMEDIATE_BYTES || !PATCHABLE.has(definition.name)) return -1;
  if (insn.imm <= TELLING && insn.imm >= -TELLING) return -1;
  const holders = micros.flatMap(({ imm }, n) => (imm === insn.imm ? [n] : []));
  return holders.length === 1 ? (holders[0] as number) : -1;
}
