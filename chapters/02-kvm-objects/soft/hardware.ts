// # Switching the hardware on
//
// Loading kvm.ko changes nothing on the machine; it only asks what the processor can do (`setup_vmcs_config()`). VMX operation begins with the first
// virtual machine and ends with the last, so that a computer which runs none pays nothing, and another hypervisor may have the hardware meanwhile.
// Linux counts in `kvm_usage_count`; on every CPU, `vmx_enable_virtualization_cpu()` sets CR4.VMXE and executes VMXON on a page that the processor
// keeps as its own until VMXOFF.
//
// Three things can be missing, and each answers differently. No VMX in CPUID: the module does not load. `IA32_FEATURE_CONTROL` locked by the
// firmware without VMX: likewise, and the message in the kernel's log says to look in the BIOS set-up. Too few controls: KVM has a list of those it
// cannot do without.

import { Cpu, type CpuStop } from '../../01-hardware-background/cpu.ts';
import type { TranslationOptions } from '../../01-hardware-background/engine/surroundings.ts';
import { Fault, VmExit } from '../../01-hardware-background/faults.ts';
import { assert, type Hpa, PAGE_BYTES, PhysicalMemory } from '../../01-hardware-background/physical-memory.ts';
import { AR, CR0, CR4, EFER, OFFSET, SEG } from '../../01-hardware-background/state.ts';
import type { Trace } from '../../01-hardware-background/trace.ts';
import { CPU_BASED, ENTRY, EPTP, EXIT, FEATURE_CONTROL, PIN, SECONDARY, VMX_MSR } from '../../01-hardware-background/vmx/controls.ts';
import { EXIT_REASON } from '../../01-hardware-background/vmx/exit-reasons.ts';
import { FIELD } from '../../01-hardware-background/vmx/vmcs.ts';
import { VmxUnit } from '../../01-hardware-background/vmx/vmx.ts';
import { RamOwners } from './memory.ts';
import type { SoftVcpu } from './vcpu.ts';

/** The control words that every VMCS of this kernel starts from: Linux's `struct vmcs_config`. */
interface VmcsConfig {
  readonly revision: number;
  readonly pin: number;
  readonly cpuBased: number;
  readonly secondary: number;
  readonly exit: number;
  readonly entry: number;
}

const RIP_OF_VMX_EXIT = 0xffff_ffff_8100_0000n; // any canonical address: the code that runs there is this program
/**
 * What stands in front of RAM: TLBs, decoded code, jump caches, for the processor, for the kernel's emulator, and for another processor that later chapters
 * may model where this one lacks something.
 */
const PRIVATE_BYTES = 48 << 20;
/** Of that, for decoded code. A kernel that boots executes about this much of it, most of it once. */
const ARENA_BYTES = 24 << 20;
const PRIVATE_UNIT = 65536;
const INVEPT_SINGLE_CONTEXT = 1;
const INVVPID_SINGLE_CONTEXT = 1;
const HOST_STACK = 0xffff_c900_0000_0000n;
/** The vector that Linux gives its local timer (LOCAL_TIMER_VECTOR). */
const LOCAL_TIMER_VECTOR = 0xec;

/** Whoever stops a guest where it would not stop, to look at it. */
export interface Pacer {
  /** Instructions that the guest may execute from here on; none: it stops here. */
  room(): number;
  /** What is reported from here on is not part of the run. */
  hide(): void;
  /** And from here on it is. */
  show(): void;
}

/** How far a guest may go, by whose order. */
interface Pace {
  readonly room: number;
  readonly pacer: Pacer;
}

/** Why a guest is not running any more: a VM exit; it has gone as far as it may; the processor shut down. */
type GuestStop = 'exit' | 'cut' | 'dead';

/** What a {@link Hardware} is made of; the fields are those of `SoftKernelOptions`. */
interface HardwareOptions extends TranslationOptions {
  readonly ramBytes: number;
  readonly shared?: boolean;
  readonly trace?: Trace | null;
  readonly traceProcessor?: boolean;
  readonly linearAddressBits?: 48 | 57;
}

/** The processor as the kernel drives it: memory and its owners, VMX instructions by name, the host's timer. */
export class Hardware {
  readonly memory: PhysicalMemory;
  readonly ram: RamOwners;
  readonly cpu: Cpu;
  /** Whether whoever stores in RAM from outside tells it each time. */
  toldOfStores = false;
  readonly vmx: VmxUnit;
  readonly config: VmcsConfig;
  /** Who listens to the kernel. */
  readonly trace: Trace | null;
  #users = 0;
  #vmxonRegion: Hpa = -1;
  #freeVpids: number[] = [];
  #nextVpid = 1; // 0 is the host's own
  /** The vCPU whose VMCS is current and whose registers are live, if any. */
  loaded: SoftVcpu | null = null;
  /** The host's timer has fired and nobody has taken the interrupt yet. */
  #timerPending = false;
  /** The guest was brought out for a look and has not gone on yet. */
  #hidden = false;
  readonly #timerFires = (): void => {
    this.#timerPending = true;
    this.cpu.eventsChanged();
  };

  constructor({ ramBytes, shared = false, trace = null, traceProcessor = true, linearAddressBits = 48, ...options }: HardwareOptions) {
    const { translate, heat, workshop } = options;
    this.trace = trace;
    const marks = Math.ceil((2 * ramBytes) / PAGE_BYTES / PRIVATE_UNIT) * PRIVATE_UNIT; // each processor has a byte for each page of RAM
    this.memory = new PhysicalMemory({ ramBytes, privateBytes: PRIVATE_BYTES + marks, shared });
    this.ram = new RamOwners(this.memory);
    const reported = trace && traceProcessor ? { trace } : {};
    this.cpu = new Cpu({
      memory: this.memory,
      arenaBytes: ARENA_BYTES,
      linearAddressBits,
      translate,
      heat,
      workshop,
      ...reported,
    });
    this.vmx = new VmxUnit(this.cpu);
    this.cpu.vmx = this.vmx;
    this.cpu.setInterruptSource({
      pending: () => this.#timerPending,
      acknowledge: () => {
        this.#timerPending = false;
        return LOCAL_TIMER_VECTOR;
      },
    });
    this.#bootHost();
    this.config = this.#vmcsConfig();
  }

  // The host is a 64-bit kernel. None of its instructions are executed here, but VMXON and VM entry look at its registers: paging must be on,
  // selectors must be ring 0, bases must be canonical, and a VM exit will load them all again. So the processor is put into the state in which Linux
  // would have it.

  #bootHost(): void {
    const { state } = this.cpu;
    const topLevel = this.ram.kernelPages();
    assert(topLevel >= 0, 'RAM has room for one page');
    state.set64(OFFSET.CR0, BigInt(CR0.PE | CR0.MP | CR0.ET | CR0.NE | CR0.WP | CR0.AM) | BigInt(CR0.PG));
    state.set64(OFFSET.CR4, BigInt(CR4.PAE | CR4.PGE | CR4.OSFXSR | CR4.OSXMMEXCPT));
    state.set64(OFFSET.EFER, BigInt(EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE));
    state.setNumber(OFFSET.CR3, topLevel);
    const data = AR.P | AR.S | AR.WRITABLE | AR.ACCESSED | AR.DB | AR.G;
    for (const seg of [SEG.ES, SEG.SS, SEG.DS, SEG.FS, SEG.GS]) this.#hostSegment(seg, 0x18, 0xffffffff, data);
    this.#hostSegment(SEG.CS, 0x10, 0xffffffff, AR.P | AR.S | AR.CODE | AR.READABLE | AR.ACCESSED | AR.L | AR.G);
    this.#hostSegment(SEG.TR, 0x40, 0x206f, AR.P | 0xb);
    this.#hostSegment(SEG.LDTR, 0, 0, AR.UNUSABLE);
    this.cpu.modeChanged();
  }

  #hostSegment(seg: number, selector: number, limit: number, rights: number): void {
    const { state } = this.cpu;
    state.setSegSelector(seg, selector);
    state.setSegBase(seg, 0n);
    state.setSegLimit(seg, limit);
    state.setSegRights(seg, rights);
  }

  // ## What KVM needs, and what it would like
  //
  // For each control word the processor reports which bits may be set and which must be. KVM states two lists, *required* and *welcome*; the result
  // is the union, cut to what is possible. A required bit that is impossible makes the module refuse. With EPT, guest paging is no longer KVM's
  // affair, so CR3 accesses and INVLPG are let through, which on the first VT-x processors were the commonest exits of all.

  #vmcsConfig(): VmcsConfig {
    const word = (msr: number, required: number, welcome = 0): number => {
      const both = this.cpu.readMsr(msr);
      const mustBe1 = Number(both & 0xffffffffn);
      const mayBe1 = Number(both >> 32n);
      const value = (((required | welcome) & mayBe1) | mustBe1) >>> 0;
      assert((required & ~value) === 0, `the processor lacks a control that KVM requires (MSR 0x${msr.toString(16)})`);
      return value;
    };
    const { mask: P } = PIN;
    const { mask: C } = CPU_BASED;
    const { mask: S } = SECONDARY;
    const { mask: X } = EXIT;
    const { mask: N } = ENTRY;
    return {
      revision: Number(this.cpu.readMsr(VMX_MSR.IA32_VMX_BASIC) & 0x7fffffffn),
      pin: word(VMX_MSR.IA32_VMX_TRUE_PINBASED_CTLS, P.EXT_INTR_EXITING | P.NMI_EXITING, P.VIRTUAL_NMIS),
      // biome-ignore format: table
      cpuBased: word(VMX_MSR.IA32_VMX_TRUE_PROCBASED_CTLS,
        C.HLT_EXITING | C.CR8_LOAD_EXITING | C.CR8_STORE_EXITING | C.UNCOND_IO_EXITING | C.MOV_DR_EXITING | C.USE_TSC_OFFSETTING |
        C.MWAIT_EXITING | C.MONITOR_EXITING | C.RDPMC_EXITING | C.USE_MSR_BITMAPS | C.ACTIVATE_SECONDARY_CONTROLS),
      // biome-ignore format: table
      secondary: word(VMX_MSR.IA32_VMX_PROCBASED_CTLS2,
        S.ENABLE_EPT | S.UNRESTRICTED_GUEST, S.ENABLE_VPID | S.ENABLE_RDTSCP | S.ENABLE_INVPCID | S.WBINVD_EXITING),
      exit: word(
        VMX_MSR.IA32_VMX_TRUE_EXIT_CTLS,
        X.HOST_ADDR_SPACE_SIZE | X.ACK_INTR_ON_EXIT | X.SAVE_DEBUG_CONTROLS | X.LOAD_IA32_PAT | X.LOAD_IA32_EFER,
      ),
      entry: word(VMX_MSR.IA32_VMX_TRUE_ENTRY_CTLS, N.LOAD_DEBUG_CONTROLS | N.LOAD_IA32_PAT | N.LOAD_IA32_EFER),
    };
  }

  // @clause kvm.module.vmxon-on-first-vm
  /** One more virtual machine: the first one switches VMX on. False when the processor or its firmware refuses. Linux: `kvm_enable_virtualization()`. */
  enable(): boolean {
    if (this.#users > 0) {
      this.#users++;
      return true;
    }
    const needed = BigInt(FEATURE_CONTROL.LOCKED | FEATURE_CONTROL.VMX_OUTSIDE_SMX);
    if ((this.cpu.readMsr(VMX_MSR.IA32_FEATURE_CONTROL) & needed) !== needed) return false;
    const region = this.ram.kernelPages();
    if (region < 0) return false;
    this.memory.view.setUint32(this.memory.offset(region, PAGE_BYTES), this.config.revision, true);
    this.cpu.state.set64(OFFSET.CR4, this.cpu.state.get64(OFFSET.CR4) | BigInt(CR4.VMXE));
    try {
      this.vmx.vmxon(region);
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      this.ram.freeKernelPages(region);
      return false;
    }
    this.#vmxonRegion = region;
    this.#users = 1;
    return true;
  }

  /** One fewer: the last one switches VMX off and clears CR4.VMXE. */
  disable(): void {
    assert(this.#users > 0, 'VMX is on while a virtual machine exists');
    if (--this.#users > 0) return;
    this.vmx.vmxoff();
    this.cpu.state.set64(OFFSET.CR4, this.cpu.state.get64(OFFSET.CR4) & ~BigInt(CR4.VMXE));
    this.ram.freeKernelPages(this.#vmxonRegion);
    this.#vmxonRegion = -1;
  }

  /** True between VMXON and VMXOFF. */
  get enabled(): boolean {
    return this.#users > 0;
  }

  // ## VMCS fields
  //
  // Reading and writing fields is most of what a hypervisor does. Linux wraps the two instructions in `vmcs_read32()`, `vmcs_writel()` and friends
  // and treats a failure as its own bug, because it can only be one. So does this.

  read(field: number): bigint {
    return this.vmx.vmread(field);
  }
  read32(field: number): number {
    return this.vmx.vmread32(field);
  }
  write(field: number, value: bigint): void {
    this.vmx.vmwrite(field, value);
  }
  write32(field: number, value: number): void {
    this.vmx.vmwrite32(field, value >>> 0);
  }

  /** The host's own timer need not fire any more for a guest that is not running. */
  forget(): void {
    this.#timerPending = false;
    this.cpu.eventsChanged();
  }

  /** INVEPT, single context: what the processor has cached of these second-stage tables is void. */
  inveptContext(root: Hpa): void {
    if (this.enabled) this.vmx.invept(INVEPT_SINGLE_CONTEXT, eptPointer(root));
  }

  /** INVVPID, single context: the guest's own mappings changed in a way that it need not flush for itself. Linux: `vpid_sync_context()`. */
  flushGuestTlb(vpid: number): void {
    if (vpid !== 0) this.vmx.invvpid(INVVPID_SINGLE_CONTEXT, vpid, 0n);
  }

  /** RAM was written by the kernel: instructions decoded from there are void. */
  wrote(hpa: Hpa, bytes: number): void {
    if (this.cpu.engine.holdsCode(hpa)) this.cpu.engine.codeWritten(hpa, bytes);
  }

  /** The same for any number of pages. */
  wroteRange(hpa: Hpa, bytes: number): void {
    for (let at = hpa; at < hpa + bytes; ) {
      const part = Math.min(hpa + bytes, at - (at % PAGE_BYTES) + PAGE_BYTES) - at;
      this.wrote(at, part);
      at += part;
    }
  }

  /** The processor's time stamp counter, which counts instructions here. */
  get tsc(): bigint {
    return this.cpu.state.get64(OFFSET.ICOUNT);
  }

  /** The same as a number. */
  get ticks(): number {
    return this.cpu.state.getNumber(OFFSET.ICOUNT);
  }

  /** Ticks of the time stamp counter that passed without an instruction. */
  idleTicks = 0;

  /** Instructions executed, by whomever. */
  get instructions(): number {
    return this.ticks - this.idleTicks;
  }

  /** Lets the time stamp counter run while the processor has nothing to do. */
  idle(ticks: number): void {
    this.idleTicks += ticks;
    this.cpu.state.setNumber(OFFSET.ICOUNT, this.ticks + ticks);
  }

  // ## Running a guest
  //
  // VM entry and exit are the processor's. What the host adds is a bound: its own timer interrupt, which takes the processor away from any guest
  // that does not give it up. The interrupt itself means nothing here; that it forces a VM exit means that the host gets its turn.

  /** Runs from a successful VM entry to the next VM exit; the host's timer fires after `instructions`. */
  runGuest(instructions: number, pace: Pace | null = null): GuestStop {
    const { cpu } = this;
    cpu.setTimer(cpu.instructions + instructions, this.#timerFires);
    try {
      const stop = pace ? this.#paced(pace) : cpu.run();
      if (stop.kind !== 'deadline') return stop.kind === 'vmexit' ? 'exit' : 'dead';
      // The guest has gone as far as it may. The same interrupt brings it out, at this very instruction.
      this.#hidden = true;
      pace?.pacer.hide();
      this.#timerFires();
      return cpu.run().kind === 'vmexit' ? 'cut' : 'dead';
    } catch (broken) {
      // Not the guest's doing. The virtual machine will be taken down, and that is a hypervisor's work, in root operation.
      if (this.vmx.nonRoot) this.vmx.exit(new VmExit(EXIT_REASON.EXTERNAL_INTERRUPT));
      throw broken;
    }
  }

  #paced({ room, pacer }: Pace): CpuStop {
    if (this.#hidden) {
      const entered = this.cpu.run(0); // the entry that makes up for the last cut
      this.#hidden = false;
      pacer.show();
      if (entered.kind !== 'deadline') return entered;
    }
    return this.cpu.run(room);
  }

  /** CPUID as the host itself would execute it: EAX, EBX, ECX, EDX. */
  hostCpuid(leaf: number, index: number): readonly [number, number, number, number] {
    return this.cpu.cpuid(this.cpu, leaf, index);
  }

  /** The host-state area: what the processor becomes at every VM exit. Linux: `vmx_set_constant_host_state()`. */
  writeHostState(): void {
    const { state } = this.cpu;
    this.write(FIELD.HOST_CR0, state.get64(OFFSET.CR0));
    this.write(FIELD.HOST_CR3, state.get64(OFFSET.CR3));
    this.write(FIELD.HOST_CR4, state.get64(OFFSET.CR4));
    for (const [field, seg] of [
      [FIELD.HOST_ES_SELECTOR, SEG.ES],
      [FIELD.HOST_CS_SELECTOR, SEG.CS],
      [FIELD.HOST_SS_SELECTOR, SEG.SS],
      [FIELD.HOST_DS_SELECTOR, SEG.DS],
      [FIELD.HOST_FS_SELECTOR, SEG.FS],
      [FIELD.HOST_GS_SELECTOR, SEG.GS],
      [FIELD.HOST_TR_SELECTOR, SEG.TR],
    ] as const)
      this.write32(field, state.segSelector(seg));
    this.write(FIELD.HOST_IA32_EFER, state.get64(OFFSET.EFER));
    this.write(FIELD.HOST_IA32_PAT, state.get64(OFFSET.PAT));
    this.write(FIELD.HOST_RIP, RIP_OF_VMX_EXIT);
    this.write(FIELD.HOST_RSP, HOST_STACK);
  }

  /** A virtual-processor identifier: it tags a vCPU's translations, so that they survive other guests' turns. 0 when all are taken. */
  allocateVpid(): number {
    const free = this.#freeVpids.pop();
    if (free !== undefined) return free;
    return this.#nextVpid <= 0xffff ? this.#nextVpid++ : 0;
  }
  freeVpid(vpid: number): void {
    if (vpid !== 0) this.#freeVpids.push(vpid);
  }
}

/** An EPT pointer: write-back, four levels, with accessed and dirty bits. */
export const eptPointer = (root: Hpa): bigint => BigInt(root) | BigInt(EPTP.WB | (3 << EPTP.WALK_LENGTH_SHIFT) | EPTP.ACCESSED_DIRTY);
