// # The way out
//
// Control-A is held back until the next key says what it meant: `x` ends the machine, anything else goes to the guest, and a second Control-A is one.

const CONTROL_A = 0x01;

/** Splits typed bytes into what is the guest's and what is ours. */
export class Escape {
  #escaped = false;

  /** The bytes for the guest, and whether to quit, or to save. */
  take(bytes: Uint8Array): { readonly bytes: Uint8Array; readonly quit: boolean; readonly save: boolean } {
    const out: number[] = [];
    let save = false;
    for (const byte of bytes) {
      if (!this.#escaped && byte === CONTROL_A) {
        this.#escaped = true;
        continue;
      }
      if (this.#escaped && (byte === 0x73 || byte === 0x53)) {
        this.#escaped = false;
        save = true;
        continue;
      }
      if (this.#escaped && (byte === 0x78 || byte === 0x58)) return { bytes: Uint8Array.from(out), quit: true, save };
      this.#escaped = false;
      out.push(byte);
    }
    return { bytes: Uint8Array.from(out), quit: false, save };
  }
}
