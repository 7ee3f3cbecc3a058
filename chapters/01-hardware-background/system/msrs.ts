// # Model-specific registers
//
// Registers that were meant to differ from one processor model to the next, named by number. Then operating systems came to depend on some of them,
// and those became architecture. A number that a processor does not know is #GP; so software probes for a feature in CPUID first, or reads with a
// handler at the ready (Linux's `rdmsrl_safe()`), and a hypervisor that answers 0 where the processor would fault breaks such probing quietly.
//
// Each register is a row: where it is stored, and which values it takes.

import type { Cpu } from '../cpu.ts';
import { generalProtection } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import { PHYSICAL_ADDRESS_BITS } from '../mmu/paging.ts';
import { OFFSET, SEG, SLOT } from '../state.ts';
import { readVmxMsr } from '../vmx/controls.ts';
import { setEfer } from './control.ts';
import { canonicalForRegister, U32, U64 } from './segmentation.ts';

/** One register. `write` throws #GP for a value that the register does not take. */
interface Msr {
  readonly name: string;
  read(cpu: Cpu): bigint;
  write(cpu: Cpu, value: bigint): void;
}

/** A register that is only storage: a field of the state page, and the test of a value. */
const stored = (name: string, offset: number, valid: (value: bigint, cpu: Cpu) => boolean): Msr => ({
  name,
  read: ({ state }) => state.get64(offset),
  write(cpu, value) {
    if (!valid(value, cpu)) throw generalProtection();
    cpu.state.set64(offset, value);
  },
});
const any = (): boolean => true;
const canonical = (value: bigint, cpu: Cpu): boolean => canonicalForRegister(cpu, value);
const readOnly = (name: string, value: bigint): Msr => ({
  name,
  read: () => value,
  write() {
    throw generalProtection();
  },
});
// @clause x86.long.fs-base
const segmentBase = (name: string, seg: number): Msr => ({
  name,
  read: ({ state }) => state.segBase(seg),
  write(cpu, value) {
    if (!canonical(value, cpu)) throw generalProtection();
    cpu.state.setSegBase(seg, value);
  },
});
const bits =
  (mask: bigint) =>
  (value: bigint): boolean =>
    (value & ~mask) === 0n;

/** Page attributes: eight types of one byte each; 2, 3 and all above 7 do not exist. */
const validPat = (value: bigint): boolean => {
  for (let i = 0n; i < 64n; i += 8n) if (![0n, 1n, 4n, 5n, 6n, 7n].includes((value >> i) & 0xffn)) return false;
  return true;
};
const APIC_BASE_BITS = (((1n << BigInt(PHYSICAL_ADDRESS_BITS)) - 1n) & ~0xfffn) | 0x900n;
const FAST_STRINGS = 1n;

// @clause x86.msr.tsc
const writeTsc = ({ state }: Cpu, value: bigint): void => {
  const difference = value - (state.get64(OFFSET.ICOUNT) + state.get64(OFFSET.TSC_OFFSET));
  state.set64(OFFSET.TSC_OFFSET, (state.get64(OFFSET.TSC_OFFSET) + difference) & U64);
  state.set64(OFFSET.TSC_ADJUST, (state.get64(OFFSET.TSC_ADJUST) + difference) & U64);
};

// @clause x86.tsc.monotonic
/** The time stamp counter: instructions retired, and an offset. */
export const readTsc = ({ state }: Cpu): bigint => (state.get64(OFFSET.ICOUNT) + state.get64(OFFSET.TSC_OFFSET)) & U64;

// ## Memory types
//
// The MTRRs say which physical addresses may be cached, and how. Nothing is cached here, so they are storage; but a BIOS fills them in, an operating system
// compares what it finds on all processors, and both expect that a value which makes no sense is refused.

const VARIABLE_RANGES = 8;
const FIXED_RANGES: readonly number[] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
const MTRR_CAP = BigInt(VARIABLE_RANGES) | 0x500n; // fixed ranges and write-combining exist
const PHYSICAL_MASK = (1n << BigInt(PHYSICAL_ADDRESS_BITS)) - 0x1000n;
const memoryType = (type: bigint): boolean => type === 0n || type === 1n || (type >= 4n && type <= 6n);
const fixedTypes = (value: bigint): boolean => {
  for (let i = 0n; i < 64n; i += 8n) if (!memoryType((value >> i) & 0xffn)) return false;
  return true;
};
// @clause x86.msr.mtrr
const mtrrs = (): [number, Msr][] => [
  [0xfe, readOnly('IA32_MTRRCAP', MTRR_CAP)],
  [0x2ff, stored('IA32_MTRR_DEF_TYPE', OFFSET.MTRR_DEF_TYPE, (value) => (value & ~0xcffn) === 0n && memoryType(value & 0xffn))],
  ...FIXED_RANGES.map((index, n): [number, Msr] => [index, stored('IA32_MTRR_FIX', OFFSET.MTRR_FIXED + 8 * n, fixedTypes)]),
  ...Array.from({ length: 2 * VARIABLE_RANGES }, (_, n): [number, Msr] => [
    0x200 + n,
    n % 2 === 0
      ? stored('IA32_MTRR_PHYSBASE', OFFSET.MTRR_VARIABLE + 8 * n, (value) => (value & ~(PHYSICAL_MASK | 0xffn)) === 0n && memoryType(value & 0xffn))
      : stored('IA32_MTRR_PHYSMASK', OFFSET.MTRR_VARIABLE + 8 * n, bits(PHYSICAL_MASK | 0x800n)),
  ]),
];

// ## What this processor does not do
//
// Since 2018 it has been known that speculation leaves traces, and operating systems pay for it: another set of page tables for each process, buffers
// emptied on the way to user mode. A processor that is not affected says so in a register, and is spared. This one executes nothing before its time, so it
// can say so of everything that it is asked.

// biome-ignore format: table
const NOT_AFFECTED = {
  RDCL_NO: 0, SKIP_L1DFL_VMENTRY: 3, SSB_NO: 4, MDS_NO: 5, IF_PSCHANGE_MC_NO: 6, TAA_NO: 8, SBDR_SSDP_NO: 13, FBSDP_NO: 14, PSDP_NO: 15, BHI_NO: 20, PBRSB_NO: 24,
  GDS_NO: 26, RFDS_NO: 27, ITS_NO: 62,
} as const;
// @clause x86.msr.arch-capabilities
/** IA32_ARCH_CAPABILITIES. */
export const ARCH_CAPABILITIES = Object.values(NOT_AFFECTED).reduce((all, bit) => all | (1n << BigInt(bit)), 0n);

/** The registers of this processor, by index. */
const MSRS: ReadonlyMap<number, Msr> = new Map<number, Msr>([
  [0x10, { name: 'IA32_TIME_STAMP_COUNTER', read: readTsc, write: writeTsc }],
  [0x1b, stored('IA32_APIC_BASE', OFFSET.APIC_BASE, bits(APIC_BASE_BITS))],
  [
    0x3b,
    {
      name: 'IA32_TSC_ADJUST',
      read: ({ state }) => state.get64(OFFSET.TSC_ADJUST),
      write: (cpu, value) => writeTsc(cpu, (readTsc(cpu) + value - cpu.state.get64(OFFSET.TSC_ADJUST)) & U64),
    },
  ],
  [0x8b, { name: 'IA32_BIOS_SIGN_ID', read: () => 0n, write: () => {} }], // no microcode update is loaded; software writes 0 before it asks
  [0x10a, readOnly('IA32_ARCH_CAPABILITIES', ARCH_CAPABILITIES)],
  [0x179, readOnly('IA32_MCG_CAP', 0n)], // machine checks are architecture, but there is no bank that could report one
  [0x17a, stored('IA32_MCG_STATUS', OFFSET.MCG_STATUS, bits(7n))],
  ...mtrrs(),
  [0x174, stored('IA32_SYSENTER_CS', OFFSET.SYSENTER_CS, any)],
  [0x175, stored('IA32_SYSENTER_ESP', OFFSET.SYSENTER_ESP, canonical)],
  [0x176, stored('IA32_SYSENTER_EIP', OFFSET.SYSENTER_EIP, canonical)],
  [0x1a0, stored('IA32_MISC_ENABLE', OFFSET.MISC_ENABLE, bits(FAST_STRINGS))],
  [0x1d9, stored('IA32_DEBUGCTL', OFFSET.DEBUGCTL, bits(0n))],
  [0x277, stored('IA32_PAT', OFFSET.PAT, validPat)],
  [0xc0000080, { name: 'IA32_EFER', read: ({ state }) => state.get64(OFFSET.EFER), write: setEfer }],
  [0xc0000081, stored('IA32_STAR', OFFSET.STAR, any)],
  [0xc0000082, stored('IA32_LSTAR', OFFSET.LSTAR, canonical)],
  [0xc0000083, stored('IA32_CSTAR', OFFSET.CSTAR, canonical)],
  [0xc0000084, stored('IA32_FMASK', OFFSET.SFMASK, (value) => value <= U32)],
  [0xc0000100, segmentBase('IA32_FS_BASE', SEG.FS)],
  [0xc0000101, segmentBase('IA32_GS_BASE', SEG.GS)],
  [0xc0000102, stored('IA32_KERNEL_GS_BASE', OFFSET.KERNEL_GS_BASE, canonical)],
  [0xc0000103, stored('IA32_TSC_AUX', OFFSET.TSC_AUX, (value) => value <= U32)],
]);

// @clause x86.msr.reserved
/** Reads a register with no question of privilege. @throws #GP for one that does not exist. */
export function readMsr(cpu: Cpu, index: number): bigint {
  const msr = MSRS.get(index);
  if (msr) return msr.read(cpu);
  const vmx = cpu.vmx ? readVmxMsr(index, cpu.linearAddressBits) : null;
  if (vmx === null) throw generalProtection();
  return vmx;
}

/** Writes a register. @throws #GP for one that does not exist, cannot be written, or does not take the value. */
export function writeMsr(cpu: Cpu, index: number, value: bigint): void {
  const msr = MSRS.get(index);
  if (!msr) throw generalProtection();
  msr.write(cpu, value);
}

export function rdmsr(cpu: Cpu, insn: Instruction): void {
  const { state } = cpu;
  if (cpu.cpl !== 0) throw generalProtection();
  const index = state.slot32(SLOT.RCX);
  if (cpu.leaves(cpu.intercepts?.readMsr(index, insn.length))) return;
  const value = readMsr(cpu, index);
  state.setSlot(SLOT.RAX, value & U32);
  state.setSlot(SLOT.RDX, value >> 32n);
}

export function wrmsr(cpu: Cpu, insn: Instruction): void {
  const { state } = cpu;
  if (cpu.cpl !== 0) throw generalProtection();
  const index = state.slot32(SLOT.RCX);
  if (cpu.leaves(cpu.intercepts?.writeMsr(index, insn.length))) return;
  writeMsr(cpu, index, ((state.slot(SLOT.RDX) & U32) << 32n) | (state.slot(SLOT.RAX) & U32));
}
