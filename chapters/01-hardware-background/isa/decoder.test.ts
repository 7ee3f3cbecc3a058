import { describe, expect, it } from 'vitest';
import { MODE, SEG, SLOT } from '../state.ts';
import { Builder } from './builder.ts';
import { decode } from './decoder.ts';
import { effectiveAddress, type Instruction, NONE, RIP_RELATIVE } from './instruction.ts';
import { INSTRUCTION_SET } from './instruction-set.ts';
import { SYSTEM_OPS } from './system-ops.ts';

const bytes = (hex: string): Uint8Array => Uint8Array.from(hex.split(' ').map((byte) => Number.parseInt(byte, 16)));
function one(hex: string, mode: number = MODE.CODE64): Instruction {
  const code = bytes(hex);
  const decoded = decode(code, 0, code.length, mode);
  if (typeof decoded === 'string') throw new Error(decoded);
  return decoded.insn;
}

describe('prefixes', () => {
  it('set sizes by the mode', () => {
    expect(one('89 c8', MODE.CODE16)).toMatchObject({ name: 'MOV', operandSize: 2, addressSize: 2 });
    expect(one('66 89 c8', MODE.CODE16)).toMatchObject({ operandSize: 4 });
    expect(one('66 89 c8', MODE.CODE32)).toMatchObject({ operandSize: 2 });
    expect(one('66 48 89 c8')).toMatchObject({ operandSize: 8, length: 4 });
    expect(one('67 8b 00')).toMatchObject({ addressSize: 4 });
    expect(one('67 8b 00', MODE.CODE32)).toMatchObject({ addressSize: 2 });
  });
  it('REX counts only directly before the opcode', () => {
    expect(one('48 66 89 c8')).toMatchObject({ operandSize: 2, rex: 0 });
    expect(one('41 50')).toMatchObject({ name: 'PUSH', rm: 8, operandSize: 8 });
  });
  it('of segments: 64-bit code knows FS and GS only', () => {
    expect(one('2e 8b 00')).toMatchObject({ segment: SEG.DS, segmentOverride: NONE });
    expect(one('64 8b 00')).toMatchObject({ segment: SEG.FS });
    expect(one('2e 8b 00', MODE.CODE32)).toMatchObject({ segment: SEG.CS });
  });
  it('LOCK belongs to read-modify-write of memory', () => {
    expect(one('f0 01 08').name).toBe('ADD');
    for (const hex of ['f0 01 c8', 'f0 03 08', 'f0 39 08', 'f0 8b 08', 'f0 90']) expect(one(hex).name).toBe('UD');
  });
  it('an instruction has at most fifteen bytes', () => {
    expect(one(`${'66 '.repeat(14)}90`).length).toBe(15);
    const long = bytes(`${'66 '.repeat(15)}90`);
    expect(decode(long, 0, long.length, MODE.CODE64)).toBe('too-many');
  });
});

describe('operands', () => {
  it('16-bit addressing', () => {
    expect(one('8b 42 fe', MODE.CODE16)).toMatchObject({ base: SLOT.RBP, index: SLOT.RSI, disp: -2n, segment: SEG.SS });
    expect(one('8b 06 34 12', MODE.CODE16)).toMatchObject({ base: NONE, index: NONE, disp: 0x1234n, segment: SEG.DS });
  });
  it('32- and 64-bit addressing', () => {
    expect(one('8b 44 8d 10')).toMatchObject({ base: SLOT.RBP, index: SLOT.RCX, scale: 2, disp: 16n, segment: SEG.SS });
    expect(one('8b 04 24')).toMatchObject({ base: SLOT.RSP, index: NONE, segment: SEG.SS });
    expect(one('42 8b 04 24')).toMatchObject({ base: SLOT.RSP, index: SLOT.R12 }); // REX.X makes "no index" R12
    expect(one('8b 05 fc ff ff ff')).toMatchObject({ base: RIP_RELATIVE, disp: -4n });
    expect(one('8b 05 fc ff ff ff', MODE.CODE32)).toMatchObject({ base: NONE, disp: -4n });
    expect(one('41 8b 45 00')).toMatchObject({ base: SLOT.R13 });
  });
  it('immediates', () => {
    expect(one('48 b8 88 77 66 55 44 33 22 11').imm).toBe(0x1122334455667788n);
    expect(one('83 c0 ff').imm).toBe(-1n);
    expect(one('cd 80')).toMatchObject({ name: 'INT', imm: 0x80n });
    expect(one('ea 78 56 34 12 08 00', MODE.CODE32)).toMatchObject({ name: 'JMP FAR', imm: 0x12345678n, selector: 8 });
    expect(one('c8 00 01 02')).toMatchObject({ name: 'ENTER', imm: 0x100n, selector: 2 });
  });
  it('system instructions say how wide they are and what they load', () => {
    expect(one('e4 60')).toMatchObject({ name: 'IN', bytes: 1, immediate: true, imm: 0x60n });
    expect(one('66 ef')).toMatchObject({ name: 'OUT', bytes: 2, immediate: false });
    expect(one('6e')).toMatchObject({ name: 'OUTS', bytes: 1 });
    expect(one('0f a9')).toMatchObject({ target: SEG.GS });
    expect(one('1f', MODE.CODE16)).toMatchObject({ target: SEG.DS });
    expect(one('0f b2 06 00 00', MODE.CODE16)).toMatchObject({ target: SEG.SS });
    expect(one('44 0f 22 c0')).toMatchObject({ name: 'MOV CR', reg: 8, rm: 0, operandSize: 8 });
    expect(one('0f 01 c1').name).toBe('VMCALL');
    expect(one('f3 0f c7 30').name).toBe('VMXON');
    expect(one('66 0f c7 30').name).toBe('VMCLEAR');
    expect(one('0f c7 30').name).toBe('VMPTRLD');
  });
  it('never reads past the instruction', () => {
    const code = bytes('48 81 84 8b 11 22 33 44 55 66 77 08');
    for (let n = 0; n < code.length; n++) expect(decode(code, 0, n, MODE.CODE64)).toBe('more');
    expect(decode(code, 0, code.length, MODE.CODE64)).toMatchObject({ insn: { length: code.length } });
  });
});

describe('effective addresses', () => {
  it('wrap at the address size', () => {
    const state = { slot: (n: number) => (n === SLOT.RBX ? 0xfff0n : n === SLOT.RSI ? 0x20n : 0n) } as never;
    expect(effectiveAddress(state, one('8b 00', MODE.CODE16))).toBe(0x10n);
    expect(effectiveAddress(state, one('8b 04 33', MODE.CODE32))).toBe(0x10010n);
  });
});

describe('the instruction set', () => {
  it('every encoding in every mode becomes micro-operations that exist', () => {
    let built = 0;
    for (const mode of [MODE.CODE16, MODE.CODE32, MODE.CODE32 | MODE.STACK32 | MODE.FLAT, MODE.CODE16 | MODE.FLAT, MODE.CODE64]) {
      for (const { encodings } of INSTRUCTION_SET) {
        for (const encoding of encodings) {
          for (const prefixes of [[], [0x66], [0x67], [0xf3], [0x64], ...(mode === MODE.CODE64 ? [[0x48]] : [])]) {
            for (const modrm of [0x04, 0x46, 0xc1]) {
              const { opcode, prefix, digit } = encoding;
              const escapes = opcode > 0xffff ? [opcode >> 16, (opcode >> 8) & 0xff] : opcode > 0xff ? [opcode >> 8] : [];
              const tail = encoding.modrm >= 0 ? encoding.modrm : digit >= 0 ? (modrm & 0xc7) | (digit << 3) : modrm;
              const code = Uint8Array.from([
                ...(prefix ? [prefix] : []),
                ...prefixes,
                ...escapes,
                opcode & 0xff,
                tail,
                31,
                31,
                31,
                31,
                31,
                31,
                31,
                31,
                31,
              ]);
              const decoded = decode(code, 0, code.length, mode);
              if (typeof decoded === 'string') throw new Error(`${encoding.definition.name}: ${decoded}`);
              const builder = new Builder(decoded.insn, decoded.encoding, mode);
              decoded.encoding.definition.build?.(builder);
              built += builder.micros.length;
            }
          }
        }
      }
    }
    expect(built).toBeGreaterThan(10_000);
  });
  it('every system operation has an encoding', () => {
    const recognised = new Set(INSTRUCTION_SET.map(({ system }) => system));
    expect(SYSTEM_OPS.filter((op) => !recognised.has(op))).toEqual([]);
  });
});
