// # The younger board
//
// A Q35: the memory controller, the LPC bridge of an ICH9 with everything behind it, and a second door to configuration space.

import { PM_BASE } from '../platform/pm.ts';
import { Chipset, type ChipsetOptions, type PciPlace } from './chipset.ts';
import { Ecam } from './config-access.ts';
import { LpcBridge } from './lpc.ts';
import { MemoryController } from './mch.ts';
import { Q35_WIRING } from './pirq.ts';

/** Slot of the LPC bridge. */
export const LPC_DEVICE = 31;
const IDE_FUNCTION = 1;

/** Configuration space in memory begins here: QEMU's place, where RAM below 4 GiB ends. */
export const ECAM_GPA = 0xb000_0000;
const ECAM_BUSES = 256;

const ACPI_ENABLE = 0x80;
const RCBA_GPA = 0xfed1_c000;

export class Q35 extends Chipset {
  override readonly pmChip = 'ich9';
  override readonly isaBridge: PciPlace = { device: LPC_DEVICE, number: 0 };
  override readonly idePlace: PciPlace = { device: LPC_DEVICE, number: IDE_FUNCTION };
  override readonly slots = [1, LPC_DEVICE] as const;
  override readonly ecamPlan = { gpa: ECAM_GPA, buses: ECAM_BUSES } as const;
  readonly ecam: Ecam;
  readonly mch: MemoryController;
  readonly lpc: LpcBridge;

  constructor(options: ChipsetOptions) {
    super(options, Q35_WIRING);
    const { ports, memory, onPam = () => {} } = options;
    this.ecam = new Ecam(this.config, memory);
    this.mch = this.root.add(new MemoryController({ ecam: this.ecam, onPam }), 0);
    this.lpc = this.root.add(new LpcBridge({ lines: this.lines, pirqs: this.pirqs, io: ports, memory }), LPC_DEVICE);
  }

  protected override get pmPlace(): LpcBridge {
    return this.lpc;
  }

  override prepare(): void {
    const { config } = this;
    const lpc = LPC_DEVICE << 3;
    config.write(0, 0, 0x64, 4, 0);
    config.write(0, 0, 0x60, 4, ECAM_GPA + 1);
    config.write(0, lpc, 0x40, 4, PM_BASE);
    config.write(0, lpc, 0x44, 1, ACPI_ENABLE);
    config.write(0, lpc, 0xf0, 4, RCBA_GPA + 1);
  }
}
