import { crossingsOf, models } from '../monitors/models.ts';
import { arrow, figure, type Ink, rect, text } from './drawing.ts';

const BOX = 104;
const GAP = 42;
const ROW = 84;
const INK: Readonly<Record<string, Ink>> = {
  guest: 'guest',
  hypervisor: 'kernel',
  'host kernel': 'kernel',
  process: 'user',
  'driver domain': 'user',
};

/** The way of one byte in each model: a box for each station, a number for each crossing. */
export function render(): string {
  const journeys = models();
  const body: string[] = [];
  const longest = Math.max(...journeys.map(({ route }) => route.length));
  journeys.forEach((journey, row) => {
    const { model, systems, driver, route } = journey;
    const y = row * ROW;
    body.push(
      text(0, y + 14, `${model} model`, { bold: true }),
      text(140, y + 14, `${systems}: driver ${driver}; ${crossingsOf(journey)} crossings`, { size: 12, ink: 'ink-2' }),
    );
    route.forEach((station, n) => {
      const x = n * (BOX + GAP);
      const ink = INK[station] ?? 'ink';
      body.push(rect(x + 1, y + 26, BOX, 30, { stroke: ink }), text(x + 1 + BOX / 2, y + 46, station, { anchor: 'middle', ink }));
      if (n > 0)
        body.push(arrow(x - GAP + 4, y + 41, x - 3, y + 41), text(x - GAP / 2, y + 35, String(n), { size: 11, anchor: 'middle', ink: 'ink-3' }));
    });
  });
  return figure('One port write in the three models', longest * (BOX + GAP) - GAP + 2, journeys.length * ROW - 20, body);
}
