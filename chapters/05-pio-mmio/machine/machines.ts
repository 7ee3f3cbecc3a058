// # The two PCs
//
// They are one class with two chipsets. The younger one is what a description gets that asks for nothing.

import { I440fx } from '../pci/i440fx.ts';
import { type MachineType, machineTypes } from './machine-types.ts';
import { Pc, type PcChipset, Q35_CHIPSET } from './pc.ts';

/** RAM ends where QEMU's does: there is no configuration space to leave room for. */
const I440FX_CHIPSET: PcChipset = { lowLimit: 0xc000_0000, make: (options) => new I440fx(options) };

const pcType = (name: string, text: string, chipset: PcChipset): MachineType => ({
  name,
  text,
  properties: {},
  takesFirmware: true,
  build: (options) => new Pc({ ...options, chipset }),
});

machineTypes.install(pcType('q35', 'a PC of 2007, with PCI Express: Q35 and ICH9', Q35_CHIPSET));
machineTypes.install(pcType('pc', 'a PC of 1996, with PCI: i440FX, PIIX3, and the power management of the PIIX4', I440FX_CHIPSET));
