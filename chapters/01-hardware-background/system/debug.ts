// # Debug registers and single-stepping
//
// Four registers hold addresses, DR7 says what to watch for at each, DR6 says what happened. Breakpoints on instructions are *faults*: they report
// before the instruction runs, and would report again after the handler returns, were it not for the resume flag, which suppresses them for one
// instruction. Breakpoints on data are *traps*: the access has been made. So is the single step that RFLAGS.TF asks for.
//
// None of it costs anything when it is not used. With a breakpoint or TF the processor takes one instruction at a time; with a data
// breakpoint it also selects the empty TLB bank, so that each access comes by the slow path and is compared there.

import type { Cpu } from '../cpu.ts';
import { Fault, generalProtection, undefinedOpcode, VECTOR } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import { bit, bitfield, bits } from '../layout.ts';
import { CR4, OFFSET } from '../state.ts';
import { code64, U32, writeRegister } from './segmentation.ts';

/** DR6: what happened. */
export const DR6 = bitfield('DR6', {
  B0: bit(0),
  B1: bit(1),
  B2: bit(2),
  B3: bit(3),
  BD: bit(13, 'a debug register was accessed while DR7.GD was set'),
  BS: bit(14, 'single step'),
  BT: bit(15, 'switch to a task with its T bit set'),
  RTM: bit(16, 'clear: inside a transaction'),
});
/** DR7: what to watch for. R/W: 0 execution, 1 writes, 2 I/O (with CR4.DE), 3 reads and writes. LEN: 0, 1, 3, 2 for 1, 2, 4, 8 bytes. */
const DR7 = bitfield('DR7', {
  L0: bit(0),
  G0: bit(1),
  L1: bit(2),
  G1: bit(3),
  L2: bit(4),
  G2: bit(5),
  L3: bit(6),
  G3: bit(7),
  LE: bit(8),
  GE: bit(9),
  GD: bit(13, 'fault on access to debug registers'),
  RW0: bits(16, 17),
  LEN0: bits(18, 19),
  RW1: bits(20, 21),
  LEN1: bits(22, 23),
  RW2: bits(24, 25),
  LEN2: bits(26, 27),
  RW3: bits(28, 29),
  LEN3: bits(30, 31),
});
export const DR6_FIXED_1 = 0xffff0ff0;
const DR6_WRITABLE = DR6.mask.B0 | DR6.mask.B1 | DR6.mask.B2 | DR6.mask.B3 | DR6.mask.BD | DR6.mask.BS | DR6.mask.BT;
export const DR7_FIXED_1 = 0x400;
const DR7_FIXED_0 = 0xd800;
const B_BITS = 0xf;
const RW = { EXECUTE: 0, WRITE: 1, IO: 2, ACCESS: 3 } as const;
const LENGTHS = [1, 2, 8, 4] as const;

/** A #DB is being delivered: DR6 receives its conditions. B0..B3 are replaced, the others accumulate until software clears them. */
export function debugDelivered({ state }: Cpu, conditions: number): void {
  // @clause x86.debug.dr6
  const dr6 = (state.low32(OFFSET.DR6) & ~B_BITS) | DR6_FIXED_1 | conditions;
  state.set64(OFFSET.DR6, BigInt(dr6 >>> 0));
  state.set64(OFFSET.DR7, BigInt((state.low32(OFFSET.DR7) & ~DR7.mask.GD) >>> 0));
}

const enabled = (dr7: number, n: number): boolean => ((dr7 >> (2 * n)) & 3) !== 0;
const kindOf = (dr7: number, n: number): number => (dr7 >> (16 + 4 * n)) & 3;
const lengthOf = (dr7: number, n: number): number => LENGTHS[(dr7 >> (18 + 4 * n)) & 3] as number;

interface Armed {
  readonly instructions: boolean;
  readonly data: boolean;
  readonly ports: boolean;
}
const ENABLES = 0xff; // L0, G0, ... L3, G3
const NOTHING_ARMED: Armed = { instructions: false, data: false, ports: false };

/** What the debug registers ask for. */
export function armed(dr7: number): Armed {
  if ((dr7 & ENABLES) === 0) return NOTHING_ARMED; // as at every world switch, usually on both sides
  const kinds = [0, 1, 2, 3].filter((n) => enabled(dr7, n)).map((n) => kindOf(dr7, n));
  const has = (...wanted: number[]): boolean => kinds.some((kind) => wanted.includes(kind));
  return { instructions: has(RW.EXECUTE), data: has(RW.WRITE, RW.ACCESS), ports: has(RW.IO) };
}

/** DR6 bits of the breakpoints that match; only if one of them is *enabled* does a #DB arise, but the others are reported with it. */
function matches({ state }: Cpu, at: bigint, bytes: number, kinds: readonly number[]): number {
  const dr7 = state.low32(OFFSET.DR7);
  let found = 0;
  let wanted = false;
  for (let n = 0; n < 4; n++) {
    if (!kinds.includes(kindOf(dr7, n))) continue;
    const length = kindOf(dr7, n) === RW.EXECUTE ? 1 : lengthOf(dr7, n);
    const start = state.get64(OFFSET.DR0 + 8 * n) & ~BigInt(length - 1);
    if (at + BigInt(bytes) <= start || at >= start + BigInt(length)) continue;
    found |= 1 << n;
    wanted ||= enabled(dr7, n);
  }
  return wanted ? found : 0;
}

// @clause x86.debug.breakpoints
/** DR6 bits of instruction breakpoints at `linear`. */
export const instructionBreakpoints = (cpu: Cpu, linear: bigint): number => matches(cpu, linear, 1, [RW.EXECUTE]);
// @clause x86.debug.breakpoints
/** DR6 bits of data breakpoints that an access touches. */
export const dataBreakpoints = (cpu: Cpu, linear: bigint, bytes: number, write: boolean): number =>
  matches(cpu, linear, bytes, write ? [RW.WRITE, RW.ACCESS] : [RW.ACCESS]);
/** DR6 bits of I/O breakpoints that a port access touches. */
export const portBreakpoints = (cpu: Cpu, port: number, bytes: number): number =>
  cpu.state.low32(OFFSET.CR4) & CR4.DE ? matches(cpu, BigInt(port), bytes, [RW.IO]) : 0;

// ## MOV to and from debug registers

/** The checks that both directions share. Returns the register's number after the alias of DR4 and DR5. */
function checkAccess(cpu: Cpu, insn: Instruction, direction: 'in' | 'out'): number {
  const { state } = cpu;
  if (insn.reg > 7) throw undefinedOpcode();
  if (cpu.cpl !== 0) throw generalProtection();
  // @clause x86.debug.dr4-alias
  if ((insn.reg === 4 || insn.reg === 5) && state.low32(OFFSET.CR4) & CR4.DE) throw undefinedOpcode();
  cpu.intercepts?.accessDr(insn.reg, direction, insn.rm, insn.length);
  // @clause x86.debug.general-detect
  if (state.low32(OFFSET.DR7) & DR7.mask.GD) {
    cpu.faultDebug = DR6.mask.BD;
    throw new Fault(VECTOR.DB);
  }
  return insn.reg === 4 ? 6 : insn.reg === 5 ? 7 : insn.reg;
}

const offsetOf = (n: number): number => (n === 6 ? OFFSET.DR6 : n === 7 ? OFFSET.DR7 : OFFSET.DR0 + 8 * n);

export function movFromDr(cpu: Cpu, insn: Instruction): void {
  const n = checkAccess(cpu, insn, 'in');
  writeRegister(cpu, insn.rm, code64(cpu) ? 8 : 4, cpu.state.get64(offsetOf(n)));
}

export function movToDr(cpu: Cpu, insn: Instruction): void {
  const n = checkAccess(cpu, insn, 'out');
  const { state } = cpu;
  const value = code64(cpu) ? state.slot(insn.rm) : state.slot(insn.rm) & U32;
  // @clause x86.debug.upper-half
  if (n >= 6 && value > U32) throw generalProtection();
  writeDr(cpu, n, value);
}

/** Writes a debug register, with the bits that never change. */
function writeDr(cpu: Cpu, n: number, value: bigint): void {
  const low = Number(value & U32);
  if (n === 6) cpu.state.set64(OFFSET.DR6, BigInt(((low & DR6_WRITABLE) | DR6_FIXED_1) >>> 0));
  else if (n === 7) {
    cpu.state.set64(OFFSET.DR7, BigInt(((low & ~DR7_FIXED_0) | DR7_FIXED_1) >>> 0));
    cpu.debugChanged();
  } else cpu.state.set64(OFFSET.DR0 + 8 * n, value);
}
