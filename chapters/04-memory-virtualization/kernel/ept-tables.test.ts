import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { VmExit } from '../../01-hardware-background/faults.ts';
import { EPT_ACCESS, EptWalker } from '../../01-hardware-background/mmu/ept.ts';
import { PAGE_BYTES, PhysicalMemory } from '../../01-hardware-background/physical-memory.ts';
import { RamOwners } from '../../02-kvm-objects/soft/memory.ts';
import { bytesAt, EptTables, LEVEL, type LeafLevel, RIGHTS } from './ept-tables.ts';

const [M2, G1] = [2 << 20, 2 ** 30];

function bench(ramBytes = 4 << 20) {
  const memory = new PhysicalMemory({ ramBytes, privateBytes: 1 << 16 });
  const ram = new RamOwners(memory);
  const tables = new EptTables(memory, ram);
  const walker = new EptWalker(memory, null);
  /** What the processor finds: an address, `violation` or `misconfiguration`. */
  const access = (gpa: number, kind: number = EPT_ACCESS.READ): number | string => {
    try {
      return walker.translate({ root: tables.root, accessedDirty: true, executeOnly: true }, gpa, { kind, origin: 0, linear: null });
    } catch (exit) {
      if (!(exit instanceof VmExit)) throw exit;
      return exit.reason === 48 ? 'violation' : 'misconfiguration';
    }
  };
  return { memory, ram, tables, access };
}

describe('the second-stage tables', () => {
  it('map pages of three sizes', () => {
    const { tables, access } = bench();
    expect(tables.map(0x5000, LEVEL.PAGE_4K, 0x9000, RIGHTS.ALL)).toBe(true);
    expect(tables.map(M2, LEVEL.PAGE_2M, 4 * M2, RIGHTS.ALL)).toBe(true);
    expect(tables.map(3 * G1, LEVEL.PAGE_1G, 2 * G1, RIGHTS.READ)).toBe(true);
    expect(access(0x5123)).toBe(0x9123);
    expect(access(M2 + 0x12345)).toBe(4 * M2 + 0x12345);
    expect(access(3 * G1 + 0x1234567)).toBe(2 * G1 + 0x1234567);
    expect(access(0x6000)).toBe('violation');
    expect(access(3 * G1, EPT_ACCESS.WRITE)).toBe('violation');
    expect(tables.census()).toEqual([0, 1, 1, 1]);
    expect(tables.tables).toBe(3);
  });

  it('obey execute-only', () => {
    const { tables, access } = bench();
    tables.map(0x5000, LEVEL.PAGE_4K, 0x9000, RIGHTS.EXECUTE);
    expect(access(0x5000, EPT_ACCESS.FETCH)).toBe(0x9000);
    expect(access(0x5000)).toBe('violation');
    expect(tables.restrict(0x5000, PAGE_BYTES, RIGHTS.READ)).toBe(1);
    expect(access(0x5000)).toBe(0x9000);
    expect(access(0x5000, EPT_ACCESS.FETCH)).toBe('violation');
  });

  it('split a large page without changing what it says', () => {
    const { tables, access } = bench(8 << 20);
    tables.map(0, LEVEL.PAGE_1G, G1, RIGHTS.ALL);
    access(M2, EPT_ACCESS.WRITE);
    const before = tables.find(0);
    expect(before).toMatchObject({ accessed: true, dirty: true });
    expect(tables.split(M2 + 0x3000, PAGE_BYTES)).toBe(true);
    expect(tables.census()).toEqual([0, 512, 511, 0]);
    for (const at of [0, M2, M2 + 0x3000, G1 - PAGE_BYTES]) {
      expect(tables.find(at)).toMatchObject({ rights: RIGHTS.ALL, accessed: true, dirty: true });
      expect(access(at + 5)).toBe(G1 + at + 5);
    }
    expect(tables.protect(M2 + 0x3000, PAGE_BYTES)).toBe(1);
    expect(tables.protect(M2 + 0x3000, PAGE_BYTES)).toBe(0);
    expect(access(M2 + 0x3000, EPT_ACCESS.WRITE)).toBe('violation');
    expect(access(M2 + 0x4000, EPT_ACCESS.WRITE)).toBe(G1 + M2 + 0x4000);
    expect(tables.collapse(0, LEVEL.PAGE_1G)).toBe(true);
    expect(tables.census()).toEqual([0, 0, 0, 0]);
    expect(tables.tables).toBe(1);
  });

  it('drop a large page for whose parts there is no room', () => {
    const { tables, ram } = bench();
    tables.map(0, LEVEL.PAGE_1G, G1, RIGHTS.ALL);
    while (ram.kernelPages() >= 0);
    expect(tables.split(0, PAGE_BYTES)).toBe(true);
    expect(tables.find(0)).toBeNull();
    expect(tables.map(0, LEVEL.PAGE_4K, 0, RIGHTS.ALL)).toBe(false);
  });

  it('mark devices so that the processor says so', () => {
    const { tables, access } = bench();
    tables.markMmio(0xfee00000);
    expect(access(0xfee00010)).toBe('misconfiguration');
    expect(access(0xfee01010)).toBe('violation');
    expect(tables.find(0xfee00000)).toBeNull();
    expect(tables.protect(0, 2 ** 32)).toBe(0);
    expect(tables.zap(0xfee00000, PAGE_BYTES)).toBe(true);
    expect(access(0xfee00010)).toBe('violation');
  });

  it('give up what the processor has not used, and keep what it has', () => {
    const { tables, access } = bench();
    for (let n = 0; n < 8; n++) tables.map(n * M2, LEVEL.PAGE_4K, 0x1000 * n, RIGHTS.ALL);
    expect(tables.tables).toBe(10);
    access(3 * M2);
    access(5 * M2);
    expect(tables.reclaim()).toBe(6);
    expect([0, 1, 2, 3, 4, 5, 6, 7].filter((n) => tables.find(n * M2))).toEqual([3, 5]);
    access(5 * M2); // the others have lost their mark
    expect(tables.reclaim()).toBe(1);
    expect(tables.find(5 * M2)).not.toBeNull();
  });

  it('tell which pages were written, and which were used', () => {
    const { tables, access } = bench();
    for (let n = 0; n < 8; n++) tables.map(n * PAGE_BYTES, LEVEL.PAGE_4K, n * PAGE_BYTES, RIGHTS.ALL);
    access(0x3000, EPT_ACCESS.WRITE);
    access(0x5000, EPT_ACCESS.READ);
    const written: number[] = [];
    expect(tables.harvestDirty(0, 8 * PAGE_BYTES, (gpa) => written.push(gpa))).toBe(true);
    expect(written).toEqual([0x3000]);
    expect(tables.harvestDirty(0, 8 * PAGE_BYTES, (gpa) => written.push(gpa))).toBe(false);
    expect(tables.age(0, 8 * PAGE_BYTES)).toBe(2);
    expect(tables.age(0, 8 * PAGE_BYTES)).toBe(0);
  });

  // A map from pages to what they should be, and the tables after the same operations: the processor must see the map.
  it('agree with a flat map after any operations', () => {
    const SPAN = 2 * M2;
    const pages = SPAN / PAGE_BYTES;
    const range = fc.record({ first: fc.nat(pages - 1), count: fc.integer({ min: 1, max: 600 }) });
    const operation = fc.oneof(
      fc.record({
        kind: fc.constant('map' as const),
        page: fc.nat(pages - 1),
        to: fc.nat(2000),
        rights: fc.constantFrom(RIGHTS.ALL, RIGHTS.READ, RIGHTS.READ | RIGHTS.EXECUTE),
      }),
      fc.record({ kind: fc.constant('large' as const), which: fc.nat(1), to: fc.nat(7) }),
      fc.record({ kind: fc.constant('mark' as const), page: fc.nat(pages - 1) }),
      fc.record({ kind: fc.constantFrom('protect' as const, 'split' as const, 'zap' as const), range }),
      fc.record({ kind: fc.constant('collapse' as const), which: fc.nat(1) }),
    );
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 30 }), (operations) => {
        const { tables, ram, access } = bench(1 << 20);
        const model = new Map<number, { hpa: number; rights: number } | 'device'>();
        const forget = (first: number, count: number): void => {
          for (let n = first; n < first + count; n++) model.delete(n);
        };
        for (const op of operations) {
          switch (op.kind) {
            case 'map':
              tables.map(op.page * PAGE_BYTES, LEVEL.PAGE_4K, op.to * PAGE_BYTES, op.rights);
              model.set(op.page, { hpa: op.to * PAGE_BYTES, rights: op.rights });
              break;
            case 'large':
              tables.map(op.which * M2, LEVEL.PAGE_2M, op.to * M2, RIGHTS.ALL);
              for (let n = 0; n < 512; n++) model.set(op.which * 512 + n, { hpa: op.to * M2 + n * PAGE_BYTES, rights: RIGHTS.ALL });
              break;
            case 'mark':
              tables.markMmio(op.page * PAGE_BYTES);
              model.set(op.page, 'device');
              break;
            case 'collapse':
              // Only a table is dropped; a large page stays.
              if (tables.find(op.which * M2)?.level !== LEVEL.PAGE_2M && tables.collapse(op.which * M2, LEVEL.PAGE_2M)) forget(op.which * 512, 512);
              break;
            default: {
              const { first } = op.range;
              const count = Math.min(op.range.count, pages - first);
              const [gpa, bytes] = [first * PAGE_BYTES, count * PAGE_BYTES];
              tables.split(gpa, bytes);
              if (op.kind === 'zap') {
                tables.zap(gpa, bytes);
                forget(first, count);
              } else if (op.kind === 'protect') {
                tables.protect(gpa, bytes);
                for (let n = first; n < first + count; n++) {
                  const page = model.get(n);
                  if (page && page !== 'device') model.set(n, { ...page, rights: page.rights & ~RIGHTS.WRITE });
                }
              }
            }
          }
        }
        for (let n = 0; n < pages; n++) {
          const page = model.get(n);
          const [read, write] = [access(n * PAGE_BYTES + 9), access(n * PAGE_BYTES + 9, EPT_ACCESS.WRITE)];
          if (!page) expect([n, read]).toEqual([n, 'violation']);
          else if (page === 'device') expect([n, read]).toEqual([n, 'misconfiguration']);
          else expect([n, read, write]).toEqual([n, page.hpa + 9, page.rights & RIGHTS.WRITE ? page.hpa + 9 : 'violation']);
        }
        const [marks, small, large] = tables.census();
        expect(marks + small + 512 * large).toBe(model.size);
        tables.free();
        expect(tables.tables).toBe(0);
        expect(ram.kernelPages(200)).toBeGreaterThanOrEqual(0); // every page came back
      }),
      { numRuns: 60 },
    );
  });

  it.each([1, 2, 3] as LeafLevel[])('cover %i levels below with one entry', (level) => expect(bytesAt(level)).toBe(4096 * 512 ** (level - 1)));
});
