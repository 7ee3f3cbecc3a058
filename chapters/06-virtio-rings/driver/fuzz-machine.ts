// # A hostile machine
//
// The rings are half of what a device can lie about. The other half are registers: capabilities that lead in circles or out of their regions, a
// status that never becomes 0, a configuration that changes while it is read, a queue size of 65535. Here all registers of a machine answer at
// random, near enough to the truth that a driver is found and starts to work.

import { Errno } from '../../02-kvm-objects/errno.ts';
import { Random } from '../../04-memory-virtualization/random.ts';
import { DEVICE_ID, F, STATUS } from '../features.ts';
import { COMMON_CONFIG } from '../transport/common-config.ts';
import { MAGIC, VIRTIO_MMIO } from '../transport/mmio.ts';
import { type DriverBus, MemoryArena, type RegisterSpace } from './bus.ts';
import { type Balloon, balloonDriver } from './drivers/balloon.ts';
import { type BlockDisk, blockDriver } from './drivers/block.ts';
import { type Console, consoleDriver } from './drivers/console.ts';
import { type EntropySource, entropyDriver } from './drivers/entropy.ts';
import type { HostileReport } from './fuzz-device.ts';
import { probeMmio } from './transports/mmio.ts';
import { findPciDevices } from './transports/pci.ts';
import type { DeviceHandle } from './virtio-device.ts';
import { VirtioBus } from './virtio-driver.ts';

const BASE = 0x40_0000;
const ARENA_BYTES = 1 << 20;
const MMIO_AT = 0xfeb0_0000;
const BAR_AT = 0xe000_0000;
const PORTS_AT = 0xc000;
/** How often a driver looks before it gives up; few, as most of its hopes are vain. */
const PATIENCE = 6;

const TYPES = [DEVICE_ID.ENTROPY, DEVICE_ID.BLOCK, DEVICE_ID.CONSOLE, DEVICE_ID.BALLOON] as const;
const TRANSITIONAL = new Map<number, number>([
  [DEVICE_ID.BLOCK, 0x1001],
  [DEVICE_ID.BALLOON, 0x1002],
  [DEVICE_ID.CONSOLE, 0x1003],
  [DEVICE_ID.ENTROPY, 0x1005],
]);

const { rows: M } = VIRTIO_MMIO;
const { rows: C } = COMMON_CONFIG;

/** Machines whose registers lie, one after the other, and the drivers of this chapter on them. */
export class HostileMachine {
  readonly #random: Random;
  readonly #memory = new Uint8Array(ARENA_BYTES);
  readonly #complaints: string[] = [];
  readonly #did: Record<string, number> = {};
  #steps = 0;
  #type: (typeof TYPES)[number] = DEVICE_ID.ENTROPY;
  #config = new Uint8Array(256);
  #configAddress = 0;
  #status = 0;
  #selected = new Map<string, number>();
  #lies = 0; // how likely

  constructor(seed: number) {
    this.#random = new Random(seed);
  }

  get report(): HostileReport {
    return { steps: this.#steps, complaints: this.#complaints, did: this.#did };
  }

  #count(what: string): void {
    this.#did[what] = (this.#did[what] ?? 0) + 1;
  }

  /** So many machines. */
  run(machines: number): void {
    for (let n = 0; n < machines; n++, this.#steps++) {
      try {
        this.#machine();
      } catch (error) {
        if (this.#complaints.length < 10)
          this.#complaints.push(`machine ${this.#steps}: ${error instanceof Error ? (error.stack ?? error.message) : error}`);
      }
    }
  }

  #machine(): void {
    const random = this.#random;
    this.#type = random.pick(TYPES);
    this.#lies = random.pick([0.001, 0.01, 0.1, 0.5]);
    this.#status = 0;
    this.#selected = new Map();
    this.#describe();
    const arena = new MemoryArena(this.#memory, BASE);
    const bus: DriverBus = {
      ports: this.#space('port'),
      memory: this.#space('memory'),
      dma: arena,
      messages: null,
      patience: PATIENCE,
      relax: () => this.#disturb(),
    };
    const virtio = new VirtioBus({ want: random.chance(0.5) ? ~0n : BigInt(random.next()) });
    const front: { source?: EntropySource; disk?: BlockDisk; console?: Console; balloon?: Balloon } = {};
    virtio.registerVirtioDriver(
      entropyDriver((each) => {
        front.source = each;
      }),
    );
    virtio.registerVirtioDriver(
      blockDriver((each) => {
        front.disk = each;
      }),
    );
    virtio.registerVirtioDriver(
      consoleDriver((each) => {
        front.console = each;
      }),
    );
    virtio.registerVirtioDriver(
      balloonDriver(
        (each) => {
          front.balloon = each;
        },
        { poison: 5, statistics: () => ({ MEMFREE: 1 }) },
      ),
    );
    const transports = [
      ...findPciDevices(bus, { legacy: random.chance(0.3), space: { port: PORTS_AT, memory: BAR_AT } }).map(({ transport }) => transport),
      probeMmio(bus, MMIO_AT),
    ];
    for (const transport of transports) {
      if (transport === null || typeof transport === 'string') continue;
      this.#count(transport.name.startsWith('pci') ? 'pci' : 'mmio');
      this.#status = 0;
      const handle = virtio.registerVirtioDevice(transport);
      this.#count('probed');
      if (handle.failure === null) this.#use(handle, front);
      else this.#count('failed');
      virtio.unregisterVirtioDevice(handle);
    }
  }

  #use(
    handle: DeviceHandle,
    { source, disk, console, balloon }: { source?: EntropySource; disk?: BlockDisk; console?: Console; balloon?: Balloon },
  ): void {
    this.#count('running');
    const sector = new Uint8Array(512);
    for (let n = 0; n < 4; n++) {
      this.#disturb();
      handle.interrupt();
      if (handle.failure !== null) break;
      // A driver may be asked for what the device cannot, and says so to whoever asked; that is no fault of its own.
      try {
        source?.read(sector);
        disk?.read(0, sector);
        disk?.write(0, sector);
        disk?.flush();
        void disk?.id;
        console?.poll();
        for (const port of console?.ports.values() ?? []) {
          port.write(sector);
          port.read();
        }
        balloon?.work();
        balloon?.report(1 << 16);
      } catch (error) {
        if (!(error instanceof Errno)) throw error;
        this.#count(error.code);
      }
    }
  }

  /** The device writes where it likes, in all memory that it was ever told of. */
  #disturb(): void {
    const random = this.#random;
    for (let n = random.below(6); n > 0; n--) {
      const at = random.below(0x4000) * 2;
      const word = random.pick([0x8080, 0, 1, random.below(16), random.below(0x1_0000)]);
      this.#memory[at] = word;
      this.#memory[at + 1] = word >> 8;
    }
  }

  // ## What the registers say

  #lie(truth: number): number {
    if (!this.#random.chance(this.#lies)) return truth;
    return this.#random.pick([0, 1, 0xffff_ffff, truth ^ (1 << this.#random.below(32)), this.#random.next()]) >>> 0;
  }

  /** Configuration space of one function: a device with a list of capabilities, more or less. */
  #describe(): void {
    const random = this.#random;
    const view = new DataView(this.#config.buffer);
    this.#config.fill(0);
    const old = TRANSITIONAL.get(this.#type) ?? 0;
    view.setUint32(0, 0x1af4 | ((random.chance(0.5) ? old : 0x1040 + this.#type) << 16), true);
    view.setUint16(6, 0x10, true);
    this.#config[0x34] = 0x40;
    view.setUint32(0x10, PORTS_AT | 1, true);
    view.setUint32(0x20, BAR_AT | 4, true);
    const places = [
      [1, 0, 64],
      [2, 0x3000, 0x100],
      [3, 0x1000, 1],
      [4, 0x2000, 0x100],
    ] as const;
    let at = 0x40;
    for (const [type, offset, length] of places) {
      const next = at + 20;
      this.#config.set(
        [9, random.chance(0.97) ? next : random.below(256), 20, this.#lie(type) & 0xff, random.chance(0.97) ? 4 : random.below(9)],
        at,
      );
      view.setUint32(at + 8, this.#lie(offset), true);
      view.setUint32(at + 12, this.#lie(length), true);
      view.setUint32(at + 16, this.#lie(4), true);
      at = next;
    }
    this.#config.set([0x11, random.chance(0.9) ? 0 : random.below(256)], at);
    view.setUint16(at + 2, random.below(0x800), true);
    view.setUint32(at + 4, random.pick([1, 4, 5, random.next()]), true);
  }

  #space(kind: 'port' | 'memory'): RegisterSpace {
    return {
      read: (address, width) => {
        const value = kind === 'port' ? this.#readPort(address) : this.#readMemory(address);
        return (this.#lie(value) & (width === 4 ? 0xffff_ffff : 2 ** (8 * width) - 1)) >>> 0;
      },
      write: (address, _width, value) => {
        if (kind === 'port') this.#writePort(address, value);
        else this.#writeMemory(address, value);
      },
    };
  }

  #readPort(address: number): number {
    if (address >= 0xcfc && address < 0xd00) {
      const { device, register } = this.#selectedRegister(address);
      return device === 0 ? new DataView(this.#config.buffer).getUint32(Math.min(register, 252), true) : 0xffff_ffff;
    }
    const offset = address - PORTS_AT;
    return offset === 0
      ? 0xffff_ffff
      : offset === 12
        ? 64
        : offset === 18
          ? this.#status
          : offset === 8
            ? (this.#selected.get('page') ?? 0)
            : this.#random.below(4);
  }

  #writePort(address: number, value: number): void {
    if (address === 0xcf8) this.#configAddress = value;
    else if (address >= 0xcfc && address < 0xd00) {
      const { device, register } = this.#selectedRegister(address);
      const bars = register >= 0x10 && register < 0x28;
      // Sizes: 64 ports, and 16 KiB of memory.
      const kept = register === 0x10 ? (value & ~63) | 1 : register === 0x20 ? (value & ~0x3fff) | 4 : register === 0x24 ? value : 0;
      if (device === 0 && bars) new DataView(this.#config.buffer).setUint32(register & ~3, kept, true);
    } else if (address === PORTS_AT + 18) this.#status = value;
    else if (address === PORTS_AT + 8) this.#selected.set('page', value);
  }

  #selectedRegister(address: number): { readonly device: number; readonly register: number } {
    return { device: (this.#configAddress >>> 8) & 0xffff, register: (this.#configAddress & 0xfc) + (address & 3) };
  }

  #readMemory(address: number): number {
    const features = [0xffff_ffff, (1 << (F.VERSION_1 - 32)) | this.#random.below(0x1000)];
    const status = this.#status & ~(this.#random.chance(this.#lies) ? STATUS.FEATURES_OK : 0);
    const window = (name: string): number => features[this.#selected.get(name) ?? 0] ?? 0;
    if (address >= MMIO_AT) {
      // biome-ignore format: table
      const known = new Map<number, number>([
        [M.MagicValue.offset, MAGIC], [M.Version.offset, this.#random.chance(0.8) ? 2 : 1], [M.DeviceID.offset, this.#type], [M.DeviceFeatures.offset, window('mmio')],
        [M.QueueSizeMax.offset, 64], [M.Status.offset, status], [M.QueueReady.offset, this.#selected.get('ready') ?? 0],
        [M.QueuePFN.offset, this.#selected.get('page') ?? 0], [M.InterruptStatus.offset, this.#random.below(8)], [M.QueueReset.offset, 0],
        [M.ConfigGeneration.offset, 7],
      ]);
      return known.get(address - MMIO_AT) ?? this.#random.below(300);
    }
    // biome-ignore format: table
    const known = new Map<number, number>([
      [C.device_feature.offset, window('pci')], [C.num_queues.offset, 5], [C.device_status.offset, status], [C.queue_size.offset, 64],
      [C.queue_enable.offset, this.#selected.get('ready') ?? 0], [C.queue_notify_off.offset, 1], [C.config_generation.offset, 7], [C.queue_reset.offset, 0],
    ]);
    return known.get(address - BAR_AT) ?? this.#random.below(300);
  }

  #writeMemory(address: number, value: number): void {
    const mmio = address >= MMIO_AT;
    const offset = address - (mmio ? MMIO_AT : BAR_AT);
    if (offset === (mmio ? M.Status.offset : C.device_status.offset)) this.#status = value;
    if (offset === (mmio ? M.DeviceFeaturesSel.offset : C.device_feature_select.offset)) this.#selected.set(mmio ? 'mmio' : 'pci', value);
    if (offset === (mmio ? M.QueueSel.offset : C.queue_select.offset)) this.#selected.set('ready', 0).set('page', 0);
    if (offset === (mmio ? M.QueueReady.offset : C.queue_enable.offset)) this.#selected.set('ready', value);
    if (mmio && offset === M.QueuePFN.offset) this.#selected.set('page', value);
  }
}
