// # The page of the ladder
//
// The frame of chapter 1's explorable about speed; `live/ladder.ts` fills it.

import { INNER } from '../../chapters/01-hardware-background/ladder/program.ts';
import { RUNGS } from '../../chapters/01-hardware-background/ladder/rungs.ts';
import type { Site } from '../site.ts';

const rows = RUNGS.map(
  ({ name }) =>
    `<tr><th scope="row">${name}</th><td class="bar-cell"><span class="bar" hidden></span></td><td class="rate">–</td><td class="ratio">–</td></tr>`,
).join('\n');

export function addLadder(site: Site): void {
  site.add({
    page: 'live/ladder.html',
    title: 'A ladder of speeds',
    description: 'The same guest code run in five ways by your browser, and measured.',
    room: 'live',
    set: 'full',
    body: `<h1 class="live-title">How fast can a program be a processor?</h1>
<p class="walk-lead">The same guest code, a loop of ${INNER} instructions, is run in five ways, by your browser, now. The first decodes every instruction each time
that it comes by; the last has made a WebAssembly function of the loop. All must leave the same value in EAX. Chapter 1,
<a href="../chapters/01-hardware-background/index.html">Hardware background</a>, has the text.</p>
<noscript><p class="note">This page measures in your browser and needs JavaScript.</p></noscript>
<p class="note" id="trouble" role="alert" hidden></p>
<div id="ladder">
<div class="controls"><button type="button" id="measure">Measure again</button> <output id="status" aria-live="polite"></output></div>
<table><thead><tr><th scope="col">way</th><th scope="col" aria-label="bar"></th>
<th scope="col">million instructions a second</th><th scope="col">times the rung below</th></tr></thead>
<tbody>${rows}</tbody></table>
<p class="file">The bars are logarithmic. Figures are medians of three; other tabs and a warm processor show.</p>
</div>`,
    scripts: ['assets/ladder.js'],
    styles: ['assets/live.css'],
  });
}
