// # The driver's memory
//
// Names for pieces of the paused machine's RAM. The allocator only goes up: it begins at {{FIRST_GPA}}, above everything that a PC keeps in its first megabyte, and
// a script is short.

import type { Bus, Script } from './bus.ts';
import { ScriptError } from './steps.ts';

export const FIRST_GPA = 0x10_0000;
const DEFAULT_ALIGN = 64;

export interface Block {
  readonly gpa: number;
  readonly bytes: number;
}

export class DriverMemory {
  readonly #blocks = new Map<string, Block>();
  readonly #end: number;
  #next = FIRST_GPA;

  constructor(ramBytes: number) {
    this.#end = ramBytes;
  }

  /** Takes zeroed memory. @throws ScriptError when there is none left */
  *take(bus: Bus, name: string | null, bytes: number, align = DEFAULT_ALIGN): Script<Block> {
    const gpa = Math.ceil(this.#next / align) * align;
    if (gpa + bytes > this.#end) throw new ScriptError(`the machine's memory has no room for ${bytes} bytes more`);
    this.#next = gpa + bytes;
    yield* bus.fill(gpa, bytes, 0);
    const block = { gpa, bytes };
    if (name !== null) this.name(name, block);
    return block;
  }

  /** Says what is at an address; it need not be RAM. A name given again means the new place. */
  name(name: string, block: Block): void {
    this.#blocks.set(name, block);
  }

  /** @throws ScriptError */
  at(name: string): Block {
    const block = this.#blocks.get(name);
    if (!block) throw new ScriptError(`no memory is called '${name}' here`);
    return block;
  }

  /** An address inside a block. @throws ScriptError when the stretch leaves it */
  place(name: string, offset: number, bytes: number): number {
    const block = this.at(name);
    if (offset + bytes > block.bytes) throw new ScriptError(`'${name}' has ${block.bytes} bytes, not ${offset + bytes}`);
    return block.gpa + offset;
  }
}
