// # Micro-operations: stores beside code
//
// A store that misses only because its page holds code need not leave WebAssembly, if there is an account of the page's bytes and none of those that are
// stored to has been decoded (`code-bytes.ts`).

import { INFO, TLB } from '../../mmu/tlb.ts';
import { OFFSET } from '../../state.ts';
import { WATCH_RECORD, WATCHED_PAGES } from '../code-bytes.ts';
import { type Code, get, i32, i64, type Local, ret, select, set, when } from '../wasm-assembler.ts';
import { defineFunction } from './library.ts';

const n32 = i32.const;
const PAGE = i64.const(-4096n);

// @clause x86.smc.coherent
/** (linear address, bytes) -> buffer offset, or 0: TypeScript has to be asked. */
defineFunction('besideCode', ['i64', 'i32'], ['i32'], (s, ...params) => {
  const [linear, bytes] = params as [Local, Local];
  const [entry, at, accounts, record, patience] = Array.from({ length: 5 }, () => s.local('i32')) as [Local, Local, Local, Local, Local];
  const page = s.local('i64');
  const no = ret(n32(0));
  const number = i32.shr_u(get(at), n32(12));
  const index = i32.and(i32.wrap_i64(i64.shr_u(get(linear), i64.const(12n))), n32(TLB.ENTRIES - 1));
  const last = i64.add(get(linear), i64.extend_i32_u(i32.sub(get(bytes), n32(1))));
  const counts = i32.add(get(accounts), i32.or(i32.shl(i32.and(number, n32(WATCHED_PAGES - 1)), n32(12)), i32.and(get(at), n32(4095))));
  const wide = (from: number): Code => i64.load(get(record), from);
  const answer = (size: number, isCode: Code): Code => when(i32.eq(get(bytes), n32(size)), ret(select(n32(0), get(at), isCode)));
  return [
    set(accounts, s.field32(OFFSET.CODE_BYTES)),
    set(page, i64.and(get(linear), PAGE)),
    set(entry, i32.add(s.field32(OFFSET.TLB), i32.mul(index, n32(TLB.ENTRY_BYTES)))),
    when(i64.ne(get(page), i64.load(get(entry), TLB.READ_TAG)), no),
    when(i64.ne(get(page), i64.and(last, PAGE)), no),
    when(i32.eqz(i32.and(i32.load(get(entry), TLB.INFO), n32(INFO.MAY_WRITE))), no),
    set(at, i32.add(i32.wrap_i64(get(linear)), i32.load(get(entry), TLB.ADDEND))),
    set(record, i32.add(get(accounts), i32.mul(i32.and(number, n32(WATCHED_PAGES - 1)), n32(WATCH_RECORD.BYTES)))),
    when(i32.ne(i32.load(get(record), WATCH_RECORD.START + WATCH_RECORD.PAGE), number), no),
    set(patience, i32.load(get(record), WATCH_RECORD.START + WATCH_RECORD.PATIENCE)),
    when(i32.eqz(get(patience)), no),
    i32.store(get(record), i32.sub(get(patience), n32(1)), WATCH_RECORD.START + WATCH_RECORD.PATIENCE),
    set(record, counts),
    answer(4, i32.load(get(record))),
    answer(1, i32.load8_u(get(record))),
    answer(8, i32.eqz(i64.eqz(wide(0)))),
    answer(2, i32.load16_u(get(record))),
    answer(16, i32.eqz(i64.eqz(i64.or(wide(0), wide(8))))),
    n32(0),
  ];
});
