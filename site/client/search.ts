// # The index and its queries
//
// Both ends of search in one place: the build makes the index with these options, the page reads it with the same. A technical book is
// searched for names, so a word is also indexed by its parts (`usedElem` under "used" and "elem"), and a name found in a title weighs most.

import MiniSearch, { type Options } from 'minisearch';

/** What the page shows of one hit. */
export interface Hit {
  readonly title: string;
  readonly where: string;
  readonly href: string;
  readonly kind: string;
  readonly excerpt: string;
}

/** One thing that can be found. */
export interface Entry extends Hit {
  readonly id: number;
  readonly text: string;
}

const parts = (word: string): string[] => {
  const split = word.split(/(?<=[a-z0-9])(?=[A-Z])|[_.-]+/).filter((part) => part.length > 1);
  return split.length > 1 ? [word, ...split] : [word];
};

export const OPTIONS: Options<Entry> = {
  fields: ['title', 'text'],
  storeFields: ['title', 'where', 'href', 'kind', 'excerpt'],
  tokenize: (text) =>
    text
      .split(/[^\p{L}\p{N}_.-]+/u)
      .flatMap((word) => parts(word.replace(/^[.-]+|[.-]+$/g, '')))
      .filter((word) => word !== ''),
  searchOptions: { boost: { title: 4 }, prefix: (term) => term.length > 1, fuzzy: (term) => (term.length > 4 ? 0.2 : false), combineWith: 'AND' },
};

export const buildIndex = (entries: readonly Entry[]): string => {
  const index = new MiniSearch<Entry>(OPTIONS);
  index.addAll(entries);
  return JSON.stringify(index);
};

/** Loads an index made by {@link buildIndex}. */
export function loadIndex(json: string): (query: string, limit?: number) => Hit[] {
  const index = MiniSearch.loadJSON<Entry>(json, OPTIONS);
  return (query, limit = 30) => {
    const all = index.search(query);
    // Words that stand in no single place together still deserve an answer.
    const found = all.length > 0 ? all : index.search(query, { combineWith: 'OR' });
    return found.slice(0, limit) as unknown as Hit[];
  };
}
