// # What a run of the processor's benchmark comes to
//
// The shape of the file that `--json` writes and the site reads, and what is computed from it. Ratios are taken round by round, and the ratio of two peers at a
// workload is the median of those; a mean over workloads is geometric, for it is the ratios that are averaged.

import { median } from './figures.ts';

/** One peer at one workload: samples, or why there are none. */
export type PeerFigure =
  | { readonly failed: string }
  | {
      /** Of the guest's loop, in each sample. */
      readonly rounds: number;
      /** One for each sample: between the marks, and from the start of the process on. */
      readonly roundsPerSecond: readonly number[];
      readonly wholeRoundsPerSecond: readonly number[];
      readonly startMs: number;
      readonly runMs: number;
      /** Millions of guest instructions a second; null where they could not be counted. */
      readonly mips: number | null;
    };

export interface TaskReport {
  readonly name: string;
  readonly width: 32 | 64;
  readonly kind: string;
  readonly about: string;
  readonly instructionsPerRound: number | null;
  /** Why the instructions could not be counted. */
  readonly uncounted?: string;
  readonly peers: Readonly<Record<string, PeerFigure>>;
}

/** Where a run of all workloads leaves its report, for the site; and the version of the shape below. */
export const REPORT_FILE = 'spec-tests/out/bench-cpu.json';
export const REPORT_FORMAT = 1;

export interface Report {
  readonly format: number;
  readonly when: string;
  readonly node: string;
  readonly processor: string;
  readonly rounds: number;
  /** How long a run was to take. */
  readonly seconds: number;
  readonly clock: 'wall' | 'processor';
  readonly peers: readonly { readonly name: string; readonly about: string }[];
  /** Peers that could not be measured, and why. */
  readonly absent: Readonly<Record<string, string>>;
  readonly tasks: readonly TaskReport[];
}

/** How many times faster one peer is than another at a workload. Null when one of them has no figure. */
export function ratio({ peers }: TaskReport, over: string, under: string, whole = false): number | null {
  const [a, b] = [peers[over], peers[under]];
  if (!a || !b || 'failed' in a || 'failed' in b) return null;
  const [x, y] = whole ? [a.wholeRoundsPerSecond, b.wholeRoundsPerSecond] : [a.roundsPerSecond, b.roundsPerSecond];
  if (x.length !== y.length) return null;
  return median(x.map((value, at) => value / (y[at] as number)));
}

export const geometricMean = (values: readonly number[]): number | null =>
  values.length === 0 ? null : Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length);

/** The mean ratio of two peers over the workloads of a width that both have a figure for, and how many those are. */
export function meanRatio(
  report: Report,
  width: 32 | 64,
  over: string,
  under: string,
  whole = false,
): { readonly mean: number; readonly of: number } | null {
  const ratios = report.tasks
    .filter((task) => task.width === width)
    .map((task) => ratio(task, over, under, whole))
    .filter((value) => value !== null);
  const mean = geometricMean(ratios);
  return mean === null ? null : { mean, of: ratios.length };
}

/** The pairs that are worth a ratio: ours, theirs, and in which widths. */
export const PAIRS: readonly { readonly over: string; readonly under: string; readonly widths: readonly (32 | 64)[] }[] = [
  { over: 'ringbook', under: 'v86', widths: [32] },
  { over: 'ringbook', under: 'qemu', widths: [32, 64] },
  { over: 'ringbook-interpreted', under: 'v86-interpreted', widths: [32] },
  { over: 'ringbook-interpreted', under: 'bochs', widths: [32, 64] },
  { over: 'ringbook-pc', under: 'v86', widths: [32] },
  { over: 'ringbook-pc', under: 'qemu', widths: [32, 64] },
];
