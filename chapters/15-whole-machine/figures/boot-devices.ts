import { type Cell, table } from '../../01-hardware-background/figures/drawing.ts';
import { BOARDS, bootOf, exitsOf, families, secondsOf } from './index.ts';

const grouped = (value: number): string => value.toLocaleString('en');
const nothing: Cell = { text: '–', ink: 'ink-3' };
const milliseconds = (ns: number, fraction = 2): string =>
  (ns / 1e6).toLocaleString('en', { minimumFractionDigits: fraction, maximumFractionDigits: fraction });

/** Who was asked how often on each board, and what time went into that. */
export function render(): string {
  const rows: Cell[][] = families.map(({ name, counts, nanoseconds }) => [
    name,
    ...counts.map((each): Cell => (each === 0 ? nothing : grouped(each))),
    ...nanoseconds.map((each): Cell => (each === 0 ? nothing : milliseconds(each))),
  ]);
  const inKernel = (board: (typeof BOARDS)[number]): number => Object.values(bootOf(board).devices).reduce((sum, { kernel }) => sum + kernel, 0);
  const all = BOARDS.map((_, column): Cell => milliseconds(families.reduce((sum, { nanoseconds }) => sum + (nanoseconds[column] as number), 0)));
  rows.push(['answered in the kernel', ...BOARDS.map((board): Cell => ({ text: grouped(inKernel(board)), ink: 'kernel' })), ...all.map(() => '')]);
  rows.push(['exits of any kind', ...BOARDS.map((board): Cell => ({ text: grouped(exitsOf(board)), ink: 'accent' })), ...all.map(() => '')]);
  rows.push(['all devices', ...BOARDS.map(() => ''), ...all]);
  rows.push([
    'the whole boot',
    ...BOARDS.map(() => ''),
    ...BOARDS.map((board): Cell => ({ text: milliseconds(1e9 * secondsOf(board), 0), ink: 'accent' })),
  ]);
  const header = ['device', ...BOARDS.map((board) => `asked: ${board}`), ...BOARDS.map((board) => `ms: ${board}`)];
  return table('Devices from the first instruction to the first program: how often each was asked, and the time that went into it', header, rows);
}
