// # A queue, seen from the driver
//
// A driver puts buffers in and gets them back, and that is all it wants to know. What lies between is one of two ring formats, up to five negotiated
// features that change what is written where, and a device that may be mad. This file is what both formats have in common: the operations, by the
// names that Linux gives them, and the driver's own notes.
//
// ## Own notes
//
// Everything in a ring is in memory that the device can write. Linux learnt that late: when the host stopped being trusted, with confidential guests,
// a driver that read the `next` field of its own descriptor back from the ring was a hole. So the driver keeps a copy of everything it needs to know:
// which descriptor follows which, how many a buffer took, how many bytes the device may have written, and whether a buffer is in flight at all. From
// the ring it takes only what the device has to say, an id and a length, and holds both against the notes. What does not fit *breaks* the queue:
// nothing more goes in, nothing comes out, until the device is reset.

import { ERRNO, Errno } from '../../02-kvm-objects/errno.ts';
import { MAX_CHAIN_BYTES, virtq_desc } from '../rings/layout.ts';
import { type DmaBuffer, type DriverMemory, slice } from './bus.ts';

/** What was negotiated, as far as it concerns the ring. */
export interface QueueFeatures {
  readonly packed: boolean;
  readonly indirect: boolean;
  readonly eventIdx: boolean;
  readonly inOrder: boolean;
}

/** Where the three areas of a ring are, by the names of the registers. */
export interface QueueAreas {
  readonly size: number;
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
}

/** What the device around a queue does for it. */
export interface QueueHooks {
  /** Tells the device to look. False when it cannot be told. */
  notify(queue: AnyVirtqueue): boolean;
  /** Takes the queue from the device, and returns when the device has let go of it; false when it cannot be taken. */
  stop?(queue: AnyVirtqueue): boolean;
  /** Gives the device the queue, with areas that may be others than before. */
  start?(queue: AnyVirtqueue): boolean;
}

export interface VirtqueueOptions {
  readonly index: number;
  readonly name?: string;
  readonly size: number;
  /** What the device said is the most; `size` when absent. */
  readonly maxSize?: number;
  readonly memory: DriverMemory;
  readonly features: QueueFeatures;
  readonly hooks: QueueHooks;
  /** Alignment of the used ring in the one block of the legacy interface; absent otherwise. */
  readonly legacyAlign?: number;
}

/** A buffer that has come back. `len` is how many bytes the device has written. The same object each time: look before you take the next. */
export interface Got<T> {
  token: T;
  len: number;
}

/** What {@link Virtqueue.addSgs} answers: 0, or a negated errno. */
export type AddResult = 0 | -5 | -16 | -28;

const OK = 0;
const EIO = -ERRNO.EIO as -5;
const EBUSY = -ERRNO.EBUSY as -16;
const ENOSPC = -ERRNO.ENOSPC as -28;

/** In use; set aside while the device is suspended; taken from the device; broken. */
const STATE = { LIVE: 0, SUSPENDED: 1, QUIESCED: 2, BROKEN: 3 } as const;

/** A descriptor in a ring or in an indirect table: 16 bytes in both formats. */
export const DESC_BYTES = virtq_desc.bytes;
export const DESC_WORDS = DESC_BYTES / 4;

const HIGH = 2 ** 32;

/** Writes address and length of a descriptor. */
export function storeDescriptor(words: Uint32Array, at: number, { address, bytes }: DmaBuffer): void {
  words[at] = address; // a store into 32 bits keeps the low ones
  words[at + 1] = address / HIGH;
  words[at + 2] = bytes.length;
}

/** A queue of which it does not matter what its tokens are. */
// biome-ignore lint/suspicious/noExplicitAny: a queue of tokens of any type
export type AnyVirtqueue = Virtqueue<any>;

/** The driver's end of a queue. `T` is what the driver wants back with a buffer: its own name for the request. */
export abstract class Virtqueue<T> {
  readonly index: number;
  readonly name: string;
  readonly maxSize: number;
  readonly features: QueueFeatures;
  /** Called when the device has used buffers and callbacks are enabled. */
  callback: ((queue: Virtqueue<T>) => void) | null = null;
  #size: number;
  #state: number = STATE.LIVE;
  #why: string | null = null;
  #called = false;
  #detached = 0; // ids below it have been looked at
  readonly #hooks: QueueHooks;
  readonly #memory: DriverMemory;
  readonly #legacyAlign: number;
  #ring: DmaBuffer | null = null;
  #tables: (DmaBuffer | null)[] = [];
  #tableWords: (Uint32Array | null)[] = [];

  // The notes, by the id that a buffer has in flight.
  protected tokens: (T | undefined)[] = [];
  /** Descriptors of the ring that the buffer has taken; 0: no such buffer is in flight. */
  protected taken = new Uint16Array(0);
  /** Bytes that the device may write. */
  protected writable = new Float64Array(0);
  /** Buffers in flight. */
  protected inFlight = 0;
  protected free = 0;
  /** Descriptors (packed) or buffers (split) since the device was last told. */
  protected added = 0;
  readonly #got: { token: T; len: number } = { token: undefined as T, len: 0 };

  constructor({ index, name, size, maxSize = size, memory, features, hooks, legacyAlign = 0 }: VirtqueueOptions) {
    this.index = index;
    this.name = name ?? `virtqueue ${index}`;
    this.maxSize = maxSize;
    this.features = features;
    this.#size = size;
    this.#hooks = hooks;
    this.#memory = memory;
    this.#legacyAlign = legacyAlign;
  }

  /** Descriptors in the ring. */
  get size(): number {
    return this.#size;
  }
  /** Descriptors that are free. */
  get numFree(): number {
    return this.free;
  }
  /** Buffers that the device has. */
  get outstanding(): number {
    return this.inFlight;
  }

  // ## In
  //
  // The device reads what is there to be read and then writes what is there to be written, so a buffer is a list of pieces: first those it may only
  // read, then those it
  // may write. Two numbers and one array say that, and leave no way to put a readable piece after a writable one.

  /**
   * Exposes a buffer of `outSgs` pieces that the device reads and `inSgs` that it writes, in that order in `sgs`. 0; -ENOSPC: no room at the moment; -EIO: broken;
   * -EBUSY: suspended. The device need not look before {@link kick}, but may.
   * @throws Errno EINVAL for a buffer that no ring could hold
   */
  addSgs(sgs: readonly DmaBuffer[], outSgs: number, inSgs: number, token: T): AddResult {
    // @clause virtio.suspend.dri.suspended-no-further-buffers-made
    if (this.#state !== STATE.LIVE) return this.#state === STATE.SUSPENDED ? EBUSY : EIO;
    const total = outSgs + inSgs;
    // @clause virtio.framing.dri.descriptor-count-per-buffer-kept
    // @clause virtio.split-indirect.dri.chain-length-bounded-queue-size
    // @clause virtio.packed.dri.list-length-within-queue-size
    // @clause virtio.packed.dri.list-length-within-device-specified
    // @clause virtio.packed-indirect.dri.packed-indirect-chain-length-within
    if (!(outSgs >= 0 && inSgs >= 0 && total > 0 && total <= this.#size && total <= sgs.length))
      throw misuse(`${outSgs} + ${inSgs} of ${sgs.length} pieces`);
    let bytes = 0;
    let writable = 0;
    for (let index = 0; index < total; index++) {
      const { length } = (sgs[index] as DmaBuffer).bytes;
      if (length === 0) throw misuse('an empty piece');
      bytes += length;
      if (index >= outSgs) writable += length;
    }
    // @clause virtio.split.dri.chain-total-most-2-32
    if (bytes > MAX_CHAIN_BYTES) throw misuse(`${bytes} bytes in one buffer`);
    // @clause virtio.split-indirect.dri.indirect-flag-only-negotiated-virtio
    // @clause virtio.packed-indirect.dri.packed-indirect-flag-only-negotiated
    const indirect = this.features.indirect && total > 1;
    // @clause virtio.packed.dri.ring-space-complete-list-reserved
    if ((indirect ? 1 : total) > this.free) return ENOSPC;
    const id = this.expose(sgs, outSgs, total, indirect);
    this.tokens[id] = token;
    this.writable[id] = writable;
    this.inFlight++;
    return OK;
  }

  /** A buffer that the device only reads. */
  addOutbuf(sgs: readonly DmaBuffer[], token: T): AddResult {
    return this.addSgs(sgs, sgs.length, 0, token);
  }

  /** A buffer that the device only writes. */
  addInbuf(sgs: readonly DmaBuffer[], token: T): AddResult {
    return this.addSgs(sgs, 0, sgs.length, token);
  }

  /** Writes the descriptors and makes them available; returns the buffer's id. There is room. Sets `taken`. */
  protected abstract expose(sgs: readonly DmaBuffer[], outSgs: number, total: number, indirect: boolean): number;

  // An indirect table is memory of its own, of which the ring holds only the address. It could be allocated for each buffer; here each id has one,
  // made when it is first needed
  // and replaced by a larger one when it does not suffice.

  /** The indirect table of an id, as words, with room for `entries`; its address is in {@link tableAddress}. */
  protected table(id: number, entries: number): Uint32Array {
    const words = this.#tableWords[id];
    if (words && words.length >= entries * DESC_WORDS) return words;
    const old = this.#tables[id];
    if (old) this.#memory.free(old);
    this.#tables[id] = null;
    const room = Math.min(this.#size, 2 ** Math.ceil(Math.log2(entries)));
    const table = this.#memory.allocate(Math.max(room, entries) * DESC_BYTES, DESC_BYTES);
    this.#tables[id] = table;
    const made = new Uint32Array(table.bytes.buffer, table.bytes.byteOffset, table.bytes.length / 4);
    this.#tableWords[id] = made;
    return made;
  }

  protected tableAddress(id: number): number {
    return (this.#tables[id] as DmaBuffer).address;
  }

  // ## Kick

  /** Whether the device wants to be told of what was added since it was last told. Afterwards it counts as told. */
  abstract kickPrepare(): boolean;

  /** Tells the device to look. False when it cannot be told; the queue is broken then. */
  notify(): boolean {
    // @clause virtio.suspend.dri.suspended-no-virtqueue-kicks
    if (this.#state !== STATE.LIVE) return false;
    if (this.#hooks.notify(this)) return true;
    this.break('the device cannot be notified');
    return false;
  }

  /** Tells the device, if it wants to be told. */
  kick(): boolean {
    return this.kickPrepare() ? this.notify() : !this.isBroken;
  }

  /** What a notification carries beside the queue's index, when NOTIFICATION_DATA was negotiated: 16 bits that say where the driver is. */
  abstract get notificationData(): number;

  // ## Out

  /** The next buffer that the device has used; null when there is none. */
  getBuf(): Got<T> | null {
    if (this.#state === STATE.BROKEN) return null;
    const id = this.take();
    if (id < 0) return null;
    const got = this.#got;
    got.token = this.tokens[id] as T;
    this.tokens[id] = undefined;
    // Before the standard devices put all sorts of things into `len`. There a length is only cut to what is possible; otherwise it breaks the queue.
    const most = this.writable[id] as number;
    if (this.usedLen > most && this.#legacyAlign === 0) {
      this.break(`buffer ${id}: the device says it wrote ${this.usedLen} of ${most} bytes`);
      this.tokens[id] = got.token;
      return null;
    }
    // @clause virtio.split.dri.content-past-reported-len-unspecified
    // @clause virtio.split.dri.data-past-reported-len-discarded
    got.len = Math.min(this.usedLen, most);
    this.release(id);
    this.inFlight--;
    return got;
  }

  /** Length of what {@link take} has found. */
  protected usedLen = 0;
  /** Id of the next used buffer, checked against the notes, with its length in `usedLen`; -1 when there is none, or the device has broken the queue. */
  protected abstract take(): number;
  /** The descriptors of this buffer are free again. */
  protected abstract release(id: number): void;

  /** A buffer that the device has not used, for whoever takes the queue apart; null when there are none left. @throws Errno EBUSY while the device has the queue */
  detachUnusedBuf(): T | null {
    // @clause virtio.init.dri.entries-exposed-buffers-stay-unmodified
    // @clause virtio.init.dri.queue-quiesced-via-device-reset
    // @clause virtio.split.dri.avail-idx-only-moves-forward
    if (this.#state !== STATE.QUIESCED) throw new Errno('detachUnusedBuf', ERRNO.EBUSY, `the device still has ${this.name}`);
    for (; this.#detached < this.#size; this.#detached++) {
      const id = this.#detached;
      if (this.taken[id] === 0) continue;
      const token = this.tokens[id] as T;
      this.tokens[id] = undefined;
      this.taken[id] = 0;
      this.inFlight--;
      return token;
    }
    return null;
  }

  // ## Callbacks

  /** A hint to the device that no notification is needed. Some may still come. */
  abstract disableCb(): void;
  /** Asks for notifications again; the answer is a position for {@link poll}. */
  abstract enableCbPrepare(): number;
  /** Whether the device has used something since that position. */
  abstract poll(position: number): boolean;
  /** Asks for a notification when most of what is in flight has been used. False when that is so already. */
  abstract enableCbDelayed(): boolean;

  /** Asks for notifications again. False when something has come back meanwhile, so that there may be none for it. */
  enableCb(): boolean {
    return !this.poll(this.enableCbPrepare());
  }

  /** A used buffer notification has arrived. Whether it was meant for this queue. */
  interrupt(): boolean {
    // An interrupt that nothing belongs to is no error: lines are shared, and hints are hints.
    // @clause virtio.split-notify.dri.unneeded-device-notifications-tolerated
    if (this.isBroken || !this.moreUsed()) return false;
    if (this.#called) return true; // whoever is being called looks again before it is done
    this.#called = true;
    try {
      this.callback?.(this);
    } finally {
      this.#called = false;
    }
    return true;
  }

  // What a callback usually does: no notifications while there is something to do, everything that has come back, and then the question whether more
  // came meanwhile. A device that
  // answers faster than the driver asks could keep it here for ever, so a round has an end. What is left is there the next time somebody looks.

  /** Takes what has come back and gives it to `use`; at most two rings full. */
  reap(use: (token: T, len: number) => void): void {
    let left = 2 * this.#size;
    do {
      this.disableCb();
      for (let got = this.getBuf(); got; got = --left > 0 ? this.getBuf() : null) use(got.token, got.len);
    } while (!this.enableCb() && left > 0);
  }

  /** Whether {@link getBuf} would find something to look at. */
  abstract moreUsed(): boolean;

  // ## Broken, suspended, reset

  get isBroken(): boolean {
    return this.#state === STATE.BROKEN;
  }
  /** Why it is broken; null when it is not. */
  get brokenBecause(): string | null {
    return this.#why;
  }

  /** Nothing more goes in or comes out. */
  break(why: string): void {
    this.#state = STATE.BROKEN;
    this.#why ??= why;
  }

  /** No buffers go in for a while. */
  suspend(on: boolean): void {
    if (this.#state === (on ? STATE.LIVE : STATE.SUSPENDED)) this.#state = on ? STATE.SUSPENDED : STATE.LIVE;
  }

  /** The device has let go of the queue: it was reset, or this queue was. */
  quiesce(): void {
    this.#state = STATE.QUIESCED;
    this.#detached = 0;
  }

  /**
   * Takes the queue from the device, gives back what was in flight, and starts it anew with `size` descriptors. Needs RING_RESET.
   * @throws Errno EOPNOTSUPP, EINVAL for a size, EIO when the device does not let go, ENOMEM
   */
  resize(size: number, recycle: (token: T) => void): void {
    const { stop, start } = this.#hooks;
    if (!stop || !start) throw new Errno('resize', ERRNO.EOPNOTSUPP, this.name);
    if (!this.validSize(size) || size > this.maxSize) throw new Errno('resize', ERRNO.EINVAL, `${size} descriptors of at most ${this.maxSize}`);
    if (this.#state !== STATE.LIVE && this.#state !== STATE.BROKEN) throw new Errno('resize', ERRNO.EBUSY, this.name);
    if (!stop(this)) {
      this.break('the device does not let go of the queue');
      throw new Errno('resize', ERRNO.EIO, this.name);
    }
    this.quiesce();
    for (let token = this.detachUnusedBuf(); token !== null; token = this.detachUnusedBuf()) recycle(token);
    // @clause virtio.queue-reset.dri.re-enable-repeats-full-queue
    // @clause virtio.queue-reset.dri.queue-resources-can-freed-after
    this.#discard();
    this.#size = size;
    this.build();
    if (!start(this)) {
      this.break('the device does not take the queue again');
      throw new Errno('resize', ERRNO.EIO, this.name);
    }
  }

  /** Gives the memory back. The device must have let go of it. @throws Errno EBUSY when it has not */
  destroy(): void {
    if (this.#state !== STATE.QUIESCED) throw new Errno('destroy', ERRNO.EBUSY, this.name);
    this.#discard();
  }

  #discard(): void {
    for (const table of this.#tables) if (table) this.#memory.free(table);
    if (this.#ring) this.#memory.free(this.#ring);
    this.#tables = [];
    this.#tableWords = [];
    this.#ring = null;
  }

  // ## The memory of the ring

  /** Whether the format knows rings of this size. */
  abstract validSize(size: number): boolean;
  /** Where the areas are, for the registers. */
  abstract get areas(): QueueAreas;
  /** Makes the memory of the ring, and everything that begins anew with it. */
  protected abstract build(): void;

  /** Zeroed memory for a ring, and notes in which nothing is in flight. */
  protected begin(bytes: number, align: number): DmaBuffer {
    const size = this.#size;
    const ring = this.#memory.allocate(bytes, align);
    this.#ring = ring;
    this.#tables = new Array<DmaBuffer | null>(size).fill(null);
    this.#tableWords = new Array<Uint32Array | null>(size).fill(null);
    this.tokens = new Array<T | undefined>(size).fill(undefined);
    this.taken = new Uint16Array(size);
    this.writable = new Float64Array(size);
    this.inFlight = 0;
    this.free = size;
    this.added = 0;
    this.#state = STATE.LIVE;
    this.#why = null;
    return slice(ring, 0, bytes);
  }

  /** The legacy interface's alignment of the used ring; 0 otherwise. */
  protected get legacyAlign(): number {
    return this.#legacyAlign;
  }
}

const misuse = (what: string): Errno => new Errno('addSgs', ERRNO.EINVAL, what);
