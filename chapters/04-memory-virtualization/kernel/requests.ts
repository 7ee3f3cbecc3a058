// # What else a VMM can say about memory
//
// Slots have a second, longer form of their request, made for memory that the VMM itself cannot see (`guest_memfd`, for encrypted guests). The extra
// words mean nothing for an ordinary VM, and the flag that would give them a meaning is refused. Two small requests complete the set: a bound on how
// many page tables the kernel spends on a guest, and the wish to have memory mapped before the guest touches it, so that the time to first response of
// a restored snapshot does not consist of page faults.

import { PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import { KvmPreFaultMemory } from '../../02-kvm-objects/abi/memory.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import type { SoftKernel } from '../../02-kvm-objects/soft/soft-kernel.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';

/** KVM_MIN_ALLOC_MMU_PAGES. */
const MIN_MMU_PAGES = 64;

// @clause kvm.memory.pre-fault
/** KVM_PRE_FAULT_MEMORY. Linux: `kvm_vcpu_pre_fault_memory()`. */
function preFaultMemory(vcpu: SoftVcpu, _bytes: Uint8Array, view: DataView): number {
  let { gpa, size, flags } = KvmPreFaultMemory.load(view);
  const page = BigInt(PAGE_BYTES - 1);
  if (flags !== 0n || gpa & page || size & page || size === 0n || gpa + size >= 1n << 64n) return -ERRNO.EINVAL;
  let result = 0;
  let progress = false;
  while (size > 0n) {
    // Beyond what four levels translate there is no slot, and no entry to make.
    result = gpa < 1n << 48n ? vcpu.vm.mmu.prefault(vcpu, Number(gpa)) : -ERRNO.ENOENT;
    if (result <= 0) break;
    const mapped = BigInt(result) < size ? BigInt(result) : size;
    gpa += mapped;
    size -= mapped;
    progress = true;
  }
  KvmPreFaultMemory.store(view, 0, { gpa, size });
  return progress ? 0 : Math.min(result, 0);
}

/** Adds the requests. `twoDimensional`: the method can map a page that no guest has asked for. */
export function installMemoryRequests(kernel: SoftKernel, twoDimensional: boolean): void {
  // The head of the longer structure is the shorter one.
  // @clause kvm.memory.region2
  kernel.vmRequests.onStruct('KVM_SET_USER_MEMORY_REGION2', (vm, _bytes, view) => vm.setMemoryRegion(view));
  kernel.capabilities.set(CAP.KVM_CAP_USER_MEMORY2, 1);

  // Its counterpart, KVM_GET_NR_MMU_PAGES, is gone from Linux and answers ENOTTY: nobody had asked for years.
  // @clause kvm.mmu.nr-pages
  kernel.vmRequests.onNumber('KVM_SET_NR_MMU_PAGES', (vm, pages) => {
    if (!(pages >= MIN_MMU_PAGES)) return -ERRNO.EINVAL;
    vm.mmu.tableLimit = pages;
    return 0;
  });
  kernel.capabilities.set(CAP.KVM_CAP_MMU_SHADOW_CACHE_CONTROL, 1);

  kernel.vcpuRequests.onStruct('KVM_PRE_FAULT_MEMORY', preFaultMemory);
  kernel.capabilities.set(CAP.KVM_CAP_PRE_FAULT_MEMORY, twoDimensional ? 1 : 0);
}
