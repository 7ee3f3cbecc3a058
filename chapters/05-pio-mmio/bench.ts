// # A bench for devices
//
// A whole PC of this chapter around a guest of a few lines, on the kernel of this book, with everything that happens between two marks kept. The marks
// are writes to a port that every PC has and nobody uses: firmware shows its progress there.

import { Recorder, type Timed } from '../01-hardware-background/trace.ts';
import { Machine } from '../03-vcpu-loop/vmm.ts';
import { MemoryBlock } from './block/block.ts';
import { type GuestProgram, out, place, startState } from './guest-program.ts';
import type { Arrangement } from './interrupts/controller.ts';
import { completeConfig } from './machine/config.ts';
import './machine/devices.ts';
import { platformKernel } from './kernel/index.ts';
import type { DeviceConfig } from './machine/device-types.ts';
import { Pc } from './machine/pc.ts';
import { lookupIn } from './register-names.ts';
import type { Lookup } from './route.ts';

const MARK_PORT = 0x80;
/** What is measured lies between two of these. */
export const mark = out(MARK_PORT, 0);

const MEMORY_MIB = 2;
/** The guest's memory, and room for the kernel's own pages. */
const KERNEL_BYTES = 8 << 20;
const EXIT_LIMIT = 100_000;

interface BenchOptions {
  readonly irqchip?: Arrangement;
  /** What is on the disk `disk`; there is none without. */
  readonly disk?: Uint8Array;
  /** There is a station at the end of the cable `wire`. */
  readonly devices?: readonly DeviceConfig[];
  /** Called when everything is in place and nothing has run. */
  readonly prepare?: (machine: Machine<Pc>) => void;
}

export interface BenchRun {
  /** All of the trace, and the part between the first mark and the last. */
  readonly events: readonly Timed[];
  readonly marked: readonly Timed[];
  readonly ram: Uint8Array;
  readonly pc: Pc;
  readonly lookup: Lookup;
}

/** The part of a trace between the first mark and the last. */
function between(events: readonly Timed[]): readonly Timed[] {
  const marks = events.flatMap((event, index) => (event.kind === 'kvm_pio' && event.port === MARK_PORT ? [index] : []));
  const [first, last] = [marks[0], marks.at(-1)];
  if (first === undefined || last === undefined || first === last) return events;
  const from = events.findIndex((event, index) => index > first && event.kind === 'kvm_entry');
  const to = events.findLastIndex((event, index) => index < last && event.kind === 'kvm_exit');
  return events.slice(from, to);
}

/** Runs a guest to its halt. @throws Error when it ends in any other way */
export function runOnBench(program: GuestProgram, { irqchip = 'off', disk, devices = [], prepare }: BenchOptions = {}): BenchRun {
  const trace = new Recorder();
  const config = completeConfig({
    kernel: 'a guest made of accesses',
    memoryMiB: MEMORY_MIB,
    irqchip,
    reboot: false,
    serial: ['null'],
    ...(disk && { drives: [{ id: 'disk', file: 'in memory' }] }),
    netdevs: [{ id: 'wire', type: 'echo' }],
    devices,
  });
  const kernel = platformKernel({ ramBytes: KERNEL_BYTES, trace });
  const pc = new Pc({ kernel, config, blocks: new Map(disk ? [['disk', new MemoryBlock(disk)]] : []), trace });
  const machine = new Machine(pc.board);
  place(machine.ram, program);
  const vcpu = machine.current;
  vcpu.setSregs(startState.sregs);
  vcpu.setRegs(startState.regs);
  prepare?.(machine);
  const { end, detail } = machine.run({ exits: EXIT_LIMIT });
  if (end !== 'halt') throw new Error(`the guest ended by ${end}: ${detail}`);
  return { events: trace.events, marked: between(trace.events), ram: machine.ram, pc, lookup: lookupIn(pc) };
}
