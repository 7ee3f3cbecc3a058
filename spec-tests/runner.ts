// # The runner
//
// Schedules cases on a target, watches the clock, and turns what comes back into verdicts. It assumes nothing about the adapter's manners. An
// adapter that dies, hangs or babbles costs the case it was running, never the run: the verdict says which of the three it was, and the
// next case gets a fresh adapter.
//
// | verdict | what happened |
// |---|---|
// | pass | every observation was allowed, and none was missing |
// | fail | a wrong, missing or unexpected observation, or the wrong end |
// | unsupported | the target lacks a capability that the case needs, and says why |
// | not-observable | the target has no such surface: the clause may hold, but nobody can see it there |
// | timeout | the guest, or the adapter, used up its time |
// | crash | the adapter died |
// | corrupt | the console cannot be believed |
// | error | the adapter broke the protocol or reported an internal error |
// | flaky | repetitions disagreed, in the verdict, in an observation or in the trace |

import { AdapterDied, AdapterFailed, AdapterHung, ProtocolViolation } from './adapters/exec.ts';
import { DEVICE_MEMORY_MIB, runScript } from './device-script/run.ts';
import { ScriptError } from './device-script/steps.ts';
import { type Finding, judge, judgeScript, plain } from './findings.ts';
import { CONFORM } from './place.ts';
import type { BootImage, LoadedCase, Suite } from './suite.ts';
import type { Adapter, CaseResult, RunDevice, RunGuest, RunReply, RunRequest, Started, Unavailable } from './types.ts';
import { hex } from './values.ts';

/** What the runner allows an adapter beyond the case's own limit, to notice the end and say so. */
const GRACE_MS = 5_000;
/** Consecutive adapters that die while starting: then the target is given up rather than restarted for every case that is left. */
const START_FAILURES = 3;

export const DEFAULT_MEMORY_MIB = 16;

export interface RunOptions {
  readonly suite: Suite;
  readonly cases: readonly LoadedCase[];
  readonly target: string;
  readonly makeAdapter: () => Promise<Adapter> | Adapter;
  readonly repeat?: number;
  /** Guest cases that ask for the same machine and the same image are judged by one run of it, not by one each. Not together with repetitions. */
  readonly share?: boolean;
  /** Adapters at work at the same time. */
  readonly jobs?: number;
  readonly graceMs?: number;
  readonly onStart?: (started: Started) => void;
  readonly onCase?: (result: CaseResult, done: number, total: number) => void;
  /** After such a result no further case is begun. */
  readonly enough?: (result: CaseResult) => boolean;
}

export interface RunOutcome {
  readonly started: Started | null;
  /** The implementation is not on this machine: why. */
  readonly unavailable: string | null;
  /** The adapter could not even start: what it did instead. */
  readonly broken: string | null;
  readonly results: readonly CaseResult[];
}

const replayCommand = (target: string, id: string): string =>
  `${CONFORM} --target ${target.includes(' ') ? `'${target}'` : target} --filter '=${id}'`;

/** The first of a case's doors that the target has. */
const doorOf = ({ images }: LoadedCase, capabilities: readonly string[]): BootImage | undefined =>
  images?.find(({ door }) => capabilities.includes(`door-${door}`));

/**
 * The request for a case on the `guest` or the `kvm` surface. Everything in it is by value or by path: an adapter needs no access to the suite.
 * @param capabilities  the target's, to choose a door; without them it is the best one.
 */
export function requestFor(testCase: LoadedCase, id: string, capabilities: readonly string[] = []): RunRequest {
  const { instructions, timeoutMs } = testCase.limits;
  const limits = { timeoutMs, ...(instructions !== undefined && { instructions: hex(instructions) }) };
  const common = { type: 'run', id, case: testCase.id, limits } as const;
  if (testCase.compiled) return { ...common, surface: 'kvm', kvm: { ops: testCase.compiled.ops } };
  const { payload, vcpus = 1, memoryMiB = DEFAULT_MEMORY_MIB, input = '' } = testCase.guest as NonNullable<LoadedCase['guest']>;
  const best = (testCase.images as NonNullable<LoadedCase['images']>)[0] as BootImage;
  const { path, sha256, door } = doorOf(testCase, capabilities) ?? best;
  return {
    ...common,
    surface: 'guest',
    guest: {
      ...{ payload, image: path, sha256, door, vcpus, memoryMiB, input: Buffer.from(input).toString('base64'), needs: testCase.requires },
      ...(testCase.devices && { devices: testCase.devices }),
    },
  };
}

/** What is alike in all requests for the same run; null for a case that is never served by another one's. */
function sameRun(testCase: LoadedCase): string | null {
  if (testCase.surface !== 'guest') return null;
  const { guest, limits } = requestFor(testCase, '') as RunGuest;
  return JSON.stringify([guest, limits, testCase.images]);
}

/** The same for a case on the `device` surface. */
export function deviceRequestFor({ id: name, limits, device, devices = [], requires }: LoadedCase, id: string): RunDevice {
  const machine = { memoryMiB: device?.memoryMiB ?? DEVICE_MEMORY_MIB, devices, needs: requires };
  return { type: 'run', id, case: name, surface: 'device', machine, limits: { timeoutMs: limits.timeoutMs } };
}

async function playOn(adapter: Adapter, testCase: LoadedCase, id: string, suite: Suite): Promise<Finding> {
  const request = deviceRequestFor(testCase, id);
  const session = await adapter.open?.(request);
  if (!session) return plain('error', 'the adapter lists the device surface and cannot open it');
  if ('type' in session) return plain('error', `the adapter reports: ${session.reason}`);
  try {
    const report = await runScript(session, testCase.device?.script ?? [], request.machine);
    const { traceHash } = await session.end();
    return judgeScript(testCase, report, suite, traceHash);
  } catch (error) {
    // The adapter is still there, and so may be its machine.
    if (!(error instanceof AdapterFailed || error instanceof ScriptError)) throw error;
    await session.end();
    return plain('error', error instanceof AdapterFailed ? `the adapter reports: ${error.message}` : `the script is wrong: ${error.message}`);
  }
}

/** What must be equal between two repetitions of a case. */
function fingerprint({ allowed }: LoadedCase, { verdict, observed, end, traceHash, failures }: Finding): string {
  const varies = (key: string): boolean => {
    const set = allowed.observations[key];
    return typeof set === 'object' && set.varies === true;
  };
  const seen = observed.map(([key, value]) => (varies(key) ? key : [key, value]));
  return JSON.stringify([verdict, seen, end, traceHash, failures.map((f) => f.text)]);
}

/** One adapter and its restarts: the unit of parallel work. */
class Lane {
  readonly #options: RunOptions;
  #adapter: Adapter | null = null;
  #startFailures = 0;
  #sequence = 0;
  /** What the last guest came to. */
  #last: { readonly run: string; readonly reply: RunReply } | null = null;
  started: Started | null = null;
  /** Why no adapter can be had any more. */
  broken: string | null = null;
  unavailable: string | null = null;

  constructor(options: RunOptions) {
    this.#options = options;
  }

  async ensure(): Promise<void> {
    if (this.#adapter || this.broken !== null || this.unavailable !== null) return;
    const adapter = await this.#options.makeAdapter();
    let hello: Started | Unavailable;
    try {
      hello = await adapter.start();
    } catch (error) {
      adapter.kill();
      if (++this.#startFailures >= START_FAILURES || this.started === null) this.broken = (error as Error).message;
      throw error;
    }
    if (hello.type === 'unavailable') {
      await adapter.stop();
      this.unavailable = hello.reason;
      return;
    }
    this.#startFailures = 0;
    this.started ??= hello;
    this.#adapter = adapter;
  }

  async attempt(testCase: LoadedCase): Promise<Finding> {
    try {
      await this.ensure();
    } catch (error) {
      return this.#misfortune(error as Error);
    }
    const gone = this.broken ?? this.unavailable;
    if (gone !== null) return plain('error', `the target was given up: ${gone}`);
    const run = this.#options.share ? sameRun(testCase) : null;
    if (run !== null && run === this.#last?.run) return judge(testCase, this.#last.reply, this.#options.suite);
    this.#last = null;
    const adapter = this.#adapter as Adapter;
    const id = String(++this.#sequence);
    const { suite } = this.#options;
    const { timeoutMs } = testCase.limits;
    const allowedMs = timeoutMs + (this.#options.graceMs ?? GRACE_MS);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new AdapterHung(`the adapter did not answer within ${allowedMs} ms (the case allows ${timeoutMs})`)),
        allowedMs,
      );
    });
    try {
      if (testCase.surface === 'device') return await Promise.race([playOn(adapter, testCase, id, suite), late]);
      const request = requestFor(testCase, id, this.started?.capabilities);
      const reply = await Promise.race([adapter.run(request), late]);
      if (run !== null) this.#last = { run, reply };
      return judge(testCase, reply, suite);
    } catch (error) {
      adapter.kill();
      this.#adapter = null;
      return this.#misfortune(error as Error);
    } finally {
      clearTimeout(timer);
    }
  }

  #misfortune(error: Error): Finding {
    if (error instanceof AdapterHung) return plain('timeout', error.message);
    if (error instanceof AdapterDied) return plain('crash', error.message);
    if (error instanceof ProtocolViolation) return plain('error', error.message);
    return plain('error', `the adapter failed: ${error.stack ?? error.message}`);
  }

  async close(): Promise<void> {
    await this.#adapter?.stop();
    this.#adapter = null;
  }

  kill(): void {
    this.#adapter?.kill();
  }
}

/** Whether the target can be asked this case at all. */
function admission(testCase: LoadedCase, started: Started): Finding | null {
  if (!started.surfaces.includes(testCase.surface)) return plain('not-observable', `${started.name} has no '${testCase.surface}' surface`);
  const lacking = testCase.requires.filter((need) => !started.capabilities.includes(need));
  if (lacking.length === 0) {
    if (!testCase.images || doorOf(testCase, started.capabilities)) return null;
    return plain('unsupported', `${started.name} has none of the doors that the payload has`);
  }
  return plain('unsupported', lacking.map((need) => `${need}: ${started.missing[need] ?? `${started.name} does not offer it`}`).join('; '));
}

async function runCase(lane: Lane, testCase: LoadedCase, options: RunOptions, started: Started): Promise<CaseResult> {
  const begin = performance.now();
  let finding = admission(testCase, started);
  if (!finding) {
    finding = await lane.attempt(testCase);
    const first = fingerprint(testCase, finding);
    const repeat = options.repeat ?? 1;
    for (let round = 2; round <= repeat; round++) {
      const again = await lane.attempt(testCase);
      if (fingerprint(testCase, again) === first) continue;
      const why = again.reason ?? finding.reason ?? 'the observations or traces differ';
      const reason = `repetitions disagree: run 1 of ${repeat} gave ${finding.verdict}, run ${round} ${again.verdict}; ${why}`;
      finding = { ...again, verdict: 'flaky', reason };
      break;
    }
  }
  return {
    id: testCase.id,
    title: testCase.title,
    chapter: testCase.chapter,
    clauses: testCase.clauses,
    strictness: testCase.strictness,
    surface: testCase.surface,
    ...finding,
    expectation: 'none',
    durationMs: Math.round(performance.now() - begin),
    replay: replayCommand(options.target, testCase.id),
  };
}

/** Which cases, by their places, go to one lane together: those that are served by one run. */
function grouped({ cases, share = false, repeat = 1 }: RunOptions): readonly (readonly number[])[] {
  if (!share) return cases.map((_, index) => [index]);
  if (repeat > 1) throw new RangeError('a run that several cases share is not repeated for each');
  const groups = new Map<string, number[]>();
  for (const [index, testCase] of cases.entries()) {
    const key = sameRun(testCase) ?? testCase.id;
    const group = groups.get(key);
    if (group) group.push(index);
    else groups.set(key, [index]);
  }
  return [...groups.values()];
}

/** Runs cases on one target. Results come back in the order of `cases`, however the work was spread. Never rejects for what an adapter does. */
export async function runCases(options: RunOptions): Promise<RunOutcome> {
  const lanes = Array.from({ length: Math.max(1, options.jobs ?? 1) }, () => new Lane(options));
  const first = lanes[0] as Lane;
  const results: CaseResult[] = [];
  try {
    try {
      await first.ensure();
    } catch (error) {
      return { started: null, unavailable: null, broken: (error as Error).message, results };
    }
    if (first.unavailable !== null) return { started: null, unavailable: first.unavailable, broken: null, results };
    const started = first.started as Started;
    options.onStart?.(started);
    const groups = grouped(options);
    let next = 0;
    let done = 0;
    const work = async (lane: Lane): Promise<void> => {
      while (next < groups.length) {
        for (const index of groups[next++] as readonly number[]) {
          const result = await runCase(lane, options.cases[index] as LoadedCase, options, started);
          results[index] = result;
          options.onCase?.(result, ++done, options.cases.length);
          if (options.enough?.(result)) {
            next = groups.length;
            return;
          }
        }
      }
    };
    await Promise.all(lanes.map(work));
    await Promise.all(lanes.map((lane) => lane.close()));
    return { started, unavailable: null, broken: null, results: results.filter(() => true) }; // without those that were not begun
  } finally {
    for (const lane of lanes) lane.kill();
  }
}
