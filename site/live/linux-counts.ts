// # Counting what goes by
//
// A boot has millions of events. None of them is kept here, only counted: exits by their reason in steps of virtual time, accesses by the address
// they went to. While somebody looks at the panel, the last few are kept as well. So whatever a guest does, this takes the same memory.

import type { Timed, Trace, TraceEvent } from '../../chapters/01-hardware-background/trace.ts';
import { NS_PER_TICK } from '../../chapters/02-kvm-objects/soft/virtual-clock.ts';
import type { Lookup } from '../../chapters/05-pio-mmio/route.ts';

/** One step of the exit timeline. */
export const STEP_MS = 100;
/** Steps that are kept. */
export const STEPS = 300;
/** Events that are kept while the panel is open. */
export const KEPT_EVENTS = 400;
const TICKS_PER_STEP = (STEP_MS * 1e6) / NS_PER_TICK;
/** Devices are told apart by address, this many bytes at a time: a window of virtio-mmio is not larger. */
const GRAIN = 512;
const MOST_PLACES = 4096;
const ELSEWHERE = -1;
const NOBODY = 'nobody answers';

/** Exits of one step, by index into the list of reasons. */
export interface Step {
  readonly step: number;
  readonly counts: readonly number[];
}

/** How often a device was read and written. */
export interface Traffic {
  readonly device: string;
  readonly reads: number;
  readonly writes: number;
}

interface Place {
  reads: number;
  writes: number;
}

/** The last few of anything. */
class Ring<T> {
  readonly #limit: number;
  #items: T[] = [];
  #at = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  push(item: T): void {
    this.#items[this.#at] = item;
    this.#at = (this.#at + 1) % this.#limit;
  }
  clear(): void {
    this.#items = [];
    this.#at = 0;
  }
  /** In the order of their coming. */
  get items(): T[] {
    return this.#items.length < this.#limit ? this.#items.slice() : [...this.#items.slice(this.#at), ...this.#items.slice(0, this.#at)];
  }
}

export class Counts implements Trace {
  now = 0;
  /** Reasons that have been seen, in the order of their first coming. */
  readonly reasons: string[] = [];
  readonly totals: number[] = [];
  /** Events since the panel was opened. */
  seen = 0;
  readonly #steps = new Map<number, number[]>();
  /** Since when steps have not been taken. */
  #fresh = 0;
  readonly #ports = new Map<number, Place>();
  readonly #memory = new Map<number, Place>();
  readonly #traffic = new Map<string, Place>();
  readonly #ring = new Ring<Timed>(KEPT_EVENTS);
  #listening = false;

  /** Whether events are kept. */
  get listening(): boolean {
    return this.#listening;
  }
  set listening(on: boolean) {
    this.#listening = on;
    this.#ring.clear();
    this.seen = 0;
  }

  emit(event: TraceEvent): void {
    if (event.kind === 'kvm_exit') this.#exit(event.reason);
    else if (event.kind === 'kvm_pio') count(this.#ports, event.port, event.rw === 'in', event.count);
    else if (event.kind === 'kvm_mmio') count(this.#memory, Math.floor(event.gpa / GRAIN), event.rw === 'read', 1);
    else if (event.kind === 'kvm_fast_mmio') count(this.#memory, Math.floor(event.gpa / GRAIN), false, 1);
    if (!this.#listening) return;
    this.seen++;
    this.#ring.push({ t: this.now, ...event });
  }

  #exit(reason: string): void {
    let index = this.reasons.indexOf(reason);
    if (index < 0) {
      index = this.reasons.push(reason) - 1;
      this.totals.push(0);
    }
    this.totals[index] = (this.totals[index] as number) + 1;
    const step = Math.floor(this.now / TICKS_PER_STEP);
    let counts = this.#steps.get(step);
    if (!counts) {
      counts = [];
      this.#steps.set(step, counts);
      if (this.#steps.size > STEPS) this.#steps.delete(this.#steps.keys().next().value as number);
    }
    counts[index] = (counts[index] ?? 0) + 1;
  }

  // ## What the page is told

  /** Steps in which something was counted since the last call, as they are now. */
  takeSteps(): Step[] {
    const all = [...this.#steps]
      .filter(([step]) => step >= this.#fresh)
      .map(([step, counts]) => ({ step, counts: Array.from(counts, (n) => n ?? 0) }));
    this.#fresh = all.at(-1)?.step ?? this.#fresh; // the last is not over
    return all;
  }

  // A PCI device is where its driver has put it, and may be put elsewhere. So addresses get their names now, while the map is still as it was.

  /** All traffic so far, the busiest first. */
  traffic(lookup: Lookup): Traffic[] {
    this.#name(this.#ports, (port) => who(lookup, 'port', port));
    this.#name(this.#memory, (grain) => who(lookup, 'memory', grain * GRAIN));
    return [...this.#traffic]
      .map(([device, { reads, writes }]) => ({ device, reads, writes }))
      .sort((a, b) => b.reads + b.writes - a.reads - a.writes || (a.device < b.device ? -1 : 1));
  }

  #name(places: Map<number, Place>, nameOf: (place: number) => string): void {
    for (const [place, { reads, writes }] of places) {
      const name = place === ELSEWHERE ? NOBODY : nameOf(place);
      const sum = this.#traffic.get(name) ?? { reads: 0, writes: 0 };
      sum.reads += reads;
      sum.writes += writes;
      this.#traffic.set(name, sum);
    }
    places.clear();
  }

  /** The last events, oldest first. */
  get latest(): Timed[] {
    return this.#ring.items;
  }
}

const who = (lookup: Lookup, space: 'port' | 'memory', address: number): string =>
  (lookup(space, address) ?? lookup(space, address, true))?.device ?? NOBODY;

function count(places: Map<number, Place>, place: number, read: boolean, times: number): void {
  let at = places.get(place);
  if (!at) {
    const key = places.size < MOST_PLACES ? place : ELSEWHERE;
    at = places.get(key) ?? { reads: 0, writes: 0 };
    places.set(key, at);
  }
  if (read) at.reads += times;
  else at.writes += times;
}
