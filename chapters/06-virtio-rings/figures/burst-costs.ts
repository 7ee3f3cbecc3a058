import { table } from '../../01-hardware-background/figures/drawing.ts';
import { BELLS, burstCosts, userExits } from '../counts.ts';

/** What a burst costs, with each kind of doorbell. */
export function render(): string {
  return table(
    'A burst of buffers, told one by one',
    ['behind the doorbell', 'event index', 'kicks', 'of them to user space', 'interrupts'],
    BELLS.map(({ eventIdx, ioeventfd }) => {
      const machine = { transport: 'pci', eventIdx, ioeventfd } as const;
      const costs = burstCosts(machine);
      return [
        ioeventfd ? 'an eventfd' : 'the device',
        eventIdx ? 'yes' : 'no',
        { text: String(costs.kicks), ink: 'kernel' as const },
        { text: String(userExits(costs, machine)), ink: 'user' as const },
        { text: String(costs.interrupts), ink: 'user' as const },
      ];
    }),
  );
}
