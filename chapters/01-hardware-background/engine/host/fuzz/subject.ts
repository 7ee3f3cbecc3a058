// # The modelled processor in the small world
//
// A whole processor, not only its engine: in long mode, at privilege level 3, with the page tables, descriptors and gates that a process of Linux has under
// it. Exceptions are delivered through real gates to handlers that halt, and the outcome is read off the stack frame, so delivery is under test as well.
//
// Nearly everything that a case can change lies in the state page, so a case begins with a copy of a page prepared beforehand.

import { Cpu } from '../../../cpu.ts';
import { PAGE_BYTES, PhysicalMemory } from '../../../physical-memory.ts';
import { AR, CR0, CR4, EFER, FLAG, OFFSET, SEG, SLOT } from '../../../state.ts';
import { readFlags, writeFlags } from '../../flags.ts';
import { MARGIN } from '../../jump-cache.ts';
import { type Batch, CASE, FX, OUTCOME, type Program, type Records, SIGNAL } from './records.ts';
import { type Bits, codeBase, LANDING, LOCAL, PLACE, POINTER, SELECTOR, USUAL_SEGMENTS } from './world.ts';

// Where the kernel's things are, in physical memory. All of it is mapped in the upper half of the address space, for the supervisor alone.
const ROOT = 0x10000;
const GDT = 0x20000;
const LDT = 0x20400;
const IDT = 0x21000;
const TSS = 0x22000;
const HANDLERS = 0x23000;
const HANDLER_BYTES = 16;
const STACK = 0x30000;
const WAY_OUT = 0x40000;
/** Where the jump at LANDING leads. */
const OUT = LANDING + 0x10;
const UPPER = 0xffff8000_00000000n;
const KERNEL_CODE = 0x10;
const GDT_ENTRIES = 16;
const HAS_ERROR_CODE = new Set([8, 10, 11, 12, 13, 14, 17, 21]);
/** Gates that a program may go through with INT: INT3, INTO and Linux's system call. */
const OPEN_GATES = new Set([3, 4, 0x80]);
const SYSTEM_CALL_GATE = 0x80;
/** Instructions after which a case is taken to be endless. One that calls itself ends where its stack does. */
const PATIENCE = 1 << 14;

/** A descriptor as two words; `type` is the low byte of the rights, `flags` G, D, L and AVL. */
const descriptor = (base: number, limit: number, type: number, flags: number): [number, number] => [
  ((base << 16) | (limit & 0xffff)) >>> 0,
  ((base & 0xff000000) | (flags << 20) | (limit & 0xf0000) | (type << 8) | ((base >>> 16) & 0xff)) >>> 0,
];
// biome-ignore format: table
const GLOBAL: readonly (readonly [number, [number, number]])[] = [
  [0x08, descriptor(0, 0xfffff, 0x9b, 0xc)], [KERNEL_CODE, descriptor(0, 0xfffff, 0x9b, 0xa)], [0x18, descriptor(0, 0xfffff, 0x93, 0xc)],
  [SELECTOR.CODE32, descriptor(0, 0xfffff, 0xfb, 0xc)], [SELECTOR.DATA, descriptor(0, 0xfffff, 0xf3, 0xc)],
  [SELECTOR.CODE64, descriptor(0, 0xfffff, 0xfb, 0xa)], [SELECTOR.PER_CPU, descriptor(0, 0, 0xf5, 0x4)],
];
const SEGMENT_ORDER = [SEG.CS, SEG.SS, SEG.DS, SEG.ES, SEG.FS, SEG.GS];
const CASE_SEGMENTS = [CASE.CS, CASE.SS, CASE.DS, CASE.ES, CASE.FS, CASE.GS];
const OUTCOME_SEGMENTS = [OUTCOME.CS, OUTCOME.SS, OUTCOME.DS, OUTCOME.ES, OUTCOME.FS, OUTCOME.GS];

/** The modelled processor, ready for cases. */
export class Subject {
  readonly cpu: Cpu;
  readonly #memory: PhysicalMemory;
  readonly #data: Uint8Array;
  readonly #data32: Int32Array;
  readonly #pristine: Int32Array = new Int32Array(PLACE.DATA_BYTES / 4);
  readonly #pristineBytes = new Uint8Array(this.#pristine.buffer);
  readonly #templates = new Map<Bits, Uint8Array>();
  readonly #changes: Uint8Array[] = [];
  #program: Program | null = null;
  #end = 0;
  #codeSelector = 0;

  readonly #translated: boolean;

  /** `translated`: everything that can be is translated before it runs. */
  constructor({ translated = false } = {}) {
    this.#translated = translated;
    this.#memory = new PhysicalMemory({ ramBytes: 2 << 20 });
    this.cpu = new Cpu({ memory: this.#memory, translate: translated, heat: 0 });
    this.#data = this.#memory.slice(PLACE.DATA, PLACE.DATA_BYTES);
    this.#data32 = new Int32Array(this.#memory.buffer, this.#memory.offset(PLACE.DATA), PLACE.DATA_BYTES / 4);
    this.#memory.slice(PLACE.CODE, PLACE.CODE_BYTES).fill(0xcc);
    this.#pageTables();
    this.#descriptorTables();
    for (const bits of [16, 32, 64] as const) this.#prepare(bits);
  }

  // ## Setting the world up

  #pageTables(): void {
    const { view } = this.#memory;
    const set = (table: number, index: number, value: bigint): void => view.setBigUint64(this.#memory.offset(table + 8 * index), value, true);
    const [low, directory, pages, upper, upperDirectory] = [1, 2, 3, 4, 5].map((n) => ROOT + n * PAGE_BYTES) as [
      number,
      number,
      number,
      number,
      number,
    ];
    set(ROOT, 0, BigInt(low) | 7n);
    set(low, 0, BigInt(directory) | 7n);
    set(directory, 0, BigInt(pages) | 7n);
    set(ROOT, 256, BigInt(upper) | 3n);
    set(upper, 0, BigInt(upperDirectory) | 3n);
    set(upperDirectory, 0, 0xe3n); // 2 MiB, accessed and dirty
    const noExecute = 1n << 63n;
    for (let page = PLACE.CODE; page < PLACE.END; page += PAGE_BYTES) {
      const index = page / PAGE_BYTES;
      if (page < PLACE.CODE + PLACE.CODE_BYTES) set(pages, index, BigInt(page) | 0x65n);
      else if (page >= PLACE.DATA) set(pages, index, BigInt(page) | noExecute | (page < PLACE.DATA + PLACE.WRITABLE_BYTES ? 0x67n : 0x65n));
    }
    this.#wayOut(set);
  }

  /** The page at LANDING, with the same jump as in the native runner: a program may find the way there by itself, for it lies in its own code. */
  #wayOut(set: (table: number, index: number, value: bigint) => void): void {
    const [directory, pages] = [6, 7].map((n) => ROOT + n * PAGE_BYTES) as [number, number];
    const index = (shift: number): number => Math.floor(LANDING / 2 ** shift) & 0x1ff;
    set(ROOT + PAGE_BYTES, index(30), BigInt(directory) | 7n);
    set(directory, index(21), BigInt(pages) | 7n);
    set(pages, index(12), BigInt(WAY_OUT) | 0x65n);
    this.#memory.slice(WAY_OUT, 6).set([0xff, 0x25, 2, 0, 0, 0]); // jmp [rip + 2]
    this.#memory.view.setBigUint64(this.#memory.offset(WAY_OUT + 8), BigInt(OUT), true);
    this.#memory.slice(WAY_OUT + OUT - LANDING, 1)[0] = 0xf4;
  }

  #descriptorTables(): void {
    const { view } = this.#memory;
    const set = (at: number, [lo, hi]: readonly [number, number]): void => {
      view.setUint32(this.#memory.offset(at), lo, true);
      view.setUint32(this.#memory.offset(at + 4), hi, true);
    };
    for (const [selector, words] of GLOBAL) set(GDT + (selector & ~7), words);
    for (const [index, { base, limit, big, contents, restricted, absent }] of LOCAL.entries()) {
      const type = 0x71 | (contents << 2) | (restricted ? 0 : 2) | (absent ? 0 : 0x80);
      set(LDT + 8 * index, descriptor(base, limit, type, big ? 4 : 0));
    }
    const handlers = HANDLERS & 0xffff;
    for (let vector = 0; vector < 256; vector++) {
      const type = OPEN_GATES.has(vector) ? 0xee : 0x8e;
      const at = IDT + 16 * vector;
      set(at, [(KERNEL_CODE << 16) | (handlers + HANDLER_BYTES * vector), ((HANDLERS & ~0xffff) | (type << 8)) >>> 0]);
      set(at + 8, [Number(UPPER >> 32n), 0]);
      this.#memory.slice(HANDLERS + HANDLER_BYTES * vector, 1)[0] = 0xf4;
    }
    view.setBigUint64(this.#memory.offset(TSS + 4), UPPER + BigInt(STACK), true);
    view.setUint16(this.#memory.offset(TSS + 102), 0x68, true); // no I/O permission bitmap
  }

  #prepare(bits: Bits): void {
    const { cpu } = this;
    const { state } = cpu;
    state.set64(OFFSET.CR0, BigInt((CR0.PE | CR0.MP | CR0.ET | CR0.NE | CR0.WP | CR0.AM | CR0.PG) >>> 0));
    state.set64(OFFSET.CR3, BigInt(ROOT));
    state.set64(OFFSET.CR4, BigInt(CR4.DE | CR4.PSE | CR4.PAE | CR4.PGE | CR4.OSFXSR | CR4.OSXMMEXCPT | CR4.FSGSBASE | CR4.OSXSAVE));
    state.set64(OFFSET.EFER, BigInt(EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE));
    state.set64(OFFSET.XCR0, 3n);
    state.set64(OFFSET.GDTR_BASE, UPPER + BigInt(GDT));
    state.set32(OFFSET.GDTR_LIMIT, 8 * GDT_ENTRIES - 1);
    state.set64(OFFSET.IDTR_BASE, UPPER + BigInt(IDT));
    state.set32(OFFSET.IDTR_LIMIT, 16 * 256 - 1);
    this.#system(SEG.LDTR, UPPER + BigInt(LDT), 8 * LOCAL.length - 1, AR.P | 2);
    this.#system(SEG.TR, UPPER + BigInt(TSS), 0x67, AR.P | 0xb);
    state.set32(OFFSET.CPL, 3);
    this.#load(USUAL_SEGMENTS[bits]);
    writeFlags(state, FLAG.FIXED | FLAG.IF);
    cpu.modeChanged();
    cpu.flushTranslations('control-register');
    this.#templates.set(bits, state.u8.slice());
  }
  #system(seg: number, base: bigint, limit: number, rights: number): void {
    const { state } = this.cpu;
    state.setSegSelector(seg, seg === SEG.TR ? 0x40 : 0x50);
    state.setSegBase(seg, base);
    state.setSegLimit(seg, limit);
    state.setSegRights(seg, rights);
  }

  /** Fills the segment registers, with no questions asked. */
  #load(selectors: readonly number[]): void {
    const { state } = this.cpu;
    const { view } = this.#memory;
    for (const [n, selector] of selectors.entries()) {
      const seg = SEGMENT_ORDER[n] as number;
      const at = this.#memory.offset((selector & 4 ? LDT : GDT) + (selector & ~7));
      const [lo, hi] = selector & ~3 ? [view.getUint32(at, true), view.getUint32(at + 4, true)] : [0, AR.UNUSABLE << 8];
      const limit = (lo & 0xffff) | (hi & 0xf0000);
      state.setSegSelector(seg, selector);
      state.setSegBase(seg, BigInt(((lo >>> 16) | ((hi & 0xff) << 16) | (hi & 0xff000000)) >>> 0));
      state.setSegLimit(seg, hi & (AR.G << 8) ? ((limit << 12) | 0xfff) >>> 0 : limit);
      state.setSegRights(seg, (hi >>> 8) & (0xf0ff | AR.UNUSABLE));
    }
  }

  // ## Cases

  /** Makes the data pages those of a batch. */
  enter(batch: Batch): void {
    this.#data.set(batch.data);
    this.#pristine.set(this.#data32);
    this.#changes.length = 0;
    this.#show(null);
  }

  /** What a case has changed: by the number in its outcome. */
  changed(at: number): Uint8Array {
    return this.#changes[at] as Uint8Array;
  }

  /** Puts a program into the code pages, in place of the one before. */
  #show(program: Program | null, batch?: Batch, index = 0): void {
    if (this.#program === program) return;
    const { engine } = this.cpu;
    if (this.#program) this.#poke(engine, this.#program.offset, new Uint8Array(CASE.CODE_BYTES).fill(0xcc));
    if (program && batch) this.#poke(engine, program.offset, batch.cases.slice(index, CASE.CODE, batch.cases.u32(index, CASE.LENGTH)));
    this.#program = program;
  }
  #poke(engine: Cpu['engine'], offset: number, bytes: Uint8Array): void {
    engine.codeWritten(PLACE.CODE + offset, bytes.length);
    this.#memory.slice(PLACE.CODE + offset, bytes.length).set(bytes);
  }

  /** Runs case number `index`, and describes what came of it in record `at` of `out`. */
  run(batch: Batch, index: number, out: Records, at = index): void {
    const { cpu } = this;
    const { state } = cpu;
    const { cases } = batch;
    const program = batch.programs[batch.program[index] as number] as Program;
    this.#show(program, batch, index);
    const now = state.get64(OFFSET.ICOUNT);
    state.u8.set(this.#templates.get(program.bits) as Uint8Array);
    state.set64(OFFSET.ICOUNT, now);
    const usual = USUAL_SEGMENTS[program.bits];
    if (CASE_SEGMENTS.some((field, n) => cases.u16(index, field) !== usual[n])) this.#load(CASE_SEGMENTS.map((field) => cases.u16(index, field)));
    state.u8.set(cases.slice(index, CASE.GPR, 128), 0);
    if (program.bits === 64) {
      state.set64(OFFSET.SEGMENTS + 32 * SEG.FS, cases.u64(index, CASE.FS_BASE));
      state.set64(OFFSET.SEGMENTS + 32 * SEG.GS, cases.u64(index, CASE.GS_BASE));
    }
    this.#loadFpu(cases.slice(index, CASE.FX, FX.BYTES));
    writeFlags(state, cases.u32(index, CASE.FLAGS));
    this.#codeSelector = cases.u16(index, CASE.CS);
    const base = codeBase(this.#codeSelector);
    const start = (base ? 0 : PLACE.CODE) + program.offset;
    state.setSlotNumber(SLOT.RIP, start);
    state.setSlotNumber(SLOT.NEXT_RIP, start);
    cpu.modeChanged();
    cpu.eventsChanged();
    const end = start + cases.u32(index, CASE.END);
    if (this.#translated) this.#goOn(end, out, at);
    else this.#go(program, end, out, at);
    this.#report(out, at);
  }

  #go(program: Program, end: number, out: Records, at: number): void {
    const { cpu } = this;
    const { state } = cpu;
    let stop = cpu.run(program.starts.length);
    for (let n = 0; stop.kind === 'deadline' && n < PATIENCE; n++) {
      if (state.slot32(SLOT.RIP) === end && state.slot(SLOT.RIP) === BigInt(end)) break;
      stop = cpu.run(1);
    }
    let signal: number = SIGNAL.NONE;
    let vector = 0;
    if (stop.kind === 'halt') {
      vector = Math.floor((Number(state.slot(SLOT.RIP) - UPPER) - HANDLERS) / HANDLER_BYTES);
      signal = vector === SYSTEM_CALL_GATE ? SIGNAL.SYSTEM_CALL : SIGNAL.EXCEPTION;
    } else if (stop.kind !== 'deadline') signal = SIGNAL.BROKEN;
    else if (state.slot(SLOT.RIP) !== BigInt(end)) signal = SIGNAL.TIMEOUT;
    // A SYSCALL or SYSENTER has gone to where no kernel has set an entry.
    if (signal !== SIGNAL.EXCEPTION && state.get32(OFFSET.CPL) === 0) signal = SIGNAL.SYSTEM_CALL;
    out.setU32(at, OUTCOME.SIGNAL, signal);
    out.setU32(at, OUTCOME.VECTOR, vector);
    this.#end = end;
  }

  /**
   * Translated code is entered only when there is time for all of it, so the case is not stopped at its end: it runs on into the jump that leaves, and that
   * arrives where it may not go on.
   */
  #goOn(end: number, out: Records, at: number): void {
    const { state } = this.cpu;
    const stop = this.cpu.run(2 * MARGIN);
    let [signal, vector]: [number, number] = [SIGNAL.BROKEN, 0];
    if (stop.kind === 'deadline') signal = SIGNAL.TIMEOUT;
    if (stop.kind === 'halt') {
      vector = Math.floor((Number(state.slot(SLOT.RIP) - UPPER) - HANDLERS) / HANDLER_BYTES);
      signal = vector === SYSTEM_CALL_GATE ? SIGNAL.SYSTEM_CALL : SIGNAL.EXCEPTION;
    }
    if (signal !== SIGNAL.EXCEPTION && state.get32(OFFSET.CPL) === 0) signal = SIGNAL.SYSTEM_CALL;
    out.setU32(at, OUTCOME.SIGNAL, signal);
    out.setU32(at, OUTCOME.VECTOR, vector);
    this.#end = end;
  }

  #report(out: Records, at: number): void {
    const { state } = this.cpu;
    out.bytes.set(state.u8.subarray(0, 128), at * OUTCOME.BYTES + OUTCOME.GPR);
    for (const [n, field] of OUTCOME_SEGMENTS.entries()) out.setU16(at, field, state.segSelector(SEGMENT_ORDER[n] as number));
    const vector = out.u32(at, OUTCOME.VECTOR);
    const signal = out.u32(at, OUTCOME.SIGNAL);
    out.setU32(at, OUTCOME.ERROR, 0);
    out.setU64(at, OUTCOME.CR2, state.get64(OFFSET.CR2));
    if (signal === SIGNAL.EXCEPTION || vector === SYSTEM_CALL_GATE) {
      const { view } = this.#memory;
      const frame = this.#memory.offset(STACK - 40);
      const word = (n: number): bigint => view.getBigUint64(frame + 8 * n, true);
      if (HAS_ERROR_CODE.has(vector)) out.setU32(at, OUTCOME.ERROR, Number(view.getBigUint64(frame - 8, true)));
      out.setU64(at, OUTCOME.RIP, word(0));
      out.setU16(at, OUTCOME.CS, Number(word(1) & 0xffffn));
      out.setU64(at, OUTCOME.FLAGS, word(2));
      out.setU64(at, OUTCOME.GPR + 8 * SLOT.RSP, word(3));
      out.setU16(at, OUTCOME.SS, Number(word(4) & 0xffffn));
      this.#recognizeEnd(out, at);
    } else {
      out.setU64(at, OUTCOME.RIP, state.slot(SLOT.RIP));
      out.setU64(at, OUTCOME.FLAGS, BigInt(readFlags(state)));
    }
    out.setU64(at, OUTCOME.FS_BASE, state.segBase(SEG.FS));
    out.setU64(at, OUTCOME.GS_BASE, state.segBase(SEG.GS));
    this.#storeFpu(out.slice(at, OUTCOME.FX, FX.BYTES));
    this.#memoryChanges(out, at);
  }

  /** An exception of the jump that leaves, or beyond it, is the end of the case. */
  #recognizeEnd(out: Records, at: number): void {
    const rip = out.u64(at, OUTCOME.RIP);
    const vector = out.u32(at, OUTCOME.VECTOR);
    const landed = rip === BigInt(OUT) || (rip === BigInt(LANDING) && vector === 1); // by a trap
    const left = rip === BigInt(this.#end) && vector === 14 && out.u64(at, OUTCOME.CR2) === BigInt(POINTER);
    if (!landed && !left) return;
    out.setU32(at, OUTCOME.SIGNAL, SIGNAL.NONE);
    out.setU64(at, OUTCOME.RIP, BigInt(this.#end));
    out.setU16(at, OUTCOME.CS, this.#codeSelector);
    out.setU64(at, OUTCOME.FLAGS, out.u64(at, OUTCOME.FLAGS) & ~BigInt(FLAG.RF));
  }

  // The state page has the floating-point registers where they are, the image has them as the top of the stack sees them.

  #loadFpu(image: Uint8Array): void {
    const { u8 } = this.cpu.state;
    u8.set(image, OFFSET.FPU);
    const top = ((image[FX.FSW + 1] as number) >> 3) & 7;
    if (top === 0) return;
    for (let n = 0; n < 8; n++) u8.set(image.subarray(FX.ST + 16 * n, FX.ST + 16 * n + 16), OFFSET.FPU + FX.ST + 16 * ((top + n) & 7));
  }
  #storeFpu(image: Uint8Array): void {
    const { fpu } = this.cpu.state;
    image.set(fpu);
    const top = ((image[FX.FSW + 1] as number) >> 3) & 7;
    if (top === 0) return;
    for (let n = 0; n < 8; n++) {
      const at = FX.ST + 16 * ((top + n) & 7);
      image.set(fpu.subarray(at, at + 16), FX.ST + 16 * n);
    }
  }

  #memoryChanges(out: Records, at: number): void {
    const words = this.#data32;
    const before = this.#pristine;
    const end = PLACE.DATA_BYTES / 4;
    out.setU32(at, OUTCOME.CHANGED_BYTES, 0);
    out.setU32(at, OUTCOME.FIRST, 0);
    if (Buffer.compare(this.#data, this.#pristineBytes) === 0) return;
    let first = 0;
    while (first < end && words[first] === before[first]) first++;
    let last = end - 1;
    while (words[last] === before[last]) last--;
    out.setU32(at, OUTCOME.FIRST, 4 * first);
    out.setU32(at, OUTCOME.CHANGED_BYTES, 4 * (last + 1 - first));
    out.setU64(at, OUTCOME.CHANGED, BigInt(this.#changes.length));
    this.#changes.push(this.#data.slice(4 * first, 4 * (last + 1)));
    words.set(before.subarray(first, last + 1), first);
  }
}
