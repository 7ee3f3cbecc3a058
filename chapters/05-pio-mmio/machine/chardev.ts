// # The host's end of a stream
//
// A console does not care whether it leads to a terminal, a file or nothing. It has the near end of a *character device*: bytes that it lets out go
// away, bytes that come in are kept, a bounded number of them, until the guest takes them.

/** What waits for the guest here, before its sender waits too. */
export const CHARDEV_INPUT_BYTES = 64 << 10;

export class Chardev {
  /** What the guest has sent. Set by whoever has opened the other end. */
  onOutput: (bytes: Uint8Array) => void = () => {};
  /** Takes what it can of bytes for the guest, and says how many. Set by the device. */
  take: (bytes: Uint8Array) => number = () => 0;
  /** Whether anything can come in at all. */
  readonly hasInput: boolean;
  #waiting: Uint8Array[] = [];
  #bytes = 0;

  constructor({ hasInput = false }: { readonly hasInput?: boolean } = {}) {
    this.hasInput = hasInput;
  }

  /** Bytes that the guest has not taken. */
  get waiting(): number {
    return this.#bytes;
  }

  write(bytes: Uint8Array): void {
    this.onOutput(bytes);
  }

  /** From outside. Whoever sends looks at {@link waiting} first. */
  send(bytes: Uint8Array): void {
    this.#waiting.push(bytes.slice());
    this.#bytes += bytes.length;
    this.ready();
  }

  /** The device has room. */
  ready(): void {
    for (;;) {
      const first = this.#waiting[0];
      if (!first) return;
      const taken = this.take(first);
      this.#bytes -= taken;
      if (taken < first.length) {
        this.#waiting[0] = first.subarray(taken);
        return;
      }
      this.#waiting.shift();
    }
  }
}
