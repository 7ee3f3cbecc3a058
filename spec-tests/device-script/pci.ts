// # Finding a device on PCI
//
// The machine has just been switched on and no firmware has run: no BAR has an address. So the script does what firmware does, by the two ports that
// every PC has: goes over the bus, learns each BAR's size by writing ones to it, gives it an address, and lets the function answer. The virtio structures are
// then found by walking the capability list, which is the only place where a modern device says where anything is.

import { type Bus, type Script, Stuck } from './bus.ts';

const ADDRESS_PORT = 0xcf8;
const DATA_PORT = 0xcfc;
const VENDOR_VIRTIO = 0x1af4;
const FIRST_MODERN_ID = 0x1040;
const LAST_ID = 0x107f;

const COMMAND = 0x04;
const STATUS_HAS_CAPABILITIES = 0x10;
const BARS = 6;
const CAP_ID = { POWER: 0x01, VENDOR: 0x09, EXPRESS: 0x10, MSIX: 0x11 } as const;
/** A walk of the list ends, whatever the function's pointers say: 48 capabilities fill the space. */
const CAPABILITY_LIMIT = 48;

/** What cfg_type says. */
const CFG_TYPE = ['', 'common', 'notify', 'isr', 'device', 'pci', '', '', 'shared', 'vendor'] as const;

export interface Bar {
  readonly io: boolean;
  readonly gpa: number;
  readonly bytes: number;
}

/** A capability: where it is in configuration space, and what it is called in a script. */
export interface Capability {
  readonly name: string;
  readonly at: number;
}

/** Where a structure is: what the virtio capabilities point to. */
export interface Structure {
  readonly io: boolean;
  readonly gpa: number;
  readonly bytes: number;
}

/** Hands out addresses. Two devices of one machine share it. */
export class PciWindows {
  #io = 0xc000;
  #memory = 0xe000_0000;

  take(io: boolean, bytes: number): number {
    const at = Math.ceil((io ? this.#io : this.#memory) / bytes) * bytes;
    if (io) this.#io = at + bytes;
    else this.#memory = at + bytes;
    return at;
  }
}

/** Configuration space of one function. */
export class PciConfig {
  readonly #bus: Bus;
  readonly #address: number;

  constructor(bus: Bus, device: number, fn: number) {
    this.#bus = bus;
    this.#address = (0x8000_0000 | (device << 11) | (fn << 8)) >>> 0;
  }

  *read(offset: number, bytes: 1 | 2 | 4): Script<number> {
    yield* this.#bus.out(ADDRESS_PORT, 4, BigInt(this.#address + (offset & 0xfc)));
    return Number(yield* this.#bus.in(DATA_PORT + (offset & 3), bytes));
  }

  *write(offset: number, bytes: 1 | 2 | 4, value: bigint): Script<void> {
    yield* this.#bus.out(ADDRESS_PORT, 4, BigInt(this.#address + (offset & 0xfc)));
    yield* this.#bus.out(DATA_PORT + (offset & 3), bytes, value);
  }
}

export interface VirtioFunction {
  readonly config: PciConfig;
  readonly bars: readonly (Bar | null)[];
  readonly capabilities: readonly Capability[];
}

/** The functions on bus 0 that are virtio devices of this type, in the order of their slots. They answer at addresses of their own afterwards. */
export function* findFunctions(bus: Bus, deviceId: number, windows: PciWindows): Script<VirtioFunction[]> {
  const found: VirtioFunction[] = [];
  for (let device = 0; device < 32; device++) {
    for (let fn = 0; fn < 8; fn++) {
      const config = new PciConfig(bus, device, fn);
      const id = yield* config.read(0, 4);
      if (fn === 0 && (id & 0xffff) === 0xffff) break;
      if ((id & 0xffff) === VENDOR_VIRTIO && (yield* typeOf(config, id >>> 16)) === deviceId) {
        const bars = yield* placeBars(config, windows);
        found.push({ config, bars, capabilities: yield* walk(config) });
      }
      if (fn === 0 && ((yield* config.read(0x0e, 1)) & 0x80) === 0) break;
    }
  }
  return found;
}

/** The type: in the device ID, or for a transitional device in the subsystem's. */
function* typeOf(config: PciConfig, id: number): Script<number> {
  if (id >= FIRST_MODERN_ID && id <= LAST_ID) return id - FIRST_MODERN_ID;
  return id < FIRST_MODERN_ID && id >= 0x1000 ? yield* config.read(0x2e, 2) : -1;
}

function* placeBars(config: PciConfig, windows: PciWindows): Script<(Bar | null)[]> {
  const command = yield* config.read(COMMAND, 2);
  yield* config.write(COMMAND, 2, BigInt(command & ~7));
  const bars: (Bar | null)[] = Array(BARS).fill(null);
  for (let index = 0; index < BARS; index++) {
    const at = 0x10 + 4 * index;
    yield* config.write(at, 4, 0xffff_ffffn);
    const low = yield* config.read(at, 4);
    if (low === 0) continue;
    const io = (low & 1) === 1;
    const wide = !io && (low & 6) === 4;
    let sizes = BigInt(low & (io ? ~3 : ~15)) & 0xffff_ffffn;
    if (io) sizes |= 0xffff_0000n; // the upper half of an I/O BAR may be wired to zero
    if (wide) {
      yield* config.write(at + 4, 4, 0xffff_ffffn);
      sizes |= BigInt(yield* config.read(at + 4, 4)) << 32n;
    }
    const bytes = Number(BigInt.asUintN(wide ? 64 : 32, -sizes));
    if (bytes === 0 || bytes > 1 << 28) throw new Stuck(`BAR ${index} says that it has ${bytes} bytes`);
    const gpa = windows.take(io, bytes);
    bars[index] = { io, gpa, bytes };
    yield* config.write(at, 4, BigInt(gpa));
    if (wide) yield* config.write(at + 4, 4, 0n);
    if (wide) index++;
  }
  yield* config.write(COMMAND, 2, BigInt((command & ~7) | 7));
  return bars;
}

function* walk(config: PciConfig): Script<Capability[]> {
  const found: Capability[] = [];
  if (((yield* config.read(0x06, 2)) & STATUS_HAS_CAPABILITIES) === 0) return found;
  let at = (yield* config.read(0x34, 1)) & 0xfc;
  for (let left = CAPABILITY_LIMIT; at >= 0x40 && left > 0; left--) {
    const head = yield* config.read(at, 4);
    const id = head & 0xff;
    if (id === CAP_ID.VENDOR) found.push({ name: CFG_TYPE[head >>> 24] || `type${head >>> 24}`, at });
    else if (id === CAP_ID.MSIX) found.push({ name: 'msix', at });
    else if (id === CAP_ID.POWER) found.push({ name: 'pm', at });
    else if (id === CAP_ID.EXPRESS) found.push({ name: 'express', at });
    at = (head >>> 8) & 0xfc;
  }
  return found;
}

/** Fields of a virtio capability; those of other capabilities are read by their offsets. */
export const CAP_FIELDS: Readonly<Record<string, readonly [offset: number, bytes: 1 | 2 | 4]>> = {
  cap_vndr: [0, 1],
  cap_next: [1, 1],
  cap_len: [2, 1],
  cfg_type: [3, 1],
  bar: [4, 1],
  id: [5, 1],
  offset: [8, 4],
  length: [12, 4],
  notify_off_multiplier: [16, 4],
  offset_hi: [16, 4],
  length_hi: [20, 4],
  pci_cfg_data: [16, 4],
  message_control: [2, 2],
  table: [4, 4],
  pba: [8, 4],
};

/** What a virtio capability points to. @throws Stuck when it points nowhere */
export function* structureOf({ config, bars }: VirtioFunction, { name, at }: Capability): Script<Structure> {
  const index = yield* config.read(at + 4, 1);
  const offset = yield* config.read(at + 8, 4);
  const bytes = yield* config.read(at + 12, 4);
  const bar = bars[index];
  if (!bar || offset + bytes > bar.bytes) throw new Stuck(`the ${name} structure is said to be at ${offset} of BAR ${index}, which is not there`);
  return { io: bar.io, gpa: bar.gpa + offset, bytes };
}
