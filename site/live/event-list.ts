// # The list of events
//
// The latest events, or those around the chosen one, newest first. A trace is mostly of one kind (a guest that prints is a thousand times the same port), so the
// list can be narrowed to one group.

import type { Timed } from '../../chapters/01-hardware-background/trace.ts';
import { isRingEvent } from './device-lane.ts';
import { make, spaced } from './dom.ts';
import { oneLine } from './words.ts';

const LISTED = 60;

/** What can be left over, by the values of the page's choice. */
export const GROUPS: Readonly<Record<string, (event: Timed) => boolean>> = {
  all: () => true,
  exits: ({ kind }) => kind === 'kvm_entry' || kind === 'kvm_exit' || kind === 'kvm_userspace_exit',
  interrupts: ({ kind }) =>
    /^(interrupt|exception|kvm_(inj_virq|set_irq|pic_set_irq|ioapic_set_irq|msi_set_irq|apic_\w+|eoi|ack_irq|vcpu_wakeup))$/.test(kind),
  rings: (event) => isRingEvent(event) || (event.kind === 'kvm_set_irq' && event.level === 1) || event.kind === 'kvm_msi_set_irq',
};

/** Indices of the events to show, in order: the last of the group, or, when the chosen one is further back, those with it in the middle. */
export function listed(events: readonly Timed[], wanted: (event: Timed) => boolean, chosen: number | null, most = LISTED): number[] {
  const collect = (from: number, step: 1 | -1, count: number): number[] => {
    const found: number[] = [];
    for (let at = from; at >= 0 && at < events.length && found.length < count; at += step) if (wanted(events[at] as Timed)) found.push(at);
    return found;
  };
  const last = collect(events.length - 1, -1, most).reverse();
  if (chosen === null || last.length < most || chosen >= (last[0] as number)) return last;
  const half = most >> 1;
  return [...collect(chosen, -1, half).reverse(), ...collect(chosen + 1, 1, most - half)];
}

export class EventList {
  onChoose: (index: number) => void = () => {};
  readonly #list: HTMLElement;
  readonly #group: HTMLSelectElement;
  #events: readonly Timed[] = [];
  #chosen: number | null = null;

  constructor(list: HTMLElement, group: HTMLSelectElement) {
    this.#list = list;
    this.#group = group;
    group.addEventListener('change', () => this.show(this.#events, this.#chosen));
    list.addEventListener('click', (event) => {
      const button = (event.target as Element).closest<HTMLElement>('button[data-event]');
      if (button) this.onChoose(Number(button.dataset.event));
    });
  }

  show(events: readonly Timed[], chosen: number | null): void {
    [this.#events, this.#chosen] = [events, chosen];
    const items = listed(events, GROUPS[this.#group.value] ?? (() => true), chosen).map((index) => {
      const event = events[index] as Timed;
      const item = make('li');
      const button = make('button', '', `${index === chosen ? 'chosen' : ''} ${isRingEvent(event) ? 'of-ring' : ''}`.trim()) as HTMLButtonElement;
      button.type = 'button';
      button.dataset.event = String(index);
      button.append(make('span', spaced(event.t), 'time'), make('span', oneLine(event)));
      item.append(button);
      return item;
    });
    this.#list.replaceChildren(...items.reverse());
    const button = this.#list.querySelector<HTMLElement>('.chosen');
    if (!button) return;
    // Scrolls the list, not the page.
    const { offsetTop, offsetHeight } = button;
    const { scrollTop, clientHeight } = this.#list;
    if (offsetTop < scrollTop || offsetTop + offsetHeight > scrollTop + clientHeight) this.#list.scrollTop = offsetTop - clientHeight / 2;
  }
}
