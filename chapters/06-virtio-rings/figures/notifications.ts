import { table } from '../../01-hardware-background/figures/drawing.ts';
import { SUPPRESSIONS, told } from './index.ts';

const SAID = { none: 'nothing', flags: 'a flag: I am looking anyway', 'event index': 'a mark: wake me when you pass this' } as const;

/** Who told whom how often, for each way of not being told. */
export function render(): string {
  return table(
    'Notifications with and without suppression',
    ['what is said', 'kicks, split', 'interrupts, split', 'kicks, packed', 'interrupts, packed'],
    SUPPRESSIONS.map((how) => {
      const { split, packed } = told[how];
      return [
        SAID[how],
        ...[split.kicks, split.interrupts, packed.kicks, packed.interrupts].map((count) => ({ text: String(count), ink: 'user' as const })),
      ];
    }),
  );
}
