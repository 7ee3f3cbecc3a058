// # The suite's nouns
//
// A *case* says what to do and what the specification allows. An *adapter* does it to one implementation and reports what it saw. The
// *judge* compares. The shapes below mirror the published schemas (`schemas/`), which are what is enforced at the edges; nothing here is
// trusted that has not passed through `validate.ts` first.

import type { DeviceStep } from './device-script/steps.ts';
import type { CaseDevice, DeviceOp, DeviceSession, OpResult, RingFormat, Transport, WireDevice } from './device-script/wire.ts';

export type Surface = 'guest' | 'kvm' | 'device';
export type Door = 'multiboot' | 'pvh' | 'long' | 'disk';
export type End = 'debug-exit' | 'halt' | 'triple-fault' | 'timeout' | 'reset' | 'soft-off' | 'internal-error' | 'fail-entry';

/** A set of allowed values as written in a case. A bare string is the set of that value alone. */
export type AllowedSet =
  | string
  | {
      readonly value?: string;
      readonly mask?: string;
      readonly oneOf?: readonly string[];
      readonly min?: string;
      readonly max?: string;
      readonly any?: true;
      readonly sequence?: readonly AllowedSet[];
      readonly optional?: boolean;
      /** It differs from run to run by its nature, so that repetitions are not compared in it. */
      readonly varies?: true;
      /** Of a case with variants: those instances that this is about. For the others there is no such observation. */
      readonly only?: { readonly transport?: readonly Transport[]; readonly ring?: readonly RingFormat[] };
      readonly clause?: string;
      readonly note?: string;
    };

/** One conformance case, as in its file. */
export interface Case {
  readonly id: string;
  readonly title: string;
  readonly chapter: string;
  readonly clauses: readonly string[];
  readonly strictness: 'must' | 'should' | 'de-facto' | 'robustness';
  readonly driver?: string;
  readonly legalDriver: boolean;
  readonly surface: Surface;
  readonly needs: readonly string[];
  readonly note?: string;
  readonly guest?: { readonly payload: string; readonly door?: Door; readonly vcpus?: number; readonly memoryMiB?: number; readonly input?: string };
  readonly kvm?: { readonly script: readonly ScriptStep[] };
  readonly device?: { readonly script: readonly DeviceStep[]; readonly memoryMiB?: number };
  /** Virtio devices of the machine, on the surfaces `guest` and `device`. */
  readonly devices?: readonly CaseDevice[];
  /** One file, several cases: each combination that can exist is an instance with an id of its own (`instances.ts`). */
  readonly variants?: { readonly transport?: readonly Transport[]; readonly ring?: readonly RingFormat[] };
  readonly limits: { readonly instructions?: number; readonly timeoutMs: number };
  readonly allowed: {
    readonly end?: readonly End[];
    readonly exitValue?: AllowedSet;
    readonly done?: boolean;
    readonly console?: string;
    readonly observations: Readonly<Record<string, AllowedSet>>;
    readonly others?: 'forbid' | 'ignore';
  };
}

/** The value of a structure's field in a script: a number, a constant's name, the address of an allocated block, or a descriptor's number. */
export type FieldValue = number | string | { readonly memory: string; readonly offset?: number } | { readonly fd: string };
export type FieldValues = Readonly<Record<string, FieldValue>>;

/** One step of a `kvm` script, in terms of the ABI's names. `kvm-script.ts` turns it into a wire operation. */
export type ScriptStep =
  | { readonly do: 'open'; readonly path?: string; readonly fd: string; readonly as?: string }
  | { readonly do: 'close'; readonly fd: string; readonly as?: string }
  | { readonly do: 'allocate'; readonly memory: string; readonly bytes: number }
  | {
      readonly do: 'ioctl';
      readonly fd: string;
      readonly request: string;
      readonly arg?: number | string | FieldValues;
      readonly result?: string;
      readonly like?: string;
      readonly as?: string;
      readonly get?: readonly string[];
    }
  | {
      readonly do: 'mmap';
      readonly fd: string;
      readonly map: string;
      readonly bytes?: number | string;
      readonly offset?: number;
      readonly as?: string;
    }
  | { readonly do: 'eventfd'; readonly fd: string; readonly initial?: number; readonly flags?: number; readonly as?: string }
  | { readonly do: 'read'; readonly fd: string; readonly as: string }
  | { readonly do: 'write'; readonly fd: string; readonly value: number | string; readonly as?: string }
  | { readonly do: 'poke'; readonly target: string; readonly at?: number | string; readonly bytes?: string; readonly fields?: FieldValues }
  | {
      readonly do: 'peek';
      readonly target: string;
      readonly at?: number | string;
      readonly count?: 1 | 2 | 4 | 8;
      readonly get?: readonly string[];
      readonly as: string;
    }
  | {
      readonly do: 'run';
      readonly fd: string;
      readonly map: string;
      readonly resume?: boolean;
      readonly as?: string;
      readonly get?: readonly string[];
    };

/** One normative rule: see `clauses/`. */
export interface Clause {
  readonly id: string;
  readonly strength: 'must' | 'should' | 'may' | 'de-facto' | 'robustness';
  readonly binds: string;
  readonly source: string;
  readonly summary: string;
  readonly observable: readonly string[];
  readonly waiver?: string;
}

// ## On the wire
//
// Numbers of 64 bits travel as hexadecimal strings, because JSON's numbers are doubles; bytes travel as base64. An operation names
// descriptors, maps and memory by the script's own names, so that no descriptor number or address ever has to agree between two machines.

/** A byte offset in a target: fixed, or stored as a 64-bit number at `in` in that same target. */
export type WireOffset = number | { readonly in: number };

export type WireOp =
  | { readonly do: 'open'; readonly path: string; readonly fd: string }
  | { readonly do: 'close'; readonly fd: string }
  | { readonly do: 'allocate'; readonly memory: string; readonly bytes: number }
  | {
      readonly do: 'ioctl';
      readonly fd: string;
      readonly request: string;
      readonly number?: string;
      readonly bytes?: string;
      readonly base?: number;
      readonly patches?: readonly { readonly at: number; readonly bytes: string }[];
      readonly pointers?: readonly { readonly at: number; readonly memory: string; readonly offset: number }[];
      readonly descriptors?: readonly { readonly at: number; readonly bytes: number; readonly fd: string }[];
      readonly result?: string;
    }
  | {
      readonly do: 'mmap';
      readonly fd: string;
      readonly map: string;
      readonly bytes: number | { readonly resultOf: number };
      readonly offset?: number;
    }
  | { readonly do: 'eventfd'; readonly fd: string; readonly initial: number; readonly flags: number }
  | { readonly do: 'read'; readonly fd: string; readonly count: number }
  | { readonly do: 'write'; readonly fd: string; readonly bytes: string }
  | { readonly do: 'poke'; readonly target: string; readonly at: WireOffset; readonly bytes: string }
  | { readonly do: 'peek'; readonly target: string; readonly at: WireOffset; readonly count: number }
  | { readonly do: 'run'; readonly fd: string; readonly map: string; readonly resume: boolean };

export type WireStep = { readonly ret: string; readonly bytes?: string } | { readonly skipped: string };

export interface WireLimits {
  readonly instructions?: string;
  readonly timeoutMs: number;
}

export interface RunGuest {
  readonly type: 'run';
  readonly id: string;
  readonly case: string;
  readonly surface: 'guest';
  readonly guest: {
    readonly payload: string;
    readonly image: string;
    readonly sha256: string;
    readonly door: Door;
    readonly vcpus: number;
    readonly memoryMiB: number;
    readonly input: string;
    /** The capabilities that the case needs, for an adapter with several machines to choose one. */
    readonly needs?: readonly string[];
    /** Virtio devices that the machine must have, in this order. */
    readonly devices?: readonly WireDevice[];
  };
  readonly limits: WireLimits;
}

export interface RunKvm {
  readonly type: 'run';
  readonly id: string;
  readonly case: string;
  readonly surface: 'kvm';
  readonly kvm: { readonly ops: readonly WireOp[] };
  readonly limits: WireLimits;
}

/** Answered by `ready`; then come any number of `access`, and `end`. */
export interface RunDevice {
  readonly type: 'run';
  readonly id: string;
  readonly case: string;
  readonly surface: 'device';
  readonly machine: {
    readonly memoryMiB: number;
    readonly devices: readonly WireDevice[];
    readonly needs: readonly string[];
  };
  readonly limits: WireLimits;
}

export interface Access {
  readonly type: 'access';
  readonly id: string;
  readonly ops: readonly DeviceOp[];
}

export type RunRequest = RunGuest | RunKvm;
export type Request =
  | { readonly type: 'start'; readonly protocol: 1 }
  | RunRequest
  | RunDevice
  | Access
  | { readonly type: 'end'; readonly id: string }
  | { readonly type: 'stop' };

export interface Started {
  readonly type: 'started';
  readonly protocol: 1;
  readonly name: string;
  readonly version: string;
  readonly surfaces: readonly Surface[];
  readonly capabilities: readonly string[];
  readonly missing: Readonly<Record<string, string>>;
}

/** The implementation is not here (no QEMU on PATH, no /dev/kvm): said once, at the start, with the reason. */
export interface Unavailable {
  readonly type: 'unavailable';
  readonly reason: string;
}

/** The end of a run's trace, for people: as many lines as fit on a page. */
export interface TraceEnd {
  readonly events: number;
  readonly tail: readonly string[];
}

export interface RanGuest {
  readonly type: 'ran';
  readonly id: string;
  readonly surface: 'guest';
  readonly end: End;
  readonly exitValue?: string;
  readonly console: string;
  readonly exits?: string;
  readonly instructions?: string;
  readonly traceHash?: string;
  readonly trace?: TraceEnd;
  readonly detail?: string;
}

export interface RanKvm {
  readonly type: 'ran';
  readonly id: string;
  readonly surface: 'kvm';
  readonly steps: readonly WireStep[];
  readonly traceHash?: string;
  readonly timedOut?: boolean;
  readonly detail?: string;
}

export interface RanDevice {
  readonly type: 'ran';
  readonly id: string;
  readonly surface: 'device';
  readonly traceHash?: string;
  readonly detail?: string;
}

/** The machine of a device case is there, and paused. */
export interface Ready {
  readonly type: 'ready';
  readonly id: string;
  readonly windows?: readonly string[];
}

export interface Accessed {
  readonly type: 'accessed';
  readonly id: string;
  readonly results: readonly OpResult[];
}

export interface RunError {
  readonly type: 'error';
  readonly id: string;
  readonly reason: string;
}

export type RunReply = RanGuest | RanKvm | RunError;
export type Reply =
  | Started
  | Unavailable
  | RunReply
  | RanDevice
  | Ready
  | Accessed
  | { readonly type: 'log'; readonly text: string }
  | { readonly type: 'stopped' };

/**
 * One implementation under test. A program on stdio (`adapters/exec.ts`) and a built-in implementation are the same thing to the runner.
 * `run` answers within the request's time limit; the runner enforces it with a margin, by `kill`.
 */
export interface Adapter {
  start(): Promise<Started | Unavailable>;
  run(request: RunRequest): Promise<RunReply>;
  /** The machine of a device case, for those that list the surface. */
  open?(request: RunDevice): Promise<DeviceSession | RunError>;
  stop(): Promise<void>;
  /** Ends everything the adapter started, at once and without ceremony. Safe to call at any time. */
  kill(): void;
}

// ## Results

export type Verdict = 'pass' | 'fail' | 'unsupported' | 'not-observable' | 'timeout' | 'crash' | 'corrupt' | 'error' | 'flaky';

/** One deviation from the allowed set. `text` is the whole sentence; the other fields are its parts. */
export interface Failure {
  readonly kind: 'wrong' | 'missing' | 'unexpected' | 'end' | 'aborted' | 'unfinished';
  readonly key: string;
  readonly clause: string;
  readonly observed: string;
  readonly allowed: string;
  readonly text: string;
}

export interface CaseResult {
  readonly id: string;
  readonly title: string;
  readonly chapter: string;
  readonly clauses: readonly string[];
  readonly strictness: string;
  readonly surface: Surface;
  readonly verdict: Verdict;
  readonly expectation: 'none' | 'known' | 'unexpected-pass' | 'changed';
  readonly reason?: string;
  readonly known?: string;
  readonly failures: readonly Failure[];
  readonly observed: readonly (readonly [string, string])[];
  readonly end?: string;
  readonly stage?: string;
  readonly console?: string;
  readonly exits?: string;
  readonly instructions?: string;
  readonly traceHash?: string;
  readonly trace?: TraceEnd;
  readonly durationMs: number;
  readonly replay: string;
}

export interface Summary {
  readonly pass: number;
  readonly fail: number;
  readonly known: number;
  readonly unsupported: number;
  readonly 'not-observable': number;
  readonly timeout: number;
  readonly crash: number;
  readonly corrupt: number;
  readonly error: number;
  readonly flaky: number;
  readonly 'unexpected-pass': number;
  readonly changed: number;
  readonly stale: number;
  readonly ok: boolean;
}

export interface Results {
  readonly schema: 'urn:ringbook:results:1';
  readonly suite: { readonly revision: string; readonly cases: number };
  readonly target: string;
  readonly implementation: {
    readonly name: string;
    readonly version: string;
    readonly surfaces: readonly string[];
    readonly capabilities: readonly string[];
  };
  readonly unavailable?: string;
  /** With `unavailable`: not absent, but its adapter died, hung or babbled while it was started. */
  readonly broken?: true;
  readonly host: string;
  readonly seed: number;
  readonly shard: string | null;
  readonly repeat: number;
  readonly startedAt: string;
  readonly durationMs: number;
  readonly cases: readonly CaseResult[];
  readonly stale: readonly string[];
  readonly summary: Summary;
}

export interface KnownRow {
  readonly version: string;
  readonly case: string;
  readonly verdict: 'fail' | 'timeout' | 'crash' | 'corrupt' | 'error';
  readonly observed?: Readonly<Record<string, string>>;
  readonly right: 'specification' | 'implementation' | 'unspecified';
  readonly source: string;
  readonly reason: string;
}

export interface KnownFailures {
  readonly implementation: string;
  readonly rows: readonly KnownRow[];
}
