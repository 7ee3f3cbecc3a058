// # The frame of a page
//
// Every page has the same frame: a bar with the rooms and the search field, a list of pages at the left with the current page's own
// headings in it, the text, and links to the page before and the page after. Every link is relative, so the site works under any path.

import { escapeHtml, relativeTo } from './html.ts';
import type { Heading } from './prose.ts';

export interface LinkTo {
  readonly page: string;
  readonly title: string;
}

/** An entry of the list at the left. `group` starts a new group with that title. */
export interface SideEntry extends LinkTo {
  readonly group?: string;
  readonly depth?: number;
}

export interface Page {
  /** Where the page goes, relative to the site's root. */
  readonly page: string;
  readonly title: string;
  readonly description?: string;
  /** Which room of the bar is lit. */
  readonly room: 'home' | 'chapters' | 'live' | 'payloads' | 'suite' | 'none';
  readonly body: string;
  readonly sideTitle?: LinkTo;
  readonly side?: readonly SideEntry[];
  readonly headings?: readonly Heading[];
  readonly previous?: LinkTo;
  readonly next?: LinkTo;
  /** How the text is set: prose beside code, prose above code, or the full width. */
  readonly set: 'beside' | 'below' | 'full';
  /** Scripts and styles beyond the common ones, relative to the root. */
  readonly scripts?: readonly string[];
  /** Scripts that are no modules, and so also run in a page that was opened from disk. */
  readonly classicScripts?: readonly string[];
  readonly styles?: readonly string[];
}

const BAR: readonly (LinkTo & { room: Page['room'] })[] = [
  { room: 'chapters', page: 'chapters/index.html', title: 'Chapters' },
  { room: 'live', page: 'live/index.html', title: 'Live' },
  { room: 'payloads', page: 'payloads/index.html', title: 'Payloads' },
  { room: 'suite', page: 'suite/index.html', title: 'Suite' },
];

const tocOf = (headings: readonly Heading[]): string => {
  const shown = headings.filter(({ level }) => level === 2 || level === 3);
  if (shown.length === 0) return '';
  const items = shown.map(({ level, text, id }) => `<li class="toc-${level}"><a href="#${id}">${escapeHtml(text)}</a></li>`);
  return `<ol class="toc" aria-label="On this page">${items.join('')}</ol>`;
};

function sideOf({ page, side, sideTitle, headings = [] }: Page): string {
  if (!side) return '';
  const entry = ({ page: target, title, group, depth }: SideEntry): string => {
    const current = target === page;
    const link = `<a href="${relativeTo(page, target)}"${current ? ' aria-current="page"' : ''}>${escapeHtml(title)}</a>`;
    const indent = depth ? ` style="--depth:${depth}"` : '';
    return `${group ? `<li class="group">${escapeHtml(group)}</li>` : ''}<li${indent}>${link}${current ? tocOf(headings) : ''}</li>`;
  };
  const title = sideTitle ? `<p class="side-title"><a href="${relativeTo(page, sideTitle.page)}">${escapeHtml(sideTitle.title)}</a></p>` : '';
  return `<details class="side" open><summary>Contents</summary><nav aria-label="Contents">${title}<ol>${side.map(entry).join('')}</ol></nav></details>`;
}

/** The whole HTML document. `apiPages`: whether this build has API pages to link to. */
export function renderPage(page: Page, { apiPages }: { readonly apiPages: boolean }): string {
  const to = (target: string): string => relativeTo(page.page, target);
  const bar = [...BAR, ...(apiPages ? [{ room: 'none' as const, page: 'api/index.html', title: 'API' }] : [])]
    .map(({ room, page: target, title }) => `<a href="${to(target)}"${room === page.room && room !== 'none' ? ' class="here"' : ''}>${title}</a>`)
    .join('');
  const step = (link: LinkTo | undefined, rel: string, word: string): string =>
    link ? `<a class="${rel}" rel="${rel}" href="${to(link.page)}"><span>${word}</span>${escapeHtml(link.title)}</a>` : '<span></span>';
  const steps =
    page.previous || page.next
      ? `<nav class="steps" aria-label="Reading order">${step(page.previous, 'prev', 'Before')}${step(page.next, 'next', 'Next')}</nav>`
      : '';
  const classic = (page.classicScripts ?? []).map((script) => `<script defer src="${to(script)}"></script>\n`);
  const modules = (page.scripts ?? []).map((script) => `<script type="module" src="${to(script)}"></script>\n`);
  const scripts = [...classic, ...modules].join('');
  const title = page.page === 'index.html' ? 'Ringbook' : `${page.title} – Ringbook`;
  return `<!doctype html>
<html lang="en" data-root="${to('index.html').replace(/index\.html$/, '')}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title>
${page.description ? `<meta name="description" content="${escapeHtml(page.description.slice(0, 200))}">\n` : ''}<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<script src="${to('assets/theme.js')}"></script>
<link rel="stylesheet" href="${to('assets/book.css')}">
${(page.styles ?? []).map((style) => `<link rel="stylesheet" href="${to(style)}">\n`).join('')}<script defer src="${to('assets/book.js')}"></script>
${scripts}</head>
<body class="set-${page.set}${page.side ? ' has-side' : ''}">
<a class="skip" href="#text">To the text</a>
<header class="bar">
<a class="name" href="${to('index.html')}">Ringbook</a>
<nav aria-label="Rooms">${bar}</nav>
<form class="search" role="search" action="${to('search.html')}" method="get">
<input type="search" name="q" placeholder="Search" aria-label="Search the book" autocomplete="off" spellcheck="false"><kbd>/</kbd></form>
<button type="button" class="theme" aria-label="Light or dark" title="Light or dark">◐</button>
</header>
<div class="shell">
${sideOf(page)}
<main id="text">
${page.body}
${steps}
</main>
</div>
</body>
</html>
`;
}
