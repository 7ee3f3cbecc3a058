import { type Actor, type Message, sequence } from '../../01-hardware-background/figures/drawing.ts';
import { smallestTrace } from './index.ts';

const ACTORS: readonly Actor[] = [
  { name: 'VMM', ink: 'user' },
  { name: 'kernel', ink: 'kernel' },
  { name: 'guest', ink: 'guest' },
];
const [USER, KERNEL, GUEST] = [0, 1, 2];

/** The crossings of the smallest run, from its trace: entries, exits, and what came of each. */
export function render(): string {
  const messages: Message[] = [];
  for (const event of smallestTrace) {
    switch (event.kind) {
      case 'ioctl':
        if (event.request === 'KVM_RUN') messages.push({ from: KERNEL, to: USER, text: `KVM_RUN = ${event.result}` });
        break;
      case 'kvm_entry':
        messages.push({ from: KERNEL, to: GUEST, text: 'entry', detail: `rip 0x${event.rip.toString(16)}` });
        break;
      case 'kvm_exit':
        messages.push({
          from: GUEST,
          to: KERNEL,
          text: event.reason,
          detail: `rip 0x${event.rip.toString(16)}, qualification 0x${event.qualification.toString(16)}`,
        });
        break;
      case 'kvm_page_fault':
        messages.push({ from: KERNEL, to: KERNEL, text: `map the page of 0x${event.gpa.toString(16)}` });
        break;
      case 'kvm_userspace_exit':
        messages.push({ from: KERNEL, to: KERNEL, text: event.reason });
        break;
    }
  }
  // The trace reports a call when it returns; the call itself came before everything since the last return.
  const withCalls = messages.flatMap((message, index): Message[] => {
    const starts = index === 0 || messages[index - 1]?.to === USER;
    return starts && message.from !== USER ? [{ from: USER, to: KERNEL, text: 'ioctl(KVM_RUN)' }, message] : [message];
  });
  return sequence('One guest, two loops: every crossing of a recorded run', ACTORS, withCalls);
}
