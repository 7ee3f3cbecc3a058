import { type Cell, table } from '../../01-hardware-background/figures/drawing.ts';
import { portRanges } from './index.ts';

const hex = (port: number): string => port.toString(16).padStart(4, '0');

/** The ports of a machine that runs, in two columns of ranges. */
export function render(): string {
  const cells = portRanges.map(({ from, to, device }): [string, Cell] => [from === to ? hex(from) : `${hex(from)}–${hex(to)}`, device]);
  const half = Math.ceil(cells.length / 2);
  const rows = cells.slice(0, half).map((left, n) => [...left, ...(cells[half + n] ?? ['', ''])]);
  return table('Who answers at which port: every port of a running PC was asked', ['ports', 'device', 'ports', 'device'], rows);
}
