// # Instructions about segments
//
// The everyday ones load and store selectors. The others answer questions: may I read this, how long is it, whose is it? They were meant for a ring 0
// that receives far pointers from outer rings, and they never fault on a bad selector: a wrong answer is ZF clear.

import type { Cpu } from '../cpu.ts';
import { readFlags, writeFlags } from '../engine/flags.ts';
import { Fault, generalProtection, notPresent, undefinedOpcode, VECTOR } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import { AR, CR4, FLAG, OFFSET, SEG } from '../state.ts';
import { EXIT_REASON } from '../vmx/exit-reasons.ts';
import {
  clearSegment,
  type Descriptor,
  dplOf,
  fillSegment,
  isCode,
  isConforming,
  isNull,
  loadSegment,
  readDescriptor,
  readUpperHalf,
  rplOf,
  SYSTEM_TYPE,
  selectorError,
  writeType,
} from './descriptors.ts';
import { descriptorTableExit } from './exit-information.ts';
import { loadFarPointer } from './far.ts';
import {
  canonicalForRegister,
  code64,
  currentStack,
  join,
  longMode,
  operandAddress,
  privilegeOf,
  protectedMode,
  readOperand,
  U16,
  U32,
  writeRegister,
  writeWordOperand,
} from './segmentation.ts';

export function movToSreg(cpu: Cpu, insn: Instruction): void {
  // @clause x86.exception.undefined-opcode
  if (insn.reg === SEG.CS || insn.reg > SEG.GS) throw undefinedOpcode();
  loadSegment(cpu, insn.reg, readOperand(cpu, insn, 2));
  loaded(cpu, insn.reg);
}

/** After a load: SS inhibits interrupts for one instruction, so that SS and SP can be set as a pair. */
function loaded(cpu: Cpu, seg: number): void {
  cpu.modeChanged();
  if (seg === SEG.SS) cpu.shadowMovSs();
}

export function movFromSreg(cpu: Cpu, insn: Instruction): void {
  if (insn.reg > SEG.GS) throw undefinedOpcode();
  writeWordOperand(cpu, insn, BigInt(cpu.state.segSelector(insn.reg)));
}

export function popSreg(cpu: Cpu, insn: Instruction): void {
  const stack = currentStack(cpu);
  const selector = stack.peek(0, 2);
  const size = code64(cpu) && insn.operandSize === 4 ? 8 : insn.operandSize;
  stack.skip(size);
  loadSegment(cpu, insn.target, selector);
  // A POP SS that changes the stack's width still moves the stack pointer that was in use.
  stack.commit();
  loaded(cpu, insn.target);
}

export function loadFar(cpu: Cpu, insn: Instruction): void {
  if (insn.mod === 3) throw undefinedOpcode();
  const offset = loadFarPointer(cpu, insn, loadSegment);
  writeRegister(cpu, insn.reg, insn.operandSize, offset);
  // LSS loads both halves at once, so there is nothing to inhibit.
  cpu.modeChanged();
}

// ## LDTR and TR

/** CPL 0 and protected mode, then the hypervisor, in that order. */
function requireSystem(cpu: Cpu, insn: Instruction, which: number): void {
  if (!protectedMode(cpu)) throw undefinedOpcode();
  if (cpu.cpl !== 0) throw generalProtection();
  descriptorTableExit(cpu, insn, EXIT_REASON.LDTR_TR, which);
}

// @clause x86.cr.umip
/** CR4.UMIP hides the tables' addresses from programs, which had used them to detect and to attack hypervisors. */
export function requireUmip(cpu: Cpu): void {
  if (cpu.cpl > 0 && cpu.state.low32(OFFSET.CR4) & CR4.UMIP) throw generalProtection();
}

export function sldt(cpu: Cpu, insn: Instruction): void {
  if (!protectedMode(cpu)) throw undefinedOpcode();
  requireUmip(cpu);
  descriptorTableExit(cpu, insn, EXIT_REASON.LDTR_TR, 0);
  writeWordOperand(cpu, insn, BigInt(cpu.state.segSelector(SEG.LDTR)));
}

export function str(cpu: Cpu, insn: Instruction): void {
  if (!protectedMode(cpu)) throw undefinedOpcode();
  requireUmip(cpu);
  descriptorTableExit(cpu, insn, EXIT_REASON.LDTR_TR, 1);
  writeWordOperand(cpu, insn, BigInt(cpu.state.segSelector(SEG.TR)));
}

export function lldt(cpu: Cpu, insn: Instruction): void {
  requireSystem(cpu, insn, 2);
  const selector = readOperand(cpu, insn, 2);
  if (isNull(selector)) {
    clearSegment(cpu, SEG.LDTR, selector);
    return;
  }
  const { d, baseHigh } = systemDescriptor(cpu, selector, [SYSTEM_TYPE.LDT]);
  fillSegment(cpu, SEG.LDTR, selector, d, baseHigh);
}

// @clause x86.descriptor.system-type
export function ltr(cpu: Cpu, insn: Instruction): void {
  requireSystem(cpu, insn, 3);
  const selector = readOperand(cpu, insn, 2);
  if (isNull(selector)) throw generalProtection();
  const { d, baseHigh } = systemDescriptor(cpu, selector, longMode(cpu) ? [SYSTEM_TYPE.TSS] : [SYSTEM_TYPE.TSS, SYSTEM_TYPE.TSS16]);
  const busy = d.rights | 2;
  writeType(cpu, d, busy);
  fillSegment(cpu, SEG.TR, selector, { ...d, rights: busy }, baseHigh);
}

/** A descriptor for LDTR or TR: in the global table, of the right type, present; in long mode with the upper half of its base. */
function systemDescriptor(cpu: Cpu, selector: number, types: readonly number[]): { d: Descriptor; baseHigh: number } {
  const code = selectorError(selector);
  if (selector & 4) throw generalProtection(code);
  const d = readDescriptor(cpu, selector);
  if (!types.includes(d.rights & (AR.S | AR.TYPE))) throw generalProtection(code);
  if (!longMode(cpu)) {
    if ((d.rights & AR.P) === 0) throw notPresent(code);
    return { d, baseHigh: 0 };
  }
  const baseHigh = readUpperHalf(cpu, d);
  if (!canonicalForRegister(cpu, join(baseHigh, d.base))) throw generalProtection(code);
  if ((d.rights & AR.P) === 0) throw notPresent(code);
  return { d, baseHigh };
}

// ## Questions

const LAR_TYPES = new Set<number>([
  SYSTEM_TYPE.TSS16,
  SYSTEM_TYPE.LDT,
  SYSTEM_TYPE.BUSY_TSS16,
  SYSTEM_TYPE.CALL_GATE16,
  SYSTEM_TYPE.TASK_GATE,
  SYSTEM_TYPE.TSS,
  SYSTEM_TYPE.BUSY_TSS,
  SYSTEM_TYPE.CALL_GATE,
]);
const LSL_TYPES = new Set<number>([SYSTEM_TYPE.TSS16, SYSTEM_TYPE.LDT, SYSTEM_TYPE.BUSY_TSS16, SYSTEM_TYPE.TSS, SYSTEM_TYPE.BUSY_TSS]);
const LONG_TYPES = new Set<number>([SYSTEM_TYPE.LDT, SYSTEM_TYPE.TSS, SYSTEM_TYPE.BUSY_TSS, SYSTEM_TYPE.CALL_GATE]);

/** The descriptor behind a selector, or null where a load would fault for want of one. */
function lookUp(cpu: Cpu, selector: number): Descriptor | null {
  if (isNull(selector)) return null;
  try {
    const d = readDescriptor(cpu, selector);
    if (longMode(cpu) && (d.rights & AR.S) === 0 && LONG_TYPES.has(d.rights & AR.TYPE)) readUpperHalf(cpu, d);
    return d;
  } catch (fault) {
    if (fault instanceof Fault && fault.vector === VECTOR.GP) return null;
    throw fault;
  }
}

const visible = (cpu: Cpu, d: Descriptor): boolean =>
  (isCode(d.rights) && isConforming(d.rights)) || (cpu.cpl <= dplOf(d.rights) && rplOf(d.selector) <= dplOf(d.rights));

function answer(cpu: Cpu, yes: boolean): void {
  const flags = readFlags(cpu.state);
  writeFlags(cpu.state, (yes ? flags | FLAG.ZF : flags & ~FLAG.ZF) >>> 0);
}

// @clause x86.segment.inquire
/** A descriptor that LAR or LSL may tell about. */
function reportable(cpu: Cpu, selector: number, types: ReadonlySet<number>): Descriptor | null {
  const d = lookUp(cpu, selector);
  if (!d || !visible(cpu, d)) return null;
  if (d.rights & AR.S) return d;
  const type = d.rights & AR.TYPE;
  return types.has(type) && (!longMode(cpu) || LONG_TYPES.has(type)) ? d : null;
}

export function lar(cpu: Cpu, insn: Instruction): void {
  if (!protectedMode(cpu)) throw undefinedOpcode();
  const d = reportable(cpu, readOperand(cpu, insn, 2), LAR_TYPES);
  if (d) writeRegister(cpu, insn.reg, insn.operandSize, BigInt(d.hi & (insn.operandSize === 2 ? 0xff00 : 0xffff00)));
  answer(cpu, d !== null);
}

export function lsl(cpu: Cpu, insn: Instruction): void {
  if (!protectedMode(cpu)) throw undefinedOpcode();
  const d = reportable(cpu, readOperand(cpu, insn, 2), LSL_TYPES);
  if (d) writeRegister(cpu, insn.reg, insn.operandSize, BigInt(d.limit) & (insn.operandSize === 2 ? U16 : U32));
  answer(cpu, d !== null);
}

export function verr(cpu: Cpu, insn: Instruction): void {
  if (!protectedMode(cpu)) throw undefinedOpcode();
  const d = lookUp(cpu, readOperand(cpu, insn, 2));
  const readable = d !== null && (d.rights & AR.S) !== 0 && (!isCode(d.rights) || (d.rights & AR.READABLE) !== 0);
  answer(cpu, readable && visible(cpu, d));
}

export function verw(cpu: Cpu, insn: Instruction): void {
  if (!protectedMode(cpu)) throw undefinedOpcode();
  const d = lookUp(cpu, readOperand(cpu, insn, 2));
  const writable = d !== null && (d.rights & (AR.S | AR.CODE | AR.WRITABLE)) === (AR.S | AR.WRITABLE);
  answer(cpu, writable && visible(cpu, d));
}

export function arpl(cpu: Cpu, insn: Instruction): void {
  if (!protectedMode(cpu)) throw undefinedOpcode();
  const source = cpu.state.slot32(insn.reg) & 3;
  // Memory need not be writable as long as nothing is written.
  const target = readOperand(cpu, insn, 2);
  const adjusted = (target & 3) < source;
  if (adjusted) {
    const value = BigInt((target & ~3) | source);
    if (insn.mod === 3) writeRegister(cpu, insn.rm, 2, value);
    else cpu.mmu.write(operandAddress(cpu, insn, 2, true), 2, value, privilegeOf(cpu.cpl));
  }
  answer(cpu, adjusted);
}

// ## FS and GS bases

function requireFsGsBase(cpu: Cpu): void {
  if (!code64(cpu) || (cpu.state.low32(OFFSET.CR4) & CR4.FSGSBASE) === 0) throw undefinedOpcode();
}

export function readBase(cpu: Cpu, insn: Instruction, seg: number): void {
  requireFsGsBase(cpu);
  writeRegister(cpu, insn.rm, insn.operandSize === 8 ? 8 : 4, cpu.state.segBase(seg)); // prefix 66 means nothing
}

export function writeBase(cpu: Cpu, insn: Instruction, seg: number): void {
  requireFsGsBase(cpu);
  const value = insn.operandSize === 8 ? cpu.state.slot(insn.rm) : cpu.state.slot(insn.rm) & U32;
  if (!canonicalForRegister(cpu, value)) throw generalProtection();
  cpu.state.setSegBase(seg, value);
}
