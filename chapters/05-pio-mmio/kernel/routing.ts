// # What a GSI is
//
// KVM's interrupt lines have numbers, *global system interrupts*, and a number by itself is nothing. A table says what becomes of it: an input of a chip
// in the kernel, two chips at once (the lower sixteen lines of a PC go to the 8259s *and* to the I/O APIC, and the guest listens to one of them), or a
// message. The VMM replaces the table as a whole. That is how an MSI-X vector of a device becomes a number to which an eventfd can be tied.

import { IRQ_ROUTING, IRQCHIP, KvmIrqRouting, KvmIrqRoutingEntry } from '../../02-kvm-objects/abi/irqchip.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import { IOAPIC_PINS } from '../interrupts/ioapic.ts';
import { PIC_INPUTS } from '../interrupts/pic.ts';

/** KVM_MAX_IRQ_ROUTES: how many GSIs there can be, and how many entries. */
export const MAX_ROUTES = 4096;
const KVM_MSI_VALID_DEVID = 1;
const CHIP_INPUTS = PIC_INPUTS / 2;

/** Where a GSI leads. Pins of the second 8259 count from 8. */
export type Route =
  | { readonly gsi: number; readonly kind: 'pic' | 'ioapic'; readonly pin: number }
  | { readonly gsi: number; readonly kind: 'msi'; readonly address: number; readonly data: number };

type Chip = 'pic' | 'ioapic';

/** One table. */
export class GsiRoutes {
  readonly all: readonly Route[];
  readonly #byGsi = new Map<number, Route[]>();
  readonly #byPin = new Map<string, number>();

  constructor(routes: readonly Route[]) {
    this.all = routes;
    for (const route of routes) {
      this.#byGsi.set(route.gsi, [...(this.#byGsi.get(route.gsi) ?? []), route]);
      if (route.kind !== 'msi') this.#byPin.set(`${route.kind}${route.pin}`, route.gsi);
    }
  }

  of(gsi: number): readonly Route[] {
    return this.#byGsi.get(gsi) ?? [];
  }

  /** The GSI that drives a pin, or null. Linux: `kvm_irq_map_chip_pin()`. */
  gsiOf(chip: Chip, pin: number): number | null {
    return this.#byPin.get(`${chip}${pin}`) ?? null;
  }
}

// @clause kvm.irqchip.default-routing
/** What KVM_CREATE_IRQCHIP makes: GSI n is pin n. A PC wants line 0 at the I/O APIC's pin 2, and its VMM says so. */
export function defaultRoutes(): Route[] {
  const routes: Route[] = [];
  for (let gsi = 0; gsi < IOAPIC_PINS; gsi++) {
    routes.push({ gsi, kind: 'ioapic', pin: gsi });
    if (gsi < PIC_INPUTS) routes.push({ gsi, kind: 'pic', pin: gsi });
  }
  return routes;
}

/** What a table is checked against. */
interface Limits {
  /** No chips in the kernel: no entry can name one. */
  readonly split: boolean;
  /** Upper address bits of an MSI are bits 31–8 of a destination; else they are not looked at. */
  readonly x2apicFormat: boolean;
}

// @clause kvm.gsi-routing
/** The argument of KVM_SET_GSI_ROUTING; -errno when it is not a table. Linux: `kvm_set_irq_routing()`. */
export function parseRoutes(bytes: Uint8Array, view: DataView, limits: Limits): Route[] | number {
  const { nr, flags } = KvmIrqRouting.load(view);
  if (nr > MAX_ROUTES || flags !== 0) return -ERRNO.EINVAL;
  if (bytes.length < KvmIrqRouting.bytes + nr * KvmIrqRoutingEntry.bytes) return -ERRNO.EFAULT;
  const routes: Route[] = [];
  const seen = new Map<number, Set<string>>();
  for (let n = 0; n < nr; n++) {
    const entry = KvmIrqRoutingEntry.load(view, KvmIrqRouting.bytes + n * KvmIrqRoutingEntry.bytes);
    const route = parseRoute(entry, limits);
    if (!route) return -ERRNO.EINVAL;
    // One GSI may lead to several chips, but to each only once, and a message shares its number with nothing.
    const kinds = seen.get(route.gsi) ?? new Set();
    const kind = route.kind === 'msi' ? 'msi' : `chip${entry.irqchip}`;
    if (kinds.has(kind) || (kinds.size > 0 && (kind === 'msi' || kinds.has('msi')))) return -ERRNO.EINVAL;
    seen.set(route.gsi, kinds.add(kind));
    routes.push(route);
  }
  return routes;
}

function parseRoute(entry: ReturnType<typeof KvmIrqRoutingEntry.decode>, { split, x2apicFormat }: Limits): Route | null {
  const { gsi, type, flags } = entry;
  if (gsi >= MAX_ROUTES) return null;
  if (type === IRQ_ROUTING.KVM_IRQ_ROUTING_MSI) {
    if (flags & ~KVM_MSI_VALID_DEVID || (x2apicFormat && entry.address_hi & 0xff)) return null;
    return { gsi, kind: 'msi', address: msiAddress(entry.address_lo, entry.address_hi, x2apicFormat), data: entry.data };
  }
  if (type !== IRQ_ROUTING.KVM_IRQ_ROUTING_IRQCHIP || flags !== 0 || split) return null;
  const { irqchip, pin } = entry;
  if (irqchip === IRQCHIP.KVM_IRQCHIP_IOAPIC) return pin < IOAPIC_PINS ? { gsi, kind: 'ioapic', pin } : null;
  if (irqchip > IRQCHIP.KVM_IRQCHIP_IOAPIC || pin >= CHIP_INPUTS) return null;
  return { gsi, kind: 'pic', pin: irqchip * CHIP_INPUTS + pin };
}

export const msiAddress = (low: number, high: number, x2apicFormat: boolean): number => (x2apicFormat ? high * 2 ** 32 : 0) + low;
