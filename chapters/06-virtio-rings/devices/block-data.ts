// # Data in pieces
//
// A driver cuts a request into buffers where its memory is cut, not where sectors or headers end. `Pieces` is a place in such a list: what is next is read from it,
// written to it, or handed to the disk directly, and only a sector that lies across a cut is copied.

import { type BlockBackend, SECTOR_BYTES } from '../../05-pio-mmio/block/block.ts';

// A request may be large, and the machine has other things to do. Whatever takes long is written as a series of *steps*.

/** Work in steps: each yields about how many bytes it moved. The end is whether all went well. */
export type Steps<T = boolean> = Generator<number, T, void>;

/** The most that one step moves. */
export const STEP_BYTES = 1 << 18;

/** A moving place in a list of byte ranges, `bytes` of which count. */
export class Pieces {
  readonly #pieces: readonly Uint8Array[];
  #piece = 0;
  #at = 0;
  /** Bytes ahead. */
  left: number;

  constructor(pieces: readonly Uint8Array[], bytes: number) {
    this.#pieces = pieces;
    this.left = bytes;
  }

  /** The next bytes as they lie there, at most `most` of them; then they are behind. Empty at the end only. */
  next(most: number): Uint8Array {
    const want = Math.min(most, this.left);
    while (want > 0) {
      const piece = this.#pieces[this.#piece] as Uint8Array;
      const there = Math.min(want, piece.length - this.#at);
      if (there > 0) {
        const part = piece.subarray(this.#at, this.#at + there);
        this.#at += there;
        this.left -= there;
        return part;
      }
      this.#piece++;
      this.#at = 0;
    }
    return new Uint8Array(0);
  }

  /** How many bytes can be taken in one piece. */
  get together(): number {
    while (this.left > 0 && this.#at === (this.#pieces[this.#piece] as Uint8Array).length) {
      this.#piece++;
      this.#at = 0;
    }
    return this.left === 0 ? 0 : Math.min(this.left, (this.#pieces[this.#piece] as Uint8Array).length - this.#at);
  }

  /** Copies the next `into.length` bytes out; there must be so many. */
  read(into: Uint8Array): void {
    for (let done = 0; done < into.length; ) {
      const part = this.next(into.length - done);
      into.set(part, done);
      done += part.length;
    }
  }

  /** Stores as much of `from` as there is room for. */
  write(from: Uint8Array): void {
    for (let done = 0; done < from.length && this.left > 0; ) {
      const part = this.next(from.length - done);
      part.set(from.subarray(done, done + part.length));
      done += part.length;
    }
  }

  /** Fills the next `count` bytes, or as many as are left. */
  *fill(byte: number, count = this.left): Steps {
    for (let todo = Math.min(count, this.left); todo > 0; ) {
      const part = this.next(Math.min(todo, STEP_BYTES));
      part.fill(byte);
      todo -= part.length;
      yield part.length;
    }
    return true;
  }
}

/** Moves `bytes`, whole sectors, between the disk and memory. False at the first error of the medium. */
export function* transfer(disk: BlockBackend, direction: 'read' | 'write', sector: number, data: Pieces, bytes: number): Steps {
  const whole = (count: number): number => count - (count % SECTOR_BYTES);
  for (let done = 0; done < bytes; ) {
    const at = sector + done / SECTOR_BYTES;
    const direct = whole(Math.min(data.together, bytes - done, STEP_BYTES));
    const part = direct > 0 ? data.next(direct) : new Uint8Array(SECTOR_BYTES);
    if (direct === 0 && direction === 'write') data.read(part);
    if (!(direction === 'read' ? disk.read(at, part) : disk.write(at, part))) return false;
    if (direct === 0 && direction === 'read') data.write(part);
    done += part.length;
    yield part.length;
  }
  return true;
}
