import { describe, expect, it } from 'vitest';
import { Bus, PORT_COUNT, type Registers, type Width } from '../../03-vcpu-loop/devices/bus.ts';
import { BRIDGE_CLASS, PciBridge } from './bridge.ts';
import { PciFunction } from './function.ts';
import { COMMAND } from './header.ts';
import { SharedLines } from './lines.ts';
import { PAM_AREAS } from './pam.ts';
import { rootRoutes } from './pirq.ts';
import { Q35 } from './q35.ts';

function board() {
  const log: string[] = [];
  const ports = new Bus('ports', PORT_COUNT);
  const memory = new Bus('memory');
  const q35 = new Q35({
    ports,
    memory,
    dma: { read: () => true, write: (gpa, from) => log.push(`write ${gpa.toString(16)} ${[...from]}`) > 0 },
    msi: { send: (address, data) => void log.push(`msi ${address.toString(16)} ${data}`) },
    lines: new SharedLines((gsi) => ({ set: (level) => void log.push(`${level ? '+' : '-'}${gsi}`) })),
    onPam: ({ start }, { read, write }) => void log.push(`pam ${start.toString(16)} ${read ? 'r' : ''}${write ? 'w' : ''}`),
    onReset: (kind) => void log.push(`reset ${kind}`),
  });
  const select = (bus: number, device: number, number: number, offset: number): void =>
    ports.write(0xcf8, 4, BigInt((0x8000_0000 | (bus << 16) | (device << 11) | (number << 8) | offset) >>> 0));
  const read = (bus: number, device: number, number: number, offset: number, width: Width = 4): number => {
    select(bus, device, number, offset & 0xfc);
    return Number(ports.read(0xcfc + (offset & 3), width));
  };
  const write = (bus: number, device: number, number: number, offset: number, width: Width, value: number): void => {
    select(bus, device, number, offset & 0xfc);
    ports.write(0xcfc + (offset & 3), width, BigInt(value));
  };
  return { q35, ports, memory, read, write, log: () => log.splice(0) };
}

const registers = (name: string, answer: number): Registers => ({ name, read: () => BigInt(answer), write: () => {} });

const card = (name: string, answer = 0x5a): PciFunction =>
  new PciFunction({
    name,
    identity: { vendorId: 0x8086, deviceId: 0x100e, classCode: 0x020000, interruptPin: 1 },
    bars: [
      { index: 0, kind: 'mem32', bytes: 0x1000, registers: registers(name, answer) },
      { index: 1, kind: 'io', bytes: 0x40, registers: registers(name, answer) },
    ],
  });

describe('configuration mechanism 1', () => {
  it('finds what is there, and ones where nothing is', () => {
    const { read } = board();
    expect([read(0, 0, 0, 0), read(0, 31, 0, 0), read(0, 31, 0, 8), read(0, 31, 0, 0xc, 4)]).toEqual([
      0x29c0_8086, 0x2918_8086, 0x0601_0002, 0x0080_0000,
    ]);
    expect([read(0, 1, 0, 0), read(0, 0, 1, 0), read(1, 0, 0, 0), read(255, 31, 7, 0)]).toEqual(Array(4).fill(0xffff_ffff));
    expect([read(0, 0, 0, 2, 2), read(0, 0, 0, 3, 1), read(0, 0, 0, 0x2c)]).toEqual([0x29c0, 0x29, 0x1100_1af4]);
  });
  it('takes an address only as a dword, without its reserved bits', () => {
    const { ports } = board();
    ports.write(0xcf8, 4, 0xffff_ffffn);
    expect(ports.read(0xcf8, 4)).toBe(0x80ff_fffcn);
    ports.write(0xcf8, 4, 0x8000_f800n);
    for (const [port, width] of [
      [0xcf8, 1],
      [0xcf8, 2],
      [0xcfa, 2],
      [0xcfb, 1],
    ] as const)
      ports.write(port, width, 0x1234n);
    expect([ports.read(0xcf8, 4), ports.read(0xcf8, 2), ports.read(0xcfc, 4)]).toEqual([0x8000_f800n, 0xffffn, 0x2918_8086n]);
  });
  it('answers nothing while the address is not enabled', () => {
    const { ports } = board();
    ports.write(0xcf8, 4, 0x0000_f800n);
    expect(ports.read(0xcfc, 4)).toBe(0xffff_ffffn);
    ports.write(0xcf8, 4, 0x8000_f840n);
    ports.write(0xcfc, 4, 0x600n);
    ports.write(0xcf8, 4, 0x0000_f840n);
    ports.write(0xcfc, 4, 0x700n);
    ports.write(0xcf8, 4, 0x8000_f840n);
    expect(ports.read(0xcfc, 4)).toBe(0x601n);
  });
  it('reads crooked widths as the bytes that they cover', () => {
    const { ports, read } = board();
    read(0, 31, 0, 0);
    expect([ports.read(0xcfd, 2), ports.read(0xcfe, 4), ports.read(0xcfc, 8)]).toEqual([0x1880n, 0xffff_2918n, 0xffff_ffff_2918_8086n]);
  });
  it('has the reset register in its midst: a byte, whose bit must rise', () => {
    const { ports, log } = board();
    for (const value of [0x02, 0x06, 0x06, 0x02, 0x0e, 0x00, 0x04, 0x04]) ports.write(0xcf9, 1, BigInt(value));
    expect(log()).toEqual(['reset hard', 'reset hard', 'reset init', 'reset init']);
    ports.write(0xcf9, 1, 0xa2n);
    expect([ports.read(0xcf9, 1), ports.read(0xcf8, 4)]).toEqual([0x02n, 0n]);
    ports.write(0xcf9, 2, 0x0606n);
    expect(log()).toEqual([]);
  });
});

describe('the memory window', () => {
  it('is where and as long as PCIEXBAR says', () => {
    const { memory, write, q35 } = board();
    expect(q35.ecam.base).toBe(null);
    const place = (value: number, upper = 0): unknown[] => {
      write(0, 0, 0, 0x60, 4, 0);
      write(0, 0, 0, 0x64, 4, upper);
      write(0, 0, 0, 0x60, 4, value);
      return [q35.ecam.base, q35.ecam.bytes >> 20];
    };
    expect(place(0xb000_0001)).toEqual([0xb000_0000, 256]);
    expect([memory.read(0xb000_0000, 4), memory.read(0xb00f_8002, 2), memory.read(0xb010_0000, 4)]).toEqual([0x29c0_8086n, 0x2918n, 0xffff_ffffn]);
    expect(memory.read(0xb000_0000, 8)).toBe(0x29c0_8086n); // the command and status registers are 0
    expect(memory.read(0xb000_0100, 4)).toBe(0xffff_ffffn); // not an Express function
    expect(place(0xbc00_0003)).toEqual([0xb800_0000, 128]);
    expect(place(0xbc00_0005)).toEqual([0xbc00_0000, 64]);
    expect(place(0xb000_0007)).toEqual([null, 0]);
    expect(place(0xe000_0001, 0xff)).toEqual([0xf_e000_0000, 256]);
    expect(memory.read(0xf_e00f_8000, 4)).toBe(0x2918_8086n);
  });
  it('reaches the same registers as the ports, in every width', () => {
    const { memory, write, read } = board();
    write(0, 0, 0, 0x60, 4, 0xb000_0001);
    memory.write(0xb00f_803c, 1, 0x0bn);
    expect(read(0, 31, 0, 0x3c, 1)).toBe(0x0b);
    memory.write(0xb000_0090, 8, 0xffff_ffff_ffff_ff30n);
    expect([read(0, 0, 0, 0x90), read(0, 0, 0, 0x94)]).toEqual([0x3333_3330, 0x8133_3333]);
  });
  it('reaches extended registers of functions that have them', () => {
    const { memory, write, q35 } = board();
    const express = q35.add(new PciFunction({ name: 'express', identity: { vendorId: 1, deviceId: 2, classCode: 0 }, extended: true }), 4);
    express.addExtendedCapability(3, 1, Uint8Array.of(1, 2, 3, 4));
    write(0, 0, 0, 0x60, 4, 0xb000_0001);
    expect([memory.read(0xb002_0100, 8), memory.read(0xb002_0ffe, 4)]).toEqual([0x0403_0201_0001_0003n, 0xffff_0000n]);
  });
});

describe('the stretch below one megabyte', () => {
  it('is switched in thirteen pieces, reads and writes apart', () => {
    const { write, log, q35 } = board();
    expect(PAM_AREAS.reduce((at, { start, bytes }) => (start === at ? at + bytes : Number.NaN), 0xc_0000)).toBe(0x10_0000);
    write(0, 0, 0, 0x90, 1, 0x30);
    expect(log()).toEqual(['pam f0000 rw']);
    write(0, 0, 0, 0x91, 1, 0x21);
    expect(log()).toEqual(['pam c0000 r', 'pam c4000 w']);
    write(0, 0, 0, 0x96, 1, 0x33);
    expect(log()).toEqual(['pam e8000 rw', 'pam ec000 rw']);
    write(0, 0, 0, 0x90, 4, 0x0000_21ff);
    expect(log()).toEqual([]);
    q35.reset();
    expect(log().toSorted()).toEqual(['pam c0000 ', 'pam c4000 ', 'pam e8000 ', 'pam ec000 ', 'pam f0000 ']);
  });
  it('locks system management memory until a reset', () => {
    const { write, read, q35 } = board();
    write(0, 0, 0, 0x9d, 1, 0x48);
    expect(read(0, 0, 0, 0x9d, 1)).toBe(0x4a);
    write(0, 0, 0, 0x9d, 1, 0x5f);
    expect(read(0, 0, 0, 0x9d, 1)).toBe(0x1a);
    write(0, 0, 0, 0x9d, 2, 0xffff);
    expect(read(0, 0, 0, 0x9d, 2)).toBe(0x381a);
    q35.reset();
    write(0, 0, 0, 0x9d, 2, 0xff40);
    expect(read(0, 0, 0, 0x9d, 2)).toBe(0xbf42);
  });
});

describe('the LPC bridge', () => {
  it('places the power management ports', () => {
    const { write, ports, q35 } = board();
    q35.connectPm(registers('pm', 0x77));
    const at = (port: number): bigint => ports.read(port, 1);
    write(0, 31, 0, 0x40, 4, 0x601);
    expect([at(0x600), q35.lpc.pmBase]).toEqual([0xffn, null]);
    write(0, 31, 0, 0x44, 1, 0x80);
    expect([at(0x5ff), at(0x600), at(0x67f), at(0x680), q35.lpc.pmBase]).toEqual([0xffn, 0x77n, 0x77n, 0xffn, 0x600]);
    write(0, 31, 0, 0x40, 4, 0xb07f);
    expect([at(0x600), at(0xb000)]).toEqual([0xffn, 0x77n]);
    q35.reset();
    expect([at(0xb000), q35.lpc.pmBase]).toEqual([0xffn, null]);
  });
  it('has the chosen line for the SCI, shared with whoever is on it', () => {
    const { write, log, q35 } = board();
    q35.lpc.sci.set(true);
    expect(log()).toEqual(['+9']);
    const other = q35.lines.source(9);
    other.set(true);
    write(0, 31, 0, 0x44, 1, 0x84);
    expect(log()).toEqual(['+20']);
    other.set(false);
    q35.lpc.sci.set(false);
    expect(log()).toEqual(['-9', '-20']);
  });
  it('keeps a block of routing registers in memory', () => {
    const { write, memory, log, q35 } = board();
    const at = (offset: number, width: Width): number => Number(memory.read(0xfed1_c000 + offset, width));
    expect(at(0x3140, 2)).toBe(0xffff);
    write(0, 31, 0, 0xf0, 4, 0xfed1_ffff);
    expect([at(0x3140, 2), at(0x3140, 4), at(0x3100, 4), at(0x3158, 4)]).toEqual([0x3210, 0x3210, 0x0324_3200, 0xffff_ffff]);
    const device = q35.add(card('inside'), 27);
    device.intx.set(true);
    expect(log()).toEqual(['+16']);
    memory.write(0xfed1_f148, 2, 0x7654n);
    expect([log(), q35.pirqs.pirqOf(27, 0), q35.pirqs.pirqOf(27, 3)]).toEqual([['-16', '+20'], 4, 7]);
    memory.write(0xfed1_f142, 2, 0x7777n); // device 30 has none
    expect([q35.pirqs.pirqOf(30, 0), at(0x3142, 2)]).toEqual([4, 0]);
    q35.reset();
    expect([log(), q35.pirqs.pirqOf(27, 3), at(0x3148, 2)]).toEqual([['-20'], 3, 0xffff]);
    write(0, 31, 0, 0xf0, 4, 0xfed1_c001);
    expect(at(0x3148, 2)).toBe(0x3210);
  });
});

describe('interrupt routing', () => {
  it('is what it says that it is', () => {
    const { q35, log } = board();
    for (const { device, pin, gsi } of rootRoutes()) {
      q35.pirqs.intx(device, pin, true);
      expect([device, pin, log()]).toEqual([device, pin, [`+${gsi}`]]);
      q35.pirqs.intx(device, pin, false);
      log();
    }
    const gsis = (device: number): number[] => rootRoutes().flatMap((route) => (route.device === device ? [route.gsi] : []));
    expect([gsis(0), gsis(2), gsis(3), gsis(30), gsis(31)]).toEqual([
      [20, 21, 22, 23],
      [22, 23, 20, 21],
      [23, 20, 21, 22],
      [20, 21, 22, 23],
      [16, 17, 18, 19],
    ]);
  });
  it('goes to an ISA line too when the register says so, and moves with it', () => {
    const { q35, write, log } = board();
    const [a, b] = [q35.add(card('a'), 2), q35.add(card('b'), 6)]; // both on PIRQ G
    write(0, 31, 0, 0x6a, 1, 10);
    a.intx.set(true);
    expect(log()).toEqual(['+22', '+10']);
    b.intx.set(true);
    write(0, 31, 0, 0x6a, 1, 11);
    a.intx.set(false);
    expect(log()).toEqual(['-10', '+11']);
    write(0, 31, 0, 0x6a, 1, 0x8b);
    expect(log()).toEqual(['-11']);
    for (const irq of [0, 1, 2, 8, 13]) write(0, 31, 0, 0x6a, 1, irq);
    b.intx.set(false);
    expect(log()).toEqual(['-22']);
  });
  it('sends messages to processors, and to memory when the address says that', () => {
    const { q35, log, write } = board();
    const fn = q35.add(card('a'), 2);
    const at = fn.addMsi({ vectors: 1, wide: true });
    write(0, 2, 0, 4, 2, COMMAND.MASTER);
    write(0, 2, 0, at + 2, 2, 1);
    write(0, 2, 0, at + 12, 2, 0x1234);
    for (const [high, low] of [
      [0, 0xfee0_1000],
      [0, 0x8000],
      [1, 0xfee0_0000],
      [0xffff_ffff, 0],
    ] as const) {
      write(0, 2, 0, at + 4, 4, low);
      write(0, 2, 0, at + 8, 4, high);
      fn.signal();
    }
    expect(log()).toEqual(['msi fee01000 4660', 'write 8000 52,18,0,0', 'write 1fee00000 52,18,0,0']);
  });
});

describe('a bridge', () => {
  function withBridge() {
    const machine = board();
    const { q35, write } = machine;
    const bridge = q35.add(new PciBridge({ name: 'bridge', identity: { vendorId: 0x1b36, deviceId: 1, classCode: BRIDGE_CLASS } }), 30);
    const inner = bridge.secondary.add(new PciBridge({ name: 'inner', identity: { vendorId: 0x1b36, deviceId: 1, classCode: BRIDGE_CLASS } }), 1);
    const [near, far] = [bridge.secondary.add(card('near', 0x11), 3), inner.secondary.add(card('far', 0x22), 5)];
    const number = (): void => {
      write(0, 30, 0, 0x18, 4, 0x00_03_02_00);
      write(2, 1, 0, 0x18, 4, 0x00_03_03_02);
    };
    return { ...machine, bridge, inner, near, far, number };
  }
  it('has the header of one', () => {
    const { read, write } = withBridge();
    expect([read(0, 30, 0, 8), read(0, 30, 0, 0xe, 1), read(0, 30, 0, 0x18), read(0, 30, 0, 0x24)]).toEqual([0x0604_0000, 1, 0, 0x0001_0001]);
    for (const offset of [0x1c, 0x20, 0x24, 0x28, 0x2c, 0x30, 0x3c]) write(0, 30, 0, offset, 4, 0xffff_ffff);
    expect([0x1c, 0x20, 0x24, 0x28, 0x30].map((offset) => read(0, 30, 0, offset))).toEqual([0xf0f0, 0xfff0_fff0, 0xfff1_fff1, 0xffff_ffff, 0]);
  });
  it('leads to buses by their numbers', () => {
    const { read, write, number } = withBridge();
    expect(read(2, 3, 0, 0)).toBe(0xffff_ffff);
    number();
    expect([read(2, 3, 0, 0), read(2, 1, 0, 8), read(3, 5, 0, 0), read(3, 3, 0, 0), read(4, 5, 0, 0)]).toEqual([
      0x100e_8086, 0x0604_0000, 0x100e_8086, 0xffff_ffff, 0xffff_ffff,
    ]);
    write(0, 30, 0, 0x1a, 1, 2); // bus 3 is not behind it any more
    expect([read(2, 3, 0, 0), read(3, 5, 0, 0)]).toEqual([0x100e_8086, 0xffff_ffff]);
  });
  it('may be numbered as nonsense', () => {
    const { read, write, number } = withBridge();
    number();
    for (const [first, last] of [
      [0, 255],
      [255, 0],
      [2, 1],
      [2, 255],
    ] as const) {
      write(0, 30, 0, 0x19, 1, first);
      write(0, 30, 0, 0x1a, 1, last);
      write(2, 1, 0, 0x19, 1, 2); // the inner one claims the bus that it is on
      for (let bus = 0; bus < 256; bus++) read(bus, 1, 0, 0);
      expect(read(0, 0, 0, 0)).toBe(0x29c0_8086);
    }
  });
  it('lets through what falls into its windows', () => {
    const { memory, ports, read, write, number } = withBridge();
    number();
    write(2, 3, 0, 0x10, 4, 0xfe10_0000);
    write(2, 3, 0, 0x14, 4, 0xd000);
    write(2, 3, 0, 4, 2, 3);
    write(3, 5, 0, 0x10, 4, 0xfe20_0000);
    write(3, 5, 0, 4, 2, 2);
    const seen = (): bigint[] => [memory.read(0xfe10_0000, 1), ports.read(0xd03f, 1), memory.read(0xfe20_0fff, 1)];
    expect(seen()).toEqual([0xffn, 0xffn, 0xffn]);
    write(0, 30, 0, 0x20, 4, 0xfe20_fe10);
    write(0, 30, 0, 0x1c, 2, 0xd0d0);
    expect(seen()).toEqual([0xffn, 0xffn, 0xffn]); // decoding is off
    write(0, 30, 0, 4, 2, 3);
    expect(seen()).toEqual([0x11n, 0x11n, 0xffn]);
    write(2, 1, 0, 0x24, 4, 0xfe20_fe20);
    write(2, 1, 0, 4, 2, 2);
    expect(seen()).toEqual([0x11n, 0x11n, 0x22n]);
    write(0, 30, 0, 0x22, 2, 0xfe10);
    expect(seen()).toEqual([0x11n, 0x11n, 0xffn]);
    write(0, 30, 0, 0x1c, 2, 0xd0e0); // base above limit: closed
    expect(seen()).toEqual([0x11n, 0xffn, 0xffn]);
    expect(read(2, 3, 0, 0)).toBe(0x100e_8086);
  });
  it('turns pins by the number of the device', () => {
    const { near, far, log } = withBridge();
    near.intx.set(true); // 3: A becomes D of the bridge at 30
    expect(log()).toEqual(['+23']);
    far.intx.set(true); // 5: A becomes B, 1: C of the bridge
    expect(log()).toEqual(['+22']);
    far.intx.set(false);
    near.intx.set(false);
    expect(log()).toEqual(['-22', '-23']);
  });
  it('masters the bus for those below, if it may', () => {
    const { near, far, write, number, log } = withBridge();
    number();
    const bytes = Uint8Array.of(1);
    write(2, 3, 0, 4, 2, COMMAND.MASTER);
    write(3, 5, 0, 4, 2, COMMAND.MASTER);
    expect([near.dma.write(0x1000, bytes), far.dma.write(0x1000, bytes)]).toEqual([false, false]);
    write(0, 30, 0, 4, 2, COMMAND.MASTER);
    expect([near.dma.write(0x1000, bytes), far.dma.write(0x1000, bytes)]).toEqual([true, false]);
    write(2, 1, 0, 4, 2, COMMAND.MASTER);
    expect([far.dma.write(0x2000, bytes), log()]).toEqual([true, ['write 1000 1', 'write 2000 1']]);
  });
  it('holds the bus below in reset while a bit is set', () => {
    const { near, read, write, number, log } = withBridge();
    number();
    write(2, 3, 0, 0x10, 4, 0xfe10_0000);
    write(2, 3, 0, 4, 2, 7);
    near.intx.set(true);
    write(0, 30, 0, 0x3e, 2, 0x40);
    expect([log(), read(2, 3, 0, 0), near.command, near.config.read(0x10, 4)]).toEqual([['+23', '-23'], 0xffff_ffff, 0, 0]);
    write(0, 30, 0, 0x3e, 2, 0);
    expect([read(2, 3, 0, 0), read(3, 5, 0, 0)]).toEqual([0x100e_8086, 0xffff_ffff]); // the inner bridge has forgotten its numbers
  });
});
