// # Trap and emulate
//
// The guest kernel gets ring 1, and runs. Whatever is privileged faults, with the instruction's address in the frame; the monitor looks at the instruction,
// does to the virtual processor what it would have done to the real one, and moves the address past it. It is the shortest monitor of the chapter, and on a
// processor that satisfied the theorem it would be enough.

import { VECTOR } from '../faults.ts';
import { assert } from '../physical-memory.ts';
import { lies } from './specimen.ts';
import { Stage } from './stage.ts';
import { type Outcome, VirtualProcessor } from './virtual-processor.ts';

/** Runs the specimen in ring 1 under a monitor that emulates what traps, and only that. */
export function trapAndEmulate(): Outcome {
  const stage = new Stage(1);
  const processor = new VirtualProcessor(stage.machine);
  while (!processor.halted) {
    const trap = stage.next();
    assert(trap?.vector === VECTOR.GP, `the specimen raises general protection only, not ${trap?.vector}`);
    const length = processor.emulate(stage.byte(trap.eip), stage.byte(trap.eip + 1));
    assert(length > 0, `no emulation for the instruction at 0x${trap.eip.toString(16)}`);
    trap.eip += length;
  }
  const notes = stage.notes();
  return { notes, lies: lies(notes), crossings: stage.crossings, instructions: stage.instructions };
}

// Not one line of it is wrong, and the guest has been lied to {{words(trapAndEmulate().lies.length)}} times. `POPF` was to turn interrupts on; in ring
// 1 it left the flag as it was and did not say so, so the monitor's copy of the flag is wrong from then on, and a guest that waits for an interrupt
// would wait for ever. `SGDT` told the guest about the monitor's descriptor table. Neither instruction ever reached the monitor.
