// # Two buses
//
// A PC has two address spaces in which a device can sit: 65,536 *ports*, reached by IN and OUT, and physical memory itself, where an address
// that is not RAM may be a register. KVM delivers both kinds of access as exits that carry an address, a width and some bytes. A bus is then only
// a lookup: who claims this address?
//
// Nobody may. On a real bus an unanswered read floats high and returns ones, and an unanswered write is lost. Guests probe for hardware by
// relying on that, so it is not an error here either.

/** Width of one access in bytes; ports know 1, 2 and 4. */
export type Width = 1 | 2 | 4 | 8;

/** A device's registers, addressed from its own start. Values are unsigned and fit the width. */
export interface Registers {
  /** As it appears in the trace. */
  readonly name: string;
  read(offset: number, width: Width): bigint;
  write(offset: number, width: Width, value: bigint): void;
}

interface Window {
  readonly start: number;
  readonly bytes: number;
  readonly device: Registers;
}

const ALL_ONES: Readonly<Record<Width, bigint>> = { 1: 0xffn, 2: 0xffffn, 4: 0xffff_ffffn, 8: 0xffff_ffff_ffff_ffffn };

/** One address space of devices. */
export class Bus {
  readonly name: string;
  readonly #windows: Window[] = [];

  constructor(name: string) {
    this.name = name;
  }

  /** @throws RangeError when another device already answers in the window. */
  attach(start: number, bytes: number, device: Registers): void {
    const other = this.#windows.find((window) => start < window.start + window.bytes && window.start < start + bytes);
    if (other) throw new RangeError(`${device.name} at 0x${start.toString(16)} on ${this.name} overlaps ${other.device.name}`);
    this.#windows.push({ start, bytes, device });
  }

  // An access that starts in a window but reaches past its end is not the device's: a real decoder sees the start address and the width, and
  // what lies beyond belongs to someone else.
  #find(address: number, width: Width): Window | undefined {
    return this.#windows.find(({ start, bytes }) => address >= start && address + width <= start + bytes);
  }

  read(address: number, width: Width): bigint {
    const window = this.#find(address, width);
    return window ? window.device.read(address - window.start, width) & ALL_ONES[width] : ALL_ONES[width];
  }

  write(address: number, width: Width, value: bigint): void {
    const window = this.#find(address, width);
    window?.device.write(address - window.start, width, value & ALL_ONES[width]);
  }
}

/** Reads a little-endian value of `width` bytes. */
export function loadValue(bytes: Uint8Array, at: number, width: Width): bigint {
  let value = 0n;
  for (let index = width - 1; index >= 0; index--) value = (value << 8n) | BigInt(bytes[at + index] as number);
  return value;
}

/** Writes a little-endian value of `width` bytes. */
export function storeValue(bytes: Uint8Array, at: number, width: Width, value: bigint): void {
  for (let index = 0; index < width; index++) bytes[at + index] = Number((value >> BigInt(8 * index)) & 0xffn);
}
