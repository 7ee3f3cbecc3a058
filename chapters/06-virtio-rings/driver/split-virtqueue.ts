// # The driver's end of a split ring
//
// Three areas, each written by one side. The *descriptor table* holds the pieces of buffers, linked by index; the driver writes it. The *available
// ring* says which chains the device may take; the driver writes it. The *used ring* says which came back; the device writes it. Both rings have an
// index that only ever grows, modulo {{INDEX_LIMIT}}, so that "how many since I last looked" is a subtraction.
//
// ## Which store must be seen first
//
// The device may be a thread on another processor, so the order in which the driver's stores become visible is part of the protocol. There are two
// places:
//
// 1. Descriptors and the ring's entry *before* `avail.idx`. The moment the index moves, the device may take the chain; what it finds must be there.
// 2. `avail.idx` *before* the question whether the device wants to be told. Each side does "store mine, then look at yours": the driver stores its
// index and reads the
//    device's wish, the device stores its wish and reads the driver's index. If either look could pass its own store, both could miss each other, and
// a buffer would lie there with
//    nobody awake. Processors do reorder exactly this pair, x86 included.
//
// And coming back: `used.idx` *before* the element that it covers, or an element is read that is not there yet.
//
// In this language `Atomics` is the tool for all three. Its operations are sequentially consistent: none passes another, and no ordinary access
// passes one in the direction that matters. The indices, the flags and the events go through it; descriptors and elements are plain.

import {
  availBytes,
  descBytes,
  MAX_QUEUE_SIZE,
  usedBytes,
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_F,
  VIRTQ_USED_F_NO_NOTIFY,
  virtq_used_elem,
} from '../rings/layout.ts';
import { type DmaBuffer, roundUp } from './bus.ts';
import { DESC_BYTES, DESC_WORDS, type QueueAreas, storeDescriptor, Virtqueue, type VirtqueueOptions } from './virtqueue.ts';

/** Indices of both rings are counted modulo this. */
export const INDEX_LIMIT = 0x1_0000;

const ELEM_WORDS = virtq_used_elem.bytes / 4;
/** Where rings of the modern interface put the used ring: on a cache line of its own, so that the two sides do not take turns owning one. */
const CACHE_LINE = 64;
const RING_ALIGN = 4096;

/** Where each area lies in one block, and the length of the block. */
function splitPlaces(size: number, usedAlign: number): { readonly avail: number; readonly used: number; readonly bytes: number } {
  const avail = descBytes(size);
  const used = roundUp(avail + availBytes(size), usedAlign);
  return { avail, used, bytes: used + usedBytes(size) };
}

// An index that wraps has no "greater than". What can be said is whether it came past a place on its way from one value to another: from 0xfffe to 3,
// past 0xffff, {{passed(0xffff, 3, 0xfffe) ? 'yes' : 'no'}}.

/** Whether an index that went from `old` to `now` has passed `event`: all modulo {{INDEX_LIMIT}}. */
export const passed = (event: number, now: number, old: number): boolean => ((now - event - 1) & 0xffff) < ((now - old) & 0xffff);

export class SplitVirtqueue<T> extends Virtqueue<T> {
  #ring!: DmaBuffer;
  #halves!: Uint16Array; // the whole block
  #words!: Uint32Array;
  #mask = 0;
  // Places in `#halves`, except the used elements, which are in `#words`.
  #availFlags = 0;
  #availIdxAt = 0;
  #availRing = 0;
  #usedEvent = 0;
  #usedFlags = 0;
  #usedIdxAt = 0;
  #usedRing = 0;
  #availEvent = 0;

  #availIdx = 0;
  #lastUsed = 0;
  /** `used.idx` when it was last read: until the driver has come that far it need not look again. */
  #usedSeen = 0;
  #callbacks = true;
  /** Which descriptor follows which. The copy in the ring is for the device. */
  #next = new Uint16Array(0);
  #freeHead = 0;
  /** In order: at which used index a buffer has its turn, and the buffer that ends the batch which is being given out. */
  #turn = new Uint16Array(0);
  #inTurn = new Uint16Array(0);
  #batchEnd = -1;
  #batchLen = 0;

  /** @throws Errno ENOMEM */
  constructor(options: VirtqueueOptions) {
    super(options);
    this.build();
  }

  override validSize(size: number): boolean {
    return size >= 1 && size <= MAX_QUEUE_SIZE && (size & (size - 1)) === 0;
  }

  protected override build(): void {
    const { size } = this;
    const { avail, used, bytes } = splitPlaces(size, this.legacyAlign || CACHE_LINE);
    // The block begins on a page, which satisfies the table of every area, and the one of the legacy interface.
    // @clause virtio.split.dri.split-queue-part-starts-address
    // @clause virtio.split-notify.dri.used-ring-flags-zeroed-driver
    const ring = this.begin(roundUp(bytes, 4), RING_ALIGN);
    this.#ring = ring;
    this.#halves = new Uint16Array(ring.bytes.buffer, ring.bytes.byteOffset, ring.bytes.length / 2);
    this.#words = new Uint32Array(ring.bytes.buffer, ring.bytes.byteOffset, ring.bytes.length / 4);
    this.#mask = size - 1;
    this.#availFlags = avail / 2;
    this.#availIdxAt = avail / 2 + 1;
    this.#availRing = avail / 2 + 2;
    this.#usedEvent = avail / 2 + 2 + size;
    this.#usedFlags = used / 2;
    this.#usedIdxAt = used / 2 + 1;
    this.#usedRing = used / 4 + 1;
    this.#availEvent = used / 2 + 2 + 4 * size;
    this.#availIdx = 0;
    this.#lastUsed = 0;
    this.#usedSeen = 0;
    this.#callbacks = true;
    this.#freeHead = 0;
    this.#batchEnd = -1;
    this.#next = Uint16Array.from({ length: size }, (_, index) => (index + 1) & this.#mask);
    this.#turn = new Uint16Array(size);
    this.#inTurn = new Uint16Array(size);
  }

  override get areas(): QueueAreas {
    const { avail, used } = splitPlaces(this.size, this.legacyAlign || CACHE_LINE);
    const { address } = this.#ring;
    return { size: this.size, desc: address, driver: address + avail, device: address + used };
  }

  // ## Exposing a buffer
  //
  // Free descriptors are a list through `#next`; a chain takes the first few, and keeps their order. When both sides have promised to use buffers *in
  // order*, the list is the table
  // itself, round and round: then the successor of each is the next one, as the promise demands, and freeing is counting.
  // @clause virtio.split.dri.order-chained-next-equals-x

  protected override expose(sgs: readonly DmaBuffer[], outSgs: number, total: number, indirect: boolean): number {
    const words = this.#words;
    const next = this.#next;
    const head = this.#freeHead;
    // @clause virtio.framing.dri.readable-elements-come-first-writable
    if (indirect) {
      const table = this.table(head, total);
      // @clause virtio.split-indirect.dri.no-nesting-indirect-flag-absent
      // @clause virtio.split-indirect.dri.order-indirect-table-entries-sequential
      for (let index = 0, at = 0; index < total; index++, at += DESC_WORDS) {
        storeDescriptor(table, at, sgs[index] as DmaBuffer);
        table[at + 3] = (index < outSgs ? 0 : VIRTQ_DESC_F.WRITE) | (index + 1 < total ? VIRTQ_DESC_F.NEXT | ((index + 1) << 16) : 0);
      }
      const at = head * DESC_WORDS;
      const address = this.tableAddress(head);
      words[at] = address;
      words[at + 1] = address / 2 ** 32;
      words[at + 2] = total * DESC_BYTES;
      // @clause virtio.split-indirect.dri.indirect-next-never-combined-one
      words[at + 3] = VIRTQ_DESC_F.INDIRECT;
      this.#freeHead = next[head] as number;
    } else {
      let at = head;
      for (let index = 0; index < total; index++) {
        const follower = next[at] as number;
        storeDescriptor(words, at * DESC_WORDS, sgs[index] as DmaBuffer);
        words[at * DESC_WORDS + 3] = (index < outSgs ? 0 : VIRTQ_DESC_F.WRITE) | (index + 1 < total ? VIRTQ_DESC_F.NEXT | (follower << 16) : 0);
        at = follower;
      }
      this.#freeHead = at;
    }
    const taken = indirect ? 1 : total;
    this.taken[head] = taken;
    this.free -= taken;
    const index = this.#availIdx;
    this.#turn[head] = index;
    this.#inTurn[index & this.#mask] = head;
    this.#halves[this.#availRing + (index & this.#mask)] = head;
    // Everything above before this. From here on the chain belongs to the device.
    // @clause virtio.split.dri.memory-barrier-between-ring-entry
    this.#availIdx = (index + 1) & 0xffff;
    Atomics.store(this.#halves, this.#availIdxAt, this.#availIdx);
    this.added++;
    return head;
  }

  // ## Whether to kick
  //
  // A kick is expensive: with a virtual machine it is an exit. So the device says when it wants one. Without EVENT_IDX by a flag; with it, by an
  // index: "when you pass this one". The device cannot be asked about each buffer of a batch, only about the batch, which is why the question is
  // whether the index lies *between* the last time and now.

  override kickPrepare(): boolean {
    const now = this.#availIdx;
    const { added } = this;
    this.added = 0;
    // The index was stored with a sequentially consistent operation and this is another: it cannot be read before.
    // @clause virtio.split-notify.dri.memory-barrier-between-idx-update
    if (this.features.eventIdx) {
      // @clause virtio.split-notify.dri.event-idx-used-flags-bit
      // @clause virtio.split-notify.dri.event-idx-kick-pre-update
      // @clause virtio.split-notify.dri.event-idx-no-kick-idx
      const event = Atomics.load(this.#halves, this.#availEvent);
      return added >= INDEX_LIMIT || passed(event, now, (now - added) & 0xffff);
    }
    // @clause virtio.split-notify.dri.without-event-idx-avail-event
    // @clause virtio.split-notify.dri.without-event-idx-used-flags
    // @clause virtio.split-notify.dri.without-event-idx-used-flags-0
    return (Atomics.load(this.#halves, this.#usedFlags) & VIRTQ_USED_F_NO_NOTIFY) === 0;
  }

  override get notificationData(): number {
    return this.#availIdx;
  }

  // ## Taking a buffer back
  //
  // What the device wrote is believed only as far as the notes allow. Its index may not be further on than there are buffers in flight. The id must
  // be that of a chain the driver has
  // exposed and not yet got back. Together these end every loop over this function: each success takes a buffer out of flight, and only the driver
  // puts any in.

  protected override take(): number {
    const lastUsed = this.#lastUsed;
    if (this.#batchEnd >= 0) return this.#takeFromBatch(lastUsed);
    if (this.#usedSeen === lastUsed) {
      const idx = Atomics.load(this.#halves, this.#usedIdxAt);
      if (idx === lastUsed) return -1;
      const ready = (idx - lastUsed) & 0xffff;
      if (ready > this.inFlight) return this.#fault(`used.idx says ${ready} of ${this.inFlight} buffers`);
      this.#usedSeen = idx;
    }
    const at = this.#usedRing + ELEM_WORDS * (lastUsed & this.#mask);
    const id = this.#words[at] as number;
    const len = this.#words[at + 1] as number;
    if (id > this.#mask || this.taken[id] === 0) return this.#fault(`used element names chain ${id}, which is not in flight`);
    if (this.features.inOrder) {
      // One element can stand for a whole batch: it names the last, and every one before it has come back too.
      const ahead = ((this.#turn[id] as number) - lastUsed) & 0xffff;
      if (ahead >= ((this.#usedSeen - lastUsed) & 0xffff)) return this.#fault(`chain ${id} came back before its turn`);
      this.#batchEnd = id;
      this.#batchLen = len;
      return this.#takeFromBatch(lastUsed);
    }
    this.usedLen = len;
    this.#step(lastUsed);
    return id;
  }

  /** In order: the oldest in flight. Of those that have no element of their own the device has used all that it could write. */
  #takeFromBatch(lastUsed: number): number {
    const id = this.#inTurn[lastUsed & this.#mask] as number;
    if (id === this.#batchEnd) {
      this.usedLen = this.#batchLen;
      this.#batchEnd = -1;
    } else this.usedLen = this.writable[id] as number;
    this.#step(lastUsed);
    return id;
  }

  #step(lastUsed: number): void {
    this.#lastUsed = (lastUsed + 1) & 0xffff;
    // Each time the event moves on, so that the next buffer causes an interrupt again.
    // @clause virtio.split-notify.dri.event-idx-used-event-selects
    if (this.#callbacks && this.features.eventIdx) Atomics.store(this.#halves, this.#usedEvent, this.#lastUsed);
  }

  #fault(why: string): number {
    this.break(why);
    return -1;
  }

  protected override release(id: number): void {
    const taken = this.taken[id] as number;
    this.taken[id] = 0;
    this.free += taken;
    if (this.features.inOrder) return;
    const next = this.#next;
    let last = id;
    for (let step = 1; step < taken; step++) last = next[last] as number;
    next[last] = this.#freeHead;
    this.#freeHead = id;
  }

  // ## Asking not to be told
  //
  // Without EVENT_IDX there is a flag. With it the flag must stay 0, and "never" is said with the index that was passed last: the device's index
  // comes by there
  // again only after {{INDEX_LIMIT}} buffers, and the one interrupt that it then sends too many does no harm.

  override disableCb(): void {
    if (!this.#callbacks) return;
    this.#callbacks = false;
    // @clause virtio.split-notify.dri.event-idx-avail-flags-stays
    if (this.features.eventIdx) Atomics.store(this.#halves, this.#usedEvent, (this.#lastUsed - 1) & 0xffff);
    // @clause virtio.split-notify.dri.without-event-idx-avail-flags
    // @clause virtio.split-notify.dri.without-event-idx-avail-flags-1
    else Atomics.store(this.#halves, this.#availFlags, VIRTQ_AVAIL_F_NO_INTERRUPT);
  }

  override enableCbPrepare(): number {
    this.#callbacks = true;
    if (this.features.eventIdx) Atomics.store(this.#halves, this.#usedEvent, this.#lastUsed);
    else Atomics.store(this.#halves, this.#availFlags, 0);
    return this.#lastUsed;
  }

  override poll(position: number): boolean {
    if (this.isBroken) return false;
    return this.#batchEnd >= 0 || Atomics.load(this.#halves, this.#usedIdxAt) !== position;
  }

  override enableCbDelayed(): boolean {
    if (!this.features.eventIdx) return this.enableCb();
    this.#callbacks = true;
    // Three quarters of what is in flight: the interrupt comes while the device still has something to do.
    const wait = (this.inFlight * 3) >>> 2;
    Atomics.store(this.#halves, this.#usedEvent, (this.#lastUsed + wait) & 0xffff);
    return ((Atomics.load(this.#halves, this.#usedIdxAt) - this.#lastUsed) & 0xffff) <= wait;
  }

  override moreUsed(): boolean {
    return this.#batchEnd >= 0 || Atomics.load(this.#halves, this.#usedIdxAt) !== this.#lastUsed;
  }
}
