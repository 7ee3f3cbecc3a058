// # A place to try one instruction
//
// To see what a single instruction does in ring 3 of a 32-bit system one needs the system: descriptor tables, a TSS, stacks, handlers. This is the
// least of that: every descriptor that a test may want to name, and 256 gates that lead to a HLT each, so that a fault ends the run and the trace
// says which one it was.

import { BareMachine } from '../bare-machine.ts';
import type { CpuStop } from '../cpu.ts';
import { writeFlags } from '../engine/flags.ts';
import { AR, CR0, CR4, EFER, FLAG, OFFSET, SEG, SLOT } from '../state.ts';
import { Recorder } from '../trace.ts';
import { loadRealSegment } from './descriptors.ts';

/** Where things are. */
export const PLACE = {
  GDT: 0x1000,
  IDT: 0x2000,
  TSS: 0x4000,
  CODE: 0x10000,
  HANDLERS: 0x20000,
  TABLES: 0x30000,
  DATA: 0x50000,
  STACK: 0x9000,
  STACK_RING0: 0xa000,
  STACK_IST1: 0xb000,
  STACK_RING3: 0xc000,
} as const;

/** Selectors, with the RPL of those who own them. */
export const SELECTOR = {
  NULL: 0,
  CODE: 0x08,
  DATA: 0x10,
  USER_CODE: 0x1b,
  USER_DATA: 0x23,
  CODE64: 0x28,
  USER_CODE64: 0x33,
  TSS: 0x38,
  CONFORMING: 0x48,
  ABSENT_DATA: 0x50,
  READ_ONLY: 0x58,
  EXECUTE_ONLY: 0x60,
  LDT: 0x68,
  GATE: 0x78,
  CODE16: 0x88,
  DOWN: 0x90,
  ABSENT_CODE: 0x98,
  TSS16_OTHER: 0xa0,
  OTHER_TSS: 0xa8,
  BEYOND: 0x100,
} as const;

/** A descriptor as two words, from its parts. `type` is the low byte of the rights: P, DPL, S and type. */
export const descriptor = (base: number, limit: number, type: number, flags: number): [number, number] => [
  ((base << 16) | (limit & 0xffff)) >>> 0,
  ((base & 0xff000000) | (flags << 20) | (limit & 0xf0000) | (type << 8) | ((base >>> 16) & 0xff)) >>> 0,
];
/** A gate as two words. */
export const gate = (selector: number, offset: number, type: number, low = 0): [number, number] => [
  ((selector << 16) | (offset & 0xffff)) >>> 0,
  ((offset & 0xffff0000) | (type << 8) | low) >>> 0,
];

export type LabMode = 'real' | 'protected' | 'long';
const FLAT = 0xfffff;
const BIG = 0xc; // G and D
const LONG = 0xa; // G and L

const DESCRIPTORS: readonly (readonly [number, [number, number]])[] = [
  [SELECTOR.CODE, descriptor(0, FLAT, 0x9b, BIG)],
  [SELECTOR.DATA, descriptor(0, FLAT, 0x93, BIG)],
  [SELECTOR.USER_CODE, descriptor(0, FLAT, 0xfb, BIG)],
  [SELECTOR.USER_DATA, descriptor(0, FLAT, 0xf3, BIG)],
  [SELECTOR.CODE64, descriptor(0, FLAT, 0x9b, LONG)],
  [SELECTOR.USER_CODE64, descriptor(0, FLAT, 0xfb, LONG)],
  [SELECTOR.CONFORMING, descriptor(0, FLAT, 0x9e, BIG)],
  [SELECTOR.ABSENT_DATA, descriptor(0, FLAT, 0x13, BIG)],
  [SELECTOR.READ_ONLY, descriptor(0, FLAT, 0x91, BIG)],
  [SELECTOR.EXECUTE_ONLY, descriptor(0, FLAT, 0x99, BIG)],
  [SELECTOR.CODE16, descriptor(0, 0xffff, 0x9b, 0)],
  [SELECTOR.DOWN, descriptor(0, 0x0000f, 0x97, BIG)],
  [SELECTOR.ABSENT_CODE, descriptor(0, FLAT, 0x1b, BIG)],
  [SELECTOR.OTHER_TSS, descriptor(0x5000, 0x67, 0x89, 0)],
  [SELECTOR.TSS16_OTHER, descriptor(0x6000, 0x2b, 0x81, 0)],
];

/** A bare machine in a given mode and ring, with a trace. */
export class Lab {
  readonly machine: BareMachine;
  readonly trace = new Recorder();
  readonly mode: LabMode;

  constructor(mode: LabMode, cpl: 0 | 3 = 0, linearAddressBits: 48 | 57 = 48) {
    this.mode = mode;
    this.machine = new BareMachine({ trace: this.trace, linearAddressBits });
    for (const [selector, words] of DESCRIPTORS) this.describe(selector, words);
    this.describe(SELECTOR.TSS, descriptor(PLACE.TSS, 0x67, 0x8b, 0));
    for (let vector = 0; vector < 256; vector++) this.setGate(vector);
    this.#tss();
    if (mode === 'real') this.#enterReal();
    else this.#enterProtected(cpl);
    const { state } = this.cpu;
    state.set64(OFFSET.GDTR_BASE, BigInt(PLACE.GDT));
    state.set32(OFFSET.GDTR_LIMIT, SELECTOR.BEYOND - 1);
    writeFlags(state, FLAG.FIXED);
    this.cpu.modeChanged();
    this.trace.events.length = 0;
  }

  get cpu(): BareMachine['cpu'] {
    return this.machine.cpu;
  }
  get state(): BareMachine['cpu']['state'] {
    return this.cpu.state;
  }

  /** Puts a descriptor into the table. */
  describe(selector: number, [lo, hi]: [number, number]): void {
    const at = this.machine.memory.offset(PLACE.GDT + (selector & 0xfff8), 8);
    this.machine.memory.view.setUint32(at, lo, true);
    this.machine.memory.view.setUint32(at + 4, hi, true);
  }

  /** Makes `vector` lead to its HLT, or wherever `change` says. */
  setGate(vector: number, change: { selector?: number; type?: number; ist?: number } = {}): void {
    const { view } = this.machine.memory;
    const handler = PLACE.HANDLERS + 16 * vector;
    this.machine.load(handler, [0xf4]);
    if (this.mode === 'real') {
      view.setUint32(this.machine.memory.offset(4 * vector, 4), ((PLACE.HANDLERS >> 4) << 16) | (16 * vector), true);
      return;
    }
    const long = this.mode === 'long';
    const words = gate(change.selector ?? (long ? SELECTOR.CODE64 : SELECTOR.CODE), handler, change.type ?? 0x8e, change.ist ?? 0);
    const at = this.machine.memory.offset(PLACE.IDT + (long ? 16 : 8) * vector, 16);
    view.setUint32(at, words[0], true);
    view.setUint32(at + 4, words[1], true);
    if (long) view.setBigUint64(at + 8, 0n, true);
  }

  #tss(): void {
    const { view } = this.machine.memory;
    const at = this.machine.memory.offset(PLACE.TSS, 0x68);
    if (this.mode === 'long') {
      view.setUint32(at + 4, PLACE.STACK_RING0, true);
      view.setUint32(at + 36, PLACE.STACK_IST1, true);
    } else {
      view.setUint32(at + 4, PLACE.STACK_RING0, true);
      view.setUint16(at + 8, SELECTOR.DATA, true);
    }
    view.setUint16(at + 102, 0x68, true); // no I/O bitmap
  }

  #enterReal(): void {
    this.machine.startReal(PLACE.CODE);
    this.state.setSlotNumber(SLOT.RSP, PLACE.STACK);
    loadRealSegment(this.cpu, SEG.CS, PLACE.CODE >> 4);
    this.#start(0);
  }

  #enterProtected(cpl: 0 | 3): void {
    const { state } = this;
    const long = this.mode === 'long';
    state.set64(OFFSET.CR0, BigInt((CR0.PE | CR0.ET | CR0.NE | (long ? CR0.PG : 0)) >>> 0));
    if (long) {
      const { view } = this.machine.memory;
      view.setBigUint64(this.machine.memory.offset(PLACE.TABLES, 8), BigInt(PLACE.TABLES + 0x1000) | 7n, true);
      view.setBigUint64(this.machine.memory.offset(PLACE.TABLES + 0x1000, 8), 0x87n, true); // 1 GiB, identity
      state.set64(OFFSET.CR3, BigInt(PLACE.TABLES));
      state.set64(OFFSET.CR4, BigInt(CR4.PAE));
      state.set64(OFFSET.EFER, BigInt(EFER.LME | EFER.LMA));
    }
    const code = cpl === 0 ? (long ? SELECTOR.CODE64 : SELECTOR.CODE) : long ? SELECTOR.USER_CODE64 : SELECTOR.USER_CODE;
    const data = cpl === 0 ? SELECTOR.DATA : SELECTOR.USER_DATA;
    this.fill(SEG.CS, code);
    for (const seg of [SEG.SS, SEG.DS, SEG.ES, SEG.FS, SEG.GS]) this.fill(seg, data);
    this.fill(SEG.TR, SELECTOR.TSS);
    state.setSegRights(SEG.LDTR, AR.UNUSABLE);
    state.set32(OFFSET.CPL, cpl);
    state.set64(OFFSET.IDTR_BASE, BigInt(PLACE.IDT));
    state.set32(OFFSET.IDTR_LIMIT, (long ? 16 : 8) * 256 - 1);
    state.setSlotNumber(SLOT.RSP, cpl === 0 ? PLACE.STACK : PLACE.STACK_RING3);
    this.#start(PLACE.CODE);
  }

  #start(rip: number): void {
    for (const slot of [SLOT.RIP, SLOT.NEXT_RIP]) this.state.setSlotNumber(slot, rip);
  }

  /** Fills a segment register from its descriptor, with no questions asked. */
  fill(seg: number, selector: number): void {
    const { view } = this.machine.memory;
    const at = this.machine.memory.offset(PLACE.GDT + (selector & 0xfff8), 8);
    const [lo, hi] = [view.getUint32(at, true), view.getUint32(at + 4, true)];
    const limit = (lo & 0xffff) | (hi & 0xf0000);
    const base = ((lo >>> 16) | ((hi & 0xff) << 16) | (hi & 0xff000000)) >>> 0;
    this.state.setSegment(seg, selector, base, 0, hi & (1 << 23) ? ((limit << 12) | 0xfff) >>> 0 : limit, (hi >>> 8) & 0xf0ff);
  }

  /** Runs code from its place until a HLT, its own or a handler's. */
  run(code: readonly number[], maxInstructions = 100): CpuStop {
    this.machine.load(PLACE.CODE, code);
    return this.machine.run(maxInstructions);
  }

  /** The first exception that `code` raises, as the manual writes it: `#GP(10)`, error code in hexadecimal; 'none' when it reaches its HLT. */
  firstException(code: readonly number[]): string {
    const stop = this.run([...code, 0xf4]);
    const first = this.trace.of('exception')[0];
    if (!first) return stop.kind === 'halt' ? 'none' : stop.kind;
    const name = NAMES[first.vector] ?? `${first.vector}`;
    return first.errorCode === null ? `#${name}` : `#${name}(${first.errorCode.toString(16)})`;
  }

  /** A word on the stack of the handler that has been reached, counted from its top. */
  stackWord(n: number, bytes: 2 | 4 | 8 = this.mode === 'long' ? 8 : this.mode === 'real' ? 2 : 4): bigint {
    return this.cpu.mmu.read(this.state.slot(SLOT.RSP) + BigInt(n * bytes), bytes, 2);
  }

  slot(n: number): bigint {
    return this.state.slot(n);
  }
}

const NAMES: Readonly<Record<number, string>> = {
  0: 'DE',
  1: 'DB',
  3: 'BP',
  4: 'OF',
  5: 'BR',
  6: 'UD',
  7: 'NM',
  8: 'DF',
  10: 'TS',
  11: 'NP',
  12: 'SS',
  13: 'GP',
  14: 'PF',
  17: 'AC',
};
