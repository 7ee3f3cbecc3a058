// # A report to hand on
//
// `--report` writes what a run of several targets found, for people and for programs, without the site: the matrix, the clauses by implementation,
// and a page for every case and every clause of the run. A folder gets everything; a name that ends in `.html`, `.md` or `.json` gets the one file.

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findPayload } from '../guest-payloads/index.ts';
import { escapeHtml, relativeTo } from './html.ts';
import { casesOfClauses, columnOf, matrixOf, STANDING_WORDS, standingOf, verdictWord } from './matrix.ts';
import { type Book, caseBody, clauseBody, clausesBody, type ListedClause, matrixBody } from './pages.ts';
import type { Suite } from './suite.ts';
import type { Clause, KnownFailures, Results } from './types.ts';
import { readJson } from './validate.ts';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const PAYLOADS = fileURLToPath(new URL('../guest-payloads/', import.meta.url));

const jsonNames = (folder: string): string[] => (existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.json')) : []);

/** The catalogue with the list that each clause is in. */
function listedClauses(suite: Suite): Map<string, ListedClause> {
  const lists = new Map<string, string>();
  for (const name of jsonNames(join(HERE, 'clauses')))
    for (const { id } of readJson<Clause[]>('clauses', join(HERE, 'clauses', name))) lists.set(id, name.replace(/\.json$/, ''));
  return new Map([...suite.clauses].map(([id, clause]) => [id, { ...clause, list: lists.get(id) ?? '', code: [] }]));
}

const chapterWords = (folder: string): string => {
  const [, number, words = folder] = /^(\d\d)-(.*)$/.exec(folder) ?? [];
  return number === undefined ? folder : `${Number(number)}. ${words.replaceAll('-', ' ')}`;
};

function bookOf(suite: Suite, all: readonly Results[], known: readonly KnownFailures[]): Book {
  const ran = new Set(all.flatMap(({ cases }) => cases.map(({ id }) => id)));
  const cases = new Map(suite.cases.filter(({ id }) => ran.has(id)).map((one) => [one.id, one]));
  const clauses = listedClauses(suite);
  const showing = casesOfClauses(cases.values());
  return {
    cases,
    clauses: new Map([...clauses].filter(([id]) => showing.has(id))),
    columns: all.map(columnOf),
    known,
    matrixPage: 'index.html',
    clausesPage: 'clauses.html',
    casePage: (id) => `cases/${id}.html`,
    clausePage: (id) => `clauses/${id}.html`,
    chapterTitle: chapterWords,
    sourcePage: () => undefined,
    payload: (name) => {
      const source = findPayload(name)?.source;
      const path = source === undefined ? '' : join(PAYLOADS, source);
      return source !== undefined && existsSync(path) ? { file: `guest-payloads/${source}`, listing: readFileSync(path, 'utf8') } : null;
    },
  };
}

// ## The frame

const STYLE = `:root{color-scheme:light dark;--ink:#1c1b19;--soft:#66625b;--paper:#fdfcfa;--line:#dedad2;--tint:#f3f0ea;--pass:#1d6b3a;--fail:#b3261e;
--known:#8a5a00;--link:#1f4e8c}
@media(prefers-color-scheme:dark){:root{--ink:#e6e2da;--soft:#a09a8f;--paper:#171614;--line:#37342f;--tint:#22201d;--pass:#7cc796;--fail:#f28b82;
--known:#e0b25c;--link:#8db8ee}}*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
nav{display:flex;gap:1.2rem;padding:.7rem 1.2rem;border-bottom:1px solid var(--line);font-size:.9rem}
main{max-width:84rem;margin:0 auto;padding:1rem 1.2rem 4rem}a{color:var(--link)}h1{font-size:1.6rem;line-height:1.25}
h2{font-size:1.2rem;margin-top:2.2rem}h1.id{font-family:ui-monospace,monospace;font-size:1.2rem;overflow-wrap:anywhere}
p,ul,ol,dl,blockquote{max-width:46rem}small,.file{color:var(--soft);font-size:.85rem}code,pre{font-family:ui-monospace,monospace;font-size:.82rem}
code{overflow-wrap:anywhere}pre{overflow:auto;max-height:36rem;padding:.8rem;background:var(--tint);border:1px solid var(--line)}
blockquote{margin:.8rem 0;padding:.1rem 1rem;border-left:3px solid var(--known)}.scroll{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;font-size:.9rem}th,td{padding:.3rem .7rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
thead th{white-space:nowrap}.matrix tbody th{font-weight:400;min-width:18rem}.matrix tbody th code{color:var(--soft)}
.matrix tr.group td{vertical-align:bottom}.matrix tr.group th{font-weight:600;padding-top:1.5rem}.matrix th small{display:block;font-weight:400}
.number{text-align:right}.verdict{white-space:nowrap;font-size:.85rem}.verdict a{color:inherit;text-decoration:none}
.verdict a:hover{text-decoration:underline}.verdict.pass{color:var(--pass)}.verdict.fail{color:var(--fail);font-weight:600}
.verdict.known{color:var(--known)}.verdict.none{color:var(--soft)}dt{color:var(--soft);font-size:.85rem}dd{margin:0 0 .5rem}summary{cursor:pointer}`;

const frame = (page: string, title: string, body: string): string => `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>${escapeHtml(title)}</title>
<style>${STYLE}</style></head>
<body><nav><a href="${relativeTo(page, 'index.html')}">Results</a><a href="${relativeTo(page, 'clauses.html')}">Clauses</a></nav><main>${body}</main></body></html>
`;

// ## The same in Markdown

const cellText = (text: string): string => text.replaceAll('|', '\\|').replaceAll(/\s+/g, ' ');

function markdownOf({ cases, clauses, columns, known }: Book): string {
  const row = (cells: readonly string[]): string => `| ${cells.map(cellText).join(' | ')} |`;
  const rule = (count: number): string => `|${' --- |'.repeat(count)}`;
  const names = columns.map(({ name, version }) => `${name} ${version}`);
  const counts = columns.map(({ unavailable, results }) => {
    if (unavailable !== null || results === null) return `not run: ${unavailable ?? ''}`;
    const { pass, known: explained, unsupported, 'not-observable': hidden } = results.summary;
    const rest = results.cases.length - pass - explained - unsupported - hidden;
    return `${pass} pass, ${explained} known, ${unsupported} unsupported, ${hidden} not observable, ${rest} other`;
  });
  const showing = casesOfClauses(cases.values());
  const out = ['# Results', '', row(['Implementation', 'Verdicts']), rule(2), ...names.map((name, i) => row([name, counts[i] as string])), ''];
  out.push('## Clauses by implementation', '', row(['Clause', ...names]), rule(names.length + 1));
  for (const { id } of clauses.values()) {
    const standing = columns.map((column) => STANDING_WORDS[standingOf(id, showing.get(id) ?? [], column).standing]);
    out.push(row([`\`${id}\``, ...standing]));
  }
  out.push('', '## Cases by implementation', '', row(['Case', ...names]), rule(names.length + 1));
  for (const { id } of cases.values()) {
    const verdicts = columns.map(({ byCase }) => {
      const result = byCase.get(id);
      return result ? verdictWord(result) : 'not run';
    });
    out.push(row([`\`${id}\``, ...verdicts]));
  }
  const rows = known
    .flatMap(({ implementation, rows: list }) => list.map((one) => ({ implementation, ...one })))
    .filter((one) => cases.has(one.case));
  if (rows.length > 0) {
    out.push('', '## Deviations that are known, and how the specification was read', '');
    for (const { implementation, version, case: id, source, reason } of rows)
      out.push(`- **${implementation} ${version}**, \`${id}\`: ${reason} (${source})`);
  }
  return `${out.join('\n')}\n`;
}

/** What known-failure files there are for these results. */
function knownOf(all: readonly Results[]): KnownFailures[] {
  const folder = join(HERE, 'known-failures');
  const names = new Set(all.map(({ implementation }) => `${implementation.name}.json`));
  return jsonNames(folder)
    .filter((name) => names.has(name))
    .map((name) => readJson<KnownFailures>('known-failures', join(folder, name)));
}

/** Writes the report. Gives the files that a reader would begin with. */
export function writeReport(where: string, suite: Suite, all: readonly Results[]): string[] {
  const book = bookOf(suite, all, knownOf(all));
  const put = (path: string, text: string): string => {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
    return path;
  };
  const json = (): string => `${JSON.stringify(matrixOf(suite.revision, book.cases, book.clauses.values(), book.columns), null, 1)}\n`;
  const kind = extname(where);
  if (kind === '.json') return [put(where, json())];
  if (kind === '.md') return [put(where, markdownOf(book))];
  if (kind === '.html') {
    // One file: every link leads to a place in it.
    const anchor = (text: string): string => text.replaceAll(/[^\w.-]/g, '-');
    const page = basename(where);
    const single: Book = {
      ...book,
      matrixPage: page,
      clausesPage: `${page}#clauses`,
      casePage: (id) => `${page}#${anchor(id)}`,
      clausePage: (id) => `${page}#${anchor(id)}`,
    };
    const section = (id: string, html: string): string => `<section id="${escapeHtml(anchor(id))}">${html}</section>`;
    const parts = [
      section('matrix', matrixBody(single)),
      section('clauses', clausesBody(single)),
      ...[...book.cases.values()].map((one) => section(one.id, caseBody(single, one))),
      ...[...book.clauses.values()].map((one) => section(one.id, clauseBody(single, one))),
    ];
    return [put(where, frame(page, 'Results', parts.join('\n')))];
  }
  const write = (page: string, title: string, body: string): string => put(join(where, page), frame(page, title, body));
  for (const one of book.cases.values()) write(book.casePage(one.id), one.title, caseBody(book, one));
  for (const clause of book.clauses.values()) write(book.clausePage(clause.id), clause.id, clauseBody(book, clause));
  write(book.clausesPage, 'Clauses by implementation', clausesBody(book));
  return [
    write(book.matrixPage, 'Results', matrixBody(book)),
    put(join(where, 'matrix.md'), markdownOf(book)),
    put(join(where, 'matrix.json'), json()),
  ];
}
