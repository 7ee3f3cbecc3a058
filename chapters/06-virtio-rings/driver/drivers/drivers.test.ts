import { describe, expect, it } from 'vitest';
import { MemoryBlock } from '../../../05-pio-mmio/block/block.ts';
import { BlockModel } from '../../devices/block.ts';
import { BLK_S } from '../../devices/block-layout.ts';
import { EntropyModel } from '../../devices/entropy.ts';
import { bench } from '../laboratory.ts';
import { type BlockDisk, blockDriver } from './block.ts';
import { type EntropySource, entropyDriver } from './entropy.ts';

const bytes = (count: number, seed = 1): Uint8Array => Uint8Array.from({ length: count }, (_, at) => (at * 31 + seed * 7 + (at >> 8)) & 0xff);

describe.each([{ packed: false }, { packed: true }])('drivers, packed: $packed', (format) => {
  it('entropy: reads what the device gives', () => {
    let source: EntropySource | null = null;
    const { handle, device } = bench(new EntropyModel({ seed: 5 }), entropyDriver((each) => void (source = each)), format);
    expect(handle.failure).toBeNull();
    expect(device.status).toBe(15);
    const got = new Uint8Array(1000);
    expect((source as EntropySource | null)?.read(got)).toBe(1000);
    expect(new Set(got).size).toBeGreaterThan(100);
  });

  it('block: reads, writes, flushes, discards, says who it is', () => {
    let disk: BlockDisk | null = null;
    const drive = new MemoryBlock(new Uint8Array(512 * 1024));
    const { handle } = bench(
      new BlockModel({ drive, serial: 'ring', discard: true, writeZeroes: true, configWce: true }),
      blockDriver((each) => void (disk = each)),
      format,
    );
    expect(handle.failure).toBeNull();
    const found = disk as unknown as BlockDisk;
    expect(found.capacity).toBe(1024);
    const data = bytes(200 * 512);
    expect(found.write(3, data)).toBe(BLK_S.OK);
    const back = new Uint8Array(data.length);
    expect(found.read(3, back)).toBe(BLK_S.OK);
    expect(back).toEqual(data);
    expect(drive.bytes.subarray(3 * 512, 203 * 512)).toEqual(data);
    expect(found.flush()).toBe(BLK_S.OK);
    expect(drive.flushes).toBeGreaterThan(0);
    expect(found.id).toBe('ring');
    expect(found.writeZeroes([{ sector: 3, sectors: 1 }, { sector: 5, sectors: 2 }])).toBe(BLK_S.OK);
    expect(drive.bytes.subarray(3 * 512, 4 * 512).every((byte) => byte === 0)).toBe(true);
    expect(drive.bytes.subarray(4 * 512, 5 * 512).every((byte) => byte === 0)).toBe(false);
    expect(found.discard([{ sector: 10, sectors: 2 }])).toBe(BLK_S.OK);
    found.writeback = false;
    expect(found.writeback).toBe(false);
    expect(() => found.read(1024, new Uint8Array(512))).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });
});
