// # Why the guest stopped, and who answers
//
// A table indexed by the basic exit reason: `kvm_vmx_exit_handlers[]` in vmx.c. Each handler returns 1 ("done, enter again"), 0 ("for user space;
// the shared page says what") or a negative errno. That convention runs through the whole of KVM and makes the cost of every handler visible: a 1
// costs one door, a 0 costs two.

import { VECTOR } from '../../01-hardware-background/faults.ts';
import { CR0, SLOT } from '../../01-hardware-background/state.ts';
import { CPU_BASED } from '../../01-hardware-background/vmx/controls.ts';
import { EXIT_REASON, INTR_INFO } from '../../01-hardware-background/vmx/exit-reasons.ts';
import { FIELD } from '../../01-hardware-background/vmx/vmcs.ts';
import { MP_STATE } from '../../02-kvm-objects/abi/events.ts';
import { EXIT, RunMemoryFault } from '../../02-kvm-objects/abi/exits.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import { setCr0, setCr3, setCr4, setXcr0 } from '../../02-kvm-objects/soft/control-registers.ts';
import { cpuid } from '../../02-kvm-objects/soft/cpuid.ts';
import { getMsr, setMsr } from '../../02-kvm-objects/soft/msrs.ts';
import type { ExitServices } from '../../02-kvm-objects/soft/second-stage.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import { debugExit, handleDebugException, handleDr } from './debug.ts';
import { emulate, skipDecoded } from './emulate.ts';
import { hasEvents, queueException } from './events.ts';
import { fastPio, isString } from './pio.ts';
import type { VcpuRun } from './run.ts';
import { skipInstruction } from './skip.ts';
import { handleTaskSwitch } from './task-switch.ts';

type Handler = (run: VcpuRun) => number;

const MASK32 = 0xffff_ffffn;
const { VALID } = INTR_INFO.mask;

/** CPL, which VMX keeps in SS's access rights. */
const cpl = (vcpu: SoftVcpu): number => (vcpu.vm.hardware.read32(FIELD.GUEST_SS_AR_BYTES) >> 5) & 3;

/** The guest gets #GP(0) for an instruction that could not be done, or goes past it. Linux: `kvm_complete_insn_gp()`. */
function completeOrFault(run: VcpuRun, done: boolean): number {
  return done ? skipInstruction(run.vcpu) : run.queue(queueException(run.vcpu, VECTOR.GP, 0));
}
const undefinedInstruction: Handler = (run) => run.queue(queueException(run.vcpu, VECTOR.UD));
const skip: Handler = (run) => skipInstruction(run.vcpu);

// ## Instructions

// @clause kvm.exit.cpuid-in-kernel
const handleCpuid: Handler = ({ vcpu }) => {
  const { regs } = vcpu;
  const answer = cpuid(vcpu, Number((regs[SLOT.RAX] as bigint) & MASK32), Number((regs[SLOT.RCX] as bigint) & MASK32));
  regs[SLOT.RAX] = BigInt(answer.eax >>> 0);
  regs[SLOT.RBX] = BigInt(answer.ebx >>> 0);
  regs[SLOT.RCX] = BigInt(answer.ecx >>> 0);
  regs[SLOT.RDX] = BigInt(answer.edx >>> 0);
  return skipInstruction(vcpu);
};

// Without a local APIC in the kernel, nobody here could wake the processor; waiting is the VMM's. RIP is already past the HLT, because what ends the
// wait is delivered there.

// @clause kvm.exit.hlt
const handleHlt: Handler = ({ vcpu }) => {
  const skipped = skipInstruction(vcpu);
  if (vcpu.interruptController) {
    if (!hasEvents(vcpu)) vcpu.mpState = MP_STATE.KVM_MP_STATE_HALTED;
    return skipped;
  }
  vcpu.exitReason = EXIT.KVM_EXIT_HLT; // even over a debugger's step
  return 0;
};

const handleIo: Handler = (run) => {
  const { vcpu } = run;
  const qualification = vcpu.vm.hardware.read32(FIELD.EXIT_QUALIFICATION);
  if (isString(qualification)) return emulate(run, run.loop.emulator);
  return fastPio(run, qualification);
};

const handleRdmsr: Handler = (run) => {
  const { regs } = run.vcpu;
  const value = getMsr(run.vcpu, Number((regs[SLOT.RCX] as bigint) & MASK32));
  if (value !== null) {
    regs[SLOT.RAX] = value & MASK32;
    regs[SLOT.RDX] = value >> 32n;
  }
  return completeOrFault(run, value !== null);
};

const handleWrmsr: Handler = (run) => {
  const { regs } = run.vcpu;
  const value = ((regs[SLOT.RAX] as bigint) & MASK32) | (((regs[SLOT.RDX] as bigint) & MASK32) << 32n);
  return completeOrFault(run, setMsr(run.vcpu, Number((regs[SLOT.RCX] as bigint) & MASK32), value, false));
};

const handleXsetbv: Handler = (run) => {
  const { regs } = run.vcpu;
  const value = ((regs[SLOT.RAX] as bigint) & MASK32) | (((regs[SLOT.RDX] as bigint) & MASK32) << 32n);
  const index = Number((regs[SLOT.RCX] as bigint) & MASK32);
  return completeOrFault(run, cpl(run.vcpu) === 0 && index === 0 && setXcr0(run.vcpu, value));
};

// A hypercall is a function call into the kernel. No paravirtual features are offered in CPUID, so every number is unknown; but the answer is an
// error code in RAX, not a fault.

const KVM_ENOSYS = -1000n;
const KVM_EPERM = -1n;
const handleVmcall: Handler = ({ vcpu }) => {
  const result = cpl(vcpu) === 0 ? KVM_ENOSYS : KVM_EPERM;
  vcpu.regs[SLOT.RAX] = BigInt.asUintN(vcpu.efer & 0x400n ? 64 : 32, result);
  return skipInstruction(vcpu);
};

// ## Control registers

const CR = { NUMBER: 15, TYPE_SHIFT: 4, GPR_SHIFT: 8, LMSW_SHIFT: 16 } as const;
const CR_TYPE = { TO: 0, FROM: 1, CLTS: 2, LMSW: 3 } as const;

/** Linux: `handle_cr()`. */
const handleCr: Handler = (run) => {
  const { vcpu } = run;
  const qualification = vcpu.vm.hardware.read32(FIELD.EXIT_QUALIFICATION);
  const n = qualification & CR.NUMBER;
  const gpr = (qualification >> CR.GPR_SHIFT) & 15;
  switch ((qualification >> CR.TYPE_SHIFT) & 3) {
    case CR_TYPE.TO: {
      const value = vcpu.reg(gpr);
      if (n === 8) return writeCr8(run, value);
      return completeOrFault(run, n === 0 ? setCr0(vcpu, value) : n === 3 ? setCr3(vcpu, value) : setCr4(vcpu, value));
    }
    case CR_TYPE.FROM:
      vcpu.setReg(gpr, n === 3 ? vcpu.cr3 : vcpu.cr8);
      return skipInstruction(vcpu);
    case CR_TYPE.CLTS:
      return completeOrFault(run, setCr0(vcpu, vcpu.cr0 & ~BigInt(CR0.TS)));
    default: {
      const operand = BigInt((qualification >>> CR.LMSW_SHIFT) & 0xf);
      const old = vcpu.cr0;
      return completeOrFault(run, setCr0(vcpu, (old & ~0xen) | operand | (old & 1n))); // LMSW can set PE, never clear it
    }
  }
};

// The task priority decides which interrupts the *VMM's* interrupt controller may deliver. When the guest lowers it, the VMM has to know.

// @clause kvm.exit.set-tpr
function writeCr8(run: VcpuRun, value: bigint): number {
  const { vcpu } = run;
  const before = vcpu.cr8;
  if (value > 15n) return completeOrFault(run, false);
  vcpu.cr8 = value;
  const result = skipInstruction(vcpu);
  if (result === 0 || before <= value || vcpu.interruptController) return result;
  vcpu.exitReason = EXIT.KVM_EXIT_SET_TPR;
  return 0;
}

// ## Exceptions and interrupts

/** Linux: `handle_exception_nmi()`. */
const handleException: Handler = (run) => {
  const { vcpu } = run;
  const { hardware } = vcpu.vm;
  const info = hardware.read32(FIELD.VM_EXIT_INTR_INFO);
  const vector = INTR_INFO.get(info, 'VECTOR');
  if (vector === VECTOR.DB) return handleDebugException(vcpu);
  if (vector === VECTOR.BP) {
    vcpu.eventInstructionLength = hardware.read32(FIELD.VM_EXIT_INSTRUCTION_LEN);
    return debugExit(vcpu, VECTOR.BP, 0n);
  }
  const errorCode = info & INTR_INFO.mask.DELIVER_CODE ? hardware.read32(FIELD.VM_EXIT_INTR_ERROR_CODE) : null;
  return run.queue(queueException(vcpu, vector, errorCode));
};

// The interrupt was the host's. It has been acknowledged by the exit; Linux would now run its handler, and then notice whether the thread has a
// signal.

const handleExternalInterrupt: Handler = () => 1;

const handleInterruptWindow: Handler = ({ vcpu }) => {
  vcpu.control(CPU_BASED.mask.INTR_WINDOW_EXITING, false);
  return 1;
};
const handleNmiWindow: Handler = ({ vcpu }) => {
  vcpu.control(CPU_BASED.mask.NMI_WINDOW_EXITING, false);
  return 1;
};

// @clause kvm.exit.shutdown
const handleTripleFault: Handler = ({ vcpu }) => {
  vcpu.exitReason = EXIT.KVM_EXIT_SHUTDOWN;
  return 0;
};

// ## What memory virtualization asks for
//
// The reasons that come from translation are answered by the VM's own method; this is what it may use of the loop.

const MEMORY_FAULT_BYTES = 4096n;

/** The loop's services to the handlers of `vm.mmu`. */
export const exitServices = (run: VcpuRun): ExitServices => ({
  vcpu: run.vcpu,
  skip: () => skipInstruction(run.vcpu),
  complete: (done) => completeOrFault(run, done),
  inject: (vector, errorCode = null, payload = null) => run.queue(queueException(run.vcpu, vector, errorCode, payload)),
  emulate: () => emulateAccess(run),
  memoryFault(gpa) {
    const { vcpu } = run;
    vcpu.exitReason = EXIT.KVM_EXIT_MEMORY_FAULT;
    const page = BigInt(gpa) & ~(MEMORY_FAULT_BYTES - 1n);
    RunMemoryFault.store(vcpu.runView, 0, { flags: 0n, gpa: page, size: MEMORY_FAULT_BYTES });
    return -ERRNO.EFAULT;
  },
});

// Delivering an event pushes a frame, and the stack may be a device. There is no instruction to emulate then.

function emulateAccess(run: VcpuRun): number {
  const { vcpu } = run;
  const { hardware } = vcpu.vm;
  // @clause kvm.ioeventfd.fast
  // The exit says that the page is a device's, and so the address alone may be enough. Nobody has looked at the instruction: a read goes the same way.
  const { fastMmio } = vcpu.vm.buses;
  if (fastMmio.size > 0 && (hardware.read32(FIELD.VM_EXIT_REASON) & 0xffff) === R.EPT_MISCONFIG && fastMmio.write(faultingGpa(vcpu), 0, 0n)) {
    vcpu.trace?.emit({ kind: 'kvm_fast_mmio', gpa: faultingGpa(vcpu) });
    return skipDecoded(vcpu) ?? run.internalError('KVM_INTERNAL_ERROR_EMULATION');
  }
  if (!(hardware.read32(FIELD.IDT_VECTORING_INFO_FIELD) & VALID)) return emulate(run, run.loop.emulator);
  return deliveryError(run, hardware.read32(FIELD.IDT_VECTORING_INFO_FIELD));
}

const faultingGpa = (vcpu: SoftVcpu): number => Number(vcpu.vm.hardware.read(FIELD.GUEST_PHYSICAL_ADDRESS));

function deliveryError(run: VcpuRun, vectoring: number): number {
  const { hardware } = run.vcpu.vm;
  const reason = hardware.read32(FIELD.VM_EXIT_REASON);
  return run.internalError('KVM_INTERNAL_ERROR_DELIVERY_EV', vectoring, reason, hardware.read32(FIELD.EXIT_QUALIFICATION), faultingGpa(run.vcpu));
}

// ## The table

const R = EXIT_REASON;
const handlers: readonly (Handler | undefined)[] = (() => {
  const table: (Handler | undefined)[] = [];
  table[R.EXCEPTION_NMI] = handleException;
  table[R.EXTERNAL_INTERRUPT] = handleExternalInterrupt;
  table[R.TRIPLE_FAULT] = handleTripleFault;
  table[R.INTERRUPT_WINDOW] = handleInterruptWindow;
  table[R.NMI_WINDOW] = handleNmiWindow;
  table[R.TASK_SWITCH] = (run) => handleTaskSwitch(run, run.loop.taskSwitcher);
  table[R.CPUID] = handleCpuid;
  table[R.HLT] = handleHlt;
  table[R.INVD] = skip;
  table[R.INVLPG] = skip;
  table[R.RDPMC] = (run) => completeOrFault(run, false); // no performance counters
  table[R.VMCALL] = handleVmcall;
  table[R.CR_ACCESS] = handleCr;
  table[R.DR_ACCESS] = ({ vcpu }) => handleDr(vcpu);
  table[R.IO_INSTRUCTION] = handleIo;
  table[R.MSR_READ] = handleRdmsr;
  table[R.MSR_WRITE] = handleWrmsr;
  table[R.MWAIT_INSTRUCTION] = skip; // MONITOR and MWAIT do nothing, as on Linux: the guest then spins instead of sleeping
  table[R.MONITOR_INSTRUCTION] = skip;
  table[R.WBINVD] = skip;
  table[R.XSETBV] = handleXsetbv;
  // The guest has no VMX of its own, whatever it may try.
  for (const reason of [R.VMCLEAR, R.VMLAUNCH, R.VMPTRLD, R.VMPTRST, R.VMREAD, R.VMRESUME, R.VMWRITE, R.VMOFF, R.VMON, R.INVEPT, R.INVVPID, R.VMFUNC])
    table[reason] = undefinedInstruction;
  return table;
})();

/** Exits that may interrupt the delivery of an event without making it an error. */
const MAY_VECTOR = new Set<number>([R.EXCEPTION_NMI, R.EPT_VIOLATION, R.TASK_SWITCH]);

/** Calls the handler for a basic exit reason. Linux: `__vmx_handle_exit()`. */
export function dispatchExit(run: VcpuRun, reason: number, vectoring: number): number {
  if (vectoring & VALID && !MAY_VECTOR.has(reason)) return deliveryError(run, vectoring);
  const own = run.vcpu.vm.mmu.exits.get(reason)?.(run.services) ?? null;
  if (own !== null) return own;
  const handler = handlers[reason];
  // @clause kvm.exit.unexpected-reason
  return handler ? handler(run) : run.internalError('KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON', reason, 0);
}
