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
// npm run fuzz -- --replay                       asks the processor at hand about those
// npm run fuzz -- --system --cases 10000         real mode, descriptor tables, tasks: what only a kernel may do; QEMU is asked
// ```
//
// A mismatch is shown as the program's bytes with the mnemonics, then what differs (the real processor's value first), then the state that it started
// with: after *shrinking*, so what is shown there matters. Undefined flags, and all else that is left out, are a table: `fuzz/excluded.ts`.

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { describeProgram, describeState, differences } from './fuzz/compare.ts';
import { NativeProcessor, oracleMissing } from './fuzz/native.ts';
import type { Program } from './fuzz/records.ts';
import { fuzz } from './fuzz/run.ts';
import { restore, type Saved } from './fuzz/saved.ts';
import type { Found } from './fuzz/shrink.ts';
import { fuzzSystem, systemOracleMissing } from './fuzz/system.ts';
import type { Bits } from './fuzz/world.ts';

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

/** Asks the processor at hand about the committed mismatches: they were observed on another one. Returns how many it answers otherwise. */
async function replay(): Promise<number> {
  using native = new NativeProcessor();
  let [cases, others] = [0, 0];
  for (const file of readdirSync(COUNTER_EXAMPLES).filter((name) => name.endsWith('.json'))) {
    for (const saved of JSON.parse(readFileSync(new URL(file, COUNTER_EXAMPLES), 'utf8')) as Saved[]) {
      const { batch, real } = restore(saved);
      const outcomes = await native.run(batch);
      const found = differences(batch, 0, real, { records: outcomes.records, index: 0, changed: outcomes.changed });
      cases++;
      if (found.length === 0) continue;
      others++;
      console.log(`${describeProgram(batch.programs[0] as Program)}\n  ${found.join('\n  ').replaceAll('ours', 'here')}`);
    }
  }
  console.log(`fuzz: ${cases} counter-examples, ${others} answered otherwise by this processor`);
  return others;
}

/** Asks QEMU instead, about what a process may not do. */
async function system(seed: number, cases: number, { only, translated = false }: { only?: string; translated?: boolean }): Promise<number> {
  const say = (text: string): void => console.log(text);
  const report = await fuzzSystem({ seed, cases, translated, say, ...(only && { only }) });
  const list = (counts: ReadonlyMap<string, number>): string => [...counts].map(([what, count]) => `${what} ${count}`).join(', ');
  console.log(`fuzz: ends: ${list(report.ends)}`);
  if (report.known.size > 0) console.log(`fuzz: known to be different: ${list(report.known)}`);
  console.log(`fuzz: ${report.cases} cases of system instructions, ${report.mismatches} mismatches, seed ${seed}`);
  return report.mismatches === 0 ? 0 : 1;
}

// ## The command

const USAGE = `usage: ringbook fuzz [--minutes N | --cases N] [--seed N] [--only NAME] [--bits 16|32|64] [--inputs N]
                     [--strict] [--translated] [--keep-going] [--save]
       ringbook fuzz --replay
       ringbook fuzz --system [--cases N] [--seed N] [--only NAME] [--translated]

Random programs, here and on the processor at hand; with --system on QEMU's. The seed that is printed repeats a run.`;

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
      replay: { type: 'boolean', default: false },
      system: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help) {
    console.log(USAGE);
    return 0;
  }
  const missing = values.system ? systemOracleMissing() : oracleMissing();
  if (missing) {
    console.log(`fuzz: skipped: ${missing}`);
    return 0;
  }
  if (values.replay) return (await replay()) === 0 ? 0 : 1;
  const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
  if (values.system) return system(seed, Number(values.cases ?? 10_000), values);
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

process.exitCode = await main();
