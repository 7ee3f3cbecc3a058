// # The hostile guest on the command line
//
// ```sh
// node chapters/05-pio-mmio/host/hostile.ts --operations 1000000 --seed 1 --seeds 3
// ```
//
// Beside the limits that hold everywhere, this watches what only a process can see of itself: how large its heap is after a quarter of the run, and after
// all of it.

import { parseArgs } from 'node:util';
import type { Arrangement } from '../interrupts/controller.ts';
import { HostileGuest } from '../machine/hostile.ts';
import { heapBytes } from './heap.ts';

const ARRANGEMENTS: readonly string[] = ['on', 'split', 'off'] satisfies Arrangement[];

/** A heap that has grown by more than this between a quarter of the run and its end is growing: what the consoles keep for their readers comes to less. */
const GROWTH_LIMIT_BYTES = 48 << 20;

const { values } = parseArgs({
  options: {
    operations: { type: 'string', default: '1000000' },
    seed: { type: 'string', default: '1' },
    seeds: { type: 'string', default: '1' },
    irqchip: { type: 'string', default: 'off' },
  },
});
const irqchips = values.irqchip.split(',');
for (const irqchip of irqchips) if (!ARRANGEMENTS.includes(irqchip)) throw new RangeError(`irqchip is one of ${ARRANGEMENTS.join(', ')}`);
const operations = Number(values.operations);
const first = Number(values.seed);

for (const irqchip of irqchips as Arrangement[]) {
  for (let seed = first; seed < first + Number(values.seeds); seed++) {
    const guest = new HostileGuest({ seed, irqchip });
    const started = performance.now();
    guest.run(Math.ceil(operations / 4));
    const before = heapBytes();
    guest.run(Math.floor((operations * 3) / 4));
    const grown = heapBytes() - before;
    const { complaints, did, most, regions, timers, digest } = guest.report;
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    console.log(
      `${irqchip} seed ${seed}: ${guest.report.operations} operations, ${seconds} s, heap ${(grown / 2 ** 20).toFixed(1)} MiB more, digest ${digest}`,
    );
    console.log(`  did ${JSON.stringify(did)}\n  most ${JSON.stringify(most)}, ${regions} regions, ${timers} timers`);
    for (const complaint of complaints) console.log(`  COMPLAINT ${complaint}`);
    if (grown > GROWTH_LIMIT_BYTES) console.log(`  COMPLAINT the heap has grown by ${grown} bytes`);
    if (complaints.length > 0 || grown > GROWTH_LIMIT_BYTES) process.exitCode = 1;
    guest.dispose();
  }
}
