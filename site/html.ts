// # HTML, by hand
//
// The pages are small and their shapes few, so they are template strings. What comes from a file is escaped here on its way in.

const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

export const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (character) => ENTITIES[character] as string);

/** The relative link from one page of the site to another: nothing on the site knows at which address it is served. */
export function relativeTo(page: string, target: string): string {
  const [path, hash] = target.split('#') as [string, string?];
  const from = page.split('/').slice(0, -1);
  const to = path.split('/');
  let common = 0;
  while (common < from.length && common < to.length - 1 && from[common] === to[common]) common++;
  const link = [...from.slice(common).map(() => '..'), ...to.slice(common)].join('/');
  return `${path === page && hash !== undefined ? '' : link}${hash === undefined ? '' : `#${hash}`}`;
}

/** An id for a heading: its words, joined by hyphens. */
export const slug = (text: string): string =>
  text
    .toLowerCase()
    .replace(/<[^>]*>|&\w+;/g, '')
    .replace(/[^\p{L}\p{N}]+/gu, '-')
    .replace(/^-+|-+$/g, '');
