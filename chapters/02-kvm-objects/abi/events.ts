// # What is about to happen to a vCPU
//
// Between two runs a processor is not only its registers. An exception may be half delivered, an NMI may be masked, the instruction after
// STI may still be shielded from interrupts. None of that is in any register, and all of it has to survive when a vCPU is stopped, saved and
// started elsewhere.

import { bytes, layout, nested, u8, u32le, u64le } from '../../01-hardware-background/layout.ts';
import { U64 } from './registers.ts';

/** KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS. `injected` has been handed to the hardware, `pending` has not yet. */
export const KvmVcpuEvents = layout('kvm_vcpu_events', {
  exception_injected: u8(0),
  exception_nr: u8(1),
  exception_has_error_code: u8(2),
  exception_pending: u8(3),
  exception_error_code: u32le(4),
  interrupt_injected: u8(8),
  interrupt_nr: u8(9),
  interrupt_soft: u8(10),
  interrupt_shadow: u8(11), // INTERRUPT_SHADOW
  nmi_injected: u8(12),
  nmi_pending: u8(13),
  nmi_masked: u8(14),
  sipi_vector: u32le(16),
  flags: u32le(20), // VCPUEVENT: which of the optional fields are valid
  smi_smm: u8(24),
  smi_pending: u8(25),
  smi_smm_inside_nmi: u8(26),
  smi_latched_init: u8(27),
  triple_fault_pending: u8(28),
  reserved: bytes(29, 26),
  exception_has_payload: u8(55),
  exception_payload: u64le(56), // CR2 or the DR6 bits of the exception
});

// biome-ignore format: table
export const VCPUEVENT = {
  KVM_VCPUEVENT_VALID_NMI_PENDING: 1, KVM_VCPUEVENT_VALID_SIPI_VECTOR: 2, KVM_VCPUEVENT_VALID_SHADOW: 4, KVM_VCPUEVENT_VALID_SMM: 8,
  KVM_VCPUEVENT_VALID_PAYLOAD: 16, KVM_VCPUEVENT_VALID_TRIPLE_FAULT: 32,
} as const;

/** `interrupt_shadow`: what shields the next instruction from interrupts. */
export const INTERRUPT_SHADOW = { KVM_X86_SHADOW_INT_MOV_SS: 1, KVM_X86_SHADOW_INT_STI: 2 } as const;

/** KVM_INTERRUPT: the vector that the next entry injects. */
export const KvmInterrupt = layout('kvm_interrupt', { irq: u32le(0) });

/** KVM_GET_MP_STATE, KVM_SET_MP_STATE. */
export const KvmMpState = layout('kvm_mp_state', { mp_state: u32le(0) });

// biome-ignore format: table
export const MP_STATE = {
  KVM_MP_STATE_RUNNABLE: 0, KVM_MP_STATE_UNINITIALIZED: 1, KVM_MP_STATE_INIT_RECEIVED: 2, KVM_MP_STATE_HALTED: 3, KVM_MP_STATE_SIPI_RECEIVED: 4,
  KVM_MP_STATE_STOPPED: 5, KVM_MP_STATE_AP_RESET_HOLD: 9,
} as const;

/** KVM_SET_GUEST_DEBUG. `debugreg` 0–3 and 7 replace the guest's when KVM_GUESTDBG_USE_HW_BP is set. */
export const KvmGuestDebug = layout('kvm_guest_debug', { control: u32le(0), pad: u32le(4), debugreg: nested(8, U64, 8) });

// biome-ignore format: table
export const GUESTDBG = {
  KVM_GUESTDBG_ENABLE: 1, KVM_GUESTDBG_SINGLESTEP: 2, KVM_GUESTDBG_USE_SW_BP: 0x10000, KVM_GUESTDBG_USE_HW_BP: 0x20000, KVM_GUESTDBG_INJECT_DB: 0x40000,
  KVM_GUESTDBG_INJECT_BP: 0x80000, KVM_GUESTDBG_BLOCKIRQ: 0x100000,
} as const;

/** Head of `struct kvm_signal_mask`; `len` bytes of a kernel `sigset_t` follow (8 on x86-64). */
export const KvmSignalMask = layout('kvm_signal_mask', { len: u32le(0) });
