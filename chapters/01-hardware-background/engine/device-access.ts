// # Devices in memory
//
// An ordinary walk that ends where no RAM is has found a device, and the access is made there and then, by whoever runs the code. For translated code that is not
// quite simple. It looks at the clock and at events only where it may leave, and an access to a device may be what brings an event about: then the machine has to stop
// behind this very instruction, of which the rest is still to be done. So translated code goes on only if nothing has happened. Otherwise the instruction
// is left to the interpreter, from its beginning, and when that comes to the access the device is not asked again: it has answered.
//
// This holds for instructions of which the access is the last thing that can go wrong, and the translator says which these are. No other reason to begin
// anew may come after an answer.

import { Fault, VmExit } from '../faults.ts';
import type { PhysicalMemory } from '../physical-memory.ts';
import { type CpuState, OFFSET } from '../state.ts';
import { WORD } from './micro-ops.ts';
import type { WalkEnds } from './surroundings.ts';

/** What an access needs to know of the engine, and to tell it. */
interface Engine {
  readonly memory: PhysicalMemory;
  readonly state: CpuState;
  /** Buffer offset of the engine's words. */
  readonly words: number;
  readonly mmu: WalkEnds | undefined;
  /** Something cannot wait for the end of the block. */
  isUrgent(): boolean;
  setLimit(): void;
  /** Another number after each occasion on which code had to go. */
  generation(): number;
  park(thrown: unknown): void;
}

export class DeviceAccess {
  readonly #engine: Engine;
  readonly #state: CpuState;
  readonly #memory: PhysicalMemory;
  readonly #datum: number;
  /** What the device has said last. */
  #value = 0;
  #thrown: Fault | VmExit | null = null;
  /** ICOUNT of the instruction of translated code that the interpreter has to complete with it; or -1. */
  #answerOf = -1;

  constructor(engine: Engine) {
    this.#engine = engine;
    this.#state = engine.state;
    this.#memory = engine.memory;
    this.#datum = (engine.words + WORD.DATUM) >> 2;
  }

  /** An instruction whose device has answered is yet to be completed: there is no boundary in between. */
  get unfinished(): boolean {
    return this.#answerOf >= 0;
  }
  forget(): void {
    this.#answerOf = -1;
  }

  #asked(bytes: number, read: boolean, value: number): void {
    const { mmu } = this.#engine;
    this.#thrown = null;
    try {
      if (read) this.#value = mmu?.readDevice(bytes) ?? 0;
      else mmu?.writeDevice(bytes, value >>> 0);
    } catch (thrown) {
      if (!(thrown instanceof Fault || thrown instanceof VmExit)) throw thrown;
      this.#value = 0;
      this.#thrown = thrown;
    }
  }

  // ## By the interpreter
  //
  // Both return 0, and `write` 1, when something has been parked.

  read(bytes: number): number {
    if (!this.#hasAnswered()) this.#asked(bytes, true, 0);
    this.#end();
    return this.#value;
  }
  write(bytes: number, value: number): number {
    if (!this.#hasAnswered()) this.#asked(bytes, false, value);
    this.#end();
    return Number(this.#thrown !== null);
  }
  /** Translated code has asked for this instruction. */
  #hasAnswered(): boolean {
    const count = this.#answerOf;
    if (count < 0) return false;
    this.#answerOf = -1;
    return count === this.#state.getNumber(OFFSET.ICOUNT);
  }
  #end(): void {
    if (this.#thrown !== null) this.#engine.park(this.#thrown);
    if (this.#engine.isUrgent()) this.#engine.setLimit();
  }

  // ## By translated code
  //
  // `count` is what ICOUNT is during the instruction. 1: it goes on, with the value of a read in WORD.DATUM; 0: the interpreter is to complete it.

  readInRegion(bytes: number, count: number): number {
    const generation = this.#begin(count);
    this.#asked(bytes, true, 0);
    this.#memory.i32[this.#datum] = this.#value;
    return this.#goesOn(generation) ? 1 : this.#leaveTo(count);
  }
  writeInRegion(bytes: number, value: number, count: number): number {
    const generation = this.#begin(count);
    this.#asked(bytes, false, value);
    return this.#goesOn(generation) ? 1 : this.#leaveTo(count);
  }
  #begin(count: number): number {
    this.#state.setNumber(OFFSET.ICOUNT, count);
    return this.#engine.generation();
  }
  #goesOn(generation: number): boolean {
    return this.#thrown === null && !this.#engine.isUrgent() && this.#engine.generation() === generation;
  }
  #leaveTo(count: number): number {
    this.#answerOf = count;
    this.#engine.setLimit();
    return 0;
  }
}
