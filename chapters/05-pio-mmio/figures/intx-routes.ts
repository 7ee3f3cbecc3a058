import { table } from '../../01-hardware-background/figures/drawing.ts';
import { rootRoutes } from '../pci/pirq.ts';
import { LPC_DEVICE } from '../pci/q35.ts';
import { first } from './index.ts';

const DEVICES = [1, 2, 3, 4, 5, LPC_DEVICE];
const FIRST_GSI = 16;

/** Where INTA# of some devices ends. */
export function render(): string {
  const rows = DEVICES.map((device) => {
    const gsi = rootRoutes().find((route) => route.device === device && route.pin === 0)?.gsi ?? 0;
    const letter = String.fromCharCode(0x41 + first.pc.chipset.pirqs.pirqOf(device, 0));
    const register = gsi - FIRST_GSI < 4 ? 0x60 + gsi - FIRST_GSI : 0x68 + gsi - FIRST_GSI - 4;
    return [`00:${device.toString(16).padStart(2, '0')}`, `PIRQ${letter}`, String(gsi), `0x${register.toString(16)} of 00:1f.0`];
  });
  return table('INTA# of six devices of the root bus', ['device', 'wired to', 'I/O APIC input', 'to an 8259 by register'], rows);
}
