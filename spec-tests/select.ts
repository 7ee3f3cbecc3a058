// Which cases, and in which order. A filter is a piece of an id by default, because that is what one has at hand; `=` makes it exact, slashes make
// it a regular expression, and a word with a colon looks at something other than the id. Sharding deals the cases out like cards, so that slow
// neighbours land in different hands; it comes before shuffling, so that a shard holds the same cases whatever the seed.

import type { LoadedCase } from './suite.ts';

/** Whether one filter selects a case. @throws SyntaxError for a bad regular expression. */
export function matches(testCase: LoadedCase, filter: string): boolean {
  if (filter.startsWith('=')) return testCase.id === filter.slice(1);
  if (filter.length > 2 && filter.startsWith('/') && filter.endsWith('/')) return new RegExp(filter.slice(1, -1)).test(testCase.id);
  const colon = /^(clause|surface|strictness|needs|payload):(.+)$/.exec(filter);
  if (!colon) return testCase.id.includes(filter);
  const [, kind, value] = colon as unknown as [string, string, string];
  if (kind === 'clause') return testCase.clauses.some((id) => id.startsWith(value));
  if (kind === 'surface') return testCase.surface === value;
  if (kind === 'strictness') return testCase.strictness === value;
  if (kind === 'payload') return testCase.guest?.payload === value;
  return testCase.requires.includes(value);
}

export interface Shard {
  readonly index: number;
  readonly of: number;
}

/** `i/n` with 1 ≤ i ≤ n. @throws RangeError */
export function parseShard(text: string): Shard {
  const match = /^([0-9]{1,4})\/([0-9]{1,4})$/.exec(text);
  const index = Number(match?.[1]);
  const of = Number(match?.[2]);
  if (!match || index < 1 || index > of) throw new RangeError(`a shard is written i/n with i from 1 to n; '${text}' is not`);
  return { index, of };
}

/** Fisher and Yates, driven by a small generator: the same seed gives the same order everywhere. Seed 0 leaves the order alone. */
export function shuffle<T>(items: readonly T[], seed: number): T[] {
  const out = [...items];
  if (seed === 0) return out;
  let state = seed >>> 0;
  const random = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
  for (let i = out.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [out[i], out[j]] = [out[j] as T, out[i] as T];
  }
  return out;
}

/** Filters (any of them suffices), then deals out shards. */
export function selectCases(cases: readonly LoadedCase[], filters: readonly string[], shard: Shard | null): LoadedCase[] {
  const chosen = filters.length === 0 ? [...cases] : cases.filter((c) => filters.some((filter) => matches(c, filter)));
  return shard === null ? chosen : chosen.filter((_, i) => i % shard.of === shard.index - 1);
}
