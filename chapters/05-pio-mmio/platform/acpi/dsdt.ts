// # The machine, described to its operating system
//
// The processor's tables say how many; this program says what is where. An operating system finds PCI devices by itself, but three things it
// cannot find: which window of addresses leads to the bus, to which input of the I/O APIC a slot's interrupt pins are soldered, and the devices
// that answer at ports without ever having been asked to identify themselves.

import type { Aml } from './aml.ts';
import * as aml from './aml.ts';

/** One interrupt pin of one slot, and where it ends. Pins are 0 to 3 for INTA to INTD. */
interface PciRoute {
  readonly device: number;
  readonly pin: number;
  readonly gsi: number;
}

/** Addresses from `first` to `last`. */
interface Window {
  readonly first: number;
  readonly last: number;
}

export interface DsdtOptions {
  /** Local APIC identifiers, in the order of processor numbers. */
  readonly apicIds: readonly number[];
  readonly pci: {
    readonly routes: readonly PciRoute[];
    /** Memory that leads to the bus. */
    readonly windows: readonly Window[];
    readonly lastBus: number;
    /** Whether the bus is PCI Express; it is, unless something else is said. */
    readonly express?: boolean;
    /** Slot of the bridge to the devices of the first PC; 31 when absent. */
    readonly isaBridge?: number;
  } | null;
  /** Configuration space in memory: reserved here, announced in MCFG. */
  readonly ecam: { readonly gpa: number; readonly buses: number } | null;
  readonly serialPorts: readonly { readonly port: number; readonly irq: number }[];
  readonly pmBase: number;
  /** How many ports there are from it. */
  readonly pmPorts: number;
  readonly sleepTypeOff: number;
  readonly rtc: boolean;
  readonly i8042: boolean;
  readonly fwCfg: boolean;
  /** Further devices, as finished terms under `\_SB`: what a later chapter adds. */
  readonly devices: readonly Aml[];
}

const CONFIG_PORTS: Window = { first: 0xcf8, last: 0xcff };

/** The definition block, without its header. */
export function dsdtBody(options: DsdtOptions): Aml {
  return [
    ...aml.scope(
      '_SB',
      ...processors(options.apicIds.length),
      ...(options.pci ? [hostBridge(options, options.pci)] : legacyDevices(options)),
      reserved(options),
      ...(options.fwCfg ? [fwCfg()] : []),
      ...options.devices,
    ),
    // What to write as the sleep type for "off". Other states have no such object, so nobody will try them.
    ...aml.name('_S5', aml.pack(aml.integer(options.sleepTypeOff), aml.integer(options.sleepTypeOff), aml.integer(0), aml.integer(0))),
  ];
}

/** A device for each processor. */
export const processors = (count: number): Aml[] =>
  Array.from({ length: count }, (_, uid) =>
    aml.device(processorName(uid), aml.name('_HID', aml.text('ACPI0007')), aml.name('_UID', aml.integer(uid))),
  );

const processorName = (uid: number) => `C${uid.toString(16).toUpperCase().padStart(3, '0')}`;

// ## The PCI bus

const ICH9_BRIDGE = 31;

// @clause acpi.dsdt.pci-windows
function hostBridge(options: DsdtOptions, pci: NonNullable<DsdtOptions['pci']>): Aml {
  const { express = true, isaBridge = ICH9_BRIDGE } = pci;
  const lowMemory = [aml.memoryWindow(0xa0000, 0xbffff, true)]; // where a VGA card keeps its picture
  return aml.device(
    'PCI0',
    ...(express ? [aml.name('_HID', aml.eisaId('PNP0A08')), aml.name('_CID', aml.eisaId('PNP0A03'))] : [aml.name('_HID', aml.eisaId('PNP0A03'))]),
    aml.name('_UID', aml.integer(0)),
    aml.name('_BBN', aml.integer(0)),
    aml.name(
      '_CRS',
      aml.resources(
        aml.busWindow(0, pci.lastBus),
        aml.io(CONFIG_PORTS.first, CONFIG_PORTS.last - CONFIG_PORTS.first + 1),
        aml.ioWindow(0, CONFIG_PORTS.first - 1),
        aml.ioWindow(CONFIG_PORTS.last + 1, 0xffff),
        ...lowMemory,
        ...pci.windows.map(({ first, last }) => aml.memoryWindow(first, last)),
      ),
    ),
    routing(pci.routes),
    ...(express ? [operatingSystemCapabilities()] : []),
    aml.device('ISA', aml.name('_ADR', aml.integer(isaBridge * 0x10000)), ...legacyDevices(options)),
  );
}

/** Any function of the device: interrupts belong to slots. */
const ANY_FUNCTION = 0xffff;

// @clause acpi.dsdt.prt
function routing(routes: readonly PciRoute[]): Aml {
  return aml.name(
    '_PRT',
    aml.pack(
      ...routes.map(({ device, pin, gsi }) =>
        aml.pack(aml.integer(device * 0x10000 + ANY_FUNCTION), aml.integer(pin), aml.integer(0), aml.integer(gsi)),
      ),
    ),
  );
}

// Who manages hot plug, power and errors of PCI Express? Operating system and firmware agree by this method: the one asks for features, the other
// strikes out what it keeps. The firmware keeps only the control of slots by the standard hot-plug controller, which this machine has none of.
const PCI_BRIDGE_UUID = '33db4d5b-1ff7-401c-9657-7441c03dd766';
const GRANTED = 0x1d; // native hot plug, power management events, advanced errors, the capability structure
const UNRECOGNIZED = 4;
const MASKED = 0x10;

function operatingSystemCapabilities(): Aml {
  const [status, wanted] = [aml.ref('CDW1'), aml.ref('CDW3')];
  return aml.method(
    '_OSC',
    4,
    true,
    aml.dwordField(aml.arg(3), 0, 'CDW1'),
    aml.when(
      aml.equal(aml.arg(0), aml.uuid(PCI_BRIDGE_UUID)),
      aml.dwordField(aml.arg(3), 8, 'CDW3'),
      aml.and(wanted, aml.integer(GRANTED), aml.local(0)),
      aml.when(aml.not(aml.equal(wanted, aml.local(0))), aml.or(status, aml.integer(MASKED), status)),
      aml.store(aml.local(0), wanted),
    ),
    aml.otherwise(aml.or(status, aml.integer(UNRECOGNIZED), status)),
    aml.result(aml.arg(3)),
  );
}

// ## Devices that nobody can find

export function legacyDevices({ serialPorts, rtc, i8042 }: Pick<DsdtOptions, 'serialPorts' | 'rtc' | 'i8042'>): Aml[] {
  const legacy = (at: string, id: string, ...items: Aml[]) =>
    aml.device(at, aml.name('_HID', aml.eisaId(id)), aml.name('_CRS', aml.resources(...items)));
  return [
    ...(rtc ? [legacy('RTC', 'PNP0B00', aml.io(0x70, 2), aml.irq(8))] : []),
    ...(i8042 ? [legacy('KBD', 'PNP0303', aml.io(0x60, 1), aml.io(0x64, 1), aml.irq(1)), legacy('MOU', 'PNP0F13', aml.irq(12))] : []),
    ...serialPorts.map(({ port, irq }, index) =>
      aml.device(
        `COM${index + 1}`,
        aml.name('_HID', aml.eisaId('PNP0501')),
        aml.name('_UID', aml.integer(index + 1)),
        aml.name('_CRS', aml.resources(aml.io(port, 8), aml.irq(irq))),
      ),
    ),
  ];
}

/** Addresses that no driver may hand out to somebody else. Linux uses ECAM only where it is reserved so. */
function reserved({ ecam, pmBase, pmPorts }: DsdtOptions): Aml {
  return aml.device(
    'MRES',
    aml.name('_HID', aml.eisaId('PNP0C02')),
    aml.name(
      '_CRS',
      aml.resources(aml.io(pmBase, pmPorts), aml.io(0xb2, 2), aml.io(0x92, 1), ...(ecam ? [aml.memory32(ecam.gpa, ecam.buses * 2 ** 20)] : [])),
    ),
  );
}

function fwCfg(): Aml {
  return aml.device(
    'FWCF',
    aml.name('_HID', aml.text('QEMU0002')),
    aml.name('_STA', aml.integer(0x0b)), // there, working, not to be shown
    aml.name('_CRS', aml.resources(aml.io(0x510, 12))),
  );
}
