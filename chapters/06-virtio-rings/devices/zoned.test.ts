import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MemoryBlock } from '../../05-pio-mmio/block/block.ts';
import { bit, F, features as featureSet, STATUS } from '../features.ts';
import { BlockModel, type BlockOptions } from './block.ts';
import { BLK_F, BLK_S, BLK_T, BLK_Z, BLK_ZS, BLK_ZT, BlkConfig, BlkOutHdr, BlkRange, BlkZone, BlkZoned, BlkZoneReport } from './block-layout.ts';
import { join, type Request, Rig } from './laboratory.ts';
import { type ZonedOptions, Zones } from './zoned.ts';

// Eight zones of 8 sectors, of which 6 can be written, the last one shorter; the first conventional.
const ZONE = 8;
const CAP = 6;
const SECTORS = 60;
const LAST = { sectors: 4, capacity: 4 };
const zoned: ZonedOptions = {
  model: 'host-managed',
  zoneSectors: ZONE,
  zoneCapacity: CAP,
  conventional: 1,
  maxOpen: 2,
  maxActive: 3,
  maxAppendSectors: 4,
};

const header = (type: number, sector: number | bigint): Uint8Array => BlkOutHdr.encode({ type, sector: BigInt(sector) });
const rigOf = (options: Partial<BlockOptions> = {}): { rig: Rig<BlockModel>; disk: MemoryBlock; zones: Zones } => {
  const disk = (options.drive as MemoryBlock | undefined) ?? new MemoryBlock(new Uint8Array(SECTORS * 512));
  const rig = new Rig(() => new BlockModel({ drive: disk, zoned, ...options }), 0n);
  return { rig, disk, zones: rig.model.zones as Zones };
};
const started = (options: Partial<BlockOptions> = {}): ReturnType<typeof rigOf> => {
  const made = rigOf(options);
  made.rig.start();
  return made;
};
const ask = (rig: Rig<BlockModel>, type: number, sector: number | bigint, out: Uint8Array = new Uint8Array(0), inBytes = 0): Request =>
  rig.ask(0, [join([header(type, sector), out])], [inBytes + 1]);
const statusOf = (request: Request): number => request.answer().at(-1) as number;
const filled = (sectors: number, byte: number): Uint8Array => new Uint8Array(sectors * 512).fill(byte);
const append = (rig: Rig<BlockModel>, sector: number, sectors: number, byte = 1): { status: number; at: bigint } => {
  const answer = ask(rig, BLK_T.ZONE_APPEND, sector, filled(sectors, byte), 8).answer();
  return { status: answer.at(-1) as number, at: new DataView(answer.buffer).getBigUint64(0, true) };
};
const report = (
  rig: Rig<BlockModel>,
  sector = 0,
  descriptors = 100,
): { z_state: number; z_wp: bigint; z_start: bigint; z_cap: bigint; z_type: number }[] => {
  const answer = ask(rig, BLK_T.ZONE_REPORT, sector, undefined, 64 + 64 * descriptors).answer();
  expect(answer.at(-1)).toBe(BLK_S.OK);
  const { nr_zones } = BlkZoneReport.decode(answer);
  return Array.from({ length: Number(nr_zones) }, (_, index) => BlkZone.decode(answer.subarray(64 + 64 * index)));
};

// ## An oracle
//
// The specification's prose, once more and differently: states as words, no counters, every limit counted afresh, contents as an array of what each sector should read.

type Word = 'conventional' | 'empty' | 'iopen' | 'eopen' | 'closed' | 'full';
const WORDS: Record<Word, number> = { conventional: 0, empty: 1, iopen: 2, eopen: 3, closed: 4, full: 14 };
class Oracle {
  states: Word[] = ['conventional', ...new Array<Word>(7).fill('empty')];
  wp = Array.from({ length: 8 }, (_, zone) => zone * ZONE);
  sectors = new Uint8Array(SECTORS);
  capOf = (zone: number): number => (zone === 0 ? ZONE : zone === 7 ? LAST.capacity : CAP);
  count = (...words: Word[]): number => this.states.filter((state) => words.includes(state)).length;

  get(zone: number, wanted: 'iopen' | 'eopen'): number {
    const state = this.states[zone];
    if (state === 'eopen' || state === wanted) return 0;
    if (state === 'empty' && this.count('iopen', 'eopen', 'closed') >= 3) return 6;
    if (state !== 'iopen' && this.count('iopen', 'eopen') >= 2) {
      const victim = this.states.indexOf('iopen');
      if (victim < 0) return 5;
      this.states[victim] = this.wp[victim] === victim * ZONE ? 'empty' : 'closed';
    }
    this.states[zone] = wanted;
    return 0;
  }
  start(sector: number): number | null {
    return sector % ZONE === 0 && sector < SECTORS ? sector / ZONE : null;
  }
  open(sector: number): number {
    const zone = this.start(sector);
    if (zone === null || ['conventional', 'full'].includes(this.states[zone] as Word)) return 3;
    return this.get(zone, 'eopen');
  }
  close(sector: number): number {
    const zone = this.start(sector);
    if (zone === null || !['iopen', 'eopen', 'closed'].includes(this.states[zone] as Word)) return 3;
    if (this.states[zone] !== 'closed') this.states[zone] = this.wp[zone] === sector ? 'empty' : 'closed';
    return 0;
  }
  finish(sector: number): number {
    const zone = this.start(sector);
    if (zone === null || zone === 0) return 3;
    this.states[zone] = 'full';
    return 0;
  }
  reset(sector: number): number {
    const zone = this.start(sector);
    if (zone === null || zone === 0) return 3;
    this.states[zone] = 'empty';
    this.wp[zone] = sector;
    this.sectors.fill(0, sector, sector + ZONE);
    return 0;
  }
  write(sector: number, count: number, byte: number): number {
    if (sector + count > SECTORS) return 1;
    if (count === 0) return 0;
    const [zone, lastZone] = [Math.floor(sector / ZONE), Math.floor((sector + count - 1) / ZONE)];
    if (lastZone !== zone || this.states[zone] === 'full') return 3;
    if (zone > 0) {
      if (this.wp[zone] !== sector) return 4;
      if (sector + count > zone * ZONE + this.capOf(zone)) return 3;
      const status = this.get(zone, 'iopen');
      if (status !== 0) return status;
      this.wp[zone] = sector + count;
      if (this.wp[zone] === zone * ZONE + this.capOf(zone)) this.states[zone] = 'full';
    }
    this.sectors.fill(byte, sector, sector + count);
    return 0;
  }
  append(sector: number, count: number, byte: number): { status: number; at: number } {
    const zone = this.start(sector);
    if (zone === null || zone === 0 || count > 4 || this.states[zone] === 'full') return { status: 3, at: 0 };
    const at = this.wp[zone] as number;
    if (at + count > sector + this.capOf(zone)) return { status: 3, at: 0 };
    return { status: this.write(at, count, byte), at };
  }
  read(sector: number, count: number): number {
    if (sector + count > SECTORS) return 1;
    return count > 0 && Math.floor(sector / ZONE) !== Math.floor((sector + count - 1) / ZONE) ? 3 : 0;
  }
}

describe('a host-managed disk', () => {
  const step = fc.record({
    // reads and writes at the pointer more often than anywhere
    what: fc.constantFrom('write', 'write', 'write here', 'write here', 'append', 'append', 'read', 'open', 'close', 'finish', 'reset', 'reset all'),
    zone: fc.nat({ max: 8 }),
    offset: fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat({ max: ZONE }) }),
    count: fc.nat({ max: 7 }),
    byte: fc.integer({ min: 1, max: 255 }),
  });
  it('does what the specification says, request after request', () => {
    const seen = new Map<string, number>();
    fc.assert(
      fc.property(fc.array(step, { minLength: 20, maxLength: 60 }), (steps) => {
        const { rig, zones } = started();
        const oracle = new Oracle();
        for (const { what, zone, offset, count, byte } of steps) {
          const sector = what === 'write here' ? (oracle.wp[zone] ?? 0) : zone * ZONE + offset;
          let expected: number;
          let status: number;
          if (what === 'append') {
            const should = oracle.append(sector, count, byte);
            const did = append(rig, sector, count, byte);
            [expected, status] = [should.status, did.status];
            if (expected === 0) expect(Number(did.at)).toBe(should.at);
          } else if (what === 'read') {
            expected = oracle.read(sector, count);
            const answer = ask(rig, BLK_T.IN, sector, undefined, count * 512).answer();
            status = answer.at(-1) as number;
            for (let at = 0; at < count; at++) expect(answer[at * 512 + 7]).toBe(expected === 0 ? oracle.sectors[sector + at] : 0);
          } else if (what.startsWith('write')) {
            expected = oracle.write(sector, count, byte);
            status = statusOf(ask(rig, BLK_T.OUT, sector, filled(count, byte)));
          } else if (what === 'reset all') {
            for (let each = 1; each < 8; each++) oracle.reset(each * ZONE);
            [expected, status] = [0, statusOf(ask(rig, BLK_T.ZONE_RESET_ALL, 0))];
          } else {
            const types = { open: BLK_T.ZONE_OPEN, close: BLK_T.ZONE_CLOSE, finish: BLK_T.ZONE_FINISH, reset: BLK_T.ZONE_RESET } as const;
            const name = what as keyof typeof types;
            [expected, status] = [oracle[name](sector), statusOf(ask(rig, types[name], sector))];
          }
          expect(status, `${what} ${sector}+${count}`).toBe(expected);
          seen.set(`${what} ${status}`, (seen.get(`${what} ${status}`) ?? 0) + 1);
          expect(zones.all.map(({ state }) => state)).toEqual(oracle.states.map((word) => WORDS[word]));
          expect([zones.open, zones.active]).toEqual([oracle.count('iopen', 'eopen'), oracle.count('iopen', 'eopen', 'closed')]);
        }
        const pointers = report(rig).flatMap(({ z_state, z_wp }, zone) => (z_state >= 1 && z_state <= 4 ? [[zone, Number(z_wp)]] : []));
        expect(pointers).toEqual(
          oracle.wp.flatMap((wp, zone) => (['conventional', 'full'].includes(oracle.states[zone] as Word) ? [] : [[zone, wp]])),
        );
      }),
      { numRuns: 150, seed: 7 },
    );
    // The steps reach every answer that there is.
    for (const reached of [
      'write 4',
      'write here 0',
      'write here 5',
      'write here 6',
      'append 0',
      'append 3',
      'open 0',
      'open 3',
      'open 5',
      'open 6',
      'close 3',
      'read 3',
    ])
      expect([reached, (seen.get(reached) ?? 0) > 0]).toEqual([reached, true]);
  });

  it('reports its zones from any sector on, as many as there is room for', () => {
    const { rig } = started();
    const all = report(rig);
    expect(all.map(({ z_start }) => Number(z_start))).toEqual([0, 8, 16, 24, 32, 40, 48, 56]);
    expect(all[0]).toEqual({ z_cap: 8n, z_start: 0n, z_wp: 2n ** 64n - 1n, z_type: BLK_ZT.CONV, z_state: BLK_ZS.NOT_WP });
    expect(all[1]).toEqual({ z_cap: 6n, z_start: 8n, z_wp: 8n, z_type: BLK_ZT.SWR, z_state: BLK_ZS.EMPTY });
    expect(all[7]).toEqual({ z_cap: 4n, z_start: 56n, z_wp: 56n, z_type: BLK_ZT.SWR, z_state: BLK_ZS.EMPTY });
    expect(report(rig, 21, 2)).toEqual(all.slice(2, 4));
    expect(report(rig, 59)).toEqual(all.slice(7));
    expect(report(rig, 0, 0)).toEqual([]);
    const odd = ask(rig, BLK_T.ZONE_REPORT, 0, undefined, 64 + 64 + 63).answer();
    expect(BlkZoneReport.decode(odd).nr_zones).toBe(1n);
    expect(odd.subarray(128, -1).every((byte) => byte === 0)).toBe(true);
    for (const [sector, bytes] of [
      [SECTORS, 128],
      [2n ** 64n - 1n, 128],
      [0, 63],
    ] as const)
      expect(statusOf(ask(rig, BLK_T.ZONE_REPORT, sector, undefined, bytes))).toBe(BLK_S.ZONE_INVALID_CMD);
  });

  it('never shows what was there before a reset', () => {
    const { rig, disk } = started();
    expect(statusOf(ask(rig, BLK_T.OUT, 8, filled(3, 0xaa)))).toBe(BLK_S.OK);
    expect(statusOf(ask(rig, BLK_T.ZONE_RESET, 8))).toBe(BLK_S.OK);
    expect(disk.bytes[8 * 512]).toBe(0xaa); // the medium still has it
    expect(ask(rig, BLK_T.IN, 8, undefined, 512).answer()).toEqual(new Uint8Array(513));
    expect(statusOf(ask(rig, BLK_T.OUT, 8, filled(1, 0xbb)))).toBe(BLK_S.OK);
    expect(statusOf(ask(rig, BLK_T.ZONE_FINISH, 8))).toBe(BLK_S.OK);
    const read = ask(rig, BLK_T.IN, 8, undefined, 8 * 512).answer();
    expect([...new Set(read.subarray(0, 512)), ...new Set(read.subarray(512))]).toEqual([0xbb, 0]);
  });

  it('knows how much may be appended', () => {
    const { rig } = started();
    expect(append(rig, 8, 4)).toEqual({ status: BLK_S.OK, at: 8n });
    expect(append(rig, 16, 5).status).toBe(BLK_S.ZONE_INVALID_CMD);
    expect(append(rig, 9, 1).status).toBe(BLK_S.ZONE_INVALID_CMD);
    expect(append(rig, 0, 1).status).toBe(BLK_S.ZONE_INVALID_CMD);
    expect(append(rig, 8, 0)).toEqual({ status: BLK_S.OK, at: 12n });
    expect(statusOf(ask(rig, BLK_T.ZONE_APPEND, 8, filled(1, 1), 7))).toBe(BLK_S.IOERR); // no room for the answer
    expect(append(started({ zoned: { ...zoned, maxAppendSectors: 0 } }).rig, 8, 1).status).toBe(BLK_S.UNSUPP);
    const bounded = rigOf({ segMax: 2, sizeMax: 512 });
    expect(bounded.zones.maxAppendSectors).toBe(2);
  });

  it('keeps to its write granularity', () => {
    const { rig } = started({ zoned: { ...zoned, writeGranularity: 1024 } });
    expect(statusOf(ask(rig, BLK_T.OUT, 8, filled(1, 1)))).toBe(BLK_S.ZONE_UNALIGNED_WP);
    expect(append(rig, 8, 3).status).toBe(BLK_S.ZONE_UNALIGNED_WP);
    expect(statusOf(ask(rig, BLK_T.OUT, 8, filled(2, 1)))).toBe(BLK_S.OK);
    expect(statusOf(ask(rig, BLK_T.OUT, 1, filled(1, 1)))).toBe(BLK_S.OK); // a conventional zone has none
  });

  it('lets zones fail, and nothing bring them back', () => {
    const { rig, zones } = started();
    expect(statusOf(ask(rig, BLK_T.OUT, 8, filled(2, 7)))).toBe(BLK_S.OK);
    zones.fail(1, 'read-only');
    expect([zones.open, zones.active]).toEqual([0, 0]);
    expect(ask(rig, BLK_T.IN, 8, undefined, 512).answer()[0]).toBe(7);
    const changes = [BLK_T.ZONE_OPEN, BLK_T.ZONE_CLOSE, BLK_T.ZONE_FINISH, BLK_T.ZONE_RESET];
    const all = (): number[] => [
      ...changes.map((type) => statusOf(ask(rig, type, 8))),
      statusOf(ask(rig, BLK_T.OUT, 10, filled(1, 1))),
      append(rig, 8, 1).status,
      append(rig, 8, 0).status,
    ];
    expect(all()).toEqual(new Array(7).fill(BLK_S.ZONE_INVALID_CMD));
    zones.fail(1, 'offline');
    zones.fail(1, 'read-only');
    expect(report(rig)[1]?.z_state).toBe(BLK_ZS.OFFLINE);
    expect([...all(), statusOf(ask(rig, BLK_T.IN, 8, undefined, 512))]).toEqual(new Array(8).fill(BLK_S.ZONE_INVALID_CMD));
    expect(statusOf(ask(rig, BLK_T.ZONE_RESET_ALL, 0))).toBe(BLK_S.OK);
    expect(report(rig)[1]?.z_state).toBe(BLK_ZS.OFFLINE);
    expect(() => zones.fail(0, 'offline')).toThrow('EINVAL');
  });

  it('erases by resetting, whole zones only', () => {
    const { rig, disk } = started({ secureErase: true });
    const erase = (sector: number, count: number): number =>
      statusOf(ask(rig, BLK_T.SECURE_ERASE, 0, BlkRange.encode({ sector: BigInt(sector), num_sectors: count, flags: 0 })));
    expect(rig.model.config.read(BlkConfig.fields.secure_erase_sector_alignment.offset, 4)).toBe(ZONE);
    expect(rig.model.config.read(BlkConfig.fields.max_secure_erase_sectors.offset, 4) % ZONE).toBe(0);
    append(rig, 8, 2, 0xaa);
    append(rig, 56, 4, 0xbb);
    expect([erase(8, 4), erase(9, 8), erase(0, 16)]).toEqual(new Array(3).fill(BLK_S.ZONE_INVALID_CMD));
    expect(disk.bytes[8 * 512]).toBe(0xaa);
    expect([erase(8, 16), erase(56, 4)]).toEqual([BLK_S.OK, BLK_S.OK]);
    expect(report(rig).filter(({ z_state }) => z_state !== BLK_ZS.EMPTY).length).toBe(1);
    expect(disk.bytes.every((byte) => byte === 0)).toBe(true);
  });

  it('takes zeroes as a write at the pointer', () => {
    const { rig } = started();
    const zero = (sector: number, count: number): number =>
      statusOf(ask(rig, BLK_T.WRITE_ZEROES, 0, BlkRange.encode({ sector: BigInt(sector), num_sectors: count, flags: 0 })));
    expect([zero(8, 2), zero(8, 2), zero(10, 5), zero(10, 4)]).toEqual([BLK_S.OK, BLK_S.ZONE_UNALIGNED_WP, BLK_S.ZONE_INVALID_CMD, BLK_S.OK]);
    expect(report(rig)[1]?.z_state).toBe(BLK_ZS.FULL);
  });

  it('cannot be used by a driver that knows nothing of zones', () => {
    const { rig } = rigOf();
    expect(() => rig.start({ features: rig.device.offered & ~bit(BLK_F.ZONED) })).toThrow('refuses');
    expect(rig.device.status & STATUS.FEATURES_OK).toBe(0);
    expect(rig.device.has(BLK_F.DISCARD)).toBe(false);
  });

  it('is shown to a legacy driver without zones, as a disk that fails', () => {
    const { rig } = rigOf();
    expect(rig.device.offerTo(true) & bit(BLK_F.ZONED)).toBe(0n);
    rig.start({ legacy: true, features: rig.device.offerTo(true) | bit(BLK_F.ZONED) });
    expect(statusOf(ask(rig, BLK_T.OUT, 9, filled(1, 1)))).toBe(BLK_S.IOERR);
    expect(statusOf(ask(rig, BLK_T.OUT, 8, filled(1, 1)))).toBe(BLK_S.OK);
    expect(statusOf(ask(rig, BLK_T.OUT, 9, filled(1, 1)))).toBe(BLK_S.OK);
    expect(statusOf(ask(rig, BLK_T.IN, 7, undefined, 1024))).toBe(BLK_S.IOERR);
    expect(statusOf(ask(rig, BLK_T.ZONE_RESET, 8))).toBe(BLK_S.UNSUPP);
  });
});

describe('a host-aware disk', () => {
  const aware: ZonedOptions = { ...zoned, model: 'host-aware' };
  it('takes writes anywhere, and reads zeroes where nobody wrote', () => {
    const { rig, zones } = started({ zoned: aware });
    expect(statusOf(ask(rig, BLK_T.OUT, 10, filled(1, 5)))).toBe(BLK_S.OK);
    expect(report(rig)[1]).toMatchObject({ z_type: BLK_ZT.SWP, z_state: BLK_ZS.IOPEN, z_wp: 11n });
    const read = ask(rig, BLK_T.IN, 8, undefined, 4 * 512).answer();
    expect([0, 1, 2, 3].map((at) => read[at * 512])).toEqual([0, 0, 5, 0]);
    expect(statusOf(ask(rig, BLK_T.OUT, 8, filled(1, 6)))).toBe(BLK_S.OK);
    expect(report(rig)[1]?.z_wp).toBe(11n);
    expect(statusOf(ask(rig, BLK_T.OUT, 14, filled(12, 9)))).toBe(BLK_S.OK); // across two borders
    expect(statusOf(ask(rig, BLK_T.IN, 0, undefined, SECTORS * 512))).toBe(BLK_S.OK);
    expect(append(rig, 32, 1).status).toBe(BLK_S.ZONE_INVALID_CMD);
    expect(zones.open).toBeLessThanOrEqual(2);
    expect(zones.active).toBeLessThanOrEqual(3);
  });
  it('is a disk like any other to a driver that knows no better', () => {
    const { rig } = rigOf({ zoned: aware });
    rig.start({ features: rig.device.offered & ~bit(BLK_F.ZONED) });
    const { zoned: at } = BlkConfig.fields;
    for (let byte = 0; byte < BlkZoned.bytes; byte++) expect(rig.model.config.read(at.offset + byte, 1)).toBe(0);
    const flat = new Uint8Array(SECTORS);
    let place = 11;
    for (let count = 0; count < 300; count++) {
      place = (place * 29 + 7) % SECTORS;
      flat[place] = count & 0xff;
      expect(statusOf(ask(rig, BLK_T.OUT, place, filled(1, count & 0xff)))).toBe(BLK_S.OK);
    }
    const read = ask(rig, BLK_T.IN, 0, undefined, SECTORS * 512).answer();
    expect(Uint8Array.from({ length: SECTORS }, (_, sector) => read[sector * 512 + 100] as number)).toEqual(flat);
    expect(statusOf(ask(rig, BLK_T.ZONE_REPORT, 0, undefined, 128))).toBe(BLK_S.UNSUPP);
  });
});

describe('what is told', () => {
  it('is there before FEATURES_OK, and after it for who took it', () => {
    const { rig } = rigOf();
    const read = (): ReturnType<typeof BlkZoned.decode> =>
      BlkZoned.decode(Uint8Array.from({ length: BlkZoned.bytes }, (_, at) => rig.model.config.read(BlkConfig.fields.zoned.offset + at, 1)));
    const told = {
      ...{ zone_sectors: 8, max_open_zones: 2, max_active_zones: 3, max_append_sectors: 4, write_granularity: 512 },
      ...{ model: BLK_Z.HM, unused2: new Uint8Array(3) },
    };
    expect(read()).toEqual(told);
    rig.start();
    expect(read()).toEqual(told);
  });
  it('is a model without zones when the disk manages itself', () => {
    const { rig } = rigOf({ zoned: { model: 'none' } });
    rig.start({ features: featureSet(F.VERSION_1, BLK_F.ZONED) });
    expect(rig.model.config.read(BlkConfig.fields.zoned.offset + BlkZoned.fields.model.offset, 1)).toBe(BLK_Z.NONE);
    expect(statusOf(ask(rig, BLK_T.ZONE_REPORT, 0, undefined, 128))).toBe(BLK_S.UNSUPP);
  });
  it('begins with zones that are empty or full, as the image is', () => {
    const bytes = new Uint8Array(SECTORS * 512);
    bytes[17 * 512 - 1] = 1; // the last byte of sector 16
    const { rig } = started({ drive: new MemoryBlock(bytes) });
    expect(report(rig).map(({ z_state }) => z_state)).toEqual([0, 1, 14, 1, 1, 1, 1, 1]);
    expect(ask(rig, BLK_T.IN, 16, undefined, 512).answer()[511]).toBe(1);
  });
  it('refuses zones that cannot be', () => {
    const wrong: readonly Partial<ZonedOptions>[] = [
      { zoneSectors: 0 },
      { zoneSectors: 1.5 },
      { zoneCapacity: 9 },
      { zoneCapacity: 0 },
      { writeGranularity: 100 },
      { writeGranularity: 2048 },
      { maxOpen: -1 },
      { maxActive: 2 ** 32 },
    ];
    const disk = new MemoryBlock(new Uint8Array(SECTORS * 512));
    for (const options of wrong) expect(() => new Zones(disk, { ...zoned, ...options }), JSON.stringify(options)).toThrow('EINVAL');
  });
});
