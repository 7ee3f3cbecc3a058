import { describe, expect, it } from 'vitest';
import { linesWritten, roundTrip } from './round-trip.ts';

describe('a round trip', () => {
  it('is these stores, in a split ring', () => {
    const text = roundTrip('split').map(({ who, changes }) => `${who}: ${changes.map(({ field }) => field).join(' ')}`);
    expect(text).toEqual([
      'driver: desc[1].addr desc[1].len desc[1].flags desc[1].next desc[2].addr desc[2].len desc[2].flags avail.idx avail.ring[1]',
      'driver: ',
      'device: ',
      'device: used.idx used.ring[0].id used.ring[0].len',
      'device: ',
      'driver: ',
    ]);
  });

  it('overwrites the descriptors themselves in a packed one', () => {
    const steps = roundTrip('packed');
    const given = steps.find(({ does }) => does.startsWith('gives'))?.changes.map(({ field }) => field);
    expect(given).toEqual(['desc[0].len', 'desc[0].id', 'desc[0].flags']); // where the oldest descriptor was, not where this one is
    expect(linesWritten(steps, 'driver') + linesWritten(steps, 'device')).toBeLessThan(
      linesWritten(roundTrip('split'), 'driver') + linesWritten(roundTrip('split'), 'device'),
    );
  });

  it('costs two more stores with event indices, one of each side', () => {
    const marks = roundTrip('split', { eventIdx: true }).flatMap(({ who, changes }) =>
      changes.filter(({ field }) => field.endsWith('_event')).map(({ field }) => `${who} ${field}`),
    );
    expect(marks).toEqual(['device avail_event', 'driver used_event']);
  });
});
