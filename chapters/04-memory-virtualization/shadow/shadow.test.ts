import { describe, expect, it } from 'vitest';
import type { MemorySlots } from '../../02-kvm-objects/soft/slots.ts';
import { ARENA, buildArena, routineAt, SELECTOR } from '../fuzz/arena.ts';
import { control, type Ended, Guest } from '../fuzz/subjects.ts';
import { TwoDimensional } from '../kernel/two-dimensional.ts';
import { ShadowMemory } from './index.ts';

const ROOT = ARENA.TABLES;
const POINTERS = ARENA.TABLES + 0x1000;
const DIRECTORY = ARENA.TABLES + 0x2000;
const TABLE = ARENA.TABLES + 0x3000;
const BASE = 1n << 39n;
const MIB2 = 0x20_0000n;
const LARGE = ARENA.LARGE;
const P = 1;
const RW = 2;
const US = 4;
const A = 0x20;
const D = 0x40;
const PS = 0x80;
const FLAGS = 2 | (3 << 12);

/** A 64-bit guest with a directory and a last-level table of its own below linear address 2^39. */
class Bench {
  readonly guest: Guest;
  readonly view: DataView;
  slots: MemorySlots | null = null;
  constructor(
    method: 'ept' | 'shadow',
    options: { wp?: boolean; smep?: boolean; smap?: boolean } = {},
    entries: readonly (readonly [number, number])[] = [],
  ) {
    this.guest = new Guest(method, (vm) => {
      this.slots = vm.slots;
      return method === 'shadow' ? new ShadowMemory(vm) : new TwoDimensional(vm);
    });
    const { ram } = this.guest;
    this.view = new DataView(ram.buffer, ram.byteOffset, ram.length);
    buildArena(ram, 'long', [ROOT]);
    this.poke(ROOT + 8, POINTERS | P | RW | US);
    this.poke(POINTERS, DIRECTORY | P | RW | US);
    this.poke(DIRECTORY + 8 * 8, TABLE | P | RW | US);
    for (const [at, value] of entries) this.poke(at, value);
    this.guest.begin(
      control('long', ROOT, { wp: options.wp ?? true, nx: true, smep: options.smep ?? false, smap: options.smap ?? false, pge: false }),
    );
  }
  get shadow(): ShadowMemory {
    return this.guest.memory as ShadowMemory;
  }
  poke(gpa: number, low: number): void {
    this.view.setUint32(gpa, low, true);
    this.view.setUint32(gpa + 4, 0, true);
  }
  peek(gpa: number): number {
    return this.view.getUint32(gpa, true);
  }
  kernel(routine: Parameters<typeof routineAt>[0], linear: bigint, value = 0n, second = 0n): Ended {
    return this.guest.run({ rip: routineAt(routine), rsp: ARENA.STACK, rax: value, rbx: linear, rsi: linear, rdi: second, rflags: FLAGS });
  }
  user(routine: Parameters<typeof routineAt>[0], linear: bigint, value = 0n, second = 0n): Ended {
    const frame = [routineAt(routine, true), SELECTOR.USER_CODE, FLAGS, ARENA.USER_STACK, SELECTOR.USER_DATA];
    frame.forEach((word, n) => {
      this.view.setBigUint64(ARENA.STACK - 40 + 8 * n, BigInt(word), true);
    });
    return this.guest.run({ rip: routineAt('enterUser'), rsp: ARENA.STACK - 40, rax: value, rbx: linear, rsi: linear, rdi: second, rflags: FLAGS });
  }
  /** The kernel writes an entry through its window. */
  store(gpa: number, value: number): void {
    expect(this.kernel('store', BigInt(gpa), BigInt(value)).end).toBe('done');
  }
}

describe('faults that Linux has had', () => {
  for (const method of ['ept', 'shadow'] as const) {
    it(`${method}: two entries for one large page, CR0.WP clear: each gets its dirty bit`, () => {
      const bench = new Bench(method, { wp: false }, [
        [DIRECTORY, LARGE | P | US | PS | A],
        [DIRECTORY + 8, LARGE | P | US | PS | A],
      ]);
      bench.guest.setLogging(true); // the large page is mapped in pieces
      expect(bench.kernel('read', BASE).end).toBe('done');
      expect(bench.kernel('read', BASE + MIB2).end).toBe('done');
      expect(bench.kernel('write', BASE, 5n).end).toBe('done');
      expect(bench.peek(DIRECTORY) & D).toBe(D);
      expect(bench.peek(DIRECTORY + 8) & D).toBe(0);
      expect(bench.kernel('write', BASE + MIB2, 6n).end).toBe('done');
      expect(bench.peek(DIRECTORY + 8) & D).toBe(D);
      expect(bench.peek(LARGE)).toBe(6);
    });

    it(`${method}: two entries for one large page with different rights do not fight`, () => {
      const bench = new Bench(method, {}, [
        [DIRECTORY, LARGE | P | RW | US | PS | A | D],
        [DIRECTORY + 8, LARGE | P | US | PS | A],
      ]);
      bench.guest.setLogging(true);
      for (let n = 0; n < 4; n++) {
        expect(bench.user('write', BASE + 8n, BigInt(n)).end).toBe('done');
        expect(bench.user('read', BASE + MIB2 + 8n).end).toBe('done');
        expect(bench.user('write', BASE + MIB2 + 8n).end).toBe('page-fault');
      }
      expect(bench.peek(LARGE + 8)).toBe(3);
    });

    it(`${method}: MOVS between two small pages of one large page gets done`, () => {
      for (const wp of [true, false]) {
        const bench = new Bench(method, { wp }, [[DIRECTORY, LARGE | P | US | PS | (wp ? RW : 0)]]);
        bench.guest.setLogging(true);
        bench.view.setUint32(LARGE + 0x1000, 0x1234, true);
        expect(bench.kernel('movs', BASE + 0x1000n, 0n, BASE + 0x5000n).end).toBe('done');
        expect(bench.peek(LARGE + 0x5000)).toBe(0x1234);
        expect(bench.peek(DIRECTORY) & (A | D)).toBe(A | D);
        expect(bench.user('read', BASE + 0x5000n).end).toBe('done');
      }
    });

    it(`${method}: a large page that was read before its slot is logged is written after`, () => {
      const bench = new Bench(method, {}, [[DIRECTORY, LARGE | P | RW | US | PS | A | D]]);
      expect(bench.kernel('read', BASE).end).toBe('done');
      bench.guest.setLogging(true);
      bench.guest.dirtyLog();
      const page = LARGE / 4096 + 3;
      for (let round = 0; round < 3; round++) {
        expect(bench.kernel('write', BASE + 0x3000n, BigInt(round)).end).toBe('done');
        const log = bench.guest.dirtyLog();
        expect((log[page >> 3] as number) & (1 << (page & 7))).not.toBe(0);
        expect((bench.guest.dirtyLog()[page >> 3] as number) & (1 << (page & 7))).toBe(0);
      }
    });

    // With a ring a slot has no bitmap, and is logged even so.
    it(`${method}: pages that were read before their first write are noted in a ring, each`, () => {
      const bench = new Bench(method, {}, [[DIRECTORY, LARGE | P | RW | US | PS | A | D]]);
      const written: number[] = [];
      if (bench.slots) bench.slots.dirtyRing = (_slot, page) => written.push(page);
      expect(bench.kernel('read', BASE + 0x3000n).end).toBe('done');
      bench.guest.setLogging(true);
      for (const offset of [0x3000n, 0x5000n]) {
        expect(bench.kernel('read', BASE + offset).end).toBe('done');
        expect(bench.kernel('write', BASE + offset, 7n).end).toBe('done');
      }
      const first = LARGE / 4096;
      expect(written.filter((page) => page > first)).toEqual([first + 3, first + 5]);
    });
  }
});

describe('the shadow', () => {
  const data = (n: number): number => ARENA.DATA + n * 4096;
  const PAGE = BASE + 8n * MIB2;
  const context = (bench: Bench) => {
    const [walk] = bench.shadow.mmu.contexts;
    if (!walk) throw new Error('no vCPU');
    return walk;
  };

  it('lets go of a last-level table, and compares it at INVLPG', () => {
    const bench = new Bench('shadow', {}, [[TABLE, data(0) | P | RW | US | A | D]]);
    bench.poke(data(0), 0xaaaa);
    bench.poke(data(1), 0xbbbb);
    expect(bench.kernel('read', PAGE).rax).toBe(0xaaaan);
    const { counts } = bench.shadow.mmu.pages;
    expect(counts.unsynced).toBe(0);
    bench.store(TABLE, data(1) | P | RW | US | A | D);
    expect(counts.unsynced).toBe(1);
    expect(bench.shadow.statistics.emulatedWrites).toBe(0);
    expect(bench.kernel('read', PAGE).rax).toBe(0xaaaan); // as a TLB would have it
    expect(bench.kernel('invlpg', PAGE).end).toBe('done');
    expect(bench.kernel('read', PAGE).rax).toBe(0xbbbbn);
  });

  it('emulates writes to a directory, and gives up a table that is written to again and again', () => {
    const bench = new Bench('shadow', {}, [[TABLE, data(0) | P | RW | US | A | D]]);
    bench.kernel('read', PAGE);
    const before = bench.shadow.mmu.pages.counts.zapped;
    bench.store(DIRECTORY + 8, 0);
    bench.store(DIRECTORY + 16, 0);
    expect(bench.shadow.statistics.emulatedWrites).toBe(2);
    expect(bench.shadow.mmu.pages.counts.zapped).toBe(before);
    bench.store(DIRECTORY + 24, 0);
    expect(bench.shadow.mmu.pages.counts.zapped).toBeGreaterThan(before);
    bench.store(DIRECTORY + 32, 0);
    expect(bench.shadow.statistics.emulatedWrites).toBe(3); // no table any more: an ordinary write
  });

  it('maps a large page large where it may, and small where a table lies inside', () => {
    const bench = new Bench('shadow', {}, [
      [DIRECTORY, LARGE | P | RW | US | PS],
      [DIRECTORY + 8, 0x20_0000 | P | RW | US | PS],
    ]);
    bench.kernel('read', BASE);
    bench.kernel('read', BASE + MIB2 + 0x2_0000n);
    expect(bench.shadow.mmu.lookup(context(bench), BASE)?.level).toBe(2);
    expect(bench.shadow.mmu.lookup(context(bench), BASE + MIB2 + 0x2_0000n)).toMatchObject({ level: 1, direct: true });
  });

  it('gives a page to the kernel alone while CR0.WP is clear, and back', () => {
    const bench = new Bench('shadow', { wp: false }, [[TABLE, data(0) | P | US | A | D]]);
    expect(bench.user('read', PAGE).end).toBe('done');
    expect(bench.kernel('write', PAGE, 7n).end).toBe('done');
    expect(bench.user('read', PAGE).rax & 0xffffffffn).toBe(7n);
    expect(bench.user('write', PAGE)).toMatchObject({ end: 'page-fault', code: 7 });
    expect(bench.kernel('write', PAGE, 9n).end).toBe('done');
    expect(bench.peek(data(0))).toBe(9);
  });

  it('knows a device by its entry', () => {
    const bench = new Bench('shadow', {}, [[TABLE, (ARENA.DEVICE | P | RW | US | A | D) >>> 0]]);
    expect(bench.kernel('read', PAGE + 4n).gpas).toEqual([ARENA.DEVICE + 4]);
    const walks = bench.shadow.mmu.pages.counts.leaves;
    expect(bench.kernel('read', PAGE + 8n).gpas).toEqual([ARENA.DEVICE + 8]);
    expect(bench.shadow.mmu.pages.counts.leaves).toBe(walks);
    expect(bench.shadow.mmu.lookup(context(bench), PAGE)?.device).toBe(true);
  });

  it('survives a table that maps itself, and a user who writes to it', () => {
    const bench = new Bench('shadow', {}, [[ROOT + 8 * 2, ROOT | P | RW | US]]);
    const self = (2n << 39n) | (2n << 30n) | (2n << 21n) | (2n << 12n); // the root, through itself
    expect(Number(bench.kernel('read', self + 16n).rax & 0xfffff000n)).toBe(ROOT);
    expect(bench.kernel('write', self + 8n * 5n, 0n).end).toBe('done');
    expect(bench.user('write', self + 8n * 6n, 0n).end).toBe('done');
    expect(bench.kernel('fxsave', self + 8n * 64n).end).toBe('done'); // no emulator knows it
  });

  it('keeps to its limit, whatever the guest maps', () => {
    const bench = new Bench('shadow');
    bench.shadow.tableLimit = 30;
    for (let n = 0; n < 60; n++) {
      bench.store(POINTERS + 8 * (n + 1), DIRECTORY | P | RW | US);
      expect(bench.kernel('read', BASE + (BigInt(n + 1) << 30n) + 8n * MIB2).end).toBe('page-fault');
      expect(bench.shadow.tables).toBeLessThanOrEqual(30);
    }
  });

  it('gives every page back', () => {
    const bench = new Bench('shadow', {}, [[TABLE, data(0) | P | RW | US]]);
    bench.kernel('read', PAGE);
    bench.shadow.zapAll();
    expect(bench.shadow.tables).toBe(0);
    expect(bench.kernel('read', PAGE).end).toBe('done');
    bench.guest.free();
  });
});
