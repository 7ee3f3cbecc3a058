// # The live page
//
// The frame of the page that runs guests; `live/` fills it. Without JavaScript, or opened from disk, it says what it would need.

import { escapeHtml } from '../html.ts';
import { machinesOf } from '../live/machines.ts';
import type { Site } from '../site.ts';

const button = (id: string, label: string, title: string): string =>
  `<button type="button" id="${id}" title="${escapeHtml(title)}" disabled>${label}</button>`;

const BUTTONS = [
  button('run', 'Run', 'Run to the end (r)'),
  button('pause', 'Pause', 'Stop where it is (p)'),
  button('step', 'Step', 'One instruction (s)'),
  button('to-exit', 'To next exit', 'Run until the guest leaves (e)'),
  button('reset', 'Reset', 'Begin again'),
].join('');

export function addLive(site: Site): void {
  const built = site.payloads.filter(({ imageBytes }) => imageBytes !== null);
  const machines = (name: string): string => {
    const found = machinesOf(site.suite.cases.values(), name);
    return found.length > 0 ? ` data-machines="${escapeHtml(JSON.stringify(found))}"` : '';
  };
  const groups = [...Map.groupBy(built, ({ chapter }) => chapter)].map(([folder, payloads]) => {
    const room = site.rooms.find((one) => one.folder === `chapters/${folder}`);
    const options = payloads.map(
      ({ name, title, page, vcpus, needs }) =>
        `<option value="${escapeHtml(name)}"${machines(name)} data-page="../${page}" data-vcpus="${vcpus}" data-needs="${escapeHtml(needs.join(' '))}">` +
        `${escapeHtml(name)}: ${escapeHtml(title)}</option>`,
    );
    return `<optgroup label="${room ? `${room.number}. ${escapeHtml(room.title)}` : escapeHtml(folder)}">${options.join('')}</optgroup>`;
  });
  site.add({
    page: 'live/index.html',
    title: 'Live',
    description: 'Run a bare-metal guest on the book’s own machine, in this page.',
    room: 'live',
    set: 'full',
    body: `<h1 class="live-title">A guest, live</h1>
<noscript><p class="note">This page runs a machine in your browser and needs JavaScript.
<a href="../payloads/index.html">The payloads can be read without it.</a></p></noscript>
<p class="file">Also live: <a href="linux.html">a kernel of your own</a>,
<a href="walk.html">a page walk through two stages</a>, <a href="ring.html">a ring from both ends</a>,
<a href="ladder.html">a ladder of speeds</a>, <a href="translator.html">what the translator makes of it</a>.</p>
<p class="note" id="trouble" role="alert" hidden></p>
<div id="live">
<div class="controls" role="toolbar" aria-label="The machine">
<label>Payload <select id="payload">${groups.join('')}</select></label>
<label hidden>Device in <select id="transport"></select></label>
<label hidden>Ring <select id="ring"><option value="split">split</option><option value="packed">packed</option></select></label>
<span class="buttons">${BUTTONS}</span>
<label>Speed <select id="speed"><option value="0">full</option>
<option value="1000">1 000 a second</option><option value="100">100 a second</option><option value="10">10 a second</option></select></label>
<a id="source" href="../payloads/index.html">its source</a>
</div>
<p class="status" id="status" role="status">Loading the machine …</p>
<section class="timeline" aria-label="Exit timeline">
<div class="timeline-head"><h2>Who is running</h2><span class="zoom">
<label><input type="radio" name="axis" value="order" checked> by order</label>
<label><input type="radio" name="axis" value="time"> by time</label>
<button type="button" id="zoom-out" aria-label="Zoom out">−</button>
<button type="button" id="zoom-in" aria-label="Zoom in">+</button>
<button type="button" id="zoom-fit">fit</button></span></div>
<div class="lanes"><div class="lane-names" aria-hidden="true">
<span class="guest">guest</span><span class="kernel">kernel</span><span class="user">user</span><span class="device" id="lane-device" hidden>device</span></div>
<div class="track" id="track" tabindex="0" role="group" aria-label="Exits; use the arrow keys">
<div class="wide"></div><canvas></canvas></div></div>
<div class="detail" id="detail" aria-live="polite"><p>Run or step the guest; then choose a crossing to see why it left.</p></div>
</section>
<section class="route" id="route" aria-label="The route of one access">
<div class="timeline-head"><h2>The route of one access</h2><span class="zoom">
<button type="button" id="route-before" title="The access before (b)">previous access</button>
<button type="button" id="route-after" title="The access after (n)">next access</button>
<button type="button" id="route-back" aria-label="Step back">◂</button>
<button type="button" id="route-on" aria-label="Step on">▸</button></span></div>
<p class="route-about" id="route-about" role="status">An access to a device leaves the guest and comes back.
Run the guest, then take the next access, or choose an event.</p>
<div class="route-lanes" aria-hidden="true"><span class="guest">guest</span><span class="processor">processor</span>
<span class="kernel">kernel</span><span class="user">user space</span></div>
<ol class="route-stops" id="route-stops" aria-label="The stops of the route; use the arrow keys"></ol>
</section>
<section class="rings" id="rings" aria-label="The rings of this guest" hidden>
<h2>The rings of this guest</h2>
<ol id="ring-rows"></ol>
</section>
<div class="two">
<div class="stack">
<section><h2>Serial console</h2><div id="console"></div></section>
<section><h2>Code at RIP</h2><div id="code"></div></section>
</div>
<section><h2>Registers</h2><div id="registers"></div></section>
</div>
<div class="two one">
<section><div class="timeline-head"><h2>Trace</h2><label>Show <select id="only"><option value="all">everything</option>
<option value="exits">exits and entries</option><option value="interrupts">interrupts</option><option value="rings">virtio rings</option></select></label></div>
<p class="file" id="hash">The hash appears when the run has ended.</p>
<ol id="events" class="events" aria-label="The latest events"></ol></section>
</div>
</div>`,
    scripts: ['assets/live.js'],
    styles: ['assets/live.css'],
  });
}
