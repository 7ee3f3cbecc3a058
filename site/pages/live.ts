// # The live page

import { escapeHtml } from '../html.ts';
import type { Site } from '../site.ts';

export function addLive(site: Site): void {
  const payloads = site.payloads.filter(({ imageBytes }) => imageBytes !== null);
  const choices = payloads
    .map(({ name, literate }) => `<option value="${escapeHtml(name)}">${escapeHtml(name)} – ${escapeHtml(literate.title)}</option>`)
    .join('');
  site.add({
    page: 'live/index.html',
    title: 'Live',
    description: 'Run a bare-metal guest on the book’s own machine, in this page.',
    room: 'live',
    set: 'full',
    body: `<div id="live"><select>${choices}</select></div>`,
    scripts: ['assets/live.js'],
    styles: ['assets/live.css'],
  });
}
