// # Shadow paging as the kernel sees it
//
// The tables are one half. The other half is to keep from the guest that they are there: its CR3 is not in CR3, CR0.WP is set whatever it says, NX
// is on behind its back, page faults come to the hypervisor first. This file is that half. It answers for the registers, and it has the handlers of
// the exits that only this method needs.

import { VECTOR } from '../../01-hardware-background/faults.ts';
import { PF } from '../../01-hardware-background/mmu/paging.ts';
import { assert, type Gpa, type Hpa, PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { CR0, CR4, EFER, FLAG } from '../../01-hardware-background/state.ts';
import { firstViolation, GUEST_CHECKS } from '../../01-hardware-background/vmx/checks.ts';
import { CPU_BASED, SECONDARY } from '../../01-hardware-background/vmx/controls.ts';
import { EXIT_REASON, INTR_INFO } from '../../01-hardware-background/vmx/exit-reasons.ts';
import { FIELD } from '../../01-hardware-background/vmx/vmcs.ts';
import type { EntryOutcome } from '../../01-hardware-background/vmx/vmx.ts';
import { EXIT } from '../../02-kvm-objects/abi/exits.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import { defaultTableLimit, eptExits } from '../../02-kvm-objects/soft/lazy-ept.ts';
import { type ExitHandler, type ExitServices, GUEST_OWNED, type MemoryVirtualization } from '../../02-kvm-objects/soft/second-stage.ts';
import { isLogged, type MemorySlot } from '../../02-kvm-objects/soft/slots.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import type { SoftVm } from '../../02-kvm-objects/soft/vm.ts';
import { type GuestAccess, guestMode } from './guest-mode.ts';
import { Interpreter } from './interpreter.ts';
import { modeKey, ShadowContext, ShadowMmu } from './mmu.ts';

const { mask: E } = PF;
const U64 = 0xffff_ffff_ffff_ffffn;
/** What VMX operation without unrestricted guest fixes, and WP: user and kernel rights must both be enforced. */
const CR0_ALWAYS_ON = BigInt(CR0.PE | CR0.WP) | BigInt(CR0.PG);
/** Below this a fault could not be handled. */
const LEAST_TABLES = 24;
/** Checks of VM entry that say whether segment registers could have come from descriptors. */
const SEGMENT_CHECKS = GUEST_CHECKS.filter(({ clause }) => clause.startsWith('vmx.entry.seg-'));
/** A fault that is handled and comes again at once, so often, is a defect of this kernel. */
const REPEATS = 1000;

/** One vCPU under shadow paging. */
class Shadowed extends ShadowContext {
  /** The guest is run in software now. */
  interpreted = false;
  /** The guest's segments may be such that the hardware cannot hold them. */
  doubtful = true;
  /** The next instruction is to be run in software, whatever the state. */
  once = false;
  /** CR3 of the VMCS is not the root's. */
  rootPending = true;
  repeats = 0;
}

/** What the software has done so far, for comparison with the other method. */
interface ShadowStatistics {
  faults: number;
  guestFaults: number;
  emulatedWrites: number;
  deviceFaults: number;
  flushes: number;
  rootLoads: number;
}

export class ShadowMemory implements MemoryVirtualization {
  readonly name = 'shadow';
  readonly mmu: ShadowMmu;
  readonly exceptions = 1 << VECTOR.PF;
  // Any change of these must be seen: WP decides which entries are right, PGE flushes.
  readonly cr0GuestOwned: number = GUEST_OWNED.CR0 & ~CR0.WP;
  readonly cr4GuestOwned: number = GUEST_OWNED.CR4 & ~CR4.PGE;
  readonly exits: ReadonlyMap<number, ExitHandler>;
  readonly statistics: ShadowStatistics = { faults: 0, guestFaults: 0, emulatedWrites: 0, deviceFaults: 0, flushes: 0, rootLoads: 0 };
  readonly interpreter: Interpreter;
  readonly #vm: SoftVm;
  readonly #vcpus = new Map<SoftVcpu, Shadowed>();
  #limit: number | null = null;

  constructor(vm: SoftVm) {
    this.#vm = vm;
    this.mmu = new ShadowMmu(vm);
    this.mmu.limit = () => this.tableLimit;
    this.interpreter = new Interpreter(vm);
    const { view } = this.interpreter;
    // The software processor may not write to a shadowed table unnoticed. What it has in its own tree of that frame goes with the tree.
    this.mmu.pages.onTracked = () => {
      if (view.tables > 0) view.zapAll();
    };
    const view2 = eptExits(vm, (gpa, write) => {
      this.mmu.pages.unshadow(Math.floor(gpa / PAGE_BYTES));
      return view.fault(gpa, write);
    });
    this.exits = new Map<number, ExitHandler>([
      ...view2,
      [EXIT_REASON.EXCEPTION_NMI, (exit) => this.#exception(exit)],
      [EXIT_REASON.INVLPG, (exit) => this.#invlpg(exit)],
      [EXIT_REASON.INVPCID, (exit) => this.#invpcid(exit)],
    ]);
  }

  get ready(): boolean {
    return this.interpreter.view.ready;
  }

  #of(vcpu: SoftVcpu): Shadowed {
    const shadowed = this.#vcpus.get(vcpu);
    assert(shadowed, 'a vCPU is set up before it is used');
    return shadowed;
  }
  /** The vCPU's walk: for explorers and tests. */
  contextOf(vcpu: SoftVcpu): ShadowContext {
    return this.#of(vcpu);
  }
  /** True while the vCPU's guest is run in software. */
  isInterpreted(vcpu: SoftVcpu): boolean {
    return this.#of(vcpu).interpreted;
  }

  // ## A vCPU

  // @clause kvm.shadow.controls
  setUpVcpu(vcpu: SoftVcpu): void {
    const { hardware } = this.#vm;
    const { ENABLE_EPT, UNRESTRICTED_GUEST } = SECONDARY.mask;
    hardware.write32(FIELD.SECONDARY_VM_EXEC_CONTROL, hardware.read32(FIELD.SECONDARY_VM_EXEC_CONTROL) & ~(ENABLE_EPT | UNRESTRICTED_GUEST));
    const { CR3_LOAD_EXITING, CR3_STORE_EXITING, INVLPG_EXITING } = CPU_BASED.mask;
    vcpu.control(CR3_LOAD_EXITING | CR3_STORE_EXITING | INVLPG_EXITING, true);
    const shadowed = new Shadowed(guestMode(0n, 0n, 0n), hardware.ram.kernelPages());
    this.#vcpus.set(vcpu, shadowed);
    this.mmu.contexts.add(shadowed);
  }

  freeVcpu(vcpu: SoftVcpu): void {
    const shadowed = this.#vcpus.get(vcpu);
    if (!shadowed) return;
    this.mmu.unload(shadowed);
    this.mmu.contexts.delete(shadowed);
    this.#vcpus.delete(vcpu);
    if (shadowed.paeRoot >= 0) this.#vm.hardware.ram.freeKernelPages(shadowed.paeRoot);
  }

  prepareEntry(vcpu: SoftVcpu): number {
    const shadowed = this.#of(vcpu);
    if (shadowed.paeRoot < 0) return -ERRNO.ENOMEM;
    const software = shadowed.once || this.#needsSoftware(vcpu, shadowed);
    if (software !== shadowed.interpreted) {
      shadowed.interpreted = software;
      shadowed.rootPending = true;
      this.#rewriteRegisters(vcpu);
    }
    if (software) return 1;
    if (!shadowed.roots || shadowed.rootPending) {
      this.mmu.unload(shadowed);
      const root = this.mmu.load(shadowed);
      if (root < 0) return -ERRNO.ENOMEM;
      this.#vm.hardware.write(FIELD.GUEST_CR3, BigInt(root));
      shadowed.rootPending = false;
      this.statistics.rootLoads++;
    }
    this.#flushStale();
    return 1;
  }

  /** What the processor may have cached of entries that are no more. There is one processor, and each vCPU's translations have a tag of their own. */
  #flushStale(): void {
    const { pages } = this.mmu;
    if (!pages.stale) return;
    pages.stale = false;
    for (const { vpid } of this.#vcpus.keys()) this.#vm.hardware.flushGuestTlb(vpid);
    this.statistics.flushes++;
  }

  // ## When the hardware cannot
  //
  // Without protection the guest is in real mode. With it, the segment registers decide: VM entry accepts only what descriptors can have filled. Once
  // accepted, the processor itself keeps them so, and nobody has to look again until a VMM writes them.

  // @clause kvm.shadow.invalid-state
  /** Linux: `vmx_emulation_required()`. */
  #needsSoftware(vcpu: SoftVcpu, shadowed: Shadowed): boolean {
    if (!shadowed.doubtful && !shadowed.interpreted) return false;
    if (!(vcpu.cr0 & BigInt(CR0.PE))) return true;
    const { hardware } = this.#vm;
    const { physicalAddressBits, linearAddressBits } = hardware.cpu;
    const context = { physicalAddressBits, linearAddressBits, hostIsLong: true, physical32: () => 0, physical8: () => 0 };
    const invalid = firstViolation(SEGMENT_CHECKS, hardware.vmx.vmcs, context) !== null;
    shadowed.doubtful = invalid;
    return invalid;
  }

  interpret(vcpu: SoftVcpu, instructions: number): EntryOutcome | null {
    const shadowed = this.#of(vcpu);
    if (!shadowed.interpreted) return null;
    const { once } = shadowed;
    const outcome = this.interpreter.run(vcpu, shadowed, instructions, once);
    if (once) {
      // A page that the software processor did not have yet: the instruction has not been executed.
      const reason = this.#vm.hardware.read32(FIELD.VM_EXIT_REASON);
      shadowed.once = outcome === 'entered' && (reason === EXIT_REASON.EPT_VIOLATION || reason === EXIT_REASON.EPT_MISCONFIG);
      this.mmu.syncAll();
    }
    shadowed.doubtful = true;
    return outcome;
  }

  // ## Registers
  //
  // Run in software, the guest has its own values. Run by the hardware, it has PAE or 4-level paging on, always, and NX with it; a guest that does
  // not page runs through an identity map, where SMEP and SMAP would see user pages everywhere and so must be off.

  // @clause kvm.shadow.registers
  hardwareCr0(vcpu: SoftVcpu, cr0: bigint): bigint {
    return this.#of(vcpu).interpreted ? cr0 : cr0 | CR0_ALWAYS_ON;
  }
  hardwareCr4(vcpu: SoftVcpu, cr4: bigint): bigint {
    if (this.#of(vcpu).interpreted) return cr4;
    const paging = (vcpu.cr0 & BigInt(CR0.PG)) !== 0n;
    return (paging ? cr4 : cr4 & ~BigInt(CR4.SMEP | CR4.SMAP)) | BigInt(CR4.PAE);
  }
  hardwareEfer(vcpu: SoftVcpu, efer: bigint): bigint {
    if (this.#of(vcpu).interpreted) return efer;
    const long = (efer & BigInt(EFER.LMA)) !== 0n;
    return (long ? efer : efer & ~BigInt(EFER.LME)) | BigInt(EFER.NXE);
  }
  #rewriteRegisters(vcpu: SoftVcpu): void {
    const { cr4, efer } = vcpu;
    vcpu.writeCr0(vcpu.cr0);
    vcpu.writeCr4(cr4);
    vcpu.setEfer(efer);
  }
  cr3(vcpu: SoftVcpu): bigint {
    return this.#of(vcpu).cr3;
  }
  setCr3(vcpu: SoftVcpu, value: bigint): void {
    const shadowed = this.#of(vcpu);
    shadowed.cr3 = value & U64;
    shadowed.rootPending = true;
  }
  pdptrs(vcpu: SoftVcpu): readonly bigint[] {
    return this.#of(vcpu).pdptrs;
  }
  setPdptrs(vcpu: SoftVcpu, entries: readonly bigint[]): void {
    const shadowed = this.#of(vcpu);
    shadowed.pdptrs = [...entries];
    shadowed.rootPending = true;
  }

  modeChanged(vcpu: SoftVcpu): void {
    const shadowed = this.#of(vcpu);
    const mode = guestMode(vcpu.cr0, vcpu.cr4, vcpu.efer);
    shadowed.doubtful = true;
    const same = mode.format === shadowed.mode.format && modeKey(mode) === modeKey(shadowed.mode);
    shadowed.mode = mode;
    if (!same) shadowed.rootPending = true;
  }
  newCr3(_vcpu: SoftVcpu, _keep: boolean): void {} // `setCr3` has asked for the new root, and loading it compares what is unsync
  flushGuest(_vcpu: SoftVcpu): void {
    this.mmu.syncAll();
    this.mmu.pages.stale = true;
  }

  // ## Page faults

  #exception(exit: ExitServices): number | null {
    const { hardware } = this.#vm;
    const info = hardware.read32(FIELD.VM_EXIT_INTR_INFO);
    if (INTR_INFO.get(info, 'VECTOR') !== VECTOR.PF || INTR_INFO.get(info, 'TYPE') !== HARDWARE_EXCEPTION) return null;
    const errorCode = hardware.read32(FIELD.VM_EXIT_INTR_ERROR_CODE);
    const linear = hardware.read(FIELD.EXIT_QUALIFICATION);
    const shadowed = this.#of(exit.vcpu);
    if (shadowed.interpreted) return this.#reflect(exit, errorCode, linear); // it walked the guest's own tables
    this.statistics.faults++;
    return this.#pageFault(exit, shadowed, errorCode, linear);
  }

  /** Linux: `kvm_mmu_page_fault()`. */
  #pageFault(exit: ExitServices, shadowed: Shadowed, errorCode: number, linear: bigint): number {
    const { vcpu } = exit;
    // @clause kvm.shadow.device-entry
    if (errorCode & E.RSVD && this.mmu.isKnownDevice(shadowed, linear)) return this.#device(exit, linear, errorCode);
    const cpl = (this.#vm.hardware.read32(FIELD.GUEST_SS_AR_BYTES) >> 5) & 3;
    const access: GuestAccess = {
      write: (errorCode & E.W) !== 0,
      fetch: (errorCode & E.ID) !== 0,
      user: (errorCode & E.U) !== 0,
      // An access that a CPL-3 program causes without making it (a descriptor, a task-state segment) gets nothing from AC.
      acSet: cpl < 3 && (vcpu.rflags & BigInt(FLAG.AC)) !== 0n,
    };
    const faulted = this.mmu.fault(shadowed, linear, access);
    vcpu.trace?.emit({ kind: 'kvm_page_fault', gpa: Number(BigInt.asUintN(48, linear)), errorCode });
    switch (faulted.kind) {
      case 'mapped':
        shadowed.repeats = 0;
        return 1;
      case 'guest':
        return this.#reflect(exit, faulted.errorCode, linear);
      case 'hole':
        return exit.memoryFault(faulted.gpa);
      case 'full':
        return -ERRNO.ENOMEM;
      case 'unchanged':
        return this.#unchanged(exit, shadowed, access, linear);
      case 'emulate':
        return faulted.why === 'device' ? this.#device(exit, linear, errorCode) : this.#writeToTable(exit, shadowed);
    }
  }

  // A page fault while a page fault is being delivered is a double fault, and the processor has written CR2 for the second by then. (Linux leaves
  // the first address there: the payload of an exception that turns into another is lost.)

  // @clause kvm.shadow.reflect
  #reflect(exit: ExitServices, errorCode: number, linear: bigint): number {
    this.statistics.guestFaults++;
    if (exit.vcpu.events.exception.injected) exit.vcpu.cr2 = linear;
    return exit.inject(VECTOR.PF, errorCode, linear);
  }

  #device(exit: ExitServices, _linear: bigint, _errorCode: number): number {
    this.statistics.deviceFaults++;
    return exit.emulate();
  }

  // The shadow grants what has just been refused. One reason is legitimate: an implicit access by the kernel to a user page, which SMAP forbids
  // whatever AC says, and the error code does not tell implicit from explicit. The walk that ignores AC finds the fault.

  #unchanged(exit: ExitServices, shadowed: Shadowed, access: GuestAccess, linear: bigint): number {
    this.mmu.pages.stale = true;
    if (access.acSet && shadowed.mode.smap && !access.user) {
      const walk = this.mmu.walker.walk(shadowed.mode, shadowed.cr3, () => shadowed.pdptrs, linear, { ...access, acSet: false });
      if (walk.errorCode >= 0) return this.#reflect(exit, walk.errorCode, linear);
    }
    shadowed.repeats++;
    assert(shadowed.repeats < REPEATS, 'the shadow grants what the processor refuses');
    return 1;
  }

  // ## Writes to tables
  //
  // The emulator does what the instruction does, and its store is reported to `wrote`. Where it cannot (an event is being delivered onto a page
  // table; an instruction is beyond it), the whole of the next instruction is left to the software processor. Linux unprotects the table and lets
  // the guest try again, which for a table that maps itself would go on for ever, and it checks for that.

  #writeToTable(exit: ExitServices, shadowed: Shadowed): number {
    const { hardware } = this.#vm;
    this.statistics.emulatedWrites++;
    const vectoring = (hardware.read32(FIELD.IDT_VECTORING_INFO_FIELD) & INTR_INFO.mask.VALID) !== 0;
    const cpl = (hardware.read32(FIELD.GUEST_SS_AR_BYTES) >> 5) & 3;
    if (vectoring || cpl === 3) {
      shadowed.once = true;
      return 1;
    }
    const result = exit.emulate();
    if (result !== 0 || exit.vcpu.exitReason !== EXIT.KVM_EXIT_INTERNAL_ERROR) return result;
    shadowed.once = true;
    return 1;
  }

  // ## Flushes by the guest

  #invlpg(exit: ExitServices): number {
    const linear = this.#vm.hardware.read(FIELD.EXIT_QUALIFICATION);
    const shadowed = this.#of(exit.vcpu);
    // @clause kvm.shadow.invlpg
    if (shadowed.roots) this.mmu.invalidate(shadowed, linear);
    else this.mmu.syncAll();
    this.mmu.pages.stale = true;
    return exit.skip();
  }

  /** Everything is flushed, and the instruction itself, whose operand may fault, is left to the software processor. */
  #invpcid(exit: ExitServices): number {
    this.flushGuest(exit.vcpu);
    this.#of(exit.vcpu).once = true;
    return 1;
  }

  // ## Memory

  slotChanged(old: MemorySlot | null, now: MemorySlot | null): void {
    if (old && now && old.gpa === now.gpa) {
      if (isLogged(now) && !isLogged(old)) this.writeProtect(now, 0, now.bytes / PAGE_BYTES);
      return;
    }
    this.zapAll();
  }
  unmapped(_hva: number, _bytes: number): void {
    this.zapAll();
  }

  // @clause kvm.shadow.dirty-log
  writeProtect(slot: MemorySlot, first: number, count: number, mask?: Uint8Array): void {
    const start = slot.gpa / PAGE_BYTES + first;
    for (let n = 0; n < count; n++) {
      if (mask && !(((mask[n >> 3] as number) >> (n & 7)) & 1)) continue;
      this.mmu.pages.writeProtect(start + n);
    }
    this.interpreter.view.zapAll();
  }

  wrote(gpa: Gpa, _hpa: Hpa, bytes: number): void {
    this.mmu.wrote(gpa, bytes);
  }

  prefault(_vcpu: SoftVcpu, _gpa: Gpa): number {
    return -ERRNO.EOPNOTSUPP; // which linear address would it be?
  }

  zapAll(): void {
    this.mmu.pages.zapAll();
    this.interpreter.view.zapAll();
    for (const shadowed of this.#vcpus.values()) {
      shadowed.once = false;
      shadowed.repeats = 0;
    }
  }

  get tables(): number {
    return this.mmu.pages.size;
  }
  get tableLimit(): number {
    return Math.max(LEAST_TABLES, this.#limit ?? defaultTableLimit(this.#vm.slots.all));
  }
  set tableLimit(tables: number) {
    this.#limit = tables;
    this.mmu.pages.shrink(this.tableLimit);
  }

  free(): void {
    this.mmu.pages.free();
    this.interpreter.view.free();
  }
}

/** Hardware exceptions, in the interruption information. */
const HARDWARE_EXCEPTION = 3;
