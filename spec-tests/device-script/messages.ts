// # Interrupts as memory
//
// A message-signalled interrupt is a store of four bytes to an address. Nothing says that the address must be an interrupt controller's. So the script points
// each vector at a word of RAM and looks there, and needs no processor to be interrupted.

import type { Bus, Script } from './bus.ts';
import type { DriverMemory } from './memory.ts';
import type { VirtioFunction } from './pci.ts';
import { ScriptError } from './steps.ts';

const CONTROL = 2;
const ENABLE = 0x8000;
const ENTRY_BYTES = 16;
const MASKED = 1n;
/** What vector n stores is this plus n. */
const MESSAGE_DATA = 0x6d73_0000;

export class Messages {
  readonly #bus: Bus;
  readonly #memory: DriverMemory;
  readonly #fn: VirtioFunction;
  readonly #at: number;
  #words = 0;
  #table = 0;
  count = 0;
  enabled = false;

  constructor(bus: Bus, memory: DriverMemory, fn: VirtioFunction, at: number) {
    this.#bus = bus;
    this.#memory = memory;
    this.#fn = fn;
    this.#at = at;
  }

  /** Fills the table and switches the capability on. */
  *enable(): Script<void> {
    const control = yield* this.#fn.config.read(this.#at + CONTROL, 2);
    this.count = (control & 0x7ff) + 1;
    const table = yield* this.#fn.config.read(this.#at + 4, 4);
    const bar = this.#fn.bars[table & 7];
    if (!bar || bar.io) throw new ScriptError(`the MSI-X table is said to be in BAR ${table & 7}, which is no memory`);
    this.#table = bar.gpa + (table & ~7);
    this.#words = (yield* this.#memory.take(this.#bus, 'messages', 4 * this.count)).gpa;
    for (let vector = 0; vector < this.count; vector++) {
      const entry = this.#table + vector * ENTRY_BYTES;
      yield* this.#bus.store(entry, 4, BigInt(this.#words + 4 * vector));
      yield* this.#bus.store(entry + 4, 4, 0n);
      yield* this.#bus.store(entry + 8, 4, BigInt(MESSAGE_DATA + vector));
      yield* this.#bus.store(entry + 12, 4, 0n);
    }
    yield* this.#fn.config.write(this.#at + CONTROL, 2, BigInt(control | ENABLE));
    this.enabled = true;
  }

  *disable(): Script<void> {
    const control = yield* this.#fn.config.read(this.#at + CONTROL, 2);
    yield* this.#fn.config.write(this.#at + CONTROL, 2, BigInt(control & ~ENABLE));
    this.enabled = false;
  }

  *mask(vector: number, masked: boolean): Script<void> {
    yield* this.#bus.store(this.#table + vector * ENTRY_BYTES + 12, 4, masked ? MASKED : 0n);
  }

  /** Whether a vector's message has arrived; it is taken away. */
  *take(vector: number): Script<boolean> {
    if (vector >= this.count) return false;
    const word = this.#words + 4 * vector;
    const arrived = (yield* this.#bus.readNumber(word, 4)) === BigInt(MESSAGE_DATA + vector);
    if (arrived) yield* this.#bus.writeNumber(word, 4, 0n);
    return arrived;
  }
}
