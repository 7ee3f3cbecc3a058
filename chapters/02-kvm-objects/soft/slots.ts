// # Memory slots
//
// A slot is a promise by the VMM: these guest physical addresses are those bytes of mine. The kernel keeps the promise in a small sorted set and
// looks there whenever the hardware asks for a page it has not been told about. Everything a guest can ever touch passes through `MemorySlots.find`;
// an address that no slot covers reaches no memory.
//
// The rules for changing a slot are stricter than they need be, on purpose: a slot may move, be deleted, or change its dirty-logging flag; it may
// not change its size or its backing in place. A VMM that wants that deletes the slot and makes a new one, and the guest sees a hole in between,
// which is why machines are stopped for it.

import { type Gpa, type Hva, PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { KVM_MEM, KvmUserspaceMemoryRegion } from '../abi/memory.ts';
import { ERRNO } from '../errno.ts';
import { USER_END } from './memory.ts';

/** KVM_CAP_NR_MEMSLOTS: 2^15 ids, less one and less the three that the kernel keeps for itself. */
export const USER_SLOTS = 32764;
const MAX_PAGES = 2 ** 31 - 1;

export interface MemorySlot {
  readonly id: number;
  readonly gpa: Gpa;
  readonly bytes: number;
  readonly hva: Hva;
  readonly flags: number;
  /** One bit for each page, while KVM_MEM_LOG_DIRTY_PAGES is set. */
  readonly dirty: Uint8Array | null;
}

export const isReadOnly = (slot: MemorySlot): boolean => (slot.flags & KVM_MEM.KVM_MEM_READONLY) !== 0;
/** Whether writes are noted: in the slot's own bitmap, or in a ring of the VM's. */
export const isLogged = (slot: MemorySlot): boolean => (slot.flags & KVM_MEM.KVM_MEM_LOG_DIRTY_PAGES) !== 0;

/** The slots of one VM. `highestGpa` is the first address the processor cannot express. */
export class MemorySlots {
  readonly #byId = new Map<number, MemorySlot>();
  readonly #gpaLimit: number;
  #sorted: readonly MemorySlot[] = [];
  /** Where a written page is noted instead of a bitmap, or null. A slot then has no bitmap. Linux: `kvm->dirty_ring_size`. */
  dirtyRing: ((slot: MemorySlot, page: number) => void) | null = null;
  /** A slot whose log begins counts as written all over. Linux: KVM_DIRTY_LOG_INITIALLY_SET. */
  initiallyDirty = false;
  #last: MemorySlot | null = null; // most lookups hit the slot that the previous one hit

  constructor(gpaLimit: number) {
    this.#gpaLimit = gpaLimit;
  }

  get(id: number): MemorySlot | undefined {
    return this.#byId.get(id);
  }

  get all(): readonly MemorySlot[] {
    return this.#sorted;
  }

  /** The slot that covers `gpa`, or null: then the address is a device's, or nobody's. */
  find(gpa: Gpa): MemorySlot | null {
    const last = this.#last;
    if (last && gpa >= last.gpa && gpa < last.gpa + last.bytes) return last;
    let low = 0;
    let high = this.#sorted.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const slot = this.#sorted[middle] as MemorySlot;
      if (gpa < slot.gpa) high = middle - 1;
      else if (gpa >= slot.gpa + slot.bytes) low = middle + 1;
      else {
        this.#last = slot;
        return slot;
      }
    }
    return null;
  }

  /** KVM_SET_USER_MEMORY_REGION. `changed` is told what was there and what is there now. Linux: `kvm_set_memory_region()`. */
  set(view: DataView, changed: (old: MemorySlot | null, now: MemorySlot | null) => void): number {
    const { slot, flags, guest_phys_addr, memory_size, userspace_addr } = KvmUserspaceMemoryRegion.load(view);
    const page = BigInt(PAGE_BYTES - 1);
    // @clause kvm.memory.slot-id
    const id = slot & 0xffff;
    if (id >= USER_SLOTS || slot >>> 16 !== 0) return -ERRNO.EINVAL;
    // @clause kvm.memory.flags
    if (flags & ~(KVM_MEM.KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM.KVM_MEM_READONLY)) return -ERRNO.EINVAL;
    // @clause kvm.memory.alignment
    if ((memory_size & page) | (guest_phys_addr & page) | (userspace_addr & page)) return -ERRNO.EINVAL;
    if (userspace_addr + memory_size > BigInt(USER_END)) return -ERRNO.EINVAL;
    if (guest_phys_addr + memory_size > 1n << 64n || memory_size >> 12n > BigInt(MAX_PAGES)) return -ERRNO.EINVAL;

    const old = this.#byId.get(id);
    if (memory_size === 0n) {
      // @clause kvm.memory.delete
      if (!old) return -ERRNO.EINVAL;
      this.#replace(id, null);
      changed(old, null);
      return 0;
    }
    if (guest_phys_addr + memory_size > BigInt(this.#gpaLimit)) return -ERRNO.EINVAL;
    const gpa = Number(guest_phys_addr);
    const bytes = Number(memory_size);
    const hva = Number(userspace_addr);
    if (old) {
      // @clause kvm.memory.no-resize
      if (old.hva !== hva || old.bytes !== bytes || (old.flags ^ flags) & KVM_MEM.KVM_MEM_READONLY) return -ERRNO.EINVAL;
      if (old.gpa === gpa && old.flags === flags) return 0;
    }
    // Two slots may show the same memory of the VMM; only guest physical addresses are unique.
    // @clause kvm.memory.alias
    // @clause kvm.memory.overlap
    if (this.#sorted.some((other) => other.id !== id && gpa < other.gpa + other.bytes && other.gpa < gpa + bytes)) return -ERRNO.EEXIST;
    // @clause kvm.memory.move
    const log = flags & KVM_MEM.KVM_MEM_LOG_DIRTY_PAGES;
    const now = { id, gpa, bytes, hva, flags, dirty: log && !this.dirtyRing ? (old?.dirty ?? this.#bitmap(bytes)) : null };
    this.#replace(id, now);
    changed(old ?? null, now);
    return 0;
  }

  /** A bit for each page, in whole words of 64; those beyond the last page stay 0. */
  #bitmap(bytes: number): Uint8Array {
    const pages = bytes / PAGE_BYTES;
    const bitmap = new Uint8Array(Math.ceil(pages / 64) * 8);
    if (this.initiallyDirty) {
      bitmap.fill(0xff, 0, pages >> 3);
      if (pages & 7) bitmap[pages >> 3] = (1 << (pages & 7)) - 1;
    }
    return bitmap;
  }

  /** The guest wrote to this page. */
  markDirty(slot: MemorySlot, gpa: Gpa): void {
    if (!isLogged(slot)) return;
    const page = Math.floor((gpa - slot.gpa) / PAGE_BYTES);
    this.dirtyRing?.(slot, page);
    if (!slot.dirty) return;
    slot.dirty[page >> 3] = (slot.dirty[page >> 3] as number) | (1 << (page & 7));
  }

  #replace(id: number, slot: MemorySlot | null): void {
    if (slot) this.#byId.set(id, slot);
    else this.#byId.delete(id);
    this.#sorted = [...this.#byId.values()].sort((a, b) => a.gpa - b.gpa);
    this.#last = null;
  }
}
