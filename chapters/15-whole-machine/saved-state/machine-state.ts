// # Saving and restoring a machine
//
// Written down is what the guest could ever notice: memory, processors, devices, clocks. Not written down is what a machine only has for speed. The kernel's
// tables for the second stage, its shadow tables, the processor's TLB, decoded and translated code can all be made again from the rest.
//
// But in this book a run can be repeated to the last event, and those tables are seen in it: a page whose translation exists does not fault. A restored machine
// has none of them, and so its trace would differ from that of the machine that was saved and went on. Therefore saving makes the machine forget them as
// well, as KVM does whenever a memory slot is deleted. Then the machine takes its own state, exactly as a restored one will: where one of KVM's structures
// has no room for something (the phase of the 8254 is an example), both lose it, and both go on alike.
//
// ## What is not in the file
//
// A drive's contents are in the drive: a raw file is not copied, and a state that is restored together with another version of its disk is as good as a
// disk that was changed under a running system. (A drive that forgets, `snapshot=on`, has what was written to it in memory, and that is in the file.) What
// was sent has been sent: the console's text, packets on a host's network. What a reset loads again (kernel, initial RAM disk) is the caller's to give
// again. Nor is the trace in it, nor what a debugger has set.

import type { Timer } from '../../02-kvm-objects/clock.ts';
import type { Chassis } from '../../03-vcpu-loop/chassis.ts';
import { kind, type Placing, type Restoring, type SavedPart, StateError, StateReader, StateWriter } from '../../03-vcpu-loop/devices/state.ts';
import type { Machine } from '../../03-vcpu-loop/vmm.ts';
import { describeMachine, differences } from './description.ts';
import { decodeFile, encodeFile, type Section } from './file.ts';
import {
  askForEvents,
  guestClock,
  placeChips,
  placeClocks,
  placeProcessor,
  readChips,
  readProcessor,
  saveChips,
  saveProcessor,
  setGuestClock,
} from './kernel-state.ts';
import { decodePages, encodePages, type PagesOptions } from './memory.ts';

const SECTION = { CLOCK: 'clock', CHIPS: 'kernel: chips', RAM: 'ram' } as const;
const processorSection = (id: number): string => `kernel: processor ${id}`;
/** Of the parts below that have no table with a version of its own. */
const VERSION = 1;

type AnyMachine<C extends Chassis> = Machine<C>;

// ## Everything but memory

function saveAllButMemory<C extends Chassis>(machine: AnyMachine<C>): Section[] {
  const { vm, kernel } = machine;
  const section = (name: string, payload: Uint8Array, version = VERSION): Section => ({ name, version, payload });
  const clock = new StateWriter();
  kind.safe.write(clock, kernel.clock.now());
  kind.maybe(kind.u64).write(clock, guestClock(vm));
  const msrs = machine.kvm.getMsrIndexList();
  return [
    section(SECTION.CLOCK, clock.written),
    ...machine.vcpus.map((vcpu) => section(processorSection(vcpu.id), saveProcessor(vm, vcpu, msrs))),
    section(SECTION.CHIPS, saveChips(vm)),
    ...machine.savedParts.map((part) => {
      const out = new StateWriter();
      part.save(out);
      return section(part.name, out.written, part.version);
    }),
  ];
}

/** A state that has been read and checked, ready to be put in place. */
interface Prepared {
  readonly now: number;
  /** Before memory. */
  clocks(): void;
  /** After memory. */
  rest(restoring: Restoring): void;
}

function prepare<C extends Chassis>(machine: AnyMachine<C>, sections: readonly Section[]): Prepared {
  const { vm } = machine;
  const byName = new Map(sections.map((section) => [section.name, section]));
  const take = (name: string, version: number): Uint8Array => {
    const section = byName.get(name);
    if (!section) throw new StateError(`the state of ${name} is missing`);
    if (section.version !== version) throw new StateError(`${name}: version ${section.version} of its state; this program knows version ${version}`);
    byName.delete(name);
    return section.payload;
  };
  const of = <T>(name: string, read: (payload: Uint8Array) => T, version = VERSION): T => {
    const payload = take(name, version);
    try {
      return read(payload);
    } catch (error) {
      throw error instanceof StateError ? new StateError(`${name}: ${error.message}`) : error;
    }
  };
  const [now, clock] = of(SECTION.CLOCK, (payload) => {
    const from = new StateReader(payload);
    return [kind.safe.read(from), kind.maybe(kind.u64).read(from)] as const;
  });
  const processors = machine.vcpus.map((vcpu) => of(processorSection(vcpu.id), (payload) => readProcessor(vcpu, payload)));
  const chips = of(SECTION.CHIPS, readChips);
  const placings = machine.savedParts.map((part) => of(part.name, (payload) => readPart(part, payload), part.version));
  for (const name of byName.keys()) if (name !== SECTION.RAM) throw new StateError(`this machine has no ${name}`);
  return {
    now,
    clocks() {
      setGuestClock(vm, clock);
      for (const [n, vcpu] of machine.vcpus.entries()) placeClocks(vcpu, processors[n] as (typeof processors)[number]);
    },
    rest(restoring) {
      for (const place of placings) place(restoring);
      for (const [n, vcpu] of machine.vcpus.entries()) placeProcessor(vm, vcpu, processors[n] as (typeof processors)[number]);
      placeChips(vm, chips);
    },
  };
}

function readPart(part: SavedPart, payload: Uint8Array): Placing {
  const from = new StateReader(payload);
  const place = part.load(from);
  from.end();
  return place;
}

/** Puts everything but memory in place, and arms the timers in the order in which they were armed. */
function placeRest<C extends Chassis>(machine: AnyMachine<C>, prepared: Prepared, shift: number): void {
  const armed: { readonly timer: Timer; readonly at: number; readonly rank: number }[] = [];
  prepared.rest({ shift, arm: (timer, at, rank) => armed.push({ timer, at, rank }) });
  for (const { timer, at } of armed.sort((a, b) => a.rank - b.rank)) timer.arm(at);
  machine.kernel.forget?.();
}

// ## A quiet moment
//
// A drive in the middle of a command does next what some function says, and that cannot be written down. QEMU waits until all requests are done before it
// saves; here the guest goes on meanwhile, since it may be the guest that has to fetch the next word. It may also be a guest that never does. So the wait has an
// end, by the machine's own time and, for a machine whose time stands still, by turns.

const QUIET_TURNS = 100_000;
const QUIET_NS = 250e6;

/** Lets the machine go on until it can be written down. @throws StateError when that does not come about */
function comeToRest<C extends Chassis>(machine: AnyMachine<C>): void {
  const { clock } = machine.kernel;
  const until = clock.now() + QUIET_NS;
  for (let turn = 0; ; turn++) {
    machine.settle();
    const { busyNow } = machine.platform;
    if (busyNow === null) return;
    const outcome = turn < QUIET_TURNS && clock.now() < until ? machine.advance() : null;
    if (outcome === null) throw new StateError(`the machine cannot be saved: ${busyNow}`);
    if (outcome.kind === 'end') throw new StateError(`the machine came to its end before it could be saved: ${outcome.detail}`);
  }
}

// ## The two functions

/**
 * Writes a machine down, whose loop is between two turns, and which stands still until the promise is kept.
 * @throws StateError when it ran, or has something that cannot be saved
 */
export async function saveMachine<C extends Chassis>(machine: AnyMachine<C>, options: PagesOptions = {}): Promise<Uint8Array> {
  askForEvents(machine.vm);
  comeToRest(machine);
  const sections = saveAllButMemory(machine);
  placeRest(machine, prepare(machine, sections), 0);
  const now = machine.kernel.clock.now();
  const ram = await encodePages(machine.ram, options);
  if (machine.kernel.clock.now() !== now) throw new StateError('the machine ran while it was being saved');
  return encodeFile({
    header: JSON.stringify(describeMachine(machine)),
    sections: [...sections, { name: SECTION.RAM, version: VERSION, payload: ram }],
  });
}

/**
 * Puts a saved state into a machine that was made by the same description and has not run. After a refusal that names a part of the kernel or memory, the
 * machine is good for nothing.
 * @throws StateError with the reason
 */
export async function restoreMachine<C extends Chassis>(machine: AnyMachine<C>, file: Uint8Array): Promise<void> {
  const { header, sections } = decodeFile(file);
  const [difference] = differences(header, describeMachine(machine));
  if (difference) throw new StateError(`the state is another machine's: ${difference}`);
  askForEvents(machine.vm);
  const prepared = prepare(machine, sections);
  const ram = sections.find(({ name }) => name === SECTION.RAM);
  if (!ram || ram.version !== VERSION) throw new StateError('memory is missing, or of another version');
  const { kernel } = machine;
  kernel.clock.forward?.(prepared.now);
  prepared.clocks();
  await decodePages(ram.payload, machine.ram);
  kernel.stored?.(machine.hva, machine.ram.length);
  placeRest(machine, prepared, kernel.clock.now() - prepared.now);
}
