// # A processor's state, as the kernel hands it out
//
// A vCPU is its registers. The VMM reads and writes them in groups, one request for each: general registers, *special* registers (segments,
// descriptor tables, control registers), the FPU, MSRs, debug registers, extended state. The groups grew with the API, so a register may be
// reachable by two of them; the structures are the ABI and never change, so new fields became new structures (`kvm_sregs2`).

import { bytes, layout, nested, u8, u16le, u32le, u64le } from '../../01-hardware-background/layout.ts';

/** An element of a `__u64` array. */
export const U64 = layout('__u64', { value: u64le(0) });

/** An element of a `__u32` array. */
export const U32 = layout('__u32', { value: u32le(0) });

/** KVM_GET_REGS, KVM_SET_REGS. The order is KVM's own, not the hardware's encoding (RBX comes second). */
// biome-ignore format: table
export const KvmRegs = layout('kvm_regs', {
  rax: u64le(0), rbx: u64le(8), rcx: u64le(16), rdx: u64le(24), rsi: u64le(32), rdi: u64le(40), rsp: u64le(48), rbp: u64le(56),
  r8: u64le(64), r9: u64le(72), r10: u64le(80), r11: u64le(88), r12: u64le(96), r13: u64le(104), r14: u64le(112), r15: u64le(120),
  rip: u64le(128), rflags: u64le(136),
});

/** A segment register with its hidden part, one attribute to a byte. */
export const KvmSegment = layout(
  'kvm_segment',
  {
    base: u64le(0),
    limit: u32le(8), // in bytes, already scaled by `g`
    selector: u16le(12),
    type: u8(14),
    present: u8(15),
    dpl: u8(16),
    db: u8(17),
    s: u8(18),
    l: u8(19),
    g: u8(20),
    avl: u8(21),
    unusable: u8(22),
  },
  24,
);

/** GDTR or IDTR. */
export const KvmDtable = layout('kvm_dtable', { base: u64le(0), limit: u16le(8) }, 16);

// biome-ignore format: table
const SREGS_HEAD = {
  cs: nested(0, KvmSegment), ds: nested(24, KvmSegment), es: nested(48, KvmSegment), fs: nested(72, KvmSegment), gs: nested(96, KvmSegment),
  ss: nested(120, KvmSegment), tr: nested(144, KvmSegment), ldt: nested(168, KvmSegment),
  gdt: nested(192, KvmDtable), idt: nested(208, KvmDtable),
  cr0: u64le(224), cr2: u64le(232), cr3: u64le(240), cr4: u64le(248), cr8: u64le(256), efer: u64le(264), apic_base: u64le(272),
} as const;

/** KVM_GET_SREGS, KVM_SET_SREGS. A bit in `interrupt_bitmap` is an interrupt that was accepted and not yet delivered: at most one may be set. */
export const KvmSregs = layout('kvm_sregs', { ...SREGS_HEAD, interrupt_bitmap: nested(280, U64, 4) });

/** KVM_GET_SREGS2, KVM_SET_SREGS2: the page-directory pointers of PAE in place of the interrupt bitmap. `flags` bit 0: `pdptrs` are valid. */
export const KvmSregs2 = layout('kvm_sregs2', { ...SREGS_HEAD, flags: u64le(280), pdptrs: nested(288, U64, 4) });

/** KVM_GET_FPU, KVM_SET_FPU. `ftwx` is the abridged tag word of FXSAVE. */
export const KvmFpu = layout(
  'kvm_fpu',
  {
    fpr: bytes(0, 128), // 8 registers of 16 bytes
    fcw: u16le(128),
    fsw: u16le(130),
    ftwx: u8(132),
    last_opcode: u16le(134),
    last_ip: u64le(136),
    last_dp: u64le(144),
    xmm: bytes(152, 256), // 16 registers of 16 bytes
    mxcsr: u32le(408),
  },
  416,
);

/** KVM_GET_XSAVE, KVM_SET_XSAVE: an XSAVE area in the processor's standard format. */
export const KvmXsave = layout('kvm_xsave', { region: bytes(0, 4096) });

export const KvmXcr = layout('kvm_xcr', { xcr: u32le(0), reserved: u32le(4), value: u64le(8) });

/** KVM_GET_XCRS, KVM_SET_XCRS. */
export const KvmXcrs = layout('kvm_xcrs', { nr_xcrs: u32le(0), flags: u32le(4), xcrs: nested(8, KvmXcr, 16) }, 392);

/** KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS. */
export const KvmDebugregs = layout('kvm_debugregs', { db: nested(0, U64, 4), dr6: u64le(32), dr7: u64le(40), flags: u64le(48) }, 128);

// ## Structures with a tail
//
// The next three end in as many entries as their first word says. The request code counts the head alone; the kernel reads the count and then
// the entries, and answers E2BIG with the number it would have needed when the caller's array is too short.

/** Head of `struct kvm_msrs`; KvmMsrEntry records follow. KVM_GET_MSRS and KVM_SET_MSRS return how many they did before the first failure. */
export const KvmMsrs = layout('kvm_msrs', { nmsrs: u32le(0), pad: u32le(4) });
export const KvmMsrEntry = layout('kvm_msr_entry', { index: u32le(0), reserved: u32le(4), data: u64le(8) });

/** Head of `struct kvm_msr_list`; 32-bit indices follow. */
export const KvmMsrList = layout('kvm_msr_list', { nmsrs: u32le(0) });

/** Head of `struct kvm_cpuid2`; KvmCpuidEntry2 records follow. */
export const KvmCpuid2 = layout('kvm_cpuid2', { nent: u32le(0), padding: u32le(4) });
export const KvmCpuidEntry2 = layout(
  'kvm_cpuid_entry2',
  { function: u32le(0), index: u32le(4), flags: u32le(8), eax: u32le(12), ebx: u32le(16), ecx: u32le(20), edx: u32le(24) },
  40,
);

/** `kvm_cpuid_entry2.flags`: the leaf's answer depends on ECX. */
export const KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1;
