// # Drawing
//
// The figures of this book are drawn from tables and recorded runs, never by hand, and there are only three kinds of them: boxes in rows, a table,
// and messages between actors. Colours are the page's own (`--ink`, `--guest`, …), so that a figure is right in light and dark.

const plain = (text: string): string => text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c] as string);
const round = (n: number): number => Math.round(n * 10) / 10;

/** A colour of the page, by its role. */
export type Ink = 'ink' | 'ink-2' | 'ink-3' | 'line' | 'accent' | 'guest' | 'kernel' | 'user' | 'pass' | 'fail' | 'known' | 'paper-2';
const colour = (ink: Ink): string => `var(--${ink})`;

/** A whole figure: `title` is what a screen reader says; `width` and `height` are in user units, about a pixel each. */
export const figure = (title: string, width: number, height: number, body: readonly string[]): string =>
  `<svg class="figure" viewBox="0 0 ${round(width)} ${round(height)}" role="img" style="max-width:${round(width)}px;width:100%;height:auto">` +
  `<title>${plain(title)}</title>${body.join('')}</svg>`;

export interface TextStyle {
  readonly ink?: Ink;
  readonly size?: number;
  readonly anchor?: 'start' | 'middle' | 'end';
  readonly mono?: boolean;
  readonly bold?: boolean;
}

/** One line of text with its baseline at `y`. */
export const text = (
  x: number,
  y: number,
  content: string,
  { ink = 'ink', size = 13, anchor = 'start', mono = false, bold = false }: TextStyle = {},
): string =>
  `<text x="${round(x)}" y="${round(y)}" font-size="${size}" text-anchor="${anchor}"${bold ? ' font-weight="600"' : ''}` +
  ` style="fill:${colour(ink)};font-family:var(--${mono ? 'mono' : 'sans'})">${plain(content)}</text>`;

export const rect = (x: number, y: number, width: number, height: number, { fill, stroke = 'line' }: { fill?: Ink; stroke?: Ink } = {}): string =>
  `<rect x="${round(x)}" y="${round(y)}" width="${round(width)}" height="${round(height)}" rx="2"` +
  ` style="fill:${fill ? colour(fill) : 'none'};stroke:${colour(stroke)}"/>`;

export const line = (
  x1: number,
  y1: number,
  x2: number,
  y2: number,
  { ink = 'line', dashed = false }: { ink?: Ink; dashed?: boolean } = {},
): string =>
  `<line x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}" style="stroke:${colour(ink)}"${dashed ? ' stroke-dasharray="3 3"' : ''}/>`;

/** A line with a head at its end. */
export function arrow(x1: number, y1: number, x2: number, y2: number, ink: Ink = 'ink-2'): string {
  const angle = Math.atan2(y2 - y1, x2 - x1);
  const corner = (turn: number): string => `${round(x2 - 7 * Math.cos(angle + turn))},${round(y2 - 7 * Math.sin(angle + turn))}`;
  return `${line(x1, y1, x2, y2, { ink })}<polygon points="${round(x2)},${round(y2)} ${corner(0.4)} ${corner(-0.4)}" style="fill:${colour(ink)}"/>`;
}

// Text in SVG has no width until a browser lays it out; a generous estimate per character keeps columns apart.
const NARROW = 7;
const WIDE = 9;
const TYPEWRITER = 8;
/** Small print against plain text. */
const SMALL = 0.85;
const widthOf = (content: string): number => [...content].reduce((sum, c) => sum + (/[A-Z#_]/.test(c) ? WIDE : NARROW), 0);

/** One cell of a table: text, and its colour when it matters. */
export type Cell = string | { readonly text: string; readonly ink: Ink };
const cellText = (cell: Cell): string => (typeof cell === 'string' ? cell : cell.text);

const ROW = 22;

/** A table as a figure: a header, then rows; columns as wide as their widest cell. The first column is set in the typewriter face. */
export function table(title: string, header: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const cellWidth = (content: string, column: number): number => (column === 0 ? content.length * TYPEWRITER : widthOf(content));
  const widths = header.map((head, column) => Math.max(widthOf(head), ...rows.map((row) => cellWidth(cellText(row[column] ?? ''), column))) + 18);
  const lefts = widths.map((_, column) => widths.slice(0, column).reduce((sum, width) => sum + width, 8));
  const width = widths.reduce((sum, w) => sum + w, 8);
  const body = header.map((head, column) => text(lefts[column] as number, 16, head, { ink: 'ink-2', size: 12, bold: true }));
  body.push(line(0, ROW, width, ROW));
  rows.forEach((row, index) => {
    const y = ROW * (index + 2) - 6;
    if (index % 2 === 1) body.unshift(rect(0, y - 16, width, ROW, { fill: 'paper-2', stroke: 'paper-2' }));
    row.forEach((cell, column) => {
      const ink = typeof cell === 'string' ? 'ink' : cell.ink;
      body.push(text(lefts[column] as number, y, cellText(cell), { ink, mono: column === 0 }));
    });
  });
  return figure(title, width, ROW * (rows.length + 1) + 6, body);
}

/** Who takes part in a {@link sequence}. */
export interface Actor {
  readonly name: string;
  readonly ink: Ink;
}

/** One step of a {@link sequence}: a message from one actor to another (indices), or a note at one actor (`from` = `to`). */
export interface Message {
  readonly from: number;
  readonly to: number;
  readonly text: string;
  /** Small print under the arrow. */
  readonly detail?: string;
}

/** Messages between actors, time downward. */
export function sequence(title: string, actors: readonly Actor[], messages: readonly Message[]): string {
  const lengthOf = ({ text: said, detail = '' }: Message): number => Math.max(widthOf(said), SMALL * widthOf(detail));
  const between = Math.max(150, ...messages.filter(({ from, to }) => Math.abs(from - to) === 1).map((m) => lengthOf(m) + 30));
  const x = (actor: number): number => 80 + actor * between;
  const width =
    x(actors.length - 1) +
    Math.max(80, ...messages.filter(({ from, to }) => from === to).map((m) => widthOf(m.text) - (actors.length - 1 - m.from) * between + 20));
  const body: string[] = [];
  let y = 46;
  for (const { from, to, text: said, detail } of messages) {
    y += detail ? 38 : 26;
    const base = detail ? y - 12 : y;
    if (from === to) {
      body.push(`<circle cx="${round(x(from))}" cy="${base - 4}" r="3.5" style="fill:${colour((actors[from] as Actor).ink)}"/>`);
      body.push(text(x(from) + 10, base, said, { ink: (actors[from] as Actor).ink }));
      if (detail) body.push(text(x(from) + 10, base + 14, detail, { ink: 'ink-3', size: 11 }));
    } else {
      const ink = (actors[from] as Actor).ink;
      body.push(arrow(x(from), base, x(to), base, ink));
      body.push(text((x(from) + x(to)) / 2, base - 5, said, { anchor: 'middle', ink }));
      if (detail) body.push(text((x(from) + x(to)) / 2, base + 12, detail, { anchor: 'middle', ink: 'ink-3', size: 11 }));
    }
  }
  const height = y + 18;
  const lanes = actors.flatMap(({ name, ink }, index) => [
    line(x(index), 30, x(index), height, { dashed: true }),
    text(x(index), 20, name, { anchor: 'middle', ink, bold: true }),
  ]);
  return figure(title, width, height, [...lanes, ...body]);
}
