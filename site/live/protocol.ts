// # Between the page and its worker
//
// The machine lives in a worker, so that a guest that loops for ever leaves the page alive. The page sends commands; the worker answers each
// with the state it reached, and with what happened on the way. All of it is plain data.

import type { Timed } from '../../chapters/01-hardware-background/trace.ts';
import type { Route } from '../../chapters/05-pio-mmio/route.ts';
import type { WireDevice } from '../../spec-tests/device-script/wire.ts';

/** Registers by group, in the order in which they are shown. Values are hexadecimal without 0x, at their natural width. */
export interface RegisterGroup {
  readonly title: string;
  readonly registers: readonly (readonly [name: string, value: string, meaning?: string])[];
}

/** How a run came to its end. */
export interface Ending {
  readonly end: string;
  readonly detail: string;
}

/** Where the machine stands. */
export interface Snapshot {
  /** The time: guest instructions retired on all processors, and the time without any. */
  readonly instructions: number;
  /** How much of it passed without an instruction. */
  readonly idle: number;
  /** Events of the trace so far. */
  readonly events: number;
  /** VM exits so far, and how many of them went to user space. */
  readonly exits: number;
  readonly userExits: number;
  readonly ending: Ending | null;
  /** The processor whose turn it is. */
  readonly vcpu: number;
  readonly vcpus: number;
  readonly groups: readonly RegisterGroup[];
  readonly code: CodeAtRip;
  readonly queues: readonly QueueState[];
}

/** The bytes that the processor will fetch next; null bytes when RIP does not translate to memory. */
export interface CodeAtRip {
  readonly rip: string;
  readonly linear: string;
  readonly bytes: Uint8Array | null;
}

/** A queue of a virtio device, as the device has it. */
export interface QueueState {
  readonly device: string;
  readonly queue: number;
  readonly format: 'split' | 'packed';
  readonly size: number;
  /** What was agreed on that changes how the ring is read, by the specification's names. */
  readonly features: readonly string[];
  /** Where the device is: next to take, next to give back. A packed ring's wrap counter is in bit 15. Null: the ring is not in use. */
  readonly avail: number | null;
  readonly used: number | null;
  /** Why only a reset helps. */
  readonly failure: string | null;
}

/** Exits, by who settled them. */
export interface Settled {
  readonly kernel: number;
  readonly user: number;
}

export type Command =
  | {
      readonly do: 'load';
      readonly image: Uint8Array;
      readonly vcpus: number;
      readonly needs: readonly string[];
      readonly devices: readonly WireDevice[];
      readonly input: string;
      readonly at: number;
      readonly events: number;
    }
  | { readonly do: 'run'; readonly perSecond: number }
  | { readonly do: 'pause' }
  | { readonly do: 'step' }
  | { readonly do: 'exit' }
  /** The route of the exit to which an event belongs; or of the next access after it, or of the last before it. */
  | { readonly do: 'route'; readonly event: number; readonly step: -1 | 0 | 1 };

export type Report =
  | { readonly say: 'ready' }
  | {
      readonly say: 'state';
      readonly running: boolean;
      readonly snapshot: Snapshot;
      readonly from: number;
      readonly events: readonly Timed[];
      readonly console: Uint8Array;
    }
  | { readonly say: 'route'; readonly route: Route | null; readonly same: Settled; readonly all: Settled; readonly step: -1 | 0 | 1 }
  | { readonly say: 'hash'; readonly hash: string | null }
  | { readonly say: 'failed'; readonly message: string };
