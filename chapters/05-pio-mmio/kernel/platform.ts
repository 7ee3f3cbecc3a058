// # What a VM has in the kernel
//
// Chapter 2's VM has slots and vCPUs. This is what the present chapter adds to each: interrupt controllers when they are asked for, a clock always, and
// the eventfds that stand in for devices.

import { MP_STATE } from '../../02-kvm-objects/abi/events.ts';
import { EXIT } from '../../02-kvm-objects/abi/exits.ts';
import { RunEoi } from '../../02-kvm-objects/abi/irqchip.ts';
import type { EventFd } from '../../02-kvm-objects/soft/eventfd.ts';
import type { SoftKernel } from '../../02-kvm-objects/soft/soft-kernel.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import type { SoftVm } from '../../02-kvm-objects/soft/vm.ts';
import { CoalescedMmio } from './coalesced.ts';
import { IoEventFds } from './ioeventfd.ts';
import type { KernelIrqchip } from './irqchip.ts';
import { IrqFds } from './irqfd.ts';
import { KvmClock } from './kvmclock.ts';
import { VcpuApic } from './vcpu-apic.ts';

export class VmPlatform {
  readonly vm: SoftVm;
  readonly kernel: SoftKernel;
  irqchip: KernelIrqchip | null = null;
  /** KVM_CAP_X2APIC_API: destinations of more than 8 bits in MSIs and in the ID of KVM_GET_LAPIC. */
  x2apicFormat = false;
  readonly ioeventfds: IoEventFds;
  readonly irqfds = new IrqFds();
  readonly coalesced: CoalescedMmio;
  readonly clock: KvmClock;
  readonly eventBehind = (fd: number): EventFd | number => this.kernel.eventBehind(fd);

  constructor(kernel: SoftKernel, vm: SoftVm, epochSeconds: number) {
    this.kernel = kernel;
    this.vm = vm;
    this.ioeventfds = new IoEventFds(vm.buses);
    this.coalesced = new CoalescedMmio(vm);
    this.clock = new KvmClock(vm, kernel.clock, epochSeconds);
    vm.entryChecks.push((vcpu) => eoiExit(vcpu));
  }

  // @clause kvm.mp-state.uninitialized
  /** A vCPU joins. With interrupt controllers in the kernel it gets a local APIC, and waits to be started unless it is the one that starts by itself. */
  attach(vcpu: SoftVcpu): void {
    this.coalesced.attach(vcpu);
    this.clock.attach(vcpu);
    if (!this.irqchip) return;
    const apic = new VcpuApic(vcpu, this.irqchip, this.kernel.clock.timers);
    this.irqchip.apics.add(apic);
    vcpu.interruptController = apic;
    if (vcpu.id !== this.vm.bootVcpuId) vcpu.mpState = MP_STATE.KVM_MP_STATE_UNINITIALIZED;
  }

  detach(vcpu: SoftVcpu): void {
    this.coalesced.detach(vcpu);
    const apic = vcpu.interruptController;
    if (!this.irqchip || !(apic instanceof VcpuApic)) return;
    this.irqchip.apics.delete(apic);
    this.irqchip.bus.remove(apic.apic);
    apic.apic.reset(); // its timer must not fire for nobody
  }

  free(): void {
    this.irqfds.free(this.irqchip);
    this.irqchip?.pit?.reset();
  }
}

// @clause kvm.exit.ioapic-eoi
/** The VMM's I/O APIC must hear of an EOI before the guest goes on. */
function eoiExit(vcpu: SoftVcpu): number {
  const apic = vcpu.interruptController;
  if (!(apic instanceof VcpuApic) || apic.pendingEoi < 0) return 1;
  vcpu.exitReason = EXIT.KVM_EXIT_IOAPIC_EOI;
  RunEoi.store(vcpu.runView, 0, { vector: apic.pendingEoi });
  apic.pendingEoi = -1;
  return 0;
}
