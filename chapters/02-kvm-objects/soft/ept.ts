// # The second stage, as tables
//
// With EPT the processor translates twice: the guest's own tables take a linear address to a guest physical one, and a second set of tables, which
// the guest cannot see, takes that to a host physical one. The format is the familiar four-level tree; only the permission bits differ (read, write
// and execute are three separate bits, and an entry with none of them is "not present").
//
// KVM fills this tree *lazily*. A fresh VM has an empty root. The first touch of every page is a VM exit (EPT violation), the slot tells which page
// of the VMM's memory it is, and one entry is written. Then the guest runs at hardware speed. A tree can thus be thrown away at any time, and that
// is the simplest way to make a change of slots safe: forget everything, let the guest fault it in again (`kvm_mmu_zap_all_fast()`).
//
// For an address that no slot covers KVM writes an entry as well: a deliberately *wrong* one (writable but not readable). The processor reports a
// wrong entry as another exit, EPT misconfiguration, so that a device register is recognised without a lookup. Slots come and go, so these entries
// die with the rest.

import { type Gpa, type Hpa, PAGE_BYTES, type PhysicalMemory } from '../../01-hardware-background/physical-memory.ts';
import type { RamOwners } from './memory.ts';

/** Bits of an EPT entry (Intel SDM vol. 3, "The Extended Page Table Mechanism"). */
const EPT_ENTRY = { READ: 1, WRITE: 2, EXECUTE: 4, MEMORY_TYPE_WB: 6 << 3, ACCESSED: 1 << 8, DIRTY: 1 << 9 } as const;
const ALL = EPT_ENTRY.READ | EPT_ENTRY.WRITE | EPT_ENTRY.EXECUTE;
/** Writable and executable without being readable: a misconfiguration on every processor, and so KVM's mark for a device page (`shadow_mmio_value`). */
const MMIO_MARK = EPT_ENTRY.WRITE | EPT_ENTRY.EXECUTE;

const LEVELS = 4;
const ENTRY_BYTES = 8;
const ENTRIES = PAGE_BYTES / ENTRY_BYTES;

/** One VM's second-stage tables. */
export class Ept {
  readonly #memory: PhysicalMemory;
  readonly #ram: RamOwners;
  readonly #tables: Hpa[] = [];
  /** Host physical address of the top-level table; -1 when RAM had no room for it. */
  readonly root: Hpa;

  constructor(memory: PhysicalMemory, ram: RamOwners) {
    this.#memory = memory;
    this.#ram = ram;
    this.root = ram.kernelPages();
  }

  /** How many tables hang below the root. A guest decides how many it takes, so somebody has to count. */
  get tables(): number {
    return this.#tables.length;
  }

  /** Maps one page; false when no page is left for a table. */
  map(gpa: Gpa, hpa: Hpa, writable: boolean): boolean {
    return this.#set(gpa, hpa, EPT_ENTRY.READ | EPT_ENTRY.EXECUTE | (writable ? EPT_ENTRY.WRITE : 0) | EPT_ENTRY.MEMORY_TYPE_WB);
  }

  /** Marks one page as a device's: the next access exits as EPT misconfiguration. */
  markMmio(gpa: Gpa): boolean {
    return this.#set(gpa, 0, MMIO_MARK);
  }

  /** Takes write permission from every mapped page of a range: the next write to each faults once. Returns how many pages lost it. */
  writeProtect(gpa: Gpa, bytes: number): number {
    let changed = 0;
    for (let at = gpa; at < gpa + bytes; at += PAGE_BYTES) {
      const entry = this.#leaf(at, false);
      if (entry < 0) continue;
      const low = this.#memory.view.getUint32(entry, true);
      if ((low & ALL) !== ALL) continue;
      this.#memory.view.setUint32(entry, low & ~EPT_ENTRY.WRITE, true);
      changed++;
    }
    return changed;
  }

  /** Forgets every translation and gives the tables back, all but the root. The caller owes the processor an INVEPT. */
  clear(): void {
    for (const table of this.#tables) this.#ram.freeKernelPages(table);
    this.#tables.length = 0;
    if (this.root >= 0) this.#memory.slice(this.root, PAGE_BYTES).fill(0);
  }

  /** Gives everything back. */
  free(): void {
    this.clear();
    if (this.root >= 0) this.#ram.freeKernelPages(this.root);
  }

  #set(gpa: Gpa, hpa: Hpa, bits: number): boolean {
    const entry = this.#leaf(gpa, true);
    if (entry < 0) return false;
    this.#memory.view.setUint32(entry, (hpa % 2 ** 32) + bits, true);
    this.#memory.view.setUint32(entry + 4, Math.floor(hpa / 2 ** 32), true);
    return true;
  }

  /** Buffer offset of the last-level entry for `gpa`; -1 when a table on the way is missing and `create` is false, or there is no room for it. */
  #leaf(gpa: Gpa, create: boolean): number {
    const { view } = this.#memory;
    let table = this.root;
    for (let level = LEVELS; level > 1; level--) {
      const entry = this.#memory.offset(table + this.#index(gpa, level) * ENTRY_BYTES, ENTRY_BYTES);
      const low = view.getUint32(entry, true);
      if (low & ALL) {
        table = ((low & -PAGE_BYTES) >>> 0) + view.getUint32(entry + 4, true) * 2 ** 32;
        continue;
      }
      if (!create) return -1;
      const next = this.#ram.kernelPages();
      if (next < 0) return -1;
      this.#tables.push(next);
      view.setUint32(entry, (next % 2 ** 32) + ALL, true);
      view.setUint32(entry + 4, Math.floor(next / 2 ** 32), true);
      table = next;
    }
    return this.#memory.offset(table + this.#index(gpa, 1) * ENTRY_BYTES, ENTRY_BYTES);
  }

  #index(gpa: Gpa, level: number): number {
    return Math.floor(gpa / (PAGE_BYTES * ENTRIES ** (level - 1))) % ENTRIES;
  }
}
