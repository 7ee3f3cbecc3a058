// # Requests through a ring
//
// Each device of chapter 6 with its driver, in one thread and without a transport in between: what a request costs the two sides, from the driver's call to its
// answer, without the exits that a guest would pay besides.

import { MemoryBlock, SECTOR_BYTES } from '../../chapters/05-pio-mmio/block/block.ts';
import { type DeviceModel, VirtioDevice } from '../../chapters/06-virtio-rings/device.ts';
import { BalloonModel } from '../../chapters/06-virtio-rings/devices/balloon.ts';
import { BALLOON_PAGE_BYTES } from '../../chapters/06-virtio-rings/devices/balloon-layout.ts';
import { BlockModel } from '../../chapters/06-virtio-rings/devices/block.ts';
import { ConsoleModel } from '../../chapters/06-virtio-rings/devices/console.ts';
import { EntropyModel } from '../../chapters/06-virtio-rings/devices/entropy.ts';
import { type DriverBus, MemoryArena, MessageCells } from '../../chapters/06-virtio-rings/driver/bus.ts';
import { type Balloon, balloonDriver } from '../../chapters/06-virtio-rings/driver/drivers/balloon.ts';
import { type BlockDisk, blockDriver } from '../../chapters/06-virtio-rings/driver/drivers/block.ts';
import { type Console, consoleDriver } from '../../chapters/06-virtio-rings/driver/drivers/console.ts';
import { type EntropySource, entropyDriver } from '../../chapters/06-virtio-rings/driver/drivers/entropy.ts';
import { LoopbackTransport } from '../../chapters/06-virtio-rings/driver/transports/loopback.ts';
import { VirtioBus, type VirtioDriver } from '../../chapters/06-virtio-rings/driver/virtio-driver.ts';
import { F, features } from '../../chapters/06-virtio-rings/features.ts';
import { FlatMemory } from '../../chapters/06-virtio-rings/memory.ts';
import { makeRing } from '../../chapters/06-virtio-rings/rings/make-ring.ts';
import { type Figure, once, processorSeconds } from './figures.ts';

const MEMORY_BYTES = 1 << 23;
const BASE = 0x1_0000_0000;

/** A device and its driver. @throws Error when they do not come together */
function together<T>(model: DeviceModel, packed: boolean, driver: (found: (it: T) => void) => VirtioDriver): T {
  const bytes = new Uint8Array(MEMORY_BYTES);
  const offer = features(F.INDIRECT_DESC, F.EVENT_IDX, ...(packed ? [F.RING_PACKED] : []));
  const device = new VirtioDevice(model, { memory: new FlatMemory(bytes, BASE), makeRing, offer });
  const dma = new MemoryArena(bytes, BASE);
  const bus: DriverBus = { ports: null, memory: null, dma, messages: new MessageCells(dma), relax: () => transport.settle() };
  const transport: LoopbackTransport = new LoopbackTransport(bus, device);
  const virtio = new VirtioBus();
  let found: T | null = null;
  virtio.registerVirtioDriver(
    driver((it) => {
      found = it;
    }),
  );
  const { failure } = virtio.registerVirtioDevice(transport);
  if (found === null) throw new Error(`${model.name}: ${failure}`);
  return found;
}

const RANDOM_BYTES = 64;
const BLOCK_BYTES = 4096;
const PAGES = 64;

// What each returns does one request, and says whether it went well.
const requests: Readonly<Record<string, (packed: boolean) => () => boolean>> = {
  [`entropy, ${RANDOM_BYTES} bytes`]: (packed) => {
    const source = together<EntropySource>(new EntropyModel(), packed, entropyDriver);
    const into = new Uint8Array(RANDOM_BYTES);
    return () => source.read(into) === RANDOM_BYTES;
  },
  [`console, a line of ${RANDOM_BYTES} bytes`]: (packed) => {
    const model = new ConsoleModel({ maxPorts: 1 });
    let heard = 0;
    const host = model.port(0);
    if (host)
      host.onOutput = (bytes) => {
        heard += bytes.length;
        return bytes.length;
      };
    const console = together<Console>(model, packed, consoleDriver);
    const line = new Uint8Array(RANDOM_BYTES).fill(0x2e);
    const port = console.ports.get(0);
    return () => {
      const before = heard;
      return port?.write(line) === line.length && heard === before + line.length;
    };
  },
  [`balloon, ${PAGES} pages in or out`]: (packed) => {
    const model = new BalloonModel({ ramBytes: MEMORY_BYTES });
    const balloon = together<Balloon>(model, packed, balloonDriver);
    return () => {
      const wanted = balloon.actual === 0 ? PAGES : 0;
      model.target(model.ramBytes - wanted * BALLOON_PAGE_BYTES);
      balloon.work();
      return balloon.actual === wanted;
    };
  },
  [`block, ${BLOCK_BYTES} bytes read`]: (packed) => {
    const drive = new MemoryBlock(new Uint8Array(256 * SECTOR_BYTES));
    const disk = together<BlockDisk>(new BlockModel({ drive }), packed, blockDriver);
    const into = new Uint8Array(BLOCK_BYTES);
    return () => disk.read(0, into) === 0;
  },
};

const REQUESTS = 5000;

/** One figure for each device and format. */
export function modelFigures(): Figure[] {
  return Object.entries(requests).flatMap(([name, make]) =>
    ['split', 'packed'].map((format) => {
      const request = once(() => make(format === 'packed'));
      const measure = (): number => {
        const ask = request();
        const took = processorSeconds(() => {
          for (let n = 0; n < REQUESTS; n++) if (!ask()) throw new Error('a request was not answered');
        });
        return REQUESTS / took;
      };
      return { name: `${name}, ${format}`, unit: 'requests/s', measure };
    }),
  );
}
