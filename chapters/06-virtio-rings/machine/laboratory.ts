// A PC with one device that is up, and a guest made of accesses: for tests of what goes past the registers. The host does the driver's slow part, the
// registers; the guest kicks.

import type { Kernel } from '../../02-kvm-objects/kernel.ts';
import { type Code, out, store } from '../../05-pio-mmio/guest-program.ts';
import { completeConfig } from '../../05-pio-mmio/machine/config.ts';
import { type DeviceConfig, DeviceRegistry } from '../../05-pio-mmio/machine/device-types.ts';
import { Pc } from '../../05-pio-mmio/machine/pc.ts';
import { machineKernel } from '../../05-pio-mmio/machine/soft-machine.ts';
import type { DeviceModel, VirtioDevice } from '../device.ts';
import { DEVICE_ID, F } from '../features.ts';
import { COMMON_CONFIG } from '../transport/common-config.ts';
import { offerBuffer } from '../transport/laboratory.ts';
import type { MessageWires } from '../transport/message-wires.ts';
import { VIRTIO_MMIO } from '../transport/mmio.ts';
import { PLACE } from '../transport/pci.ts';
import { LEGACY_PCI } from '../transport/pci-legacy.ts';
import type { VirtQueue } from '../virt-queue.ts';
import { installVirtio, messageWiresOf, virtioDevices, wiresOf } from './virtio-types.ts';

/** Gives back each buffer with these bytes in it. */
class Writer implements DeviceModel {
  readonly name = 'writer';
  readonly deviceId = DEVICE_ID.ENTROPY;
  readonly features = 0n;
  readonly queueSizes = [8];
  readonly config = { bytes: 0, read: () => 0, write() {} };
  bytes: Uint8Array = Uint8Array.of(1);
  attach(): void {}
  reset(): void {}
  available(queue: VirtQueue): void {
    queue.serve((chain) => {
      chain.writable[0]?.set(this.bytes);
      return this.bytes.length;
    });
  }
}

/** Where the ring is: away from the program. */
export const QUEUE = { desc: 0x10_0000, driver: 0x10_1000, device: 0x10_2000, buffer: 0x10_3000 } as const;
/** Where the regions are. */
export const BAR = 0xe000_0000;
export const MSIX_BAR = 0xe080_0000;
export const PORTS = 0xc000;
export const SLOT = 4;
/** The first window of virtio-mmio. */
const WINDOW = 0xfeb0_3000;
const CAP_MSIX = 0x11;
const MSIX_ENABLE = 0x8000;
const ENTRY_BYTES = 16;
/** By which registers a kick goes. */
export type Bell = 'modern' | 'port' | 'legacy' | 'mmio';

interface WiredOptions {
  readonly properties?: Partial<DeviceConfig>;
  readonly irqchip?: 'on' | 'split' | 'off';
  /** The book's own when absent. */
  readonly kernel?: Kernel;
  readonly ioThread?: boolean;
}

/** A PC with one device, and how to bring it up by the registers of `how` once there is a board. */
export function wiredPc(how: Bell, { properties = {}, irqchip = 'on', kernel, ioThread }: WiredOptions = {}) {
  const registry = new DeviceRegistry();
  const model = new Writer();
  const spec = { name: 'writer', text: 'writes', deviceId: model.deviceId, classCode: 0xff00, properties: {}, vectors: () => 2, model: () => model };
  installVirtio(registry, spec);
  const device: DeviceConfig =
    how === 'mmio'
      ? { type: 'writer-device', ...properties }
      : { type: 'writer-pci', addr: `${SLOT}`, 'modern-pio-notify': how === 'port', ...properties };
  const config = completeConfig({ kernel: 'test', memoryMiB: 4, irqchip, devices: [device] }, registry);
  const pc = new Pc({ kernel: kernel ?? machineKernel(config), config, registry, ...(ioThread !== undefined && { ioThread }) });
  const virtio = [...virtioDevices(pc).values()][0] as VirtioDevice;
  const { config: pci } = pc.chipset;
  /** The driver's work before the first kick. */
  const bringUp = (): void => {
    if (how !== 'mmio') {
      pci.write(0, SLOT << 3, 0x10, 4, PORTS);
      pci.write(0, SLOT << 3, 0x14, 4, MSIX_BAR);
      pci.write(0, SLOT << 3, 0x20, 4, BAR);
      if (how === 'port') pci.write(0, SLOT << 3, 0x18, 4, PORTS + 0x100);
      pci.write(0, SLOT << 3, 4, 2, 7);
    }
    const wantsData = properties.notification_data === true ? 1 << (F.NOTIFICATION_DATA - 32) : 0;
    if (how === 'legacy') {
      const set = (name: keyof typeof LEGACY_PCI.rows, value: number): void =>
        pc.ports.write(PORTS + LEGACY_PCI.rows[name].offset, LEGACY_PCI.rows[name].bytes, BigInt(value));
      set('device_status', 3);
      set('queue_address', QUEUE.desc >>> 12);
      set('device_status', 7);
    } else if (how === 'mmio') {
      const set = (name: keyof typeof VIRTIO_MMIO.rows, value: number): void =>
        pc.mmio.write(WINDOW + VIRTIO_MMIO.rows[name].offset, 4, BigInt(value));
      for (const [name, value] of [
        ['Status', 3],
        ['DriverFeaturesSel', 1],
        ['DriverFeatures', 1 | wantsData],
        ['Status', 11],
      ] as const)
        set(name, value);
      for (const [name, value] of [
        ['QueueSize', 8],
        ['QueueDescLow', QUEUE.desc],
        ['QueueDriverLow', QUEUE.driver],
      ] as const)
        set(name, value);
      for (const [name, value] of [
        ['QueueDeviceLow', QUEUE.device],
        ['QueueReady', 1],
        ['Status', 15],
      ] as const)
        set(name, value);
    } else {
      const set = (name: keyof typeof COMMON_CONFIG.rows, value: number): void =>
        pc.mmio.write(BAR + COMMON_CONFIG.rows[name].offset, COMMON_CONFIG.rows[name].bytes, BigInt(value));
      for (const [name, value] of [
        ['device_status', 3],
        ['driver_feature_select', 1],
        ['driver_feature', 1 | wantsData],
        ['device_status', 11],
      ] as const)
        set(name, value);
      for (const [name, value] of [
        ['queue_desc_lo', QUEUE.desc],
        ['queue_driver_lo', QUEUE.driver],
        ['queue_device_lo', QUEUE.device],
      ] as const)
        set(name, value);
      for (const [name, value] of [
        ['queue_enable', 1],
        ['device_status', 15],
      ] as const)
        set(name, value);
    }
  };
  const driver = how === 'legacy' ? QUEUE.desc + 16 * 8 : QUEUE.driver;
  const used = how === 'legacy' ? QUEUE.desc + 4096 : QUEUE.device;
  const kick: Code = {
    modern: store(BAR + PLACE.NOTIFY, 0),
    port: out(PORTS + 0x100, 0, 2),
    legacy: out(PORTS + 16, 0, 2),
    mmio: store(WINDOW + 0x50, 0),
  }[how];
  const capability = (): number => {
    let at = pci.read(0, SLOT << 3, 0x34, 1);
    while (at !== 0 && pci.read(0, SLOT << 3, at, 1) !== CAP_MSIX) at = pci.read(0, SLOT << 3, at + 1, 1);
    return at;
  };
  return {
    pc,
    model,
    virtio,
    wires: wiresOf(virtio),
    messages: messageWiresOf(virtio) as MessageWires,
    kick,
    bringUp,
    /** Address of the index of the used ring. */
    usedIdx: used + 2,
    offer: (ram: Uint8Array, bytes = 64) =>
      offerBuffer(new DataView(ram.buffer, ram.byteOffset, ram.length), 8, { desc: QUEUE.desc, driver, buffer: QUEUE.buffer }, bytes),
    /** Switches MSI-X on or off. */
    msix: (on: boolean) => pci.write(0, SLOT << 3, capability() + 2, 2, on ? MSIX_ENABLE : 0),
    /** Writes one dword of a vector's entry: the address's halves, the value, the mask. */
    entry: (vector: number, word: 0 | 1 | 2 | 3, value: number) => pc.mmio.write(MSIX_BAR + ENTRY_BYTES * vector + 4 * word, 4, BigInt(value)),
    /** Gives the queue a vector. */
    useVector: (vector: number) => pc.mmio.write(BAR + COMMON_CONFIG.rows.queue_msix_vector.offset, 2, BigInt(vector)),
  };
}
