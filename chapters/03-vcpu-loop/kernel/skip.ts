// # Past the instruction
//
// An exit that an instruction caused leaves RIP at that instruction. When the kernel has done its work in its place, it moves RIP on by the length
// that the hardware reported, ends the shadow of STI or MOV SS, and owes the guest a debug trap if the trap flag was set. Forgetting the last of the
// three is a bug that hypervisors have had more than once: single-stepping then runs two instructions wherever the first one exits.

import { lowHalf } from '../../01-hardware-background/physical-memory.ts';
import { AR, EFER, FLAG } from '../../01-hardware-background/state.ts';
import { INTERRUPTIBILITY } from '../../01-hardware-background/vmx/exit-reasons.ts';
import { FIELD } from '../../01-hardware-background/vmx/vmcs.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import { singleStepAfterSkip } from './debug.ts';

const SHADOW = INTERRUPTIBILITY.mask.STI | INTERRUPTIBILITY.mask.MOV_SS;

/** Linux: `kvm_skip_emulated_instruction()`. 0 when a debugger wants to see it. */
export function skipInstruction(vcpu: SoftVcpu): 0 | 1 {
  const { hardware } = vcpu.vm;
  advance(vcpu);
  return hardware.read32(FIELD.GUEST_RFLAGS) & FLAG.TF ? singleStepAfterSkip(vcpu) : 1;
}

/** The first two of the three. */
export function advance(vcpu: SoftVcpu): void {
  const { hardware } = vcpu.vm;
  const next = hardware.read(FIELD.GUEST_RIP) + BigInt(hardware.read32(FIELD.VM_EXIT_INSTRUCTION_LEN));
  hardware.write(FIELD.GUEST_RIP, in64BitCode(vcpu) ? next : next & 0xffff_ffffn);
  clearShadow(vcpu);
}

export function clearShadow(vcpu: SoftVcpu): void {
  const { hardware } = vcpu.vm;
  const shadow = hardware.read32(FIELD.GUEST_INTERRUPTIBILITY_INFO);
  if (shadow & SHADOW) hardware.write32(FIELD.GUEST_INTERRUPTIBILITY_INFO, shadow & ~SHADOW);
}

const in64BitCode = (vcpu: SoftVcpu): boolean =>
  (lowHalf(vcpu.efer) & EFER.LMA) !== 0 && (vcpu.vm.hardware.read32(FIELD.GUEST_CS_AR_BYTES) & AR.L) !== 0;
