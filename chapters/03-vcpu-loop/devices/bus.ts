// # Two buses
//
// A PC has two address spaces in which a device can sit: {{PORT_COUNT}} *ports*, reached by IN and OUT, and physical memory itself, where an address
// that is not RAM may be a register. KVM delivers both kinds of access as exits that carry an address, a width and some bytes. A bus is then only
// a lookup: who claims this address?
//
// Nobody may. On a real bus an unanswered read floats high and returns ones, and an unanswered write is lost. Guests probe for hardware by
// relying on that, so it is not an error here either.

import { lowHalf } from '../../01-hardware-background/physical-memory.ts';

/** Width of one access in bytes; ports know 1, 2 and 4. */
export type Width = 1 | 2 | 4 | 8;

/** A range of widths. */
interface Widths {
  readonly min: Width;
  readonly max: Width;
}

/** A device's registers, addressed from its own start. Values are unsigned and fit the width. */
export interface Registers {
  /** As it appears in the trace. */
  readonly name: string;
  /** Widths that the device answers at all. To any other access nobody answers. */
  readonly valid?: Widths;
  /** Widths that the model has code for, aligned. The bus makes those out of whatever the guest does. Absent: every access arrives as it was made. */
  readonly impl?: Widths;
  read(offset: number, width: Width): bigint;
  write(offset: number, width: Width, value: bigint): void;
  /** Fills `into` by as many reads, one after another: a string instruction. Absent: they are made one by one. */
  readString?(offset: number, width: Width, into: Uint8Array): void;
}

/** Number of ports. An access that begins in the last of them and reaches further goes on at the first, as sixteen address lines would have it. */
export const PORT_COUNT = 0x1_0000;

/** Physical addresses are below this. */
const ADDRESS_LIMIT = 2 ** 52;

/** Value of an unanswered read. */
const ALL_ONES: Readonly<Record<Width, bigint>> = { 1: 0xffn, 2: 0xffffn, 4: 0xffff_ffffn, 8: 0xffff_ffff_ffff_ffffn };

// ## Who wins
//
// Devices on a board are wired to their addresses, and two at one address are a mistake of whoever built the board: `attach` refuses it. But a
// PCI device sits where the *guest* puts it, and a guest may put it anywhere: over another, over a timer, half over both. Something has to
// answer, and always the same. The rule has two steps. A higher priority wins; the board's own devices have the highest. Between equals the
// *older region* wins, older meaning created earlier when the machine was built. The order in which a guest moved things does not matter, so that
// the map is a function of what the registers say now, and not of how they came to say it.

/** Priority of what the board wires to an address. */
const FIXED = 0;

/** A device's place on a bus; it may be nowhere. */
export class Region {
  readonly bus: Bus;
  readonly device: Registers;
  readonly priority: number;
  /** Age on its bus: the smaller was created earlier. */
  readonly order: number;
  #start: number | null = null;
  #bytes = 0;

  constructor(bus: Bus, device: Registers, priority: number, order: number) {
    this.bus = bus;
    this.device = device;
    this.priority = priority;
    this.order = order;
  }

  /** First address; null while it is nowhere. */
  get start(): number | null {
    return this.#start;
  }
  get bytes(): number {
    return this.#bytes;
  }

  /** Moves the region; null takes it off the bus. What would reach past the end of the address space is nowhere. */
  place(start: number | null, bytes: number = this.#bytes): void {
    const fits = start !== null && start >= 0 && bytes > 0 && start + bytes <= this.bus.addresses;
    const to = fits ? start : null;
    if (to === this.#start && bytes === this.#bytes) return;
    this.#start = to;
    this.#bytes = bytes;
    this.bus.moved(this);
  }
}

/** A stretch of addresses with one answer. */
interface Stretch {
  readonly from: number;
  to: number; // first address beyond
  readonly start: number; // where the region begins: the part that others cover may lie before `from`
  readonly device: Registers;
}

const outranks = (a: Region, b: Region): boolean => a.priority > b.priority || (a.priority === b.priority && a.order < b.order);

/** One address space of devices. */
export class Bus {
  readonly name: string;
  /** Size of the address space. */
  readonly addresses: number;
  readonly #placed = new Set<Region>();
  #order = 0;
  #map: Stretch[] | null = null;
  #last: Stretch | null = null;

  constructor(name: string, addresses: number = ADDRESS_LIMIT) {
    this.name = name;
    this.addresses = addresses;
  }

  /** Puts a device of the board at its address. @throws RangeError when another of them already answers in the window. */
  attach(start: number, bytes: number, device: Registers): Region {
    for (const other of this.#placed) {
      const from = other.start as number;
      if (other.priority === FIXED && start < from + other.bytes && from < start + bytes)
        throw new RangeError(`${device.name} at 0x${start.toString(16)} on ${this.name} overlaps ${other.device.name}`);
    }
    const region = this.region(device, { priority: FIXED });
    region.place(start, bytes);
    return region;
  }

  /** A region that is nowhere yet. Any priority below zero yields to the board's devices. */
  region(device: Registers, { priority }: { priority: number }): Region {
    return new Region(this, device, priority, this.#order++);
  }

  /** How many regions are somewhere. */
  get placed(): number {
    return this.#placed.size;
  }

  /** Who answers at an address, and at which of its offsets; null: nobody. Nothing is accessed. */
  whoAnswers(address: number): { readonly device: Registers; readonly offset: number } | null {
    const found = this.#find(address);
    return found && address >= found.from ? { device: found.device, offset: address - found.start } : null;
  }

  /** @internal A region tells that it has moved. */
  moved(region: Region): void {
    if (region.start === null) this.#placed.delete(region);
    else this.#placed.add(region);
    this.#map = null;
    this.#last = null;
  }

  // ## The map
  //
  // Overlaps are settled when something moves, not when something is accessed: the regions are turned into a sorted list of stretches, each with
  // one answer. A machine has a few dozen regions, and a guest can move them but not make more, so that a guest that moves one before every
  // access pays for one pass over that list each time, and never more.

  #build(): Stretch[] {
    const edges: { at: number; region: Region; begins: boolean }[] = [];
    for (const region of this.#placed) {
      const start = region.start as number;
      edges.push({ at: start, region, begins: true }, { at: start + region.bytes, region, begins: false });
    }
    edges.sort((a, b) => a.at - b.at);
    const map: Stretch[] = [];
    const open: Region[] = []; // those that reach over the current address, the winner first
    for (let index = 0; index < edges.length; index++) {
      const { at, region, begins } = edges[index] as (typeof edges)[number];
      if (begins) {
        const place = open.findIndex((other) => outranks(region, other));
        open.splice(place < 0 ? open.length : place, 0, region);
      } else {
        open.splice(open.indexOf(region), 1);
      }
      const to = edges[index + 1]?.at;
      const winner = open[0];
      if (!winner || to === undefined || to === at) continue;
      const before = map.at(-1);
      const start = winner.start as number;
      // What begins and ends underneath the winner does not cut it.
      if (before && before.to === at && before.device === winner.device && before.start === start) before.to = to;
      else map.push({ from: at, to, start, device: winner.device });
    }
    return map;
  }

  /** The stretch that holds `address`, or the first one above it. */
  #find(address: number): Stretch | undefined {
    const last = this.#last;
    if (last && address >= last.from && address < last.to) return last;
    this.#map ??= this.#build();
    const map = this.#map;
    let low = 0;
    let high = map.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((map[middle] as Stretch).to <= address) low = middle + 1;
      else high = middle;
    }
    const found = map[low];
    if (found && address >= found.from) this.#last = found;
    return found;
  }

  // ## One access, several answers
  //
  // An access may begin in one device and end in another, or in nothing. A real chipset cuts it into bus cycles and each cycle finds its own
  // target; here it is cut where the answer changes, and put together again. A device therefore never sees an offset outside its own region.

  read(address: number, width: Width): bigint {
    const found = this.#find(address);
    if (found && address >= found.from && address + width <= found.to) return readDevice(found.device, address - found.start, width);
    let value = 0n;
    for (let at = 0; at < width; ) {
      const { device, offset, bytes } = this.#piece(address, at, width);
      value |= (device ? readDevice(device, offset, bytes) : ALL_ONES[bytes]) << BigInt(8 * at);
      at += bytes;
    }
    return value;
  }

  /** Fills `into` by reads of one address. Most devices know of no strings; one whose register is a window on a block of data may. */
  readString(address: number, width: Width, into: Uint8Array): void {
    const found = this.#find(address);
    if (found?.device.readString && address >= found.from && address + width <= found.to) {
      found.device.readString(address - found.start, width, into);
      return;
    }
    for (let at = 0; at < into.length; at += width) storeValue(into, at, width, this.read(address, width));
  }

  write(address: number, width: Width, value: bigint): void {
    const found = this.#find(address);
    if (found && address >= found.from && address + width <= found.to) {
      writeDevice(found.device, address - found.start, width, value & ALL_ONES[width]);
      return;
    }
    for (let at = 0; at < width; ) {
      const { device, offset, bytes } = this.#piece(address, at, width);
      if (device) writeDevice(device, offset, bytes, (value >> BigInt(8 * at)) & ALL_ONES[bytes]);
      at += bytes;
    }
  }

  /** The largest power of two of bytes from `address + at` on that has one answer. */
  #piece(address: number, at: number, width: Width): { device: Registers | null; offset: number; bytes: Width } {
    const from = (address + at) % this.addresses;
    const found = this.#find(from);
    const inside = found !== undefined && from >= found.from;
    const room = Math.min(inside ? found.to - from : found ? found.from - from : width, width - at, this.addresses - from);
    const bytes: Width = room >= 8 ? 8 : room >= 4 ? 4 : room >= 2 ? 2 : 1;
    return { device: inside ? found.device : null, offset: inside ? from - found.start : 0, bytes };
  }
}

// ## The widths of a device
//
// A guest chooses the width of an access; most devices were built for one. `valid` says what the device answers at all. `impl` says what the model
// was written for, and the bus adapts the rest: a wider or crooked access becomes several aligned ones in address order; out of a narrower read
// come the bytes that it asked for; a narrower write arrives with its bytes in their place and zeros in the others, since a device that ignores the
// byte enables takes the whole word.

const answers = ({ valid }: Registers, width: Width): boolean => !valid || (width >= valid.min && width <= valid.max);

function readDevice(device: Registers, offset: number, width: Width): bigint {
  if (!answers(device, width)) return ALL_ONES[width];
  const { impl } = device;
  if (!impl || (width >= impl.min && width <= impl.max && offset % width === 0)) return device.read(offset, width) & ALL_ONES[width];
  let value = 0n;
  for (let at = 0; at < width; ) {
    const unit = unitAt(impl, offset + at, width - at);
    const into = (offset + at) % unit;
    value |= ((device.read(offset + at - into, unit) & ALL_ONES[unit]) >> BigInt(8 * into)) << BigInt(8 * at);
    at += unit - into;
  }
  return value & ALL_ONES[width];
}

function writeDevice(device: Registers, offset: number, width: Width, value: bigint): void {
  if (!answers(device, width)) return;
  const { impl } = device;
  if (!impl || (width >= impl.min && width <= impl.max && offset % width === 0)) {
    device.write(offset, width, value);
    return;
  }
  for (let at = 0; at < width; ) {
    const unit = unitAt(impl, offset + at, width - at);
    const into = (offset + at) % unit;
    device.write(offset + at - into, unit, ((value >> BigInt(8 * at)) << BigInt(8 * into)) & ALL_ONES[unit]);
    at += unit - into;
  }
}

/** The widest aligned unit at `offset` that does not reach beyond `left` bytes; the narrowest that the model has, if all do. */
function unitAt(impl: Widths, offset: number, left: number): Width {
  let unit = impl.max;
  while (unit > impl.min && (unit > left || offset % unit !== 0)) unit = (unit / 2) as Width;
  return unit;
}

/** Reads a little-endian value of `width` bytes. */
export function loadValue(bytes: Uint8Array, at: number, width: Width): bigint {
  const low = loadNumber(bytes, at, Math.min(width, 4));
  return width === 8 ? BigInt(low) | (BigInt(loadNumber(bytes, at + 4, 4)) << 32n) : BigInt(low);
}

/** Writes a little-endian value of `width` bytes. */
export function storeValue(bytes: Uint8Array, at: number, width: Width, value: bigint): void {
  const low = lowHalf(value);
  for (let index = 0; index < Math.min(width, 4); index++) bytes[at + index] = low >>> (8 * index);
  if (width === 8) storeValue(bytes, at + 4, 4, value >> 32n);
}

function loadNumber(bytes: Uint8Array, at: number, width: number): number {
  let value = 0;
  for (let index = 0; index < width; index++) value |= (bytes[at + index] as number) << (8 * index);
  return value >>> 0;
}
