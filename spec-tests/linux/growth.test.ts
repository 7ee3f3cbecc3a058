import { describe, expect, it } from 'vitest';
import { GROWTH_LIMIT_MIB, growth } from './growth.ts';

/** An hour, sampled twice a minute, with a collector's saw teeth. */
const hour = (size: (at: number) => number): number[] => Array.from({ length: 120 }, (_, at) => size(at) + 90 * ((at * 7) % 10) * 0.1);
const grownMiB = (size: (at: number) => number): number => growth(hour(size))?.grownMiB as number;

describe('growth', () => {
  it('is neither the warming of caches nor the saw teeth of a collector', () => {
    expect(grownMiB((at) => 500 - 300 * Math.exp(-at / 10))).toBeLessThan(GROWTH_LIMIT_MIB / 4);
    expect(grownMiB(() => 500)).toBe(0);
    expect(grownMiB((at) => (at < 47 ? 472 : at < 60 ? 507 : 521))).toBeLessThan(GROWTH_LIMIT_MIB / 2); // caches that fill late, where the host is busy
  });
  it('is what comes with every sample', () => {
    expect(grownMiB((at) => 400 + 1.7 * at)).toBeGreaterThan(GROWTH_LIMIT_MIB);
  });
  it('says what was usual in each third, and nothing of a run that is too short', () => {
    expect(growth([5, 3, 4, 9, 8, 10, 12, 11, 10, 14, 13])).toEqual({ thirds: [4, 9, 12], grownMiB: 3 });
    expect(growth([5, 3])).toBeNull();
  });
});
