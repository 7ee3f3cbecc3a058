// # What the MMU is asked, and what it asks
//
// A translation depends on who wants what. What it needs besides (the second stage in force, the bus beyond RAM, who has decoded code) belongs to the
// processor around it.

import type { EptContext } from '../intercepts.ts';
import type { PhysicalMemory } from '../physical-memory.ts';
import type { CpuState } from '../state.ts';
import type { Trace } from '../trace.ts';

/** Kinds of access. MODIFY is a read that will be followed by a write: it needs write permission and faults as a write. */
export const ACCESS = { READ: 0, WRITE: 1, MODIFY: 2, FETCH: 3 } as const;

/** On whose behalf an access is made. SYSTEM: an implicit supervisor access (descriptor tables, TSS), at any CPL. */
export const PRIVILEGE = { SUPERVISOR: 0, USER: 1, SYSTEM: 2 } as const;

/** Where accesses go that do not meet RAM. Values are unsigned; a width is 1, 2, 4 or 8 bytes. */
export interface PhysicalBus {
  read(address: number, bytes: number): bigint;
  write(address: number, bytes: number, value: bigint): void;
  /** The same for up to 4 bytes, for a bus that would rather not handle bigints. */
  read32?(address: number, bytes: number): number;
  write32?(address: number, bytes: number, value: number): void;
}

/** What the MMU needs from the processor around it. */
export interface MmuHost {
  readonly memory: PhysicalMemory;
  readonly state: CpuState;
  readonly trace: Trace | null;
  readonly bus: PhysicalBus;
  /** Second-stage context, or null. */
  ept(): EptContext | null;
  /** Does this RAM page hold decoded code? */
  holdsCode(hpa: number): boolean;
  /** RAM that holds decoded code is being written. */
  codeWritten(hpa: number, bytes: number): void;
  /** Mappings changed: forget what is filed under linear addresses. */
  mappingsChanged(): void;
}
