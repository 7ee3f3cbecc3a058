// # A queue, seen from the device
//
// Two ring formats, one idea: the driver puts *chains* of buffers in, the device takes them out, in any order gives them back, and each side may ask the other not
// to be told. A device model never learns which format it works with. This is all that it sees.

// Where a piece ends has no meaning: a model sees bytes, however the driver cut them.
// @clause virtio.framing.dev.works-descriptor-framing-layout-carries

import { kind } from '../03-vcpu-loop/devices/state.ts';

/** A buffer as the device sees it: what it may read, then what it may write, each in pieces as the driver cut them. */
export interface Chain {
  /** What names it to the driver: the index of its first descriptor in a split ring, the buffer id in a packed one. */
  readonly id: number;
  readonly readable: readonly Uint8Array[];
  readonly writable: readonly Uint8Array[];
  readonly readableBytes: number;
  readonly writableBytes: number;
  /** Descriptors that it took in the ring itself: what a packed ring has to step over. */
  readonly descriptors: number;
  /** Where the writable pieces are, in the driver's addresses: `[address, bytes]` each. */
  readonly writableAt: readonly (readonly [number, number])[];
}

/** Which of the negotiated features concern the ring. */
export interface RingFeatures {
  readonly indirect: boolean;
  readonly eventIdx: boolean;
  readonly inOrder: boolean;
  /** Legacy NOTIFY_ON_EMPTY: a driver hears of the last buffer whatever it wished. Split rings only. */
  readonly notifyOnEmpty?: boolean;
}

/** Where a ring is and how long. Addresses are the driver's; the names are the specification's for both formats. */
export interface RingPlace {
  readonly size: number;
  /** Split: descriptor table. Packed: descriptor ring. */
  readonly desc: number;
  /** Split: available ring. Packed: driver event suppression. */
  readonly driver: number;
  /** Split: used ring. Packed: device event suppression. */
  readonly device: number;
}

// ## What a ring remembers
//
// A position is all that the specification lets one process tell another. Whoever writes a whole machine down wants more: whether the driver has been told
// what it was given, and which wishes were spoken already. With the position alone the device would, after each saving, notify once too often. Chains that
// the device holds are not in it. They are in guest memory, and whoever holds one takes it again by its id, with the checks that it had to pass at first.

/** Everything that an end of a ring knows besides what is in memory. */
export interface RingState {
  readonly avail: number;
  readonly used: number;
  /** How far the driver was, when it was last looked. Split rings only. */
  readonly seen: number;
  /** Passed since somebody asked whether to notify. */
  readonly moved: number;
  /** Kicks are wanted; which place was named last, -1: none; what was last said about events, -1: nothing. */
  readonly kicks: boolean;
  readonly mark: number;
  readonly wish: number;
  readonly broken: string | null;
}

export const RING_STATE = kind.record<RingState>({
  avail: kind.u16,
  used: kind.u16,
  seen: kind.u16,
  moved: kind.u32,
  kicks: kind.flag,
  mark: kind.between(-1, 0xffff),
  wish: kind.between(-1, 3),
  broken: kind.maybe(kind.text(256)),
});

/** Where each side is in the ring: what a migration, or another process that takes over, has to know. */
export interface RingPosition {
  /** Next chain to take. Split: free-running 16 bits. Packed: index, with the wrap counter in bit 15. */
  readonly avail: number;
  /** Next place to put a used chain, likewise. */
  readonly used: number;
}

/** The device's end of an enabled queue. */
export interface DeviceRing {
  readonly size: number;
  /** Why nothing more will come out of this ring: the driver has written what no driver may. Null while all is well. */
  readonly broken: string | null;
  readonly position: RingPosition;
  readonly state: RingState;
  /** Becomes what another end of the same ring was, which held nothing. @throws StateError for what no end of it can have been */
  goOn(state: RingState): void;
  /** Takes a chain, by its id, that the other end held and nothing else with it. Null when it is not there. */
  retake(id: number): Chain | null;
  /**
   * Takes the next chain; null when there is none, or when the ring is broken. Never throws for what the driver wrote. A device that stops before it has seen null
   * asks {@link enableKicks} whether more has come.
   */
  pop(): Chain | null;
  /**
   * Gives a chain back, with how many bytes were written into its writable part, from its start. With IN_ORDER it waits here for older ones. A chain of another
   * ring, one that was reset meanwhile, goes nowhere.
   */
  push(chain: Chain, written: number): void;
  /** Whether the driver wants to hear of what it was given since the last time this was asked. */
  shouldNotify(): boolean;
  /** Asks the driver not to kick: the device is looking anyway. */
  disableKicks(): void;
  /** Asks for kicks again. True when something arrived meanwhile, so that the device must look once more. */
  enableKicks(): boolean;
}
