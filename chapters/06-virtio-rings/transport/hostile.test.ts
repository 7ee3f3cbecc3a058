import { describe, expect, it } from 'vitest';
import { attack, HOSTILE_MODELS, HOSTILE_TRANSPORTS } from './hostile.ts';

describe.each(HOSTILE_TRANSPORTS)('a hostile driver at %s registers', (transport) => {
  it.each(HOSTILE_MODELS)('does no harm to %s', (model) => {
    const { kicks, timers } = attack(transport, model, 1, 4000);
    expect(timers).toBeLessThan(20);
    expect(kicks).toBeGreaterThan(10); // it was not all refused at the door
  });
  it('is refused in the end, and tries again', () => {
    const seen = HOSTILE_MODELS.map((model) => attack(transport, model, 2, 2000).failures);
    expect(seen.reduce((sum, failures) => sum + failures, 0)).toBeGreaterThan(3);
  });
  it('does the same again for the same seed', () => {
    expect(attack(transport, 'block', 7, 1500)).toEqual(attack(transport, 'block', 7, 1500));
  });
});
