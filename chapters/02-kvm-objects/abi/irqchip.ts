// # The state of the interrupt controllers
//
// A program that saves a machine, or moves it to another host, must be able to carry the controllers that live in the kernel. Their states cross
// the line as the structures below. They are older than most of KVM and show it: the fields of the 8259 are those of the model that KVM
// inherited, not of the chip, and the local APIC is a copy of its register page.

import { bytes, layout, nested, u8, u16le, u32le, u64le } from '../../01-hardware-background/layout.ts';
import { U64 } from './registers.ts';

/** KVM_IRQ_LINE and KVM_IRQ_LINE_STATUS. The second overwrites `irq` with the status. */
export const KvmIrqLevel = layout('kvm_irq_level', { irq: u32le(0), level: u32le(4) });

/** KVM_SIGNAL_MSI: a message as a device would have written it. */
export const KvmMsi = layout('kvm_msi', {
  address_lo: u32le(0),
  address_hi: u32le(4),
  data: u32le(8),
  flags: u32le(12),
  devid: u32le(16),
  pad: bytes(20, 12),
});

/** KVM_GET_IRQCHIP, KVM_SET_IRQCHIP: `chip` holds the state of the one that `chip_id` names. */
export const KvmIrqchip = layout('kvm_irqchip', { chip_id: u32le(0), pad: u32le(4), chip: bytes(8, 512) });

/** `kvm_irqchip.chip_id`, and `irqchip` of a routing entry. */
export const IRQCHIP = { KVM_IRQCHIP_PIC_MASTER: 0, KVM_IRQCHIP_PIC_SLAVE: 1, KVM_IRQCHIP_IOAPIC: 2 } as const;

/** One 8259. */
export const KvmPicState = layout('kvm_pic_state', {
  last_irr: u8(0), // the levels of the inputs, for finding edges
  irr: u8(1),
  imr: u8(2),
  isr: u8(3),
  priority_add: u8(4), // the input with the highest priority
  irq_base: u8(5), // ICW2
  read_reg_select: u8(6), // a read of the command port gives ISR, else IRR
  poll: u8(7),
  special_mask: u8(8),
  init_state: u8(9), // the ICW that the data port expects next, less one; 0: none
  auto_eoi: u8(10),
  rotate_on_auto_eoi: u8(11),
  special_fully_nested_mode: u8(12),
  init4: u8(13), // ICW1 announced an ICW4
  elcr: u8(14),
  elcr_mask: u8(15), // which inputs may be level-triggered
});

/** The I/O APIC: 24 redirection entries of 64 bits. */
export const KvmIoapicState = layout('kvm_ioapic_state', {
  base_address: u64le(0),
  ioregsel: u32le(8),
  id: u32le(12),
  irr: u32le(16), // the levels of the inputs
  pad: u32le(20),
  redirtbl: nested(24, U64, 24),
});

/** KVM_GET_LAPIC, KVM_SET_LAPIC: the first KiB of the register page, registers 16 bytes apart. */
export const KvmLapicState = layout('kvm_lapic_state', { regs: bytes(0, 1024) });

/** One counter of the 8254. */
export const KvmPitChannelState = layout('kvm_pit_channel_state', {
  count: u32le(0), // can be 65536
  latched_count: u16le(4),
  count_latched: u8(6),
  status_latched: u8(7),
  status: u8(8),
  read_state: u8(9),
  write_state: u8(10),
  write_latch: u8(11),
  rw_mode: u8(12),
  mode: u8(13),
  bcd: u8(14),
  gate: u8(15),
  count_load_time: u64le(16), // nanoseconds of the host's monotonic clock
});

/** KVM_GET_PIT2, KVM_SET_PIT2. */
export const KvmPitState2 = layout('kvm_pit_state2', { channels: nested(0, KvmPitChannelState, 3), flags: u32le(72), reserved: bytes(76, 36) });

/** `kvm_pit_state2.flags`. */
export const PIT_FLAGS = { KVM_PIT_FLAGS_HPET_LEGACY: 1, KVM_PIT_FLAGS_SPEAKER_DATA_ON: 2 } as const;

/** KVM_CREATE_PIT2. With KVM_PIT_SPEAKER_DUMMY the kernel answers port 0x61 too. */
export const KvmPitConfig = layout('kvm_pit_config', { flags: u32le(0), pad: bytes(4, 60) });
export const KVM_PIT_SPEAKER_DUMMY = 1;

/** Head of `struct kvm_irq_routing`; `nr` entries follow. */
export const KvmIrqRouting = layout('kvm_irq_routing', { nr: u32le(0), flags: u32le(4) });

/** KVM_SET_GSI_ROUTING. The two kinds that x86 hosts commonly have; their fields overlay each other. */
export const KvmIrqRoutingEntry = layout(
  'kvm_irq_routing_entry',
  {
    gsi: u32le(0),
    type: u32le(4), // IRQ_ROUTING
    flags: u32le(8),
    irqchip: u32le(16), // KVM_IRQ_ROUTING_IRQCHIP: an IRQCHIP
    pin: u32le(20),
    address_lo: u32le(16), // KVM_IRQ_ROUTING_MSI
    address_hi: u32le(20),
    data: u32le(24),
  },
  48,
);
export const IRQ_ROUTING = { KVM_IRQ_ROUTING_IRQCHIP: 1, KVM_IRQ_ROUTING_MSI: 2 } as const;

/** KVM_EXIT_IOAPIC_EOI, at offset 32 of `struct kvm_run`. */
export const RunEoi = layout('kvm_run.eoi', { vector: u8(32) });
