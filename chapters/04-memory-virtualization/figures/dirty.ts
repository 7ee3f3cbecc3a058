import { table } from '../../01-hardware-background/figures/drawing.ts';
import { bits, protect } from './index.ts';

const HEADS = ['first touch', 'again', 'with the log', 'after a reading', 'and another'];

/** Exits by round, and what the log found. */
export const render = (): string =>
  table(
    'Exits of each round of page writes, by the way in which writes are noticed',
    ['', ...HEADS, 'pages found'],
    [
      { name: 'protect', rounds: protect },
      { name: 'dirty bits', rounds: bits },
    ].map(({ name, rounds }) => [name, ...rounds.exits.map(String), rounds.found.join(', ')]),
  );
