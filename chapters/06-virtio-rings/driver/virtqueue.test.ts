import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Chain } from '../queue.ts';
import type { DmaBuffer } from './bus.ts';
import { answer, filled, pair } from './laboratory.ts';
import { passed } from './split-virtqueue.ts';
import type { QueueFeatures } from './virtqueue.ts';

const FORMATS = [{ packed: false }, { packed: true }] as const;
const NAMES = ['indirect', 'eventIdx', 'inOrder'] as const;
const all: Partial<QueueFeatures>[] = FORMATS.flatMap((format) =>
  Array.from({ length: 8 }, (_, bits) => ({ ...format, ...Object.fromEntries(NAMES.map((name, at) => [name, ((bits >> at) & 1) !== 0])) })),
);
const say = (features: Partial<QueueFeatures>): string => [features.packed ? 'packed' : 'split', ...NAMES.filter((name) => features[name])].join(' ');

describe.each(all.map((features) => [say(features), features] as const))('a %s queue', (_, features) => {
  it('hands over one buffer and takes it back', () => {
    const { queue, ring, arena } = pair(8, features);
    const out = filled(arena, 1, 2, 3);
    const into = filled(arena, 0, 0, 0, 0);
    expect(queue.getBuf()).toBeNull();
    expect(queue.addSgs([out, into], 1, 1, 'a')).toBe(0);
    expect(queue.kickPrepare()).toBe(true);
    const chain = ring.pop() as Chain;
    expect([...(chain.readable[0] as Uint8Array)]).toEqual([1, 2, 3]);
    expect(chain.writableBytes).toBe(4);
    ring.push(chain, answer(chain));
    expect(queue.getBuf()).toMatchObject({ token: 'a', len: 3 });
    expect([...into.bytes]).toEqual([2, 3, 4, 0]);
    expect(queue.getBuf()).toBeNull();
    expect(queue.numFree).toBe(8);
    expect(queue.brokenBecause).toBeNull();
  });

  it('says when it is full, and takes more when something has come back', () => {
    const { queue, ring, arena } = pair(4, features);
    const one = filled(arena, 1);
    for (let n = 0; n < 4; n++) expect(queue.addOutbuf([one], `${n}`)).toBe(0);
    expect(queue.addOutbuf([one], 'too many')).toBe(-28);
    ring.push(ring.pop() as Chain, 0);
    expect(queue.getBuf()?.token).toBe('0');
    expect(queue.addOutbuf([one], '4')).toBe(0);
    expect(queue.numFree).toBe(0);
  });

  it('loses no buffer past every wrap', () => {
    const rounds = features.packed ? 2000 : 0x1_0000 + 100;
    const { queue, ring, arena } = pair(4, features);
    const pieces = [filled(arena, 7), filled(arena, 0), filled(arena, 0)];
    for (let n = 0; n < rounds; n++) {
      if (queue.addSgs(pieces, 1, 2, `${n}`) !== 0) expect.fail(`round ${n}: no room`);
      queue.kickPrepare();
      const chain = ring.pop();
      if (!chain) expect.fail(`round ${n}: the device finds nothing; ${ring.broken}`);
      ring.push(chain, 1);
      const got = queue.getBuf();
      if (got?.token !== `${n}` || got.len !== 1) expect.fail(`round ${n}: got ${got?.token}, ${queue.brokenBecause}`);
    }
  });

  it('refuses what no ring can hold', () => {
    const { queue, arena } = pair(4, features);
    const one = filled(arena, 1);
    const einval = expect.objectContaining({ code: 'EINVAL' });
    expect(() => queue.addSgs([], 0, 0, 'none')).toThrow(einval);
    expect(() => queue.addOutbuf([one, one, one, one, one], 'long')).toThrow(einval);
    expect(() => queue.addSgs([one], 1, 1, 'missing')).toThrow(einval);
    expect(() => queue.addOutbuf([{ address: one.address, bytes: one.bytes.subarray(0, 0) }], 'empty')).toThrow(einval);
    expect(queue.numFree).toBe(4);
    expect(queue.outstanding).toBe(0);
  });

  it('gives the buffers of a queue that was taken apart back once', () => {
    const { queue, ring, arena } = pair(8, features);
    const one = filled(arena, 1);
    for (const token of ['a', 'b', 'c']) queue.addInbuf([one, one], token);
    ring.push(ring.pop() as Chain, 1);
    queue.getBuf();
    expect(() => queue.detachUnusedBuf()).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    queue.quiesce();
    expect([queue.detachUnusedBuf(), queue.detachUnusedBuf(), queue.detachUnusedBuf()]).toEqual(['b', 'c', null]);
    const before = arena.freeBytes;
    queue.destroy();
    expect(arena.freeBytes).toBeGreaterThan(before);
  });

  // Against a model: the list of buffers that are where. The device takes some, keeps some, gives some back in any order that was agreed on.
  it('keeps its promises in any order of steps', () => {
    type Step = {
      readonly kind: 'add' | 'take' | 'give' | 'get' | 'off' | 'on' | 'later';
      readonly n: number;
      readonly out: number;
      readonly in: number;
    };
    const step: fc.Arbitrary<Step> = fc.record({
      kind: fc.constantFrom('add', 'add', 'take', 'take', 'give', 'give', 'get', 'get', 'off', 'on', 'later'),
      n: fc.nat(7),
      out: fc.nat(4),
      in: fc.nat(4),
    });
    const sizes = features.packed ? fc.constantFrom(1, 3, 5, 8, 13) : fc.constantFrom(1, 2, 8, 16);
    fc.assert(
      fc.property(sizes, fc.array(step, { maxLength: 90 }), (size, steps) => {
        const { queue, ring, arena } = pair(size, features);
        const free: DmaBuffer[] = Array.from({ length: 12 }, () => arena.allocate(8));
        let serial = 0;
        const waiting: string[] = []; // available, not taken
        const taken: { chain: Chain; token: string }[] = [];
        const given: { token: string; len: number }[] = [];
        const needed = new Map<string, number>();
        for (const { kind, n, out, in: into } of steps) {
          if (kind === 'add' && out + into > 0 && out + into <= size) {
            const room = features.indirect && out + into > 1 ? 1 : out + into;
            const fits = room <= queue.numFree;
            const token = `${serial++}`;
            expect(queue.addSgs(free.slice(0, out + into), out, into, token)).toBe(fits ? 0 : -28);
            if (fits) {
              waiting.push(token);
              needed.set(token, room);
            }
            queue.kickPrepare();
          } else if (kind === 'take') {
            const chain = ring.pop();
            expect(ring.broken).toBeNull();
            expect(chain === null).toBe(waiting.length === 0);
            if (chain) taken.push({ chain, token: waiting.shift() as string });
          } else if (kind === 'give' && taken.length > 0) {
            const [{ chain, token }] = taken.splice(features.inOrder ? 0 : n % taken.length, 1) as [(typeof taken)[0]];
            const len = Math.min(chain.writableBytes, n);
            ring.push(chain, len);
            given.push({ token, len });
          } else if (kind === 'get') {
            const got = queue.getBuf();
            expect(queue.brokenBecause).toBeNull();
            const expected = given.shift();
            expect(got === null ? undefined : { token: got.token, len: got.len }).toEqual(expected);
            if (expected) needed.delete(expected.token);
          } else if (kind === 'off') queue.disableCb();
          else if (kind === 'on') expect(queue.enableCb()).toBe(given.length === 0);
          else if (kind === 'later') queue.enableCbDelayed();
          expect(queue.moreUsed()).toBe(given.length > 0);
          expect(queue.outstanding).toBe(waiting.length + taken.length + given.length);
          expect(queue.numFree).toBe(size - [...needed.values()].reduce((sum, each) => sum + each, 0));
        }
      }),
      { numRuns: 25 },
    );
  });

  // Nobody looks unless told. If one wish or one kick were lost, this would stand still.
  it('never sleeps on a buffer', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(1, 2, 4, 16),
        fc.array(fc.record({ add: fc.nat(5), serve: fc.nat(5), late: fc.boolean() }), { maxLength: 60 }),
        (size, rounds) => {
          const { queue, ring, arena } = pair(size, features);
          const one = filled(arena, 1);
          let told = false; // the device
          let called = false; // the driver
          let delayed = false;
          let here = 0;
          let there = 0;
          const serve = (limit: number): void => {
            for (let n = 0; n < limit; n++) {
              const chain = ring.pop();
              if (!chain) return;
              ring.push(chain, 0);
              there--;
              here++;
            }
          };
          queue.disableCb();
          expect(queue.enableCb()).toBe(true);
          for (const { add, serve: limit, late } of rounds) {
            for (let n = 0; n < add; n++) if (queue.addOutbuf([one], 'x') === 0) there++;
            if (queue.kickPrepare()) told = true;
            if (told) {
              // The device works with kicks off, asks for them again, and looks once more.
              told = false;
              ring.disableKicks();
              serve(limit);
              if (ring.enableKicks()) told = true;
              if (ring.shouldNotify()) called = true;
            }
            if (called) {
              called = false;
              delayed = late;
              queue.disableCb();
              for (let got = queue.getBuf(); got; got = queue.getBuf()) here--;
              if (!(late ? queue.enableCbDelayed() : queue.enableCb())) called = true;
            }
            expect(told || there === 0).toBe(true);
            // Asked for most of them only, the device may be silent while it still has some.
            if (!delayed || there === 0) expect(called || here === 0).toBe(true);
          }
        },
      ),
      { numRuns: 25 },
    );
  });
});

describe('what one side asks and the other computes', () => {
  it('passed() is a window that ends behind the event', () => {
    expect(passed(5, 6, 5)).toBe(true);
    expect(passed(5, 5, 4)).toBe(false);
    expect(passed(5, 7, 6)).toBe(false);
    expect(passed(0xffff, 0, 0xffff)).toBe(true);
    expect(passed(0xffff, 3, 0xfffe)).toBe(true);
    expect(passed(3, 3, 3)).toBe(false);
  });
});
