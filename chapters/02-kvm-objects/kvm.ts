// # Three objects
//
// A program that uses KVM holds three kinds of descriptor, each made from the one before: the system (`/dev/kvm`: what can you do?), a virtual
// machine (an address space to fill with slots), a virtual processor (registers, and a verb: run). The classes below are those three and add
// nothing to them but names. They work on any `Kernel`: the one in this book, or Linux's.
//
// A method that fails throws an `Errno` that says which request it was. The number is the kernel's; no class here decides that a call is
// wrong before the kernel has had the chance to say so, because then the two kernels could not be compared through them.

import type { Trace } from '../01-hardware-background/trace.ts';
import { KVM_API_VERSION } from './abi/capabilities.ts';
import { EXIT } from './abi/exits.ts';
import { IOCTL, type RequestName } from './abi/ioctls.ts';
import { KvmDirtyLog, KvmUserspaceMemoryRegion } from './abi/memory.ts';
import { KvmCpuid2, KvmCpuidEntry2, KvmMsrList } from './abi/registers.ts';
import { ERRNO, Errno } from './errno.ts';
import { type Allocation, type Kernel, O_CLOEXEC, O_RDWR } from './kernel.ts';
import { RunPage } from './run-page.ts';
import { type CpuidEntry, decodeCpuid, VcpuState } from './vcpu-state.ts';

/** A descriptor and the kernel that it belongs to. */
class Descriptor {
  readonly kernel: Kernel;
  readonly fd: number;
  /** What the trace calls it: `kvm`, `vm`, `vcpu0`. */
  readonly label: string;
  readonly trace: Trace | null;

  constructor(kernel: Kernel, fd: number, label: string, trace: Trace | null) {
    this.kernel = kernel;
    this.fd = fd;
    this.label = label;
    this.trace = trace;
  }

  /** The raw call, reported to the trace. Negative results are returned, not thrown. */
  tryIoctl(request: RequestName, arg: number | Uint8Array = 0): number {
    const result = this.kernel.ioctl(this.fd, IOCTL[request], arg);
    this.trace?.emit({ kind: 'ioctl', fd: this.label, request, result });
    return result;
  }

  /** The call. @throws Errno */
  ioctl(request: RequestName, arg: number | Uint8Array = 0): number {
    const result = this.tryIoctl(request, arg);
    if (result < 0) throw new Errno(request, -result);
    return result;
  }

  /** 0 when the capability is absent; else 1 or a quantity. */
  checkExtension(capability: number): number {
    return this.ioctl('KVM_CHECK_EXTENSION', capability);
  }

  close(): void {
    this.kernel.close(this.fd);
  }
}

/** The system descriptor. */
export class Kvm extends Descriptor {
  /**
   * Opens the device and checks the API version, as every VMM does first.
   * @throws Errno when the device cannot be opened, or speaks another version.
   */
  static open(kernel: Kernel, { path = '/dev/kvm', trace = null }: { path?: string; trace?: Trace | null } = {}): Kvm {
    const fd = kernel.open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) throw new Errno('open', -fd, path);
    const kvm = new Kvm(kernel, fd, 'kvm', trace);
    const version = kvm.ioctl('KVM_GET_API_VERSION');
    if (version === KVM_API_VERSION) return kvm;
    kvm.close();
    throw new Errno('KVM_GET_API_VERSION', ERRNO.ENOSYS, `version ${version}, not ${KVM_API_VERSION}`);
  }

  createVm(type = 0): Vm {
    return new Vm(this, this.ioctl('KVM_CREATE_VM', type));
  }

  /** Bytes to map for each vCPU: `struct kvm_run` and the pages behind it. */
  vcpuMmapBytes(): number {
    return this.ioctl('KVM_GET_VCPU_MMAP_SIZE');
  }

  /** What CPUID may say to a guest. Asks again with more room for as long as the kernel answers E2BIG. */
  getSupportedCpuid(): CpuidEntry[] {
    for (let room = 64; ; room *= 2) {
      const arg = new Uint8Array(KvmCpuid2.bytes + room * KvmCpuidEntry2.bytes);
      KvmCpuid2.store(new DataView(arg.buffer), 0, { nent: room });
      const result = this.tryIoctl('KVM_GET_SUPPORTED_CPUID', arg);
      if (result >= 0) return decodeCpuid(arg);
      if (result !== -ERRNO.E2BIG || room > 4096) throw new Errno('KVM_GET_SUPPORTED_CPUID', -result);
    }
  }

  /** The MSRs that make up a vCPU's saved state. The first call is made too short on purpose: it fails and says how many there are. */
  getMsrIndexList(): number[] {
    const head = KvmMsrList.encode();
    const result = this.tryIoctl('KVM_GET_MSR_INDEX_LIST', head);
    if (result < 0 && result !== -ERRNO.E2BIG) throw new Errno('KVM_GET_MSR_INDEX_LIST', -result);
    const { nmsrs } = KvmMsrList.decode(head);
    const arg = new Uint8Array(KvmMsrList.bytes + 4 * nmsrs);
    arg.set(head);
    this.ioctl('KVM_GET_MSR_INDEX_LIST', arg);
    return [...new Uint32Array(arg.buffer, KvmMsrList.bytes, nmsrs)];
  }

  /** Memory that a slot can name. @throws Errno */
  allocate(bytes: number): Allocation {
    const result = this.kernel.allocate(bytes);
    if (typeof result === 'number') throw new Errno('mmap', -result, `${bytes} bytes of guest memory`);
    return result;
  }
}

/** What {@link Vm.setUserMemoryRegion} takes: the kernel structure, with addresses as numbers where they fit one. */
interface MemoryRegion {
  readonly slot: number;
  readonly guest_phys_addr: number;
  /** 0 deletes the slot. */
  readonly memory_size: number;
  readonly userspace_addr: number;
  /** KVM_MEM bits. */
  readonly flags?: number;
}

/** A virtual machine. */
export class Vm extends Descriptor {
  readonly kvm: Kvm;

  constructor(kvm: Kvm, fd: number) {
    super(kvm.kernel, fd, 'vm', kvm.trace);
    this.kvm = kvm;
  }

  createVcpu(id: number): Vcpu {
    return new Vcpu(this, id, this.ioctl('KVM_CREATE_VCPU', id));
  }

  setUserMemoryRegion({ slot, guest_phys_addr, memory_size, userspace_addr, flags = 0 }: MemoryRegion): void {
    const [gpa, size, hva] = [BigInt(guest_phys_addr), BigInt(memory_size), BigInt(userspace_addr)];
    this.ioctl(
      'KVM_SET_USER_MEMORY_REGION',
      KvmUserspaceMemoryRegion.encode({ slot, flags, guest_phys_addr: gpa, memory_size: size, userspace_addr: hva }),
    );
  }

  /** Where Intel's real mode may put its three pages. Needed before the first vCPU runs on processors without unrestricted guest. */
  setTssAddr(gpa: number): void {
    this.ioctl('KVM_SET_TSS_ADDR', gpa);
  }

  /** The pages of a slot written since the last call, one bit each, as the kernel writes them into `bitmap`. */
  getDirtyLog(slot: number, bitmap: Allocation): void {
    this.ioctl('KVM_GET_DIRTY_LOG', KvmDirtyLog.encode({ slot, dirty_bitmap: BigInt(bitmap.hva) }));
  }
}

/** A virtual processor: its state (see {@link VcpuState}), and the verb. */
export class Vcpu extends VcpuState {
  readonly id: number;
  readonly fd: number;
  readonly page: RunPage;
  readonly #descriptor: Descriptor;

  constructor(vm: Vm, id: number, fd: number) {
    const descriptor = new Descriptor(vm.kernel, fd, `vcpu${id}`, vm.trace);
    super((request, arg) => descriptor.ioctl(request, arg));
    this.#descriptor = descriptor;
    this.id = id;
    this.fd = fd;
    const mapped = vm.kernel.mmap(fd, vm.kvm.vcpuMmapBytes());
    if (typeof mapped === 'number') {
      descriptor.close();
      throw new Errno('mmap', -mapped, 'struct kvm_run');
    }
    this.page = new RunPage(mapped);
  }

  /**
   * KVM_RUN. Returns the exit reason; a run that a signal or `immediate_exit` ended is KVM_EXIT_INTR, whatever the page says.
   * @throws Errno for anything else that the call refuses
   */
  run(): number {
    return this.ran(this.#descriptor.tryIoctl('KVM_RUN'));
  }

  /** The exit reason, for a KVM_RUN that was made elsewhere (on a thread of its own) and gave `result`. @throws Errno as {@link run} */
  ran(result: number): number {
    if (result === 0) return this.page.exitReason;
    if (result === -ERRNO.EINTR || result === -ERRNO.EAGAIN) return EXIT.KVM_EXIT_INTR;
    // The one exit that comes with an error: the kernel could not resolve a fault, and says where.
    if (result === -ERRNO.EFAULT && this.page.exitReason === EXIT.KVM_EXIT_MEMORY_FAULT) return EXIT.KVM_EXIT_MEMORY_FAULT;
    throw new Errno('KVM_RUN', -result);
  }

  close(): void {
    this.#descriptor.close();
  }
}
