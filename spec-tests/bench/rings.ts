// # Rings
//
// How fast buffers go through a ring, against the same loop in C: driver and device in one thread, and in two that share an array of bytes.

import { Worker } from 'node:worker_threads';
import { BELLS, BURST, burstCosts, COUNTED_DEVICES, requestCosts, userExits } from '../../chapters/06-virtio-rings/counts.ts';
import type { QueueAreas } from '../../chapters/06-virtio-rings/driver/virtqueue.ts';
import { type Figure, once, type Ratio, type Section } from './figures.ts';
import { sectorsPerSecond, virtioSectorsPerSecond } from './pc.ts';
import { OneThread, ringMemory } from './ring-loop.ts';
import { modelFigures } from './ring-models.ts';
import { pathFigures } from './ring-paths.ts';
import type { EndData } from './ring-thread.ts';
import type { DiskAccess } from './virtio-disk.ts';
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
async function twoThreads(packed: boolean, count = BUFFERS): Promise<number> {
  const shape = { packed };
  const data = { buffer: ringMemory(SharedArrayBuffer, shape), shape, areas: null, warm: WARM, count };
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
function oneThread(packed: boolean): () => number {
  const rings = once(() => new OneThread({ packed }));
  return () => BUFFERS / rings().run(BUFFERS);
}

// ## Through the eyes of a guest
//
// A program reads the first sectors of a disk, again and again, and polls. The IDE controllers are those of chapter 5, whose driver can only look at a register, and
// each look is an exit; where there is a ring it looks at memory.

const ACCESSES: readonly DiskAccess[] = (['ports', 'memory'] as const).flatMap((by) =>
  [1, 8].flatMap((depth) => [false, true].map((ioeventfd) => ({ by, depth, ioeventfd }))),
);

function diskSection(): Section {
  const [slow, fast] = ['disk: read by ports', 'disk: read by bus master'];
  const virtio = ACCESSES.map((access): Figure => {
    const { by, depth, ioeventfd } = access;
    const name = `disk: virtio by ${by}, ${depth} a kick${ioeventfd ? ', ioeventfd' : ''}`;
    return { name, unit: 'sectors/s', measure: () => virtioSectorsPerSecond(access) };
  });
  return {
    title: 'rings: a disk',
    figures: [
      { name: slow, unit: 'sectors/s', measure: () => sectorsPerSecond('ports') },
      { name: fast, unit: 'sectors/s', measure: () => sectorsPerSecond('bus master') },
      ...virtio,
    ],
    ratios: [[fast, slow], ...virtio.flatMap(({ name }): Ratio[] => [[name, fast]]), [virtio[0]?.name as string, slow]],
  };
}

// What does not depend on the speed of anything: how often a guest leaves, and how often it is interrupted.

type CountedMachine = Parameters<typeof requestCosts>[1];
type Costs = ReturnType<typeof requestCosts>;

function countSection(): Section {
  const figures: Figure[] = [];
  const add = (name: string, machine: CountedMachine, count: () => Costs): void => {
    const costs = once(count);
    const of = (value: (costs: Costs) => number) => (): number => value(costs());
    figures.push({ name: `${name}: exits`, unit: '', measure: of(({ kicks, others }) => kicks + others) });
    figures.push({ name: `${name}: exits to user space`, unit: '', measure: of((it) => userExits(it, machine)) });
    figures.push({ name: `${name}: interrupts`, unit: '', measure: of(({ interrupts }) => interrupts) });
  };
  const bell = ({ eventIdx, ioeventfd }: (typeof BELLS)[number]): string =>
    `${eventIdx ? 'with' : 'without'} event index, ${ioeventfd ? 'ioeventfd' : 'no ioeventfd'}`;
  for (const each of BELLS) {
    const machine = { transport: 'pci', ...each } as const;
    for (const type of COUNTED_DEVICES) add(`a request, ${type}, ${bell(each)}`, machine, () => requestCosts(type, machine));
    add(`${BURST} buffers, ${bell(each)}`, machine, () => burstCosts(machine));
  }
  return { title: 'rings: exits and interrupts', figures };
}

/** The sections of the benchmark. */
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
  const paths = pathFigures();
  return [
    { title: 'rings', figures, ratios },
    { title: 'rings: requests', figures: modelFigures() },
    { title: 'rings: growth, and what surrounds them', ...paths },
    diskSection(),
    countSection(),
  ];
}
