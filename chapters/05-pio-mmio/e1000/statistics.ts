// # Counting
//
// Half of the card's registers count something. Most of what they count cannot happen on a link in memory, and stays zero.

import { describe, field, type Kind, kind } from '../../03-vcpu-loop/devices/state.ts';
import type { STATISTICS } from './registers.ts';

export type Statistic = keyof typeof STATISTICS;

/** Upper limits of the classes by size, with the four bytes of check sequence that the counters include. */
const SIZES = [64, 127, 255, 511, 1023, Infinity] as const;
const CLASSES = {
  received: ['PRC64', 'PRC127', 'PRC255', 'PRC511', 'PRC1023', 'PRC1522'],
  sent: ['PTC64', 'PTC127', 'PTC255', 'PTC511', 'PTC1023', 'PTC1522'],
} as const;
const OCTETS = { GORCH: 'GORCL', GOTCH: 'GOTCL', TORH: 'TORL', TOTH: 'TOTL' } as const satisfies Partial<Record<Statistic, Statistic>>;
const isHigh = (name: Statistic): name is keyof typeof OCTETS => name in OCTETS;
const isLow = (name: Statistic): boolean => (Object.values(OCTETS) as Statistic[]).includes(name);

const STUCK = 0xffff_ffff;
const CHECK_SEQUENCE_BYTES = 4;

interface Counted {
  readonly name: Statistic;
  readonly count: number;
}

export class Statistics {
  readonly #counters = new Map<Statistic, number>();

  reset(): void {
    this.#counters.clear();
  }

  add(name: Statistic, amount = 1): void {
    this.#counters.set(name, (this.#counters.get(name) ?? 0) + amount);
  }

  // The octet counters are 64 bits in two registers: the high one, read second, clears both.
  // @clause e1000.statistics.read-clears
  read(name: Statistic): number {
    if (isLow(name)) return (this.#counters.get(name) ?? 0) % 2 ** 32;
    if (isHigh(name)) {
      const value = Math.floor((this.#counters.get(OCTETS[name]) ?? 0) / 2 ** 32);
      this.#counters.delete(OCTETS[name]);
      return value;
    }
    const value = Math.min(this.#counters.get(name) ?? 0, STUCK);
    this.#counters.delete(name);
    return value;
  }

  /** A good frame went by. `good` is false for one that was seen on the cable but was not for us. */
  frame(way: 'received' | 'sent', frame: Uint8Array, good = true): void {
    const bytes = frame.length + CHECK_SEQUENCE_BYTES;
    this.add(way === 'received' ? 'TPR' : 'TPT');
    this.add(way === 'received' ? 'TORL' : 'TOTL', bytes);
    if (!good) return;
    this.add(CLASSES[way][SIZES.findIndex((limit) => bytes <= limit)] as Statistic);
    this.add(way === 'received' ? 'GPRC' : 'GPTC');
    this.add(way === 'received' ? 'GORCL' : 'GOTCL', bytes);
    const broadcast = frame.subarray(0, 6).every((byte) => byte === 0xff);
    if (broadcast) this.add(way === 'received' ? 'BPRC' : 'BPTC');
    else if ((frame[0] as number) & 1) this.add(way === 'received' ? 'MPRC' : 'MPTC');
  }

  static readonly STATE = describe<Statistics>('statistics', 1, {
    counters: field(
      kind.list(kind.record<Counted>({ name: kind.text(16) as Kind<Statistic>, count: kind.safe }), 256),
      (statistics) => [...statistics.#counters].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, count]) => ({ name, count })),
      (statistics, counters) => {
        statistics.#counters.clear();
        for (const { name, count } of counters) statistics.#counters.set(name, count);
      },
    ),
  });
}
