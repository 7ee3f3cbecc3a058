import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type DeviceMemory, type DmaAccess, FlatMemory } from '../memory.ts';
import type { Chain, DeviceRing, RingFeatures, RingPosition } from '../queue.ts';
import { CutMemory, MEMORY_BYTES, ModelDriver, PAGE, type Request, testPlace } from './laboratory.ts';
import { makeRing } from './make-ring.ts';

type RingOptions = NonNullable<Parameters<typeof makeRing>[3]>;
type Kind = 'flat' | 'cut' | 'odd';

/** Remembers what the ring has declared as written. */
class Declared implements DeviceMemory {
  readonly inner: DeviceMemory;
  readonly marks: Uint8Array = new Uint8Array(MEMORY_BYTES);

  constructor(kind: Kind) {
    if (kind === 'cut')
      this.inner = new CutMemory(Array.from({ length: MEMORY_BYTES / PAGE }, (_, index) => (index * 5 + 3) % (MEMORY_BYTES / PAGE)));
    else this.inner = new FlatMemory(kind === 'odd' ? new Uint8Array(MEMORY_BYTES + 1).subarray(1) : new Uint8Array(MEMORY_BYTES));
  }

  map(address: number, bytes: number, access: DmaAccess): readonly Uint8Array[] | null {
    return this.inner.map(address, bytes, access);
  }

  written(address: number, bytes: number): void {
    this.marks.fill(1, address, address + bytes);
  }
}

function open(
  kind: Kind,
  size: number,
  packed: boolean,
  features: Partial<RingFeatures> = {},
  options: RingOptions = {},
): { memory: Declared; driver: ModelDriver; ring: DeviceRing } {
  const all: RingFeatures = { indirect: true, eventIdx: false, inOrder: false, ...features };
  const memory = new Declared(kind);
  const driver = new ModelDriver(memory, testPlace(size), packed, all, options.position);
  const ring = makeRing(memory, driver.place, { ...all, packed }, options);
  if (typeof ring === 'string') throw new Error(ring);
  return { memory, driver, ring };
}

const FORMATS = [false, true].map((packed) => ({ packed, name: packed ? 'packed' : 'split' }));
const write = (count: number): Request => ({ readable: [], writable: Array.from({ length: count }, () => 8), direct: count });

// ## Everything at once
//
// A random driver, a random device, between them any memory. The model says what each must see.

type Step =
  | { do: 'add'; request: Request }
  | { do: 'show' }
  | { do: 'take'; count: number }
  | { do: 'give'; which: number; part: number }
  | { do: 'ask' }
  | { do: 'collect' }
  | { do: 'mark'; ahead: number; flags: number }
  | { do: 'kicks'; on: boolean };

const lengths = fc.array(fc.oneof({ weight: 9, arbitrary: fc.integer({ min: 1, max: 90 }) }, { weight: 1, arbitrary: fc.constant(0) }), {
  maxLength: 4,
});
const request = (packed: boolean): fc.Arbitrary<Request> =>
  fc
    .record({ readable: lengths, writable: lengths, cut: fc.nat(8) })
    .filter(({ readable, writable }) => readable.length + writable.length > 0)
    .map(({ readable, writable, cut }) => {
      const all = readable.length + writable.length;
      return { readable, writable, direct: packed ? (cut % 2 ? all : 0) : Math.min(cut, all) };
    });
const steps = (packed: boolean): fc.Arbitrary<Step[]> =>
  fc.array(
    fc.oneof(
      { weight: 6, arbitrary: fc.record({ do: fc.constant('add' as const), request: request(packed) }) },
      { weight: 4, arbitrary: fc.record({ do: fc.constant('show' as const) }) },
      { weight: 5, arbitrary: fc.record({ do: fc.constant('take' as const), count: fc.nat(5) }) },
      { weight: 6, arbitrary: fc.record({ do: fc.constant('give' as const), which: fc.nat(20), part: fc.constantFrom(0, 0.5, 1, 1) }) },
      { weight: 4, arbitrary: fc.record({ do: fc.constant('ask' as const) }) },
      { weight: 3, arbitrary: fc.record({ do: fc.constant('collect' as const) }) },
      { weight: 2, arbitrary: fc.record({ do: fc.constant('mark' as const), ahead: fc.integer({ min: -2, max: 6 }), flags: fc.nat(3) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('kicks' as const), on: fc.boolean() }) },
    ),
    { minLength: 20, maxLength: 150 },
  );

function run(kind: Kind, size: number, packed: boolean, features: RingFeatures, position: RingPosition | undefined, plan: readonly Step[]): void {
  const { memory, driver, ring } = open(kind, size, packed, features, position ? { position } : {});
  const { view, place } = driver;
  if (position) ring.shouldNotify(); // the predecessor's debts
  const held: Chain[] = [];
  const given = new Map<Chain, { bytes: number; at: Chain['writableAt'] }>();
  /** Uncollected, in the order in which the device gave them: what must come back. */
  const owed: { id: number; written: number }[] = [];
  let usedSeen = driver.used; // as of the last question
  let shownBefore = driver.avail;
  let taken = 0;
  let shown = 0;
  let laid = 0;
  let kicksOn = true;
  let armed = false; // the device has found the ring empty, so a driver that adds must kick

  const usedNow = (): number => {
    let now = driver.used;
    for (const sent of released()) now = packed ? driver.step(now, sent.slots) : (now + 1) & 0xffff;
    return now;
  };
  /** Chains that the driver must be able to see by now. */
  const released = (): (typeof driver.sent)[number][] => {
    if (!features.inOrder) return owed.map(({ id }) => driver.sent.find((sent) => sent.id === id)).filter((sent) => sent !== undefined);
    const out: (typeof driver.sent)[number][] = [];
    for (const sent of driver.sent) {
      if (!owed.some(({ id }) => id === sent.id)) break;
      out.push(sent);
    }
    return out;
  };

  for (const step of plan) {
    if (step.do === 'add') {
      const elements = step.request.readable.length + step.request.writable.length;
      if (elements <= size && driver.add(step.request)) laid++;
    } else if (step.do === 'show') {
      driver.show();
      if (armed && kicksOn && laid > shown) expect(driver.wouldKick(shownBefore), 'a driver that adds to an empty ring kicks').toBe(true);
      if (!kicksOn && laid > shown && !(features.eventIdx && !packed)) expect(driver.wouldKick(shownBefore)).toBe(false);
      if (laid > shown) armed = false;
      shown = laid;
      shownBefore = driver.avail;
    } else if (step.do === 'take') {
      for (let left = step.count; left > 0; left--) {
        const chain = ring.pop();
        expect(ring.broken).toBeNull();
        if (!chain) {
          expect(taken).toBe(shown);
          armed = true;
          break;
        }
        taken++;
        const sent = driver.sent.find(({ id, out }) => id === chain.id && (chain.readable.length === 0 || out.length === chain.readableBytes));
        expect(sent, 'the chain was sent').toBeDefined();
        if (!sent) return;
        expect(chain.readable.flatMap((piece) => [...piece])).toEqual([...sent.out]);
        expect(chain.writableAt).toEqual(sent.writable.map((pair) => [...pair]));
        expect(chain.writable.reduce((sum, piece) => sum + piece.length, 0)).toBe(chain.writableBytes);
        expect(chain.descriptors).toBe(sent.slots);
        held.push(chain);
      }
    } else if (step.do === 'give') {
      const chain = held.splice(step.which % Math.max(1, held.length), 1)[0];
      if (!chain) continue;
      const written = Math.floor(chain.writableBytes * step.part);
      let left = written;
      for (const piece of chain.writable) {
        piece.fill(chain.id & 0xff, 0, Math.min(left, piece.length));
        left -= Math.min(left, piece.length);
      }
      given.set(chain, { bytes: written, at: chain.writableAt });
      owed.push({ id: chain.id, written });
      memory.marks.fill(0);
      ring.push(chain, written);
      for (const [address, bytes] of chain.writableAt) expect(memory.marks.subarray(address, address + bytes).every((mark) => mark === 1)).toBe(true);
    } else if (step.do === 'ask') {
      const now = usedNow();
      let expected = false;
      if (now !== usedSeen) {
        if (packed) {
          const flags = view.get(place.driver + 2, 2) & 3;
          const mark = view.get(place.driver, 2);
          expected = flags !== 1;
          if (flags === 2 && features.eventIdx) {
            expected = false;
            for (let at = usedSeen; at !== now; at = driver.step(at, 1)) if (at === mark) expected = true;
          }
        } else if (features.eventIdx) {
          const mark = view.get(place.driver + 4 + 2 * size, 2);
          for (let idx = usedSeen; idx !== now; idx = (idx + 1) & 0xffff) if (idx === mark) expected = true;
        } else expected = (view.get(place.driver, 2) & 1) === 0;
      }
      expect(ring.shouldNotify()).toBe(expected);
      expect(ring.shouldNotify()).toBe(false);
      usedSeen = now;
    } else if (step.do === 'collect') {
      const must = released();
      const back = driver.collect();
      expect(back.map(({ sent }) => sent.id)).toEqual(must.map(({ id }) => id));
      for (const { sent, len } of back) {
        const [debt] = owed.splice(
          owed.findIndex(({ id }) => id === sent.id),
          1,
        );
        const room = sent.writable.reduce((sum, [, bytes]) => sum + bytes, 0);
        expect(debt?.written).toBe(len ?? room); // passed over means full
        const bytes = sent.writable.flatMap(([address, count]) => [...view.read(address, count)]);
        expect(bytes.slice(0, debt?.written).every((byte) => byte === (sent.id & 0xff))).toBe(true);
      }
    } else if (step.do === 'mark') {
      const off = packed ? driver.step(driver.used, Math.max(0, step.ahead)) : (driver.used + step.ahead) & 0xffff;
      if (packed) {
        view.put(place.driver, 2, off);
        view.put(place.driver + 2, 2, step.flags);
      } else {
        view.put(place.driver, 2, step.flags & 1);
        if (features.eventIdx) view.put(place.driver + 4 + 2 * size, 2, off);
      }
    } else {
      kicksOn = step.on;
      if (step.on) {
        expect(ring.enableKicks()).toBe(taken < shown);
        armed = taken === shown;
      } else ring.disableKicks();
      if (features.eventIdx && !packed) expect(view.get(place.device, 2), 'used.flags').toBe(0);
    }
  }
  expect(ring.broken).toBeNull();
}

describe.each(FORMATS)('$name: a legal driver', ({ packed }) => {
  it.each(['flat', 'cut', 'odd'] as const)('gets every chain served once, in %s memory', (kind) => {
    const sizes = packed ? fc.integer({ min: 1, max: 20 }) : fc.constantFrom(1, 2, 4, 8, 16, 32);
    const features = fc.record({ indirect: fc.constant(true), eventIdx: fc.boolean(), inOrder: fc.boolean() });
    fc.assert(
      fc.property(sizes, features, fc.option(fc.nat(0xffff)), steps(packed), (size, chosen, start, plan) => {
        const at = start === null ? undefined : packed ? (start & 0x8000) | ((start & 0x7fff) % size) : start;
        run(kind, size, packed, chosen, at === undefined ? undefined : { avail: at, used: at }, plan);
      }),
      { numRuns: 250 },
    );
  });

  it('goes round 16 bits and round the ring', () => {
    for (const eventIdx of [false, true]) {
      const start = packed ? 0x8000 : 65_500;
      const { driver, ring } = open('flat', packed ? 7 : 8, packed, { eventIdx }, { position: { avail: start, used: start } });
      for (let sent = 0; sent < 120; sent += 3) {
        for (let i = 0; i < 3; i++) driver.add({ readable: [], writable: [4], direct: 1 });
        driver.show();
        for (let chain = ring.pop(); chain; chain = ring.pop()) ring.push(chain, 4);
        expect(driver.collect().length).toBe(3);
        expect(ring.position).toEqual({ avail: driver.avail, used: driver.used });
      }
      expect(ring.broken).toBeNull();
    }
  });

  it('may send a chain as long as the queue, directly and through a table', () => {
    for (const size of packed ? [1, 3, 5] : [1, 4, 8]) {
      const { driver, ring } = open('flat', size, packed);
      for (const direct of packed ? [size, 0] : [size, 0, size - 1]) {
        expect(driver.add({ ...write(size), direct })).toBe(true);
        driver.show();
        const chain = ring.pop();
        expect(chain?.writable.length).toBe(size);
        if (chain) ring.push(chain, 1);
        expect(driver.collect().map(({ len }) => len)).toEqual([1]);
      }
    }
  });

  it('may have a buffer, and a ring, that end with RAM', () => {
    const bytes = packed ? 3 * 16 : 4 * 16;
    const memory = new FlatMemory(new Uint8Array(PAGE));
    const size = packed ? 3 : 4;
    const device = PAGE - (packed ? 4 : 4 + 8 * size);
    const ring = makeRing(memory, { size, desc: 0, driver: 128, device }, { packed, indirect: false, eventIdx: false, inOrder: false });
    if (typeof ring === 'string') throw new Error(ring);
    const view = new DataView(memory.bytes.buffer);
    view.setUint32(0, PAGE - bytes, true);
    view.setUint32(8, bytes, true);
    if (packed) view.setUint16(14, 0x80, true);
    else view.setUint16(130, 1, true);
    expect(ring.pop()?.readableBytes).toBe(bytes);
  });
});

describe('in order', () => {
  it.each(FORMATS)('$name: an early chain waits, and a batch is told by its last', ({ packed }) => {
    const { driver, ring } = open('flat', 8, packed, { inOrder: true });
    for (let i = 0; i < 5; i++) driver.add(write(1));
    driver.show();
    const chains = Array.from({ length: 5 }, () => ring.pop() as Chain);
    ring.push(chains[2] as Chain, 8);
    ring.push(chains[1] as Chain, 8);
    expect(driver.collect()).toEqual([]);
    expect(ring.shouldNotify()).toBe(false);
    ring.push(chains[0] as Chain, 8);
    expect(driver.collect().map(({ len }) => len)).toEqual([null, null, 8]);
    expect(ring.shouldNotify()).toBe(true);
    ring.push(chains[4] as Chain, 3);
    ring.push(chains[3] as Chain, 5); // not full: the driver must be told
    expect(driver.collect().map(({ len }) => len)).toEqual([5, 3]);
  });
});

describe('legacy', () => {
  it('NOTIFY_ON_EMPTY speaks up when the last buffer is back, whatever the driver wished', () => {
    const { driver, ring } = open('flat', 4, false, { notifyOnEmpty: true });
    driver.view.put(driver.place.driver, 2, 1);
    driver.add(write(1));
    driver.add(write(1));
    driver.show();
    const [first, second] = [ring.pop() as Chain, ring.pop() as Chain];
    ring.push(first, 0);
    expect(ring.shouldNotify()).toBe(false);
    ring.push(second, 0);
    expect(ring.shouldNotify()).toBe(true);
    expect(ring.shouldNotify()).toBe(false);
  });
});

describe('a chain of another ring', () => {
  it.each(FORMATS)('$name: goes nowhere, and one given back twice is our fault', ({ packed }) => {
    const { memory, driver, ring } = open('flat', 4, packed);
    driver.add(write(1));
    driver.show();
    const chain = ring.pop() as Chain;
    const again = makeRing(memory, driver.place, { packed, indirect: true, eventIdx: false, inOrder: false });
    if (typeof again === 'string') throw new Error(again);
    const before = memory.map(0, MEMORY_BYTES, 'read')?.[0]?.slice();
    again.push(chain, 8);
    expect(memory.map(0, MEMORY_BYTES, 'read')?.[0]).toEqual(before);
    ring.push(chain, 8);
    expect(() => ring.push(chain, 8)).toThrow();
  });
});
