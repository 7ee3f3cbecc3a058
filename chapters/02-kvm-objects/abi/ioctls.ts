// # Request numbers
//
// `ioctl` takes a 32-bit request, and Linux packs four things into it: which driver (`type`), which of its calls (`nr`), how many bytes the
// argument has, and in which direction they are copied. So a request code is a checksum of the ABI: change a structure and its request
// number changes with it. The table below states the facts; the codes are computed.
//
// ```text
//  31 30 29                    16 15            8 7             0
// +-----+------------------------+---------------+---------------+
// | dir |     argument bytes     |  type = 0xAE  |      nr       |
// +-----+------------------------+---------------+---------------+
// ```
//
// Two traps wait in it. The direction is named from the caller's side: `write` means that the kernel *reads* the argument. And some requests
// carry the wrong direction for ever, because the code is ABI: `KVM_SET_IRQCHIP` claims to read. A structure that ends in an array of
// caller-chosen length counts only its head, so the size does not say how much the kernel will touch.

/** `KVMIO`, the type byte of every KVM request. */
const KVMIO = 0xae;

const DIRECTION = { none: 0, write: 1, read: 2, both: 3 } as const;
type Direction = keyof typeof DIRECTION;

/** The three kinds of descriptor, and the in-kernel devices' own. */
type FdKind = 'system' | 'vm' | 'vcpu' | 'device';

/** `nr`, direction, bytes of the fixed part of the argument, and the descriptors that accept the request. */
type Row = readonly [nr: number, direction: Direction, bytes: number, on: string];

// biome-ignore format: table
const TABLE = {
  KVM_GET_API_VERSION:          [0x00, 'none',     0, 'system'],
  KVM_CREATE_VM:                [0x01, 'none',     0, 'system'],
  KVM_GET_MSR_INDEX_LIST:       [0x02, 'both',     4, 'system'], // kvm_msr_list
  KVM_CHECK_EXTENSION:          [0x03, 'none',     0, 'system vm'],
  KVM_GET_VCPU_MMAP_SIZE:       [0x04, 'none',     0, 'system'],
  KVM_GET_SUPPORTED_CPUID:      [0x05, 'both',     8, 'system'], // kvm_cpuid2
  KVM_GET_EMULATED_CPUID:       [0x09, 'both',     8, 'system'], // kvm_cpuid2
  KVM_GET_MSR_FEATURE_INDEX_LIST:[0x0a, 'both',     4, 'system'], // kvm_msr_list
  KVM_CREATE_VCPU:              [0x41, 'none',     0, 'vm'],
  KVM_GET_DIRTY_LOG:            [0x42, 'write',   16, 'vm'], // kvm_dirty_log
  KVM_SET_NR_MMU_PAGES:         [0x44, 'none',     0, 'vm'],
  KVM_GET_NR_MMU_PAGES:         [0x45, 'none',     0, 'vm'],
  KVM_SET_USER_MEMORY_REGION:   [0x46, 'write',   32, 'vm'], // kvm_userspace_memory_region
  KVM_SET_TSS_ADDR:             [0x47, 'none',     0, 'vm'],
  KVM_SET_IDENTITY_MAP_ADDR:    [0x48, 'write',    8, 'vm'], // __u64
  KVM_SET_USER_MEMORY_REGION2:  [0x49, 'write',  160, 'vm'], // kvm_userspace_memory_region2
  KVM_CREATE_IRQCHIP:           [0x60, 'none',     0, 'vm'],
  KVM_IRQ_LINE:                 [0x61, 'write',    8, 'vm'], // kvm_irq_level
  KVM_GET_IRQCHIP:              [0x62, 'both',   520, 'vm'], // kvm_irqchip
  KVM_SET_IRQCHIP:              [0x63, 'read',   520, 'vm'], // kvm_irqchip
  KVM_CREATE_PIT:               [0x64, 'none',     0, 'vm'],
  KVM_GET_PIT:                  [0x65, 'both',    72, 'vm'], // kvm_pit_state
  KVM_SET_PIT:                  [0x66, 'read',    72, 'vm'], // kvm_pit_state
  KVM_IRQ_LINE_STATUS:          [0x67, 'both',     8, 'vm'], // kvm_irq_level
  KVM_REGISTER_COALESCED_MMIO:  [0x67, 'write',   16, 'vm'], // kvm_coalesced_mmio_zone
  KVM_UNREGISTER_COALESCED_MMIO:[0x68, 'write',   16, 'vm'], // kvm_coalesced_mmio_zone
  KVM_SET_GSI_ROUTING:          [0x6a, 'write',    8, 'vm'], // kvm_irq_routing
  KVM_REINJECT_CONTROL:         [0x71, 'none',     0, 'vm'],
  KVM_IRQFD:                    [0x76, 'write',   32, 'vm'], // kvm_irqfd
  KVM_CREATE_PIT2:              [0x77, 'write',   64, 'vm'], // kvm_pit_config
  KVM_SET_BOOT_CPU_ID:          [0x78, 'none',     0, 'vm'],
  KVM_IOEVENTFD:                [0x79, 'write',   64, 'vm'], // kvm_ioeventfd
  KVM_SET_CLOCK:                [0x7b, 'write',   48, 'vm'], // kvm_clock_data
  KVM_GET_CLOCK:                [0x7c, 'read',    48, 'vm'], // kvm_clock_data
  KVM_RUN:                      [0x80, 'none',     0, 'vcpu'],
  KVM_GET_REGS:                 [0x81, 'read',   144, 'vcpu'], // kvm_regs
  KVM_SET_REGS:                 [0x82, 'write',  144, 'vcpu'], // kvm_regs
  KVM_GET_SREGS:                [0x83, 'read',   312, 'vcpu'], // kvm_sregs
  KVM_SET_SREGS:                [0x84, 'write',  312, 'vcpu'], // kvm_sregs
  KVM_TRANSLATE:                [0x85, 'both',    24, 'vcpu'], // kvm_translation
  KVM_INTERRUPT:                [0x86, 'write',    4, 'vcpu'], // kvm_interrupt
  KVM_GET_MSRS:                 [0x88, 'both',     8, 'system vcpu'], // kvm_msrs
  KVM_SET_MSRS:                 [0x89, 'write',    8, 'vcpu'], // kvm_msrs
  KVM_SET_CPUID:                [0x8a, 'write',    8, 'vcpu'], // kvm_cpuid
  KVM_SET_SIGNAL_MASK:          [0x8b, 'write',    4, 'vcpu'], // kvm_signal_mask
  KVM_GET_FPU:                  [0x8c, 'read',   416, 'vcpu'], // kvm_fpu
  KVM_SET_FPU:                  [0x8d, 'write',  416, 'vcpu'], // kvm_fpu
  KVM_GET_LAPIC:                [0x8e, 'read',  1024, 'vcpu'], // kvm_lapic_state
  KVM_SET_LAPIC:                [0x8f, 'write', 1024, 'vcpu'], // kvm_lapic_state
  KVM_SET_CPUID2:               [0x90, 'write',    8, 'vcpu'], // kvm_cpuid2
  KVM_GET_CPUID2:               [0x91, 'both',     8, 'vcpu'], // kvm_cpuid2
  KVM_GET_MP_STATE:             [0x98, 'read',     4, 'vcpu'], // kvm_mp_state
  KVM_SET_MP_STATE:             [0x99, 'write',    4, 'vcpu'], // kvm_mp_state
  KVM_NMI:                      [0x9a, 'none',     0, 'vcpu'],
  KVM_SET_GUEST_DEBUG:          [0x9b, 'write',   72, 'vcpu'], // kvm_guest_debug
  KVM_GET_PIT2:                 [0x9f, 'read',   112, 'vm'], // kvm_pit_state2
  KVM_GET_VCPU_EVENTS:          [0x9f, 'read',    64, 'vcpu'], // kvm_vcpu_events
  KVM_SET_PIT2:                 [0xa0, 'write',  112, 'vm'], // kvm_pit_state2
  KVM_SET_VCPU_EVENTS:          [0xa0, 'write',   64, 'vcpu'], // kvm_vcpu_events
  KVM_GET_DEBUGREGS:            [0xa1, 'read',   128, 'vcpu'], // kvm_debugregs
  KVM_SET_DEBUGREGS:            [0xa2, 'write',  128, 'vcpu'], // kvm_debugregs
  KVM_SET_TSC_KHZ:              [0xa2, 'none',     0, 'vm vcpu'],
  KVM_ENABLE_CAP:               [0xa3, 'write',  104, 'vm vcpu'], // kvm_enable_cap
  KVM_GET_TSC_KHZ:              [0xa3, 'none',     0, 'vm vcpu'],
  KVM_GET_XSAVE:                [0xa4, 'read',  4096, 'vcpu'], // kvm_xsave
  KVM_SET_XSAVE:                [0xa5, 'write', 4096, 'vcpu'], // kvm_xsave
  KVM_SIGNAL_MSI:               [0xa5, 'write',   32, 'vm'], // kvm_msi
  KVM_GET_XCRS:                 [0xa6, 'read',   392, 'vcpu'], // kvm_xcrs
  KVM_SET_XCRS:                 [0xa7, 'write',  392, 'vcpu'], // kvm_xcrs
  KVM_KVMCLOCK_CTRL:            [0xad, 'none',     0, 'vcpu'],
  KVM_SMI:                      [0xb7, 'none',     0, 'vcpu'],
  KVM_GET_NESTED_STATE:         [0xbe, 'both',   128, 'vcpu'], // kvm_nested_state
  KVM_SET_NESTED_STATE:         [0xbf, 'write',  128, 'vcpu'], // kvm_nested_state
  KVM_CLEAR_DIRTY_LOG:          [0xc0, 'both',    24, 'vm'], // kvm_clear_dirty_log
  KVM_X86_SET_MSR_FILTER:       [0xc6, 'write',  392, 'vm'], // kvm_msr_filter
  KVM_RESET_DIRTY_RINGS:        [0xc7, 'none',     0, 'vm'],
  KVM_GET_SREGS2:               [0xcc, 'read',   320, 'vcpu'], // kvm_sregs2
  KVM_SET_SREGS2:               [0xcd, 'write',  320, 'vcpu'], // kvm_sregs2
  KVM_GET_STATS_FD:             [0xce, 'none',     0, 'vm vcpu'],
  KVM_GET_XSAVE2:               [0xcf, 'read',  4096, 'vcpu'], // kvm_xsave
  KVM_PRE_FAULT_MEMORY:         [0xd5, 'both',    64, 'vcpu'], // kvm_pre_fault_memory
  KVM_CREATE_DEVICE:            [0xe0, 'both',    12, 'vm'], // kvm_create_device
  KVM_SET_DEVICE_ATTR:          [0xe1, 'write',   24, 'vm vcpu device'], // kvm_device_attr
  KVM_GET_DEVICE_ATTR:          [0xe2, 'write',   24, 'vm vcpu device system'], // kvm_device_attr
  KVM_HAS_DEVICE_ATTR:          [0xe3, 'write',   24, 'vm vcpu device system'], // kvm_device_attr
} as const satisfies Record<string, Row>;

export type RequestName = keyof typeof TABLE;

/** One request: its code, and what the code says. */
interface Request {
  readonly name: RequestName;
  readonly code: number;
  readonly direction: Direction;
  /** Bytes of the fixed part of the argument; 0 when the argument is a plain number or absent. */
  readonly bytes: number;
  /** The kinds of descriptor that accept it. */
  readonly on: readonly FdKind[];
}

/** `_IOC()` of Linux's asm-generic/ioctl.h. */
const encode = (direction: Direction, nr: number, bytes: number): number => ((DIRECTION[direction] << 30) | (bytes << 16) | (KVMIO << 8) | nr) >>> 0;

const requests = (Object.entries(TABLE) as [RequestName, Row][]).map(
  ([name, [nr, direction, bytes, on]]): Request => ({
    name,
    code: encode(direction, nr, bytes),
    direction,
    bytes,
    on: on.split(' ') as FdKind[],
  }),
);

/** Request codes by name: `IOCTL.KVM_RUN`. */
export const IOCTL = Object.fromEntries(requests.map(({ name, code }) => [name, code])) as Readonly<Record<RequestName, number>>;

const byCode = new Map(requests.map((request) => [request.code, request]));

/** What a code means, or undefined for a code that is not KVM's. */
export const requestOf = (code: number): Request | undefined => byCode.get(code >>> 0);
