import { describe, expect, it } from 'vitest';
import { notifications } from './notifications.ts';

const LOAD = { requests: 400, burst: 8, pause: 24, latency: 2 };

describe.each(['split', 'packed'] as const)('notifications on a %s ring', (format) => {
  it('are one for each request, in either direction, if nobody says otherwise', () => {
    expect(notifications(format, 'none', LOAD)).toEqual({ kicks: LOAD.requests, interrupts: LOAD.requests });
  });

  it('are fewer with flags and fewest with marks, and nothing is lost', () => {
    const [flags, marks] = [notifications(format, 'flags', LOAD), notifications(format, 'event index', LOAD)];
    expect(flags.kicks).toBeLessThan(LOAD.requests);
    // The first of each burst; in a packed ring the device leaves no mark until it has looked once.
    expect(marks.kicks - LOAD.requests / LOAD.burst).toBe(format === 'packed' ? LOAD.latency : 0);
    expect(marks.interrupts).toBeLessThan(LOAD.requests / 2);
  });
});
