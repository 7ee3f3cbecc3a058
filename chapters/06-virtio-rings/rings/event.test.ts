import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { needEvent, needPackedEvent } from './event.ts';
import { legacyPlace } from './layout.ts';

describe('marks', () => {
  it('split: counting one by one comes to the same', () => {
    fc.assert(
      fc.property(fc.nat(0xffff), fc.nat(0xffff), fc.nat(300), (event, idx, moved) => {
        const passed = Array.from({ length: moved }, (_, back) => (idx - 1 - back) & 0xffff);
        expect(needEvent(event, idx, moved)).toBe(passed.includes(event));
      }),
    );
    expect(needEvent(0, 1, 1)).toBe(true);
    expect(needEvent(0, 0, 0)).toBe(false);
    expect(needEvent(0xffff, 0, 1)).toBe(true);
    expect(needEvent(5, 4, 0x10000)).toBe(true); // all the way round
  });

  it('packed: stepping one by one comes to the same, for any size', () => {
    const position = (size: number): fc.Arbitrary<number> =>
      fc.tuple(fc.nat(size - 1), fc.boolean()).map(([index, wrap]) => index | (wrap ? 0x8000 : 0));
    const cases = fc.integer({ min: 1, max: 40 }).chain((size) => fc.tuple(fc.constant(size), position(size), position(size), fc.nat(size)));
    fc.assert(
      fc.property(cases, ([size, event, start, moved]) => {
        let at = start;
        let passed = false;
        for (let left = moved; left > 0; left--) {
          passed ||= at === event;
          at = (at & 0x7fff) + 1 === size ? (at & 0x8000) ^ 0x8000 : at + 1;
        }
        expect(needPackedEvent(event, at, moved, size)).toBe(passed);
      }),
      { numRuns: 2000 },
    );
  });
});

describe('one block', () => {
  it('puts the used ring on the next page', () => {
    expect(legacyPlace(256, 0x10000, 4096)).toEqual({ size: 256, desc: 0x10000, driver: 0x11000, device: 0x12000 });
    expect(legacyPlace(128, 0x1000, 4096)).toEqual({ size: 128, desc: 0x1000, driver: 0x1800, device: 0x2000 });
    expect(legacyPlace(4, 0x10000, 64)).toEqual({ size: 4, desc: 0x10000, driver: 0x10040, device: 0x10080 });
    expect(legacyPlace(4, 0x10100, 4096).device).toBe(0x11000); // the boundary is one of memory, wherever the block begins
    expect(legacyPlace(8, 0xffff_ffff * 4096, 4096).desc).toBe(0xffff_ffff * 4096);
  });
});
