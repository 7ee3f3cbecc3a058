// # Devices by QEMU's names
//
// A type of virtio device comes in four: `virtio-rng-pci` is what the board makes of it, which on a root bus is a transitional device;
// `-transitional` and `-non-transitional` are one thing or the other wherever they are; and `virtio-rng-device` is the device without a transport, to
// be plugged into one that the machine has, which for a PC is a window of memory. A type is declared once here, and all four follow. Names and
// defaults are QEMU's.

import type { Bus } from '../../03-vcpu-loop/devices/bus.ts';
import { ConfigError, type DeviceConfig, type DeviceRegistry, type DeviceType, slotOf, slotPlaces } from '../../05-pio-mmio/machine/device-types.ts';
import type { Mainboard } from '../../05-pio-mmio/machine/mainboard.ts';
import { isInterrupt } from '../../05-pio-mmio/pci/chipset.ts';
import { type DeviceModel, VirtioDevice, type VirtioOptions } from '../device.ts';
import { F, features } from '../features.ts';
import { type AreaSource, Areas } from '../rings/area.ts';
import { makeRing } from '../rings/make-ring.ts';
import { type DoorbellPlace, DoorbellWires } from '../transport/doorbell-wires.ts';
import { type MessageSource, MessageWires } from '../transport/message-wires.ts';
import { MMIO_NOTIFY } from '../transport/mmio.ts';
import { BAR, BusMasterMemory, PLACE, TRANSITIONAL_ID, VirtioPci } from '../transport/pci.ts';
import { LEGACY_NOTIFY } from '../transport/pci-legacy.ts';
import { MMIO_WINDOWS, plugMmio } from './mmio-windows.ts';

/** A type of device, without its transport. */
export interface VirtioType {
  /** As in `virtio-rng`. */
  readonly name: string;
  readonly text: string;
  readonly deviceId: number;
  readonly classCode: number;
  /** Its own properties. */
  readonly properties: DeviceType['properties'];
  /** MSI-X vectors when nothing is said. */
  readonly vectors: (model: DeviceModel) => number;
  /** @throws ConfigError */
  readonly model: (pc: Mainboard, config: DeviceConfig) => DeviceModel;
}

// ## What may be offered
//
// Each common feature has a property.

// biome-ignore format: table
const OFFERS = {
  indirect_desc:     { feature: F.INDIRECT_DESC,     on: true,  text: 'descriptors in a table of their own' },
  event_idx:         { feature: F.EVENT_IDX,         on: true,  text: 'notifications asked for by index' },
  notify_on_empty:   { feature: F.NOTIFY_ON_EMPTY,   on: true,  text: 'to a legacy driver: a notification when the ring runs empty' },
  any_layout:        { feature: F.ANY_LAYOUT,        on: true,  text: 'to a legacy driver: descriptors as it likes' },
  queue_reset:       { feature: F.RING_RESET,        on: true,  text: 'queues can be taken back one by one' },
  packed:            { feature: F.RING_PACKED,       on: false, text: 'the packed ring' },
  in_order:          { feature: F.IN_ORDER,          on: false, text: 'buffers come back in the order in which they were given' },
  iommu_platform:    { feature: F.ACCESS_PLATFORM,   on: false, text: 'addresses are the platform’s, and a driver that does not know it is refused' },
  notification_data: { feature: F.NOTIFICATION_DATA, on: false, text: 'a kick says how far the ring is filled' },
  suspend:           { feature: F.SUSPEND,           on: false, text: 'the device can be put to sleep' },
} as const;

const offerProperties: DeviceType['properties'] = Object.fromEntries(
  Object.entries(OFFERS).map(([name, { text, on }]) => [name, { kind: 'boolean', text: `${text}; ${on ? 'on' : 'off'} by default` }]),
);

/** The common features that a description asks for. */
const offerOf = (config: DeviceConfig): bigint =>
  features(...Object.entries(OFFERS).flatMap(([name, { feature, on }]) => ((config[name] ?? on) ? [feature] : [])));

/** Windows of virtio-mmio, by QEMU's names. */
const MMIO_BUSES = Array.from({ length: MMIO_WINDOWS }, (_, index) => `virtio-mmio-bus.${index}`);

const notifyProperties: DeviceType['properties'] = {
  ioeventfd: { kind: 'boolean', text: 'kicks do not leave the kernel; on by default' },
};

const AUTO = ['on', 'off', 'auto'] as const;

const idProperty: DeviceType['properties'] = { id: { kind: 'string', text: 'how others call it' } };

const pciProperties: DeviceType['properties'] = {
  addr: { kind: 'slot', text: 'its place on the PCI bus; the first free one by default' },
  vectors: { kind: 'integer', text: 'MSI-X vectors; 0 for none', most: 2048 },
  'page-per-vq': { kind: 'boolean', text: 'a page for each doorbell; off by default' },
  'modern-pio-notify': { kind: 'boolean', text: 'a doorbell among the ports as well; off by default' },
};

const eitherProperties: DeviceType['properties'] = {
  'disable-legacy': { kind: 'string', text: 'without the registers from before the standard; off by default', words: AUTO },
  'disable-modern': { kind: 'boolean', text: 'without those of the standard; off by default' },
};

/** The device of a description, not yet on any transport. */
function virtioDevice(pc: Mainboard, type: VirtioType, config: DeviceConfig, memory: VirtioDevice['memory']): VirtioDevice {
  const ringOf: VirtioOptions['makeRing'] = (memory, place, features) =>
    makeRing(memory, place, features, { areas: observers.get(pc)?.(new Areas(memory)) ?? new Areas(memory) });
  const device = new VirtioDevice(type.model(pc, config), { memory, makeRing: ringOf, offer: offerOf(config), trace: pc.trace });
  const devices = plugged.get(pc) ?? new Map<DeviceConfig, VirtioDevice>();
  plugged.set(pc, devices.set(config, device));
  return device;
}

const observers = new WeakMap<Mainboard, (areas: AreaSource) => AreaSource>();

/** Every access of this machine's devices to the areas of their rings goes through what `through` makes of them: for rings that are set up from now on. */
export const observeRings = (pc: Mainboard, through: (areas: AreaSource) => AreaSource): void => void observers.set(pc, through);

// ## Which device is which
//
// Whoever works on a machine from outside (a monitor, a test) names a device by its place in the description, or by its `id`.

const plugged = new WeakMap<Mainboard, Map<DeviceConfig, VirtioDevice>>();

/** The device that a part of a machine's description has become; null when it is no virtio device. */
export const virtioOf = (pc: Mainboard, config: DeviceConfig): VirtioDevice | null => plugged.get(pc)?.get(config) ?? null;

/** All virtio devices of a machine, in the order in which they were plugged in. */
export const virtioDevices = (pc: Mainboard): ReadonlyMap<DeviceConfig, VirtioDevice> => plugged.get(pc) ?? new Map();

// ## Wires past the registers
//
// The device then works while its processor is in the guest, so an interrupt must find its way in without that processor coming out for it: the
// controllers have to be in the kernel.

/** Wires a device's doorbells, where the description, the kernel and the arrangement allow it. */
function wire(pc: Mainboard, config: DeviceConfig, device: VirtioDevice, places: (queue: number) => readonly DoorbellPlace[]): DoorbellWires | null {
  if (config.ioeventfd === false || !pc.hasIoThread || pc.interrupts.arrangement !== 'on') return null;
  const wires = new DoorbellWires(device, places);
  pc.onPrepare(({ vm }) => wires.connect(vm));
  pc.onDispose(() => wires.dispose());
  wired.set(device, wires);
  return wires;
}

const wired = new WeakMap<VirtioDevice, DoorbellWires>();

/** The wires of a device's doorbells; null when it has none. */
export const wiresOf = (device: VirtioDevice): DoorbellWires | null => wired.get(device) ?? null;

/** Wires a function's messages, where the local APICs are in the kernel. */
function wireMessages(pc: Mainboard, fn: VirtioPci): MessageWires | null {
  const { gsis } = pc.interrupts;
  const { msix, virtio } = fn;
  if (!gsis || !msix) return null;
  const source: MessageSource = {
    vectors: () => new Set(virtio.live ? virtio.queues.flatMap(({ enabled, vector }) => (enabled && vector < fn.vectors ? [vector] : [])) : []),
    message(vector) {
      if (!msix.enabled || !fn.isMaster) return null;
      const { masked, address, data } = msix.entry(vector);
      return !masked && isInterrupt(address) ? { address, data } : null; // a message to anywhere else is a store to memory
    },
  };
  const wires = new MessageWires(source, gsis);
  pc.onPrepare(({ vm }) => wires.connect(vm));
  pc.onDispose(() => wires.dispose());
  msix.onChange = () => wires.refresh();
  fn.onMessage = (vector) => wires.send(vector);
  messages.set(virtio, wires);
  return wires;
}

const messages = new WeakMap<VirtioDevice, MessageWires>();

/** The wires of a device's messages; null when it has none. */
export const messageWiresOf = (device: VirtioDevice): MessageWires | null => messages.get(device) ?? null;

/** Whether an access at `address` would reach the registers that we mean, and not somebody who lies over them. */
const answersAt = (bus: Bus, address: number, { name }: { readonly name: string }, offset: number): boolean => {
  const found = bus.whoAnswers(address);
  return found !== null && found.device.name === name && found.offset === offset;
};

/** Where the doorbells of a function's queue are. */
function pciDoorbells(pc: Mainboard, fn: VirtioPci): (queue: number) => DoorbellPlace[] {
  const place = (bar: number, offset: number, bus: 'mmio' | 'pio', bytes: 0 | 2, value: number | null): DoorbellPlace[] => {
    const region = fn.bars[bar];
    if (region?.placed == null) return [];
    const address = region.placed + offset;
    return answersAt(bus === 'pio' ? pc.ports : pc.mmio, address, region.spec.registers, offset) ? [{ bus, address, bytes, value }] : [];
  };
  return (queue) => {
    if (fn.virtio.legacy) return place(BAR.LEGACY, LEGACY_NOTIFY, 'pio', 2, queue);
    const port = fn.pioNotify ? place(BAR.PIO_NOTIFY, 0, 'pio', 2, queue) : [];
    return [...place(BAR.MODERN, PLACE.NOTIFY + queue * fn.multiplier, 'mmio', 0, null), ...port];
  };
}

type PciKind = 'either' | 'transitional' | 'non-transitional';

function pciType(type: VirtioType, kind: PciKind): DeviceType {
  return {
    name: kind === 'either' ? `${type.name}-pci` : `${type.name}-pci-${kind}`,
    text: `${type.text}${kind === 'either' ? '' : `, ${kind}`}`,
    properties: {
      ...idProperty,
      ...type.properties,
      ...pciProperties,
      ...(kind === 'either' && eitherProperties),
      ...offerProperties,
      ...notifyProperties,
    },
    places: slotPlaces,
    plug(pc, config) {
      const memory = new BusMasterMemory(pc.memory);
      const device = virtioDevice(pc, type, config, memory);
      const modern = config['disable-modern'] !== true;
      const legacy = kind !== 'non-transitional' && TRANSITIONAL_ID[type.deviceId] !== undefined && config['disable-legacy'] !== 'on';
      if (!modern && !legacy) throw new ConfigError(`${config.type}: neither modern nor legacy registers are left`);
      // A legacy driver could not be refused: it would go on with addresses that mean nothing.
      if (legacy && config.iommu_platform === true) throw new ConfigError(`${config.type}: with iommu_platform there can be no legacy registers`);
      const fn = new VirtioPci({
        device,
        modern,
        legacy,
        vectors: config.vectors === undefined ? type.vectors(device.model) : Number(config.vectors),
        classCode: type.classCode,
        pagePerVq: config['page-per-vq'] === true,
        pioNotify: config['modern-pio-notify'] === true,
      });
      memory.belongTo(fn);
      const { addr } = config;
      const place = addr === undefined ? { device: pc.freeSlot(), fn: 0 } : slotOf(String(addr));
      pc.plug(fn, place.device, place.fn);
      const wires = wire(pc, config, device, pciDoorbells(pc, fn));
      const messageWires = wireMessages(pc, fn);
      fn.onMove = fn.onQueueChange = () => {
        wires?.refresh();
        messageWires?.refresh();
      };
    },
  };
}

const mmioType = (type: VirtioType): DeviceType => ({
  name: `${type.name}-device`,
  text: `${type.text}, in a window of memory`,
  properties: {
    ...idProperty,
    ...type.properties,
    bus: { kind: 'string', text: 'which window; the first free one by default', words: MMIO_BUSES },
    'force-legacy': { kind: 'boolean', text: 'with the registers from before the standard; off by default' },
    ...offerProperties,
    ...notifyProperties,
  },
  places: ({ bus }) => (bus === undefined ? [] : [String(bus)]),
  plug(pc, config) {
    const { bus } = config;
    const device = virtioDevice(pc, type, config, pc.memory);
    const { window, gpa } = plugMmio(pc, device, {
      legacy: config['force-legacy'] === true,
      window: bus === undefined ? null : MMIO_BUSES.indexOf(String(bus)),
    });
    const wires = wire(pc, config, device, (queue) => [{ bus: 'mmio', address: gpa + MMIO_NOTIFY, bytes: 4, value: queue }]);
    if (wires) window.onQueueChange = () => wires.refresh();
  },
});

/** Installs a type with all its transports. */
export function installVirtio(registry: DeviceRegistry, type: VirtioType): void {
  registry.install(pciType(type, 'either'));
  if (TRANSITIONAL_ID[type.deviceId] !== undefined) registry.install(pciType(type, 'transitional'));
  registry.install(pciType(type, 'non-transitional'));
  registry.install(mmioType(type));
}
