// # One bus below another
//
// A PCI-to-PCI bridge is a function with two sides. Towards the processor it has the header of a bridge; on its other side there is a bus. Downwards
// it lets through what falls into one of three windows that software sets: ports, memory, and memory that may be prefetched. Upwards it lets
// through what the devices below want of memory, if it may be a bus master itself. Interrupt pins go up turned by the number of the device, so
// that the first pins of four devices, which is what nearly every device uses, do not all meet on one line.

import { Bus, type Region, type Registers, type Width } from '../../03-vcpu-loop/devices/bus.ts';
import { PciFunction, type PciFunctionOptions } from './function.ts';
import { COMMAND, HEADER_1 } from './header.ts';
import { type Downstream, PciBus, PINS, PRIORITY } from './pci-bus.ts';

/** Class code of a PCI-to-PCI bridge. */
export const BRIDGE_CLASS = 0x060400;

const SECONDARY_RESET = 1 << 6; // of the bridge control register

const { rows: H } = HEADER_1;

// A window of the bridge lies on the bus above as any region does, and hands each access on with the same address. The bus below is a `Bus` of its own, which
// nobody above has a reference to but the windows; so nothing reaches it except through one.

/** The registers by which the bus above sees the bus below. */
class BridgeWindow implements Registers {
  readonly name: string;
  readonly #below: Bus;
  readonly #region: Region;

  constructor(name: string, above: Bus, below: Bus) {
    this.name = name;
    this.#below = below;
    this.#region = above.region(this, { priority: PRIORITY.BAR });
  }

  // @clause pci.bridge.window-limits
  place(base: number, end: number): void {
    this.#region.place(end > base ? base : null, Math.max(end - base, 1));
  }

  read(offset: number, width: Width): bigint {
    return this.#below.read((this.#region.start as number) + offset, width);
  }
  write(offset: number, width: Width, value: bigint): void {
    this.#below.write((this.#region.start as number) + offset, width, value);
  }
}

export class PciBridge extends PciFunction implements Downstream {
  /** The bus on the far side. */
  readonly secondary: PciBus;
  #windows: { readonly io: BridgeWindow; readonly memory: BridgeWindow; readonly prefetch: BridgeWindow } | null = null;

  constructor(options: PciFunctionOptions) {
    super(options, 1);
    const { name } = this;
    this.secondary = new PciBus(`${name} secondary`, {
      io: new Bus(`${name} ports`),
      memory: new Bus(`${name} memory`),
      upstream: {
        dma: this.dma,
        msi: { send: (address, data) => this.isMaster && this.bus?.upstream.msi.send(address, data) },
        // @clause pci.bridge.swizzle
        intx: (device, pin, level) => this.bus?.intx(this.device, (pin + device) % PINS, level),
      },
    });
    this.config.on(H.IO_BASE.offset, H.IO_LIMIT_UPPER.offset + 2 - H.IO_BASE.offset, () => this.decode());
    this.config.on(H.BRIDGE_CONTROL.offset, 2, () => {
      // @clause pci.bridge.secondary-reset
      if (this.#held) this.secondary.reset();
    });
  }

  override plugIn(bus: PciBus, device: number, number: number): void {
    super.plugIn(bus, device, number);
    const { io, memory } = this.secondary;
    this.#windows = {
      io: new BridgeWindow(`${this.name} i/o window`, bus.io, io),
      memory: new BridgeWindow(`${this.name} memory window`, bus.memory, memory),
      prefetch: new BridgeWindow(`${this.name} prefetchable window`, bus.memory, memory),
    };
    bus.lead(this);
  }

  get #held(): boolean {
    return (this.config.load(H.BRIDGE_CONTROL.offset, 2) & SECONDARY_RESET) !== 0;
  }

  // @clause pci.bridge.bus-numbers
  numbers(): { first: number; last: number } | null {
    if (this.#held) return null;
    const first = this.config.load(H.SECONDARY_BUS.offset, 1);
    return first === 0 ? null : { first, last: this.config.load(H.SUBORDINATE_BUS.offset, 1) };
  }

  protected override decode(): void {
    super.decode();
    const windows = this.#windows;
    if (!windows) return;
    const { command, config } = this;
    const word = (offset: number): number => config.load(offset, 2) & 0xfff0;
    const nowhere = [0, 0] as const;
    const io = [
      (config.load(H.IO_BASE.offset, 1) & 0xf0) << 8, // the registers hold bits 15:12
      ((config.load(H.IO_LIMIT.offset, 1) & 0xf0) << 8) + 0x1000,
    ] as const;
    const memory = [word(H.MEMORY_BASE.offset) * 0x1_0000, (word(H.MEMORY_LIMIT.offset) + 0x10) * 0x1_0000] as const;
    const prefetch = [
      config.load(H.PREFETCH_BASE_UPPER.offset, 4) * 2 ** 32 + word(H.PREFETCH_BASE.offset) * 0x1_0000,
      config.load(H.PREFETCH_LIMIT_UPPER.offset, 4) * 2 ** 32 + (word(H.PREFETCH_LIMIT.offset) + 0x10) * 0x1_0000,
    ] as const;
    windows.io.place(...(command & COMMAND.IO ? io : nowhere));
    windows.memory.place(...(command & COMMAND.MEMORY ? memory : nowhere));
    windows.prefetch.place(...(command & COMMAND.MEMORY ? prefetch : nowhere));
  }

  /** Resets the bridge and what is behind it. */
  override reset(): void {
    super.reset();
    this.secondary.reset();
  }
}
