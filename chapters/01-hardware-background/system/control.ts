// # Control registers
//
// CR0 and CR4 are where an operating system switches the processor on, piece by piece. Most combinations of their bits mean something; a few would
// not, and MOV refuses those with #GP. The order in which a system climbs from real mode to 64-bit code is forced by these rules: PAE and LME
// before PG, and PG from code that is not yet 64-bit.
//
// ::figure mode-ladder -- From real mode to 64-bit code: the steps of a run that changed something, and what each makes possible.

import type { Cpu } from '../cpu.ts';
import { generalProtection, undefinedOpcode } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import { PHYSICAL_ADDRESS_BITS } from '../mmu/paging.ts';
import { AR, CR0, CR4, EFER, OFFSET, SEG } from '../state.ts';
import { requireUmip } from './segment-ops.ts';
import { operandAddress, protectedMode, readOperand, U32, writeRegister, writeWordOperand } from './segmentation.ts';
import { is16BitTss } from './tss.ts';

const sum = (...masks: number[]): number => masks.reduce((all, mask) => all | mask, 0) >>> 0;

/** The bits of CR0 that exist. Others are ignored when written. */
const CR0_BITS = sum(...Object.values(CR0));
/** The bits of CR4 that this processor offers. Setting another is #GP; CPUID does not announce it either. LA57 is for the builder of a processor to add. */
// biome-ignore format: table
export const CR4_BITS = sum(
  CR4.VME, CR4.PVI, CR4.MCE, CR4.PCIDE, CR4.TSD, CR4.DE, CR4.PSE, CR4.PAE, CR4.PGE, CR4.PCE,
  CR4.OSFXSR, CR4.OSXMMEXCPT, CR4.UMIP, CR4.VMXE, CR4.FSGSBASE, CR4.OSXSAVE, CR4.SMEP, CR4.SMAP,
);
/** The bits of EFER that this processor offers. */
const EFER_BITS = sum(EFER.SCE, EFER.LME, EFER.LMA, EFER.NXE);

/** PAE paging is (or would be) in force, with its four directory-pointer registers. */
const paePaging = (cr0: number, cr4: number, efer: number): boolean => (cr0 & CR0.PG) !== 0 && (cr4 & CR4.PAE) !== 0 && (efer & EFER.LMA) === 0;

// ## CR0

/** Gives CR0 a new value, with all the checks and everything that follows. @throws #GP. */
function setCr0(cpu: Cpu, value: bigint): void {
  const { state } = cpu;
  // @clause x86.cr.reserved
  if (value > U32) throw generalProtection();
  const next = ((Number(value) & CR0_BITS) | CR0.ET) >>> 0;
  const before = state.low32(OFFSET.CR0);
  const cr4 = state.low32(OFFSET.CR4);
  const efer = state.low32(OFFSET.EFER);
  // @clause x86.cr.reserved
  if (next & CR0.PG && !(next & CR0.PE)) throw generalProtection();
  if (next & CR0.NW && !(next & CR0.CD)) throw generalProtection();
  cpu.vmx?.checkControlRegister(0, BigInt(next));
  const inLongCode = (efer & EFER.LMA) !== 0 && (state.segRights(SEG.CS) & AR.L) !== 0;
  let nextEfer = efer;
  if (next & ~before & CR0.PG && efer & EFER.LME) {
    // @clause x86.long.state
    if (!(cr4 & CR4.PAE) || state.segRights(SEG.CS) & AR.L || is16BitTss(cpu)) throw generalProtection();
    nextEfer |= EFER.LMA;
  }
  if (before & ~next & CR0.PG) {
    // @clause x86.long.transitions
    if (inLongCode || cr4 & CR4.PCIDE) throw generalProtection();
    nextEfer &= ~EFER.LMA;
  }
  const reload = (next ^ before) & (CR0.PG | CR0.CD | CR0.NW);
  if (reload && paePaging(next, cr4, nextEfer) && !cpu.mmu.loadPdptes(state.get64(OFFSET.CR3))) throw generalProtection();
  state.set64(OFFSET.CR0, BigInt(next));
  state.set64(OFFSET.EFER, BigInt(nextEfer));
  if ((next ^ before) & (CR0.PG | CR0.WP | CR0.PE)) cpu.mmu.flush('cr0');
  cpu.modeChanged();
}

// ## CR3

// Loading CR3 makes the processor forget what it knows of the old address space, and a moment later the old one may be back. With CR4.PCIDE set, CR3's low
// twelve bits are a *process-context identifier*: translations are filed under it, and bit 63 of the operand says that those of the new context may be kept.
// May, not must. This TLB has no room for a tag, so it keeps them only where the context stays the same.

const KEEP = 1n << 63n;
const PCID = 0xfffn;

/** Gives CR3 a new value: a new address space. */
function setCr3(cpu: Cpu, operand: bigint): void {
  const { state } = cpu;
  const efer = state.low32(OFFSET.EFER);
  const tagged = (state.low32(OFFSET.CR4) & CR4.PCIDE) !== 0;
  const value = tagged ? operand & ~KEEP : operand;
  // @clause x86.cr.reserved
  if (efer & EFER.LMA ? value >> BigInt(PHYSICAL_ADDRESS_BITS) : value > U32) throw generalProtection();
  if (paePaging(state.low32(OFFSET.CR0), state.low32(OFFSET.CR4), efer) && !cpu.mmu.loadPdptes(value)) throw generalProtection();
  // @clause x86.pcid.load
  const kept = tagged && operand !== value && (value & PCID) === (state.get64(OFFSET.CR3) & PCID);
  state.set64(OFFSET.CR3, value);
  if (!kept) cpu.mmu.flushNonGlobal('cr3');
}

// ## CR4

const PDPTE_BITS = CR4.PAE | CR4.PGE | CR4.PSE | CR4.SMEP;
const TLB_BITS = CR4.PAE | CR4.PGE | CR4.PSE | CR4.SMEP | CR4.SMAP | CR4.PCIDE | CR4.LA57;

/** Gives CR4 a new value. */
function setCr4(cpu: Cpu, value: bigint): void {
  const { state } = cpu;
  // @clause x86.cr.reserved
  if (value > U32 || (Number(value) & ~cpu.cr4Bits) !== 0) throw generalProtection();
  const next = Number(value);
  const before = state.low32(OFFSET.CR4);
  const efer = state.low32(OFFSET.EFER);
  // @clause x86.long.transitions
  if (efer & EFER.LMA && !(next & CR4.PAE)) throw generalProtection();
  // The number of levels cannot change under a running system, and identifiers begin with zero.
  // @clause x86.la57.switch
  if (efer & EFER.LMA && (next ^ before) & CR4.LA57) throw generalProtection();
  // @clause x86.pcid.enable
  if (next & ~before & CR4.PCIDE && (!(efer & EFER.LMA) || state.get64(OFFSET.CR3) & PCID)) throw generalProtection();
  cpu.vmx?.checkControlRegister(4, value);
  const reload = (next ^ before) & PDPTE_BITS;
  if (reload && paePaging(state.low32(OFFSET.CR0), next, efer) && !cpu.mmu.loadPdptes(state.get64(OFFSET.CR3))) throw generalProtection();
  state.set64(OFFSET.CR4, value);
  if ((next ^ before) & TLB_BITS) cpu.mmu.flush('cr4');
  cpu.modeChanged();
}

// ## EFER

/** Gives EFER a new value, as WRMSR does. LMA is not for software to write. */
export function setEfer(cpu: Cpu, value: bigint): void {
  const { state } = cpu;
  // @clause x86.msr.reserved
  if (value > U32 || (Number(value) & ~EFER_BITS) !== 0) throw generalProtection();
  const before = state.low32(OFFSET.EFER);
  // @clause x86.long.transitions
  if ((Number(value) ^ before) & EFER.LME && state.low32(OFFSET.CR0) & CR0.PG) throw generalProtection();
  const next = (Number(value) & ~EFER.LMA) | (before & EFER.LMA);
  state.set64(OFFSET.EFER, BigInt(next >>> 0));
  if ((next ^ before) & EFER.NXE) cpu.mmu.flush('efer');
}

// ## The instructions

type Numbered = 0 | 3 | 4 | 8;

function checkNumber(cpu: Cpu, n: number): Numbered | 2 {
  // @clause x86.exception.undefined-opcode
  if (n !== 0 && n !== 2 && n !== 3 && n !== 4 && n !== 8) throw undefinedOpcode();
  if (cpu.cpl !== 0) throw generalProtection();
  return n;
}

export function movToCr(cpu: Cpu, insn: Instruction): void {
  const { state } = cpu;
  const n = checkNumber(cpu, insn.reg);
  let value = insn.codeSize === 8 ? state.slot(insn.rm) : state.slot(insn.rm) & U32;
  if (n === 2) {
    state.set64(OFFSET.CR2, value);
    return;
  }
  if (cpu.intercepts) value = cpu.intercepts.writeCr(n, value, insn.rm, insn.length);
  if (n === 0) setCr0(cpu, value);
  else if (n === 3) setCr3(cpu, value);
  else if (n === 4) setCr4(cpu, value);
  else {
    if (value > 15n) throw generalProtection();
    state.set64(OFFSET.CR8, value);
    cpu.eventsChanged();
  }
}

const CR_OFFSET = { 0: OFFSET.CR0, 2: OFFSET.CR2, 3: OFFSET.CR3, 4: OFFSET.CR4, 8: OFFSET.CR8 } as const;

export function movFromCr(cpu: Cpu, insn: Instruction): void {
  const n = checkNumber(cpu, insn.reg);
  let value = cpu.state.get64(CR_OFFSET[n]);
  if (n !== 2 && cpu.intercepts) value = cpu.intercepts.readCr(n, value, insn.rm, insn.length);
  writeRegister(cpu, insn.rm, insn.codeSize === 8 ? 8 : 4, value);
}

// @clause x86.cr.lmsw-clts
export function clts(cpu: Cpu, insn: Instruction): void {
  if (cpu.cpl !== 0) throw generalProtection();
  cpu.intercepts?.clts(insn.length);
  if (cpu.intercepts?.hostOwnsTs) return;
  cpu.state.set64(OFFSET.CR0, cpu.state.get64(OFFSET.CR0) & ~BigInt(CR0.TS));
}

/** LMSW: the 80286's way into protected mode. It can set PE and not clear it: the 286 had no way back. */
export function lmsw(cpu: Cpu, insn: Instruction): void {
  if (cpu.cpl !== 0) throw generalProtection();
  let value = readOperand(cpu, insn, 2) & 0xf;
  if (cpu.intercepts) {
    const memory = insn.mod !== 3;
    value = cpu.intercepts.lmsw(value, insn.length, memory, memory ? operandAddress(cpu, insn, 2, false) : 0n) & 0xf;
  }
  const before = cpu.state.get64(OFFSET.CR0);
  // @clause x86.cr.lmsw-clts
  setCr0(cpu, (before & ~0xen) | BigInt(value & 0xe) | (before & 1n) | BigInt(value & 1));
}

// @clause x86.sensitive.untrapped
/** SMSW: one of the instructions that made x86 hard to virtualize. It reads CR0 in any ring, and nobody is told. */
export function smsw(cpu: Cpu, insn: Instruction): void {
  if (protectedMode(cpu)) requireUmip(cpu);
  let value = cpu.state.get64(OFFSET.CR0);
  if (cpu.intercepts) value = cpu.intercepts.readCr(0, value, 0, insn.length);
  writeWordOperand(cpu, insn, value);
}

/** CR0 after power-up. */
export const RESET_CR0 = CR0.CD | CR0.NW | CR0.ET;
