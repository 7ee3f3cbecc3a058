// # Records in the making
//
// Decoding is what a machine does most when it starts: nearly all that it meets is new. The records of a block are therefore put together as what they will be, four
// 32-bit words each, and copied into the arena at one stroke. Objects come into being only for an instruction that is of a new kind.

import type { Micro } from '../isa/builder.ts';
import { highHalf, lowHalf } from '../physical-memory.ts';
import { RECORD_BYTES } from './interpreter.ts';

/** Words of a record: number and operand d; operands a and b; the halves of the immediate. */
export const RECORD_WORDS = RECORD_BYTES >> 2;

export class Draft {
  words = new Int32Array(256 * RECORD_WORDS);
  /** Records so far. */
  count = 0;
  readonly #once: ReadonlySet<number>;
  readonly #present: number[] = [];
  #presentCount = 0;

  /** @param once micro-operations of which a block needs one only */
  constructor(once: ReadonlySet<number>) {
    this.#once = once;
  }
  clear(): this {
    this.count = 0;
    this.#presentCount = 0;
    return this;
  }

  /** Index of the next record's first word. */
  get next(): number {
    return this.count * RECORD_WORDS;
  }

  /** Appends a record. */
  add({ op, d, a, b, imm }: Micro): void {
    if (this.#once.has(op) && !this.needs(op)) return;
    const at = this.#room(1);
    this.words[at] = op | (d << 16);
    this.words[at + 1] = a | (b << 16);
    this.words[at + 2] = lowHalf(imm);
    this.words[at + 3] = highHalf(imm);
    this.count++;
  }
  append(micros: readonly Micro[]): void {
    for (const micro of micros) this.add(micro);
  }
  /** Appends records that are ready. Returns the index of the first of their words. */
  copy(words: Int32Array, from: number, to: number): number {
    const at = this.#room((to - from) / RECORD_WORDS);
    for (let n = from; n < to; n++) this.words[at + n - from] = words[n] as number;
    this.count += (to - from) / RECORD_WORDS;
    return at;
  }
  /** Must this micro-operation, of which one is enough, still be appended? */
  needs(op: number): boolean {
    for (let n = 0; n < this.#presentCount; n++) if (this.#present[n] === op) return false;
    this.#present[this.#presentCount++] = op;
    return true;
  }

  #room(records: number): number {
    const at = this.count * RECORD_WORDS;
    if (at + records * RECORD_WORDS > this.words.length) {
      const wider = new Int32Array(2 * (at + records * RECORD_WORDS));
      wider.set(this.words);
      this.words = wider;
    }
    return at;
  }
}
