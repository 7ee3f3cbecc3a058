// # Who wants to be told
//
// A notification is an interrupt, or an exit: a thousand times the price of the sixteen bytes that it is about. So each side leaves the other a mark,
// *wake me when you pass this*, and the other compares. The comparison is where indices that wrap around are easiest to get wrong, hence one function
// per format and nothing else here.

import { WRAP } from './layout.ts';

/**
 * Split: whether a free-running index that has just moved by `moved` to `idx` has passed the mark `event`, that is, whether the element numbered `event`
 * is among the
 * new ones. Linux calls it vring_need_event, and passes the old index in place of the distance.
 */
export const needEvent = (event: number, idx: number, moved: number): boolean => ((idx - event - 1) & 0xffff) < moved;

/**
 * Packed: likewise for a position in a ring of any size. A position and a wrap counter together are a place on a circle of two laps.
 * @param off_wrap the mark: descriptor in bits 0 to 14, wrap counter in bit 15
 * @param position where the mover is now, in the same form
 */
export function needPackedEvent(off_wrap: number, position: number, moved: number, size: number): boolean {
  const laps = 2 * size;
  const behind = lap(position, size) - 1 - lap(off_wrap, size);
  return ((behind % laps) + laps) % laps < moved;
}

/** The wrap counter begins at 1, so the lap with 1 is the first. */
const lap = (position: number, size: number): number => (position & (WRAP - 1)) + (position & WRAP ? 0 : size);
