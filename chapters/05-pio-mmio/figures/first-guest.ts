import { table } from '../../01-hardware-background/figures/drawing.ts';
import { settled } from '../route.ts';
import { first } from './index.ts';

/** The exits of the first guest, by reason and by who settled them. */
export function render(): string {
  const rows = settled(first.marked).map(({ reason, kernel, user }) => [
    reason,
    kernel ? { text: String(kernel), ink: 'kernel' as const } : '–',
    user ? { text: String(user), ink: 'user' as const } : '–',
  ]);
  return table('The exits of the first guest: settled in the kernel, or in user space', ['reason', 'in the kernel', 'in user space'], rows);
}
