// # The register stack
//
// Eight registers, of which a field of three bits in the status word, TOP, says which one is ST(0). A tag bit for each says whether it holds anything. An operation
// that finds a source empty, or is to push into a register that is not, is an invalid operation of its own kind: the *stack fault*, which with
// the exception masked gives the indefinite NaN, like any other.
//
// What an instruction does at its end is the same for all: the flags go to the status word; if one of them is unmasked, the exception becomes *pending*, and
// the next floating-point instruction will raise it. An invalid operand, a denormal or a division by zero then leave everything else as it was, whereas the
// flags about the result come with a result. All functions here return 1 when an exception has become pending, so that the instruction's whereabouts can be
// recorded, otherwise 0.

import { MODE, OFFSET } from '../../state.ts';
import { defineFunction, type StateAccess } from '../micro-ops/library.ts';
import { type Code, either, get, i32, i64, type Local, ret, set, tee, when } from '../wasm-assembler.ts';
import { EXCEPTION } from './soft-float.ts';
import { choose, n32, n64 } from './words.ts';
import { CONTROL_MASK, INDEFINITE, STATUS, SUBTRACT, setResult, UNIT } from './x87-numbers.ts';

const { IE, DE, ZE } = EXCEPTION;
const PRECOMPUTATION = IE | DE | ZE;
const EXCEPTIONS = 0x3f;
/** All that an operation can report: exceptions, stack fault, C1. */
const REPORTED = EXCEPTIONS | STATUS.SF | STATUS.C1;

const fcw = (s: StateAccess): Code => i32.load16_u(s.state(UNIT.FCW));
const fsw = (s: StateAccess): Code => i32.load16_u(s.state(UNIT.FSW));
const setFsw = (s: StateAccess, value: Code): Code => i32.store16(s.state(UNIT.FSW), value);
const tags = (s: StateAccess): Code => i32.load8_u(s.state(UNIT.FTW));
const setTags = (s: StateAccess, value: Code): Code => i32.store8(s.state(UNIT.FTW), value);
const how = (s: StateAccess): Code => i32.and(fcw(s), n32(CONTROL_MASK));

/** Number of the physical register that is ST(i), for a status word. */
const physical = (status: Code, i: Code): Code => i32.and(i32.add(i32.shr_u(status, n32(11)), i), n32(7));
const at = (s: StateAccess, register: Code): Code => i32.add(s.state(UNIT.R), i32.shl(register, n32(4)));
const bit = (register: Code): Code => i32.shl(n32(1), register);
const significand = (address: Code): Code => i64.load(address);
const upperWord = (address: Code): Code => i32.load16_u(address, 8);
const storeRegister = (address: Code, value: Code, word: Code): Code => [i64.store(address, value), i32.store16(address, word, 8)];

// ## Ends
//
// A *place* says where a result goes and what is popped: ST(i) in bits 0 to 2, and in bits 4 and 5 how many registers go afterwards.

export const POP = 1 << 4;
export const POP_TWICE = 2 << 4;

/** Pops as the place says, with `status` as the status word to be. */
const pop = (s: StateAccess, place: Local, status: Local): Code =>
  when(i32.and(get(place), n32(POP | POP_TWICE)), [
    setTags(
      s,
      i32.and(
        tags(s),
        i32.xor(
          n32(-1),
          i32.or(bit(physical(get(status), n32(0))), choose(i32.and(get(place), n32(POP_TWICE)), bit(physical(get(status), n32(1))), n32(0))),
        ),
      ),
    ),
    set(
      status,
      i32.or(
        i32.and(get(status), n32(~STATUS.TOP)),
        i32.and(i32.add(get(status), i32.shl(i32.and(get(place), n32(POP | POP_TWICE)), n32(7))), n32(STATUS.TOP)),
      ),
    ),
  ]);

/** Puts flags into the status word held in `status`; leaves in `unmasked` those that make an exception pending. */
const report = (s: StateAccess, status: Local, flags: Code, unmasked: Local): Code => [
  set(status, i32.or(i32.and(fsw(s), n32(~STATUS.C1)), i32.and(flags, n32(REPORTED)))),
  when(tee(unmasked, i32.and(i32.and(flags, n32(EXCEPTIONS)), i32.xor(fcw(s), n32(-1)))), [
    set(status, i32.or(get(status), n32(STATUS.ES | STATUS.B))),
  ]),
];

// @clause x87.exception.flags
// @clause x87.exception.unmasked
/** (value, word, place): stores a result unless an exception prevents it. */
defineFunction('x87.finish', ['i64', 'i32', 'i32'], ['i32'], (s, value: Local, word: Local, place: Local) => {
  const [status, unmasked, register] = [s.local('i32'), s.local('i32'), s.local('i32')];
  return [
    report(s, status, get(word), unmasked),
    when(i32.and(get(unmasked), n32(PRECOMPUTATION)), [setFsw(s, get(status)), ret(n32(1))]),
    set(register, physical(get(status), i32.and(get(place), n32(7)))),
    storeRegister(at(s, get(register)), get(value), i32.shr_u(get(word), n32(16))),
    setTags(s, i32.or(tags(s), bit(get(register)))),
    pop(s, place, status),
    setFsw(s, get(status)),
    i32.ne(get(unmasked), n32(0)),
  ];
});

/** Exceptions that keep a result from being stored in memory: those of range as well, because a wrapped exponent would not fit the format. */
export const PREVENTS_STORE = PRECOMPUTATION | EXCEPTION.OE | EXCEPTION.UE;

/** (flags, place): ends a store to memory, which has been made unless the flags prevent it. One that is out of range has then not been rounded either. */
defineFunction('x87.leave', ['i32', 'i32'], ['i32'], (s, flags: Local, place: Local) => {
  const [status, unmasked] = [s.local('i32'), s.local('i32')];
  const outOfRange = i32.and(i32.and(get(flags), i32.xor(fcw(s), n32(-1))), n32(EXCEPTION.OE | EXCEPTION.UE));
  return [
    when(outOfRange, set(flags, i32.and(get(flags), n32(~(EXCEPTION.PE | STATUS.C1))))),
    report(s, status, get(flags), unmasked),
    when(i32.eqz(i32.and(get(unmasked), n32(PREVENTS_STORE))), pop(s, place, status)),
    setFsw(s, get(status)),
    i32.ne(get(unmasked), n32(0)),
  ];
});

const UNDERFLOW = IE | STATUS.SF;
// @clause x87.stack.faults
const underflow = (s: StateAccess, place: Code): Code =>
  ret(s.call('x87.finish', INDEFINITE.SIGNIFICAND, n32((INDEFINITE.WORD << 16) | UNDERFLOW), place));

/** (value, word): pushes a result, whatever the register holds. A denormal is pushed even when that is an exception. */
defineFunction('x87.pushOver', ['i64', 'i32'], ['i32'], (s, value: Local, word: Local) => {
  const [status, unmasked, register] = [s.local('i32'), s.local('i32'), s.local('i32')];
  return [
    set(register, physical(fsw(s), n32(7))),
    report(s, status, get(word), unmasked),
    when(i32.and(get(unmasked), n32(IE)), [setFsw(s, get(status)), ret(n32(1))]),
    storeRegister(at(s, get(register)), get(value), i32.shr_u(get(word), n32(16))),
    setTags(s, i32.or(tags(s), bit(get(register)))),
    setFsw(s, i32.or(i32.and(get(status), n32(~STATUS.TOP)), i32.shl(get(register), n32(11)))),
    i32.ne(get(unmasked), n32(0)),
  ];
});
/** (value, word): pushes a result, unless the register is taken. */
defineFunction('x87.push', ['i64', 'i32'], ['i32'], (s, value: Local, word: Local) => [
  when(i32.and(i32.shr_u(tags(s), physical(fsw(s), n32(7))), n32(1)), [
    set(value, INDEFINITE.SIGNIFICAND),
    set(word, n32((INDEFINITE.WORD << 16) | UNDERFLOW | STATUS.C1)),
  ]),
  s.call('x87.pushOver', get(value), get(word)),
]);

const isEmpty = (s: StateAccess, register: Code): Code => i32.eqz(i32.and(i32.shr_u(tags(s), register), n32(1)));

/** (i): pushes a copy of ST(i). */
defineFunction('x87.duplicate', ['i32'], ['i32'], (s, i: Local) => {
  const register = s.local('i32');
  const from = s.local('i32');
  return [
    set(register, physical(fsw(s), get(i))),
    set(from, at(s, get(register))),
    // The empty source is found before the register that is taken.
    when(isEmpty(s, get(register)), ret(s.call('x87.pushOver', INDEFINITE.SIGNIFICAND, n32((INDEFINITE.WORD << 16) | UNDERFLOW)))),
    s.call('x87.push', significand(get(from)), i32.shl(upperWord(get(from)), n32(16))),
  ];
});

// ## Arithmetic
//
// What to do is a word: first and second operand as ST(i) in bits 0 to 3 and 4 to 7, the place in bits 8 to 13, and `SUBTRACT` to subtract.

export const instructionWord = (a: number, b: number, place: number, extra = 0): number => a | (b << 4) | (place << 8) | extra;

const bothSources = (s: StateAccess, what: Local, a: Local, b: Local, place: Code): Code => {
  const status = s.local('i32');
  return [
    set(status, fsw(s)),
    set(a, physical(get(status), i32.and(get(what), n32(7)))),
    set(b, physical(get(status), i32.and(i32.shr_u(get(what), n32(4)), n32(7)))),
    when(i32.or(isEmpty(s, get(a)), isEmpty(s, get(b))), underflow(s, place)),
    set(a, at(s, get(a))),
    set(b, at(s, get(b))),
  ];
};
const placeOf = (what: Local): Code => i32.and(i32.shr_u(get(what), n32(8)), n32(0x3f));
const withSubtract = (s: StateAccess, what: Local): Code => i32.or(how(s), i32.and(get(what), n32(SUBTRACT)));

for (const name of ['add', 'multiply', 'divide'] as const) {
  defineFunction(`x87.${name}.registers`, ['i32'], ['i32'], (s, what: Local) => {
    const [a, b, word] = [s.local('i32'), s.local('i32'), s.local('i32')];
    const value = s.local('i64');
    return [
      bothSources(s, what, a, b, placeOf(what)),
      setResult(
        value,
        word,
        s.call(`x87.${name}`, significand(get(a)), upperWord(get(a)), significand(get(b)), upperWord(get(b)), withSubtract(s, what)),
      ),
      s.call('x87.finish', get(value), get(word), placeOf(what)),
    ];
  });
  /** The same with an operand from memory. In place of ST(i), bit 0 says that it is the first one. */
  defineFunction(`x87.${name}.memory`, ['i64', 'i32', 'i32'], ['i32'], (s, operand: Local, operandWord: Local, what: Local) => {
    const [register, word] = [s.local('i32'), s.local('i32')];
    const value = s.local('i64');
    const operation = (...operands: Code[]): Code => setResult(value, word, s.call(`x87.${name}`, ...operands, withSubtract(s, what)));
    const [top, memory] = [
      [significand(get(register)), upperWord(get(register))],
      [get(operand), get(operandWord)],
    ];
    return [
      set(register, physical(fsw(s), n32(0))),
      when(isEmpty(s, get(register)), underflow(s, n32(0))),
      set(register, at(s, get(register))),
      when(i32.and(get(what), n32(1)), [operation(...memory, ...top), ret(s.call('x87.finish', get(value), get(word), n32(0)))]),
      operation(...top, ...memory),
      s.call('x87.finish', get(value), get(word), n32(0)),
    ];
  });
}

/** Operations on ST(0) alone. */
for (const name of ['sqrt', 'roundToInteger'] as const) {
  defineFunction(`x87.${name}.top`, [], ['i32'], (s) => {
    const [register, word] = [s.local('i32'), s.local('i32')];
    const value = s.local('i64');
    return [
      set(register, physical(fsw(s), n32(0))),
      when(isEmpty(s, get(register)), underflow(s, n32(0))),
      set(register, at(s, get(register))),
      setResult(value, word, s.call(`x87.${name}`, significand(get(register)), upperWord(get(register)), how(s))),
      s.call('x87.finish', get(value), get(word), n32(0)),
    ];
  });
}

/** (bits to flip, bits to clear) of the upper word of ST(0): FCHS and FABS. */
defineFunction('x87.changeSign', ['i32', 'i32'], ['i32'], (s, flip: Local, clear: Local) => {
  const register = s.local('i32');
  return [
    set(register, physical(fsw(s), n32(0))),
    when(isEmpty(s, get(register)), underflow(s, n32(0))),
    set(register, at(s, get(register))),
    i32.store16(get(register), i32.and(i32.xor(upperWord(get(register)), get(flip)), i32.xor(get(clear), n32(-1))), 8),
    setFsw(s, i32.and(fsw(s), n32(~STATUS.C1))),
    n32(0),
  ];
});

// ## Moving

/** (i): exchanges ST(0) and ST(i). An empty one is the indefinite NaN afterwards. */
defineFunction('x87.exchange', ['i32'], ['i32'], (s, i: Local) => {
  const [a, b, status, word, unmasked] = [s.local('i32'), s.local('i32'), s.local('i32'), s.local('i32'), s.local('i32')];
  const value = s.local('i64');
  const fill = (register: Local): Code =>
    when(isEmpty(s, get(register)), [
      storeRegister(at(s, get(register)), INDEFINITE.SIGNIFICAND, n32(INDEFINITE.WORD)),
      setTags(s, i32.or(tags(s), bit(get(register)))),
    ]);
  return [
    set(status, fsw(s)),
    set(a, physical(get(status), n32(0))),
    set(b, physical(get(status), get(i))),
    when(i32.or(isEmpty(s, get(a)), isEmpty(s, get(b))), [
      report(s, status, n32(UNDERFLOW), unmasked),
      when(get(unmasked), [setFsw(s, get(status)), ret(n32(1))]),
      fill(a),
      fill(b),
    ]),
    when(i32.and(get(status), n32(STATUS.C1)), set(status, i32.and(get(status), n32(~STATUS.C1)))),
    setFsw(s, get(status)),
    set(a, at(s, get(a))),
    set(b, at(s, get(b))),
    set(value, significand(get(a))),
    set(word, upperWord(get(a))),
    storeRegister(get(a), significand(get(b)), upperWord(get(b))),
    storeRegister(get(b), get(value), get(word)),
    n32(0),
  ];
});

/** (place): copies ST(0) to ST(i), and pops. */
defineFunction('x87.copy', ['i32'], ['i32'], (s, place: Local) => {
  const register = s.local('i32');
  return [
    set(register, physical(fsw(s), n32(0))),
    when(isEmpty(s, get(register)), underflow(s, get(place))),
    set(register, at(s, get(register))),
    s.call('x87.finish', significand(get(register)), i32.shl(upperWord(get(register)), n32(16)), get(place)),
  ];
});

/** (i, condition): FCMOV. */
defineFunction('x87.pick', ['i32', 'i32'], ['i32'], (s, i: Local, condition: Local) => {
  const [a, b, status] = [s.local('i32'), s.local('i32'), s.local('i32')];
  return [
    set(status, fsw(s)),
    set(a, physical(get(status), n32(0))),
    set(b, physical(get(status), get(i))),
    when(i32.or(isEmpty(s, get(a)), isEmpty(s, get(b))), underflow(s, n32(0))),
    when(get(condition), storeRegister(at(s, get(a)), significand(at(s, get(b))), upperWord(at(s, get(b))))),
    n32(0),
  ];
});

/** (by): FINCSTP and FDECSTP. */
defineFunction('x87.rotate', ['i32'], ['i32'], (s, by: Local) => [
  setFsw(s, i32.or(i32.and(fsw(s), n32(~(STATUS.TOP | STATUS.C1))), i32.and(i32.add(fsw(s), i32.shl(get(by), n32(11))), n32(STATUS.TOP)))),
  n32(0),
]);

/** (place): FFREE, and FFREEP. */
defineFunction('x87.free', ['i32'], ['i32'], (s, place: Local) => {
  const status = s.local('i32');
  return [
    set(status, i32.and(fsw(s), n32(~STATUS.C1))),
    setTags(s, i32.and(tags(s), i32.xor(bit(physical(get(status), i32.and(get(place), n32(7)))), n32(-1)))),
    pop(s, place, status),
    setFsw(s, get(status)),
    n32(0),
  ];
});

/** (place): copies ST(0) to ST(i), unless it is empty, which is nobody's fault; and pops. */
defineFunction('x87.copyIfAny', ['i32'], ['i32'], (s, place: Local) => {
  const [a, b, status] = [s.local('i32'), s.local('i32'), s.local('i32')];
  return [
    set(status, i32.and(fsw(s), n32(~STATUS.C1))),
    set(a, physical(get(status), n32(0))),
    set(b, physical(get(status), i32.and(get(place), n32(7)))),
    when(i32.eqz(isEmpty(s, get(a))), [
      storeRegister(at(s, get(b)), significand(at(s, get(a))), upperWord(at(s, get(a)))),
      setTags(s, i32.or(tags(s), bit(get(b)))),
    ]),
    pop(s, place, status),
    setFsw(s, get(status)),
    n32(0),
  ];
});

// ## Comparing
//
// What to do: the second operand as ST(i) in bits 4 to 7, the place in bits 8 to 13 for its pops, and {{QUIET_COMPARISON}} for the unordered kind.

export const QUIET_COMPARISON = 1 << 16;
const CONDITIONS = STATUS.C0 | STATUS.C2 | STATUS.C3;
const UNORDERED = CONDITIONS;
const quietly = (what: Local): Code => i32.and(get(what), n32(QUIET_COMPARISON));

/** (conditions and flags, what): condition codes, flags, pops. The codes are set even when an exception prevents the pop. */
defineFunction('x87.compared', ['i32', 'i32'], ['i32'], (s, answer: Local, what: Local) => {
  const [status, unmasked, place] = [s.local('i32'), s.local('i32'), s.local('i32')];
  return [
    set(place, placeOf(what)),
    report(s, status, get(answer), unmasked),
    set(status, i32.or(i32.and(get(status), n32(~CONDITIONS)), i32.and(get(answer), n32(CONDITIONS)))),
    when(i32.eqz(get(unmasked)), pop(s, place, status)),
    setFsw(s, get(status)),
    i32.ne(get(unmasked), n32(0)),
  ];
});
const compare = (s: StateAccess, a: Local, b: readonly Code[], what: Local): Code =>
  s.call('x87.compare', significand(get(a)), upperWord(get(a)), ...b, how(s), quietly(what));

/** (what) -> conditions and flags, for ST(0) and ST(i). */
defineFunction('x87.compare.registers', ['i32'], ['i32'], (s, what: Local) => {
  const [a, b, status] = [s.local('i32'), s.local('i32'), s.local('i32')];
  return [
    set(status, fsw(s)),
    set(a, physical(get(status), n32(0))),
    set(b, physical(get(status), i32.and(i32.shr_u(get(what), n32(4)), n32(7)))),
    when(i32.or(isEmpty(s, get(a)), isEmpty(s, get(b))), ret(n32(UNORDERED | UNDERFLOW))),
    set(a, at(s, get(a))),
    set(b, at(s, get(b))),
    compare(s, a, [significand(get(b)), upperWord(get(b))], what),
  ];
});
/** (operand, what) -> conditions and flags, for ST(0) and a number from memory, or zero. */
defineFunction('x87.compare.memory', ['i64', 'i32', 'i32'], ['i32'], (s, operand: Local, word: Local, what: Local) => {
  const a = s.local('i32');
  return [
    set(a, physical(fsw(s), n32(0))),
    when(isEmpty(s, get(a)), ret(n32(UNORDERED | UNDERFLOW))),
    set(a, at(s, get(a))),
    compare(s, a, [get(operand), get(word)], what),
  ];
});
/** (conditions and flags, what): for FCOMI, which puts the conditions elsewhere, and leaves C1 alone unless a register was empty. */
defineFunction('x87.comparedFlags', ['i32', 'i32'], ['i32'], (s, answer: Local, what: Local) => {
  const [status, unmasked, place] = [s.local('i32'), s.local('i32'), s.local('i32')];
  return [
    set(place, placeOf(what)),
    when(i32.eqz(i32.and(get(answer), n32(STATUS.SF))), set(unmasked, i32.and(fsw(s), n32(STATUS.C1)))),
    report(s, status, i32.or(i32.and(get(answer), n32(~CONDITIONS)), get(unmasked)), unmasked),
    when(i32.eqz(get(unmasked)), pop(s, place, status)),
    setFsw(s, get(status)),
    i32.ne(get(unmasked), n32(0)),
  ];
});

/** FXAM. */
defineFunction('x87.examine.top', [], [], (s) => {
  const [register, from] = [s.local('i32'), s.local('i32')];
  const EMPTY = STATUS.C3 | STATUS.C0;
  return [
    set(register, physical(fsw(s), n32(0))),
    set(from, at(s, get(register))),
    setFsw(
      s,
      i32.or(
        i32.and(fsw(s), n32(~(CONDITIONS | STATUS.C1))),
        choose(
          isEmpty(s, get(register)),
          i32.or(n32(EMPTY), i32.shr_u(i32.and(upperWord(get(from)), n32(0x8000)), n32(6))),
          s.call('x87.examine', significand(get(from)), upperWord(get(from))),
        ),
      ),
    ),
  ];
});

// ## Storing to memory
//
// A store first finds what to store, then stores it, which may fault, and only then changes the unit. So there are functions for what comes before; `x87.leave` is
// what comes after.

/** -> ST(0) in the format, and flags; when the flags forbid to store, `x87.leave` will not pop either. */
for (const name of ['toDouble', 'toSingle'] as const) {
  const bits = name === 'toDouble' ? 0xfff8000000000000n : 0xffc00000n;
  defineFunction(`x87.${name}.top`, [], ['i64', 'i32'], (s) => {
    const register = s.local('i32');
    return [
      set(register, physical(fsw(s), n32(0))),
      when(isEmpty(s, get(register)), ret([n64(bits), n32(UNDERFLOW)])),
      set(register, at(s, get(register))),
      s.call(`x87.${name}`, significand(get(register)), upperWord(get(register)), how(s)),
    ];
  });
}
/** (bits, truncate) */
defineFunction('x87.toInteger.top', ['i32', 'i32'], ['i64', 'i32'], (s, bits: Local, truncate: Local) => {
  const register = s.local('i32');
  return [
    set(register, physical(fsw(s), n32(0))),
    when(isEmpty(s, get(register)), ret([i64.shl(n64(-1n), i64.extend_i32_u(i32.sub(get(bits), n32(1)))), n32(UNDERFLOW)])),
    set(register, at(s, get(register))),
    s.call('x87.toInteger', significand(get(register)), upperWord(get(register)), i32.or(how(s), get(truncate)), get(bits)),
  ];
});
/** -> low eight bytes, high two, flags. */
defineFunction('x87.toDecimal.top', [], ['i64', 'i64', 'i32'], (s) => {
  const register = s.local('i32');
  return [
    set(register, physical(fsw(s), n32(0))),
    when(isEmpty(s, get(register)), ret([n64(0xc000000000000000n), n64(0xffffn), n32(UNDERFLOW)])),
    set(register, at(s, get(register))),
    s.call('x87.toDecimal', significand(get(register)), upperWord(get(register)), how(s)),
  ];
});
/** -> significand, upper word, flags. */
defineFunction('x87.whole.top', [], ['i64', 'i64', 'i32'], (s) => {
  const register = s.local('i32');
  return [
    set(register, physical(fsw(s), n32(0))),
    when(isEmpty(s, get(register)), ret([INDEFINITE.SIGNIFICAND, n64(BigInt(INDEFINITE.WORD)), n32(UNDERFLOW)])),
    set(register, at(s, get(register))),
    significand(get(register)),
    i64.extend_i32_u(upperWord(get(register))),
    n32(0),
  ];
});

// ## Constants
//
// Each is kept with {{66}} bits, as in the hardware, and rounded as the control word says: RC decides about the last one, PC does not matter.

// @clause x87.constants.rounding
/** (significand, upper word, what to add to it when rounding up (bit 0), to nearest (bit 1)). */
defineFunction('x87.constant', ['i64', 'i32', 'i32'], ['i32'], (s, value: Local, word: Local, rounding: Local) => {
  const mode = i32.and(i32.shr_u(fcw(s), n32(10)), n32(3));
  const up = i32.or(i32.and(i32.eq(mode, n32(2)), i32.and(get(rounding), n32(1))), i32.and(i32.eqz(mode), i32.shr_u(get(rounding), n32(1))));
  return s.call('x87.push', i64.add(get(value), i64.extend_i32_u(up)), i32.shl(get(word), n32(16)));
});

// ## Where it was

/** (offset of the memory operand, opcode, whether there is one): remembers, for the handler, what has made an exception pending. */
defineFunction('x87.located', ['i64', 'i32', 'i32'], [], (s, offset: Local, opcode: Local, memory: Local) => {
  const code64 = i32.eq(i32.and(s.field32(OFFSET.MODE), n32(MODE.CODE)), n32(MODE.CODE64));
  return [
    i32.store16(s.state(UNIT.FOP), get(opcode)),
    when(get(memory), s.setField(UNIT.FDP, either(code64, get(offset), i64.and(get(offset), n64(0xffffffffn)), 'i64'))),
  ];
});
