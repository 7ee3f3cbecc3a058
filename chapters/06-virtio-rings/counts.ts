// # What a request costs
//
// A virtio device was to be cheap, and cheap means few exits. Here they are counted, on the machine of this chapter with its own drivers: every
// access of a driver to a register is an exit, on any hypervisor, and every used buffer notification is an interrupt. What the driver does in memory
// costs neither.
//
// The first exit of a request is the doorbell. Who answers it depends on what is behind it. Without an eventfd it is the device: `KVM_RUN` returns,
// the buffer is served, the guest goes on. With one, the kernel counts, and the guest goes on *at once*; the device, in another thread, looks when it
// gets to it. That saves the trip to user space, the larger part of an exit's price. But now the driver can ring again before the device has looked,
// and without an event index it does so for every buffer. The two inventions need each other.

import { assert } from '../01-hardware-background/physical-memory.ts';
import { MemoryBlock, SECTOR_BYTES } from '../05-pio-mmio/block/block.ts';
import { completeConfig } from '../05-pio-mmio/machine/config.ts';
import type { VirtioDevice } from './device.ts';
import type { BalloonModel } from './devices/balloon.ts';
import { BALLOON_PAGE_BYTES } from './devices/balloon-layout.ts';
import { type DriverBus, MemoryArena, type MessageCells, type RegisterSpace } from './driver/bus.ts';
import { type Balloon, balloonDriver } from './driver/drivers/balloon.ts';
import { type BlockDisk, blockDriver } from './driver/drivers/block.ts';
import { type Console, consoleDriver } from './driver/drivers/console.ts';
import { type EntropySource, entropyDriver } from './driver/drivers/entropy.ts';
import { machineBus } from './driver/machine-bus.ts';
import type { VirtioTransport } from './driver/transport.ts';
import { probeMmio } from './driver/transports/mmio.ts';
import { findPciDevices } from './driver/transports/pci.ts';
import { VirtioBus, type VirtioDriver } from './driver/virtio-driver.ts';
import type { Virtqueue } from './driver/virtqueue.ts';
import { DEVICE_ID } from './features.ts';
import './machine/device-types.ts';
import { MMIO_GPA } from './machine/mmio-windows.ts';
import { virtioDevices } from './machine/virtio-types.ts';
import { PausedPc } from './qtest/paused-pc.ts';

/** How a driver reaches its device. */
export type CountedTransport = 'pci' | 'transitional' | 'mmio' | 'mmio-legacy';

interface CountedMachine {
  readonly transport: CountedTransport;
  readonly packed?: boolean;
  readonly eventIdx?: boolean;
  /** The doorbell is an eventfd, and the device looks when the driver waits. */
  readonly ioeventfd?: boolean;
}

/** What happened, in exits and interrupts. */
interface Costs {
  /** Accesses to the doorbell. */
  readonly kicks: number;
  /** Accesses to other registers. */
  readonly others: number;
  /** Used buffer notifications. */
  readonly interrupts: number;
}

/** Exits that end in user space: with an eventfd the doorbell's do not. */
export const userExits = ({ kicks, others }: Costs, { ioeventfd = false }: CountedMachine): number => others + (ioeventfd ? 0 : kicks);

const RAM_MIB = 16;
/** The driver's part of the guest's memory. */
const ARENA = { gpa: 4 << 20, bytes: 8 << 20 } as const;
/** Where BARs go. */
const SPACE = { port: 0xc000, memory: 0xe000_0000 } as const;

const TYPES = { entropy: 'virtio-rng', console: 'virtio-serial', balloon: 'virtio-balloon', block: 'virtio-blk' } as const;
type CountedDevice = keyof typeof TYPES;
export const COUNTED_DEVICES = Object.keys(TYPES) as CountedDevice[];

// biome-ignore format: table
const EXTRA: Readonly<Record<CountedDevice, Readonly<Record<string, string | number>>>> = {
  entropy: { 'queue-size': 64 },
  console: { max_ports: 1 },
  balloon: {},
  block: { drive: 'disk' },
};

// ## A bench
//
// The machine stands still, so that nothing happens but what the driver does. Its two buses are given to the driver with a counter in between. An
// eventfd is a thing of the kernel's, which no access from here passes; so what one would do is done by the counter: it keeps the doorbell's writes
// back, and lets the device have them when the driver waits.

class Bench {
  readonly device: VirtioDevice;
  readonly transport: VirtioTransport;
  readonly bus: DriverBus;
  readonly arena: MemoryArena;
  readonly #paused: PausedPc;
  readonly #messages: MessageCells;
  readonly #held: (() => void)[] = [];
  #ringing = false;
  /** Interrupts that were raised and not yet taken. */
  #raised = 0;
  #handler: (() => void) | null = null;
  #kicks = 0;
  #others = 0;

  constructor(type: CountedDevice, { transport, packed = false, eventIdx = true, ioeventfd = false }: CountedMachine) {
    const mmio = transport === 'mmio' || transport === 'mmio-legacy';
    const suffix = mmio ? '-device' : transport === 'pci' ? '-pci-non-transitional' : '-pci-transitional';
    const config = completeConfig({
      memoryMiB: RAM_MIB,
      kernel: 'none: nothing runs',
      serial: ['null'],
      drives: [{ id: 'disk', file: 'in memory' }],
      devices: [
        {
          type: `${TYPES[type]}${suffix}`,
          packed,
          event_idx: eventIdx,
          ...EXTRA[type],
          ...(mmio && { 'force-legacy': transport === 'mmio-legacy' }),
        },
        ...(type === 'console' ? [{ type: 'virtconsole' }] : []),
      ],
    });
    const blocks = new Map([['disk', new MemoryBlock(new Uint8Array(256 * SECTOR_BYTES))]]);
    this.#paused = new PausedPc({ config, blocks });
    const { pc } = this.#paused;
    this.device = [...virtioDevices(pc).values()][0] as VirtioDevice;
    const [bytes] = pc.memory.map(ARENA.gpa, ARENA.bytes, 'write') ?? [];
    assert(bytes?.length === ARENA.bytes, 'the driver’s memory is not in one piece');
    this.arena = new MemoryArena(bytes, ARENA.gpa);
    const bare = machineBus({ ports: pc.ports, mmio: pc.mmio, dma: this.arena, advance: () => this.#advance() });
    this.#messages = bare.messages as MessageCells;
    this.bus = {
      ...bare,
      ports: this.#counted(bare.ports as RegisterSpace, ioeventfd),
      memory: this.#counted(bare.memory as RegisterSpace, ioeventfd),
    };
    const found = mmio
      ? probeMmio(this.bus, MMIO_GPA)
      : findPciDevices(this.bus, { legacy: transport === 'transitional', space: { ...SPACE } })[0]?.transport;
    assert(found != null && typeof found !== 'string', `${type} on ${transport}: ${found}`);
    this.transport = found;
    const notify = found.notify.bind(found);
    found.notify = (queue, data) => {
      this.#ringing = true;
      notify(queue, data);
    };
    const { notifier } = this.device;
    const usedBuffer = notifier.usedBuffer.bind(notifier);
    notifier.usedBuffer = (queue) => {
      this.#raised++;
      usedBuffer(queue);
    };
  }

  #counted(space: RegisterSpace, ioeventfd: boolean): RegisterSpace {
    return {
      read: (address, width) => {
        this.#others++;
        return space.read(address, width);
      },
      write: (address, width, value) => {
        const bell = this.#ringing;
        this.#ringing = false;
        if (bell) this.#kicks++;
        else this.#others++;
        if (bell && ioeventfd) {
          this.#held.push(() => space.write(address, width, value));
          return;
        }
        space.write(address, width, value);
        if (bell) this.#interrupted();
      },
    };
  }

  #advance(): void {
    this.look();
    this.#paused.advanceTo(this.#paused.next ?? this.#paused.now + 1);
  }

  /** The device gets to it: however often it was told, it looks once. */
  readonly look = (): void => {
    const [first] = this.#held.splice(0);
    first?.();
    this.#interrupted();
  };

  /** The guest takes the interrupts that there are, as soon as it runs again after an exit. A line's handler has to ask why, which takes accesses too. */
  #interrupted(): void {
    const handler = this.#handler;
    for (; handler && this.#raised > 0; this.#raised--) {
      this.#messages.poll();
      handler();
    }
  }

  /** Does something, and counts. `handler` is called for each interrupt. */
  count(what: () => void, handler: () => void): Costs {
    this.#raised = 0;
    this.#handler = handler;
    const before = { kicks: this.#kicks, others: this.#others, interrupts: this.device.counts.used };
    what();
    this.look();
    return { kicks: this.#kicks - before.kicks, others: this.#others - before.others, interrupts: this.device.counts.used - before.interrupts };
  }

  dispose(): void {
    this.#paused.dispose();
  }
}

/** Gives a device to a driver, and counts what `use` does. */
function withDriver<T>(
  type: CountedDevice,
  machine: CountedMachine,
  driver: (found: (it: T) => void) => VirtioDriver,
  use: (it: T, bench: Bench) => void,
): Costs {
  const bench = new Bench(type, machine);
  try {
    const found: T[] = [];
    const virtio = new VirtioBus();
    virtio.registerVirtioDriver(driver((it) => void found.push(it)));
    const handle = virtio.registerVirtioDevice(bench.transport);
    const [it] = found;
    assert(it !== undefined, `${type}: ${handle.failure}`);
    bench.bus.relax();
    return bench.count(
      () => use(it, bench),
      () => void handle.interrupt(), // where interrupts are messages, a handler asks no register
    );
  } finally {
    bench.dispose();
  }
}

// ## One request of each device
//
// 64 random bytes; a line of text; {{BALLOON_PAGES}} pages into the balloon, at the host's wish; a block of four kilobytes from the disk.
//
// ::figure request-costs -- Exits and interrupts of one request. A line has to be asked why it is up, and over MMIO told to go down.
//
// Compare chapter 5, where a disk command was a dozen registers. Here each device has its one kick, and only a balloon touches registers besides: it
// reads the wish and reports what has become of it. The drivers of the entropy device and of the balloon look into the ring by themselves and asked
// for no interrupt.

const LINE = new TextEncoder().encode('what is typed on a line, and shown on another\r\n');
export const BALLOON_PAGES = 64;

/** What one request costs. */
export function requestCosts(type: CountedDevice, machine: CountedMachine): Costs {
  switch (type) {
    case 'entropy':
      return withDriver<EntropySource>(type, machine, entropyDriver, (source) => {
        assert(source.read(new Uint8Array(64)) === 64, 'no entropy');
      });
    case 'console':
      return withDriver<Console>(type, machine, consoleDriver, (console) => {
        assert(console.ports.get(0)?.write(LINE) === LINE.length, 'the line was not written');
      });
    case 'block':
      return withDriver<BlockDisk>(type, machine, blockDriver, (disk) => {
        assert(disk.read(0, new Uint8Array(8 * SECTOR_BYTES)) === 0, 'the disk was not read');
      });
    case 'balloon':
      return withDriver<Balloon>(type, machine, balloonDriver, (balloon, { device }) => {
        const model = device.model as BalloonModel;
        model.target(model.ramBytes - BALLOON_PAGES * BALLOON_PAGE_BYTES);
        balloon.work();
        assert(balloon.actual === BALLOON_PAGES, `${balloon.actual} pages are in the balloon`);
      });
  }
}

// ## Many at once
//
// A driver with {{BURST}} buffers to give tells the device of each, as it must when it does not know whether another will follow. Here that is counted
// by accesses, for every transport; how it goes in a guest, with a kernel between the two, is the next section's subject.

export const BURST = 32;

interface Burst {
  /** Buffers that have come back. */
  back: number;
  queue: Virtqueue<number> | null;
}

const burstDriver = (found: (burst: Burst) => void): VirtioDriver => ({
  name: 'burst',
  idTable: [{ device: DEVICE_ID.ENTROPY }],
  featureTable: [],
  probe(device) {
    const burst: Burst = { back: 0, queue: null };
    const callback = (queue: Virtqueue<number>): void => queue.reap(() => void burst.back++);
    burst.queue = device.findVqs<number>([{ name: 'input', callback }])[0] ?? null;
    device.private = burst;
  },
  scan: (device) => found(device.private as Burst),
  remove() {},
});

/** What a burst of buffers costs, each of which the driver tells the device of. */
export function burstCosts(machine: CountedMachine): Costs {
  return withDriver<Burst>('entropy', machine, burstDriver, (burst, { arena, look }) => {
    for (let index = 0; index < BURST; index++) {
      assert(burst.queue?.addInbuf([arena.allocate(16)], index) === 0, 'the queue is full');
      burst.queue.kick();
    }
    look();
    assert(burst.back === BURST, `${burst.back} buffers came back`);
  });
}

/** The four ways to have a doorbell. */
export const BELLS: readonly { readonly eventIdx: boolean; readonly ioeventfd: boolean }[] = [false, true].flatMap((ioeventfd) =>
  [false, true].map((eventIdx) => ({ eventIdx, ioeventfd })),
);
