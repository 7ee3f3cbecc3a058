// Test equipment: not a part of the book.

import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import type { Width } from '../../03-vcpu-loop/devices/bus.ts';
import { type BlockBackend, MemoryBlock, SECTOR_BYTES } from '../block/block.ts';
import { BusMaster } from './bus-master.ts';
import { AtaChannel } from './channel.ts';
import { AtaDisk } from './disk.ts';

export const DATA = 0;
export const ERROR_REG = 1;
export const COUNT = 2;
export const LOW = 3;
export const MID = 4;
export const HIGH = 5;
export const DEV = 6;
export const CMD = 7;

/** Sector n is filled with bytes that name it. */
export const pattern = (sector: number): Uint8Array => Uint8Array.from({ length: SECTOR_BYTES }, (_, i) => (sector * 31 + i * 7 + (i >> 8)) & 0xff);

const PATTERNS = new Uint8Array(4096 * SECTOR_BYTES);
for (let sector = 0; sector < 4096; sector++) PATTERNS.set(pattern(sector), sector * SECTOR_BYTES);

/** A channel with a disk, a bus master, and memory; time passes when it is told to. */
export function rig({
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
