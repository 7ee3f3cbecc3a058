// Test equipment: not a part of the book.

import type { DeviceModel } from '../device.ts';
import { VirtioDevice } from '../device.ts';
import { F, features as featureSet } from '../features.ts';
import { FlatMemory } from '../memory.ts';
import type { Chain, DeviceRing } from '../queue.ts';
import { makeRing } from '../rings/make-ring.ts';
import type { VirtQueue } from '../virt-queue.ts';
import { type DmaBuffer, type DriverBus, type DriverMemory, MemoryArena, MessageCells } from './bus.ts';
import { makeVirtqueue } from './make-virtqueue.ts';
import { LoopbackTransport } from './transports/loopback.ts';
import type { DeviceHandle } from './virtio-device.ts';
import { VirtioBus, type VirtioDriver } from './virtio-driver.ts';
import type { QueueFeatures, Virtqueue } from './virtqueue.ts';

/** Addresses begin high, so that one that was cut to 32 bits is wrong. */
export const BASE = 0x1_2340_0000;

/** Memory that both sides see. */
export function sharedMemory(bytes = 1 << 21): { memory: FlatMemory; arena: MemoryArena } {
  const data = new Uint8Array(bytes);
  return { memory: new FlatMemory(data, BASE), arena: new MemoryArena(data, BASE) };
}

export const PLAIN: QueueFeatures = { packed: false, indirect: false, eventIdx: false, inOrder: false };

/** Both ends of one queue, and who has told whom how often. */
export interface Pair {
  readonly queue: Virtqueue<string>;
  readonly ring: DeviceRing;
  readonly arena: MemoryArena;
  readonly memory: FlatMemory;
  kicks: number;
}

/** A queue whose device end is the book's own. */
export function pair(size: number, features: Partial<QueueFeatures> = {}): Pair {
  const { memory, arena } = sharedMemory();
  const all = { ...PLAIN, ...features };
  const made: { kicks: number } = { kicks: 0 };
  const queue = makeVirtqueue<string>({ index: 0, size, memory: arena, features: all, hooks: { notify: () => ++made.kicks > 0 } });
  const ring = makeRing(memory, queue.areas, all);
  if (typeof ring === 'string') throw new Error(ring);
  return Object.assign(made, { queue, ring, arena, memory });
}

/** A buffer with this in it. */
export function filled(memory: DriverMemory, ...bytes: number[]): DmaBuffer {
  const buffer = memory.allocate(bytes.length);
  buffer.bytes.set(bytes);
  return buffer;
}

export const bytesOf = (pieces: readonly Uint8Array[]): number[] => pieces.flatMap((piece) => [...piece]);

/** What the device does to a chain: answers with each byte that it read plus one. Returns how many it wrote. */
export function answer(chain: Chain): number {
  const heard = bytesOf(chain.readable);
  let written = 0;
  for (const piece of chain.writable) {
    for (let at = 0; at < piece.length && written < heard.length; at++, written++) piece[at] = (heard[written] as number) + 1;
  }
  return written;
}

/** A machine around one bare device. */
export interface Bench {
  readonly bus: DriverBus;
  readonly device: VirtioDevice;
  readonly transport: LoopbackTransport;
  readonly virtio: VirtioBus;
  readonly handle: DeviceHandle;
  readonly arena: MemoryArena;
}

const OFFER = featureSet(F.INDIRECT_DESC, F.EVENT_IDX, F.RING_RESET);

/** Gives a model to its driver, on a loopback transport. */
export function bench(
  model: DeviceModel,
  driver: VirtioDriver,
  { packed = false, offer = 0n, relax = () => {}, want = ~0n }: { packed?: boolean; offer?: bigint; relax?: () => void; want?: bigint } = {},
): Bench {
  const { memory, arena } = sharedMemory(1 << 23);
  const device = new VirtioDevice(model, { memory, makeRing, offer: OFFER | offer | (packed ? featureSet(F.RING_PACKED) : 0n) });
  const messages = new MessageCells(arena);
  const bus: DriverBus = {
    ports: null,
    memory: null,
    dma: arena,
    messages,
    relax() {
      relax();
      transport.settle();
    },
  };
  const transport: LoopbackTransport = new LoopbackTransport(bus, device);
  const virtio = new VirtioBus({ want });
  virtio.registerVirtioDriver(driver);
  return { bus, device, transport, virtio, handle: virtio.registerVirtioDevice(transport), arena };
}

/** A device of one queue that answers at once. */
export class EchoModel implements DeviceModel {
  readonly name = 'echo';
  readonly deviceId = 4;
  readonly features = 0n;
  readonly queueSizes: readonly number[];
  readonly config = { bytes: 0, read: () => 0, write() {} };
  constructor(...queueSizes: number[]) {
    this.queueSizes = queueSizes;
  }
  attach(): void {}
  reset(): void {}
  available(queue: VirtQueue): void {
    queue.serve(answer);
  }
}
