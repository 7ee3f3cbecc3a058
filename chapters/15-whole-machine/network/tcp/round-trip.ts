// # How long to wait for an answer
//
// Too short, and everything is sent twice; too long, and a lost segment stops the stream. Jacobson's estimate (1988, now RFC 6298) keeps a mean and
// a mean deviation of the times that were measured, and waits for the mean and four deviations. A time that was measured on a segment sent twice is not
// used: nobody can tell which of the two was answered.

const MS = 1e6;
const FIRST_NS = 1000 * MS;
/** RFC 6298 asks for a second; every system in use takes less, as Linux does with this. */
const SHORTEST_NS = 200 * MS;
const LONGEST_NS = 60_000 * MS;

export class RoundTrip {
  #mean: number | null = null;
  #deviation = 0;
  #timeout = FIRST_NS;

  /** How long to wait, in nanoseconds. */
  get timeout(): number {
    return this.#timeout;
  }

  measured(ns: number): void {
    if (this.#mean === null) {
      this.#mean = ns;
      this.#deviation = ns / 2;
    } else {
      this.#deviation = 0.75 * this.#deviation + 0.25 * Math.abs(this.#mean - ns);
      this.#mean = 0.875 * this.#mean + 0.125 * ns;
    }
    this.#settle();
  }

  /** Nobody answered in time: the next wait is twice as long, until an answer comes. */
  backOff(): void {
    this.#timeout = Math.min(LONGEST_NS, this.#timeout * 2);
  }

  /** An answer has come. */
  recover(): void {
    if (this.#mean === null) this.#timeout = FIRST_NS;
    else this.#settle();
  }

  #settle(): void {
    this.#timeout = Math.min(LONGEST_NS, Math.max(SHORTEST_NS, Math.ceil((this.#mean as number) + 4 * this.#deviation)));
  }
}
