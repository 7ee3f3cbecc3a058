// # Prose
//
// Markdown becomes HTML here. Three things happen to it that markdown-it does not do by itself: values of expressions are put in, marked so
// that a reader can see which words were computed; links to source files become links to their pages; and inline code that is the id of a
// clause becomes a link to the clause.

import MarkdownIt from 'markdown-it';
import { escapeHtml, slug } from './html.ts';
import type { Expression, Problem } from './literate.ts';

/** How a file's prose finds the pages it links to. */
export interface Links {
  /** The site's link for a path written in a file (`mmu/walk.ts`, `../README.md#x`), or null when there is no such page. */
  page(from: string, href: string): string | null;
  /** The link of a clause's page, or null for an unknown id. */
  clause(from: string, id: string): string | null;
}

export interface Heading {
  readonly level: number;
  readonly text: string;
  readonly id: string;
}

/** One piece of prose as HTML, with its headings and its plain text for the search index. */
export interface RenderedProse {
  readonly html: string;
  readonly headings: readonly Heading[];
  readonly problems: readonly Problem[];
}

// An expression's value must not be read as Markdown (an underscore in a field name would start emphasis). So a private-use character stands
// for it while Markdown is parsed.
const mark = (index: number): string => `\ue000${index}\ue001`;
const MARKS = /\ue000(\d+)\ue001/g;

const markdown = new MarkdownIt({ html: false, linkify: false, typographer: true, quotes: '“”‘’' });

/** Renders Markdown that stands in `file`. `values[i]` is the printed value of `expressions[i]`. */
export function renderProse(
  file: string,
  text: string,
  lineAt: (offset: number) => number,
  expressions: readonly Expression[],
  values: readonly (string | null)[],
  links: Links,
  used: Set<string>,
): RenderedProse {
  let source = '';
  let from = 0;
  expressions.forEach(({ start, end }, index) => {
    source += text.slice(from, start) + mark(index);
    from = end;
  });
  source = (source + text.slice(from)).replace(/\\\{\{/g, '{{');
  const problems: Problem[] = [];
  const headings: Heading[] = [];
  const plain = (html: string): string => html.replace(MARKS, (_, index: string) => values[Number(index)] ?? '');

  const tokens = markdown.parse(source, {});
  tokens.forEach((token, index) => {
    const line = lineAt(0) + (token.map?.[0] ?? 0);
    if (token.type === 'heading_open') {
      const words = plainWords(plain(tokens[index + 1]?.content ?? ''));
      let id = slug(words) || 'section';
      for (let n = 2; used.has(id); n++) id = `${slug(words)}-${n}`;
      used.add(id);
      token.attrSet('id', id);
      headings.push({ level: Number(token.tag.slice(1)), text: words.replace(/ -- /g, ' – '), id });
    }
    for (const child of token.children ?? []) {
      if (child.type === 'link_open') {
        const href = String(child.attrGet('href') ?? '');
        const target = /^(https?:|#)/.test(href) ? href : links.page(file, href);
        if (target === null) problems.push({ file, line, message: `a link to '${href}', which has no page` });
        else child.attrSet('href', target);
      }
    }
  });
  let html = markdown.renderer.render(tokens, markdown.options, {});
  html = html.replace(/<code>([a-z0-9]+(?:\.[a-z0-9-]+){2,})<\/code>/g, (whole, id: string) => {
    const link = links.clause(file, id);
    return link === null ? whole : `<a class="clause-link" href="${escapeHtml(link)}">${whole}</a>`;
  });
  html = html.replace(/<table>[\s\S]*?<\/table>/g, (table) => `<div class="scroll">${table}</div>`);
  html = html.replace(/<(h[1-6]) id="([^"]+)">([\s\S]*?)<\/\1>/g, (_, tag: string, id: string, inner: string) => {
    return `<${tag} id="${id}">${inner} <a class="anchor" href="#${id}" aria-label="Link to this section">#</a></${tag}>`;
  });
  html = html.replace(MARKS, (_, index: string) => {
    const value = values[Number(index)] ?? null;
    const expression = escapeHtml(expressions[Number(index)]?.text ?? '');
    return value === null ? `<mark class="failed">{{${expression}}}</mark>` : `<span class="value" title="${expression}">${escapeHtml(value)}</span>`;
  });
  return { html, headings, problems };
}

/** A sentence of Markdown without block structure: a caption, a summary. */
export const renderInline = (text: string): string => markdown.renderInline(text);
/** Markdown of our own (the suite's protocol page): no expressions, links as they are. */
export const renderMarkdown = (text: string): string => markdown.render(text);

/** Markdown as plain words, for the search index and page descriptions. */
export const plainWords = (text: string): string =>
  text
    .replace(/```[\s\S]*?```/g, ' ')
    .replace(/\{\{[\s\S]*?\}\}/g, '…')
    .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
    .replace(/(^|[^\w])_([^_]+)_(?!\w)/g, '$1$2')
    .replace(/[`*#|>]/g, '')
    .replace(/\s+/g, ' ')
    .trim();
