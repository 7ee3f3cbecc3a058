import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Clock } from '../../02-kvm-objects/clock.ts';
import { type BlockBackend, MemoryBlock, SECTOR_BYTES } from '../../05-pio-mmio/block/block.ts';
import { bit, F, features as featureSet, STATUS } from '../features.ts';
import { BlockModel, type BlockOptions } from './block.ts';
import { BLK_F, BLK_S, BLK_T, BlkConfig, BlkOutHdr, BlkRange, BlkTopology, UNMAP } from './block-layout.ts';
import { cut, cutSizes, join, type Request, Rig } from './laboratory.ts';

const SECTORS = 64;
const pattern = (sectors = SECTORS): Uint8Array => Uint8Array.from({ length: sectors * SECTOR_BYTES }, (_, i) => (i * 7 + (i >> 9) * 13 + 1) & 0xff);

/** A disk whose cache can be pulled out. */
class CachedBlock extends MemoryBlock {
  stable: Uint8Array;
  constructor(bytes: Uint8Array) {
    super(bytes);
    this.stable = bytes.slice();
  }
  override flush(): boolean {
    this.stable = this.bytes.slice();
    return super.flush();
  }
}

const rigOf = (options: Partial<BlockOptions> & { readonly clocked?: BlockOptions['latency'] } = {}): { rig: Rig<BlockModel>; disk: MemoryBlock } => {
  const { clocked, ...rest } = options;
  const disk = (options.drive as MemoryBlock | undefined) ?? new MemoryBlock(pattern());
  const rig = new Rig(
    (clock: Clock) => new BlockModel({ drive: disk, ...rest, ...(clocked && { latency: clocked, clock }) }),
    featureSet(F.IN_ORDER, F.RING_RESET),
  );
  return { rig, disk };
};
const withoutOrder = (rig: Rig<BlockModel>): bigint => rig.device.offered & ~bit(F.IN_ORDER);
const started = (options: Parameters<typeof rigOf>[0] = {}): ReturnType<typeof rigOf> => {
  const made = rigOf(options);
  made.rig.start({ features: withoutOrder(made.rig) });
  return made;
};

const header = (type: number, sector: number | bigint = 0): Uint8Array => BlkOutHdr.encode({ type, sector: BigInt(sector) });
const ranges = (...list: readonly (readonly [sector: number, count: number, flags?: number])[]): Uint8Array =>
  join(list.map(([sector, num_sectors, flags = 0]) => BlkRange.encode({ sector: BigInt(sector), num_sectors, flags })));
/** For arrays of bytes too long to be compared element by element. */
const same = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && a.every((byte, at) => byte === b[at]);
const statusOf = (request: Request): number | undefined => request.answer().at(-1);
/** Asks with the plain framing: header and data together, then data and status together. */
const ask = (rig: Rig<BlockModel>, type: number, sector: number | bigint = 0, out: Uint8Array = new Uint8Array(0), inBytes = 0, queue = 0): Request =>
  rig.ask(queue, [join([header(type, sector), out])], [inBytes + 1]);

describe('reading and writing', () => {
  it('reads what is there, writes what it is given, and counts every byte', () => {
    const { rig, disk } = started();
    const read = ask(rig, BLK_T.IN, 3, undefined, 1024);
    expect(read.used).toBe(1025);
    expect(read.answer()).toEqual(join([disk.bytes.slice(3 * 512, 5 * 512), Uint8Array.of(BLK_S.OK)]));
    const data = pattern(2).reverse();
    const write = ask(rig, BLK_T.OUT, 7, data);
    expect(write.used).toBe(1);
    expect(statusOf(write)).toBe(BLK_S.OK);
    expect(disk.bytes.slice(7 * 512, 9 * 512)).toEqual(data);
    expect(rig.notified).toEqual([0, 0]);
  });

  it.each([
    ['behind the end', SECTORS, 512],
    ['across the end', SECTORS - 1, 1024],
    ['so far away that the sum wraps', 2n ** 64n - 1n, 512],
    ['at a sector whose byte offset wraps', 2n ** 55n, 512],
    ['half a sector', 0, 256],
    ['a sector and a byte', 0, 513],
  ] as const)('refuses %s', (_, sector, bytes) => {
    const { rig, disk } = started();
    const before = disk.bytes.slice();
    const read = ask(rig, BLK_T.IN, sector, undefined, bytes);
    expect(statusOf(read)).toBe(BLK_S.IOERR);
    expect(
      read
        .answer()
        .subarray(0, -1)
        .every((byte) => byte === 0),
    ).toBe(true);
    expect(statusOf(ask(rig, BLK_T.OUT, sector, new Uint8Array(bytes).fill(0x55)))).toBe(BLK_S.IOERR);
    expect(same(disk.bytes, before)).toBe(true);
  });

  it('takes no data for no data', () => {
    const { rig } = started();
    expect(ask(rig, BLK_T.IN, SECTORS).answer()).toEqual(Uint8Array.of(BLK_S.OK));
    expect(ask(rig, BLK_T.OUT, 0).answer()).toEqual(Uint8Array.of(BLK_S.OK));
  });

  it('serves a medium that fails with an error, not with stale bytes', () => {
    const broken: BlockBackend = { sectors: 8, readOnly: false, read: () => false, write: () => false, flush: () => false };
    const { rig } = started({ drive: broken as MemoryBlock });
    const read = ask(rig, BLK_T.IN, 0, undefined, 512);
    expect(read.answer()).toEqual(join([new Uint8Array(512), Uint8Array.of(BLK_S.IOERR)]));
    expect(statusOf(ask(rig, BLK_T.OUT, 0, new Uint8Array(512)))).toBe(BLK_S.IOERR);
    expect(statusOf(ask(rig, BLK_T.FLUSH))).toBe(BLK_S.IOERR);
    expect(statusOf(ask(rig, BLK_T.WRITE_ZEROES, 0, ranges([0, 1])))).toBe(BLK_S.IOERR);
    expect(statusOf(ask(rig, BLK_T.DISCARD, 0, ranges([0, 1])))).toBe(BLK_S.OK); // a disk that keeps everything has discarded
  });

  it('writes nothing to a disk that is read-only', () => {
    const { rig, disk } = started({ readOnly: true });
    const before = disk.bytes.slice();
    expect(rig.device.has(BLK_F.RO)).toBe(true);
    expect(statusOf(ask(rig, BLK_T.OUT, 0, new Uint8Array(512)))).toBe(BLK_S.IOERR);
    expect(statusOf(ask(rig, BLK_T.WRITE_ZEROES, 0, ranges([0, 1])))).toBe(BLK_S.IOERR);
    expect(statusOf(ask(rig, BLK_T.DISCARD, 0, ranges([0, 1])))).toBe(BLK_S.IOERR);
    expect(statusOf(ask(rig, BLK_T.IN, 0, undefined, 512))).toBe(BLK_S.OK);
    expect(same(disk.bytes, before)).toBe(true);
    // also for a driver that has not taken RO
    rig.start({ features: withoutOrder(rig) & ~bit(BLK_F.RO) });
    expect(statusOf(ask(rig, BLK_T.OUT, 0, new Uint8Array(512)))).toBe(BLK_S.IOERR);
  });
});

describe('framing', () => {
  const places = fc.array(fc.nat({ max: 5000 }), { maxLength: 12 });
  const step = fc.record({
    type: fc.constantFrom(BLK_T.IN, BLK_T.OUT),
    sector: fc.nat({ max: SECTORS }),
    sectors: fc.nat({ max: 6 }),
    seed: fc.nat({ max: 255 }),
    outAt: places,
    inAt: places,
    later: fc.boolean(),
  });
  it('means nothing: requests in any pieces equal a flat array', () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 20 }), (steps) => {
        const { rig, disk } = started();
        const flat = pattern();
        const expected: [Request, Uint8Array][] = [];
        for (const { type, sector, sectors, seed, outAt, inAt, later } of steps) {
          const bytes = sectors * 512;
          const inside = sector + sectors <= SECTORS;
          const data = Uint8Array.from({ length: bytes }, (_, i) => (i * 3 + seed) & 0xff);
          const [from, to] = [sector * 512, sector * 512 + bytes];
          if (type === BLK_T.OUT) {
            const request = rig.add(0, cut(join([header(type, sector), data]), outAt), cutSizes(1, inAt));
            if (inside) flat.set(data, from);
            expected.push([request, Uint8Array.of(inside ? BLK_S.OK : BLK_S.IOERR)]);
          } else {
            const request = rig.add(0, cut(header(type, sector), outAt), cutSizes(bytes + 1, inAt));
            const read = inside ? flat.slice(from, to) : new Uint8Array(bytes);
            expected.push([request, join([read, Uint8Array.of(inside ? BLK_S.OK : BLK_S.IOERR)])]);
          }
          if (!later) rig.kick(0);
        }
        rig.kick(0);
        for (const [request, answer] of expected) expect(same(request.answer(), answer)).toBe(true);
        for (const [request, answer] of expected) expect(request.used).toBe(answer.length);
        expect(same(disk.bytes, flat)).toBe(true);
      }),
      { numRuns: 80 },
    );
  });

  it('serves a chain as long as its queue', () => {
    const { rig, disk } = started({ queueSize: 128 });
    const request = rig.ask(0, [header(BLK_T.IN, 1)], [...new Array(126).fill(4), 8 + 1]);
    expect(request.answer()).toEqual(join([disk.bytes.slice(512, 1024), Uint8Array.of(0)]));
  });

  it('gives a chain without room for a status back with nothing', () => {
    const { rig, disk } = started();
    const before = disk.bytes.slice();
    expect(rig.ask(0, [header(BLK_T.OUT, 0), new Uint8Array(512)], []).used).toBe(0);
    expect(rig.ask(0, [], []).used).toBe(0);
    expect(rig.ask(0, [header(BLK_T.IN)], [0, 0]).used).toBe(0);
    expect(same(disk.bytes, before)).toBe(true);
    expect(rig.device.failure).toBe(null);
    expect(statusOf(ask(rig, BLK_T.IN, 0, undefined, 512))).toBe(BLK_S.OK);
  });

  it('answers a header that is not whole with an error', () => {
    const { rig } = started();
    for (const bytes of [0, 1, 15])
      expect(rig.ask(0, [header(BLK_T.IN).subarray(0, bytes)], [513]).answer()).toEqual(join([new Uint8Array(512), Uint8Array.of(1)]));
  });
});

describe('other requests', () => {
  it.each([
    ['a short name', 'disk-7', 20],
    ['twenty characters, and no NUL', '12345678901234567890', 20],
    ['more than twenty', '1234567890123456789012', 20],
    ['less room than the name needs', '12345678901234567890', 5],
    ['more room', 'disk', 64],
  ])('says who it is: %s', (_, serial, room) => {
    const { rig } = started({ serial });
    const expected = new Uint8Array(room + 1);
    expected.set(new TextEncoder().encode(serial).subarray(0, Math.min(20, room)));
    expect(ask(rig, BLK_T.GET_ID, 0, undefined, room).answer()).toEqual(expected);
  });

  it('does not know what nobody has defined', () => {
    const { rig } = started();
    for (const type of [2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 16, 17, 18, 20, 22, 24, 26, 0x8000_0000, 0xffff_ffff])
      expect([type, statusOf(ask(rig, type, 0, undefined, 512))]).toEqual([type, BLK_S.UNSUPP]);
  });

  it('knows the old name of FLUSH for an old driver only', () => {
    const { rig, disk } = rigOf();
    rig.start({ legacy: true, features: bit(BLK_F.FLUSH) });
    expect(statusOf(ask(rig, BLK_T.FLUSH_OUT))).toBe(BLK_S.OK);
    expect(disk.flushes).toBe(1);
  });

  it('tells how worn it is, and nothing that has no meaning', () => {
    class Worn extends MemoryBlock {
      wear = { preEol: 2, estimateA: 11, estimateB: 3 };
      lifetime(): { preEol: number; estimateA: number; estimateB: number } {
        return this.wear;
      }
    }
    const drive = new Worn(pattern());
    const { rig } = started({ drive });
    expect([...ask(rig, BLK_T.GET_LIFETIME, 0, undefined, 6).answer()]).toEqual([2, 0, 11, 0, 3, 0, BLK_S.OK]);
    drive.wear = { preEol: 4, estimateA: 12, estimateB: -1 };
    expect([...ask(rig, BLK_T.GET_LIFETIME, 0, undefined, 6).answer()]).toEqual([0, 0, 0, 0, 0, 0, BLK_S.OK]);
    expect(statusOf(ask(rig, BLK_T.GET_LIFETIME, 0, undefined, 5))).toBe(BLK_S.IOERR);
    rig.start({ features: withoutOrder(rig) & ~bit(BLK_F.LIFETIME) });
    expect(statusOf(ask(rig, BLK_T.GET_LIFETIME, 0, undefined, 6))).toBe(BLK_S.UNSUPP);
  });
});

describe('ranges', () => {
  it('writes zeroes to several', () => {
    const { rig, disk } = started();
    const flat = disk.bytes
      .slice()
      .fill(0, 512, 1024)
      .fill(0, 10 * 512, 14 * 512);
    expect(statusOf(ask(rig, BLK_T.WRITE_ZEROES, 0, ranges([1, 1], [10, 4, UNMAP], [SECTORS, 0])))).toBe(BLK_S.OK);
    expect(same(disk.bytes, flat)).toBe(true);
  });

  it('writes zeroes to a disk that has no way of its own', () => {
    const bytes = pattern(300);
    const inner = new MemoryBlock(bytes);
    const drive: BlockBackend = {
      sectors: 300,
      readOnly: false,
      read: (s, b) => inner.read(s, b),
      write: (s, b) => inner.write(s, b),
      flush: () => true,
    };
    const flat = bytes.slice().fill(0, 512, 299 * 512);
    const { rig } = started({ drive: drive as MemoryBlock });
    expect(statusOf(ask(rig, BLK_T.WRITE_ZEROES, 0, ranges([1, 298])))).toBe(BLK_S.OK);
    expect(same(bytes, flat)).toBe(true);
  });

  it.each([
    ['an unknown flag', BLK_T.WRITE_ZEROES, ranges([0, 1], [4, 1, 2]), BLK_S.UNSUPP],
    ['an unknown flag in a discard', BLK_T.DISCARD, ranges([0, 1, 0x8000_0000]), BLK_S.UNSUPP],
    ['unmap in a discard', BLK_T.DISCARD, ranges([0, 1, UNMAP]), BLK_S.UNSUPP],
    ['unmap in a secure erase', BLK_T.SECURE_ERASE, ranges([0, 1, UNMAP]), BLK_S.UNSUPP],
    ['a flag behind too many', BLK_T.DISCARD, ranges([0, 1], [1, 1], [2, 1], [3, 1, 4]), BLK_S.UNSUPP],
    ['too many', BLK_T.DISCARD, ranges([0, 1], [1, 1], [2, 1]), BLK_S.IOERR],
    ['too much in one', BLK_T.DISCARD, ranges([0, 1], [1, 17]), BLK_S.IOERR],
    ['behind the end', BLK_T.WRITE_ZEROES, ranges([0, 1], [SECTORS, 1]), BLK_S.IOERR],
    ['a range and a half', BLK_T.WRITE_ZEROES, join([ranges([0, 1]), new Uint8Array(8)]), BLK_S.IOERR],
    ['a flag in a range and a half', BLK_T.WRITE_ZEROES, join([ranges([0, 1, 2]), new Uint8Array(8)]), BLK_S.UNSUPP],
  ] as const)('touches nothing for %s', (_, type, data, status) => {
    const { rig, disk } = started({ secureErase: true, maxRanges: 2, maxDiscardSectors: 16 });
    const before = disk.bytes.slice();
    expect(statusOf(ask(rig, type, 0, data))).toBe(status);
    expect(same(disk.bytes, before)).toBe(true);
  });

  it('finds a range that would wrap', () => {
    const { rig } = started();
    const far = BlkRange.encode({ sector: 2n ** 64n - 1n, num_sectors: 2, flags: 0 });
    expect(statusOf(ask(rig, BLK_T.WRITE_ZEROES, 0, far))).toBe(BLK_S.IOERR);
  });

  it('does not know what was not taken', () => {
    const { rig } = rigOf({ secureErase: true });
    rig.start({ features: featureSet(F.VERSION_1) });
    for (const type of [BLK_T.DISCARD, BLK_T.WRITE_ZEROES, BLK_T.SECURE_ERASE])
      expect(statusOf(ask(rig, type, 0, ranges([0, 1])))).toBe(BLK_S.UNSUPP);
  });

  it('erases where the drive can, and only there', () => {
    const { rig, disk } = started({ secureErase: true });
    expect(statusOf(ask(rig, BLK_T.SECURE_ERASE, 0, ranges([2, 2])))).toBe(BLK_S.OK);
    expect(disk.bytes.subarray(1024, 2048).every((byte) => byte === 0)).toBe(true);
    const drive: BlockBackend = { sectors: 8, readOnly: false, read: () => true, write: () => true, flush: () => true };
    expect(() => new BlockModel({ drive, secureErase: true })).toThrow('EINVAL');
  });
});

describe('the write cache', () => {
  const cached = (options: Partial<BlockOptions> = {}): { rig: Rig<BlockModel>; disk: CachedBlock } => {
    const disk = new CachedBlock(pattern());
    return { rig: rigOf({ ...options, drive: disk }).rig, disk };
  };
  const stableAfterWrite = (rig: Rig<BlockModel>, disk: CachedBlock): boolean => {
    const data = Uint8Array.from({ length: 512 }, () => disk.stable[0] as number).map((byte) => byte ^ 0xff);
    expect(statusOf(ask(rig, BLK_T.OUT, 0, data))).toBe(BLK_S.OK);
    return disk.stable[0] === data[0];
  };
  const writeback = (rig: Rig<BlockModel>): number => rig.model.config.read(BlkConfig.fields.writeback.offset, 1);
  const choose = (rig: Rig<BlockModel>, value: number): void => rig.model.config.write(BlkConfig.fields.writeback.offset, 1, value);
  const [wce, flush] = [bit(BLK_F.CONFIG_WCE), bit(BLK_F.FLUSH)];
  const version1 = bit(F.VERSION_1);

  it.each([
    ['FLUSH: write-back', version1 | flush, 1],
    ['neither: write-through', version1, 0],
    ['both: as the disk says', version1 | flush | wce, 1],
    ['CONFIG_WCE without FLUSH: write-through until it is asked', version1 | wce, 0],
  ])('%s', (_, features, expected) => {
    const { rig, disk } = cached();
    rig.start({ features });
    expect(writeback(rig)).toBe(expected);
    expect(stableAfterWrite(rig, disk)).toBe(expected === 0);
    expect(statusOf(ask(rig, BLK_T.FLUSH))).toBe(BLK_S.OK);
    expect(same(disk.stable, disk.bytes)).toBe(true);
  });

  it('is the driver’s choice with CONFIG_WCE, and only then', () => {
    const { rig, disk } = cached();
    rig.start({ features: version1 | flush | wce });
    choose(rig, 0);
    expect([writeback(rig), stableAfterWrite(rig, disk)]).toEqual([0, true]);
    choose(rig, 1);
    expect([writeback(rig), stableAfterWrite(rig, disk)]).toEqual([1, false]);
    rig.start({ features: version1 | flush });
    choose(rig, 0);
    expect([writeback(rig), stableAfterWrite(rig, disk)]).toEqual([1, false]);
    const through = cached({ writeCache: false });
    through.rig.start({ features: version1 | flush | wce });
    expect(writeback(through.rig)).toBe(0);
  });

  it('is forgotten by a reset', () => {
    const { rig } = cached();
    rig.start({ features: version1 | flush | wce });
    choose(rig, 0);
    rig.start({ features: version1 | flush | wce });
    expect(writeback(rig)).toBe(1);
  });

  it('does not move behind the back of a legacy driver', () => {
    const { rig } = cached();
    rig.start({ legacy: true, features: wce, driverOk: false });
    expect(writeback(rig)).toBe(1);
    choose(rig, 0);
    expect(writeback(rig)).toBe(0);
    choose(rig, 1);
    rig.device.setStatus(rig.device.status | STATUS.DRIVER_OK);
    expect(writeback(rig)).toBe(1);
    rig.start({ legacy: true, features: 0n, driverOk: false });
    expect(writeback(rig)).toBe(1);
    rig.device.setStatus(rig.device.status | STATUS.DRIVER_OK);
    expect(writeback(rig)).toBe(0);
  });

  it('covers zeroes and discards too', () => {
    const { rig, disk } = cached({ configWce: false });
    rig.start({ features: version1 | bit(BLK_F.WRITE_ZEROES) });
    expect(statusOf(ask(rig, BLK_T.WRITE_ZEROES, 0, ranges([0, 2])))).toBe(BLK_S.OK);
    expect(same(disk.stable, disk.bytes)).toBe(true);
  });
});

describe('configuration', () => {
  const decode = (rig: Rig<BlockModel>) => {
    const bytes = Uint8Array.from({ length: BlkConfig.bytes }, (_, at) => rig.model.config.read(at, 1));
    return { ...BlkConfig.decode(bytes), topology: BlkTopology.decode(bytes.subarray(BlkConfig.fields.topology.offset)) };
  };
  it('is there before FEATURES_OK', () => {
    const { rig } = rigOf({ numQueues: 3, sizeMax: 65536, logicalBlockSize: 1024, physicalBlockSize: 4096, minIoSize: 4096, optIoSize: 65536 });
    expect(decode(rig)).toMatchObject({
      capacity: BigInt(SECTORS),
      size_max: 65536,
      seg_max: 254,
      blk_size: 1024,
      num_queues: 3,
      topology: { physical_block_exp: 2, alignment_offset: 0, min_io_size: 4, opt_io_size: 64 },
      unused0: 0,
    });
  });
  it('never offers a request and a limit of zero for it', () => {
    const { rig } = rigOf({ secureErase: true });
    const { max_discard_sectors, max_discard_seg, discard_sector_alignment, ...config } = decode(rig);
    expect(Math.min(max_discard_sectors, max_discard_seg, discard_sector_alignment)).toBeGreaterThan(0);
    expect(Math.min(config.max_write_zeroes_sectors, config.max_write_zeroes_seg)).toBeGreaterThan(0);
    expect(Math.min(config.max_secure_erase_sectors, config.max_secure_erase_seg, config.secure_erase_sector_alignment)).toBeGreaterThan(0);
    for (const limits of [{ maxDiscardSectors: 0 }, { maxWriteZeroesSectors: 0 }, { maxRanges: 0 }]) expect(() => rigOf(limits)).toThrow('EINVAL');
  });
  it('ends where its features end', () => {
    expect(rigOf({ discard: false, writeZeroes: false }).rig.model.config.bytes).toBe(36);
    expect(rigOf({ writeZeroes: false }).rig.model.config.bytes).toBe(48);
    expect(rigOf().rig.model.config.bytes).toBe(60);
    expect(rigOf({ secureErase: true }).rig.model.config.bytes).toBe(72);
    expect(rigOf({ zoned: { model: 'none' } }).rig.model.config.bytes).toBe(96);
  });
  it('reads the same in any width, and nothing outside', () => {
    const { rig } = rigOf();
    const { config } = rig.model;
    for (let at = 0; at < config.bytes - 3; at++) {
      const byte = (n: number): number => config.read(at + n, 1);
      expect(config.read(at, 2)).toBe(byte(0) + byte(1) * 256);
      expect(config.read(at, 4)).toBe(byte(0) + byte(1) * 256 + byte(2) * 65536 + byte(3) * 2 ** 24);
    }
    expect([config.read(60, 4), config.read(58, 4), config.read(0xffff_fffc, 4), config.read(-1, 1)]).toEqual([0, 0, 0, 0]);
  });
  it('can be written in one place only', () => {
    const { rig } = started();
    const before = decode(rig);
    for (let at = -4; at < 100; at++) for (const width of [1, 2, 4] as const) rig.model.config.write(at, width, 0xffff_ffff);
    expect(decode(rig)).toEqual({ ...before, writeback: 1 });
  });
  it('tells of another capacity', () => {
    const { rig, disk } = started();
    const generation = rig.device.generation;
    expect(rig.model.resize(16)).toBe(true);
    expect([rig.configChanges, rig.device.generation !== generation, decode(rig).capacity]).toEqual([1, true, 16n]);
    expect(statusOf(ask(rig, BLK_T.IN, 16, undefined, 512))).toBe(BLK_S.IOERR);
    expect(rig.model.resize(128)).toBe(true);
    expect(ask(rig, BLK_T.IN, 127, undefined, 512).answer()).toEqual(new Uint8Array(513));
    expect([disk.sectors, rig.model.resize(-1), rig.model.resize(1.5)]).toEqual([128, false, false]);
  });
  it('refuses a disk that no driver could use', () => {
    const wrong: readonly Partial<BlockOptions>[] = [
      { logicalBlockSize: 500 },
      { logicalBlockSize: 768 },
      { physicalBlockSize: 256 },
      { numQueues: 0 },
      { segMax: 0 },
      { sizeMax: 0 },
      { serial: 'a\0b' },
      { latency: () => 1 },
    ];
    for (const options of wrong)
      expect(() => new BlockModel({ drive: new MemoryBlock(pattern()), ...options }), JSON.stringify(options)).toThrow('EINVAL');
  });
});

describe('time', () => {
  const slowReads = (type: number): number => (type === BLK_T.IN ? 1000 : 10);

  it('lets a short request overtake a long one', () => {
    const { rig } = started({ clocked: slowReads });
    const read = ask(rig, BLK_T.IN, 0, undefined, 512);
    const write = ask(rig, BLK_T.OUT, 0, new Uint8Array(512).fill(9));
    expect([read.used, write.used]).toEqual([null, null]);
    rig.pass(10);
    expect([read.used, write.used]).toEqual([null, 1]);
    rig.pass(1000);
    expect(read.answer()[0]).toBe(9);
    expect(rig.notified).toEqual([0, 0]);
  });

  it.each([
    ['a reset', (rig: Rig<BlockModel>) => rig.device.setStatus(0)],
    ['a failure', (rig: Rig<BlockModel>) => rig.device.fail('test')],
    ['a reset of the queue', (rig: Rig<BlockModel>) => rig.model.queueReset(rig.device.queues[0] as never)],
  ])('forgets after %s what was in flight: neither memory nor disk changes', (_, end) => {
    const { rig, disk } = started({ clocked: slowReads });
    const read = ask(rig, BLK_T.IN, 0, undefined, 512);
    const write = ask(rig, BLK_T.OUT, 0, new Uint8Array(512).fill(9));
    const [memory, medium] = [rig.memory.bytes.slice(), disk.bytes.slice()];
    end(rig);
    rig.pass(1e9);
    expect([read.used, write.used]).toEqual([null, null]);
    expect([same(rig.memory.bytes, memory), same(disk.bytes, medium)]).toEqual([true, true]);
    expect(rig.clock.armed).toBe(0);
  });

  it('leaves other queues alone when one is reset', () => {
    const { rig } = started({ clocked: slowReads, numQueues: 2 });
    const first = ask(rig, BLK_T.IN, 0, undefined, 512, 0);
    const second = ask(rig, BLK_T.IN, 0, undefined, 512, 1);
    rig.model.queueReset(rig.device.queues[0] as never);
    rig.pass(1000);
    expect([first.used, second.used]).toEqual([null, 513]);
    expect(rig.notified).toEqual([1]);
  });
});
