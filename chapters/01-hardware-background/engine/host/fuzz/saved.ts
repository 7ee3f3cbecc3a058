// # Cases as text
//
// A mismatch that has been found is worth keeping: as a file that a person can read, with what the real processor did, so that it can be asked again where
// there is no such processor. Only what is not zero is written down.

import type { Side } from './compare.ts';
import { Batch, CASE, FX, OUTCOME, type Program, Records } from './records.ts';
import { type Bits, LEAVE, PLACE } from './world.ts';

type Field = readonly [name: string, at: number, bytes: number];
const REGISTERS = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi', 'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'];
const SEGMENTS = ['cs', 'ss', 'ds', 'es', 'fs', 'gs'];

const registers = (at: number): Field[] => REGISTERS.map((name, n) => [name, at + 8 * n, 8]);
const segments = (at: number): Field[] => SEGMENTS.map((name, n) => [name, at + 2 * n, 2]);
/** The parts of an FXSAVE image. */
export const FPU_FIELDS: readonly Field[] = [
  ['fcw', FX.FCW, 2],
  ['fsw', FX.FSW, 2],
  ['ftw', FX.FTW, 1],
  ['fop', FX.FOP, 2],
  ['fip', FX.FIP, 8],
  ['fdp', FX.FDP, 8],
  ['mxcsr', FX.MXCSR, 4],
  ...Array.from({ length: 8 }, (_, n): Field => [`st${n}`, FX.ST + 16 * n, 10]),
  ...Array.from({ length: 16 }, (_, n): Field => [`xmm${n}`, FX.XMM + 16 * n, 16]),
];
const fpu = (at: number): Field[] => FPU_FIELDS.map(([name, offset, bytes]) => [name, at + offset, bytes]);

const CASE_FIELDS: readonly Field[] = [
  ...registers(CASE.GPR),
  ['flags', CASE.FLAGS, 8],
  ...segments(CASE.CS),
  ['fs_base', CASE.FS_BASE, 8],
  ['gs_base', CASE.GS_BASE, 8],
  ...fpu(CASE.FX),
];
const OUTCOME_FIELDS: readonly Field[] = [
  ['signal', OUTCOME.SIGNAL, 4],
  ['vector', OUTCOME.VECTOR, 4],
  ['error', OUTCOME.ERROR, 4],
  ['cr2', OUTCOME.CR2, 8],
  ['rip', OUTCOME.RIP, 8],
  ...registers(OUTCOME.GPR),
  ['flags', OUTCOME.FLAGS, 8],
  ...segments(OUTCOME.CS),
  ['fs_base', OUTCOME.FS_BASE, 8],
  ['gs_base', OUTCOME.GS_BASE, 8],
  ...fpu(OUTCOME.FX),
];

/** Numbers in hexadecimal, as one writes them: the most significant digit first. */
const numberText = (bytes: Uint8Array): string =>
  [...bytes]
    .reverse()
    .map((byte) => byte.toString(16).padStart(2, '0'))
    .join('')
    .replace(/^0+(?=.)/, '');
function setNumber(to: Uint8Array, text: string): void {
  const digits = text.padStart(2 * to.length, '0');
  for (let n = 0; n < to.length; n++) to[to.length - 1 - n] = Number.parseInt(digits.slice(2 * n, 2 * n + 2), 16);
}
/** Bytes in the order in which memory has them. */
const bytesText = (bytes: Uint8Array): string => [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
const bytesOf = (text: string): number[] => (text.match(/../g) ?? []).map((byte) => Number.parseInt(byte, 16));

type Values = Readonly<Record<string, string>>;

/** Fields of a record that are not zero. */
export function valuesOf(records: Records, index: number, what: 'case' | 'outcome'): Values {
  const out: Record<string, string> = {};
  for (const [name, at, bytes] of what === 'case' ? CASE_FIELDS : OUTCOME_FIELDS) {
    const text = numberText(records.slice(index, at, bytes));
    if (text !== '0') out[name] = text;
  }
  return out;
}
function setValues(records: Records, values: Values, fields: readonly Field[]): void {
  for (const [name, at, bytes] of fields) setNumber(records.slice(0, at, bytes), values[name] ?? '0');
}

/** Pieces of data that are not zero, by address. */
export function dataOf(data: Uint8Array): Values {
  const out: Record<string, string> = {};
  for (let at = 0; at < data.length; at += 16) {
    const piece = data.subarray(at, at + 16);
    if (piece.some((byte) => byte !== 0)) out[(PLACE.DATA + at).toString(16)] = bytesText(piece);
  }
  return out;
}

/** A case and what the real processor made of it. */
export interface Saved {
  readonly bits: Bits;
  readonly names: readonly string[];
  /** One text of bytes for each instruction. */
  readonly code: readonly string[];
  readonly offset: number;
  readonly before: Values;
  readonly data: Values;
  readonly after: Values;
  /** What has changed in memory: an address and bytes. */
  readonly changed?: readonly [string, string];
}

/** Writes a batch of one case down. */
export function save(batch: Batch, real: Side): Saved {
  const { bits, names, code, starts, offset } = batch.programs[0] as Program;
  const bytes = real.records.u32(0, OUTCOME.CHANGED_BYTES);
  const changed = bytes === 0 ? null : real.changed(Number(real.records.u64(0, OUTCOME.CHANGED)), bytes);
  return {
    bits,
    names,
    code: starts.map((start, n) => bytesText(code.subarray(start, starts[n + 1]))),
    offset,
    before: valuesOf(batch.cases, 0, 'case'),
    data: dataOf(batch.data),
    after: valuesOf(real.records, 0, 'outcome'),
    ...(changed && { changed: [(PLACE.DATA + real.records.u32(0, OUTCOME.FIRST)).toString(16), bytesText(changed)] as const }),
  };
}

/** The other way. */
export function restore({ bits, names, code, offset, before, data, after, changed }: Saved): { batch: Batch; real: Side } {
  const batch = new Batch(PLACE.DATA_BYTES, 1);
  const bytes = code.map(bytesOf);
  const starts = bytes.map((_, n) => bytes.slice(0, n).flat().length);
  const whole = bytes.flat();
  batch.programs.push({ bits, names, starts, code: Uint8Array.from(whole), offset });
  batch.count = 1;
  const { cases } = batch;
  setValues(cases, before, CASE_FIELDS);
  cases.setU32(0, CASE.LENGTH, whole.length + LEAVE[bits].length);
  cases.setU32(0, CASE.END, whole.length);
  cases.setU32(0, CASE.OFFSET, offset);
  cases.setU32(0, CASE.FX + FX.MXCSR_MASK, 0xffff);
  cases.slice(0, CASE.CODE, CASE.CODE_BYTES).set([...whole, ...LEAVE[bits]]);
  for (const [at, text] of Object.entries(data)) batch.data.set(bytesOf(text), Number.parseInt(at, 16) - PLACE.DATA);
  const records = new Records(OUTCOME.BYTES, new Uint8Array(OUTCOME.BYTES));
  setValues(records, after, OUTCOME_FIELDS);
  const [at, text] = changed ?? ['0', ''];
  const memory = Uint8Array.from(bytesOf(text));
  records.setU32(0, OUTCOME.CHANGED_BYTES, memory.length);
  records.setU32(0, OUTCOME.FIRST, Math.max(0, Number.parseInt(at, 16) - PLACE.DATA));
  return { batch, real: { records, index: 0, changed: () => memory } };
}
