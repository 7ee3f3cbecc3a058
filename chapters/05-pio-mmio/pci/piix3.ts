// # The PIIX
//
// The south bridge of the older board is one chip of several functions. Function 0 is the bridge to the ISA bus, and decides which ISA line each of the
// four PIRQs arrives on. Function 1 is the IDE controller, the subject of another section. The PIIX3 had no power management that ACPI could use;
// its successor, the PIIX4, did, as function 3. QEMU put that function beside the older chip's, software took it, and so the pair is what a "PC" has had in
// every virtual machine since, though it was never sold.
//
// ::layout PIIX3_REGISTERS -- Function 0, the bridge.
//
// ::layout PIIX4_PM_REGISTERS -- Function 3, power management.

import type { Bus, Region, Registers } from '../../03-vcpu-loop/devices/bus.ts';
import { PM_BASE, PM_PORTS } from '../platform/pm.ts';
import { registerTable } from '../registers.ts';
import type { Wire } from '../wires.ts';
import type { ConfigRoot } from './config-access.ts';
import { PciFunction } from './function.ts';
import type { SharedLines } from './lines.ts';
import { PRIORITY } from './pci-bus.ts';
import { PIIX_WIRING, type PirqRouter, ROUTE_OFF } from './pirq.ts';

// biome-ignore format: table
export const PIIX3_REGISTERS = registerTable('piix3', 'Intel 82371SB (PIIX3) data sheet, PCI to ISA Bridge Registers, function 0', {
  IORT:    { offset: 0x4c, bytes: 1, access: 'rw', reset: 0x4d, writable: 0x7f, text: 'waits of the ISA bus: kept' },
  XBCS:    { offset: 0x4e, bytes: 2, access: 'rw', reset: 0x0003, writable: 0x01ff, text: 'which chips are selected: kept' },
  PIRQRC:  { offset: 0x60, bytes: 1, access: 'rw', reset: ROUTE_OFF, writable: 0x8f, count: PIIX_WIRING.pirqs, text: 'PIRQ A to D: bit 7 off, else the ISA line' },
  TOM:     { offset: 0x69, bytes: 1, access: 'rw', reset: 0x02, writable: 0xfe, text: 'how far ISA masters reach: kept' },
  MSTAT:   { offset: 0x6a, bytes: 2, access: 'rw', writable: 0x8000, text: 'errors of the bus: kept' },
  MBIRQ:   { offset: 0x70, bytes: 1, access: 'rw', reset: 0x80, writable: 0xef, count: 2, text: 'lines for devices of the board: kept' },
  APICBASE: { offset: 0x80, bytes: 1, access: 'rw', writable: 0x7f, text: 'where the I/O APIC is: kept, it stays where it is' },
  DLC:     { offset: 0x82, bytes: 1, access: 'rw', writable: 0x0f, text: 'waits of PCI: kept' },
  SMICNTL: { offset: 0xa0, bytes: 1, access: 'rw', reset: 0x08, writable: 0x1f, text: 'system management interrupts: kept' },
  SMIEN:   { offset: 0xa2, bytes: 2, access: 'rw', writable: 0x01ff, text: 'which there are: kept' },
});

export class IsaBridge extends PciFunction {
  constructor(pirqs: PirqRouter) {
    super({ name: 'piix3', identity: { vendorId: 0x8086, deviceId: 0x7000, classCode: 0x060100, multiFunction: true } });
    const { config } = this;
    config.declare(PIIX3_REGISTERS);
    this.reserve(0x40, 0xc0); // all of it is the chip's own
    const { offset } = PIIX3_REGISTERS.rows.PIRQRC;
    const { pirqs: count } = PIIX_WIRING;
    // @clause ich9.pirq.isa-route
    config.on(offset, count, () => {
      for (let pirq = 0; pirq < count; pirq++) pirqs.routeIsa(pirq, config.load(offset + pirq, 1));
    });
  }
}

// ## Power management
//
// The function has no base address register. Two registers of its own say where its ports are, and whether. As on the ICH9 there is no system management
// mode behind it: the bit that says that somebody uses it is set, and firmware that finds it set leaves it alone.

const PMBA_ADDRESS = 0xffc0;
const APMC_EN = 1 << 25;

// biome-ignore format: table
export const PIIX4_PM_REGISTERS = registerTable('piix4-pm', 'Intel 82371AB (PIIX4) data sheet, Power Management PCI Configuration Registers, function 3', {
  PMBA:      { offset: 0x40, bytes: 4, access: 'rw', reset: 1, writable: PMBA_ADDRESS, text: 'where the power management ports are' },
  CNTA:      { offset: 0x44, bytes: 4, access: 'rw', text: 'idle timers: kept' },
  CNTB:      { offset: 0x48, bytes: 4, access: 'rw', text: 'idle timers: kept' },
  DEVRES:    { offset: 0x4c, bytes: 4, access: 'rw', count: 3, text: 'devices that are watched: kept' },
  DEVACTB:   { offset: 0x58, bytes: 4, access: 'ro', reset: APMC_EN, text: 'bit 25: the APM port is in use, which firmware takes for SMM being set up' },
  PMREGMISC: { offset: 0x80, bytes: 1, access: 'rw', writable: 0x01, text: 'bit 0: the ports answer' },
  SMBBA:     { offset: 0x90, bytes: 4, access: 'rw', reset: 1, writable: 0xfff0, text: 'where the SMBus would be: kept, there is none' },
  SMBHSTCFG: { offset: 0xd2, bytes: 1, access: 'ro', text: 'bit 0: the SMBus is on, which it never is' },
});

const PM = PIIX4_PM_REGISTERS.rows;
/** The line of the system control interrupt; here no register moves it. */
const SCI_LINE = 9;
const PM_IO = 1;

interface Piix4Options {
  readonly lines: SharedLines;
  readonly io: Bus;
}

export class Piix4Pm extends PciFunction {
  readonly sci: Wire;
  readonly #io: Bus;
  #pm: Region | null = null;

  constructor({ lines, io }: Piix4Options) {
    super({ name: 'piix4-pm', identity: { vendorId: 0x8086, deviceId: 0x7113, revisionId: 3, classCode: 0x068000, interruptPin: 1 } });
    this.sci = lines.source(SCI_LINE);
    this.#io = io;
    const { config } = this;
    config.declare(PIIX4_PM_REGISTERS);
    this.reserve(0x40, 0xc0); // all of it is the chip's own
    config.on(PM.PMBA.offset, 4, () => this.#placePm());
    config.on(PM.PMREGMISC.offset, 1, () => this.#placePm());
  }

  connectPm(registers: Registers): void {
    this.#pm = this.#io.region(registers, { priority: PRIORITY.CHIPSET });
    this.#placePm();
  }

  /** Where the power management ports are; null while they are switched off. */
  get pmBase(): number | null {
    const base = this.config.load(PM.PMBA.offset, 4) & PMBA_ADDRESS;
    return this.config.load(PM.PMREGMISC.offset, 1) & PM_IO && base !== 0 ? base : null;
  }

  // @clause piix4.pmba.place
  #placePm(): void {
    this.#pm?.place(this.pmBase, PM_PORTS.piix4);
  }
}

// ## In place of firmware

/** The ISA lines that SeaBIOS gives to PIRQ A to D. */
const ISA_LINES = [10, 10, 11, 11] as const;

/** What firmware would program in the two functions. */
export function preparePiix(config: ConfigRoot, bridge: number, pm: number): void {
  for (const [pirq, line] of ISA_LINES.entries()) config.write(0, bridge, PIIX3_REGISTERS.rows.PIRQRC.offset + pirq, 1, line);
  config.write(0, pm, PM.PMBA.offset, 4, PM_BASE);
  config.write(0, pm, PM.PMREGMISC.offset, 1, PM_IO);
  config.write(0, pm, 0x3c, 1, SCI_LINE);
}
