// # The driver's end of a packed ring
//
// A split ring costs a device three cache misses to learn of one small buffer: the index, the entry, the descriptor. The packed ring has only
// descriptors. The driver writes them in ring order, the device overwrites some of them in ring order to give buffers back, and two bits in each say
// whose turn it is. There is no index to look at. So that the bits need not be cleaned after each round, their meaning flips with it: each side has a
// *wrap counter* of one bit, which changes whenever it comes past the end.
//
// A descriptor is *available* when its AVAIL bit is the driver's wrap counter and its USED bit is not; it is *used* when both are the counter. Both
// bits are in the flags, with the rest of the word that says what the descriptor is. Hence the order in which it has to be written: everything else,
// and then the flags. For a chain, every other descriptor, and then the flags of the first: until that one flips, the device stops there and does not
// see the rest.

import { MAX_QUEUE_SIZE, PACKED_DESC_F, pvirtq_event_suppress, RING_EVENT_FLAGS, VIRTQ_DESC_F, WRAP } from '../rings/layout.ts';
import { type DmaBuffer, roundUp } from './bus.ts';
import { DESC_BYTES, DESC_WORDS, type QueueAreas, storeDescriptor, Virtqueue, type VirtqueueOptions } from './virtqueue.ts';

const DESC_HALVES = DESC_BYTES / 2;

const DESC_F_AVAIL = PACKED_DESC_F.AVAIL;
const DESC_F_USED = PACKED_DESC_F.USED;
/** So many descriptors added and nobody told: whatever the event says, it has been passed. */
const ADDED_LIMIT = 0x8000;

const RING_ALIGN = 4096;
const CACHE_LINE = 64;

export class PackedVirtqueue<T> extends Virtqueue<T> {
  #ring!: DmaBuffer;
  #halves!: Uint16Array;
  #words!: Uint32Array;
  #length = 0; // of the ring, in descriptors: not always a power of two
  #driverEvent = 0; // in halves
  #deviceEvent = 0; // in words

  #nextAvail = 0;
  #availWrap = true;
  #nextUsed = 0;
  #usedWrap = true;
  #callbacks: number = RING_EVENT_FLAGS.ENABLE;
  /** Free ids, as a list. In order: the ids themselves, round and round. */
  #nextId = new Uint16Array(0);
  #freeId = 0;
  #oldestId = 0;
  #batchEnd = -1;
  #batchLen = 0;

  /** @throws Errno ENOMEM */
  constructor(options: VirtqueueOptions) {
    super(options);
    this.build();
  }

  override validSize(size: number): boolean {
    return Number.isInteger(size) && size >= 1 && size <= MAX_QUEUE_SIZE;
  }

  get #places(): { readonly driver: number; readonly device: number; readonly bytes: number } {
    const driver = roundUp(this.size * DESC_BYTES, CACHE_LINE);
    return { driver, device: driver + CACHE_LINE, bytes: driver + CACHE_LINE + pvirtq_event_suppress.bytes };
  }

  protected override build(): void {
    const { size } = this;
    const { driver, device, bytes } = this.#places;
    // @clause virtio.packed.dri.packed-queue-part-starts-address
    const ring = this.begin(bytes, RING_ALIGN);
    this.#ring = ring;
    this.#halves = new Uint16Array(ring.bytes.buffer, ring.bytes.byteOffset, bytes / 2);
    this.#words = new Uint32Array(ring.bytes.buffer, ring.bytes.byteOffset, bytes / 4);
    this.#length = size;
    this.#driverEvent = driver / 2;
    this.#deviceEvent = device / 4;
    this.#nextAvail = 0;
    this.#availWrap = true;
    this.#nextUsed = 0;
    this.#usedWrap = true;
    this.#callbacks = RING_EVENT_FLAGS.ENABLE;
    this.#nextId = Uint16Array.from({ length: size }, (_, index) => (index + 1) % size);
    this.#freeId = 0;
    this.#oldestId = 0;
    this.#batchEnd = -1;
  }

  override get areas(): QueueAreas {
    const { driver, device } = this.#places;
    const { address } = this.#ring;
    return { size: this.size, desc: address, driver: address + driver, device: address + device };
  }

  // ## Exposing a buffer
  //
  // The id names the buffer, not a place in the ring: a buffer may come back in another place than it went. Only the last descriptor of a chain must
  // carry it; here all do,
  // so that no stale one can be taken for it. The length of a chain is what the driver says it is; whether the device needs more descriptors to write
  // its answer is nothing to rely on, as it
  // writes one.
  // @clause virtio.packed.dri.no-reliance-device-needing-more

  protected override expose(sgs: readonly DmaBuffer[], outSgs: number, total: number, indirect: boolean): number {
    const words = this.#words;
    const halves = this.#halves;
    const id = this.#freeId;
    const head = this.#nextAvail;
    const taken = indirect ? 1 : total;
    let turn = this.#availWrap ? DESC_F_AVAIL : DESC_F_USED; // the other bit is the counter's opposite
    let headFlags = turn;
    let at = head;
    if (indirect) {
      // @clause virtio.packed-indirect.dri.packed-only-write-legal-flag
      // @clause virtio.packed-indirect.dri.packed-next-linked-lists-contain
      const table = this.table(id, total);
      for (let index = 0, word = 0; index < total; index++, word += DESC_WORDS) {
        storeDescriptor(table, word, sgs[index] as DmaBuffer);
        table[word + 3] = (index < outSgs ? 0 : VIRTQ_DESC_F.WRITE) << 16;
      }
      const address = this.tableAddress(id);
      words[head * DESC_WORDS] = address;
      words[head * DESC_WORDS + 1] = address / 2 ** 32;
      words[head * DESC_WORDS + 2] = total * DESC_BYTES;
      halves[head * DESC_HALVES + 6] = id;
      headFlags |= VIRTQ_DESC_F.INDIRECT;
      if (++at === this.#length) at = this.#flip();
    } else {
      // @clause virtio.packed.dri.packed-list-readable-elements-precede
      for (let index = 0; index < total; index++) {
        const flags = (index < outSgs ? 0 : VIRTQ_DESC_F.WRITE) | (index + 1 < total ? VIRTQ_DESC_F.NEXT : 0);
        storeDescriptor(words, at * DESC_WORDS, sgs[index] as DmaBuffer);
        halves[at * DESC_HALVES + 6] = id;
        if (index === 0) headFlags |= flags;
        else halves[at * DESC_HALVES + 7] = flags | turn;
        if (++at === this.#length) {
          at = this.#flip();
          turn ^= DESC_F_AVAIL | DESC_F_USED;
        }
      }
    }
    this.#nextAvail = at;
    this.#freeId = this.#nextId[id] as number;
    this.taken[id] = taken;
    this.free -= taken;
    // All of the above before this one store: with it the device owns the chain, and from now until the USED bit says so nothing of it may be
    // touched.
    // @clause virtio.packed.dri.memory-barrier-between-descriptor-body
    // @clause virtio.packed.dri.head-descriptor-becomes-available-only
    // @clause virtio.packed.dri.packed-descriptor-frozen-once-avail
    Atomics.store(halves, head * DESC_HALVES + 7, headFlags);
    this.added += taken;
    return id;
  }

  #flip(): number {
    this.#availWrap = !this.#availWrap;
    return 0;
  }

  // ## Whether to kick
  //
  // The device's wish is two numbers, and they belong together: a position, and what it means. They are read as one word. A kick too many, with
  // nothing new in the ring, does no harm.
  // @clause virtio.packed.dri.packed-repeated-kicks-without-new

  override kickPrepare(): boolean {
    const { added } = this;
    this.added = 0;
    // @clause virtio.packed-notify.dri.memory-barrier-before-reading-device
    const event = Atomics.load(this.#words, this.#deviceEvent);
    const flags = (event >>> 16) & 3;
    if (flags !== RING_EVENT_FLAGS.DESC || !this.features.eventIdx) return flags !== RING_EVENT_FLAGS.DISABLE;
    if (added >= ADDED_LIMIT) return true;
    // Positions of this round are counted from its beginning; what carries the other counter is from the last.
    const wrap = (event & WRAP) !== 0;
    const at = (event & ~WRAP & 0xffff) - (wrap === this.#availWrap ? 0 : this.#length);
    const now = this.#nextAvail;
    return ((now - at - 1) & 0xffff) < (added & 0xffff);
  }

  // @clause virtio.packed.dri.packed-kick-next-off-next
  override get notificationData(): number {
    return this.#nextAvail | (this.#availWrap ? WRAP : 0);
  }

  // ## Taking a buffer back

  #usedAt(position: number, wrap: boolean): boolean {
    const flags = Atomics.load(this.#halves, position * DESC_HALVES + 7);
    return ((flags & DESC_F_USED) !== 0) === wrap && ((flags & DESC_F_AVAIL) !== 0) === wrap;
  }

  // A device that marks everything as used, again and again, can do so only as often as there are buffers in flight: the notes end it. What it has to
  // name is an id that
  // the driver has given out, and each id is good once.

  protected override take(): number {
    if (this.#batchEnd >= 0) return this.#takeFromBatch();
    const position = this.#nextUsed;
    if (!this.#usedAt(position, this.#usedWrap)) return -1;
    if (this.inFlight === 0) return this.#fault('a descriptor is marked as used and nothing is in flight');
    const id = this.#halves[position * DESC_HALVES + 6] as number;
    const len = this.#words[position * DESC_WORDS + 2] as number;
    if (id >= this.#length || this.taken[id] === 0) return this.#fault(`used descriptor names buffer ${id}, which is not in flight`);
    if (this.features.inOrder) {
      this.#batchEnd = id;
      this.#batchLen = len;
      return this.#takeFromBatch();
    }
    this.usedLen = len;
    this.#step(this.taken[id] as number);
    return id;
  }

  /** In order, ids are given out round and round, so the oldest in flight is known, and whatever is in flight has its turn before the newest. */
  #takeFromBatch(): number {
    const id = this.#oldestId;
    this.#oldestId = this.#nextId[id] as number;
    if (id === this.#batchEnd) {
      this.usedLen = this.#batchLen;
      this.#batchEnd = -1;
    } else this.usedLen = this.writable[id] as number;
    this.#step(this.taken[id] as number);
    return id;
  }

  #step(descriptors: number): void {
    this.#nextUsed += descriptors;
    if (this.#nextUsed >= this.#length) {
      this.#nextUsed -= this.#length;
      this.#usedWrap = !this.#usedWrap;
    }
    if (this.#callbacks === RING_EVENT_FLAGS.DESC) this.#askAt(this.#nextUsed, this.#usedWrap);
  }

  #fault(why: string): number {
    this.break(why);
    return -1;
  }

  // @clause virtio.packed.dri.packed-descriptor-reuse-only-after
  protected override release(id: number): void {
    this.free += this.taken[id] as number;
    this.taken[id] = 0;
    if (this.features.inOrder) return;
    this.#nextId[id] = this.#freeId;
    this.#freeId = id;
  }

  // ## Asking not to be told

  #ask(flags: number): void {
    this.#callbacks = flags;
    Atomics.store(this.#halves, this.#driverEvent + 1, flags);
  }

  #askAt(position: number, wrap: boolean): void {
    Atomics.store(this.#halves, this.#driverEvent, position | (wrap ? WRAP : 0));
  }

  override disableCb(): void {
    if (this.#callbacks !== RING_EVENT_FLAGS.DISABLE) this.#ask(RING_EVENT_FLAGS.DISABLE);
  }

  /** The position, with the wrap counter in bit 15. */
  override enableCbPrepare(): number {
    if (this.features.eventIdx) {
      // The position first: the flag says that it counts.
      this.#askAt(this.#nextUsed, this.#usedWrap);
      this.#ask(RING_EVENT_FLAGS.DESC);
    } else this.#ask(RING_EVENT_FLAGS.ENABLE);
    return this.#nextUsed | (this.#usedWrap ? WRAP : 0);
  }

  override poll(position: number): boolean {
    if (this.isBroken) return false;
    return this.#batchEnd >= 0 || this.#usedAt(position & ~WRAP, (position & WRAP) !== 0);
  }

  override enableCbDelayed(): boolean {
    if (!this.features.eventIdx) return this.enableCb();
    const wait = ((this.#length - this.free) * 3) >>> 2;
    const beyond = this.#nextUsed + wait;
    const wraps = beyond >= this.#length;
    this.#askAt(wraps ? beyond - this.#length : beyond, wraps ? !this.#usedWrap : this.#usedWrap);
    this.#ask(RING_EVENT_FLAGS.DESC);
    return !this.moreUsed();
  }

  override moreUsed(): boolean {
    return this.#batchEnd >= 0 || this.#usedAt(this.#nextUsed, this.#usedWrap);
  }
}
