// # Which machines there are
//
// A machine type is a name for a board: its chipset, what is soldered to it, where its memory lies. A description says which one it wants, and later
// chapters install their own here. Everything else of a description is the same for all.

import { type Described, TypeRegistry } from './device-types.ts';
import type { Mainboard, MainboardOptions } from './mainboard.ts';

/** The board that a description wants, with its properties. */
export interface MachineChoice {
  readonly type: string;
  readonly [property: string]: string | number | boolean;
}

export interface MachineType extends Described {
  /** Whether there is a place for a firmware's ROM. */
  readonly takesFirmware: boolean;
  /** @throws ConfigError, RangeError for a machine that cannot be */
  build(options: MainboardOptions): Mainboard;
}

/** The types of this program. */
export const machineTypes = new TypeRegistry<MachineType>('machine');

/** Builds the machine that a description wants. @throws ConfigError, RangeError for a machine that cannot be */
export const buildMachine = (options: MainboardOptions): Mainboard => machineTypes.get(options.config.machine.type).build(options);
