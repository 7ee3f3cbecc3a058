import { describe, expect, it } from 'vitest';
import { Recorder } from '../../01-hardware-background/trace.ts';
import { Bus, loadValue, PORT_COUNT, type Registers, storeValue } from './bus.ts';
import { DebugExit } from './debug-exit.ts';
import { DebugConsole } from './debugcon.ts';
import { Injector } from './injector.ts';
import { Scratch } from './scratch.ts';
import { Serial } from './serial.ts';

describe('a bus', () => {
  const silent = (name: string): Registers & { calls: unknown[] } => {
    const calls: unknown[] = [];
    return {
      name,
      calls,
      read(...args) {
        calls.push(['read', ...args]);
        return 0x1122_3344_5566_7788n;
      },
      write: (...args) => void calls.push(['write', ...args]),
    };
  };
  it('gives a device its own offsets and values that fit', () => {
    const bus = new Bus('ports');
    const device = silent('a');
    bus.attach(0x100, 8, device);
    expect(bus.read(0x104, 4)).toBe(0x5566_7788n);
    bus.write(0x101, 1, 0x1234n);
    expect(device.calls).toEqual([
      ['read', 4, 4],
      ['write', 1, 1, 0x34n],
    ]);
  });
  it('floats high where nobody answers, and loses writes there', () => {
    const bus = new Bus('ports');
    expect([bus.read(0x80, 1), bus.read(0x80, 2), bus.read(0x80, 4), bus.read(0x80, 8)]).toEqual([
      0xffn,
      0xffffn,
      0xffff_ffffn,
      0xffff_ffff_ffff_ffffn,
    ]);
    bus.write(0x80, 4, 1n);
  });
  it('cuts an access where the answer changes', () => {
    const bus = new Bus('ports');
    const [a, b] = [silent('a'), silent('b')];
    bus.attach(0x100, 4, a);
    bus.attach(0x108, 1, b);
    expect(bus.read(0x102, 4)).toBe(0xffff_7788n);
    expect(bus.read(0xff, 2)).toBe(0x88ffn);
    expect(bus.read(0x106, 4)).toBe(0xff88_ffffn);
    bus.write(0x103, 8, 0x0807_0605_0403_0201n);
    expect(a.calls).toEqual([
      ['read', 2, 2],
      ['read', 0, 1],
      ['write', 3, 1, 0x01n],
    ]);
    expect(b.calls).toEqual([
      ['read', 0, 1],
      ['write', 0, 1, 0x06n],
    ]);
  });
  it('goes on at port 0 after the last', () => {
    const bus = new Bus('ports', PORT_COUNT);
    const [first, last] = [silent('first'), silent('last')];
    bus.attach(0, 2, first);
    bus.attach(0xffff, 1, last);
    bus.write(0xffff, 4, 0x4433_2211n);
    expect(last.calls).toEqual([['write', 0, 1, 0x11n]]);
    expect(first.calls).toEqual([['write', 0, 2, 0x3322n]]); // nobody has the fourth byte
    expect(bus.read(0xfffe, 4)).toBe(0x7788_88ffn);
  });
  it('lets the board win over what the guest moves, and the older of two that it moves', () => {
    const make = (moves: [number, number][]): string => {
      const bus = new Bus('memory');
      bus.attach(0x1000, 0x100, named('board'));
      const movable = ['older', 'newer', 'wide'].map((name) => bus.region(named(name), { priority: -1 }));
      for (const [which, to] of moves) movable[which]?.place(to, which === 2 ? 0x2000 : 0x200);
      return [0x0f00, 0x1000, 0x10ff, 0x1100, 0x1300, 0x1fff].map((address) => names[Number(bus.read(address, 1))] ?? '-').join(' ');
    };
    const names: string[] = [];
    const named = (name: string): Registers => {
      const id = names.includes(name) ? names.indexOf(name) : names.push(name) - 1;
      return { name, read: () => BigInt(id), write: () => {} };
    };
    // biome-ignore format: table
    const places: [number, number][] = [[0, 0x1080], [1, 0x1180], [2, 0]];
    expect(make(places)).toBe('wide board board older newer wide');
    expect(make([[1, 0x1080], ...places.toReversed(), [0, 0x1080]])).toBe('wide board board older newer wide');
  });
  it('is not cut by what lies underneath', () => {
    const bus = new Bus('memory');
    const over = silent('over');
    bus.attach(0x1000, 0x100, over);
    const under = bus.region(silent('under'), { priority: -1 });
    under.place(0x1002, 4);
    expect(bus.read(0x1000, 8)).toBe(0x1122_3344_5566_7788n);
    expect(over.calls).toEqual([['read', 0, 8]]);
  });
  it('forgets a region that is taken away, also right after it answered', () => {
    const bus = new Bus('memory');
    const region = bus.region(silent('a'), { priority: -1 });
    region.place(0x1000, 0x10);
    expect(bus.read(0x1000, 1)).toBe(0x88n);
    region.place(0x2000);
    expect([bus.read(0x1000, 1), bus.read(0x2000, 1)]).toEqual([0xffn, 0x88n]);
    region.place(null);
    expect([bus.read(0x2000, 1), bus.placed, region.start]).toEqual([0xffn, 0, null]);
    region.place(2 ** 52 - 8, 16);
    expect(region.start).toBe(null);
  });
  it('says byte by byte what the rule says, whatever the guest moves', () => {
    let state = 7;
    const below = (limit: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return Math.floor((state / 2 ** 32) * limit);
    };
    const bus = new Bus('memory', 256);
    const own = (id: number): Registers => ({
      name: `${id}`,
      // Each byte says whose it is and where in the region, so that a wrong piece or a wrong offset shows.
      read: (offset, width) =>
        Array.from({ length: width }, (_, at) => BigInt((16 * id + offset + at) & 0xff) << BigInt(8 * at)).reduce((a, b) => a | b),
      write: () => {},
    });
    bus.attach(0x40, 0x10, own(1));
    const regions = [2, 3, 4, 5, 6].map((id) => ({ id, region: bus.region(own(id), { priority: id === 4 ? -1 : -2 }) }));
    const byteAt = (address: number): bigint => {
      if (address >= 0x40 && address < 0x50) return BigInt((16 + address - 0x40) & 0xff);
      const holds = ({ region: { start, bytes } }: (typeof regions)[number]): boolean =>
        start !== null && address >= start && address < start + bytes;
      const winner = regions.find((one) => one.id === 4 && holds(one)) ?? regions.find(holds);
      return winner ? BigInt((16 * winner.id + address - (winner.region.start as number)) & 0xff) : 0xffn;
    };
    for (let step = 0; step < 4000; step++) {
      if (below(4) === 0) regions[below(regions.length)]?.region.place(below(8) ? below(300) : null, 1 + below(40));
      const [address, width] = [below(256), ([1, 2, 4, 8] as const)[below(4)] as 1 | 2 | 4 | 8];
      let expected = 0n;
      for (let at = 0; at < width; at++) expected |= byteAt((address + at) % 256) << BigInt(8 * at);
      expect([step, address, width, bus.read(address, width)]).toEqual([step, address, width, expected]);
    }
  });
  it('makes the accesses that a model was written for out of what the guest does', () => {
    const bus = new Bus('memory');
    const words = new Map<number, bigint>();
    const calls: string[] = [];
    const device: Registers = {
      name: 'words',
      impl: { min: 4, max: 4 },
      read(offset, width) {
        calls.push(`r${offset}:${width}`);
        return words.get(offset) ?? 0n;
      },
      write(offset, width, value) {
        calls.push(`w${offset}:${width}:${value.toString(16)}`);
        words.set(offset, value);
      },
    };
    bus.attach(0x1000, 0x10, device);
    bus.write(0x1000, 8, 0x8877_6655_4433_2211n);
    bus.write(0x1009, 1, 0xaan);
    bus.write(0x100e, 4, 0xddcc_bbaan);
    expect(calls.splice(0)).toEqual(['w0:4:44332211', 'w4:4:88776655', 'w8:4:aa00', 'w12:4:bbaa0000']);
    expect(bus.read(0x1002, 4)).toBe(0x6655_4433n);
    expect(bus.read(0x1007, 1)).toBe(0x88n);
    expect(bus.read(0x100c, 8)).toBe(0xffff_ffff_bbaa_0000n);
    expect(calls).toEqual(['r0:4', 'r4:4', 'r4:4', 'r12:4']);
  });
  it('does not show a device widths that it does not answer', () => {
    const bus = new Bus('memory');
    const device = { ...silent('narrow'), valid: { min: 1, max: 2 } } as const;
    bus.attach(0x1000, 0x10, device);
    bus.write(0x1000, 4, 1n);
    expect(bus.read(0x1000, 4)).toBe(0xffff_ffffn);
    expect(bus.read(0x1000, 2)).toBe(0x7788n);
    expect(device.calls).toEqual([['read', 0, 2]]);
  });
  it('reads a string: by the device that knows of strings, or item by item; what two answer, or nobody, is no string', () => {
    const bus = new Bus('ports');
    const plain = silent('plain');
    bus.attach(0x100, 4, plain);
    const strings: unknown[] = [];
    const windowed: Registers = { ...silent('window'), readString: (...what) => void strings.push(what) };
    bus.attach(0x200, 4, windowed);
    const into = new Uint8Array(6);
    bus.readString(0x102, 2, into);
    expect(plain.calls).toEqual(Array(3).fill(['read', 2, 2]));
    expect([...into]).toEqual([0x88, 0x77, 0x88, 0x77, 0x88, 0x77]);
    bus.readString(0x202, 2, into);
    expect(strings).toEqual([[2, 2, into]]);
    bus.readString(0x203, 2, into);
    expect(strings.length).toBe(1);
    expect([...into.subarray(0, 4)]).toEqual([0x88, 0xff, 0x88, 0xff]);
    bus.readString(0x300, 2, into);
    expect([...into]).toEqual(Array(6).fill(0xff));
  });
  it('refuses two devices at one address', () => {
    const bus = new Bus('ports');
    bus.attach(0x100, 8, silent('a'));
    bus.attach(0x108, 8, silent('b'));
    expect(() => bus.attach(0x107, 2, silent('c'))).toThrow('c at 0x107 on ports overlaps a');
  });
  it('loads and stores little-endian', () => {
    const bytes = new Uint8Array(10);
    storeValue(bytes, 1, 8, 0xf122_3344_5566_7788n);
    expect([...bytes]).toEqual([0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0xf1, 0]);
    expect(loadValue(bytes, 1, 8)).toBe(0xf122_3344_5566_7788n);
    expect(loadValue(bytes, 2, 2)).toBe(0x6677n);
  });
});

describe('the serial port', () => {
  const LSR = 5;
  it('sends at once and is always empty', () => {
    const trace = new Recorder();
    const seen: number[] = [];
    const serial = new Serial({ trace, onByte: (byte) => seen.push(byte) });
    for (const byte of [0x41, 0x42]) {
      expect(serial.read(LSR, 1) & 0x60n).toBe(0x60n);
      serial.write(0, 1, BigInt(byte));
    }
    expect([...serial.output]).toEqual([0x41, 0x42]);
    expect(seen).toEqual([0x41, 0x42]);
    expect(trace.of('console').map(({ byte }) => byte)).toEqual([0x41, 0x42]);
  });
  it("gives the host's bytes in order, however few fit", () => {
    const serial = new Serial();
    const sent = Array.from({ length: 40 }, (_, n) => n + 1);
    serial.send(sent);
    const got: number[] = [];
    while (serial.read(LSR, 1) & 1n) got.push(Number(serial.read(0, 1)));
    expect(got).toEqual(sent);
    expect(serial.read(0, 1)).toBe(0n);
  });
  it('drops what the receiver holds when the FIFO is cleared', () => {
    const serial = new Serial();
    serial.write(2, 1, 0x01n);
    serial.send(Array.from({ length: 20 }, (_, n) => n));
    serial.write(2, 1, 0x07n);
    expect(serial.read(0, 1)).toBe(16n); // 16 were in the chip; the rest still waited outside
  });
  it('hides the divisor behind DLAB', () => {
    const serial = new Serial();
    serial.write(3, 1, 0x83n);
    serial.write(0, 1, 0x01n);
    serial.write(1, 1, 0x02n);
    expect([serial.read(0, 1), serial.read(1, 1)]).toEqual([1n, 2n]);
    serial.write(3, 1, 0x03n);
    expect(serial.read(3, 1)).toBe(3n);
    expect(serial.output.length).toBe(0);
    serial.write(1, 1, 0xffn);
    expect(serial.read(1, 1)).toBe(0x0fn);
  });
  it('loops back on itself, and overruns', () => {
    const serial = new Serial();
    serial.write(4, 1, 0x1en);
    expect(serial.read(6, 1)).toBe(0xd0n); // RTS as CTS, OUT1 as RI, OUT2 as CD
    serial.write(0, 1, 0xaen);
    serial.write(0, 1, 0xafn);
    expect(serial.read(LSR, 1) & 3n).toBe(3n);
    expect(serial.read(LSR, 1) & 3n).toBe(1n); // the error goes with the reading
    expect(serial.read(0, 1)).toBe(0xafn); // the later byte took the place of the earlier
    expect(serial.output.length).toBe(0);
  });
  it('identifies what would interrupt, in order of priority', () => {
    const IIR = 2;
    const serial = new Serial();
    serial.send([0x41]);
    expect(serial.read(IIR, 1)).toBe(1n); // nothing is enabled
    serial.write(1, 1, 0x03n);
    expect(serial.read(IIR, 1)).toBe(4n); // the byte that was there before
    serial.read(0, 1);
    expect(serial.read(IIR, 1)).toBe(2n); // the transmitter is empty
    expect(serial.read(IIR, 1)).toBe(1n); // and was, once
    serial.write(0, 1, 0x42n);
    expect(serial.read(IIR, 1)).toBe(2n);
    serial.write(1, 1, 0n);
    expect(serial.read(IIR, 1)).toBe(1n);
  });
  it('has a scratch register, no interrupt pending, and takes wide accesses byte by byte', () => {
    const serial = new Serial();
    serial.write(7, 1, 0x5an);
    expect(serial.read(7, 1)).toBe(0x5an);
    expect(serial.read(2, 1)).toBe(1n);
    serial.write(2, 1, 1n);
    expect(serial.read(2, 1)).toBe(0xc1n);
    expect(serial.read(6, 2)).toBe(0x5ab0n);
  });
  it('keeps a bounded amount', () => {
    const serial = new Serial();
    for (let n = 0; n < (1 << 20) + 5; n++) serial.write(0, 1, 0x2en);
    expect([serial.output.length, serial.lost]).toEqual([1 << 20, 5]);
  });
});

describe('the small devices', () => {
  it('leave with an odd status', () => {
    const device = new DebugExit();
    expect(device.status).toBe(null);
    device.write(0, 4, 0n);
    expect(device.status).toBe(1);
    device.write(0, 1, 0x42n);
    expect(device.status).toBe(0x85);
    device.write(0, 4, 0xffff_ffffn);
    expect(device.status).toBe(255);
  });
  it('answer on the debug console with its number', () => {
    const device = new DebugConsole();
    device.write(0, 1, 0x168n);
    expect([device.read(), ...device.output]).toEqual([0xe9n, 0x68]);
  });
  it('remember each access in its width', () => {
    const trace = new Recorder();
    const device = new Scratch('scratch', 16, { trace });
    device.write(4, 4, 0xdead_beefn);
    expect(device.read(6, 2)).toBe(0xdeadn);
    expect(device.accesses).toEqual([
      { rw: 'write', offset: 4, width: 4, value: 0xdead_beefn },
      { rw: 'read', offset: 6, width: 2, value: 0xdeadn },
    ]);
    expect(trace.of('device').map(({ what }) => what)).toEqual(['write32 +4', 'read16 +6']);
  });
  it('ask for interrupts', () => {
    const device = new Injector();
    const asked: unknown[] = [];
    device.onRequest = (what) => asked.push(what);
    device.write(0, 1, 0x30n);
    device.write(1, 1, 0n);
    expect(asked).toEqual([0x30, 'nmi']);
  });
});
