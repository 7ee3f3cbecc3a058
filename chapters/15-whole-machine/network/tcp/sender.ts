// # The sending half
//
// The sender has a row of bytes, and three marks on it: up to where everything is acknowledged, up to where something has been sent, and up to where
// the other end has room. It sends what lies between the second and the third; of the first it keeps {{SEND_BYTES / 1024}} KiB at most. Nearly all of
// what follows is about segments that are lost.
//
// ## When nobody answers
//
// Of what was sent and not acknowledged, the oldest has a timer. When it runs out, everything from there on is sent again, slowly at first, and at
// most {{RETRIES}} times without an answer. The loss of one segment shows sooner, too: the segments behind it arrive, and each makes the other end
// repeat what it still expects. Three such repetitions are taken as proof, and that one segment is sent again.
//
// ## How much at a time
//
// The window says what the *receiver* can hold; nobody says what the path can. So a sender begins with a few segments, sends more with every
// acknowledgement, and takes a loss as the sign that it was too much (RFC 5681). On a wire inside one process this might seem pointless. But the card
// at the other end of the wire has a buffer of a few dozen frames and a driver that empties it when its processor gets to it, and that is a path like
// any other.

import type { Timer } from '../../../02-kvm-objects/clock.ts';
import { MTU } from '../ethernet.ts';
import { Ipv4Header } from '../ipv4.ts';
import { ByteRing } from './byte-ring.ts';
import { RoundTrip } from './round-trip.ts';
import { TcpHeader } from './segment.ts';

/** What a connection keeps for the other end; more is not taken from whoever writes. */
export const SEND_BYTES = 256 << 10;
/** Segments to begin with (RFC 6928). */
const FIRST_SEGMENTS = 10;
const DUPLICATES = 3;
/** Waits without any answer before the other end is taken for dead, each twice as long as the one before. */
export const RETRIES = 9;
/** The most that a segment of ours carries, and that we ask for. */
export const MSS = MTU - Ipv4Header.bytes - TcpHeader.bytes;
/** A sender that does not know better may send this (RFC 9293). */
const DEFAULT_MSS = 536;
/** Nobody needs less; it is how hostile receivers make a sender work. */
const LEAST_MSS = 88;

/** What one transmission carries. */
export interface Transmission {
  readonly position: number;
  readonly data: Uint8Array;
  readonly syn: boolean;
  readonly fin: boolean;
}

interface SenderPorts {
  now(): number;
  /** Of retransmission, or of probing a closed window. */
  readonly timer: Timer;
  transmit(what: Transmission): void;
}

export class Sender {
  readonly #ports: SenderPorts;
  readonly #ring = new ByteRing(SEND_BYTES);
  readonly #time = new RoundTrip();
  /** The oldest position that is not acknowledged. */
  una = 0;
  /** The next to be sent, and the highest that ever was. */
  next = 0;
  max = 0;
  /** Bytes that the other end has room for, from {@link una} on; and the largest that it ever had. */
  window = 1;
  largestWindow = 1;
  #mss = DEFAULT_MSS;
  #congestion = DEFAULT_MSS * FIRST_SEGMENTS;
  #threshold = Infinity;
  #finishing = false;
  #duplicates = 0;
  /** The end of what was under way when a loss was found; until then one loss is one. */
  #recoverTo: number | null = null;
  #retries = 0;
  /** The segment whose time is taken. */
  #timed: { readonly end: number; readonly at: number } | null = null;
  /** Set when the other end is taken for dead. */
  dead = false;

  constructor(ports: SenderPorts) {
    this.#ports = ports;
  }

  /** What the other end has said that it takes in one segment. */
  set mss(offered: number | null) {
    this.#mss = Math.max(LEAST_MSS, Math.min(MSS, offered ?? DEFAULT_MSS));
    this.#congestion = this.#mss * FIRST_SEGMENTS;
  }

  /** The position behind the last byte that was written. */
  get #dataEnd(): number {
    return Math.max(1, this.una) + this.#ring.length;
  }
  /** The position behind everything there will be to send so far, the end of the stream with it. */
  get #end(): number {
    return this.#dataEnd + (this.#finishing && !this.finished ? 1 : 0);
  }
  /** Everything is acknowledged, the end of the stream with it. */
  finished = false;

  get room(): number {
    return this.#finishing ? 0 : this.#ring.room;
  }

  /** Takes bytes for the stream, and says how many. They go out with the next {@link output}. */
  write(bytes: Uint8Array): number {
    return this.#finishing ? 0 : this.#ring.push(bytes);
  }

  /** Nothing more will be written. */
  finish(): void {
    this.#finishing = true;
  }

  // ## What may be sent, is

  output(): void {
    if (this.dead) return;
    if (this.next === 0) this.#send(0, 0, true);
    if (this.una > 0) while (this.#sendNext());
    this.#watch();
  }

  #sendNext(): boolean {
    const from = this.next;
    const dataEnd = this.#dataEnd;
    const limit = this.una + Math.min(this.window, this.#congestion);
    const count = Math.min(this.#mss, dataEnd - from, limit - from);
    const fin = this.#finishing && !this.finished && from + Math.max(0, count) === dataEnd && limit > dataEnd;
    if (count <= 0 && !(fin && from === dataEnd)) return false;
    // A small piece because the window is nearly full: better a whole one a little later.
    if (count < this.#mss && from + count < dataEnd && this.next > this.una && this.window >= this.#mss) return false;
    this.#send(from, Math.max(0, count), false, fin);
    return true;
  }

  #send(position: number, count: number, syn: boolean, fin = false): void {
    const data = this.#ring.peek(position - Math.max(1, this.una), count);
    const end = position + data.length + (syn ? 1 : 0) + (fin ? 1 : 0);
    this.next = Math.max(this.next, end);
    if (position >= this.max && this.#timed === null) this.#timed = { end, at: this.#ports.now() };
    else if (position < this.max) this.#timed = null;
    this.max = Math.max(this.max, end);
    this.#ports.transmit({ position, data, syn, fin });
  }

  // @clause tcp.retransmit
  /** Keeps the timer running while anything waits for the other end: an acknowledgement, or room. */
  #watch(restart = false): void {
    const { timer, now } = this.#ports;
    if (this.una >= this.max && this.una >= this.#end) timer.cancel();
    else if (timer.at === null || restart) timer.arm(now() + this.#time.timeout);
  }

  /** The timer has run out. */
  expired(): void {
    if (++this.#retries > RETRIES) {
      this.dead = true;
      return;
    }
    this.#time.backOff();
    // @clause tcp.zero-window-probe
    if (this.window === 0 && this.una > 0) {
      this.#send(this.una, 1, false, this.#finishing && this.una === this.#dataEnd);
    } else if (this.una < this.max) {
      this.#threshold = Math.max((this.max - this.una) / 2, 2 * this.#mss);
      this.#congestion = this.#mss;
      this.#recoverTo = null;
      this.#duplicates = 0;
      this.#timed = null;
      this.next = this.una;
      this.output();
    } else {
      this.output();
    }
    this.#watch(true);
  }

  // ## Acknowledgements

  /** The other end has everything before `position`, and room for `window` bytes from there. `bare` tells that the segment said nothing else. */
  acknowledged(position: number, window: number, bare: boolean): void {
    const repeated = bare && position === this.una && window > 0 && window === this.window && this.max > this.una;
    const opened = this.window === 0 && window > 0;
    this.window = window;
    this.largestWindow = Math.max(this.largestWindow, window);
    if (position > this.una) this.#advance(position);
    else if (repeated) this.#duplicate();
    else if (position === this.una) this.#retries = 0; // it lives, though it has no room
    if (opened) this.#time.recover();
    this.output();
    if (opened) this.#watch(true);
  }

  #advance(position: number): void {
    const acked = position - this.una;
    const dataEnd = this.#dataEnd;
    this.finished = this.#finishing && position > dataEnd;
    this.#ring.drop(Math.min(position, dataEnd) - Math.max(1, this.una));
    this.una = position;
    this.next = Math.max(this.next, position);
    this.#retries = 0;
    this.#duplicates = 0;
    if (this.#timed && position >= this.#timed.end) {
      this.#time.measured(this.#ports.now() - this.#timed.at);
      this.#timed = null;
    } else this.#time.recover();
    if (this.#recoverTo === null) {
      this.#congestion += this.#congestion < this.#threshold ? Math.min(acked, 2 * this.#mss) : (this.#mss * this.#mss) / this.#congestion;
      this.#congestion = Math.min(this.#congestion, 4 * SEND_BYTES);
    } else if (position >= this.#recoverTo) {
      this.#recoverTo = null;
      this.#congestion = this.#threshold;
    } else {
      this.#again(); // the next one is missing, too (RFC 6582)
      this.#congestion = Math.max(this.#mss, this.#congestion - acked + this.#mss);
    }
    this.#watch(true);
  }

  #duplicate(): void {
    this.#duplicates++;
    if (this.#recoverTo !== null) {
      this.#congestion = Math.min(this.#congestion + this.#mss, 4 * SEND_BYTES);
    } else if (this.#duplicates === DUPLICATES) {
      this.#threshold = Math.max((this.max - this.una) / 2, 2 * this.#mss);
      this.#recoverTo = this.max;
      this.#congestion = this.#threshold + DUPLICATES * this.#mss;
      this.#again();
    }
  }

  /** Sends the oldest segment again. */
  #again(): void {
    if (this.una >= this.max) return;
    if (this.una === 0) {
      this.#send(0, 0, true);
      return;
    }
    const dataEnd = this.#dataEnd;
    const count = Math.max(0, Math.min(this.#mss, dataEnd - this.una));
    this.#send(this.una, count, false, this.una + count === dataEnd && this.max > dataEnd);
  }
}
