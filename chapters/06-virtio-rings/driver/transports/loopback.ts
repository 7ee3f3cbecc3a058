// # No transport at all
//
// The device is an object in the same program, and the driver calls it. Nothing of virtio is lost: status, features, configuration and queues are the device's own; what is
// missing are the registers in front of them. Tests, benches and the pages in which both sides can be driven use this.

import { F, features } from '../../features.ts';
import type { VirtioDevice } from '../../device.ts';
import type { DriverBus, RegisterWidth } from '../bus.ts';
import type { InterruptHandlers, VirtioTransport } from '../transport.ts';
import type { AnyVirtqueue } from '../virtqueue.ts';

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
  #handlers: InterruptHandlers | null = null;

  constructor(bus: DriverBus, device: VirtioDevice) {
    this.name = device.name;
    this.bus = bus;
    this.device = device;
    device.notifier = {
      usedBuffer: (index) => {
        this.count.used++;
        const queue = this.#queues.find((each) => each.index === index);
        if (queue) this.#handlers?.used(queue);
      },
      configChange: () => {
        this.count.config++;
        this.#handlers?.config();
      },
    };
  }

  get deviceId(): number {
    return this.device.model.deviceId;
  }

  getStatus(): number {
    return this.device.status;
  }
  setStatus(status: number): void {
    this.device.setStatus(status);
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
    this.device.writeConfig(offset, width, value);
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
    this.device.kick(index, data ?? 0);
  }

  isr(): number {
    return 0;
  }
}
