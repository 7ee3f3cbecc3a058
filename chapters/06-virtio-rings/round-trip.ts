// # A round trip, store by store
//
// What one side does to a ring, the other can only see as memory that has changed. So that is what is recorded here: after each operation of either
// side every field of the ring is looked at again, by the name that the specification gives it.

import type { Field } from '../01-hardware-background/layout.ts';
import { MemoryArena } from './driver/bus.ts';
import { makeVirtqueue } from './driver/make-virtqueue.ts';
import type { QueueAreas, QueueFeatures } from './driver/virtqueue.ts';
import { FlatMemory } from './memory.ts';
import {
  availEventAt,
  pvirtq_desc,
  pvirtq_event_suppress,
  usedEventAt,
  virtq_avail,
  virtq_avail_elem,
  virtq_desc,
  virtq_used,
  virtq_used_elem,
} from './rings/layout.ts';
import { makeRing } from './rings/make-ring.ts';

export type Format = 'split' | 'packed';

/** A field of a ring that one side changed. */
export interface Change {
  readonly field: string;
  readonly address: number;
  readonly value: number;
}

/** One operation, and what of it the other side can see. */
export interface Step {
  readonly who: 'driver' | 'device';
  readonly does: string;
  readonly changes: readonly Change[];
}

interface Place {
  readonly name: string;
  readonly address: number;
  readonly field: Field;
}

/** Every field of a ring, by name and address. */
export function ringFields({ size, desc, driver, device }: QueueAreas, format: Format): Place[] {
  const places: Place[] = [];
  const add = (prefix: string, address: number, fields: Readonly<Record<string, Field>>): void => {
    for (const [name, field] of Object.entries(fields)) places.push({ name: `${prefix}${name}`, address: address + field.offset, field });
  };
  const each = (use: (index: number) => void): void => Array.from({ length: size }, (_, index) => index).forEach(use);
  if (format === 'packed') {
    each((index) => add(`desc[${index}].`, desc + index * pvirtq_desc.bytes, pvirtq_desc.fields));
    add('driver.', driver, pvirtq_event_suppress.fields);
    add('device.', device, pvirtq_event_suppress.fields);
    return places;
  }
  each((index) => add(`desc[${index}].`, desc + index * virtq_desc.bytes, virtq_desc.fields));
  add('avail.', driver, virtq_avail.fields);
  each((index) =>
    places.push({
      name: `avail.ring[${index}]`,
      address: driver + virtq_avail.bytes + index * virtq_avail_elem.bytes,
      field: virtq_avail_elem.fields.id,
    }),
  );
  places.push({ name: 'used_event', address: driver + usedEventAt(size), field: virtq_avail_elem.fields.id });
  add('used.', device, virtq_used.fields);
  each((index) => add(`used.ring[${index}].`, device + virtq_used.bytes + index * virtq_used_elem.bytes, virtq_used_elem.fields));
  places.push({ name: 'avail_event', address: device + availEventAt(size), field: virtq_avail_elem.fields.id });
  return places;
}

/** Tells, each time it is asked, which fields are not what they were. */
export class Watcher {
  readonly #view: DataView;
  readonly #base: number;
  readonly #places: readonly Place[];
  readonly #last: number[];

  constructor(bytes: Uint8Array, base: number, places: readonly Place[]) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#base = base;
    this.#places = places;
    this.#last = places.map((place) => this.#value(place));
  }

  #value({ address, field }: Place): number {
    const at = address - this.#base;
    switch (field.bytes) {
      case 2:
        return this.#view.getUint16(at, true);
      case 4:
        return this.#view.getUint32(at, true);
      default:
        return Number(this.#view.getBigUint64(at, true));
    }
  }

  changes(): Change[] {
    return this.#places.flatMap((place, index) => {
      const value = this.#value(place);
      if (value === this.#last[index]) return [];
      this.#last[index] = value;
      return [{ field: place.name, address: place.address, value }];
    });
  }
}

const BASE = 0x1000;
const SIZE = 4;

/** A request of two pieces, eight bytes to read and sixteen to write, to the device and back. */
export function roundTrip(format: Format, features: Partial<QueueFeatures> = {}): Step[] {
  const bytes = new Uint8Array(1 << 14);
  const [memory, arena] = [new FlatMemory(bytes, BASE), new MemoryArena(bytes, BASE)];
  const all = { indirect: false, eventIdx: false, inOrder: false, ...features, packed: format === 'packed' };
  const queue = makeVirtqueue<string>({ index: 0, size: SIZE, memory: arena, features: all, hooks: { notify: () => true } });
  const ring = makeRing(memory, queue.areas, all);
  if (typeof ring === 'string') throw new Error(ring);
  // One request is on its way already, so that the ring is not at its beginning.
  queue.addSgs([arena.allocate(8)], 1, 0, 'earlier');
  queue.kickPrepare();
  ring.pop();
  const watcher = new Watcher(bytes, BASE, ringFields(queue.areas, format));
  const steps: Step[] = [];
  const step = <T>(who: Step['who'], does: string, what: () => T): T => {
    const result = what();
    steps.push({ who, does, changes: watcher.changes() });
    return result;
  };
  const [question, answer] = [arena.allocate(8), arena.allocate(16)];
  step('driver', 'adds a buffer of two pieces', () => queue.addSgs([question, answer], 1, 1, 'request'));
  step('driver', 'asks whether to kick', () => queue.kickPrepare());
  const chain = step('device', 'takes it', () => ring.pop());
  if (!chain) throw new Error('nothing arrived');
  chain.writable[0]?.fill(7);
  step('device', 'gives it back, 16 bytes written', () => ring.push(chain, 16));
  step('device', 'asks whether to notify', () => ring.shouldNotify());
  step('driver', 'takes it home', () => queue.getBuf());
  return steps;
}

const LINE_BYTES = 64;

/** Lines of the cache that one side wrote during a round trip: what has to travel to the other processor. */
export const linesWritten = (steps: readonly Step[], who: Step['who']): number =>
  new Set(steps.filter((step) => step.who === who).flatMap(({ changes }) => changes.map(({ address }) => Math.floor(address / LINE_BYTES)))).size;
