// # The page of the ring
//
// The frame of chapter 6's explorable; `live/ring.ts` fills it. Its script is of the kind that also runs when the page is opened from disk.

import { MACHINES, QUESTION_NAMES, QUESTIONS } from '../live/reorder-model.ts';
import { FORMATS, SIZES } from '../live/ring-acts.ts';
import type { Site } from '../site.ts';

const option = (value: string, label = value): string => `<option value="${value}">${label}</option>`;
const choice = (id: string, label: string, options: readonly string[]): string =>
  `<label>${label} <select id="${id}">${options.map((each) => option(each)).join('')}</select></label>`;
const check = (id: string, label: string): string => `<label class="check"><input type="checkbox" id="${id}"> ${label}</label>`;
const button = (id: string, label: string, title: string): string =>
  `<button type="button" id="${id}" title="${title}" aria-label="${title}">${label}</button>`;
const act = (code: string, label: string, title: string, key = ''): string =>
  `<button type="button" data-act="${code}" title="${title}${key ? ` (${key})` : ''}"
${key ? ` data-key="${key}" aria-keyshortcuts="${key}"` : ''}>${label}</button>`;

const STEPS = [
  button('first', '|◀', 'To the beginning (Home)'),
  button('back', '◀', 'One act back (left arrow)'),
  button('forward', '▶', 'One act on (right arrow)'),
  button('last', '▶|', 'To the end (End)'),
].join('');
const DEEDS = [
  button('deed-first', '|◀', 'Before anything happens'),
  button('deed-back', '◀', 'One step back'),
  button('deed-forward', '▶', 'One step on'),
  button('deed-last', '▶|', 'To the end'),
].join('');

const DRIVER = [
  `<span class="acts"><span>add a buffer of</span>
${act('a1', '1', 'One piece, for the device to write', '1')}
${act('a2', '2', 'Two pieces: one to read, one to write', '2')}
${act('a3', '3', 'Three pieces: one to read, two to write', '3')}<span>pieces</span></span>`,
  `<span class="acts">${act('q', 'ask whether to kick', 'kickPrepare(): does the device want to be told of what was added?', 'q')}
${act('b', 'ring', 'notify(): tell the device, asked or not', 'b')}
${act('k', 'kick', 'kick(): ask, and ring if it is wanted', 'k')}</span>`,
  `<span class="acts">${act('t', 'take home', 'getBuf(): the next buffer that has come back', 't')}</span>`,
  `<span class="acts"><span>callbacks</span>${act('d', 'off', 'disableCb()', 'd')}${act('e', 'on', 'enableCb()', 'e')}
${act('l', 'on, but later', 'enableCbDelayed(): when most of what is in flight is done', 'l')}</span>`,
].join('');
const DEVICE = [
  `<span class="acts">${act('p', 'pop', 'pop(): take the next buffer', 'p')}</span>`,
  `<span class="acts"><span>give back</span><select id="held" aria-label="Which buffer"></select>
<input id="length" type="number" min="0" step="1" aria-label="Bytes written">
<span>bytes written</span><button type="button" id="push" title="push(): give it back (u)" data-key="u" aria-keyshortcuts="u">push</button></span>`,
  `<span class="acts">${act('n', 'tell, if it is wanted', 'shouldNotify(), and interrupt', 'n')}</span>`,
  `<span class="acts"><span>kicks</span>${act('m', 'off', 'disableKicks()', 'm')}${act('w', 'on', 'enableKicks()', 'w')}</span>`,
].join('');

export function addRing(site: Site): void {
  site.add({
    page: 'live/ring.html',
    title: 'A ring, from both ends',
    description: 'Be the driver and the device of a virtio ring, wrap its indices, and exchange two stores to see what breaks.',
    room: 'live',
    set: 'full',
    body: `<h1 class="live-title">A ring, from both ends</h1>
<p class="ring-lead">Here are a driver, a device, and the memory between them. You are both. Everything is done by the modules of chapter 6,
<a href="../chapters/06-virtio-rings/index.html">Virtio rings</a>, in this page; the address of the page holds what you have done.</p>
<noscript><p class="note">This page runs a ring in your browser and needs JavaScript. The chapter shows two round trips as figures.</p></noscript>
<p class="note" id="trouble" role="alert" hidden></p>
<div id="ring">
<section aria-labelledby="drive-title"><h2 id="drive-title">Drive it</h2>
<div class="controls" role="group" aria-label="The ring">
${choice('format', 'Ring', FORMATS)}
${choice('size', 'of', SIZES.map(String))}
<label>begins <select id="start"></select></label>
${check('event', 'event index')}
${check('indirect', 'indirect descriptors')}
${check('order', 'in order')}
</div>
<div class="ring-sides">
<div class="ring-end driver" role="group" aria-label="The driver"><h3>The driver</h3>${DRIVER}<dl id="driver"></dl></div>
<div class="ring-end device" role="group" aria-label="The device"><h3>The device</h3>${DEVICE}<dl id="device"></dl></div>
</div>
<p class="ring-keys">Keys: <kbd>1</kbd> <kbd>2</kbd> <kbd>3</kbd> add, <kbd>q</kbd> ask, <kbd>k</kbd> kick, <kbd>t</kbd> take home; <kbd>p</kbd> pop,
<kbd>u</kbd> push, <kbd>n</kbd> tell; the arrows step back and on.</p>
<div class="controls steps-bar" role="toolbar" aria-label="Steps; the left and right arrow keys step too">
<span class="buttons">${STEPS}</span>
<output id="count" aria-live="off"></output>
<span class="acts"><label>Trips there and back <input id="trips" type="number" min="1" max="65536" step="1" value="1"></label>
<button type="button" id="run" title="So many buffers, one after the other, through both ends">run</button>
<button type="button" id="wrap" title="As many trips as it takes until the driver’s position is at 0 again">run to the wrap</button></span>
<button type="button" id="again" title="Forget everything that was done">begin again</button>
</div>
<p class="ring-said" id="said" role="status"></p>
<p class="ring-told"><span>kicks <b id="kicks">0</b></span> <span>interrupts <b id="interrupts">0</b></span></p>
<div class="ring-tables" id="tables"></div>
<details class="ring-history"><summary>Everything that was done</summary><ol id="history"></ol></details>
</section>
<section aria-labelledby="reorder-title" id="reorder"><h2 id="reorder-title">Exchange two stores</h2>
<p>Three questions of a ring. Move an access up or down, or take the order away that it asks for. All executions are tried, on the machine of your
choice.</p>
<div class="controls" role="group" aria-label="The question">
<label>The question <select id="question">${QUESTION_NAMES.map((name) => option(name, QUESTIONS[name].question.name)).join('')}</select></label>
${choice('machine', 'on a machine that is', MACHINES)}
<button type="button" id="mend">as it must be</button>
</div>
<p class="ring-asks" id="asks"></p>
<div class="reorder-main">
<div class="reorder-sides" id="program"></div>
<div class="reorder-verdict"><p class="ring-verdict" id="verdict" role="status"></p><p id="machines" class="machines"></p></div>
</div>
<div id="failing" hidden>
<h3>One execution that fails</h3>
<div class="controls steps-bar" role="toolbar" aria-label="Steps of the execution">
<span class="buttons">${DEEDS}</span><output id="deed-count" aria-live="off"></output></div>
<p class="ring-said" id="deed" role="status"></p>
<div class="ring-tables" id="memory"></div>
<div id="consequence" hidden><h3>What it means in a ring</h3><p id="happened" class="ring-happened"></p><div class="ring-tables" id="broken"></div></div>
</div>
</section>
</div>`,
    classicScripts: ['assets/ring.js'],
    styles: ['assets/ring.css'],
  });
}
