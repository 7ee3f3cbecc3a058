// # The table of system instructions
//
// From the name that the decoder gives to the function that carries it out.

import type { Cpu } from '../cpu.ts';
import { deviceNotAvailable, generalProtection, undefinedOpcode, VECTOR } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import type { SystemOp } from '../isa/system-ops.ts';
import { CR0, OFFSET, SEG, SLOT } from '../state.ts';
import { EXIT_REASON } from '../vmx/exit-reasons.ts';
import { EVENT_TYPE } from '../vmx/processor.ts';
import { clts, lmsw, movFromCr, movToCr, smsw } from './control.ts';
import { movFromDr, movToDr } from './debug.ts';
import { redirect } from './delivery.ts';
import { softwareInterrupt, trapsIntN } from './exceptions.ts';
import { fxrstor, fxsave, xgetbv, xrstor, xsave, xsetbv } from './extended-state.ts';
import { farCall, farJmp, farRet } from './far.ts';
import { swapgs, syscall, sysenter, sysexit, sysret } from './fast-calls.ts';
import { cli, popf, pushf, setAc, sti } from './flag-ops.ts';
import { iret } from './iret.ts';
import {
  cpuid,
  GDTR,
  hlt,
  IDTR,
  invalidateCaches,
  invlpg,
  invpcid,
  loadTable,
  monitor,
  mwait,
  overflowFlag,
  pause,
  random,
  rdpmc,
  rdtsc,
  rdtscp,
  storeTable,
} from './machine-ops.ts';
import { rdmsr, wrmsr } from './msrs.ts';
import { input, inputString, output, outputString } from './ports.ts';
import { arpl, lar, lldt, loadFar, lsl, ltr, movFromSreg, movToSreg, popSreg, readBase, sldt, str, verr, verw, writeBase } from './segment-ops.ts';
import { fldenv, fnsave, fnstenv, frstor } from './x87-environment.ts';
import { x87Function } from './x87-functions.ts';

type Operation = (cpu: Cpu, insn: Instruction) => void;

const ud: Operation = () => {
  throw undefinedOpcode();
};

/**
 * An encoding that means nothing here. Those of the floating-point unit are claimed by CR0 first: with EM or TS set they are #NM, so that software can
 * emulate a unit that is absent, or switch its state late.
 */
const unknown: Operation = (cpu, insn) => {
  const ofUnit = insn.opcode >= 0xd8 && insn.opcode <= 0xdf && !insn.lock;
  if (ofUnit && cpu.state.low32(OFFSET.CR0) & (CR0.EM | CR0.TS)) throw deviceNotAvailable();
  throw undefinedOpcode();
};

// @clause x86.v86.sensitive
// @clause x86.v86.iopl3
function intN(cpu: Cpu, insn: Instruction): void {
  const vector = Number(insn.imm & 0xffn);
  if (redirect(cpu, vector, cpu.state.slot32(SLOT.NEXT_RIP))) return;
  if (trapsIntN(cpu)) throw generalProtection();
  softwareInterrupt(cpu, vector, EVENT_TYPE.SOFTWARE_INTERRUPT, insn.length);
}

function into(cpu: Cpu, insn: Instruction): void {
  if (overflowFlag(cpu)) softwareInterrupt(cpu, VECTOR.OF, EVENT_TYPE.SOFTWARE_EXCEPTION, insn.length);
}

/** Instructions of the VMX unit; without one they are undefined. */
const vmx =
  (op: SystemOp): Operation =>
  (cpu, insn) => {
    if (!cpu.vmx) throw undefinedOpcode();
    cpu.vmx.execute(op, insn);
  };

/** Every system operation. */
export const OPERATIONS: Readonly<Record<SystemOp, Operation>> = {
  // @clause x86.exception.trap-rip
  int3: (cpu, insn) => softwareInterrupt(cpu, VECTOR.BP, EVENT_TYPE.SOFTWARE_EXCEPTION, insn.length),
  intN,
  into,
  // @clause x86.exception.int1
  int1: (cpu, insn) => softwareInterrupt(cpu, VECTOR.DB, EVENT_TYPE.PRIVILEGED_SOFTWARE_EXCEPTION, insn.length),
  iret,
  farJmp,
  farCall,
  farRet,
  movToSreg,
  movFromSreg,
  popSreg,
  loadFarPointer: loadFar,
  movToCr,
  movFromCr,
  movToDr,
  movFromDr,
  clts,
  lmsw,
  smsw,
  lgdt: (cpu, insn) => loadTable(cpu, insn, GDTR),
  lidt: (cpu, insn) => loadTable(cpu, insn, IDTR),
  sgdt: (cpu, insn) => storeTable(cpu, insn, GDTR),
  sidt: (cpu, insn) => storeTable(cpu, insn, IDTR),
  lldt,
  ltr,
  sldt,
  str,
  lar,
  lsl,
  verr,
  verw,
  arpl,
  invlpg,
  invpcid,
  wbinvd: (cpu, insn) => invalidateCaches(cpu, insn, EXIT_REASON.WBINVD),
  invd: (cpu, insn) => invalidateCaches(cpu, insn, EXIT_REASON.INVD),
  cpuid,
  rdmsr,
  wrmsr,
  rdtsc,
  rdtscp,
  rdpmc,
  hlt,
  in: input,
  out: output,
  ins: inputString,
  outs: outputString,
  syscall,
  sysret,
  sysenter,
  sysexit,
  cli,
  sti,
  pushf,
  popf,
  clac: (cpu) => setAc(cpu, false),
  stac: (cpu) => setAc(cpu, true),
  swapgs,
  rdfsbase: (cpu, insn) => readBase(cpu, insn, SEG.FS),
  rdgsbase: (cpu, insn) => readBase(cpu, insn, SEG.GS),
  wrfsbase: (cpu, insn) => writeBase(cpu, insn, SEG.FS),
  wrgsbase: (cpu, insn) => writeBase(cpu, insn, SEG.GS),
  monitor,
  mwait,
  pause,
  rdrand: random,
  rdseed: random,
  vmcall: vmx('vmcall'),
  vmmcall: vmx('vmmcall'),
  vmxon: vmx('vmxon'),
  vmxoff: vmx('vmxoff'),
  vmptrld: vmx('vmptrld'),
  vmptrst: vmx('vmptrst'),
  vmclear: vmx('vmclear'),
  vmread: vmx('vmread'),
  vmwrite: vmx('vmwrite'),
  vmlaunch: vmx('vmlaunch'),
  vmresume: vmx('vmresume'),
  invept: vmx('invept'),
  invvpid: vmx('invvpid'),
  vmfunc: vmx('vmfunc'),
  xgetbv,
  xsetbv,
  xsave,
  xsaveopt: (cpu, insn) => xsave(cpu, insn, true),
  xrstor,
  fxsave,
  fxrstor,
  fnsave,
  frstor,
  fnstenv,
  fldenv,
  f2xm1: x87Function('f2xm1'),
  fyl2x: x87Function('fyl2x'),
  fptan: x87Function('fptan'),
  fpatan: x87Function('fpatan'),
  fxtract: x87Function('fxtract'),
  fprem1: x87Function('fprem1'),
  fprem: x87Function('fprem'),
  fyl2xp1: x87Function('fyl2xp1'),
  fsincos: x87Function('fsincos'),
  fscale: x87Function('fscale'),
  fsin: x87Function('fsin'),
  fcos: x87Function('fcos'),
  rsm: ud, // there is no system-management mode to return from
  ud: unknown,
};
