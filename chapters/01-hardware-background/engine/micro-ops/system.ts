// # Micro-operations: the ordinary case of a system instruction
//
// An interrupt reads a gate, a descriptor, the TSS, perhaps another descriptor, and judges each of them. All that is TypeScript, in the folder
// `system`, with every rule in its place. But a program that makes system calls does the same thing a million times, finds everything as it was,
// and comes out the same way: from ring 3 to a flat segment in ring 0, or back. These functions know that case and no other. They look at
// everything that the rules look at, and when anything is not as usual -- a table entry that the TLB does not have at hand, a conforming segment, a
// trap flag, a hypervisor that wants to know -- they decline before they have changed anything, and the instruction is TypeScript's. A test runs
// both ways from the same states and compares.

import { TLB } from '../../mmu/tlb.ts';
import { AR, FLAG, MODE, OFFSET, SEG, SEGMENT_BYTES, SLOT, WATCH } from '../../state.ts';
import { AF_BIT, PF_DELTA, SF_DELTA } from '../flags.ts';
import { type Code, either, get, i32, i64, type Local, ret, select, set, when } from '../wasm-assembler.ts';
import { define, type Emitter, WORD } from './emitter.ts';
import { defineFunction, type StateAccess } from './library.ts';

export const n32 = (value: number): Code => i32.const(value | 0);
export const n64 = (value: bigint | number): Code => i64.const(BigInt(value));
const decline = ret(i32.const(0));
export const yes = (x: Code): Code => i32.ne(x, n32(0));
export const no = (x: Code): Code => i32.eqz(x);
export const wide = (x: Code): Code => i64.extend_i32_u(x);
export const record = (segment: number): number => OFFSET.SEGMENTS + segment * SEGMENT_BYTES;
export const RIGHTS = 12;
export const LIMIT = 8;
export const SELECTOR = 16;

// ## Flags
//
// RFLAGS as one number, out of the three words of lazy flags and back (`flags.ts` explains them).

defineFunction('readFlags', [], ['i32'], (s) => {
  const [result, carry] = [s.local('i64'), s.local('i64')];
  const bit = (x: Code, at: number): Code => i32.shl(x, n32(at));
  const top = (x: Code): Code => i32.wrap_i64(i64.shr_u(x, n64(63)));
  const low = (x: Code, at: number): Code => i32.and(i32.wrap_i64(i64.shr_u(x, n64(at))), n32(1));
  const parity = i32.popcnt(i32.and(i32.xor(i32.wrap_i64(get(result)), low(get(carry), PF_DELTA)), n32(0xff)));
  const parts = [
    i32.or(s.field32(OFFSET.RFLAGS), n32(FLAG.FIXED)),
    top(get(carry)),
    bit(no(i32.and(parity, n32(1))), 2),
    bit(low(get(carry), AF_BIT), 4),
    bit(i64.eqz(get(result)), 6),
    bit(i32.xor(top(get(result)), low(get(carry), SF_DELTA)), 7),
    bit(top(s.field(8 * SLOT.CC_B)), 11),
  ];
  return [set(result, s.field(8 * SLOT.CC_RESULT)), set(carry, s.field(8 * SLOT.CC_A)), parts.reduce((x, y) => i32.or(x, y))];
});

const ARITHMETIC = FLAG.CF | FLAG.PF | FLAG.AF | FLAG.ZF | FLAG.SF | FLAG.OF;
defineFunction('writeFlags', ['i32'], [], (s, param) => {
  const flags = param as Local;
  const flag = (at: number): Code => wide(i32.and(i32.shr_u(get(flags), n32(at)), n32(1)));
  const isZero = yes(i32.and(get(flags), n32(FLAG.ZF)));
  const odd = i64.xor(flag(2), n64(1));
  const carry = i64.or(i64.shl(flag(0), n64(63)), i64.shl(flag(4), n64(AF_BIT)));
  const deltas = i64.or(i64.shl(flag(7), n64(SF_DELTA)), i64.shl(odd, n64(PF_DELTA)));
  const shown = i64.or(i64.or(i64.shl(flag(7), n64(63)), n64(0x100)), odd);
  return [
    s.setField32(OFFSET.RFLAGS, i32.or(i32.and(get(flags), n32(~ARITHMETIC)), n32(FLAG.FIXED))),
    s.setField(8 * SLOT.CC_RESULT, select(n64(0), shown, isZero)),
    s.setField(8 * SLOT.CC_A, i64.or(carry, select(deltas, n64(0), isZero))),
    s.setField(8 * SLOT.CC_B, i64.shl(flag(11), n64(63))),
  ];
});

// ## Memory, if the TLB has it at hand
//
// (linear, bytes, bank) -> buffer offset, or 0. The entry is that of the first byte's page, the comparison with that of the last.

for (const [name, tag] of [
  ['readable', 0],
  ['writable', 8],
] as const) {
  defineFunction(name, ['i64', 'i32', 'i32'], ['i32'], (s, linear, bytes, bank) => {
    const [at, length, start] = [linear, bytes, bank] as [Local, Local, Local];
    const entry = s.local('i32');
    const last = i64.and(i64.add(get(at), wide(i32.sub(get(length), n32(1)))), n64(-4096));
    return [
      set(entry, i32.add(get(start), i32.and(i32.wrap_i64(i64.shr_u(get(at), n64(7))), n32((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES)))),
      either(i64.eq(last, i64.load(get(entry), tag)), i32.add(i32.wrap_i64(get(at)), i32.load(get(entry), 24)), n32(0), 'i32'),
    ];
  });
}

/** What a descriptor must look like, as its second word under a mask; and where its parts are. */
const FLAT_MASK = 0xff8f00ff; // base and limit, and G
const FLAT_WORD = 0x008f0000;
const PRESENT_CODE = 0x9900; // P, S, code, accessed; bit 10 clear: not conforming
const PRESENT_CODE_MASK = 0x9d00;
const PRESENT_DATA = 0x9300; // P, S, data that grows up, writable, accessed
const PRESENT_DATA_MASK = 0x9f00;
const BIG = 0x400000;
const LONG_CODE = 0x200000;
const dplOf = (high: Code): Code => i32.and(i32.shr_u(high, n32(13)), n32(3));
export const has = (word: Code, bits: number): Code => yes(i32.and(word, n32(bits)));
export const is = (word: Code, mask: number, value: number): Code => i32.eq(i32.and(word, n32(mask)), n32(value));

/** Finds the entry of a selector in the GDT. Declines when there is none at hand. */
const findDescriptor = (s: StateAccess, selector: Local, at: Local, bank: Local): Code => [
  when(i32.or(has(get(selector), 4), no(i32.and(get(selector), n32(0xfffc)))), decline),
  when(i32.gt_u(i32.add(i32.and(get(selector), n32(0xfff8)), n32(7)), s.field32(OFFSET.GDTR_LIMIT)), decline),
  set(at, s.call('readable', i64.add(s.field(OFFSET.GDTR_BASE), wide(i32.and(get(selector), n32(0xfff8)))), n32(8), get(bank))),
  when(no(get(at)), decline),
];
/** Fills a segment register from the descriptor whose two words are at `at`. */
const fill = (s: StateAccess, segment: number, selector: Code, at: Local, scratch: Local): Code => {
  const [low, high] = [i32.load(get(at)), i32.load(get(at), 4)];
  const short = i32.or(i32.and(low, n32(0xffff)), i32.and(high, n32(0xf0000)));
  const base = i32.or(i32.or(i32.shr_u(low, n32(16)), i32.shl(i32.and(high, n32(0xff)), n32(16))), i32.and(high, n32(0xff000000)));
  return [
    s.setField(record(segment), wide(base)),
    set(scratch, short),
    s.setField32(record(segment) + LIMIT, select(i32.or(i32.shl(get(scratch), n32(12)), n32(0xfff)), get(scratch), has(high, 0x800000))),
    s.setField32(record(segment) + RIGHTS, i32.and(i32.shr_u(high, n32(8)), n32(0xf0ff))),
    s.setField32(record(segment) + SELECTOR, selector),
  ];
};
export const canonical = (s: StateAccess, x: Local): Code => {
  const shift = wide(s.field32(OFFSET.CANONICAL_SHIFT));
  return i64.eq(i64.shr_s(i64.shl(get(x), shift), shift), get(x));
};

// ## What follows from a change of privilege

const USUAL = AR.P | AR.S | AR.WRITABLE;
const flat = (s: StateAccess, segment: number, mask: number, value: number): Code =>
  i32.and(
    i32.and(i64.eqz(s.field(record(segment))), i32.eq(s.field32(record(segment) + LIMIT), n32(-1))),
    is(s.field32(record(segment) + RIGHTS), mask, value),
  );
/** MODE, the TLB bank and the shadow, as `Cpu.modeChanged` would set them, for CS and SS of protected mode as they are now. */
defineFunction('settle', [], [], (s) => {
  const [mode, user] = [s.local('i32'), s.local('i32')];
  const data = AR.UNUSABLE | USUAL | AR.CODE | AR.EXPAND_DOWN;
  const allFlat = [SEG.DS, SEG.ES, SEG.SS].reduce(
    (so, segment) => i32.and(so, flat(s, segment, data, USUAL)),
    flat(s, SEG.CS, AR.UNUSABLE | USUAL | AR.CODE, USUAL | AR.CODE),
  );
  const code = s.field32(record(SEG.CS) + RIGHTS);
  const long = i32.and(has(get(mode), MODE.LONG), has(code, AR.L));
  return [
    set(mode, i32.and(s.field32(OFFSET.MODE), n32(MODE.PROTECTED | MODE.LONG))),
    set(user, i32.eq(s.field32(OFFSET.CPL), n32(3))),
    when(get(user), set(mode, i32.or(get(mode), n32(MODE.USER)))),
    either(long, set(mode, i32.or(get(mode), n32(MODE.CODE64 | MODE.FLAT))), [
      when(has(code, AR.DB), set(mode, i32.or(get(mode), n32(MODE.CODE32)))),
      when(has(s.field32(record(SEG.SS) + RIGHTS), AR.DB), set(mode, i32.or(get(mode), n32(MODE.STACK32)))),
      when(allFlat, set(mode, i32.or(get(mode), n32(MODE.FLAT)))),
    ]),
    s.setField32(OFFSET.MODE, get(mode)),
    s.setField32(OFFSET.TLB, select(s.field32(OFFSET.BANK_USER), s.field32(OFFSET.BANK_SUPERVISOR), get(user))),
    s.setField32(OFFSET.SHADOW, i32.and(s.field32(OFFSET.SHADOW), n32(~3))),
  ];
});

/** Brings the engine's own words up to date, and goes on. The code segment begins at 0. */
export const arrive = (e: Emitter): Code => {
  const context = e.local('i32');
  const BANK_AT = 8;
  const EPOCH_AT = 20;
  const bank = i32.shl(i32.and(i32.shr_u(e.field32(OFFSET.TLB), n32(12)), n32((1 << (EPOCH_AT - BANK_AT)) - 1)), n32(BANK_AT));
  return [
    set(context, i32.or(i32.or(e.field32(OFFSET.MODE), bank), i32.and(e.word32(WORD.CONTEXT), n32(-1 << EPOCH_AT)))),
    e.setWord(WORD.CODE_BASE, n64(0)),
    when(i32.ne(get(context), e.word32(WORD.CONTEXT)), [e.setWord32(WORD.CONTEXT, get(context)), e.setWord(WORD.FETCH_PAGE, n64(-1))]),
    e.dispatch,
  ];
};

// ## Interrupts and exceptions

export const DELIVERY = { SOFTWARE: 1, RESUME: 2 } as const;

/** (vector, bits of DELIVERY, error code or -1, return address) -> 1 when the handler has been reached. */
defineFunction('deliver', ['i32', 'i32', 'i32', 'i64'], ['i32'], (s, ...params) => {
  const [vector, kind, errorCode, returnTo] = params as [Local, Local, Local, Local];
  const local32 = (): Local => s.local('i32');
  const [mode, cpl, newCpl, bank, gate, code, stack, at, long, selector, flags, scratch, inner, frame] = Array.from(
    { length: 14 },
    local32,
  ) as Local[] as [Local, Local, Local, Local, Local, Local, Local, Local, Local, Local, Local, Local, Local, Local];
  const [offset, sp, old] = [s.local('i64'), s.local('i64'), s.local('i64')];
  const bytes = i32.shl(n32(8), get(long));
  const gateHigh = i32.load(get(gate), 4);
  const codeHigh = i32.load(get(code), 4);
  const stackHigh = i32.load(get(stack), 4);
  const word = select(n32(8), n32(4), get(long));
  return [
    set(mode, s.field32(OFFSET.MODE)),
    set(flags, s.field32(OFFSET.RFLAGS)),
    when(i32.or(i32.ne(i32.and(get(mode), n32(MODE.PROTECTED | MODE.V86)), n32(MODE.PROTECTED)), has(get(flags), FLAG.TF | FLAG.AC)), decline),
    when(has(s.field32(OFFSET.WATCH), WATCH.TRACE), decline),
    set(long, has(get(mode), MODE.LONG)),
    set(cpl, s.field32(OFFSET.CPL)),
    set(bank, s.field32(OFFSET.BANK_SUPERVISOR)),
    // The gate: present, an interrupt or trap gate of the wide format, without an IST; for the program to use, if it is the program that asks.
    when(i32.gt_u(i32.sub(i32.add(i32.mul(get(vector), bytes), bytes), n32(1)), s.field32(OFFSET.IDTR_LIMIT)), decline),
    set(gate, s.call('readable', i64.add(s.field(OFFSET.IDTR_BASE), wide(i32.mul(get(vector), bytes))), bytes, get(bank))),
    when(no(get(gate)), decline),
    when(i32.or(no(is(gateHigh, 0x9e00, 0x8e00)), i32.and(get(long), has(gateHigh, 7))), decline),
    when(i32.and(i32.and(get(kind), n32(DELIVERY.SOFTWARE)), i32.lt_u(dplOf(gateHigh), get(cpl))), decline),
    // The code: not conforming, of this level or of ring 0; flat, or 64-bit.
    set(selector, i32.shr_u(i32.load(get(gate)), n32(16))),
    findDescriptor(s, selector, code, bank),
    set(newCpl, dplOf(codeHigh)),
    set(inner, i32.ne(get(newCpl), get(cpl))),
    when(i32.or(no(is(codeHigh, PRESENT_CODE_MASK, PRESENT_CODE)), i32.and(get(inner), yes(get(newCpl)))), decline),
    set(offset, wide(i32.or(i32.and(i32.load(get(gate)), n32(0xffff)), i32.and(gateHigh, n32(0xffff0000))))),
    either(
      get(long),
      [
        when(no(is(codeHigh, BIG | LONG_CODE, LONG_CODE)), decline),
        set(offset, i64.or(get(offset), i64.shl(wide(i32.load(get(gate), 8)), n64(32)))),
        when(no(canonical(s, offset)), decline),
      ],
      when(no(i32.and(i32.eq(i32.load(get(code)), n32(0xffff)), is(codeHigh, FLAT_MASK | BIG, FLAT_WORD | BIG))), decline),
    ),
    // The stack: the present one, or ring 0's from the TSS.
    set(sp, s.field(8 * SLOT.RSP)),
    set(old, get(sp)),
    either(
      get(inner),
      either(
        get(long),
        [
          when(i32.lt_u(s.field32(record(SEG.TR) + LIMIT), n32(11)), decline),
          set(at, s.call('readable', i64.add(s.field(record(SEG.TR)), n64(4)), n32(8), get(bank))),
          when(no(get(at)), decline),
          set(sp, i64.load(get(at))),
        ],
        [
          when(i32.or(i32.lt_u(s.field32(record(SEG.TR) + LIMIT), n32(9)), no(is(s.field32(record(SEG.TR) + RIGHTS), 0xf, 0xb))), decline),
          set(at, s.call('readable', i64.add(s.field(record(SEG.TR)), n64(4)), n32(6), get(bank))),
          when(no(get(at)), decline),
          set(sp, wide(i32.load(get(at)))),
          set(selector, i32.load16_u(get(at), 4)),
          when(has(get(selector), 3), decline),
          findDescriptor(s, selector, stack, bank),
          when(no(is(stackHigh, PRESENT_DATA_MASK | 0x6000, PRESENT_DATA)), decline),
          when(no(i32.and(i32.eq(i32.load(get(stack)), n32(0xffff)), is(stackHigh, FLAT_MASK | BIG, FLAT_WORD | BIG))), decline),
        ],
      ),
      when(no(i32.or(get(long), has(get(mode), MODE.FLAT))), decline),
    ),
    when(i32.and(no(get(long)), i32.and(no(get(inner)), no(has(get(mode), MODE.STACK32)))), decline),
    when(get(long), set(sp, i64.and(get(sp), n64(-16)))),
    // The frame, all of it in one page that may be written.
    set(scratch, i32.add(n32(3), i32.or(get(long), get(inner)))),
    set(scratch, i32.add(get(scratch), i32.or(get(long), get(inner)))),
    set(scratch, i32.mul(i32.add(get(scratch), i32.ge_s(get(errorCode), n32(0))), word)),
    when(i32.and(no(get(long)), i64.lt_u(get(sp), wide(get(scratch)))), decline),
    set(sp, i64.sub(get(sp), wide(get(scratch)))),
    set(frame, s.call('writable', get(sp), get(scratch), select(s.field32(OFFSET.BANK_USER), get(bank), i32.eq(get(newCpl), n32(3))))),
    when(no(get(frame)), decline),
    // Nothing can go wrong from here on.
    when(
      i32.or(i32.and(get(kind), n32(DELIVERY.SOFTWARE)), i64.gt_s(i64.sub(s.field(OFFSET.ICOUNT), s.field(OFFSET.RESUME_AT)), n64(1))),
      s.setField32(OFFSET.RFLAGS, i32.and(get(flags), n32(~FLAG.RF))),
    ),
    set(scratch, i32.or(s.call('readFlags'), i32.shl(i32.and(get(kind), n32(DELIVERY.RESUME)), n32(15)))),
    either(
      get(long),
      [
        when(i32.ge_s(get(errorCode), n32(0)), [i64.store(get(frame), wide(get(errorCode))), set(frame, i32.add(get(frame), n32(8)))]),
        i64.store(get(frame), get(returnTo)),
        i64.store(get(frame), wide(s.field32(record(SEG.CS) + SELECTOR)), 8),
        i64.store(get(frame), wide(get(scratch)), 16),
        i64.store(get(frame), get(old), 24),
        i64.store(get(frame), wide(s.field32(record(SEG.SS) + SELECTOR)), 32),
        when(get(inner), [
          s.setField(record(SEG.SS), n64(0)),
          s.setField32(record(SEG.SS) + LIMIT, n32(0)),
          s.setField32(record(SEG.SS) + RIGHTS, n32(AR.UNUSABLE)),
          s.setField32(record(SEG.SS) + SELECTOR, n32(0)),
        ]),
      ],
      [
        when(i32.ge_s(get(errorCode), n32(0)), [i32.store(get(frame), get(errorCode)), set(frame, i32.add(get(frame), n32(4)))]),
        i32.store(get(frame), i32.wrap_i64(get(returnTo))),
        i32.store(get(frame), s.field32(record(SEG.CS) + SELECTOR), 4),
        i32.store(get(frame), get(scratch), 8),
        when(get(inner), [
          i32.store(get(frame), i32.wrap_i64(get(old)), 12),
          i32.store(get(frame), s.field32(record(SEG.SS) + SELECTOR), 16),
          fill(s, SEG.SS, get(selector), stack, scratch),
        ]),
      ],
    ),
    set(selector, i32.shr_u(i32.load(get(gate)), n32(16))),
    set(at, select(n32(0), n32(FLAG.IF), has(gateHigh, 0x100))), // a trap gate leaves IF alone
    fill(s, SEG.CS, i32.or(i32.and(get(selector), n32(0xfffc)), get(newCpl)), code, scratch),
    s.setField32(OFFSET.CPL, get(newCpl)),
    s.setField(8 * SLOT.RSP, get(sp)),
    s.setField32(OFFSET.RFLAGS, i32.and(i32.and(get(flags), n32(~(FLAG.TF | FLAG.VM | FLAG.RF | FLAG.NT))), i32.xor(get(at), n32(-1)))),
    s.setField(8 * SLOT.RIP, get(offset)),
    s.setField(8 * SLOT.NEXT_RIP, get(offset)),
    s.call('settle'),
    n32(1),
  ];
});

/** INT n. */
define('system.interrupt', (e) =>
  when(e.call('deliver', i32.wrap_i64(e.imm), n32(DELIVERY.SOFTWARE), n32(-1), e.slotUnsigned(SLOT.NEXT_RIP, 8)), arrive(e)),
);

// ## Interrupt return

const KEPT_ALWAYS = FLAG.CF | FLAG.PF | FLAG.AF | FLAG.ZF | FLAG.SF | FLAG.TF | FLAG.DF | FLAG.OF | FLAG.NT | FLAG.RF | FLAG.AC | FLAG.ID;
const NMI_BLOCKED = 8;

/** (operand size) -> 1 when the return has been made. */
defineFunction('returnFromInterrupt', ['i32'], ['i32'], (s, sizeParam) => {
  const size = sizeParam as Local;
  const locals = Array.from({ length: 13 }, () => s.local('i32'));
  const [mode, cpl, newCpl, bank, code, stack, at, long, selector, flags, image, ss, scratch] = locals as Local[] as [
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
  ];
  const [offset, sp, newSp] = [s.local('i64'), s.local('i64'), s.local('i64')];
  const codeHigh = i32.load(get(code), 4);
  const stackHigh = i32.load(get(stack), 4);
  const outer = i32.ne(get(newCpl), get(cpl));
  const pops = i32.or(get(long), outer);
  /** A data segment that the outer level may not keep. */
  const forbidden = (segment: number): Code => {
    const rights = s.field32(record(segment) + RIGHTS);
    const conforming = AR.S | AR.CODE | AR.CONFORMING;
    const below = i32.lt_u(i32.and(i32.shr_u(rights, n32(AR.DPL_SHIFT)), n32(3)), get(newCpl));
    return i32.and(i32.and(no(has(rights, AR.UNUSABLE)), below), no(is(rights, conforming, conforming)));
  };
  return [
    set(mode, s.field32(OFFSET.MODE)),
    set(flags, s.call('readFlags')),
    when(
      i32.or(i32.ne(i32.and(get(mode), n32(MODE.PROTECTED | MODE.V86)), n32(MODE.PROTECTED)), has(get(flags), FLAG.TF | FLAG.RF | FLAG.NT)),
      decline,
    ),
    when(i32.or(has(s.field32(OFFSET.WATCH), WATCH.TRACE), has(s.field32(OFFSET.SHADOW), NMI_BLOCKED)), decline),
    set(long, has(get(mode), MODE.LONG)),
    set(cpl, s.field32(OFFSET.CPL)),
    set(bank, s.field32(OFFSET.BANK_SUPERVISOR)),
    set(sp, s.field(8 * SLOT.RSP)),
    either(
      get(long),
      [
        // From 64-bit code to 64-bit code.
        when(i32.or(i32.ne(get(size), n32(8)), no(is(get(mode), MODE.CODE, MODE.CODE64))), decline),
        set(at, s.call('readable', get(sp), n32(40), s.field32(OFFSET.TLB))),
        when(no(get(at)), decline),
        set(offset, i64.load(get(at))),
        set(selector, i32.load16_u(get(at), 8)),
        set(image, i32.load(get(at), 16)),
        set(newSp, i64.load(get(at), 24)),
        set(ss, i32.load16_u(get(at), 32)),
        when(no(canonical(s, offset)), decline),
      ],
      [
        when(i32.or(i32.ne(get(size), n32(4)), no(is(get(mode), MODE.STACK32 | MODE.FLAT, MODE.STACK32 | MODE.FLAT))), decline),
        set(at, s.call('readable', get(sp), n32(12), s.field32(OFFSET.TLB))),
        when(no(get(at)), decline),
        set(offset, wide(i32.load(get(at)))),
        set(selector, i32.load16_u(get(at), 4)),
        set(image, i32.load(get(at), 8)),
        when(has(get(image), FLAG.VM), decline),
        set(newSp, i64.add(get(sp), n64(12))),
      ],
    ),
    set(newCpl, i32.and(get(selector), n32(3))),
    when(i32.lt_u(get(newCpl), get(cpl)), decline),
    when(i32.and(no(get(long)), outer), [
      when(no(s.call('readable', get(sp), n32(20), s.field32(OFFSET.TLB))), decline),
      set(newSp, wide(i32.load(get(at), 12))),
      set(ss, i32.load16_u(get(at), 16)),
    ]),
    when(no(i64.eqz(i64.and(i64.shr_u(get(newSp), n64(32)), wide(no(get(long)))))), decline),
    findDescriptor(s, selector, code, bank),
    when(i32.or(no(is(codeHigh, PRESENT_CODE_MASK, PRESENT_CODE)), i32.ne(dplOf(codeHigh), get(newCpl))), decline),
    either(
      get(long),
      when(no(is(codeHigh, BIG | LONG_CODE, LONG_CODE)), decline),
      when(no(i32.and(i32.eq(i32.load(get(code)), n32(0xffff)), is(codeHigh, FLAT_MASK | BIG, FLAT_WORD | BIG))), decline),
    ),
    when(pops, [
      either(
        i32.and(
          i32.and(get(long), no(i32.and(get(ss), n32(0xfffc)))),
          i32.and(i32.ne(get(newCpl), n32(3)), i32.eq(i32.and(get(ss), n32(3)), get(newCpl))),
        ),
        set(stack, n32(0)),
        [
          findDescriptor(s, ss, stack, bank),
          when(i32.or(no(is(stackHigh, PRESENT_DATA_MASK, PRESENT_DATA)), i32.ne(dplOf(stackHigh), get(newCpl))), decline),
          when(i32.ne(i32.and(get(ss), n32(3)), get(newCpl)), decline),
          when(
            i32.and(no(get(long)), no(i32.and(i32.eq(i32.load(get(stack)), n32(0xffff)), is(stackHigh, FLAT_MASK | BIG, FLAT_WORD | BIG)))),
            decline,
          ),
        ],
      ),
    ]),
    when(
      i32.and(
        outer,
        [SEG.ES, SEG.DS, SEG.FS, SEG.GS].map(forbidden).reduce((x, y) => i32.or(x, y)),
      ),
      decline,
    ),
    // The flags: what the level may change.
    set(scratch, n32(KEPT_ALWAYS)),
    when(i32.le_u(get(cpl), i32.and(i32.shr_u(get(flags), n32(FLAG.IOPL_SHIFT)), n32(3))), set(scratch, i32.or(get(scratch), n32(FLAG.IF)))),
    when(no(get(cpl)), set(scratch, i32.or(get(scratch), n32(FLAG.IOPL | FLAG.VIF | FLAG.VIP)))),
    set(image, i32.or(i32.and(get(flags), i32.xor(get(scratch), n32(-1))), i32.and(get(image), get(scratch)))),
    when(i32.or(has(get(image), FLAG.TF), has(i32.xor(get(image), get(flags)), FLAG.AC)), decline),
    when(i32.and(has(i32.and(get(image), i32.xor(get(flags), n32(-1))), FLAG.IF), has(s.field32(OFFSET.WATCH), WATCH.PENDING)), decline),
    // Nothing can go wrong from here on.
    when(
      pops,
      either(get(stack), fill(s, SEG.SS, get(ss), stack, scratch), [
        s.setField(record(SEG.SS), n64(0)),
        s.setField32(record(SEG.SS) + LIMIT, n32(0)),
        s.setField32(record(SEG.SS) + RIGHTS, i32.or(n32(AR.UNUSABLE), i32.shl(get(newCpl), n32(AR.DPL_SHIFT)))),
        s.setField32(record(SEG.SS) + SELECTOR, get(ss)),
      ]),
    ),
    fill(s, SEG.CS, get(selector), code, scratch),
    s.setField32(OFFSET.CPL, get(newCpl)),
    s.setField(8 * SLOT.RSP, get(newSp)),
    s.call('writeFlags', get(image)),
    s.setField(OFFSET.RESUME_AT, s.field(OFFSET.ICOUNT)),
    s.setField(8 * SLOT.NEXT_RIP, get(offset)),
    s.call('settle'),
    n32(1),
  ];
});
define('system.return', (e) => when(e.call('returnFromInterrupt', i32.wrap_i64(e.imm)), arrive(e)));
