// # The task-state segment, as far as it is still needed
//
// The 80286 put a whole process image into a segment, so that hardware could switch tasks. What remained in use is one small part of it: the table
// of stack pointers, one for each inner privilege level. An interrupt that takes a program by surprise at CPL 3 cannot trust the program's stack;
// it needs one of its own, and the TSS says where. 64-bit mode kept only that (and seven more pointers, the IST), plus the I/O permission bitmap.

import type { Cpu } from '../cpu.ts';
import { invalidTss } from '../faults.ts';
import { layout, u16le, u32le, u64le } from '../layout.ts';
import { PRIVILEGE } from '../mmu/mmu.ts';
import { AR, SEG } from '../state.ts';
import {
  checkStackDescriptor,
  clearSegment,
  type Descriptor,
  fillSegment,
  isNull,
  markAccessed,
  readDescriptor,
  SYSTEM_TYPE,
  selectorError,
  upperHalf,
} from './descriptors.ts';
import { longMode, longStack, type SegmentedProcessor, Stack } from './segmentation.ts';

/** 32-bit TSS. */
export const Tss32 = layout('tss32', {
  link: u16le(0),
  esp0: u32le(4),
  ss0: u16le(8),
  esp1: u32le(12),
  ss1: u16le(16),
  esp2: u32le(20),
  ss2: u16le(24),
  cr3: u32le(28),
  eip: u32le(32),
  eflags: u32le(36),
  eax: u32le(40),
  ecx: u32le(44),
  edx: u32le(48),
  ebx: u32le(52),
  esp: u32le(56),
  ebp: u32le(60),
  esi: u32le(64),
  edi: u32le(68),
  es: u16le(72),
  cs: u16le(76),
  ss: u16le(80),
  ds: u16le(84),
  fs: u16le(88),
  gs: u16le(92),
  ldt: u16le(96),
  trap: u16le(100),
  ioMap: u16le(102),
});

/** 16-bit TSS: the 80286's. */
export const Tss16 = layout('tss16', {
  link: u16le(0),
  sp0: u16le(2),
  ss0: u16le(4),
  sp1: u16le(6),
  ss1: u16le(8),
  sp2: u16le(10),
  ss2: u16le(12),
  ip: u16le(14),
  flags: u16le(16),
  ax: u16le(18),
  cx: u16le(20),
  dx: u16le(22),
  bx: u16le(24),
  sp: u16le(26),
  bp: u16le(28),
  si: u16le(30),
  di: u16le(32),
  es: u16le(34),
  cs: u16le(36),
  ss: u16le(38),
  ds: u16le(40),
  ldt: u16le(42),
});

/** 64-bit TSS. */
const Tss64 = layout('tss64', {
  rsp0: u64le(4),
  rsp1: u64le(12),
  rsp2: u64le(20),
  ist1: u64le(36),
  ist2: u64le(44),
  ist3: u64le(52),
  ist4: u64le(60),
  ist5: u64le(68),
  ist6: u64le(76),
  ist7: u64le(84),
  ioMap: u16le(102),
});

/** True when TR holds a TSS of the 80286's format. */
export const is16BitTss = ({ state }: SegmentedProcessor): boolean => {
  const type = state.segRights(SEG.TR) & AR.TYPE;
  return type === SYSTEM_TYPE.TSS16 || type === SYSTEM_TYPE.BUSY_TSS16;
};

/** Reads 2 or 4 bytes of the current TSS with the processor's own authority. `needed`: how much of it must be there. @throws #TS(TR) when it is not. */
export function readTss(cpu: Cpu, offset: number, bytes: 2 | 4, needed = offset + bytes): number {
  const { state } = cpu;
  // @clause x86.tss.limit
  if (needed - 1 > state.segLimit(SEG.TR)) throw invalidTss(selectorError(state.segSelector(SEG.TR)));
  const base = state.segBaseLow(SEG.TR);
  const at = (base + offset) >>> 0;
  return cpu.mmu.load(at, upperHalf(cpu, base, state.segBaseHigh(SEG.TR), at), bytes, PRIVILEGE.SYSTEM);
}

/** A stack of an inner level: to push on first, and to load into SS afterwards. */
interface InnerStack {
  readonly stack: Stack;
  readonly selector: number;
  /** Null in long mode: SS becomes null there. */
  readonly descriptor: Descriptor | null;
}

/** The stack that the TSS names for privilege level `cpl`; in long mode, IST entry `ist` when that is not zero. */
export function innerStack(cpu: Cpu, cpl: number, ist = 0): InnerStack {
  if (longMode(cpu)) {
    // @clause x86.gate.long-stack
    const at = ist > 0 ? Tss64.fields.ist1.offset + 8 * (ist - 1) : Tss64.fields.rsp0.offset + 8 * cpl;
    const low = readTss(cpu, at, 4, at + 8);
    return { stack: longStack(cpu, low, readTss(cpu, at + 4, 4), cpl), selector: cpl, descriptor: null };
  }
  const small = is16BitTss(cpu);
  const at = small ? 2 + 4 * cpl : 4 + 8 * cpl;
  const ssAt = at + (small ? 2 : 4);
  // Both words must lie inside the TSS before either is used.
  const sp = readTss(cpu, at, small ? 2 : 4, ssAt + 2);
  const selector = readTss(cpu, ssAt, 2);
  // @clause x86.tss.stack-segment
  if (isNull(selector)) throw invalidTss(0);
  const d = readDescriptor(cpu, selector, invalidTss);
  checkStackDescriptor(d, cpl, invalidTss);
  const width = d.rights & AR.DB ? 4 : 2;
  const { base, limit, rights } = d;
  const low = width === 2 ? sp & 0xffff : sp;
  return { stack: new Stack(cpu, { low, high: 0, base, limit, rights, width, cpl, errorCode: selectorError(selector) }), selector, descriptor: d };
}

/** Puts the new stack's selector into SS. The stack pointer is committed by the stack. */
export function loadInnerStack(cpu: Cpu, { selector, descriptor }: InnerStack, cpl: number): void {
  if (descriptor) {
    markAccessed(cpu, descriptor);
    fillSegment(cpu, SEG.SS, selector, descriptor);
  } else clearSegment(cpu, SEG.SS, selector, cpl);
}
