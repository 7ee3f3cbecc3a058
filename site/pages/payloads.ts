// # Payload pages
//
// One page per source file, with what is built from it; and the images, which the live page loads.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { escapeHtml, relativeTo, table } from '../html.ts';
import type { SideEntry } from '../page.ts';
import type { Payload, PayloadSource } from '../payloads.ts';
import { plainWords } from '../prose.ts';
import { casePage, type Site } from '../site.ts';
import { indexFile, renderFile } from './literate.ts';

const HOME = 'payloads/index.html';
const bytes = (n: number | null): string => (n === null ? 'not built' : n < 10_000 ? `${n} bytes` : `${Math.round(n / 1024)} KiB`);

const casesOf = (site: Site, name: string): string[] =>
  [...site.suite.cases.values()].filter(({ guest }) => guest?.payload === name).map(({ id }) => id);

const runLink = (page: string, { name, imageBytes }: Payload): string =>
  imageBytes === null ? '' : `<a href="${relativeTo(page, 'live/index.html')}#payload=${name}">run</a>`;

/** `linked`: in the list of all payloads, where names lead to pages and cases are counted; else on a payload's own page, where they are named. */
function buildsTable(site: Site, builds: readonly Payload[], page: string, linked: boolean): string {
  const rows = builds.map((build) => {
    const { name, title, room, end, needs, imageBytes } = build;
    const shown = `<code>${escapeHtml(name)}</code>`;
    const cases = casesOf(site, name);
    const judged = cases.map((id) => `<a href="${relativeTo(page, casePage(id))}">${escapeHtml(id)}</a>`).join('<br>') || '–';
    const cells = [
      linked ? `<a href="${relativeTo(page, build.page)}">${shown}</a>` : shown,
      escapeHtml(title),
      `${room}-bit`,
      escapeHtml(end),
      escapeHtml(needs.join(', ')) || '–',
      bytes(imageBytes),
      linked ? String(cases.length) : judged,
      runLink(page, build),
    ];
    return { id: name, cells };
  });
  return table(['Payload', 'What it shows', 'Code', 'Ends by', 'Needs', '#Image', linked ? '#Cases' : 'Cases', ''], rows, 'stacks');
}

/** The list of payloads, one page for each source, and the images. */
export async function addPayloads(site: Site): Promise<void> {
  const side: SideEntry[] = [
    { page: HOME, title: 'All payloads' },
    ...site.payloadSources.map(({ page, literate, builds }, index, all): SideEntry => {
      const runtime = builds.length === 0 && all[index - 1]?.builds.length !== 0;
      return { page, title: plainWords(literate.title), ...(runtime && { group: 'the runtime' }) };
    }),
    { page: 'guest-payloads/all.html', title: 'How they are built', group: 'the build' },
  ];
  const frame = { room: 'payloads', side, sideTitle: { page: HOME, title: 'Payloads' } } as const;
  const chapters = [...Map.groupBy(site.payloads, ({ chapter }) => chapter)].map(([folder, builds]) => {
    const room = site.rooms.find((one) => one.folder === `chapters/${folder}`);
    return `<h2 id="${escapeHtml(folder)}">${room ? `${room.number}. ${escapeHtml(room.title)}` : escapeHtml(folder)}</h2>${buildsTable(site, builds, HOME, true)}`;
  });
  site.add({
    ...frame,
    page: HOME,
    title: 'Payloads',
    body: `<article><h1>Payloads</h1>
<p>Bare-metal programs, as small as the point allows. A payload observes and reports on its serial port; it never judges. What the values may
be is written in the case that runs it.</p>${chapters.join('')}</article>`,
    set: 'full',
  });
  for (const [index, source] of site.payloadSources.entries())
    await addSource(site, source, site.payloadSources[index - 1], site.payloadSources[index + 1], frame);
  for (const { name, image, imageBytes } of site.payloads)
    if (imageBytes !== null) site.write(`images/${name}.elf`, readFileSync(join(site.root, image)));
}

async function addSource(
  site: Site,
  source: PayloadSource,
  before: PayloadSource | undefined,
  after: PayloadSource | undefined,
  frame: { readonly room: 'payloads'; readonly side: readonly SideEntry[] },
): Promise<void> {
  const { page, literate, text, file, builds } = source;
  const rendered = await renderFile(site, null, literate, text, page);
  indexFile(site, literate, page, 'Payload', rendered.headings);
  for (const { name, title } of builds) site.search.push({ title: name, where: 'Payload', href: `${page}#${name}`, text: title, kind: 'payload' });
  const untitled = rendered.headings.some(({ level }) => level === 1) ? '' : `<h1>${escapeHtml(literate.title)}</h1>`;
  const step = (other: PayloadSource | undefined): { page: string; title: string } | undefined =>
    other && { page: other.page, title: plainWords(other.literate.title) };
  const [previous, next] = [step(before), step(after)];
  site.add({
    ...frame,
    page,
    title: plainWords(literate.title),
    description: plainWords(literate.opening),
    body: `<article>${untitled}<p class="file"><code>${escapeHtml(file)}</code></p>${rendered.html}${
      builds.length > 0 ? `<section class="list"><h2 id="builds">What is built from it</h2>${buildsTable(site, builds, page, false)}</section>` : ''
    }</article>`,
    headings: builds.length > 0 ? [...rendered.headings, { level: 2, text: 'What is built from it', id: 'builds' }] : rendered.headings,
    set: rendered.mostlyProse ? 'below' : 'beside',
    ...(previous && { previous }),
    ...(next && { next }),
  });
}
