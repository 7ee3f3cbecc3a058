import { describe, expect, it } from 'vitest';
import { changeCode, growing, type Sizes } from './changing-code.ts';

describe('a program that never stops writing programs', () => {
  it('comes to the right sums, and what is kept of it stays bounded', { timeout: 120_000 }, () => {
    const sizes: Sizes[] = [];
    changeCode(6e6, 12, (now) => void sizes.push(now));
    expect(sizes.length).toBe(12);
    expect(sizes.at(-1)?.compiled).toBeGreaterThan(50);
    for (const { blocks, records, regions, modules, slots } of sizes) {
      expect(records).toBeLessThanOrEqual(8 << 20);
      expect(blocks).toBeLessThan(40_000);
      expect(regions).toBeLessThanOrEqual(1024);
      expect(modules).toBeLessThanOrEqual(24 << 20);
      expect(slots).toBeLessThanOrEqual(1025);
    }
  });
  it('would be seen to grow', () => {
    const sizes = (heap: (n: number) => number): Sizes[] =>
      Array.from({ length: 12 }, (_, n) => ({
        ...{ instructions: n, blocks: 9, codePages: 9, records: 9, shapes: 9, regions: 9, modules: 9, compiled: n, slots: 9, resident: 1e8 },
        heap: heap(n),
      }));
    expect(growing(sizes((n) => 2e8 + 2e7 * n))).toEqual(['heap']);
    expect(growing(sizes((n) => 2e8 + 2e7 * Math.min(n, 4)))).toEqual([]);
  });
});
