// # Micro-operations
//
// An x86 instruction such as `ADD [RBX+8], CL` does four things: it computes an address, loads, adds, stores. Each of those is a *micro-operation*,
// and there are far fewer of them than there are instructions, because the addressing modes, prefixes and encodings are gone. The files of the
// folder beside this one say what each of them means. They say it by writing WebAssembly, in terms of operands whose whereabouts they do not know:
// for the interpreter operands are memory cells named by a record; for a translator they can be constants and local variables. One meaning,
// whichever way it is run.
//
// An operand is a byte offset in the register file (`state.ts`). That makes AH as good an operand as RAX (it is one byte further on), and
// a segment base as good as either.

import { MICRO_OPS } from './micro-ops/emitter.ts';
import './micro-ops/arithmetic.ts';
import './micro-ops/conditions.ts';
import './micro-ops/moves.ts';
import './micro-ops/shifts.ts';
import './micro-ops/strings.ts';
import './micro-ops/system.ts';
import './micro-ops/system-calls.ts';
import './micro-ops/transfers.ts';
import './micro-ops/beside-code.ts';
import './micro-ops/walk.ts';
import './micro-ops/translations.ts';

export { define, type Emitter, type Helpers, MICRO_OPS, ONCE, type Operand, OUTLINED, STATUS, WORD, WORD_BYTES } from './micro-ops/emitter.ts';
export { defineFunction, LIBRARY, type StateAccess } from './micro-ops/library.ts';
export { INSN_OPS } from './micro-ops/transfers.ts';
export { CONDITIONS } from './micro-ops/vocabulary.ts';

// The families above, and the instruction set for what only one instruction needs, enter their members into one table when they are loaded,
// {{MICRO_OPS.size}} in all. Their order in it gives the numbers.

const numbers = new Map<string, number>();

/** The number of a micro-operation. @throws RangeError for a name that does not exist. */
export function microOp(name: string): number {
  if (numbers.size < MICRO_OPS.size) for (const known of [...MICRO_OPS.keys()].slice(numbers.size)) numbers.set(known, numbers.size);
  const number = numbers.get(name);
  if (number === undefined) throw new RangeError(`there is no micro-operation ${name}`);
  return number;
}
