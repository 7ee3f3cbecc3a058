// # No transport at all
//
// The device is an object in the same program, and the driver calls it. Nothing of virtio is lost: status, features, configuration and queues are the
// device's own; what is missing are the registers in front of them. Tests, benches and the pages in which both sides can be driven use this.
//
// One thing a machine has must be kept: the two sides are never inside each other. A device that interrupts while it answers a kick does not find its
// own next kick in the middle of its work; a processor takes the interrupt *after* the store that caused it. So what one side says while it is being
// called waits until it has returned.

import type { VirtioDevice } from '../../device.ts';
import { F, features } from '../../features.ts';
import type { DriverBus, RegisterWidth } from '../bus.ts';
import type { InterruptHandlers, VirtioTransport } from '../transport.ts';
import type { AnyVirtqueue } from '../virtqueue.ts';

/** Among pending interrupts: the configuration. */
const CONFIG = -1;

/** A driver's hold on a {@link VirtioDevice} without registers in between. */
export class LoopbackTransport implements VirtioTransport {
  readonly name: string;
  readonly bus: DriverBus;
  readonly device: VirtioDevice;
  readonly vendorId = 0x1af4;
  readonly legacy = false;
  readonly legacyAlign = 0;
  readonly features = features(F.RING_RESET, F.NOTIFICATION_DATA);
  /** Notifications in either direction, for those who count. */
  readonly count = { kicks: 0, used: 0, config: 0 };
  #queues: readonly AnyVirtqueue[] = [];
  #inside = false; // the device
  #handling = false; // an interrupt
  readonly #kicks = new Map<number, number>();
  readonly #interrupts = new Set<number>();
  #handlers: InterruptHandlers | null = null;

  constructor(bus: DriverBus, device: VirtioDevice) {
    this.name = device.name;
    this.bus = bus;
    this.device = device;
    device.notifier = {
      usedBuffer: (index) => {
        this.count.used++;
        this.#interrupts.add(index);
      },
      configChange: () => {
        this.count.config++;
        this.#interrupts.add(CONFIG);
      },
    };
  }

  /** Calls the device; afterwards, what it has to say. */
  #call(action: () => void): void {
    this.#inside = true;
    try {
      action();
    } finally {
      this.#inside = false;
    }
    this.settle();
  }

  /** Delivers what the device has said of its own accord, and what follows from it. Inside a handler, interrupts wait until it has returned; kicks do not. */
  settle(): void {
    if (this.#inside) return;
    this.#kick();
    if (this.#handling) return;
    this.#handling = true;
    try {
      for (const index of this.#interrupts) {
        this.#interrupts.delete(index);
        if (index === CONFIG) this.#handlers?.config();
        else for (const queue of this.#queues) if (queue.index === index) this.#handlers?.used(queue);
      }
    } finally {
      this.#handling = false;
    }
  }

  #kick(): void {
    this.#inside = true;
    try {
      for (const [index, data] of this.#kicks) {
        this.#kicks.delete(index);
        this.device.kick(index, data);
      }
    } finally {
      this.#inside = false;
    }
  }

  get deviceId(): number {
    return this.device.model.deviceId;
  }

  getStatus(): number {
    return this.device.status;
  }
  setStatus(status: number): void {
    this.#call(() => this.device.setStatus(status));
  }
  getFeatures(): bigint {
    return this.device.offerTo(false);
  }
  setFeatures(chosen: bigint): void {
    this.device.setDriverFeatures(0, Number(chosen & 0xffff_ffffn));
    this.device.setDriverFeatures(1, Number(chosen >> 32n));
  }

  generation(): number {
    return this.device.generation;
  }
  get configBytes(): number {
    return this.device.model.config.bytes;
  }
  readConfig(offset: number, width: RegisterWidth): number {
    return this.device.readConfig(offset, width);
  }
  writeConfig(offset: number, width: RegisterWidth, value: number): void {
    this.#call(() => this.device.writeConfig(offset, width, value));
  }

  queueSize(index: number): number {
    return this.device.queues[index]?.maxSize ?? 0;
  }

  connect(queues: readonly AnyVirtqueue[], handlers: InterruptHandlers): string | null {
    this.#queues = queues;
    this.#handlers = handlers;
    return queues.every((queue) => this.reconnect(queue)) ? null : 'a queue was not taken';
  }

  reconnect(queue: AnyVirtqueue): boolean {
    const into = this.device.queues[queue.index];
    if (!into) return false;
    const { size, desc, driver, device } = queue.areas;
    into.setSize(size);
    for (const [index, address] of [desc, driver, device].entries()) {
      into.setArea(2 * index, address % 2 ** 32);
      into.setArea(2 * index + 1, Math.floor(address / 2 ** 32));
    }
    into.enable();
    return into.enabled;
  }

  resetQueue({ index }: AnyVirtqueue): boolean {
    this.device.resetQueue(index);
    return this.device.queues[index]?.enabled === false;
  }

  disconnect(): void {
    this.#queues = [];
    this.#handlers = null;
  }

  notify({ index }: AnyVirtqueue, data: number | null): void {
    this.count.kicks++;
    this.#kicks.set(index, data ?? 0);
    this.settle();
  }

  isr(): number {
    return 0;
  }
}
