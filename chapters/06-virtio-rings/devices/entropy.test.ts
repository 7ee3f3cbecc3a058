import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { EntropyModel } from './entropy.ts';
import { cutSizes, join, Rig } from './laboratory.ts';
import { hostSource, type RandomSource, seededSource } from './random.ts';

type EntropyOptions = NonNullable<ConstructorParameters<typeof EntropyModel>[0]>;

const rig = (options: EntropyOptions = {}) => new Rig((clock) => new EntropyModel({ ...options, clock })).start();

const stream = (seed: number, bytes: number): Uint8Array => {
  const out = new Uint8Array(bytes);
  seededSource(seed).read(out);
  return out;
};

/** A source with a supply: gives what it has, and says when there is more. */
const supplied = () => {
  const all = seededSource(9);
  let left = 0;
  let ready = (): void => {};
  const source: RandomSource = {
    read(into) {
      const bytes = Math.min(left, into.length);
      all.read(into.subarray(0, bytes));
      left -= bytes;
      return bytes;
    },
    onReady(call) {
      ready = call;
    },
  };
  return {
    source,
    supply(bytes: number) {
      left += bytes;
      ready();
    },
  };
};

describe('random sources', () => {
  it('repeat with a seed, differ between seeds, and do not depend on how they are asked', () => {
    expect(stream(1, 64)).toEqual(stream(1, 64));
    expect(stream(1, 64)).not.toEqual(stream(2, 64));
    fc.assert(
      fc.property(fc.integer(), fc.array(fc.nat({ max: 40 }), { maxLength: 8 }), (seed, sizes) => {
        const source = seededSource(seed);
        const parts = sizes.map((size) => {
          const part = new Uint8Array(size);
          source.read(part);
          return part;
        });
        expect(join(parts)).toEqual(
          stream(
            seed,
            sizes.reduce((a, b) => a + b, 0),
          ),
        );
      }),
    );
  });

  it('a seed of any kind gives all byte values about equally', () => {
    for (const seed of [0, 1, 0xffff_ffff]) {
      const counts = new Uint32Array(256);
      for (const byte of stream(seed, 65_536)) counts[byte] = (counts[byte] as number) + 1;
      expect(Math.min(...counts)).toBeGreaterThan(150); // 256 expected, standard deviation 16
      expect(Math.max(...counts)).toBeLessThan(370);
    }
  });

  it("the host's fills shared memory and more than one call of Web Crypto gives", () => {
    const into = new Uint8Array(new SharedArrayBuffer(70_000));
    expect(hostSource.read(into)).toBe(70_000);
    expect(new Set(into.subarray(65_536)).size).toBeGreaterThan(200);
    expect(new Set(into.subarray(0, 65_536)).size).toBe(256);
  });
});

describe('the entropy device', () => {
  it('has no features of its own, no configuration, and one queue', () => {
    const { model } = rig();
    expect([model.features, model.config.bytes, model.queueSizes, model.deviceId]).toEqual([0n, 0, [8], 4]);
  });

  it('fills buffers, whatever the framing, with the same bytes', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat({ max: 200 }), fc.array(fc.nat(), { maxLength: 6 })), { maxLength: 8 }), (requests) => {
        const machine = rig({ seed: 5 });
        const asked = requests.map(([bytes, places]) => machine.add(0, [], cutSizes(bytes, places)));
        machine.kick(0);
        expect(join(asked.map((request) => request.answer()))).toEqual(
          stream(
            5,
            requests.reduce((sum, [bytes]) => sum + bytes, 0),
          ),
        );
        expect(asked.map(({ used }) => used)).toEqual(requests.map(([bytes]) => bytes));
        expect(machine.notified).toEqual(asked.length > 0 ? [0] : []);
      }),
    );
  });

  it('tolerates what the driver wants it to read, and gives back what cannot be filled', () => {
    const machine = rig({ seed: 3 });
    const both = machine.ask(0, [Uint8Array.of(1, 2, 3)], [4]);
    const none = machine.ask(0, [Uint8Array.of(1)]);
    expect([both.used, none.used]).toEqual([4, 0]);
    expect(both.answer()).toEqual(stream(3, 4));
  });

  it('never answers with nothing: it keeps the buffer until the source has a byte', () => {
    const { source, supply } = supplied();
    const machine = rig({ source });
    const first = machine.ask(0, [], [3, 5]);
    const second = machine.ask(0, [], [8]);
    expect([first.used, second.used, machine.notified]).toEqual([null, null, []]);
    supply(1);
    expect([first.used, second.used, machine.notified]).toEqual([1, null, [0]]);
    supply(20);
    expect([second.used, machine.notified]).toEqual([8, [0, 0]]);
    expect(join([first.answer(), second.answer()])).toEqual(stream(9, 9));
  });

  it('forgets the buffer it kept when the device or the queue is reset', () => {
    for (const how of ['device', 'queue']) {
      const { source, supply } = supplied();
      const machine = rig({ source });
      const lost = machine.ask(0, [], [8]);
      if (how === 'device') machine.start();
      else {
        const queue = machine.device.queues[0] as NonNullable<(typeof machine.device.queues)[number]>;
        queue.reset();
        machine.model.queueReset();
        machine.enable(0);
      }
      supply(8);
      expect(lost.used).toBeNull();
      expect(machine.ask(0, [], [8]).used).toBe(8);
    }
  });

  it('does nothing before DRIVER_OK, and serves then what was made available before', () => {
    const machine = rig();
    machine.start({ driverOk: false });
    const early = machine.ask(0, [], [4]);
    expect(early.used).toBeNull();
    machine.device.setStatus(machine.device.status | 4);
    expect(early.used).toBe(4);
  });
});

describe('its rate limit', () => {
  const second = 1e9;

  it('gives so many bytes in a period, which begins with the first', () => {
    const machine = rig({ maxBytes: 10, periodMs: 1000, seed: 7 });
    machine.pass(10 * second);
    const asked = [6, 6, 6].map((size) => machine.ask(0, [], [size]));
    expect(asked.map(({ used }) => used)).toEqual([6, 4, null]);
    machine.pass(second - 1);
    expect(asked[2]?.used).toBeNull();
    machine.pass(1);
    expect(asked[2]?.used).toBe(6);
    expect(machine.notified).toEqual([0, 0, 0]);
  });

  it('is not lifted by a reset', () => {
    const machine = rig({ maxBytes: 4, periodMs: 1000 });
    expect(machine.ask(0, [], [4]).used).toBe(4);
    machine.start();
    const after = machine.ask(0, [], [4]);
    expect(after.used).toBeNull();
    machine.pass(second);
    expect(after.used).toBe(4);
  });

  it('of nothing gives nothing', () => {
    const machine = rig({ maxBytes: 0 });
    const request = machine.ask(0, [], [4]);
    machine.pass(1000 * second);
    expect(request.used).toBeNull();
  });

  it('refuses a bound that makes no sense', () => {
    expect(() => new EntropyModel({ maxBytes: 1 })).toThrow('EINVAL');
    expect(() => new EntropyModel({ maxBytes: Number.NaN })).toThrow('EINVAL');
    expect(() => new EntropyModel({ periodMs: 0 })).toThrow('EINVAL');
  });
});
