// # A session
//
// What the live page asks of a machine. The page knows nothing else about it, so the same page serves whatever machine a later chapter builds; and a
// test can drive a session in Node exactly as the worker does in a browser.
//
// A position is a pair: the time, and events of the trace. It is all that a link needs to hold, because a run is deterministic: the
// same image advanced to the same position is the same machine.

import type { Timed } from '../../chapters/01-hardware-background/trace.ts';
import type { Lookup } from '../../chapters/05-pio-mmio/route.ts';
import type { WireDevice } from '../../spec-tests/device-script/wire.ts';
import type { CodeAtRip, Ending, QueueState, RegisterGroup } from './protocol.ts';

export interface Session {
  /** The trace so far, in order. */
  readonly events: readonly Timed[];
  /** Events that were not kept because there were too many. */
  readonly dropped: number;
  /** The time, in instructions; the time without any counts. */
  readonly instructions: number;
  /** How much of it passed without an instruction: the machine slept, or user space answered an access. */
  readonly idle: number;
  readonly ending: Ending | null;
  readonly vcpu: number;
  readonly vcpus: number;
  /** Everything the guest has written to its serial port. */
  readonly console: Uint8Array;
  /** Executes at most `count` more instructions. Where a run is cut makes no difference to its trace. */
  advance(count: number): void;
  /** Runs for about so many milliseconds, never stopping where the machine itself would not. */
  go(milliseconds: number): void;
  /** Runs until the next VM exit has been handled, or `count` instructions have passed. */
  toExit(count: number): void;
  registers(): RegisterGroup[];
  code(): CodeAtRip;
  /** The queues of the guest's virtio devices, as far as a driver has set them up. */
  queues(): QueueState[];
  /** Who is at an address of the machine's buses, now. */
  readonly lookup: Lookup;
  dispose(): void;
}

/** What a session starts from. */
export interface Start {
  readonly image: Uint8Array;
  readonly vcpus: number;
  /** What the guest needs of its machine, in the words of the payload list. */
  readonly needs: readonly string[];
  /** The virtio devices that it is to have besides. */
  readonly devices?: readonly WireDevice[];
  /** What waits at the serial port. */
  readonly input: string;
}
