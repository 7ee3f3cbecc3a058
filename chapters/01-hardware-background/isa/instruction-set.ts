// # The instruction set, put together
//
// The decoder is made from this list, and so is [the table of all instructions](../../instructions.html).

import { ARITHMETIC } from './arithmetic.ts';
import { BIT_MANIPULATION } from './bit-manipulation.ts';
import { CONTROL_FLOW } from './control-flow.ts';
import type { Definition } from './encoding.ts';
import { MOVES } from './moves.ts';
import { SHIFTS_AND_BITS } from './shifts-and-bits.ts';
import { SIMD_CIPHERS } from './simd-ciphers.ts';
import { SIMD_INTEGER } from './simd-integer.ts';
import { SIMD_MOVES } from './simd-moves.ts';
import { SIMD_SHUFFLES } from './simd-shuffles.ts';
import { SIMD_STRINGS } from './simd-strings.ts';
import { SSE_ARITHMETIC } from './sse-float-arithmetic.ts';
import { SSE_COMPARISONS } from './sse-float-compare.ts';
import { SSE_CONTROL } from './sse-float-control.ts';
import { SSE_CONVERSIONS } from './sse-float-convert.ts';
import { SSE_FLOAT_MOVES } from './sse-float-moves.ts';
import { SSE_PRODUCTS } from './sse-float-products.ts';
import { STRINGS } from './strings.ts';
import { SYSTEM, UNDEFINED } from './system.ts';
import { X87 } from './x87.ts';
import { X87_SYSTEM } from './x87-system.ts';

export { UNDEFINED };

/** Every instruction that this processor has. */
export const INSTRUCTION_SET: readonly Definition[] = [
  ...ARITHMETIC,
  ...MOVES,
  ...CONTROL_FLOW,
  ...SHIFTS_AND_BITS,
  ...BIT_MANIPULATION,
  ...STRINGS,
  ...X87,
  ...X87_SYSTEM,
  ...SYSTEM,
  ...SIMD_MOVES,
  ...SIMD_INTEGER,
  ...SIMD_SHUFFLES,
  ...SIMD_STRINGS,
  ...SIMD_CIPHERS,
  ...SSE_CONTROL,
  ...SSE_FLOAT_MOVES,
  ...SSE_ARITHMETIC,
  ...SSE_COMPARISONS,
  ...SSE_CONVERSIONS,
  ...SSE_PRODUCTS,
  UNDEFINED,
];
