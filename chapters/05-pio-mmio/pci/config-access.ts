// # Two doors to configuration
//
// Configuration space has addresses of its own (bus, device, function, register), and an x86 processor has no instruction for them. The first door
// is a pair of ports: write the address to one, then use the other as if it were the register. It takes two instructions, so two processors that
// interleave them read each other's registers, and it has a byte for the number of the register where extended ones need more. The second door is a window in physical
// memory in which all of it lies side by side, a page to a function. Its place is itself a register, reached through the first door.
//
// ::layout CONFIG_PORTS -- The two ports, with the reset control register in their midst.

import type { Bus, Region, Registers, Width } from '../../03-vcpu-loop/devices/bus.ts';
import { describe, field, kind } from '../../03-vcpu-loop/devices/state.ts';
import { registerTable } from '../registers.ts';
import type { ConfigWidth } from './config-space.ts';
import type { PciFunction } from './function.ts';
import { type PciBus, PRIORITY } from './pci-bus.ts';

/** First of the ports of configuration mechanism 1. */
export const CONFIG_PORT = 0xcf8;

/** The two ports, and the reset control register in their midst. */
// biome-ignore format: table
export const CONFIG_PORTS = registerTable('pci-config', 'PCI Local Bus Specification 3.0, Configuration Mechanism #1; Intel ICH9, RST_CNT', {
  CONFIG_ADDRESS: { offset: 0, bytes: 4, access: 'rw', text: 'bit 31: on; then bus, device, function, register; dwords only' },
  RST_CNT:        { offset: 1, bytes: 1, access: 'rw', text: 'bit 1: how hard; bit 2: reset now; a byte access finds this register' },
  CONFIG_DATA:    { offset: 4, bytes: 4, access: 'rw', text: 'four bytes of the register that the address names' },
});

/** Size of the port range. */
export const CONFIG_PORT_COUNT = 8;

const ENABLED = 0x8000_0000;
const ADDRESS_BITS = 0x80ff_fffc; // the others read as zero

/** Reset control: the CPU-reset bit starts one, the system-reset bit says that it is of everything, the last that power goes off and on. */
const RESET_CONTROL = { SYSTEM: 1 << 1, NOW: 1 << 2, POWER_CYCLE: 1 << 3 } as const;

/** `init`: the processors alone, with memory and devices as they are. `hard`: everything. */
export type ResetKind = 'init' | 'hard';

/** What configuration space is for software: everything that is behind the host bridge. */
export class ConfigRoot {
  readonly bus: PciBus;

  constructor(bus: PciBus) {
    this.bus = bus;
  }

  find(bus: number, devfn: number): PciFunction | null {
    return this.bus.find(0, bus, devfn);
  }

  // A register beyond what a function has is like a function beyond what a bus has. Nobody answers.
  // @clause pci.absent

  read(bus: number, devfn: number, offset: number, width: ConfigWidth): number {
    const fn = this.find(bus, devfn);
    return fn ? fn.config.read(offset, width) : 0xffff_ffff;
  }

  write(bus: number, devfn: number, offset: number, width: ConfigWidth, value: number): void {
    this.find(bus, devfn)?.config.write(offset, width, value);
  }
}

/** Configuration mechanism 1, with the reset control register that shares its ports. */
export class ConfigPorts implements Registers {
  readonly name = CONFIG_PORTS.device;
  readonly #root: ConfigRoot;
  readonly #onReset: (kind: ResetKind) => void;
  #address = 0;
  #resetControl = 0;

  constructor(root: ConfigRoot, onReset: (kind: ResetKind) => void = () => {}) {
    this.#root = root;
    this.#onReset = onReset;
  }

  // Only a dword at the address port is the address: the specification says so in order that other devices can have byte registers there, and the
  // reset control register is one.
  // @clause pci.config-address

  read(offset: number, width: Width): bigint {
    if (offset >= 4) return BigInt(this.#access(offset - 4, width, null));
    if (offset === 0 && width === 4) return BigInt(this.#address);
    if (offset === 1 && width === 1) return BigInt(this.#resetControl);
    return 0xffff_ffff_ffff_ffffn;
  }

  write(offset: number, width: Width, value: bigint): void {
    if (offset >= 4) this.#access(offset - 4, width, Number(value));
    // @clause pci.config.address-reserved-bits
    else if (offset === 0 && width === 4) this.#address = (Number(value) & ADDRESS_BITS) >>> 0;
    else if (offset === 1 && width === 1) this.#writeResetControl(Number(value));
  }

  #access(byte: number, width: Width, value: number | null): number {
    // @clause pci.config-address
    if (!(this.#address & ENABLED) || width === 8) return 0xffff_ffff;
    const bus = (this.#address >>> 16) & 0xff;
    const devfn = (this.#address >>> 8) & 0xff;
    // @clause pci.access-width
    const offset = (this.#address & 0xfc) + byte;
    if (value === null) return this.#root.read(bus, devfn, offset, width);
    this.#root.write(bus, devfn, offset, width, value);
    return 0;
  }

  // The bit that starts a reset has to *rise*. Software therefore writes twice: first which reset, then go.
  // @clause pc.reset.control-rising

  #writeResetControl(value: number): void {
    const rises = (value & ~this.#resetControl & RESET_CONTROL.NOW) !== 0;
    this.#resetControl = value & (RESET_CONTROL.SYSTEM | RESET_CONTROL.NOW | RESET_CONTROL.POWER_CYCLE);
    if (!rises) return;
    const kind = value & RESET_CONTROL.SYSTEM ? 'hard' : 'init';
    if (kind === 'init') this.#resetControl &= ~RESET_CONTROL.NOW; // the processors are reset, the chipset is not, and the next one must rise again
    this.#onReset(kind);
  }

  reset(): void {
    this.#address = 0;
    this.#resetControl = 0;
  }

  static readonly STATE = describe<ConfigPorts>('configuration ports', 1, {
    registers: field(
      kind.record({ address: kind.u32, resetControl: kind.u8 }),
      (c) => ({ address: c.#address, resetControl: c.#resetControl }),
      (c, v) => {
        ({ address: c.#address, resetControl: c.#resetControl } = v);
      },
    ),
  });
}

/** The memory window: the enhanced configuration access mechanism of PCI Express. */
export class Ecam implements Registers {
  readonly name = 'pci-ecam';
  // A chipset may leave out accesses wider than a dword, and what crosses a dword belongs to two registers.
  readonly impl = { min: 1, max: 4 } as const;
  readonly #root: ConfigRoot;
  readonly #region: Region;

  constructor(root: ConfigRoot, memory: Bus) {
    this.#root = root;
    this.#region = memory.region(this, { priority: PRIORITY.CHIPSET });
  }

  /** Where it is; null while it is nowhere. */
  get base(): number | null {
    return this.#region.start;
  }
  get bytes(): number {
    return this.#region.bytes;
  }

  place(base: number | null, bytes: number): void {
    this.#region.place(base, bytes);
  }

  // @clause pci.ecam
  read(offset: number, width: Width): bigint {
    return BigInt(this.#root.read(offset >>> 20, (offset >>> 12) & 0xff, offset & 0xfff, width as ConfigWidth));
  }
  write(offset: number, width: Width, value: bigint): void {
    this.#root.write(offset >>> 20, (offset >>> 12) & 0xff, offset & 0xfff, width as ConfigWidth, Number(value));
  }
}
