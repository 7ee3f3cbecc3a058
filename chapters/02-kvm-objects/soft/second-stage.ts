// # What virtualizes memory
//
// KVM can let a guest have its own page tables in two ways. *Two-dimensional paging* gives the processor a second set of tables and stays out of the
// guest's. *Shadow paging*, for processors without a second stage, builds the tables that the processor really uses out of the guest's, and has to
// see each thing that the guest does to them. Nothing else in the kernel wants to know which it is. So a VM owns one object that answers for
// memory, and the rest (registers, slots, the loop around VM entry, the emulator) tells it what happens and asks it what it needs.
//
// Linux has the same line in two places: the callbacks of `struct kvm_mmu`, which differ between the methods, and those of `struct kvm_x86_ops` that
// depend on them. The interface below is both, as one list. `SoftKernel` has a factory that makes the object for a new VM, and a later chapter may
// replace the factory.
//
// ## The life of the object
//
// `makeMemoryVirtualization(vm)` runs inside the constructor of the VM. For each new vCPU `setUpVcpu` runs once its VMCS has the kernel's common
// controls, and before any register has been written; so a method can keep state of its own for each vCPU (a `WeakMap`, or a `Map` by id) and rely on
// it in every other call. While a method's call runs that names a vCPU, that vCPU's VMCS is current: `vm.hardware.read` and `write` reach its fields.

import type { Gpa, Hpa, Hva } from '../../01-hardware-background/physical-memory.ts';
import { CR0, CR4 } from '../../01-hardware-background/state.ts';
import type { EntryOutcome } from '../../01-hardware-background/vmx/vmx.ts';
import type { MemorySlot } from './slots.ts';
import type { SoftVcpu } from './vcpu.ts';

// ## Answers to an exit
//
// The exit reasons that come from translation belong to the method: EPT violation and misconfiguration for the one, page faults, INVLPG, INVPCID and
// moves to CR3 for the other. Its handlers are asked before the loop's own. What a handler may need of the loop is handed to it, because the loop is
// a later chapter's.

/** What a handler can have done. Each method's result is the handler's result: 1 enter again, 0 leave for user space, negative an errno. */
export interface ExitServices {
  readonly vcpu: SoftVcpu;
  /** Goes past the instruction that exited. Linux: `kvm_skip_emulated_instruction()`. */
  skip(): number;
  /** Goes past it, or injects #GP(0) when it could not be done. Linux: `kvm_complete_insn_gp()`. */
  complete(done: boolean): number;
  /** Injects an exception. `payload`: CR2 of a page fault. Linux: `kvm_queue_exception_e()`, `kvm_inject_page_fault()`. */
  inject(vector: number, errorCode?: number | null, payload?: bigint | null): number;
  /**
   * Emulates the instruction at RIP: an access to a device, or a write to a page that the guest must not write by itself. If the exit interrupted the
   * delivery of an event there is no instruction, and the answer is KVM_INTERNAL_ERROR_DELIVERY_EV; a method that can do better then (unprotect the
   * page and let the delivery be tried again) looks at IDT_VECTORING_INFO_FIELD first. Linux: `x86_emulate_instruction()`.
   */
  emulate(): number;
  /** KVM_EXIT_MEMORY_FAULT for the page of `gpa`, and EFAULT. Linux: `kvm_mmu_prepare_memory_fault_exit()`. */
  memoryFault(gpa: Gpa): number;
}

/** Null: not this one; the loop's own handler is next. */
export type ExitHandler = (services: ExitServices) => number | null;

// ## The interface

/** Bits of CR0 and CR4 that a guest can have for itself under any method that need not see paging change (`KVM_POSSIBLE_CR0_GUEST_BITS` and CR4's). */
export const GUEST_OWNED = {
  CR0: CR0.TS | CR0.WP,
  CR4: CR4.PVI | CR4.DE | CR4.PCE | CR4.OSFXSR | CR4.OSXMMEXCPT | CR4.PGE | CR4.TSD,
} as const;

/** How one VM's memory is virtualized. */
export interface MemoryVirtualization {
  /** For reports: `ept`, `shadow`. */
  readonly name: string;
  /** False when RAM had no room for what the VM needs from the start: then there is no VM. */
  readonly ready: boolean;

  // A vCPU's life

  /** Writes what this method wants in the execution controls of a new vCPU's VMCS. Linux: part of `init_vmcs()`. */
  setUpVcpu(vcpu: SoftVcpu): void;
  /** The vCPU goes. Its VMCS is not current. */
  freeVcpu(vcpu: SoftVcpu): void;
  /** Before each VM entry: roots, pending flushes. 1 enter; 0 leave with the exit that it has put into the shared page; negative errno. Linux: `kvm_mmu_reload()`. */
  prepareEntry(vcpu: SoftVcpu): number;
  /**
   * Instead of a VM entry, for a guest whose state the hardware cannot hold under this method: runs at most so many instructions in software. As from a
   * VM exit, the VMCS then has the guest's state and the exit information. Null: the hardware can. Linux: `handle_invalid_guest_state()`.
   */
  interpret?(vcpu: SoftVcpu, instructions: number): EntryOutcome | null;
  /** Handlers by basic exit reason. The map may not change after `setUpVcpu`. */
  readonly exits: ReadonlyMap<number, ExitHandler>;
  /** Exceptions that shall exit, one bit for each vector, besides those that the loop wants. The loop's writer of EXCEPTION_BITMAP adds them. */
  readonly exceptions: number;

  // Registers
  //
  // What the guest believes to be in a register, and what is in it while the guest runs, can differ. `vcpu.cr0`, `vcpu.cr3`, `vcpu.cr4`, `vcpu.efer`
  // are always the guest's own; these calls tell what the VMCS is to hold.

  /** Bits of CR0 and CR4 that the guest may read and write without an exit; for the others the VMCS has the read shadow. */
  readonly cr0GuestOwned: number;
  readonly cr4GuestOwned: number;
  /** GUEST_CR0, GUEST_CR4 and GUEST_IA32_EFER for a guest's value. CR0.NE, CR4.VMXE and the IA-32e entry control are the caller's business. */
  hardwareCr0(vcpu: SoftVcpu, cr0: bigint): bigint;
  hardwareCr4(vcpu: SoftVcpu, cr4: bigint): bigint;
  hardwareEfer(vcpu: SoftVcpu, efer: bigint): bigint;
  /** The guest's CR3, wherever the method keeps it. */
  cr3(vcpu: SoftVcpu): bigint;
  /** CR3 changes; translations stay as they are (see `flushGuest`). Called for a vCPU in any mode. */
  setCr3(vcpu: SoftVcpu, value: bigint): void;
  /** PAE's four registers. */
  pdptrs(vcpu: SoftVcpu): readonly bigint[];
  setPdptrs(vcpu: SoftVcpu, entries: readonly bigint[]): void;
  /** CR0, CR4 or EFER was written: which tables a walk uses, or how rights are read, may be different now. Linux: `kvm_mmu_reset_context()`. */
  modeChanged(vcpu: SoftVcpu): void;
  /** MOV to CR3 by the guest, after `setCr3`. `keep`: bit 63 asked that translations stay (with PCIDs). Linux: `kvm_mmu_new_pgd()`. */
  newCr3(vcpu: SoftVcpu, keep: boolean): void;
  /** The guest's translations are void, for a reason that the guest can rely on. Linux: KVM_REQ_TLB_FLUSH_GUEST. */
  flushGuest(vcpu: SoftVcpu): void;

  // Memory

  /**
   * The slots changed: `old` is no more (or null: there was none), `now` is in its place (null: it was deleted). They have the same backing if both are
   * there; position and flags may differ. The set of slots already has the new state. Linux: `kvm_arch_commit_memory_region()` and, for what is
   * no longer true, `kvm_arch_flush_shadow_memslot()`.
   */
  slotChanged(old: MemorySlot | null, now: MemorySlot | null): void;
  /** The VMM took memory back: no translation may lead there. Linux: the MMU notifier. */
  unmapped(hva: Hva, bytes: number): void;
  /**
   * Takes write permission from pages of a slot, so that the next write to each is noticed. Bit n of `mask` stands for page `first + n`; no mask: the
   * `count` pages from `first`. Includes the flush. Linux: `kvm_arch_mmu_enable_log_dirty_pt_masked()`.
   */
  writeProtect(slot: MemorySlot, first: number, count: number, mask?: Uint8Array): void;
  /**
   * Puts into the slot's bitmap what only the tables know of written pages; the tables forget it. A method that protects pages knows nothing else, and
   * has no such call. Linux: `kvm_arch_sync_dirty_log()`.
   */
  collectDirty?(slot: MemorySlot): void;
  /** The kernel itself wrote guest memory: the emulator, or a walk that set accessed and dirty bits. Linux: `kvm_page_track_write()`. */
  wrote(gpa: Gpa, hpa: Hpa, bytes: number): void;
  /** Makes the translation of a page exist, as a read by the guest would: the bytes it covers from `gpa` on, or -errno. Linux: `kvm_tdp_map_page()`. */
  prefault(vcpu: SoftVcpu, gpa: Gpa): number;
  /** Forgets every translation. */
  zapAll(): void;
  /** How many tables there are now, and how many there may be: the older ones are given up for the newer. */
  readonly tables: number;
  tableLimit: number;
  /** The VM goes: every page back to its owner. */
  free(): void;
}
