// # The short way into the kernel
//
// INT reads a gate, two descriptors and the TSS, writes five words and checks all of it. Operating systems used it in only one way: from ring 3 to
// ring 0 with flat segments. So both makers added instructions that *assume* the answer. They load constants into the hidden halves of CS and SS,
// take the entry point from an MSR, and touch no memory at all. Intel's pair is SYSENTER and SYSEXIT, AMD's is SYSCALL and SYSRET. 64-bit kernels
// use the latter, and since SYSCALL does not even switch stacks, the kernel's first instruction runs on the user's; hence SWAPGS.

import type { Cpu } from '../cpu.ts';
import { readFlags, writeFlags } from '../engine/flags.ts';
import { generalProtection, undefinedOpcode } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import { AR, EFER, FLAG, OFFSET, SEG, SLOT } from '../state.ts';
import { canonical, code64, longMode, protectedMode, U32 } from './segmentation.ts';

const CODE_RIGHTS = AR.P | AR.S | AR.CODE | AR.READABLE | AR.ACCESSED | AR.G;
const DATA_RIGHTS = AR.P | AR.S | AR.WRITABLE | AR.ACCESSED | AR.DB | AR.G;
const LIMIT = 0xffffffff;

/** Loads CS and SS with flat segments, without looking at a descriptor table. */
function loadFlat(cpu: Cpu, cs: number, ss: number, cpl: number, bits: 32 | 64): void {
  const { state } = cpu;
  const dpl = cpl << AR.DPL_SHIFT;
  const set = (seg: number, selector: number, rights: number): void => {
    state.setSegSelector(seg, selector & 0xffff);
    state.setSegBase(seg, 0n);
    state.setSegLimit(seg, LIMIT);
    state.setSegRights(seg, rights);
  };
  set(SEG.CS, cs, CODE_RIGHTS | dpl | (bits === 64 ? AR.L : AR.DB));
  set(SEG.SS, ss, DATA_RIGHTS | dpl);
  state.set32(OFFSET.CPL, cpl);
}

// @clause x86.syscall.checks
function requireSce(cpu: Cpu): void {
  if ((cpu.state.low32(OFFSET.EFER) & EFER.SCE) === 0) throw undefinedOpcode();
}

/** SYSCALL. Intel's exists in 64-bit code only. */
export function syscall(cpu: Cpu): void {
  const { state } = cpu;
  requireSce(cpu);
  if (!code64(cpu)) throw undefinedOpcode();
  // @clause x86.syscall.entry
  state.setSlot(SLOT.RCX, state.slot(SLOT.NEXT_RIP));
  const flags = readFlags(state) & ~FLAG.RF;
  state.setSlotNumber(SLOT.R11, flags >>> 0);
  writeFlags(state, (flags & ~Number(state.get64(OFFSET.SFMASK) & U32)) >>> 0);
  const cs = (Number(state.get64(OFFSET.STAR) >> 32n) & 0xfffc) >>> 0;
  loadFlat(cpu, cs, cs + 8, 0, 64);
  state.setSlot(SLOT.NEXT_RIP, state.get64(OFFSET.LSTAR));
  // TF is judged after the mask, so a kernel that masks it is not stepped into.
  cpu.stepByNewFlags();
  cpu.modeChanged();
}

/** SYSRET: to 64-bit code with REX.W, to compatibility mode without. */
export function sysret(cpu: Cpu, insn: Instruction): void {
  const { state } = cpu;
  requireSce(cpu);
  if (!code64(cpu)) throw undefinedOpcode();
  if (cpu.cpl !== 0) throw generalProtection();
  const wide = insn.operandSize === 8;
  const target = state.slot(SLOT.RCX);
  // Intel's processors look at RCX while still in ring 0, on whatever stack the kernel has prepared for the user. A kernel that lets a user choose
  // RCX has handed over the machine (CVE-2012-0217). AMD's look only after the switch.
  // @clause x86.syscall.checks
  if (wide && !canonical(cpu, target)) throw generalProtection();
  const image = state.slot32(SLOT.R11);
  const kept =
    FLAG.CF |
    FLAG.PF |
    FLAG.AF |
    FLAG.ZF |
    FLAG.SF |
    FLAG.TF |
    FLAG.IF |
    FLAG.DF |
    FLAG.OF |
    FLAG.IOPL |
    FLAG.NT |
    FLAG.AC |
    FLAG.VIF |
    FLAG.VIP |
    FLAG.ID;
  // @clause x86.syscall.return
  writeFlags(state, ((image & kept) | FLAG.FIXED) >>> 0);
  const star = Number(state.get64(OFFSET.STAR) >> 48n);
  loadFlat(cpu, (star + (wide ? 16 : 0)) | 3, (star + 8) | 3, 3, wide ? 64 : 32);
  state.setSlot(SLOT.NEXT_RIP, wide ? target : target & U32);
  cpu.stepByNewFlags();
  cpu.modeChanged();
}

/** SYSENTER. */
export function sysenter(cpu: Cpu): void {
  const { state } = cpu;
  const cs = Number(state.get64(OFFSET.SYSENTER_CS) & 0xfffcn);
  // @clause x86.sysenter.checks
  if (!isProtectedOrV86(cpu) || cs === 0) throw generalProtection();
  const long = longMode(cpu);
  // @clause x86.sysenter.entry
  writeFlags(state, readFlags(state) & ~(FLAG.VM | FLAG.IF | FLAG.RF));
  loadFlat(cpu, cs, cs + 8, 0, long ? 64 : 32);
  const mask = long ? 0xffffffffffffffffn : U32;
  state.setSlot(SLOT.RSP, state.get64(OFFSET.SYSENTER_ESP) & mask);
  state.setSlot(SLOT.NEXT_RIP, state.get64(OFFSET.SYSENTER_EIP) & mask);
  cpu.modeChanged();
}

const isProtectedOrV86 = (cpu: Cpu): boolean => protectedMode(cpu) || (cpu.state.get32(OFFSET.RFLAGS) & FLAG.VM) !== 0;

/** SYSEXIT. */
export function sysexit(cpu: Cpu, insn: Instruction): void {
  const { state } = cpu;
  const cs = Number(state.get64(OFFSET.SYSENTER_CS) & 0xfffcn);
  // @clause x86.sysenter.checks
  if (!protectedMode(cpu) || cs === 0 || cpu.cpl !== 0) throw generalProtection();
  const wide = insn.operandSize === 8;
  const sp = state.slot(SLOT.RCX);
  const ip = state.slot(SLOT.RDX);
  // @clause x86.sysexit.canonical
  if (wide && (!canonical(cpu, sp) || !canonical(cpu, ip))) throw generalProtection();
  // @clause x86.sysenter.exit
  loadFlat(cpu, (cs + (wide ? 32 : 16)) | 3, (cs + (wide ? 40 : 24)) | 3, 3, wide ? 64 : 32);
  state.setSlot(SLOT.RSP, wide ? sp : sp & U32);
  state.setSlot(SLOT.NEXT_RIP, wide ? ip : ip & U32);
  cpu.modeChanged();
}

/** SWAPGS: exchanges the GS base with a hidden one. */
export function swapgs(cpu: Cpu): void {
  const { state } = cpu;
  if (!code64(cpu)) throw undefinedOpcode();
  if (cpu.cpl !== 0) throw generalProtection();
  // @clause x86.swapgs.exchange
  const base = state.segBase(SEG.GS);
  state.setSegBase(SEG.GS, state.get64(OFFSET.KERNEL_GS_BASE));
  state.set64(OFFSET.KERNEL_GS_BASE, base);
}
