// # One run of the fuzzer
//
// Batches of cases are invented, run there and here at the same time, and compared. What differs is asked again before anything is said about it.

import { readFileSync } from 'node:fs';
import { describeProgram, describeState, differences } from './compare.ts';
import { Inventor } from './invent.ts';
import { NativeProcessor } from './native.ts';
import { BATCH_CASES, OUTCOME, type Program, Records } from './records.ts';
import { type Found, Shrinker, what } from './shrink.ts';
import { Subject } from './subject.ts';
import { Random } from './values.ts';
import type { Bits } from './world.ts';

/** How to fuzz. */
interface Options {
  readonly seed: number;
  readonly bits: readonly Bits[];
  /** Stop after so many cases, or so many milliseconds, whichever comes first. */
  readonly cases: number;
  readonly timeMs: number;
  readonly only?: string;
  readonly strict?: boolean;
  /** Judge translated code instead of the interpreter. */
  readonly translated?: boolean;
  /** Mismatches of different kinds after which to stop. A kind is a mnemonic and what differs. */
  readonly mismatches: number;
  /** Cases made of each program. */
  readonly inputs?: number;
  readonly onMismatch?: (found: Found) => void;
  readonly onFlicker?: (text: string) => void;
  readonly onProgress?: (cases: number) => void;
}

/** What came of it. */
interface Report {
  readonly cases: number;
  /** Programs that showed a mismatch. */
  readonly mismatches: number;
  /** How many by kind. */
  readonly kinds: ReadonlyMap<string, number>;
  /** Mismatches that did not show again. */
  readonly flickers: number;
  readonly encodings: number;
  readonly encodingsTotal: number;
  readonly skipped: ReadonlyMap<string, number>;
}

/** Flags of the machine at hand, as Linux lists them. */
function hostFeatures(): Set<string> {
  const line = /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'));
  return new Set((line?.[1] ?? '').trim().split(/\s+/));
}

/** Invents cases and compares. */
export async function fuzz(options: Options): Promise<Report> {
  const { seed, bits, only, strict = false, inputs = options.translated ? 16 : 4 } = options;
  using native = new NativeProcessor();
  const subject = new Subject({ translated: options.translated ?? false });
  const shrinker = new Shrinker(native, subject, strict);
  const inventor = new Inventor(new Random(seed), { bits, inputs, features: hostFeatures(), ...(only && { only }) });
  const mine = new Records(OUTCOME.BYTES, new Uint8Array(OUTCOME.BYTES * BATCH_CASES));
  const kinds = new Map<string, number>();
  const until = Date.now() + options.timeMs;
  let cases = 0;
  let mismatches = 0;
  let flickers = 0;
  while (cases < options.cases && Date.now() < until && kinds.size < options.mismatches) {
    const batch = inventor.batch();
    const theirs = native.run(batch);
    subject.enter(batch);
    for (let index = 0; index < batch.count; index++) subject.run(batch, index, mine);
    const outcomes = await theirs;
    const suspects = new Map<number, { index: number; about: string; found: string }>();
    for (let index = 0; index < batch.count; index++) {
      const number = batch.program[index] as number;
      if (suspects.has(number)) continue;
      const ours = { records: mine, index, changed: (at: number) => subject.changed(at) };
      const found = differences(batch, index, { records: outcomes.records, index, changed: outcomes.changed }, ours, strict);
      if (found.length > 0) suspects.set(number, { index, about: what(found[0]), found: found.join(', ') });
    }
    mismatches += suspects.size;
    for (const [number, { index, about, found: first }] of suspects) {
      const { names } = batch.programs[number] as Program;
      const kind = `${names.join('; ')}: ${about}`;
      const before = kinds.get(kind) ?? 0;
      kinds.set(kind, before + 1);
      // Programs of several instructions mostly show what one of them has been seen to do.
      if (before > 0 || names.some((name) => kinds.has(`${name}: ${about}`) && names.length > 1)) continue;
      const found = await shrinker.shrink(batch, index);
      if (!found) {
        flickers++;
        options.onFlicker?.(`${describeProgram(batch.programs[number] as Program)}: ${first}; from ${describeState(batch, index)}`);
        mismatches--;
        if (before === 0) kinds.delete(kind);
        continue;
      }
      const small = `${(found.batch.programs[0] as Program).names.join('; ')}: ${what(found.found[0])}`;
      const known = small !== kind && kinds.has(small);
      if (small !== kind) {
        kinds.delete(kind);
        kinds.set(small, (kinds.get(small) ?? 0) + 1);
      }
      if (!known) options.onMismatch?.(found);
      if (kinds.size >= options.mismatches) break;
    }
    cases += batch.count;
    options.onProgress?.(cases);
  }
  return { cases, mismatches, kinds, flickers, encodings: inventor.covered.size, encodingsTotal: inventor.total, skipped: inventor.skipped };
}
