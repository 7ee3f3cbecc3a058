// # The hostile device on the command line
//
// ```sh
// node chapters/06-virtio-rings/driver/host/fuzz-device.ts --steps 1000000 --seed 1
// ```
//
// Beside what holds everywhere, this watches the size of the heap: a quarter of the steps lie before the first look, the rest between the two.

import { parseArgs } from 'node:util';
import { heapBytes } from '../../../05-pio-mmio/host/heap.ts';
import { HostileQueue } from '../fuzz-device.ts';
import { HostileMachine } from '../fuzz-machine.ts';

const GROWTH_LIMIT_BYTES = 16 << 20;
/** Machines are some hundred times as long as steps of a queue. */
const STEPS_OF_A_MACHINE = 200;

const { values } = parseArgs({ options: { steps: { type: 'string', default: '1000000' }, seed: { type: 'string', default: '1' } } });
const steps = Number(values.steps);
const seed = Number(values.seed);

for (const [name, hostile, count] of [
  ['queue', new HostileQueue(seed), steps],
  ['machine', new HostileMachine(seed), Math.ceil(steps / STEPS_OF_A_MACHINE)],
] as const) {
  const started = performance.now();
  hostile.run(Math.ceil(count / 4));
  const before = heapBytes();
  hostile.run(count - Math.ceil(count / 4));
  const grown = heapBytes() - before;
  const { complaints, did, steps: done } = hostile.report;
  console.log(
    `${name} seed ${seed}: ${done} steps, ${((performance.now() - started) / 1000).toFixed(1)} s, heap ${(grown / 2 ** 20).toFixed(1)} MiB more`,
  );
  console.log(`  did ${JSON.stringify(did)}`);
  for (const complaint of complaints) console.log(`  COMPLAINT ${complaint}`);
  if (grown > GROWTH_LIMIT_BYTES) console.log(`  COMPLAINT the heap has grown by ${grown} bytes`);
  if (complaints.length > 0 || grown > GROWTH_LIMIT_BYTES) process.exitCode = 1;
}
