// # What is around a processor
//
// Buses on two sides, an interrupt controller, perhaps a VMX unit; and whoever runs it, who wants to know why it stopped.

import type { TranslationOptions } from '../engine/surroundings.ts';
import type { VmExit } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import type { SystemOp } from '../isa/system-ops.ts';
import type { PhysicalBus } from '../mmu/mmu.ts';
import type { PhysicalMemory } from '../physical-memory.ts';
import type { Trace } from '../trace.ts';
import type { DeliveredEvent } from '../vmx/processor.ts';
import type { PortBus } from './ports.ts';

/** What the processor asks of its VMX unit. */
export interface VmxExtension {
  execute(op: SystemOp, insn: Instruction): void;
  exit(exit: VmExit): 'typescript' | 'x86' | 'abort';
  readonly entryPending: boolean;
  takeInjection(): DeliveredEvent | null;
  takePendingDebug(): number;
  readonly monitorTrap: boolean;
  monitorTrapExit(): never;
  checkControlRegister(n: 0 | 4, value: bigint): void;
  /** In VMX operation: INIT is blocked in root, and exits in non-root. */
  readonly operating: boolean;
  /** Power-up. */
  reset(): void;
}

/** The interrupt controller, as the processor sees it. Whoever makes `pending` true calls `Cpu.eventsChanged()`. */
export interface InterruptSource {
  pending(): boolean;
  /** Takes the interrupt. Returns its vector. */
  acknowledge(): number;
}

/** Why `Cpu.run` came back. */
export type CpuStop =
  | { readonly kind: 'deadline' } // as many instructions as were asked for
  | { readonly kind: 'halt' } // waiting for an interrupt, and none is there
  | { readonly kind: 'shutdown' } // after a triple fault or a VMX abort
  | { readonly kind: 'wait-for-sipi' }
  | { readonly kind: 'stop' } // `requestStop()` was called
  | { readonly kind: 'vmexit'; readonly exit: VmExit }; // a guest entered by TypeScript has exited

export interface CpuOptions extends TranslationOptions {
  readonly memory: PhysicalMemory;
  readonly trace?: Trace;
  readonly ports?: PortBus;
  readonly devices?: PhysicalBus;
  /** How much memory decoded code may take. */
  readonly arenaBytes?: number;
  /** Initial APIC id: 0 is the bootstrap processor. */
  readonly apicId?: number;
  /** 57: the processor offers 5-level paging. */
  readonly linearAddressBits?: 48 | 57;
}

/** A bus without devices: reads give all ones, writes go nowhere. */
export const NO_PORTS: PortBus = { read: (_port, bytes) => 2 ** (8 * bytes) - 1, write: () => {} };
export const NO_DEVICES: PhysicalBus = { read: (_address, bytes) => (1n << BigInt(8 * bytes)) - 1n, write: () => {} };
