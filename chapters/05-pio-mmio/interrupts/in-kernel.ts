// # All in the kernel
//
// One request makes the chips, another the timer. What is left for user space is to say when a line moves, and that line 0 is pin 2.

import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import { IOCTL, type RequestName } from '../../02-kvm-objects/abi/ioctls.ts';
import {
  IRQ_ROUTING,
  IRQCHIP,
  KVM_PIT_SPEAKER_DUMMY,
  KvmIrqchip,
  KvmIrqLevel,
  KvmLapicState,
  KvmMsi,
  KvmPitConfig,
  KvmPitState2,
} from '../../02-kvm-objects/abi/irqchip.ts';
import type { Vcpu, Vm } from '../../02-kvm-objects/kvm.ts';
import type { CpuidEntry } from '../../02-kvm-objects/vcpu-state.ts';
import { Attention } from '../../03-vcpu-loop/attention.ts';
import type { SavedPart } from '../../03-vcpu-loop/devices/state.ts';
import type { MsiTarget, Wire } from '../wires.ts';
import { type ControllerOptions, GSIS, type InterruptController, ioapicPin, Lines, picInput, withApic } from './controller.ts';
import { GsiTable } from './gsi-table.ts';
import type { Route } from './routing-table.ts';

/** The PC's lines, for a kernel that has the chips. Without it KVM connects line 0 to pin 0. Without the 8259s a line is a pin. */
function pcRoutes(apicsOnly: boolean): Route[] {
  const type = IRQ_ROUTING.KVM_IRQ_ROUTING_IRQCHIP;
  const routes: Route[] = [];
  for (let gsi = 0; gsi < GSIS; gsi++) {
    const [input, pin] = apicsOnly ? [null, gsi] : [picInput(gsi), ioapicPin(gsi)];
    if (input !== null)
      routes.push({ gsi, type, irqchip: input < 8 ? IRQCHIP.KVM_IRQCHIP_PIC_MASTER : IRQCHIP.KVM_IRQCHIP_PIC_SLAVE, pin: input & 7 });
    if (pin !== null) routes.push({ gsi, type, irqchip: IRQCHIP.KVM_IRQCHIP_IOAPIC, pin });
  }
  return routes;
}

/** MSIs by KVM_SIGNAL_MSI: for kernels that have the local APICs. */
export class KernelMsi implements MsiTarget {
  #vm: Vm | null = null;

  prepare(vm: Vm): void {
    this.#vm = vm;
  }

  // Nobody may be at the address, and a device cannot know: the store is lost, as on a bus.
  send(address: number, data: number): void {
    this.#vm?.tryIoctl('KVM_SIGNAL_MSI', KvmMsi.encode({ address_lo: address >>> 0, address_hi: Math.floor(address / 2 ** 32), data: data >>> 0 }));
  }
}

/** The local APICs' own state, which belongs to neither registers nor MSRs. */
export function lapicState(vm: Vm, vcpu: Vcpu): () => void {
  const request = (name: RequestName, arg: Uint8Array): number => vm.kernel.ioctl(vcpu.fd, IOCTL[name], arg);
  const state = new Uint8Array(KvmLapicState.bytes);
  if (request('KVM_GET_LAPIC', state) < 0) return () => {};
  return () => void request('KVM_SET_LAPIC', state.slice());
}

export class KernelController implements InterruptController {
  readonly arrangement = 'on';
  readonly sleepsInKernel = true;
  readonly msi = new KernelMsi();
  readonly gsis = new GsiTable();
  readonly #lines = new Lines((gsi, level) => this.#vm?.ioctl('KVM_IRQ_LINE', KvmIrqLevel.encode({ irq: gsi, level: level ? 1 : 0 })));
  readonly #powerOn: (() => void)[] = [];
  readonly #apicsOnly: boolean;
  #vm: Vm | null = null;

  constructor({ apicsOnly = false }: Pick<ControllerOptions, 'apicsOnly'> = {}) {
    this.#apicsOnly = apicsOnly;
  }

  // The kernel makes all chips or none: there will be 8259s that no line leads to, and that no table mentions.
  prepare(vm: Vm): void {
    this.#vm = vm;
    this.msi.prepare(vm);
    vm.ioctl('KVM_CREATE_IRQCHIP');
    if (!this.#apicsOnly) vm.ioctl('KVM_CREATE_PIT2', KvmPitConfig.encode({ flags: KVM_PIT_SPEAKER_DUMMY }));
    this.gsis.prepare(vm);
    this.gsis.setLines(pcRoutes(this.#apicsOnly));
    for (const chip_id of Object.values(IRQCHIP)) {
      const state = KvmIrqchip.encode({ chip_id });
      vm.ioctl('KVM_GET_IRQCHIP', state);
      this.#powerOn.push(() => void vm.ioctl('KVM_SET_IRQCHIP', state.slice()));
    }
    if (this.#apicsOnly) return;
    const pit = new Uint8Array(KvmPitState2.bytes);
    vm.ioctl('KVM_GET_PIT2', pit);
    this.#powerOn.push(() => void vm.ioctl('KVM_SET_PIT2', pit.slice()));
  }

  attach(): void {}

  cpuid(entries: readonly CpuidEntry[]): CpuidEntry[] {
    return withApic(entries, { x2apic: true, tscDeadline: (this.#vm?.checkExtension(CAP.KVM_CAP_TSC_DEADLINE_TIMER) ?? 0) !== 0 });
  }

  attentionFor(vcpu: Vcpu): Attention {
    if (this.#vm) this.#powerOn.push(lapicState(this.#vm, vcpu));
    return new Attention();
  }

  returned(): void {}

  answer(): boolean {
    return false;
  }

  line(gsi: number): Wire {
    return this.#lines.at(gsi);
  }

  reset(): void {
    for (const restore of this.#powerOn) restore();
  }

  // The kernel is asked.
  savedParts(): SavedPart[] {
    return [];
  }
}
