// # What just happened
//
// The last events in words, newest first. They are what the worker kept since its last report; the rest of them has gone by. A reader who wants to read them
// holds the list.

import type { Timed } from '../../chapters/01-hardware-background/trace.ts';
import { NS_PER_TICK } from '../../chapters/02-kvm-objects/soft/virtual-clock.ts';
import { get, make, plural } from './dom.ts';
import { GROUPS } from './event-list.ts';
import { explain } from './words.ts';

const LISTED = 40;
const NS_PER_S = 1e9;

/** The events to list, newest first. */
function newest(events: readonly Timed[], group: string, most = LISTED): Timed[] {
  const wanted = GROUPS[group] ?? (() => true);
  const found: Timed[] = [];
  for (let at = events.length - 1; at >= 0 && found.length < most; at--) {
    const event = events[at] as Timed;
    if (wanted(event)) found.push(event);
  }
  return found;
}

export class HappenedPanel {
  /** Set by the page: events are wanted, or no longer. */
  onListen: (on: boolean) => void = () => {};
  readonly #details = get<HTMLDetailsElement>('happened');
  readonly #only = get<HTMLSelectElement>('only');
  readonly #hold = get<HTMLButtonElement>('hold');
  #held = false;
  #events: readonly Timed[] = [];

  constructor() {
    this.#details.addEventListener('toggle', () => this.onListen(this.listening));
    this.#only.addEventListener('change', () => this.#draw());
    this.#hold.addEventListener('click', () => {
      this.#held = !this.#held;
      this.#hold.textContent = this.#held ? 'Go on' : 'Hold';
      this.#hold.setAttribute('aria-pressed', String(this.#held));
    });
  }

  get listening(): boolean {
    return this.#details.open;
  }

  clear(): void {
    this.#events = [];
    get('seen').textContent = '';
    this.#draw();
  }

  show(events: readonly Timed[], seen: number): void {
    if (this.#held || !this.listening) return;
    this.#events = events;
    get('seen').textContent = `${plural(seen, 'event')} since this was opened; the last ${events.length} are kept.`;
    this.#draw();
  }

  #draw(): void {
    get('events').replaceChildren(
      ...newest(this.#events, this.#only.value).map((event) => {
        const { title, sentence } = explain(event);
        const item = make('li');
        item.append(make('span', `${((event.t * NS_PER_TICK) / NS_PER_S).toFixed(6)} s`, 'time'), make('strong', title), make('span', sentence));
        return item;
      }),
    );
  }
}
