import { type Message, sequence } from '../../01-hardware-background/figures/drawing.ts';
import { firstContactTrace } from './index.ts';

const OBJECT: Readonly<Record<string, number>> = { kvm: 1, vm: 2, vcpu0: 3 };

/** Every request of the first program, from the program to the object that answered it. */
export function render(): string {
  const messages = firstContactTrace.map(
    ({ fd, request, result }): Message => ({ from: 0, to: OBJECT[fd] ?? 1, text: request, detail: `→ ${result}` }),
  );
  return sequence(
    'The requests of the smallest program, in order',
    [
      { name: 'program', ink: 'user' },
      { name: '/dev/kvm', ink: 'kernel' },
      { name: 'kvm-vm', ink: 'kernel' },
      { name: 'kvm-vcpu:0', ink: 'guest' },
    ],
    messages,
  );
}
