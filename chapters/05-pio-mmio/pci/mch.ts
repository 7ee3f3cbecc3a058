// # The memory controller
//
// Device 0 of bus 0 is the chip that stands between the processor, the memory and everything else, and it decides which of them an address means.
// Firmware meets two of its decisions at once. One is where configuration space appears in memory. The other is the stretch below one megabyte,
// where a PC has had its firmware since 1981: it is switched between ROM and RAM piece by piece.
//
// ::layout MCH_REGISTERS -- What firmware programs in the memory controller.

import { registerTable } from '../registers.ts';
import type { Ecam } from './config-access.ts';
import type { ConfigWidth } from './config-space.ts';
import { PciFunction } from './function.ts';
import { followPam, PAM_REGISTERS, type SwitchArea } from './pam.ts';

// biome-ignore format: table
export const MCH_REGISTERS = registerTable('82q35-mch', 'Intel 3 Series Express Chipset Family data sheet, DRAM Controller Registers (D0:F0)', {
  PCIEXBAR:       { offset: 0x60, bytes: 4, access: 'rw', reset: 0xe000_0000, writable: 0xfc00_0007, text: 'the memory window of configuration space' },
  PCIEXBAR_UPPER: { offset: 0x64, bytes: 4, access: 'rw', writable: 0xf, text: 'bits 35:32 of its address' },
  PAM0:           { offset: 0x90, bytes: 1, access: 'rw', writable: 0x30, text: 'the last 64 KiB below 1 MiB' },
  PAM:            { offset: 0x91, bytes: 1, access: 'rw', writable: 0x33, count: PAM_REGISTERS, text: 'twice 16 KiB each, from 768 KiB up' },
  LAC:            { offset: 0x97, bytes: 1, access: 'rw', writable: 0x81, text: 'a hole below 16 MiB, and where the MDA is: kept, without effect' },
  SMRAM:          { offset: 0x9d, bytes: 1, access: 'rw', reset: 0x02, writable: 0x78, text: 'system management memory: kept, and can be locked, without effect' },
  ESMRAMC:        { offset: 0x9e, bytes: 1, access: 'rw', reset: 0x38, writable: 0x87, text: 'more of it' },
  TOM:            { offset: 0xa0, bytes: 2, access: 'rw', reset: 0x0001, writable: 0x03ff, text: 'top of memory, in 64 MiB' },
  TOUUD:          { offset: 0xa2, bytes: 2, access: 'rw', text: 'top of what is usable above 4 GiB, in MiB' },
  TSEGMB:         { offset: 0xac, bytes: 4, access: 'rw', writable: 0xfff0_0000, text: 'where system management memory ends' },
  TOLUD:          { offset: 0xb0, bytes: 2, access: 'rw', reset: 0x0010, writable: 0xfff0, text: 'top of what is usable below 4 GiB, in MiB' },
});

const { rows: R } = MCH_REGISTERS;

/** Where the chip's own registers are: no capability is put among them. */
const OWN_REGISTERS = { from: 0x40, bytes: 0xa0 } as const;

// Bits of SMRAM and of the window's register.
const SMRAM = { OPEN: 1 << 6, LOCK: 1 << 4 } as const;
const PCIEXBAR_ENABLE = 1;
const PCIEXBAR_LENGTHS = [0x1000_0000, 0x800_0000, 0x400_0000] as const; // the fourth value is reserved

interface MchOptions {
  readonly ecam: Ecam;
  readonly onPam: SwitchArea;
}

export class MemoryController extends PciFunction {
  readonly #ecam: Ecam;

  constructor({ ecam, onPam }: MchOptions) {
    super({ name: 'mch', identity: { vendorId: 0x8086, deviceId: 0x29c0, revisionId: 2, classCode: 0x060000 } });
    this.#ecam = ecam;
    const { config } = this;
    config.declare(MCH_REGISTERS);
    this.reserve(OWN_REGISTERS.from, OWN_REGISTERS.bytes);
    config.on(R.PCIEXBAR.offset, 8, () => this.#placeWindow());
    followPam(config, R.PAM0.offset, onPam);
    config.on(R.SMRAM.offset, 1, () => this.#lock());
  }

  // @clause q35.pciexbar.place
  #placeWindow(): void {
    const low = this.config.load(R.PCIEXBAR.offset, 4);
    const bytes = PCIEXBAR_LENGTHS[(low >>> 1) & 3];
    const base = this.config.load(R.PCIEXBAR_UPPER.offset, 4) * 2 ** 32 + low;
    // A longer window has a coarser address: the bits below its length do not count.
    if (bytes !== undefined && low & PCIEXBAR_ENABLE) this.#ecam.place(base - (base % bytes), bytes);
    else this.#ecam.place(null, 0);
  }

  // Firmware closes system management memory before it starts anything that it does not trust, and the lock holds until a reset.
  // @clause q35.smram.lock
  #lock(): void {
    const { config } = this;
    const locked = (config.load(R.SMRAM.offset, 1) & SMRAM.LOCK) !== 0;
    for (const { offset, bytes, writable = 0 } of [R.SMRAM, R.ESMRAMC, R.TSEGMB]) config.allow(offset, bytes as ConfigWidth, locked ? 0 : writable);
    if (locked) config.flag(R.SMRAM.offset, 1, SMRAM.OPEN, false);
  }
}
