// # A boot in numbers
//
// A boot of a whole operating system takes too long for a page that is being built, and its kernel is no part of this book. So one boot on each board was
// recorded: how many instructions, which exits, who was asked how often. Time on the modelled machine is counted in instructions, so the next boot of the
// same kernel comes to the same numbers, and `ringbook bench boot --record` writes the same file.

import record from './record.json' with { type: 'json' };

/** Parts of a boot, in order. Each but the first begins with a line on the console. */
export const PHASES = ['unpacking', 'early kernel', 'drivers', 'user space'] as const;
export type Phase = (typeof PHASES)[number];

/** What a part of a boot took. */
export interface Took {
  readonly instructions: number;
  /** Of the machine's own time, sleep and what accesses cost included. */
  readonly nanoseconds: number;
  readonly exits: number;
}

// When does a guest's time belong to a device? A driver that waits for one reads its register again and again, and one that got its answer goes on to something
// else. So a moment counts for the device that was accessed last, as long as that is not more than {{ATTENTION_NS / 1000}} microseconds ago.

/** An access occupies the guest until its next one, and no longer than this. */
export const ATTENTION_NS = 10_000;

/** What was asked of a device. */
export interface Accesses {
  /** Answered by the kernel under the machine. */
  readonly kernel: number;
  /** Answered by the machine, each at the price of a trip to user space. */
  readonly user: number;
  /** Of the machine's own time, that the guest was occupied with it. */
  readonly nanoseconds: number;
}

/** One of several processors. */
export interface ProcessorRecord {
  /** Calls of KVM_RUN. */
  readonly turns: number;
  readonly instructions: number;
  /** What its local APIC was sent, by vector in hexadecimal, or by the name of a message that has none. */
  readonly received: Readonly<Record<string, number>>;
}

export interface BootRecord {
  /** What the loader did before the first instruction. */
  readonly loader: {
    readonly kernelGpa: number;
    readonly kernelBytes: number;
    readonly initrdGpa: number;
    readonly initrdBytes: number;
  };
  readonly phases: Readonly<Record<Phase, Took>>;
  /** By reason, the most frequent first. */
  readonly exits: Readonly<Record<string, number>>;
  /** By device, the most frequent first. */
  readonly devices: Readonly<Record<string, Accesses>>;
  /** What an access took that left the kernel. */
  readonly nanosecondsPerTrip: number;
  /** Bytes that came out of the console. */
  readonly consoleBytes: number;
}

export interface BootRecords {
  readonly format: 2;
  /** As `uname -r` has it. */
  readonly kernel: string;
  /** What the kernel's header says to a loader, as far as the placement depends on it. */
  readonly header: {
    readonly loadedHigh: boolean;
    readonly relocatable: boolean;
    readonly alignment: number;
    readonly preferred: number;
    readonly initBytes: number;
    readonly initrdLast: number;
  };
  readonly commandLine: string;
  readonly memoryMiB: number;
  readonly machines: Readonly<Record<string, BootRecord>>;
  /** Another boot, with several processors. */
  readonly several: {
    readonly machine: string;
    readonly nanoseconds: number;
    readonly processors: readonly ProcessorRecord[];
  };
}

/** The boots that the text quotes. */
export const boots: BootRecords = record as unknown as BootRecords;
