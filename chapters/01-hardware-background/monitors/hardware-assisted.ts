// # With the hardware's help
//
// The same specimen in ring 0 of non-root operation. The monitor says once what shall exit: ports and halting. `CLI`, `PUSHF`, `POPF` and `SGDT` run at full speed
// on the guest's own flags and the guest's own table register, because in non-root operation they *are* the guest's own.
//
// Look at what has gone: no decoder, no virtual copy of a flag, no rewriting of code. The exit says which port was written and how long the instruction was.

import { assert } from '../physical-memory.ts';
import { RootMachine, World } from './non-root.ts';
import { lies, readNotes, specimen } from './specimen.ts';
import type { Outcome } from './virtual-processor.ts';

/** The exit qualification of an I/O instruction has the port in its upper half. */
const PORT_SHIFT = 16;

/** Runs the specimen in non-root operation under a monitor of one `switch`. */
export function hardwareAssisted(): Outcome {
  const machine = new RootMachine(1);
  const world = new World(machine, 0, specimen);
  world.load(specimen.entry, specimen.code);
  let output = '';
  for (let reason = world.enter(); reason !== 'HLT'; reason = world.enter()) {
    assert(reason === 'IO_INSTRUCTION', `the specimen exits for ports and HLT, not for ${reason}`);
    const port = world.read('EXIT_QUALIFICATION') >>> PORT_SHIFT;
    if (port === 0xe9) output += String.fromCharCode(world.al);
    world.skip();
  }
  const notes = readNotes(machine.memory, output, world.ram);
  return { notes, lies: lies(notes), crossings: world.crossings, instructions: machine.cpu.instructions };
}
