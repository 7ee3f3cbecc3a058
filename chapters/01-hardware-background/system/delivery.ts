// # Delivering an event
//
// Exceptions, external interrupts and INT n differ in where they come from. Where they *go* is one mechanism: a vector number indexes a table, the
// table's entry names code, and the processor saves enough on a stack to come back. In real mode the table is an array of far pointers at address
// 0. In protected mode it is an array of gates, and delivery becomes a call through a gate that the program did not ask for. That has a hard
// consequence: every check that can fail during a far call can fail here, *while the processor is already busy with an exception*. What then
// happens is the business of `exceptions.ts`; here a fault simply propagates.
//
// ::figure interrupt-frame -- What the handler finds on its stack, by mode and by the kind of event: six deliveries, each executed and then looked at.

import type { Cpu } from '../cpu.ts';
import { readFlags, writeFlags } from '../engine/flags.ts';
import { Fault, generalProtection, notPresent, VECTOR } from '../faults.ts';
import { PRIVILEGE } from '../mmu/mmu.ts';
import { canonicalHigh } from '../mmu/paging.ts';
import { highHalf, lowHalf } from '../physical-memory.ts';
import { AR, CR4, FLAG, OFFSET, SEG, SLOT } from '../state.ts';
import { EVENT_TYPE } from '../vmx/processor.ts';
import {
  clearSegment,
  type Descriptor,
  dplOf,
  enterCode,
  isCode,
  isConforming,
  isNull,
  loadRealSegment,
  markAccessed,
  readDescriptor,
  readEntry,
  SYSTEM_TYPE,
  selectorError,
  upperHalf,
} from './descriptors.ts';
import { withVif } from './flag-ops.ts';
import { currentStack, longMode, longStack, protectedMode, virtual8086 } from './segmentation.ts';
import { switchTask } from './task-switch.ts';
import { innerStack, loadInnerStack, Tss32 } from './tss.ts';

/** An event on its way through the IDT. */
export interface Event {
  readonly vector: number;
  /** One of EVENT_TYPE. */
  readonly type: number;
  readonly errorCode: number | null;
  /** Where the handler will return to. */
  readonly returnTo: bigint;
  /** The image of RFLAGS to push has RF set: faults. */
  readonly resume: boolean;
}

/** INT n, INT3 and INTO: the program asked, so the gate's DPL decides whether it may. */
const isSoftware = (type: number): boolean => type === EVENT_TYPE.SOFTWARE_INTERRUPT || type === EVENT_TYPE.SOFTWARE_EXCEPTION;

// An instruction that interrupts has been executed when the handler is entered, so RF, which an IRET may have set for it, has done its duty. INT1 is another.
// @clause x86.debug.breakpoints
/** RFLAGS as the handler's frame has them. */
function savedFlags({ type, resume }: Event, flags: number): number {
  if (resume) return flags | FLAG.RF;
  return isSoftware(type) || type === EVENT_TYPE.PRIVILEGED_SOFTWARE_EXCEPTION ? flags & ~FLAG.RF : flags;
}

const IDT_FLAG = 2; // in an error code: the index is one into the IDT
const EXT_FLAG = 1; // the event did not come from the program
const GATE_SIZE_16 = 8; // bit of a gate's type: clear for the 80286's formats

/** Takes the processor to the handler of `event`. @throws Fault when something on the way fails; nothing has changed then but memory below stack pointers. */
export function deliver(cpu: Cpu, event: Event): void {
  if (!protectedMode(cpu) && !virtual8086(cpu)) {
    deliverReal(cpu, event);
    return;
  }
  try {
    deliverThroughGate(cpu, event);
  } catch (fault) {
    // @clause x86.exception.ext-bit
    if (fault instanceof Fault && !isSoftware(event.type) && namesSelector(fault.vector))
      throw new Fault(fault.vector, (fault.errorCode ?? 0) | EXT_FLAG);
    throw fault;
  }
}

const namesSelector = (vector: number): boolean => vector === VECTOR.TS || vector === VECTOR.NP || vector === VECTOR.SS || vector === VECTOR.GP;

// ## Real mode
//
// Three words, no checks but limits, and no error code: the 8086 had none, and its handlers would not know to pop one.

// @clause x86.real.interrupt
function deliverReal(cpu: Cpu, { vector, returnTo }: Event): void {
  const { state } = cpu;
  // @clause x86.interrupt.real-mode-limit
  if (4 * vector + 3 > state.get32(OFFSET.IDTR_LIMIT)) throw generalProtection();
  const pointer = cpu.mmu.load((state.low32(OFFSET.IDTR_BASE) + 4 * vector) >>> 0, 0, 4, PRIVILEGE.SYSTEM);
  const flags = readFlags(state);
  const stack = currentStack(cpu);
  stack.push(flags, 2);
  stack.push(state.segSelector(SEG.CS), 2);
  stack.push(lowHalf(returnTo), 2);
  stack.commit();
  writeFlags(state, flags & ~(FLAG.IF | FLAG.TF | FLAG.AC | FLAG.RF));
  loadRealSegment(cpu, SEG.CS, pointer >>> 16);
  arrive(cpu, pointer & 0xffff, 0);
}

// ## Interrupts of an 8086 program
//
// With CR4.VME an INT n in virtual-8086 mode need not involve the monitor at all. The TSS has a bitmap, below that of the ports, with a bit for each vector.
// Where it is clear the interrupt is an 8086's, through the table at address 0 of the program's own memory. DOS calls itself this way, and most often.

const REDIRECTION_BYTES = 32;

// @clause x86.vme.redirection
/** Delivers INT `vector` by the program's own table if the bitmap says so. */
export function redirect(cpu: Cpu, vector: number, returnTo: number): boolean {
  const { state } = cpu;
  if (!virtual8086(cpu) || (state.low32(OFFSET.CR4) & CR4.VME) === 0) return false;
  const limit = state.segLimit(SEG.TR);
  const mapAt = Tss32.fields.ioMap.offset;
  if (limit < mapAt + 1) throw generalProtection();
  const base = state.segBaseLow(SEG.TR);
  const entry = cpu.mmu.load((base + mapAt) >>> 0, 0, 2, PRIVILEGE.SYSTEM) - REDIRECTION_BYTES + (vector >> 3);
  if (entry < 0 || entry > limit) throw generalProtection();
  if ((cpu.mmu.load((base + entry) >>> 0, 0, 1, PRIVILEGE.SYSTEM) >> (vector & 7)) & 1) return false;
  const pointer = cpu.mmu.load(4 * vector, 0, 4, PRIVILEGE.SYSTEM);
  const flags = readFlags(state);
  const own = (flags & FLAG.IOPL) === FLAG.IOPL;
  const stack = currentStack(cpu);
  stack.push(own ? flags : withVif(flags), 2);
  stack.push(state.segSelector(SEG.CS), 2);
  stack.push(returnTo, 2);
  stack.commit();
  writeFlags(state, flags & ~(FLAG.TF | FLAG.RF | (own ? FLAG.IF : FLAG.VIF)));
  loadRealSegment(cpu, SEG.CS, pointer >>> 16);
  state.setSlotHalves(SLOT.NEXT_RIP, pointer & 0xffff, 0);
  cpu.modeChanged();
  return true;
}

function arrive(cpu: Cpu, offset: number, offsetHigh: number): void {
  cpu.state.setSlotHalves(SLOT.RIP, offset, offsetHigh);
  cpu.state.setSlotHalves(SLOT.NEXT_RIP, offset, offsetHigh);
  cpu.modeChanged();
}

// ## Through a gate

function deliverThroughGate(cpu: Cpu, event: Event): void {
  const { state } = cpu;
  const { vector } = event;
  const long = longMode(cpu);
  // @clause x86.compat.interrupt
  const gateBytes = long ? 16 : 8;
  const gateError = (vector << 3) | IDT_FLAG;
  // @clause x86.exception.idt-error-code
  if (vector * gateBytes + gateBytes - 1 > state.get32(OFFSET.IDTR_LIMIT)) throw generalProtection(gateError);
  const base = state.low32(OFFSET.IDTR_BASE);
  const at = (base + vector * gateBytes) >>> 0;
  const atHigh = upperHalf(cpu, base, state.low32(OFFSET.IDTR_BASE + 4), at);
  const gate = readEntry(cpu, 0, at, atHigh);
  const type = gate.rights & (AR.S | AR.TYPE);
  const known = long
    ? type === SYSTEM_TYPE.INTERRUPT_GATE || type === SYSTEM_TYPE.TRAP_GATE
    : type === SYSTEM_TYPE.INTERRUPT_GATE ||
      type === SYSTEM_TYPE.TRAP_GATE ||
      type === SYSTEM_TYPE.INTERRUPT_GATE16 ||
      type === SYSTEM_TYPE.TRAP_GATE16 ||
      type === SYSTEM_TYPE.TASK_GATE;
  // @clause x86.exception.idt-error-code
  if (!known) throw generalProtection(gateError);
  // @clause x86.gate.dpl
  if (isSoftware(event.type) && dplOf(gate.rights) < cpu.cpl) throw generalProtection(gateError);
  if ((gate.rights & AR.P) === 0) throw notPresent(gateError);
  if (type === SYSTEM_TYPE.TASK_GATE) {
    deliverThroughTaskGate(cpu, gate, event);
    return;
  }
  const wide = (type & GATE_SIZE_16) !== 0;
  const offset = ((gate.lo & 0xffff) | (wide ? gate.hi & 0xffff0000 : 0)) >>> 0;
  const second = (at + 8) >>> 0;
  const offsetHigh = long ? cpu.mmu.load(second, upperHalf(cpu, at, atHigh, second), 4, PRIVILEGE.SYSTEM) : 0;
  const code = handlerCode(cpu, gate.lo >>> 16);
  const ist = long ? gate.hi & 7 : 0;
  const frame: Frame = { event, code, offset, offsetHigh, size: long ? 8 : wide ? 4 : 2, ist };
  enterHandler(cpu, frame, (type & 1) === 0);
}

/** Judges the code segment of a gate. */
function handlerCode(cpu: Cpu, selector: number): Descriptor {
  // @clause x86.gate.target
  if (isNull(selector)) throw generalProtection();
  const d = readDescriptor(cpu, selector);
  const code = selectorError(selector);
  if (!isCode(d.rights) || dplOf(d.rights) > cpu.cpl) throw generalProtection(code);
  if (longMode(cpu) && (d.rights & (AR.L | AR.DB)) !== AR.L) throw generalProtection(code);
  if ((d.rights & AR.P) === 0) throw notPresent(code);
  return d;
}

interface Frame {
  readonly event: Event;
  readonly code: Descriptor;
  readonly offset: number;
  readonly offsetHigh: number;
  readonly size: 2 | 4 | 8;
  readonly ist: number;
}

// Which stack? A more privileged handler gets the one that the TSS names. In 64-bit mode a gate may also demand one of the IST stacks whatever the
// privilege, for events that must not trust *any* current stack: double fault, NMI, machine check. And in 64-bit mode the frame is always
// aligned to 16 bytes and always has SS and RSP in it, changed or not, so handlers need not ask.
//
// ::figure stack-switch -- From CPL 3 to CPL 0: every access of one delivery, in order. SS0 is read twice: the first time only to learn that the TSS is long enough.

function enterHandler(cpu: Cpu, frame: Frame, clearIf: boolean): void {
  const { state } = cpu;
  const { event, code, offset, offsetHigh, size } = frame;
  const flags = readFlags(state);
  const v86 = (flags & FLAG.VM) !== 0;
  const dpl = dplOf(code.rights);
  const inner = !isConforming(code.rights) && dpl < cpu.cpl;
  // A v86 task may only be interrupted into ring 0, for only there can the segment registers of the 8086 world be saved and restored.
  // @clause x86.v86.ring0
  if (v86 && (!inner || dpl !== 0)) throw generalProtection(selectorError(code.selector));
  const cpl = inner ? dpl : cpu.cpl;
  // @clause x86.gate.inner-stack
  const other = inner || frame.ist > 0 ? innerStack(cpu, cpl, frame.ist) : null;
  const stack = other ? other.stack : size === 8 ? longStack(cpu, state.slot32(SLOT.RSP), state.slotHigh(SLOT.RSP), cpl) : currentStack(cpu);
  // @clause x86.gate.long-stack
  if (size === 8) stack.low = (stack.low & ~0xf) >>> 0;
  const words = 3 + (event.errorCode === null ? 0 : 1) + (inner || size === 8 ? 2 : 0) + (v86 ? 4 : 0);
  stack.reserve(words * size);
  // @clause x86.gate.offset
  if (size === 8 ? !canonicalHigh(offsetHigh, state.get32(OFFSET.CANONICAL_SHIFT)) : offset > code.limit) throw generalProtection();
  // @clause x86.v86.frame
  if (v86) for (const seg of [SEG.GS, SEG.FS, SEG.DS, SEG.ES]) stack.push(state.segSelector(seg), size);
  // @clause x86.gate.frame
  if (inner || size === 8) {
    stack.push(state.segSelector(SEG.SS), size);
    stack.push(state.slot32(SLOT.RSP), size, state.slotHigh(SLOT.RSP));
  }
  stack.push(savedFlags(event, flags), size);
  stack.push(state.segSelector(SEG.CS), size);
  stack.push(lowHalf(event.returnTo), size, highHalf(event.returnTo));
  if (event.errorCode !== null) stack.push(event.errorCode, size);
  if (other && inner) loadInnerStack(cpu, other, cpl);
  markAccessed(cpu, code);
  // @clause x86.gate.flags
  writeFlags(state, flags & ~(FLAG.TF | FLAG.VM | FLAG.RF | FLAG.NT | (clearIf ? FLAG.IF : 0)));
  enterCode(cpu, code, cpl);
  stack.commit();
  if (v86) for (const seg of [SEG.GS, SEG.FS, SEG.DS, SEG.ES]) clearSegment(cpu, seg, 0);
  arrive(cpu, offset, offsetHigh);
}

// ## Through a task gate
//
// The most thorough way to distrust the interrupted program: change everything, by a hardware task switch. 32-bit Linux handled double faults this
// way.

function deliverThroughTaskGate(cpu: Cpu, gate: Descriptor, event: Event): void {
  cpu.state.setSlot(SLOT.NEXT_RIP, event.returnTo);
  switchTask(cpu, { ...gate, selector: gate.lo >>> 16 }, 'idt', 0, event.errorCode);
}
