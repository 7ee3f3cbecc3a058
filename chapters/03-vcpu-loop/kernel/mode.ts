// # The mode word
//
// The execution engine files decoded code under the mode that it was decoded for. The emulator has a register file of its own, and so has to say
// what mode it is in.

import { AR, type CpuState, CR0, EFER, FLAG, MODE, OFFSET, SEG } from '../../01-hardware-background/state.ts';

/** The decoding mode that a register file's segments and control registers amount to. Never claims a flat address space: that is only an optimisation. */
export function modeOf(state: CpuState): number {
  const flags = state.get32(OFFSET.RFLAGS);
  const real = !(state.low32(OFFSET.CR0) & CR0.PE);
  const v86 = !real && (flags & FLAG.VM) !== 0;
  const long = (state.low32(OFFSET.EFER) & EFER.LMA) !== 0;
  const cs = state.segRights(SEG.CS);
  const code = long && cs & AR.L ? MODE.CODE64 : cs & AR.DB ? MODE.CODE32 : MODE.CODE16;
  return (
    code |
    (code !== MODE.CODE64 && state.segRights(SEG.SS) & AR.DB ? MODE.STACK32 : 0) |
    (real ? 0 : MODE.PROTECTED) |
    (v86 ? MODE.V86 : 0) |
    (long ? MODE.LONG : 0) |
    (state.get32(OFFSET.CPL) === 3 ? MODE.USER : 0)
  );
}
