import { arrow, figure, rect, text } from './drawing.ts';
import { nestedWalk } from './index.ts';

const CELL = 112;
const HEIGHT = 46;
const LEFT = 74;
const TOP = 30;
const GUEST_NAMES = ['', 'table', 'directory', 'pointers', 'PML4'];
const hex = (n: number): string => `0x${n.toString(16)}`;

/** The references of one nested walk in a grid: along a row the second stage, at its end the guest's own entry. */
export function render(): string {
  const walk = nestedWalk();
  const body: string[] = [];
  for (const [column, heading] of ['EPT level 4', 'EPT level 3', 'EPT level 2', 'EPT level 1', 'guest entry'].entries())
    body.push(
      text(LEFT + column * CELL + CELL / 2 - 4, 18, heading, { anchor: 'middle', size: 12, ink: column === 4 ? 'guest' : 'kernel', bold: true }),
    );
  let row = 0;
  walk.forEach(({ stage, level, entry }, n) => {
    const column = stage === 2 ? 4 - level : 4;
    const y = TOP + row * HEIGHT;
    const x = LEFT + column * CELL;
    const ink = stage === 2 ? 'kernel' : 'guest';
    body.push(rect(x, y, CELL - 18, HEIGHT - 12, { stroke: ink, ...(stage === 1 && { fill: 'paper-2' }) }));
    body.push(
      text(x + 6, y + 15, String(n + 1), { size: 13, bold: true, ink }),
      text(x + CELL - 24, y + 28, hex(entry), { size: 11, anchor: 'end', mono: true, ink: 'ink-2' }),
    );
    if (n + 1 < walk.length && stage === 2) body.push(arrow(x + CELL - 16, y + 17, x + CELL - 3, y + 17));
    if (stage === 1) {
      body.push(text(0, y + 21, GUEST_NAMES[level] as string, { size: 12, ink: 'guest' }));
      row++;
    }
  });
  body.push(text(0, TOP + row * HEIGHT + 21, 'the byte', { size: 12, ink: 'accent' }));
  return figure(
    `A page walk through two stages: ${walk.length} references, numbered in their order`,
    LEFT + 5 * CELL,
    TOP + (row + 1) * HEIGHT,
    body,
  );
}
