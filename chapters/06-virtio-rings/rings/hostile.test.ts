import { describe, expect, it } from 'vitest';
import { type DmaAccess, FlatMemory } from '../memory.ts';
import type { DeviceRing, RingFeatures, RingPlace } from '../queue.ts';
import { type Area, type AreaSource, Areas } from './area.ts';
import { makeRing } from './make-ring.ts';

// Everything that a driver can get wrong, one thing at a time. The ring says what it is, writes nothing, and gives nothing out any more.

const SIZE = 8;
const PLACE: RingPlace = { size: SIZE, desc: 0x1000, driver: 0x2000, device: 0x3000 };
const DATA = 0x8000;
const BYTES = 0x10000;
const FORMATS = [false, true].map((packed) => ({ packed, name: packed ? 'packed' : 'split' }));

/** RAM, of which the upper half may be read only. */
class HalfMemory extends FlatMemory {
  override map(address: number, bytes: number, access: DmaAccess): readonly Uint8Array[] | null {
    return access === 'write' && address + bytes > 0xc000 ? null : super.map(address, bytes, access);
  }
}

type Desc = { addr?: number; high?: number; len?: number; flags?: number; next?: number; id?: number };
const [NEXT, WRITE, INDIRECT] = [1, 2, 4];

class Rig {
  readonly memory = new HalfMemory(new Uint8Array(BYTES));
  readonly view = new DataView(this.memory.bytes.buffer);
  readonly packed: boolean;
  readonly ring: DeviceRing;

  constructor(packed: boolean, features: Partial<RingFeatures> = {}, areas?: (memory: FlatMemory) => AreaSource) {
    this.packed = packed;
    const options = areas ? { areas: areas(this.memory) } : {};
    const ring = makeRing(this.memory, PLACE, { packed, indirect: true, eventIdx: false, inOrder: false, ...features }, options);
    if (typeof ring === 'string') throw new Error(ring);
    this.ring = ring;
  }

  put(at: number, { addr = DATA, high = 0, len = 16, flags = 0, next = 0, id = 0 }: Desc, available = this.packed): void {
    this.view.setUint32(at, addr, true);
    this.view.setUint32(at + 4, high, true);
    this.view.setUint32(at + 8, len, true);
    this.view.setUint16(at + 12, this.packed ? id : flags, true);
    this.view.setUint16(at + 14, this.packed ? flags | (available ? 0x80 : 0) : next, true);
  }

  /** Descriptors from the table's start; the first is the head of an available chain. */
  chain(...descs: Desc[]): this {
    for (const [index, desc] of descs.entries()) this.put(PLACE.desc + 16 * index, desc);
    if (!this.packed) this.view.setUint16(PLACE.driver + 2, 1, true);
    return this;
  }

  /** Nothing comes out now, nothing later, and nothing was touched. */
  isBroken(why: RegExp): void {
    const before = this.memory.bytes.slice();
    expect(this.ring.pop()).toBeNull();
    expect(this.ring.broken).toMatch(why);
    expect(this.ring.pop()).toBeNull();
    expect(this.ring.shouldNotify()).toBe(false);
    expect(this.ring.enableKicks()).toBe(false);
    this.ring.disableKicks();
    expect(this.memory.bytes).toEqual(before);
  }
}

describe.each(FORMATS)('$name: a hostile driver', ({ packed }) => {
  const rig = (features?: Partial<RingFeatures>): Rig => new Rig(packed, features);
  const table = (flags: number, ...descs: Desc[]): Rig => {
    const it = rig().chain({ addr: 0x4000, len: descs.length * 16, flags: INDIRECT | flags });
    for (const [index, desc] of descs.entries()) it.put(0x4000 + 16 * index, desc, false);
    return it;
  };

  it('asks to read where no RAM is', () =>
    rig()
      .chain({ addr: BYTES - 8, len: 9 })
      .isBroken(/no RAM/));
  it('asks to write what may only be read', () => {
    rig()
      .chain({ addr: 0xc000 - 8, len: 9, flags: WRITE })
      .isBroken(/no RAM/);
    expect(
      rig()
        .chain({ addr: 0xc000 - 8, len: 9 })
        .ring.pop()?.readableBytes,
    ).toBe(9);
  });
  it('has a buffer around the end of the address space', () => {
    rig()
      .chain({ addr: 0xffff_fff0, high: 0xffff_ffff, len: 32 })
      .isBroken(/no RAM/);
    rig()
      .chain({ addr: DATA, high: 0x20_0000, len: 8 })
      .isBroken(/no RAM/); // 2^53 more
    rig()
      .chain({ addr: 0xffff_ffff, high: 0x1f_ffff, len: 0xffff_ffff })
      .isBroken(/no RAM/);
  });
  it('has a readable buffer after a writable one', () => {
    rig()
      .chain({ flags: WRITE | NEXT, next: 1 }, { flags: 0 })
      .isBroken(/read after/);
    rig()
      .chain({ flags: WRITE | NEXT, next: 1, len: 0 }, { flags: 0, len: 0 })
      .isBroken(/read after/);
    table(0, { flags: WRITE | (packed ? 0 : NEXT), next: 1 }, { flags: 0 }).isBroken(/read after/);
  });
  it('has more than 4 GiB in a chain; exactly 4 GiB is legal', () => {
    class Endless extends FlatMemory {
      override map(address: number, bytes: number): readonly Uint8Array[] | null {
        return [bytes > BYTES ? this.bytes : this.bytes.subarray(address, address + bytes)];
      }
    }
    for (const [second, legal] of [
      [0x8000_0000, true],
      [0x8000_0001, false],
    ] as const) {
      const it = new Rig(packed);
      const ring = makeRing(new Endless(it.memory.bytes), PLACE, { packed, indirect: false, eventIdx: false, inOrder: false }) as DeviceRing;
      it.chain({ len: 0x8000_0000, flags: NEXT | WRITE, next: 1 }, { len: second, flags: WRITE });
      const chain = ring.pop();
      expect(chain?.writableBytes ?? ring.broken).toEqual(legal ? 2 ** 32 : expect.stringContaining('4 GiB'));
      if (!chain) continue;
      ring.push(chain, 2 ** 32); // cannot be said in 32 bits
      expect(it.view.getUint32(packed ? PLACE.desc + 8 : PLACE.device + 8, true)).toBe(0xffff_ffff);
    }
  });
  it('uses INDIRECT without having negotiated it', () =>
    rig({ indirect: false })
      .chain({ flags: INDIRECT })
      .isBroken(/not negotiated/));
  it('sets INDIRECT and NEXT together', () =>
    rig()
      .chain({ flags: INDIRECT | NEXT, next: 1 }, {})
      .isBroken(/INDIRECT/));
  it('has an indirect table that is no table', () => {
    rig()
      .chain({ flags: INDIRECT, len: 0 })
      .isBroken(/table of 0 bytes/);
    rig()
      .chain({ flags: INDIRECT, len: 24 })
      .isBroken(/table of 24 bytes/);
    rig()
      .chain({ flags: INDIRECT, addr: BYTES - 16, len: 32 })
      .isBroken(/table that is no RAM/);
    rig()
      .chain({ flags: INDIRECT, addr: 0xffff_fff0, high: 0xffff_ffff, len: 32 })
      .isBroken(/table that is no RAM/);
  });
  it('has more descriptors in a table than anybody needs; more than the queue is long, as Linux has, is served', () => {
    for (const [count, legal] of [
      [SIZE + 1, true],
      [1024, true],
      [1025, false],
    ] as const) {
      const it = table(0, ...Array.from({ length: count }, (_, index) => ({ flags: packed || index === count - 1 ? 0 : NEXT, next: index + 1 })));
      if (legal) expect(it.ring.pop()?.readable.length).toBe(count);
      else it.isBroken(/more than 1024 descriptors/);
    }
  });
  it('points its table at the ring itself', () => {
    const it = rig().chain({ addr: PLACE.desc, len: 16 * SIZE, flags: INDIRECT });
    if (!packed) it.isBroken(/inside an indirect/);
    else expect(it.ring.pop()?.readableBytes).toBe(16 * SIZE); // flags in a packed table mean nothing: it is the buffer that it was
  });
  it('sets WRITE on its table, where it means nothing', () => {
    const it = table(WRITE, { addr: DATA, len: 5 });
    expect(it.ring.pop()?.readableBytes).toBe(5);
  });
  it('has an empty buffer, which is legal and is nothing', () => {
    const chain = rig()
      .chain(
        { len: 0, flags: NEXT, next: 1, addr: 0xffff_ffff, high: 0xffff_ffff },
        { len: 3, flags: NEXT | WRITE, next: 2 },
        { len: 0, flags: WRITE },
      )
      .ring.pop();
    expect([chain?.readableBytes, chain?.writableBytes, chain?.descriptors]).toEqual([0, 3, 3]);
  });
});

describe('split: a hostile driver', () => {
  const available = (idx: number, ...heads: number[]): Rig => {
    const it = new Rig(false);
    for (const [index, head] of heads.entries()) it.view.setUint16(PLACE.driver + 4 + 2 * index, head, true);
    it.view.setUint16(PLACE.driver + 2, idx, true);
    return it;
  };

  it('is further ahead than the queue is long, or goes back', () => {
    available(SIZE + 1).isBroken(/avail.idx is 9, 9 ahead/);
    available(0xffff).isBroken(/65535 ahead/);
    expect(available(SIZE, ...Array(SIZE).keys()).ring.pop()?.id).toBe(0); // as far as one may go
  });
  it('goes back after it was believed', () => {
    const it = available(2, 0, 1);
    for (const at of [0, 1]) it.put(PLACE.desc + 16 * at, {});
    expect(it.ring.pop()?.id).toBe(0);
    expect(it.ring.pop()?.id).toBe(1);
    it.view.setUint16(PLACE.driver + 2, 1, true);
    it.isBroken(/65535 ahead/);
  });
  it('names a head, or a next, outside the table', () => {
    available(1, SIZE).isBroken(/descriptor 8 of 8/);
    available(1, 0xffff).isBroken(/descriptor 65535/);
    new Rig(false).chain({ flags: NEXT, next: SIZE }).isBroken(/descriptor 8 of 8/);
    const it = new Rig(false).chain({ flags: INDIRECT, addr: 0x4000, len: 16 });
    it.put(0x4000, { flags: NEXT, next: 1 });
    it.isBroken(/descriptor 1 of 1/);
  });
  it('has a loop', () => {
    new Rig(false).chain({ flags: NEXT, next: 0 }).isBroken(/more than 8 descriptors/);
    new Rig(false).chain({ flags: NEXT, next: 1, len: 0 }, { flags: NEXT, next: 0, len: 0 }).isBroken(/more than 8 descriptors/);
    const it = new Rig(false).chain({ flags: INDIRECT, addr: 0x4000, len: 32 });
    it.put(0x4000, { flags: NEXT, next: 1 });
    it.put(0x4010, { flags: NEXT, next: 0 });
    it.isBroken(/more than \d+ descriptors/);
  });
  it('has an indirect table inside an indirect table', () => {
    const it = new Rig(false).chain({ flags: INDIRECT, addr: 0x4000, len: 16 });
    it.put(0x4000, { flags: INDIRECT, addr: 0x5000, len: 16 });
    it.isBroken(/inside an indirect/);
  });
  it('offers a chain that the device still has', () => {
    const it = available(2, 3, 3);
    it.put(PLACE.desc + 48, {});
    expect(it.ring.pop()?.id).toBe(3);
    it.isBroken(/available twice/);
  });
});

describe('packed: a hostile driver', () => {
  it('has a list that goes on in a descriptor which is not available', () => {
    const it = new Rig(true).chain({ flags: NEXT });
    it.isBroken(/not available/);
  });
  it('has descriptors that nobody made available: both bits alike, on either lap', () => {
    for (const [wrap, flags] of [
      [0x8000, 0x8080],
      [0x8000, 0],
      [0x8000, 0x8000],
      [0, 0],
      [0, 0x8080],
      [0, 0x80],
    ] as const) {
      const it = new Rig(true);
      const ring = makeRing(
        it.memory,
        PLACE,
        { packed: true, indirect: false, eventIdx: false, inOrder: false },
        { position: { avail: wrap, used: wrap } },
      );
      if (typeof ring === 'string') throw new Error(ring);
      it.put(PLACE.desc, {});
      it.view.setUint16(PLACE.desc + 14, flags, true);
      expect(ring.pop(), `lap ${wrap}, flags ${flags}`).toBeNull();
      expect(ring.broken).toBeNull();
      it.view.setUint16(PLACE.desc + 14, wrap ? 0x80 : 0x8000, true);
      expect(ring.pop()?.readableBytes).toBe(16);
    }
  });
  it('has a list that goes round the ring', () => {
    const it = new Rig(true).chain(...Array.from({ length: SIZE }, () => ({ flags: NEXT })));
    it.isBroken(/not available|more than 8/);
  });
  it('has an indirect table in a list', () => new Rig(true).chain({ flags: NEXT }, { flags: INDIRECT, addr: 0x4000 }).isBroken(/INDIRECT in a list/));
  it('offers descriptors that the device still has', () => {
    const it = new Rig(true).chain(...Array.from({ length: SIZE }, () => ({})));
    for (let count = 0; count < SIZE; count++) expect(it.ring.pop()).not.toBeNull();
    expect(it.ring.pop()).toBeNull();
    expect(it.ring.broken).toBeNull();
    it.view.setUint16(PLACE.desc + 14, 0x8000, true);
    it.isBroken(/more descriptors are available/);
  });
  it('marks a place that is outside the ring, and a value that is reserved: both are only wishes', () => {
    for (const [off_wrap, flags, wanted] of [
      [0x7fff, 2, false],
      [0xffff, 2, false],
      [0, 3, true],
    ] as const) {
      const it = new Rig(true, { eventIdx: true }).chain({});
      const chain = it.ring.pop();
      if (!chain) throw new Error('no chain');
      it.ring.push(chain, 0);
      it.view.setUint16(PLACE.driver, off_wrap, true);
      it.view.setUint16(PLACE.driver + 2, flags, true);
      expect(it.ring.shouldNotify()).toBe(wanted);
    }
  });
  it('says DESC without EVENT_IDX: it is told', () => {
    const it = new Rig(true).chain({});
    const chain = it.ring.pop();
    if (!chain) throw new Error('no chain');
    it.ring.push(chain, 0);
    it.view.setUint16(PLACE.driver, 0x8005, true);
    it.view.setUint16(PLACE.driver + 2, 2, true);
    expect(it.ring.shouldNotify()).toBe(true);
  });
});

// ## Memory that changes while one looks
//
// Another processor of the driver's writes between two reads of the device. Here every second read of the same place gives something else, so whatever is
// read twice is read wrongly.

/** Counts loads and, from the second one of a place on, answers with something dreadful. */
class Trickster implements AreaSource {
  readonly inner: AreaSource;
  readonly loads = new Map<number, number>();

  constructor(memory: FlatMemory) {
    this.inner = new Areas(memory);
  }

  open(address: number, bytes: number, access: DmaAccess): Area | null {
    const area = this.inner.open(address, bytes, access);
    if (!area) return null;
    const load = (at: number, value: number): number => {
      const times = (this.loads.get(address + at) ?? 0) + 1;
      this.loads.set(address + at, times);
      return times > 1 ? value ^ 0xffff : value;
    };
    return {
      load16: (at) => load(at, area.load16(at)),
      load32: (at) => load(at, area.load32(at)),
      acquire16: (at) => load(at, area.acquire16(at)),
      store16: (at, value) => area.store16(at, value),
      store32: (at, value) => area.store32(at, value),
      publish16: (at, value) => area.publish16(at, value),
    };
  }
}

describe.each(FORMATS)('$name: memory that changes while one looks', ({ packed }) => {
  it('each field of a chain is read once', () => {
    const seen: Trickster[] = [];
    const it = new Rig(packed, { eventIdx: true }, (memory) => {
      const source = new Trickster(memory);
      seen.push(source);
      return source;
    });
    if (packed) it.chain({ flags: NEXT, len: 3 }, { flags: NEXT | WRITE, len: 4 }, { flags: WRITE, len: 5, id: 77 });
    else {
      it.chain({ flags: NEXT, next: 1, len: 3 }, { flags: INDIRECT, addr: 0x4000, len: 32 });
      it.put(0x4000, { flags: WRITE | NEXT, next: 1, len: 4 });
      it.put(0x4010, { flags: WRITE, len: 5 });
    }
    const chain = it.ring.pop();
    expect(it.ring.broken).toBeNull();
    expect([chain?.id, chain?.readableBytes, chain?.writableBytes]).toEqual([packed ? 77 : 0, 3, 9]);
    for (const [at, times] of seen[0]?.loads ?? []) expect(times, `loads at 0x${at.toString(16)}`).toBe(1);
  });
});

describe('a ring where none can be', () => {
  const features = { indirect: false, eventIdx: true, inOrder: false };
  const memory = new HalfMemory(new Uint8Array(BYTES));
  const made = (packed: boolean, place: Partial<RingPlace>): unknown => makeRing(memory, { ...PLACE, ...place }, { ...features, packed });

  it.each([0, -1, 1.5, 32769, 65536, Number.NaN])('has a size of %s', (size) => {
    for (const packed of [false, true]) expect(made(packed, { size })).toMatch(/a queue size of/);
  });
  it('has a size that is no power of two, which a packed ring may', () => {
    expect(made(false, { size: 6 })).toMatch(/no power of two/);
    expect(made(true, { size: 6 })).toBeTypeOf('object');
  });
  it.each([
    ['desc', 8],
    ['driver', 1],
    ['device', 2],
  ] as const)('has a %s area out of alignment', (area, off) => {
    for (const packed of [false, true]) expect(made(packed, { [area]: 0x1000 + off })).toMatch(/not aligned/);
  });
  it('has an available ring at any even place', () => expect(made(false, { driver: 0x2002 })).toBeTypeOf('object'));
  it.each(['desc', 'driver', 'device'] as const)('has a %s area that is no RAM, or nowhere', (area) => {
    for (const packed of [false, true]) {
      const bytes = packed && area !== 'desc' ? 4 : 16;
      expect(made(packed, { [area]: BYTES - bytes + 16 })).toMatch(/bytes of RAM/);
      expect(made(packed, { [area]: 2 ** 52 })).toMatch(/bytes of RAM/);
      expect(made(packed, { [area]: 2 ** 53 })).toMatch(/outside the address space/);
      expect(made(packed, { [area]: 2 ** 64 })).toMatch(/outside the address space/);
      if (packed ? area !== 'driver' : area === 'device')
        expect(made(packed, { [area]: 0xd000 })).toMatch(/bytes of RAM/); // read only
      else expect(made(packed, { [area]: 0xd000 })).toBeTypeOf('object');
    }
  });
  it('goes on at a position that cannot be', () => {
    const at = (packed: boolean, avail: number, used: number): unknown =>
      makeRing(memory, PLACE, { ...features, packed }, { position: { avail, used } });
    expect(at(false, 9, 0)).toMatch(/position/);
    expect(at(false, 0, 1)).toMatch(/position/);
    expect(at(false, 3, 0xfffb)).toBeTypeOf('object');
    expect(at(false, 0x10000, 0)).toMatch(/position/);
    expect(at(true, 0x8007, 0)).toBeTypeOf('object');
    expect(at(true, 0x8008, 0)).toMatch(/position/);
  });
});
