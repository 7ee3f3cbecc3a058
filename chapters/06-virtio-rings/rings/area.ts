// # Words in shared memory
//
// An index that another thread polls has to be read and written in one piece, and in order with everything around it. JavaScript promises both for
// one thing only: `Atomics` on an integer array. So an area of a ring is seen as 16-bit and 32-bit words wherever that is possible, which is wherever
// guest RAM is one buffer that begins at an aligned place. Elsewhere (a test's odd array, a big-endian host, an area whose pages lie apart) it is the
// same words, more slowly.

import type { DeviceMemory, DmaAccess } from '../memory.ts';

/**
 * A piece of the driver's memory, as little-endian words at byte offsets that are multiples of their width. `load` and `store` are ordinary accesses.
 * What was stored before a `publish16` is seen by whoever sees what it published; what is loaded after an `acquire16` is at least as new as what it saw.
 * A `publish16` and an `acquire16` after it are not exchanged, at different places either.
 */
export interface Area {
  load16(at: number): number;
  load32(at: number): number;
  store16(at: number, value: number): void;
  store32(at: number, value: number): void;
  acquire16(at: number): number;
  publish16(at: number, value: number): void;
}

/** Where a ring gets its areas from: {@link Areas}, or someone who looks over its shoulder. */
export interface AreaSource {
  /** Null unless all of it is RAM. */
  open(address: number, bytes: number, access: DmaAccess): Area | null;
}

/** The same buffer, as words of two widths. */
interface Words {
  readonly buffer: ArrayBufferLike;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
}

const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

/** An area in one piece at an aligned place of a buffer. */
class WordArea implements Area {
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;
  /** Places of its first byte, in words of each width. */
  readonly #at16: number;
  readonly #at32: number;

  constructor({ u16, u32 }: Words, base: number) {
    this.#u16 = u16;
    this.#u32 = u32;
    this.#at16 = base / 2;
    this.#at32 = base / 4;
  }

  load16(at: number): number {
    return this.#u16[this.#at16 + (at >> 1)] as number;
  }

  load32(at: number): number {
    return this.#u32[this.#at32 + (at >> 2)] as number;
  }

  store16(at: number, value: number): void {
    this.#u16[this.#at16 + (at >> 1)] = value;
  }

  store32(at: number, value: number): void {
    this.#u32[this.#at32 + (at >> 2)] = value;
  }

  acquire16(at: number): number {
    return Atomics.load(this.#u16, this.#at16 + (at >> 1));
  }

  publish16(at: number, value: number): void {
    Atomics.store(this.#u16, this.#at16 + (at >> 1), value);
  }
}

/** One at an even place that is not a multiple of four, as an available ring may be: 16-bit words are whole, others are two. */
class HalfWordArea implements Area {
  readonly #u16: Uint16Array;
  readonly #at16: number;

  constructor({ u16 }: Words, base: number) {
    this.#u16 = u16;
    this.#at16 = base / 2;
  }

  load16(at: number): number {
    return this.#u16[this.#at16 + (at >> 1)] as number;
  }

  load32(at: number): number {
    return this.load16(at) + this.load16(at + 2) * 2 ** 16;
  }

  store16(at: number, value: number): void {
    this.#u16[this.#at16 + (at >> 1)] = value;
  }

  store32(at: number, value: number): void {
    this.store16(at, value);
    this.store16(at + 2, value >>> 16);
  }

  acquire16(at: number): number {
    return Atomics.load(this.#u16, this.#at16 + (at >> 1));
  }

  publish16(at: number, value: number): void {
    Atomics.store(this.#u16, this.#at16 + (at >> 1), value);
  }
}

/** An area at an odd place, or on a host that stores the other way round: correct for one thread, which is all that such places have. */
class ViewArea implements Area {
  readonly #view: DataView;

  constructor({ buffer, byteOffset, byteLength }: Uint8Array) {
    this.#view = new DataView(buffer, byteOffset, byteLength);
  }

  load16(at: number): number {
    return this.#view.getUint16(at, true);
  }

  load32(at: number): number {
    return this.#view.getUint32(at, true);
  }

  store16(at: number, value: number): void {
    this.#view.setUint16(at, value, true);
  }

  store32(at: number, value: number): void {
    this.#view.setUint32(at, value, true);
  }

  acquire16(at: number): number {
    return this.load16(at);
  }

  publish16(at: number, value: number): void {
    this.store16(at, value);
  }
}

/** A piece of an area that is in several. */
interface Piece {
  readonly start: number;
  readonly bytes: Uint8Array;
  readonly area: Area;
}

/**
 * An area whose neighbouring pages are not neighbours here. Pages end where no aligned word has its middle; only an indirect table, which may be
 * anywhere, can have a word with one
 * half in each of two pieces, and that is put together from its bytes.
 */
class PiecedArea implements Area {
  readonly #pieces: readonly Piece[];

  constructor(pieces: readonly Piece[]) {
    this.#pieces = pieces;
  }

  /** The piece with this offset. */
  #at(at: number): Piece {
    let low = 0;
    for (let high = this.#pieces.length; high - low > 1; ) {
      const middle = (low + high) >> 1;
      if ((this.#pieces[middle] as Piece).start <= at) low = middle;
      else high = middle;
    }
    return this.#pieces[low] as Piece;
  }

  load16(at: number): number {
    const { area, start, bytes } = this.#at(at);
    return at - start + 2 <= bytes.length ? area.load16(at - start) : this.#byte(at) | (this.#byte(at + 1) << 8);
  }

  load32(at: number): number {
    const { area, start, bytes } = this.#at(at);
    return at - start + 4 <= bytes.length ? area.load32(at - start) : this.load16(at) + this.load16(at + 2) * 2 ** 16;
  }

  #byte(at: number): number {
    const { start, bytes } = this.#at(at);
    return bytes[at - start] as number;
  }

  store16(at: number, value: number): void {
    const { area, start } = this.#at(at);
    area.store16(at - start, value);
  }

  store32(at: number, value: number): void {
    const { area, start } = this.#at(at);
    area.store32(at - start, value);
  }

  acquire16(at: number): number {
    const { area, start, bytes } = this.#at(at);
    return at - start + 2 <= bytes.length ? area.acquire16(at - start) : this.load16(at);
  }

  publish16(at: number, value: number): void {
    const { area, start } = this.#at(at);
    area.publish16(at - start, value);
  }
}

/** Opens areas of a device's memory, and remembers the words of the buffer that the last one was in: guest RAM is one buffer, and typed arrays are slow to make. */
export class Areas implements AreaSource {
  readonly #memory: DeviceMemory;
  #words: Words | null = null;

  constructor(memory: DeviceMemory) {
    this.#memory = memory;
  }

  open(address: number, bytes: number, access: DmaAccess): Area | null {
    const pieces = this.#memory.map(address, bytes, access);
    const [first] = pieces ?? [];
    if (!pieces || !first) return null;
    if (pieces.length === 1) return this.#area(first, 0);
    let start = 0;
    const parts = pieces.map((piece): Piece => {
      start += piece.length;
      const at = start - piece.length;
      return { area: this.#area(piece, at), bytes: piece, start: at };
    });
    // What is stored to is a ring's area, and aligned; so it is whole words in every piece, or this is no memory to have a ring in.
    return access === 'write' && parts.some(({ start: at }) => (address + at) % 4 !== 0) ? null : new PiecedArea(parts);
  }

  /** `start`: where the piece begins in its area. Words are whole if the place of the area's first byte would be a multiple of their width. */
  #area(piece: Uint8Array, start: number): Area {
    const { buffer, byteOffset } = piece;
    if (!LITTLE_ENDIAN || (byteOffset - start) % 2 !== 0) return new ViewArea(piece);
    if (this.#words?.buffer !== buffer) {
      const { byteLength } = buffer;
      this.#words = {
        buffer,
        u16: new Uint16Array(buffer, 0, Math.floor(byteLength / 2)),
        u32: new Uint32Array(buffer, 0, Math.floor(byteLength / 4)),
      };
    }
    return (byteOffset - start) % 4 === 0 ? new WordArea(this.#words, byteOffset) : new HalfWordArea(this.#words, byteOffset);
  }
}
