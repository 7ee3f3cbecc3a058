// # What the hypervisor may want to see
//
// In VMX non-root operation a sensitive instruction asks first. The answer depends on the execution controls in the current VMCS, but the
// instruction does not know that: it only knows this interface. In root mode, and on a processor without VMX, there is nobody to ask
// (`cpu.intercepts` is null) and the instruction proceeds.

import type { Fault, VmExit } from './faults.ts';

export interface IoAccess {
  readonly port: number;
  readonly size: 1 | 2 | 4;
  readonly direction: 'in' | 'out';
  readonly string: boolean;
  readonly rep: boolean;
  /** The port came as an immediate byte. */
  readonly immediate: boolean;
  /** For string instructions: the linear address of the memory operand, and what the instruction-information field reports. */
  readonly linear?: bigint;
  readonly addressSize?: 16 | 32 | 64;
  readonly segment?: number;
}

// The question may come up deep inside an instruction, so the answer "the hypervisor takes over" is thrown, like a fault. But unwinding costs more than
// all the rest of an exit, and the instructions that exit by the hundred thousand are the simple ones, which ask once, at their very beginning. For
// those the answer is a value: they hand it to `Cpu.leaves` and return.

/**
 * A method that returns `VmExit | null` gives null to go on. Every other one either returns (go on) or throws a VmExit. After an exit the hypervisor
 * takes over, and the instruction must have had no effect.
 */
export interface Intercepts {
  /**
   * An instruction that exits by itself: `reason` is its basic exit reason (CPUID 10, HLT 12, INVLPG 14, RDTSC 16, VMCALL 18, GDTR/IDTR 46, …).
   * Exits or not as the controls say. `length` is the instruction's length in bytes.
   */
  instruction(reason: number, length: number, qualification?: bigint, instructionInfo?: number): void;
  /** The same question about an instruction without a qualification, with the answer as a value. */
  exitOf(reason: number, length: number): VmExit | null;
  io(access: IoAccess, length: number): VmExit | null;
  readMsr(index: number, length: number): VmExit | null;
  writeMsr(index: number, length: number): VmExit | null;
  /** MOV to CRn. Returns the value that really reaches the register (guest/host masks applied). */
  writeCr(n: 0 | 3 | 4 | 8, value: bigint, gpr: number, length: number): bigint;
  /** MOV from CRn. Returns what the guest sees (read shadows applied). */
  readCr(n: 0 | 3 | 4 | 8, value: bigint, gpr: number, length: number): bigint;
  clts(length: number): void;
  /** CLTS that has not exited leaves CR0.TS alone: the bit is the hypervisor's, and what the guest sees of it is clear already. */
  readonly hostOwnsTs?: boolean;
  /** LMSW. Returns the CR0 low word that takes effect. */
  lmsw(value: number, length: number, memoryOperand: boolean, linear: bigint): number;
  accessDr(n: number, direction: 'in' | 'out', gpr: number, length: number): void;
  taskSwitch(selector: number, source: 'call' | 'iret' | 'jmp' | 'idt', length: number): void;
  /** An exception about to be delivered through the IDT. `dr6` is the pending debug condition of a #DB. */
  exception(fault: Fault, length: number, dr6: number): void;
  /** A second exception while delivering the first has become a triple fault. Never returns normally in non-root operation. */
  tripleFault(): void;
  /** An external interrupt is waiting: exits (even if RFLAGS.IF is clear) when the controls say so; returns false to have the guest take it itself. */
  externalInterrupt(): boolean;
  nmi(): boolean;
  /** Asked at an instruction boundary when EVENTS is set: interrupt-window and NMI-window exits. `canInterrupt`: IF is set and nothing blocks. */
  windows(canInterrupt: boolean, canNmi: boolean): void;
  /** False: `windows` has nothing to say however interruptible the guest becomes. */
  readonly watchesWindows?: boolean;
  /** False: `exception` has nothing to say about page faults; `writeCr` and `readCr` about CR3, and `instruction` about INVLPG; about RDTSC, RDTSCP and PAUSE. */
  readonly watchesPageFaults?: boolean;
  readonly watchesTranslations?: boolean;
  readonly watchesClock?: boolean;
  /** Second-stage paging, or null when EPT is off. */
  readonly ept: EptContext | null;
}

/** What the MMU needs to walk the second stage. */
export interface EptContext {
  /** Host physical address of the top-level EPT table. */
  readonly root: number;
  readonly accessedDirty: boolean;
  readonly executeOnly: boolean;
}
