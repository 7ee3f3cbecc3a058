// # A packed ring, from the driver's side
//
// One table for both directions. Whose turn a slot is shows in two bits of its flags, which mean the opposite after each lap. A chain occupies the slots that
// follow each other; it comes back as one slot, at the place where the device is, and the driver has to remember how many slots that skips.

import { type Bus, numberAt, type Script } from './bus.ts';
import {
  type Areas,
  DESC_BYTES,
  type DescPlan,
  descBytes,
  F_AVAIL,
  F_NEXT,
  F_USED,
  F_WRITE,
  type RawDesc,
  type Ring,
  type UsedElement,
} from './rings.ts';
import { ScriptError } from './steps.ts';

const LEN_AT = 8;
const FLAGS_AT = 14;
const EVENT = { ENABLE: 0n, DISABLE: 1n, DESC: 2n } as const;
const WRAP_BIT = 15;

/** A place in the ring, with the lap's parity. */
interface Place {
  index: number;
  wrap: boolean;
}

export class PackedRing implements Ring {
  readonly size: number;
  readonly areas: Areas;
  readonly used: UsedElement[] = [];
  readonly #bus: Bus;
  readonly #inOrder: boolean;
  /** Identifiers that are out, oldest first. */
  readonly #out = new Map<number, { chain: number; slots: number }>();
  readonly #avail: Place = { index: 0, wrap: true };
  readonly #back: Place = { index: 0, wrap: true };
  #free: number;
  #chains = 0;
  /** Flags of heads that are laid out but not yet available. */
  #waiting: { readonly gpa: number; readonly flags: number }[] = [];

  constructor(bus: Bus, areas: Areas, size: number, inOrder: boolean) {
    this.#bus = bus;
    this.areas = areas;
    this.size = size;
    this.#inOrder = inOrder;
    this.#free = size;
  }

  #step(place: Place, count: number): void {
    place.index += count;
    if (place.index < this.size) return;
    place.index -= this.size;
    place.wrap = !place.wrap;
  }

  *chain(descs: readonly DescPlan[], { id, publish }: { readonly id?: number; readonly publish: boolean }): Script<number> {
    if (descs.length > this.#free) throw new ScriptError(`a ring of ${this.size} has no room for ${descs.length} descriptors more`);
    const buffer = id ?? this.#freeId();
    const heads = this.#waiting.length;
    for (const [i, desc] of descs.entries()) {
      const turn = this.#avail.wrap ? F_AVAIL : F_USED;
      const last = i + 1 === descs.length;
      const flags = (desc.flags ?? (last ? 0 : F_NEXT) | (desc.writable ? F_WRITE : 0)) | turn;
      const gpa = this.areas.desc.gpa + this.#avail.index * DESC_BYTES;
      const bytes = descBytes({ addr: desc.addr, len: desc.len, flags, link: BigInt(buffer) }, true);
      if (i === 0) {
        this.#waiting.push({ gpa: gpa + FLAGS_AT, flags });
        yield* this.#bus.write(gpa, bytes.subarray(0, FLAGS_AT));
      } else yield* this.#bus.write(gpa, bytes);
      this.#step(this.#avail, 1);
    }
    if (this.#waiting.length !== heads + 1) throw new ScriptError('a chain has at least one descriptor');
    this.#free -= descs.length;
    this.#out.set(buffer, { chain: this.#chains, slots: descs.length });
    if (publish) yield* this.publish();
    return this.#chains++;
  }

  #freeId(): number {
    for (let id = 0; id < this.size; id++) if (!this.#out.has(id)) return id;
    throw new ScriptError('no buffer identifier is free');
  }

  // The first head is the last to be written: the moment its flags turn, everything behind it is the device's.
  *publish(): Script<void> {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const { gpa, flags } of waiting.reverse()) yield* this.#bus.writeNumber(gpa, 2, BigInt(flags));
  }

  *raw({ index, addr, len, flags, link }: RawDesc): Script<void> {
    yield* this.#bus.write(this.areas.desc.gpa + index * DESC_BYTES, descBytes({ addr, len, flags, link }, true));
  }

  *poll(): Script<void> {
    for (let left = this.size; left > 0; left--) {
      const bytes = yield* this.#bus.read(this.areas.desc.gpa + this.#back.index * DESC_BYTES, DESC_BYTES);
      const flags = Number(numberAt(bytes, FLAGS_AT, 2));
      const avail = (flags & F_AVAIL) !== 0;
      const used = (flags & F_USED) !== 0;
      if (avail !== used || used !== this.#back.wrap) return;
      const id = Number(numberAt(bytes, 12, 2));
      if (this.#inOrder && this.#out.has(id)) {
        for (const older of [...this.#out.keys()]) {
          if (older === id) break;
          this.#take(older, null);
        }
      }
      // The specification lets a device leave the length out together with the write flag; drivers take the length as it is, and so does this.
      this.#take(id, Number(numberAt(bytes, LEN_AT, 4)));
    }
  }

  #take(id: number, len: number | null): void {
    const out = this.#out.get(id);
    this.#out.delete(id);
    const slots = out?.slots ?? 1;
    this.#free = Math.min(this.size, this.#free + slots);
    this.#step(this.#back, slots);
    this.used.push({ id, len, chain: out?.chain ?? null });
  }

  get next(): Ring['next'] {
    const gpa = this.areas.desc.gpa + this.#back.index * DESC_BYTES;
    return { announced: { gpa: gpa + FLAGS_AT, bytes: 2 }, described: { gpa: gpa + LEN_AT, bytes: FLAGS_AT - LEN_AT } };
  }

  *want(when: 'always' | 'never' | bigint, _eventIdx: boolean): Script<void> {
    const flags = when === 'always' ? EVENT.ENABLE : when === 'never' ? EVENT.DISABLE : EVENT.DESC;
    const desc = typeof when === 'bigint' ? when & 0xffffn : 0n;
    yield* this.#bus.writeNumber(this.areas.driver.gpa, 4, desc | (flags << 16n));
  }

  *wanted(): Script<{ flags: bigint; event: bigint }> {
    const both = yield* this.#bus.readNumber(this.areas.device.gpa, 4);
    return { flags: both >> 16n, event: both & 0xffffn };
  }

  get notificationData(): number {
    return this.#avail.index | (this.#avail.wrap ? 1 << WRAP_BIT : 0);
  }
}
