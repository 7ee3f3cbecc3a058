// # What has been sent and may be needed again
//
// A sender keeps every byte until it is acknowledged. The buffer is a ring of fixed size, and that size is the promise that a receiver which never
// acknowledges costs so much memory and no more.

export class ByteRing {
  readonly capacity: number;
  #bytes: Uint8Array | null = null; // made when there is something to keep
  #first = 0;
  #length = 0;

  constructor(capacity: number) {
    this.capacity = capacity;
  }

  get length(): number {
    return this.#length;
  }

  get room(): number {
    return this.capacity - this.#length;
  }

  /** Takes as much as there is room for, and says how much that was. */
  push(bytes: Uint8Array): number {
    const taken = Math.min(bytes.length, this.room);
    if (taken === 0) return 0;
    this.#bytes ??= new Uint8Array(this.capacity);
    const at = (this.#first + this.#length) % this.capacity;
    const straight = Math.min(taken, this.capacity - at);
    this.#bytes.set(bytes.subarray(0, straight), at);
    this.#bytes.set(bytes.subarray(straight, taken), 0);
    this.#length += taken;
    return taken;
  }

  /** A copy of `count` bytes, `from` bytes after the first; fewer where it ends. */
  peek(from: number, count: number): Uint8Array {
    const length = Math.max(0, Math.min(count, this.#length - from));
    const copy = new Uint8Array(length);
    if (length === 0 || !this.#bytes) return copy;
    const at = (this.#first + from) % this.capacity;
    const straight = Math.min(length, this.capacity - at);
    copy.set(this.#bytes.subarray(at, at + straight));
    copy.set(this.#bytes.subarray(0, length - straight), straight);
    return copy;
  }

  drop(count: number): void {
    const gone = Math.min(count, this.#length);
    this.#first = (this.#first + gone) % this.capacity;
    this.#length -= gone;
    if (this.#length === 0) this.#first = 0;
  }
}
