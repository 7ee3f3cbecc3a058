// # Micro-operations: system calls, IF, ports
//
// The ordinary case again (see `system.ts`), of instructions that are simpler: what they need is in registers.

import { AR, CR4, EFER, FLAG, MODE, OFFSET, SEG, SLOT, WATCH } from '../../state.ts';
import { type Code, call, get, i32, i64, type Local, select, set, when } from '../wasm-assembler.ts';
import { define, type Emitter } from './emitter.ts';
import { arrive, canonical, has, is, LIMIT, n32, n64, no, RIGHTS, record, SELECTOR, wide, yes } from './system.ts';

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

const unwatchedClock = (e: Emitter): Code => no(has(e.field32(OFFSET.WATCH), WATCH.CLOCK));
const readClock = (e: Emitter, more: () => Code = () => []): Code => {
  const tsc = e.local('i64');
  const forbidden = i32.and(has(e.field32(OFFSET.CR4), CR4.TSD), yes(e.field32(OFFSET.CPL)));
  return when(i32.and(no(forbidden), unwatchedClock(e)), [
    set(tsc, i64.add(e.field(OFFSET.ICOUNT), e.field(OFFSET.TSC_OFFSET))),
    e.setSlot(SLOT.RAX, 4, get(tsc)),
    e.setSlot(SLOT.RDX, 4, i64.shr_u(get(tsc), n64(32))),
    more(),
    e.dispatch,
  ]);
};
define('system.rdtsc', (e) => readClock(e));
define('system.rdtscp', (e) => readClock(e, () => e.setSlot(SLOT.RCX, 4, e.field(OFFSET.TSC_AUX))));
define('system.pause', (e) => when(unwatchedClock(e), e.dispatch));
