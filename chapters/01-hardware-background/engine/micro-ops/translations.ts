// # Micro-operations: changes of translations
//
// The ordinary case of the instructions with which a kernel tells the processor about its page tables, and asks it about them. They are usual when the processor
// makes its walks without TypeScript (see `walk.ts`), no hypervisor wants to know, and what is to be forgotten can be found without a search.

import { ORDINARY } from '../../mmu/ordinary-walk.ts';
import { PHYSICAL_ADDRESS_BITS } from '../../mmu/paging.ts';
import { ACCOUNT, INFO, TLB } from '../../mmu/tlb.ts';
import { CR0, CR4, EFER, OFFSET, WATCH } from '../../state.ts';
import { brIf, type Code, get, i32, i64, Label, type Local, loop, select, set, when } from '../wasm-assembler.ts';
import { define, type Emitter, WORD } from './emitter.ts';
import { defineFunction } from './library.ts';
import { canonical, has, n32, n64, no, yes } from './system.ts';
import { entryOf, noteLarge, unitOf } from './walk.ts';

/** Ring 0, and nobody watches. */
const unwatched = (e: Emitter): Code =>
  i32.and(i32.and(i32.eqz(e.field32(OFFSET.CPL)), no(has(e.field32(OFFSET.WATCH), WATCH.TRACE | WATCH.TRANSLATIONS))), yes(e.field32(OFFSET.WALKER)));
/** Are both banks in use? */
const haveBanks = (e: Emitter): Code => {
  const empty = i32.load(e.field32(OFFSET.WALKER), ORDINARY.EMPTY_BANK);
  return i32.and(i32.ne(e.field32(OFFSET.BANK_SUPERVISOR), empty), i32.ne(e.field32(OFFSET.BANK_USER), empty));
};
const BANKS = [OFFSET.BANK_SUPERVISOR, OFFSET.BANK_USER] as const;
const KEEP = 1n << 63n;
const PCID = 0xfff;
const forgotten = (e: Emitter): Code => [e.setWord(WORD.FETCH_PAGE, n64(-1)), e.dispatch];

// ## One page

// @clause x86.tlb.invlpg-large-page
/** (bank, linear address) -> 1 when the page may be part of a large one, of which other parts have entries. */
defineFunction('mayBeLarge', ['i32', 'i64'], ['i32'], (s, ...params) => {
  const [bank, linear] = params as [Local, Local];
  const unit = s.local('i32');
  const word = i32.load(i32.add(get(bank), i32.shl(i32.shr_u(get(unit), n32(5)), n32(2))), ACCOUNT.LARGE);
  return [
    unitOf(linear, unit),
    i32.or(i32.gt_u(i32.load(get(bank), ACCOUNT.HAS_LARGE), n32(1)), i32.and(i32.shr_u(word, i32.and(get(unit), n32(31))), n32(1))),
  ];
});

// @clause x86.tlb.invalidation
/** INVLPG: a is a linear address. */
define('system.invlpg', (e) => {
  const [linear, at] = [e.local('i64'), e.local('i32')];
  const large = BANKS.map((bank) => e.call('mayBeLarge', e.field32(bank), get(linear))).reduce((x, y) => i32.or(x, y));
  return [
    set(linear, e.getUnsigned('a', 8)),
    when(i32.and(unwatched(e), canonical(e, linear)), [
      when(i32.and(haveBanks(e), no(large)), [
        BANKS.map((bank) => [
          set(at, entryOf(e.field32(bank), linear)),
          [TLB.READ_TAG, TLB.WRITE_TAG, TLB.EXEC_TAG].map((tag) => i64.store(get(at), n64(-1), tag)),
        ]),
        forgotten(e),
      ]),
    ]),
  ];
});

// ## All but the global ones

// @clause x86.tlb.global-survives-cr3
/** (bank, whether global pages stay): forgets the others. The log must be complete. */
defineFunction('forgetBank', ['i32', 'i32'], [], (s, ...params) => {
  const [bank, keep] = params as [Local, Local];
  const [n, count, kept, slot, entry, shift, unit] = Array.from({ length: 7 }, () => s.local('i32')) as Local[] as [
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
  ];
  const page = s.local('i64');
  const again = new Label();
  const inLog = (at: Local): Code => i32.add(get(bank), i32.shl(get(at), n32(1)));
  const info = i32.load(get(entry), TLB.INFO);
  const tag = (at: number): Code => i64.load(get(entry), at);
  return [
    when(i32.and(no(get(keep)), i32.load(get(bank), ACCOUNT.HAS_LARGE)), [
      Array.from({ length: ACCOUNT.UNITS / 64 }, (_, word) => i64.store(get(bank), n64(0), ACCOUNT.LARGE + 8 * word)),
      i32.store(get(bank), n32(0), ACCOUNT.HAS_LARGE),
    ]),
    set(count, i32.load(get(bank), ACCOUNT.FILLED)),
    set(kept, select(i32.load(get(bank), ACCOUNT.SETTLED), n32(0), get(keep))),
    set(n, get(kept)),
    when(i32.lt_u(get(n), get(count)), [
      loop(again, [
        set(slot, i32.load16_u(inLog(n), ACCOUNT.LOG)),
        set(entry, i32.add(get(bank), i32.mul(get(slot), n32(TLB.ENTRY_BYTES)))),
        set(page, select(tag(TLB.EXEC_TAG), tag(TLB.READ_TAG), i64.eq(tag(TLB.READ_TAG), n64(-1)))),
        when(i64.ne(get(page), n64(-1)), [
          when(i32.and(get(keep), has(info, INFO.GLOBAL)), [
            i32.store16(inLog(kept), get(slot), ACCOUNT.LOG),
            set(kept, i32.add(get(kept), n32(1))),
            set(shift, i32.shr_u(info, n32(INFO.SHIFT_AT))),
            when(i32.gt_u(get(shift), n32(12)), noteLarge(bank, page, shift, unit)),
          ]),
          when(
            no(i32.and(get(keep), has(info, INFO.GLOBAL))),
            [TLB.READ_TAG, TLB.WRITE_TAG, TLB.EXEC_TAG].map((at) => i64.store(get(entry), n64(-1), at)),
          ),
        ]),
        set(n, i32.add(get(n), n32(1))),
        brIf(again, i32.lt_u(get(n), get(count))),
      ]),
    ]),
    i32.store(get(bank), get(kept), ACCOUNT.FILLED),
    i32.store(get(bank), get(kept), ACCOUNT.SETTLED),
  ];
});

// @clause x86.pcid.load
/** MOV to CR3, from a register of `bytes`. PAE's loads four registers more, and is unusual. */
for (const bytes of [4, 8] as const) {
  define(`system.setCr3.${bytes}`, (e) => {
    const value = e.local('i64');
    const tagged = has(e.field32(OFFSET.CR4), CR4.PCIDE);
    const [kept, wanted] = [e.local('i32'), e.local('i32')];
    const long = has(e.field32(OFFSET.EFER), EFER.LMA);
    const pae = i32.and(has(e.field32(OFFSET.CR4), CR4.PAE), has(e.field32(OFFSET.CR0), CR0.PG));
    const fits = i64.eqz(i64.shr_u(get(value), select(n64(PHYSICAL_ADDRESS_BITS), n64(32), long)));
    const logged = BANKS.map((bank) => i32.lt_u(i32.load(e.field32(bank), ACCOUNT.FILLED), n32(TLB.ENTRIES))).reduce((x, y) => i32.and(x, y));
    return [
      set(value, e.getUnsigned('a', bytes)),
      // With PCIDs, bit 63 says that what is known of the new context may be kept. It is, if it is the present one.
      set(wanted, i32.and(tagged, i64.lt_s(get(value), n64(0)))),
      when(get(wanted), set(value, i64.and(get(value), n64(KEEP - 1n)))),
      set(kept, i32.and(get(wanted), i64.eqz(i64.and(i64.xor(get(value), e.field(OFFSET.CR3)), n64(PCID))))),
      when(i32.and(unwatched(e), i32.and(fits, i32.or(long, no(pae)))), [
        when(get(kept), [e.setField(OFFSET.CR3, get(value)), e.dispatch]),
        when(i32.and(haveBanks(e), logged), [
          e.setField(OFFSET.CR3, get(value)),
          BANKS.map((bank) => e.call('forgetBank', e.field32(bank), has(e.field32(OFFSET.CR4), CR4.PGE))),
          forgotten(e),
        ]),
      ]),
    ];
  });
}

/** MOV from CR0, CR2, CR3 or CR4 (imm: at this offset) to a register of `bytes`. */
for (const bytes of [4, 8] as const) {
  define(`system.getCr.${bytes}`, (e) => {
    const ours = [OFFSET.CR0, OFFSET.CR2, OFFSET.CR3, OFFSET.CR4].map((at) => select(e.field(at), n64(0), i64.eq(e.imm, n64(at))));
    const hidden = i32.and(i64.ne(e.imm, n64(OFFSET.CR2)), has(e.field32(OFFSET.WATCH), WATCH.HYPERVISOR));
    return when(i32.and(i32.eqz(e.field32(OFFSET.CPL)), no(i32.or(hidden, has(e.field32(OFFSET.WATCH), WATCH.TRACE)))), [
      e.set(
        'd',
        bytes,
        ours.reduce((x, y) => i64.or(x, y)),
      ),
      e.dispatch,
    ]);
  });
}
