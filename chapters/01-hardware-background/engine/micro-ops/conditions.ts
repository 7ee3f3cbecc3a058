// # Micro-operations: conditions and flags

import { FLAG, OFFSET, SLOT } from '../../state.ts';
import { AF_BIT, PF_DELTA, SF_DELTA } from '../flags.ts';
import { type Code, either, get, i32, i64, select, set } from '../wasm-assembler.ts';
import { define, type Emitter } from './emitter.ts';
import { CONDITIONS, c64, carryIn, carryWord, condition, evenParity, MIN, not, SIZES, setCarry, signWord, zero } from './vocabulary.ts';

// ## Conditions

for (const name of CONDITIONS) define(`set.${name}`, (e) => e.set('d', 1, i64.extend_i32_u(condition(name, e))));
/** d := (operand a is zero), as a byte; without flags. */
for (const bytes of SIZES) {
  define(`isZero.${bytes}`, (e) => e.set('d', 1, i64.extend_i32_u(i64.eqz(e.get('a', bytes)))));
  define(`isEqual.${bytes}`, (e) => e.set('d', 1, i64.extend_i32_u(i64.eq(e.get('a', bytes), e.get('b', bytes)))));
}
define('flip', (e) => e.set('d', 1, i64.xor(e.get('a', 1), c64(1)))); // negates a truth value
define('both', (e) => e.set('d', 1, i64.and(e.get('a', 1), e.get('b', 1))));

/** ZF := the byte a; the other flags keep their values, whatever they were. */
define('setZero', (e) => {
  const sign = e.local('i64');
  const odd = e.local('i64');
  const kept = i64.and(carryWord(e), i64.const(-(1n << 63n) | (1n << BigInt(AF_BIT))));
  return [
    set(sign, i64.shr_u(signWord(e), c64(63))),
    set(odd, i64.extend_i32_u(i32.eqz(evenParity(e)))),
    either(
      i32.wrap_i64(e.getUnsigned('a', 1)),
      [
        e.setSlot(SLOT.CC_A, 8, i64.or(kept, i64.or(i64.shl(get(sign), c64(SF_DELTA)), i64.shl(get(odd), c64(PF_DELTA))))),
        e.setSlot(SLOT.CC_RESULT, 8, c64(0)),
      ],
      [e.setSlot(SLOT.CC_A, 8, kept), e.setSlot(SLOT.CC_RESULT, 8, i64.or(i64.or(i64.shl(get(sign), c64(63)), c64(0x100)), get(odd)))],
    ),
  ];
});

// ## Flags by name

define('clc', (e) => setCarry(e, c64(0)));
define('stc', (e) => setCarry(e, MIN));
define('cmc', (e) => setCarry(e, not(carryWord(e))));
define('cld', (e) => e.setField32(OFFSET.RFLAGS, i32.and(e.field32(OFFSET.RFLAGS), i32.const(~FLAG.DF))));
define('std', (e) => e.setField32(OFFSET.RFLAGS, i32.or(e.field32(OFFSET.RFLAGS), i32.const(FLAG.DF))));

/** The five low flags as LAHF sees them: SF ZF 0 AF 0 PF 1 CF. */
const lowFlags = (e: Emitter): Code => {
  const bit = (value: Code, at: number): Code => i64.shl(value, c64(at));
  const parts = [
    bit(i64.shr_u(signWord(e), c64(63)), 7),
    bit(i64.extend_i32_u(zero(e)), 6),
    bit(i64.and(i64.shr_u(carryWord(e), c64(AF_BIT)), c64(1)), 4),
    bit(i64.extend_i32_u(evenParity(e)), 2),
    c64(FLAG.FIXED),
    carryIn(e),
  ];
  return parts.reduce((x, y) => i64.or(x, y));
};
define('lahf', (e) => e.set('d', 1, lowFlags(e)));
define('sahf', (e) => {
  const f = e.local('i64');
  const flag = (mask: number, shift: number): Code => i64.and(i64.shr_u(get(f), c64(shift)), c64(mask));
  const isZero = e.local('i64');
  const sign = flag(1, 7);
  const odd = i64.xor(flag(1, 2), c64(1));
  const carry = i64.or(i64.shl(get(f), c64(63)), i64.shl(flag(1, 4), c64(AF_BIT)));
  const deltas = i64.or(i64.shl(sign, c64(SF_DELTA)), i64.shl(odd, c64(PF_DELTA)));
  const shown = i64.or(i64.or(i64.shl(sign, c64(63)), c64(0x100)), odd);
  return [
    set(f, e.getUnsigned('a', 1)),
    set(isZero, flag(1, 6)),
    e.setSlot(SLOT.CC_RESULT, 8, select(c64(0), shown, i32.wrap_i64(get(isZero)))),
    e.setSlot(SLOT.CC_A, 8, i64.or(carry, select(deltas, c64(0), i32.wrap_i64(get(isZero))))),
  ];
});
