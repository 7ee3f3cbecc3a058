// # The seam between VMX and the rest of the processor
//
// VMX is a layer on top of an ordinary processor: it replaces the whole register file at once, and it wants to be asked before certain things
// happen. So the seam is narrow in both directions. The processor asks through `Intercepts`; VMX, when it swaps one world for another, needs the few
// services below. Writing them down as an interface keeps the VMX code testable on a register file alone, without decoder, MMU or devices.

import type { Intercepts } from '../intercepts.ts';
import type { Instruction } from '../isa/instruction.ts';
import type { PhysicalMemory } from '../physical-memory.ts';
import type { CpuState } from '../state.ts';
import type { Trace } from '../trace.ts';

/** Interruption types, as the interruption-information fields encode them in bits 10:8. */
// biome-ignore format: table
export const EVENT_TYPE = {
  EXTERNAL: 0, RESERVED: 1, NMI: 2, HARDWARE_EXCEPTION: 3, SOFTWARE_INTERRUPT: 4, PRIVILEGED_SOFTWARE_EXCEPTION: 5, SOFTWARE_EXCEPTION: 6, OTHER: 7,
} as const;

/** An event on its way through the IDT: injected by a VM entry, or interrupted by a VM exit. */
export interface DeliveredEvent {
  readonly vector: number;
  /** One of {@link EVENT_TYPE}. */
  readonly type: number;
  readonly errorCode: number | null;
  /** Length of INT n, INT3, INTO or INT1: the pushed RIP lies this far beyond the current one. 0 for the other types. */
  readonly instructionLength: number;
}

/** What VMX asks of the processor that it belongs to. `Cpu` implements it. */
export interface VmxProcessor {
  readonly memory: PhysicalMemory;
  readonly state: CpuState;
  readonly trace: Trace | null;
  /** Consulted by sensitive instructions. VM entry sets it; VM exit sets it back to null. */
  intercepts: Intercepts | null;
  /** Linear memory as the current program sees it: the operands of VMX instructions. They throw Fault or VmExit. */
  readonly mem: {
    read32(linear: bigint): number;
    read64(linear: bigint): bigint;
    write32(linear: bigint, value: number): void;
    write64(linear: bigint, value: bigint): void;
  };
  /** Linear address of the memory operand of `insn`, after the segment's checks. Throws #GP or #SS. */
  operandAddress(insn: Instruction, bytes: number, access: 'read' | 'write'): bigint;
  /** The four page-directory-pointer registers of PAE paging, as loaded. */
  readonly pdptes: BigUint64Array;
  /** Number of physical-address bits that CPUID reports. */
  readonly physicalAddressBits: number;
  /** Number of linear-address bits that CPUID reports, whether they are in use or not. */
  readonly linearAddressBits: number;
  /** The register file was replaced behind the processor's back: recompute what is derived from segments, control registers, EFER and DR7. */
  debugChanged(): void;
  /** Every cached translation and everything keyed by linear address is void. */
  flushTranslations(why: string): void;
  /** Conditions under which a boundary must be looked at have changed: recompute OFFSET.EVENTS. */
  eventsChanged(): void;
  /** RDMSR and WRMSR without privilege checks or intercepts, for the MSR areas. They throw #GP as the instructions do. */
  readMsr(index: number): bigint;
  writeMsr(index: number, value: bigint): void;
  /** Takes the waiting external interrupt from the interrupt controller ("acknowledge interrupt on exit"). Returns its vector. */
  acknowledgeInterrupt(): number;
  /** The event whose delivery through the IDT is under way, if any; a VM exit now reports it as IDT-vectoring information. */
  delivering: DeliveredEvent | null;
}

// The other direction, besides `Intercepts`: what the processor does for VMX at fixed moments. `Cpu.run` must
//
// - before the first instruction after VM entry, call `vmx.takeInjection()` and deliver what it returns (pushing RIP plus `instructionLength`
//   for the software types), then `vmx.takePendingDebug()` and, when non-zero, raise a trap-like #DB with that DR6 condition;
// - stop after one instruction, or after delivering one event, while `vmx.monitorTrap` is true, and then call `vmx.monitorTrapExit()`, which throws;
// - hand every `VmExit` that reaches it to `vmx.exit(exit)`, and return to its caller when that answers `'typescript'`;
// - hand the decoded VMX instructions to `vmx.execute(op, insn)`;
// - ask `vmx.checkControlRegister(n, value)` before MOV to CR0 or CR4 takes effect (it throws #GP for bits that VMX operation fixes).
