// # A virtual CPU
//
// A vCPU's state is in two places. The VMCS has what the hardware must switch in one step: segments, control registers, the instruction and stack
// pointers. The rest (general registers, CR2, debug registers, the FPU, the SYSCALL MSRs) the hardware leaves alone, so a hypervisor keeps it in a
// structure of its own and loads it by hand. The rule of thumb: the VMCS holds what would pull the rug from under the hypervisor if it were wrong
// for one instruction.
//
// Which VMCS is *current* is state of the physical CPU. Before it touches a field, every vCPU request makes its own current (`vcpu_load()`), and
// saves what the previous vCPU had left in the registers.

import { assert, type Hpa, PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { AR, CR0, CR4, EFER, FLAG, OFFSET, SEG, SLOT } from '../../01-hardware-background/state.ts';
import type { Trace } from '../../01-hardware-background/trace.ts';
import { ENTRY } from '../../01-hardware-background/vmx/controls.ts';
import { FIELD } from '../../01-hardware-background/vmx/vmcs.ts';
import { GUESTDBG, MP_STATE } from '../abi/events.ts';
import { KvmRun } from '../abi/exits.ts';
import { ERRNO } from '../errno.ts';
import { CpuidTable } from './cpuid.ts';
import type { VcpuInterruptController } from './interrupt-controller.ts';
import { writeMsrBitmap } from './msrs.ts';
import type { SoftVm } from './vm.ts';

/** `struct kvm_run`, the page of port data behind it, and the ring of coalesced MMIO. */
const RUN_PAGES = 3;
export const RUN_BYTES = RUN_PAGES * PAGE_BYTES;
/** Page of the port data in the mapping (KVM_PIO_PAGE_OFFSET). */
export const PIO_PAGE_OFFSET = 1;

const FPU_BYTES = 576; // FXSAVE image and XSAVE header
const RESET_APIC_BASE = 0xfee00800;
const APIC_BASE_BSP = 0x100;
const RESET_PAT = 0x0007_0406_0007_0406n;
const RESET_DR6 = 0xffff0ff0n;
const RESET_DR7 = 0x400n;
/** Family 6, the processor signature that RDX holds at reset when no CPUID table says otherwise. */
const RESET_RDX = 0x600n;

/** VMCS fields of a segment register, by its number. */
const SEGMENT_NAMES = ['ES', 'CS', 'SS', 'DS', 'FS', 'GS', 'LDTR', 'TR'] as const;
export interface SegmentFields {
  readonly selector: number;
  readonly base: number;
  readonly limit: number;
  readonly rights: number;
}
export const SEGMENT_FIELDS: readonly SegmentFields[] = SEGMENT_NAMES.map((name) => ({
  selector: FIELD[`GUEST_${name}_SELECTOR`],
  base: FIELD[`GUEST_${name}_BASE`],
  limit: FIELD[`GUEST_${name}_LIMIT`],
  rights: FIELD[`GUEST_${name}_AR_BYTES`],
}));

/** Registers that VM entry and exit leave alone and no VMCS field holds: swapped when another vCPU takes the processor. */
// biome-ignore format: table
const SWAPPED = [
  OFFSET.STAR, OFFSET.LSTAR, OFFSET.CSTAR, OFFSET.SFMASK, OFFSET.KERNEL_GS_BASE, OFFSET.TSC_AUX, OFFSET.SPEC_CTRL, OFFSET.XCR0,
] as const;

/** An exception, an interrupt or an NMI on its way into the guest. `pending` waits for its turn; `injected` was handed to the hardware. */
interface Events {
  exception: { pending: boolean; injected: boolean; vector: number; hasErrorCode: boolean; errorCode: number; hasPayload: boolean; payload: bigint };
  interrupt: { injected: boolean; vector: number; soft: boolean };
  nmi: { injected: boolean; pending: number };
  /** An exception in the delivery of a double fault: the processor shuts down instead of its next entry. */
  tripleFault: boolean;
}

const noEvents = (): Events => ({
  exception: { pending: false, injected: false, vector: 0, hasErrorCode: false, errorCode: 0, hasPayload: false, payload: 0n },
  interrupt: { injected: false, vector: 0, soft: false },
  nmi: { injected: false, pending: 0 },
  tripleFault: false,
});

export class SoftVcpu {
  readonly vm: SoftVm;
  readonly id: number;
  /** The mapped pages: `struct kvm_run` first. */
  readonly run: Uint8Array;
  readonly runView: DataView;
  /** General registers by hardware number, except RSP, which is in the VMCS. */
  readonly regs = new BigUint64Array(16);
  readonly fpu = new Uint8Array(FPU_BYTES);
  readonly cpuid = new CpuidTable();
  readonly events = noEvents();
  /** MSRs that the kernel emulates without hardware behind them. */
  readonly msrs = new Map<number, bigint>();
  readonly #swapped = new BigUint64Array(SWAPPED.length);
  readonly #live: BigUint64Array; // the processor's general registers
  readonly #vmcs: Hpa;
  readonly #msrBitmap: Hpa;
  readonly #runPages: Hpa;
  readonly vpid: number;
  cr2 = 0n;
  efer = 0n;
  /** The local APIC, if it is in the kernel. */
  interruptController: VcpuInterruptController | null = null;
  #cr8 = 0n;
  #apicBase = BigInt(RESET_APIC_BASE);
  #tscOffset = 0n;
  /** Called when the guest's time stamp counter has been set. */
  readonly tscWatchers: (() => void)[] = [];
  /** An MP_STATE. */
  mpState: number = MP_STATE.KVM_MP_STATE_RUNNABLE;
  /** The VMCS was launched since its last VMCLEAR: VMRESUME instead of VMLAUNCH. */
  launched = false;
  /** KVM_RUN has entered the guest at least once. */
  hasRun = false;
  /** The guest's debug registers. They are in the processor only while the guest is likely to use them. */
  readonly db = new BigUint64Array(4);
  dr6 = RESET_DR6;
  dr7 = RESET_DR7;
  /** KVM_SET_GUEST_DEBUG: its control word, the debugger's breakpoints, and where a single step began. */
  guestDebug = 0;
  readonly debuggerDb = new BigUint64Array(4);
  debuggerDr7 = RESET_DR7;
  singlestepRip = 0n;
  /** Length of the INT n or INT3 whose delivery an exit interrupted: it is needed to deliver it again. */
  eventInstructionLength = 0;

  private constructor(vm: SoftVm, id: number, pages: { vmcs: Hpa; msrBitmap: Hpa; run: Hpa }) {
    const { hardware } = vm;
    this.vm = vm;
    this.id = id;
    this.#vmcs = pages.vmcs;
    this.#msrBitmap = pages.msrBitmap;
    this.#runPages = pages.run;
    this.vpid = hardware.allocateVpid();
    this.run = hardware.memory.slice(pages.run, RUN_PAGES * PAGE_BYTES);
    this.runView = new DataView(this.run.buffer, this.run.byteOffset, this.run.length);
    this.#live = hardware.cpu.state.u64.subarray(SLOT.RAX, SLOT.RAX + 16);
    if (id === vm.bootVcpuId) this.apicBase |= BigInt(APIC_BASE_BSP);
    hardware.memory.view.setUint32(hardware.memory.offset(pages.vmcs), hardware.config.revision, true);
    writeMsrBitmap(hardware.memory.slice(pages.msrBitmap, PAGE_BYTES));
    hardware.vmx.vmclear(pages.vmcs);
    this.load();
    this.#initVmcs();
    this.reset();
  }

  /** A vCPU in its reset state; null when RAM has no room. Linux: `kvm_arch_vcpu_create()`, `vmx_vcpu_create()`. */
  static create(vm: SoftVm, id: number): SoftVcpu | null {
    const { ram } = vm.hardware;
    const vmcs = ram.kernelPages();
    const msrBitmap = vmcs < 0 ? -1 : ram.kernelPages();
    const run = msrBitmap < 0 ? -1 : ram.kernelPages(RUN_PAGES);
    if (run < 0) {
      if (vmcs >= 0) ram.freeKernelPages(vmcs);
      if (msrBitmap >= 0) ram.freeKernelPages(msrBitmap);
      return null;
    }
    return new SoftVcpu(vm, id, { vmcs, msrBitmap, run });
  }

  /** Called first when this vCPU goes. */
  onFree: () => void = () => {};

  free(): void {
    const { hardware } = this.vm;
    this.onFree();
    if (hardware.loaded === this) hardware.loaded = null;
    this.vm.mmu.freeVcpu(this);
    hardware.vmx.vmclear(this.#vmcs);
    hardware.freeVpid(this.vpid);
    hardware.ram.freeKernelPages(this.#vmcs);
    hardware.ram.freeKernelPages(this.#msrBitmap);
    hardware.ram.freeKernelPages(this.#runPages, RUN_PAGES);
    this.vm.vcpus.delete(this.id);
  }

  /** What can be mapped besides `struct kvm_run` and its pages: by the page of the descriptor that it begins at. */
  readonly mappings = new Map<number, Uint8Array>();

  /** `mmap` of the descriptor. Linux maps any page and sends SIGBUS to whoever looks at one that does not exist; here the mapping is refused. */
  mapped(length: number, offset: number): Uint8Array | number {
    const bytes = offset === 0 ? this.run : this.mappings.get(offset / PAGE_BYTES);
    return bytes?.subarray(0, length) ?? -ERRNO.EINVAL;
  }

  /** `kvm_run.exit_reason`. */
  get exitReason(): number {
    return KvmRun.fields.exit_reason.get(this.runView, 0);
  }
  set exitReason(reason: number) {
    KvmRun.fields.exit_reason.set(this.runView, 0, reason);
  }

  get trace(): Trace | null {
    return this.vm.hardware.trace;
  }

  // ## Taking the processor

  /** Makes this vCPU's VMCS current and its registers the live ones. Linux: `vcpu_load()`, `vmx_vcpu_load()`. */
  load(): void {
    const { hardware } = this.vm;
    if (hardware.loaded === this) return;
    hardware.loaded?.put();
    hardware.loaded = this;
    hardware.vmx.vmptrld(this.#vmcs);
    const { state } = hardware.cpu;
    for (let n = 0; n < SWAPPED.length; n++) state.set64(SWAPPED[n] as number, this.#swapped[n] as bigint);
    state.u8.set(this.fpu, OFFSET.FPU);
  }

  /** Saves what is live. Linux: `vmx_vcpu_put()`. */
  put(): void {
    const { hardware } = this.vm;
    assert(hardware.loaded === this, 'only the loaded vCPU has live registers');
    const { state } = hardware.cpu;
    for (let n = 0; n < SWAPPED.length; n++) this.#swapped[n] = state.get64(SWAPPED[n] as number);
    this.fpu.set(state.u8.subarray(OFFSET.FPU, OFFSET.FPU + FPU_BYTES));
    hardware.loaded = null;
  }

  /** General registers and CR2 into the processor, just before entry. Linux: `__vmx_vcpu_run()`. */
  loadRegisters(): void {
    this.#live.set(this.regs);
    this.vm.hardware.cpu.state.set64(OFFSET.CR2, this.cr2);
  }
  /** And back, just after the exit. */
  saveRegisters(): void {
    this.regs.set(this.#live);
    this.cr2 = this.vm.hardware.cpu.state.get64(OFFSET.CR2);
  }

  // ## The VMCS

  /** Controls and host state, once. Linux: `init_vmcs()`. */
  #initVmcs(): void {
    const { hardware } = this.vm;
    const { config } = hardware;
    hardware.write32(FIELD.PIN_BASED_VM_EXEC_CONTROL, config.pin);
    hardware.write32(FIELD.CPU_BASED_VM_EXEC_CONTROL, config.cpuBased);
    hardware.write32(FIELD.SECONDARY_VM_EXEC_CONTROL, config.secondary);
    hardware.write32(FIELD.VM_EXIT_CONTROLS, config.exit);
    hardware.write32(FIELD.VM_ENTRY_CONTROLS, config.entry & ~ENTRY.mask.IA32E_MODE);
    hardware.write32(FIELD.VIRTUAL_PROCESSOR_ID, this.vpid);
    hardware.write(FIELD.MSR_BITMAP, BigInt(this.#msrBitmap));
    hardware.write(FIELD.VMCS_LINK_POINTER, 0xffff_ffff_ffff_ffffn);
    hardware.write(FIELD.CR0_GUEST_HOST_MASK, ~BigInt(this.vm.mmu.cr0GuestOwned) & 0xffff_ffff_ffff_ffffn);
    hardware.write(FIELD.CR4_GUEST_HOST_MASK, ~BigInt(this.vm.mmu.cr4GuestOwned) & 0xffff_ffff_ffff_ffffn);
    this.tscOffset = -hardware.tsc;
    hardware.writeHostState();
    this.vm.mmu.setUpVcpu(this);
  }

  /**
   * Registers as after power-on; or as after INIT, which leaves the caches, the FPU and most MSRs alone. Linux: `kvm_vcpu_reset()`,
   * `vmx_vcpu_reset()`.
   */
  reset({ init = false }: { init?: boolean } = {}): void {
    const { hardware } = this.vm;
    Object.assign(this.events, noEvents());
    const caches = init ? this.cr0 & BigInt(CR0.CD | CR0.NW) : BigInt(CR0.CD | CR0.NW);
    this.regs.fill(0n);
    this.regs[SLOT.RDX] = RESET_RDX;
    hardware.write(FIELD.GUEST_RIP, 0xfff0n);
    hardware.write(FIELD.GUEST_RSP, 0n);
    hardware.write(FIELD.GUEST_RFLAGS, 2n);
    const data = AR.P | AR.S | AR.WRITABLE | AR.ACCESSED;
    for (const seg of [SEG.ES, SEG.SS, SEG.DS, SEG.FS, SEG.GS]) this.setSegment(seg, 0, 0n, 0xffff, data);
    this.setSegment(SEG.CS, 0xf000, 0xffff0000n, 0xffff, AR.P | AR.S | AR.CODE | AR.READABLE | AR.ACCESSED);
    this.setSegment(SEG.LDTR, 0, 0n, 0xffff, AR.P | 2);
    this.setSegment(SEG.TR, 0, 0n, 0xffff, AR.P | 0xb);
    for (const table of ['GDTR', 'IDTR'] as const) {
      hardware.write(FIELD[`GUEST_${table}_BASE`], 0n);
      hardware.write32(FIELD[`GUEST_${table}_LIMIT`], 0xffff);
    }
    hardware.write32(FIELD.GUEST_ACTIVITY_STATE, 0);
    hardware.write32(FIELD.GUEST_INTERRUPTIBILITY_INFO, 0);
    hardware.write(FIELD.GUEST_PENDING_DBG_EXCEPTIONS, 0n);
    this.db.fill(0n);
    this.dr6 = RESET_DR6;
    this.dr7 = RESET_DR7;
    this.updateDr7();
    this.cr3 = 0n;
    hardware.write(FIELD.GUEST_IA32_PAT, RESET_PAT);
    if (!init) hardware.write32(FIELD.EXCEPTION_BITMAP, 0); // whoever runs this vCPU has written what it needs
    this.setEfer(0n);
    this.writeCr0(BigInt(CR0.ET) | caches);
    this.writeCr4(0n);
    this.cr2 = 0n;
    this.cr8 = 0n;
    if (init) return;
    const { state } = hardware.cpu;
    for (const offset of SWAPPED) state.set64(offset, 0n);
    state.set64(OFFSET.XCR0, 1n);
    state.fpu.fill(0);
    new DataView(state.u8.buffer, state.u8.byteOffset + OFFSET.FPU).setUint16(0, 0x37f, true);
    new DataView(state.u8.buffer, state.u8.byteOffset + OFFSET.FPU).setUint32(24, 0x1f80, true);
  }

  /** INIT: everything that is about to happen is forgotten, too. Linux: `kvm_vcpu_reset(vcpu, true)`. */
  init(): void {
    this.reset({ init: true });
    this.vm.mmu.flushGuest(this);
  }

  /** Begins at page `vector` of the first megabyte. Linux: `kvm_vcpu_deliver_sipi_vector()`. */
  startAt(vector: number): void {
    this.setSegment(SEG.CS, vector << 8, BigInt(vector) << 12n, 0xffff, AR.P | AR.S | AR.CODE | AR.READABLE | AR.ACCESSED);
    this.rip = 0n;
  }

  setSegment(seg: number, selector: number, base: bigint, limit: number, rights: number): void {
    const { hardware } = this.vm;
    const fields = SEGMENT_FIELDS[seg] as SegmentFields;
    hardware.write32(fields.selector, selector);
    hardware.write(fields.base, base);
    hardware.write32(fields.limit, limit);
    hardware.write32(fields.rights, rights);
  }

  // ## Registers
  //
  // For CR0 and CR4 the VMCS has three words: the value the processor runs with, a mask of the bits that belong to the hypervisor, and a *read
  // shadow*, which is what the guest sees of those. So "the guest's CR0" has to be put together, and is never simply a field.

  // The task priority and the APIC's base belong to the APIC, wherever that is.

  get cr8(): bigint {
    return this.interruptController?.cr8 ?? this.#cr8;
  }
  set cr8(value: bigint) {
    if (this.interruptController) this.interruptController.cr8 = value;
    else this.#cr8 = value;
  }
  get apicBase(): bigint {
    return this.interruptController?.apicBase ?? this.#apicBase;
  }
  set apicBase(value: bigint) {
    this.#apicBase = value;
  }

  /** What the hardware adds to its time stamp counter for this guest. */
  get tscOffset(): bigint {
    return this.#tscOffset;
  }
  set tscOffset(value: bigint) {
    this.#tscOffset = BigInt.asUintN(64, value);
    this.vm.hardware.write(FIELD.TSC_OFFSET, this.#tscOffset);
    for (const tell of this.tscWatchers) tell();
  }
  /** The guest's time stamp counter. The vCPU need not be loaded. */
  get tsc(): bigint {
    return BigInt.asUintN(64, this.vm.hardware.tsc + this.#tscOffset);
  }

  get rip(): bigint {
    return this.vm.hardware.read(FIELD.GUEST_RIP);
  }
  set rip(value: bigint) {
    this.vm.hardware.write(FIELD.GUEST_RIP, value);
  }

  // A debugger that steps the guest borrows the guest's own trap flag. The guest's value of RFLAGS is then the real one without that bit, and
  // whoever writes RFLAGS while the step is under way must not lose it.

  get rflags(): bigint {
    const value = this.vm.hardware.read(FIELD.GUEST_RFLAGS);
    return this.guestDebug & GUESTDBG.KVM_GUESTDBG_SINGLESTEP ? value & ~BigInt(FLAG.TF) : value;
  }
  set rflags(value: bigint) {
    const step = this.guestDebug & GUESTDBG.KVM_GUESTDBG_SINGLESTEP && this.linearRip === this.singlestepRip;
    this.vm.hardware.write(FIELD.GUEST_RFLAGS, step ? value | BigInt(FLAG.TF) : value);
  }

  /** RIP with the base of CS added outside 64-bit mode, where it is one. Linux: `kvm_get_linear_rip()`. */
  get linearRip(): bigint {
    const { hardware } = this.vm;
    if (this.efer & BigInt(EFER.LMA) && hardware.read32(FIELD.GUEST_CS_AR_BYTES) & AR.L) return this.rip;
    return (hardware.read(FIELD.GUEST_CS_BASE) + this.rip) & 0xffff_ffffn;
  }

  /** DR7 in the VMCS: the guest's, or a debugger's in its place. Linux: `kvm_update_dr7()`. */
  updateDr7(): void {
    const borrowed = (this.guestDebug & GUESTDBG.KVM_GUESTDBG_USE_HW_BP) !== 0;
    this.vm.hardware.write(FIELD.GUEST_DR7, borrowed ? this.debuggerDr7 : this.dr7);
  }

  /** A general register by hardware number. */
  reg(n: number): bigint {
    return n === SLOT.RSP ? this.vm.hardware.read(FIELD.GUEST_RSP) : (this.regs[n] as bigint);
  }
  setReg(n: number, value: bigint): void {
    if (n === SLOT.RSP) this.vm.hardware.write(FIELD.GUEST_RSP, value);
    else this.regs[n] = value;
  }

  get cr0(): bigint {
    return this.#combine(FIELD.GUEST_CR0, FIELD.CR0_READ_SHADOW, BigInt(this.vm.mmu.cr0GuestOwned));
  }
  get cr4(): bigint {
    return this.#combine(FIELD.GUEST_CR4, FIELD.CR4_READ_SHADOW, BigInt(this.vm.mmu.cr4GuestOwned));
  }
  #combine(real: number, shadow: number, owned: bigint): bigint {
    const { hardware } = this.vm;
    return (hardware.read(real) & owned) | (hardware.read(shadow) & ~owned);
  }

  /** The guest's CR3, which the processor need not have. */
  get cr3(): bigint {
    return this.vm.mmu.cr3(this);
  }
  set cr3(value: bigint) {
    this.vm.mmu.setCr3(this, value);
  }

  // Long mode begins when paging is switched on while EFER.LME is set. The processor would set EFER.LMA itself; since the write to CR0 never reached
  // it, KVM has to (`enter_lmode()`), and has to tell VM entry that the guest is a 64-bit one.

  /** CR0 takes effect, whatever it is: the caller has checked. Linux: `vmx_set_cr0()`. */
  writeCr0(value: bigint): void {
    const { hardware } = this.vm;
    if (this.efer & BigInt(EFER.LME)) {
      const paging = (value & BigInt(CR0.PG)) !== 0n;
      if (paging !== ((this.efer & BigInt(EFER.LMA)) !== 0n)) this.setEfer(paging ? this.efer | BigInt(EFER.LMA) : this.efer & ~BigInt(EFER.LMA));
    }
    hardware.write(FIELD.CR0_READ_SHADOW, value);
    hardware.write(FIELD.GUEST_CR0, this.vm.mmu.hardwareCr0(this, value & ~BigInt(CR0.CD | CR0.NW)) | BigInt(CR0.NE));
    this.#writeHardwareCr4(this.cr4); // what it must be may depend on paging
    this.vm.mmu.modeChanged(this);
  }

  /** CR4 takes effect. VMXE stays set beneath the shadow: the processor insists on it in VMX operation. Linux: `vmx_set_cr4()`. */
  writeCr4(value: bigint): void {
    const { hardware } = this.vm;
    hardware.write(FIELD.CR4_READ_SHADOW, value);
    this.#writeHardwareCr4(value);
    this.vm.mmu.modeChanged(this);
  }
  #writeHardwareCr4(value: bigint): void {
    this.vm.hardware.write(FIELD.GUEST_CR4, this.vm.mmu.hardwareCr4(this, value) | BigInt(CR4.VMXE));
  }

  /** EFER takes effect, and with it the IA-32e entry control. Linux: `vmx_set_efer()`. */
  setEfer(value: bigint): void {
    const { hardware } = this.vm;
    this.efer = value;
    const controls = hardware.read32(FIELD.VM_ENTRY_CONTROLS);
    const long = (value & BigInt(EFER.LMA)) !== 0n;
    hardware.write32(FIELD.VM_ENTRY_CONTROLS, long ? controls | ENTRY.mask.IA32E_MODE : controls & ~ENTRY.mask.IA32E_MODE);
    hardware.write(FIELD.GUEST_IA32_EFER, this.vm.mmu.hardwareEfer(this, value));
    this.vm.mmu.modeChanged(this);
  }

  /** Sets or clears bits of the primary processor-based controls. */
  control(mask: number, on: boolean): void {
    const { hardware } = this.vm;
    const old = hardware.read32(FIELD.CPU_BASED_VM_EXEC_CONTROL);
    const next = (on ? old | mask : old & ~mask) >>> 0;
    if (next !== old) hardware.write32(FIELD.CPU_BASED_VM_EXEC_CONTROL, next);
  }
}
