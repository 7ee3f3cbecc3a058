import { describe, expect, it } from 'vitest';
import { Bus, PORT_COUNT, type Width } from '../../03-vcpu-loop/devices/bus.ts';
import { PciFunction } from './function.ts';
import { I440fx } from './i440fx.ts';
import { SharedLines } from './lines.ts';
import { PAM_AREAS } from './pam.ts';

function board() {
  const log: string[] = [];
  const ports = new Bus('ports', PORT_COUNT);
  const chipset = new I440fx({
    ports,
    memory: new Bus('memory'),
    dma: { read: () => true, write: () => true },
    msi: { send: () => {} },
    lines: new SharedLines((gsi) => ({ set: (level) => void log.push(`${level ? '+' : '-'}${gsi}`) })),
    onPam: ({ start }, { read, write }) => void log.push(`pam ${start.toString(16)} ${read ? 'r' : ''}${write ? 'w' : ''}`),
    onReset: (kind) => void log.push(`reset ${kind}`),
  });
  const select = (device: number, number: number, offset: number): void =>
    ports.write(0xcf8, 4, BigInt((0x8000_0000 | (device << 11) | (number << 8) | (offset & 0xfc)) >>> 0));
  const read = (device: number, number: number, offset: number, width: Width = 4): number => {
    select(device, number, offset);
    return Number(ports.read(0xcfc + (offset & 3), width));
  };
  const write = (device: number, number: number, offset: number, width: Width, value: number): void => {
    select(device, number, offset);
    ports.write(0xcfc + (offset & 3), width, BigInt(value));
  };
  return { chipset, ports, read, write, log: () => log.splice(0) };
}

const card = (): PciFunction => new PciFunction({ name: 'card', identity: { vendorId: 1, deviceId: 2, classCode: 0, interruptPin: 1 } });

describe('the older board', () => {
  it('is a host bridge, and one device of three functions', () => {
    const { read } = board();
    expect([read(0, 0, 0), read(1, 0, 0), read(1, 1, 0), read(1, 3, 0)]).toEqual([0x1237_8086, 0x7000_8086, 0xffff_ffff, 0x7113_8086]);
    expect([read(0, 0, 8) >>> 8, read(1, 0, 8) >>> 8, read(1, 3, 8) >>> 8]).toEqual([0x06_0000, 0x06_0100, 0x06_8000]);
    expect([read(0, 0, 0xe, 1), read(1, 0, 0xe, 1)]).toEqual([0, 0x80]);
    expect(read(0, 0, 0x2c)).toBe(0x1100_1af4); // by which SeaBIOS knows a virtual machine
  });
  it('has the reset register of its bridge among the ports of configuration', () => {
    const { ports, log } = board();
    ports.write(0xcf9, 1, 2n);
    ports.write(0xcf9, 1, 6n);
    expect(log()).toEqual(['reset hard']);
  });
});

describe('PAM', () => {
  it('switches thirteen pieces, reads and writes apart', () => {
    const { write, log } = board();
    write(0, 0, 0x59, 1, 0xff);
    expect(log()).toEqual(['pam f0000 rw']);
    write(0, 0, 0x5a, 1, 0x21);
    expect(log()).toEqual(['pam c0000 r', 'pam c4000 w']);
    write(0, 0, 0x5c, 4, 0x3333_3333);
    expect(log()).toEqual(PAM_AREAS.slice(4, 12).map(({ start }) => `pam ${start.toString(16)} rw`));
    write(0, 0, 0x59, 1, 0x30);
    expect(log()).toEqual([]);
  });
  it('comes from the ROM again after a reset', () => {
    const { chipset, write, log, read } = board();
    write(0, 0, 0x59, 1, 0x10);
    log();
    chipset.reset();
    expect([log(), read(0, 0, 0x59, 1)]).toEqual([['pam f0000 '], 0]);
  });
});

describe('SMRAM', () => {
  it('is closed, and stays so once it is locked', () => {
    const { chipset, write, read } = board();
    expect(read(0, 0, 0x72, 1)).toBe(0x02);
    write(0, 0, 0x72, 1, 0x48);
    expect(read(0, 0, 0x72, 1)).toBe(0x4a);
    write(0, 0, 0x72, 1, 0x50);
    expect(read(0, 0, 0x72, 1)).toBe(0x12);
    write(0, 0, 0x72, 1, 0x48);
    expect(read(0, 0, 0x72, 1)).toBe(0x12);
    chipset.reset();
    write(0, 0, 0x72, 1, 0x48);
    expect(read(0, 0, 0x72, 1)).toBe(0x4a);
  });
});

describe('PIRQ A to D', () => {
  it('take the pins turned by one from slot to slot, and each has an input of the I/O APIC', () => {
    const { chipset, log } = board();
    for (const [device, gsi] of [
      [1, 16],
      [2, 17],
      [3, 18],
      [4, 19],
      [5, 16],
      [31, 18],
    ] as const) {
      chipset.root.intx(device, 0, true);
      chipset.root.intx(device, 0, false);
      expect(log()).toEqual([`+${gsi}`, `-${gsi}`]);
      expect(chipset.routes.find((route) => route.device === device && route.pin === 0)?.gsi).toBe(gsi);
    }
    chipset.root.intx(3, 3, true);
    expect(log()).toEqual(['+17']);
  });
  it('arrive on the ISA line that their register names, too, while bit 7 is clear', () => {
    const { chipset, write, read, log } = board();
    const fn = chipset.add(card(), 4); // its pin is PIRQ D
    write(1, 0, 0x63, 1, 11);
    fn.intx.set(true);
    expect(log().toSorted()).toEqual(['+11', '+19']);
    write(1, 0, 0x63, 1, 5);
    expect(log()).toEqual(['-11', '+5']);
    write(1, 0, 0x63, 1, 0x85);
    expect(log()).toEqual(['-5']);
    write(1, 0, 0x63, 1, 13); // the coprocessor's
    expect(log()).toEqual([]);
    write(1, 0, 0x60, 4, 0xffff_ffff);
    expect(read(1, 0, 0x60)).toBe(0x8f8f_8f8f);
  });
});

describe('power management', () => {
  it('has its ports where PMBA says, while PMREGMISC lets it', () => {
    const { chipset, ports, write, read } = board();
    chipset.connectPm({ name: 'pm', read: (offset) => BigInt(0x40 + offset), write: () => {} });
    const at = (port: number): number => Number(ports.read(port, 1));
    write(1, 3, 0x40, 4, 0xffff_ffff);
    expect([read(1, 3, 0x40), chipset.pmBase]).toEqual([0xffc1, null]);
    write(1, 3, 0x40, 4, 0xb001);
    expect([chipset.pmBase, at(0xb004)]).toEqual([null, 0xff]);
    write(1, 3, 0x80, 1, 1);
    expect([chipset.pmBase, at(0xb004), at(0xb03f), at(0xb040)]).toEqual([0xb000, 0x44, 0x7f, 0xff]);
    write(1, 3, 0x40, 4, 0x600);
    expect([at(0xb004), at(0x604)]).toEqual([0xff, 0x44]);
    chipset.reset();
    expect([chipset.pmBase, at(0x604)]).toEqual([null, 0xff]);
  });
  it('says that SMM is set up, and has no SMBus', () => {
    const { read, write } = board();
    write(1, 3, 0x58, 4, 0);
    write(1, 3, 0xd2, 1, 9);
    expect([read(1, 3, 0x58), read(1, 3, 0xd2, 1)]).toEqual([1 << 25, 0]);
  });
  it('interrupts by line 9', () => {
    const { chipset, log } = board();
    chipset.sci.set(true);
    expect(log()).toEqual(['+9']);
  });
});

it('in place of firmware, routes PIRQs as SeaBIOS does and opens the ports of power management', () => {
  const { chipset, read } = board();
  chipset.prepare();
  expect([read(1, 0, 0x60), chipset.pmBase, read(1, 3, 0x3c, 1)]).toEqual([0x0b0b_0a0a, 0x600, 9]);
});
