// # Do the links hold?
//
// Reads a built site as a browser would, without one: every link to a page or an anchor of the site must lead somewhere, and nothing that a page loads by
// itself may come from elsewhere. A link that a reader may click to leave the site is no concern of this module.

import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join, posix, relative, sep } from 'node:path';
import { unescapeHtml } from './html.ts';

const ATTRIBUTE = /<([a-z][\w-]*)\b[^>]*?\s(href|src)\s*=\s*"([^"]*)"/gi;
const ID = /\s(?:id|name)\s*=\s*"([^"]*)"/g;

/** Dead links, dead anchors and outside resources of the site in `root`, one sentence each. */
export function deadLinks(root: string): string[] {
  const files = readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join('/'));
  const known = new Set(files);
  const ids = new Map<string, Set<string>>();
  const idsOf = (page: string): Set<string> => {
    let found = ids.get(page);
    if (!found) {
      found = new Set([...readFileSync(join(root, page), 'utf8').matchAll(ID)].map(([, id]) => unescapeHtml(id as string)));
      ids.set(page, found);
    }
    return found;
  };
  const problems = new Set<string>();
  for (const page of files.filter((file) => file.endsWith('.html'))) {
    const text = readFileSync(join(root, page), 'utf8').replace(/<(script|style)\b([^>]*)>[\s\S]*?<\/\1>/gi, '<$1$2></$1>');
    for (const [, tag = '', , raw = ''] of text.matchAll(ATTRIBUTE)) {
      const link = unescapeHtml(raw);
      if (/^(?:https?:)?\/\//i.test(link)) {
        if (tag.toLowerCase() !== 'a') problems.add(`${page}: loads ${link} from outside`);
        continue;
      }
      if (/^(?:data|mailto|javascript):/i.test(link)) {
        if (/^javascript:/i.test(link)) problems.add(`${page}: a script in a link`);
        continue;
      }
      if (link.startsWith('/')) problems.add(`${page}: ${link} depends on where the site is served`);
      const [path = '', hash = ''] = link.split('#');
      const [file = ''] = path.split('?');
      let target = file === '' ? page : posix.normalize(posix.join(posix.dirname(page), decodeURIComponent(file)));
      if (target.endsWith('/')) target += 'index.html';
      if (!known.has(target)) {
        const folder = existsSync(join(root, target)) && statSync(join(root, target)).isDirectory();
        problems.add(`${page}: ${link} leads ${folder ? 'to a folder, not a page' : 'nowhere'}`);
      } else if (hash !== '' && target.endsWith('.html') && !/^[a-z]+=/.test(hash) && !idsOf(target).has(decodeURIComponent(hash))) {
        // A hash with an equals sign is what a live page shows, not a place on it.
        problems.add(`${page}: ${link}: there is no such anchor`);
      }
    }
  }
  for (const sheet of files.filter((file) => file.endsWith('.css'))) {
    const text = readFileSync(join(root, sheet), 'utf8');
    if (/url\(\s*['"]?(?:https?:)?\/\//i.test(text) || /@import/.test(text)) problems.add(`${sheet}: loads from outside`);
  }
  return [...problems];
}
