// # INIT and SIPI
//
// A second processor does not start at the reset vector. It waits, and the first one sends it two messages: INIT, which makes it forget everything, and
// SIPI, which carries one byte: the page of the first megabyte at which it begins, in real mode. With a local APIC in the kernel, KVM does all
// that. Without one, the VMM writes the registers itself.

import type { Vcpu } from '../../02-kvm-objects/kvm.ts';
import type { Sregs } from '../../02-kvm-objects/vcpu-state.ts';

const CODE = { limit: 0xffff, type: 0xb, present: 1, dpl: 0, db: 0, s: 1, l: 0, g: 0, avl: 0, unusable: 0 } as const;
const DATA = { ...CODE, base: 0n, selector: 0, type: 3 } as const;
const SYSTEM = { ...DATA, s: 0 } as const;
/** ET alone; INIT keeps CD and NW, as they were. */
const CR0_INIT = 0x10n;
const CR0_CACHES = 0x6000_0000n;
/** What EDX shows after a reset: a family, for software that looks. */
const SIGNATURE = 0x600n;

const ZERO = { rax: 0n, rbx: 0n, rcx: 0n, rsi: 0n, rdi: 0n, rsp: 0n, rbp: 0n, r8: 0n, r9: 0n, r10: 0n, r11: 0n, r12: 0n, r13: 0n, r14: 0n, r15: 0n };

// @clause lapic.init-sipi
/** Intel SDM vol. 3, "Processor State After Reset": the INIT column. FPU, MSRs and caches keep what they have. */
export function initProcessor(vcpu: Vcpu): void {
  settle(vcpu);
  const { cr0 } = vcpu.getSregs();
  const sregs: Partial<Sregs> = {
    cs: { ...CODE, base: 0xffff_0000n, selector: 0xf000 },
    ds: DATA,
    es: DATA,
    fs: DATA,
    gs: DATA,
    ss: DATA,
    tr: { ...SYSTEM, type: 0xb },
    ldt: { ...SYSTEM, type: 2 },
    gdt: { base: 0n, limit: 0xffff },
    idt: { base: 0n, limit: 0xffff },
    cr0: CR0_INIT | (cr0 & CR0_CACHES),
    cr2: 0n,
    cr3: 0n,
    cr4: 0n,
    cr8: 0n,
    efer: 0n,
    interrupt_bitmap: [0n, 0n, 0n, 0n],
  };
  vcpu.setSregs(sregs);
  vcpu.setRegs({ ...ZERO, rdx: SIGNATURE, rip: 0xfff0n, rflags: 2n });
  vcpu.setDebugregs({ db: [0n, 0n, 0n, 0n], dr6: 0xffff_0ff0n, dr7: 0x400n });
  settle(vcpu);
}

// The processor may be in the middle of an access that user space has answered: the next KVM_RUN would finish it, in the state after INIT. So it is
// finished now, with a run that returns before the guest does anything. The same run again, after the registers are written, tells the shared page that
// interrupts are off.
function settle(vcpu: Vcpu): void {
  vcpu.page.immediateExit = true;
  try {
    vcpu.run();
  } finally {
    vcpu.page.immediateExit = false;
  }
}

// @clause lapic.init-sipi
/** Begins at page `vector` of the first megabyte. */
export function startProcessor(vcpu: Vcpu, vector: number): void {
  vcpu.setSregs({ cs: { ...CODE, base: BigInt(vector) << 12n, selector: vector << 8 } });
  vcpu.setRegs({ rip: 0n });
}
