// # Doorbells
//
// The one register that a driver writes in normal operation. Each queue can have a doorbell at an address of its own, `queue_notify_off` times the
// multiplier from the start of the structure, so that whoever listens (a kernel, another process) need not look at the value. What is written is the
// queue's number all the same; and with NOTIFICATION_DATA, in the upper half, how far the ring is filled.

import type { Registers } from '../../03-vcpu-loop/devices/bus.ts';
import type { VirtioDevice } from '../device.ts';

/** Distance of two doorbells. */
// @clause virtio.pci.dev.no-notification-data-multiplier-0
// @clause virtio.pci.dev.notification-data-multiplier-0-power
export const DOORBELL_BYTES = 4;
/** With a page for each, so that each can be mapped alone. */
export const DOORBELL_PAGE_BYTES = 4096;

/** Doorbells side by side: the address is what counts. */
export const doorbells = (device: VirtioDevice, multiplier: number): Registers => ({
  name: `${device.name} doorbells`,
  read: (_offset, width) => (1n << BigInt(8 * width)) - 1n,
  write: (offset, _width, value) => device.kick(Math.floor(offset / multiplier), Number((value >> 16n) & 0xffffn)),
});

/** One doorbell for all queues: the value is what counts. */
export const sharedDoorbell = (device: VirtioDevice): Registers => ({
  name: `${device.name} doorbell`,
  read: (_offset, width) => (1n << BigInt(8 * width)) - 1n,
  write(offset, _width, value) {
    if (offset === 0) device.kick(Number(value & 0xffffn), Number((value >> 16n) & 0xffffn));
  },
});
