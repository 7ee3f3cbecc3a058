// # What an ordinary walk needs to know
//
// The interpreter makes walks of the page tables by itself when nothing about them is unusual. Control registers it finds in the register file; the rest stands in a
// block of memory that the MMU keeps up to date.

import { Fault, VECTOR } from '../faults.ts';
import { PAGE_BYTES, type PhysicalMemory } from '../physical-memory.ts';

/** Fields of the block, and its size. 32-bit unless noted. */
export const ORDINARY = {
  /** Buffer offset of the TLB bank that stays empty: with it in force every access is to be looked at. */
  EMPTY_BANK: 0,
  RAM_OFFSET: 4,
  RAM_BYTES: 8, // 64-bit
  /** Buffer offset of a byte for each page of RAM: not 0, if decoded code may have been made of it. */
  CODE_PAGES: 16,
  /** One of {@link STAGE2}. */
  STAGE2: 20,
  EPT_ROOT: 24, // 64-bit
  PDPTES: 32, // four, 64-bit
  /** What a walk leaves: error code and address of a page fault; the physical address of a device. */
  FAULT_CODE: 64,
  FAULT_LINEAR: 72, // 64-bit
  DEVICE: 80, // 64-bit
  /** What the second stage allows at the address translated last: bits of an EPT entry. */
  ALLOWED: 88,
  BYTES: 128,
} as const;

/** Which second stage is in force: none, one that only TypeScript can walk, Intel's, Intel's with accessed and dirty bits. */
export const STAGE2 = { NONE: 0, FOREIGN: 1, EPT: 2, EPT_MARKS: 3 } as const;

/** What a walk comes to. Anything larger is the buffer offset of the byte. */
export const WALKED = {
  /** It is unusual: TypeScript makes it, from the beginning. */
  DECLINED: 0,
  /** A page fault. Nothing has been changed. */
  FAULT: 1,
  /** There is no RAM at the address. */
  DEVICE: 2,
} as const;

/** The block of one processor, from the MMU's side. */
export class OrdinaryBlock {
  /** Its buffer offset. */
  readonly offset: number;
  readonly pdptes: BigUint64Array;
  /** A byte for each page of RAM. */
  readonly codePages: Uint8Array;
  readonly #memory: PhysicalMemory;

  constructor(memory: PhysicalMemory, emptyBank: number) {
    this.#memory = memory;
    this.offset = memory.reserve(ORDINARY.BYTES);
    this.pdptes = new BigUint64Array(memory.buffer, this.offset + ORDINARY.PDPTES, 4);
    const pages = memory.ramBytes / PAGE_BYTES;
    const codePages = memory.reserve(pages);
    this.codePages = new Uint8Array(memory.buffer, codePages, pages);
    memory.view.setInt32(this.offset + ORDINARY.EMPTY_BANK, emptyBank, true);
    memory.view.setInt32(this.offset + ORDINARY.RAM_OFFSET, memory.ramOffset, true);
    memory.view.setBigInt64(this.offset + ORDINARY.RAM_BYTES, BigInt(memory.ramBytes), true);
    memory.view.setInt32(this.offset + ORDINARY.CODE_PAGES, codePages, true);
  }

  /** Says which second stage there is: one of {@link STAGE2}, and the address of its first table. */
  describeSecondStage(stage: number, root = 0): void {
    const { view } = this.#memory;
    view.setInt32(this.offset + ORDINARY.STAGE2, stage, true);
    if (stage === STAGE2.NONE) return;
    view.setInt32(this.offset + ORDINARY.EPT_ROOT, root | 0, true);
    view.setInt32(this.offset + ORDINARY.EPT_ROOT + 4, Math.floor(root / 2 ** 32), true);
  }

  /** The page fault that a walk has found. */
  get fault(): Fault {
    const { view } = this.#memory;
    return new Fault(VECTOR.PF, view.getInt32(this.offset + ORDINARY.FAULT_CODE, true), view.getBigUint64(this.offset + ORDINARY.FAULT_LINEAR, true));
  }

  /** The physical address without RAM that a walk has found. */
  get deviceAddress(): number {
    const { i32 } = this.#memory;
    const at = (this.offset + ORDINARY.DEVICE) >> 2;
    return ((i32[at] as number) >>> 0) + (i32[at + 1] as number) * 2 ** 32;
  }
}
