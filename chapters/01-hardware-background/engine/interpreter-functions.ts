// # Functions that the interpreter calls
//
// Two kinds of thing are too long to stand at each place where they are needed, and too much a part of the engine to be in the library: the way into memory when the
// TLB does not know, and arithmetic wider than WebAssembly's.

import { WALKED } from '../mmu/ordinary-walk.ts';
import { STATUS } from './micro-ops.ts';
import {
  brIf,
  type Code,
  call,
  type Func,
  get,
  i32,
  i64,
  Label,
  type Local,
  loop,
  ret,
  select,
  set,
  tee,
  unreachable,
  type WasmModule,
  when,
} from './wasm-assembler.ts';
import { i64x2, v128 } from './wasm-vectors.ts';

/** Results of the imported `translate`; larger ones are buffer offsets. */
export const TRANSLATED = { SLOW: 0, ABORT: 1 } as const;

export const loadUnsigned = { 1: i64.load8_u, 2: i64.load16_u, 4: i64.load32_u, 8: i64.load } as const;
export const loadSigned = { 1: i64.load8_s, 2: i64.load16_s, 4: i64.load32_s, 8: i64.load } as const;
export const storeBytes = { 1: i64.store8, 2: i64.store16, 4: i64.store32, 8: i64.store } as const;
export type Width = keyof typeof loadUnsigned;

/** A TLB entry: three tags (linear page address, or -1), then what to add to a linear address to get a buffer offset. See mmu/tlb.ts. */
export const TLB_ENTRY = { READ: 0, WRITE: 8, EXEC: 16, ADDEND: 24, BYTES: 32, COUNT: 8192 } as const;

/** Address of the TLB entry of `linear`: its page number, modulo the number of entries, times their size. */
export function tlbEntry(bank: Code, linear: Code): Code {
  const shift = 12n - BigInt(Math.log2(TLB_ENTRY.BYTES));
  const mask = (TLB_ENTRY.COUNT - 1) * TLB_ENTRY.BYTES;
  return i32.add(bank, i32.and(i32.wrap_i64(i64.shr_u(linear, i64.const(shift))), i32.const(mask)));
}

// ## The slow way into memory
//
// On a TLB miss there is first the ordinary walk. It may do, and the access is made here after all; or find a fault, or a device. If it declines, the engine is asked
// for a translation. Either it has one; or the page is not ordinary memory (or there are two of them) and TypeScript makes the access byte by byte; or there
// is a fault.

export interface Memory {
  readonly loadMiss: Func;
  readonly storeMiss: Func;
  readonly loadVectorMiss: Func;
  readonly storeVectorMiss: Func;
}
interface MemoryImports {
  readonly translate: Func;
  readonly readSlow: Func;
  readonly writeSlow: Func;
  readonly deviceRead: Func;
  readonly deviceWrite: Func;
}
/** `walk`: the library's function; `status`: the place of WORD.STATUS. */
export function memoryFunctions(module: WasmModule, imports: MemoryImports, walk: Func, status: number): Memory {
  const bySize = (bytes: Local, make: (size: Width) => Code): Code =>
    ([8, 4, 2, 1] as const).map((size) => when(i32.eq(get(bytes), i32.const(size)), make(size)));
  const found = (at: Local): Code => i32.gt_u(get(at), i32.const(TRANSLATED.ABORT));
  /** Walks. `use` a buffer offset, or a `device` of up to 4 bytes; leave with `refused` after a fault; go on when it is not as simple as that. */
  const walked = (at: Local, linear: Local, bytes: Code, access: Code, use: Code, device: Code, refused: Code): Code => [
    set(at, call(walk, get(linear), bytes, access)),
    when(get(at), [
      when(i32.gt_u(get(at), i32.const(WALKED.DEVICE)), [use, unreachable]),
      when(i32.eq(get(at), i32.const(WALKED.FAULT)), [i32.store(i32.const(0), i32.const(STATUS.PAGE_FAULT), status), ret(refused)]),
      device,
    ]),
  ];
  const isSmall = (bytes: Local): Code => i32.le_u(get(bytes), i32.const(4));
  const loadMiss = module.function(['i64', 'i32', 'i32', 'i32'], ['i64'], (body, linear, bytes, access, stack) => {
    const at = body.local('i32');
    const use = bySize(bytes as Local, (size) => ret(loadUnsigned[size](get(at))));
    const device = when(isSmall(bytes as Local), ret(i64.extend_i32_u(call(imports.deviceRead, get(bytes as Local)))));
    return [
      walked(at, linear as Local, get(bytes as Local), get(access as Local), use, device, i64.const(0n)),
      set(at, call(imports.translate, get(linear as Local), get(bytes as Local), get(access as Local), get(stack as Local))),
      when(found(at), [use, unreachable]),
      when(i32.eqz(get(at)), ret(call(imports.readSlow, get(linear as Local), get(bytes as Local), get(access as Local)))),
      i64.const(0n),
    ];
  });
  const storeMiss = module.function(['i64', 'i32', 'i64', 'i32'], ['i32'], (body, linear, bytes, value, stack) => {
    const at = body.local('i32');
    const use = bySize(bytes as Local, (size) => [storeBytes[size](get(at), get(value as Local)), ret(i32.const(0))]);
    const device = when(isSmall(bytes as Local), ret(call(imports.deviceWrite, get(bytes as Local), i32.wrap_i64(get(value as Local)))));
    return [
      walked(at, linear as Local, get(bytes as Local), i32.const(1), use, device, i32.const(1)),
      set(at, call(imports.translate, get(linear as Local), get(bytes as Local), i32.const(1), get(stack as Local))),
      when(found(at), [use, unreachable]),
      when(i32.eqz(get(at)), ret(call(imports.writeSlow, get(linear as Local), get(bytes as Local), get(value as Local)))),
      i32.const(1),
    ];
  });
  // Sixteen bytes that cross a page, or meet a device, are two accesses of eight. A store asks for both pages before it writes to the first.
  const EIGHT = i32.const(8);
  const READ = i32.const(0);
  const loadVectorMiss = module.function(['i64', 'i32'], ['v128'], (body, linear, stack) => {
    const at = body.local('i32');
    const [from, isStack] = [get(linear as Local), get(stack as Local)];
    const low = body.local('i64');
    return [
      walked(at, linear as Local, i32.const(16), READ, ret(v128.load(get(at))), [], v128.const(0n, 0n)),
      set(at, call(imports.translate, from, i32.const(16), READ, isStack)),
      when(found(at), ret(v128.load(get(at)))),
      when(i32.ne(get(at), i32.const(TRANSLATED.SLOW)), ret(v128.const(0n, 0n))),
      set(low, call(imports.readSlow, from, EIGHT, READ)),
      i64x2.replace(i64x2.splat(get(low)), 1, call(imports.readSlow, i64.add(from, i64.const(8n)), EIGHT, READ)),
    ];
  });
  const storeVectorMiss = module.function(['i64', 'v128', 'i32'], ['i32'], (body, linear, value, stack) => {
    const at = body.local('i32');
    const [to, what, isStack] = [get(linear as Local), get(value as Local), get(stack as Local)];
    const aborted = i32.eq(get(at), i32.const(TRANSLATED.ABORT));
    const WRITE = i32.const(1);
    return [
      walked(at, linear as Local, i32.const(16), WRITE, [v128.store(get(at), what), ret(i32.const(0))], [], i32.const(1)),
      set(at, call(imports.translate, to, i32.const(16), WRITE, isStack)),
      when(found(at), [v128.store(get(at), what), ret(i32.const(0))]),
      when(aborted, ret(i32.const(1))),
      set(at, call(imports.translate, to, i32.const(1), WRITE, isStack)),
      when(aborted, ret(i32.const(1))),
      set(at, call(imports.translate, i64.and(i64.add(to, i64.const(15n)), i64.const(-4096n)), i32.const(1), WRITE, isStack)),
      when(aborted, ret(i32.const(1))),
      when(call(imports.writeSlow, to, EIGHT, i64x2.extract(what, 0)), ret(i32.const(1))),
      call(imports.writeSlow, i64.add(to, i64.const(8n)), EIGHT, i64x2.extract(what, 1)),
    ];
  });
  return { loadMiss, storeMiss, loadVectorMiss, storeVectorMiss };
}

// Translated code asks the same, and gets a buffer offset or nothing. What a device says to a read is put where there is an offset to it.

/** In the word that says how many bytes are accessed (bits 7:0), how (15:8) and whether on the stack (16): a device may be accessed by translated code. */
export const MAY_BE_DEVICE = 1 << 17;
/** What {@link missFunction} calls: the engine's `missInRegion`, `readInRegion` and `writeInRegion`; `datum` is the place of what has been read. */
interface RegionImports {
  readonly ask: Func;
  readonly read: Func;
  readonly write: Func;
  readonly datum: number;
}
const partOf = (info: Local, shift: number): Code => i32.and(i32.shr_u(get(info), i32.const(shift)), i32.const(0xff));
/** Walks. Returns what is found in RAM, or what the engine says when the walk declines; goes on in case of a device that may be accessed. */
const walkedInRegion = (at: Local, walk: Func, ask: Func, [linear, info, count]: readonly [Local, Local, Local]): Code => [
  set(at, call(walk, get(linear), partOf(info, 0), partOf(info, 8))),
  when(i32.eqz(get(at)), ret(call(ask, get(linear), get(info), get(count)))),
  when(i32.gt_u(get(at), i32.const(WALKED.DEVICE)), ret(get(at))),
  when(i32.lt_u(get(at), i32.const(WALKED.DEVICE)), ret(i32.const(0))),
  when(i32.eqz(i32.and(get(info), i32.const(MAY_BE_DEVICE))), ret(i32.const(0))),
];

/** (linear, word, time) -> buffer offset, or 0: the instruction is left to the interpreter. */
export function missFunction(module: WasmModule, walk: Func, { ask, read, datum }: RegionImports): Func {
  return module.function(['i64', 'i32', 'f64'], ['i32'], (body, ...params) => {
    const [linear, info, count] = params as [Local, Local, Local];
    const at = body.local('i32');
    return [walkedInRegion(at, walk, ask, [linear, info, count]), select(i32.const(datum), i32.const(0), call(read, partOf(info, 0), get(count)))];
  });
}

/** (linear, word, time, value) -> the same for a store; or 1: the device has been given the value. */
export function storeMissFunction(module: WasmModule, walk: Func, { ask, write }: RegionImports): Func {
  return module.function(['i64', 'i32', 'f64', 'i32'], ['i32'], (body, ...params) => {
    const [linear, info, count, value] = params as [Local, Local, Local, Local];
    const at = body.local('i32');
    return [walkedInRegion(at, walk, ask, [linear, info, count]), call(write, partOf(info, 0), get(value), get(count))];
  });
}

// ## Wide multiplication and division
//
// WebAssembly multiplies 64 by 64 bits into 64. The upper half is put together from four 32-bit products, as on paper.

export function multiplyHigh(module: WasmModule): Func {
  return module.function(['i64', 'i64'], ['i64'], (body, a, b) => {
    const low = (x: Local | undefined): Code => i64.and(get(x as Local), i64.const(0xffffffffn));
    const high = (x: Local | undefined): Code => i64.shr_u(get(x as Local), i64.const(32n));
    const middle = body.local('i64');
    const carry = body.local('i64');
    return [
      set(middle, i64.add(i64.mul(high(a), low(b)), i64.shr_u(i64.mul(low(a), low(b)), i64.const(32n)))),
      set(carry, i64.add(i64.mul(low(a), high(b)), low(middle))),
      i64.add(i64.add(i64.mul(high(a), high(b)), high(middle)), high(carry)),
    ];
  });
}

/** 128 by 64 bits: shift and subtract. Slow, and rare: compilers emit it for 128-bit arithmetic only. */
export function divide(module: WasmModule): Func {
  return module.function(['i64', 'i64', 'i64'], ['i64'], (body, highParam, lowParam, divisorParam) => {
    const [high, low, divisor] = [highParam, lowParam, divisorParam] as [Local, Local, Local];
    const bits = body.local('i32');
    const out = body.local('i64');
    const again = new Label();
    const one = i64.const(1n);
    return [
      set(bits, i32.const(64)),
      loop(again, [
        // The bit that leaves the high half makes the remainder larger than any divisor.
        set(out, i64.shr_u(get(high), i64.const(63n))),
        set(high, i64.or(i64.shl(get(high), one), i64.shr_u(get(low), i64.const(63n)))),
        set(low, i64.shl(get(low), one)),
        when(i32.or(i32.wrap_i64(get(out)), i64.ge_u(get(high), get(divisor))), [
          set(high, i64.sub(get(high), get(divisor))),
          set(low, i64.or(get(low), one)),
        ]),
        brIf(again, tee(bits, i32.sub(get(bits), i32.const(1)))),
      ]),
      get(low),
    ];
  });
}
