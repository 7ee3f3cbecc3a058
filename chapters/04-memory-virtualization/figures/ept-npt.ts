import { figure, line, rect, text } from '../../01-hardware-background/figures/drawing.ts';
import { EPT_AND_NPT } from '../npt/npt.ts';

const COLUMNS = [
  { at: 0, width: 21 },
  { at: 168, width: 34 },
  { at: 420, width: 34 },
] as const;
const LINE = 17;
const WIDTH = 690;

/** Breaks a sentence into lines of at most `width` characters, at blanks. */
function wrap(sentence: string, width: number): string[] {
  const lines = [''];
  for (const word of sentence.split(' ')) {
    const last = lines.at(-1) as string;
    if (last && last.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = last ? `${last} ${word}` : word;
  }
  return lines;
}

/** The table of differences. */
export function render(): string {
  const body = ['', 'EPT', 'NPT'].map((head, n) => text((COLUMNS[n]?.at ?? 0) + 8, 16, head, { ink: 'ink-2', bold: true }));
  body.push(line(0, 24, WIDTH, 24));
  let y = 24;
  EPT_AND_NPT.forEach(({ what, ept, npt }, row) => {
    const cells = [what, ept, npt].map((cell, n) => wrap(cell, COLUMNS[n]?.width ?? 0));
    const height = Math.max(...cells.map(({ length }) => length)) * LINE + 8;
    if (row % 2 === 1) body.push(rect(0, y, WIDTH, height, { fill: 'paper-2', stroke: 'paper-2' }));
    cells.forEach((lines, n) => {
      for (const [i, content] of lines.entries())
        body.push(text((COLUMNS[n]?.at ?? 0) + 8, y + 17 + i * LINE, content, n === 0 ? { bold: true, size: 12 } : {}));
    });
    y += height;
  });
  return figure('EPT and NPT, point by point', WIDTH, y + 4, body);
}
