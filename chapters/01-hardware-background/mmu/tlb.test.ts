import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Cpu } from '../cpu.ts';
import { PhysicalMemory } from '../physical-memory.ts';
import { ACCOUNT, BANK, TLB, type Tlb } from './tlb.ts';

// The accounts behind a bank (which slots were filled, which of them the last flush has found to be global, where large pages are) are kept by two: by `Tlb` and by the
// interpreter's functions. The model has no accounts. It is a list of slots.

interface Entry {
  readonly lo: number;
  readonly hi: number;
  readonly shift: number;
  readonly global: boolean;
  readonly page: number;
  writable: boolean;
}

type Action =
  | { do: 'fill'; bank: number; lo: number; hi: number; shift: number; global: boolean; page: number }
  | { do: 'flush'; keep: boolean; by: 'tlb' | 'interpreter' }
  | { do: 'invalidate'; lo: number; hi: number }
  | { do: 'protect'; page: number };

const PAIR = BANK.SUPERVISOR;
const PAGES = [0x1000, 0x2000, 0x3000] as const;
const slotOf = (lo: number): number => (lo >>> 12) & (TLB.ENTRIES - 1);

class Model {
  readonly banks: [Map<number, Entry>, Map<number, Entry>] = [new Map(), new Map()];

  apply(action: Action): void {
    if (action.do === 'fill') {
      const { bank, lo, hi, shift, global, page } = action;
      this.banks[bank as 0 | 1].set(slotOf(lo), { lo, hi, shift, global, page, writable: true });
      return;
    }
    for (const bank of this.banks) {
      if (action.do === 'invalidate') bank.delete(slotOf(action.lo));
      for (const [slot, entry] of bank) {
        if (action.do === 'protect') entry.writable &&= entry.page !== action.page;
        else if (action.do === 'flush' ? !(action.keep && entry.global) : this.#together(entry, action)) bank.delete(slot);
      }
    }
  }
  #together(entry: Entry, { lo, hi }: { lo: number; hi: number }): boolean {
    return entry.shift > 12 && entry.hi === hi && entry.lo >>> entry.shift === lo >>> entry.shift;
  }
}

/** The same by the TLB itself. */
class Subject {
  readonly cpu = new Cpu({ memory: new PhysicalMemory({ ramBytes: 1 << 20 }), translate: false });
  readonly tlb: Tlb = this.cpu.mmu.tlb;

  apply(action: Action): void {
    const { tlb } = this;
    switch (action.do) {
      case 'fill': {
        const { bank, lo, hi, shift, global, page } = action;
        const t = { page, device: false, readable: true, writable: true, mayWrite: true, executable: true, global, shift };
        tlb.fill(PAIR + bank, lo, hi, t);
        return;
      }
      case 'flush':
        if (action.by === 'interpreter' && this.#logged) {
          const { forgetBank } = this.cpu.engine.library as unknown as { forgetBank(bank: number, keep: number): void };
          for (const bank of [PAIR, PAIR + 1]) forgetBank(tlb.offset(bank), Number(action.keep));
          return;
        }
        if (action.keep) tlb.flushNonGlobal(PAIR);
        else tlb.flushPair(PAIR);
        return;
      case 'invalidate':
        tlb.invalidate(PAIR, action.lo, action.hi);
        return;
      case 'protect':
        tlb.protect(action.page);
    }
  }
  // The interpreter's function asks for that; its caller sees to it.
  get #logged(): boolean {
    const { view } = this.cpu.memory;
    return [PAIR, PAIR + 1].every((bank) => view.getUint32(this.tlb.offset(bank) + ACCOUNT.FILLED, true) < TLB.ENTRIES);
  }

  /** What hits, and may be written. */
  seen(bank: number, { lo, hi }: { lo: number; hi: number }): string {
    const at = this.tlb.lookup(PAIR + bank, lo, hi, TLB.READ_TAG);
    if (at < 0) return 'nothing';
    return `${at - this.cpu.memory.ramOffset} ${this.tlb.lookup(PAIR + bank, lo, hi, TLB.WRITE_TAG) === at ? 'writable' : ''}`;
  }
}

// Few slots, so that entries meet; addresses that differ above the slot, and parts of the same large page.

const address = fc.record({
  lo: fc
    .tuple(fc.nat(5), fc.constantFrom(0, 0x8000, 0x400, 0x200), fc.constantFrom(0, 0x20000, 0x80000))
    .map(([n, middle, high]) => ((n | middle | high) << 12) >>> 0),
  hi: fc.constantFrom(0, -1),
});
const fill = fc
  .record({ bank: fc.nat(1), at: address, shift: fc.constantFrom(12, 12, 12, 21, 22, 30), global: fc.boolean(), page: fc.constantFrom(...PAGES) })
  .map(({ at, ...rest }): Action => ({ do: 'fill', ...at, lo: at.lo | 0, ...rest }));
const flush = fc.record({ keep: fc.boolean(), by: fc.constantFrom('tlb' as const, 'interpreter' as const) });
const action: fc.Arbitrary<Action> = fc.oneof(
  { weight: 8, arbitrary: fill },
  { weight: 4, arbitrary: flush.map(({ keep, by }): Action => ({ do: 'flush', keep, by })) },
  { weight: 2, arbitrary: address.map(({ lo, hi }): Action => ({ do: 'invalidate', lo: lo | 0, hi })) },
  { weight: 1, arbitrary: fc.constantFrom(...PAGES).map((page): Action => ({ do: 'protect', page })) },
);

function compare(actions: readonly Action[], subject = new Subject()): void {
  subject.tlb.flushPair(PAIR);
  const model = new Model();
  const asked = new Map<string, { lo: number; hi: number }>();
  for (const one of actions) {
    model.apply(one);
    subject.apply(one);
    if (one.do === 'fill' || one.do === 'invalidate') asked.set(`${one.lo} ${one.hi}`, one);
    for (const where of asked.values()) {
      model.banks.forEach((bank, n) => {
        const entry = bank.get(slotOf(where.lo));
        const expected = entry?.lo === where.lo && entry.hi === where.hi ? `${entry.page} ${entry.writable ? 'writable' : ''}` : 'nothing';
        expect(subject.seen(n, where), JSON.stringify(one)).toBe(expected);
      });
    }
  }
}

describe('the TLB', () => {
  it('remembers and forgets what a list of slots would, whoever flushes', () => {
    const subject = new Subject();
    fc.assert(
      fc.property(fc.array(action, { maxLength: 60 }), (actions) => compare(actions, subject)),
      { numRuns: 400, seed: 57 },
    );
  });

  it('looks again at a settled slot that something else was put into', () => {
    const at = { bank: 0, lo: 0x5000, hi: 0, shift: 12, page: 0x1000 };
    const flushBy = (by: 'tlb' | 'interpreter'): Action => ({ do: 'flush', keep: true, by });
    for (const first of ['tlb', 'interpreter'] as const) {
      for (const second of ['tlb', 'interpreter'] as const) {
        compare([{ do: 'fill', ...at, global: true }, flushBy(first), { do: 'fill', ...at, global: false, page: 0x2000 }, flushBy(second)]);
      }
    }
  });

  it('forgets when the log was too short, and the note of settled slots with it', () => {
    const many = Array.from({ length: TLB.ENTRIES + 1 }, (_, n): Action => {
      const global = n % 3 === 0;
      return { do: 'fill', bank: 0, lo: (0x1000 * (n % 40)) | 0, hi: 0, shift: 12, global, page: PAGES[n % 3] as number };
    });
    const [subject, model] = [new Subject(), new Model()];
    const both = (one: Action): void => {
      subject.apply(one);
      model.apply(one);
    };
    const same = (): void => {
      for (const n of [...Array(40).keys(), 0x430, 0x431]) {
        const entry = model.banks[0].get(n);
        expect(subject.seen(0, { lo: 0x1000 * n, hi: 0 }), String(n)).toBe(entry ? `${entry.page} ${entry.writable ? 'writable' : ''}` : 'nothing');
      }
    };
    both({ do: 'fill', bank: 0, lo: 0x7000, hi: 0, shift: 12, global: true, page: 0x1000 });
    both({ do: 'flush', keep: true, by: 'tlb' });
    // Two parts of a large page, and another part is invalidated later.
    for (const lo of [0x430000, 0x431000]) both({ do: 'fill', bank: 0, lo, hi: 0, shift: 22, global: true, page: 0x2000 });
    many.forEach(both);
    same();
    both({ do: 'flush', keep: true, by: 'tlb' });
    same();
    both({ do: 'invalidate', lo: 0x432000, hi: 0 });
    same();
    both({ do: 'fill', bank: 0, lo: 0x7000, hi: 0, shift: 12, global: false, page: 0x3000 });
    both({ do: 'flush', keep: true, by: 'interpreter' });
    same();
    both({ do: 'flush', keep: false, by: 'interpreter' });
    same();
  });
});
