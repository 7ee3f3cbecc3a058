// # The page of a machine of one's own
//
// The frame of the page that runs a visitor's own kernel; `live/linux.ts` fills it.

import { APPEND_LIMIT, MACHINES, MEMORY, MOST_CPUS } from '../live/linux-options.ts';
import type { Page } from '../page.ts';

const slot = (name: string, title: string, text: string): string =>
  `<div class="slot" data-slot="${name}"><h2>${title}</h2><p class="slot-what">${text}</p>
<label class="pick">Choose …<input type="file" id="file-${name}" aria-label="${title}"></label>
<button type="button" class="drop-it" hidden>Remove</button></div>`;

const button = (id: string, label: string, title: string): string => `<button type="button" id="${id}" title="${title}" disabled>${label}</button>`;

export function addLinux(site: { add(page: Page): void }): void {
  site.add({
    page: 'live/linux.html',
    title: 'A kernel of your own',
    description: 'Drop a Linux kernel and an initramfs, and get a shell, in this page.',
    room: 'live',
    set: 'full',
    body: `<h1 class="live-title">A kernel of your own</h1>
<p class="linux-lead">The machine of this book, whole, in this page. Drop a Linux kernel and an initramfs anywhere on it, or a machine that was saved. The files stay in
your browser; nothing is sent anywhere. Chapter 15, <a href="../chapters/15-whole-machine/index.html">The whole machine</a>, has the text.</p>
<noscript><p class="note">This page runs a machine in your browser and needs JavaScript.</p></noscript>
<p class="note" id="trouble" role="alert" hidden></p>
<div id="linux">
<div class="slots-of-files">
${slot('kernel', 'Kernel', 'A <code>vmlinuz</code> (bzImage) or a <code>vmlinux</code>.')}
${slot('initrd', 'Initramfs', 'A cpio archive, packed or not: the first programs.')}
${slot('state', 'Or a saved machine', 'What Save wrote, here or on the command line.')}
</div>
<details class="how"><summary>Where to get them</summary>
<p>No kernel is a part of this book. Where there is <code>apt-get</code>, this fetches Debian’s, installs nothing, and makes an initramfs of its BusyBox:</p>
<pre><code>ringbook initramfs --kernel linux-image-cloud-amd64 --vmlinuz vmlinuz --out initrd.gz</code></pre>
<p>Any other kernel for x86 PCs will do that has a driver for the serial port built in.</p></details>
<div class="controls" role="group" aria-label="The machine">
<label>Machine <select id="machine">${MACHINES.map((name) => `<option>${name}</option>`).join('')}</select></label>
<label>Memory <span><input type="number" id="memory" min="${MEMORY.least}" max="${MEMORY.most}" step="1"> MiB</span></label>
<label>Processors <select id="cpus">${Array.from({ length: MOST_CPUS }, (_, n) => `<option>${n + 1}</option>`).join('')}</select></label>
<label>Second stage <select id="paging"><option value="ept">EPT</option><option value="shadow">shadow paging</option></select></label>
<label title="An e1000, and a network that gives it an address and answers a ping; it leads nowhere"><input type="checkbox" id="network"> Network card</label>
<label class="wide">Command line <input type="text" id="append" maxlength="${APPEND_LIMIT}" spellcheck="false" autocomplete="off"></label>
</div>
<div class="controls" role="toolbar" aria-label="The run">
<span class="buttons">${[
      button('start', 'Start', 'Switch the machine on'),
      button('pause', 'Pause', 'Stand still, and go on'),
      button('stop', 'Stop', 'Switch it off at once'),
      button('save', 'Save', 'Write the machine into a file; it goes on'),
      '<button type="button" id="link" title="The options are in the link, the files are not">Copy link</button>',
    ].join('')}</span>
</div>
<p class="status" id="status" role="status">Choose a kernel, or a saved machine.</p>
<div class="linux-columns">
<section class="terminal"><h2>Serial console</h2><div id="console"></div>
<p class="file" id="typed" role="status"></p></section>
<div class="stack">
<section><h2>Figures</h2><dl class="figures">
<div><dt>virtual time</dt><dd id="time">–</dd></div>
<div><dt>instructions a second</dt><dd id="rate">–</dd></div>
<div><dt>instructions</dt><dd id="instructions">–</dd></div>
<div><dt>memory of the machine</dt><dd id="bytes">–</dd></div>
</dl></section>
<section><h2>Exits</h2><p class="file">VM exits in each 100 ms of the guest’s time, by reason.</p>
<div class="chart"><canvas id="chart" role="img" aria-label="Exits over time"></canvas></div>
<div class="scroll"><table class="legend" id="legend"><tbody></tbody></table></div></section>
<section><h2>Device traffic</h2>
<div class="scroll"><table class="traffic" id="traffic"><thead><tr><th>device</th><th>reads</th><th>writes</th></tr></thead><tbody></tbody></table></div></section>
</div>
</div>
<details class="happened" id="happened"><summary>What just happened</summary>
<div class="timeline-head"><p class="file">The last events of the trace, which are kept only while this is open. They are those of the kernel, the VMM and the
devices. What the processor does by itself, page walks and TLB fills, is left out here: to report that slows it down.</p>
<span class="zoom"><label>Show <select id="only"><option value="all">everything</option><option value="exits">exits and entries</option>
<option value="interrupts">interrupts</option><option value="rings">virtio rings</option></select></label>
<button type="button" id="hold" aria-pressed="false">Hold</button></span></div>
<p class="file" id="seen" role="status"></p>
<ol id="events" class="words" aria-label="The latest events, newest first"></ol></details>
</div>`,
    scripts: ['assets/linux.js'],
    styles: ['assets/live.css'],
  });
}
