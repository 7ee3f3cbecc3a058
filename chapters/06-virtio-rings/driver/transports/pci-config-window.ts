// # Registers without memory
//
// Firmware that runs before regions have addresses, or in 16 bits where nothing above one megabyte can be reached, has configuration space and no
// more. For it a device has a window: one capability whose fields *are* written, to say which region, where and how wide, and whose data register
// then is that place.

import { ERRNO, Errno } from '../../../02-kvm-objects/errno.ts';
import { CFG_TYPE, VIRTIO_PCI_CAP } from '../../transport/capabilities.ts';
import type { RegisterSpace } from '../bus.ts';
import type { PciFunctionAccess } from './pci-function.ts';

const { rows: CAP } = VIRTIO_PCI_CAP;
/** `pci_cfg_data`, behind the common fields. */
const DATA = CAP.length.offset + 4;

/** Region `bar` of a function through its window; null when it has none. */
export function configWindow(access: PciFunctionAccess, bar: number): RegisterSpace | null {
  const capabilities = access.vendorCapabilities;
  const own = capabilities.find(({ at }) => access.read(at + CAP.cfg_type.offset, 1) === CFG_TYPE.PCI);
  if (!own) return null;
  const others = capabilities
    .filter(({ at }) => at !== own.at && access.read(at + CAP.bar.offset, 1) === bar)
    .map(({ at }) => ({ from: access.read(at + CAP.offset.offset, 4), bytes: access.read(at + CAP.length.offset, 4) }));

  /** Aims the window. @throws Errno EINVAL for a place that no structure covers, or an access across its width */
  const aim = (offset: number, width: number): number => {
    // @clause virtio.pci.dri.pci-cfg-data-used-only
    if (!others.some(({ from, bytes }) => offset >= from && offset + width <= from + bytes))
      throw new Errno('configWindow', ERRNO.EINVAL, `no structure is at 0x${offset.toString(16)} of region ${bar}`);
    // @clause virtio.pci.dri.cap-offset-written-divisible-cap
    // @clause virtio.pci.dri.window-accesses-naturally-aligned
    if (offset % width !== 0) throw new Errno('configWindow', ERRNO.EINVAL, `${width} bytes at 0x${offset.toString(16)}`);
    access.write(own.at + CAP.bar.offset, 1, bar);
    access.write(own.at + CAP.offset.offset, 4, offset);
    access.write(own.at + CAP.length.offset, 4, width);
    return own.at + DATA;
  };
  return {
    read: (offset, width) => access.read(aim(offset, width), width),
    write: (offset, width, value) => access.write(aim(offset, width), width, value),
  };
}
