// # The page of the translator
//
// The frame of chapter 1's explorable about translation; `live/translator.ts` fills it.

import { SPECIMENS } from '../live/translator-model.ts';
import type { Site } from '../site.ts';

export function addTranslator(site: Site): void {
  site.add({
    page: 'live/translator.html',
    title: 'What the translator makes of it',
    description: 'Guest code, its micro-operations, and the WebAssembly function that a hot region becomes.',
    room: 'live',
    set: 'full',
    body: `<h1 class="live-title">What the translator makes of it</h1>
<p class="walk-lead">A piece of guest code runs on the chapter’s processor, in this page, until it is hot. Then the translator follows it through its page
and makes one WebAssembly function of what it finds. Press an instruction to see the micro-operations that it became first. Chapter 1,
<a href="../chapters/01-hardware-background/index.html">Hardware background</a>, has the text.</p>
<noscript><p class="note">This page translates in your browser and needs JavaScript.</p></noscript>
<p class="note" id="trouble" role="alert" hidden></p>
<div id="translator">
<div class="controls" role="group" aria-label="The code">
<label>Code <select id="specimen">${SPECIMENS.map(({ name }) => `<option>${name}</option>`).join('')}<option>your own</option></select></label>
<label id="own-bits" hidden>of <select id="bits"><option>32</option><option selected>64</option></select> bits</label>
</div>
<p id="own" hidden><label>Bytes, in hexadecimal <textarea id="bytes" rows="3" spellcheck="false">b9 10 00 00 00 01 c8 ff c9 75 fa eb f3</textarea></label></p>
<p id="sum" role="status"></p>
<div class="translator-columns">
<section aria-labelledby="guest-title"><h2 id="guest-title">The guest’s instructions</h2><div id="guest"></div></section>
<section aria-labelledby="wasm-title"><h2 id="wasm-title">WebAssembly</h2><pre id="wasm" tabindex="0" aria-label="WebAssembly"></pre></section>
</div>
</div>`,
    scripts: ['assets/translator.js'],
    styles: ['assets/live.css'],
  });
}
