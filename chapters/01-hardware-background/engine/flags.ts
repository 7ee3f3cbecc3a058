// # Flags, lazily
//
// Nearly every arithmetic instruction sets six flags, and nearly all of those are overwritten before anyone looks. So an operation does not compute
// flags. It leaves behind three words from which each flag is one or two machine operations away, whatever the operation and its size was:
//
// - `CC_RESULT`: the result, sign-extended to 64 bits. It is zero iff ZF, negative iff SF, and its low byte has the parity of PF.
// - `CC_A`: bit 63 is CF, bit {{AF_BIT}} is AF. (An addition's vector of carries has them there: the carry out of the top bit and out of bit 3.)
// - `CC_B`: bit 63 is OF.
//
// There is no record of *which* operation it was, so no reader has to distinguish cases. The price is one difficulty: POPF may set ZF and SF
// together, and no number is zero and negative. Two spare bits of `CC_A` take care of that: bit {{SF_DELTA}} inverts SF, bit {{PF_DELTA}} inverts PF. Every ordinary
// operation leaves them clear.

import { ARITHMETIC_FLAGS, type CpuState, FLAG, OFFSET, SLOT } from '../state.ts';

/** Bits of CC_A other than CF, which is its sign. */
export const AF_BIT = 3;
export const SF_DELTA = 1;
export const PF_DELTA = 0;

const RESULT = 2 * SLOT.CC_RESULT; // index of the low half in CpuState.i32
const CARRY = 2 * SLOT.CC_A;
const OVERFLOW = 2 * SLOT.CC_B;

/** True when the low byte has an even number of ones. */
function evenParity(byte: number): boolean {
  const folded = byte ^ (byte >> 4);
  return ((0x9669 >> (folded & 0xf)) & 1) !== 0; // bit n of 0x9669 is set when n has an even number of ones
}

/** The low 32 bits of RFLAGS, unsigned. */
export function readFlags(state: CpuState): number {
  const { i32 } = state;
  const low = i32[RESULT] as number;
  const high = i32[RESULT + 1] as number;
  const carry = i32[CARRY] as number;
  let flags = (state.get32(OFFSET.RFLAGS) & ~ARITHMETIC_FLAGS) | FLAG.FIXED;
  if ((i32[CARRY + 1] as number) < 0) flags |= FLAG.CF;
  if (evenParity((low ^ ((carry >> PF_DELTA) & 1)) & 0xff)) flags |= FLAG.PF;
  if ((carry >> AF_BIT) & 1) flags |= FLAG.AF;
  if ((low | high) === 0) flags |= FLAG.ZF;
  if ((high ^ (carry << (31 - SF_DELTA))) < 0) flags |= FLAG.SF;
  if ((i32[OVERFLOW + 1] as number) < 0) flags |= FLAG.OF;
  return flags >>> 0;
}

/** Sets all of RFLAGS' low 32 bits. Which bits an instruction may change is the caller's business. */
export function writeFlags(state: CpuState, value: number): void {
  const { i32 } = state;
  const zero = (value & FLAG.ZF) !== 0;
  const sign = (value & FLAG.SF) !== 0;
  const parity = (value & FLAG.PF) !== 0;
  state.set32(OFFSET.RFLAGS, (value & ~ARITHMETIC_FLAGS) | FLAG.FIXED);
  // Not zero: bit 8 makes it so without touching sign or parity.
  i32[RESULT] = zero ? 0 : 0x100 | (parity ? 0 : 1);
  i32[RESULT + 1] = zero || !sign ? 0 : -0x80000000;
  i32[CARRY] = (value & FLAG.AF ? 1 << AF_BIT : 0) | (zero && sign ? 1 << SF_DELTA : 0) | (zero && !parity ? 1 << PF_DELTA : 0);
  i32[CARRY + 1] = value & FLAG.CF ? -0x80000000 : 0;
  i32[OVERFLOW] = 0;
  i32[OVERFLOW + 1] = value & FLAG.OF ? -0x80000000 : 0;
}
