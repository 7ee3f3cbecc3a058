// # Rulers
//
// A record's layout is declared once, as a table; the picture of it is drawn from that table, so it cannot show a field where there is none.
// Four kinds of table can be drawn: a record (bytes), a device's registers (bytes, with what software may do to them), a word of named ranges (bits),
// and a plain object of flag masks (bits).
//
// A picture alone would shut out whoever cannot see it, so each ruler carries a title and is followed by the same facts as an HTML table.

import { escapeHtml, table } from './html.ts';

interface FieldLike {
  readonly kind?: string;
  readonly offset: number;
  readonly bytes: number;
  readonly count?: number;
  readonly of?: { readonly name: string; readonly bytes: number };
}
interface RecordLike {
  readonly name: string;
  readonly bytes: number;
  readonly fields: Readonly<Record<string, FieldLike>>;
}
interface BitsLike {
  readonly name: string;
  readonly ranges: Readonly<Record<string, { readonly lo: number; readonly width: number; readonly meaning?: string }>>;
}
interface RegisterLike {
  readonly offset: number;
  readonly bytes: number;
  readonly access: string;
  readonly reset?: number;
  readonly text: string;
  readonly count?: number;
  readonly stride?: number;
}
interface RegistersLike {
  readonly device: string;
  readonly source: string;
  readonly rows: Readonly<Record<string, RegisterLike>>;
}
type Flags = Readonly<Record<string, number>>;
export type Drawable = RecordLike | RegistersLike | BitsLike | Flags;

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;
const isRecord = (value: unknown): value is RecordLike => isObject(value) && isObject(value.fields) && typeof value.bytes === 'number';
const isBits = (value: unknown): value is BitsLike => isObject(value) && isObject(value.ranges);
const isRegisters = (value: unknown): value is RegistersLike => isObject(value) && isObject(value.rows) && typeof value.source === 'string';
const isFlags = (value: unknown): value is Flags =>
  isObject(value) && Object.keys(value).length > 0 && Object.values(value).every((mask) => Number.isInteger(mask));

/** True for what {@link drawLayout} can draw. */
export const isDrawable = (value: unknown): value is Drawable => isRecord(value) || isRegisters(value) || isBits(value) || isFlags(value);

const WIDTH = 720;
const GUTTER = 62; // room for the offset labels of a byte ruler
const round = (x: number): string => String(Math.round(x * 10) / 10);

interface Cell {
  readonly name: string;
  readonly x: number;
  readonly width: number;
  readonly reserved: boolean;
  readonly tip: string;
}

function box({ name, x, width, reserved, tip }: Cell, y: number, height: number): string {
  const shape = `<rect x="${round(x)}" y="${y}" width="${round(width)}" height="${height}" class="${reserved ? 'ruler-gap' : 'ruler-field'}"/>`;
  const middle = [round(x + width / 2), y + height / 2] as const;
  const fits = name.length * 7.4 + 6 <= width;
  const turned = !fits && width >= 11 && name.length * 7.4 + 4 <= height;
  const size = fits || turned ? '' : ` textLength="${round(Math.max(8, width - 4))}" lengthAdjust="spacingAndGlyphs"`;
  const label =
    name === ''
      ? ''
      : `<text x="${middle[0]}" y="${middle[1]}"${size}${turned ? ` transform="rotate(-90 ${middle[0]} ${middle[1]})"` : ''}>${escapeHtml(name)}</text>`;
  return `<g>${tip ? `<title>${escapeHtml(tip)}</title>` : ''}${shape}${label}</g>`;
}

const svg = (title: string, height: number, body: string): string =>
  `<svg class="ruler" viewBox="0 0 ${WIDTH} ${height}" role="img" xmlns="http://www.w3.org/2000/svg"><title>${escapeHtml(title)}</title>${body}</svg>`;

const asTable = (head: readonly string[], rows: readonly (readonly string[])[], className = ''): string => {
  const lines = rows.map((row) => row.map((cell, column) => (column === 1 ? `<code>${escapeHtml(cell)}</code>` : escapeHtml(cell))));
  return `<details class="ruler-table"><summary>The same as a table</summary>${table(head, lines, className)}</details>`;
};

interface Range {
  readonly name: string;
  readonly lo: number;
  readonly width: number;
  readonly meaning: string;
}

/** Turns masks into ranges. A mask inside a wider one of the same table (CR0.PE beside a "low byte") is left to the table below the ruler. */
function rangesOf(flags: Flags): Range[] {
  return Object.entries(flags).flatMap(([name, mask]): Range[] => {
    const word = mask < 0 ? mask >>> 0 : mask;
    if (word === 0) return [];
    const bits = word.toString(2);
    const lo = bits.length - 1 - bits.lastIndexOf('1');
    const width = bits.lastIndexOf('1') + 1;
    return /^1+0*$/.test(bits) ? [{ name, lo, width, meaning: '' }] : [];
  });
}

/** Keeps the ranges that do not overlap an earlier one. */
function disjoint(ranges: readonly Range[]): Range[] {
  const kept: Range[] = [];
  for (const range of ranges) if (kept.every((k) => range.lo + range.width <= k.lo || k.lo + k.width <= range.lo)) kept.push(range);
  return kept;
}

function drawBits(title: string, all: readonly Range[]): string {
  const shown = disjoint(all).sort((a, b) => a.lo - b.lo);
  const top = Math.max(...shown.map(({ lo, width }) => lo + width));
  const rowBits = top <= 8 ? 8 : top <= 16 ? 16 : 32;
  const rows = Math.ceil(top / rowBits);
  const bitWidth = WIDTH / rowBits;
  const tallest = Math.max(...shown.map(({ name, width }) => (name.length * 7.4 + 6 <= width * bitWidth ? 26 : name.length * 7.4 + 10)));
  const height = Math.round(Math.min(220, Math.max(30, tallest)));
  const parts: string[] = [];
  for (let row = 0; row < rows; row++) {
    const [low, high] = [(rows - 1 - row) * rowBits, (rows - row) * rowBits];
    const y = row * (height + 24) + 16;
    const xOf = (bit: number): number => (high - bit) * bitWidth; // left edge of what lies above `bit`
    const cells: Range[] = [];
    let at = low;
    for (const range of shown.filter(({ lo, width }) => lo < high && lo + width > low)) {
      const lo = Math.max(low, range.lo);
      if (lo > at) cells.push({ name: '', lo: at, width: lo - at, meaning: '' });
      at = Math.min(high, range.lo + range.width);
      cells.push({ ...range, lo, width: at - lo });
    }
    if (at < high) cells.push({ name: '', lo: at, width: high - at, meaning: '' });
    for (const { name, lo, width, meaning } of cells) {
      const bits = width === 1 ? `bit ${lo}` : `bits ${lo}..${lo + width - 1}`;
      const tip = name === '' ? `${bits}: not named` : `${name}: ${bits}${meaning ? `, ${meaning}` : ''}`;
      parts.push(box({ name, x: xOf(lo + width), width: width * bitWidth, reserved: name === '', tip }, y, height));
      const edge = (bit: number, x: number): string => `<text class="ruler-number" x="${round(x)}" y="${y - 6}">${bit}</text>`;
      if (width === 1) parts.push(edge(lo, xOf(lo + 0.5)));
      else parts.push(edge(lo + width - 1, xOf(lo + width - 0.5)), edge(lo, xOf(lo + 0.5)));
    }
  }
  const rows32 = all.map(({ name, lo, width, meaning }) => [width === 1 ? String(lo) : `${lo}–${lo + width - 1}`, name, meaning || '–']);
  return (
    svg(`${title}: bits of a word, highest on the left`, rows * (height + 24) + 2, parts.join('')) + asTable(['Bits', 'Name', 'Meaning'], rows32)
  );
}

// A long record would be a wall of boxes. A field over two rows is drawn as two, with the middle left out: the offsets at the left edge say how
// much.

const ROW_BYTES = 8;
const ROW_HEIGHT = 30;

interface Placed {
  readonly name: string;
  readonly offset: number;
  readonly bytes: number;
  readonly type: string;
  readonly reserved: boolean;
}

function placeFields({ fields, bytes }: RecordLike): { placed: Placed[]; overlaps: boolean } {
  const sorted = Object.entries(fields)
    .map(([name, field]): Placed => {
      const type = field.of
        ? `${field.of.name}${(field.count ?? 1) > 1 ? ` × ${field.count}` : ''}`
        : field.kind === 'bytes'
          ? `${field.bytes} bytes`
          : `u${field.bytes * 8}`;
      return { name, offset: field.offset, bytes: field.bytes, type, reserved: false };
    })
    .sort((a, b) => a.offset - b.offset);
  const placed: Placed[] = [];
  let overlaps = false;
  let at = 0;
  for (const field of sorted) {
    if (field.offset < at) overlaps = true;
    if (field.offset > at) placed.push({ name: '', offset: at, bytes: field.offset - at, type: 'padding', reserved: true });
    placed.push(field);
    at = Math.max(at, field.offset + field.bytes);
  }
  if (bytes > at) placed.push({ name: '', offset: at, bytes: bytes - at, type: 'padding', reserved: true });
  return { placed, overlaps };
}

function drawRecord(title: string, record: RecordLike): string {
  const { placed, overlaps } = placeFields(record);
  const rows = placed.map(({ name, offset, bytes, type }) => [`${offset} (0x${offset.toString(16)})`, name || '(padding)', `${type}, ${bytes} B`]);
  const facts = asTable(['Offset', 'Field', 'Type and size'], rows);
  // A union has fields on top of one another; a ruler cannot show that honestly.
  return overlaps ? instead(facts, `${title}: a union, so as a table`) : drawBytes(title, record.bytes, placed) + facts;
}

/** The table alone, open, where a ruler would not serve. */
const instead = (facts: string, title: string): string =>
  facts.replace('<details', '<details open').replace('The same as a table', escapeHtml(title));

// Registers lie where the chip's designer put them: two at one offset, told apart by a bit elsewhere, or a dozen in 128 KiB. Only a dense block makes a
// ruler; the table is what a data sheet prints anyway.

const RULER_LIMIT_BYTES = 64;

function drawRegisters({ device, source, rows }: RegistersLike): string {
  const hex = (value: number): string => `0x${value.toString(16)}`;
  const entries = Object.entries(rows);
  const end = (row: RegisterLike): number => row.offset + ((row.count ?? 1) - 1) * (row.stride ?? row.bytes) + row.bytes;
  const lines = entries.map(([name, row]) => [
    (row.count ?? 1) > 1 ? `${hex(row.offset)} + ${row.stride ?? row.bytes}·n` : hex(row.offset),
    (row.count ?? 1) > 1 ? `${name}[${row.count}]` : name,
    `${row.access}, ${8 * row.bytes} bits`,
    hex(row.reset ?? 0),
    row.text,
  ]);
  const facts = asTable(['Offset', 'Register', 'Access', 'Reset', 'What it is'], lines, 'registers stacks');
  const bytes = Math.max(...entries.map(([, row]) => end(row)));
  const fields = Object.fromEntries(entries.map(([name, row]) => [name, { offset: row.offset, bytes: end(row) - row.offset }]));
  const { placed, overlaps } = placeFields({ name: device, bytes, fields });
  const title = `${device}, registers (${source})`;
  return overlaps || bytes > RULER_LIMIT_BYTES ? instead(facts, title) : drawBytes(title, bytes, placed) + facts;
}

function drawBytes(title: string, bytes: number, placed: readonly Placed[]): string {
  const byteWidth = (WIDTH - GUTTER) / ROW_BYTES;
  const parts: string[] = [];
  for (let n = 0; n < ROW_BYTES; n++) parts.push(`<text class="ruler-number" x="${round(GUTTER + (n + 0.5) * byteWidth)}" y="10">${n}</text>`);
  let y = 16;
  let row = 0; // the record's row that `y` stands at
  const rowLabel = (n: number): void => {
    parts.push(`<text class="ruler-number ruler-offset" x="${GUTTER - 8}" y="${y + ROW_HEIGHT / 2}">0x${(n * ROW_BYTES).toString(16)}</text>`);
  };
  rowLabel(0);
  const advance = (to: number): void => {
    y += ROW_HEIGHT;
    row = to;
    if (to * ROW_BYTES < bytes) rowLabel(to);
  };
  for (const field of placed) {
    const tip = `${field.name || 'padding'}: ${field.type}, ${field.bytes} bytes at offset ${field.offset}`;
    const end = field.offset + field.bytes;
    const lastRow = Math.floor((end - 1) / ROW_BYTES);
    let named = false;
    for (let at = field.offset; at < end; ) {
      const atRow = Math.floor(at / ROW_BYTES);
      if (atRow > row) advance(atRow);
      const stop = Math.min(end, (atRow + 1) * ROW_BYTES);
      const x = GUTTER + (at % ROW_BYTES) * byteWidth;
      parts.push(box({ name: named ? '' : field.name, x, width: (stop - at) * byteWidth, reserved: field.reserved, tip }, y, ROW_HEIGHT));
      named = true;
      at = stop;
      if (lastRow - atRow > 2 && at % ROW_BYTES === 0) {
        const skipped = lastRow - atRow - 1;
        y += ROW_HEIGHT;
        parts.push(`<text class="ruler-number" x="${round(GUTTER + (WIDTH - GUTTER) / 2)}" y="${y + 9}">⋮ ${skipped * ROW_BYTES} bytes more</text>`);
        y += 18 - ROW_HEIGHT;
        at = lastRow * ROW_BYTES;
      }
    }
  }
  return svg(`${title}: ${bytes} bytes, lowest address first`, y + ROW_HEIGHT + 2, parts.join(''));
}

/** Draws a declared table as HTML: an SVG ruler and the same facts as a table. */
export function drawLayout(name: string, drawable: Drawable): string {
  if (isRecord(drawable)) return drawRecord(drawable.name, drawable);
  if (isRegisters(drawable)) return drawRegisters(drawable);
  if (isBits(drawable)) {
    const ranges = Object.entries(drawable.ranges).map(([key, { lo, width, meaning }]) => ({ name: key, lo, width, meaning: meaning ?? '' }));
    return drawBits(drawable.name, ranges);
  }
  return drawBits(name, rangesOf(drawable as Flags));
}
