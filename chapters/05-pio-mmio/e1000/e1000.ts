// # The card as a PCI function
//
// Two regions, one in memory and one of ports, and a pin. The identity is the one that drivers look for; it also stands in the EEPROM, from which
// the real card takes it.

import type { Registers } from '../../03-vcpu-loop/devices/bus.ts';
import type { SavedPart } from '../../03-vcpu-loop/devices/state.ts';
import { PciFunction } from '../pci/function.ts';
import { DWORDS, type E1000Options, MEMORY_BYTES, Nic } from './nic.ts';
import { E1000, E1000_IO } from './registers.ts';

const IO_BYTES = 64;
const CLASS_ETHERNET = 0x02_00_00;

export class E1000Function extends PciFunction {
  readonly nic: Nic;

  constructor(options: E1000Options) {
    // The registers need the function for memory and interrupts, and the function needs the registers for its regions.
    const behind = (registers: () => Registers, name: string): Registers => ({
      name,
      impl: DWORDS,
      read: (offset, width) => registers().read(offset, width),
      write: (offset, width, value) => registers().write(offset, width, value),
    });
    super({
      name: E1000.device,
      identity: {
        vendorId: 0x8086,
        deviceId: 0x100e,
        revisionId: 3,
        classCode: CLASS_ETHERNET,
        subsystemVendorId: 0x8086,
        subsystemId: 0x001e,
        interruptPin: 1,
      },
      bars: [
        { index: 0, kind: 'mem32', bytes: MEMORY_BYTES, registers: behind(() => this.nic.registers, E1000.device) },
        { index: 1, kind: 'io', bytes: IO_BYTES, registers: behind(() => this.nic.io, E1000_IO.device) },
      ],
      onReset: () => this.nic.reset(),
    });
    this.nic = new Nic(options, this);
  }

  override savedParts(name: string): SavedPart[] {
    return [...super.savedParts(name), ...this.nic.savedParts(`${name} nic`)];
  }
}
