// # MXCSR
//
// How to round, which exceptions to report, and which have happened: one register for all of SSE's floating point (its layout is in
// `engine/float/ieee.ts`). The reset value masks everything and rounds to nearest. A reserved bit is refused, so that software cannot come to rely
// on its being ignored.

import { MXCSR } from '../engine/float/ieee.ts';
import { define } from '../engine/micro-ops.ts';
import { i32, when } from '../engine/wasm-assembler.ts';
import { VECTOR } from '../faults.ts';
import { source } from './simd-common.ts';
import { simd } from './simd-lanes.ts';

const RESERVED = ~0xffff;

// @clause x86.sse.mxcsr-reserved
define('mxcsr.load', (e) => {
  const value = i32.wrap_i64(e.get('a', 4));
  return [when(i32.and(value, i32.const(RESERVED)), e.fault(VECTOR.GP, 0)), e.setField32(MXCSR.AT, value)];
});

export const SSE_CONTROL = [
  simd('LDMXCSR', '0FAE/2 Md SSE bare', (b) => {
    b.emit('sse.ready');
    b.emit('mxcsr.load', { a: source(b, 0) });
  }), // loads MXCSR
  simd('STMXCSR', '0FAE/3 Md SSE bare', (b) => {
    b.emit('sse.ready');
    b.store(b.address(4, 1), 4, MXCSR.AT);
  }), // stores MXCSR
];
