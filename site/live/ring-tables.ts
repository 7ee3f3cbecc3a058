// # A ring, drawn as what it is
//
// Tables of memory, field by field, under the names that the specification gives. Colour says who writes a table; a mark, what has just changed; and at
// the rows stand the places that either side keeps to itself.

import { PACKED_DESC_F, WRAP } from '../../chapters/06-virtio-rings/rings/layout.ts';
import type { Format } from '../../chapters/06-virtio-rings/round-trip.ts';
import { make } from './dom.ts';
import type { Setup } from './ring-acts.ts';
import { flagNames, isUsed, type Picture, type Place, type Table, wishOf } from './ring-model.ts';

/** What is drawn. */
export interface Drawn {
  readonly format: Format;
  readonly size: number;
  readonly eventIdx: boolean;
  readonly fields: ReadonlyMap<string, number>;
  readonly changed: ReadonlySet<string>;
  readonly owners: ReadonlyMap<string, string>;
  readonly tables: readonly Table[];
  /** Where each side is; null where that is not the point. */
  readonly places: { readonly adds: Place; readonly looks: Place; readonly takes: Place; readonly gives: Place } | null;
  /** Fields that one side saw otherwise than they were written. */
  readonly late: ReadonlyMap<string, { readonly seen: number; readonly written: number }>;
}

export const drawnOf = ({ format, size, eventIdx }: Setup, picture: Picture, changed: ReadonlySet<string>): Drawn => ({
  format,
  size,
  eventIdx,
  fields: picture.fields,
  changed,
  owners: picture.owners,
  tables: picture.tables,
  places: { adds: picture.driver.adds, looks: picture.driver.looks, takes: picture.device.takes, gives: picture.device.gives },
  late: new Map(),
});

const hex = (value: number): string => `0x${value.toString(16)}`;

function valueText(field: string, value: number, { format, eventIdx }: Drawn): string {
  if (field.endsWith('.addr')) return value === 0 ? '0' : hex(value);
  if (/^(avail|used|driver|device)\.flags$/.test(field))
    return format === 'split' && eventIdx ? `${value}, not looked at` : `${value}, ${wishOf(value, format)}`;
  if (field.endsWith('.flags')) return flagNames(value & ~(PACKED_DESC_F.AVAIL | PACKED_DESC_F.USED)).join(' ') || '0';
  if (field.endsWith('.off_wrap')) return `${value & (WRAP - 1)}, wrap ${value & WRAP ? 1 : 0}`;
  return String(value);
}

function cell(field: string, drawn: Drawn): HTMLElement {
  const value = drawn.fields.get(field) ?? 0;
  const element = make('td', valueText(field, value, drawn), drawn.changed.has(field) ? 'changed' : '');
  if (/_event$|off_wrap$/.test(field) && !drawn.eventIdx) element.classList.add('unused');
  element.dataset.field = field;
  const late = drawn.late.get(field);
  if (late) {
    element.classList.add('late');
    const { seen, written } = late;
    const text = (one: number): string => valueText(field, one, drawn);
    element.append(make('small', value === seen ? `${text(written)} is not seen yet` : `was still seen as ${text(seen)}`));
  }
  return element;
}

/** A bit of `flags` as a cell of its own. */
function bitCell(field: string, bit: number, drawn: Drawn): HTMLElement {
  const set = ((drawn.fields.get(field) ?? 0) & bit) !== 0;
  return make('td', set ? '1' : '0', `bit${drawn.changed.has(field) ? ' changed' : ''}${set ? ' on' : ''}`);
}

const MARKS = {
  adds: ['driver', 'adds'],
  looks: ['driver', 'looks'],
  takes: ['device', 'takes'],
  gives: ['device', 'gives'],
} as const;

function notes(row: string, index: number, marks: readonly (keyof typeof MARKS)[], { owners, places, size }: Drawn): HTMLElement {
  const element = make('td', '', 'notes');
  const owner = owners.get(row);
  if (owner) element.append(make('b', owner, 'buffer'));
  else if (places && row.startsWith('desc')) element.classList.add('free');
  for (const mark of marks) {
    if (!places || places[mark].index % size !== index) continue;
    const [who, word] = MARKS[mark];
    const chip = make('span', word, `mark ${who}`);
    chip.title = `the ${who} ${word} here next`;
    element.append(chip);
  }
  return element;
}

function table(title: string, writer: 'driver' | 'device' | 'both', head: readonly string[], rows: readonly (readonly HTMLElement[])[]): HTMLElement {
  const element = make('table', '', `ring-table ${writer}`);
  const caption = make('caption', title);
  caption.append(make('small', writer === 'both' ? 'both write' : `the ${writer} writes`));
  element.append(caption);
  if (head.length > 0) {
    const line = make('tr');
    for (const each of head) {
      const th = make('th', each);
      th.setAttribute('scope', 'col');
      line.append(th);
    }
    const thead = make('thead');
    thead.append(line);
    element.append(thead);
  }
  const body = make('tbody');
  for (const row of rows) {
    const line = make('tr', '', row.some((each) => each.classList.contains('free')) ? 'idle' : '');
    line.append(...row);
    body.append(line);
  }
  element.append(body);
  return element;
}

const header = (text: string): HTMLElement => {
  const element = make('th', text);
  element.setAttribute('scope', 'row');
  return element;
};
const span = (element: HTMLElement, columns: number): HTMLElement => {
  element.setAttribute('colspan', String(columns));
  return element;
};

function splitTables(drawn: Drawn): HTMLElement[] {
  const indices = Array.from({ length: drawn.size }, (_, index) => index);
  const field = (name: string): HTMLElement => cell(name, drawn);
  const desc = indices.map((index) => [
    header(String(index)),
    ...['addr', 'len', 'flags', 'next'].map((name) => field(`desc[${index}].${name}`)),
    notes(`desc[${index}]`, index, [], drawn),
  ]);
  const blank = (): HTMLElement => make('td', '', 'notes');
  const avail = [
    [header('flags'), field('avail.flags'), blank()],
    [header('idx'), field('avail.idx'), blank()],
    ...indices.map((index) => [
      header(`ring[${index}]`),
      field(`avail.ring[${index}]`),
      notes(`avail.ring[${index}]`, index, ['adds', 'takes'], drawn),
    ]),
    [header('used_event'), field('used_event'), blank()],
  ];
  const used = [
    [header('flags'), span(field('used.flags'), 2), blank()],
    [header('idx'), span(field('used.idx'), 2), blank()],
    ...indices.map((index) => [
      header(`ring[${index}]`),
      field(`used.ring[${index}].id`),
      field(`used.ring[${index}].len`),
      notes(`used.ring[${index}]`, index, ['gives', 'looks'], drawn),
    ]),
    [header('avail_event'), span(field('avail_event'), 2), blank()],
  ];
  return [
    table('desc', 'driver', ['', 'addr', 'len', 'flags', 'next', ''], desc),
    table('avail', 'driver', [], avail),
    table('used', 'device', ['', 'id', 'len', ''], used),
  ];
}

function packedTables(drawn: Drawn): HTMLElement[] {
  const rows = Array.from({ length: drawn.size }, (_, index) => {
    const flags = drawn.fields.get(`desc[${index}].flags`) ?? 0;
    const cells = [
      header(String(index)),
      ...['addr', 'len', 'id', 'flags'].map((name) => cell(`desc[${index}].${name}`, drawn)),
      bitCell(`desc[${index}].flags`, PACKED_DESC_F.AVAIL, drawn),
      bitCell(`desc[${index}].flags`, PACKED_DESC_F.USED, drawn),
      notes(`desc[${index}]`, index, ['adds', 'takes', 'gives', 'looks'], drawn),
    ];
    for (const each of cells.slice(5, 7)) each.classList.add(isUsed(flags) ? 'alike' : 'unlike');
    return cells;
  });
  const event = (who: 'driver' | 'device'): HTMLElement =>
    table(
      who,
      who,
      [],
      [
        [header('off_wrap'), cell(`${who}.off_wrap`, drawn)],
        [header('flags'), cell(`${who}.flags`, drawn)],
      ],
    );
  const beside = make('div', '', 'ring-beside');
  beside.append(event('driver'), event('device'));
  return [table('desc', 'both', ['', 'addr', 'len', 'id', 'flags', 'AVAIL', 'USED', ''], rows), beside];
}

function indirectTable({ name, address, entries }: Table): HTMLElement {
  const linked = entries.some(({ next }) => next !== null);
  return table(
    `table of ${name}, at ${hex(address)}`,
    'driver',
    ['', 'addr', 'len', 'flags', ...(linked ? ['next'] : [])],
    entries.map(({ addr, len, flags, next }, index) => [
      header(String(index)),
      make('td', hex(addr)),
      make('td', String(len)),
      make('td', flagNames(flags).join(' ') || '0'),
      ...(next === null ? [] : [make('td', String(next))]),
    ]),
  );
}

/** Draws a ring into `box`. */
export function drawRing(box: HTMLElement, drawn: Drawn): void {
  const tables = drawn.format === 'split' ? splitTables(drawn) : packedTables(drawn);
  box.replaceChildren(...tables, ...drawn.tables.map(indirectTable));
  box.dataset.format = drawn.format;
}
