// # The processor's benchmark
//
// `ringbook bench cpu` times the workloads on the processor of this book and on others' in the same run, in turns. A peer that is a hundred times slower gets fewer
// rounds: each runs for about the same time. So what is compared is rounds a second, and since a round is the same instructions everywhere, that is
// millions of instructions a second.
//
// Every run is a cold start. The time between the marks contains everything that a translator does, and a ratio of such times says what a short program gains;
// the second column of ratios counts from the start of the process on.

import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { readImage } from '../../guest-payloads/host/images.ts';
import { ROOT } from '../checks/tree.ts';
import { runBare } from './cpu-machine.ts';
import { CLOCKS, type ClockName, type Measured, PEERS, type Peer } from './cpu-peers.ts';
import { type PeerFigure, REPORT_FILE, REPORT_FORMAT, type Report, type TaskReport } from './cpu-report.ts';
import { printReport, progressLine } from './cpu-table.ts';
import { imageName, multibootDoor, TASKS, type Task, taskName, withParameters } from './cpu-workloads.ts';
import { median } from './figures.ts';

const USAGE = `usage: ringbook bench cpu [--only NAME,...] [--peers NAME,...] [--width 32|64] [--rounds N] [--seconds S] [--clock wall|processor] [--quick] [--json FILE]

  --only      workloads whose name contains one of these (name/32 and name/64 are names, too)
  --peers     ${PEERS.map(({ name }) => name).join(', ')}
  --width     only the 32- or the 64-bit ones
  --rounds    how often each is measured (3)
  --seconds   how long a run shall take (1)
  --clock     processor: the time that a peer's process was running, for a machine where others work (wall)
  --quick     one short run each
  --json      writes the figures to a file, too; a whole run also leaves them for the site, in ${REPORT_FILE}`;

const LIMIT_MS = 60_000;
const TRIES = 5;
const MOST_ROUNDS = 2 ** 31 - 1;

/** Milliseconds that a first attempt shall not exceed by much, in instructions: nobody is slower. */
const FIRST_INSTRUCTIONS = 4e6;

// ## Counting
//
// The instructions of a round are counted by the deterministic clock, not timed. Two runs of different length cancel what is outside the rounds.

interface Count {
  /** Instructions of one round; null where the workload does not run. */
  readonly perRound: number | null;
  readonly reason: string;
}

const COUNTED = [2, 6] as const;

function count(task: Task): Count {
  const image = readImage(imageName(task));
  const door = multibootDoor(imageName(task));
  try {
    const [few, more] = COUNTED.map((rounds) => {
      const { begin, end } = runBare(withParameters(image, task.workload.index, rounds), door, { translate: false });
      return end.instructions - begin.instructions;
    }) as [number, number];
    return { perRound: (more - few) / (COUNTED[1] - COUNTED[0]) + (task.workload.iterations ?? 0), reason: '' };
  } catch (error) {
    return { perRound: null, reason: (error as Error).message };
  }
}

// ## Measuring

/** What has been measured of one peer at one task. */
class Column {
  readonly peer: Peer;
  readonly task: Task;
  readonly clock: ClockName;
  readonly samples: Measured[] = [];
  rounds: number;
  failed: string | null = null;

  constructor(peer: Peer, task: Task, perRound: number | null, clock: ClockName) {
    this.clock = clock;
    this.peer = peer;
    this.task = task;
    this.rounds = Math.max(1, Math.round((FIRST_INSTRUCTIONS * (peer.interprets ? 1 : 2)) / (perRound ?? 5e5)));
  }

  async #once(): Promise<Measured | null> {
    try {
      return await this.peer.measure(this.task, this.rounds, LIMIT_MS, this.clock);
    } catch (error) {
      this.failed = (error as Error).message.split('\n')[0] as string;
      return null;
    }
  }

  /** Finds how many rounds take long enough. The last attempt is the first sample. */
  async calibrate(wantedMs: number): Promise<void> {
    for (let attempt = 0; attempt < TRIES; attempt++) {
      const measured = await this.#once();
      if (!measured) return;
      if (measured.runMs >= 0.7 * wantedMs || attempt === TRIES - 1 || this.rounds === MOST_ROUNDS) {
        this.samples.push(measured);
        return;
      }
      const factor = Math.min(40, (1.1 * wantedMs) / Math.max(measured.runMs, 1));
      this.rounds = Math.min(MOST_ROUNDS, Math.max(this.rounds + 1, Math.round(this.rounds * factor)));
    }
  }

  async sample(): Promise<void> {
    if (this.failed !== null) return;
    const measured = await this.#once();
    if (measured) this.samples.push(measured);
  }

  figure(perRound: number | null): PeerFigure {
    const { rounds, samples, failed } = this;
    if (failed !== null || samples.length === 0) return { failed: failed ?? 'not measured' };
    const roundsPerSecond = samples.map(({ runMs }) => (1000 * rounds) / runMs);
    const whole = samples.map(({ runMs, startMs }) => (1000 * rounds) / (runMs + startMs));
    return {
      rounds,
      roundsPerSecond,
      wholeRoundsPerSecond: whole,
      startMs: median(samples.map(({ startMs }) => startMs)),
      runMs: median(samples.map(({ runMs }) => runMs)),
      mips: perRound === null ? null : (median(roundsPerSecond) * perRound) / 1e6,
    };
  }
}

/** How often, how long, and by which clock. */
interface Pace {
  readonly rounds: number;
  readonly wantedMs: number;
  readonly clock: ClockName;
}

async function measure(task: Task, peers: readonly Peer[], { rounds, wantedMs, clock }: Pace): Promise<TaskReport> {
  const { perRound, reason } = count(task);
  const columns = peers.filter(({ widths }) => widths.includes(task.width)).map((peer) => new Column(peer, task, perRound, clock));
  for (const column of columns) await column.calibrate(wantedMs);
  for (let round = 1; round < rounds; round++) for (const column of columns) await column.sample();
  return {
    name: task.workload.name,
    width: task.width,
    kind: task.workload.kind,
    about: task.workload.about,
    instructionsPerRound: perRound,
    ...(reason && { uncounted: reason }),
    peers: Object.fromEntries(columns.map((column) => [column.peer.name, column.figure(perRound)])),
  };
}

/** The command. */
export async function benchCpu(args: readonly string[]): Promise<void> {
  const { values: options } = parseArgs({
    args: [...args],
    options: {
      only: { type: 'string', default: '' },
      peers: { type: 'string', default: '' },
      width: { type: 'string', default: '' },
      rounds: { type: 'string', default: '3' },
      seconds: { type: 'string', default: '1' },
      clock: { type: 'string', default: 'wall' },
      quick: { type: 'boolean' },
      json: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (options.help) {
    console.log(USAGE);
    return;
  }
  const parts = (text: string): string[] => text.split(',').filter((part) => part !== '');
  const names = parts(options.peers);
  const unknown = names.find((name) => !PEERS.some((peer) => peer.name === name));
  if (unknown !== undefined) throw new Error(`no peer '${unknown}'; there are ${PEERS.map(({ name }) => name).join(', ')}`);
  const only = parts(options.only);
  const tasks = TASKS.filter((task) => only.length === 0 || only.some((part) => taskName(task).includes(part))).filter(
    ({ width }) => options.width === '' || String(width) === options.width,
  );
  if (tasks.length === 0) throw new Error(`no workload's name contains ${only.join(' or ')}`);
  const absent: Record<string, string> = {};
  const peers = PEERS.filter((peer) => {
    if (names.length > 0 && !names.includes(peer.name)) return false;
    const reason = peer.missing();
    if (reason !== '') absent[peer.name] = reason;
    return reason === '';
  });
  const rounds = options.quick ? 1 : Number(options.rounds);
  const wantedMs = options.quick ? 300 : 1000 * Number(options.seconds);
  if (!(Number.isInteger(rounds) && rounds >= 1)) throw new Error(`--rounds is a number from 1 on, not '${options.rounds}'`);
  if (!(wantedMs > 0)) throw new Error(`--seconds is a number of seconds, not '${options.seconds}'`);

  const clock = CLOCKS.find((name) => name === options.clock);
  if (!clock) throw new Error(`--clock is ${CLOCKS.join(' or ')}, not '${options.clock}'`);

  const reports: TaskReport[] = [];
  for (const [at, task] of tasks.entries()) {
    const measured = await measure(task, peers, { rounds, wantedMs, clock });
    reports.push(measured);
    console.error(`[${at + 1}/${tasks.length}] ${progressLine(measured)}`);
  }
  const report: Report = {
    format: REPORT_FORMAT,
    when: new Date().toISOString(),
    node: process.version,
    processor: `${cpus().length} × ${cpus()[0]?.model.trim() ?? 'unknown'}`,
    rounds,
    seconds: wantedMs / 1000,
    clock,
    peers: peers.map(({ name, about }) => ({ name, about })),
    absent,
    tasks: reports,
  };
  printReport(report);
  // A run that leaves nothing out is for the site.
  const whole = tasks.length === TASKS.length && names.length === 0 && !options.quick;
  const files = [...(options.json === undefined ? [] : [options.json]), ...(whole ? [join(ROOT, REPORT_FILE)] : [])];
  for (const file of files) {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, `${JSON.stringify(report, null, 1)}\n`);
  }
}
