import { describe, expect, it } from 'vitest';
import { Builder } from '../isa/builder.ts';
import { decode } from '../isa/decoder.ts';
import type { Encoding } from '../isa/encoding.ts';
import type { Instruction } from '../isa/instruction.ts';
import { MODE, SLOT } from '../state.ts';
import { Draft } from './draft.ts';
import { FlatMachine } from './flat-machine.ts';
import { InstructionShapes } from './instruction-shapes.ts';
import { microOp, ONCE } from './micro-ops.ts';

const hex = (text: string): number[] => text.split(' ').map((byte) => Number.parseInt(byte, 16));

describe('code that is rewritten all the time', () => {
  // Each round writes other code over the last, so that all kinds of instruction have been met before, and some immediates are loose.
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

describe('shapes', () => {
  const once = new Set([...ONCE].map(microOp));
  const MODES = [MODE.CODE16, MODE.CODE32 | MODE.STACK32 | MODE.FLAT, MODE.CODE64 | MODE.STACK32 | MODE.FLAT];
  /** Two's complement, 0 to 255, with a liking for what is special. */
  const byteOf = (random: () => number): number => {
    const n = random();
    return n < 0.1 ? 0 : n < 0.2 ? 0xff : n < 0.25 ? 0x80 : Math.floor(random() * 256);
  };
  const generator = (seed: number) => (): number => {
    seed = (Math.imul(seed, 1664525) + 1013904223) | 0;
    return (seed >>> 8) / 2 ** 24;
  };

  it('of arbitrary bytes give what decoding them gives, whatever the numbers in them', () => {
    const shapes = new InstructionShapes(once);
    const random = generator(1);
    let written = 0;
    for (let n = 0; n < 6000; n++) {
      const mode = n % MODES.length;
      const bits = MODES[mode] as number;
      const make = (insn: Instruction, encoding: Encoding) => {
        const builder = new Builder(insn, encoding, bits);
        encoding.definition.build?.(builder);
        return builder.micros;
      };
      const prefixes = [[], [0x66], [0x0f], [0x66, 0x0f], [0x48], [0xf0], [0x67], [0xf3, 0x0f], [0x0f, 0x38], [0xc4]][
        Math.floor(random() * 10)
      ] as number[];
      const bytes = Uint8Array.from([...prefixes, ...Array.from({ length: 16 }, () => byteOf(random))]);
      for (let variant = 0; variant < 5; variant++) {
        const decoded = decode(bytes, 0, bytes.length, bits);
        if (typeof decoded === 'string') break;
        const { insn, encoding, displacementBytes, immediateBytes } = decoded;
        if (encoding.definition.system) break;
        const shape = shapes.find(bytes, 0, bytes.length, mode);
        const draft = new Draft(once);
        if (shape?.template) {
          const expected = new Draft(once);
          expected.append(make(insn, encoding));
          shapes.write(shape, bytes, 0, draft);
          const same = shape.length === insn.length && draft.count === expected.count && draft.words.every((word, at) => word === expected.words[at]);
          if (!same) expect.fail(`${encoding.definition.name} ${encoding.text}`);
          written++;
        } else shapes.learn(bytes, 0, mode, decoded, false, shape, make);
        for (let at = insn.length - displacementBytes - immediateBytes; at < insn.length; at++) bytes[at] = byteOf(random);
      }
    }
    expect(written).toBeGreaterThan(8000);
    expect(shapes.size).toBeGreaterThan(1000);
  });

  it('are needed for an instruction only once in a block where one record is enough', () => {
    const shapes = new InstructionShapes(once);
    const code = Uint8Array.of(0x0f, 0x58, 0xc1); // addps xmm0, xmm1
    const mode = MODES[1] as number;
    const decoded = decode(code, 0, 3, mode);
    if (typeof decoded === 'string') throw new Error(decoded);
    const make = (insn: Instruction, encoding: Encoding) => {
      const builder = new Builder(insn, encoding, mode);
      encoding.definition.build?.(builder);
      return builder.micros;
    };
    shapes.learn(code, 0, 1, decoded, false, null, make);
    const shape = shapes.find(code, 0, 3, 1);
    shapes.learn(code, 0, 1, decoded, false, shape, make);
    const draft = new Draft(once);
    for (let n = 0; n < 2; n++) shapes.write(shape as NonNullable<typeof shape>, code, 0, draft);
    expect(draft.count).toBe(2 * make(decoded.insn, decoded.encoding).length - 1);
    expect(shapes.find(code, 0, 2, 1)).toBeNull(); // its last byte lies beyond the end
  });
});
