// # A split ring, from the driver's side
//
// Written for precision, not for speed: what is published, when, and under which identifier is the script's to say.

import { type Bus, numberBytes, type Script } from './bus.ts';
import { type Areas, DESC_BYTES, type DescPlan, descBytes, F_NEXT, F_WRITE, type RawDesc, type Ring, type UsedElement } from './rings.ts';
import { ScriptError } from './steps.ts';

const RING_AT = 4;
const ELEMENT_BYTES = 8;
const NO_INTERRUPT = 1n;

export class SplitRing implements Ring {
  readonly size: number;
  readonly areas: Areas;
  readonly used: UsedElement[] = [];
  readonly #bus: Bus;
  readonly #inOrder: boolean;
  /** Heads that are out: their chains, oldest first. */
  readonly #out = new Map<number, { chain: number; descs: number[] }>();
  readonly #busy: Uint8Array;
  #cursor = 0;
  #chains = 0;
  #waiting: number[] = [];
  #availIdx = 0;
  #usedIdx = 0;

  constructor(bus: Bus, areas: Areas, size: number, inOrder: boolean) {
    this.#bus = bus;
    this.areas = areas;
    this.size = size;
    this.#inOrder = inOrder;
    this.#busy = new Uint8Array(size);
  }

  *chain(descs: readonly DescPlan[], { id, publish }: { readonly id?: number; readonly publish: boolean }): Script<number> {
    const slots: number[] = [];
    for (let tries = 0; tries < this.size && slots.length < descs.length; tries++) {
      if (!this.#busy[this.#cursor]) slots.push(this.#cursor);
      this.#cursor = (this.#cursor + 1) % this.size;
    }
    if (slots.length < descs.length) throw new ScriptError(`a ring of ${this.size} has no room for ${descs.length} descriptors more`);
    for (const [i, desc] of descs.entries()) {
      const last = i + 1 === descs.length;
      const flags = desc.flags ?? (last ? 0 : F_NEXT) | (desc.writable ? F_WRITE : 0);
      const link = desc.next ?? BigInt(last ? 0 : (slots[i + 1] as number));
      yield* this.raw({ index: slots[i] as number, addr: desc.addr, len: desc.len, flags, link });
    }
    for (const slot of slots) this.#busy[slot] = 1;
    const head = id ?? (slots[0] as number);
    this.#out.set(head, { chain: this.#chains, descs: slots });
    this.#waiting.push(head);
    if (publish) yield* this.publish();
    return this.#chains++;
  }

  *publish(): Script<void> {
    const heads = this.#waiting;
    this.#waiting = [];
    yield* this.avail(heads);
  }

  /** Entries of the available ring, and its index; `idx` in place of the one that follows. */
  *avail(heads: readonly number[], idx?: number): Script<void> {
    const { gpa } = this.areas.driver;
    for (const head of heads) {
      yield* this.#bus.writeNumber(gpa + RING_AT + 2 * (this.#availIdx % this.size), 2, BigInt(head));
      this.#availIdx = (this.#availIdx + 1) & 0xffff;
    }
    if (idx !== undefined) this.#availIdx = idx & 0xffff;
    yield* this.#bus.writeNumber(gpa + 2, 2, BigInt(this.#availIdx));
  }

  *raw({ index, addr, len, flags, link }: RawDesc): Script<void> {
    yield* this.#bus.write(this.areas.desc.gpa + index * DESC_BYTES, descBytes({ addr, len, flags, link }, false));
  }

  *poll(): Script<void> {
    const { gpa } = this.areas.device;
    const idx = Number(yield* this.#bus.readNumber(gpa + 2, 2));
    let fresh = (idx - this.#usedIdx) & 0xffff;
    while (fresh > 0) {
      const at = gpa + RING_AT + ELEMENT_BYTES * (this.#usedIdx % this.size);
      const both = yield* this.#bus.readNumber(at, 8);
      const id = Number(both & 0xffff_ffffn);
      // With in-order use one element may stand for a batch: it names the last of it, and the others have no element of their own.
      let step = 1;
      if (this.#inOrder && this.#out.has(id)) {
        for (const head of this.#out.keys()) {
          if (head === id) break;
          if (step >= fresh) break;
          this.#take(head, null);
          step++;
        }
      }
      this.#take(id, Number(both >> 32n));
      this.#usedIdx = (this.#usedIdx + step) & 0xffff;
      fresh -= step;
    }
  }

  #take(id: number, len: number | null): void {
    const out = this.#out.get(id);
    this.#out.delete(id);
    for (const slot of out?.descs ?? []) this.#busy[slot] = 0;
    this.used.push({ id, len, chain: out?.chain ?? null });
  }

  get next(): Ring['next'] {
    const { gpa } = this.areas.device;
    return {
      announced: { gpa: gpa + 2, bytes: 2 },
      described: { gpa: gpa + RING_AT + ELEMENT_BYTES * (this.#usedIdx % this.size), bytes: ELEMENT_BYTES },
    };
  }

  get #usedEventAt(): number {
    return this.areas.driver.gpa + RING_AT + 2 * this.size;
  }

  *want(when: 'always' | 'never' | bigint, eventIdx: boolean): Script<void> {
    const flags = when === 'never' && !eventIdx ? NO_INTERRUPT : 0n;
    yield* this.#bus.write(this.areas.driver.gpa, numberBytes(flags, 2));
    if (!eventIdx && typeof when !== 'bigint') return;
    const event = typeof when === 'bigint' ? when : BigInt((this.#usedIdx + (when === 'never' ? 0xffff : 0)) & 0xffff);
    yield* this.#bus.writeNumber(this.#usedEventAt, 2, event);
  }

  *wanted(): Script<{ flags: bigint; event: bigint }> {
    const { gpa } = this.areas.device;
    const flags = yield* this.#bus.readNumber(gpa, 2);
    return { flags, event: yield* this.#bus.readNumber(gpa + RING_AT + ELEMENT_BYTES * this.size, 2) };
  }

  get notificationData(): number {
    return this.#availIdx;
  }
}
