import { table } from '../../01-hardware-background/figures/drawing.ts';
import { settled } from '../../05-pio-mmio/route.ts';
import { kickRuns, kicks } from './index.ts';

/** What the processor says about a doorbell of either kind, and what is left for the kernel to find out. */
export function render(): string {
  const reasons = (run: keyof typeof kickRuns): string =>
    settled(kickRuns[run].marked)
      .map(({ reason, kernel, user }) => `${kernel + user} × ${reason}`)
      .join(', ');
  return table(
    'A doorbell by port and by memory',
    ['the bell is', 'exits', 'entries walked, each', 'the exit says', 'the kernel finds out'],
    [
      ['a port', { text: reasons('port'), ink: 'kernel' }, String(kicks.port), 'port, width, direction; the value is in RAX', 'nothing'],
      ['memory', { text: reasons('memory'), ink: 'kernel' }, String(kicks.memory), 'the address', 'the instruction, its length, width and value'],
    ],
  );
}
