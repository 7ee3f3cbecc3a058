import { describe, expect, it } from 'vitest';
import { BURST, burstCosts, type CountedTransport, requestCosts, userExits } from './counts.ts';
import { render as burstFigure } from './figures/burst-costs.ts';
import { render as requestFigure } from './figures/request-costs.ts';

/** Accesses that the handler of an interrupt makes: none for a message; why, and the answer, in a window of memory. */
const HANDLER: Readonly<Record<CountedTransport, number>> = { pci: 0, transitional: 0, mmio: 2, 'mmio-legacy': 2 };

describe('a request', () => {
  for (const transport of Object.keys(HANDLER) as CountedTransport[])
    for (const packed of transport === 'pci' || transport === 'mmio' ? [false, true] : [false])
      it(`is one kick on ${transport}${packed ? ', packed' : ''}`, () => {
        expect(requestCosts('block', { transport, packed })).toEqual({ kicks: 1, others: HANDLER[transport], interrupts: 1 });
        expect(requestCosts('entropy', { transport, packed })).toEqual({ kicks: 1, others: 0, interrupts: 0 });
      });

  it('of a balloon reads a wish and reports, besides', () => {
    const { kicks, others } = requestCosts('balloon', { transport: 'pci' });
    expect(kicks).toBe(1);
    expect(others).toBeGreaterThanOrEqual(2);
  });
});

describe('a burst', () => {
  for (const transport of ['pci', 'mmio'] as const)
    it(`on ${transport} is told once only when the device is late and the driver knows it`, () => {
      const cost = (eventIdx: boolean, ioeventfd: boolean) => burstCosts({ transport, eventIdx, ioeventfd });
      const handler = HANDLER[transport];
      for (const eventIdx of [false, true]) expect(cost(eventIdx, false)).toEqual({ kicks: BURST, others: handler * BURST, interrupts: BURST });
      expect(cost(false, true)).toEqual({ kicks: BURST, others: handler, interrupts: 1 });
      expect(cost(true, true)).toEqual({ kicks: 1, others: handler, interrupts: 1 });
      expect(userExits(cost(true, true), { transport, ioeventfd: true })).toBe(handler);
    });

  it('is drawn, and so is a request', () => {
    expect(burstFigure()).toContain('an eventfd');
    expect(requestFigure()).toContain('balloon');
  });
});
