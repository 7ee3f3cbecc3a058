import { figure, type Ink, rect, text } from '../../01-hardware-background/figures/drawing.ts';
import { PHASES, type Phase } from '../boots/record.ts';
import { BOARDS, bootOf, instructionsOf, millions } from './index.ts';

const [LEFT, WIDTH, BAR, ROW, TOP] = [90, 560, 22, 64, 34];
const INKS: Readonly<Record<Phase, Ink>> = { unpacking: 'ink-3', 'early kernel': 'kernel', drivers: 'accent', 'user space': 'user' };
/** A part narrower than this has no room for its number. */
const ROOM = 40;

/** Each boot as a bar: instructions by part. */
export function render(): string {
  const scale = WIDTH / Math.max(...BOARDS.map(instructionsOf));
  const body: string[] = [];
  let at = LEFT;
  for (const phase of PHASES) {
    body.push(rect(at, 6, 12, 12, { fill: INKS[phase], stroke: INKS[phase] }), text(at + 18, 17, phase, { ink: 'ink-2', size: 12 }));
    at += 18 + 8 * phase.length + 24;
  }
  BOARDS.forEach((board, row) => {
    const y = TOP + row * ROW;
    body.push(text(0, y + 16, board, { mono: true }));
    let x = LEFT;
    for (const phase of PHASES) {
      const { instructions, exits } = bootOf(board).phases[phase];
      const width = instructions * scale;
      body.push(rect(x, y, width, BAR, { fill: INKS[phase], stroke: INKS[phase] }));
      if (width > ROOM) {
        body.push(text(x, y + BAR + 14, `${millions(instructions)} million`, { size: 11, ink: 'ink-2' }));
        body.push(text(x, y + BAR + 28, `${exits.toLocaleString('en')} exits`, { size: 11, ink: 'ink-3' }));
      }
      x += width;
    }
  });
  return figure('Instructions of a boot, by its parts, on three boards', LEFT + WIDTH + 10, TOP + BOARDS.length * ROW, body);
}
