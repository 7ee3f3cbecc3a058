// # Installing it
//
// A kernel gets its method before its first VM. Which one is a choice that no guest can see, and the tests of both chapters hold the two against each
// other for exactly that reason.

import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import type { SoftKernel, SoftKernelOptions } from '../../02-kvm-objects/soft/soft-kernel.ts';
import { type LoopOptions, RunnableKernel } from '../../03-vcpu-loop/kernel/index.ts';
import { makeShadowMemory } from '../shadow/index.ts';
import { installDirtyLog } from './dirty-log.ts';
import { installDirtyRing } from './dirty-ring.ts';
import { installMemoryRequests } from './requests.ts';
import { TwoDimensional, type TwoDimensionalOptions } from './two-dimensional.ts';

/** How guest memory is virtualized: with the processor's second stage, or by shadow tables. */
export type MemoryMethod = 'ept' | 'shadow';

export interface MemoryOptions extends TwoDimensionalOptions {
  /** Default: `ept`. */
  readonly method?: MemoryMethod;
}

/** Gives a kernel this chapter's memory virtualization: the method for VMs to come, and the requests that belong to it. */
export function installMemoryVirtualization(kernel: SoftKernel, { method = 'ept', ...options }: MemoryOptions = {}): void {
  kernel.makeMemoryVirtualization = method === 'shadow' ? makeShadowMemory : (vm) => new TwoDimensional(vm, options);
  installDirtyLog(kernel);
  installDirtyRing(kernel);
  installMemoryRequests(kernel, method === 'ept');
  kernel.capabilities.set(CAP.KVM_CAP_ENABLE_CAP_VM, 1);
}

export type MemoryKernelOptions = SoftKernelOptions & LoopOptions & { readonly memory?: MemoryMethod } & TwoDimensionalOptions;

/** The software kernel with chapter 3's loop and this chapter's memory. */
export function memoryKernel({ memory = 'ept', largest, dirty, ...options }: MemoryKernelOptions = {}): RunnableKernel {
  if (memory === 'shadow' && options.linearAddressBits === 57) throw new RangeError('shadow tables have four levels');
  const kernel = new RunnableKernel(options);
  installMemoryVirtualization(kernel, { method: memory, ...(largest && { largest }), ...(dirty && { dirty }) });
  return kernel;
}
