// # Marks
//
// The two moments between which a guest did what is measured.

/** What is noted at each mark. */
export interface Marked {
  /** Milliseconds since the epoch. */
  readonly at: number;
  /** Milliseconds of processor time that this process has used, all of its threads. */
  readonly used: number;
  /** Instructions retired; -1 where nobody counts. */
  readonly instructions: number;
}

export interface Ran {
  readonly begin: Marked;
  readonly end: Marked;
  readonly output: string;
}

export const clockMs = (): number => performance.timeOrigin + performance.now();

/** A mark, now. */
export function markNow(instructions: number): Marked {
  const at = clockMs();
  const { user, system } = process.cpuUsage();
  return { at, used: (user + system) / 1000, instructions };
}
