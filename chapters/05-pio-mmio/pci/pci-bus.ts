// # A bus of functions
//
// Before software gives it any other, a function's whole address is its place: bus, device, function. A bus holds up to {{DEVICES}} devices of up to
// {{FUNCTIONS}} functions. What a function asks of the world goes up: its interrupt pins, its memory accesses, its messages. What comes down are accesses, and
// those find it in two ways: by that geographical address (configuration) or by the address that its own registers claim (everything else). The
// second way is the bus of regions of chapter 3.

import type { Bus } from '../../03-vcpu-loop/devices/bus.ts';
import { array, describe, type SavedPart, savedPart } from '../../03-vcpu-loop/devices/state.ts';
import type { DmaTarget, MsiTarget } from '../wires.ts';
import type { PciFunction } from './function.ts';

/** Devices on a bus. */
export const DEVICES = 32;
/** Functions of a device. */
export const FUNCTIONS = 8;
/** Interrupt pins of a device, INTA# to INTD#. */
export const PINS = 4;

/** Who answers first where the guest has put things over each other. The board's own devices come before all of these. */
export const PRIORITY = { CHIPSET: -1, BAR: -2 } as const;

/** What lies above a bus: the chipset, or a bridge. */
interface Upstream {
  readonly dma: DmaTarget;
  readonly msi: MsiTarget;
  /** The pin of a device on this bus, 0 for INTA#, is now asserted by at least one of its functions, or by none any more. */
  intx(device: number, pin: number, level: boolean): void;
}

/** A bus below this one, as the bridge's registers number it. */
export interface Downstream {
  readonly secondary: PciBus;
  /** Numbers of the buses that are reached through it; null while the bridge holds them in reset. */
  numbers(): { readonly first: number; readonly last: number } | null;
}

export class PciBus {
  readonly name: string;
  /** Where the BARs of its functions are. */
  readonly io: Bus;
  readonly memory: Bus;
  readonly upstream: Upstream;
  readonly #functions: (PciFunction | null)[] = new Array<PciFunction | null>(DEVICES * FUNCTIONS).fill(null);
  readonly #below: Downstream[] = [];
  readonly #asserted = new Uint8Array(DEVICES * PINS); // functions that assert each pin

  constructor(name: string, { io, memory, upstream }: { io: Bus; memory: Bus; upstream: Upstream }) {
    this.name = name;
    this.io = io;
    this.memory = memory;
    this.upstream = upstream;
  }

  /** Puts a function in its slot. @throws RangeError when there is no such slot, or it is taken. */
  add<F extends PciFunction>(fn: F, device: number, number = 0): F {
    const slot = device * FUNCTIONS + number;
    if (!(device >= 0 && device < DEVICES && number >= 0 && number < FUNCTIONS)) throw new RangeError(`${this.name} has no slot ${device}.${number}`);
    const other = this.#functions[slot];
    if (other) throw new RangeError(`${fn.name} and ${other.name} both want slot ${device}.${number} of ${this.name}`);
    this.#functions[slot] = fn;
    fn.plugIn(this, device, number);
    // @clause pci.multifunction
    const siblings = this.#functions.slice(device * FUNCTIONS, (device + 1) * FUNCTIONS).filter((sibling) => sibling !== null);
    if (siblings.length > 1) for (const sibling of siblings) sibling.declareMultiFunction();
    return fn;
  }

  /** A bridge on this bus leads to another. */
  lead(to: Downstream): void {
    this.#below.push(to);
  }

  /** Functions of this bus alone, in the order of their slots. */
  get functions(): PciFunction[] {
    return this.#functions.filter((fn) => fn !== null);
  }

  functionAt(device: number, number: number): PciFunction | null {
    return this.#functions[device * FUNCTIONS + number] ?? null;
  }

  // A configuration access carries a bus number, and each bridge compares it with its own three registers. Guests write those registers, so numbers may
  // repeat, run backwards, or name the bridge's own bus. None of that matters to a search that only ever goes *down* the tree as it was built: it
  // ends at the leaves, and of two bridges that both claim a number the one in the lower slot has it.

  /** The function that a configuration access on this bus reaches. */
  find(own: number, bus: number, devfn: number): PciFunction | null {
    if (bus === own) return this.#functions[devfn] ?? null;
    for (const downstream of this.#below) {
      const numbers = downstream.numbers();
      const below = numbers && (bus === numbers.first || (bus > numbers.first && bus <= numbers.last));
      if (below) return downstream.secondary.find(numbers.first, bus, devfn);
    }
    return null;
  }

  /** A function asserts or releases a pin. Several may share it: the line is the OR of them. */
  intx(device: number, pin: number, level: boolean): void {
    const index = device * PINS + pin;
    const before = this.#asserted[index] as number;
    const after = before + (level ? 1 : -1);
    this.#asserted[index] = after;
    if ((before === 0) !== (after === 0)) this.upstream.intx(device, pin, after !== 0);
  }

  /** Resets every function on this bus and below. */
  reset(): void {
    for (const fn of this.functions) fn.reset();
  }

  static readonly STATE = describe<PciBus>('PCI bus', 1, { asserted: array((bus) => bus.#asserted) });

  /** What somebody on it, or behind it, is in the middle of. */
  get busyNow(): string | null {
    for (const fn of this.functions) if (fn.busyNow !== null) return fn.busyNow;
    for (const { secondary } of this.#below) if (secondary.busyNow !== null) return secondary.busyNow;
    return null;
  }

  /** What is saved of the bus, and of everything that is reached through it. */
  savedParts(name: string): SavedPart[] {
    const functions = this.functions.flatMap((fn) => fn.savedParts(`${name} ${fn.device.toString(16).padStart(2, '0')}.${fn.number}`));
    const below = this.#below.flatMap(({ secondary }, index) => secondary.savedParts(`${name}.${index}`));
    return [...functions, ...below, savedPart(name, this, PciBus.STATE)];
  }
}
