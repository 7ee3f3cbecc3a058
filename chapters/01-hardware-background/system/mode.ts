// # What mode is this?
//
// The architecture has no register that says. The mode is what a dozen bits in five registers add up to, and each instruction depends on it. So it
// is computed once after each change, into one word that the decoder, the interpreter and the MMU can test.

import { AR, type CpuState, CR0, EFER, FLAG, MODE, OFFSET, SEG, SEGMENT_BYTES } from '../state.ts';

/** The MODE word for the registers as they are. */
export function currentMode(state: CpuState): number {
  const flags = state.get32(OFFSET.RFLAGS);
  let mode = codeMode(state, flags);
  if (state.low32(OFFSET.CR0) & CR0.PE) mode |= MODE.PROTECTED;
  if (flags & FLAG.VM) mode |= MODE.V86;
  if (state.low32(OFFSET.EFER) & EFER.LMA) mode |= MODE.LONG;
  if (state.get32(OFFSET.CPL) === 3) mode |= MODE.USER;
  // In 64-bit code what SS says of the stack's width means nothing; and what means nothing must not make one mode two.
  if ((mode & MODE.CODE) === MODE.CODE64) return mode | MODE.FLAT;
  if (state.segRights(SEG.SS) & AR.DB) mode |= MODE.STACK32;
  return isFlat(state) ? mode | MODE.FLAT : mode;
}

function codeMode(state: CpuState, flags: number): number {
  const rights = state.segRights(SEG.CS);
  if (flags & FLAG.VM) return MODE.CODE16;
  if (state.low32(OFFSET.EFER) & EFER.LMA && rights & AR.L) return MODE.CODE64;
  return rights & AR.DB ? MODE.CODE32 : MODE.CODE16;
}

// Flat segments need neither base nor limit check, and nearly all 32-bit code has them. This is asked at every change of privilege.
const isFlat = (state: CpuState): boolean => isFlatCode(state) && isFlatData(state, SEG.DS) && isFlatData(state, SEG.ES) && isFlatData(state, SEG.SS);

const startsAtZero = ({ u32 }: CpuState, at: number): boolean => u32[at] === 0 && u32[at + 1] === 0 && u32[at + 2] === 0xffffffff;
const recordOf = (seg: number): number => (OFFSET.SEGMENTS + seg * SEGMENT_BYTES) >> 2;
const USUAL = AR.P | AR.S | AR.WRITABLE; // for code the same bit says "readable"

function isFlatCode(state: CpuState): boolean {
  const at = recordOf(SEG.CS);
  const rights = state.u32[at + 3] as number;
  return startsAtZero(state, at) && (rights & (USUAL | AR.CODE | AR.UNUSABLE)) === (USUAL | AR.CODE);
}

function isFlatData(state: CpuState, seg: number): boolean {
  const at = recordOf(seg);
  const rights = state.u32[at + 3] as number;
  return startsAtZero(state, at) && (rights & (USUAL | AR.CODE | AR.EXPAND_DOWN | AR.UNUSABLE)) === USUAL;
}

/** The names of the modes, as traces give them. */
type ModeName = 'real' | 'v86' | 'protected16' | 'protected32' | 'compat' | 'long';

/** The name of a MODE word. */
export function modeName(mode: number): ModeName {
  if (mode & MODE.V86) return 'v86';
  if ((mode & MODE.PROTECTED) === 0) return 'real';
  if (mode & MODE.LONG) return (mode & MODE.CODE) === MODE.CODE64 ? 'long' : 'compat';
  return (mode & MODE.CODE) === MODE.CODE32 ? 'protected32' : 'protected16';
}
