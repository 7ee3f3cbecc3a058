// # A PCI function
//
// Everything that can be plugged into a PCI bus is a *function*: an identity, a command register, up to six regions that software places, perhaps an
// interrupt pin, and a list of capabilities. This class is that common part, whole. A device model gives it the registers behind the regions and
// then only says `intx.set`, `signal`, or `dma.write`; whether these have any effect at the moment is the guest's decision, and is made here.

import { assert, type Gpa } from '../../01-hardware-background/physical-memory.ts';
import { describe, field, kind, part, type SavedPart, savedPart } from '../../03-vcpu-loop/devices/state.ts';
import type { DmaTarget, Wire } from '../wires.ts';
import { Bar, type BarSpec, RomBar, type RomSpec } from './bars.ts';
import { CONFIG_BYTES, ConfigSpace, EXTENDED_CONFIG_BYTES } from './config-space.ts';
import { barOffset, COMMAND, HEADER_0, HEADER_1, STATUS } from './header.ts';
import { CAP_MSI, Msi, type MsiSpec } from './msi.ts';
import { CAP_MSIX, MSIX_BYTES, MsiX, type MsixSpec } from './msix.ts';
import type { PciBus } from './pci-bus.ts';

/** What a function says that it is. */
interface PciIdentity {
  readonly vendorId: number;
  readonly deviceId: number;
  readonly revisionId?: number;
  /** Class, subclass and programming interface: 24 bits. */
  readonly classCode: number;
  readonly subsystemVendorId?: number;
  readonly subsystemId?: number;
  /** 1 to 4 for INTA# to INTD#; 0 for none. */
  readonly interruptPin?: 0 | 1 | 2 | 3 | 4;
  /** Declares more functions in this device; set by the bus when there are some. */
  readonly multiFunction?: boolean;
}

// QEMU gives its own numbers to boards without an identity of their own, and SeaBIOS takes the host bridge having them as the sign that it runs on
// a virtual machine with fw_cfg. Ringbook is such a machine.

/** Subsystem of a function that does not say another. */
const DEFAULT_SUBSYSTEM = { vendorId: 0x1af4, id: 0x1100 } as const;

export interface PciFunctionOptions {
  readonly name: string;
  readonly identity: PciIdentity;
  readonly bars?: readonly BarSpec[];
  readonly romBar?: RomSpec;
  /** With 4096 bytes of configuration space: a PCI Express function. */
  readonly extended?: boolean;
  /** Called at reset, after the configuration space has its values of power-on. */
  readonly onReset?: () => void;
}

/** First offset for capabilities: what follows the header. */
const CAPABILITIES_START = 0x40;

const { rows: H } = HEADER_0;

export class PciFunction {
  readonly name: string;
  readonly identity: PciIdentity;
  readonly config: ConfigSpace;
  /** The interrupt pin. It reaches the bus unless the command register forbids it, or messages are used instead. */
  readonly intx: Wire;
  /** The machine's memory, while the command register lets this function be a bus master. */
  readonly dma: DmaTarget;
  /** Its regions, by the index of the register. */
  readonly bars: readonly (Bar | null)[];
  readonly rom: RomBar | null;
  protected bus: PciBus | null = null;
  #device = 0;
  #number = 0;
  #msi: Msi | null = null;
  #msix: MsiX | null = null;
  #asserted = false; // by the device
  #driven = false; // on the bus
  readonly #onReset: () => void;
  readonly #used: { readonly from: number; readonly to: number }[] = [];
  #lastCapability: number | null = null;
  #lastExtended: number | null = null;

  constructor({ name, identity, bars = [], romBar, extended = false, onReset = () => {} }: PciFunctionOptions, headerType: 0 | 1 = 0) {
    this.name = name;
    this.identity = identity;
    this.#onReset = onReset;
    this.config = new ConfigSpace(extended ? EXTENDED_CONFIG_BYTES : CONFIG_BYTES);
    this.config.declare(headerType === 0 ? HEADER_0 : HEADER_1);
    this.config.preset(H.VENDOR_ID.offset, 2, identity.vendorId);
    this.config.preset(H.DEVICE_ID.offset, 2, identity.deviceId);
    this.config.preset(H.REVISION_ID.offset, 1, identity.revisionId ?? 0);
    for (let byte = 0; byte < 3; byte++) this.config.preset(H.CLASS_CODE.offset + byte, 1, identity.classCode >>> (8 * byte));
    this.config.preset(H.HEADER_TYPE.offset, 1, headerType | (identity.multiFunction ? 0x80 : 0));
    this.config.preset(H.INTERRUPT_PIN.offset, 1, identity.interruptPin ?? 0);
    if (headerType === 0) {
      this.config.preset(H.SUBSYSTEM_VENDOR_ID.offset, 2, identity.subsystemVendorId ?? DEFAULT_SUBSYSTEM.vendorId);
      this.config.preset(H.SUBSYSTEM_ID.offset, 2, identity.subsystemId ?? DEFAULT_SUBSYSTEM.id);
    }

    const placed: (Bar | null)[] = new Array<Bar | null>(headerType === 0 ? 6 : 2).fill(null);
    for (const spec of bars) {
      const last = spec.index + (spec.kind === 'mem64' ? 1 : 0);
      assert(last < placed.length && !placed[spec.index] && !this.#isUpperHalf(bars, spec.index), `${name}: BAR ${spec.index} is not free`);
      placed[spec.index] = new Bar(this.config, spec);
    }
    this.bars = placed;
    this.rom = romBar ? new RomBar(this.config, (headerType === 0 ? HEADER_0 : HEADER_1).rows.ROM.offset, romBar) : null;

    this.intx = { set: (level) => this.#assertPin(level) };
    this.dma = {
      read: (gpa: Gpa, into: Uint8Array) => this.isMaster && (this.bus?.upstream.dma.read(gpa, into) ?? false),
      write: (gpa: Gpa, from: Uint8Array) => this.isMaster && (this.bus?.upstream.dma.write(gpa, from) ?? false),
    };
    this.config.on(H.COMMAND.offset, 2, () => {
      this.decode();
      this.#drivePin();
    });
    this.config.on(barOffset(0), 4 * placed.length, () => this.decode());
    this.config.on((headerType === 0 ? HEADER_0 : HEADER_1).rows.ROM.offset, 4, () => this.decode());
  }

  #isUpperHalf(bars: readonly BarSpec[], index: number): boolean {
    return bars.some((other) => other.kind === 'mem64' && other.index + 1 === index);
  }

  /** @internal The bus gives the function its slot. */
  plugIn(bus: PciBus, device: number, number: number): void {
    assert(this.bus === null, `${this.name} is on a bus already`);
    this.bus = bus;
    this.#device = device;
    this.#number = number;
    for (const bar of this.bars) bar?.plugIn(bus.io, bus.memory);
    this.rom?.plugIn(bus.memory, this.name);
  }

  /** @internal There are more functions in this device. */
  declareMultiFunction(): void {
    this.config.preset(H.HEADER_TYPE.offset, 1, this.config.load(H.HEADER_TYPE.offset, 1) | 0x80);
  }

  /** Number of the device on its bus. */
  get device(): number {
    return this.#device;
  }
  /** Number of the function in its device. */
  get number(): number {
    return this.#number;
  }

  /** The command register. */
  get command(): number {
    return this.config.load(H.COMMAND.offset, 2);
  }
  get isMaster(): boolean {
    return (this.command & COMMAND.MASTER) !== 0;
  }

  // ## Decoding
  //
  // @clause pci.command.decode-enable

  /** Brings every region to where the registers say. Called after each write that could have moved one. */
  protected decode(): void {
    const { command } = this;
    for (const bar of this.bars) bar?.decode((command & (bar.spec.kind === 'io' ? COMMAND.IO : COMMAND.MEMORY)) !== 0);
    this.rom?.decode((command & COMMAND.MEMORY) !== 0);
  }

  // ## The pin
  //
  // The device's wish is visible in the status register whatever becomes of it: a driver that shares the line looks there. Whether the pin is driven
  // depends on the command register, and on messages, which a function uses instead of the pin and never beside it.
  // @clause pci.intx.status-and-disable

  #assertPin(level: boolean): void {
    if (level === this.#asserted) return;
    this.#asserted = level;
    this.config.flag(H.STATUS.offset, 2, STATUS.INTERRUPT, level);
    this.#drivePin();
  }

  #drivePin(): void {
    const pin = this.identity.interruptPin ?? 0;
    const messages = this.#msi?.enabled || this.#msix?.enabled;
    const drive = this.#asserted && pin > 0 && !messages && (this.command & COMMAND.INTX_DISABLE) === 0;
    if (drive === this.#driven || !this.bus) return;
    this.#driven = drive;
    this.bus.intx(this.#device, pin - 1, drive);
  }

  // ## Messages

  /** Adds an MSI capability. Returns its offset. */
  addMsi(spec: MsiSpec): number {
    assert([1, 2, 4, 8, 16, 32].includes(spec.vectors), `${this.name}: ${spec.vectors} MSI vectors`);
    const offset = this.addCapability(CAP_MSI, new Uint8Array(Msi.length(spec) - 2), spec);
    this.#msi = new Msi(this.config, offset, spec, this.#sendMessage);
    this.config.on(offset + 2, 2, () => this.#drivePin());
    return offset;
  }

  /** Adds an MSI-X capability, and its tables to a BAR. Returns its offset. */
  addMsix(spec: MsixSpec): number {
    const bar = this.bars[spec.bar];
    assert(bar && bar.spec.kind !== 'io', `${this.name}: no memory BAR ${spec.bar}`);
    assert(spec.vectors >= 1 && spec.vectors <= 2048 && (spec.tableOffset | spec.pbaOffset) % 8 === 0, `${this.name}: MSI-X tables`);
    const offset = this.addCapability(CAP_MSIX, new Uint8Array(MSIX_BYTES - 2), spec);
    const msix = new MsiX(this.name, this.config, offset, spec, this.#sendMessage);
    assert(
      spec.tableOffset + msix.tableBytes <= bar.spec.bytes && spec.pbaOffset + msix.pbaBytes <= bar.spec.bytes,
      `${this.name}: MSI-X tables do not fit`,
    );
    bar.inside.attach(spec.tableOffset, msix.tableBytes, msix.table);
    bar.inside.attach(spec.pbaOffset, msix.pbaBytes, msix.pba);
    this.#msix = msix;
    this.config.on(offset + 2, 2, () => this.#drivePin());
    return offset;
  }

  get msi(): Msi | null {
    return this.#msi;
  }
  get msix(): MsiX | null {
    return this.#msix;
  }

  // A message is a memory write like any other of the function's: one that may not write memory may not interrupt either.
  // @clause pci.msi.needs-bus-master

  readonly #sendMessage = (address: number, data: number): void => {
    if (this.isMaster) this.bus?.upstream.msi.send(address, data);
  };

  /** Interrupts in the way that the driver has chosen. A pin stays asserted until the device releases it with `intx.set(false)`. */
  signal(vector = 0): void {
    if (this.#msix?.enabled) this.#msix.signal(vector);
    else if (this.#msi?.enabled) this.#msi.signal(vector);
    else this.intx.set(true);
  }

  // ## Capabilities
  //
  // Whatever the header has no room for is in a list: each element begins with its kind and the offset of the next. Software must follow the links
  // and not expect an element in a certain place, so here they go wherever there is room, in the order of adding; a chipset whose data sheet names
  // the place says so.
  // @clause pci.capability-list

  /** Adds a capability. `bytes` is what follows id and link; `writeMask` of the same length says which bits software can change. Returns its offset. */
  addCapability(id: number, bytes: Uint8Array, { writeMask, at }: { writeMask?: Uint8Array; at?: number | undefined } = {}): number {
    const offset = this.#reserve(bytes.length + 2, at, CAPABILITIES_START, CONFIG_BYTES);
    this.config.preset(offset, 1, id);
    this.#fill(offset + 2, bytes, writeMask);
    this.config.preset(this.#lastCapability === null ? H.CAPABILITIES.offset : this.#lastCapability + 1, 1, offset);
    this.#lastCapability = offset;
    this.config.preset(H.STATUS.offset, 2, this.config.load(H.STATUS.offset, 2) | STATUS.CAPABILITIES);
    return offset;
  }

  /** Adds an extended capability. `bytes` is what follows the four bytes of its header. */
  addExtendedCapability(id: number, version: number, bytes: Uint8Array, { writeMask, at }: { writeMask?: Uint8Array; at?: number } = {}): number {
    assert(this.config.size === EXTENDED_CONFIG_BYTES, `${this.name} has no extended configuration space`);
    const offset = this.#reserve(
      bytes.length + 4,
      at ?? (this.#lastExtended === null ? CONFIG_BYTES : undefined),
      CONFIG_BYTES,
      EXTENDED_CONFIG_BYTES,
    );
    assert(this.#lastExtended !== null || offset === CONFIG_BYTES, `${this.name}: the first extended capability is at ${CONFIG_BYTES}`);
    this.config.preset(offset, 4, id | (version << 16));
    this.#fill(offset + 4, bytes, writeMask);
    if (this.#lastExtended !== null)
      this.config.preset(this.#lastExtended + 2, 2, (this.config.load(this.#lastExtended + 2, 2) & 0xf) | (offset << 4));
    this.#lastExtended = offset;
    return offset;
  }

  #fill(offset: number, bytes: Uint8Array, writeMask: Uint8Array | undefined): void {
    bytes.forEach((byte, index) => void this.config.preset(offset + index, 1, byte));
    writeMask?.forEach((mask, index) => void this.config.allow(offset + index, 1, mask));
  }

  /** Finds room at a dword, or takes the room that was named. */
  #reserve(bytes: number, at: number | undefined, first: number, limit: number): number {
    const free = (from: number): boolean => from + bytes <= limit && this.#used.every((used) => from >= used.to || used.from >= from + bytes);
    let offset = at ?? first;
    while (at === undefined && offset < limit && !free(offset)) offset += 4;
    assert(offset % 4 === 0 && free(offset), `${this.name}: no room for a capability of ${bytes} bytes`);
    this.#used.push({ from: offset, to: offset + bytes });
    return offset;
  }

  /** Keeps capabilities off registers that the device has at fixed offsets. */
  reserve(offset: number, bytes: number): void {
    this.#used.push({ from: offset, to: offset + bytes });
  }

  // ## Reset

  /** Back to power-on: no addresses, no decoding, no interrupts. */
  reset(): void {
    this.intx.set(false);
    this.#msix?.reset();
    this.config.reset();
    this.#onReset();
  }

  // ## State
  //
  // What a derived class adds are parts of their own.

  static readonly STATE = describe<PciFunction>('PCI function', 1, {
    config: part((fn) => fn.config, ConfigSpace.STATE),
    msix: part((fn) => fn.#msix, MsiX.STATE),
    pin: field(
      kind.record({ asserted: kind.flag, driven: kind.flag }),
      (fn) => ({ asserted: fn.#asserted, driven: fn.#driven }),
      (fn, v) => {
        ({ asserted: fn.#asserted, driven: fn.#driven } = v);
      },
    ),
  });

  /** What it is in the middle of that cannot be written down; null: nothing. */
  get busyNow(): string | null {
    return null;
  }

  /** What is saved of this function. `name` says where it is. */
  savedParts(name: string): SavedPart[] {
    return [savedPart<PciFunction>(name, this, PciFunction.STATE)];
  }
}
