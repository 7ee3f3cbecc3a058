// # One end of a ring, in a thread of its own
//
// Started twice by rings.ts, once for each end. Both spin, and whoever has looked in vain for long sleeps a little, as in rings.c.

import { parentPort, workerData } from 'node:worker_threads';
import type { QueueAreas } from '../../chapters/06-virtio-rings/driver/virtqueue.ts';
import { checkSum, DeviceEnd, DriverEnd, type RingShape } from './ring-loop.ts';

/** What a thread is told: a device also where the ring is. */
export interface EndData {
  readonly buffer: SharedArrayBuffer;
  readonly shape: RingShape;
  readonly areas: QueueAreas | null;
  /** Buffers before the clock starts, while the engine finds out what is hot; and after. */
  readonly warm: number;
  readonly count: number;
}

const VAIN = 1000; // looks before a sleep
const NAP_MS = 0.001;

const { buffer, shape, areas, warm, count } = workerData as EndData;
const nobody = new Int32Array(new SharedArrayBuffer(4));
let vain = 0;
function idle(): void {
  if (++vain < VAIN) return;
  vain = 0;
  Atomics.wait(nobody, 0, 0, NAP_MS);
}

if (areas) {
  const device = new DeviceEnd(buffer, areas, shape);
  for (let done = 0; done < warm + count; ) {
    const served = device.serve();
    done += served;
    if (served > 0) vain = 0;
    else idle();
  }
} else {
  const driver = new DriverEnd(buffer, shape);
  parentPort?.postMessage({ areas: driver.areas });
  const run = (buffers: number): number => {
    const began = performance.now();
    for (let given = 0, home = 0; home < buffers; ) {
      const out = driver.give(buffers - given);
      const back = driver.take();
      given += out;
      home += back;
      if (out + back > 0) vain = 0;
      else if (driver.queue.isBroken) throw new Error(driver.queue.brokenBecause ?? 'broken');
      else idle();
    }
    return (performance.now() - began) / 1000;
  };
  run(warm);
  const took = run(count);
  checkSum(warm + count, driver.sum);
  parentPort?.postMessage({ took });
}
