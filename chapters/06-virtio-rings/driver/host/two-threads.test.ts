import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { type DmaBuffer, MemoryArena } from '../bus.ts';
import { makeVirtqueue } from '../make-virtqueue.ts';

const BASE = 0x10_0000;
const BUFFERS = 2000;
const DEPTH = 16;

// The driver here, the device in another thread, and between them nothing but memory. A store that is seen too early shows as a wrong answer, a lost
// one as a stop.
describe.each([
  { packed: false, indirect: false, eventIdx: false, inOrder: false },
  { packed: false, indirect: true, eventIdx: true, inOrder: false },
  { packed: true, indirect: false, eventIdx: false, inOrder: false },
  { packed: true, indirect: true, eventIdx: true, inOrder: true },
])('two threads: $packed packed, $indirect indirect', (features) => {
  it(`${BUFFERS} buffers there and back`, async () => {
    const shared = new SharedArrayBuffer(1 << 18);
    const arena = new MemoryArena(new Uint8Array(shared), BASE);
    const queue = makeVirtqueue<number>({ index: 0, size: 32, memory: arena, features, hooks: { notify: () => true } });
    const stop = new Int32Array(new SharedArrayBuffer(8));
    const worker = new Worker(new URL('./other-thread.ts', import.meta.url), {
      workerData: { buffer: shared, base: BASE, areas: queue.areas, features, stop },
      execArgv: ['--disable-warning=ExperimentalWarning'],
    });
    const failure = new Promise<string>((resolve) => worker.once('error', (error) => resolve(String(error))));
    const slots = Array.from({ length: DEPTH }, () => [arena.allocate(8), arena.allocate(8)]);
    const free = slots.map((_, index) => index);
    let sent = 0;
    let back = 0;
    let wrong = 0;
    const expected = new Uint32Array(DEPTH);
    const run = (): void => {
      for (let idle = 0; idle < 50 && back < BUFFERS; idle++) {
        for (let slot = free.pop(); slot !== undefined; slot = free.pop()) {
          const pieces = slots[slot] as (typeof slots)[number];
          new DataView(pieces[0]?.bytes.buffer as SharedArrayBuffer, pieces[0]?.bytes.byteOffset).setUint32(0, sent, true);
          expected[slot] = sent++;
          queue.addSgs(pieces, 1, 1, slot);
        }
        for (let got = queue.getBuf(); got; got = queue.getBuf()) {
          const [, { bytes }] = slots[got.token] as [DmaBuffer, DmaBuffer];
          const value = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true) ^ 0x5a5a5a5a;
          if (value >>> 0 !== expected[got.token] || got.len !== 8) wrong++;
          free.push(got.token);
          back++;
          idle = 0;
        }
      }
    };
    const work = (async () => {
      while (back < BUFFERS && !queue.isBroken) {
        run();
        await new Promise((resolve) => setImmediate(resolve));
      }
      return 'done';
    })();
    const ended = await Promise.race([work, failure]);
    Atomics.store(stop, 0, 1);
    await worker.terminate();
    expect([ended, queue.brokenBecause, wrong]).toEqual(['done', null, 0]);
  }, 60_000);
});
