// # Suite pages
//
// The catalogue of clauses, the cases by chapter, and the matrices of verdicts. What stands on them is written by the suite itself
// (`spec-tests/pages.ts`), which writes the same for people who have no site; here it gets the site's frame, and links into the rest of it.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Book, byChapter, caseBody, caseHeadings, clauseBody, clausesBody, matrixBody } from '../../spec-tests/pages.ts';
import { escapeHtml, relativeTo, table } from '../html.ts';
import type { SideEntry } from '../page.ts';
import { type Heading, plainWords } from '../prose.ts';
import { casePage, clausePage, type Site } from '../site.ts';

const HOME = 'suite/index.html';
const CASES = 'suite/cases.html';
const CLAUSES = 'suite/clauses.html';
const SIDE: readonly SideEntry[] = [
  { page: HOME, title: 'Results' },
  { page: CLAUSES, title: 'Clauses by implementation' },
  { page: CASES, title: 'Cases' },
  { page: 'spec-tests/all.html', title: 'How it works' },
];
const FRAME = { room: 'suite', side: SIDE, sideTitle: { page: HOME, title: 'The suite' }, set: 'full' } as const;

const chapterTitle = (site: Site, folder: string): string => {
  const room = site.rooms.find((one) => one.folder === `chapters/${folder}`);
  return room ? `${room.number}. ${room.title}` : folder;
};

/** The suite's data, with the places that the site has for everything. */
function bookOf(site: Site): Book {
  const { cases, clauses, columns, known } = site.suite;
  const listings = new Map<string, string>();
  const listing = (file: string): string => {
    const text = listings.get(file) ?? readFileSync(join(site.root, file), 'utf8');
    listings.set(file, text);
    return text;
  };
  return {
    cases,
    clauses,
    columns,
    known,
    matrixPage: HOME,
    clausesPage: CLAUSES,
    casePage,
    clausePage,
    chapterTitle: (folder) => chapterTitle(site, folder),
    sourcePage: (file) => site.pageOf(file),
    payload: (name) => {
      const payload = site.payloads.find((each) => each.name === name);
      if (!payload) return null;
      return { page: payload.page, ...(payload.imageBytes && { live: 'live/index.html' }), file: payload.source, listing: listing(payload.source) };
    },
  };
}

const headingsFor = (site: Site, chapters: Iterable<string>): Heading[] =>
  [...new Set(chapters)].sort().map((chapter) => ({ level: 2, text: chapterTitle(site, chapter), id: chapter }));

function addCases(site: Site, book: Book): void {
  const { cases } = book;
  const groups = byChapter(cases.values(), ({ chapter }) => chapter);
  const html = groups.map(([chapter, list]) => {
    const rows = list.map(({ id, title, surface, strictness, clauses }) => [
      `<a href="${relativeTo(CASES, casePage(id))}">${escapeHtml(title)}</a><br><code>${escapeHtml(id)}</code>`,
      surface,
      strictness,
      String(clauses.length),
    ]);
    const title = `<h2 id="${escapeHtml(chapter)}">${escapeHtml(chapterTitle(site, chapter))}</h2>`;
    return `${title}${table(['Case', 'Surface', 'Strictness', '#Clauses'], rows, 'short stacks')}`;
  });
  const words = `<p>${cases.size} cases. Each says what is done, and what the specification allows to be seen.</p>`;
  const headings = headingsFor(
    site,
    groups.map(([chapter]) => chapter),
  );
  site.add({ ...FRAME, page: CASES, title: 'Cases', headings, body: `<article><h1>Cases</h1>${words}${html.join('')}</article>` });
  for (const one of cases.values()) {
    const page = casePage(one.id);
    site.add({ ...FRAME, page, title: one.title, description: one.title, body: caseBody(book, one), headings: caseHeadings(one) });
    const text = `${one.id} ${one.note ?? ''} ${one.clauses.join(' ')}`;
    site.search.push({ title: one.title, where: `Case · ${one.id}`, href: page, text, kind: 'case' });
  }
}

function addClauses(site: Site, book: Book): void {
  const lists = [...book.clauses.values()].map(({ list }) => list);
  site.add({ ...FRAME, page: CLAUSES, title: 'Clauses by implementation', headings: headingsFor(site, lists), body: clausesBody(book) });
  for (const clause of book.clauses.values()) {
    const page = clausePage(clause.id);
    site.add({
      ...FRAME,
      page,
      title: clause.id,
      description: clause.summary,
      body: clauseBody(book, clause),
      headings: [
        { level: 2, text: 'In the code', id: 'code' },
        { level: 2, text: 'Cases that show it', id: 'cases' },
      ],
    });
    const text = plainWords(`${clause.summary} ${clause.source}`);
    site.search.push({ title: clause.id, where: `Clause · ${clause.strength}`, href: page, text, kind: 'clause' });
  }
}

/** Every page of the suite's data. */
export function addSuite(site: Site): void {
  const book = bookOf(site);
  const headings = headingsFor(
    site,
    [...book.cases.values()].map(({ chapter }) => chapter),
  );
  site.add({ ...FRAME, page: HOME, title: 'Results', headings, body: matrixBody(book) });
  addCases(site, book);
  addClauses(site, book);
}
