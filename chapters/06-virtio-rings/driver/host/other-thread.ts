// The device of the two-thread test: it looks, answers, and never sleeps. Test equipment: not a part of the book.

import { workerData } from 'node:worker_threads';
import { FlatMemory } from '../../memory.ts';
import { makeRing } from '../../rings/make-ring.ts';
import type { QueueAreas, QueueFeatures } from '../virtqueue.ts';

const { buffer, base, areas, features, stop } = workerData as {
  readonly buffer: SharedArrayBuffer;
  readonly base: number;
  readonly areas: QueueAreas;
  readonly features: QueueFeatures;
  readonly stop: Int32Array;
};
const ring = makeRing(new FlatMemory(new Uint8Array(buffer), base), areas, features);
if (typeof ring === 'string') throw new Error(ring);
Atomics.store(stop, 1, 1);
for (let idle = 0; Atomics.load(stop, 0) === 0; ) {
  const chain = ring.pop();
  if (ring.broken !== null) throw new Error(ring.broken);
  if (!chain) {
    // Sleeps a little after having looked in vain for some time, so that the driver gets the processor where there is only one.
    if (++idle % 1000 === 0) Atomics.wait(stop, 0, 0, 1);
    continue;
  }
  idle = 0;
  const [out] = chain.readable;
  const [into] = chain.writable;
  if (!out || !into) throw new Error('a chain without both parts');
  for (let at = 0; at < out.length; at++) into[at] = (out[at] as number) ^ 0x5a;
  ring.push(chain, out.length);
}
