import { describe, expect, it } from 'vitest';
import { GROWTH_LIMIT_MIB, growth } from './growth.ts';

/** An hour, sampled twice a minute, with a collector's saw teeth. */
const hour = (size: (at: number) => number): number[] => Array.from({ length: 120 }, (_, at) => size(at) + 90 * ((at * 7) % 10) * 0.1);
const grownMiB = (size: (at: number) => number): number => growth(hour(size))?.grownMiB as number;

describe('growth', () => {
  it('is neither the warming of caches nor the saw teeth of a collector', () => {
    expect(grownMiB((at) => 500 - 300 * Math.exp(-at / 10))).toBeLessThan(GROWTH_LIMIT_MIB / 4);
    expect(grownMiB(() => 500)).toBe(0);
  });
  it('is what comes with every sample', () => {
    expect(grownMiB((at) => 400 + 1.7 * at)).toBeGreaterThan(GROWTH_LIMIT_MIB);
  });
  it('says what was least in each third, and nothing of a run that is too short', () => {
    expect(growth([5, 3, 9, 8, 12, 11, 10])).toEqual({ thirds: [3, 8, 10], grownMiB: 2 });
    expect(growth([5, 3])).toBeNull();
  });
});
