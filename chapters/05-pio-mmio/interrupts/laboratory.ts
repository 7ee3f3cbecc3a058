// Test equipment: not a part of the book.

import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import { ApicBus } from './apic-bus.ts';
import { LocalApic, type LocalApicOptions } from './lapic.ts';
import { LAPIC } from './lapic-registers.ts';

export const ENABLE = 0x100;
export const BASE = 0xfee0_0000n;
export const [BSP, X2APIC, EN] = [0x100n, 0x400n, 0x800n];

type Event = readonly [id: number, what: string, vector?: number];

/** `count` processors on one bus. */
export function bench(count = 1, options: Partial<LocalApicOptions> = {}) {
  let now = 0;
  const clock = new TimerQueue(() => now);
  const bus = new ApicBus();
  const events: Event[] = [];
  const eois: number[] = [];
  let woken = 0;
  bus.addListener({ eoi: (vector) => eois.push(vector) });
  const apics = Array.from(
    { length: count },
    (_, id) =>
      new LocalApic({
        id,
        clock,
        bus,
        tsc: { now: () => BigInt(Math.floor(now / 10)), khz: 100_000 },
        minPeriodNs: 0,
        onWake: () => woken++,
        onNmi: () => events.push([id, 'nmi']),
        onInit: () => events.push([id, 'init']),
        onSipi: (vector) => events.push([id, 'sipi', vector]),
        onSmi: () => events.push([id, 'smi']),
        ...options,
      }),
  );
  const at = (id: number): LocalApic => apics[id] as LocalApic;
  const write = (offset: number, value: number, id = 0): void => at(id).registers.write(offset, 4, BigInt(value >>> 0));
  const read = (offset: number, id = 0): number => Number(at(id).registers.read(offset, 4));
  return {
    bus,
    apics,
    apic: at(0),
    events,
    eois,
    at,
    write,
    read,
    /** Enabled by software, LINT0 as it is. */
    on: () => {
      for (let id = 0; id < count; id++) write(LAPIC.SVR, ENABLE | 0xff, id);
    },
    woken: () => woken,
    taken: () => events.splice(0),
    pass: (ns: number) => {
      now += ns;
      clock.runDue();
    },
    /** What each processor has to take, as `id:vector`. */
    pending: () => apics.flatMap((apic) => (apic.pending() >= 0 ? [`${apic.id}:${apic.pending().toString(16)}`] : [])),
  };
}
