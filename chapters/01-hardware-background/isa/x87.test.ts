// # The x87, beside a real processor
//
// `x87-observed.json` was made by a processor (a Xeon of the Cascade Lake generation): for each encoding, a checksum over the unit's state, the memory operand, AX
// and the flags after it has been executed on a number of inputs, with all kinds of numbers, control words and empty registers. A wrong bit anywhere changes it.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { readFlags, writeFlags } from '../engine/flags.ts';
import { FlatMachine } from '../engine/flat-machine.ts';
import { VECTOR } from '../faults.ts';
import { CR0, FLAG, OFFSET, SLOT } from '../state.ts';
import { FxsaveImage, readFxImage, writeFxImage } from '../system/fx-image.ts';

const OBSERVED = JSON.parse(readFileSync(new URL('x87-observed.json', import.meta.url), 'utf8')) as Record<string, string>;
const INPUTS = 48;
const DATA = 0x20000;
// biome-ignore format: table
const EXPONENTS = [
  0, 1, 2, 0x3bcd, 0x3c01, 0x3f6a, 0x3f81, 0x3fbf, 0x3ffd, 0x3ffe, 0x3fff, 0x4000, 0x4001, 0x400e, 0x401e, 0x403e, 0x407e, 0x43fe, 0x7ffd, 0x7ffe, 0x7fff,
  0x3fff, 0x3fff, 0x4005,
];
const CONTROLS = [0x37f, 0x37f, 0x77f, 0xb7f, 0xf7f, 0x27f, 0x07f, 0x340, 0x37e, 0x36f, 0x377, 0x35f, 0x37d, 0x37b];
const u64 = (x: bigint): bigint => BigInt.asUintN(64, x);

interface Input {
  readonly image: Uint8Array;
  readonly data: Uint8Array;
  readonly rax: number;
}
function input(n: number): Input {
  let seed = Math.imul(n + 1, 0x9e3779b1) >>> 0;
  const next = (): number => {
    seed = (Math.imul(seed ^ (seed >>> 15), 0x2c1b3c6d) + 0x3c6ef372) >>> 0;
    return (seed ^ (seed >>> 13)) >>> 8;
  };
  const image = new Uint8Array(512);
  const view = new DataView(image.buffer);
  const fcw = CONTROLS[next() % 14] as number;
  const codes = ((next() & 0x47) << 8) & 0x4700;
  FxsaveImage.store(view, 0, { fcw, fsw: codes | ((next() % 8) << 11), mxcsr: 0x1f80 });
  image[4] = next() % 3 ? 0xff : next() & 0xff;
  for (let r = 0; r < 8; r++) {
    let exponent = EXPONENTS[next() % 24] as number;
    const [kind, a, b, c] = [next() % 6, next(), next(), next()] as [number, number, number, number];
    const random = (BigInt(a) << 40n) ^ (BigInt(b) << 16n) ^ BigInt(c);
    let significand = ([0n, -1n, 1n, BigInt(a & 0xffff) << 47n] as const)[kind] ?? random;
    significand = exponent ? significand | (1n << 63n) : u64(significand) & ~(1n << 63n);
    if (a % 23 === 0) significand ^= 1n << 63n;
    exponent |= (b & 1) << 15;
    view.setBigUint64(32 + 16 * r, u64(significand), true);
    view.setUint16(40 + 16 * r, exponent, true);
  }
  const data = new Uint8Array(16);
  const kind = next() % 5;
  for (let i = 0; i < 16; i++) data[i] = kind === 0 ? 0 : kind === 1 ? (next() % 10) | ((next() % 10) << 4) : next();
  const words = new DataView(data.buffer);
  if (kind === 2) {
    const exponent = BigInt(0x3ff + (next() % 40) - 20) << 52n;
    words.setBigUint64(0, exponent | (BigInt(next() & 1) << 63n) | BigInt(next()), true);
  }
  if (kind === 3) words.setUint32(0, ((0x7f + (next() % 20) - 10) << 23) | (next() & 0x7fff), true);
  return { image, data, rax: next() };
}

const bytes = (hex: string): number[] => [...hex.matchAll(/../g)].map(([byte]) => Number.parseInt(byte, 16));
function machine(): FlatMachine {
  const m = new FlatMachine(64);
  m.state.set64(OFFSET.CR0, BigInt(CR0.PE | CR0.NE));
  return m;
}

describe('the x87', () => {
  const m = machine();
  const { state, memory } = m;
  it.each(Object.entries(OBSERVED).map(([code, sum], index) => [code, sum, index] as const))('%s does what a real one does', (code, sum, index) => {
    let hash = 0x811c9dc5;
    const add = (byte: number): void => {
      hash = Math.imul(hash ^ (byte & 0xff), 0x01000193);
    };
    for (let n = 0; n < INPUTS; n++) {
      const { image, data, rax } = input(n + index);
      writeFxImage(state, image);
      memory.slice(DATA, 16).set(data);
      state.setSlotNumber(SLOT.RAX, rax);
      state.setSlotNumber(SLOT.RDI, DATA);
      writeFlags(state, ((n * 0x45) & 0xc5) | FLAG.FIXED);
      m.run([...bytes(code), 0xf4], { instructions: 2 });
      const after = readFxImage(state);
      after.subarray(0, 5).forEach(add);
      for (let r = 0; r < 8; r++) after.subarray(32 + 16 * r, 42 + 16 * r).forEach(add);
      memory.slice(DATA, 16).forEach(add);
      add(state.slot32(SLOT.RAX));
      add(state.slot32(SLOT.RAX) >> 8);
      add(readFlags(state) & 0xc5);
    }
    expect((hash >>> 0).toString(16).padStart(8, '0')).toBe(sum);
  });

  it('waits with what is pending, and is not there while CR0 says so', () => {
    const pending = [0xdb, 0xe3, 0xd9, 0x2f, 0xd9, 0xee, 0xd9, 0xfa, 0xd9, 0xe0, 0xd9, 0xe8, 0xde, 0xf1]; // ... 1 / -0
    const start = (more: number[]): ReturnType<FlatMachine['run']> => {
      memory.slice(DATA, 2).set([0x7b, 0x03]); // division by zero is not masked
      state.setSlotNumber(SLOT.RDI, DATA);
      return m.run([...pending, ...more, 0xf4]);
    };
    expect(start([0xdf, 0xe0])).toEqual({ kind: 'stop' }); // FNSTSW does not wait
    for (const waiting of [[0x9b], [0xd9, 0xe8], [0xd9, 0xd0]]) {
      expect(start(waiting)).toMatchObject({ kind: 'fault', fault: { vector: VECTOR.MF } });
    }
    state.set64(OFFSET.CR0, BigInt(CR0.PE | CR0.NE | CR0.TS));
    expect(m.run([0xd9, 0xe8])).toMatchObject({ kind: 'fault', fault: { vector: VECTOR.NM } });
    state.set64(OFFSET.CR0, BigInt(CR0.PE | CR0.NE));
  });
});
