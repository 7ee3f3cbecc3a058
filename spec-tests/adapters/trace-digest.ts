// # A trace, digested
//
// A guest of the suite can have two million events, and all that a result says of them is their number, their SHA-256 and how the last ones read. So none is kept:
// each becomes its line when it happens. What is hashed are the lines of a `Recorder` (chapter 1) with its usual limit, and then how many events it would have
// dropped; the live page hashes those.

import { createHash } from 'node:crypto';
import { lineAt, type Trace, type TraceEvent } from '../../chapters/01-hardware-background/trace.ts';
import type { TraceEnd } from '../types.ts';

/** Events that are hashed, as many as a `Recorder` keeps; what comes after them is counted. */
const HASHED = 1_000_000;
/** Characters that go to the hash function at once: asking it costs more than the hashing of a line. */
const PIECE = 1 << 16;
/** How much of a trace goes along with a result. */
const TAIL_LINES = 40;
const TAIL_CHARACTERS = 200;

export class TraceDigest implements Trace {
  now = 0;
  readonly #hash = createHash('sha256');
  #events = 0;
  #waiting = '';
  #tail: string[] = [];
  readonly #limit: number;

  constructor(limit = HASHED) {
    this.#limit = limit;
  }

  emit(event: TraceEvent): void {
    if (this.#events++ >= this.#limit) return;
    const line = lineAt(this.now, event);
    this.#waiting += `${line}\n`;
    if (this.#waiting.length >= PIECE) this.#feed();
    if (this.#tail.push(line) >= TAIL_LINES * 2) this.#tail = this.#tail.slice(-TAIL_LINES);
  }

  #feed(): void {
    this.#hash.update(this.#waiting);
    this.#waiting = '';
  }

  get end(): TraceEnd {
    return { events: this.#events, tail: this.#tail.slice(-TAIL_LINES).map((line) => line.slice(0, TAIL_CHARACTERS)) };
  }

  /** In hexadecimal. Once. */
  finish(): string {
    this.#feed();
    return this.#hash.update(String(Math.max(0, this.#events - this.#limit))).digest('hex');
  }
}
