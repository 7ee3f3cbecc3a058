import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import { MemoryBlock, SECTOR_BYTES } from '../../05-pio-mmio/block/block.ts';
import type { DmaBuffer } from '../driver/bus.ts';
import { type Bench, bench } from '../driver/laboratory.ts';
import type { Virtqueue } from '../driver/virtqueue.ts';
import { DEVICE_ID, F, features as featureSet, STATUS } from '../features.ts';
import { BlockModel, type BlockOptions } from './block.ts';
import { BLK_S, BLK_T, BlkOutHdr } from './block-layout.ts';

// The device on real rings, with the chapter's own driver side on the other end, which believes nothing: a wrong length, a chain that comes back twice or was never sent
// breaks its queue.

const SECTORS = 256;

interface Asked {
  readonly sector: number;
  readonly pieces: readonly DmaBuffer[];
  readonly write: boolean;
  readonly status: DmaBuffer;
}

interface Disk extends Bench {
  readonly disk: MemoryBlock;
  readonly queue: Virtqueue<Asked>;
  readonly clock: TimerQueue;
  now: number;
  /** Asks; the pieces are of these sizes. */
  ask(type: number, sector: number, sizes: readonly number[], data?: Uint8Array): Asked | null;
  pass(ns: number): void;
  /** Everything that has come back, with the lengths. */
  reap(): [Asked, number][];
}

function diskOf(packed: boolean, options: Partial<BlockOptions> = {}, offer = 0n, want = ~0n): Disk {
  const time = { now: 0 };
  const clock = new TimerQueue(() => time.now);
  const disk = new MemoryBlock(Uint8Array.from({ length: SECTORS * SECTOR_BYTES }, (_, at) => (at * 5 + (at >> 9)) & 0xff));
  let queue: Virtqueue<Asked> | null = null;
  const made = bench(
    new BlockModel({ drive: disk, queueSize: 64, clock, ...options }),
    {
      name: 'test',
      idTable: [{ device: DEVICE_ID.BLOCK }],
      featureTable: [9],
      probe(handle) {
        queue = handle.findVqs<Asked>([{ name: 'requests', callback: () => {} }])[0] as Virtqueue<Asked>;
      },
    },
    { packed, offer, want },
  );
  expect(made.handle.failure).toBeNull();
  const q = queue as unknown as Virtqueue<Asked>;
  const { arena } = made;
  return Object.assign(time, made, {
    disk,
    queue: q,
    clock,
    ask(type: number, sector: number, sizes: readonly number[], data?: Uint8Array): Asked | null {
      const header = arena.allocate(BlkOutHdr.bytes);
      header.bytes.set(BlkOutHdr.encode({ type, sector: BigInt(sector) }));
      const status = arena.allocate(1);
      status.bytes[0] = 0xee;
      const pieces = sizes.map((size) => arena.allocate(size));
      let at = 0;
      for (const { bytes } of pieces) {
        if (data) bytes.set(data.subarray(at, at + bytes.length));
        else bytes.fill(0xdd);
        at += bytes.length;
      }
      const write = data !== undefined;
      const asked: Asked = { sector, pieces, write, status };
      return q.addSgs([header, ...pieces, status], write ? 1 + pieces.length : 1, write ? 1 : 1 + pieces.length, asked) === 0 ? asked : null;
    },
    pass(ns: number): void {
      const end = time.now + ns;
      while (clock.next !== null && clock.next <= end) {
        time.now = Math.max(time.now, clock.next);
        clock.runDue();
      }
      time.now = end;
    },
    reap(): [Asked, number][] {
      const all: [Asked, number][] = [];
      for (let got = q.getBuf(); got; got = q.getBuf()) all.push([got.token, got.len]);
      return all;
    },
  });
}

const joined = (pieces: readonly DmaBuffer[]): Uint8Array => Uint8Array.from(pieces.flatMap(({ bytes }) => [...bytes]));
const same = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && a.every((byte, at) => byte === b[at]);

describe.each([{ packed: false }, { packed: true }])('a disk on a real ring, packed: $packed', ({ packed }) => {
  const request = fc.record({
    write: fc.boolean(),
    sectors: fc.integer({ min: 0, max: 3 }),
    seed: fc.nat({ max: 255 }),
    cuts: fc.array(fc.integer({ min: 1, max: 700 }), { maxLength: 4 }),
  });
  const offers = [0n, featureSet(F.IN_ORDER)];

  it('equals a flat array, whatever the order in which it answers', () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(request, { minLength: 1, maxLength: 12 }), { minLength: 1, maxLength: 6 }),
        fc.constantFrom(...offers),
        fc.boolean(),
        fc.boolean(),
        (batches, offer, slow, indirect) => {
          // A time for each request that has nothing to do with when it was asked.
          const latency = slow ? (type: number, bytes: number): number => ((type * 7 + bytes * 13) % 97) * 10 : undefined;
          const without = indirect ? 0n : featureSet(F.INDIRECT_DESC);
          const rig = diskOf(packed, latency ? { latency } : {}, offer, ~without);
          const flat = rig.disk.bytes.slice();
          for (const batch of batches) {
            let sector = 0;
            const asked: [Asked, Uint8Array][] = [];
            for (const { write, sectors, seed, cuts } of batch) {
              const bytes = sectors * SECTOR_BYTES;
              const sizes: number[] = [];
              let left = bytes;
              for (const cut of cuts) {
                const size = Math.min(cut, left);
                if (size > 0) sizes.push(size);
                left -= size;
              }
              if (left > 0) sizes.push(left);
              const data = Uint8Array.from({ length: bytes }, (_, at) => (at + seed) & 0xff);
              const one = rig.ask(write ? BLK_T.OUT : BLK_T.IN, sector, sizes, write ? data : undefined);
              if (!one) break; // the ring is full
              if (write) flat.set(data, sector * SECTOR_BYTES);
              asked.push([one, flat.slice(sector * SECTOR_BYTES, sector * SECTOR_BYTES + bytes)]);
              sector += sectors;
            }
            rig.queue.kick();
            rig.pass(1000);
            const back = rig.reap();
            expect(rig.queue.brokenBecause).toBeNull();
            expect(back.length).toBe(asked.length);
            for (const [one, expected] of asked) {
              expect(one.status.bytes[0]).toBe(BLK_S.OK);
              if (!one.write) expect(same(joined(one.pieces), expected)).toBe(true);
            }
            for (const [{ write, pieces }, len] of back) expect(len).toBe(write ? 1 : joined(pieces).length + 1);
            if (offer) expect(back.map(([one]) => one)).toEqual(asked.map(([one]) => one));
          }
          expect(same(rig.disk.bytes, flat)).toBe(true);
        },
      ),
      { numRuns: 25 },
    );
  });

  const slow = { latency: (type: number): number => (type === BLK_T.IN ? 1000 : 10) };

  it('writes nothing after a reset of the queue, and goes on with a new ring', () => {
    const rig = diskOf(packed, slow);
    const read = rig.ask(BLK_T.IN, 0, [512]) as Asked;
    rig.queue.kick();
    rig.device.resetQueue(0);
    rig.pass(1e6);
    expect([read.status.bytes[0], read.pieces[0]?.bytes[0]]).toEqual([0xee, 0xdd]);
    expect(rig.clock.armed).toBe(0);
  });

  it('finishes what it has begun before it sleeps', () => {
    const rig = diskOf(packed, slow, featureSet(F.SUSPEND));
    const first = rig.ask(BLK_T.IN, 1, [512]) as Asked;
    rig.queue.kick();
    rig.device.setStatus(rig.device.status | STATUS.SUSPEND);
    expect(rig.device.status & (STATUS.SUSPEND | STATUS.DRIVER_OK)).toBe(STATUS.DRIVER_OK);
    const second = rig.ask(BLK_T.OUT, 1, [512], new Uint8Array(512)) as Asked;
    rig.queue.kick();
    rig.pass(999);
    expect([rig.device.suspended, first.status.bytes[0]]).toEqual([false, 0xee]);
    rig.pass(1);
    expect([rig.device.suspended, first.status.bytes[0], second.status.bytes[0]]).toEqual([true, BLK_S.OK, 0xee]);
    rig.pass(1e6);
    expect(second.status.bytes[0]).toBe(0xee);
    rig.device.setStatus(rig.device.status | STATUS.DRIVER_OK);
    rig.pass(10);
    expect([rig.device.suspended, second.status.bytes[0]]).toEqual([false, BLK_S.OK]);
    expect(rig.reap().length).toBe(2);
  });

  it('sleeps at once when nothing is under way', () => {
    const rig = diskOf(packed, slow, featureSet(F.SUSPEND));
    rig.device.setStatus(rig.device.status | STATUS.SUSPEND);
    expect(rig.device.suspended).toBe(true);
  });

  it('touches no memory while it may not, and goes on after that', () => {
    const rig = diskOf(packed, slow);
    const read = rig.ask(BLK_T.IN, 1, [512]) as Asked;
    rig.queue.kick();
    rig.device.setReach(false);
    rig.pass(1e6);
    expect([read.status.bytes[0], read.pieces[0]?.bytes[0]]).toEqual([0xee, 0xdd]);
    rig.device.setReach(true);
    expect([read.status.bytes[0], rig.reap().length]).toEqual([BLK_S.OK, 1]);
  });

  it('takes turns: a driver that asks for very much does not stop the machine', () => {
    const rig = diskOf(packed);
    const huge = rig.arena.allocate(1 << 20);
    const header = rig.arena.allocate(BlkOutHdr.bytes);
    header.bytes.set(BlkOutHdr.encode({ type: 0xffff, sector: 0n }));
    const status = rig.arena.allocate(1);
    const asked: Asked = { sector: 0, pieces: [], write: false, status };
    // the same megabyte, sixty times over, for a request that does not exist
    expect(rig.queue.addSgs([header, ...new Array(60).fill(huge), status], 1, 61, asked)).toBe(0);
    rig.queue.kick();
    expect(rig.queue.moreUsed()).toBe(false);
    for (let turns = 1; !rig.queue.moreUsed(); turns++) {
      expect(turns).toBeLessThan(10);
      rig.clock.runDue();
    }
    expect(status.bytes[0]).toBe(BLK_S.UNSUPP);
    expect(rig.reap()).toEqual([[asked, 60 * (1 << 20) + 1]]);
  });
});
