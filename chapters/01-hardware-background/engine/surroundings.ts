// # What the engine asks of others
//
// The engine knows nothing of page tables, descriptors or interrupts. This is what it asks of the rest of the processor, and what it answers to whoever
// has it run.

import type { Fault, VmExit } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import type { SystemOp } from '../isa/system-ops.ts';
import type { Workshop } from './translator/workshop.ts';

/** Kinds of access, as the MMU is asked for them. A read-modify-write faults as a write. */
export const ACCESS = { READ: 0, WRITE: 1, MODIFY: 2 } as const;

/** What the interpreter's own walks of the page tables may come to, besides RAM. */
export interface WalkEnds {
  /** The page fault that has been found. */
  ordinaryFault(): Fault;
  /** An access of up to 4 bytes at the device address that has been found. Values are unsigned. */
  readDevice(bytes: number): number;
  writeDevice(bytes: number, value: number): void;
}

/**
 * What the engine needs from the rest of the processor. Methods may throw Fault or VmExit: the instruction is abandoned, and `Engine.run` returns the
 * thrown value. While they run, RIP is the current instruction and NEXT_RIP the one that follows; a control transfer assigns NEXT_RIP.
 */
export interface EngineHost {
  /**
   * Translates for instruction fetch: buffer offset of the byte at `linear`, valid up to the end of its 4 KiB page; -1 when the page is not RAM, and
   * the engine then fetches byte by byte with `readSlow`. The engine has already checked CS's limit, or that the address is canonical.
   */
  fetch(linear: bigint): number;
  /**
   * Data TLB miss. RAM: fills the TLB bank in use and returns the buffer offset. Not RAM, or crossing a page: returns -1, and the engine then calls
   * readSlow or writeSlow. In 64-bit code the engine has already checked that the address is canonical (#GP, or #SS for the stack segment).
   * A Fault or VmExit may be returned as well as thrown.
   */
  translate(linear: bigint, bytes: number, access: number): number | Fault | VmExit;
  /** A read of 1, 2, 4 or 8 bytes that crosses a page or meets a device. Returns the value, unsigned. */
  readSlow(linear: bigint, bytes: number, access: number): bigint;
  /** Likewise a write. Both pages of a crossing write are checked before either is written. Calls `codeWritten` for what it writes to RAM. */
  writeSlow(linear: bigint, bytes: number, value: bigint): void;
  /** Executes a system instruction. A VmExit may be returned as well as thrown, and costs less so. */
  system(op: SystemOp, insn: Instruction): VmExit | null;
  /** A port that the program may use, and that nobody wants to be asked about. Values are unsigned. */
  portRead(port: number, bytes: number): number;
  portWrite(port: number, bytes: number, value: number): void;
  /** Who goes on where an ordinary walk ends. A host that leaves `OFFSET.WALKER` 0 needs none. */
  readonly mmu?: WalkEnds;
  /** The RAM page at `hpa` has just come to hold decoded code: invalidate the write tag of every TLB entry (both banks) that maps it. */
  protectCode(hpa: number): void;
}

/** Why `Engine.run` came back. Except after a fault or VM exit, RIP has been committed: it is the next instruction to execute. */
export type Stop =
  | { readonly kind: 'deadline' }
  | { readonly kind: 'events' }
  | { readonly kind: 'stop' }
  | { readonly kind: 'fault'; readonly fault: Fault }
  | { readonly kind: 'vmexit'; readonly exit: VmExit };

/** What an engine keeps of decoded and translated code. Bytes: `records`, `modules`. `compiled` counts all regions that there have been. */
export interface EngineSizes {
  readonly blocks: number;
  readonly codePages: number;
  readonly records: number;
  readonly shapes: number;
  readonly regions: number;
  readonly modules: number;
  readonly compiled: number;
  readonly slots: number;
}

/** How guest code is translated to WebAssembly. What a guest does, and when, does not depend on it. */
export interface TranslationOptions {
  /** False: it is only interpreted. Default: true. */
  readonly translate?: boolean | undefined;
  /** How often a block is interpreted before it is hot. 0: it is translated when it is first met, as often as it changes. */
  readonly heat?: number | undefined;
  /** Who translates while the guest goes on. Without it, the guest waits. */
  readonly workshop?: Workshop | null | undefined;
}

/** Options of {@link Engine}. `arenaBytes` bounds the memory for decoded code, taken from the private area. */
export interface EngineOptions extends TranslationOptions {
  readonly arenaBytes?: number;
  /** False: all system instructions are the host's, the ordinary case too. For a host without the tables and TLB banks that their micro-operations look at. */
  readonly ordinary?: boolean;
}
