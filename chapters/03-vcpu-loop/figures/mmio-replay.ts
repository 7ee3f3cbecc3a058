import { type Message, sequence } from '../../01-hardware-background/figures/drawing.ts';
import { replay } from './index.ts';

const [USER, KERNEL, GUEST] = [0, 1, 2] as const;

/** The steps of one emulated read-modify-write. */
export function render(): string {
  const messages = replay.steps.map(({ kind, text }): Message => {
    if (kind === 'exit') return { from: GUEST, to: KERNEL, text };
    if (kind === 'attempt') return { from: KERNEL, to: KERNEL, text };
    return kind === 'user' ? { from: KERNEL, to: USER, text } : { from: USER, to: KERNEL, text };
  });
  return sequence(
    'An ADD to a device register: every attempt, every exit, every answer',
    [
      { name: 'VMM', ink: 'user' },
      { name: 'kernel', ink: 'kernel' },
      { name: 'guest', ink: 'guest' },
    ],
    messages,
  );
}
