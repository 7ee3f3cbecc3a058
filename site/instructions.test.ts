import { describe, expect, it } from 'vitest';
import { INSTRUCTION_SET } from '../chapters/01-hardware-background/isa/instruction-set.ts';
import { readInstructions } from './instructions.ts';
import { ROOT, readRooms } from './tree.ts';

const modules = readRooms(ROOT).find(({ number }) => number === 1)?.modules ?? [];
const entries = readInstructions(modules);
const entry = (name: string): (typeof entries)[number] => {
  const found = entries.find((one) => one.name === name);
  if (!found) throw new Error(name);
  return found;
};

describe('the reference of the instructions', () => {
  it('has every instruction once, at a line that defines it', () => {
    expect(entries.map(({ name }) => name)).toEqual([...new Set(INSTRUCTION_SET.map(({ name }) => name))]);
    for (const [name, on] of [
      ['ADD', /instruction\('ADD'/],
      ['PADDB', /lanes\('PADDB'/],
      ['CMOVZ', /CMOV\$\{/],
      ['PUSH ES', /PUSH \$\{/],
      ['SQRTPD', /'SQRT'/],
      ['MOVBE', /instruction\('MOVBE'/],
    ] as const) {
      const { module, line } = entry(name);
      expect(module.text.split('\n')[line - 1], name).toMatch(on);
    }
  });
  it('says what each does', () => {
    expect(entries.filter(({ does }) => does === '').map(({ name }) => name)).toEqual([]);
    expect(entry('PADDB').does).toBe('adds bytes');
    expect(entry('LEA').does).toBe('Computes an address and accesses nothing');
  });
  it('splits forms into opcode, operands, remarks and feature', () => {
    expect(entry('PADDB').forms).toEqual([
      { opcode: '0FFC', operands: ['Pq', 'Qq'], remarks: ['bare'], feature: 'MMX' },
      { opcode: '66.0FFC', operands: ['Vx', 'Wx'], remarks: [], feature: 'SSE2' },
    ]);
    expect(entry('BSWAP').forms).toHaveLength(1); // eight opcodes
  });
});
