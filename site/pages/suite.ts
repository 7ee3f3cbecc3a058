// # Suite pages
//
// The catalogue of clauses, the cases by chapter, and the matrix of verdicts. A verdict is always a link: to the case, and from there to what
// was observed and to the link that replays it.

import type { Case, CaseResult } from '../../spec-tests/types.ts';
import { escapeHtml, relativeTo, table } from '../html.ts';
import type { SideEntry } from '../page.ts';
import { type Heading, plainWords } from '../prose.ts';
import { casePage, clausePage, type Site } from '../site.ts';
import type { ClauseSeen, Column } from '../suite.ts';

const HOME = 'suite/index.html';
const SIDE: readonly SideEntry[] = [
  { page: HOME, title: 'Results' },
  { page: 'suite/cases.html', title: 'Cases' },
  { page: 'suite/clauses.html', title: 'Clauses' },
  { page: 'spec-tests/all.html', title: 'How it works' },
];
const FRAME = { room: 'suite', side: SIDE, sideTitle: { page: HOME, title: 'The suite' }, set: 'full' } as const;

const chapterTitle = (site: Site, folder: string): string => {
  const room = site.rooms.find((one) => one.folder === `chapters/${folder}`);
  return room ? `${room.number}. ${room.title}` : folder;
};
const link = (page: string, target: string, text: string): string => `<a href="${relativeTo(page, target)}">${text}</a>`;
const code = (text: string): string => `<code>${escapeHtml(text)}</code>`;

/** The word and the class of a verdict, with the known-failure list taken into account. */
function verdictOf(result: CaseResult): { word: string; className: string } {
  if (result.expectation === 'known') return { word: 'known', className: 'known' };
  if (result.expectation === 'unexpected-pass') return { word: 'unexpected pass', className: 'fail' };
  const className = result.verdict === 'pass' ? 'pass' : result.verdict === 'unsupported' || result.verdict === 'not-observable' ? 'none' : 'fail';
  return { word: result.verdict.replace('-', ' '), className };
}

function cell(column: Column, id: string, page: string): string {
  const result = column.byCase.get(id);
  if (!result) return `<td class="verdict none">${column.results === null ? 'not run' : '–'}</td>`;
  const { word, className } = verdictOf(result);
  const why = result.reason ?? result.failures[0]?.text ?? '';
  return `<td class="verdict ${className}"${why ? ` title="${escapeHtml(why)}"` : ''}>${link(page, `${casePage(id)}#${column.target}`, word)}</td>`;
}

const byChapter = <T>(items: Iterable<T>, key: (item: T) => string): [string, T[]][] =>
  [...Map.groupBy(items, key)].sort(([a], [b]) => (a < b ? -1 : 1));

function addMatrix(site: Site): void {
  const { cases, columns } = site.suite;
  const head = columns
    .map(({ name, version, results, unavailable }) => {
      const state = results === null ? 'not run' : unavailable !== null ? 'not available' : `${results.summary.pass} of ${results.cases.length} pass`;
      return `<th class="target">${escapeHtml(name)}<small>${escapeHtml(version)}</small><small>${state}</small></th>`;
    })
    .join('');
  const rows = byChapter(cases.values(), ({ chapter }) => chapter).map(([chapter, list]) => {
    const title = `<tr class="group"><th colspan="${columns.length + 1}" id="${escapeHtml(chapter)}">${escapeHtml(chapterTitle(site, chapter))}</th></tr>`;
    const verdicts = list.map(({ id, title: words }) => {
      const name = `<th>${link(HOME, casePage(id), escapeHtml(words))}<br>${code(id)}</th>`;
      return `<tr>${name}${columns.map((column) => cell(column, id, HOME)).join('')}</tr>`;
    });
    return `<tbody>${title}${verdicts.join('')}</tbody>`;
  });
  const matrix = `<div class="scroll"><table class="matrix"><thead><tr><th>Case</th>${head}</tr></thead>${rows.join('')}</table></div>`;
  const notes = columns
    .filter(({ unavailable }) => unavailable !== null)
    .map(({ name, unavailable }) => `<p class="note">${escapeHtml(name)} could not run here: ${escapeHtml(unavailable as string)}</p>`)
    .join('');
  const ran = columns
    .filter(({ results }) => results !== null)
    .map(({ name, results }) => `${escapeHtml(name)}: ${escapeHtml(results?.host ?? '')}`)
    .join('; ');
  site.add({
    ...FRAME,
    page: HOME,
    title: 'Results',
    body: `<article><h1>Results</h1>
<p>Every case against every implementation. A blank verdict is never a pass: a case that an implementation cannot be asked is <em>unsupported</em>
or <em>not observable</em>, and an implementation nobody ran is <em>not run</em>. To add a column, run
<code>npm run conform -- --target …</code> and build the site again.</p>
${notes}${ran ? `<p class="file">Run on ${ran}.</p>` : ''}${cases.size > 0 ? matrix : '<p>There are no cases yet.</p>'}</article>`,
  });
}

/** A heading for each chapter, with a table below it; and the headings for the list at the left. */
function chapterTables<T>(
  site: Site,
  items: readonly (readonly [string, readonly T[]])[],
  titles: readonly string[],
  row: (item: T) => readonly string[],
): { html: string; headings: Heading[] } {
  const html = items.map(([chapter, list]) => {
    return `<h2 id="${escapeHtml(chapter)}">${escapeHtml(chapterTitle(site, chapter))}</h2>${table(titles, list.map(row))}`;
  });
  return { html: html.join(''), headings: items.map(([chapter]) => ({ level: 2, text: chapterTitle(site, chapter), id: chapter })) };
}

function addCases(site: Site): void {
  const page = 'suite/cases.html';
  const { cases } = site.suite;
  const { html, headings } = chapterTables(
    site,
    byChapter(cases.values(), ({ chapter }) => chapter),
    ['Case', 'Surface', 'Strictness', '#Clauses'],
    ({ id, title, surface, strictness, clauses }) => [
      `${link(page, casePage(id), escapeHtml(title))}<br>${code(id)}`,
      surface,
      strictness,
      String(clauses.length),
    ],
  );
  const words = `<p>${cases.size} cases. Each is one file: what is done, and what the specification allows to be seen.</p>`;
  site.add({ ...FRAME, page, title: 'Cases', headings, body: `<article><h1>Cases</h1>${words}${html}</article>` });
  for (const one of cases.values()) addCase(site, one);
}

// A script step as its author wrote it, without the quotation marks that JSON puts around names.
const stepWords = (step: unknown): string =>
  JSON.stringify(step)
    .replace(/^\{|\}$/g, '')
    .replace(/"(\w+)":/g, '$1: ');

/** What a case does: boots a payload, or plays a script. */
function deed(site: Site, one: Case, page: string): string {
  if (!one.guest) {
    const steps = (one.kvm?.script ?? []).map((step) => `<li>${code(stepWords(step))}</li>`);
    return `<h2 id="script">Script</h2><ol class="script">${steps.join('')}</ol>`;
  }
  const { payload: name, door, vcpus = 1 } = one.guest;
  const payload = site.payloads.find((each) => each.name === name);
  const parts = [
    `Boots the payload ${payload ? link(page, payload.page, code(name)) : code(name)}`,
    door ? ` through the ${door} door` : '',
    vcpus > 1 ? ` on ${vcpus} vCPUs` : '',
    payload?.imageBytes ? ` · <a href="${relativeTo(page, 'live/index.html')}#payload=${name}">run it</a>` : '',
  ];
  return `<p>${parts.join('')}.</p>`;
}

/** What a case allows to be observed. */
function allowance(site: Site, one: Case, page: string): string {
  const end = one.allowed.end ? [['end of the run', one.allowed.end.map(code).join(' or '), '']] : [];
  const observations = Object.entries(one.allowed.observations).map(([key, set]) => {
    if (typeof set === 'string') return [code(key), code(set), ''];
    const { clause, note, ...rest } = set;
    const owner = clause && site.suite.clauses.has(clause) ? link(page, clausePage(clause), code(clause)) : '';
    return [code(key), `${code(JSON.stringify(rest))}${note ? `<br>${escapeHtml(note)}` : ''}`, owner];
  });
  return table(['Observation', 'Allowed', 'Clause'], [...end, ...observations]);
}

function addCase(site: Site, one: Case): void {
  const page = casePage(one.id);
  const clauses = one.clauses.map((id) => {
    const clause = site.suite.clauses.get(id);
    return `<li>${clause ? `${link(page, clausePage(id), code(id))} – ${escapeHtml(clause.summary)}` : code(id)}</li>`;
  });
  const facts = [code(one.id), one.strictness, `surface ${one.surface}`];
  if (one.needs.length > 0) facts.push(`needs ${one.needs.map(code).join(', ')}`);
  if (one.driver) facts.push(`relied on by ${escapeHtml(one.driver)}`);
  if (!one.legalDriver) facts.push('the guest side breaks the rules on purpose');
  site.add({
    ...FRAME,
    page,
    title: one.title,
    description: one.title,
    body: `<article><h1>${escapeHtml(one.title)}</h1>
<p class="file">${facts.join(' · ')}</p>${one.note ? `<p>${escapeHtml(one.note)}</p>` : ''}
<h2 id="clauses">Clauses it shows</h2><ul>${clauses.join('')}</ul>${deed(site, one, page)}
<h2 id="allowed">What may be observed</h2>${allowance(site, one, page)}
<h2 id="results">Results</h2>${site.suite.columns.map((column) => resultOf(column, one.id)).join('')}</article>`,
    headings: [
      ...(one.kvm ? [{ level: 2, text: 'Script', id: 'script' }] : []),
      { level: 2, text: 'What may be observed', id: 'allowed' },
      { level: 2, text: 'Results', id: 'results' },
    ],
  });
  const text = `${one.id} ${one.note ?? ''} ${one.clauses.join(' ')}`;
  site.search.push({ title: one.title, where: `Case · ${one.id}`, href: page, text, kind: 'case' });
}

function resultOf(column: Column, id: string): string {
  const result = column.byCase.get(id);
  const title = `<h3 id="${escapeHtml(column.target)}">${escapeHtml(column.name)}</h3>`;
  if (!result) {
    if (column.results === null) return `${title}<p>Not run.</p>`;
    return `${title}<p>${column.unavailable === null ? 'Not among the cases of this run.' : `Not available: ${escapeHtml(column.unavailable)}`}</p>`;
  }
  const { word, className } = verdictOf(result);
  const counts = [
    result.end && `ended by ${result.end}`,
    result.instructions && `${BigInt(result.instructions)} guest instructions`,
    result.exits && `${BigInt(result.exits)} exits`,
    result.traceHash && `trace ${result.traceHash.slice(0, 16)}`,
  ].filter((part) => part !== undefined && part !== '');
  const parts = [
    title,
    `<p><span class="verdict ${className}">${[`${word}</span>`, ...counts.map((part) => escapeHtml(part as string))].join(' · ')}</p>`,
  ];
  if (result.reason) parts.push(`<p>${escapeHtml(result.reason)}</p>`);
  if (result.failures.length > 0) parts.push(`<ul>${result.failures.map(({ text }) => `<li>${escapeHtml(text)}</li>`).join('')}</ul>`);
  if (result.observed.length > 0) {
    const seen = table(
      ['Observation', 'Value'],
      result.observed.map(([key, value]) => [code(key), code(value)]),
    );
    parts.push(`<details><summary>What was observed</summary>${seen}</details>`);
  }
  parts.push(`<p class="file">Replay: ${code(result.replay)}</p>`);
  return parts.join('');
}

function addClauses(site: Site): void {
  const page = 'suite/clauses.html';
  const { html, headings } = chapterTables(
    site,
    byChapter(site.suite.clauses.values(), ({ list }) => list),
    ['Clause', 'Strength', 'Summary', '#Code', '#Cases'],
    ({ id, strength, summary, code: marks, cases }) => [
      link(page, clausePage(id), code(id)),
      strength,
      escapeHtml(summary),
      String(marks.length),
      String(cases.length),
    ],
  );
  const words = `<p>${site.suite.clauses.size} normative statements, in our own words, each with its source; where the code obeys it, and which case would
notice if it did not.</p>`;
  site.add({ ...FRAME, page, title: 'Clauses', headings, body: `<article><h1>Clauses</h1>${words}${html}</article>` });
  for (const clause of site.suite.clauses.values()) addClause(site, clause);
}

function addClause(site: Site, clause: ClauseSeen): void {
  const page = clausePage(clause.id);
  const places = clause.code.map(({ file, line }) => {
    const home = site.pageOf(file);
    const name = code(`${file}:${line}`);
    return `<li>${home ? link(page, `${home}#L${line}`, name) : name}</li>`;
  });
  const cases = clause.cases.map((id) => {
    const verdicts = site.suite.columns.map((column) => `<td>${escapeHtml(column.name)}</td>${cell(column, id, page)}`).join('');
    return `<tr><td>${link(page, casePage(id), escapeHtml(site.suite.cases.get(id)?.title ?? id))}</td>${verdicts}</tr>`;
  });
  const facts = [
    ['Strength', clause.strength],
    ['Binds', clause.binds],
    ['Source', clause.source],
    ['Observable on', clause.observable.join(', ') || 'nothing the suite can reach'],
    ...(clause.waiver ? [['Waiver', clause.waiver]] : []),
  ].map(([name, value]) => `<dt>${name}</dt><dd>${escapeHtml(value as string)}</dd>`);
  site.add({
    ...FRAME,
    page,
    title: clause.id,
    description: clause.summary,
    body: `<article><h1 class="id">${escapeHtml(clause.id)}</h1><p class="lead">${escapeHtml(clause.summary)}</p>
<dl class="facts">${facts.join('')}</dl>
<h2 id="code">In the code</h2>${places.length > 0 ? `<ul>${places.join('')}</ul>` : '<p>Nowhere yet.</p>'}
<h2 id="cases">Cases that show it</h2>
${cases.length > 0 ? `<div class="scroll"><table><tbody>${cases.join('')}</tbody></table></div>` : '<p>None.</p>'}</article>`,
    headings: [
      { level: 2, text: 'In the code', id: 'code' },
      { level: 2, text: 'Cases that show it', id: 'cases' },
    ],
  });
  const text = plainWords(`${clause.summary} ${clause.source}`);
  site.search.push({ title: clause.id, where: `Clause · ${clause.strength}`, href: page, text, kind: 'clause' });
}

/** Every page of the suite's data. */
export function addSuite(site: Site): void {
  addMatrix(site);
  addCases(site);
  addClauses(site);
}
