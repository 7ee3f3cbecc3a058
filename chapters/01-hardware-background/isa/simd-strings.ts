// # Text and checksums: SSE4.2
//
// The last extension of SSE is unlike the others: four instructions that compare two strings in every way that somebody found useful, and one that computes
// a checksum.

import { PF_DELTA, SF_DELTA } from '../engine/flags.ts';
import { define, defineFunction, type Emitter, type StateAccess } from '../engine/micro-ops.ts';
import { brIf, type Code, either, get, i32, i64, Label, type Local, loop, select, set, when } from '../engine/wasm-assembler.ts';
import { i8x16, i16x8, i32x4, i64x2, v128 } from '../engine/wasm-vectors.ts';
import { SLOT } from '../state.ts';
import { type Builder, xmm } from './builder.ts';
import { instruction } from './encoding.ts';
import { source, unalignedSource } from './simd-common.ts';
import { keepVector, PLACES, simd, vector, ZERO } from './simd-lanes.ts';

const c = i32.const;

/** Flags of a vector test, each an i32 of 0 or 1. PF and AF are cleared. See `engine/flags.ts` for how three words say so. */
function testFlags(e: Emitter, { zero, carry, sign, overflow }: { zero: Code; carry: Code; sign?: Code; overflow?: Code }): Code {
  const [z, s] = [e.local('i64'), e.local('i64')];
  const bit = (value: Code, n: number): Code => i64.shl(value, i64.const(BigInt(n)));
  return [
    set(z, i64.extend_i32_u(zero)),
    set(s, sign ? i64.extend_i32_u(sign) : i64.const(0n)),
    e.setSlot(SLOT.CC_A, 8, i64.or(bit(i64.extend_i32_u(carry), 63), i64.or(bit(i64.and(get(z), get(s)), SF_DELTA), bit(get(z), PF_DELTA)))),
    e.setSlot(SLOT.CC_B, 8, overflow ? bit(i64.extend_i32_u(overflow), 63) : i64.const(0n)),
    e.setSlot(SLOT.CC_RESULT, 8, select(i64.const(0n), i64.or(bit(get(s), 63), i64.const(1n)), i32.wrap_i64(get(z)))),
  ];
}

// ## PTEST

define(
  'ptest',
  (e) => {
    const [keepX, x] = keepVector(e, e.getVector('d'));
    const [keepY, y] = keepVector(e, e.getVector('a'));
    const none = (v: Code): Code => i32.eqz(v128.any_true(v));
    return [keepX, keepY, testFlags(e, { zero: none(v128.and(y, x)), carry: none(v128.andnot(y, x)) })];
  },
  { outlined: true },
);
const PTEST = simd('PTEST', '66.0F3817 Vx,Wx SSE4.1', (b) => b.emit('ptest', { d: b.registerOf(0), a: source(b, 1) })); // are all bits zero? are all ones?

// ## Comparing strings
//
// The immediate chooses everything:
//
// ```
//   6    5   4    3   2    1   0
// +----+--------+--------+--------+
// |last|polarity| what   | lanes  |
// +----+--------+--------+--------+
// ```
//
// Lanes are unsigned bytes, unsigned words, signed bytes, signed words. *What*: which elements of the second string (0) are in the set that is the first,
// (1) are in one of the ranges that are the first's pairs, (2) equal the first's at the same place, (3) begin a substring that is the first. The result is a bit
// for each element of the second string; the polarity then inverts all of them, or those of valid elements.
//
// Each element of the first string is compared with all of the second at once. So there are as many steps as the first has elements, and a vector comparison
// in each.

interface Elements {
  readonly bytes: 1 | 2;
  readonly count: number;
  /** Bits, one for each element, of a vector of masks. */
  readonly bits: (v: Code) => Code;
  readonly eq: (x: Code, y: Code) => Code;
  readonly ge_s: (x: Code, y: Code) => Code;
  readonly ge_u: (x: Code, y: Code) => Code;
}
const BYTES: Elements = { bytes: 1, count: 16, bits: i8x16.bitmask, eq: i8x16.eq, ge_s: i8x16.ge_s, ge_u: i8x16.ge_u };
const WORDS: Elements = { bytes: 2, count: 8, bits: i16x8.bitmask, eq: i16x8.eq, ge_s: i16x8.ge_s, ge_u: i16x8.ge_u };

const AGGREGATION = { ANY: 0, RANGES: 1, EACH: 2, ORDERED: 3 };

// @clause simd.strings.compare
/** (first string, second string, their lengths, immediate) -> a bit for each element of the second string. */
const compareStrings =
  (elements: Elements) =>
  (s: StateAccess, ...params: Local[]): Code => {
    const [first, second, firstLength, secondLength, imm] = params as [Local, Local, Local, Local, Local];
    const { bytes, count, bits, eq, ge_s, ge_u } = elements;
    const [result, i, valid, kind] = [s.local('i32'), s.local('i32'), s.local('i32'), s.local('i32')];
    const all = c(2 ** count - 1);
    const below = (length: Local): Code => i32.sub(i32.shl(c(1), get(length)), c(1));
    /** Element `n` of the first string in all places. */
    const spread = (n: Code): Code => {
      const place = i32.mul(n, c(bytes));
      if (bytes === 1) return i8x16.swizzle(get(first), i8x16.splat(place));
      return i8x16.swizzle(get(first), i16x8.splat(i32.add(i32.mul(place, c(0x101)), c(0x100))));
    };
    /** `step` for each `i` from 0, by `by`, while another `by` elements of the first string remain. */
    const each = (by: number, step: Code): Code => {
      const [again, done] = [new Label(), i32.le_u(i32.add(get(i), c(by)), get(firstLength))];
      return [set(i, c(0)), when(done, loop(again, [step, set(i, i32.add(get(i), c(by))), brIf(again, done)]))];
    };
    const isKind = (n: number): Code => i32.eq(get(kind), c(n));
    const within = (x: Code, y: Code): Code => either(i32.and(get(imm), c(2)), bits(ge_s(x, y)), bits(ge_u(x, y)), 'i32');
    const add = (more: Code): Code => set(result, i32.or(get(result), more));
    return [
      set(valid, below(secondLength)),
      set(kind, i32.and(i32.shr_u(get(imm), c(2)), c(3))),
      when(isKind(AGGREGATION.ANY), [each(1, add(bits(eq(get(second), spread(get(i)))))), set(result, i32.and(get(result), get(valid)))]),
      when(isKind(AGGREGATION.RANGES), [
        each(2, add(i32.and(within(get(second), spread(get(i))), within(spread(i32.add(get(i), c(1))), get(second))))),
        set(result, i32.and(get(result), get(valid))),
      ]),
      // Where both strings have ended they are equal; where one has, they are not.
      when(isKind(AGGREGATION.EACH), [
        set(result, i32.and(bits(eq(get(first), get(second))), i32.and(get(valid), below(firstLength)))),
        add(i32.and(all, i32.xor(i32.or(get(valid), below(firstLength)), c(-1)))),
      ]),
      // What would have to be compared beyond the end of the register counts as equal: the search goes on in the next sixteen bytes.
      when(isKind(AGGREGATION.ORDERED), [
        set(result, all),
        each(1, [
          set(
            result,
            i32.and(
              get(result),
              i32.or(i32.shr_u(i32.and(bits(eq(get(second), spread(get(i)))), get(valid)), get(i)), i32.shl(c(-1), i32.sub(c(count), get(i)))),
            ),
          ),
        ]),
      ]),
      when(i32.and(get(imm), c(0x10)), set(result, i32.xor(get(result), select(get(valid), all, i32.and(get(imm), c(0x20)))))),
      get(result),
    ];
  };
for (const [name, elements] of [
  ['string.1', BYTES],
  ['string.2', WORDS],
] as const) {
  defineFunction(name, ['v128', 'v128', 'i32', 'i32', 'i32'], ['i32'], compareStrings(elements));
}

// A string ends before its first zero, or (E: explicit) has its length in EAX or EDX, of which the sign does not matter. It has at most as many elements as
// the register.

const implicitLength = (v: Code, { bits, eq, count }: Elements): Code => i32.ctz(i32.or(bits(eq(v, ZERO)), c(2 ** count)));
const explicitLength = (e: Emitter, register: number, bytes: number, { count }: Elements): [Code, Code] => {
  const [value, length] = [e.local('i64'), e.local('i64')];
  const most = i64.const(BigInt(count));
  const magnitude = select(i64.sub(i64.const(0n), get(value)), get(value), i64.lt_s(get(value), i64.const(0n)));
  // The magnitude of the most negative number is right as an unsigned one.
  const kept = [
    set(value, bytes === 8 ? e.slotSigned(register, 8) : e.slotSigned(register, 4)),
    set(length, magnitude),
    set(length, select(most, get(length), i64.gt_u(get(length), most))),
  ];
  return [kept, i32.wrap_i64(get(length))];
};

for (const elements of [BYTES, WORDS]) {
  for (const lengths of ['implicit', 'explicit.4', 'explicit.8']) {
    for (const answer of ['index', 'mask']) {
      const { bytes, count } = elements;
      // d and a are the strings.
      const meaning = (e: Emitter): Code => {
        const [keepFirst, first] = keepVector(e, e.getVector('d'));
        const [keepSecond, second] = keepVector(e, e.getVector('a'));
        const [firstLength, secondLength, result] = [e.local('i32'), e.local('i32'), e.local('i32')];
        const imm = e.local('i32');
        const width = lengths === 'explicit.8' ? 8 : 4;
        const [keepA, lengthA] = lengths === 'implicit' ? [[], implicitLength(first, elements)] : explicitLength(e, SLOT.RAX, width, elements);
        const [keepD, lengthD] = lengths === 'implicit' ? [[], implicitLength(second, elements)] : explicitLength(e, SLOT.RDX, width, elements);
        const last = i32.and(get(imm), c(0x40));
        const index = select(i32.sub(c(31), i32.clz(get(result))), i32.ctz(get(result)), last);
        const spreadBits = i8x16.swizzle(i32x4.splat(get(result)), vector(PLACES.map((place) => (bytes === 1 ? place >> 3 : 0))));
        const ownBit = vector(PLACES.map((place) => 1 << (bytes === 1 ? place & 7 : place >> 1)));
        const lanesOfOnes = i8x16.ne(v128.and(spreadBits, ownBit), ZERO);
        const bitsAlone = i64x2.replace(ZERO, 0, i64.extend_i32_u(get(result)));
        return [
          [keepFirst, keepSecond, set(imm, i32.wrap_i64(e.imm))],
          [keepA, set(firstLength, lengthA), keepD, set(secondLength, lengthD)],
          set(result, e.call(`string.${bytes}`, first, second, get(firstLength), get(secondLength), get(imm))),
          testFlags(e, {
            carry: i32.ne(get(result), c(0)),
            zero: i32.lt_u(get(secondLength), c(count)),
            sign: i32.lt_u(get(firstLength), c(count)),
            overflow: i32.and(get(result), c(1)),
          }),
          answer === 'index'
            ? e.setSlot(SLOT.RCX, 4, i64.extend_i32_u(select(index, c(count), get(result))))
            : e.setVector('b', either(last, lanesOfOnes, bitsAlone, 'v128')),
        ];
      };
      define(`string.${bytes}.${lengths}.${answer}`, meaning, { outlined: true });
    }
  }
}

/** These take sixteen bytes from any address. */
const compare = (explicit: boolean, answer: 'index' | 'mask') => (b: Builder) => {
  const lengths = explicit ? `explicit.${b.insn.operandSize === 8 ? 8 : 4}` : 'implicit';
  const [d, a] = [b.registerOf(0), unalignedSource(b, 1)];
  b.emit(`string.${b.insn.imm & 1n ? 2 : 1}.${lengths}.${answer}`, { d, a, b: xmm(0), imm: b.insn.imm });
};
const STRINGS = [
  simd('PCMPESTRM', '66.0F3A60 Vx,Wx,Ib SSE4.2', compare(true, 'mask')), // compares strings of given lengths, result as a mask
  simd('PCMPESTRI', '66.0F3A61 Vx,Wx,Ib SSE4.2', compare(true, 'index')), // compares strings of given lengths, result as an index
  simd('PCMPISTRM', '66.0F3A62 Vx,Wx,Ib SSE4.2', compare(false, 'mask')), // compares strings that end in zero, result as a mask
  simd('PCMPISTRI', '66.0F3A63 Vx,Wx,Ib SSE4.2', compare(false, 'index')), // compares strings that end in zero, result as an index
];

// ## CRC32
//
// A cyclic redundancy check is a remainder of polynomials over two elements, and so a *linear* function of the bits that go in: the checksum of a word is the
// exclusive or, over its bits, of what each alone gives. Thirty-two constants, four to a vector, replace thirty-two steps that would each wait for the one before.
// The polynomial is Castagnoli's, with the bits of a byte in the order in which serial lines send them.

// @clause x86.crc32.results
const POLYNOMIAL = 0x82f63b78;
/** The checksum after `bits` more zero bits. */
const advance = (crc: number, bits: number): number => (bits === 0 ? crc : advance((crc >>> 1) ^ (crc & 1 ? POLYNOMIAL : 0), bits - 1));
const OF_BIT = Array.from({ length: 32 }, (_, bit) => advance((1 << bit) >>> 0, 32));
const doublewords = (values: readonly number[]): Code => vector(values.flatMap((value) => [0, 8, 16, 24].map((n) => (value >>> n) & 255)));

/** A checksum with four bytes added to it -> after four more bytes of zeros. */
defineFunction('crc32', ['i32'], ['i32'], (s, ...params) => {
  const [spread, sum] = [s.local('v128'), s.local('v128')];
  const four = [0, 1, 2, 3];
  const terms = Array.from({ length: 8 }, (_, group) => {
    const bit = doublewords(four.map((i) => (1 << (4 * group + i)) >>> 0));
    const value = doublewords(four.map((i) => OF_BIT[4 * group + i] as number));
    return v128.and(i32x4.ne(v128.and(get(spread), bit), ZERO), value);
  });
  return [
    set(spread, i32x4.splat(get(params[0] as Local))),
    set(
      sum,
      terms.reduce((x, y) => v128.xor(x, y)),
    ),
    i32.xor(i32.xor(i32x4.extract(get(sum), 0), i32x4.extract(get(sum), 1)), i32.xor(i32x4.extract(get(sum), 2), i32x4.extract(get(sum), 3))),
  ];
});
for (const bytes of [1, 2, 4, 8] as const) {
  define(
    `crc32.${bytes}`,
    (e) => {
      const crc = e.local('i32');
      const mixed = (data: Code): Code => i32.xor(get(crc), i32.wrap_i64(data));
      const data = e.getUnsigned('a', bytes);
      const rest = 32 - 8 * bytes;
      // Fewer than four bytes: shifted up, so that zeros come first and change nothing; the bits of the checksum that they do not reach move down.
      const short = [set(crc, i32.xor(i32.shr_u(get(crc), c(8 * bytes)), e.call('crc32', i32.shl(mixed(data), c(rest)))))];
      const long = [set(crc, e.call('crc32', mixed(data))), bytes === 8 ? set(crc, e.call('crc32', mixed(i64.shr_u(data, i64.const(32n))))) : []];
      return [set(crc, i32.wrap_i64(e.getUnsigned('d', 4))), bytes < 4 ? short : long, e.set('d', 4, i64.extend_i32_u(get(crc)))];
    },
    { outlined: true },
  );
}
// No vector register is involved, so none of the conditions of the others apply.
const CRC32 = instruction('CRC32', 'F2.0F38F0 Gd,Eb SSE4.2; F2.0F38F1 Gd,Ev SSE4.2', (b) =>
  b.emit(`crc32.${b.bytes(1)}`, { d: b.registerOf(0), a: b.value(1) }),
); // adds to a checksum

export const SIMD_STRINGS = [PTEST, ...STRINGS, CRC32];
