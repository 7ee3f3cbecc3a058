// # The soft kernel
//
// Here the pieces meet: a process's descriptor table, `/dev/kvm`, and behind every descriptor the object it stands for. The class implements the
// same `Kernel` interface as the one that asks Linux, and that is its whole specification: a VMM must not be able to tell.

import type { TranslationOptions } from '../../01-hardware-background/engine/surroundings.ts';
import { PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import type { Trace } from '../../01-hardware-background/trace.ts';
import { CAP, KVM_API_VERSION } from '../abi/capabilities.ts';
import { KvmDirtyLog, KvmEnableCap } from '../abi/memory.ts';
import { KvmMsrEntry, KvmMsrList } from '../abi/registers.ts';
import { ERRNO } from '../errno.ts';
import { type Allocation, EFD, type Kernel } from '../kernel.ts';
import { type CpuidEntry, storeCpuid, supportedCpuid } from './cpuid.ts';
import { IoctlTable } from './dispatch.ts';
import { EventFd } from './eventfd.ts';
import { FileTable, type OpenFile } from './files.ts';
import { Hardware } from './hardware.ts';
import { LazyEpt } from './lazy-ept.ts';
import { featureMsr, MSR_FEATURES, MSR_LIST, type MsrRegister, msrList } from './msrs.ts';
import type { MemoryVirtualization } from './second-stage.ts';
import { USER_SLOTS } from './slots.ts';
import { RUN_BYTES, SoftVcpu } from './vcpu.ts';
import { installVcpuRequests } from './vcpu-requests.ts';
import { VirtualClock } from './virtual-clock.ts';
import { SoftVm } from './vm.ts';

/** KVM_MAX_VCPUS, and the ids that they may have. */
const MAX_VCPUS = 1024;
const MAX_VCPU_ID = 4096;
/** KVM_SET_TSS_ADDR: three pages must fit below 4 GiB. */
const TSS_LIMIT = 2 ** 32 - 3 * 4096;

/** Switches one optional behaviour on: 0 or -errno. Linux: a case of `kvm_vm_ioctl_enable_cap()`. */
type VmOption = (vm: SoftVm, args: readonly [bigint, bigint, bigint, bigint], flags: number) => number;

export interface SoftKernelOptions extends TranslationOptions {
  /** RAM of the modelled machine: what the VMM may allocate, and the kernel's own pages. A multiple of 64 KiB. */
  readonly ramBytes?: number;
  /** RAM in a SharedArrayBuffer. */
  readonly shared?: boolean;
  readonly trace?: Trace | null;
  /**
   * False: what the processor does by itself is not reported, no walk, no delivered interrupt; only what the kernel does is. Such a trace costs next to
   * nothing.
   */
  readonly traceProcessor?: boolean;
  /** 57: the processor has five levels of paging, and the kernel offers them to guests. */
  readonly linearAddressBits?: 48 | 57;
}

const DEFAULT_RAM = 64 << 20;
const KNOWN_EFD = EFD.EFD_SEMAPHORE | EFD.EFD_NONBLOCK | EFD.EFD_CLOEXEC;

/** The descriptor-independent part of a file: what KVM's files cannot do. */
const notMappable = (): number => -ERRNO.ENODEV;

export class SoftKernel implements Kernel {
  readonly name = 'soft';
  readonly hardware: Hardware;
  readonly clock: VirtualClock;
  readonly trace: Trace | null;
  /** Where later chapters install what they add. The errno is what Linux answers to a request that the descriptor does not know. */
  readonly systemRequests = new IoctlTable<SoftKernel>(ERRNO.EINVAL);
  readonly vmRequests = new IoctlTable<SoftVm>(ERRNO.ENOTTY);
  readonly vcpuRequests = new IoctlTable<SoftVcpu>(ERRNO.EINVAL);
  /** KVM_CHECK_EXTENSION's answers. */
  readonly capabilities = new Map<number, number>();
  /** Optional behaviour of a VM, by capability number: what KVM_ENABLE_CAP does. */
  readonly vmOptions = new Map<number, VmOption>();
  /** MSRs besides chapter 2's, and which of them are part of a vCPU's saved state. */
  readonly msrs = new Map<number, MsrRegister>();
  readonly savedMsrs: number[] = [];
  /** Each adds to, or changes, what KVM_GET_SUPPORTED_CPUID says. */
  readonly cpuidAdditions: ((entries: CpuidEntry[]) => void)[] = [];
  /** Told of each new VM, and of its end. */
  readonly vmCreated: ((vm: SoftVm) => void)[] = [];
  readonly vmDestroyed: ((vm: SoftVm) => void)[] = [];
  /** Told of each new vCPU before its descriptor exists; a negative errno refuses it. Linux: `kvm_arch_vcpu_create()` and its callees. */
  readonly vcpuCreated: ((vcpu: SoftVcpu) => number)[] = [];
  /** Told when a vCPU goes, with its VM or because its creation failed later. */
  readonly vcpuFreed: ((vcpu: SoftVcpu) => void)[] = [];
  /** How the memory of the next VM is virtualized. */
  makeMemoryVirtualization: (vm: SoftVm) => MemoryVirtualization = (vm) => new LazyEpt(vm);
  readonly #files = new FileTable();

  constructor({ trace = null, ...options }: SoftKernelOptions = {}) {
    this.trace = trace;
    this.hardware = new Hardware({ ramBytes: DEFAULT_RAM, ...options, trace });
    this.clock = new VirtualClock(this.hardware);
    this.#installCapabilities();
    this.#installSystemRequests();
    this.#installVmRequests();
    this.#installVmOptions();
    installVcpuRequests(this.vcpuRequests);
  }

  // ## System calls

  open(path: string, _flags: number): number {
    // @clause kvm.open.enoent
    if (path !== '/dev/kvm') return -ERRNO.ENOENT;
    return this.#files.install({
      name: '/dev/kvm',
      object: this,
      ioctl: (request, arg) => this.systemRequests.call(this, request, arg),
      mmap: notMappable,
      release() {},
    });
  }

  close(fd: number): number {
    return this.#files.close(fd);
  }

  ioctl(fd: number, request: number, arg: number | Uint8Array = 0): number {
    const file = this.#files.get(fd);
    return file ? file.ioctl(request >>> 0, arg) : -ERRNO.EBADF;
  }

  mmap(fd: number, length: number, offset = 0): Uint8Array | number {
    const file = this.#files.get(fd);
    if (!file) return -ERRNO.EBADF;
    return length > 0 && offset >= 0 && offset % PAGE_BYTES === 0 ? file.mmap(length, offset) : -ERRNO.EINVAL;
  }

  allocate(bytes: number): Allocation | number {
    return this.hardware.ram.allocateUser(bytes);
  }

  free(hva: number): number {
    const result = this.hardware.ram.freeUser(hva);
    if (result < 0) return result;
    for (const vm of this.#vms) vm.unmapped(hva, result);
    return 0;
  }

  get tellsStores(): boolean {
    return this.hardware.toldOfStores;
  }
  set tellsStores(all: boolean) {
    this.hardware.toldOfStores = all;
  }
  stored(hva: number, bytes: number): void {
    const hpa = this.hardware.ram.hpaOf(hva, bytes);
    if (hpa >= 0) this.hardware.wroteRange(hpa, bytes);
  }

  // The guest cannot see these, but the trace can: a table that is there spares an exit.

  forget(): void {
    if (this.trace) this.trace.now = this.hardware.ticks;
    this.hardware.forget();
    for (const vm of this.#vms) {
      vm.mmu.zapAll();
      for (const { vpid } of vm.vcpus.values()) this.hardware.flushGuestTlb(vpid);
    }
  }

  eventfd(initial: number, flags: number): number {
    if (flags & ~KNOWN_EFD) return -ERRNO.EINVAL;
    return this.#files.install(new EventFd(initial, flags));
  }

  read(fd: number, bytes: Uint8Array): number {
    const file = this.#files.get(fd);
    return file ? (file.read?.(bytes) ?? -ERRNO.EINVAL) : -ERRNO.EBADF;
  }

  write(fd: number, bytes: Uint8Array): number {
    const file = this.#files.get(fd);
    return file ? (file.write?.(bytes) ?? -ERRNO.EINVAL) : -ERRNO.EBADF;
  }

  // A second processor would have a thread that waits for the counter. Here there is one, and the waiting thread gets it where a device of the
  // kernel's own would: when the guest is out, before it is entered again. So the thread is infinitely fast, and every run is like the last.

  watch(fd: number, ready: () => void): (() => void) | number {
    const event = this.eventBehind(fd);
    if (typeof event === 'number') return event;
    const { timers } = this.clock;
    const turn = timers.timer(ready);
    const wake = (): void => turn.arm(this.clock.now());
    event.readers.add(wake);
    if (event.count > 0n) wake();
    return () => {
      event.readers.delete(wake);
      turn.cancel();
    };
  }

  /** The counter behind a descriptor; EBADF or EINVAL as a negative number when it is not open, or something else. Linux: `eventfd_ctx_fdget()`. */
  eventBehind(fd: number): EventFd | number {
    const file = this.#files.get(fd);
    if (!file) return -ERRNO.EBADF;
    return file instanceof EventFd ? file : -ERRNO.EINVAL;
  }

  /** Where a descriptor leads, as `readlink /proc/self/fd/N` would say; null when it is not open. */
  describe(fd: number): string | null {
    return this.#files.get(fd)?.name ?? null;
  }

  /** The vCPU behind a descriptor, or null: for whoever signals the thread that runs it. */
  vcpuBehind(fd: number): SoftVcpu | null {
    const object = this.#files.get(fd)?.object;
    return object instanceof SoftVcpu ? object : null;
  }

  readonly #vms = new Set<SoftVm>();

  // ## The system descriptor

  // @clause kvm.cap.present-is-positive
  #installCapabilities(): void {
    for (const [capability, value] of [
      [CAP.KVM_CAP_USER_MEMORY, 1],
      [CAP.KVM_CAP_DESTROY_MEMORY_REGION_WORKS, 1],
      [CAP.KVM_CAP_SET_TSS_ADDR, 1],
      [CAP.KVM_CAP_SET_IDENTITY_MAP_ADDR, 1],
      [CAP.KVM_CAP_EXT_CPUID, 1],
      [CAP.KVM_CAP_NR_VCPUS, 1], // "recommended": the number of physical processors
      [CAP.KVM_CAP_MAX_VCPUS, MAX_VCPUS],
      [CAP.KVM_CAP_MAX_VCPU_ID, MAX_VCPU_ID],
      [CAP.KVM_CAP_NR_MEMSLOTS, USER_SLOTS],
      [CAP.KVM_CAP_READONLY_MEM, 1],
      [CAP.KVM_CAP_SYNC_MMU, 1],
      [CAP.KVM_CAP_MP_STATE, 1],
      [CAP.KVM_CAP_VCPU_EVENTS, 1],
      [CAP.KVM_CAP_INTR_SHADOW, 1],
      [CAP.KVM_CAP_DEBUGREGS, 1],
      [CAP.KVM_CAP_XSAVE, 1],
      [CAP.KVM_CAP_XSAVE2, 4096],
      [CAP.KVM_CAP_XCRS, 1],
      [CAP.KVM_CAP_SREGS2, 1],
      [CAP.KVM_CAP_GET_MSR_FEATURES, 1],
      [CAP.KVM_CAP_CHECK_EXTENSION_VM, 1],
    ] as const)
      this.capabilities.set(capability, value);
  }

  #installSystemRequests(): void {
    const on = this.systemRequests;
    // @clause kvm.api.version
    on.onNumber('KVM_GET_API_VERSION', (_kernel, arg) => (arg === 0 ? KVM_API_VERSION : -ERRNO.EINVAL));
    // @clause kvm.ioctl.no-argument
    // @clause kvm.run-page.size
    on.onNumber('KVM_GET_VCPU_MMAP_SIZE', (_kernel, arg) => (arg === 0 ? RUN_BYTES : -ERRNO.EINVAL));
    // @clause kvm.cap.unknown-is-zero
    on.onNumber('KVM_CHECK_EXTENSION', (kernel, capability) => kernel.capabilities.get(capability) ?? 0);
    on.onNumber('KVM_CREATE_VM', (kernel, type) => kernel.#createVm(type));
    on.onStruct('KVM_GET_SUPPORTED_CPUID', (kernel, _bytes, view) => storeCpuid(view, supportedCpuid(kernel.hardware, kernel.cpuidAdditions)));
    on.onStruct('KVM_GET_MSR_INDEX_LIST', (kernel, _bytes, view) => storeMsrList(view, [...MSR_LIST, ...kernel.savedMsrs]));
    on.onStruct('KVM_GET_MSR_FEATURE_INDEX_LIST', (_kernel, _bytes, view) => storeMsrList(view, MSR_FEATURES));
    on.onStruct('KVM_GET_MSRS', (_kernel, _bytes, view) =>
      msrList(view, (index, at) => {
        const data = featureMsr(index);
        if (data === null) return false;
        KvmMsrEntry.store(view, at, { data });
        return true;
      }),
    );
  }

  // @clause kvm.vm.type
  #createVm(type: number): number {
    if (type !== 0) return -ERRNO.EINVAL; // KVM_X86_DEFAULT_VM; the others need encrypted memory
    if (!this.hardware.enable()) return -ERRNO.EIO;
    const destroyed = (): void => {
      for (const tell of this.vmDestroyed) tell(vm);
      this.#vms.delete(vm);
      this.hardware.disable();
    };
    const vm = new SoftVm(this.hardware, this.makeMemoryVirtualization, destroyed, this.msrs);
    if (!vm.mmu.ready) {
      this.hardware.disable();
      return -ERRNO.ENOMEM;
    }
    for (const tell of this.vmCreated) tell(vm);
    const fd = this.#files.install({
      name: 'anon_inode:kvm-vm',
      object: vm,
      ioctl: (request, arg) => this.vmRequests.call(vm, request, arg),
      mmap: notMappable,
      release: () => vm.put(),
    });
    if (fd < 0) vm.put();
    else this.#vms.add(vm);
    return fd;
  }

  // ## The VM descriptor

  #installVmRequests(): void {
    const on = this.vmRequests;
    on.onNumber('KVM_CHECK_EXTENSION', (_vm, capability) => this.capabilities.get(capability) ?? 0);
    on.onNumber('KVM_CREATE_VCPU', (vm, id) => this.#createVcpu(vm, id));
    on.onStruct('KVM_SET_USER_MEMORY_REGION', (vm, _bytes, view) => vm.setMemoryRegion(view));
    on.onStruct('KVM_GET_DIRTY_LOG', getDirtyLog);
    on.onNumber('KVM_SET_TSS_ADDR', (vm, address) => {
      if (!(address >= 0 && address <= TSS_LIMIT)) return -ERRNO.EINVAL;
      vm.tssAddr = address;
      return 0;
    });
    // Optional behaviour is switched on by number. What nobody has installed is refused.
    on.onStruct('KVM_ENABLE_CAP', (vm, _bytes, view) => {
      const { cap, flags, arg0, arg1, arg2, arg3 } = KvmEnableCap.load(view);
      return this.vmOptions.get(cap)?.(vm, [arg0, arg1, arg2, arg3], flags) ?? -ERRNO.EINVAL;
    });
    // @clause kvm.irqchip.enxio-without
    for (const request of ['KVM_IRQ_LINE', 'KVM_IRQ_LINE_STATUS', 'KVM_GET_IRQCHIP', 'KVM_SET_IRQCHIP'] as const)
      on.onStruct(request, () => -ERRNO.ENXIO);
    on.onStruct('KVM_SET_IDENTITY_MAP_ADDR', (vm, _bytes, view) => {
      // @clause kvm.vm.identity-map-before-vcpus
      if (vm.vcpus.size > 0) return -ERRNO.EINVAL;
      vm.identityMapAddr = Number(view.getBigUint64(0, true));
      return 0;
    });
  }

  // Two parts of a vCPU's events were added to the interface later, and a VMM has to say that it knows them.

  // @clause kvm.events.valid
  #installVmOptions(): void {
    const switched = (what: 'exceptionPayload' | 'tripleFaultEvent') => (vm: SoftVm, args: readonly bigint[]) => {
      vm[what] = args[0] === 1n;
      return (args[0] as bigint) > 1n ? -ERRNO.EINVAL : 0;
    };
    this.vmOptions.set(CAP.KVM_CAP_EXCEPTION_PAYLOAD, switched('exceptionPayload'));
    this.vmOptions.set(CAP.KVM_CAP_X86_TRIPLE_FAULT_EVENT, switched('tripleFaultEvent'));
    this.capabilities.set(CAP.KVM_CAP_EXCEPTION_PAYLOAD, 1);
    this.capabilities.set(CAP.KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
  }

  #createVcpu(vm: SoftVm, id: number): number {
    // @clause kvm.vcpu.id-range
    if (!(id >= 0 && id < MAX_VCPU_ID) || vm.vcpus.size >= MAX_VCPUS) return -ERRNO.EINVAL;
    // @clause kvm.vcpu.id-unique
    if (vm.vcpus.has(id)) return -ERRNO.EEXIST;
    const vcpu = SoftVcpu.create(vm, id);
    if (!vcpu) return -ERRNO.ENOMEM;
    vcpu.onFree = () => {
      for (const freed of this.vcpuFreed) freed(vcpu);
    };
    for (const created of this.vcpuCreated) {
      const result = created(vcpu);
      if (result >= 0) continue;
      vcpu.free();
      return result;
    }
    const file: OpenFile = {
      name: `anon_inode:kvm-vcpu:${id}`,
      object: vcpu,
      ioctl: (request, arg) => {
        vcpu.load();
        return this.vcpuRequests.call(vcpu, request, arg);
      },
      mmap: (length, offset) => vcpu.mapped(length, offset),
      release: () => vm.put(),
    };
    const fd = this.#files.install(file);
    if (fd < 0) {
      vcpu.free();
      return fd;
    }
    vm.vcpus.set(id, vcpu);
    vm.get();
    return fd;
  }
}

// ## Small requests

// @clause kvm.msr-list.e2big
/** Writes a list of indices; E2BIG, with the count that would have been enough, when the caller's list is too short. */
function storeMsrList(view: DataView, list: readonly number[]): number {
  const { nmsrs } = KvmMsrList.load(view);
  KvmMsrList.store(view, 0, { nmsrs: list.length });
  if (nmsrs < list.length) return -ERRNO.E2BIG;
  if (view.byteLength < KvmMsrList.bytes + 4 * list.length) return -ERRNO.EFAULT;
  list.forEach((index, n) => {
    view.setUint32(KvmMsrList.bytes + 4 * n, index, true);
  });
  return 0;
}

// The dirty log is how a running machine is copied: ask which pages were written since the last question, send those, ask again. Asking also clears,
// and clearing takes write permission away, so that the next write to each page faults once and sets its bit. The bitmap goes to the VMM's memory by
// address.

// @clause kvm.memory.dirty-log
function getDirtyLog(vm: SoftVm, _bytes: Uint8Array, view: DataView): number {
  const { slot: id, dirty_bitmap } = KvmDirtyLog.load(view);
  if (id >>> 16 !== 0 || id >= USER_SLOTS) return -ERRNO.EINVAL;
  const slot = vm.slots.get(id);
  // @clause kvm.memory.dirty-log-needs-flag
  if (!slot?.dirty) return -ERRNO.ENOENT;
  const hpa = vm.hardware.ram.hpaOf(Number(dirty_bitmap), slot.dirty.length);
  if (hpa < 0) return -ERRNO.EFAULT;
  vm.hardware.memory.slice(hpa, slot.dirty.length).set(slot.dirty);
  slot.dirty.fill(0);
  vm.mmu.writeProtect(slot, 0, slot.bytes / PAGE_BYTES);
  return 0;
}
