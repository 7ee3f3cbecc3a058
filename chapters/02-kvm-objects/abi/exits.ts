// # The shared page
//
// `ioctl(KVM_RUN)` takes no argument and returns almost nothing. What happened is in `struct kvm_run`, a page that the kernel and the VMM both
// map: the VMM leaves requests in its first bytes, the kernel leaves the exit reason behind them, and what belongs to that reason overlays
// one union. The layouts below give offsets from the start of the page, so that a reader of a hexadecimal dump can use them as they stand.
//
// The page is longer than the structure: port data of a string instruction, and the ring of coalesced MMIO, live in the pages after it.
// `KVM_GET_VCPU_MMAP_SIZE` says how much to map.

import { bytes, layout, nested, u8, u16le, u32le, u64le } from '../../01-hardware-background/layout.ts';
import { U64 } from './registers.ts';

/** Why KVM_RUN came back. Gaps are other architectures'. */
// biome-ignore format: table
export const EXIT = {
  KVM_EXIT_UNKNOWN: 0, KVM_EXIT_EXCEPTION: 1, KVM_EXIT_IO: 2, KVM_EXIT_HYPERCALL: 3, KVM_EXIT_DEBUG: 4, KVM_EXIT_HLT: 5, KVM_EXIT_MMIO: 6,
  KVM_EXIT_IRQ_WINDOW_OPEN: 7, KVM_EXIT_SHUTDOWN: 8, KVM_EXIT_FAIL_ENTRY: 9, KVM_EXIT_INTR: 10, KVM_EXIT_SET_TPR: 11, KVM_EXIT_TPR_ACCESS: 12,
  KVM_EXIT_NMI: 16, KVM_EXIT_INTERNAL_ERROR: 17, KVM_EXIT_SYSTEM_EVENT: 24, KVM_EXIT_IOAPIC_EOI: 26, KVM_EXIT_HYPERV: 27, KVM_EXIT_X86_RDMSR: 29,
  KVM_EXIT_X86_WRMSR: 30, KVM_EXIT_DIRTY_RING_FULL: 31, KVM_EXIT_AP_RESET_HOLD: 32, KVM_EXIT_X86_BUS_LOCK: 33, KVM_EXIT_XEN: 34,
  KVM_EXIT_NOTIFY: 37, KVM_EXIT_MEMORY_FAULT: 39, KVM_EXIT_TDX: 40,
} as const;

export type ExitName = keyof typeof EXIT;

const names = new Map(Object.entries(EXIT).map(([name, number]) => [number as number, name as ExitName]));

/** `KVM_EXIT_…` for a number; an unknown number keeps its digits. */
export const exitName = (reason: number): string => names.get(reason) ?? `KVM_EXIT_${reason}`;

/** The fixed head of `struct kvm_run`. Fields before `exit_reason` go in, the rest come out; `cr8` and `apic_base` go both ways. */
export const KvmRun = layout(
  'kvm_run',
  {
    request_interrupt_window: u8(0), // in: come back when an interrupt could be taken
    immediate_exit: u8(1), // in: polled at the start of KVM_RUN; non-zero gives EINTR
    exit_reason: u32le(8),
    ready_for_interrupt_injection: u8(12), // KVM_INTERRUPT would be delivered now
    if_flag: u8(13), // RFLAGS.IF
    flags: u16le(14), // RUN_FLAG
    cr8: u64le(16),
    apic_base: u64le(24),
    kvm_valid_regs: u64le(288),
    kvm_dirty_regs: u64le(296),
  },
  2352,
);

/** Bits of `kvm_run.flags` on x86. */
export const RUN_FLAG = { KVM_RUN_X86_SMM: 1, KVM_RUN_X86_BUS_LOCK: 2, KVM_RUN_X86_GUEST_MODE: 4 } as const;

/** KVM_EXIT_UNKNOWN: the hardware's own reason. */
export const RunHw = layout('kvm_run.hw', { hardware_exit_reason: u64le(32) });

/** KVM_EXIT_FAIL_ENTRY: VM entry refused the guest state. */
export const RunFailEntry = layout('kvm_run.fail_entry', { hardware_entry_failure_reason: u64le(32), cpu: u32le(40) });

/** KVM_EXIT_EXCEPTION. */
export const RunEx = layout('kvm_run.ex', { exception: u32le(32), error_code: u32le(36) });

/** KVM_EXIT_IO: `count` items of `size` bytes at `data_offset` from the start of the page. For IN the VMM fills them before it re-enters. */
export const RunIo = layout('kvm_run.io', {
  direction: u8(32), // IO_DIRECTION
  size: u8(33), // 1, 2 or 4
  port: u16le(34),
  count: u32le(36), // more than 1: a repeated string instruction
  data_offset: u64le(40),
});

export const IO_DIRECTION = { KVM_EXIT_IO_IN: 0, KVM_EXIT_IO_OUT: 1 } as const;

/** KVM_EXIT_DEBUG. */
export const RunDebug = layout('kvm_run.debug', { exception: u32le(32), pc: u64le(40), dr6: u64le(48), dr7: u64le(56) });

/** KVM_EXIT_MMIO: an access of `len` bytes that no memory slot backs. */
export const RunMmio = layout('kvm_run.mmio', { phys_addr: u64le(32), data: bytes(40, 8), len: u32le(48), is_write: u8(52) }, 56);

/** KVM_EXIT_HYPERCALL. */
export const RunHypercall = layout('kvm_run.hypercall', { nr: u64le(32), args: nested(40, U64, 6), ret: u64le(88), flags: u64le(96) });

/** KVM_EXIT_INTERNAL_ERROR: the kernel gave up; `suberror` is an INTERNAL_ERROR, the first `ndata` words of `data` are its context. */
export const RunInternal = layout('kvm_run.internal', { suberror: u32le(32), ndata: u32le(36), data: nested(40, U64, 16) });

/** Overlays `internal` when `suberror` is KVM_INTERNAL_ERROR_EMULATION: the bytes that the emulator could not execute. */
export const RunEmulationFailure = layout('kvm_run.emulation_failure', {
  suberror: u32le(32),
  ndata: u32le(36),
  flags: u64le(40), // bit 0: insn_size and insn_bytes are valid
  insn_size: u8(48),
  insn_bytes: bytes(49, 15),
});

// biome-ignore format: table
export const INTERNAL_ERROR = {
  KVM_INTERNAL_ERROR_EMULATION: 1, KVM_INTERNAL_ERROR_SIMUL_EX: 2, KVM_INTERNAL_ERROR_DELIVERY_EV: 3, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: 4,
} as const;

/** KVM_EXIT_SYSTEM_EVENT. */
export const RunSystemEvent = layout('kvm_run.system_event', { type: u32le(32), ndata: u32le(36), data: nested(40, U64, 16) });

// biome-ignore format: table
export const SYSTEM_EVENT = {
  KVM_SYSTEM_EVENT_SHUTDOWN: 1, KVM_SYSTEM_EVENT_RESET: 2, KVM_SYSTEM_EVENT_CRASH: 3, KVM_SYSTEM_EVENT_WAKEUP: 4, KVM_SYSTEM_EVENT_SUSPEND: 5,
} as const;

/** KVM_EXIT_X86_RDMSR and KVM_EXIT_X86_WRMSR: the VMM answers for an MSR; `error` non-zero gives the guest #GP. */
export const RunMsr = layout('kvm_run.msr', { error: u8(32), reason: u32le(40), index: u32le(44), data: u64le(48) });

/** KVM_EXIT_MEMORY_FAULT: KVM_RUN also fails, with EFAULT. */
export const RunMemoryFault = layout('kvm_run.memory_fault', { flags: u64le(32), gpa: u64le(40), size: u64le(48) });
