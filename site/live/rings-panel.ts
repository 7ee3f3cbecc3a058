// # The rings of this guest
//
// One row for each queue that a driver has set up: its size and format, where the device is in it, and the last buffers that went through. Size and place come
// from the device itself; the buffers come from the trace, so each leads back to its event.

import type { Timed } from '../../chapters/01-hardware-background/trace.ts';
import { make, plural } from './dom.ts';
import type { QueueState } from './protocol.ts';
import { queueName } from './words.ts';

const LAST = 4;
/** A ring longer than this has no room in a row. */
const MOST_SLOTS = 64;
const WRAP = 0x8000;

/** A buffer that the device has taken. `written` is null until it is given back. */
interface Passed {
  readonly id: number;
  readonly out: number;
  readonly in: number;
  readonly event: number;
  written: number | null;
}

/** What the trace says of one queue. */
export interface QueueHistory {
  readonly device: string;
  readonly queue: number;
  kicks: number;
  buffers: number;
  notifications: number;
  /** The latest last. */
  readonly last: Passed[];
}

/** The queues of a growing trace. */
export class Histories {
  readonly queues = new Map<string, QueueHistory>();

  of(device: string, queue: number): QueueHistory {
    const key = `${device} ${queue}`;
    const known = this.queues.get(key) ?? { device, queue, kicks: 0, buffers: 0, notifications: 0, last: [] };
    this.queues.set(key, known);
    return known;
  }

  add(event: Timed, index: number): void {
    if (event.kind === 'virtio_queue_notify') this.of(event.device, event.queue).kicks++;
    else if (event.kind === 'virtio_notify') this.of(event.device, event.queue).notifications++;
    else if (event.kind === 'virtqueue_pop') {
      const queue = this.of(event.device, event.queue);
      queue.buffers++;
      queue.last.push({ id: event.id, out: event.out, in: event.in, event: index, written: null });
      if (queue.last.length > LAST) queue.last.shift();
    } else if (event.kind === 'virtqueue_fill') {
      const taken = this.of(event.device, event.queue).last.findLast(({ id, written }) => id === event.id && written === null);
      if (taken) taken.written = event.written;
    }
  }
}

/** A position as people say it: the slot, and which time round. */
export function slotOf(position: number, { format, size }: Pick<QueueState, 'format' | 'size'>): { readonly slot: number; readonly words: string } {
  if (format === 'packed') return { slot: position & ~WRAP, words: `slot ${position & ~WRAP}, wrap counter ${position & WRAP ? 1 : 0}` };
  return { slot: position % size, words: `index ${position}, slot ${position % size}` };
}

/** A ring as a row of slots: those that the device has and has not given back, and the one it looks at next. */
function picture(state: QueueState): HTMLElement | null {
  if (state.avail === null || state.used === null || state.size > MOST_SLOTS) return null;
  const [next, back] = [slotOf(state.avail, state).slot, slotOf(state.used, state).slot];
  const under = (next - back + state.size) % state.size;
  const row = make('span', '', 'slots');
  row.setAttribute('aria-hidden', 'true');
  for (let slot = 0; slot < state.size; slot++) {
    const held = (slot - back + state.size) % state.size < under;
    row.append(make('i', '', `${held ? 'held' : ''} ${slot === next ? 'next' : ''}`.trim()));
  }
  return row;
}

const passedWords = ({ id, out, in: room, written }: Passed): string =>
  [`buffer ${id}:`, out > 0 ? `${out} out` : '', room > 0 ? `${written ?? '?'} of ${room} in` : '', written === null ? '(with the device)' : '']
    .filter(Boolean)
    .join(' ');

export class RingsPanel {
  /** The reader wants the event at which a buffer was taken. */
  onChoose: (index: number) => void = () => {};
  readonly #section: HTMLElement;
  readonly #rows: HTMLElement;
  #histories = new Histories();

  constructor(section: HTMLElement, rows: HTMLElement) {
    this.#section = section;
    this.#rows = rows;
    rows.addEventListener('click', (event) => {
      const button = (event.target as Element).closest<HTMLElement>('button[data-event]');
      if (button) this.onChoose(Number(button.dataset.event));
    });
  }

  clear(): void {
    this.#histories = new Histories();
    this.#section.hidden = true;
  }

  add(events: readonly Timed[], from: number): void {
    events.forEach((event, n) => {
      this.#histories.add(event, from + n);
    });
  }

  show(states: readonly QueueState[]): void {
    for (const { device, queue } of states) this.#histories.of(device, queue);
    const histories = [...this.#histories.queues.values()].sort((a, b) => a.device.localeCompare(b.device) || a.queue - b.queue);
    this.#section.hidden = histories.length === 0;
    this.#rows.replaceChildren(
      ...histories.map((history) =>
        this.#row(
          history,
          states.find(({ device, queue }) => device === history.device && queue === history.queue),
        ),
      ),
    );
  }

  #row(history: QueueHistory, state: QueueState | undefined): HTMLElement {
    const row = make('li');
    const head = make('p');
    head.append(make('strong', `${history.device}, ${queueName(history.device, history.queue)}`));
    head.append(` ${state ? [`${state.format} ring of ${state.size}`, ...state.features].join(', ') : 'not set up now'}`);
    row.append(head);
    if (state?.avail !== undefined && state.avail !== null && state.used !== null) {
      const drawn = picture(state);
      if (drawn) row.append(drawn);
      row.append(make('p', `takes next: ${slotOf(state.avail, state).words}; gives back next: ${slotOf(state.used, state).words}`));
    }
    if (state?.failure) row.append(make('p', `broken: ${state.failure}`, 'broken'));
    const counts = [plural(history.kicks, 'kick'), plural(history.buffers, 'buffer'), plural(history.notifications, 'notification')];
    row.append(make('p', counts.join(' · ')));
    const last = make('p', '', 'last');
    for (const passed of history.last.toReversed()) {
      const button = make('button', passedWords(passed)) as HTMLButtonElement;
      button.type = 'button';
      button.dataset.event = String(passed.event);
      last.append(button);
    }
    row.append(last);
    return row;
  }
}
