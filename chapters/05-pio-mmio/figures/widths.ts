import { table } from '../../01-hardware-background/figures/drawing.ts';
import { awkwardAccesses } from '../index.ts';

/** What two neighbouring devices saw of the accesses of a guest that does not care. */
export function render(): string {
  const rows = awkwardAccesses().map(({ access, seen, value }) => [access, seen, { text: `0x${value.toString(16)}`, ink: 'accent' as const }]);
  return table(
    'A device of four bytes at 0x10 to 0x17, one of one byte at 0x18, and seven reads',
    ['the guest', 'what the devices saw', 'value that came back'],
    rows,
  );
}
