import { describe, expect, it } from 'vitest';
import { EPT_QUALIFICATION } from '../01-hardware-background/mmu/ept.ts';
import { Recorder } from '../01-hardware-background/trace.ts';
import { IOCTL } from '../02-kvm-objects/abi/ioctls.ts';
import { Kvm } from '../02-kvm-objects/kvm.ts';
import { LEVEL } from './kernel/ept-tables.ts';
import { type MemoryMethod, memoryKernel } from './kernel/index.ts';
import { comparison, GUESTS, recordWalk, references, SECOND_STAGES, WalkCounter, type WalkTotals } from './walks.ts';

describe('references of a walk', () => {
  // Levels of the guest's tables that are read from memory, and of the second stage's.
  const guestLevels = { '4-level, 4K': 4, '4-level, 2M': 3, '4-level, 1G': 2, 'PAE, 4K': 2, 'PAE, 2M': 1, '32-bit, 4K': 2, '32-bit, 4M': 1 };
  const stageLevels = { none: 0, '4K': 4, '2M': 3, '1G': 2 };
  it('are (g + 1)(e + 1) - 1, for every pair of page sizes', () => {
    const expected = Object.values(guestLevels).map((g) => Object.values(stageLevels).map((e) => (g + 1) * (e + 1) - 1));
    expect(GUESTS.map(([guest, page]) => `${guest}, ${page}`)).toEqual(Object.keys(guestLevels));
    expect(SECOND_STAGES.map((size) => size ?? 'none')).toEqual(Object.keys(stageLevels));
    expect(comparison()).toEqual(expected);
  });
  it('are the numbers that everybody quotes', () => {
    expect(references()).toBe(4);
    expect(references({ nested: '4K' })).toBe(24);
    expect(references({ nested: '2M' })).toBe(19);
    expect(references({ page: '2M', nested: '2M' })).toBe(15);
    expect(references({ page: '1G', nested: '1G' })).toBe(8);
  });
});

describe('a recorded walk', () => {
  it('without a second stage follows the tables from the top', () => {
    const walk = recordWalk();
    expect(walk.result).toEqual({ kind: 'translated', hpa: walk.gpa });
    expect(walk.references.map(({ structure }) => structure)).toEqual(['PML4', 'directory pointers', 'directory', 'table']);
    expect(walk.references.map(({ bits }) => bits)).toEqual([
      [47, 39],
      [38, 30],
      [29, 21],
      [20, 12],
    ]);
    for (const [n, { target, leaf }] of walk.references.entries()) {
      const next = walk.references[n + 1];
      expect(leaf).toBe(!next);
      if (next) expect(next.entry - (next.entry % 4096)).toBe(target);
      else expect(target).toBe(walk.gpa - (walk.gpa % 4096));
    }
  });

  it('with one finds each entry of the guest by a walk of its own', () => {
    const { references: all, result, gpa } = recordWalk({ nested: '4K' });
    expect(result).toEqual({ kind: 'translated', hpa: gpa + 0x200000 });
    const mine = all.filter(({ stage }) => stage === 1);
    expect(mine.map(({ n }) => n)).toEqual([5, 10, 15, 20]);
    for (const { n, entry } of mine) {
      const group = all.filter(({ stage, serves }) => stage === 2 && serves === n);
      expect(group.map(({ level }) => level)).toEqual([4, 3, 2, 1]);
      for (const { translates } of group) expect(translates).toBe(BigInt(entry));
      expect(group[3]?.leaf).toBe(true);
      expect((group[3]?.target ?? 0) - 0x200000).toBe(entry - (entry % 4096));
    }
    const last = all.filter(({ serves }) => serves === null);
    expect(last).toHaveLength(4);
    for (const { translates } of last) expect(translates).toBe(BigInt(gpa));
  });

  it('with PAE reads its first level from a register', () => {
    const { references: all } = recordWalk({ guest: 'PAE', nested: '2M' });
    expect(all[0]).toMatchObject({ stage: 1, register: true, structure: 'directory pointers', bits: [31, 30], index: 2 });
    expect(all.filter(({ register }) => register)).toHaveLength(1);
  });

  it('stops where a present bit is cleared, in either stage', () => {
    const whole = recordWalk({ nested: '4K' }).references;
    for (const { n, stage, entry } of whole) {
      const { references: cut, result } = recordWalk({ nested: '4K', edits: [{ reference: n, clear: 7n }] });
      // A table of the second stage may be used for several addresses: the first use is where it stops.
      const first = whole.find((other) => other.stage === stage && other.entry === entry)?.n ?? 0;
      expect(cut).toHaveLength(first);
      if (stage === 1) expect(result).toEqual({ kind: 'fault', errorCode: 0 });
      else expect(result).toMatchObject({ kind: 'exit', reason: 'EPT_VIOLATION', gpa: Number(cut.at(-1)?.translates) });
    }
  });

  it('says what is wrong with it', () => {
    const write = recordWalk({ access: 'write', edits: [{ reference: 4, clear: 2n }] });
    expect(write.result).toEqual({ kind: 'fault', errorCode: 3 });
    expect(recordWalk({ access: 'fetch', edits: [{ reference: 4, set: 1n << 63n }] }).result).toEqual({ kind: 'fault', errorCode: 0x11 });
    expect(recordWalk({ privilege: 'user', edits: [{ reference: 2, clear: 4n }] }).result).toEqual({ kind: 'fault', errorCode: 5 });
    expect(recordWalk({ edits: [{ reference: 1, set: 0x80n }] }).result).toEqual({ kind: 'fault', errorCode: 9 });
    const misconfigured = recordWalk({ nested: '4K', edits: [{ reference: 24, clear: 1n }] });
    expect(misconfigured.result).toMatchObject({ kind: 'exit', reason: 'EPT_MISCONFIG' });
    // With accessed and dirty bits, to read an entry of the guest's counts as a write.
    const table = recordWalk({ nested: '4K', edits: [{ reference: 9, clear: 2n }] });
    expect(table.references).toHaveLength(9);
    const { mask } = EPT_QUALIFICATION;
    expect(Number(table.result.kind === 'exit' && table.result.qualification)).toBe(
      mask.READ | mask.WRITE | mask.READABLE | mask.EXECUTABLE | mask.LINEAR_VALID,
    );
  });

  it('refuses what does not exist', () => {
    expect(() => recordWalk({ guest: '32-bit', page: '1G' })).toThrow(RangeError);
    expect(() => recordWalk({ edits: [{ reference: 5 }] })).toThrow(RangeError);
  });
});

describe('walks in a run', () => {
  const PAGES = 64;
  /** A 64-bit guest that reads one byte in each of 64 pages; identity tables, in pages of 4 KiB for the data. */
  function run(memory: MemoryMethod, largest: 1 | 2 | 3 = LEVEL.PAGE_1G) {
    const trace = new Recorder({ only: ['walk', 'tlb_fill', 'kvm_exit', 'exception'] });
    const kernel = memoryKernel({ ramBytes: 16 << 20, memory, largest, trace });
    const kvm = Kvm.open(kernel);
    const vm = kvm.createVm();
    const ram = kvm.allocate(4 << 20);
    vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: 4 << 20, userspace_addr: ram.hva });
    const view = new DataView(ram.bytes.buffer, ram.bytes.byteOffset);
    const entry = (at: number, value: number): void => view.setBigUint64(at, BigInt(value) | 0x23n, true);
    entry(0x10000, 0x11000);
    entry(0x11000, 0x12000);
    entry(0x12000, 0x13000);
    entry(0x12008, 0x14000);
    for (let n = 0; n < 512; n++) {
      entry(0x13000 + 8 * n, n * 4096);
      entry(0x14000 + 8 * n, (512 + n) * 4096);
    }
    // Pages that do not share a place in the TLB with the code's.
    const start = 0x210000;
    // mov edi, start; l: mov al, [rdi]; add edi, 4096; cmp edi, end; jb l; hlt
    const end = start + PAGES * 4096;
    const word = (n: number): number[] => [n & 0xff, (n >> 8) & 0xff, (n >> 16) & 0xff, n >>> 24];
    ram.bytes.set([0xbf, ...word(start), 0x8a, 0x07, 0x81, 0xc7, 0, 0x10, 0, 0, 0x81, 0xff, ...word(end), 0x72, 0xf0, 0xf4], 0x1000);
    const vcpu = vm.createVcpu(0);
    const s = vcpu.getSregs();
    const flat = { ...s.ds, base: 0n, limit: 0xffffffff, g: 1, db: 1, l: 0, selector: 16, type: 3, s: 1, present: 1, unusable: 0 };
    const cs = { ...flat, type: 0xb, selector: 8, db: 0, l: 1 };
    vcpu.setSregs({ ...s, cr0: 0x80000031n, cr3: 0x10000n, cr4: 0x20n, efer: 0x500n, cs, ds: flat, es: flat, ss: flat });
    const go = (): WalkTotals & { exits: number } => {
      vcpu.setRegs({ rip: 0x1000n, rsp: 0x800n, rflags: 2n });
      // A new value of CR3 leaves no translation standing, under either method.
      vcpu.setSregs(vcpu.getSregs());
      trace.events.length = 0;
      expect(kernel.ioctl(vcpu.fd, IOCTL.KVM_RUN, 0)).toBe(0);
      expect(vcpu.page.exitReason).toBe(5);
      const counter = new WalkCounter();
      for (const event of trace.events) counter.see(event);
      return { ...counter.totals, exits: trace.of('kvm_exit').length };
    };
    go(); // the first time everything faults
    return go();
  }

  it('cost 24 references with two stages of small pages, less with large ones, and 4 on shadow tables', () => {
    const small = run('ept', LEVEL.PAGE_4K);
    expect(small).toMatchObject({ walks: PAGES + 1, filled: PAGES + 1, stage1: 4 * (PAGES + 1), stage2: 20 * (PAGES + 1), exits: 1 });
    const large = run('ept', LEVEL.PAGE_2M);
    expect(large).toMatchObject({ walks: PAGES + 1, stage1: 4 * (PAGES + 1), stage2: 15 * (PAGES + 1), exits: 1 });
    const shadow = run('shadow');
    expect(shadow).toMatchObject({ walks: PAGES + 1, filled: PAGES + 1, stage1: 4 * (PAGES + 1), stage2: 0, exits: 1 });
  });
});
