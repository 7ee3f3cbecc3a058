// # The lane of the devices
//
// A virtio device is user space, but what it does with its rings deserves a lane to itself: everything between a kick and a notification lies between two
// crossings, and would be one heap of dots. Here it is spread out, and each kind has a shape: a kick points down to the device, a notification up to the
// guest, a buffer that is taken is a ring and one that is given back a disc.

import type { Timed } from '../../chapters/01-hardware-background/trace.ts';

/** An event of the lane. */
export interface RingMark {
  /** Place in the trace. */
  readonly index: number;
  /** How many crossings came before, */
  readonly after: number;
  /** and how many marks since the last of them. */
  readonly turn: number;
  readonly event: Timed;
}

const KINDS: ReadonlySet<string> = new Set([
  'virtio_set_status',
  'virtio_queue_notify',
  'virtqueue_pop',
  'virtqueue_fill',
  'virtio_notify',
  'virtio_error',
]);
export const isRingEvent = ({ kind }: Timed): boolean => KINDS.has(kind);

/** The marks of a growing trace. */
export class DeviceLane {
  readonly marks: RingMark[] = [];
  /** Marks of each crossing that has any. */
  readonly #turns = new Map<number, number>();

  add(event: Timed, index: number, after: number): void {
    const turn = this.#turns.get(after) ?? 0;
    this.#turns.set(after, turn + 1);
    this.marks.push({ index, after, turn, event });
  }

  /** Where a mark stands, in crossings: spread evenly between two of them. */
  order({ after, turn }: RingMark): number {
    return after - 0.5 + (turn + 1) / ((this.#turns.get(after) ?? 0) + 1);
  }

  /** The first mark that is not before event `index`; as many as there are when all are. */
  from(index: number): number {
    return firstWhere(this.marks.length, (n) => (this.marks[n] as RingMark).index >= index);
  }
}

/** The first of `count` for which `test` holds, when it holds for all that follow. */
export function firstWhere(count: number, test: (n: number) => boolean): number {
  let [low, high] = [0, count];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (test(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

const SIZE = 3.5;
/** How far below the middle of the lane: what passes to and fro above, what is taken in the middle, what is given back below. */
export const offsetOf = ({ kind }: Timed): number =>
  kind === 'virtio_queue_notify' || kind === 'virtio_notify' ? -11 : kind === 'virtqueue_fill' ? 11 : 0;

/** Draws one mark; `y` is the middle of the lane. */
export function drawMark(context: CanvasRenderingContext2D, x: number, y: number, event: Timed, ink: string, paper: string, strong: boolean): void {
  const { kind } = event;
  const size = strong ? SIZE + 1.5 : SIZE;
  const at = y + offsetOf(event);
  context.beginPath();
  if (kind === 'virtio_queue_notify' || kind === 'virtio_notify') {
    const tip = kind === 'virtio_queue_notify' ? size : -size;
    context.moveTo(x - size, at - tip);
    context.lineTo(x + size, at - tip);
    context.lineTo(x, at + tip);
    context.closePath();
  } else if (kind === 'virtio_set_status') context.rect(x - size + 1, at - size + 1, 2 * size - 2, 2 * size - 2);
  else if (kind === 'virtio_error') {
    context.moveTo(x - size, at - size);
    context.lineTo(x + size, at + size);
    context.moveTo(x + size, at - size);
    context.lineTo(x - size, at + size);
  } else context.arc(x, at, size, 0, 2 * Math.PI);
  context.fillStyle = kind === 'virtqueue_pop' || kind === 'virtio_set_status' ? paper : ink;
  context.fill();
  context.lineWidth = kind === 'virtio_error' ? 2.5 : 1.25;
  context.strokeStyle = ink;
  context.stroke();
}
