// # The requests
//
// What a VMM asks of all this. Most of the text of these handlers in Linux is about *when* a request is refused, and with which error; programs
// depend on it, because trying is how they find out what a kernel has.

import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import { KvmReinjectControl } from '../../02-kvm-objects/abi/eventfd.ts';
import {
  IRQCHIP,
  KVM_PIT_SPEAKER_DUMMY,
  KvmIrqchip,
  KvmIrqLevel,
  KvmLapicState,
  KvmMsi,
  KvmPicState,
  KvmPitConfig,
  KvmPitState2,
} from '../../02-kvm-objects/abi/irqchip.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import type { SoftKernel } from '../../02-kvm-objects/soft/soft-kernel.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import { TSC_KHZ } from '../../02-kvm-objects/soft/virtual-clock.ts';
import type { SoftVm } from '../../02-kvm-objects/soft/vm.ts';
import { COALESCED_PAGE } from './coalesced.ts';
import { KernelIrqchip, SOURCE } from './irqchip.ts';
import { CLOCK_FLAGS } from './kvmclock.ts';
import type { VmPlatform } from './platform.ts';
import { GsiRoutes, MAX_ROUTES, msiAddress, parseRoutes } from './routing.ts';
import { VcpuApic } from './vcpu-apic.ts';

const { EINVAL, EEXIST, ENXIO, ENOENT, EBUSY, EFAULT } = ERRNO;
const KVM_MSI_VALID_DEVID = 1;
const X2APIC_API = { USE_32BIT_IDS: 1n } as const;
/** `struct kvm_pit_state`, of KVM_GET_PIT and KVM_SET_PIT: the three counters without flags. */
const OLD_PIT_BYTES = KvmPitState2.fields.flags.offset;
/** How far a wanted frequency of the time stamp counter may be from the real one: 250 parts in a million. */
const TSC_TOLERANCE = TSC_KHZ / 4000;

type Find = (vm: SoftVm) => VmPlatform;

/** KVM_CREATE_IRQCHIP and what it makes. */
function installIrqchip(kernel: SoftKernel, find: Find): void {
  const on = kernel.vmRequests;
  // @clause kvm.irqchip.create
  on.onNumber('KVM_CREATE_IRQCHIP', (vm) => {
    const platform = find(vm);
    if (platform.irqchip) return -EEXIST;
    if (vm.vcpus.size > 0) return -EINVAL;
    platform.irqchip = new KernelIrqchip(vm, kernel.clock.timers, { kind: 'kernel' });
    return 0;
  });
  // @clause kvm.irqchip.split
  kernel.vmOptions.set(CAP.KVM_CAP_SPLIT_IRQCHIP, (vm, [pins], flags) => {
    const platform = find(vm);
    if (flags !== 0 || pins > BigInt(MAX_ROUTES)) return -EINVAL;
    if (platform.irqchip || vm.vcpus.size > 0) return -EEXIST;
    platform.irqchip = new KernelIrqchip(vm, kernel.clock.timers, { kind: 'split', reservedPins: Number(pins) });
    return 0;
  });
  kernel.vmOptions.set(CAP.KVM_CAP_X2APIC_API, (vm, [api], flags) => {
    const platform = find(vm);
    if (flags !== 0 || api & ~X2APIC_API.USE_32BIT_IDS) return -EINVAL;
    platform.x2apicFormat ||= (api & X2APIC_API.USE_32BIT_IDS) !== 0n;
    return 0;
  });
  on.onNumber('KVM_SET_BOOT_CPU_ID', (vm, id) => {
    if (vm.vcpus.size > 0) return -EBUSY;
    vm.bootVcpuId = id;
    return 0;
  });

  // @clause kvm.irqchip.state
  on.onStruct('KVM_GET_IRQCHIP', (vm, bytes, view) => {
    const chips = find(vm).irqchip?.chips;
    if (!chips) return -ENXIO;
    const { chip_id } = KvmIrqchip.load(view);
    const at = KvmIrqchip.fields.chip.offset;
    switch (chip_id) {
      case IRQCHIP.KVM_IRQCHIP_PIC_MASTER:
      case IRQCHIP.KVM_IRQCHIP_PIC_SLAVE:
        bytes.set(chips.pic.save(chip_id), at);
        return 0;
      case IRQCHIP.KVM_IRQCHIP_IOAPIC:
        bytes.set(chips.ioapic.save(), at);
        return 0;
      default:
        return -EINVAL;
    }
  });
  on.onStruct('KVM_SET_IRQCHIP', (vm, bytes, view) => {
    const chips = find(vm).irqchip?.chips;
    if (!chips) return -ENXIO;
    const { chip_id } = KvmIrqchip.load(view);
    const state = bytes.subarray(KvmIrqchip.fields.chip.offset);
    switch (chip_id) {
      case IRQCHIP.KVM_IRQCHIP_PIC_MASTER:
      case IRQCHIP.KVM_IRQCHIP_PIC_SLAVE:
        chips.pic.load(chip_id, state.subarray(0, KvmPicState.bytes));
        return 0;
      case IRQCHIP.KVM_IRQCHIP_IOAPIC:
        chips.ioapic.load(state);
        return 0;
      default:
        return -EINVAL;
    }
  });

  // @clause kvm.irqchip.line
  const irqLine = (vm: SoftVm, view: DataView): number => {
    const { irqchip } = find(vm);
    if (!irqchip) return -ENXIO;
    const { irq, level } = KvmIrqLevel.load(view);
    KvmIrqLevel.store(view, 0, { irq: irqchip.setIrq(SOURCE.USER, irq, level !== 0) >>> 0 });
    return 0;
  };
  // Only the second is copied back to the program: the first answers nothing but that it was heard.
  on.onStruct('KVM_IRQ_LINE', (vm, bytes) => {
    const copy = bytes.slice(0, KvmIrqLevel.bytes);
    return irqLine(vm, new DataView(copy.buffer));
  });
  on.onStruct('KVM_IRQ_LINE_STATUS', (vm, _bytes, view) => irqLine(vm, view));

  on.onStruct('KVM_SET_GSI_ROUTING', (vm, bytes, view) => {
    const { irqchip, x2apicFormat } = find(vm);
    if (!irqchip) return -EINVAL;
    const routes = parseRoutes(bytes, view, { split: !irqchip.chips, x2apicFormat });
    if (typeof routes === 'number') return routes;
    irqchip.routes = new GsiRoutes(routes);
    return 0;
  });
  on.onStruct('KVM_SIGNAL_MSI', (vm, _bytes, view) => {
    const { irqchip, x2apicFormat } = find(vm);
    const { address_lo, address_hi, data, flags } = KvmMsi.load(view);
    if (!irqchip || flags & ~KVM_MSI_VALID_DEVID || (x2apicFormat && address_hi & 0xff)) return -EINVAL;
    return irqchip.sendMsi(msiAddress(address_lo, address_hi, x2apicFormat), data);
  });
}

/** The 8254. */
function installPit(kernel: SoftKernel, find: Find): void {
  const on = kernel.vmRequests;
  // @clause kvm.irqchip.create
  const create = (vm: SoftVm, flags: number): number => {
    const { irqchip } = find(vm);
    if (irqchip?.pit) return -EEXIST;
    if (!irqchip?.chips) return -ENOENT;
    irqchip.createPit((flags & KVM_PIT_SPEAKER_DUMMY) !== 0);
    return 0;
  };
  on.onNumber('KVM_CREATE_PIT', (vm) => create(vm, KVM_PIT_SPEAKER_DUMMY));
  on.onStruct('KVM_CREATE_PIT2', (vm, _bytes, view) => create(vm, KvmPitConfig.load(view).flags));
  // @clause kvm.pit.state
  for (const [request, length] of [
    ['KVM_GET_PIT', OLD_PIT_BYTES],
    ['KVM_GET_PIT2', KvmPitState2.bytes],
  ] as const)
    on.onStruct(request, (vm, bytes) => {
      const pit = find(vm).irqchip?.pit;
      if (!pit) return -ENXIO;
      bytes.set(pit.save().subarray(0, length));
      return 0;
    });
  for (const [request, length] of [
    ['KVM_SET_PIT', OLD_PIT_BYTES],
    ['KVM_SET_PIT2', KvmPitState2.bytes],
  ] as const)
    on.onStruct(request, (vm, bytes) => {
      const pit = find(vm).irqchip?.pit;
      if (!pit) return -ENXIO;
      const state = pit.save();
      state.set(bytes.subarray(0, length));
      pit.load(state);
      return 0;
    });
  // Its number says that it has no argument, and it has one.
  on.onAny('KVM_REINJECT_CONTROL', (vm, arg) => {
    if (typeof arg === 'number' || arg.length < KvmReinjectControl.bytes) return -EFAULT;
    const pit = find(vm).irqchip?.pit;
    if (!pit) return -ENXIO;
    pit.reinject = KvmReinjectControl.decode(arg).pit_reinject !== 0;
    return 0;
  });
}

/** Eventfds and coalesced writes. They need no interrupt controller, but for irqfds. */
function installEvents(kernel: SoftKernel, find: Find): void {
  const on = kernel.vmRequests;
  on.onStruct('KVM_IOEVENTFD', (vm, _bytes, view) => find(vm).ioeventfds.request(view, find(vm).eventBehind));
  on.onStruct('KVM_IRQFD', (vm, _bytes, view) => find(vm).irqfds.request(view, find(vm).irqchip, find(vm).eventBehind));
  on.onStruct('KVM_REGISTER_COALESCED_MMIO', (vm, _bytes, view) => find(vm).coalesced.register(view));
  on.onStruct('KVM_UNREGISTER_COALESCED_MMIO', (vm, _bytes, view) => find(vm).coalesced.unregister(view));
}

/** Clocks and counters. */
function installTime(kernel: SoftKernel, find: Find): void {
  kernel.vmRequests.onStruct('KVM_GET_CLOCK', (vm, bytes, view) => find(vm).clock.get(bytes, view));
  kernel.vmRequests.onStruct('KVM_SET_CLOCK', (vm, _bytes, view) => find(vm).clock.set(view));
  kernel.vcpuRequests.onNumber('KVM_KVMCLOCK_CTRL', (vcpu) => find(vcpu.vm).clock.pause(vcpu));
  kernel.vcpuRequests.onNumber('KVM_GET_TSC_KHZ', () => TSC_KHZ);
  // @clause kvm.tsc.khz
  // The processor has no scaling of its counter, so a guest's runs at the host's speed, give or take what nobody notices. 0 asks for just that.
  kernel.vcpuRequests.onNumber('KVM_SET_TSC_KHZ', (_vcpu, khz) => (khz === 0 || Math.abs(khz - TSC_KHZ) <= TSC_TOLERANCE ? 0 : -EINVAL));
}

/** The local APIC's state. */
function installLapic(kernel: SoftKernel, find: Find): void {
  const apicOf = (vcpu: SoftVcpu): VcpuApic | null => (vcpu.interruptController instanceof VcpuApic ? vcpu.interruptController : null);
  const format = (vcpu: SoftVcpu): boolean => find(vcpu.vm).x2apicFormat;
  // @clause kvm.irqchip.state
  kernel.vcpuRequests.onStruct('KVM_GET_LAPIC', (vcpu, bytes) => {
    const apic = apicOf(vcpu);
    if (!apic) return -EINVAL;
    bytes.set(apic.apic.save(format(vcpu)));
    return 0;
  });
  kernel.vcpuRequests.onStruct('KVM_SET_LAPIC', (vcpu, bytes) => {
    const apic = apicOf(vcpu);
    return apic?.apic.load(bytes.subarray(0, KvmLapicState.bytes), format(vcpu)) ? 0 : -EINVAL;
  });
}

const CAPABILITIES = [
  [CAP.KVM_CAP_IRQCHIP, 1],
  [CAP.KVM_CAP_IRQ_ROUTING, MAX_ROUTES],
  [CAP.KVM_CAP_IRQ_INJECT_STATUS, 1],
  [CAP.KVM_CAP_IOAPIC_POLARITY_IGNORED, 1],
  [CAP.KVM_CAP_SPLIT_IRQCHIP, 1],
  [CAP.KVM_CAP_X2APIC_API, Number(X2APIC_API.USE_32BIT_IDS)],
  [CAP.KVM_CAP_SET_BOOT_CPU_ID, 1],
  [CAP.KVM_CAP_SIGNAL_MSI, 1],
  [CAP.KVM_CAP_PIT, 1],
  [CAP.KVM_CAP_PIT2, 1],
  [CAP.KVM_CAP_PIT_STATE2, 1],
  [CAP.KVM_CAP_REINJECT_CONTROL, 1],
  [CAP.KVM_CAP_IRQFD, 1],
  [CAP.KVM_CAP_IRQFD_RESAMPLE, 1],
  [CAP.KVM_CAP_IOEVENTFD, 1],
  [CAP.KVM_CAP_IOEVENTFD_NO_LENGTH, 1],
  [CAP.KVM_CAP_IOEVENTFD_ANY_LENGTH, 1],
  [CAP.KVM_CAP_COALESCED_MMIO, COALESCED_PAGE],
  [CAP.KVM_CAP_COALESCED_PIO, 1],
  [CAP.KVM_CAP_TSC_DEADLINE_TIMER, 1],
  [CAP.KVM_CAP_GET_TSC_KHZ, 1],
  [CAP.KVM_CAP_CLOCKSOURCE, 1],
  [CAP.KVM_CAP_ADJUST_CLOCK, CLOCK_FLAGS],
  [CAP.KVM_CAP_KVMCLOCK_CTRL, 1],
  [CAP.KVM_CAP_ENABLE_CAP_VM, 1],
] as const;

/** Installs all of the above. `find` gives what a VM has. */
export function installPlatformRequests(kernel: SoftKernel, find: Find): void {
  installIrqchip(kernel, find);
  installPit(kernel, find);
  installEvents(kernel, find);
  installTime(kernel, find);
  installLapic(kernel, find);
  for (const [capability, value] of CAPABILITIES) kernel.capabilities.set(capability, value);
}
