// # What a VM exit tells about an operand
//
// Instructions that move descriptor-table registers exit with a description of their memory operand, for a hypervisor that wants to carry them out.
// The form is that of the VMX instructions; bits 29:28 say which of four instructions it was.

import type { Cpu } from '../cpu.ts';
import { type Instruction, RIP_RELATIVE } from '../isa/instruction.ts';
import { SLOT } from '../state.ts';
import { operandInfo } from '../vmx/instructions.ts';

const OPERAND_SIZE_32 = 1 << 11;

/** Asks the hypervisor about LGDT, SIDT, LTR and their kin. `reason`: GDTR_IDTR or LDTR_TR; `which`: 0..3 in the order SGDT SIDT LGDT LIDT, SLDT STR LLDT LTR. */
export function descriptorTableExit(cpu: Cpu, insn: Instruction, reason: number, which: number): void {
  if (!cpu.intercepts) return;
  const info = operandInfo(insn) | (insn.operandSize === 4 ? OPERAND_SIZE_32 : 0) | (which << 28);
  const next = insn.base === RIP_RELATIVE ? cpu.state.slot(SLOT.NEXT_RIP) : 0n;
  const displacement = insn.mod === 3 ? 0n : BigInt.asUintN(8 * insn.addressSize, next + insn.disp);
  cpu.intercepts.instruction(reason, insn.length, displacement, info >>> 0);
}
