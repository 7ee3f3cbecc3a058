import { table } from '../../01-hardware-background/figures/drawing.ts';
import { card } from './index.ts';

/** The steps of sizing one BAR. */
export function render(): string {
  const rows = card.log.map(({ what, value }, step) => [
    String(step + 1),
    what,
    { text: `0x${value.toString(16).padStart(8, '0')}`, ink: 'accent' as const },
  ]);
  return table('Sizing a base address register, step by step', ['', 'the driver', 'value'], rows);
}
