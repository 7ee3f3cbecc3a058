// # A driver that means harm
//
// Chance alone finds little in a ring: bytes thrown at it are refused at the first index. So this driver is a good one most of the time, lays chains
// as the specification has them, and then spoils a little: a flag, a link, an address, the index, or whatever the device reads while it is reading
// it, as a second processor could.
//
// What must hold is short. No exception. No store but into the used ring, the device's own words and the buffers that a chain offers for writing. No
// piece of memory that the driver did not name or that is not there. A bounded number of accesses for each call, and never more chains in the
// device's hands than the queue has descriptors. And as long as nothing is spoilt, everything is served: a device that refuses all is safe, and no
// use.
//
// Everything follows from a seed. A complaint names the seed and the ring.

import { Random } from '../04-memory-virtualization/random.ts';
import type { DeviceMemory, DmaAccess } from './memory.ts';
import type { Chain, DeviceRing, RingFeatures, RingPlace, RingPosition } from './queue.ts';
import { type Area, type AreaSource, Areas } from './rings/area.ts';
import {
  availBytes,
  availEventAt,
  descBytes,
  MAX_INDIRECT,
  PACKED_DESC_F,
  RING_EVENT_FLAGS,
  usedEventAt,
  VIRTQ_DESC_F,
  WRAP,
} from './rings/layout.ts';
import { makeRing } from './rings/make-ring.ts';

const { NEXT, WRITE, INDIRECT } = VIRTQ_DESC_F;
const { AVAIL, USED } = PACKED_DESC_F;

// ## The place
//
// Guest memory is small, so that stray addresses hit something, and stands between two fields that nobody may touch. A part of it is missing, and a part
// may only be read.

const GUARD = 32 << 10;
const RAM = 64 << 10;
const HOLE = { from: 0xa000, to: 0xb000 };
const READ_ONLY = 0xd000;
/** Tables have a place of their own for each chain: what a legal driver lays stays what it was until the device has seen it. Buffers may lie over each other. */
const MOST_ELEMENTS = 5;
const TABLE_STRIDE = 16 * (MOST_ELEMENTS + 1);
const DATA = { from: 0x6000, to: 0x7000 };
const SIZES = [1, 2, 3, 4, 5, 8, 16, 17, 64, 100, 256] as const;

type Store = 'desc' | 'driver' | 'device' | 'table';

/** Memory and areas with a witness: whoever stores does so twice, here and in a copy, and what differs in the end was stored by no right. */
class Witness implements DeviceMemory, AreaSource {
  readonly bytes = new Uint8Array(GUARD + RAM + GUARD);
  readonly copy = new Uint8Array(GUARD + RAM + GUARD);
  readonly view = new DataView(this.bytes.buffer, GUARD, RAM);
  readonly #copyView = new DataView(this.copy.buffer, GUARD, RAM);
  readonly #areas = new Areas(this);
  readonly random: Random;
  complain: (what: string) => void = () => {};
  /** How likely a load sees something else than was there. */
  trickery = 0;
  /** Accesses since somebody set it to 0. */
  accesses = 0;
  /** The ring being made: areas are opened in this order, tables after. */
  next: Store[] = [];
  packed = false;
  deviceBytes = 0;

  constructor(random: Random) {
    this.random = random;
  }

  map(address: number, bytes: number, access: DmaAccess): readonly Uint8Array[] | null {
    this.accesses++;
    if (!(address >= 0 && bytes >= 0 && address + bytes <= RAM)) return null;
    if (address < HOLE.to && address + bytes > HOLE.from) return null;
    if (access === 'write' && address + bytes > READ_ONLY) return null;
    return [this.bytes.subarray(GUARD + address, GUARD + address + bytes)];
  }

  written(address: number, bytes: number): void {
    if (!this.map(address, bytes, 'write')) this.complain(`says it has written ${bytes} bytes at ${address}`);
  }

  open(address: number, bytes: number, access: DmaAccess): Area | null {
    const area = this.#areas.open(address, bytes, access);
    const kind = this.next.shift() ?? 'table';
    if (!area) return null;
    const load = (at: number, width: number, value: number): number => {
      this.accesses++;
      if (at < 0 || at + width > bytes) this.complain(`reads ${kind} at ${at} of ${bytes}`);
      return this.trickery > 0 && this.random.chance(this.trickery) ? this.random.next() & (width === 4 ? -1 : 0xffff) : value;
    };
    const store = (at: number, width: 2 | 4, value: number): void => {
      this.accesses++;
      const fits = at >= 0 && at + width <= bytes;
      const own = kind === 'device' || (kind === 'desc' && this.packed && at % 16 >= 8);
      if (!fits || !own) this.complain(`stores to ${kind} at ${at} of ${bytes}`);
      else if (width === 2) this.#copyView.setUint16(address + at, value, true);
      else this.#copyView.setUint32(address + at, value, true);
    };
    return {
      load16: (at) => load(at, 2, area.load16(at)),
      load32: (at) => load(at, 4, area.load32(at) >>> 0) >>> 0,
      acquire16: (at) => load(at, 2, area.acquire16(at)),
      store16(at, value) {
        store(at, 2, value);
        area.store16(at, value);
      },
      store32(at, value) {
        store(at, 4, value);
        area.store32(at, value);
      },
      publish16(at, value) {
        store(at, 2, value);
        area.publish16(at, value);
      },
    };
  }

  /** The driver's own stores. */
  put(address: number, width: 1 | 2 | 4, value: number): void {
    if (address < 0 || address + width > RAM) return;
    for (const view of [this.view, this.#copyView]) {
      if (width === 4) view.setUint32(address, value, true);
      else if (width === 2) view.setUint16(address, value, true);
      else view.setUint8(address, value);
    }
  }

  /** The device's stores into a buffer. */
  fill(piece: Uint8Array, from: number, to: number, byte: number): void {
    piece.fill(byte, from, to);
    this.copy.fill(byte, piece.byteOffset + from, piece.byteOffset + to);
  }

  /** Whether both say the same; they do from then on. */
  agrees(): boolean {
    const [here, there] = [new Uint32Array(this.bytes.buffer), new Uint32Array(this.copy.buffer)];
    if (here.every((word, index) => word === there[index])) return true;
    this.copy.set(this.bytes);
    return false;
  }
}

// ## One ring's life

interface FuzzReport {
  readonly chains: number;
  readonly rings: number;
  /** Rings that ended because of what the driver wrote, and why, without the numbers. */
  readonly broken: Readonly<Record<string, number>>;
  readonly refused: number;
  readonly notifications: number;
  /** The most accesses that one call needed, per descriptor of the longest possible chain. */
  readonly mostAccesses: number;
  readonly complaints: readonly string[];
  /** Of all that happened: two runs of a seed are the same. */
  readonly digest: string;
}

const MOST_COMPLAINTS = 20;

export class RingFuzz {
  readonly #random: Random;
  readonly #memory: Witness;
  readonly #seed: number;
  #chains = 0;
  #rings = 0;
  #refused = 0;
  #notifications = 0;
  #mostAccesses = 0;
  #digest = 0x811c9dc5;
  readonly #broken = new Map<string, number>();
  readonly #complaints: string[] = [];
  // The ring at hand.
  #ring: DeviceRing | null = null;
  #place: RingPlace = { size: 1, desc: 0, driver: 0, device: 0 };
  #features: RingFeatures = { indirect: false, eventIdx: false, inOrder: false };
  #packed = false;
  #legal = true;
  #avail = 0;
  #free: number[] = [];
  #slots = 0;
  /** What the driver has laid, by id: how many bytes each way, and its descriptors. */
  readonly #laid = new Map<number, { readonly out: number; readonly in: number; readonly ids: readonly number[]; readonly slots: number }>();
  /** Of these, what the device has given back and the driver has not taken yet. */
  readonly #back = new Set<number>();
  #waiting = 0;
  readonly #held: Chain[] = [];

  constructor(seed: number) {
    this.#seed = seed;
    this.#random = new Random(seed);
    this.#memory = new Witness(this.#random);
    this.#memory.complain = (what) => this.#complain(what);
  }

  get report(): FuzzReport {
    return {
      chains: this.#chains,
      rings: this.#rings,
      broken: Object.fromEntries([...this.#broken].sort(([a], [b]) => (a < b ? -1 : 1))),
      refused: this.#refused,
      notifications: this.#notifications,
      mostAccesses: this.#mostAccesses,
      complaints: this.#complaints,
      digest: (this.#digest >>> 0).toString(16),
    };
  }

  /** Goes on until so many more chains have been taken, or there is enough to complain of. */
  run(chains: number): void {
    for (const end = this.#chains + chains; this.#chains < end && this.#complaints.length < MOST_COMPLAINTS; ) {
      this.#begin();
      if (this.#ring) this.#live(end);
      if (!this.#memory.agrees()) this.#complain('memory has changed that nobody was given');
    }
  }

  #complain(what: string): void {
    if (this.#complaints.length < MOST_COMPLAINTS) this.#complaints.push(`seed ${this.#seed}, ring ${this.#rings}: ${what}`);
  }

  #note(value: number): void {
    this.#digest = Math.imul(this.#digest ^ value, 0x01000193);
  }

  /** Calls the ring. It may not throw, nor need more accesses than the longest chain, times the fields of a descriptor. */
  #call<T>(what: string, otherwise: T, call: () => T): T {
    const memory = this.#memory;
    memory.accesses = 0;
    try {
      return call();
    } catch (error) {
      this.#complain(`${what} throws ${error}`);
      return otherwise;
    } finally {
      const perDescriptor = memory.accesses / (this.#longest + 4);
      this.#mostAccesses = Math.max(this.#mostAccesses, perDescriptor);
      if (perDescriptor > 16) this.#complain(`${what} takes ${memory.accesses} accesses in a queue of ${this.#place.size}`);
    }
  }

  /** The longest chain there can be. */
  get #longest(): number {
    return this.#features.indirect ? Math.max(this.#place.size, MAX_INDIRECT) : this.#place.size;
  }

  #begin(): void {
    const random = this.#random;
    const memory = this.#memory;
    this.#rings++;
    this.#packed = random.chance(0.5);
    const size = random.pick(this.#packed ? SIZES : SIZES.filter((n) => (n & (n - 1)) === 0));
    this.#features = { indirect: random.chance(0.7), eventIdx: random.chance(0.6), inOrder: random.chance(0.3) };
    this.#place = { size, desc: 0x7000, driver: 0x8000, device: 0x9000 };
    this.#legal = true;
    this.#held.length = 0;
    this.#laid.clear();
    this.#back.clear();
    this.#waiting = 0;
    this.#free = Array.from({ length: size }, (_, index) => index);
    this.#slots = size;
    memory.trickery = 0;
    memory.packed = this.#packed;
    const { desc, driver, device } = this.#place;
    for (let at = desc; at < desc + descBytes(size); at += 4) memory.put(at, 4, 0);
    for (let at = driver; at < driver + availBytes(size) + 2; at += 2) memory.put(at, 2, 0);
    for (let at = device; at < device + availEventAt(size) + 2; at += 2) memory.put(at, 2, 0);
    let position: RingPosition | undefined;
    this.#avail = this.#packed ? WRAP : 0;
    if (!this.#packed && random.chance(0.3)) {
      this.#avail = 0xfff0 + random.below(16);
      position = { avail: this.#avail, used: this.#avail };
      memory.put(driver + 2, 2, this.#avail);
      memory.put(device + 2, 2, this.#avail);
    }
    if (random.chance(0.05)) this.#misplace(random);
    memory.next = ['desc', 'driver', 'device'];
    const options = { areas: memory, ...(position && { position }) };
    const made = this.#call('makeRing', 'threw', () => makeRing(memory, this.#place, { ...this.#features, packed: this.#packed }, options));
    memory.next = [];
    this.#ring = typeof made === 'string' ? null : made;
    if (typeof made !== 'string') return;
    this.#refused++;
    if (this.#legal) this.#complain(`a legal ring is refused: ${made}`);
  }

  /** Registers are the driver's too. */
  #misplace(random: Random): void {
    const spoilt = { ...this.#place };
    const which = random.pick(['size', 'desc', 'driver', 'device'] as const);
    spoilt[which] = random.pick([
      0,
      1,
      2,
      3,
      0x7ffe,
      HOLE.from - 4,
      READ_ONLY - 2,
      READ_ONLY,
      RAM - 8,
      RAM,
      random.next(),
      random.next() * 2 ** 20,
      2 ** 53,
      2 ** 64,
    ]);
    this.#place = spoilt;
    this.#legal = false;
  }

  #live(end: number): void {
    const random = this.#random;
    const ring = this.#ring as DeviceRing;
    const spoils = random.chance(0.8) ? random.pick([0.01, 0.05, 0.3]) : 0;
    for (let turns = 10 + random.below(120); turns > 0 && ring.broken === null && this.#chains < end; turns--) {
      this.#driver();
      if (random.chance(spoils)) this.#spoil();
      this.#device(ring);
    }
    if (ring.broken === null) return;
    const why = ring.broken.replace(/0x[0-9a-f]+|\d+/g, 'n');
    this.#broken.set(why, (this.#broken.get(why) ?? 0) + 1);
    this.#note(why.length);
    if (this.#legal) this.#complain(`a legal driver is refused: ${ring.broken}`);
    if (this.#call('pop', null, () => ring.pop()) !== null) this.#complain('a broken ring gives chains out');
    for (const chain of this.#held) this.#call('push', undefined, () => ring.push(chain, 0));
  }

  // ### The driver

  #driver(): void {
    const random = this.#random;
    for (let count = random.below(4); count > 0; count--) {
      const elements = 1 + random.below(Math.min(MOST_ELEMENTS, this.#place.size));
      const table = this.#features.indirect && random.chance(0.4);
      const direct = !table ? elements : this.#packed ? 0 : random.below(elements);
      const slots = table ? direct + 1 : direct;
      if (slots > this.#slots) break;
      this.#lay(elements, direct, slots);
    }
    const { driver, size } = this.#place;
    if (!this.#packed) this.#memory.put(driver + 2, 2, this.#avail);
    if (!random.chance(0.2)) return;
    // Its wishes.
    if (this.#packed) {
      this.#memory.put(driver, 2, random.below(Math.max(1, size)) | (random.next() & WRAP));
      this.#memory.put(driver + 2, 2, random.pick(Object.values(RING_EVENT_FLAGS)));
    } else {
      this.#memory.put(driver, 2, random.next() & 1);
      if (this.#features.eventIdx) this.#memory.put(driver + usedEventAt(size), 2, this.#avail - random.below(4));
    }
  }

  #lay(elements: number, direct: number, slots: number): void {
    const random = this.#random;
    const memory = this.#memory;
    const { desc, driver, size } = this.#place;
    const readable = random.below(elements + 1);
    const ids = Array.from({ length: this.#packed ? 1 : slots }, () => this.#free.shift() as number);
    const table = (ids[0] as number) * TABLE_STRIDE + (random.chance(0.8) ? 0 : random.below(16)); // at any byte
    const total = { out: 0, in: 0 };
    const head = this.#avail;
    let headFlags = 0;
    for (let index = 0; index < Math.max(slots, elements); index++) {
      const isTable = index === direct;
      if (isTable) {
        const flags = INDIRECT | (random.next() & WRITE);
        if (this.#packed) headFlags = this.#putPacked(index === 0, table, 16 * elements, flags, ids[0] as number);
        else this.#putDesc(desc + 16 * (ids[index] as number), table, 16 * (elements - direct), flags, 0xffff);
      }
      if (index >= elements) break;
      const len = random.chance(0.05) ? 0 : 1 + random.below(200);
      const write = index >= readable;
      total[write ? 'in' : 'out'] += len;
      const last = index === elements - 1;
      const room = random.pick(write ? [DATA, { from: HOLE.to, to: READ_ONLY }] : [DATA, { from: HOLE.to, to: RAM }]);
      const address = random.chance(0.1) ? room.to - len : room.from + random.below(room.to - room.from - len + 1);
      const flags = write ? WRITE : 0;
      if (index < direct) {
        const more = index < slots - 1 ? NEXT : 0;
        if (this.#packed) {
          const all = this.#putPacked(index === 0, address, len, flags | more, ids[0] as number);
          if (index === 0) headFlags = all;
        } else this.#putDesc(desc + 16 * (ids[index] as number), address, len, flags | more, more ? (ids[index + 1] as number) : 0xffff);
      } else {
        const slot = table + 16 * (index - direct);
        if (this.#packed) this.#putDesc(slot, address, len, random.next() & 0xffff, (random.next() & ~WRITE & 0xffff) | flags);
        else this.#putDesc(slot, address, len, flags | (last ? 0 : NEXT), last ? 0xffff : index - direct + 1);
      }
    }
    const id = ids[0] as number;
    if (this.#packed) memory.put(desc + 16 * (head & (WRAP - 1)) + 14, 2, headFlags);
    else {
      memory.put(driver + 4 + 2 * (this.#avail & (size - 1)), 2, id);
      this.#avail = (this.#avail + 1) & 0xffff;
    }
    this.#slots -= slots;
    this.#waiting++;
    this.#laid.set(id, { ...total, ids, slots });
  }

  /** Sixteen bytes; the last four are named by the split format. */
  #putDesc(at: number, address: number, len: number, flags: number, next: number): void {
    this.#memory.put(at, 4, address);
    this.#memory.put(at + 4, 4, 0);
    this.#memory.put(at + 8, 4, len);
    this.#memory.put(at + 12, 2, flags);
    this.#memory.put(at + 14, 2, next);
  }

  /** The next descriptor of the ring. The head's flags are kept back and returned. */
  #putPacked(isHead: boolean, address: number, len: number, flags: number, id: number): number {
    const { desc, size } = this.#place;
    const index = this.#avail & (WRAP - 1);
    const all = flags | (this.#avail & WRAP ? AVAIL : USED);
    const kept = this.#memory.view.getUint16(desc + 16 * index + 14, true);
    this.#putDesc(desc + 16 * index, address, len, id, isHead ? kept : all);
    this.#avail = index + 1 < size ? this.#avail + 1 : (this.#avail & WRAP) ^ WRAP;
    return all;
  }

  /** A descriptor to spoil: most often one that was laid just now and not yet seen, in the ring or in a table. */
  #target(): number {
    const random = this.#random;
    const { desc, size } = this.#place;
    if (random.chance(0.2)) return desc + 16 * random.below(size);
    const { ids } = [...this.#laid.values()].at(-1 - random.below(2)) ?? { ids: [0] };
    if (random.chance(0.3)) return (ids[0] as number) * TABLE_STRIDE + 16 * random.below(MOST_ELEMENTS);
    return desc + 16 * (this.#packed ? ((this.#avail & (WRAP - 1)) + size - 1 - random.below(Math.min(4, size))) % size : random.pick(ids));
  }

  /** Something that no driver does. */
  #spoil(): void {
    const random = this.#random;
    const memory = this.#memory;
    const { desc, driver, device, size } = this.#place;
    this.#legal = false;
    const at = this.#target();
    const deed = random.below(15);
    if (deed === 0) memory.put(at, 4, random.pick([HOLE.from - 8, HOLE.from, READ_ONLY - 8, RAM - 8, RAM, 0xffff_fff0, random.next()]));
    else if (deed === 1) memory.put(at + 4, 4, random.pick([1, 0x20_0000, 0xffff_ffff, random.next()]));
    else if (deed === 2) memory.put(at + 8, 4, random.pick([0, 1, 24, 0x1000, RAM, 0xffff_ffff, random.next()]));
    else if (deed === 3)
      memory.put(at + (this.#packed ? 14 : 12), 2, random.pick([NEXT, NEXT | WRITE, INDIRECT, INDIRECT | NEXT, random.next() & 0xffff]));
    else if (deed === 4) memory.put(at + (this.#packed ? 12 : 14), 2, random.pick([0, size, size - 1, 0xffff, random.next() & 0xffff]));
    else if (deed === 5) memory.put(driver + 2, 2, this.#avail + random.pick([1, 2, size, size + 1, -1, 0x8000, random.next()]));
    else if (deed === 6) memory.put(driver + 4 + 2 * random.below(size), 2, random.pick([0, size, 0xffff, random.next() & 0xffff]));
    else if (deed === 7) for (let n = 0; n < 64; n++) memory.put(desc + random.below(descBytes(size)), 1, random.next() & 0xff);
    else if (deed === 8) for (let n = 0; n < 64; n++) memory.put(random.below(RAM), 1, random.next() & 0xff);
    else if (deed === 9) for (let n = 0; n < 16; n++) memory.put(device + random.below(availEventAt(size) + 2), 1, random.next() & 0xff);
    else if (deed === 10) memory.trickery = random.pick([0, 0.001, 0.01, 0.1]);
    else if (deed === 11)
      for (let slot = 0; slot < size; slot++) memory.put(desc + 16 * slot, 4, desc); // every buffer, and every table, is the ring
    else if (deed === 12) {
      // A loop, of one or of a few; in a packed ring a list without end.
      for (let slot = 0; slot < size; slot++) {
        memory.put(desc + 16 * slot + (this.#packed ? 14 : 12), 2, NEXT | (this.#packed ? (this.#avail & WRAP ? AVAIL : USED) : 0));
        if (!this.#packed) memory.put(desc + 16 * slot + 14, 2, random.below(size));
      }
    } else if (deed === 13) {
      // A chain that the device has already, or has had.
      if (this.#packed) memory.put(at + 14, 2, this.#avail & WRAP ? AVAIL : USED);
      else {
        memory.put(driver + 4 + 2 * (this.#avail & (size - 1)), 2, random.pick([...this.#laid.keys(), 0]));
        memory.put(driver + 2, 2, ++this.#avail);
      }
    } else for (let slot = 0; slot < size; slot++) memory.put(desc + 16 * slot + 8, 4, 0xffff_ffff); // as long as they can say
  }

  // ### The device

  #device(ring: DeviceRing): void {
    const random = this.#random;
    for (let count = random.below(6); count > 0; count--) {
      const chain = this.#call('pop', null, () => ring.pop());
      if (!chain) {
        if (this.#legal && ring.broken === null && this.#waiting > 0) this.#complain(`${this.#waiting} chains wait and none comes out`);
        break;
      }
      this.#chains++;
      this.#note(chain.id + chain.writableBytes);
      this.#inspect(chain);
      this.#held.push(chain);
      if (this.#held.length > this.#place.size) this.#complain(`${this.#held.length} chains are out in a queue of ${this.#place.size}`);
    }
    for (let count = random.below(6); count > 0 && this.#held.length > 0; count--) {
      const [chain] = this.#held.splice(random.chance(0.7) ? 0 : random.below(this.#held.length), 1) as [Chain];
      const written = random.pick([0, chain.writableBytes, random.below(chain.writableBytes + 1)]);
      for (const piece of chain.writable) {
        this.#memory.fill(piece, 0, Math.min(16, piece.length), chain.id & 0xff);
        this.#memory.fill(piece, piece.length - 1, piece.length, chain.id & 0xff);
      }
      this.#call('push', undefined, () => ring.push(chain, written));
      this.#returned(chain.id);
    }
    if (random.chance(0.3) && this.#call('shouldNotify', false, () => ring.shouldNotify())) this.#notifications++;
    if (random.chance(0.1)) this.#call('disableKicks', undefined, () => ring.disableKicks());
    if (random.chance(0.1)) this.#call('enableKicks', false, () => ring.enableKicks());
  }

  /** A chain holds what the driver named and nothing else, and all of it is memory. */
  #inspect(chain: Chain): void {
    const { bytes } = this.#memory;
    for (const [pieces, count, most] of [
      [chain.readable, chain.readableBytes, RAM],
      [chain.writable, chain.writableBytes, READ_ONLY],
    ] as const) {
      let sum = 0;
      for (const piece of pieces) {
        const from = piece.byteOffset - GUARD;
        sum += piece.length;
        const hole = from < HOLE.to && from + piece.length > HOLE.from;
        if (piece.buffer !== bytes.buffer || from < 0 || from + piece.length > most || hole)
          this.#complain(`a piece at ${from}, ${piece.length} bytes`);
      }
      if (sum !== count || pieces.length > this.#longest) this.#complain(`${pieces.length} pieces of ${sum} bytes for ${count}`);
    }
    if (!this.#legal) return;
    this.#waiting--;
    const laid = this.#laid.get(chain.id);
    if (!laid || laid.out !== chain.readableBytes || laid.in !== chain.writableBytes || laid.slots !== chain.descriptors)
      this.#complain(`chain ${chain.id} is not what was laid`);
  }

  /** The driver takes its descriptors back; with IN_ORDER, once nothing older is out. */
  #returned(id: number): void {
    this.#back.add(id);
    if (!this.#features.inOrder) this.#take(id);
    else for (const [oldest] of this.#laid) if (!this.#take(oldest)) break;
  }

  #take(id: number): boolean {
    const laid = this.#laid.get(id);
    if (!laid || !this.#back.delete(id)) return false;
    this.#laid.delete(id);
    this.#free.push(...laid.ids);
    this.#slots += laid.slots;
    return true;
  }
}
