// # A ring to drive
//
// One ring with both its ends, and what has been done to it: the first half of the explorable of chapter 6, without its drawing.

import { type DmaBuffer, MemoryArena } from '../../chapters/06-virtio-rings/driver/bus.ts';
import { makeVirtqueue } from '../../chapters/06-virtio-rings/driver/make-virtqueue.ts';
import type { Virtqueue } from '../../chapters/06-virtio-rings/driver/virtqueue.ts';
import { FlatMemory } from '../../chapters/06-virtio-rings/memory.ts';
import type { Chain, DeviceRing } from '../../chapters/06-virtio-rings/queue.ts';
import {
  PACKED_DESC_F,
  pvirtq_desc,
  RING_EVENT_FLAGS,
  VIRTQ_DESC_F,
  virtq_avail,
  virtq_avail_elem,
  virtq_desc,
  WRAP,
} from '../../chapters/06-virtio-rings/rings/layout.ts';
import { makeRing } from '../../chapters/06-virtio-rings/rings/make-ring.ts';
import { type Change, type Format, ringFields, Watcher } from '../../chapters/06-virtio-rings/round-trip.ts';

import { type Act, LAP_16, type Setup } from './ring-acts.ts';

/** What a buffer has for the device to write, and the other pieces of a longer one. */
export const ANSWER_BYTES = 16;
const QUESTION_BYTES = 8;
const STATUS_BYTES = 1;

// ## What can be seen
//
// Of the shared memory everything can be seen, by either side. What a side keeps for itself it tells nobody; but where it must be follows from what it
// has done, and a test holds that against what the driver says when it is asked.

/** Index and wrap counter, as both sides of a packed ring count; in a split ring the counter is always false and the index is free-running. */
export interface Place {
  readonly index: number;
  readonly wrap: boolean;
}
const placeOf = (position: number, format: Format): Place =>
  format === 'split' ? { index: position, wrap: false } : { index: position & (WRAP - 1), wrap: (position & WRAP) !== 0 };

/** A buffer that the device has taken and not given back. */
export interface Held {
  readonly name: string;
  readonly id: number;
  readonly readable: number;
  readonly writable: number;
}

/** An entry of an indirect table. */
export interface Entry {
  readonly addr: number;
  readonly len: number;
  readonly flags: number;
  /** Split rings only. */
  readonly next: number | null;
}

/** A table that an indirect descriptor leads to. */
export interface Table {
  readonly name: string;
  readonly address: number;
  readonly entries: readonly Entry[];
}

/** Everything there is to see at one moment. Nothing in it changes any more. */
export interface Picture {
  readonly fields: ReadonlyMap<string, number>;
  /** Which buffer a row speaks of, where it speaks of one that is in flight: by `desc[0]`, `avail.ring[1]` and so on. */
  readonly owners: ReadonlyMap<string, string>;
  /** Indirect tables of the buffers in flight. */
  readonly tables: readonly Table[];
  /** Where the driver adds the next buffer and looks for the next used one. */
  readonly driver: {
    readonly adds: Place;
    readonly looks: Place;
    readonly free: number;
    readonly inFlight: readonly string[];
    readonly listens: boolean;
  };
  /** Where the device takes the next and gives the next back. */
  readonly device: { readonly takes: Place; readonly gives: Place; readonly holds: readonly Held[]; readonly listens: boolean };
  readonly kicks: number;
  readonly interrupts: number;
}

export type Who = 'driver' | 'device' | 'both';

/** One act, done. */
export interface Done {
  readonly act: Act;
  readonly who: Who;
  /** What it is called in the code. */
  readonly call: string;
  /** What came of it. */
  readonly answer: string;
  /** Whom it told. */
  readonly told: 'device' | 'driver' | null;
  readonly changes: readonly Change[];
  readonly after: Picture;
}

interface Buffer {
  readonly name: string;
  readonly pieces: readonly DmaBuffer[];
  /** What the ring calls it: the head of its chain, or its id. */
  id: number;
  /** The descriptors of the ring that were written for it. */
  slots: readonly number[];
}

const BASE = 0x1000;
const MEMORY_BYTES = 1 << 14;
const NAMES = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ';
const nameOf = (serial: number): string => NAMES[serial % NAMES.length] as string;
/** A position on the circle of both laps of a packed ring, or of the 16 bits of an index. */
const around = ({ index, wrap }: Place, size: number): number => index + (wrap ? size : 0);
const plural = (count: number, word: string): string => `${count} ${word}${count === 1 ? '' : 's'}`;
const pushed = (chain: Chain, length: number): void => {
  let left = length;
  for (const piece of chain.writable) {
    piece.fill(0xaa, 0, Math.min(left, piece.length));
    left -= Math.min(left, piece.length);
  }
};

/** A ring with both its ends, and what has been done to it. */
export class RingBench {
  readonly setup: Setup;
  readonly first: Picture;
  readonly done: Done[] = [];
  readonly #bytes = new Uint8Array(MEMORY_BYTES);
  readonly #arena = new MemoryArena(this.#bytes, BASE);
  readonly #queue: Virtqueue<Buffer>;
  readonly #ring: DeviceRing;
  readonly #watcher: Watcher;
  readonly #fields = new Map<string, number>();
  readonly #inFlight: Buffer[] = [];
  readonly #held: { readonly chain: Chain; readonly name: string }[] = [];
  #named = 0;
  #looks: number;
  #kicks = 0;
  #interrupts = 0;
  #driverListens = true;
  #deviceListens = true;

  constructor(setup: Setup) {
    const { format, size, eventIdx, indirect, inOrder, start } = setup;
    this.setup = setup;
    const features = { packed: format === 'packed', eventIdx, indirect, inOrder };
    const notify = (): boolean => {
      this.#kicks++;
      return true;
    };
    this.#queue = makeVirtqueue<Buffer>({ index: 0, size, memory: this.#arena, features, hooks: { notify } });
    const ring = makeRing(new FlatMemory(this.#bytes, BASE), this.#queue.areas, features);
    if (typeof ring === 'string') throw new Error(ring);
    this.#ring = ring;
    this.#looks = format === 'packed' ? WRAP : 0;
    const places = ringFields(this.#queue.areas, format);
    for (const { name } of places) this.#fields.set(name, 0);
    this.#watcher = new Watcher(this.#bytes, BASE, places);
    this.#trips(start);
    for (const { field, value } of this.#watcher.changes()) this.#fields.set(field, value);
    [this.#kicks, this.#interrupts, this.#named] = [0, 0, 0];
    this.first = this.#picture();
  }

  /** How it looks now. */
  get now(): Picture {
    return this.done.at(-1)?.after ?? this.first;
  }

  perform(act: Act): Done {
    const [kicks, interrupts] = [this.#kicks, this.#interrupts];
    const { who, call, answer } = this.#perform(act);
    const changes = this.#watcher.changes();
    for (const { field, value } of changes) this.#fields.set(field, value);
    const told = this.#kicks > kicks ? 'device' : this.#interrupts > interrupts ? 'driver' : null;
    const done: Done = { act, who, call, answer, told, changes, after: this.#picture() };
    this.done.push(done);
    return done;
  }

  #perform(act: Act): Pick<Done, 'who' | 'call' | 'answer'> {
    switch (act.do) {
      case 'add':
        return this.#add(act.pieces);
      case 'ask':
        return { who: 'driver', call: 'kickPrepare()', answer: this.#queue.kickPrepare() ? 'the device wants to be told' : 'no kick is wanted' };
      case 'ring':
        this.#queue.notify();
        return { who: 'driver', call: 'notify()', answer: 'rings, asked or not' };
      case 'kick': {
        const before = this.#kicks;
        this.#queue.kick();
        return { who: 'driver', call: 'kick()', answer: this.#kicks > before ? 'asks, and rings' : 'asks; no kick is wanted' };
      }
      case 'take':
        return this.#take();
      case 'disable':
        this.#queue.disableCb();
        this.#driverListens = false;
        return { who: 'driver', call: 'disableCb()', answer: 'I am looking anyway' };
      case 'enable': {
        this.#driverListens = true;
        const still = this.#queue.enableCb();
        return { who: 'driver', call: 'enableCb()', answer: still ? 'nothing has come meanwhile' : 'something has come meanwhile: look first' };
      }
      case 'delay': {
        this.#driverListens = true;
        const still = this.#queue.enableCbDelayed();
        return { who: 'driver', call: 'enableCbDelayed()', answer: still ? 'wake me when most is done' : 'most is done already: look first' };
      }
      case 'pop':
        return this.#pop();
      case 'push':
        return this.#push(act.which, act.length);
      case 'notify': {
        const wanted = this.#ring.shouldNotify();
        if (wanted) this.#interrupts++;
        return { who: 'device', call: 'shouldNotify()', answer: wanted ? 'the driver wants to hear of it: interrupts' : 'no interrupt is wanted' };
      }
      case 'mute':
        this.#ring.disableKicks();
        this.#deviceListens = false;
        return { who: 'device', call: 'disableKicks()', answer: 'I am looking anyway' };
      case 'unmute': {
        this.#deviceListens = true;
        const more = this.#ring.enableKicks();
        return { who: 'device', call: 'enableKicks()', answer: more ? 'something has come meanwhile: look first' : 'nothing has come meanwhile' };
      }
      case 'trips': {
        const made = this.#trips(act.count);
        return {
          who: 'both',
          call: plural(made, 'trip'),
          answer:
            made < act.count ? `then it stops: ${this.#queue.numFree === 0 ? 'no descriptor is free' : 'nothing comes back'}` : 'there and back',
        };
      }
    }
  }

  // ### The driver

  /** A buffer that is not in the ring yet. In the alphabet's order, without the names that are in flight. */
  #buffer(pieces: 1 | 2 | 3): Buffer {
    const cut = pieces === 1 ? [ANSWER_BYTES] : pieces === 2 ? [QUESTION_BYTES, ANSWER_BYTES] : [QUESTION_BYTES, ANSWER_BYTES, STATUS_BYTES];
    const busy = new Set(this.#inFlight.map(({ name }) => name));
    while (busy.has(nameOf(this.#named))) this.#named++;
    return { name: nameOf(this.#named), pieces: cut.map((bytes) => this.#arena.allocate(bytes)), id: 0, slots: [] };
  }

  /** Whether there was room. */
  #expose(buffer: Buffer): boolean {
    const { pieces } = buffer;
    const [position, free] = [this.#queue.notificationData, this.#queue.numFree];
    const readable = pieces.length === 1 ? 0 : 1;
    if (this.#queue.addSgs(pieces, readable, pieces.length - readable, buffer) !== 0) {
      for (const piece of pieces) this.#arena.free(piece);
      return false;
    }
    this.#named++;
    this.#inFlight.push(buffer);
    const taken = free - this.#queue.numFree;
    const { size, format } = this.setup;
    if (format === 'packed') {
      buffer.slots = Array.from({ length: taken }, (_, index) => ((position & (WRAP - 1)) + index) % size);
      buffer.id = this.#peek16(this.#queue.areas.desc + (buffer.slots[0] as number) * pvirtq_desc.bytes + pvirtq_desc.fields.id.offset);
      return true;
    }
    const { desc, driver } = this.#queue.areas;
    buffer.id = this.#peek16(driver + virtq_avail.bytes + virtq_avail_elem.bytes * (position & (size - 1)));
    const slots = [buffer.id];
    while (slots.length < taken) slots.push(this.#peek16(desc + (slots.at(-1) as number) * virtq_desc.bytes + virtq_desc.fields.next.offset));
    buffer.slots = slots;
    return true;
  }

  #peek16(address: number): number {
    return new DataView(this.#bytes.buffer).getUint16(address - BASE, true);
  }

  #add(count: 1 | 2 | 3): Pick<Done, 'who' | 'call' | 'answer'> {
    const buffer = this.#buffer(count);
    const call = count === 1 ? 'addSgs(0, 1)' : `addSgs(1, ${count - 1})`;
    const room = this.#expose(buffer);
    return {
      who: 'driver',
      call,
      answer: room ? `buffer ${buffer.name}, ${plural(count, 'piece')}` : `no room: ${plural(this.#queue.numFree, 'descriptor')} free (ENOSPC)`,
    };
  }

  #take(): Pick<Done, 'who' | 'call' | 'answer'> {
    const { format, size } = this.setup;
    const before = this.#queue.numFree;
    const got = this.#queue.getBuf();
    const call = 'getBuf()';
    if (!got) return { who: 'driver', call, answer: this.#queue.brokenBecause ?? 'nothing has come back' };
    const { name, pieces } = got.token;
    for (const piece of pieces) this.#arena.free(piece);
    this.#inFlight.splice(
      this.#inFlight.findIndex((buffer) => buffer.name === name),
      1,
    );
    const moved = this.#queue.numFree - before;
    if (format === 'split') this.#looks = (this.#looks + 1) & 0xffff;
    else {
      const index = (this.#looks & (WRAP - 1)) + moved;
      this.#looks = index < size ? this.#looks + moved : ((this.#looks & WRAP) ^ WRAP) | (index - size);
    }
    return { who: 'driver', call, answer: `buffer ${name}, ${plural(got.len, 'byte')} written` };
  }

  // ### The device

  #pop(): Pick<Done, 'who' | 'call' | 'answer'> {
    const call = 'pop()';
    const chain = this.#ring.pop();
    if (!chain) return { who: 'device', call, answer: this.#ring.broken ?? 'nothing is there' };
    const name = this.#nameOf(chain);
    this.#held.push({ chain, name });
    return { who: 'device', call, answer: `buffer ${name}: ${chain.readableBytes} bytes to read, room for ${chain.writableBytes}` };
  }

  #nameOf(chain: Chain): string {
    return this.#inFlight.find(({ id }) => id === chain.id)?.name ?? '?';
  }

  #push(which: number, length: number): Pick<Done, 'who' | 'call' | 'answer'> {
    const held = this.#held[which];
    if (!held) return { who: 'device', call: 'push()', answer: 'the device holds no such buffer' };
    const { chain, name } = held;
    const written = Math.min(length, chain.writableBytes);
    this.#held.splice(which, 1);
    pushed(chain, written);
    const before = this.#ring.position.used;
    this.#ring.push(chain, written);
    const waits = this.#ring.position.used === before ? '; it waits for an older one' : '';
    return { who: 'device', call: `push(${name}, ${written})`, answer: `gives ${name} back${waits}` };
  }

  /** So many buffers there and back, one after the other, as drivers and devices do when there is little to do. Returns how many. */
  #trips(count: number): number {
    for (let made = 0; made < count; made++) {
      if (!this.#expose(this.#buffer(1))) return made;
      this.#queue.kick();
      const chain = this.#ring.pop();
      if (!chain) return made;
      pushed(chain, ANSWER_BYTES);
      this.#ring.push(chain, chain.writableBytes);
      if (this.#ring.shouldNotify()) this.#interrupts++;
      const waiting = this.#inFlight.length;
      this.#take();
      if (this.#inFlight.length === waiting) return made;
    }
    return count;
  }

  // ### A picture

  #picture(): Picture {
    const { format } = this.setup;
    const { avail, used } = this.#ring.position;
    const shown = {
      adds: placeOf(this.#queue.notificationData, format),
      looks: placeOf(this.#looks, format),
      takes: placeOf(avail, format),
      gives: placeOf(used, format),
    };
    return {
      fields: new Map(this.#fields),
      owners: this.#owners(shown),
      tables: this.#tables(),
      driver: {
        adds: shown.adds,
        looks: shown.looks,
        free: this.#queue.numFree,
        inFlight: this.#inFlight.map(({ name }) => name),
        listens: this.#driverListens,
      },
      device: {
        takes: shown.takes,
        gives: shown.gives,
        holds: this.#held.map(({ chain, name }) => ({ name, id: chain.id, readable: chain.readableBytes, writable: chain.writableBytes })),
        listens: this.#deviceListens,
      },
      kicks: this.#kicks,
      interrupts: this.#interrupts,
    };
  }

  #owners(shown: Readonly<Record<'adds' | 'looks' | 'takes' | 'gives', Place>>): Map<string, string> {
    const { format, size, inOrder } = this.setup;
    const owners = new Map<string, string>();
    for (const { name, slots } of this.#inFlight) for (const slot of slots) owners.set(`desc[${slot}]`, name);
    const byId = (id: number | undefined): string => this.#inFlight.find((buffer) => buffer.id === id)?.name ?? '';
    const laps = format === 'split' ? LAP_16 : 2 * size;
    /** The places from one position to another, as indices of rows. */
    const between = (from: Place, to: Place): number[] => {
      const count = (around(to, size) - around(from, size) + laps) % laps;
      return Array.from({ length: count }, (_, index) => (from.index + index) % size);
    };
    if (format === 'packed') {
      // What is used and has not been looked at stands where the oldest descriptors were, whose it was or not.
      for (const row of between(shown.looks, shown.gives))
        if (isUsed(this.#fields.get(`desc[${row}].flags`) ?? 0)) owners.set(`desc[${row}]`, byId(this.#fields.get(`desc[${row}].id`)));
      return owners;
    }
    for (const row of between(shown.takes, shown.adds)) owners.set(`avail.ring[${row}]`, byId(this.#fields.get(`avail.ring[${row}]`)));
    // In order, one element may stand for several; then it is the order that says whose they are.
    for (const [nth, row] of between(shown.looks, shown.gives).entries())
      owners.set(`used.ring[${row}]`, inOrder ? (this.#inFlight[nth]?.name ?? '') : byId(this.#fields.get(`used.ring[${row}].id`)));
    return owners;
  }

  #tables(): Table[] {
    if (!this.setup.indirect) return [];
    const view = new DataView(this.#bytes.buffer);
    const { bytes, fields } = this.setup.format === 'packed' ? pvirtq_desc : virtq_desc;
    return this.#inFlight.flatMap(({ name, pieces, slots }) => {
      if (pieces.length === 1) return [];
      const address = Number(view.getBigUint64(this.#queue.areas.desc - BASE + (slots[0] as number) * bytes, true));
      const entries = pieces.map((_, index) => {
        const at = address - BASE + index * bytes;
        const read16 = (field: { readonly offset: number }): number => view.getUint16(at + field.offset, true);
        const next = 'next' in fields ? read16(fields.next) : null;
        return { addr: Number(view.getBigUint64(at, true)), len: view.getUint32(at + fields.len.offset, true), flags: read16(fields.flags), next };
      });
      return [{ name, address, entries }];
    });
  }
}

// ## Names of bits

const NAMED: readonly (readonly [number, string])[] = [
  [VIRTQ_DESC_F.NEXT, 'NEXT'],
  [VIRTQ_DESC_F.WRITE, 'WRITE'],
  [VIRTQ_DESC_F.INDIRECT, 'INDIRECT'],
  [PACKED_DESC_F.AVAIL, 'AVAIL'],
  [PACKED_DESC_F.USED, 'USED'],
];

/** The flags of a descriptor that are set, by name. */
export const flagNames = (flags: number): string[] => NAMED.filter(([mask]) => flags & mask).map(([, name]) => name);

/** What `flags` of a ring or of an event structure ask for. */
export function wishOf(flags: number, format: Format): string {
  if (format === 'split') return flags & 1 ? 'do not tell me' : 'tell me';
  const { ENABLE, DISABLE, DESC } = RING_EVENT_FLAGS;
  return { [ENABLE]: 'tell me', [DISABLE]: 'do not tell me', [DESC]: 'tell me at off_wrap' }[flags & 3] ?? 'reserved';
}

/** Whether the two bits of a packed descriptor are alike: it is the driver's, given back or never handed over. */
export const isUsed = (flags: number): boolean => ((flags & PACKED_DESC_F.AVAIL) !== 0) === ((flags & PACKED_DESC_F.USED) !== 0);
