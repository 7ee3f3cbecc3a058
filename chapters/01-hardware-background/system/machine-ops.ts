// # Instructions about the machine
//
// Descriptor-table registers, time, identity, sleep, caches and the TLB: one short function each. The pattern is always the same, and its order
// matters to a hypervisor: first the faults that the instruction has in any case, then the question whether the hypervisor wants it, then the
// effect.

import type { Cpu } from '../cpu.ts';
import { readFlags, writeFlags } from '../engine/flags.ts';
import { generalProtection, undefinedOpcode } from '../faults.ts';
import { effectiveAddress, type Instruction } from '../isa/instruction.ts';
import { ARITHMETIC_FLAGS, CR0, CR4, FLAG, OFFSET, SEG, SLOT } from '../state.ts';
import { EXIT_REASON } from '../vmx/exit-reasons.ts';
import { descriptorTableExit } from './exit-information.ts';
import { readTsc } from './msrs.ts';
import { requireUmip } from './segment-ops.ts';
import { canonicalForRegister, code64, linearAddress, operandAddress, privilegeOf, U32, U64, virtual8086, writeRegister } from './segmentation.ts';

// @clause x86.exception.privileged
// @clause x86.v86.privileged
function requireRing0(cpu: Cpu): void {
  if (cpu.cpl !== 0) throw generalProtection();
}

// ## GDTR and IDTR

type Table = { readonly base: number; readonly limit: number };
export const GDTR: Table = { base: OFFSET.GDTR_BASE, limit: OFFSET.GDTR_LIMIT };
export const IDTR: Table = { base: OFFSET.IDTR_BASE, limit: OFFSET.IDTR_LIMIT };

const pointerBytes = (cpu: Cpu): 4 | 8 => (code64(cpu) ? 8 : 4);

// @clause x86.sensitive.untrapped
/** SGDT and SIDT: readable from any ring, the hole through which early hypervisors were seen (unless UMIP closes it). */
export function storeTable(cpu: Cpu, insn: Instruction, table: Table): void {
  if (insn.mod === 3) throw undefinedOpcode();
  requireUmip(cpu);
  descriptorTableExit(cpu, insn, EXIT_REASON.GDTR_IDTR, table === GDTR ? 0 : 1);
  const { state } = cpu;
  const bytes = pointerBytes(cpu);
  const privilege = privilegeOf(cpu.cpl);
  const at = operandAddress(cpu, insn, 2, true);
  const second = operandAddress(cpu, insn, bytes, true, 2);
  cpu.mmu.probe(at, 2, 1, privilege); // the limit goes first, and so does its fault
  cpu.mmu.probe(second, bytes, 1, privilege);
  cpu.mmu.write(at, 2, BigInt(state.get32(table.limit) & 0xffff), privilege);
  cpu.mmu.write(second, bytes, state.get64(table.base), privilege);
}

export function loadTable(cpu: Cpu, insn: Instruction, table: Table): void {
  if (insn.mod === 3) throw undefinedOpcode();
  requireRing0(cpu);
  descriptorTableExit(cpu, insn, EXIT_REASON.GDTR_IDTR, table === GDTR ? 2 : 3);
  const { state } = cpu;
  const bytes = pointerBytes(cpu);
  const privilege = privilegeOf(cpu.cpl);
  const limit = cpu.mmu.read32(operandAddress(cpu, insn, 2, false), 2, privilege);
  let base = cpu.mmu.read(operandAddress(cpu, insn, bytes, false, 2), bytes, privilege);
  // @clause x86.lgdt.24-bit
  if (insn.operandSize === 2 && bytes === 4) base &= 0xffffffn;
  if (!canonicalForRegister(cpu, base)) throw generalProtection();
  state.set64(table.base, base);
  state.set32(table.limit, limit);
}

// ## Identity and time

export function cpuid(cpu: Cpu, insn: Instruction): void {
  if (cpu.leaves(cpu.intercepts?.exitOf(EXIT_REASON.CPUID, insn.length))) return;
  const { state } = cpu;
  const answer = cpu.cpuid(cpu, state.slot32(SLOT.RAX), state.slot32(SLOT.RCX));
  // @clause x86.cpuid.upper-halves
  [SLOT.RAX, SLOT.RBX, SLOT.RCX, SLOT.RDX].forEach((slot, i) => {
    state.setSlot(slot, BigInt((answer[i] as number) >>> 0));
  });
}

// @clause x86.tsc.disable
function checkTsd(cpu: Cpu): void {
  const { state } = cpu;
  if (state.low32(OFFSET.CR4) & CR4.TSD && state.low32(OFFSET.CR0) & CR0.PE && cpu.cpl !== 0) throw generalProtection();
}

function storeTsc(cpu: Cpu): void {
  const tsc = readTsc(cpu);
  cpu.state.setSlot(SLOT.RAX, tsc & U32);
  cpu.state.setSlot(SLOT.RDX, tsc >> 32n);
}

export function rdtsc(cpu: Cpu, insn: Instruction): void {
  checkTsd(cpu);
  cpu.intercepts?.instruction(EXIT_REASON.RDTSC, insn.length);
  storeTsc(cpu);
}

export function rdtscp(cpu: Cpu, insn: Instruction): void {
  checkTsd(cpu);
  cpu.intercepts?.instruction(EXIT_REASON.RDTSCP, insn.length);
  storeTsc(cpu);
  cpu.state.setSlot(SLOT.RCX, cpu.state.get64(OFFSET.TSC_AUX) & U32);
}

/** RDPMC: there are no counters, so every number is out of range. */
export function rdpmc(cpu: Cpu, insn: Instruction): void {
  const { state } = cpu;
  if (!(state.low32(OFFSET.CR4) & CR4.PCE) && state.low32(OFFSET.CR0) & CR0.PE && cpu.cpl !== 0) throw generalProtection();
  cpu.intercepts?.instruction(EXIT_REASON.RDPMC, insn.length);
  throw generalProtection();
}

// ## Random numbers
//
// A processor has a source of noise. This one must do the same thing again when it is run again, so its source is the clock, stirred: a number that no
// program can tell from noise unless it knows the recipe (a finalizer of the kind that hash functions end with), and that two runs agree on. It never runs
// dry: CF is always set. Nobody should draw keys from it.

const STIR = [0xbf58476d1ce4e5b9n, 0x94d049bb133111ebn] as const;
const GOLDEN = 0x9e3779b97f4a7c15n; // 2^64 divided by the golden ratio: consecutive inputs become far apart

/** The number that an instruction executed at time `now` gets. */
function stirred(now: bigint): bigint {
  let x = (now * GOLDEN) & U64;
  x = ((x ^ (x >> 30n)) * STIR[0]) & U64;
  x = ((x ^ (x >> 27n)) * STIR[1]) & U64;
  return x ^ (x >> 31n);
}

// @clause x86.rdrand.flags
/** RDRAND and RDSEED. */
export function random(cpu: Cpu, insn: Instruction): void {
  const { state } = cpu;
  writeRegister(cpu, insn.rm, insn.operandSize, stirred(state.get64(OFFSET.ICOUNT)));
  writeFlags(state, ((readFlags(state) & ~ARITHMETIC_FLAGS) | FLAG.CF) >>> 0);
}

// ## Waiting

// @clause x86.hlt.waits
export function hlt(cpu: Cpu, insn: Instruction): void {
  requireRing0(cpu);
  if (cpu.leaves(cpu.intercepts?.exitOf(EXIT_REASON.HLT, insn.length))) return;
  cpu.halt();
}

export function pause(cpu: Cpu, insn: Instruction): void {
  cpu.intercepts?.instruction(EXIT_REASON.PAUSE_INSTRUCTION, insn.length);
}

/** MONITOR arms nothing here, and MWAIT returns at once, which the architecture allows at any time. */
export function monitor(cpu: Cpu, insn: Instruction): void {
  if (cpu.cpl !== 0) throw undefinedOpcode();
  if (cpu.state.slot32(SLOT.RCX) !== 0) throw generalProtection();
  const segment = insn.segmentOverride >= 0 ? insn.segmentOverride : SEG.DS;
  const mask = insn.addressSize === 8 ? U64 : insn.addressSize === 4 ? U32 : 0xffffn;
  const at = linearAddress(cpu, segment, cpu.state.slot(SLOT.RAX) & mask, 1, false);
  cpu.intercepts?.instruction(EXIT_REASON.MONITOR_INSTRUCTION, insn.length);
  cpu.mmu.probe(at, 1, 0, privilegeOf(cpu.cpl));
}

export function mwait(cpu: Cpu, insn: Instruction): void {
  if (cpu.cpl !== 0) throw undefinedOpcode();
  if (cpu.state.slot32(SLOT.RCX) !== 0) throw generalProtection();
  cpu.intercepts?.instruction(EXIT_REASON.MWAIT_INSTRUCTION, insn.length);
}

// ## Caches and translations

/** INVD and WBINVD: memory has no caches here, so there is only the question who may. */
export function invalidateCaches(cpu: Cpu, insn: Instruction, reason: number): void {
  requireRing0(cpu);
  cpu.intercepts?.instruction(reason, insn.length);
}

// @clause x86.tlb.invalidation
export function invlpg(cpu: Cpu, insn: Instruction): void {
  if (insn.mod === 3) throw undefinedOpcode();
  requireRing0(cpu);
  const { state } = cpu;
  const offset = effectiveAddress(state, insn);
  const based = !code64(cpu) || insn.segment >= SEG.FS;
  const linear = (offset + (based ? state.segBase(insn.segment) : 0n)) & (code64(cpu) ? U64 : U32);
  cpu.intercepts?.instruction(EXIT_REASON.INVLPG, insn.length, linear);
  if (canonicalForRegister(cpu, linear)) cpu.mmu.invalidate(linear);
}

// INVPCID names the context as well. Of contexts other than the present one this TLB remembers nothing, so there is nothing to do for them; global pages
// belong to all contexts, and types 0 and 1 may leave them alone.

const INVPCID_TYPE = { ADDRESS: 0n, CONTEXT: 1n, EVERYTHING: 2n, EVERYTHING_BUT_GLOBAL: 3n } as const;
const PCID = 0xfffn;

/** INVPCID. */
export function invpcid(cpu: Cpu, insn: Instruction): void {
  const { state } = cpu;
  if (insn.mod === 3) throw undefinedOpcode();
  // @clause x86.invpcid.checks
  if (virtual8086(cpu)) throw generalProtection();
  requireRing0(cpu);
  descriptorTableExit(cpu, insn, EXIT_REASON.INVPCID, 0);
  const type = code64(cpu) ? state.slot(insn.reg) : state.slot(insn.reg) & U32;
  const at = operandAddress(cpu, insn, 16, false);
  const pcid = cpu.mmu.read(at, 8, privilegeOf(cpu.cpl));
  const linear = cpu.mmu.read((at + 8n) & (code64(cpu) ? U64 : U32), 8, privilegeOf(cpu.cpl));
  if (type > INVPCID_TYPE.EVERYTHING_BUT_GLOBAL || pcid > PCID) throw generalProtection();
  const one = type === INVPCID_TYPE.ADDRESS || type === INVPCID_TYPE.CONTEXT;
  const tagged = (state.low32(OFFSET.CR4) & CR4.PCIDE) !== 0;
  if (one && !tagged && pcid !== 0n) throw generalProtection();
  if (type === INVPCID_TYPE.ADDRESS && !canonicalForRegister(cpu, linear)) throw generalProtection();
  if (type === INVPCID_TYPE.EVERYTHING) cpu.mmu.flush('invpcid');
  else if (!one) cpu.mmu.flushNonGlobal('invpcid');
  else if (!tagged || pcid === (state.get64(OFFSET.CR3) & PCID)) {
    if (type === INVPCID_TYPE.ADDRESS) cpu.mmu.invalidate(linear);
    else cpu.mmu.flushNonGlobal('invpcid');
  }
}

/** INTO: nothing unless OF is set. */
export const overflowFlag = (cpu: Cpu): boolean => (readFlags(cpu.state) & FLAG.OF) !== 0;
