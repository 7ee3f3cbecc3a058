import { table } from '../../01-hardware-background/figures/drawing.ts';
import { SECTORS } from '../operations.ts';
import { diskRuns } from './index.ts';

const COLUMNS = ['task', 'data', 'master', 'status', 'interrupt'] as const;

/** A request to the disk by three kinds of transfer. */
export function render(): string {
  const rows = Object.entries(diskRuns).map(([by, { exits, handled }]) => {
    const all = handled.kernel + handled.user;
    return [
      by,
      ...COLUMNS.map((part) => String(exits[part])),
      { text: String(all), ink: 'accent' as const },
      String(Math.round((10 * all) / SECTORS) / 10),
    ];
  });
  const header = ['transfer', 'the form', 'data', 'bus master', 'status', 'end of interrupt', 'all', 'a sector'];
  return table(`Exits of a request for ${SECTORS} sectors, by what the driver was doing`, header, rows);
}
