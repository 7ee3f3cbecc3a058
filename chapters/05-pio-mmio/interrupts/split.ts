// # Split
//
// The local APICs stay in the kernel. A pin of the I/O APIC becomes an MSI that user space signals, and the 8259s' vector goes in by KVM_INTERRUPT, when
// the kernel says that the processor would take it from there. One thing has to come back: the EOI of a level-triggered vector, without which the I/O
// APIC would wait for ever. The kernel cannot exit for each EOI (there would be no point in its local APIC); so it is told, by the routing table, which
// vectors are the I/O APIC's and level-triggered, and exits for those alone.

import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import { EXIT } from '../../02-kvm-objects/abi/exits.ts';
import { IRQ_ROUTING, RunEoi } from '../../02-kvm-objects/abi/irqchip.ts';
import { KvmEnableCap } from '../../02-kvm-objects/abi/memory.ts';
import type { Vcpu, Vm } from '../../02-kvm-objects/kvm.ts';
import type { CpuidEntry } from '../../02-kvm-objects/vcpu-state.ts';
import { Attention } from '../../03-vcpu-loop/attention.ts';
import type { Bus } from '../../03-vcpu-loop/devices/bus.ts';
import type { SavedPart } from '../../03-vcpu-loop/devices/state.ts';
import type { Wire } from '../wires.ts';
import { type ApicMessage, messageAsMsi } from './apic-message.ts';
import { type ControllerOptions, type InterruptController, withApic } from './controller.ts';
import { GsiTable } from './gsi-table.ts';
import { KernelMsi, lapicState } from './in-kernel.ts';
import { IOAPIC_PINS } from './ioapic.ts';
import { OutsideChips } from './outside.ts';
import type { Pic } from './pic.ts';
import type { Route } from './routing-table.ts';

/** The first processor's: it alone listens to the 8259s. */
class ExtIntAttention extends Attention {
  readonly #pic: Pic;

  constructor(pic: Pic) {
    super();
    this.#pic = pic;
  }

  protected override get requested(): boolean {
    return this.#pic.output || super.requested;
  }

  // Asked for the vector only when the guest takes it: the answer puts it into service.
  protected override acknowledge(): number {
    return this.#pic.output ? this.#pic.acknowledge() : super.acknowledge();
  }
}

// @clause kvm.irqchip.split
export class SplitController implements InterruptController {
  readonly arrangement = 'split';
  readonly sleepsInKernel = true;
  readonly msi = new KernelMsi();
  readonly gsis = new GsiTable();
  readonly chips: OutsideChips;
  readonly #onWake: (vcpu: number) => void;
  readonly #powerOn: (() => void)[] = [];
  #vm: Vm | null = null;
  #routed = '';

  constructor({ clock, onWake = () => {}, apicsOnly = false }: ControllerOptions) {
    this.#onWake = onWake;
    this.chips = new OutsideChips({
      clock,
      apicsOnly,
      send: (message) => this.#send(message),
      onPicOutput: (level) => level && this.#onWake(0),
      onRoutes: () => this.#route(),
    });
  }

  prepare(vm: Vm): void {
    this.#vm = vm;
    this.msi.prepare(vm);
    this.gsis.prepare(vm);
    vm.ioctl('KVM_ENABLE_CAP', KvmEnableCap.encode({ cap: CAP.KVM_CAP_SPLIT_IRQCHIP, arg0: BigInt(IOAPIC_PINS) }));
    this.#route();
  }

  #send(message: ApicMessage): number {
    const { address, data } = messageAsMsi(message);
    this.msi.send(address, data);
    return 1;
  }

  // A table is one request, and a guest may write entries as fast as it likes; what did not change is not told again.
  #route(): void {
    if (!this.#vm) return;
    const routes = Array.from({ length: IOAPIC_PINS }, (_, gsi): Route => {
      const { address, data } = messageAsMsi(this.chips.ioapic.message(gsi));
      return { gsi, type: IRQ_ROUTING.KVM_IRQ_ROUTING_MSI, address_lo: address, address_hi: 0, data };
    });
    const key = routes.map((route) => `${route?.address_lo}:${route?.data}`).join();
    if (key === this.#routed) return;
    this.#routed = key;
    this.gsis.setLines(routes);
  }

  attach(ports: Bus, mmio: Bus): void {
    this.chips.attach(ports, mmio);
  }

  cpuid(entries: readonly CpuidEntry[]): CpuidEntry[] {
    return withApic(entries, { x2apic: true, tscDeadline: (this.#vm?.checkExtension(CAP.KVM_CAP_TSC_DEADLINE_TIMER) ?? 0) !== 0 });
  }

  attentionFor(vcpu: Vcpu): Attention {
    if (this.#vm) this.#powerOn.push(lapicState(this.#vm, vcpu));
    return vcpu.id === 0 ? new ExtIntAttention(this.chips.pic) : new Attention();
  }

  returned(): void {}

  // @clause kvm.irqchip.split
  answer(reason: number, vcpu: Vcpu): boolean {
    if (reason !== EXIT.KVM_EXIT_IOAPIC_EOI) return false;
    this.chips.ioapic.eoi(RunEoi.load(vcpu.page.view).vector);
    return true;
  }

  line(gsi: number): Wire {
    return this.chips.line(gsi);
  }

  reset(): void {
    this.chips.reset();
    for (const restore of this.#powerOn) restore();
  }

  savedParts(): SavedPart[] {
    return this.chips.savedParts();
  }
}
