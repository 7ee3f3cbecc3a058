// # Interesting numbers
//
// Uniformly random numbers are poor tests: a random double is never a denormal, two random integers are never equal. So numbers are drawn from pools in which
// the special ones and their neighbours are common. The pools are made once for each seed; a case only picks.

import { CASE, FX, type Records } from './records.ts';
import { PLACE } from './world.ts';

/** Marsaglia's xorshift: small, and the same everywhere. */
export class Random {
  #x: number;
  constructor(seed: number) {
    this.#x = Math.imul(seed + 1, 0x9e3779b1) | 1;
    for (let n = 0; n < 8; n++) this.u32();
  }
  u32(): number {
    this.#x ^= this.#x << 13;
    this.#x ^= this.#x >>> 17;
    this.#x ^= this.#x << 5;
    return this.#x >>> 0;
  }
  u64(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32());
  }
  below(n: number): number {
    return Math.floor((this.u32() / 2 ** 32) * n);
  }
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }
  pick<T>(items: ArrayLike<T>): T {
    return items[this.below(items.length)] as T;
  }
}

const u64 = (value: bigint): bigint => BigInt.asUintN(64, value);

// ## Integers

// biome-ignore format: table
const EDGES = [
  0n, 1n, 2n, 3n, 7n, 8n, 9n, 10n, 0xfn, 0x10n, 0x1fn, 0x20n, 0x3fn, 0x40n, 0x7fn, 0x80n, 0x81n, 0xfen, 0xffn,
  0x100n, 0x7ffen, 0x7fffn, 0x8000n, 0x8001n, 0xfffen, 0xffffn,
  0x10000n, 0x7ffffffen, 0x7fffffffn, 0x80000000n, 0x80000001n, 0xfffffffen, 0xffffffffn, 0x1_0000_0000n, (1n << 47n) - 1n, 1n << 47n,
  (1n << 63n) - 1n, 1n << 63n, (1n << 63n) + 1n, 0x5555555555555555n, 0xaaaaaaaaaaaaaaaan, 0x0102030405060708n, u64(-2n), u64(-1n), u64(-1n << 31n), u64(-1n << 47n),
];

/** An integer for a general register that is not to be an address. */
function integer(random: Random): bigint {
  const kind = random.below(8);
  if (kind < 2) return BigInt(random.below(70));
  if (kind < 4) return random.pick(EDGES);
  if (kind < 5) return u64(BigInt(-random.below(70)));
  if (kind < 6) return BigInt(random.u32());
  return random.u64();
}

/** An address in or about the data pages: mostly aligned and inside, sometimes across an edge. */
export function pointer(random: Random): number {
  const kind = random.below(20);
  if (kind < 11) return PLACE.DATA + 16 * random.below(PLACE.DATA_BYTES / 16);
  if (kind < 15) return PLACE.DATA + 4 * random.below(PLACE.DATA_BYTES / 4);
  if (kind < 17) return PLACE.DATA + random.below(PLACE.DATA_BYTES);
  if (kind < 19) return random.pick([PLACE.DATA, PLACE.DATA + 0x1000, PLACE.DATA + 0x2000, PLACE.END]) + random.below(40) - 32;
  return random.pick([PLACE.CODE, PLACE.CODE + 0xff0, PLACE.CODE + 0x1ff8, PLACE.DATA - 8, PLACE.END]) + random.below(16);
}

// ## Floating-point numbers
//
// One recipe serves three formats: a sign, an exponent (an end of the range, or near one, or near that of 1, or random) and a significand (empty, full, a
// single bit at an end, a half-way case of one of the narrower formats, random).

interface Format {
  readonly exponentBits: number;
  readonly fractionBits: number;
}
const SINGLE: Format = { exponentBits: 8, fractionBits: 23 };
const DOUBLE: Format = { exponentBits: 11, fractionBits: 52 };
const EXTENDED: Format = { exponentBits: 15, fractionBits: 63 };

function float(random: Random, { exponentBits, fractionBits }: Format): bigint {
  const largest = (1 << exponentBits) - 1;
  const bias = largest >> 1;
  const exponent = random.pick([
    0,
    0,
    1,
    2,
    largest,
    largest,
    largest - 1,
    bias,
    bias,
    bias + 1,
    bias - 1,
    bias + random.below(66),
    bias - random.below(66),
    bias + random.pick([31, 32, 63, 62, 15, 14, 52, 53, 23, 24, 64]),
    // Where the narrower formats begin and end.
    Math.min(largest, bias + random.pick([127, 128, 1023, 1024])),
    Math.max(0, bias - random.pick([126, 127, 150, 149, 1022, 1023, 1074, 1075])),
    random.below(largest + 1),
  ]);
  const full = (1n << BigInt(fractionBits)) - 1n;
  const top = 1n << BigInt(fractionBits - 1);
  const fraction = fractionOf(random, fractionBits, full, top);
  const sign = BigInt(random.below(2));
  const integerBit = fractionBits === 63 ? 1n : 0n;
  const isExplicit = integerBit !== 0n;
  // The extended format shows its integer bit. One that does not fit the exponent is a number of a kind that the 8087 had and the 80387 refuses.
  const shown = isExplicit ? ((exponent === 0) === random.chance(96) ? 0n : 1n) : 0n;
  const significand = isExplicit ? (shown << 63n) | fraction : fraction;
  return (
    (sign << BigInt(exponentBits + fractionBits + Number(integerBit))) | (BigInt(exponent) << BigInt(fractionBits + Number(integerBit))) | significand
  );
}

function fractionOf(random: Random, bits: number, full: bigint, top: bigint): bigint {
  const kind = random.below(12);
  if (kind < 3) return 0n;
  if (kind < 4) return full;
  if (kind < 5) return top;
  if (kind < 6) return random.pick([1n, 2n, 3n, full - 1n, top - 1n, top + 1n, top | 1n]);
  const bitsKept = random.pick([23, 24, 52, 53, 10, 31, 32, 15]);
  if (kind < 9 && bitsKept < bits) {
    // The bits after the narrower format's last: exactly a half, or next to it.
    const below = BigInt(bits - bitsKept);
    const upper = random.u64() & ((1n << BigInt(bitsKept)) - 1n);
    const half = 1n << (below - 1n);
    return (random.chance(30) ? full >> below : upper) * (1n << below) + random.pick([half, half - 1n, half + 1n, 0n, 1n, 2n * half - 1n]);
  }
  if (kind < 10) return (random.u64() & full) >> BigInt(random.below(bits));
  return random.u64() & full;
}

/** Packed decimal, of 18 digits and a sign; now and then digits that are none. */
function decimal(random: Random): bigint {
  let value = 0n;
  for (let digit = 0; digit < 18; digit++) value |= BigInt(random.chance(98) ? random.below(10) : random.below(16)) << BigInt(4 * digit);
  return value | (BigInt(random.pick([0, 0x80, 0x80, random.below(256)])) << 72n);
}

// ## Pools

const POOL = 1024;

/** 16-byte pieces of several kinds. */
export class Pools {
  readonly #random: Random;
  readonly kinds: readonly Uint8Array[];
  readonly extended: Uint8Array;
  readonly integers = new BigUint64Array(POOL);

  constructor(random: Random) {
    this.#random = random;
    const make = (fill: (view: DataView, at: number) => void): Uint8Array => {
      const pool = new Uint8Array(16 * POOL);
      const view = new DataView(pool.buffer);
      for (let n = 0; n < POOL; n++) fill(view, 16 * n);
      return pool;
    };
    const lanes = (bytes: number, value: () => bigint) => (view: DataView, at: number) => {
      const same = random.chance(15) ? value() : null; // equal lanes
      for (let lane = 0; lane < 16; lane += bytes) {
        const bits = same ?? value();
        for (let i = 0; i < bytes; i++) view.setUint8(at + lane + i, Number((bits >> BigInt(8 * i)) & 0xffn));
      }
    };
    const edges = make(lanes(random.pick([1, 2]), () => integer(random)));
    this.extended = make(lanes(16, () => float(random, EXTENDED)));
    this.kinds = [
      make(lanes(4, () => float(random, SINGLE))),
      make(lanes(4, () => float(random, SINGLE))),
      make(lanes(8, () => float(random, DOUBLE))),
      make(lanes(8, () => float(random, DOUBLE))),
      this.extended,
      make(lanes(16, () => decimal(random))),
      edges,
      make(lanes(1, () => random.pick([0n, 1n, 0x7fn, 0x80n, 0xffn, BigInt(random.below(256))]))),
      make(lanes(2, () => random.pick([0n, 1n, 0x7fffn, 0x8000n, 0xffffn, BigInt(random.below(65536))]))),
      make(lanes(4, () => random.pick([0n, 1n, 0x7fffffffn, 0x80000000n, 0xffffffffn, BigInt(random.u32())]))),
      make(lanes(8, () => integer(random))),
      make(lanes(16, () => random.u64() | (random.u64() << 64n))),
      make(lanes(4, () => BigInt(random.chance(50) ? mxcsr(random) : controlWord(random) | (0xffff << 16)) & 0xffffffffn)),
      make(lanes(8, () => BigInt(pointer(random)) | (BigInt(random.pick([0x23, 0x2b, 0x33, 0x0f, 7, 0])) << 32n))),
    ];
    for (let n = 0; n < POOL; n++) this.integers[n] = random.chance(25) ? BigInt(pointer(random)) : integer(random);
  }

  /** Copies a piece of any kind to `to`. */
  piece(to: Uint8Array, at: number, kind = this.#random.pick(this.kinds)): void {
    const from = 16 * this.#random.below(POOL);
    for (let i = 0; i < 16; i++) to[at + i] = kind[from + i] as number;
  }
  integer(): bigint {
    return this.integers[this.#random.below(POOL)] as bigint;
  }
}

// ## Control words

/** Mostly everything masked: an exception that is not masked hides the result. */
function mxcsr(random: Random): number {
  const masks = random.chance(75) ? 0x1f80 : random.u32() & 0x1f80;
  const flags = random.chance(30) ? random.u32() & 0x3f : 0;
  return masks | flags | (random.below(4) << 13) | (random.chance(15) ? 0x8000 : 0) | (random.chance(15) ? 0x40 : 0);
}
function controlWord(random: Random): number {
  const masks = random.chance(70) ? 0x3f : random.u32() & 0x3f;
  return 0x40 | masks | (random.pick([3, 3, 3, 0, 2, 1]) << 8) | (random.below(4) << 10) | (random.chance(10) ? 0x1000 : 0);
}

/** Fills the FXSAVE image of a case. */
export function inventFpu(random: Random, pools: Pools, cases: Records, index: number): void {
  const image = cases.slice(index, CASE.FX, FX.BYTES);
  const view = new DataView(image.buffer, image.byteOffset, FX.BYTES);
  const fcw = controlWord(random);
  const flags = random.chance(15) ? random.u32() & 0x7f : 0;
  const summary = flags & ~fcw & 0x3f ? 0x8080 : 0;
  const codes = random.chance(30) ? random.u32() & 0x4700 : 0;
  view.setUint16(FX.FCW, fcw, true);
  view.setUint16(FX.FSW, flags | summary | codes | ((random.chance(30) ? 0 : random.below(8)) << 11), true);
  view.setUint16(FX.FTW, random.chance(65) ? 0xff : random.below(256), true);
  view.setUint32(FX.MXCSR, mxcsr(random), true);
  view.setUint32(FX.MXCSR_MASK, 0xffff, true);
  for (let n = 0; n < 8; n++) {
    pools.piece(image, FX.ST + 16 * n, random.chance(80) ? pools.extended : undefined);
    for (let i = 10; i < 16; i++) image[FX.ST + 16 * n + i] = 0;
  }
  for (let n = 0; n < 16; n++) pools.piece(image, FX.XMM + 16 * n);
  // Often operands of one kind: a comparison of a double with a decimal says little.
  if (random.chance(70)) {
    const kind = random.pick(pools.kinds);
    for (let n = 0; n < 16; n++) pools.piece(image, FX.XMM + 16 * n, kind);
  }
  if (random.chance(10)) image.copyWithin(FX.XMM, FX.XMM + 16, FX.XMM + 32);
}

/** Fills data pages. In them is, besides pieces of all kinds, an image for the instructions that restore extended state. */
export function inventData(random: Random, pools: Pools, data: Uint8Array): void {
  for (let at = 0; at < data.length; at += 16) pools.piece(data, at);
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  for (const image of IMAGES) {
    view.setUint16(image, controlWord(random), true);
    view.setUint32(image + FX.MXCSR, mxcsr(random), true);
    for (let n = 0; n < 8; n++) pools.piece(data, image + FX.ST + 16 * n, pools.extended);
    for (let at = FX.BYTES; at < FX.BYTES + 64; at++) data[image + at] = 0;
    data[image + FX.BYTES] = random.below(4);
  }
}
/** Where in the data pages such images lie: on a 64-byte boundary. */
export const IMAGES = [0x400, 0x1800] as const;
