// # VM exits
//
// A VM exit answers two questions in two places: *where was the guest?* in the guest-state area, so that the guest can go on, and *why did it
// stop?* in the read-only fields, so that the hypervisor can do something about it. Only then does the host's state come in.
//
// The read-only fields are more than a convenience. Before VT-x a monitor that caught a fault had an address and a vector, and had to fetch, decode
// and interpret the instruction to find out what had been attempted. For most exits the processor has just done that work, and hands over the result:
// the port and the width, the register number, the instruction's length. What it does *not* hand over is the instruction of a memory access that
// missed in EPT, and that is why kvm.ko still contains an instruction emulator.
//
// One piece of the answer is easily overlooked. An exit may hit the processor while it is *delivering* an event: it has taken an interrupt from the
// controller, is pushing the frame, and the stack page is not mapped in EPT. The interrupt is then lost to everyone except the hypervisor, which
// finds it in the IDT-vectoring fields and has to inject it again. KVM does so on every exit, first thing (`vmx_complete_interrupts()`).

import { readFlags } from '../engine/flags.ts';
import { VECTOR, type VmExit } from '../faults.ts';
import { FLAG, OFFSET, SLOT } from '../state.ts';
import { EXIT_REASON, INTERRUPTIBILITY, INTR_INFO, VMX_ABORT } from './exit-reasons.ts';
import { loadHostState, saveGuestState } from './guest-state.ts';
import { loadMsrs, storeMsrs } from './msr-areas.ts';
import { EVENT_TYPE, type VmxProcessor } from './processor.ts';
import { AT, REGION, type Vmcs } from './vmcs.ts';

const { VALID, DELIVER_CODE } = INTR_INFO.mask;
const ENTRY_FAILED = 0x8000_0000;

const isSoftware = (type: number): boolean => type >= EVENT_TYPE.SOFTWARE_INTERRUPT && type <= EVENT_TYPE.SOFTWARE_EXCEPTION;
const vectorOf = (exit: VmExit): number => (exit.reason === EXIT_REASON.EXCEPTION_NMI ? (exit.details.interruptionInfo ?? 0) & 0xff : -1);

/** The interruption-information word of an event. */
const interruptionInfo = (vector: number, type: number, hasErrorCode: boolean): number =>
  (VALID | (type << 8) | vector | (hasErrorCode ? DELIVER_CODE : 0)) >>> 0;

// A fault pushes RFLAGS with RF set, so that a debugger's breakpoint on the instruction does not fire again when it is restarted. An exit in a
// fault's place saves the same image; an exit that the instruction itself asked for saves RF clear.
// @clause vmx.exit.resume-flag
function savedFlags(cpu: VmxProcessor, exit: VmExit): number {
  const flags = readFlags(cpu.state);
  const vector = vectorOf(exit);
  const faultLike =
    exit.reason === EXIT_REASON.EPT_VIOLATION ||
    exit.reason === EXIT_REASON.EPT_MISCONFIG ||
    (vector >= 0 && vector !== VECTOR.NMI && vector !== VECTOR.DB && vector !== VECTOR.BP && vector !== VECTOR.OF && vector !== VECTOR.DF);
  if (faultLike && cpu.delivering === null) return (flags | FLAG.RF) >>> 0;
  return exit.details.instructionLength !== undefined ? (flags & ~FLAG.RF) >>> 0 : flags;
}

/** Fills the read-only fields. Fields that do not apply to this exit are cleared where the architecture says so, and otherwise left as they were. */
function recordReason(cpu: VmxProcessor, v: Vmcs, exit: VmExit): void {
  const { details } = exit;
  v.write32(AT.VM_EXIT_REASON, exit.reason);
  v.write64(AT.EXIT_QUALIFICATION, exit.qualification);
  v.write32(AT.VM_EXIT_INTR_INFO, details.interruptionInfo ?? 0);
  if (details.interruptionErrorCode !== undefined) v.write32(AT.VM_EXIT_INTR_ERROR_CODE, details.interruptionErrorCode);
  if (details.guestLinearAddress !== undefined) v.write64(AT.GUEST_LINEAR_ADDRESS, details.guestLinearAddress);
  if (details.guestPhysicalAddress !== undefined) v.writeNumber(AT.GUEST_PHYSICAL_ADDRESS, details.guestPhysicalAddress);
  if (details.instructionInfo !== undefined) v.write32(AT.VMX_INSTRUCTION_INFO, details.instructionInfo);
  if (details.instructionLength !== undefined) v.write32(AT.VM_EXIT_INSTRUCTION_LEN, details.instructionLength);

  // An exception that exits in its own right, or a double or triple fault, has replaced the event; it is not an exit during delivery.
  // @clause vmx.exit.idt-vectoring
  const event = cpu.delivering;
  const replaced = exit.reason === EXIT_REASON.TRIPLE_FAULT || vectorOf(exit) === VECTOR.DF;
  if (event === null || replaced) {
    v.write32(AT.IDT_VECTORING_INFO_FIELD, 0);
    return;
  }
  v.write32(AT.IDT_VECTORING_INFO_FIELD, interruptionInfo(event.vector, event.type, event.errorCode !== null));
  if (event.errorCode !== null) v.write32(AT.IDT_VECTORING_ERROR_CODE, event.errorCode);
  if (isSoftware(event.type)) v.write32(AT.VM_EXIT_INSTRUCTION_LEN, event.instructionLength);
}

/** Host state and the host's MSR area. False when the processor has aborted instead. */
function enterHost(cpu: VmxProcessor, v: Vmcs, nmiBlocked: boolean): boolean {
  loadHostState(cpu, v, nmiBlocked);
  // @clause vmx.exit.msr-load-abort
  if (loadMsrs(cpu, v.readNumber(AT.VM_EXIT_MSR_LOAD_ADDR), v.read32(AT.VM_EXIT_MSR_LOAD_COUNT)) === 0) return true;
  v.write32(REGION.ABORT_INDICATOR, VMX_ABORT.LOAD_HOST_MSR_FAIL);
  return false;
}

/**
 * Performs a VM exit: guest state saved, reason recorded, host state loaded. `virtualNmis`: NMI blocking belonged to the guest.
 * Returns false on a VMX abort; the abort indicator says why, and the processor has to shut down.
 */
export function vmExit(cpu: VmxProcessor, v: Vmcs, exit: VmExit, virtualNmis: boolean): boolean {
  recordReason(cpu, v, exit);
  saveGuestState(cpu, v, exit.details.afterInstruction ? SLOT.NEXT_RIP : SLOT.RIP, savedFlags(cpu, exit));
  v.write32(AT.GUEST_PENDING_DBG_EXCEPTIONS, 0);
  v.write32(AT.GUEST_PENDING_DBG_EXCEPTIONS + 4, 0);
  // An event is injected once. The field's valid bit falls, and software that wants another sets it again.
  // @clause vmx.exit.injection-consumed
  v.write32(AT.VM_ENTRY_INTR_INFO_FIELD, v.read32(AT.VM_ENTRY_INTR_INFO_FIELD) & ~VALID);
  const byNmi = vectorOf(exit) === VECTOR.NMI;
  const blocked = !virtualNmis && (cpu.state.get32(OFFSET.SHADOW) & INTERRUPTIBILITY.mask.NMI) !== 0;
  cpu.delivering = null;
  if (storeMsrs(cpu, v.readNumber(AT.VM_EXIT_MSR_STORE_ADDR), v.read32(AT.VM_EXIT_MSR_STORE_COUNT)) !== 0) {
    // @clause vmx.exit.msr-store-abort
    v.write32(REGION.ABORT_INDICATOR, VMX_ABORT.SAVE_GUEST_MSR_FAIL);
    return false;
  }
  return enterHost(cpu, v, byNmi || blocked);
}

/**
 * A VM entry that failed after the controls and the host state had been accepted. It looks like an exit with bit 31 set in the reason, but no
 * guest state is saved, no MSR is stored, and an injected event stays valid, because the guest never ran.
 */
export function entryFailure(cpu: VmxProcessor, v: Vmcs, reason: number, qualification: number): boolean {
  // @clause vmx.entry.failure-exit
  v.write32(AT.VM_EXIT_REASON, (reason | ENTRY_FAILED) >>> 0);
  v.writeNumber(AT.EXIT_QUALIFICATION, qualification);
  const blocked = (cpu.state.get32(OFFSET.SHADOW) & INTERRUPTIBILITY.mask.NMI) !== 0;
  return enterHost(cpu, v, blocked);
}
