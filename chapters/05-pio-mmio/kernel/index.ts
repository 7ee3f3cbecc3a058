// # Installing the platform
//
// The kernel of chapters 2 to 4 knows processors and memory. This module adds what a PC needs close to its processors: interrupt controllers, a timer, a
// clock, and the short ways between a guest and whoever works for it. As before nothing in the earlier chapters changes; they have hooks, and this
// is what hangs on them.

import { assert } from '../../01-hardware-background/physical-memory.ts';
import type { MsrRegister } from '../../02-kvm-objects/soft/msrs.ts';
import type { SoftKernel } from '../../02-kvm-objects/soft/soft-kernel.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import type { SoftVm } from '../../02-kvm-objects/soft/vm.ts';
import type { RunnableKernel } from '../../03-vcpu-loop/kernel/index.ts';
import { type MemoryKernelOptions, memoryKernel } from '../../04-memory-virtualization/kernel/index.ts';
import { IA32_TSC_DEADLINE, X2APIC_MSR, X2APIC_MSRS } from '../interrupts/lapic-registers.ts';
import { kvmclockMsrs } from './kvmclock.ts';
import { addPlatformCpuid } from './paravirtual.ts';
import { VmPlatform } from './platform.ts';
import { installPlatformRequests } from './requests.ts';
import { VcpuApic } from './vcpu-apic.ts';

export interface PlatformOptions {
  /** The date when the kernel's clock was 0, in seconds since 1970: the machine is deterministic, so it has to be told. */
  readonly epochSeconds?: number;
}

/** 2000-01-01, when nothing else is said. */
const DEFAULT_EPOCH_SECONDS = 946_684_800;

const apicOf = ({ interruptController }: SoftVcpu): VcpuApic | null => (interruptController instanceof VcpuApic ? interruptController : null);

// @clause lapic.x2apic-registers
const x2apicRegister = (index: number): MsrRegister => ({
  get: (vcpu) => apicOf(vcpu)?.apic.readMsr(index) ?? null,
  set: (vcpu, value) => apicOf(vcpu)?.apic.writeMsr(index, value) ?? false,
});

// @clause lapic.deadline
const TSC_DEADLINE: MsrRegister = {
  get: (vcpu) => apicOf(vcpu)?.apic.tscDeadline ?? 0n,
  set(vcpu, value) {
    const apic = apicOf(vcpu);
    if (apic) apic.apic.tscDeadline = value;
    return true;
  },
};

/** Adds this chapter's part to a kernel that has no VM yet. */
export function installPlatform(kernel: SoftKernel, { epochSeconds = DEFAULT_EPOCH_SECONDS }: PlatformOptions = {}): void {
  const platforms = new WeakMap<SoftVm, VmPlatform>();
  const find = (vm: SoftVm): VmPlatform => {
    const platform = platforms.get(vm);
    assert(platform !== undefined, 'every VM was announced');
    return platform;
  };
  kernel.vmCreated.push((vm) => platforms.set(vm, new VmPlatform(kernel, vm, epochSeconds)));
  kernel.vmDestroyed.push((vm) => platforms.get(vm)?.free());
  kernel.vcpuCreated.push((vcpu) => {
    find(vcpu.vm).attach(vcpu);
    return 0;
  });
  kernel.vcpuFreed.push((vcpu) => platforms.get(vcpu.vm)?.detach(vcpu));
  const clock = kvmclockMsrs((vcpu) => find(vcpu.vm).clock);
  for (const [index, register] of clock) kernel.msrs.set(index, register);
  for (let n = 0; n < X2APIC_MSRS; n++) kernel.msrs.set(X2APIC_MSR + n, x2apicRegister(X2APIC_MSR + n));
  kernel.msrs.set(IA32_TSC_DEADLINE, TSC_DEADLINE);
  kernel.savedMsrs.push(...clock.keys(), IA32_TSC_DEADLINE);
  kernel.cpuidAdditions.push(addPlatformCpuid);
  installPlatformRequests(kernel, find);
}

export type PlatformKernelOptions = MemoryKernelOptions & PlatformOptions;

/** The software kernel with everything up to this chapter. */
export function platformKernel({ epochSeconds, ...options }: PlatformKernelOptions = {}): RunnableKernel {
  const kernel = memoryKernel(options);
  installPlatform(kernel, epochSeconds === undefined ? {} : { epochSeconds });
  return kernel;
}
