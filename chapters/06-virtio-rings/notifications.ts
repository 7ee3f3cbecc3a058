// # What is saved by not asking
//
// A driver that submits requests in bursts, a device that needs some time to wake up and a little for each request, a driver that needs some time to
// be interrupted. Time is counted in steps: one request submitted, or one served. Both are ordinary users of the two ends of a ring; what differs is
// only what they say about being told.

import { MemoryArena } from './driver/bus.ts';
import { makeVirtqueue } from './driver/make-virtqueue.ts';
import { FlatMemory } from './memory.ts';
import { makeRing } from './rings/make-ring.ts';
import type { Format } from './round-trip.ts';

/** Nobody says anything; both say *I am looking anyway* while they are; both leave a mark. */
export type Suppression = 'none' | 'flags' | 'event index';

export interface Load {
  readonly requests: number;
  /** Requests that are submitted one after the other; */
  readonly burst: number;
  /** steps of silence between bursts; */
  readonly pause: number;
  /** steps from a notification until the other side is awake. */
  readonly latency: number;
}

export interface Notifications {
  readonly kicks: number;
  readonly interrupts: number;
}

const ASLEEP = Number.POSITIVE_INFINITY;
const BASE = 0x1000;

/** Runs the load to its end, and counts who told whom. */
export function notifications(format: Format, how: Suppression, { requests, burst, pause, latency }: Load): Notifications {
  const bytes = new Uint8Array(1 << 16);
  const [memory, arena] = [new FlatMemory(bytes, BASE), new MemoryArena(bytes, BASE)];
  const features = { packed: format === 'packed', indirect: false, eventIdx: how === 'event index', inOrder: false };
  const queue = makeVirtqueue<number>({ index: 0, size: 256, memory: arena, features, hooks: { notify: () => true } });
  const ring = makeRing(memory, queue.areas, features);
  if (typeof ring === 'string') throw new Error(ring);
  const buffer = [arena.allocate(64)];
  let [kicks, interrupts, submitted, returned] = [0, 0, 0, 0];
  let [deviceWakes, driverWakes] = [ASLEEP, ASLEEP];
  for (let now = 0; returned < requests; now++) {
    const inBurst = now % (burst + pause) < burst;
    if (inBurst && submitted < requests && queue.addInbuf(buffer, submitted) === 0) {
      submitted++;
      if (queue.kickPrepare()) {
        kicks++;
        deviceWakes = Math.min(deviceWakes, now + latency);
      }
    }
    if (now >= deviceWakes) {
      if (how !== 'none') ring.disableKicks();
      const chain = ring.pop();
      if (chain) {
        ring.push(chain, 64);
        if (ring.shouldNotify()) {
          interrupts++;
          driverWakes = Math.min(driverWakes, now + latency);
        }
      } else if (how === 'none' || !ring.enableKicks()) deviceWakes = ASLEEP;
    }
    if (now >= driverWakes) {
      if (how !== 'none') queue.disableCb();
      do while (queue.getBuf()) returned++;
      while (how !== 'none' && !queue.enableCb());
      driverWakes = ASLEEP;
    }
  }
  return { kicks, interrupts };
}
