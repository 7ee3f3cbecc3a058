// # The first sixty-four bytes
//
// Every function begins with the same header, so that software which knows nothing of a device can still name it, give it addresses and switch it
// on. There are two layouts in use: type 0 for devices, type 1 for bridges. They agree in the first sixteen bytes.
//
// ::layout HEADER_0 -- The header of a device.
//
// ::layout HEADER_1 -- The header of a bridge.

import { registerTable } from '../registers.ts';

/** Bits of the command register. */
export const COMMAND = { IO: 1 << 0, MEMORY: 1 << 1, MASTER: 1 << 2, PARITY: 1 << 6, SERR: 1 << 8, INTX_DISABLE: 1 << 10 } as const;

// @clause pci.command
const COMMAND_WRITABLE = COMMAND.IO | COMMAND.MEMORY | COMMAND.MASTER | COMMAND.PARITY | COMMAND.SERR | COMMAND.INTX_DISABLE;

/** Bits of the status register. */
export const STATUS = { INTERRUPT: 1 << 3, CAPABILITIES: 1 << 4 } as const;

const ERRORS = 0xf900; // parity, system error, master and target aborts: the bits that software clears

const SOURCE = 'PCI Local Bus Specification 3.0, Configuration Space Organization';

/** What both layouts begin with. */
// biome-ignore format: table
const COMMON = {
  VENDOR_ID:       { offset: 0x00, bytes: 2, access: 'ro', text: 'who made it' },
  DEVICE_ID:       { offset: 0x02, bytes: 2, access: 'ro', text: 'what it is' },
  COMMAND:         { offset: 0x04, bytes: 2, access: 'rw', writable: COMMAND_WRITABLE, text: 'what it may do' },
  STATUS:          { offset: 0x06, bytes: 2, access: 'rw1c', writable: ERRORS, text: 'what has happened, and whether there is a capability list' },
  REVISION_ID:     { offset: 0x08, bytes: 1, access: 'ro', text: 'which version' },
  CLASS_CODE:      { offset: 0x09, bytes: 1, access: 'ro', count: 3, text: 'what kind of device: interface, subclass, class' },
  CACHE_LINE_SIZE: { offset: 0x0c, bytes: 1, access: 'rw', text: 'in dwords' },
  LATENCY_TIMER:   { offset: 0x0d, bytes: 1, access: 'ro', text: 'bus clocks; nothing here' },
  HEADER_TYPE:     { offset: 0x0e, bytes: 1, access: 'ro', text: 'layout, and bit 7: more functions than one' },
  BIST:            { offset: 0x0f, bytes: 1, access: 'ro', text: 'self test' },
} as const;

/** The header of a device. */
// biome-ignore format: table
export const HEADER_0 = registerTable('pci-header-0', SOURCE, {
  ...COMMON,
  BAR:                 { offset: 0x10, bytes: 4, access: 'ro', count: 6, text: 'base addresses; what is writable depends on the size' },
  CARDBUS_CIS:         { offset: 0x28, bytes: 4, access: 'ro', text: 'of CardBus cards' },
  SUBSYSTEM_VENDOR_ID: { offset: 0x2c, bytes: 2, access: 'ro', text: 'who made the board' },
  SUBSYSTEM_ID:        { offset: 0x2e, bytes: 2, access: 'ro', text: 'which board' },
  ROM:                 { offset: 0x30, bytes: 4, access: 'ro', text: 'base address of the expansion ROM; bit 0 switches it on' },
  CAPABILITIES:        { offset: 0x34, bytes: 1, access: 'ro', text: 'offset of the first capability' },
  // @clause pci.interrupt-line
  INTERRUPT_LINE:      { offset: 0x3c, bytes: 1, access: 'rw', text: 'a note of the firmware to the driver; the hardware does not look' },
  INTERRUPT_PIN:       { offset: 0x3d, bytes: 1, access: 'ro', text: '1 to 4 for INTA# to INTD#, 0 for none' },
  MIN_GNT:             { offset: 0x3e, bytes: 1, access: 'ro', text: 'burst length wanted' },
  MAX_LAT:             { offset: 0x3f, bytes: 1, access: 'ro', text: 'how often' },
});

/** The header of a bridge. */
// biome-ignore format: table
export const HEADER_1 = registerTable('pci-header-1', 'PCI-to-PCI Bridge Architecture Specification 1.2, Configuration Space', {
  ...COMMON,
  BAR:                    { offset: 0x10, bytes: 4, access: 'ro', count: 2, text: 'base addresses of the bridge itself' },
  PRIMARY_BUS:            { offset: 0x18, bytes: 1, access: 'rw', text: 'number of the bus above' },
  SECONDARY_BUS:          { offset: 0x19, bytes: 1, access: 'rw', text: 'number of the bus below' },
  SUBORDINATE_BUS:        { offset: 0x1a, bytes: 1, access: 'rw', text: 'highest number behind it' },
  SECONDARY_LATENCY:      { offset: 0x1b, bytes: 1, access: 'ro', text: 'bus clocks' },
  IO_BASE:                { offset: 0x1c, bytes: 1, access: 'rw', writable: 0xf0, text: 'bits 15:12 of the first port' },
  IO_LIMIT:               { offset: 0x1d, bytes: 1, access: 'rw', writable: 0xf0, text: 'bits 15:12 of the last' },
  SECONDARY_STATUS:       { offset: 0x1e, bytes: 2, access: 'rw1c', writable: ERRORS, text: 'what has happened below' },
  MEMORY_BASE:            { offset: 0x20, bytes: 2, access: 'rw', writable: 0xfff0, text: 'bits 31:20 of the first address' },
  MEMORY_LIMIT:           { offset: 0x22, bytes: 2, access: 'rw', writable: 0xfff0, text: 'bits 31:20 of the last' },
  PREFETCH_BASE:          { offset: 0x24, bytes: 2, access: 'rw', reset: 1, writable: 0xfff0, text: 'the same for prefetchable memory; bit 0: 64 bits' },
  PREFETCH_LIMIT:         { offset: 0x26, bytes: 2, access: 'rw', reset: 1, writable: 0xfff0, text: 'its end' },
  PREFETCH_BASE_UPPER:    { offset: 0x28, bytes: 4, access: 'rw', text: 'bits 63:32' },
  PREFETCH_LIMIT_UPPER:   { offset: 0x2c, bytes: 4, access: 'rw', text: 'bits 63:32' },
  IO_BASE_UPPER:          { offset: 0x30, bytes: 2, access: 'ro', text: 'ports have 16 bits' },
  IO_LIMIT_UPPER:         { offset: 0x32, bytes: 2, access: 'ro', text: 'ports have 16 bits' },
  CAPABILITIES:           { offset: 0x34, bytes: 1, access: 'ro', text: 'offset of the first capability' },
  ROM:                    { offset: 0x38, bytes: 4, access: 'ro', text: 'base address of the expansion ROM' },
  INTERRUPT_LINE:         { offset: 0x3c, bytes: 1, access: 'rw', text: 'a note of the firmware' },
  INTERRUPT_PIN:          { offset: 0x3d, bytes: 1, access: 'ro', text: "the bridge's own" },
  BRIDGE_CONTROL:         { offset: 0x3e, bytes: 2, access: 'rw', writable: 0x0063, text: 'bit 6: reset of the secondary bus; bits 0, 1, 5: errors' },
});

/** Offset of a BAR's register. */
export const barOffset = (index: number): number => HEADER_0.rows.BAR.offset + 4 * index;
