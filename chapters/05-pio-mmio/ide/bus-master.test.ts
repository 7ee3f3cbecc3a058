import { describe, expect, it } from 'vitest';
import type { BlockBackend } from '../block/block.ts';
import { PhysicalRegionDescriptor } from './bus-master.ts';
import { CMD, ERROR_REG, pattern, rig } from './laboratory.ts';
import { CONTROL, ERROR, STATUS } from './task-file.ts';

const BM_COMMAND = { START: 0x01, TO_MEMORY: 0x08 } as const;
const BM_STATUS = { ACTIVE: 0x01, ERROR: 0x02, INTERRUPT: 0x04 } as const;
const TABLE_ENTRIES = 8192;

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
