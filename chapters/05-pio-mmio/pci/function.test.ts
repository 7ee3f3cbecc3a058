import { describe, expect, it } from 'vitest';
import { Bus, PORT_COUNT, type Registers } from '../../03-vcpu-loop/devices/bus.ts';
import type { BarSpec } from './bars.ts';
import { PciFunction, type PciFunctionOptions } from './function.ts';
import { COMMAND } from './header.ts';
import { PciBus } from './pci-bus.ts';

const registers = (name: string, answer = 0x5a): Registers => ({ name, read: () => BigInt(answer), write: () => {} });

function plug(options: Partial<PciFunctionOptions> = {}) {
  const log: string[] = [];
  const io = new Bus('ports', PORT_COUNT);
  const memory = new Bus('memory');
  const bus = new PciBus('pci', {
    io,
    memory,
    upstream: {
      dma: {
        read(gpa, into) {
          into.fill(7);
          return log.push(`read ${gpa.toString(16)}`) > 0;
        },
        write: (gpa, from) => log.push(`write ${gpa.toString(16)} ${[...from]}`) > 0,
      },
      msi: { send: (address, data) => void log.push(`msi ${address.toString(16)} ${data.toString(16)}`) },
      intx: (device, pin, level) => void log.push(`pin ${device}.${'ABCD'[pin]} ${level ? 'up' : 'down'}`),
    },
  });
  const fn = new PciFunction({ name: 'card', identity: { vendorId: 0x8086, deviceId: 0x100e, classCode: 0x020000, interruptPin: 1 }, ...options });
  bus.add(fn, 3);
  const taken = (): string[] => log.splice(0);
  return { io, memory, bus, fn, config: fn.config, log: taken };
}

const bar = (index: number, kind: BarSpec['kind'], bytes: number, answer = 0x5a): BarSpec => ({
  index,
  kind,
  bytes,
  registers: registers(`bar${index}`, answer),
});

describe('configuration space', () => {
  it('says who it is, and nothing a guest writes changes that', () => {
    const { config } = plug({
      identity: {
        vendorId: 0x1234,
        deviceId: 0x5678,
        revisionId: 9,
        classCode: 0x010203,
        interruptPin: 2,
        subsystemVendorId: 0xabcd,
        subsystemId: 3,
      },
    });
    const image = Array.from({ length: 64 }, (_, dword) => config.read(4 * dword, 4));
    expect(image.slice(0, 3)).toEqual([0x5678_1234, 0, 0x0102_0309]);
    expect([image[0x2c / 4], config.read(0x3d, 1), config.read(0xe, 1)]).toEqual([0x0003_abcd, 2, 0]);
    for (let offset = 0; offset < 256; offset += 4) {
      config.write(offset, 4, 0xffff_ffff);
      config.write(offset, 4, 0);
    }
    expect(Array.from({ length: 64 }, (_, dword) => config.read(4 * dword, 4))).toEqual(image);
  });
  it('lets software change some bits, by any width', () => {
    const { config } = plug();
    config.write(4, 2, 0xffff);
    expect(config.read(4, 2)).toBe(0x0547);
    config.write(5, 1, 0);
    expect(config.read(4, 2)).toBe(0x0047);
    config.write(3, 4, 0x00_00_01_00);
    expect(config.read(4, 2)).toBe(0x0001);
    config.write(0x3c, 1, 11);
    expect(config.read(0x3c, 4)).toBe(0x0000_010b);
  });
  it('clears errors by ones and keeps them by zeros', () => {
    const { config } = plug();
    config.flag(6, 2, 0xa000, true);
    config.write(6, 2, 0x2000);
    expect(config.read(6, 2)).toBe(0x8000);
    config.write(7, 1, 0x80);
    expect(config.read(6, 2)).toBe(0);
  });
  it('reads ones beyond its end', () => {
    const { config } = plug();
    expect(config.read(0xfe, 4)).toBe(0xffff_0000);
    config.write(0xfe, 4, 0x1234_5678);
  });
});

describe('a base address register', () => {
  it.each([
    [bar(0, 'io', 4), 0xffff_fffd],
    [bar(0, 'io', 256), 0xffff_ff01],
    [bar(0, 'mem32', 16), 0xffff_fff0],
    [bar(0, 'mem32', 0x2_0000), 0xfffe_0000],
    [bar(0, 'mem32', 0x8000_0000), 0x8000_0000],
    [{ ...bar(0, 'mem32', 0x1000), prefetchable: true }, 0xffff_f008],
    [bar(0, 'mem64', 0x4000), 0xffff_c004],
  ])('tells the size of $kind of $bytes bytes', (spec, mask) => {
    const { config } = plug({ bars: [spec] });
    const before = config.read(0x10, 4);
    config.write(0x10, 4, 0xffff_ffff);
    expect(config.read(0x10, 4)).toBe(mask);
    config.write(0x10, 4, 0);
    expect(config.read(0x10, 4)).toBe(before);
    expect(config.read(0x18, 4)).toBe(0);
  });
  it.each([
    [0x4000, 0xffff_c004, 0xffff_ffff],
    [2 ** 32, 0x4, 0xffff_ffff],
    [2 ** 36, 0x4, 0xffff_fff0],
  ])('of 64 bits and %i bytes takes two registers', (bytes, low, high) => {
    const { config, fn, memory } = plug({ bars: [bar(2, 'mem64', bytes), bar(4, 'io', 16)] });
    config.write(0x18, 4, 0xffff_ffff);
    config.write(0x1c, 4, 0xffff_ffff);
    expect([config.read(0x18, 4), config.read(0x1c, 4)]).toEqual([low, high]);
    config.write(4, 2, COMMAND.MEMORY);
    expect(fn.bars[2]?.placed).toBe(null); // 2^64 less something is nowhere
    config.write(0x18, 4, 0xc000_0000);
    config.write(0x1c, 4, 0x80);
    const address = bytes === 0x4000 ? 0x80_c000_0000 : 0x80_0000_0000;
    expect(fn.bars[2]?.placed).toBe(address);
    expect(memory.read(address + 0x10, 1)).toBe(0x5an);
  });
  it('moves its region, which answers only while decoding is on', () => {
    const { config, io, memory } = plug({ bars: [bar(0, 'mem32', 0x1000), bar(1, 'io', 0x20, 0x21)] });
    config.write(0x10, 4, 0xfe00_0000);
    config.write(0x14, 4, 0xc000);
    const seen = (): bigint[] => [memory.read(0xfe00_0000, 1), memory.read(0xfd00_0000, 1), io.read(0xc000, 1)];
    expect(seen()).toEqual([0xffn, 0xffn, 0xffn]);
    config.write(4, 1, COMMAND.IO);
    expect(seen()).toEqual([0xffn, 0xffn, 0x21n]);
    config.write(4, 1, COMMAND.MEMORY);
    expect(seen()).toEqual([0x5an, 0xffn, 0xffn]);
    config.write(0x13, 1, 0xfd);
    expect(seen()).toEqual([0xffn, 0x5an, 0xffn]);
    config.write(4, 1, 0);
    expect(seen()).toEqual([0xffn, 0xffn, 0xffn]);
  });
  it('is nowhere while it is being sized, at zero, and beyond the last port', () => {
    const { config, fn, memory, io } = plug({ bars: [bar(0, 'mem32', 0x1000), bar(1, 'io', 0x20)] });
    config.write(4, 1, COMMAND.IO | COMMAND.MEMORY);
    expect([memory.placed, io.placed]).toEqual([0, 0]);
    for (const value of [0xffff_ffff, 0, 0xffff_f000, 0x0001_0000]) {
      config.write(0x10, 4, value);
      config.write(0x14, 4, value);
      expect([value, fn.bars[0]?.placed, fn.bars[1]?.placed]).toEqual([value, value === 0x0001_0000 ? 0x1_0000 : null, null]);
    }
    config.write(0x14, 4, 0xffe0);
    expect(fn.bars[1]?.placed).toBe(0xffe0);
  });
  it('of the expansion ROM has its own switch', () => {
    const { config, fn, memory } = plug({ romBar: { bytes: 0x800, image: Uint8Array.of(0x55, 0xaa) } });
    config.write(0x30, 4, 0xffff_fffe);
    expect(config.read(0x30, 4)).toBe(0xffff_f800);
    config.write(0x30, 4, 0xfeb0_0000);
    config.write(4, 1, COMMAND.MEMORY);
    expect(fn.rom?.placed).toBe(null);
    config.write(0x30, 4, 0xfeb0_0001);
    expect(memory.read(0xfeb0_0000, 4)).toBe(0xffff_aa55n);
    memory.write(0xfeb0_0000, 1, 0n);
    expect(memory.read(0xfeb0_0000, 1)).toBe(0x55n);
    config.write(4, 1, 0);
    expect(fn.rom?.placed).toBe(null);
  });
});

describe('the interrupt pin', () => {
  it('shows in the status register, and on the bus unless that is forbidden', () => {
    const { fn, config, log } = plug();
    fn.intx.set(true);
    fn.intx.set(true);
    expect([log(), config.read(6, 2) & 8]).toEqual([['pin 3.A up'], 8]);
    config.write(4, 2, COMMAND.INTX_DISABLE);
    expect([log(), config.read(6, 2) & 8]).toEqual([['pin 3.A down'], 8]);
    config.write(4, 2, 0);
    expect(log()).toEqual(['pin 3.A up']);
    fn.intx.set(false);
    expect([log(), config.read(6, 2) & 8]).toEqual([['pin 3.A down'], 0]);
  });
  it('is shared by the functions of a device, which are then declared', () => {
    const { fn, bus, log, config } = plug();
    const second = bus.add(new PciFunction({ name: 'second', identity: { vendorId: 1, deviceId: 2, classCode: 0, interruptPin: 1 } }), 3, 5);
    expect([config.read(0xe, 1), second.config.read(0xe, 1)]).toEqual([0x80, 0x80]);
    fn.intx.set(true);
    second.intx.set(true);
    fn.intx.set(false);
    expect(log()).toEqual(['pin 3.A up']);
    second.reset();
    expect(log()).toEqual(['pin 3.A down']);
    expect(second.config.read(0xe, 1)).toBe(0x80);
  });
  it('is not there for a function without one', () => {
    const { fn, log, config } = plug({ identity: { vendorId: 1, deviceId: 2, classCode: 0 } });
    fn.intx.set(true);
    expect([log(), config.read(6, 2) & 8]).toEqual([[], 8]);
  });
});

describe('direct memory access', () => {
  it('needs the bus master bit', () => {
    const { fn, config, log } = plug();
    const bytes = new Uint8Array(2);
    expect([fn.dma.read(0x1000, bytes), fn.dma.write(0x1000, bytes), log()]).toEqual([false, false, []]);
    config.write(4, 1, COMMAND.MASTER);
    expect([fn.dma.read(0x1000, bytes), fn.dma.write(0x2000, bytes), log()]).toEqual([true, true, ['read 1000', 'write 2000 7,7']]);
  });
});

describe('capabilities', () => {
  it('are a list in the order of adding, with masks', () => {
    const { fn, config } = plug();
    expect([config.read(6, 2) & 0x10, config.read(0x34, 1)]).toEqual([0, 0]);
    const first = fn.addCapability(0x09, Uint8Array.of(5, 1, 2));
    const second = fn.addCapability(0x01, Uint8Array.of(0xff, 0), { writeMask: Uint8Array.of(0x0f, 0) });
    const third = fn.addCapability(0x12, new Uint8Array(2), { at: 0xa8 });
    const walk: number[][] = [];
    for (let at = config.read(0x34, 1); at !== 0; at = config.read(at + 1, 1)) walk.push([at, config.read(at, 1)]);
    expect(walk).toEqual([
      [first, 0x09],
      [second, 0x01],
      [third, 0x12],
    ]);
    expect([first, second, third]).toEqual([0x40, 0x48, 0xa8]);
    config.write(second + 2, 2, 0);
    expect(config.read(second + 2, 2)).toBe(0xf0);
    expect(config.read(6, 2) & 0x10).toBe(0x10);
    expect(() => fn.addCapability(9, new Uint8Array(8), { at: 0xa4 })).toThrow('no room');
    expect(() => fn.addCapability(9, new Uint8Array(100))).toThrow('no room');
  });
  it('of PCI Express begin at 256', () => {
    const { fn, config } = plug({ extended: true });
    expect(fn.addExtendedCapability(0x0003, 1, new Uint8Array(8))).toBe(0x100);
    expect(fn.addExtendedCapability(0x000b, 1, Uint8Array.of(1, 2, 3, 4))).toBe(0x10c);
    expect([config.read(0x100, 4), config.read(0x10c, 4), config.read(0x110, 4)]).toEqual([0x10c1_0003, 0x0001_000b, 0x0403_0201]);
  });
  it('cannot be where two regions are', () => {
    expect(() => plug({ bars: [bar(0, 'mem64', 16), bar(1, 'io', 16)] })).toThrow('BAR 1 is not free');
    expect(() => plug({ bars: [bar(5, 'mem64', 16)] })).toThrow('BAR 5 is not free');
    expect(() => plug({ bars: [bar(0, 'mem32', 24)] })).toThrow('24 bytes');
  });
});

describe('MSI', () => {
  it.each([
    [{ vectors: 1 }, 10, 0x0000],
    [{ vectors: 8, wide: true }, 14, 0x0086],
    [{ vectors: 4, masking: true }, 20, 0x0104],
    [{ vectors: 32, wide: true, masking: true }, 24, 0x018a],
  ] as const)('%o', (spec, _length, control) => {
    const { fn, config, log } = plug();
    const at = fn.addMsi(spec);
    expect([config.read(at, 1), config.read(at + 2, 2)]).toEqual([5, control]);
    config.write(4, 2, COMMAND.MASTER);
    fn.signal();
    expect(log()).toEqual(['pin 3.A up']);
    config.write(at + 4, 4, 0xfee0_1003); // the low bits are not there
    const data = 'wide' in spec ? at + 12 : at + 8;
    config.write(data, 2, 0x4041);
    config.write(at + 2, 2, 0xffff);
    expect(config.read(at + 2, 2)).toBe(control | 0x71);
    expect(log()).toEqual(['pin 3.A down']);
    fn.signal(0);
    fn.signal(spec.vectors - 1);
    const base = 0x4041 & ~(spec.vectors - 1);
    expect(log()).toEqual([`msi fee01000 ${base.toString(16)}`, `msi fee01000 ${(base | (spec.vectors - 1)).toString(16)}`]);
  });
  it('folds the vectors that were not given onto those that were', () => {
    const { fn, config, log } = plug();
    const at = fn.addMsi({ vectors: 8 });
    config.write(4, 2, COMMAND.MASTER);
    config.write(at + 8, 2, 0x33);
    config.write(at + 2, 2, 0x11); // two
    for (const vector of [0, 1, 2, 7]) fn.signal(vector);
    expect(log()).toEqual(['msi 0 32', 'msi 0 33', 'msi 0 32', 'msi 0 33']);
  });
  it('waits behind a mask, once, and comes when it is lifted', () => {
    const { fn, config, log } = plug();
    const at = fn.addMsi({ vectors: 4, wide: true, masking: true });
    config.write(4, 2, COMMAND.MASTER);
    config.write(at + 8, 4, 1);
    config.write(at + 4, 4, 0xfee0_0000);
    config.write(at + 16, 4, 0xffff_ffff);
    expect(config.read(at + 16, 4)).toBe(0xf);
    config.write(at + 2, 2, 0x21);
    for (const vector of [1, 3, 1]) fn.signal(vector);
    expect([log(), config.read(at + 20, 4)]).toEqual([[], 0b1010]);
    config.write(at + 20, 4, 0);
    config.write(at + 16, 4, 0b1000);
    expect([log(), config.read(at + 20, 4)]).toEqual([['msi 1fee00000 1'], 0b1000]);
    config.write(at + 16, 1, 0);
    expect([log(), config.read(at + 20, 4)]).toEqual([['msi 1fee00000 3'], 0]);
  });
  it('is a write, and needs what writes need', () => {
    const { fn, config, log } = plug();
    const at = fn.addMsi({ vectors: 1 });
    config.write(at + 2, 2, 1);
    fn.signal();
    expect(log()).toEqual([]);
    config.write(4, 2, COMMAND.MASTER);
    fn.signal();
    expect(log()).toEqual(['msi 0 0']);
  });
});

describe('MSI-X', () => {
  function withTable() {
    const card = plug({ bars: [bar(0, 'mem32', 0x1000, 0x77)] });
    const at = card.fn.addMsix({ bar: 0, vectors: 3, tableOffset: 0x800, pbaOffset: 0xc00 });
    card.config.write(0x10, 4, 0xfe00_0000);
    card.config.write(4, 2, COMMAND.MEMORY | COMMAND.MASTER);
    const word = (offset: number, value?: number): number => {
      if (value !== undefined) card.memory.write(0xfe00_0000 + offset, 4, BigInt(value));
      return Number(card.memory.read(0xfe00_0000 + offset, 4));
    };
    const fill = (vector: number, control: number): void => {
      word(0x800 + 16 * vector, 0xfee0_0000 + 0x1000 * vector);
      word(0x808 + 16 * vector, 0x40 + vector);
      word(0x80c + 16 * vector, control);
    };
    return { ...card, at, word, fill };
  }
  it('has its tables in the region, over the registers of the device', () => {
    const { config, at, memory, word } = withTable();
    expect([config.read(at, 1), config.read(at + 2, 2), config.read(at + 4, 4), config.read(at + 8, 4)]).toEqual([0x11, 2, 0x800, 0xc00]);
    expect(memory.read(0xfe00_07fc, 1)).toBe(0x77n);
    expect([word(0x800), word(0x80c), word(0x82c), word(0x830), word(0xc00)]).toEqual([0, 1, 1, 0x77, 0]);
    memory.write(0xfe00_0800, 8, 0x1122_3344_5566_7788n);
    expect([memory.read(0xfe00_0800, 8), word(0x804)]).toEqual([0x1122_3344_5566_7788n, 0x1122_3344]);
    word(0x80c, 0xffff_fffe);
    expect(word(0x80c)).toBe(0);
  });
  it('does not answer narrow accesses, and the pending bits are not to be written', () => {
    const { memory, word } = withTable();
    word(0x808, 0x1234_5678);
    memory.write(0xfe00_0808, 1, 0xffn);
    memory.write(0xfe00_080a, 2, 0xffffn);
    word(0xc00, 0xffff_ffff);
    expect([word(0x808), memory.read(0xfe00_0808, 2), word(0xc00), word(0xc04)]).toEqual([0x1234_5678, 0xffffn, 0, 0]);
  });
  it('sends what the entry says', () => {
    const { fn, config, at, fill, log, word } = withTable();
    fill(2, 0);
    fn.signal(2);
    expect(log()).toEqual(['pin 3.A up']); // not enabled: the pin
    config.write(at + 2, 2, 0x8000);
    expect(log()).toEqual(['pin 3.A down']);
    word(0x824, 5);
    fn.signal(2);
    fn.signal(3);
    expect(log()).toEqual(['msi 5fee02000 42']);
  });
  it('keeps what a mask holds back, of one or of all, and sends it once', () => {
    const { fn, config, at, fill, log, word } = withTable();
    for (const vector of [0, 1, 2]) fill(vector, vector === 1 ? 1 : 0);
    config.write(at + 2, 2, 0xc000);
    for (const vector of [2, 1, 2, 0]) fn.signal(vector);
    expect([log(), word(0xc00)]).toEqual([[], 0b111]);
    config.write(at + 2, 2, 0x8000);
    expect([log(), word(0xc00)]).toEqual([['msi fee00000 40', 'msi fee02000 42'], 0b010]);
    word(0x81c, 0);
    expect([log(), word(0xc00)]).toEqual([['msi fee01000 41'], 0]);
    word(0x81c, 0);
    expect(log()).toEqual([]);
  });
  it('is at power-on again after a reset', () => {
    const { fn, config, at, fill, log, word } = withTable();
    fill(1, 1);
    config.write(at + 2, 2, 0x8000);
    fn.signal(1);
    fn.reset();
    expect([config.read(4, 2), config.read(0x10, 4), config.read(at + 2, 2), fn.msix?.isPending(1)]).toEqual([0, 0, 2, false]);
    config.write(0x10, 4, 0xfe00_0000);
    config.write(4, 2, COMMAND.MEMORY);
    expect([word(0x810), word(0x81c), log()]).toEqual([0, 1, []]);
  });
});
