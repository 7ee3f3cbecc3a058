import { type Cell, table } from '../../01-hardware-background/figures/drawing.ts';
import { type Machine, possible, RING_QUESTIONS, type Weakening, weaken } from '../litmus.ts';

const MACHINES: readonly Machine[] = ['in order', 'x86', 'weak'];
const WAYS: readonly Weakening[] = ['as written', 'stores swapped', 'loads swapped', 'no order'];

/** Which weakening of which question lets the bad result happen, by trying every execution. */
export function render(): string {
  const cell = (broken: boolean): Cell => (broken ? { text: 'breaks', ink: 'fail' } : { text: 'holds', ink: 'pass' });
  return table(
    'What each question of the ring survives',
    ['the question', 'its sides', ...MACHINES],
    RING_QUESTIONS.flatMap((question) =>
      WAYS.map((how, index): Cell[] => [
        index === 0 ? question.name : '',
        how,
        ...MACHINES.map((machine) => cell(possible(weaken(question, how), machine, question.bad))),
      ]),
    ),
  );
}
