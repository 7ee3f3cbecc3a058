// # Comparing two outcomes

import { ARITHMETIC_FLAGS, FLAG } from '../../../state.ts';
import { COUNT, faultsAsItLikes, isTranscendental, uncertainStatus, undefinedFlags } from './excluded.ts';
import { type Batch, CASE, FX, OUTCOME, type Program, type Records, SIGNAL } from './records.ts';
import { dataOf, FPU_FIELDS, valuesOf } from './saved.ts';
import { PLACE } from './world.ts';

const PAGE_FAULT = 14;
/** Addresses from here on are the kernel's. Linux reports a fault there as one of protection, whatever it was. */
const KERNEL_ADDRESSES = 0x7fff_ffff_f000n;
const COMPARED_FLAGS = ARITHMETIC_FLAGS | FLAG.DF | FLAG.TF | FLAG.AC | FLAG.ID | FLAG.NT;
const REGISTERS = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi', 'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'];
const SEGMENTS = ['cs', 'ss', 'ds', 'es', 'fs', 'gs'];

/** One of the two outcomes of a case. */
export interface Side {
  readonly records: Records;
  readonly index: number;
  /** What has changed in the data pages. */
  changed(at: number, bytes: number): Uint8Array;
}

const hex = (value: bigint | number): string => value.toString(16);
const bytesHex = (bytes: Uint8Array): string =>
  [...bytes]
    .reverse()
    .map((byte) => byte.toString(16).padStart(2, '0'))
    .join('');

/** What kind of end: 0 the case ran to its end, 1 exception, or a {@link SIGNAL} that stands for itself. */
function kindOf({ records, index }: Side): number {
  const signal = records.u32(index, OUTCOME.SIGNAL);
  if (signal === SIGNAL.NONE || signal === SIGNAL.TIMEOUT || signal === SIGNAL.SYSTEM_CALL || signal === SIGNAL.BROKEN) return signal;
  return SIGNAL.EXCEPTION;
}
const describeEnd = (side: Side): string => {
  const kind = kindOf(side);
  if (kind === SIGNAL.NONE) return 'end';
  if (kind === SIGNAL.TIMEOUT) return 'endless';
  if (kind === SIGNAL.SYSTEM_CALL) return 'system call';
  if (kind === SIGNAL.BROKEN) return 'shutdown';
  return `#${side.records.u32(side.index, OUTCOME.VECTOR)}(${hex(side.records.u32(side.index, OUTCOME.ERROR))})`;
};

/** What differs, in words: the real processor's value first. Empty when nothing does. `strict` compares undefined flags as well. */
export function differences(batch: Batch, index: number, real: Side, ours: Side, strict = false): string[] {
  const program = batch.programs[batch.program[index] as number] as Program;
  const out: string[] = [];
  const [kind, mine] = [kindOf(real), kindOf(ours)];
  if (kind === SIGNAL.EXCEPTION && program.names.some(faultsAsItLikes)) return [];
  if (kind !== mine) return [`${describeEnd(real)}, ours ${describeEnd(ours)}`];
  if (kind === SIGNAL.TIMEOUT || kind === SIGNAL.SYSTEM_CALL) return [];
  const compare = (what: string, a: bigint | number, b: bigint | number): void => {
    if (a !== b) out.push(`${what} ${hex(a)}, ours ${hex(b)}`);
  };
  if (kind === SIGNAL.EXCEPTION) compareException(real, ours, out);
  compare('rip', real.records.u64(real.index, OUTCOME.RIP), ours.records.u64(ours.index, OUTCOME.RIP));
  compareRegisters(batch, index, program, real, ours, out);
  const ignored = strict ? 0 : ignoredFlags(batch, index, program, kind);
  const compared = (COMPARED_FLAGS | (kind === SIGNAL.EXCEPTION ? FLAG.RF : 0)) & ~ignored;
  const [flags, myFlags] = [real.records.u32(real.index, OUTCOME.FLAGS), ours.records.u32(ours.index, OUTCOME.FLAGS)];
  if ((flags ^ myFlags) & compared) out.push(`flags ${hex(flags)}, ours ${hex(myFlags)} (compared: ${hex(compared)})`);
  for (const [n, name] of SEGMENTS.entries()) {
    const [a, b] = [real, ours].map(({ records, index: at }) => selectorOf(records.u16(at, OUTCOME.CS + 2 * n))) as [number, number];
    compare(name, a, b);
  }
  if (program.bits === 64) {
    compare('fs base', real.records.u64(real.index, OUTCOME.FS_BASE), ours.records.u64(ours.index, OUTCOME.FS_BASE));
    compare('gs base', real.records.u64(real.index, OUTCOME.GS_BASE), ours.records.u64(ours.index, OUTCOME.GS_BASE));
  }
  compareFpu(program, real, ours, out);
  compareMemory(batch, real, ours, out);
  return out;
}

/** A return from the kernel, after any interrupt, clears the privilege level of null selectors. */
const selectorOf = (selector: number): number => (selector < 4 ? 0 : selector);

/** Flags that the last instruction leaves undefined; one that faulted has left none. */
function ignoredFlags(batch: Batch, index: number, program: Program, kind: number): number {
  if (kind !== SIGNAL.NONE && program.starts.length === 1 && !(batch.cases.u32(index, CASE.FLAGS) & FLAG.TF)) return 0;
  const last = program.code.subarray(program.starts.at(-1) as number);
  const count = program.starts.length === 1 ? Number(batch.cases.u64(index, CASE.GPR + 8 * COUNT) & 0xffn) : null;
  return undefinedFlags(last, program.bits, count);
}

function compareException(real: Side, ours: Side, out: string[]): void {
  const [a, b] = [real.records, ours.records];
  const vector = a.u32(real.index, OUTCOME.VECTOR);
  let [error, mine] = [a.u32(real.index, OUTCOME.ERROR), b.u32(ours.index, OUTCOME.ERROR)];
  if (vector === PAGE_FAULT && a.u64(real.index, OUTCOME.CR2) >= KERNEL_ADDRESSES) [error, mine] = [error | 1, mine | 1];
  const [end, myEnd] = [describeEnd(real), describeEnd(ours)];
  if (vector !== b.u32(ours.index, OUTCOME.VECTOR) || error !== mine) out.push(`${end}, ours ${myEnd}`);
  else if (vector === PAGE_FAULT) {
    const [cr2, myCr2] = [a.u64(real.index, OUTCOME.CR2), b.u64(ours.index, OUTCOME.CR2)];
    if (cr2 !== myCr2) out.push(`cr2 ${hex(cr2)}, ours ${hex(myCr2)}`);
  }
}

function compareRegisters(batch: Batch, index: number, { bits }: Program, real: Side, ours: Side, out: string[]): void {
  const width = bits === 64 ? 64 : 32;
  for (let n = 0; n < (bits === 64 ? 16 : 8); n++) {
    const at = OUTCOME.GPR + 8 * n;
    const sameLow = real.records.u32(real.index, at) === ours.records.u32(ours.index, at);
    if (sameLow && (width === 32 || real.records.u32(real.index, at + 4) === ours.records.u32(ours.index, at + 4))) continue;
    const [a, b] = [real.records.u64(real.index, at), ours.records.u64(ours.index, at)].map((value) => BigInt.asUintN(width, value)) as [
      bigint,
      bigint,
    ];
    out.push(`${REGISTERS[n]} ${hex(a)}, ours ${hex(b)} (was ${hex(batch.cases.u64(index, CASE.GPR + 8 * n))})`);
  }
}

/** True when two double-extended numbers are the same or next to each other. */
function neighbours(a: Uint8Array, b: Uint8Array): boolean {
  // Without the integer bit, exponent and fraction together count the numbers of one sign in their order.
  const place = (bytes: Uint8Array): bigint => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const magnitude = (BigInt(view.getUint16(8, true) & 0x7fff) << 63n) | (view.getBigUint64(0, true) & ((1n << 63n) - 1n));
    return view.getUint16(8, true) & 0x8000 ? -magnitude : magnitude;
  };
  const distance = place(a) - place(b);
  return distance >= -1n && distance <= 1n;
}

function compareFpu({ bits, names }: Program, real: Side, ours: Side, out: string[]): void {
  const theirs = real.records.slice(real.index, OUTCOME.FX, FX.BYTES);
  const mine = ours.records.slice(ours.index, OUTCOME.FX, FX.BYTES);
  const end = bits === 64 ? FX.XMM + 256 : FX.XMM + 128;
  const uncertain = isTranscendental(names.at(-1) as string);
  const status = uncertainStatus(theirs.subarray(FX.ST, FX.ST + 10));
  for (const [name, at, bytes] of FPU_FIELDS) {
    if (at >= end) break;
    if (uncertain && (name === 'st0' || name === 'st1') && neighbours(theirs.subarray(at, at + bytes), mine.subarray(at, at + bytes))) continue;
    if (uncertain && name === 'fop') continue; // it is noted when an exception is not masked, PE for example
    if (uncertain && name === 'fsw' && !(((theirs[at] as number) ^ (mine[at] as number)) & ~(status & 0xff))) {
      if (!(((theirs[at + 1] as number) ^ (mine[at + 1] as number)) & ~(status >> 8))) continue;
    }
    let same = true;
    for (let i = at; i < at + bytes && same; i++) same = theirs[i] === mine[i];
    if (!same) out.push(`${name} ${bytesHex(theirs.subarray(at, at + bytes))}, ours ${bytesHex(mine.subarray(at, at + bytes))}`);
  }
}

function compareMemory(batch: Batch, real: Side, ours: Side, out: string[]): void {
  const after = [real, ours].map((side) => {
    const bytes = side.records.u32(side.index, OUTCOME.CHANGED_BYTES);
    const first = side.records.u32(side.index, OUTCOME.FIRST);
    const changed = bytes === 0 ? new Uint8Array() : side.changed(Number(side.records.u64(side.index, OUTCOME.CHANGED)), bytes);
    return { first, changed };
  }) as [Change, Change];
  if (after[0].changed.length === 0 && after[1].changed.length === 0) return;
  const start = Math.min(...after.filter(({ changed }) => changed.length > 0).map(({ first }) => first));
  const end = Math.max(...after.map(({ first, changed }) => first + changed.length));
  for (let at = start; at < end; at++) {
    const [a, b] = after.map((side) => byteOf(side, at, batch.data)) as [number, number];
    if (a === b) continue;
    const from = Math.max(start, at - 8);
    const bytes = (side: Change): string => bytesHex(Uint8Array.from({ length: 24 }, (_, i) => byteOf(side, from + i, batch.data)));
    out.push(`memory at ${hex(PLACE.DATA + from)} ${bytes(after[0])}, ours ${bytes(after[1])}`);
    return;
  }
}
interface Change {
  readonly first: number;
  readonly changed: Uint8Array;
}
const byteOf = ({ first, changed }: Change, at: number, data: Uint8Array): number => changed[at - first] ?? data[at] ?? 0;

const codeHex = (code: Uint8Array): string => [...code].map((byte) => byte.toString(16).padStart(2, '0')).join(' ');

/** A program as one line. */
export const describeProgram = ({ bits, names, code, starts }: Program): string =>
  `${bits}-bit ${names.join('; ')} [${starts.map((start, n) => codeHex(code.subarray(start, starts[n + 1]))).join(' | ')}]`;

/** What a case starts with, as far as it is not zero. */
export function describeState(batch: Batch, index: number): string {
  const list = (values: Readonly<Record<string, string>>): string =>
    Object.entries(values)
      .map(([name, value]) => `${name}=${value}`)
      .join(' ');
  const data = dataOf(batch.data);
  const memory = Object.keys(data).length > 8 ? '' : list(data);
  return `offset=${hex(batch.cases.u32(index, CASE.OFFSET))} ${list(valuesOf(batch.cases, index, 'case'))} ${memory}`.trim();
}
