import { describe, expect, it } from 'vitest';
import type { Timed, TraceEvent } from '../../chapters/01-hardware-background/trace.ts';
import type { Instance } from '../../spec-tests/instances.ts';
import { DeviceLane, firstWhere, isRingEvent } from './device-lane.ts';
import { GROUPS, listed } from './event-list.ts';
import { machinesOf, pickMachine } from './machines.ts';
import { Histories, slotOf } from './rings-panel.ts';
import { Lanes } from './timeline.ts';

const timed = (events: readonly TraceEvent[]): Timed[] => events.map((event, t) => ({ t, ...event }));
const kick: TraceEvent = { kind: 'virtio_queue_notify', device: 'd', queue: 0 };
const pop = (id: number): TraceEvent => ({ kind: 'virtqueue_pop', device: 'd', queue: 0, id, out: 16, in: 8 });
const fill = (id: number, written: number): TraceEvent => ({ kind: 'virtqueue_fill', device: 'd', queue: 0, id, written });
const exit: TraceEvent = { kind: 'kvm_exit', vcpu: 0, reason: 'HLT', rip: 0n, qualification: 0n };
const entry: TraceEvent = { kind: 'kvm_entry', vcpu: 0, rip: 0n };

describe('rings of a guest', () => {
  it('keeps the last buffers of each queue, and which of them are still away', () => {
    const histories = new Histories();
    timed([kick, pop(0), pop(1), fill(1, 5), pop(1), pop(2), pop(3), fill(1, 8)]).forEach((event, index) => {
      histories.add(event, index);
    });
    const [queue, ...others] = histories.queues.values();
    expect(others).toEqual([]);
    expect(queue).toMatchObject({ kicks: 1, buffers: 5, notifications: 0 });
    expect(queue?.last.map(({ id, event, written }) => [id, event, written])).toEqual([
      [1, 2, 5],
      [1, 4, 8],
      [2, 5, null],
      [3, 6, null],
    ]);
  });

  it('says where a position is', () => {
    expect(slotOf(0xffff, { format: 'split', size: 8 })).toEqual({ slot: 7, words: 'index 65535, slot 7' });
    expect(slotOf(0x8005, { format: 'packed', size: 7 })).toEqual({ slot: 5, words: 'slot 5, wrap counter 1' });
    expect(slotOf(5, { format: 'packed', size: 7 }).words).toBe('slot 5, wrap counter 0');
  });
});

describe('the lane of the devices', () => {
  it('spreads what happens between two crossings, in order', () => {
    const lanes = new Lanes();
    timed([entry, exit, kick, pop(0), fill(0, 1), entry, exit, kick]).forEach((event, index) => {
      lanes.add(event, index);
    });
    const { device } = lanes;
    expect(lanes.marks).toEqual([]);
    expect(device.marks.map(({ index, after, turn }) => [index, after, turn])).toEqual([
      [2, 2, 0],
      [3, 2, 1],
      [4, 2, 2],
      [7, 4, 0],
    ]);
    expect(device.marks.map((mark) => device.order(mark))).toEqual([1.75, 2, 2.25, 4]);
    expect([0, 2, 3, 5, 7, 8].map((index) => device.from(index))).toEqual([0, 0, 1, 3, 3, 4]);
    expect(new DeviceLane().from(0)).toBe(0);
    expect([0, 1, 5].map((wanted) => firstWhere(5, (n) => n >= wanted))).toEqual([0, 1, 5]);
  });
});

describe('the list of events', () => {
  const events = timed(Array.from({ length: 100 }, (_, n) => (n % 10 === 3 ? kick : n % 2 === 0 ? entry : exit)));
  it('shows the last, or those around the chosen one', () => {
    expect(listed(events, () => true, null, 4)).toEqual([96, 97, 98, 99]);
    expect(listed(events, () => true, 97, 4)).toEqual([96, 97, 98, 99]);
    expect(listed(events, () => true, 50, 4)).toEqual([49, 50, 51, 52]);
    expect(listed(events, () => true, 0, 4)).toEqual([0, 1, 2]);
    expect(listed([], () => true, null, 4)).toEqual([]);
  });
  it('shows one group', () => {
    expect(listed(events, isRingEvent, null, 3)).toEqual([73, 83, 93]);
    expect(listed(events, isRingEvent, 43, 4)).toEqual([33, 43, 53, 63]);
    expect(events.filter((event) => GROUPS.exits?.(event)).length).toBe(90);
    const irq: Timed = { t: 0, kind: 'kvm_set_irq', gsi: 1, level: 1, source: 0 };
    expect(Object.entries(GROUPS).flatMap(([name, wanted]) => (wanted(irq) ? [name] : []))).toEqual(['all', 'interrupts', 'rings']);
  });
});

describe('the machines of a payload', () => {
  const one = (payload: string, transport: 'pci' | 'mmio', ring: 'split' | 'packed'): Instance =>
    ({ guest: { payload }, devices: [{ type: 'entropy', transport, ring }] }) as unknown as Instance;
  const cases = [
    one('a', 'pci', 'split'),
    one('b', 'mmio', 'split'),
    one('a', 'mmio', 'split'),
    one('a', 'mmio', 'packed'),
    one('a', 'pci', 'split'),
  ];
  it('are those of its cases, each once', () => {
    const machines = machinesOf(cases, 'a');
    expect(machines.map(([first]) => `${first?.transport}.${first?.ring}`)).toEqual(['pci.split', 'mmio.split', 'mmio.packed']);
    expect(machinesOf(cases, 'c')).toEqual([]);
    expect(pickMachine(machines, 'mmio', 'packed')).toBe(machines[2]);
    expect(pickMachine(machines, 'pci', 'packed')).toBe(machines[0]);
    expect(pickMachine(machines, 'nonsense', null)).toBe(machines[0]);
    expect(pickMachine([], 'pci', 'split')).toEqual([]);
  });
});
