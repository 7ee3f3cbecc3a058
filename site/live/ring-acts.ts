// # What a reader can do with a ring
//
// The explorable of chapter 6 shows one ring, with the chapter's driver at one end and the chapter's device at the other, and a list of what the reader
// had them do. Nothing in it happens by itself, so the list is the whole state. It stands in the address bar, and whoever opens the link does it all
// again.

import type { Format } from '../../chapters/06-virtio-rings/round-trip.ts';

export const FORMATS: readonly Format[] = ['split', 'packed'];
export const SIZES = [4, 8] as const;
/** What kind of ring, and how many trips it has behind it when the reader gets it. */
export interface Setup {
  readonly format: Format;
  readonly size: (typeof SIZES)[number];
  readonly eventIdx: boolean;
  readonly indirect: boolean;
  readonly inOrder: boolean;
  readonly start: number;
}
export const SETUP: Setup = { format: 'split', size: 4, eventIdx: false, indirect: false, inOrder: false, start: 0 };

/** One thing that the reader has a side do. */
export type Act =
  | { readonly do: 'add'; readonly pieces: 1 | 2 | 3 }
  | { readonly do: 'push'; readonly which: number; readonly length: number }
  | { readonly do: 'trips'; readonly count: number }
  | { readonly do: (typeof PLAIN)[number] };
const PLAIN = ['ask', 'ring', 'kick', 'take', 'disable', 'enable', 'delay', 'pop', 'notify', 'mute', 'unmute'] as const;

// ## The address bar
//
// A letter for each kind of act, a dot between two. Nothing that a link can say may take long, so there is a limit for acts and one for trips.

const LETTERS: Readonly<Record<(typeof PLAIN)[number], string>> = {
  ask: 'q',
  ring: 'b',
  kick: 'k',
  take: 't',
  disable: 'd',
  enable: 'e',
  delay: 'l',
  pop: 'p',
  notify: 'n',
  mute: 'm',
  unmute: 'w',
};
export const MOST_ACTS = 300;
export const LAP_16 = 0x1_0000;
export const MOST_TRIPS = 3 * LAP_16;

export const writeAct = (act: Act): string => {
  switch (act.do) {
    case 'add':
      return `a${act.pieces}`;
    case 'push':
      return `u${act.which}-${act.length}`;
    case 'trips':
      return `r${act.count}`;
    default:
      return LETTERS[act.do];
  }
};

function readAct(text: string): Act | null {
  const [, letter, first, second] = /^([a-z])(\d{1,6})?(?:-(\d{1,6}))?$/.exec(text) ?? [];
  const [a, b] = [Number(first ?? Number.NaN), Number(second ?? Number.NaN)];
  if (letter === 'a') return a === 1 || a === 2 || a === 3 ? { do: 'add', pieces: a } : null;
  if (letter === 'u') return Number.isNaN(a) || Number.isNaN(b) ? null : { do: 'push', which: a, length: b };
  if (letter === 'r') return a >= 1 && a <= LAP_16 ? { do: 'trips', count: a } : null;
  const plain = PLAIN.find((each) => LETTERS[each] === letter);
  return plain && first === undefined ? { do: plain } : null;
}

export const writeActs = (acts: readonly Act[]): string => acts.map(writeAct).join('.');

/** How many trips some acts come to. */
export const tripsIn = (acts: readonly Act[]): number => acts.reduce((sum, act) => sum + (act.do === 'trips' ? act.count : 0), 0);

/** Acts as {@link writeActs} wrote them, up to the first that makes no sense. */
export function readActs(text: string): Act[] {
  const acts: Act[] = [];
  for (const part of text === '' ? [] : text.split('.')) {
    const act = readAct(part);
    if (!act || acts.length === MOST_ACTS || tripsIn([...acts, act]) > MOST_TRIPS) break;
    acts.push(act);
  }
  return acts;
}

/** Where a ring can start: at the beginning, or a few trips before something turns over. */
export const startsOf = ({ format, size }: Pick<Setup, 'format' | 'size'>): readonly { readonly trips: number; readonly name: string }[] =>
  format === 'split'
    ? [
        { trips: 0, name: 'at the beginning' },
        { trips: size - 1, name: 'one before the table’s end' },
        { trips: LAP_16 - 2, name: 'two before the index wraps' },
      ]
    : [
        { trips: 0, name: 'at the beginning' },
        { trips: size - 1, name: 'one before the first lap ends' },
        { trips: 2 * size - 1, name: 'one before the second ends' },
      ];

export function readSetup(fields: URLSearchParams): Setup {
  const format = fields.get('ring') === 'packed' ? 'packed' : 'split';
  const size = fields.get('size') === '8' ? 8 : 4;
  const wanted = (fields.get('with') ?? '').split('.');
  const start = Number(fields.get('start') ?? 0);
  return {
    format,
    size,
    eventIdx: wanted.includes('event'),
    indirect: wanted.includes('indirect'),
    inOrder: wanted.includes('order'),
    start: startsOf({ format, size }).some(({ trips }) => trips === start) ? start : 0,
  };
}

export function writeSetup({ format, size, eventIdx, indirect, inOrder, start }: Setup, fields: URLSearchParams): void {
  if (format !== SETUP.format) fields.set('ring', format);
  if (size !== SETUP.size) fields.set('size', String(size));
  const wanted = [eventIdx && 'event', indirect && 'indirect', inOrder && 'order'].filter((each) => each !== false);
  if (wanted.length > 0) fields.set('with', wanted.join('.'));
  if (start !== 0) fields.set('start', String(start));
}
