// # The home page

import { escapeHtml, relativeTo, table } from '../html.ts';
import { plainWords } from '../prose.ts';
import type { Site } from '../site.ts';
import { roomHome } from './chapters.ts';
import { firstSentence } from './literate.ts';

/** The chapter table, with what the suite says about each chapter on the embedded machine. */
function chapterTable(site: Site): string {
  const embedded = site.suite.columns.find(({ target }) => target === 'ringbook');
  const rows = site.rooms
    .filter(({ number }) => number !== null)
    .map((room) => {
      const spine = room.modules.find(({ page }) => page === roomHome(room));
      const about = spine
        ? firstSentence(plainWords(spine.opening))
        : room.modules
            .slice(0, 5)
            .map(({ title }) => plainWords(title))
            .join(' · ');
      const cases = [...site.suite.cases.values()].filter(({ chapter }) => `chapters/${chapter}` === room.folder);
      const passed = cases.filter(({ id }) => embedded?.byCase.get(id)?.verdict === 'pass').length;
      const verdict = cases.length === 0 ? '–' : embedded?.results ? `${passed} of ${cases.length} pass` : `${cases.length}, not run`;
      const name = `<a href="${roomHome(room)}">${escapeHtml(room.title)}</a>`;
      return [String(room.number), name, escapeHtml(about), `<a href="suite/index.html">${verdict}</a>`];
    });
  return table(['#', 'Chapter', 'About', 'Cases'], rows);
}

export function addHome(site: Site): void {
  const first = site.rooms.find(({ number }) => number !== null);
  const begin = first ? relativeTo('index.html', roomHome(first)) : 'chapters/index.html';
  site.add({
    page: 'index.html',
    title: 'Ringbook',
    description: 'The QEMU/KVM virtualization stack as a book that runs.',
    room: 'home',
    set: 'full',
    body: `<article class="home"><h1>Ringbook</h1><p class="lead">The QEMU/KVM virtualization stack as a book that runs.</p>
<p>Each chapter is a TypeScript module that is read from top to bottom and executed. The same code runs bare-metal guests in Node, in your browser, and against a real
<code>/dev/kvm</code>; and each chapter’s conformance suite tells any other implementation where it deviates.</p>
<div class="readers">
<section><h2>To read it</h2><p><a href="${begin}">Begin with chapter ${first?.number ?? 1}</a>.
Prose stands beside the code it is about. A dotted number was computed from that code when the page was built; hover to see how.</p></section>
<section><h2>To judge your own</h2><p>Run <code>npm run conform -- --target "exec:./my-adapter"</code> against your VMM, device or kernel.
Every verdict names a <a href="suite/clauses.html">clause</a>, what was observed, and how to replay it. See <a href="suite/index.html">the results so
far</a>.</p></section>
<section><h2>To see it run</h2><p><a href="live/index.html">Run a guest in this page</a>: step it, watch it leave for the kernel and the VMM and come back.
The address bar holds the state, so a link replays. Or <a href="live/linux.html">boot a kernel of your own</a> to its shell.</p></section>
</div>
<h2 id="chapters">Chapters</h2>${chapterTable(site)}
<p>What serves them: <a href="payloads/index.html">the payloads</a>, <a href="suite/index.html">the suite</a>, <a href="speed/index.html">the processor’s speed</a>,
${site.apiPages ? '<a href="api/index.html">the API reference</a>, ' : ''}and <a href="site/all.html">this site</a>, written in the same form.</p>
</article>`,
  });
}

/** The page that shows search results; the script fills it. */
export function addSearchPage(site: Site): void {
  site.add({
    page: 'search.html',
    title: 'Search',
    room: 'none',
    set: 'full',
    body: `<article><h1>Search</h1><p id="found" role="status">Type in the field above.</p><ol id="results" class="results"></ol>
<noscript><p>Search needs JavaScript; the <a href="chapters/index.html">chapter list</a> does not.</p></noscript></article>`,
  });
}
