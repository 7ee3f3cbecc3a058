// # Hardware task switching
//
// One far jump to a TSS descriptor saves all registers into the current task's segment and loads all of another's, page tables included. It was the
// grand idea of the 80286. It turned out slower than doing it by hand, because software knows which registers matter, and 64-bit mode left it out.
// But 32-bit systems used it for double faults, and a hypervisor must cope: on VMX a task switch exits without exception, and KVM carries it out in
// software, by steps like the ones below.

import { readFlags, writeFlags } from '../engine/flags.ts';
import { generalProtection, invalidTss, notPresent, stackFault } from '../faults.ts';
import type { Intercepts } from '../intercepts.ts';
import { type Mmu, PRIVILEGE } from '../mmu/mmu.ts';
import { AR, CR0, CR4, FLAG, OFFSET, SEG, SLOT } from '../state.ts';
import { DR6 } from './debug.ts';
import {
  checkStackDescriptor,
  clearSegment,
  type Descriptor,
  dplOf,
  enterCode,
  fillSegment,
  isCode,
  isConforming,
  isNull,
  loadRealSegment,
  markAccessed,
  readDescriptor,
  rplOf,
  SYSTEM_TYPE,
  selectorError,
  writeType,
} from './descriptors.ts';
import { currentStack, type SegmentedProcessor } from './segmentation.ts';
import { is16BitTss, Tss16, Tss32 } from './tss.ts';

/** What a switch needs of who carries it out: a processor, or a hypervisor in its place. */
export interface TaskProcessor extends SegmentedProcessor {
  readonly mmu: SegmentedProcessor['mmu'] & Pick<Mmu, 'read' | 'read32' | 'probe' | 'loadPdptes' | 'flushNonGlobal'>;
  readonly intercepts: Pick<Intercepts, 'taskSwitch'> | null;
  wrapLinear(linear: bigint): bigint;
  trapAfter(conditions: number): void;
  modeChanged(): void;
  debugChanged(): void;
}

export type TaskSource = 'call' | 'iret' | 'jmp' | 'idt';

const BUSY = 2; // bit of a TSS descriptor's type
const GENERAL = [SLOT.RAX, SLOT.RCX, SLOT.RDX, SLOT.RBX, SLOT.RSP, SLOT.RBP, SLOT.RSI, SLOT.RDI] as const;
const SEGMENTS_32 = [SEG.ES, SEG.CS, SEG.SS, SEG.DS, SEG.FS, SEG.GS] as const;
const SEGMENTS_16 = [SEG.ES, SEG.CS, SEG.SS, SEG.DS] as const;

/** Where a task's registers lie in its TSS: EIP, EFLAGS, eight general registers, segments, LDT. */
interface Format {
  readonly bytes: number;
  readonly word: 2 | 4;
  readonly ip: number;
  readonly segments: readonly number[];
  readonly segmentsAt: number;
  readonly ldtAt: number;
}
const FORMAT32: Format = {
  bytes: Tss32.bytes,
  word: 4,
  ip: Tss32.fields.eip.offset,
  segments: SEGMENTS_32,
  segmentsAt: Tss32.fields.es.offset,
  ldtAt: Tss32.fields.ldt.offset,
};
const FORMAT16: Format = {
  bytes: Tss16.bytes,
  word: 2,
  ip: Tss16.fields.ip.offset,
  segments: SEGMENTS_16,
  segmentsAt: Tss16.fields.es.offset,
  ldtAt: Tss16.fields.ldt.offset,
};

// @clause x86.task.switch
/**
 * Switches to the task that `target` names: a TSS descriptor, a task gate, or for IRET the back link (only its selector counts). `errorCode` of an
 * exception goes onto the new task's stack.
 */
export function switchTask(cpu: TaskProcessor, target: Descriptor, source: TaskSource, length: number, errorCode: number | null = null): void {
  const { state } = cpu;
  const isGate = source !== 'iret' && (target.rights & (AR.S | AR.TYPE)) === SYSTEM_TYPE.TASK_GATE;
  if (isGate && (target.rights & AR.P) === 0) throw notPresent(selectorError(target.selector));
  const selector = isGate ? target.lo >>> 16 : target.selector;
  const wrong = source === 'iret' ? invalidTss : generalProtection;
  // @clause x86.task.descriptor
  if (isNull(selector) || selector & 4) throw wrong(selectorError(selector));
  const tss = readDescriptor(cpu, selector, wrong);
  const type = tss.rights & (AR.S | AR.TYPE);
  const plain = type & ~BUSY;
  if ((plain !== SYSTEM_TYPE.TSS && plain !== SYSTEM_TYPE.TSS16) || ((type & BUSY) !== 0) !== (source === 'iret'))
    throw wrong(selectorError(selector));
  if ((tss.rights & AR.P) === 0) throw notPresent(selectorError(selector));
  const format = plain === SYSTEM_TYPE.TSS ? FORMAT32 : FORMAT16;
  if (tss.limit < format.bytes - 1) throw invalidTss(selectorError(selector));
  cpu.intercepts?.taskSwitch(selector, source, length);

  // Everything that can fault for want of a page is touched before the point of no return.
  const old = is16BitTss(cpu) ? FORMAT16 : FORMAT32;
  const base = BigInt(tss.base);
  const oldBase = state.segBase(SEG.TR);
  cpu.mmu.probe(cpu.wrapLinear(oldBase), old.bytes, 1, PRIVILEGE.SYSTEM);
  cpu.mmu.probe(base, format.bytes, 1, PRIVILEGE.SYSTEM);
  const image = readImage(cpu, base, format);
  const oldSelector = state.segSelector(SEG.TR);
  saveTask(cpu, oldBase, old, source);
  if (source === 'jmp' || source === 'iret') setBusy(cpu, oldSelector, false);
  if (source !== 'iret') setBusy(cpu, selector, true);
  const nested = source === 'call' || source === 'idt';
  // @clause x86.task.nesting
  if (nested) cpu.mmu.write(base, 2, BigInt(oldSelector), PRIVILEGE.SYSTEM);

  fillSegment(cpu, SEG.TR, selector, { ...tss, rights: tss.rights | BUSY });
  loadTask(cpu, image, format, nested);
  if (errorCode !== null) {
    const stack = currentStack(cpu);
    stack.push(errorCode, format.word);
    stack.commit();
  }
  // @clause x86.task.trap-bit
  if (format === FORMAT32 && Number(cpu.mmu.read(cpu.wrapLinear(base + 100n), 2, PRIVILEGE.SYSTEM)) & 1) cpu.trapAfter(DR6.mask.BT);
}

interface Image {
  readonly cr3: number;
  readonly ip: number;
  readonly flags: number;
  readonly general: readonly number[];
  readonly segments: readonly number[];
  readonly ldt: number;
}

function readImage(cpu: TaskProcessor, base: bigint, f: Format): Image {
  const at = (offset: number, bytes: number): number => cpu.mmu.read32(cpu.wrapLinear(base + BigInt(offset)), bytes, PRIVILEGE.SYSTEM);
  return {
    cr3: f === FORMAT32 ? at(Tss32.fields.cr3.offset, 4) : 0,
    ip: at(f.ip, f.word),
    flags: at(f.ip + f.word, f.word),
    general: GENERAL.map((_, i) => at(f.ip + f.word * (2 + i), f.word)),
    segments: f.segments.map((_, i) => at(f.segmentsAt + f.word * i, 2)),
    ldt: at(f.ldtAt, 2),
  };
}

function saveTask(cpu: TaskProcessor, base: bigint, f: Format, source: TaskSource): void {
  const { state } = cpu;
  const put = (offset: number, bytes: number, value: number): void =>
    cpu.mmu.write(cpu.wrapLinear(base + BigInt(offset)), bytes, BigInt(value >>> 0), PRIVILEGE.SYSTEM);
  put(f.ip, f.word, state.slot32(SLOT.NEXT_RIP));
  put(f.ip + f.word, f.word, source === 'iret' ? readFlags(state) & ~FLAG.NT : readFlags(state));
  GENERAL.forEach((slot, i) => {
    put(f.ip + f.word * (2 + i), f.word, state.slot32(slot));
  });
  f.segments.forEach((seg, i) => {
    put(f.segmentsAt + f.word * i, 2, state.segSelector(seg));
  });
}

function setBusy(cpu: TaskProcessor, selector: number, busy: boolean): void {
  const d = readDescriptor(cpu, selector, invalidTss);
  writeType(cpu, d, busy ? d.rights | BUSY : d.rights & ~BUSY);
}

// ## The point of no return
//
// From here on the processor *is* the new task. A bad selector in its image is reported, but as a fault of the new task before its first
// instruction, with all selectors already in the registers, so that its handler can see which one it was.

function loadTask(cpu: TaskProcessor, image: Image, f: Format, nested: boolean): void {
  const { state } = cpu;
  if (f === FORMAT32 && state.low32(OFFSET.CR0) & CR0.PG) {
    if (state.low32(OFFSET.CR4) & CR4.PAE && !cpu.mmu.loadPdptes(BigInt(image.cr3))) throw invalidTss(0);
    state.set64(OFFSET.CR3, BigInt(image.cr3));
    cpu.mmu.flushNonGlobal('task');
  }
  state.set64(OFFSET.CR0, state.get64(OFFSET.CR0) | BigInt(CR0.TS));
  state.set64(OFFSET.DR7, state.get64(OFFSET.DR7) & ~0x55n); // the local breakpoints stay with the old task
  const high = f.word === 2 ? 0xffff0000 : 0;
  GENERAL.forEach((slot, i) => {
    state.setSlot(slot, BigInt(((image.general[i] as number) | high) >>> 0));
  });
  state.setSlotNumber(SLOT.RIP, image.ip);
  state.setSlotNumber(SLOT.NEXT_RIP, image.ip);
  writeFlags(state, ((image.flags & (f.word === 2 ? 0x7fd5 : 0x3f7fd5)) | FLAG.FIXED | (nested ? FLAG.NT : 0)) >>> 0);
  state.set64(OFFSET.RESUME_AT, state.get64(OFFSET.ICOUNT));
  const segments = new Map(f.segments.map((seg, i) => [seg, image.segments[i] as number]));
  for (const [seg, selector] of segments) clearSegment(cpu, seg, selector);
  clearSegment(cpu, SEG.LDTR, image.ldt);
  const v86 = (image.flags & FLAG.VM) !== 0 && f === FORMAT32;
  if (v86) {
    state.set32(OFFSET.CPL, 3);
    for (const [seg, selector] of segments) loadRealSegment(cpu, seg, selector);
  }
  loadTaskLdt(cpu, image.ldt);
  if (!v86) loadTaskSegments(cpu, segments, image.ip);
  cpu.modeChanged();
  cpu.debugChanged();
}

function loadTaskLdt(cpu: TaskProcessor, selector: number): void {
  if (isNull(selector)) return;
  if (selector & 4) throw invalidTss(selectorError(selector));
  const d = readDescriptor(cpu, selector, invalidTss);
  if ((d.rights & (AR.S | AR.TYPE)) !== SYSTEM_TYPE.LDT || (d.rights & AR.P) === 0) throw invalidTss(selectorError(selector));
  fillSegment(cpu, SEG.LDTR, selector, d);
}

// @clause x86.task.segment-faults
function loadTaskSegments(cpu: TaskProcessor, segments: ReadonlyMap<number, number>, ip: number): void {
  const cs = segments.get(SEG.CS) as number;
  const cpl = rplOf(cs);
  cpu.state.set32(OFFSET.CPL, cpl);
  const ss = segments.get(SEG.SS) as number;
  if (isNull(ss)) throw invalidTss(selectorError(ss));
  const stack = readDescriptor(cpu, ss, invalidTss);
  checkStackDescriptor(stack, cpl, (code) => (stack.rights & AR.P ? invalidTss(code) : stackFault(code)));
  markAccessed(cpu, stack);
  fillSegment(cpu, SEG.SS, ss, stack);
  for (const seg of [SEG.ES, SEG.DS, SEG.FS, SEG.GS]) {
    const selector = segments.get(seg);
    if (selector === undefined || isNull(selector)) continue;
    const d = readDescriptor(cpu, selector, invalidTss);
    const readable = (d.rights & AR.S) !== 0 && ((d.rights & AR.CODE) === 0 || (d.rights & AR.READABLE) !== 0);
    const bound = !(isCode(d.rights) && isConforming(d.rights));
    if (!readable || (bound && (dplOf(d.rights) < cpl || dplOf(d.rights) < rplOf(selector)))) throw invalidTss(selectorError(selector));
    if ((d.rights & AR.P) === 0) throw notPresent(selectorError(selector));
    markAccessed(cpu, d);
    fillSegment(cpu, seg, selector, d);
  }
  if (isNull(cs)) throw invalidTss(selectorError(cs));
  const code = readDescriptor(cpu, cs, invalidTss);
  const dpl = dplOf(code.rights);
  if (!isCode(code.rights) || (isConforming(code.rights) ? dpl > cpl : dpl !== cpl)) throw invalidTss(selectorError(cs));
  if ((code.rights & AR.P) === 0) throw notPresent(selectorError(cs));
  markAccessed(cpu, code);
  enterCode(cpu, code, cpl);
  cpu.modeChanged();
  if (ip > code.limit) throw generalProtection();
}
