// # Integer vectors: moves
//
// Between memory and registers, between the three kinds of registers, and single lanes in and out. A lane is a place in the register file like any other, so
// to insert or extract one is an ordinary move.

import { define } from '../engine/micro-ops.ts';
import { brIf, get, i32, i64, Label, loop, set, tee, when } from '../engine/wasm-assembler.ts';
import { i8x16, i64x2 } from '../engine/wasm-vectors.ts';
import { OFFSET, SEG, SLOT } from '../state.ts';
import { type Builder, slot } from './builder.ts';
import type { Definition } from './encoding.ts';
import { NONE } from './instruction.ts';
import { loadInto, source, storeTo } from './simd-common.ts';
import { setMmx, simd, ZERO } from './simd-lanes.ts';

// ## Whole registers
//
// What is shorter than an XMM register is extended by zeros, in MOVQ between two of them as well.

define('copy.16', (e) => e.setVector('d', e.getVector('a')), { outlined: true });
for (const bytes of [4, 8] as const) {
  define(`vector.${bytes}`, (e) => e.setVector('d', i64x2.replace(ZERO, 0, e.getUnsigned('a', bytes))), { outlined: true });
  define(`mmx.${bytes}`, (e) => setMmx(e, i64x2.splat(e.getUnsigned('a', bytes))), { outlined: true });
}

/** A move of sixteen bytes. @param aligned whether an address must be a multiple of that. */
export const moveAll = (name: string, encodings: string, aligned: boolean): Definition =>
  simd(name, encodings, (b) => {
    const [d, a] = [b.registerOf(0), b.registerOf(1)];
    if (d === NONE) storeTo(b, a, 16, aligned);
    else if (a === NONE) loadInto(b, d, 16, aligned);
    else b.emit('copy.16', { d, a });
  });
/** A move of four or eight bytes into a vector or MMX register, or out of one. */
const movePart = (b: Builder): void => {
  const bytes = Math.min(b.bytes(0), b.bytes(1));
  const to = b.operands[0]?.kind as string;
  const d = b.registerOf(0);
  if (d === NONE) b.store(b.address(bytes, 1), bytes, b.registerOf(1));
  else if ('VWU'.includes(to)) b.emit(`vector.${bytes}`, { d, a: source(b, 1, bytes) });
  else if ('PQN'.includes(to)) b.emit(`mmx.${bytes}`, { d, a: source(b, 1, bytes) });
  else b.emit(`mov.${bytes}`, { d, a: b.registerOf(1) });
};

const WHOLE = [
  moveAll('MOVDQA', '66.0F6F Vx,Wx SSE2; 66.0F7F Wx,Vx SSE2', true), // moves sixteen aligned bytes
  moveAll('MOVDQU', 'F3.0F6F Vx,Wx SSE2; F3.0F7F Wx,Vx SSE2', false), // moves sixteen bytes
  moveAll('LDDQU', 'F2.0FF0 Vx,Mx SSE3', false), // loads sixteen bytes, perhaps reading more than those
  moveAll('MOVNTDQ', '66.0FE7 Mx,Vx SSE2', true), // stores sixteen aligned bytes past the cache
  moveAll('MOVNTDQA', '66.0F382A Vx,Mx SSE4.1', true), // loads sixteen aligned bytes past the cache
  // With REX.W the operand is a quadword, and the manual calls the same encodings MOVQ.
  simd('MOVD', '0F6E Pq,Ey MMX; 0F7E Ey,Pq MMX; 66.0F6E Vx,Ey SSE2; 66.0F7E Ey,Vx SSE2', movePart), // moves a doubleword between register files
  simd('MOVQ', '0F6F Pq,Qq MMX; 0F7F Qq,Pq MMX; F3.0F7E Vx,Wq SSE2; 66.0FD6 Wq,Vx SSE2', movePart), // moves a quadword
  simd('MOVNTQ', '0FE7 Mq,Pq SSE', movePart), // stores a quadword past the cache
  simd('MOVQ2DQ', 'F3.0FD6 Vx,Nq SSE2', movePart), // moves an MMX register to an XMM register
  simd('MOVDQ2Q', 'F2.0FD6 Pq,Ux SSE2', movePart), // moves the lower half of an XMM register to an MMX register
];

// ## One lane
//
// The immediate counts modulo the number of lanes.

const lane = (b: Builder, register: number, laneBytes: number, registerBytes: number): number =>
  register + laneBytes * (Number(b.insn.imm) & (registerBytes / laneBytes - 1));

/** Operand 0, a general register (written with 4 bytes or more) or memory of `bytes`, becomes a lane of operand 1. */
const extract = (bytes: 1 | 2 | 4 | 8) => (b: Builder) => {
  const size = 'N' === b.operands[1]?.kind ? 8 : 16;
  const from = lane(b, b.registerOf(1), bytes, size);
  const d = b.registerOf(0);
  if (d === NONE) b.store(b.address(bytes, 1), bytes, from);
  else b.emit(bytes < 4 ? `movzx.${bytes}.4` : `mov.${bytes}`, { d, a: from });
};
/** Four bytes and no more: in a general register the others would be cleared. */
define('insert.4', (e) => i32.store(e.address('d'), i32.wrap_i64(e.getUnsigned('a', 4))), { outlined: true });
/** A lane of operand 0 becomes operand 1, of which `bytes` are read. */
const insert = (bytes: 1 | 2 | 4 | 8) => (b: Builder) => {
  const mmx = b.operands[0]?.kind === 'P';
  const from = source(b, 1, bytes);
  const register = b.registerOf(0);
  b.emit(bytes === 4 ? 'insert.4' : `mov.${bytes}`, { d: lane(b, register, bytes, mmx ? 8 : 16), a: from });
  if (mmx) b.emit('mmx.8', { d: register, a: register });
};
const wide = (b: Builder): 4 | 8 => (b.insn.operandSize === 8 ? 8 : 4);

const SINGLE = [
  simd('PEXTRB', '66.0F3A14 Mb,Vx,Ib SSE4.1; 66.0F3A14 Rd,Vx,Ib SSE4.1', extract(1)), // extracts a byte
  simd('PEXTRW', '0FC5 Gd,Nq,Ib SSE; 66.0FC5 Gd,Ux,Ib SSE2; 66.0F3A15 Mw,Vx,Ib SSE4.1; 66.0F3A15 Rd,Vx,Ib SSE4.1', extract(2)), // extracts a word
  simd('PEXTRD', '66.0F3A16 Ey,Vx,Ib SSE4.1', (b) => extract(wide(b))(b)), // extracts a doubleword, with REX.W a quadword
  simd('PINSRB', '66.0F3A20 Vx,Mb,Ib SSE4.1; 66.0F3A20 Vx,Rd,Ib SSE4.1', insert(1)), // inserts a byte
  simd('PINSRW', '0FC4 Pq,Mw,Ib SSE; 0FC4 Pq,Rd,Ib SSE; 66.0FC4 Vx,Mw,Ib SSE2; 66.0FC4 Vx,Rd,Ib SSE2', insert(2)), // inserts a word
  simd('PINSRD', '66.0F3A22 Vx,Ey,Ib SSE4.1', (b) => insert(wide(b))(b)), // inserts a doubleword, with REX.W a quadword
];

// ## Signs as bits

define('signs', (e) => e.set('d', 4, i64.extend_i32_u(i8x16.bitmask(e.getVector('a')))), { outlined: true });
define('signs.mmx', (e) => e.set('d', 4, i64.extend_i32_u(i32.and(i8x16.bitmask(i64x2.splat(e.get('a'))), i32.const(0xff)))), { outlined: true });

// A masked store changes only what it stores: no other byte is written, or shown to a device. But it needs permission to write all of them, even when the mask is
// empty, and asks for it before it stores the first; for sixteen bytes, the upper eight come first.

for (const size of [8, 4] as const) {
  for (const bytes of [8, 16] as const) {
    define(
      `maskedStore.${bytes}.${size}`,
      (e) => {
        const [signs, i, at, again] = [e.local('i32'), e.local('i32'), e.local('i64'), new Label()];
        const linear = i64.add(e.get('d'), i64.extend_i32_u(get(i)));
        return [
          set(signs, i32.and(i8x16.bitmask(bytes === 8 ? i64x2.splat(e.get('b')) : e.getVector('b')), i32.const(2 ** bytes - 1))),
          set(i, i32.const(0)),
          loop(again, [
            when(i32.and(i32.shr_u(get(signs), get(i)), i32.const(1)), [
              set(at, size === 8 ? linear : i64.extend_i32_u(i32.wrap_i64(linear))),
              e.store(1, get(at), i64.load8_u(i32.add(e.address('a'), get(i))), i32.wrap_i64(e.imm)),
            ]),
            brIf(again, i32.ne(tee(i, i32.add(get(i), i32.const(1))), i32.const(bytes))),
          ]),
        ];
      },
      { outlined: true },
    );
  }
}
/** Stores to DS:rDI; another segment may be named. */
const storeMasked = (b: Builder): void => {
  const { addressSize, segment } = b.insn;
  const bytes = b.bytes(0);
  const offset = b.temporary();
  b.emit(`lea.${addressSize}.base`, { d: offset, a: slot(SLOT.RDI) });
  const at = b.linear(offset, segment, bytes, 1);
  const stack = segment === SEG.SS;
  for (const disp of bytes === 16 ? [8n, 0n] : [0n]) b.load({ at, disp, stack }, 8, b.temporary(), 'modify');
  b.emit(`maskedStore.${bytes}.${b.code64 ? 8 : 4}`, { d: at, a: b.registerOf(0), b: b.registerOf(1), imm: BigInt(Number(stack)) });
};

const MASKS = [
  simd('PMOVMSKB', '0FD7 Gd,Nq SSE; 66.0FD7 Gd,Ux SSE2', (b) =>
    b.emit(b.bytes(1) === 16 ? 'signs' : 'signs.mmx', { d: b.registerOf(0), a: b.registerOf(1) }),
  ), // the signs of all bytes as a number
  simd('MASKMOVQ', '0FF7 Pq,Nq SSE', (b) => {
    b.emit('mmx.used');
    storeMasked(b);
  }), // stores the bytes that a mask chooses
  simd('MASKMOVDQU', '66.0FF7 Vx,Ux SSE2', storeMasked), // stores the bytes that a mask chooses
];

// ## The end of MMX
//
// The registers are given back: to floating-point code, which expects an empty stack.

// @clause mmx.registers.aliased
const FULL_OR_TOP = (0xffn << 32n) | (0x3800n << 16n); // the tags, and TOP in the status word before them
define('emms', (e) => e.setField(OFFSET.FPU, i64.and(e.field(OFFSET.FPU), i64.const(~FULL_OR_TOP))), { outlined: true });

const EMMS = simd('EMMS', '0F77 MMX', (b) => {
  b.emit('mmx.ready');
  b.emit('emms');
});

export const SIMD_MOVES = [...WHOLE, ...SINGLE, ...MASKS, EMMS];
