import { type Cell, table } from '../../01-hardware-background/figures/drawing.ts';
import { comparison, GUESTS, SECOND_STAGES } from '../walks.ts';

/** References for every pair of page sizes; each number is a walk that was performed. */
export function render(): string {
  const counts = comparison();
  const most = Math.max(...counts.flat());
  return table(
    'References of a walk by the page sizes of both stages',
    ['guest', ...SECOND_STAGES.map((size) => (size ? `second stage of ${size}` : 'no second stage'))],
    counts.map((row, n) => [
      `${GUESTS[n]?.[0]}, ${GUESTS[n]?.[1]}`,
      ...row.map((count): Cell => (count === most ? { text: String(count), ink: 'fail' } : String(count))),
    ]),
  );
}
