import { describe, expect, it } from 'vitest';
import { softKernel } from '../../03-vcpu-loop/kernel/index.ts';
import { Machine } from '../../03-vcpu-loop/vmm.ts';
import { biosServices } from './services.ts';

// The guest asks by INT, stores what it gets at 0x3000, and halts. Its code is in real mode at 0x2000, with all segments at 0.

const MAP = [
  { start: 0, bytes: 0x9_fc00, type: 1 },
  { start: 0x9_fc00, bytes: 0x6_0400, type: 2 },
  { start: 0x10_0000, bytes: 31 << 20, type: 1 },
];

function asked(code: readonly number[]): { ram: DataView; console: string; end: string } {
  const machine = new Machine({ kernel: softKernel({ ramBytes: 34 << 20 }), ramBytes: 32 << 20 });
  try {
    machine.load(Uint8Array.from([...code, 0xf4]), { door: 'flat', flatGpa: 0x2000 });
    for (const { gpa, bytes } of biosServices(MAP)) machine.ram.set(bytes, gpa);
    const { end, console } = machine.run({ exits: 1000 });
    return { ram: new DataView(machine.ram.slice(0, 0x4000).buffer), console: String.fromCharCode(...console), end };
  } finally {
    machine.dispose();
  }
}

const movAx = (value: number): number[] => [0xb8, value & 0xff, value >> 8];
const STORE_AX = [0xa3, 0x00, 0x30]; // mov [0x3000], ax
const STORE_FLAGS = [0x9c, 0x8f, 0x06, 0x10, 0x30]; // pushf; pop word [0x3010]
const CF = 1;

describe('just enough of a BIOS', () => {
  it('gives the memory map, range by range, until there is no next', () => {
    const call = [
      ...[0x66, 0x31, 0xdb], // xor ebx, ebx
      ...[0xbf, 0x20, 0x30], // mov di, 0x3020
      // again:
      ...[0x66, 0xb8, 0x20, 0xe8, 0, 0], // mov eax, 0xe820
      ...[0x66, 0xba, 0x50, 0x41, 0x4d, 0x53], // mov edx, 'SMAP'
      ...[0x66, 0xb9, 0x18, 0, 0, 0], // mov ecx, 24
      ...[0xcd, 0x15], // int 0x15
      ...[0x72, 0x0a], // jc done
      ...[0x01, 0xcf], // add di, cx
      ...[0xff, 0x06, 0x00, 0x30], // inc word [0x3000]
      ...[0x85, 0xdb], // test bx, bx
      ...[0x75, 0xe0], // jnz again
      ...[0x66, 0xa3, 0x08, 0x30], // done: mov [0x3008], eax
    ];
    const { ram, end } = asked(call);
    expect(end).toBe('halt');
    expect(ram.getUint16(0x3000, true)).toBe(3);
    expect(ram.getUint32(0x3008, true)).toBe(0x534d4150);
    for (const [index, { start, bytes, type }] of MAP.entries()) {
      const at = 0x3020 + 20 * index;
      expect([ram.getBigUint64(at, true), ram.getBigUint64(at + 8, true), ram.getUint32(at + 16, true)]).toEqual([
        BigInt(start),
        BigInt(bytes),
        type,
      ]);
    }
  });
  it.each([
    ['the map without its signature', [0x66, 0xb8, 0x20, 0xe8, 0, 0, 0x66, 0x31, 0xdb, 0x66, 0x31, 0xd2, 0xb9, 24, 0, 0xcd, 0x15], 0x8620, CF],
    ['memory in KiB', [...movAx(0x8800), 0xcd, 0x15], 31 * 1024, 0],
    ['memory below 16 MiB', [...movAx(0xe801), 0xcd, 0x15], 15 * 1024, 0],
    ['blocks above it', [...movAx(0xe801), 0xcd, 0x15, 0x89, 0xd8], (16 << 20) >> 16, 0],
    ['the A20 gate', [...movAx(0x2401), 0xcd, 0x15], 0x2401, 0],
    ['what nobody knows', [...movAx(0x5300), 0xcd, 0x15], 0x8600, CF],
    ['conventional memory', [0xcd, 0x12], 639, 0],
    ['a disk', [...movAx(0x0201), 0xcd, 0x13], 0x0101, CF],
    ['the video mode', [...movAx(0x0f00), 0xcd, 0x10], 0x5003, 0],
    ['an interrupt without a service', [...movAx(0x1234), 0xcd, 0x77], 0x1234, 0],
  ])('answers about %s', (_, code, ax, carry) => {
    const { ram } = asked([0xf8, ...code, ...STORE_FLAGS, ...STORE_AX]);
    expect([ram.getUint16(0x3000, true), ram.getUint16(0x3010, true) & CF]).toEqual([ax, carry]);
  });
  it('has no key for who looks', () => {
    const { ram } = asked([...movAx(0x0100), 0xcd, 0x16, ...STORE_FLAGS]);
    expect(ram.getUint16(0x3010, true) & 0x40).toBe(0x40); // ZF
  });
  it('writes to the serial port, and keeps the registers', () => {
    const { console, ram } = asked([
      0xba,
      0x34,
      0x12,
      ...movAx(0x0e48),
      0xcd,
      0x10,
      ...movAx(0x0e69),
      0xcd,
      0x10,
      0x89,
      0x16,
      0x02,
      0x30,
      ...STORE_AX,
    ]);
    expect(console).toBe('Hi');
    expect([ram.getUint16(0x3000, true), ram.getUint16(0x3002, true)]).toEqual([0x0e69, 0x1234]);
  });
});
