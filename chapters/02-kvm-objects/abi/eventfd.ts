// # Events without a system call
//
// An eventfd is a counter behind a descriptor. KVM can be told to add one to it when the guest writes somewhere (`ioeventfd`), and to raise an interrupt
// when somebody else adds to it (`irqfd`). Then a device in another thread, another process or another part of the kernel works for the guest, and the
// VMM's loop hears nothing of it.

import { bytes, layout, u8, u32le, u64le } from '../../01-hardware-background/layout.ts';

/** KVM_IRQFD. */
export const KvmIrqfd = layout('kvm_irqfd', {
  fd: u32le(0),
  gsi: u32le(4),
  flags: u32le(8),
  resamplefd: u32le(12),
  pad: bytes(16, 16),
});
export const IRQFD_FLAG = { KVM_IRQFD_FLAG_DEASSIGN: 1, KVM_IRQFD_FLAG_RESAMPLE: 2 } as const;

/** KVM_IOEVENTFD. `len` 0 means any width, with no data looked at. */
export const KvmIoeventfd = layout('kvm_ioeventfd', {
  datamatch: u64le(0),
  addr: u64le(8),
  len: u32le(16),
  fd: u32le(20),
  flags: u32le(24),
  pad: bytes(28, 36),
});
export const IOEVENTFD_FLAG = { KVM_IOEVENTFD_FLAG_DATAMATCH: 1, KVM_IOEVENTFD_FLAG_PIO: 2, KVM_IOEVENTFD_FLAG_DEASSIGN: 4 } as const;

// A cheaper trick of an earlier time: writes to a register that needs no answer at once are kept in a ring, and the VMM reads the ring when it comes by.

/** KVM_REGISTER_COALESCED_MMIO, KVM_UNREGISTER_COALESCED_MMIO. `pio` is 1 for ports. */
export const KvmCoalescedMmioZone = layout('kvm_coalesced_mmio_zone', { addr: u64le(0), size: u32le(8), pio: u32le(12) });
/** One write in the ring. */
export const KvmCoalescedMmio = layout('kvm_coalesced_mmio', { phys_addr: u64le(0), len: u32le(8), pio: u32le(12), data: bytes(16, 8) });
/** Head of the ring, which fills the rest of its page. The kernel moves `last`, the VMM `first`. */
export const KvmCoalescedMmioRing = layout('kvm_coalesced_mmio_ring', { first: u32le(0), last: u32le(4) });

/** KVM_GET_CLOCK, KVM_SET_CLOCK: the guest's clock in nanoseconds, and the host's clocks at that moment. */
export const KvmClockData = layout('kvm_clock_data', {
  clock: u64le(0),
  flags: u32le(8),
  pad0: u32le(12),
  realtime: u64le(16),
  host_tsc: u64le(24),
  pad: bytes(32, 16),
});
export const CLOCK_FLAG = { KVM_CLOCK_TSC_STABLE: 2, KVM_CLOCK_REALTIME: 4, KVM_CLOCK_HOST_TSC: 8 } as const;

/** KVM_REINJECT_CONTROL: whether ticks that the guest was too busy to take are made up for. */
export const KvmReinjectControl = layout('kvm_reinject_control', { pit_reinject: u8(0), reserved: bytes(1, 31) });
