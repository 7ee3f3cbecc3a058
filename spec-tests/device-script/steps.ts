// # The words of a script
//
// A device case is a list of steps in the specification's own terms. Its author says *write `queue_size`*, not where that register is on this transport;
// says *this chain*, not which bytes of which ring. Where the point is to do it wrong, each part can be said byte by byte as well. `scripts.md` explains the
// steps with an example; `schemas/device-script.schema.json` is what is enforced.

import type { RingFormat, Transport } from './wire.ts';

export type Num = number | string;
/** A number; an address in a named piece of memory; or a value that an earlier step kept. */
export type Value =
  | Num
  | { readonly memory: string; readonly offset?: Value }
  | { readonly kept: string; readonly plus?: number; readonly times?: number };
/** A feature by its name in the specification, in lower case without prefix (`event_idx`), or by its bit. */
export type Feature = string | number;
export type StatusBit = 'acknowledge' | 'driver' | 'driver_ok' | 'features_ok' | 'suspend' | 'device_needs_reset' | 'failed';
export type Stage = 'reset' | 'acknowledge' | 'driver' | 'features' | 'features_ok' | 'queues' | 'driver_ok';

interface On {
  /** Which of the case's devices; default the first. */
  readonly device?: number;
}
/** What is read is an observation of that name, or is kept for later steps, or both. */
interface Reads {
  readonly as?: string;
  readonly keep?: string;
}
/** A register is read, or written when there is a `write`. */
interface Register extends On, Reads {
  readonly write?: Value;
}

export interface QueueSetup {
  readonly queue: number;
  readonly size?: Value;
  /** MSI-X vector. */
  readonly vector?: Value;
  /** Addresses in place of the ones that the script's memory gives. */
  readonly areas?: { readonly desc?: Value; readonly driver?: Value; readonly device?: Value };
  readonly enable?: boolean;
}

export interface Buffer {
  readonly memory?: string;
  readonly offset?: Value;
  readonly addr?: Value;
  readonly bytes: Value;
  readonly writable?: boolean;
  /** In place of the flags that the chain needs: names of VIRTQ_DESC_F_*, or the number. */
  readonly flags?: readonly string[] | Value;
  /** In place of the next descriptor; split rings only. */
  readonly next?: Value;
}

export type DeviceStep =
  | ({ readonly do: 'find'; readonly as?: string } & On)
  | ({
      readonly do: 'init';
      readonly features?: readonly Feature[];
      readonly optional?: readonly Feature[];
      readonly without?: readonly Feature[];
      readonly force?: readonly Feature[];
      readonly queues?: readonly (number | QueueSetup)[];
      readonly msix?: boolean;
      readonly until?: Stage;
      readonly as?: string;
    } & On)
  | ({ readonly do: 'status'; readonly set?: readonly StatusBit[] | Value; readonly add?: readonly StatusBit[] } & On & Reads)
  | ({ readonly do: 'reset'; readonly as?: string } & On)
  | ({ readonly do: 'features'; readonly window?: Num; readonly accept?: readonly Feature[] | Value } & On & Reads)
  | ({ readonly do: 'require'; readonly features?: readonly Feature[]; readonly capability?: string } & On)
  | ({ readonly do: 'get'; readonly field: string; readonly queue?: Value; readonly bytes?: 1 | 2 | 4 } & On & Reads)
  | ({ readonly do: 'set'; readonly field: string; readonly queue?: Value; readonly value: Value; readonly bytes?: 1 | 2 | 4 } & On)
  | ({ readonly do: 'config'; readonly field?: string; readonly offset?: Num; readonly bytes?: 1 | 2 | 4 | 8 } & Register)
  | ({ readonly do: 'pci'; readonly cap?: string; readonly nth?: number; readonly offset: Value; readonly bytes: 1 | 2 | 4 } & Register)
  | ({ readonly do: 'cap'; readonly cap: string; readonly nth?: number; readonly field: string } & On & Reads)
  | ({
      readonly do: 'register';
      readonly structure: 'common' | 'notify' | 'isr' | 'device' | 'legacy' | 'mmio' | 'bar0' | 'bar1' | 'bar2' | 'bar3' | 'bar4' | 'bar5';
      readonly offset: Value;
      readonly bytes: 1 | 2 | 4 | 8;
    } & Register)
  | {
      readonly do: 'memory';
      readonly memory: string;
      readonly bytes: Num;
      readonly align?: Num;
      readonly at?: Num;
      readonly byte?: number;
      readonly hex?: string;
    }
  | {
      readonly do: 'write';
      readonly memory: string;
      readonly offset?: Value;
      readonly hex?: string;
      readonly text?: string;
      readonly value?: Value;
      readonly bytes?: 1 | 2 | 4 | 8;
    }
  | { readonly do: 'fill'; readonly memory: string; readonly offset?: Value; readonly count?: Value; readonly byte: number }
  | ({ readonly do: 'read'; readonly memory: string; readonly offset?: Value; readonly bytes: 1 | 2 | 4 | 8 } & Reads)
  | {
      readonly do: 'compare';
      readonly memory: string;
      readonly offset?: Value;
      readonly count?: Value;
      /** Against this, or against the disk's pattern from this sector on. */
      readonly byte?: number;
      readonly hex?: string;
      readonly text?: string;
      readonly with?: string;
      readonly sector?: Num;
      readonly as: string;
    }
  | { readonly do: 'same'; readonly left: Value; readonly right: Value; readonly as: string }
  | ({ readonly do: 'queue' } & QueueSetup & On)
  | ({
      readonly do: 'desc';
      readonly queue: number;
      readonly index: Value;
      readonly table?: string;
      readonly addr: Value;
      readonly bytes: Value;
      readonly flags: readonly string[] | Value;
      readonly next?: Value;
      readonly id?: Value;
    } & On)
  | ({
      readonly do: 'chain';
      readonly queue: number;
      readonly buffers: readonly Buffer[];
      readonly indirect?: boolean;
      readonly id?: Value;
      readonly publish?: boolean;
      readonly repeat?: number;
    } & On)
  | ({ readonly do: 'publish'; readonly queue: number } & On)
  | ({ readonly do: 'avail'; readonly queue: number; readonly heads?: readonly Value[]; readonly idx?: Value; readonly flags?: Value } & On)
  | ({ readonly do: 'kick'; readonly queue: number; readonly value?: Value; readonly bytes?: 1 | 2 | 4 } & On)
  | ({ readonly do: 'wait'; readonly queue: number; readonly used: Num; readonly as?: string } & On)
  | ({
      readonly do: 'used';
      readonly queue: number;
      readonly element?: Num;
      readonly get?: readonly ('chain' | 'id' | 'len' | 'count')[];
      readonly as: string;
    } & On)
  | ({ readonly do: 'watch'; readonly queue: number; readonly memory?: string } & On)
  | ({ readonly do: 'watched'; readonly queue: number; readonly as: string } & On)
  | ({ readonly do: 'event'; readonly queue: number; readonly want?: 'always' | 'never' | Value; readonly as?: string } & On)
  | ({ readonly do: 'isr'; readonly as: string; readonly ack?: Value } & On)
  | ({ readonly do: 'notified'; readonly queue?: number; readonly config?: boolean; readonly as: string; readonly keep?: string } & On)
  | ({ readonly do: 'msix'; readonly enable?: boolean; readonly mask?: readonly number[]; readonly unmask?: readonly number[] } & On)
  | ({ readonly do: 'message'; readonly vector: Num; readonly as: string } & On)
  | { readonly do: 'lines'; readonly as: string }
  | ({
      readonly do: 'host';
      readonly action:
        | 'input'
        | 'output'
        | 'connect'
        | 'disconnect'
        | 'resize-console'
        | 'target'
        | 'actual'
        | 'stats'
        | 'resize'
        | 'content'
        | 'fail-zone'
        | 'hint'
        | 'hinted'
        | 'unplug';
      readonly port?: number;
      readonly text?: string;
      readonly hex?: string;
      readonly cols?: number;
      readonly rows?: number;
      readonly value?: Value;
      readonly sector?: Num;
      readonly count?: Num;
      readonly zone?: number;
      readonly state?: 'read-only' | 'offline';
      readonly round?: 'start' | 'stop' | 'finish';
      readonly memory?: string;
      readonly offset?: Value;
      readonly as?: string;
    } & On)
  | { readonly do: 'advance'; readonly ns: Num }
  | ({ readonly do: 'queue-reset'; readonly queue: number; readonly as?: string } & On)
  | { readonly do: 'repeat'; readonly times: number; readonly steps: readonly DeviceStep[] }
  | ({
      readonly do: 'when';
      readonly transport?: readonly Transport[];
      readonly ring?: readonly RingFormat[];
      readonly negotiated?: Feature;
      readonly offered?: Feature;
      readonly steps: readonly DeviceStep[];
      readonly else?: readonly DeviceStep[];
    } & On);

export type StepOf<D extends DeviceStep['do']> = Extract<DeviceStep, { do: D }>;

/** A mistake in a script: a name that does not exist, a step that makes no sense on this transport. The case is at fault, not the implementation. */
export class ScriptError extends Error {
  override name = 'ScriptError';
}
