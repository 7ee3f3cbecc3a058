// # The ring
//
// A bitmap has to be read whole to find the few ones in it, and its size is the guest's, not the work's: a terabyte of RAM is 32 MiB of bits to scan for
// a guest that writes a hundred pages. The *dirty ring* turns it round: each vCPU has a list, in memory that it shares with the VMM, and puts into it the
// pages that it writes, in order. What the VMM has to read is as long as what happened. And a ring can be full, which sounds like a drawback and is
// the point: a guest that writes faster than anyone can send is stopped by its own ring, vCPU by vCPU.
//
// Kernel and VMM share no lock. Each entry carries a state in its `flags`, and each side only ever makes its own change to it:
//
// ```text
//            kernel: page written            VMM: collected            kernel: KVM_RESET_DIRTY_RINGS
//   free (0) --------------------> DIRTY (1) --------------> RESET (2) --------------> free (0)
// ```
//
// The entry is complete before its flag says so; on a machine where stores may overtake each other that needs a barrier, hence the `_ACQ_REL` in one
// of the capability's two names.

import { type Hpa, PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import { EXIT } from '../../02-kvm-objects/abi/exits.ts';
import { KVM_DIRTY_GFN_F, KVM_DIRTY_LOG_PAGE_OFFSET, KvmDirtyGfn } from '../../02-kvm-objects/abi/memory.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import type { MemorySlot } from '../../02-kvm-objects/soft/slots.ts';
import type { SoftKernel } from '../../02-kvm-objects/soft/soft-kernel.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import type { SoftVm } from '../../02-kvm-objects/soft/vm.ts';

const { KVM_DIRTY_GFN_F_DIRTY: DIRTY, KVM_DIRTY_GFN_F_RESET: RESET } = KVM_DIRTY_GFN_F;
/** KVM_DIRTY_RING_MAX_ENTRIES. */
const MAX_ENTRIES = 65536;
/** Entries that stay free when the ring counts as full: one exit of the guest may still have several pages to note. */
const RESERVED_ENTRIES = 64;

/** One vCPU's ring. */
class DirtyRing {
  readonly #flags: Int32Array;
  readonly #view: DataView;
  readonly #entries: number;
  // Both run freely; their difference is what is in the ring.
  #dirtyIndex = 0;
  #resetIndex = 0;

  /** `bytes` begins at a multiple of 8 in its buffer. */
  constructor(bytes: Uint8Array) {
    this.#flags = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#entries = bytes.length / KvmDirtyGfn.bytes;
  }

  #used(): number {
    return (this.#dirtyIndex - this.#resetIndex) >>> 0;
  }

  // @clause kvm.dirty-ring.soft-full
  /** Time for the vCPU to stop. Linux: `kvm_dirty_ring_soft_full()`. */
  get full(): boolean {
    return this.#used() >= this.#entries - RESERVED_ENTRIES;
  }

  // A guest is stopped before its ring is full. A VMM that makes the kernel write, by setting an MSR for example, and never runs the vCPU, can fill
  // the rest; what it does not collect in time is lost to it.

  // @clause kvm.dirty-ring.publish
  /** Notes a written page. Linux: `kvm_dirty_ring_push()`. */
  push(slot: number, offset: number): void {
    if (this.#used() >= this.#entries) return;
    const n = (this.#dirtyIndex & (this.#entries - 1)) >>> 0;
    KvmDirtyGfn.store(this.#view, n * KvmDirtyGfn.bytes, { slot, offset: BigInt(offset) });
    Atomics.store(this.#flags, (n * KvmDirtyGfn.bytes) / 4, DIRTY);
    this.#dirtyIndex = (this.#dirtyIndex + 1) | 0;
  }

  // The first entry that was not collected ends the harvest, whatever lies behind it: entries are freed in their order.

  /** Frees what the VMM has collected. `each` gets slot and page; how many there were. Linux: `kvm_dirty_ring_reset()`. */
  reset(each: (slot: number, offset: bigint) => void): number {
    let count = 0;
    while (this.#used() > 0) {
      const n = (this.#resetIndex & (this.#entries - 1)) >>> 0;
      const flags = (n * KvmDirtyGfn.bytes) / 4;
      if (!(Atomics.load(this.#flags, flags) & RESET)) break;
      const { slot, offset } = KvmDirtyGfn.load(this.#view, n * KvmDirtyGfn.bytes);
      Atomics.store(this.#flags, flags, 0);
      this.#resetIndex = (this.#resetIndex + 1) | 0;
      count++;
      each(slot, offset);
    }
    return count;
  }
}

interface Ringed {
  readonly ring: DirtyRing;
  readonly hpa: Hpa;
  readonly pages: number;
}

/** Adds rings to a kernel: the capability under both names, the mapping, the exit and the reset. */
export function installDirtyRing(kernel: SoftKernel): void {
  const sizes = new WeakMap<SoftVm, number>();
  const rings = new WeakMap<SoftVcpu, Ringed>();

  // @clause kvm.dirty-ring.enable
  const enable = (vm: SoftVm, [size]: readonly [bigint, bigint, bigint, bigint]): number => {
    if (size === 0n || size & (size - 1n)) return -ERRNO.EINVAL;
    if (size < BigInt(RESERVED_ENTRIES * KvmDirtyGfn.bytes) || size < BigInt(PAGE_BYTES)) return -ERRNO.EINVAL;
    if (size > BigInt(MAX_ENTRIES * KvmDirtyGfn.bytes)) return -ERRNO.E2BIG;
    if (sizes.has(vm) || vm.vcpus.size > 0) return -ERRNO.EINVAL;
    sizes.set(vm, Number(size));
    vm.slots.dirtyRing = (slot, page) => note(vm, slot, page);
    vm.entryChecks.push((vcpu) => {
      // @clause kvm.exit.dirty-ring-full
      if (!rings.get(vcpu)?.ring.full) return 1;
      vcpu.exitReason = EXIT.KVM_EXIT_DIRTY_RING_FULL;
      return 0;
    });
    return 0;
  };
  for (const cap of [CAP.KVM_CAP_DIRTY_LOG_RING, CAP.KVM_CAP_DIRTY_LOG_RING_ACQ_REL]) {
    kernel.capabilities.set(cap, MAX_ENTRIES * KvmDirtyGfn.bytes);
    kernel.vmOptions.set(cap, enable);
  }

  /** Whoever holds the processor has written; what the VMM writes through a request of its own goes into the ring of that vCPU too. */
  const note = (vm: SoftVm, slot: MemorySlot, page: number): void => {
    const { loaded } = vm.hardware;
    if (loaded?.vm === vm) rings.get(loaded)?.ring.push(slot.id, page);
  };

  kernel.vcpuCreated.push((vcpu) => {
    const size = sizes.get(vcpu.vm);
    if (size === undefined) return 0;
    const { ram, memory } = vcpu.vm.hardware;
    const pages = size / PAGE_BYTES;
    const hpa = ram.kernelPages(pages);
    if (hpa < 0) return -ERRNO.ENOMEM;
    const bytes = memory.slice(hpa, size);
    rings.set(vcpu, { ring: new DirtyRing(bytes), hpa, pages });
    vcpu.mappings.set(KVM_DIRTY_LOG_PAGE_OFFSET, bytes);
    return 0;
  });
  kernel.vcpuFreed.push((vcpu) => {
    const ringed = rings.get(vcpu);
    if (ringed) vcpu.vm.hardware.ram.freeKernelPages(ringed.hpa, ringed.pages);
    rings.delete(vcpu);
  });

  // @clause kvm.dirty-ring.reset
  kernel.vmRequests.onNumber('KVM_RESET_DIRTY_RINGS', (vm) => {
    if (!sizes.has(vm)) return -ERRNO.EINVAL;
    let count = 0;
    for (const vcpu of vm.vcpus.values()) {
      count +=
        rings.get(vcpu)?.ring.reset((id, offset) => {
          // The entry has been in the VMM's hands: it may name any slot and any page.
          const slot = vm.slots.get(id);
          if (slot && offset < BigInt(slot.bytes / PAGE_BYTES)) vm.mmu.writeProtect(slot, Number(offset), 1);
        }) ?? 0;
    }
    return count;
  });
}
