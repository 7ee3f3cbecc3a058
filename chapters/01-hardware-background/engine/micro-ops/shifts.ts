// # Micro-operations: shifts, rotations, bits

import { SLOT } from '../../state.ts';
import { PF_DELTA } from '../flags.ts';
import { type Code, constantOf, either, get, i32, i64, select, set, tee, when } from '../wasm-assembler.ts';
import { define, type Emitter } from './emitter.ts';
import {
  arithmeticFlags,
  c64,
  carryIn,
  carryWord,
  cut,
  keep,
  MIN,
  nonZero,
  not,
  SIZES,
  type Size,
  setCarry,
  setFlags,
  setOverflow,
  signExtend,
  twoForms,
  WIDE,
} from './vocabulary.ts';

// ## Shifting and rotating
//
// The count is masked to 5 bits (6 for 64-bit operands), and a masked count of zero leaves all flags alone. OF is defined for counts of 1 only; for the
// others processors apply the same formula, and so does this.

const shiftCount = (bytes: Size, b: Code): Code => i64.and(b, c64(bytes === 8 ? 63 : 31));

function shift(
  name: 'shl' | 'shr' | 'sar',
  body: (e: Emitter, bytes: Size, a: (unsigned: boolean) => Code, count: Code) => { r: Code; carry: Code; overflow: (r: Code) => Code },
): void {
  twoForms(name, SIZES, (e, bytes, b) => {
    const count = e.local('i64');
    const r = e.local('i64');
    const a = (unsigned: boolean): Code => (unsigned ? e.getUnsigned('a', bytes) : e.get('a', bytes));
    const known = constantOf(shiftCount(bytes, b));
    if (known === 0n) return e.set('d', bytes, a(true));
    // A count that is known leaves nothing to decide. (Narrow operands can be shifted by more than their width; that stays the general case.)
    if (known !== null && known < 8 * bytes) {
      const old = e.local('i64');
      const shifted = body(e, bytes, (unsigned) => (unsigned ? cut(bytes, get(old)) : get(old)), i64.const(known)).r;
      return [
        set(old, a(false)),
        set(r, signExtend(bytes, shifted)),
        arithmeticFlags(e, name, bytes, get(old), i64.const(known), get(r)),
        e.set('d', bytes, get(r)),
      ];
    }
    const { r: value, carry, overflow } = body(e, bytes, a, get(count));
    const carryLocal = e.local('i64');
    return [
      either(i64.eqz(tee(count, shiftCount(bytes, b))), e.set('d', bytes, a(true)), [
        set(r, signExtend(bytes, value)),
        set(carryLocal, i64.and(carry, MIN)),
        e.setSlot(SLOT.CC_A, 8, get(carryLocal)),
        e.setSlot(SLOT.CC_RESULT, 8, get(r)),
        e.setSlot(SLOT.CC_B, 8, overflow(get(r))),
        e.set('d', bytes, get(r)),
      ]),
    ];
  });
}
shift('shl', (e, bytes, a, count) => ({
  r: i64.shl(a(true), count),
  carry: i64.shl(i64.shl(a(true), c64(64 - 8 * bytes)), i64.sub(count, c64(1))),
  overflow: (r) => i64.xor(carryWord(e), r),
}));
shift('shr', (_e, bytes, a, count) => ({
  r: i64.shr_u(a(true), count),
  carry: i64.shl(a(true), i64.sub(c64(64), count)),
  overflow: () => signExtend(bytes, i64.shr_u(a(true), i64.sub(count, c64(1)))),
}));
shift('sar', (_e, _bytes, a, count) => ({
  r: i64.shr_s(a(false), count),
  carry: i64.shl(i64.shr_s(a(false), i64.sub(count, c64(1))), c64(63)),
  overflow: () => c64(0),
}));

for (const bytes of SIZES) {
  const width = 8 * bytes;
  // Rotates within the operand: SF, ZF, PF and AF keep their values.
  for (const left of [true, false]) {
    const name = left ? 'rol' : 'ror';
    const meaning = (e: Emitter, b: Code): Code => {
      const count = e.local('i64');
      const a = e.local('i64');
      const r = e.local('i64');
      const n = i64.and(get(count), c64(width - 1));
      const back = i64.and(i64.sub(c64(width), get(count)), c64(width - 1));
      const turn = { 4: left ? i32.rotl : i32.rotr, 8: left ? i64.rotl : i64.rotr };
      const rotated =
        bytes === 8
          ? turn[8](get(a), get(count))
          : bytes === 4
            ? i64.extend_i32_s(turn[4](i32.wrap_i64(get(a)), i32.wrap_i64(get(count))))
            : i64.or(i64.shl(get(a), left ? n : back), i64.shr_u(get(a), left ? back : n));
      const carry = left ? i64.shl(get(r), c64(63)) : get(r);
      // After a rotation to the right OF compares the two highest bits; the sign extension of r has copies of the top one above it.
      const overflow = left ? i64.xor(get(r), i64.shl(get(r), c64(63))) : i64.xor(get(r), i64.shl(get(r), c64(64 - width + 1)));
      const known = constantOf(shiftCount(bytes, b));
      if (e.foresight && known !== null && bytes >= 4) {
        if (known === 0n) return e.set('d', bytes, e.getUnsigned('a', bytes));
        return [
          set(count, i64.const(known)),
          set(a, e.getUnsigned('a', bytes)),
          set(r, rotated),
          e.foresight.rotation(left, bytes, get(r)),
          e.set('d', bytes, get(r)),
        ];
      }
      return [
        set(a, e.getUnsigned('a', bytes)),
        set(count, shiftCount(bytes, b)),
        set(r, signExtend(bytes, rotated)),
        when(i32.wrap_i64(get(count)), [setCarry(e, carry), setOverflow(e, overflow)]),
        e.set('d', bytes, get(r)),
      ];
    };
    define(`${name}.${bytes}`, (e) => meaning(e, e.get('b', 1)));
    define(`${name}.${bytes}.i`, (e) => meaning(e, e.imm));
  }
  // Rotates through CF: the operand is one bit longer. For 64 bits that is one bit too many, so the pieces are put together by hand.
  for (const left of [true, false]) {
    const name = left ? 'rcl' : 'rcr';
    const meaning = (e: Emitter, b: Code): Code => {
      const count = e.local('i64');
      const a = e.local('i64');
      const r = e.local('i64');
      const newCarry = e.local('i64');
      const turns = (x: Code): Code => (bytes >= 4 ? x : i64.rem_u(x, c64(width + 1)));
      const one = c64(1);
      const rest = i64.sub(c64(width), get(count));
      const most = (x: Code, by: Code): Code => i64.shr_u(i64.shr_u(x, by), one); // x >> (by + 1), also when by + 1 is 64
      const mostLeft = (x: Code, by: Code): Code => i64.shl(i64.shl(x, by), one);
      const leftward = i64.or(i64.or(i64.shl(get(a), get(count)), i64.shl(carryIn(e), i64.sub(get(count), one))), most(get(a), rest));
      const rightward = i64.or(i64.or(i64.shr_u(get(a), get(count)), i64.shl(carryIn(e), rest)), mostLeft(get(a), rest));
      const out = i64.and(i64.shr_u(get(a), left ? rest : i64.sub(get(count), one)), one);
      const top = i64.shl(get(r), c64(64 - width));
      const overflow = left ? i64.xor(top, i64.shl(get(newCarry), c64(63))) : i64.xor(top, i64.shl(top, one));
      return [
        set(a, e.getUnsigned('a', bytes)),
        set(r, get(a)),
        when(i32.wrap_i64(tee(count, turns(shiftCount(bytes, b)))), [
          set(r, left ? leftward : rightward),
          set(newCarry, out),
          setCarry(e, i64.shl(get(newCarry), c64(63))),
          setOverflow(e, overflow),
        ]),
        e.set('d', bytes, get(r)),
      ];
    };
    define(`${name}.${bytes}`, (e) => meaning(e, e.get('b', 1)));
    define(`${name}.${bytes}.i`, (e) => meaning(e, e.imm));
  }
}

// Double shifts: d is shifted, the vacated bits come from a. With 16-bit operands and counts above 16 the result is undefined; processors
// continue with bits of d itself, as if the three words d:a:d were shifted.
for (const bytes of WIDE) {
  const width = c64(8 * bytes);
  for (const left of [true, false]) {
    const meaning = (e: Emitter, b: Code): Code => {
      const count = e.local('i64');
      const d = e.local('i64');
      const s = e.local('i64');
      const r = e.local('i64');
      const carry = e.local('i64');
      const one = c64(1);
      const triple = i64.or(i64.shl(i64.or(i64.shl(get(d), c64(16)), get(s)), c64(16)), get(d)); // 48 bits
      const narrow = left
        ? { r: i64.shr_u(i64.shl(triple, get(count)), c64(32)), carry: i64.shr_u(triple, i64.sub(c64(48), get(count))) }
        : { r: i64.shr_u(triple, get(count)), carry: i64.shr_u(triple, i64.sub(get(count), one)) };
      const rest = i64.sub(width, get(count));
      const wide = left
        ? { r: i64.or(i64.shl(get(d), get(count)), i64.shr_u(get(s), rest)), carry: i64.shr_u(get(d), rest) }
        : { r: i64.or(i64.shr_u(get(d), get(count)), i64.shl(get(s), rest)), carry: i64.shr_u(get(d), i64.sub(get(count), one)) };
      const { r: value, carry: out } = bytes === 2 ? narrow : wide;
      return [
        set(d, e.getUnsigned('d', bytes)),
        set(s, e.getUnsigned('a', bytes)),
        either(i64.eqz(tee(count, shiftCount(bytes, b))), e.set('d', bytes, get(d)), [
          set(r, signExtend(bytes, value)),
          set(carry, i64.shl(out, c64(63))),
          e.setSlot(SLOT.CC_RESULT, 8, get(r)),
          e.setSlot(SLOT.CC_A, 8, get(carry)),
          e.setSlot(SLOT.CC_B, 8, i64.xor(get(r), signExtend(bytes, get(d)))),
          e.set('d', bytes, get(r)),
        ]),
      ];
    };
    const name = left ? 'shld' : 'shrd';
    define(`${name}.${bytes}`, (e) => meaning(e, e.get('b', 1)));
    define(`${name}.${bytes}.i`, (e) => meaning(e, e.imm));
  }
}

// ## Bits

twoForms('bt', WIDE, (e, bytes, b) => setCarry(e, i64.shl(i64.shr_u(e.get('a', bytes), i64.and(b, c64(8 * bytes - 1))), c64(63))));
for (const [name, change] of [
  ['bts', (a: Code, mask: Code): Code => i64.or(a, mask)],
  ['btr', (a: Code, mask: Code): Code => i64.and(a, not(mask))],
  ['btc', (a: Code, mask: Code): Code => i64.xor(a, mask)],
] as const) {
  twoForms(name, WIDE, (e, bytes, b) => {
    const [kept, a, at] = keep(e, e.get('d', bytes), i64.and(b, c64(8 * bytes - 1))) as [Code, Code, Code];
    return [kept, setCarry(e, i64.shl(i64.shr_u(a, at), c64(63))), e.set('d', bytes, change(a, i64.shl(c64(1), at)))];
  });
}
for (const bytes of WIDE) {
  /** Address of the unit that holds bit b, counted from address a: bit strings in memory reach both ways. */
  define(`bitUnit.${bytes}`, (e) =>
    e.set('d', 8, i64.add(e.get('a'), i64.shl(i64.shr_s(e.get('b', bytes), c64(Math.log2(8 * bytes))), c64(Math.log2(bytes))))),
  );
  // BSF and BSR of zero leave the destination alone. Only ZF is defined; processors of today clear the others, but PF is the parity of the result.
  for (const [name, position] of [
    ['bsf', (a: Code): Code => i64.ctz(a)],
    ['bsr', (a: Code): Code => i64.sub(c64(63), i64.clz(a))],
  ] as const) {
    define(`${name}.${bytes}`, (e) => {
      const [kept, a] = keep(e, e.getUnsigned('a', bytes)) as [Code, Code];
      return [
        kept,
        setFlags(e, select(c64(0), nonZero(position(a)), i64.eqz(a)), c64(0), c64(0)),
        when(i32.eqz(i64.eqz(a)), e.set('d', bytes, position(a))),
      ];
    });
  }
  define(`popcnt.${bytes}`, (e) => {
    const [kept, a] = keep(e, e.getUnsigned('a', bytes)) as [Code, Code];
    const isZero = i64.eqz(a);
    return [
      kept,
      e.setSlot(SLOT.CC_RESULT, 8, i64.extend_i32_u(i32.eqz(isZero))), // 1 has odd parity
      e.setSlot(SLOT.CC_A, 8, i64.shl(i64.extend_i32_u(isZero), c64(PF_DELTA))), // 0 has not
      e.setSlot(SLOT.CC_B, 8, c64(0)),
      e.set('d', bytes, i64.popcnt(a)),
    ];
  });
}
const swapPairs = (x: Code, shift: number, mask: bigint): Code =>
  i64.or(i64.and(i64.shr_u(x, c64(shift)), i64.const(mask)), i64.shl(i64.and(x, i64.const(mask)), c64(shift)));
const byteSwap = (e: Emitter, x: Code): Code => {
  const t = e.local('i64');
  return [
    set(t, x),
    set(t, swapPairs(get(t), 8, 0x00ff00ff00ff00ffn)),
    set(t, swapPairs(get(t), 16, 0x0000ffff0000ffffn)),
    i64.rotl(get(t), c64(32)),
  ];
};
define('bswap.8', (e) => e.set('d', 8, byteSwap(e, e.get('d'))));
define('bswap.4', (e) => e.set('d', 4, i64.shr_u(byteSwap(e, e.getUnsigned('d', 4)), c64(32))));
define('bswap.2', (e) => e.set('d', 2, c64(0))); // undefined by the manual; this is what processors do
