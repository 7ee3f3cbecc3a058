// # After power-up
//
// What a processor is before any instruction has run: not a blank, but a state with two jobs. It must look like an 8086, and it must fetch its
// first instruction from a ROM at the top of memory. The two contradict each other in one place, the base of CS.

import type { Cpu } from '../cpu.ts';
import { writeFlags } from '../engine/flags.ts';
import { AR, FLAG, OFFSET, SEG, SLOT } from '../state.ts';
import { modelCpuid } from './cpuid.ts';
import { DR6_FIXED_1, DR7_FIXED_1 } from './debug.ts';

const DATA = AR.P | AR.S | AR.WRITABLE | AR.ACCESSED;
const CODE = AR.P | AR.S | AR.CODE | AR.READABLE | AR.ACCESSED;

function setSegment({ state }: Cpu, seg: number, selector: number, base: bigint, rights: number): void {
  state.setSegSelector(seg, selector);
  state.setSegBase(seg, base);
  state.setSegLimit(seg, 0xffff);
  state.setSegRights(seg, rights);
}

/** What INIT and power-up have in common. */
export function resetProgram(cpu: Cpu): void {
  const { state } = cpu;
  // @clause x86.reset.registers
  for (let slot = 0; slot < 16; slot++) state.setSlot(slot, 0n);
  state.setSlotNumber(SLOT.RDX, modelCpuid(cpu, 1, 0)[0]);
  state.setSlotNumber(SLOT.RIP, 0xfff0);
  state.setSlotNumber(SLOT.NEXT_RIP, 0xfff0);
  writeFlags(state, FLAG.FIXED);
  // @clause x86.reset.segments
  for (const seg of [SEG.ES, SEG.SS, SEG.DS, SEG.FS, SEG.GS]) setSegment(cpu, seg, 0, 0n, DATA);
  setSegment(cpu, SEG.CS, 0xf000, 0xffff0000n, CODE);
  setSegment(cpu, SEG.LDTR, 0, 0n, AR.P | 2);
  setSegment(cpu, SEG.TR, 0, 0n, AR.P | 11);
  for (const [base, limit] of [
    [OFFSET.GDTR_BASE, OFFSET.GDTR_LIMIT],
    [OFFSET.IDTR_BASE, OFFSET.IDTR_LIMIT],
  ] as const) {
    state.set64(base, 0n);
    state.set32(limit, 0xffff);
  }
  for (const offset of [OFFSET.CR2, OFFSET.CR3, OFFSET.CR4, OFFSET.CR8, OFFSET.EFER]) state.set64(offset, 0n);
  for (let n = 0; n < 4; n++) state.set64(OFFSET.DR0 + 8 * n, 0n);
  // @clause x86.reset.debug-registers
  state.set64(OFFSET.DR6, BigInt(DR6_FIXED_1));
  state.set64(OFFSET.DR7, BigInt(DR7_FIXED_1));
  for (const word of [OFFSET.CPL, OFFSET.STOP, OFFSET.SHADOW, OFFSET.ACTIVITY]) state.set32(word, 0);
}
