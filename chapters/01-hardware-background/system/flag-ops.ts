// # Flags that belong to the system
//
// POPF is the classic example of a *sensitive* instruction that does not trap. Executed at CPL 3 with an image in which IF is clear, it leaves IF
// set, silently: not a fault, not an effect. A guest kernel pushed out of ring 0 would believe that interrupts are off. This one rule, more than
// any other, is why x86 could not be virtualized by trapping alone, and why VMware translated guest kernels before it ran them.

import type { Cpu } from '../cpu.ts';
import { readFlags, writeFlags } from '../engine/flags.ts';
import { generalProtection, undefinedOpcode } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import { CR0, CR4, FLAG, OFFSET } from '../state.ts';
import { currentStack, iopl, virtual8086 } from './segmentation.ts';

// ## A second interrupt flag
//
// The Pentium made the silence unnecessary. With CR4.VME set in virtual-8086 mode, or CR4.PVI in ring 3 of protected mode, a program without the right to IF
// is given another flag to play with, VIF, in its place: CLI and STI change it, and in virtual-8086 mode PUSHF, POPF, IRET and INT show it where the program
// expects IF. A monitor that has an interrupt for the program sets VIP, and the moment the program would have been interruptible is a #GP.

/** True when the current program has the right to change IF. */
const mayChangeIf = (cpu: Cpu): boolean => !((cpu.state.low32(OFFSET.CR0) & CR0.PE) !== 0 && cpu.cpl > iopl(cpu));

/** True when CLI and STI are about VIF here. The right to IF has been found missing. */
function usesVif(cpu: Cpu): boolean {
  const cr4 = cpu.state.low32(OFFSET.CR4);
  return virtual8086(cpu) ? (cr4 & CR4.VME) !== 0 : (cr4 & CR4.PVI) !== 0 && cpu.cpl === 3;
}

// @clause x86.vme.virtual-if
/** True in virtual-8086 mode with IOPL below 3 when the flags image that a program sees has VIF for IF. @throws #GP when it may not see flags at all. */
export function seesVif(cpu: Cpu, size: number): boolean {
  if (!virtual8086(cpu) || iopl(cpu) === 3) return false;
  if ((cpu.state.low32(OFFSET.CR4) & CR4.VME) === 0 || size !== 2) throw generalProtection();
  return true;
}

/** The flags as such a program sees them: IF is VIF, and IOPL what the 8086 did not have. */
export const withVif = (flags: number): number => (flags & ~FLAG.IF) | (flags & FLAG.VIF ? FLAG.IF : 0) | FLAG.IOPL;

/** RFLAGS after such a program has loaded `image` into the flags of `mask`. @throws #GP when its monitor has an interrupt for it, or wants to be asked about TF. */
export function loadWithVif(before: number, image: number, mask: number): number {
  if (image & FLAG.TF || (image & FLAG.IF && before & FLAG.VIP)) throw generalProtection();
  const kept = mask & ~(FLAG.IF | FLAG.IOPL);
  return (before & ~kept & ~FLAG.VIF) | (image & kept) | (image & FLAG.IF ? FLAG.VIF : 0);
}

// @clause x86.v86.sensitive
export function cli(cpu: Cpu): void {
  const { state } = cpu;
  if (mayChangeIf(cpu)) state.set32(OFFSET.RFLAGS, state.get32(OFFSET.RFLAGS) & ~FLAG.IF);
  else if (usesVif(cpu)) state.set32(OFFSET.RFLAGS, state.get32(OFFSET.RFLAGS) & ~FLAG.VIF);
  else throw generalProtection();
}

// @clause x86.interrupt.sti-shadow
export function sti(cpu: Cpu): void {
  const { state } = cpu;
  const flags = state.get32(OFFSET.RFLAGS);
  if (!mayChangeIf(cpu)) {
    // @clause x86.pvi.virtual-if
    if (!usesVif(cpu) || flags & FLAG.VIP) throw generalProtection();
    state.set32(OFFSET.RFLAGS, flags | FLAG.VIF);
    return;
  }
  if (flags & FLAG.IF) return;
  state.set32(OFFSET.RFLAGS, flags | FLAG.IF);
  // One more instruction runs before an interrupt is taken, so that STI; HLT and STI; RET have no gap between them.
  cpu.shadowSti();
}

// @clause x86.v86.sensitive
export function pushf(cpu: Cpu, insn: Instruction): void {
  const virtual = seesVif(cpu, insn.operandSize);
  const stack = currentStack(cpu);
  const flags = readFlags(cpu.state) & ~(FLAG.VM | FLAG.RF);
  stack.push(virtual ? withVif(flags) : flags, insn.operandSize);
  stack.commit();
}

const POPPED_16 = FLAG.CF | FLAG.PF | FLAG.AF | FLAG.ZF | FLAG.SF | FLAG.TF | FLAG.DF | FLAG.OF | FLAG.NT;
const POPPED = POPPED_16 | FLAG.AC | FLAG.ID;

// @clause x86.popf.privilege
// @clause x86.v86.sensitive
export function popf(cpu: Cpu, insn: Instruction): void {
  const { state } = cpu;
  const virtual = seesVif(cpu, insn.operandSize);
  const stack = currentStack(cpu);
  const image = stack.pop(insn.operandSize);
  const before = readFlags(state);
  const real = (state.low32(OFFSET.CR0) & CR0.PE) === 0;
  let mask = insn.operandSize === 2 ? POPPED_16 : POPPED;
  if (real || cpu.cpl <= iopl(cpu)) mask |= FLAG.IF;
  if (real || cpu.cpl === 0) mask |= FLAG.IOPL;
  const after = virtual ? loadWithVif(before, image, mask) : (before & ~mask) | (image & mask);
  stack.commit();
  writeFlags(state, (after & ~FLAG.RF) >>> 0);
  cpu.flagsChanged(before);
}

/** CLAC and STAC. */
export function setAc(cpu: Cpu, value: boolean): void {
  const { state } = cpu;
  if (cpu.cpl !== 0 || (cpu.cr4Bits & CR4.SMAP) === 0) throw undefinedOpcode();
  const before = readFlags(state);
  const flags = state.get32(OFFSET.RFLAGS);
  state.set32(OFFSET.RFLAGS, value ? flags | FLAG.AC : flags & ~FLAG.AC);
  cpu.flagsChanged(before);
}
