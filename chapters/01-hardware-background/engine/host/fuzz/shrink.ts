// # Making a mismatch small
//
// A case carries a hundred random numbers, and two of them matter. Shrinking throws away whatever can be thrown away while the two processors still disagree
// about the same thing: instructions, prefixes, registers, the contents of memory.

import { FLAG } from '../../../state.ts';
import { differences, type Side } from './compare.ts';
import type { NativeProcessor } from './native.ts';
import { Batch, CASE, FX, OUTCOME, type Program, Records } from './records.ts';
import { type Saved, save } from './saved.ts';
import type { Subject } from './subject.ts';
import { LEAVE, PLACE } from './world.ts';

/** A batch of one case, with what came of it. */
export interface Found {
  readonly batch: Batch;
  readonly found: readonly string[];
  readonly saved: Saved;
}

/** One case of a batch as a batch of its own. */
function single(from: Batch, index: number): Batch {
  const batch = new Batch(PLACE.DATA_BYTES, 1);
  batch.data.set(from.data);
  batch.cases.bytes.set(from.cases.slice(index, 0, CASE.BYTES));
  batch.programs.push(from.programs[from.program[index] as number] as Program);
  batch.count = 1;
  return batch;
}

function replaceCode(batch: Batch, program: Program): void {
  const { cases } = batch;
  const { bits, code } = program;
  batch.programs[0] = program;
  cases.setU32(0, CASE.LENGTH, code.length + LEAVE[bits].length);
  cases.setU32(0, CASE.END, code.length);
  cases
    .slice(0, CASE.CODE, CASE.CODE_BYTES)
    .fill(0)
    .set([...code, ...LEAVE[bits]]);
}

/** The program without the bytes from `start` to `end`, which are an instruction or a prefix of one. */
function without(program: Program, start: number, end: number): Program {
  const code = Uint8Array.from([...program.code.subarray(0, start), ...program.code.subarray(end)]);
  const kept = program.starts
    .map((at, n) => ({ at, name: program.names[n] as string }))
    .filter(({ at }) => !(at === start && at < end && isWhole(program, start, end)));
  return { ...program, code, starts: kept.map(({ at }) => (at > start ? at - (end - start) : at)), names: kept.map(({ name }) => name) };
}
const isWhole = ({ starts, code }: Program, start: number, end: number): boolean => {
  const next = starts[starts.indexOf(start) + 1] ?? code.length;
  return starts.includes(start) && end === next;
};

/** What a difference is about, without the values. */
export const what = (difference: string | undefined): string => (difference ?? '').replace(/ [0-9a-f]+, ours .*/, '');

/** Tries cases until none of the simplifications keeps the disagreement. */
export class Shrinker {
  readonly #native: NativeProcessor;
  readonly #subject: Subject;
  readonly #strict: boolean;
  #real: Side | null = null;
  readonly #mine = new Records(OUTCOME.BYTES, new Uint8Array(OUTCOME.BYTES));

  constructor(native: NativeProcessor, subject: Subject, strict: boolean) {
    this.#native = native;
    this.#subject = subject;
    this.#strict = strict;
  }

  /** What the two processors disagree about in a batch of one case. */
  async #judge(batch: Batch): Promise<string[]> {
    const outcomes = await this.#native.run(batch);
    this.#real = { records: outcomes.records, index: 0, changed: outcomes.changed };
    this.#subject.enter(batch);
    this.#subject.run(batch, 0, this.#mine);
    const ours = { records: this.#mine, index: 0, changed: (at: number) => this.#subject.changed(at) };
    return differences(batch, 0, this.#real, ours, this.#strict);
  }

  /** The smallest case found. Null: by itself the case shows no mismatch, now or at the second attempt. */
  async shrink(from: Batch, index: number): Promise<Found | null> {
    let best = single(from, index);
    let found = await this.#judge(best);
    if (found.length === 0) return null;
    const about = found.map(what);
    const attempt = async (change: (batch: Batch) => void): Promise<boolean> => {
      const batch = single(best, 0);
      change(batch);
      const now = await this.#judge(batch);
      if (!now.map(what).some((text) => about.includes(text))) return false;
      best = batch;
      found = now;
      return true;
    };
    await this.#shrinkCode(() => best.programs[0] as Program, attempt);
    await this.#shrinkData(attempt);
    await this.#shrinkRegisters(attempt);
    await this.#judge(best);
    return { batch: best, found, saved: save(best, this.#real as unknown as Side) };
  }

  async #shrinkCode(program: () => Program, attempt: (change: (batch: Batch) => void) => Promise<boolean>): Promise<void> {
    for (let n = program().starts.length - 1; n >= 0 && program().starts.length > 1; n--) {
      const { starts, code } = program();
      await attempt((batch) => replaceCode(batch, without(program(), starts[n] as number, starts[n + 1] ?? code.length)));
    }
    // Prefixes, of what is left.
    for (let n = 0; n < program().starts.length; n++) {
      for (let at = program().starts[n] as number; PREFIXES.has(program().code[at] as number); ) {
        if (!(await attempt((batch) => replaceCode(batch, without(program(), at, at + 1))))) at++;
      }
    }
  }

  async #shrinkData(attempt: (change: (batch: Batch) => void) => Promise<boolean>): Promise<void> {
    const clear = async (from: number, bytes: number): Promise<void> => {
      if (await attempt((batch) => void batch.data.fill(0, from, from + bytes))) return;
      if (bytes <= 16) return;
      await clear(from, bytes / 2);
      await clear(from + bytes / 2, bytes / 2);
    };
    for (let page = 0; page < PLACE.DATA_BYTES; page += 4096) await clear(page, 4096);
  }

  async #shrinkRegisters(attempt: (change: (batch: Batch) => void) => Promise<boolean>): Promise<void> {
    for (let n = 0; n < 16; n++) await attempt(({ cases }) => cases.setU64(0, CASE.GPR + 8 * n, 0n));
    await attempt(({ cases }) => cases.setU64(0, CASE.FLAGS, BigInt(FLAG.FIXED | FLAG.IF)));
    for (let bit = 0; bit < 22; bit++) {
      if (bit !== 1 && bit !== 9) await attempt(({ cases }) => cases.setU64(0, CASE.FLAGS, cases.u64(0, CASE.FLAGS) & ~(1n << BigInt(bit))));
    }
    await attempt(({ cases }) => cases.setU64(0, CASE.FS_BASE, 0n));
    await attempt(({ cases }) => cases.setU64(0, CASE.GS_BASE, 0n));
    await attempt(({ cases }) => cases.slice(0, CASE.FX + FX.XMM, 256).fill(0));
    await attempt(({ cases }) => cases.slice(0, CASE.FX + FX.ST, 128).fill(0));
    for (let n = 0; n < 24; n++) await attempt(({ cases }) => cases.slice(0, CASE.FX + FX.ST + 16 * n, 16).fill(0));
    await attempt(({ cases }) => cases.setU32(0, CASE.FX + FX.MXCSR, 0x1f80));
    await attempt(({ cases }) => cases.setU16(0, CASE.FX + FX.FCW, 0x37f));
    await attempt(({ cases }) => cases.setU16(0, CASE.FX + FX.FSW, 0));
    await attempt(({ cases }) => cases.setU16(0, CASE.FX + FX.FTW, 0));
    await attempt(({ cases }) => cases.setU16(0, CASE.FX + FX.FTW, 0xff));
  }
}

const PREFIXES = new Set([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, ...Array.from({ length: 16 }, (_, n) => 0x40 + n)]);
