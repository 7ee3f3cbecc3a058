import { describe, expect, it } from 'vitest';
import { storeValue } from '../../03-vcpu-loop/devices/bus.ts';
import { type BlockBackend, MemoryBlock } from '../block/block.ts';
import { AtaChannel } from './channel.ts';
import { CMD, COUNT, DATA, DEV, ERROR_REG, HIGH, LOW, MID, pattern, rig } from './laboratory.ts';
import { CONTROL, ERROR, STATUS } from './task-file.ts';

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

  it('a string of reads is as many reads: across the end of a block, beyond the last, in each width, of the register beside it', () => {
    const strings = (words: number): { bytes: number[]; log: unknown[] }[] =>
      [false, true].map((whole) => {
        const { lba28, settle, channel, edges, read, alternate } = rig();
        const bytes: number[] = [];
        const log: unknown[] = [];
        const string = (offset: number, width: 1 | 2 | 4, count: number): void => {
          const into = new Uint8Array(width * count);
          if (whole) channel.command.readString?.(offset, width, into);
          else for (let n = 0; n < count; n++) storeValue(into, n * width, width, channel.command.read(offset, width));
          bytes.push(...into);
          log.push([alternate(), edges.length]);
          settle();
        };
        lba28(7, 3, 0x20);
        string(DATA, 2, 3); // still busy
        string(DATA, 2, words);
        string(DATA, 4, 127);
        string(DATA, 1, 3);
        string(DATA, 4, 200);
        string(CMD, 1, 5);
        string(DATA, 2, 256);
        log.push(read(CMD));
        return { bytes, log };
      });
    for (const words of [256, 255, 300, 1]) {
      const [single, whole] = strings(words) as [unknown, unknown];
      expect(whole).toEqual(single);
    }
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
