// # A way out in one number
//
// Nearly every translated instruction has a way out before its end, so the code of such a way is to be short. A number that is not 0 says where in its page the
// instruction is that the interpreter has to execute, and how many instructions of the same block are complete but not counted yet. What follows from that is worked
// out in one place, where the region ends.

import { PAGE_BYTES } from '../../physical-memory.ts';
import { type Code, i32, i64 } from '../wasm-assembler.ts';
import { REGION_INSTRUCTIONS } from './region.ts';

const OFFSET_AT = 1;
const DONE_AT = OFFSET_AT + Math.log2(PAGE_BYTES);
const DONE_BITS = Math.ceil(Math.log2(REGION_INSTRUCTIONS));

/** The number for the instruction at an offset in the page, `done` of whose block have been completed. */
export const unfinished = (offset: number, done: number): number => 1 | (offset << OFFSET_AT) | (done << DONE_AT);

/** Both parts of such a number, as 64-bit expressions. */
export const whereUnfinished = (number: Code): { offset: Code; done: Code } => {
  const part = (at: number, most: number): Code => i64.extend_i32_u(i32.and(i32.shr_u(number, i32.const(at)), i32.const(most)));
  return { offset: part(OFFSET_AT, PAGE_BYTES - 1), done: part(DONE_AT, 2 ** DONE_BITS - 1) };
};
