// # `-save` and `-restore`
//
// The command line is chapter 5's; what it calls is installed here.

import { StateError } from '../../../03-vcpu-loop/devices/state.ts';
import { installStateKeeper } from '../../../05-pio-mmio/host/state-keeper.ts';
import { ConfigError } from '../../../05-pio-mmio/machine/device-types.ts';
import { restoreMachine, saveMachine } from '../machine-state.ts';

/** A refusal is the user's to mend, as a wrong option is. */
async function inOneLine<T>(what: string, done: Promise<T>): Promise<T> {
  try {
    return await done;
  } catch (error) {
    throw error instanceof StateError ? new ConfigError(`${what}: ${error.message}`) : error;
  }
}

installStateKeeper({
  save: (machine) => inOneLine('-save', saveMachine(machine)),
  restore: (machine, file) => inOneLine('-restore', restoreMachine(machine, file)),
});
