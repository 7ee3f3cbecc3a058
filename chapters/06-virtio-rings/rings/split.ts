// # The split ring, from the device
//
// Each area has one writer, so nothing here is ever contended. What can go wrong is the order in which one side's stores become visible to the other.
// There are three places where it counts, and each is a function with a name:
//
// - `#look` reads `avail.idx` **before** any element or descriptor that it promises. The driver writes in the other order. Were the element read first,
//   it could be from before the
//   driver filled it, while the index already counts it.
// - `#publishIdx` writes `used.idx` **after** the element, length included, and after the data in the buffers. The driver may be polling: the instant the
//   index moves it takes
//   the element and frees the buffer. With the two stores exchanged it would take a stale length.
// - `shouldNotify` reads the driver's mark **after** `used.idx` was written, and `#arm` reads `avail.idx` **after** `avail_event` was. These two are of
//   another kind: a store, and then a
//   load from *elsewhere*, which even x86 exchanges if it is not told otherwise. Each side says "I have moved" and then looks whether the other sleeps,
// while the other says "I sleep" and then looks
//   whether this one has moved. If both look first, both miss it, and the queue stands still for ever.

import { assert } from '../../01-hardware-background/physical-memory.ts';
import { StateError } from '../../03-vcpu-loop/devices/state.ts';
import type { Chain, DeviceRing, RingFeatures, RingPlace, RingPosition, RingState } from '../queue.ts';
import type { Area } from './area.ts';
import { follow, RingChain, type Walk } from './chain.ts';
import { needEvent } from './event.ts';
import {
  availEventAt,
  usedEventAt,
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_USED_F_NO_NOTIFY,
  virtq_avail,
  virtq_avail_elem,
  virtq_used,
  virtq_used_elem,
} from './layout.ts';
import { InOrder, isFull } from './order.ts';

const FLAGS = 0;
const IDX = 2;

/** The areas of a ring, opened. */
export interface RingAreas {
  readonly desc: Area;
  readonly driver: Area;
  readonly device: Area;
}

export class SplitRing implements DeviceRing {
  readonly size: number;
  broken: string | null = null;
  readonly #walk: Walk;
  readonly #features: RingFeatures;
  readonly #desc: Area;
  readonly #avail: Area;
  readonly #used: Area;
  readonly #usedAddress: number;
  /** The next element of the available ring to take, and how far the driver was when it was last looked. Both run freely through 16 bits. */
  #next = 0;
  #idx = 0;
  /** The next element of the used ring to write, and how many were written since somebody asked whether to notify. */
  #usedIdx = 0;
  #moved = 0;
  /** The driver is to kick, and with EVENT_IDX: at which element, as it was told last. */
  #kicks = true;
  #mark = -1;
  /** Heads that the device holds; a driver that offers one again has lost count. */
  readonly #held: Uint8Array;
  #holding = 0;
  readonly #order: InOrder | null;

  constructor(walk: Walk, place: RingPlace, areas: RingAreas, features: RingFeatures, position?: RingPosition) {
    this.size = place.size;
    this.#walk = walk;
    this.#features = features;
    this.#desc = areas.desc;
    this.#avail = areas.driver;
    this.#used = areas.device;
    this.#usedAddress = place.device;
    this.#held = new Uint8Array(place.size);
    this.#order = features.inOrder ? new InOrder(place.size) : null;
    if (!position) return;
    this.#next = position.avail;
    this.#idx = position.avail;
    this.#usedIdx = position.used;
    this.#moved = 0x10000; // whether the predecessor has notified nobody knows
    this.enableKicks();
  }

  get position(): RingPosition {
    return { avail: this.#next, used: this.#usedIdx };
  }

  // ## Written down

  get state(): RingState {
    const [avail, used, seen, moved, kicks, mark] = [this.#next, this.#usedIdx, this.#idx, this.#moved, this.#kicks, this.#mark];
    return { avail, used, seen, moved, kicks, mark, wish: -1, broken: this.broken };
  }

  goOn({ avail, used, seen, moved, kicks, mark, broken }: RingState): void {
    if (((avail - used) & 0xffff) > this.size || ((seen - avail) & 0xffff) > this.size)
      throw new StateError(`a ring of ${this.size} at ${avail}, ${used} and ${seen}`);
    [this.#next, this.#usedIdx, this.#idx, this.#moved, this.#kicks, this.#mark] = [avail, used, seen, moved, kicks, mark];
    this.broken = broken;
  }

  retake(id: number): RingChain | null {
    return this.broken === null && id < this.size ? this.#take(id) : null;
  }

  // ## Taking

  pop(): RingChain | null {
    if (this.broken !== null || (this.#next === this.#idx && !this.#look())) return null;
    const head = this.#avail.load16(virtq_avail.bytes + virtq_avail_elem.bytes * (this.#next & (this.size - 1)));
    const chain = this.#take(head);
    if (chain === null) return null;
    // @clause virtio.split.dev.index-wraps
    this.#next = (this.#next + 1) & 0xffff;
    if (this.#next === this.#idx) this.#arm();
    return chain;
  }

  #take(head: number): RingChain | null {
    if (this.#held[head]) return this.#fail(`chain ${head} is available twice`);
    const chain = new RingChain(this);
    chain.id = head;
    const wrong = follow(this.#walk, chain, this.#desc, this.size, head, false);
    if (wrong !== null) return this.#fail(wrong);
    this.#held[head] = 1;
    this.#holding++;
    this.#order?.took(chain);
    return chain;
  }

  /** Whether the driver has made anything available. The index is looked at before what it counts. */
  #look(): boolean {
    this.#arm();
    this.#idx = this.#avail.acquire16(IDX);
    const waiting = (this.#idx - this.#next) & 0xffff;
    // @clause virtio.robust.dev.avail-index-jump
    if (waiting <= this.size) return waiting > 0;
    this.#fail(`avail.idx is ${this.#idx}, ${waiting} ahead in a queue of ${this.size}`);
    return false;
  }

  #fail(why: string): null {
    this.broken = why;
    return null;
  }

  // ## Giving back

  push(chain: Chain, written: number): void {
    if (!(chain instanceof RingChain) || chain.ring !== this || this.broken !== null) return; // of a ring that is gone: there is nobody to give it to
    assert(chain.out, 'a chain is given back twice');
    assert(written >= 0 && written <= chain.writableBytes, 'the device claims more than it could write');
    chain.out = false;
    chain.written = written;
    chain.tellWritten(this.#walk.memory);
    if (this.#order === null) {
      // @clause virtio.split.dev.used-element-len-stored-before
      // @clause virtio.split.dev.first-len-bytes-writable-area
      this.#writeElement(this.#usedIdx, chain);
      this.#publishIdx(1);
      this.#release(chain);
    } else this.#pushInOrder(this.#order);
  }

  /** Lets go every chain that nothing older holds back. A full one needs no element of its own if the next goes too. */
  #pushInOrder(order: InOrder): void {
    let count = 0; // since the last element written
    let moved = 0;
    for (let chain = order.next(); chain !== null; ) {
      const next = order.next();
      count++;
      this.#release(chain);
      if (next === null || !isFull(chain)) {
        this.#writeElement(this.#usedIdx + moved, chain);
        moved += count;
        count = 0;
      }
      chain = next;
    }
    if (moved > 0) this.#publishIdx(moved);
  }

  #release(chain: RingChain): void {
    this.#held[chain.id] = 0;
    this.#holding--;
  }

  #writeElement(idx: number, { id, written }: RingChain): void {
    const at = virtq_used.bytes + virtq_used_elem.bytes * (idx & (this.size - 1));
    this.#used.store32(at, id);
    this.#used.store32(at + 4, Math.min(written, 0xffff_ffff));
    this.#walk.memory.written(this.#usedAddress + at, virtq_used_elem.bytes);
  }

  #publishIdx(count: number): void {
    this.#usedIdx = (this.#usedIdx + count) & 0xffff;
    this.#moved += count;
    this.#used.publish16(IDX, this.#usedIdx);
    this.#walk.memory.written(this.#usedAddress + IDX, 2);
  }

  // ## Telling and being told

  shouldNotify(): boolean {
    const moved = this.#moved;
    this.#moved = 0;
    if (moved === 0 || this.broken !== null) return false;
    if (this.#features.notifyOnEmpty && this.#holding === 0 && this.#avail.acquire16(IDX) === this.#next) return true;
    // @clause virtio.split-notify.dev.event-idx-notify-pre-update
    // @clause virtio.split-notify.dev.event-idx-no-notification-idx
    // @clause virtio.split-notify.dev.event-idx-avail-flags-bit
    if (this.#features.eventIdx) return needEvent(this.#avail.acquire16(usedEventAt(this.size)), this.#usedIdx, moved);
    // @clause virtio.split-notify.dev.without-event-idx-avail-flags
    // @clause virtio.split-notify.dev.without-event-idx-avail-flags-0
    // @clause virtio.split-notify.dev.without-event-idx-used-event
    return (this.#avail.acquire16(FLAGS) & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0;
  }

  /** With EVENT_IDX: asks for a kick at the element after the last one taken. */
  #arm(): void {
    if (!this.#kicks || !this.#features.eventIdx || this.#mark === this.#next) return;
    this.#mark = this.#next;
    // @clause virtio.split-notify.dev.event-idx-avail-event-selects
    this.#tell(availEventAt(this.size), this.#next);
  }

  #tell(at: number, value: number): void {
    this.#used.publish16(at, value);
    this.#walk.memory.written(this.#usedAddress + at, 2);
  }

  disableKicks(): void {
    if (!this.#kicks || this.broken !== null) return;
    this.#kicks = false;
    // @clause virtio.split-notify.dev.event-idx-used-flags-stays
    // @clause virtio.split-notify.dev.without-event-idx-used-flags
    // @clause virtio.split-notify.dev.without-event-idx-used-flags-1
    if (!this.#features.eventIdx) this.#tell(FLAGS, VIRTQ_USED_F_NO_NOTIFY); // with it, a mark that stays behind is enough
  }

  enableKicks(): boolean {
    if (this.broken !== null) return false;
    this.#kicks = true;
    if (this.#features.eventIdx) this.#arm();
    else this.#tell(FLAGS, 0);
    return this.#next !== this.#idx || this.#look() || this.broken !== null; // what is broken is found by looking
  }
}
