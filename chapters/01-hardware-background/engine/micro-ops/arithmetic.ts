// # Micro-operations: arithmetic and logic

import { VECTOR } from '../../faults.ts';
import { SLOT } from '../../state.ts';
import { AF_BIT } from '../flags.ts';
import { type Code, call, either, get, i32, i64, set, tee, when } from '../wasm-assembler.ts';
import { define, type Emitter } from './emitter.ts';
import {
  addOverflow,
  arithmeticFlags,
  c64,
  carries,
  carryIn,
  carryWord,
  cut,
  keep,
  MIN,
  nonZero,
  not,
  SIZES,
  type Size,
  setFlags,
  setFlagWords,
  signExtend,
  twoForms,
  WIDE,
} from './vocabulary.ts';

// ## Adding, subtracting, combining

const sum = (e: Emitter, bytes: Size, bCode: Code, carry: Code | null): Code => {
  const [kept, a, b] = keep(e, e.get('a', bytes), bCode) as [Code, Code, Code];
  const r = e.local('i64');
  const total = i64.add(a, b);
  return [
    kept,
    set(r, signExtend(bytes, carry ? i64.add(total, carry) : total)),
    arithmeticFlags(e, carry ? 'adc' : 'add', bytes, a, b, get(r)),
    e.set('d', bytes, get(r)),
  ];
};
const difference = (e: Emitter, bytes: Size, aCode: Code, bCode: Code, borrow: Code | null, write: boolean): Code => {
  const [kept, a, b] = keep(e, aCode, bCode) as [Code, Code, Code];
  const r = e.local('i64');
  const rest = i64.sub(a, b);
  return [
    kept,
    set(r, signExtend(bytes, borrow ? i64.sub(rest, borrow) : rest)),
    arithmeticFlags(e, borrow ? 'sbb' : 'sub', bytes, a, b, get(r)),
    write ? e.set('d', bytes, get(r)) : [],
  ];
};
const logic = (e: Emitter, bytes: Size, value: Code, write: boolean): Code => {
  const r = e.local('i64');
  return [set(r, value), arithmeticFlags(e, 'logic', bytes, get(r), get(r), get(r)), write ? e.set('d', bytes, get(r)) : []];
};

twoForms('add', SIZES, (e, bytes, b) => sum(e, bytes, b, null));
twoForms('adc', SIZES, (e, bytes, b) => sum(e, bytes, b, carryIn(e)));
twoForms('sub', SIZES, (e, bytes, b) => difference(e, bytes, e.get('a', bytes), b, null, true));
twoForms('sbb', SIZES, (e, bytes, b) => difference(e, bytes, e.get('a', bytes), b, carryIn(e), true));
twoForms('cmp', SIZES, (e, bytes, b) => difference(e, bytes, e.get('a', bytes), b, null, false));
twoForms('and', SIZES, (e, bytes, b) => logic(e, bytes, i64.and(e.get('a', bytes), b), true));
twoForms('or', SIZES, (e, bytes, b) => logic(e, bytes, i64.or(e.get('a', bytes), b), true));
twoForms('xor', SIZES, (e, bytes, b) => logic(e, bytes, i64.xor(e.get('a', bytes), b), true));
twoForms('test', SIZES, (e, bytes, b) => logic(e, bytes, i64.and(e.get('a', bytes), b), false));

for (const bytes of SIZES) {
  for (const rule of ['inc', 'dec'] as const) {
    define(`${rule}.${bytes}`, (e) => {
      const [kept, a] = keep(e, e.get('d', bytes)) as [Code, Code];
      const r = e.local('i64');
      return [
        kept,
        set(r, signExtend(bytes, rule === 'inc' ? i64.add(a, c64(1)) : i64.sub(a, c64(1)))),
        arithmeticFlags(e, rule, bytes, a, c64(1), get(r)),
        e.set('d', bytes, get(r)),
      ];
    });
  }
  define(`neg.${bytes}`, (e) => difference(e, bytes, c64(0), e.get('d', bytes), null, true));
  define(`not.${bytes}`, (e) => e.set('d', bytes, not(e.get('d', bytes))));
}

// ## Multiplying and dividing
//
// CF and OF say whether the upper half of a product means anything. The rest is undefined; processors of today let SF and PF follow the lower half and clear
// ZF and AF, and so does this.

const productFlags = (e: Emitter, low: Code, significant: Code): Code => {
  const word = i64.shl(i64.extend_i32_u(significant), c64(63));
  return setFlagWords(e, nonZero(low), word, word);
};
/** High half of the signed 128-bit product, from the unsigned one. */
const signedHigh = (e: Emitter, a: Code, b: Code): Code =>
  i64.sub(i64.sub(call(e.helpers.multiplyHigh, a, b), i64.and(i64.shr_s(a, c64(63)), b)), i64.and(i64.shr_s(b, c64(63)), a));

twoForms('imul', WIDE, (e, bytes, bCode) => {
  const [kept, a, b] = keep(e, e.get('a', bytes), bCode) as [Code, Code, Code];
  const product = e.local('i64');
  const low = e.local('i64');
  const significant = bytes === 8 ? i64.ne(signedHigh(e, a, b), i64.shr_s(get(low), c64(63))) : i64.ne(get(low), get(product));
  return [kept, set(low, signExtend(bytes, tee(product, i64.mul(a, b)))), productFlags(e, get(low), significant), e.set('d', bytes, get(low))];
});
for (const bytes of SIZES) {
  // AX := AL * a; rDX:rAX := rAX * a.
  for (const isSigned of [false, true]) {
    define(`${isSigned ? 'imulWide' : 'mulWide'}.${bytes}`, (e) => {
      const factor = (slot: number): Code => (isSigned ? e.slotSigned(slot, bytes) : e.slotUnsigned(slot, bytes));
      const [kept, a, b] = keep(e, factor(SLOT.RAX), isSigned ? e.get('a', bytes) : e.getUnsigned('a', bytes)) as [Code, Code, Code];
      const product = e.local('i64');
      const high = e.local('i64');
      const low = signExtend(bytes, get(product));
      const upper = bytes === 8 ? (isSigned ? signedHigh(e, a, b) : call(e.helpers.multiplyHigh, a, b)) : i64.shr_s(get(product), c64(8 * bytes));
      const significant = isSigned
        ? i64.ne(bytes === 8 ? get(high) : get(product), bytes === 8 ? i64.shr_s(get(product), c64(63)) : low)
        : i64.ne(cut(bytes, get(high)), c64(0));
      return [
        kept,
        set(product, i64.mul(a, b)),
        set(high, upper),
        productFlags(e, low, significant),
        bytes === 1 ? e.setSlot(SLOT.RAX, 2, get(product)) : [e.setSlot(SLOT.RAX, bytes, get(product)), e.setSlot(SLOT.RDX, bytes, get(high))],
      ];
    });
  }
  // Quotient to AL or rAX, remainder to AH or rDX. #DE when the divisor is zero or the quotient does not fit. Flags are undefined: left alone.
  const store = (e: Emitter, quotient: Code, remainder: Code): Code =>
    bytes === 1
      ? e.setSlot(SLOT.RAX, 2, i64.or(i64.and(quotient, c64(0xff)), i64.shl(i64.and(remainder, c64(0xff)), c64(8))))
      : [e.setSlot(SLOT.RAX, bytes, quotient), e.setSlot(SLOT.RDX, bytes, remainder)];
  const dividend = (e: Emitter): Code =>
    bytes === 1 ? e.slotUnsigned(SLOT.RAX, 2) : i64.or(e.slotUnsigned(SLOT.RAX, bytes), i64.shl(e.slotUnsigned(SLOT.RDX, bytes), c64(8 * bytes)));
  define(`div.${bytes}`, (e) => {
    const divisor = e.local('i64');
    const whole = e.local('i64');
    const quotient = e.local('i64');
    const zeroDivisor = when(i64.eqz(tee(divisor, e.getUnsigned('a', bytes))), e.fault(VECTOR.DE));
    if (bytes < 8) {
      return [
        zeroDivisor,
        set(whole, dividend(e)),
        when(i64.gt_u(tee(quotient, i64.div_u(get(whole), get(divisor))), c64(2 ** (8 * bytes) - 1)), e.fault(VECTOR.DE)),
        store(e, get(quotient), i64.rem_u(get(whole), get(divisor))),
      ];
    }
    const high = e.slotUnsigned(SLOT.RDX, 8);
    return [
      zeroDivisor,
      set(whole, e.slotUnsigned(SLOT.RAX, 8)),
      when(i64.ge_u(high, get(divisor)), e.fault(VECTOR.DE)),
      set(quotient, either(i64.eqz(high), i64.div_u(get(whole), get(divisor)), call(e.helpers.divide, high, get(whole), get(divisor)), 'i64')),
      store(e, get(quotient), i64.sub(get(whole), i64.mul(get(quotient), get(divisor)))),
    ];
  });
  define(`idiv.${bytes}`, (e) => {
    const divisor = e.local('i64');
    const whole = e.local('i64');
    const quotient = e.local('i64');
    const zeroDivisor = when(i64.eqz(tee(divisor, e.get('a', bytes))), e.fault(VECTOR.DE));
    if (bytes < 8) {
      const value = bytes === 1 ? e.slotSigned(SLOT.RAX, 2) : signExtend(2 * bytes, dividend(e));
      // WebAssembly's own division traps on -2^63 / -1. Only a 64-bit dividend can be -2^63.
      const overflows = bytes === 4 ? when(i32.and(i64.eq(get(whole), MIN), i64.eq(get(divisor), c64(-1))), e.fault(VECTOR.DE)) : [];
      return [
        zeroDivisor,
        set(whole, value),
        overflows,
        set(quotient, i64.div_s(get(whole), get(divisor))),
        when(i64.ne(signExtend(bytes, get(quotient)), get(quotient)), e.fault(VECTOR.DE)),
        store(e, get(quotient), i64.rem_s(get(whole), get(divisor))),
      ];
    }
    // 128 bits: divide magnitudes, then see whether the quotient fits with its sign. The remainder has the dividend's sign.
    const high = e.local('i64');
    const magnitude = e.local('i64');
    const sign = e.local('i64'); // 0, or -1 when the quotient is negative
    const negate = (x: Code, mask: Code): Code => i64.sub(i64.xor(x, mask), mask);
    const lowLocal = e.local('i64');
    const top = i64.shr_s(e.slotUnsigned(SLOT.RDX, 8), c64(63));
    const low = get(lowLocal); // kept: the remainder is computed after the quotient has replaced it
    return [
      zeroDivisor,
      set(lowLocal, e.slotUnsigned(SLOT.RAX, 8)),
      set(sign, i64.xor(top, i64.shr_s(get(divisor), c64(63)))),
      set(magnitude, negate(get(divisor), i64.shr_s(get(divisor), c64(63)))),
      set(whole, negate(low, top)),
      // High half of the negated dividend: one more is borrowed unless the low half is zero.
      set(high, i64.add(i64.xor(e.slotUnsigned(SLOT.RDX, 8), top), i64.and(i64.extend_i32_u(i64.eqz(low)), i64.and(top, c64(1))))),
      when(i64.ge_u(get(high), get(magnitude)), e.fault(VECTOR.DE)),
      set(
        quotient,
        either(i64.eqz(get(high)), i64.div_u(get(whole), get(magnitude)), call(e.helpers.divide, get(high), get(whole), get(magnitude)), 'i64'),
      ),
      // The largest magnitude is 2^63 - 1, and one more when the quotient is negative.
      when(i64.gt_u(get(quotient), i64.sub(i64.const((1n << 63n) - 1n), get(sign))), e.fault(VECTOR.DE)),
      set(quotient, negate(get(quotient), get(sign))),
      store(e, get(quotient), i64.sub(low, i64.mul(get(quotient), get(divisor)))),
    ];
  });
}
/** Fills d with the sign of a: CWD and its relatives. */
for (const bytes of WIDE) define(`signFill.${bytes}`, (e) => e.set('d', bytes, i64.shr_s(e.get('a', bytes), c64(63))));

// ## Checks with an outcome

for (const bytes of [2, 4] as const) {
  /** BOUND: index d within [a, b], signed. */
  define(`bound.${bytes}`, (e) =>
    when(i32.or(i64.lt_s(e.get('d', bytes), e.get('a', bytes)), i64.gt_s(e.get('d', bytes), e.get('b', bytes))), e.fault(VECTOR.BR)),
  );
}

// ## Decimal
//
// Adjustments of the result of an addition or subtraction of decimal digits, from the days of the 8080. All work on AL (and AH).

const AL = (e: Emitter): Code => e.slotUnsigned(SLOT.RAX, 1);
const auxiliary = (e: Emitter): Code => i64.and(i64.shr_u(carryWord(e), c64(AF_BIT)), c64(1));
/** Flags after an adjustment: SF, ZF, PF of AL; CF and AF as given (0 or 1); OF is undefined and cleared. */
const adjusted = (e: Emitter, carry: Code, aux: Code): Code => [
  e.setSlot(SLOT.CC_A, 8, i64.or(i64.shl(carry, c64(63)), i64.shl(aux, c64(AF_BIT)))),
  e.setSlot(SLOT.CC_RESULT, 8, e.slotSigned(SLOT.RAX, 1)),
  e.setSlot(SLOT.CC_B, 8, c64(0)),
];
for (const [name, combine] of [
  ['daa', i64.add],
  ['das', i64.sub],
] as const) {
  define(name, (e) => {
    const old = e.local('i64');
    const low = e.local('i64');
    const high = e.local('i64');
    const carry = e.local('i64');
    const digit = i64.extend_i32_u(i64.gt_u(i64.and(get(old), c64(15)), c64(9)));
    // DAS may borrow out of AL while it corrects the low digit; that counts as a carry too.
    const borrow = name === 'das' ? i64.and(get(low), i64.extend_i32_u(i64.lt_u(get(old), c64(6)))) : c64(0);
    return [
      set(old, AL(e)),
      set(low, i64.or(digit, auxiliary(e))),
      set(high, i64.or(i64.extend_i32_u(i64.gt_u(get(old), c64(0x99))), carryIn(e))),
      set(carry, i64.or(get(high), borrow)),
      e.setSlot(SLOT.RAX, 1, combine(combine(get(old), i64.mul(get(low), c64(6))), i64.mul(get(high), c64(0x60)))),
      adjusted(e, get(carry), get(low)),
    ];
  });
}
for (const [name, combine] of [
  ['aaa', i64.add],
  ['aas', i64.sub],
] as const) {
  define(name, (e) => {
    const adjust = e.local('i64');
    return [
      set(adjust, i64.or(i64.extend_i32_u(i64.gt_u(i64.and(AL(e), c64(15)), c64(9))), auxiliary(e))),
      e.setSlot(SLOT.RAX, 2, combine(e.slotUnsigned(SLOT.RAX, 2), i64.mul(get(adjust), c64(0x106)))),
      e.setSlot(SLOT.RAX, 1, i64.and(AL(e), c64(15))),
      adjusted(e, get(adjust), get(adjust)),
    ];
  });
}
define('aam', (e) => {
  const al = e.local('i64');
  const base = i64.and(e.imm, c64(0xff));
  return [
    when(i64.eqz(base), e.fault(VECTOR.DE)),
    set(al, AL(e)),
    e.setSlot(SLOT.RAX, 2, i64.or(i64.shl(i64.div_u(get(al), base), c64(8)), i64.rem_u(get(al), base))),
    adjusted(e, c64(0), c64(0)),
  ];
});
// An addition of bytes, with the flags of one, although the manual defines only three of them.
define('aad', (e) => {
  const [kept, a, b] = keep(e, e.slotSigned(SLOT.RAX, 1), i64.extend8_s(i64.mul(i64.shr_u(e.slotUnsigned(SLOT.RAX, 2), c64(8)), e.imm))) as [
    Code,
    Code,
    Code,
  ];
  const r = e.local('i64');
  return [
    kept,
    set(r, i64.extend8_s(i64.add(a, b))),
    setFlags(e, get(r), carries(a, b, get(r)), addOverflow(a, b, get(r))),
    e.setSlot(SLOT.RAX, 2, i64.and(get(r), c64(0xff))),
  ];
});
