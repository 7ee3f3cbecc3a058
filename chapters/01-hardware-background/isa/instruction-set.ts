// # The instruction set, put together

import { ARITHMETIC } from './arithmetic.ts';
import { CONTROL_FLOW } from './control-flow.ts';
import type { Definition } from './encoding.ts';
import { MOVES } from './moves.ts';
import { SHIFTS_AND_BITS } from './shifts-and-bits.ts';
import { STRINGS } from './strings.ts';
import { SYSTEM, UNDEFINED } from './system.ts';

export { UNDEFINED };

/** Every instruction that this processor has. */
export const INSTRUCTION_SET: readonly Definition[] = [
  ...ARITHMETIC,
  ...MOVES,
  ...CONTROL_FLOW,
  ...SHIFTS_AND_BITS,
  ...STRINGS,
  ...SYSTEM,
  UNDEFINED,
];
