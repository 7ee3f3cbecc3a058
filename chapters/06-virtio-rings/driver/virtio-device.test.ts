import { describe, expect, it } from 'vitest';
import { layout, u8, u32le, u64le } from '../../01-hardware-background/layout.ts';
import { bit, F, features, STATUS } from '../features.ts';
import type { DriverBus, RegisterWidth } from './bus.ts';
import { sharedMemory } from './laboratory.ts';
import type { InterruptHandlers, VirtioTransport } from './transport.ts';
import type { DeviceHandle } from './virtio-device.ts';
import { VirtioBus, type VirtioDriver } from './virtio-driver.ts';
import type { AnyVirtqueue, Virtqueue } from './virtqueue.ts';

/** A device that is a table of answers, and writes down what it was told. */
class Double implements VirtioTransport {
  readonly name = 'double';
  readonly bus: DriverBus;
  readonly deviceId = 4;
  readonly vendorId = 0x1af4;
  legacy = false;
  readonly legacyAlign = 4096;
  features = features(F.RING_RESET, F.NOTIFICATION_DATA);
  readonly log: string[] = [];
  status = 0;
  offer = features(F.VERSION_1, F.INDIRECT_DESC, F.EVENT_IDX);
  refuses = 0; // status bits that do not stick
  afterReset = 0;
  readonly config = new Uint8Array(64);
  configBytes = 64;
  generations: number[] = [];
  sizes = [8, 8];
  takes = true;
  handlers: InterruptHandlers | null = null;
  onStatus: (status: number) => void = () => {};

  constructor() {
    this.bus = { ports: null, memory: null, dma: sharedMemory().arena, messages: null, relax() {}, patience: 5 };
  }
  getStatus(): number {
    return this.status;
  }
  setStatus(status: number): void {
    this.log.push(`status ${status}`);
    this.status = status === 0 ? this.afterReset : status & ~this.refuses;
    this.onStatus(status);
  }
  getFeatures(): bigint {
    this.log.push('read features');
    return this.offer;
  }
  setFeatures(chosen: bigint): void {
    this.log.push(`features ${chosen.toString(16)}`);
  }
  generation(): number {
    return this.generations.length > 1 ? (this.generations.shift() as number) : (this.generations[0] ?? 0);
  }
  readConfig(offset: number, width: RegisterWidth): number {
    this.log.push(`config ${offset}+${width}`);
    return Number(new DataView(this.config.buffer)[width === 1 ? 'getUint8' : width === 2 ? 'getUint16' : 'getUint32'](offset, true));
  }
  writeConfig(offset: number, width: RegisterWidth, value: number): void {
    this.log.push(`config ${offset}+${width} = ${value}`);
  }
  queueSize(index: number): number {
    return this.sizes[index] ?? 0;
  }
  connect(queues: readonly AnyVirtqueue[], handlers: InterruptHandlers): string | null {
    this.log.push(`queues ${queues.map(({ index, size }) => `${index}:${size}`)}`);
    this.handlers = handlers;
    return this.takes ? null : 'refused';
  }
  reconnect(): boolean {
    return true;
  }
  resetQueue(): boolean {
    return true;
  }
  disconnect(): void {
    this.log.push('disconnect');
  }
  notify({ index }: AnyVirtqueue, data: number | null): void {
    this.log.push(`kick ${index} ${data}`);
  }
  isr(): number {
    return 0;
  }
}

let queue: Virtqueue<string>;
const driver = (more: Partial<VirtioDriver> = {}): VirtioDriver => ({
  name: 'test',
  idTable: [{ device: 4 }],
  featureTable: [3, 5],
  probe(device) {
    queue = device.findVqs<string>([{ name: 'q' }])[0] as Virtqueue<string>;
  },
  ...more,
});

function start(transport: Double, with_ = driver(), want = ~0n): DeviceHandle {
  const virtio = new VirtioBus({ want });
  virtio.registerVirtioDriver(with_);
  return virtio.registerVirtioDevice(transport);
}

const CONFIG = layout('config', { a: u32le(0), b: u64le(8), c: u8(16), beyond: u32le(100) });

describe('the order of things', () => {
  it('is the one of the specification', () => {
    const transport = new Double();
    transport.offer |= bit(3) | bit(6);
    expect(start(transport).failure).toBeNull();
    const chosen = (transport.offer & ~bit(6)).toString(16);
    expect(transport.log).toEqual([
      'status 0',
      'status 1',
      'status 3',
      'read features',
      `features ${chosen}`,
      'status 11',
      'queues 0:8',
      'status 15',
    ]);
  });

  it('kicks nothing before DRIVER_OK, and then what was kicked', () => {
    const transport = new Double();
    const early = driver({
      probe(device) {
        queue = device.findVqs<string>([{ name: 'q' }])[0] as Virtqueue<string>;
        queue.addOutbuf([device.dma.allocate(4)], 'x');
        queue.kick();
        expect(transport.log.some((line) => line.startsWith('kick'))).toBe(false);
      },
    });
    start(transport, early);
    expect(transport.log.slice(-2)).toEqual(['status 15', 'kick 0 null']);
  });

  it('has no FEATURES_OK for a legacy device, and 32 features', () => {
    const transport = new Double();
    transport.legacy = true;
    transport.offer = features(3, F.EVENT_IDX, F.VERSION_1);
    const handle = start(transport);
    expect(handle.failure).toBeNull();
    expect(transport.log).not.toContain('status 11');
    expect(transport.status).toBe(7);
    expect(handle.features).toBe(features(3, F.EVENT_IDX));
  });

  it.each([
    [
      'the features are not accepted',
      (t: Double) => {
        t.refuses = STATUS.FEATURES_OK;
      },
      'does not accept',
    ],
    [
      'VERSION_1 is not offered',
      (t: Double) => {
        t.offer = 0n;
      },
      'VERSION_1',
    ],
    [
      'a queue is missing',
      (t: Double) => {
        t.sizes = [];
      },
      'has no queue 0',
    ],
    [
      'the queues are not taken',
      (t: Double) => {
        t.takes = false;
      },
      'refused',
    ],
    [
      'the reset never ends',
      (t: Double) => {
        t.afterReset = 2;
      },
      'reset',
    ],
  ])('ends in FAILED when %s', (_, spoil, why) => {
    const transport = new Double();
    spoil(transport);
    const handle = start(transport);
    expect(handle.failure).toContain(why);
    expect(transport.status & STATUS.FAILED).toBe(STATUS.FAILED);
    expect(transport.log.join()).not.toContain('status 15');
    expect(handle.isReady).toBe(false);
  });

  it('does not take a feature without what it needs, nor what the driver drops', () => {
    const transport = new Double();
    transport.offer |= features(3, 5);
    expect(start(transport, driver({ requires: [[5, 2]] })).features & features(3, 5)).toBe(bit(3));
    const dropping = driver({
      validate(device) {
        device.features &= ~bit(3);
        return null;
      },
    });
    expect(start(transport, dropping).features & features(3, 5)).toBe(bit(5));
  });

  it('begins again after a failure', () => {
    const transport = new Double();
    transport.takes = false;
    const handle = start(transport);
    transport.takes = true;
    expect(handle.acknowledge()).toBeNull();
    expect([transport.status, handle.failure]).toEqual([1, null]);
  });
});

describe('queues', () => {
  it('are as long as both sides want: a power of two only where the format needs one', () => {
    for (const [packed, max, wanted, size] of [
      [false, 100, 64, 64],
      [false, 100, undefined, 64],
      [true, 100, undefined, 100],
      [true, 100, 7, 7],
      [false, 4, 64, 4],
    ] as const) {
      const transport = new Double();
      transport.sizes = [max];
      if (packed) transport.offer |= bit(F.RING_PACKED);
      start(transport, driver({ probe: (device) => void device.findVqs([{ name: 'q', ...(wanted && { size: wanted }) }]) }));
      expect(transport.log).toContain(`queues 0:${size}`);
    }
  });

  it('carry their position in the notification when that was agreed on', () => {
    const transport = new Double();
    transport.offer |= bit(F.NOTIFICATION_DATA);
    const handle = start(transport);
    queue.addOutbuf([handle.dma.allocate(4)], 'x');
    queue.kick();
    expect(transport.log.at(-1)).toBe('kick 0 1');
  });

  it('break when the device says that it needs a reset', () => {
    const transport = new Double();
    let told = 0;
    const handle = start(transport, driver({ configChanged: () => void told++ }));
    transport.status |= STATUS.DEVICE_NEEDS_RESET;
    transport.handlers?.config();
    expect([queue.isBroken, told]).toEqual([true, 1]);
    expect(queue.addOutbuf([handle.dma.allocate(4)], 'x')).toBe(-5);
    expect(queue.kick()).toBe(false);
    expect(queue.getBuf()).toBeNull();
  });

  it('keep their memory from everybody when the device does not let go of it', () => {
    const transport = new Double();
    const virtio = new VirtioBus();
    virtio.registerVirtioDriver(driver());
    const handle = virtio.registerVirtioDevice(transport);
    const { arena } = { arena: transport.bus.dma as unknown as { freeBytes: number } };
    const free = arena.freeBytes;
    transport.afterReset = 1;
    virtio.unregisterVirtioDevice(handle);
    expect(arena.freeBytes).toBe(free);
    expect(queue.isBroken).toBe(true);
  });
});

describe('the configuration', () => {
  it('is read again when it changed meanwhile', () => {
    const transport = new Double();
    const handle = start(transport);
    transport.log.length = 0;
    transport.config.fill(3);
    transport.generations = [1, 2, 2, 2];
    expect(handle.readConfig(CONFIG, 'b')).toEqual({ b: 0x0303030303030303n });
    expect(transport.log).toEqual(['config 8+4', 'config 12+4', 'config 8+4', 'config 12+4']);
  });

  it('that never stands still is an error, and one that is too short too', () => {
    const transport = new Double();
    const handle = start(transport);
    let n = 0;
    Object.defineProperty(transport, 'generation', { value: () => n++, configurable: true });
    expect(() => handle.readConfig(CONFIG, 'a')).toThrow(expect.objectContaining({ code: 'EIO' }));
    Object.defineProperty(transport, 'generation', { value: () => 0 });
    expect(() => handle.readConfig(CONFIG, 'beyond')).toThrow(expect.objectContaining({ code: 'ENXIO' }));
  });

  it('of a legacy device, which counts no changes, is read until it reads the same twice', () => {
    const transport = new Double();
    transport.legacy = true;
    const handle = start(transport);
    let n = 3;
    Object.defineProperty(transport, 'readConfig', { value: () => Math.max(n--, 0) });
    expect(handle.readConfig(CONFIG, 'a', 'c')).toEqual({ a: 0, c: 0 });
  });

  it('is not written before the features are agreed on', () => {
    const transport = new Double();
    const hasty = driver({
      validate(device) {
        device.writeConfig(CONFIG, 'a', 1);
        return null;
      },
    });
    expect(start(transport, hasty).failure).toContain('EBUSY');
    expect(transport.log.join()).not.toContain('config 0');
  });
});

describe('suspending', () => {
  const suspendable = (): [Double, DeviceHandle] => {
    const transport = new Double();
    transport.offer |= bit(F.SUSPEND);
    return [transport, start(transport)];
  };

  it('is seen through: nothing goes in, nothing is kicked, nothing is read', () => {
    const [transport, handle] = suspendable();
    transport.onStatus = (status) => {
      if (status & STATUS.SUSPEND) transport.status = status & ~STATUS.DRIVER_OK;
    };
    expect(handle.suspend()).toBe(true);
    transport.log.length = 0;
    expect(queue.addOutbuf([handle.dma.allocate(4)], 'x')).toBe(-16);
    queue.notify();
    expect(() => handle.readConfig(CONFIG, 'a')).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    expect(() => handle.writeConfig(CONFIG, 'a', 1)).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    expect(transport.log).toEqual([]);
    transport.onStatus = (status) => {
      transport.status = status & ~STATUS.SUSPEND;
    };
    expect(handle.resume()).toBe(true);
    expect(queue.addOutbuf([handle.dma.allocate(4)], 'x')).toBe(0);
  });

  it('is not believed before the device shows it', () => {
    const [, handle] = suspendable();
    expect(handle.suspend()).toBe(false);
  });

  it('ends when the device needs a reset', () => {
    const [transport, handle] = suspendable();
    transport.onStatus = (status) => {
      transport.status = status | STATUS.DEVICE_NEEDS_RESET;
    };
    expect(handle.suspend()).toBe(false);
    expect(handle.resume()).toBe(false);
    expect(queue.isBroken).toBe(true);
  });

  it('must have been agreed on', () => {
    expect(() => start(new Double()).suspend()).toThrow(expect.objectContaining({ code: 'EOPNOTSUPP' }));
  });
});
