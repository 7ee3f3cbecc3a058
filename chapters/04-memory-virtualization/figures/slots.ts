import { table } from '../../01-hardware-background/figures/drawing.ts';
import { slots } from './index.ts';

/** What was done to the slots and to the memory, in order. */
export const render = (): string =>
  table(
    'A machine whose memory changes: each step and its result',
    ['', 'step', 'result'],
    slots.map(({ did, came }, n) => [
      String(n + 1),
      did,
      { text: came, ink: /^E[A-Z]+$/.test(came) ? 'fail' : came.startsWith('MMIO') ? 'user' : came === 'done' ? 'ink-3' : 'guest' },
    ]),
  );
