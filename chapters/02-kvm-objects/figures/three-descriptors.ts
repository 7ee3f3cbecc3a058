import { arrow, figure, rect, text } from '../../01-hardware-background/figures/drawing.ts';
import { SoftKernel } from '../soft/soft-kernel.ts';
import { firstContact, firstContactTrace } from './index.ts';

const COLUMN = 224;
const BOX = 150;
const LINE = 15;
const TOP = 92;
const PREFIX = 'KVM_';

const short = (request: string): string => (request.startsWith(PREFIX) ? request.slice(PREFIX.length) : request);

/** The objects of the first program, what made each, and the requests that its kind of descriptor answers. */
export function render(): string {
  const kernel = new SoftKernel();
  const objects = [
    { name: '/dev/kvm', ink: 'kernel', table: kernel.systemRequests },
    { name: 'kvm-vm', ink: 'kernel', table: kernel.vmRequests },
    { name: 'kvm-vcpu:0', ink: 'guest', table: kernel.vcpuRequests },
  ] as const;
  // What made the next one: the requests of the run whose result was a descriptor.
  const makers = firstContactTrace
    .filter(({ request, result }) => request.startsWith('KVM_CREATE') && firstContact.descriptors.includes(result))
    .map(({ request }) => request);
  const body: string[] = [];
  let lowest = TOP;
  objects.forEach(({ name, ink, table }, n) => {
    const x = n * COLUMN + 1;
    body.push(rect(x, 20, BOX, 44, { stroke: ink }), text(x + BOX / 2, 40, name, { anchor: 'middle', mono: true, ink }));
    body.push(text(x + BOX / 2, 56, `descriptor ${firstContact.descriptors[n]}`, { anchor: 'middle', size: 11, ink: 'ink-3' }));
    const making = n < 2 ? (makers[n] as string) : 'mmap';
    body.push(
      arrow(x + BOX + 4, 42, x + COLUMN - 5, 42),
      text(x + BOX + (COLUMN - BOX) / 2, 14, short(making), { anchor: 'middle', size: 11, ink: 'accent' }),
    );
    table.requests.forEach((request, row) => {
      body.push(text(x, TOP + row * LINE, short(request), { size: 10, mono: true, ink: makers.includes(request) ? 'accent' : 'ink-2' }));
      lowest = Math.max(lowest, TOP + row * LINE);
    });
  });
  const x = objects.length * COLUMN + 1;
  body.push(
    rect(x, 20, BOX - 20, 44, { stroke: 'user', fill: 'paper-2' }),
    text(x + (BOX - 20) / 2, 40, 'struct kvm_run', { anchor: 'middle', mono: true, size: 12, ink: 'user' }),
  );
  body.push(text(x + (BOX - 20) / 2, 56, `${firstContact.runBytes} bytes, shared`, { anchor: 'middle', size: 11, ink: 'ink-3' }));
  return figure('Three descriptors, what makes each, and what each answers', x + BOX - 19, lowest + 10, body);
}
