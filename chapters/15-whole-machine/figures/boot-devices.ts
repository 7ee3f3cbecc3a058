import { type Cell, table } from '../../01-hardware-background/figures/drawing.ts';
import { BOARDS, bootOf, exitsOf, families } from './index.ts';

const grouped = (value: number): string => value.toLocaleString('en');

/** Who was asked how often, on each board. */
export function render(): string {
  const rows: Cell[][] = families.map(({ name, counts }) => [
    name,
    ...counts.map((each): Cell => (each === 0 ? { text: '–', ink: 'ink-3' } : grouped(each))),
  ]);
  const inKernel = (board: (typeof BOARDS)[number]): number => Object.values(bootOf(board).devices).reduce((sum, { kernel }) => sum + kernel, 0);
  rows.push(['answered in the kernel', ...BOARDS.map((board): Cell => ({ text: grouped(inKernel(board)), ink: 'kernel' }))]);
  rows.push(['exits of any kind', ...BOARDS.map((board): Cell => ({ text: grouped(exitsOf(board)), ink: 'accent' }))]);
  return table('Accesses to devices from the first instruction to the first program', ['device', ...BOARDS], rows);
}
