// # The hostile driver on the command line
//
// ```sh
// node chapters/06-virtio-rings/host/fuzz.ts --chains 1000000 --seed 1
// ```
//
// Beside the limits that hold everywhere, this watches what only a process can see of itself: how large its heap is after a quarter of the run, and after
// all of it.

import { parseArgs } from 'node:util';
import { heapBytes } from '../../05-pio-mmio/host/heap.ts';
import { RingFuzz } from '../fuzz.ts';

/** A heap that has grown by more than this between a quarter of the run and its end is growing. */
const GROWTH_LIMIT_BYTES = 4 << 20;

const { values } = parseArgs({
  options: { chains: { type: 'string', default: '1000000' }, seed: { type: 'string', default: '1' }, seeds: { type: 'string', default: '1' } },
});
const chains = Number(values.chains);
const first = Number(values.seed);
if (!(chains > 0)) throw new RangeError(`--chains is a number of chains, not '${values.chains}'`);

for (let seed = first; seed < first + Number(values.seeds); seed++) {
  const fuzz = new RingFuzz(seed);
  const started = process.cpuUsage();
  fuzz.run(Math.ceil(chains / 4));
  const before = heapBytes();
  fuzz.run(chains - Math.ceil(chains / 4));
  const grown = heapBytes() - before;
  const { complaints, broken, ...counts } = fuzz.report;
  const seconds = process.cpuUsage(started).user / 1e6;
  console.log(`seed ${seed}: ${JSON.stringify(counts)}, ${seconds.toFixed(1)} s of processor time, heap ${(grown / 2 ** 20).toFixed(1)} MiB more`);
  console.log(`  broken ${JSON.stringify(broken, null, 1).replace(/\n/g, '\n  ')}`);
  const all = grown > GROWTH_LIMIT_BYTES ? [...complaints, `the heap has grown by ${grown} bytes`] : complaints;
  for (const complaint of all) console.log(`  COMPLAINT ${complaint}`);
  if (all.length > 0) process.exitCode = 1;
}
