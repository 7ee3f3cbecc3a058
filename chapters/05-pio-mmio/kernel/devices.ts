// # Chips on the kernel's bus
//
// The models answer by registers; the kernel's bus asks by address. Between them is a device of the kernel's bus, which differs from one in user space in
// a detail that guests can see: a chip of KVM's takes an access as a whole, or not at all, and what it makes of a width that the chip does not have was
// decided chip by chip.

import type { KernelDevice } from '../../02-kvm-objects/soft/io-bus.ts';
import type { Registers, Width } from '../../03-vcpu-loop/devices/bus.ts';

/** Registers that take every width by themselves. */
export const device = (base: number, registers: Registers): KernelDevice => ({
  read: (address, bytes) => registers.read(address - base, bytes as Width),
  write(address, bytes, value) {
    registers.write(address - base, bytes as Width, value);
    return true;
  },
});

// @clause kvm.pic.byte-wide
/** The 8259s: a wider read gives zeros, a wider write is ignored. Linux: `picdev_read()`, `picdev_write()`. */
export const byteOrNothing = (base: number, registers: Registers): KernelDevice => ({
  read: (address, bytes) => (bytes === 1 ? registers.read(address - base, 1) : 0n),
  write(address, bytes, value) {
    if (bytes === 1) registers.write(address - base, 1, value);
    return true;
  },
});

// @clause kvm.pit.low-byte
/** The 8254: a wider read is the byte with zeros above it, a wider write is its low byte. Linux: `pit_ioport_read()`, `pit_ioport_write()`. */
export const lowByte = (base: number, registers: Registers): KernelDevice => ({
  read: (address) => registers.read(address - base, 1),
  write(address, _bytes, value) {
    registers.write(address - base, 1, value & 0xffn);
    return true;
  },
});
