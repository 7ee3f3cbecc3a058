// # The interrupt controllers of one VM
//
// KVM_CREATE_IRQCHIP puts the chips of a PC into the kernel, and a local APIC into each vCPU to come. With the *split* irqchip only the local APICs are
// there, and the routing table tells the kernel which of their vectors the VMM's own I/O APIC wants to hear the end of.
//
// Linux has three names that a reader meets everywhere: `irqchip_in_kernel()`, either of the two; `irqchip_kernel()`, the full one; `irqchip_split()`.

import { assert } from '../../01-hardware-background/physical-memory.ts';
import type { Trace } from '../../01-hardware-background/trace.ts';
import { KvmPicState } from '../../02-kvm-objects/abi/irqchip.ts';
import type { Clock } from '../../02-kvm-objects/clock.ts';
import type { SoftVm } from '../../02-kvm-objects/soft/vm.ts';
import { ApicBus, type ApicReceiver } from '../interrupts/apic-bus.ts';
import { type ApicMessage, msiMessage, SHORTHAND } from '../interrupts/apic-message.ts';
import { IOAPIC_BASE, IOAPIC_BYTES, IOAPIC_PINS, IoApic } from '../interrupts/ioapic.ts';
import { PIC_INPUTS, PIC_PORTS, Pic } from '../interrupts/pic.ts';
import { PIT_PORT, Pit, SPEAKER_PORT } from '../interrupts/pit.ts';
import { byteOrNothing, device, lowByte } from './devices.ts';
import { defaultRoutes, GsiRoutes, type Route } from './routing.ts';
import type { VcpuApic } from './vcpu-apic.ts';

/** Who drives a line. The chips see it up while any of them holds it up. Linux: `KVM_USERSPACE_IRQ_SOURCE_ID` and its like. */
export const SOURCE = { USER: 0, RESAMPLE: 1, PIT: 2 } as const;
type Source = (typeof SOURCE)[keyof typeof SOURCE];

const TIMER_GSI = 0;
const PIT_PORTS = 4;
/** In a level-triggered route of the split irqchip, how many GSIs are the I/O APIC's. */
type Mode = { readonly kind: 'kernel' } | { readonly kind: 'split'; readonly reservedPins: number };

class TracedBus extends ApicBus {
  readonly #trace: Trace | null;

  constructor(trace: Trace | null) {
    super();
    this.#trace = trace;
  }

  override deliver(message: ApicMessage, source: ApicReceiver | null = null): number {
    if (source) {
      const { destination, vector, mode, shorthand = SHORTHAND.NONE } = message;
      this.#trace?.emit({ kind: 'kvm_apic_ipi', destination, vector, mode, shorthand });
    }
    return super.deliver(message, source);
  }
}

/** The chips that the full irqchip has. */
interface Chips {
  readonly pic: Pic;
  readonly ioapic: IoApic;
}

export class KernelIrqchip {
  readonly vm: SoftVm;
  readonly mode: Mode;
  readonly bus: ApicBus;
  readonly chips: Chips | null;
  pit: Pit | null = null;
  routes = new GsiRoutes([]);
  readonly apics = new Set<VcpuApic>();
  /** Told when the guest has finished with a GSI's interrupt. Linux: `struct kvm_irq_ack_notifier`. */
  readonly acknowledged = new Set<{ readonly gsi: number; readonly fire: () => void }>();
  readonly #clock: Clock;
  /** Who holds up which input, one bit for each source. */
  readonly #held = { pic: new Uint8Array(PIC_INPUTS), ioapic: new Uint8Array(IOAPIC_PINS) };
  #timerMasked = true;

  constructor(vm: SoftVm, clock: Clock, mode: Mode) {
    this.vm = vm;
    this.mode = mode;
    this.#clock = clock;
    this.bus = new TracedBus(this.#trace);
    this.chips = mode.kind === 'kernel' ? this.#makeChips() : null;
    if (this.chips) this.routes = new GsiRoutes(defaultRoutes());
  }

  get #trace(): Trace | null {
    return this.vm.hardware.trace;
  }

  // ## The chips

  #makeChips(): Chips {
    const { mmio, pio } = this.vm.buses;
    const pic = new Pic({ onOutput: () => {}, onEoi: (irq) => this.#ended('pic', irq) });
    const ioapic = new IoApic({
      send: (message) => this.bus.deliver(message),
      onEoi: (pin) => this.#ended('ioapic', pin),
      onRoutes: () => this.#ioapicChanged(),
    });
    this.bus.addListener(ioapic);
    const timerMasked = (): boolean => (KvmPicState.decode(pic.save(0)).imr & 1) !== 0;
    for (const { port, bytes, registers } of pic.ports) {
      const chip = byteOrNothing(port, registers);
      if (port !== PIC_PORTS.MASTER) pio.add(port, bytes, chip);
      else
        pio.add(port, bytes, {
          ...chip,
          write: (address, width, value) => {
            const before = timerMasked();
            chip.write(address, width, value);
            if (before && !timerMasked()) this.pit?.unmasked();
            return true;
          },
        });
    }
    mmio.add(IOAPIC_BASE, IOAPIC_BYTES, device(IOAPIC_BASE, ioapic.registers));
    return { pic, ioapic };
  }

  #ioapicChanged(): void {
    const pin = this.routes.of(TIMER_GSI).find(({ kind }) => kind === 'ioapic');
    if (!this.chips || pin?.kind !== 'ioapic') return;
    const masked = this.chips.ioapic.masked(pin.pin);
    if (this.#timerMasked && !masked) this.pit?.unmasked();
    this.#timerMasked = masked;
  }

  /** KVM_CREATE_PIT2. */
  createPit(speaker: boolean): void {
    assert(this.pit === null, 'one 8254');
    const pit = new Pit({ clock: this.#clock, onOutput: (level) => this.#pitOutput(level) });
    this.pit = pit;
    this.acknowledged.add({ gsi: TIMER_GSI, fire: () => pit.acknowledge() });
    this.vm.buses.pio.add(PIT_PORT, PIT_PORTS, lowByte(PIT_PORT, pit.registers));
    if (speaker) this.vm.buses.pio.add(SPEAKER_PORT, 1, lowByte(SPEAKER_PORT, pit.speakerRegisters));
  }

  // An 8254 tick can also be an NMI, for a guest that has opened LINT0 in that mode to watch over itself.
  // @clause kvm.pit.interrupt
  #pitOutput(level: boolean): void {
    this.setIrq(SOURCE.PIT, TIMER_GSI, level);
    if (!level) for (const { apic } of this.apics) apic.pitTick();
  }

  // ## A line moves

  // @clause kvm.gsi.sources
  /** Drives a GSI: the number of processors that took it, 0 when it was coalesced, negative when nobody wanted it. Linux: `kvm_set_irq()`. */
  setIrq(source: Source, gsi: number, level: boolean): number {
    this.#trace?.emit({ kind: 'kvm_set_irq', gsi, level: level ? 1 : 0, source });
    let status = -1;
    for (const route of this.routes.of(gsi)) {
      const one = this.#setRoute(source, route, level);
      if (one >= 0) status = one + Math.max(status, 0);
    }
    return status;
  }

  #setRoute(source: Source, route: Route, level: boolean): number {
    if (route.kind === 'msi') return level ? this.sendMsi(route.address, route.data) : -1;
    if (!this.chips) return -1;
    const held = this.#held[route.kind];
    const bit = 1 << source;
    const { pin } = route;
    held[pin] = level ? (held[pin] as number) | bit : (held[pin] as number) & ~bit;
    const up = held[pin] !== 0;
    const status = this.chips[route.kind].setIrq(pin, up);
    const coalesced = status === 0;
    if (route.kind === 'pic') this.#trace?.emit({ kind: 'kvm_pic_set_irq', chip: pin >> 3, pin: pin & 7, coalesced });
    else this.#trace?.emit({ kind: 'kvm_ioapic_set_irq', pin, coalesced });
    return status;
  }

  // @clause kvm.msi.signal
  /** A message: how many processors took it; -1 when it was for nobody. Linux: `kvm_set_msi()`. */
  sendMsi(address: number, data: number): number {
    this.#trace?.emit({ kind: 'kvm_msi_set_irq', address, data });
    return this.bus.deliver(msiMessage(address, data));
  }

  // ## The guest is done
  //
  // Whoever wants to know when an interrupt has been handled (the 8254 owes ticks, a device's level line has to be looked at again) asks by GSI. The
  // chips know pins, and the local APIC knows vectors; the way back goes through the table.

  #ended(chip: 'pic' | 'ioapic', pin: number): void {
    this.#trace?.emit({ kind: 'kvm_ack_irq', irqchip: chip, pin });
    const gsi = this.routes.gsiOf(chip, pin);
    if (gsi === null) return;
    for (const notifier of [...this.acknowledged]) if (notifier.gsi === gsi) notifier.fire();
  }

  /** A local APIC has finished with a vector. The I/O APIC hears by itself of those that are level-triggered. */
  eoi(from: VcpuApic, vector: number, levelTriggered: boolean): void {
    this.#trace?.emit({ kind: 'kvm_eoi', apic: from.apic.id, vector });
    if (this.mode.kind === 'split') {
      if (this.#isReserved(from, vector, levelTriggered, this.mode.reservedPins)) from.pendingEoi = vector;
    } else if (!levelTriggered && this.chips) {
      for (let pin = 0; pin < IOAPIC_PINS; pin++) {
        const message = this.chips.ioapic.message(pin);
        if (message.vector === vector && !message.levelTriggered && !this.chips.ioapic.masked(pin)) this.#ended('ioapic', pin);
      }
    }
  }

  // The entry may have been given another destination while its interrupt was in service here. Then the end of it must be told even so, or the pin
  // stays silent for ever.

  // @clause kvm.exit.ioapic-eoi
  /** The VMM's I/O APIC has sent this vector to this processor, level-triggered. Linux: `kvm_scan_ioapic_routes()`, the EOI exit bitmap. */
  #isReserved({ apic }: VcpuApic, vector: number, levelTriggered: boolean, reservedPins: number): boolean {
    return this.routes.all.some((route) => {
      if (route.kind !== 'msi' || route.gsi >= reservedPins) return false;
      const message = msiMessage(route.address, route.data);
      if (message.vector !== vector || !message.levelTriggered) return false;
      return levelTriggered || apic.matches(message.destination, message.logical, false);
    });
  }
}
