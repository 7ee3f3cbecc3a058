// # Drivers, and who gets which device
//
// A driver says which types of device it is for and which of their features it knows. Matching the two is not the driver's affair, nor is the order
// of steps before and after its own part. Linux has a bus for that, `virtio_bus`, and so has this book.

import { Errno } from '../../02-kvm-objects/errno.ts';
import type { VirtioTransport } from './transport.ts';
import { DeviceHandle } from './virtio-device.ts';

/** Any vendor. */
export const VIRTIO_DEV_ANY_ID = 0xffff_ffff;

export interface VirtioDriver {
  readonly name: string;
  /** Which devices it is for. */
  readonly idTable: readonly { readonly device: number; readonly vendor?: number }[];
  /** Features of the type that it knows, by bit number. Those of rings and transports are taken without being named. */
  readonly featureTable: readonly number[];
  /** The same for devices from before the standard, where it differs. */
  readonly featureTableLegacy?: readonly number[];
  /** Features that are of no use without another: `[feature, needed]`. */
  readonly requires?: readonly (readonly [number, number])[];
  /** Looks at the configuration before features are final, and may drop some. A reason not to go on, or null. */
  validate?(device: DeviceHandle): string | null;
  /** Sets the device up: queues, first buffers. @throws Errno when it cannot be used */
  probe(device: DeviceHandle): void;
  /** After DRIVER_OK: what needs a running device. @throws Errno likewise */
  scan?(device: DeviceHandle): void;
  /** The device has changed its configuration. */
  configChanged?(device: DeviceHandle): void;
  /** Lets go of the device. It has been reset; its queues are still there to be emptied, and its memory goes back by itself. */
  remove?(device: DeviceHandle): void;
}

/** Puts drivers and devices together. */
export class VirtioBus {
  readonly #drivers: VirtioDriver[] = [];
  readonly #devices: DeviceHandle[] = [];
  readonly #want: bigint;

  /** `want`: features of rings and transports that may be used; all that are known, when absent. */
  constructor({ want = ~0n }: { readonly want?: bigint } = {}) {
    this.#want = want;
  }

  get devices(): readonly DeviceHandle[] {
    return this.#devices;
  }

  /** A driver is there; it gets every device that waits for it. */
  registerVirtioDriver(driver: VirtioDriver): void {
    this.#drivers.push(driver);
    for (const device of this.#devices)
      if (device.driver === null && device.failure === null && matches(driver, device.transport)) this.#probe(device, driver);
  }

  /** A device is there; a driver that is for it gets it. */
  registerVirtioDevice(transport: VirtioTransport): DeviceHandle {
    const device = new DeviceHandle(transport);
    this.#devices.push(device);
    if (device.acknowledge() !== null) return device;
    const driver = this.#drivers.find((each) => matches(each, transport));
    if (driver) this.#probe(device, driver);
    return device;
  }

  /** A device is gone, or shall be. */
  unregisterVirtioDevice(device: DeviceHandle): void {
    const index = this.#devices.indexOf(device);
    if (index < 0) return;
    this.#devices.splice(index, 1);
    this.#part(device);
  }

  /** A driver is gone. Its devices wait for another. */
  unregisterVirtioDriver(driver: VirtioDriver): void {
    const index = this.#drivers.indexOf(driver);
    if (index >= 0) this.#drivers.splice(index, 1);
    for (const device of this.#devices) {
      if (device.driver !== driver) continue;
      this.#part(device);
      device.acknowledge();
    }
  }

  #part(device: DeviceHandle): void {
    device.quiesce();
    device.driver?.remove?.(device);
    device.delVqs();
    device.driver = null;
  }

  #probe(device: DeviceHandle, driver: VirtioDriver): void {
    // @clause virtio.init.dri.initialization-stops-after-irrecoverable-failure
    if (device.negotiate(driver, this.#want) !== null) return;
    try {
      driver.probe(device);
      device.driver = driver;
      device.ready();
      driver.scan?.(device);
    } catch (error) {
      if (!(error instanceof Errno)) throw error;
      this.#part(device);
      device.fail(error.message);
    }
  }
}

const matches = ({ idTable }: VirtioDriver, { deviceId, vendorId }: VirtioTransport): boolean =>
  idTable.some(({ device, vendor = VIRTIO_DEV_ANY_ID }) => device === deviceId && (vendor === VIRTIO_DEV_ANY_ID || vendor === vendorId));
