// # Neighbours in a mask
//
// A mask of pages arrives as a bitmap and is worked on by ranges: one walk of the tables for a thousand neighbouring pages instead of a thousand.

/** The runs of ones among the first `count` bits: where each begins and how long it is. */
export function* runs(mask: Uint8Array, count: number): Generator<readonly [number, number]> {
  for (let n = 0; n < count; ) {
    if (mask[n >> 3] === 0) {
      n += 8 - (n & 7);
      continue;
    }
    let end = n;
    while (end < count && ((mask[end >> 3] as number) >> (end & 7)) & 1) end++;
    if (end > n) yield [n, end - n];
    n = end + 1;
  }
}
