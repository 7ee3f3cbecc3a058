// # What vector instructions have in common
//
// Registers that an operating system does not know of would not survive a task switch. So the vector instructions do not exist until it has said, in
// CR4.OSFXSR, that it saves them; and CR0.TS lets it put the saving off until the first instruction that touches them, which then is #NM.

import { define } from '../engine/micro-ops.ts';
import { type Code, get, i32, i64, set, tee, when } from '../engine/wasm-assembler.ts';
import { VECTOR } from '../faults.ts';
import { CR0, CR4, OFFSET, SEG, SEGMENT_BYTES } from '../state.ts';
import type { Builder } from './builder.ts';
import { NONE } from './instruction.ts';

const bits = (value: Code, mask: number): Code => i32.and(value, i32.const(mask));

// @clause x86.sse.undefined
// @clause x86.exception.device-not-available
define(
  'sse.ready',
  (e) => {
    const wrong = e.local('i32');
    const withoutSystem = bits(i32.xor(e.field32(OFFSET.CR4), i32.const(CR4.OSFXSR)), CR4.OSFXSR);
    return when(tee(wrong, i32.or(bits(e.field32(OFFSET.CR0), CR0.EM | CR0.TS), withoutSystem)), [
      when(bits(get(wrong), CR0.EM | CR4.OSFXSR), e.fault(VECTOR.UD)),
      e.fault(VECTOR.NM),
    ]);
  },
  { once: true },
);

// ## MMX
//
// The MMX registers are the significands of the floating-point registers, so that an operating system of 1995 saved them without knowing. The price:
// an MMX instruction is also a floating-point instruction. It waits for a pending exception, and leaves the register stack full and its top at 0.

const FSW = OFFSET.FPU + 2;
const FTW = OFFSET.FPU + 4;
const STATUS = { ES: 0x80, TOP: 0x3800 } as const;

define('mmx.ready', (e) => {
  const cr0 = e.local('i32');
  return [
    set(cr0, e.field32(OFFSET.CR0)),
    when(bits(get(cr0), CR0.EM), e.fault(VECTOR.UD)),
    when(bits(get(cr0), CR0.TS), e.fault(VECTOR.NM)),
    when(
      i32.and(i32.ne(bits(get(cr0), CR0.NE), i32.const(0)), i32.ne(bits(i32.load16_u(e.state(FSW)), STATUS.ES), i32.const(0))),
      e.fault(VECTOR.MF),
    ),
  ];
});
/** After everything that can fault: the register stack is full, its top is register 0. */
define('mmx.used', (e) => [i32.store16(e.state(FSW), bits(i32.load16_u(e.state(FSW)), ~STATUS.TOP)), i32.store8(e.state(FTW), i32.const(0xff))]);

// ## Operands in memory
//
// Sixteen bytes must lie at a multiple of sixteen, except for the few instructions made for those that do not.

// @clause sse.operand.alignment
for (const size of [8, 4] as const) {
  const linear = (base: Code, displacement: Code): Code => {
    const sum = i64.add(base, displacement);
    return size === 8 ? sum : i64.extend_i32_u(i32.wrap_i64(sum));
  };
  define(
    `loadAligned.16.${size}`,
    (e) => {
      const at = e.local('i64');
      return [
        set(at, linear(e.get('a'), e.immLow)),
        when(bits(i32.wrap_i64(get(at)), 15), e.fault(VECTOR.GP, 0)),
        e.setVector('d', e.loadVector(get(at), e.immHigh32)),
      ];
    },
    { outlined: true },
  );
  define(
    `storeAligned.16.${size}`,
    (e) => {
      const at = e.local('i64');
      return [
        set(at, linear(e.get('a'), e.immLow)),
        when(bits(i32.wrap_i64(get(at)), 15), e.fault(VECTOR.GP, 0)),
        e.storeVector(get(at), e.getVector('b'), e.immHigh32),
      ];
    },
    { outlined: true },
  );
}

const READ = 0;
const WRITE = 1;

/** The address of the memory operand. That sixteen bytes are misaligned is noticed before that they lie outside the stack segment, which is another exception. */
function addressOf(b: Builder, bytes: number, access: number, aligned: boolean): ReturnType<Builder['address']> {
  const { segment, addressSize } = b.insn;
  if (aligned && segment === SEG.SS && !b.code64 && !b.isDirect(segment, addressSize, access)) {
    const at = b.offset();
    b.emit('plus', { d: at, a: at, b: OFFSET.SEGMENTS + SEG.SS * SEGMENT_BYTES });
    b.emit('aligned', { a: at, imm: 16n });
  }
  return b.address(bytes, access);
}

/** Operand `n`, wherever it is: the register, or a temporary with what was in memory. */
export function source(b: Builder, n: number, bytes = b.bytes(n)): number {
  return readFrom(b, n, bytes, bytes === 16 ? 'loadAligned' : 'load');
}
/** The same for instructions that take sixteen bytes from any address. */
export function unalignedSource(b: Builder, n: number, bytes = b.bytes(n)): number {
  return readFrom(b, n, bytes, 'load');
}
function readFrom(b: Builder, n: number, bytes: number, kind: string): number {
  const register = b.registerOf(n);
  return register !== NONE ? register : b.load(addressOf(b, bytes, READ, kind === 'loadAligned'), bytes, undefined, kind);
}

/** Loads memory operand `n` straight into `d`. The bytes of `d` above the 8 of a shorter load stay as they are. */
export function loadInto(b: Builder, d: number, bytes: number, aligned = bytes === 16): void {
  b.load(addressOf(b, bytes, READ, aligned), bytes, d, aligned ? 'loadAligned' : 'load');
}

/** Stores the operand `from` to the instruction's memory operand. */
export function storeTo(b: Builder, from: number, bytes: number, aligned = bytes === 16): void {
  const address = addressOf(b, bytes, WRITE, aligned);
  if (aligned) {
    const imm = BigInt.asUintN(32, address.disp) | (BigInt(Number(address.stack)) << 32n);
    b.emit(`storeAligned.16.${b.code64 ? 8 : 4}`, { a: address.at, b: from, imm });
  } else b.store(address, bytes, from);
}
