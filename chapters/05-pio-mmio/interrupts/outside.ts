// # The old chips, outside the kernel
//
// Both arrangements that do not leave everything to the kernel have the 8259s, the I/O APIC and the 8254 here, wired as on a PC's board.

import type { Clock } from '../../02-kvm-objects/clock.ts';
import type { Bus } from '../../03-vcpu-loop/devices/bus.ts';
import { type SavedPart, savedPart } from '../../03-vcpu-loop/devices/state.ts';
import type { Wire } from '../wires.ts';
import type { ApicMessage } from './apic-message.ts';
import { ioapicPin, Lines, picInput } from './controller.ts';
import { IOAPIC_BASE, IOAPIC_BYTES, IoApic } from './ioapic.ts';
import { Pic } from './pic.ts';
import { PIT_PORT, Pit, SPEAKER_PORT } from './pit.ts';

interface OutsideOptions {
  readonly clock: Clock;
  readonly send: (message: ApicMessage) => number;
  readonly onPicOutput: (level: boolean) => void;
  readonly onRoutes?: () => void;
  /** The 8259s and the 8254 are on no bus, and no line leads to them. */
  readonly apicsOnly?: boolean;
}

export class OutsideChips {
  readonly pic: Pic;
  readonly ioapic: IoApic;
  readonly pit: Pit;
  readonly #lines: Lines;
  readonly #apicsOnly: boolean;

  constructor({ clock, send, onPicOutput, onRoutes = () => {}, apicsOnly = false }: OutsideOptions) {
    this.#apicsOnly = apicsOnly;
    this.pic = new Pic({ onOutput: onPicOutput });
    this.ioapic = new IoApic({ send, onRoutes, version: 0x20 });
    this.#lines = new Lines((gsi, level) => {
      const [input, pin] = apicsOnly ? [null, gsi] : [picInput(gsi), ioapicPin(gsi)];
      if (input !== null) this.pic.setIrq(input, level);
      if (pin !== null) this.ioapic.setIrq(pin, level);
    });
    const timer = this.line(0);
    this.pit = new Pit({ clock, onOutput: (level) => timer.set(level), reinject: false });
  }

  line(gsi: number): Wire {
    return this.#lines.at(gsi);
  }

  attach(ports: Bus, mmio: Bus): void {
    mmio.attach(IOAPIC_BASE, IOAPIC_BYTES, this.ioapic.registers);
    if (this.#apicsOnly) return;
    for (const { port, bytes, registers } of this.pic.ports) ports.attach(port, bytes, registers);
    ports.attach(PIT_PORT, 4, this.pit.registers);
    ports.attach(SPEAKER_PORT, 1, this.pit.speakerRegisters);
  }

  reset(): void {
    this.pic.reset();
    this.ioapic.reset();
    this.pit.reset();
  }

  /** What is saved of them. */
  savedParts(): SavedPart[] {
    return [savedPart('8259', this.pic, Pic.STATE), savedPart('8254', this.pit, Pit.STATE), savedPart('I/O APIC', this.ioapic, IoApic.STATE)];
  }
}
