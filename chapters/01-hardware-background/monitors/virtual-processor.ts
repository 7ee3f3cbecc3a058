// # The virtual processor
//
// What a monitor must keep for its guest: the part of the processor's state that the guest believes in and the real processor cannot hold. Here that is one
// flag, one table's limit, and whether the guest has halted. A real monitor's copy is longer; the idea is not.

import type { BareMachine } from '../bare-machine.ts';
import { SLOT } from '../state.ts';
import { type Notes, specimen } from './specimen.ts';

/** How a run came out. */
export interface Outcome {
  readonly notes: Notes;
  /** The notes that are not what the bare machine would have led to. */
  readonly lies: readonly string[];
  /** Entries into the monitor. */
  readonly crossings: number;
  /** Instructions retired, the monitor's stubs included. */
  readonly instructions: number;
}

/** State that exists only in the monitor, and the emulation of the instructions that need it. */
export class VirtualProcessor {
  interrupts = false;
  halted = false;
  readonly #machine: BareMachine;

  constructor(machine: BareMachine) {
    this.#machine = machine;
  }

  /** Emulates CLI, STI, OUT imm8 or HLT. Returns its length, or 0 when the byte is none of them. */
  emulate(opcode: number, operand: number): number {
    switch (opcode) {
      case 0xfa:
        this.interrupts = false;
        return 1;
      case 0xfb:
        this.interrupts = true;
        return 1;
      case 0xe6:
        this.#machine.cpu.ports.write(operand, 1, this.#machine.cpu.state.slot32(SLOT.RAX) & 0xff);
        return 2;
      case 0xf4:
        this.halted = true;
        return 1;
      default:
        return 0;
    }
  }

  /** What SGDT must report. */
  readonly gdtLimit = specimen.gdtLimit;
}
