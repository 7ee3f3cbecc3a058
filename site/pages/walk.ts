// # The page of the nested walk
//
// The frame of chapter 4's explorable; `live/walk.ts` fills it.

import { ACCESSES, GUEST_FORMATS, NESTED_SIZES, PRIVILEGES } from '../live/walk-model.ts';
import type { Site } from '../site.ts';

const choice = (id: string, label: string, options: readonly string[]): string =>
  `<label>${label} <select id="${id}">${options.map((option) => `<option>${option}</option>`).join('')}</select></label>`;
const button = (id: string, label: string, title: string): string =>
  `<button type="button" id="${id}" title="${title}" aria-label="${title}">${label}</button>`;

const STEPS = [
  button('first', '|◀', 'To the beginning (Home)'),
  button('back', '◀', 'One reference back (left arrow)'),
  button('forward', '▶', 'One reference on (right arrow)'),
  button('last', '▶|', 'To the end (End)'),
].join('');

export function addWalk(site: Site): void {
  site.add({
    page: 'live/walk.html',
    title: 'A walk through two stages',
    description: 'Step through a nested page walk, change a bit of any entry, and see who is told.',
    room: 'live',
    set: 'full',
    body: `<h1 class="live-title">A walk, reference by reference</h1>
<p class="walk-lead">A guest uses one byte. With two stages of paging the processor must translate the address of each of the guest’s tables before it can read
it. Step through the walk; press a bit of an entry to turn it over. Chapter 4, <a href="../chapters/04-memory-virtualization/index.html">Memory
virtualization</a>, has the text.</p>
<noscript><p class="note">This page performs page walks in your browser and needs JavaScript. The chapter shows one as a figure.</p></noscript>
<p class="note" id="trouble" role="alert" hidden></p>
<div id="walk">
<div class="controls" role="group" aria-label="The access">
${choice('guest', 'Guest', GUEST_FORMATS)}
<label>its page <select id="page"></select></label>
${choice('nested', 'second stage', NESTED_SIZES)}
${choice('access', 'access', ACCESSES)}
${choice('privilege', 'as', PRIVILEGES)}
</div>
<div class="controls steps-bar" role="toolbar" aria-label="Steps; the left and right arrow keys step too">
<span class="buttons">${STEPS}</span>
<output id="count" aria-live="off"></output>
<button type="button" id="restore" disabled>Restore all bits</button>
</div>
<div class="walk-main">
<section aria-labelledby="two-title"><h2 id="two-title">Two stages</h2>
<div id="two" class="walk-grid" role="group" aria-label="References in order"></div>
<p class="walk-end" id="two-end" role="status"></p></section>
<section aria-labelledby="entry-title" class="walk-entry"><h2 id="entry-title">The entry</h2>
<div id="entry" aria-live="polite"></div></section>
</div>
<div class="walk-beside">
<section aria-labelledby="native-title"><h2 id="native-title">Without a hypervisor</h2><div id="native" class="walk-line"></div>
<p class="walk-end" id="native-end"></p></section>
<section aria-labelledby="shadow-title"><h2 id="shadow-title">On shadow tables</h2><div id="shadow" class="walk-line"></div>
<p class="walk-end" id="shadow-end"></p></section>
</div>
</div>`,
    scripts: ['assets/walk.js'],
    styles: ['assets/live.css'],
  });
}
