// # Who can write a machine down
//
// Saving and restoring are a later chapter's. It installs itself here, and the command line then has the words for it.

import type { Machine } from '../../03-vcpu-loop/vmm.ts';
import { ConfigError } from '../machine/device-types.ts';
import type { Mainboard } from '../machine/mainboard.ts';

/** Saves a machine whose loop is between two turns, and restores one that has not run. */
interface StateKeeper {
  save(machine: Machine<Mainboard>): Promise<Uint8Array>;
  restore(machine: Machine<Mainboard>, file: Uint8Array): Promise<void>;
}

let installed: StateKeeper | null = null;

export function installStateKeeper(keeper: StateKeeper): void {
  installed = keeper;
}

/** @throws ConfigError when no chapter has brought one */
export function stateKeeper(): StateKeeper {
  if (!installed) throw new ConfigError('this program cannot save machines');
  return installed;
}
