// # A literate file as HTML
//
// The page is a sequence of rows. A row holds a section of prose and what belongs beside it: the code that follows, and figures. On a wide
// screen the two stand next to each other; on a narrow one, or where a file is mostly prose, the second follows the first.

import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { highlightLines, languageOf } from '../highlight.ts';
import { escapeHtml, relativeTo } from '../html.ts';
import { type Code, type Directive, type Expression, type Literate, type Prose, parseLiterate } from '../literate.ts';
import { type Heading, plainWords, renderInline, renderProse } from '../prose.ts';
import { clausePage, type Site } from '../site.ts';
import type { Module, Room } from '../tree.ts';

export interface RenderedFile {
  readonly html: string;
  readonly headings: readonly Heading[];
  /** Prose long against the code: set as one column. */
  readonly mostlyProse: boolean;
}

interface Row {
  readonly left: string[];
  readonly right: string[];
  /** Characters of prose, to know whether it may stay in view while the code scrolls. */
  proseLength: number;
  /** Prose and figure one under the other, over the whole width: the figure is too wide to stand beside. */
  full: boolean;
}

/** Pixels that the right-hand column has on the narrowest screen that shows two. */
const COLUMN = 480;

/** Code lines as HTML with line anchors. `from` is the number of the first line. */
export function codeBlock(lines: readonly string[], from: number, label: string): string {
  const body = lines
    .map((html, index) => {
      const n = from + index;
      return `<span class="l" id="L${n}"><a class="n" href="#L${n}" data-n="${n}" tabindex="-1" aria-hidden="true"></a>${html}</span>`;
    })
    .join('\n');
  return `<div class="code" tabindex="0" role="region" aria-label="${escapeHtml(label)}"><pre><code>${body}</code></pre></div>`;
}

/** Turns `@clause id` in coloured code into links. */
function linkClauses(site: Site, page: string, html: string): string {
  return html.replace(/@clause ([a-z0-9.-]+)/g, (whole, id: string) =>
    site.suite.clauses.has(id) ? `@clause <a href="${relativeTo(page, clausePage(id))}">${id}</a>` : whole,
  );
}

/** Prose in pieces that begin at headings, so that code can stand beside the last of them. */
function sections({ text, lines, expressions }: Prose): Prose[] {
  const starts = [0];
  let fenced = false;
  let offset = 0;
  for (const line of text.split('\n')) {
    if (/^```/.test(line)) fenced = !fenced;
    if (!fenced && /^#{1,3}\s/.test(line) && offset > 0) starts.push(offset);
    offset += line.length + 1;
  }
  return starts.map((start, index): Prose => {
    const end = starts[index + 1] ?? text.length;
    const first = text.slice(0, start).split('\n').length - 1;
    const piece = text.slice(start, end);
    const own = expressions
      .filter((e) => e.start >= start && e.start < end)
      .map((e): Expression => ({ ...e, start: e.start - start, end: e.end - start }));
    return { kind: 'prose', line: lines[first] as number, text: piece, lines: lines.slice(first), expressions: own };
  });
}

/** Renders one file for `page`. Files outside a room (payload sources) are given the room null: they have no expressions. */
export async function renderFile(site: Site, room: Room | null, file: Literate, text: string, page: string): Promise<RenderedFile> {
  const coloured = (await highlightLines(text, site.colour ? languageOf(file.file) : null)).map((line) => linkClauses(site, page, line));
  const links = site.linksOn(page);
  const headings: Heading[] = [];
  const used = new Set<string>();
  const rows: Row[] = [];
  let row: Row = { left: [], right: [], proseLength: 0, full: false };
  const fresh = (): void => {
    if (row.left.length + row.right.length > 0) rows.push(row);
    row = { left: [], right: [], proseLength: 0, full: false };
  };
  const module = room && 'page' in file ? (file as Module) : null;
  const valuesOf = (expressions: readonly Expression[]): Promise<(string | null)[]> =>
    Promise.all(expressions.map((expression) => (room && module ? site.evaluator.value(room, module, expression) : null)));

  const prose = async (block: Prose): Promise<void> => {
    for (const section of sections(block)) {
      if (row.right.length > 0 || /^#{1,3}\s/.test(section.text)) fresh();
      const lineAt = (offset: number): number => section.lines[section.text.slice(0, offset).split('\n').length - 1] ?? section.line;
      const rendered = renderProse(file.file, section.text, lineAt, section.expressions, await valuesOf(section.expressions), links, used);
      headings.push(...rendered.headings);
      site.problems.push(...rendered.problems);
      row.left.push(`<div class="prose" id="L${section.line}">${rendered.html}</div>`);
      row.proseLength += section.text.length;
    }
  };
  const code = ({ line, text: body, imports }: Code): void => {
    const count = body.split('\n').length;
    const lines = coloured.slice(line - 1, line - 1 + count);
    const html = codeBlock(lines, line, `${file.file}, lines ${line} to ${line + count - 1}`);
    row.right.push(imports ? `<details class="imports"><summary>imports</summary>${html}</details>` : html);
  };
  const caption = async ({ caption: words, expressions }: Directive): Promise<string> => {
    const values = await valuesOf(expressions);
    let source = words;
    for (const [index, { start, end }] of [...expressions.entries()].reverse())
      source = source.slice(0, start) + (values[index] ?? '') + source.slice(end);
    return source === '' ? '' : `<figcaption>${renderInline(source)}</figcaption>`;
  };
  const include = async (mark: Directive): Promise<string> => {
    if (!module) return '';
    const target = site.evaluator.included(module, mark);
    if (target === null) return '';
    const symbol = mark.name.split('#')[1];
    const other = site.module(target);
    if (other && symbol === undefined) {
      const words = mark.caption || other.opening;
      return card(page, other.page, renderInline(other.title), escapeHtml(firstSentence(plainWords(words))), mark.name);
    }
    if (target.endsWith('/')) {
      const inside = room?.modules.filter(({ file: path }) => path.startsWith(target)) ?? [];
      const first = inside[0];
      if (!first) {
        site.problems.push({ file: file.file, line: mark.line, message: `::include ${mark.name}: no module in that folder` });
        return '';
      }
      const titles = inside.map(({ title }) => escapeHtml(plainWords(title))).join(' · ');
      return card(page, first.page, mark.caption ? renderInline(mark.caption) : escapeHtml(plainWords(first.title)), titles, mark.name);
    }
    const excerpt = await excerptOf(site, target, symbol);
    if (typeof excerpt === 'string') {
      site.problems.push({ file: file.file, line: mark.line, message: excerpt });
      return '';
    }
    const home = site.pageOf(target);
    const name = home ? `<a href="${relativeTo(page, `${home}#L${excerpt.line}`)}">${escapeHtml(target)}</a>` : escapeHtml(target);
    const words = mark.caption ? ` – ${renderInline(mark.caption)}` : '';
    const code = `<div class="code" tabindex="0" role="region" aria-label="${escapeHtml(target)}"><pre><code>${excerpt.lines.join('\n')}</code></pre></div>`;
    return `<figure class="excerpt">${code}<figcaption>${name}${words}</figcaption></figure>`;
  };

  for (const block of file.blocks) {
    if (block.kind === 'prose') await prose(block);
    else if (block.kind === 'code') code(block);
    else if (block.kind === 'include') {
      const html = await include(block);
      if (html.startsWith('<a class="card"')) row.left.push(html);
      else row.right.push(html);
    } else if (room && module) {
      const drawn = await site.evaluator.draw(room, module, { kind: block.kind, name: block.name, line: block.line });
      if (!drawn) continue;
      const width = widthOf(drawn.html);
      const style = width > 0 ? ` style="--drawn:${width}px"` : '';
      row.right.push(
        `<figure class="drawn" id="figure-${escapeHtml(block.name)}"><div class="scroll"${style}>${drawn.html}</div>${await caption(block)}</figure>`,
      );
      if (width > COLUMN) {
        row.full = true;
        fresh();
      }
    }
  }
  fresh();

  const length = (kind: 'prose' | 'code'): number =>
    file.blocks.reduce((sum, block) => sum + (block.kind === kind && !(block.kind === 'code' && block.imports) ? block.text.length : 0), 0);
  const html = rows
    .map(({ left, right, proseLength, full }) => {
      const shape = full ? ' full' : left.length === 0 ? ' only-code' : right.length === 0 ? ' only-prose' : '';
      const stay = proseLength < 900 ? ' stays' : '';
      const beside = right.length > 0 ? `<div class="beside">${right.join('\n')}</div>` : '';
      return `<section class="row${shape}"><div class="words${stay}">${left.join('\n')}</div>${beside}</section>`;
    })
    .join('\n');
  return { html, headings, mostlyProse: length('prose') > 1.2 * length('code') };
}

/** A link to the next module, as large as its importance. Title and words are HTML. */
const card = (page: string, target: string, title: string, words: string, name: string): string =>
  `<a class="card" href="${relativeTo(page, target)}"><strong>${title}</strong><span>${words}</span><code>${escapeHtml(name)}</code></a>`;

/** A figure may shrink to fit a telephone, but not until its letters cannot be read. */
function widthOf(svg: string): number {
  return Math.ceil(Number(/<svg[^>]*viewBox="[\d.-]+ [\d.-]+ ([\d.]+)/.exec(svg)?.[1] ?? 0));
}

async function excerptOf(site: Site, file: string, symbol: string | undefined): Promise<{ lines: string[]; line: number } | string> {
  const path = join(site.root, file);
  if (!existsSync(path) || !statSync(path).isFile()) return `::include ${file}: not a file`;
  const text = readFileSync(path, 'utf8');
  const coloured = await highlightLines(text, site.colour ? languageOf(file) : null);
  if (symbol === undefined) return { lines: coloured, line: 1 };
  const named = parseLiterate(file, text).declared.find(({ name }) => name === symbol);
  return named
    ? { lines: coloured.slice(named.line - 1, named.endLine), line: named.line }
    : `::include ${file}#${symbol}: ${file} declares no '${symbol}'`;
}

/** Up to the first full stop that ends a sentence. */
export const firstSentence = (words: string): string => /^.*?[.:?!](?=\s|$)/.exec(words)?.[0].replace(/:$/, '.') ?? words;

/** Adds a file's sections and exported names to the search index. */
export function indexFile(site: Site, file: Literate, page: string, where: string, headings: readonly Heading[]): void {
  let title = file.title;
  let href = page;
  let text: string[] = [];
  const seen = [...headings];
  const flush = (): void => {
    if (text.length > 0) site.search.push({ title: plainWords(title), where, href, text: plainWords(text.join(' ')), kind: 'text' });
    text = [];
  };
  for (const block of file.blocks) {
    if (block.kind !== 'prose') continue;
    for (const paragraph of block.text.split('\n')) {
      if (/^#{1,3}\s/.test(paragraph)) {
        flush();
        const heading = seen.shift();
        title = heading?.text ?? file.title;
        href = heading && heading.level > 1 ? `${page}#${heading.id}` : page;
      } else text.push(paragraph);
    }
  }
  flush();
  for (const { name, exported, doc, line } of file.declared) {
    if (exported) site.search.push({ title: name, where: `${where} · ${file.file}`, href: `${page}#L${line}`, text: plainWords(doc), kind: 'name' });
  }
}
