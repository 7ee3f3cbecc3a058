// Test equipment: not a part of the book.

import { TimerQueue } from '../../../02-kvm-objects/clock.ts';
import { Connection, type Ending } from './connection.ts';
import type { Segment } from './segment.ts';

/** What may happen to a segment on its way: numbers from 0 to 1, and the next of a fixed sequence of random ones. */
export interface Weather {
  readonly lose: number;
  readonly double: number;
  readonly delay: number;
  readonly seed: number;
}

export const FAIR: Weather = { lose: 0, double: 0, delay: 0, seed: 1 };

/** A generator that a seed determines (xorshift). */
export function dice(seed: number): () => number {
  let state = (seed | 0) === 0 ? 1 : seed | 0;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/** Bytes that differ from their neighbours, and from those a ring's length away. */
export function pattern(length: number, salt = 0): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at++) bytes[at] = at * 31 + (at >> 8) * 7 + (at >> 16) + salt;
  return bytes;
}

export class Time {
  now = 0;
  readonly queue = new TimerQueue(() => this.now);
  /** Lets so much pass, or until nothing is left to happen. */
  pass(ns: number, most = 1_000_000): void {
    const until = this.now + ns;
    while (this.queue.next !== null && this.queue.next <= until) {
      if (most-- <= 0) throw new Error('time does not pass');
      this.now = Math.max(this.now, this.queue.next);
      this.queue.runDue();
    }
    this.now = Math.max(this.now, until);
  }
}

/** One end's program: writes all that it has, reads as it likes, and says when each thing happened. */
export class Program {
  readonly got: Uint8Array[] = [];
  readonly events: string[] = [];
  connection: Connection | null = null;
  /** What was received and not yet used, where the program is slow. */
  unused = 0;
  slow = false;
  #rest: Uint8Array = new Uint8Array(0);
  #closing = false;

  get bytes(): Uint8Array {
    const all = new Uint8Array(this.got.reduce((sum, { length }) => sum + length, 0));
    let at = 0;
    for (const piece of this.got) {
      all.set(piece, at);
      at += piece.length;
    }
    return all;
  }
  write(bytes: Uint8Array, thenFinish = false): void {
    this.#rest = bytes;
    this.#closing = thenFinish;
    this.push();
  }
  push(): void {
    const taken = this.connection?.send(this.#rest) ?? 0;
    this.#rest = this.#rest.subarray(taken);
    if (this.#rest.length === 0 && this.#closing) this.connection?.finish();
  }
  read(count: number): void {
    const used = Math.min(count, this.unused);
    this.unused -= used;
    this.connection?.used(used);
  }
  readonly ports = {
    onEstablished: (): void => {
      this.events.push('established');
      this.push();
    },
    onData: (bytes: Uint8Array): void => {
      this.got.push(bytes.slice());
      this.unused += bytes.length;
      if (!this.slow) this.read(bytes.length);
    },
    onEnd: (): void => void this.events.push('end'),
    onRoom: (): void => this.push(),
    onClosed: (how: Ending): void => void this.events.push(how),
  };
}

/** Two programs, each with one end, and the weather between them. */
export function pair({ lose, double, delay, seed }: Weather = FAIR, initials: readonly [number, number] = [0xffff_ff00, 7]) {
  const time = new Time();
  const random = dice(seed);
  const [client, server] = [new Program(), new Program()];
  const log: { readonly from: 'client' | 'server'; readonly segment: Segment }[] = [];
  const state = { lose };
  const deliver = (to: Program, segment: Segment): void => {
    if (to.connection) to.connection.segment(segment);
    else if (to === server && segment.flags === 2) {
      server.connection = Connection.requested(segment, portsOf(server, client, 'server'));
      server.connection.accept();
    }
  };
  const carry = (from: 'client' | 'server', to: () => Program, segment: Segment): void => {
    log.push({ from, segment });
    if (random() < state.lose) return;
    for (let copies = random() < double ? 2 : 1; copies > 0; copies--) {
      const late = random() < delay ? random() * 5e6 : 0;
      const timer = time.queue.timer(() => deliver(to(), { ...segment, data: segment.data.slice() }));
      timer.arm(time.now + 10_000 + late);
    }
  };
  function portsOf(own: Program, other: Program, from: 'client' | 'server') {
    return {
      clock: time.queue,
      localPort: from === 'client' ? 1000 : 80,
      remotePort: from === 'client' ? 80 : 1000,
      initial: initials[from === 'client' ? 0 : 1],
      transmit: (segment: Segment) => carry(from, () => other, segment),
      ...own.ports,
    };
  }
  const connect = (): void => {
    client.connection = Connection.open(portsOf(client, server, 'client'));
  };
  return { time, client, server, log, connect, state, deliver };
}
