// # From pin to line
//
// Thirty-two devices with four pins each have to share the lines that a PC has. The chipset does it in two steps. First every pin of every device on
// the root bus is tied to one of a few *PIRQs*: four, A to D, on the PIIX3, and eight on the ICH9. For devices that are part of the younger chipset
// registers say to which; for slots, the board's wires do, turned by one from slot to slot so that all the first pins do not meet. Then each PIRQ
// goes to an input of the I/O APIC of its own, and also, if its routing register says so, to one of the sixteen lines of 1984, for an operating system
// that has only those.

import { array, describe } from '../../03-vcpu-loop/devices/state.ts';
import type { MovableWire, SharedLines } from './lines.ts';
import { DEVICES, PINS } from './pci-bus.ts';

/** The I/O APIC input of PIRQ A; the others follow. */
const FIRST_PIRQ_GSI = 16;

/** Devices from this one on are parts of the chipset and have routing registers. */
const FIRST_ROUTED_DEVICE = 25;

/** Value of a device's routing register after reset: INTA# to PIRQ A and so on. */
export const DEVICE_ROUTE_RESET = 0x3210;

/** ISA lines that a PIRQ can be routed to: those that no part of every PC needs for itself. */
const ROUTABLE_IRQS: readonly number[] = [3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15];

/** In a PIRQ's routing register: not routed to an ISA line. */
export const ROUTE_OFF = 0x80;

// Device 30 is the bridge to the conventional PCI slots. The pins behind it do not come from inside the chipset, so it has no routing register, and
// where they go is for the board to say. This board says what QEMU's does: they go to E to H, like those of the other slots.
const SLOTS_BRIDGE = 30;

/** How a board ties the pins of its root bus. */
export interface BoardWiring {
  /** How many PIRQs there are. */
  readonly pirqs: number;
  /** The PIRQ of a pin, 0 for A, after a reset. */
  pirqOf(device: number, pin: number): number;
  /** Whether registers of the chipset can change that. */
  hasRegister(device: number): boolean;
}

const hasRegister = (device: number): boolean => device >= FIRST_ROUTED_DEVICE && device !== SLOTS_BRIDGE;

export const Q35_WIRING: BoardWiring = {
  pirqs: 8,
  pirqOf: (device, pin) =>
    hasRegister(device) ? (DEVICE_ROUTE_RESET >> (4 * pin)) & 7 : 4 + (device === SLOTS_BRIDGE ? pin : (device + pin) % PINS),
  hasRegister,
};

// The older board has slots only, numbered from 1: the bridge's.

export const PIIX_WIRING: BoardWiring = { pirqs: 4, pirqOf: (device, pin) => (device + pin + PINS - 1) % PINS, hasRegister: () => false };

/** Where a pin ends. */
export interface IntxRoute {
  readonly device: number;
  /** 0 for INTA#. */
  readonly pin: number;
  readonly gsi: number;
}

/** Where every pin of the root bus ends after a reset: what a description of the machine has to tell an operating system. */
export function rootRoutes(wiring: BoardWiring = Q35_WIRING): readonly IntxRoute[] {
  const routes: IntxRoute[] = [];
  for (let device = 0; device < DEVICES; device++)
    for (let pin = 0; pin < PINS; pin++) routes.push({ device, pin, gsi: FIRST_PIRQ_GSI + wiring.pirqOf(device, pin) });
  return routes;
}

export class PirqRouter {
  readonly #wiring: BoardWiring;
  readonly #apic: MovableWire[] = [];
  readonly #isa: MovableWire[] = [];
  readonly #asserted = new Uint8Array(DEVICES * PINS);
  readonly #pirq = new Uint8Array(DEVICES * PINS);
  readonly #sources: Uint8Array; // pins that assert each PIRQ

  constructor(lines: SharedLines, wiring: BoardWiring = Q35_WIRING) {
    this.#wiring = wiring;
    this.#sources = new Uint8Array(wiring.pirqs);
    for (let pirq = 0; pirq < wiring.pirqs; pirq++) {
      this.#apic.push(lines.source(FIRST_PIRQ_GSI + pirq));
      this.#isa.push(lines.source(null));
    }
    for (const { device, pin, gsi } of rootRoutes(wiring)) this.#pirq[device * PINS + pin] = gsi - FIRST_PIRQ_GSI;
  }

  /** A pin of the root bus is asserted or released. */
  intx(device: number, pin: number, level: boolean): void {
    const index = device * PINS + pin;
    if ((this.#asserted[index] === 1) === level) return;
    this.#asserted[index] = level ? 1 : 0;
    this.#count(this.#pirq[index] as number, level);
  }

  /** A chipset device's routing register was written: four bits for each pin, of which three count. */
  routeDevice(device: number, value: number): void {
    if (!this.#wiring.hasRegister(device)) return;
    for (let pin = 0; pin < PINS; pin++) {
      const index = device * PINS + pin;
      const from = this.#pirq[index] as number;
      const to = (value >> (4 * pin)) & 7;
      if (from === to) continue;
      this.#pirq[index] = to;
      if (!this.#asserted[index]) continue;
      this.#count(from, false);
      this.#count(to, true);
    }
  }

  /** A PIRQ's routing register was written. */
  routeIsa(pirq: number, value: number): void {
    const irq = value & 0xf;
    this.#isa[pirq]?.connect((value & ROUTE_OFF) === 0 && ROUTABLE_IRQS.includes(irq) ? irq : null);
  }

  /** The PIRQ, 0 for A, that a pin of the root bus is tied to now. */
  pirqOf(device: number, pin: number): number {
    return this.#pirq[device * PINS + pin] as number;
  }

  #count(pirq: number, level: boolean): void {
    const sources = (this.#sources[pirq] as number) + (level ? 1 : -1);
    this.#sources[pirq] = sources;
    this.#apic[pirq]?.set(sources > 0);
    this.#isa[pirq]?.set(sources > 0);
  }

  static readonly STATE = describe<PirqRouter>('PIRQs', 1, {
    asserted: array((router) => router.#asserted),
    pirq: array((router) => router.#pirq),
    sources: array((router) => router.#sources),
  });
}
