import { describe, expect, it } from 'vitest';
import { BUFFERS, runBurst } from './burst.ts';

describe('a burst that is run', () => {
  it.each([false, true])('costs an exit to user space for each buffer when the device is behind the doorbell (event index: %s)', (eventIdx) => {
    expect(runBurst({ eventIdx, ioeventfd: false, irqfd: false })).toEqual({
      kicks: BUFFERS,
      userExits: BUFFERS,
      interrupts: BUFFERS,
      requests: BUFFERS,
    });
  });
  it('costs none behind an eventfd, but as many kicks', () =>
    expect(runBurst({ eventIdx: false, ioeventfd: true, irqfd: false })).toEqual({ kicks: BUFFERS, userExits: 0, interrupts: 1, requests: 1 }));
  it('costs one kick with the event index as well', () =>
    expect(runBurst({ eventIdx: true, ioeventfd: true, irqfd: false })).toEqual({ kicks: 1, userExits: 0, interrupts: 1, requests: 1 }));
  it('is interrupted by a counter with an irqfd', () => {
    expect(runBurst({ eventIdx: true, ioeventfd: true, irqfd: true })).toEqual({ kicks: 1, userExits: 0, interrupts: 1, requests: 0 });
    expect(runBurst({ eventIdx: true, ioeventfd: false, irqfd: true })).toMatchObject({ userExits: BUFFERS, interrupts: BUFFERS, requests: 0 });
  });
  it('is the same each time', () =>
    expect(runBurst({ eventIdx: true, ioeventfd: true, irqfd: true })).toEqual(runBurst({ eventIdx: true, ioeventfd: true, irqfd: true })));
});
