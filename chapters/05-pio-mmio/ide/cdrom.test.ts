import { describe, expect, it } from 'vitest';
import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import { type BlockBackend, MemoryBlock } from '../block/block.ts';
import { BusMaster, PhysicalRegionDescriptor } from './bus-master.ts';
import { AtapiCdrom } from './cdrom.ts';
import { AtaChannel } from './channel.ts';

const FRAMES = 100;
const disc = (): Uint8Array => Uint8Array.from({ length: FRAMES * 2048 }, (_, i) => (i * 3 + (i >> 11) * 17) & 0xff);

function rig(block: BlockBackend | null = new MemoryBlock(disc(), { readOnly: true })) {
  let now = 0;
  const queue = new TimerQueue(() => now);
  let interrupts = 0;
  const channel = new AtaChannel([new AtapiCdrom({ clock: queue, block }), null], {
    set: (level) => {
      if (level) interrupts++;
    },
  });
  const memory = new Uint8Array(1 << 18);
  const busMaster = new BusMaster([channel, new AtaChannel([null, null], { set: () => {} })], {
    read: (gpa, into) => into.length > 0 && (into.set(memory.subarray(gpa, gpa + into.length)) ?? true),
    write: (gpa, from) => from.length > 0 && (memory.set(from, gpa) ?? true),
  });
  const read = (port: number, width: 1 | 2 = 1): number => Number(channel.command.read(port, width));
  const write = (port: number, value: number, width: 1 | 2 = 1): void => channel.command.write(port, width, BigInt(value));
  const settle = (): void => {
    while (queue.next !== null) {
      now = queue.next;
      queue.runDue();
    }
  };
  /** Sends a packet; returns the blocks that came, and the last status and reason. */
  const packet = (bytes: number[], { limit = 0xfffe, dma = false } = {}) => {
    write(1, dma ? 1 : 0);
    write(4, limit & 0xff);
    write(5, limit >> 8);
    write(7, 0xa0);
    settle();
    expect([read(7) & 0x88, read(2)]).toEqual([0x08, 1]);
    const padded = [...bytes, ...new Array<number>(12 - bytes.length).fill(0)];
    for (let at = 0; at < 12; at += 2) write(0, padded[at]! | (padded[at + 1]! << 8), 2);
    settle();
    const blocks: Uint8Array[] = [];
    while (read(7) & 0x08 && !dma) {
      expect(read(2)).toBe(2);
      const length = read(4) | (read(5) << 8);
      const block = new Uint8Array(length);
      for (let at = 0; at < length; at += 2) {
        const word = read(0, 2);
        block[at] = word;
        if (at + 1 < length) block[at + 1] = word >> 8;
      }
      blocks.push(block);
      settle();
    }
    return { blocks, status: read(7), reason: read(2), error: read(1) };
  };
  return { channel, busMaster, memory, read, write, settle, packet, interrupts: () => interrupts };
}

describe('a CD-ROM drive', () => {
  it('has a signature of its own, and tells a disk driver so', () => {
    const { read, write, settle } = rig();
    expect([2, 3, 4, 5, 7].map((port) => read(port))).toEqual([1, 1, 0x14, 0xeb, 0]);
    write(4, 0);
    write(7, 0xec);
    settle();
    expect([read(1), read(4), read(5), read(7) & 1]).toEqual([4, 0x14, 0xeb, 1]);
    write(7, 0xa1);
    settle();
    expect(read(0, 2)).toBe(0x8580);
  });

  it('reads frames, in blocks of the size the host allows', () => {
    const { packet, interrupts } = rig();
    const before = interrupts();
    const { blocks, status, reason } = packet([0x28, 0, 0, 0, 0, 5, 0, 0, 3], { limit: 2048 });
    expect(blocks.map(({ length }) => length)).toEqual([2048, 2048, 2048]);
    expect(Uint8Array.from(blocks.flatMap((block) => [...block]))).toEqual(disc().slice(5 * 2048, 8 * 2048));
    expect([status & 0x89, reason]).toEqual([0, 3]);
    expect(interrupts() - before).toBe(4);
    const long = packet([0xa8, 0, 0, 0, 0, 0, 0, 0, 0, FRAMES]);
    expect(Uint8Array.from(long.blocks.flatMap((block) => [...block]))).toEqual(disc());
  });

  it('reads by the bus master', () => {
    const r = rig();
    PhysicalRegionDescriptor.store(new DataView(r.memory.buffer), 0x1000, { address: 0x2_0000, count: 4096, flags: 0x8000 });
    r.busMaster.registers.write(4, 4, 0x1000n);
    r.busMaster.registers.write(0, 1, 9n);
    const { status, reason } = r.packet([0x28, 0, 0, 0, 0, 7, 0, 0, 2], { dma: true });
    expect(r.memory.slice(0x2_0000, 0x2_1000)).toEqual(disc().slice(7 * 2048, 9 * 2048));
    expect([status & 0x89, reason, Number(r.busMaster.registers.read(2, 1))]).toEqual([0, 3, 4]);
  });

  it('tells its size, its contents and what it is', () => {
    const { packet } = rig();
    expect([...packet([0x25]).blocks[0]!]).toEqual([0, 0, 0, 99, 0, 0, 8, 0]);
    expect(new TextDecoder().decode(packet([0x12, 0, 0, 0, 36]).blocks[0]!.subarray(8))).toBe('RINGBOOKCD-ROM          1.0 ');
    expect([...packet([0x43, 0, 0, 0, 0, 0, 0, 0, 20]).blocks[0]!]).toEqual([0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x16, 0xaa, 0, 0, 0, 0, 100]);
    expect([...packet([0x43, 2, 0, 0, 0, 0, 0, 0, 12]).blocks[0]!.subarray(8)]).toEqual([0, 0, 2, 0]);
    expect(packet([0]).status & 1).toBe(0);
  });

  it('says why not', () => {
    const { packet } = rig();
    const sense = (): number[] => {
      const answer = packet([3, 0, 0, 0, 18]).blocks[0]!;
      return [answer[2]!, answer[12]!];
    };
    expect(packet([0x28, 0, 0, 0, 0, 99, 0, 0, 2]).status & 1).toBe(1);
    expect(sense()).toEqual([5, 0x21]);
    expect(sense()).toEqual([0, 0]);
    expect(packet([0x99]).error).toBe(0x54);
    expect(sense()).toEqual([5, 0x20]);
    const empty = rig(null);
    expect(empty.packet([0]).error >> 4).toBe(2);
    expect([...empty.packet([3, 0, 0, 0, 18]).blocks[0]!.subarray(12, 13)]).toEqual([0x3a]);
    const scratched = rig({ sectors: 400, readOnly: true, read: () => false, write: () => false, flush: () => true });
    expect(scratched.packet([0x28, 0, 0, 0, 0, 1, 0, 0, 1]).error >> 4).toBe(3);
  });
});
