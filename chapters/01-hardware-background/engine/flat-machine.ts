// # The smallest machine
//
// An engine needs a host. This one has no paging (a linear address is a physical one), no privilege and no devices: just enough around an engine to run
// a piece of code and look at the registers. The chapter's first examples run on it, and so do the tests that compare single instructions with those of a
// real processor.

import { Fault, undefinedOpcode, VECTOR } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import type { SystemOp } from '../isa/system-ops.ts';
import { INFO, TLB } from '../mmu/tlb.ts';
import { PAGE_BYTES, PhysicalMemory } from '../physical-memory.ts';
import { AR, CpuState, CR4, FLAG, MODE, OFFSET, SEG, SLOT } from '../state.ts';
import { ACCESS, Engine, type EngineHost, type EngineOptions, type Stop } from './engine.ts';
import { writeFlags } from './flags.ts';
import { TLB_ENTRY } from './interpreter-functions.ts';

const MXCSR_RESET = 0x1f80; // all exceptions masked, rounding to nearest

/** Code sizes that {@link FlatMachine} can run. */
export const FLAT_MODE = {
  16: MODE.CODE16,
  32: MODE.CODE32 | MODE.STACK32 | MODE.FLAT | MODE.PROTECTED,
  64: MODE.CODE64 | MODE.FLAT | MODE.PROTECTED | MODE.LONG,
} as const;

export class FlatMachine implements EngineHost {
  readonly memory: PhysicalMemory;
  readonly state: CpuState;
  readonly engine: Engine;
  /** System instructions seen, in order. HLT and INT3 stop the machine; the others do nothing, except that `ud` is #UD. */
  readonly seen: SystemOp[] = [];
  /** What is there: addresses from `start` up to `limit`. Those below `readOnlyBelow` cannot be written. */
  start = 0;
  limit: number;
  readOnlyBelow = 0;
  readonly #tlb: number;

  constructor(bits: 16 | 32 | 64 = 64, ramBytes = 1 << 20, options: EngineOptions = {}) {
    this.memory = new PhysicalMemory({ ramBytes, privateBytes: 16 << 20 });
    this.state = new CpuState(this.memory);
    this.#tlb = this.memory.reserve(TLB_ENTRY.BYTES * TLB_ENTRY.COUNT, PAGE_BYTES);
    this.limit = ramBytes;
    const { state } = this;
    state.set32(OFFSET.MODE, FLAT_MODE[bits]);
    state.set32(OFFSET.TLB, this.#tlb);
    state.set64(OFFSET.CR4, BigInt(CR4.OSFXSR | CR4.OSXMMEXCPT));
    state.set32(OFFSET.FPU + 24, MXCSR_RESET);
    for (let segment = 0; segment <= SEG.GS; segment++) {
      state.setSegLimit(segment, bits === 16 ? 0xffff : 0xffffffff);
      state.setSegRights(segment, AR.P | AR.S | AR.WRITABLE | (segment === SEG.CS ? AR.CODE : 0));
    }
    writeFlags(state, FLAG.FIXED);
    this.flushTlb();
    this.engine = new Engine(this.memory, state, this, { ...options, ordinary: false });
  }

  /** Copies code to `at`, points RIP there, runs up to `instructions`. Returns why it stopped. */
  run(code: ArrayLike<number>, { at = 0x1000, instructions = 1000 } = {}): Stop {
    this.memory.slice(at, code.length).set(code);
    this.engine.memoryChanged();
    this.state.setSlotNumber(SLOT.RIP, at);
    return this.resume(instructions);
  }
  resume(instructions: number): Stop {
    this.state.set32(OFFSET.STOP, 0);
    this.state.setNumber(OFFSET.DEADLINE, this.state.getNumber(OFFSET.ICOUNT) + instructions);
    return this.engine.run();
  }

  flushTlb(): void {
    this.memory.u8.fill(0xff, this.#tlb, this.#tlb + TLB_ENTRY.BYTES * TLB_ENTRY.COUNT);
  }
  protectCode(hpa: number): void {
    const entry = this.#entry(hpa);
    this.memory.view.setBigInt64(entry + TLB_ENTRY.WRITE, -1n, true);
  }
  #entry(physical: number): number {
    return this.#tlb + (Math.floor(physical / PAGE_BYTES) % TLB_ENTRY.COUNT) * TLB_ENTRY.BYTES;
  }

  #physical(linear: bigint, bytes: number, access: number): number {
    const physical = Number(linear);
    if (physical < this.start || physical + bytes > this.limit) throw new Fault(VECTOR.PF, access ? 2 : 0, linear);
    if (access !== ACCESS.READ && physical < this.readOnlyBelow) throw new Fault(VECTOR.PF, 3, linear);
    return physical;
  }
  fetch(linear: bigint): number {
    return this.memory.ramOffset + this.#physical(linear, 1, ACCESS.READ);
  }
  translate(linear: bigint, bytes: number, access: number): number {
    const physical = this.#physical(linear, bytes, access);
    if ((physical % PAGE_BYTES) + bytes > PAGE_BYTES) return -1;
    const { view, ramOffset } = this.memory;
    const entry = this.#entry(physical);
    const page = BigInt(physical - (physical % PAGE_BYTES));
    view.setBigInt64(entry + TLB_ENTRY.READ, page, true);
    const writable = access !== ACCESS.READ && !this.engine.holdsCode(physical);
    view.setBigInt64(entry + TLB_ENTRY.WRITE, writable ? page : -1n, true);
    view.setInt32(entry + TLB_ENTRY.ADDEND, ramOffset, true);
    view.setInt32(entry + TLB.INFO, Number(page) >= this.readOnlyBelow ? INFO.MAY_WRITE : 0, true);
    return ramOffset + physical;
  }
  readSlow(linear: bigint, bytes: number, access: number): bigint {
    const at = this.#physical(linear, bytes, access);
    let value = 0n;
    for (let i = bytes - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.memory.u8[this.memory.ramOffset + at + i] as number);
    return value;
  }
  writeSlow(linear: bigint, bytes: number, value: bigint): void {
    const at = this.#physical(linear, bytes, ACCESS.WRITE);
    this.engine.codeWritten(at, bytes);
    for (let i = 0; i < bytes; i++) this.memory.u8[this.memory.ramOffset + at + i] = Number((value >> BigInt(8 * i)) & 0xffn);
  }
  portRead(_port: number, bytes: number): number {
    return 2 ** (8 * bytes) - 1;
  }
  portWrite(): void {}
  system(op: SystemOp, _insn: Instruction): null {
    this.seen.push(op);
    if (op === 'ud') throw undefinedOpcode();
    if (op === 'hlt' || op === 'int3') this.state.set32(OFFSET.STOP, 1);
    return null;
  }
}
