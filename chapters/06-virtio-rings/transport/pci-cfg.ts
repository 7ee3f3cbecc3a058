// # A window for those who cannot reach
//
// Firmware may want to boot from a device before any BAR has an address, or in a mode in which it cannot reach the address. So there is a last
// capability, of which bar, offset and length are the driver's to write: an access to its data field is then an access to that place. It is slow, and
// it needs nothing but configuration space.

import type { Width } from '../../03-vcpu-loop/devices/bus.ts';
import type { PciFunction } from '../../05-pio-mmio/pci/function.ts';
import { CAP_BYTES, CAP_VENDOR, CFG_TYPE, capabilityBytes, type Structure, VIRTIO_PCI_CAP } from './capabilities.ts';

const DATA_BYTES = 4;
const { rows } = VIRTIO_PCI_CAP;

// @clause virtio.pci.dev.least-one-pci-cfg-access
/** Adds the capability to `fn`. It reaches `structures` and nothing else. */
export function addConfigAccess(fn: PciFunction, structures: readonly Structure[]): void {
  const bytes = capabilityBytes({ type: CFG_TYPE.PCI, bar: 0, offset: 0, length: 0, extra: [0] });
  const writeMask = new Uint8Array(bytes.length);
  for (const { offset, bytes: length } of [rows.bar, rows.offset, rows.length]) writeMask.fill(0xff, offset - 2, offset - 2 + length);
  writeMask.fill(0xff, CAP_BYTES - 2);
  const at = fn.addCapability(CAP_VENDOR, bytes, { writeMask });
  const { config } = fn;

  /** The registers' bus, if bar, offset and length name a place that an access can reach. */
  const target = () => {
    const bar = config.load(at + rows.bar.offset, 1);
    const offset = config.load(at + rows.offset.offset, 4);
    const length = config.load(at + rows.length.offset, 4);
    if ((length !== 1 && length !== 2 && length !== 4) || offset % length !== 0) return null;
    const inside = structures.some((each) => each.bar === bar && offset >= each.offset && offset + length <= each.offset + each.length);
    const region = inside ? fn.bars[bar] : null;
    return region ? { bus: region.inside, offset, width: length as Width } : null;
  };

  // @clause virtio.pci.dev.pci-cfg-data-read-performs
  config.before(at + CAP_BYTES, DATA_BYTES, () => {
    const place = target();
    if (place) config.store(at + CAP_BYTES, DATA_BYTES, Number(place.bus.read(place.offset, place.width)));
  });
  // @clause virtio.pci.dev.pci-cfg-data-write-performs
  config.on(at + CAP_BYTES, DATA_BYTES, () => {
    const place = target();
    place?.bus.write(place.offset, place.width, BigInt(config.load(at + CAP_BYTES, DATA_BYTES)) & ((1n << BigInt(8 * place.width)) - 1n));
  });
}
