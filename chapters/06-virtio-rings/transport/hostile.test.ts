import { describe, expect, it } from 'vitest';
import { attack, HOSTILE_MODELS, HOSTILE_TRANSPORTS } from './hostile.ts';

describe.each(HOSTILE_TRANSPORTS)('a hostile driver at %s registers', (transport) => {
  it.each(HOSTILE_MODELS)('does no harm to %s', (model) => {
    const { kicks, failures, timers } = attack(transport, model, 1, 4000);
    expect(timers).toBeLessThan(20);
    expect([kicks > 0, failures > 0]).toEqual([true, true]); // it was not all refused at the door
  });
  it('does the same again for the same seed', () => {
    expect(attack(transport, 'block', 7, 1500)).toEqual(attack(transport, 'block', 7, 1500));
  });
});
