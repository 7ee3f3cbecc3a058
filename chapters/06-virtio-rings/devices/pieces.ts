// # Bytes in pieces
//
// A driver may cut a buffer wherever it likes: a header of eight bytes can arrive as eight descriptors, or share one with all that follows. Before
// the standard, devices relied on a certain cut ("the header is the first descriptor"), and every driver had to know it. Since then the rule is that
// a chain is two runs of bytes, one to read and one to write, and where the pieces meet means nothing. Models that keep to these functions cannot get
// it wrong.

/** Reads a run of bytes that comes in pieces, from front to back. */
export class PieceReader {
  readonly #pieces: readonly Uint8Array[];
  #piece = 0;
  #at = 0;

  constructor(pieces: readonly Uint8Array[]) {
    this.#pieces = pieces;
  }

  /** The next `bytes` bytes, copied; fewer at the end. */
  take(bytes: number): Uint8Array {
    const first = this.peek(bytes);
    if (first.length === bytes) return this.#taken(first);
    const out = new Uint8Array(bytes);
    let done = 0;
    while (done < bytes) {
      const part = this.peek(bytes - done);
      if (part.length === 0) break;
      out.set(part, done);
      done += part.length;
      this.skip(part.length);
    }
    return done === bytes ? out : out.subarray(0, done);
  }

  /** Up to `bytes` bytes as they lie in memory: as much as is in one piece. Empty only at the end. */
  peek(bytes: number): Uint8Array {
    while (this.#piece < this.#pieces.length && this.#at >= (this.#pieces[this.#piece] as Uint8Array).length) {
      this.#piece++;
      this.#at = 0;
    }
    const piece = this.#pieces[this.#piece];
    return piece ? piece.subarray(this.#at, this.#at + bytes) : new Uint8Array(0);
  }

  /** Goes on within the current piece. */
  skip(bytes: number): void {
    this.#at += bytes;
  }

  #taken(part: Uint8Array): Uint8Array {
    this.skip(part.length);
    return part.slice();
  }
}

/** Copies `bytes` into pieces, from the front, as far as there is room. Returns how many. */
export function scatter(pieces: readonly Uint8Array[], bytes: Uint8Array): number {
  let done = 0;
  for (const piece of pieces) {
    if (done === bytes.length) break;
    const part = bytes.subarray(done, done + piece.length);
    piece.set(part);
    done += part.length;
  }
  return done;
}
