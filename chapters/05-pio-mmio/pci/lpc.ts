// # Where the old PC hangs
//
// Function 0 of device 31 is the bridge to what used to be the ISA bus: interrupt controllers, timer, keyboard, clock, the firmware's flash. None of
// these has a place in PCI's order. The bridge's own registers decide the few things about them that are not fixed since 1984: where the power
// management registers are, which interrupt line the PIRQs arrive on, and, in a block in memory, which PIRQ each pin inside the chipset drives.
//
// ::layout LPC_REGISTERS -- The bridge's own registers.
//
// ::layout CHIPSET_REGISTERS -- The block in memory, where it is used.

import type { Bus, Region, Registers } from '../../03-vcpu-loop/devices/bus.ts';
import { describe, field, kind, type SavedPart, savedPart } from '../../03-vcpu-loop/devices/state.ts';
import { PM_PORTS } from '../platform/pm.ts';
import { type RegisterActions, RegisterFile, type RegisterRow, registerTable } from '../registers.ts';
import type { Wire } from '../wires.ts';
import { PciFunction } from './function.ts';
import type { MovableWire, SharedLines } from './lines.ts';
import { PRIORITY } from './pci-bus.ts';
import { DEVICE_ROUTE_RESET, type PirqRouter, ROUTE_OFF } from './pirq.ts';

const SOURCE = 'Intel I/O Controller Hub 9 Family data sheet';

const PMBASE_ADDRESS = 0xff80;

// biome-ignore format: table
export const LPC_REGISTERS = registerTable('ich9-lpc', `${SOURCE}, LPC Interface PCI Configuration Registers (D31:F0)`, {
  PMBASE:      { offset: 0x40, bytes: 4, access: 'rw', reset: 1, writable: PMBASE_ADDRESS, text: 'where the power management ports are' },
  ACPI_CNTL:   { offset: 0x44, bytes: 1, access: 'rw', writable: 0x87, text: 'bit 7: they answer; bits 2:0: the line of the SCI' },
  GPIOBASE:    { offset: 0x48, bytes: 4, access: 'rw', reset: 1, writable: 0xff80, text: 'general-purpose pins: kept, nobody answers there' },
  GC:          { offset: 0x4c, bytes: 1, access: 'rw', writable: 0x11, text: 'their switch' },
  PIRQA_ROUT:  { offset: 0x60, bytes: 1, access: 'rw', reset: ROUTE_OFF, writable: 0x8f, count: 4, text: 'PIRQ A to D: bit 7 off, else the ISA line' },
  SIRQ_CNTL:   { offset: 0x64, bytes: 1, access: 'rw', reset: 0x10, writable: 0xc3, text: 'serial interrupts: kept' },
  PIRQE_ROUT:  { offset: 0x68, bytes: 1, access: 'rw', reset: ROUTE_OFF, writable: 0x8f, count: 4, text: 'PIRQ E to H' },
  LPC_IO_DEC:  { offset: 0x80, bytes: 2, access: 'rw', writable: 0x1377, text: 'which addresses serial and parallel ports have: kept' },
  LPC_EN:      { offset: 0x82, bytes: 2, access: 'rw', writable: 0x3f0f, text: 'which of them are passed on: kept' },
  GEN_DEC:     { offset: 0x84, bytes: 4, access: 'rw', writable: 0x00fc_fffd, count: 4, text: 'further ports to pass on: kept' },
  GEN_PMCON_1: { offset: 0xa0, bytes: 2, access: 'rw', writable: 0x1e37, text: 'power management: kept; bit 4 locks SMI_EN' },
  GEN_PMCON_2: { offset: 0xa2, bytes: 1, access: 'rw', writable: 0x1c, text: 'power management: kept' },
  GEN_PMCON_3: { offset: 0xa4, bytes: 2, access: 'rw', writable: 0x1cf9, text: 'power management: kept' },
  BIOS_CNTL:   { offset: 0xdc, bytes: 1, access: 'rw', writable: 0x03, text: 'writing of the flash: kept; this one cannot be written' },
  RCBA:        { offset: 0xf0, bytes: 4, access: 'rw', writable: 0xffff_c001, text: 'where the block of chipset registers is; bit 0: it answers' },
});

// biome-ignore format: table
export const CHIPSET_REGISTERS = registerTable('ich9-rcba', `${SOURCE}, Chipset Configuration Registers`, {
  D31IP:  { offset: 0x3100, bytes: 4, access: 'rw', reset: 0x0324_3200, text: 'which pin each function of device 31 uses' },
  D30IP:  { offset: 0x3104, bytes: 4, access: 'ro', text: 'of device 30: none' },
  D29IP:  { offset: 0x3108, bytes: 4, access: 'rw', reset: 0x1000_4321, text: 'of device 29' },
  D28IP:  { offset: 0x310c, bytes: 4, access: 'rw', reset: 0x0021_4321, text: 'of device 28' },
  D27IP:  { offset: 0x3110, bytes: 4, access: 'rw', reset: 0x0000_0001, text: 'of device 27' },
  D26IP:  { offset: 0x3114, bytes: 4, access: 'rw', reset: 0x3000_0321, text: 'of device 26' },
  D25IP:  { offset: 0x3118, bytes: 4, access: 'rw', reset: 0x0000_0001, text: 'of device 25' },
  D31IR:  { offset: 0x3140, bytes: 2, access: 'rw', reset: DEVICE_ROUTE_RESET, text: 'which PIRQ each pin of device 31 drives' },
  D30IR:  { offset: 0x3142, bytes: 2, access: 'ro', text: 'of device 30: the board decides' },
  D29IR:  { offset: 0x3144, bytes: 2, access: 'rw', reset: DEVICE_ROUTE_RESET, text: 'of device 29' },
  D28IR:  { offset: 0x3146, bytes: 2, access: 'rw', reset: DEVICE_ROUTE_RESET, text: 'of device 28' },
  D27IR:  { offset: 0x3148, bytes: 2, access: 'rw', reset: DEVICE_ROUTE_RESET, text: 'of device 27' },
  D26IR:  { offset: 0x314c, bytes: 2, access: 'rw', reset: DEVICE_ROUTE_RESET, text: 'of device 26' },
  D25IR:  { offset: 0x3150, bytes: 2, access: 'rw', reset: DEVICE_ROUTE_RESET, text: 'of device 25' },
  RTC_CONF: { offset: 0x3400, bytes: 4, access: 'rw', writable: 0x1c, text: 'locks of the clock: kept' },
  HPTC:   { offset: 0x3404, bytes: 4, access: 'rw', writable: 0x83, text: 'where the event timer would be: kept; there is none' },
  GCS:    { offset: 0x3410, bytes: 4, access: 'rw', text: 'control and status: kept' },
  FD:     { offset: 0x3418, bytes: 4, access: 'rw', text: 'functions switched off: kept' },
});

/** Size of the block. */
const RCBA_BYTES = 0x4000;

type ChipsetRegister = keyof (typeof CHIPSET_REGISTERS)['rows'];

const CHIPSET_NAMES = Object.keys(CHIPSET_REGISTERS.rows) as ChipsetRegister[];

const { rows: R } = LPC_REGISTERS;

const ACPI_ENABLE = 1 << 7;
const SCI_LINES = [9, 10, 11, null, 20, 21, null, null] as const; // by the selection in ACPI_CNTL

interface LpcOptions {
  readonly lines: SharedLines;
  readonly pirqs: PirqRouter;
  readonly io: Bus;
  readonly memory: Bus;
}

export class LpcBridge extends PciFunction {
  /** The system control interrupt of whoever is behind PMBASE; the guest chooses its line. */
  readonly sci: Wire;
  readonly #sci: MovableWire;
  readonly #pirqs: PirqRouter;
  readonly #io: Bus;
  readonly #chipset: Region;
  readonly #values = new Map<ChipsetRegister, number>();
  #pm: Region | null = null;

  constructor({ lines, pirqs, io, memory }: LpcOptions) {
    super({
      name: 'lpc',
      identity: { vendorId: 0x8086, deviceId: 0x2918, revisionId: 2, classCode: 0x060100, multiFunction: true },
      onReset: () => this.#resetChipset(),
    });
    this.#pirqs = pirqs;
    this.#io = io;
    this.#sci = lines.source(SCI_LINES[0]);
    this.sci = this.#sci;
    this.#chipset = memory.region(this.#makeChipset(), { priority: PRIORITY.CHIPSET });
    const { config } = this;
    config.declare(LPC_REGISTERS);
    this.reserve(0x40, 0xc0); // all of it is the chip's own
    config.on(R.PMBASE.offset, R.ACPI_CNTL.offset + 1 - R.PMBASE.offset, () => this.#placePm());
    config.on(R.PIRQA_ROUT.offset, 4, () => this.#route(R.PIRQA_ROUT.offset, 0));
    config.on(R.PIRQE_ROUT.offset, 4, () => this.#route(R.PIRQE_ROUT.offset, 4));
    config.on(R.RCBA.offset, 4, () => {
      const value = config.load(R.RCBA.offset, 4);
      this.#chipset.place(value & 1 ? value - (value % RCBA_BYTES) : null, RCBA_BYTES);
    });
  }

  /** Connects the power management block: its 128 ports appear where the guest says. */
  connectPm(registers: Registers): void {
    this.#pm = this.#io.region(registers, { priority: PRIORITY.CHIPSET });
    this.#placePm();
  }

  /** Where the power management ports are; null while they are switched off. */
  get pmBase(): number | null {
    const control = this.config.load(R.ACPI_CNTL.offset, 1);
    const base = this.config.load(R.PMBASE.offset, 4) & PMBASE_ADDRESS;
    return control & ACPI_ENABLE && base !== 0 ? base : null;
  }

  // @clause ich9.pmbase.place
  #placePm(): void {
    this.#pm?.place(this.pmBase, PM_PORTS.ich9);
    this.#sci.connect(SCI_LINES[this.config.load(R.ACPI_CNTL.offset, 1) & 7] ?? null);
  }

  // @clause ich9.pirq.isa-route
  #route(offset: number, first: number): void {
    for (let index = 0; index < 4; index++) this.#pirqs.routeIsa(first + index, this.config.load(offset + index, 1));
  }

  // ## The block in memory
  // @clause ich9.pirq.device-route

  #makeChipset(): Registers {
    const rows = Object.entries(CHIPSET_REGISTERS.rows) as [ChipsetRegister, RegisterRow][];
    const actions = rows.map(([name, { reset = 0, writable = 0xffff_ffff }]): [string, RegisterActions] => [
      name,
      {
        read: () => this.#values.get(name) ?? reset,
        write: (value) => this.#writeChipset(name, (value & writable) >>> 0),
      },
    ]);
    return new RegisterFile(CHIPSET_REGISTERS, Object.fromEntries(actions));
  }

  #writeChipset(name: ChipsetRegister, value: number): void {
    this.#values.set(name, value);
    const device = /^D(\d+)IR$/.exec(name)?.[1];
    if (device) this.#pirqs.routeDevice(Number(device), value);
  }

  #resetChipset(): void {
    this.#values.clear();
    for (let device = 25; device < 32; device++) this.#pirqs.routeDevice(device, DEVICE_ROUTE_RESET);
  }

  // ## State

  static readonly STATE_OF_CHIPSET = describe<LpcBridge>('chipset registers', 1, {
    values: field(
      kind.list(kind.record({ name: kind.oneOf(CHIPSET_NAMES), value: kind.u32 }), CHIPSET_NAMES.length),
      (lpc) => [...lpc.#values].map(([name, value]) => ({ name, value })),
      (lpc, values) => {
        lpc.#values.clear();
        for (const { name, value } of values) lpc.#values.set(name, value);
      },
    ),
  });

  override savedParts(name: string): SavedPart[] {
    return [...super.savedParts(name), savedPart(`${name} registers`, this, LpcBridge.STATE_OF_CHIPSET)];
  }
}
