import { VECTOR } from '../faults.ts';
import { sensitiveInstructions } from '../monitors/sensitive.ts';
import { type Cell, table } from './drawing.ts';

/** Each candidate, and whether executing it in ring 3 told anybody. */
export function render(): string {
  const nameOf = (vector: number): string => `#${Object.entries(VECTOR).find(([, number]) => number === vector)?.[0] ?? vector}`;
  const rows = sensitiveInstructions().map(({ text, touches, vector }): Cell[] => [
    text,
    touches,
    vector === null ? { text: 'completes in silence', ink: 'fail' } : { text: `traps: ${nameOf(vector)}`, ink: 'pass' },
  ]);
  return table('Sensitive instructions in ring 3', ['instruction', 'reads or changes', 'in ring 3'], rows);
}
