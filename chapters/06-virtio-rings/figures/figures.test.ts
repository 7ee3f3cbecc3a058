// # The runs that the text quotes

import { describe, expect, it } from 'vitest';
import { burst, kicks, LETTERS, letters, lines, told } from './index.ts';
import { render as handover } from './ring-handover.ts';
import { render as trip } from './round-trip-split.ts';

describe('recorded runs', () => {
  it('tell everything, with a letter box', () => expect(letters).toEqual({ notifications: 2 * LETTERS, refused: LETTERS - 1 }));

  it('write fewer lines of the cache in a packed ring', () => {
    expect(lines.packed.driver).toBeLessThan(lines.split.driver);
    expect(lines.packed.device).toBeLessThanOrEqual(lines.split.device);
  });

  it('save notifications', () => {
    expect(told.none.split).toEqual({ kicks: burst.requests, interrupts: burst.requests });
    expect(told['event index'].split.kicks).toBe(burst.requests / burst.size);
  });

  it('walk tables for a doorbell in memory, and none for a port', () => {
    expect(kicks.port).toBe(0);
    expect(kicks.memory).toBeGreaterThan(0);
  });

  it('are drawn', () => {
    expect(handover().match(/>breaks</g)?.length).toBeGreaterThan(10);
    expect(trip()).toContain('ring[1] = 1');
  });
});
