// # A virtual machine
//
// To the kernel a VM is surprisingly little: a set of memory slots, the second-stage tables made from them, and the vCPUs that share both. There are
// no devices in it, no disks, no screen, not even a processor until one is asked for. All that is QEMU's business.
//
// A VM lives as long as anyone refers to it. Its own descriptor is one reference, and each vCPU's is another (`kvm_get_kvm()` in
// `kvm_vm_ioctl_create_vcpu()`), so closing the VM descriptor first is legal, and the vCPUs keep running.

import { type Gpa, type Hpa, PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { Ept } from './ept.ts';
import type { Hardware } from './hardware.ts';
import { isReadOnly, MemorySlots } from './slots.ts';
import type { SoftVcpu } from './vcpu.ts';

/** Four levels of EPT translate 48 bits; a processor may report fewer. */
const EPT_ADDRESS_BITS = 48;
/** Tables a VM may always have, and one more for so many pages of its slots: `kvm_mmu_calculate_default_mmu_pages()` has the same two terms. */
const MIN_TABLES = 64;
const PAGES_PER_TABLE = 50;

/** What the second stage should do with a guest physical address. */
type Backing =
  | { readonly kind: 'ram'; readonly hpa: Hpa; readonly writable: boolean }
  | { readonly kind: 'device' } // no slot, or a write to a read-only one
  | { readonly kind: 'hole' }; // a slot whose user memory is not there

const DEVICE: Backing = { kind: 'device' };
const HOLE: Backing = { kind: 'hole' };

export class SoftVm {
  readonly hardware: Hardware;
  readonly slots: MemorySlots;
  readonly ept: Ept;
  // @clause kvm.vcpu.shared-memory
  readonly vcpus = new Map<number, SoftVcpu>();
  readonly #onDestroy: () => void;
  /** KVM_SET_TSS_ADDR and KVM_SET_IDENTITY_MAP_ADDR: pages that processors without unrestricted guest mode need, remembered and not used. */
  tssAddr: Gpa = 0;
  identityMapAddr: Gpa = 0xfffbc000;
  #users = 1;

  constructor(hardware: Hardware, onDestroy: () => void) {
    this.hardware = hardware;
    this.slots = new MemorySlots(2 ** Math.min(EPT_ADDRESS_BITS, hardware.cpu.physicalAddressBits));
    this.ept = new Ept(hardware.memory, hardware.ram);
    this.#onDestroy = onDestroy;
  }

  // @clause kvm.vm.lives-while-referenced
  get(): void {
    this.#users++;
  }
  put(): void {
    if (--this.#users > 0) return;
    for (const vcpu of [...this.vcpus.values()]) vcpu.free();
    this.ept.free();
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

  // ## Filling the second stage

  /**
   * Writes the EPT entry for `gpa`, for an access that was a write or not. What the entry now is, or `full` when RAM has no room for tables even after
   * the VM's others were given up. Linux: `kvm_tdp_page_fault()` and `kvm_tdp_mmu_map()`.
   */
  fault(gpa: Gpa, write: boolean): Backing | 'full' {
    const page = Math.floor(gpa / PAGE_BYTES) * PAGE_BYTES;
    const backing = this.backing(gpa, write);
    if (backing.kind === 'hole') return backing;
    const slot = this.slots.find(gpa);
    const enter = (): boolean => {
      if (backing.kind === 'device') return slot !== null || this.ept.markMmio(page);
      const logged = slot !== null && slot.dirty !== null;
      return this.ept.map(page, backing.hpa - (backing.hpa % PAGE_BYTES), backing.writable && (write || !logged));
    };
    if (this.ept.tables >= this.#tableLimit) this.zapAll();
    if (!enter()) {
      this.zapAll();
      if (!enter()) return 'full';
    }
    if (write && slot && backing.kind === 'ram') this.slots.markDirty(slot, gpa);
    return backing;
  }

  get #tableLimit(): number {
    const pages = this.slots.all.reduce((sum, { bytes }) => sum + bytes / PAGE_BYTES, 0);
    return MIN_TABLES + pages / PAGES_PER_TABLE;
  }

  /** Every translation made from the slots is void: a slot changed, or memory went away. */
  zapAll(): void {
    this.ept.clear();
    this.flushRemoteTlbs();
  }

  /** INVEPT for this VM's tables. Linux: `kvm_flush_remote_tlbs()`; here there is one processor. */
  flushRemoteTlbs(): void {
    if (this.ept.root >= 0) this.hardware.inveptContext(this.ept.root);
  }

  /** The VMM took memory back: no entry may still lead there. Linux: the MMU notifier, which is told the range; we forget all. */
  unmapped(): void {
    this.zapAll();
  }

  /** KVM_SET_USER_MEMORY_REGION. */
  setMemoryRegion(view: DataView): number {
    return this.slots.set(view, () => this.zapAll());
  }
}
