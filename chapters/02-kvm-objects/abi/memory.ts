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

/** KVM_CLEAR_DIRTY_LOG: which bits to clear; `first_page` and, except at the slot's end, `num_pages` are multiples of 64. */
export const KvmClearDirtyLog = layout('kvm_clear_dirty_log', { slot: u32le(0), num_pages: u32le(4), first_page: u64le(8), dirty_bitmap: u64le(16) });

/** Arguments of KVM_ENABLE_CAP for KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2. */
export const MANUAL_PROTECT = { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE: 1, KVM_DIRTY_LOG_INITIALLY_SET: 2 } as const;

/** One entry of a vCPU's dirty ring. The writer stores `flags` last. */
export const KvmDirtyGfn = layout('kvm_dirty_gfn', { flags: u32le(0), slot: u32le(4), offset: u64le(8) });
/** `flags`: 0 is free, DIRTY is the kernel's mark for "to be collected", RESET the program's for "collected". */
export const KVM_DIRTY_GFN_F = { KVM_DIRTY_GFN_F_DIRTY: 1, KVM_DIRTY_GFN_F_RESET: 2 } as const;
/** The page of a vCPU's descriptor at which its ring is mapped. */
export const KVM_DIRTY_LOG_PAGE_OFFSET = 64;

/** KVM_PRE_FAULT_MEMORY: what is left to do comes back in it. */
export const KvmPreFaultMemory = layout('kvm_pre_fault_memory', { gpa: u64le(0), size: u64le(8), flags: u64le(16) }, 64);

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
