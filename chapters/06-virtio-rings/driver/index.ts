// # The driver's side
//
// Everything on this page runs where a guest's kernel would run, and none of it needs a guest: given memory that a device can see, and registers if
// the device has some, it drives the device from wherever it is. Linux has the same parts under the same names, in `drivers/virtio`: a `virtqueue` is
// one end of a ring, a `virtio_device` is what was found on some bus, a `virtio_driver` says which devices it is for, and a transport knows the
// registers.
//
// ::include bus.ts
// ::include virtqueue.ts
// ::include split-virtqueue.ts
// ::include packed-virtqueue.ts

export type { InterruptMessages } from './bus.ts';
export { type Balloon, type BalloonDriverOptions, balloonDriver, type Statistics } from './drivers/balloon.ts';
export { type BlockDisk, blockDriver, type SectorRange } from './drivers/block.ts';
export { type Console, type ConsolePort, consoleDriver } from './drivers/console.ts';
export { type EntropySource, entropyDriver } from './drivers/entropy.ts';
export { type Zone, type ZoneAction, ZonedDisk } from './drivers/zoned-disk.ts';
export { type MachineBusOptions, machineBus, registerSpace } from './machine-bus.ts';
export { LoopbackTransport } from './transports/loopback.ts';
export { type MmioTransport, probeMmio } from './transports/mmio.ts';
export { type FoundOnPci, findPciDevices } from './transports/pci.ts';
export { configWindow } from './transports/pci-config-window.ts';
export type { Capability } from './transports/pci-function.ts';
export type { VectorRegisters } from './transports/pci-vectors.ts';
export { VIRTIO_DEV_ANY_ID, VirtioBus } from './virtio-driver.ts';
export type { AddResult, Got, QueueHooks } from './virtqueue.ts';
