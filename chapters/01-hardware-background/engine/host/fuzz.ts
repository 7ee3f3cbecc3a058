// # The fuzzer
//
// The best description of an x86 processor is an x86 processor, and there may be one under this very program. `npm run fuzz` invents programs of one to
// four instructions, runs each on several states of the registers, there and here, and compares everything that they can change: general registers, flags,
// segment registers and their bases, the whole FXSAVE image, memory, and how the program ended -- vector, error code, CR2.
//
// ```
// npm run fuzz -- --minutes 10                   as long as one likes; the seed is printed
// npm run fuzz -- --cases 100000 --seed 7        a fixed number, and the same ones each time
// npm run fuzz -- --only SHLD --bits 32          one mnemonic (or a regular expression: --only 'F(ADD|SUB).*'), one size of code (16, 32, 64)
// npm run fuzz -- --keep-going                   do not stop after the first few mismatches; report one of each kind
// npm run fuzz -- --strict                       compare undefined flags as well
// npm run fuzz -- --translated                   judge translated code, not the interpreter
// npm run fuzz -- --save                         write each (minimised) mismatch into engine/counter-examples, with what the real processor did
// ```
//
// A mismatch is shown as the program's bytes with the mnemonics, then what differs (the real processor's value first), then the state that it started
// with: after *shrinking*, so what is shown there matters. Undefined flags, and all else that is left out, are a table: `fuzz/excluded.ts`.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { describeProgram, describeState, differences } from './fuzz/compare.ts';
import { Inventor } from './fuzz/invent.ts';
import { NativeProcessor, oracleMissing } from './fuzz/native.ts';
import { BATCH_CASES, OUTCOME, type Program, Records } from './fuzz/records.ts';
import type { Saved } from './fuzz/saved.ts';
import { type Found, Shrinker, what } from './fuzz/shrink.ts';
import { Subject } from './fuzz/subject.ts';
import { Random } from './fuzz/values.ts';
import type { Bits } from './fuzz/world.ts';

/** How to fuzz. */
export interface Options {
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
export interface Report {
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
export function hostFeatures(): Set<string> {
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

const mismatchText = ({ batch, found }: Found): string =>
  `${describeProgram(batch.programs[0] as Program)}\n  ${found.join('\n  ')}\n  from ${describeState(batch, 0)}`;

const COUNTER_EXAMPLES = new URL('../counter-examples/', import.meta.url);
/** Adds a mismatch to the committed ones, in the file of its first mnemonic. */
function keep({ saved }: Found): void {
  const file = new URL(`${(saved.names[0] as string).toLowerCase().replaceAll(' ', '-')}.json`, COUNTER_EXAMPLES);
  mkdirSync(COUNTER_EXAMPLES, { recursive: true });
  const before = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Saved[]) : [];
  writeFileSync(file, `${JSON.stringify([...before, saved], null, 2)}\n`);
}

// ## The command

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      minutes: { type: 'string' },
      cases: { type: 'string' },
      seed: { type: 'string' },
      only: { type: 'string' },
      bits: { type: 'string' },
      inputs: { type: 'string' },
      strict: { type: 'boolean', default: false },
      translated: { type: 'boolean', default: false },
      'keep-going': { type: 'boolean', default: false },
      save: { type: 'boolean', default: false },
    },
  });
  const missing = oracleMissing();
  if (missing) {
    console.log(`fuzz: skipped: ${missing}`);
    return 0;
  }
  const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
  const started = Date.now();
  let reported = started;
  const report = await fuzz({
    seed,
    bits: values.bits === undefined ? [64, 64, 32, 16] : [Number(values.bits) as Bits],
    cases: values.cases === undefined ? Number.POSITIVE_INFINITY : Number(values.cases),
    timeMs: values.minutes === undefined ? (values.cases === undefined ? 60_000 : Number.POSITIVE_INFINITY) : Number(values.minutes) * 60_000,
    mismatches: values['keep-going'] ? Number.POSITIVE_INFINITY : 10,
    strict: values.strict,
    translated: values.translated,
    ...(values.only && { only: values.only }),
    ...(values.inputs && { inputs: Number(values.inputs) }),
    onMismatch: (found) => {
      console.log(mismatchText(found));
      if (values.save) keep(found);
    },
    onFlicker: (text) => console.log(`did not show again: ${text}`),
    onProgress: (cases) => {
      if (Date.now() - reported < 10_000) return;
      reported = Date.now();
      console.log(`fuzz: ${cases} cases, ${Math.round(cases / ((reported - started) / 1000))} a second`);
    },
  });
  if (values['keep-going']) for (const [kind, count] of report.kinds) console.log(`${count} x ${kind}`);
  if (report.flickers > 0) console.log(`fuzz: ${report.flickers} mismatches did not show again`);
  const skipped = [...report.skipped].map(([why, count]) => `${why} ${count}`).join(', ');
  if (skipped) console.log(`fuzz: programs not asked: ${skipped}`);
  const coverage = `encodings covered ${report.encodings} of ${report.encodingsTotal}`;
  console.log(`fuzz: ${report.cases} cases, ${report.mismatches} mismatches, seed ${seed}, ${coverage}`);
  return report.mismatches === 0 ? 0 : 1;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) process.exitCode = await main();
