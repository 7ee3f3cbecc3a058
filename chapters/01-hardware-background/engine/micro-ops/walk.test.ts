import { describe, expect, it } from 'vitest';
import { Cpu } from '../../cpu.ts';
import { Fault, VmExit } from '../../faults.ts';
import type { Intercepts } from '../../intercepts.ts';
import { EPT_ENTRY } from '../../mmu/ept.ts';
import { ACCESS } from '../../mmu/mmu.ts';
import { WALKED } from '../../mmu/ordinary-walk.ts';
import { ENTRY } from '../../mmu/paging.ts';
import { ACCOUNT, TLB } from '../../mmu/tlb.ts';
import { PhysicalMemory } from '../../physical-memory.ts';
import { CR0, CR4, EFER, FLAG, OFFSET, SLOT } from '../../state.ts';
import type { Trace } from '../../trace.ts';

// The ordinary walk is written twice: here as WebAssembly that declines what is not ordinary, and in the MMU. From the same tables and registers both must come to
// the same end: the same fault, the same marks in memory, the same entry in the TLB.

const SEEDS = 500;
const RAM = 1 << 20;
const TABLES = [0x10000, 0x11000, 0x12000, 0x13000] as const; // level 4 first
const EPT = [0x20000, 0x21000, 0x22000, 0x23000] as const;
const CODE_PAGE = 0x30000;
const { mask: P } = ENTRY;
const { mask: S } = EPT_ENTRY;

class Dice {
  #x: number;
  constructor(seed: number) {
    this.#x = Math.imul(seed, 2654435761) >>> 0 || 1;
  }
  below(n: number): number {
    this.#x = (Math.imul(this.#x, 1664525) + 1013904223) >>> 0;
    return Math.floor((this.#x / 2 ** 32) * n);
  }
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }
  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)] as T;
  }
}

type Format = 'none' | 'bits32' | 'pae' | 'level4';

class Bench {
  readonly memory = new PhysicalMemory({ ramBytes: RAM });
  readonly cpu = new Cpu({ memory: this.memory, translate: false });
  #linear = 0n;

  #set(at: number, bytes: number, value: bigint): void {
    if (bytes === 4) this.memory.view.setUint32(this.memory.offset(at), Number(value & 0xffffffffn), true);
    else this.memory.view.setBigUint64(this.memory.offset(at), BigInt.asUintN(64, value), true);
  }

  /** Tables for one address, control bits, and whose access it is. Returns the address. */
  prepare(dice: Dice, format: Format, second: boolean): bigint {
    const { state } = this.cpu;
    const set = (at: number, value: number): void => state.set64(at, BigInt(value >>> 0));
    const some = (bits: readonly number[], percent: number): number => bits.reduce((all, bit) => all | (dice.chance(percent) ? bit : 0), 0);
    set(OFFSET.CR0, CR0.PE | (format === 'none' ? 0 : CR0.PG) | some([CR0.WP], 50));
    const cr4 = some([CR4.PGE, CR4.PSE, CR4.SMEP], 50) | some([CR4.SMAP], 10) | (format === 'pae' || format === 'level4' ? CR4.PAE : 0);
    set(OFFSET.CR4, cr4);
    set(OFFSET.EFER, some([EFER.NXE], 60) | (format === 'level4' ? EFER.LMA | EFER.LME : 0));
    state.set32(OFFSET.CPL, dice.pick([0, 3]));
    state.set32(OFFSET.RFLAGS, FLAG.FIXED | some([FLAG.AC], 20));
    let linear = BigInt(dice.below(format === 'none' && dice.chance(70) ? RAM : 2 ** 32));
    if (format === 'level4') linear = BigInt.asUintN(64, BigInt.asIntN(48, (BigInt(dice.below(2 ** 16)) << 32n) | linear));
    this.#linear = linear;
    const shifts = { none: [], bits32: [22, 12], pae: [21, 12], level4: [39, 30, 21, 12] }[format];
    const bytes = format === 'bits32' ? 4 : 8;
    const width = bytes === 4 ? 0x3ffn : 0x1ffn;
    const tables = TABLES.slice(4 - shifts.length);
    set(OFFSET.CR3, tables[0] ?? 0);
    this.cpu.mmu.pdptes.fill(BigInt(TABLES[2] | (dice.chance(95) ? P.P : 0)));
    shifts.forEach((shift, n) => {
      const last = n === shifts.length - 1;
      const large = !last && dice.chance(shift === 39 ? 3 : 25);
      let target = last || large ? dice.pick([0x40000, 0x41000, 0x5f000, CODE_PAGE, 0x200000]) : (tables[n + 1] as number);
      if (large) target = dice.chance(70) ? Number(BigInt.asUintN(32, -(1n << BigInt(shift)))) & (dice.chance(80) ? 0 : -1) : target;
      let entry = BigInt(
        (target >>> 0) | some([P.RW, P.US, P.A, P.D], 75) | some([P.G, P.PWT], 30) | (dice.chance(96) ? P.P : 0) | (large ? P.PS : 0),
      );
      if (!last && dice.chance(90)) entry |= BigInt(P.A);
      if (bytes === 8 && dice.chance(10)) entry |= 1n << 63n;
      if (bytes === 8 && dice.chance(3)) entry |= 1n << BigInt(40 + dice.below(12));
      if (bytes === 8 && dice.chance(2)) entry |= 1n << BigInt(33 + dice.below(7)); // beyond RAM
      this.#set((tables[n] as number) + Number((linear >> BigInt(shift)) & width) * bytes, bytes, entry);
    });
    this.cpu.intercepts = second ? this.#secondStage(dice) : null;
    this.cpu.modeChanged();
    return linear;
  }

  /** 2 MiB, each page where it is, with small changes. */
  #secondStage(dice: Dice): Intercepts {
    const accessedDirty = dice.chance(50);
    const usual = S.R | S.W | S.X | (6 << 3) | S.A | S.D;
    EPT.slice(0, 3).forEach((table, n) => void this.#set(table, 8, BigInt(((EPT[n + 1] as number) | 7 | S.A) >>> 0)));
    for (let n = 0; n < 512; n++) {
      let entry = (n << 12) | usual;
      if (dice.chance(6)) entry &= ~dice.pick([S.R, S.W, S.X, S.A, S.D, 7]);
      if (dice.chance(1)) entry |= 2 << 3;
      this.#set(EPT[3] + 8 * n, 8, BigInt(entry));
    }
    if (dice.chance(10)) this.#set(EPT[2], 8, BigInt((dice.chance(50) ? 0x200000 : 0) | usual | S.PS));
    return { ept: { root: EPT[0], accessedDirty, executeOnly: true }, watchesWindows: false } as unknown as Intercepts;
  }

  save(): Uint8Array {
    return Uint8Array.from(this.memory.slice(0, 0x30000));
  }
  restore(saved: Uint8Array): void {
    this.memory.slice(0, 0x30000).set(saved);
    this.cpu.mmu.flush('test');
  }
  /** What the TLB has for the address, and in its accounts. */
  entry(): unknown {
    const { state } = this.cpu;
    const bank = state.get32(OFFSET.TLB);
    const at = bank + Number((this.#linear >> 12n) & BigInt(TLB.ENTRIES - 1)) * TLB.ENTRY_BYTES;
    const words = (from: number, count: number): number[] => Array.from(this.memory.i32.subarray(from >> 2, (from >> 2) + count));
    const [a, b, c, d, e, f] = words(at, 6);
    const filled = words(bank + ACCOUNT.FILLED, 1)[0];
    const isEmpty = [a, b, c, d, e, f].every((word) => word === -1);
    return {
      filled,
      entry: isEmpty ? 'empty' : words(at, 8),
      large: words(bank + ACCOUNT.HAS_LARGE, 1),
      units: words(bank + ACCOUNT.LARGE, ACCOUNT.UNITS / 32).join(),
    };
  }
  byMmu(linear: bigint, access: number): unknown {
    const user = this.cpu.cpl === 3;
    try {
      return access === ACCESS.FETCH ? this.cpu.mmu.fetch(linear, user) : this.cpu.mmu.translate(linear, 1, access, user);
    } catch (thrown) {
      if (thrown instanceof Fault || thrown instanceof VmExit) return thrown;
      throw thrown;
    }
  }
}

describe.each(['none', 'bits32', 'pae', 'level4'] as const)('the ordinary walk, %s', (format) => {
  it.each([false, true])('comes to what the MMU comes to; second stage: %s', (second) => {
    const bench = new Bench();
    const { cpu } = bench;
    cpu.mmu.protectCode(CODE_PAGE); // decoded once, and not any more: the walk does not know
    const seen = { declined: 0, faults: 0, devices: 0, found: 0 };
    for (let seed = 1; seed <= SEEDS; seed++) {
      const dice = new Dice(seed);
      const linear = bench.prepare(dice, format, second);
      const access = dice.pick([ACCESS.READ, ACCESS.WRITE, ACCESS.MODIFY, ACCESS.FETCH]);
      const before = bench.save();
      cpu.mmu.flush('test');
      const expected = bench.byMmu(linear, access);
      const ram = bench.save();
      const entry = bench.entry();
      bench.restore(before);
      const walked = cpu.engine.library.walk(linear, 1, access);
      const where = `seed ${seed}`;
      if (walked === WALKED.FAULT) {
        seen.faults++;
        expect(cpu.mmu.ordinaryFault(), where).toEqual(expected);
      } else if (walked === WALKED.DEVICE) {
        seen.devices++;
        expect(expected, where).toBe(-1);
      } else if (walked === WALKED.DECLINED) {
        seen.declined++;
        // Whatever it has marked, the MMU comes to the same end.
        expect(bench.byMmu(linear, access), where).toEqual(expected);
      } else {
        seen.found++;
        expect(walked, where).toBe(expected);
      }
      expect(Buffer.compare(bench.save(), ram), where).toBe(0);
      const now = bench.entry() as { entry: unknown[] };
      // A page of which the walk believes that it holds code has no write tag yet.
      if (walked > WALKED.DEVICE && JSON.stringify(now) !== JSON.stringify(entry)) {
        expect(walked - cpu.memory.ramOffset - (walked % 4096), where).toBe(CODE_PAGE);
        now.entry.splice(2, 2, ...(entry as typeof now).entry.slice(2, 4));
      }
      expect(now, where).toEqual(entry);
    }
    expect(seen.found).toBeGreaterThan(35);
    expect(seen.devices).toBeGreaterThan(second ? -1 : 3);
    expect(seen.faults).toBeGreaterThan(format === 'none' ? -1 : 30);
    expect(seen.declined).toBeLessThan(second ? 370 : 170);
  });
});

// ## Instructions

describe('INVLPG and MOV to CR3, with and without TypeScript', () => {
  const MiB = 1 << 20;
  const TRACE: Trace = { now: 0, emit: () => undefined } as unknown as Trace;
  /** A flat 32-bit machine: 4 MiB pages from 4 MiB on, 4 KiB pages below; every third page is global. */
  function machine(traced: boolean, code: readonly number[], pge: boolean): { cpu: Cpu; live: () => string[] } {
    const memory = new PhysicalMemory({ ramBytes: 16 * MiB });
    const cpu = new Cpu({ memory, translate: false });
    const { state } = cpu;
    for (let n = 0; n < 1024; n++)
      memory.view.setUint32(memory.offset(0x10000 + 4 * n), n === 0 ? 0x11003 : ((n & 3) << 22) | 0x83 | (n % 3 ? 0 : 0x100), true);
    for (let n = 0; n < 1024; n++) memory.view.setUint32(memory.offset(0x11000 + 4 * n), (n << 12) | 3 | (n % 3 ? 0 : 0x100), true);
    memory.slice(0x1000, code.length).set(code);
    state.setSegment(1, 8, 0, 0, 0xffffffff, 0xc09b);
    for (const seg of [0, 2, 3]) state.setSegment(seg, 16, 0, 0, 0xffffffff, 0xc093);
    state.set64(OFFSET.CR0, BigInt((CR0.PE | CR0.PG | CR0.WP) >>> 0));
    state.set64(OFFSET.CR3, 0x10000n);
    state.set64(OFFSET.CR4, BigInt(CR4.PSE | (pge ? CR4.PGE : 0)));
    for (const slot of [SLOT.RIP, SLOT.NEXT_RIP]) state.setSlotNumber(slot, 0x1000);
    Object.assign(cpu, { trace: traced ? TRACE : null });
    cpu.modeChanged();
    cpu.mmu.flush('test');
    const pages = [0, 0x1000, 0x3000, 0x4000, 5 * MiB, 7 * MiB, 9 * MiB, 12 * MiB, 0x40002000, 0x403ff000];
    for (const page of pages) for (const user of [false, true]) cpu.mmu.translate(BigInt(page), 1, ACCESS.READ, user && page < 0);
    const live = (): string[] => pages.filter((page) => cpu.mmu.tlb.lookup(0, page | 0, 0, TLB.READ_TAG) >= 0).map((page) => page.toString(16));
    return { cpu, live };
  }
  it.each([
    ['INVLPG of a small page', [0x0f, 0x01, 0x38], 0x3000, ['3000']],
    ['INVLPG of a global page', [0x0f, 0x01, 0x38], 0x3000, ['3000']],
    ['INVLPG of a page that is not there', [0x0f, 0x01, 0x38], 0x8000, []],
    ['INVLPG of a large page', [0x0f, 0x01, 0x38], 0x600000, ['500000', '700000']],
    ['INVLPG of another large page', [0x0f, 0x01, 0x38], 0x40005000, ['40002000', '403ff000']],
    ['MOV to CR3', [0x0f, 0x22, 0xd8], 0x10000, null],
  ] as const)('%s', (_name, code, eax, gone) => {
    for (const pge of [true, false]) {
      const [fast, slow] = [machine(false, code, pge), machine(true, code, pge)];
      const before = fast.live();
      expect(before.length).toBe(10);
      for (const { cpu } of [fast, slow]) {
        cpu.state.setSlotNumber(SLOT.RAX, eax);
        cpu.run(1);
        expect(cpu.state.slot32(SLOT.RIP)).toBe(0x1003);
      }
      expect(fast.live()).toEqual(slow.live());
      if (gone) expect(fast.live()).toEqual(before.filter((page) => !(gone as readonly string[]).includes(page)));
      else expect(fast.live().includes('3000')).toBe(pge);
      // Large pages that have stayed are still known to be large.
      for (const { cpu } of [fast, slow]) cpu.mmu.invalidate(0xc01000n);
      expect(fast.live()).toEqual(slow.live());
      expect(fast.live()).not.toContain('c00000');
    }
  });

  const KEEP = 1n << 63n;
  it.each([
    ['another context', 0x12005n, true],
    ['the same context', 0x10003n, true],
    ['another context, keeping', 0x12005n | KEEP, true],
    ['the same context, keeping', 0x10003n | KEEP, false],
    ['the same context elsewhere, keeping', 0x12003n | KEEP, false],
  ] as const)('MOV to CR3 with PCIDs: %s', (_name, value, forgets) => {
    for (const traced of [false, true]) {
      const { cpu } = machine(traced, [0x0f, 0x22, 0xd8], true);
      const { state, memory } = cpu;
      for (const at of [0x10000, 0x12000]) memory.view.setBigUint64(memory.offset(at), 0x13003n, true);
      memory.view.setBigUint64(memory.offset(0x13000), 0x83n, true); // a page of 1 GiB
      state.set64(OFFSET.EFER, BigInt(EFER.LMA | EFER.LME));
      state.set64(OFFSET.CR4, BigInt(CR4.PAE | CR4.PGE | CR4.PCIDE));
      state.set64(OFFSET.CR3, 0x10003n);
      state.setSegment(1, 8, 0, 0, 0xffffffff, 0xa09b);
      state.setSlot(SLOT.RAX, value);
      cpu.modeChanged();
      cpu.mmu.flush('test');
      cpu.mmu.translate(0x5000n, 1, ACCESS.READ, false);
      cpu.run(1);
      expect(state.slot32(SLOT.RIP)).toBe(0x1003);
      expect(state.get64(OFFSET.CR3)).toBe(value & ~KEEP);
      expect(cpu.mmu.tlb.lookup(0, 0x5000, 0, TLB.READ_TAG) < 0).toBe(forgets);
    }
  });

  it.each([0, 2, 3, 4])('MOV from CR%i', (n) => {
    const outcome = (traced: boolean): bigint => {
      const { cpu } = machine(traced, [0x0f, 0x20, 0xc0 | (n << 3)], true);
      cpu.state.set64(OFFSET.CR2, 0x1234n);
      cpu.state.setSlot(SLOT.RAX, 0xffff_ffff_ffff_ffffn);
      cpu.run(1);
      return cpu.state.slot(SLOT.RAX);
    };
    expect(outcome(false)).toBe(outcome(true));
    expect(outcome(false)).toBe([0x80010001n, 0n, 0x1234n, 0x10000n, 0x90n][n]);
  });
});

describe('a device beyond RAM', () => {
  it.each([
    ['MOV [EAX], BL', [0x88, 0x18], ['w1 200000 88']],
    ['MOV [EAX], BX', [0x66, 0x89, 0x18], ['w2 200000 7788']],
    ['MOV [EAX], EBX', [0x89, 0x18], ['w4 200000 55667788']],
    ['MOV EBX, [EAX]', [0x8b, 0x18], ['r4 200000']],
    ['ADD [EAX], BL', [0x00, 0x18], ['r1 200000', 'w1 200000 87']],
  ] as const)('%s', (_name, code, expected) => {
    for (const narrow of [false, true]) {
      const seen: string[] = [];
      const hex = (x: number | bigint): string => x.toString(16);
      const read = (at: number, bytes: number): number => {
        seen.push(`r${bytes} ${hex(at)}`);
        return 2 ** (8 * bytes) - 1;
      };
      const write = (at: number, bytes: number, value: number | bigint): void => void seen.push(`w${bytes} ${hex(at)} ${hex(value)}`);
      const devices = { read: (at: number, bytes: number) => BigInt(read(at, bytes)), write, ...(narrow && { read32: read, write32: write }) };
      const memory = new PhysicalMemory({ ramBytes: RAM });
      const cpu = new Cpu({ memory, translate: false, devices });
      const { state } = cpu;
      memory.slice(0x1000, code.length).set(code);
      state.setSegment(1, 8, 0, 0, 0xffffffff, 0xc09b);
      for (const seg of [0, 2, 3]) state.setSegment(seg, 16, 0, 0, 0xffffffff, 0xc093);
      state.set64(OFFSET.CR0, BigInt(CR0.PE));
      for (const slot of [SLOT.RIP, SLOT.NEXT_RIP]) state.setSlotNumber(slot, 0x1000);
      state.setSlotNumber(SLOT.RAX, 0x200000);
      state.setSlotNumber(SLOT.RBX, 0x55667788);
      cpu.modeChanged();
      cpu.run(1);
      expect(seen).toEqual(expected);
      if (code[0] === 0x8b) expect(state.slot(SLOT.RBX)).toBe(0xffffffffn);
    }
  });
});
