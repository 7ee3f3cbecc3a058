// # Payload pages

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { escapeHtml, relativeTo } from '../html.ts';
import type { SideEntry } from '../page.ts';
import type { Payload } from '../payloads.ts';
import { plainWords, renderInline } from '../prose.ts';
import { casePage, type Site } from '../site.ts';
import { firstSentence, indexFile, renderFile } from './literate.ts';

const HOME = 'payloads/index.html';
const bytes = (n: number): string => (n < 10_000 ? `${n} bytes` : `${Math.round(n / 1024)} KiB`);

const casesOf = (site: Site, name: string): string[] => [...site.suite.cases.values()].filter(({ guest }) => guest?.payload === name).map(({ id }) => id);

function facts(site: Site, payload: Payload, page: string): string {
  const cases = casesOf(site, payload.name).map((id) => `<a href="${relativeTo(page, casePage(id))}">${escapeHtml(id)}</a>`);
  const image = payload.imageBytes === null ? 'no image built' : `image of ${bytes(payload.imageBytes)}`;
  const run = payload.imageBytes === null ? '' : ` · <a href="${relativeTo(page, 'live/index.html')}#payload=${payload.name}">run it in this page’s machine</a>`;
  return `<p class="file"><code>${escapeHtml(payload.source)}</code> · ${image}${run}</p>${cases.length > 0 ? `<p class="file">Judged by ${cases.join(', ')}</p>` : ''}`;
}

/** The list of payloads, one page for each, and the images for the live page. */
export async function addPayloads(site: Site): Promise<void> {
  const side: SideEntry[] = [{ page: HOME, title: 'All payloads' }, ...site.payloads.map(({ page, name }): SideEntry => ({ page, title: name, depth: 1 }))];
  const sideTitle = { page: HOME, title: 'Payloads' };
  const rows = site.payloads.map(
    (payload) =>
      `<tr><td><a href="${relativeTo(HOME, payload.page)}"><code>${escapeHtml(payload.name)}</code></a></td><td>${renderInline(payload.literate.title)}. ${escapeHtml(
        firstSentence(plainWords(payload.literate.opening)),
      )}</td><td class="number">${payload.imageBytes === null ? '–' : bytes(payload.imageBytes)}</td><td class="number">${casesOf(site, payload.name).length}</td><td>${
        payload.imageBytes === null ? '' : `<a href="${relativeTo(HOME, 'live/index.html')}#payload=${payload.name}">run</a>`
      }</td></tr>`,
  );
  site.add({
    page: HOME,
    title: 'Payloads',
    room: 'payloads',
    body: `<article><h1>Payloads</h1><p>Bare-metal programs, as small as the point allows. A payload observes and reports on its serial port; it never judges. What the values
may be is written in the case that runs it. How they are built is told in <a href="${relativeTo(HOME, 'guest-payloads/all.html')}">the payload build</a>.</p>
<div class="scroll"><table><thead><tr><th>Payload</th><th>What it does</th><th class="number">Image</th><th class="number">Cases</th><th></th></tr></thead><tbody>${rows.join('')}</tbody></table></div></article>`,
    side,
    sideTitle,
    set: 'full',
  });
  for (const [index, payload] of site.payloads.entries()) {
    const rendered = await renderFile(site, null, payload.literate, payload.text, payload.page);
    const where = 'Payload';
    indexFile(site, payload.literate, payload.page, where, rendered.headings);
    site.search.push({ title: payload.name, where, href: payload.page, text: plainWords(`${payload.literate.title} ${payload.literate.opening}`), kind: 'payload' });
    const untitled = rendered.headings.some(({ level }) => level === 1) ? '' : `<h1>${escapeHtml(payload.name)}</h1>`;
    const neighbour = (at: number): { page: string; title: string } | undefined => {
      const other = site.payloads[at];
      return other && { page: other.page, title: other.name };
    };
    const [previous, next] = [neighbour(index - 1), neighbour(index + 1)];
    site.add({
      page: payload.page,
      title: payload.name,
      description: plainWords(payload.literate.opening),
      room: 'payloads',
      body: `<article>${untitled}${facts(site, payload, payload.page)}${rendered.html}</article>`,
      side,
      sideTitle,
      headings: rendered.headings,
      set: rendered.mostlyProse ? 'below' : 'beside',
      ...(previous && { previous }),
      ...(next && { next }),
    });
    if (payload.imageBytes !== null) site.write(`images/${payload.name}.elf`, readFileSync(join(site.root, payload.image)));
  }
}
