// # Chapter pages
//
// One page per module, in reading order, through the whole book: the last module of a chapter leads to the first of the next. A chapter's
// first page is its `index.ts`, with the list of its modules below; where the spine is not written, the list stands alone.

import { escapeHtml, relativeTo, table } from '../html.ts';
import type { LinkTo, Page, SideEntry } from '../page.ts';
import { plainWords, renderInline } from '../prose.ts';
import type { Site } from '../site.ts';
import type { Module, Room } from '../tree.ts';
import { firstSentence, indexFile, renderFile } from './literate.ts';

const homeOf = (room: Room): string => (room.number === null ? `${room.folder}/all.html` : `${room.folder}/index.html`);
const isSpine = (room: Room, module: Module): boolean => room.number !== null && module.page === homeOf(room);
const titleOf = (room: Room): string => (room.number === null ? room.title : `${room.number}. ${room.title}`);
const moduleTitle = (module: Module): string => plainWords(module.title).replace(/ -- /g, ' – ');

/** The list at the left: the chapter's pages, grouped by folder. */
function sideOf(room: Room): SideEntry[] {
  let folder = '';
  const entries = room.modules
    .filter((module) => !isSpine(room, module))
    .map((module): SideEntry => {
      const inside = module.file
        .slice(room.folder.length + 1)
        .split('/')
        .slice(0, -1)
        .join('/');
      const group = inside !== folder ? inside || 'the chapter' : undefined;
      folder = inside;
      return { page: module.page, title: moduleTitle(module), ...(group && { group: `${group}${inside ? '/' : ''}` }), depth: inside ? 1 : 0 };
    });
  const tests = room.tests.map(
    (module, index): SideEntry => ({
      page: module.page,
      title: module.file.split('/').at(-1) as string,
      ...(index === 0 && { group: 'tests' }),
      depth: 1,
    }),
  );
  return [{ page: homeOf(room), title: room.number === null ? 'Overview' : 'Beginning' }, ...entries, ...tests];
}

const lineCount = (text: string): number => text.split('\n').length - 1;

/** The table of a room's modules. */
function moduleTable(room: Room, page: string, modules: readonly Module[]): string {
  const rows = modules.map((module) => {
    const name = `<code>${escapeHtml(module.file.slice(room.folder.length + 1))}</code>`;
    const title = `<a href="${relativeTo(page, module.page)}">${renderInline(module.title)}</a>`;
    return [`${title}<br>${name}`, escapeHtml(firstSentence(plainWords(module.opening))), String(lineCount(module.text))];
  });
  return table(['Module', 'What it is about', '#Lines'], rows, 'modules stacks');
}

/** Makes every page of a room. */
export async function addRoom(site: Site, room: Room, previousRoom: Room | undefined, nextRoom: Room | undefined): Promise<void> {
  const home = homeOf(room);
  const side = sideOf(room);
  const sideTitle = { page: home, title: titleOf(room) };
  const spine = room.modules.find((module) => isSpine(room, module));
  const rest = room.modules.filter((module) => module !== spine);
  const lit: Page['room'] =
    room.number === null ? (room.folder === 'guest-payloads' ? 'payloads' : room.folder === 'spec-tests' ? 'suite' : 'none') : 'chapters';
  const sequence: LinkTo[] = [{ page: home, title: titleOf(room) }, ...rest.map((module) => ({ page: module.page, title: moduleTitle(module) }))];
  const last = previousRoom && [...previousRoom.modules].reverse().find((module) => !isSpine(previousRoom, module));
  const before: LinkTo | undefined = last ? { page: last.page, title: moduleTitle(last) } : undefined;
  const after: LinkTo | undefined = nextRoom ? { page: homeOf(nextRoom), title: titleOf(nextRoom) } : undefined;
  const neighbours = (index: number): Pick<Page, 'previous' | 'next'> => {
    const [previous, next] = [sequence[index - 1] ?? before, sequence[index + 1] ?? after];
    return { ...(previous && { previous }), ...(next && { next }) };
  };

  const list = `<section class="list"><h2 id="modules">The modules, in reading order</h2>${moduleTable(room, home, rest)}</section>${
    room.tests.length > 0 ? `<section class="list"><h2 id="tests">Tests</h2>${moduleTable(room, home, room.tests)}</section>` : ''
  }`;
  const listHeadings = [
    { level: 2, text: 'The modules, in reading order', id: 'modules' },
    ...(room.tests.length > 0 ? [{ level: 2, text: 'Tests', id: 'tests' }] : []),
  ];
  if (spine) {
    const rendered = await renderFile(site, room, spine, spine.text, home);
    indexFile(site, spine, home, titleOf(room), rendered.headings);
    site.add({
      page: home,
      title: titleOf(room),
      description: plainWords(spine.opening),
      room: lit,
      body: `<article>${fileLine(site, room, spine, home)}${rendered.html}</article>${list}`,
      sideTitle,
      side,
      headings: [...rendered.headings, ...listHeadings],
      set: 'below',
      ...neighbours(0),
    });
  } else {
    const body = `<article><h1>${escapeHtml(titleOf(room))}</h1></article>${list}`;
    site.add({ page: home, title: titleOf(room), room: lit, body, sideTitle, side, headings: listHeadings, set: 'full', ...neighbours(0) });
  }
  for (const [index, module] of rest.entries()) await addModule(site, room, module, { side, sideTitle, room: lit, ...neighbours(index + 1) });
  for (const module of room.tests) await addModule(site, room, module, { side, sideTitle, room: lit });
}

/** The line under a page's title: the file, its length, its test, the clauses it obeys. */
function fileLine(site: Site, room: Room, module: Module, page: string): string {
  const parts = [`<code>${escapeHtml(module.file)}</code>`, `${lineCount(module.text)} lines`];
  const stem = module.file.replace(/(\.test)?\.ts$/, '');
  const beside = /\.test\.ts$/.test(module.file)
    ? [...room.modules].find(({ file }) => file === `${stem}.ts`)
    : room.tests.find(({ file }) => file === `${stem}.test.ts`);
  if (beside) parts.push(`<a href="${relativeTo(page, beside.page)}">${/\.test\.ts$/.test(module.file) ? 'the module it tests' : 'its test'}</a>`);
  if (site.apiPages && room.number !== null && !/\.test\.ts$/.test(module.file)) {
    const name = module.file
      .replace(/^chapters\/|\.(ts|mjs)$/g, '')
      .replace(/\/index$/, '')
      .replaceAll('/', '_');
    parts.push(`<a href="${relativeTo(page, `api/modules/${name}.html`)}">API</a>`);
  }
  const obeyed = [...new Set(module.clauses.map(({ id }) => id))].filter((id) => site.suite.clauses.has(id)).length;
  if (obeyed > 0) parts.push(`${obeyed} ${obeyed === 1 ? 'clause' : 'clauses'}`);
  return `<p class="file">${parts.join(' · ')}</p>`;
}

async function addModule(
  site: Site,
  room: Room,
  module: Module,
  frame: Pick<Page, 'side' | 'sideTitle' | 'room' | 'previous' | 'next'>,
): Promise<void> {
  const rendered = await renderFile(site, room, module, module.text, module.page);
  const test = /\.test\.ts$/.test(module.file);
  if (!test) indexFile(site, module, module.page, titleOf(room), rendered.headings);
  const untitled = rendered.headings.some(({ level }) => level === 1) ? '' : `<h1>${escapeHtml(moduleTitle(module))}</h1>`;
  site.add({
    page: module.page,
    title: moduleTitle(module),
    description: plainWords(module.opening),
    body: `<article>${untitled}${fileLine(site, room, module, module.page)}${rendered.html}</article>`,
    headings: rendered.headings,
    set: rendered.mostlyProse ? 'below' : 'beside',
    ...frame,
  });
}

/** The list of all chapters and rooms. */
export function addChapterList(site: Site): void {
  const page = 'chapters/index.html';
  const chapters = site.rooms.filter(({ number }) => number !== null);
  const others = site.rooms.filter(({ number, modules }) => number === null && modules.length > 0);
  const lines = (room: Room): number => room.modules.reduce((sum, { text }) => sum + lineCount(text), 0);
  const row = (room: Room): string[] => {
    const spine = room.modules.find((module) => isSpine(room, module));
    const about = spine ? firstSentence(plainWords(spine.opening)) : room.modules.slice(0, 6).map(moduleTitle).join(' · ');
    const name = `<a href="${relativeTo(page, homeOf(room))}">${escapeHtml(titleOf(room))}</a>`;
    return [name, escapeHtml(about), String(room.modules.length), String(lines(room))];
  };
  const list = (rooms: readonly Room[], what: string): string => table([what, 'About', '#Modules', '#Lines'], rooms.map(row), 'stacks');
  const body = `<article><h1>Chapters</h1>
<p>Reading order is dependency order: a chapter imports only from chapters before it, so every prefix of this list builds and runs by itself.</p>
${list(chapters, 'Chapter')}
<p>All that the modelled processor can execute is in <a href="${relativeTo(page, 'chapters/instructions.html')}">one table of instructions</a>.</p>
<h2 id="other-rooms">The other rooms</h2>
<p>The suite, the payload build and this site are written in the same form and can be read the same way.</p>
${list(others, 'Room')}</article>`;
  site.add({ page, title: 'Chapters', room: 'chapters', body, set: 'full' });
}

export const roomHome = homeOf;
