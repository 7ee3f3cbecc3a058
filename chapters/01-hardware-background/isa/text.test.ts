import { describe, expect, it } from 'vitest';
import { FLAT_MODE } from '../engine/flat-machine.ts';
import { decode } from './decoder.ts';
import { textOf } from './text.ts';

const text = (bits: 16 | 32 | 64, bytes: number[], rip: bigint | null = null): string => {
  const decoded = decode(Uint8Array.from(bytes), 0, bytes.length, FLAT_MODE[bits]);
  if (typeof decoded === 'string') throw new Error(decoded);
  return textOf(decoded, rip);
};

describe('an instruction as text', () => {
  it.each<[16 | 32 | 64, number[], string]>([
    [32, [0x8b, 0x1e], 'MOV EBX, DWORD [ESI]'],
    [64, [0x48, 0x01, 0xd8], 'ADD RAX, RBX'],
    [64, [0x44, 0x88, 0xe4], 'MOV SPL, R12B'],
    [32, [0x88, 0xe4], 'MOV AH, AH'],
    [16, [0xc1, 0xe3, 0x03], 'SHL BX, 3'],
    [64, [0x64, 0x48, 0x8b, 0x84, 0x8b, 0xf0, 0xff, 0xff, 0xff], 'MOV RAX, QWORD FS:[RBX+RCX*4-0x10]'],
    [64, [0x8b, 0x05, 0x10, 0, 0, 0], 'MOV EAX, DWORD [RIP+0x10]'],
    [32, [0xf3, 0xa4], 'REP MOVS BYTE ES:[EDI], BYTE DS:[ESI]'],
    [32, [0xf0, 0x0f, 0xb1, 0x0b], 'LOCK CMPXCHG DWORD [EBX], ECX'],
    [32, [0x75, 0xfe], 'JNZ $+0'],
    [16, [0xea, 0x00, 0x7c, 0x00, 0xf0], 'JMP FAR 0xf000:0x7c00'],
    [64, [0x0f, 0x22, 0xd8], 'MOV CR3, RAX'],
    [32, [0x0f, 0x20, 0xc0], 'MOV EAX, CR0'],
    [16, [0xc8, 0x10, 0x00, 0x02], 'ENTER 0x10, 2'],
  ])('%i-bit %j', (bits, bytes, expected) => expect(text(bits, bytes)).toBe(expected));

  it('shows where a relative jump goes', () => {
    expect(text(32, [0x75, 0xfe], 0x1000n)).toBe('JNZ 0x1000');
    expect(text(64, [0xe8, 0, 0, 0, 0], 0x1000n)).toBe('CALL 0x1005');
  });
});
