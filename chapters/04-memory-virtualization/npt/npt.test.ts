import { describe, expect, it } from 'vitest';
import { Fault, VmExit } from '../../01-hardware-background/faults.ts';
import type { EptContext } from '../../01-hardware-background/intercepts.ts';
import { EptWalker, type SecondStage } from '../../01-hardware-background/mmu/ept.ts';
import { ACCESS, Mmu, type MmuHost, PRIVILEGE } from '../../01-hardware-background/mmu/mmu.ts';
import { PhysicalMemory } from '../../01-hardware-background/physical-memory.ts';
import { CpuState, CR0, CR4, EFER, OFFSET } from '../../01-hardware-background/state.ts';
import { NO_DEVICES } from '../../01-hardware-background/system/surroundings.ts';
import { Recorder } from '../../01-hardware-background/trace.ts';
import { Random } from '../random.ts';
import { EXIT_NPF, NestedTables, NPF, NptWalker } from './npt.ts';

const GUEST_FRAMES = 64; // guest physical memory, one 4 KiB page each
const LINEAR = 0x40_0000n;

/** An MMU in long mode over one of the second stages. Guest frame n lies at host frame 512 + n, unless `map` says otherwise. */
class Laboratory {
  readonly memory = new PhysicalMemory({ ramBytes: 4 << 20, privateBytes: 4 << 20 });
  readonly trace = new Recorder();
  readonly state = new CpuState(this.memory);
  readonly mmu: Mmu;
  readonly context: EptContext;
  readonly npt: NestedTables | null;
  #next = 0x10_0000;
  readonly #page = (): number => {
    this.#next += 4096;
    return this.#next;
  };
  readonly #ept: number;

  constructor(kind: 'ept' | 'npt') {
    this.npt = kind === 'npt' ? new NestedTables(this.memory, this.#page) : null;
    this.#ept = this.npt ? -1 : this.#page();
    this.context = { root: this.npt?.root ?? this.#ept, accessedDirty: true, executeOnly: true };
    const { state, memory, trace, context } = this;
    const host: MmuHost = {
      memory,
      state,
      trace,
      bus: NO_DEVICES,
      ept: () => context,
      holdsCode: () => false,
      codeWritten() {},
      mappingsChanged() {},
    };
    const stage: SecondStage = kind === 'npt' ? new NptWalker(memory, trace) : new EptWalker(memory, trace);
    this.mmu = new Mmu(host, stage);
    state.set64(OFFSET.CR0, BigInt(CR0.PE | CR0.WP) | BigInt(CR0.PG));
    state.set64(OFFSET.CR4, BigInt(CR4.PAE));
    state.set64(OFFSET.EFER, BigInt(EFER.LME | EFER.LMA | EFER.NXE));
    this.mmu.selectBank(false, true, false);
  }

  hostOf(gpa: number): number {
    return 0x20_0000 + gpa;
  }
  map(gpa: number, write: boolean, execute: boolean): void {
    const hpa = this.hostOf(gpa);
    if (this.npt) {
      this.npt.map(gpa, hpa, { write, execute });
      return;
    }
    const { view } = this.memory;
    let table = this.#ept;
    for (const shift of [39, 30, 21]) {
      const at = this.memory.offset(table + 8 * (Math.floor(gpa / 2 ** shift) & 511), 8);
      if (view.getUint32(at, true) === 0) view.setUint32(at, this.#page() + 7, true);
      table = view.getUint32(at, true) & ~0xfff;
    }
    view.setUint32(this.memory.offset(table + 8 * ((gpa >> 12) & 511), 8), hpa | 1 | (write ? 2 : 0) | (execute ? 4 : 0) | (6 << 3), true);
  }
  /** An entry of the guest's tables. */
  poke(gpa: number, low: number, high = 0): void {
    const at = this.memory.offset(this.hostOf(gpa), 8);
    this.memory.view.setUint32(at, low, true);
    this.memory.view.setUint32(at + 4, high, true);
  }
  peek(gpa: number): number {
    return this.memory.view.getUint32(this.memory.offset(this.hostOf(gpa), 8), true);
  }
  /** Four levels at guest frames 0 to 3, mapping LINEAR to guest frame 4 with `low`. */
  guestTables(low: number): void {
    this.state.set64(OFFSET.CR3, 0n);
    this.poke(0, 0x1007);
    this.poke(0x1000, 0x2007);
    this.poke(0x2000 + 8 * 2, 0x3007);
    this.poke(0x3000, 0x4000 | low);
  }
  access(kind: number, privilege: number, linear = LINEAR): string {
    this.mmu.flush();
    try {
      return `0x${(this.mmu.physical(linear, kind, privilege) - 0x20_0000).toString(16)}`;
    } catch (error) {
      if (error instanceof Fault) return `#PF ${error.errorCode}`;
      if (error instanceof VmExit) return `exit at 0x${error.details.guestPhysicalAddress?.toString(16)}`;
      throw error;
    }
  }
  exit(kind: number, privilege: number): VmExit {
    this.mmu.flush();
    try {
      this.mmu.physical(LINEAR, kind, privilege);
    } catch (error) {
      if (error instanceof VmExit) return error;
      throw error;
    }
    throw new Error('no exit');
  }
}

const mapAll = (lab: Laboratory, except: readonly number[] = []): void => {
  for (let n = 0; n < GUEST_FRAMES; n++) if (!except.includes(n)) lab.map(n * 4096, true, true);
};

describe('nested paging', () => {
  it('costs the same 24 references as EPT', () => {
    for (const kind of ['ept', 'npt'] as const) {
      const lab = new Laboratory(kind);
      mapAll(lab);
      lab.guestTables(7);
      expect(lab.access(ACCESS.READ, PRIVILEGE.USER)).toBe('0x4000');
      expect(lab.trace.of('walk').length).toBe(24);
    }
  });

  it("says whether the guest's page or a table was missing", () => {
    const lab = new Laboratory('npt');
    mapAll(lab, [2, 4]);
    lab.guestTables(7);
    const table = lab.exit(ACCESS.READ, PRIVILEGE.SUPERVISOR);
    expect(table.reason).toBe(EXIT_NPF);
    expect(table.details.guestPhysicalAddress).toBe(0x2010);
    expect(table.qualification).toBe(NPF.TABLE | 6n); // a user write, not present
    lab.map(0x2000, true, true);
    const page = lab.exit(ACCESS.FETCH, PRIVILEGE.SUPERVISOR);
    expect(page.qualification).toBe(NPF.FINAL | 0x14n); // a user fetch, not present
    expect(page.details.guestPhysicalAddress).toBe(0x4000);
  });

  it('counts a walk through a write-protected table as a write, even for a read', () => {
    const lab = new Laboratory('npt');
    mapAll(lab);
    lab.map(0x3000, false, true);
    lab.guestTables(0x67); // accessed and dirty: nothing would be written
    expect(lab.exit(ACCESS.READ, PRIVILEGE.USER).qualification).toBe(NPF.TABLE | 7n);
  });

  it('requires the user bit and reports reserved bits', () => {
    const lab = new Laboratory('npt');
    mapAll(lab);
    lab.guestTables(7);
    lab.npt?.poke(0x4000, 1, lab.hostOf(0x4000) + 3, 0);
    expect(lab.exit(ACCESS.READ, PRIVILEGE.SUPERVISOR).qualification).toBe(NPF.FINAL | 5n);
    lab.npt?.poke(0x4000, 1, lab.hostOf(0x4000) + 7, 1 << 19);
    expect(lab.exit(ACCESS.WRITE, PRIVILEGE.SUPERVISOR).qualification).toBe(NPF.FINAL | 0xfn);
  });

  it('sets accessed and dirty bits, and maps 2 MiB and 1 GiB pages', () => {
    const lab = new Laboratory('npt');
    lab.npt?.map(0, 0x20_0000, { write: true, execute: false }, 2);
    lab.guestTables(7);
    expect(lab.access(ACCESS.WRITE, PRIVILEGE.USER)).toBe('0x4000');
    expect(lab.exit(ACCESS.FETCH, PRIVILEGE.USER).qualification).toBe(NPF.FINAL | 0x15n);
    const big = new Laboratory('npt');
    big.npt?.map(0, 0, { write: true, execute: true }, 3);
    const walker = new NptWalker(big.memory);
    expect(walker.find(big.context, 0x12_3456, { kind: 1, origin: 0x100, linear: null })).toBe(0x12_3456);
    expect(walker.shift).toBe(30);
    expect(walker.dirty).toBe(false);
    walker.find(big.context, 0x12_3456, { kind: 2, origin: 0x100, linear: null });
    expect(walker.dirty).toBe(true);
  });

  it('marks tables above 2 GiB', () => {
    const HIGH = 2.25 * 2 ** 30;
    const memory = new PhysicalMemory({ ramBytes: 2.5 * 2 ** 30, privateBytes: 1 << 16 });
    let next = HIGH;
    const tables = new NestedTables(memory, () => {
      next += 4096;
      return next;
    });
    tables.map(0, HIGH, { write: true, execute: true });
    const context: EptContext = { root: tables.root, accessedDirty: true, executeOnly: true };
    const walker = new NptWalker(memory);
    for (const dirty of [false, true]) {
      expect(walker.find(context, 0x123, { kind: dirty ? 2 : 1, origin: 0x100, linear: null })).toBe(HIGH + 0x123);
      expect(walker.dirty).toBe(dirty);
    }
  });

  it('gives a guest what EPT gives it, whatever both tables say', () => {
    const random = new Random(5);
    for (let round = 0; round < 100; round++) {
      const labs = [new Laboratory('ept'), new Laboratory('npt')] as const;
      const frames = Array.from({ length: 8 }, () => ({ there: random.chance(0.9), write: random.chance(0.85), execute: random.chance(0.8) }));
      const entries = Array.from(
        { length: 16 },
        () =>
          [
            random.chance(0.9) ? (random.below(8) << 12) | (random.next() & 0x67) | (random.chance(0.9) ? 1 : 0) : 0,
            random.chance(0.15) ? 0x80000000 : random.chance(0.05) ? 0x100 : 0,
          ] as const,
      );
      for (const lab of labs) {
        frames.forEach(({ there, write, execute }, n) => {
          if (there) lab.map(n * 4096, write, execute);
        });
        lab.guestTables(7);
        entries.forEach(([low, high], n) => {
          lab.poke((n >> 2) * 4096 + 8 * (n & 3), low, high);
        });
      }
      for (let n = 0; n < 12; n++) {
        const kind = random.pick([ACCESS.READ, ACCESS.WRITE, ACCESS.MODIFY, ACCESS.FETCH]);
        const privilege = random.pick([PRIVILEGE.USER, PRIVILEGE.SUPERVISOR]);
        const linear =
          (BigInt(random.below(4)) << 39n) | (BigInt(random.below(4)) << 30n) | (BigInt(random.below(4)) << 21n) | (BigInt(random.below(4)) << 12n);
        const [ept, npt] = labs.map((lab) => lab.access(kind, privilege, linear));
        expect(npt, `round ${round}`).toBe(ept);
      }
      for (let gpa = 0; gpa < 0x4000; gpa += 8) expect(labs[1].peek(gpa)).toBe(labs[0].peek(gpa));
    }
  });
});
