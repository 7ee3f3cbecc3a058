// # Putting an event into the guest
//
// An interrupt, an NMI or an exception is *injected*: the kernel writes a word into the VMCS, and the next VM entry delivers it through the guest's
// own IDT as if it had just happened. One entry can inject one event, and there may be several waiting, so there is an order. First whatever an
// earlier entry began and could not finish, because it has already been taken from its source. Then exceptions, which belong to the instruction that
// has just been executed. Then an NMI, then an interrupt.
//
// What cannot go in now opens a *window* instead: the processor is asked to exit at the first moment when the guest could take it. Linux has all
// this in `kvm_check_and_inject_events()`; it is among the most often corrected functions of KVM.

import { VECTOR } from '../../01-hardware-background/faults.ts';
import { CR0, FLAG } from '../../01-hardware-background/state.ts';
import { CPU_BASED } from '../../01-hardware-background/vmx/controls.ts';
import { INTERRUPTIBILITY, INTR_INFO } from '../../01-hardware-background/vmx/exit-reasons.ts';
import { EVENT_TYPE } from '../../01-hardware-background/vmx/processor.ts';
import { FIELD } from '../../01-hardware-background/vmx/vmcs.ts';
import { GUESTDBG } from '../../02-kvm-objects/abi/events.ts';
import { KvmRun } from '../../02-kvm-objects/abi/exits.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';

const { VALID, DELIVER_CODE } = INTR_INFO.mask;
const { STI, MOV_SS, NMI } = INTERRUPTIBILITY.mask;
const DR6_ACTIVE_LOW = 0xffff0ff0n;
const DR7_GD = 1n << 13n;

const isSoft = (vector: number): boolean => vector === VECTOR.BP || vector === VECTOR.OF;

// ## Queueing
//
// A second exception while the first is still on its way is not simply a second exception. Some pairs make a double fault, and a fault while
// delivering *that* ends the machine. The processor has the same table; the kernel needs its own because it may itself be the cause of the second.

const CONTRIBUTORY = new Set<number>([VECTOR.DE, VECTOR.TS, VECTOR.NP, VECTOR.SS, VECTOR.GP]);
const isContributory = (vector: number): boolean => CONTRIBUTORY.has(vector);

/** Queues an exception for the guest. False: it has become a triple fault. Linux: `kvm_multiple_exception()`. */
export function queueException(vcpu: SoftVcpu, vector: number, errorCode: number | null = null, payload: bigint | null = null): boolean {
  const { exception } = vcpu.events;
  if (exception.pending || exception.injected) {
    const first = exception.vector;
    if (first === VECTOR.DF) return false;
    const doubles = (isContributory(first) && isContributory(vector)) || (first === VECTOR.PF && (vector === VECTOR.PF || isContributory(vector)));
    if (doubles) {
      vcpu.events.exception = { ...NO_EXCEPTION, pending: true, vector: VECTOR.DF, hasErrorCode: true };
      return true;
    }
  }
  vcpu.events.exception = {
    pending: true,
    injected: false,
    vector,
    hasErrorCode: errorCode !== null,
    errorCode: errorCode ?? 0,
    hasPayload: payload !== null,
    payload: payload ?? 0n,
  };
  return true;
}

const NO_EXCEPTION = { pending: false, injected: false, vector: 0, hasErrorCode: false, errorCode: 0, hasPayload: false, payload: 0n };

// ## What may go in

/** RFLAGS.IF is set and no instruction shields the next one. Linux: `vmx_interrupt_blocked()`. */
function interruptAllowed(vcpu: SoftVcpu): boolean {
  const { hardware } = vcpu.vm;
  return (hardware.read32(FIELD.GUEST_RFLAGS) & FLAG.IF) !== 0 && (hardware.read32(FIELD.GUEST_INTERRUPTIBILITY_INFO) & (STI | MOV_SS)) === 0;
}

const nmiAllowed = (vcpu: SoftVcpu): boolean => (vcpu.vm.hardware.read32(FIELD.GUEST_INTERRUPTIBILITY_INFO) & (STI | MOV_SS | NMI)) === 0;

const needsReinjection = ({ events: { exception, interrupt, nmi } }: SoftVcpu): boolean => exception.injected || interrupt.injected || nmi.injected;

// @clause kvm.run.ready-for-injection
/** What `ready_for_interrupt_injection` tells the VMM. Linux: `kvm_vcpu_ready_for_interrupt_injection()`. */
export const readyForInterrupt = (vcpu: SoftVcpu): boolean =>
  interruptAllowed(vcpu) && !needsReinjection(vcpu) && !vcpu.events.exception.pending && (vcpu.interruptController?.acceptsExternal ?? true);

// ## With a local APIC in the kernel
//
// Then the kernel knows by itself what waits. A vCPU that executed HLT is woken by anything that it could take; and the VMM is asked for nothing but
// the vectors of 8259s, if those are its own.

/** The VMM has an interrupt to deliver and waits for the moment. Linux: `dm_request_for_irq_injection()`. */
export const wantsWindow = (vcpu: SoftVcpu): boolean =>
  KvmRun.fields.request_interrupt_window.get(vcpu.runView, 0) !== 0 && !vcpu.interruptController?.picInKernel;

/** Something would go into a halted vCPU, or start one. The vCPU is loaded. Linux: `kvm_vcpu_has_events()`. */
export function hasEvents(vcpu: SoftVcpu): boolean {
  const { events, interruptController: controller } = vcpu;
  if (controller?.startupPending || events.exception.pending) return true;
  if (events.nmi.pending > 0 && nmiAllowed(vcpu)) return true;
  return controller?.hasInterrupt() === true && interruptAllowed(vcpu);
}

// ## Injecting

/** Prepares the one event that the coming entry delivers, and asks for windows for the rest. */
export function injectPending(vcpu: SoftVcpu): void {
  const { events, interruptController: controller } = vcpu;
  const undisturbed = (vcpu.guestDebug & GUESTDBG.KVM_GUESTDBG_BLOCKIRQ) !== 0;
  let window = wantsWindow(vcpu) && (controller?.acceptsExternal ?? true);
  let injected = true;
  if (events.exception.injected) injectException(vcpu);
  else if (events.exception.pending) injected = false;
  else if (events.nmi.injected) injectNmi(vcpu);
  else if (events.interrupt.injected) injectInterrupt(vcpu);
  else injected = false;

  if (!injected && events.exception.pending) {
    deliverPayload(vcpu);
    events.exception.pending = false;
    events.exception.injected = true;
    injectException(vcpu);
    injected = true;
  }
  if (events.nmi.pending > 0 && !injected && nmiAllowed(vcpu)) {
    events.nmi.pending--;
    events.nmi.injected = true;
    injectNmi(vcpu);
    injected = true;
  }
  // @clause kvm.irqchip.injection
  if (controller?.hasInterrupt() && !undisturbed) {
    if (!injected && interruptAllowed(vcpu)) {
      events.interrupt = { injected: true, vector: controller.takeInterrupt(), soft: false };
      injectInterrupt(vcpu);
    }
    window ||= controller.hasInterrupt();
  }
  // @clause kvm.exit.irq-window
  vcpu.control(CPU_BASED.mask.NMI_WINDOW_EXITING, events.nmi.pending > 0);
  vcpu.control(CPU_BASED.mask.INTR_WINDOW_EXITING, window && !undisturbed);
}

function write(vcpu: SoftVcpu, info: number): void {
  const { hardware } = vcpu.vm;
  hardware.write32(FIELD.VM_ENTRY_INTR_INFO_FIELD, info | VALID);
  if (hardware.read32(FIELD.GUEST_ACTIVITY_STATE) !== 0) hardware.write32(FIELD.GUEST_ACTIVITY_STATE, 0);
}

function injectException(vcpu: SoftVcpu): void {
  const { vector, hasErrorCode, errorCode } = vcpu.events.exception;
  const { hardware } = vcpu.vm;
  const type = isSoft(vector) ? EVENT_TYPE.SOFTWARE_EXCEPTION : EVENT_TYPE.HARDWARE_EXCEPTION;
  // Real mode has no error codes; a VM entry that pushed one would be refused.
  const code = hasErrorCode && (vcpu.cr0 & BigInt(CR0.PE)) !== 0n;
  if (code) hardware.write32(FIELD.VM_ENTRY_EXCEPTION_ERROR_CODE, errorCode);
  if (isSoft(vector)) hardware.write32(FIELD.VM_ENTRY_INSTRUCTION_LEN, vcpu.eventInstructionLength);
  write(vcpu, vector | (type << 8) | (code ? DELIVER_CODE : 0));
}

// @clause kvm.nmi.delivery
function injectNmi(vcpu: SoftVcpu): void {
  write(vcpu, VECTOR.NMI | (EVENT_TYPE.NMI << 8));
}

// @clause kvm.interrupt.delivery
function injectInterrupt(vcpu: SoftVcpu): void {
  const { vector, soft } = vcpu.events.interrupt;
  vcpu.trace?.emit({ kind: 'kvm_inj_virq', vector });
  if (soft) vcpu.vm.hardware.write32(FIELD.VM_ENTRY_INSTRUCTION_LEN, vcpu.eventInstructionLength);
  write(vcpu, vector | ((soft ? EVENT_TYPE.SOFTWARE_INTERRUPT : EVENT_TYPE.EXTERNAL) << 8));
}

/** A page fault carries CR2, a debug exception DR6 bits; the register changes when the exception is delivered. Linux: `kvm_deliver_exception_payload()`. */
function deliverPayload(vcpu: SoftVcpu): void {
  const { exception } = vcpu.events;
  if (!isSoft(exception.vector) && exception.vector !== VECTOR.DB && exception.vector !== VECTOR.DF) vcpu.rflags |= BigInt(FLAG.RF);
  if (!exception.hasPayload) return;
  if (exception.vector === VECTOR.PF) vcpu.cr2 = exception.payload;
  if (exception.vector === VECTOR.DB) {
    vcpu.dr6 = (vcpu.dr6 & ~0xfn) | DR6_ACTIVE_LOW | exception.payload;
    if (vcpu.dr7 & DR7_GD) {
      vcpu.dr7 &= ~DR7_GD;
      vcpu.updateDr7();
    }
  }
  exception.hasPayload = false;
}

// ## After the exit
//
// The entry delivered the event, or the delivery itself caused the exit. In the second case the IDT-vectoring field still holds it, and nobody else
// does: it must be queued again before anything else is looked at.

// @clause kvm.run.reinject-interrupted-event
/** Linux: `vmx_complete_interrupts()`. */
export function completeEvents(vcpu: SoftVcpu): void {
  const { hardware } = vcpu.vm;
  const { events } = vcpu;
  events.exception.injected = false;
  events.interrupt.injected = false;
  events.nmi.injected = false;
  const info = hardware.read32(FIELD.IDT_VECTORING_INFO_FIELD);
  if ((info & VALID) === 0) return;
  const vector = INTR_INFO.get(info, 'VECTOR');
  const type = INTR_INFO.get(info, 'TYPE');
  switch (type) {
    case EVENT_TYPE.NMI:
      events.nmi.injected = true;
      hardware.write32(FIELD.GUEST_INTERRUPTIBILITY_INFO, hardware.read32(FIELD.GUEST_INTERRUPTIBILITY_INFO) & ~NMI);
      return;
    case EVENT_TYPE.EXTERNAL:
    case EVENT_TYPE.SOFTWARE_INTERRUPT:
      vcpu.eventInstructionLength = hardware.read32(FIELD.VM_EXIT_INSTRUCTION_LEN);
      events.interrupt = { injected: true, vector, soft: type === EVENT_TYPE.SOFTWARE_INTERRUPT };
      return;
    default: {
      vcpu.eventInstructionLength = hardware.read32(FIELD.VM_EXIT_INSTRUCTION_LEN);
      const hasErrorCode = (info & DELIVER_CODE) !== 0;
      const errorCode = hasErrorCode ? hardware.read32(FIELD.IDT_VECTORING_ERROR_CODE) : 0;
      events.exception = { ...NO_EXCEPTION, injected: true, vector, hasErrorCode, errorCode };
    }
  }
}
