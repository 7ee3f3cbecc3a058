// # The figures as a table

import { meanRatio, PAIRS, type PeerFigure, type Report, ratio, type TaskReport } from './cpu-report.ts';
import { median } from './figures.ts';

const NAME = 16;
const CELL = 10;

const short = (name: string): string => name.replace('-interpreted', '-i').replace('ringbook', 'rb');
const cell = (text: string): string => text.padStart(CELL);
const number = (value: number): string => (value >= 100 ? Math.round(value).toString() : value.toPrecision(3));

/** Millions of instructions a second, or thousands of rounds where nobody could count. */
function speed(figure: PeerFigure | undefined): string {
  if (!figure) return '';
  if ('failed' in figure) return '–';
  return figure.mips === null ? `${number(median(figure.roundsPerSecond))}/s` : number(figure.mips);
}

const times = (value: number | null): string => (value === null ? '' : `${value.toPrecision(3)}×`);

function line(task: TaskReport, peers: readonly string[], pairs: typeof PAIRS): string {
  const ratios = pairs.map(({ over, under }) => cell(times(ratio(task, over, under))));
  return `  ${task.name.padEnd(NAME)}${peers.map((peer) => cell(speed(task.peers[peer]))).join('')}  ${ratios.join('')}`;
}

/** What one workload came to, as soon as it is known. */
export const progressLine = (task: TaskReport): string =>
  `${`${task.name}/${task.width}`.padEnd(NAME)}${Object.entries(task.peers)
    .map(([peer, figure]) => ` ${short(peer)} ${speed(figure)}`)
    .join(' ')}`;

/** Writes the report to standard output. */
export function printReport(report: Report): void {
  const measured = report.peers.map(({ name }) => name);
  for (const width of [32, 64] as const) {
    const tasks = report.tasks.filter((task) => task.width === width);
    if (tasks.length === 0) continue;
    const peers = measured.filter((name) => tasks.some((task) => task.peers[name]));
    const pairs = PAIRS.filter(({ over, under, widths }) => widths.includes(width) && peers.includes(over) && peers.includes(under));
    const heads = pairs.map(({ over, under }) => cell(`${short(over)}:${short(under)}`.slice(-CELL + 1)));
    const length = `${report.seconds} s${report.clock === 'processor' ? ' of processor time' : ''}`;
    console.log(`\n${width}-bit: million guest instructions a second; ratios are medians of ${report.rounds} paired runs of about ${length}`);
    console.log(`  ${''.padEnd(NAME)}${peers.map((name) => cell(short(name))).join('')}  ${heads.join('')}`);
    for (const task of tasks) console.log(line(task, peers, pairs));
    const means = pairs.map(({ over, under }) => cell(times(meanRatio(report, width, over, under)?.mean ?? null)));
    const whole = pairs.map(({ over, under }) => cell(times(meanRatio(report, width, over, under, true)?.mean ?? null)));
    const blank = ''.padEnd(peers.length * CELL);
    console.log(`  ${'geometric mean'.padEnd(NAME)}${blank}  ${means.join('')}`);
    console.log(`  ${'with start-up'.padEnd(NAME)}${blank}  ${whole.join('')}`);
    const starts = peers.map((name) => {
      const all = tasks.flatMap((task) => {
        const figure = task.peers[name];
        return figure && !('failed' in figure) ? [figure.startMs] : [];
      });
      return cell(all.length === 0 ? '' : number(median(all)));
    });
    console.log(`  ${'start-up, ms'.padEnd(NAME)}${starts.join('')}`);
  }
  const failures = report.tasks.flatMap(({ name, width, peers, uncounted }) => [
    ...Object.entries(peers).flatMap(([peer, figure]) => ('failed' in figure ? [`${name}/${width} on ${peer}: ${figure.failed}`] : [])),
    ...(uncounted ? [`${name}/${width} could not be counted: ${uncounted}`] : []),
  ]);
  if (failures.length > 0) console.log(`\nnot measured\n  ${failures.join('\n  ')}`);
  for (const [name, reason] of Object.entries(report.absent)) console.log(`\n${name} is not measured: ${reason}`);
}
