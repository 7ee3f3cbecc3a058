import { describe, expect, it } from 'vitest';
import { SLOT } from '../state.ts';
import { FlatMachine } from './flat-machine.ts';

const hex = (text: string): number[] => text.split(' ').map((byte) => Number.parseInt(byte, 16));
const word = (value: number): number[] => [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, (value >>> 24) & 0xff];

/** Counts how often a machine is asked for a translation. */
class Asked extends FlatMachine {
  count = 0;
  override translate(linear: bigint, bytes: number, access: number): number {
    this.count++;
    return super.translate(linear, bytes, access);
  }
}

const OPTIONS = [
  { translate: false },
  { translate: true, heat: 0 }, // translated at once
  { translate: true, heat: 50 },
];

describe('stores to a page that holds code', () => {
  it.each(OPTIONS)('cost nothing beside the code: %o', (options) => {
    const m = new Asked(32, 1 << 20, options);
    // mov ecx,1000; again: mov [1800],ecx; add eax,[1800]; mov [1ff8],cl; dec ecx; jnz again; hlt
    m.run([0xb9, ...word(1000), 0x89, 0x0d, ...word(0x1800), 0x03, 0x05, ...word(0x1800), 0x88, 0x0d, ...word(0x1ff8), 0x49, 0x75, 0xeb, 0xf4], {
      instructions: 1e5,
    });
    expect(m.state.slot32(SLOT.RAX)).toBe(500_500);
    expect(m.count).toBeLessThan(20);
  });

  it.each(OPTIONS)('cost nothing in a number that is rewritten all the time: %o', (options) => {
    const m = new Asked(32, 1 << 20, options);
    // mov ecx,1000; again: mov [imm],ecx; call f; dec ecx; jnz again; hlt; f: mov edx,imm; add eax,edx; ret
    m.state.setSlotNumber(SLOT.RSP, 0x8000);
    m.run([0xb9, ...word(1000), 0x89, 0x0d, ...word(0x1101), 0xe8, ...word(0x1100 - 0x1010), 0x49, 0x75, 0xf2, 0xf4], { instructions: 0 });
    m.memory.slice(0x1100, 8).set([0xba, ...word(0), 0x01, 0xd0, 0xc3]);
    m.resume(1e5);
    expect(m.state.slot32(SLOT.RAX)).toBe(500_500);
    expect(m.count).toBeLessThan(60);
  });

  it.each(OPTIONS)('are noticed in every byte of an instruction but those: %o', (options) => {
    const m = new FlatMachine(32, 1 << 20, options);
    m.state.setSlotNumber(SLOT.RSP, 0x8000);
    // The same loop; the function is `add eax,imm32; ret`, and from outside, now and then, `sub eax,imm32` or `xor eax,imm32`.
    m.run([0xb9, ...word(100_000), 0x89, 0x0d, ...word(0x1101), 0xe8, ...word(0x1100 - 0x1010), 0x49, 0x75, 0xf2, 0xf4], { instructions: 0 });
    m.memory.slice(0x1100, 6).set([0x05, ...word(0), 0xc3]);
    let expected = 0;
    let count = 100_000;
    for (let round = 0; round < 60; round++) {
      const opcode = [0x05, 0x2d, 0x35][round % 3] as number;
      m.engine.codeWritten(0x1100, 1);
      m.memory.slice(0x1100, 1)[0] = opcode;
      m.resume(round === 0 ? 1 + 600 : 600); // six instructions a round
      for (let n = 0; n < 100; n++, count--)
        expected = (opcode === 0x05 ? expected + count : opcode === 0x2d ? expected - count : expected ^ count) >>> 0;
      expect(m.state.slot32(SLOT.RAX), `round ${round}`).toBe(expected);
    }
  });

  // What was translated before the page got its account is in the account: else the first region that goes takes others' counts with it.
  it.each(OPTIONS)('are noticed in what is left when a part of the code has gone: %o', (options) => {
    const m = new FlatMachine(32, 1 << 20, options);
    m.state.setSlotNumber(SLOT.RSP, 0x8000);
    m.memory.slice(0x1400, 3).set(hex('40 40 c3')); // f: inc eax; g: inc eax; ret
    const call = (at: number, to: number): number[] => [0xe8, ...word(to - at - 5)];
    const store = (at: number, byte: number): number[] => [0xc6, 0x05, ...word(at), byte];
    // mov ecx,200; again: call f; call g; mov [1480],ecx; dec ecx; jnz again
    const loop = [0xb9, ...word(200), ...call(0x1005, 0x1400), ...call(0x100a, 0x1401), 0x89, 0x0d, ...word(0x1480), 0x49, 0x75, 0xed];
    // f's first instruction again, as it was; then g's, which becomes inc ebx; call g; hlt
    const end = 0x1000 + loop.length;
    m.run([...loop, ...store(0x1400, 0x40), ...store(0x1401, 0x43), ...call(end + 14, 0x1401), 0xf4], { instructions: 1e5 });
    expect(m.state.slot32(SLOT.RAX)).toBe(600);
    expect(m.state.slot32(SLOT.RBX)).toBe(1);
  });

  it('an instruction that rewrites its own number has been fetched before', () => {
    const m = new FlatMachine(32, 1 << 20, { translate: false });
    // mov ecx,100; again: add dword [imm], 1 where imm is its own immediate; dec ecx; jnz again; hlt
    m.run([0xb9, ...word(100), 0x81, 0x05, ...word(0x100b), ...word(1), 0x49, 0x75, 0xf3, 0xf4], { instructions: 1e4 });
    const number = m.memory.view.getUint32(m.memory.ramOffset + 0x100b, true);
    let expected = 1;
    for (let n = 0; n < 100; n++) expected = (2 * expected) >>> 0; // it adds what it holds, to what it holds
    expect(number).toBe(expected);
  });

  it('of several sizes, across the border between code and data', () => {
    const m = new FlatMachine(64, 1 << 20, { translate: false });
    m.memory.slice(0x1400, 4).set(hex('b0 01 c3 90')); // mov al,1; ret
    m.state.setSlotNumber(SLOT.RSP, 0x8000);
    // Many stores of 1, 2, 4 and 8 bytes right behind the function and right before it, then each of them one byte further in.
    const call = [0xe8, ...word(0)];
    const put = (bytes: number[], at: number): number[] => [...bytes, ...word(at)];
    const stores: [number[], number][] = [
      [[0x88, 0x1c, 0x25], 1],
      [[0x66, 0x89, 0x1c, 0x25], 2],
      [[0x89, 0x1c, 0x25], 4],
      [[0x48, 0x89, 0x1c, 0x25], 8],
    ];
    for (const [opcode, bytes] of stores) {
      m.engine.codeWritten(0x1400, 3);
      m.memory.slice(0x1400, 3).set(hex('b0 01 c3'));
      m.state.setSlot(SLOT.RBX, 0xc3c3_c3c3_c3c3_c3c3n);
      const program = (at: number): number[] => {
        const code = [...call, ...Array.from({ length: 12 }, () => put(opcode, at)).flat(), ...call, 0xf4];
        code.splice(1, 4, ...word(0x1400 - 0x1005));
        code.splice(code.length - 5, 4, ...word(0x1400 - (0x1000 + code.length - 1)));
        return code;
      };
      for (const [at, result] of [
        [0x1403, 1],
        [0x1400 - bytes, 1],
        [0x1401 - bytes, 0],
      ] as const) {
        m.state.setSlot(SLOT.RAX, 0n);
        m.memory.slice(0x1400, 3).set(hex('b0 01 c3'));
        m.run(program(at));
        if (result === 0) m.state.setSlot(SLOT.RAX, 0n);
        m.state.setSlotNumber(SLOT.RIP, 0x1000 + program(at).length - 6);
        m.resume(10);
        expect(m.state.slot32(SLOT.RAX), `${bytes} bytes at ${at.toString(16)}`).toBe(result);
      }
    }
  });
});
