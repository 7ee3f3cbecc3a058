// A driver on another processor, played by hand: at chosen ones of the device's accesses to the ring the other side does everything that it can. It kicks
// only when the ring says so. Whatever the moments, in the end every buffer has come back.

import { describe, expect, it } from 'vitest';
import { type Clock, TimerQueue } from '../../02-kvm-objects/clock.ts';
import { MemoryBlock, SECTOR_BYTES } from '../../05-pio-mmio/block/block.ts';
import { type DeviceModel, VirtioDevice } from '../device.ts';
import { type DmaBuffer, MemoryArena } from '../driver/bus.ts';
import { makeVirtqueue } from '../driver/make-virtqueue.ts';
import { DEVICE_ID, F, features as featureSet } from '../features.ts';
import { FlatMemory } from '../memory.ts';
import { type Area, type AreaSource, Areas } from '../rings/area.ts';
import { makeRing } from '../rings/make-ring.ts';
import type { VirtQueue } from '../virt-queue.ts';
import { BalloonModel } from './balloon.ts';
import { BlockModel } from './block.ts';
import { ConsoleModel, portQueues } from './console.ts';
import { EntropyModel } from './entropy.ts';

const BUFFERS = 24;
const BASE = 0x1000;

/** Calls `between` before and after each access. */
function disturbed(source: AreaSource, between: () => void): AreaSource {
  const around = <Args extends number[], R>(access: (...args: Args) => R): ((...args: Args) => R) => {
    return (...args) => {
      between();
      const result = access(...args);
      between();
      return result;
    };
  };
  return {
    open(address, bytes, access) {
      const area = source.open(address, bytes, access);
      return (
        area &&
        ({
          load16: around((at: number) => area.load16(at)),
          load32: around((at: number) => area.load32(at)),
          store16: around((at: number, value: number) => area.store16(at, value)),
          store32: around((at: number, value: number) => area.store32(at, value)),
          acquire16: around((at: number) => area.acquire16(at)),
          publish16: around((at: number, value: number) => area.publish16(at, value)),
        } satisfies Area)
      );
    },
  };
}

interface Subject {
  readonly make: (clock: Clock) => DeviceModel;
  readonly queue: number;
  /** One chain, the same each time. */
  readonly request: (arena: MemoryArena) => { readonly out: readonly DmaBuffer[]; readonly in: readonly DmaBuffer[] };
  readonly want?: bigint;
}

const readable = (arena: MemoryArena): ReturnType<Subject['request']> => ({ out: [arena.allocate(8)], in: [] });

/** A model that serves with the queue's own loop, and comes back, or does not. */
class Plain implements DeviceModel {
  readonly name = 'plain';
  readonly deviceId = DEVICE_ID.ENTROPY;
  readonly features = 0n;
  readonly queueSizes = [4];
  readonly config = { bytes: 0, read: () => 0, write() {} };
  readonly #clock: Clock | null;

  constructor(clock: Clock | null) {
    this.#clock = clock;
  }
  attach(): void {}
  reset(): void {}
  available(queue: VirtQueue): void {
    if (queue.serve(() => 0)) this.#clock?.timer(() => this.available(queue)).arm(0);
  }
}

const SUBJECTS: Readonly<Record<string, Subject>> = {
  'the queue’s own loop': { make: (clock) => new Plain(clock), queue: 0, request: readable },
  entropy: { make: (clock) => new EntropyModel({ clock }), queue: 0, request: (arena) => ({ out: [], in: [arena.allocate(8)] }) },
  'a console': { make: (clock) => new ConsoleModel({ clock }), queue: 1, request: readable },
  'a port that does not exist': {
    make: (clock) => new ConsoleModel({ clock, maxPorts: 4 }),
    queue: portQueues(3).transmit,
    request: readable,
    want: featureSet(1),
  },
  'a balloon': { make: (clock) => new BalloonModel({ clock, ramBytes: 1 << 20, poison: false }), queue: 0, request: readable },
  'a disk': {
    make: (clock) => new BlockModel({ clock, drive: new MemoryBlock(new Uint8Array(8 * SECTOR_BYTES)) }),
    queue: 0,
    request: (arena) => ({ out: [arena.allocate(16)], in: [arena.allocate(8 + SECTOR_BYTES - 7)] }),
  },
};

interface Play {
  readonly packed: boolean;
  readonly eventIdx: boolean;
  readonly size: number;
  /** The other thread runs at each access whose number is this modulo that. */
  readonly phase: number;
  readonly stride: number;
}

/** How many buffers came back. */
function play({ make, queue: index, request, want = 0n }: Subject, { packed, eventIdx, size, phase, stride }: Play): number {
  const bytes = new Uint8Array(1 << 17);
  const [memory, arena] = [new FlatMemory(bytes, BASE), new MemoryArena(bytes, BASE)];
  const features = featureSet(F.VERSION_1, ...(packed ? [F.RING_PACKED] : []), ...(eventIdx ? [F.EVENT_IDX] : []));
  const timers = new TimerQueue(() => 0);
  let accesses = 0;
  let otherThread = (): void => {};
  let inside = false;
  const between = (): void => {
    if (inside || accesses++ % stride !== phase) return;
    inside = true;
    otherThread();
    inside = false;
  };
  const device = new VirtioDevice(make(timers), {
    memory,
    offer: features,
    makeRing: (at, place, agreed) => makeRing(at, place, agreed, { areas: disturbed(new Areas(at), between) }),
  });
  const driver = makeVirtqueue<number>({
    index,
    size,
    memory: arena,
    features: { packed, eventIdx, indirect: false, inOrder: false },
    hooks: { notify: () => true },
  });
  device.setStatus(3);
  for (const window of [0, 1]) device.setDriverFeatures(window, Number(((features | want) >> BigInt(32 * window)) & 0xffff_ffffn));
  device.setStatus(11);
  const queue = device.queues[index] as VirtQueue;
  queue.setSize(size);
  for (const [half, address] of [driver.areas.desc, driver.areas.driver, driver.areas.device].entries()) queue.setArea(2 * half, address);
  queue.enable();
  device.setStatus(15);
  const { out, in: writable } = request(arena);
  let [given, back, kicked] = [0, 0, false];
  otherThread = () => {
    for (let got = driver.getBuf(); got; got = driver.getBuf()) back++;
    let added = false;
    while (given < BUFFERS && driver.addSgs([...out, ...writable], out.length, writable.length, given) === 0) {
      given++;
      added = true;
    }
    if (added && driver.kickPrepare()) kicked = true;
  };
  otherThread();
  for (let turn = 0; turn < 10 * BUFFERS && (kicked || timers.next !== null); turn++) {
    if (kicked) {
      kicked = false;
      device.kick(index);
    } else timers.runDue();
    otherThread();
  }
  expect(device.failure).toBeNull();
  return back;
}

const SIZES = [2, 4];
const PLAYS: readonly Play[] = [false, true].flatMap((packed) =>
  [false, true].flatMap((eventIdx) =>
    SIZES.flatMap((size) =>
      [1, 2, 3, 4, 5, 6, 7, 11, 13].flatMap((stride) =>
        Array.from({ length: stride }, (_, phase): Play => ({ packed, eventIdx, size, phase, stride })),
      ),
    ),
  ),
);

describe('a driver on another processor', () => {
  it.each(Object.entries(SUBJECTS))('loses no kick to %s', (_, subject) => {
    for (const each of PLAYS) expect([each, play(subject, each)]).toEqual([each, BUFFERS]);
  });
  it('would lose one to a device that does not come back', () => {
    const careless: Subject = { make: () => new Plain(null), queue: 0, request: readable };
    expect(PLAYS.filter((each) => play(careless, each) < BUFFERS).length).toBeGreaterThan(0);
  });
});
