// # Shadow paging
//
// The guest has page tables, and the processor must not use them: the frames that they name are not the host's. Without a second stage there is only
// one way to run such a guest. Other tables are put in the place of its own, which lead from its linear addresses to the host's frames directly, and
// which it never sees. They are a *shadow* of the guest's tables and of the slots, multiplied with each other.
//
// A product like that could be kept up to date by watching every store of the guest. It is not, and the reason why it need not be is the best idea
// in the subject. x86 lets a processor remember translations in a TLB, and asks software to say INVLPG or load CR3 when it has changed one. A
// hypervisor may regard its shadow tables as a *very large TLB* (the name `vTLB` is older than KVM). It fills them on a miss, it may let them be
// stale until the guest flushes, and it may forget any of it at any time. So every operation below is one of a TLB's: fill, invalidate, flush. Where
// the shadow is more eager than a TLB would be (a directory is write-protected, and a change of it takes effect at once) that is for speed: dropping
// all of it at every MOV to CR3, as the first hypervisors did, makes each switch of process as dear as a start.
//
// What the guest can see of it is time, and nothing else. The modules, from the inside out:
//
// - `guest-mode.ts`: the guest's tables, read as the processor would.
// - `spte.ts`: an entry of a shadow table, and the *role* that tells two shadows of one guest table apart.
// - `pages.ts`: the cache of shadow pages, with the reverse map and the limit.
// - `mmu.ts`: the fault handler; write protection, letting go, comparing again.
// - `shadow-memory.ts`: the registers behind the guest's registers, and the exits.
// - `interpreter.ts`: what to do with a guest that the hardware cannot hold at all.
//
// Left out of what Linux does is *prefetching*: when it builds one entry it looks at its neighbours and builds those too, which saves exits and
// changes nothing else. And Linux, like this kernel, does not notice when the *VMM* writes into a page table of its guest; a device that does so has
// to be one that the guest flushes for.

import type { MemoryVirtualization } from '../../02-kvm-objects/soft/second-stage.ts';
import type { SoftVm } from '../../02-kvm-objects/soft/vm.ts';
import { ShadowMemory } from './shadow-memory.ts';

export { ShadowMemory } from './shadow-memory.ts';

/** A factory for `SoftKernel.makeMemoryVirtualization`: the VM's guests run on shadow tables. */
export const makeShadowMemory = (vm: SoftVm): MemoryVirtualization => new ShadowMemory(vm);
