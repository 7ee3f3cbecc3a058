// # Does it grow?
//
// A program that has caches grows at first and in steps, and one whose host collects garbage is never twice the same size. So what is compared is the median of
// what was seen in a part of a run, and the first part does not count.

/** Below this it is called noise. */
export const GROWTH_LIMIT_MIB = 64;

export interface Growth {
  /** The median of each third of the run. */
  readonly thirds: readonly [number, number, number];
  /** From the second third to the last. */
  readonly grownMiB: number;
}

/** What samples taken at equal intervals say; null while there are too few. */
export function growth(samplesMiB: readonly number[]): Growth | null {
  const third = Math.floor(samplesMiB.length / 3);
  if (third === 0) return null;
  const median = (from: number, to?: number): number => {
    const sorted = samplesMiB.slice(from, to).sort((a, b) => a - b);
    return sorted[sorted.length >> 1] as number;
  };
  const [first, second, last] = [median(0, third), median(third, 2 * third), median(2 * third)];
  return { thirds: [first, second, last], grownMiB: last - second };
}
