// # What mode is this?
//
// The architecture has no register that says. The mode is what a dozen bits in five registers add up to, and each instruction depends on it. So it
// is computed once after each change, into one word that the decoder, the interpreter and the MMU can test.

import { AR, type CpuState, CR0, EFER, FLAG, MODE, OFFSET, SEG, SEGMENT_BYTES } from '../state.ts';

/** The MODE word for the registers as they are. */
export function currentMode(state: CpuState): number {
  const flags = state.get32(OFFSET.RFLAGS);
  let mode = codeMode(state, flags);
  if (state.segRights(SEG.SS) & AR.DB) mode |= MODE.STACK32;
  if (state.low32(OFFSET.CR0) & CR0.PE) mode |= MODE.PROTECTED;
  if (flags & FLAG.VM) mode |= MODE.V86;
  if (state.low32(OFFSET.EFER) & EFER.LMA) mode |= MODE.LONG;
  if (state.get32(OFFSET.CPL) === 3) mode |= MODE.USER;
  if ((mode & MODE.CODE) === MODE.CODE64 || isFlat(state)) mode |= MODE.FLAT;
  return mode;
}

function codeMode(state: CpuState, flags: number): number {
  const rights = state.segRights(SEG.CS);
  if (flags & FLAG.VM) return MODE.CODE16;
  if (state.low32(OFFSET.EFER) & EFER.LMA && rights & AR.L) return MODE.CODE64;
  return rights & AR.DB ? MODE.CODE32 : MODE.CODE16;
}

// Flat segments need neither base nor limit check, and nearly all 32-bit code has them.
function isFlat({ u32 }: CpuState): boolean {
  for (const seg of [SEG.CS, SEG.DS, SEG.ES, SEG.SS]) {
    const at = (OFFSET.SEGMENTS + seg * SEGMENT_BYTES) >> 2;
    if (u32[at] !== 0 || u32[at + 1] !== 0 || u32[at + 2] !== 0xffffffff) return false;
    const rights = u32[at + 3] as number;
    const usual = rights & AR.CODE ? AR.P | AR.S | AR.CODE | AR.READABLE : AR.P | AR.S | AR.WRITABLE;
    if (rights & AR.UNUSABLE || (rights & usual) !== usual || (seg === SEG.CS) !== ((rights & AR.CODE) !== 0)) return false;
    if (seg !== SEG.CS && rights & AR.EXPAND_DOWN) return false;
  }
  return true;
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
