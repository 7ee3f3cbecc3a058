// # Micro-operations: strings
//
// A REP instruction is a loop of micro-operations around the body of the plain one. Every iteration is complete in itself: registers are advanced before
// the next one starts, so a fault in the middle leaves them saying how far it got, as on a real processor. After {{REP_ITERATIONS}} iterations the loop comes
// back to a boundary, where an interrupt may be taken; NEXT_RIP is then still the instruction itself.

import { FLAG, OFFSET, SLOT } from '../../state.ts';
import { brIf, type Code, get, i32, i64, Label, type Local, loop, memoryCopy, memoryFill, select, set, tee, when } from '../wasm-assembler.ts';
import { define, type Emitter, WORD } from './emitter.ts';
import { c64, cut, SIZES, WIDE } from './vocabulary.ts';

/** Iterations between two boundaries. */
export const REP_ITERATIONS = 4096;

for (const address of WIDE) {
  const count = (e: Emitter): Code => e.slotUnsigned(SLOT.RCX, address);
  /** rCX = 0: nothing to do, skip imm records. Otherwise opens the budget. */
  define(`repBegin.${address}`, (e) => [
    when(i64.eqz(count(e)), e.skip(i32.wrap_i64(e.imm))),
    e.setWord(
      WORD.REP_BUDGET,
      select(c64(1), c64(REP_ITERATIONS), i32.or(e.word32(WORD.ONE_ITERATION), i32.and(e.field32(OFFSET.RFLAGS), i32.const(FLAG.TF)))),
    ),
  ]);
  // The end of an iteration: goes back imm records while rCX, the budget and, for REPE and REPNE, the outcome of the comparison (the byte a) allow.
  for (const kind of ['always', 'z', 'nz'] as const) {
    define(`repEnd.${address}.${kind}`, (e) => {
      const left = e.local('i64');
      const budget = e.local('i64');
      const more = i32.eqz(i64.eqz(get(left)));
      const equal = i32.wrap_i64(e.getUnsigned('a', 1));
      return [
        e.setSlot(SLOT.RCX, address, tee(left, cut(address, i64.sub(count(e), c64(1))))),
        e.setWord(WORD.REP_BUDGET, tee(budget, i64.sub(e.word(WORD.REP_BUDGET), c64(1)))),
        when(kind === 'always' ? more : i32.and(more, kind === 'z' ? equal : i32.eqz(equal)), [
          when(i64.gt_s(get(budget), c64(0)), e.skip(i32.wrap_i64(e.imm))),
          e.setSlot(SLOT.NEXT_RIP, 8, e.slotUnsigned(SLOT.RIP, 8)),
          kind === 'always' ? [] : e.skip(i32.const(1)), // the comparison that sets the flags waits for the real end
        ]),
      ];
    });
  }
  for (const bytes of SIZES) {
    /** rSI or rDI moves on by one element, in the direction of DF. */
    define(`advance.${bytes}.${address}`, (e) =>
      e.set('d', address, i64.add(e.get('d'), select(c64(-bytes), c64(bytes), i32.and(e.field32(OFFSET.RFLAGS), i32.const(FLAG.DF))))),
    );
  }
}

// Copying and filling whole runs is what these instructions are for. Where both operands lie in pages that the TLB knows, DF is clear and the areas do not
// overlap (an overlapping copy repeats a pattern, which `memory.copy` would not), a run is one operation. It counts against the budget like the
// iterations that it stands for, so time does not depend on which way was taken.

/** Elements from rSI or rDI to the end of its page. */
const room = (bytes: number, address: Code): Code => i64.shr_u(i64.sub(c64(4096), i64.and(address, c64(4095))), c64(Math.log2(bytes)));
const least = (x: Local, y: Code): Code => {
  const kept = y;
  return set(x, select(get(x), kept, i64.lt_u(get(x), kept)));
};
for (const address of [4, 8] as const) {
  for (const bytes of SIZES) {
    const prepare = (e: Emitter, n: Local): Code => [set(n, e.slotUnsigned(SLOT.RCX, address)), least(n, e.word(WORD.REP_BUDGET))];
    const finish = (e: Emitter, n: Local, pointers: readonly number[]): Code => {
      const moved = i64.shl(get(n), c64(Math.log2(bytes)));
      const left = e.local('i64');
      return [
        pointers.map((slot) => e.setSlot(slot, address, i64.add(e.slotUnsigned(slot, address), moved))),
        e.setSlot(SLOT.RCX, address, tee(left, i64.sub(e.slotUnsigned(SLOT.RCX, address), get(n)))),
        e.setWord(WORD.REP_BUDGET, i64.sub(e.word(WORD.REP_BUDGET), get(n))),
        when(i64.eqz(get(left)), e.skip(i32.wrap_i64(e.imm))),
        when(i64.eqz(e.word(WORD.REP_BUDGET)), [e.setSlot(SLOT.NEXT_RIP, 8, e.slotUnsigned(SLOT.RIP, 8)), e.skip(i32.wrap_i64(e.imm))]),
      ];
    };
    const forward = (e: Emitter): Code => i32.eqz(i32.and(e.field32(OFFSET.RFLAGS), i32.const(FLAG.DF)));
    define(`bulkMove.${bytes}.${address}`, (e) => {
      const n = e.local('i64');
      const from = e.local('i32');
      const to = e.local('i32');
      const source = e.slotUnsigned(SLOT.RSI, address);
      const destination = e.slotUnsigned(SLOT.RDI, address);
      const length = i32.shl(i32.wrap_i64(get(n)), i32.const(Math.log2(bytes)));
      return when(forward(e), [
        prepare(e, n),
        least(n, room(bytes, source)),
        least(n, room(bytes, destination)),
        set(from, e.probe(source, 0)),
        set(to, e.probe(destination, 1)),
        when(
          i32.and(
            i32.and(i64.gt_u(get(n), c64(1)), i32.and(i32.ne(get(from), i32.const(0)), i32.ne(get(to), i32.const(0)))),
            i32.ge_u(i32.sub(get(to), get(from)), length),
          ),
          [memoryCopy(get(to), get(from), length), finish(e, n, [SLOT.RSI, SLOT.RDI])],
        ),
      ]);
    });
    define(`bulkFill.${bytes}.${address}`, (e) => {
      const n = e.local('i64');
      const to = e.local('i32');
      const end = e.local('i32');
      const pattern = e.local('i64');
      const again = new Label();
      const destination = e.slotUnsigned(SLOT.RDI, address);
      const length = i32.shl(i32.wrap_i64(get(n)), i32.const(Math.log2(bytes)));
      const element = { 1: i64.store8, 2: i64.store16, 4: i64.store32, 8: i64.store }[bytes];
      const fill =
        bytes === 1
          ? memoryFill(get(to), i32.wrap_i64(get(pattern)), length)
          : [
              set(end, i32.add(get(to), length)),
              loop(again, [element(get(to), get(pattern)), brIf(again, i32.ne(tee(to, i32.add(get(to), i32.const(bytes))), get(end)))]),
            ];
      return when(forward(e), [
        prepare(e, n),
        least(n, room(bytes, destination)),
        set(to, e.probe(destination, 1)),
        when(i32.and(i64.gt_u(get(n), c64(1)), i32.ne(get(to), i32.const(0))), [
          set(pattern, e.slotUnsigned(SLOT.RAX, bytes)),
          fill,
          finish(e, n, [SLOT.RDI]),
        ]),
      ]);
    });
  }
}
