// # Suite pages
//
// The catalogue of clauses, the cases by chapter, and the matrix of verdicts. A verdict is always a link: to the case, and from there to what
// was observed and to the link that replays it.

import { escapeHtml, relativeTo } from '../html.ts';
import type { SideEntry } from '../page.ts';
import { plainWords } from '../prose.ts';
import { casePage, clausePage, type Site } from '../site.ts';
import type { ClauseSeen, Column } from '../suite.ts';
import type { Case, CaseResult } from '../../spec-tests/types.ts';

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
  const body = byChapter(cases.values(), ({ chapter }) => chapter)
    .map(
      ([chapter, list]) =>
        `<tbody><tr class="group"><th colspan="${columns.length + 1}" id="${escapeHtml(chapter)}">${escapeHtml(chapterTitle(site, chapter))}</th></tr>${list
          .map((one) => `<tr><th>${link(HOME, casePage(one.id), escapeHtml(one.title))}<br>${code(one.id)}</th>${columns.map((column) => cell(column, one.id, HOME)).join('')}</tr>`)
          .join('')}</tbody>`,
    )
    .join('');
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
    body: `<article><h1>Results</h1><p>Every case against every implementation. A blank verdict is never a pass: a case that an implementation cannot be asked is <em>unsupported</em> or <em>not
observable</em>, and an implementation nobody ran is <em>not run</em>. To add a column, run <code>npm run conform -- --target …</code> and build the site again.</p>${notes}${
      ran ? `<p class="file">Run on ${ran}.</p>` : ''
    }${cases.size > 0 ? `<div class="scroll"><table class="matrix"><thead><tr><th>Case</th>${head}</tr></thead>${body}</table></div>` : '<p>There are no cases yet.</p>'}</article>`,
  });
}

function addCases(site: Site): void {
  const page = 'suite/cases.html';
  const { cases } = site.suite;
  const lists = byChapter(cases.values(), ({ chapter }) => chapter)
    .map(
      ([chapter, list]) =>
        `<h2 id="${escapeHtml(chapter)}">${escapeHtml(chapterTitle(site, chapter))}</h2><div class="scroll"><table><thead><tr><th>Case</th><th>Surface</th><th>Strictness</th><th class="number">Clauses</th></tr></thead><tbody>${list
          .map(
            (one) =>
              `<tr><td>${link(page, casePage(one.id), escapeHtml(one.title))}<br>${code(one.id)}</td><td>${one.surface}</td><td>${one.strictness}</td><td class="number">${one.clauses.length}</td></tr>`,
          )
          .join('')}</tbody></table></div>`,
    )
    .join('');
  const headings = byChapter(cases.values(), ({ chapter }) => chapter).map(([chapter]) => ({ level: 2, text: chapterTitle(site, chapter), id: chapter }));
  site.add({ ...FRAME, page, title: 'Cases', headings, body: `<article><h1>Cases</h1><p>${cases.size} cases. Each is one file: what is done, and what the specification allows to be seen.</p>${lists}</article>` });
  for (const one of cases.values()) addCase(site, one);
}

const describeSet = (set: unknown): string => {
  if (typeof set === 'string') return code(set);
  return code(JSON.stringify(set));
};

function addCase(site: Site, one: Case): void {
  const page = casePage(one.id);
  const clauses = one.clauses
    .map((id) => {
      const clause = site.suite.clauses.get(id);
      return `<li>${clause ? link(page, clausePage(id), code(id)) : code(id)}${clause ? ` – ${escapeHtml(clause.summary)}` : ''}</li>`;
    })
    .join('');
  const payload = one.guest && site.payloads.find(({ name }) => name === one.guest?.payload);
  const what = one.guest
    ? `<p>Boots the payload ${payload ? link(page, payload.page, code(payload.name)) : code(one.guest.payload)}${one.guest.door ? ` through the ${one.guest.door} door` : ''}${
        (one.guest.vcpus ?? 1) > 1 ? ` on ${one.guest.vcpus} vCPUs` : ''
      }${payload?.imageBytes ? ` · ${link(page, 'live/index.html', 'run it').replace('index.html"', `index.html#payload=${payload.name}"`)}` : ''}.</p>`
    : `<h2 id="script">Script</h2><ol class="script">${(one.kvm?.script ?? []).map((step) => `<li>${code(JSON.stringify(step).replace(/^\{|\}$/g, '').replace(/"(\w+)":/g, '$1: '))}</li>`).join('')}</ol>`;
  const allowed = [
    ...(one.allowed.end ? [`<tr><td>end of the run</td><td>${one.allowed.end.map(code).join(' or ')}</td><td></td></tr>`] : []),
    ...Object.entries(one.allowed.observations).map(([key, set]) => {
      const { clause, note, ...rest } = typeof set === 'string' ? { clause: undefined, note: undefined } : set;
      const owner = clause && site.suite.clauses.has(clause) ? link(page, clausePage(clause), code(clause)) : '';
      return `<tr><td>${code(key)}</td><td>${describeSet(typeof set === 'string' ? set : rest)}${note ? `<br>${escapeHtml(note)}` : ''}</td><td>${owner}</td></tr>`;
    }),
  ].join('');
  const results = site.suite.columns.map((column) => resultOf(column, one.id)).join('');
  const needs = one.needs.length > 0 ? ` · needs ${one.needs.map(code).join(', ')}` : '';
  const driver = one.driver ? ` · relied on by ${escapeHtml(one.driver)}` : '';
  site.add({
    ...FRAME,
    page,
    title: one.title,
    description: one.title,
    body: `<article><h1>${escapeHtml(one.title)}</h1><p class="file">${code(one.id)} · ${one.strictness} · surface ${one.surface}${needs}${driver}${one.legalDriver ? '' : ' · the guest side breaks the rules on purpose'}</p>${
      one.note ? `<p>${escapeHtml(one.note)}</p>` : ''
    }<h2 id="clauses">Clauses it shows</h2><ul>${clauses}</ul>${what}<h2 id="allowed">What may be observed</h2><div class="scroll"><table><thead><tr><th>Observation</th><th>Allowed</th><th>Clause</th></tr></thead><tbody>${allowed}</tbody></table></div><h2 id="results">Results</h2>${results}</article>`,
    headings: [...(one.kvm ? [{ level: 2, text: 'Script', id: 'script' }] : []), { level: 2, text: 'What may be observed', id: 'allowed' }, { level: 2, text: 'Results', id: 'results' }],
  });
  site.search.push({ title: one.title, where: `Case · ${one.id}`, href: page, text: `${one.id} ${one.note ?? ''} ${one.clauses.join(' ')}`, kind: 'case' });
}

function resultOf(column: Column, id: string): string {
  const result = column.byCase.get(id);
  const title = `<h3 id="${escapeHtml(column.target)}">${escapeHtml(column.name)}</h3>`;
  if (!result) return `${title}<p>${column.results === null ? 'Not run.' : column.unavailable !== null ? `Not available: ${escapeHtml(column.unavailable)}` : 'Not among the cases of this run.'}</p>`;
  const { word, className } = verdictOf(result);
  const counts = [
    result.end && `ended by ${result.end}`,
    result.instructions && `${BigInt(result.instructions)} guest instructions`,
    result.exits && `${BigInt(result.exits)} exits`,
    result.traceHash && `trace ${result.traceHash.slice(0, 16)}`,
  ].filter(Boolean);
  const failures = result.failures.map(({ text }) => `<li>${escapeHtml(text)}</li>`).join('');
  const observed = result.observed.map(([key, value]) => `<tr><td>${code(key)}</td><td>${code(value)}</td></tr>`).join('');
  return `${title}<p><span class="verdict ${className}">${word}</span>${counts.length > 0 ? ` · ${escapeHtml(counts.join(' · '))}` : ''}</p>${
    result.reason ? `<p>${escapeHtml(result.reason)}</p>` : ''
  }${failures ? `<ul>${failures}</ul>` : ''}${
    observed ? `<details><summary>What was observed</summary><div class="scroll"><table><tbody>${observed}</tbody></table></div></details>` : ''
  }<p class="file">Replay: ${code(result.replay)}</p>`;
}

function addClauses(site: Site): void {
  const page = 'suite/clauses.html';
  const lists = byChapter(site.suite.clauses.values(), ({ list }) => list);
  const body = lists
    .map(
      ([list, clauses]) =>
        `<h2 id="${escapeHtml(list)}">${escapeHtml(chapterTitle(site, list))}</h2><div class="scroll"><table><thead><tr><th>Clause</th><th>Strength</th><th>Summary</th><th class="number">Code</th><th class="number">Cases</th></tr></thead><tbody>${clauses
          .map(
            ({ id, strength, summary, code: marks, cases }) =>
              `<tr><td>${link(page, clausePage(id), code(id))}</td><td>${strength}</td><td>${escapeHtml(summary)}</td><td class="number">${marks.length}</td><td class="number">${cases.length}</td></tr>`,
          )
          .join('')}</tbody></table></div>`,
    )
    .join('');
  const headings = lists.map(([list]) => ({ level: 2, text: chapterTitle(site, list), id: list }));
  site.add({ ...FRAME, page, title: 'Clauses', headings, body: `<article><h1>Clauses</h1><p>${site.suite.clauses.size} normative statements, in our own words, each with its source; where the code obeys it, and which case would notice if it did not.</p>${body}</article>` });
  for (const clause of site.suite.clauses.values()) addClause(site, clause);
}

function addClause(site: Site, clause: ClauseSeen): void {
  const page = clausePage(clause.id);
  const places = clause.code
    .map(({ file, line }) => {
      const home = site.pageOf(file);
      const name = `${file}:${line}`;
      return `<li>${home ? link(page, `${home}#L${line}`, code(name)) : code(name)}</li>`;
    })
    .join('');
  const cases = clause.cases
    .map((id) => {
      const verdicts = site.suite.columns.map((column) => `<td>${escapeHtml(column.name)}</td>${cell(column, id, page)}`).join('');
      return `<tr><td>${link(page, casePage(id), escapeHtml(site.suite.cases.get(id)?.title ?? id))}</td>${verdicts}</tr>`;
    })
    .join('');
  site.add({
    ...FRAME,
    page,
    title: clause.id,
    description: clause.summary,
    body: `<article><h1 class="id">${escapeHtml(clause.id)}</h1><p class="lead">${escapeHtml(clause.summary)}</p>
<dl class="facts"><dt>Strength</dt><dd>${clause.strength}</dd><dt>Binds</dt><dd>${escapeHtml(clause.binds)}</dd><dt>Source</dt><dd>${escapeHtml(clause.source)}</dd><dt>Observable on</dt><dd>${clause.observable.map(escapeHtml).join(', ') || 'nothing the suite can reach'}</dd>${
      clause.waiver ? `<dt>Waiver</dt><dd>${escapeHtml(clause.waiver)}</dd>` : ''
    }</dl><h2 id="code">In the code</h2>${places ? `<ul>${places}</ul>` : '<p>Nowhere yet.</p>'}<h2 id="cases">Cases that show it</h2>${
      cases ? `<div class="scroll"><table><tbody>${cases}</tbody></table></div>` : '<p>None.</p>'
    }</article>`,
    headings: [
      { level: 2, text: 'In the code', id: 'code' },
      { level: 2, text: 'Cases that show it', id: 'cases' },
    ],
  });
  site.search.push({ title: clause.id, where: `Clause · ${clause.strength}`, href: page, text: plainWords(`${clause.summary} ${clause.source}`), kind: 'clause' });
}

/** Every page of the suite's data. */
export function addSuite(site: Site): void {
  addMatrix(site);
  addCases(site);
  addClauses(site);
}
