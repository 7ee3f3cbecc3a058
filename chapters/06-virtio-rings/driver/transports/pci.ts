// # Finding devices on PCI
//
// A device that both interfaces reach is driven by the modern one if the driver knows it; a driver that wants the old one must ask for it.

import type { DriverBus } from '../bus.ts';
import type { VirtioTransport } from '../transport.ts';
import { type PciFunctionAccess, type PciSpace, pciFunctions } from './pci-function.ts';
import { PciLegacyTransport } from './pci-legacy.ts';
import { PciModernTransport, virtioType } from './pci-modern.ts';

/** A virtio device that was found, and how it can be driven, or why not. */
export interface FoundOnPci {
  readonly access: PciFunctionAccess;
  readonly transport: VirtioTransport | string;
}

/** All virtio devices on bus 0. With `space`, regions without an address are given one. */
export function findPciDevices(
  bus: DriverBus,
  { legacy = false, space }: { readonly legacy?: boolean; readonly space?: PciSpace } = {},
): FoundOnPci[] {
  return pciFunctions(bus)
    .filter((access) => virtioType(access) !== null)
    .map((access) => {
      if (space) access.place(space);
      if (legacy) return { access, transport: PciLegacyTransport.probe(access) };
      const modern = PciModernTransport.probe(access);
      const old = typeof modern === 'string' ? PciLegacyTransport.probe(access) : modern;
      return { access, transport: typeof old === 'string' ? modern : old };
    });
}
