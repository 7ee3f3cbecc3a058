// # What every transport can do
//
// Linux calls these operations `virtio_config_ops`. PCI, MMIO and a bare device in the same process each have them; above this line nobody knows
// which it is.

import type { DriverBus, RegisterWidth } from './bus.ts';
import type { AnyVirtqueue } from './virtqueue.ts';

/** Why the device interrupted: bits of the ISR and of InterruptStatus. */
export const INTERRUPT = { USED: 1, CONFIG: 2 } as const;

/** Where interrupts go. */
export interface InterruptHandlers {
  config(): void;
  /** One queue, or null: any of them. */
  used(queue: AnyVirtqueue | null): void;
}

export interface VirtioTransport {
  readonly name: string;
  readonly bus: DriverBus;
  /** The device's type, and whose device it is. */
  readonly deviceId: number;
  readonly vendorId: number;
  /** The interface from before the standard. */
  readonly legacy: boolean;
  /** Alignment of the used ring in the legacy interface's one block; 0 otherwise. */
  readonly legacyAlign: number;
  /** Common features of which it depends on the transport whether they can be used. */
  readonly features: bigint;

  getStatus(): number;
  setStatus(status: number): void;
  /** What the device offers. */
  getFeatures(): bigint;
  /** What the driver takes. */
  setFeatures(features: bigint): void;

  /** Changes with every change of the configuration. Constant where there is none. */
  generation(): number;
  /** Bytes of configuration that can be read, as far as that is known. */
  readonly configBytes: number;
  readConfig(offset: number, width: RegisterWidth): number;
  writeConfig(offset: number, width: RegisterWidth, value: number): void;

  /** The most descriptors that queue `index` can have; 0: there is no such queue. */
  queueSize(index: number): number;
  /** Gives the device its queues, with interrupts for each as good as they can be had. Why not, or null. */
  connect(queues: readonly AnyVirtqueue[], handlers: InterruptHandlers): string | null;
  /** Gives it one of them again. */
  reconnect(queue: AnyVirtqueue): boolean;
  /** Takes one back: false when the device does not let go. */
  resetQueue(queue: AnyVirtqueue): boolean;
  /** Undoes {@link connect}; the device has been reset. */
  disconnect(): void;

  /** Tells the device to look at a queue. `data` is {@link AnyVirtqueue.notificationData}, or null when it was not negotiated. */
  notify(queue: AnyVirtqueue, data: number | null): void;
  /** Why the line is up, and takes it down; 0 where interrupts are messages. */
  isr(): number;
}
