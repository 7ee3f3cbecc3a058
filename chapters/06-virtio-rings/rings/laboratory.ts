// # A driver to test rings with
//
// It knows both formats from the specification, keeps no cleverness, and remembers everything it did, so that a test can say what the device must
// have seen. The memory around it comes in kinds that a device may meet.

import type { DeviceMemory, DmaAccess } from '../memory.ts';
import type { RingFeatures, RingPlace, RingPosition } from '../queue.ts';

export const PAGE = 4096;

/** Memory whose pages lie anywhere: neighbours for the driver are nowhere near each other here. */
export class CutMemory implements DeviceMemory {
  readonly bytes: Uint8Array;
  readonly #pages: readonly number[];

  constructor(pages: readonly number[]) {
    this.#pages = pages;
    this.bytes = new Uint8Array(pages.length * PAGE);
  }

  map(address: number, bytes: number, _access: DmaAccess): readonly Uint8Array[] | null {
    if (address < 0 || address + bytes > this.bytes.length) return null;
    const pieces: Uint8Array[] = [];
    for (let at = address; at < address + bytes; ) {
      const count = Math.min(address + bytes - at, PAGE - (at % PAGE));
      const from = (this.#pages[Math.floor(at / PAGE)] as number) * PAGE + (at % PAGE);
      pieces.push(this.bytes.subarray(from, from + count));
      at += count;
    }
    return pieces;
  }

  written(): void {}
}

/** A driver's access to any {@link DeviceMemory}, little-endian. */
export class DriverView {
  readonly #memory: DeviceMemory;

  constructor(memory: DeviceMemory) {
    this.#memory = memory;
  }

  read(address: number, count: number): Uint8Array {
    return Uint8Array.from((this.#memory.map(address, count, 'read') ?? []).flatMap((piece) => [...piece]));
  }

  write(address: number, bytes: ArrayLike<number>): void {
    let at = 0;
    for (const piece of this.#memory.map(address, bytes.length, 'write') ?? [])
      for (let i = 0; i < piece.length; i++) piece[i] = bytes[at++] as number;
  }

  get(address: number, width: 2 | 4): number {
    return this.read(address, width).reduceRight((value, byte) => value * 256 + byte, 0);
  }

  put(address: number, width: 2 | 4 | 8, value: number): void {
    const bytes: number[] = [];
    for (let left = value; bytes.length < width; left = Math.floor(left / 256)) bytes.push(left % 256);
    this.write(address, bytes);
  }
}

/** What a test asks the driver to send: lengths of the buffers, and how many of them are descriptors of the ring; the others are in an indirect table. */
export interface Request {
  readonly readable: readonly number[];
  readonly writable: readonly number[];
  readonly direct: number;
}

/** A chain on its way. */
export interface Sent {
  readonly id: number;
  readonly slots: number;
  readonly descriptors: readonly number[];
  readonly out: Uint8Array;
  readonly writable: readonly (readonly [number, number])[];
}

/** Where the tests put everything. */
export const DATA = 16 * PAGE;
export const DATA_BYTES = 16 * PAGE;
export const MEMORY_BYTES = DATA + DATA_BYTES;

export const testPlace = (size: number): RingPlace => ({ size, desc: 0x10, driver: 0x2ff6 & ~3, device: 0x4ffc });

export class ModelDriver {
  readonly view: DriverView;
  readonly place: RingPlace;
  readonly packed: boolean;
  readonly features: RingFeatures;
  readonly sent: Sent[] = [];
  /** Next to make available and next to look for, as the device counts them. */
  avail: number;
  used: number;
  readonly #free: number[];
  #freeSlots: number;
  #data = DATA;
  #seed = 1;
  /** Packed: the flags of heads that are laid but not shown yet. Split: how many. */
  readonly #hidden: [number, number][] = [];
  #shown: number;

  constructor(memory: DeviceMemory, place: RingPlace, packed: boolean, features: RingFeatures, position?: RingPosition) {
    this.view = new DriverView(memory);
    this.place = place;
    this.packed = packed;
    this.features = features;
    this.#free = Array.from({ length: place.size }, (_, index) => index);
    this.#freeSlots = place.size;
    this.avail = position?.avail ?? (packed ? 0x8000 : 0);
    this.used = position?.used ?? (packed ? 0x8000 : 0);
    this.#shown = this.avail;
    // A ring that goes on has the marks of the lap before on its descriptors.
    if (packed) for (let slot = 0; slot < place.size; slot++) this.view.put(place.desc + slot * 16 + 14, 2, this.#usedFlags(slot));
    else {
      this.view.put(place.driver + 2, 2, this.avail);
      this.view.put(place.device + 2, 2, this.used);
    }
  }

  #usedFlags(slot: number): number {
    const lap = this.avail & 0x8000 ? slot < (this.avail & 0x7fff) : slot >= (this.avail & 0x7fff);
    return lap ? 0x8080 : 0;
  }

  get freeSlots(): number {
    return this.#freeSlots;
  }

  #random(): number {
    this.#seed = (Math.imul(this.#seed, 1103515245) + 12345) & 0x7fffffff;
    return this.#seed >> 16;
  }

  #buffer(bytes: number): number {
    if (this.#data + bytes > DATA + DATA_BYTES) this.#data = DATA + 1; // odd places too; everything in flight is far less than all of it
    const at = this.#data;
    this.#data += bytes;
    return at;
  }

  /** Lays a chain; the device cannot see it before {@link show}. False when there is no room. */
  add({ readable, writable, direct }: Request): boolean {
    const lengths = [...readable, ...writable];
    const slots = direct + (direct < lengths.length ? 1 : 0);
    if (slots > this.#freeSlots) return false;
    const buffers = lengths.map((len, index) => {
      const address = this.#buffer(len);
      const bytes = Uint8Array.from({ length: len }, () => this.#random());
      this.view.write(address, bytes);
      return { address, len, bytes, write: index >= readable.length };
    });
    const inRing: { address: number; len: number; flags: number }[] = buffers
      .slice(0, direct)
      .map(({ address, len, write }) => ({ address, len, flags: write ? 2 : 0 }));
    const inTable = buffers.slice(direct);
    if (inTable.length > 0) {
      const table = this.#buffer(inTable.length * 16);
      // Split: the links go through the table backwards from the second entry on, which is as legal as forwards. Packed: only in order.
      const order = inTable.map((_, index) => (this.packed || this.features.inOrder || index === 0 ? index : inTable.length - index));
      inTable.forEach(({ address, len, write }, index) => {
        const at = table + (order[index] as number) * 16;
        const last = index === inTable.length - 1;
        this.view.put(at, 8, address);
        this.view.put(at + 8, 4, len);
        if (this.packed) this.view.put(at + 14, 2, write ? 2 : 0);
        else {
          this.view.put(at + 12, 2, (write ? 2 : 0) | (last ? 0 : 1));
          this.view.put(at + 14, 2, last ? 0xffff : (order[index + 1] as number));
        }
      });
      inRing.push({ address: table, len: inTable.length * 16, flags: 4 | (this.#seed & 2) }); // WRITE on it means nothing
    }
    // With IN_ORDER descriptors are used in ring order; otherwise the one freed last is the first to go out again.
    const ids = Array.from({ length: this.packed ? 1 : slots }, () => (this.features.inOrder ? this.#free.shift() : this.#free.pop()) as number);
    this.#freeSlots -= slots;
    const id = ids[0] as number;
    if (this.packed) this.#layPacked(inRing, id);
    else this.#laySplit(inRing, ids);
    const out = Uint8Array.from(buffers.filter(({ write }) => !write).flatMap(({ bytes }) => [...bytes]));
    const into = buffers.filter(({ write, len }) => write && len > 0).map(({ address, len }) => [address, len] as const);
    this.sent.push({ id, slots, descriptors: ids, out, writable: into });
    return true;
  }

  #laySplit(inRing: readonly { address: number; len: number; flags: number }[], ids: readonly number[]): void {
    const { desc, driver, size } = this.place;
    inRing.forEach(({ address, len, flags }, index) => {
      const at = desc + (ids[index] as number) * 16;
      const last = index === inRing.length - 1;
      this.view.put(at, 8, address);
      this.view.put(at + 8, 4, len);
      this.view.put(at + 12, 2, flags | (last ? 0 : 1));
      this.view.put(at + 14, 2, last ? 0xffff : (ids[index + 1] as number));
    });
    this.view.put(driver + 4 + 2 * (this.avail % size), 2, ids[0] as number);
    this.avail = (this.avail + 1) & 0xffff;
  }

  #layPacked(inRing: readonly { address: number; len: number; flags: number }[], id: number): void {
    inRing.forEach(({ address, len, flags }, index) => {
      const at = this.place.desc + (this.avail & 0x7fff) * 16;
      const last = index === inRing.length - 1;
      this.view.put(at, 8, address);
      this.view.put(at + 8, 4, len);
      this.view.put(at + 12, 2, last ? id : 0xdead);
      const all = flags | (last ? 0 : 1) | (this.avail & 0x8000 ? 0x80 : 0x8000);
      if (index === 0) this.#hidden.push([at + 14, all]);
      else this.view.put(at + 14, 2, all);
      this.avail = this.step(this.avail, 1);
    });
  }

  step(position: number, count: number): number {
    let next = position;
    for (let left = count; left > 0; left--) next = (next & 0x7fff) + 1 === this.place.size ? (next & 0x8000) ^ 0x8000 : next + 1;
    return next;
  }

  /** Makes everything that is laid available. */
  show(): void {
    for (const [at, flags] of this.#hidden.splice(0)) this.view.put(at, 2, flags);
    if (!this.packed) this.view.put(this.place.driver + 2, 2, this.avail);
    this.#shown = this.avail;
  }

  /** Whether the driver, having moved from `before` to what it has shown, would kick: one step at a time. */
  wouldKick(before: number): boolean {
    const { device, size } = this.place;
    if (!this.packed) {
      if (!this.features.eventIdx) return before !== this.#shown && this.view.get(device, 2) === 0;
      const mark = this.view.get(device + 4 + 8 * size, 2);
      for (let idx = before; idx !== this.#shown; idx = (idx + 1) & 0xffff) if (idx === mark) return true;
      return false;
    }
    const flags = this.view.get(device + 2, 2);
    if (flags !== 2) return before !== this.#shown && flags === 0;
    const mark = this.view.get(device, 2);
    for (let at = before; at !== this.#shown; at = this.step(at, 1)) if (at === mark) return true;
    return false;
  }

  /** Takes back everything that the device has used: chains in the order in which they came back, with the length reported; null for one that was passed over. */
  collect(): { readonly sent: Sent; readonly len: number | null }[] {
    const back: { sent: Sent; len: number | null }[] = [];
    const { desc, device, size } = this.place;
    for (;;) {
      let id: number;
      let len: number;
      if (this.packed) {
        const at = desc + (this.used & 0x7fff) * 16;
        const flags = this.view.get(at + 14, 2);
        if ((flags & 0x8080) !== (this.used & 0x8000 ? 0x8080 : 0)) return back;
        if (this.used === this.avail && this.sent.length === 0) return back;
        id = this.view.get(at + 12, 2);
        len = this.view.get(at + 8, 4);
        if (((flags & 2) !== 0) !== len > 0) throw new Error('WRITE in a used descriptor says whether anything was written');
      } else {
        if (this.view.get(device + 2, 2) === this.used) return back;
        id = this.view.get(device + 4 + 8 * (this.used % size), 4);
        len = this.view.get(device + 8 + 8 * (this.used % size), 4);
      }
      const index = this.sent.findIndex((sent) => sent.id === id);
      if (index < 0) throw new Error(`buffer ${id} is used, but was not sent`);
      const count = this.features.inOrder ? index + 1 : 1;
      for (const [at, sent] of this.sent.splice(this.features.inOrder ? 0 : index, count).entries()) {
        back.push({ sent, len: at === count - 1 ? len : null });
        this.#free.push(...sent.descriptors);
        this.#freeSlots += sent.slots;
        this.used = this.packed ? this.step(this.used, sent.slots) : (this.used + 1) & 0xffff;
      }
    }
  }
}
