// tidy: table
// # The same idea at AMD
//
// AMD's answer came a few months after Intel's, in 2006, under the name *Secure Virtual Machine*. It solves the same problem with the same two modes,
// so one kvm.ko drives both: a common core, and two vendor modules that differ where the hardware does. This section is the table of differences. It
// is data, not a second implementation: the processor of this book has VT-x.
//
// The first difference is one of temperament. Intel hides the control structure behind VMREAD and VMWRITE; AMD publishes it. The *virtual-machine
// control block* is a page of memory with documented offsets: software fills it with plain stores and executes `VMRUN rAX`, whose operand is the
// page's physical address. There is nothing to activate, no current pointer, no launch state, no field encodings; four of Intel's instructions have
// no equivalent because there is nothing for them to do. The price is paid inside: the processor may cache parts of the block, cannot see stores to
// it, and so has to be told what has *not* changed -- the `clean` bits -- if it is to skip reloading.
//
// The second is economy. VMRUN saves little of the host: a few registers, in a page the hypervisor names once in an MSR. Everything else (FS, GS, TR,
// LDTR, the SYSCALL MSRs) stays as the guest left it until software executes VMSAVE and VMLOAD, which lets a hypervisor that handles an exit without
// needing them skip the cost. Intel's exit establishes a complete host every time.
//
// The third shows at the exit. SVM reports an *intercept code* for each register and each exception, so that code alone often decides what to do;
// VT-x has fewer reasons and puts the detail into the qualification. {{words(differences('none'))}} of the {{Object.keys(COUNTERPARTS).length}}
// reasons in Intel's list have no counterpart at all, mostly because AMD has no such feature, and {{words(differences('nearest'))}} only have a
// nearest relative.

import { bytes, layout, nested, u8, u16le, u32le, u64le } from '../layout.ts';
import type { ExitReasonName } from './exit-reasons.ts';

// ::layout VmcbSegment -- The hidden part of a segment register, as it stands in memory.

/** A segment register in the state-save area. `attrib` packs access-rights bits 0..7 and 12..15 into 12 bits. */
export const VmcbSegment = layout('vmcb_seg', {
  selector: u16le(0x0),
  attrib: u16le(0x2),
  limit: u32le(0x4),
  base: u64le(0x8),
});

// ::layout VmcbControl -- The control area: what Intel spreads over control fields, exit information and event injection.

/** The VMCB's control area (AMD64 APM vol. 2, "VMCB Layout, Control Area"; names as in Linux's svm.h). Reserved bytes are not listed. */
export const VmcbControl = layout(
  'vmcb_control_area',
  {
    intercepts: bytes(0x000, 24), // one bit per cause: CRs, DRs, exceptions, then instructions and events
    pause_filter_thresh: u16le(0x03c),
    pause_filter_count: u16le(0x03e),
    iopm_base_pa: u64le(0x040), // I/O permission map: 12 KiB
    msrpm_base_pa: u64le(0x048), // MSR permission map: 8 KiB
    tsc_offset: u64le(0x050),
    asid: u32le(0x058),
    tlb_ctl: u8(0x05c),
    erap_ctl: u8(0x05d),
    int_ctl: u32le(0x060), // V_TPR, V_IRQ, V_INTR_MASKING ...
    int_vector: u32le(0x064),
    int_state: u32le(0x068), // bit 0: interrupt shadow
    exit_code: u64le(0x070),
    exit_info_1: u64le(0x078),
    exit_info_2: u64le(0x080),
    exit_int_info: u32le(0x088),
    exit_int_info_err: u32le(0x08c),
    misc_ctl: u64le(0x090), // bit 0: nested paging
    avic_vapic_bar: u64le(0x098),
    ghcb_gpa: u64le(0x0a0),
    event_inj: u32le(0x0a8),
    event_inj_err: u32le(0x0ac),
    nested_cr3: u64le(0x0b0),
    misc_ctl2: u64le(0x0b8),
    clean: u32le(0x0c0),
    next_rip: u64le(0x0c8),
    insn_len: u8(0x0d0),
    insn_bytes: bytes(0x0d1, 15),
    avic_backing_page: u64le(0x0e0),
    avic_logical_id: u64le(0x0f0),
    avic_physical_id: u64le(0x0f8),
    vmsa_pa: u64le(0x108),
    bus_lock_counter: u16le(0x120),
    allowed_sev_features: u64le(0x138),
    guest_sev_features: u64le(0x140),
    hv_enlightenments: bytes(0x3e0, 32), // the hypervisor's own
  },
  0x400,
);

// ::layout VmcbSave -- The state-save area, at offset {{hex(VMCB_SAVE_OFFSET)}} of the page.

/** Where the state-save area begins in the VMCB page. */
export const VMCB_SAVE_OFFSET = VmcbControl.bytes;

/** The VMCB's state-save area (AMD64 APM vol. 2, "VMCB Layout, State Save Area"). */
export const VmcbSave = layout('vmcb_save_area', {
  es: nested(0x000, VmcbSegment),
  cs: nested(0x010, VmcbSegment),
  ss: nested(0x020, VmcbSegment),
  ds: nested(0x030, VmcbSegment),
  fs: nested(0x040, VmcbSegment),
  gs: nested(0x050, VmcbSegment),
  gdtr: nested(0x060, VmcbSegment),
  ldtr: nested(0x070, VmcbSegment),
  idtr: nested(0x080, VmcbSegment),
  tr: nested(0x090, VmcbSegment),
  vmpl: u8(0x0ca),
  cpl: u8(0x0cb), // a field of its own: on Intel it is SS.DPL
  efer: u64le(0x0d0),
  cr4: u64le(0x148),
  cr3: u64le(0x150),
  cr0: u64le(0x158),
  dr7: u64le(0x160),
  dr6: u64le(0x168),
  rflags: u64le(0x170),
  rip: u64le(0x178),
  rsp: u64le(0x1d8),
  s_cet: u64le(0x1e0),
  ssp: u64le(0x1e8),
  isst_addr: u64le(0x1f0),
  rax: u64le(0x1f8), // VMRUN's operand is in RAX, so the guest's must be somewhere
  star: u64le(0x200),
  lstar: u64le(0x208),
  cstar: u64le(0x210),
  sfmask: u64le(0x218),
  kernel_gs_base: u64le(0x220),
  sysenter_cs: u64le(0x228),
  sysenter_esp: u64le(0x230),
  sysenter_eip: u64le(0x238),
  cr2: u64le(0x240), // Intel leaves CR2 to software
  g_pat: u64le(0x268),
  dbgctl: u64le(0x270),
  br_from: u64le(0x278),
  br_to: u64le(0x280),
  last_excp_from: u64le(0x288),
  last_excp_to: u64le(0x290),
  spec_ctrl: u64le(0x2e0),
});

// ## Exit codes
//
// Read them in groups: 16 codes for reading control registers, 16 for writing them, the same for debug registers, 32 for exceptions, and then one for
// each instruction or event. Codes from {{hex(SVM_EXIT.NPF)}} on came with nested paging and its successors, and the last one says that VMRUN refused
// the block.

/** #VMEXIT codes (AMD64 APM vol. 2, appendix "SVM Intercept Exit Codes"; names as in Linux's uapi/asm/svm.h without SVM_EXIT_). */
// biome-ignore format: table
export const SVM_EXIT = {
  READ_CR0: 0x00n, READ_CR3: 0x03n, READ_CR4: 0x04n, READ_CR8: 0x08n, WRITE_CR0: 0x10n, WRITE_CR3: 0x13n, WRITE_CR4: 0x14n, WRITE_CR8: 0x18n,
  READ_DR0: 0x20n, WRITE_DR0: 0x30n, EXCP_BASE: 0x40n, INTR: 0x60n, NMI: 0x61n, SMI: 0x62n, INIT: 0x63n, VINTR: 0x64n, CR0_SEL_WRITE: 0x65n,
  IDTR_READ: 0x66n, GDTR_READ: 0x67n, LDTR_READ: 0x68n, TR_READ: 0x69n, IDTR_WRITE: 0x6an, GDTR_WRITE: 0x6bn, LDTR_WRITE: 0x6cn, TR_WRITE: 0x6dn,
  RDTSC: 0x6en, RDPMC: 0x6fn, PUSHF: 0x70n, POPF: 0x71n, CPUID: 0x72n, RSM: 0x73n, IRET: 0x74n, SWINT: 0x75n, INVD: 0x76n, PAUSE: 0x77n, HLT: 0x78n,
  INVLPG: 0x79n, INVLPGA: 0x7an, IOIO: 0x7bn, MSR: 0x7cn, TASK_SWITCH: 0x7dn, FERR_FREEZE: 0x7en, SHUTDOWN: 0x7fn, VMRUN: 0x80n, VMMCALL: 0x81n,
  VMLOAD: 0x82n, VMSAVE: 0x83n, STGI: 0x84n, CLGI: 0x85n, SKINIT: 0x86n, RDTSCP: 0x87n, ICEBP: 0x88n, WBINVD: 0x89n, MONITOR: 0x8an, MWAIT: 0x8bn,
  MWAIT_COND: 0x8cn, XSETBV: 0x8dn, RDPRU: 0x8en, EFER_WRITE_TRAP: 0x8fn, CR0_WRITE_TRAP: 0x90n, INVPCID: 0xa2n, BUS_LOCK: 0xa5n, IDLE_HLT: 0xa6n,
  NPF: 0x400n, AVIC_INCOMPLETE_IPI: 0x401n, AVIC_UNACCELERATED_ACCESS: 0x402n, VMGEXIT: 0x403n, ERR: 0xffff_ffff_ffff_ffffn,
} as const;

type SvmExitName = keyof typeof SVM_EXIT;

/**
 * What SVM has in place of a VMX exit reason. `same`: the same event. `nearest`: a hypervisor gets there by it, but it is not the same. `none`: no
 * counterpart.
 */
interface Counterpart {
  readonly kind: 'same' | 'nearest' | 'none';
  readonly codes: readonly SvmExitName[];
  readonly note?: string;
}

const same = (...codes: SvmExitName[]): Counterpart => ({ kind: 'same', codes });
const nearest = (note: string, ...codes: SvmExitName[]): Counterpart => ({ kind: 'nearest', codes, note });
const none = (note: string): Counterpart => ({ kind: 'none', codes: [], note });
const pointerless = none('there is no current VMCB: VMRUN takes its address');
const plainMemory = none('the VMCB is plain memory');
const notOffered = none('AMD has no such feature');

/** For each basic VM-exit reason, SVM's side of it. */
export const COUNTERPARTS: Readonly<Record<ExitReasonName, Counterpart>> = {
  EXCEPTION_NMI: { kind: 'same', codes: ['EXCP_BASE', 'NMI'], note: 'one code for each vector, EXCP_BASE + vector' },
  EXTERNAL_INTERRUPT: same('INTR'),
  TRIPLE_FAULT: same('SHUTDOWN'),
  INIT_SIGNAL: same('INIT'),
  SIPI_SIGNAL: none('no wait-for-SIPI activity state; software keeps the vCPU waiting'),
  SMI_IO: nearest('one code for every SMI', 'SMI'),
  OTHER_SMI: nearest('one code for every SMI', 'SMI'),
  INTERRUPT_WINDOW: nearest('software requests a virtual interrupt and intercepts the moment it would be taken', 'VINTR'),
  NMI_WINDOW: nearest('software intercepts the IRET that ends the handler', 'IRET'),
  TASK_SWITCH: same('TASK_SWITCH'),
  CPUID: same('CPUID'),
  GETSEC: nearest('another instruction for a measured launch', 'SKINIT'),
  HLT: same('HLT'),
  INVD: same('INVD'),
  INVLPG: same('INVLPG'),
  RDPMC: same('RDPMC'),
  RDTSC: same('RDTSC'),
  RSM: same('RSM'),
  VMCALL: { kind: 'same', codes: ['VMMCALL'], note: 'another opcode; guests choose by CPUID, and KVM patches the wrong one' },
  VMCLEAR: plainMemory,
  VMLAUNCH: nearest('one instruction enters, whether for the first time or not', 'VMRUN'),
  VMPTRLD: pointerless,
  VMPTRST: pointerless,
  VMREAD: plainMemory,
  VMRESUME: nearest('one instruction enters, whether for the first time or not', 'VMRUN'),
  VMWRITE: plainMemory,
  VMOFF: none('EFER.SVME is cleared'),
  VMON: none('EFER.SVME is set, and VM_HSAVE_PA written'),
  CR_ACCESS: {
    kind: 'same',
    codes: ['READ_CR0', 'WRITE_CR0', 'READ_CR3', 'WRITE_CR3', 'READ_CR4', 'WRITE_CR4', 'READ_CR8', 'WRITE_CR8', 'CR0_SEL_WRITE'],
    note: 'a code for each register and direction; no guest/host masks, but a selective intercept for CR0 bits other than TS and MP',
  },
  DR_ACCESS: { kind: 'same', codes: ['READ_DR0', 'WRITE_DR0'], note: 'a code for each register and direction' },
  IO_INSTRUCTION: same('IOIO'),
  MSR_READ: { kind: 'same', codes: ['MSR'], note: 'exit_info_1 = 0' },
  MSR_WRITE: { kind: 'same', codes: ['MSR'], note: 'exit_info_1 = 1' },
  INVALID_STATE: nearest('one answer for every inconsistency, controls included', 'ERR'),
  MSR_LOAD_FAIL: none('no MSR areas'),
  MWAIT_INSTRUCTION: same('MWAIT', 'MWAIT_COND'),
  MONITOR_TRAP_FLAG: none('KVM single-steps with RFLAGS.TF'),
  MONITOR_INSTRUCTION: same('MONITOR'),
  PAUSE_INSTRUCTION: same('PAUSE'),
  MCE_DURING_VMENTRY: none('the machine check is taken by the host'),
  TPR_BELOW_THRESHOLD: nearest('no threshold: every write of CR8 exits, or none', 'WRITE_CR8'),
  APIC_ACCESS: nearest('part of AVIC', 'AVIC_UNACCELERATED_ACCESS'),
  EOI_INDUCED: nearest('part of AVIC', 'AVIC_UNACCELERATED_ACCESS'),
  GDTR_IDTR: { kind: 'same', codes: ['IDTR_READ', 'GDTR_READ', 'IDTR_WRITE', 'GDTR_WRITE'], note: 'no instruction information: software decodes' },
  LDTR_TR: { kind: 'same', codes: ['LDTR_READ', 'TR_READ', 'LDTR_WRITE', 'TR_WRITE'], note: 'no instruction information: software decodes' },
  EPT_VIOLATION: { kind: 'same', codes: ['NPF'], note: 'exit_info_1 is a page-fault error code, exit_info_2 the guest-physical address' },
  EPT_MISCONFIG: nearest('reserved bits are one more kind of nested page fault', 'NPF'),
  INVEPT: none('software changes the ASID or sets tlb_ctl'),
  RDTSCP: same('RDTSCP'),
  PREEMPTION_TIMER: none('KVM uses a timer of the host'),
  INVVPID: nearest('one address in one address space', 'INVLPGA'),
  WBINVD: same('WBINVD'),
  XSETBV: same('XSETBV'),
  APIC_WRITE: nearest('part of AVIC', 'AVIC_UNACCELERATED_ACCESS', 'AVIC_INCOMPLETE_IPI'),
  RDRAND: notOffered,
  INVPCID: same('INVPCID'),
  VMFUNC: notOffered,
  ENCLS: notOffered,
  RDSEED: notOffered,
  PML_FULL: notOffered,
  XSAVES: notOffered,
  XRSTORS: notOffered,
  PCONFIG: notOffered,
  SPP_EVENT: notOffered,
  UMWAIT: notOffered,
  TPAUSE: notOffered,
  LOADIWKEY: notOffered,
  ENCLV: notOffered,
  ENQCMD_PASID: notOffered,
  ENQCMDS_PASID: notOffered,
  BUS_LOCK: same('BUS_LOCK'),
  NOTIFY: notOffered,
  SEAMCALL: none("SEV-SNP has no instruction of the hypervisor's in this place"),
  TDCALL: nearest('a confidential guest asks through the GHCB', 'VMGEXIT'),
  RDMSRLIST: notOffered,
  WRMSRLIST: notOffered,
  URDMSR: notOffered,
  UWRMSR: notOffered,
  MSR_READ_IMM: notOffered,
  MSR_WRITE_IMM: notOffered,
};

/** How many exit reasons have that kind of counterpart. */
export const differences = (kind: Counterpart['kind']): number =>
  Object.values(COUNTERPARTS).filter((counterpart) => counterpart.kind === kind).length;

// ## Concept by concept
//
// The other direction, for a reader who knows one of the two and meets the other: {{words(CONCEPTS.length)}} concepts, each under its two names.

/** One row of the comparison. */
interface Concept {
  readonly concept: string;
  readonly vmx: string;
  readonly svm: string;
  readonly remark: string;
}

export const CONCEPTS: readonly Concept[] = [
  { concept: 'switching the feature on', vmx: 'CR4.VMXE, VMXON with a region', svm: 'EFER.SVME', remark: 'both can be locked away by firmware' },
  { concept: "the hypervisor's mode", vmx: 'VMX root operation', svm: 'host mode', remark: '' },
  { concept: "the guest's mode", vmx: 'VMX non-root operation', svm: 'guest mode', remark: 'all four rings exist in it' },
  {
    concept: 'control structure',
    vmx: 'VMCS, opaque, by VMREAD and VMWRITE',
    svm: 'VMCB, a page with published offsets',
    remark: 'caching told by launch state and VMCLEAR; by clean bits',
  },
  { concept: 'entering', vmx: 'VMLAUNCH, VMRESUME', svm: 'VMRUN rAX', remark: '' },
  {
    concept: 'host state',
    vmx: 'host-state area, loaded whole at exit',
    svm: 'VM_HSAVE_PA page, a few registers',
    remark: 'the rest by VMSAVE and VMLOAD',
  },
  {
    concept: 'keeping interrupts out of the switch',
    vmx: 'RFLAGS.IF, and the checks',
    svm: 'the global interrupt flag: CLGI, STGI',
    remark: 'GIF holds back NMIs as well',
  },
  {
    concept: 'which events exit',
    vmx: 'five control words',
    svm: 'intercept bit vector',
    remark: "almost all of SVM's bits are optional, CPUID included",
  },
  {
    concept: 'exception selection',
    vmx: 'EXCEPTION_BITMAP, page-fault mask and match',
    svm: '32 intercept bits',
    remark: 'SVM cannot select page faults by error code',
  },
  { concept: 'I/O ports', vmx: 'two 4 KiB bitmaps', svm: '12 KiB permission map', remark: 'exit_info_2 holds the next RIP' },
  { concept: 'MSRs', vmx: 'four 1 KiB bitmaps', svm: '8 KiB map, two bits each', remark: 'SVM covers a third range, C001_0000' },
  {
    concept: 'control registers',
    vmx: 'masks, shadows, CR3 targets',
    svm: 'intercept per register, selective CR0 write',
    remark: 'no shadows: the guest reads the real value',
  },
  { concept: 'why it exited', vmx: 'VM_EXIT_REASON, EXIT_QUALIFICATION', svm: 'exit_code, exit_info_1, exit_info_2', remark: '' },
  { concept: 'length of the instruction', vmx: 'VM_EXIT_INSTRUCTION_LEN', svm: 'next_rip', remark: 'early SVM had neither: KVM decoded to skip' },
  { concept: 'the instruction itself', vmx: 'not given', svm: 'insn_len, insn_bytes (decode assists)', remark: 'on nested page faults and #PF only' },
  {
    concept: 'injecting an event',
    vmx: 'VM_ENTRY_INTR_INFO_FIELD',
    svm: 'event_inj',
    remark: 'same layout, but no instruction length: next_rip instead',
  },
  { concept: 'event interrupted by the exit', vmx: 'IDT_VECTORING_INFO_FIELD', svm: 'exit_int_info', remark: '' },
  { concept: 'interrupt shadow', vmx: 'GUEST_INTERRUPTIBILITY_INFO', svm: 'int_state bit 0', remark: 'STI and MOV SS are not told apart' },
  { concept: 'waiting for a window', vmx: 'interrupt-window exiting', svm: 'V_IRQ with the VINTR intercept', remark: '' },
  {
    concept: 'second-stage paging',
    vmx: 'EPT, a format of its own',
    svm: 'nested paging, the ordinary x86 format',
    remark: 'nested_cr3; every nested access counts as a user access',
  },
  { concept: 'TLB tag', vmx: 'VPID', svm: 'ASID', remark: 'ASIDs are few, and KVM starts a new generation when they run out' },
  { concept: 'guest in real mode', vmx: 'unrestricted guest, needs EPT', svm: 'paged real mode, from the beginning', remark: '' },
  { concept: 'bad state', vmx: 'three outcomes and a number', svm: 'VMEXIT_INVALID', remark: '' },
];
