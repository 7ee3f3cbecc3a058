// # Filling the second stage
//
// The plainest method that works: one tree of 4 KiB pages, filled as the guest touches them, thrown away whole whenever a slot changes. The chapter on
// memory virtualization replaces it by one that knows large pages and forgets precisely.

import { type Gpa, type Hpa, PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { EXIT_REASON } from '../../01-hardware-background/vmx/exit-reasons.ts';
import { FIELD } from '../../01-hardware-background/vmx/vmcs.ts';
import { ERRNO } from '../errno.ts';
import { Ept } from './ept.ts';
import { eptPointer } from './hardware.ts';
import { type ExitHandler, type ExitServices, GUEST_OWNED, type MemoryVirtualization } from './second-stage.ts';
import { isLogged, type MemorySlot } from './slots.ts';
import type { SoftVcpu } from './vcpu.ts';
import type { Backing, SoftVm } from './vm.ts';

/** Tables a VM may always have, and one more for so many pages of its slots: `kvm_mmu_calculate_default_mmu_pages()` has the same two terms. */
const MIN_TABLES = 64;
const PAGES_PER_TABLE = 50;

/** KVM's default bound on page-table pages for these slots. */
export function defaultTableLimit(slots: readonly MemorySlot[]): number {
  return Math.floor(Math.max(MIN_TABLES, slots.reduce((sum, { bytes }) => sum + bytes / PAGE_BYTES, 0) / PAGES_PER_TABLE));
}

// ## Two exits
//
// An EPT violation is a page that is not mapped yet, a write to one that is write-protected, or an access to what is no memory. The slots say which.
// An EPT misconfiguration is an entry that is wrong on purpose: a device page that has been touched before.

const EPT = { READ: 1, WRITE: 2, FETCH: 4, PERMISSIONS: 7 << 3 } as const;
const PF = { PRESENT: 1, WRITE: 2, USER: 4, FETCH: 16 } as const;

/** What a method that fills EPT does about a fault. `full`: RAM has no room for tables. */
type FillEpt = (gpa: Gpa, write: boolean, fetch: boolean) => Backing | 'full';

/** The handlers of EPT violation and misconfiguration. Linux: `handle_ept_violation()`, `handle_ept_misconfig()`, `kvm_mmu_page_fault()`. */
export function eptExits(vm: SoftVm, fill: FillEpt): ReadonlyMap<number, ExitHandler> {
  const gpaOf = ({ vcpu }: ExitServices): Gpa => Number(vcpu.vm.hardware.read(FIELD.GUEST_PHYSICAL_ADDRESS));
  const violation: ExitHandler = (exit) => {
    const gpa = gpaOf(exit);
    const qualification = vm.hardware.read32(FIELD.EXIT_QUALIFICATION);
    const write = (qualification & EPT.WRITE) !== 0;
    const fetch = (qualification & EPT.FETCH) !== 0;
    const errorCode =
      (qualification & EPT.PERMISSIONS ? PF.PRESENT : 0) | (write ? PF.WRITE : 0) | (qualification & EPT.READ ? PF.USER : 0) | (fetch ? PF.FETCH : 0);
    exit.vcpu.trace?.emit({ kind: 'kvm_page_fault', gpa, errorCode });
    const backing = fill(gpa, write, fetch);
    if (backing === 'full') return -ERRNO.ENOMEM;
    if (backing.kind === 'ram') return 1;
    // @clause kvm.exit.memory-fault
    return backing.kind === 'device' ? exit.emulate() : exit.memoryFault(gpa);
  };
  const misconfig: ExitHandler = (exit) => (vm.backing(gpaOf(exit), false).kind === 'device' ? exit.emulate() : violation(exit));
  return new Map([
    [EXIT_REASON.EPT_VIOLATION, violation],
    [EXIT_REASON.EPT_MISCONFIG, misconfig],
  ]);
}

// ## Registers, when the guest's paging is the guest's own
//
// With a second stage CR3 is the guest's, in the VMCS and in the processor, and so are PAE's four entries: VM entry loads them and VM exit saves them.

/** The register half of {@link MemoryVirtualization} for a processor with EPT and unrestricted guests. */
export abstract class EptRegisters {
  readonly exceptions = 0;
  readonly cr0GuestOwned: number = GUEST_OWNED.CR0;
  readonly cr4GuestOwned: number = GUEST_OWNED.CR4;

  hardwareCr0(_vcpu: SoftVcpu, cr0: bigint): bigint {
    return cr0;
  }
  hardwareCr4(_vcpu: SoftVcpu, cr4: bigint): bigint {
    return cr4;
  }
  hardwareEfer(_vcpu: SoftVcpu, efer: bigint): bigint {
    return efer;
  }
  cr3(vcpu: SoftVcpu): bigint {
    return vcpu.vm.hardware.read(FIELD.GUEST_CR3);
  }
  setCr3(vcpu: SoftVcpu, value: bigint): void {
    vcpu.vm.hardware.write(FIELD.GUEST_CR3, value);
  }
  pdptrs(vcpu: SoftVcpu): readonly bigint[] {
    return ([0, 1, 2, 3] as const).map((n) => vcpu.vm.hardware.read(FIELD[`GUEST_PDPTR${n}`]));
  }
  setPdptrs(vcpu: SoftVcpu, entries: readonly bigint[]): void {
    for (const n of [0, 1, 2, 3] as const) vcpu.vm.hardware.write(FIELD[`GUEST_PDPTR${n}`], entries[n] ?? 0n);
  }
  modeChanged(_vcpu: SoftVcpu): void {} // the processor reads the mode from the VMCS at every entry
  newCr3(vcpu: SoftVcpu, keep: boolean): void {
    if (!keep) this.flushGuest(vcpu);
  }
  flushGuest(vcpu: SoftVcpu): void {
    vcpu.vm.hardware.flushGuestTlb(vcpu.vpid);
  }
  freeVcpu(_vcpu: SoftVcpu): void {}
  prepareEntry(_vcpu: SoftVcpu): number {
    return 1;
  }
  wrote(_gpa: Gpa, _hpa: Hpa, _bytes: number): void {} // whose tables those are is nobody's business here
}

// ## The method

export class LazyEpt extends EptRegisters implements MemoryVirtualization {
  readonly name = 'ept';
  readonly ept: Ept;
  readonly exits: ReadonlyMap<number, ExitHandler>;
  readonly #vm: SoftVm;
  #limit: number | null = null;

  constructor(vm: SoftVm) {
    super();
    this.#vm = vm;
    this.ept = new Ept(vm.hardware.memory, vm.hardware.ram);
    this.exits = eptExits(vm, (gpa, write) => this.fault(gpa, write));
  }

  get ready(): boolean {
    return this.ept.root >= 0;
  }
  get tables(): number {
    return this.ept.tables;
  }
  get tableLimit(): number {
    return this.#limit ?? defaultTableLimit(this.#vm.slots.all);
  }
  set tableLimit(tables: number) {
    this.#limit = tables;
    if (this.tables > tables) this.zapAll();
  }

  setUpVcpu(_vcpu: SoftVcpu): void {
    this.#vm.hardware.write(FIELD.EPT_POINTER, eptPointer(this.ept.root));
  }

  /**
   * Writes the EPT entry for `gpa`, for an access that was a write or not. What the entry now is, or `full` when RAM has no room for tables even after
   * the VM's others were given up. Linux: `kvm_tdp_page_fault()` and `kvm_tdp_mmu_map()`.
   */
  fault(gpa: Gpa, write: boolean): Backing | 'full' {
    const page = Math.floor(gpa / PAGE_BYTES) * PAGE_BYTES;
    const backing = this.#vm.backing(gpa, write);
    if (backing.kind === 'hole') return backing;
    const slot = this.#vm.slots.find(gpa);
    const enter = (): boolean => {
      if (backing.kind === 'device') return slot !== null || this.ept.markMmio(page);
      const logged = slot !== null && isLogged(slot);
      return this.ept.map(page, backing.hpa - (backing.hpa % PAGE_BYTES), backing.writable && (write || !logged));
    };
    if (this.tables >= this.tableLimit) this.zapAll();
    if (!enter()) {
      this.zapAll();
      if (!enter()) return 'full';
    }
    if (write && slot && backing.kind === 'ram') this.#vm.slots.markDirty(slot, gpa);
    return backing;
  }

  prefault(_vcpu: SoftVcpu, gpa: Gpa): number {
    const backing = this.fault(gpa, false);
    if (backing === 'full') return -ERRNO.ENOMEM;
    return backing.kind === 'ram' ? PAGE_BYTES - (gpa % PAGE_BYTES) : backing.kind === 'device' ? -ERRNO.ENOENT : -ERRNO.EFAULT;
  }

  slotChanged(_old: MemorySlot | null, _now: MemorySlot | null): void {
    this.zapAll();
  }
  unmapped(_hva: number, _bytes: number): void {
    this.zapAll();
  }

  writeProtect(slot: MemorySlot, first: number, count: number, mask?: Uint8Array): void {
    let changed = 0;
    if (!mask) changed = this.ept.writeProtect(slot.gpa + first * PAGE_BYTES, count * PAGE_BYTES);
    else
      for (let n = 0; n < count; n++)
        if (((mask[n >> 3] as number) >> (n & 7)) & 1) changed += this.ept.writeProtect(slot.gpa + (first + n) * PAGE_BYTES, PAGE_BYTES);
    if (changed > 0) this.#flush();
  }

  zapAll(): void {
    this.ept.clear();
    this.#flush();
  }

  /** INVEPT for this VM's tables. Linux: `kvm_flush_remote_tlbs()`; here there is one processor. */
  #flush(): void {
    if (this.ready) this.#vm.hardware.inveptContext(this.ept.root);
  }

  free(): void {
    this.ept.free();
  }
}
