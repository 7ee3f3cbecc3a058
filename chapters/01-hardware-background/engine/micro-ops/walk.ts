// # Micro-operations: the ordinary page walk
//
// A TLB miss costs a program a walk, and a kernel makes misses all the time: it changes a page table and says so, it switches address spaces, it lets programs fault
// their memory in. `mmu/mmu.ts` has all the rules. These functions know the walk that finds its tables in RAM and its upper entries marked as accessed, which is
// nearly every one, and they make it without leaving WebAssembly. When anything is not as usual they decline, having changed nothing that a second walk
// from the beginning would not change in the same way. A test compares them with the MMU, and a trace, which wants to see each step, switches them off.

import { EPT_ACCESS, EPT_ENTRY } from '../../mmu/ept.ts';
import { ACCESS } from '../../mmu/mmu.ts';
import { ORDINARY, STAGE2, WALKED } from '../../mmu/ordinary-walk.ts';
import { ENTRY, FORMAT, NX_HIGH, PF, PHYSICAL_ADDRESS_BITS, PSE36_MASK, PSE36_SHIFT } from '../../mmu/paging.ts';
import { ACCOUNT, INFO, TLB } from '../../mmu/tlb.ts';
import { CR0, CR4, EFER, OFFSET } from '../../state.ts';
import { block, br, brIf, type Code, either, get, i32, i64, Label, type Local, loop, ret, select, set, when } from '../wasm-assembler.ts';
import { defineFunction } from './library.ts';
import { has, n32, n64, no, wide, yes } from './system.ts';

const { mask: P } = ENTRY;
const { mask: S } = EPT_ENTRY;
const { mask: E } = PF;
const TABLE_MASK = ~0xfff;
const HIGH_ADDRESS = 2 ** (PHYSICAL_ADDRESS_BITS - 32) - 1;
const NOWHERE = n64(-1);

/** The physical address in an entry of 8 bytes; `low`: its lower half without what is not address. */
const addressIn = (low: Code, high: Local): Code => i64.or(wide(low), i64.shl(wide(i32.and(get(high), n32(HIGH_ADDRESS))), n64(32)));
const below = (shift: Local): Code => i32.sub(i32.shl(n32(1), get(shift)), n32(1));
/** An index of a table, of the low bits in `mask`. */
const indexIn = (address: Local, shift: Local, mask: Code): Code => i32.and(i32.wrap_i64(i64.shr_u(get(address), wide(get(shift)))), mask);
/** Leaves the buffer offset of RAM in `at`; does `otherwise` where there is none. */
const inRam = (block: Local, address: Local, at: Local, otherwise: Code): Code => [
  when(i64.ge_u(get(address), i64.load(get(block), ORDINARY.RAM_BYTES)), otherwise),
  set(at, i32.add(i32.wrap_i64(get(address)), i32.load(get(block), ORDINARY.RAM_OFFSET))),
];

// ## The second stage
//
// (block, guest physical address, kind of access) -> host physical address, or -1. It sets no marks: an entry that lacks one is unusual.

const HIGH_RESERVED = ~HIGH_ADDRESS & 0xfffff;
const BAD_TYPES = (1 << 2) | (1 << 3) | (1 << 7);
const RWX = S.R | S.W | S.X;
/** In ORDINARY.ALLOWED, next to these three: nothing has to be marked before a write. */
const DIRTY = 8;

defineFunction('secondStage', ['i32', 'i64', 'i32'], ['i64'], (s, ...params) => {
  const [words, gpa, kind] = params as [Local, Local, Local];
  const [marks, shift, at, lo, hi, allowed, leaf] = Array.from({ length: 7 }, () => s.local('i32')) as Local[] as [
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
  ];
  const table = s.local('i64');
  const [again, found] = [new Label(), new Label()];
  const decline = ret(NOWHERE);
  const top = i32.eq(get(shift), n32(39));
  return [
    when(i64.ge_u(get(gpa), n64(2 ** 48)), decline),
    set(marks, i32.eq(i32.load(get(words), ORDINARY.STAGE2), n32(STAGE2.EPT_MARKS))),
    set(table, i64.load(get(words), ORDINARY.EPT_ROOT)),
    set(shift, n32(39)),
    set(allowed, n32(RWX)),
    block(found, [
      loop(again, [
        set(table, i64.add(get(table), wide(i32.shl(indexIn(gpa, shift, n32(0x1ff)), n32(3))))),
        inRam(words, table, at, decline),
        set(lo, i32.load(get(at))),
        set(hi, i32.load(get(at), 4)),
        set(leaf, i32.or(i32.eq(get(shift), n32(12)), i32.and(has(get(lo), S.PS), no(top)))),
        when(no(i32.and(get(lo), n32(RWX))), decline),
        when(i32.or(i32.eq(i32.and(get(lo), n32(S.R | S.W)), n32(S.W)), has(get(hi), HIGH_RESERVED)), decline),
        when(i32.and(get(marks), no(has(get(lo), S.A))), decline),
        set(allowed, i32.and(get(allowed), get(lo))),
        brIf(found, get(leaf)),
        when(i32.and(get(lo), select(n32(0xf8), n32(0x78), top)), decline),
        set(table, addressIn(i32.and(get(lo), n32(TABLE_MASK)), hi)),
        set(shift, i32.sub(get(shift), n32(9))),
        br(again),
      ]),
    ]),
    when(i32.and(i32.shr_u(n32(BAD_TYPES), i32.and(i32.shr_u(get(lo), n32(3)), n32(7))), n32(1)), decline),
    when(i32.and(get(lo), i32.and(below(shift), n32(TABLE_MASK))), decline),
    when(i32.and(get(kind), i32.xor(get(allowed), n32(-1))), decline),
    set(marks, i32.or(no(get(marks)), has(get(lo), S.D))), // from here on: whether the page is dirty already
    when(i32.and(has(get(kind), EPT_ACCESS.WRITE), no(get(marks))), decline),
    i32.store(get(words), i32.or(i32.and(get(allowed), n32(RWX)), select(n32(DIRTY), n32(0), get(marks))), ORDINARY.ALLOWED),
    i64.or(addressIn(i32.and(get(lo), i32.xor(below(shift), n32(-1))), hi), wide(i32.and(i32.wrap_i64(get(gpa)), below(shift)))),
  ];
});

// ## The walk
//
// (linear address, bytes, kind of access) -> one of WALKED, or a buffer offset: then the TLB has the page.

/** The entry of a linear address in a bank. */
export const entryOf = (bank: Code, linear: Local): Code =>
  i32.add(bank, i32.and(i32.wrap_i64(i64.shr_u(get(linear), n64(7))), n32((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES)));
const isWrite = (access: Local): Code => i32.and(i32.add(get(access), n32(1)), n32(2)); // of the four, the two in the middle

/** The number of the bit of an address in the account of large pages. */
export const unitOf = (linear: Local, unit: Local): Code => [
  set(unit, i32.wrap_i64(i64.shr_u(get(linear), n64(ACCOUNT.UNIT_SHIFT)))),
  set(unit, i32.and(i32.xor(get(unit), i32.shr_u(get(unit), n32(10))), n32(ACCOUNT.UNITS - 1))),
];
/** Notes where a large page has been, as `Tlb` does. Afterwards `shift` and `unit` are used up. */
export const noteLarge = (bank: Local, linear: Local, shift: Local, unit: Local): Code => [
  unitOf(linear, unit),
  i32.store(
    get(bank),
    i32.or(i32.load(get(bank), ACCOUNT.HAS_LARGE), select(n32(2), n32(1), i32.gt_u(get(shift), n32(ACCOUNT.UNIT_SHIFT)))),
    ACCOUNT.HAS_LARGE,
  ),
  set(shift, i32.add(get(bank), i32.shl(i32.shr_u(get(unit), n32(5)), n32(2)))),
  i32.store(get(shift), i32.or(i32.load(get(shift), ACCOUNT.LARGE), i32.shl(n32(1), i32.and(get(unit), n32(31)))), ACCOUNT.LARGE),
];

defineFunction('walk', ['i64', 'i32', 'i32'], ['i32'], (s, ...params) => {
  const [linear, bytes, access] = params as [Local, Local, Local];
  const names = ['words', 'bank', 'entry', 'user', 'write', 'cr4', 'shift', 'bits', 'wide8', 'at', 'lo', 'hi', 'rights', 'noExecute'] as const;
  const more = ['reserved', 'leaf', 'missing', 'readable', 'writable', 'executable', 'info', 'stage', 'allowed', 'scratch', 'device'] as const;
  const l = Object.fromEntries([...names, ...more].map((name) => [name, s.local('i32')])) as Record<(typeof names | typeof more)[number], Local>;
  const [page, table, address] = [s.local('i64'), s.local('i64'), s.local('i64')];
  const [again, found, translated] = [new Label(), new Label(), new Label()];
  const decline = ret(n32(WALKED.DECLINED));
  const fault = (code: number): Code => [
    when(i32.eq(get(access), n32(ACCESS.FETCH)), decline),
    i32.store(
      get(l.words),
      i32.or(n32(code), i32.or(select(n32(E.W), n32(0), get(l.write)), select(n32(E.U), n32(0), get(l.user)))),
      ORDINARY.FAULT_CODE,
    ),
    i64.store(get(l.words), get(linear), ORDINARY.FAULT_LINEAR),
    ret(n32(WALKED.FAULT)),
  ];
  /** `address` := host physical for guest physical. */
  const second = (kind: Code): Code =>
    when(get(l.stage), [
      when(i32.eq(get(l.stage), n32(STAGE2.FOREIGN)), decline),
      set(address, s.call('secondStage', get(l.words), get(address), kind)),
      when(i64.lt_s(get(address), n64(0)), decline),
    ]);
  const foundDevice = (hpa: Code): Code => [i64.store(get(l.words), hpa, ORDINARY.DEVICE), ret(n32(WALKED.DEVICE))];
  const marked = (hpa: Code): Code => i32.load8_u(i32.add(i32.load(get(l.words), ORDINARY.CODE_PAGES), i32.wrap_i64(i64.shr_u(hpa, n64(12)))));
  const efer = s.field32(OFFSET.EFER);
  const cr3 = i64.and(s.field(OFFSET.CR3), n64(TABLE_MASK));
  const pdpte = i32.add(get(l.words), i32.and(i32.wrap_i64(i64.shr_u(get(linear), n64(27))), n32(3 << 3)));
  const shape = (shift: number, eight: number, reserved: number, from: Code): Code => [
    set(l.shift, n32(shift)),
    set(l.bits, n32(eight ? 9 : 10)),
    set(l.wide8, n32(eight)),
    set(l.reserved, n32(reserved)),
    set(table, from),
  ];
  return [
    set(l.bank, s.field32(OFFSET.TLB)),
    set(page, i64.and(get(linear), n64(TABLE_MASK))),
    set(l.entry, entryOf(get(l.bank), linear)),
    set(l.write, isWrite(access)),
    // A store that misses because of code on the page walks no tables.
    when(
      i32.and(
        i64.eq(i64.load(get(l.entry), TLB.READ_TAG), get(page)),
        i32.and(yes(get(l.write)), has(i32.load(get(l.entry), TLB.INFO), INFO.MAY_WRITE)),
      ),
      ret(s.call('besideCode', get(linear), get(bytes))),
    ),
    set(l.words, s.field32(OFFSET.WALKER)),
    when(no(get(l.words)), decline),
    when(i32.eq(get(l.bank), i32.load(get(l.words), ORDINARY.EMPTY_BANK)), decline),
    when(i32.gt_u(i32.add(i32.and(i32.wrap_i64(get(linear)), n32(0xfff)), get(bytes)), n32(4096)), decline),
    // A device that a walk has found before.
    when(i32.ne(get(access), n32(ACCESS.FETCH)), [
      set(table, select(i64.load(get(l.entry), TLB.WRITE_TAG), i64.load(get(l.entry), TLB.READ_TAG), get(l.write))),
      when(i64.eq(get(table), i64.or(get(page), n64(TLB.DEVICE))), [
        set(address, i64.shl(wide(i32.load(get(l.entry), TLB.ADDEND)), n64(12))),
        foundDevice(i64.or(get(address), i64.and(get(linear), n64(0xfff)))),
      ]),
    ]),
    set(address, wide(s.field32(OFFSET.CANONICAL_SHIFT))),
    when(i64.ne(i64.shr_s(i64.shl(get(linear), get(address)), get(address)), get(linear)), decline),
    set(l.user, i32.eq(s.field32(OFFSET.CPL), n32(3))),
    set(l.stage, i32.load(get(l.words), ORDINARY.STAGE2)),
    set(l.info, n32(12 << INFO.SHIFT_AT)),
    set(l.shift, n32(12)),
    set(l.readable, n32(1)),
    set(l.writable, n32(1)),
    set(l.executable, n32(1)),
    set(address, i64.and(get(linear), n64(0xffffffff))),
    block(translated, [
      brIf(translated, no(has(s.field32(OFFSET.CR0), CR0.PG))),
      set(l.cr4, s.field32(OFFSET.CR4)),
      either(
        has(efer, EFER.LMA),
        [when(has(get(l.cr4), CR4.LA57), decline), shape(39, 1, FORMAT.level4.reservedHigh, cr3)],
        either(
          has(get(l.cr4), CR4.PAE),
          [
            set(l.lo, i32.load(pdpte, ORDINARY.PDPTES)),
            set(l.hi, i32.load(pdpte, ORDINARY.PDPTES + 4)),
            shape(21, 1, FORMAT.pae.reservedHigh, addressIn(i32.and(get(l.lo), n32(TABLE_MASK)), l.hi)),
          ],
          [set(l.lo, n32(P.P)), shape(22, 0, 0, cr3)],
        ),
      ),
      when(i32.and(no(has(efer, EFER.LMA)), no(has(get(l.lo), P.P))), fault(0)),
      when(no(has(efer, EFER.NXE)), set(l.reserved, i32.or(get(l.reserved), n32(NX_HIGH)))),
      set(l.rights, n32(P.RW | P.US)),
      block(found, [
        loop(again, [
          set(l.scratch, indexIn(linear, l.shift, i32.sub(i32.shl(n32(1), get(l.bits)), n32(1)))),
          set(address, i64.add(get(table), wide(i32.shl(get(l.scratch), i32.add(n32(2), get(l.wide8)))))),
          second(select(n32(EPT_ACCESS.READ | EPT_ACCESS.WRITE), n32(EPT_ACCESS.READ), i32.eq(get(l.stage), n32(STAGE2.EPT_MARKS)))),
          inRam(l.words, address, l.at, decline),
          set(l.lo, i32.load(get(l.at))),
          set(l.hi, n32(0)),
          when(get(l.wide8), set(l.hi, i32.load(get(l.at), 4))),
          when(no(has(get(l.lo), P.P)), fault(0)),
          set(
            l.leaf,
            i32.or(
              i32.eq(get(l.shift), n32(12)),
              i32.and(has(get(l.lo), P.PS), select(i32.ne(get(l.shift), n32(39)), has(get(l.cr4), CR4.PSE), get(l.wide8))),
            ),
          ),
          // What must be clear: in an entry that maps a page, address bits below its size (and above those that PSE-36 uses); in the topmost, PS.
          set(
            l.scratch,
            select(
              select(i32.and(below(l.shift), n32(~0x1fff)), select(n32(1 << 21), n32(0), i32.eq(get(l.shift), n32(22))), get(l.wide8)),
              select(n32(P.PS), n32(0), i32.eq(get(l.shift), n32(39))),
              get(l.leaf),
            ),
          ),
          when(i32.or(i32.and(get(l.lo), get(l.scratch)), i32.and(get(l.hi), get(l.reserved))), fault(E.P | E.RSVD)),
          set(l.rights, i32.and(get(l.rights), get(l.lo))),
          set(l.noExecute, i32.or(get(l.noExecute), get(l.hi))),
          brIf(found, get(l.leaf)),
          set(l.missing, i32.or(get(l.missing), i32.xor(get(l.lo), n32(-1)))),
          set(table, addressIn(i32.and(get(l.lo), n32(TABLE_MASK)), l.hi)),
          set(l.shift, i32.sub(get(l.shift), get(l.bits))),
          br(again),
        ]),
      ]),
      // The judgement. What EFLAGS.AC has to say about user pages is unusual.
      set(l.scratch, has(get(l.rights), P.US)),
      when(i32.and(no(get(l.user)), i32.and(get(l.scratch), has(get(l.cr4), CR4.SMAP))), decline),
      set(l.readable, i32.or(get(l.scratch), no(get(l.user)))),
      set(l.writable, i32.and(get(l.readable), i32.or(has(get(l.rights), P.RW), i32.and(no(get(l.user)), no(has(s.field32(OFFSET.CR0), CR0.WP)))))),
      set(l.executable, select(get(l.scratch), no(i32.and(get(l.scratch), has(get(l.cr4), CR4.SMEP))), get(l.user))),
      set(l.executable, i32.and(get(l.executable), i32.ge_s(get(l.noExecute), n32(0)))),
      set(l.scratch, select(get(l.writable), select(get(l.executable), get(l.readable), i32.eq(get(access), n32(ACCESS.FETCH))), get(l.write))),
      when(no(get(l.scratch)), fault(E.P)),
      // The marks.
      when(has(get(l.missing), P.A), decline),
      set(l.scratch, i32.or(get(l.lo), select(n32(P.A | P.D), n32(P.A), get(l.write)))),
      when(i32.ne(get(l.scratch), get(l.lo)), [
        when(i32.and(yes(get(l.stage)), no(has(i32.load(get(l.words), ORDINARY.ALLOWED), S.W))), decline),
        when(marked(get(address)), decline),
        i32.store(get(l.at), get(l.scratch)),
      ]),
      set(l.writable, i32.and(get(l.writable), has(get(l.scratch), P.D))),
      set(
        l.info,
        i32.or(i32.shl(get(l.shift), n32(INFO.SHIFT_AT)), select(n32(INFO.GLOBAL), n32(0), i32.and(has(get(l.lo), P.G), has(get(l.cr4), CR4.PGE)))),
      ),
      // Where the page is.
      set(address, addressIn(i32.and(get(l.lo), i32.xor(below(l.shift), n32(-1))), l.hi)),
      when(
        i32.eq(get(l.shift), n32(22)),
        set(address, i64.or(get(address), i64.shl(wide(i32.and(i32.shr_u(get(l.lo), n32(PSE36_SHIFT)), n32(PSE36_MASK))), n64(32)))),
      ),
      set(address, i64.or(get(address), wide(i32.and(i32.wrap_i64(get(linear)), below(l.shift))))),
    ]),
    set(l.allowed, n32(RWX | DIRTY)),
    when(get(l.stage), [
      second(
        select(n32(EPT_ACCESS.WRITE), select(n32(EPT_ACCESS.FETCH), n32(EPT_ACCESS.READ), i32.eq(get(access), n32(ACCESS.FETCH))), get(l.write)),
      ),
      set(l.allowed, i32.load(get(l.words), ORDINARY.ALLOWED)),
    ]),
    set(l.device, i64.ge_u(get(address), i64.load(get(l.words), ORDINARY.RAM_BYTES))),
    when(i32.and(get(l.device), i32.eq(get(access), n32(ACCESS.FETCH))), decline),
    set(l.scratch, n32(0)),
    when(no(get(l.device)), set(l.scratch, marked(get(address)))),
    when(i32.and(yes(get(l.write)), yes(get(l.scratch))), decline),
    // Remember it.
    set(l.readable, i32.and(get(l.readable), has(get(l.allowed), S.R))),
    set(l.writable, i32.and(get(l.writable), i32.eq(i32.and(get(l.allowed), n32(S.W | DIRTY)), n32(S.W | DIRTY)))),
    set(l.executable, i32.and(get(l.executable), has(get(l.allowed), S.X))),
    when(get(l.device), [set(page, i64.or(get(page), n64(TLB.DEVICE))), set(l.executable, n32(0))]),
    set(l.info, i32.or(get(l.info), select(n32(INFO.MAY_WRITE), n32(0), i32.and(get(l.writable), no(get(l.device)))))),
    i64.store(get(l.entry), select(get(page), NOWHERE, get(l.readable)), TLB.READ_TAG),
    i64.store(get(l.entry), select(get(page), NOWHERE, i32.and(get(l.writable), no(get(l.scratch)))), TLB.WRITE_TAG),
    i64.store(get(l.entry), select(get(page), NOWHERE, get(l.executable)), TLB.EXEC_TAG),
    set(l.at, i32.add(i32.wrap_i64(get(address)), i32.load(get(l.words), ORDINARY.RAM_OFFSET))),
    i32.store(
      get(l.entry),
      select(i32.wrap_i64(i64.shr_u(get(address), n64(12))), i32.sub(get(l.at), i32.wrap_i64(get(linear))), get(l.device)),
      TLB.ADDEND,
    ),
    i32.store(get(l.entry), get(l.info), TLB.INFO),
    set(l.lo, i32.load(get(l.bank), ACCOUNT.FILLED)),
    when(
      i32.lt_u(get(l.lo), n32(TLB.ENTRIES)),
      i32.store16(
        i32.add(get(l.bank), i32.shl(get(l.lo), n32(1))),
        i32.and(i32.wrap_i64(i64.shr_u(get(linear), n64(12))), n32(TLB.ENTRIES - 1)),
        ACCOUNT.LOG,
      ),
    ),
    i32.store(get(l.bank), i32.add(get(l.lo), n32(1)), ACCOUNT.FILLED),
    when(i32.gt_u(get(l.shift), n32(12)), noteLarge(l.bank, linear, l.shift, l.hi)),
    when(get(l.device), foundDevice(get(address))),
    get(l.at),
  ];
});
