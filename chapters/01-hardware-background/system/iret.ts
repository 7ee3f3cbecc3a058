// # IRET
//
// The instruction with the most meanings of all. It undoes an interrupt, and there were many ways to interrupt: from the same level or an outer
// one, from a v86 task, out of a 16-, 32- or 64-bit gate, by a task switch. Which of these is to be undone, it finds out from the frame and the
// flags, in the order below.

import type { Cpu } from '../cpu.ts';
import { readFlags, writeFlags } from '../engine/flags.ts';
import { generalProtection } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import { canonicalHigh } from '../mmu/paging.ts';
import { AR, FLAG, OFFSET, SEG, SLOT } from '../state.ts';
import {
  clearSegment,
  type Descriptor,
  dropPrivilegedSegments,
  enterCode,
  fillSegment,
  is64BitCode,
  loadRealSegment,
  markAccessed,
  rplOf,
} from './descriptors.ts';
import { outerStackDescriptor, returnTarget } from './far.ts';
import { loadWithVif, seesVif } from './flag-ops.ts';
import { code64, currentStack, iopl, longMode, protectedMode, type Stack, virtual8086 } from './segmentation.ts';
import { switchTask } from './task-switch.ts';
import { readTss } from './tss.ts';

/** Flags that IRET takes from the image whatever the privilege. */
const ALWAYS = FLAG.CF | FLAG.PF | FLAG.AF | FLAG.ZF | FLAG.SF | FLAG.TF | FLAG.DF | FLAG.OF | FLAG.NT;
const WIDE_ONLY = FLAG.RF | FLAG.AC | FLAG.ID;

// @clause x86.iret.flags
/** RFLAGS after an IRET at privilege `cpl` with operand size `size` has popped `image`. */
function returnedFlags(cpu: Cpu, image: number, size: number): number {
  const before = readFlags(cpu.state);
  let mask = ALWAYS | (size === 2 ? 0 : WIDE_ONLY);
  if (cpu.cpl <= iopl(cpu)) mask |= FLAG.IF;
  if (cpu.cpl === 0) mask |= FLAG.IOPL | (size === 2 ? 0 : FLAG.VIF | FLAG.VIP);
  return ((before & ~mask) | (image & mask)) >>> 0;
}

/** IRET, IRETD, IRETQ. */
export function iret(cpu: Cpu, insn: Instruction): void {
  // NMIs were blocked when one was taken, until its handler's IRET: this one, or any other. That a fault in the handler, with an IRET of its own,
  // unblocks them early is a well-known flaw of the design.
  // @clause x86.nmi.masking
  cpu.unblockNmi();
  const size = insn.operandSize;
  if (protectedMode(cpu)) iretProtected(cpu, size, insn.length);
  else iretReal(cpu, size);
  cpu.flagsReturned();
}

// ## Real and virtual-8086 mode

function iretReal(cpu: Cpu, size: 2 | 4 | 8): void {
  const { state } = cpu;
  // @clause x86.v86.sensitive
  const virtual = seesVif(cpu, size);
  const stack = currentStack(cpu);
  const offset = stack.pop(size);
  const selector = stack.pop(size) & 0xffff;
  const image = stack.pop(size);
  if (offset > (virtual8086(cpu) ? 0xffff : state.segLimit(SEG.CS))) throw generalProtection();
  const before = readFlags(state);
  let mask = ALWAYS | FLAG.IF | (size === 2 ? 0 : WIDE_ONLY);
  if (!virtual8086(cpu)) mask |= FLAG.IOPL;
  const flags = virtual ? loadWithVif(before, image, mask) : (before & ~mask) | (image & mask);
  stack.commit();
  loadRealSegment(cpu, SEG.CS, selector);
  writeFlags(state, flags >>> 0);
  state.setSlotHalves(SLOT.NEXT_RIP, offset, 0);
  cpu.modeChanged();
}

// ## Protected and long mode

function iretProtected(cpu: Cpu, size: 2 | 4 | 8, length: number): void {
  const { state } = cpu;
  if (state.get32(OFFSET.RFLAGS) & FLAG.NT) {
    // @clause x86.iret.nested-task
    if (longMode(cpu)) throw generalProtection();
    switchTask(cpu, { selector: readTss(cpu, 0, 2), at: 0, atHigh: 0, lo: 0, hi: 0, base: 0, limit: 0, rights: 0 }, 'iret', length);
    return;
  }
  const stack = currentStack(cpu);
  // The flags are read first, then the selector, and last the offset, which shows in CR2 when nothing of the frame is there.
  stack.peek(2 * size, size);
  stack.peek(size, 2);
  const offset = stack.pop(size);
  const offsetHigh = stack.upper;
  const selector = stack.pop(size) & 0xffff;
  const image = stack.pop(size);
  if (image & FLAG.VM && size === 4 && cpu.cpl === 0 && !longMode(cpu)) {
    toVirtual8086(cpu, stack, offset, selector, image);
    return;
  }
  const code = returnTarget(cpu, selector);
  const cpl = rplOf(selector);
  const outer = cpl > cpu.cpl;
  // In 64-bit mode every frame has SS and RSP, and they are always popped.
  const popsStack = outer || code64(cpu);
  const sp = popsStack ? stack.pop(size) : 0;
  const spHigh = stack.upper;
  const ss = popsStack ? stack.pop(size) & 0xffff : 0;
  const stackSegment = popsStack ? outerStackDescriptor(cpu, code, ss, cpl) : null;
  checkOffset(cpu, code, offset, offsetHigh);
  markAccessed(cpu, code);
  if (stackSegment) markAccessed(cpu, stackSegment);
  const flags = returnedFlags(cpu, image, size);
  enterCode(cpu, code, cpl);
  writeFlags(state, flags);
  if (popsStack) {
    if (stackSegment) fillSegment(cpu, SEG.SS, ss, stackSegment);
    else clearSegment(cpu, SEG.SS, ss, cpl);
    setStackPointer(cpu, code, sp, spHigh);
  } else stack.commit(is64BitCode(cpu, code));
  if (outer) dropPrivilegedSegments(cpu, cpl);
  state.setSlotHalves(SLOT.NEXT_RIP, offset, offsetHigh);
  cpu.modeChanged();
}

function checkOffset(cpu: Cpu, code: Descriptor, offset: number, offsetHigh: number): void {
  const fine = is64BitCode(cpu, code) ? canonicalHigh(offsetHigh, cpu.state.get32(OFFSET.CANONICAL_SHIFT)) : offsetHigh === 0 && offset <= code.limit;
  if (!fine) throw generalProtection();
}

// @clause x86.far.outer-stack
function setStackPointer(cpu: Cpu, code: Descriptor, sp: number, spHigh: number): void {
  const { state } = cpu;
  if (is64BitCode(cpu, code)) state.setSlotHalves(SLOT.RSP, sp, spHigh);
  else if (state.segRights(SEG.SS) & AR.DB) state.setSlotHalves(SLOT.RSP, sp, 0);
  else state.setSlotHalves(SLOT.RSP, ((state.slot32(SLOT.RSP) & ~0xffff) | (sp & 0xffff)) >>> 0, 0);
}

// ## Into virtual-8086 mode
//
// The only door. Ring 0 builds a frame with RFLAGS.VM set and all the segment selectors, and returns to a program that never was there.

// @clause x86.iret.to-v86
function toVirtual8086(cpu: Cpu, stack: Stack, offset: number, selector: number, image: number): void {
  const { state } = cpu;
  const sp = stack.pop(4);
  const selectors: [number, number][] = [[SEG.CS, selector]];
  for (const seg of [SEG.SS, SEG.ES, SEG.DS, SEG.FS, SEG.GS]) selectors.push([seg, stack.pop(4) & 0xffff]);
  if (offset > 0xffff) throw generalProtection();
  writeFlags(state, ((image & (ALWAYS | FLAG.IF | FLAG.IOPL | WIDE_ONLY | FLAG.VM | FLAG.VIF | FLAG.VIP)) | FLAG.FIXED) >>> 0);
  state.set32(OFFSET.CPL, 3);
  for (const [seg, value] of selectors) loadRealSegment(cpu, seg, value);
  state.setSlotHalves(SLOT.RSP, sp, 0);
  state.setSlotHalves(SLOT.NEXT_RIP, offset, 0);
  cpu.modeChanged();
}
