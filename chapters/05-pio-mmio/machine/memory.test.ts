// The map as the kernel is told it, and what devices reach through it.

import { afterEach, describe, expect, it } from 'vitest';
import { softKernel } from '../../03-vcpu-loop/kernel/index.ts';
import { Machine } from '../../03-vcpu-loop/vmm.ts';
import { PAM_AREAS, type PamArea } from '../pci/pam.ts';
import { PcMemory, SHADOW_WINDOW } from './memory.ts';

const MIB = 1 << 20;
const rom = Uint8Array.from({ length: 256 << 10 }, (_, at) => (at >> 8) & 0xff);
const area = (gpa: number): PamArea => PAM_AREAS.find(({ start, bytes }) => gpa >= start && gpa < start + bytes) as PamArea;

describe('a PC’s memory', () => {
  let machine: Machine | null = null;
  const make = (withRom: boolean): PcMemory => {
    const memory = new PcMemory({ ramBytes: 4 * MIB, rom: withRom ? rom : null });
    machine = new Machine({ kernel: softKernel(), layout: memory.layout, prepare: (board) => memory.install(board) });
    return memory;
  };
  const read = (memory: PcMemory, gpa: number): number | null => {
    const byte = Uint8Array.of(0xee);
    return memory.read(gpa, byte) ? (byte[0] as number) : null;
  };
  afterEach(() => {
    machine?.dispose();
    machine = null;
  });

  it('has a ROM at both ends, a hole for the display, and RAM elsewhere', () => {
    const memory = make(true);
    expect(read(memory, 0x1000)).toBe(0);
    expect(read(memory, 0xa_0000)).toBe(null);
    expect(read(memory, 0xc_0000)).toBe(null);
    expect(read(memory, 0xf_ff00)).toBe(0xff);
    expect(read(memory, 0xe_0000)).toBe(0); // byte 128 KiB of the ROM: 0x200, of which the low half
    expect(read(memory, 0xffff_ff00)).toBe(0xff);
    expect(read(memory, 0xfffc_0100)).toBe(1);
    expect(read(memory, 4 * MIB - 1)).toBe(0);
    expect(read(memory, 4 * MIB)).toBe(null);
    expect(memory.write(0xf_ff00, Uint8Array.of(1))).toBe(false);
    expect(read(memory, 0xf_ff00)).toBe(0xff);
  });
  it('has plain RAM without firmware', () => {
    const memory = make(false);
    expect(memory.write(0xb_8000, Uint8Array.of(7))).toBe(true);
    expect(read(memory, 0xb_8000)).toBe(7);
    memory.shadow(area(0xf_0000), { read: true, write: false });
    expect(memory.write(0xf_0000, Uint8Array.of(9))).toBe(true);
  });
  it('switches each area between ROM and RAM', () => {
    const memory = make(true);
    const last = area(0xf_0000);
    memory.shadow(last, { read: true, write: true });
    expect(read(memory, 0xf_ff00)).toBe(0);
    expect(memory.write(0xf_ff00, Uint8Array.of(0x5a))).toBe(true);
    memory.shadow(last, { read: true, write: false });
    expect(memory.write(0xf_ff00, Uint8Array.of(1))).toBe(false);
    expect(read(memory, 0xf_ff00)).toBe(0x5a);
    memory.shadow(last, { read: false, write: false });
    expect(read(memory, 0xf_ff00)).toBe(0xff);
    memory.shadow(area(0xc_4000), { read: true, write: true });
    expect([read(memory, 0xc_3fff), read(memory, 0xc_4000), read(memory, 0xc_7fff), read(memory, 0xc_8000)]).toEqual([null, 0, 0, null]);
  });
  it('writes the RAM beneath a ROM where only writes are led there', () => {
    const memory = make(true);
    const offset = 0xf_1234 - SHADOW_WINDOW.gpa;
    memory.shadowWindow.write(offset, 2, 0xbeefn);
    memory.shadow(area(0xf_0000), { read: false, write: true });
    memory.shadowWindow.write(offset + 2, 2, 0xcafen);
    expect(read(memory, 0xf_1234)).toBe(0x12); // still the ROM
    memory.shadow(area(0xf_0000), { read: true, write: true });
    expect([0, 1, 2, 3].map((at) => read(memory, 0xf_1234 + at))).toEqual([0, 0, 0xfe, 0xca]);
  });
  it('does the part of a transfer that is memory', () => {
    const memory = make(true);
    const bytes = Uint8Array.of(1, 2, 3, 4);
    expect(memory.write(4 * MIB - 2, bytes)).toBe(false);
    expect([read(memory, 4 * MIB - 2), read(memory, 4 * MIB - 1)]).toEqual([1, 2]);
    const into = new Uint8Array(4).fill(9);
    expect(memory.read(4 * MIB - 2, into)).toBe(false);
    expect([...into]).toEqual([1, 2, 9, 9]);
    for (const gpa of [-1, Number.NaN, 2 ** 60]) expect(memory.read(gpa, into)).toBe(false);
  });
  it('grows while it runs', () => {
    const memory = make(true);
    expect(read(memory, 2 ** 32)).toBe(null);
    expect(memory.hotAdd(2 * MIB)).toBe(2 ** 32);
    expect(memory.hotAdd(1 * MIB)).toBe(2 ** 32 + 2 * MIB);
    expect(memory.write(2 ** 32 + 2 * MIB - 1, Uint8Array.of(5, 6))).toBe(true);
    expect(() => memory.hotAdd(5)).toThrow(RangeError);
  });
  it('refuses sizes', () => {
    for (const ramBytes of [0, MIB, 2 * MIB + 4096, Number.NaN]) expect(() => new PcMemory({ ramBytes })).toThrow(RangeError);
    for (const bytes of [0, 100, 17 * MIB]) expect(() => new PcMemory({ ramBytes: 4 * MIB, rom: new Uint8Array(bytes) })).toThrow(RangeError);
  });
  it('splits RAM around the device window', () => {
    const memory = new PcMemory({ ramBytes: 3072 * MIB });
    expect([memory.lowBytes, memory.highBytes]).toEqual([0xb000_0000, 3072 * MIB - 0xb000_0000]);
    // What is reserved must not touch the display's window: Linux would take it away from the PCI bus.
    const low = memory.ranges.filter(({ start }) => start < 0x10_0000).map(({ start, bytes }) => [start, start + bytes]);
    expect(low).toEqual([
      [0, 0x9_fc00],
      [0x9_fc00, 0xa_0000],
      [0xc_0000, 0x10_0000],
    ]);
    expect(memory.ranges.at(-1)).toEqual({ start: 2 ** 32, bytes: memory.highBytes, type: 1 });
  });
});
