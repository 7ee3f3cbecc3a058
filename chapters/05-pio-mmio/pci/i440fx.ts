// # The older memory controller, and its board
//
// The 440FX of 1996 came with the Pentium Pro, and every virtual machine monitor since VMware's first has had it: simple, described to the last
// bit, and known to every operating system. There is no PCI Express, so configuration space has one door, and every device is on one bus that is
// numbered from 0. The south bridge is the PIIX3, three functions of device {{PIIX_DEVICE}}.
//
// ::layout I440FX_REGISTERS -- What firmware programs in the 440FX, as far as it matters here.

import { registerTable } from '../registers.ts';
import { Chipset, type ChipsetOptions, type PciPlace } from './chipset.ts';
import { PciFunction } from './function.ts';
import { followPam, PAM_REGISTERS, type SwitchArea } from './pam.ts';
import { IsaBridge, Piix4Pm, preparePiix } from './piix3.ts';
import { PIIX_WIRING } from './pirq.ts';

const DRAM_ROWS = 8;

// biome-ignore format: table
export const I440FX_REGISTERS = registerTable('i440fx', 'Intel 82441FX (PMC) data sheet, Configuration Registers', {
  PMCCFG: { offset: 0x50, bytes: 2, access: 'rw', writable: 0x0003, text: 'configuration of the chip: kept' },
  DETURBO: { offset: 0x52, bytes: 1, access: 'rw', text: 'how to be slow on purpose: kept' },
  DBC:    { offset: 0x53, bytes: 1, access: 'rw', reset: 0x80, text: 'buffers of the data path: kept' },
  AXC:    { offset: 0x54, bytes: 1, access: 'rw', text: 'access to the second chip: kept' },
  DRT:    { offset: 0x55, bytes: 2, access: 'rw', text: 'what kind of memory is in each row: kept' },
  DRAMC:  { offset: 0x57, bytes: 1, access: 'rw', reset: 0x01, text: 'refresh: kept' },
  DRAMT:  { offset: 0x58, bytes: 1, access: 'rw', reset: 0x10, text: 'timing: kept' },
  PAM0:   { offset: 0x59, bytes: 1, access: 'rw', writable: 0x30, text: 'the last 64 KiB below 1 MiB' },
  PAM:    { offset: 0x5a, bytes: 1, access: 'rw', writable: 0x33, count: PAM_REGISTERS, text: 'twice 16 KiB each, from 768 KiB up' },
  DRB:    { offset: 0x60, bytes: 1, access: 'rw', reset: 0x01, count: DRAM_ROWS, text: 'where each row of memory ends: kept' },
  FDHC:   { offset: 0x68, bytes: 1, access: 'rw', writable: 0xc0, text: 'a hole below 16 MiB: kept, without effect' },
  MTT:    { offset: 0x70, bytes: 1, access: 'rw', text: 'how long PCI may have the bus: kept' },
  CLT:    { offset: 0x71, bytes: 1, access: 'rw', reset: 0x10, text: 'how long the processor may: kept' },
  SMRAM:  { offset: 0x72, bytes: 1, access: 'rw', reset: 0x02, writable: 0x78, text: 'system management memory: kept, and can be locked, without effect' },
  ERRCMD: { offset: 0x90, bytes: 1, access: 'rw', text: 'which errors are reported: kept' },
  ERRSTS: { offset: 0x91, bytes: 1, access: 'rw1c', writable: 0x11, text: 'which have happened: none' },
  TRC:    { offset: 0x93, bytes: 1, access: 'rw', writable: 0x06, text: 'where resets came from in the chip\u2019s first days: kept' },
});

const { rows: R } = I440FX_REGISTERS;
const SMRAM = { OPEN: 1 << 6, LOCK: 1 << 4 } as const;

class HostBridge extends PciFunction {
  constructor(onPam: SwitchArea) {
    super({ name: 'i440fx', identity: { vendorId: 0x8086, deviceId: 0x1237, revisionId: 2, classCode: 0x060000 } });
    const { config } = this;
    config.declare(I440FX_REGISTERS);
    this.reserve(0x40, 0xc0); // all of it is the chip's own
    followPam(config, R.PAM0.offset, onPam);
    // @clause q35.smram.lock
    config.on(R.SMRAM.offset, 1, () => {
      const locked = (config.load(R.SMRAM.offset, 1) & SMRAM.LOCK) !== 0;
      config.allow(R.SMRAM.offset, 1, locked ? 0 : (R.SMRAM.writable ?? 0));
      if (locked) config.flag(R.SMRAM.offset, 1, SMRAM.OPEN, false);
    });
  }
}

/** Slot of the south bridge. */
export const PIIX_DEVICE = 1;
const IDE_FUNCTION = 1;
const PM_FUNCTION = 3;
const SLOTS = 32;

export class I440fx extends Chipset {
  override readonly pmChip = 'piix4';
  override readonly isaBridge: PciPlace = { device: PIIX_DEVICE, number: 0 };
  override readonly idePlace: PciPlace = { device: PIIX_DEVICE, number: IDE_FUNCTION };
  override readonly slots = [PIIX_DEVICE + 1, SLOTS] as const;
  override readonly ecamPlan = null;
  readonly isa: IsaBridge;
  readonly pm: Piix4Pm;

  constructor(options: ChipsetOptions) {
    super(options, PIIX_WIRING);
    const { ports, onPam = () => {} } = options;
    this.root.add(new HostBridge(onPam), 0);
    this.isa = this.root.add(new IsaBridge(this.pirqs), PIIX_DEVICE, 0);
    this.pm = this.root.add(new Piix4Pm({ lines: this.lines, io: ports }), PIIX_DEVICE, PM_FUNCTION);
  }

  protected override get pmPlace(): Piix4Pm {
    return this.pm;
  }

  override prepare(): void {
    preparePiix(this.config, PIIX_DEVICE << 3, (PIIX_DEVICE << 3) + PM_FUNCTION);
  }
}
