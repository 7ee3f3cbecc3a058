// # Bit manipulation
//
// Forty years after the first x86 these instructions gave it what other architectures had from the start: three operands, shifts by any register that leave
// the flags alone, and a multiplication that does not insist on RAX. Most of them stand behind a VEX prefix, which has room for the third register.
//
// Each needs a micro-operation that nobody else does, so it is defined here, beside its instruction.

import { c64, carryIn, carryWord, keep, not, setCarry, setFlags, setOverflow, signExtend } from '../engine/micro-ops/vocabulary.ts';
import { define, defineFunction, type Emitter } from '../engine/micro-ops.ts';
import { brIf, type Code, call, get, i32, i64, Label, loop, select, set, tee, when } from '../engine/wasm-assembler.ts';
import { VECTOR } from '../faults.ts';
import { MODE, OFFSET, SLOT } from '../state.ts';
import type { Builder } from './builder.ts';
import { instruction } from './encoding.ts';

/** Sizes of the instructions with a VEX prefix. */
const SIZES = [4, 8] as const;
const ONE = c64(1);
/** Code with two values that are used more than once. */
function withTwo(e: Emitter, a: Code, b: Code, body: (a: Code, b: Code) => Code): Code {
  const [kept, first, second] = keep(e, a, b) as [Code, Code, Code];
  return [kept, body(first, second)];
}
/** Sets the flags of a logical result: CF as given (bit 63), OF clear. */
const logical = (e: Emitter, bytes: number, r: Code, carry: Code = c64(0)): Code => setFlags(e, signExtend(bytes, r), carry, c64(0));
const carryIf = (condition: Code): Code => i64.shl(i64.extend_i32_u(condition), c64(63));

// A VEX prefix is undefined in real and virtual-8086 mode. In 64-bit code there is nothing to ask.
// @clause x86.vex.modes
define(
  'vexMode',
  (e) => when(i32.ne(i32.and(e.field32(OFFSET.MODE), i32.const(MODE.PROTECTED | MODE.V86)), i32.const(MODE.PROTECTED)), e.fault(VECTOR.UD)),
  {
    outlined: true,
  },
);
const vex = (body: (b: Builder) => void) => (b: Builder) => {
  if (!b.code64) b.emit('vexMode');
  body(b);
};
/** The first operand is the destination, the others are sources, in the order that the micro-operation wants them. */
const threeOperands = (name: string, first: number, second: number): ((b: Builder) => void) =>
  vex((b) => {
    const a = b.value(first);
    b.emit(`${name}.${b.bytes(0)}`, { d: b.value(0), a, b: b.value(second) });
  });
const twoOperands = (name: string): ((b: Builder) => void) =>
  vex((b) => {
    const a = b.value(1);
    b.emit(`${name}.${b.bytes(0)}`, { d: b.value(0), a });
  });

// ## Fields and lowest bits
//
// @clause x86.bmi.results

for (const bytes of SIZES) {
  const width = 8 * bytes;
  define(`andn.${bytes}`, (e) => {
    const r = e.local('i64');
    return [set(r, i64.and(not(e.get('a', bytes)), e.get('b', bytes))), logical(e, bytes, get(r)), e.set('d', bytes, get(r))];
  });
  // a & -a, a ^ (a - 1), a & (a - 1): the lowest bit, all up to it, all but it.
  for (const [name, change, carries] of [
    ['blsi', (a: Code): Code => i64.and(a, i64.sub(c64(0), a)), (a: Code): Code => i32.eqz(i64.eqz(a))],
    ['blsmsk', (a: Code): Code => i64.xor(a, i64.sub(a, ONE)), (a: Code): Code => i64.eqz(a)],
    ['blsr', (a: Code): Code => i64.and(a, i64.sub(a, ONE)), (a: Code): Code => i64.eqz(a)],
  ] as const) {
    define(`${name}.${bytes}`, (e) => {
      const a = e.local('i64');
      const r = e.local('i64');
      return [set(a, e.get('a', bytes)), set(r, change(get(a))), logical(e, bytes, get(r), carryIf(carries(get(a)))), e.set('d', bytes, get(r))];
    });
  }
  /** The low n bits of x. */
  const lowBits = (x: Code, n: Code): Code => select(i64.and(x, i64.sub(i64.shl(ONE, n), ONE)), x, i64.lt_u(n, c64(64)));
  define(`bextr.${bytes}`, (e) => {
    const r = e.local('i64');
    const control = e.getUnsigned('b', 2);
    const start = i64.and(control, c64(0xff));
    const shifted = select(i64.shr_u(e.getUnsigned('a', bytes), start), c64(0), i64.lt_u(start, c64(64)));
    return [set(r, lowBits(shifted, i64.shr_u(control, c64(8)))), logical(e, bytes, get(r)), e.set('d', bytes, get(r))];
  });
  define(`bzhi.${bytes}`, (e) => {
    const r = e.local('i64');
    const n = e.getUnsigned('b', 1);
    return [set(r, lowBits(e.getUnsigned('a', bytes), n)), logical(e, bytes, get(r), carryIf(i64.ge_u(n, c64(width)))), e.set('d', bytes, get(r))];
  });
}

const ANDN = instruction('ANDN', 'VEX.0F38F2 Gy,By,Ey BMI1', threeOperands('andn', 1, 2)); // and, with the first source complemented
const BEXTR = instruction('BEXTR', 'VEX.0F38F7 Gy,Ey,By BMI1', threeOperands('bextr', 1, 2)); // extracts a field of bits
const BLSR = instruction('BLSR', 'VEX.0F38F3/1 By,Ey BMI1', twoOperands('blsr')); // clears the lowest one
const BLSMSK = instruction('BLSMSK', 'VEX.0F38F3/2 By,Ey BMI1', twoOperands('blsmsk')); // a mask up to the lowest one
const BLSI = instruction('BLSI', 'VEX.0F38F3/3 By,Ey BMI1', twoOperands('blsi')); // keeps the lowest one alone
const BZHI = instruction('BZHI', 'VEX.0F38F5 Gy,Ey,By BMI2', threeOperands('bzhi', 1, 2)); // clears the bits from a place on

// ## Counting zeros
//
// These look like BSF and BSR with a prefix, and on a processor that does not have them that is what they are: for zero the answers differ. Software that asks
// CPUID first is safe; a virtual machine that migrates between the two kinds of processor is not.

for (const bytes of [2, 4, 8] as const) {
  const width = 8 * bytes;
  for (const [name, count] of [
    ['tzcnt', (a: Code): Code => select(c64(width), i64.ctz(a), i64.eqz(a))],
    ['lzcnt', (a: Code): Code => i64.sub(i64.clz(a), c64(64 - width))],
  ] as const) {
    define(`${name}.${bytes}`, (e) => {
      const a = e.local('i64');
      const r = e.local('i64');
      return [set(a, e.getUnsigned('a', bytes)), set(r, count(get(a))), logical(e, 8, get(r), carryIf(i64.eqz(get(a)))), e.set('d', bytes, get(r))];
    });
  }
}
const countZeros = (name: string) => (b: Builder) => b.emit(`${name}.${b.bytes(0)}`, { d: b.value(0), a: b.value(1) });
const TZCNT = instruction('TZCNT', 'F3.0FBC Gv,Ev BMI1', countZeros('tzcnt')); // counts trailing zeros
const LZCNT = instruction('LZCNT', 'F3.0FBD Gv,Ev LZCNT', countZeros('lzcnt')); // counts leading zeros

// ## Shifts and a multiplication without flags

for (const bytes of SIZES) {
  const count = (x: Code): Code => i64.and(x, c64(8 * bytes - 1));
  define(`sarx.${bytes}`, (e) => e.set('d', bytes, i64.shr_s(e.get('a', bytes), count(e.getUnsigned('b', bytes)))));
  define(`shlx.${bytes}`, (e) => e.set('d', bytes, i64.shl(e.getUnsigned('a', bytes), count(e.getUnsigned('b', bytes)))));
  define(`shrx.${bytes}`, (e) => e.set('d', bytes, i64.shr_u(e.getUnsigned('a', bytes), count(e.getUnsigned('b', bytes)))));
  define(`rorx.${bytes}`, (e) =>
    withTwo(e, e.getUnsigned('a', bytes), count(e.imm), (a, n) =>
      e.set('d', bytes, bytes === 8 ? i64.rotl(a, i64.sub(c64(64), n)) : i64.or(i64.shr_u(a, n), i64.shl(a, i64.sub(c64(32), n)))),
    ),
  );
  // The low half goes first, so that with one register named twice it is the high half that remains.
  define(`mulx.${bytes}`, (e) =>
    withTwo(e, e.getUnsigned('a', bytes), e.slotUnsigned(SLOT.RDX, bytes), (a, b) => {
      if (bytes === 8) return [e.set('b', 8, i64.mul(a, b)), e.set('d', 8, call(e.helpers.multiplyHigh, a, b))];
      const product = e.local('i64');
      return [set(product, i64.mul(a, b)), e.set('b', 4, get(product)), e.set('d', 4, i64.shr_u(get(product), c64(32)))];
    }),
  );
}
const SARX = instruction('SARX', 'VEX.F3.0F38F7 Gy,Ey,By BMI2', threeOperands('sarx', 1, 2)); // shifts right, copying the sign, no flags
const SHLX = instruction('SHLX', 'VEX.66.0F38F7 Gy,Ey,By BMI2', threeOperands('shlx', 1, 2)); // shifts left, no flags
const SHRX = instruction('SHRX', 'VEX.F2.0F38F7 Gy,Ey,By BMI2', threeOperands('shrx', 1, 2)); // shifts right, no flags
const RORX = instruction(
  'RORX',
  'VEX.F2.0F3AF0 Gy,Ey,Ib BMI2',
  vex((b) => b.emit(`rorx.${b.bytes(0)}`, { a: b.value(1), d: b.value(0), imm: b.insn.imm })),
); // rotates right, no flags
const MULX = instruction(
  'MULX',
  'VEX.F2.0F38F6 Gy,By,Ey BMI2',
  vex((b) => {
    const a = b.value(2);
    b.emit(`mulx.${b.bytes(0)}`, { d: b.value(0), a, b: b.value(1) });
  }),
); // multiplies, no flags

// ## Scattering and gathering bits
//
// PDEP hands the low bits of one operand out to the places where the mask has ones; PEXT collects them. Both go through the mask bit by bit.

for (const name of ['pdep', 'pext']) {
  defineFunction(name, ['i64', 'i64'], ['i64'], (s, value, maskParam) => {
    const mask = maskParam as NonNullable<typeof maskParam>;
    const bits = value as NonNullable<typeof value>;
    const out = s.local('i64');
    const place = s.local('i64'); // the bit of the dense operand that is next
    const lowest = s.local('i64');
    const again = new Label();
    const [from, to] = name === 'pdep' ? [place, lowest] : [lowest, place];
    return [
      set(place, ONE),
      when(i32.eqz(i64.eqz(get(mask))), [
        loop(again, [
          set(lowest, i64.and(get(mask), i64.sub(c64(0), get(mask)))),
          when(i32.eqz(i64.eqz(i64.and(get(bits), get(from)))), set(out, i64.or(get(out), get(to)))),
          set(place, i64.shl(get(place), ONE)),
          brIf(again, i32.eqz(i64.eqz(tee(mask, i64.and(get(mask), i64.sub(get(mask), ONE)))))),
        ]),
      ]),
      get(out),
    ];
  });
  for (const bytes of SIZES) define(`${name}.${bytes}`, (e) => e.set('d', bytes, e.call(name, e.getUnsigned('a', bytes), e.getUnsigned('b', bytes))));
}
const PDEP = instruction('PDEP', 'VEX.F2.0F38F5 Gy,By,Ey BMI2', threeOperands('pdep', 1, 2)); // scatters bits to the places of a mask
const PEXT = instruction('PEXT', 'VEX.F3.0F38F5 Gy,By,Ey BMI2', threeOperands('pext', 1, 2)); // gathers the bits at the places of a mask

// ## Two chains of carries
//
// ADCX adds with CF and leaves OF alone, ADOX adds with OF and leaves CF alone, so that the two additions of a long multiplication need not wait for each other.

for (const bytes of SIZES) {
  for (const [name, flag, setFlag] of [
    ['adcx', carryIn, setCarry],
    ['adox', (e: Emitter): Code => i64.shr_u(e.slotUnsigned(SLOT.CC_B, 8), c64(63)), setOverflow],
  ] as const) {
    define(`${name}.${bytes}`, (e) => {
      const [a, b, r] = [e.local('i64'), e.local('i64'), e.local('i64')];
      const out = bytes === 4 ? i64.shl(get(r), c64(31)) : i64.or(i64.and(get(a), get(b)), i64.and(i64.or(get(a), get(b)), not(get(r))));
      return [
        set(a, e.getUnsigned('d', bytes)),
        set(b, e.getUnsigned('a', bytes)),
        set(r, i64.add(i64.add(get(a), get(b)), flag(e))),
        setFlag(e, out),
        e.set('d', bytes, get(r)),
      ];
    });
  }
}
const addTo = (name: string) => (b: Builder) => b.emit(`${name}.${b.bytes(0)}`, { a: b.value(1), d: b.value(0) });
const ADCX = instruction('ADCX', '66.0F38F6 Gy,Ey ADX', addTo('adcx')); // adds with CF, which alone changes
const ADOX = instruction('ADOX', 'F3.0F38F6 Gy,Ey ADX', addTo('adox')); // adds with OF, which alone changes

// ## Bytes in the other order

for (const bytes of [2, 4, 8] as const) {
  define(`reversed.${bytes}`, (e) => {
    const x = e.local('i64');
    const swap = (by: number, mask: bigint): Code =>
      set(x, i64.or(i64.and(i64.shr_u(get(x), c64(by)), i64.const(mask)), i64.shl(i64.and(get(x), i64.const(mask)), c64(by))));
    return [
      set(x, e.getUnsigned('a', bytes)),
      swap(8, 0x00ff00ff00ff00ffn),
      swap(16, 0x0000ffff0000ffffn),
      e.set('d', bytes, i64.shr_u(i64.rotl(get(x), c64(32)), c64(64 - 8 * bytes))),
    ];
  });
}
const MOVBE = instruction('MOVBE', '0F38F0 Gv,Mv norep MOVBE; 0F38F1 Mv,Gv norep MOVBE', (b) => {
  const bytes = b.bytes(0);
  const from = b.value(1);
  b.write(0, (d) => b.emit(`reversed.${bytes}`, { d, a: from }));
}); // copies, reversing the bytes

/** SALC: AL becomes CF eight times over. Never in a manual of Intel's, and in every processor since the 8086. */
const SALC = instruction('SALC', 'D6 no64', (b) => b.emit('salc'));
define('salc', (e) => e.setSlot(SLOT.RAX, 1, i64.shr_s(carryWord(e), c64(63))));

// biome-ignore format: table
export const BIT_MANIPULATION = [
  ANDN, BEXTR, BLSR, BLSMSK, BLSI, BZHI, TZCNT, LZCNT, SARX, SHLX, SHRX, RORX, MULX, PDEP, PEXT, ADCX, ADOX, MOVBE, SALC,
];
