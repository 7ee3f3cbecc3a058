// # Shadow paging
//
// The guest has page tables; the processor must not use them, because the frames they name are not the host's. So it is given others.

import type { MemoryVirtualization } from '../../02-kvm-objects/soft/second-stage.ts';
import type { SoftVm } from '../../02-kvm-objects/soft/vm.ts';
import { ShadowMemory } from './shadow-memory.ts';

export { ShadowMemory } from './shadow-memory.ts';

/** A factory for `SoftKernel.makeMemoryVirtualization`: the VM's guests run on shadow tables. */
export const makeShadowMemory = (vm: SoftVm): MemoryVirtualization => new ShadowMemory(vm);
