import { describe, expect, it } from 'vitest';
import { SLOT } from '../state.ts';
import { FlatMachine } from './flat-machine.ts';

const hex = (text: string): number[] => text.split(' ').map((byte) => Number.parseInt(byte, 16));
const byte = (value: number): number => value & 0xff;
const word = (value: number): number[] => [value, value >> 8, value >> 16, value >> 24].map(byte);
const ROUNDS = 40;
const F = 0x3000;
const DATA = 0x5000;

describe.each([32, 64] as const)('a function of %i bits that is written anew', (bits) => {
  // 1000: call f; hlt
  const machine = (options: { translate: boolean; heat?: number; arenaBytes?: number }): FlatMachine => {
    const m = new FlatMachine(bits, 1 << 20, options);
    m.state.setSlotNumber(SLOT.RSP, 0x8000);
    m.run([0xe8, ...word(F - 0x1005), 0xf4], { instructions: 0 });
    return m;
  };
  /** Writes the function, calls it twice with 7 in EAX, and returns what EAX is then. */
  const call = (m: FlatMachine, code: readonly number[], at = F): number => {
    m.engine.codeWritten(at, code.length);
    m.memory.slice(at, code.length).set(code);
    let result = 0;
    for (let time = 0; time < 2; time++) {
      m.state.setSlotNumber(SLOT.RIP, 0x1000);
      m.state.setSlotNumber(SLOT.RAX, 7);
      expect(m.resume(200)).toEqual({ kind: 'stop' });
      result = m.state.slot32(SLOT.RAX);
    }
    return result;
  };
  const OPTIONS = [{ translate: false }, { translate: true, heat: 30 }];

  it.each(OPTIONS)('has its numbers filled in, and no further block is made: %o', (options) => {
    const m = machine(options);
    let blocks = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const [value, more, at] = [0x12345678 * round, (round * 37) % 256, 4 * (round % 9)];
      m.memory.view.setInt32(m.memory.ramOffset + DATA + at, round * 1000, true);
      // mov ecx,DATA; mov eax,value; add eax,more; mov [ecx+64],other; add eax,[ecx+at]; add eax,[ecx+64]; sub ecx,value; xor eax,ecx; ret
      const stores = [0xc7, 0x41, 64, ...word(value ^ round)];
      const begin = [0xb9, ...word(DATA), 0xb8, ...word(value), 0x83, 0xc0, more, ...stores, 0x03, 0x41, at, 0x03, 0x41, 64];
      const code = [...begin, 0x81, 0xe9, ...word(value), 0x31, 0xc8, 0xc3];
      const sum = (value + ((more << 24) >> 24) + round * 1000 + (value ^ round)) | 0;
      expect(call(m, code), `round ${round}`).toBe((sum ^ (DATA - value)) >>> 0);
      if (round === 5) blocks = m.engine.sizes.blocks;
    }
    if (!options.translate) expect(m.engine.sizes.blocks).toBe(blocks);
  });

  it.each(OPTIONS)('is another when any byte is another: %o', (options) => {
    const m = machine(options);
    const forms: readonly (readonly [number[], number])[] = [
      [hex('83 c0 05 c3'), 12],
      [hex('83 e8 05 c3'), 2],
      [hex('83 c0 06 c3'), 13],
      [hex('6b c0 05 c3'), 35],
      [hex('c1 e0 05 c3'), 224],
      [hex('90 90 40 c3').with(2, bits === 32 ? 0x40 : 0x90), bits === 32 ? 8 : 7],
    ];
    for (let round = 0; round < 3 * ROUNDS; round++) {
      const [code, result] = forms[(round >> ((round >> 4) & 3)) % forms.length] as readonly [number[], number];
      expect(call(m, code), `round ${round}`).toBe(result);
    }
  });

  it('may be forgotten meanwhile, when other code needs the room', () => {
    const m = machine({ translate: false, arenaBytes: 1 << 16 });
    for (let round = 0; round < 8 * ROUNDS; round++) {
      const value = round * 0x1020304;
      expect(call(m, [0xb8, ...word(value), 0x05, ...word(round), 0xc3]), `round ${round}`).toBe((value + round) >>> 0);
      // Functions elsewhere, each once: a hundred of them fill the arena.
      const away = 0x10000 + 64 * round;
      m.memory.slice(away, 30).set([...Array.from({ length: 28 }, () => 0x90), 0xc3]);
      m.engine.codeWritten(away, 30);
      m.memory.slice(0x1000, 6).set([0xe8, ...word(away - 0x1005), 0xf4]);
      m.engine.codeWritten(0x1000, 6);
      m.state.setSlotNumber(SLOT.RIP, 0x1000);
      expect(m.resume(200)).toEqual({ kind: 'stop' });
      m.memory.slice(0x1000, 6).set([0xe8, ...word(F - 0x1005), 0xf4]);
      m.engine.codeWritten(0x1000, 6);
    }
  });

  it('stays as it is when memory changes behind the back of the processor', () => {
    const m = machine({ translate: false });
    for (let round = 0; round < ROUNDS; round++) {
      expect(call(m, [0xb8, ...word(round), 0x05, ...word(7), 0xc3])).toBe(round + 7);
      m.memory.slice(F + 1, 4).set(word(1000));
      m.engine.memoryChanged();
      m.state.setSlotNumber(SLOT.RIP, 0x1000);
      expect(m.resume(200)).toEqual({ kind: 'stop' });
      expect(m.state.slot32(SLOT.RAX), `round ${round}`).toBe(1007);
    }
  });
});
