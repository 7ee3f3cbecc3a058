// # What an address is called
//
// A trace speaks of port 0x3f8 and of address 0xfee000b0. A reader wants the words of the data sheet, and the tables have them: a bus says which
// device answers at an address and at which of its offsets, the device's table says which register that is.

import type { Bus } from '../03-vcpu-loop/devices/bus.ts';
import { E1000, E1000_IO } from './e1000/registers.ts';
import { BUS_MASTER } from './ide/bus-master.ts';
import { CONTROL_BLOCK, TASK_FILE } from './ide/task-file.ts';
import { IOAPIC_BASE, IOAPIC_BYTES, IOAPIC_REGISTERS } from './interrupts/ioapic.ts';
import { LAPIC_BASE, LAPIC_BYTES, LAPIC_REGISTERS } from './interrupts/lapic-registers.ts';
import { ELCR_REGISTERS, PIC_REGISTERS } from './interrupts/pic.ts';
import { PIT_REGISTERS, SPEAKER_REGISTERS } from './interrupts/pit.ts';
import { CONFIG_PORTS } from './pci/config-access.ts';
import { fwCfgTable } from './platform/fw-cfg.ts';
import { pmTable } from './platform/pm.ts';
import { type RegisterTable, registerTable } from './registers.ts';
import type { Answerer, Lookup } from './route.ts';

// The serial port is older than these tables, in this book too: chapter 3 has it as a class. Here are its names. Of two on one offset the first is the one
// that a driver meets most.
//
// ::layout UART -- Eight ports, eleven registers: some are told apart by the direction of the access, two by a bit of LCR.

// biome-ignore format: table
export const UART = registerTable('serial', 'National Semiconductor PC16550D data sheet, Register Summary', {
  RBR_THR: { offset: 0, bytes: 1, access: 'rw', text: 'read: what came; written: what is to go (with LCR bit 7: divisor, low)' },
  IER:     { offset: 1, bytes: 1, access: 'rw', text: 'which causes interrupt (with LCR bit 7: divisor, high)' },
  IIR_FCR: { offset: 2, bytes: 1, access: 'rw', reset: 1, text: 'read: which cause it was; written: the FIFOs' },
  LCR:     { offset: 3, bytes: 1, access: 'rw', text: 'bits of a character, parity, and who is at offsets 0 and 1' },
  MCR:     { offset: 4, bytes: 1, access: 'rw', text: 'modem control; OUT2 lets the interrupt through' },
  LSR:     { offset: 5, bytes: 1, access: 'ro', reset: 0x60, text: 'line status: something came, there is room, errors' },
  MSR:     { offset: 6, bytes: 1, access: 'ro', text: 'modem status, and what has changed since it was read' },
  SCR:     { offset: 7, bytes: 1, access: 'rw', text: 'a byte for software' },
});

// A table whose offsets are not those of its region would give wrong names, so only those are here that lie in the bus as they are printed.

// biome-ignore format: table
const TABLES: readonly RegisterTable[] = [
  PIC_REGISTERS, ELCR_REGISTERS, PIT_REGISTERS, SPEAKER_REGISTERS, IOAPIC_REGISTERS, LAPIC_REGISTERS, CONFIG_PORTS, fwCfgTable, pmTable,
  UART, TASK_FILE, CONTROL_BLOCK, BUS_MASTER, E1000, E1000_IO,
];
const byDevice = new Map(TABLES.map((table) => [table.device, table]));

// What is in the kernel is on no bus of the VMM's. Its chips are where every PC has them.

// biome-ignore format: table
const KERNEL_CHIPS: readonly { readonly space: 'port' | 'memory'; readonly at: number; readonly bytes: number; readonly table: RegisterTable }[] = [
  { space: 'memory', at: LAPIC_BASE,  bytes: LAPIC_BYTES,  table: LAPIC_REGISTERS },
  { space: 'memory', at: IOAPIC_BASE, bytes: IOAPIC_BYTES, table: IOAPIC_REGISTERS },
  { space: 'port',   at: 0x20,        bytes: 2,            table: PIC_REGISTERS },
  { space: 'port',   at: 0xa0,        bytes: 2,            table: PIC_REGISTERS },
  { space: 'port',   at: 0x4d0,       bytes: 2,            table: ELCR_REGISTERS },
  { space: 'port',   at: 0x40,        bytes: 4,            table: PIT_REGISTERS },
  { space: 'port',   at: 0x61,        bytes: 1,            table: SPEAKER_REGISTERS },
];

function kernelChip(space: 'port' | 'memory', address: number): { readonly device: { readonly name: string }; readonly offset: number } | null {
  const chip = KERNEL_CHIPS.find((each) => each.space === space && address >= each.at && address < each.at + each.bytes);
  return chip ? { device: { name: chip.table.device }, offset: address - chip.at } : null;
}

/** Looks up addresses in a machine's buses and its devices' tables. */
export const lookupIn =
  ({ ports, mmio }: { readonly ports: Bus; readonly mmio: Bus }): Lookup =>
  (space, address, inKernel = false): Answerer | null => {
    const found = inKernel ? kernelChip(space, address) : (space === 'port' ? ports : mmio).whoAnswers(address);
    if (!found) return null;
    const { device, offset } = found;
    const own = (device as { readonly table?: RegisterTable }).table ?? byDevice.get(device.name);
    const register = own?.at(offset) ?? null;
    const index = register && (register.row.count ?? 1) > 1 ? `[${register.index}]` : '';
    return { device: device.name, offset, register: register ? `${register.name}${index}` : null, text: register?.row.text ?? '' };
  };
