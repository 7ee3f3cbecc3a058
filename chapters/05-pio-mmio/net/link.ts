// # What a network card is plugged into
//
// A card has one cable, and everything that matters of a cable is two words: *send* a frame, and *be told* of one. Behind them may be another
// machine, a program in the same process, or the host's network; the card cannot know.
//
// Frames here are what Ethernet puts between the preamble and the check sequence: addresses, type, payload. Links do not flip bits, so nobody carries
// the check sequence around; a card that has to show one to its driver computes it.

import type { Clock } from '../../02-kvm-objects/clock.ts';
import { describe, kind, type SavedPart, savedPart, timer } from '../../03-vcpu-loop/devices/state.ts';

export interface Link {
  /** Hands over a frame. The bytes are the caller's again when this returns. */
  send(frame: Uint8Array): void;
  /** Whoever is plugged in is told of each frame that comes the other way. */
  onFrame: ((frame: Uint8Array) => void) | null;
  /** What is on its way in a cable that is part of the machine, for whoever saves it. */
  savedParts?(name: string): SavedPart[];
}

/** The largest frame that any link carries. */
const LINK_FRAME_LIMIT = 16384;
/** Shorter frames are padded to this; Ethernet needs the time to notice collisions. */
export const SHORTEST_FRAME = 60;

interface WireOptions {
  /** From one end to the other. */
  readonly latencyNs?: number;
  /** Frames that may be on their way in one direction; more are lost, as in a switch. */
  readonly queueFrames?: number;
}

interface Underway {
  readonly at: number;
  readonly frame: Uint8Array;
}
const UNDERWAY = kind.list(kind.record<Underway>({ at: kind.safe, frame: kind.bytes(LINK_FRAME_LIMIT) }), 4096);

/** One end of a {@link memoryWire}. */
class WireEnd implements Link {
  onFrame: ((frame: Uint8Array) => void) | null = null;
  /** Frames that were lost because too many were on their way. */
  dropped = 0;
  readonly #clock: Clock;
  readonly #latencyNs: number;
  readonly #queueFrames: number;
  readonly #underway: { readonly at: number; readonly frame: Uint8Array }[] = [];
  readonly #timer: ReturnType<Clock['timer']>;
  /** @internal */
  far: WireEnd | null = null;

  constructor(clock: Clock, { latencyNs = 10_000, queueFrames = 256 }: WireOptions) {
    this.#clock = clock;
    this.#latencyNs = latencyNs;
    this.#queueFrames = queueFrames;
    this.#timer = clock.timer(() => this.#arrive());
  }

  send(frame: Uint8Array): void {
    if (this.#underway.length >= this.#queueFrames || frame.length > LINK_FRAME_LIMIT) {
      this.dropped++;
      return;
    }
    this.#underway.push({ at: this.#clock.now() + this.#latencyNs, frame: frame.slice() });
    if (this.#timer.at === null) this.#timer.arm(this.#clock.now() + this.#latencyNs);
  }

  // Whoever receives may send at once. That is put behind what is underway, never delivered from within: two ends that answer each other
  // would otherwise call each other without end.
  #arrive(): void {
    const now = this.#clock.now();
    for (let count = this.#underway.length; count > 0 && (this.#underway[0]?.at ?? Infinity) <= now; count--) {
      const { frame } = this.#underway.shift() as { frame: Uint8Array };
      this.far?.onFrame?.(frame);
    }
    const next = this.#underway[0];
    if (next && this.#timer.at === null) this.#timer.arm(next.at);
  }

  static readonly STATE = describe<WireEnd>('cable', 1, {
    underway: {
      text: 'frames, each with the moment of its arrival',
      save(end, out) {
        UNDERWAY.write(out, end.#underway);
      },
      load(end, from) {
        const underway = UNDERWAY.read(from);
        return ({ shift }) => void end.#underway.splice(0, end.#underway.length, ...underway.map(({ at, frame }) => ({ at: at + shift, frame })));
      },
    },
    next: timer((end) => end.#timer),
  });

  savedParts(name: string): SavedPart[] {
    const far = this.far ? [savedPart<WireEnd>(`${name}, far end`, this.far, WireEnd.STATE)] : [];
    return [savedPart<WireEnd>(name, this, WireEnd.STATE), ...far];
  }
}

/** A cable between two in one process. Frames arrive in order, after a constant time, on the machine's own clock. */
export function memoryWire(clock: Clock, options: WireOptions = {}): readonly [WireEnd, WireEnd] {
  const near = new WireEnd(clock, options);
  const far = new WireEnd(clock, options);
  near.far = far;
  far.far = near;
  return [near, far];
}
