import { type Cell, table } from '../../01-hardware-background/figures/drawing.ts';
import type { Cost } from '../workloads.ts';
import { eptRemap, eptSwitch, eptTouch, eptTouchSmall, perWalk, shadowRemap, shadowSwitch, shadowTouch, total } from './index.ts';

interface Row {
  readonly guest: string;
  readonly method: string;
  readonly cost: { readonly cold: Cost; readonly warm: Cost };
}
const ROWS: readonly Row[] = [
  { guest: 'touch', method: 'EPT, pages of 4 KiB', cost: eptTouchSmall },
  { guest: 'touch', method: 'EPT, large pages', cost: eptTouch },
  { guest: 'touch', method: 'shadow', cost: shadowTouch },
  { guest: 'switch', method: 'EPT, large pages', cost: eptSwitch },
  { guest: 'switch', method: 'shadow', cost: shadowSwitch },
  { guest: 'remap', method: 'EPT, large pages', cost: eptRemap },
  { guest: 'remap', method: 'shadow', cost: shadowRemap },
];
const exits = (cost: Cost): Cell => ({ text: String(total(cost.exits)), ink: total(cost.exits) > 10 ? 'fail' : 'pass' });

/** What each guest paid under each method. */
export const render = (): string =>
  table(
    'Exits and references of three guests under both methods',
    ['guest', 'method', 'exits, first run', 'exits, second run', 'TLB misses', 'references each', 'instructions'],
    ROWS.map(({ guest, method, cost: { cold, warm } }) => [
      guest,
      method,
      exits(cold),
      exits(warm),
      String(warm.walks.walks),
      String(perWalk(warm)),
      String(warm.instructions),
    ]),
  );
