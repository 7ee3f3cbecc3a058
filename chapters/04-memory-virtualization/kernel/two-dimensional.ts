// # Two dimensions
//
// The guest's tables translate in one direction, the hypervisor's in the other, and the processor walks both. Compared with shadow paging there is
// wonderfully little to do: the kernel never looks at the guest's tables, and all that a guest does with its own paging costs no exit. What is left is
// a function from a guest physical address to an entry, called for each address that has none yet.
//
// The interesting decision in that function is the *size*. A large page may be used where three things agree. The slot must hold all of it. Guest
// physical and host physical address must lie at the same distance from a boundary of that size: a slot that begins one page off costs its guest
// every large page, which is why VMMs align RAM and why memory that is large is given out aligned. And the host's memory must be contiguous there,
// which is where huge pages on the host come in. Then there is a reason against: while writes to a slot are logged, a page that is written makes the
// *whole* page dirty, so that one byte would send 2 MiB over the network. So logging splits, and its end collapses.

import { type Gpa, type Hva, PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { FIELD } from '../../01-hardware-background/vmx/vmcs.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import { eptPointer } from '../../02-kvm-objects/soft/hardware.ts';
import { defaultTableLimit, EptRegisters, eptExits } from '../../02-kvm-objects/soft/lazy-ept.ts';
import type { ExitHandler, MemoryVirtualization } from '../../02-kvm-objects/soft/second-stage.ts';
import { isLogged, type MemorySlot } from '../../02-kvm-objects/soft/slots.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import type { Backing, SoftVm } from '../../02-kvm-objects/soft/vm.ts';
import { bytesAt, EptTables, LEVEL, type LeafLevel, RIGHTS } from './ept-tables.ts';
import { runs } from './runs.ts';

export interface TwoDimensionalOptions {
  /** The largest page to use. Linux's module parameter `hugepages` has less to say: it goes by what backs the memory. */
  readonly largest?: LeafLevel;
  /** How writes to a logged slot are noticed. Default: `protect`. */
  readonly dirty?: 'protect' | 'bits';
}

/** EPT with pages of three sizes. Linux: `arch/x86/kvm/mmu/tdp_mmu.c`. */
export class TwoDimensional extends EptRegisters implements MemoryVirtualization {
  readonly name = 'ept';
  readonly tree: EptTables;
  readonly exits: ReadonlyMap<number, ExitHandler>;
  readonly #vm: SoftVm;
  readonly #largest: LeafLevel;
  readonly #dirtyBits: boolean;
  #limit: number | null = null;

  constructor(vm: SoftVm, { largest = LEVEL.PAGE_1G, dirty = 'protect' }: TwoDimensionalOptions = {}) {
    super();
    this.#vm = vm;
    this.#largest = largest;
    this.#dirtyBits = dirty === 'bits';
    this.tree = new EptTables(vm.hardware.memory, vm.hardware.ram);
    this.exits = eptExits(vm, (gpa, write) => this.fault(gpa, write));
  }

  get ready(): boolean {
    return this.tree.root >= 0;
  }

  setUpVcpu(_vcpu: SoftVcpu): void {
    this.#vm.hardware.write(FIELD.EPT_POINTER, eptPointer(this.tree.root));
  }

  // ## A fault

  /** The largest page that may map `gpa` in this slot. Linux: `kvm_mmu_max_mapping_level()`. */
  level(slot: MemorySlot, gpa: Gpa): LeafLevel {
    if (isLogged(slot)) return LEVEL.PAGE_4K;
    for (let level = this.#largest; level > LEVEL.PAGE_4K; level--) if (this.#fits(slot, gpa, level)) return level as LeafLevel;
    return LEVEL.PAGE_4K;
  }

  #fits(slot: MemorySlot, gpa: Gpa, level: number): boolean {
    const size = bytesAt(level);
    const start = gpa - (gpa % size);
    if (start < slot.gpa || start + size > slot.gpa + slot.bytes) return false;
    const hpa = this.#vm.hardware.ram.hpaOf(slot.hva + (start - slot.gpa), size);
    return hpa >= 0 && hpa % size === 0;
  }

  // @clause kvm.memory.large-pages
  /** Makes the entry for `gpa` what the slots say. `full`: RAM has no room for tables, whatever is given up. Linux: `kvm_tdp_page_fault()`. */
  fault(gpa: Gpa, write: boolean): Backing | 'full' {
    const backing = this.#vm.backing(gpa, write);
    if (backing.kind === 'hole') return backing;
    const slot = this.#vm.slots.find(gpa);
    const enter = (): boolean => {
      // A write to a read-only slot is emulated, and the page stays readable. What no slot has gets its mark.
      if (backing.kind === 'device') return slot !== null || this.tree.markMmio(gpa - (gpa % PAGE_BYTES));
      if (!slot) return false;
      const level = this.level(slot, gpa);
      const inside = gpa % bytesAt(level);
      const writable = backing.writable && (write || !this.#protects(slot));
      const replaced = this.tree.find(gpa);
      if (!this.tree.map(gpa - inside, level, backing.hpa - inside, writable ? RIGHTS.ALL : RIGHTS.READ | RIGHTS.EXECUTE)) return false;
      if (replaced && replaced.level !== level) this.#flush();
      return true;
    };
    if (this.tables >= this.tableLimit) this.#reclaim();
    if (!enter()) {
      this.zapAll();
      if (!enter()) return 'full';
    }
    if (write && slot && backing.kind === 'ram' && this.#protects(slot)) this.#vm.slots.markDirty(slot, gpa);
    return backing;
  }

  prefault(_vcpu: SoftVcpu, gpa: Gpa): number {
    const backing = this.fault(gpa, false);
    if (backing === 'full') return -ERRNO.ENOMEM;
    if (backing.kind !== 'ram') return backing.kind === 'device' ? -ERRNO.ENOENT : -ERRNO.EFAULT;
    const size = bytesAt(this.tree.find(gpa)?.level ?? LEVEL.PAGE_4K);
    return size - (gpa % size);
  }

  // ## The slots change

  // @clause kvm.memory.zap-precisely
  slotChanged(old: MemorySlot | null, now: MemorySlot | null): void {
    const moved = !old || !now || old.gpa !== now.gpa;
    if (moved) {
      // Of a slot that is no more, the pages; where one is new, the marks that say "device".
      this.#collectAll();
      if (old && now) this.#collect(old, now);
      let changed = false;
      for (const slot of [old, now]) if (slot) changed = this.tree.zap(slot.gpa, slot.bytes) || changed;
      if (changed) this.#flush();
      return;
    }
    if (isLogged(now) && !isLogged(old)) {
      // With KVM_DIRTY_LOG_INITIALLY_SET everything counts as written, and a page is protected when its bit is cleared.
      if (!this.#vm.slots.initiallyDirty) this.writeProtect(now, 0, now.bytes / PAGE_BYTES);
    } else if (isLogged(old) && !isLogged(now)) this.#collapse(now);
  }

  /** Drops the tables where the slot could have a large page. Linux: `kvm_tdp_mmu_recover_huge_pages()`. */
  #collapse(slot: MemorySlot): void {
    let changed = false;
    for (let at = slot.gpa; at < slot.gpa + slot.bytes; ) {
      const level = this.level(slot, at);
      if (level > LEVEL.PAGE_4K) changed = this.tree.collapse(at, level) || changed;
      const size = Math.max(bytesAt(level), bytesAt(LEVEL.PAGE_2M));
      at += size - (at % size);
    }
    if (changed) this.#flush();
  }

  unmapped(hva: Hva, bytes: number): void {
    let changed = false;
    this.#collectAll();
    for (const slot of this.#vm.slots.all) {
      const from = Math.max(hva, slot.hva);
      const to = Math.min(hva + bytes, slot.hva + slot.bytes);
      if (from < to) changed = this.tree.zap(slot.gpa + (from - slot.hva), to - from) || changed;
    }
    if (changed) this.#flush();
  }

  // ## Writes are watched

  writeProtect(slot: MemorySlot, first: number, count: number, mask?: Uint8Array): void {
    let changed = false;
    for (const [from, pages] of mask ? runs(mask, count) : [[0, count] as const]) {
      const gpa = slot.gpa + (first + from) * PAGE_BYTES;
      changed = this.tree.split(gpa, pages * PAGE_BYTES) || changed;
      if (!this.#protects(slot)) changed = this.tree.harvestDirty(gpa, pages * PAGE_BYTES, () => {}) || changed;
      else changed = this.tree.protect(gpa, pages * PAGE_BYTES) > 0 || changed;
    }
    if (changed) this.#flush();
  }

  // ## The other way to know
  //
  // Protecting costs an exit for each page and round. But the processor writes dirty bits into these tables in any case. So: leave the pages writable,
  // clear the dirty bits, and read them when somebody asks. The guest then runs without a single exit for the log; what is paid instead is a scan of all
  // its last-level entries for every question, by the one who asks. Intel built a third way on the same bits, *page-modification logging*, where the
  // processor appends the address to a list whenever it sets one: no scan, and an exit for every 512 pages. A dirty bit must be read
  // before its entry is dropped; everything below that drops entries collects first. And it comes without a name: for a ring, which vCPU wrote would have
  // to be known, so there pages are protected whatever the option says.

  /** Whether a write to the slot is noticed by a fault. */
  #protects(slot: MemorySlot): boolean {
    return isLogged(slot) && (!this.#dirtyBits || this.#vm.slots.dirtyRing !== null);
  }

  collectDirty(slot: MemorySlot): void {
    if (this.#collect(slot, slot)) this.#flush();
  }

  /** Reads the dirty bits where `at` is mapped, for the bitmap of `slot`: of a slot that moves the bits are still at the old place. */
  #collect(at: MemorySlot, slot: MemorySlot): boolean {
    if (!isLogged(slot) || this.#protects(slot)) return false;
    return this.tree.harvestDirty(at.gpa, at.bytes, (gpa, bytes) => {
      for (let page = gpa; page < gpa + bytes; page += PAGE_BYTES) this.#vm.slots.markDirty(slot, slot.gpa + (page - at.gpa));
    });
  }

  #collectAll(): void {
    for (const slot of this.#vm.slots.all) this.#collect(slot, slot);
  }

  // ## The number of tables
  //
  // A guest chooses which addresses it touches, and thereby how many tables it takes from the host: one access to each gigabyte costs two tables apiece.
  // So there is a limit, and beyond it tables that the processor has not used lately are given up. A guest that needs more at a time than it may have
  // gets slow, and nobody else does. (The limit cannot be set so low that one instruction's pages do not fit: it would fault for ever.)

  get tables(): number {
    return this.tree.tables;
  }
  get tableLimit(): number {
    return this.#limit ?? defaultTableLimit(this.#vm.slots.all);
  }
  set tableLimit(tables: number) {
    this.#limit = tables;
    if (this.tables > tables) this.#reclaim();
  }

  // @clause kvm.mmu.table-limit
  #reclaim(): void {
    this.#collectAll();
    this.tree.reclaim();
    // Nothing was idle, or not enough: the first pass has cleared the accessed bits, so that the second takes whatever is left.
    if (this.tables >= this.tableLimit) this.tree.clear();
    this.#flush();
  }

  zapAll(): void {
    this.#collectAll();
    this.tree.clear();
    this.#flush();
  }

  /** INVEPT for this VM's tables. Linux: `kvm_flush_remote_tlbs()`; here there is one processor. */
  #flush(): void {
    if (this.ready) this.#vm.hardware.inveptContext(this.tree.root);
  }

  free(): void {
    this.tree.free();
  }
}
