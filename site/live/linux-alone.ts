// # One page by itself
//
// A whole site takes a minute to build, and most of that is the text. Whoever only wants to open the page of a kernel of one's own can have it alone, with
// the script, the worker and the style that the site would give it.

import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundleLive } from '../bundle.ts';
import { renderPage } from '../page.ts';
import { addLinux } from '../pages/linux.ts';

const SITE = fileURLToPath(new URL('..', import.meta.url));
export const LINUX_PAGE = 'live/linux.html';

/** Writes the page and what it loads into a folder. */
export async function buildLinuxPage(out: string): Promise<void> {
  const write = (path: string, content: string | Uint8Array): void => {
    mkdirSync(dirname(join(out, path)), { recursive: true });
    writeFileSync(join(out, path), content);
  };
  for (const [path, content] of await bundleLive(SITE, ['linux'])) write(path, content);
  addLinux({ add: (page) => write(page.page, renderPage(page, { apiPages: false })) });
  for (const name of ['book.css', 'theme.js']) copyFileSync(join(SITE, 'client', name), join(out, 'assets', name));
  write('assets/book.js', ''); // search, and the list at the left, which this page has not
}
