// Test equipment: not a part of the book.

import { Bus, PORT_COUNT, type Width } from '../../03-vcpu-loop/devices/bus.ts';
import { PciBus } from '../../05-pio-mmio/pci/pci-bus.ts';
import { type DeviceModel, VirtioDevice } from '../device.ts';
import { DEVICE_ID, F, features } from '../features.ts';
import { FlatMemory } from '../memory.ts';
import { makeRing } from '../rings/make-ring.ts';
import type { VirtQueue } from '../virt-queue.ts';
import { COMMON_CONFIG } from './common-config.ts';
import { MMIO_CONFIG, VIRTIO_MMIO, VirtioMmio } from './mmio.ts';
import { BAR, BusMasterMemory, PLACE, VirtioPci } from './pci.ts';
import { LEGACY_PCI } from './pci-legacy.ts';

/** Every common feature that there is to offer. */
export const EVERYTHING = features(
  F.INDIRECT_DESC,
  F.EVENT_IDX,
  F.RING_RESET,
  F.NOTIFY_ON_EMPTY,
  F.ANY_LAYOUT,
  F.RING_PACKED,
  F.IN_ORDER,
  F.NOTIFICATION_DATA,
  F.SUSPEND,
);

/** A device that keeps what it is told: what a driver wrote of its configuration, and which calls it had. */
export class Recorder implements DeviceModel {
  readonly name = 'recorder';
  readonly deviceId = DEVICE_ID.ENTROPY;
  readonly features: bigint;
  readonly queueSizes: readonly number[];
  readonly dependencies: readonly (readonly [number, number])[];
  readonly bytes = Uint8Array.from({ length: 16 }, (_, at) => at + 1);
  readonly config = {
    bytes: 16,
    read: (offset: number, width: number): number => {
      let value = 0;
      for (let at = width - 1; at >= 0; at--) value = value * 256 + (this.bytes[offset + at] as number);
      return value;
    },
    write: (offset: number, width: number, value: number): void => {
      for (let at = 0; at < width; at++) this.bytes[offset + at] = value >>> (8 * at);
    },
  };
  readonly calls: string[] = [];
  /** Set: a suspension is not finished before this is called. */
  rest: (() => void) | null = null;
  slow = false;

  constructor({ queues = [8, 4], own = 0n, dependencies = [] as readonly (readonly [number, number])[] } = {}) {
    this.queueSizes = queues;
    this.features = own;
    this.dependencies = dependencies;
  }
  attach(): void {}
  start(): void {
    this.calls.push('start');
  }
  available(queue: VirtQueue): void {
    this.calls.push(`available ${queue.index}`);
    queue.serve((chain) => {
      for (const piece of chain.writable) piece.fill(0x5a);
      return chain.writableBytes;
    });
  }
  reset(): void {
    this.calls.push('reset');
  }
  queueReset(queue: VirtQueue): void {
    this.calls.push(`queue reset ${queue.index}`);
  }
  suspend(done: () => void): void {
    this.calls.push('suspend');
    if (this.slow) this.rest = done;
    else done();
  }
  resume(): void {
    this.calls.push('resume');
  }
}

const BASE = 0xe000_0000;
const PORTS = 0xc000;
const WINDOW = 0xfeb0_3000;

export interface Rig {
  readonly device: VirtioDevice;
  readonly model: Recorder;
  readonly ram: Uint8Array;
  readonly view: DataView;
  /** Messages that were sent, and changes of the line. */
  readonly sent: { readonly address: number; readonly data: number }[];
  readonly line: boolean[];
}

interface RigOptions extends Partial<Omit<ConstructorParameters<typeof VirtioPci>[0], 'device'>> {
  readonly offer?: bigint;
  readonly model?: Recorder;
}

const RAM_BYTES = 1 << 20;

/** A function on a bus of its own, all BARs placed, bus master. */
export function pciRig({ offer = EVERYTHING, model = new Recorder(), ...shape }: RigOptions = {}) {
  const ram = new Uint8Array(RAM_BYTES);
  const memory = new BusMasterMemory(new FlatMemory(ram));
  const device = new VirtioDevice(model, { memory, makeRing, offer });
  const fn = new VirtioPci({ device, ...shape });
  memory.belongTo(fn);
  const io = new Bus('ports', PORT_COUNT);
  const mmio = new Bus('memory');
  const sent: { address: number; data: number }[] = [];
  const line: boolean[] = [];
  const bus = new PciBus('pci', {
    io,
    memory: mmio,
    upstream: {
      dma: { read: () => false, write: () => false },
      msi: { send: (address, data) => void sent.push({ address, data }) },
      intx: (_device, _pin, level) => void line.push(level),
    },
  });
  bus.add(fn, 3);
  const { config } = fn;
  const place = (): void => {
    config.write(0x10 + 4 * BAR.LEGACY, 4, PORTS);
    config.write(0x10 + 4 * BAR.MSIX, 4, BASE + 0x100_0000);
    config.write(0x10 + 4 * BAR.PIO_NOTIFY, 4, shape.pioNotify ? PORTS + 0x100 : BASE + 0x200_0000);
    config.write(0x10 + 4 * BAR.MODERN, 4, BASE);
    config.write(4, 2, 7);
  };
  place();
  const common = (name: keyof typeof COMMON_CONFIG.rows): [number, Width] => {
    const { offset, bytes } = COMMON_CONFIG.rows[name];
    return [BASE + PLACE.COMMON + offset, bytes as Width];
  };
  const legacy = (name: keyof typeof LEGACY_PCI.rows): [number, Width] => [
    PORTS + LEGACY_PCI.rows[name].offset,
    LEGACY_PCI.rows[name].bytes as Width,
  ];
  return {
    device,
    model,
    fn,
    ram,
    view: new DataView(ram.buffer),
    sent,
    line,
    io,
    mmio,
    config,
    place,
    BASE,
    PORTS,
    /** A field of the common configuration. */
    get: (name: Parameters<typeof common>[0]) => Number(mmio.read(...common(name))),
    set: (name: Parameters<typeof common>[0], value: number) => mmio.write(...common(name), BigInt(value >>> 0)),
    /** A legacy register. */
    in: (name: Parameters<typeof legacy>[0]) => Number(io.read(...legacy(name))),
    out: (name: Parameters<typeof legacy>[0], value: number) => io.write(...legacy(name), BigInt(value >>> 0)),
    isr: () => Number(mmio.read(BASE + PLACE.ISR, 1)),
    /** Switches MSI-X on and unmasks every vector; vector n is a message of data 0x40 + n. */
    messages() {
      const at = fn.config.load(0x34, 1);
      for (let cap = at; cap !== 0; cap = config.load(cap + 1, 1)) if (config.load(cap, 1) === 0x11) config.write(cap + 2, 2, 0x8000);
      for (let vector = 0; vector < fn.vectors; vector++)
        for (const [word, value] of [0xfee0_0000, 0, 0x40 + vector, 0].entries())
          mmio.write(BASE + 0x100_0000 + 16 * vector + 4 * word, 4, BigInt(value));
    },
  };
}

/** A window of memory with a device in it. */
export function mmioRig({ offer = EVERYTHING, model = new Recorder(), legacy = false, empty = false } = {}) {
  const ram = new Uint8Array(RAM_BYTES);
  const device = new VirtioDevice(model, { memory: new FlatMemory(ram), makeRing, offer });
  const line: boolean[] = [];
  let level = false;
  const window = new VirtioMmio({
    device: empty ? null : device,
    legacy,
    line: {
      set(to) {
        if (to !== level) line.push(to);
        level = to;
      },
    },
  });
  const mmio = new Bus('memory');
  mmio.attach(WINDOW, 0x200, window);
  const at = (name: keyof typeof VIRTIO_MMIO.rows): number => WINDOW + VIRTIO_MMIO.rows[name].offset;
  return {
    device,
    model,
    window,
    ram,
    view: new DataView(ram.buffer),
    line,
    mmio,
    WINDOW,
    get: (name: Parameters<typeof at>[0]) => Number(mmio.read(at(name), 4)),
    set: (name: Parameters<typeof at>[0], value: number) => mmio.write(at(name), 4, BigInt(value >>> 0)),
    readConfig: (offset: number, width: Width) => Number(mmio.read(WINDOW + MMIO_CONFIG + offset, width)),
    writeConfig: (offset: number, width: Width, value: number) => mmio.write(WINDOW + MMIO_CONFIG + offset, width, BigInt(value)),
  };
}

// ## A driver of one queue, as short as it can be

/** Where the queue of {@link offerBuffer} is. */
export const QUEUE = { desc: 0x1_0000, driver: 0x1_1000, device: 0x1_2000, buffer: 0x2_0000 } as const;

/** Makes one writable buffer available in a split ring at {@link QUEUE}, or where it is said to be. */
export function offerBuffer(view: DataView, size: number, place: { desc: number; driver: number; buffer?: number } = QUEUE, bytes = 64): void {
  const idx = view.getUint16(place.driver + 2, true);
  const slot = idx % size;
  view.setBigUint64(place.desc + 16 * slot, BigInt((place.buffer ?? QUEUE.buffer) + 256 * slot), true);
  view.setUint32(place.desc + 16 * slot + 8, bytes, true);
  view.setUint16(place.desc + 16 * slot + 12, 2, true);
  view.setUint16(place.driver + 4 + 2 * slot, slot, true);
  view.setUint16(place.driver + 2, (idx + 1) & 0xffff, true);
}
