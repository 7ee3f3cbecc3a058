// # The literate form
//
// A file of this book is prose and code in one stream. The split is by shape alone, so that an author can see it without a tool: a comment
// of two slashes in the first column is prose, in Markdown; anything else is code. Four marks are not prose, though they have its shape:
//
// - `::figure name -- caption` places the figure that `figures/name.ts` of the same chapter draws;
// - `::layout Export -- caption` draws the record or word that the module declares under that name;
// - `::include path` names the next module in reading order; with `#name` after the path, or a path that is no module, it shows the text;
// - `@clause id` ties the code below to a clause of the catalogue. It may also stand indented, inside code.
//
// Expressions in double braces are evaluated elsewhere (`expressions.ts`). This module only finds them; it runs nothing.

import { type Declared, readSource, type Source } from './source.ts';

/** Something wrong with a file, in the form the checks print: `file:line: message`. */
export interface Problem {
  readonly file: string;
  readonly line: number;
  readonly message: string;
}

/** One expression in prose: `{{text}}`. `start` and `end` are offsets in its block's text, braces included. */
export interface Expression {
  readonly text: string;
  readonly line: number;
  readonly start: number;
  readonly end: number;
}

/** Prose in Markdown: consecutive comment paragraphs. */
export interface Prose {
  readonly kind: 'prose';
  readonly line: number;
  readonly text: string;
  readonly expressions: readonly Expression[];
  /** Line of the file that each line of `text` came from. */
  readonly lines: readonly number[];
}

/** A run of code lines, blank lines trimmed off both ends. */
export interface Code {
  readonly kind: 'code';
  readonly line: number;
  readonly text: string;
  /** The leading import statements, which a reader of prose wants out of the way. */
  readonly imports: boolean;
}

/** A mark that places something between prose and code. */
export interface Directive {
  readonly kind: 'figure' | 'layout' | 'include';
  readonly line: number;
  /** The figure's name, the export's name, or the included path. */
  readonly name: string;
  readonly caption: string;
  readonly expressions: readonly Expression[];
}

export type Block = Prose | Code | Directive;

/** A clause id and the line that claims to obey it. */
export interface ClauseMark {
  readonly id: string;
  readonly line: number;
}

/** One literate file, split. */
export interface Literate {
  readonly file: string;
  /** The first heading, or the file's name where there is none. */
  readonly title: string;
  /** The first paragraph after the title, as Markdown. */
  readonly opening: string;
  readonly blocks: readonly Block[];
  readonly clauses: readonly ClauseMark[];
  readonly declared: readonly Declared[];
  readonly imports: readonly string[];
  readonly problems: readonly Problem[];
}

// Some comments speak to a tool, not to a reader. They stay with the code.
const PRAGMA = /^\/\/\s*(?:biome-ignore|@ts-|tidy:|prettier-ignore|eslint-|v8 ignore|\/\s*<reference)/;
const CLAUSE = /@clause[ \t]+([^\s*`]+)/;
const DIRECTIVE = /^::(\w+)[ \t]*(.*)$/;
const EXPRESSION = /(\\?)\{\{([\s\S]*?)\}\}/g;

/** Finds `{{…}}` in a piece of text; `lineAt` maps an offset to a line of the file. A backslash in front makes it plain text. */
export function expressionsIn(text: string, lineAt: (offset: number) => number): Expression[] {
  return [...text.matchAll(EXPRESSION)]
    .filter((match) => match[1] === '')
    .map((match) => ({ text: (match[2] as string).trim(), line: lineAt(match.index), start: match.index, end: match.index + match[0].length }));
}

function parseDirective(body: string, line: number): Directive | string {
  const [, kind, rest] = DIRECTIVE.exec(body) as RegExpExecArray;
  if (kind !== 'figure' && kind !== 'layout' && kind !== 'include') return `no directive '::${kind}'; there are ::figure, ::layout and ::include`;
  const [name = '', ...caption] = (rest as string).split(/\s+--\s+/);
  if (name.trim() === '' || /\s/.test(name.trim())) return `::${kind} takes one name, then ' -- ' and a caption`;
  const text = caption.join(' -- ').trim();
  return { kind, line, name: name.trim(), caption: text, expressions: expressionsIn(text, () => line) };
}

/** What kind of line this is. Prose lines carry their Markdown. */
type Line = { kind: 'code' } | { kind: 'prose'; text: string } | { kind: 'directive'; body: string };

function classify(lines: readonly string[], proseLines: ReadonlySet<number>): Line[] {
  return lines.map((text, index) => {
    if (!proseLines.has(index + 1) || PRAGMA.test(text) || /^\/\/\s*@clause\b/.test(text)) return { kind: 'code' };
    const body = text.slice(2).replace(/^ /, '').trimEnd();
    return DIRECTIVE.test(body) ? { kind: 'directive', body } : { kind: 'prose', text: body };
  });
}

// A C or assembler file has the same form; its comments are found line by line, because no syntax tree is at hand and template strings do
// not exist there.

function commentLines(text: string): Set<number> {
  const found = new Set<number>();
  let inBlock = false;
  text.split('\n').forEach((line, index) => {
    if (!inBlock && line.startsWith('//')) found.add(index + 1);
    else for (const [mark] of line.matchAll(/\/\*|\*\//g)) inBlock = mark === '/*';
  });
  return found;
}

/** Splits one file. Nothing is evaluated and no other file is read. */
export function parseLiterate(file: string, text: string): Literate {
  const typescript = /\.(ts|mjs|js)$/.test(file);
  const source: Source = typescript ? readSource(file, text) : { comments: [], declared: [], imports: [], importsStart: 0, importsEnd: 0 };
  const proseLines = typescript
    ? new Set(source.comments.filter(({ kind, column }) => kind === 'line' && column === 0).map(({ line }) => line))
    : commentLines(text);
  const lines = text.split('\n');
  const kinds = classify(lines, proseLines);

  const blocks: Block[] = [];
  const problems: Problem[] = [];
  const takeProse = (from: number, to: number): void => {
    const taken = kinds.slice(from, to).map((kind) => (kind.kind === 'prose' ? kind.text : ''));
    const first = taken.findIndex((line) => line !== '');
    if (first < 0) return;
    const body = taken.slice(first).join('\n').trimEnd();
    const numbers = taken.slice(first).map((_, index) => from + first + index + 1);
    const lineAt = (offset: number): number => numbers[body.slice(0, offset).split('\n').length - 1] as number;
    const expressions = expressionsIn(body, lineAt);
    for (const { text: expression, line } of expressions) if (expression === '') problems.push({ file, line, message: 'an empty expression' });
    blocks.push({ kind: 'prose', line: from + first + 1, text: body, lines: numbers, expressions });
  };
  const takeCode = (from: number, to: number, imports: boolean): void => {
    let [start, end] = [from, to];
    while (start < end && lines[start]?.trim() === '') start++;
    while (end > start && lines[end - 1]?.trim() === '') end--;
    if (start < end) blocks.push({ kind: 'code', line: start + 1, text: lines.slice(start, end).join('\n'), imports });
  };

  // A blank line between two comment paragraphs does not end the prose: only code or a directive does.
  const blank = (index: number): boolean => kinds[index]?.kind === 'code' && lines[index]?.trim() === '';
  for (let at = 0; at < lines.length; ) {
    const kind = kinds[at] as Line;
    if (kind.kind === 'directive') {
      const directive = parseDirective(kind.body, at + 1);
      if (typeof directive === 'string') problems.push({ file, line: at + 1, message: directive });
      else blocks.push(directive);
      at++;
      continue;
    }
    let end = at;
    if (kind.kind === 'prose') {
      while (end < lines.length && (kinds[end]?.kind === 'prose' || (blank(end) && kinds[end + 1]?.kind === 'prose'))) end++;
      takeProse(at, end);
    } else {
      while (end < lines.length && kinds[end]?.kind === 'code') end++;
      const split = source.importsEnd > at && source.importsEnd <= end ? source.importsEnd : at;
      takeCode(at, split, true);
      takeCode(split, end, false);
    }
    at = end;
  }

  const clauses = lines.flatMap((line, index): ClauseMark[] => {
    const match = /^\s*(?:\/\/|\/\*|\*|#)/.test(line) ? CLAUSE.exec(line) : null;
    return match ? [{ id: match[1] as string, line: index + 1 }] : [];
  });
  const prose = blocks.filter((block) => block.kind === 'prose');
  const [, heading] = /^#\s+(.+)$/m.exec(prose[0]?.text ?? '') ?? [];
  const opening = (prose[0]?.text ?? '').split(/\n\s*\n/).find((paragraph) => !paragraph.startsWith('#'));
  return {
    file,
    title: heading ?? (file.split('/').at(-1) as string),
    opening: opening ?? '',
    blocks,
    clauses,
    declared: source.declared,
    imports: source.imports,
    problems,
  };
}
