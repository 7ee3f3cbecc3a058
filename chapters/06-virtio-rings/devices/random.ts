// # Where random bytes come from
//
// A machine that is to repeat exactly cannot have real randomness in it. The entropy device therefore asks a `RandomSource`, and by default it is a
// generator with a seed: the same guest then draws the same bytes in every run. Nobody should make a key from them. A machine that does real work is
// given the host's generator, and with it gives up repeating.

/** Makes random bytes. */
export interface RandomSource {
  /** Fills `into` from its start, as far as it can now. Returns how many bytes that were; 0 when it has to wait for more. `into` may be shared memory. */
  read(into: Uint8Array): number;
  /** The source calls `ready` when it has bytes again after it had fewer than were asked for. One that never runs dry lacks this. */
  onReady?(ready: () => void): void;
  /** All that the next bytes depend on. A source that nobody can repeat lacks this. */
  readonly words?: Uint32Array;
}

// The generator is Blackman and Vigna's xoshiro128+: a few shifts and exclusive-ors on four words, and their sum. The seed is spread over the state
// by another mixer, because a state of mostly zeros takes long to recover.

/** Bytes that look random and are the same in every run. */
export function seededSource(seed: number): RandomSource {
  const words = new Uint32Array(6); // the generator's four, the word that is being given out, and how many bytes of it are left
  const state = words.subarray(0, 4);
  for (let index = 0, mixed = seed >>> 0; index < state.length; index++) {
    mixed = (mixed + 0x9e37_79b9) >>> 0;
    let word = Math.imul(mixed ^ (mixed >>> 16), 0x85eb_ca6b);
    word = Math.imul(word ^ (word >>> 13), 0xc2b2_ae35);
    state[index] = word ^ (word >>> 16);
  }
  state[0] = (state[0] as number) | 1; // not all zero
  const next = (): number => {
    let [a, b, c, d] = state as unknown as [number, number, number, number];
    const sum = (a + d) >>> 0;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = (d << 11) | (d >>> 21);
    state.set([a, b, c, d]);
    return sum;
  };
  return {
    words,
    read(into) {
      // Byte by byte, so that what comes out does not depend on how it was asked for.
      let [word, left] = words.subarray(4) as unknown as [number, number];
      for (let at = 0; at < into.length; at++) {
        if (left === 0) [word, left] = [next(), 4];
        into[at] = word & 0xff;
        word >>>= 8;
        left--;
      }
      words.set([word, left], 4);
      return into.length;
    },
  };
}

/** What one call of the Web Crypto interface gives at most, by its specification. */
const WEB_CRYPTO_BYTES = 65_536;

/** The host's own generator: Web Crypto, which browsers and Node have alike. */
export const hostSource: RandomSource = {
  read(into) {
    const chunk = new Uint8Array(Math.min(into.length, WEB_CRYPTO_BYTES)); // its own memory: the interface refuses shared memory
    for (let done = 0; done < into.length; done += chunk.length) {
      crypto.getRandomValues(chunk);
      into.set(chunk.subarray(0, Math.min(chunk.length, into.length - done)), done);
    }
    return into.length;
  },
};
