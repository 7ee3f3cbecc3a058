import { arrow, figure, type Ink, line, rect, text } from '../../01-hardware-background/figures/drawing.ts';
import { four } from './index.ts';

const hex = (n: number | bigint): string => `0x${n.toString(16)}`;
const LEFT = 20;
const WIDE = 300;
const BOX = 44;
const STEP = 96;

/** The four addresses of one byte, and the steps between them. */
export function render(): string {
  const { gva, gpa, hva, hpa, cached } = four;
  const names: readonly { readonly name: string; readonly at: number | bigint; readonly ink: Ink; readonly by?: string; readonly asked?: string }[] =
    [
      { name: 'guest virtual', at: gva, ink: 'guest', by: 'the guest’s page tables', asked: 'asked: KVM_TRANSLATE' },
      { name: 'guest physical', at: gpa, ink: 'guest', by: 'the slots', asked: 'asked: the VMM, which has made them' },
      { name: 'host virtual', at: hva, ink: 'user', by: 'the host’s page tables', asked: 'asked: the kernel' },
      { name: 'host physical', at: hpa, ink: 'kernel' },
    ];
  const body: string[] = [];
  names.forEach(({ name, at, ink, by, asked }, n) => {
    const y = 8 + n * STEP;
    body.push(rect(LEFT, y, WIDE, BOX, { stroke: ink, fill: 'paper-2' }));
    body.push(text(LEFT + 12, y + 18, name, { size: 12, ink, bold: true }), text(LEFT + 12, y + 36, hex(at), { mono: true }));
    if (!by || !asked) return;
    body.push(arrow(LEFT + 30, y + BOX + 2, LEFT + 30, y + STEP - 3));
    body.push(text(LEFT + 46, y + BOX + 22, by, { size: 13 }), text(LEFT + 46, y + BOX + 38, asked, { size: 11, ink: 'ink-3' }));
  });
  // What the processor keeps: around the outside.
  const edge = LEFT + WIDE + 36;
  const top = 8 + BOX / 2;
  const bottom = top + 3 * STEP;
  body.push(line(LEFT + WIDE, top, edge, top, { ink: 'accent' }), line(edge, top, edge, bottom, { ink: 'accent' }));
  body.push(arrow(edge, bottom, LEFT + WIDE + 3, bottom, 'accent'));
  const middle = (top + bottom) / 2;
  body.push(text(edge + 12, middle - 22, 'the TLB, after the load:', { size: 12, ink: 'accent', bold: true }));
  body.push(text(edge + 12, middle - 2, `${hex((gva >> 12n) << 12n)}`, { size: 12, mono: true }));
  body.push(text(edge + 12, middle + 16, `is at ${hex(cached)}`, { size: 12, mono: true }));
  return figure('One byte under four addresses, as the program found them', edge + 190, 8 + 3 * STEP + BOX + 8, body);
}
