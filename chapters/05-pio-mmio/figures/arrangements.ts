import { type Cell, table } from '../../01-hardware-background/figures/drawing.ts';
import { ARRANGEMENTS, arranged, interruptExits } from './index.ts';

const cell = (exits: number, user: number): Cell =>
  exits === 0 ? '–' : { text: user === 0 ? String(exits) : `${exits}, ${user} to user space`, ink: user === 0 ? 'kernel' : 'user' };

/** The same guest with its interrupt controllers in three places. */
export function render(): string {
  const reasons = [...new Set(ARRANGEMENTS.flatMap((each) => interruptExits[each].map(({ reason }) => reason)))];
  const rows = reasons.map((reason): Cell[] => [
    reason,
    ...ARRANGEMENTS.map((each) => {
      const row = interruptExits[each].find((one) => one.reason === reason);
      return cell((row?.kernel ?? 0) + (row?.user ?? 0), row?.user ?? 0);
    }),
  ]);
  rows.push(['all', ...ARRANGEMENTS.map((each) => cell(arranged[each].exits, arranged[each].user))]);
  return table('Exits of one guest under the three arrangements', ['reason', ...ARRANGEMENTS.map((each) => `irqchip=${each}`)], rows);
}
