// # Switching tasks for the guest
//
// A hardware task switch changes everything at once, the page tables included, and so it always exits: what the processor would have to guard on the
// way is exactly what a hypervisor wants to have in its own hands. The exit says where to (a selector) and why (a jump, a call, IRET, a gate in the
// IDT), and KVM does the work of the microcode: `emulator_task_switch()`.
//
// The steps are those of chapter 1, and so is their code. It asks for a processor with registers and memory; here the registers are a copy of what the
// VMCS holds, and memory is the guest's, found by walking the guest's tables. Whatever comes of it, the copy goes back: a switch that is refused has
// not changed it, and a fault after the point of no return belongs to the new task.

import { readFlags, writeFlags } from '../../01-hardware-background/engine/flags.ts';
import { Fault, VECTOR } from '../../01-hardware-background/faults.ts';
import { ACCESS, PRIVILEGE } from '../../01-hardware-background/mmu/mmu.ts';
import { type Gpa, PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { AR, CpuState, EFER, FLAG, OFFSET, SEG, SLOT } from '../../01-hardware-background/state.ts';
import type { Descriptor } from '../../01-hardware-background/system/descriptors.ts';
import { join } from '../../01-hardware-background/system/segmentation.ts';
import { switchTask, type TaskProcessor, type TaskSource } from '../../01-hardware-background/system/task-switch.ts';
import { INTERRUPTIBILITY, INTR_INFO } from '../../01-hardware-background/vmx/exit-reasons.ts';
import { EVENT_TYPE } from '../../01-hardware-background/vmx/processor.ts';
import { FIELD } from '../../01-hardware-background/vmx/vmcs.ts';
import { GUESTDBG } from '../../02-kvm-objects/abi/events.ts';
import { loadPdptrs } from '../../02-kvm-objects/soft/control-registers.ts';
import { type Paging, pagingOf, walkGuest } from '../../02-kvm-objects/soft/guest-walk.ts';
import type { Hardware } from '../../02-kvm-objects/soft/hardware.ts';
import { SEGMENT_FIELDS, type SegmentFields, type SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import { singleStepAfterSkip } from './debug.ts';
import { queueException } from './events.ts';
import { modeOf } from './mode.ts';
import type { VcpuRun } from './run.ts';
import { clearShadow } from './skip.ts';

const SEGMENTS = [SEG.ES, SEG.CS, SEG.SS, SEG.DS, SEG.FS, SEG.GS, SEG.LDTR, SEG.TR] as const;
const U32 = 0xffff_ffffn;

/** A task's tables or its segment lie where no memory is: no processor that KVM supports could tell the VMM. */
class Unbacked extends Error {}

// ## A processor for one switch

/** What chapter 1's code takes for a processor. One for the kernel, used for one vCPU at a time. */
export class TaskSwitcher implements TaskProcessor {
  readonly state: CpuState;
  readonly mmu: TaskProcessor['mmu'];
  readonly intercepts = null;
  readonly #hardware: Hardware;
  #vcpu!: SoftVcpu;
  #newTables = false;
  #traps = 0;

  constructor(hardware: Hardware) {
    this.#hardware = hardware;
    this.state = new CpuState(hardware.memory);
    const read = (linear: bigint, bytes: number, privilege: number): bigint => this.#read(linear, bytes, privilege);
    const write = (linear: bigint, bytes: number, value: bigint, privilege: number): void => this.#write(linear, bytes, value, privilege);
    this.mmu = {
      inspect: null,
      read,
      read32: (linear, bytes, privilege) => Number(read(linear, bytes, privilege)),
      load: (low, high, bytes, privilege) => Number(read(join(high, low), bytes, privilege)),
      write,
      store: (low, high, bytes, value, _upper, privilege) => write(join(high, low), bytes, BigInt(value >>> 0), privilege),
      probe: (linear, bytes, access, privilege) => {
        this.#find(linear, access === ACCESS.WRITE, privilege);
        this.#find((linear + BigInt(bytes - 1)) & U32, access === ACCESS.WRITE, privilege);
      },
      loadPdptes: (cr3) => loadPdptrs(this.#vcpu, cr3),
      flushNonGlobal: () => {
        this.#newTables = true;
      },
    };
  }

  get cpl(): number {
    return this.state.get32(OFFSET.CPL);
  }
  wrapLinear(linear: bigint): bigint {
    return linear & U32; // there are no task switches in long mode
  }
  trapAfter(conditions: number): void {
    this.#traps |= conditions;
  }
  modeChanged(): void {
    this.state.set32(OFFSET.MODE, modeOf(this.state));
  }
  debugChanged(): void {}

  /** Switches. The fault that is due, if any; conditions of a #DB before the new task's first instruction. */
  switch(vcpu: SoftVcpu, target: number, source: TaskSource, returnTo: bigint, errorCode: number | null): { fault: Fault | null; traps: number } {
    this.#vcpu = vcpu;
    this.#newTables = false;
    this.#traps = 0;
    this.#copyIn(returnTo);
    const selector: Descriptor = { selector: target, at: 0, atHigh: 0, lo: 0, hi: 0, base: 0, limit: 0, rights: 0 };
    let fault: Fault | null = null;
    try {
      switchTask(this, selector, source, 0, errorCode);
    } catch (thrown) {
      if (!(thrown instanceof Fault)) throw thrown;
      fault = thrown;
    }
    this.#copyOut();
    return { fault, traps: this.#traps };
  }

  // ## Registers, in and out

  #copyIn(returnTo: bigint): void {
    const vcpu = this.#vcpu;
    const { state } = this;
    const hardware = this.#hardware;
    state.u64.set(vcpu.regs, SLOT.RAX);
    state.setSlot(SLOT.RSP, hardware.read(FIELD.GUEST_RSP));
    state.setSlot(SLOT.RIP, vcpu.rip);
    state.setSlot(SLOT.NEXT_RIP, returnTo);
    writeFlags(state, Number(vcpu.rflags));
    for (const seg of SEGMENTS) {
      const fields = SEGMENT_FIELDS[seg] as SegmentFields;
      state.setSegBase(seg, hardware.read(fields.base));
      state.setSegLimit(seg, hardware.read32(fields.limit));
      state.setSegRights(seg, hardware.read32(fields.rights));
      state.setSegSelector(seg, hardware.read32(fields.selector));
    }
    state.set64(OFFSET.GDTR_BASE, hardware.read(FIELD.GUEST_GDTR_BASE));
    state.set32(OFFSET.GDTR_LIMIT, hardware.read32(FIELD.GUEST_GDTR_LIMIT));
    state.set64(OFFSET.CR0, vcpu.cr0);
    state.set64(OFFSET.CR3, vcpu.cr3);
    state.set64(OFFSET.CR4, vcpu.cr4);
    state.set64(OFFSET.EFER, vcpu.efer & ~BigInt(EFER.LMA));
    state.set64(OFFSET.DR7, vcpu.dr7);
    state.set32(OFFSET.CPL, (state.segRights(SEG.SS) & AR.DPL) >> AR.DPL_SHIFT);
    this.modeChanged();
  }

  #copyOut(): void {
    const vcpu = this.#vcpu;
    const { state } = this;
    vcpu.regs.set(state.u64.subarray(SLOT.RAX, SLOT.RAX + 16));
    vcpu.setReg(SLOT.RSP, state.slot(SLOT.RSP));
    vcpu.rip = state.slot(SLOT.RIP);
    vcpu.rflags = BigInt(readFlags(state) >>> 0);
    this.#nameLevel();
    for (const seg of SEGMENTS) vcpu.setSegment(seg, state.segSelector(seg), state.segBase(seg), state.segLimit(seg), state.segRights(seg));
    if (this.#newTables) {
      vcpu.cr3 = state.get64(OFFSET.CR3);
      vcpu.vm.mmu.newCr3(vcpu, false);
    }
    if (state.get64(OFFSET.CR0) !== vcpu.cr0) vcpu.writeCr0(state.get64(OFFSET.CR0));
    vcpu.dr7 = state.get64(OFFSET.DR7);
    vcpu.updateDr7();
  }

  // A processor whose new code segment has been refused is between two programs, and is about to deliver a fault. VM entry knows no such state: CS has to be
  // code, and the privilege level stands in the rights of SS. The old code segment's hidden half serves; nothing is executed in it.

  #nameLevel(): void {
    const { state } = this;
    const level = this.cpl << AR.DPL_SHIFT;
    if (state.segRights(SEG.SS) & AR.UNUSABLE) state.setSegRights(SEG.SS, (state.segRights(SEG.SS) & ~AR.DPL) | level);
    if ((state.segRights(SEG.CS) & AR.UNUSABLE) === 0) return;
    const { base, limit, rights } = SEGMENT_FIELDS[SEG.CS] as SegmentFields;
    state.setSegBase(SEG.CS, this.#hardware.read(base));
    state.setSegLimit(SEG.CS, this.#hardware.read32(limit));
    state.setSegRights(SEG.CS, (this.#hardware.read32(rights) & ~AR.DPL) | level);
  }

  // ## Guest memory

  #paging(): Paging {
    const { state } = this;
    return { ...pagingOf(this.#vcpu), cr3: state.get64(OFFSET.CR3) };
  }

  /** Guest physical address of one byte that is RAM. */
  #find(linear: bigint, write: boolean, privilege: number): Gpa {
    const { vm } = this.#vcpu;
    // An access of the processor's own ignores AC, and so SMAP holds.
    const acSet = privilege !== PRIVILEGE.SYSTEM && (this.state.get32(OFFSET.RFLAGS) & FLAG.AC) !== 0;
    const walked = walkGuest(vm, this.#paging(), linear, { write, fetch: false, user: privilege === PRIVILEGE.USER, acSet });
    if (!('gpa' in walked)) throw new Fault(VECTOR.PF, walked.errorCode, linear);
    if (vm.hpaOf(walked.gpa, false) < 0) throw new Unbacked();
    return walked.gpa;
  }

  /** The pieces of an access that lie in one page each. */
  *#pieces(linear: bigint, bytes: number, write: boolean, privilege: number): Generator<{ gpa: Gpa; from: number; bytes: number }> {
    const first = Math.min(bytes, PAGE_BYTES - Number(linear & BigInt(PAGE_BYTES - 1)));
    const one = this.#find(linear, write, privilege);
    const two = first < bytes ? this.#find((linear + BigInt(first)) & U32, write, privilege) : 0;
    yield { gpa: one, from: 0, bytes: first };
    if (first < bytes) yield { gpa: two, from: first, bytes: bytes - first };
  }

  #read(linear: bigint, bytes: number, privilege: number): bigint {
    const { vm } = this.#vcpu;
    const { memory } = this.#hardware;
    let value = 0n;
    for (const piece of this.#pieces(linear, bytes, false, privilege)) {
      const at = memory.offset(vm.hpaOf(piece.gpa, false), piece.bytes);
      for (let n = 0; n < piece.bytes; n++) value |= BigInt(memory.u8[at + n] as number) << BigInt(8 * (piece.from + n));
    }
    return value;
  }

  #write(linear: bigint, bytes: number, value: bigint, privilege: number): void {
    const { vm } = this.#vcpu;
    const { memory } = this.#hardware;
    for (const piece of this.#pieces(linear, bytes, true, privilege)) {
      const hpa = vm.hpaOf(piece.gpa, true);
      if (hpa < 0) throw new Unbacked();
      const at = memory.offset(hpa, piece.bytes);
      for (let n = 0; n < piece.bytes; n++) memory.u8[at + n] = Number((value >> BigInt(8 * (piece.from + n))) & 0xffn);
      vm.wroteGuest(piece.gpa, hpa, piece.bytes);
    }
  }
}

// ## The exit
//
// If a gate in the IDT led to the task, an event was being delivered, and the switch *is* its delivery. The event has been queued again with the exit, as every
// interrupted one; so it has to be taken back, or it would arrive twice. Where the old task goes on depends on it: after an INT n behind the
// instruction, after a fault before it.

const SOURCES: readonly TaskSource[] = ['call', 'iret', 'jmp', 'idt']; // by bits 31:30 of the qualification
const { VALID, DELIVER_CODE } = INTR_INFO.mask;

// @clause kvm.exit.task-switch
/** Linux: `handle_task_switch()`. */
export function handleTaskSwitch(run: VcpuRun, switcher: TaskSwitcher): number {
  const { vcpu } = run;
  const { hardware } = vcpu.vm;
  const qualification = hardware.read32(FIELD.EXIT_QUALIFICATION);
  const source = SOURCES[qualification >>> 30] as TaskSource;
  const vectoring = hardware.read32(FIELD.IDT_VECTORING_INFO_FIELD);
  const event = source === 'idt' && (vectoring & VALID) !== 0;
  const type = INTR_INFO.get(vectoring, 'TYPE');
  const asked = !event || (type !== EVENT_TYPE.HARDWARE_EXCEPTION && type !== EVENT_TYPE.EXTERNAL && type !== EVENT_TYPE.NMI);
  const errorCode = event && vectoring & DELIVER_CODE ? hardware.read32(FIELD.IDT_VECTORING_ERROR_CODE) : null;
  if (event) takeBack(vcpu, type);
  const next = asked ? (vcpu.rip + BigInt(hardware.read32(FIELD.VM_EXIT_INSTRUCTION_LEN))) & U32 : vcpu.rip;
  clearShadow(vcpu);
  try {
    const { fault, traps } = switcher.switch(vcpu, qualification & 0xffff, source, next, errorCode);
    if (fault) return run.queue(queueException(vcpu, fault.vector, fault.errorCode, fault.vector === VECTOR.PF ? fault.cr2 : null));
    if (traps) return run.queue(queueException(vcpu, VECTOR.DB, null, BigInt(traps)));
    return vcpu.guestDebug & GUESTDBG.KVM_GUESTDBG_SINGLESTEP ? singleStepAfterSkip(vcpu) : 1;
  } catch (thrown) {
    if (!(thrown instanceof Unbacked)) throw thrown;
    return run.internalError('KVM_INTERNAL_ERROR_EMULATION');
  }
}

/** The event has been delivered after all. An NMI blocks others until the new task's IRET. */
function takeBack({ events, vm: { hardware } }: SoftVcpu, type: number): void {
  if (type === EVENT_TYPE.NMI) {
    events.nmi.injected = false;
    hardware.write32(FIELD.GUEST_INTERRUPTIBILITY_INFO, hardware.read32(FIELD.GUEST_INTERRUPTIBILITY_INFO) | INTERRUPTIBILITY.mask.NMI);
  } else if (type === EVENT_TYPE.EXTERNAL || type === EVENT_TYPE.SOFTWARE_INTERRUPT) events.interrupt.injected = false;
  else events.exception.injected = false;
}
