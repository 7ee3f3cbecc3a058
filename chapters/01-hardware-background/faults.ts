// # Leaving an instruction early
//
// An instruction ends in one of three ways: it completes; it *faults*, and the processor goes to a handler that the guest provides; or, in
// VMX non-root operation, it causes a *VM exit*, and the processor goes to the hypervisor. The last two abandon the instruction with nothing
// changed. TypeScript code deep inside a segment load says so by throwing one of the two values below. They are not `Error`s: a guest's fault
// is an ordinary event, it needs no stack trace, and it never escapes the processor.

import type { Gpa, Gva } from './physical-memory.ts';

// biome-ignore format: table
export const VECTOR = {
  DE: 0, DB: 1, NMI: 2, BP: 3, OF: 4, BR: 5, UD: 6, NM: 7, DF: 8, TS: 10, NP: 11, SS: 12, GP: 13, PF: 14, MF: 16, AC: 17, MC: 18, XM: 19, VE: 20, CP: 21,
} as const;

/** A processor exception raised by the current instruction. `cr2` is the faulting linear address of a page fault. */
export class Fault {
  readonly vector: number;
  readonly errorCode: number | null;
  readonly cr2: bigint | null;

  constructor(vector: number, errorCode: number | null = null, cr2: bigint | null = null) {
    this.vector = vector;
    this.errorCode = errorCode;
    this.cr2 = cr2;
  }
}

export const undefinedOpcode = (): Fault => new Fault(VECTOR.UD);
export const generalProtection = (errorCode = 0): Fault => new Fault(VECTOR.GP, errorCode);
export const stackFault = (errorCode = 0): Fault => new Fault(VECTOR.SS, errorCode);
export const notPresent = (errorCode: number): Fault => new Fault(VECTOR.NP, errorCode);
export const invalidTss = (errorCode: number): Fault => new Fault(VECTOR.TS, errorCode);
export const deviceNotAvailable = (): Fault => new Fault(VECTOR.NM);

/** A VM exit raised by the current instruction or by an access it makes: what goes into the exit-information fields of the VMCS. */
export class VmExit {
  readonly reason: number;
  readonly qualification: bigint;
  readonly details: VmExitDetails;

  constructor(reason: number, qualification = 0n, details: VmExitDetails = {}) {
    this.reason = reason;
    this.qualification = qualification;
    this.details = details;
  }
}

interface VmExitDetails {
  /** VM-exit instruction length; absent for exits not caused by executing an instruction. */
  readonly instructionLength?: number;
  readonly instructionInfo?: number;
  readonly guestLinearAddress?: Gva;
  readonly guestPhysicalAddress?: Gpa;
  readonly interruptionInfo?: number;
  readonly interruptionErrorCode?: number;
  /** True when the instruction has completed (a trap-like exit): the saved RIP is the next one. */
  readonly afterInstruction?: boolean;
}
