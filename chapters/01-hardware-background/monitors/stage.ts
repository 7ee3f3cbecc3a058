// # The stage
//
// Before VT-x a monitor was a program in ring 0, and its guest a program in a lesser ring. The processor knows nothing of that: it has one descriptor
// table, one interrupt table, and a stack for ring 0. Here they are set up once, as a boot loader would leave them, for all the monitors that follow.
//
// The monitors' handlers are TypeScript. So each gate of the interrupt table leads to a stub of three instructions: it writes to the exit port, which stops
// the processor and returns from `run`; when `run` is called again it drops the error code, if there is one, and executes IRET. In between, the
// monitor reads and edits the frame that the processor pushed. It is the structure of every trap handler, with the middle in another language.

import { BareMachine } from '../bare-machine.ts';
import type { CpuStop } from '../cpu.ts';
import { VECTOR } from '../faults.ts';
import { assert } from '../physical-memory.ts';
import { AR, CR0, OFFSET, SEG, SLOT } from '../state.ts';
import { type Notes, readNotes, specimen } from './specimen.ts';

const GDT_GPA = 0x100;
const TSS_GPA = 0x600;
const IDT_GPA = 0x800;
const STUBS_GPA = 0xa00;
const STUB_BYTES = 8;
const MONITOR_STACK_GPA = 0x5000;
const VECTORS = 64;
const RAM_BYTES = 1 << 20;

const HAS_ERROR_CODE = new Set<number>([VECTOR.DF, VECTOR.TS, VECTOR.NP, VECTOR.SS, VECTOR.GP, VECTOR.PF, VECTOR.AC]);

/** Selectors of the one descriptor table: the monitor's, and the guest's at the ring it was given. */
const MONITOR_CS = 0x08;
const MONITOR_DS = 0x10;
const GUEST_CS = 0x18;
const GUEST_DS = 0x20;
const TASK = 0x28;
/** One descriptor more than the specimen's own table would have: enough to be noticed. */
const MONITOR_GDT_LIMIT = 0x37;

/** An event that brought the processor to ring 0: its vector, and the frame on the monitor's stack. */
export interface Trap {
  readonly vector: number;
  readonly errorCode: number | null;
  /** The guest's registers as pushed. Assigning changes what IRET will restore. */
  eip: number;
  eflags: number;
  esp: number;
}

/** A machine with one ring-0 monitor and one guest in `ring`. */
export class Stage {
  readonly machine = new BareMachine({ ramBytes: RAM_BYTES });
  readonly ring: number;
  /** How often the processor came to ring 0. */
  crossings = 0;
  /** Told of each transition: true when the guest goes on, false when it has come to ring 0. */
  onCrossing: ((inside: boolean) => void) | null = null;

  constructor(ring: number) {
    this.ring = ring;
    const { memory } = this.machine;
    const put32 = (gpa: number, value: number): void => memory.view.setUint32(memory.offset(gpa, 4), value >>> 0, true);
    const descriptor = (selector: number, type: number, dpl: number): void => {
      put32(GDT_GPA + selector, 0xffff);
      put32(GDT_GPA + selector + 4, 0x00cf0000 | ((0x90 | (dpl << 5) | type) << 8));
    };
    descriptor(MONITOR_CS, AR.CODE | AR.READABLE | AR.ACCESSED, 0);
    descriptor(MONITOR_DS, AR.WRITABLE | AR.ACCESSED, 0);
    descriptor(GUEST_CS, AR.CODE | AR.READABLE | AR.ACCESSED, ring);
    descriptor(GUEST_DS, AR.WRITABLE | AR.ACCESSED, ring);
    put32(GDT_GPA + TASK, (TSS_GPA << 16) | 0x67);
    put32(GDT_GPA + TASK + 4, 0x00008b00);
    put32(TSS_GPA + 4, MONITOR_STACK_GPA); // ESP0 and SS0: where the processor goes when the guest traps
    put32(TSS_GPA + 8, MONITOR_DS);
    put32(TSS_GPA + 0x64, 0x68 << 16); // no port bitmap: every port traps
    for (let vector = 0; vector < VECTORS; vector++) {
      const stub = STUBS_GPA + vector * STUB_BYTES;
      put32(IDT_GPA + vector * 8, (MONITOR_CS << 16) | stub);
      put32(IDT_GPA + vector * 8 + 4, vector >= 32 ? 0xee00 : 0x8e00); // from 32 on, the guest may ask with INT
      const drop = HAS_ERROR_CODE.has(vector) ? [0x83, 0xc4, 0x04] : []; // add esp, 4
      this.machine.load(stub, [0xe6, 0xf4, ...drop, 0xcf]); // out 0xf4, al; …; iretd
    }
    this.machine.load(specimen.entry, specimen.code);
    this.#enter();
  }

  #enter(): void {
    const { state } = this.machine.cpu;
    const cs = this.ring === 0 ? MONITOR_CS : GUEST_CS | this.ring;
    const ds = this.ring === 0 ? MONITOR_DS : GUEST_DS | this.ring;
    const rights = AR.P | AR.S | AR.DB | AR.G | (this.ring << AR.DPL_SHIFT) | AR.ACCESSED;
    const load = (seg: number, selector: number, base: number, limit: number, bits: number): void => {
      state.setSegSelector(seg, selector);
      state.setSegBase(seg, BigInt(base));
      state.setSegLimit(seg, limit);
      state.setSegRights(seg, bits);
    };
    load(SEG.CS, cs, 0, 0xffffffff, rights | AR.CODE | AR.READABLE);
    for (const seg of [SEG.SS, SEG.DS, SEG.ES, SEG.FS, SEG.GS]) load(seg, ds, 0, 0xffffffff, rights | AR.WRITABLE);
    load(SEG.TR, TASK, TSS_GPA, 0x67, AR.P | 0xb);
    state.set64(OFFSET.CR0, BigInt(CR0.PE | CR0.ET));
    state.set64(OFFSET.GDTR_BASE, BigInt(GDT_GPA));
    state.set32(OFFSET.GDTR_LIMIT, this.ring === 0 ? specimen.gdtLimit : MONITOR_GDT_LIMIT);
    state.set64(OFFSET.IDTR_BASE, BigInt(IDT_GPA));
    state.set32(OFFSET.IDTR_LIMIT, VECTORS * 8 - 1);
    state.set32(OFFSET.CPL, this.ring);
    state.setSlotNumber(SLOT.RSP, specimen.stackTop);
    this.startAt(specimen.entry);
    this.machine.cpu.modeChanged();
  }

  /** The next instruction to run. */
  startAt(eip: number): void {
    for (const slot of [SLOT.RIP, SLOT.NEXT_RIP]) this.machine.cpu.state.setSlotNumber(slot, eip);
  }

  /** Runs until the guest traps; null when it halted by itself, which only a guest in ring 0 can. */
  next(maxInstructions = 10_000): Trap | null {
    this.onCrossing?.(true);
    const stop: CpuStop = this.machine.run(maxInstructions);
    if (stop.kind === 'halt') return null;
    assert(stop.kind === 'stop', `the guest ended with ${stop.kind}`);
    this.crossings++;
    this.onCrossing?.(false);
    const { memory, cpu } = this.machine;
    const vector = Math.floor((cpu.state.slot32(SLOT.NEXT_RIP) - STUBS_GPA) / STUB_BYTES);
    const hasError = HAS_ERROR_CODE.has(vector);
    const frame = memory.offset(cpu.state.slot32(SLOT.RSP) + (hasError ? 4 : 0), 20);
    const field = (at: number) => ({
      get: (): number => memory.view.getUint32(frame + at, true),
      set: (value: number): void => memory.view.setUint32(frame + at, value >>> 0, true),
      enumerable: true,
    });
    const trap = { vector, errorCode: hasError ? memory.view.getUint32(frame - 4, true) : null };
    return Object.defineProperties(trap, { eip: field(0), eflags: field(8), esp: field(12) }) as Trap;
  }

  get instructions(): number {
    return this.machine.cpu.instructions;
  }

  notes(): Notes {
    return readNotes(this.machine.memory, this.machine.console);
  }

  /** A byte of the guest's code or stack. */
  byte(gpa: number): number {
    return this.machine.memory.u8[this.machine.memory.offset(gpa)] as number;
  }
}
