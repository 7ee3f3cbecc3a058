// # Micro-operations: the ordinary case of a system instruction
//
// An interrupt reads a gate, a descriptor, the TSS, perhaps another descriptor, and judges each of them. All that is TypeScript, in the folder `system`, with
// every rule in its place. But a program that makes system calls does the same thing a million times, finds everything as it was, and comes out the same way: from
// ring 3 to a flat segment in ring 0, or back. These functions know that case and no other. They look at everything that the rules look at, and when anything
// is not as usual -- a table entry that the TLB does not have at hand, a conforming segment, a trap flag, a hypervisor that wants to know -- they decline before they have
// changed anything, and the instruction is TypeScript's. A test runs both ways from the same states and compares.

import { AR, CR4, EFER, FLAG, MODE, OFFSET, SEG, SEGMENT_BYTES, SLOT, WATCH } from '../../state.ts';
import { AF_BIT, PF_DELTA, SF_DELTA } from '../flags.ts';
import { type Code, call, either, get, i32, i64, type Local, ret, select, set, when } from '../wasm-assembler.ts';
import { define, type Emitter, WORD } from './emitter.ts';
import { defineFunction, type StateAccess } from './library.ts';

const n32 = (value: number): Code => i32.const(value | 0);
const n64 = (value: bigint | number): Code => i64.const(BigInt(value));
const decline = ret(i32.const(0));
const yes = (x: Code): Code => i32.ne(x, n32(0));
const no = (x: Code): Code => i32.eqz(x);
const wide = (x: Code): Code => i64.extend_i32_u(x);
const record = (segment: number): number => OFFSET.SEGMENTS + segment * SEGMENT_BYTES;
const RIGHTS = 12;
const LIMIT = 8;
const SELECTOR = 16;

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
      set(entry, i32.add(get(start), i32.and(i32.wrap_i64(i64.shr_u(get(at), n64(7))), n32(511 * 32)))),
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
const has = (word: Code, bits: number): Code => yes(i32.and(word, n32(bits)));
const is = (word: Code, mask: number, value: number): Code => i32.eq(i32.and(word, n32(mask)), n32(value));

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
const canonical = (s: StateAccess, x: Local): Code => {
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
    when(has(s.field32(record(SEG.SS) + RIGHTS), AR.DB), set(mode, i32.or(get(mode), n32(MODE.STACK32)))),
    either(long, set(mode, i32.or(get(mode), n32(MODE.CODE64 | MODE.FLAT))), [
      when(has(code, AR.DB), set(mode, i32.or(get(mode), n32(MODE.CODE32)))),
      when(allFlat, set(mode, i32.or(get(mode), n32(MODE.FLAT)))),
    ]),
    s.setField32(OFFSET.MODE, get(mode)),
    s.setField32(OFFSET.TLB, select(s.field32(OFFSET.BANK_USER), s.field32(OFFSET.BANK_SUPERVISOR), get(user))),
    s.setField32(OFFSET.SHADOW, i32.and(s.field32(OFFSET.SHADOW), n32(~3))),
  ];
});

/** Brings the engine's own words up to date, and goes on. The code segment begins at 0. */
const arrive = (e: Emitter): Code => {
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
      i64.gt_s(i64.sub(s.field(OFFSET.ICOUNT), s.field(OFFSET.RESUME_AT)), n64(1)),
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

// ## Fast system calls
//
// These are made of constants: no table is read.

const FLAT_RIGHTS = AR.P | AR.S | AR.WRITABLE | AR.ACCESSED | AR.G; // for code, the same bit says "readable"
/** CS and SS as these instructions load them. `long`: an i32, whether the code is 64-bit. */
const loadFlat = (e: Emitter, cs: Code, ss: Code, cpl: number, long: Code): Code => {
  const dpl = cpl << AR.DPL_SHIFT;
  const segment = (n: number, selector: Code, rights: Code): Code => [
    e.setField(record(n), n64(0)),
    e.setField32(record(n) + LIMIT, n32(-1)),
    e.setField32(record(n) + RIGHTS, rights),
    e.setField32(record(n) + SELECTOR, i32.and(selector, n32(0xffff))),
  ];
  return [
    segment(SEG.CS, cs, select(n32(FLAT_RIGHTS | AR.CODE | AR.L | dpl), n32(FLAT_RIGHTS | AR.CODE | AR.DB | dpl), long)),
    segment(SEG.SS, ss, n32(FLAT_RIGHTS | AR.DB | dpl)),
    e.setField32(OFFSET.CPL, n32(cpl)),
  ];
};
/** None of these bits is set in `word`, and no trace listens. */
const unless = (e: Emitter, flags: Local, bits: number, body: Code): Code =>
  when(i32.eqz(i32.or(i32.and(get(flags), n32(bits)), i32.and(e.field32(OFFSET.WATCH), n32(WATCH.TRACE)))), body);
const upper32 = (x: Code): Code => i32.wrap_i64(i64.shr_u(x, n64(32)));
const code64 = (e: Emitter): Code => is(e.field32(OFFSET.MODE), MODE.CODE, MODE.CODE64);
const enabled = (e: Emitter): Code => i32.and(has(e.field32(OFFSET.EFER), EFER.SCE), code64(e));

define('system.syscall', (e) => {
  const [flags, next, cs] = [e.local('i32'), e.local('i32'), e.local('i32')];
  return [
    set(flags, e.call('readFlags')),
    set(next, i32.and(i32.and(get(flags), n32(~FLAG.RF)), i32.xor(e.field32(OFFSET.SFMASK), n32(-1)))),
    set(cs, i32.and(upper32(e.field(OFFSET.STAR)), n32(0xfffc))),
    when(
      i32.and(enabled(e), no(has(i32.xor(get(flags), get(next)), FLAG.AC))),
      unless(e, flags, FLAG.TF, [
        e.setSlot(SLOT.RCX, 8, e.slotUnsigned(SLOT.NEXT_RIP, 8)),
        e.setSlot(SLOT.R11, 8, wide(i32.and(get(flags), n32(~FLAG.RF)))),
        e.call('writeFlags', get(next)),
        loadFlat(e, get(cs), i32.add(get(cs), n32(8)), 0, n32(1)),
        e.setSlot(SLOT.NEXT_RIP, 8, e.field(OFFSET.LSTAR)),
        e.call('settle'),
        arrive(e),
      ]),
    ),
  ];
});

const SYSRET_KEEPS = FLAG.RF | FLAG.VM; // of R11 these do not count
define('system.sysret', (e) => {
  const [flags, next, cs] = [e.local('i32'), e.local('i32'), e.local('i32')];
  const target = e.local('i64');
  const interruptible = i32.and(has(i32.and(get(next), i32.xor(get(flags), n32(-1))), FLAG.IF), has(e.field32(OFFSET.WATCH), WATCH.PENDING));
  return [
    set(flags, e.call('readFlags')),
    set(target, e.slotUnsigned(SLOT.RCX, 8)),
    set(next, i32.or(i32.and(i32.wrap_i64(e.slotUnsigned(SLOT.R11, 8)), n32(0x3f7fd5 & ~SYSRET_KEEPS)), n32(FLAG.FIXED))),
    set(cs, i32.shr_u(upper32(e.field(OFFSET.STAR)), n32(16))),
    when(
      i32.and(i32.and(enabled(e), i32.eqz(e.field32(OFFSET.CPL))), i32.and(canonical(e, target), no(has(i32.xor(get(flags), get(next)), FLAG.AC)))),
      when(
        no(i32.or(interruptible, has(get(flags), FLAG.TF))),
        unless(e, next, FLAG.TF, [
          e.call('writeFlags', get(next)),
          loadFlat(e, i32.or(i32.add(get(cs), n32(16)), n32(3)), i32.or(i32.add(get(cs), n32(8)), n32(3)), 3, n32(1)),
          e.setSlot(SLOT.NEXT_RIP, 8, get(target)),
          e.call('settle'),
          arrive(e),
        ]),
      ),
    ),
  ];
});

const plainProtected = (e: Emitter): Code => is(e.field32(OFFSET.MODE), MODE.PROTECTED | MODE.V86, MODE.PROTECTED);
define('system.sysenter', (e) => {
  const [flags, cs, long] = [e.local('i32'), e.local('i32'), e.local('i32')];
  const cutTo = (x: Code): Code => select(x, wide(i32.wrap_i64(x)), get(long));
  return [
    set(flags, e.field32(OFFSET.RFLAGS)),
    set(cs, i32.and(e.field32(OFFSET.SYSENTER_CS), n32(0xfffc))),
    set(long, has(e.field32(OFFSET.MODE), MODE.LONG)),
    when(
      i32.and(plainProtected(e), yes(get(cs))),
      unless(e, flags, FLAG.TF, [
        e.setField32(OFFSET.RFLAGS, i32.and(get(flags), n32(~(FLAG.IF | FLAG.RF)))),
        loadFlat(e, get(cs), i32.add(get(cs), n32(8)), 0, get(long)),
        e.setSlot(SLOT.RSP, 8, cutTo(e.field(OFFSET.SYSENTER_ESP))),
        e.setSlot(SLOT.NEXT_RIP, 8, cutTo(e.field(OFFSET.SYSENTER_EIP))),
        e.call('settle'),
        arrive(e),
      ]),
    ),
  ];
});
/** imm: how far the selectors are from SYSENTER_CS: 16, or 32 to 64-bit code. */
for (const [name, distance] of [
  ['system.sysexit.4', 16],
  ['system.sysexit.8', 32],
] as const) {
  define(name, (e) => {
    const [flags, cs] = [e.local('i32'), e.local('i32')];
    const [sp, ip] = [e.local('i64'), e.local('i64')];
    const long = distance === 32;
    const read = (slot: number): Code => e.slotUnsigned(slot, long ? 8 : 4);
    const fine = long ? i32.and(canonical(e, sp), canonical(e, ip)) : n32(1);
    return [
      set(flags, e.field32(OFFSET.RFLAGS)),
      set(cs, i32.and(e.field32(OFFSET.SYSENTER_CS), n32(0xfffc))),
      set(sp, read(SLOT.RCX)),
      set(ip, read(SLOT.RDX)),
      when(
        i32.and(i32.and(plainProtected(e), i32.and(yes(get(cs)), i32.eqz(e.field32(OFFSET.CPL)))), fine),
        unless(e, flags, FLAG.TF, [
          loadFlat(e, i32.or(i32.add(get(cs), n32(distance)), n32(3)), i32.or(i32.add(get(cs), n32(distance + 8)), n32(3)), 3, n32(Number(long))),
          e.setSlot(SLOT.RSP, 8, get(sp)),
          e.setSlot(SLOT.NEXT_RIP, 8, get(ip)),
          e.call('settle'),
          arrive(e),
        ]),
      ),
    ];
  });
}
define('system.swapgs', (e) => {
  const base = e.local('i64');
  const gs = record(SEG.GS);
  return when(i32.and(code64(e), i32.eqz(e.field32(OFFSET.CPL))), [
    set(base, e.field(gs)),
    e.setField(gs, e.field(OFFSET.KERNEL_GS_BASE)),
    e.setField(OFFSET.KERNEL_GS_BASE, get(base)),
    e.dispatch,
  ]);
});

// ## IF, ports and the clock
//
// IOPL decides who may. What an interrupt that is waiting would do next is TypeScript's to find out.

const ioplOf = (e: Emitter): Code => i32.and(i32.shr_u(e.field32(OFFSET.RFLAGS), n32(FLAG.IOPL_SHIFT)), n32(3));
const mayChangeIf = (e: Emitter): Code => i32.or(no(has(e.field32(OFFSET.MODE), MODE.PROTECTED)), i32.le_u(e.field32(OFFSET.CPL), ioplOf(e)));

define('system.cli', (e) => when(mayChangeIf(e), [e.setField32(OFFSET.RFLAGS, i32.and(e.field32(OFFSET.RFLAGS), n32(~FLAG.IF))), e.dispatch]));
// The shadow lasts until the next boundary, and is forgotten by whoever looks later: SHADOW_AT says which boundary that was.
define('system.sti', (e) =>
  when(i32.and(mayChangeIf(e), no(has(e.field32(OFFSET.WATCH), WATCH.PENDING))), [
    when(no(has(e.field32(OFFSET.RFLAGS), FLAG.IF)), [
      e.setField32(OFFSET.RFLAGS, i32.or(e.field32(OFFSET.RFLAGS), n32(FLAG.IF))),
      e.setField32(OFFSET.SHADOW, i32.or(e.field32(OFFSET.SHADOW), n32(1))),
      e.setField(OFFSET.SHADOW_AT, e.field(OFFSET.ICOUNT)),
    ]),
    e.dispatch,
  ]),
);

/** Goes imm records further in virtual-8086 mode, where the flags are not what they seem. */
define('system.unlessV86', (e) => when(has(e.field32(OFFSET.MODE), MODE.V86), e.skip(i32.wrap_i64(e.imm))));
/** d := RFLAGS as PUSHF stores them. */
define('system.flags', (e) => e.set('d', 8, wide(i32.and(e.call('readFlags'), n32(~(FLAG.VM | FLAG.RF))))));
define('system.done', (e) => e.dispatch);
const POPPED_16 = FLAG.CF | FLAG.PF | FLAG.AF | FLAG.ZF | FLAG.SF | FLAG.TF | FLAG.DF | FLAG.OF | FLAG.NT;
/** RFLAGS := what POPF may change of them, from a; goes imm records further if something would have to be looked at. */
for (const bytes of [2, 4, 8] as const) {
  define(`system.setFlags.${bytes}`, (e) => {
    const [flags, next, mask] = [e.local('i32'), e.local('i32'), e.local('i32')];
    const inverse = (x: Local): Code => i32.xor(get(x), n32(-1));
    const interruptible = i32.and(has(i32.and(get(next), inverse(flags)), FLAG.IF), has(e.field32(OFFSET.WATCH), WATCH.PENDING));
    return [
      set(flags, e.call('readFlags')),
      set(mask, n32(bytes === 2 ? POPPED_16 : POPPED_16 | FLAG.AC | FLAG.ID)),
      when(mayChangeIf(e), set(mask, i32.or(get(mask), n32(FLAG.IF)))),
      when(i32.eqz(e.field32(OFFSET.CPL)), set(mask, i32.or(get(mask), n32(FLAG.IOPL)))),
      set(next, i32.and(i32.or(i32.and(get(flags), inverse(mask)), i32.and(i32.wrap_i64(e.get('a', bytes)), get(mask))), n32(~FLAG.RF))),
      when(i32.or(i32.or(has(get(next), FLAG.TF), has(i32.xor(get(next), get(flags)), FLAG.AC)), interruptible), e.skip(i32.wrap_i64(e.imm))),
      e.call('writeFlags', get(next)),
    ];
  });
}

const portsAreOpen = (e: Emitter): Code =>
  i32.and(i32.and(mayChangeIf(e), no(has(e.field32(OFFSET.MODE), MODE.V86))), no(has(e.field32(OFFSET.WATCH), WATCH.HYPERVISOR | WATCH.PORTS)));
/** imm: the port, or -1: it is in DX. */
const portOf = (e: Emitter): Code => i32.wrap_i64(select(e.slotUnsigned(SLOT.RDX, 2), e.imm, i64.lt_s(e.imm, n64(0))));
for (const bytes of [1, 2, 4] as const) {
  define(`system.in.${bytes}`, (e) =>
    when(portsAreOpen(e), [e.setSlot(SLOT.RAX, bytes, wide(call(e.helpers.portRead, portOf(e), n32(bytes)))), e.dispatch]),
  );
  define(`system.out.${bytes}`, (e) =>
    when(portsAreOpen(e), [call(e.helpers.portWrite, portOf(e), n32(bytes), i32.wrap_i64(e.slotUnsigned(SLOT.RAX, bytes))), e.dispatch]),
  );
}

define('system.rdtsc', (e) => {
  const tsc = e.local('i64');
  const forbidden = i32.and(has(e.field32(OFFSET.CR4), CR4.TSD), yes(e.field32(OFFSET.CPL)));
  return when(no(i32.or(forbidden, has(e.field32(OFFSET.WATCH), WATCH.HYPERVISOR))), [
    set(tsc, i64.add(e.field(OFFSET.ICOUNT), e.field(OFFSET.TSC_OFFSET))),
    e.setSlot(SLOT.RAX, 4, get(tsc)),
    e.setSlot(SLOT.RDX, 4, i64.shr_u(get(tsc), n64(32))),
    e.dispatch,
  ]);
});
