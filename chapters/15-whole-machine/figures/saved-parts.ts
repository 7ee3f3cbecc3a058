import { type Cell, table } from '../../01-hardware-background/figures/drawing.ts';
import { parts } from './index.ts';

const grouped = (value: number): string => value.toLocaleString('en');

/** Each part of a saved board, and its size. */
export function render(): string {
  const half = Math.ceil(parts.length / 2);
  const cells = (at: number): Cell[] => {
    const part = parts[at];
    return part ? [{ text: part.name, ink: part.keeper === 'kernel' ? 'kernel' : 'ink' }, grouped(part.bytes)] : ['', ''];
  };
  const rows = Array.from({ length: half }, (_, at) => [...cells(at), ...cells(at + half)]);
  return table('The parts of a saved q35 but for its memory, and their sizes', ['part', 'bytes', 'part', 'bytes'], rows);
}
