// # Addresses that the guest gives
//
// A card does not know where it will be. It says how much room it wants, and software tells it where: that is a *base address register*. How much is
// said by which bits of the register can be written. The register of a region of 2^n bytes keeps its low n bits at zero, so after a write of all
// ones it reads as minus the size. While software does this the region's address is nonsense, and the command register's decode bits are there to
// be switched off meanwhile; but not everybody does that.

import { assert } from '../../01-hardware-background/physical-memory.ts';
import { Bus, PORT_COUNT, type Region, type Registers } from '../../03-vcpu-loop/devices/bus.ts';
import type { ConfigSpace } from './config-space.ts';
import { barOffset } from './header.ts';
import { PRIORITY } from './pci-bus.ts';

/** One region of a function. */
export interface BarSpec {
  /** Which register; a 64-bit one takes the next as well. */
  readonly index: number;
  readonly kind: 'io' | 'mem32' | 'mem64';
  /** A power of two: at least 4 of ports, 16 of memory. */
  readonly bytes: number;
  readonly prefetchable?: boolean;
  /** Who answers in it. */
  readonly registers: Registers;
}

const isPowerOfTwo = (value: number): boolean => value > 0 && Number.isInteger(Math.log2(value));

const FOUR_GIB = 2 ** 32;

/** A base address register and the region that it moves. */
export class Bar {
  readonly spec: BarSpec;
  /** The addresses within the region, on which capabilities can lay tables over the device's own registers. */
  readonly inside: Bus;
  readonly #config: ConfigSpace;
  readonly #offset: number;
  #region: Region | null = null;

  constructor(config: ConfigSpace, spec: BarSpec) {
    const { index, kind, bytes, prefetchable = false, registers } = spec;
    assert(isPowerOfTwo(bytes) && bytes >= (kind === 'io' ? 4 : 16), `BAR ${index} of ${bytes} bytes`);
    assert(index >= 0 && index + (kind === 'mem64' ? 1 : 0) <= 5, `no BAR ${index}`);
    assert(bytes <= (kind === 'io' ? PORT_COUNT / 2 : kind === 'mem32' ? FOUR_GIB / 2 : 2 ** 48), `BAR ${index} of ${bytes} bytes`);
    this.spec = spec;
    this.#config = config;
    this.#offset = barOffset(index);
    this.inside = new Bus(registers.name, bytes);
    this.inside.region(registers, { priority: -1 }).place(0, bytes);
    // @clause pci.bar-sizing
    if (kind === 'io') {
      config.preset(this.#offset, 4, 1);
      config.allow(this.#offset, 4, -bytes & ~3);
      return;
    }
    config.preset(this.#offset, 4, (kind === 'mem64' ? 4 : 0) | (prefetchable ? 8 : 0));
    config.allow(this.#offset, 4, bytes >= FOUR_GIB ? 0 : -bytes & ~15);
    if (kind === 'mem64') config.allow(this.#offset + 4, 4, bytes > FOUR_GIB ? -(bytes / FOUR_GIB) : 0xffff_ffff);
  }

  /** The function has been put on a bus. */
  plugIn(io: Bus, memory: Bus): void {
    const { registers, kind } = this.spec;
    const { inside } = this;
    const registersInside: Registers = {
      name: registers.name,
      read: (offset, width) => inside.read(offset, width),
      write: (offset, width, value) => inside.write(offset, width, value),
    };
    this.#region = (kind === 'io' ? io : memory).region(registersInside, { priority: PRIORITY.BAR });
  }

  // Two values of the register are no address. Zero is what it has before anyone gave it one, and all ones is what it has in the middle of sizing;
  // with decoding left on, the second would put the region over whatever is at the top of the address space, which on a PC is the firmware.
  // @clause pci.bar.unplaced-values

  /** Where the register says that the region is; null for nowhere. */
  get address(): number | null {
    const { kind, bytes } = this.spec;
    const low = this.#config.load(this.#offset, 4);
    const high = kind === 'mem64' ? this.#config.load(this.#offset + 4, 4) : 0;
    const address = high * FOUR_GIB + (kind === 'io' ? low - (low & 3) : low - (low & 15));
    const end = address + bytes;
    if (address === 0 || end === FOUR_GIB) return null;
    return kind === 'io' && end > PORT_COUNT ? null : address;
  }

  /** Where the region answers now. */
  get placed(): number | null {
    return this.#region?.start ?? null;
  }

  /** Moves the region to where the register says, or takes it off the bus. */
  decode(on: boolean): void {
    this.#region?.place(on ? this.address : null, this.spec.bytes);
  }
}

/** Firmware on the card. */
export interface RomSpec {
  /** A power of two, at least 2 KiB. */
  readonly bytes: number;
  readonly image: Uint8Array;
}

/** The expansion ROM's base address register: a BAR with a switch of its own. */
export class RomBar {
  readonly spec: RomSpec;
  readonly #config: ConfigSpace;
  readonly #offset: number;
  #region: Region | null = null;

  constructor(config: ConfigSpace, offset: number, spec: RomSpec) {
    assert(isPowerOfTwo(spec.bytes) && spec.bytes >= 2048 && spec.bytes <= 2 ** 24, `ROM of ${spec.bytes} bytes`);
    this.spec = spec;
    this.#config = config;
    this.#offset = offset;
    config.allow(offset, 4, (-spec.bytes & ~0x7ff) | 1);
  }

  plugIn(memory: Bus, name: string): void {
    const { image } = this.spec;
    const rom: Registers = {
      name: `${name} rom`,
      impl: { min: 1, max: 1 },
      read: (offset) => BigInt(image[offset] ?? 0xff),
      write: () => {},
    };
    this.#region = memory.region(rom, { priority: PRIORITY.BAR });
  }

  get placed(): number | null {
    return this.#region?.start ?? null;
  }

  /** The ROM answers when memory decoding is on *and* its own bit is. */
  decode(on: boolean): void {
    const value = this.#config.load(this.#offset, 4);
    const address = value - (value & 0x7ff);
    const usable = on && (value & 1) !== 0 && address !== 0 && address + this.spec.bytes !== FOUR_GIB;
    this.#region?.place(usable ? address : null, this.spec.bytes);
  }
}
