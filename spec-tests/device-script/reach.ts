// # Reaching one device
//
// Three classes behind one interface: a device on PCI with its structures, the same by its legacy I/O BAR, and a window of memory-mapped registers.

import { BadResult, type Bus, type Script, Stuck } from './bus.ts';
import { DEVICE_ID } from './features.ts';
import { findFunctions, type PciWindows, type Structure, structureOf, type VirtioFunction } from './pci.ts';
import { CONFIG_AT, fieldPlace } from './registers.ts';
import { ScriptError } from './steps.ts';
import { type AccessBytes, isLegacy, type Transport, type WireDevice } from './wire.ts';

const INTERRUPT_WIDTH = 4;
const MMIO_MAGIC = 0x7472_6976n; // "virt"
const MMIO_BYTES = 0x200;
/** Where windows are looked for when the machine does not say: on Ringbook's Q35 and on QEMU's microvm. */
const MMIO_RANGES = [
  { gpa: 0xfeb0_3000, count: 8 },
  { gpa: 0xfeb0_0000, count: 24 },
] as const;

/** A stretch of registers, in one of the two address spaces. */
export class Window {
  readonly #bus: Bus;
  readonly place: Structure;

  constructor(bus: Bus, place: Structure) {
    this.#bus = bus;
    this.place = place;
  }

  *read(offset: number, bytes: AccessBytes): Script<bigint> {
    const { io, gpa } = this.place;
    if (!io) return yield* this.#bus.load(gpa + offset, bytes);
    return yield* this.#bus.in(gpa + offset, portBytes(bytes));
  }

  *write(offset: number, bytes: AccessBytes, value: bigint): Script<void> {
    const { io, gpa } = this.place;
    if (io) yield* this.#bus.out(gpa + offset, portBytes(bytes), value);
    else yield* this.#bus.store(gpa + offset, bytes, value);
  }
}

function portBytes(bytes: AccessBytes): 1 | 2 | 4 {
  if (bytes === 8) throw new ScriptError('a port is at most four bytes wide');
  return bytes;
}

/** How one device is reached, on whichever transport. */
export interface Reach {
  readonly transport: Transport;
  /** On PCI. */
  readonly fn: VirtioFunction | null;
  /** Registers by their transport's name: `common`, `notify`, `isr` and `device`; `legacy`; `mmio`. @throws ScriptError for one that it does not have */
  window(structure: string): Window;
  /** Offset of the configuration space in the window that holds it. */
  config(msix: boolean): { readonly window: Window; readonly offset: number };
  /** Tells the device that a queue has buffers; `off` is what its queue_notify_off says. */
  kick(value: bigint, bytes: 1 | 2 | 4 | undefined, off: number): Script<void>;
  /** Reads why it interrupts, and lets it stop. */
  takeIsr(): Script<number>;
}

/** The window with the fields of the common configuration. */
export const fieldsOf = (reach: Reach): Window => reach.window(reach.transport === 'pci' ? 'common' : reach.fn ? 'legacy' : 'mmio');

export function* getField(reach: Reach, field: string, as?: 1 | 2 | 4): Script<bigint> {
  const { offset, bytes } = fieldPlace(reach.transport, field, false);
  const window = fieldsOf(reach);
  if (as !== undefined) return yield* window.read(offset, as);
  if (bytes !== 8) return yield* window.read(offset, bytes);
  const low = yield* window.read(offset, 4);
  return low | ((yield* window.read(offset + 4, 4)) << 32n);
}

export function* setField(reach: Reach, field: string, value: bigint, as?: 1 | 2 | 4): Script<void> {
  const { offset, bytes } = fieldPlace(reach.transport, field, true);
  const window = fieldsOf(reach);
  if (as !== undefined || bytes !== 8) {
    yield* window.write(offset, as ?? bytes, value);
    return;
  }
  yield* window.write(offset, 4, value & 0xffff_ffffn);
  yield* window.write(offset + 4, 4, value >> 32n);
}

class PciReach implements Reach {
  readonly transport: Transport;
  readonly fn: VirtioFunction;
  readonly #windows: ReadonlyMap<string, Window>;
  readonly #multiplier: number;

  constructor(transport: Transport, fn: VirtioFunction, windows: ReadonlyMap<string, Window>, multiplier: number) {
    this.transport = transport;
    this.fn = fn;
    this.#windows = windows;
    this.#multiplier = multiplier;
  }

  window(structure: string): Window {
    const window = this.#windows.get(structure);
    if (!window) throw new Stuck(`the function has no ${structure} structure`);
    return window;
  }

  config(msix: boolean): { window: Window; offset: number } {
    if (this.transport === 'pci') return { window: this.window('device'), offset: 0 };
    return { window: this.window('legacy'), offset: msix ? CONFIG_AT.legacyMsix : CONFIG_AT.legacy };
  }

  *kick(value: bigint, bytes: 1 | 2 | 4 | undefined, off: number): Script<void> {
    if (this.transport === 'pci') yield* this.window('notify').write(off * this.#multiplier, bytes ?? 2, value);
    else yield* setField(this, 'queue_notify', value, bytes);
  }

  *takeIsr(): Script<number> {
    if (this.transport === 'pci') return Number(yield* this.window('isr').read(0, 1));
    return Number(yield* getField(this, 'isr_status'));
  }
}

class MmioReach implements Reach {
  readonly transport: Transport;
  readonly fn = null;
  readonly #window: Window;

  constructor(transport: Transport, window: Window) {
    this.transport = transport;
    this.#window = window;
  }

  window(structure: string): Window {
    if (structure !== 'mmio') throw new ScriptError(`memory-mapped registers have no ${structure} structure`);
    return this.#window;
  }

  config(): { window: Window; offset: number } {
    return { window: this.#window, offset: CONFIG_AT.mmio };
  }

  *kick(value: bigint, bytes: 1 | 2 | 4 | undefined): Script<void> {
    yield* setField(this, 'queue_notify', value, bytes);
  }

  *takeIsr(): Script<number> {
    const status = yield* getField(this, 'interrupt_status', INTERRUPT_WIDTH);
    if (status !== 0n) yield* setField(this, 'interrupt_ack', status);
    return Number(status);
  }
}

/** What of a machine has been found already. */
export interface Found {
  readonly windows: PciWindows;
  readonly functions: Map<number, VirtioFunction[]>;
  mmio: { readonly gpa: number; readonly version: number; readonly deviceId: number }[] | null;
}

/**
 * Finds the device: the n-th of its type on its bus.
 * @param places  where the windows of the MMIO transport are, if the machine says
 * @throws Stuck when there is no such device
 */
export function* reach(bus: Bus, device: WireDevice, nth: number, found: Found, places?: readonly string[]): Script<Reach> {
  const id = DEVICE_ID[device.type];
  const { transport } = device;
  if (transport === 'mmio' || transport === 'mmio-legacy') {
    found.mmio ??= yield* probe(bus, places);
    const version = isLegacy(transport) ? 1 : 2;
    const slot = found.mmio.filter((each) => each.deviceId === id)[nth];
    if (!slot) throw new Stuck(`no window of memory-mapped registers has a device of type ${id}`);
    if (slot.version !== version) throw new Stuck(`the registers at 0x${slot.gpa.toString(16)} are of version ${slot.version}, not ${version}`);
    return new MmioReach(transport, new Window(bus, { io: false, gpa: slot.gpa, bytes: MMIO_BYTES }));
  }
  const functions = found.functions.get(id) ?? (yield* findFunctions(bus, id, found.windows));
  found.functions.set(id, functions);
  const fn = functions[nth];
  if (!fn) throw new Stuck(`no PCI function on bus 0 is a virtio device of type ${id}`);
  const windows = new Map<string, Window>();
  for (const [index, bar] of fn.bars.entries()) if (bar) windows.set(`bar${index}`, new Window(bus, bar));
  let multiplier = 0;
  for (const capability of fn.capabilities) {
    if (!['common', 'notify', 'isr', 'device'].includes(capability.name) || windows.has(capability.name)) continue;
    windows.set(capability.name, new Window(bus, yield* structureOf(fn, capability)));
    if (capability.name === 'notify') multiplier = yield* fn.config.read(capability.at + 16, 4);
  }
  const legacy = fn.bars[0];
  if (legacy?.io) windows.set('legacy', new Window(bus, legacy));
  return new PciReach(transport, fn, windows, multiplier);
}

function* probe(bus: Bus, places?: readonly string[]): Script<NonNullable<Found['mmio']>> {
  const candidates =
    places?.map(Number) ?? MMIO_RANGES.flatMap(({ gpa, count }) => Array.from({ length: count }, (_, index) => gpa + index * MMIO_BYTES));
  const seen: NonNullable<Found['mmio']> = [];
  for (const gpa of candidates) {
    if (!Number.isSafeInteger(gpa)) throw new BadResult('a window at no address');
    if ((yield* bus.load(gpa, 4)) !== MMIO_MAGIC) continue;
    const version = Number(yield* bus.load(gpa + 4, 4));
    seen.push({ gpa, version, deviceId: Number(yield* bus.load(gpa + 8, 4)) });
  }
  return seen;
}
