// # What the page and the machine's worker say to each other

import type { Timed } from '../../chapters/01-hardware-background/trace.ts';
import type { Step, Traffic } from './linux-counts.ts';
import type { Options, Slot } from './linux-options.ts';

/** What a machine starts from: a kernel, perhaps with an initramfs; or a saved machine. */
export type Files = { readonly kernel: Uint8Array; readonly initrd: Uint8Array | null } | { readonly state: Uint8Array };

export type LinuxCommand =
  | { readonly do: 'examine'; readonly slot: Slot; readonly bytes: Uint8Array; readonly ticket: number }
  | { readonly do: 'start'; readonly options: Options; readonly files: Files; readonly startTime: number; readonly listening: boolean }
  | { readonly do: 'type'; readonly bytes: Uint8Array }
  /** The terminal has shown so many bytes. */
  | { readonly do: 'shown'; readonly bytes: number }
  | { readonly do: 'pause'; readonly paused: boolean }
  | { readonly do: 'listen'; readonly on: boolean }
  | { readonly do: 'save' };

/** What the page shows beside the console. */
export interface Figures {
  /** Instructions of all processors. */
  readonly instructions: number;
  /** Virtual time since power-on. */
  readonly ns: number;
  /** What the WebAssembly memory holds: the guest's RAM, the book's kernel, decoded code. */
  readonly bytes: number;
  readonly totals: readonly (readonly [reason: string, exits: number])[];
  /** Steps of the exit timeline that are new or have grown. */
  readonly steps: readonly Step[];
  readonly traffic: readonly Traffic[];
  /** While the panel is open. */
  readonly events: readonly Timed[] | null;
  readonly seen: number;
}

export type LinuxReport =
  | { readonly say: 'ready' }
  /** `what` describes the file; `refused` says why it is none; a saved machine brings its options. */
  | {
      readonly say: 'examined';
      readonly ticket: number;
      readonly what: string;
      readonly refused: string | null;
      readonly options: Partial<Options> | null;
    }
  | { readonly say: 'started'; readonly door: string | null; readonly options: Options | null }
  | { readonly say: 'console'; readonly bytes: Uint8Array }
  | { readonly say: 'figures'; readonly figures: Figures }
  /** The guest does not read, and so many bytes for it were thrown away. */
  | { readonly say: 'deaf'; readonly bytes: number }
  | { readonly say: 'saved'; readonly file: Uint8Array; readonly name: string }
  | { readonly say: 'ended'; readonly end: string; readonly detail: string }
  | { readonly say: 'failed'; readonly message: string; readonly fatal: boolean };
