// # A debugger outside the machine
//
// `KVM_SET_GUEST_DEBUG` lets the VMM stop a guest after each instruction or at an address, without the guest's knowledge. It has no hardware of its
// own for that; it borrows the guest's: the trap flag in RFLAGS and the four debug registers. Borrowing has a price. While a debugger steps, a guest
// that looks at its own flags sees the trap flag; while a debugger has breakpoints, the guest's own do not work. That is documented, and accepted.
//
// Debug registers are also swapped lazily for the guest's own use. Hardly any guest touches them, so moves to and from them exit; the first such
// exit loads the guest's four into the processor and stops intercepting until the next exit.

import { VECTOR } from '../../01-hardware-background/faults.ts';
import { CR4, FLAG, OFFSET } from '../../01-hardware-background/state.ts';
import { CPU_BASED } from '../../01-hardware-background/vmx/controls.ts';
import { INTERRUPTIBILITY, INTR_INFO } from '../../01-hardware-background/vmx/exit-reasons.ts';
import { EVENT_TYPE } from '../../01-hardware-background/vmx/processor.ts';
import { FIELD } from '../../01-hardware-background/vmx/vmcs.ts';
import { GUESTDBG, KvmGuestDebug } from '../../02-kvm-objects/abi/events.ts';
import { EXIT, RunDebug } from '../../02-kvm-objects/abi/exits.ts';
import { U64 } from '../../02-kvm-objects/abi/registers.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import { queueException } from './events.ts';
import { advance, skipInstruction } from './skip.ts';

const ADDRESSES = [OFFSET.DR0, OFFSET.DR1, OFFSET.DR2, OFFSET.DR3] as const;
const DR7_ENABLED = 0xffn;
const DR7_FIXED = 0x400n;
const DR7_GD = 1n << 13n;
const DR6_ACTIVE_LOW = 0xffff0ff0n;
const DR6_BD = 1n << 13n;
const USES_DB = GUESTDBG.KVM_GUESTDBG_SINGLESTEP | GUESTDBG.KVM_GUESTDBG_USE_HW_BP;
const ALL_CONTROLS = Object.values(GUESTDBG).reduce((all, mask) => all | mask, 0);

/** Which vCPUs let the guest move debug registers without an exit, until the next one. */
const unintercepted = new WeakSet<SoftVcpu>();

/** KVM_SET_GUEST_DEBUG. Linux: `kvm_arch_vcpu_ioctl_set_guest_debug()`. */
export function setGuestDebug(vcpu: SoftVcpu, _bytes: Uint8Array, view: DataView): number {
  const { control } = KvmGuestDebug.load(view);
  const rflags = vcpu.rflags; // before the borrowed trap flag changes hands
  if (control & (GUESTDBG.KVM_GUESTDBG_INJECT_DB | GUESTDBG.KVM_GUESTDBG_INJECT_BP)) {
    // @clause kvm.debug.inject-busy
    if (vcpu.events.exception.pending) return -ERRNO.EBUSY;
    queueException(vcpu, control & GUESTDBG.KVM_GUESTDBG_INJECT_DB ? VECTOR.DB : VECTOR.BP);
    vcpu.eventInstructionLength = 1;
  }
  vcpu.guestDebug = control & GUESTDBG.KVM_GUESTDBG_ENABLE ? control & ALL_CONTROLS : 0;
  if (vcpu.guestDebug & GUESTDBG.KVM_GUESTDBG_USE_HW_BP) {
    for (let n = 0; n < 4; n++) vcpu.debuggerDb[n] = U64.load(view, KvmGuestDebug.fields.debugreg.at(n)).value;
    vcpu.debuggerDr7 = (U64.load(view, KvmGuestDebug.fields.debugreg.at(7)).value & 0xffff23ffn) | DR7_FIXED;
  }
  if (vcpu.guestDebug & GUESTDBG.KVM_GUESTDBG_SINGLESTEP) vcpu.singlestepRip = vcpu.linearRip;
  vcpu.rflags = rflags;
  vcpu.updateDr7();
  writeExceptionBitmap(vcpu);
  return 0;
}

/** #DB and #AC always exit: a guest can arrange for either to recur for ever while it is being delivered. Linux: `vmx_update_exception_bitmap()`. */
export function writeExceptionBitmap(vcpu: SoftVcpu): void {
  const { KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_USE_SW_BP } = GUESTDBG;
  const both = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
  const breakpoints = (vcpu.guestDebug & both) === both ? 1 << VECTOR.BP : 0;
  vcpu.vm.hardware.write32(FIELD.EXCEPTION_BITMAP, (1 << VECTOR.DB) | (1 << VECTOR.AC) | (1 << VECTOR.MC) | breakpoints | vcpu.vm.mmu.exceptions);
}

// ## Around an entry

/** Loads debug registers when anybody has breakpoints. Linux: the `switch_db_regs` part of `vcpu_enter_guest()`. */
export function enterWithDebugRegisters(vcpu: SoftVcpu): void {
  const { hardware } = vcpu.vm;
  if (vcpu.guestDebug & GUESTDBG.KVM_GUESTDBG_SINGLESTEP) {
    // VM entry insists that a trap flag under the shadow of STI comes with a pending single-step; the debugger's has none. The shadow gives way.
    const shadow = hardware.read32(FIELD.GUEST_INTERRUPTIBILITY_INFO);
    const { STI, MOV_SS } = INTERRUPTIBILITY.mask;
    if (shadow & (STI | MOV_SS)) hardware.write32(FIELD.GUEST_INTERRUPTIBILITY_INFO, shadow & ~(STI | MOV_SS));
  }
  const borrowed = (vcpu.guestDebug & GUESTDBG.KVM_GUESTDBG_USE_HW_BP) !== 0;
  const open = unintercepted.has(vcpu);
  if (!borrowed && !open && (vcpu.dr7 & DR7_ENABLED) === 0n) return;
  const { state } = hardware.cpu;
  const source = borrowed ? vcpu.debuggerDb : vcpu.db;
  ADDRESSES.forEach((offset, n) => {
    state.set64(offset, source[n] as bigint);
  });
  state.set64(OFFSET.DR6, vcpu.dr6);
}

/** Takes back what the guest may have written; unless it goes on at once, its next access exits again. Linux: `vmx_sync_dirty_debug_regs()`. */
export function leaveWithDebugRegisters(vcpu: SoftVcpu, goesOn: boolean): void {
  if (!unintercepted.has(vcpu)) return;
  const { hardware } = vcpu.vm;
  const { state } = hardware.cpu;
  ADDRESSES.forEach((offset, n) => {
    vcpu.db[n] = state.get64(offset);
  });
  vcpu.dr6 = state.get64(OFFSET.DR6);
  vcpu.dr7 = hardware.read(FIELD.GUEST_DR7);
  if (goesOn) return;
  unintercepted.delete(vcpu);
  vcpu.control(CPU_BASED.mask.MOV_DR_EXITING, true);
}

// ## Debug exits

// @clause kvm.debug.single-step
/** Reports a debug stop to the VMM. */
export function debugExit(vcpu: SoftVcpu, exception: number, dr6: bigint): 0 {
  const { hardware } = vcpu.vm;
  vcpu.exitReason = EXIT.KVM_EXIT_DEBUG;
  RunDebug.store(vcpu.runView, 0, { exception, pc: vcpu.linearRip, dr6: dr6 | DR6_ACTIVE_LOW, dr7: hardware.read(FIELD.GUEST_DR7) });
  return 0;
}

/** A #DB in the guest: the debugger's when there is one, else the guest's own. Linux: `handle_exception_nmi()`, its DB_VECTOR case. */
export function handleDebugException(vcpu: SoftVcpu): 0 | 1 {
  const dr6 = vcpu.vm.hardware.read(FIELD.EXIT_QUALIFICATION);
  if (vcpu.guestDebug & USES_DB) return debugExit(vcpu, VECTOR.DB, dr6);
  // INT1 has not been executed yet, but the exception that it raises is a trap.
  const info = vcpu.vm.hardware.read32(FIELD.VM_EXIT_INTR_INFO);
  if (INTR_INFO.get(info, 'TYPE') === EVENT_TYPE.PRIVILEGED_SOFTWARE_EXCEPTION) advance(vcpu);
  queueException(vcpu, VECTOR.DB, null, dr6);
  return 1;
}

/** The kernel did an instruction for the guest, with the trap flag set: the trap is the kernel's to raise. Linux: `kvm_vcpu_do_singlestep()`. */
export function singleStepAfterSkip(vcpu: SoftVcpu): 0 | 1 {
  const DR6_BS = 1n << 14n;
  if (vcpu.guestDebug & GUESTDBG.KVM_GUESTDBG_SINGLESTEP) return debugExit(vcpu, VECTOR.DB, DR6_BS);
  queueException(vcpu, VECTOR.DB, null, DR6_BS);
  return 1;
}

// ## MOV to and from debug registers

const QUALIFICATION = { NUMBER: 7, FROM: 1 << 4, GPR_SHIFT: 8 } as const;

/** Linux: `handle_dr()`. */
export function handleDr(vcpu: SoftVcpu): 0 | 1 {
  const { hardware } = vcpu.vm;
  const qualification = hardware.read32(FIELD.EXIT_QUALIFICATION);
  let n = qualification & QUALIFICATION.NUMBER;
  if (n === 4 || n === 5) {
    // @clause x86.debug.dr4-alias
    if (vcpu.cr4 & BigInt(CR4.DE)) {
      queueException(vcpu, VECTOR.UD);
      return 1;
    }
    n += 2; // without debugging extensions DR4 and DR5 are DR6 and DR7
  }
  const ringZero = ((hardware.read32(FIELD.GUEST_SS_AR_BYTES) >> 5) & 3) === 0;
  if (!ringZero) {
    queueException(vcpu, VECTOR.GP, 0);
    return 1;
  }
  if (hardware.read(FIELD.GUEST_DR7) & DR7_GD) {
    if (vcpu.guestDebug & GUESTDBG.KVM_GUESTDBG_USE_HW_BP) return debugExit(vcpu, VECTOR.DB, DR6_BD);
    queueException(vcpu, VECTOR.DB, null, DR6_BD);
    return 1;
  }
  if (vcpu.guestDebug === 0) {
    vcpu.control(CPU_BASED.mask.MOV_DR_EXITING, false);
    unintercepted.add(vcpu);
    return 1; // the instruction is executed again, now without an exit
  }
  const gpr = (qualification >> QUALIFICATION.GPR_SHIFT) & 15;
  if (qualification & QUALIFICATION.FROM) {
    vcpu.setReg(gpr, n < 4 ? (vcpu.db[n] as bigint) : n === 6 ? vcpu.dr6 : vcpu.dr7);
  } else {
    const value = vcpu.reg(gpr);
    if (n >= 6 && value >> 32n) {
      queueException(vcpu, VECTOR.GP, 0);
      return 1;
    }
    if (n < 4) vcpu.db[n] = value;
    else if (n === 6) vcpu.dr6 = (value & 0xe00fn) | DR6_ACTIVE_LOW;
    else vcpu.dr7 = (value & 0xffff23ffn) | DR7_FIXED;
    vcpu.updateDr7();
  }
  return skipInstruction(vcpu);
}

/** True when the guest itself steps, or a debugger does. */
export const trapFlag = (vcpu: SoftVcpu): boolean => (vcpu.vm.hardware.read32(FIELD.GUEST_RFLAGS) & FLAG.TF) !== 0;
