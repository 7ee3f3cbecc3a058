// # All in user space
//
// Nothing of the controllers is in the kernel. The local APIC's page is a device on the memory bus, one for each processor, and which one answers depends
// on who asks. The kernel keeps two registers that belong to the local APIC, because instructions reach them without an exit: CR8, which is the high
// half of TPR, and IA32_APIC_BASE. Both travel in `struct kvm_run`, in both directions, at every exit.
//
// There is no x2APIC in this arrangement: its MSRs would have to be the kernel's.

import { EXIT, KvmRun } from '../../02-kvm-objects/abi/exits.ts';
import type { Vcpu } from '../../02-kvm-objects/kvm.ts';
import type { RunPage } from '../../02-kvm-objects/run-page.ts';
import type { CpuidEntry } from '../../02-kvm-objects/vcpu-state.ts';
import { Attention } from '../../03-vcpu-loop/attention.ts';
import type { Bus } from '../../03-vcpu-loop/devices/bus.ts';
import { describe, field, kind, part, type SavedPart, savedPart } from '../../03-vcpu-loop/devices/state.ts';
import type { MsiTarget, Wire } from '../wires.ts';
import { ApicBus } from './apic-bus.ts';
import { msiMessage } from './apic-message.ts';
import { type ControllerOptions, type InterruptController, withApic } from './controller.ts';
import { LocalApic } from './lapic.ts';
import { LAPIC_BASE, LAPIC_BYTES } from './lapic-registers.ts';
import { OutsideChips } from './outside.ts';
import type { Pic } from './pic.ts';
import { initProcessor, startProcessor } from './startup.ts';

/** What waits for a processor whose local APIC is here. */
class ApicAttention extends Attention {
  readonly lapic: LocalApic;
  readonly #pic: Pic;
  readonly #bootstrap: boolean;
  #init = false;
  /** Between INIT and SIPI: the processor executes nothing. */
  #parked: boolean;
  #sipi: number | null = null;

  constructor(id: number, { pic }: OutsideChips, bus: ApicBus, { clock, onWake = () => {} }: ControllerOptions) {
    super();
    this.#pic = pic;
    this.#bootstrap = id === 0;
    this.#parked = !this.#bootstrap;
    this.halted = this.#parked;
    const wake = (): void => onWake(id);
    this.lapic = new LocalApic({
      id,
      clock,
      bus,
      x2apic: false,
      suppressEoi: true,
      onWake: wake,
      onNmi: () => {
        this.add('nmi');
        wake();
      },
      onInit: () => {
        this.#init = true;
        this.#sipi = null;
        wake();
      },
      onSipi: (vector) => {
        if (this.#init || this.#parked) this.#sipi ??= vector; // a running processor ignores it; of two the first counts
        wake();
      },
    });
  }

  get #extInt(): boolean {
    return this.#bootstrap && this.#pic.output && this.lapic.acceptsExtInt();
  }

  // The 8259s before the local APIC, as in KVM.
  protected override get requested(): boolean {
    return !this.#parked && (this.#extInt || this.lapic.pending() >= 0 || super.requested);
  }

  protected override acknowledge(): number {
    if (this.#extInt) return this.#pic.acknowledge();
    return this.lapic.pending() >= 0 ? this.lapic.acknowledge() : super.acknowledge();
  }

  override get started(): boolean {
    return !this.#parked;
  }

  override get waits(): boolean {
    return this.#init || this.#sipi !== null || (!this.#parked && super.waits);
  }

  override wakes(page: RunPage): boolean {
    if (this.#init || this.#parked) return (this.#init && this.#bootstrap) || this.#sipi !== null;
    return super.wakes(page);
  }

  override hears(page: RunPage): boolean {
    return this.wakes(page) || (!this.#parked && page.ifFlag);
  }

  // @clause x86.smp.init-sipi
  override offer(vcpu: Vcpu): void {
    if (this.#init) {
      this.#init = false;
      this.lapic.init();
      initProcessor(vcpu);
      this.#parked = !this.#bootstrap;
    }
    if (this.#parked && this.#sipi !== null) {
      startProcessor(vcpu, this.#sipi);
      this.#parked = false;
    }
    this.#sipi = null;
    KvmRun.fields.cr8.set(vcpu.page.view, 0, BigInt(this.lapic.cr8));
    super.offer(vcpu);
  }

  /** Takes over what the guest did to the two registers that the kernel keeps. */
  returned(page: RunPage): void {
    const cr8 = Number(KvmRun.fields.cr8.get(page.view, 0));
    if (cr8 !== this.lapic.cr8) this.lapic.cr8 = cr8; // else the low half of TPR, which CR8 does not show, would be lost
    const base = KvmRun.fields.apic_base.get(page.view, 0);
    if (base !== this.lapic.apicBase) this.lapic.setApicBase(base, true);
  }

  override clear(): void {
    super.clear();
    this.#init = false;
    this.#sipi = null;
    this.#parked = !this.#bootstrap;
    this.halted = this.#parked;
    this.lapic.reset();
  }

  static readonly STATE_WITH_APIC = describe<ApicAttention>('local APIC and attention', 1, {
    attention: part<ApicAttention, Attention>((attention) => attention, Attention.STATE),
    startup: field(
      kind.record({ init: kind.flag, parked: kind.flag, sipi: kind.maybe(kind.u8) }),
      (a) => ({ init: a.#init, parked: a.#parked, sipi: a.#sipi }),
      (a, v) => {
        ({ init: a.#init, parked: a.#parked, sipi: a.#sipi } = v);
      },
    ),
    lapic: part((attention) => attention.lapic, LocalApic.STATE),
  });

  override savedPart(name: string): SavedPart {
    return savedPart<ApicAttention>(name, this, ApicAttention.STATE_WITH_APIC);
  }
}

export class UserController implements InterruptController {
  readonly arrangement = 'off';
  readonly sleepsInKernel = false;
  readonly chips: OutsideChips;
  readonly msi: MsiTarget;
  readonly gsis = null;
  readonly #bus = new ApicBus();
  readonly #options: ControllerOptions;
  readonly #processors: ApicAttention[] = [];
  #current = 0;

  constructor(options: ControllerOptions) {
    this.#options = options;
    this.chips = new OutsideChips({
      clock: options.clock,
      apicsOnly: options.apicsOnly ?? false,
      send: (message) => this.#bus.deliver(message),
      onPicOutput: (level) => {
        if (level) options.onWake?.(0);
      },
    });
    this.#bus.addListener(this.chips.ioapic);
    this.msi = { send: (address, data) => void this.#bus.deliver(msiMessage(address, data)) };
  }

  prepare(): void {}

  /** The local APIC of a processor, for a debugger to look at. */
  lapic(id: number): LocalApic | null {
    return this.#processors[id]?.lapic ?? null;
  }

  attach(ports: Bus, mmio: Bus): void {
    this.chips.attach(ports, mmio);
    const own = (): LocalApic => (this.#processors[this.#current] as ApicAttention).lapic;
    mmio.attach(LAPIC_BASE, LAPIC_BYTES, {
      name: 'local APIC',
      read: (offset, width) => own().registers.read(offset, width),
      write: (offset, width, value) => own().registers.write(offset, width, value),
    });
  }

  cpuid(entries: readonly CpuidEntry[]): CpuidEntry[] {
    return withApic(entries, { x2apic: false, tscDeadline: false });
  }

  attentionFor(vcpu: Vcpu): Attention {
    const attention = new ApicAttention(vcpu.id, this.chips, this.#bus, this.#options);
    this.#processors[vcpu.id] = attention;
    return attention;
  }

  returned(vcpu: Vcpu): void {
    this.#current = vcpu.id;
    this.#processors[vcpu.id]?.returned(vcpu.page);
  }

  answer(reason: number): boolean {
    return reason === EXIT.KVM_EXIT_SET_TPR; // what it says was taken over by `returned`
  }

  line(gsi: number): Wire {
    return this.chips.line(gsi);
  }

  // The local APICs are reset with what else waits for their processors.
  reset(): void {
    this.chips.reset();
  }

  // The local APICs are saved with what else waits for their processors.
  savedParts(): SavedPart[] {
    return this.chips.savedParts();
  }
}
