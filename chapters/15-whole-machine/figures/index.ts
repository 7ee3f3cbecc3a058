// The chapter's recorded boots, which its sentences and figures quote.

import { boundFor } from '../../05-pio-mmio/machine/soft-machine.ts';
import { type Accesses, type BootRecord, boots, PHASES, type Phase, type ProcessorRecord } from '../boots/record.ts';
import { partsOf } from '../saved-state/sections.ts';

export { boots };

/** The boards, as the text orders them. */
export const BOARDS = ['pc', 'q35', 'microvm'] as const;
type Board = (typeof BOARDS)[number];

export const bootOf = (board: Board): BootRecord => {
  const found = boots.machines[board];
  if (!found) throw new RangeError(`no boot of ${board} is recorded`);
  return found;
};

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
const count = ({ kernel, user }: Accesses): number => kernel + user;

/** How often a device was accessed, whoever answered. */
export const accesses = (board: Board, device: string): number => {
  const found = bootOf(board).devices[device];
  return found ? count(found) : 0;
};

export const exitsOf = (board: Board): number => sum(Object.values(bootOf(board).exits));
const all = (board: Board): number => sum(Object.values(bootOf(board).devices).map(count));
export const instructionsOf = (board: Board): number => sum(PHASES.map((phase) => bootOf(board).phases[phase].instructions));
export const secondsOf = (board: Board): number => sum(PHASES.map((phase) => bootOf(board).phases[phase].nanoseconds)) / 1e9;
/** A part of the boot in hundredths of its instructions. */
export const share = (board: Board, phase: Phase): number => Math.round((100 * bootOf(board).phases[phase].instructions) / instructionsOf(board));

export const millions = (n: number): number => Math.round(n / 1e6);
export const thousands = (n: number): number => Math.round(n / 1e3);
export const tenths = (n: number): number => Math.round(10 * n) / 10;

/** Devices under the names that they have on every board, by how often they were accessed. */
const FAMILIES: readonly (readonly [name: string, devices: RegExp])[] = [
  ['serial port', /^serial$/],
  ['PCI configuration', /^pci-/],
  ['I/O APIC', /^I\/O APIC$/],
  ['clock and memory of the AT', /^rtc$/],
  ['keyboard controller', /^i8042$/],
  ['power management', /pm|apm|acpi/],
  ['PIC', /^PIC$/],
  ['PIT', /^PIT$/],
  ['local APIC’s page', /^local APIC$/],
  ['nobody', /^nobody$/],
];

export interface FamilyRow {
  readonly name: string;
  readonly counts: readonly number[];
  /** That the guest was occupied with it. */
  readonly nanoseconds: readonly number[];
}

const familyOf = (device: string): string => FAMILIES.find(([, devices]) => devices.test(device))?.[0] ?? device;

/** Every device of the boots, and how often it was accessed on each board. */
export const families: readonly FamilyRow[] = (() => {
  const names = new Set([...FAMILIES.map(([name]) => name), ...BOARDS.flatMap((board) => Object.keys(bootOf(board).devices).map(familyOf))]);
  const total = (board: Board, name: string, of: (each: Accesses) => number): number =>
    sum(Object.entries(bootOf(board).devices).flatMap(([device, each]) => (familyOf(device) === name ? [of(each)] : [])));
  const rows = [...names].map((name) => ({
    name,
    counts: BOARDS.map((board) => total(board, name, count)),
    nanoseconds: BOARDS.map((board) => total(board, name, (each) => each.nanoseconds)),
  }));
  return rows.filter(({ counts }) => counts.some((each) => each > 0)).toSorted((a, b) => Math.max(...b.counts) - Math.max(...a.counts));
})();

export const consoleOf = (board: Board) => {
  const { consoleBytes } = bootOf(board);
  const serial = accesses(board, 'serial');
  return { bytes: consoleBytes, accesses: serial, each: serial / consoleBytes, percent: Math.round((100 * serial) / all(board)) };
};

/** Of a board's time to the first program, in hundredths, what its guest was occupied with devices. */
export const occupied = (board: Board): number =>
  sum(Object.values(bootOf(board).devices).map(({ nanoseconds }) => nanoseconds)) / (1e7 * secondsOf(board));
/** Milliseconds that the guest was occupied with one of them. */
export const millisecondsWith = (board: Board, name: string): number =>
  (families.find((row) => row.name === name)?.nanoseconds[BOARDS.indexOf(board)] ?? 0) / 1e6;

// ## Several processors
//
// Linux gives its own messages the vectors at the upper end (`arch/x86/include/asm/irq_vectors.h`).

const VECTOR = { timer: '0xec', callOne: '0xfb', callSeveral: '0xfc', reschedule: '0xfd' } as const;

interface ProcessorRow {
  readonly turns: number;
  readonly instructions: number;
  readonly starts: readonly [init: number, startup: number];
  readonly timer: number;
  readonly calls: number;
  readonly reschedule: number;
  /** From devices and their controllers. */
  readonly devices: number;
}

const rowOf = ({ turns, instructions, received }: ProcessorRecord): ProcessorRow => {
  const got = (name: string): number => received[name] ?? 0;
  const [starts, timer, reschedule] = [[got('INIT'), got('STARTUP')] as const, got(VECTOR.timer), got(VECTOR.reschedule)];
  const calls = got(VECTOR.callOne) + got(VECTOR.callSeveral);
  const all = sum(Object.values(received));
  return { turns, instructions, starts, timer, calls, reschedule, devices: all - timer - calls - reschedule - starts[0] - starts[1] };
};

export const processors: readonly ProcessorRow[] = boots.several.processors.map(rowOf);

export const several = {
  machine: boots.several.machine,
  cpus: processors.length,
  bound: boundFor(processors.length),
  seconds: boots.several.nanoseconds / 1e9,
  turns: sum(processors.map(({ turns }) => turns)),
  instructions: sum(processors.map(({ instructions }) => instructions)),
  calls: sum(processors.map(({ calls }) => calls)),
  timer: sum(processors.map(({ timer }) => timer)),
  reschedule: sum(processors.map(({ reschedule }) => reschedule)),
};

/** More instructions than with one processor, in hundredths. */
export const moreInstructions = Math.round(100 * (several.instructions / instructionsOf('q35') - 1));

// ## What is written down

export const parts = partsOf('q35', 1);
const bytesOf = (keeper: 'kernel' | 'machine'): number => sum(parts.filter((part) => part.keeper === keeper).map(({ bytes }) => bytes));
export const partBytes = { processor: parts[0]?.bytes ?? 0, kernel: bytesOf('kernel'), machine: bytesOf('machine') };

// ## Asking every bus
//
// Two port accesses make one question: the address, then the answer.

const BUSES = 256;
const SLOTS = 32;
const PORTS_PER_QUESTION = 2;
export const emptyBuses = { buses: BUSES - 1, slots: SLOTS, accesses: PORTS_PER_QUESTION * SLOTS * (BUSES - 1) };
