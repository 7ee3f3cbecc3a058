import type { Fault, VmExit } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import type { SystemOp } from '../isa/system-ops.ts';
import { Broken, type PhysicalMemory } from '../physical-memory.ts';
import type { CpuState } from '../state.ts';

/** Kinds of access, as the MMU is asked for them. A read-modify-write faults as a write. */
export const ACCESS = { READ: 0, WRITE: 1, MODIFY: 2 } as const;

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
   */
  translate(linear: bigint, bytes: number, access: number): number;
  /** A read of 1, 2, 4 or 8 bytes that crosses a page or meets a device. Returns the value, unsigned. */
  readSlow(linear: bigint, bytes: number, access: number): bigint;
  /** Likewise a write. Both pages of a crossing write are checked before either is written. Calls `codeWritten` for what it writes to RAM. */
  writeSlow(linear: bigint, bytes: number, value: bigint): void;
  /** Executes a system instruction. */
  system(op: SystemOp, insn: Instruction): void;
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

export class Engine {
  constructor(_memory: PhysicalMemory, _state: CpuState, _host: EngineHost) {
    throw new Broken('the engine is being written');
  }

  /**
   * Runs from RIP until STOP is set, EVENTS is non-zero at a boundary (also before the first instruction), ICOUNT reaches DEADLINE, or a Fault or
   * VmExit arises. With DEADLINE = ICOUNT + 1 exactly one instruction runs. An instruction that faults is counted by ICOUNT as well (else a guest
   * that does nothing but fault would stop time); one that cannot even be fetched likewise.
   */
  run(): Stop {
    throw new Broken('the engine is being written');
  }

  /** REP string instructions normally do many iterations per step. True: one iteration, then the boundary (also implied by RFLAGS.TF). */
  oneIteration = false;

  /** Bytes of RAM are being written by someone other than the running code's fast path: forget decoded code that covers them. */
  codeWritten(_hpa: number, _bytes: number): void {}

  /** True when the RAM page of `hpa` holds decoded code: the MMU must then leave the write tag of its TLB entries invalid. */
  holdsCode(_hpa: number): boolean {
    return false;
  }

  /** Address mappings or permissions changed: drop everything keyed by linear address. */
  flush(): void {}

  /** RAM may have been changed behind the processor's back (by a device, by the VMM): compare decoded code with RAM before using it again. */
  memoryChanged(): void {}
}
