// # The receiving half
//
// Segments come late, twice, cut differently the second time, and in any order. What leaves here is the stream. Bytes that are next go on at once; bytes
// that are further on wait, within the window, for those before them.
//
// ## The window is a promise
//
// With every acknowledgement goes the number of bytes for which there is room. The other end may send all of them, so room that was promised must not be taken
// back, and the right edge of the window only ever moves to the right. What has been handed on and not been used counts as taken. In this way a
// program that does not read, at the far end of everything, stops a sender at the other. The room is {{RECEIVE_BYTES / 1024}} KiB.

import { positionOf } from './segment.ts';

/** What a connection holds for a reader that is slow. */
export const RECEIVE_BYTES = 256 << 10;
/** Of the window field: with it 16 bits are enough for {@link RECEIVE_BYTES}. */
export const RECEIVE_SCALE = 3;
/** Pieces that wait out of order. More would be somebody's attempt to make us search. */
const PIECES = 256;

interface Piece {
  readonly at: number;
  readonly data: Uint8Array;
}

export class Receiver {
  /** The other end's first sequence number. */
  readonly start: number;
  /** The position that is expected next; 1 after the SYN. */
  next = 1;
  /** Set when the end of the stream has come, and everything before it. */
  finished = false;
  readonly #capacity: number;
  readonly #scale: number;
  /** The position up to which room has been promised. */
  #edge = 1;
  /** Bytes that were handed on and have not been used. */
  #held = 0;
  #pieces: Piece[] = [];
  #finAt: number | null = null;

  constructor(start: number, scaled: boolean) {
    this.start = start;
    this.#scale = scaled ? RECEIVE_SCALE : 0;
    this.#capacity = scaled ? RECEIVE_BYTES : Math.min(RECEIVE_BYTES, 0xffff);
  }

  /** Whether anything waits for what is missing before it. */
  get hasGap(): boolean {
    return this.#pieces.length > 0 || (this.#finAt !== null && !this.finished);
  }

  /** What has been promised and not been used, in bytes. */
  get window(): number {
    return this.#edge - this.next;
  }

  /** By how much a promise made now would move the edge. */
  get growth(): number {
    return this.next + this.#capacity - this.#held - this.#edge;
  }

  position(sequence: number): number {
    return positionOf(sequence, this.start, this.next);
  }

  // A scaled field counts in units, and is rounded down. The edge that it tells may then lie a few bytes before one that was told earlier; those bytes are
  // taken all the same (RFC 7323). Rounded up, the edge would creep a little with every segment, past what there is room for.
  // @clause tcp.window-not-shrunk
  /** Makes a promise: the value for the window field. A SYN's is never scaled. */
  promise(isSyn = false): number {
    const scale = isSyn ? 0 : this.#scale;
    const value = Math.min(0xffff, (this.#capacity - this.#held) >> scale);
    this.#edge = Math.max(this.#edge, this.next + value * 2 ** scale);
    return value;
  }

  /** The reader has used so much. */
  used(count: number): void {
    this.#held = Math.max(0, this.#held - count);
  }

  /**
   * Takes a segment's bytes, which begin at `at`. Returns what is next in the stream, in order, perhaps several pieces.
   * What lies outside the promised window is not taken.
   */
  accept(at: number, data: Uint8Array, fin: boolean): Uint8Array[] {
    if (this.finished) return [];
    const from = Math.max(at, this.next);
    const to = Math.min(at + data.length, this.#edge, this.#finAt ?? Infinity);
    if (fin && at + data.length <= this.#edge && at + data.length >= this.next && this.#finAt === null) this.#finAt = at + data.length;
    if (to > from) this.#insert({ at: from, data: data.subarray(from - at, to - at) });
    const ready: Uint8Array[] = [];
    while (this.#pieces[0] && this.#pieces[0].at <= this.next) {
      const { at: begin, data: bytes } = this.#pieces.shift() as Piece;
      if (begin + bytes.length <= this.next) continue;
      const fresh = bytes.subarray(this.next - begin);
      ready.push(fresh);
      this.next += fresh.length;
      this.#held += fresh.length;
    }
    if (this.#finAt !== null && this.next >= this.#finAt) {
      this.finished = true;
      this.next++;
      this.#edge = Math.max(this.#edge, this.next);
      this.#pieces = [];
    }
    return ready;
  }

  // What waits is copied: a piece of one byte must not keep the whole frame that it came in.
  /** Keeps the list sorted and without overlap, so that its bytes are never more than the window. */
  #insert(piece: Piece): void {
    if (piece.at <= this.next) {
      this.#pieces.unshift(piece); // and is taken out at once
      return;
    }
    const fresh: Piece[] = [];
    let { at } = piece;
    const end = piece.at + piece.data.length;
    for (const other of this.#pieces) {
      if (at >= end) break;
      if (other.at > at) fresh.push({ at, data: piece.data.slice(at - piece.at, Math.min(end, other.at) - piece.at) });
      at = Math.max(at, other.at + other.data.length);
    }
    if (at < end) fresh.push({ at, data: piece.data.slice(at - piece.at) });
    if (this.#pieces.length + fresh.length > PIECES) return;
    this.#pieces = [...this.#pieces, ...fresh].sort((a, b) => a.at - b.at);
  }
}
