import { type Message, sequence } from '../../01-hardware-background/figures/drawing.ts';
import { shadowed } from './index.ts';

const [WALKER, KERNEL, TABLES] = [0, 1, 2] as const;
const hex = (n: number | bigint): string => `0x${n.toString(16)}`;

/** Every attempt of the processor, and what the kernel did about its faults. */
export function render(): string {
  const messages: Message[] = [];
  for (const { references, result, answer } of shadowed) {
    for (const { structure, register, entry, value, leaf, target } of references)
      messages.push({
        from: WALKER,
        to: TABLES,
        text: `${structure}${register ? ', in a register' : ` at ${hex(entry)}`}`,
        detail: value === 0n ? 'empty' : leaf ? `maps the page at ${hex(target)}` : `a table at ${hex(target)}`,
      });
    if (result.kind === 'translated') messages.push({ from: WALKER, to: WALKER, text: `the byte is at ${hex(result.hpa)}` });
    else if (result.kind === 'fault')
      messages.push({ from: WALKER, to: KERNEL, text: 'page fault: VM exit', detail: `error code ${result.errorCode}` });
    if (answer === 'mapped')
      messages.push({ from: KERNEL, to: TABLES, text: 'builds what is missing', detail: 'from the guest’s tables and the slots' });
  }
  return sequence(
    'A load by a 32-bit guest from a page of 4 MiB, on shadow tables',
    [
      { name: 'processor', ink: 'guest' },
      { name: 'kernel', ink: 'kernel' },
      { name: 'shadow tables', ink: 'ink' },
    ],
    messages,
  );
}
