// # Translation
//
// Segmentation has produced a linear address; what remains is to find the byte. The interpreter looks into the TLB by itself and comes here when it
// misses. So everything in this file may take its time, and can be written for the eye: find the entry at each level, stop at
// the first that is absent or malformed, combine the rights, judge, and only then mark the path as used. (Walks without surprises need not even come here:
// `engine/micro-ops/walk.ts` is the same once more, for machines in a hurry, and knows when to leave off.)
//
// ::figure page-walk -- One walk, reference by reference, as the trace records it.

import { Fault, generalProtection, VECTOR, type VmExit } from '../faults.ts';
import { assert, highHalf, lowHalf, type PhysicalMemory } from '../physical-memory.ts';
import { type CpuState, CR0, CR4, EFER, FLAG, OFFSET } from '../state.ts';
import { EPT_ACCESS, EPT_QUALIFICATION, EptWalker, entryAccess, type SecondStage } from './ept.ts';
import { OrdinaryBlock, STAGE2 } from './ordinary-walk.ts';
import { canonicalHigh, ENTRY, FORMAT, type Format, NX_HIGH, PDPTE_RESERVED, PF, PHYSICAL_ADDRESS_BITS, PSE36_MASK, PSE36_SHIFT } from './paging.ts';
import { judge, MAY } from './rights.ts';
import { ACCESS, type MmuHost, PRIVILEGE } from './surroundings.ts';
import { BANK, TLB, Tlb } from './tlb.ts';

export { ACCESS, type MmuHost, type PhysicalBus, PRIVILEGE } from './surroundings.ts';

const { mask: P } = ENTRY;
const { mask: E } = PF;
const { mask: Q } = EPT_QUALIFICATION;
const HIGH_ADDRESS = 2 ** (PHYSICAL_ADDRESS_BITS - 32) - 1;
const OPEN_BUS = -1; // nobody answers: all ones
const PAGE_MASK = 0xfff;
const U32 = 0xffffffffn;

/** Where translations are cached: root operation, and non-root. */
const PAIR = { ROOT: BANK.SUPERVISOR, GUEST: BANK.GUEST } as const;

/** The memory management unit of one processor. */
export class Mmu {
  readonly tlb: Tlb;
  readonly #ordinary: OrdinaryBlock;
  readonly #host: MmuHost;
  readonly #memory: PhysicalMemory;
  readonly #state: CpuState;
  readonly #ept: SecondStage;
  #pair: number = PAIR.ROOT;
  /** Is shown each access that an instruction makes by way of `load`, `store`, `read` and `write`, before it is made: alignment, data breakpoints. */
  inspect: ((linear: bigint, bytes: number, access: number) => void) | null = null;
  #smapTouched = false; // a supervisor bank holds user pages that EFLAGS.AC made accessible

  // The result of the last successful walk.
  #page = 0; // host physical address of the 4 KiB page
  #writable = false;
  #executable = false;
  #readable = false;
  #global = false;
  #shift = 12;
  // The entry read last, and the path to it.
  #lo = 0;
  #hi = 0;
  readonly #path = new Float64Array(5); // host physical addresses; -1: not RAM
  readonly #pathGpa = new Float64Array(5);
  #pathReadOnly = 0; // bit n: the second stage does not let entry n be written

  /** `secondStage`: another format of second-stage tables than Intel's. */
  constructor(host: MmuHost, secondStage: SecondStage = new EptWalker(host.memory, host.trace)) {
    this.#host = host;
    this.#memory = host.memory;
    this.#state = host.state;
    this.tlb = new Tlb(host.memory);
    this.#ept = secondStage;
    this.#ordinary = new OrdinaryBlock(host.memory, this.tlb.offset(BANK.EMPTY));
  }

  /** PAE's four directory-pointer entries, as MOV to CR3 loaded them. */
  get pdptes(): BigUint64Array {
    return this.#ordinary.pdptes;
  }
  /** Buffer offset of what the interpreter needs to make ordinary walks by itself. */
  get ordinary(): number {
    return this.#ordinary.offset;
  }

  // ## What the interpreter asks

  /** A data access that missed. See EngineHost.translate. `fill` false: leave the TLB alone. */
  translate(linear: bigint, bytes: number, access: number, user: boolean, fill = true): number | Fault | VmExit {
    const lo = lowHalf(linear);
    if ((lo & PAGE_MASK) + bytes > 4096) return -1;
    const hi = highHalf(linear);
    if (access !== ACCESS.READ && fill) {
      const at = this.#mayWrite(lo, hi, user);
      if (at >= 0) return at;
    }
    const refusal = this.#tryWalk(lo, hi, linear, access, user ? PRIVILEGE.USER : PRIVILEGE.SUPERVISOR);
    if (refusal) return refusal;
    const device = !this.#memory.holds(this.#page, 4096);
    if (fill) this.#fill(lo, hi, linear, user, device);
    if (device) return -1;
    return this.#memory.ramOffset + this.#page + (lo & PAGE_MASK);
  }

  /** An instruction fetch. See EngineHost.fetch. */
  fetch(linear: bigint, user: boolean): number {
    const lo = lowHalf(linear);
    const hi = highHalf(linear);
    const hit = this.tlb.lookup(this.#bank(user), lo, hi, TLB.EXEC_TAG);
    if (hit >= 0) return hit;
    this.#walk(lo, hi, linear, ACCESS.FETCH, user ? PRIVILEGE.USER : PRIVILEGE.SUPERVISOR);
    if (!this.#memory.holds(this.#page, 4096)) return -1;
    this.#fill(lo, hi, linear, user);
    return this.#memory.ramOffset + this.#page + (lo & PAGE_MASK);
  }

  #bank(user: boolean): number {
    return this.#pair + (user ? BANK.USER : BANK.SUPERVISOR);
  }

  /** Buffer offset of a byte whose page the TLB has as writable, though it may have held code; otherwise -1. */
  #mayWrite(lo: number, hi: number, user: boolean): number {
    const bank = this.#bank(user);
    const at = this.tlb.mayWrite(bank, lo, hi);
    const hpa = at - this.#memory.ramOffset;
    if (at >= 0 && !this.#host.holdsCode(hpa)) {
      this.tlb.unprotect(bank, lo, hi);
      this.#ordinary.codePages[Math.floor(hpa / 4096)] = 0;
    }
    return at;
  }

  /** The RAM page at host physical address `page` has come to hold decoded code: writes to it must come by here. */
  protectCode(page: number): void {
    this.#ordinary.codePages[page / 4096] = 1;
    this.tlb.protect(page);
  }

  // A write tag says more than "writable": that D is set, here and in the second stage, and that no decoded code would become stale.
  #fill(lo: number, hi: number, linear: bigint, user: boolean, device = false): void {
    const page = this.#page;
    const writable = this.#writable && (device || !this.#host.holdsCode(page));
    this.tlb.fill(this.#bank(user), lo, hi, {
      page,
      device,
      readable: this.#readable,
      writable,
      mayWrite: this.#writable && !device,
      executable: this.#executable && !device,
      global: this.#global,
      shift: this.#shift,
    });
    if (!device) this.#host.trace?.emit({ kind: 'tlb_fill', linear: linear & ~0xfffn, physical: page });
  }

  // ## Reads and writes by TypeScript code
  //
  // Descriptor loads, stack frames, the operands of system instructions: here the same rules apply as for the interpreter's accesses, plus the
  // awkward cases that it leaves to us. An access across a page boundary is two translations, and for a write both must succeed before either byte
  // moves, because the instruction will be restarted if the second page faults.

  // System code that runs by the million (interrupt delivery, system calls) gives addresses as two halves: a bigint that passes from one function to another
  // has to be allocated.

  /** Reads 1, 2 or 4 bytes at linear address `hi:lo`, unsigned. */
  load(lo: number, hi: number, bytes: 1 | 2 | 4, privilege: number): number {
    if (this.inspect !== null) return this.read32(joined(hi, lo), bytes, privilege);
    const at = this.#hit(lo, hi, bytes, TLB.READ_TAG, privilege);
    if (at < 0) return this.read32(joined(hi, lo), bytes, privilege);
    const { view } = this.#memory;
    return bytes === 4 ? view.getUint32(at, true) : bytes === 2 ? view.getUint16(at, true) : view.getUint8(at);
  }

  /** Writes 2, 4 or 8 bytes at linear address `hi:lo`: the value `valueHi:valueLo`, of which the upper half counts for 8 bytes only. */
  store(lo: number, hi: number, bytes: number, valueLo: number, valueHi: number, privilege: number): void {
    const at = this.inspect === null ? this.#hit(lo, hi, bytes, TLB.WRITE_TAG, privilege) : -1;
    if (at < 0) {
      this.write(joined(hi, lo), bytes, bytes === 8 ? joined(valueHi, valueLo) : BigInt(valueLo >>> 0), privilege);
      return;
    }
    const { view } = this.#memory;
    if (bytes === 2) view.setUint16(at, valueLo, true);
    else {
      view.setInt32(at, valueLo, true);
      if (bytes === 8) view.setInt32(at + 4, valueHi, true);
    }
  }

  /** Buffer offset of an access that the TLB allows and that lies in one page, otherwise -1. */
  #hit(lo: number, hi: number, bytes: number, tag: number, privilege: number): number {
    if ((lo & PAGE_MASK) + bytes > 4096 || (privilege === PRIVILEGE.SYSTEM && this.#smapTouched)) return -1;
    return this.tlb.lookup(this.#bank(privilege === PRIVILEGE.USER), lo, hi, tag);
  }

  /** Reads 1 to 8 bytes, unsigned. */
  read(linear: bigint, bytes: number, privilege: number, access: number = ACCESS.READ): bigint {
    if (bytes <= 4) return BigInt(this.read32(linear, bytes, privilege, access));
    if (privilege !== PRIVILEGE.SYSTEM) this.inspect?.(linear, bytes, access);
    const offset = lowHalf(linear) & PAGE_MASK;
    if (offset + bytes > 4096) return this.#readCrossing(linear, bytes, privilege, access);
    const hpa = this.physical(linear, access, privilege);
    return this.readPhysical(hpa, bytes);
  }

  /** Reads 1, 2 or 4 bytes, unsigned. */
  read32(linear: bigint, bytes: number, privilege: number, access: number = ACCESS.READ): number {
    if (privilege !== PRIVILEGE.SYSTEM) this.inspect?.(linear, bytes, access);
    const offset = lowHalf(linear) & PAGE_MASK;
    if (offset + bytes > 4096) return Number(this.#readCrossing(linear, bytes, privilege, access));
    const hpa = this.physical(linear, access, privilege);
    if (!this.#memory.holds(hpa, bytes)) return Number(this.#host.bus.read(hpa, bytes));
    const at = this.#memory.ramOffset + hpa;
    const { view } = this.#memory;
    return bytes === 1 ? view.getUint8(at) : bytes === 2 ? view.getUint16(at, true) : view.getUint32(at, true);
  }

  // @clause x86.paging.straddle
  /** Writes 1 to 8 bytes. Nothing is written unless all of it may be. */
  write(linear: bigint, bytes: number, value: bigint, privilege: number): void {
    if (privilege !== PRIVILEGE.SYSTEM) this.inspect?.(linear, bytes, ACCESS.WRITE);
    const offset = lowHalf(linear) & PAGE_MASK;
    const hpa = this.physical(linear, ACCESS.WRITE, privilege);
    if (offset + bytes <= 4096) {
      this.writePhysical(hpa, bytes, value);
      return;
    }
    const first = 4096 - offset;
    const second = this.physical(this.#next(linear, first), ACCESS.WRITE, privilege);
    for (let i = 0; i < bytes; i++) {
      this.writePhysical(i < first ? hpa + i : second + i - first, 1, (value >> BigInt(8 * i)) & 0xffn);
    }
  }

  #readCrossing(linear: bigint, bytes: number, privilege: number, access: number): bigint {
    const first = 4096 - (lowHalf(linear) & PAGE_MASK);
    const one = this.physical(linear, access, privilege);
    const two = this.physical(this.#next(linear, first), access, privilege);
    let value = 0n;
    for (let i = 0; i < bytes; i++) value |= this.readPhysical(i < first ? one + i : two + i - first, 1) << BigInt(8 * i);
    return value;
  }

  /** The linear address `distance` bytes on: wraps at 4 GiB outside 64-bit code, and must stay canonical inside. */
  #next(linear: bigint, distance: number): bigint {
    const next = linear + BigInt(distance);
    if (next <= U32) return next;
    if (linear <= U32 && !this.#longMode()) return next & U32;
    const wrapped = next & 0xffffffffffffffffn;
    if (!canonicalHigh(highHalf(wrapped), this.#state.get32(OFFSET.CANONICAL_SHIFT))) throw generalProtection();
    return wrapped;
  }

  #longMode(): boolean {
    return (this.#state.low32(OFFSET.EFER) & EFER.LMA) !== 0;
  }

  /** Checks that `bytes` at `linear` may be accessed, without accessing them. */
  probe(linear: bigint, bytes: number, access: number, privilege: number): void {
    this.physical(linear, access, privilege);
    const first = 4096 - (lowHalf(linear) & PAGE_MASK);
    if (first < bytes) this.physical(this.#next(linear, first), access, privilege);
  }

  /** Host physical address of one byte. @throws Fault or VmExit. */
  physical(linear: bigint, access: number, privilege: number): number {
    const lo = lowHalf(linear);
    const hi = highHalf(linear);
    // An implicit supervisor access ignores EFLAGS.AC, so with SMAP it may not profit from what AC let in.
    if (privilege !== PRIVILEGE.SYSTEM || !this.#smapTouched) {
      const tag = access === ACCESS.READ ? TLB.READ_TAG : access === ACCESS.FETCH ? TLB.EXEC_TAG : TLB.WRITE_TAG;
      const hit = this.tlb.lookup(this.#bank(privilege === PRIVILEGE.USER), lo, hi, tag);
      if (hit >= 0) return hit - this.#memory.ramOffset;
      const at = tag === TLB.WRITE_TAG ? this.#mayWrite(lo, hi, privilege === PRIVILEGE.USER) : -1;
      if (at >= 0) return at - this.#memory.ramOffset;
    }
    this.#walk(lo, hi, linear, access, privilege);
    if (this.#memory.holds(this.#page, 4096)) this.#fill(lo, hi, linear, privilege === PRIVILEGE.USER);
    return this.#page + (lo & PAGE_MASK);
  }

  /** Reads host physical memory: RAM, or whoever answers on the bus. */
  readPhysical(hpa: number, bytes: number): bigint {
    if (!this.#memory.holds(hpa, bytes)) return BigInt.asUintN(8 * bytes, this.#host.bus.read(hpa, bytes));
    const at = this.#memory.ramOffset + hpa;
    const { view } = this.#memory;
    if (bytes === 8) return view.getBigUint64(at, true);
    return BigInt(bytes === 1 ? view.getUint8(at) : bytes === 2 ? view.getUint16(at, true) : view.getUint32(at, true));
  }

  /** Writes host physical memory. */
  writePhysical(hpa: number, bytes: number, value: bigint): void {
    if (!this.#memory.holds(hpa, bytes)) {
      this.#host.bus.write(hpa, bytes, BigInt.asUintN(8 * bytes, value));
      return;
    }
    const at = this.#memory.ramOffset + hpa;
    const { view } = this.#memory;
    if (bytes === 8) view.setBigUint64(at, BigInt.asUintN(64, value), true);
    else {
      const low = lowHalf(value);
      if (bytes === 1) view.setUint8(at, low);
      else if (bytes === 2) view.setUint16(at, low, true);
      else view.setUint32(at, low, true);
    }
    if (this.#host.holdsCode(hpa)) this.#host.codeWritten(hpa, bytes);
  }

  // ## The walk

  #format(): Format | null {
    const { CR0: cr0, CR4: cr4, EFER: efer } = OFFSET;
    if ((this.#state.low32(cr0) & CR0.PG) === 0) return null;
    if (this.#state.low32(efer) & EFER.LMA) return this.#state.low32(cr4) & CR4.LA57 ? FORMAT.level5 : FORMAT.level4;
    const options = this.#state.low32(cr4);
    if (options & CR4.PAE) return FORMAT.pae;
    return options & CR4.PSE ? FORMAT.bits32pse : FORMAT.bits32;
  }

  // @clause x86.paging.walk
  // @clause x86.paging.alias
  // @clause x86.paging.mode-switch
  // @clause x86.paging.tables-are-memory
  #walk(lo: number, hi: number, linear: bigint, access: number, privilege: number): void {
    const refusal = this.#tryWalk(lo, hi, linear, access, privilege);
    if (refusal) throw refusal;
  }

  // Programs fault on purpose, and by the million: a refusal that unwinds the stack would cost more than all the rest of a page fault.

  /** Returns the fault, or the exit when it is the last step that the second stage refuses. What the second stage refuses before that is thrown. */
  #tryWalk(lo: number, hi: number, linear: bigint, access: number, privilege: number): Fault | VmExit | null {
    const format = this.#format();
    if (!format) {
      this.#shift = 12;
      this.#global = false;
      this.#readable = this.#writable = this.#executable = true;
      return this.#finish(lo, linear, access, true);
    }
    const fault = (code: number): Fault => this.#fault(code, linear, access, privilege);
    const nxe = (this.#state.low32(OFFSET.EFER) & EFER.NXE) !== 0;
    const reservedHigh = format.reservedHigh | (nxe ? 0 : NX_HIGH);
    const mayWalkNx = format.entryBytes === 8;
    let rights = P.RW | P.US;
    let noExecute = false;
    let table = this.#root(format, lo);
    if (table < 0) return fault(0);
    let depth = 0;
    for (const level of format.levels) {
      const index = level.shift >= 32 ? (hi >>> (level.shift - 32)) & 0x1ff : indexOf(lo, hi, level.shift, level.indexBits);
      const at = table + index * format.entryBytes;
      this.#pathGpa[depth] = at;
      this.#path[depth] = this.#readEntry(at, format.entryBytes, level.level, linear);
      if (this.#ept.writable) this.#pathReadOnly &= ~(1 << depth);
      else this.#pathReadOnly |= 1 << depth;
      const entry = this.#lo;
      const high = this.#hi;
      // @clause x86.paging.error-code
      if ((entry & P.P) === 0) return fault(0);
      const leaf = level.level === 1 || (level.largePages && (entry & P.PS) !== 0);
      const reserved = leaf ? level.reservedPage : level.reservedTable;
      if ((entry & reserved) !== 0 || (mayWalkNx && (high & reservedHigh) !== 0)) return fault(E.P | E.RSVD);
      rights &= entry;
      if (mayWalkNx && (high & NX_HIGH) !== 0) noExecute = true;
      if (!leaf) {
        table = (mayWalkNx ? (high & HIGH_ADDRESS) * 2 ** 32 : 0) + ((entry & 0xfffff000) >>> 0);
        depth++;
        continue;
      }
      if (!this.#judge(rights, noExecute, access, privilege)) return fault(E.P);
      const dirty = this.#mark(depth, access, linear);
      const inside = (1 << level.shift) - 1;
      let base = (mayWalkNx ? (high & HIGH_ADDRESS) * 2 ** 32 : 0) + ((entry & ~inside) >>> 0);
      if (!mayWalkNx && level.level === 2) {
        // @clause x86.paging.pse36
        base = ((entry >>> PSE36_SHIFT) & PSE36_MASK) * 2 ** 32 + ((entry & 0xffc00000) >>> 0);
      }
      this.#shift = level.shift;
      this.#global = (entry & P.G) !== 0 && (this.#state.low32(OFFSET.CR4) & CR4.PGE) !== 0;
      return this.#finish(base + (lo & inside), linear, access, dirty);
    }
    assert(false, 'the last level of every format is a leaf');
  }

  /** Guest physical address of the first table that the walk reads from memory, or -1 when a PAE directory pointer is absent. */
  #root(format: Format, lo: number): number {
    const cr3 = this.#state.getNumber(OFFSET.CR3);
    if (format !== FORMAT.pae) return cr3 - (cr3 % 4096);
    const index = lo >>> 30;
    const pdpte = this.pdptes[index] as bigint;
    const value = lowHalf(pdpte);
    this.#host.trace?.emit({ kind: 'walk', stage: 1, level: 3, entry: cr3 - (cr3 % 32) + 8 * index, value: pdpte });
    if ((value & P.P) === 0) return -1;
    return highHalf(pdpte) * 2 ** 32 + ((value & 0xfffff000) >>> 0);
  }

  #judge(rights: number, noExecute: boolean, access: number, privilege: number): boolean {
    const may = judge(rights, noExecute, {
      user: privilege === PRIVILEGE.USER,
      implicit: privilege === PRIVILEGE.SYSTEM,
      cr0: this.#state.low32(OFFSET.CR0),
      cr4: this.#state.low32(OFFSET.CR4),
      rflags: this.#state.get32(OFFSET.RFLAGS),
    });
    if (may & MAY.LIFTED) this.#smapTouched = true;
    this.#readable = (may & MAY.READ) !== 0;
    this.#writable = (may & MAY.WRITE) !== 0;
    this.#executable = (may & MAY.EXECUTE) !== 0;
    return access === ACCESS.FETCH ? this.#executable : access === ACCESS.READ ? this.#readable : this.#writable;
  }

  // @clause x86.paging.error-code
  #fault(code: number, linear: bigint, access: number, privilege: number): Fault {
    const write = access === ACCESS.WRITE || access === ACCESS.MODIFY ? E.W : 0;
    const user = privilege === PRIVILEGE.USER ? E.U : 0;
    return new Fault(VECTOR.PF, code | write | user | (access === ACCESS.FETCH && this.#reportsFetch() ? E.ID : 0), linear);
  }

  // The bit for a fetch arrived with the bit that forbids one. Where neither NX nor SMEP is in force, a fetch looks like a read, as it always had.
  #reportsFetch(): boolean {
    const cr4 = this.#state.low32(OFFSET.CR4);
    if (cr4 & CR4.SMEP) return true;
    return (cr4 & CR4.PAE) !== 0 && (this.#state.low32(OFFSET.EFER) & EFER.NXE) !== 0;
  }

  // ## Leaving marks
  //
  // The accessed bit goes into each entry on the path, the dirty bit into the last when the access is a write. Both are set only once the access has
  // been allowed. Software clears them and the processor does not notice until the entry is walked again: the reason why clearing one must be
  // followed by an invalidation.

  // @clause x86.paging.accessed-dirty
  /** Sets A along the path and D at its end as `access` demands. Returns whether D is set. */
  #mark(depth: number, access: number, linear: bigint): boolean {
    const { view } = this.#memory;
    const ept = this.#host.ept();
    let dirty = false;
    for (let i = 0; i <= depth; i++) {
      const hpa = this.#path[i] as number;
      const leaf = i === depth;
      const inRam = hpa >= 0 && this.#memory.holds(hpa, 4);
      const before = inRam ? view.getInt32(this.#memory.ramOffset + hpa, true) : OPEN_BUS;
      const write = access === ACCESS.WRITE || access === ACCESS.MODIFY;
      const after = before | P.A | (leaf && write ? P.D : 0);
      if (after !== before && inRam) {
        // Without accessed and dirty bits of its own, the second stage has so far only been asked for permission to read.
        if (ept && (this.#pathReadOnly >> i) & 1) {
          const kind = EPT_ACCESS.READ | EPT_ACCESS.WRITE;
          this.#ept.translate(ept, this.#pathGpa[i] as number, { kind, origin: Q.LINEAR_VALID, linear });
        }
        this.writePhysical(hpa, 4, BigInt(after >>> 0));
      }
      if (leaf) dirty = (after & P.D) !== 0;
    }
    return dirty;
  }

  // ## Below the guest's tables
  //
  // With a second stage the guest's page-table entries lie at guest physical addresses too. Every reference above, the final one included, goes
  // through it: with four levels, five translations of up to four references each, in the worst case {{4 * 5 + 4}} memory accesses for a single byte.

  /** Reads an entry into `#lo` and `#hi`. Returns its host physical address, -1 when it is not RAM. */
  #readEntry(gpa: number, bytes: 4 | 8, level: number, linear: bigint | null): number {
    const ept = this.#host.ept();
    const hpa = ept ? this.#ept.translate(ept, gpa, entryAccess(ept, linear)) : gpa;
    const inRam = this.#memory.holds(hpa, bytes);
    if (inRam) {
      const at = this.#memory.ramOffset + hpa;
      this.#lo = this.#memory.view.getInt32(at, true);
      this.#hi = bytes === 8 ? this.#memory.view.getInt32(at + 4, true) : 0;
    } else {
      const value = this.#host.bus.read(hpa, bytes);
      this.#lo = lowHalf(value) | 0;
      this.#hi = highHalf(value) | 0;
    }
    if (this.#host.trace) {
      const value = (BigInt(this.#hi >>> 0) << 32n) | BigInt(this.#lo >>> 0);
      this.#host.trace.emit({ kind: 'walk', stage: 1, level, entry: gpa, value });
    }
    return inRam ? hpa : -1;
  }

  /** The last step: from the guest physical address to the page, with the rights of both stages combined for the TLB. */
  #finish(gpa: number, linear: bigint, access: number, dirty: boolean): VmExit | null {
    this.#writable &&= dirty;
    const ept = this.#host.ept();
    if (!ept) {
      this.#page = gpa - (gpa % 4096);
      return null;
    }
    const walker = this.#ept;
    const kind = access === ACCESS.FETCH ? EPT_ACCESS.FETCH : access === ACCESS.READ ? EPT_ACCESS.READ : EPT_ACCESS.WRITE;
    const hpa = walker.find(ept, gpa, { kind, origin: Q.LINEAR_VALID | Q.FINAL, linear });
    if (hpa < 0) return walker.refusal;
    this.#page = hpa - (hpa % 4096);
    this.#readable &&= walker.readable;
    this.#writable &&= walker.writable && walker.dirty;
    this.#executable &&= walker.executable;
    return null;
  }

  // ## PAE's four registers

  // @clause x86.paging.pdpte-load
  /** Loads the four directory-pointer entries from the table that `cr3` names. False (and nothing changed) when one of them is malformed. */
  loadPdptes(cr3: bigint): boolean {
    const table = Number(cr3 & U32 & ~0x1fn);
    const loaded = new BigUint64Array(4);
    for (let i = 0; i < 4; i++) {
      this.#readEntry(table + 8 * i, 8, 3, null);
      if ((this.#lo & P.P) !== 0 && ((this.#lo & PDPTE_RESERVED.LO) !== 0 || (this.#hi & PDPTE_RESERVED.HI) !== 0)) return false;
      loaded[i] = (BigInt(this.#hi >>> 0) << 32n) | BigInt(this.#lo >>> 0);
    }
    this.pdptes.set(loaded);
    return true;
  }

  // ## Forgetting

  /** Everything, in both worlds. */
  flush(why = 'all'): void {
    this.tlb.flushPair(PAIR.ROOT);
    this.tlb.flushPair(PAIR.GUEST);
    this.#smapTouched = false;
    this.#forgotten(why);
  }

  /** Everything but global pages: what MOV to CR3 does. */
  flushNonGlobal(why: string): void {
    if (this.#state.low32(OFFSET.CR4) & CR4.PGE) this.tlb.flushNonGlobal(this.#pair);
    else this.tlb.flushPair(this.#pair);
    this.#forgotten(why);
  }

  // @clause x86.tlb.no-remote-invalidation
  /** One page, for this processor (and this guest's tag) alone: INVLPG. */
  invalidate(linear: bigint): void {
    this.tlb.invalidate(this.#pair, lowHalf(linear), highHalf(linear));
    this.#forgotten('invlpg');
  }

  #forgotten(why: string): void {
    this.#host.trace?.emit({ kind: 'tlb_flush', why });
    this.#host.mappingsChanged();
  }

  /** Chooses the bank for the state as it is now. `slow`: conditions hold that the hit path does not test. Returns what OFFSET.TLB must hold. */
  selectBank(user: boolean, guest: boolean, slow: boolean): number {
    this.#pair = guest ? PAIR.GUEST : PAIR.ROOT;
    if (this.#smapTouched && (this.#state.get32(OFFSET.RFLAGS) & FLAG.AC) === 0) {
      // What AC had made accessible is so no longer.
      this.tlb.flushBank(PAIR.ROOT);
      this.tlb.flushBank(PAIR.GUEST);
      this.#smapTouched = false;
    }
    this.#describeStages();
    return this.bank(user, slow);
  }

  /** Tells the interpreter's walk which second stage there is. */
  #describeStages(): void {
    const ept = this.#host.ept();
    let stage: number = STAGE2.NONE;
    if (ept) stage = !(this.#ept instanceof EptWalker) || !ept.executeOnly ? STAGE2.FOREIGN : ept.accessedDirty ? STAGE2.EPT_MARKS : STAGE2.EPT;
    this.#ordinary.describeSecondStage(stage, ept?.root);
  }

  /** The page fault that the interpreter's walk has found. */
  ordinaryFault(): Fault {
    return this.#ordinary.fault;
  }

  /** A read of up to 4 bytes, by the interpreter's walk, where no RAM is. */
  readDevice(bytes: number): number {
    const { bus } = this.#host;
    const address = this.#ordinary.deviceAddress;
    return bus.read32 ? bus.read32(address, bytes) >>> 0 : Number(bus.read(address, bytes));
  }
  writeDevice(bytes: number, value: number): void {
    const { bus } = this.#host;
    const address = this.#ordinary.deviceAddress;
    const written = bytes === 4 ? value : value & ((1 << (8 * bytes)) - 1);
    if (bus.write32) bus.write32(address, bytes, written);
    else bus.write(address, bytes, BigInt(written));
  }

  /** The bank for a privilege in the present world, as OFFSET.TLB would hold it. */
  bank(user: boolean, slow: boolean): number {
    return this.tlb.offset(slow ? BANK.EMPTY : this.#bank(user));
  }

  /** The one that holds nothing. */
  get emptyBank(): number {
    return this.tlb.offset(BANK.EMPTY);
  }
}

const joined = (hi: number, lo: number): bigint => (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);

/** A table index of 9 or 10 bits that starts below bit 32 and may reach beyond it. */
const indexOf = (lo: number, hi: number, shift: number, width: number): number => {
  const low = lo >>> shift;
  const high = shift + width > 32 ? hi << (32 - shift) : 0;
  return (low | high) & ((1 << width) - 1);
};
