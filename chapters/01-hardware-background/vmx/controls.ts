// # Controls and capabilities
//
// What shall leave the guest? The first answer of virtualization theory is: every sensitive instruction. The practical answer is: as few events as
// the hypervisor can bear, because each costs a thousand cycles or more. So almost every cause of a VM exit has a switch, and the switches are five
// words in the VMCS. They also grew over the years, and a hypervisor compiled for one processor meets another. Hence the capability MSRs: for each
// control word the processor tells which bits it lets software set, and which bits it insists on.
//
// Each of these MSRs holds two masks. A bit set in the low half *must* be 1; a bit clear in the high half must be 0. That answers two
// questions with one rule, `low & ~value == 0` and `value & ~high == 0`, and it gave Intel a way to retire a choice: a control that
// turned out useless to clear becomes *default 1*. Linux's `adjust_vmx_controls()` computes a legal word from what it requires, what it would like,
// and these masks; asked for nothing at all, it gets {{hex(adjust(0, CAPABILITY.cpuBased))}} from this processor's primary word, and
// {{hex(adjust(0xffffffff, CAPABILITY.cpuBased))}} when it asks for everything.
//
// Some default-1 controls later became useful to clear after all (CR3-load exiting, once EPT existed). Old software
// would not expect that, so the old MSR still says "must be 1", and a second one, the TRUE variant, tells new software the truth.

import { bit, bitfield } from '../layout.ts';
import { LINEAR_ADDRESS_BITS } from '../mmu/paging.ts';
import { CR0, CR4, EFER } from '../state.ts';
import { FIELD, fieldIndex, REGION_BYTES, REVISION_ID, SUPPORTED_FIELDS } from './vmcs.ts';

// ::layout CPU_BASED -- The primary processor-based controls; gaps are reserved, most of them fixed to 1.

/** Pin-based VM-execution controls: asynchronous events. */
export const PIN = bitfield('PIN_BASED_VM_EXEC_CONTROL', {
  EXT_INTR_EXITING: bit(0, 'external interrupts exit'),
  NMI_EXITING: bit(3),
  VIRTUAL_NMIS: bit(5, "NMI blocking is the guest's; the real one is not touched"),
  PREEMPTION_TIMER: bit(6),
  POSTED_INTR: bit(7),
});

/** Primary processor-based VM-execution controls: mostly single instructions. */
export const CPU_BASED = bitfield('CPU_BASED_VM_EXEC_CONTROL', {
  INTR_WINDOW_EXITING: bit(2, 'exit as soon as the guest could take an interrupt'),
  USE_TSC_OFFSETTING: bit(3),
  HLT_EXITING: bit(7),
  INVLPG_EXITING: bit(9),
  MWAIT_EXITING: bit(10),
  RDPMC_EXITING: bit(11),
  RDTSC_EXITING: bit(12),
  CR3_LOAD_EXITING: bit(15),
  CR3_STORE_EXITING: bit(16),
  ACTIVATE_TERTIARY_CONTROLS: bit(17),
  CR8_LOAD_EXITING: bit(19),
  CR8_STORE_EXITING: bit(20),
  TPR_SHADOW: bit(21, 'CR8 is a byte of the virtual-APIC page'),
  NMI_WINDOW_EXITING: bit(22),
  MOV_DR_EXITING: bit(23),
  UNCOND_IO_EXITING: bit(24),
  USE_IO_BITMAPS: bit(25),
  MONITOR_TRAP_FLAG: bit(27, 'exit after each instruction: a single-step the guest cannot see'),
  USE_MSR_BITMAPS: bit(28),
  MONITOR_EXITING: bit(29),
  PAUSE_EXITING: bit(30),
  ACTIVATE_SECONDARY_CONTROLS: bit(31),
});

/** Secondary processor-based VM-execution controls: what was added after the first generation. */
export const SECONDARY = bitfield('SECONDARY_VM_EXEC_CONTROL', {
  VIRTUALIZE_APIC_ACCESSES: bit(0),
  ENABLE_EPT: bit(1, 'guest-physical addresses go through a second page table'),
  DESC_EXITING: bit(2, 'LGDT, SIDT, LLDT, STR and their kind'),
  ENABLE_RDTSCP: bit(3),
  VIRTUALIZE_X2APIC_MODE: bit(4),
  ENABLE_VPID: bit(5, 'translations survive entries and exits, tagged'),
  WBINVD_EXITING: bit(6),
  UNRESTRICTED_GUEST: bit(7, 'the guest may run without paging, or in real mode'),
  APIC_REGISTER_VIRT: bit(8),
  VIRTUAL_INTR_DELIVERY: bit(9),
  PAUSE_LOOP_EXITING: bit(10),
  RDRAND_EXITING: bit(11),
  ENABLE_INVPCID: bit(12),
  ENABLE_VMFUNC: bit(13),
  SHADOW_VMCS: bit(14),
  ENCLS_EXITING: bit(15),
  RDSEED_EXITING: bit(16),
  ENABLE_PML: bit(17),
  EPT_VIOLATION_VE: bit(18),
  PT_CONCEAL_VMX: bit(19),
  ENABLE_XSAVES: bit(20),
  MODE_BASED_EPT_EXEC: bit(22),
  PT_USE_GPA: bit(24),
  TSC_SCALING: bit(25),
  ENABLE_USR_WAIT_PAUSE: bit(26),
  BUS_LOCK_DETECTION: bit(30),
  NOTIFY_VM_EXITING: bit(31),
});

/** VM-exit controls: how to go back to the host. */
export const EXIT = bitfield('VM_EXIT_CONTROLS', {
  SAVE_DEBUG_CONTROLS: bit(2),
  HOST_ADDR_SPACE_SIZE: bit(9, 'the host runs in 64-bit mode'),
  LOAD_IA32_PERF_GLOBAL_CTRL: bit(12),
  ACK_INTR_ON_EXIT: bit(15, 'take the vector from the interrupt controller'),
  SAVE_IA32_PAT: bit(18),
  LOAD_IA32_PAT: bit(19),
  SAVE_IA32_EFER: bit(20),
  LOAD_IA32_EFER: bit(21),
  SAVE_PREEMPTION_TIMER: bit(22),
  CLEAR_BNDCFGS: bit(23),
  PT_CONCEAL_PIP: bit(24),
  CLEAR_IA32_RTIT_CTL: bit(25),
  LOAD_CET_STATE: bit(28),
  SAVE_IA32_PERF_GLOBAL_CTRL: bit(30),
});

/** VM-entry controls: how to go to the guest. */
export const ENTRY = bitfield('VM_ENTRY_CONTROLS', {
  LOAD_DEBUG_CONTROLS: bit(2),
  IA32E_MODE: bit(9, 'the guest runs in IA-32e mode'),
  SMM: bit(10),
  DEACT_DUAL_MONITOR: bit(11),
  LOAD_IA32_PERF_GLOBAL_CTRL: bit(13),
  LOAD_IA32_PAT: bit(14),
  LOAD_IA32_EFER: bit(15),
  LOAD_BNDCFGS: bit(16),
  PT_CONCEAL_PIP: bit(17),
  LOAD_IA32_RTIT_CTL: bit(18),
  LOAD_CET_STATE: bit(20),
});

// ## What this processor offers
//
// Enough to run every kind of guest the book needs, with every exit that kvm.ko asks for: EPT with unrestricted guest, VPID, bitmaps for ports and
// MSRs, a monitor trap flag. What is left out (posted interrupts, PML, VMFUNC, VMCS shadowing ...) is left out visibly: the bit may not be set and
// the fields do not exist.

/** What one control word may hold: `mustBe1` with the older and the TRUE capability MSR, and `mayBe1`. */
interface Capability {
  readonly default1: number;
  readonly trueDefault1: number;
  readonly mayBe1: number;
}

const sum = (...masks: number[]): number => masks.reduce((all, mask) => (all | mask) >>> 0, 0);
const capability = (default1: number, clearable: number, supported: number): Capability => ({
  default1,
  trueDefault1: (default1 & ~clearable) >>> 0,
  mayBe1: sum(default1, supported),
});

const { mask: P } = PIN;
const { mask: C } = CPU_BASED;
const { mask: S } = SECONDARY;
const { mask: X } = EXIT;
const { mask: N } = ENTRY;

// The default-1 classes are the architecture's own (SDM vol. 3, appendix "Reserved Controls and Default Settings").
/** The five control words of this processor. */
export const CAPABILITY = {
  pin: capability(0x0000_0016, 0, sum(P.EXT_INTR_EXITING, P.NMI_EXITING, P.VIRTUAL_NMIS)),
  // biome-ignore format: table
  cpuBased: capability(0x0401_e172, C.CR3_LOAD_EXITING | C.CR3_STORE_EXITING, sum(
    C.INTR_WINDOW_EXITING, C.USE_TSC_OFFSETTING, C.HLT_EXITING, C.INVLPG_EXITING, C.MWAIT_EXITING, C.RDPMC_EXITING, C.RDTSC_EXITING, C.CR8_LOAD_EXITING,
    C.CR8_STORE_EXITING, C.TPR_SHADOW, C.NMI_WINDOW_EXITING, C.MOV_DR_EXITING, C.UNCOND_IO_EXITING, C.USE_IO_BITMAPS, C.MONITOR_TRAP_FLAG,
    C.USE_MSR_BITMAPS, C.MONITOR_EXITING, C.PAUSE_EXITING, C.ACTIVATE_SECONDARY_CONTROLS,
  )),
  // biome-ignore format: table
  secondary: capability(0, 0, sum(
    S.ENABLE_EPT, S.DESC_EXITING, S.ENABLE_RDTSCP, S.ENABLE_VPID, S.WBINVD_EXITING, S.UNRESTRICTED_GUEST, S.ENABLE_INVPCID,
  )),
  // biome-ignore format: table
  exit: capability(0x0003_6dff, X.SAVE_DEBUG_CONTROLS, sum(
    X.HOST_ADDR_SPACE_SIZE, X.ACK_INTR_ON_EXIT, X.SAVE_IA32_PAT, X.LOAD_IA32_PAT, X.SAVE_IA32_EFER, X.LOAD_IA32_EFER,
  )),
  entry: capability(0x0000_11ff, N.LOAD_DEBUG_CONTROLS, sum(N.IA32E_MODE, N.LOAD_IA32_PAT, N.LOAD_IA32_EFER)),
} as const satisfies Record<string, Capability>;

/** True when a control word is one that the processor accepts. */
export const acceptable = (word: number, { trueDefault1, mayBe1 }: Capability): boolean => (trueDefault1 & ~word) === 0 && (word & ~mayBe1) === 0;

/** The least change that makes `wanted` acceptable: forced bits set, unsupported bits cleared. What Linux's adjust_vmx_controls() does. */
export const adjust = (wanted: number, { trueDefault1, mayBe1 }: Capability): number => ((wanted | trueDefault1) & mayBe1) >>> 0;

/** Number of CR3-target values, and of entries that an MSR area may have. */
export const CR3_TARGETS = 4;
export const MSR_AREA_MAX = 512;

// VMX operation fixes some bits of CR0 and CR4. In the first generation that meant: no real mode, no paging off, neither in the hypervisor nor in the
// guest. A guest's BIOS had to be run in virtual-8086 mode, or interpreted; much of KVM's emulator began as the consequence of one bit in this MSR.
// "Unrestricted guest" lifts PE and PG for guests, but the MSR still reports them as fixed: it speaks of VMX operation in general.

export const CR0_FIXED0 = sum(CR0.PE, CR0.NE, CR0.PG);
export const CR0_FIXED1 = 0xffff_ffff;
export const CR4_FIXED0 = CR4.VMXE;
/** The bits of CR4 that the processor has. */
// biome-ignore format: table
const CR4_FIXED1 = sum(
  CR4.VME, CR4.PVI, CR4.MCE, CR4.PCIDE, CR4.TSD, CR4.DE, CR4.PSE, CR4.PAE, CR4.PGE, CR4.PCE,
  CR4.OSFXSR, CR4.OSXMMEXCPT, CR4.UMIP, CR4.VMXE, CR4.FSGSBASE, CR4.OSXSAVE, CR4.SMEP, CR4.SMAP,
);
/** The same for a processor with so many linear-address bits: with 57 of them it also has CR4.LA57. */
export const cr4Fixed1 = (linearAddressBits: number): number => (linearAddressBits > LINEAR_ADDRESS_BITS ? CR4_FIXED1 | CR4.LA57 : CR4_FIXED1);
/** Bits of IA32_EFER that are not reserved. */
export const EFER_SUPPORTED = sum(EFER.SCE, EFER.LME, EFER.LMA, EFER.NXE);
/** Bits of IA32_DEBUGCTL that are not reserved: LBR and BTF. */
export const DEBUGCTL_SUPPORTED = 3;
export const DEBUGCTL_BTF = 2;

/** IA32_VMX_EPT_VPID_CAP, by bit. */
// biome-ignore format: table
const EPT_VPID = {
  EXECUTE_ONLY: 1n << 0n, WALK_LENGTH_4: 1n << 6n, MEMORY_UC: 1n << 8n, MEMORY_WB: 1n << 14n, PAGE_2M: 1n << 16n, PAGE_1G: 1n << 17n, INVEPT: 1n << 20n,
  ACCESSED_DIRTY: 1n << 21n, INVEPT_SINGLE: 1n << 25n, INVEPT_ALL: 1n << 26n, INVVPID: 1n << 32n, INVVPID_ADDRESS: 1n << 40n,
  INVVPID_SINGLE: 1n << 41n, INVVPID_ALL: 1n << 42n, INVVPID_SINGLE_KEEP_GLOBALS: 1n << 43n,
} as const;

/** The EPT pointer. */
export const EPTP = { MEMORY_TYPE: 7, UC: 0, WB: 6, WALK_LENGTH_SHIFT: 3, WALK_LENGTH: 7 << 3, ACCESSED_DIRTY: 1 << 6, RESERVED: 0xf80 } as const;

/**
 * Bits of IA32_FEATURE_CONTROL. Firmware sets them and locks the register; without the lock VMXON is #GP, and with VMX off it stays off until reset.
 */
export const FEATURE_CONTROL = { LOCKED: 1, VMX_INSIDE_SMX: 2, VMX_OUTSIDE_SMX: 4 } as const;

/** Index numbers of the MSRs of this section. */
// biome-ignore format: table
export const VMX_MSR = {
  IA32_FEATURE_CONTROL: 0x3a,
  IA32_VMX_BASIC: 0x480, IA32_VMX_PINBASED_CTLS: 0x481, IA32_VMX_PROCBASED_CTLS: 0x482, IA32_VMX_EXIT_CTLS: 0x483, IA32_VMX_ENTRY_CTLS: 0x484,
  IA32_VMX_MISC: 0x485, IA32_VMX_CR0_FIXED0: 0x486, IA32_VMX_CR0_FIXED1: 0x487, IA32_VMX_CR4_FIXED0: 0x488, IA32_VMX_CR4_FIXED1: 0x489,
  IA32_VMX_VMCS_ENUM: 0x48a, IA32_VMX_PROCBASED_CTLS2: 0x48b, IA32_VMX_EPT_VPID_CAP: 0x48c, IA32_VMX_TRUE_PINBASED_CTLS: 0x48d,
  IA32_VMX_TRUE_PROCBASED_CTLS: 0x48e, IA32_VMX_TRUE_EXIT_CTLS: 0x48f, IA32_VMX_TRUE_ENTRY_CTLS: 0x490,
} as const;

const pair = (low: number, high: number): bigint => BigInt(low >>> 0) | (BigInt(high >>> 0) << 32n);
const older = (c: Capability): bigint => pair(c.default1, c.mayBe1);
const exact = (c: Capability): bigint => pair(c.trueDefault1, c.mayBe1);

/** IA32_VMX_BASIC: memory type 6 is write-back; bit 54: INS and OUTS report instruction information; bit 55: the TRUE MSRs exist. */
const basic = BigInt(REVISION_ID) | (BigInt(REGION_BYTES) << 32n) | (6n << 50n) | (1n << 54n) | (1n << 55n);
/** IA32_VMX_MISC: bit 5: exits store EFER.LMA in the IA-32e control; bits 6..8: activity states HLT, shutdown, wait-for-SIPI. */
const misc = (1n << 5n) | (7n << 6n) | (BigInt(CR3_TARGETS) << 16n);
const highestIndex = Math.max(...SUPPORTED_FIELDS.map((name) => fieldIndex(FIELD[name])));

const CAPABILITY_MSRS = new Map<number, bigint>([
  [VMX_MSR.IA32_VMX_BASIC, basic],
  [VMX_MSR.IA32_VMX_PINBASED_CTLS, older(CAPABILITY.pin)],
  [VMX_MSR.IA32_VMX_PROCBASED_CTLS, older(CAPABILITY.cpuBased)],
  [VMX_MSR.IA32_VMX_EXIT_CTLS, older(CAPABILITY.exit)],
  [VMX_MSR.IA32_VMX_ENTRY_CTLS, older(CAPABILITY.entry)],
  [VMX_MSR.IA32_VMX_MISC, misc],
  [VMX_MSR.IA32_VMX_CR0_FIXED0, BigInt(CR0_FIXED0)],
  [VMX_MSR.IA32_VMX_CR0_FIXED1, BigInt(CR0_FIXED1)],
  [VMX_MSR.IA32_VMX_CR4_FIXED0, BigInt(CR4_FIXED0)],
  [VMX_MSR.IA32_VMX_CR4_FIXED1, BigInt(CR4_FIXED1)],
  [VMX_MSR.IA32_VMX_VMCS_ENUM, BigInt(highestIndex) << 1n],
  [VMX_MSR.IA32_VMX_PROCBASED_CTLS2, exact(CAPABILITY.secondary)],
  [VMX_MSR.IA32_VMX_EPT_VPID_CAP, Object.values(EPT_VPID).reduce((all, mask) => all | mask, 0n)],
  [VMX_MSR.IA32_VMX_TRUE_PINBASED_CTLS, exact(CAPABILITY.pin)],
  [VMX_MSR.IA32_VMX_TRUE_PROCBASED_CTLS, exact(CAPABILITY.cpuBased)],
  [VMX_MSR.IA32_VMX_TRUE_EXIT_CTLS, exact(CAPABILITY.exit)],
  [VMX_MSR.IA32_VMX_TRUE_ENTRY_CTLS, exact(CAPABILITY.entry)],
]);

/**
 * RDMSR of a VMX capability register; null when `index` is none. They are read-only: WRMSR to any of them is #GP. So it is for
 * IA32_FEATURE_CONTROL, because the modelled firmware has locked it, with VMX allowed outside SMX.
 */
export function readVmxMsr(index: number, linearAddressBits = LINEAR_ADDRESS_BITS): bigint | null {
  if (index === VMX_MSR.IA32_VMX_CR4_FIXED1) return BigInt(cr4Fixed1(linearAddressBits));
  if (index === VMX_MSR.IA32_FEATURE_CONTROL) return BigInt(FEATURE_CONTROL.LOCKED | FEATURE_CONTROL.VMX_OUTSIDE_SMX);
  return CAPABILITY_MSRS.get(index) ?? null;
}
