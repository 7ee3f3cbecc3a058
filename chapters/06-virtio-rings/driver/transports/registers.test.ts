import { describe, expect, it } from 'vitest';
import { MAGIC, VIRTIO_MMIO } from '../../transport/mmio.ts';
import { type DriverBus, MemoryArena, MessageCells, type RegisterSpace, type RegisterWidth } from '../bus.ts';
import { makeVirtqueue } from '../make-virtqueue.ts';
import { probeMmio } from './mmio.ts';
import { PciFunctionAccess } from './pci-function.ts';
import { PciModernTransport, virtioType } from './pci-modern.ts';

const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset);
const load = (bytes: Uint8Array, at: number, width: RegisterWidth): number =>
  width === 1 ? view(bytes).getUint8(at) : width === 2 ? view(bytes).getUint16(at, true) : view(bytes).getUint32(at, true);
const store = (bytes: Uint8Array, at: number, width: RegisterWidth, value: number): void => {
  for (let byte = 0; byte < width; byte++) bytes[at + byte] = value >>> (8 * byte);
};

const BAR = 0xe000_0000;
const SIZE = 0x4000;

/** A machine with one function, whose configuration space and region are bytes that a test may write what it likes into. */
class Registers {
  readonly config = new Uint8Array(256);
  readonly bar = new Uint8Array(SIZE);
  readonly configWrites: number[] = [];
  readonly accesses: string[] = [];
  readonly bus: DriverBus;
  readonly dma = new MemoryArena(new Uint8Array(1 << 16), 0x10_0000);
  /** Makes a register answer other than what was written. */
  onWrite: (offset: number, value: number) => void = () => {};
  #address = 0;

  constructor({ messages = false }: { messages?: boolean } = {}) {
    store(this.config, 0, 4, 0x1041_1af4 + (3 << 16));
    store(this.config, 6, 2, 0x10);
    store(this.config, 0x20, 4, BAR | 4);
    const ports: RegisterSpace = {
      read: (address, width) => (address === 0xcf8 ? this.#address : load(this.config, (this.#address & 0xfc) + (address & 3), width)),
      write: (address, width, value) => {
        if (address === 0xcf8) this.#address = value;
        else this.#writeConfig((this.#address & 0xfc) + (address & 3), width, value);
      },
    };
    const memory: RegisterSpace = {
      read: (address, width) => {
        this.accesses.push(`r${width} ${(address - BAR).toString(16)}`);
        return load(this.bar, address - BAR, width);
      },
      write: (address, width, value) => {
        this.accesses.push(`w${width} ${(address - BAR).toString(16)} ${value.toString(16)}`);
        store(this.bar, address - BAR, width, value);
        this.onWrite(address - BAR, value);
      },
    };
    this.bus = { ports, memory, dma: this.dma, messages: messages ? new MessageCells(this.dma) : null, relax() {}, patience: 3 };
  }

  #writeConfig(at: number, width: RegisterWidth, value: number): void {
    this.configWrites.push(at);
    if (at >= 0x10 && at < 0x28) store(this.config, at, 4, at === 0x20 ? ((value & -SIZE) | 4) >>> 0 : at === 0x24 ? value : 0);
    else if (at === 4) store(this.config, at, width, value);
    else if (at >= 0x40) store(this.config, at, width, value);
  }

  /** A list of capabilities: `[type, bar, offset, length, cap_len]` each. */
  capabilities(...list: readonly (readonly [number, number, number, number, number?])[]): this {
    let at = 0x40;
    this.config[0x34] = at;
    for (const [index, [type, bar, offset, length, capLen = 20]] of list.entries()) {
      const next = index + 1 < list.length ? at + capLen + (-capLen & 3) : 0;
      this.config.set([9, next, capLen, type, bar], at);
      store(this.config, at + 8, 4, offset);
      store(this.config, at + 12, 4, length);
      store(this.config, at + 16, 4, 4);
      at = next;
    }
    return this;
  }

  probe(): PciModernTransport | string {
    return PciModernTransport.probe(new PciFunctionAccess(this.bus, 0, 0));
  }
}

const COMMON = [1, 4, 0, 0x40] as const;
const NOTIFY = [2, 4, 0x3000, 0x100] as const;
const ISR = [3, 4, 0x1001, 1] as const;
const DEVICE = [4, 4, 0x2000, 0x40] as const;

describe('a function of a modern device', () => {
  it('is found by its ids, whatever else it says of itself', () => {
    const registers = new Registers();
    for (const [id, type, transitional] of [
      [0x1040, 0, false],
      [0x1042, 2, false],
      [0x107f, 63, false],
      [0x1001, 2, true],
      [0x1005, 4, true],
    ] as const) {
      store(registers.config, 2, 2, id);
      registers.config[8] = id & 7;
      store(registers.config, 0x2c, 4, id * 77);
      expect(virtioType(new PciFunctionAccess(registers.bus, 0, 0))).toEqual({ type, transitional });
    }
    for (const id of [0x0fff, 0x1006, 0x103f, 0x1080]) {
      store(registers.config, 2, 2, id);
      expect(virtioType(new PciFunctionAccess(registers.bus, 0, 0))).toBeNull();
    }
  });

  it('has its structures where the first usable capability of each kind says', () => {
    const registers = new Registers().capabilities(
      [77, 4, 0, 64, 16], // a kind that nobody knows
      [1, 6, 0, 64, 16], // a reserved region
      [1, 3, 0, 64, 16], // a region that is not there
      [1, 4, SIZE, 64, 16], // beyond its end
      [1, 4, SIZE - 32, 64, 16], // half beyond
      [1, 4, 0, 16, 16], // too short
      [1, 4, 0x100, 0xffff_ffff, 16], // surprisingly long: the first that will do
      COMMON,
      [2, 4, 0x3000, 0x100, 40], // longer than known
      ISR,
    );
    const transport = registers.probe();
    if (typeof transport === 'string') expect.fail(transport);
    registers.accesses.length = 0;
    transport.getStatus();
    expect(registers.accesses).toEqual(['r1 114']);
    transport.isr();
    expect(registers.accesses[1]).toBe('r1 1001');
    expect(transport.configBytes).toBe(0);
    expect(registers.configWrites.filter((at) => at >= 0x40)).toEqual([]);
  });

  it.each([
    ['common configuration', [NOTIFY, ISR]],
    ['notification', [COMMON, [2, 4, 0x3000, 0x100, 16], ISR]],
    ['interrupt status', [COMMON, NOTIFY]],
  ] as const)('cannot be used without a usable %s', (what, list) => {
    expect(new Registers().capabilities(...list).probe()).toContain(what);
  });

  it('whose list goes in a circle or nowhere does not hold the driver up', () => {
    const circle = new Registers().capabilities(COMMON, NOTIFY, ISR);
    circle.config[0x41] = 0x40;
    expect(circle.probe()).toContain('notification');
    const out = new Registers().capabilities(COMMON, NOTIFY, ISR);
    out.config[0x34] = 0x10;
    expect(out.probe()).toContain('common');
  });

  it('is given its queue with the enable bit last, and 32 bits at a time', () => {
    const registers = new Registers().capabilities(COMMON, NOTIFY, ISR, DEVICE);
    store(registers.bar, 18, 2, 1);
    store(registers.bar, 24, 2, 16);
    store(registers.bar, 30, 2, 3);
    const transport = registers.probe();
    if (typeof transport === 'string') expect.fail(transport);
    const features = { packed: false, indirect: false, eventIdx: false, inOrder: false };
    const queue = makeVirtqueue({ index: 0, size: transport.queueSize(0), memory: registers.dma, features, hooks: { notify: () => true } });
    registers.accesses.length = 0;
    expect(transport.connect([queue], { config() {}, used() {} })).toBeNull();
    const { desc, driver, device } = queue.areas;
    const hex = (value: number): string => value.toString(16);
    expect(registers.accesses.filter((each) => each.startsWith('w'))).toEqual([
      'w2 16 0',
      'w2 18 10',
      `w4 20 ${hex(desc)}`,
      'w4 24 0',
      `w4 28 ${hex(driver)}`,
      'w4 2c 0',
      `w4 30 ${hex(device)}`,
      'w4 34 0',
      'w2 1c 1',
    ]);
    transport.notify(queue, null);
    transport.notify(queue, 0x8001);
    expect(registers.accesses.slice(-2)).toEqual(['w2 300c 0', 'w4 300c 80010000']);
    expect(transport.queueSize(0)).toBe(0);
    registers.onWrite = (at) => void (at === 58 && store(registers.bar, 58, 2, 1));
    expect(transport.resetQueue(queue)).toBe(false);
    registers.onWrite = (at) => void (at === 58 && registers.bar.fill(0, 58, 60) && registers.bar.fill(0, 28, 30));
    expect(transport.resetQueue(queue)).toBe(true);
  });

  it('whose doorbell would be outside is refused', () => {
    const registers = new Registers().capabilities(COMMON, NOTIFY, ISR);
    store(registers.bar, 30, 2, 0x40);
    const transport = registers.probe();
    if (typeof transport === 'string') expect.fail(transport);
    const features = { packed: false, indirect: false, eventIdx: false, inOrder: false };
    const queue = makeVirtqueue({ index: 0, size: 4, memory: registers.dma, features, hooks: { notify: () => true } });
    expect(transport.connect([queue], { config() {}, used() {} })).toContain('doorbell');
  });

  // The table of vectors may be shorter than it says, and the device may refuse a mapping.
  it.each([
    ['all it wants', 4, () => true, [0, 1, 2]],
    ['two', 2, () => true, [0, 1, 1]],
    ['one', 1, () => true, [0, 0, 0]],
    ['what the device maps', 4, (vector: number) => vector < 2, [0, 1, 1]],
    ['none', 4, () => false, null],
  ] as const)('gets vectors: %s', (_, entries, maps, expected) => {
    const registers = new Registers({ messages: true }).capabilities(COMMON, NOTIFY, ISR);
    registers.config[0x40 + 20 * 2 + 1] = 0xa0;
    registers.config.set([0x11, 0, entries - 1, 0], 0xa0);
    store(registers.config, 0xa4, 4, 0x2000 | 4);
    let selected = 0;
    const vectors = new Map<string, number>();
    registers.onWrite = (at, value) => {
      if (at === 22) selected = value;
      if (at !== 16 && at !== 26) return;
      if (!maps(value)) store(registers.bar, at, 2, 0xffff);
      else vectors.set(at === 16 ? 'config' : `queue ${selected}`, value);
    };
    const transport = registers.probe();
    if (typeof transport === 'string') expect.fail(transport);
    const features = { packed: false, indirect: false, eventIdx: false, inOrder: false };
    const queues = [0, 1].map((index) => {
      const queue = makeVirtqueue({ index, size: 4, memory: registers.dma, features, hooks: { notify: () => true } });
      queue.callback = () => {};
      return queue;
    });
    transport.connect(queues, { config() {}, used() {} });
    if (expected) expect([vectors.get('config'), vectors.get('queue 0'), vectors.get('queue 1')]).toEqual(expected);
    expect(transport.vectors.active).toBe(expected !== null);
    expect(load(registers.config, 0xa2, 2) >>> 15).toBe(expected ? 1 : 0);
    // With messages nobody asks the interrupt status; without, it is how the driver learns anything.
    registers.accesses.length = 0;
    transport.isr();
    expect(registers.accesses.length).toBe(expected ? 0 : 1);
  });
});

describe('a window of registers', () => {
  const window = (...values: readonly (readonly [number, number])[]): { bus: DriverBus; accesses: string[]; bytes: Uint8Array } => {
    const bytes = new Uint8Array(0x200);
    for (const [at, value] of values) store(bytes, at, 4, value);
    const accesses: string[] = [];
    const memory: RegisterSpace = {
      read(at, width) {
        accesses.push(`r${width} ${at.toString(16)}`);
        return load(bytes, at, width);
      },
      write(at, width, value) {
        accesses.push(`w${width} ${at.toString(16)} ${value.toString(16)}`);
        store(bytes, at, width, value);
      },
    };
    const dma = new MemoryArena(new Uint8Array(1 << 16), 0x10_0000);
    return { bus: { ports: null, memory, dma, messages: null, relax() {}, patience: 3 }, accesses, bytes };
  };

  it('is asked no more than it takes to see that it is none', () => {
    const nothing = window();
    expect(probeMmio(nothing.bus, 0)).toContain('magic');
    expect(nothing.accesses).toEqual(['r4 0']);
    const later = window([0, MAGIC], [4, 3]);
    expect(probeMmio(later.bus, 0)).toContain('version 3');
    expect(later.accesses).toEqual(['r4 0', 'r4 4']);
    const empty = window([0, MAGIC], [4, 2]);
    expect(probeMmio(empty.bus, 0)).toBeNull();
    expect(empty.accesses).toEqual(['r4 0', 'r4 4', 'r4 8']);
  });

  it('confirms only the interrupts that it knows', () => {
    const { bus, accesses } = window([0, MAGIC], [4, 2], [8, 4], [VIRTIO_MMIO.rows.InterruptStatus.offset, 0xfffd]);
    const transport = probeMmio(bus, 0);
    if (transport === null || typeof transport === 'string') expect.fail('no transport');
    transport.connect([], { config() {}, used() {} });
    expect(transport.isr()).toBe(1);
    expect(accesses.at(-1)).toBe('w4 64 1');
  });

  it('is not told of another queue while one is ready', () => {
    const { bus, bytes, accesses } = window([0, MAGIC], [4, 2], [8, 4]);
    const transport = probeMmio(bus, 0);
    if (transport === null || typeof transport === 'string') expect.fail('no transport');
    store(bytes, VIRTIO_MMIO.rows.QueueReady.offset, 4, 1);
    const features = { packed: false, indirect: false, eventIdx: false, inOrder: false };
    const queue = makeVirtqueue({ index: 0, size: 4, memory: bus.dma, features, hooks: { notify: () => true } });
    accesses.length = 0;
    expect(transport.connect([queue], { config() {}, used() {} })).not.toBeNull();
    expect(accesses).toEqual(['w4 30 0', 'r4 44']);
  });
});
