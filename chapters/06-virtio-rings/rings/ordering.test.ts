import { describe, expect, it } from 'vitest';
import { type DmaAccess, FlatMemory } from '../memory.ts';
import type { DeviceRing, RingFeatures } from '../queue.ts';
import { type Area, type AreaSource, Areas } from './area.ts';
import { MEMORY_BYTES, ModelDriver, testPlace } from './laboratory.ts';
import { makeRing } from './make-ring.ts';

// The order of a ring's accesses is its contract with the other side, and no result shows it: on this machine, in one thread, every order works. So the
// accesses are written down.

class Log implements AreaSource {
  readonly lines: string[] = [];
  readonly inner: AreaSource;
  readonly names = ['desc', 'driver', 'device'];

  constructor(memory: FlatMemory) {
    this.inner = new Areas(memory);
  }

  open(address: number, bytes: number, access: DmaAccess): Area | null {
    const area = this.inner.open(address, bytes, access);
    if (!area) return null;
    const name = this.names.shift() ?? 'table';
    const said = <T>(what: string, at: number, value: T): T => {
      this.lines.push(`${what} ${name}+${at}`);
      return value;
    };
    return {
      load16: (at) => said('load', at, area.load16(at)),
      load32: (at) => said('load', at, area.load32(at)),
      acquire16: (at) => said('acquire', at, area.acquire16(at)),
      store16: (at, value) => said('store', at, area.store16(at, value)),
      store32: (at, value) => said('store', at, area.store32(at, value)),
      publish16: (at, value) => said('publish', at, area.publish16(at, value)),
    };
  }

  take(): string[] {
    return this.lines.splice(0);
  }
}

function open(packed: boolean, chosen: Partial<RingFeatures> = {}): { driver: ModelDriver; ring: DeviceRing; log: Log } {
  const features = { indirect: true, eventIdx: true, inOrder: false, ...chosen };
  const memory = new FlatMemory(new Uint8Array(MEMORY_BYTES));
  const driver = new ModelDriver(memory, testPlace(4), packed, features);
  const log = new Log(memory);
  const ring = makeRing(memory, driver.place, { ...features, packed }, { areas: log });
  if (typeof ring === 'string') throw new Error(ring);
  driver.add({ readable: [1], writable: [1], direct: 2 });
  driver.show();
  return { driver, ring, log };
}

describe('split', () => {
  it('the index is read before what it counts, and the mark is set before the index is read again', () => {
    const { ring, log } = open(false);
    ring.pop();
    const lines = log.take();
    expect(lines[0]).toBe('publish device+36'); // avail_event, before
    expect(lines[1]).toBe('acquire driver+2'); //  avail.idx, before
    expect(lines[2]).toBe('load driver+4'); //     the element, before
    expect(lines[3]).toBe('load desc+48'); //      the descriptor
    expect(lines.at(-1)).toBe('publish device+36');
    expect(ring.pop()).toBeNull();
    expect(log.take()).toEqual(['acquire driver+2']);
  });

  it('the element is whole before the index moves, and the mark is read after', () => {
    const { ring, log } = open(false);
    const chain = ring.pop();
    if (!chain) throw new Error('no chain');
    log.take();
    ring.push(chain, 1);
    expect(log.take()).toEqual(['store device+4', 'store device+8', 'publish device+2']);
    ring.shouldNotify();
    expect(log.take()).toEqual(['acquire driver+12']);
  });

  it('without EVENT_IDX the flag is set before the index is read again', () => {
    const { ring, log } = open(false, { eventIdx: false });
    ring.disableKicks();
    expect(log.take()).toEqual(['publish device+0']);
    expect(ring.enableKicks()).toBe(true);
    expect(log.take()).toEqual(['publish device+0', 'acquire driver+2']);
    const chain = ring.pop();
    if (!chain) throw new Error('no chain');
    ring.push(chain, 0);
    log.take();
    ring.shouldNotify();
    expect(log.take()).toEqual(['acquire driver+0']);
  });
});

describe('packed', () => {
  it('flags are read before the rest, and the mark is set before they are read again', () => {
    const { ring, log } = open(true);
    ring.pop();
    const lines = log.take();
    expect(lines[0]).toBe('acquire desc+14');
    expect(lines.indexOf('acquire desc+30')).toBeLessThan(lines.indexOf('load desc+16'));
    expect(lines.slice(-3)).toEqual(['acquire desc+46', 'publish device+0', 'publish device+2']);
    expect(ring.pop()).toBeNull();
    expect(log.take()).toEqual(['acquire desc+46']);
  });

  it('a ring that was empty from the start looks again after it has set its mark', () => {
    const features = { indirect: true, eventIdx: true, inOrder: false };
    const memory = new FlatMemory(new Uint8Array(MEMORY_BYTES));
    for (const packed of [false, true]) {
      const log = new Log(memory);
      const ring = makeRing(memory, testPlace(4), { ...features, packed }, { areas: log }) as DeviceRing;
      expect(ring.pop()).toBeNull();
      expect(log.take()).toEqual(
        packed ? ['acquire desc+14', 'publish device+0', 'publish device+2', 'acquire desc+14'] : ['publish device+36', 'acquire driver+2'],
      );
    }
  });

  it('id and length are there before the flags, and the wishes are read after: flags, then the mark', () => {
    const { driver, ring, log } = open(true);
    const chain = ring.pop();
    if (!chain) throw new Error('no chain');
    log.take();
    ring.push(chain, 1);
    expect(log.take()).toEqual(['store desc+12', 'store desc+8', 'publish desc+14']);
    driver.view.put(driver.place.driver + 2, 2, 2);
    ring.shouldNotify();
    expect(log.take()).toEqual(['acquire driver+2', 'acquire driver+0']);
  });
});
