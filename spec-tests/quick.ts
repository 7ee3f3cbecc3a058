// # What the quick tests leave out
//
// `npm test` is for every moment of the day, so it runs everything once: each case of the suite on the embedded machine as it comes, each property on some random
// programs. What repeats that in another way, on another memory, with another translator, for ten times as many programs, is for `npm run test:all`, which runs all
// that `npm test` does and the rest; so does the continuous integration. A test asks by this name which of the two it is in; a chapter's, which cannot import from
// here, asks the environment itself.

import type { LoadedCase } from './suite.ts';

/** Everything is run, however long it takes. */
export const ALL = process.env.RINGBOOK_TESTS === 'all';

// Two kinds of guests are long and learn little on a second machine of ours. One computes tables of values: which micro-operations do that does not depend on how
// memory is virtualized, and whether translated ones compute the same is what the fuzzer asks with better operands. The other repeats one exit a hundred thousand times.

const TABLES = /^(alu-flags|bench-\w+|integer-edges|simd|sse-scalar|sse-packed|x87-arithmetic|x87-stores)\b/;
const STORMS = /^(exit-storm|mmio-storm|pio-widths|pit)\b/;

/** A guest that is short, and may fare differently on another machine of ours. A boot through firmware is neither. */
export const isShort = ({ guest, id }: LoadedCase): boolean =>
  guest === undefined || !(TABLES.test(guest.payload) || STORMS.test(guest.payload) || id.endsWith('-door-disk'));
