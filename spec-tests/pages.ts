// # Results to read
//
// The bodies of the pages that show results: the matrix, the clauses by implementation, and one page each for a case and for a clause. The site puts
// them into its own frame, and `--report` into a plain one, so the two cannot tell different stories. A verdict is always a link: to the case, and
// from there to what was done, what was seen, what was allowed, and the command that does it again.

import { versionMatches } from './expect.ts';
import { escapeHtml, relativeTo, table } from './html.ts';
import { type Column, casesOfClauses, STANDING_WORDS, type Standing, standingOf, toneOf, verdictWord } from './matrix.ts';
import { CONFORM } from './place.ts';
import type { AllowedSet, Case, CaseResult, Clause, KnownFailures, KnownRow } from './types.ts';

/** A clause, and where the code says that it obeys it. */
export interface ListedClause extends Clause {
  /** Name of the file it is listed in, which is its chapter's. */
  readonly list: string;
  readonly code: readonly { readonly file: string; readonly line: number }[];
}

/** What the pages are about, and where each of them is. Pages are paths relative to a common root. */
export interface Book {
  readonly cases: ReadonlyMap<string, Case>;
  readonly clauses: ReadonlyMap<string, ListedClause>;
  readonly columns: readonly Column[];
  readonly known: readonly KnownFailures[];
  readonly matrixPage: string;
  readonly clausesPage: string;
  casePage(id: string): string;
  clausePage(id: string): string;
  chapterTitle(folder: string): string;
  /** The page of a source file, where there is one. */
  sourcePage(file: string): string | undefined;
  payload(name: string): { readonly page?: string; readonly live?: string; readonly file: string; readonly listing: string } | null;
}

const link = (page: string, target: string, text: string): string => `<a href="${relativeTo(page, target)}">${text}</a>`;
const code = (text: string): string => `<code>${escapeHtml(text)}</code>`;

export const byChapter = <T>(items: Iterable<T>, key: (item: T) => string): [string, T[]][] =>
  [...Map.groupBy(items, key)].sort(([a], [b]) => (a < b ? -1 : 1));

/** A cell with a verdict that leads to the case. */
function verdictCell(book: Book, column: Column, id: string, page: string): string {
  const result = column.byCase.get(id);
  if (!result) return `<td class="verdict none">${column.results === null ? 'not run' : '–'}</td>`;
  const word = verdictWord(result);
  const why = result.known ?? result.reason ?? result.failures[0]?.text ?? '';
  const title = why ? ` title="${escapeHtml(why.slice(0, 400))}"` : '';
  return `<td class="verdict ${toneOf(word)}"${title}>${link(page, `${book.casePage(id)}#${column.target}`, word)}</td>`;
}

function heads({ columns }: Book, state: (column: Column) => string): string {
  return columns
    .map((column) => `<th class="target">${escapeHtml(column.name)}<small>${escapeHtml(column.version)}</small><small>${state(column)}</small></th>`)
    .join('');
}

const passes = ({ results, unavailable }: Column): string => {
  if (results === null) return 'not run';
  if (unavailable !== null) return 'not available';
  const asked = results.cases.length - results.summary.unsupported - results.summary['not-observable'];
  return `${results.summary.pass} of ${asked} pass`;
};

const notes = ({ columns }: Book): string =>
  columns
    .filter(({ unavailable }) => unavailable !== null)
    .map(({ name, unavailable }) => `<p class="note">${escapeHtml(name)} could not run here: ${escapeHtml(unavailable as string)}</p>`)
    .join('');

/** Every case against every implementation. */
export function matrixBody(book: Book): string {
  const { cases, columns, matrixPage: page } = book;
  const rows = byChapter(cases.values(), ({ chapter }) => chapter).map(([chapter, list]) => {
    const counts = columns.map(({ byCase }) => {
      const ran = list.flatMap(({ id }) => byCase.get(id) ?? []);
      const good = ran.filter(({ verdict, expectation }) => verdict === 'pass' && expectation === 'none').length;
      return `<td class="verdict none">${ran.length > 0 ? `${good} of ${ran.length}` : ''}</td>`;
    });
    const head = `<tr class="group"><th id="${escapeHtml(chapter)}">${escapeHtml(book.chapterTitle(chapter))}</th>${counts.join('')}</tr>`;
    const verdicts = list.map(({ id, title }) => {
      const name = `<th>${link(page, book.casePage(id), escapeHtml(title))}<br>${code(id)}</th>`;
      return `<tr>${name}${columns.map((column) => verdictCell(book, column, id, page)).join('')}</tr>`;
    });
    return `<tbody>${head}${verdicts.join('')}</tbody>`;
  });
  const ran = columns
    .filter(({ results }) => results !== null)
    .map(({ name, results }) => `${escapeHtml(name)}: ${escapeHtml(results?.host ?? '')}, ${escapeHtml(results?.startedAt.slice(0, 10) ?? '')}`);
  const matrix = `<div class="scroll"><table class="matrix"><thead><tr><th>Case</th>${heads(book, passes)}</tr></thead>${rows.join('')}</table></div>`;
  return `<article><h1>Results</h1>
<p>Every case against every implementation; ${link(page, book.clausesPage, 'clauses by implementation')} is the same seen from the specification. A blank
verdict is never a pass: a case that an implementation cannot be asked is <em>unsupported</em> or <em>not observable</em>, and an implementation
nobody ran is <em>not run</em>. A deviation
that has been traced to the specification is <em>known</em>; its page says how the specification was read. To add a column, run <code>${CONFORM} --target …</code>.</p>
${notes(book)}${cases.size > 0 ? matrix : '<p>There are no cases yet.</p>'}${ran.length > 0 ? `<p class="file">Run on ${ran.join('; ')}.</p>` : ''}</article>`;
}

// ## Clauses by implementation

const standings = (book: Book, showing: ReadonlyMap<string, readonly Case[]>, id: string) =>
  book.columns.map((column) => ({ column, ...standingOf(id, showing.get(id) ?? [], column) }));

function standingCell(book: Book, { standing, cases, column }: ReturnType<typeof standings>[number], page: string): string {
  const words = STANDING_WORDS[standing];
  const [first] = cases;
  const text = first !== undefined && column.byCase.has(first) ? link(page, `${book.casePage(first)}#${column.target}`, words) : words;
  return `<td class="verdict ${toneOf(words)}">${text}</td>`;
}

/** Every clause against every implementation, with the code and the cases that there are for it. */
export function clausesBody(book: Book): string {
  const page = book.clausesPage;
  const showing = casesOfClauses(book.cases.values());
  const coded = [...book.clauses.values()].some((clause) => clause.code.length > 0); // where the code was looked at
  const tally = new Map<string, Map<Standing, number>>(book.columns.map(({ target }) => [target, new Map()]));
  const rows = byChapter(book.clauses.values(), ({ list }) => list).map(([chapter, list]) => {
    const width = book.columns.length + (coded ? 3 : 2);
    const head = `<tr class="group"><th id="${escapeHtml(chapter)}" colspan="${width}">${escapeHtml(book.chapterTitle(chapter))}</th></tr>`;
    const lines = list.map((clause) => {
      const found = standings(book, showing, clause.id);
      for (const { column, standing } of found) {
        const counts = tally.get(column.target) as Map<Standing, number>;
        counts.set(standing, (counts.get(standing) ?? 0) + 1);
      }
      const name = `<th>${link(page, book.clausePage(clause.id), escapeHtml(clause.summary))}<br>${code(clause.id)} · ${clause.strength}</th>`;
      const number = (count: number): string => `<td class="number">${count === 0 && clause.waiver ? 'waived' : count}</td>`;
      const cells = found.map((one) => standingCell(book, one, page)).join('');
      return `<tr>${name}${coded ? number(clause.code.length) : ''}${number(showing.get(clause.id)?.length ?? 0)}${cells}</tr>`;
    });
    return `<tbody>${head}${lines.join('')}</tbody>`;
  });
  const state = ({ target, results }: Column): string => {
    const counts = tally.get(target) as Map<Standing, number>;
    const broken = (counts.get('broken') ?? 0) + (counts.get('known') ?? 0);
    return results === null ? 'not run' : `${counts.get('holds') ?? 0} hold, ${broken} deviate`;
  };
  const head = `<thead><tr><th>Clause</th>${coded ? '<th class="number">Code</th>' : ''}<th class="number">Cases</th>${heads(book, state)}</tr></thead>`;
  return `<article><h1>Clauses by implementation</h1>
<p>${book.clauses.size} normative statements, in our own words, each with its source. An implementation <em>holds</em> a clause when a case that shows it passed and none
speaks against it, and <em>deviates</em> when an observation that the clause governs was not an allowed one. ${coded ? 'Before them stand' : 'Before them stands'}
${coded ? "the number of places in this project's code that claim to obey it, and " : ''}the number of cases that would notice a breach.</p>
<div class="scroll"><table class="matrix">${head}${rows.join('')}</table></div></article>`;
}

// ## One case

// A step as its author wrote it, without the quotation marks that JSON puts around names.
const stepWords = (step: unknown): string =>
  JSON.stringify(step)
    .replace(/^\{|\}$/g, '')
    .replace(/"(\w+)":/g, '$1: ');

/** The devices of a case's machine. */
function deviceList({ devices = [] }: Case): string {
  if (devices.length === 0) return '';
  return `<p>Its machine has: ${devices.map((device) => code(stepWords(device))).join(', ')}.</p>`;
}

/** What a case does: boots a payload, or plays a script. */
function deed(book: Book, one: Case, page: string): string {
  if (!one.guest) {
    const steps = (one.kvm?.script ?? one.device?.script ?? []).map((step) => `<li>${code(stepWords(step))}</li>`);
    return `<h2 id="script">Script</h2>${deviceList(one)}<ol class="script">${steps.join('')}</ol>`;
  }
  const { payload: name, door, vcpus = 1 } = one.guest;
  const payload = book.payload(name);
  const parts = [
    `Boots the payload ${payload?.page ? link(page, payload.page, code(name)) : code(name)}`,
    door ? ` through the ${door} door` : '',
    vcpus > 1 ? ` on ${vcpus} vCPUs` : '',
    payload?.live ? ` · <a href="${relativeTo(page, payload.live)}#payload=${name}">run it</a>` : '',
  ];
  const listing = payload
    ? `<details class="listing"><summary>The payload: ${escapeHtml(payload.file)}</summary><pre><code>${escapeHtml(payload.listing)}</code></pre></details>`
    : '';
  return `<p>${parts.join('')}.</p>${deviceList(one)}${listing}`;
}

const setWords = (set: AllowedSet): string => {
  if (typeof set === 'string') return set;
  const { clause: _, note: __, ...rest } = set;
  return stepWords(rest);
};

/** What a case allows to be observed. */
function allowance(book: Book, one: Case, page: string): string {
  const end = one.allowed.end ? [['end of the run', one.allowed.end.map(code).join(' or '), '']] : [];
  const observations = Object.entries(one.allowed.observations).map(([key, set]) => {
    const clause = typeof set === 'object' ? set.clause : undefined;
    const note = typeof set === 'object' ? set.note : undefined;
    const owner = clause && book.clauses.has(clause) ? link(page, book.clausePage(clause), code(clause)) : '';
    return [code(key), `${code(setWords(set))}${note ? `<br>${escapeHtml(note)}` : ''}`, owner];
  });
  return table(['Observation', 'Allowed', 'Clause'], [...end, ...observations]);
}

/** The row that explains a known failure. */
function rowFor(book: Book, column: Column, id: string): KnownRow | undefined {
  const name = column.results?.implementation.name;
  return book.known
    .find(({ implementation }) => implementation === name)
    ?.rows.find((row) => row.case === id && versionMatches(row.version, column.version));
}

const SIDES: Readonly<Record<KnownRow['right'], string>> = {
  specification: 'The specification decides it, and the implementation deviates.',
  implementation: 'The implementation is right; the case asks for more than the specification does.',
  unspecified: 'The specification leaves it open.',
};

function resultOf(book: Book, column: Column, one: Case, page: string): string {
  const result: CaseResult | undefined = column.byCase.get(one.id);
  const title = `<h3 id="${escapeHtml(column.target)}">${escapeHtml(column.name)} <small>${escapeHtml(column.version)}</small></h3>`;
  if (!result) {
    if (column.results === null) return `${title}<p>Not run.</p>`;
    return `${title}<p>${column.unavailable === null ? 'Not among the cases of this run.' : `Not available: ${escapeHtml(column.unavailable)}`}</p>`;
  }
  const word = verdictWord(result);
  const counts = [
    result.end && `ended by ${result.end}`,
    result.instructions && `${BigInt(result.instructions)} guest instructions`,
    result.exits && `${BigInt(result.exits)} exits`,
    result.traceHash && `trace ${result.traceHash.slice(0, 16)}`,
  ].filter((part) => part !== undefined && part !== '');
  const parts = [
    title,
    `<p><span class="verdict ${toneOf(word)}">${[`${word}</span>`, ...counts.map((part) => escapeHtml(part as string))].join(' · ')}</p>`,
  ];
  const row = result.expectation === 'none' ? undefined : rowFor(book, column, one.id);
  if (row) {
    parts.push(
      `<blockquote class="reading"><p>${escapeHtml(row.reason)}</p><p class="file">${SIDES[row.right]} ${escapeHtml(row.source)}.</p></blockquote>`,
    );
  }
  if (result.failures.length > 0) {
    const seen = result.failures.map(({ key, observed, allowed, clause }) => [
      code(key),
      code(observed),
      escapeHtml(allowed),
      book.clauses.has(clause) ? link(page, book.clausePage(clause), code(clause)) : code(clause),
    ]);
    parts.push(table(['Deviation', 'Seen', 'Allowed', 'Clause'], seen));
  }
  // The reason repeats the deviations; what comes after them is what the adapter had to say.
  const said = result.failures.length > 0 ? (/\[([^\]]*)\]$/.exec(result.reason ?? '')?.[1] ?? '') : (result.reason ?? '');
  if (said !== '') parts.push(`<p>${escapeHtml(said)}</p>`);
  if (result.observed.length > 0) {
    const rows = result.observed.map(([key, value]) => [code(key), code(value)]);
    parts.push(`<details><summary>What was observed</summary>${table(['Observation', 'Value'], rows)}</details>`);
  }
  if (result.console) parts.push(`<details><summary>Console</summary><pre><code>${escapeHtml(result.console)}</code></pre></details>`);
  if (result.trace) {
    const { events, tail } = result.trace;
    const words = tail.length < events ? `The trace: the last ${tail.length} of ${events} events` : `The trace: ${events} events`;
    parts.push(`<details><summary>${words}</summary><pre><code>${escapeHtml(tail.join('\n'))}</code></pre></details>`);
  }
  parts.push(`<p class="file">Again: ${code(result.replay)}</p>`);
  return parts.join('');
}

/** The headings of a case's page. */
export const caseHeadings = (one: Case): { level: number; text: string; id: string }[] => [
  ...(one.guest ? [] : [{ level: 2, text: 'Script', id: 'script' }]),
  { level: 2, text: 'What may be observed', id: 'allowed' },
  { level: 2, text: 'Results', id: 'results' },
];

/** What a case does, what it allows, and what came of it everywhere. */
export function caseBody(book: Book, one: Case): string {
  const page = book.casePage(one.id);
  const clauses = one.clauses.map((id) => {
    const clause = book.clauses.get(id);
    return `<li>${clause ? `${link(page, book.clausePage(id), code(id))} – ${escapeHtml(clause.summary)} <small>${escapeHtml(clause.source)}</small>` : code(id)}</li>`;
  });
  const facts = [code(one.id), one.strictness, `surface ${one.surface}`];
  if (one.needs.length > 0) facts.push(`needs ${one.needs.map(code).join(', ')}`);
  if (one.driver) facts.push(`relied on by ${escapeHtml(one.driver)}`);
  if (!one.legalDriver) facts.push('the guest side breaks the rules on purpose');
  return `<article><h1>${escapeHtml(one.title)}</h1>
<p class="file">${facts.join(' · ')}</p>${one.note ? `<p>${escapeHtml(one.note)}</p>` : ''}
<h2 id="clauses">Clauses it shows</h2><ul>${clauses.join('')}</ul>${deed(book, one, page)}
<h2 id="allowed">What may be observed</h2>${allowance(book, one, page)}
<h2 id="results">Results</h2>${book.columns.map((column) => resultOf(book, column, one, page)).join('')}</article>`;
}

// ## One clause

/** What a clause says, where it is obeyed, and what shows it. */
export function clauseBody(book: Book, clause: ListedClause): string {
  const page = book.clausePage(clause.id);
  const places = clause.code.map(({ file, line }) => {
    const home = book.sourcePage(file);
    const name = code(`${file}:${line}`);
    return `<li>${home ? link(page, `${home}#L${line}`, name) : name}</li>`;
  });
  const showing = [...book.cases.values()].filter(({ clauses }) => clauses.includes(clause.id));
  const rows = showing.map(({ id, title }) => {
    const verdicts = book.columns.map((column) => verdictCell(book, column, id, page)).join('');
    return `<tr><th>${link(page, book.casePage(id), escapeHtml(title))}<br>${code(id)}</th>${verdicts}</tr>`;
  });
  const facts = [
    ['Strength', clause.strength],
    ['Binds', clause.binds],
    ['Source', clause.source],
    ['Observable on', clause.observable.join(', ') || 'nothing the suite can reach'],
    ...(clause.waiver ? [['Waiver', clause.waiver]] : []),
  ].map(([name, value]) => `<dt>${name}</dt><dd>${escapeHtml(value as string)}</dd>`);
  const head = `<thead><tr><th>Case</th>${heads(book, () => '')}</tr></thead>`;
  return `<article><h1 class="id">${escapeHtml(clause.id)}</h1><p class="lead">${escapeHtml(clause.summary)}</p>
<dl class="facts">${facts.join('')}</dl>
<h2 id="code">In the code</h2>${places.length > 0 ? `<ul>${places.join('')}</ul>` : '<p>Nowhere yet.</p>'}
<h2 id="cases">Cases that show it</h2>
${rows.length > 0 ? `<div class="scroll"><table class="matrix">${head}<tbody>${rows.join('')}</tbody></table></div>` : '<p>None.</p>'}</article>`;
}
