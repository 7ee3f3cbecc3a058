// # The page of figures
//
// What `ringbook bench cpu` measured, as it was written into the suite's output folder; figures are never kept in the tree. Where nobody has measured, the page
// says how to.

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { figure, line, text } from '../../chapters/01-hardware-background/figures/drawing.ts';
import {
  meanRatio,
  PAIRS,
  type PeerFigure,
  REPORT_FILE,
  REPORT_FORMAT,
  type Report,
  ratio,
  type TaskReport,
} from '../../spec-tests/bench/cpu-report.ts';
import { WORKLOADS } from '../../spec-tests/bench/cpu-workloads.ts';
import { escapeHtml, relativeTo, table } from '../html.ts';
import type { Site } from '../site.ts';

const PAGE = 'speed/index.html';

/** How a peer is drawn: colour, and whether its mark is filled. Interpreters are rings. */
const MARKS: Readonly<Record<string, { readonly colour: string; readonly filled: boolean }>> = {
  ringbook: { colour: 'var(--guest)', filled: true },
  'ringbook-interpreted': { colour: 'var(--guest)', filled: false },
  'ringbook-pc': { colour: 'var(--pass)', filled: true },
  v86: { colour: 'var(--user)', filled: true },
  'v86-interpreted': { colour: 'var(--user)', filled: false },
  qemu: { colour: 'var(--kernel)', filled: true },
  bochs: { colour: 'var(--ink-3)', filled: false },
};
const OTHER = { colour: 'var(--ink)', filled: false };

const mark = (x: number, y: number, peer: string, says: string): string => {
  const { colour, filled } = MARKS[peer] ?? OTHER;
  return (
    `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="5" style="fill:${filled ? colour : 'var(--paper)'};stroke:${colour};stroke-width:2">` +
    `<title>${escapeHtml(says)}</title></circle>`
  );
};

const mipsOf = (task: TaskReport, peer: string): number | null => {
  const found = task.peers[peer];
  return !found || 'failed' in found ? null : found.mips;
};
const number = (value: number): string => (value >= 100 ? Math.round(value).toLocaleString('en') : value.toPrecision(3));

// ## The chart
//
// Speeds differ by a factor of thousands, so the axis is logarithmic: equal distances are equal ratios.

const LABELS = 118;
const PLOT = 620;
const ROW = 24;
const TOP = 64;

/** A mark for each peer and workload. */
export function chart(tasks: readonly TaskReport[], peers: readonly string[], title: string): string {
  const values = tasks.flatMap((task) => peers.map((peer) => mipsOf(task, peer))).filter((value) => value !== null && value > 0) as number[];
  if (values.length === 0) return '';
  const low = Math.floor(Math.log10(Math.min(...values)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))));
  const x = (mips: number): number => LABELS + ((Math.log10(mips) - low) / (high - low)) * PLOT;
  const height = TOP + tasks.length * ROW + 8;
  const body: string[] = [];
  peers.forEach((peer, index) => {
    const left = LABELS + (index % 4) * 160;
    const y = 12 + 18 * Math.floor(index / 4);
    body.push(mark(left + 6, y - 4, peer, peer), text(left + 18, y, peer, { size: 12 }));
  });
  for (let power = low; power <= high; power++) {
    body.push(
      line(x(10 ** power), TOP - 8, x(10 ** power), height - 8),
      text(x(10 ** power), TOP - 12, String(10 ** power), { size: 11, ink: 'ink-2', anchor: 'middle' }),
    );
  }
  tasks.forEach((task, index) => {
    const y = TOP + (index + 0.5) * ROW;
    body.push(text(LABELS - 10, y + 4, task.name, { size: 12, anchor: 'end', mono: true }), line(LABELS, y, LABELS + PLOT, y));
    for (const peer of peers) {
      const mips = mipsOf(task, peer);
      if (mips !== null && mips > 0) body.push(mark(x(mips), y, peer, `${task.name}, ${peer}: ${number(mips)} million instructions a second`));
    }
  });
  const width = LABELS + PLOT + 40;
  return `<figure><div class="scroll" style="--drawn:${width}px">${figure(title, width, height, body)}</div></figure>`;
}

// ## The tables

const speed = (found: PeerFigure | undefined): string => {
  if (!found) return '';
  if ('failed' in found) return `<span title="${escapeHtml(found.failed)}">–</span>`;
  return found.mips === null ? '–' : number(found.mips);
};
const times = (value: number | null | undefined): string => (value === null || value === undefined ? '–' : `${value.toPrecision(3)} ×`);

function section(report: Report, width: 32 | 64): string {
  const tasks = report.tasks.filter((task) => task.width === width);
  const peers = report.peers.map(({ name }) => name).filter((name) => tasks.some((task) => task.peers[name]));
  if (tasks.length === 0) return '';
  const pairs = PAIRS.filter(({ over, under, widths }) => widths.includes(width) && peers.includes(over) && peers.includes(under));
  const rows = tasks.map((task) => [
    `<code>${escapeHtml(task.name)}</code> ${escapeHtml(task.about)}`,
    ...peers.map((peer) => speed(task.peers[peer])),
    ...pairs.map(({ over, under }) => times(ratio(task, over, under))),
  ]);
  const blank = peers.map(() => '');
  const mean = (name: string, whole: boolean): string[] => [
    `<b>${name}</b>`,
    ...blank,
    ...pairs.map(({ over, under }) => `<b>${times(meanRatio(report, width, over, under, whole)?.mean)}</b>`),
  ];
  const heads = [
    'Workload',
    ...peers.map((peer) => `#${escapeHtml(peer)}`),
    ...pairs.map(({ over, under }) => `#${escapeHtml(over)} : ${escapeHtml(under)}`),
  ];
  return `<h2 id="bits-${width}">${width}-bit code</h2>
${chart(tasks, peers, `Million guest instructions a second of ${peers.join(', ')} at ${tasks.length} workloads in ${width}-bit code`)}
${table(heads, [...rows, mean('geometric mean', false), mean('the same, with start-up', true)], 'short stacks')}`;
}

/** The last run's report, or why there is none. */
export function readReport(root: string): Report | string {
  const path = join(root, REPORT_FILE);
  if (!existsSync(path)) return 'Nothing has been measured where this page was built.';
  try {
    const report = JSON.parse(readFileSync(path, 'utf8')) as Report;
    return report.format === REPORT_FORMAT ? report : 'What was measured was written by another version of the benchmark.';
  } catch {
    return 'What was measured cannot be read.';
  }
}

/** The text of the page. */
export function speedBody(report: Report | string): string {
  const about = `<p>Each workload is <a href="${relativeTo(PAGE, 'payloads/index.html')}">a payload</a> that runs one kind of loop and must come to the right result.
Speeds are millions of guest instructions a second; how many instructions a workload has is counted by the book’s own deterministic processor and is the
same for all. Every run is a cold start in a process of its own, so what a translator takes to translate is in the figure.</p>`;
  if (typeof report === 'string') {
    const list = WORKLOADS.map(({ name, kind, about: what }) => [`<code>${escapeHtml(name)}</code>`, escapeHtml(what), escapeHtml(kind)]);
    return `<h1>The processor’s speed</h1>${about}<p class="note">${escapeHtml(report)} <code>npm run bench -- cpu</code> measures, and the next build shows the figures
here.</p>${table(['Workload', 'About', 'Kind'], list)}`;
  }
  const clock = report.clock === 'wall' ? '' : ' of processor time';
  const peers = report.peers.map(({ name, about: what }) => `<li><code>${escapeHtml(name)}</code>: ${escapeHtml(what)}</li>`);
  const absent = Object.entries(report.absent).map(
    ([name, reason]) => `<li><code>${escapeHtml(name)}</code> was not measured: ${escapeHtml(reason)}</li>`,
  );
  return `<h1>The processor’s speed</h1>${about}
<p>Measured ${escapeHtml(report.when.slice(0, 10))} on ${escapeHtml(report.processor)}, Node ${escapeHtml(report.node)}; ratios are medians of
${report.rounds} paired ${report.rounds === 1 ? 'run' : 'runs'} of about ${report.seconds} s${clock}. Compare within a row: the machine is in every
figure, and in both parts of a ratio.</p><ul>${[...peers, ...absent].join('')}</ul>${section(report, 32)}${section(report, 64)}`;
}

export function addSpeed(site: Site): void {
  site.add({
    page: PAGE,
    title: 'The processor’s speed',
    description: 'Workloads in 32- and 64-bit code on this book’s processor and on others, in one run.',
    room: 'none',
    set: 'full',
    body: `<article>${speedBody(readReport(site.root))}</article>`,
  });
}
