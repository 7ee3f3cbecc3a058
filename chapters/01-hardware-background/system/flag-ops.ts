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

// @clause x86.v86.sensitive
/** CLI and STI: IOPL decides, in virtual-8086 mode too. */
function requireIopl(cpu: Cpu): void {
  if ((cpu.state.low32(OFFSET.CR0) & CR0.PE) !== 0 && cpu.cpl > iopl(cpu)) throw generalProtection();
}

export function cli(cpu: Cpu): void {
  requireIopl(cpu);
  cpu.state.set32(OFFSET.RFLAGS, cpu.state.get32(OFFSET.RFLAGS) & ~FLAG.IF);
}

// @clause x86.interrupt.sti-shadow
export function sti(cpu: Cpu): void {
  requireIopl(cpu);
  const flags = cpu.state.get32(OFFSET.RFLAGS);
  if (flags & FLAG.IF) return;
  cpu.state.set32(OFFSET.RFLAGS, flags | FLAG.IF);
  // One more instruction runs before an interrupt is taken, so that STI; HLT and STI; RET have no gap between them.
  cpu.shadowSti();
}

// @clause x86.v86.sensitive
export function pushf(cpu: Cpu, insn: Instruction): void {
  if (virtual8086(cpu) && iopl(cpu) < 3) throw generalProtection();
  const stack = currentStack(cpu);
  stack.push(readFlags(cpu.state) & ~(FLAG.VM | FLAG.RF), insn.operandSize);
  stack.commit();
}

const POPPED_16 = FLAG.CF | FLAG.PF | FLAG.AF | FLAG.ZF | FLAG.SF | FLAG.TF | FLAG.DF | FLAG.OF | FLAG.NT;
const POPPED = POPPED_16 | FLAG.AC | FLAG.ID;

// @clause x86.popf.privilege
// @clause x86.v86.sensitive
export function popf(cpu: Cpu, insn: Instruction): void {
  const { state } = cpu;
  if (virtual8086(cpu) && iopl(cpu) < 3) throw generalProtection();
  const stack = currentStack(cpu);
  const image = stack.pop(insn.operandSize);
  const before = readFlags(state);
  const real = (state.low32(OFFSET.CR0) & CR0.PE) === 0;
  let mask = insn.operandSize === 2 ? POPPED_16 : POPPED;
  if (real || cpu.cpl <= iopl(cpu)) mask |= FLAG.IF;
  if (real || cpu.cpl === 0) mask |= FLAG.IOPL;
  stack.commit();
  writeFlags(state, (((before & ~mask) | (image & mask)) & ~FLAG.RF) >>> 0);
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
