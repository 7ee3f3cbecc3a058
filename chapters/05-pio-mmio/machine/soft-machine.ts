// # The kernel under the machine
//
// The kernel of the book with everything that the chapters so far install in it, in the size that the machine needs.

import type { Trace } from '../../01-hardware-background/trace.ts';
import type { RunnableKernel } from '../../03-vcpu-loop/kernel/index.ts';
import { type MemoryMethod, memoryKernel } from '../../04-memory-virtualization/kernel/index.ts';

const MIB = 1 << 20;
/** Firmware, and the kernel's own pages: tables of the second stage or shadow tables, vCPUs. */
const ROOM_MIB = 48;
const TABLES_PART = 64;
/** How many instructions one KVM_RUN executes at most. Several processors take turns at these bounds; one that waits for another wastes its turn. */
const boundFor = (cpus: number): number => (cpus > 1 ? 20_000 : 1_000_000);

interface MachineSize {
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly memory: MemoryMethod;
}

interface MachineKernelOptions {
  readonly trace?: Trace | null;
  readonly instructionBound?: number;
}

/** A kernel that can hold the machine. */
export function machineKernel(
  { memoryMiB, cpus, memory }: MachineSize,
  { trace = null, instructionBound }: MachineKernelOptions = {},
): RunnableKernel {
  const ramBytes = (memoryMiB + ROOM_MIB + Math.ceil(memoryMiB / TABLES_PART)) * MIB;
  return memoryKernel({ ramBytes, memory, trace, instructionBound: instructionBound ?? boundFor(cpus) });
}
