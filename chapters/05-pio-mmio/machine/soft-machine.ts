// # The kernel under the machine
//
// The kernel of the book with everything that the chapters so far install in it, in the size that the machine needs.

import type { TranslationOptions } from '../../01-hardware-background/engine/surroundings.ts';
import type { Trace } from '../../01-hardware-background/trace.ts';
import { NS_PER_TICK } from '../../02-kvm-objects/soft/virtual-clock.ts';
import type { RunnableKernel } from '../../03-vcpu-loop/kernel/index.ts';
import type { MemoryMethod } from '../../04-memory-virtualization/kernel/index.ts';
import { platformKernel } from '../kernel/index.ts';

const MIB = 1 << 20;
/** Firmware, and the kernel's own pages: tables of the second stage or shadow tables, vCPUs. */
const ROOM_MIB = 48;
const TABLES_PART = 64;
// Processors take turns, and a turn is a number of instructions. That number has to be a prime. A processor that releases a lock and takes it again
// at once, in a loop of eight instructions, would with turns of 20,000 always stop at the same place in its loop; if it holds the lock there, no
// other ever gets it. SeaBIOS waits for its second processor in just such a loop.

/** What an access takes that this machine answers: a microsecond, as good systems need. */
export const ACCESS_TICKS = 1000 / NS_PER_TICK;

/** How many instructions one KVM_RUN executes at most. */
export const boundFor = (cpus: number): number => (cpus > 1 ? 19_997 : 999_983);

interface MachineSize {
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly memory: MemoryMethod;
  readonly translate?: boolean;
}

interface MachineKernelOptions extends Pick<TranslationOptions, 'heat' | 'workshop'> {
  readonly trace?: Trace | null;
  /** False: only what the kernel does is reported. */
  readonly traceProcessor?: boolean;
  readonly instructionBound?: number;
  /** The date when the machine is switched on, in seconds since 1970. */
  readonly startTime?: number | undefined;
  /** 57: the processor has five levels of paging; not with shadow tables, which have four. */
  readonly linearAddressBits?: 48 | 57 | undefined;
}

/** A kernel that can hold the machine. */
export function machineKernel(
  { memoryMiB, cpus, memory, translate = true }: MachineSize,
  { trace = null, traceProcessor = true, instructionBound, heat, workshop, startTime, linearAddressBits }: MachineKernelOptions = {},
): RunnableKernel {
  const ramBytes = (memoryMiB + ROOM_MIB + Math.ceil(memoryMiB / TABLES_PART)) * MIB;
  return platformKernel({
    ramBytes,
    memory,
    trace,
    traceProcessor,
    translate,
    heat,
    workshop,
    instructionBound: instructionBound ?? boundFor(cpus),
    accessTicks: ACCESS_TICKS,
    ...(startTime !== undefined && { epochSeconds: startTime }),
    ...(linearAddressBits !== undefined && { linearAddressBits }),
  });
}
