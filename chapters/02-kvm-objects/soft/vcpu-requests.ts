// # What can be asked of a vCPU
//
// Registers in groups, each group a structure. None of these runs anything; they are the VMM's hands inside a stopped processor. Each request first
// takes the processor for this vCPU, because the fields that it wants are those of the *current* VMCS.

import { VECTOR } from '../../01-hardware-background/faults.ts';
import { FLAG, OFFSET, SLOT } from '../../01-hardware-background/state.ts';
import { readFxImage, writeFxImage } from '../../01-hardware-background/system/fx-image.ts';
import { FIELD } from '../../01-hardware-background/vmx/vmcs.ts';
import { KvmMpState, KvmVcpuEvents, MP_STATE, VCPUEVENT } from '../abi/events.ts';
import { KvmTranslation } from '../abi/memory.ts';
import { KvmDebugregs, KvmFpu, KvmMsrEntry, KvmRegs, KvmXcr, KvmXcrs, KvmXsave, U64 } from '../abi/registers.ts';
import { ERRNO } from '../errno.ts';
import { setXcr0 } from './control-registers.ts';
import { type CpuidEntry, loadCpuid, storeCpuid } from './cpuid.ts';
import type { IoctlTable } from './dispatch.ts';
import { pagingOf, walkGuest } from './guest-walk.ts';
import { getMsr, msrList, setMsr } from './msrs.ts';
import { getSregs, getSregs2, setSregs, setSregs2 } from './sregs.ts';
import type { SoftVcpu } from './vcpu.ts';

/** KVM's order of general registers, as hardware numbers. */
// biome-ignore format: table
const ORDER = [
  ['rax', SLOT.RAX], ['rbx', SLOT.RBX], ['rcx', SLOT.RCX], ['rdx', SLOT.RDX], ['rsi', SLOT.RSI], ['rdi', SLOT.RDI], ['rsp', SLOT.RSP], ['rbp', SLOT.RBP],
  ['r8', SLOT.R8], ['r9', SLOT.R9], ['r10', SLOT.R10], ['r11', SLOT.R11], ['r12', SLOT.R12], ['r13', SLOT.R13], ['r14', SLOT.R14], ['r15', SLOT.R15],
] as const;

// ## General registers

// @clause kvm.regs.round-trip
function getRegs(vcpu: SoftVcpu, _bytes: Uint8Array, view: DataView): number {
  for (const [name, n] of ORDER) KvmRegs.fields[name].set(view, 0, vcpu.reg(n));
  KvmRegs.store(view, 0, { rip: vcpu.rip, rflags: vcpu.rflags });
  return 0;
}

// @clause kvm.regs.rflags-fixed-bit
function setRegs(vcpu: SoftVcpu, _bytes: Uint8Array, view: DataView): number {
  for (const [name, n] of ORDER) vcpu.setReg(n, KvmRegs.fields[name].get(view, 0));
  const { rip, rflags } = KvmRegs.load(view);
  vcpu.rip = rip;
  vcpu.rflags = rflags | 2n; // bit 1 of RFLAGS is always set
  vcpu.events.exception.pending = false; // whoever sets RIP has decided what happens next
  vcpu.events.exception.injected = false;
  return 0;
}

// ## The FPU
//
// Two formats again: `struct kvm_fpu` spreads what FXSAVE packs. Both speak of the same image, which the processor holds.

const FXSAVE = { FCW: 0, FSW: 2, FTW: 4, FOP: 6, FIP: 8, FDP: 16, MXCSR: 24, ST: 32, XMM: 160, END: 416 } as const;
const FXSAVE_BYTES = 512;
const XSAVE_HEADER = FXSAVE_BYTES;
const XSAVE_FEATURES = 3n; // x87 and SSE: what the image holds
const MXCSR_VALID = 0xffff;

/** The image with the registers as the stack has them, and what goes with it. */
function image(vcpu: SoftVcpu): { bytes: Uint8Array; view: DataView } {
  const bytes = readFxImage(vcpu.vm.hardware.cpu.state);
  return { bytes, view: new DataView(bytes.buffer) };
}

function getFpu(vcpu: SoftVcpu, bytes: Uint8Array, view: DataView): number {
  const fx = image(vcpu);
  bytes.fill(0, 0, KvmFpu.bytes);
  KvmFpu.store(view, 0, {
    fpr: fx.bytes.slice(FXSAVE.ST, FXSAVE.XMM),
    fcw: fx.view.getUint16(FXSAVE.FCW, true),
    fsw: fx.view.getUint16(FXSAVE.FSW, true),
    ftwx: fx.view.getUint8(FXSAVE.FTW),
    last_opcode: fx.view.getUint16(FXSAVE.FOP, true),
    last_ip: fx.view.getBigUint64(FXSAVE.FIP, true),
    last_dp: fx.view.getBigUint64(FXSAVE.FDP, true),
    xmm: fx.bytes.slice(FXSAVE.XMM, FXSAVE.END),
  });
  return 0;
}

function setFpu(vcpu: SoftVcpu, _bytes: Uint8Array, view: DataView): number {
  const fx = image(vcpu);
  const fpu = KvmFpu.load(view);
  fx.bytes.set(fpu.fpr, FXSAVE.ST);
  fx.bytes.set(fpu.xmm, FXSAVE.XMM);
  fx.view.setUint16(FXSAVE.FCW, fpu.fcw, true);
  fx.view.setUint16(FXSAVE.FSW, fpu.fsw, true);
  fx.view.setUint8(FXSAVE.FTW, fpu.ftwx);
  fx.view.setUint16(FXSAVE.FOP, fpu.last_opcode, true);
  fx.view.setBigUint64(FXSAVE.FIP, fpu.last_ip, true);
  fx.view.setBigUint64(FXSAVE.FDP, fpu.last_dp, true);
  writeFxImage(vcpu.vm.hardware.cpu.state, fx.bytes);
  return 0;
}

function getXsave(vcpu: SoftVcpu, bytes: Uint8Array, view: DataView): number {
  bytes.fill(0, 0, KvmXsave.bytes);
  bytes.set(image(vcpu).bytes);
  view.setBigUint64(XSAVE_HEADER, XSAVE_FEATURES, true);
  return 0;
}

// @clause kvm.xsave.valid
function setXsave(vcpu: SoftVcpu, bytes: Uint8Array, view: DataView): number {
  if (view.getBigUint64(XSAVE_HEADER, true) & ~XSAVE_FEATURES || view.getBigUint64(XSAVE_HEADER + 8, true) !== 0n) return -ERRNO.EINVAL;
  if (view.getUint32(FXSAVE.MXCSR, true) & ~MXCSR_VALID) return -ERRNO.EINVAL;
  writeFxImage(vcpu.vm.hardware.cpu.state, bytes.subarray(0, FXSAVE_BYTES));
  return 0;
}

function getXcrs(vcpu: SoftVcpu, bytes: Uint8Array, view: DataView): number {
  bytes.fill(0, 0, KvmXcrs.bytes);
  KvmXcrs.store(view, 0, { nr_xcrs: 1 });
  KvmXcr.store(view, KvmXcrs.fields.xcrs.at(0), { xcr: 0, value: vcpu.vm.hardware.cpu.state.get64(OFFSET.XCR0) });
  return 0;
}

function setXcrs(vcpu: SoftVcpu, _bytes: Uint8Array, view: DataView): number {
  const { nr_xcrs, flags } = KvmXcrs.load(view);
  if (nr_xcrs > KvmXcrs.fields.xcrs.count || flags !== 0) return -ERRNO.EINVAL;
  for (let n = 0; n < nr_xcrs; n++) {
    const { xcr, value } = KvmXcr.load(view, KvmXcrs.fields.xcrs.at(n));
    if (xcr === 0) return setXcr0(vcpu, value) ? 0 : -ERRNO.EINVAL;
  }
  return 0;
}

// ## Debug registers

const DR6_FIXED = 0xffff0ff0n;
const DR7_FIXED = 0x400n;
const DR6_WRITABLE = 0xe00fn;
const DR7_WRITABLE = 0xffff23ffn;

function getDebugregs(vcpu: SoftVcpu, bytes: Uint8Array, view: DataView): number {
  bytes.fill(0, 0, KvmDebugregs.bytes);
  vcpu.db.forEach((value, n) => {
    U64.store(view, KvmDebugregs.fields.db.at(n), { value });
  });
  KvmDebugregs.store(view, 0, { dr6: vcpu.dr6, dr7: vcpu.dr7 });
  return 0;
}

// @clause kvm.debugregs.valid
function setDebugregs(vcpu: SoftVcpu, _bytes: Uint8Array, view: DataView): number {
  const { dr6, dr7, flags } = KvmDebugregs.load(view);
  if (flags !== 0n || dr6 >> 32n || dr7 >> 32n) return -ERRNO.EINVAL;
  for (let n = 0; n < 4; n++) vcpu.db[n] = U64.load(view, KvmDebugregs.fields.db.at(n)).value;
  vcpu.dr6 = (dr6 & DR6_WRITABLE) | DR6_FIXED;
  vcpu.dr7 = (dr7 & DR7_WRITABLE) | DR7_FIXED;
  vcpu.updateDr7();
  return 0;
}

// ## Events and the run state

const STI = 1; // interruptibility bits, as the VMCS has them
const MOV_SS = 2;
const NMI_BLOCKED = 8;

// An exception that is *pending* has not happened yet for the guest: what it will leave in CR2 or DR6 travels with it. To a VMM that has not said that it
// knows this, it is shown as injected. A *software* exception is not shown at all: RIP is still at its instruction, and the length that its delivery
// needs has no place in the structure; so it will be executed again.

// @clause kvm.events.round-trip
function getVcpuEvents(vcpu: SoftVcpu, bytes: Uint8Array, view: DataView): number {
  const { exception, interrupt, nmi, tripleFault } = vcpu.events;
  const { exceptionPayload, tripleFaultEvent } = vcpu.vm;
  const shadow = vcpu.vm.hardware.read32(FIELD.GUEST_INTERRUPTIBILITY_INFO);
  bytes.fill(0, 0, KvmVcpuEvents.bytes);
  const shown = !SOFTWARE.includes(exception.vector);
  // A vector that KVM_INTERRUPT has queued and no entry has taken yet is as good as injected: it was queued because the guest would take it.
  const queued = interrupt.injected ? -1 : (vcpu.interruptController?.queuedExternal ?? -1);
  KvmVcpuEvents.store(view, 0, {
    exception_injected: shown && (exception.injected || (!exceptionPayload && exception.pending)) ? 1 : 0,
    exception_pending: shown && exceptionPayload && exception.pending ? 1 : 0,
    exception_nr: exception.vector,
    exception_has_error_code: exception.hasErrorCode ? 1 : 0,
    exception_error_code: exception.errorCode,
    exception_has_payload: exceptionPayload && exception.hasPayload ? 1 : 0,
    exception_payload: exceptionPayload ? exception.payload : 0n,
    interrupt_injected: (interrupt.injected && !interrupt.soft) || queued >= 0 ? 1 : 0,
    interrupt_nr: queued >= 0 ? queued : interrupt.vector,
    interrupt_shadow: (shadow & MOV_SS ? 1 : 0) | (shadow & STI ? 2 : 0), // INTERRUPT_SHADOW
    nmi_injected: nmi.injected ? 1 : 0,
    nmi_pending: nmi.pending,
    nmi_masked: shadow & NMI_BLOCKED ? 1 : 0,
    triple_fault_pending: tripleFaultEvent && tripleFault ? 1 : 0,
    flags:
      VCPUEVENT.KVM_VCPUEVENT_VALID_NMI_PENDING |
      VCPUEVENT.KVM_VCPUEVENT_VALID_SHADOW |
      VCPUEVENT.KVM_VCPUEVENT_VALID_SMM |
      (exceptionPayload ? VCPUEVENT.KVM_VCPUEVENT_VALID_PAYLOAD : 0) |
      (tripleFaultEvent ? VCPUEVENT.KVM_VCPUEVENT_VALID_TRIPLE_FAULT : 0),
  });
  return 0;
}

const KNOWN_FLAGS = Object.values(VCPUEVENT).reduce((all, flag) => all | flag, 0);
const NMI_VECTOR = 2;
const SOFTWARE: readonly number[] = [VECTOR.BP, VECTOR.OF];
const SINGLE_STEP = 1n << 14n; // of the pending debug exceptions

// @clause kvm.events.valid
function setVcpuEvents(vcpu: SoftVcpu, _bytes: Uint8Array, view: DataView): number {
  const e = KvmVcpuEvents.load(view);
  const { exceptionPayload, tripleFaultEvent } = vcpu.vm;
  const withPayload = (e.flags & VCPUEVENT.KVM_VCPUEVENT_VALID_PAYLOAD) !== 0;
  const withTripleFault = (e.flags & VCPUEVENT.KVM_VCPUEVENT_VALID_TRIPLE_FAULT) !== 0;
  // @clause kvm.events.valid
  if (e.flags & ~KNOWN_FLAGS || (withPayload && !exceptionPayload) || (withTripleFault && !tripleFaultEvent)) return -ERRNO.EINVAL;
  const pending = withPayload && e.exception_pending !== 0;
  const injected = e.exception_injected !== 0 && !pending;
  if ((pending || injected) && (e.exception_nr > 31 || e.exception_nr === NMI_VECTOR)) return -ERRNO.EINVAL;
  if (e.flags & VCPUEVENT.KVM_VCPUEVENT_VALID_SMM && (e.smi_smm || e.smi_pending)) return -ERRNO.EINVAL;
  const hasPayload = pending && e.exception_has_payload !== 0;
  vcpu.events.exception = {
    pending,
    injected,
    vector: e.exception_nr,
    hasErrorCode: e.exception_has_error_code !== 0,
    errorCode: e.exception_error_code,
    hasPayload,
    payload: hasPayload ? e.exception_payload : 0n,
  };
  vcpu.events.interrupt = { injected: e.interrupt_injected !== 0, vector: e.interrupt_nr, soft: e.interrupt_soft !== 0 };
  if (vcpu.interruptController) vcpu.interruptController.queuedExternal = -1; // there is one place, and what is in it has just been said
  vcpu.events.nmi.injected = e.nmi_injected !== 0;
  if (withTripleFault) vcpu.events.tripleFault = e.triple_fault_pending !== 0;
  if (e.flags & VCPUEVENT.KVM_VCPUEVENT_VALID_NMI_PENDING) vcpu.events.nmi.pending = Math.min(e.nmi_pending, 2);
  if (e.flags & VCPUEVENT.KVM_VCPUEVENT_VALID_SIPI_VECTOR && vcpu.interruptController) vcpu.interruptController.sipiVector = e.sipi_vector;
  const { hardware } = vcpu.vm;
  let shadow = hardware.read32(FIELD.GUEST_INTERRUPTIBILITY_INFO) & ~NMI_BLOCKED;
  if (e.nmi_masked) shadow |= NMI_BLOCKED;
  if (e.flags & VCPUEVENT.KVM_VCPUEVENT_VALID_SHADOW) {
    shadow = (shadow & NMI_BLOCKED) | (e.interrupt_shadow & 1 ? MOV_SS : 0) | (e.interrupt_shadow & 2 ? STI : 0);
    // A trap that waits behind the shadow is in no structure. Of its causes one can be told from the flags, and VM entry insists that it is there.
    const stepping = (shadow & (MOV_SS | STI)) !== 0 && (vcpu.rflags & BigInt(FLAG.TF)) !== 0n;
    hardware.write(FIELD.GUEST_PENDING_DBG_EXCEPTIONS, stepping ? SINGLE_STEP : 0n);
  }
  hardware.write32(FIELD.GUEST_INTERRUPTIBILITY_INFO, shadow);
  return 0;
}

// Without an in-kernel interrupt controller there is nothing to wait for in the kernel: INIT and start-up messages are the VMM's, and a vCPU is
// runnable always.

const WAITING: readonly number[] = [
  MP_STATE.KVM_MP_STATE_UNINITIALIZED,
  MP_STATE.KVM_MP_STATE_INIT_RECEIVED,
  MP_STATE.KVM_MP_STATE_HALTED,
  MP_STATE.KVM_MP_STATE_SIPI_RECEIVED,
  MP_STATE.KVM_MP_STATE_AP_RESET_HOLD,
];

function getMpState(vcpu: SoftVcpu, _bytes: Uint8Array, view: DataView): number {
  vcpu.interruptController?.acceptStartup();
  KvmMpState.store(view, 0, { mp_state: vcpu.mpState });
  return 0;
}

function setMpState(vcpu: SoftVcpu, _bytes: Uint8Array, view: DataView): number {
  const { mp_state } = KvmMpState.load(view);
  // @clause kvm.mp-state.needs-irqchip
  if (mp_state !== MP_STATE.KVM_MP_STATE_RUNNABLE && !(WAITING.includes(mp_state) && vcpu.interruptController)) return -ERRNO.EINVAL;
  // SIPI_RECEIVED is not a state that lasts: the message is on its way.
  if (mp_state === MP_STATE.KVM_MP_STATE_SIPI_RECEIVED) {
    vcpu.mpState = MP_STATE.KVM_MP_STATE_INIT_RECEIVED;
    vcpu.interruptController?.startUp();
  } else vcpu.mpState = mp_state;
  return 0;
}

// ## Translation

// @clause kvm.translate
function translate(vcpu: SoftVcpu, _bytes: Uint8Array, view: DataView): number {
  const { linear_address } = KvmTranslation.load(view);
  const walked = walkGuest(vcpu.vm, pagingOf(vcpu), linear_address, null);
  const valid = 'gpa' in walked;
  KvmTranslation.store(view, 0, {
    physical_address: valid ? BigInt(walked.gpa) : 0xffff_ffff_ffff_ffffn,
    valid: valid ? 1 : 0,
    writeable: 1, // the field is there, and Linux has never looked
    usermode: 0,
  });
  return 0;
}

// ## CPUID

// @clause kvm.cpuid.round-trip
function setCpuid2(vcpu: SoftVcpu, _bytes: Uint8Array, view: DataView): number {
  const entries = loadCpuid(view);
  if (typeof entries === 'number') return entries;
  // @clause kvm.cpuid.fixed-after-run
  if (vcpu.hasRun && !same(entries, vcpu.cpuid.entries)) return -ERRNO.EINVAL;
  vcpu.cpuid.entries = entries;
  return 0;
}
const same = (a: readonly CpuidEntry[], b: readonly CpuidEntry[]): boolean => JSON.stringify(a) === JSON.stringify(b);

/** Installs all of the above. */
export function installVcpuRequests(table: IoctlTable<SoftVcpu>): void {
  table.onStruct('KVM_GET_REGS', getRegs);
  table.onStruct('KVM_SET_REGS', setRegs);
  table.onStruct('KVM_GET_SREGS', getSregs);
  table.onStruct('KVM_SET_SREGS', setSregs);
  table.onStruct('KVM_GET_SREGS2', getSregs2);
  table.onStruct('KVM_SET_SREGS2', setSregs2);
  table.onStruct('KVM_GET_FPU', getFpu);
  table.onStruct('KVM_SET_FPU', setFpu);
  table.onStruct('KVM_GET_XSAVE', getXsave);
  table.onStruct('KVM_GET_XSAVE2', getXsave);
  table.onStruct('KVM_SET_XSAVE', setXsave);
  table.onStruct('KVM_GET_XCRS', getXcrs);
  table.onStruct('KVM_SET_XCRS', setXcrs);
  table.onStruct('KVM_GET_DEBUGREGS', getDebugregs);
  table.onStruct('KVM_SET_DEBUGREGS', setDebugregs);
  table.onStruct('KVM_GET_VCPU_EVENTS', getVcpuEvents);
  table.onStruct('KVM_SET_VCPU_EVENTS', setVcpuEvents);
  table.onStruct('KVM_GET_MP_STATE', getMpState);
  table.onStruct('KVM_SET_MP_STATE', setMpState);
  table.onStruct('KVM_TRANSLATE', translate);
  table.onStruct('KVM_ENABLE_CAP', () => -ERRNO.EINVAL);
  table.onStruct('KVM_SET_CPUID2', setCpuid2);
  table.onStruct('KVM_GET_CPUID2', (vcpu, _bytes, view) => storeCpuid(view, vcpu.cpuid.entries));
  table.onStruct('KVM_GET_MSRS', (vcpu, _bytes, view) =>
    msrList(view, (index, at) => {
      const data = getMsr(vcpu, index);
      if (data === null) return false;
      KvmMsrEntry.store(view, at, { data });
      return true;
    }),
  );
  // @clause kvm.msr.round-trip
  table.onStruct('KVM_SET_MSRS', (vcpu, _bytes, view) => msrList(view, (index, at) => setMsr(vcpu, index, KvmMsrEntry.load(view, at).data, true)));
}
