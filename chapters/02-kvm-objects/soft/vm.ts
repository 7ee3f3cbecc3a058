// # A virtual machine
//
// To the kernel a VM is surprisingly little: a set of memory slots, the translations made from them, and the vCPUs that share both. There are
// no devices in it, no disks, no screen, not even a processor until one is asked for. All that is QEMU's business.
//
// A VM lives as long as anyone refers to it. Its own descriptor is one reference, and each vCPU's is another (`kvm_get_kvm()` in
// `kvm_vm_ioctl_create_vcpu()`), so closing the VM descriptor first is legal, and the vCPUs keep running.

import type { Gpa, Hpa, Hva } from '../../01-hardware-background/physical-memory.ts';
import type { Hardware } from './hardware.ts';
import { IoBus, type IoBuses } from './io-bus.ts';
import type { MsrRegister } from './msrs.ts';
import type { MemoryVirtualization } from './second-stage.ts';
import { isReadOnly, MemorySlots } from './slots.ts';
import type { SoftVcpu } from './vcpu.ts';

/** Four levels of EPT translate 48 bits; a processor may report fewer. */
const EPT_ADDRESS_BITS = 48;

/** What the second stage should do with a guest physical address. */
export type Backing =
  | { readonly kind: 'ram'; readonly hpa: Hpa; readonly writable: boolean }
  | { readonly kind: 'device' } // no slot, or a write to a read-only one
  | { readonly kind: 'hole' }; // a slot whose user memory is not there

const DEVICE: Backing = { kind: 'device' };
const HOLE: Backing = { kind: 'hole' };

export class SoftVm {
  readonly hardware: Hardware;
  readonly slots: MemorySlots;
  /** How guest memory is virtualized. */
  readonly mmu: MemoryVirtualization;
  // @clause kvm.vcpu.shared-memory
  readonly vcpus = new Map<number, SoftVcpu>();
  /** Devices in the kernel. */
  readonly buses: IoBuses = { mmio: new IoBus(), pio: new IoBus(), fastMmio: new IoBus() };
  /** MSRs besides this chapter's own. */
  readonly msrs: ReadonlyMap<number, MsrRegister>;
  /** KVM_CAP_EXCEPTION_PAYLOAD and KVM_CAP_X86_TRIPLE_FAULT_EVENT: what the VMM knows of a vCPU's events. */
  exceptionPayload = false;
  tripleFaultEvent = false;
  /** The vCPU that starts by itself (KVM_SET_BOOT_CPU_ID). */
  bootVcpuId = 0;
  readonly #onDestroy: () => void;
  /** KVM_SET_TSS_ADDR and KVM_SET_IDENTITY_MAP_ADDR: pages that processors without unrestricted guest mode need, remembered and not used. */
  tssAddr: Gpa = 0;
  identityMapAddr: Gpa = 0xfffbc000;
  #users = 1;
  /** What else must be looked at before each VM entry: 1 enter, 0 leave with the exit in the shared page, negative errno. Linux: `kvm_request_pending()`. */
  readonly entryChecks: ((vcpu: SoftVcpu) => number)[] = [];

  constructor(
    hardware: Hardware,
    makeMmu: (vm: SoftVm) => MemoryVirtualization,
    onDestroy: () => void,
    msrs: ReadonlyMap<number, MsrRegister> = new Map(),
  ) {
    this.hardware = hardware;
    this.msrs = msrs;
    this.slots = new MemorySlots(2 ** Math.min(EPT_ADDRESS_BITS, hardware.cpu.physicalAddressBits));
    this.mmu = makeMmu(this);
    this.#onDestroy = onDestroy;
  }

  // @clause kvm.vm.lives-while-referenced
  get(): void {
    this.#users++;
  }
  put(): void {
    if (--this.#users > 0) return;
    for (const vcpu of [...this.vcpus.values()]) vcpu.free();
    this.mmu.free();
    this.#onDestroy();
  }

  // ## From guest physical to host physical

  // @clause kvm.memory.readonly
  /** What is behind `gpa`, for a read or for a write. */
  backing(gpa: Gpa, write: boolean): Backing {
    const slot = this.slots.find(gpa);
    if (!slot || (write && isReadOnly(slot))) return DEVICE;
    const hpa = this.hardware.ram.hpaOf(slot.hva + (gpa - slot.gpa));
    return hpa < 0 ? HOLE : { kind: 'ram', hpa, writable: !isReadOnly(slot) };
  }

  /** The host physical address of one guest byte of RAM for the kernel's own access, or -1. A write is logged as dirty. */
  hpaOf(gpa: Gpa, write: boolean): Hpa {
    const slot = this.slots.find(gpa);
    if (!slot || (write && isReadOnly(slot))) return -1;
    if (write) this.slots.markDirty(slot, gpa);
    return this.hardware.ram.hpaOf(slot.hva + (gpa - slot.gpa));
  }

  /** Reads a little-endian entry of guest RAM that does not cross a page; null where no RAM is. Linux: `kvm_vcpu_read_guest_page()`. */
  readEntry(gpa: Gpa, bytes: 4 | 8): bigint | null {
    const hpa = this.hpaOf(gpa, false);
    if (hpa < 0) return null;
    const { memory } = this.hardware;
    const at = memory.offset(hpa, bytes);
    return bytes === 8 ? memory.view.getBigUint64(at, true) : BigInt(memory.view.getUint32(at, true));
  }

  /** The kernel wrote guest memory: whoever has decoded it, or made translations of it, must know. */
  wroteGuest(gpa: Gpa, hpa: Hpa, bytes: number): void {
    this.hardware.wrote(hpa, bytes);
    this.mmu.wrote(gpa, hpa, bytes);
  }

  /** The VMM took memory back: no translation may still lead there. Linux: the MMU notifier. */
  unmapped(hva: Hva, bytes: number): void {
    this.mmu.unmapped(hva, bytes);
  }

  // @clause kvm.memory.hot-change
  /** KVM_SET_USER_MEMORY_REGION. */
  setMemoryRegion(view: DataView): number {
    return this.slots.set(view, (old, now) => this.mmu.slotChanged(old, now));
  }
}
