import { figure, type Ink, line, rect, text } from '../../01-hardware-background/figures/drawing.ts';
import { modesTrace } from './index.ts';

const LANES: readonly { readonly name: string; readonly ink: Ink }[] = [
  { name: 'user', ink: 'user' },
  { name: 'kernel', ink: 'kernel' },
  { name: 'guest', ink: 'guest' },
];
const [USER, KERNEL, GUEST] = [0, 1, 2] as const;
const LEFT = 58;
const TOP = 34;
const LANE = 92;
const BAR = 22;
/** A visit to the kernel or to user space takes no guest instructions, so it has a width of its own. */
const VISIT = 26;
const PER_INSTRUCTION = 0.75;
const LEAST = 5;

/** Who runs when: the guest's bars are as long as the instructions it retired; the others' are visits. */
export function render(): string {
  const body: string[] = [];
  let x = LEFT;
  let entered = 0;
  let returned = false;
  const bar = (lane: number, width: number, label: string, below = ''): void => {
    const y = TOP + lane * LANE;
    const ink = (LANES[lane] as { ink: Ink }).ink;
    body.push(rect(x, y, width, BAR, { stroke: ink, fill: 'paper-2' }));
    if (label) body.push(text(x + width / 2, y + 15, label, { size: 10, anchor: 'middle', ink }));
    if (below) body.push(`<g transform="rotate(-55 ${x + width / 2} ${y - 3})">${text(x + width / 2, y - 3, below, { size: 9, ink: 'ink-3' })}</g>`);
    x += width;
  };
  for (const event of modesTrace) {
    if (event.kind === 'kvm_entry') {
      entered = event.t;
      if (returned) bar(KERNEL, VISIT / 2, '');
      returned = false;
    }
    if (event.kind === 'kvm_exit') {
      const retired = event.t - entered;
      bar(GUEST, Math.max(LEAST, retired * PER_INSTRUCTION), retired > 12 ? String(retired) : '');
      bar(KERNEL, VISIT, '', event.reason.toLowerCase().replaceAll('_', ' '));
    } else if (event.kind === 'kvm_userspace_exit') {
      bar(USER, VISIT, '', event.reason.replace('KVM_EXIT_', ''));
      returned = true;
    }
  }
  const width = x + 50;
  const lanes = LANES.map(
    ({ name, ink }, n) =>
      text(0, TOP + n * LANE + 15, name, { ink, bold: true }) + line(LEFT, TOP + n * LANE + BAR, width, TOP + n * LANE + BAR, { dashed: true }),
  );
  return figure(
    'The three modes in a recorded run: the numbers are guest instructions between an entry and the exit after it',
    width,
    TOP + 2 * LANE + BAR + 8,
    [...lanes, ...body],
  );
}
