// # A function on the bus
//
// Before a virtio driver sees a virtio device, it is one PCI function among others: it has to be found, to be given addresses, and to be asked where
// its structures are. On a PC firmware does the second; on a machine that has none the driver's side does it here.

import { ERRNO, Errno } from '../../../02-kvm-objects/errno.ts';
import { CONFIG_PORT } from '../../../05-pio-mmio/pci/config-access.ts';
import { barOffset, COMMAND, HEADER_0, STATUS } from '../../../05-pio-mmio/pci/header.ts';
import { CAP_VENDOR } from '../../transport/capabilities.ts';
import { type DriverBus, type RegisterSpace, type RegisterWidth, roundUp } from '../bus.ts';

const { rows: H } = HEADER_0;
const BARS = 6;
/** A list of capabilities in 256 bytes cannot be longer: one that is longer goes in a circle. */
const MAX_CAPABILITIES = (256 - 64) / 4;

/** A stretch of registers, from its own start. */
export interface Window {
  readonly space: RegisterSpace;
  readonly base: number;
  readonly bytes: number;
}

/** Where functions without addresses are put: the next free ones, which move on. */
export interface PciSpace {
  port: number;
  memory: number;
}

/** A capability: where it is, and what kind. */
export interface Capability {
  readonly id: number;
  readonly at: number;
}

/** Configuration space of one function on bus 0, through the ports. */
export class PciFunctionAccess {
  readonly bus: DriverBus;
  readonly device: number;
  readonly fn: number;
  readonly #ports: RegisterSpace;

  /** @throws Errno ENODEV on a machine without ports */
  constructor(bus: DriverBus, device: number, fn: number) {
    if (!bus.ports) throw new Errno('pci', ERRNO.ENODEV, 'there are no ports');
    this.bus = bus;
    this.device = device;
    this.fn = fn;
    this.#ports = bus.ports;
  }

  get name(): string {
    return `pci ${this.device.toString(16).padStart(2, '0')}.${this.fn}`;
  }

  #select(register: number): number {
    this.#ports.write(CONFIG_PORT, 4, (0x8000_0000 | (this.device << 11) | (this.fn << 8) | (register & 0xfc)) >>> 0);
    return CONFIG_PORT + 4 + (register & 3);
  }
  read(register: number, width: RegisterWidth): number {
    return this.#ports.read(this.#select(register), width);
  }
  write(register: number, width: RegisterWidth, value: number): void {
    this.#ports.write(this.#select(register), width, value);
  }

  get vendorId(): number {
    return this.read(H.VENDOR_ID.offset, 2);
  }
  get deviceId(): number {
    return this.read(H.DEVICE_ID.offset, 2);
  }

  /** Lets it answer, and access memory by itself. */
  enable(): void {
    this.write(H.COMMAND.offset, 2, this.read(H.COMMAND.offset, 2) | COMMAND.IO | COMMAND.MEMORY | COMMAND.MASTER);
  }

  // ## Regions

  /** Region `index` as registers; null where there is none, or it has no address. The function is not decoding while its size is asked. */
  bar(index: number): Window | null {
    if (!(index >= 0 && index < BARS)) return null;
    const command = this.read(H.COMMAND.offset, 2);
    this.write(H.COMMAND.offset, 2, command & ~(COMMAND.IO | COMMAND.MEMORY));
    const { isPort, is64, bytes } = this.#size(index);
    const low = this.read(barOffset(index), 4);
    const high = is64 ? this.read(barOffset(index + 1), 4) : 0;
    this.write(H.COMMAND.offset, 2, command);
    const base = isPort ? low - (low & 3) : low - (low & 0xf) + high * 2 ** 32;
    const space = isPort ? this.bus.ports : this.bus.memory;
    return bytes === 0 || base === 0 || !space ? null : { space, base, bytes };
  }

  #size(index: number): { readonly isPort: boolean; readonly is64: boolean; readonly bytes: number } {
    const register = barOffset(index);
    const before = this.read(register, 4);
    const isPort = (before & 1) !== 0;
    const is64 = !isPort && (before & 6) === 4 && index + 1 < BARS;
    const ones = (at: number): number => {
      const kept = this.read(at, 4);
      this.write(at, 4, 0xffff_ffff);
      const stuck = this.read(at, 4);
      this.write(at, 4, kept);
      return stuck;
    };
    const low = ones(register);
    const mask = low - (low & (isPort ? 3 : 0xf));
    if (isPort) return { isPort, is64, bytes: mask === 0 ? 0 : 2 ** 16 - (mask & 0xffff) };
    const high = is64 ? ones(register + 4) : 0xffff_ffff;
    if (mask === 0 && (high === 0 || !is64)) return { isPort, is64, bytes: 0 };
    return { isPort, is64, bytes: mask === 0 ? (2 ** 32 - high) * 2 ** 32 : 2 ** 32 - mask };
  }

  /** Gives every region that has no address one. */
  place(space: PciSpace): void {
    for (let index = 0; index < BARS; index++) {
      const register = barOffset(index);
      const { isPort, is64, bytes } = this.#size(index);
      const low = this.read(register, 4);
      if (bytes > 0 && low - (low & (isPort ? 3 : 0xf)) === 0 && !(is64 && this.read(register + 4, 4) !== 0)) {
        const kind = isPort ? 'port' : 'memory';
        const at = roundUp(space[kind], bytes);
        space[kind] = at + bytes;
        this.write(register, 4, at % 2 ** 32);
        if (is64) this.write(register + 4, 4, Math.floor(at / 2 ** 32));
      }
      if (is64) index++;
    }
  }

  // ## Capabilities

  /** The list, in its order, as far as it makes sense: it ends where it leaves the space behind the header, and before it would repeat itself. */
  capabilities(): readonly Capability[] {
    const found: Capability[] = [];
    if ((this.read(H.STATUS.offset, 2) & STATUS.CAPABILITIES) === 0) return found;
    let at = this.read(H.CAPABILITIES.offset, 1) & 0xfc;
    while (at >= 0x40 && found.length < MAX_CAPABILITIES) {
      if (found.some((each) => each.at === at)) break;
      found.push({ id: this.read(at, 1), at });
      at = this.read(at + 1, 1) & 0xfc;
    }
    return found;
  }

  get vendorCapabilities(): readonly Capability[] {
    return this.capabilities().filter(({ id }) => id === CAP_VENDOR);
  }
}

const DEVICES = 32;
const FUNCTIONS = 8;

/** Every function on bus 0. */
export function pciFunctions(bus: DriverBus): readonly PciFunctionAccess[] {
  const found: PciFunctionAccess[] = [];
  for (let device = 0; device < DEVICES; device++) {
    for (let fn = 0; fn < FUNCTIONS; fn++) {
      const access = new PciFunctionAccess(bus, device, fn);
      const there = access.vendorId !== 0xffff;
      if (there) found.push(access);
      if (fn === 0 && (!there || (access.read(H.HEADER_TYPE.offset, 1) & 0x80) === 0)) break;
    }
  }
  return found;
}
