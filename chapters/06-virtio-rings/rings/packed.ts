// # The packed ring, from the device
//
// One circle of descriptors, written by both sides in turn. Whose a descriptor is stands in two of its own bits. Neither side ever clears them: each
// lap around the circle they mean the opposite of the lap before, and a *wrap counter* on either side remembers which lap it is on. So one store
// hands a buffer over, and an idle side polls one place.
//
// That store is of `flags`, and everything that was said of an index in the split ring is said of it here:
//
// - `#isAvailable` reads `flags` **before** the rest of the descriptor. The rest may be what the driver has not written yet.
// - `#publishFlags` writes `flags` **after** id and length, and after the data. With the stores exchanged a polling driver finds a used descriptor with
//   its own old words in it: the id of another buffer.
// - `shouldNotify` reads the driver's wishes **after** the flags were written, and `#arm` looks at the next descriptor **after** its own wish was. If
//   both sides look first, both sleep.

import { assert } from '../../01-hardware-background/physical-memory.ts';
import { StateError } from '../../03-vcpu-loop/devices/state.ts';
import type { Chain, DeviceRing, RingFeatures, RingPlace, RingPosition, RingState } from '../queue.ts';
import type { Area } from './area.ts';
import { list, RingChain, type Walk } from './chain.ts';
import { needPackedEvent } from './event.ts';
import { PACKED_DESC_F, pvirtq_desc, RING_EVENT_FLAGS, VIRTQ_DESC_F, WRAP } from './layout.ts';
import { InOrder, isFull } from './order.ts';
import type { RingAreas } from './split.ts';

const { AVAIL, USED } = PACKED_DESC_F;
const { NEXT, WRITE, INDIRECT } = VIRTQ_DESC_F;
const { bytes: DESC_BYTES } = pvirtq_desc;
/** Offsets of fields. */
const LEN = 8;
const ID = 12;
const FLAGS = 14;
const OFF_WRAP = 0;
const EVENT_FLAGS = 2;

export class PackedRing implements DeviceRing {
  readonly size: number;
  broken: string | null = null;
  readonly #walk: Walk;
  readonly #features: RingFeatures;
  readonly #desc: Area;
  readonly #driver: Area;
  readonly #device: Area;
  readonly #descAddress: number;
  readonly #deviceAddress: number;
  /** Next descriptor to take, and next to write as used: index, and the wrap counter in bit 15. */
  #next = WRAP;
  #used = WRAP;
  /** Descriptors passed by `#used` since somebody asked whether to notify. */
  #moved = 0;
  /** Descriptors that the device holds. A legal driver has no more than the ring. */
  #held = 0;
  #kicks = true;
  #mark = -1;
  #eventFlags: number = RING_EVENT_FLAGS.ENABLE;
  readonly #order: InOrder | null;

  constructor(walk: Walk, place: RingPlace, areas: RingAreas, features: RingFeatures, position?: RingPosition) {
    this.size = place.size;
    this.#walk = walk;
    this.#features = features;
    this.#desc = areas.desc;
    this.#driver = areas.driver;
    this.#device = areas.device;
    this.#descAddress = place.desc;
    this.#deviceAddress = place.device;
    this.#order = features.inOrder ? new InOrder(place.size) : null;
    if (!position) return;
    this.#next = position.avail;
    this.#used = position.used;
    this.#moved = 2 * this.size; // whether the predecessor has notified nobody knows
    this.#eventFlags = -1;
    this.enableKicks();
  }

  get position(): RingPosition {
    return { avail: this.#next, used: this.#used };
  }

  /** The position `count` descriptors further on; the wrap counter turns at the end of the ring. */
  #step(position: number, count: number): number {
    const index = (position & (WRAP - 1)) + count;
    // @clause virtio.packed.dev.wrap-counter
    return index < this.size ? position + count : ((position & WRAP) ^ WRAP) | (index - this.size);
  }

  // ## Written down
  //
  // A chain is taken again where it lies. Used descriptors are written over the oldest ones, so of several chains that are held some may lie under what was
  // written meanwhile; only when there is no more than one is it certain to begin at the next place to write.

  get state(): RingState {
    const [avail, used, moved, kicks, mark, wish] = [this.#next, this.#used, this.#moved, this.#kicks, this.#mark, this.#eventFlags];
    return { avail, used, seen: 0, moved, kicks, mark, wish, broken: this.broken };
  }

  goOn({ avail, used, moved, kicks, mark, wish, broken }: RingState): void {
    if ((avail & (WRAP - 1)) >= this.size || (used & (WRAP - 1)) >= this.size) throw new StateError(`a ring of ${this.size} at ${avail} and ${used}`);
    [this.#next, this.#used, this.#moved, this.#kicks, this.#mark, this.#eventFlags] = [avail, used, moved, kicks, mark, wish];
    this.broken = broken;
  }

  retake(id: number): RingChain | null {
    const next = this.#next;
    const flags = this.#flags(this.#used);
    if (this.broken !== null || this.#held > 0 || !this.#isAvailable(flags, this.#used)) return null;
    const chain = this.#take(this.#used, flags);
    return chain?.id === id && this.#next === next ? chain : null;
  }

  // ## Taking

  pop(): RingChain | null {
    if (this.broken !== null) return null;
    const position = this.#next;
    // @clause virtio.packed.dev.packed-descriptor-usable-only-after
    let flags = this.#flags(position);
    if (!this.#isAvailable(flags, position)) {
      if (!this.#arm()) return null;
      flags = this.#flags(position);
      if (!this.#isAvailable(flags, position)) return null;
    }
    const chain = this.#take(position, flags);
    if (chain !== null && this.#features.eventIdx && !this.#isAvailable(this.#flags(this.#next), this.#next)) this.#arm();
    return chain;
  }

  /** Takes the chain that begins at `first`, whose flags have been read. */
  #take(first: number, firstFlags: number): RingChain | null {
    let [position, flags] = [first, firstFlags];
    const chain = new RingChain(this);
    for (;;) {
      const at = (position & (WRAP - 1)) * DESC_BYTES;
      const low = this.#desc.load32(at);
      const high = this.#desc.load32(at + 4);
      const len = this.#desc.load32(at + LEN);
      // @clause virtio.packed.dev.list-id-last
      chain.id = this.#desc.load16(at + ID); // that of the last one stays
      chain.descriptors++;
      position = this.#step(position, 1);
      if (flags & INDIRECT) {
        if (flags & NEXT || chain.descriptors > 1) return this.#fail('INDIRECT in a list of descriptors');
        const wrong = list(this.#walk, chain, low, high, len);
        if (wrong !== null) return this.#fail(wrong);
        break;
      }
      const wrong = chain.add(this.#walk, this.size, low, high, len, flags);
      if (wrong !== null) return this.#fail(wrong);
      if (!(flags & NEXT)) break;
      flags = this.#flags(position);
      if (!this.#isAvailable(flags, position)) return this.#fail('a list that goes on in a descriptor which is not available');
    }
    if (this.#held + chain.descriptors > this.size) return this.#fail('more descriptors are available than the queue has');
    this.#held += chain.descriptors;
    this.#order?.took(chain);
    // @clause virtio.packed.dev.driver-descriptors-begin-processing-ring
    this.#next = position;
    return chain;
  }

  #flags(position: number): number {
    return this.#desc.acquire16((position & (WRAP - 1)) * DESC_BYTES + FLAGS);
  }

  /** The driver has handed this descriptor over on this lap: AVAIL is like its wrap counter, USED is not. */
  #isAvailable(flags: number, position: number): boolean {
    return (flags & (AVAIL | USED)) === (position & WRAP ? AVAIL : USED);
  }

  #fail(why: string): null {
    this.broken = why;
    return null;
  }

  // ## Giving back
  //
  // A used descriptor goes where the oldest one still lay, whichever chain it tells of, and stands for the whole chain: the device steps over as many
  // descriptors as the chain had,
  // and the driver, which remembers how many those were, does the same.

  push(chain: Chain, written: number): void {
    if (!(chain instanceof RingChain) || chain.ring !== this || this.broken !== null) return; // of a ring that is gone: there is nobody to give it to
    assert(chain.out, 'a chain is given back twice');
    assert(written >= 0 && written <= chain.writableBytes, 'the device claims more than it could write');
    chain.out = false;
    chain.written = written;
    chain.tellWritten(this.#walk.memory);
    if (this.#order === null) this.#use(chain, chain.descriptors);
    else this.#pushInOrder(this.#order);
  }

  #pushInOrder(order: InOrder): void {
    let slots = 0;
    for (let chain = order.next(); chain !== null; ) {
      const next = order.next();
      slots += chain.descriptors;
      if (next === null || !isFull(chain)) {
        this.#use(chain, slots);
        slots = 0;
      }
      chain = next;
    }
  }

  /** Writes one used descriptor, and steps over `slots`. */
  #use(chain: RingChain, slots: number): void {
    const at = (this.#used & (WRAP - 1)) * DESC_BYTES;
    // @clause virtio.packed.dev.device-descriptors-begin-being-written
    // @clause virtio.packed.dev.packed-descriptor-untouched-after-used
    // @clause virtio.packed.dev.next-chained-descriptors-used-order
    this.#writeDescriptor(at, chain);
    this.#publishFlags(at, chain);
    this.#walk.memory.written(this.#descAddress + at + LEN, DESC_BYTES - LEN);
    this.#used = this.#step(this.#used, slots);
    this.#moved += slots;
    this.#held -= slots;
  }

  #writeDescriptor(at: number, { id, written }: RingChain): void {
    this.#desc.store16(at + ID, id);
    this.#desc.store32(at + LEN, Math.min(written, 0xffff_ffff));
  }

  #publishFlags(at: number, { written }: RingChain): void {
    this.#desc.publish16(at + FLAGS, (this.#used & WRAP ? AVAIL | USED : 0) | (written > 0 ? WRITE : 0));
  }

  // ## Telling and being told

  shouldNotify(): boolean {
    const moved = this.#moved;
    this.#moved = 0;
    if (moved === 0 || this.broken !== null) return false;
    const flags = this.#driver.acquire16(EVENT_FLAGS) & 3; // before the mark: it is the mark's only if the flags say so
    // @clause virtio.packed.dev.event-flags
    if (flags === RING_EVENT_FLAGS.DISABLE) return false;
    if (flags !== RING_EVENT_FLAGS.DESC || !this.#features.eventIdx) return true;
    return needPackedEvent(this.#driver.acquire16(OFF_WRAP), this.#used, moved, this.size);
  }

  /** With EVENT_IDX: asks for a kick at the next descriptor. True when the driver did not know that already. */
  #arm(): boolean {
    if (!this.#kicks || !this.#features.eventIdx || this.#mark === this.#next) return false;
    this.#mark = this.#next;
    this.#tell(OFF_WRAP, this.#next);
    this.#wish(RING_EVENT_FLAGS.DESC);
    return true;
  }

  #wish(flags: number): void {
    if (this.#eventFlags === flags) return;
    this.#eventFlags = flags;
    this.#tell(EVENT_FLAGS, flags);
  }

  #tell(at: number, value: number): void {
    this.#device.publish16(at, value);
    this.#walk.memory.written(this.#deviceAddress + at, 2);
  }

  disableKicks(): void {
    if (this.broken !== null) return;
    this.#kicks = false;
    this.#mark = -1;
    this.#wish(RING_EVENT_FLAGS.DISABLE);
  }

  enableKicks(): boolean {
    if (this.broken !== null) return false;
    this.#kicks = true;
    if (this.#features.eventIdx) this.#arm();
    else this.#wish(RING_EVENT_FLAGS.ENABLE);
    return this.#isAvailable(this.#flags(this.#next), this.#next);
  }
}
