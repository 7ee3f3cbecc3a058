// # Playing a script
//
// Turns steps into accesses and what is read into observations. It judges nothing: the observations go to the same judge as a guest's.

import { hex } from '../values.ts';
import { Bus, type Script, Stuck, Unsupported } from './bus.ts';
import { Driver } from './driver.ts';
import { featureBit } from './features.ts';
import { type Block, DriverMemory } from './memory.ts';
import { PciWindows } from './pci.ts';
import { type Found, type Reach, reach } from './reach.ts';
import { type DeviceStep, ScriptError, type StepOf, type Value } from './steps.ts';
import { DATA_STEPS } from './steps-data.ts';
import { DEVICE_STEPS } from './steps-device.ts';
import { RING_STEPS } from './steps-ring.ts';
import type { WireDevice } from './wire.ts';

export interface ScriptMachine {
  readonly devices: readonly WireDevice[];
  readonly memoryMiB: number;
  readonly windows?: readonly string[];
}

/** What a script has seen. */
export interface ScriptReport {
  readonly observations: readonly (readonly [string, string])[];
  /** Why the script could not go on to its end. */
  readonly stuck: string | null;
  /** The implementation lacks what the case needs. */
  readonly unsupported: string | null;
}

type Handlers = { readonly [D in DeviceStep['do']]?: (play: Play, step: StepOf<D>) => Script<void> };
const HANDLERS: Handlers = { ...DEVICE_STEPS, ...RING_STEPS, ...DATA_STEPS };

/** The state of a script that is being played. */
export class Play {
  readonly bus = new Bus();
  readonly machine: ScriptMachine;
  readonly memory: DriverMemory;
  readonly observations: [string, string][] = [];
  /** Levels of the interrupt lines, as far as they have changed, and rises since they were last looked at. */
  readonly lines = new Map<number, boolean>();
  /** What the host keeps a copy of when the next buffer is announced. */
  watched: readonly Block[] = [];
  readonly #kept = new Map<string, bigint>();
  readonly #reached = new Map<number, Reach>();
  readonly #drivers = new Map<number, Driver>();
  readonly #found: Found = { windows: new PciWindows(), functions: new Map(), mmio: null };

  constructor(machine: ScriptMachine) {
    this.machine = machine;
    this.memory = new DriverMemory(machine.memoryMiB * 2 ** 20);
  }

  observe(key: string, value: bigint | number): void {
    this.observations.push([key, hex(value)]);
  }

  /** What a step with `as` or `keep` does with what it has read. */
  seen({ as, keep }: { readonly as?: string; readonly keep?: string }, value: bigint | number): void {
    if (as !== undefined) this.observe(as, value);
    if (keep !== undefined) this.#kept.set(keep, BigInt(value));
  }

  /** @throws ScriptError for names that mean nothing */
  value(value: Value): bigint {
    if (typeof value !== 'object') return BigInt(value);
    if ('memory' in value) return BigInt(this.memory.at(value.memory).gpa) + this.value(value.offset ?? 0);
    const kept = this.#kept.get(value.kept);
    if (kept === undefined) throw new ScriptError(`nothing is kept under '${value.kept}'`);
    return kept * BigInt(value.times ?? 1) + BigInt(value.plus ?? 0);
  }

  number(value: Value): number {
    const number = Number(this.value(value));
    if (!Number.isSafeInteger(number)) throw new ScriptError(`${JSON.stringify(value)} is no number that can be used here`);
    return number;
  }

  /** The device of a step, found when it is first needed. */
  *driver({ device: index = 0 }: { readonly device?: number }): Script<Driver> {
    const known = this.#drivers.get(index);
    if (known) return known;
    const { devices, windows } = this.machine;
    const device = devices[index];
    if (!device) throw new ScriptError(`the machine has no device ${index}`);
    const bus = (each: WireDevice): boolean => each.transport.startsWith('mmio');
    const nth = devices.slice(0, index).filter((each) => each.type === device.type && bus(each) === bus(device)).length;
    const found = this.#reached.get(index) ?? (yield* reach(this.bus, device, nth, this.#found, windows));
    this.#reached.set(index, found);
    const driver = new Driver(this.bus, this.memory, device, found, index === 0 ? '' : `d${index}.`);
    this.#drivers.set(index, driver);
    return driver;
  }

  *steps(steps: readonly DeviceStep[]): Script<void> {
    for (const step of steps) yield* this.step(step);
  }

  *step(step: DeviceStep): Script<void> {
    if (step.do === 'repeat') {
      for (let round = 0; round < step.times; round++) yield* this.steps(step.steps);
    } else if (step.do === 'when') {
      yield* this.steps((yield* this.#holds(step)) ? step.steps : (step.else ?? []));
    } else {
      const handler = HANDLERS[step.do] as ((play: Play, step: DeviceStep) => Script<void>) | undefined;
      if (!handler) throw new ScriptError(`there is no step '${step.do}'`);
      yield* handler(this, step);
    }
  }

  *#holds({ device, transport, ring, negotiated, offered }: StepOf<'when'>): Script<boolean> {
    const of = this.machine.devices[device ?? 0];
    if (!of) throw new ScriptError(`the machine has no device ${device}`);
    if (transport && !transport.includes(of.transport)) return false;
    if (ring && !ring.includes(of.ring)) return false;
    if (negotiated === undefined && offered === undefined) return true;
    const driver = yield* this.driver({ ...(device !== undefined && { device }) });
    if (negotiated !== undefined && !driver.has(featureBit(of.type, negotiated))) return false;
    if (offered === undefined) return true;
    const bits = driver.offered ?? (yield* driver.offers());
    return ((bits >> BigInt(featureBit(of.type, offered))) & 1n) === 1n;
  }
}

/** Plays a script to its end, or to where it can go no further. @throws ScriptError, BadResult */
export function* playScript(script: readonly DeviceStep[], machine: ScriptMachine): Script<ScriptReport> {
  const play = new Play(machine);
  const report = (stuck: string | null, unsupported: string | null): ScriptReport => ({ observations: play.observations, stuck, unsupported });
  try {
    yield* play.steps(script);
    yield* play.bus.flush();
    return report(null, null);
  } catch (error) {
    if (error instanceof Stuck) return report(error.message, null);
    if (error instanceof Unsupported) return report(null, error.message);
    throw error;
  }
}
