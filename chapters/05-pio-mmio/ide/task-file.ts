// # The task file
//
// The IBM AT's disk controller was a card with eight ports, which a program loaded like a form: how many sectors, which cylinder, which head;
// and, last, what to do. When controllers moved onto the drives ("integrated drive electronics") the form stayed, and with it the
// port addresses {{PRIMARY_PORTS.command.toString(16)}} and {{SECONDARY_PORTS.command.toString(16)}} hexadecimal. Forty years later it is the one
// disk interface that every operating system has a driver for, which is why a hypervisor offers it: not for speed.
//
// ::layout TASK_FILE -- The command block: eight ports, most of them two registers, depending on whether they are read or written.
//
// The form has bytes for a 28-bit address. Larger disks made each byte two deep: a driver writes the upper half first and then the lower, and reads
// the upper halves back with the HOB bit of the control register.

import { registerTable } from '../registers.ts';

// The data register is sixteen bits wide at offset 0, so it also covers offset 1, where a byte access finds another register. Its row comes last: the
// table gives an offset to the row that names it first.

export const TASK_FILE = registerTable('ide', 'ATA/ATAPI-6, Register definitions and descriptions', {
  ERROR_FEATURES: { offset: 1, bytes: 1, access: 'rw', reset: 1, text: 'read: why the last command failed; written: an argument of the next' },
  SECTOR_COUNT: { offset: 2, bytes: 1, access: 'rw', reset: 1, text: 'how many sectors, 0 for 256 (65,536 when two deep)' },
  LBA_LOW: { offset: 3, bytes: 1, access: 'rw', reset: 1, text: 'address bits 7:0 (31:24), or the sector within the track' },
  LBA_MID: { offset: 4, bytes: 1, access: 'rw', text: 'address bits 15:8 (39:32), or the low cylinder' },
  LBA_HIGH: { offset: 5, bytes: 1, access: 'rw', text: 'address bits 23:16 (47:40), or the high cylinder' },
  DEVICE: { offset: 6, bytes: 1, access: 'rw', text: 'bit 4 selects the drive, bit 6 block addresses; 3:0 address bits 27:24, or the head' },
  STATUS_COMMAND: { offset: 7, bytes: 1, access: 'rw', reset: 0x50, text: 'read: status, and the interrupt is acknowledged; written: go' },
  DATA: { offset: 0, bytes: 2, access: 'rw', text: 'the next sixteen bits of a sector' },
});

/** The control block: one port that matters, elsewhere. */
export const CONTROL_BLOCK = registerTable('ide-control', 'ATA/ATAPI-6, Register definitions and descriptions', {
  ALTERNATE_STATUS_CONTROL: {
    offset: 0,
    bytes: 1,
    access: 'rw',
    reset: 0x50,
    text: 'read: status, and nothing is acknowledged; written: nIEN, SRST, HOB',
  },
});

/** Where the two channels have been since the AT: eight ports, the control port, the interrupt line of the 8259. */
export const PRIMARY_PORTS = { command: 0x1f0, control: 0x3f6, irq: 14 } as const;
export const SECONDARY_PORTS = { command: 0x170, control: 0x376, irq: 15 } as const;

export const STATUS = { BSY: 0x80, DRDY: 0x40, DF: 0x20, DSC: 0x10, DRQ: 0x08, ERR: 0x01 } as const;
export const ERROR = { UNC: 0x40, IDNF: 0x10, ABRT: 0x04 } as const;
export const CONTROL = { HOB: 0x80, SRST: 0x04, NIEN: 0x02 } as const;
export const DEVICE = { LBA: 0x40, DEV: 0x10 } as const;

// ## How long it takes
//
// A real disk's answers have a distribution; ours have constants, so that a run repeats. They are those of a quick solid-state disk: a command costs
// {{COMMAND_NS / 1000}} µs, and each sector {{SECTOR_NS / 1000}} µs more, which is {{Math.round(512 / SECTOR_NS * 1000)}} megabytes a second.

export const COMMAND_NS = 20_000;
export const SECTOR_NS = 5_000;
/** From the release of reset to the signature. The standard allows a disk that has to spin up 31 seconds. */
export const RESET_NS = 500_000;
