// # Measuring in turns
//
// A figure is a name and a way to take one sample of it. The machine that takes the samples gets slower and faster while it does, so all figures get one
// sample in each round, and what is said of two figures is said round by round.

/** One line of the benchmark. */
export interface Figure {
  readonly name: string;
  readonly unit: string;
  /** Takes one sample. A string says why it cannot be taken here. */
  readonly measure: (() => number | Promise<number>) | string;
  /** Measured once, after the rounds: it takes long and its samples differ little. */
  readonly once?: boolean;
}

/** Two figures whose quotient is worth a line. */
export type Ratio = readonly [over: string, under: string];

/** Heading, then figures. */
export interface Section {
  readonly title: string;
  readonly figures: readonly Figure[];
  readonly ratios?: readonly Ratio[];
}

export const median = (samples: readonly number[]): number => [...samples].sort((a, b) => a - b)[samples.length >> 1] as number;

/** Seconds that some work takes. */
export const seconds = (work: () => void): number => {
  const began = performance.now();
  work();
  return (performance.now() - began) / 1000;
};

/** Something that is made when it is first asked for, and kept. */
export function once<T>(make: () => T): () => T {
  let made: { readonly it: T } | null = null;
  return () => {
    made ??= { it: make() };
    return made.it;
  };
}

/** Processor seconds that some work takes in this process: what runs beside it does not count. */
export function processorSeconds(work: () => void): number {
  const began = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(began);
  return (user + system) / 1e6;
}

/** What the figures came to; a figure that failed while it was measured says why. */
export class Samples {
  readonly #taken = new Map<string, number[]>();
  readonly #failed = new Map<string, string>();

  async take({ name, measure }: Figure): Promise<void> {
    if (typeof measure === 'string' || this.#failed.has(name)) return;
    try {
      this.#taken.set(name, [...(this.#taken.get(name) ?? []), await measure()]);
    } catch (error) {
      this.#failed.set(name, error instanceof Error ? (error.message.split('\n')[0] as string) : String(error));
    }
  }

  /** The samples so far do not count. */
  forget(): void {
    this.#taken.clear();
  }

  text({ name, unit, measure }: Figure): string {
    const failed = typeof measure === 'string' ? measure : this.#failed.get(name);
    if (failed !== undefined) return `not measured: ${failed}`;
    const samples = this.#taken.get(name);
    return samples ? `${show(median(samples)).padStart(12)} ${unit}` : 'left out by --quick';
  }

  /** Median of the quotients of each round. Null when one of the two is missing. */
  ratio([over, under]: Ratio): number | null {
    const [a, b] = [this.#taken.get(over), this.#taken.get(under)];
    if (!a || !b || a.length !== b.length) return null;
    return median(a.map((value, round) => value / (b[round] as number)));
  }
}

const show = (n: number): string => (n >= 1000 ? Math.round(n).toLocaleString('en') : n.toPrecision(3));
