// # Guest memory, as the kernel is told of it
//
// A VM owns no memory. A *slot* says: guest physical addresses from here, so many bytes, are the VMM's own bytes at that virtual address.
// Whatever no slot covers is not memory, and an access to it comes back as KVM_EXIT_MMIO. That one sentence is how devices are built.

import { layout, u8, u32le, u64le } from '../../01-hardware-background/layout.ts';

/** KVM_SET_USER_MEMORY_REGION. A `memory_size` of 0 deletes the slot. */
export const KvmUserspaceMemoryRegion = layout('kvm_userspace_memory_region', {
  slot: u32le(0), // bits 16..31: address space
  flags: u32le(4), // KVM_MEM
  guest_phys_addr: u64le(8),
  memory_size: u64le(16),
  userspace_addr: u64le(24),
});

/** KVM_SET_USER_MEMORY_REGION2: the same, and private memory behind a guest_memfd. */
export const KvmUserspaceMemoryRegion2 = layout(
  'kvm_userspace_memory_region2',
  {
    slot: u32le(0),
    flags: u32le(4),
    guest_phys_addr: u64le(8),
    memory_size: u64le(16),
    userspace_addr: u64le(24),
    guest_memfd_offset: u64le(32),
    guest_memfd: u32le(40),
  },
  160,
);

export const KVM_MEM = { KVM_MEM_LOG_DIRTY_PAGES: 1, KVM_MEM_READONLY: 2, KVM_MEM_GUEST_MEMFD: 4 } as const;

/** KVM_GET_DIRTY_LOG: one bit a page, written to the VMM's memory at `dirty_bitmap`. */
export const KvmDirtyLog = layout('kvm_dirty_log', { slot: u32le(0), dirty_bitmap: u64le(8) });

/** KVM_TRANSLATE: asks the vCPU's own page tables. */
export const KvmTranslation = layout(
  'kvm_translation',
  { linear_address: u64le(0), physical_address: u64le(8), valid: u8(16), writeable: u8(17), usermode: u8(18) },
  24,
);

/** KVM_ENABLE_CAP. */
export const KvmEnableCap = layout(
  'kvm_enable_cap',
  { cap: u32le(0), flags: u32le(4), arg0: u64le(8), arg1: u64le(16), arg2: u64le(24), arg3: u64le(32) },
  104,
);
