// # Shapes of instructions
//
// A program of a million instructions has some thousand *kinds* of instruction. `MOV EAX, [RBP-8]` and `MOV EAX, [RBP-16]` have all bytes in common but the
// displacement, and their records all but one number. So what an instruction becomes is worked out in full when its kind is met for the second time (most that are
// met once are never met again), with the displacement and the immediate left open. That is its *shape*. From then on to decode such an instruction is to walk
// a tree by its bytes, to copy a few words, and to fill in one or two.
//
// Which words depend on the open numbers, and how, nobody has to say: the instruction is made several times with different numbers, and the results are compared. If
// they do not differ in one of the ways known here, there is no shape, and the instruction is decoded each time. Immediates are left open only where they are nothing
// but operands: a shift by none, or a frame without a size, is another thing than the rest.

import type { Micro } from '../isa/builder.ts';
import type { decode } from '../isa/decoder.ts';
import type { Encoding } from '../isa/encoding.ts';
import type { Instruction } from '../isa/instruction.ts';
import { assert } from '../physical-memory.ts';
import { Draft, RECORD_WORDS } from './draft.ts';

/** An instruction, as the decoder gives it. */
type Decoded = Exclude<ReturnType<typeof decode>, string>;
/** Makes the records of an instruction. */
type Make = (insn: Instruction, encoding: Encoding) => readonly Micro[];

const DISPLACEMENT = 0;
export const IMMEDIATE = 1;
/** How a record's immediate follows from an open number: its lower half is that plus a constant; or it is that, sign-extended. */
const LOW = 0;
const WIDE = 1;
interface Blank {
  /** Index of the record's first word. */
  readonly at: number;
  readonly source: number;
  readonly form: number;
  readonly plus: number;
}
interface Template {
  readonly words: Int32Array;
  readonly blanks: readonly Blank[];
  /** The micro-operation of which a block needs one only, and the same template without it. */
  readonly once: number;
  readonly without: Template | null;
}

interface Shape {
  readonly length: number;
  readonly displacementBytes: number;
  readonly immediateBytes: number;
  readonly ended: boolean;
  /** Null: it has been met once. */
  template: Template | null;
  /** There is no use in trying. */
  hopeless: boolean;
}

/** Instructions for which an immediate is a number to compute with, and nothing else. */
const PLAIN = new Set(['MOV', 'ADD', 'OR', 'ADC', 'SBB', 'AND', 'SUB', 'XOR', 'CMP', 'TEST', 'PUSH', 'IMUL']);
/** Can this instruction's immediate be left open? */
export const isPlain = ({ operands, definition }: Encoding): boolean => operands.some(({ kind }) => kind === 'I') && PLAIN.has(definition.name);
const isOpen = (encoding: Encoding): boolean => isPlain(encoding) || encoding.operands.some(({ kind }) => kind === 'J');

/** Numbers to try, by size in bytes. */
const TRIALS: Readonly<Record<number, readonly number[]>> = { 1: [0x11, -0x22], 2: [0x1234, -0x2345], 4: [0x1234567, -0x2345678] };

const FAN = 256;
const MOST_NODES = 4096;
const FIRST_NODES = 256;
const LEAF = 0x8000;

/** The tree. Its bounds are such that a program with more kinds of instruction than that makes it begin anew. */
export class InstructionShapes {
  /** For each node and byte: nothing, the next node, or the number of a shape. */
  #next = new Uint16Array(FIRST_NODES * FAN);
  #nodes = 0;
  #roots: number[] = [];
  #shapes: Shape[] = [];
  readonly #once: ReadonlySet<number>;
  readonly #draft: Draft;

  constructor(once: ReadonlySet<number>) {
    this.#once = once;
    this.#draft = new Draft(new Set());
  }

  get size(): number {
    return this.#shapes.length;
  }

  /** The shape of the instruction at `at`. Null: it has not been met, or its bytes do not end before `end`. */
  find(code: Uint8Array, at: number, end: number, mode: number): Shape | null {
    const next = this.#next;
    let node = this.#roots[mode];
    if (node === undefined) return null;
    for (let n = at; n < end; n++) {
      const to = next[node * FAN + (code[n] as number)] as number;
      if (to === 0) return null;
      if (to >= LEAF) {
        const shape = this.#shapes[to - LEAF] as Shape;
        return at + shape.length <= end ? shape : null;
      }
      node = to;
    }
    return null;
  }

  /** Appends the records of an instruction of this shape. Returns the template that they were copied from. */
  write(shape: Shape, code: Uint8Array, at: number, draft: Draft): Template {
    const template = shape.template as Template;
    const used = template.without && !draft.needs(template.once) ? template.without : template;
    const start = draft.copy(used.words, 0, used.words.length);
    const end = at + shape.length;
    const { words } = draft;
    for (const { at: index, source, form, plus } of used.blanks) {
      const value =
        source === IMMEDIATE
          ? signedBefore(code, end, shape.immediateBytes)
          : signedBefore(code, end - shape.immediateBytes, shape.displacementBytes);
      fill(words, start + index, form, value, plus);
    }
    return used;
  }

  /** Takes note of an instruction that has been decoded; `shape` is what `find` gave for it. */
  learn(code: Uint8Array, at: number, mode: number, decoded: Decoded, ended: boolean, shape: Shape | null, make: Make): void {
    if (shape) {
      if (shape.hopeless) return;
      shape.template = this.#template(decoded, make);
      shape.hopeless = shape.template === null;
      return;
    }
    const { insn, encoding, displacementBytes, immediateBytes } = decoded;
    const open = immediateBytes === 0 || isOpen(encoding);
    const hopeless =
      encoding.definition.system !== null || displacementBytes > 4 || (open ? immediateBytes > 4 : displacementBytes > 0 || immediateBytes > 1);
    // The bytes that tell this kind from others: with a closed immediate all of them, if it is to have a shape.
    const stem = open || hopeless ? insn.length - displacementBytes - immediateBytes : insn.length;
    const leaf = this.#leaf(code, at, stem, mode);
    this.#next[leaf] = LEAF + this.#shapes.length;
    this.#shapes.push({
      length: insn.length,
      displacementBytes,
      immediateBytes: open ? immediateBytes : 0,
      ended,
      template: null,
      hopeless,
    });
  }

  /** Index of the entry for `length` bytes, to which there is a way then. */
  #leaf(code: Uint8Array, at: number, length: number, mode: number): number {
    if (this.#nodes + length + 1 >= MOST_NODES || this.#shapes.length >= LEAF) {
      this.#nodes = 0;
      this.#roots = [];
      this.#shapes = [];
    }
    this.#roots[mode] ??= this.#node();
    let node = this.#roots[mode] as number;
    for (let n = 0; n < length - 1; n++) {
      const entry = node * FAN + (code[at + n] as number);
      if (this.#next[entry] === 0) {
        const fresh = this.#node(); // which may move the table
        this.#next[entry] = fresh;
      }
      node = this.#next[entry] as number;
      assert(node < LEAF, 'one instruction is the beginning of another');
    }
    return node * FAN + (code[at + length - 1] as number);
  }
  #node(): number {
    this.#nodes++; // 0 means that there is none
    if ((this.#nodes + 1) * FAN > this.#next.length) {
      const larger = new Uint16Array(2 * this.#next.length);
      larger.set(this.#next);
      this.#next = larger;
    }
    this.#next.fill(0, this.#nodes * FAN, (this.#nodes + 1) * FAN);
    return this.#nodes;
  }

  // ## Finding the blanks

  #template(decoded: Decoded, make: Make): Template | null {
    const { insn, encoding, displacementBytes } = decoded;
    const base = this.#words(make(insn, encoding));
    const immediateBytes = isOpen(encoding) ? decoded.immediateBytes : 0;
    const blanks: Blank[] = [];
    for (const [source, bytes, before] of [
      [DISPLACEMENT, displacementBytes, insn.disp],
      [IMMEDIATE, immediateBytes, insn.imm],
    ] as const) {
      if (bytes === 0) continue;
      const trials = (TRIALS[bytes] as readonly number[]).map((value) => {
        const changed = source === DISPLACEMENT ? { ...insn, disp: BigInt(value) } : { ...insn, imm: BigInt(value) };
        return { value, words: this.#words(make(changed, encoding)) };
      });
      const found = blanksOf(base, source, Number(before), trials);
      if (!found) return null;
      blanks.push(...found);
    }
    return this.#finish(base, blanks);
  }

  #words(micros: readonly Micro[]): Int32Array {
    const draft = this.#draft.clear();
    draft.append(micros);
    return draft.words.slice(0, draft.count * RECORD_WORDS);
  }

  #finish(words: Int32Array, blanks: readonly Blank[]): Template {
    for (let at = 0; at < words.length; at += RECORD_WORDS) {
      const op = (words[at] as number) & 0xffff;
      if (!this.#once.has(op)) continue;
      const rest = new Int32Array(words.length - RECORD_WORDS);
      rest.set(words.subarray(0, at));
      rest.set(words.subarray(at + RECORD_WORDS), at);
      const moved = blanks.map((blank) => (blank.at > at ? { ...blank, at: blank.at - RECORD_WORDS } : blank));
      return { words, blanks, once: op, without: { words: rest, blanks: moved, once: -1, without: null } };
    }
    return { words, blanks, once: -1, without: null };
  }
}

/** Where the records of the trials differ, and how that follows from the number. Null: in no way known here. */
function blanksOf(base: Int32Array, source: number, before: number, trials: readonly { value: number; words: Int32Array }[]): Blank[] | null {
  const [first, second] = trials as [{ value: number; words: Int32Array }, { value: number; words: Int32Array }];
  const blanks: Blank[] = [];
  if (trials.some(({ words }) => words.length !== base.length)) return null;
  for (let at = 0; at < base.length; at += RECORD_WORDS) {
    if (trials.some(({ words }) => words[at] !== base[at] || words[at + 1] !== base[at + 1])) return null;
    const [low, high] = [base[at + 2] as number, base[at + 3] as number];
    const same = (a: Int32Array, b: Int32Array): boolean => a[at + 2] === b[at + 2] && a[at + 3] === b[at + 3];
    if (same(first.words, second.words)) {
      if (!same(first.words, base)) return null;
      continue;
    }
    const plus = (low - before) | 0;
    const isLow = trials.every(({ value, words }) => words[at + 2] === ((value + plus) | 0) && words[at + 3] === high);
    const wide = (value: number, words: Int32Array): boolean => words[at + 2] === (value | 0) && words[at + 3] === value >> 31;
    if (isLow) blanks.push({ at, source, form: LOW, plus });
    else if (wide(before, base) && trials.every(({ value, words }) => wide(value, words))) blanks.push({ at, source, form: WIDE, plus: 0 });
    else return null;
  }
  return blanks;
}

/** Fills in an open number; `record` is the index of the record's first word. */
export function fill(words: Int32Array, record: number, form: number, value: number, plus: number): void {
  words[record + 2] = (value + plus) | 0;
  if (form === WIDE) words[record + 3] = value >> 31;
}

/** The number of 1, 2 or 4 bytes that ends before `end`. */
export function signedBefore(code: Uint8Array, end: number, bytes: number): number {
  const last = code[end - 1] as number;
  if (bytes === 1) return (last << 24) >> 24;
  if (bytes === 2) return ((last << 24) >> 16) | (code[end - 2] as number);
  return (last << 24) | ((code[end - 2] as number) << 16) | ((code[end - 3] as number) << 8) | (code[end - 4] as number);
}
