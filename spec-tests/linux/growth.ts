// # Does it grow?
//
// A program that has caches grows at first, and one whose host collects garbage is never twice the same size. So what is compared is the least of what was seen in a
// part of a run, and the first part does not count.

/** Below this it is called noise. */
export const GROWTH_LIMIT_MIB = 64;

export interface Growth {
  /** The least of each third of the run. */
  readonly thirds: readonly [number, number, number];
  /** From the second third to the last. */
  readonly grownMiB: number;
}

/** What samples taken at equal intervals say; null while there are too few. */
export function growth(samplesMiB: readonly number[]): Growth | null {
  const third = Math.floor(samplesMiB.length / 3);
  if (third === 0) return null;
  const least = (from: number, to?: number): number => Math.min(...samplesMiB.slice(from, to));
  const [first, second, last] = [least(0, third), least(third, 2 * third), least(2 * third)];
  return { thirds: [first, second, last], grownMiB: last - second };
}
