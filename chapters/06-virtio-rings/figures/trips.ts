// How the two round trips are drawn: one row for each operation, one line of stores for each descriptor or ring.

import { type Cell, table } from '../../01-hardware-background/figures/drawing.ts';
import type { Change, Step } from '../round-trip.ts';

const INK = { driver: 'guest', device: 'user' } as const;
const value = ({ field, value }: Change): string => `${field.slice(field.lastIndexOf('.') + 1)} = ${value < 10 ? value : `0x${value.toString(16)}`}`;
/** What a field belongs to: a descriptor, a ring's element, or a ring. */
const owner = ({ field }: Change): string => (field.includes('.') ? field.slice(0, field.lastIndexOf('.')) : field);

export function renderTrip(title: string, steps: readonly Step[]): string {
  const rows = steps.flatMap(({ who, does, changes }): Cell[][] => {
    const owners = [...new Set(changes.map(owner))];
    const first: Cell[] = [{ text: who, ink: INK[who] }, does];
    if (owners.length === 0) return [[...first, '', 'nothing']];
    return owners.map((each, index) => [
      ...(index === 0 ? first : ['', '']),
      each,
      changes
        .filter((change) => owner(change) === each)
        .map(value)
        .join(', '),
    ]);
  });
  return table(title, ['who', 'does', 'where', 'what changes'], rows);
}
