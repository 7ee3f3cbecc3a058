// # The VMX unit
//
// VMXON gives the processor two ways of being: *root* operation, where the hypervisor lives and everything works as it did before, and *non-root*
// operation, where the guest lives and sensitive instructions ask first. The important word is *operation*, not ring. Before VT-x a guest kernel had
// to be pushed out of ring 0 to lose its power, and a dozen instructions that behave differently outside ring 0 without faulting (SGDT, PUSHF, POPF
// ...) told it so or quietly did the wrong thing. Non-root operation has all four rings. The guest kernel runs in ring 0, its paging and its
// interrupt table are its own, and what it must not do it cannot do, in any ring.
//
// The instructions of this section can be executed by two kinds of hypervisor. One is made of x86 code on the modelled machine: its VMLAUNCH is
// decoded like any instruction, and after a VM exit the processor continues at HOST_RIP. The other is a TypeScript program *around* the machine, as
// the kernel of the next chapter is: it calls the methods named after the instructions, and a VM exit ends `Cpu.run`. The VMCS and all the rules are
// the same for both; only the way back differs.

import { generalProtection, undefinedOpcode, VmExit } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import type { SystemOp } from '../isa/system-ops.ts';
import { assert, highHalf, lowHalf, PAGE_BYTES } from '../physical-memory.ts';
import { AR, CR0, CR4, EFER, FLAG, OFFSET, SEG } from '../state.ts';
import {
  ACTIVITY_CHECKS,
  type Check,
  CONTROL_CHECKS,
  type EntryContext,
  firstViolation,
  GUEST_CHECKS,
  HOST_CHECKS,
  INJECTION_CHECKS,
} from './checks.ts';
import { CPU_BASED, CR0_FIXED0, CR0_FIXED1, CR4_FIXED0, cr4Fixed1, EPTP, EXIT, FEATURE_CONTROL, readVmxMsr, VMX_MSR } from './controls.ts';
import { entryFailure, vmExit } from './exit.ts';
import { ENTRY_FAILURE, EXIT_REASON, INTERRUPTIBILITY, INTR_INFO, instructionErrorName, VM_INSTRUCTION_ERROR } from './exit-reasons.ts';
import { loadGuestState } from './guest-state.ts';
import { executeVmx } from './instructions.ts';
import { KeptTranslations } from './kept-translations.ts';
import { loadMsrs } from './msr-areas.ts';
import { type DeliveredEvent, EVENT_TYPE, type VmxProcessor } from './processor.ts';
import { AT, cellOf, FIELD, type FieldName, fieldBytes, fieldName, fieldType, LAUNCH_STATE, REGION, REVISION_ID, Vmcs } from './vmcs.ts';
import { VmxIntercepts } from './vmx-intercepts.ts';

/** How a VMX instruction ended: VMsucceed, VMfailInvalid (CF), VMfailValid (ZF, and a number in VM_INSTRUCTION_ERROR). */
export type VmxStatus = 'succeed' | 'failInvalid' | 'failValid';
/**
 * How VMLAUNCH or VMRESUME ended. `entered`: the processor is in the guest. `exited`: the entry failed and was reported as a VM exit, with bit 31
 * of VM_EXIT_REASON set. `abort`: the processor is in shutdown.
 */
export type EntryOutcome = 'entered' | 'exited' | 'abort' | 'failInvalid' | 'failValid';
/** Who gets control after a VM exit. `abort`: nobody, the processor has shut down. */
type ExitOutcome = 'typescript' | 'x86' | 'abort';

/** VMREAD or VMWRITE, called as a method, named a field that it may not touch. As an instruction this is VMfail. */
class VmxAccessError extends Error {
  override name = 'VmxAccessError';
  readonly status: VmxStatus;
  constructor(what: string, encoding: number, status: VmxStatus, error: string) {
    super(`${what} ${fieldName(encoding)}: ${error}`);
    this.status = status;
  }
}

// ## Which checks must be repeated
//
// A hypervisor enters the same VMCS over and over, changing a field or two in between. Repeating some ninety checks each time would cost more than
// the rest of the entry; hardware does not do it either when it can help it. So each field belongs to a class, VMWRITE notes the class when the value
// really changes, and VM entry repeats what the notes ask for.

const STALE = { CONTROLS: 1, HOST: 2, GUEST: 4, REFRESH: 8, ALL: 15 } as const;

/** Fields whose checks are repeated at every entry, or which have none. */
// biome-ignore format: table
const UNCHECKED: readonly FieldName[] = [
  'GUEST_RIP', 'GUEST_RSP', 'GUEST_RFLAGS', 'GUEST_INTERRUPTIBILITY_INFO', 'GUEST_ACTIVITY_STATE', 'GUEST_PENDING_DBG_EXCEPTIONS', 'GUEST_SYSENTER_CS',
  'VM_ENTRY_INTR_INFO_FIELD', 'VM_ENTRY_EXCEPTION_ERROR_CODE', 'VM_ENTRY_INSTRUCTION_LEN', 'TSC_OFFSET', 'VMCS_EXEC_PTR', 'GUEST_SMBASE',
  'HOST_RSP', 'HOST_IA32_SYSENTER_CS',
];
/** Fields that only the intercepts read. */
const INTERCEPT_ONLY: readonly FieldName[] = ['EXCEPTION_BITMAP', 'CR0_READ_SHADOW', 'CR4_READ_SHADOW'];
/** Primary controls that hypervisors flip between entries, and that no check of another field depends on. */
const FLIPPED = CPU_BASED.mask.INTR_WINDOW_EXITING | CPU_BASED.mask.MONITOR_TRAP_FLAG;

const staleOfCell = new Uint8Array(PAGE_BYTES / 8);
for (const name of Object.keys(FIELD) as FieldName[]) {
  const kind = fieldType(FIELD[name]);
  staleOfCell[AT[name] >> 3] = UNCHECKED.includes(name)
    ? 0
    : INTERCEPT_ONLY.includes(name)
      ? STALE.REFRESH
      : kind === 'host'
        ? STALE.HOST
        : kind === 'guest'
          ? STALE.GUEST
          : kind === 'control'
            ? STALE.ALL
            : 0;
}

const READ_ONLY_TYPE = 1;
const NONE_WORD = 0xffff_ffff;

/** The part of a processor that implements VMX. */
export class VmxUnit {
  readonly cpu: VmxProcessor;
  readonly intercepts: VmxIntercepts;
  /** The current VMCS. */
  readonly vmcs: Vmcs;
  /** Host physical address of the VMXON region; -1 outside VMX operation. */
  vmxonRegion = -1;
  /** In non-root operation: a guest is in the processor. */
  nonRoot = false;

  #host: 'typescript' | 'x86' = 'typescript';
  #stale = new Map<number, number>(); // what to recheck, by VMCS; absent: everything
  #compiledFor = -1; // the VMCS that `intercepts` reflects
  #checkedForLongHost = false;
  #injection: DeliveredEvent | null = null;
  #pendingDebug = 0;
  #trapBeforeFirst = false;
  readonly #kept = new KeptTranslations(); // whose translations the TLB holds, after an exit to TypeScript
  readonly #context: { physicalAddressBits: number; hostIsLong: boolean } & EntryContext;

  constructor(cpu: VmxProcessor) {
    this.cpu = cpu;
    this.vmcs = new Vmcs(cpu.memory);
    this.intercepts = new VmxIntercepts(cpu);
    const { memory } = cpu;
    this.#context = {
      physicalAddressBits: cpu.physicalAddressBits,
      linearAddressBits: cpu.linearAddressBits,
      hostIsLong: false,
      physical32: (at) => (memory.holds(at, 4) ? memory.view.getUint32(memory.offset(at, 4), true) : NONE_WORD),
      physical8: (at) => (memory.holds(at) ? (memory.u8[memory.offset(at)] as number) : 0xff),
    };
  }

  /** In VMX operation, root or not. */
  get operating(): boolean {
    return this.vmxonRegion !== -1;
  }
  /** While true, the processor executes one instruction (or delivers one event) and then calls `monitorTrapExit`. */
  get monitorTrap(): boolean {
    return this.nonRoot && this.intercepts.monitorTrap;
  }
  // ## Success and failure

  /** VMfail: writes the error number when there is a current VMCS to hold it. */
  fail(error: number): 'failInvalid' | 'failValid' {
    if (!this.vmcs.current) return 'failInvalid';
    this.vmcs.write32(AT.VM_INSTRUCTION_ERROR, error);
    return 'failValid';
  }

  // @clause vmx.insn.mode-ud
  /** #UD where VMX instructions do not exist: real mode, virtual-8086 mode, compatibility mode. */
  requireMode(): void {
    const { state } = this.cpu;
    const compatibility = (state.low32(OFFSET.EFER) & EFER.LMA) !== 0 && (state.segRights(SEG.CS) & AR.L) === 0;
    if ((state.low32(OFFSET.CR0) & CR0.PE) === 0 || (state.get32(OFFSET.RFLAGS) & FLAG.VM) !== 0 || compatibility) throw undefinedOpcode();
  }

  // @clause vmx.insn.cpl-gp
  /** All instructions but VMXON: #UD outside VMX operation, #GP outside ring 0. */
  requireRoot(): void {
    assert(!this.nonRoot, 'VMX instructions of a hypervisor are executed in root operation');
    if (!this.operating) throw undefinedOpcode();
    this.requireMode();
    if (this.cpu.state.get32(OFFSET.CPL) !== 0) throw generalProtection();
  }

  /** True when `address` cannot be a VMX region's: not the start of a page, or wider than physical addresses are. */
  #badRegion(address: number): boolean {
    return address % PAGE_BYTES !== 0 || address >= 2 ** this.#context.physicalAddressBits;
  }

  // ## Entering and leaving VMX operation

  /** VMXON's own conditions, which come before its operand is read. Throws #UD or #GP as the instruction does. */
  requireVmxonPrivilege(): void {
    const { state } = this.cpu;
    if ((state.low32(OFFSET.CR4) & CR4.VMXE) === 0) throw undefinedOpcode();
    this.requireMode();
    if (state.get32(OFFSET.CPL) !== 0) throw generalProtection();
    if (this.operating) return;
    // @clause vmx.insn.vmxon-gp
    this.#requireFixed(state.low32(OFFSET.CR0), CR0_FIXED0, CR0_FIXED1);
    this.#requireFixed(state.low32(OFFSET.CR4), CR4_FIXED0, cr4Fixed1(this.cpu.linearAddressBits));
    const enabled = FEATURE_CONTROL.LOCKED | FEATURE_CONTROL.VMX_OUTSIDE_SMX;
    if ((Number(readVmxMsr(VMX_MSR.IA32_FEATURE_CONTROL)) & enabled) !== enabled) throw generalProtection();
  }

  /** VMXON. Throws #UD or #GP as the instruction does. */
  vmxon(address: number): VmxStatus {
    this.requireVmxonPrivilege();
    if (this.operating) return this.fail(VM_INSTRUCTION_ERROR.VMXON_IN_VMX_ROOT_OPERATION);
    // @clause vmx.insn.vmxon-region
    if (this.#badRegion(address) || this.#context.physical32(address) !== REVISION_ID) return 'failInvalid';
    this.vmxonRegion = address;
    this.vmcs.point(-1);
    this.cpu.trace?.emit({ kind: 'vmx', what: 'vmxon' });
    return 'succeed';
  }

  /** VMXOFF. */
  vmxoff(): VmxStatus {
    this.requireRoot();
    this.#forgetTranslations();
    this.reset();
    this.cpu.trace?.emit({ kind: 'vmx', what: 'vmxoff' });
    return 'succeed';
  }

  /** Power-up: VMX operation is off, whatever was going on. */
  reset(): void {
    this.vmxonRegion = -1;
    this.nonRoot = false;
    this.vmcs.point(-1);
    this.#stale.clear();
    this.#compiledFor = -1;
    this.#kept.valid = false;
    this.#injection = null;
    this.#pendingDebug = 0;
    this.#trapBeforeFirst = false;
  }

  /** MOV to CR0 or CR4 is about to take effect outside non-root operation. Throws #GP for bits that VMX operation fixes. */
  checkControlRegister(n: 0 | 4, value: bigint): void {
    if (!this.operating || this.nonRoot) return;
    const low = Number(value & 0xffff_ffffn);
    if (n === 0) this.#requireFixed(low, CR0_FIXED0, CR0_FIXED1);
    else this.#requireFixed(low, CR4_FIXED0, cr4Fixed1(this.cpu.linearAddressBits));
  }

  #requireFixed(value: number, fixed0: number, fixed1: number): void {
    if ((fixed0 & ~value) !== 0 || (value & ~fixed1) !== 0) throw generalProtection();
  }

  // ## The current VMCS

  /** VMCLEAR: the region goes back to memory with its launch state clear. */
  vmclear(address: number): VmxStatus {
    this.requireRoot();
    // @clause vmx.insn.vmclear
    if (this.#badRegion(address)) return this.fail(VM_INSTRUCTION_ERROR.VMCLEAR_INVALID_ADDRESS);
    if (address === this.vmxonRegion) return this.fail(VM_INSTRUCTION_ERROR.VMCLEAR_VMXON_POINTER);
    const { memory } = this.cpu;
    if (memory.holds(address, PAGE_BYTES)) memory.view.setUint32(memory.offset(address, PAGE_BYTES) + REGION.LAUNCH_STATE, LAUNCH_STATE.CLEAR, true);
    this.#stale.delete(address);
    if (this.#compiledFor === address) this.#compiledFor = -1;
    if (this.#kept.isOf(address)) this.#forgetTranslations(); // its page may become another VMCS with the same VPID
    if (this.vmcs.address === address) this.vmcs.point(-1);
    return 'succeed';
  }

  /** VMPTRLD: makes a region current. */
  vmptrld(address: number): VmxStatus {
    this.requireRoot();
    // @clause vmx.insn.vmptrld
    if (this.#badRegion(address)) return this.fail(VM_INSTRUCTION_ERROR.VMPTRLD_INVALID_ADDRESS);
    if (address === this.vmxonRegion) return this.fail(VM_INSTRUCTION_ERROR.VMPTRLD_VMXON_POINTER);
    if (this.#context.physical32(address) !== REVISION_ID || !this.cpu.memory.holds(address, PAGE_BYTES))
      return this.fail(VM_INSTRUCTION_ERROR.VMPTRLD_INCORRECT_VMCS_REVISION_ID);
    this.vmcs.point(address);
    this.cpu.trace?.emit({ kind: 'vmx', what: 'vmptrld', detail: `0x${address.toString(16)}` });
    return 'succeed';
  }

  /** VMPTRST: the current VMCS' address, or all ones. */
  vmptrst(): bigint {
    this.requireRoot();
    return this.vmcs.current ? BigInt(this.vmcs.address) : 0xffff_ffff_ffff_ffffn;
  }

  // ## Reading and writing fields

  /** The cell that VMREAD would read; a negative VM-instruction error when there is none. */
  readableCell(encoding: number): number {
    const at = cellOf(encoding);
    return at < 0 ? -VM_INSTRUCTION_ERROR.UNSUPPORTED_VMCS_COMPONENT : at;
  }

  /** Likewise for VMWRITE, which refuses the read-only fields. */
  writableCell(encoding: number): number {
    const at = cellOf(encoding);
    // @clause vmx.insn.vmwrite-read-only
    if (at >= 0 && ((encoding >> 10) & 3) === READ_ONLY_TYPE) return -VM_INSTRUCTION_ERROR.VMWRITE_READ_ONLY_VMCS_COMPONENT;
    return at < 0 ? -VM_INSTRUCTION_ERROR.UNSUPPORTED_VMCS_COMPONENT : at;
  }

  #cell(what: 'VMREAD' | 'VMWRITE', encoding: number): number {
    if (!this.vmcs.current) throw new VmxAccessError(what, encoding, 'failInvalid', 'no current VMCS');
    const at = what === 'VMREAD' ? this.readableCell(encoding) : this.writableCell(encoding);
    if (at < 0) throw new VmxAccessError(what, encoding, this.fail(-at), instructionErrorName(-at));
    return at;
  }

  /** VMREAD. @throws VmxAccessError where the instruction fails. */
  vmread(encoding: number): bigint {
    const at = this.#cell('VMREAD', encoding);
    return fieldBytes(encoding) === 8 ? this.vmcs.read64(at) : BigInt(this.vmcs.read32(at));
  }

  /** VMREAD of the low 32 bits, without making a bigint. */
  vmread32(encoding: number): number {
    return this.vmcs.read32(this.#cell('VMREAD', encoding));
  }

  /** VMWRITE. Bits beyond the field's width are ignored. @throws VmxAccessError where the instruction fails. */
  vmwrite(encoding: number, value: bigint): void {
    const at = this.#cell('VMWRITE', encoding);
    this.writeCell(encoding, at, lowHalf(value), highHalf(value));
  }

  /** VMWRITE of an unsigned 32-bit value, zero-extended, without making a bigint. */
  vmwrite32(encoding: number, value: number): void {
    this.writeCell(encoding, this.#cell('VMWRITE', encoding), value, 0);
  }

  /** Writes a field whose cell is known, and notes what a change makes stale. */
  writeCell(encoding: number, at: number, low: number, high: number): void {
    const { vmcs } = this;
    const bytes = fieldBytes(encoding);
    const before = vmcs.read32(at);
    const after = (bytes === 2 ? low & 0xffff : low) >>> 0;
    let changed = before !== after;
    vmcs.write32(at, after);
    if (bytes === 8) {
      changed ||= vmcs.high32(at) !== high >>> 0;
      vmcs.write32(at + 4, high);
    }
    if (changed) this.#note(at, before ^ after);
  }

  #note(at: number, difference: number): void {
    const known = this.#stale.get(this.vmcs.address);
    if (known === undefined) return; // everything will be checked anyway
    let stale = staleOfCell[at >> 3] as number;
    if (at === AT.CPU_BASED_VM_EXEC_CONTROL && (difference & ~FLIPPED) === 0) stale = STALE.REFRESH;
    if ((known | stale) !== known) this.#stale.set(this.vmcs.address, known | stale);
  }

  // ## Entering the guest

  /** VMLAUNCH by TypeScript. When it answers `entered`, `Cpu.run` runs the guest. */
  vmlaunch(): EntryOutcome {
    return this.enter(false, 'typescript');
  }
  /** VMRESUME by TypeScript. */
  vmresume(): EntryOutcome {
    return this.enter(true, 'typescript');
  }

  /** VM entry by either kind of hypervisor. */
  enter(resume: boolean, host: 'typescript' | 'x86'): EntryOutcome {
    this.requireRoot();
    const { cpu, vmcs } = this;
    const { state } = cpu;
    if (!vmcs.current) return 'failInvalid';
    // @clause vmx.entry.mov-ss
    if (state.get32(OFFSET.SHADOW) & INTERRUPTIBILITY.mask.MOV_SS) return this.fail(VM_INSTRUCTION_ERROR.ENTRY_EVENTS_BLOCKED_BY_MOV_SS);
    // @clause vmx.entry.launch-state
    const launched = vmcs.read32(REGION.LAUNCH_STATE) === LAUNCH_STATE.LAUNCHED;
    if (!resume && launched) return this.fail(VM_INSTRUCTION_ERROR.VMLAUNCH_NONCLEAR_VMCS);
    if (resume && !launched) return this.fail(VM_INSTRUCTION_ERROR.VMRESUME_NONLAUNCHED_VMCS);

    this.#host = host;
    this.#context.hostIsLong = (state.low32(OFFSET.EFER) & EFER.LMA) !== 0;
    if (this.#context.hostIsLong !== this.#checkedForLongHost) this.#stale.clear();
    const stale = this.#stale.get(vmcs.address) ?? STALE.ALL;
    const injects = (vmcs.read32(AT.VM_ENTRY_INTR_INFO_FIELD) & INTR_INFO.mask.VALID) !== 0;
    const tprShadow = (vmcs.read32(AT.CPU_BASED_VM_EXEC_CONTROL) & CPU_BASED.mask.TPR_SHADOW) !== 0; // its threshold is compared with memory

    // @clause vmx.entry.order
    const mistake = ((stale & STALE.CONTROLS || tprShadow) && this.#violation(CONTROL_CHECKS)) || (injects && this.#violation(INJECTION_CHECKS));
    if (mistake) return this.fail(VM_INSTRUCTION_ERROR.ENTRY_INVALID_CONTROL_FIELD);
    if (stale & STALE.HOST && this.#violation(HOST_CHECKS)) return this.fail(VM_INSTRUCTION_ERROR.ENTRY_INVALID_HOST_STATE_FIELD);
    if (stale & STALE.CONTROLS || this.#compiledFor !== vmcs.address) {
      this.intercepts.compile(vmcs, (vmcs.read32(AT.VM_EXIT_CONTROLS) & EXIT.mask.ACK_INTR_ON_EXIT) !== 0);
      this.#compiledFor = vmcs.address;
    } else if (stale & STALE.REFRESH) this.intercepts.refresh(vmcs);
    // Without EPT the page-directory pointers come from guest memory, which may have changed without any VMWRITE.
    const wrong = ((stale & STALE.GUEST || this.intercepts.ept === null) && this.#violation(GUEST_CHECKS)) || this.#violation(ACTIVITY_CHECKS);
    if (wrong) {
      this.#compiledFor = -1;
      return this.#failed(EXIT_REASON.INVALID_STATE, wrong.qualification ?? ENTRY_FAILURE.DEFAULT);
    }
    this.#checkedForLongHost = this.#context.hostIsLong;
    this.#stale.set(vmcs.address, 0);

    loadGuestState(cpu, vmcs);
    const badMsr = loadMsrs(cpu, vmcs.readNumber(AT.VM_ENTRY_MSR_LOAD_ADDR), vmcs.read32(AT.VM_ENTRY_MSR_LOAD_COUNT));
    if (badMsr !== 0) return this.#failed(EXIT_REASON.MSR_LOAD_FAIL, badMsr);

    if (!resume) vmcs.write32(REGION.LAUNCH_STATE, LAUNCH_STATE.LAUNCHED);
    this.nonRoot = true;
    cpu.intercepts = this.intercepts;
    this.#prepareEvent(injects);
    cpu.debugChanged();
    const keep = this.#kept.matches(this);
    this.#kept.valid = false;
    if (!keep) cpu.flushTranslations('vmentry');
    cpu.eventsChanged();
    return 'entered';
  }

  #violation(checks: readonly Check[]): Check | null {
    const check = firstViolation(checks, this.vmcs, this.#context);
    if (check) this.cpu.trace?.emit({ kind: 'vmx', what: 'entry_failed', detail: check.clause });
    return check;
  }

  #failed(reason: number, qualification: number): EntryOutcome {
    const { cpu } = this;
    const completed = entryFailure(cpu, this.vmcs, reason, qualification);
    cpu.debugChanged();
    this.#forgetTranslations();
    return completed ? 'exited' : this.#abort();
  }

  // ## Events at entry
  //
  // A VM entry can put one event into the guest, exactly as if it had arrived at that moment: vectored through the *guest's* IDT, with the guest's
  // stack switch and
  // privilege checks, all done by the processor. Before the first instruction, and with no window in which something else could get in between. For
  // an interrupt of type "software" the processor also needs the length of the INT n that it pretends to have executed.

  #prepareEvent(injects: boolean): void {
    const { vmcs } = this;
    const { state } = this.cpu;
    this.#injection = null;
    this.#trapBeforeFirst = false;
    this.#pendingDebug = 0;
    if (!injects) {
      const pending = vmcs.read32(AT.GUEST_PENDING_DBG_EXCEPTIONS);
      if (pending !== 0 && (state.get32(OFFSET.SHADOW) & INTERRUPTIBILITY.mask.MOV_SS) === 0) this.#pendingDebug = pending;
      return;
    }
    const info = vmcs.read32(AT.VM_ENTRY_INTR_INFO_FIELD);
    const type = INTR_INFO.get(info, 'TYPE');
    // @clause vmx.entry.inject-pending-mtf
    if (type === EVENT_TYPE.OTHER) {
      this.#trapBeforeFirst = true;
      return;
    }
    const software = type >= EVENT_TYPE.SOFTWARE_INTERRUPT;
    this.#injection = {
      vector: info & 0xff,
      type,
      errorCode: info & INTR_INFO.mask.DELIVER_CODE ? vmcs.read32(AT.VM_ENTRY_EXCEPTION_ERROR_CODE) : null,
      instructionLength: software ? vmcs.read32(AT.VM_ENTRY_INSTRUCTION_LEN) : 0,
    };
    // An injected event ends the guest's waiting, and the shadow of STI or MOV SS with it.
    // @clause vmx.entry.inject-wakes
    state.set32(OFFSET.ACTIVITY, 0);
    state.set32(OFFSET.SHADOW, state.get32(OFFSET.SHADOW) & ~(INTERRUPTIBILITY.mask.STI | INTERRUPTIBILITY.mask.MOV_SS));
  }

  /** Something is to be done before the guest's first instruction. */
  get entryPending(): boolean {
    return this.#injection !== null || this.#trapBeforeFirst || this.#pendingDebug !== 0;
  }

  /** The event to deliver before the first instruction, once. May throw a VmExit instead: a pending monitor trap. */
  takeInjection(): DeliveredEvent | null {
    if (this.#trapBeforeFirst) {
      this.#trapBeforeFirst = false;
      this.monitorTrapExit();
    }
    const event = this.#injection;
    this.#injection = null;
    return event;
  }

  /** DR6 bits of a debug exception that was pending when the guest last stopped, once; 0 for none. */
  takePendingDebug(): number {
    const pending = this.#pendingDebug;
    this.#pendingDebug = 0;
    return pending & 0x400f;
  }

  /** The boundary after an instruction (or an event delivery) with the monitor trap flag set. */
  monitorTrapExit(): never {
    throw new VmExit(EXIT_REASON.MONITOR_TRAP_FLAG);
  }

  // ## Leaving the guest

  /** Performs a VM exit. `Cpu.run` calls it with every VmExit that reaches it. */
  exit(exit: VmExit): ExitOutcome {
    const { cpu, vmcs } = this;
    const noted = this.#host === 'typescript' && this.#kept.note(this);
    const completed = vmExit(cpu, vmcs, exit, this.intercepts.virtualNmis);
    this.nonRoot = false;
    cpu.intercepts = null;
    this.#injection = null;
    this.#pendingDebug = 0;
    cpu.debugChanged();
    if (noted) this.#kept.valid = true;
    else this.#forgetTranslations();
    cpu.eventsChanged();
    return completed ? this.#host : this.#abort();
  }

  // After a VM exit to TypeScript no root-mode instruction is executed, so with a VPID the guest's translations may stay, as they do in hardware.
  // Whoever does
  // run instructions or read linear addresses in root operation has to say so first.

  /** Root-mode code is about to use linear addresses: forget the guest's translations. */
  beforeRootCode(): void {
    if (this.#kept.valid) this.#forgetTranslations();
  }

  #forgetTranslations(): void {
    this.#kept.valid = false;
    this.cpu.flushTranslations('vmexit');
  }

  // A VM exit that cannot be completed has no one to report to: neither the guest nor the host can be trusted to run. The core shuts down.
  #abort(): 'abort' {
    this.nonRoot = false;
    this.cpu.intercepts = null;
    this.cpu.state.set32(OFFSET.ACTIVITY, 2);
    return 'abort';
  }

  /** A decoded VMX instruction, in any mode and operation. Throws Fault or VmExit. */
  execute(op: SystemOp, insn: Instruction): void {
    executeVmx(this, op, insn);
  }

  // ## Invalidating translations

  /** INVEPT: `type` 1 one EPT pointer, 2 all. */
  invept(type: number, eptPointer: bigint): VmxStatus {
    this.requireRoot();
    // @clause vmx.insn.invept
    const low = Number(eptPointer & 0xfffn);
    const valid = (low & EPTP.MEMORY_TYPE) === EPTP.WB || (low & EPTP.MEMORY_TYPE) === EPTP.UC;
    const fits = valid && (low & EPTP.WALK_LENGTH) >> EPTP.WALK_LENGTH_SHIFT === 3 && (low & EPTP.RESERVED) === 0;
    const inRange = eptPointer < 1n << BigInt(this.#context.physicalAddressBits);
    if (type !== 2 && (type !== 1 || !fits || !inRange)) return this.fail(VM_INSTRUCTION_ERROR.INVALID_OPERAND_TO_INVEPT_INVVPID);
    this.#forgetTranslations();
    return 'succeed';
  }

  /** INVVPID: `type` 0 one address, 1 one VPID, 2 all, 3 one VPID but not its global translations. */
  invvpid(type: number, vpid: number, linear: bigint): VmxStatus {
    this.requireRoot();
    // @clause vmx.insn.invvpid
    const top = BigInt.asIntN(64, linear) >> 47n;
    const bad = type > 3 || type < 0 || (type !== 2 && vpid === 0) || vpid > 0xffff || (type === 0 && top !== 0n && top !== -1n);
    if (bad) return this.fail(VM_INSTRUCTION_ERROR.INVALID_OPERAND_TO_INVEPT_INVVPID);
    this.#forgetTranslations();
    return 'succeed';
  }
}
