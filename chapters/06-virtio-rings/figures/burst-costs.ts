import { table } from '../../01-hardware-background/figures/drawing.ts';
import { MACHINES, runBurst } from '../burst.ts';

/** What a burst costs, with each kind of doorbell. */
export function render(): string {
  return table(
    'A burst of buffers, told one by one',
    ['behind the doorbell', 'event index', 'interrupt by', 'kicks', 'of them to user space', 'interrupts', 'requests for them'],
    MACHINES.map((machine) => {
      const { eventIdx, ioeventfd, irqfd } = machine;
      const { kicks, userExits, interrupts, requests } = runBurst(machine);
      return [
        ioeventfd ? 'an eventfd' : 'the device',
        eventIdx ? 'yes' : 'no',
        irqfd ? 'irqfd' : 'request',
        { text: String(kicks), ink: 'kernel' as const },
        { text: String(userExits), ink: 'user' as const },
        { text: String(interrupts), ink: 'user' as const },
        { text: String(requests), ink: 'user' as const },
      ];
    }),
  );
}
