// # Micro-operations: moving data

import { VECTOR } from '../../faults.ts';
import { SLOT } from '../../state.ts';
import { type Code, call, get, i32, i64, select, set, tee, when } from '../wasm-assembler.ts';
import { define, type Emitter } from './emitter.ts';
import { c64, cut, keep, SIZES, WIDE } from './vocabulary.ts';

// ## Moving

for (const bytes of SIZES) {
  define(`mov.${bytes}`, (e) => e.set('d', bytes, e.getUnsigned('a', bytes)));
  define(`mov.${bytes}.i`, (e) => e.set('d', bytes, e.imm));
}
// An immediate that the program rewrites all the time is loaded from the code: the operand imm is its buffer offset.
const loadSigned = { 1: i64.load8_s, 2: i64.load16_s, 4: i64.load32_s, 8: i64.load } as const;
for (const bytes of SIZES) define(`code.${bytes}`, (e) => e.set('d', 8, loadSigned[bytes](i32.wrap_i64(e.imm))));
for (const from of [1, 2, 4] as const) {
  for (const to of WIDE.filter((bytes) => bytes > from)) {
    define(`movzx.${from}.${to}`, (e) => e.set('d', to, e.getUnsigned('a', from)));
    define(`movsx.${from}.${to}`, (e) => e.set('d', to, e.get('a', from)));
  }
}
for (const bytes of SIZES) {
  define(`swap.${bytes}`, (e) => {
    const [kept, a, d] = keep(e, e.getUnsigned('a', bytes), e.getUnsigned('d', bytes)) as [Code, Code, Code];
    return [kept, e.set('d', bytes, a), e.set('a', bytes, d)];
  });
  // CMOV: an unfulfilled condition still counts as a write of 4 bytes.
  define(`pick.${bytes}`, (e) =>
    e.set('d', bytes, select(e.getUnsigned('a', bytes), e.getUnsigned('d', bytes), i32.wrap_i64(e.getUnsigned('b', 1)))),
  );
}
/** Addresses: base + (index << high half of imm) + low half of imm, cut to `mask` bytes. */
for (const mask of WIDE) {
  const scaled = (e: Emitter): Code => i64.shl(e.get('b'), i64.extend_i32_u(e.immHigh32));
  define(`lea.${mask}.base`, (e) => e.set('d', 8, cut(mask, i64.add(e.get('a'), e.immLow))));
  define(`lea.${mask}.index`, (e) => e.set('d', 8, cut(mask, i64.add(scaled(e), e.immLow))));
  define(`lea.${mask}.both`, (e) => e.set('d', 8, cut(mask, i64.add(i64.add(e.get('a'), scaled(e)), e.immLow))));
}
define('plus', (e) => e.set('d', 8, i64.add(e.get('a'), e.get('b')))); // no flags: adds a segment base

// ## Memory
//
// In 64-bit code, and in 32-bit code with flat segments, an offset is a linear address and the base register can be added on the way. Otherwise a
// `segment` micro-operation checks the limit and adds the segment's base. The high half of the immediate is 1 when the access is made through SS.

for (const bytes of SIZES) {
  for (const mask of [8, 4] as const) {
    const linear = (e: Emitter): Code => cut(mask, i64.add(e.get('a'), e.immLow));
    define(`load.${bytes}.${mask}`, (e) => e.set('d', 8, e.load(bytes, linear(e), e.immHigh32)));
    define(`modify.${bytes}.${mask}`, (e) => e.set('d', 8, e.load(bytes, linear(e), e.immHigh32, 2)));
    define(`store.${bytes}.${mask}`, (e) => e.store(bytes, linear(e), e.getUnsigned('b', bytes), e.immHigh32));
  }
}

for (const mask of [8, 4] as const) {
  const linear = (e: Emitter): Code => cut(mask, i64.add(e.get('a'), e.immLow));
  define(`load.16.${mask}`, (e) => e.setVector('d', e.loadVector(linear(e), e.immHigh32)), { outlined: true });
  define(`store.16.${mask}`, (e) => e.storeVector(linear(e), e.getVector('b'), e.immHigh32), { outlined: true });
}

/** d := linear address of offset a in the segment whose record is operand b. imm: segment number, and (high half) bytes | access << 8. */
define('segment', (e) => {
  const offset = e.local('i64');
  const rights = e.local('i32');
  const RW = 2;
  const EXPAND_DOWN = 4;
  const CODE = 8;
  const UNUSABLE = 1 << 16;
  const bytes = i32.and(e.immHigh32, i32.const(0xff));
  const access = i32.shr_u(e.immHigh32, i32.const(8));
  // An ordinary data segment and an offset below the limit: by far the most frequent case, decided here. Everything else is TypeScript's.
  const within = i64.le_u(i64.add(get(offset), i64.extend_i32_u(i32.sub(bytes, i32.const(1)))), i64.extend_i32_u(e.part32('b', 8)));
  const plain = i32.eqz(i32.and(tee(rights, e.part32('b', 12)), i32.const(UNUSABLE | CODE | EXPAND_DOWN)));
  const writable = i32.or(i32.eqz(access), i32.and(get(rights), i32.const(RW)));
  const fine = i32.and(i32.and(plain, within), i32.ne(writable, i32.const(0)));
  return [
    set(offset, e.get('a')),
    when(i32.eqz(fine), when(call(e.helpers.checkSegment, i32.wrap_i64(e.imm), get(offset), bytes, access), e.abort)),
    e.set('d', 8, cut(4, i64.add(get(offset), e.get('b')))),
  ];
});
/** The same in 64-bit mode, for CMPXCHG16B and the like: the address must be a multiple of imm. */
define('aligned', (e) => when(i32.wrap_i64(i64.and(e.get('a'), i64.sub(e.imm, c64(1)))), e.fault(VECTOR.GP, 0)));

const STACK = i32.const(1);
for (const bytes of [8, 4] as const) {
  define(`push.${bytes}`, (e) => {
    const sp = e.local('i64');
    return [
      set(sp, cut(bytes, i64.sub(e.slotUnsigned(SLOT.RSP, bytes), c64(bytes)))),
      e.store(bytes, get(sp), e.getUnsigned('a', bytes), STACK),
      e.setSlot(SLOT.RSP, bytes, get(sp)),
    ];
  });
  define(`pop.${bytes}`, (e) => {
    const value = e.local('i64');
    return [
      set(value, e.load(bytes, e.slotUnsigned(SLOT.RSP, bytes), STACK)),
      e.setSlot(SLOT.RSP, bytes, cut(bytes, i64.add(e.slotUnsigned(SLOT.RSP, bytes), c64(bytes)))),
      e.set('d', bytes, get(value)),
    ];
  });
}
