// # What a run comes to
//
// Three kinds of reply, one kind of finding. Each surface has its own way to be incomplete (a console that is cut off, a system call that was never made, a
// device that lets its driver go no further), and each says so in its own words.

import { consoleTail, type Report, readConsole } from './console.ts';
import { featureName } from './device-script/features.ts';
import type { ScriptReport } from './device-script/interpret.ts';
import { judgeGuest, judgeObservations } from './judge.ts';
import { constant, readSteps } from './kvm-script.ts';
import type { LoadedCase, Suite } from './suite.ts';
import type { CaseResult, RanGuest, RanKvm, RunReply, Verdict } from './types.ts';

export type Finding = Pick<CaseResult, 'verdict' | 'failures' | 'observed'> & Partial<CaseResult>;

export const plain = (verdict: Verdict, reason: string): Finding => ({ verdict, reason, failures: [], observed: [] });

function judgeGuestRun(testCase: LoadedCase, ran: RanGuest, suite: Suite): Finding {
  const bytes = new Uint8Array(Buffer.from(ran.console, 'base64'));
  const report: Report = readConsole(bytes);
  const base = {
    observed: report.observations,
    end: ran.end,
    ...(report.stage !== null && { stage: report.stage }),
    ...(ran.exits !== undefined && { exits: ran.exits }),
    ...(ran.instructions !== undefined && { instructions: ran.instructions }),
    ...(ran.traceHash !== undefined && { traceHash: ran.traceHash }),
    ...(ran.trace !== undefined && { trace: ran.trace }),
  };
  const bad = (verdict: Verdict, reason: string, failures: CaseResult['failures'] = []): Finding => ({
    ...base,
    verdict,
    reason: ran.detail === undefined ? reason : `${reason} [${ran.detail}]`,
    failures,
    console: consoleTail(bytes),
  });
  const allowedEnds: readonly string[] = testCase.allowed.end ?? [];
  const timedOut = ran.end === 'timeout' && !allowedEnds.includes('timeout');
  // A line that is cut off because the time was up is not corruption.
  if (report.corrupt !== null && !(timedOut && report.corrupt.startsWith('the last line')))
    return bad('corrupt', `corrupt console: ${report.corrupt}`);
  if (timedOut) {
    const stage = report.stage === null ? '' : ` after stage '${report.stage}'`;
    return bad('timeout', `the guest did not end within its limits${stage}; ${report.observations.length} observations so far`);
  }
  const failures = judgeGuest(testCase, ran, report, { clause: (id) => suite.clauses.get(id) });
  const unsupported = lackOf(testCase, report);
  // A payload that has found a feature missing has not looked at the rest. What it did see must still be right.
  if (unsupported !== null && failures.every(({ kind, key }) => kind === 'missing' || key === LACKS))
    return { ...base, ...plain('unsupported', unsupported) };
  return failures.length === 0 ? { ...base, verdict: 'pass', failures } : bad('fail', failures.map(({ text }) => text).join('\n'), failures);
}

/** The observation by which a payload says which feature bit it needs and the device does not offer. */
const LACKS = 'unsupported';
const VERSION_1 = 32;
const FEATURE_BITS = 128;

// Only a feature can be lacking, and only one that a device may leave out. Everything else that a payload cannot do is a failure.

function lackOf({ devices }: LoadedCase, { observations }: Report): string | null {
  const said = observations.find(([key]) => key === LACKS);
  const kind = devices?.[0]?.type;
  if (!said || !kind) return null;
  const bit = Number(said[1]);
  return bit < FEATURE_BITS && bit !== VERSION_1 ? `the device does not offer ${featureName(kind, bit)}` : null;
}

function judgeKvmRun(testCase: LoadedCase, ran: RanKvm, suite: Suite): Finding {
  const report = readSteps(testCase.compiled as NonNullable<LoadedCase['compiled']>, ran.steps);
  const base = { observed: report.observations, ...(ran.traceHash !== undefined && { traceHash: ran.traceHash }) };
  if (report.malformed !== null) return { ...plain('error', report.malformed), ...base };
  if (ran.timedOut) return { ...plain('timeout', `KVM_RUN did not come to an end within ${testCase.limits.timeoutMs} ms`), ...base };
  const failures = judgeObservations(testCase, report.observations, {
    clause: (id) => suite.clauses.get(id),
    resolve: constant,
    whyMissing: (key) => report.whyMissing(key),
  });
  if (failures.length === 0) return { ...base, verdict: 'pass', failures };
  return { ...base, verdict: 'fail', failures, reason: failures.map(({ text }) => text).join('\n') };
}

export const judge = (testCase: LoadedCase, reply: RunReply, suite: Suite): Finding => {
  if (reply.type === 'error') return plain('error', `the adapter reports: ${reply.reason}`);
  return reply.surface === 'guest' ? judgeGuestRun(testCase, reply, suite) : judgeKvmRun(testCase, reply, suite);
};

/** Judges a script on a paused machine. */
export function judgeScript(testCase: LoadedCase, report: ScriptReport, suite: Suite, traceHash?: string): Finding {
  const base = { observed: report.observations, ...(traceHash !== undefined && { traceHash }) };
  const failures = judgeObservations(testCase, report.observations, {
    clause: (id) => suite.clauses.get(id),
    resolve: constant,
    whyMissing: () => report.stuck,
  });
  // What came before the missing feature must still be right.
  if (report.unsupported !== null && failures.every(({ kind }) => kind === 'missing'))
    return { ...base, ...plain('unsupported', report.unsupported), observed: report.observations };
  if (report.stuck !== null && failures.length === 0) {
    const clause = testCase.clauses[0] as string;
    const text = `stuck: ${report.stuck}`;
    failures.push({ kind: 'unfinished', key: 'script', clause, observed: report.stuck, allowed: 'the end of the script', text });
  }
  if (failures.length === 0) return { ...base, verdict: 'pass', failures };
  return { ...base, verdict: 'fail', failures, reason: failures.map(({ text }) => text).join('\n') };
}
