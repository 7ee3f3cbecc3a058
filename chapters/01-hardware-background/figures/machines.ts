// # Machines for the figures
//
// The monitors' stage is a 32-bit system. Two figures need a 64-bit one: flat, in ring 0, the first two mebibytes mapped to themselves by one large
// page.

import { BareMachine } from '../bare-machine.ts';
import { ENTRY, FORMAT } from '../mmu/paging.ts';
import { AR, CR0, CR4, EFER, OFFSET, SEG, SLOT } from '../state.ts';
import type { Trace } from '../trace.ts';

const TABLES = 0x10000;
const PAGE = 0x1000;
const { mask: P } = ENTRY;
const TO_TABLE = P.P | P.RW | P.US;
export const CODE64 = 0x08;
export const DATA64 = 0x10;

/** A machine in 64-bit mode, and the pages that its tables have taken. */
export class LongMachine extends BareMachine {
  #nextTable = TABLES;

  constructor(trace?: Trace) {
    super({ ramBytes: 4 << 20, ...(trace && { trace }) });
    const { state } = this.cpu;
    const [pml4, pdpt, directory] = [this.#table(), this.#table(), this.#table()] as const;
    this.put64(pml4, pdpt | TO_TABLE);
    this.put64(pdpt, directory | TO_TABLE);
    this.put64(directory, TO_TABLE | P.PS);
    state.set64(OFFSET.CR0, BigInt(CR0.PE | CR0.ET) | BigInt(CR0.PG));
    state.set64(OFFSET.CR4, BigInt(CR4.PAE));
    state.set64(OFFSET.EFER, BigInt(EFER.LME | EFER.LMA));
    state.setNumber(OFFSET.CR3, pml4);
    this.segment(SEG.CS, CODE64, AR.CODE | AR.READABLE | AR.L);
    for (const seg of [SEG.SS, SEG.DS, SEG.ES, SEG.FS, SEG.GS]) this.segment(seg, DATA64, AR.WRITABLE | AR.DB);
    this.cpu.modeChanged();
  }

  /** Fills a segment register: flat, with the privilege that the selector asks for. */
  segment(seg: number, selector: number, rights: number): void {
    const { state } = this.cpu;
    state.setSegSelector(seg, selector);
    state.setSegBase(seg, 0n);
    state.setSegLimit(seg, 0xffffffff);
    state.setSegRights(seg, rights | AR.P | AR.S | AR.ACCESSED | AR.G | ((selector & 3) << AR.DPL_SHIFT));
  }

  put64(address: number, value: number | bigint): void {
    this.memory.view.setBigUint64(this.memory.offset(address, 8), BigInt(value), true);
  }
  get64(address: number): bigint {
    return this.memory.view.getBigUint64(this.memory.offset(address, 8), true);
  }

  #table(): number {
    this.#nextTable += PAGE;
    return this.#nextTable - PAGE;
  }

  /** Maps the 4 KiB page of `linear` to physical `page`, with a table of its own at each level that has none. */
  map(linear: bigint, page: number): void {
    let table = this.cpu.state.getNumber(OFFSET.CR3);
    for (const { level, shift } of FORMAT.level4.levels) {
      const entry = table + 8 * Number((linear >> BigInt(shift)) & 0x1ffn);
      if (level === 1) {
        this.put64(entry, page | P.P | P.RW);
        return;
      }
      if (this.get64(entry) === 0n) this.put64(entry, this.#table() | TO_TABLE);
      table = Number(this.get64(entry)) & -PAGE;
    }
  }

  startAt(rip: number): void {
    for (const slot of [SLOT.RIP, SLOT.NEXT_RIP]) this.cpu.state.setSlotNumber(slot, rip);
  }
}
