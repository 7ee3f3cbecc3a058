// tidy: table
import { describe, expect, it } from 'vitest';
import { readFlags, writeFlags } from '../engine/flags.ts';
import { Fault, VECTOR, VmExit } from '../faults.ts';
import type { Intercepts } from '../intercepts.ts';
import type { Instruction } from '../isa/instruction.ts';
import type { SystemOp } from '../isa/system-ops.ts';
import { PhysicalMemory } from '../physical-memory.ts';
import { AR, CpuState, CR0, CR4, EFER, FLAG, OFFSET, SEG, SLOT } from '../state.ts';
import { CR4_BITS } from '../system/control.ts';
import { Recorder } from '../trace.ts';
import { ENTRY_CHECKS } from './checks.ts';
import { adjust, CAPABILITY, CPU_BASED, cr4Fixed1, ENTRY, EXIT, PIN, readVmxMsr, SECONDARY, VMX_MSR } from './controls.ts';
import { EXIT_REASON, exitReasonName, INTR_INFO, VM_INSTRUCTION_ERROR } from './exit-reasons.ts';
import { MsrEntry } from './msr-areas.ts';
import { type DeliveredEvent, EVENT_TYPE, type VmxProcessor } from './processor.ts';
import { cellOf, FIELD, type FieldName, REGION, REVISION_ID } from './vmcs.ts';
import { VmxUnit } from './vmx.ts';

// A processor with a register file and memory, but no decoder, MMU or devices: linear addresses are physical ones.
class BareProcessor implements VmxProcessor {
  readonly memory = new PhysicalMemory({ ramBytes: 1 << 20, privateBytes: 1 << 16 });
  readonly state = new CpuState(this.memory);
  readonly trace = new Recorder();
  intercepts: Intercepts | null = null;
  readonly pdptes = new BigUint64Array(4);
  readonly physicalAddressBits = 39;
  readonly linearAddressBits = 48;
  delivering: DeliveredEvent | null = null;
  readonly msrs = new Map<number, bigint>();
  flushes = 0;
  vector = 0x20;
  readonly mem = {
    read32: (at: bigint) => this.memory.view.getUint32(this.memory.offset(Number(at), 4), true),
    read64: (at: bigint) => this.memory.view.getBigUint64(this.memory.offset(Number(at), 8), true),
    write32: (at: bigint, value: number) => this.memory.view.setUint32(this.memory.offset(Number(at), 4), value, true),
    write64: (at: bigint, value: bigint) => this.memory.view.setBigUint64(this.memory.offset(Number(at), 8), value, true),
  };
  operandAddress(insn: Instruction): bigint {
    return insn.disp;
  }
  debugChanged(): void {}
  eventsChanged(): void {}
  flushTranslations(): void {
    this.flushes++;
  }
  readMsr(index: number): bigint {
    const value = this.msrs.get(index);
    if (value === undefined) throw new Fault(VECTOR.GP, 0);
    return value;
  }
  writeMsr(index: number, value: bigint): void {
    if (!this.msrs.has(index)) throw new Fault(VECTOR.GP, 0);
    this.msrs.set(index, value);
  }
  acknowledgeInterrupt(): number {
    return this.vector;
  }
}

const VMXON_REGION = 0x1000;
const VMCS_REGION = 0x2000;
const OTHER_VMCS = 0x3000;
const IO_BITMAP_A = 0x4000;
const IO_BITMAP_B = 0x5000;
const MSR_BITMAP = 0x6000;
const VAPIC = 0x7000;
const MSR_AREA = 0x8000;
const EPT_ROOT = 0x9000;
const HOST_RIP = 0xffff_8000_0000_1000n;

const { mask: C } = CPU_BASED;
const { mask: S } = SECONDARY;
const ALL_ONES = 0xffff_ffff_ffff_ffffn;

/** A bare processor in 64-bit root operation with a VMCS that passes every check: a 64-bit guest at CPL 0 under EPT. */
class Bench {
  readonly cpu = new BareProcessor();
  readonly vmx = new VmxUnit(this.cpu);

  constructor() {
    const { state, memory } = this.cpu;
    state.set64(OFFSET.CR0, 0x8000_0031n);
    state.set64(OFFSET.CR4, BigInt(CR4.PAE | CR4.VMXE));
    state.set64(OFFSET.EFER, BigInt(EFER.LME | EFER.LMA));
    state.setSegRights(SEG.CS, 0xa09b);
    state.setSegRights(SEG.SS, 0xc093);
    writeFlags(state, 2);
    for (const page of [VMXON_REGION, VMCS_REGION, OTHER_VMCS]) memory.view.setUint32(memory.offset(page), REVISION_ID, true);
    expect(this.vmx.vmxon(VMXON_REGION)).toBe('succeed');
    this.prepare(VMCS_REGION);
  }

  prepare(address: number): void {
    expect(this.vmx.vmclear(address)).toBe('succeed');
    expect(this.vmx.vmptrld(address)).toBe('succeed');
    this.write({
      PIN_BASED_VM_EXEC_CONTROL: adjust(0, CAPABILITY.pin),
      CPU_BASED_VM_EXEC_CONTROL: adjust(C.ACTIVATE_SECONDARY_CONTROLS | C.USE_IO_BITMAPS | C.USE_MSR_BITMAPS, CAPABILITY.cpuBased),
      SECONDARY_VM_EXEC_CONTROL: S.ENABLE_EPT,
      VM_EXIT_CONTROLS: adjust(EXIT.mask.HOST_ADDR_SPACE_SIZE | EXIT.mask.SAVE_DEBUG_CONTROLS, CAPABILITY.exit),
      VM_ENTRY_CONTROLS: adjust(ENTRY.mask.IA32E_MODE | ENTRY.mask.LOAD_DEBUG_CONTROLS, CAPABILITY.entry),
      IO_BITMAP_A,
      IO_BITMAP_B,
      MSR_BITMAP,
      EPT_POINTER: EPT_ROOT | 0x1e,
      VMCS_LINK_POINTER: ALL_ONES,
      HOST_CR0: 0x8000_0031,
      HOST_CR4: CR4.PAE | CR4.VMXE,
      HOST_CR3: 0xa000,
      HOST_RIP,
      HOST_RSP: 0xffff_8000_0000_8000n,
      HOST_CS_SELECTOR: 8,
      HOST_SS_SELECTOR: 0x10,
      HOST_DS_SELECTOR: 0x10,
      HOST_ES_SELECTOR: 0x10,
      HOST_TR_SELECTOR: 0x40,
      GUEST_CR0: 0x8000_0031,
      GUEST_CR4: CR4.PAE | CR4.VMXE,
      GUEST_CR3: 0xb000,
      GUEST_DR7: 0x400,
      GUEST_RIP: 0x10_0000,
      GUEST_RSP: 0x20_0000,
      GUEST_RFLAGS: 2,
      GUEST_CS_SELECTOR: 8,
      GUEST_CS_AR_BYTES: 0xa09b,
      GUEST_CS_LIMIT: 0xffff_ffff,
      GUEST_TR_SELECTOR: 0x18,
      GUEST_TR_AR_BYTES: 0x8b,
      GUEST_TR_LIMIT: 0x67,
      GUEST_LDTR_AR_BYTES: AR.UNUSABLE,
    });
    for (const name of ['SS', 'DS', 'ES', 'FS', 'GS']) {
      this.write({ [`GUEST_${name}_SELECTOR`]: 0x10, [`GUEST_${name}_AR_BYTES`]: 0xc093, [`GUEST_${name}_LIMIT`]: 0xffff_ffff });
    }
  }

  write(fields: Partial<Record<FieldName, number | bigint>> & Record<string, number | bigint>): void {
    for (const [name, value] of Object.entries(fields)) this.vmx.vmwrite(FIELD[name as FieldName], BigInt(value));
  }
  read(name: FieldName): bigint {
    return this.vmx.vmread(FIELD[name]);
  }
  /** Sets (or clears) bits of a 32-bit field. */
  set(name: FieldName, bits: number): void {
    this.write({ [name]: BigInt(Number(this.read(name)) | bits) & 0xffff_ffffn });
  }
  clear(name: FieldName, bits: number): void {
    this.write({ [name]: this.read(name) & 0xffff_ffffn & ~BigInt(bits >>> 0) });
  }
  unrestricted(): void {
    this.set('SECONDARY_VM_EXEC_CONTROL', S.UNRESTRICTED_GUEST);
  }
  /** A virtual-8086 guest that passes every check. */
  v86(): void {
    this.notLong();
    this.write({ GUEST_RFLAGS: FLAG.VM | 2, GUEST_RIP: 0x100 });
    for (const name of ['CS', 'SS', 'DS', 'ES', 'FS', 'GS'])
      this.write({
        [`GUEST_${name}_SELECTOR`]: 0x100,
        [`GUEST_${name}_BASE`]: 0x1000,
        [`GUEST_${name}_AR_BYTES`]: 0xf3,
        [`GUEST_${name}_LIMIT`]: 0xffff,
      });
  }
  /** A 32-bit guest with two-level paging. */
  notLong(): void {
    this.clear('VM_ENTRY_CONTROLS', ENTRY.mask.IA32E_MODE);
    this.write({ GUEST_CR4: CR4.VMXE, GUEST_CS_AR_BYTES: 0xc09b });
  }
  inject(info: number, length = 0, errorCode = 0): void {
    this.write({ VM_ENTRY_INTR_INFO_FIELD: (0x8000_0000 | info) >>> 0, VM_ENTRY_INSTRUCTION_LEN: length, VM_ENTRY_EXCEPTION_ERROR_CODE: errorCode });
  }
  failedClauses(): string[] {
    return this.cpu.trace
      .of('vmx')
      .filter((event) => event.what === 'entry_failed')
      .map((event) => event.detail ?? '');
  }
}

const event = (type: number, vector: number): number => (type << 8) | vector;
const DF_BIT = INTR_INFO.mask.DELIVER_CODE;

// For each check, a change to a good VMCS that violates it and nothing that is checked before it.
const VIOLATIONS: Record<string, (b: Bench) => void> = {
  'vmx.entry.ctl-pin-reserved': (b) => b.set('PIN_BASED_VM_EXEC_CONTROL', PIN.mask.POSTED_INTR),
  'vmx.entry.ctl-cpu-reserved': (b) => b.clear('CPU_BASED_VM_EXEC_CONTROL', 2),
  'vmx.entry.ctl-secondary-reserved': (b) => b.set('SECONDARY_VM_EXEC_CONTROL', S.ENABLE_PML),
  'vmx.entry.ctl-cr3-target-count': (b) => b.write({ CR3_TARGET_COUNT: 5 }),
  'vmx.entry.ctl-io-bitmaps': (b) => b.write({ IO_BITMAP_B: IO_BITMAP_B + 8 }),
  'vmx.entry.ctl-msr-bitmap': (b) => b.write({ MSR_BITMAP: 1n << 39n }),
  'vmx.entry.ctl-virtual-apic-page': (b) => {
    b.set('CPU_BASED_VM_EXEC_CONTROL', C.TPR_SHADOW);
    b.write({ VIRTUAL_APIC_PAGE_ADDR: VAPIC + 1 });
  },
  'vmx.entry.ctl-tpr-threshold': (b) => {
    b.set('CPU_BASED_VM_EXEC_CONTROL', C.TPR_SHADOW);
    b.write({ VIRTUAL_APIC_PAGE_ADDR: VAPIC, TPR_THRESHOLD: 4 });
    b.cpu.memory.slice(VAPIC, 4096)[0x80] = 0x30;
  },
  'vmx.entry.ctl-virtual-nmis': (b) => b.set('PIN_BASED_VM_EXEC_CONTROL', PIN.mask.VIRTUAL_NMIS),
  'vmx.entry.ctl-nmi-window': (b) => b.set('CPU_BASED_VM_EXEC_CONTROL', C.NMI_WINDOW_EXITING),
  'vmx.entry.ctl-vpid-zero': (b) => b.set('SECONDARY_VM_EXEC_CONTROL', S.ENABLE_VPID),
  'vmx.entry.ctl-eptp': (b) => b.write({ EPT_POINTER: EPT_ROOT | 0x26 }),
  'vmx.entry.ctl-unrestricted-needs-ept': (b) => b.write({ SECONDARY_VM_EXEC_CONTROL: S.UNRESTRICTED_GUEST }),
  'vmx.entry.ctl-exit-reserved': (b) => b.set('VM_EXIT_CONTROLS', EXIT.mask.CLEAR_BNDCFGS),
  'vmx.entry.ctl-exit-msr-store': (b) => b.write({ VM_EXIT_MSR_STORE_COUNT: 1, VM_EXIT_MSR_STORE_ADDR: MSR_AREA + 8 }),
  'vmx.entry.ctl-exit-msr-load': (b) => b.write({ VM_EXIT_MSR_LOAD_COUNT: 1, VM_EXIT_MSR_LOAD_ADDR: (1n << 39n) - 8n }),
  'vmx.entry.ctl-entry-reserved': (b) => b.clear('VM_ENTRY_CONTROLS', 1),
  'vmx.entry.ctl-entry-msr-load': (b) => b.write({ VM_ENTRY_MSR_LOAD_COUNT: 1000 }),
  'vmx.entry.inj-type': (b) => b.inject(event(EVENT_TYPE.RESERVED, 3)),
  'vmx.entry.inj-vector': (b) => b.inject(event(EVENT_TYPE.NMI, 3)),
  'vmx.entry.inj-error-code': (b) => b.inject(event(EVENT_TYPE.HARDWARE_EXCEPTION, VECTOR.GP)),
  'vmx.entry.inj-reserved': (b) => b.inject(event(EVENT_TYPE.NMI, 2) | (1 << 20)),
  'vmx.entry.inj-error-code-width': (b) => b.inject(event(EVENT_TYPE.HARDWARE_EXCEPTION, VECTOR.PF) | DF_BIT, 0, 0x1_0000),
  'vmx.entry.inj-instruction-length': (b) => b.inject(event(EVENT_TYPE.SOFTWARE_INTERRUPT, 0x80), 16),
  'vmx.entry.host-cr0': (b) => b.write({ HOST_CR0: 0x31 }),
  'vmx.entry.host-cr4': (b) => b.write({ HOST_CR4: CR4.PAE }),
  'vmx.entry.host-cr3': (b) => b.write({ HOST_CR3: 1n << 40n }),
  'vmx.entry.host-sysenter': (b) => b.write({ HOST_IA32_SYSENTER_EIP: 0x8000_0000_0000n }),
  'vmx.entry.host-pat': (b) => {
    b.set('VM_EXIT_CONTROLS', EXIT.mask.LOAD_IA32_PAT);
    b.write({ HOST_IA32_PAT: 0x0007_0406_0007_0402n });
  },
  'vmx.entry.host-efer': (b) => {
    b.set('VM_EXIT_CONTROLS', EXIT.mask.LOAD_IA32_EFER);
    b.write({ HOST_IA32_EFER: EFER.LME });
  },
  'vmx.entry.host-selectors': (b) => b.write({ HOST_GS_SELECTOR: 3 }),
  'vmx.entry.host-cs-null': (b) => b.write({ HOST_CS_SELECTOR: 0 }),
  'vmx.entry.host-tr-null': (b) => b.write({ HOST_TR_SELECTOR: 0 }),
  'vmx.entry.host-ss-null': (b) => {
    // A 32-bit hypervisor: its address-space control is clear, and so is EFER.LMA.
    b.cpu.state.set64(OFFSET.EFER, 0n);
    b.clear('VM_EXIT_CONTROLS', EXIT.mask.HOST_ADDR_SPACE_SIZE);
    b.notLong();
    b.write({ HOST_SS_SELECTOR: 0, HOST_RIP: 0x1000 });
  },
  'vmx.entry.host-bases': (b) => b.write({ HOST_TR_BASE: 1n << 63n }),
  'vmx.entry.host-address-space': (b) => b.clear('VM_EXIT_CONTROLS', EXIT.mask.HOST_ADDR_SPACE_SIZE),
  'vmx.entry.host-32bit': (b) => {
    b.cpu.state.set64(OFFSET.EFER, 0n);
    b.clear('VM_EXIT_CONTROLS', EXIT.mask.HOST_ADDR_SPACE_SIZE);
    b.notLong();
  },
  'vmx.entry.host-64bit': (b) => b.write({ HOST_RIP: 0x8000_0000_0000n }),
  'vmx.entry.guest-cr0': (b) => b.clear('GUEST_CR0', CR0.NE),
  'vmx.entry.guest-paging-without-protection': (b) => {
    b.unrestricted();
    b.clear('GUEST_CR0', CR0.PE);
  },
  'vmx.entry.guest-cr4': (b) => b.set('GUEST_CR4', CR4.LA57),
  'vmx.entry.guest-pcide': (b) => {
    b.notLong();
    b.set('GUEST_CR4', CR4.PCIDE);
  },
  'vmx.entry.guest-debugctl': (b) => b.write({ GUEST_IA32_DEBUGCTL: 0x40 }),
  'vmx.entry.guest-long-needs-pae-paging': (b) => b.clear('GUEST_CR4', CR4.PAE),
  'vmx.entry.guest-cr3': (b) => b.write({ GUEST_CR3: 1n << 39n }),
  'vmx.entry.guest-dr7': (b) => b.write({ GUEST_DR7: (1n << 32n) | 0x400n }),
  'vmx.entry.guest-sysenter': (b) => b.write({ GUEST_SYSENTER_ESP: 1n << 50n }),
  'vmx.entry.guest-pat': (b) => {
    b.set('VM_ENTRY_CONTROLS', ENTRY.mask.LOAD_IA32_PAT);
    b.write({ GUEST_IA32_PAT: 0x0300_0000_0000_0000n });
  },
  'vmx.entry.guest-efer': (b) => {
    b.set('VM_ENTRY_CONTROLS', ENTRY.mask.LOAD_IA32_EFER);
    b.write({ GUEST_IA32_EFER: EFER.LMA });
  },
  'vmx.entry.seg-tr-ti': (b) => b.write({ GUEST_TR_SELECTOR: 0x1c }),
  'vmx.entry.seg-ldtr-ti': (b) => b.write({ GUEST_LDTR_SELECTOR: 0x24, GUEST_LDTR_AR_BYTES: 0x82 }),
  'vmx.entry.seg-ss-rpl': (b) => b.write({ GUEST_SS_SELECTOR: 0x11 }),
  'vmx.entry.seg-v86-base': (b) => {
    b.v86();
    b.write({ GUEST_DS_BASE: 0x1001 });
  },
  'vmx.entry.seg-base-canonical': (b) => b.write({ GUEST_GS_BASE: 1n << 47n }),
  'vmx.entry.seg-base-32bit': (b) => b.write({ GUEST_DS_BASE: 1n << 32n }),
  'vmx.entry.seg-v86-limit': (b) => {
    b.v86();
    b.write({ GUEST_FS_LIMIT: 0xfffe });
  },
  'vmx.entry.seg-v86-rights': (b) => {
    b.v86();
    b.write({ GUEST_CS_AR_BYTES: 0x93 });
  },
  'vmx.entry.seg-cs-type': (b) => b.write({ GUEST_CS_AR_BYTES: 0xa09a }),
  'vmx.entry.seg-ss-type': (b) => b.write({ GUEST_SS_AR_BYTES: 0xc091 }),
  'vmx.entry.seg-data-type': (b) => b.write({ GUEST_ES_AR_BYTES: 0xc092 }),
  'vmx.entry.seg-not-system': (b) => b.write({ GUEST_DS_AR_BYTES: 0xc083 }),
  'vmx.entry.seg-cs-dpl': (b) => b.write({ GUEST_CS_AR_BYTES: 0xa0fb }),
  'vmx.entry.seg-ss-dpl': (b) => b.write({ GUEST_SS_SELECTOR: 0x13, GUEST_CS_SELECTOR: 0x0b }),
  'vmx.entry.seg-data-dpl': (b) => b.write({ GUEST_DS_SELECTOR: 0x13 }),
  'vmx.entry.seg-present': (b) => b.write({ GUEST_FS_AR_BYTES: 0xc013 }),
  'vmx.entry.seg-rights-reserved': (b) => b.write({ GUEST_GS_AR_BYTES: 0xc193 }),
  'vmx.entry.seg-cs-l-and-d': (b) => b.write({ GUEST_CS_AR_BYTES: 0xe09b }),
  'vmx.entry.seg-granularity': (b) => b.write({ GUEST_SS_LIMIT: 0xf_fffe }),
  'vmx.entry.seg-tr-type': (b) => b.write({ GUEST_TR_AR_BYTES: 0x83 }),
  'vmx.entry.seg-tr-rights': (b) => b.write({ GUEST_TR_AR_BYTES: 0x1_008b }),
  'vmx.entry.seg-ldtr-rights': (b) => b.write({ GUEST_LDTR_AR_BYTES: 0x83 }),
  'vmx.entry.table-base-canonical': (b) => b.write({ GUEST_IDTR_BASE: 1n << 48n }),
  'vmx.entry.table-limit': (b) => b.write({ GUEST_GDTR_LIMIT: 0x1_0000 }),
  'vmx.entry.link-pointer': (b) => b.write({ VMCS_LINK_POINTER: MSR_AREA }),
  'vmx.entry.pdpte': (b) => {
    b.notLong();
    b.set('GUEST_CR4', CR4.PAE);
    b.write({ GUEST_PDPTR2: 0x1003 });
  },
  'vmx.entry.guest-rip': (b) => b.write({ GUEST_RIP: 1n << 47n }),
  'vmx.entry.guest-rflags-reserved': (b) => b.write({ GUEST_RFLAGS: 0 }),
  'vmx.entry.guest-rflags-vm': (b) => {
    b.v86();
    b.unrestricted();
    b.clear('GUEST_CR0', CR0.PE | CR0.PG);
  },
  'vmx.entry.guest-rflags-if': (b) => b.inject(event(EVENT_TYPE.EXTERNAL, 0x20)),
  'vmx.entry.activity-state': (b) => b.write({ GUEST_ACTIVITY_STATE: 4 }),
  'vmx.entry.activity-hlt-dpl': (b) => {
    b.write({ GUEST_ACTIVITY_STATE: 1, GUEST_CS_SELECTOR: 0x0b, GUEST_CS_AR_BYTES: 0xa0fb, GUEST_SS_SELECTOR: 0x13, GUEST_SS_AR_BYTES: 0xc0f3 });
  },
  'vmx.entry.activity-blocking': (b) => b.write({ GUEST_ACTIVITY_STATE: 1, GUEST_INTERRUPTIBILITY_INFO: 2 }),
  'vmx.entry.activity-injection': (b) => {
    b.write({ GUEST_ACTIVITY_STATE: 1 });
    b.inject(event(EVENT_TYPE.HARDWARE_EXCEPTION, VECTOR.UD));
  },
  'vmx.entry.intr-reserved': (b) => b.write({ GUEST_INTERRUPTIBILITY_INFO: 0x10 }),
  'vmx.entry.intr-sti-and-mov-ss': (b) => b.write({ GUEST_INTERRUPTIBILITY_INFO: 3, GUEST_RFLAGS: FLAG.IF | 2 }),
  'vmx.entry.intr-sti-needs-if': (b) => b.write({ GUEST_INTERRUPTIBILITY_INFO: 1 }),
  'vmx.entry.intr-external-blocked': (b) => {
    b.write({ GUEST_INTERRUPTIBILITY_INFO: 1, GUEST_RFLAGS: FLAG.IF | 2 });
    b.inject(event(EVENT_TYPE.EXTERNAL, 0x20));
  },
  'vmx.entry.intr-nmi-mov-ss': (b) => {
    b.write({ GUEST_INTERRUPTIBILITY_INFO: 2 });
    b.inject(event(EVENT_TYPE.NMI, 2));
  },
  'vmx.entry.intr-nmi-sti': (b) => {
    b.write({ GUEST_INTERRUPTIBILITY_INFO: 1, GUEST_RFLAGS: FLAG.IF | 2 });
    b.inject(event(EVENT_TYPE.NMI, 2));
  },
  'vmx.entry.intr-smi': (b) => b.write({ GUEST_INTERRUPTIBILITY_INFO: 4 }),
  'vmx.entry.intr-nmi-blocked': (b) => {
    b.set('PIN_BASED_VM_EXEC_CONTROL', PIN.mask.NMI_EXITING | PIN.mask.VIRTUAL_NMIS);
    b.write({ GUEST_INTERRUPTIBILITY_INFO: 8 });
    b.inject(event(EVENT_TYPE.NMI, 2));
  },
  'vmx.entry.pending-debug-reserved': (b) => b.write({ GUEST_PENDING_DBG_EXCEPTIONS: 0x10 }),
  'vmx.entry.pending-debug-bs': (b) => b.write({ GUEST_INTERRUPTIBILITY_INFO: 1, GUEST_RFLAGS: FLAG.IF | FLAG.TF | 2 }),
};
const QUALIFICATIONS: Record<string, bigint> = { 'vmx.entry.pdpte': 2n, 'vmx.entry.intr-nmi-sti': 3n, 'vmx.entry.link-pointer': 4n };

describe('VM-entry checks', () => {
  it('accepts the VMCS from which the violations start, and its variants', () => {
    const variants: ((b: Bench) => void)[] = [
      () => {},
      (b) => b.v86(),
      (b) => b.notLong(),
      (b) => {
        b.notLong();
        b.set('GUEST_CR4', CR4.PAE);
        b.write({ GUEST_PDPTR2: 0x1001 });
      },
      (b) => {
        b.unrestricted();
        b.notLong();
        b.clear('GUEST_CR0', CR0.PE | CR0.PG);
        b.write({ GUEST_CS_AR_BYTES: 0x93, GUEST_CS_LIMIT: 0xffff, GUEST_CS_BASE: 0xffff_0000, GUEST_RIP: 0xfff0 });
      },
    ];
    for (const vary of variants) {
      const bench = new Bench();
      vary(bench);
      expect([bench.vmx.vmlaunch(), bench.failedClauses()]).toEqual(['entered', []]);
      expect(bench.read('VM_INSTRUCTION_ERROR')).toBe(0n);
    }
  });

  it('has a violation for every check, and the other way round', () => {
    expect(Object.keys(VIOLATIONS).sort()).toEqual(ENTRY_CHECKS.map((check) => check.clause).sort());
  });

  for (const { clause, error } of ENTRY_CHECKS) {
    it(`${clause}: ${error === 0 ? 'entry-failure exit' : `VMfailValid(${error})`}`, () => {
      const bench = new Bench();
      (VIOLATIONS[clause] as (b: Bench) => void)(bench);
      const outcome = bench.vmx.vmlaunch();
      expect(bench.failedClauses()).toEqual([clause]);
      expect(bench.vmx.nonRoot).toBe(false);
      if (error !== 0) {
        expect(outcome).toBe('failValid');
        expect(bench.read('VM_INSTRUCTION_ERROR')).toBe(BigInt(error));
        expect(bench.cpu.state.slot(SLOT.RIP)).not.toBe(HOST_RIP);
      } else {
        expect(outcome).toBe('exited');
        expect(bench.read('VM_EXIT_REASON')).toBe(BigInt(0x8000_0000 + EXIT_REASON.INVALID_STATE));
        expect(bench.read('EXIT_QUALIFICATION')).toBe(QUALIFICATIONS[clause] ?? 0n);
        expect(bench.cpu.state.slot(SLOT.RIP)).toBe(HOST_RIP);
      }
      // A failed launch leaves the launch state clear.
      expect(bench.vmx.vmresume()).toBe('failValid');
      expect(bench.read('VM_INSTRUCTION_ERROR')).toBe(BigInt(VM_INSTRUCTION_ERROR.VMRESUME_NONLAUNCHED_VMCS));
    });
  }

  it('repeats a check when a field that it reads was written since the last entry', () => {
    for (const { clause, error } of ENTRY_CHECKS) {
      if (clause === 'vmx.entry.host-ss-null' || clause === 'vmx.entry.host-32bit') continue; // these change the host's own mode
      const bench = new Bench();
      expect(bench.vmx.vmlaunch()).toBe('entered');
      expect(bench.vmx.exit(new VmExit(EXIT_REASON.CPUID, 0n, { instructionLength: 2 }))).toBe('typescript');
      (VIOLATIONS[clause] as (b: Bench) => void)(bench);
      expect([clause, bench.vmx.vmresume(), bench.failedClauses()]).toEqual([clause, error ? 'failValid' : 'exited', [clause]]);
    }
  });

  it('skips checks when nothing relevant was written, and a bad value written behind its back stays unseen', () => {
    const bench = new Bench();
    expect(bench.vmx.vmlaunch()).toBe('entered');
    bench.vmx.exit(new VmExit(EXIT_REASON.CPUID));
    const { memory } = bench.cpu;
    memory.view.setUint32(memory.offset(VMCS_REGION) + cellOf(FIELD.CR3_TARGET_COUNT), 5, true);
    bench.write({ GUEST_RIP: 0x10_0002 });
    expect(bench.vmx.vmresume()).toBe('entered');
  });
});

describe('VM entry and exit', () => {
  it('loads the guest and brings back the host', () => {
    const bench = new Bench();
    const { state } = bench.cpu;
    bench.write({
      GUEST_FS_BASE: 0x1234_5678_9abcn,
      GUEST_IDTR_BASE: 0xffff_8000_0000_0000n,
      GUEST_IDTR_LIMIT: 0xfff,
      GUEST_RFLAGS: FLAG.IF | FLAG.CF | 2,
    });
    expect(bench.vmx.vmlaunch()).toBe('entered');
    expect(bench.cpu.intercepts).toBe(bench.vmx.intercepts);
    expect(state.slot(SLOT.RIP)).toBe(0x10_0000n);
    expect(state.slot(SLOT.RSP)).toBe(0x20_0000n);
    expect(state.segBase(SEG.FS)).toBe(0x1234_5678_9abcn);
    expect(state.get64(OFFSET.IDTR_BASE)).toBe(0xffff_8000_0000_0000n);
    expect(state.get32(OFFSET.IDTR_LIMIT)).toBe(0xfff);
    expect(readFlags(state)).toBe(FLAG.IF | FLAG.CF | 2);
    expect(bench.vmx.intercepts.ept).toEqual({ root: EPT_ROOT, accessedDirty: false, executeOnly: true });

    state.setSlot(SLOT.RIP, 0x10_0004n);
    state.setSlot(SLOT.RSP, 0x1f_fff8n);
    state.set64(OFFSET.CR3, 0xc000n);
    bench.vmx.exit(new VmExit(EXIT_REASON.CPUID, 0n, { instructionLength: 2 }));
    expect(bench.read('VM_EXIT_REASON')).toBe(BigInt(EXIT_REASON.CPUID));
    expect(bench.read('VM_EXIT_INSTRUCTION_LEN')).toBe(2n);
    expect(bench.read('GUEST_RIP')).toBe(0x10_0004n);
    expect(bench.read('GUEST_RSP')).toBe(0x1f_fff8n);
    expect(bench.read('GUEST_CR3')).toBe(0xc000n);
    expect(bench.read('GUEST_FS_BASE')).toBe(0x1234_5678_9abcn);
    expect(bench.read('GUEST_RFLAGS')).toBe(BigInt(FLAG.IF | FLAG.CF | 2));
    expect(bench.cpu.intercepts).toBeNull();
    expect(state.slot(SLOT.RIP)).toBe(HOST_RIP);
    expect(state.slot(SLOT.NEXT_RIP)).toBe(HOST_RIP);
    expect(state.get64(OFFSET.CR3)).toBe(0xa000n);
    expect(readFlags(state)).toBe(2);
    expect(state.segRights(SEG.CS)).toBe(0xa09b);
    expect(state.segRights(SEG.FS)).toBe(AR.UNUSABLE);
    expect(state.segLimit(SEG.TR)).toBe(0x67);
    expect(bench.vmx.vmlaunch()).toBe('failValid');
    expect(bench.read('VM_INSTRUCTION_ERROR')).toBe(4n);
    expect(bench.vmx.vmresume()).toBe('entered');
  });

  it('saves the next RIP for trap-like exits, and RF for fault-like ones', () => {
    const run = (exit: VmExit, flags = 2): Bench => {
      const bench = new Bench();
      bench.vmx.vmlaunch();
      writeFlags(bench.cpu.state, flags);
      bench.cpu.state.setSlot(SLOT.NEXT_RIP, 0x10_0003n);
      bench.vmx.exit(exit);
      return bench;
    };
    const trap = run(new VmExit(EXIT_REASON.TPR_BELOW_THRESHOLD, 0n, { instructionLength: 3, afterInstruction: true }));
    expect(trap.read('GUEST_RIP')).toBe(0x10_0003n);
    expect(run(new VmExit(EXIT_REASON.EPT_VIOLATION, 1n)).read('GUEST_RFLAGS')).toBe(BigInt(FLAG.RF | 2));
    expect(run(new VmExit(EXIT_REASON.HLT, 0n, { instructionLength: 1 }), FLAG.RF | 2).read('GUEST_RFLAGS')).toBe(2n);
  });

  it('reports the interrupted event, unless the exit replaced it', () => {
    const run = (exit: VmExit): Bench => {
      const bench = new Bench();
      bench.vmx.vmlaunch();
      bench.cpu.delivering = { vector: 0x80, type: EVENT_TYPE.SOFTWARE_INTERRUPT, errorCode: null, instructionLength: 2 };
      bench.vmx.exit(exit);
      return bench;
    };
    const violation = run(new VmExit(EXIT_REASON.EPT_VIOLATION, 2n, { guestPhysicalAddress: 0x12_3000, guestLinearAddress: 0x4000n }));
    expect(violation.read('IDT_VECTORING_INFO_FIELD')).toBe(0x8000_0480n);
    expect(violation.read('VM_EXIT_INSTRUCTION_LEN')).toBe(2n);
    expect(violation.read('GUEST_PHYSICAL_ADDRESS')).toBe(0x12_3000n);
    expect(violation.read('GUEST_LINEAR_ADDRESS')).toBe(0x4000n);
    expect(violation.cpu.delivering).toBeNull();
    expect(run(new VmExit(EXIT_REASON.TRIPLE_FAULT)).read('IDT_VECTORING_INFO_FIELD')).toBe(0n);
  });

  it('injects once, and wakes a halted guest', () => {
    const bench = new Bench();
    bench.write({ GUEST_ACTIVITY_STATE: 1, GUEST_RFLAGS: FLAG.IF | 2 });
    bench.inject(event(EVENT_TYPE.EXTERNAL, 0x31));
    expect(bench.vmx.vmlaunch()).toBe('entered');
    expect(bench.cpu.state.get32(OFFSET.ACTIVITY)).toBe(0);
    expect(bench.vmx.takeInjection()).toEqual({ vector: 0x31, type: 0, errorCode: null, instructionLength: 0 });
    expect(bench.vmx.takeInjection()).toBeNull();
    bench.vmx.exit(new VmExit(EXIT_REASON.HLT, 0n, { instructionLength: 1 }));
    expect(bench.read('VM_ENTRY_INTR_INFO_FIELD')).toBe(0x31n);
    bench.vmx.vmresume();
    expect(bench.vmx.entryPending).toBe(false);
  });

  it('injects error codes, software interrupts, pending debug exceptions and monitor traps', () => {
    const bench = new Bench();
    bench.inject(event(EVENT_TYPE.HARDWARE_EXCEPTION, VECTOR.PF) | DF_BIT, 0, 7);
    bench.vmx.vmlaunch();
    expect(bench.vmx.takeInjection()).toMatchObject({ vector: 14, errorCode: 7, type: 3 });
    bench.vmx.exit(new VmExit(EXIT_REASON.CPUID));
    bench.inject(event(EVENT_TYPE.SOFTWARE_INTERRUPT, 0x80), 2);
    bench.vmx.vmresume();
    expect(bench.vmx.takeInjection()).toMatchObject({ vector: 0x80, type: 4, instructionLength: 2 });
    bench.vmx.exit(new VmExit(EXIT_REASON.CPUID));
    bench.write({ GUEST_PENDING_DBG_EXCEPTIONS: 0x4001 });
    bench.vmx.vmresume();
    expect(bench.vmx.takePendingDebug()).toBe(0x4001);
    bench.vmx.exit(new VmExit(EXIT_REASON.CPUID));
    bench.inject(event(EVENT_TYPE.OTHER, 0));
    bench.vmx.vmresume();
    expect(() => bench.vmx.takeInjection()).toThrow(expect.objectContaining({ reason: EXIT_REASON.MONITOR_TRAP_FLAG }));
  });

  it('loads and stores MSR areas, and says which entry is at fault', () => {
    const bench = new Bench();
    const { memory, msrs } = bench.cpu;
    const entry = (n: number, index: number, data: bigint): void =>
      MsrEntry.store(memory.view, memory.offset(MSR_AREA + 16 * n), { index, reserved: 0, data });
    msrs.set(0xc000_0082, 1n);
    msrs.set(0x277, 2n);
    entry(0, 0xc000_0082, 11n);
    entry(1, 0x277, 22n);
    bench.write({ VM_ENTRY_MSR_LOAD_ADDR: MSR_AREA, VM_ENTRY_MSR_LOAD_COUNT: 2, VM_EXIT_MSR_STORE_ADDR: MSR_AREA, VM_EXIT_MSR_STORE_COUNT: 1 });
    expect(bench.vmx.vmlaunch()).toBe('entered');
    expect([...msrs.values()]).toEqual([11n, 22n]);
    msrs.set(0xc000_0082, 33n);
    expect(bench.vmx.exit(new VmExit(EXIT_REASON.HLT))).toBe('typescript');
    expect(MsrEntry.load(memory.view, memory.offset(MSR_AREA)).data).toBe(33n);
    entry(1, 0xc000_0100, 0n); // FS base may not be in a list
    expect(bench.vmx.vmresume()).toBe('exited');
    expect(bench.read('VM_EXIT_REASON')).toBe(BigInt(0x8000_0000 + EXIT_REASON.MSR_LOAD_FAIL));
    expect(bench.read('EXIT_QUALIFICATION')).toBe(2n);
  });

  it('aborts when the host cannot be brought back', () => {
    const bench = new Bench();
    bench.write({ VM_EXIT_MSR_LOAD_ADDR: MSR_AREA, VM_EXIT_MSR_LOAD_COUNT: 1 }); // MSR 0 does not exist here
    expect(bench.vmx.vmlaunch()).toBe('entered');
    expect(bench.vmx.exit(new VmExit(EXIT_REASON.HLT))).toBe('abort');
    expect(bench.cpu.memory.view.getUint32(bench.cpu.memory.offset(VMCS_REGION) + REGION.ABORT_INDICATOR, true)).toBe(4);
    expect(bench.cpu.state.get32(OFFSET.ACTIVITY)).toBe(2);
  });

  it('offsets the time stamp counter in the guest only, modulo 2^64', () => {
    const bench = new Bench();
    bench.set('CPU_BASED_VM_EXEC_CONTROL', C.USE_TSC_OFFSETTING);
    bench.write({ TSC_OFFSET: ALL_ONES - 9n });
    bench.cpu.state.set64(OFFSET.TSC_OFFSET, 4n);
    bench.vmx.vmlaunch();
    expect(bench.cpu.state.get64(OFFSET.TSC_OFFSET)).toBe(BigInt.asUintN(64, -6n));
    bench.vmx.exit(new VmExit(EXIT_REASON.HLT));
    expect(bench.cpu.state.get64(OFFSET.TSC_OFFSET)).toBe(4n);
  });

  it('follows the guest in and out of IA-32e mode', () => {
    const bench = new Bench();
    bench.vmx.vmlaunch();
    const { state } = bench.cpu;
    state.set64(OFFSET.EFER, 0n);
    bench.vmx.exit(new VmExit(EXIT_REASON.HLT));
    expect(Number(bench.read('VM_ENTRY_CONTROLS')) & ENTRY.mask.IA32E_MODE).toBe(0);
    expect(state.low32(OFFSET.EFER)).toBe(EFER.LME | EFER.LMA);
  });

  it('keeps translations over an exit only with a VPID and an unchanged context', () => {
    const flushesOf = (vpid: boolean, between: (b: Bench) => void): number => {
      const bench = new Bench();
      if (vpid) {
        bench.set('SECONDARY_VM_EXEC_CONTROL', S.ENABLE_VPID);
        bench.write({ VIRTUAL_PROCESSOR_ID: 1 });
      }
      bench.vmx.vmlaunch();
      const before = bench.cpu.flushes;
      bench.vmx.exit(new VmExit(EXIT_REASON.CPUID));
      between(bench);
      expect(bench.vmx.vmresume()).toBe('entered');
      return bench.cpu.flushes - before;
    };
    expect(flushesOf(true, (b) => b.write({ GUEST_RIP: 0x10_0002 }))).toBe(0);
    expect(flushesOf(false, () => {})).toBeGreaterThan(0);
    expect(flushesOf(true, (b) => b.write({ GUEST_CR3: 0xd000 }))).toBeGreaterThan(0);
    expect(flushesOf(true, (b) => b.write({ EPT_POINTER: 0xe01e }))).toBeGreaterThan(0);
    expect(flushesOf(true, (b) => b.write({ VIRTUAL_PROCESSOR_ID: 2 }))).toBeGreaterThan(0);
    expect(flushesOf(true, (b) => b.vmx.invept(2, 0n))).toBeGreaterThan(0);
    expect(flushesOf(true, (b) => b.vmx.beforeRootCode())).toBeGreaterThan(0);
  });

  it('keeps two VMCSs apart', () => {
    const bench = new Bench();
    bench.write({ GUEST_RIP: 0x1111 });
    expect(bench.vmx.vmlaunch()).toBe('entered');
    bench.vmx.exit(new VmExit(EXIT_REASON.CPUID));
    bench.prepare(OTHER_VMCS);
    bench.write({ GUEST_RIP: 0x2222 });
    bench.set('CPU_BASED_VM_EXEC_CONTROL', C.HLT_EXITING);
    expect(bench.vmx.vmlaunch()).toBe('entered');
    expect(() => bench.cpu.intercepts?.instruction(EXIT_REASON.HLT, 1)).toThrow(VmExit);
    bench.vmx.exit(new VmExit(EXIT_REASON.HLT));
    bench.vmx.vmptrld(VMCS_REGION);
    expect(bench.vmx.vmresume()).toBe('entered');
    expect(bench.cpu.state.slot(SLOT.RIP)).toBe(0x1111n);
    expect(() => bench.cpu.intercepts?.instruction(EXIT_REASON.HLT, 1)).not.toThrow();
  });
});

describe('VMX instructions', () => {
  it('refuses regions', () => {
    const bench = new Bench();
    const failsWith = (status: string, error: number): void => {
      expect([status, bench.read('VM_INSTRUCTION_ERROR')]).toEqual(['failValid', BigInt(error)]);
    };
    failsWith(bench.vmx.vmxon(VMXON_REGION), 15);
    failsWith(bench.vmx.vmclear(0x2001), 2);
    failsWith(bench.vmx.vmclear(2 ** 40), 2);
    failsWith(bench.vmx.vmclear(VMXON_REGION), 3);
    failsWith(bench.vmx.vmptrld(0x2001), 9);
    failsWith(bench.vmx.vmptrld(VMXON_REGION), 10);
    failsWith(bench.vmx.vmptrld(MSR_AREA), 11);
    failsWith(bench.vmx.vmptrld(0x10_0000), 11); // the first page after RAM
    failsWith(bench.vmx.invept(0, 0n), 28);
    failsWith(bench.vmx.invept(1, 0x26n), 28);
    failsWith(bench.vmx.invvpid(1, 0, 0n), 28);
    failsWith(bench.vmx.invvpid(0, 1, 1n << 60n), 28);
    expect(bench.vmx.invept(1, 0x901en)).toBe('succeed');
    expect(bench.vmx.invvpid(3, 1, 0n)).toBe('succeed');
    expect(bench.vmx.vmptrst()).toBe(BigInt(VMCS_REGION));
    expect(bench.vmx.vmclear(VMCS_REGION)).toBe('succeed');
    expect(bench.vmx.vmptrst()).toBe(ALL_ONES);
    expect(bench.vmx.vmlaunch()).toBe('failInvalid');
    expect(bench.vmx.vmxoff()).toBe('succeed');
    expect(() => bench.vmx.vmptrst()).toThrow(Fault);
    expect(bench.vmx.vmxon(MSR_AREA)).toBe('failInvalid');
  });

  it('refuses VMXON and the rest where the processor is not ready', () => {
    const bench = new Bench();
    const { state } = bench.cpu;
    bench.vmx.vmxoff();
    const vectorOf = (): number => {
      try {
        bench.vmx.vmxon(VMXON_REGION);
      } catch (fault) {
        return (fault as Fault).vector;
      }
      return -1;
    };
    state.set64(OFFSET.CR4, BigInt(CR4.PAE));
    expect(vectorOf()).toBe(VECTOR.UD);
    state.set64(OFFSET.CR4, BigInt(CR4.PAE | CR4.VMXE | CR4.LA57));
    expect(vectorOf()).toBe(VECTOR.GP);
    state.set64(OFFSET.CR4, BigInt(CR4.PAE | CR4.VMXE));
    state.set64(OFFSET.CR0, 0x8000_0011n); // NE clear
    expect(vectorOf()).toBe(VECTOR.GP);
    state.set64(OFFSET.CR0, 0x8000_0031n);
    state.set32(OFFSET.CPL, 3);
    expect(vectorOf()).toBe(VECTOR.GP);
    state.set32(OFFSET.CPL, 0);
    state.setSegRights(SEG.CS, 0xc09b); // compatibility mode
    expect(vectorOf()).toBe(VECTOR.UD);
    state.setSegRights(SEG.CS, 0xa09b);
    expect(vectorOf()).toBe(-1);
    expect(() => bench.vmx.checkControlRegister(4, BigInt(CR4.PAE))).toThrow(Fault);
    expect(() => bench.vmx.checkControlRegister(0, 0x8000_0031n)).not.toThrow();
  });

  it('reads and writes fields by encoding', () => {
    const bench = new Bench();
    const { vmx } = bench;
    vmx.vmwrite(FIELD.TSC_OFFSET, 0x1122_3344_5566_7788n);
    expect(vmx.vmread(FIELD.TSC_OFFSET | 1)).toBe(0x1122_3344n);
    vmx.vmwrite(FIELD.TSC_OFFSET | 1, 0xdead_beef_0000_0001n);
    expect(vmx.vmread(FIELD.TSC_OFFSET)).toBe(0x1_5566_7788n);
    vmx.vmwrite(FIELD.GUEST_ES_SELECTOR, 0x12_3456n);
    expect(vmx.vmread(FIELD.GUEST_ES_SELECTOR)).toBe(0x3456n);
    vmx.vmwrite(FIELD.EXCEPTION_BITMAP, 0xffff_ffff_0000_4000n);
    expect(vmx.vmread(FIELD.EXCEPTION_BITMAP)).toBe(0x4000n);
    vmx.vmwrite32(FIELD.GUEST_RSP, 0xffff_fff0);
    expect(vmx.vmread(FIELD.GUEST_RSP)).toBe(0xffff_fff0n);
    expect(vmx.vmread32(FIELD.GUEST_RSP)).toBe(0xffff_fff0);
    expect(() => vmx.vmwrite(FIELD.VM_EXIT_REASON, 1n)).toThrow(expect.objectContaining({ name: 'VmxAccessError', status: 'failValid' }));
    expect(bench.read('VM_INSTRUCTION_ERROR')).toBe(13n);
    for (const encoding of [FIELD.PML_ADDRESS, 0x4001, 0x2, 0x6fff, 0x8000, 0xffff_ffff, -1]) {
      expect(() => vmx.vmread(encoding), encoding.toString(16)).toThrow(expect.objectContaining({ name: 'VmxAccessError', status: 'failValid' }));
      expect(bench.read('VM_INSTRUCTION_ERROR')).toBe(12n);
    }
    expect(() => vmx.vmwrite(FIELD.PML_ADDRESS, 1n)).toThrow(/PML_ADDRESS|0x200e/);
    vmx.vmclear(VMCS_REGION);
    expect(() => vmx.vmread(FIELD.GUEST_RIP)).toThrow('no current VMCS');
  });

  const insn = (fields: Partial<Instruction>): Instruction => ({
    name: 'VMX',
    length: 4,
    opcode: 0x0fc7,
    codeSize: 8,
    operandSize: 8,
    addressSize: 8,
    bytes: 8,
    lock: false,
    rep: false,
    repne: false,
    rex: 0,
    segmentOverride: -1,
    vvvv: 0,
    mod: 0,
    reg: 0,
    rm: 0,
    base: -1,
    index: -1,
    scale: 0,
    disp: 0n,
    segment: SEG.DS,
    target: 0,
    imm: 0n,
    immediate: false,
    selector: 0,
    ...fields,
  });
  const run = (bench: Bench, op: SystemOp, fields: Partial<Instruction> = {}): number | string => {
    try {
      bench.vmx.execute(op, insn(fields));
    } catch (thrown) {
      return thrown instanceof Fault ? `#${thrown.vector}` : `exit ${exitReasonName((thrown as VmExit).reason)}`;
    }
    return readFlags(bench.cpu.state) & (FLAG.CF | FLAG.ZF | FLAG.SF | FLAG.OF | FLAG.AF | FLAG.PF);
  };

  it('runs as machine code in root operation', () => {
    const bench = new Bench();
    const { state, mem } = bench.cpu;
    writeFlags(state, 0x8d7);
    mem.write64(0x500n, BigInt(OTHER_VMCS));
    expect(run(bench, 'vmptrld', { disp: 0x500n })).toBe(0);
    expect(run(bench, 'vmptrst', { disp: 0x508n })).toBe(0);
    expect(mem.read64(0x508n)).toBe(BigInt(OTHER_VMCS));
    state.setSlot(SLOT.RAX, 0x1234n);
    state.setSlot(SLOT.RDX, BigInt(FIELD.GUEST_RIP));
    expect(run(bench, 'vmwrite', { mod: 3, reg: SLOT.RDX, rm: SLOT.RAX })).toBe(0);
    expect(run(bench, 'vmread', { mod: 3, reg: SLOT.RDX, rm: SLOT.RBX })).toBe(0);
    expect(state.slot(SLOT.RBX)).toBe(0x1234n);
    state.setSlot(SLOT.RDX, BigInt(FIELD.VM_EXIT_REASON));
    expect(run(bench, 'vmwrite', { mod: 3, reg: SLOT.RDX, rm: SLOT.RAX })).toBe(FLAG.ZF);
    state.setSlot(SLOT.RDX, (1n << 32n) | BigInt(FIELD.GUEST_RIP));
    expect(run(bench, 'vmread', { mod: 3, reg: SLOT.RDX, rm: SLOT.RBX })).toBe(FLAG.ZF);
    expect(bench.read('VM_INSTRUCTION_ERROR')).toBe(12n);
    expect(run(bench, 'vmcall')).toBe(FLAG.ZF);
    expect(bench.read('VM_INSTRUCTION_ERROR')).toBe(1n);
    expect(run(bench, 'vmlaunch')).toBe(FLAG.ZF);
    mem.write64(0x510n, 0x901en);
    mem.write64(0x518n, 0n);
    state.setSlot(SLOT.RCX, 1n);
    expect(run(bench, 'invept', { reg: SLOT.RCX, disp: 0x510n })).toBe(0);
    mem.write64(0x518n, 1n);
    expect(run(bench, 'invept', { reg: SLOT.RCX, disp: 0x510n })).toBe(FLAG.ZF);
    expect(run(bench, 'vmfunc')).toBe('#6');
    expect(run(bench, 'vmclear', { mod: 3 })).toBe('#6');
    expect(run(bench, 'vmclear', { disp: 0x500n })).toBe(0);
    expect(run(bench, 'vmread', { mod: 3 })).toBe(FLAG.CF);
    state.set32(OFFSET.CPL, 3);
    expect(run(bench, 'vmxoff')).toBe('#13');
    state.set32(OFFSET.CPL, 0);
    expect(run(bench, 'vmxoff')).toBe(0);
    expect(run(bench, 'vmcall')).toBe('#6');
  });

  it('is a VM exit in non-root operation, before any privilege check', () => {
    const bench = new Bench();
    expect(bench.vmx.vmlaunch()).toBe('entered');
    bench.cpu.state.set32(OFFSET.CPL, 3);
    const names: [SystemOp, string][] = [
      ['vmcall', 'VMCALL'],
      ['vmclear', 'VMCLEAR'],
      ['vmlaunch', 'VMLAUNCH'],
      ['vmptrld', 'VMPTRLD'],
      ['vmptrst', 'VMPTRST'],
      ['vmread', 'VMREAD'],
      ['vmresume', 'VMRESUME'],
      ['vmwrite', 'VMWRITE'],
      ['vmxoff', 'VMOFF'],
      ['vmxon', 'VMON'],
      ['invept', 'INVEPT'],
      ['invvpid', 'INVVPID'],
    ];
    for (const [op, reason] of names) expect(run(bench, op)).toBe(`exit ${reason}`);
    expect(run(bench, 'vmfunc')).toBe('#6');
    let exit: VmExit | null = null;
    try {
      bench.vmx.execute('vmread', insn({ reg: 9, base: SLOT.RBX, index: SLOT.RSI, scale: 2, disp: 0x10n, segment: SEG.SS }));
    } catch (thrown) {
      exit = thrown as VmExit;
    }
    expect(exit?.qualification).toBe(0x10n);
    expect(exit?.details.instructionInfo).toBe(((9 << 28) | (SLOT.RBX << 23) | (SLOT.RSI << 18) | (SEG.SS << 15) | (2 << 7) | 2) >>> 0);
    expect(exit?.details.instructionLength).toBe(4);
  });

  it('continues at HOST_RIP when the hypervisor is machine code', () => {
    const bench = new Bench();
    expect(run(bench, 'vmlaunch')).toBe(0);
    expect(bench.cpu.state.slot(SLOT.NEXT_RIP)).toBe(0x10_0000n);
    expect(bench.vmx.exit(new VmExit(EXIT_REASON.CPUID, 0n, { instructionLength: 2 }))).toBe('x86');
    expect(bench.cpu.state.slot(SLOT.NEXT_RIP)).toBe(HOST_RIP);
  });

  it('reports a failed entry at HOST_RIP, too, and leaves the flags to the host', () => {
    const bench = new Bench();
    bench.write({ GUEST_RFLAGS: 0 });
    expect(run(bench, 'vmlaunch')).toBe(0);
    expect(bench.cpu.state.slot(SLOT.NEXT_RIP)).toBe(HOST_RIP);
    expect(bench.read('VM_EXIT_REASON')).toBe(BigInt(0x8000_0000 + EXIT_REASON.INVALID_STATE));
    expect(bench.vmx.nonRoot).toBe(false);
  });

  it('forgets everything at power-up', () => {
    const bench = new Bench();
    bench.vmx.vmlaunch();
    bench.vmx.reset();
    expect([bench.vmx.operating, bench.vmx.nonRoot, bench.vmx.vmcs.current, bench.vmx.entryPending]).toEqual([false, false, false, false]);
    expect(() => bench.vmx.vmptrst()).toThrow(Fault);
  });

  it('refuses to enter in the shadow of MOV SS', () => {
    const bench = new Bench();
    bench.cpu.state.set32(OFFSET.SHADOW, 2);
    expect(bench.vmx.vmlaunch()).toBe('failValid');
    expect(bench.read('VM_INSTRUCTION_ERROR')).toBe(26n);
  });
});

describe('capability MSRs', () => {
  it('agree with what VM entry accepts', () => {
    const words = [
      [VMX_MSR.IA32_VMX_TRUE_PINBASED_CTLS, CAPABILITY.pin],
      [VMX_MSR.IA32_VMX_TRUE_PROCBASED_CTLS, CAPABILITY.cpuBased],
      [VMX_MSR.IA32_VMX_PROCBASED_CTLS2, CAPABILITY.secondary],
      [VMX_MSR.IA32_VMX_TRUE_EXIT_CTLS, CAPABILITY.exit],
      [VMX_MSR.IA32_VMX_TRUE_ENTRY_CTLS, CAPABILITY.entry],
    ] as const;
    for (const [index, capability] of words) {
      const value = readVmxMsr(index) as bigint;
      const mustBe1 = Number(value & 0xffff_ffffn);
      const mayBe1 = Number(value >> 32n);
      expect(mustBe1 & ~mayBe1).toBe(0);
      expect(adjust(0, capability)).toBe(mustBe1);
      expect(adjust(0xffff_ffff, capability)).toBe(mayBe1);
    }
  });

  it('describe the VMCS region', () => {
    const basic = readVmxMsr(VMX_MSR.IA32_VMX_BASIC) as bigint;
    expect(Number(basic & 0x7fff_ffffn)).toBe(REVISION_ID);
    expect((basic >> 32n) & 0x1fffn).toBe(4096n);
    expect((basic >> 50n) & 0xfn).toBe(6n);
    expect(readVmxMsr(VMX_MSR.IA32_VMX_VMCS_ENUM)).toBe(BigInt(FIELD.GUEST_SYSENTER_CS & 0x3ff)); // the highest index in use
    expect(readVmxMsr(VMX_MSR.IA32_VMX_CR4_FIXED1)).toBe(BigInt(cr4Fixed1(48)));
    expect(cr4Fixed1(48)).toBe(CR4_BITS);
    expect(readVmxMsr(VMX_MSR.IA32_VMX_CR4_FIXED1, 57)).toBe(BigInt(CR4_BITS | CR4.LA57));
    expect(readVmxMsr(0x491)).toBeNull();
    expect(readVmxMsr(0x3a)).toBe(5n);
  });
});
