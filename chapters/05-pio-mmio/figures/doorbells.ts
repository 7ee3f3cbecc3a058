import { table } from '../../01-hardware-background/figures/drawing.ts';
import { crossings } from '../route.ts';
import { bellRuns } from './index.ts';

/** The same doorbell with and without an eventfd. */
export function render(): string {
  const row = (name: string, kind: keyof typeof bellRuns, told: string) => {
    const { kernel, user } = crossings(bellRuns[kind].run.marked);
    return [name, { text: String(kernel), ink: 'kernel' as const }, { text: String(user), ink: 'user' as const }, told];
  };
  return table(
    'A doorbell answered by user space, and by an eventfd',
    ['behind the bell', 'settled in the kernel', 'in user space', 'the device is told by'],
    [row('nothing', 'exit', 'a return of KVM_RUN, each time'), row('an eventfd', 'eventfd', 'a counter, which it reads when it likes')],
  );
}
