// # What a device is connected to
//
// A device model knows four things of the machine around it: its registers are on a bus, it may pull an interrupt line, it may read and write
// memory by itself, and time passes. Each is an interface of a few words, so that one model serves in the kernel, in user space, and in a test
// that is only a table.

import type { Gpa } from '../01-hardware-background/physical-memory.ts';

/** One end of an interrupt line. Lines are levels; an edge is a change. */
export interface Wire {
  set(level: boolean): void;
}

/** Where message-signalled interrupts go: a write of `data` to `address`. */
export interface MsiTarget {
  send(address: number, data: number): void;
}

/** Direct memory access. A transfer that touches anything but RAM changes nothing beyond what was RAM, and is reported as false. */
export interface DmaTarget {
  read(gpa: Gpa, into: Uint8Array): boolean;
  write(gpa: Gpa, from: Uint8Array): boolean;
}
