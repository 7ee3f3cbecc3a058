// # CPUID
//
// What the processor says about itself. It says no more than is true: each feature bit below stands for something that works in this book, and the
// table grows with it. Operating systems take CPUID at its word, and so do the hypervisors that pass a filtered version of it on to their guests.

import type { Cpu } from '../cpu.ts';
import { LINEAR_ADDRESS_BITS, PHYSICAL_ADDRESS_BITS } from '../mmu/paging.ts';
import { CR4, OFFSET } from '../state.ts';
import { XCR0_SUPPORTED, XSAVE_BYTES } from './extended-state.ts';

/** EAX, EBX, ECX, EDX. */
type CpuidResult = readonly [number, number, number, number];
/** The function behind the CPUID instruction. Whoever builds a processor may replace it. */
export type Cpuid = (cpu: Cpu, leaf: number, subleaf: number) => CpuidResult;

const VENDOR = 'GenuineIntel'; // there is VT-x, so the vendor is Intel: kvm-intel refuses any other
const BRAND = 'Ringbook modelled x86-64 processor';
const MAX_BASIC = 0xd;
const MAX_EXTENDED = 0x80000008;
const SIGNATURE = 0x000006f1; // family 6, model 15, stepping 1
const CLFLUSH_LINE = 8; // in units of 8 bytes

// @clause x86.cpuid.features
/** Feature bits by name: bit number in the register. */
// biome-ignore format: table
const FEATURE_1_EDX = {
  FPU: 0, VME: 1, DE: 2, PSE: 3, TSC: 4, MSR: 5, PAE: 6, MCE: 7, CX8: 8, SEP: 11, MTRR: 12, PGE: 13, MCA: 14, CMOV: 15, PAT: 16, PSE36: 17, CLFSH: 19, MMX: 23, FXSR: 24,
  SSE: 25, SSE2: 26,
} as const;
const FEATURE_1_ECX = {
  SSE3: 0,
  PCLMULQDQ: 1,
  MONITOR: 3,
  VMX: 5,
  SSSE3: 9,
  CX16: 13,
  PCID: 17,
  SSE4_1: 19,
  SSE4_2: 20,
  MOVBE: 22,
  POPCNT: 23,
  AES: 25,
  XSAVE: 26,
  OSXSAVE: 27,
  RDRAND: 30,
} as const;
const FEATURE_7_EBX = {
  FSGSBASE: 0,
  BMI1: 3,
  FDP_EXCPTN_ONLY: 6,
  SMEP: 7,
  BMI2: 8,
  INVPCID: 10,
  FPU_CS_DS_DEPRECATED: 13,
  RDSEED: 18,
  ADX: 19,
  SMAP: 20,
} as const;
const FEATURE_7_ECX = { UMIP: 2, LA57: 16 } as const;
const FEATURE_7_EDX = { ARCH_CAPABILITIES: 29 } as const;
const FEATURE_D1_EAX = { XSAVEOPT: 0 } as const;
const FEATURE_EXT1_EDX = { SYSCALL: 11, NX: 20, PAGE1GB: 26, RDTSCP: 27, LM: 29 } as const;
const FEATURE_EXT1_ECX = { LAHF64: 0, LZCNT: 5 } as const;

const set = (bits: Readonly<Record<string, number>>): number => Object.values(bits).reduce((all, n) => all | (1 << n), 0) >>> 0;
const text = (s: string, at: number): number =>
  [0, 1, 2, 3].reduce((word, i) => word | ((at + i < s.length ? s.charCodeAt(at + i) : 0) << (8 * i)), 0) >>> 0;
const words = (s: string, at: number): CpuidResult => [text(s, at), text(s, at + 4), text(s, at + 8), text(s, at + 12)];
const NOTHING: CpuidResult = [0, 0, 0, 0];

// OSXSAVE is a message of the system to its programs: CR4 is not theirs to read, CPUID is.
function features1Ecx(cpu: Cpu): number {
  const { VMX, OSXSAVE, ...always } = FEATURE_1_ECX;
  // @clause x86.cpuid.osxsave
  const enabled = (cpu.state.low32(OFFSET.CR4) & CR4.OSXSAVE) !== 0;
  return (set(always) | (cpu.vmx ? 1 << VMX : 0) | (enabled ? 1 << OSXSAVE : 0)) >>> 0;
}

function features7Ecx(cpu: Cpu): number {
  const { LA57, ...always } = FEATURE_7_ECX;
  return set(always) | (cpu.linearAddressBits > LINEAR_ADDRESS_BITS ? 1 << LA57 : 0);
}

/** The modelled processor's own answers. */
export function modelCpuid(cpu: Cpu, leaf: number, subleaf: number): CpuidResult {
  switch (leaf >>> 0) {
    // @clause x86.cpuid.leaves
    case 0:
      return [MAX_BASIC, text(VENDOR, 0), text(VENDOR, 8), text(VENDOR, 4)];
    case 1:
      return [SIGNATURE, (cpu.apicId << 24) | (1 << 16) | (CLFLUSH_LINE << 8), features1Ecx(cpu), set(FEATURE_1_EDX)];
    case 5:
      return [64, 64, 0, 0]; // MONITOR's line, smallest and largest
    case 7:
      return subleaf === 0 ? [0, set(FEATURE_7_EBX), features7Ecx(cpu), set(FEATURE_7_EDX)] : NOTHING;
    // The components of XCR0, the bytes of a block with those that are enabled, and with all. The two that there are were FXSAVE's, and have their place always.
    // @clause x86.cpuid.xsave
    case 0xd:
      if (subleaf === 0) return [XCR0_SUPPORTED, XSAVE_BYTES, XSAVE_BYTES, 0];
      return subleaf === 1 ? [set(FEATURE_D1_EAX), 0, 0, 0] : NOTHING;
    // @clause x86.cpuid.leaves
    case 0x80000000:
      return [MAX_EXTENDED, 0, 0, 0];
    case 0x80000001:
      return [0, 0, set(FEATURE_EXT1_ECX), set(FEATURE_EXT1_EDX)];
    case 0x80000002:
    case 0x80000003:
    case 0x80000004:
      return words(BRAND, 16 * (leaf - 0x80000002));
    case 0x80000008:
      return [PHYSICAL_ADDRESS_BITS | (cpu.linearAddressBits << 8), 0, 0, 0];
    default:
      // Intel's processors answer a leaf beyond the last with the last basic one.
      // @clause x86.cpuid.out-of-range
      return leaf >>> 0 > MAX_EXTENDED || (leaf >>> 0 < 0x80000000 && leaf > MAX_BASIC) ? modelCpuid(cpu, MAX_BASIC, subleaf) : NOTHING;
  }
}
