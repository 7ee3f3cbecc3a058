// # Why the guest stopped
//
// The exit reason is a number that names a *cause*, not a remedy, and one cause may need the qualification, the instruction-information field and the
// guest's registers before the hypervisor knows what to do. The numbers grew with the hardware, which is why neighbours have nothing to do with each
// other, and why a hypervisor dispatches on them with a table (`kvm_vmx_exit_handlers[]` in Linux's vmx.c), not with a chain of tests: the commonest
// are few, but which few depends on the guest.

import { bit, bitfield, bits } from '../layout.ts';

/** Basic VM-exit reasons (Intel SDM vol. 3, appendix "VMX Basic Exit Reasons"; names as in Linux's uapi/asm/vmx.h without EXIT_REASON_). */
// biome-ignore format: table
export const EXIT_REASON = {
  EXCEPTION_NMI: 0, EXTERNAL_INTERRUPT: 1, TRIPLE_FAULT: 2, INIT_SIGNAL: 3, SIPI_SIGNAL: 4, SMI_IO: 5, OTHER_SMI: 6, INTERRUPT_WINDOW: 7,
  NMI_WINDOW: 8, TASK_SWITCH: 9, CPUID: 10, GETSEC: 11, HLT: 12, INVD: 13, INVLPG: 14, RDPMC: 15, RDTSC: 16, RSM: 17, VMCALL: 18, VMCLEAR: 19,
  VMLAUNCH: 20, VMPTRLD: 21, VMPTRST: 22, VMREAD: 23, VMRESUME: 24, VMWRITE: 25, VMOFF: 26, VMON: 27, CR_ACCESS: 28, DR_ACCESS: 29,
  IO_INSTRUCTION: 30, MSR_READ: 31, MSR_WRITE: 32, INVALID_STATE: 33, MSR_LOAD_FAIL: 34, MWAIT_INSTRUCTION: 36, MONITOR_TRAP_FLAG: 37,
  MONITOR_INSTRUCTION: 39, PAUSE_INSTRUCTION: 40, MCE_DURING_VMENTRY: 41, TPR_BELOW_THRESHOLD: 43, APIC_ACCESS: 44, EOI_INDUCED: 45, GDTR_IDTR: 46,
  LDTR_TR: 47, EPT_VIOLATION: 48, EPT_MISCONFIG: 49, INVEPT: 50, RDTSCP: 51, PREEMPTION_TIMER: 52, INVVPID: 53, WBINVD: 54, XSETBV: 55,
  APIC_WRITE: 56, RDRAND: 57, INVPCID: 58, VMFUNC: 59, ENCLS: 60, RDSEED: 61, PML_FULL: 62, XSAVES: 63, XRSTORS: 64, PCONFIG: 65, SPP_EVENT: 66,
  UMWAIT: 67, TPAUSE: 68, LOADIWKEY: 69, ENCLV: 70, ENQCMD_PASID: 72, ENQCMDS_PASID: 73, BUS_LOCK: 74, NOTIFY: 75, SEAMCALL: 76, TDCALL: 77,
  RDMSRLIST: 78, WRMSRLIST: 79, URDMSR: 80, UWRMSR: 81, MSR_READ_IMM: 84, MSR_WRITE_IMM: 85,
} as const;

export type ExitReasonName = keyof typeof EXIT_REASON;

const nameOf = new Map<number, ExitReasonName>(Object.entries(EXIT_REASON).map(([name, number]) => [number, name as ExitReasonName]));

/** The name of a basic exit reason, as kvm_exit prints it; a number that means nothing is printed as such. */
export const exitReasonName = (reason: number): string => nameOf.get(reason & 0xffff) ?? `UNKNOWN_${reason & 0xffff}`;

// ::layout EXIT_REASON_FIELD -- The exit-reason field: the number is only its lower half.

/** The exit-reason field. */
export const EXIT_REASON_FIELD = bitfield('VM_EXIT_REASON', {
  BASIC: bits(0, 15, 'basic exit reason'),
  ENCLAVE: bit(27, 'the guest was in an enclave'),
  PENDING_MTF: bit(28, 'an SMM exit found a monitor-trap-flag exit pending'),
  FROM_ROOT: bit(29, 'an SMM exit from VMX root operation'),
  ENTRY_FAILURE: bit(31, 'the VM entry failed; the guest never ran'),
});

/** Exit qualifications of a failed VM entry (reason INVALID_STATE). */
export const ENTRY_FAILURE = { DEFAULT: 0, PDPTE: 2, NMI: 3, VMCS_LINK_PTR: 4 } as const;

/** Values of the abort indicator: the VM exit itself could not be completed, and the processor shuts down. */
export const VMX_ABORT = { SAVE_GUEST_MSR_FAIL: 1, LOAD_HOST_PDPTE_FAIL: 2, LOAD_HOST_MSR_FAIL: 4 } as const;

// A VMX instruction can also fail without any exit: nothing happened, and RFLAGS say so. CF alone means "there is no current VMCS to write the reason
// into" (*VMfailInvalid*); ZF means the reason is in the current VMCS, field VM_INSTRUCTION_ERROR (*VMfailValid*), and is one of these.

/** VM-instruction error numbers (Intel SDM vol. 3, "VM Instruction Error Numbers"; Linux's VMXERR_ names). */
// biome-ignore format: table
export const VM_INSTRUCTION_ERROR = {
  VMCALL_IN_VMX_ROOT_OPERATION: 1, VMCLEAR_INVALID_ADDRESS: 2, VMCLEAR_VMXON_POINTER: 3, VMLAUNCH_NONCLEAR_VMCS: 4, VMRESUME_NONLAUNCHED_VMCS: 5,
  VMRESUME_AFTER_VMXOFF: 6, ENTRY_INVALID_CONTROL_FIELD: 7, ENTRY_INVALID_HOST_STATE_FIELD: 8, VMPTRLD_INVALID_ADDRESS: 9, VMPTRLD_VMXON_POINTER: 10,
  VMPTRLD_INCORRECT_VMCS_REVISION_ID: 11, UNSUPPORTED_VMCS_COMPONENT: 12, VMWRITE_READ_ONLY_VMCS_COMPONENT: 13, VMXON_IN_VMX_ROOT_OPERATION: 15,
  ENTRY_INVALID_EXECUTIVE_VMCS_POINTER: 16, ENTRY_NONLAUNCHED_EXECUTIVE_VMCS: 17, ENTRY_EXECUTIVE_VMCS_POINTER_NOT_VMXON_POINTER: 18,
  VMCALL_NONCLEAR_VMCS: 19, VMCALL_INVALID_VM_EXIT_CONTROL_FIELDS: 20, VMCALL_INCORRECT_MSEG_REVISION_ID: 22,
  VMXOFF_UNDER_DUAL_MONITOR_TREATMENT_OF_SMIS_AND_SMM: 23, VMCALL_INVALID_SMM_MONITOR_FEATURES: 24,
  ENTRY_INVALID_VM_EXECUTION_CONTROL_FIELDS_IN_EXECUTIVE_VMCS: 25, ENTRY_EVENTS_BLOCKED_BY_MOV_SS: 26, INVALID_OPERAND_TO_INVEPT_INVVPID: 28,
} as const;

const errorNameOf = new Map<number, string>(Object.entries(VM_INSTRUCTION_ERROR).map(([name, number]) => [number, name]));
export const instructionErrorName = (error: number): string => errorNameOf.get(error) ?? `UNKNOWN_${error}`;

// ::layout INTR_INFO -- One shape for three fields: the event to inject, the event that exited, the event whose delivery was cut short.

/** Interruption-information fields: VM entry's, VM exit's and the IDT-vectoring one have the same shape (type: see EVENT_TYPE). */
export const INTR_INFO = bitfield('interruption information', {
  VECTOR: bits(0, 7),
  TYPE: bits(8, 10, 'external, NMI, hardware exception, software interrupt, ...'),
  DELIVER_CODE: bit(11, 'an error code goes with it'),
  UNBLOCK_NMI: bit(12, 'exit: an IRET had just unblocked NMIs'),
  VALID: bit(31),
});

/** Guest interruptibility state. */
export const INTERRUPTIBILITY = bitfield('GUEST_INTERRUPTIBILITY_INFO', {
  STI: bit(0, 'blocking by STI'),
  MOV_SS: bit(1, 'blocking by MOV SS or POP SS'),
  SMI: bit(2),
  NMI: bit(3, 'blocking by NMI, or virtual-NMI blocking'),
  ENCLAVE: bit(4, 'enclave interruption'),
});

/** Guest activity state. */
export const ACTIVITY = { ACTIVE: 0, HLT: 1, SHUTDOWN: 2, WAIT_SIPI: 3 } as const;
