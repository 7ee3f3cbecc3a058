// The devices on the chapter's own rings, with the chapter's own driver at the other end: whatever was negotiated for the ring, a device does the same.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import { type DeviceModel, VirtioDevice } from '../device.ts';
import { sharedMemory } from '../driver/laboratory.ts';
import { makeVirtqueue } from '../driver/make-virtqueue.ts';
import type { QueueFeatures, Virtqueue } from '../driver/virtqueue.ts';
import { F, features as featureSet, STATUS } from '../features.ts';
import { makeRing } from '../rings/make-ring.ts';
import { BalloonModel } from './balloon.ts';
import { ConsoleModel } from './console.ts';
import type { ConsolePort } from './console-port.ts';
import { EntropyModel } from './entropy.ts';
import { cut, cutSizes, join } from './laboratory.ts';
import { seededSource } from './random.ts';

interface Sent {
  readonly pieces: readonly Uint8Array[];
}

/** A started device and a driver's end for each of its queues. */
function machine<M extends DeviceModel>(make: (clock: TimerQueue) => M, ring: QueueFeatures) {
  let now = 0;
  const clock = new TimerQueue(() => now);
  const { memory, arena } = sharedMemory(1 << 22);
  const model = make(clock);
  const offer = featureSet(F.INDIRECT_DESC, F.EVENT_IDX, F.RING_RESET, F.RING_PACKED, F.IN_ORDER);
  const device = new VirtioDevice(model, { memory, makeRing, offer });
  let interrupts = 0;
  device.notifier = { usedBuffer: () => void interrupts++, configChange() {} };
  const chosen = featureSet(
    F.VERSION_1,
    ...(ring.packed ? [F.RING_PACKED] : []),
    ...(ring.indirect ? [F.INDIRECT_DESC] : []),
    ...(ring.eventIdx ? [F.EVENT_IDX] : []),
    ...(ring.inOrder ? [F.IN_ORDER] : []),
  );
  device.setStatus(STATUS.ACKNOWLEDGE | STATUS.DRIVER);
  const all = chosen | model.features;
  device.setDriverFeatures(0, Number(all & 0xffff_ffffn));
  device.setDriverFeatures(1, Number(all >> 32n));
  device.setStatus(STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK);
  expect(device.status & STATUS.FEATURES_OK).not.toBe(0);
  let kicks = 0;
  const queues = model.queueSizes.map((maxSize, index): Virtqueue<Sent> => {
    const size = Math.min(maxSize, 8);
    const queue = makeVirtqueue<Sent>({
      index,
      size,
      memory: arena,
      features: ring,
      hooks: {
        notify() {
          kicks++;
          device.kick(index);
          return true;
        },
      },
    });
    const place = device.queues[index] as (typeof device.queues)[number];
    const { desc, driver, device: used } = queue.areas;
    place.setSize(size);
    for (const [half, address] of [desc, driver, used].entries()) {
      place.setArea(2 * half, address % 2 ** 32);
      place.setArea(2 * half + 1, Math.floor(address / 2 ** 32));
    }
    place.enable();
    return queue;
  });
  device.setStatus(device.status | STATUS.DRIVER_OK);
  const got = (index: number): Uint8Array[] => {
    const queue = queues[index] as Virtqueue<Sent>;
    const answers: Uint8Array[] = [];
    for (let back = queue.getBuf(); back; back = queue.getBuf()) answers.push(join(back.token.pieces).slice(0, back.len));
    return answers;
  };
  /** Adds a buffer; false when there is no room. */
  const add = (index: number, out: readonly Uint8Array[], inSizes: readonly number[]): boolean => {
    const full = out
      .filter(({ length }) => length > 0)
      .map((bytes) => {
        const buffer = arena.allocate(bytes.length);
        buffer.bytes.set(bytes);
        return buffer;
      });
    const empty = inSizes.filter((size) => size > 0).map((size) => arena.allocate(size));
    const queue = queues[index] as Virtqueue<Sent>;
    return queue.addSgs([...full, ...empty], full.length, empty.length, { pieces: empty.map(({ bytes }) => bytes) }) === 0;
  };
  const pass = (ns: number): void => {
    now += ns;
    clock.runDue();
  };
  return { model, device, queues, add, got, kick: (index: number) => queues[index]?.kick(), pass, counts: () => ({ kicks, interrupts }) };
}

const KINDS: [string, QueueFeatures][] = [false, true].flatMap((packed) =>
  [
    { indirect: false, eventIdx: false, inOrder: false },
    { indirect: true, eventIdx: true, inOrder: false },
    { indirect: true, eventIdx: false, inOrder: true },
    { indirect: false, eventIdx: true, inOrder: true },
  ].map((rest): [string, QueueFeatures] => [
    `${packed ? 'packed' : 'split'}${Object.entries(rest)
      .filter(([, on]) => on)
      .map(([name]) => ` ${name}`)
      .join('')}`,
    { packed, ...rest },
  ]),
);

const runs = { numRuns: 10 };

describe.each(KINDS)('on a ring: %s', (_name, ring) => {
  it('entropy gives the same stream, however it is asked', () => {
    const request = fc.tuple(fc.integer({ min: 1, max: 300 }), fc.array(fc.nat(), { maxLength: 3 }), fc.boolean());
    fc.assert(
      fc.property(fc.array(request, { maxLength: 40 }), (requests) => {
        const { add, got, kick, device } = machine((clock) => new EntropyModel({ seed: 4, clock }), ring);
        const answers: Uint8Array[] = [];
        let asked = 0;
        for (const [bytes, places, look] of requests) {
          if (add(0, [], cutSizes(bytes, places))) asked += bytes;
          if (!look) continue;
          kick(0);
          answers.push(...got(0));
        }
        kick(0);
        answers.push(...got(0));
        const expected = new Uint8Array(asked);
        seededSource(4).read(expected);
        expect(join(answers)).toEqual(expected);
        expect(device.failure).toBeNull();
      }),
      runs,
    );
  });

  it('a console carries what it is given, both ways at once', () => {
    const step = fc.tuple(
      fc.constantFrom('out', 'in', 'buffer', 'look'),
      fc.uint8Array({ minLength: 1, maxLength: 120 }),
      fc.array(fc.nat(), { maxLength: 3 }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
        const { model, add, got, kick, device } = machine((clock) => new ConsoleModel({ maxPorts: 1, clock }), ring);
        const port = model.port(0) as ConsolePort;
        const [out, sent, heard, read]: Uint8Array[][] = [[], [], [], []] as never;
        port.onOutput = (bytes) => {
          heard?.push(bytes);
          return undefined;
        };
        for (const [what, bytes, places] of steps) {
          if (what === 'out' && add(1, cut(bytes, places), [])) out?.push(bytes);
          if (what === 'in') sent?.push(bytes.subarray(0, port.send(bytes)));
          if (what === 'buffer') add(0, [], cutSizes(bytes.length, places));
          if (what !== 'look') continue;
          kick(1);
          kick(0);
          got(1);
          read?.push(...got(0));
        }
        kick(1);
        for (let left = 200; left > 0; left--) {
          add(0, [], [64]);
          kick(0);
          read?.push(...got(0));
        }
        expect(join(heard ?? [])).toEqual(join(out ?? []));
        expect(join(read ?? [])).toEqual(join(sent ?? []));
        expect(device.failure).toBeNull();
      }),
      runs,
    );
  });

  it('a balloon hears every page, and holds the statistics', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.array(fc.nat({ max: 1023 }), { minLength: 1, maxLength: 30 }), fc.array(fc.nat(), { maxLength: 3 })), { maxLength: 20 }),
        (lists) => {
          const { model, add, got, kick, device } = machine(
            (clock) => new BalloonModel({ ramBytes: 1 << 22, clock, discard: { discard() {} }, reporting: true, hinting: true }),
            ring,
          );
          const base = 0x1_2340_0000 / 4096;
          const heard: number[] = [];
          model.onInflate = (address, bytes) => {
            for (let page = address; page < address + bytes; page += 4096) heard.push(page / 4096 - base);
          };
          const said: number[] = [];
          for (const [pages, places] of lists) {
            const numbers = new Uint8Array(Uint32Array.from(pages.map((page) => base + page)).buffer);
            if (!add(0, cut(numbers, places), [])) {
              kick(0);
              got(0);
              if (!add(0, cut(numbers, places), [])) continue;
            }
            said.push(...pages);
          }
          kick(0);
          expect(heard).toEqual(said);
          for (let round = 0; round < 20; round++) {
            const stat = new Uint8Array(10);
            stat.set([4, 0, round]);
            expect(add(2, [stat], [])).toBe(true);
            kick(2);
            expect(model.stats()).toEqual({ MEMFREE: BigInt(round) });
            expect(got(2)).toHaveLength(0);
            expect(model.requestStats()).toBe(true);
            expect(got(2)).toHaveLength(1);
          }
          expect(device.failure).toBeNull();
        },
      ),
      runs,
    );
  });
});
