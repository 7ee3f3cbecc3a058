import { describe, expect, it } from 'vitest';
import { PhysicalMemory } from '../physical-memory.ts';
import { ARITHMETIC_FLAGS, CpuState, FLAG } from '../state.ts';
import { readFlags, writeFlags } from './flags.ts';

describe('lazy flags', () => {
  it('keep every combination of the six arithmetic flags, possible or not', () => {
    const state = new CpuState(new PhysicalMemory({ ramBytes: 65536, privateBytes: 65536 }));
    const bits = [FLAG.CF, FLAG.PF, FLAG.AF, FLAG.ZF, FLAG.SF, FLAG.OF];
    for (let combination = 0; combination < 64; combination++) {
      const flags = bits.reduce((value, bit, i) => value | ((combination >> i) & 1 ? bit : 0), FLAG.FIXED | FLAG.IF);
      writeFlags(state, flags);
      expect(readFlags(state)).toBe(flags);
      writeFlags(state, ~flags & ARITHMETIC_FLAGS);
      expect(readFlags(state)).toBe((~flags & ARITHMETIC_FLAGS) | FLAG.FIXED);
    }
  });
});
