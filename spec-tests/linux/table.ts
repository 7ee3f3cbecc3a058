// # A table that grows
//
// A boot takes a minute. So each row is printed when it is known, and the widths are fixed before.

const COLUMNS = [
  ['', 6],
  ['kernel', 11],
  ['machine', 7],
  ['memory', 6],
  ['cpus', 4],
  ['door', 7],
  ['time', 7],
  ['to the first program', 20],
] as const;

const line = (cells: readonly string[]): string =>
  COLUMNS.map(([, width], at) => (cells[at] ?? '').padEnd(width))
    .join('  ')
    .trimEnd();

export const HEAD: string = line(COLUMNS.map(([name]) => name));

export interface Row {
  readonly well: boolean;
  readonly kernel: string;
  readonly machine: string;
  readonly memory: string;
  readonly cpus: string;
  readonly door: string;
  /** Real time of the whole run. */
  readonly seconds: number;
  /** The kernel's own clock when it started its first program; null: it did not. */
  readonly guestSeconds: number | null;
  /** What else there is to say, a line each. */
  readonly remarks: readonly string[];
}

/** The lines of one boot. */
export function lines({ well, kernel, machine, memory, cpus, door, seconds, guestSeconds, remarks }: Row): string[] {
  const first = guestSeconds === null ? 'never' : `${guestSeconds.toFixed(1)} s`;
  return [
    line([well ? 'ok' : 'NOT OK', kernel, machine, memory, cpus, door, `${seconds.toFixed(0)} s`, first]),
    ...remarks.map((text) => `  ${text}`),
  ];
}
