// # The IDE function of a chipset
//
// On a PCI machine the two channels belong to a function of the chipset. It says in its programming interface that they are in *compatibility mode*:
// at the addresses and interrupt lines of the AT, with no base address registers for them. All that PCI adds is the bus master, behind BAR 4.
//
// The model is the PIIX3's, which every system since Windows 95 and Linux 2.0 has a driver for. Its timing registers set how fast the chip drives the
// cable; there is no cable here, so they only keep what is written. One bit in each matters to software: bit 15 says that the channel is
// enabled, and Linux skips a channel without it. Firmware sets the bits; on a machine started without firmware they are set already.
//
// ::layout PIIX_IDE_CONFIG -- What the function adds to its configuration space.

import type { Trace } from '../../01-hardware-background/trace.ts';
import type { Bus } from '../../03-vcpu-loop/devices/bus.ts';
import { type SavedPart, savedPart } from '../../03-vcpu-loop/devices/state.ts';
import { PciFunction } from '../pci/function.ts';
import { registerTable } from '../registers.ts';
import type { Wire } from '../wires.ts';
import { BUS_MASTER_PORTS, BusMaster } from './bus-master.ts';
import { AtaChannel } from './channel.ts';
import type { AtaDevice } from './device.ts';
import { PRIMARY_PORTS, SECONDARY_PORTS } from './task-file.ts';

const IDE_ENABLED = 0x8000;

export const PIIX_IDE_CONFIG = registerTable('piix-ide-config', 'Intel 82371SB (PIIX3), IDE Controller Register Descriptions, PCI function 1', {
  IDETIM: { offset: 0x40, bytes: 2, access: 'rw', count: 2, reset: IDE_ENABLED, text: 'timing of a channel; bit 15 enables it' },
  SIDETIM: { offset: 0x44, bytes: 1, access: 'rw', text: 'timing of the second drives' },
});

/** Mass storage, IDE, compatibility mode on both channels, with bus master. */
const CLASS_IDE_LEGACY_MASTER = 0x01_01_80;
const BUS_MASTER_BAR = 4;

/** Two drives of a channel: master and slave, as they were called. */
type Drives = readonly [AtaDevice | null, AtaDevice | null];

interface PiixIdeOptions {
  readonly primary: Drives;
  readonly secondary: Drives;
  /** Interrupt lines 14 and 15. */
  readonly irqs: readonly [Wire, Wire];
  readonly trace?: Trace | null;
}

export class PiixIde extends PciFunction {
  readonly channels: readonly [AtaChannel, AtaChannel];
  readonly #busMaster: BusMaster;

  constructor({ primary, secondary, irqs, trace = null }: PiixIdeOptions) {
    const channels = [new AtaChannel(primary, irqs[0]), new AtaChannel(secondary, irqs[1])] as const;
    // The function decides whether the engine may reach memory; but the engine is part of the function. So it asks when it needs to know.
    const busMaster = new BusMaster(
      channels,
      { read: (gpa, into) => this.dma.read(gpa, into), write: (gpa, from) => this.dma.write(gpa, from) },
      trace,
    );
    super({
      name: 'piix-ide',
      identity: { vendorId: 0x8086, deviceId: 0x7010, classCode: CLASS_IDE_LEGACY_MASTER },
      bars: [{ index: BUS_MASTER_BAR, kind: 'io', bytes: BUS_MASTER_PORTS, registers: busMaster.registers }],
      onReset: () => {
        for (const channel of channels) channel.reset();
        busMaster.reset();
      },
    });
    this.channels = channels;
    this.#busMaster = busMaster;
    this.reserve(PIIX_IDE_CONFIG.rows.IDETIM.offset, 8);
    this.config.declare(PIIX_IDE_CONFIG);
  }

  /** Puts the channels where the AT had them. */
  attach(io: Bus): void {
    [PRIMARY_PORTS, SECONDARY_PORTS].forEach(({ command, control }, index) => {
      const channel = this.channels[index] as AtaChannel;
      io.attach(command, 8, channel.command);
      io.attach(control, 1, channel.control);
    });
  }

  override get busyNow(): string | null {
    return this.channels.some((channel) => channel.busyNow) ? 'an IDE drive is in the middle of a command' : null;
  }

  override savedParts(name: string): SavedPart[] {
    return [
      ...super.savedParts(name),
      ...this.channels.flatMap((channel, index) => channel.savedParts(`ide.${index}`)),
      savedPart('ide bus master', this.#busMaster, BusMaster.STATE),
    ];
  }
}
