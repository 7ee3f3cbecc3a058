// # The way of one buffer
//
// A driver puts a buffer into a ring and kicks; the device takes it out, works, gives it back, and tells the driver. Between the kick and the interrupt may be
// one exit or thousands, with other buffers in between. This module finds the events of one buffer in the trace: what a reader would do with a finger.

import type { Timed } from '../../chapters/01-hardware-background/trace.ts';

/** What can become of a buffer, in order. */
export const STOPS = ['kick', 'taken', 'given back', 'notification', 'interrupt'] as const;
type Stop = (typeof STOPS)[number];

/** Indices into the trace; null for what did not happen, or has not yet. */
export type Journey = Readonly<Record<Stop, number | null>>;

const NOTHING: Journey = { kick: null, taken: null, 'given back': null, notification: null, interrupt: null };

type OfQueue = Extract<Timed, { kind: 'virtio_queue_notify' | 'virtqueue_pop' | 'virtqueue_fill' | 'virtio_notify' }>;
const STOP_OF: Readonly<Record<OfQueue['kind'], Stop>> = {
  virtio_queue_notify: 'kick',
  virtqueue_pop: 'taken',
  virtqueue_fill: 'given back',
  virtio_notify: 'notification',
};
const isOfQueue = (event: Timed): event is OfQueue => event.kind in STOP_OF;

/** A line that goes up, or a message: how a notification reaches the guest's processors. */
const isInterrupt = (event: Timed): boolean => (event.kind === 'kvm_set_irq' && event.level === 1) || event.kind === 'kvm_msi_set_irq';

/** Goes from `from` until `found` says true, or `end` does. */
function search(
  events: readonly Timed[],
  from: number,
  step: 1 | -1,
  found: (event: Timed) => boolean,
  end: (event: Timed) => boolean,
): number | null {
  for (let at = from + step; at >= 0 && at < events.length; at += step) {
    const event = events[at] as Timed;
    if (found(event)) return at;
    if (end(event)) return null;
  }
  return null;
}

const never = (): boolean => false;
/** The guest runs again: what the device has not said by then it does not say. */
const guestRuns = ({ kind }: Timed): boolean => kind === 'kvm_entry';

/** The buffer to which an event belongs, and the others of that buffer; null for an event of none. */
export function journeyOf(events: readonly Timed[], index: number): Journey | null {
  const start = events[index];
  if (start === undefined) return null;
  if (isInterrupt(start)) {
    const told = search(
      events,
      index,
      -1,
      ({ kind }) => kind === 'virtio_notify',
      (event) => guestRuns(event) || isOfQueue(event),
    );
    return told === null ? null : journeyOf(events, told);
  }
  if (!isOfQueue(start)) return null;
  const ofKind =
    (kind: OfQueue['kind'], id?: number) =>
    (event: Timed): boolean =>
      isOfQueue(event) &&
      event.kind === kind &&
      event.device === start.device &&
      event.queue === start.queue &&
      (id === undefined || ('id' in event && event.id === id));
  const kicked = ofKind('virtio_queue_notify');
  const told = ofKind('virtio_notify');

  // Whatever is chosen, the buffer is found first.
  let taken: number | null = null;
  if (start.kind === 'virtio_queue_notify') taken = search(events, index, 1, ofKind('virtqueue_pop'), kicked);
  else if (start.kind === 'virtqueue_pop') taken = index;
  else {
    const back = start.kind === 'virtqueue_fill' ? index : search(events, index, -1, ofKind('virtqueue_fill'), told);
    const given = back === null ? undefined : events[back];
    if (back !== null && given?.kind === 'virtqueue_fill') taken = search(events, back, -1, ofKind('virtqueue_pop', given.id), never);
  }
  if (taken === null) return { ...NOTHING, [STOP_OF[start.kind]]: index };

  const { id } = events[taken] as Extract<Timed, { kind: 'virtqueue_pop' }>;
  const back = search(events, taken, 1, ofKind('virtqueue_fill', id), ofKind('virtqueue_pop', id));
  const notification = back === null ? null : search(events, back, 1, told, guestRuns);
  const interrupt = notification === null ? null : search(events, notification, 1, isInterrupt, (event) => guestRuns(event) || isOfQueue(event));
  return { kick: search(events, taken, -1, kicked, never), taken, 'given back': back, notification, interrupt };
}

/** Why a stop is missing. */
export function whyMissing(journey: Journey, stop: Stop): string {
  if (stop === 'kick') return 'none was needed';
  if (stop === 'taken') return 'nothing was there';
  if (stop === 'given back' || journey['given back'] === null) return 'not yet';
  return stop === 'notification' ? 'not wanted' : journey.notification === null ? '–' : 'a line that is up already, or no vector';
}
