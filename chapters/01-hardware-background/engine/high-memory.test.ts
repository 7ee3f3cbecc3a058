// RAM above 2 GiB: a buffer offset there is a negative number to everything that takes it for a signed one. The same program runs below and above.

import { describe, expect, it } from 'vitest';
import { EPT_ACCESS, EptWalker } from '../mmu/ept.ts';
import { PhysicalMemory } from '../physical-memory.ts';
import { SLOT } from '../state.ts';
import { FlatMachine } from './flat-machine.ts';

const GIB = 2 ** 30;
const RAM = 2.5 * GIB;
const HIGH = 2.25 * GIB;

const word = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);

/** Stores, copies across pages, rewrites an immediate of its own, and leaves a sum of all that in RAX and RBX. R15: where its data are. */
function program(base: number, at: number): number[] {
  const [data, copy] = [0x10000, 0x12ffc];
  const code = [0x49, 0xbf, ...word(base), 0, 0, 0, 0]; // mov r15, base
  code.push(0x49, 0x8d, 0xbf, ...word(data), 0xb9, ...word(512)); // lea rdi, [r15+data]; mov ecx, 512
  code.push(0x48, 0x89, 0x4c, 0xcf, 0xf8, 0xe2, 0xf9); // again: mov [rdi+rcx*8-8], rcx; loop again
  code.push(0x49, 0x8d, 0xb7, ...word(data), 0x49, 0x8d, 0xbf, ...word(copy)); // lea rsi, [r15+data]; lea rdi, [r15+copy]
  code.push(0xb9, ...word(512), 0xf3, 0x48, 0xa5); // mov ecx, 512; rep movsq
  code.push(0x31, 0xc0, 0x49, 0x8d, 0xb7, ...word(copy), 0xb9, ...word(512)); // xor eax, eax; lea rsi, [r15+copy]; mov ecx, 512
  code.push(0x48, 0xd1, 0xc0, 0x48, 0x03, 0x06, 0x48, 0x83, 0xc6, 0x08, 0xe2, 0xf4); // again: rol rax, 1; add rax, [rsi]; add rsi, 8; loop again
  code.push(0xb9, ...word(100)); // mov ecx, 100
  const immediate = at - base + code.length + 7 + 2;
  code.push(0x41, 0x88, 0x8f, ...word(immediate), 0x48, 0x05, ...word(0x55), 0xe2, 0xf1); // again: mov [immediate], cl; add rax, immediate; loop again
  code.push(0xf3, 0x41, 0x0f, 0x6f, 0x87, ...word(copy), 0xf3, 0x41, 0x0f, 0x7f, 0x87, ...word(copy + 0xffc)); // movdqu there and back, across a page
  code.push(0x49, 0x03, 0x87, ...word(copy + 0x1000)); // add rax, [r15+copy+4096]
  code.push(0x49, 0x8d, 0xa7, ...word(0x20000), 0x50, 0x5b, 0xf4); // lea rsp, [r15+0x20000]; push rax; pop rbx; hlt
  return code;
}

/** What comes out, for beginnings of the code that put the end of a page into each of its instructions. */
function results(base: number, translate: boolean): string[] {
  const machine = new FlatMachine(64, RAM, { translate, heat: translate ? 0 : 1 });
  const out = new Set<string>();
  for (let start = 0xf40; start < 0x1000; start += translate ? 7 : 1) {
    machine.memory.slice(base, 0x30000).fill(0);
    const at = base + start;
    const { kind } = machine.run(program(base, at), { at, instructions: 100_000 });
    out.add(`${kind} ${machine.state.slot(SLOT.RAX).toString(16)} ${machine.state.slot(SLOT.RBX).toString(16)}`);
  }
  return [...out];
}

describe('RAM above 2 GiB', () => {
  it('runs code as RAM below does, interpreted and translated', { timeout: 60_000 }, () => {
    const below = results(0x10_0000, false);
    expect(below).toHaveLength(1);
    expect(below[0]).toMatch(/^stop [1-9a-f]/);
    expect(results(HIGH, false)).toEqual(below);
    expect(results(HIGH, true)).toEqual(below);
  });

  it('may hold second-stage tables, and they are marked', () => {
    const memory = new PhysicalMemory({ ramBytes: RAM, privateBytes: 1 << 20 });
    const at = (address: number): number => memory.offset(address, 8);
    for (const [level, next] of [1, 2, 3].entries()) memory.view.setUint32(at(HIGH + level * 4096), HIGH + next * 4096 + 7, true);
    memory.view.setUint32(at(HIGH + 3 * 4096), HIGH + 0x37, true);
    const walker = new EptWalker(memory, null);
    const context = { root: HIGH, accessedDirty: true, executeOnly: true };
    expect(walker.translate(context, 0x123, { kind: EPT_ACCESS.WRITE, origin: 0, linear: null })).toBe(HIGH + 0x123);
    expect([0, 1, 2, 3].map((level) => memory.view.getUint32(at(HIGH + level * 4096), true) & 0x300)).toEqual([0x100, 0x100, 0x100, 0x300]);
  });
});
