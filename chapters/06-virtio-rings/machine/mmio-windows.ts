// # Windows for devices without a bus
//
// A PC has no use for virtio over MMIO, which is why QEMU has another machine for it, *microvm*. It is the transport of machines that have nothing
// else, and a reader should be able to look at all transports in one place. So this board gets {{MMIO_WINDOWS}} windows as soon as somebody plugs a
// device into one; their lines are those of the I/O APIC behind the ISA interrupts, which PCI's pins have too. An operating system finds them in the
// DSDT, under the identifier that Linux knows.

import { ConfigError } from '../../05-pio-mmio/machine/device-types.ts';
import type { Mainboard } from '../../05-pio-mmio/machine/mainboard.ts';
import * as aml from '../../05-pio-mmio/platform/acpi/aml.ts';
import type { VirtioDevice } from '../device.ts';
import { MMIO_BYTES, VirtioMmio } from '../transport/mmio.ts';

/** Where the first window is. */
export const MMIO_GPA = 0xfeb0_3000;
/** How many there are. */
export const MMIO_WINDOWS = 8;
/** Line of the first; each has the next. */
const MMIO_GSI = 16;

/** Address of a window. */
const windowGpa = (index: number): number => MMIO_GPA + index * MMIO_BYTES;

class MmioWindows {
  readonly windows: (VirtioMmio | null)[] = new Array<VirtioMmio | null>(MMIO_WINDOWS).fill(null);
  readonly #pc: Mainboard;

  constructor(pc: Mainboard) {
    this.#pc = pc;
    for (let index = 0; index < MMIO_WINDOWS; index++) {
      const empty = new VirtioMmio({ device: null, line: { set() {} } });
      pc.mmio.attach(windowGpa(index), MMIO_BYTES, {
        name: empty.name,
        read: (offset, width) => (this.windows[index] ?? empty).read(offset, width),
        write: (offset, width, value) => (this.windows[index] ?? empty).write(offset, width, value),
      });
      pc.describeDevice(description(index));
    }
    pc.keepAll(() => this.windows.flatMap((window, index) => window?.savedParts(`virtio-mmio ${index}`) ?? []));
    pc.mayBeBusy(() => this.windows.find((window) => window?.device?.busyNow != null)?.device?.busyNow ?? null);
    pc.onReset(() => {
      for (const window of this.windows) window?.reset();
    });
  }

  plug(device: VirtioDevice, legacy: boolean, wanted: number | null): { window: VirtioMmio; gpa: number } {
    const index = wanted ?? this.windows.indexOf(null);
    if (index < 0) throw new ConfigError(`all ${MMIO_WINDOWS} windows of virtio-mmio are taken`);
    if (this.windows[index]) throw new ConfigError(`virtio-mmio-bus.${index} is taken`);
    const window = new VirtioMmio({ device, legacy, line: this.#pc.lines.source(MMIO_GSI + index) });
    this.windows[index] = window;
    return { window, gpa: windowGpa(index) };
  }
}

function description(index: number): aml.Aml {
  const gpa = windowGpa(index);
  return aml.device(
    `VR${index.toString(16).toUpperCase().padStart(2, '0')}`,
    aml.name('_HID', aml.text('LNRO0005')),
    aml.name('_UID', aml.integer(index)),
    aml.name('_CCA', aml.integer(1)),
    aml.name('_CRS', aml.resources(aml.memory32(gpa, MMIO_BYTES), aml.interrupt(MMIO_GSI + index))),
  );
}

const machines = new WeakMap<Mainboard, MmioWindows>();

/** Puts a device into a window, the first free one unless another is named. @throws ConfigError */
export function plugMmio(
  pc: Mainboard,
  device: VirtioDevice,
  { legacy = false, window = null }: { legacy?: boolean; window?: number | null } = {},
): { readonly window: VirtioMmio; readonly gpa: number } {
  let windows = machines.get(pc);
  if (!windows) {
    windows = new MmioWindows(pc);
    machines.set(pc, windows);
  }
  return windows.plug(device, legacy, window);
}
