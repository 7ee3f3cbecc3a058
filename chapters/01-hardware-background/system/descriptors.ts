// # Descriptors
//
// A selector names an entry of the global or the local descriptor table. The entry is eight bytes, and its fields lie where the 80286 and then the
// 80386 had room: the base in three pieces, the limit in two. Loading a segment register means: fetch the entry, judge it, mark it as accessed, and
// spread it out into the hidden half of the register. After that the table may change and nobody notices until the next load.
//
// ::layout DESCRIPTOR_LOW -- The first word of a code or data segment descriptor: the 80286's limit, and as much of the base as fits.
//
// ::layout DESCRIPTOR_HIGH -- The second word. The limit's upper part, the flags and the last byte of the base came with the 80386.

import type { Cpu } from '../cpu.ts';
import { type Fault, generalProtection, notPresent, stackFault } from '../faults.ts';
import { bit, bitfield, bits } from '../layout.ts';
import { PRIVILEGE } from '../mmu/mmu.ts';
import { AR, OFFSET, SEG } from '../state.ts';
import { code64, join, longMode, protectedMode, type SegmentedProcessor, virtual8086 } from './segmentation.ts';

/** The first word of a segment descriptor (Intel SDM vol. 3, "Segment Descriptors"). */
export const DESCRIPTOR_LOW = bitfield('segment descriptor, first word', { limit: bits(0, 15, 'bits 15:0'), base: bits(16, 31, 'bits 15:0') });

/** The second word. Bits 8..15 and 20..23 are the access rights; see AR for their form in a register. */
export const DESCRIPTOR_HIGH = bitfield('segment descriptor, second word', {
  base: bits(0, 7, 'bits 23:16'),
  type: bits(8, 11, 'code or data, and what may be done with it'),
  S: bit(12, 'code or data; clear: a gate, an LDT, a TSS'),
  DPL: bits(13, 14, 'who may'),
  P: bit(15, 'present'),
  limit: bits(16, 19, 'bits 19:16'),
  AVL: bit(20, 'for software'),
  L: bit(21, '64-bit code'),
  DB: bit(22, '32-bit operands, addresses or stack'),
  G: bit(23, 'the limit counts pages'),
  upperBase: bits(24, 31, 'bits 31:24 of the base'),
});

/** Types of system descriptors (Intel SDM vol. 3, "System Descriptor Types"). In long mode 1, 3, 4 and 6 do not exist, and 2 is an LDT of 16 bytes. */
// biome-ignore format: table
export const SYSTEM_TYPE = {
  TSS16: 1, LDT: 2, BUSY_TSS16: 3, CALL_GATE16: 4, TASK_GATE: 5, INTERRUPT_GATE16: 6, TRAP_GATE16: 7,
  TSS: 9, BUSY_TSS: 11, CALL_GATE: 12, INTERRUPT_GATE: 14, TRAP_GATE: 15,
} as const;

/** A descriptor as read. For gates only `lo`, `hi` and `rights` have meaning. */
export interface Descriptor {
  readonly selector: number;
  /** Linear address of the entry, in two halves. */
  readonly at: number;
  readonly atHigh: number;
  readonly lo: number;
  readonly hi: number;
  readonly base: number;
  readonly limit: number;
  /** Format of AR. */
  readonly rights: number;
}

export const isNull = (selector: number): boolean => (selector & 0xfffc) === 0;
export const dplOf = (rights: number): number => (rights & AR.DPL) >> AR.DPL_SHIFT;
export const rplOf = (selector: number): number => selector & 3;
/** The error code that names a selector: its RPL bits are replaced by flags. */
export const selectorError = (selector: number): number => selector & 0xfffc;
export const isCode = (rights: number): boolean => (rights & (AR.S | AR.CODE)) === (AR.S | AR.CODE);
export const isConforming = (rights: number): boolean => (rights & AR.CONFORMING) !== 0;
const isWritableData = (rights: number): boolean => (rights & (AR.S | AR.CODE | AR.WRITABLE)) === (AR.S | AR.WRITABLE);

type MakeFault = (errorCode: number) => Fault;

/** Splits the two words of an entry. */
function decodeDescriptor(selector: number, at: number, atHigh: number, lo: number, hi: number): Descriptor {
  const { mask } = DESCRIPTOR_HIGH;
  const short = (lo & DESCRIPTOR_LOW.mask.limit) | (hi & mask.limit); // the limit's upper bits lie where they belong
  const limit = hi & mask.G ? ((short << 12) | 0xfff) >>> 0 : short;
  const base = ((lo >>> 16) | ((hi & mask.base) << 16) | (hi & mask.upperBase)) >>> 0;
  return { selector, at, atHigh, lo, hi, base, limit, rights: (hi >>> 8) & 0xf0ff };
}

// @clause x86.descriptor.table-limit
/** Reads the entry that a non-null selector names. @throws `fault(selector)` when it lies outside its table. */
export function readDescriptor(cpu: SegmentedProcessor, selector: number, fault: MakeFault = generalProtection): Descriptor {
  const { state } = cpu;
  const local = (selector & 4) !== 0;
  const offset = selector & 0xfff8;
  const limit = local ? state.segLimit(SEG.LDTR) : state.get32(OFFSET.GDTR_LIMIT);
  if ((local && state.segRights(SEG.LDTR) & AR.UNUSABLE) || offset + 7 > limit) throw fault(selectorError(selector));
  const base = local ? state.segBaseLow(SEG.LDTR) : state.low32(OFFSET.GDTR_BASE);
  const baseHigh = local ? state.segBaseHigh(SEG.LDTR) : state.low32(OFFSET.GDTR_BASE + 4);
  const at = (base + offset) >>> 0;
  const atHigh = upperHalf(cpu, base, baseHigh, at);
  return readEntry(cpu, selector, at, atHigh);
}

/** Reads the two words of an entry of any table. */
export function readEntry(cpu: SegmentedProcessor, selector: number, at: number, atHigh: number): Descriptor {
  const { mmu } = cpu;
  const second = (at + 4) >>> 0;
  const lo = mmu.load(at, atHigh, 4, PRIVILEGE.SYSTEM);
  return decodeDescriptor(selector, at, atHigh, lo, mmu.load(second, upperHalf(cpu, at, atHigh, second), 4, PRIVILEGE.SYSTEM));
}

/** The upper half of a linear address with lower half `low`, when `base` (and its upper half) plus something has led there. Zero outside long mode. */
export const upperHalf = (cpu: SegmentedProcessor, base: number, baseHigh: number, low: number): number =>
  longMode(cpu) ? (low < base ? baseHigh + 1 : baseHigh) >>> 0 : 0;

/**
 * In long mode the descriptors of an LDT, a TSS and a call gate take two entries. Reads the second. Its type field must be zero, so that a selector
 * to the second half cannot pass for a descriptor.
 */
export function readUpperHalf(cpu: Cpu, d: Descriptor, fault: MakeFault = generalProtection): number {
  const { state } = cpu;
  const limit = d.selector & 4 ? state.segLimit(SEG.LDTR) : state.get32(OFFSET.GDTR_LIMIT);
  if ((d.selector & 0xfff8) + 15 > limit) throw fault(selectorError(d.selector));
  const at = (d.at + 8) >>> 0;
  const atHigh = upperHalf(cpu, d.at, d.atHigh, at);
  const upper = cpu.mmu.load(at, atHigh, 4, PRIVILEGE.SYSTEM);
  const type = cpu.mmu.load((at + 4) >>> 0, upperHalf(cpu, at, atHigh, (at + 4) >>> 0), 4, PRIVILEGE.SYSTEM);
  // @clause x86.descriptor.upper-half-type
  if ((type >>> 8) & 0x1f) throw fault(selectorError(d.selector));
  return upper;
}

// The accessed bit is written only when it is clear. A descriptor table in read-only memory is fine as long as all its entries are marked.
// @clause x86.descriptor.accessed
/** Sets the accessed bit of a code or data descriptor in its table. */
export function markAccessed(cpu: SegmentedProcessor, d: Descriptor): void {
  if ((d.rights & AR.ACCESSED) === 0) writeType(cpu, d, d.rights | AR.ACCESSED);
}

/** Writes the byte of a descriptor that holds P, DPL, S and the type. */
export function writeType(cpu: SegmentedProcessor, d: Descriptor, rights: number): void {
  const at = (d.at + 5) >>> 0;
  cpu.mmu.write(join(upperHalf(cpu, d.at, d.atHigh, at), at), 1, BigInt(rights & 0xff), PRIVILEGE.SYSTEM);
}

// @clause x86.segment.hidden
/** Fills a segment register from a descriptor that has been judged and marked. `baseHigh`: from the second half of a system descriptor in long mode. */
export function fillSegment({ state }: SegmentedProcessor, seg: number, selector: number, d: Descriptor, baseHigh = 0): void {
  state.setSegment(seg, selector, d.base, baseHigh, d.limit, d.rights & AR.S ? d.rights | AR.ACCESSED : d.rights);
}

/** Leaves a segment register unusable, with a null selector. */
export function clearSegment({ state }: SegmentedProcessor, seg: number, selector: number, dpl = 0): void {
  state.setSegment(seg, selector, 0, 0, 0, AR.UNUSABLE | (dpl << AR.DPL_SHIFT));
}

const USUAL_REAL_RIGHTS = AR.P | AR.S | AR.WRITABLE | AR.ACCESSED;

// ## Real mode
//
// A real-mode load computes the base from the selector and touches nothing else. Limit and rights stay as they were; after reset they are 64 KiB
// and writable. A program that visits protected mode for an instant and loads a 4 GiB descriptor comes back with 4 GiB segments in real mode
// ("unreal mode"). Boot loaders have relied on it for thirty years. So has every BIOS. In virtual-8086 mode, by contrast, a load sets all of it: a
// v86 task cannot bring anything in.

/** Loads a segment register in real or virtual-8086 mode. */
export function loadRealSegment(cpu: SegmentedProcessor, seg: number, selector: number): void {
  const { state } = cpu;
  state.setSegSelector(seg, selector);
  // @clause x86.real.segments
  state.setSegBase(seg, BigInt(selector << 4));
  if (virtual8086(cpu)) {
    // @clause x86.v86.segments
    state.setSegLimit(seg, 0xffff);
    state.setSegRights(seg, USUAL_REAL_RIGHTS | AR.DPL);
  } else {
    // @clause x86.segment.real-load
    // Nulled in protected mode and never reloaded there, a register would otherwise stay unusable.
    if (state.segRights(seg) & AR.UNUSABLE) state.setSegRights(seg, USUAL_REAL_RIGHTS);
    if (seg === SEG.CS) state.setSegRights(seg, (state.segRights(seg) & ~(AR.TYPE | AR.DPL)) | USUAL_REAL_RIGHTS);
  }
}

// ## Protected mode
//
// The rules come down to one question: could a less privileged program use this load to reach what it may not? The descriptor's DPL says who may;
// the current privilege level says who is asking; the selector's RPL says on whose behalf. So an operating system that is given a pointer by a
// program can lower its own rights for it, by putting the caller's level into RPL: the only trace that ARPL and VERR have left.

/** MOV, POP or far-pointer load of SS, DS, ES, FS or GS in the current mode. */
export function loadSegment(cpu: Cpu, seg: number, selector: number): void {
  if (!protectedMode(cpu)) loadRealSegment(cpu, seg, selector);
  else if (seg === SEG.SS) loadStackSegment(cpu, selector);
  else loadDataSegment(cpu, seg, selector);
}

/** Judges a descriptor for SS at privilege `cpl`. The faults it throws name the selector. */
export function checkStackDescriptor(d: Descriptor, cpl: number, fault: MakeFault): void {
  const code = selectorError(d.selector);
  // @clause x86.segment.ss-checks
  if (rplOf(d.selector) !== cpl || !isWritableData(d.rights) || dplOf(d.rights) !== cpl) throw fault(code);
  if ((d.rights & AR.P) === 0) throw stackFault(code);
}

function loadStackSegment(cpu: Cpu, selector: number): void {
  const { cpl } = cpu;
  if (isNull(selector)) {
    // 64-bit code has no use for SS, so it may be null there; but not at CPL 3, where it carries the privilege level back and forth.
    // @clause x86.segment.ss-checks
    if (!code64(cpu) || cpl === 3 || rplOf(selector) !== cpl) throw generalProtection();
    clearSegment(cpu, SEG.SS, selector, cpl);
    return;
  }
  const d = readDescriptor(cpu, selector);
  checkStackDescriptor(d, cpl, generalProtection);
  markAccessed(cpu, d);
  fillSegment(cpu, SEG.SS, selector, d);
}

function loadDataSegment(cpu: Cpu, seg: number, selector: number): void {
  // @clause x86.segment.null
  if (isNull(selector)) {
    clearSegment(cpu, seg, selector);
    return;
  }
  const d = readDescriptor(cpu, selector);
  const code = selectorError(selector);
  const readable = (d.rights & AR.S) !== 0 && ((d.rights & AR.CODE) === 0 || (d.rights & AR.READABLE) !== 0);
  // @clause x86.segment.data-checks
  if (!readable) throw generalProtection(code);
  if (!(isCode(d.rights) && isConforming(d.rights))) {
    const dpl = dplOf(d.rights);
    if (rplOf(selector) > dpl || cpu.cpl > dpl) throw generalProtection(code);
  }
  // @clause x86.segment.load-faults
  if ((d.rights & AR.P) === 0) throw notPresent(code);
  markAccessed(cpu, d);
  fillSegment(cpu, seg, selector, d);
}

/** After a return to an outer level: data segments that the outer level may not use are taken away. */
export function dropPrivilegedSegments(cpu: Cpu, cpl: number): void {
  dropPrivileged(cpu, SEG.ES, cpl);
  dropPrivileged(cpu, SEG.DS, cpl);
  dropPrivileged(cpu, SEG.FS, cpl);
  dropPrivileged(cpu, SEG.GS, cpl);
}

function dropPrivileged(cpu: Cpu, seg: number, cpl: number): void {
  const rights = cpu.state.segRights(seg);
  if (rights & AR.UNUSABLE) return;
  // @clause x86.segment.return-nulls
  const bound = !(isCode(rights) && isConforming(rights));
  if (bound && dplOf(rights) < cpl) clearSegment(cpu, seg, 0);
}

/** Judges a code descriptor's D and L bits: in long mode both together mean nothing. */
export function checkCodeSize(cpu: Cpu, d: Descriptor): void {
  // @clause x86.segment.l-and-d
  if (longMode(cpu) && (d.rights & (AR.L | AR.DB)) === (AR.L | AR.DB)) throw generalProtection(selectorError(d.selector));
}

/** True when code in this segment would run in 64-bit mode. */
export const is64BitCode = (cpu: Cpu, d: Descriptor): boolean => longMode(cpu) && (d.rights & AR.L) !== 0;

// @clause x86.protected.state
/** Enters a code segment: CS with `cpl` as its RPL, and the privilege level. The caller has judged the descriptor. */
export function enterCode(cpu: SegmentedProcessor, d: Descriptor, cpl: number): void {
  fillSegment(cpu, SEG.CS, (d.selector & 0xfffc) | cpl, d);
  cpu.state.set32(OFFSET.CPL, cpl);
}
