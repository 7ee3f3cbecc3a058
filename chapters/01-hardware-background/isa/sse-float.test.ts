// # SSE's floating point, beside a real processor
//
// `sse-float-observed.json` was made by a processor (a Xeon of the Cascade Lake generation): for each encoding, a checksum over the results, the
// flags in MXCSR and RFLAGS, and which inputs
// raised an exception, for numbers of every kind in every rounding mode.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { FlatMachine } from '../engine/flat-machine.ts';
import { VECTOR } from '../faults.ts';
import { CR0, CR4, OFFSET, SLOT } from '../state.ts';
import { xmm } from './builder.ts';

// #region inputs
const IN = 80; // MXCSR, RAX, XMM1, XMM2, MM1, XMM0
const OUT = 48; // MXCSR and whether it faulted, RAX, XMM1, flags, MM1
const INPUTS = 400;

function* randoms(): Generator<number, never> {
  for (let seed = 0x2545f491; ; ) {
    seed = (Math.imul(seed, 0x5851f42d) + 0x14057b7f) | 0;
    yield ((seed ^ (seed >>> 15)) * 0x2c1b3c6d) >>> 0;
  }
}
const random = randoms();
const below = (n: number): number => Math.floor((random.next().value / 2 ** 32) * n);
const bits = (n: number): bigint => BigInt.asUintN(n, (BigInt(random.next().value) << 32n) | BigInt(random.next().value));
const pick = <T>(from: readonly T[]): T => from[below(from.length)] as T;

/** A number with something special about its exponent, its fraction, or how it compares with `other`. */
function number(fractionBits: number, greatest: number, other: bigint): bigint {
  const width = BigInt(fractionBits);
  const bias = greatest >> 1;
  const otherExponent = Number((other >> width) & BigInt(greatest));
  const exponents = [
    0,
    1,
    greatest - 1,
    greatest,
    below(greatest),
    below(greatest),
    otherExponent,
    otherExponent + below(2 * fractionBits) - fractionBits,
  ];
  const others = [
    bias + below(66),
    bias - below(4),
    bias + fractionBits + below(3),
    2 * bias - otherExponent + below(5) - 2,
    bias + otherExponent - below(4),
  ];
  const exponent = BigInt(Math.min(Math.max(pick([...exponents, ...others]), 0), greatest));
  const all = (1n << width) - 1n;
  const few = bits(4) << (width - 4n);
  const fraction = pick([0n, 1n, all, all - 1n, few, bits(fractionBits), bits(fractionBits), 1n << bits(5), (other & all) ^ bits(2)]);
  return (BigInt(below(2)) << (width + BigInt(Math.log2(greatest + 1)))) | (exponent << width) | (fraction & all);
}
const single = (other: bigint): bigint => number(23, 0xff, other);
const KINDS = {
  singles: (other: bigint): bigint => single(other & 0xffffffffn) | (single(other >> 32n) << 32n),
  doubles: (other: bigint): bigint => number(52, 0x7ff, other),
  integers: (): bigint => pick([bits(64), bits(64) >> bits(6), BigInt.asUintN(64, -(bits(64) >> bits(6))), (bits(32) << 32n) | 0x7fffff80n]),
};
const mxcsr = (): number => {
  const masks = below(3) ? 0x1f80 : below(64) << 7;
  return (
    masks | (below(2) ? 0 : below(4) << 13) | (below(4) ? 0 : 0x8000) | (below(4) ? 0 : 0x40) | (below(2) ? 0x20 : 0) | (below(4) ? 0 : below(64))
  );
};
function inputs(kind: keyof typeof KINDS): Uint8Array {
  const words = new BigUint64Array((INPUTS * IN) / 8);
  for (let at = 0; at < words.length; at += IN / 8) {
    const [low, high] = [KINDS[kind](0n), KINDS[kind](0n)];
    words.set([BigInt(mxcsr()), bits(64), low, high, KINDS[kind](low), KINDS[kind](high), KINDS[kind](low), 0n, bits(64), bits(64)], at);
  }
  return new Uint8Array(words.buffer);
}

const bytes = (hex: string): number[] => [...hex.matchAll(/[0-9a-f]{2}/g)].map(([byte]) => Number.parseInt(byte, 16));
/** A loop that loads an input from RSI, executes the instruction, and stores to RDI what came of it; RCX counts. `after` is where to go on after a fault. */
function loop(instruction: string, end: string): { code: number[]; after: number } {
  const before = bytes('31db 488b4608 0f104e10 0f105620 0f104640 0f6f4e30 0fae16 39c0');
  const finish = bytes('48894708 9f0f90c0 66894720 0fae1f 895f04 0f114f10 0f7f4f28 4883c650 4883c730 48ffc9');
  const body = [...before, ...bytes(instruction), ...finish];
  const back = new Uint8Array(Int32Array.of(-(body.length + 6)).buffer);
  return { code: [...body, 0x0f, 0x85, ...back, ...bytes(end)], after: before.length + bytes(instruction).length };
}
const checksum = (seen: Uint8Array): string => seen.reduce((sum, byte) => Math.imul(sum ^ byte, 0x01000193) >>> 0, 0x811c9dc5).toString(16);
// #endregion

const OBSERVED = JSON.parse(readFileSync(new URL('sse-float-observed.json', import.meta.url), 'utf8')) as Record<
  keyof typeof KINDS,
  Record<string, string>
>;
const CODE = 0x1000;
const FROM = 0x20000;
const TO = 0x40000;

/** What comes of the instruction for all inputs, as bytes. */
function results(m: FlatMachine, instruction: string, from: Uint8Array): Uint8Array {
  const { code, after } = loop(instruction, 'f4');
  m.memory.slice(FROM, from.length).set(from);
  m.memory.slice(TO, INPUTS * OUT).fill(0);
  for (const [slot, value] of [
    [SLOT.RSI, FROM],
    [SLOT.RDI, TO],
    [SLOT.RCX, INPUTS],
  ] as const)
    m.state.setSlotNumber(slot, value);
  let stop = m.run(code, { at: CODE, instructions: 1e6 });
  while (stop.kind === 'fault' && stop.fault.vector === VECTOR.XM) {
    m.state.setSlotNumber(SLOT.RBX, 1);
    m.state.setSlotNumber(SLOT.RIP, CODE + after);
    stop = m.resume(1e6);
  }
  expect(stop, instruction).toEqual({ kind: 'stop' });
  return m.memory.slice(TO, INPUTS * OUT);
}

it.each(Object.keys(OBSERVED) as (keyof typeof KINDS)[])('instructions on %s do what a real processor does', (kind) => {
  const from = inputs(kind);
  const m = new FlatMachine();
  const wrong = Object.entries(OBSERVED[kind]).filter(([form, expected]) => checksum(results(m, form.split(': ')[1] as string, from)) !== expected);
  expect(Object.keys(OBSERVED[kind]).length).toBeGreaterThan(20);
  expect(wrong.map(([form]) => form)).toEqual([]);
});

const hex = bytes;
const fault = (vector: number, errorCode: number | null = null) => ({ kind: 'fault', fault: expect.objectContaining({ vector, errorCode }) });

describe('conditions', () => {
  const ADDPS = hex('0f58c1'); // addps xmm0, xmm1
  it.each([
    ['CR0.EM', CR0.EM, CR4.OSFXSR, VECTOR.UD],
    ['no CR4.OSFXSR', 0, 0, VECTOR.UD],
    ['CR0.TS', CR0.TS, CR4.OSFXSR, VECTOR.NM],
    ['CR0.TS, but no CR4.OSFXSR', CR0.TS, 0, VECTOR.UD],
  ] as const)('%s', (_, cr0, cr4, vector) => {
    const m = new FlatMachine();
    m.state.set64(OFFSET.CR0, BigInt(cr0));
    m.state.set64(OFFSET.CR4, BigInt(cr4));
    expect(m.run(ADDPS)).toEqual(fault(vector));
  });

  it('an exception is #XM, or #UD for a system without OSXMMEXCPT, and the destination is untouched', () => {
    for (const [cr4, vector] of [
      [CR4.OSFXSR | CR4.OSXMMEXCPT, VECTOR.XM],
      [CR4.OSFXSR, VECTOR.UD],
    ] as const) {
      const m = new FlatMachine();
      m.state.set64(OFFSET.CR4, BigInt(cr4));
      m.state.set32(OFFSET.FPU + 24, 0x1f80 & ~(4 << 7)); // ZM clear
      m.state.view.setFloat64(xmm(0), 1.5, true);
      expect(m.run(hex('f20f5ec1'))).toEqual(fault(vector)); // divsd xmm0, xmm1
      expect(m.state.view.getFloat64(xmm(0), true)).toBe(1.5);
      expect(m.state.get32(OFFSET.FPU + 24) & 0x3f).toBe(4);
    }
  });

  it('sixteen bytes in memory must be aligned, but not those of MOVUPS, and not eight', () => {
    const m = new FlatMachine();
    m.state.setSlotNumber(SLOT.RBX, 0x8008);
    for (const aligned of ['0f2803', '0f2903', '660f5803', '0fc60300', '0f2b03', '660f5a03'])
      expect(m.run(hex(aligned)), aligned).toEqual(fault(VECTOR.GP, 0));
    for (const free of ['0f1003', '0f1103', 'f20f5803', '0f1203', '0f1603', 'f30fe603'])
      expect(m.run(hex(`${free} f4`)), free).toEqual({ kind: 'stop' });
  });

  it('MXCSR has no upper half', () => {
    const m = new FlatMachine();
    m.state.setSlotNumber(SLOT.RBX, 0x8000);
    m.memory.slice(0x8000, 4).set([0x80, 0x1f, 1, 0]);
    expect(m.run(hex('0fae13'))).toEqual(fault(VECTOR.GP, 0));
    expect(m.state.get32(OFFSET.FPU + 24)).toBe(0x1f80);
  });

  it('a fault in memory comes before anything is written', () => {
    const m = new FlatMachine();
    m.state.setSlotNumber(SLOT.RBX, 0x200000);
    m.state.view.setFloat64(xmm(0) + 8, 7, true);
    expect(m.run(hex('f20f1003'))).toEqual(fault(VECTOR.PF, 0)); // movsd xmm0, [rbx]
    expect(m.state.view.getFloat64(xmm(0) + 8, true)).toBe(7);
  });
});

it('undefined: the wrong prefix', () => {
  for (const code of ['f30f28c1', 'f20f14c1', '660f52c1', 'f20f50c1', 'f00f58c1', '0f3a08c100', '0f13c1', '660f12c1']) {
    expect(new FlatMachine().run(hex(code)), code).toEqual(fault(VECTOR.UD));
  }
});
