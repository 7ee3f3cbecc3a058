import { type Cell, table } from '../../01-hardware-background/figures/drawing.ts';
import { millions, processors } from './index.ts';

const grouped = (value: number): string => value.toLocaleString('en');

/** What each of several processors did and was told, until the first program. */
export function render(): string {
  const rows = processors.map(({ turns, instructions, starts, timer, calls, reschedule, devices }, id): Cell[] => [
    `processor ${id}`,
    grouped(turns),
    grouped(millions(instructions)),
    starts[0] === 0 ? { text: '–', ink: 'ink-3' } : `${starts[0]} INIT, ${starts[1]} SIPI`,
    grouped(timer),
    grouped(calls),
    grouped(reschedule),
    grouped(devices),
  ]);
  const header = ['', 'KVM_RUN', 'million instructions', 'started by', 'timer', 'call this', 'look for work', 'devices'];
  return table('Calls, instructions and messages of each processor, to the first program', header, rows);
}
