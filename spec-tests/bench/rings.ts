// # Rings
//
// How fast buffers go through a ring, against the same loop in C: driver and device in one thread, and in two that share an array of bytes.

import { Worker } from 'node:worker_threads';
import type { QueueAreas } from '../../chapters/06-virtio-rings/driver/virtqueue.ts';
import type { Figure, Ratio, Section } from './figures.ts';
import { OneThread, ringMemory } from './ring-loop.ts';
import type { EndData } from './ring-thread.ts';
import { cProgram } from './yardstick.ts';

const BUFFERS = 400_000;
const C_BUFFERS = 2_000_000;
const WARM = 200_000;

// ## Two threads
//
// The clock is the driver's, and starts when both are at work: starting a thread costs more than a hundred thousand buffers.

const thread = (data: EndData): Worker =>
  new Worker(new URL('./ring-thread.ts', import.meta.url), { workerData: data, execArgv: ['--disable-warning=ExperimentalWarning'] });

/** Buffers a second through two threads. @throws Error when one is lost, or comes with what the device has not written */
export async function twoThreads(packed: boolean, count = BUFFERS): Promise<number> {
  const data = { buffer: ringMemory(SharedArrayBuffer), shape: { packed }, areas: null, warm: WARM, count };
  const workers: Worker[] = [];
  try {
    return await new Promise<number>((resolve, reject) => {
      const start = (end: EndData): Worker => {
        const worker = thread(end);
        workers.push(worker);
        return worker.on('error', reject);
      };
      start(data).on('message', ({ areas, took }: { areas?: QueueAreas; took?: number }) => {
        if (areas) start({ ...data, areas });
        else resolve(count / (took as number));
      });
    });
  } finally {
    for (const worker of workers) await worker.terminate();
  }
}

/** Buffers a second through one. */
export function oneThread(packed: boolean): () => number {
  const rings = new OneThread({ packed });
  return () => BUFFERS / rings.run(BUFFERS);
}

/** The section of the benchmark. */
export function ringSections(): Section[] {
  const c = cProgram('rings.c', ['-pthread']);
  const inC = (format: string, threads: string): Figure['measure'] => (typeof c === 'string' ? c : () => c([format, threads, String(C_BUFFERS)]));
  const figures: Figure[] = [];
  const ratios: Ratio[] = [];
  for (const format of ['split', 'packed']) {
    for (const threads of ['one', 'two']) {
      const name = `${format} ring, ${threads === 'one' ? 'one thread' : 'two threads'}`;
      figures.push({ name, unit: 'buffers/s', measure: threads === 'one' ? oneThread(format === 'packed') : () => twoThreads(format === 'packed') });
      figures.push({ name: `${name}, C`, unit: 'buffers/s', measure: inC(format, threads) });
      ratios.push([name, `${name}, C`]);
    }
  }
  ratios.push(['packed ring, one thread', 'split ring, one thread'], ['packed ring, two threads', 'split ring, two threads']);
  return [{ title: 'rings', figures, ratios }];
}
