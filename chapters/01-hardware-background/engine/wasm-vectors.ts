// # Floating point and vectors in WebAssembly
//
// tidy: table
//
// The rest of the assembler's vocabulary. WebAssembly's 128-bit vectors were designed after what processors have in common, so most of what SSE does to
// integers is one instruction here as well. Its floating point is IEEE 754 with rounding to nearest and without flags: good for the ordinary case.

import { binary, type Code, load, store, unary, unsigned } from './wasm-assembler.ts';

// ## Scalars

const bytesOf = (bytes: number, set: (view: DataView) => void): number[] => {
  const view = new DataView(new ArrayBuffer(bytes));
  set(view);
  return [...new Uint8Array(view.buffer)];
};

// biome-ignore format: table
export const f32 = {
  const: (value: number): Code => [0x43, ...bytesOf(4, (view) => view.setFloat32(0, value, true))],
  load: load(0x2a), store: store(0x38),
  eq: binary(0x5b), ne: binary(0x5c), lt: binary(0x5d), gt: binary(0x5e), le: binary(0x5f), ge: binary(0x60),
  abs: unary(0x8b), neg: unary(0x8c), ceil: unary(0x8d), floor: unary(0x8e), trunc: unary(0x8f), nearest: unary(0x90), sqrt: unary(0x91),
  add: binary(0x92), sub: binary(0x93), mul: binary(0x94), div: binary(0x95), min: binary(0x96), max: binary(0x97), copysign: binary(0x98),
  convert_i32_s: unary(0xb2), convert_i32_u: unary(0xb3), convert_i64_s: unary(0xb4), convert_i64_u: unary(0xb5), demote_f64: unary(0xb6),
  reinterpret_i32: unary(0xbe),
};
// biome-ignore format: table
export const f64 = {
  const: (value: number): Code => [0x44, ...bytesOf(8, (view) => view.setFloat64(0, value, true))],
  load: load(0x2b), store: store(0x39),
  eq: binary(0x61), ne: binary(0x62), lt: binary(0x63), gt: binary(0x64), le: binary(0x65), ge: binary(0x66),
  abs: unary(0x99), neg: unary(0x9a), ceil: unary(0x9b), floor: unary(0x9c), trunc: unary(0x9d), nearest: unary(0x9e), sqrt: unary(0x9f),
  add: binary(0xa0), sub: binary(0xa1), mul: binary(0xa2), div: binary(0xa3), min: binary(0xa4), max: binary(0xa5), copysign: binary(0xa6),
  convert_i32_s: unary(0xb7), convert_i32_u: unary(0xb8), convert_i64_s: unary(0xb9), convert_i64_u: unary(0xba), promote_f32: unary(0xbb),
  reinterpret_i64: unary(0xbf),
};
/** From floating point to integers; out of range saturates, NaN gives 0. */
export const convert = {
  i32_reinterpret_f32: unary(0xbc),
  i64_reinterpret_f64: unary(0xbd),
  i32_trunc_sat_f32_s: unary(0xfc, 0),
  i32_trunc_sat_f32_u: unary(0xfc, 1),
  i32_trunc_sat_f64_s: unary(0xfc, 2),
  i32_trunc_sat_f64_u: unary(0xfc, 3),
  i64_trunc_sat_f32_s: unary(0xfc, 4),
  i64_trunc_sat_f32_u: unary(0xfc, 5),
  i64_trunc_sat_f64_s: unary(0xfc, 6),
  i64_trunc_sat_f64_u: unary(0xfc, 7),
};

// ## Vectors

const PREFIX = 0xfd;
const op = (n: number): number[] => [PREFIX, ...unsigned(n)];
const un = (n: number): ((x: Code) => Code) => unary(...op(n));
const bin = (n: number): ((x: Code, y: Code) => Code) => binary(...op(n));
const extract =
  (n: number) =>
  (x: Code, lane: number): Code => [x, ...op(n), lane];
const replace =
  (n: number) =>
  (x: Code, lane: number, value: Code): Code => [x, value, ...op(n), lane];

// biome-ignore format: table
export const v128 = {
  load: load(...op(0)), store: store(...op(11)),
  load32_zero: load(...op(92)), load64_zero: load(...op(93)), load32_splat: load(...op(9)), load64_splat: load(...op(10)),
  const: (low: bigint, high: bigint): Code => [...op(12), ...bytesOf(16, (view) => {
    view.setBigUint64(0, BigInt.asUintN(64, low), true);
    view.setBigUint64(8, BigInt.asUintN(64, high), true);
  })],
  not: un(77), and: bin(78), /** x & ~y */ andnot: bin(79), or: bin(80), xor: bin(81),
  /** The bits of x where the mask has ones, of y where it has zeros. */
  bitselect: (x: Code, y: Code, mask: Code): Code => [x, y, mask, ...op(82)],
  any_true: un(83),
};
// biome-ignore format: table
export const i8x16 = {
  /** Lanes 0..15 are x's, 16..31 are y's. */
  shuffle: (x: Code, y: Code, lanes: readonly number[]): Code => [x, y, ...op(13), ...lanes],
  swizzle: bin(14), splat: un(15), extract_s: extract(21), extract_u: extract(22), replace: replace(23),
  eq: bin(35), ne: bin(36), lt_s: bin(37), lt_u: bin(38), gt_s: bin(39), gt_u: bin(40), le_s: bin(41), le_u: bin(42), ge_s: bin(43), ge_u: bin(44),
  abs: un(96), neg: un(97), popcnt: un(98), all_true: un(99), bitmask: un(100), narrow_i16x8_s: bin(101), narrow_i16x8_u: bin(102),
  shl: bin(107), shr_s: bin(108), shr_u: bin(109), add: bin(110), add_sat_s: bin(111), add_sat_u: bin(112), sub: bin(113), sub_sat_s: bin(114), sub_sat_u: bin(115),
  min_s: bin(118), min_u: bin(119), max_s: bin(120), max_u: bin(121), avgr_u: bin(123),
};
// biome-ignore format: table
export const i16x8 = {
  splat: un(16), extract_s: extract(24), extract_u: extract(25), replace: replace(26),
  eq: bin(45), ne: bin(46), lt_s: bin(47), lt_u: bin(48), gt_s: bin(49), gt_u: bin(50), le_s: bin(51), le_u: bin(52), ge_s: bin(53), ge_u: bin(54),
  extadd_pairwise_i8x16_s: un(124), extadd_pairwise_i8x16_u: un(125),
  abs: un(128), neg: un(129), q15mulr_sat_s: bin(130), all_true: un(131), bitmask: un(132), narrow_i32x4_s: bin(133), narrow_i32x4_u: bin(134),
  extend_low_i8x16_s: un(135), extend_high_i8x16_s: un(136), extend_low_i8x16_u: un(137), extend_high_i8x16_u: un(138),
  shl: bin(139), shr_s: bin(140), shr_u: bin(141), add: bin(142), add_sat_s: bin(143), add_sat_u: bin(144), sub: bin(145), sub_sat_s: bin(146), sub_sat_u: bin(147),
  mul: bin(149), min_s: bin(150), min_u: bin(151), max_s: bin(152), max_u: bin(153), avgr_u: bin(155),
  extmul_low_i8x16_s: bin(156), extmul_high_i8x16_s: bin(157), extmul_low_i8x16_u: bin(158), extmul_high_i8x16_u: bin(159),
};
// biome-ignore format: table
export const i32x4 = {
  splat: un(17), extract: extract(27), replace: replace(28),
  eq: bin(55), ne: bin(56), lt_s: bin(57), lt_u: bin(58), gt_s: bin(59), gt_u: bin(60), le_s: bin(61), le_u: bin(62), ge_s: bin(63), ge_u: bin(64),
  extadd_pairwise_i16x8_s: un(126), extadd_pairwise_i16x8_u: un(127),
  abs: un(160), neg: un(161), all_true: un(163), bitmask: un(164),
  extend_low_i16x8_s: un(167), extend_high_i16x8_s: un(168), extend_low_i16x8_u: un(169), extend_high_i16x8_u: un(170),
  shl: bin(171), shr_s: bin(172), shr_u: bin(173), add: bin(174), sub: bin(177), mul: bin(181), min_s: bin(182), min_u: bin(183), max_s: bin(184), max_u: bin(185),
  dot_i16x8_s: bin(186), extmul_low_i16x8_s: bin(188), extmul_high_i16x8_s: bin(189), extmul_low_i16x8_u: bin(190), extmul_high_i16x8_u: bin(191),
  trunc_sat_f32x4_s: un(248), trunc_sat_f32x4_u: un(249), trunc_sat_f64x2_s_zero: un(252), trunc_sat_f64x2_u_zero: un(253),
};
// biome-ignore format: table
export const i64x2 = {
  splat: un(18), extract: extract(29), replace: replace(30),
  abs: un(192), neg: un(193), all_true: un(195), bitmask: un(196),
  extend_low_i32x4_s: un(199), extend_high_i32x4_s: un(200), extend_low_i32x4_u: un(201), extend_high_i32x4_u: un(202),
  shl: bin(203), shr_s: bin(204), shr_u: bin(205), add: bin(206), sub: bin(209), mul: bin(213),
  eq: bin(214), ne: bin(215), lt_s: bin(216), gt_s: bin(217), le_s: bin(218), ge_s: bin(219),
  extmul_low_i32x4_s: bin(220), extmul_high_i32x4_s: bin(221), extmul_low_i32x4_u: bin(222), extmul_high_i32x4_u: bin(223),
};
// biome-ignore format: table
export const f32x4 = {
  splat: un(19), extract: extract(31), replace: replace(32),
  eq: bin(65), ne: bin(66), lt: bin(67), gt: bin(68), le: bin(69), ge: bin(70),
  demote_f64x2_zero: un(94), ceil: un(103), floor: un(104), trunc: un(105), nearest: un(106),
  abs: un(224), neg: un(225), sqrt: un(227), add: bin(228), sub: bin(229), mul: bin(230), div: bin(231), min: bin(232), max: bin(233),
  /** y < x ? y : x, and x < y ? y : x: what MINPS and MAXPS do with their operands exchanged. */
  pmin: bin(234), pmax: bin(235), convert_i32x4_s: un(250), convert_i32x4_u: un(251),
};
// biome-ignore format: table
export const f64x2 = {
  splat: un(20), extract: extract(33), replace: replace(34),
  eq: bin(71), ne: bin(72), lt: bin(73), gt: bin(74), le: bin(75), ge: bin(76),
  promote_low_f32x4: un(95), ceil: un(116), floor: un(117), trunc: un(122), nearest: un(148),
  abs: un(236), neg: un(237), sqrt: un(239), add: bin(240), sub: bin(241), mul: bin(242), div: bin(243), min: bin(244), max: bin(245),
  pmin: bin(246), pmax: bin(247), convert_low_i32x4_s: un(254), convert_low_i32x4_u: un(255),
};
