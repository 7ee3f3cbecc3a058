// # The VMCS
//
// To enter a guest the processor must exchange everything software can see of it: control registers, segment registers with their hidden parts,
// descriptor tables, a stack pointer, an instruction pointer. No instruction has room for that many operands, and a set of model-specific registers
// would have to be written one by one at every switch between guests. So the state of a guest, and the hypervisor's wishes about it, live in a page
// of memory -- the *virtual-machine control structure*, one for each virtual processor -- and one register in the CPU says which page is current.
//
// But the page has no published layout. Software may allocate it, write the revision identifier into its first word, and hand its physical
// address to VMPTRLD; after that it must read and write by *field encoding*, through VMREAD and VMWRITE. The indirection is deliberate. It lets an
// implementation keep the current VMCS inside the core and write it back when it pleases; it lets the next core arrange the page
// otherwise; and it lets a hypervisor, intercepting VMREAD, emulate a processor with other fields. AMD chose the opposite for its
// VMCB, and both choices have cost and paid: see the table of differences at the end of this section.
//
// An encoding is not an arbitrary number. It tells what kind of field it names:
//
// ```
//  31        15 14   13 12 11  10  9            1  0
// +------------+-------+--+-------+--------------+---+
// |     0      | width | 0| type  |    index     |  H |
// +------------+-------+--+-------+--------------+---+
//   width: 16, 64, 32 bits, natural      type: control, read-only data, guest state, host state      H: high half of a 64-bit field
// ```
//
// `GUEST_RIP`, for example, is {{hex(FIELD.GUEST_RIP)}}: width {{fieldWidth(FIELD.GUEST_RIP)}}, type {{fieldType(FIELD.GUEST_RIP)}}, index
// {{fieldIndex(FIELD.GUEST_RIP)}}. A 32-bit hypervisor reaches a 64-bit field in two halves, the upper half of `TSC_OFFSET` as
// {{hex(FIELD.TSC_OFFSET | HIGH_HALF)}}; a nested hypervisor's VMWRITE can be checked against "is this a read-only field?" without a table; and
// `MISC.VMWRITE_ANY` can
// abolish that check later without new numbers. Our processor knows {{Object.keys(FIELD).length}} fields by name, in Linux's spelling, and implements
// {{SUPPORTED_FIELDS.length}} of them; the other {{Object.keys(ABSENT).length}} belong to features that it does not have, and answer like an encoding
// that does not exist.

import { assert, PAGE_BYTES, type PhysicalMemory } from '../physical-memory.ts';

/** Every field of Linux's asm/vmx.h and of the SDM's appendix "Field Encoding in VMCS", by its full-access encoding. */
// biome-ignore format: table
export const FIELD = {
  // 16-bit, control
  VIRTUAL_PROCESSOR_ID: 0x0000, POSTED_INTR_NV: 0x0002, EPTP_IDX: 0x0004, LAST_PID_POINTER_INDEX: 0x0008,
  // 16-bit, guest state
  GUEST_ES_SELECTOR: 0x0800, GUEST_CS_SELECTOR: 0x0802, GUEST_SS_SELECTOR: 0x0804, GUEST_DS_SELECTOR: 0x0806, GUEST_FS_SELECTOR: 0x0808,
  GUEST_GS_SELECTOR: 0x080a, GUEST_LDTR_SELECTOR: 0x080c, GUEST_TR_SELECTOR: 0x080e, GUEST_INTR_STATUS: 0x0810, GUEST_PML_INDEX: 0x0812,
  // 16-bit, host state
  HOST_ES_SELECTOR: 0x0c00, HOST_CS_SELECTOR: 0x0c02, HOST_SS_SELECTOR: 0x0c04, HOST_DS_SELECTOR: 0x0c06, HOST_FS_SELECTOR: 0x0c08,
  HOST_GS_SELECTOR: 0x0c0a, HOST_TR_SELECTOR: 0x0c0c,
  // 64-bit, control
  IO_BITMAP_A: 0x2000, IO_BITMAP_B: 0x2002, MSR_BITMAP: 0x2004, VM_EXIT_MSR_STORE_ADDR: 0x2006, VM_EXIT_MSR_LOAD_ADDR: 0x2008,
  VM_ENTRY_MSR_LOAD_ADDR: 0x200a, VMCS_EXEC_PTR: 0x200c, PML_ADDRESS: 0x200e, TSC_OFFSET: 0x2010, VIRTUAL_APIC_PAGE_ADDR: 0x2012,
  APIC_ACCESS_ADDR: 0x2014, POSTED_INTR_DESC_ADDR: 0x2016, VM_FUNCTION_CONTROL: 0x2018, EPT_POINTER: 0x201a, EOI_EXIT_BITMAP0: 0x201c,
  EOI_EXIT_BITMAP1: 0x201e, EOI_EXIT_BITMAP2: 0x2020, EOI_EXIT_BITMAP3: 0x2022, EPTP_LIST_ADDRESS: 0x2024, VMREAD_BITMAP: 0x2026,
  VMWRITE_BITMAP: 0x2028, VE_INFORMATION_ADDRESS: 0x202a, XSS_EXIT_BITMAP: 0x202c, ENCLS_EXITING_BITMAP: 0x202e, TSC_MULTIPLIER: 0x2032,
  TERTIARY_VM_EXEC_CONTROL: 0x2034, SHARED_EPT_POINTER: 0x203c, PID_POINTER_TABLE: 0x2042,
  // 64-bit, read-only (exit info)
  GUEST_PHYSICAL_ADDRESS: 0x2400,
  // 64-bit, guest state
  VMCS_LINK_POINTER: 0x2800, GUEST_IA32_DEBUGCTL: 0x2802, GUEST_IA32_PAT: 0x2804, GUEST_IA32_EFER: 0x2806, GUEST_IA32_PERF_GLOBAL_CTRL: 0x2808,
  GUEST_PDPTR0: 0x280a, GUEST_PDPTR1: 0x280c, GUEST_PDPTR2: 0x280e, GUEST_PDPTR3: 0x2810, GUEST_BNDCFGS: 0x2812, GUEST_IA32_RTIT_CTL: 0x2814,
  // 64-bit, host state
  HOST_IA32_PAT: 0x2c00, HOST_IA32_EFER: 0x2c02, HOST_IA32_PERF_GLOBAL_CTRL: 0x2c04,
  // 32-bit, control
  PIN_BASED_VM_EXEC_CONTROL: 0x4000, CPU_BASED_VM_EXEC_CONTROL: 0x4002, EXCEPTION_BITMAP: 0x4004, PAGE_FAULT_ERROR_CODE_MASK: 0x4006,
  PAGE_FAULT_ERROR_CODE_MATCH: 0x4008, CR3_TARGET_COUNT: 0x400a, VM_EXIT_CONTROLS: 0x400c, VM_EXIT_MSR_STORE_COUNT: 0x400e,
  VM_EXIT_MSR_LOAD_COUNT: 0x4010, VM_ENTRY_CONTROLS: 0x4012, VM_ENTRY_MSR_LOAD_COUNT: 0x4014, VM_ENTRY_INTR_INFO_FIELD: 0x4016,
  VM_ENTRY_EXCEPTION_ERROR_CODE: 0x4018, VM_ENTRY_INSTRUCTION_LEN: 0x401a, TPR_THRESHOLD: 0x401c, SECONDARY_VM_EXEC_CONTROL: 0x401e, PLE_GAP: 0x4020,
  PLE_WINDOW: 0x4022, NOTIFY_WINDOW: 0x4024,
  // 32-bit, read-only (exit info)
  VM_INSTRUCTION_ERROR: 0x4400, VM_EXIT_REASON: 0x4402, VM_EXIT_INTR_INFO: 0x4404, VM_EXIT_INTR_ERROR_CODE: 0x4406, IDT_VECTORING_INFO_FIELD: 0x4408,
  IDT_VECTORING_ERROR_CODE: 0x440a, VM_EXIT_INSTRUCTION_LEN: 0x440c, VMX_INSTRUCTION_INFO: 0x440e,
  // 32-bit, guest state
  GUEST_ES_LIMIT: 0x4800, GUEST_CS_LIMIT: 0x4802, GUEST_SS_LIMIT: 0x4804, GUEST_DS_LIMIT: 0x4806, GUEST_FS_LIMIT: 0x4808, GUEST_GS_LIMIT: 0x480a,
  GUEST_LDTR_LIMIT: 0x480c, GUEST_TR_LIMIT: 0x480e, GUEST_GDTR_LIMIT: 0x4810, GUEST_IDTR_LIMIT: 0x4812, GUEST_ES_AR_BYTES: 0x4814,
  GUEST_CS_AR_BYTES: 0x4816, GUEST_SS_AR_BYTES: 0x4818, GUEST_DS_AR_BYTES: 0x481a, GUEST_FS_AR_BYTES: 0x481c, GUEST_GS_AR_BYTES: 0x481e,
  GUEST_LDTR_AR_BYTES: 0x4820, GUEST_TR_AR_BYTES: 0x4822, GUEST_INTERRUPTIBILITY_INFO: 0x4824, GUEST_ACTIVITY_STATE: 0x4826, GUEST_SMBASE: 0x4828,
  GUEST_SYSENTER_CS: 0x482a, VMX_PREEMPTION_TIMER_VALUE: 0x482e,
  // 32-bit, host state
  HOST_IA32_SYSENTER_CS: 0x4c00,
  // natural, control
  CR0_GUEST_HOST_MASK: 0x6000, CR4_GUEST_HOST_MASK: 0x6002, CR0_READ_SHADOW: 0x6004, CR4_READ_SHADOW: 0x6006, CR3_TARGET_VALUE0: 0x6008,
  CR3_TARGET_VALUE1: 0x600a, CR3_TARGET_VALUE2: 0x600c, CR3_TARGET_VALUE3: 0x600e,
  // natural, read-only (exit info)
  EXIT_QUALIFICATION: 0x6400, IO_RCX: 0x6402, IO_RSI: 0x6404, IO_RDI: 0x6406, IO_RIP: 0x6408, GUEST_LINEAR_ADDRESS: 0x640a,
  // natural, guest state
  GUEST_CR0: 0x6800, GUEST_CR3: 0x6802, GUEST_CR4: 0x6804, GUEST_ES_BASE: 0x6806, GUEST_CS_BASE: 0x6808, GUEST_SS_BASE: 0x680a,
  GUEST_DS_BASE: 0x680c, GUEST_FS_BASE: 0x680e, GUEST_GS_BASE: 0x6810, GUEST_LDTR_BASE: 0x6812, GUEST_TR_BASE: 0x6814, GUEST_GDTR_BASE: 0x6816,
  GUEST_IDTR_BASE: 0x6818, GUEST_DR7: 0x681a, GUEST_RSP: 0x681c, GUEST_RIP: 0x681e, GUEST_RFLAGS: 0x6820, GUEST_PENDING_DBG_EXCEPTIONS: 0x6822,
  GUEST_SYSENTER_ESP: 0x6824, GUEST_SYSENTER_EIP: 0x6826, GUEST_S_CET: 0x6828, GUEST_SSP: 0x682a, GUEST_INTR_SSP_TABLE: 0x682c,
  // natural, host state
  HOST_CR0: 0x6c00, HOST_CR3: 0x6c02, HOST_CR4: 0x6c04, HOST_FS_BASE: 0x6c06, HOST_GS_BASE: 0x6c08, HOST_TR_BASE: 0x6c0a, HOST_GDTR_BASE: 0x6c0c,
  HOST_IDTR_BASE: 0x6c0e, HOST_IA32_SYSENTER_ESP: 0x6c10, HOST_IA32_SYSENTER_EIP: 0x6c12, HOST_RSP: 0x6c14, HOST_RIP: 0x6c16, HOST_S_CET: 0x6c18,
  HOST_SSP: 0x6c1a, HOST_INTR_SSP_TABLE: 0x6c1c,

} as const;

export type FieldName = keyof typeof FIELD;
type FieldWidth = 16 | 32 | 64 | 'natural';
type FieldType = 'control' | 'read-only' | 'guest' | 'host';

const WIDTHS: readonly FieldWidth[] = [16, 64, 32, 'natural'];
const TYPES: readonly FieldType[] = ['control', 'read-only', 'guest', 'host'];

/** Bit 0 of an encoding: the upper 32 bits of a 64-bit field. */
export const HIGH_HALF = 1;

/** What an encoding says about its field (Intel SDM vol. 3, "VMCS Data", structure of field encodings). */
export const fieldWidth = (encoding: number): FieldWidth => WIDTHS[(encoding >> 13) & 3] as FieldWidth;
export const fieldType = (encoding: number): FieldType => TYPES[(encoding >> 10) & 3] as FieldType;
export const fieldIndex = (encoding: number): number => (encoding >> 1) & 0x1ff;

// Optional features bring optional fields. A processor without the feature has no such field, and software that probes for it is told so. This
// is how a hypervisor finds out by trying, and why a VMCS from one machine cannot simply be loaded on another.

/** Fields that exist only together with a feature which this processor lacks, and that feature's control. */
// biome-ignore format: table
export const ABSENT: Readonly<Partial<Record<FieldName, string>>> = {
  POSTED_INTR_NV: 'process posted interrupts', POSTED_INTR_DESC_ADDR: 'process posted interrupts',
  LAST_PID_POINTER_INDEX: 'IPI virtualization', PID_POINTER_TABLE: 'IPI virtualization', TERTIARY_VM_EXEC_CONTROL: 'activate tertiary controls',
  EPTP_IDX: 'EPT-violation #VE', VE_INFORMATION_ADDRESS: 'EPT-violation #VE',
  GUEST_INTR_STATUS: 'virtual-interrupt delivery', EOI_EXIT_BITMAP0: 'virtual-interrupt delivery', EOI_EXIT_BITMAP1: 'virtual-interrupt delivery',
  EOI_EXIT_BITMAP2: 'virtual-interrupt delivery', EOI_EXIT_BITMAP3: 'virtual-interrupt delivery',
  APIC_ACCESS_ADDR: 'virtualize APIC accesses', GUEST_PML_INDEX: 'enable PML', PML_ADDRESS: 'enable PML',
  VM_FUNCTION_CONTROL: 'enable VM functions', EPTP_LIST_ADDRESS: 'EPTP switching',
  VMREAD_BITMAP: 'VMCS shadowing', VMWRITE_BITMAP: 'VMCS shadowing', XSS_EXIT_BITMAP: 'enable XSAVES/XRSTORS',
  ENCLS_EXITING_BITMAP: 'enable ENCLS exiting', TSC_MULTIPLIER: 'use TSC scaling', SHARED_EPT_POINTER: 'trust domain extensions',
  GUEST_IA32_PERF_GLOBAL_CTRL: 'load IA32_PERF_GLOBAL_CTRL', HOST_IA32_PERF_GLOBAL_CTRL: 'load IA32_PERF_GLOBAL_CTRL',
  GUEST_BNDCFGS: 'load IA32_BNDCFGS', GUEST_IA32_RTIT_CTL: 'load IA32_RTIT_CTL',
  PLE_GAP: 'PAUSE-loop exiting', PLE_WINDOW: 'PAUSE-loop exiting', NOTIFY_WINDOW: 'notify VM exiting',
  GUEST_S_CET: 'load CET state', GUEST_SSP: 'load CET state', GUEST_INTR_SSP_TABLE: 'load CET state',
  HOST_S_CET: 'load CET state', HOST_SSP: 'load CET state', HOST_INTR_SSP_TABLE: 'load CET state',
  VMX_PREEMPTION_TIMER_VALUE: 'activate VMX-preemption timer',
};

// ## The region
//
// Ours is one 4 KiB page of modelled RAM, as a real one is. Its first two words are architectural: the revision identifier, which the
// processor compares so that it never trusts a page formatted by another, and the abort indicator, where a VM exit that cannot complete leaves its
// reason. Then comes what the processor alone knows: the launch state, and one 8-byte cell for each field, in the order of the table above.

/** VMCS revision identifier of this processor: reported by IA32_VMX_BASIC, expected in the first word of every VMXON and VMCS region. */
export const REVISION_ID = 0x52_42_30_31;
/** Byte offsets of what is in a VMCS region besides fields. 32-bit each. */
export const REGION = { REVISION_ID: 0, ABORT_INDICATOR: 4, LAUNCH_STATE: 8, FIELDS: 64 } as const;
export const REGION_BYTES = PAGE_BYTES;
/** Values of the launch-state word. */
export const LAUNCH_STATE = { CLEAR: 0, LAUNCHED: 1 } as const;

const CELL_BYTES = 8;
const names = Object.keys(FIELD) as FieldName[];
/** The fields that VMREAD and VMWRITE know. */
export const SUPPORTED_FIELDS: readonly FieldName[] = names.filter((name) => !(name in ABSENT));

/** Byte offset in the region of each field, whether supported or not. Always a multiple of 8. */
export const AT = Object.fromEntries(names.map((name, index) => [name, REGION.FIELDS + index * CELL_BYTES])) as { readonly [K in FieldName]: number };
assert(REGION.FIELDS + names.length * CELL_BYTES <= REGION_BYTES, 'the fields do not fit a VMCS region');

// VMREAD and VMWRITE are the hottest instructions of a hypervisor, several for each exit. They find their field by one table lookup.

const ENCODINGS = 0x8000;
const cellOfEncoding = new Int16Array(ENCODINGS).fill(-1);
for (const name of SUPPORTED_FIELDS) {
  cellOfEncoding[FIELD[name]] = AT[name];
  if (fieldWidth(FIELD[name]) === 64) cellOfEncoding[FIELD[name] | HIGH_HALF] = AT[name] + 4;
}

/** Byte offset in the region of the cell (or upper half of a cell) that `encoding` names; -1 when there is no such field. */
export const cellOf = (encoding: number): number => (encoding >= 0 && encoding < ENCODINGS ? (cellOfEncoding[encoding] as number) : -1);

const nameOfCell = new Map(names.map((name) => [AT[name], name]));
/** The name of the field behind an encoding, with `_HIGH` for an upper half: for messages, traces and the site. */
export function fieldName(encoding: number): string {
  const at = cellOf(encoding);
  if (at < 0) return `0x${encoding.toString(16)}`;
  return (nameOfCell.get(at & ~7) as string) + (at & 4 ? '_HIGH' : '');
}

/** How many bytes VMREAD and VMWRITE move for an encoding: 2, 4 or 8. A natural-width field is 8 on a processor with 64-bit mode. */
export function fieldBytes(encoding: number): 2 | 4 | 8 {
  if (encoding & HIGH_HALF) return 4;
  const width = fieldWidth(encoding);
  return width === 16 ? 2 : width === 32 ? 4 : 8;
}

/** A VMCS region in RAM, as the processor's own circuits see it: by cell, without encodings and without permission. */
export class Vmcs {
  /** Host physical address of the region, or -1 when there is no current VMCS. */
  address = -1;
  readonly #memory: PhysicalMemory;
  readonly #u32: Uint32Array;
  readonly #u64: BigUint64Array;
  #base = 0; // offset of the region in the buffer, in bytes

  constructor(memory: PhysicalMemory) {
    this.#memory = memory;
    this.#u32 = new Uint32Array(memory.buffer);
    this.#u64 = new BigUint64Array(memory.buffer);
  }

  /** Looks at another region. `address` must be a page of RAM, or -1 for none. */
  point(address: number): void {
    assert(address === -1 || address % PAGE_BYTES === 0, 'a VMCS region is a page');
    this.#base = address === -1 ? 0 : this.#memory.offset(address, REGION_BYTES);
    this.address = address;
  }

  get current(): boolean {
    return this.address !== -1;
  }
  /** Index of the region's first word in a 32-bit view of the whole buffer: for block copies. */
  get word(): number {
    return this.#base >>> 2;
  }
  get words(): Uint32Array {
    return this.#u32;
  }

  read32(at: number): number {
    return this.#u32[(this.#base + at) >>> 2] as number;
  }
  write32(at: number, value: number): void {
    this.#u32[(this.#base + at) >>> 2] = value;
  }
  read64(at: number): bigint {
    return this.#u64[(this.#base + at) >>> 3] as bigint;
  }
  write64(at: number, value: bigint): void {
    this.#u64[(this.#base + at) >>> 3] = value;
  }
  /** Upper half of a 64-bit cell. */
  high32(at: number): number {
    return this.#u32[(this.#base + at + 4) >>> 2] as number;
  }
  /** A 64-bit cell as a number: exact below 2^53, and above it still large, so that range checks hold. */
  readNumber(at: number): number {
    return this.read32(at) + this.high32(at) * 2 ** 32;
  }
  writeNumber(at: number, value: number): void {
    this.write32(at, value % 2 ** 32);
    this.write32(at + 4, Math.floor(value / 2 ** 32));
  }
}
