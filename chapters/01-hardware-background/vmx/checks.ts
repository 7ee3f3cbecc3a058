// # May this guest exist?
//
// A VM entry replaces the register file wholesale, from memory that software wrote. None of the usual guards stands in the way: a MOV to CR0 would
// have refused paging without protection, a far jump would have refused a data segment in CS, but VM entry loads the results of such instructions
// without executing them. Were it to load a combination that no instruction sequence can produce, the core would be in a state that its designers
// never considered, at the host's privilege, with the guest's code. So VM entry checks. There are about {{Math.round(ENTRY_CHECKS.length / 10) * 10}}
// rules, and they repeat in declarative form what the rest of the architecture enforces step by step.
//
// They come in three classes, because blame differs. Bad *controls* and bad *host state* are the hypervisor's own mistake: VMLAUNCH fails like an
// instruction, and the next one runs. Bad *guest state* may be the guest's doing, seen through the hypervisor: it is reported as a VM exit with bit
// 31 set in the reason, after which the host state is loaded as by any exit. (AMD's VMRUN makes fewer checks and has one answer for all of them,
// VMEXIT_INVALID.)
//
// Each check below is one function with one clause; the trace names the clause that failed. Real hardware does not, and a page of vmx.c,
// `dump_vmcs()`, exists because of it.

import { canonicalHigh } from '../mmu/paging.ts';
import { AR, CR0, CR4, EFER, FLAG } from '../state.ts';
import {
  acceptable,
  CAPABILITY,
  CPU_BASED,
  CR0_FIXED0,
  CR0_FIXED1,
  CR3_TARGETS,
  CR4_FIXED0,
  cr4Fixed1,
  DEBUGCTL_BTF,
  DEBUGCTL_SUPPORTED,
  EFER_SUPPORTED,
  ENTRY,
  EPTP,
  EXIT,
  MSR_AREA_MAX,
  PIN,
  SECONDARY,
} from './controls.ts';
import { ACTIVITY, ENTRY_FAILURE, INTERRUPTIBILITY, INTR_INFO, VM_INSTRUCTION_ERROR } from './exit-reasons.ts';
import { EVENT_TYPE } from './processor.ts';
import { AT, type FieldName, REVISION_ID, type Vmcs } from './vmcs.ts';

/** What a check may need beside the VMCS. */
export interface EntryContext {
  readonly physicalAddressBits: number;
  readonly linearAddressBits: number;
  /** EFER.LMA at the time of VM entry: the hypervisor is a 64-bit one. */
  readonly hostIsLong: boolean;
  /** A 32-bit word of physical memory; all ones where there is none. */
  physical32(address: number): number;
  /** One byte of physical memory; 0xff where there is none. */
  physical8(address: number): number;
}

/** One rule: the clause it implements, and the test for its violation. */
export interface Check {
  readonly clause: string;
  readonly violated: (v: Vmcs, c: EntryContext) => boolean;
  /** Exit qualification when a guest-state check fails. */
  readonly qualification?: number;
}

const pin = (v: Vmcs): number => v.read32(AT.PIN_BASED_VM_EXEC_CONTROL);
const cpuBased = (v: Vmcs): number => v.read32(AT.CPU_BASED_VM_EXEC_CONTROL);
/** The secondary controls, as if 0 when the primary ones do not activate them. */
export const secondary = (v: Vmcs): number => (cpuBased(v) & CPU_BASED.mask.ACTIVATE_SECONDARY_CONTROLS ? v.read32(AT.SECONDARY_VM_EXEC_CONTROL) : 0);
const exitControls = (v: Vmcs): number => v.read32(AT.VM_EXIT_CONTROLS);
const entryControls = (v: Vmcs): number => v.read32(AT.VM_ENTRY_CONTROLS);
const unrestricted = (v: Vmcs): boolean => (secondary(v) & SECONDARY.mask.UNRESTRICTED_GUEST) !== 0;
const longGuest = (v: Vmcs): boolean => (entryControls(v) & ENTRY.mask.IA32E_MODE) !== 0;
const longHost = (v: Vmcs): boolean => (exitControls(v) & EXIT.mask.HOST_ADDR_SPACE_SIZE) !== 0;

const misaligned = (v: Vmcs, at: number, mask: number): boolean => (v.read32(at) & mask) !== 0;
const tooWide = (v: Vmcs, c: EntryContext, at: number): boolean => v.readNumber(at) >= 2 ** c.physicalAddressBits;
/** The address in the cell is canonical for the linear-address bits that the processor has, whatever CR4.LA57 of guest or host says. */
const canonical = (v: Vmcs, c: EntryContext, at: number): boolean => canonicalHigh(v.high32(at), 64 - c.linearAddressBits);
const badPage = (v: Vmcs, c: EntryContext, at: number): boolean => misaligned(v, at, 0xfff) || tooWide(v, c, at);
const badMsrArea = (v: Vmcs, c: EntryContext, count: number, at: number): boolean => {
  const entries = v.read32(count);
  if (entries === 0) return false;
  return entries > MSR_AREA_MAX || misaligned(v, at, 0xf) || v.readNumber(at) + entries * 16 > 2 ** c.physicalAddressBits;
};
/** Every byte of a PAT value is a memory type that the PAT allows. */
const badPat = (v: Vmcs, at: number): boolean => {
  for (let i = 0; i < 8; i++) {
    const type = ((i < 4 ? v.read32(at) : v.high32(at)) >>> ((i & 3) * 8)) & 0xff;
    if (type > 7 || type === 2 || type === 3) return true;
  }
  return false;
};
const fixedViolated = (value: number, fixed0: number, fixed1: number): boolean => (fixed0 & ~value) !== 0 || (value & ~fixed1) !== 0;
const badCr4 = (v: Vmcs, c: EntryContext, at: number): boolean =>
  fixedViolated(v.read32(at), CR4_FIXED0, cr4Fixed1(c.linearAddressBits)) || v.high32(at) !== 0;

// ## The controls
//
// First that each word is one the capability MSRs allow; then what words imply about each other and about the fields they activate.

const entryEvent = (v: Vmcs): { info: number; type: number; vector: number } => {
  const info = v.read32(AT.VM_ENTRY_INTR_INFO_FIELD);
  return { info, type: INTR_INFO.get(info, 'TYPE'), vector: info & 0xff };
};
const injecting = (v: Vmcs): boolean => v.read32(AT.VM_ENTRY_INTR_INFO_FIELD) >>> 31 === 1;
/** Vectors that push an error code: #DF, #TS, #NP, #SS, #GP, #PF, #AC. */
const WITH_ERROR_CODE = (1 << 8) | (1 << 10) | (1 << 11) | (1 << 12) | (1 << 13) | (1 << 14) | (1 << 17);
const isSoftware = (type: number): boolean => type >= EVENT_TYPE.SOFTWARE_INTERRUPT && type <= EVENT_TYPE.SOFTWARE_EXCEPTION;
const INTR_INFO_RESERVED = 0x7fff_f000;

export const CONTROL_CHECKS: readonly Check[] = [
  // @clause vmx.entry.ctl-pin-reserved
  { clause: 'vmx.entry.ctl-pin-reserved', violated: (v) => !acceptable(pin(v), CAPABILITY.pin) },
  // @clause vmx.entry.ctl-cpu-reserved
  { clause: 'vmx.entry.ctl-cpu-reserved', violated: (v) => !acceptable(cpuBased(v), CAPABILITY.cpuBased) },
  // @clause vmx.entry.ctl-secondary-reserved
  { clause: 'vmx.entry.ctl-secondary-reserved', violated: (v) => !acceptable(secondary(v), CAPABILITY.secondary) },
  // @clause vmx.entry.ctl-cr3-target-count
  { clause: 'vmx.entry.ctl-cr3-target-count', violated: (v) => v.read32(AT.CR3_TARGET_COUNT) > CR3_TARGETS },
  // @clause vmx.entry.ctl-io-bitmaps
  {
    clause: 'vmx.entry.ctl-io-bitmaps',
    violated: (v, c) => (cpuBased(v) & CPU_BASED.mask.USE_IO_BITMAPS) !== 0 && (badPage(v, c, AT.IO_BITMAP_A) || badPage(v, c, AT.IO_BITMAP_B)),
  },
  // @clause vmx.entry.ctl-msr-bitmap
  { clause: 'vmx.entry.ctl-msr-bitmap', violated: (v, c) => (cpuBased(v) & CPU_BASED.mask.USE_MSR_BITMAPS) !== 0 && badPage(v, c, AT.MSR_BITMAP) },
  // @clause vmx.entry.ctl-virtual-apic-page
  {
    clause: 'vmx.entry.ctl-virtual-apic-page',
    violated: (v, c) => (cpuBased(v) & CPU_BASED.mask.TPR_SHADOW) !== 0 && badPage(v, c, AT.VIRTUAL_APIC_PAGE_ADDR),
  },
  // @clause vmx.entry.ctl-tpr-threshold
  {
    clause: 'vmx.entry.ctl-tpr-threshold',
    violated: (v, c) => {
      if ((cpuBased(v) & CPU_BASED.mask.TPR_SHADOW) === 0) return false;
      const threshold = v.read32(AT.TPR_THRESHOLD);
      return (threshold & ~0xf) !== 0 || threshold > c.physical8(v.readNumber(AT.VIRTUAL_APIC_PAGE_ADDR) + 0x80) >> 4;
    },
  },
  // @clause vmx.entry.ctl-virtual-nmis
  { clause: 'vmx.entry.ctl-virtual-nmis', violated: (v) => (pin(v) & PIN.mask.NMI_EXITING) === 0 && (pin(v) & PIN.mask.VIRTUAL_NMIS) !== 0 },
  // @clause vmx.entry.ctl-nmi-window
  {
    clause: 'vmx.entry.ctl-nmi-window',
    violated: (v) => (pin(v) & PIN.mask.VIRTUAL_NMIS) === 0 && (cpuBased(v) & CPU_BASED.mask.NMI_WINDOW_EXITING) !== 0,
  },
  // @clause vmx.entry.ctl-vpid-zero
  {
    clause: 'vmx.entry.ctl-vpid-zero',
    violated: (v) => (secondary(v) & SECONDARY.mask.ENABLE_VPID) !== 0 && (v.read32(AT.VIRTUAL_PROCESSOR_ID) & 0xffff) === 0,
  },
  // @clause vmx.entry.ctl-eptp
  {
    clause: 'vmx.entry.ctl-eptp',
    violated(v, c) {
      if ((secondary(v) & SECONDARY.mask.ENABLE_EPT) === 0) return false;
      const low = v.read32(AT.EPT_POINTER);
      const type = low & EPTP.MEMORY_TYPE;
      const levels = ((low & EPTP.WALK_LENGTH) >> EPTP.WALK_LENGTH_SHIFT) + 1;
      return (type !== EPTP.UC && type !== EPTP.WB) || levels !== 4 || (low & EPTP.RESERVED) !== 0 || tooWide(v, c, AT.EPT_POINTER);
    },
  },
  // @clause vmx.entry.ctl-unrestricted-needs-ept
  { clause: 'vmx.entry.ctl-unrestricted-needs-ept', violated: (v) => unrestricted(v) && (secondary(v) & SECONDARY.mask.ENABLE_EPT) === 0 },
  // @clause vmx.entry.ctl-exit-reserved
  { clause: 'vmx.entry.ctl-exit-reserved', violated: (v) => !acceptable(exitControls(v), CAPABILITY.exit) },
  // @clause vmx.entry.ctl-exit-msr-store
  { clause: 'vmx.entry.ctl-exit-msr-store', violated: (v, c) => badMsrArea(v, c, AT.VM_EXIT_MSR_STORE_COUNT, AT.VM_EXIT_MSR_STORE_ADDR) },
  // @clause vmx.entry.ctl-exit-msr-load
  { clause: 'vmx.entry.ctl-exit-msr-load', violated: (v, c) => badMsrArea(v, c, AT.VM_EXIT_MSR_LOAD_COUNT, AT.VM_EXIT_MSR_LOAD_ADDR) },
  // @clause vmx.entry.ctl-entry-reserved
  { clause: 'vmx.entry.ctl-entry-reserved', violated: (v) => !acceptable(entryControls(v), CAPABILITY.entry) },
  // @clause vmx.entry.ctl-entry-msr-load
  { clause: 'vmx.entry.ctl-entry-msr-load', violated: (v, c) => badMsrArea(v, c, AT.VM_ENTRY_MSR_LOAD_COUNT, AT.VM_ENTRY_MSR_LOAD_ADDR) },
];

// Injection has checks of its own, made only when something is to be injected. They too are the hypervisor's responsibility.

export const INJECTION_CHECKS: readonly Check[] = [
  // @clause vmx.entry.inj-type
  { clause: 'vmx.entry.inj-type', violated: (v) => entryEvent(v).type === EVENT_TYPE.RESERVED },
  // @clause vmx.entry.inj-vector
  {
    clause: 'vmx.entry.inj-vector',
    violated(v) {
      const { type, vector } = entryEvent(v);
      return (
        (type === EVENT_TYPE.NMI && vector !== 2) ||
        (type === EVENT_TYPE.HARDWARE_EXCEPTION && vector > 31) ||
        (type === EVENT_TYPE.OTHER && vector !== 0)
      );
    },
  },
  // @clause vmx.entry.inj-error-code
  {
    clause: 'vmx.entry.inj-error-code',
    violated(v) {
      const { info, type, vector } = entryEvent(v);
      const protectedMode = !unrestricted(v) || (v.read32(AT.GUEST_CR0) & CR0.PE) !== 0;
      const expected = protectedMode && type === EVENT_TYPE.HARDWARE_EXCEPTION && vector < 32 && ((WITH_ERROR_CODE >>> vector) & 1) !== 0;
      return ((info & INTR_INFO.mask.DELIVER_CODE) !== 0) !== expected;
    },
  },
  // @clause vmx.entry.inj-reserved
  { clause: 'vmx.entry.inj-reserved', violated: (v) => (entryEvent(v).info & INTR_INFO_RESERVED) !== 0 },
  // @clause vmx.entry.inj-error-code-width
  {
    clause: 'vmx.entry.inj-error-code-width',
    violated: (v) => (entryEvent(v).info & INTR_INFO.mask.DELIVER_CODE) !== 0 && v.read32(AT.VM_ENTRY_EXCEPTION_ERROR_CODE) >>> 16 !== 0,
  },
  // @clause vmx.entry.inj-instruction-length
  {
    clause: 'vmx.entry.inj-instruction-length',
    violated(v) {
      const length = v.read32(AT.VM_ENTRY_INSTRUCTION_LEN);
      return isSoftware(entryEvent(v).type) && (length < 1 || length > 15);
    },
  },
];

// ## The host state
//
// Checked at entry although it is used at exit: at exit there would be nobody to tell.

const HOST_SELECTORS = ['CS', 'SS', 'DS', 'ES', 'FS', 'GS', 'TR'].map((name) => AT[`HOST_${name}_SELECTOR` as FieldName]);
const HOST_BASES = [AT.HOST_FS_BASE, AT.HOST_GS_BASE, AT.HOST_GDTR_BASE, AT.HOST_IDTR_BASE, AT.HOST_TR_BASE];
const selector = (v: Vmcs, at: number): number => v.read32(at) & 0xffff;

export const HOST_CHECKS: readonly Check[] = [
  // @clause vmx.entry.host-cr0
  { clause: 'vmx.entry.host-cr0', violated: (v) => fixedViolated(v.read32(AT.HOST_CR0), CR0_FIXED0, CR0_FIXED1) || v.high32(AT.HOST_CR0) !== 0 },
  // @clause vmx.entry.host-cr4
  { clause: 'vmx.entry.host-cr4', violated: (v, c) => badCr4(v, c, AT.HOST_CR4) },
  // @clause vmx.entry.host-cr3
  { clause: 'vmx.entry.host-cr3', violated: (v, c) => tooWide(v, c, AT.HOST_CR3) },
  // @clause vmx.entry.host-sysenter
  {
    clause: 'vmx.entry.host-sysenter',
    violated: (v, c) => !canonical(v, c, AT.HOST_IA32_SYSENTER_ESP) || !canonical(v, c, AT.HOST_IA32_SYSENTER_EIP),
  },
  // @clause vmx.entry.host-pat
  { clause: 'vmx.entry.host-pat', violated: (v) => (exitControls(v) & EXIT.mask.LOAD_IA32_PAT) !== 0 && badPat(v, AT.HOST_IA32_PAT) },
  // @clause vmx.entry.host-efer
  {
    clause: 'vmx.entry.host-efer',
    violated(v) {
      if ((exitControls(v) & EXIT.mask.LOAD_IA32_EFER) === 0) return false;
      const efer = v.read32(AT.HOST_IA32_EFER);
      const both = EFER.LMA | EFER.LME;
      return (efer & ~EFER_SUPPORTED) !== 0 || v.high32(AT.HOST_IA32_EFER) !== 0 || (efer & both) !== (longHost(v) ? both : 0);
    },
  },
  // @clause vmx.entry.host-selectors
  { clause: 'vmx.entry.host-selectors', violated: (v) => HOST_SELECTORS.some((at) => (selector(v, at) & 7) !== 0) },
  // @clause vmx.entry.host-cs-null
  { clause: 'vmx.entry.host-cs-null', violated: (v) => selector(v, AT.HOST_CS_SELECTOR) === 0 },
  // @clause vmx.entry.host-tr-null
  { clause: 'vmx.entry.host-tr-null', violated: (v) => selector(v, AT.HOST_TR_SELECTOR) === 0 },
  // @clause vmx.entry.host-ss-null
  { clause: 'vmx.entry.host-ss-null', violated: (v) => !longHost(v) && selector(v, AT.HOST_SS_SELECTOR) === 0 },
  // @clause vmx.entry.host-bases
  { clause: 'vmx.entry.host-bases', violated: (v, c) => HOST_BASES.some((at) => !canonical(v, c, at)) },
  // @clause vmx.entry.host-address-space
  {
    clause: 'vmx.entry.host-address-space',
    violated: (v, c) => longHost(v) !== c.hostIsLong || (!c.hostIsLong && longGuest(v)),
  },
  // @clause vmx.entry.host-32bit
  { clause: 'vmx.entry.host-32bit', violated: (v) => !longHost(v) && (v.high32(AT.HOST_RIP) !== 0 || (v.read32(AT.HOST_CR4) & CR4.PCIDE) !== 0) },
  // @clause vmx.entry.host-64bit
  { clause: 'vmx.entry.host-64bit', violated: (v, c) => longHost(v) && ((v.read32(AT.HOST_CR4) & CR4.PAE) === 0 || !canonical(v, c, AT.HOST_RIP)) },
];

// ## The guest state
//
// Control registers first; then segments, where most of the rules are, because the hidden part of a segment register is normally filled only by
// loading a descriptor, which checks; then the little that says what the guest was doing.

const guestCr0 = (v: Vmcs): number => v.read32(AT.GUEST_CR0);
const virtual8086 = (v: Vmcs): boolean => (v.read32(AT.GUEST_RFLAGS) & FLAG.VM) !== 0;
const loadsDebug = (v: Vmcs): boolean => (entryControls(v) & ENTRY.mask.LOAD_DEBUG_CONTROLS) !== 0;

/** The four cells of a guest segment register. */
interface SegmentCells {
  readonly selector: number;
  readonly base: number;
  readonly limit: number;
  readonly rights: number;
}
const cells = (name: string): SegmentCells => ({
  selector: AT[`GUEST_${name}_SELECTOR` as FieldName],
  base: AT[`GUEST_${name}_BASE` as FieldName],
  limit: AT[`GUEST_${name}_LIMIT` as FieldName],
  rights: AT[`GUEST_${name}_AR_BYTES` as FieldName],
});
const CS = cells('CS');
const SS = cells('SS');
const DATA = [cells('DS'), cells('ES'), cells('FS'), cells('GS')];
const FLAT_BASE = [cells('SS'), cells('DS'), cells('ES')];
const SIX = [CS, SS, ...DATA];
const TR = cells('TR');
const LDTR = cells('LDTR');

const rights = (v: Vmcs, s: SegmentCells): number => v.read32(s.rights);
const usable = (v: Vmcs, s: SegmentCells): boolean => (rights(v, s) & AR.UNUSABLE) === 0;
const type = (v: Vmcs, s: SegmentCells): number => rights(v, s) & AR.TYPE;
const dpl = (v: Vmcs, s: SegmentCells): number => (rights(v, s) & AR.DPL) >> AR.DPL_SHIFT;
const rpl = (v: Vmcs, s: SegmentCells): number => v.read32(s.selector) & 3;
/** The granularity bit must be what a descriptor with this limit would have needed. */
const badGranularity = (v: Vmcs, s: SegmentCells): boolean => {
  const limit = v.read32(s.limit);
  const scaled = (rights(v, s) & AR.G) !== 0;
  return scaled ? (limit & 0xfff) !== 0xfff : limit >>> 20 !== 0;
};
const RIGHTS_RESERVED = 0xfffe_0f00;
const inV86 =
  (test: (v: Vmcs) => boolean) =>
  (v: Vmcs): boolean =>
    virtual8086(v) && test(v);
const notV86 =
  (test: (v: Vmcs) => boolean) =>
  (v: Vmcs): boolean =>
    !virtual8086(v) && test(v);
/** CS always counts as usable. */
const anyUsable = (v: Vmcs, test: (s: SegmentCells) => boolean): boolean => SIX.some((s) => (s === CS || usable(v, s)) && test(s));

const REGISTER_CHECKS: readonly Check[] = [
  // @clause vmx.entry.guest-cr0
  {
    clause: 'vmx.entry.guest-cr0',
    violated: (v) =>
      fixedViolated(guestCr0(v), unrestricted(v) ? CR0_FIXED0 & ~(CR0.PE | CR0.PG) : CR0_FIXED0, CR0_FIXED1) || v.high32(AT.GUEST_CR0) !== 0,
  },
  // @clause vmx.entry.guest-paging-without-protection
  { clause: 'vmx.entry.guest-paging-without-protection', violated: (v) => (guestCr0(v) & CR0.PG) !== 0 && (guestCr0(v) & CR0.PE) === 0 },
  // @clause vmx.entry.guest-cr4
  { clause: 'vmx.entry.guest-cr4', violated: (v, c) => badCr4(v, c, AT.GUEST_CR4) },
  // @clause vmx.entry.guest-pcide
  { clause: 'vmx.entry.guest-pcide', violated: (v) => !longGuest(v) && (v.read32(AT.GUEST_CR4) & CR4.PCIDE) !== 0 },
  // @clause vmx.entry.guest-debugctl
  {
    clause: 'vmx.entry.guest-debugctl',
    violated: (v) => loadsDebug(v) && ((v.read32(AT.GUEST_IA32_DEBUGCTL) & ~DEBUGCTL_SUPPORTED) !== 0 || v.high32(AT.GUEST_IA32_DEBUGCTL) !== 0),
  },
  // @clause vmx.entry.guest-long-needs-pae-paging
  {
    clause: 'vmx.entry.guest-long-needs-pae-paging',
    violated: (v) => longGuest(v) && ((guestCr0(v) & CR0.PG) === 0 || (v.read32(AT.GUEST_CR4) & CR4.PAE) === 0),
  },
  // @clause vmx.entry.guest-cr3
  { clause: 'vmx.entry.guest-cr3', violated: (v, c) => tooWide(v, c, AT.GUEST_CR3) },
  // @clause vmx.entry.guest-dr7
  { clause: 'vmx.entry.guest-dr7', violated: (v) => loadsDebug(v) && v.high32(AT.GUEST_DR7) !== 0 },
  // @clause vmx.entry.guest-sysenter
  { clause: 'vmx.entry.guest-sysenter', violated: (v, c) => !canonical(v, c, AT.GUEST_SYSENTER_ESP) || !canonical(v, c, AT.GUEST_SYSENTER_EIP) },
  // @clause vmx.entry.guest-pat
  { clause: 'vmx.entry.guest-pat', violated: (v) => (entryControls(v) & ENTRY.mask.LOAD_IA32_PAT) !== 0 && badPat(v, AT.GUEST_IA32_PAT) },
  // @clause vmx.entry.guest-efer
  {
    clause: 'vmx.entry.guest-efer',
    violated(v) {
      if ((entryControls(v) & ENTRY.mask.LOAD_IA32_EFER) === 0) return false;
      const efer = v.read32(AT.GUEST_IA32_EFER);
      const lma = (efer & EFER.LMA) !== 0;
      return (
        (efer & ~EFER_SUPPORTED) !== 0 ||
        v.high32(AT.GUEST_IA32_EFER) !== 0 ||
        lma !== longGuest(v) ||
        ((guestCr0(v) & CR0.PG) !== 0 && lma !== ((efer & EFER.LME) !== 0))
      );
    },
  },
];

const SEGMENT_CHECKS: readonly Check[] = [
  // @clause vmx.entry.seg-tr-ti
  { clause: 'vmx.entry.seg-tr-ti', violated: (v) => (v.read32(TR.selector) & 4) !== 0 },
  // @clause vmx.entry.seg-ldtr-ti
  { clause: 'vmx.entry.seg-ldtr-ti', violated: (v) => usable(v, LDTR) && (v.read32(LDTR.selector) & 4) !== 0 },
  // @clause vmx.entry.seg-ss-rpl
  { clause: 'vmx.entry.seg-ss-rpl', violated: notV86((v) => !unrestricted(v) && rpl(v, SS) !== rpl(v, CS)) },
  // @clause vmx.entry.seg-v86-base
  {
    clause: 'vmx.entry.seg-v86-base',
    violated: inV86((v) => SIX.some((s) => v.read32(s.base) !== selector(v, s.selector) * 16 || v.high32(s.base) !== 0)),
  },
  // @clause vmx.entry.seg-base-canonical
  {
    clause: 'vmx.entry.seg-base-canonical',
    violated: (v, c) =>
      [TR.base, AT.GUEST_FS_BASE, AT.GUEST_GS_BASE].some((at) => !canonical(v, c, at)) || (usable(v, LDTR) && !canonical(v, c, LDTR.base)),
  },
  // @clause vmx.entry.seg-base-32bit
  {
    clause: 'vmx.entry.seg-base-32bit',
    violated: (v) => v.high32(CS.base) !== 0 || FLAT_BASE.some((s) => usable(v, s) && v.high32(s.base) !== 0),
  },
  // @clause vmx.entry.seg-v86-limit
  { clause: 'vmx.entry.seg-v86-limit', violated: inV86((v) => SIX.some((s) => v.read32(s.limit) !== 0xffff)) },
  // @clause vmx.entry.seg-v86-rights
  { clause: 'vmx.entry.seg-v86-rights', violated: inV86((v) => SIX.some((s) => rights(v, s) !== 0xf3)) },
  // @clause vmx.entry.seg-cs-type
  {
    clause: 'vmx.entry.seg-cs-type',
    violated: notV86((v) => (type(v, CS) & (AR.CODE | AR.ACCESSED)) !== (AR.CODE | AR.ACCESSED) && !(unrestricted(v) && type(v, CS) === 3)),
  },
  // @clause vmx.entry.seg-ss-type
  { clause: 'vmx.entry.seg-ss-type', violated: notV86((v) => usable(v, SS) && type(v, SS) !== 3 && type(v, SS) !== 7) },
  // @clause vmx.entry.seg-data-type
  {
    clause: 'vmx.entry.seg-data-type',
    violated: notV86((v) =>
      DATA.some((s) => usable(v, s) && ((type(v, s) & AR.ACCESSED) === 0 || (type(v, s) & (AR.CODE | AR.READABLE)) === AR.CODE)),
    ),
  },
  // @clause vmx.entry.seg-not-system
  { clause: 'vmx.entry.seg-not-system', violated: notV86((v) => anyUsable(v, (s) => (rights(v, s) & AR.S) === 0)) },
  // @clause vmx.entry.seg-cs-dpl
  {
    clause: 'vmx.entry.seg-cs-dpl',
    violated: notV86((v) => {
      if (type(v, CS) === 3) return dpl(v, CS) !== 0;
      return (type(v, CS) & AR.CONFORMING) !== 0 ? dpl(v, CS) > dpl(v, SS) : dpl(v, CS) !== dpl(v, SS);
    }),
  },
  // @clause vmx.entry.seg-ss-dpl
  {
    clause: 'vmx.entry.seg-ss-dpl',
    violated: notV86((v) => {
      if (!unrestricted(v) && dpl(v, SS) !== rpl(v, SS)) return true;
      return (type(v, CS) === 3 || (guestCr0(v) & CR0.PE) === 0) && dpl(v, SS) !== 0;
    }),
  },
  // @clause vmx.entry.seg-data-dpl
  {
    clause: 'vmx.entry.seg-data-dpl',
    violated: notV86((v) => !unrestricted(v) && DATA.some((s) => usable(v, s) && type(v, s) <= 11 && dpl(v, s) < rpl(v, s))),
  },
  // @clause vmx.entry.seg-present
  { clause: 'vmx.entry.seg-present', violated: notV86((v) => anyUsable(v, (s) => (rights(v, s) & AR.P) === 0)) },
  // @clause vmx.entry.seg-rights-reserved
  { clause: 'vmx.entry.seg-rights-reserved', violated: notV86((v) => anyUsable(v, (s) => (rights(v, s) & RIGHTS_RESERVED) !== 0)) },
  // @clause vmx.entry.seg-cs-l-and-d
  {
    clause: 'vmx.entry.seg-cs-l-and-d',
    violated: notV86((v) => longGuest(v) && (rights(v, CS) & (AR.L | AR.DB)) >>> 0 === (AR.L | AR.DB)),
  },
  // @clause vmx.entry.seg-granularity
  { clause: 'vmx.entry.seg-granularity', violated: notV86((v) => anyUsable(v, (s) => badGranularity(v, s))) },
  // @clause vmx.entry.seg-tr-type
  { clause: 'vmx.entry.seg-tr-type', violated: (v) => type(v, TR) !== 11 && (longGuest(v) || type(v, TR) !== 3) },
  // @clause vmx.entry.seg-tr-rights
  {
    clause: 'vmx.entry.seg-tr-rights',
    violated: (v) => !usable(v, TR) || (rights(v, TR) & (AR.S | AR.P | RIGHTS_RESERVED)) !== AR.P || badGranularity(v, TR),
  },
  // @clause vmx.entry.seg-ldtr-rights
  {
    clause: 'vmx.entry.seg-ldtr-rights',
    violated: (v) =>
      usable(v, LDTR) && (type(v, LDTR) !== 2 || (rights(v, LDTR) & (AR.S | AR.P | RIGHTS_RESERVED)) !== AR.P || badGranularity(v, LDTR)),
  },
  // @clause vmx.entry.table-base-canonical
  { clause: 'vmx.entry.table-base-canonical', violated: (v, c) => !canonical(v, c, AT.GUEST_GDTR_BASE) || !canonical(v, c, AT.GUEST_IDTR_BASE) },
  // @clause vmx.entry.table-limit
  { clause: 'vmx.entry.table-limit', violated: (v) => v.read32(AT.GUEST_GDTR_LIMIT) >>> 16 !== 0 || v.read32(AT.GUEST_IDTR_LIMIT) >>> 16 !== 0 },
];

// What follows depends on fields that change at nearly every entry (RIP, RFLAGS, interruptibility, the event to inject), so it is tested at every
// entry, whereas the lists above are remembered as passed until software writes one of their fields.

const in64bitCode = (v: Vmcs): boolean => longGuest(v) && (rights(v, CS) & AR.L) !== 0;
const RFLAGS_RESERVED = 0xffc0_8028;
const interruptibility = (v: Vmcs): number => v.read32(AT.GUEST_INTERRUPTIBILITY_INFO);
const activity = (v: Vmcs): number => v.read32(AT.GUEST_ACTIVITY_STATE);
const injects = (v: Vmcs, eventType: number): boolean => injecting(v) && entryEvent(v).type === eventType;
const { STI, MOV_SS, SMI, NMI } = INTERRUPTIBILITY.mask;
const PENDING_RESERVED = 0xffff_aff0;
const PENDING_BS = 1 << 14;

const mayInjectWhile = (state: number, { type: eventType, vector }: { type: number; vector: number }): boolean => {
  if (state === ACTIVITY.ACTIVE) return true;
  if (state === ACTIVITY.HLT) {
    if (eventType === EVENT_TYPE.HARDWARE_EXCEPTION) return vector === 1 || vector === 18;
    return eventType === EVENT_TYPE.EXTERNAL || eventType === EVENT_TYPE.NMI || eventType === EVENT_TYPE.OTHER;
  }
  if (state === ACTIVITY.SHUTDOWN) return eventType === EVENT_TYPE.NMI || (eventType === EVENT_TYPE.HARDWARE_EXCEPTION && vector === 18);
  return false;
};

export const ACTIVITY_CHECKS: readonly Check[] = [
  // @clause vmx.entry.guest-rip
  { clause: 'vmx.entry.guest-rip', violated: (v, c) => (in64bitCode(v) ? !canonical(v, c, AT.GUEST_RIP) : v.high32(AT.GUEST_RIP) !== 0) },
  // @clause vmx.entry.guest-rflags-reserved
  {
    clause: 'vmx.entry.guest-rflags-reserved',
    violated: (v) => (v.read32(AT.GUEST_RFLAGS) & (RFLAGS_RESERVED | FLAG.FIXED)) !== FLAG.FIXED || v.high32(AT.GUEST_RFLAGS) !== 0,
  },
  // @clause vmx.entry.guest-rflags-vm
  { clause: 'vmx.entry.guest-rflags-vm', violated: (v) => virtual8086(v) && (longGuest(v) || (guestCr0(v) & CR0.PE) === 0) },
  // @clause vmx.entry.guest-rflags-if
  { clause: 'vmx.entry.guest-rflags-if', violated: (v) => injects(v, EVENT_TYPE.EXTERNAL) && (v.read32(AT.GUEST_RFLAGS) & FLAG.IF) === 0 },
  // @clause vmx.entry.activity-state
  { clause: 'vmx.entry.activity-state', violated: (v) => activity(v) > ACTIVITY.WAIT_SIPI },
  // @clause vmx.entry.activity-hlt-dpl
  { clause: 'vmx.entry.activity-hlt-dpl', violated: (v) => activity(v) === ACTIVITY.HLT && dpl(v, SS) !== 0 },
  // @clause vmx.entry.activity-blocking
  { clause: 'vmx.entry.activity-blocking', violated: (v) => activity(v) !== ACTIVITY.ACTIVE && (interruptibility(v) & (STI | MOV_SS)) !== 0 },
  // @clause vmx.entry.activity-injection
  { clause: 'vmx.entry.activity-injection', violated: (v) => injecting(v) && !mayInjectWhile(activity(v), entryEvent(v)) },
  // @clause vmx.entry.intr-reserved
  { clause: 'vmx.entry.intr-reserved', violated: (v) => (interruptibility(v) & ~(STI | MOV_SS | SMI | NMI)) !== 0 },
  // @clause vmx.entry.intr-sti-and-mov-ss
  { clause: 'vmx.entry.intr-sti-and-mov-ss', violated: (v) => (interruptibility(v) & (STI | MOV_SS)) === (STI | MOV_SS) },
  // @clause vmx.entry.intr-sti-needs-if
  { clause: 'vmx.entry.intr-sti-needs-if', violated: (v) => (interruptibility(v) & STI) !== 0 && (v.read32(AT.GUEST_RFLAGS) & FLAG.IF) === 0 },
  // @clause vmx.entry.intr-external-blocked
  { clause: 'vmx.entry.intr-external-blocked', violated: (v) => injects(v, EVENT_TYPE.EXTERNAL) && (interruptibility(v) & (STI | MOV_SS)) !== 0 },
  // @clause vmx.entry.intr-nmi-mov-ss
  { clause: 'vmx.entry.intr-nmi-mov-ss', violated: (v) => injects(v, EVENT_TYPE.NMI) && (interruptibility(v) & MOV_SS) !== 0 },
  // @clause vmx.entry.intr-nmi-sti
  {
    clause: 'vmx.entry.intr-nmi-sti',
    violated: (v) => injects(v, EVENT_TYPE.NMI) && (interruptibility(v) & STI) !== 0,
    qualification: ENTRY_FAILURE.NMI,
  },
  // @clause vmx.entry.intr-smi
  { clause: 'vmx.entry.intr-smi', violated: (v) => (interruptibility(v) & SMI) !== 0 },
  // @clause vmx.entry.intr-nmi-blocked
  {
    clause: 'vmx.entry.intr-nmi-blocked',
    violated: (v) => injects(v, EVENT_TYPE.NMI) && (pin(v) & PIN.mask.VIRTUAL_NMIS) !== 0 && (interruptibility(v) & NMI) !== 0,
  },
  // @clause vmx.entry.pending-debug-reserved
  {
    clause: 'vmx.entry.pending-debug-reserved',
    violated: (v) => (v.read32(AT.GUEST_PENDING_DBG_EXCEPTIONS) & PENDING_RESERVED) !== 0 || v.high32(AT.GUEST_PENDING_DBG_EXCEPTIONS) !== 0,
  },
  // @clause vmx.entry.pending-debug-bs
  {
    clause: 'vmx.entry.pending-debug-bs',
    violated(v) {
      if ((interruptibility(v) & (STI | MOV_SS)) === 0 && activity(v) !== ACTIVITY.HLT) return false;
      const stepping = (v.read32(AT.GUEST_RFLAGS) & FLAG.TF) !== 0 && (v.read32(AT.GUEST_IA32_DEBUGCTL) & DEBUGCTL_BTF) === 0;
      return ((v.read32(AT.GUEST_PENDING_DBG_EXCEPTIONS) & PENDING_BS) !== 0) !== stepping;
    },
  },
];

const LINK_CHECKS: readonly Check[] = [
  // @clause vmx.entry.link-pointer
  {
    clause: 'vmx.entry.link-pointer',
    violated(v, c) {
      if (v.read32(AT.VMCS_LINK_POINTER) === 0xffff_ffff && v.high32(AT.VMCS_LINK_POINTER) === 0xffff_ffff) return false;
      const address = v.readNumber(AT.VMCS_LINK_POINTER);
      return badPage(v, c, AT.VMCS_LINK_POINTER) || address === v.address || c.physical32(address) !== REVISION_ID;
    },
    qualification: ENTRY_FAILURE.VMCS_LINK_PTR,
  },
];

// PAE paging caches the four page-directory-pointer entries in the processor, when CR3 is loaded. With EPT, CR3 is a guest-physical address that the
// guest loads without an exit, so the cache is guest state like any other, and has fields. Without EPT the entries come from memory during the entry.

const usesPaePaging = (v: Vmcs): boolean => (guestCr0(v) & CR0.PG) !== 0 && (v.read32(AT.GUEST_CR4) & CR4.PAE) !== 0 && !longGuest(v);
const PDPTRS = [AT.GUEST_PDPTR0, AT.GUEST_PDPTR1, AT.GUEST_PDPTR2, AT.GUEST_PDPTR3];
/** A present page-directory-pointer entry may set only P, PWT, PCD, the ignored bits 11:9 and the address. */
const badPdpte = (low: number, high: number, c: EntryContext): boolean =>
  (low & 1) !== 0 && ((low & 0x1e6) !== 0 || high * 2 ** 32 >= 2 ** c.physicalAddressBits);

const PDPTE_CHECKS: readonly Check[] = [
  // @clause vmx.entry.pdpte
  {
    clause: 'vmx.entry.pdpte',
    violated(v, c) {
      if (!usesPaePaging(v)) return false;
      if ((secondary(v) & SECONDARY.mask.ENABLE_EPT) !== 0) return PDPTRS.some((at) => badPdpte(v.read32(at), v.high32(at), c));
      const table = (v.read32(AT.GUEST_CR3) & ~0x1f) >>> 0;
      return [0, 8, 16, 24].some((at) => badPdpte(c.physical32(table + at), c.physical32(table + at + 4), c));
    },
    qualification: ENTRY_FAILURE.PDPTE,
  },
];

/** Guest-state checks whose fields rarely change. */
export const GUEST_CHECKS: readonly Check[] = [...REGISTER_CHECKS, ...SEGMENT_CHECKS, ...LINK_CHECKS, ...PDPTE_CHECKS];

/** Every check, with what its violation amounts to: a VM-instruction error, or 0 for an entry-failure VM exit. */
export const ENTRY_CHECKS: readonly (Check & { readonly error: number })[] = [
  ...[...CONTROL_CHECKS, ...INJECTION_CHECKS].map((check) => ({ ...check, error: VM_INSTRUCTION_ERROR.ENTRY_INVALID_CONTROL_FIELD })),
  ...HOST_CHECKS.map((check) => ({ ...check, error: VM_INSTRUCTION_ERROR.ENTRY_INVALID_HOST_STATE_FIELD })),
  ...[...GUEST_CHECKS, ...ACTIVITY_CHECKS].map((check) => ({ ...check, error: 0 })),
];

/** The first violated check of a list, or null. */
export function firstViolation(checks: readonly Check[], v: Vmcs, c: EntryContext): Check | null {
  for (const check of checks) if (check.violated(v, c)) return check;
  return null;
}
