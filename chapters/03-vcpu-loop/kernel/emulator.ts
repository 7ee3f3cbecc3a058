// # Emulating one instruction
//
// The hardware tells a great deal about an exit, but not what a memory access was *for*. When a guest touches a device register, KVM knows the
// address and the direction. It does not know whether the instruction was a MOV, an ADD or a PUSH, nor which register is involved. So it fetches the
// instruction from guest memory, decodes it and executes it in software: `arch/x86/kvm/emulate.c`, five thousand lines.
//
// This kernel has an easier life, because instructions already have a software definition in this book. The emulator is a second execution engine
// with a register file of its own. The vCPU's registers are copied in; its memory accesses are answered here, by walking the guest's tables and
// looking at the slots; one instruction is executed; the registers are copied back. What an instruction means is written down once.
//
// The hard part is not execution but *waiting*. An access to a device needs an answer that only the VMM has, and the VMM is on the other side of
// KVM_RUN. So the attempt is abandoned, with no trace left: the registers were a copy, and writes to memory are kept in a journal until the end.
// When the VMM comes back with a value, the instruction is executed again from the start, and now the read finds its answer recorded. An instruction
// with two device reads is executed three times.

import { Engine, type EngineHost, type Stop } from '../../01-hardware-background/engine/engine.ts';
import { readFlags, writeFlags } from '../../01-hardware-background/engine/flags.ts';
import { Fault, VECTOR, VmExit } from '../../01-hardware-background/faults.ts';
import { effectiveAddress, type Instruction } from '../../01-hardware-background/isa/instruction.ts';
import type { SystemOp } from '../../01-hardware-background/isa/system-ops.ts';
import { type Gpa, lowHalf, PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { AR, CpuState, FLAG, MODE, OFFSET, SEG, SLOT } from '../../01-hardware-background/state.ts';
import { FIELD } from '../../01-hardware-background/vmx/vmcs.ts';
import { type Access, type Paging, pagingOf, walkGuest } from '../../02-kvm-objects/soft/guest-walk.ts';
import type { Hardware } from '../../02-kvm-objects/soft/hardware.ts';
import { SEGMENT_FIELDS, type SegmentFields, type SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import type { SoftVm } from '../../02-kvm-objects/soft/vm.ts';
import { modeOf } from './mode.ts';

const TLB_BYTES = 512 * 32;
/** Room for decoded instructions: they are few, and each is decoded for itself. */
const ARENA_BYTES = 256 << 10;
/** The segments that an instruction can use here; those that load the other two are not emulated. */
const SEGMENTS = [SEG.ES, SEG.CS, SEG.SS, SEG.DS, SEG.FS, SEG.GS] as const;
const MODIFY = 2;

/** One device access of at most 8 bytes, which is what one KVM_EXIT_MMIO can describe. */
export interface MmioAccess {
  readonly gpa: Gpa;
  readonly bytes: number;
  /** Little-endian value of a write. */
  readonly value: bigint;
}

/** A string port instruction: what it needs from, or has for, the port. */
export interface StringPort {
  readonly port: number;
  readonly size: 1 | 2 | 4;
  readonly count: number;
}

/** Reads a device that the kernel has; null when nobody in the kernel answers. */
type AskKernel = (gpa: Gpa, bytes: number) => bigint | null;
const NOBODY: AskKernel = () => null;

/** How an attempt ended. */
type Emulated =
  | { readonly kind: 'done'; readonly writes: readonly MmioAccess[]; readonly out: (StringPort & { value: number }) | null }
  | { readonly kind: 'read'; readonly access: MmioAccess } // call again when the answer is in `answers`
  | { readonly kind: 'in'; readonly port: StringPort } // call again when the items are in `items`
  | { readonly kind: 'fault'; readonly fault: Fault }
  | { readonly kind: 'unhandled' };

/** Thrown through the engine to abandon the attempt. The engine hands on a VmExit untouched, so it serves as the envelope. */
class Abandon extends VmExit {
  readonly why: Emulated;
  constructor(why: Emulated) {
    super(-1);
    this.why = why;
  }
}
const UNHANDLED: Emulated = { kind: 'unhandled' };

/** Bytes that go to RAM when the instruction is done; none crosses a page. */
interface JournalEntry {
  readonly gpa: Gpa;
  readonly data: Uint8Array;
}

/** A string port instruction that has been executed, and where. */
interface PortString {
  readonly rip: bigint;
  readonly nextRip: bigint;
  readonly mode: number;
  readonly code: Uint8Array;
  readonly op: 'ins' | 'outs';
  readonly insn: Instruction;
}

/** The engine, its registers and its view of memory: one for the kernel, used for one vCPU at a time. */
export class Emulator implements EngineHost {
  readonly #state: CpuState;
  readonly #engine: Engine;
  readonly #hardware: Hardware;
  #vcpu!: SoftVcpu;
  #vm!: SoftVm;
  #paging!: Paging;
  #user = false;
  #acSet = false;
  // Values of device reads, in the order of the requests; the attempt consumes them from the start.
  #answers: bigint[] = [];
  #answersUsed = 0;
  #ask: AskKernel = NOBODY;
  #items: Uint8Array | null = null;
  #writes: MmioAccess[] = [];
  #journal: JournalEntry[] = [];
  #out: (StringPort & { value: number }) | null = null;
  #lastPorts: PortString | null = null;

  constructor(hardware: Hardware) {
    this.#hardware = hardware;
    this.#state = new CpuState(hardware.memory);
    this.#engine = new Engine(hardware.memory, this.#state, this, { arenaBytes: ARENA_BYTES, ordinary: false });
    this.#engine.oneIteration = true;
    const tlb = hardware.memory.reserve(TLB_BYTES, PAGE_BYTES);
    hardware.memory.u8.fill(0xff, tlb, tlb + TLB_BYTES); // a bank that never hits
    this.#state.set32(OFFSET.TLB, tlb);
  }

  // @clause x86.mmio.string
  /**
   * Executes the instruction at the vCPU's RIP, or one iteration of a repeated one. `answers` are the values of its device reads so far, and what the kernel's
   * devices answer is added to them: a read has side effects and is done once, however often the instruction is tried. `items` is the data of its string
   * input. Nothing of the vCPU changes unless the result is `done`.
   */
  attempt(vcpu: SoftVcpu, answers: bigint[], items: Uint8Array | null, ask: AskKernel = NOBODY): Emulated {
    this.#vcpu = vcpu;
    this.#vm = vcpu.vm;
    this.#answers = answers;
    this.#answersUsed = 0;
    this.#ask = ask;
    this.#items = items;
    this.#writes = [];
    this.#journal = [];
    this.#out = null;
    this.#copyIn();
    const stop = this.#again() ?? this.#runOne();
    if (stop.kind === 'fault') return { kind: 'fault', fault: stop.fault };
    if (stop.kind === 'vmexit') return stop.exit instanceof Abandon ? stop.exit.why : UNHANDLED;
    this.#commit();
    return { kind: 'done', writes: this.#writes, out: this.#out };
  }

  #runOne(): Stop {
    const state = this.#state;
    state.fpu.set(this.#hardware.cpu.state.fpu);
    this.#engine.memoryChanged();
    state.set32(OFFSET.STOP, 0);
    state.set32(OFFSET.EVENTS, 0);
    state.set64(OFFSET.DEADLINE, state.get64(OFFSET.ICOUNT) + 1n);
    const stop = this.#engine.run();
    if (stop.kind !== 'fault' && stop.kind !== 'vmexit') this.#hardware.cpu.state.fpu.set(state.fpu);
    return stop;
  }

  // A driver that writes to a disk by its port makes an exit for each word, and each time it is the same instruction. Nothing of a string port instruction is a
  // micro-operation: the engine finds out what it is and hands it back to `system` below. When it is plainly the one of last time, the engine is not asked.

  /** Executes the string port instruction of last time, if this is the same; null: it is another. */
  #again(): Stop | null {
    const last = this.#lastPorts;
    const state = this.#state;
    if (!last || last.rip !== this.#vcpu.rip || last.mode !== state.get32(OFFSET.MODE)) return null;
    try {
      const place = this.fetch(this.#vcpu.linearRip);
      const { u8 } = this.#hardware.memory;
      for (let n = 0; n < last.code.length; n++) if (u8[place + n] !== last.code[n]) return null;
      state.setSlot(SLOT.NEXT_RIP, last.nextRip);
      this.#ports(last.op, last.insn);
      state.setSlot(SLOT.RIP, state.slot(SLOT.NEXT_RIP));
      return { kind: 'deadline' };
    } catch (thrown) {
      if (thrown instanceof Fault) return { kind: 'fault', fault: thrown };
      if (thrown instanceof Abandon) return { kind: 'vmexit', exit: thrown };
      throw thrown;
    }
  }

  #remember(op: 'ins' | 'outs', insn: Instruction): void {
    const state = this.#state;
    const place = this.fetch(this.#vcpu.linearRip);
    const inPage = (place % PAGE_BYTES) + insn.length <= PAGE_BYTES;
    const code = this.#hardware.memory.u8.slice(place, place + insn.length);
    this.#lastPorts = inPage ? { rip: this.#vcpu.rip, mode: state.get32(OFFSET.MODE), nextRip: state.slot(SLOT.NEXT_RIP), code, op, insn } : null;
  }

  // ## Registers, in and out

  #copyIn(): void {
    const vcpu = this.#vcpu;
    const hardware = this.#hardware;
    const state = this.#state;
    state.u64.set(vcpu.regs, SLOT.RAX);
    state.setSlot(SLOT.RSP, hardware.read(FIELD.GUEST_RSP));
    state.setSlot(SLOT.RIP, vcpu.rip);
    state.setSlot(SLOT.NEXT_RIP, vcpu.rip);
    const flags = hardware.read32(FIELD.GUEST_RFLAGS);
    writeFlags(state, flags & ~(FLAG.TF | FLAG.RF)); // the trap is the caller's to raise
    for (const seg of SEGMENTS) {
      const fields = SEGMENT_FIELDS[seg] as SegmentFields;
      state.setSegBase(seg, hardware.read(fields.base));
      state.setSegLimit(seg, hardware.read32(fields.limit));
      state.setSegRights(seg, hardware.read32(fields.rights));
      state.setSegSelector(seg, hardware.read32(fields.selector));
    }
    this.#paging = pagingOf(vcpu);
    state.set64(OFFSET.CR0, this.#paging.cr0);
    state.set64(OFFSET.CR3, this.#paging.cr3);
    state.set64(OFFSET.CR4, this.#paging.cr4);
    state.set64(OFFSET.EFER, this.#paging.efer);
    state.set64(OFFSET.XCR0, hardware.cpu.state.get64(OFFSET.XCR0));
    const cpl = (state.segRights(SEG.SS) & AR.DPL) >> AR.DPL_SHIFT;
    state.set32(OFFSET.CPL, cpl);
    state.set32(OFFSET.MODE, modeOf(state));
    this.#user = cpl === 3;
    this.#acSet = (flags & FLAG.AC) !== 0;
  }

  #commit(): void {
    const vcpu = this.#vcpu;
    const hardware = this.#hardware;
    const state = this.#state;
    for (const { gpa, data } of this.#journal) this.#store(gpa, data);
    vcpu.regs.set(state.u64.subarray(SLOT.RAX, SLOT.RAX + 16));
    hardware.write(FIELD.GUEST_RSP, state.slot(SLOT.RSP));
    hardware.write(FIELD.GUEST_RIP, state.slot(SLOT.RIP));
    const kept = hardware.read32(FIELD.GUEST_RFLAGS) & FLAG.TF;
    hardware.write32(FIELD.GUEST_RFLAGS, readFlags(state) | kept);
  }

  // ## Memory, as the instruction sees it

  #walk(linear: bigint, write: boolean, fetch = false): Gpa {
    const access: Access = { write, fetch, user: this.#user, acSet: this.#acSet };
    const walked = walkGuest(this.#vm, this.#paging, linear, access);
    if ('gpa' in walked) return walked.gpa;
    throw new Fault(VECTOR.PF, walked.errorCode, linear);
  }

  /** Code must be RAM: no processor that KVM supports could tell the VMM about a fetch. */
  fetch(linear: bigint): number {
    const hpa = this.#vm.hpaOf(this.#walk(linear, false, true), false);
    if (hpa < 0) throw new Abandon(UNHANDLED);
    return this.#hardware.memory.offset(hpa);
  }

  translate(): number {
    return -1; // every access comes by here, RAM or not
  }

  protectCode(): void {}

  // An access may cross a page, and the two halves may be anything: RAM and RAM, RAM and a device.

  readSlow(linear: bigint, bytes: number, access: number): bigint {
    const first = this.#firstPart(linear, bytes);
    const low = this.#readPart(this.#walk(linear, access === MODIFY), first);
    if (first === bytes) return low;
    return low | (this.#readPart(this.#walk(linear + BigInt(first), access === MODIFY), bytes - first) << BigInt(8 * first));
  }

  writeSlow(linear: bigint, bytes: number, value: bigint): void {
    const first = this.#firstPart(linear, bytes);
    const gpa = this.#walk(linear, true);
    if (first === bytes) {
      this.#writePart(gpa, bytes, value);
      return;
    }
    const second = this.#walk(linear + BigInt(first), true); // both pages are judged before either is written
    this.#writePart(gpa, first, value & ((1n << BigInt(8 * first)) - 1n));
    this.#writePart(second, bytes - first, value >> BigInt(8 * first));
  }

  #firstPart(linear: bigint, bytes: number): number {
    return Math.min(bytes, PAGE_BYTES - (lowHalf(linear) % PAGE_BYTES));
  }

  // @clause x86.mmio.access
  #readPart(gpa: Gpa, bytes: number): bigint {
    if (this.#vm.backing(gpa, false).kind === 'ram') return this.#load(gpa, bytes);
    // @clause kvm.exit.completion
    let answer = this.#answers[this.#answersUsed];
    if (answer === undefined) {
      const own = this.#ask(gpa, bytes);
      if (own === null) throw new Abandon({ kind: 'read', access: { gpa, bytes, value: 0n } });
      answer = own;
      this.#answers.push(own);
    }
    this.#answersUsed++;
    return answer & ((1n << BigInt(8 * bytes)) - 1n);
  }

  // @clause x86.mmio.read-modify-write
  #writePart(gpa: Gpa, bytes: number, value: bigint): void {
    if (this.#vm.backing(gpa, true).kind !== 'ram') {
      this.#writes.push({ gpa, bytes, value });
      return;
    }
    this.#journal.push({ gpa, data: Uint8Array.from({ length: bytes }, (_, n) => Number((value >> BigInt(8 * n)) & 0xffn)) });
  }

  /** RAM, with what this instruction has already written laid over it. */
  #load(gpa: Gpa, bytes: number): bigint {
    const { memory } = this.#hardware;
    const at = memory.offset(this.#vm.hpaOf(gpa, false), bytes);
    let value = 0n;
    for (let n = 0; n < bytes; n++) value |= BigInt(this.#journalled(gpa + n) ?? (memory.u8[at + n] as number)) << BigInt(8 * n);
    return value;
  }

  #journalled(gpa: Gpa): number | null {
    let byte: number | null = null;
    for (const entry of this.#journal) byte = entry.data[gpa - entry.gpa] ?? byte;
    return byte;
  }

  #store(gpa: Gpa, data: Uint8Array): void {
    const hpa = this.#vm.hpaOf(gpa, true);
    if (hpa < 0) return;
    const { memory } = this.#hardware;
    memory.u8.set(data, memory.offset(hpa, data.length));
    this.#vm.wroteGuest(gpa, hpa, data.length);
  }

  // ## System instructions
  //
  // Of the instructions that are not micro-operations, those that move data between a device and an ordinary register, and the string port
  // instructions, are done here. The others (a descriptor table in a device register?) are reported as what they are: more than the emulator can do.

  // Never called: the engine was told that no port is open.
  portRead(): never {
    throw new Abandon(UNHANDLED);
  }
  portWrite(): never {
    throw new Abandon(UNHANDLED);
  }
  system(op: SystemOp, insn: Instruction): null {
    const state = this.#state;
    if (op === 'ins' || op === 'outs') {
      this.#remember(op, insn);
      this.#ports(op, insn);
    } else if (op === 'movFromSreg' && insn.mod !== 3) this.writeSlow(this.#linear(insn), 2, BigInt(state.segSelector(insn.reg)));
    else throw new Abandon(UNHANDLED);
    return null;
  }

  #ports(op: 'ins' | 'outs', insn: Instruction): void {
    if (op === 'ins') this.#ins(insn);
    else this.#outs(insn);
  }

  #linear(insn: Instruction): bigint {
    return this.#inSegment(insn.segment, effectiveAddress(this.#state, insn));
  }

  #inSegment(seg: number, offset: bigint): bigint {
    const state = this.#state;
    if ((state.get32(OFFSET.MODE) & MODE.CODE) !== MODE.CODE64) return (state.segBase(seg) + offset) & 0xffff_ffffn;
    return seg === SEG.FS || seg === SEG.GS ? BigInt.asUintN(64, state.segBase(seg) + offset) : offset;
  }

  /** A register cut to the address size. */
  #counter(insn: Instruction, slot: number): bigint {
    return BigInt.asUintN(8 * insn.addressSize, this.#state.slot(slot));
  }

  #setCounter(insn: Instruction, slot: number, value: bigint): void {
    const old = this.#state.slot(slot);
    const bits = 8 * insn.addressSize;
    const low = BigInt.asUintN(bits, value);
    this.#state.setSlot(slot, bits === 16 ? (old & ~0xffffn) | low : low);
  }

  #step(insn: Instruction): bigint {
    return BigInt(this.#state.get32(OFFSET.RFLAGS) & FLAG.DF ? -insn.bytes : insn.bytes);
  }

  /** True when an iteration is to be done; a repeat count of 0 does nothing. */
  #iterates(insn: Instruction): boolean {
    return !(insn.rep || insn.repne) || this.#counter(insn, SLOT.RCX) !== 0n;
  }

  #counted(insn: Instruction, done: number): void {
    if (!insn.rep && !insn.repne) return;
    const left = this.#counter(insn, SLOT.RCX) - BigInt(done);
    this.#setCounter(insn, SLOT.RCX, left);
    if (left !== 0n) this.#state.setSlot(SLOT.NEXT_RIP, this.#state.slot(SLOT.RIP));
  }

  // INS reads ahead: as many items as fit the buffer, the page and the count come in one exit, and are stored together (`pio_in_emulated()`). OUTS
  // does not: a device may care when each item leaves.

  // @clause kvm.exit.io-string
  #ins(insn: Instruction): void {
    if (!this.#iterates(insn)) return;
    const size = insn.bytes as 1 | 2 | 4;
    const step = this.#step(insn);
    const start = this.#counter(insn, SLOT.RDI);
    if (!this.#items) {
      const linear = this.#inSegment(SEG.ES, start);
      this.#walk(linear, true); // a fault comes before the device is asked
      const inPage = lowHalf(linear) % PAGE_BYTES;
      // Linux compares the bytes left in the page with a number of *items*; its guests see the difference, so this does the same.
      const room = Math.min(step < 0n ? inPage : PAGE_BYTES - inPage, READ_AHEAD / size);
      const wanted = insn.rep || insn.repne ? this.#counter(insn, SLOT.RCX) : 1n;
      const count = Math.max(1, wanted < BigInt(room) ? Number(wanted) : room);
      throw new Abandon({ kind: 'in', port: { port: this.#state.slot32(SLOT.RDX) & 0xffff, size, count } });
    }
    const count = this.#items.length / size;
    for (let n = 0; n < count; ) n += this.#storeItems(insn, start + step * BigInt(n), this.#items.subarray(n * size), size, step > 0n);
    this.#setCounter(insn, SLOT.RDI, start + step * BigInt(count));
    this.#counted(insn, count);
  }

  /** Stores the first of `items` at an offset in ES, and as many more as lie behind it in the same page of RAM. Returns how many. */
  #storeItems(insn: Instruction, counter: bigint, items: Uint8Array, size: 1 | 2 | 4, upward: boolean): number {
    const offset = BigInt.asUintN(8 * insn.addressSize, counter);
    const linear = this.#inSegment(SEG.ES, offset);
    const beforeWrap = insn.addressSize === 2 ? 0x10000 - Number(offset) : PAGE_BYTES; // a wider offset wraps together with the address
    const room = Math.min(items.length, PAGE_BYTES - (lowHalf(linear) % PAGE_BYTES), beforeWrap);
    const count = upward ? Math.floor(room / size) : 0;
    if (count > 1) {
      const gpa = this.#walk(linear, true);
      if (this.#vm.backing(gpa, true).kind === 'ram') {
        this.#journal.push({ gpa, data: items.subarray(0, count * size) });
        return count;
      }
    }
    const value = new DataView(items.buffer, items.byteOffset, size);
    this.writeSlow(linear, size, BigInt(size === 1 ? value.getUint8(0) : size === 2 ? value.getUint16(0, true) : value.getUint32(0, true)));
    return 1;
  }

  #outs(insn: Instruction): void {
    if (!this.#iterates(insn)) return;
    const size = insn.bytes as 1 | 2 | 4;
    const start = this.#counter(insn, SLOT.RSI);
    const seg = insn.segmentOverride >= 0 ? insn.segmentOverride : SEG.DS;
    const value = Number(this.readSlow(this.#inSegment(seg, start), size, 0));
    this.#out = { port: this.#state.slot32(SLOT.RDX) & 0xffff, size, count: 1, value };
    this.#setCounter(insn, SLOT.RSI, start + this.#step(insn));
    this.#counted(insn, 1);
  }
}

/** How many bytes one string input may read ahead (`struct read_cache`). */
const READ_AHEAD = 1024;
