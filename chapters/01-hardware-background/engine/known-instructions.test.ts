import { describe, expect, it } from 'vitest';
import { SLOT } from '../state.ts';
import { FlatMachine } from './flat-machine.ts';

const hex = (text: string): number[] => text.split(' ').map((byte) => Number.parseInt(byte, 16));

describe('instructions met before', () => {
  // Each round writes other code over the last, so that the page is a restless one and what was decoded is remembered.
  const rounds = (make: (round: number) => { code: number[]; result: number }): void => {
    const m = new FlatMachine(32, 1 << 20, { translate: false });
    for (let round = 0; round < 60; round++) {
      const { code, result } = make(round);
      m.engine.codeWritten(0x1000, code.length);
      m.memory.slice(0x1000, code.length).set(code);
      m.state.setSlotNumber(SLOT.RIP, 0x1000);
      m.state.setSlotNumber(SLOT.RAX, 7);
      expect(m.resume(100)).toEqual({ kind: 'stop' });
      expect(m.state.slot32(SLOT.RAX), `round ${round}`).toBe(result >>> 0);
    }
  };
  const word = (value: number): number[] => [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, (value >>> 24) & 0xff];

  it('are right for other immediates, large and small, and negative', () =>
    rounds((round) => {
      const value = [0x12345678, 5, -3, 0x7fffffff, 0x10000 + round][round % 5] as number;
      return { code: [0xb8, ...word(value), 0x05, ...word(round * 70000), 0xf4], result: value + round * 70000 };
    }));

  it('are told apart by any other byte', () =>
    rounds((round) => {
      const code = [hex('83 c0 01 f4'), hex('83 c0 02 f4'), hex('83 e8 01 f4'), hex('66 b8 34 12 f4'), hex('c1 e0 05 f4')][round % 5] as number[];
      return { code, result: [8, 9, 6, 0x1234, 224][round % 5] as number };
    }));

  it('are right where the immediate is not the only number', () =>
    rounds((round) => {
      // mov [0x2000], imm; add eax, [0x2000]
      const value = round * 0x1010101;
      return { code: [0xc7, 0x05, ...word(0x2000), ...word(value), 0x03, 0x05, ...word(0x2000), 0xf4], result: 7 + value };
    }));
});
