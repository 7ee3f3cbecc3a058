import { table } from '../../01-hardware-background/figures/drawing.ts';
import { forgetful } from '../index.ts';

const hex = (n: number): string => `0x${n.toString(16)}`;

/** What a guest that forgets INVLPG reads. */
export function render(): string {
  const runs = (['ept', 'shadow'] as const).flatMap((memory) => [false, true].map((evict) => ({ memory, evict, ...forgetful(memory, evict) })));
  return table(
    'Three loads through one page whose entry changes, under both methods',
    ['method', 'evicted from the TLB', 'before', 'after the change', 'after INVLPG', 'exits of the run'],
    runs.map(({ memory, evict, loads: [before, forgotten, flushed], exits }) => [
      memory,
      evict ? 'yes' : 'no',
      hex(before),
      { text: `${hex(forgotten)}, ${forgotten === before ? 'the old frame' : 'the new one'}`, ink: forgotten === before ? 'known' : 'pass' },
      hex(flushed),
      exits.replaceAll('EXCEPTION_NMI', 'page faults').replaceAll('EPT_VIOLATION', 'EPT violation'),
    ]),
  );
}
