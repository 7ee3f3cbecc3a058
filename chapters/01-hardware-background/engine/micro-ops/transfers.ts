// # Micro-operations: from instruction to instruction

import { VECTOR } from '../../faults.ts';
import { OFFSET, SLOT } from '../../state.ts';
import { type Code, call, get, i32, i64, set, tee, when } from '../wasm-assembler.ts';
import { define, type Emitter, WORD } from './emitter.ts';
import { CONDITIONS, c64, condition, cut, limitOfCode, WIDE } from './vocabulary.ts';

// ## The beginning of an instruction
//
// Each instruction begins with a micro-operation that commits the one before it: RIP moves only here. Whatever faults later in the instruction
// therefore finds RIP at the instruction's start, and a system instruction that transfers control has only to assign NEXT_RIP.
//
// The same micro-operation counts time and, by a single comparison, stops the machine where it was told to stop. TypeScript lowers LIMIT when
// something has happened that cannot wait for the end of the block.

// @clause x86.exception.fault-rip
// @clause x86.exception.restart
/** `mask` cuts an address to the width of the code; `check` may refuse it. */
export const begin = (e: Emitter, mask: (x: Code) => Code, check: (next: Code) => Code = () => []): Code => {
  const count = e.local('i64');
  const rip = e.local('i64');
  return [
    set(count, e.field(OFFSET.ICOUNT)),
    when(i64.eq(get(count), e.word(WORD.LIMIT)), e.leave),
    e.setField(OFFSET.ICOUNT, i64.add(get(count), c64(1))),
    e.setSlot(SLOT.RIP, 8, tee(rip, e.slotUnsigned(SLOT.NEXT_RIP, 8))),
    e.setSlot(SLOT.NEXT_RIP, 8, mask(i64.add(get(rip), e.immLow))),
    check(i64.add(get(rip), e.immLow)),
  ];
};
define('insn.8', (e) => begin(e, (x) => x));
define('insn.4', (e) => begin(e, (x) => cut(4, x)));
define('insn.limit', (e) =>
  begin(
    e,
    (x) => cut(4, x),
    (next) => when(i64.gt_u(i64.sub(next, c64(1)), limitOfCode(e)), e.fault(VECTOR.GP, 0)),
  ),
);

/** Takes the place of an `insn` record in decoded code that is no longer valid: TypeScript finds or makes the right code. */
export const INSN_OPS: readonly string[] = ['insn.8', 'insn.4', 'insn.limit'];
define('stale', (e) => e.leave);

// The second page of an instruction that crosses into it is consulted each time, and must be where it was when the instruction was decoded (operand imm).
// This comes before the instruction begins: if it fails, nothing has happened yet.
for (const bytes of [8, 4] as const) {
  define(`crossing.${bytes}`, (e) => {
    const second = e.local('i64');
    const here = i64.add(e.slotUnsigned(SLOT.NEXT_RIP, 8), e.word(WORD.CODE_BASE));
    return [
      set(second, cut(bytes, i64.add(i64.and(here, c64(-4096)), c64(4096)))),
      when(i32.ne(e.executable(get(second)), i32.wrap_i64(e.imm)), e.leave),
    ];
  });
}

// ## Going elsewhere
//
// A transfer assigns NEXT_RIP; `dispatch` then finds the code. In 16- and 32-bit code the target is first compared with CS's limit. In 64-bit code
// a target must be canonical. A jump leaves that check to whoever looks the target up, because a non-canonical address is never found and RIP, not yet
// committed, is still the jump's; a call or return must check before it touches the stack.

const canonical = (e: Emitter, x: Code): Code => {
  const shift = i64.extend_i32_u(e.field32(OFFSET.CANONICAL_SHIFT));
  return i64.eq(i64.shr_s(i64.shl(x, shift), shift), x);
};
/** #GP for a target outside the code segment or the address space. */
export const checkTarget = (e: Emitter, bytes: number, target: Code): Code =>
  when(bytes === 8 ? i32.eqz(canonical(e, target)) : i64.gt_u(target, limitOfCode(e)), e.fault(VECTOR.GP, 0));
for (const bytes of WIDE) {
  const relative = (e: Emitter): Code => cut(bytes, i64.add(e.slotUnsigned(SLOT.NEXT_RIP, 8), e.imm));
  const take = (e: Emitter, target: Code, check: boolean): Code => {
    if (!check) return e.setSlot(SLOT.NEXT_RIP, 8, target);
    const to = e.local('i64');
    return [set(to, target), checkTarget(e, bytes, get(to)), e.setSlot(SLOT.NEXT_RIP, 8, get(to))];
  };
  define(`jump.${bytes}`, (e) => [take(e, relative(e), bytes < 8), e.dispatch]);
  for (const name of CONDITIONS) define(`j${name}.${bytes}`, (e) => [when(condition(name, e), take(e, relative(e), bytes < 8)), e.dispatch]);
  define(`jumpTo.${bytes}`, (e) => [take(e, e.getUnsigned('a', bytes), true), e.dispatch]);
  /** LOOP and JrCXZ: transfers when the byte a is non-zero; other micro-operations may follow before `dispatch`. */
  define(`takeIf.${bytes}`, (e) => when(i32.wrap_i64(e.getUnsigned('a', 1)), take(e, relative(e), true)));
  /** d := target of a relative call, checked. */
  define(`aim.${bytes}`, (e) => {
    const to = e.local('i64');
    return [set(to, relative(e)), checkTarget(e, bytes, get(to)), e.set('d', 8, get(to))];
  });
  define(`checkTarget.${bytes}`, (e) => {
    const to = e.local('i64');
    return [set(to, e.getUnsigned('a', bytes)), checkTarget(e, bytes, get(to)), e.set('d', 8, get(to))];
  });
}
/** The same for CALL through a register or memory in 64-bit code. When the target is no address, the return address is already in memory, below the stack pointer. */
define('checkCall.8', (e) => {
  const to = e.local('i64');
  const below = i64.sub(e.slotUnsigned(SLOT.RSP, 8), i64.const(8n));
  const refuse = [e.store(8, below, e.slotUnsigned(SLOT.NEXT_RIP, 8), i32.const(1)), e.fault(VECTOR.GP, 0)];
  return [set(to, e.getUnsigned('a', 8)), when(i32.eqz(canonical(e, get(to))), refuse), e.set('d', 8, get(to))];
});
define('goTo', (e) => [e.setSlot(SLOT.NEXT_RIP, 8, e.get('a')), e.dispatch]); // a target that `aim` or `checkTarget` has checked
define('dispatch', (e) => e.dispatch);
/** The block ends, the program does not. The instruction is complete, so RIP moves on: a fault in fetching the next belongs to the next. */
define('sequel', (e) => [e.setSlot(SLOT.RIP, 8, e.slotUnsigned(SLOT.NEXT_RIP, 8)), e.dispatch]);
define('raise.gp', (e) => e.fault(VECTOR.GP, 0)); // an instruction of more than 15 bytes
define('system', (e) => [when(call(e.helpers.system, i32.wrap_i64(e.imm)), e.abort), e.dispatch]);
