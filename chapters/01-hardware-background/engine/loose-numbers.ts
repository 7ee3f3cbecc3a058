// # Numbers that a program rewrites
//
// Some programs change an immediate in their own code again and again. Where that is seen to happen, the number is not made part of what the code becomes: it is
// loaded from the code each time.

import type { decode } from '../isa/decoder.ts';
import { NONE } from '../isa/instruction.ts';
import { PAGE_BYTES } from '../physical-memory.ts';
import { isPlain } from './instruction-shapes.ts';

/** Where in a page code is overwritten all the time: how many bytes, by offset. */
export type Patches = ReadonlyMap<number, number>;

/** Is the immediate that takes up the last `bytes` before `end` one that the program rewrites all the time? */
export function isPatched(patches: Patches, end: number, bytes: number): boolean {
  for (let at = end - bytes; at < end; at++) {
    const written = patches.get(at % PAGE_BYTES);
    if (written !== undefined && at + written <= end) return true;
  }
  return false;
}

/** Where the immediate of such an instruction stands, otherwise NONE. */
export function looseIn({ insn, encoding, immediateBytes }: Exclude<ReturnType<typeof decode>, string>, at: number, patches: Patches | null): number {
  const end = at + insn.length;
  return patches && isPlain(encoding) && isPatched(patches, end, immediateBytes) ? end - immediateBytes : NONE;
}
