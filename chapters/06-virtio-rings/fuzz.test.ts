import { describe, expect, it } from 'vitest';
import { RingFuzz } from './fuzz.ts';

describe('a hostile driver', () => {
  it.each([1, 2, 3])('seed %s gets nothing that it may not have', (seed) => {
    const fuzz = new RingFuzz(seed);
    fuzz.run(6000);
    const { complaints, chains, broken } = fuzz.report;
    expect(complaints).toEqual([]);
    expect(chains).toBeGreaterThanOrEqual(6000);
    expect(Object.keys(broken).length).toBeGreaterThan(4); // it does come as far as harm
  });

  it('is the same twice', () => {
    const [once, again] = [new RingFuzz(7), new RingFuzz(7)];
    once.run(2000);
    again.run(1000);
    again.run(1000);
    expect(again.report.digest).not.toBe('811c9dc5');
    const third = new RingFuzz(7);
    third.run(2000);
    expect(third.report).toEqual(once.report);
  });
});
