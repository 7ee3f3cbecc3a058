// # Going far
//
// A far transfer changes CS, so it can change the privilege level, and most of what follows is there to keep it from doing so. JMP and CALL may
// reach code of the same level, or *conforming* code of a more privileged one, which then runs with the caller's rights. To gain privilege a
// program must go through a call gate, a descriptor that fixes the entry point: the inner level decides where it may be entered. To lose privilege
// it must *return*; a call outwards would leave the inner stack to be trusted later, when the outer program has had its hands on it.
//
// Call gates were meant to be the system calls of protected-mode systems. Interrupts were faster, SYSENTER faster still, and today hardly anybody
// uses them. They are described here because the same steps, with another table, deliver interrupts.

import type { Cpu } from '../cpu.ts';
import { generalProtection, notPresent } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import { highHalf, lowHalf } from '../physical-memory.ts';
import { AR, SEG, SLOT } from '../state.ts';
import {
  checkCodeSize,
  checkStackDescriptor,
  clearSegment,
  type Descriptor,
  dplOf,
  dropPrivilegedSegments,
  enterCode,
  fillSegment,
  is64BitCode,
  isCode,
  isConforming,
  isNull,
  loadRealSegment,
  markAccessed,
  readDescriptor,
  readUpperHalf,
  rplOf,
  SYSTEM_TYPE,
  selectorError,
} from './descriptors.ts';
import {
  canonical,
  currentStack,
  join,
  longMode,
  longStack,
  operandAddress,
  privilegeOf,
  protectedMode,
  type Stack,
  U16,
  U32,
  U64,
  virtual8086,
} from './segmentation.ts';
import { switchTask } from './task-switch.ts';
import { innerStack, loadInnerStack } from './tss.ts';

/** A far pointer, from the instruction or from memory. */
function farPointer(cpu: Cpu, insn: Instruction): { selector: number; offset: bigint } {
  const size = insn.operandSize;
  const mask = size === 8 ? U64 : size === 4 ? U32 : U16;
  if (!isIndirect(insn)) return { selector: insn.selector & 0xffff, offset: insn.imm & mask };
  const offset = cpu.mmu.read(operandAddress(cpu, insn, size, false), size, privilegeOf(cpu.cpl));
  const selector = cpu.mmu.read32(operandAddress(cpu, insn, 2, false, size), 2, privilegeOf(cpu.cpl));
  return { selector, offset };
}

const isIndirect = (insn: Instruction): boolean => insn.opcode === 0xff;

/** Judges the offset at which code of descriptor `d` is to be entered. */
function checkTarget(cpu: Cpu, d: Descriptor, offset: bigint): void {
  // @clause x86.far.target-offset
  if (is64BitCode(cpu, d) ? !canonical(cpu, offset) : (offset & U32) > BigInt(d.limit)) throw generalProtection();
}

/** Judges a code descriptor that JMP or CALL names directly: no change of privilege. */
function checkDirect(cpu: Cpu, d: Descriptor): void {
  const code = selectorError(d.selector);
  const dpl = dplOf(d.rights);
  // @clause x86.far.direct-privilege
  // @clause x86.far.conforming
  const allowed = isConforming(d.rights) ? dpl <= cpu.cpl : rplOf(d.selector) <= cpu.cpl && dpl === cpu.cpl;
  if (!allowed) throw generalProtection(code);
  checkCodeSize(cpu, d);
  if ((d.rights & AR.P) === 0) throw notPresent(code);
}

/** Only 64-bit code has an instruction pointer of more than 32 bits: of a longer offset the rest is dropped. */
const jumpTo = (cpu: Cpu, d: Descriptor, offset: bigint): void => cpu.state.setSlot(SLOT.NEXT_RIP, is64BitCode(cpu, d) ? offset : offset & U32);

/** JMP far. */
export function farJmp(cpu: Cpu, insn: Instruction): void {
  const { selector, offset } = farPointer(cpu, insn);
  if (!protectedMode(cpu)) {
    enterRealCode(cpu, selector, offset);
    return;
  }
  if (isNull(selector)) throw generalProtection();
  const d = readDescriptor(cpu, selector);
  if (!isCode(d.rights)) {
    jumpThroughSystemDescriptor(cpu, insn, d);
    return;
  }
  checkDirect(cpu, d);
  checkTarget(cpu, d, offset);
  markAccessed(cpu, d);
  enterCode(cpu, d, cpu.cpl);
  jumpTo(cpu, d, offset);
  cpu.modeChanged();
}

// @clause x86.far.target-offset
function enterRealCode(cpu: Cpu, selector: number, offset: bigint): void {
  if (offset > BigInt(virtual8086(cpu) ? 0xffff : cpu.state.segLimit(SEG.CS))) throw generalProtection();
  loadRealSegment(cpu, SEG.CS, selector);
  cpu.state.setSlot(SLOT.NEXT_RIP, offset);
  cpu.modeChanged();
}

// ## Through a gate

// @clause x86.call-gate.checks
/** The checks that all system descriptors share as targets of JMP and CALL. Returns the type. */
function checkSystemTarget(cpu: Cpu, d: Descriptor): number {
  const code = selectorError(d.selector);
  const type = d.rights & (AR.S | AR.TYPE); // S clear: a system descriptor
  const known = longMode(cpu)
    ? type === SYSTEM_TYPE.CALL_GATE
    : type === SYSTEM_TYPE.CALL_GATE ||
      type === SYSTEM_TYPE.CALL_GATE16 ||
      type === SYSTEM_TYPE.TASK_GATE ||
      type === SYSTEM_TYPE.TSS ||
      type === SYSTEM_TYPE.TSS16;
  if (!known) throw generalProtection(code);
  // @clause x86.gate.dpl
  if (dplOf(d.rights) < cpu.cpl || dplOf(d.rights) < rplOf(d.selector)) throw generalProtection(code);
  return type;
}

const isCallGate = (type: number): boolean => type === SYSTEM_TYPE.CALL_GATE || type === SYSTEM_TYPE.CALL_GATE16;

function jumpThroughSystemDescriptor(cpu: Cpu, insn: Instruction, gate: Descriptor): void {
  const type = checkSystemTarget(cpu, gate);
  if (!isCallGate(type)) {
    switchTask(cpu, gate, 'jmp', insn.length);
    return;
  }
  const { d, offset } = gateTarget(cpu, gate, type);
  const dpl = dplOf(d.rights);
  if (isConforming(d.rights) ? dpl > cpu.cpl : dpl !== cpu.cpl) throw generalProtection(selectorError(d.selector));
  if ((d.rights & AR.P) === 0) throw notPresent(selectorError(d.selector));
  checkTarget(cpu, d, offset);
  markAccessed(cpu, d);
  enterCode(cpu, d, cpu.cpl);
  jumpTo(cpu, d, offset);
  cpu.modeChanged();
}

/** Where a call gate leads. The gate's own offset counts; the one in the instruction is ignored. */
function gateTarget(cpu: Cpu, gate: Descriptor, type: number): { d: Descriptor; offset: bigint } {
  let upper = 0;
  if (longMode(cpu)) upper = readUpperHalf(cpu, gate);
  if ((gate.rights & AR.P) === 0) throw notPresent(selectorError(gate.selector));
  const selector = gate.lo >>> 16;
  if (isNull(selector)) throw generalProtection();
  const d = readDescriptor(cpu, selector);
  const code = selectorError(selector);
  if (!isCode(d.rights) || dplOf(d.rights) > cpu.cpl) throw generalProtection(code);
  // @clause x86.gate.target
  if (longMode(cpu) && (d.rights & (AR.L | AR.DB)) !== AR.L) throw generalProtection(code);
  const low = (gate.lo & 0xffff) | (type === SYSTEM_TYPE.CALL_GATE ? gate.hi & 0xffff0000 : 0);
  return { d, offset: (BigInt(upper) << 32n) | BigInt(low >>> 0) };
}

/** CALL far. */
export function farCall(cpu: Cpu, insn: Instruction): void {
  const { state } = cpu;
  const { selector, offset } = farPointer(cpu, insn);
  const size = insn.operandSize;
  const returnTo = state.slot(SLOT.NEXT_RIP);
  const pushReturn = (stack: Stack, bytes: number): void => {
    stack.push(state.segSelector(SEG.CS), bytes);
    stack.push(lowHalf(returnTo), bytes, highHalf(returnTo));
  };
  if (!protectedMode(cpu)) {
    if (offset > BigInt(virtual8086(cpu) ? 0xffff : state.segLimit(SEG.CS))) throw generalProtection();
    const stack = currentStack(cpu);
    pushReturn(stack, size);
    stack.commit();
    enterRealCode(cpu, selector, offset);
    return;
  }
  if (isNull(selector)) throw generalProtection();
  const d = readDescriptor(cpu, selector);
  if (isCode(d.rights)) {
    checkDirect(cpu, d);
    // 64-bit code is called with a stack pointer of 64 bits, and without the stack segment's base, from compatibility mode, too.
    const stack = is64BitCode(cpu, d) ? longStack(cpu, state.slot32(SLOT.RSP), state.slotHigh(SLOT.RSP), cpu.cpl) : currentStack(cpu);
    stack.reserve(2 * size);
    // The words are in memory, below the stack pointer, when the target turns out to be none.
    pushReturn(stack, size);
    checkTarget(cpu, d, offset);
    markAccessed(cpu, d);
    stack.commit();
    enterCode(cpu, d, cpu.cpl);
    jumpTo(cpu, d, offset);
    cpu.modeChanged();
    return;
  }
  const type = checkSystemTarget(cpu, d);
  if (isCallGate(type)) callThroughGate(cpu, d, type, pushReturn);
  else switchTask(cpu, d, 'call', insn.length);
}

// @clause x86.call-gate.entry
function callThroughGate(cpu: Cpu, gate: Descriptor, type: number, pushReturn: (stack: Stack, bytes: number) => void): void {
  const { state } = cpu;
  const { d, offset } = gateTarget(cpu, gate, type);
  if ((d.rights & AR.P) === 0) throw notPresent(selectorError(d.selector));
  const size = longMode(cpu) ? 8 : type === SYSTEM_TYPE.CALL_GATE ? 4 : 2;
  const dpl = dplOf(d.rights);
  if (isConforming(d.rights) || dpl === cpu.cpl) {
    // A gate to 64-bit code uses the stack pointer as a 64-bit one, even when it is called from compatibility mode.
    const stack = longMode(cpu) ? longStack(cpu, state.slot32(SLOT.RSP), state.slotHigh(SLOT.RSP), cpu.cpl) : currentStack(cpu);
    stack.reserve(2 * size);
    checkTarget(cpu, d, offset);
    pushReturn(stack, size);
    markAccessed(cpu, d);
    enterCode(cpu, d, cpu.cpl);
    stack.commit();
  } else {
    // @clause x86.gate.inner-stack
    const inner = innerStack(cpu, dpl);
    // In protected mode the gate says how many words of arguments to carry over. A 64-bit gate carries none: arguments go in registers.
    const count = longMode(cpu) ? 0 : gate.hi & 0x1f;
    inner.stack.reserve((4 + count) * size);
    checkTarget(cpu, d, offset);
    inner.stack.push(state.segSelector(SEG.SS), size);
    inner.stack.push(state.slot32(SLOT.RSP), size, state.slotHigh(SLOT.RSP));
    const outer = count > 0 ? currentStack(cpu) : null;
    for (let i = count - 1; i >= 0; i--) inner.stack.push((outer as Stack).peek(i * size, size), size);
    pushReturn(inner.stack, size);
    loadInnerStack(cpu, inner, dpl);
    markAccessed(cpu, d);
    enterCode(cpu, d, dpl);
    inner.stack.commit();
  }
  jumpTo(cpu, d, offset);
  cpu.modeChanged();
}

// ## And back
//
// A far return pops what a far call pushed, and nothing tells it whether there has been such a call. The RPL of the popped selector decides: if it
// is a less privileged level than the current one, a stack pointer is popped as well, and what the inner level had in its data segments is taken
// away.

/** RETF, with or without bytes to release. */
export function farRet(cpu: Cpu, insn: Instruction): void {
  const size = insn.operandSize;
  const release = Number(insn.imm & U16);
  const stack = currentStack(cpu);
  // The selector is read first, which shows in CR2 when neither word is there; and only as much of its word as it takes.
  const selector = stack.peek(size, 2);
  const low = stack.pop(size);
  const offset = join(stack.upper, low);
  stack.skip(size);
  if (!protectedMode(cpu)) {
    if (offset > BigInt(virtual8086(cpu) ? 0xffff : cpu.state.segLimit(SEG.CS))) throw generalProtection();
    stack.skip(release);
    stack.commit();
    enterRealCode(cpu, selector, offset);
    return;
  }
  const d = returnTarget(cpu, selector);
  const outer = rplOf(selector) > cpu.cpl;
  stack.skip(release);
  if (outer) returnOutward(cpu, d, offset, stack, size, release);
  else {
    checkTarget(cpu, d, offset);
    markAccessed(cpu, d);
    enterCode(cpu, d, cpu.cpl);
    stack.commit(is64BitCode(cpu, d));
    jumpTo(cpu, d, offset);
  }
  cpu.modeChanged();
}

/** Judges the code segment that RETF or IRET is to return to. */
export function returnTarget(cpu: Cpu, selector: number): Descriptor {
  if (isNull(selector)) throw generalProtection();
  const d = readDescriptor(cpu, selector);
  const code = selectorError(selector);
  const rpl = rplOf(selector);
  const dpl = dplOf(d.rights);
  // @clause x86.far.direct-privilege
  // @clause x86.iret.checks
  if (!isCode(d.rights) || rpl < cpu.cpl) throw generalProtection(code);
  if (isConforming(d.rights) ? dpl > rpl : dpl !== rpl) throw generalProtection(code);
  checkCodeSize(cpu, d);
  if ((d.rights & AR.P) === 0) throw notPresent(code);
  return d;
}

/** The rest of a return to a less privileged level: pops the outer stack pointer, and loads everything. */
function returnOutward(cpu: Cpu, d: Descriptor, offset: bigint, stack: Stack, size: 2 | 4 | 8, release: number): void {
  const cpl = rplOf(d.selector);
  const low = stack.pop(size);
  const outerSp = join(stack.upper, low);
  const outerSs = stack.pop(size) & 0xffff;
  const ss = outerStackDescriptor(cpu, d, outerSs, cpl);
  checkTarget(cpu, d, offset);
  markAccessed(cpu, d);
  if (ss) markAccessed(cpu, ss);
  enterCode(cpu, d, cpl);
  if (ss) fillSegment(cpu, SEG.SS, outerSs, ss);
  else clearSegment(cpu, SEG.SS, outerSs, cpl);
  setOuterStackPointer(cpu, d, outerSp, size, release);
  dropPrivilegedSegments(cpu, cpl);
  jumpTo(cpu, d, offset);
}

/** Judges the SS that a return pops. Null is fine for 64-bit code outside of CPL 3. */
export function outerStackDescriptor(cpu: Cpu, code: Descriptor, selector: number, cpl: number): Descriptor | null {
  if (isNull(selector)) {
    if (!is64BitCode(cpu, code) || cpl === 3) throw generalProtection();
    return null;
  }
  const ss = readDescriptor(cpu, selector);
  checkStackDescriptor(ss, cpl, generalProtection);
  return ss;
}

// @clause x86.far.outer-stack
function setOuterStackPointer(cpu: Cpu, code: Descriptor, sp: bigint, size: number, release: number): void {
  const { state } = cpu;
  const wide = is64BitCode(cpu, code);
  const big = (state.segRights(SEG.SS) & AR.DB) !== 0;
  const moved = sp + BigInt(release);
  if (wide) state.setSlot(SLOT.RSP, moved);
  else if (big) state.setSlot(SLOT.RSP, moved & U32);
  else {
    // A 16-bit stack takes only SP. The upper half of ESP keeps what the inner level had there: a small leak, and a famous one.
    const kept = state.slot(SLOT.RSP) & ~U16;
    state.setSlot(SLOT.RSP, (size >= 4 ? kept & U32 : kept) | (moved & U16));
  }
}

// ## LDS and its kin

/** LES, LDS, LSS, LFS, LGS: a general register and a segment register from memory. */
export function loadFarPointer(cpu: Cpu, insn: Instruction, load: (cpu: Cpu, seg: number, selector: number) => void): bigint {
  const size = insn.operandSize;
  const offset = cpu.mmu.read(operandAddress(cpu, insn, size, false), size, privilegeOf(cpu.cpl));
  const selector = cpu.mmu.read32(operandAddress(cpu, insn, 2, false, size), 2, privilegeOf(cpu.cpl));
  load(cpu, insn.target, selector);
  return offset;
}
