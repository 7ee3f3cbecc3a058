// # A paused PC
//
// The drivers of this chapter on the machine of the last one, whose processor stands still. Accesses go to the two buses as if the processor had made
// them; memory is a stretch of the guest's that nobody else uses; interrupt messages are cells in it.

import type { Bus } from '../../03-vcpu-loop/devices/bus.ts';
import { type DriverBus, type DriverMemory, MessageCells, type RegisterSpace } from './bus.ts';

/** A bus of the machine, as a driver sees it. */
export const registerSpace = (bus: Bus): RegisterSpace => ({
  read: (address, width) => Number(bus.read(address, width)),
  write: (address, width, value) => bus.write(address, width, BigInt(value >>> 0)),
});

export interface MachineBusOptions {
  readonly ports: Bus;
  readonly mmio: Bus;
  readonly dma: DriverMemory;
  /** Lets time pass, while a driver waits. */
  readonly advance?: () => void;
}

/** A machine that does not run, for drivers. */
export function machineBus({ ports, mmio, dma, advance = () => {} }: MachineBusOptions): DriverBus {
  const messages = new MessageCells(dma);
  return {
    ports: registerSpace(ports),
    memory: registerSpace(mmio),
    dma,
    messages,
    relax() {
      advance();
      messages.poll();
    },
  };
}
