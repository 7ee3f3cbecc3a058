import { VECTOR } from '../faults.ts';
import { classOf, combine, type ExceptionClass } from '../system/exceptions.ts';
import { EVENT_TYPE } from '../vmx/processor.ts';
import { type Cell, table } from './drawing.ts';

const WORDS = { serial: 'one after the other', double: 'double fault', triple: 'shutdown' } as const;
const INK = { serial: 'ink-2', double: 'known', triple: 'fail' } as const;

/** The vectors of each class, and what the processor makes of each pair of classes. */
export function render(): string {
  const members = new Map<ExceptionClass, string[]>();
  for (const [name, vector] of Object.entries(VECTOR)) {
    const of = classOf(vector, EVENT_TYPE.HARDWARE_EXCEPTION);
    members.set(of, [...(members.get(of) ?? []), `#${name}`]);
  }
  const seconds: readonly ExceptionClass[] = ['benign', 'contributory', 'page-fault'];
  const firsts: readonly ExceptionClass[] = [...seconds, 'double-fault'];
  const rows = firsts.map((first): Cell[] => {
    const names = members.get(first) as string[];
    const shown = first === 'benign' ? 'the others' : names.join(' ');
    return [first, shown, ...seconds.map((second) => ({ text: WORDS[combine(first, second)], ink: INK[combine(first, second)] }))];
  });
  return table(
    'What a second exception does to the delivery of a first',
    ['being delivered', 'members', 'then benign', 'then contributory', 'then page-fault'],
    rows,
  );
}
