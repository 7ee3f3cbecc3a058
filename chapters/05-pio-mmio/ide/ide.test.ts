import { describe, expect, it } from 'vitest';
import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import type { Width } from '../../03-vcpu-loop/devices/bus.ts';
import { type BlockBackend, MemoryBlock, SECTOR_BYTES } from '../block/block.ts';
import { BM_COMMAND, BM_STATUS, BusMaster, PhysicalRegionDescriptor, TABLE_ENTRIES } from './bus-master.ts';
import { AtaChannel } from './channel.ts';
import { AtaDisk } from './disk.ts';
import { CONTROL, ERROR, STATUS } from './task-file.ts';

const DATA = 0;
const ERROR_REG = 1;
const COUNT = 2;
const LOW = 3;
const MID = 4;
const HIGH = 5;
const DEV = 6;
const CMD = 7;

/** Sector n is filled with bytes that name it. */
const pattern = (sector: number): Uint8Array => Uint8Array.from({ length: SECTOR_BYTES }, (_, i) => (sector * 31 + i * 7 + (i >> 8)) & 0xff);

const PATTERNS = new Uint8Array(4096 * SECTOR_BYTES);
for (let sector = 0; sector < 4096; sector++) PATTERNS.set(pattern(sector), sector * SECTOR_BYTES);

function rig({
  sectors = 4096,
  slave = false,
  block,
  ram = 1 << 20,
}: {
  sectors?: number;
  slave?: boolean;
  block?: BlockBackend;
  ram?: number;
} = {}) {
  let now = 0;
  const queue = new TimerQueue(() => now);
  const disk = block ?? new MemoryBlock(PATTERNS.slice(0, sectors * SECTOR_BYTES));
  const master = new AtaDisk({ clock: queue, block: disk });
  const second = slave ? new AtaDisk({ clock: queue, block: new MemoryBlock(new Uint8Array(64 * SECTOR_BYTES)), isDevice1: true }) : null;
  const edges: boolean[] = [];
  const channel = new AtaChannel([master, second], { set: (level) => void edges.push(level) });
  const other = new AtaChannel([null, null], { set: () => {} });
  const memory = new Uint8Array(ram);
  const inRam = (gpa: number, length: number): boolean => gpa + length <= memory.length;
  const busMaster = new BusMaster([channel, other], {
    read(gpa, into) {
      if (!inRam(gpa, into.length)) return false;
      into.set(memory.subarray(gpa, gpa + into.length));
      return true;
    },
    write(gpa, from) {
      if (!inRam(gpa, from.length)) return false;
      memory.set(from, gpa);
      return true;
    },
  });
  const read = (port: number, width: Width = 1): number => Number(channel.command.read(port, width));
  const write = (port: number, value: number, width: Width = 1): void => channel.command.write(port, width, BigInt(value));
  const control = (value: number): void => channel.control.write(0, 1, BigInt(value));
  const alternate = (): number => Number(channel.control.read(0, 1));
  /** Lets time pass until nothing is due. */
  const settle = (): void => {
    while (queue.next !== null) {
      now = queue.next;
      queue.runDue();
    }
  };
  const lba28 = (lba: number, count: number, command: number): void => {
    write(COUNT, count);
    write(LOW, lba);
    write(MID, lba >> 8);
    write(HIGH, lba >> 16);
    write(DEV, 0xe0 | (lba >>> 24));
    write(CMD, command);
  };
  const lba48 = (lba: number, count: number, command: number): void => {
    write(DEV, 0xe0);
    for (const [port, value] of [
      [COUNT, count],
      [LOW, lba],
      [MID, Math.floor(lba / 2 ** 8)],
      [HIGH, Math.floor(lba / 2 ** 16)],
    ] as const) {
      const upper = port === COUNT ? count >> 8 : Math.floor(lba / 2 ** (24 + 8 * (port - LOW))) & 0xff;
      write(port, upper);
      write(port, value % 256);
    }
    write(CMD, command);
  };
  const sector = (width: 2 | 4 = 2): Uint8Array => {
    const out = new Uint8Array(SECTOR_BYTES);
    const view = new DataView(out.buffer);
    for (let at = 0; at < SECTOR_BYTES; at += width) {
      if (width === 2) view.setUint16(at, read(DATA, 2), true);
      else view.setUint32(at, read(DATA, 4), true);
    }
    return out;
  };
  const sendSector = (from: Uint8Array, width: 2 | 4 = 2): void => {
    const view = new DataView(from.buffer, from.byteOffset);
    for (let at = 0; at < SECTOR_BYTES; at += width) write(DATA, width === 2 ? view.getUint16(at, true) : view.getUint32(at, true), width);
  };
  return {
    queue,
    channel,
    busMaster,
    disk,
    memory,
    edges,
    read,
    write,
    control,
    alternate,
    settle,
    lba28,
    lba48,
    sector,
    sendSector,
    advance: (ns: number) => {
      now += ns;
      queue.runDue();
    },
  };
}

describe('after reset', () => {
  it('a disk shows its signature and is ready', () => {
    const { read, alternate } = rig();
    expect([COUNT, LOW, MID, HIGH].map((port) => read(port))).toEqual([1, 1, 0, 0]);
    expect(read(ERROR_REG)).toBe(1);
    expect(alternate()).toBe(STATUS.DRDY | STATUS.DSC);
  });

  it('is busy while SRST is held and for a time after, and then has the signature again', () => {
    const { write, control, alternate, settle, read, edges } = rig();
    write(LOW, 0x77);
    control(CONTROL.SRST);
    expect(alternate()).toBe(STATUS.BSY);
    write(CMD, 0xec);
    control(0);
    expect(alternate()).toBe(STATUS.BSY);
    settle();
    expect(alternate()).toBe(STATUS.DRDY | STATUS.DSC);
    expect([COUNT, LOW, MID, HIGH].map((port) => read(port))).toEqual([1, 1, 0, 0]);
    expect(edges).toEqual([]);
  });

  it('cancels what was going on: no late interrupt, no late data', () => {
    const { lba28, control, settle, edges, alternate } = rig();
    lba28(5, 1, 0x20);
    control(CONTROL.SRST);
    control(0);
    settle();
    expect(edges).toEqual([]);
    expect(alternate() & STATUS.DRQ).toBe(0);
  });
});

describe('selection', () => {
  it('a drive that is not there has a status of zero and answers with its neighbour’s registers', () => {
    const { write, read, alternate } = rig();
    write(DEV, 0xb0);
    write(COUNT, 0x55);
    expect(read(COUNT)).toBe(0x55);
    expect(alternate()).toBe(0);
    write(CMD, 0xec);
    expect(alternate()).toBe(0);
    write(DEV, 0xa0);
    expect(alternate()).toBe(0x50);
  });

  it('an empty channel reads as zero', () => {
    const empty = new AtaChannel([null, null], { set: () => {} });
    empty.command.write(2, 1, 0x55n);
    expect([1, 2, 3, 6, 7].map((port) => Number(empty.command.read(port, 1)))).toEqual([0, 0, 0, 0, 0]);
    expect(empty.command.read(0, 4)).toBe(0n);
  });

  it('carries the interrupt of the selected drive only', () => {
    const { write, settle, edges } = rig({ slave: true });
    write(CMD, 0xe7);
    settle();
    expect(edges).toEqual([true]);
    write(DEV, 0xb0);
    expect(edges).toEqual([true, false]);
    write(DEV, 0xa0);
    expect(edges).toEqual([true, false, true]);
  });

  it('the diagnostic leaves both with signatures, device 0 selected, one interrupt', () => {
    const { write, settle, edges, read } = rig({ slave: true });
    write(DEV, 0xb0);
    write(CMD, 0x90);
    settle();
    expect(edges).toEqual([true]);
    expect(read(DEV) & 0x10).toBe(0);
    expect(read(ERROR_REG)).toBe(1);
    write(DEV, 0xb0);
    expect([COUNT, LOW].map((port) => read(port))).toEqual([1, 1]);
  });
});

describe('IDENTIFY', () => {
  it('tells size, name, features, and its checksum is right', () => {
    const { write, settle, sector, read } = rig({ sectors: 4096 });
    write(CMD, 0xec);
    settle();
    expect(read(CMD)).toBe(0x58);
    const bytes = sector();
    const words = new Uint16Array(bytes.buffer);
    expect(words[60]! + words[61]! * 65536).toBe(4096);
    expect(words[100]! + words[101]! * 65536).toBe(4096);
    expect([words[1], words[3], words[6]]).toEqual([4, 16, 63]);
    const name = Array.from(words.subarray(27, 47), (word) => String.fromCharCode(word >> 8, word & 255)).join('');
    expect(name.trim()).toBe('RINGBOOK DISK');
    expect(words[83]! & 0xc000).toBe(0x4000);
    expect(words[49]! & 0x0300).toBe(0x0300);
    expect(bytes.reduce((sum, byte) => (sum + byte) & 0xff, 0)).toBe(0);
    expect(read(CMD)).toBe(0x50);
  });

  it('follows what SET FEATURES, SET MULTIPLE and INITIALIZE PARAMETERS have set', () => {
    const { write, settle, sector, read } = rig();
    const command = (code: number): number => {
      write(CMD, code);
      settle();
      return read(CMD);
    };
    write(1, 0x03);
    write(COUNT, 0x42);
    expect(command(0xef)).toBe(0x50);
    write(COUNT, 8);
    expect(command(0xc6)).toBe(0x50);
    write(COUNT, 32);
    write(DEV, 0xa7);
    expect(command(0x91)).toBe(0x50);
    command(0xec);
    const words = new Uint16Array(sector().buffer);
    expect(words[88]).toBe(0x043f);
    expect(words[59]).toBe(0x0108);
    expect([words[54], words[55], words[56]]).toEqual([16, 8, 32]);
    write(1, 0x82);
    command(0xef);
    command(0xec);
    expect(new Uint16Array(sector().buffer)[85]! & 0x20).toBe(0);
  });

  it.each([
    [0xa1, 'IDENTIFY PACKET DEVICE'],
    [0xa0, 'PACKET'],
    [0x00, 'NOP'],
    [0x08, 'DEVICE RESET'],
    [0xff, 'no command'],
    [0xb0, 'SMART'],
    [0xc4, 'READ MULTIPLE before SET MULTIPLE'],
  ])('%i (%s) is aborted', (code) => {
    const { write, settle, read } = rig();
    write(CMD, code);
    settle();
    expect(read(ERROR_REG)).toBe(ERROR.ABRT);
    expect(read(CMD)).toBe(0x51);
  });
});

describe('reading and writing by the port', () => {
  it('gives each sector with an interrupt, and status acknowledges where the alternate does not', () => {
    const { lba28, settle, sector, edges, read, alternate } = rig();
    lba28(7, 3, 0x20);
    expect(alternate()).toBe(STATUS.BSY);
    for (let n = 7; n < 10; n++) {
      settle();
      expect(edges.at(-1)).toBe(true);
      expect(alternate()).toBe(0x58);
      expect(edges.at(-1)).toBe(true);
      expect(read(CMD)).toBe(0x58);
      expect(edges.at(-1)).toBe(false);
      expect(sector(n === 8 ? 4 : 2)).toEqual(pattern(n));
    }
    settle();
    expect(edges.filter((level) => level).length).toBe(3);
    expect(read(CMD)).toBe(0x50);
    expect(read(COUNT)).toBe(0);
  });

  it('nIEN keeps the line low, and what is pending appears when it is cleared', () => {
    const { lba28, settle, control, edges } = rig();
    control(CONTROL.NIEN);
    lba28(0, 1, 0x20);
    settle();
    expect(edges).toEqual([]);
    control(0);
    expect(edges).toEqual([true]);
  });

  it('writes: no interrupt for the first block, one for each after it and one at the end', () => {
    const { lba28, settle, sendSector, edges, read, disk } = rig();
    lba28(20, 2, 0x30);
    settle();
    expect(edges).toEqual([]);
    expect(read(CMD)).toBe(0x58);
    sendSector(pattern(1000));
    settle();
    expect(edges).toEqual([true]);
    read(CMD);
    sendSector(pattern(1001), 4);
    settle();
    expect(edges).toEqual([true, false, true]);
    expect(read(CMD)).toBe(0x50);
    const got = new Uint8Array(1024);
    disk.read(20, got);
    expect(got.subarray(0, 512)).toEqual(pattern(1000));
    expect(got.subarray(512)).toEqual(pattern(1001));
  });

  it('MULTIPLE interrupts once for each block of sectors, the last being shorter', () => {
    const { write, settle, lba28, sector, edges, read } = rig();
    write(COUNT, 4);
    write(CMD, 0xc6);
    settle();
    read(CMD);
    edges.length = 0;
    lba28(100, 6, 0xc4);
    settle();
    read(CMD);
    for (let n = 100; n < 104; n++) expect(sector()).toEqual(pattern(n));
    settle();
    read(CMD);
    for (let n = 104; n < 106; n++) expect(sector()).toEqual(pattern(n));
    settle();
    expect(edges.filter((level) => level).length).toBe(2);
    expect(read(CMD)).toBe(0x50);
  });

  it('addresses by cylinder, head and sector, and refuses sector 0', () => {
    const { write, settle, sector, read } = rig();
    const chs = (cylinder: number, head: number, s: number): void => {
      write(COUNT, 1);
      write(LOW, s);
      write(MID, cylinder);
      write(HIGH, cylinder >> 8);
      write(DEV, 0xa0 | head);
      write(CMD, 0x20);
      settle();
    };
    chs(2, 3, 5);
    expect(sector()).toEqual(pattern((2 * 16 + 3) * 63 + 4));
    chs(0, 0, 0);
    expect(read(ERROR_REG)).toBe(ERROR.IDNF);
    chs(0, 0, 64);
    expect(read(ERROR_REG)).toBe(ERROR.IDNF);
  });

  it('addresses by 48 bits; HOB shows the upper halves', () => {
    const big: BlockBackend = {
      sectors: 2 ** 33,
      readOnly: false,
      read: (s, into) => into.fill(s % 251).length > 0,
      write: () => true,
      flush: () => true,
    };
    const { lba48, settle, sector, read, control, write } = rig({ block: big });
    const lba = 2 ** 32 + 0x123456;
    lba48(lba, 1, 0x24);
    settle();
    expect(sector()[0]).toBe(lba % 251);
    expect([LOW, MID, HIGH].map((port) => read(port))).toEqual([0x56, 0x34, 0x12]);
    control(CONTROL.HOB);
    expect([LOW, MID, HIGH].map((port) => read(port))).toEqual([0, 1, 0]);
    write(COUNT, 0); // any write to the command block puts HOB away
    expect(read(LOW)).toBe(0x56);
    write(DEV, 0xe0);
    write(CMD, 0x27);
    settle();
    control(CONTROL.HOB);
    expect([LOW, MID, HIGH].map((port) => read(port))).toEqual([0xff, 1, 0]);
  });

  it('a count of zero is 256 sectors; of 48-bit commands 65,536', () => {
    const { lba28, settle, sector, read } = rig();
    lba28(0, 0, 0x20);
    for (let n = 0; n < 256; n++) {
      settle();
      expect(read(CMD)).toBe(0x58);
      sector();
    }
    settle();
    expect(read(CMD)).toBe(0x50);
  });

  it('beyond the end: IDNF, with the address of the first sector that is not there', () => {
    const { lba28, settle, read } = rig({ sectors: 4096 });
    lba28(4095, 2, 0x20);
    settle();
    expect(read(ERROR_REG)).toBe(ERROR.IDNF);
    expect(read(LOW) | (read(MID) << 8)).toBe(4096);
    expect(read(CMD)).toBe(0x51);
  });

  it('a bad sector: UNC, with its address, after the good ones before it', () => {
    const good = new MemoryBlock(new Uint8Array(64 * 512));
    const bad: BlockBackend = {
      sectors: 64,
      readOnly: false,
      read: (s, into) => !(s <= 12 && s + into.length / 512 > 12) && good.read(s, into),
      write: () => false,
      flush: () => false,
    };
    const { lba28, settle, read, sector, sendSector } = rig({ block: bad });
    lba28(11, 3, 0x20);
    settle();
    expect(read(CMD)).toBe(0x58);
    sector();
    settle();
    expect(read(CMD)).toBe(0x51);
    expect(read(ERROR_REG)).toBe(ERROR.UNC);
    expect(read(LOW)).toBe(12);
    lba28(10, 4, 0x40);
    settle();
    expect([read(ERROR_REG), read(LOW)]).toEqual([ERROR.UNC, 12]);
    lba28(1, 1, 0x30);
    settle();
    sendSector(pattern(0));
    settle();
    expect(read(CMD)).toBe(0x50 | STATUS.DF | STATUS.ERR);
    lba28(1, 1, 0xe7);
    settle();
    expect(read(CMD)).toBe(0x50 | STATUS.DF | STATUS.ERR);
  });

  it('does not listen while it is busy or transferring', () => {
    const { lba28, write, settle, sector, read, alternate } = rig();
    lba28(7, 1, 0x20);
    write(LOW, 99);
    write(CMD, 0xef);
    write(DEV, 0xb0);
    settle();
    write(LOW, 98);
    write(CMD, 0x20);
    expect(alternate()).toBe(0x58);
    expect(sector()).toEqual(pattern(7));
    settle();
    expect(read(CMD)).toBe(0x50);
    expect(read(DATA, 2)).toBe(0); // nothing to give
    write(DATA, 0x1234, 2); // nothing to take
    expect(alternate()).toBe(0x50);
  });

  it('a read-only disk refuses to be written', () => {
    const { lba28, settle, read } = rig({ block: new MemoryBlock(new Uint8Array(512 * 8), { readOnly: true }) });
    lba28(0, 1, 0x30);
    settle();
    expect(read(ERROR_REG)).toBe(ERROR.ABRT);
  });

  it('with the write cache off every write is flushed; FLUSH CACHE flushes', () => {
    const block = new MemoryBlock(new Uint8Array(512 * 8));
    const { lba28, write, settle, sendSector } = rig({ block });
    const store = (): void => {
      lba28(0, 1, 0x30);
      settle();
      sendSector(pattern(3));
      settle();
    };
    store();
    expect(block.flushes).toBe(0);
    write(CMD, 0xe7);
    settle();
    expect(block.flushes).toBe(1);
    write(1, 0x82);
    write(CMD, 0xef);
    settle();
    const before = block.flushes;
    store();
    expect(block.flushes).toBe(before + 1);
  });

  it('power modes: standby is told by CHECK POWER MODE, and ends with the next access', () => {
    const { write, settle, read, lba28, sector, control, alternate } = rig();
    const power = (): number => {
      write(CMD, 0xe5);
      settle();
      return read(COUNT);
    };
    expect(power()).toBe(0xff);
    write(CMD, 0xe0);
    settle();
    expect(power()).toBe(0);
    lba28(0, 1, 0x20);
    settle();
    sector();
    expect(power()).toBe(0xff);
    write(CMD, 0xe6);
    settle();
    read(CMD);
    write(CMD, 0xec);
    settle();
    expect(alternate()).toBe(0x50); // asleep
    control(CONTROL.SRST);
    control(0);
    settle();
    write(CMD, 0xec);
    settle();
    expect(alternate()).toBe(0x58);
  });
});

describe('the bus master', () => {
  const BM = { command: 0, status: 2, prdt: 4 };
  const start = (
    r: ReturnType<typeof rig>,
    regions: { address: number; count: number; last?: boolean }[],
    toMemory: boolean,
    prdt = 0x1000,
  ): void => {
    const view = new DataView(r.memory.buffer);
    regions.forEach(({ address, count, last }, index) => {
      PhysicalRegionDescriptor.store(view, prdt + 8 * index, { address, count, flags: (last ?? index === regions.length - 1) ? 0x8000 : 0 });
    });
    r.busMaster.registers.write(BM.command, 1, 0n);
    r.busMaster.registers.write(BM.status, 1, 0x06n);
    r.busMaster.registers.write(BM.prdt, 4, BigInt(prdt));
    r.busMaster.registers.write(BM.command, 1, BigInt(toMemory ? BM_COMMAND.TO_MEMORY : 0));
    r.busMaster.registers.write(BM.command, 1, BigInt((toMemory ? BM_COMMAND.TO_MEMORY : 0) | BM_COMMAND.START));
  };
  const status = (r: ReturnType<typeof rig>): number => Number(r.busMaster.registers.read(BM.status, 1)) & 7;

  it('scatters a read over its regions, with one interrupt', () => {
    const r = rig();
    r.lba28(30, 4, 0xc8);
    start(
      r,
      [
        { address: 0x8000, count: 100 },
        { address: 0x9002, count: 924 },
        { address: 0x20000, count: 1024 },
      ],
      true,
    );
    expect(status(r)).toBe(BM_STATUS.ACTIVE);
    r.settle();
    expect(status(r)).toBe(BM_STATUS.INTERRUPT);
    expect(r.read(CMD)).toBe(0x50);
    expect(r.edges).toEqual([true, false]);
    const got = new Uint8Array(2048);
    got.set(r.memory.subarray(0x8000, 0x8064));
    got.set(r.memory.subarray(0x9002, 0x9002 + 924), 100);
    got.set(r.memory.subarray(0x20000, 0x20400), 1024);
    for (let n = 0; n < 4; n++) expect(got.subarray(n * 512, n * 512 + 512)).toEqual(pattern(30 + n));
    expect(r.memory[0x8064]).toBe(0);
  });

  it('has the data in memory before the interrupt is raised', () => {
    const seen: number[] = [];
    const again = rig();
    const push = again.edges.push.bind(again.edges);
    again.edges.push = (...levels) => {
      if (levels[0]) seen.push(again.memory[0x8000 + 511]!);
      return push(...levels);
    };
    again.lba28(9, 1, 0xc8);
    start(again, [{ address: 0x8000, count: 512 }], true);
    again.settle();
    expect(seen).toEqual([pattern(9)[511]]);
  });

  it('gathers a write; a count of zero is 64 KiB', () => {
    const r = rig();
    const data = Uint8Array.from({ length: 128 * 512 + 512 }, (_, i) => (i * 13 + (i >> 9)) & 0xff);
    r.memory.set(data, 0x10000);
    r.lba28(40, 129, 0xca);
    start(
      r,
      [
        { address: 0x10000, count: 0 },
        { address: 0x20000, count: 512 },
      ],
      false,
    );
    r.settle();
    expect(status(r)).toBe(BM_STATUS.INTERRUPT);
    const got = new Uint8Array(data.length);
    r.disk.read(40, got);
    expect(got).toEqual(data);
  });

  it('starts when the driver starts it after the disk was ready', () => {
    const r = rig();
    r.lba28(30, 1, 0xc8);
    r.settle();
    expect(r.alternate() & STATUS.DRQ).toBe(STATUS.DRQ);
    expect(r.edges).toEqual([]);
    start(r, [{ address: 0x8000, count: 512 }], true);
    expect(r.edges).toEqual([true]);
    expect(r.memory.subarray(0x8000, 0x8200)).toEqual(pattern(30));
  });

  it('a table with room to spare: interrupt, still active; one too short: neither', () => {
    const r = rig();
    r.lba28(1, 1, 0xc8);
    start(r, [{ address: 0x8000, count: 1024 }], true);
    r.settle();
    expect(status(r)).toBe(BM_STATUS.INTERRUPT | BM_STATUS.ACTIVE);
    const s = rig();
    s.lba28(1, 2, 0xc8);
    start(s, [{ address: 0x8000, count: 512 }], true);
    s.settle();
    expect(status(s)).toBe(0);
    expect(s.edges).toEqual([]);
    expect(s.alternate() & STATUS.DRQ).toBe(STATUS.DRQ);
    s.control(CONTROL.SRST);
    s.control(0);
    s.settle();
    expect(s.alternate()).toBe(0x50);
  });

  it.each([
    ['a region outside memory', [{ address: 0x7fff_0000, count: 512 }], true],
    ['a region across a 64 KiB boundary', [{ address: 0xff00, count: 1024 }], true],
    ['the wrong direction', [{ address: 0x8000, count: 512 }], false],
  ])('%s: error, stopped, no interrupt', (_, regions, toMemory) => {
    const r = rig();
    r.lba28(1, 2, 0xc8);
    start(r, regions, toMemory);
    r.settle();
    expect(status(r)).toBe(BM_STATUS.ERROR);
    expect(r.edges).toEqual([]);
    r.busMaster.registers.write(BM.status, 1, 2n);
    expect(status(r)).toBe(0);
  });

  it('a table without an end is read once round, and then is an error', () => {
    const r = rig({ sectors: 4096 });
    const view = new DataView(r.memory.buffer);
    for (let n = 0; n < TABLE_ENTRIES; n++) PhysicalRegionDescriptor.store(view, 0x10000 + 8 * n, { address: 0x8000, count: 2, flags: 0 });
    r.lba28(0, 64, 0xc8);
    start(r, [], true, 0x1_8000);
    r.settle();
    expect(status(r)).toBe(BM_STATUS.ERROR);
  });

  it('a medium error ends the command with ERR and an interrupt, and the engine stays active', () => {
    const bad: BlockBackend = { sectors: 64, readOnly: false, read: () => false, write: () => false, flush: () => true };
    const r = rig({ block: bad });
    r.lba28(3, 1, 0xc8);
    start(r, [{ address: 0x8000, count: 512 }], true);
    r.settle();
    expect(status(r)).toBe(BM_STATUS.INTERRUPT | BM_STATUS.ACTIVE);
    expect(r.read(ERROR_REG)).toBe(ERROR.UNC);
    expect(r.read(CMD)).toBe(0x51);
    r.busMaster.registers.write(BM.command, 1, 0n);
    expect(status(r) & BM_STATUS.ACTIVE).toBe(0);
  });

  it('keeps the drivers’ notes, clears by ones, and holds the table’s address to a dword', () => {
    const r = rig();
    r.busMaster.registers.write(BM.status, 1, 0x60n);
    expect(Number(r.busMaster.registers.read(BM.status, 1))).toBe(0x60);
    r.busMaster.registers.write(BM.prdt, 4, 0xffff_ffffn);
    expect(r.busMaster.registers.read(BM.prdt, 4)).toBe(0xffff_fffcn);
    expect(r.busMaster.registers.read(8 + BM.prdt, 4)).toBe(0n);
  });
});

describe('hostile drivers', () => {
  it('random accesses of all widths reach nothing outside, hang nothing', () => {
    const r = rig({ sectors: 256, slave: true, ram: 1 << 17 });
    let seed = 12345;
    const random = (limit: number): number => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return (seed >>> 8) % limit;
    };
    const widths = [1, 2, 4] as const;
    for (let step = 0; step < 40_000; step++) {
      const width = widths[random(3)]!;
      const value = BigInt(random(4) === 0 ? random(1 << 24) : random(256));
      const port = random(8);
      switch (random(6)) {
        case 0:
          r.channel.command.read(port, width);
          break;
        case 1:
        case 2:
          r.channel.command.write(port, width, value);
          break;
        case 3:
          r.busMaster.registers.write(random(16), width, value);
          break;
        case 4:
          r.channel.control.write(0, 1, value & (random(8) === 0 ? 0xffn : 0x82n));
          break;
        default:
          r.advance(random(100_000));
      }
    }
    r.control(CONTROL.SRST);
    r.control(0);
    r.settle();
    expect(r.alternate()).toBe(0x50);
  });
});
