import { describe, expect, it } from 'vitest';
import { LEVEL } from './kernel/ept-tables.ts';
import { measure, REMAPPED, SWITCHES, TOUCHED } from './workloads.ts';

const total = (exits: Readonly<Record<string, number>>): number => Object.values(exits).reduce((sum, n) => sum + n, 0);

describe('memory touched page by page', () => {
  const small = measure('touch', { largest: LEVEL.PAGE_4K });
  const large = measure('touch');
  const shadow = measure('touch', { memory: 'shadow' });
  it('costs an exit for each page the first time, or one for each large page', () => {
    expect(small.cold.exits.EPT_VIOLATION).toBeGreaterThanOrEqual(TOUCHED);
    expect(large.cold.exits.EPT_VIOLATION).toBeLessThan(TOUCHED / 512 + 8);
    expect(shadow.cold.exits.EXCEPTION_NMI).toBeGreaterThanOrEqual(TOUCHED);
  });
  it('costs walks only from then on, and shadow tables have the shortest', () => {
    for (const { warm } of [small, large, shadow]) expect(warm.exits).toEqual({ HLT: 1 });
    const references = [small, large, shadow].map(({ warm: { walks } }) => (walks.stage1 + walks.stage2) / walks.walks);
    expect(references).toEqual([24, 19, 4]);
  });
  it('is the same program everywhere', () => {
    expect(new Set([small, large, shadow].map(({ warm }) => warm.instructions)).size).toBe(1);
  });
});

describe('processes that take turns', () => {
  it('cost an exit for each switch on shadow tables, and none with a second stage', () => {
    expect(measure('switch').warm.exits).toEqual({ HLT: 1 });
    expect(measure('switch', { memory: 'shadow' }).warm.exits).toEqual({ CR_ACCESS: SWITCHES, HLT: 1 });
  });
});

describe('pages that are mapped and unmapped', () => {
  it('cost several exits each on shadow tables, and none with a second stage', () => {
    expect(measure('remap').warm.exits).toEqual({ HLT: 1 });
    const { exits } = measure('remap', { memory: 'shadow' }).warm;
    expect(exits.INVLPG).toBe(REMAPPED);
    expect(total(exits)).toBeGreaterThan(2 * REMAPPED);
  });
});
