// # Code that is written anew
//
// Who generates code generates much that is alike: the same instructions with other numbers, often at the place of code that is not needed any more. When a
// block has been overwritten, its records still lie in the arena. If what stands there now has the same shapes in the same order, nothing has to be made:
// the numbers are filled in, and the beginnings of instructions, which had become `stale`, are what they were.
//
// What that takes is worked out when a block comes to be as long as the overwritten one before it, in bytes and in records. Code that is never written twice
// pays nothing.

import type { PhysicalMemory } from '../physical-memory.ts';
import type { Block } from './code-cache.ts';
import type { Draft } from './draft.ts';
import { fill, IMMEDIATE, type InstructionShapes, signedBefore } from './instruction-shapes.ts';

/** How to make a block of the same shapes out of an overwritten one. Words are counted from the first of the block, bytes from the first of its code. */
export interface Refill {
  /** The bytes that tell the shapes: from and to, by turns. */
  readonly fixed: readonly number[];
  /** Open numbers: end and length in bytes, index of the record's first word, form, what to add. */
  readonly numbers: readonly number[];
  /** Words with which instructions begin: index, value. */
  readonly begins: readonly number[];
}
const NUMBER_FIELDS = 5;

/** How to refill the block from `start` to `end`. Null: not all of its instructions have shapes. `draft` is overwritten. */
export function refillOf(shapes: InstructionShapes, code: Uint8Array, start: number, end: number, mode: number, draft: Draft): Refill | null {
  const [fixed, numbers, begins]: number[][] = [[], [], []];
  draft.clear();
  for (let at = start; at < end; ) {
    const shape = shapes.find(code, at, end, mode);
    if (!shape?.template) return null;
    const first = draft.next;
    const { words, blanks } = shapes.write(shape, code, at, draft);
    begins.push(first, words[0] as number);
    const { length, displacementBytes, immediateBytes } = shape;
    const next = at + length - start;
    for (const blank of blanks) {
      const isImmediate = blank.source === IMMEDIATE;
      numbers.push(isImmediate ? next : next - immediateBytes, isImmediate ? immediateBytes : displacementBytes);
      numbers.push(first + blank.at, blank.form, blank.plus);
    }
    fixed.push(at - start, next - displacementBytes - immediateBytes);
    at += length;
  }
  return { fixed, numbers, begins };
}

/** Makes an overwritten block one of what its bytes are now. False: they are too different, and nothing has been done. */
export function refilled({ u8, i32 }: PhysicalMemory, { place, copy, record }: Block, { fixed, numbers, begins }: Refill): boolean {
  for (let n = 0; n < fixed.length; n += 2) {
    const to = fixed[n + 1] as number;
    for (let at = fixed[n] as number; at < to; at++) if (u8[place + at] !== u8[copy + at]) return false;
  }
  const words = record >> 2;
  for (let n = 0; n < numbers.length; n += NUMBER_FIELDS) {
    const end = numbers[n] as number;
    const bytes = numbers[n + 1] as number;
    const value = signedBefore(u8, place + end, bytes);
    fill(i32, words + (numbers[n + 2] as number), numbers[n + 3] as number, value, numbers[n + 4] as number);
    for (let at = end - bytes; at < end; at++) u8[copy + at] = u8[place + at] as number;
  }
  for (let n = 0; n < begins.length; n += 2) i32[words + (begins[n] as number)] = begins[n + 1] as number;
  return true;
}
