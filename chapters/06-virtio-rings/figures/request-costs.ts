import { table } from '../../01-hardware-background/figures/drawing.ts';
import { COUNTED_DEVICES, type CountedTransport, requestCosts } from '../counts.ts';

const TRANSPORTS: readonly (readonly [CountedTransport, string])[] = [
  ['pci', 'PCI, messages'],
  ['mmio', 'MMIO, a line'],
];

/** What one request of each device costs. */
export function render(): string {
  return table(
    'Exits and interrupts of one request',
    ['device', ...TRANSPORTS.flatMap(([, name]) => [`kicks, ${name}`, 'other registers', 'interrupts'])],
    COUNTED_DEVICES.map((type) => [
      type,
      ...TRANSPORTS.flatMap(([transport]) => {
        const { kicks, others, interrupts } = requestCosts(type, { transport });
        return [
          { text: String(kicks), ink: 'kernel' as const },
          { text: String(others), ink: 'user' as const },
          { text: String(interrupts), ink: 'user' as const },
        ];
      }),
    ]),
  );
}
