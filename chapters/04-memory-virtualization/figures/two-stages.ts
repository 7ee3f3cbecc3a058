import { arrow, figure, rect, text } from '../../01-hardware-background/figures/drawing.ts';
import { recordWalk } from '../walks.ts';

const CELL = 104;
const ROW = 54;
const LEFT = 136;
const TOP = 30;
const hex = (n: number | bigint): string => `0x${n.toString(16)}`;

/** A walk through both stages: along a row the second one, at its end the guest's entry that the row has found. */
export function render(): string {
  const { references, gpa } = recordWalk({ nested: '4K' });
  const body = ['PML4', 'pointers', 'directory', 'table', 'the guest’s own'].map((heading, column) =>
    text(LEFT + column * CELL + (CELL - 18) / 2, 18, heading, { anchor: 'middle', size: 12, ink: column === 4 ? 'guest' : 'kernel', bold: true }),
  );
  const rows = [...new Set(references.map(({ serves }) => serves))];
  rows.forEach((served, row) => {
    const y = TOP + row * ROW;
    const own = references.find(({ n }) => n === served);
    body.push(
      text(0, y + 16, own ? own.structure : 'the byte', { size: 12, ink: own ? 'guest' : 'accent', bold: true }),
      text(0, y + 32, `GPA ${hex(own?.entry ?? gpa)}`, { size: 11, ink: 'ink-3', mono: true }),
    );
    for (const { n, stage, level, target, leaf } of references.filter(({ serves }) => serves === served)) {
      const column = stage === 1 ? 4 : 4 - level;
      const x = LEFT + column * CELL;
      const ink = stage === 1 ? 'guest' : 'kernel';
      body.push(rect(x, y, CELL - 18, ROW - 14, { stroke: ink, ...(stage === 1 && { fill: 'paper-2' }) }));
      body.push(text(x + 7, y + 17, String(n), { bold: true, ink }));
      body.push(text(x + CELL - 24, y + 34, hex(target), { size: 11, mono: true, anchor: 'end', ink: leaf ? 'accent' : 'ink-2' }));
      if (stage === 2 && (own || level > 1)) body.push(arrow(x + CELL - 16, y + 20, x + CELL - 3, y + 20));
    }
  });
  return figure(
    `One translation through two stages: ${references.length} references in their order; each box says what its entry points to`,
    LEFT + 5 * CELL + 6,
    TOP + rows.length * ROW,
    body,
  );
}
