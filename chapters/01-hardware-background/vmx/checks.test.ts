import { describe, expect, it } from 'vitest';
import { VECTOR, VmExit } from '../faults.ts';
import { CR0, CR4, EFER, FLAG, OFFSET, SLOT } from '../state.ts';
import { ENTRY_CHECKS } from './checks.ts';
import { ENTRY, EXIT, PIN } from './controls.ts';
import { EXIT_REASON, VM_INSTRUCTION_ERROR } from './exit-reasons.ts';
import { Bench, C, DF_BIT, EPT_ROOT, event, HOST_RIP, IO_BITMAP_B, MSR_AREA, S, VAPIC, VMCS_REGION } from './laboratory.ts';
import { EVENT_TYPE } from './processor.ts';
import { cellOf, FIELD } from './vmcs.ts';

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
