import { describe, expect, it } from 'vitest';
import type { Timed, TraceEvent } from '../../chapters/01-hardware-background/trace.ts';
import { journeyOf, whyMissing } from './buffers.ts';

const timed = (events: readonly TraceEvent[]): Timed[] => events.map((event, t) => ({ t, ...event }));
const kick = (queue: number): TraceEvent => ({ kind: 'virtio_queue_notify', device: 'd', queue });
const pop = (queue: number, id: number): TraceEvent => ({ kind: 'virtqueue_pop', device: 'd', queue, id, out: 0, in: 8 });
const fill = (queue: number, id: number, device = 'd'): TraceEvent => ({ kind: 'virtqueue_fill', device, queue, id, written: 8 });
const notify = (queue: number): TraceEvent => ({ kind: 'virtio_notify', device: 'd', queue });
const line = (level: number): TraceEvent => ({ kind: 'kvm_set_irq', gsi: 20, level, source: 0 });
const entry: TraceEvent = { kind: 'kvm_entry', vcpu: 0, rip: 0n };
const NONE = { kick: null, taken: null, 'given back': null, notification: null, interrupt: null };

describe('the way of one buffer', () => {
  it('is found from each of its events, between those of another queue, another buffer and another device', () => {
    const events = timed([
      kick(0), kick(1), pop(1, 3), pop(0, 3), pop(0, 4), fill(0, 4), fill(0, 3, 'other'), fill(1, 3), fill(0, 3), notify(1), notify(0), line(0), line(1), entry,
    ]); // biome-ignore format: the numbers below count these
    const way = { kick: 0, taken: 3, 'given back': 8, notification: 10, interrupt: 12 };
    for (const index of [0, 3, 8, 10, 12]) expect(journeyOf(events, index), String(index)).toEqual(way);
    expect(journeyOf(events, 4)).toEqual({ ...way, taken: 4, 'given back': 5 });
    expect(journeyOf(events, 2)).toEqual({ kick: 1, taken: 2, 'given back': 7, notification: 9, interrupt: null });
  });

  it('ends where it ends', () => {
    // The same number again is another buffer; what is said after the guest has run is said of another.
    const events = timed([kick(0), pop(0, 1), fill(0, 1), entry, kick(0), pop(0, 1), entry, notify(0), line(1)]);
    expect(journeyOf(events, 1)).toEqual({ ...NONE, kick: 0, taken: 1, 'given back': 2 });
    expect(journeyOf(events, 5)).toEqual({ ...NONE, kick: 4, taken: 5 });
    expect(journeyOf(events, 4)).toEqual({ ...NONE, kick: 4, taken: 5 });
    expect(whyMissing(journeyOf(events, 1) ?? NONE, 'notification')).toBe('not wanted');
    expect(whyMissing(journeyOf(events, 5) ?? NONE, 'given back')).toBe('not yet');
  });

  it('is short for a kick that finds nothing, and for events of no buffer there is none', () => {
    const events = timed([kick(0), kick(0), pop(0, 1), entry, line(1), line(0), fill(1, 9), notify(1), entry]);
    expect(journeyOf(events, 0)).toEqual({ ...NONE, kick: 0 });
    expect(journeyOf(events, 6)).toEqual({ ...NONE, 'given back': 6 });
    expect(journeyOf(events, 7)).toEqual({ ...NONE, notification: 7 });
    for (const index of [3, 4, 5, 99, -1]) expect(journeyOf(events, index)).toBeNull();
  });

  it('takes a message for an interrupt as well as a line', () => {
    const events = timed([pop(0, 1), fill(0, 1), notify(0), { kind: 'kvm_msi_set_irq', address: 0xfee00000, data: 0x31 }, entry]);
    const wired = timed([pop(0, 1), fill(0, 1), notify(0), line(1), { kind: 'kvm_msi_set_irq', address: 0xfee00000, data: 0x31 }, entry]);
    for (const index of [3, 4]) expect(journeyOf(wired, index)?.interrupt).toBe(3);
    expect(journeyOf(events, 3)).toEqual({ kick: null, taken: 0, 'given back': 1, notification: 2, interrupt: 3 });
  });
});
